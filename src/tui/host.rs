//! The real [`Host`]: a [`Client`] of one profile, and before there is one the steps that make it (`client::setup`, `client::unlock`).

use std::sync::Arc;

use tokio::sync::mpsc;

use super::effect::{Protect, Setup, SetupAnswer};
use super::runtime::{Host, HostEvent};
use crate::client::command::{Command, RequestId};
use crate::client::model::{Problem, ProblemKind};
use crate::client::profile::Profile;
use crate::client::session::SessionRecord;
use crate::client::setup::{Server, log_in_again};
use crate::client::unlock::{self, Protection};
use crate::client::{Client, Events, Settings};
use crate::protocol::auth::SecretText;

pub struct ClientHost {
    profile: Profile,
    settings: Settings,
    running: Option<(Client, Events)>,
    /// Open, but the user still looks at the codes.
    ready: Option<(Client, Events)>,
    server: Option<Arc<Server>>,
    /// Registered in a step that failed afterwards: a second try logs in.
    registered: Option<String>,
    done: mpsc::Sender<Step>,
    steps: mpsc::Receiver<Step>,
}

/// How a step of the setup ended.
enum Step {
    Probed(Result<Server, Problem>),
    Entered {
        registered: Option<String>,
        result: Result<Opened, Problem>,
    },
    /// The server has a new session; the client does not have it yet.
    Session(Result<SessionRecord, Problem>),
    LoggedIn(Result<(), Problem>),
}

struct Opened {
    client: Client,
    events: Events,
    codes: Vec<(&'static str, SecretText)>,
}

impl ClientHost {
    /// For a profile that still has to be made or opened.
    pub fn closed(profile: Profile, settings: Settings) -> Self {
        let (done, steps) = mpsc::channel(1);
        Self { profile, settings, running: None, ready: None, server: None, registered: None, done, steps }
    }

    /// For a client that runs.
    pub fn open(profile: Profile, settings: Settings, client: Client, events: Events) -> Self {
        Self { running: Some((client, events)), ..Self::closed(profile, settings) }
    }

    /// Puts everything away: drafts and waiting messages are on disk afterwards.
    pub async fn close(self) {
        // The events are read until the end, so that nobody waits for us.
        for (client, mut events) in [self.running, self.ready].into_iter().flatten() {
            let drain = async move { while events.recv().await.is_some() {} };
            tokio::select! {
                () = client.close() => {}
                () = drain => {}
            }
        }
    }

    /// What a step brought, in the words of the screen; none when another one follows by itself.
    fn step_done(&mut self, step: Step) -> Option<Result<SetupAnswer, Problem>> {
        if let (Step::Session(Ok(record)), Some((client, _))) = (&step, &self.running) {
            let (done, entering) = (self.done.clone(), client.log_in(record.clone()));
            tokio::spawn(async move {
                let _ = done.send(Step::LoggedIn(entering.await)).await;
            });
            return None;
        }
        Some(self.answer(step))
    }

    fn answer(&mut self, step: Step) -> Result<SetupAnswer, Problem> {
        match step {
            Step::Probed(result) => {
                let server = result?;
                let answer =
                    SetupAnswer::Server { name: server.config.name.as_str().into(), registration: server.config.registration };
                self.server = Some(Arc::new(server));
                Ok(answer)
            }
            Step::Entered { registered, result } => {
                self.registered = registered;
                let Opened { client, events, codes } = result?;
                self.ready = Some((client, events));
                Ok(SetupAnswer::Ready { codes })
            }
            Step::Session(result) => result.map(|_| SetupAnswer::LoggedIn),
            Step::LoggedIn(result) => result.map(|()| SetupAnswer::LoggedIn),
        }
    }
}

impl Host for ClientHost {
    fn send(&mut self, command: Command) -> Option<RequestId> {
        self.running.as_ref().map(|(client, _)| client.send(command))
    }

    fn setup(&mut self, setup: Setup) {
        let (done, profile, settings) = (self.done.clone(), self.profile.clone(), self.settings);
        match setup {
            Setup::Finish => self.running = self.ready.take(),
            Setup::Probe { server } => {
                tokio::spawn(async move {
                    let result = Server::probe(&server, settings).await;
                    let _ = done.send(Step::Probed(result)).await;
                });
            }
            Setup::Enter { register, username, password, invite, protection } => {
                let Some(server) = self.server.clone() else { return };
                let known = self.registered.take().filter(|known| *known == username);
                tokio::spawn(async move {
                    let mut registered = known;
                    let entry = Entry { register, username, password, invite, protection };
                    let result = enter(&server, &profile, entry, &mut registered).await;
                    let _ = done.send(Step::Entered { registered, result }).await;
                });
            }
            Setup::Unlock { passphrase } => {
                tokio::spawn(async move {
                    let result = open(profile, passphrase, settings).await;
                    let _ = done.send(Step::Entered { registered: None, result }).await;
                });
            }
            Setup::LogIn { password } => {
                tokio::spawn(async move {
                    let result = log_in_again(&profile, &password, settings).await;
                    let _ = done.send(Step::Session(result)).await;
                });
            }
        }
    }

    async fn event(&mut self) -> HostEvent {
        loop {
            let (running, steps) = (&mut self.running, &mut self.steps);
            let next = async {
                match running {
                    Some((_, events)) => events.recv().await,
                    None => None,
                }
            };
            tokio::select! {
                Some(event) = next => return HostEvent::Client(event),
                Some(step) = steps.recv() => {
                    if let Some(answer) = self.step_done(step) {
                        return HostEvent::Setup(answer);
                    }
                }
                else => std::future::pending().await,
            }
        }
    }
}

struct Entry {
    register: bool,
    username: String,
    password: SecretText,
    invite: Option<SecretText>,
    protection: Protect,
}

/// An account or a session of it, then the profile.
async fn enter(server: &Server, profile: &Profile, entry: Entry, registered: &mut Option<String>) -> Result<Opened, Problem> {
    let Entry { register, username, password, invite, protection } = entry;
    if let Protect::Passphrase { passphrase, .. } = &protection {
        unlock::check_new_passphrase(passphrase)?;
    }
    let login = if register && registered.is_none() {
        let login = server.register(&username, &password, None, invite.as_ref()).await?;
        *registered = Some(username);
        login
    } else {
        server.log_in(&username, &password, None).await?
    };
    let mut codes = Vec::new();
    if let Some(code) = login.recovery_code.clone() {
        codes.push(("With this code you set a new password when you lose yours (chat recover):", code));
    }
    let protection = match protection {
        Protect::Passphrase { passphrase, remember } => Protection::Passphrase { passphrase, remember },
        Protect::Keyring => Protection::Keyring,
    };
    let begun = server.begin(profile, login, protection).await?;
    if let Some(code) = begun.passphrase {
        codes.push(("This passphrase opens your messages when the kernel has forgotten the key, after a restart:", code));
    }
    Ok(Opened { client: begun.client, events: begun.events, codes })
}

async fn open(profile: Profile, passphrase: SecretText, settings: Settings) -> Result<Opened, Problem> {
    let place = profile.clone();
    let key = tokio::task::spawn_blocking(move || unlock::unlock(&place, &passphrase, false))
        .await
        .map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))??;
    let (client, events) = Client::open(&profile, key, settings).await?;
    Ok(Opened { client, events, codes: Vec::new() })
}
