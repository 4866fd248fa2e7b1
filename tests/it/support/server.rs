//! A real server in this process, on a port of its own with a database of its own, and what a test may look at or change
//! behind its back. Who talks to it: `Anon` in [`super::http`], `User` and `Device` in [`super::account`], who come in through
//! the door, and `Person` in [`super::person`], who is put into the database and signs ops.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use chat::config::{Config, ServerConfig};
use chat::protocol::auth::Registration;
use chat::server::app::{App, Deadlines};
use chat::server::realtime::Realtime;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

use super::database::TestDatabase;
use super::http::{Anon, Http};
use super::proxy::Proxy;
use super::ws::Ws;

/// A running server. It drains when it is dropped.
pub struct TestServer {
    pub address: SocketAddr,
    pub database: TestDatabase,
    /// Between the server and its database.
    pub proxy: Proxy,
    /// The test's own connection to the database.
    pub sql: Client,
    /// Of its own for [`check`](TestServer::check), which reads one moment while other requests go on.
    pub(super) checks: tokio::sync::Mutex<Client>,
    pub(super) names: AtomicU64,
    pub(super) anon: Anon,
    config: Config,
    running: Mutex<Option<Running>>,
    // Holds the server's secret.
    _folder: tempfile::TempDir,
}

struct Running {
    app: Arc<App>,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// Open registration and rates that no test meets by accident.
    pub async fn start() -> Arc<Self> {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Arc<Self> {
        Self::over(TestDatabase::new().await, change).await
    }

    /// Over a database that is there.
    pub async fn over(database: TestDatabase, change: impl FnOnce(&mut ServerConfig)) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let server = &mut config.server;
        server.data_dir = folder.path().to_owned();
        server.registration = Registration::Open;
        server.database.pool_size = 8;
        server.drain_timeout_s = 2;
        let limits = &mut server.limits;
        (limits.requests_per_s, limits.requests_burst, limits.auth_per_minute) = (1_000_000, 1_000_000, 1_000_000);
        (limits.sends_per_s, limits.sends_burst) = (1_000_000, 1_000_000);
        (limits.frames_per_s, limits.frames_burst) = (1_000_000, 1_000_000);
        limits.connections_per_address = 10_000;
        change(server);
        let proxy = Proxy::before(&database).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sql, checks) = (database.client().await, tokio::sync::Mutex::new(database.client().await));
        let server = Self {
            address,
            database,
            proxy,
            sql,
            checks,
            names: AtomicU64::new(1),
            anon: Anon::at(&format!("http://{address}")),
            config,
            running: Mutex::default(),
            _folder: folder,
        };
        server.run(listener, Deadlines::default()).await;
        Arc::new(server)
    }

    async fn run(&self, listener: TcpListener, deadlines: Deadlines) {
        let (shutdown, signal) = oneshot::channel::<()>();
        let app = chat::server::prepare(self.config.clone(), &self.proxy.url, deadlines).await.unwrap();
        let app = Arc::new(app);
        let running = chat::server::run(Arc::clone(&app), listener, async {
            let _ = signal.await;
        });
        let task = tokio::spawn(running);
        *self.running.lock().unwrap() = Some(Running { app, shutdown, task });
    }

    /// Drains and waits for the end.
    pub async fn stop(&self) {
        let running = self.running.lock().unwrap().take();
        if let Some(Running { shutdown, task, .. }) = running {
            let _ = shutdown.send(());
            task.await.unwrap().unwrap();
        }
    }

    /// Starts again on the same port, database and secret.
    pub async fn restart(&self) {
        self.restart_within(Deadlines::default()).await;
    }

    /// With deadlines of its own.
    pub async fn restart_within(&self, deadlines: Deadlines) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener, deadlines).await;
    }

    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.running.lock().unwrap().as_ref().unwrap().app)
    }

    pub fn realtime(&self) -> Arc<Realtime> {
        Arc::clone(self.app().realtime().unwrap())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn anon(&self) -> Anon {
        self.anon.clone()
    }

    /// Somebody's WebSocket, after `ready`.
    pub async fn connect(&self, who: &impl Http) -> Ws {
        Ws::connect(self.address, who.token().unwrap()).await
    }

    /// The events of a stream, oldest first.
    pub async fn events(&self, stream: impl Into<Uuid>) -> Vec<Value> {
        let query = "SELECT event::text FROM stream_events WHERE stream_id = $1 ORDER BY seq";
        let stream: Uuid = stream.into();
        let rows = self.sql.query(query, &[&stream]).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
    }

    /// The kinds of a stream's events from an index on.
    pub async fn kinds(&self, stream: impl Into<Uuid>, from: usize) -> Vec<String> {
        let events = self.events(stream).await;
        events[from..].iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
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
