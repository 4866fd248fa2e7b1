//! Sends: idempotent over everything, gapless, ordered, the same over both transports and both encodings.

use chat::protocol::error::ErrorCode;
use std::collections::BTreeSet;

use chat::protocol::codec::Encoding;
use chat::server::db::expiry;
use serde_json::{Value, json};

use crate::support::http::{Answer, Http as _};
use crate::support::person::{Person, new_id};
use crate::support::room::{Room, aimed, channel_frame, dm_frame, message};
use crate::support::server::TestServer;
use crate::support::ws::Ws;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

async fn post(person: &Person, request: &Value) -> Answer {
    let channel = request["channel_id"].as_str().unwrap();
    person.post(&format!("/channels/{channel}/messages"), request.clone()).await
}

#[tokio::test]
async fn a_message_reaches_every_member_in_both_encodings() {
    let live = TestServer::start().await;
    let room: Room<3> = live.room().await;
    let [ann, bob, cat] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    let mut cat_ws = Ws::connect_in(live.address, &cat.token, Encoding::MessagePack).await;
    assert_eq!(ann_ws.ready["device_id"], 1);
    assert_eq!(ann_ws.ready["streams"][room.channel.to_string()], 0);

    let request = room.message(ann);
    let sent = ann_ws.ask(&request).await;
    assert_eq!((&sent["seq"], &sent["duplicate"], &sent["channel_id"]), (&json!(1), &json!(false), &request["channel_id"]));
    for ws in [&mut ann_ws, &mut bob_ws, &mut cat_ws] {
        let event = ws.event(room.channel).await;
        let row = &event["event"];
        assert_eq!((&event["seq"], &row["seq"], &row["log_seq"]), (&json!(1), &json!(1), &json!(3)));
        assert_eq!((&row["id"], &row["kind"]), (&request["id"], &json!("message")));
        assert_eq!((&row["sender_id"], &row["sender_device"]), (&json!(ann.id), &json!(1)));
        assert_eq!((&row["ciphertext"], &row["nonce"]), (&request["ciphertext"], &request["nonce"]));
        assert_eq!(row["created_at"], sent["created_at"]);
    }
}

#[tokio::test]
async fn the_same_send_is_stored_once_over_either_transport() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, _] = &room.people;
    let mut ws = live.connect(ann).await;
    let request = room.message(ann);
    let first = ws.ask(&request).await;
    let again = ws.ask(&request).await;
    assert_eq!((&again["seq"], &again["created_at"], &again["duplicate"]), (&first["seq"], &first["created_at"], &json!(true)));
    let over_http = post(ann, &request).await.is(200);
    assert_eq!((&over_http["seq"], &over_http["duplicate"]), (&first["seq"], &json!(true)));

    let request = room.message(ann);
    assert_eq!(post(ann, &request).await.is(201)["seq"], 2);
    assert_eq!(ws.ask(&request).await["duplicate"], true);
    assert_eq!(live.rows(room.channel).await.len(), 2);
}

#[tokio::test]
async fn a_send_and_its_repeats_at_the_same_moment_are_one_row() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, _] = &room.people;
    let request = room.message(ann);
    let repeats = (0..20).map(|_| post(ann, &request));
    let answers = futures_util::future::join_all(repeats).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(answers.iter().all(|answer| answer.body["seq"] == 1));
    assert_eq!(live.rows(room.channel).await.len(), 1);
}

#[tokio::test]
async fn an_id_is_never_used_for_anything_else() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let other = ann.channel(room.community, room.group).await;
    let epoch = live.epoch(room.community).await;
    let request = message(room.channel, ann, epoch);
    post(ann, &request).await.is(201);

    let with = |changed: &[(&str, Value)]| {
        let mut request = request.clone();
        for (field, value) in changed {
            request[*field] = value.clone();
        }
        request
    };
    let frame = |channel, person: &Person| json!(STANDARD.encode(channel_frame(channel, person.id, 1, epoch)));
    post(ann, &with(&[("ciphertext", frame(room.channel, ann))])).await.refused(ErrorCode::IdReused);
    post(ann, &with(&[("thread_id", json!(new_id()))])).await.refused(ErrorCode::IdReused);
    post(ann, &with(&[("expires_in_s", json!(60))])).await.refused(ErrorCode::IdReused);
    post(bob, &with(&[("ciphertext", frame(room.channel, bob))])).await.refused(ErrorCode::IdReused);
    post(ann, &with(&[("channel_id", json!(other)), ("ciphertext", frame(other, ann))])).await.refused(ErrorCode::IdReused);
    let mut ws = live.connect(bob).await;
    assert_eq!(ws.ask(&with(&[("ciphertext", frame(room.channel, bob))])).await["code"], "id_reused");
    assert_eq!(live.rows(room.channel).await.len(), 1);
}

#[tokio::test]
async fn concurrent_senders_leave_no_gap_and_everybody_sees_the_same_order() {
    const EACH: usize = 40;
    let live = TestServer::start().await;
    let room: Room<4> = live.room().await;
    let mut channels = vec![room.channel];
    for _ in 0..3 {
        channels.push(room.people[0].channel(room.community, room.group).await);
    }
    let epoch = live.epoch(room.community).await;
    let mut sockets = Vec::new();
    for person in &room.people {
        sockets.push(live.connect(person).await);
    }
    let talking = room.people.iter().zip(&mut sockets).map(|(person, ws)| {
        let channels = &channels;
        async move {
            let mut asked = Vec::new();
            for n in 0..EACH {
                let request = message(channels[n % channels.len()], person, epoch);
                asked.push((request["channel_id"].clone(), request["id"].clone()));
                ws.say(request).await;
            }
            let (mut acked, mut seen) = (BTreeSet::new(), Vec::new());
            while acked.len() < EACH || seen.len() < EACH * 4 {
                let frame = ws.next().await.unwrap();
                match frame["type"].as_str().unwrap() {
                    "sent" => assert!(acked.insert(frame["id"].as_str().unwrap().to_owned())),
                    "event" if frame["event"]["kind"] == "message" => {
                        seen.push((frame["stream"].clone(), frame["seq"].as_u64().unwrap(), frame["event"]["id"].clone()));
                    }
                    "presence" | "event" => {}
                    other => panic!("{other}: {frame}"),
                }
            }
            (asked, seen)
        }
    });
    let told = futures_util::future::join_all(talking).await;
    for channel in &channels {
        let rows: Vec<(u64, Value)> = live.rows(*channel).await.into_iter().map(|(seq, id)| (seq as u64, json!(id))).collect();
        assert_eq!(rows.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=EACH as u64).collect::<Vec<_>>());
        for (asked, seen) in &told {
            let here: Vec<(u64, Value)> =
                seen.iter().filter(|(stream, ..)| *stream == json!(channel)).map(|(_, seq, id)| (*seq, id.clone())).collect();
            assert_eq!(here, rows, "a reader's log");
            let mine: Vec<&Value> = asked.iter().filter(|(stream, _)| *stream == json!(channel)).map(|(_, id)| id).collect();
            let placed: Vec<&Value> = rows.iter().map(|(_, id)| id).filter(|id| mine.contains(id)).collect();
            assert_eq!(placed, mine, "a sender's order");
        }
    }
}

#[tokio::test]
async fn bad_sends_say_what_is_wrong_and_store_nothing() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ws = live.connect(ann).await;
    let good = room.message(ann);
    let frame = |channel, user, device, epoch| json!(STANDARD.encode(channel_frame(channel, user, device, epoch)));
    let cases = [
        ("id", json!(uuid::Uuid::from_bytes([1; 16])), "validation"),
        ("id", json!("not an id"), "invalid_request"),
        ("kind", json!("system"), "validation"),
        ("kind", json!("member"), "validation"),
        ("kind", json!("hologram"), "validation"),
        ("kind", json!("edit"), "validation"),
        ("target_id", json!(new_id()), "validation"),
        ("ciphertext", Value::Null, "validation"),
        ("ciphertext", json!("AAAA"), "validation"),
        ("ciphertext", json!("!"), "invalid_request"),
        ("ciphertext", json!(STANDARD.encode(dm_frame())), "validation"),
        ("ciphertext", frame(new_id(), ann.id, 1, 2), "validation"),
        ("ciphertext", frame(room.channel, bob.id, 1, 2), "validation"),
        ("ciphertext", frame(room.channel, ann.id, 2, 2), "validation"),
        ("ciphertext", frame(room.channel, ann.id, 1, 3), "validation"),
        ("ciphertext", json!(STANDARD.encode([1; 65_537])), "too_large"),
        ("nonce", json!(STANDARD.encode([0; 11])), "validation"),
        ("nonce", Value::Null, "validation"),
        ("expires_in_s", json!(0), "validation"),
        ("copies", json!([]), "validation"),
        ("skipped", json!([{ "user_id": bob.id, "device_id": 1 }]), "validation"),
        ("surprise", json!(1), "unknown_field"),
        ("channel_id", json!(new_id()), "validation"),
    ];
    for (field, value, code) in cases {
        let mut request = good.clone();
        request["id"] = json!(new_id());
        request[field] = value.clone();
        let refused = ws.ask(&request).await;
        assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!(code)), "{field} = {value}: {refused}");
        let over_http = ann.post(&format!("/channels/{}/messages", room.channel), request).await;
        assert_eq!(over_http.body["error"]["code"], code, "{field} = {value}");
    }
    assert_eq!(live.rows(room.channel).await.len(), 0);
    assert_eq!(ws.ask(&good).await["type"], "sent", "the connection is still good");
}

#[tokio::test]
async fn a_deleted_message_is_erased_with_everything_aimed_at_it() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let target = room.message(bob);
    post(bob, &target).await.is(201);
    let reaction = aimed("reaction", &target, room.channel, ann, 2);
    post(ann, &reaction).await.is(201);
    post(bob, &aimed("edit", &target, room.channel, ann, 2)).await.refused(ErrorCode::Validation);
    post(ann, &aimed("edit", &target, room.channel, ann, 2)).await.refused(ErrorCode::Forbidden);
    let own = room.message(ann);
    post(ann, &own).await.is(201);
    post(bob, &aimed("delete", &own, room.channel, bob, 2)).await.refused(ErrorCode::Forbidden);

    // The owner may delete what others wrote.
    let delete = aimed("delete", &target, room.channel, ann, 2);
    assert_eq!(post(ann, &delete).await.is(201)["seq"], 4);
    let page = ann.get(&format!("/channels/{}/messages", room.channel)).await.is(200);
    let rows = page["items"].as_array().unwrap();
    for row in &rows[..2] {
        assert!(row["deleted_at"].is_string() && row.get("ciphertext").is_none() && row.get("nonce").is_none(), "{row}");
    }
    assert_eq!((&rows[1]["target_id"], &rows[1]["kind"]), (&target["id"], &json!("reaction")), "the tombstone keeps its place");
    assert!(rows[2]["ciphertext"].is_string() && rows[3]["ciphertext"].is_string());
    post(ann, &aimed("reaction", &target, room.channel, ann, 2)).await.refused(ErrorCode::NotFound);
    // A repeat of the erased send is still a repeat.
    assert_eq!(post(bob, &target).await.is(200)["seq"], 1);
}

#[tokio::test]
async fn what_expires_is_erased_and_keeps_its_place() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let mut request = room.message(&room.people[0]);
    request["expires_in_s"] = json!(3600);
    let sent = post(&room.people[0], &request).await.is(201);
    let path = format!("/channels/{}/messages/{}", room.channel, request["id"].as_str().unwrap());
    let row = room.people[1].get(&path).await.is(200);
    assert!(row["expires_at"].as_str().unwrap() > sent["created_at"].as_str().unwrap());
    let app = live.app();
    let mut conn = app.db().await.unwrap();
    assert_eq!(expiry::erase_messages(&mut conn).await.unwrap(), 0);
    live.sql.execute("UPDATE messages SET expires_at = now() WHERE channel_id = $1", &[&room.channel]).await.unwrap();
    let over = room.people[1].get(&path).await.is(200);
    assert!(over["deleted_at"].is_string() && over.get("ciphertext").is_none(), "nobody gets it, though it is not erased yet");
    assert_eq!(expiry::erase_messages(&mut conn).await.unwrap(), 1);
    let row = room.people[1].get(&path).await.is(200);
    assert!(row["deleted_at"].is_string() && row.get("ciphertext").is_none() && row.get("expires_at").is_none());
    assert_eq!(row["seq"], 1);
}

#[tokio::test]
async fn sends_have_a_rate_but_a_repeat_of_a_stored_one_is_answered() {
    let live = TestServer::start_with(|config| (config.limits.sends_per_s, config.limits.sends_burst) = (1, 2)).await;
    let room: Room<2> = live.room().await;
    let [ann, _] = &room.people;
    let mut ws = live.connect(ann).await;
    let first = room.message(ann);
    assert_eq!(ws.ask(&first).await["type"], "sent");
    assert_eq!(ws.ask(&room.message(ann)).await["type"], "sent");
    let refused = ws.ask(&room.message(ann)).await;
    assert_eq!(refused["code"], "rate_limited");
    assert!((1..=1000).contains(&refused["retry_after_ms"].as_u64().unwrap()), "{refused}");
    assert_eq!(ws.ask(&first).await["duplicate"], true);
    let answer = post(ann, &room.message(ann)).await;
    answer.refused(ErrorCode::RateLimited);
}

#[tokio::test]
async fn sends_to_a_locked_channel_are_refused_together_and_hold_no_other_channel_up() {
    let live = TestServer::start().await;
    let locked: Room<1> = live.room().await;
    let [ann] = &locked.people;
    // Another community's channel that the same connection of the database writes.
    let community = ann.community().await;
    let group = ann.group(community).await;
    let mut other = ann.channel(community, group).await;
    while other.as_u128() % 2 != locked.channel.as_u128() % 2 {
        other = ann.channel(community, group).await;
    }
    let mut ws = live.connect(ann).await;
    let epoch = live.epoch(community).await;
    let (lock, connection) = tokio_postgres::connect(live.app().database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let hold = format!("BEGIN; SELECT * FROM logs WHERE id = '{}' FOR UPDATE", locked.community);
    lock.batch_execute(&hold).await.unwrap();
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        ws.say(locked.message(ann)).await;
    }
    let mut refused = 0;
    let mut request = message(other, ann, epoch);
    ws.say(request.clone()).await;
    while refused < 20 {
        let answer = ws.until(|frame| frame["type"] == "error" || frame["type"] == "sent").await;
        let own = answer["id"] == request["id"] || answer["ref"] == request["id"];
        assert!(own || answer["code"] == "unavailable", "{answer}");
        refused += u32::from(!own);
        if own && answer["type"] == "error" {
            // It was in one batch with them; nothing of it was stored.
            assert_eq!(answer["code"], "unavailable");
            request = message(other, ann, epoch);
            ws.say(request.clone()).await;
        }
    }
    // Each of them waiting for the lock by itself would be a minute.
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    lock.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ws.ask(&locked.message(ann)).await["type"], "sent");
}
