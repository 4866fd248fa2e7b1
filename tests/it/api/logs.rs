//! Membership logs: what an op must be, where it must stand, and who reads it.

use chat::protocol::error::ErrorCode;
use chat::protocol::ids::UserId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::http::Http as _;
use crate::support::op::InviteKey;
use crate::support::person::{Person, new_id};
use crate::support::server::TestServer;

#[tokio::test]
async fn an_op_stands_at_the_next_place_or_is_stale() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 2).await;
    let path = format!("/communities/{id}/log-ops");
    for (seq, prev) in [(1, None), (3, None), (99, None), (2, Some([7; 32]))] {
        let mut op = bob.op(id).await;
        op.seq = seq;
        op.prev = prev.unwrap_or(op.prev);
        let details = bob.post(&path, json!({ "op": op.add(&carol, 0) })).await.refused(ErrorCode::StaleLog);
        assert_eq!(details, json!({ "head_seq": 1 }), "seq {seq}");
    }
    let op = bob.op(id).await.add(&carol, 0);
    assert_eq!(bob.post(&path, json!({ "op": op })).await.is(201), json!({ "seq": 2 }));
    assert_eq!(bob.post(&path, json!({ "op": op })).await.is(200), json!({ "seq": 2 }), "the same bytes again");
    let mut other = bob.op(id).await;
    other.seq = 2;
    bob.post(&path, json!({ "op": other.anchor() })).await.refused(ErrorCode::StaleLog);
}

#[tokio::test]
async fn of_two_ops_at_one_place_the_first_wins() {
    let server = TestServer::start().await;
    let [alice, bob, carol, dave] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 2).await;
    let path = format!("/communities/{id}/log-ops");
    let (one, two) = (alice.op(id).await.add(&carol, 0), bob.op(id).await.add(&dave, 0));
    let (one, two) = (json!({ "op": one }), json!({ "op": two }));
    let (one, two) = tokio::join!(alice.post(&path, one), bob.post(&path, two));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    let lost = if one.status == 409 { one } else { two };
    assert_eq!(lost.refused(ErrorCode::StaleLog), json!({ "head_seq": 2 }));
}

#[tokio::test]
async fn changes_inside_and_around_a_community_wait_for_each_other_and_all_end() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    for person in [&bob, &carol] {
        alice.add(id, person, 2).await;
    }
    let (group, staff) = (alice.group(id).await, bob.private_group(id).await);
    let secret = carol.private_channel(group).await;
    // Each round: an op of the community, one of the private group, one of the private channel, and unsigned changes of all.
    let rounds = 12;
    let post = async |by: &Person, path: String, log: Uuid| {
        for _ in 0..rounds {
            by.post(&path, json!({ "op": by.op(log).await.anchor() })).await.is(201);
        }
    };
    let patch = async |by: &Person, path: String| {
        for round in 0..rounds {
            by.patch(&path, json!({ "name": format!("name {round}") })).await.is(200);
        }
    };
    let dance = async {
        for _ in 0..rounds {
            let dave = server.person().await;
            carol
                .post(&format!("/channels/{secret}/log-ops"), json!({ "op": carol.op(secret).await.add(&dave, 0) }))
                .await
                .refused(ErrorCode::Conflict);
        }
    };
    tokio::join!(
        post(&alice, format!("/communities/{id}/log-ops"), id),
        post(&bob, format!("/groups/{staff}/log-ops"), staff),
        patch(&bob, format!("/communities/{id}")),
        patch(&carol, format!("/channels/{secret}")),
        patch(&alice, format!("/groups/{group}")),
        dance,
    );
}

#[tokio::test]
async fn only_a_valid_op_of_this_device_for_this_log_is_taken() {
    let server = TestServer::start().await;
    let [alice, bob, carol, stranger] = server.people().await;
    let (id, other) = (alice.community().await, alice.community().await);
    for (person, role) in [(&bob, 2), (&carol, 0)] {
        alice.add(id, person, role).await;
    }
    let path = format!("/communities/{id}/log-ops");
    let by = async |person: &Person, op: String| person.post(&path, json!({ "op": op })).await;

    by(&alice, "AAAA".into()).await.refused(ErrorCode::Validation);
    by(&alice, alice.op(other).await.add(&stranger, 0)).await.refused(ErrorCode::Validation);
    by(&alice, bob.op(id).await.add(&stranger, 0)).await.refused(ErrorCode::Validation);
    let mut wrong_device = alice.op(id).await;
    wrong_device.device_id = 2;
    by(&alice, wrong_device.add(&stranger, 0)).await.refused(ErrorCode::Validation);
    let mut wrong_cert = alice.op(id).await;
    wrong_cert.cert_hash = *bob.device.certificate().hash();
    by(&alice, wrong_cert.add(&stranger, 0)).await.refused(ErrorCode::Validation);
    let mut forged = alice.op(id).await;
    forged.signer = &bob.device;
    by(&alice, forged.add(&stranger, 0)).await.refused(ErrorCode::BadSignature);
    let forged = alice.op(id).await.add(&stranger, 0);
    let mut flipped = base64(&forged);
    *flipped.last_mut().unwrap() ^= 1;
    by(&alice, unbase64(&flipped)).await.refused(ErrorCode::BadSignature);

    // Rights.
    by(&carol, carol.op(id).await.add(&stranger, 0)).await.refused(ErrorCode::Forbidden);
    by(&bob, bob.op(id).await.add(&stranger, 2)).await.refused(ErrorCode::Forbidden);
    by(&stranger, stranger.op(id).await.add(&stranger, 0)).await.refused(ErrorCode::NotFound);
    by(&alice, alice.op(id).await.add(&bob, 0)).await.refused(ErrorCode::Conflict);
    let nobody = server.person_without_device().await;
    by(&alice, alice.op(id).await.add(&nobody, 0)).await.refused(ErrorCode::NotFound);
    let mut old_key = alice.op(id).await;
    (old_key.kind, old_key.target, old_key.identity, old_key.arg) = (1, stranger.id, bob.identity(), vec![0]);
    assert!(by(&alice, old_key.signed()).await.refused(ErrorCode::Validation)["op"].is_string());
    by(&carol, carol.op(id).await.anchor()).await.is(201);
    let mut branch = carol.op(id).await;
    (branch.kind, branch.arg) = (6, vec![1; 32]);
    by(&carol, branch.signed()).await.refused(ErrorCode::Forbidden);
    by(&carol, carol.op(id).await.open(true)).await.refused(ErrorCode::Forbidden);
    by(&bob, bob.op(id).await.open(true)).await.is(201);
    by(&bob, bob.op(id).await.invite_role(1)).await.is(201);

    // What has a route of its own is not taken here.
    let key = InviteKey::new();
    for op in [
        alice.op(id).await.create(2),
        alice.op(id).await.remove(&carol, false),
        alice.op(id).await.leave(),
        alice.op(id).await.role(&carol, 1),
        alice.op(id).await.add_invite(&key, 0, 0),
        alice.op(id).await.delete_invite(&key),
        alice.op(id).await.unban(&carol),
        stranger.op(id).await.join(&stranger, None),
        alice.op(id).await.attach(new_id(), true),
    ] {
        let who = if base64(&op)[57..73] == *alice.id.as_bytes() { &alice } else { &stranger };
        assert!(by(who, op).await.refused(ErrorCode::Validation)["op"].is_string());
    }
}

#[tokio::test]
async fn a_flood_of_ops_is_told_when_to_come_back() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    while server.app().limits.check_log_op(UserId(bob.id)).is_ok() {}
    let path = format!("/communities/{id}/log-ops");
    let details = bob.post(&path, json!({ "op": bob.op(id).await.anchor() })).await.refused(ErrorCode::RateLimited);
    assert!(details["retry_after_ms"].as_u64().unwrap() > 0);
    alice.post(&path, json!({ "op": alice.op(id).await.anchor() })).await.is(201);
}

#[tokio::test]
async fn a_log_is_read_in_pages_by_its_members() {
    let server = TestServer::start().await;
    let [alice, bob, stranger] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let path = format!("/communities/{id}/log-ops");
    for _ in 0..3 {
        alice.post(&path, json!({ "op": alice.op(id).await.anchor() })).await.is(201);
    }
    let all = bob.get(&path).await.is(200);
    assert_eq!((all["items"].as_array().unwrap().len(), &all["head_seq"], &all["next_after"]), (5, &json!(4), &Value::Null));
    assert_eq!(bob.get(&format!("{path}?after=-1&limit=500")).await.is(200), all);
    let (mut seen, mut after) = (Vec::new(), -1);
    loop {
        let page = bob.get(&format!("{path}?after={after}&limit=2")).await.is(200);
        seen.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_after"].as_i64() else { break };
        after = next;
    }
    assert_eq!(json!(seen), all["items"]);
    assert_eq!(bob.get(&format!("{path}?after=4")).await.is(200), json!({ "items": [], "head_seq": 4 }));
    assert_eq!(bob.get(&format!("{path}?after=99")).await.is(200), json!({ "items": [], "head_seq": 4 }));
    for bad in ["after=-2", "limit=0", "limit=501"] {
        bob.get(&format!("{path}?{bad}")).await.refused(ErrorCode::Validation);
    }
    let unknown = stranger.get(&format!("/communities/{}/log-ops", new_id())).await;
    assert_eq!(stranger.get(&path).await, unknown);
    alice.post(&path, json!({ "op": alice.op(id).await.open(true) })).await.is(201);
    assert_eq!(stranger.get(&path).await.is(200)["head_seq"], json!(5), "an open log is everybody's to read");
}

#[tokio::test]
async fn what_has_no_log_of_its_own_has_no_log_ops() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    let group = alice.group(id).await;
    let (channel, secret) = (alice.channel(id, group).await, alice.private_channel(group).await);
    alice.add(id, &bob, 0).await;
    alice.get(&format!("/groups/{group}/log-ops")).await.refused(ErrorCode::NotFound);
    alice.get(&format!("/channels/{channel}/log-ops")).await.refused(ErrorCode::NotFound);
    let op = alice.op(id).await.anchor();
    alice.post(&format!("/groups/{group}/log-ops"), json!({ "op": op })).await.refused(ErrorCode::NotFound);
    alice.post(&format!("/channels/{channel}/log-ops"), json!({ "op": op })).await.refused(ErrorCode::NotFound);
    assert_eq!(alice.get(&format!("/channels/{secret}/log-ops")).await.is(200)["head_seq"], json!(0));
    bob.get(&format!("/channels/{secret}/log-ops")).await.refused(ErrorCode::NotFound);
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn unbase64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
