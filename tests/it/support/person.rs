//! People with a device who sign ops, put into the database directly: a test of communities needs no password and no prekey.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chat::crypto::device_list::DeviceList;
use chat::crypto::identity::LocalDevice;
use chat::crypto::kdf;
use chat::protocol::ids::{SessionId, UserId};
use serde_json::json;
use uuid::Uuid;

use super::account::{now_ms, rng};
use super::http::{Anon, Answer, Http};
use super::op::{InviteKey, Op};
use super::server::TestServer;

/// A user with one device and a session.
#[derive(Clone)]
pub struct Person {
    pub server: Arc<TestServer>,
    pub id: Uuid,
    pub device: Arc<LocalDevice>,
    pub token: String,
}

impl Http for Person {
    fn anon(&self) -> &Anon {
        &self.server.anon
    }
    fn token(&self) -> Option<&str> {
        Some(&self.token)
    }

    async fn answered(&self, answer: &Answer, changes: bool) {
        assert!(answer.status < 500, "{answer:?}");
        if changes {
            self.server.check().await;
        }
    }
}

impl TestServer {
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
        let (token, _) = self.app().tokens.issue(UserId(user), SessionId(session), Some(1)).unwrap();
        let (device, list) = LocalDevice::first(*user.as_bytes(), now_ms(), &mut rng()).unwrap();
        (Person { server: Arc::clone(self), id: user, device: Arc::new(device), token: token.0 }, list)
    }

    pub async fn people<const N: usize>(self: &Arc<Self>) -> [Person; N] {
        let mut people = Vec::new();
        for _ in 0..N {
            people.push(self.person().await);
        }
        people.try_into().ok().unwrap()
    }
}

pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

impl Person {
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
