//! Catching up: from any cursor exactly what is missing, over the WebSocket's start, `POST /sync` and pages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::http::{Http as _, client};
use crate::support::person::Person;
use crate::support::room::{Room, aimed, message};
use crate::support::server::TestServer;

async fn post(person: &Person, request: &Value) -> Value {
    let channel = request["channel_id"].as_str().unwrap();
    person.post(&format!("/channels/{channel}/messages"), request.clone()).await.is(201)
}

fn seqs(events: &Value, stream: Uuid) -> Vec<u64> {
    let events = events.as_array().unwrap().iter().filter(|event| event["stream"] == json!(stream));
    events.map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn sync_gives_exactly_the_suffix_from_any_cursor() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    for _ in 0..12 {
        post(ann, &room.message(ann)).await;
    }
    let community_head = live.connect(bob).await.ready["streams"][room.community.to_string()].as_u64().unwrap();
    for cursor in 0..=13u64 {
        let mut have = cursor;
        let mut got = Vec::new();
        loop {
            let cursors = json!({ room.channel.to_string(): have, room.community.to_string(): community_head });
            let answer = bob.post("/sync", json!({ "cursors": cursors, "limit": 5 })).await.is(200);
            assert_eq!(answer["streams"][room.channel.to_string()], 12);
            assert!(seqs(&answer["events"], room.community).is_empty());
            let page = seqs(&answer["events"], room.channel);
            have = page.last().copied().unwrap_or(have);
            got.extend(page);
            if answer["more"] == false {
                break;
            }
        }
        assert_eq!(got, (cursor + 1..=12).collect::<Vec<_>>(), "from {cursor}");
    }
}

#[tokio::test]
async fn a_connection_starts_at_the_heads_of_ready_and_misses_nothing() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let writing = async {
        for _ in 0..200 {
            ann_ws.ask(&room.message(ann)).await;
        }
    };
    // Connections that begin while rows are written: ready and the events after it leave no gap.
    let resuming = async {
        for _ in 0..10 {
            let mut ws = live.connect(bob).await;
            let head = ws.ready["streams"][room.channel.to_string()].as_u64().unwrap();
            let first = ws.event(room.channel).await["seq"].as_u64().unwrap();
            assert!(first <= head + 1, "the first event {first} does not follow the head {head}");
            let second = ws.event(room.channel).await["seq"].as_u64().unwrap();
            assert_eq!(second, first + 1);
        }
    };
    let ((), ()) = tokio::join!(writing, resuming);
}

#[tokio::test]
async fn rows_whose_hint_was_lost_arrive_within_the_next_look() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ws = live.connect(bob).await;
    // Another node wrote this: nobody here was told.
    let (id, zero) = (Uuid::now_v7(), Uuid::nil());
    live.sql
        .query(
            "SELECT * FROM append_server_rows(ARRAY[$1::uuid], ARRAY[$2::uuid], ARRAY['system'], ARRAY[NULL::uuid], ARRAY['{\"text\":\"hello\"}'])",
            &[&id, &room.channel],
        )
        .await
        .unwrap();
    let event = ws.event(room.channel).await;
    assert_eq!((&event["seq"], &event["event"]["body"]), (&json!(1), &json!({ "text": "hello" })));
    assert!(event["event"].get("sender_id").is_none());
    assert_ne!(id, zero);
    // What follows is in order.
    let request = room.message(ann);
    post(ann, &request).await;
    assert_eq!(ws.event(room.channel).await["event"]["id"], request["id"]);
}

#[tokio::test]
async fn pages_go_both_ways_and_carry_what_is_aimed_at_them() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut messages = Vec::new();
    for _ in 0..10 {
        let request = room.message(ann);
        post(ann, &request).await;
        messages.push(request);
    }
    let reaction = aimed("reaction", &messages[3], room.channel, bob, 2);
    assert_eq!(post(bob, &reaction).await["seq"], 11);
    let path = format!("/channels/{}/messages", room.channel);
    let page = async |query: &str| bob.get(&format!("{path}?{query}")).await.is(200);
    let seqs =
        |page: &Value| page["items"].as_array().unwrap().iter().map(|row| row["seq"].as_u64().unwrap()).collect::<Vec<_>>();

    let newest = page("limit=4").await;
    assert_eq!((seqs(&newest), &newest["has_more"], &newest["head_seq"]), (vec![8, 9, 10, 11], &json!(true), &json!(11)));
    let before = page("before=6&limit=3").await;
    assert_eq!((seqs(&before), &before["has_more"]), (vec![3, 4, 5], &json!(true)));
    assert_eq!(before["related"].as_array().unwrap().iter().map(|row| &row["id"]).collect::<Vec<_>>(), [&reaction["id"]]);
    let oldest = page("before=4&limit=3").await;
    assert_eq!((seqs(&oldest), &oldest["has_more"]), (vec![1, 2, 3], &json!(false)));
    let after = page("after=9&limit=50").await;
    assert_eq!((seqs(&after), &after["has_more"], &after["related"]), (vec![10, 11], &json!(false), &json!([])));
    for bad in ["limit=0", "limit=101", "before=1&after=1"] {
        bob.get(&format!("{path}?{bad}")).await.refused(ErrorCode::Validation);
    }
    for bad in ["limit=x", "before=-1", "offset=3"] {
        bob.get(&format!("{path}?{bad}")).await.refused(ErrorCode::InvalidRequest);
    }
}

#[tokio::test]
async fn a_thread_has_its_replies_and_nothing_else() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let root = room.message(ann);
    post(ann, &root).await;
    let mut reply = room.message(bob);
    reply["thread_id"] = root["id"].clone();
    post(bob, &reply).await;
    post(ann, &room.message(ann)).await;
    let page = ann.get(&format!("/channels/{}/threads/{}", room.channel, root["id"].as_str().unwrap())).await.is(200);
    let ids: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
    assert_eq!(ids, [&reply["id"]]);
}

#[tokio::test]
async fn a_read_marker_never_goes_back_and_own_devices_see_it() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    for _ in 0..5 {
        post(ann, &room.message(ann)).await;
    }
    let unread = async || {
        let page = bob.get("/channels/unread").await.is(200);
        let items = page["items"].as_array().unwrap().iter();
        items.clone().find(|item| item["channel_id"] == json!(room.channel)).unwrap().clone()
    };
    assert_eq!((&unread().await["unread"], &unread().await["head_seq"]), (&json!(5), &json!(5)));
    let mut ws = live.connect(bob).await;
    let mut ann_ws = live.connect(ann).await;
    ws.send(json!({ "type": "mark_read", "channel_id": room.channel, "seq": 3 })).await;
    let event = ws.event(bob.id).await;
    assert_eq!(event["event"], json!({ "kind": "read_marker", "channel_id": room.channel, "seq": 3 }));
    bob.put(&format!("/channels/{}/read", room.channel), json!({ "seq": 2 })).await.is(204);
    assert_eq!((&unread().await["read_seq"], &unread().await["unread"]), (&json!(3), &json!(2)));
    // Beyond the head there is nothing to have read.
    bob.put(&format!("/channels/{}/read", room.channel), json!({ "seq": 99 })).await.is(204);
    assert_eq!(ws.event(bob.id).await["event"]["seq"], 5);
    assert_eq!(unread().await["unread"], 0);
    assert!(ann_ws.settle().await.iter().all(|frame| frame["event"]["kind"] != "read_marker"), "nobody else sees it");
}

#[tokio::test]
async fn a_cursor_that_is_older_than_what_is_kept_is_told_to_start_again() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let bob = &room.people[1];
    live.sql.execute("DELETE FROM stream_events WHERE stream_id = $1 AND seq <= 2", &[&room.community]).await.unwrap();
    let request = |cursor: u64| json!({ "cursors": { room.community.to_string(): cursor } }).to_string();
    for (cursor, reset) in [(0, true), (1, true), (2, false)] {
        let client = client();
        let answer = client
            .post(format!("http://{}/api/v1/sync", live.address))
            .bearer_auth(&bob.token)
            .header("content-type", "application/json")
            .body(request(cursor))
            .send()
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(!answer["reset"].as_array().unwrap().is_empty(), reset, "{cursor}: {answer}");
        assert_eq!(answer["events"].as_array().unwrap().is_empty(), reset);
    }
}

#[tokio::test]
async fn typing_and_presence_reach_neighbours_and_nobody_else() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let [stranger] = live.people().await;
    let mut stranger_ws = live.connect(&stranger).await;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    let online = |who: &Person| json!({ "type": "presence", "user_id": who.id, "status": "online" });
    assert_eq!(ann_ws.until(|frame| frame["type"] == "presence").await, online(bob));
    assert_eq!(bob_ws.until(|frame| frame["type"] == "presence").await, online(ann));
    bob_ws.send(json!({ "type": "typing", "channel_id": room.channel })).await;
    let typing = ann_ws.until(|frame| frame["type"] == "typing").await;
    assert_eq!(typing, json!({ "type": "typing", "channel_id": room.channel, "user_id": bob.id }));
    stranger_ws.send(json!({ "type": "typing", "channel_id": room.channel })).await;
    stranger_ws.settle().await;
    bob_ws.send(json!({ "type": "presence", "status": "invisible" })).await;
    assert_eq!(ann_ws.until(|frame| frame["type"] == "presence").await["status"], "offline");
    bob_ws.send(json!({ "type": "presence", "status": "dnd" })).await;
    assert_eq!(ann_ws.until(|frame| frame["type"] == "presence").await["status"], "dnd");
    drop(bob_ws);
    assert_eq!(ann_ws.until(|frame| frame["type"] == "presence").await["status"], "offline");
    let heard = stranger_ws.settle().await;
    assert!(heard.iter().all(|frame| frame["type"] != "presence" && frame["type"] != "typing"), "{heard:?}");
    let heard = ann_ws.settle().await;
    assert!(heard.iter().all(|frame| frame["type"] != "typing"), "a stranger types unheard: {heard:?}");
}

#[tokio::test]
async fn a_message_of_a_row_written_by_a_change_of_the_channel_is_heard_too() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ws = live.connect(bob).await;
    ann.patch(&format!("/channels/{}", room.channel), json!({ "topic": "all about it" })).await.is(200);
    let event = ws.until(|frame| frame["type"] == "event").await;
    assert!(event["stream"] == json!(room.channel) || event["stream"] == json!(room.community), "{event}");
    let request = message(room.channel, ann, 2);
    post(ann, &request).await;
    assert_eq!(ws.until(|frame| frame["event"]["kind"] == "message").await["event"]["id"], request["id"]);
}

#[tokio::test]
async fn answers_end_after_two_mebibytes_and_say_that_there_is_more() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let count = 60u64;
    for _ in 0..count {
        let mut request = room.message(ann);
        let mut frame = STANDARD.decode(request["ciphertext"].as_str().unwrap()).unwrap();
        frame.extend([7; 48 * 1024 - 128]);
        request["ciphertext"] = STANDARD.encode(frame).into();
        post(ann, &request).await;
    }
    let path = format!("/channels/{}/messages?limit=100", room.channel);
    let (mut got, mut before) = (Vec::new(), String::new());
    loop {
        let page = bob.get(&format!("{path}{before}")).await.is(200);
        let items: Vec<u64> = page["items"].as_array().unwrap().iter().map(|row| row["seq"].as_u64().unwrap()).collect();
        assert!((1..=44).contains(&items.len()), "{} rows of 48 KiB", items.len());
        before = format!("&before={}", items[0]);
        got.splice(0..0, items);
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(got, (1..=count).collect::<Vec<_>>());
    let mut got = Vec::new();
    loop {
        let cursors = json!({ room.channel.to_string(): got.last().copied().unwrap_or(0) });
        let answer = bob.post("/sync", json!({ "cursors": cursors, "limit": 1000 })).await.is(200);
        let page = seqs(&answer["events"], room.channel);
        assert!((1..=44).contains(&page.len()));
        got.extend(page);
        if answer["more"] == false {
            break;
        }
    }
    assert_eq!(got, (1..=count).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_never_lacks_what_is_aimed_at_its_messages() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let targets = [room.message(ann), room.message(ann), room.message(ann)];
    for target in &targets {
        post(ann, target).await;
    }
    // Beside the page: reactions, put there directly because 1,500 requests would take long.
    for (target, seq) in [(1, 4), (2, 704)] {
        let copied = "INSERT INTO messages (channel_id, seq, id, log_seq, kind, sender_id, sender_device, target_id, ciphertext, nonce, created_at, content_hash)
             SELECT channel_id, $3::bigint + n, gen_random_uuid(), log_seq, 'reaction', sender_id, sender_device, id, ciphertext, nonce, created_at, content_hash
               FROM messages, generate_series(0, 699) n WHERE channel_id = $1 AND seq = $2";
        live.sql.execute(copied, &[&room.channel, &i64::from(target), &i64::from(seq)]).await.unwrap();
    }
    live.sql.execute("UPDATE channel_heads SET head_seq = 1403 WHERE channel_id = $1", &[&room.channel]).await.unwrap();
    let path = format!("/channels/{}/messages?limit=3", room.channel);
    let page = bob.get(&format!("{path}&before=4")).await.is(200);
    let seqs_of = |rows: &Value| rows.as_array().unwrap().iter().map(|row| row["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((seqs_of(&page["items"]), &page["has_more"]), (vec![2, 3], &json!(true)));
    assert_eq!(seqs_of(&page["related"]), (704..1404).collect::<Vec<_>>());
    let page = bob.get(&format!("{path}&before=2")).await.is(200);
    assert_eq!((seqs_of(&page["items"]), &page["has_more"]), (vec![1], &json!(false)));
    assert_eq!(seqs_of(&page["related"]), (4..704).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_unread_is_counted_among_the_newest_thousand_rows() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    post(ann, &room.message(ann)).await;
    let copied = "INSERT INTO messages (channel_id, seq, id, log_seq, kind, sender_id, sender_device, target_id, created_at)
         SELECT channel_id, n, gen_random_uuid(), log_seq, CASE WHEN n > 1490 THEN 'message' ELSE 'reaction' END, sender_id, 1, id, created_at
           FROM messages, generate_series(2, 1500) n WHERE channel_id = $1";
    live.sql.execute(copied, &[&room.channel]).await.unwrap();
    live.sql.execute("UPDATE channel_heads SET head_seq = 1500 WHERE channel_id = $1", &[&room.channel]).await.unwrap();
    let unread = async |who: &Person| {
        let page = who.get("/channels/unread").await.is(200);
        page["items"].as_array().unwrap().iter().find(|item| item["channel_id"] == json!(room.channel)).unwrap()["unread"].clone()
    };
    assert_eq!(unread(bob).await, 10, "the first message is behind 1,490 reactions");
    assert_eq!(unread(ann).await, 0, "her own");
    bob.put(&format!("/channels/{}/read", room.channel), json!({ "seq": 1497 })).await.is(204);
    assert_eq!(unread(bob).await, 3);
    // As many as are looked at.
    live.sql.execute("UPDATE messages SET kind = 'message'", &[]).await.unwrap();
    live.sql.execute("UPDATE channel_states SET read_seq = 1", &[]).await.unwrap();
    assert_eq!(unread(bob).await, 1000);
}
