//! Streams in step with the server (`protocol.md` 4.3, 9.14 to 9.18): cursors, the gap rule, catching up. What an event means is
//! decided in the file of its concern; what a restored database means, in `seam`.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::event::ClientEvent;
use crate::client::model::{Connection, Problem, ProblemKind};
use crate::client::store::{StoreError, Table};
use crate::protocol::devices::DeviceMessage;
use crate::protocol::frame::{ClientFrame, Ready, ServerFrame};
use crate::protocol::ids::{ChannelId, EpochId, GroupId, LogId, StreamId};
use crate::protocol::limits::SYNC_PAGE_DEFAULT;
use crate::protocol::messages::{SyncAnswer, SyncRequest};
use crate::protocol::streams::{Event, StreamEvent, StreamItem};

use super::http::{self, Failure, Question};
use super::io::{Line, Method};
use super::snapshot::Load;
use super::{Cx, Engine};

/// Live events that wait for the ones before them, in all.
const HELD_EVENTS_MAX: usize = 256;
/// Events of one page on a line that breaks under longer ones.
const PAGE_MIN: u32 = 5;
/// Frames of the inbox in one answer (`protocol.md` 9.14): fewer are all there are.
const INBOX_PAGE: usize = 100;
/// Requests of the snapshot under way at once.
const LOADS_AT_ONCE: usize = 4;

/// How far catching up got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// No line.
    #[default]
    Offline,
    /// The inbox comes first: it has the keys for the rest.
    Inbox,
    /// The first snapshot: what there is.
    Snapshot,
    Events,
    Live,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Sync {
    pub phase: Phase,
    /// Newest seq of each readable stream, as far as the server said.
    pub heads: BTreeMap<StreamId, u64>,
    pub cursors: BTreeMap<StreamId, u64>,
    pub inbox_seq: u64,
    held: BTreeMap<StreamId, BTreeMap<u64, StreamEvent>>,
    /// Channels whose next row was written after a change of members that is not verified here yet: the log, and how far it
    /// has to be known.
    blocked: BTreeMap<StreamId, (LogId, u64)>,
    asked: bool,
    /// The heads of the streams that were asked for.
    asked_heads: BTreeMap<StreamId, u64>,
    /// Events asked for at once; 0: as many as usual.
    page: u32,
    /// A frame of the inbox came whose predecessors did not, at a time when something else was caught up with.
    inbox_behind: bool,
    pub loads: BTreeSet<Load>,
    pub loading: BTreeSet<Load>,
    /// Whether the first snapshot was taken.
    pub snapshot: bool,
    /// The head of the user's own stream before the snapshot.
    pub user_head: u64,
    epoch: Option<EpochId>,
    remaining: u64,
    /// Everything was caught up with since the line came up, and nobody was told yet: what was gained meanwhile is loaded first.
    untold: bool,
    /// To be told at the end of the step: also after nothing was missed, since who waits for the end of catching up has no
    /// other sign, and after everything else, since then it is all here.
    pub just_caught_up: bool,
}

impl Sync {
    pub(super) fn open(db: &super::db::Db<'_>) -> Result<Self, StoreError> {
        let mut sync = Self {
            snapshot: db.has(Table::Account, b"snapshot")?,
            inbox_seq: db.load(Table::Account, b"inbox")?.unwrap_or(0),
            epoch: db.load(Table::Account, b"epoch")?,
            ..Self::default()
        };
        for (stream, seq) in db.load_all::<u64>(Table::Cursors, &[], usize::MAX)? {
            if let Ok(id) = <[u8; 16]>::try_from(stream.as_slice()) {
                sync.cursors.insert(StreamId::from_bytes(id), seq);
            }
        }
        Ok(sync)
    }
}

impl Engine {
    pub(super) const fn is_online(&self) -> bool {
        !matches!(self.sync.phase, Phase::Offline)
    }

    /// Nothing may be encrypted before what changed meanwhile is known.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self.sync.phase, Phase::Live)
    }

    pub(super) const fn is_catching_up(&self) -> bool {
        !matches!(self.sync.phase, Phase::Live)
    }

    pub(super) fn on_line(&mut self, cx: &mut Cx<'_>, line: Line) {
        let connection = match line {
            Line::Connecting { attempt } => Connection::Connecting { attempt },
            Line::Offline { retry_at, why } => {
                let since = match &self.connection {
                    Connection::Offline { since, .. } => *since,
                    _ => cx.now,
                };
                self.go_offline();
                Connection::Offline { since, retry_at, why: why.into() }
            }
            Line::Latency { ms } if self.is_online() => Connection::Online { latency_ms: Some(ms) },
            Line::Latency { .. } => return,
            Line::LoggedOut { why } => {
                self.go_offline();
                Connection::LoggedOut { why: why.into() }
            }
        };
        self.set_connection(cx, connection);
    }

    fn go_offline(&mut self) {
        self.sync.phase = Phase::Offline;
        self.sync.held.clear();
        self.sync.blocked.clear();
        self.sync.untold = false;
        self.places.presence.clear();
        self.places.dirty = true;
        self.outbox.line_lost();
    }

    pub(super) fn set_connection(&mut self, cx: &mut Cx<'_>, connection: Connection) {
        if self.connection != connection {
            self.connection = connection.clone();
            cx.tell(ClientEvent::Connection(connection));
        }
    }

    pub(super) fn on_frame(&mut self, cx: &mut Cx<'_>, frame: ServerFrame) -> Result<(), StoreError> {
        match frame {
            ServerFrame::Ready(ready) => self.on_ready(cx, ready),
            ServerFrame::Sent(sent) => self.on_sent(cx, sent),
            ServerFrame::Error(error) => self.on_error_frame(cx, error),
            ServerFrame::Event(event) => self.on_live_event(cx, event),
            ServerFrame::DeviceMessage(message) => self.on_live_inbox(cx, message),
            ServerFrame::Heads { streams } => {
                self.raise_heads(streams);
                Ok(())
            }
            ServerFrame::Typing { channel_id, user_id } => {
                if self.places.channels.contains_key(&channel_id) && user_id != self.me_id() {
                    let name = self.places.name_in(channel_id, user_id);
                    cx.tell(ClientEvent::Typing { channel_id, user_id, name });
                }
                Ok(())
            }
            ServerFrame::Presence { user_id, status } => {
                if self.places.users.contains_key(&user_id) && self.places.presence.insert(user_id, status) != Some(status) {
                    self.places.dirty |= self.places.dm_with(user_id).is_some();
                    cx.tell(ClientEvent::Presence { user_id, status });
                }
                Ok(())
            }
            ServerFrame::KeysLow { .. } => {
                self.timers.prekeys = Some(cx.now.as_unix_ms());
                Ok(())
            }
            ServerFrame::Pong { .. } | ServerFrame::Unknown => Ok(()),
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_>, ready: Ready) -> Result<(), StoreError> {
        let Some(me) = &self.me else { return Ok(()) };
        if ready.user_id != me.user_id || ready.device_id != Some(me.device_id) {
            cx.notice(
                Problem::new(ProblemKind::Auth, "The server let this device in under another account or device.")
                    .hint("Log in again."),
            );
            return Ok(());
        }
        self.go_offline();
        self.sync.heads.clear();
        // What was committed does not go away: a head below what was read is a restored database, whether or not anybody
        // said so by a new epoch.
        let read = |stream| self.sync.cursors.get(stream).copied().unwrap_or(0);
        let fallen = ready.streams.iter().any(|(stream, head)| read(stream) > *head);
        self.raise_heads(ready.streams);
        self.set_connection(cx, Connection::Online { latency_ms: None });
        let changed = self.sync.epoch != Some(ready.epoch);
        if fallen || (changed && self.sync.epoch.is_some()) {
            self.cross_seam(cx)?;
        }
        if changed {
            cx.db.save(Table::Account, *b"epoch", &ready.epoch)?;
            self.sync.epoch = Some(ready.epoch);
        }
        self.sync.phase = Phase::Inbox;
        self.sync.inbox_behind = false;
        // A server that answers is asked again, whatever it said before.
        self.timers.line_works();
        self.reload_missing(cx)?;
        self.timers.prekeys = Some(cx.now.as_unix_ms());
        Ok(())
    }

    pub(super) fn raise_heads(&mut self, streams: BTreeMap<StreamId, u64>) {
        for (stream, head) in streams {
            // Only streams that are followed, or may be: a server cannot fill this map with inventions without end.
            if self.sync.heads.len() < 100_000 || self.sync.heads.contains_key(&stream) {
                let known = self.sync.heads.entry(stream).or_default();
                *known = (*known).max(head);
            }
        }
    }

    pub(super) fn set_cursor(&mut self, cx: &mut Cx<'_>, stream: StreamId, seq: u64) -> Result<(), StoreError> {
        cx.db.save(Table::Cursors, stream.as_bytes(), &seq)?;
        self.sync.cursors.insert(stream, seq);
        Ok(())
    }

    /// A stream that this user reads from now on.
    pub(super) fn follow(&mut self, cx: &mut Cx<'_>, stream: StreamId, start: u64) -> Result<(), StoreError> {
        if !self.sync.cursors.contains_key(&stream) {
            self.set_cursor(cx, stream, start)?;
        }
        Ok(())
    }

    pub(super) fn unfollow(&mut self, cx: &mut Cx<'_>, stream: StreamId) {
        self.sync.cursors.remove(&stream);
        self.sync.heads.remove(&stream);
        self.sync.held.remove(&stream);
        self.sync.blocked.remove(&stream);
        cx.db.delete(Table::Cursors, stream.as_bytes());
    }

    // --- Catching up ---

    /// Asks for the next thing that is missing.
    pub(super) fn pump_sync(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        if !self.is_online() || self.timers.paused(cx.now) {
            return Ok(());
        }
        while self.sync.loading.len() < LOADS_AT_ONCE
            && let Some(load) = self.sync.loads.pop_first()
        {
            let path = load.path();
            self.sync.loading.insert(load.clone());
            self.ask(cx, Question::Load(load), Method::Get, path, None);
        }
        self.unblock(cx)?;
        if self.sync.asked {
            return Ok(());
        }
        if self.sync.phase == Phase::Snapshot {
            if !self.sync.loads.is_empty() || !self.sync.loading.is_empty() {
                return Ok(());
            }
            // Everything that there is is known: from here on the streams tell what changes.
            self.sync.snapshot = true;
            cx.db.put(Table::Account, *b"snapshot", *b"1");
            self.sync.phase = Phase::Events;
        }
        let limit = if self.sync.page == 0 { SYNC_PAGE_DEFAULT } else { self.sync.page };
        let mut request = SyncRequest { limit: Some(limit), ..SyncRequest::default() };
        self.sync.asked_heads.clear();
        match self.sync.phase {
            Phase::Inbox => request.ack_inbox = (self.sync.inbox_seq > 0).then_some(self.sync.inbox_seq),
            Phase::Events | Phase::Live => {
                request.cursors = self
                    .sync
                    .cursors
                    .iter()
                    .filter(|(stream, seq)| self.sync.heads.get(stream).is_some_and(|head| head > seq))
                    .filter(|(stream, _)| !self.sync.blocked.contains_key(stream))
                    .map(|(stream, seq)| (*stream, *seq))
                    .take(1_000)
                    .collect();
                if request.cursors.is_empty() {
                    return if self.sync.blocked.is_empty() { self.caught_up(cx) } else { Ok(()) };
                }
                let heads = request.cursors.keys().filter_map(|stream| Some((*stream, *self.sync.heads.get(stream)?)));
                self.sync.asked_heads = heads.collect();
            }
            Phase::Offline | Phase::Snapshot => return Ok(()),
        }
        self.sync.asked = true;
        let body = http::json(&request);
        self.ask(cx, Question::Sync { inbox_only: self.sync.phase == Phase::Inbox }, Method::Post, "/sync", body);
        Ok(())
    }

    fn caught_up(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        if std::mem::take(&mut self.sync.inbox_behind) {
            self.sync.phase = Phase::Inbox;
            return self.pump_sync(cx);
        }
        if self.sync.phase != Phase::Live {
            self.sync.phase = Phase::Live;
            self.sync.remaining = 0;
            self.sync.untold = true;
            self.places.dirty = true;
            self.retry_held(cx)?;
            self.anchor_everywhere(cx)?;
            self.look_for_gaps(cx.now.as_unix_ms());
        }
        if self.sync.untold && self.sync.loads.is_empty() && self.sync.loading.is_empty() {
            self.sync.untold = false;
            self.sync.just_caught_up = true;
        }
        Ok(())
    }

    pub(super) fn on_sync(
        &mut self,
        cx: &mut Cx<'_>,
        inbox_only: bool,
        answer: Result<SyncAnswer, Failure>,
    ) -> Result<(), StoreError> {
        self.sync.asked = false;
        let answer = match answer {
            Ok(answer) => {
                self.sync.page = self.sync.page.saturating_mul(2).min(SYNC_PAGE_DEFAULT);
                answer
            }
            Err(failure) => {
                if matches!(failure, Failure::Unreachable(_) | Failure::Garbled) {
                    // The answer may have been too long for the line, or for us.
                    let page = if self.sync.page == 0 { SYNC_PAGE_DEFAULT } else { self.sync.page };
                    self.sync.page = (page / 2).max(PAGE_MIN);
                }
                self.timers.back_off(cx.now, failure.retry_after_ms());
                return Ok(());
            }
        };
        if self.sync.epoch.is_some_and(|epoch| epoch != answer.epoch) {
            self.sync.heads.clear();
            self.raise_heads(answer.streams);
            self.cross_seam(cx)?;
            cx.db.save(Table::Account, *b"epoch", &answer.epoch)?;
            self.sync.epoch = Some(answer.epoch);
            self.sync.phase = Phase::Inbox;
            return Ok(());
        }
        self.raise_heads(answer.streams);
        let drained = answer.inbox.len() < INBOX_PAGE;
        for message in answer.inbox {
            self.apply_inbox(cx, message)?;
        }
        if inbox_only {
            if drained && self.sync.phase == Phase::Inbox {
                if self.sync.snapshot {
                    self.sync.phase = Phase::Events;
                } else {
                    self.begin_snapshot(cx)?;
                }
            }
            return Ok(());
        }
        for stream in answer.gone {
            self.lose_stream(cx, stream)?;
        }
        if !answer.reset.is_empty() {
            for stream in answer.reset {
                let head = self.sync.heads.get(&stream).copied();
                self.unfollow(cx, stream);
                self.look_at_log(LogId(stream.0));
                // Nobody says where the stream of a private group begins: it is read on from here.
                if let Some(head) = head.filter(|_| self.places.groups.contains_key(&GroupId(stream.0))) {
                    self.set_cursor(cx, stream, head)?;
                }
            }
            self.begin_snapshot(cx)?;
            return Ok(());
        }
        let mut moved = false;
        let mut events = answer.events;
        order_by_log(&mut events);
        for event in events {
            moved |= self.apply_event(cx, event)?;
        }
        let remaining = self.behind();
        if !moved && remaining > 0 && !answer.more {
            // The server names a head and has nothing up to it: believe the events, and look again at the next heads. What it
            // named after the question is another matter.
            for (stream, asked) in std::mem::take(&mut self.sync.asked_heads) {
                if let Some(seq) = self.sync.cursors.get(&stream)
                    && !self.sync.blocked.contains_key(&stream)
                    && let Some(head) = self.sync.heads.get_mut(&stream).filter(|head| **head == asked)
                {
                    *head = *seq;
                }
            }
        }
        let remaining = self.behind();
        if remaining > 0 || self.sync.remaining > 0 {
            self.sync.remaining = remaining;
            if self.is_catching_up() {
                cx.tell(ClientEvent::Syncing { remaining });
            }
        }
        self.release_held(cx)
    }

    fn behind(&self) -> u64 {
        self.sync
            .cursors
            .iter()
            .filter_map(|(stream, seq)| self.sync.heads.get(stream).map(|head| head.saturating_sub(*seq)))
            .fold(0, u64::saturating_add)
    }

    // --- Live ---

    fn on_live_event(&mut self, cx: &mut Cx<'_>, event: StreamEvent) -> Result<(), StoreError> {
        self.raise_heads([(event.stream, event.seq)].into());
        match self.sync.cursors.get(&event.stream).copied() {
            None => {
                if matches!(event.event, StreamItem::Row(_)) {
                    self.want(Load::Channel(ChannelId(event.stream.0)));
                }
                Ok(())
            }
            Some(have) if event.seq <= have => Ok(()),
            Some(have) if event.seq == have + 1 && self.is_live() && !self.waits_for_log(&event) => {
                let stream = event.stream;
                self.apply_event(cx, event)?;
                self.release_stream(cx, stream)
            }
            Some(_) => {
                let held: usize = self.sync.held.values().map(BTreeMap::len).sum();
                if held < HELD_EVENTS_MAX {
                    self.sync.held.entry(event.stream).or_default().insert(event.seq, event);
                }
                Ok(())
            }
        }
    }

    fn release_held(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let streams: Vec<StreamId> = self.sync.held.keys().copied().collect();
        for stream in streams {
            self.release_stream(cx, stream)?;
        }
        Ok(())
    }

    fn release_stream(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Result<(), StoreError> {
        while let Some(have) = self.sync.cursors.get(&stream).copied() {
            let Some(held) = self.sync.held.get_mut(&stream) else { break };
            held.retain(|seq, _| *seq > have);
            let Some(event) = held.remove(&(have + 1)) else { break };
            if self.waits_for_log(&event) {
                self.sync.held.entry(stream).or_default().insert(event.seq, event);
                break;
            }
            self.apply_event(cx, event)?;
        }
        if self.sync.held.get(&stream).is_some_and(BTreeMap::is_empty) {
            self.sync.held.remove(&stream);
        }
        Ok(())
    }

    fn on_live_inbox(&mut self, cx: &mut Cx<'_>, message: DeviceMessage) -> Result<(), StoreError> {
        if message.inbox_seq <= self.sync.inbox_seq {
            return Ok(());
        }
        if message.inbox_seq > self.sync.inbox_seq + 1 {
            // Something before it is missing: the inbox is asked for in order, now or after what is under way.
            if self.sync.phase == Phase::Live {
                self.sync.phase = Phase::Inbox;
            } else {
                self.sync.inbox_behind = true;
            }
            return Ok(());
        }
        self.apply_inbox(cx, message)
    }

    /// Takes one frame of the inbox; it is acknowledged after the commit.
    fn apply_inbox(&mut self, cx: &mut Cx<'_>, message: DeviceMessage) -> Result<(), StoreError> {
        if message.inbox_seq <= self.sync.inbox_seq {
            return Ok(());
        }
        self.sync.inbox_seq = message.inbox_seq;
        cx.db.save(Table::Account, *b"inbox", &message.inbox_seq)?;
        cx.ack_inbox = Some(message.inbox_seq);
        self.receive_inbox(cx, message)
    }

    pub(super) fn send_ack(&self, cx: &mut Cx<'_>) {
        if let Some(up_to) = cx.ack_inbox.take()
            && self.is_online()
        {
            cx.send(ClientFrame::AckInbox { up_to });
        }
    }

    // --- Events ---

    /// Whether a row was written after a change of members that is not verified here yet: it and what follows it in its
    /// channel wait for the log, since only so many frames can be held. Not for a log that does not go on.
    fn waits_for_log(&mut self, event: &StreamEvent) -> bool {
        let StreamItem::Row(row) = &event.event else { return false };
        let log = self.places.states.get(&row.channel_id).and_then(|state| state.log);
        let log = log.or_else(|| self.places.channels.get(&row.channel_id)?.log_id);
        let (Some(log_id), Some(log_seq), true) = (log, row.log_seq, row.ciphertext.is_some()) else { return false };
        if row.channel_id.0 != event.stream.0 || self.knows_log_to(log_id, log_seq) || !self.may_advance(log_id) {
            return false;
        }
        self.hint_log_head(log_id, log_seq);
        self.sync.blocked.insert(event.stream, (log_id, log_seq));
        true
    }

    /// Whether rows wait for this log.
    pub(super) fn is_log_awaited(&self, log_id: LogId) -> bool {
        self.sync.blocked.values().any(|(log, _)| *log == log_id)
    }

    /// Goes on with the channels whose log went on, or will not.
    fn unblock(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let free: Vec<StreamId> = self
            .sync
            .blocked
            .iter()
            .filter(|(_, (log_id, log_seq))| self.knows_log_to(*log_id, *log_seq) || !self.may_advance(*log_id))
            .map(|(stream, _)| *stream)
            .collect();
        for stream in free {
            self.sync.blocked.remove(&stream);
            self.release_stream(cx, stream)?;
        }
        Ok(())
    }

    /// Applies the next event of a stream; false when it is not the next one.
    fn apply_event(&mut self, cx: &mut Cx<'_>, event: StreamEvent) -> Result<bool, StoreError> {
        if self.sync.cursors.get(&event.stream).is_none_or(|have| event.seq != have + 1) || self.waits_for_log(&event) {
            return Ok(false);
        }
        let StreamEvent { stream, seq, event } = event;
        self.set_cursor(cx, stream, seq)?;
        match event {
            StreamItem::Row(row) => {
                if row.channel_id.0 == stream.0 && row.seq == seq {
                    self.apply_row(cx, *row)?;
                }
            }
            StreamItem::Event(event) if stream.0 == self.me_id().0 => self.apply_user_event(cx, *event)?,
            StreamItem::Event(event) => self.apply_place_event(cx, stream, *event)?,
        }
        Ok(true)
    }
}

/// Rows and ops in the server's order (`protocol.md` 9.1): a row with `log_seq` m comes after op m and before op m + 1. Within
/// one stream these numbers never fall, so each stream keeps its order.
fn order_by_log(events: &mut [StreamEvent]) {
    let mut reached: BTreeMap<StreamId, u64> = BTreeMap::new();
    let mut places: Vec<(StreamId, u64, (u64, bool))> = Vec::with_capacity(events.len());
    for event in events.iter() {
        let at = reached.entry(event.stream).or_default();
        let is_row = match &event.event {
            StreamItem::Row(row) => {
                *at = (*at).max(row.log_seq.unwrap_or(0));
                true
            }
            StreamItem::Event(known) => {
                if let Event::LogOp { log_seq, .. } = &**known {
                    *at = (*at).max(*log_seq);
                }
                false
            }
        };
        places.push((event.stream, event.seq, (*at, is_row)));
    }
    let places: BTreeMap<(StreamId, u64), (u64, bool)> =
        places.into_iter().map(|(stream, seq, at)| ((stream, seq), at)).collect();
    events.sort_by_key(|event| places.get(&(event.stream, event.seq)).copied());
}
