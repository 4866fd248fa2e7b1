//! Who may write and who hears: judged under the channel's lock, and delivered only to people who are still there.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::{Answer, Http as _};
use crate::support::person::{Person, new_id};
use crate::support::room::{Room, aimed, message};
use crate::support::server::TestServer;

async fn post(person: &Person, request: &Value) -> Answer {
    let channel = request["channel_id"].as_str().unwrap();
    person.post(&format!("/channels/{channel}/messages"), request.clone()).await
}

async fn kick(by: &Person, community: uuid::Uuid, who: &Person) {
    let op = by.op(community).await.remove(who, false);
    let answer = by.delete_with(&format!("/communities/{community}/members/{}", who.id), json!({ "log_op": op })).await;
    assert!(answer.status < 300, "{answer:?}");
}

async fn ban(by: &Person, community: uuid::Uuid, who: &Person) {
    let op = by.op(community).await.remove(who, true);
    let answer = by.put(&format!("/communities/{community}/bans/{}", who.id), json!({ "log_op": op })).await;
    assert!(answer.status < 300, "{answer:?}");
}

#[tokio::test]
async fn a_channel_that_one_does_not_read_does_not_exist() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [stranger] = live.people().await;
    let known = room.message(&room.people[0]);
    post(&room.people[0], &known).await.is(201);
    // Even an id that is taken there tells nothing.
    let mut request = message(room.channel, &stranger, 2);
    request["id"] = known["id"].clone();
    let there = post(&stranger, &request).await;
    let nowhere = post(&stranger, &message(new_id(), &stranger, 2)).await;
    assert_eq!((there.status, &there.body), (404, &nowhere.body));
    for path in ["messages", "pins", &format!("messages/{}", known["id"].as_str().unwrap())] {
        let there = stranger.get(&format!("/channels/{}/{path}", room.channel)).await;
        assert_eq!((there.status, &there.body), (404, &nowhere.body), "{path}");
    }
    stranger.put(&format!("/channels/{}/read", room.channel), json!({ "seq": 1 })).await.refused(ErrorCode::NotFound);
    let mut ws = live.connect(&stranger).await;
    assert_eq!(ws.ask(&message(room.channel, &stranger, 2)).await["code"], "not_found");
    assert!(ws.ready["streams"].get(room.channel.to_string()).is_none());
}

#[tokio::test]
async fn a_removed_member_hears_nothing_more_and_writes_nothing_more() {
    let live = TestServer::start().await;
    let room: Room<3> = live.room().await;
    let [ann, bob, cat] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    let mut cat_ws = live.connect(cat).await;
    kick(ann, room.community, bob).await;
    let removed = bob_ws.event(bob.id).await;
    assert_eq!(removed["event"]["kind"], "community_removed");
    assert_eq!(removed["event"]["community_id"], json!(room.community));
    assert_eq!(bob_ws.ask(&room.message(bob)).await["code"], "not_found");
    // The epoch from before the removal is not accepted any more; the new one is.
    let stale = ann_ws.ask(&room.message(ann)).await;
    assert_eq!((&stale["code"], &stale["details"]["head_seq"]), (&json!("stale_log"), &json!(4)));
    let request = message(room.channel, ann, 4);
    assert_eq!(ann_ws.ask(&request).await["type"], "sent");
    assert_eq!(cat_ws.event(room.channel).await["event"]["id"], request["id"]);
    let heard = bob_ws.settle().await;
    assert!(heard.iter().all(|frame| frame["stream"] != json!(room.channel)), "{heard:?}");
    // Resuming gives nothing either.
    let cursors = json!({ "cursors": { room.channel.to_string(): 0, room.community.to_string(): 0 } });
    let answer = bob.post("/sync", cursors).await.is(200);
    assert_eq!(answer["gone"].as_array().unwrap().len(), 2);
    assert!(answer["events"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_banned_member_is_told_so_even_for_a_message_that_was_stored() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let request = room.message(bob);
    post(bob, &request).await.is(201);
    ban(ann, room.community, bob).await;
    post(bob, &room.message(bob)).await.refused(ErrorCode::Banned);
    post(bob, &request).await.refused(ErrorCode::Banned);
}

#[tokio::test]
async fn no_row_of_a_banned_sender_comes_after_the_ban() {
    let live = TestServer::start().await;
    for _ in 0..5 {
        let room: Room<2> = live.room().await;
        let [ann, bob] = &room.people;
        let mut ws = live.connect(bob).await;
        // A stream of sends is under way while the ban is made.
        let sending = async {
            let mut refused = false;
            while !refused {
                for _ in 0..8 {
                    ws.say(room.message(bob)).await;
                }
                for _ in 0..8 {
                    let answer = ws.until(|frame| frame["type"] == "sent" || frame["type"] == "error").await;
                    refused |= answer["type"] == "error";
                    assert!(!refused || answer["code"] == "banned", "nothing is stored after the first refusal: {answer}");
                }
            }
        };
        let ((), ()) = tokio::join!(sending, ban(ann, room.community, bob));
        let after = live
            .sql
            .query_one(
                "SELECT count(*) FROM messages m JOIN logs l ON l.id = $2 WHERE m.channel_id = $1 AND m.log_seq >= l.head_seq",
                &[&room.channel, &room.community],
            )
            .await
            .unwrap();
        assert_eq!(after.get::<_, i64>(0), 0);
    }
}

#[tokio::test]
async fn who_is_added_hears_the_channel_at_once() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, _] = &room.people;
    let [dan] = live.people().await;
    let mut dan_ws = live.connect(&dan).await;
    ann.add(room.community, &dan, 0).await;
    let added = dan_ws.event(dan.id).await;
    assert_eq!(added["event"]["kind"], "community_added");
    let request = message(room.channel, ann, 3);
    post(ann, &request).await.is(201);
    assert_eq!(dan_ws.event(room.channel).await["event"]["id"], request["id"]);
    // A channel that is made later is heard without a new connection.
    let later = ann.channel(room.community, room.group).await;
    let request = message(later, &dan, live.epoch(room.community).await);
    assert_eq!(dan_ws.ask(&request).await["type"], "sent");
    assert_eq!(dan_ws.event(later).await["event"]["id"], request["id"]);
}

#[tokio::test]
async fn a_private_group_is_heard_by_its_members_only_and_left_with_the_community() {
    let live = TestServer::start().await;
    let room: Room<3> = live.room().await;
    let [ann, bob, cat] = &room.people;
    let group = ann.private_group(room.community).await;
    let op = ann.op(group).await.add(bob, 0);
    ann.post(&format!("/groups/{group}/log-ops"), json!({ "op": op })).await.is(201);
    let channel = ann.channel(group, group).await;
    let mut bob_ws = live.connect(bob).await;
    let mut cat_ws = live.connect(cat).await;
    let epoch = live.epoch(group).await;
    let request = message(channel, ann, epoch);
    post(ann, &request).await.is(201);
    assert_eq!(bob_ws.event(channel).await["event"]["id"], request["id"]);
    assert!(cat_ws.settle().await.iter().all(|frame| frame["stream"] != json!(channel)));
    // Who leaves the community reads none of its places, whatever the group's own log still says.
    kick(ann, room.community, bob).await;
    post(bob, &message(channel, bob, epoch)).await.refused(ErrorCode::NotFound);
    let request = message(channel, ann, live.epoch(group).await);
    post(ann, &request).await.is(201);
    assert!(bob_ws.settle().await.iter().all(|frame| frame["stream"] != json!(channel)));
}

#[tokio::test]
async fn read_only_archive_slow_mode_and_timeout_bind_members_and_not_moderators() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let set = async |change: Value| {
        ann.patch(&format!("/channels/{}", room.channel), change).await.is(200);
    };
    set(json!({ "read_only": true })).await;
    post(bob, &room.message(bob)).await.refused(ErrorCode::ReadOnly);
    post(ann, &room.message(ann)).await.is(201);
    set(json!({ "read_only": false, "slow_mode_s": 60 })).await;
    post(bob, &room.message(bob)).await.is(201);
    let details = post(bob, &room.message(bob)).await.refused(ErrorCode::SlowMode);
    assert!((50_000..=60_000).contains(&details["retry_after_ms"].as_u64().unwrap()), "{details}");
    for _ in 0..2 {
        post(ann, &room.message(ann)).await.is(201);
    }
    // Two at the same moment are two, too.
    live.sql.execute("UPDATE channel_states SET last_sent_at = now() - interval '1 hour'", &[]).await.unwrap();
    let (one, two) = (room.message(bob), room.message(bob));
    let both = futures_util::future::join(post(bob, &one), post(bob, &two)).await;
    let mut statuses = [both.0.status, both.1.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 429]);
    set(json!({ "slow_mode_s": 0, "archived": true })).await;
    post(ann, &room.message(ann)).await.refused(ErrorCode::Archived);
    set(json!({ "archived": false })).await;
    let timeout = "UPDATE channel_states SET timed_out_until = now() + interval '1 minute' WHERE user_id = $1";
    assert_eq!(live.sql.execute(timeout, &[&bob.id]).await.unwrap(), 1);
    post(bob, &room.message(bob)).await.refused(ErrorCode::TimedOut);
}

#[tokio::test]
async fn pins_are_for_moderators_and_listed_newest_first() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let (first, second) = (room.message(ann), room.message(bob));
    for (person, request) in [(ann, &first), (bob, &second)] {
        post(person, request).await.is(201);
    }
    let pin = |kind: &str, target: &Value| json!({ "id": new_id(), "channel_id": room.channel, "kind": kind, "target_id": target["id"] });
    post(bob, &pin("pin", &first)).await.refused(ErrorCode::Forbidden);
    for target in [&first, &second] {
        post(ann, &pin("pin", target)).await.is(201);
    }
    let pins = async || -> Vec<Value> {
        let page = bob.get(&format!("/channels/{}/pins", room.channel)).await.is(200);
        page["items"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect()
    };
    assert_eq!(pins().await, [second["id"].clone(), first["id"].clone()]);
    post(ann, &pin("unpin", &second)).await.is(201);
    assert_eq!(pins().await, [first["id"].clone()]);
    post(ann, &pin("pin", &json!({ "id": new_id() }))).await.refused(ErrorCode::NotFound);
    post(ann, &aimed("pin", &first, room.channel, ann, 2)).await.refused(ErrorCode::Validation);
}

#[tokio::test]
async fn a_session_without_a_device_reads_and_does_not_write() {
    let live = TestServer::start().await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    live.sql.execute("UPDATE sessions SET device_id = NULL WHERE user_id = $1", &[&bob.id]).await.unwrap();
    let mut ws = live.connect(bob).await;
    assert_eq!(ws.ready["device_id"], Value::Null);
    assert_eq!(ws.ask(&room.message(bob)).await["code"], "forbidden");
    let batch = json!({ "id": new_id(), "copies": [] });
    bob.post("/devices/messages", batch).await.refused(ErrorCode::Forbidden);
    let request = room.message(ann);
    post(ann, &request).await.is(201);
    assert_eq!(ws.event(room.channel).await["event"]["id"], request["id"]);
}

#[tokio::test]
async fn a_channel_that_begins_or_ends_is_looked_at_once_and_not_by_everybody_who_hears_it() {
    let live = TestServer::start().await;
    let room: Room<4> = live.room().await;
    let [ann, bob, cat, dan] = &room.people;
    let mut sockets = Vec::new();
    for person in [ann, bob, cat, dan] {
        sockets.push(live.connect(person).await);
    }
    let readings = || live.proxy.asked(&["WITH mine AS"]);
    let before = readings();
    let channel = ann.channel(room.community, room.group).await;
    for socket in &mut sockets {
        let told = socket.until(|frame| frame["event"]["kind"] == "channel").await;
        assert_eq!(told["event"]["channel"]["id"], json!(channel));
    }
    // Also what is not stored goes there before the first row.
    sockets[0].send(json!({ "type": "typing", "channel_id": channel })).await;
    sockets[1].until(|frame| frame["type"] == "typing").await;
    let request = message(channel, dan, live.epoch(room.community).await);
    post(dan, &request).await.is(201);
    for socket in &mut sockets {
        assert_eq!(socket.event(channel).await["event"]["id"], request["id"]);
    }
    let op = ann.op(room.community).await.attach(channel, false);
    ann.delete_with(&format!("/channels/{channel}"), json!({ "log_op": op })).await.is(204);
    for socket in &mut sockets {
        socket.until(|frame| frame["event"]["kind"] == "channel_removed").await;
    }
    assert_eq!(readings(), before, "nobody's access was read again");
    // A private one concerns its members only.
    let secret = ann.private_channel(room.group).await;
    sockets[0].until(|frame| frame["event"]["kind"] == "channel_added").await;
    ann.delete(&format!("/channels/{secret}")).await.is(204);
    sockets[0].until(|frame| frame["event"]["kind"] == "channel_removed").await;
    for socket in &mut sockets {
        socket.settle().await;
    }
    assert!((before + 1..=before + 4).contains(&readings()), "{} {before}", readings());
}

#[tokio::test]
async fn a_change_that_changes_nothing_is_told_to_nobody() {
    let live = TestServer::start().await;
    let room: Room<1> = live.room().await;
    let [ann] = &room.people;
    let staff = ann.private_group(room.community).await;
    let from = live.events(room.community).await.len();
    let told = live.events(staff).await.len();
    for path in [
        format!("/channels/{}", room.channel),
        format!("/groups/{}", room.group),
        format!("/groups/{staff}"),
        format!("/communities/{}", room.community),
    ] {
        let now = ann.get(&path).await.is(200);
        assert_eq!(ann.patch(&path, json!({})).await.is(200), now);
    }
    assert_eq!((live.events(room.community).await.len(), live.events(staff).await.len()), (from, told));
}
