//! What somebody may not see answers exactly as what does not exist: every route of places, for everybody outside.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::{Answer, Http as _};
use crate::support::op::InviteKey;
use crate::support::person::{Person, new_id};
use crate::support::server::TestServer;
use uuid::Uuid;

/// The places that a request can name; either all real, or all made up.
#[derive(Clone, Copy)]
struct Places {
    community: Uuid,
    group: Uuid,
    staff: Uuid,
    channel: Uuid,
    secret: Uuid,
    invite: Uuid,
    member: Uuid,
}

/// Every route that names a place, with a body that would do for a member.
async fn requests(by: &Person, other: &Person, at: Places) -> Vec<(&'static str, String, Option<Value>)> {
    let Places { community, group, staff, channel, secret, invite, member } = at;
    let (c, g, s, h, x) = (
        format!("/communities/{community}"),
        format!("/groups/{group}"),
        format!("/groups/{staff}"),
        format!("/channels/{channel}"),
        format!("/channels/{secret}"),
    );
    let op = |log: Uuid| by.op(log);
    let key = InviteKey::new();
    let signed = |op: String| Some(json!({ "log_op": op }));
    let mut all = Vec::new();
    for path in [
        c.clone(),
        format!("{c}/members"),
        format!("{c}/members/{member}"),
        format!("{c}/bans"),
        format!("{c}/invites"),
        format!("{c}/groups"),
        format!("{c}/log-ops"),
        g.clone(),
        format!("{g}/members"),
        s.clone(),
        format!("{s}/members"),
        format!("{s}/members/{member}"),
        format!("{s}/log-ops"),
        h.clone(),
        format!("{h}/members"),
        format!("{h}/settings"),
        format!("{h}/log-ops"),
        x.clone(),
        format!("{x}/members"),
        format!("{x}/settings"),
        format!("{x}/log-ops"),
    ] {
        all.push(("GET", path, None));
    }
    all.push(("PATCH", c.clone(), Some(json!({ "name": "x" }))));
    all.push(("DELETE", c.clone(), None));
    all.push(("POST", format!("{c}/leave"), signed(op(community).await.leave())));
    all.push(("POST", format!("{c}/join"), signed(op(community).await.join(by, None))));
    all.push((
        "POST",
        format!("{c}/transfer"),
        Some(json!({ "new_owner_id": other.id, "log_op": op(community).await.role(other, 3) })),
    ));
    all.push(("PATCH", format!("{c}/members/{}", other.id), Some(json!({ "nickname": "x" }))));
    all.push((
        "PATCH",
        format!("{c}/members/{}", other.id),
        Some(json!({ "role": "moderator", "log_op": op(community).await.role(other, 1) })),
    ));
    all.push(("DELETE", format!("{c}/members/{}", other.id), signed(op(community).await.remove(other, false))));
    all.push(("PUT", format!("{c}/bans/{}", other.id), signed(op(community).await.remove(other, true))));
    all.push(("DELETE", format!("{c}/bans/{}", other.id), signed(op(community).await.unban(other))));
    all.push(("POST", format!("{c}/invites"), signed(op(community).await.add_invite(&key, 0, 0))));
    all.push(("DELETE", format!("{c}/invites/{invite}"), signed(op(community).await.delete_invite(&key))));
    all.push(("POST", format!("{c}/groups"), Some(json!({ "id": new_id(), "name": "x" }))));
    all.push(("POST", format!("{c}/log-ops"), Some(json!({ "op": op(community).await.anchor() }))));
    for (path, log) in [(&g, community), (&s, staff)] {
        let fresh = new_id();
        all.push(("PATCH", path.clone(), Some(json!({ "name": "x" }))));
        all.push(("DELETE", path.clone(), None));
        all.push(("POST", format!("{path}/leave"), signed(op(log).await.leave())));
        all.push(("POST", format!("{path}/join"), signed(op(log).await.join(by, None))));
        all.push(("DELETE", format!("{path}/members/{}", other.id), signed(op(log).await.remove(other, false))));
        all.push(("POST", format!("{path}/log-ops"), Some(json!({ "op": op(log).await.anchor() }))));
        let body = json!({ "id": fresh, "name": "x", "log_op": op(log).await.attach(fresh, true) });
        all.push(("POST", format!("{path}/channels"), Some(body)));
    }
    for (path, log) in [(&h, community), (&x, secret)] {
        all.push(("PATCH", path.clone(), Some(json!({ "topic": "x" }))));
        all.push(("DELETE", path.clone(), signed(op(log).await.attach(channel, false))));
        all.push(("PUT", format!("{path}/settings"), Some(json!({ "muted": true }))));
        all.push(("PATCH", format!("{path}/members/{}", other.id), Some(json!({ "nickname": "x" }))));
        all.push(("DELETE", format!("{path}/members/{}", other.id), signed(op(log).await.remove(other, false))));
        all.push(("PUT", format!("{path}/bans/{}", other.id), signed(op(log).await.remove(other, true))));
        all.push(("DELETE", format!("{path}/bans/{}", other.id), signed(op(log).await.unban(other))));
        all.push(("POST", format!("{path}/log-ops"), Some(json!({ "op": op(log).await.anchor() }))));
    }
    all
}

async fn ask(by: &Person, (method, path, body): &(&'static str, String, Option<Value>)) -> Answer {
    by.call(method, path, body.as_ref()).await
}

#[tokio::test]
async fn nobody_outside_can_tell_a_place_from_one_that_does_not_exist() {
    let server = TestServer::start().await;
    let [alice, bob, stranger, ex, banned, elsewhere] = server.people().await;
    let community = alice.community().await;
    for person in [&bob, &ex, &banned] {
        alice.add(community, person, 0).await;
    }
    let (group, staff) = (alice.group(community).await, alice.private_group(community).await);
    let (channel, secret) = (alice.channel(community, group).await, alice.private_channel(group).await);
    alice.invite(community, 0, 0).await;
    let invite: Uuid = server.sql.query_one("SELECT id FROM invites", &[]).await.unwrap().get(0);
    for (log, path) in [(staff, format!("/groups/{staff}/log-ops")), (secret, format!("/channels/{secret}/log-ops"))] {
        for person in [&ex, &banned] {
            alice.post(&path, json!({ "op": alice.op(log).await.add(person, 0) })).await.is(201);
        }
    }
    let op = alice.op(community).await.remove(&ex, false);
    alice.delete_with(&format!("/communities/{community}/members/{}", ex.id), json!({ "log_op": op })).await.is(204);
    let op = alice.op(community).await.remove(&banned, true);
    alice.put(&format!("/communities/{community}/bans/{}", banned.id), json!({ "log_op": op })).await.is(204);
    // Somebody who owns another community has nothing of this one.
    elsewhere.community().await;

    let real = Places { community, group, staff, channel, secret, invite, member: bob.id };
    let fresh = || Places {
        community: new_id(),
        group: new_id(),
        staff: new_id(),
        channel: new_id(),
        secret: new_id(),
        invite: new_id(),
        member: bob.id,
    };
    for (who, person) in [("stranger", &stranger), ("ex-member", &ex), ("banned", &banned), ("owner of another", &elsewhere)] {
        let (here, nowhere) = (requests(person, &bob, real).await, requests(person, &bob, fresh()).await);
        for (here, nowhere) in here.iter().zip(&nowhere) {
            let (seen, want) = (ask(person, here).await, ask(person, nowhere).await);
            // Whoever left may still take the own name out of a log that names it.
            if who != "stranger" && here.1.ends_with("/leave") && here.1.contains(&staff.to_string()) && seen.status == 204 {
                continue;
            }
            assert_eq!(want.status, 404, "{who}: {} {}: {}", nowhere.0, nowhere.1, want.body);
            assert_eq!(seen, want, "{who}: {} {}", here.0, here.1);
        }
    }
    assert_eq!(alice.get(&format!("/communities/{community}")).await.is(200)["log_head_seq"], json!(7));
}

#[tokio::test]
async fn nothing_is_answered_without_a_login() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let community = alice.community().await;
    let (group, staff) = (alice.group(community).await, alice.private_group(community).await);
    let (channel, secret) = (alice.channel(community, group).await, alice.private_channel(group).await);
    let at = Places { community, group, staff, channel, secret, invite: new_id(), member: bob.id };
    let mut all = requests(&alice, &bob, at).await;
    for path in ["/communities", "/communities/discover", "/channels", "/dms", "/invites/code", "/invites/code/log-ops"] {
        all.push(("GET", path.to_owned(), None));
    }
    let (anon, garbage) = (server.anon(), Person { token: "garbage".into(), ..alice });
    for (method, path, body) in &all {
        anon.call(method, path, body.as_ref()).await.refused(ErrorCode::Unauthenticated);
        garbage.call(method, path, body.as_ref()).await.refused(ErrorCode::Unauthenticated);
    }
}

#[tokio::test]
async fn members_without_a_role_see_and_change_nothing_that_is_not_theirs() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let community = alice.community().await;
    for person in [&bob, &carol] {
        alice.add(community, person, 0).await;
    }
    let (group, staff) = (alice.group(community).await, alice.private_group(community).await);
    let (channel, secret) = (alice.channel(community, group).await, alice.private_channel(group).await);
    alice.invite(community, 0, 0).await;
    let invite: Uuid = server.sql.query_one("SELECT id FROM invites", &[]).await.unwrap().get(0);
    let at = Places { community, group, staff, channel, secret, invite, member: alice.id };
    let before = server.events(community).await.len();
    for request in requests(&bob, &carol, at).await {
        let (method, path, _) = &request;
        if path.ends_with("/leave") && path.contains(&community.to_string())
            || path.ends_with("/settings")
            || path.ends_with("/log-ops")
        {
            continue;
        }
        let status = ask(&bob, &request).await.status;
        let hidden = path.contains(&staff.to_string()) || path.contains(&secret.to_string());
        match *method {
            _ if hidden => assert_eq!(status, 404, "{method} {path}"),
            "GET" => assert!(matches!(status, 200 | 403 | 409), "{method} {path}: {status}"),
            _ => assert!(matches!(status, 400 | 403 | 404 | 409), "{method} {path}: {status}"),
        }
    }
    assert_eq!(server.events(community).await.len(), before, "nothing changed");
}
