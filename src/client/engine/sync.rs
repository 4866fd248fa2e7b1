//! Streams in step with the server (`protocol.md` 4.3, 9.14 to 9.18): cursors, the gap rule, catching up, the first
//! snapshot of a new device, and the seam after the server's database was restored. What an event means is decided in the
//! file of its concern.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::event::ClientEvent;
use crate::client::model::{Connection, Problem, ProblemKind, SystemLine};
use crate::client::store::{StoreError, Table};
use crate::protocol::channels::Channel;
use crate::protocol::communities::{Community, Group, Member};
use crate::protocol::devices::DeviceMessage;
use crate::protocol::frame::{ClientFrame, Ready, ServerFrame};
use crate::protocol::ids::{ChannelId, CommunityId, EpochId, StreamId};
use crate::protocol::limits::SYNC_PAGE_DEFAULT;
use crate::protocol::messages::{SyncAnswer, SyncRequest};
use crate::protocol::streams::{Event, StreamEvent, StreamItem};
use crate::protocol::users::Page;

use super::http::{self, Failure, Question};
use super::io::{Line, Method};
use super::{Cx, Engine};

/// Live events that wait for the ones before them, in all.
const HELD_EVENTS_MAX: usize = 256;
/// Rows that are read again when the server's epoch changed.
const SEAM_ROWS: u64 = 500;
/// Requests of the snapshot under way at once.
const LOADS_AT_ONCE: usize = 4;
const LOADS_MAX: usize = 10_000;

/// Something of the server's view that has to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    Communities(Option<String>),
    Channels,
    /// With the cursor of the page.
    Groups(CommunityId, Option<String>),
    Members(CommunityId, Option<String>),
    Channel(ChannelId),
}

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
    heads: BTreeMap<StreamId, u64>,
    cursors: BTreeMap<StreamId, u64>,
    pub inbox_seq: u64,
    held: BTreeMap<StreamId, BTreeMap<u64, StreamEvent>>,
    asked: bool,
    loads: BTreeSet<Load>,
    loading: BTreeSet<Load>,
    /// Whether the first snapshot was taken.
    snapshot: bool,
    /// The head of the user's own stream before the snapshot.
    user_head: u64,
    epoch: Option<EpochId>,
    remaining: u64,
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
        self.raise_heads(ready.streams);
        self.set_connection(cx, Connection::Online { latency_ms: None });
        if self.sync.epoch != Some(ready.epoch) {
            if self.sync.epoch.is_some() {
                self.cross_seam(cx)?;
            }
            cx.db.save(Table::Account, *b"epoch", &ready.epoch)?;
            self.sync.epoch = Some(ready.epoch);
        }
        self.sync.phase = Phase::Inbox;
        self.reload_missing();
        self.timers.prekeys = Some(cx.now.as_unix_ms());
        Ok(())
    }

    fn raise_heads(&mut self, streams: BTreeMap<StreamId, u64>) {
        for (stream, head) in streams {
            // Only streams that are followed, or may be: a server cannot fill this map with inventions without end.
            if self.sync.heads.len() < 100_000 || self.sync.heads.contains_key(&stream) {
                let known = self.sync.heads.entry(stream).or_default();
                *known = (*known).max(head);
            }
        }
    }

    /// What a cut kept from being loaded: the server names a stream that is not followed here, so a community or a channel was
    /// gained and its answer never came. Members and groups are not part of the streams' past: load them where none are known.
    fn reload_missing(&mut self) {
        if self.sync.snapshot && self.sync.heads.keys().any(|stream| !self.sync.cursors.contains_key(stream)) {
            self.want(Load::Communities(None));
            self.want(Load::Channels);
        }
        let missing: Vec<CommunityId> =
            self.places.communities.keys().filter(|id| !self.places.members.contains_key(id)).copied().collect();
        for id in missing {
            self.want(Load::Groups(id, None));
            self.want(Load::Members(id, None));
        }
    }

    pub(super) fn want(&mut self, load: Load) {
        if self.sync.loads.len() < LOADS_MAX && !self.sync.loading.contains(&load) {
            self.sync.loads.insert(load);
        }
    }

    /// The database of the server was restored from a backup: read again what may have been lost, and mark the place.
    fn cross_seam(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.sync.inbox_seq = 0;
        cx.db.save(Table::Account, *b"inbox", &0u64)?;
        self.sync.snapshot = false;
        cx.db.delete(Table::Account, *b"snapshot");
        let streams: Vec<(StreamId, u64)> = self.sync.cursors.iter().map(|(stream, seq)| (*stream, *seq)).collect();
        for (stream, seq) in streams {
            let channel_id = ChannelId(stream.0);
            if self.places.channels.contains_key(&channel_id) {
                let head = self.sync.heads.get(&stream).copied().unwrap_or(0);
                let start = self.places.channels.get(&channel_id).and_then(|channel| channel.start_seq).unwrap_or(0);
                self.set_cursor(cx, stream, seq.min(head).saturating_sub(SEAM_ROWS).max(start.min(seq)))?;
                self.local_line(cx, channel_id, SystemLine::Seam)?;
            } else {
                self.sync.cursors.remove(&stream);
                cx.db.delete(Table::Cursors, stream.as_bytes());
            }
        }
        Ok(())
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
            let path = match &load {
                Load::Communities(cursor) => paged("/communities", cursor.as_deref()),
                Load::Channels => "/channels".to_owned(),
                Load::Groups(id, cursor) => paged(&format!("/communities/{id}/groups"), cursor.as_deref()),
                Load::Members(id, cursor) => paged(&format!("/communities/{id}/members"), cursor.as_deref()),
                Load::Channel(id) => format!("/channels/{id}"),
            };
            self.sync.loading.insert(load.clone());
            self.ask(cx, Question::Load(load), Method::Get, path, None);
        }
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
        let mut request = SyncRequest { limit: Some(SYNC_PAGE_DEFAULT), ..SyncRequest::default() };
        match self.sync.phase {
            Phase::Inbox => request.ack_inbox = (self.sync.inbox_seq > 0).then_some(self.sync.inbox_seq),
            Phase::Events | Phase::Live => {
                request.cursors = self
                    .sync
                    .cursors
                    .iter()
                    .filter(|(stream, seq)| self.sync.heads.get(stream).is_some_and(|head| head > seq))
                    .map(|(stream, seq)| (*stream, *seq))
                    .take(1_000)
                    .collect();
                if request.cursors.is_empty() {
                    return self.caught_up(cx);
                }
            }
            Phase::Offline | Phase::Snapshot => return Ok(()),
        }
        self.sync.asked = true;
        let body = http::json(&request);
        self.ask(cx, Question::Sync { inbox_only: self.sync.phase == Phase::Inbox }, Method::Post, "/sync", body);
        Ok(())
    }

    fn caught_up(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        if self.sync.phase != Phase::Live {
            self.sync.phase = Phase::Live;
            self.sync.remaining = 0;
            self.sync.just_caught_up = true;
            self.places.dirty = true;
            self.retry_held(cx)?;
            self.anchor_everywhere(cx)?;
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
            Ok(answer) => answer,
            Err(failure) => {
                self.timers.back_off(cx.now, failure.retry_after_ms());
                return Ok(());
            }
        };
        if self.sync.epoch.is_some_and(|epoch| epoch != answer.epoch) {
            self.cross_seam(cx)?;
            cx.db.save(Table::Account, *b"epoch", &answer.epoch)?;
            self.sync.epoch = Some(answer.epoch);
            self.sync.phase = Phase::Inbox;
            return Ok(());
        }
        self.raise_heads(answer.streams);
        let drained = answer.inbox.is_empty();
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
                self.unfollow(cx, stream);
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
            // The server names a head and has nothing up to it: believe the events, and look again at the next heads.
            for (stream, seq) in &self.sync.cursors {
                if let Some(head) = self.sync.heads.get_mut(stream) {
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

    fn begin_snapshot(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.sync.phase = Phase::Snapshot;
        self.sync.user_head = self.sync.heads.get(&self.me_id().into()).copied().unwrap_or(0);
        let (stream, head) = (self.me_id().into(), self.sync.user_head);
        self.set_cursor(cx, stream, head)?;
        self.mark_all_lists_stale(cx);
        self.want(Load::Communities(None));
        self.want(Load::Channels);
        Ok(())
    }

    pub(super) fn on_load(&mut self, cx: &mut Cx<'_>, load: Load, answer: Result<http::Body, Failure>) -> Result<(), StoreError> {
        self.sync.loading.remove(&load);
        let body = match answer {
            Ok(body) => body,
            Err(failure) if failure.is_final() => {
                if let Load::Channel(id) = load {
                    self.lose_stream(cx, id.into())?;
                }
                return Ok(());
            }
            Err(failure) => {
                self.timers.back_off(cx.now, failure.retry_after_ms());
                self.want(load);
                return Ok(());
            }
        };
        match load {
            Load::Communities(_) => {
                if let Some(page) = body.parse::<Page<Community>>() {
                    for community in page.items {
                        self.add_community(cx, community)?;
                    }
                    if let Some(cursor) = page.next_cursor {
                        self.want(Load::Communities(Some(cursor)));
                    }
                }
            }
            Load::Channels => {
                if let Some(page) = body.parse::<Page<Channel>>() {
                    for channel in page.items {
                        self.add_channel(cx, channel)?;
                    }
                }
            }
            Load::Channel(_) => {
                if let Some(channel) = body.parse::<Channel>() {
                    self.add_channel(cx, channel)?;
                }
            }
            Load::Groups(id, _) => {
                if let Some(page) = body.parse::<Page<Group>>() {
                    for group in page.items {
                        self.add_group(cx, group)?;
                    }
                    if let Some(cursor) = page.next_cursor {
                        self.want(Load::Groups(id, Some(cursor)));
                    }
                }
            }
            Load::Members(id, _) => {
                if let Some(page) = body.parse::<Page<Member>>() {
                    self.places.members.entry(id).or_default();
                    for member in page.items {
                        self.places.put_member(&mut cx.db, id, member)?;
                    }
                    if let Some(cursor) = page.next_cursor {
                        self.want(Load::Members(id, Some(cursor)));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_community(&mut self, cx: &mut Cx<'_>, community: Community) -> Result<(), StoreError> {
        let id = community.id;
        if let Some(start) = community.start_seq {
            self.follow(cx, id.into(), start)?;
        }
        let new = !self.places.communities.contains_key(&id);
        self.hint_log_head(id.into(), community.log_head_seq);
        self.places.put_community(&mut cx.db, community)?;
        if new {
            self.want(Load::Groups(id, None));
            self.want(Load::Members(id, None));
        }
        self.want_log(id.into());
        Ok(())
    }

    pub(super) fn add_group(&mut self, cx: &mut Cx<'_>, group: Group) -> Result<(), StoreError> {
        if group.visibility == crate::protocol::communities::Visibility::Private {
            self.follow(cx, group.id.into(), 0)?;
            self.want_log(group.id.into());
        }
        self.places.put_group(&mut cx.db, group)
    }

    pub(super) fn add_channel(&mut self, cx: &mut Cx<'_>, channel: Channel) -> Result<(), StoreError> {
        let id = channel.id;
        if let Some(start) = channel.start_seq {
            self.follow(cx, id.into(), start)?;
            self.places.update_state(&mut cx.db, id, |state| state.newest = state.newest.max(start))?;
        }
        if let Some(log) = channel.log_id {
            self.want_log(log);
        }
        self.raise_heads([(id.into(), channel.head_seq)].into());
        self.places.put_channel(&mut cx.db, channel)?;
        self.pin_log(cx, id)
    }

    pub(super) fn lose_stream(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Result<(), StoreError> {
        self.unfollow(cx, stream);
        self.places.remove_channel(&mut cx.db, ChannelId(stream.0))?;
        if self.places.communities.contains_key(&CommunityId(stream.0)) {
            self.lose_community(cx, CommunityId(stream.0))?;
        }
        Ok(())
    }

    pub(super) fn lose_community(&mut self, cx: &mut Cx<'_>, id: CommunityId) -> Result<(), StoreError> {
        for channel_id in self.places.remove_community(&mut cx.db, id)? {
            self.unfollow(cx, channel_id.into());
            self.forget_own_chain(cx, channel_id);
            self.outbox_lost_channel(cx, channel_id)?;
        }
        self.unfollow(cx, id.into());
        Ok(())
    }

    // --- Live ---

    fn on_live_event(&mut self, cx: &mut Cx<'_>, event: StreamEvent) -> Result<(), StoreError> {
        self.raise_heads([(event.stream, event.seq)].into());
        match self.sync.cursors.get(&event.stream) {
            None => {
                if matches!(event.event, StreamItem::Row(_)) {
                    self.want(Load::Channel(ChannelId(event.stream.0)));
                }
                Ok(())
            }
            Some(have) if event.seq <= *have => Ok(()),
            Some(have) if event.seq == have + 1 && self.is_live() => {
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
            // Something before it is missing: the inbox is asked for in order.
            if self.sync.phase == Phase::Live {
                self.sync.phase = Phase::Inbox;
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

    /// Applies the next event of a stream; false when it is not the next one.
    fn apply_event(&mut self, cx: &mut Cx<'_>, event: StreamEvent) -> Result<bool, StoreError> {
        let StreamEvent { stream, seq, event } = event;
        if self.sync.cursors.get(&stream).is_none_or(|have| seq != have + 1) {
            return Ok(false);
        }
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

fn paged(path: &str, cursor: Option<&str>) -> String {
    match cursor {
        Some(cursor) => format!("{path}?limit=100&cursor={}", http::escape(cursor)),
        None => format!("{path}?limit=100"),
    }
}
