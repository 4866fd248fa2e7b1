//! The headless client: the half of `chat tui` that has no terminal, and the engine of `chat send`, bots and the load
//! generator. It knows nothing of a screen.
//!
//! Start with [`command`], [`event`] and [`model`]: the whole boundary to a user interface. [`Client`] is the handle;
//! [`Client::open`] owns a profile, [`Client::attach`] shares the one that another process owns. Behind it: [`engine`]
//! decides, [`core`] saves, [`driver`] does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::command::{Command, RequestId};
use self::driver::Driver;
use self::event::{Answer, ClientEvent};
use self::lock::{Lock, Locking};
use self::model::{Problem, ProblemKind};
use self::profile::Profile;
use self::session::SessionRecord;
use self::store::{SqliteStore, Store};
use self::transport::{Net, ServerUrl, Transport};
use crate::config::{ClientConfig, WireEncoding};
use crate::crypto::vault::StoreKey;
use crate::protocol::codec::Encoding;

pub mod agent;
pub mod bare;
pub mod command;
pub mod core;
pub mod driver;
pub mod engine;
pub mod event;
pub mod line;
pub mod lock;
pub mod memory;
pub mod model;
pub mod profile;
pub mod session;
pub mod setup;
pub mod store;
pub mod transport;
pub mod unlock;

/// Commands that wait. A user interface sends them one by one; more than this is a program gone wild.
const COMMANDS: usize = 256;
/// How long closing may take: the last transaction and the closing frame.
const CLOSING: Duration = Duration::from_secs(10);

/// What the client tells, in order. Ends after [`ClientEvent::Closed`].
pub type Events = mpsc::Receiver<ClientEvent>;

/// How to reach a server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Plain http to other machines too.
    pub allow_http: bool,
    pub encoding: Encoding,
}

impl From<&ClientConfig> for Settings {
    fn from(config: &ClientConfig) -> Self {
        let encoding = match config.encoding {
            WireEncoding::Json => Encoding::Json,
            WireEncoding::Msgpack => Encoding::MessagePack,
        };
        Self { allow_http: config.allow_http, encoding }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { allow_http: false, encoding: Encoding::Json }
    }
}

/// A running client: here, or in the process that owns the profile. Dropping it stops it without waiting.
pub struct Client {
    commands: mpsc::Sender<(RequestId, Command)>,
    /// For answers that no engine gives.
    events: mpsc::Sender<ClientEvent>,
    last_request: AtomicU64,
    stop: CancellationToken,
    backend: Backend,
}

enum Backend {
    Own { driver: Arc<Driver> },
    Attached { pid: u32 },
}

impl Client {
    /// Opens the profile: this process owns its key state until the client is closed.
    ///
    /// # Errors
    /// When another client owns it (`Locked`), or the store or the address is wrong.
    pub async fn open(profile: &Profile, key: StoreKey, settings: Settings) -> Result<(Self, Events), Problem> {
        profile.require_account()?;
        Self::open_locked(profile, own(profile)?, key, settings).await
    }

    async fn open_locked(profile: &Profile, lock: Lock, key: StoreKey, settings: Settings) -> Result<(Self, Events), Problem> {
        let account = profile.require_account()?;
        let transport = Net::new(ServerUrl::parse(&account.server, settings.allow_http)?, settings.encoding)?;
        let path = profile.store();
        let store = tokio::task::spawn_blocking(move || SqliteStore::open(&path, key))
            .await
            .map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))??;
        let (client, events) = Self::start(Box::new(store), Arc::new(transport), Some(lock))?;
        if let Backend::Own { driver } = &client.backend {
            agent::listen(profile, driver.clone())?;
        }
        Ok((client, events))
    }

    /// A client on any store and transport, without a profile: tests, demonstrations, load generators.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn start(
        store: Box<dyn Store + Send>,
        transport: Arc<dyn Transport>,
        lock: Option<Lock>,
    ) -> Result<(Self, Events), Problem> {
        let (events, received) = mpsc::channel(driver::EVENTS);
        let driver = Arc::new(driver::start(store, transport, events.clone(), lock)?);
        let (commands, mut queue) = mpsc::channel::<(RequestId, Command)>(COMMANDS);
        let stop = driver.shared.stop.clone();
        tokio::spawn({
            let (driver, stop) = (driver.clone(), stop.clone());
            async move {
                while let Some((RequestId(number), command)) = queue.recv().await {
                    if !driver.command(0, number, command).await {
                        break;
                    }
                }
                stop.cancel();
            }
        });
        let backend = Backend::Own { driver };
        Ok((Self { commands, events, last_request: AtomicU64::new(0), stop, backend }, received))
    }

    /// Shares the client that runs in another process; none when no process owns the profile.
    ///
    /// # Errors
    /// When one owns it and does not answer.
    pub async fn attach(profile: &Profile) -> Result<Option<(Self, Events)>, Problem> {
        let Some(owner) = lock::owner(profile)? else { return Ok(None) };
        let (events, received) = mpsc::channel(driver::EVENTS);
        let (commands, queue) = mpsc::channel(COMMANDS);
        let stop = CancellationToken::new();
        agent::join(profile, &owner, queue, events.clone(), stop.clone()).await?;
        let backend = Backend::Attached { pid: owner.pid };
        Ok(Some((Self { commands, events, last_request: AtomicU64::new(0), stop, backend }, received)))
    }

    /// Asks; the answer is a [`ClientEvent::Done`] with this id. Never waits.
    pub fn send(&self, command: Command) -> RequestId {
        let request = RequestId(self.last_request.fetch_add(1, Ordering::Relaxed) + 1);
        if let Err(error) = self.commands.try_send((request, command)) {
            let problem = match error {
                mpsc::error::TrySendError::Full(_) => driver::too_busy(),
                mpsc::error::TrySendError::Closed(_) => ended(),
            };
            let events = self.events.clone();
            tokio::spawn(async move { events.send(ClientEvent::Done { request, result: Err(problem) }).await });
        }
        request
    }

    /// Asks and waits for the answer; events in between go to `meanwhile`.
    ///
    /// # Errors
    /// What the command answered, or that the client ended.
    pub async fn call(
        &self,
        events: &mut Events,
        command: Command,
        mut meanwhile: impl FnMut(ClientEvent),
    ) -> Result<Answer, Problem> {
        let asked = self.send(command);
        while let Some(event) = events.recv().await {
            match event {
                ClientEvent::Done { request, result } if request == asked => return result,
                other => meanwhile(other),
            }
        }
        Err(ended())
    }

    /// Goes on with another login of the same account: after the server ended the session. Only the owner can. Runs on without
    /// the handle.
    ///
    /// # Errors
    /// When another process owns the profile, or the store failed.
    pub fn log_in(&self, record: SessionRecord) -> impl Future<Output = Result<(), Problem>> + Send + use<> {
        let driver = match &self.backend {
            Backend::Own { driver } => Some(driver.clone()),
            Backend::Attached { .. } => None,
        };
        async move {
            let Some(driver) = driver else {
                return Err(Problem::new(ProblemKind::Locked, "another client owns this profile").hint("Log in there."));
            };
            let login = record.login();
            if driver.shared.session.replace(record).await && driver.shared.input(engine::Input::LoggedIn(login)).await {
                return Ok(());
            }
            Err(Problem::new(ProblemKind::Failed, "the local store failed"))
        }
    }

    /// The process that owns the profile, if it is another one.
    pub const fn owner_pid(&self) -> Option<u32> {
        match self.backend {
            Backend::Own { .. } => None,
            Backend::Attached { pid } => Some(pid),
        }
    }

    /// Ends it, and waits until everything is on disk. What waits for the server stays in the outbox.
    pub async fn close(self) {
        self.stop.cancel();
        if let Backend::Own { driver } = &self.backend {
            let _ = tokio::time::timeout(CLOSING, driver.stop()).await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The client is gone, or the process that owned it.
pub fn ended() -> Problem {
    Problem::new(ProblemKind::Failed, "the client has ended").hint("Run `chat doctor`.")
}

/// The lock of a profile for this process.
fn own(profile: &Profile) -> Result<Lock, Problem> {
    profile.create()?;
    match Lock::try_acquire(profile)? {
        Locking::Acquired(lock) => Ok(lock),
        Locking::Taken(owner) => Err(lock::taken(profile, owner.as_ref())),
    }
}
