//! Groups: public folders of a community, and private ones with a log and a stream of their own.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::person::new_id;
use crate::support::server::TestServer;

#[tokio::test]
async fn a_public_group_is_a_folder_of_its_community() {
    let server = TestServer::start().await;
    let [alice, bob, stranger] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let path = format!("/communities/{id}/groups");
    let group = new_id();
    let body = json!({ "id": group, "name": "General", "description": "d" });
    let from = server.events(id).await.len();
    let made = alice.post(&path, body.clone()).await.is(201);
    let want = json!({ "id": group, "community_id": id, "name": "General", "description": "d", "visibility": "public", "position": 0,
                       "my_role": "owner", "created_at": made["created_at"] });
    assert_eq!(made, want);
    assert_eq!(server.kinds(id, from).await, ["group"]);
    assert_eq!(server.events(id).await.pop().unwrap()["group"]["my_role"], Value::Null);
    assert_eq!(alice.post(&path, body).await.is(200), want);
    alice.post(&path, json!({ "id": group, "name": "Other" })).await.refused(ErrorCode::Conflict);
    alice.post(&path, json!({ "id": id, "name": "Other" })).await.refused(ErrorCode::Conflict);
    assert_eq!(bob.get(&format!("/groups/{group}")).await.is(200)["my_role"], "member");
    assert_eq!(bob.get(&path).await.is(200)["items"][0]["id"], json!(group));
    bob.post(&path, json!({ "id": new_id(), "name": "Mine" })).await.refused(ErrorCode::Forbidden);
    stranger.post(&path, json!({ "id": new_id(), "name": "Mine" })).await.refused(ErrorCode::NotFound);
    alice.patch(&format!("/communities/{id}"), json!({ "who_can_create_groups": "member" })).await.is(200);
    bob.post(&path, json!({ "id": new_id(), "name": "Mine" })).await.is(201);

    // Its members are the community's.
    let op = bob.op(id).await.leave();
    for (method, route) in [("join", "join"), ("leave", "leave")] {
        let op = if method == "join" { bob.op(id).await.join(&bob, None) } else { op.clone() };
        bob.post(&format!("/groups/{group}/{route}"), json!({ "log_op": op })).await.refused(ErrorCode::Conflict);
    }
    let op = alice.op(id).await.role(&bob, 3);
    alice
        .post(&format!("/groups/{group}/transfer"), json!({ "new_owner_id": bob.id, "log_op": op }))
        .await
        .refused(ErrorCode::Conflict);
    let member = format!("/groups/{group}/members/{}", bob.id);
    alice.get(&member).await.refused(ErrorCode::Conflict);
    alice.get(&format!("/groups/{group}/members")).await.refused(ErrorCode::Conflict);
    alice.patch(&member, json!({ "nickname": "x" })).await.refused(ErrorCode::Conflict);
    let op = alice.op(id).await.remove(&bob, false);
    alice.delete_with(&member, json!({ "log_op": op })).await.refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn a_malformed_group_is_refused_by_the_name_of_the_field() {
    let server = TestServer::start().await;
    let alice = server.person().await;
    let id = alice.community().await;
    let path = format!("/communities/{id}/groups");
    let op = alice.op(id).await.anchor();
    for (body, field) in [
        (json!({ "id": new_id(), "name": " " }), "name"),
        (json!({ "id": new_id(), "name": "a\u{2067}b" }), "name"),
        (json!({ "id": new_id(), "name": "a", "description": "x".repeat(513) }), "description"),
        (json!({ "id": "1f6ee0a8-6f0b-4d8e-9f2d-0a3f5b8c7d10", "name": "a" }), "id"),
        (json!({ "id": new_id(), "name": "a", "visibility": "private" }), "log_op"),
        (json!({ "id": new_id(), "name": "a", "log_op": op }), "log_op"),
        (json!({ "id": new_id(), "name": "a", "visibility": "private", "log_op": op }), "log_op"),
    ] {
        assert!(alice.post(&path, body).await.refused(ErrorCode::Validation)[field].is_string(), "{field}");
    }
}

#[tokio::test]
async fn the_two_hundred_and_first_group_is_refused() {
    let server = TestServer::start().await;
    let alice = server.person().await;
    let id = alice.community().await;
    server
        .sql
        .execute(
            "INSERT INTO groups (id, community_id, name) SELECT gen_random_uuid(), $1, 'g' FROM generate_series(1, 199)",
            &[&id],
        )
        .await
        .unwrap();
    let group = alice.group(id).await;
    let path = format!("/communities/{id}/groups");
    let refused = alice.post(&path, json!({ "id": new_id(), "name": "g" })).await.refused(ErrorCode::Conflict);
    assert_eq!(refused, json!({ "limit": 200 }));
    alice.delete(&format!("/groups/{group}")).await.is(204);
    alice.post(&path, json!({ "id": new_id(), "name": "g" })).await.is(201);
}

#[tokio::test]
async fn a_group_changes_and_goes_when_it_is_empty() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 1).await;
    let group = alice.group(id).await;
    let path = format!("/groups/{group}");
    let from = server.events(id).await.len();
    let changed = alice.patch(&path, json!({ "name": "Talk", "description": "t", "position": 4 })).await.is(200);
    assert_eq!((&changed["name"], &changed["description"], &changed["position"]), (&json!("Talk"), &json!("t"), &json!(4)));
    bob.patch(&path, json!({ "name": "Mine" })).await.refused(ErrorCode::Forbidden);
    bob.delete(&path).await.refused(ErrorCode::Forbidden);
    alice.patch(&path, json!({ "name": "" })).await.refused(ErrorCode::Validation);
    let channel = alice.channel(id, group).await;
    alice.delete(&path).await.refused(ErrorCode::Conflict);
    let op = alice.op(id).await.attach(channel, false);
    alice.delete_with(&format!("/channels/{channel}"), json!({ "log_op": op })).await.is(204);
    alice.delete(&path).await.is(204);
    alice.delete(&path).await.refused(ErrorCode::NotFound);
    let want = ["group", "log_op", "channel", "log_op", "channel_removed", "group_removed"];
    assert_eq!(server.kinds(id, from).await, want);
}

#[tokio::test]
async fn a_private_group_is_seen_by_its_members_only_and_has_its_own_log() {
    let server = TestServer::start().await;
    let [alice, bob, carol, stranger] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    alice.add(id, &carol, 2).await;
    let before = server.events(id).await.len();
    let group = alice.private_group(id).await;
    let path = format!("/groups/{group}");
    assert_eq!(server.events(id).await.len(), before, "the community hears nothing of it");
    assert_eq!(server.kinds(group, 0).await, ["log_op", "group"]);
    assert_eq!(server.kinds(alice.id, 1).await, ["group"]);
    let random = carol.get(&format!("/groups/{}", new_id())).await;
    for person in [&bob, &carol, &stranger] {
        for hidden in [path.clone(), format!("{path}/members"), format!("{path}/log-ops")] {
            assert_eq!(person.get(&hidden).await, random, "{hidden}");
        }
    }
    assert_eq!(carol.get(&format!("/communities/{id}/groups")).await.is(200)["items"], json!([]));

    let channel = alice.channel(group, group).await;
    let add = format!("{path}/log-ops");
    alice.post(&add, json!({ "op": alice.op(group).await.add(&stranger, 0) })).await.refused(ErrorCode::Conflict);
    let from = server.events(group).await.len();
    alice.post(&add, json!({ "op": alice.op(group).await.add(&bob, 0) })).await.is(201);
    assert_eq!(server.kinds(group, from).await, ["log_op", "member"]);
    assert_eq!(server.kinds(bob.id, 1).await, ["group", "channel_added"], "on the user's own stream: what was gained");
    assert_eq!(bob.get(&path).await.is(200)["my_role"], "member");
    assert_eq!(bob.get("/channels").await.is(200)["items"][0]["log_id"], json!(group));
    bob.patch(&path, json!({ "name": "Mine" })).await.refused(ErrorCode::Forbidden);
    bob.delete(&path).await.refused(ErrorCode::Forbidden);

    // Roles, nicknames and kicks are those of the group's log.
    let member = format!("{path}/members/{}", bob.id);
    let op = alice.op(group).await.role(&bob, 1);
    assert_eq!(alice.patch(&member, json!({ "role": "moderator", "log_op": op })).await.is(200)["role"], "moderator");
    let from = server.events(bob.id).await.len();
    alice.delete_with(&member, json!({ "log_op": alice.op(group).await.remove(&bob, false) })).await.is(204);
    assert_eq!(server.kinds(bob.id, from).await, ["channel_removed", "group_removed"]);
    assert_eq!(bob.get(&path).await, random);
    assert_eq!(bob.get(&format!("/channels/{channel}")).await, random);

    // Open to the community: seen, joined, left.
    alice.post(&add, json!({ "op": alice.op(group).await.open(true) })).await.is(201);
    assert_eq!(bob.get(&format!("/communities/{id}/groups")).await.is(200)["items"][0]["my_role"], Value::Null);
    let join = format!("{path}/join");
    stranger.post(&join, json!({ "log_op": stranger.op(group).await.join(&stranger, None) })).await.refused(ErrorCode::NotFound);
    assert_eq!(bob.post(&join, json!({ "log_op": bob.op(group).await.join(&bob, None) })).await.is(200)["my_role"], "member");
    let op = bob.op(group).await.leave();
    bob.post(&format!("{path}/leave"), json!({ "log_op": op })).await.is(204);
    bob.post(&format!("{path}/leave"), json!({ "log_op": op })).await.is(204);
    carol.post(&join, json!({ "log_op": carol.op(group).await.join(&carol, None) })).await.is(200);
    let op = alice.op(group).await.role(&carol, 3);
    let given = alice.post(&format!("{path}/transfer"), json!({ "new_owner_id": carol.id, "log_op": op })).await.is(200);
    assert_eq!(given["my_role"], "admin");
    let op = carol.op(group).await.attach(channel, false);
    carol.delete_with(&format!("/channels/{channel}"), json!({ "log_op": op })).await.is(204);
    carol.delete(&path).await.is(204);
    assert_eq!(server.events(alice.id).await.pop(), Some(json!({ "kind": "group_removed", "group_id": group })));
    assert_eq!(alice.get(&path).await, random);
}

#[tokio::test]
async fn whoever_leaves_the_community_reads_nothing_inside_of_it() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    let open = alice.group(id).await;
    alice.add(id, &bob, 0).await;
    let (group, secret) = (alice.private_group(id).await, alice.private_channel(open).await);
    let channel = alice.channel(group, group).await;
    alice.post(&format!("/groups/{group}/log-ops"), json!({ "op": alice.op(group).await.add(&bob, 2) })).await.is(201);
    alice.post(&format!("/channels/{secret}/log-ops"), json!({ "op": alice.op(secret).await.add(&bob, 2) })).await.is(201);
    assert_eq!(bob.get("/channels").await.is(200)["items"].as_array().unwrap().len(), 2);
    let op = alice.op(id).await.remove(&bob, false);
    alice.delete_with(&format!("/communities/{id}/members/{}", bob.id), json!({ "log_op": op })).await.is(204);
    assert_eq!(bob.get("/channels").await.is(200)["items"], json!([]));
    for hidden in [format!("/groups/{group}"), format!("/channels/{channel}"), format!("/channels/{secret}")] {
        bob.get(&hidden).await.refused(ErrorCode::NotFound);
    }
    bob.patch(&format!("/channels/{secret}"), json!({ "name": "x" })).await.refused(ErrorCode::NotFound);
    bob.post(&format!("/channels/{secret}/log-ops"), json!({ "op": bob.op(secret).await.anchor() }))
        .await
        .refused(ErrorCode::NotFound);
    bob.post(&format!("/groups/{group}/log-ops"), json!({ "op": bob.op(group).await.anchor() }))
        .await
        .refused(ErrorCode::NotFound);
    // The signed logs still name the user, who may take the name out.
    bob.post(&format!("/groups/{group}/leave"), json!({ "log_op": bob.op(group).await.leave() })).await.is(204);
    bob.post(&format!("/channels/{secret}/log-ops"), json!({ "op": bob.op(secret).await.leave() })).await.is(201);
}
