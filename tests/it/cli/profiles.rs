//! Registering, logging in and out, passphrases, and one profile in two processes.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use chat::client::Client;
use chat::client::command::{Command, Place};
use chat::client::event::{Answer, ClientEvent};
use chat::client::model::ProblemKind;
use chat::client::setup;
use serde_json::json;

use super::people::{Background, Home, Two, ask, online, until};
use crate::support::account::PASSWORD;
use crate::support::server::TestServer;

#[tokio::test]
async fn registering_makes_a_private_profile_and_shows_the_recovery_code_once() {
    let server = TestServer::start().await;
    let home = Home::new();
    let made = home.run(&["register", &server.url(""), "--username", "ana", "--json", "--no-input"]).await.objects();
    assert_eq!((&made[0]["type"], &made[0]["username"], &made[0]["device_id"]), (&json!("registered"), &json!("ana"), &json!(1)));
    let code = made[0]["recovery_code"].as_str().unwrap();
    assert!(code.len() > 20);
    for (path, mode) in [("data/default", 0o700), ("data/default/store.db", 0o600), ("data/default/key.json", 0o600)] {
        let found = std::fs::metadata(home.path(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
    // Neither the code nor the passwords are on disk.
    for file in walkdir::WalkDir::new(home.path("data")).into_iter().map(Result::unwrap).filter(|file| file.file_type().is_file())
    {
        let bytes = std::fs::read(file.path()).unwrap();
        for secret in [code, PASSWORD, super::people::PASSPHRASE] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", file.path().display());
        }
    }
    let status = home.run(&["status", "--json"]).await.objects();
    assert_eq!((&status[0]["username"], &status[0]["running"]), (&json!("ana"), &json!(false)));
    let again = home.run(&["register", &server.url(""), "--username", "eva"]).await;
    assert_eq!(again.code, 2);
    assert!(again.err.contains("belongs to ana"), "{}", again.err);
}

#[tokio::test]
async fn what_a_server_refuses_has_its_exit_code_and_leaves_no_profile() {
    let server = TestServer::start().await;
    Home::register(&server, "ana").await;
    let home = Home::new();
    let url = server.url("");
    for (arguments, code, words) in [
        (&["register", &url, "--username", "ana"][..], 2, "taken"),
        (&["register", &url, "--username", "Ana"], 2, "no username"),
        (&["login", &url, "--username", "nobody"], 4, "wrong username or password"),
        (&["login", &url, "--username", "ana"], 4, "has a device already"),
        (&["register", "http://127.0.0.1:1", "--username", "eva"], 7, "cannot reach"),
        (&["register", "http://chat.example.org", "--username", "eva"], 2, "plain http"),
    ] {
        let run = home.run(arguments).await;
        assert_eq!(run.code, code, "{arguments:?}: {}", run.err);
        assert!(run.err.contains(words), "{arguments:?}: {}", run.err);
        assert!(!home.path("data/default/store.db").exists(), "{arguments:?}");
    }
    std::fs::write(home.path("password"), "short").unwrap();
    let run = home.run(&["register", &url, "--username", "eva"]).await;
    assert_eq!(run.code, 2);
    assert!(run.err.contains("at least 8"), "{}", run.err);
}

#[tokio::test]
async fn nothing_is_asked_without_input() {
    let server = TestServer::start().await;
    let home = Home::new();
    let url = server.url("");
    for (missing, arguments) in [
        ("--username", &["register", &url, "--no-input"][..]),
        ("CHAT_PASSWORD_FILE", &["register", &url, "--username", "ana", "--no-input"]),
        ("CHAT_PASSPHRASE_FILE", &["register", &url, "--username", "ana", "--no-input"]),
    ] {
        let mut command = home.command(arguments);
        command.env_remove(missing);
        let run = tokio::task::spawn_blocking(move || super::people::Run::of(command.output().unwrap())).await.unwrap();
        assert_eq!(run.code, 2, "{missing}: {}", run.err);
        assert!(run.err.contains(missing), "{}", run.err);
    }
}

#[tokio::test]
async fn a_wrong_passphrase_is_exit_9_and_changes_nothing() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "ana").await;
    let store = std::fs::read(home.path("data/default/store.db")).unwrap();
    std::fs::write(home.path("passphrase"), "not the one").unwrap();
    let run = home.run(&["channels", "--json"]).await;
    assert_eq!((run.code, &run.error()["code"]), (9, &json!("locked")));
    assert!(run.error()["message"].as_str().unwrap().contains("wrong passphrase"));
    let mut command = home.command(&["channels", "--no-input"]);
    command.env_remove("CHAT_PASSPHRASE_FILE");
    let run = tokio::task::spawn_blocking(move || super::people::Run::of(command.output().unwrap())).await.unwrap();
    assert_eq!(run.code, 9, "{}", run.err);
    assert!(run.err.contains("CHAT_PASSPHRASE_FILE"), "{}", run.err);
    assert_eq!(std::fs::read(home.path("data/default/store.db")).unwrap(), store);
}

#[tokio::test]
async fn a_passphrase_can_come_through_an_inherited_descriptor() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "ana").await;
    let script = format!("exec 7< '{}'; exec '{}' channels", home.path("passphrase").display(), env!("CARGO_BIN_EXE_chat"));
    let template = home.command(&[]);
    let mut command = std::process::Command::new("sh");
    command.env_clear().envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("CHAT_PASSPHRASE_FILE").env("CHAT_PASSPHRASE_FD", "7").args(["-c", &script]).stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || super::people::Run::of(command.output().unwrap())).await.unwrap();
    assert_eq!(run.code, 0, "{}", run.err);
}

#[tokio::test]
async fn after_a_logout_the_same_device_logs_in_again() {
    let two = Two::new().await;
    assert!(two.alice.run(&["logout"]).await.ok().contains("logged out"));
    let run = two.alice.run(&["send", "#ops", "x"]).await;
    assert_eq!(run.code, 4, "{}", run.err);
    let channels = two.alice.run(&["channels"]).await;
    assert!(channels.ok().contains("#acme/ops"), "what is on this machine can still be read");
    let login = two.alice.run(&["login", "--json"]).await.objects();
    assert_eq!((&login[0]["type"], &login[0]["device_id"]), (&json!("logged_in"), &json!(1)));
    two.alice.run(&["send", "#ops", "back again"]).await.ok();
    let other = two.alice.run(&["login", "--username", "bob"]).await;
    assert_eq!(other.code, 2, "{}", other.err);
}

#[tokio::test]
async fn a_second_client_shares_the_first_and_a_second_owner_is_refused() {
    let two = Two::new().await;
    let (owner, mut events) = two.alice.open().await;
    online(&mut events).await;
    let status = two.alice.run(&["status", "--json"]).await.objects();
    assert_eq!((&status[0]["running"], &status[0]["connection"]), (&json!(true), &json!("online")));
    assert_eq!(status[0]["pid"], std::process::id());
    // No passphrase is needed: the running client has the key.
    let mut command = two.alice.command(&["send", "#ops", "from beside", "--json"]);
    command.env_remove("CHAT_PASSPHRASE_FILE");
    let sent = tokio::task::spawn_blocking(move || super::people::Run::of(command.output().unwrap())).await.unwrap().objects();
    assert_eq!(sent[0]["state"], "sent");
    // The owner saw it happen.
    until(&mut events, |event| match event {
        ClientEvent::Timeline { items, .. } => items.iter().any(|item| item.mine && json!(item.key.id) == sent[0]["id"]),
        _ => false,
    })
    .await;
    let again = two.alice.run(&["login"]).await;
    assert_eq!(again.code, 9, "{}", again.err);
    assert!(again.err.contains(&std::process::id().to_string()), "{}", again.err);
    owner.close().await;
    assert!(!two.alice.path("run/default.sock").exists());
    let status = two.alice.run(&["status", "--json"]).await.objects();
    assert_eq!(status[0]["running"], false);
}

#[tokio::test]
async fn guests_get_their_own_answers_and_the_same_events() {
    let two = Two::new().await;
    let (owner, mut events) = two.alice.open().await;
    online(&mut events).await;
    let (one, mut one_hears) = Client::attach(&two.alice.profile()).await.unwrap().unwrap();
    let (other, mut other_hears) = Client::attach(&two.alice.profile()).await.unwrap().unwrap();
    for hears in [&mut one_hears, &mut other_hears] {
        let (account, _) = setup::settle(hears).await.unwrap();
        assert_eq!(account.username.raw(), "alice");
    }
    let place = Place { channel_id: two.ops, thread: None };
    let text = |text: &str| Command::SendText { place, text: text.into(), reply_to: None, mentions: Vec::new(), id: None };
    let Answer::Queued { id } = ask(&one, &mut one_hears, text("one")).await.unwrap() else { panic!("queued") };
    // An error is an answer too, and goes to who asked.
    let missing = Command::ShowSafety { user_id: chat::protocol::ids::UserId::from_bytes([9; 16]) };
    assert_ne!(ask(&other, &mut other_hears, missing).await.unwrap_err().kind, ProblemKind::Network);
    for hears in [&mut events, &mut other_hears] {
        until(hears, |event| match event {
            ClientEvent::Done { .. } => panic!("somebody else's answer"),
            ClientEvent::Timeline { items, .. } => items.iter().any(|item| item.key.id == id),
            _ => false,
        })
        .await;
    }
    one.close().await;
    owner.close().await;
    until(&mut other_hears, |event| matches!(event, ClientEvent::Closed)).await;
}

#[tokio::test]
async fn an_owner_that_was_killed_leaves_the_profile_free() {
    let two = Two::new().await;
    let mut follow = two.alice.command(&["tail", "--follow", "--json"]);
    let mut owner = Background(follow.spawn().unwrap());
    let profile = two.alice.profile();
    let pid = owner.0.id();
    let wait = async {
        while !matches!(chat::client::lock::owner(&profile), Ok(Some(found)) if found.pid == pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.unwrap();
    owner.0.kill().unwrap();
    owner.0.wait().unwrap();
    two.alice.run(&["send", "#ops", "after the crash"]).await.ok();
}
