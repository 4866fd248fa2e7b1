//! Two requests at the wrong moments. Each test holds a row that the first request needs, so that the order is always the same.

use chat::protocol::error::ErrorCode;
use chat::protocol::users::User as Profile;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::account::PASSWORD;
use crate::support::binary::eventually;
use crate::support::http::Http as _;
use crate::support::person::new_id;
use crate::support::server::TestServer;

/// Waits until `count` statements of other connections wait for a lock.
async fn blocked(sql: &Client, count: i64) {
    eventually("a statement that waits for a lock", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        (sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) >= count).then_some(())
    })
    .await;
}

/// A connection with a transaction that holds what `lock` locks.
async fn holding(url: &str, lock: &str) -> Client {
    let (sql, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    sql.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
    sql
}

#[tokio::test]
async fn a_login_under_way_does_not_outlive_a_password_change() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    // The change is not committed yet when the old password is found to be right.
    let change = holding(&server.database.url, "UPDATE users SET password_hash = 'another' WHERE username = 'alice'").await;
    let anon = server.anon();
    let login =
        tokio::spawn(async move { anon.post("/auth/login", &json!({ "username": "alice", "password": PASSWORD })).await });
    blocked(&server.sql, 1).await;
    change.batch_execute("COMMIT").await.unwrap();
    login.await.unwrap().refused(ErrorCode::InvalidCredentials);
    let still: Profile = alice.get("/account").await.ok(200);
    assert_eq!(still.username, "alice");
}

#[tokio::test]
async fn an_account_that_is_joining_somewhere_cannot_be_deleted() {
    let server = TestServer::start().await;
    let [owner, joiner] = server.people().await;
    server.user("alice").await;
    let password = "UPDATE users SET password_hash = (SELECT password_hash FROM users WHERE username = 'alice') WHERE id = $1";
    server.sql.execute(password, &[&joiner.id]).await.unwrap();
    let community = owner.community().await;
    let op = owner.op(community).await.open(true);
    owner.post(&format!("/communities/{community}/log-ops"), json!({ "op": op })).await.is(201);
    // The join has its membership, uncommitted, and waits for the community's stream.
    let stream = holding(&server.database.url, &format!("SELECT 1 FROM streams WHERE id = '{community}' FOR UPDATE")).await;
    let join = {
        let (joiner, op) = (joiner.clone(), joiner.op(community).await.join(&joiner, None));
        tokio::spawn(async move { joiner.post(&format!("/communities/{community}/join"), json!({ "log_op": op })).await })
    };
    blocked(&server.sql, 1).await;
    let delete = {
        let (joiner, body) = (joiner.clone(), json!({ "password": PASSWORD }));
        tokio::spawn(async move { joiner.delete_with("/account", body).await })
    };
    blocked(&server.sql, 2).await;
    stream.batch_execute("COMMIT").await.unwrap();
    join.await.unwrap().is(200);
    let error = delete.await.unwrap().refused(ErrorCode::Conflict);
    assert_eq!(error["communities"], json!([community]));
}

#[tokio::test]
async fn no_channel_is_made_in_a_group_that_was_just_deleted() {
    let server = TestServer::start().await;
    let [owner] = server.people().await;
    let community = owner.community().await;
    let group = owner.group(community).await;
    let log = holding(&server.database.url, &format!("SELECT 1 FROM logs WHERE id = '{community}' FOR UPDATE")).await;
    let delete = {
        let owner = owner.clone();
        tokio::spawn(async move { owner.delete(&format!("/groups/{group}")).await })
    };
    blocked(&server.sql, 1).await;
    let create = {
        let (owner, id) = (owner.clone(), new_id());
        let op = owner.op(community).await.attach(id, true);
        let body = json!({ "id": id, "name": "late", "log_op": op });
        tokio::spawn(async move { owner.post(&format!("/groups/{group}/channels"), body).await })
    };
    blocked(&server.sql, 2).await;
    log.batch_execute("COMMIT").await.unwrap();
    delete.await.unwrap().is(204);
    create.await.unwrap().refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn a_refresh_waits_for_the_removal_of_its_device_and_neither_fails() {
    let server = TestServer::start().await;
    let device = server.device("alice").await;
    let user = device.id();
    // As a removal does it: the device first, then its logins.
    let lock = format!("UPDATE devices SET name = name WHERE user_id = '{user}'");
    let removal = holding(&server.database.url, &lock).await;
    let refresh = {
        let (anon, token) = (server.anon(), device.user.tokens.refresh_token.clone());
        tokio::spawn(async move { anon.post("/auth/refresh", &json!({ "refresh_token": token })).await })
    };
    blocked(&server.sql, 1).await;
    removal.batch_execute(&format!("UPDATE sessions SET ip = ip WHERE user_id = '{user}'; COMMIT")).await.unwrap();
    refresh.await.unwrap().is(200);
}
