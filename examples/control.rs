//! The control of `chat load`: the least that fans a WebSocket frame out to a room, so that the server is compared with the
//! limit of the same libraries on the same machine. `control ADDRESS [POSTGRES]`: with the second argument (a connection string
//! of libpq's form) every frame is committed first, all that wait in one insert.
//!
//! `GET /ws?room=NAME` joins a room; every frame of a member goes to all of them, the sender too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

type Rooms = Arc<Mutex<HashMap<String, Vec<mpsc::Sender<Utf8Bytes>>>>>;
type Job = (Utf8Bytes, oneshot::Sender<()>);

/// Frames that wait for one member, and for the database.
const QUEUE: usize = 4096;
const BATCH: usize = 200;

#[derive(Clone)]
struct Shared {
    rooms: Rooms,
    keep: Option<mpsc::Sender<Job>>,
}

async fn upgrade(ws: WebSocketUpgrade, Query(query): Query<HashMap<String, String>>, State(shared): State<Shared>) -> Response {
    let room = query.get("room").cloned().unwrap_or_default();
    ws.protocols(["chat.v1.json"])
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .on_upgrade(move |socket| async move { member(socket, room, shared).await })
}

async fn member(socket: WebSocket, room: String, shared: Shared) {
    let (mut sink, mut stream) = socket.split();
    let (queue, mut waiting) = mpsc::channel::<Utf8Bytes>(QUEUE);
    shared.rooms.lock().unwrap_or_else(PoisonError::into_inner).entry(room.clone()).or_default().push(queue);
    let writer = tokio::spawn(async move {
        while let Some(first) = waiting.recv().await {
            let mut next = Some(first);
            while let Some(text) = next {
                if sink.feed(Message::Text(text)).await.is_err() {
                    return;
                }
                next = waiting.try_recv().ok();
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    });
    let fan_out = {
        let (rooms, room) = (Arc::clone(&shared.rooms), room.clone());
        move |text: Utf8Bytes| {
            let members = rooms.lock().unwrap_or_else(PoisonError::into_inner).get(&room).cloned().unwrap_or_default();
            for member in members {
                // Whoever does not read loses frames: nothing is promised here.
                let _ = member.try_send(text.clone());
            }
        }
    };
    // Frames go out in the order in which they came, each once it is committed.
    let (committing, mut committed) = mpsc::channel::<(Utf8Bytes, oneshot::Receiver<()>)>(64);
    let ordered = {
        let fan_out = fan_out.clone();
        tokio::spawn(async move {
            while let Some((text, done)) = committed.recv().await {
                if done.await.is_ok() {
                    fan_out(text);
                }
            }
        })
    };
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        match &shared.keep {
            None => fan_out(text),
            Some(keep) => {
                let (done, wait) = oneshot::channel();
                if keep.send((text.clone(), done)).await.is_err() || committing.send((text, wait)).await.is_err() {
                    break;
                }
            }
        }
    }
    writer.abort();
    ordered.abort();
    let mut rooms = shared.rooms.lock().unwrap_or_else(PoisonError::into_inner);
    rooms.entry(room).or_default().retain(|member| !member.is_closed());
}

/// Two connections take turns, each with whatever waits.
async fn start_keeping(url: &str) -> anyhow::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>(QUEUE);
    let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
    for writer in 0..2 {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        if writer == 0 {
            let table =
                "CREATE TABLE IF NOT EXISTS kept (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), channel_id integer NOT NULL,
                         created_at timestamptz NOT NULL DEFAULT clock_timestamp(), ciphertext bytea NOT NULL);
                         CREATE INDEX IF NOT EXISTS kept_channel ON kept (channel_id, created_at DESC); TRUNCATE kept";
            client.batch_execute(table).await?;
        }
        let insert = client.prepare("INSERT INTO kept (channel_id, ciphertext) SELECT 1, unnest($1::bytea[])").await?;
        let jobs = Arc::clone(&jobs);
        tokio::spawn(async move {
            let mut batch: Vec<Job> = Vec::new();
            while jobs.lock().await.recv_many(&mut batch, BATCH).await > 0 {
                // As many bytes as the server keeps of such a frame.
                let rows: Vec<&[u8]> = batch.iter().map(|(text, _)| &text.as_bytes()[..text.len().min(424)]).collect();
                let stored = client.execute(&insert, &[&rows]).await.is_ok();
                for (_, done) in batch.drain(..).filter(|_| stored) {
                    let _ = done.send(());
                }
            }
        });
    }
    Ok(sender)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("usage: control ADDRESS [POSTGRES]")?;
    let keep = match arguments.next() {
        Some(url) => Some(start_keeping(&url).await?),
        None => None,
    };
    let listener = axum::serve::ListenerExt::tap_io(TcpListener::bind(&address).await?, |stream| {
        let _ = stream.set_nodelay(true);
    });
    let shared = Shared { rooms: Rooms::default(), keep };
    let router = Router::new().route("/health", get(async || "ok")).route("/ws", get(upgrade)).with_state(shared);
    Ok(axum::serve(listener, router).await?)
}
