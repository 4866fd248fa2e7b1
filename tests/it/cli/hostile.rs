//! Text from outside, in every field that has some: what a person or a lying server writes there reaches no terminal as it is,
//! and in JSON nothing of it is lost.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::people::{Home, Meeting, Two};
use super::scripts::messages;
use crate::support::binary::Serve;
use crate::support::fake::Fake;
use crate::support::server::TestServer;

/// Everything that an attacker would like to see on somebody's terminal.
const NASTY: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m red \u{202e}txet\u{2066} \u{7f}\r\u{8}\u{200b}end\nsecond\u{1b}[1A line";

#[track_caller]
fn has_no_escapes(text: &str) {
    for character in text.chars() {
        assert!(
            character == '\n' || !(character.is_control() || "\u{202e}\u{2066}\u{200b}".contains(character)),
            "{character:?} in {text:?}"
        );
    }
}

#[tokio::test]
async fn escape_sequences_in_messages_and_names_never_reach_a_terminal() {
    let two = Two::new().await;
    two.alice.run_with_input(&["send", "#ops"], NASTY).await.ok();
    two.alice.run_with_input(&["send", "@bob"], NASTY).await.ok();
    for arguments in [&["tail"][..], &["read", "#ops", "--keep-unread"], &["search", "end"], &["channels"]] {
        let run = two.bob.run(arguments).await;
        has_no_escapes(&run.err);
        has_no_escapes(&run.ok());
        let run = two.bob.run(&[arguments, &["--json"]].concat()).await;
        has_no_escapes(&run.out);
    }
    // In JSON nothing is lost.
    let heard = messages(&two.bob, &["tail", "#ops"]).await;
    assert_eq!(heard[0]["text"], NASTY);
    let nowhere = format!("#{NASTY}").replace('/', "");
    let run = two.bob.run(&["tail", &nowhere]).await;
    assert_eq!(run.code, 3);
    has_no_escapes(&run.err);
}

#[tokio::test]
async fn names_of_a_lying_server_never_reach_a_terminal() {
    let server = TestServer::start().await;
    let Meeting { alice, ops, link, .. } = Meeting::at(&server.url(""), Home::new(), Home::new()).await;
    let carol = Home::register(&server, "carol").await;
    // A real server refuses such names; whoever owns the database does not.
    let sql = server.database.client().await;
    sql.execute("UPDATE users SET display_name = $1, bio = $1, custom_status = $1", &[&NASTY]).await.unwrap();
    sql.execute("UPDATE users SET username = username || $1 WHERE username = 'alice'", &[&NASTY]).await.unwrap();
    sql.execute("UPDATE communities SET name = $1, description = $1, welcome_message = $1", &[&NASTY]).await.unwrap();
    sql.execute("UPDATE groups SET name = $1", &[&NASTY]).await.unwrap();
    sql.execute("UPDATE channels SET name = $1, topic = $1 WHERE kind <> 'dm'", &[&NASTY]).await.unwrap();
    carol.run(&["join", &link]).await.ok();
    alice.run(&["send", &ops.to_string(), "harmless"]).await.ok();
    alice.run(&["send", "@carol", "harmless"]).await.ok();
    let id = ops.to_string();
    let commands: [&[&str]; 8] = [
        &["channels"],
        &["tail"],
        &["tail", &id],
        &["read", &id, "--keep-unread"],
        &["search", "harmless"],
        &["send", &id, "an answer"],
        &["status"],
        &["doctor"],
    ];
    let mut shown = String::new();
    for arguments in commands {
        let run = carol.run(arguments).await;
        has_no_escapes(&run.all());
        shown += &run.ok();
        let run = carol.run(&[arguments, &["--json"]].concat()).await;
        has_no_escapes(&run.all());
        run.objects();
    }
    // It is there, and visible.
    assert!(shown.contains("<U+202E>txet") && shown.contains("\u{241b}[2J"), "{shown}");
    let channels = carol.run(&["channels", "--json"]).await.objects();
    let ops = channels.iter().find(|channel| channel["id"] == json!(ops)).unwrap();
    assert_eq!((&ops["community"], &ops["topic"]), (&json!(NASTY), &json!(NASTY)));
}

#[tokio::test]
async fn what_a_server_says_about_an_error_never_reaches_a_terminal() {
    let config = json!({
        "registration": "open", "name": NASTY, "protocol": 1, "limits": {}, "version": NASTY, "server_time": "2026-11-21T00:00:00.000Z"
    });
    for code in ["validation", "forbidden", "username_taken", "rate_limited", "unavailable", "not_found", NASTY] {
        let (config, error) =
            (config.clone(), json!({ "error": { "code": code, "message": NASTY, "details": { NASTY: NASTY } } }));
        let server = Fake::answering(move |head| {
            if head.starts_with("GET /api/v1/auth/config") { Fake::json(200, &config) } else { Fake::json(400, &error) }
        });
        let home = Home::new();
        for command in ["register", "login"] {
            for format in [&[][..], &["--json"]] {
                let run = home.run(&[&[command, &server.address, "--username", "alice"], format].concat()).await;
                assert!(run.code > 0 && run.code != 101, "{run:?}");
                has_no_escapes(&run.all());
            }
        }
        assert!(!home.profile().store().exists());
    }
    for answer in
        [format!("HTTP/1.1 400 {NASTY}\r\n\r\n"), NASTY.to_owned(), format!("HTTP/1.1 301 x\r\nlocation: {NASTY}\r\n\r\n")]
    {
        let server = Fake::answers(answer);
        let run = Home::new().run(&["register", &server.address, "--username", "alice"]).await;
        has_no_escapes(&run.refused(7, &[&server.address]).all());
    }
}

#[tokio::test]
async fn what_clients_send_never_reaches_the_log_as_it_is() {
    for format in ["json", "text"] {
        let server = Serve::start_with(move |command| {
            command.env("CHAT__SERVER__LOG__LEVEL", "trace").env("CHAT__SERVER__LOG__FORMAT", format);
        })
        .await;
        let body = |value: Value| value.to_string();
        let bodies = [
            body(json!({ "username": NASTY, "password": NASTY })),
            body(json!({ "username": "alice", "password": "correct horse battery", "display_name": NASTY })),
            body(json!({ NASTY: NASTY })),
            NASTY.to_owned(),
        ];
        let mut requests = vec![format!("{NASTY}\r\n\r\n"), format!("GET /{NASTY} HTTP/1.1\r\nhost: x\r\n\r\n")];
        for path in ["/auth/login", "/auth/register", "/auth/recover", "/ws", "/invites/%1b%5b2J%c2%9b%e2%80%ae"] {
            for body in &bodies {
                requests.push(format!(
                    "POST /api/v1{path}?q={} HTTP/1.1\r\nhost: x\r\nx-request-id: a\u{9b}2J\u{202e}\r\nuser-agent: \u{9b}2J\u{202e}\r\n\
                     authorization: Bearer \u{9b}2J\u{202e}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    "%1b[2J%e2%80%ae",
                    body.len(),
                ));
            }
        }
        for request in requests {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        assert_eq!(server.status("/ready").await, Some(200));
        has_no_escapes(&server.log());
    }
}
