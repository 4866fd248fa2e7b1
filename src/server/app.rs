//! What lives as long as the server: configuration, database, keys, limits, and the line to the realtime part.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::ServerConfig;
use crate::protocol::ids::{DeviceAddr, EpochId, SessionId, StreamId, UserId};
use crate::protocol::limits::Limits;
use crate::protocol::users::Status;

use super::attempts::Attempts;
use super::db::{Connection, Database};
use super::error::{ApiError, ApiResult};
use super::limits::RateLimits;
use super::password::Passwords;
use super::realtime::Realtime;
use super::secret::ServerSecret;
use super::token::{AccessTokens, RefreshTokens};

/// What handlers take: `State(app): State<AppState>`.
pub type AppState = Arc<App>;

/// How long a client waits at most, whatever the database does.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From a request's head to its answer: more than the body, the queue for a password and a query may take together.
    pub request: Duration,
    /// From the end of a request's head to the end of its body: who sends it byte by byte holds a place that others need.
    pub body: Duration,
    /// For each step of a WebSocket that asks the database.
    pub socket: Duration,
    /// For one look at what all WebSockets hear.
    pub look: Duration,
    /// For one batch of what has expired: each of its statements may take ten seconds.
    pub batch: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let steps = Duration::from_secs(10);
        Self { request: Duration::from_secs(30), body: steps, socket: steps, look: steps, batch: Duration::from_secs(60) }
    }
}

pub struct App {
    pub config: ServerConfig,
    pub deadlines: Deadlines,
    pub database: Database,
    pub tokens: AccessTokens,
    pub refresh: RefreshTokens,
    pub passwords: Passwords,
    pub attempts: Attempts,
    pub limits: RateLimits,
    realtime: OnceLock<Arc<Realtime>>,
    draining: AtomicBool,
}

impl App {
    pub fn new(config: ServerConfig, database: Database, secret: &ServerSecret, deadlines: Deadlines) -> anyhow::Result<Self> {
        Ok(Self {
            tokens: AccessTokens::new(secret, config.auth.access_token_s)?,
            refresh: RefreshTokens::new(secret, config.auth.refresh_token_s),
            passwords: Passwords::new(&config.auth)?,
            attempts: Attempts::default(),
            limits: RateLimits::new(&config.limits)?,
            config,
            deadlines,
            database,
            realtime: OnceLock::new(),
            draining: AtomicBool::new(false),
        })
    }

    /// A connection of the pool, within two seconds.
    ///
    /// # Errors
    /// 503 `unavailable`.
    pub async fn db(&self) -> Result<Connection<'_>, ApiError> {
        self.database.get().await
    }

    /// The limits as clients learn them.
    pub fn wire_limits(&self) -> Limits {
        let limits = &self.config.limits;
        Limits {
            connections: limits.connections_per_user,
            file: limits.file,
            quota: limits.quota,
            sends_per_s: limits.sends_per_s,
            sends_burst: limits.sends_burst,
            ..Limits::default()
        }
    }

    /// Changes when the database was restored from a backup.
    pub const fn epoch(&self) -> EpochId {
        self.database.epoch()
    }

    /// Connects the realtime part; once, before the first request.
    pub fn set_realtime(&self, realtime: Arc<Realtime>) {
        // A second call would be a second hub: the first one stays.
        let _ = self.realtime.set(realtime);
    }

    /// The live half of the server.
    ///
    /// # Errors
    /// 503 `unavailable` before it was connected.
    pub fn realtime(&self) -> ApiResult<&Arc<Realtime>> {
        self.realtime.get().ok_or_else(ApiError::unavailable)
    }

    /// After the commit: tells the WebSockets which streams moved, as `db::streams::append` returned them.
    pub fn notify(&self, moved: impl IntoIterator<Item = (StreamId, u64)>) {
        if let Some(realtime) = self.realtime.get() {
            for (stream, head_seq) in moved {
                realtime.stream_moved(stream, head_seq);
            }
        }
    }

    pub fn inbox_moved(&self, device: DeviceAddr) {
        if let Some(realtime) = self.realtime.get() {
            realtime.inbox_moved(device);
        }
    }

    pub fn access_changed(&self, users: impl IntoIterator<Item = UserId>) {
        if let Some(realtime) = self.realtime.get() {
            for user in users {
                realtime.access_changed(user);
            }
        }
    }

    /// Tells who is connected what a user shows from now on.
    pub fn status_changed(&self, user: UserId, status: Status) {
        if let Some(realtime) = self.realtime.get() {
            realtime.set_status(user, status);
        }
    }

    pub fn sessions_revoked(&self, sessions: &[SessionId]) {
        if let (Some(realtime), false) = (self.realtime.get(), sessions.is_empty()) {
            realtime.sessions_revoked(sessions);
        }
    }

    pub fn keys_low(&self, device: DeviceAddr, one_time: u32, kem: u32) {
        if let Some(realtime) = self.realtime.get() {
            realtime.keys_low(device, one_time, kem);
        }
    }

    /// `/ready` says no from now on, and WebSockets are told to come back later.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        if let Some(realtime) = self.realtime.get() {
            realtime.drain();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
