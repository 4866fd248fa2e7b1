//! What the figures of a whole client stand on: a real server with its own PostgreSQL, five people in one channel and 10,000
//! messages that four of them wrote, a thread under the last one. One reader was away meanwhile; everything that the server
//! told it while it caught up is on a [`Tape`], so that catching up can be repeated without a server. Start at [`History::make`].

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat::client::command::{Command, InviteText, Place};
use chat::client::engine::{Answer as HttpAnswer, Method};
use chat::client::event::{Answer, ClientEvent};
use chat::client::model::{Anchor, Body, MessageRef, TimelinePage, Untrusted};
use chat::client::profile::{Directories, Profile};
use chat::client::setup::{Begun, Server, settle};
use chat::client::store::{Changes, From, Lines, MemoryStore, Position, SqliteStore, Store, StoredMessage, Table};
use chat::client::transport::memory::accept;
use chat::client::transport::{Call, ConnectError, Connection, Incoming, Net, ServerUrl, Transport, TransportError};
use chat::client::unlock::{self, Protection, StoreKey};
use chat::client::{Client, Events, Settings};
use chat::protocol::auth::SecretText;
use chat::protocol::codec::Timestamp;
use chat::protocol::communities::Visibility;
use chat::protocol::devices::SentDevices;
use chat::protocol::frame::{ClientFrame, Ready, SentFrame, ServerFrame};
use chat::protocol::ids::{ChannelId, MessageId};
use chat::protocol::messages::Sent;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// Messages that the reader missed.
pub const ROWS: u64 = 10_000;
const WRITERS: u64 = 4;
/// Replies in the thread under the newest message.
const REPLIES: usize = 30;
/// Messages that a writer leaves with its client at a time.
const AT_ONCE: usize = 100;

/// See the module's documentation. Everything lies in one directory that is removed at the end.
pub struct History {
    directory: tempfile::TempDir,
    key: StoreKey,
    pub channel_id: ChannelId,
    pub root: MessageRef,
    tape: Arc<Tape>,
    /// Catching up with the real server, once.
    pub live: Duration,
    /// The server's head of the channel.
    pub head: u64,
}

/// The reader's profile in one of its states.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// Before it caught up.
    Away,
    /// With 10,000 messages.
    Here,
    /// With the newest 100.
    Small,
    /// With 100,000: between every two, nine copies of the first.
    Large,
}

impl History {
    /// Takes about half a minute.
    pub async fn make() -> Self {
        let directory = tempfile::Builder::new().prefix("chat-bench").tempdir_in("/tmp").unwrap();
        open_to_all(directory.path());
        let mut process = ServerProcess::start(directory.path());
        let server = process.wait().await;
        let mut reader = begin(&server, directory.path(), "reader").await;
        let (channel_id, link) = found(&mut reader).await;
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let mut writer = begin(&server, directory.path(), &format!("writer{number}")).await;
            join(&mut writer, &link, channel_id).await;
            say(&mut writer, channel_id, None, vec!["hello".to_owned()]).await;
            writers.push(writer);
        }
        say(&mut reader, channel_id, None, vec!["back in a moment".to_owned()]).await;
        reader.client.close().await;
        let profile = profile(directory.path(), "reader");
        copy(&profile.data, &directory.path().join("away"));
        let key = unlock::unlock(&profile, &passphrase(), false).unwrap();

        let writing = writers.into_iter().enumerate().map(|(number, mut writer)| {
            tokio::spawn(async move {
                let texts = (0..ROWS / WRITERS).map(|n| text(n * WRITERS + number as u64)).collect();
                say(&mut writer, channel_id, None, texts).await;
                writer
            })
        });
        let mut writers = futures_util::future::join_all(writing).await.into_iter().map(Result::unwrap);
        let mut writer = writers.next().unwrap();
        // The root of the thread is the newest of all: this writer may not have heard yet what the others wrote last.
        say(&mut writer, channel_id, None, vec![text(ROWS)]).await;
        let newest = Command::LoadTimeline { place: main(channel_id), anchor: Anchor::Newest, limit: 10 };
        let Answer::Page(page) = ask(&mut writer, newest).await else { panic!("no page") };
        let last = page.items.iter().rev().find(|item| item.seq.is_some()).unwrap();
        let root = last.key;
        say(&mut writer, channel_id, Some(root), (0..REPLIES).map(|n| text(n as u64)).collect()).await;
        writer.client.close().await;
        for writer in writers {
            writer.client.close().await;
        }

        let tape = Arc::new(Tape::default());
        let settings = Settings::default();
        let url = ServerUrl::parse(&process.address, false).unwrap();
        let recorder = Recorder { net: Net::new(url.clone(), settings.encoding).unwrap(), tape: tape.clone() };
        let begun = Instant::now();
        let store = SqliteStore::open(&profile.store(), key.copy()).unwrap();
        let (client, mut events) = Client::start(Box::new(store), Arc::new(recorder), None).unwrap();
        caught_up(&mut events).await;
        let live = begun.elapsed();
        let head = root_seq(&client, &mut events, channel_id).await;
        let read = Command::MarkRead { channel_id, seq: u64::MAX };
        client.call(&mut events, read, drop).await.unwrap();
        client.close().await;
        // Once more, for what the server says to somebody who has everything: a head below what was read would be a restored server.
        let recorder = Recorder { net: Net::new(url, settings.encoding).unwrap(), tape: tape.clone() };
        let store = SqliteStore::open(&profile.store(), key.copy()).unwrap();
        let (client, mut events) = Client::start(Box::new(store), Arc::new(recorder), None).unwrap();
        caught_up(&mut events).await;
        client.close().await;
        drop(process);
        copy(&profile.data, &directory.path().join("here"));
        let history = Self { directory, key, channel_id, root, tape, live, head };
        history.shrink();
        history.multiply();
        history
    }

    pub fn key(&self) -> StoreKey {
        self.key.copy()
    }

    /// The profile in a state; opening it changes it.
    pub fn profile(&self, state: State) -> Profile {
        let name = match state {
            State::Away => "away",
            State::Here => "here",
            State::Small => "small",
            State::Large => "large",
        };
        let mut profile = profile(self.directory.path(), "reader");
        profile.data = self.directory.path().join(name);
        profile
    }

    /// The profile before it caught up, on a disk of its own to be written to.
    pub fn fresh_store(&self) -> SqliteStore {
        let to = self.directory.path().join("fresh");
        let _ = std::fs::remove_dir_all(&to);
        copy(&self.profile(State::Away).data, &to);
        SqliteStore::open(&to.join("store.db"), self.key()).unwrap()
    }

    /// The same, in memory.
    pub fn fresh_memory(&self) -> MemoryStore {
        let from = SqliteStore::open(&self.profile(State::Away).store(), self.key()).unwrap();
        let mut changes = Changes::default();
        for table in Table::ALL {
            for (key, value) in from.scan(*table, &[], None, usize::MAX).unwrap() {
                changes.records.insert((*table, key), Some(value));
            }
        }
        for message in from.page(self.channel_id, Lines::All, From::End, usize::MAX).unwrap() {
            changes.put_message(message);
        }
        let mut store = MemoryStore::new();
        store.save(changes).unwrap();
        store
    }

    /// What the server said, again; and every frame that the client sends.
    pub fn replay(&self, to: State) -> (Replay, mpsc::UnboundedReceiver<ClientFrame>) {
        let (sent, frames) = mpsc::unbounded_channel();
        let ready = self.tape.ready.lock().unwrap();
        let ready = if matches!(to, State::Away) { ready.first() } else { ready.last() }.cloned();
        let answers = Mutex::new(self.tape.answers.lock().unwrap().clone());
        (Replay { ready: ready.unwrap(), head: self.head, answers, sent }, frames)
    }

    fn shrink(&self) {
        copy(&self.profile(State::Here).data, &self.profile(State::Small).data);
        let mut store = SqliteStore::open(&self.profile(State::Small).store(), self.key()).unwrap();
        let all = self.messages(&store);
        let mut changes = Changes::default();
        for message in all.iter().rev().skip(100) {
            changes.delete_message(self.channel_id, message.key);
        }
        store.save(changes).unwrap();
    }

    fn multiply(&self) {
        copy(&self.profile(State::Here).data, &self.profile(State::Large).data);
        let mut store = SqliteStore::open(&self.profile(State::Large).store(), self.key()).unwrap();
        let all = self.messages(&store);
        for some in all.chunks(1_000) {
            let mut changes = Changes::default();
            for (message, number) in some.iter().flat_map(|message| (1..10).map(move |number| (message, number))) {
                // The root of the thread stays the newest.
                if message.key != self.root {
                    changes.put_message(copy_of(message, number));
                }
            }
            store.save(changes).unwrap();
        }
    }

    fn messages(&self, store: &SqliteStore) -> Vec<StoredMessage> {
        store.page(self.channel_id, Lines::Main, From::End, usize::MAX).unwrap()
    }
}

/// The same words by the same author under another id, right after the original.
fn copy_of(message: &StoredMessage, number: u8) -> StoredMessage {
    let mut id = *message.key.id.as_bytes();
    id[15] = id[15].wrapping_add(number);
    id[14] ^= 0x55;
    let Position { seq, .. } = message.position;
    StoredMessage {
        key: MessageRef { id: MessageId::from_bytes(id), ..message.key },
        position: Position::local(seq, u64::from(number)),
        ..message.clone()
    }
}

/// Words of several lengths, some with markdown.
fn text(n: u64) -> String {
    match n % 5 {
        0 => format!("canary {n} is red on two hosts, rolling back to build {}", n / 7),
        1 => "ok".to_owned(),
        2 => format!("the log says `timeout after {n} ms`, and **nobody** was paged; see the second page of the runbook"),
        3 => format!("> canary is red\n\nwhich one? build {n}?\n\n- the first\n- the second"),
        _ => format!("{n}: {}", "latency is back to normal on every host of the region, ".repeat(4)),
    }
}

fn main(channel_id: ChannelId) -> Place {
    Place { channel_id, thread: None }
}

fn passphrase() -> SecretText {
    "a slow tram crosses the river".into()
}

fn profile(place: &Path, name: &str) -> Profile {
    let place = place.join(name);
    let directories =
        Directories { config: place.join("c"), data: place.join("d"), state: place.join("s"), runtime: Some(place.join("r")) };
    Profile::new(&directories, "bench").unwrap()
}

async fn begin(server: &Server, place: &Path, name: &str) -> Begun {
    let profile = profile(place, name);
    profile.create().unwrap();
    let login = server.register(name, &"seven green kettles whistle".into(), None, None).await.unwrap();
    let protection = Protection::Passphrase { passphrase: passphrase(), remember: false };
    let mut begun = server.begin(&profile, login, protection).await.unwrap();
    let (_, heard) = settle(&mut begun.events).await.unwrap();
    if !heard.iter().any(|event| matches!(event, ClientEvent::Syncing { remaining: 0 })) {
        caught_up(&mut begun.events).await;
    }
    begun
}

async fn ask(person: &mut Begun, command: Command) -> Answer {
    person.client.call(&mut person.events, command, drop).await.unwrap()
}

/// A community with one channel, and the link into it.
async fn found(person: &mut Begun) -> (ChannelId, String) {
    let community = Command::CreateCommunity { name: "Acme".into(), description: None };
    let Answer::Community(community_id) = ask(person, community).await else { panic!("no community") };
    let group = Command::CreateGroup { community_id, name: "Backend".into(), visibility: Visibility::Public };
    let Answer::Group(group_id) = ask(person, group).await else { panic!("no group") };
    let channel = Command::CreateChannel { group_id, name: "general".into(), topic: None, visibility: Visibility::Public };
    let Answer::Channel(channel_id) = ask(person, channel).await else { panic!("no channel") };
    let invite = Command::CreateInvite { community_id, max_uses: None, expires_in_s: None };
    let Answer::Invite(link) = ask(person, invite).await else { panic!("no invite") };
    (channel_id, link.link)
}

/// Joins, and waits until the channel is there.
async fn join(person: &mut Begun, link: &str, channel_id: ChannelId) {
    let is_there = |event: &ClientEvent| {
        let ClientEvent::Tree(tree) = event else { return false };
        let mut groups = tree.communities.iter().flat_map(|community| &community.groups);
        groups.any(|group| group.channels.iter().any(|channel| channel.id == channel_id))
    };
    let mut there = false;
    let command = Command::Join { link: InviteText(link.to_owned()) };
    person.client.call(&mut person.events, command, |event| there |= is_there(&event)).await.unwrap();
    while !there {
        there = is_there(&person.events.recv().await.unwrap());
    }
}

/// Sends texts and waits until the server has them all.
async fn say(person: &mut Begun, channel_id: ChannelId, thread: Option<MessageRef>, texts: Vec<String>) {
    let Begun { client, events, .. } = person;
    let (mut waiting, mut texts) = (std::collections::HashSet::new(), texts.into_iter());
    let mut queued = 0;
    loop {
        while queued + waiting.len() < AT_ONCE
            && let Some(text) = texts.next()
        {
            let place = Place { channel_id, thread };
            client.send(Command::SendText { place, text: Untrusted::new(text), reply_to: None, mentions: Vec::new(), id: None });
            queued += 1;
        }
        if queued + waiting.len() == 0 {
            return;
        }
        match events.recv().await.unwrap() {
            ClientEvent::Done { result, .. } => {
                let Answer::Queued { id } = result.unwrap() else { panic!("not queued") };
                queued -= 1;
                waiting.insert(id);
            }
            ClientEvent::Timeline { items, .. } => {
                for item in items.iter().filter(|item| item.seq.is_some()) {
                    waiting.remove(&item.key.id);
                }
            }
            _ => {}
        }
    }
}

/// Waits until the client has everything that the server has.
pub async fn caught_up(events: &mut Events) {
    loop {
        match tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect("catching up takes a minute").unwrap() {
            ClientEvent::Syncing { remaining: 0 } => return,
            ClientEvent::Notice(problem) => panic!("{problem:?}"),
            _ => {}
        }
    }
}

/// The seq of the newest message, after a look at the newest thousand: all of them are words.
async fn root_seq(client: &Client, events: &mut Events, channel_id: ChannelId) -> u64 {
    let newest = Command::LoadTimeline { place: main(channel_id), anchor: Anchor::Newest, limit: 1_000 };
    let Answer::Page(TimelinePage { items, .. }) = client.call(events, newest, drop).await.unwrap() else { panic!("no page") };
    assert_eq!(items.len(), 1_000);
    for item in &items {
        assert!(matches!(item.body, Body::Text(_)), "{:?}", item.body);
    }
    items.last().and_then(|item| item.seq).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["account.json", "key.json", "store.db"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// PostgreSQL does not run as root: where we are root, it is another user.
fn open_to_all(place: &Path) {
    std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
}

type Asked = (Method, String, Option<Vec<u8>>);

/// Everything that a server said to one client.
#[derive(Default)]
struct Tape {
    /// Of each connection.
    ready: Mutex<Vec<Ready>>,
    answers: Mutex<HashMap<Asked, VecDeque<HttpAnswer>>>,
}

struct Recorder {
    net: Net,
    tape: Arc<Tape>,
}

impl Transport for Recorder {
    fn http(&self, call: Call) -> BoxFuture<'_, Result<HttpAnswer, TransportError>> {
        Box::pin(async move {
            let asked = (call.method, call.path.clone(), call.body.clone());
            let answer = self.net.http(call).await?;
            self.tape.answers.lock().unwrap().entry(asked).or_default().push_back(answer.clone());
            Ok(answer)
        })
    }

    fn connect(&self, token: SecretText) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        Box::pin(async move {
            let connection = self.net.connect(token).await?;
            self.tape.ready.lock().unwrap().push(connection.ready.clone());
            Ok(connection)
        })
    }
}

/// The server, from the tape. It pushes nothing, and acknowledges whatever it is sent.
pub struct Replay {
    ready: Ready,
    head: u64,
    answers: Mutex<HashMap<Asked, VecDeque<HttpAnswer>>>,
    sent: mpsc::UnboundedSender<ClientFrame>,
}

impl Transport for Replay {
    fn http(&self, call: Call) -> BoxFuture<'_, Result<HttpAnswer, TransportError>> {
        let asked = (call.method, call.path, call.body);
        let mut answers = self.answers.lock().unwrap();
        let again = answers.get_mut(&asked).and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        // Fresh keys and the like: not the same twice.
        let unknown = HttpAnswer { status: 404, body: Vec::new() };
        Box::pin(std::future::ready(Ok(again.unwrap_or(unknown))))
    }

    fn connect(&self, _: SecretText) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        let (connection, mut end) = accept(self.ready.clone());
        let (sent, mut head) = (self.sent.clone(), self.head);
        tokio::spawn(async move {
            while let Some(frame) = end.from_client.recv().await {
                let answer = match &frame {
                    ClientFrame::Send(row) => {
                        head += 1;
                        let created_at = Timestamp(chrono::Utc::now().timestamp_millis());
                        let sent = Sent { id: row.id, channel_id: row.channel_id, seq: head, created_at, duplicate: false };
                        Some(SentFrame::Row(sent))
                    }
                    ClientFrame::SendDevices(batch) => {
                        Some(SentFrame::Devices(SentDevices { id: batch.id, missing: Vec::new() }))
                    }
                    _ => None,
                };
                let _ = sent.send(frame);
                if let Some(answer) = answer {
                    let _ = end.to_client.send(Incoming::Frame(ServerFrame::Sent(answer))).await;
                }
            }
        });
        Box::pin(std::future::ready(Ok(connection)))
    }
}

struct ServerProcess {
    child: Child,
    address: String,
}

impl ServerProcess {
    fn start(place: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let limits = ["requests_per_s", "requests_burst", "auth_per_minute", "sends_per_s", "sends_burst", "frames_per_s"];
        let limits: String = limits.iter().chain(&["frames_burst"]).map(|limit| format!("{limit} = 1000000\n")).collect();
        let config: PathBuf = place.join("server.toml");
        std::fs::write(&config, format!("[server.limits]\n{limits}")).unwrap();
        let child = Process::new(env!("CARGO_BIN_EXE_chat"))
            .arg("--config")
            .arg(config)
            .args(["serve", "--registration", "open", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(place.join("server"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address: format!("http://127.0.0.1:{port}") }
    }

    async fn wait(&mut self) -> Server {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match Server::probe(&self.address, Settings::default()).await {
                Ok(server) => return server,
                Err(problem) => assert!(Instant::now() < deadline, "{problem:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Its database ends with it, when it is asked; then the directory can go.
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
