//! Messages that somebody's device sent and that never came (`crypto.md` R19). A session counts its frames, and stores the keys
//! of those that it passed over; a key that is still there after a day is of a frame that did not arrive. What was in it nobody
//! knows: a message, or a receipt.

use crate::client::model::SystemLine;
use crate::client::store::StoreError;
use crate::crypto::session_set::SessionSet;
use crate::protocol::ids::DeviceAddr;

use super::db::key;
use super::warnings::Concern;
use super::{Cx, Engine};

/// Frames come by two ways, and a sender may try again for a while: until then a gap is no news, milliseconds.
const PATIENCE_MS: u64 = 24 * 3_600_000;

impl Engine {
    /// Once a day, when everything that the server has was taken in: all sessions are looked at.
    pub(super) fn look_for_gaps(&mut self, now: u64) {
        if now.saturating_sub(self.gaps_looked_ms) >= PATIENCE_MS {
            self.gaps_looked_ms = now;
            self.swept = None;
            self.timers.sweep = Some(now);
        }
    }

    /// Tells of frames that one device sent more than a day ago and that did not come; each once.
    pub(super) fn tell_gaps(&mut self, cx: &mut Cx<'_>, from: DeviceAddr, sessions: &SessionSet) -> Result<(), StoreError> {
        if !self.is_live() {
            return Ok(());
        }
        let until = cx.now.as_unix_ms().saturating_sub(PATIENCE_MS);
        let told = self.peer_device(cx, from)?.gaps_told_ms;
        let missing = sessions.missing(told, until);
        if missing == 0 {
            return Ok(());
        }
        self.update_peer(cx, from, |peer| peer.gaps_told_ms = until)?;
        let (things, did) = if missing == 1 { ("One thing", "was") } else { ("Several things", "were") };
        let count = if missing == 1 { String::new() } else { format!(" ({missing})") };
        let hint = "They may have been messages or only receipts, deleted before they came, or held back by the server.";
        if from.user_id == self.me_id() {
            let device = from.device_id;
            let text = format!("{things}{count} that your device number {device} sent did not arrive here.");
            let kind = key(&[b"gap", &device.to_be_bytes()]);
            return self.warn(cx, Concern::Person(from.user_id), &kind, &until.to_be_bytes(), text, hint);
        }
        let device = from.device_id;
        let text = format!(
            "{things}{count} that {did} sent to you from their device number {device} did not arrive within a day: messages or \
             receipts, deleted before they came, or held back by the server. Ask them if you miss something."
        );
        self.line_about(cx, from.user_id, SystemLine::Warning(text))
    }
}
