//! A client for one subcommand: the one that runs in another process, else one of our own for as long as it takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Globals, Stop, ask, report};
use crate::client::command::Command;
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Account, Connection, Problem, ProblemKind, Tree};
use crate::client::profile::{Directories, Profile};
use crate::client::unlock::StoreKey;
use crate::client::{Client, Events, Settings, ended, lock, setup, unlock};
use crate::config::{Config, Sources};

/// Events that are kept while something else is waited for; older ones are in the store.
const HEARD: usize = 4096;

/// Several commands at once wait for each other: for one owner of the profile that does not answer so long, and in all, while
/// one follows another.
const CROWD: Duration = Duration::from_secs(20);
const CROWDS: Duration = Duration::from_secs(120);
const MOMENT: Duration = Duration::from_millis(50);
/// The longest that a command may take: a change that is signed again whenever somebody else's came first.
const ANSWER: Duration = Duration::from_secs(300);
/// What the client does by itself may take so long before something is printed, and before it ends. A server that does not
/// answer holds up no command longer.
const SETTLING: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(3);

/// An open profile.
pub struct Session {
    pub client: Client,
    pub account: Arc<Account>,
    pub tree: Arc<Tree>,
    pub connection: Connection,
    /// Whether everything that the server has was taken in since the line came up.
    pub caught_up: bool,
    /// The client is gone: another process that owned it has ended.
    pub ended: bool,
    events: Events,
    globals: Globals,
    /// Heard while something else was waited for.
    heard: VecDeque<ClientEvent>,
}

/// The configuration, for its client half.
///
/// # Errors
/// When it is wrong: file, line and column.
pub fn config(globals: &Globals) -> Result<Config, Problem> {
    config_with(globals, Vec::new())
}

/// The configuration under these flags, by key.
///
/// # Errors
/// As [`config`].
pub fn config_with(globals: &Globals, flags: Vec<(String, String)>) -> Result<Config, Problem> {
    Sources::from_process(globals.config.clone(), flags).and_then(|sources| Config::load(&sources)).map_err(|error| {
        Problem::new(ProblemKind::Config, error.to_string()).hint("Every key is explained in config.example.toml.")
    })
}

/// # Errors
/// When the configuration is wrong.
pub fn settings(globals: &Globals) -> Result<Settings, Problem> {
    Ok(Settings::from(&config(globals)?.client))
}

/// # Errors
/// When the name is wrong or there is no home.
pub fn profile(globals: &Globals) -> Result<Profile, Problem> {
    Profile::new(&Directories::from_env()?, &globals.profile)
}

/// The store key: from the kernel's keyring, from where a script put the passphrase, or from the person.
///
/// # Errors
/// `Locked` without a passphrase or with a wrong one.
pub async fn key(globals: &Globals, profile: &Profile) -> Result<StoreKey, Stop> {
    if let Some(key) = unlock::remembered(profile)? {
        return Ok(key);
    }
    let passphrase = match unlock::provided_passphrase()? {
        Some(passphrase) => passphrase,
        None => {
            let otherwise =
                "Set CHAT_PASSPHRASE_FILE or CHAT_PASSPHRASE_FD, keep `chat tui` open, or let the kernel remember it.";
            let question = format!("Passphrase of profile {}", profile.name);
            ask::secret(globals, &question, otherwise).map_err(|stop| match stop {
                Stop::Problem(problem) => {
                    Problem::new(ProblemKind::Locked, format!("profile `{}` is locked", profile.name)).hint(problem.hint).into()
                }
                signal @ Stop::Signal(_) => signal,
            })?
        }
    };
    let place = profile.clone();
    Ok(tokio::task::spawn_blocking(move || unlock::unlock(&place, &passphrase, false))
        .await
        .map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))??)
}

impl Session {
    /// Attaches to a running client, or opens the profile here. Commands that run at the same time find each other starting
    /// and ending; that is waited out.
    ///
    /// # Errors
    /// When there is no account, no key, or no store.
    pub async fn open(globals: &Globals) -> Result<Self, Stop> {
        let profile = profile(globals)?;
        profile.require_account()?;
        let settings = settings(globals)?;
        let mut known: Option<StoreKey> = None;
        let last = Instant::now() + CROWDS;
        let (mut owner, mut deadline) = (None, Instant::now() + CROWD);
        loop {
            let tried = match Client::attach(&profile).await {
                Ok(Some((client, events))) => Self::begin(client, events, globals).await,
                Ok(None) => {
                    let key = match &known {
                        Some(key) => key.copy(),
                        None => known.insert(key(globals, &profile).await?).copy(),
                    };
                    match Client::open(&profile, key, settings).await {
                        Ok((client, events)) => return Self::begin(client, events, globals).await,
                        Err(problem) => Err(problem.into()),
                    }
                }
                Err(problem) => Err(problem.into()),
            };
            match tried {
                Err(Stop::Problem(problem)) if may_pass(&problem) && Instant::now() < deadline.min(last) => {
                    let now = lock::owner(&profile)?.map(|owner| owner.pid);
                    if now != owner {
                        (owner, deadline) = (now, Instant::now() + CROWD);
                    }
                    sleep(MOMENT).await;
                }
                other => return other,
            }
        }
    }

    /// Attaches to a running client; none when there is none.
    ///
    /// # Errors
    /// When one runs and does not answer.
    pub async fn attach(profile: &Profile, globals: &Globals) -> Result<Option<Self>, Stop> {
        match Client::attach(profile).await? {
            Some((client, events)) => Self::begin(client, events, globals).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits for the account of a client that was just opened.
    ///
    /// # Errors
    /// When the engine says that there is none.
    pub async fn begin(client: Client, mut events: Events, globals: &Globals) -> Result<Self, Stop> {
        let (account, heard) = match setup::settle(&mut events).await {
            Ok(settled) => settled,
            Err(problem) => {
                client.close().await;
                return Err(problem.into());
            }
        };
        let mut session = Self {
            client,
            account,
            tree: Arc::default(),
            connection: Connection::Starting,
            caught_up: false,
            ended: false,
            events,
            globals: globals.clone(),
            heard: VecDeque::new(),
        };
        for event in heard {
            session.note(&event);
            session.keep(event);
        }
        Ok(session)
    }

    /// The next event; none when the client ended.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        if let Some(event) = self.heard.pop_front() {
            return Some(event);
        }
        let Some(event) = self.events.recv().await else {
            self.ended = true;
            return None;
        };
        self.note(&event);
        Some(event)
    }

    /// Asks and waits for the answer; what else is heard comes later through [`Session::next`].
    ///
    /// # Errors
    /// What the command answered.
    pub async fn call(&mut self, command: Command) -> Result<Answer, Problem> {
        let asked = self.client.send(command);
        let deadline = Instant::now() + ANSWER;
        loop {
            let event = timeout_at(deadline, self.events.recv()).await.map_err(|_| {
                Problem::new(ProblemKind::Failed, "the client does not answer")
                    .hint("Whether it was done is not known. Look first.")
            })?;
            let Some(event) = event else {
                self.ended = true;
                return Err(ended());
            };
            self.note(&event);
            match event {
                ClientEvent::Done { request, result } if request == asked => return result,
                // A client that another process owned and that ended answers nothing more.
                ClientEvent::Closed => return Err(ended()),
                other => self.keep(other),
            }
        }
    }

    /// Waits until the line is up and everything was caught up with; false when that did not happen in time.
    pub async fn online(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !(self.caught_up && matches!(self.connection, Connection::Online { .. })) {
            if self.ended || matches!(self.connection, Connection::LoggedOut { .. }) {
                return false;
            }
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => {
                    self.note(&event);
                    self.keep(event);
                }
                Ok(None) => {
                    self.ended = true;
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits a moment until nothing is under way that the client does by itself: what the server has is here, what messages
    /// wait for was fetched, and what the server is owed is there. False when that did not happen.
    pub async fn settled(&mut self) -> bool {
        self.settled_within(SETTLING).await
    }

    async fn settled_within(&mut self, within: Duration) -> bool {
        let up = self.caught_up && matches!(self.connection, Connection::Online { .. }) && !self.ended;
        up && timeout(within, self.call(Command::Settle)).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Waits until the tree is as wanted; false when that did not happen in time.
    pub async fn tree_where(&mut self, wanted: impl Fn(&Tree) -> bool, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !wanted(&self.tree) && !self.ended {
            let Ok(Some(event)) = timeout_at(deadline, self.events.recv()).await else { return false };
            self.note(&event);
            self.keep(event);
        }
        true
    }

    /// For [`Session::next`]; what [`Session::note`] took in needs no second hearing.
    fn keep(&mut self, event: ClientEvent) {
        if matches!(event, ClientEvent::Timeline { .. } | ClientEvent::TimelineRemoved { .. } | ClientEvent::Closed) {
            self.heard.push_back(event);
            if self.heard.len() > HEARD {
                self.heard.pop_front();
            }
        }
    }

    /// Why there is no line, and what that means for what was asked.
    pub fn offline(&self, meaning: &str) -> Problem {
        match &self.connection {
            Connection::LoggedOut { why } => Problem::new(ProblemKind::Auth, format!("not logged in: {}", why.raw()))
                .hint(format!("Run `chat login`; your history is kept. {meaning}")),
            Connection::Offline { why, .. } => {
                Problem::new(ProblemKind::Network, format!("the server cannot be reached: {}", why.raw())).hint(meaning)
            }
            _ => Problem::new(ProblemKind::Network, "the server does not answer").hint(meaning),
        }
    }

    /// Puts everything away. What the client has begun by itself comes to its end, if that is soon: new keys that the server
    /// shall hand out, receipts. A client that goes on in another process does it there.
    pub async fn close(mut self) {
        if self.client.owner_pid().is_none() {
            self.settled_within(LAST).await;
        }
        self.client.close().await;
    }

    fn note(&mut self, event: &ClientEvent) {
        match event {
            ClientEvent::Opened { account, tree } => (self.account, self.tree) = (account.clone(), tree.clone()),
            ClientEvent::Tree(tree) => self.tree = tree.clone(),
            ClientEvent::Connection(connection) => {
                if !matches!(connection, Connection::Online { .. }) {
                    self.caught_up = false;
                }
                self.connection = connection.clone();
            }
            ClientEvent::Syncing { remaining } => self.caught_up = *remaining == 0,
            ClientEvent::Closed => self.ended = true,
            // Nobody else may hear it.
            ClientEvent::Notice(problem) if !self.globals.quiet => report(problem, &self.globals),
            _ => {}
        }
    }
}

/// Another process had the profile for a moment, or ended while we shared it.
fn may_pass(problem: &Problem) -> bool {
    problem.kind == ProblemKind::Locked || *problem == ended()
}
