//! Sending and reading from scripts, between two people.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use chat::client::command::Command;
use chat::client::event::Answer;
use chat::client::model::MessageRef;

use super::people::{Background, Home, Two, ask, online};
use crate::support::account::{Device, kem_prekey, now_ms, rng, signed_prekey};
use crate::support::http::Http as _;
use crate::support::server::TestServer;

pub async fn messages(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let all = home.run(&[arguments, &["--json"]].concat()).await.objects();
    all.into_iter().filter(|object| object["kind"] == "text").collect()
}

#[tokio::test]
async fn a_message_goes_from_one_script_to_another() {
    let two = Two::new().await;
    let id = two.alice.run(&["send", "#ops", "the canary is red"]).await.ok();
    let sent = two.alice.run_with_input(&["send", "#acme/ops", "--json"], "from a pipe\n\n").await.objects();
    assert_eq!((&sent[0]["v"], &sent[0]["type"], &sent[0]["state"]), (&json!(1), &json!("sent"), &json!("sent")));
    assert!(sent[0]["seq"].as_u64().unwrap() > 1);

    let channels = two.bob.run(&["channels", "--json"]).await.objects();
    let ops = channels.iter().find(|channel| channel["name"] == "#acme/ops").unwrap();
    assert_eq!((&ops["unread"], &ops["id"]), (&json!(2), &json!(two.ops)));

    let heard = messages(&two.bob, &["tail", "#ops"]).await;
    let texts: Vec<&str> = heard.iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["the canary is red", "from a pipe"]);
    assert_eq!(heard[0]["id"], id.trim());
    assert_eq!(
        (&heard[0]["author"], &heard[0]["channel"], &heard[0]["mine"]),
        (&json!("alice"), &json!("#acme/ops"), &json!(false))
    );

    let lines = two.bob.run(&["tail", "#ops", "-n", "1"]).await.ok();
    assert!(lines.contains("alice: from a pipe") && !lines.contains('\u{1b}'), "{lines}");
    assert_eq!(messages(&two.bob, &["read", "#ops", "--keep-unread"]).await.len(), 2);
    assert_eq!(messages(&two.bob, &["read", "#ops"]).await.len(), 2);
    assert_eq!(messages(&two.bob, &["read", "#ops"]).await.len(), 0, "it was read");

    let hits = two.bob.run(&["search", "canary", "--json"]).await.objects();
    assert_eq!((hits.len(), &hits[0]["id"]), (1, &json!(id.trim())));
    assert_eq!(two.bob.run(&["search", "albatross"]).await.code, 3);

    // A reply, and a direct message to somebody who never got one.
    two.bob.run(&["send", "#ops", "rolling back", "--reply", id.trim()]).await.ok();
    two.bob.run(&["send", "@alice", "between us"]).await.ok();
    let heard = messages(&two.alice, &["tail"]).await;
    let last: Vec<(&Value, &Value)> =
        heard.iter().rev().take(2).rev().map(|message| (&message["channel"], &message["text"])).collect();
    assert_eq!(last, [(&json!("#acme/ops"), &json!("rolling back")), (&json!("@bob"), &json!("between us"))]);
    assert_eq!(heard.iter().find(|message| message["text"] == "rolling back").unwrap()["reply_to_id"], id.trim());
}

#[tokio::test]
async fn exit_codes_tell_what_went_wrong() {
    let two = Two::new().await;
    for (arguments, code) in [
        (&["send", "#nothing", "x"][..], 3),
        (&["send", "@nobody", "x"], 3),
        (&["send", "#ops", "x", "--reply", "01912d68-783e-7a03-8467-5661c1243ad4"], 3),
        (&["send", "#ops", "   "], 2),
        (&["send", "#ops", "x", "--thread", "no-id"], 2),
        (&["read", "#nothing"], 3),
        (&["tail", "@nobody"], 3),
    ] {
        let run = two.alice.run(arguments).await;
        assert_eq!((run.code, run.out.as_str()), (code, ""), "{arguments:?}: {}", run.err);
    }
    let long = "x".repeat(49_153);
    let run = two.alice.run_with_input(&["send", "#ops"], &long).await;
    assert_eq!(run.code, 2);
    assert!(run.err.contains("49152"), "{}", run.err);

    let mut command = two.alice.command(&["send", "#ops", "said once", "--json"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let run = tokio::task::spawn_blocking(move || command.spawn().unwrap().wait_with_output().unwrap()).await.unwrap();
    let error: Value = serde_json::from_slice(&run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(error["message"].as_str().unwrap().contains("is sent, but"), "a script must not send it again: {error}");

    two.server.stop().await;
    let run = two.alice.run(&["send", "#ops", "nobody hears", "--timeout", "2", "--json"]).await;
    assert_eq!((run.code, &run.error()["code"]), (7, &json!("network")));
    let queued = two.alice.run(&["send", "#ops", "for later", "--queue", "--json"]).await.objects();
    assert_eq!(queued[0]["state"], "queued");
    two.server.restart().await;
    // The next client that connects delivers it, once.
    two.alice.run(&["send", "#ops", "now"]).await.ok();
    let texts: Vec<Value> = messages(&two.bob, &["tail"]).await.into_iter().map(|message| message["text"].clone()).collect();
    assert_eq!(
        texts,
        [json!("said once"), json!("for later"), json!("now")],
        "what failed was not kept, what was queued came first"
    );
}

#[tokio::test]
async fn following_prints_a_message_again_when_it_is_reacted_to() {
    let two = Two::new().await;
    two.alice.run(&["send", "#ops", "shipped"]).await.ok();
    let mut follow = two.bob.command(&["tail", "#ops", "--follow", "--json"]);
    follow.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut following = Background(follow.spawn().unwrap());
    let stdout = following.0.stdout.take().unwrap();
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::task::spawn_blocking(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = said.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let mut next = async || loop {
        let object = tokio::time::timeout(std::time::Duration::from_secs(60), heard.recv()).await.unwrap().unwrap();
        if object["text"] == "shipped" {
            return object;
        }
    };
    let first = next().await;
    assert_eq!(first["reactions"], json!([]));
    let (client, mut events) = two.alice.open().await;
    online(&mut events).await;
    let id = |field: &str| first[field].as_str().unwrap().to_owned();
    let target = MessageRef { author: id("author_id").parse().unwrap(), id: id("id").parse().unwrap() };
    for (remove, reactions) in [(false, json!([{ "emoji": "+1", "count": 1, "mine": false }])), (true, json!([]))] {
        let react = Command::React { channel_id: two.ops, target, emoji: "+1".into(), remove };
        ask(&client, &mut events, react).await.unwrap();
        let again = next().await;
        assert_eq!((&again["id"], &again["reactions"]), (&first["id"], &reactions));
    }
    client.close().await;
}

#[tokio::test]
async fn what_is_said_in_a_thread_is_read_and_a_thread_that_is_not_there_takes_nothing() {
    let two = Two::new().await;
    let sent = two.alice.run(&["send", "#ops", "canary is red", "--json"]).await.objects().remove(0);
    two.alice.run(&["send", "#ops", "which one?", "--thread", sent["id"].as_str().unwrap()]).await.ok();
    let heard = messages(&two.bob, &["read", "#ops"]).await;
    let told: Vec<(&Value, &Value)> = heard.iter().map(|message| (&message["text"], &message["thread_id"])).collect();
    assert_eq!(told, [(&json!("canary is red"), &Value::Null), (&json!("which one?"), &sent["id"])]);
    let lines = two.bob.run(&["tail", "#ops"]).await.ok();
    assert!(lines.contains("  alice: canary is red") && lines.contains("  ↳ alice: which one?"), "{lines}");

    let other = format!("{}/01912d68-783e-7a03-8467-5661c1243ad4", heard[0]["author_id"].as_str().unwrap());
    for option in ["--thread", "--reply"] {
        two.bob
            .run(&["send", "#ops", "to whom?", option, &other])
            .await
            .refused(3, &["there is no such message in this channel"]);
    }
}

#[tokio::test]
async fn who_was_not_there_for_a_month_is_said_so_at_once() {
    let server = TestServer::start().await;
    let alice = Home::register(&server, "alice").await;
    let mut bob = Device::of_age(server.user("bob").await, 40 * 86_400_000).await;
    let me = alice.run(&["status", "--json"]).await.objects().remove(0)["user_id"].as_str().unwrap().to_owned();
    let _: Value = bob.put(&format!("/contacts/{me}"), &json!({})).await.ok(200);

    let begun = std::time::Instant::now();
    alice
        .run(&["send", "@bob", "anybody there?"])
        .await
        .refused(7, &["none of bob's devices has been there for 30 days", "The message is kept", "Do not send it again"]);
    assert!(begun.elapsed().as_secs() < 20, "it waits for nobody: {:?}", begun.elapsed());
    let queued = alice.run(&["send", "@bob", "and now?", "--queue", "--json"]).await.objects();
    assert_eq!(queued[0]["state"], "queued");

    let (signed, last) = bob.keys.rotate(&bob.local, now_ms(), &mut rng()).unwrap();
    let fresh = json!({ "signed_prekey": signed_prekey(&signed), "last_kem_prekey": kem_prekey(&last) });
    let _: Value = bob.post("/keys/prekeys", &fresh).await.ok(200);
    let sent = alice.run(&["send", "@bob", "so?", "--json"]).await.objects();
    assert_eq!((&sent[0]["state"], &sent[0]["seq"]), (&json!("sent"), &json!(3)), "what was kept went first");
}

#[tokio::test]
async fn following_prints_what_comes_and_ends_with_its_signal() {
    let two = Two::new().await;
    for (signal, code) in
        [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143), (rustix::process::Signal::HUP, 129)]
    {
        let mut follow = two.bob.command(&["tail", "#ops", "--follow", "--json", "-n", "0"]);
        follow.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut following = Background(follow.spawn().unwrap());
        let stdout = following.0.stdout.take().unwrap();
        let text = format!("for {code}");
        // Another process on the same profile: it waits until the follower owns it, so the message comes after that.
        while chat::client::lock::owner(&two.bob.profile()).unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        two.alice.run(&["send", "#ops", &text]).await.ok();
        let wanted = text.clone();
        let read = tokio::task::spawn_blocking(move || {
            BufReader::new(stdout).lines().map(Result::unwrap).find(|line| line.contains(&wanted))
        });
        let line = tokio::time::timeout(std::time::Duration::from_secs(60), read).await.unwrap().unwrap().unwrap();
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["text"], text);
        following.signal(signal);
        let status = tokio::task::spawn_blocking(move || following.0.wait().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(code));
    }
}

#[tokio::test]
async fn a_closed_pipe_ends_quietly() {
    let two = Two::new().await;
    two.alice.run(&["send", "#ops", "x"]).await.ok();
    let mut command = two.bob.command(&["tail", "--json"]);
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        super::people::Run::of(child.wait_with_output().unwrap())
    })
    .await
    .unwrap();
    assert_eq!((run.code, run.err.as_str()), (141, ""));
}

#[tokio::test]
async fn no_secret_is_in_the_arguments_or_the_output_of_an_error() {
    let two = Two::new().await;
    std::fs::write(two.alice.path("passphrase"), "a wrong but long passphrase").unwrap();
    let run = two.alice.run(&["tail"]).await;
    assert_eq!(run.code, 9);
    assert!(!run.err.contains("a wrong but long passphrase"));
}

#[tokio::test]
async fn scripts_that_run_at_once_share_the_profile_and_send_once_each() {
    let two = Two::new().await;
    let texts: Vec<String> = (0..8).map(|n| format!("alarm {n}")).collect();
    let runs = futures_util::future::join_all(texts.iter().map(|text| {
        let home = &two.alice;
        async move { home.run(&["send", "#ops", text]).await }
    }))
    .await;
    for run in runs {
        run.ok();
    }
    let mut heard: Vec<String> =
        messages(&two.bob, &["tail"]).await.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect();
    heard.sort();
    assert_eq!(heard, texts);
}

#[tokio::test]
async fn an_invite_link_never_has_to_be_an_argument() {
    let two = Two::new().await;
    let channels = two.alice.run(&["channels", "--json"]).await.objects();
    let community_id = channels[0]["community_id"].as_str().unwrap().parse().unwrap();
    let (client, mut events) = two.alice.open().await;
    online(&mut events).await;
    let invite = Command::CreateInvite { community_id, max_uses: None, expires_in_s: None };
    let Ok(Answer::Invite(invite)) = ask(&client, &mut events, invite).await else { panic!("an invite") };
    client.close().await;
    let secret = invite.link.split_once('#').unwrap().1.to_owned();

    let (carol, dave, eve) = (
        Home::register(&two.server, "carol").await,
        Home::register(&two.server, "dave").await,
        Home::register(&two.server, "eve").await,
    );
    carol.write("link", &format!("{}\n", invite.link));
    carol.run(&["join", "--link-file", "link"]).await.ok();
    dave.run_with_input(&["join", "-"], &invite.link).await.ok();
    // It works as an argument too, and says what is wrong with that.
    let run = eve.run(&["join", &invite.link]).await;
    assert!(run.err.contains("--link-file") && !run.all().contains(&secret), "{run:?}");
    run.ok();
    for home in [&carol, &dave, &eve] {
        let joined = home.run(&["channels", "--json"]).await.objects();
        assert_eq!(joined[0]["name"], "#acme/ops");
    }
    carol.run(&["join", "--no-input"]).await.refused(2, &["invite link", "--link-file"]);
    carol.run(&["join", "--link-file", "nowhere"]).await.refused(2, &["nowhere"]);
    carol.run_with_input(&["join", "-"], "not a link").await.refused(2, &["invite link"]);
}

#[tokio::test]
async fn an_invite_that_is_used_up_or_expired_says_so_and_ends_with_5() {
    let two = Two::new().await;
    let channels = two.alice.run(&["channels", "--json"]).await.objects();
    let community_id = channels[0]["community_id"].as_str().unwrap().parse().unwrap();
    let (client, mut events) = two.alice.open().await;
    online(&mut events).await;
    let mut links = Vec::new();
    for (max_uses, expires_in_s) in [(Some(1), None), (None, Some(0))] {
        let invite = Command::CreateInvite { community_id, max_uses, expires_in_s };
        let Ok(Answer::Invite(invite)) = ask(&client, &mut events, invite).await else { panic!("an invite") };
        links.push(invite.link);
    }
    client.close().await;
    let (carol, dave) = (Home::register(&two.server, "carol").await, Home::register(&two.server, "dave").await);
    carol.run_with_input(&["join", "-"], &links[0]).await.ok();
    dave.run_with_input(&["join", "-"], &links[0]).await.refused(5, &["used up", "new invite"]);
    dave.run_with_input(&["join", "-"], &links[1]).await.refused(5, &["expired", "new invite"]);
    let error = dave.run_with_input(&["join", "-", "--json"], &links[1]).await.error();
    assert_eq!((&error["type"], &error["exit"]), (&json!("error"), &json!(5)), "{error}");
    let unknown = format!("{}x", links[0].split('#').next().unwrap());
    dave.run_with_input(&["join", "-"], &unknown).await.refused(3, &["no such invite", "new invite"]);
    assert!(dave.run(&["channels", "--json"]).await.objects().is_empty());
}

#[tokio::test]
async fn a_channel_that_is_not_stopped_needs_no_decision() {
    let two = Two::new().await;
    assert!(two.bob.run(&["resume", "#ops"]).await.ok().contains("not stopped"));
    let seen = two.bob.run(&["resume", "#ops", "--json"]).await.objects();
    assert_eq!((seen.len(), &seen[0]["type"], &seen[0]["stopped"]), (1, &json!("resume"), &json!(false)));
    two.bob.run(&["resume", "#ops", "--discard", "00"]).await.refused(3, &["not stopped"]);
    two.bob.run(&["resume", "#nowhere"]).await.refused(3, &["#nowhere"]);
}

#[tokio::test]
async fn a_short_command_fills_the_stock_of_keys_at_the_server() {
    let server = TestServer::start().await;
    let carol = Home::register(&server, "carol").await;
    let sql = server.database.client().await;
    sql.execute("DELETE FROM one_time_prekeys", &[]).await.unwrap();
    carol.run(&["channels"]).await.ok();
    let count = sql.query_one("SELECT count(*) FROM one_time_prekeys", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count, 100);
}

#[tokio::test]
async fn notes_to_oneself_are_a_conversation() {
    let two = Two::new().await;
    for note in ["buy milk", "and bread"] {
        two.alice.run(&["send", "@alice", note]).await.ok();
    }
    let seen = two.alice.run(&["read", "@alice", "-n", "5", "--json"]).await.objects();
    let texts: Vec<_> = seen.iter().filter(|item| item["kind"] == "text").map(|item| item["text"].clone()).collect();
    assert_eq!(texts, ["buy milk", "and bread"], "{seen:?}");
}
