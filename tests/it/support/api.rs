//! The REST interface without a socket: the real router over a database of the test's own, and people with a device who sign.
//!
//! People are put into the database directly, because a test of communities needs no password and no prekey. Ops are written
//! byte by byte after `crypto.md` 11.1, so that they can be wrong in every way, and so that the layout is checked from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chat::config::{Config, ServerConfig};
use chat::crypto::device_list::DeviceList;
use chat::crypto::identity::LocalDevice;
use chat::crypto::membership::{Log, Role};
use chat::crypto::signature::SigningKey;
use chat::crypto::{kdf, labels};
use chat::protocol::ids::{SessionId, UserId};
use chat::server::app::App;
use chat::server::db::Database;
use chat::server::router::router;
use chat::server::secret::ServerSecret;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::database::TestDatabase;

/// The secret that signs the tokens of these servers.
pub const SECRET: [u8; 32] = [7; 32];

/// A server with its database.
pub struct TestServer {
    pub app: Arc<App>,
    router: Router,
    pub sql: tokio_postgres::Client,
    /// Of its own for [`check`](TestServer::check), which reads one moment while other requests go on.
    checks: Mutex<tokio_postgres::Client>,
    names: AtomicU64,
    _database: Option<TestDatabase>,
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A user with one device and a session.
#[derive(Clone)]
pub struct Person {
    pub server: Arc<TestServer>,
    pub id: Uuid,
    pub device: Arc<LocalDevice>,
    pub token: String,
}

impl TestServer {
    pub async fn new() -> Arc<Self> {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ServerConfig)) -> Arc<Self> {
        let database = TestDatabase::new().await;
        let url = database.url.clone();
        Self::over(&url, Some(database), change).await
    }

    /// Over a database of somebody else's.
    pub async fn over(url: &str, database: Option<TestDatabase>, change: impl FnOnce(&mut ServerConfig)) -> Arc<Self> {
        let mut config = Config::default().server;
        (config.limits.requests_per_s, config.limits.requests_burst) = (1_000_000, 1_000_000);
        change(&mut config);
        let secret = ServerSecret::from_bytes(SECRET);
        let pool = Database::connect(url, 8).await.unwrap();
        let app = Arc::new(App::new(config, pool, &secret).unwrap());
        let (sql, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let (checks, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let (checks, names) = (Mutex::new(checks), AtomicU64::new(1));
        Arc::new(Self { router: router(Arc::clone(&app)), app, sql, checks, names, _database: database })
    }

    /// A new user who has a device.
    pub async fn person(self: &Arc<Self>) -> Person {
        let (person, list) = self.insert_person().await;
        let user = person.id;
        let (cert, identity) = (person.device.certificate(), person.identity());
        let fingerprint = kdf::hash(&[&identity]);
        let (cert_bytes, cert_hash) = (&cert.as_bytes()[..], &cert.hash()[..]);
        self.sql
            .execute(
                "INSERT INTO identities (user_id, fingerprint, identity_key, head_seq) VALUES ($1, $2, $3, 1)",
                &[&user, &&fingerprint[..], &&identity[..]],
            )
            .await
            .unwrap();
        self.sql
            .execute(
                "INSERT INTO certificates (user_id, fingerprint, cert_hash, device_id, certificate) VALUES ($1, $2, $3, 1, $4)",
                &[&user, &&fingerprint[..], &cert_hash, &cert_bytes],
            )
            .await
            .unwrap();
        self.sql
            .execute(
                "INSERT INTO device_lists (user_id, fingerprint, seq, list, list_hash) VALUES ($1, $2, 1, $3, $4)",
                &[&user, &&fingerprint[..], &list.as_bytes(), &&list.hash()[..]],
            )
            .await
            .unwrap();
        self.sql
            .execute("INSERT INTO devices (user_id, device_id, name, cert_hash) VALUES ($1, 1, 'test', $2)", &[&user, &cert_hash])
            .await
            .unwrap();
        self.sql.execute("UPDATE sessions SET device_id = 1 WHERE user_id = $1", &[&user]).await.unwrap();
        person
    }

    /// A new user whose session has no device; the keys of `device` are nowhere published.
    pub async fn person_without_device(self: &Arc<Self>) -> Person {
        self.insert_person().await.0
    }

    async fn insert_person(self: &Arc<Self>) -> (Person, DeviceList) {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let (user, session, name) = (Uuid::now_v7(), Uuid::now_v7(), format!("person{number}"));
        self.sql.execute("INSERT INTO streams (id) VALUES ($1)", &[&user]).await.unwrap();
        self.sql
            .execute(
                "INSERT INTO users (id, username, username_skeleton, password_hash) VALUES ($1, $2, $2, '-')",
                &[&user, &name],
            )
            .await
            .unwrap();
        self.sql
            .execute("INSERT INTO sessions (id, user_id, ip) VALUES ($1, $2, '127.0.0.1')", &[&session, &user])
            .await
            .unwrap();
        let (token, _) = self.app.tokens.issue(UserId(user), SessionId(session), Some(1)).unwrap();
        let (device, list) = LocalDevice::first(*user.as_bytes(), now_ms(), &mut random()).unwrap();
        (Person { server: Arc::clone(self), id: user, device: Arc::new(device), token: token.0 }, list)
    }

    pub async fn people<const N: usize>(self: &Arc<Self>) -> [Person; N] {
        let mut people = Vec::new();
        for _ in 0..N {
            people.push(self.person().await);
        }
        people.try_into().ok().unwrap()
    }

    /// A request to a path below `/api/v1`.
    pub async fn call(&self, token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let response = self.router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 10_000_000).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        let answer = Answer { status, body };
        assert!(status < 500, "{method} {path}: {answer:?}");
        if method != "GET" {
            self.check().await;
        }
        answer
    }

    /// The events of a stream, oldest first.
    pub async fn events(&self, stream: Uuid) -> Vec<Value> {
        let rows =
            self.sql.query("SELECT event::text FROM stream_events WHERE stream_id = $1 ORDER BY seq", &[&stream]).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
    }

    /// The kinds of a stream's events from an index on.
    pub async fn kinds(&self, stream: Uuid, from: usize) -> Vec<String> {
        let events = self.events(stream).await;
        events[from..].iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// What must hold after every request, whatever it did or refused: rows are what the signed logs say, each op was told
    /// once and in order, and every stream and channel is gapless.
    pub async fn check(&self) {
        let sql = self.checks.lock().await;
        sql.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.unwrap();
        let logs = sql
            .query(
                "SELECT l.id, l.kind, l.head_seq, l.head_hash, l.shrink_seq, l.open, l.who_can_create_invites, c.owner_id,
                        (c.id IS NOT NULL AND c.deleted_at IS NULL) OR (g.id IS NOT NULL AND g.deleted_at IS NULL)
                        OR (h.id IS NOT NULL AND h.deleted_at IS NULL),
                        ARRAY(SELECT o.op FROM log_ops o WHERE o.log_id = l.id ORDER BY o.seq)
                   FROM logs l LEFT JOIN communities c ON c.id = l.id LEFT JOIN groups g ON g.id = l.id
                   LEFT JOIN channels h ON h.id = l.id",
                &[],
            )
            .await
            .unwrap();
        for row in logs {
            let (id, ops): (Uuid, Vec<Vec<u8>>) = (row.get(0), row.get(9));
            let log = Log::replay(id.as_bytes(), &ops).unwrap();
            assert_eq!(row.get::<_, i64>(2), i64::try_from(log.epoch()).unwrap());
            assert_eq!(row.get::<_, Vec<u8>>(3), log.newest_head());
            assert_eq!(row.get::<_, i64>(4), i64::try_from(log.shrunk_at().unwrap_or(0)).unwrap());
            assert_eq!((row.get::<_, bool>(5), row.get::<_, i16>(6)), (log.is_open(), log.invite_role() as i16));
            let live: bool = row.get(8);
            let members = sql
                .query("SELECT user_id, role, joined_seq FROM members WHERE log_id = $1 ORDER BY user_id", &[&id])
                .await
                .unwrap();
            let members: Vec<(Uuid, i16, i64)> = members.iter().map(|m| (m.get(0), m.get(1), m.get(2))).collect();
            let told = log.members().map(|(user, m)| (Uuid::from_bytes(*user), m.role as i16, i64::try_from(m.since).unwrap()));
            let told: Vec<_> = told.filter(|_| live).collect();
            assert_eq!(members, told, "members rows of log {id} are not the log's members");
            let bans = sql.query("SELECT user_id FROM bans WHERE log_id = $1 ORDER BY user_id", &[&id]).await.unwrap();
            let bans: Vec<Uuid> = bans.iter().map(|ban| ban.get(0)).collect();
            assert_eq!(bans, log.banned().filter(|_| live).map(|user| Uuid::from_bytes(*user)).collect::<Vec<_>>());
            let invites = sql
                .query("SELECT public_key, used_count FROM invites WHERE log_id = $1 ORDER BY public_key", &[&id])
                .await
                .unwrap();
            let invites: Vec<(Vec<u8>, i64)> = invites.iter().map(|invite| (invite.get(0), invite.get(1))).collect();
            let told = log.invites().map(|(key, _)| (key.to_vec(), i64::from(log.invite_uses(key))));
            assert_eq!(invites, told.filter(|_| live).collect::<Vec<_>>(), "invites of log {id}");
            if let Some(owner) = row.get::<_, Option<Uuid>>(7).filter(|_| live) {
                assert_eq!(log.member(owner.as_bytes()).map(|member| member.role), Some(Role::Owner));
            }
            let column = if row.get::<_, i16>(1) == 1 {
                "SELECT body->>'op' FROM messages WHERE channel_id = $1 AND kind = 'member' ORDER BY seq"
            } else {
                "SELECT event->>'op' FROM stream_events WHERE stream_id = $1 AND event->>'kind' = 'log_op' ORDER BY seq"
            };
            let told: Vec<String> = sql.query(column, &[&id]).await.unwrap().iter().map(|row| row.get(0)).collect();
            assert_eq!(
                told,
                ops.iter().map(|op| STANDARD.encode(op)).collect::<Vec<_>>(),
                "the ops of log {id} as they were told"
            );
        }
        let gaps = "SELECT s.id::text FROM streams s LEFT JOIN stream_events e ON e.stream_id = s.id
                     GROUP BY s.id HAVING count(e.seq) <> s.head_seq OR coalesce(max(e.seq), 0) <> s.head_seq
                     UNION ALL
                    SELECT h.channel_id::text FROM channel_heads h LEFT JOIN messages m ON m.channel_id = h.channel_id
                     GROUP BY h.channel_id HAVING count(m.seq) <> h.head_seq OR coalesce(max(m.seq), 0) <> h.head_seq";
        let gaps: Vec<String> = sql.query(gaps, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(gaps, Vec::<String>::new(), "streams with a gap");
        sql.batch_execute("COMMIT").await.unwrap();
    }
}

fn random() -> rand_core::UnwrapErr<getrandom::SysRng> {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

impl Answer {
    /// The body of an answer with this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The details of an error with this code.
    #[track_caller]
    pub fn fails(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.body["error"]["code"].as_str()), (status, Some(code)), "{}", self.body);
        self.body["error"]["details"].clone()
    }
}

impl Person {
    pub async fn get(&self, path: &str) -> Answer {
        self.server.call(Some(&self.token), "GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.server.call(Some(&self.token), "POST", path, Some(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.server.call(Some(&self.token), "PUT", path, Some(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.server.call(Some(&self.token), "PATCH", path, Some(&body)).await
    }

    pub async fn delete(&self, path: &str, body: Option<Value>) -> Answer {
        self.server.call(Some(&self.token), "DELETE", path, body.as_ref()).await
    }

    pub fn identity(&self) -> [u8; 32] {
        *self.device.identity().as_bytes()
    }

    /// An empty op at the next place of a log.
    pub async fn op(&self, log: Uuid) -> Op<'_> {
        let head = self.server.sql.query_opt("SELECT head_seq, head_hash FROM logs WHERE id = $1", &[&log]).await.unwrap();
        let (seq, prev) = match head {
            Some(row) => (row.get::<_, i64>(0) as u64 + 1, row.get::<_, Vec<u8>>(1).try_into().unwrap()),
            None => (0, [0; 32]),
        };
        Op {
            signer: &self.device,
            log,
            seq,
            prev,
            actor: self.id,
            device_id: 1,
            cert_hash: *self.device.certificate().hash(),
            list_seq: 1,
            kind: 0,
            target: Uuid::nil(),
            identity: [0; 32],
            arg: Vec::new(),
            time: now_ms(),
        }
    }

    /// A community of one's own.
    pub async fn community(&self) -> Uuid {
        let id = new_id();
        let op = self.op(id).await.create(2);
        self.post("/communities", json!({ "id": id, "name": "Rust", "log_op": op })).await.is(201);
        id
    }

    /// Adds somebody by an `add` op to a community.
    pub async fn add(&self, community: Uuid, who: &Person, role: u8) {
        let op = self.op(community).await.add(who, role);
        self.post(&format!("/communities/{community}/log-ops"), json!({ "op": op })).await.is(201);
    }

    pub async fn group(&self, community: Uuid) -> Uuid {
        let id = new_id();
        self.post(&format!("/communities/{community}/groups"), json!({ "id": id, "name": "General" })).await.is(201);
        id
    }

    pub async fn private_group(&self, community: Uuid) -> Uuid {
        let id = new_id();
        let op = self.op(id).await.create(2);
        let body = json!({ "id": id, "name": "Staff", "visibility": "private", "log_op": op });
        self.post(&format!("/communities/{community}/groups"), body).await.is(201);
        id
    }

    /// A channel attached to a community or private group.
    pub async fn channel(&self, log: Uuid, group: Uuid) -> Uuid {
        let id = new_id();
        let op = self.op(log).await.attach(id, true);
        self.post(&format!("/groups/{group}/channels"), json!({ "id": id, "name": "general", "log_op": op })).await.is(201);
        id
    }

    pub async fn private_channel(&self, group: Uuid) -> Uuid {
        let id = new_id();
        let op = self.op(id).await.create(1);
        let body = json!({ "id": id, "name": "secret", "visibility": "private", "log_op": op });
        self.post(&format!("/groups/{group}/channels"), body).await.is(201);
        id
    }

    /// An invite of a community: its code and its key.
    pub async fn invite(&self, community: Uuid, max_uses: u32, expires: u64) -> (String, InviteKey) {
        let key = InviteKey::new();
        let op = self.op(community).await.add_invite(&key, max_uses, expires);
        let invite = self.post(&format!("/communities/{community}/invites"), json!({ "log_op": op })).await.is(201);
        (invite["code"].as_str().unwrap().to_owned(), key)
    }

    pub async fn accept(&self, community: Uuid, code: &str, key: &InviteKey) -> Answer {
        let op = self.op(community).await.join(self, Some(key));
        self.post(&format!("/invites/{code}/accept"), json!({ "log_op": op })).await
    }
}

/// The key of an invite: its secret half is what a link carries after the `#`.
pub struct InviteKey(SigningKey);

impl InviteKey {
    pub fn new() -> Self {
        Self(SigningKey::random(&mut random()))
    }

    pub fn public(&self) -> [u8; 32] {
        *self.0.public().as_bytes()
    }
}

/// An op before it is signed. Every field may be made wrong.
#[derive(Clone)]
pub struct Op<'a> {
    pub signer: &'a LocalDevice,
    pub log: Uuid,
    pub seq: u64,
    pub prev: [u8; 32],
    pub actor: Uuid,
    pub device_id: u32,
    pub cert_hash: [u8; 32],
    pub list_seq: u64,
    pub kind: u8,
    pub target: Uuid,
    pub identity: [u8; 32],
    pub arg: Vec<u8>,
    pub time: u64,
}

impl Op<'_> {
    fn of(mut self, kind: u8, target: Uuid, identity: [u8; 32], arg: &[u8]) -> String {
        (self.kind, self.target, self.identity, self.arg) = (kind, target, identity, arg.to_vec());
        self.signed()
    }

    /// `log_kind`: 1 channel, 2 group.
    pub fn create(self, log_kind: u8) -> String {
        let (actor, identity) = (self.actor, *self.signer.identity().as_bytes());
        self.of(0, actor, identity, &[&[log_kind][..], &[9; 32]].concat())
    }

    pub fn add(self, who: &Person, role: u8) -> String {
        self.of(1, who.id, who.identity(), &[role])
    }

    pub fn remove(self, who: &Person, ban: bool) -> String {
        self.of(2, who.id, [0; 32], &[u8::from(ban)])
    }

    pub fn leave(self) -> String {
        let actor = self.actor;
        self.of(3, actor, [0; 32], &[])
    }

    pub fn role(self, who: &Person, role: u8) -> String {
        self.of(4, who.id, [0; 32], &[role])
    }

    pub fn open(self, open: bool) -> String {
        self.of(5, Uuid::nil(), [0; 32], &[1, u8::from(open)])
    }

    pub fn add_invite(self, key: &InviteKey, max_uses: u32, expires: u64) -> String {
        let arg = [&[2][..], &key.public(), &max_uses.to_be_bytes(), &expires.to_be_bytes()].concat();
        self.of(5, Uuid::nil(), [0; 32], &arg)
    }

    pub fn delete_invite(self, key: &InviteKey) -> String {
        self.of(5, Uuid::nil(), [0; 32], &[&[3][..], &key.public()].concat())
    }

    pub fn unban(self, who: &Person) -> String {
        self.of(5, who.id, [0; 32], &[4])
    }

    pub fn invite_role(self, role: u8) -> String {
        self.of(5, Uuid::nil(), [0; 32], &[5, role])
    }

    pub fn anchor(self) -> String {
        self.of(6, Uuid::nil(), [0; 32], &[])
    }

    pub fn join(self, me: &Person, invite: Option<&InviteKey>) -> String {
        let arg = invite.map(|key| {
            let (seq, identity) = (self.seq.to_be_bytes(), me.identity());
            let message: [&[u8]; 5] = [self.log.as_bytes(), &seq, &self.prev, me.id.as_bytes(), &identity];
            [&key.public()[..], &key.0.sign(labels::INVITE, &message)].concat()
        });
        self.of(7, me.id, me.identity(), &arg.unwrap_or_default())
    }

    pub fn attach(self, channel: Uuid, attach: bool) -> String {
        self.of(8, Uuid::nil(), [0; 32], &[&channel.as_bytes()[..], &[u8::from(attach)]].concat())
    }

    /// The op in base64.
    pub fn signed(&self) -> String {
        let mut op = vec![1];
        op.extend(self.log.as_bytes());
        op.extend(self.seq.to_be_bytes());
        op.extend(self.prev);
        op.extend(self.actor.as_bytes());
        op.extend(self.device_id.to_be_bytes());
        op.extend(self.cert_hash);
        op.extend(self.list_seq.to_be_bytes());
        op.push(self.kind);
        op.extend(self.target.as_bytes());
        op.extend(self.identity);
        op.extend(u16::try_from(self.arg.len()).unwrap().to_be_bytes());
        op.extend(&self.arg);
        op.extend(self.time.to_be_bytes());
        let signature = self.signer.signing_key().sign(labels::MEMBER, &[&op]);
        op.extend(signature);
        STANDARD.encode(op)
    }
}
