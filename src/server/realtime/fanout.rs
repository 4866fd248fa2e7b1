//! From a committed row to the connections that hear it.
//!
//! The writer hands over what it has just stored; everything else (rows and events of other transactions and nodes, gaps,
//! lost hints) is read from the database by one task, [`Fanout::run`], which looks at named streams at once and at all heard
//! ones every second. No event is pushed to an audience that was read before the newest removal from it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::protocol::codec::Blob;
use crate::protocol::devices::Copy;
use crate::protocol::frame::ServerFrame;
use crate::protocol::ids::{DeviceAddr, StreamId, UserId};
use crate::protocol::messages::Row;
use crate::protocol::streams::{Event, StreamEvent, StreamItem};
use crate::server::db::delivery::{self, AudienceId, Located, StreamKind};
use crate::server::db::{Database, inbox};
use crate::server::error::ApiError;

use super::frames::{self, Shared};
use super::hub::{Hub, Position, Published};
use super::queue::{End, Wakes};

/// Between two looks at all heard streams.
const LOOK: Duration = Duration::from_secs(1);
/// Events that are read for a stream that is behind; with more, clients page.
const BEHIND_MAX: u64 = 500;
/// Rows of one query.
const READ_MAX: i64 = 1000;

pub struct Fanout {
    hub: Mutex<Hub>,
    database: Database,
    /// For one round of the task.
    deadline: Duration,
    pending: Mutex<Pending>,
    work: Notify,
}

/// What the task has to look at; bounded by what is connected, since other names are dropped when they are looked at.
#[derive(Default)]
struct Pending {
    streams: HashSet<StreamId>,
    access: HashSet<UserId>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.access.is_empty()
    }
}

impl Fanout {
    pub fn new(database: Database, deadline: Duration) -> Self {
        Self { hub: Mutex::default(), database, deadline, pending: Mutex::default(), work: Notify::new() }
    }

    /// Never held over an await.
    pub fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// A row of a channel that was committed just now.
    pub fn row(&self, row: Row, audience: AudienceId, shrink_seq: u64, wakes: &mut Wakes) {
        let at = Position { stream: row.channel_id.into(), audience, seq: row.seq, shrink_seq };
        let spoken = self.hub().encodings(audience);
        let frame = event(at, StreamItem::Row(Box::new(row)));
        let shared = Shared::new(&frame, spoken);
        let published = self.hub().publish(at, wakes, |peer| shared.message(peer.encoding));
        if matches!(published, Published::Gap | Published::Stale) {
            self.look_at(at.stream);
        }
    }

    /// A row of a direct message that was committed just now: every device gets its own copy, the sending one none.
    pub fn dm_row(&self, row: Row, copies: Vec<Copy>, wakes: &mut Wakes) {
        let stream = StreamId::from(row.channel_id);
        let at = Position { stream, audience: AudienceId(stream.0), seq: row.seq, shrink_seq: 0 };
        let copies =
            copies.into_iter().map(|copy| (DeviceAddr::new(copy.user_id, copy.device_id), (copy.ciphertext, copy.nonce)));
        if self.push_dm(at, row, copies.collect(), wakes) == Published::Gap {
            self.look_at(stream);
        }
    }

    fn push_dm(&self, at: Position, mut row: Row, mut copies: HashMap<DeviceAddr, (Blob, Blob)>, wakes: &mut Wakes) -> Published {
        self.hub().publish(at, wakes, |peer| {
            let copy = peer.device_id.and_then(|device| copies.remove(&DeviceAddr::new(peer.user_id, device)));
            (row.ciphertext, row.nonce) = copy.unzip();
            frames::encode(&event(at, StreamItem::Row(Box::new(row.clone()))), peer.encoding)
        })
    }

    /// Something may have happened in a stream: it is read soon.
    pub fn look_at(&self, stream: StreamId) {
        self.pending().streams.insert(stream);
        self.work.notify_one();
    }

    /// A user's access has changed: what they hear is read again. What they lost stops at once, see [`Hub::publish`].
    pub fn access_changed(&self, user: UserId) {
        if self.hub().access_changed(user) {
            self.pending().access.insert(user);
            self.work.notify_one();
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a user's access until no change came in between; answers the heads of the streams. Nothing happens for a user
    /// without a connection.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn subscribe(&self, user: UserId) -> Result<BTreeMap<StreamId, u64>, ApiError> {
        loop {
            let Some(version) = self.hub().version(user) else { return Ok(BTreeMap::new()) };
            let access = delivery::access(&mut *self.database.get().await?, user).await?;
            if let Ok(heads) = self.hub().subscribe(user, &access, version) {
                return Ok(heads);
            }
        }
    }

    /// The task: until the process ends. A round that the database keeps waiting is given up, and the next one begins with what
    /// it did not come to.
    pub async fn run(&self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                () = self.work.notified() => self.catch_up().await,
                _ = look.tick() => self.in_time(self.look_around()).await,
            };
            if let Err(error) = done {
                tracing::warn!(code = error.code.as_str(), "delivery could not read the database");
            }
        }
    }

    /// What was named since the last time.
    async fn catch_up(&self) -> Result<(), ApiError> {
        let Pending { streams, access } = std::mem::take(&mut *self.pending());
        let mut access: Vec<UserId> = access.into_iter().collect();
        let done = async {
            while let Some(user) = access.last() {
                self.subscribe(*user).await?;
                access.pop();
            }
            if streams.is_empty() {
                return Ok(());
            }
            let streams: Vec<StreamId> = streams.iter().copied().collect();
            let located = delivery::locate(&mut *self.database.get().await?, &streams).await?;
            {
                let there: HashSet<StreamId> = located.iter().map(|at| at.stream).collect();
                let mut hub = self.hub();
                streams.iter().filter(|stream| !there.contains(stream)).for_each(|stream| hub.forget_stream(*stream));
            }
            self.deliver(&located).await
        };
        let done = self.in_time(done).await;
        if done.is_err() {
            // The next look repeats it.
            let mut pending = self.pending();
            pending.access.extend(access);
            pending.streams.extend(streams);
        }
        done
    }

    async fn in_time(&self, round: impl Future<Output = Result<(), ApiError>>) -> Result<(), ApiError> {
        timeout(self.deadline, round).await.unwrap_or_else(|_| Err(ApiError::unavailable()))
    }

    /// Everything that is heard: heads, sessions, inboxes.
    async fn look_around(&self) -> Result<(), ApiError> {
        let (audiences, sessions, devices) = {
            let hub = self.hub();
            if hub.is_empty() {
                return Ok(());
            }
            (hub.audiences(), hub.sessions(), hub.devices())
        };
        if !self.pending().is_empty() {
            self.work.notify_one();
        }
        let (located, live, moved) = {
            let mut conn = self.database.get().await?;
            let live = delivery::live_sessions(&mut conn, &sessions).await?;
            let moved = inbox::moved(&mut conn, &devices).await?;
            (delivery::locate_heard(&mut conn, &audiences).await?, live, moved)
        };
        {
            let hub = self.hub();
            let ended: Vec<_> = sessions.into_iter().filter(|session| !live.contains(session)).collect();
            hub.end_sessions(&ended, End::Revoked);
            for device in moved {
                if let Some(peer) = hub.device(device) {
                    peer.queue.inbox_moved();
                }
            }
        }
        self.deliver(&located).await
    }

    /// Pushes what is missing in these streams.
    async fn deliver(&self, located: &[Located]) -> Result<(), ApiError> {
        let mut stale: HashSet<AudienceId> = HashSet::new();
        let mut behind: Vec<(&Located, u64)> = Vec::new();
        {
            let mut hub = self.hub();
            for stream in located {
                if !hub.is_heard(stream.audience) {
                    continue;
                }
                if hub.is_stale(stream.audience, stream.shrink_seq) {
                    stale.insert(stream.audience);
                }
                // A stream that nobody was told of at the start is new.
                let delivered = hub.delivered(stream.stream).map_or(0, |(_, seq)| seq);
                match stream.head_seq.saturating_sub(delivered) {
                    // Known from now on, so that typing in it is heard before its first row.
                    0 => hub.skip_to(stream.stream, stream.audience, stream.head_seq),
                    1..=BEHIND_MAX => behind.push((stream, delivered)),
                    _ => hub.skip_to(stream.stream, stream.audience, stream.head_seq),
                }
            }
        }
        for audience in stale {
            self.read_audience(audience).await?;
        }
        let of = |kind: StreamKind| -> Vec<(StreamId, u64)> {
            behind.iter().filter(|(stream, _)| stream.kind == kind).map(|(stream, after)| (stream.stream, *after)).collect()
        };
        let positions: HashMap<StreamId, &Located> = behind.iter().map(|(stream, _)| (stream.stream, *stream)).collect();
        let mut conn = self.database.get().await?;
        let events = delivery::events_after(&mut conn, &of(StreamKind::Events), READ_MAX).await?;
        let rows = delivery::rows_after(&mut conn, &of(StreamKind::Channel), READ_MAX, None).await?;
        let dms = delivery::rows_after(&mut conn, &of(StreamKind::Dm), READ_MAX, None).await?;
        let mut full = rows.cut || dms.cut || i64::try_from(events.len()) == Ok(READ_MAX);
        let items = events.into_iter().chain(rows.rows.into_iter().map(|row| StreamEvent {
            stream: row.channel_id.into(),
            seq: row.seq,
            event: StreamItem::Row(Box::new(row)),
        }));
        for item in items {
            // Newer ones than the place that was read may follow a removal that is not known here.
            if let Some(at) = positions.get(&item.stream).filter(|at| item.seq <= at.head_seq) {
                full |= !self.push(at, item);
            }
        }
        for row in dms.rows {
            if let Some(at) = positions.get(&StreamId::from(row.channel_id)) {
                let copies = delivery::copies(&mut conn, row.channel_id, row.seq, row.seq).await?;
                let copies = copies.into_iter().map(|copy| (copy.device(), (Blob(copy.ciphertext), Blob(copy.nonce))));
                let at = Position { stream: at.stream, audience: at.audience, seq: row.seq, shrink_seq: 0 };
                self.push_dm(at, row, copies.collect(), &mut Wakes::default());
            }
        }
        if full {
            let mut pending = self.pending();
            pending.streams.extend(positions.keys());
            self.work.notify_one();
        }
        Ok(())
    }

    /// Pushes one event that was read; false when its stream must be read again.
    fn push(&self, of: &Located, item: StreamEvent) -> bool {
        let at = Position { stream: of.stream, audience: of.audience, seq: item.seq, shrink_seq: of.shrink_seq };
        let gained = match &item.event {
            StreamItem::Event(event) => changes_access(event),
            StreamItem::Row(_) => false,
        };
        let spoken = self.hub().encodings(at.audience);
        let shared = Shared::new(&ServerFrame::Event(item), spoken);
        let published = self.hub().publish(at, &mut Wakes::default(), |peer| shared.message(peer.encoding));
        if gained && published == Published::Pushed {
            // The change may have been made by another node.
            self.access_changed(UserId(at.stream.0));
        }
        matches!(published, Published::Pushed | Published::Old)
    }

    /// Drops the listeners of an audience that were removed.
    async fn read_audience(&self, audience: AudienceId) -> Result<(), ApiError> {
        let mut listening = self.hub().listeners(audience);
        loop {
            let (stay, shrink_seq) = delivery::listeners(&mut *self.database.get().await?, audience, &listening).await?;
            let mut hub = self.hub();
            let now = hub.listeners(audience);
            // Somebody began to listen meanwhile and was not asked for: perhaps after a reading older than this one.
            if now.is_subset(&listening) {
                hub.retain(audience, shrink_seq, &stay);
                return Ok(());
            }
            listening = now;
        }
    }

    /// What a device's connections need to know of its inbox.
    pub fn inbox_moved(&self, device: DeviceAddr) {
        if let Some(peer) = self.hub().device(device) {
            peer.queue.inbox_moved();
        }
    }
}

/// Events of a user's stream after which other streams are heard.
const fn changes_access(event: &Event) -> bool {
    matches!(
        event,
        Event::ChannelAdded { .. }
            | Event::CommunityAdded { .. }
            | Event::CommunityRemoved { .. }
            | Event::ChannelRemoved { .. }
            | Event::Group { .. }
            | Event::GroupRemoved { .. }
    )
}

fn event(at: Position, event: StreamItem) -> ServerFrame {
    ServerFrame::Event(StreamEvent { stream: at.stream, seq: at.seq, event })
}
