//! Invitations: made, seen, used up, expired, deleted, raced for.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::account::now_ms;
use crate::support::http::Http as _;
use crate::support::op::InviteKey;
use crate::support::person::{Person, new_id};
use crate::support::server::TestServer;

#[tokio::test]
async fn an_invite_leads_a_stranger_in() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    let (key, expires) = (InviteKey::new(), now_ms() + 3_600_000);
    let op = alice.op(id).await.add_invite(&key, 5, expires);
    let path = format!("/communities/{id}/invites");
    let invite = alice.post(&path, json!({ "log_op": op })).await.is(201);
    let code = invite["code"].as_str().unwrap();
    assert_eq!((&invite["max_uses"], &invite["used_count"], &invite["created_by"]), (&json!(5), &json!(0), &json!(alice.id)));
    assert!(code.len() >= 16 && code.bytes().all(|b| b.is_ascii_alphanumeric()), "{code}");
    assert_eq!(alice.post(&path, json!({ "log_op": op })).await.is(200), invite, "the same op again");

    let preview = bob.get(&format!("/invites/{code}")).await.is(200);
    assert_eq!(preview["community"], json!({ "id": id, "name": "Rust", "member_count": 1 }));
    assert_eq!((&preview["log_head_seq"], &preview["expires_at"]), (&json!(1), &invite["expires_at"]));
    assert_eq!(bob.get(&format!("/invites/{code}/log-ops")).await.is(200)["items"].as_array().unwrap().len(), 2);
    bob.get(&format!("/communities/{id}")).await.refused(ErrorCode::NotFound);
    server.anon().get(&format!("/invites/{code}")).await.refused(ErrorCode::Unauthenticated);

    let join = bob.op(id).await.join(&bob, Some(&key));
    let accept = format!("/invites/{code}/accept");
    let joined = bob.post(&accept, json!({ "log_op": join })).await.is(200);
    assert_eq!((&joined["id"], &joined["my_role"], &joined["member_count"]), (&json!(id), &json!("member"), &json!(2)));
    assert_eq!(bob.post(&accept, json!({ "log_op": join })).await.is(200)["my_role"], "member");
    bob.accept(id, code, &key).await.refused(ErrorCode::Conflict);
    assert_eq!(alice.get(&path).await.is(200)["items"][0]["used_count"], json!(1));
    bob.get(&path).await.refused(ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_join_must_be_signed_for_this_invite_by_this_person() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    let ((code, key), (_, other)) = (alice.invite(id, 0, 0).await, alice.invite(id, 0, 0).await);
    let accept = format!("/invites/{code}/accept");
    let by_bob = async |op: String| bob.post(&accept, json!({ "log_op": op })).await;
    by_bob(bob.op(id).await.join(&bob, Some(&other))).await.refused(ErrorCode::Validation);
    by_bob(carol.op(id).await.join(&carol, Some(&key))).await.refused(ErrorCode::Validation);
    by_bob(bob.op(id).await.leave()).await.refused(ErrorCode::Validation);
    by_bob(bob.op(id).await.join(&bob, None)).await.refused(ErrorCode::Forbidden);
    by_bob(bob.op(new_id()).await.join(&bob, Some(&key))).await.refused(ErrorCode::Validation);
    // Somebody else's proof of the invite.
    let mut stolen = bob.op(id).await;
    let proof = carol.op(id).await.join(&carol, Some(&key));
    use base64::Engine as _;
    let proof = base64::engine::general_purpose::STANDARD.decode(proof).unwrap();
    (stolen.kind, stolen.target, stolen.identity) = (7, bob.id, bob.identity());
    stolen.arg = proof[proof.len() - 64 - 8 - 96..proof.len() - 64 - 8].to_vec();
    by_bob(stolen.signed()).await.refused(ErrorCode::BadSignature);
    // Another key than the account's.
    let mut foreign = bob.op(id).await.join(&bob, Some(&key));
    foreign = {
        let mut bytes = base64::engine::general_purpose::STANDARD.decode(foreign).unwrap();
        bytes[150] ^= 1;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    assert_ne!(by_bob(foreign).await.status, 200);
    let mut stale = bob.op(id).await;
    stale.seq -= 1;
    by_bob(stale.join(&bob, Some(&key))).await.refused(ErrorCode::StaleLog);
    by_bob(bob.op(id).await.join(&bob, Some(&key))).await.is(200);
    bob.post("/invites/nosuchcode/accept", json!({ "log_op": bob.op(id).await.leave() })).await.refused(ErrorCode::Validation);
    carol.accept(id, "nosuchcode", &key).await.refused(ErrorCode::NotFound);
    carol.get("/invites/nosuchcode").await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn an_invite_ends_by_time_by_use_and_by_deletion() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;

    let (code, key) = alice.invite(id, 0, now_ms() - 1).await;
    assert_eq!(bob.get(&format!("/invites/{code}")).await.refused(ErrorCode::Forbidden), json!({ "reason": "expired" }));
    bob.get(&format!("/invites/{code}/log-ops")).await.refused(ErrorCode::Forbidden);
    bob.accept(id, &code, &key).await.refused(ErrorCode::Forbidden);
    // Not even with a clock that is set back.
    let mut early = bob.op(id).await;
    early.time = 1;
    bob.post(&format!("/invites/{code}/accept"), json!({ "log_op": early.join(&bob, Some(&key)) }))
        .await
        .refused(ErrorCode::Forbidden);

    let (code, key) = alice.invite(id, 1, 0).await;
    let join = bob.op(id).await.join(&bob, Some(&key));
    bob.post(&format!("/invites/{code}/accept"), json!({ "log_op": join })).await.is(200);
    assert_eq!(carol.accept(id, &code, &key).await.refused(ErrorCode::Forbidden), json!({ "reason": "exhausted" }));
    bob.post(&format!("/invites/{code}/accept"), json!({ "log_op": join })).await.is(200);

    let (code, key) = alice.invite(id, 0, 0).await;
    let listed = alice.get(&format!("/communities/{id}/invites")).await.is(200);
    let invite = listed["items"].as_array().unwrap().iter().find(|invite| invite["code"] == json!(code)).unwrap();
    let path = format!("/communities/{id}/invites/{}", invite["id"].as_str().unwrap());
    let wrong = alice.op(id).await.delete_invite(&InviteKey::new());
    alice.delete_with(&path, json!({ "log_op": wrong })).await.refused(ErrorCode::Validation);
    bob.delete_with(&path, json!({ "log_op": bob.op(id).await.delete_invite(&key) })).await.refused(ErrorCode::Forbidden);
    carol.delete_with(&path, json!({ "log_op": carol.op(id).await.delete_invite(&key) })).await.refused(ErrorCode::NotFound);
    let op = alice.op(id).await.delete_invite(&key);
    alice.delete_with(&path, json!({ "log_op": op })).await.is(204);
    alice.delete_with(&path, json!({ "log_op": op })).await.is(204);
    carol.get(&format!("/invites/{code}")).await.refused(ErrorCode::NotFound);
    carol.accept(id, &code, &key).await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn who_may_invite_is_the_policy_of_the_log() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let path = format!("/communities/{id}/invites");
    let key = InviteKey::new();
    bob.post(&path, json!({ "log_op": bob.op(id).await.add_invite(&key, 0, 0) })).await.refused(ErrorCode::Forbidden);
    alice.post(&format!("/communities/{id}/log-ops"), json!({ "op": alice.op(id).await.invite_role(0) })).await.is(201);
    bob.post(&path, json!({ "log_op": bob.op(id).await.add_invite(&key, 0, 0) })).await.is(201);
    assert_eq!(bob.get(&path).await.is(200)["items"].as_array().unwrap().len(), 1);
    bob.post(&path, json!({ "log_op": bob.op(id).await.add_invite(&key, 3, 0) })).await.refused(ErrorCode::Forbidden);
    bob.post(&path, json!({ "log_op": bob.op(id).await.anchor() })).await.refused(ErrorCode::Validation);
    let far = bob.op(id).await.add_invite(&InviteKey::new(), 0, u64::MAX);
    bob.post(&path, json!({ "log_op": far })).await.refused(ErrorCode::Validation);
}

#[tokio::test]
async fn of_twenty_who_race_for_one_use_one_joins() {
    let server = TestServer::start().await;
    let alice = server.person().await;
    let id = alice.community().await;
    let (code, key) = alice.invite(id, 1, 0).await;
    let mut racers = Vec::new();
    for _ in 0..20 {
        racers.push(server.person().await);
    }
    // As a client does it: on `stale_log` fetch, sign again, retry.
    let race = async |racer: &Person| -> Value {
        loop {
            let answer = racer.accept(id, &code, &key).await;
            if answer.body["error"]["code"] != "stale_log" {
                return json!([answer.status, answer.body["error"]["code"]]);
            }
        }
    };
    let results = futures_util::future::join_all(racers.iter().map(race)).await;
    assert_eq!(results.iter().filter(|result| **result == json!([200, null])).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| **result == json!([403, "forbidden"])).count(), 19, "{results:?}");
    assert_eq!(alice.get(&format!("/communities/{id}")).await.is(200)["member_count"], json!(2));
}

#[tokio::test]
async fn a_code_that_no_invite_can_have_is_not_found_and_an_expiry_is_a_date() {
    let server = TestServer::start().await;
    let [owner] = server.people().await;
    owner.get("/invites/%00abc").await.refused(ErrorCode::NotFound);
    let community = owner.community().await;
    let op = owner.op(community).await.add_invite(&InviteKey::new(), 0, 253_402_300_800_000);
    owner.post(&format!("/communities/{community}/invites"), json!({ "log_op": op })).await.refused(ErrorCode::Validation);
    owner.invite(community, 0, 253_402_300_799_999).await;
    owner.get(&format!("/communities/{community}/invites")).await.is(200);
}
