//! Nobody waits for ever, and nobody keeps others waiting: bodies that trickle in, a database that does not answer.

use std::time::Duration;

use chat::protocol::codec::Encoding;
use chat::protocol::error::ErrorCode;
use chat::protocol::frame::close;
use chat::protocol::ids::UserId;
use chat::server::app::Deadlines;
use chat::server::jobs::expire;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::binary::eventually;
use crate::support::http::Http as _;
use crate::support::room::Room;
use crate::support::server::TestServer;
use crate::support::ws::{Closed, Ws};

/// What nothing in these tests waits for.
const LONG: Duration = Duration::from_secs(3600);
const PATIENT: Deadlines = Deadlines { body: LONG, request: LONG, socket: LONG, look: LONG, batch: LONG };
/// What is over as soon as something waits.
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_body_that_does_not_arrive_is_refused_and_its_connection_ends() {
    let server = TestServer::start().await;
    let user = server.user("alice").await;
    server.restart_within(Deadlines { body: SHORT, ..PATIENT }).await;
    for (line, token) in [
        ("POST /api/v1/auth/login", ""),
        ("DELETE /api/v1/channels/0197f000-0000-7000-8000-000000000000", &*user.tokens.access_token.0),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // To the end: who sends nothing more does not keep the place either.
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(
            (&body["error"]["code"], &body["error"]["message"]),
            (&json!("invalid_request"), &json!("the body did not arrive in time"))
        );
    }
}

#[tokio::test]
async fn a_body_that_will_be_too_big_is_refused_before_it_is_sent() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1048577\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too_large"), "{answer}");
}

#[tokio::test]
async fn a_request_that_the_database_keeps_waiting_is_503_and_a_change_has_an_unknown_outcome() {
    let server = TestServer::start().await;
    let user = server.user("alice").await;
    server.restart_within(Deadlines { request: SHORT, ..PATIENT }).await;
    let sql = server.database.client().await;
    sql.batch_execute("BEGIN; LOCK TABLE users").await.unwrap();
    for (answer, code) in [
        (user.get("/account").await, ErrorCode::Unavailable),
        (user.patch("/account", &json!({ "bio": "x" })).await, ErrorCode::OutcomeUnknown),
    ] {
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        answer.refused(code);
    }
    sql.batch_execute("COMMIT").await.unwrap();
}

/// The error before `ready` and the end of a connection that could not begin.
async fn refused(server: &TestServer, token: &str) -> (Value, Closed) {
    let mut ws = Ws::open(server.address, Encoding::Json).await.unwrap();
    ws.send(json!({ "type": "authenticate", "token": token })).await;
    (ws.next().await.unwrap(), ws.closed().await)
}

#[tokio::test]
async fn a_websocket_that_finds_no_database_is_told_to_come_back_and_keeps_its_login() {
    let server = TestServer::start().await;
    let user = server.user("alice").await;
    server.restart_within(Deadlines { socket: SHORT, ..PATIENT }).await;
    let token = &user.tokens.access_token.0;
    let sql = server.database.client().await;
    let told_to_return = |(error, closed): (Value, Closed)| {
        assert_eq!((&error["type"], &error["ref"], &error["code"]), (&json!("error"), &Value::Null, &json!("unavailable")));
        assert_eq!(closed.code, close::GOING_AWAY, "{closed:?}");
        let reason: Value = serde_json::from_str(&closed.reason).unwrap();
        assert!((500..3000).contains(&reason["retry_after_ms"].as_u64().unwrap()), "{reason}");
    };
    // It does not say whether the login is good, then what may be heard, then the heads.
    for table in ["sessions", "members", "streams"] {
        sql.batch_execute(&format!("BEGIN; LOCK TABLE {table}")).await.unwrap();
        told_to_return(refused(&server, token).await);
        sql.batch_execute("COMMIT").await.unwrap();
        assert_eq!(server.realtime().connections(), 0, "nothing of it stays");
    }
    server.database.refuse_connections(true).await;
    told_to_return(refused(&server, token).await);
    server.database.refuse_connections(false).await;
}

#[tokio::test]
async fn what_connections_without_an_answer_kept_back_arrives_through_others() {
    let server = TestServer::start().await;
    // Enough for a look on a busy machine, and for one after the other in the time that a test waits.
    server.restart_within(Deadlines { look: Duration::from_millis(500), ..PATIENT }).await;
    let room: Room<2> = server.room().await;
    let other: Room<1> = server.room().await;
    let [ann, bob] = &room.people;
    let (mut ann_ws, mut bob_ws) = (server.connect(ann).await, server.connect(bob).await);
    {
        let app = server.app();
        let _several = (app.db().await.unwrap(), app.db().await.unwrap(), app.db().await.unwrap());
    }
    server.proxy.freeze();
    // Another node has written this, and let Bob in elsewhere: here nobody was told of the one, and of the other it was.
    let write = "SELECT * FROM append_server_rows(ARRAY[gen_random_uuid()], ARRAY[$1::uuid], ARRAY['system'], ARRAY[NULL::uuid], ARRAY['{}'])";
    server.sql.query(write, &[&room.channel]).await.unwrap();
    let join = "INSERT INTO members (log_id, user_id, role, joined_seq) VALUES ($1, $2, 0, 1)";
    server.sql.execute(join, &[&other.community, &bob.id]).await.unwrap();
    server.app().access_changed([UserId(bob.id)]);
    for ws in [&mut ann_ws, &mut bob_ws] {
        assert_eq!(ws.event(room.channel).await["seq"], 1);
    }
    eventually("a row of the channel that Bob may hear now", async || {
        server.sql.query(write, &[&other.channel]).await.unwrap();
        let heard = bob_ws.settle().await;
        heard.iter().any(|frame| frame["stream"] == json!(other.channel)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_server_does_by_itself_outlives_connections_without_an_answer() {
    let server = TestServer::start().await;
    server.restart_within(Deadlines { batch: Duration::from_millis(500), ..PATIENT }).await;
    let app = server.app();
    server.proxy.freeze();
    assert_eq!(expire::run(&app).await.unwrap_err().code, ErrorCode::Unavailable);
    eventually("a round over another connection", async || expire::run(&app).await.ok()).await;
}
