//! Channels: attached ones and private ones, and what a caller sees of them.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::person::{Person, new_id};
use crate::support::server::TestServer;

#[tokio::test]
async fn a_channel_is_attached_by_an_op() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 1).await;
    let group = alice.group(id).await;
    let (channel, path) = (new_id(), format!("/groups/{group}/channels"));
    let op = alice.op(id).await.attach(channel, true);
    let body = json!({ "id": channel, "name": "general", "topic": "crabs", "kind": "announcement", "log_op": op });
    let from = server.events(id).await.len();
    let made = alice.post(&path, body.clone()).await.is(201);
    let want = json!({
        "id": channel, "kind": "announcement", "group_id": group, "community_id": id, "log_id": id, "name": "general", "topic": "crabs",
        "read_only": false, "slow_mode_s": 0, "archived": false, "position": 0, "head_seq": 0, "start_seq": 0, "my_read_seq": 0,
        "created_at": made["created_at"],
    });
    assert_eq!(made, want);
    assert_eq!(server.kinds(id, from).await, ["log_op", "channel"]);
    let told = server.events(id).await.pop().unwrap();
    assert_eq!((&told["channel"]["start_seq"], &told["channel"]["my_read_seq"]), (&Value::Null, &Value::Null));
    assert_eq!(alice.post(&path, body).await.is(200), want);
    assert_eq!(bob.get(&format!("/channels/{channel}")).await.is(200), want);

    let other = alice.op(id).await.attach(channel, true);
    alice.post(&path, json!({ "id": channel, "name": "general", "log_op": other })).await.refused(ErrorCode::Conflict);
    let try_new = async |by: &Person, body: Value| by.post(&path, body).await;
    let fresh = new_id();
    let op = bob.op(id).await.attach(fresh, true);
    try_new(&bob, json!({ "id": fresh, "name": "x", "log_op": op })).await.refused(ErrorCode::Forbidden);
    for (body, field) in [
        (json!({ "id": new_id(), "name": "x", "log_op": alice.op(id).await.attach(fresh, true) }), "log_op"),
        (json!({ "id": fresh, "name": "x", "log_op": alice.op(id).await.attach(fresh, false) }), "log_op"),
        (json!({ "id": fresh, "name": "x", "log_op": alice.op(fresh).await.create(1) }), "log_op"),
        (
            json!({ "id": fresh, "name": "x", "visibility": "private", "log_op": alice.op(id).await.attach(fresh, true) }),
            "log_op",
        ),
        (json!({ "id": fresh, "name": "x", "visibility": "private", "log_op": alice.op(fresh).await.create(2) }), "log_op"),
        (json!({ "id": fresh, "name": "x", "kind": "dm", "log_op": alice.op(id).await.attach(fresh, true) }), "kind"),
        (json!({ "id": fresh, "name": "x", "topic": "\u{0}", "log_op": alice.op(id).await.attach(fresh, true) }), "topic"),
        (
            json!({ "id": fresh, "name": "x", "topic": "x".repeat(513), "log_op": alice.op(id).await.attach(fresh, true) }),
            "topic",
        ),
    ] {
        assert!(try_new(&alice, body).await.refused(ErrorCode::Validation)[field].is_string(), "{field}");
    }
    let mut stale = alice.op(id).await;
    stale.seq -= 1;
    try_new(&alice, json!({ "id": fresh, "name": "x", "log_op": stale.attach(fresh, true) })).await.refused(ErrorCode::StaleLog);
    let elsewhere = alice.community().await;
    let op = alice.op(elsewhere).await.attach(fresh, true);
    try_new(&alice, json!({ "id": fresh, "name": "x", "log_op": op })).await.refused(ErrorCode::Validation);
    alice
        .post(&format!("/groups/{}/channels", new_id()), json!({ "id": fresh, "name": "x", "log_op": op }))
        .await
        .refused(ErrorCode::NotFound);
    try_new(&alice, json!({ "id": fresh, "name": "x", "log_op": alice.op(id).await.attach(fresh, true) })).await.is(201);
}

#[tokio::test]
async fn the_hundred_and_first_channel_is_refused_and_its_op_not_applied() {
    let server = TestServer::start().await;
    let alice = server.person().await;
    let id = alice.community().await;
    let group = alice.group(id).await;
    server
        .sql
        .execute(
            "WITH made AS (INSERT INTO channels (id, kind, community_id, group_id, log_id)
             SELECT gen_random_uuid(), 'text', $1, $2, $1 FROM generate_series(1, 100) RETURNING id)
             INSERT INTO channel_heads (channel_id) SELECT id FROM made",
            &[&id, &group],
        )
        .await
        .unwrap();
    let (channel, op) = (new_id(), alice.op(id).await);
    let body = json!({ "id": channel, "name": "x", "log_op": op.attach(channel, true) });
    let refused = alice.post(&format!("/groups/{group}/channels"), body).await.refused(ErrorCode::Conflict);
    assert_eq!(refused, json!({ "limit": 100 }));
    assert_eq!(alice.get(&format!("/communities/{id}")).await.is(200)["log_head_seq"], json!(0));
}

#[tokio::test]
async fn a_channel_is_changed_by_admins() {
    let server = TestServer::start().await;
    let [alice, bob, stranger] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 1).await;
    let group = alice.group(id).await;
    let path = format!("/channels/{}", alice.channel(id, group).await);
    let from = server.events(id).await.len();
    let body = json!({ "name": "talk", "topic": "t", "read_only": true, "slow_mode_s": 21600, "archived": true, "message_ttl_s": 5, "position": 3 });
    let changed = alice.patch(&path, body.clone()).await.is(200);
    for (field, value) in body.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
    }
    assert_eq!(server.kinds(id, from).await, ["channel"]);
    let cleared = alice.patch(&path, json!({ "topic": "", "message_ttl_s": 0, "archived": false })).await.is(200);
    assert_eq!((&cleared["topic"], &cleared["message_ttl_s"]), (&Value::Null, &Value::Null));
    for (bad, field) in [
        (json!({ "slow_mode_s": 21601 }), "slow_mode_s"),
        (json!({ "message_ttl_s": 4 }), "message_ttl_s"),
        (json!({ "message_ttl_s": 31_536_001 }), "message_ttl_s"),
        (json!({ "name": "\u{200B}" }), "name"),
        (json!({ "topic": "a\u{1b}]0;b\u{7}" }), "topic"),
    ] {
        assert!(alice.patch(&path, bad).await.refused(ErrorCode::Validation)[field].is_string(), "{field}");
    }
    alice.patch(&path, json!({ "slow_mode_s": -1 })).await.refused(ErrorCode::InvalidRequest);
    bob.patch(&path, json!({ "topic": "mine" })).await.refused(ErrorCode::Forbidden);
    stranger.patch(&path, json!({ "topic": "mine" })).await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn a_private_channel_tells_its_ops_as_rows() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    alice.add(id, &carol, 2).await;
    let group = alice.group(id).await;
    let before = server.events(id).await.len();
    let secret = alice.private_channel(group).await;
    assert_eq!(server.events(id).await.len(), before);
    assert_eq!(server.events(alice.id).await.pop().unwrap()["channel"]["log_id"], json!(secret));
    let (path, log) = (format!("/channels/{secret}"), format!("/channels/{secret}/log-ops"));
    for hidden in [path.clone(), log.clone(), format!("{path}/members"), format!("{path}/settings")] {
        carol.get(&hidden).await.refused(ErrorCode::NotFound);
    }
    alice.post(&log, json!({ "op": alice.op(secret).await.add(&bob, 1) })).await.is(201);
    let gained = server.events(bob.id).await.pop().unwrap();
    assert_eq!((&gained["kind"], &gained["channel"]["id"]), (&json!("channel_added"), &json!(secret)));
    let seen = bob.get(&path).await.is(200);
    assert_eq!(
        (&seen["head_seq"], &seen["start_seq"]),
        (&json!(2), &json!(1)),
        "the row of the own joining is the first to read"
    );
    alice.patch(&path, json!({ "topic": "hush" })).await.is(200);
    let rows = "SELECT seq, log_seq, kind, body::text FROM messages WHERE channel_id = $1 ORDER BY seq";
    let rows = server.sql.query(rows, &[&secret]).await.unwrap();
    let rows: Vec<(i64, i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(rows, [(1, 0, "member".into()), (2, 1, "member".into()), (3, 1, "channel".into())]);

    let members = bob.get(&format!("{path}/members")).await.is(200);
    assert_eq!(members["items"].as_array().unwrap().len(), 2);
    let member = format!("{path}/members/{}", bob.id);
    let op = alice.op(secret).await.role(&bob, 3);
    assert_eq!(alice.patch(&member, json!({ "role": "owner", "log_op": op })).await.is(200)["role"], "owner");
    let op = bob.op(secret).await.remove(&alice, true);
    bob.put(&format!("{path}/bans/{}", alice.id), json!({ "log_op": op })).await.is(204);
    assert_eq!(server.events(alice.id).await.pop(), Some(json!({ "kind": "channel_removed", "channel_id": secret })));
    alice.get(&path).await.refused(ErrorCode::NotFound);
    let op = bob.op(secret).await.unban(&alice);
    bob.delete_with(&format!("{path}/bans/{}", alice.id), json!({ "log_op": op })).await.is(204);
    bob.post(&log, json!({ "op": bob.op(secret).await.add(&carol, 0) })).await.is(201);
    carol.delete(&path).await.refused(ErrorCode::Forbidden);
    let op = carol.op(secret).await.leave();
    carol.post(&log, json!({ "op": op })).await.is(201);
    carol.post(&log, json!({ "op": op })).await.is(200);
    let op = bob.op(secret).await.anchor();
    bob.delete_with(&path, json!({ "log_op": op })).await.refused(ErrorCode::Validation);
    bob.delete(&path).await.is(204);
    bob.get(&path).await.refused(ErrorCode::NotFound);
    assert_eq!(server.events(bob.id).await.pop(), Some(json!({ "kind": "channel_removed", "channel_id": secret })));
}

#[tokio::test]
async fn an_attached_channel_goes_with_its_detach_op() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 1).await;
    let group = alice.group(id).await;
    let (channel, other) = (alice.channel(id, group).await, alice.channel(id, group).await);
    let path = format!("/channels/{channel}");
    alice.delete(&path).await.refused(ErrorCode::Validation);
    let wrong = alice.op(id).await.attach(other, false);
    alice.delete_with(&path, json!({ "log_op": wrong })).await.refused(ErrorCode::Validation);
    bob.delete_with(&path, json!({ "log_op": bob.op(id).await.attach(channel, false) })).await.refused(ErrorCode::Forbidden);
    let member = format!("{path}/members/{}", bob.id);
    alice.delete_with(&member, json!({ "log_op": alice.op(id).await.remove(&bob, false) })).await.refused(ErrorCode::Conflict);
    alice.patch(&member, json!({ "nickname": "b" })).await.refused(ErrorCode::Conflict);
    assert_eq!(bob.get(&format!("{path}/members")).await.is(200)["items"].as_array().unwrap().len(), 2);
    let op = alice.op(id).await.attach(channel, false);
    alice.delete_with(&path, json!({ "log_op": op })).await.is(204);
    alice.delete_with(&path, json!({ "log_op": op })).await.is(204);
    assert_eq!(server.events(id).await.pop(), Some(json!({ "kind": "channel_removed", "channel_id": channel })));
    assert_eq!(bob.get("/channels").await.is(200)["items"].as_array().unwrap().len(), 1);
    let op = alice.op(id).await.attach(channel, true);
    alice
        .post(&format!("/groups/{group}/channels"), json!({ "id": channel, "name": "x", "log_op": op }))
        .await
        .refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn settings_are_the_callers_own() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let group = alice.group(id).await;
    let channel = alice.channel(id, group).await;
    let path = format!("/channels/{channel}/settings");
    let defaults = json!({ "muted": false, "pinned": false, "archived": false, "notify": "all" });
    assert_eq!(bob.get(&path).await.is(200), defaults);
    let mine = json!({ "muted": true, "pinned": true, "archived": false, "notify": "mentions" });
    assert_eq!(bob.put(&path, mine.clone()).await.is(200), mine);
    assert_eq!(bob.get(&path).await.is(200), mine);
    assert_eq!(alice.get(&path).await.is(200), defaults);
    let told = server.events(bob.id).await.pop().unwrap();
    assert_eq!(told, json!({ "kind": "settings", "channel_id": channel, "settings": mine }));
    bob.put(&path, json!({ "notify": "loud" })).await.refused(ErrorCode::InvalidRequest);
    bob.put(&path, json!({ "colour": 1 })).await.refused(ErrorCode::UnknownField);
}

#[tokio::test]
async fn the_first_cursor_is_the_last_row_older_than_joining_and_device() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    let group = alice.group(id).await;
    let channel = alice.channel(id, group).await;
    // Thirteen rows, one a minute, of which the last three came after bob had joined at op 2.
    server
        .sql
        .execute(
            "INSERT INTO messages (channel_id, seq, id, log_seq, kind, created_at)
             SELECT $1, n, gen_random_uuid(), CASE WHEN n > 10 THEN 2 ELSE 1 END, 'message', now() - (20 - n) * interval '1 minute'
               FROM generate_series(1, 13) n",
            &[&channel],
        )
        .await
        .unwrap();
    server.sql.execute("UPDATE channel_heads SET head_seq = 13 WHERE channel_id = $1", &[&channel]).await.unwrap();
    alice.add(id, &bob, 0).await;
    let start = async |who: &Person| who.get(&format!("/channels/{channel}")).await.is(200)["start_seq"].as_u64().unwrap();
    let since = async |minutes: i32| {
        let since = "UPDATE devices SET created_at = now() - make_interval(mins => $1) - interval '30 seconds'";
        server.sql.execute(since, &[&minutes]).await.unwrap();
    };
    assert_eq!((start(&alice).await, start(&bob).await), (13, 13), "these devices are younger than all rows");
    since(100).await;
    assert_eq!((start(&alice).await, start(&bob).await), (0, 10));
    since(15).await;
    assert_eq!((start(&alice).await, start(&bob).await), (4, 10));
    since(8).await;
    assert_eq!((start(&alice).await, start(&bob).await), (11, 11));
    // A session without a device has the joining only.
    server.sql.execute("UPDATE sessions SET device_id = NULL", &[]).await.unwrap();
    assert_eq!((start(&alice).await, start(&bob).await), (0, 10));
}
