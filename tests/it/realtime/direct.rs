//! Direct messages and device inboxes: each device gets its own ciphertext, durably and once.

use std::sync::Arc;

use chat::protocol::error::ErrorCode;
use chat::protocol::ids::DeviceAddr;
use chat::server::db::inbox;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::http::Http as _;
use crate::support::person::{Person, new_id};
use crate::support::room::copy;
use crate::support::server::TestServer;

/// A direct message channel of two people who share a community.
async fn dm(live: &Arc<TestServer>) -> ([Person; 2], Uuid) {
    let room = live.room::<2>().await;
    let answer = room.people[0].post("/dms", json!({ "user_id": room.people[1].id })).await;
    assert!(answer.status < 300, "{answer:?}");
    let id = answer.body["id"].as_str().unwrap().parse().unwrap();
    (room.people, id)
}

/// Another device of somebody, with a session of its own; the signed list is not asked here.
async fn second_device(live: &Arc<TestServer>, person: &Person) -> Person {
    let session = Uuid::now_v7();
    live.sql
        .execute(
            "INSERT INTO devices (user_id, device_id, name, cert_hash) SELECT user_id, 2, 'second', cert_hash FROM devices WHERE user_id = $1",
            &[&person.id],
        )
        .await
        .unwrap();
    live.sql
        .execute("INSERT INTO sessions (id, user_id, ip, device_id) VALUES ($1, $2, '127.0.0.1', 2)", &[&session, &person.id])
        .await
        .unwrap();
    let token = live.app().tokens.issue(person.id.into(), session.into(), Some(2)).unwrap().0;
    Person { token: token.0, ..person.clone() }
}

fn direct(channel: Uuid, copies: &[Value], lists: &[(&Person, u64)]) -> Value {
    let lists: serde_json::Map<String, Value> = lists.iter().map(|(person, seq)| (person.id.to_string(), json!(seq))).collect();
    json!({ "id": new_id(), "channel_id": channel, "kind": "message", "copies": copies, "device_lists": lists })
}

#[tokio::test]
async fn each_device_gets_its_own_copy_and_the_sending_one_none() {
    let live = TestServer::start().await;
    let ([ann, bob], channel) = dm(&live).await;
    let (ann2, bob2) = (second_device(&live, &ann).await, second_device(&live, &bob).await);
    let mut sockets = [live.connect(&ann).await, live.connect(&ann2).await, live.connect(&bob).await, live.connect(&bob2).await];
    let copies = [copy(bob.id, 1), copy(bob.id, 2), copy(ann.id, 2)];
    let request = direct(channel, &copies, &[(&ann, 1), (&bob, 1)]);
    let sent = sockets[0].ask(&request).await;
    assert_eq!((&sent["type"], &sent["seq"]), (&json!("sent"), &json!(1)), "{sent}");
    let own: [Option<&Value>; 4] = [None, Some(&copies[2]), Some(&copies[0]), Some(&copies[1])];
    for (ws, copy) in sockets.iter_mut().zip(own) {
        let event = ws.event(channel).await;
        assert_eq!(event["event"].get("ciphertext"), copy.map(|copy| &copy["ciphertext"]));
        assert!(event["event"].get("log_seq").is_none());
    }
    // History and sync say the same, for the device that asks.
    for (person, copy) in [(&ann, None), (&ann2, Some(&copies[2])), (&bob, Some(&copies[0])), (&bob2, Some(&copies[1]))] {
        let page = person.get(&format!("/channels/{channel}/messages")).await.is(200);
        assert_eq!(page["items"][0].get("ciphertext"), copy.map(|copy| &copy["ciphertext"]));
        let synced = person.post("/sync", json!({ "cursors": { channel.to_string(): 0 } })).await.is(200);
        assert_eq!(synced["events"][0]["event"].get("ciphertext"), copy.map(|copy| &copy["ciphertext"]));
    }
    // The same request with its copies in another order is a repeat.
    let mut again = request.clone();
    again["copies"].as_array_mut().unwrap().reverse();
    again["device_lists"] = json!({});
    assert_eq!(sockets[0].ask(&again).await["duplicate"], true);
}

#[tokio::test]
async fn copies_must_be_for_exactly_the_current_devices() {
    let live = TestServer::start().await;
    let ([ann, bob], channel) = dm(&live).await;
    let mut ws = live.connect(&ann).await;
    let stale = ws.ask(&direct(channel, &[], &[])).await;
    let details = &stale["details"];
    assert_eq!((&stale["code"], &details["missing"]), (&json!("stale_devices"), &json!([{ "user_id": bob.id, "device_id": 1 }])));
    assert_eq!((&details["extra"], &details["device_lists"][bob.id.to_string()]), (&json!([]), &json!(1)));
    let stale = ws.ask(&direct(channel, &[copy(bob.id, 1), copy(bob.id, 2)], &[])).await;
    assert_eq!(stale["details"]["extra"], json!([{ "user_id": bob.id, "device_id": 2 }]));
    let stale = ws.ask(&direct(channel, &[copy(bob.id, 1)], &[(&bob, 7)])).await;
    let details = &stale["details"];
    assert_eq!((&details["missing"], &details["extra"]), (&json!([]), &json!([])), "only the list is another");
    // Nothing was stored: the same id goes with the right copies. A device may also be skipped.
    let bob2 = second_device(&live, &bob).await;
    let mut request = direct(channel, &[copy(bob.id, 1)], &[(&bob, 1)]);
    assert_eq!(ws.ask(&request).await["code"], "stale_devices");
    request["skipped"] = json!([{ "user_id": bob.id, "device_id": 2 }]);
    assert_eq!(ws.ask(&request).await["seq"], 1);
    let row = bob2.get(&format!("/channels/{channel}/messages")).await.is(200)["items"][0].clone();
    assert!(row.get("ciphertext").is_none());
    request["skipped"] = json!([{ "user_id": bob.id, "device_id": 1 }]);
    request["id"] = json!(new_id());
    assert_eq!(ws.ask(&request).await["code"], "validation", "named twice");
}

#[tokio::test]
async fn a_block_stops_direct_messages_both_ways() {
    let live = TestServer::start().await;
    let ([ann, bob], channel) = dm(&live).await;
    bob.put(&format!("/users/{}/block", ann.id), json!({})).await;
    live.sql
        .execute("INSERT INTO blocks (user_id, blocked_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", &[&bob.id, &ann.id])
        .await
        .unwrap();
    for (from, to) in [(&ann, &bob), (&bob, &ann)] {
        let request = direct(channel, &[copy(to.id, 1)], &[]);
        from.post(&format!("/channels/{channel}/messages"), request).await.refused(ErrorCode::Blocked);
    }
}

#[tokio::test]
async fn the_inbox_keeps_frames_until_they_are_acknowledged() {
    let live = TestServer::start().await;
    let room = live.room::<3>().await;
    let [ann, bob, _] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let batch = json!({ "type": "send_devices", "id": new_id(), "copies": [copy(bob.id, 1), copy(bob.id, 1), copy(bob.id, 9)] });
    ann_ws.send(batch.clone()).await;
    let sent = ann_ws.until(|frame| frame["type"] == "sent").await;
    assert_eq!(sent["missing"], json!([{ "user_id": bob.id, "device_id": 9 }]));
    // A repeat, also over HTTP, delivers nothing twice and answers the same.
    let mut again = batch.clone();
    again.as_object_mut().unwrap().remove("type");
    let repeated = ann.post("/devices/messages", again).await.is(200);
    assert_eq!((&repeated["id"], &repeated["missing"]), (&sent["id"], &sent["missing"]));

    let mut bob_ws = live.connect(bob).await;
    for seq in 1..=2 {
        let frame = bob_ws.until(|frame| frame["type"] == "device_message").await;
        assert_eq!((&frame["inbox_seq"], &frame["from_user"], &frame["from_device"]), (&json!(seq), &json!(ann.id), &json!(1)));
        assert_eq!(frame["ciphertext"], batch["copies"][seq - 1]["ciphertext"]);
    }
    bob_ws.send(json!({ "type": "ack_inbox", "up_to": 1 })).await;
    bob_ws.settle().await;
    let synced = bob.post("/sync", json!({})).await.is(200);
    assert_eq!(synced["inbox"].as_array().unwrap().iter().map(|m| &m["inbox_seq"]).collect::<Vec<_>>(), [&json!(2)]);
    // A live push, while the connection is open.
    ann.post("/devices/messages", json!({ "id": new_id(), "copies": [copy(bob.id, 1)] })).await.is(200);
    assert_eq!(bob_ws.until(|frame| frame["type"] == "device_message").await["inbox_seq"], 3);
    let synced = bob.post("/sync", json!({ "ack_inbox": 3 })).await.is(200);
    assert!(synced["inbox"].as_array().unwrap().is_empty());
    assert!(live.connect(bob).await.settle().await.iter().all(|frame| frame["type"] != "device_message"));
}

#[tokio::test]
async fn an_empty_inbox_tells_how_far_it_was_so_that_nobody_asks_again() {
    let live = TestServer::start().await;
    let room = live.room::<2>().await;
    let [ann, bob] = &room.people;
    for _ in 0..3 {
        ann.post("/devices/messages", json!({ "id": new_id(), "copies": [copy(bob.id, 1)] })).await.is(200);
    }
    let device = DeviceAddr::new(bob.id.into(), 1);
    let app = live.app();
    let mut conn = app.database.get().await.unwrap();
    let page = inbox::page(&mut conn, device, 1, 32).await.unwrap();
    assert_eq!((page.frames.iter().map(|frame| frame.inbox_seq).collect::<Vec<_>>(), page.head), (vec![2, 3], 3));
    bob.post("/sync", json!({ "ack_inbox": 3 })).await.is(200);
    let page = inbox::page(&mut conn, device, 0, 32).await.unwrap();
    assert_eq!((page.frames.len(), page.head), (0, 3));
    assert_eq!(inbox::moved(&mut conn, &[(device, page.head)]).await.unwrap(), []);
}

#[tokio::test]
async fn devices_of_strangers_are_missing_whether_they_exist_or_not() {
    let live = TestServer::start().await;
    let room = live.room::<2>().await;
    let [ann, bob] = &room.people;
    let [stranger] = live.people().await;
    let copies = json!([copy(bob.id, 1), copy(stranger.id, 1), copy(new_id(), 1)]);
    let sent = ann.post("/devices/messages", json!({ "id": new_id(), "copies": copies })).await.is(200);
    assert_eq!(sent["missing"].as_array().unwrap().len(), 2);
    assert!(stranger.post("/sync", json!({})).await.is(200)["inbox"].as_array().unwrap().is_empty());
    let many: Vec<Value> = (0..101).map(|_| copy(bob.id, 1)).collect();
    ann.post("/devices/messages", json!({ "id": new_id(), "copies": many })).await.refused(ErrorCode::Validation);
}

#[tokio::test]
async fn a_full_inbox_refuses_the_whole_batch() {
    let live = TestServer::start().await;
    let room = live.room::<3>().await;
    let [ann, bob, cat] = &room.people;
    live.sql
        .execute(
            "INSERT INTO inbox (user_id, device_id, inbox_seq, from_user, from_device, ciphertext, nonce)
             SELECT $1, 1, n, $1, 1, '', '' FROM generate_series(1, 10000) n",
            &[&bob.id],
        )
        .await
        .unwrap();
    live.sql.execute("UPDATE devices SET inbox_head = 10000 WHERE user_id = $1", &[&bob.id]).await.unwrap();
    let batch = json!({ "id": new_id(), "copies": [copy(cat.id, 1), copy(bob.id, 1)] });
    let details = ann.post("/devices/messages", batch.clone()).await.refused(ErrorCode::RateLimited);
    assert_eq!(details["full"], json!([{ "user_id": bob.id, "device_id": 1 }]));
    assert!(cat.post("/sync", json!({})).await.is(200)["inbox"].as_array().unwrap().is_empty());
    // Once there is room the same batch goes.
    bob.post("/sync", json!({ "ack_inbox": 5 })).await.is(200);
    assert_eq!(ann.post("/devices/messages", batch).await.is(200)["missing"], json!([]));
}

#[tokio::test]
async fn ids_of_sends_and_batches_are_of_version_seven() {
    let live = TestServer::start().await;
    let ([ann, bob], channel) = dm(&live).await;
    let mut ws = live.connect(&ann).await;
    // Version 4, and version 7 of another variant.
    for id in ["0197f000-0000-4000-8000-000000000000", "0197f000-0000-7000-c000-000000000000"] {
        let batch = json!({ "id": id, "copies": [copy(bob.id, 1)] });
        assert!(ann.post("/devices/messages", batch.clone()).await.refused(ErrorCode::Validation)["id"].is_string());
        let mut frame = batch;
        frame["type"] = "send_devices".into();
        ws.send(frame).await;
        let error = ws.until(|frame| frame["type"] == "error").await;
        assert_eq!((&error["ref"], &error["code"]), (&json!(id), &json!("validation")));
        let mut request = direct(channel, &[copy(bob.id, 1)], &[(&ann, 1), (&bob, 1)]);
        request["id"] = id.into();
        assert_eq!(ws.ask(&request).await["code"], "validation");
    }
}
