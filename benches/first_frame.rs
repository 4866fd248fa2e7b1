//! From an unlocked key to the first screen with messages on it, out of a store with 100,000 messages in one channel; beside
//! it, as the control of the same run, out of a store with 100. The store is a real one: a real client made it against a real
//! server, and the message in it was copied.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use chat::client::command::{Command, Place, RequestId};
use chat::client::event::{Answer, ClientEvent};
use chat::client::model::{MessageRef, Untrusted};
use chat::client::profile::{Directories, Profile};
use chat::client::setup::{Server, settle};
use chat::client::store::{Changes, From, Lines, Position, SqliteStore, Store as _};
use chat::client::unlock::{self, Protection};
use chat::client::{Client, Events, Settings};
use chat::crypto::vault::StoreKey;
use chat::protocol::auth::SecretText;
use chat::protocol::codec::Timestamp;
use chat::protocol::communities::Visibility;
use chat::protocol::ids::{ChannelId, MessageId};
use chat::tui::app::{App, update, view};
use chat::tui::effect::Effect;
use chat::tui::msg::Msg;
use chat::tui::theme::Theme;
use criterion::{Criterion, criterion_group, criterion_main};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const TEXT: &str = "canary is red on two hosts, rolling back to build 41";

fn benchmark(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::Builder::new().prefix("chat-bench").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let mut group = criterion.benchmark_group("first_frame");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for messages in [100, 100_000] {
        let place = dir.path().join(messages.to_string());
        let (profile, key) = runtime.block_on(prepare(&place, messages));
        group.bench_function(format!("{messages} messages"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| runtime.block_on(first_frame(&profile, key.copy()))).sum());
        });
    }
    group.finish();
}

/// Opens the profile as the terminal client does, and draws until a message is on the screen.
async fn first_frame(profile: &Profile, key: StoreKey) -> Duration {
    let begun = Instant::now();
    let (client, mut events) = Client::open(profile, key, Settings::default()).await.unwrap();
    let mut app = App::new(Timestamp(0), jiff::tz::TimeZone::UTC, (200, 50), Theme::default());
    let mut terminal = Terminal::new(TestBackend::new(200, 50)).unwrap();
    let mut asked: HashMap<RequestId, RequestId> = HashMap::new();
    let took = loop {
        let event = match events.recv().await.unwrap() {
            ClientEvent::Done { request, result } => match asked.remove(&request) {
                Some(request) => ClientEvent::Done { request, result },
                None => continue,
            },
            other => other,
        };
        for effect in update(&mut app, Msg::Client(event)) {
            if let Effect::Client(request, command) = effect {
                asked.insert(client.send(command), request);
            }
        }
        terminal.draw(|frame| view(&app, frame)).unwrap();
        let screen: String = terminal.backend().buffer().content().iter().map(ratatui::buffer::Cell::symbol).collect();
        if screen.contains("rolling back to build 41") {
            break begun.elapsed();
        }
    };
    client.close().await;
    took
}

/// A profile whose one channel holds this many messages. Its server is gone afterwards: the client works offline.
async fn prepare(place: &Path, messages: u64) -> (Profile, StoreKey) {
    std::fs::create_dir(place).unwrap();
    std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let mut server = ServerProcess::start(place);
    let directories =
        Directories { config: place.join("c"), data: place.join("d"), state: place.join("s"), runtime: Some(place.join("r")) };
    let profile = Profile::new(&directories, "bench").unwrap();
    profile.create().unwrap();
    let passphrase: SecretText = "a slow tram crosses the river".into();
    let setup = server.wait().await;
    let login = setup.register("bench", &"seven green kettles whistle".into(), None, None).await.unwrap();
    let protection = Protection::Passphrase { passphrase: passphrase.clone(), remember: false };
    let mut begun = setup.begin(&profile, login, protection).await.unwrap();
    settle(&mut begun.events).await.unwrap();
    let channel_id = channel(&begun.client, &mut begun.events).await;
    let message = Command::SendText {
        place: Place { channel_id, thread: None },
        text: Untrusted::new(TEXT),
        reply_to: None,
        mentions: Vec::new(),
        id: None,
    };
    ask(&begun.client, &mut begun.events, message).await;
    while let Some(event) = begun.events.recv().await {
        let committed = |items: &[std::sync::Arc<chat::client::model::TimelineItem>]| {
            items.iter().any(|item| item.seq.is_some() && item.mine)
        };
        if matches!(&event, ClientEvent::Timeline { items, .. } if committed(items)) {
            break;
        }
    }
    begun.client.close().await;
    server.0.kill().unwrap();
    let key = unlock::unlock(&profile, &passphrase, false).unwrap();
    multiply(&profile, &key, channel_id, messages);
    (profile, key)
}

/// Copies the one message until there are enough.
fn multiply(profile: &Profile, key: &StoreKey, channel_id: ChannelId, messages: u64) {
    let mut store = SqliteStore::open(&profile.store(), key.copy()).unwrap();
    let one = store.page(channel_id, Lines::Main, From::End, 1).unwrap().remove(0);
    for from in (1..messages).step_by(10_000) {
        let mut changes = Changes::default();
        for number in from..messages.min(from + 10_000) {
            let mut copy = one.clone();
            let mut id = *one.key.id.as_bytes();
            id[8..].copy_from_slice(&number.to_be_bytes());
            copy.key = MessageRef { id: MessageId::from_bytes(id), ..one.key };
            copy.position = Position::row(one.position.seq + number);
            changes.put_message(copy);
        }
        store.save(changes).unwrap();
    }
}

async fn channel(client: &Client, events: &mut Events) -> ChannelId {
    let community = Command::CreateCommunity { name: "Acme".into(), description: None };
    let Answer::Community(community_id) = ask(client, events, community).await else { panic!("no community") };
    let group = Command::CreateGroup { community_id, name: "Backend".into(), visibility: Visibility::Public };
    let Answer::Group(group_id) = ask(client, events, group).await else { panic!("no group") };
    let channel = Command::CreateChannel { group_id, name: "general".into(), topic: None, visibility: Visibility::Public };
    let Answer::Channel(channel_id) = ask(client, events, channel).await else { panic!("no channel") };
    channel_id
}

async fn ask(client: &Client, events: &mut Events, command: Command) -> Answer {
    client.call(events, command, |_| {}).await.unwrap()
}

struct ServerProcess(Child, String);

impl ServerProcess {
    fn start(place: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Process::new(env!("CARGO_BIN_EXE_chat"))
            .args(["serve", "--registration", "open", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(place.join("server"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, format!("http://127.0.0.1:{port}"))
    }

    async fn wait(&mut self) -> Server {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match Server::probe(&self.1, Settings::default()).await {
                Ok(server) => return server,
                Err(problem) => assert!(Instant::now() < deadline, "{problem:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
