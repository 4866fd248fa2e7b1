//! The server of [`super::api`] with its live half, on a port: people of the database talk over real WebSockets.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chat::config::ServerConfig;
use chat::server::realtime::Realtime;
use chat::server::realtime::bus::local::Local;
use chat::server::router::router;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::api::{Person, TestServer, new_id};
use super::ws::Ws;

/// A running node.
pub struct Live {
    pub server: Arc<TestServer>,
    pub address: SocketAddr,
    pub realtime: Arc<Realtime>,
    task: AbortHandle,
}

impl Live {
    /// Rates that no test meets by accident.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::of(
            TestServer::with(|config| {
                generous(config);
                change(config);
            })
            .await,
        )
        .await
    }

    /// The live half of a server that is there.
    pub async fn of(server: Arc<TestServer>) -> Self {
        let realtime = Realtime::start(&server.app.database, Box::new(Local));
        server.app.set_realtime(Arc::clone(&realtime));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = router(Arc::clone(&server.app)).into_make_service_with_connect_info::<SocketAddr>();
        let task = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() }).abort_handle();
        Self { server, address, realtime, task }
    }

    /// Somebody's WebSocket, after `ready`.
    pub async fn connect(&self, person: &Person) -> Ws {
        Ws::connect(self.address, &person.token).await
    }

    /// [`Room::make`] on this server.
    pub async fn room<const N: usize>(&self) -> Room<N> {
        Room::make(&self.server).await
    }

    /// Rows of a channel as the database has them: seq and id.
    pub async fn rows(&self, channel: Uuid) -> Vec<(i64, Uuid)> {
        let rows = self.sql.query("SELECT seq, id FROM messages WHERE channel_id = $1 ORDER BY seq", &[&channel]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// The head of a membership log: the epoch of frames.
    pub async fn epoch(&self, log: Uuid) -> u64 {
        self.sql.query_one("SELECT head_seq FROM logs WHERE id = $1", &[&log]).await.unwrap().get::<_, i64>(0) as u64
    }
}

impl Deref for Live {
    type Target = Arc<TestServer>;

    fn deref(&self) -> &Arc<TestServer> {
        &self.server
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Rates that no test meets by accident.
pub fn generous(config: &mut ServerConfig) {
    let limits = &mut config.limits;
    (limits.sends_per_s, limits.sends_burst) = (1_000_000, 1_000_000);
    (limits.frames_per_s, limits.frames_burst) = (1_000_000, 1_000_000);
    limits.connections_per_address = 10_000;
}

/// A channel and the people in it.
pub struct Room<const N: usize> {
    pub people: [Person; N],
    pub community: Uuid,
    pub group: Uuid,
    pub channel: Uuid,
}

impl<const N: usize> Room<N> {
    /// People, the first of whom owns a community with a channel that all of them read.
    pub async fn make(server: &Arc<TestServer>) -> Self {
        let people: [Person; N] = server.people().await;
        let community = people[0].community().await;
        for person in &people[1..] {
            people[0].add(community, person, 0).await;
        }
        let group = people[0].group(community).await;
        let channel = people[0].channel(community, group).await;
        Self { people, community, group, channel }
    }

    /// A message in the channel at the epoch of a fresh room.
    pub fn message(&self, sender: &Person) -> Value {
        message(self.channel, sender, N as u64)
    }
}

/// A `message` for a channel, with an id of its own; also the body of the HTTP request.
pub fn message(channel: Uuid, sender: &Person, epoch: u64) -> Value {
    message_of(channel, sender.id, epoch)
}

/// The same of somebody's first device.
pub fn message_of(channel: Uuid, sender: Uuid, epoch: u64) -> Value {
    let frame = channel_frame(channel, sender, 1, epoch);
    json!({
        "id": new_id(), "channel_id": channel, "kind": "message",
        "ciphertext": STANDARD.encode(frame), "nonce": STANDARD.encode([0; 12]),
    })
}

/// A request of another kind, aimed at a row.
pub fn aimed(kind: &str, target: &Value, channel: Uuid, sender: &Person, epoch: u64) -> Value {
    let mut request = message(channel, sender, epoch);
    request["kind"] = kind.into();
    request["target_id"] = target["id"].clone();
    request
}

/// A frame of type 3 with a true header and noise behind it: the server looks no deeper.
pub fn channel_frame(channel: Uuid, user: Uuid, device: u32, epoch: u64) -> Vec<u8> {
    let mut frame = vec![1, 3, 0, 1];
    frame.extend(channel.as_bytes());
    frame.extend(user.as_bytes());
    frame.extend(device.to_be_bytes());
    frame.extend(1u32.to_be_bytes());
    frame.extend(0u32.to_be_bytes());
    frame.extend(epoch.to_be_bytes());
    frame.extend(Uuid::now_v7().as_bytes().repeat(2));
    frame.extend([7; 128 + 16 + 64]);
    frame
}

/// A frame of type 1 with noise in it.
pub fn dm_frame() -> Vec<u8> {
    let mut frame = vec![1, 1, 0, 1];
    frame.extend([5; 16 + 32]);
    frame.extend([0; 8]);
    frame.extend(Uuid::now_v7().as_bytes().repeat(2));
    frame.extend([7; 128 + 16]);
    frame
}

/// A copy of a direct message, or of a `send_devices` batch.
pub fn copy(user: Uuid, device: u32) -> Value {
    json!({ "user_id": user, "device_id": device, "ciphertext": STANDARD.encode(dm_frame()), "nonce": STANDARD.encode([0; 12]) })
}
