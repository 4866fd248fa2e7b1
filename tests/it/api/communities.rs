//! Making, changing, joining, leaving and ending communities.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::person::{Person, new_id};
use crate::support::server::TestServer;

#[tokio::test]
async fn a_community_is_made_with_the_first_op_of_its_log() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = new_id();
    let op = alice.op(id).await.create(2);
    let body = json!({ "id": id, "name": "Rust", "description": "a\nb", "discoverable": true, "log_op": op });
    let made = alice.post("/communities", body.clone()).await.is(201);
    let want = json!({
        "id": id, "name": "Rust", "description": "a\nb", "discoverable": true, "open": false, "owner_id": alice.id, "my_role": "owner",
        "member_count": 1, "log_head_seq": 0, "start_seq": 2, "who_can_create_groups": "admin", "who_can_create_invites": "admin",
        "created_at": made["created_at"],
    });
    assert_eq!(made, want);
    assert_eq!(alice.get(&format!("/communities/{id}")).await.is(200), want);
    assert_eq!(alice.get("/communities").await.is(200)["items"], json!([want]));

    assert_eq!(server.kinds(id, 0).await, ["log_op", "community"], "the op comes before the rows that it causes");
    let told = server.events(id).await;
    assert_eq!(told[0], json!({ "kind": "log_op", "log_id": id, "log_seq": 0, "op": op }));
    assert_eq!((&told[1]["community"]["my_role"], &told[1]["community"]["start_seq"]), (&Value::Null, &Value::Null));
    assert_eq!(server.kinds(alice.id, 0).await, ["community_added"]);

    // The same again is a success without effect; another one with the same id is not.
    assert_eq!(alice.post("/communities", body.clone()).await.is(200)["id"], json!(id));
    let mut other = alice.op(id).await;
    (other.seq, other.prev, other.time) = (0, [0; 32], 5);
    alice.post("/communities", json!({ "id": id, "name": "Rust", "log_op": other.create(2) })).await.refused(ErrorCode::Conflict);
    let mut theirs = bob.op(id).await;
    (theirs.seq, theirs.prev) = (0, [0; 32]);
    bob.post("/communities", json!({ "id": id, "name": "Rust", "log_op": theirs.create(2) })).await.refused(ErrorCode::Conflict);
    for taken in [alice.id, bob.id] {
        let op = bob.op(taken).await.create(2);
        bob.post("/communities", json!({ "id": taken, "name": "Rust", "log_op": op })).await.refused(ErrorCode::Conflict);
    }
    assert_eq!(server.events(id).await.len(), 2);
}

#[tokio::test]
async fn a_malformed_creation_says_what_is_wrong_and_makes_nothing() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = new_id();
    let good = alice.op(id).await.create(2);
    let make = async |change: Value| {
        let mut body = json!({ "id": id, "name": "Rust", "log_op": good });
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        alice.post("/communities", body).await
    };
    for name in ["", " ", "a\u{1b}[2J", "a\u{202E}b", "a\nb", &"x".repeat(65)] {
        assert!(make(json!({ "name": name })).await.refused(ErrorCode::Validation)["name"].is_string(), "{name:?}");
    }
    assert!(make(json!({ "description": "\u{7}" })).await.refused(ErrorCode::Validation)["description"].is_string());
    let v4 = "1f6ee0a8-6f0b-4d8e-9f2d-0a3f5b8c7d10";
    assert!(make(json!({ "id": v4 })).await.refused(ErrorCode::Validation)["id"].is_string());
    make(json!({ "id": "RUST" })).await.refused(ErrorCode::InvalidRequest);
    make(json!({ "colour": "red" })).await.refused(ErrorCode::UnknownField);
    make(json!({ "log_op": "!" })).await.refused(ErrorCode::InvalidRequest);
    for op in [
        String::new(),
        "AQID".to_owned(),
        alice.op(new_id()).await.create(2),
        alice.op(id).await.create(1),
        alice.op(id).await.anchor(),
        bob.op(id).await.create(2),
    ] {
        assert!(make(json!({ "log_op": op })).await.refused(ErrorCode::Validation)["log_op"].is_string(), "{op}");
    }
    let mut of_bob = bob.op(id).await;
    of_bob.actor = alice.id;
    make(json!({ "log_op": of_bob.create(2) })).await.refused(ErrorCode::Validation);
    let mut forged = alice.op(id).await;
    forged.signer = &bob.device;
    let identity = alice.identity();
    (forged.kind, forged.target, forged.identity, forged.arg) = (0, alice.id, identity, [&[2][..], &[0; 32]].concat());
    make(json!({ "log_op": forged.signed() })).await.refused(ErrorCode::BadSignature);
    let mut unknown_list = alice.op(id).await;
    unknown_list.list_seq = 2;
    make(json!({ "log_op": unknown_list.create(2) })).await.refused(ErrorCode::Validation);

    server.anon().post("/communities", json!({})).await.refused(ErrorCode::Unauthenticated);
    let carol = server.person_without_device().await;
    let op = carol.op(id).await.create(2);
    carol.post("/communities", json!({ "id": id, "name": "Rust", "log_op": op })).await.refused(ErrorCode::Forbidden);
    assert_eq!(alice.get("/communities").await.is(200)["items"], json!([]));
    make(json!({})).await.is(201);
}

#[tokio::test]
async fn settings_change_by_admins_and_are_told_to_everybody() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    let path = format!("/communities/{id}");
    alice.add(id, &bob, 2).await;
    alice.add(id, &carol, 1).await;
    let from = server.events(id).await.len();
    let body = json!({ "name": "Crabs", "description": "d", "accent_color": "#00ff7F", "welcome_message": "hi\nyou",
                       "who_can_create_groups": "member", "discoverable": true });
    let changed = bob.patch(&path, body.clone()).await.is(200);
    for (field, value) in body.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
    }
    assert_eq!(server.kinds(id, from).await, ["community"]);
    let cleared = bob.patch(&path, json!({ "description": "", "accent_color": null })).await.is(200);
    assert_eq!((&cleared["description"], &cleared["accent_color"]), (&Value::Null, &json!("#00ff7F")));
    carol.patch(&path, json!({ "name": "Mine" })).await.refused(ErrorCode::Forbidden);
    for bad in [
        json!({ "name": "" }),
        json!({ "accent_color": "red" }),
        json!({ "accent_color": "#é000f" }),
        json!({ "welcome_message": "x".repeat(2001) }),
        json!({ "who_can_create_invites": "member" }),
        json!({ "log_op": bob.op(id).await.invite_role(0) }),
        json!({ "who_can_create_invites": "moderator", "log_op": bob.op(id).await.invite_role(0) }),
    ] {
        bob.patch(&path, bad).await.refused(ErrorCode::Validation);
    }
    // Who may invite is a policy of the signed log and changes with its op.
    let from = server.events(id).await.len();
    let op = bob.op(id).await.invite_role(0);
    let changed = bob.patch(&path, json!({ "who_can_create_invites": "member", "log_op": op })).await.is(200);
    assert_eq!((&changed["who_can_create_invites"], &changed["log_head_seq"]), (&json!("member"), &json!(3)));
    assert_eq!(server.kinds(id, from).await, ["log_op", "community"]);
    bob.patch(&path, json!({ "who_can_create_invites": "member", "log_op": op })).await.is(200);
    let op = carol.op(id).await.invite_role(1);
    carol.patch(&path, json!({ "who_can_create_invites": "moderator", "log_op": op })).await.refused(ErrorCode::Forbidden);
}

#[tokio::test]
async fn an_instance_admin_who_is_a_member_may_change_what_is_not_signed() {
    let server = TestServer::start().await;
    let [alice, root] = server.people().await;
    let id = alice.community().await;
    server.sql.execute("UPDATE users SET instance_role = 'admin' WHERE id = $1", &[&root.id]).await.unwrap();
    root.patch(&format!("/communities/{id}"), json!({ "name": "Mine" })).await.refused(ErrorCode::NotFound);
    alice.add(id, &root, 0).await;
    root.patch(&format!("/communities/{id}"), json!({ "name": "Mine" })).await.is(200);
    let op = root.op(id).await.open(true);
    root.post(&format!("/communities/{id}/log-ops"), json!({ "op": op })).await.refused(ErrorCode::Forbidden);
}

#[tokio::test]
async fn an_open_community_is_found_and_joined_and_left() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    let (join, leave) = (format!("/communities/{id}/join"), format!("/communities/{id}/leave"));
    bob.post(&join, json!({ "log_op": bob.op(id).await.join(&bob, None) })).await.refused(ErrorCode::NotFound);
    assert_eq!(bob.get("/communities/discover").await.is(200)["items"], json!([]));

    alice.patch(&format!("/communities/{id}"), json!({ "discoverable": true })).await.is(200);
    let op = alice.op(id).await.open(true);
    alice.post(&format!("/communities/{id}/log-ops"), json!({ "op": op })).await.is(201);
    let found = &bob.get("/communities/discover").await.is(200)["items"][0];
    assert_eq!((&found["id"], &found["open"], &found["my_role"]), (&json!(id), &json!(true), &Value::Null));
    assert_eq!(bob.get(&format!("/communities/{id}")).await.is(200)["start_seq"], Value::Null);
    bob.get(&format!("/communities/{id}/members")).await.refused(ErrorCode::NotFound);

    let from = server.events(id).await.len();
    let op = bob.op(id).await.join(&bob, None);
    let joined = bob.post(&join, json!({ "log_op": op })).await.is(200);
    assert_eq!((&joined["my_role"], &joined["member_count"]), (&json!("member"), &json!(2)));
    assert_eq!(joined["start_seq"], json!(server.events(id).await.len()), "the stream's head in this answer");
    assert_eq!(server.kinds(id, from).await, ["log_op", "member"]);
    assert_eq!(server.kinds(bob.id, 0).await, ["community_added"]);
    bob.post(&join, json!({ "log_op": op })).await.is(200);
    bob.post(&join, json!({ "log_op": bob.op(id).await.join(&bob, None) })).await.refused(ErrorCode::Conflict);

    let from = server.events(id).await.len();
    let op = bob.op(id).await.leave();
    bob.post(&leave, json!({ "log_op": op })).await.is(204);
    assert_eq!(server.kinds(id, from).await, ["log_op", "member_removed"]);
    let last = server.events(bob.id).await.pop().unwrap();
    assert_eq!(last, json!({ "kind": "community_removed", "community_id": id, "reason": "left", "op": op }));
    bob.post(&leave, json!({ "log_op": op })).await.is(204);
    bob.post(&leave, json!({ "log_op": bob.op(id).await.leave() })).await.refused(ErrorCode::NotFound);
    alice.post(&leave, json!({ "log_op": alice.op(id).await.leave() })).await.refused(ErrorCode::Forbidden);
    assert_eq!(bob.get("/communities").await.is(200)["items"], json!([]));

    // Back again: the membership begins anew.
    bob.post(&join, json!({ "log_op": bob.op(id).await.join(&bob, None) })).await.is(200);
}

#[tokio::test]
async fn ownership_is_transferred_by_the_owner_to_a_member() {
    let server = TestServer::start().await;
    let [alice, bob, carol, dave] = server.people().await;
    let id = alice.community().await;
    let path = format!("/communities/{id}/transfer");
    alice.add(id, &bob, 2).await;
    alice.add(id, &carol, 0).await;
    let give = async |from: &Person, to: &Person| {
        let op = from.op(id).await.role(to, 3);
        from.post(&path, json!({ "new_owner_id": to.id, "log_op": op })).await
    };
    give(&bob, &carol).await.refused(ErrorCode::Forbidden);
    give(&dave, &carol).await.refused(ErrorCode::NotFound);
    give(&alice, &dave).await.refused(ErrorCode::NotFound);
    let op = alice.op(id).await.role(&bob, 3);
    alice.post(&path, json!({ "new_owner_id": carol.id, "log_op": op })).await.refused(ErrorCode::Validation);
    let op = alice.op(id).await.role(&bob, 2);
    alice.post(&path, json!({ "new_owner_id": bob.id, "log_op": op })).await.refused(ErrorCode::Validation);
    let from = server.events(id).await.len();
    let given = give(&alice, &bob).await.is(200);
    assert_eq!((&given["owner_id"], &given["my_role"]), (&json!(bob.id), &json!("admin")));
    assert_eq!(server.kinds(id, from).await, ["log_op", "member", "member", "community"]);
    give(&alice, &carol).await.refused(ErrorCode::Forbidden);
    alice.post(&format!("/communities/{id}/leave"), json!({ "log_op": alice.op(id).await.leave() })).await.is(204);
}

#[tokio::test]
async fn a_deleted_community_is_gone_for_everybody_and_its_id_stays_taken() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    let path = format!("/communities/{id}");
    alice.add(id, &bob, 2).await;
    let (group, staff) = (alice.group(id).await, alice.private_group(id).await);
    let (channel, secret) = (alice.channel(id, group).await, alice.private_channel(group).await);
    alice.channel(staff, staff).await;
    alice.post(&format!("{path}/log-ops"), json!({ "op": alice.op(id).await.open(true) })).await.is(201);
    bob.delete(&path).await.refused(ErrorCode::Forbidden);
    carol.delete(&path).await.refused(ErrorCode::NotFound);
    let genesis = server.sql.query_one("SELECT op FROM log_ops WHERE log_id = $1 AND seq = 0", &[&id]).await.unwrap();
    alice.delete(&path).await.is(204);
    for person in [&alice, &bob] {
        let last = server.events(person.id).await.pop().unwrap();
        assert_eq!(last, json!({ "kind": "community_removed", "community_id": id, "reason": "deleted" }));
        for gone in [
            path.clone(),
            format!("/groups/{group}"),
            format!("/groups/{staff}"),
            format!("/channels/{channel}"),
            format!("/channels/{secret}"),
        ] {
            person.get(&gone).await.refused(ErrorCode::NotFound);
        }
        assert_eq!(person.get("/channels").await.is(200)["items"], json!([]));
    }
    alice.delete(&path).await.refused(ErrorCode::NotFound);
    carol
        .post(&format!("{path}/join"), json!({ "log_op": carol.op(id).await.join(&carol, None) }))
        .await
        .refused(ErrorCode::NotFound);
    use base64::Engine as _;
    let op = base64::engine::general_purpose::STANDARD.encode(genesis.get::<_, Vec<u8>>(0));
    alice.post("/communities", json!({ "id": id, "name": "Again", "log_op": op })).await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn lists_are_paged_and_refuse_what_no_page_gave() {
    let server = TestServer::start().await;
    let alice = server.person().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(json!(alice.community().await));
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = alice.get(&format!("/communities?limit=2{cursor}")).await.is(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((seen, pages), (made, 3));
    for bad in ["limit=0", "limit=101", "cursor=x"] {
        alice.get(&format!("/communities?{bad}")).await.refused(ErrorCode::Validation);
    }
    alice.get("/communities?limit=many").await.refused(ErrorCode::InvalidRequest);
    alice.get("/communities?page=2").await.refused(ErrorCode::InvalidRequest);
}
