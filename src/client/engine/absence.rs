//! Devices that cannot be written to (`crypto.md` 5, 12.1): dormant, or without keys at the server. Whoever writes is told, and they
//! are looked for again with each message to somebody of whom no device can be reached.

use crate::client::store::StoreError;
use crate::protocol::ids::{DeviceAddr, UserId};

use super::db::key;
use super::warnings::Concern;
use super::{Cx, Engine};

/// Why nobody of a user can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    /// None of their devices was there for 30 days.
    pub dormant: bool,
    /// What the server gives as their keys or as their devices does not hold.
    pub refused: bool,
}

impl Engine {
    /// Says once that a listed device gets no copy (12.1), and why: `since` tells one time from another.
    pub(super) fn show_skipped(
        &mut self,
        cx: &mut Cx<'_>,
        addr: DeviceAddr,
        kind: &[u8],
        since: u64,
        why: &str,
    ) -> Result<(), StoreError> {
        let DeviceAddr { user_id, device_id } = addr;
        let name = self.name_of(user_id);
        let text = format!("Device {device_id} of {} gets no copy of what is written now: {why}.", name.raw());
        let kind = key(&[kind, &device_id.to_be_bytes()]);
        self.remark(cx, Concern::Person(user_id), &kind, &since.to_be_bytes(), text)
    }

    /// Something is written to somebody. When none of their devices could be reached, each is looked at again (`crypto.md` 5).
    pub(super) fn look_again(&mut self, cx: &mut Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        let (devices, now) = (self.devices_of(user_id), cx.now.as_unix_ms());
        if self.lists.refused.remove(&user_id) {
            self.lists.deviceless.remove(&user_id);
        }
        for addr in &devices {
            if self.sessions_with(cx, *addr)?.active(now).is_some_and(|session| self.is_fresh(*addr, session)) {
                return Ok(());
            }
        }
        for addr in devices {
            self.update_peer(cx, addr, |peer| peer.looked_at = 0)?;
        }
        self.is_back(user_id);
        Ok(())
    }

    /// Somebody may be reached again: what waits for that goes.
    pub(super) fn is_back(&mut self, user_id: UserId) {
        if self.sessions.away.remove(&user_id).is_some() {
            self.places.dirty = true;
            if let Some(channel_id) = self.places.dm_with(user_id) {
                self.outbox.let_go(channel_id);
            }
        }
    }

    /// No device of somebody can be reached: whoever writes to them is told.
    pub(super) fn note_away(&mut self, cx: &Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        let mut absence = Absence { dormant: true, refused: self.lists.refused.contains(&user_id) };
        for addr in self.devices_of(user_id) {
            let peer = self.peer_device(cx, addr)?;
            absence.dormant &= peer.stale;
            absence.refused |= peer.refused;
        }
        self.places.dirty |= self.sessions.away.insert(user_id, absence) != Some(absence);
        Ok(())
    }
}
