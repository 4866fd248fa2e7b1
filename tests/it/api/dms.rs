//! Direct messages: who may open one, and that a pair has one.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::person::new_id;
use crate::support::server::TestServer;

#[tokio::test]
async fn fellow_members_have_one_dm_whoever_asks() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let from = server.events(bob.id).await.len();
    let made = alice.post("/dms", json!({ "user_id": bob.id })).await.is(201);
    assert_eq!((&made["kind"], &made["peer"]["id"], &made["log_id"]), (&json!("dm"), &json!(bob.id), &Value::Null));
    assert_eq!(made["start_seq"], json!(0));
    assert_eq!(alice.post("/dms", json!({ "user_id": bob.id })).await.is(200), made);
    let theirs = bob.post("/dms", json!({ "user_id": alice.id })).await.is(200);
    assert_eq!((&theirs["id"], &theirs["peer"]["id"]), (&made["id"], &json!(alice.id)));
    assert_eq!(bob.get("/dms").await.is(200)["items"], json!([theirs]));
    assert_eq!(server.kinds(bob.id, from).await, ["channel_added"]);
    assert_eq!(server.events(bob.id).await[from]["channel"]["peer"]["id"], json!(alice.id));
    let channel = made["id"].as_str().unwrap();
    let members = bob.get(&format!("/channels/{channel}/members")).await.is(200);
    assert_eq!(members["items"].as_array().unwrap().len(), 2);
    alice.patch(&format!("/channels/{channel}"), json!({ "name": "us" })).await.refused(ErrorCode::Forbidden);
    alice.delete(&format!("/channels/{channel}")).await.refused(ErrorCode::Forbidden);
    alice.get(&format!("/channels/{channel}/log-ops")).await.refused(ErrorCode::NotFound);
    let member = format!("/channels/{channel}/members/{}", bob.id);
    alice.patch(&member, json!({ "nickname": "b" })).await.refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn strangers_have_no_dm_and_do_not_learn_who_exists() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let nobody = alice.post("/dms", json!({ "user_id": new_id() })).await;
    assert_eq!(alice.post("/dms", json!({ "user_id": bob.id })).await, nobody);
    nobody.refused(ErrorCode::NotFound);
    // A contact means that the peer has the caller as a contact.
    let contact = "INSERT INTO contacts (user_id, contact_id) VALUES ($1, $2)";
    server.sql.execute(contact, &[&alice.id, &bob.id]).await.unwrap();
    alice.post("/dms", json!({ "user_id": bob.id })).await.refused(ErrorCode::NotFound);
    let dm = bob.post("/dms", json!({ "user_id": alice.id })).await.is(201);
    let path = format!("/channels/{}", dm["id"].as_str().unwrap());
    let random = carol.get(&format!("/channels/{}", new_id())).await;
    for hidden in [path.clone(), format!("{path}/members"), format!("{path}/settings")] {
        assert_eq!(carol.get(&hidden).await, random);
    }
    let shown = alice.get("/channels").await.is(200);
    assert_eq!(shown["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_block_in_either_direction_refuses_a_new_dm_and_keeps_the_old_one_readable() {
    let server = TestServer::start().await;
    let [alice, bob, carol] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    alice.add(id, &carol, 0).await;
    alice.post("/dms", json!({ "user_id": carol.id })).await.is(201);
    let block = "INSERT INTO blocks (user_id, blocked_id) VALUES ($1, $2)";
    server.sql.execute(block, &[&bob.id, &alice.id]).await.unwrap();
    server.sql.execute(block, &[&carol.id, &alice.id]).await.unwrap();
    alice.post("/dms", json!({ "user_id": bob.id })).await.refused(ErrorCode::Blocked);
    bob.post("/dms", json!({ "user_id": alice.id })).await.refused(ErrorCode::Blocked);
    alice.post("/dms", json!({ "user_id": carol.id })).await.is(200);
}

#[tokio::test]
async fn notes_to_oneself_are_a_dm_of_one() {
    let server = TestServer::start().await;
    let alice = server.person().await;
    let notes = alice.post("/dms", json!({ "user_id": alice.id })).await.is(201);
    assert_eq!(notes["peer"]["id"], json!(alice.id));
    assert_eq!(alice.post("/dms", json!({ "user_id": alice.id })).await.is(200), notes);
    assert_eq!(alice.get("/channels").await.is(200)["items"], json!([notes]));
    assert_eq!(server.kinds(alice.id, 0).await, ["channel_added"]);
    let members = alice.get(&format!("/channels/{}/members", notes["id"].as_str().unwrap())).await.is(200);
    assert_eq!(members["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn two_who_open_at_once_get_the_same_dm() {
    let server = TestServer::start().await;
    let [alice, bob] = server.people().await;
    let id = alice.community().await;
    alice.add(id, &bob, 0).await;
    let (one, two) = (json!({ "user_id": bob.id }), json!({ "user_id": alice.id }));
    let (one, two) = tokio::join!(alice.post("/dms", one), bob.post("/dms", two));
    assert_eq!(one.body["id"], two.body["id"]);
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
}
