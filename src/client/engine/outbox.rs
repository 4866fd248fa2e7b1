//! What waits for the server (`protocol.md` 4.2, 9.8 to 9.13): saved before it is sent, resent byte for byte, in the order
//! of writing within a channel, until the server has it or refuses it for good; then the text is kept.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::client::model::{Delivery, MessageRef, Problem, ProblemKind};
use crate::client::store::{Position, StoreError, Table};
use crate::crypto::content::{Body, Content};
use crate::protocol::devices::{SendDevices, SentDevices};
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::{ClientFrame, ErrorFrame, SentFrame};
use crate::protocol::ids::{BatchId, ChannelId, DeviceAddr, MessageId};
use crate::protocol::messages::{Row, RowKind, Send, Sent, StaleDevices, StaleLog};

use super::http::{self, Body as Answer, Failure, Question};
use super::io::Method;
use super::lines::Line;
use super::timeline::{Origin, RowFacts};
use super::turns::{Head, Turns};
use super::{Cx, Engine};

/// Entries of one profile that wait.
pub(super) const OUTBOX_MAX: usize = 5_000;
/// Frames under way at once.
const UNDER_WAY_MAX: usize = 8;
/// Ciphertext bytes beyond which an entry goes over HTTP: a frame of 128 KiB holds them as base64.
const SOCKET_MAX: usize = 88 * 1024;
/// An entry that nobody answers on an open line is sent again after this time, milliseconds: the same bytes, so at most once.
const ANSWER_MS: u64 = 60_000;
/// Waits before another try, milliseconds.
const RETRY_MIN_MS: u64 = 500;
const RETRY_MAX_MS: u64 = 60_000;
/// Content that expires is erased by the server this much later (`protocol.md` 9.7), seconds.
const ERASE_GRACE_S: u32 = 2_592_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub what: What,
    pub state: State,
    #[serde(default)]
    pub tries: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum What {
    Row(RowSend),
    /// Device-to-device; a channel that it opens waits for it.
    Devices {
        batch: SendDevices,
        gate: Option<ChannelId>,
    },
}

/// A row of a channel that this device writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RowSend {
    pub channel_id: ChannelId,
    pub id: MessageId,
    pub kind: RowKind,
    /// An encoded content, without list references.
    pub content: Vec<u8>,
    pub thread_id: Option<MessageId>,
    pub reply_to_id: Option<MessageId>,
    pub target_id: Option<MessageId>,
    pub expires_s: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum State {
    /// Not encrypted yet.
    Plain,
    /// These bytes, until the server answers.
    Sealed(Box<Send>),
    /// Encrypted, but for other devices than the server's: what exists stays, the rest is added.
    Patch(Box<Send>),
    /// A device batch has its bytes from the start.
    Batch,
    /// Refused for good.
    Failed,
}

/// Whether an entry could be encrypted.
pub(super) enum Sealed {
    Now(Box<Send>),
    /// Something has to come first; it was asked for.
    Waiting,
    /// Nobody could read it now: again after so many milliseconds.
    Later(u64),
    /// It cannot be sent as it is.
    Refused(String),
}

/// What waited when the client ended.
pub(super) fn open(db: &super::db::Db<'_>) -> Result<Turns, StoreError> {
    let mut turns = Turns::default();
    for (order, entry) in db.load_all::<Entry>(Table::Outbox, &[], usize::MAX)? {
        if let Ok(order) = <[u8; 8]>::try_from(order.as_slice()) {
            turns.put(u64::from_be_bytes(order), Head::of(&entry));
        }
    }
    Ok(turns)
}

impl Head {
    fn of(entry: &Entry) -> Self {
        let (lane, gate, id) = match &entry.what {
            What::Row(row) => (Some(row.channel_id), None, row.id.0),
            What::Devices { batch, gate } => (None, *gate, batch.id.0),
        };
        Self { lane, gate, id, failed: matches!(entry.state, State::Failed), under_way: false, not_before: 0 }
    }
}

/// Content → row kind (`protocol.md` 9.6).
pub(super) fn row_kind(content: &Content) -> RowKind {
    match content.body {
        Some(Body::Edit(_)) => RowKind::Edit,
        Some(Body::Reaction(_)) => RowKind::Reaction,
        Some(Body::Delete(_)) => RowKind::Delete,
        Some(Body::Poll(_)) => RowKind::Poll,
        _ => RowKind::Message,
    }
}

impl RowSend {
    /// The frame around a ciphertext, or around the copies of a DM.
    pub(super) fn frame(&self) -> Send {
        Send {
            id: self.id,
            channel_id: self.channel_id,
            kind: self.kind,
            thread_id: self.thread_id,
            reply_to_id: self.reply_to_id,
            target_id: self.target_id,
            ciphertext: None,
            nonce: None,
            file_ids: Vec::new(),
            expires_in_s: (self.expires_s > 0).then(|| self.expires_s.saturating_add(ERASE_GRACE_S)),
            copies: None,
            device_lists: None,
            skipped: Vec::new(),
        }
    }
}

impl Engine {
    pub(super) fn queue_row(&mut self, cx: &mut Cx<'_>, row: RowSend) -> Result<u64, StoreError> {
        if let Some(peer) = self.places.peer(row.channel_id).filter(|peer| *peer != self.me_id()) {
            self.look_again(cx, peer)?;
        }
        self.queue(cx, Entry { what: What::Row(row), state: State::Plain, tries: 0 })
    }

    /// Device-to-device frames that are encrypted already.
    pub(super) fn queue_batch(
        &mut self,
        cx: &mut Cx<'_>,
        copies: Vec<crate::protocol::devices::Copy>,
        gate: Option<ChannelId>,
    ) -> Result<(), StoreError> {
        let mut batch: Vec<crate::protocol::devices::Copy> = Vec::new();
        let mut bytes = 0;
        for copy in copies {
            if !batch.is_empty()
                && (bytes + copy.ciphertext.len() > SOCKET_MAX || batch.len() >= crate::protocol::limits::DEVICE_COPIES_MAX)
            {
                self.queue_copies(cx, std::mem::take(&mut batch), gate)?;
                bytes = 0;
            }
            bytes += copy.ciphertext.len();
            batch.push(copy);
        }
        if batch.is_empty() { Ok(()) } else { self.queue_copies(cx, batch, gate) }
    }

    fn queue_copies(
        &mut self,
        cx: &mut Cx<'_>,
        copies: Vec<crate::protocol::devices::Copy>,
        gate: Option<ChannelId>,
    ) -> Result<(), StoreError> {
        let batch = SendDevices { id: BatchId(cx.uuid_v7()), copies };
        self.queue(cx, Entry { what: What::Devices { batch, gate }, state: State::Batch, tries: 0 })?;
        Ok(())
    }

    fn queue(&mut self, cx: &mut Cx<'_>, entry: Entry) -> Result<u64, StoreError> {
        let order = cx.db.next_number("order")?;
        self.outbox.put(order, Head::of(&entry));
        self.put_entry(cx, order, &entry)?;
        self.places.dirty = true;
        Ok(order)
    }

    pub(super) fn entry(&self, cx: &Cx<'_>, order: u64) -> Result<Option<Entry>, StoreError> {
        cx.db.load(Table::Outbox, &order.to_be_bytes())
    }

    fn put_entry(&mut self, cx: &mut Cx<'_>, order: u64, entry: &Entry) -> Result<(), StoreError> {
        cx.db.save(Table::Outbox, order.to_be_bytes(), entry)
    }

    fn drop_entry(&mut self, cx: &mut Cx<'_>, order: u64) {
        cx.db.delete(Table::Outbox, order.to_be_bytes());
        self.outbox.remove(order);
        self.places.dirty = true;
    }

    /// Sends what can be sent now: the first of each channel, and device batches.
    pub(super) fn pump_outbox(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.timers.outbox = None;
        if !self.is_online() {
            return Ok(());
        }
        self.outbox.wake(cx.now.as_unix_ms());
        // Sealing may add device batches, and a refusal lets the next of its channel go: they come behind, in this pass.
        let mut from = 0;
        while let Some(order) = self.outbox.next(from).filter(|_| self.outbox.under_way() < UNDER_WAY_MAX) {
            from = order + 1;
            let lane = self.outbox.head(order).and_then(|head| head.lane);
            if lane.is_some_and(|lane| self.outbox.is_gated(lane)) && !self.is_sealed(cx, order)? {
                continue;
            }
            match self.entry(cx, order)? {
                Some(entry) => self.push_entry(cx, order, entry)?,
                None => self.outbox.remove(order),
            }
        }
        self.timers.outbox = self.outbox.due();
        Ok(())
    }

    fn is_sealed(&self, cx: &Cx<'_>, order: u64) -> Result<bool, StoreError> {
        Ok(self.entry(cx, order)?.is_some_and(|entry| matches!(entry.state, State::Sealed(_))))
    }

    /// Sends an entry, if nothing is missing for that.
    fn push_entry(&mut self, cx: &mut Cx<'_>, order: u64, mut entry: Entry) -> Result<(), StoreError> {
        // What the server took of it came back by its stream before this client is live; else it leaves in another form.
        let anew = match &entry.state {
            State::Sealed(send) if self.is_live() && self.is_superseded(send, cx.now.as_unix_ms()) => Some(State::Plain),
            State::Sealed(send) if self.is_live() && self.is_for_the_gone(send) => Some(State::Patch(send.clone())),
            _ => None,
        };
        if let Some(state) = anew {
            entry.state = state;
            self.put_entry(cx, order, &entry)?;
        }
        let send = match (&entry.what, &entry.state) {
            (What::Devices { batch, .. }, _) => {
                let (batch, bytes) = (batch.clone(), batch.copies.iter().map(|copy| copy.ciphertext.len()).sum::<usize>());
                self.under_way(cx, order);
                if bytes > SOCKET_MAX {
                    self.ask(cx, Question::Outbox(order), Method::Post, "/devices/messages", http::json(&batch));
                } else {
                    cx.send(ClientFrame::SendDevices(batch));
                }
                return Ok(());
            }
            // What changed meanwhile comes first: nothing leaves for somebody who is known to have gone.
            (What::Row(_), _) if !self.is_live() => return Ok(()),
            // Which devices there are now has to be known first.
            (What::Row(_), State::Sealed(send)) if !self.has_lists(send.copies.iter().flatten().map(|copy| copy.user_id)) => {
                return Ok(());
            }
            (What::Row(_), State::Sealed(send)) => send.clone(),
            (What::Row(row), State::Plain | State::Patch(_)) => {
                let old = match &entry.state {
                    State::Patch(send) => Some(send.as_ref()),
                    _ => None,
                };
                let row = row.clone();
                let sealed =
                    if self.places.is_dm(row.channel_id) { self.seal_dm(cx, &row, old)? } else { self.seal_channel(cx, &row)? };
                match sealed {
                    Sealed::Now(send) => {
                        entry.state = State::Sealed(send.clone());
                        self.put_entry(cx, order, &entry)?;
                        send
                    }
                    Sealed::Waiting => return Ok(()),
                    Sealed::Later(wait) => {
                        self.hold_back(order, cx.now.as_unix_ms(), wait);
                        return Ok(());
                    }
                    Sealed::Refused(why) => {
                        return self.fail(cx, order, entry, why);
                    }
                }
            }
            (What::Row(_), State::Batch | State::Failed) => return Ok(()),
        };
        self.under_way(cx, order);
        let bytes = send.ciphertext.as_ref().map_or(0, crate::protocol::codec::Blob::len)
            + send.copies.iter().flatten().map(|copy| copy.ciphertext.len() + 128).sum::<usize>();
        if bytes > SOCKET_MAX {
            let path = format!("/channels/{}/messages", send.channel_id);
            self.ask(cx, Question::Outbox(order), Method::Post, path, http::json(&send));
        } else {
            cx.send(ClientFrame::Send(*send));
        }
        Ok(())
    }

    fn under_way(&mut self, cx: &Cx<'_>, order: u64) {
        self.outbox.sent(order, cx.now.as_unix_ms().saturating_add(ANSWER_MS));
    }

    // --- Answers ---

    pub(super) fn on_sent(&mut self, cx: &mut Cx<'_>, sent: SentFrame) -> Result<(), StoreError> {
        self.timers.line_works();
        match sent {
            SentFrame::Row(sent) => match self.outbox.find(sent.id.0) {
                Some(order) => self.row_committed(cx, order, &sent),
                None => Ok(()),
            },
            SentFrame::Devices(SentDevices { id, .. }) => {
                // Devices that are missing are gone: nobody waits for what they were to get.
                if let Some(order) = self.outbox.find(id.0) {
                    self.drop_entry(cx, order);
                }
                Ok(())
            }
        }
    }

    pub(super) fn on_outbox_answer(
        &mut self,
        cx: &mut Cx<'_>,
        order: u64,
        answer: Result<Answer, Failure>,
    ) -> Result<(), StoreError> {
        let Some(entry) = self.entry(cx, order)? else { return Ok(()) };
        match answer {
            Ok(body) => match (&entry.what, body.parse::<Sent>()) {
                (What::Devices { .. }, _) => {
                    self.drop_entry(cx, order);
                    Ok(())
                }
                (What::Row(_), Some(sent)) => self.row_committed(cx, order, &sent),
                (What::Row(_), None) => self.try_later(cx, order, entry, None),
            },
            Err(Failure::Refused { code, message, details, .. }) => {
                let retry_after = details.as_ref().and_then(|details| details.get("retry_after_ms")?.as_u64());
                self.refused(cx, order, entry, code, message, details, retry_after)
            }
            Err(_) => self.try_later(cx, order, entry, None),
        }
    }

    pub(super) fn on_error_frame(&mut self, cx: &mut Cx<'_>, error: ErrorFrame) -> Result<(), StoreError> {
        let id = error.reference.as_deref().and_then(|reference| reference.parse().ok());
        let Some(order) = id.and_then(|id| self.outbox.find(id)) else { return Ok(()) };
        let Some(entry) = self.entry(cx, order)? else { return Ok(()) };
        self.refused(cx, order, entry, error.code, error.message, error.details, error.retry_after_ms)
    }

    /// The server has the row: it takes its place in the log.
    fn row_committed(&mut self, cx: &mut Cx<'_>, order: u64, sent: &Sent) -> Result<(), StoreError> {
        let Some(Entry { what: What::Row(row), .. }) = self.entry(cx, order)? else { return Ok(()) };
        self.drop_entry(cx, order);
        let own = MessageRef { author: self.me_id(), id: row.id };
        let line = Line::load(&cx.db, row.channel_id, own)?;
        let shown = line.is_some();
        if let Some(mut line) = line {
            line.position = Position::row(sent.seq);
            line.value.at = sent.created_at;
            if matches!(line.value.delivery, Delivery::Waiting | Delivery::Failed(_)) {
                line.value.delivery = Delivery::Sent;
            }
            line.value.revision += 1;
            self.put_line(cx, line)?;
        }
        self.places.update_state(&mut cx.db, row.channel_id, |state| state.last_at = state.last_at.max(Some(sent.created_at)))?;
        // What others do to it when they receive it happens here now.
        if !shown && let Ok(content) = Content::from_bytes(&row.content) {
            let origin = Origin {
                channel_id: row.channel_id,
                author: self.me_id(),
                device: self.me.as_ref().map_or(0, |me| me.device_id),
                row: Some(RowFacts {
                    id: row.id,
                    seq: sent.seq,
                    kind: row.kind,
                    thread_id: row.thread_id,
                    reply_to_id: row.reply_to_id,
                    target_id: row.target_id,
                }),
                at: sent.created_at,
                role: self.own_role(row.channel_id),
                marks: Vec::new(),
            };
            self.apply_content(cx, origin, &content)?;
        }
        Ok(())
    }

    /// An own row comes back by its stream, or the acknowledgement was lost.
    pub(super) fn own_row(&mut self, cx: &mut Cx<'_>, row: &Row) -> Result<(), StoreError> {
        if let Some(order) = self.outbox.find(row.id.0) {
            let sent = Sent { id: row.id, channel_id: row.channel_id, seq: row.seq, created_at: row.created_at, duplicate: true };
            return self.row_committed(cx, order, &sent);
        }
        let own = MessageRef { author: self.me_id(), id: row.id };
        match Line::load(&cx.db, row.channel_id, own)? {
            Some(mut line) if line.position != Position::row(row.seq) => {
                line.position = Position::row(row.seq);
                line.value.at = row.created_at;
                self.put_line(cx, line)
            }
            Some(_) => Ok(()),
            // What shows no line of its own.
            None if self.was_seen(cx, row.channel_id, own)? => Ok(()),
            // This device keeps what it writes: it did not write this, or its store is an old copy and it did later.
            None => {
                self.begin_anew(cx)?;
                let body = super::lines::LineBody::Waiting(crate::client::model::Reason::Refused);
                self.put_placeholder(cx, row, body, Some(crate::client::model::Mark::Forged))
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn refused(
        &mut self,
        cx: &mut Cx<'_>,
        order: u64,
        mut entry: Entry,
        code: ErrorCode,
        message: String,
        details: Option<serde_json::Value>,
        retry_after_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        self.outbox.hold_back(order, 0);
        // These inboxes are full. Whoever reads theirs again asks for what is missing; the others do not wait for it.
        if let (ErrorCode::RateLimited, What::Devices { batch, .. }) = (code, &mut entry.what) {
            let full =
                details.as_ref().and_then(|details| serde_json::from_value::<Vec<DeviceAddr>>(details.get("full")?.clone()).ok());
            let full: BTreeSet<DeviceAddr> = full.unwrap_or_default().into_iter().collect();
            let before = batch.copies.len();
            batch.copies.retain(|copy| !full.contains(&DeviceAddr { user_id: copy.user_id, device_id: copy.device_id }));
            if batch.copies.is_empty() {
                self.drop_entry(cx, order);
                return Ok(());
            }
            if batch.copies.len() < before {
                return self.put_entry(cx, order, &entry);
            }
        }
        match code {
            ErrorCode::StaleDevices => {
                let stale = details.and_then(|details| serde_json::from_value::<StaleDevices>(details).ok()).unwrap_or_default();
                let State::Sealed(send) = entry.state.clone() else { return Ok(()) };
                entry.tries += 1;
                entry.state = State::Patch(self.patch_for(cx, *send, &stale)?);
                self.put_entry(cx, order, &entry)?;
                self.hold_back(order, cx.now.as_unix_ms(), if entry.tries > 3 { pause(entry.tries) } else { 0 });
                Ok(())
            }
            ErrorCode::StaleLog => {
                let head = details
                    .and_then(|details| serde_json::from_value::<StaleLog>(details).ok())
                    .map_or(0, |stale| stale.head_seq);
                if let What::Row(row) = &entry.what {
                    self.log_is_behind(row.channel_id, head);
                }
                entry.tries += 1;
                entry.state = State::Plain;
                self.put_entry(cx, order, &entry)?;
                self.hold_back(order, cx.now.as_unix_ms(), if entry.tries > 3 { pause(entry.tries) } else { 0 });
                Ok(())
            }
            ErrorCode::RateLimited
            | ErrorCode::SlowMode
            | ErrorCode::Unavailable
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Internal
            | ErrorCode::Unauthenticated
            | ErrorCode::TokenExpired
            | ErrorCode::Unknown => self.try_later(cx, order, entry, retry_after_ms),
            _ => match &entry.what {
                // Nobody can be asked about a device batch: it is given up, and what it carried is asked for again.
                What::Devices { .. } => {
                    self.drop_entry(cx, order);
                    Ok(())
                }
                What::Row(_) => self.fail(cx, order, entry, message),
            },
        }
    }

    /// The same bytes again, after a while.
    fn try_later(&mut self, cx: &mut Cx<'_>, order: u64, mut entry: Entry, after_ms: Option<u64>) -> Result<(), StoreError> {
        entry.tries = entry.tries.saturating_add(1);
        let wait = after_ms.unwrap_or_else(|| pause(entry.tries)).min(24 * 3_600_000);
        self.put_entry(cx, order, &entry)?;
        self.hold_back(order, cx.now.as_unix_ms(), wait);
        Ok(())
    }

    fn hold_back(&mut self, order: u64, now: u64, wait: u64) {
        self.outbox.hold_back(order, if wait == 0 { 0 } else { now.saturating_add(wait) });
    }

    /// Refused for good: the text stays where it is, marked.
    fn fail(&mut self, cx: &mut Cx<'_>, order: u64, mut entry: Entry, why: String) -> Result<(), StoreError> {
        let What::Row(row) = entry.what.clone() else { return Ok(()) };
        if row.kind == RowKind::Message {
            let own = MessageRef { author: self.me_id(), id: row.id };
            if let Some(mut line) = Line::load(&cx.db, row.channel_id, own)? {
                line.value.delivery = Delivery::Failed(why.into());
                line.value.revision += 1;
                self.put_line(cx, line)?;
            }
            entry.state = State::Failed;
            self.put_entry(cx, order, &entry)?;
            self.outbox.fail(order);
        } else {
            let what = match row.kind {
                RowKind::Edit => "Your edit",
                RowKind::Reaction => "Your reaction",
                RowKind::Delete => "Your deletion",
                _ => "Your change",
            };
            self.drop_entry(cx, order);
            cx.notice(Problem::new(ProblemKind::Failed, format!("{what} was refused: {why}")).hint("Nothing else was changed."));
        }
        self.places.dirty = true;
        Ok(())
    }

    // --- The user decides ---

    /// Tries a failed message again; its id stays, unless the server holds something else under it.
    pub(super) fn retry_row(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, id: MessageId) -> Result<bool, StoreError> {
        let Some(order) = self.outbox.find(id.0) else { return Ok(false) };
        let Some(mut entry) = self.entry(cx, order)? else { return Ok(false) };
        if !matches!(entry.state, State::Failed) {
            self.hold_back(order, 0, 0);
            return Ok(true);
        }
        entry.state = State::Plain;
        entry.tries = 0;
        let own = MessageRef { author: self.me_id(), id };
        if let Some(mut line) = Line::load(&cx.db, channel_id, own)? {
            line.value.delivery = Delivery::Waiting;
            line.value.revision += 1;
            self.put_line(cx, line)?;
        }
        self.put_entry(cx, order, &entry)?;
        self.outbox.put(order, Head::of(&entry));
        self.places.dirty = true;
        Ok(true)
    }

    /// Forgets a message that was not sent. False when it is not in the outbox, or already under way.
    pub(super) fn discard_row(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, id: MessageId) -> Result<bool, StoreError> {
        let Some(order) = self.outbox.find(id.0) else { return Ok(false) };
        let may = self.entry(cx, order)?.is_some_and(|entry| matches!(entry.state, State::Plain | State::Failed));
        if !may {
            return Ok(false);
        }
        self.drop_entry(cx, order);
        self.remove_line(cx, channel_id, MessageRef { author: self.me_id(), id })?;
        Ok(true)
    }

    /// Everything that waits in a conversation fails: the user did not want it sent to a changed identity.
    pub(super) fn fail_waiting(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, why: &str) -> Result<(), StoreError> {
        for order in self.outbox.rows_of(channel_id) {
            if let Some(entry) = self.entry(cx, order)? {
                self.fail(cx, order, entry, why.to_owned())?;
            }
        }
        Ok(())
    }

    pub(super) fn outbox_lost_channel(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId) -> Result<(), StoreError> {
        self.fail_waiting(cx, channel_id, "You are not a member any more.")
    }

    /// What was encrypted for somebody's old identity is encrypted anew.
    pub(super) fn unseal_waiting(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId) -> Result<(), StoreError> {
        for order in self.outbox.rows_of(channel_id) {
            if self.outbox.head(order).is_some_and(|head| !head.under_way)
                && let Some(mut entry) = self.entry(cx, order)?
                && matches!(entry.state, State::Patch(_) | State::Sealed(_))
            {
                entry.state = State::Plain;
                self.put_entry(cx, order, &entry)?;
            }
        }
        Ok(())
    }
}

fn pause(tries: u32) -> u64 {
    RETRY_MIN_MS.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(RETRY_MAX_MS)
}
