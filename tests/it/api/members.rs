//! Members and bans: kick, ban, unban, roles, nicknames.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::person::{Person, new_id};
use crate::support::server::TestServer;

#[tokio::test]
async fn a_kicked_member_is_out_at_once_and_may_come_back() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    let group = alice.group(id).await;
    let channel = alice.channel(id, group).await;
    alice.add(id, &bob, 1).await;
    alice.add(id, &carol, 0).await;
    assert_eq!(carol.get("/channels").await.is(200)["items"][0]["id"], json!(channel));
    let from = server.events(id).await.len();
    let (path, op) = (format!("/communities/{id}/members/{}", carol.id), bob.op(id).await.remove(&carol, false));
    bob.delete_with(&path, json!({ "reason": "spam", "log_op": op })).await.is(204);
    assert_eq!(server.kinds(id, from).await, ["log_op", "member_removed"]);
    assert_eq!(server.events(id).await[from + 1], json!({ "kind": "member_removed", "user_id": carol.id, "reason": "kicked" }));
    let told = json!({ "kind": "community_removed", "community_id": id, "reason": "kicked", "op": op });
    assert_eq!(server.events(carol.id).await.pop(), Some(told));
    assert_eq!(carol.get("/channels").await.is(200)["items"], json!([]));
    let random = carol.get(&format!("/communities/{}", new_id())).await;
    for gone in [format!("/communities/{id}"), format!("/groups/{group}"), format!("/channels/{channel}"), path.clone()] {
        assert_eq!(carol.get(&gone).await, random, "{gone}");
    }
    // The same op again is done already; another one finds nobody.
    bob.delete_with(&path, json!({ "log_op": op })).await.is(204);
    let op = bob.op(id).await.remove(&carol, false);
    bob.delete_with(&path, json!({ "log_op": op })).await.refused(ErrorCode::NotFound);
    alice.add(id, &carol, 0).await;
    assert_eq!(server.events(carol.id).await.pop().unwrap()["kind"], "community_added");
}

#[tokio::test]
async fn a_kick_needs_its_own_op_and_a_role_above() {
    let server = TestServer::start().await;
    let [alice, bob, carol, dave, stranger] = server.people().await;
    let id = alice.community().await;
    for (person, role) in [(&bob, 2), (&carol, 1), (&dave, 1)] {
        alice.add(id, person, role).await;
    }
    let kick = async |by: &Person, whom: &Person, op: String| {
        by.delete_with(&format!("/communities/{id}/members/{}", whom.id), json!({ "log_op": op })).await
    };
    let path = format!("/communities/{id}/members/{}", carol.id);
    bob.delete_with(&path, json!({})).await.refused(ErrorCode::Validation);
    bob.delete_with(&path, json!({ "reason": "a\nb", "log_op": bob.op(id).await.remove(&carol, false) }))
        .await
        .refused(ErrorCode::Validation);
    kick(&bob, &carol, bob.op(id).await.remove(&carol, true)).await.refused(ErrorCode::Validation);
    kick(&bob, &carol, bob.op(id).await.remove(&dave, false)).await.refused(ErrorCode::Validation);
    kick(&carol, &carol, carol.op(id).await.leave()).await.refused(ErrorCode::Validation);
    for (by, whom) in [(&carol, &dave), (&carol, &bob), (&bob, &alice), (&carol, &carol), (&alice, &alice)] {
        kick(by, whom, by.op(id).await.remove(whom, false)).await.refused(ErrorCode::Forbidden);
    }
    kick(&stranger, &carol, stranger.op(id).await.remove(&carol, false)).await.refused(ErrorCode::NotFound);
    kick(&bob, &stranger, bob.op(id).await.remove(&stranger, false)).await.refused(ErrorCode::NotFound);
    let mut stale = bob.op(id).await;
    stale.seq -= 1;
    kick(&bob, &carol, stale.remove(&carol, false)).await.refused(ErrorCode::StaleLog);
    kick(&bob, &carol, bob.op(id).await.remove(&carol, false)).await.is(204);
}

#[tokio::test]
async fn a_ban_keeps_out_until_it_is_lifted() {
    let server = TestServer::start().await;
    let [alice, bob, carol, stranger] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 1).await;
    alice.add(id, &carol, 0).await;
    let (code, key) = alice.invite(id, 0, 0).await;
    let bans = format!("/communities/{id}/bans");
    let path = format!("{bans}/{}", carol.id);
    let op = bob.op(id).await.remove(&stranger, true);
    bob.put(&format!("{bans}/{}", stranger.id), json!({ "log_op": op })).await.refused(ErrorCode::Conflict);
    bob.put(&path, json!({ "log_op": bob.op(id).await.remove(&carol, false) })).await.refused(ErrorCode::Validation);
    let op = bob.op(id).await.remove(&carol, true);
    bob.put(&path, json!({ "reason": "spam", "log_op": op })).await.is(204);
    bob.put(&path, json!({ "reason": "spam", "log_op": op })).await.is(204);
    assert_eq!(server.events(carol.id).await.pop().unwrap()["reason"], "banned");
    let banned = &bob.get(&bans).await.is(200)["items"][0];
    assert_eq!(
        (&banned["user"]["id"], &banned["reason"], &banned["banned_by"]),
        (&json!(carol.id), &json!("spam"), &json!(bob.id))
    );
    carol.accept(id, &code, &key).await.refused(ErrorCode::Banned);
    alice.post(&format!("/communities/{id}/log-ops"), json!({ "op": alice.op(id).await.open(true) })).await.is(201);
    let join = format!("/communities/{id}/join");
    carol.post(&join, json!({ "log_op": carol.op(id).await.join(&carol, None) })).await.refused(ErrorCode::Banned);
    alice
        .post(&format!("/communities/{id}/log-ops"), json!({ "op": alice.op(id).await.add(&carol, 0) }))
        .await
        .refused(ErrorCode::Conflict);
    assert_eq!(carol.get("/communities/discover").await.is(200)["items"], json!([]));

    bob.delete_with(&path, json!({ "log_op": bob.op(id).await.unban(&carol) })).await.refused(ErrorCode::Forbidden);
    alice.delete_with(&path, json!({ "log_op": alice.op(id).await.unban(&bob) })).await.refused(ErrorCode::Validation);
    alice.delete_with(&path, json!({})).await.refused(ErrorCode::InvalidRequest);
    let op = alice.op(id).await.unban(&carol);
    alice.delete_with(&path, json!({ "log_op": op })).await.is(204);
    alice.delete_with(&path, json!({ "log_op": op })).await.is(204);
    alice.delete_with(&path, json!({ "log_op": alice.op(id).await.unban(&carol) })).await.refused(ErrorCode::NotFound);
    carol.post(&join, json!({ "log_op": carol.op(id).await.join(&carol, None) })).await.is(200);
    carol.get(&bans).await.refused(ErrorCode::Forbidden);
    stranger.get(&bans).await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn roles_change_by_an_op_for_this_user_and_role() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    alice.add(id, &carol, 0).await;
    let path = |who: &Person| format!("/communities/{id}/members/{}", who.id);
    let from = server.events(id).await.len();
    let op = alice.op(id).await.role(&bob, 2);
    let member = alice.patch(&path(&bob), json!({ "role": "admin", "log_op": op })).await.is(200);
    assert_eq!((&member["role"], &member["user"]["id"]), (&json!("admin"), &json!(bob.id)));
    assert_eq!(server.kinds(id, from).await, ["log_op", "member"]);
    assert_eq!(alice.patch(&path(&bob), json!({ "role": "admin", "log_op": op })).await.is(200), member);
    assert_eq!(carol.get(&path(&bob)).await.is(200), member);
    for bad in [
        json!({ "role": "moderator" }),
        json!({ "log_op": bob.op(id).await.role(&carol, 1) }),
        json!({ "role": "admin", "log_op": bob.op(id).await.role(&carol, 1) }),
        json!({ "role": "moderator", "log_op": bob.op(id).await.role(&alice, 1) }),
        json!({ "role": "owner", "log_op": alice.op(id).await.role(&carol, 3) }),
    ] {
        let by = if bad["role"] == "owner" { &alice } else { &bob };
        by.patch(&path(&carol), bad).await.refused(ErrorCode::Validation);
    }
    bob.patch(&path(&carol), json!({ "role": "king", "log_op": "" })).await.refused(ErrorCode::InvalidRequest);
    let op = bob.op(id).await.role(&carol, 2);
    bob.patch(&path(&carol), json!({ "role": "admin", "log_op": op })).await.refused(ErrorCode::Forbidden);
    let op = carol.op(id).await.role(&carol, 1);
    carol.patch(&path(&carol), json!({ "role": "moderator", "log_op": op })).await.refused(ErrorCode::Forbidden);
    let op = bob.op(id).await.role(&carol, 1);
    bob.patch(&path(&carol), json!({ "role": "moderator", "log_op": op, "nickname": "cee" })).await.is(200);
    let all = carol.get(&format!("/communities/{id}/members")).await.is(200);
    let roles: Vec<_> = all["items"].as_array().unwrap().iter().map(|m| (&m["role"], &m["nickname"])).collect();
    assert_eq!(roles, [(&json!("owner"), &Value::Null), (&json!("admin"), &Value::Null), (&json!("moderator"), &json!("cee"))]);
}

#[tokio::test]
async fn a_nickname_is_ones_own_or_set_from_above() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 2).await;
    alice.add(id, &carol, 0).await;
    let path = |who: &Person| format!("/communities/{id}/members/{}", who.id);
    let named = carol.patch(&path(&carol), json!({ "nickname": "cee" })).await.is(200);
    assert_eq!(named["nickname"], "cee");
    assert_eq!(server.kinds(id, 0).await.pop().unwrap(), "member");
    bob.patch(&path(&carol), json!({ "nickname": "" })).await.is(200);
    carol.patch(&path(&bob), json!({ "nickname": "b" })).await.refused(ErrorCode::Forbidden);
    bob.patch(&path(&alice), json!({ "nickname": "a" })).await.refused(ErrorCode::Forbidden);
    bob.patch(&path(&carol), json!({ "nickname": "\u{9b}1m" })).await.refused(ErrorCode::Validation);
    bob.patch(&path(&carol), json!({ "nickname": "x".repeat(65) })).await.refused(ErrorCode::Validation);
}

#[tokio::test]
async fn sessions_without_a_device_read_and_sign_nothing() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let op = bob.op(id).await.leave();
    server.sql.execute("UPDATE sessions SET device_id = NULL WHERE user_id = $1", &[&bob.id]).await.unwrap();
    bob.get(&format!("/communities/{id}/members")).await.is(200);
    bob.post(&format!("/communities/{id}/leave"), json!({ "log_op": op })).await.refused(ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_new_profile_is_told_wherever_its_owner_is_a_member() {
    let server = TestServer::start().await;
    let [owner, member] = server.people().await;
    let (first, second) = (owner.community().await, owner.community().await);
    owner.add(first, &member, 1).await;
    owner.add(second, &member, 1).await;
    let (seen_first, seen_second) = (server.events(first).await.len(), server.events(second).await.len());
    member.patch("/account", json!({ "display_name": "Mia" })).await.is(200);
    for (community, seen) in [(first, seen_first), (second, seen_second)] {
        let [told] = &server.events(community).await[seen..] else { panic!("one event") };
        assert_eq!((&told["kind"], &told["member"]["user"]["display_name"]), (&json!("member"), &json!("Mia")));
    }
    member.patch("/account", json!({ "status": "dnd" })).await.is(200);
    assert_eq!(server.events(first).await.len(), seen_first + 1, "a status is presence: live, not an event");
}
