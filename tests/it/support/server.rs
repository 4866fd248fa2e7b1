//! A real server on a port of its own with a database of its own, and the people who talk to it. Each identity is a type
//! with verbs, so that a test reads as who does what: [`Anon`] has no login, [`User`] has one, [`Device`] can sign.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat::config::Config;
use chat::crypto::identity::LocalDevice;
use chat::crypto::prekeys::PrekeySecrets;
use chat::protocol::auth::{LoggedIn, Registration, Tokens};
use chat::protocol::codec::Blob;
use chat::protocol::devices::{DeviceSession, RegisterDevice};
use chat::protocol::error::{ErrorBody, ErrorCode};
use chat::protocol::ids::{DeviceId, UserId};
use chat::protocol::keys::{KemPrekey, OneTimePrekey, SignedPrekey};
use chat::protocol::users::User as Profile;
use chat::server;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::database::TestDatabase;

/// The password of every test account that does not say otherwise.
pub const PASSWORD: &str = "correct horse battery";

/// A running server. It drains when it is dropped.
pub struct TestServer {
    pub address: SocketAddr,
    pub database: TestDatabase,
    config: Config,
    // Holds the server's secret.
    _folder: tempfile::TempDir,
    http: reqwest::Client,
    running: Option<Running>,
}

struct Running {
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// Open registration and rates that no test meets by accident.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = folder.path().to_owned();
        config.server.registration = Registration::Open;
        config.server.database.pool_size = 8;
        config.server.drain_timeout_s = 2;
        config.server.limits.requests_per_s = 100_000;
        config.server.limits.requests_burst = 100_000;
        config.server.limits.auth_per_minute = 100_000;
        change(&mut config);
        let database = TestDatabase::new().await;
        let listener = TcpListener::bind(&config.server.listen.replace(":8008", ":0")).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Self { address, database, config, _folder: folder, http: client(), running: None };
        server.run(listener);
        server
    }

    fn run(&mut self, listener: TcpListener) {
        let (shutdown, signal) = oneshot::channel::<()>();
        let (config, url) = (self.config.clone(), self.database.url.clone());
        let task = tokio::spawn(async move {
            server::serve(config, &url, listener, async {
                let _ = signal.await;
            })
            .await
        });
        self.running = Some(Running { shutdown, task });
    }

    /// Drains and waits for the end.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.shutdown.send(());
            running.task.await.unwrap().unwrap();
        }
    }

    /// Starts again on the same port, database and secret.
    pub async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn anon(&self) -> Anon {
        Anon { base: self.url("/api/v1"), http: self.http.clone() }
    }

    /// A new account with a login and no device.
    pub async fn user(&self, username: &str) -> User {
        let body = json!({ "username": username, "password": PASSWORD });
        let answer: LoggedIn = self.anon().post("/auth/register", &body).await.ok(201);
        User::of(self.anon(), answer)
    }

    /// A new account with its first device.
    pub async fn device(&self, username: &str) -> Device {
        Device::first(self.user(username).await).await
    }
}

/// One for each server: connections are kept and belong to the runtime of the test.
pub fn client() -> reqwest::Client {
    // Plain HTTP, but the client wants to know that TLS would be possible.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap()
}

/// Nobody in particular.
#[derive(Clone)]
pub struct Anon {
    base: String,
    http: reqwest::Client,
}

/// A login.
#[derive(Clone)]
pub struct User {
    pub anon: Anon,
    pub profile: Profile,
    pub tokens: Tokens,
    pub recovery_code: Option<String>,
}

/// A login that is a device and can sign.
pub struct Device {
    pub user: User,
    pub local: LocalDevice,
    pub keys: PrekeySecrets,
    pub list: chat::crypto::device_list::DeviceList,
}

/// What the server said.
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn ok<T: DeserializeOwned>(self, status: u16) -> T {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn empty(self) {
        assert_eq!((self.status, self.body.len()), (204, 0), "{}", String::from_utf8_lossy(&self.body));
    }

    /// Refused with this code, with the status that belongs to it; answers the details.
    #[track_caller]
    pub fn refused(self, code: ErrorCode) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        let body: ErrorBody = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {text}", self.status));
        assert_eq!((self.status, body.error.code), (code.status(), code), "{text}");
        body.error.details.unwrap_or(Value::Null)
    }
}

/// The verbs of HTTP, for whoever has a path and perhaps a token.
pub trait Http {
    fn anon(&self) -> &Anon;
    fn token(&self) -> Option<&str>;

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.anon().http.request(method, format!("{}{path}", self.anon().base));
        match self.token() {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        Answer { status: response.status().as_u16(), retry_after, body: response.bytes().await.unwrap().to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request("POST", path).json(body)).await
    }

    async fn put(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request("PUT", path).json(body)).await
    }

    async fn patch(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request("PATCH", path).json(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    async fn delete_with(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request("DELETE", path).json(body)).await
    }
}

impl Http for Anon {
    fn anon(&self) -> &Anon {
        self
    }
    fn token(&self) -> Option<&str> {
        None
    }
}

impl Http for User {
    fn anon(&self) -> &Anon {
        &self.anon
    }
    fn token(&self) -> Option<&str> {
        Some(&self.tokens.access_token.0)
    }
}

impl Http for Device {
    fn anon(&self) -> &Anon {
        &self.user.anon
    }
    fn token(&self) -> Option<&str> {
        self.user.token()
    }
}

impl Anon {
    /// Of any server.
    pub fn at(url: &str) -> Self {
        Self { base: format!("{url}/api/v1"), http: client() }
    }

    /// A new login of an account.
    pub async fn login(&self, username: &str) -> User {
        let answer: LoggedIn = self.post("/auth/login", &json!({ "username": username, "password": PASSWORD })).await.ok(200);
        User::of(self.clone(), answer)
    }
}

impl User {
    pub fn of(anon: Anon, answer: LoggedIn) -> Self {
        Self { anon, profile: answer.user, tokens: answer.tokens, recovery_code: answer.recovery_code.map(|code| code.0) }
    }

    pub fn id(&self) -> UserId {
        self.profile.id
    }

    /// The same login with other tokens.
    pub fn with_tokens(&self, tokens: Tokens) -> Self {
        Self { tokens, ..self.clone() }
    }
}

impl Device {
    /// Registers the account's first device.
    pub async fn first(user: User) -> Self {
        let (local, list) = LocalDevice::first(*user.id().as_bytes(), now_ms(), &mut rng()).unwrap();
        let mut device = Self { user, local, keys: PrekeySecrets::default(), list };
        let mut request = device.registration(3, 2);
        request.identity_key = Some(Blob::from(*device.local.identity().as_bytes()));
        request.device_list = Some(Blob::from(device.list.as_bytes()));
        device.register(&request).await;
        device
    }

    /// Registers with a request of its own and takes the new tokens.
    pub async fn register(&mut self, request: &RegisterDevice) {
        let answer: DeviceSession = self.post("/devices", request).await.ok(201);
        assert_eq!(answer.device_id, self.device_id());
        self.user.tokens = answer.tokens;
    }

    /// A further device of the same person on a login of its own, already in the signed list.
    pub async fn linked(&mut self) -> Self {
        let session = self.user.anon.login(&self.user.profile.username).await;
        let id = self.list.entries().iter().map(|entry| entry.device_id).max().unwrap() + 1;
        let local = self.sibling(id);
        let list = self.next_list(&[self.local.certificate(), local.certificate()]);
        let mut device = Self { user: session, local, keys: PrekeySecrets::default(), list: list.clone() };
        let mut request = device.registration(3, 2);
        request.device_list = Some(Blob::from(list.as_bytes()));
        device.register(&request).await;
        self.list = list;
        device
    }

    /// Keys of another device under this identity.
    pub fn sibling(&self, device_id: DeviceId) -> LocalDevice {
        let secret = self.local.identity_secret().unwrap();
        let identity = chat::crypto::signature::SigningKey::from_seed(secret.expose_seed());
        let addr = chat::crypto::identity::Addr::new(*self.user.id().as_bytes(), device_id);
        LocalDevice::under(identity, addr, now_ms(), &mut rng()).unwrap()
    }

    /// The next signed list, not published.
    pub fn next_list(&self, devices: &[&chat::crypto::cert::DeviceCert]) -> chat::crypto::device_list::DeviceList {
        let secret = self.local.identity_secret().unwrap();
        let list =
            chat::crypto::device_list::DeviceList::sign(secret, *self.id().as_bytes(), Some(&self.list), devices, now_ms());
        list.unwrap()
    }

    /// A registration of this device with fresh prekeys, without identity key and list.
    pub fn registration(&mut self, one_time: u32, kem: u32) -> RegisterDevice {
        let (signed, last) = self.keys.rotate(&self.local, now_ms(), &mut rng()).unwrap();
        RegisterDevice {
            device_id: self.device_id(),
            name: format!("device {}", self.device_id()),
            identity_key: None,
            certificate: Blob::from(*self.local.certificate().as_bytes()),
            device_list: None,
            signed_prekey: signed_prekey(&signed),
            last_kem_prekey: kem_prekey(&last),
            one_time_prekeys: self.one_time_prekeys(one_time),
            kem_prekeys: self.kem_prekeys(kem),
            reset: false,
            password: None,
        }
    }

    pub fn one_time_prekeys(&mut self, count: u32) -> Vec<OneTimePrekey> {
        let keys = self.keys.add_one_time(count, &mut rng()).unwrap();
        keys.iter().map(|key| OneTimePrekey { id: key.id, public_key: Blob::from(key.public.0) }).collect()
    }

    pub fn kem_prekeys(&mut self, count: u32) -> Vec<KemPrekey> {
        let keys = self.keys.add_kem(&self.local, count, now_ms(), &mut rng()).unwrap();
        keys.iter().map(kem_prekey).collect()
    }

    pub fn id(&self) -> UserId {
        self.user.id()
    }

    pub fn device_id(&self) -> DeviceId {
        self.local.addr().device_id
    }
}

pub fn signed_prekey(key: &chat::crypto::bundle::SignedPrekey) -> SignedPrekey {
    SignedPrekey {
        id: key.id,
        public_key: Blob::from(key.public.0),
        created_ms: key.created,
        signature: Blob::from(key.signature),
    }
}

pub fn kem_prekey(key: &chat::crypto::bundle::KemPrekey) -> KemPrekey {
    KemPrekey {
        kind: key.kind as u8,
        id: key.id,
        public_key: Blob::from(key.public.as_slice()),
        created_ms: key.created,
        signature: Blob::from(key.signature),
    }
}

/// Randomness of the operating system: keys of two tests never meet.
pub fn rng() -> rand_core::UnwrapErr<getrandom::SysRng> {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// A clock that never says the same twice, near the real one.
pub fn now_ms() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    LAST.fetch_max(now, Ordering::Relaxed);
    LAST.fetch_add(1, Ordering::Relaxed)
}
