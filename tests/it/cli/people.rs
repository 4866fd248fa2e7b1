//! Accounts with profiles on disk, and the binary run as one of them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chat::client::command::Command;
use chat::client::event::{Answer, ClientEvent};
use chat::client::model::Connection;
use chat::client::profile::{Directories, Profile};
use chat::client::setup::{self, Server};
use chat::client::unlock::{self, Protection};
use chat::client::{Client, Events, Settings};
use chat::protocol::auth::SecretText;
use chat::protocol::communities::Visibility;
use chat::protocol::ids::ChannelId;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::account::PASSWORD;
use crate::support::server::TestServer;

pub const PASSPHRASE: &str = "seven quiet otters";
const LONG: Duration = Duration::from_secs(60);

/// A home directory with one profile.
pub struct Home {
    pub dir: TempDir,
}

/// What a run of the binary left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It ended with this code and said all of this on standard error.
    #[track_caller]
    pub fn refused(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for words in says {
            assert!(self.err.contains(words), "no {words:?} in {self:?}");
        }
        self
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Each line of the output.
    #[track_caller]
    pub fn objects(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The one object on standard error.
    #[track_caller]
    pub fn error(&self) -> Value {
        serde_json::from_str(self.err.trim()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Self { dir };
        home.write("passphrase", PASSPHRASE);
        home.write("password", PASSWORD);
        // Instead of the machine's.
        home.write("config.toml", "");
        home
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn directories(&self) -> Directories {
        Directories {
            config: self.path("config"),
            data: self.path("data"),
            state: self.path("state"),
            runtime: Some(self.path("run")),
        }
    }

    pub fn profile(&self) -> Profile {
        Profile::new(&self.directories(), "default").unwrap()
    }

    /// The whole environment of a program that belongs to this home.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let places = [
            ("CHAT_CONFIG", "config.toml"),
            ("CHAT_CONFIG_DIR", "config"),
            ("CHAT_DATA_DIR", "data"),
            ("CHAT_STATE_DIR", "state"),
            ("CHAT_RUNTIME_DIR", "run"),
            ("CHAT_PASSPHRASE_FILE", "passphrase"),
            ("CHAT_PASSWORD_FILE", "password"),
            ("HOME", ""),
        ];
        places.into_iter().map(|(name, place)| (name, self.path(place))).chain([("TZ", "UTC".into())]).collect()
    }

    /// The binary in a clean environment: this home, no terminal, no questions answered.
    pub fn command(&self, arguments: &[&str]) -> Process {
        let mut command = Process::new(env!("CARGO_BIN_EXE_chat"));
        command
            .env_clear()
            .envs(self.environment())
            // Whoever runs the tests may sit at a terminal.
            .env("CHAT_NO_INPUT", "1")
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Run {
        run(self.command(arguments), "").await
    }

    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        run(command, input).await
    }

    /// The first line of a file of this home.
    fn secret(&self, name: &str) -> SecretText {
        SecretText(std::fs::read_to_string(self.path(name)).unwrap().trim_end().to_owned())
    }

    /// An account with a device and this home as its profile.
    pub async fn register(server: &TestServer, username: &str) -> Self {
        let home = Self::new();
        let (client, _) = home.begin(&server.url(""), username).await;
        client.close().await;
        home
    }

    /// The same in this home with its password and passphrase, and the client left open.
    pub async fn begin(&self, url: &str, username: &str) -> (Client, Events) {
        let profile = self.profile();
        profile.create().unwrap();
        let found = Server::probe(url, Settings::default()).await.unwrap();
        let login = found.register(username, &self.secret("password"), None, None).await.unwrap();
        let protection = Protection::Passphrase { passphrase: self.secret("passphrase"), remember: false };
        let mut begun = found.begin(&profile, login, protection).await.unwrap();
        setup::settle(&mut begun.events).await.unwrap();
        online(&mut begun.events).await;
        (begun.client, begun.events)
    }

    /// Opens the profile in this process.
    pub async fn open(&self) -> (Client, Events) {
        let profile = self.profile();
        let place = profile.clone();
        let passphrase = self.secret("passphrase");
        let key = tokio::task::spawn_blocking(move || unlock::unlock(&place, &passphrase, false)).await.unwrap().unwrap();
        let (client, mut events) = Client::open(&profile, key, Settings::default()).await.unwrap();
        setup::settle(&mut events).await.unwrap();
        (client, events)
    }
}

/// Runs it to its end, which must come.
pub async fn run(mut command: Process, input: &str) -> Run {
    let input = input.to_owned();
    let running = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        Run::of(child.wait_with_output().unwrap())
    });
    tokio::time::timeout(LONG, running).await.expect("the binary does not end").unwrap()
}

/// Kills a process that a test left.
pub struct Background(pub Child);

impl Background {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn ok<T: std::fmt::Debug>(answer: Result<Answer, chat::client::model::Problem>, take: impl Fn(Answer) -> Option<T>) -> T {
    match answer {
        Ok(answer) => take(answer.clone()).unwrap_or_else(|| panic!("{answer:?}")),
        Err(problem) => panic!("{}", problem.text.raw()),
    }
}

/// Asks and gives the answer.
pub async fn ask(client: &Client, events: &mut Events, command: Command) -> Result<Answer, chat::client::model::Problem> {
    tokio::time::timeout(LONG, client.call(events, command, |_| {})).await.expect("no answer")
}

/// Waits for an event.
pub async fn until(events: &mut Events, mut wanted: impl FnMut(&ClientEvent) -> bool) {
    let waiting = async {
        while let Some(event) = events.recv().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("the client ended");
    };
    tokio::time::timeout(LONG, waiting).await.expect("it never came");
}

pub async fn online(events: &mut Events) {
    until(events, |event| matches!(event, ClientEvent::Connection(Connection::Online { .. }))).await;
    until(events, |event| matches!(event, ClientEvent::Syncing { remaining: 0 })).await;
}

/// Alice and Bob in the community `acme` with the channel `ops`; both profiles closed.
pub struct Two {
    pub server: Arc<TestServer>,
    pub alice: Home,
    pub bob: Home,
    pub ops: ChannelId,
}

impl Two {
    pub async fn new() -> Self {
        let server = TestServer::start().await;
        let meeting = Meeting::at(&server.url(""), Home::new(), Home::new()).await;
        Self { server, alice: meeting.alice, bob: meeting.bob, ops: meeting.ops }
    }
}

/// The same two at any server.
pub struct Meeting {
    pub alice: Home,
    pub bob: Home,
    pub ops: ChannelId,
    /// By which Bob came, and others may.
    pub link: String,
}

impl Meeting {
    pub async fn at(url: &str, alice: Home, bob: Home) -> Self {
        let (client, mut events) = alice.begin(url, "alice").await;
        let name = |name: &str| name.to_owned();
        let create = Command::CreateCommunity { name: name("acme"), description: None };
        let community = ok(ask(&client, &mut events, create).await, |answer| match answer {
            Answer::Community(id) => Some(id),
            _ => None,
        });
        let create = Command::CreateGroup { community_id: community, name: name("backend"), visibility: Visibility::Public };
        let group = ok(ask(&client, &mut events, create).await, |answer| match answer {
            Answer::Group(id) => Some(id),
            _ => None,
        });
        let create = Command::CreateChannel { group_id: group, name: name("ops"), topic: None, visibility: Visibility::Public };
        let ops = ok(ask(&client, &mut events, create).await, |answer| match answer {
            Answer::Channel(id) => Some(id),
            _ => None,
        });
        let invite = Command::CreateInvite { community_id: community, max_uses: None, expires_in_s: None };
        let link = ok(ask(&client, &mut events, invite).await, |answer| match answer {
            Answer::Invite(invite) => Some(invite.link),
            _ => None,
        });
        let (other, mut others) = bob.begin(url, "bob").await;
        let join = Command::Join { link: chat::client::command::InviteText(link.clone()) };
        ok(ask(&other, &mut others, join).await, |answer| matches!(answer, Answer::Community(_)).then_some(()));
        // Alice has to know of Bob before she writes.
        let wanted = |event: &ClientEvent| match event {
            ClientEvent::Tree(tree) => tree.communities.iter().any(|community| community.member_count == 2),
            _ => false,
        };
        until(&mut events, wanted).await;
        client.close().await;
        other.close().await;
        Self { alice, bob, ops, link }
    }
}
