//! Delivery: from a send to every WebSocket that may hear it (`docs/PROTOCOL.md` 4 and 9).
//!
//! ```text
//! connection → session → writer → db::append (commit) → fanout → hub → queue → connection
//! ```
//! [`connection`] is the loop of one socket, [`session`] what its frames mean, [`writer`] the group commit, [`fanout`] the way
//! from a committed row to the [`hub`], which is the plain structure of who hears what, and [`queue`] what waits for one socket.
//! The durable row comes first, the live push second. The rest of the server tells [`Realtime`] after its commits what moved.

pub mod bus;
pub mod connection;
pub mod fanout;
pub mod frames;
pub mod hub;
pub mod intake;
pub mod presence;
pub mod queue;
pub mod session;
pub mod writer;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::protocol::frame::ServerFrame;
use crate::protocol::ids::{ChannelId, DeviceAddr, SessionId, StreamId, UserId};
use crate::protocol::messages::{Send, Sent};
use crate::protocol::streams::Event;
use crate::protocol::users::Status;

use super::app::{App, AppState};
use super::db::{Database, messages, streams};
use super::error::{ApiError, ApiResult};
use super::extract::Auth;
use super::places::{Place, Places};

use bus::{Bus, Hint};
use fanout::Fanout;
use hub::Hub;
use queue::{Class, End, Queue};
use writer::{Reply, Writer};

/// Clients come back within this time after a stop, each at a moment of its own.
const RETURN_WITHIN_MS: u64 = 10_000;
/// WebSockets that are opened at a time: more would only wait for each other in the database.
const TURNS: usize = 8;
/// Below the patience of clients.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// The live half of the server. Calls of what is not `async` return at once and never wait for a socket.
pub struct Realtime {
    fanout: Arc<Fanout>,
    /// None once the server drains: the lanes finish what waits.
    writer: Mutex<Option<Writer>>,
    lanes: TaskTracker,
    places: Places,
    turns: Semaphore,
    bus: Box<dyn Bus>,
    draining: AtomicBool,
    task: AbortHandle,
}

impl Realtime {
    /// Starts the tasks; they end with the value, or with [`Realtime::finish`]. `look` is the deadline of a look at the database.
    pub fn start(database: &Database, bus: Box<dyn Bus>, look: Duration) -> Arc<Self> {
        let fanout = Arc::new(Fanout::new(database.clone(), look));
        let lanes = TaskTracker::new();
        let writer = Writer::start(database.url(), &fanout, &lanes);
        lanes.close();
        let running = Arc::clone(&fanout);
        let task = tokio::spawn(async move { running.run().await }).abort_handle();
        Arc::new(Self {
            fanout,
            writer: Mutex::new(Some(writer)),
            lanes,
            places: Places::default(),
            turns: Semaphore::new(TURNS),
            bus,
            draining: AtomicBool::new(false),
            task,
        })
    }

    /// A place for a new WebSocket of an address.
    ///
    /// # Errors
    /// 429 `rate_limited` when the address has `limit` already.
    pub fn admit(&self, address: IpAddr, limit: u32) -> ApiResult<Place> {
        self.places.take(address, limit).ok_or_else(|| ApiError::rate_limited(Duration::from_secs(10)))
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.fanout.hub()
    }

    async fn subscribe(&self, user: UserId) -> ApiResult<BTreeMap<StreamId, u64>> {
        self.fanout.subscribe(user).await
    }

    /// The turn of a connection that is being opened: when everybody comes back at once they wait here, and not for the database,
    /// which others need too.
    ///
    /// # Errors
    /// 503 `unavailable` after ten seconds.
    async fn turn(&self) -> ApiResult<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(TURN_WAIT, self.turns.acquire()).await;
        turn.map_err(|_| ApiError::unavailable())?.map_err(|_| ApiError::unavailable())
    }

    /// Checks a send and queues it for the group commit; the answer comes through `reply`.
    ///
    /// # Errors
    /// What can be refused without the database.
    pub fn send(&self, app: &App, send: Send, auth: &Auth, reply: Reply) -> ApiResult<()> {
        let mut draft = intake::draft(send, auth.user_id, auth.device_id)?;
        draft.limited = app.limits.check_send(auth.user_id).err();
        match &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => writer.send(draft, reply),
            None => return Err(ApiError::unavailable()),
        }
        Ok(())
    }

    /// [`Realtime::send`] for a request that waits for its answer.
    ///
    /// # Errors
    /// As the answer.
    pub async fn send_and_wait(&self, app: &App, send: Send, auth: &Auth) -> ApiResult<Sent> {
        let (answer, answered) = oneshot::channel();
        self.send(app, send, auth, Reply::Request(answer))?;
        answered.await.map_err(|_| ApiError::outcome_unknown())?
    }

    /// A stream (user, community, private group, channel) has a new head.
    pub fn stream_moved(&self, stream: StreamId, head_seq: u64) {
        self.fanout.look_at(stream);
        self.bus.announce(Hint::StreamMoved { stream, head_seq });
    }

    /// There is something new in a device's inbox.
    pub fn inbox_moved(&self, device: DeviceAddr) {
        self.fanout.inbox_moved(device);
        self.bus.announce(Hint::InboxMoved(device));
    }

    /// The streams that a user can read have changed: joined, left, kicked, banned, added to or removed from a channel.
    pub fn access_changed(&self, user: UserId) {
        self.fanout.access_changed(user);
        self.bus.announce(Hint::AccessChanged(user));
    }

    /// Logins that ended: their WebSockets close with 4003.
    pub fn sessions_revoked(&self, sessions: &[SessionId]) {
        self.hub().end_sessions(sessions, End::Revoked);
        self.bus.announce(Hint::SessionsRevoked(sessions.to_vec()));
    }

    /// What a connected user shows of their presence; told when it is a change.
    pub fn set_status(&self, user: UserId, status: Status) {
        let mut hub = self.hub();
        if hub.set_status(user, status) {
            presence::tell(&hub, user, status);
        }
    }

    /// A device has few one-time prekeys left.
    pub fn keys_low(&self, device: DeviceAddr, one_time: u32, kem: u32) {
        let hub = self.hub();
        if let Some(peer) = hub.device(device)
            && let Some(message) = frames::encode(&ServerFrame::KeysLow { one_time, kem }, peer.encoding)
        {
            peer.queue.push(message, Class::Ephemeral);
        }
    }

    /// WebSockets that are authenticated.
    pub fn connections(&self) -> usize {
        self.hub().len()
    }

    /// The server stops: every connection is told to come back (4012), and no further send is taken.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let (hub, mut n) = (self.hub(), 0);
        let step = RETURN_WITHIN_MS / (hub.len() as u64).max(1);
        hub.end_all(|| {
            // Spread evenly, in the hub's arbitrary order.
            n += 1;
            End::GoingAway { retry_after_ms: n * step }
        });
        drop(hub);
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// For a connection that came while the server began to stop.
    fn end_soon(&self, queue: &Queue) {
        queue.end(End::GoingAway { retry_after_ms: RETURN_WITHIN_MS });
    }

    /// After [`Realtime::drain`]: waits until what was taken is committed and every connection has heard its last words.
    pub async fn finish(&self) {
        self.lanes.wait().await;
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        while !self.hub().is_empty() {
            poll.tick().await;
        }
    }
}

impl Drop for Realtime {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Moves a user's read marker and tells their own devices.
///
/// # Errors
/// 404 for a channel that the user does not read.
pub async fn mark_read(app: &AppState, channel: ChannelId, user: UserId, seq: u64) -> ApiResult<()> {
    let moved = app
        .database
        .transaction(async |conn| {
            if messages::readable_head(conn, channel, user).await?.is_none() {
                return Err(ApiError::not_found());
            }
            let Some(seq) = messages::mark_read(conn, channel, user, seq).await? else { return Ok(None) };
            Ok(Some(streams::append(conn, user.into(), &Event::ReadMarker { channel_id: channel, seq }).await?))
        })
        .await?;
    app.notify(moved);
    Ok(())
}
