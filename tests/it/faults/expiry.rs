//! What the server removes by itself, and what it must leave.

use std::time::Duration;

use chat::protocol::error::ErrorCode;
use chat::server::db::{Database, expiry};
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::server::TestServer;

#[tokio::test]
async fn an_expired_message_keeps_its_place_and_loses_its_content() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let dm: Value = alice.post("/dms", &json!({ "user_id": alice.id() })).await.ok(201);
    let channel = dm["id"].as_str().unwrap();
    for (seq, expires) in [(1, "now() - interval '1 s'"), (2, "now() + interval '1 hour'"), (3, "NULL")] {
        let statement = format!(
            "INSERT INTO messages (channel_id, seq, id, kind, sender_id, sender_device, ciphertext, nonce, created_at, expires_at)
             VALUES ('{channel}', {seq}, gen_random_uuid(), 'message', '{}', 1, 'ciphertext', 'nonce', now(), {expires});
             INSERT INTO message_copies VALUES ('{channel}', {seq}, '{}', 1, 'copy', 'nonce')",
            alice.id(),
            alice.id()
        );
        server.database.execute(&statement).await;
    }
    let database = Database::connect(&server.database.url, 2).await.unwrap();
    let mut conn = database.get().await.unwrap();
    assert_eq!(expiry::erase_messages(&mut conn).await.unwrap(), 1);
    assert_eq!(expiry::erase_messages(&mut conn).await.unwrap(), 0, "the second node finds nothing to do");
    let left = "SELECT seq || ' ' || (ciphertext IS NOT NULL) || ' ' || (deleted_at IS NOT NULL) FROM messages ORDER BY seq";
    assert_eq!(server.database.column(left).await, ["1 false true", "2 true false", "3 true false"]);
    assert_eq!(server.database.column("SELECT seq::text FROM message_copies ORDER BY message_copies.seq").await, ["2", "3"]);
}

#[tokio::test]
async fn old_events_frames_batches_and_dead_logins_go_and_live_ones_stay() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.user("bob").await);
    let old = server.anon().login("bob").await;
    let _: Value = alice.put(&format!("/contacts/{}", bob.id()), &json!({})).await.ok(200);
    server.database.execute("UPDATE stream_events SET created_at = now() - interval '31 days' WHERE seq = 1").await;
    for age in ["31 days", "1 day"] {
        let statement = format!(
            "INSERT INTO inbox SELECT '{}', 1, count(*) + 1, '{}', 1, 'x', 'y', now() - interval '{age}' FROM inbox;
             INSERT INTO device_batches VALUES ('{}', gen_random_uuid(), '[]', now() - interval '{age}')",
            alice.id(),
            bob.id(),
            alice.id()
        );
        server.database.execute(&statement).await;
    }
    old.post("/auth/logout", &json!({})).await.is(204);
    server.database.execute("UPDATE sessions SET revoked_at = now() - interval '40 days', last_used_at = now() - interval '40 days' WHERE revoked_at IS NOT NULL").await;
    let database = Database::connect(&server.database.url, 2).await.unwrap();
    let mut conn = database.get().await.unwrap();
    assert_eq!(expiry::delete_events(&mut conn).await.unwrap(), 1);
    assert_eq!(expiry::delete_inbox(&mut conn).await.unwrap(), 1);
    assert_eq!(expiry::delete_batches(&mut conn).await.unwrap(), 1);
    assert_eq!(expiry::delete_sessions(&mut conn).await.unwrap(), 1);
    assert_eq!(bob.get("/account").await.status, 200);
    assert_eq!(alice.get("/account").await.status, 200);
    old.get("/account").await.refused(ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn events_that_come_at_once_are_numbered_without_a_gap() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let path = format!("/contacts/{}", bob.id());
    let names: Vec<Value> = (0..20).map(|i| json!({ "display_name": format!("name {i}") })).collect();
    let puts = futures_util::future::join_all(names.iter().map(|name| alice.put(&path, name)));
    let answers = tokio::time::timeout(Duration::from_secs(60), puts).await.unwrap();
    assert!(answers.iter().all(|answer| answer.status == 200));
    let seqs = server
        .database
        .column(&format!("SELECT seq::text FROM stream_events WHERE stream_id = '{}' ORDER BY stream_events.seq", alice.id()))
        .await;
    assert_eq!(seqs, (1..=20).map(|seq| seq.to_string()).collect::<Vec<_>>());
}
