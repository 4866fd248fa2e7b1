//! Twenty senders in ten channels while the server is killed again and again, and its PostgreSQL with it. Senders repeat
//! the same bytes until they are acknowledged; readers resume from their cursors. Then the checker looks at everything.
//!
//! A few seconds in `make test`; `CHAT_TORTURE_SECONDS` makes it longer (`make torture`).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat::protocol::codec::Encoding;
use chat::server::db;
use chat::server::postgres::{Cluster, Options};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::support::binary::Serve;
use crate::support::checker::{History, Logged};
use crate::support::database::TestDatabase;
use crate::support::http::client;
use crate::support::room::{Room, message_of};
use crate::support::server::TestServer;
use crate::support::ws::Ws;

const SENDERS: usize = 20;
const CHANNELS: usize = 10;
/// Between two attempts to reach a server that is down.
const RETRY: Duration = Duration::from_millis(50);
/// Longer than a start with crash recovery takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the senders and readers of a run share.
struct Run {
    address: SocketAddr,
    http: reqwest::Client,
    channels: Vec<Uuid>,
    epoch: u64,
    history: Mutex<History>,
    stop: AtomicBool,
}

/// Somebody who writes and reads.
struct Client {
    number: usize,
    person: Uuid,
    token: String,
    /// Not acknowledged yet: at most one for each channel, so that a sender's order is defined.
    open: HashMap<Uuid, Value>,
    /// By channel, as applied.
    read: BTreeMap<Uuid, Vec<(u64, Uuid)>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_while_the_server_is_killed() {
    let seconds = std::env::var("CHAT_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut server = Serve::prepared(|command| {
        for limit in ["FRAMES_PER_S", "FRAMES_BURST", "CONNECTIONS_PER_ADDRESS"] {
            command.env(format!("CHAT__SERVER__LIMITS__{limit}"), "100000");
        }
    });
    let (people, channels, epoch) = prepare(&server.data_dir()).await;
    let reader = people[0].1.clone();
    server.restart().await;

    let address = server.address().parse().unwrap();
    let run = Arc::new(Run { address, http: client(), channels, epoch, history: Mutex::default(), stop: AtomicBool::new(false) });
    let clients: Vec<_> = people
        .into_iter()
        .enumerate()
        .map(|(number, (person, token))| {
            let client = Client { number, person, token, open: HashMap::new(), read: BTreeMap::new() };
            let run = Arc::clone(&run);
            tokio::spawn(
                async move { if number % 5 == 4 { client.over_http(&run).await } else { client.over_websocket(&run).await } },
            )
        })
        .collect();

    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut acked) = (0, 0);
    while Instant::now() < end {
        // Killed in the middle of work: a good number of new acknowledgements came since the last time.
        let before = run.history.lock().unwrap().acks();
        let until = Instant::now() + PATIENCE;
        while run.history.lock().unwrap().acks() < before + 200 {
            assert!(Instant::now() < until, "no acknowledgements come");
            sleep(RETRY).await;
        }
        acked = run.history.lock().unwrap().acks();
        server.kill().await;
        kills += 1;
        server.restart().await;
    }
    run.stop.store(true, Ordering::SeqCst);
    let mut done = Vec::new();
    for client in clients {
        done.push(timeout(PATIENCE, client).await.expect("a client does not come to an end").unwrap());
    }
    for mut client in done {
        // What others wrote after this one had ended.
        client.catch_up(&run).await;
        let mut history = run.history.lock().unwrap();
        for (channel, rows) in client.read {
            history.read(format!("client {}", client.number), channel, rows);
        }
    }
    for channel in &run.channels {
        let rows = whole_log(&run, &reader, *channel).await;
        run.history.lock().unwrap().logged(*channel, rows);
    }
    let history = run.history.lock().unwrap();
    assert_eq!(history.violations(), []);
    println!("{kills} kills, {} acknowledged sends ({acked} before the last kill)", history.acks());
    assert!(kills > 1);
}

/// A cluster with people in ten channels, and the secret that signed their tokens, for `chat serve` to take over.
async fn prepare(data_dir: &Path) -> (Vec<(Uuid, String)>, Vec<Uuid>, u64) {
    let options = Options::new(data_dir);
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(&options)).await.unwrap().unwrap();
    db::migrate(cluster.url()).await.unwrap();
    let secret = data_dir.join("secret");
    let server = TestServer::over(TestDatabase::at(cluster.url()), |config| config.secret_file = secret).await;
    let room: Room<SENDERS> = Room::make(&server).await;
    let mut channels = vec![room.channel];
    while channels.len() < CHANNELS {
        channels.push(room.people[0].channel(room.community, room.group).await);
    }
    let epoch = server.sql.query_one("SELECT head_seq FROM logs", &[]).await.unwrap().get::<_, i64>(0) as u64;
    let people = room.people.iter().map(|person| (person.id, person.token.clone())).collect();
    server.stop().await;
    drop((room, server));
    tokio::task::spawn_blocking(move || cluster.stop()).await.unwrap();
    (people, channels, epoch)
}

/// Every row of a channel, page by page.
async fn whole_log(run: &Run, token: &str, channel: Uuid) -> Vec<Logged> {
    let mut rows: Vec<Logged> = Vec::new();
    loop {
        let after = rows.last().map_or(0, |row| row.seq);
        let url = format!("http://{}/api/v1/channels/{channel}/messages?after={after}&limit=100", run.address);
        let page: Value =
            serde_json::from_slice(&run.http.get(url).bearer_auth(token).send().await.unwrap().bytes().await.unwrap()).unwrap();
        rows.extend(page["items"].as_array().unwrap().iter().map(|row| Logged {
            seq: row["seq"].as_u64().unwrap(),
            id: row["id"].as_str().unwrap().parse().unwrap(),
            sender: row["sender_id"].as_str().map(|id| id.parse().unwrap()),
            created_at: row["created_at"].as_str().unwrap().into(),
        }));
        if page["has_more"] == false {
            return rows;
        }
    }
}

impl Client {
    /// The next sends, one for each channel that has none open. After the end only what is open goes on.
    fn invoke(&mut self, run: &Run) -> Vec<Value> {
        if run.stop.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut new = Vec::new();
        for channel in &run.channels {
            if !self.open.contains_key(channel) {
                let request = message_of(*channel, self.person, run.epoch);
                run.history.lock().unwrap().invoked(*channel, self.person, id_of(&request));
                self.open.insert(*channel, request.clone());
                new.push(request);
            }
        }
        new
    }

    fn acked(&mut self, run: &Run, answer: &Value) {
        let channel: Uuid = answer["channel_id"].as_str().unwrap().parse().unwrap();
        if self.open.get(&channel).is_some_and(|request| request["id"] == answer["id"]) {
            self.open.remove(&channel);
            run.history.lock().unwrap().acked(id_of(answer), channel, answer["seq"].as_u64().unwrap());
        }
    }

    fn have(&self, channel: Uuid) -> u64 {
        self.read.get(&channel).and_then(|rows| rows.last()).map_or(0, |(seq, _)| *seq)
    }

    /// The rule of a client: the next one is applied, an old one ignored, a gap is for the caller to fill.
    fn apply(&mut self, channel: Uuid, seq: u64, id: Uuid) -> bool {
        let have = self.have(channel);
        if seq == have + 1 {
            self.read.entry(channel).or_default().push((seq, id));
        }
        seq <= have + 1
    }

    async fn over_websocket(mut self, run: &Run) -> Self {
        loop {
            let Ok(mut ws) = Ws::open(run.address, Encoding::Json).await else {
                sleep(RETRY).await;
                continue;
            };
            if self.live(run, &mut ws).await.is_some() {
                return self;
            }
        }
    }

    /// One connection; some when everything is done, none when it broke.
    async fn live(&mut self, run: &Run, ws: &mut Ws) -> Option<()> {
        ws.socket.send(Message::text(json!({ "type": "authenticate", "token": self.token }).to_string())).await.ok()?;
        let ready = frame(ws).await?;
        if ready["type"] != "ready" {
            return None;
        }
        self.catch_up(run).await;
        // The same bytes again: what was stored answers with its first place.
        let mut out: Vec<Value> = self.open.values().cloned().collect();
        loop {
            out.extend(self.invoke(run));
            if self.open.is_empty() {
                return Some(());
            }
            for mut request in out.drain(..) {
                request["type"] = "send".into();
                ws.socket.feed(Message::text(request.to_string())).await.ok()?;
            }
            ws.socket.flush().await.ok()?;
            let frame = frame(ws).await?;
            match frame["type"].as_str()? {
                "sent" => self.acked(run, &frame),
                "event" if run.channels.iter().any(|channel| frame["stream"] == json!(channel)) => {
                    let channel = frame["stream"].as_str()?.parse().ok()?;
                    if !self.apply(channel, frame["seq"].as_u64()?, id_of(&frame["event"])) {
                        self.catch_up(run).await;
                    }
                }
                "error" => {
                    assert!(frame["code"] == "unavailable" || frame["code"] == "outcome_unknown", "{frame}");
                    let again = self.open.values().find(|request| request["id"] == frame["ref"]);
                    out.extend(again.cloned());
                    sleep(RETRY).await;
                }
                _ => {}
            }
        }
    }

    async fn over_http(mut self, run: &Run) -> Self {
        loop {
            self.invoke(run);
            let Some(request) = self.open.values().next().cloned() else { break };
            let url = format!("http://{}/api/v1/channels/{}/messages", run.address, request["channel_id"].as_str().unwrap());
            match self.post(run, &url, &request).await {
                Some((200 | 201, answer)) => self.acked(run, &answer),
                Some((503, _)) | None => sleep(RETRY).await,
                Some(other) => panic!("{other:?}"),
            }
        }
        self
    }

    async fn post(&self, run: &Run, url: &str, body: &Value) -> Option<(u16, Value)> {
        let request =
            run.http.post(url).bearer_auth(&self.token).header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, serde_json::from_slice(&answer.bytes().await.ok()?).ok()?))
    }

    /// Resumes every channel from its cursor, until a server answered that there is no more.
    async fn catch_up(&mut self, run: &Run) {
        loop {
            let cursors: BTreeMap<String, u64> = run.channels.iter().map(|id| (id.to_string(), self.have(*id))).collect();
            let url = format!("http://{}/api/v1/sync", run.address);
            let Some((200, answer)) = self.post(run, &url, &json!({ "cursors": cursors, "limit": 1000 })).await else {
                sleep(RETRY).await;
                continue;
            };
            for event in answer["events"].as_array().unwrap() {
                let channel = event["stream"].as_str().unwrap().parse().unwrap();
                assert!(self.apply(channel, event["seq"].as_u64().unwrap(), id_of(&event["event"])), "sync left a gap: {event}");
            }
            if answer["more"] == false {
                return;
            }
        }
    }
}

async fn frame(ws: &mut Ws) -> Option<Value> {
    loop {
        match timeout(PATIENCE, ws.socket.next()).await.ok()?? {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

fn id_of(value: &Value) -> Uuid {
    value["id"].as_str().unwrap().parse().unwrap()
}
