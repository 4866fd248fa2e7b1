//! What ends a connection, and what one bad client costs the others.

use chat::protocol::codec::Encoding;
use chat::protocol::error::ErrorCode;
use chat::protocol::frame::close;
use futures_util::SinkExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::http::Http as _;
use crate::support::person::new_id;
use crate::support::room::{Room, channel_frame};
use crate::support::server::TestServer;
use crate::support::ws::{Closed, Ws};

#[tokio::test]
async fn a_wrong_token_is_told_and_closed() {
    let live = TestServer::start().await;
    let [ann] = live.people().await;
    let mut ws = Ws::open(live.address, Encoding::Json).await.unwrap();
    ws.send(json!({ "type": "authenticate", "token": "nonsense" })).await;
    let error = ws.next().await.unwrap();
    assert_eq!((&error["type"], &error["ref"], &error["code"]), (&json!("error"), &json!(null), &json!("unauthenticated")));
    assert_eq!(ws.closed().await.code, close::UNAUTHENTICATED);
    live.sql.execute("UPDATE users SET suspended_at = now() WHERE id = $1", &[&ann.id]).await.unwrap();
    let mut ws = Ws::open(live.address, Encoding::Json).await.unwrap();
    ws.send(json!({ "type": "authenticate", "token": ann.token })).await;
    assert_eq!(ws.next().await.unwrap()["code"], "suspended");
    assert_eq!(ws.closed().await.code, close::REVOKED, "do not retry");
}

#[tokio::test]
async fn a_subprotocol_must_be_offered() {
    let live = TestServer::start().await;
    let refused = tokio_tungstenite::connect_async(format!("ws://{}/api/v1/ws", live.address)).await;
    let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 400);
    let [ann] = live.people().await;
    ann.get("/ws").await.refused(ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn oversized_and_malformed_frames_end_only_their_own_connection() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut bob_ws = live.connect(bob).await;
    for (message, code) in [
        (Message::text("x".repeat(128 * 1024 + 1)), close::TOO_BIG),
        (Message::text("{"), close::BAD_FRAME),
        (Message::text("[".repeat(100_000)), close::BAD_FRAME),
        (Message::binary(vec![0xc1]), close::BAD_FRAME),
    ] {
        let mut ws = live.connect(ann).await;
        ws.socket.send(message).await.unwrap();
        assert_eq!(ws.closed().await.code, code);
    }
    assert_eq!(bob_ws.ask(&room.message(bob)).await["type"], "sent");
}

#[tokio::test]
async fn a_second_connection_of_a_device_replaces_the_first() {
    let live = TestServer::start().await;
    let [ann] = live.people().await;
    let mut first = live.connect(&ann).await;
    let mut second = live.connect(&ann).await;
    assert_eq!(first.closed().await.code, close::REPLACED);
    second.settle().await;
}

#[tokio::test]
async fn an_ended_session_loses_its_connection() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    ann.post("/auth/logout", json!({})).await.is(204);
    assert_eq!(ann_ws.closed().await.code, close::REVOKED);
    // Ended by another node: seen when this one looks around.
    live.sql.execute("UPDATE sessions SET revoked_at = now() WHERE user_id = $1", &[&bob.id]).await.unwrap();
    assert_eq!(bob_ws.closed().await.code, close::REVOKED);
}

#[tokio::test]
async fn a_slow_reader_is_let_go_and_nobody_else_notices() {
    let live = TestServer::start().await;
    let room: Room<3> = live.room().await;
    let [ann, bob, cat] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    let mut slow = live.connect(cat).await;
    slow.settle().await;
    // The largest frames that go, so that the buffers of the system are soon full.
    let mut request = room.message(ann);
    let mut frame = channel_frame(room.channel, ann.id, 1, 3);
    frame.resize(56 + 32 + 61_440 + 16 + 64, 7);
    request["ciphertext"] = json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &frame));
    let mut sent = 0u64;
    while live.realtime().connections() == 3 {
        request["id"] = json!(new_id());
        assert_eq!(ann_ws.ask(&request).await["type"], "sent");
        sent += 1;
        assert!(sent < 2000, "the slow reader is still there");
        assert_eq!(bob_ws.event(room.channel).await["seq"], sent);
    }
    assert!(sent > 8, "its queue was used first");
    drop(slow);
    // It resumes from its cursor: nothing is lost.
    let page = cat.get(&format!("/channels/{}/messages?after={}&limit=1", room.channel, sent - 1)).await.is(200);
    assert_eq!(page["items"][0]["seq"], sent);
}

#[tokio::test]
async fn an_address_has_a_bounded_number_of_connections() {
    let live = TestServer::start_with(|config| config.limits.connections_per_address = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(Ws::open(live.address, Encoding::Json).await.unwrap());
    }
    let Err(Error::Http(response)) = Ws::open(live.address, Encoding::Json).await.map(drop) else { panic!("admitted") };
    assert_eq!(response.status(), 429);
}

#[tokio::test]
async fn draining_finishes_commits_and_tells_clients_when_to_return() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    let mut asked = Vec::new();
    for _ in 0..50 {
        let request = room.message(ann);
        asked.push(request["id"].clone());
        ann_ws.say(request).await;
    }
    // At least one answer: the rest is on its way.
    let mut acked = vec![ann_ws.until(|frame| frame["type"] == "sent").await["id"].clone()];
    live.app().drain();
    let closed = loop {
        match ann_ws.next().await {
            Ok(frame) if frame["type"] == "sent" => acked.push(frame["id"].clone()),
            Ok(_) => {}
            Err(closed) => break closed,
        }
    };
    let retry_after = |closed: &Closed| {
        assert_eq!(closed.code, close::GOING_AWAY);
        let reason: serde_json::Value = serde_json::from_str(&closed.reason).unwrap();
        reason["retry_after_ms"].as_u64().unwrap()
    };
    let waits = [retry_after(&closed), retry_after(&bob_ws.closed().await)];
    assert!(waits[0] != waits[1] && waits.iter().all(|wait| *wait <= 10_000), "{waits:?}");
    live.realtime().finish().await;
    let stored: Vec<serde_json::Value> = live.rows(room.channel).await.into_iter().map(|(_, id)| json!(id)).collect();
    assert!(acked.iter().all(|id| stored.contains(id)), "what was acknowledged is stored");
    assert_eq!(stored, asked[..stored.len()], "in order, without a gap");
    assert_eq!(live.realtime().connections(), 0);
}
