//! Secrets are planted in everything that a person types or a server hands out, and then looked for in everything that others
//! may see: arguments of processes, logs, error texts, the database, the files of the server and of the profiles.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chat::cli::demo::proof::{self, Searched};
use chat::client::command::{Command, InviteText};
use chat::client::core::load_session;
use chat::client::store::SqliteStore;
use chat::client::unlock;
use chat::protocol::auth::{LoggedIn, RecoveryCode, RegistrationInvite, Tokens};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::people::{Home, Meeting, Run, ask, online};
use crate::support::account::User;
use crate::support::binary::Serve;
use crate::support::http::{Anon, Http as _};

const IN_THE_CHANNEL: &str = "the heron stands in the canal at dawn";
const IN_THE_THREAD: &str = "nobody feeds the heron on a Sunday";
const IN_THE_DM: &str = "the third brick hides the copper key";
const QUERY: &str = "copper key";
const WRONG_PASSWORD: &str = "an almost right umbrella";
const WRONG_PASSPHRASE: &str = "eight noisy lighthouses";
const NO_TOKEN: &str = "eyJub3QiOiJhLXRva2VuIn0.bm90LWEtdG9rZW4tYXQtYWxs";

#[tokio::test]
async fn nothing_secret_is_in_arguments_logs_errors_files_or_the_database() {
    let mut server = Serve::start_with(|command| {
        command.env("CHAT__SERVER__LOG__LEVEL", "trace");
    })
    .await;
    let url = format!("http://{}", server.address());
    let arguments = Arguments::watch();
    let mut secrets: Vec<String> =
        [IN_THE_CHANNEL, IN_THE_THREAD, IN_THE_DM, WRONG_PASSWORD, WRONG_PASSPHRASE, NO_TOKEN].map(str::to_owned).to_vec();
    let mut runs: Vec<Run> = Vec::new();

    // The owner, by the interface: what the server hands out.
    let anon = Anon::at(&url);
    let password = "eleven paper lanterns";
    let made: LoggedIn = anon.post("/auth/register", &json!({ "username": "owner", "password": password })).await.ok(201);
    let owner = User::of(anon.clone(), made);
    let invite: RegistrationInvite = owner.post("/admin/invites", &json!({})).await.ok(201);
    let code: RecoveryCode = owner.post("/account/recovery-code", &json!({ "password": password })).await.ok(200);
    let renewed: Tokens = anon.post("/auth/refresh", &json!({ "refresh_token": owner.tokens.refresh_token })).await.ok(200);
    let invitation = invite.code.unwrap().0;
    secrets.extend([password.to_owned(), invitation.clone(), code.recovery_code.0, owner.recovery_code.clone().unwrap()]);
    for tokens in [&owner.tokens, &renewed] {
        secrets.extend([tokens.access_token.0.clone(), tokens.refresh_token.0.clone()]);
    }

    // Three people, by the binary and its engine.
    let [alice, bob, carol] = ["red", "green", "blue"].map(|colour| {
        let home = Home::new();
        for (file, secret) in
            [("password", format!("a tall {colour} ladder")), ("passphrase", format!("a {colour} wooden bridge"))]
        {
            home.write(file, &secret);
            secrets.push(secret);
        }
        home
    });
    let Meeting { alice, bob, link, .. } = Meeting::at(&url, alice, bob).await;
    // The part before the # is the server's.
    secrets.push(link.split_once('#').unwrap().1.to_owned());
    carol.write("code", &invitation);
    let made = carol.run(&["register", &url, "--username", "carol", "--invite-file", "code", "--json"]).await.objects();
    secrets.push(made[0]["recovery_code"].as_str().unwrap().to_owned());
    let (client, mut events) = carol.open().await;
    online(&mut events).await;
    ask(&client, &mut events, Command::Join { link: InviteText(link.clone()) }).await.unwrap();
    client.close().await;

    let root = alice.run_with_input(&["send", "#ops"], IN_THE_CHANNEL).await.ok();
    bob.run_with_input(&["send", "#ops", "--thread", root.trim()], IN_THE_THREAD).await.ok();
    bob.run_with_input(&["send", "@alice"], IN_THE_DM).await.ok();
    assert!(alice.run(&["tail"]).await.ok().contains(IN_THE_DM));
    assert!(alice.run(&["search", QUERY]).await.ok().contains(IN_THE_DM));
    assert!(carol.run(&["tail"]).await.ok().contains(IN_THE_CHANNEL));
    alice.run(&["logout"]).await.ok();
    alice.run(&["login"]).await.ok();
    for (home, passphrase) in [(&alice, "a red wooden bridge"), (&bob, "a green wooden bridge")] {
        let profile = home.profile();
        let key = unlock::unlock(&profile, &passphrase.into(), false).unwrap();
        let session = load_session(&SqliteStore::open(&profile.store(), key).unwrap()).unwrap().unwrap();
        let tokens = session.tokens.unwrap();
        secrets.extend([tokens.access_token.0, tokens.refresh_token.0]);
    }

    // What is wrong is not repeated.
    alice.write("password", WRONG_PASSWORD);
    runs.push(alice.run(&["login"]).await.refused(4, &[]));
    runs.push(Home::new().run(&["register", &url, "--username", "alice", "--invite-file", "../nowhere"]).await.refused(2, &[]));
    bob.write("passphrase", WRONG_PASSPHRASE);
    runs.push(bob.run(&["tail"]).await.refused(9, &[]));
    runs.push(bob.run(&["--json", "tail"]).await.refused(9, &[]));
    runs.push(carol.run_with_input(&["send", "#nowhere"], IN_THE_DM).await.refused(3, &[]));
    for request in wrong_requests(&renewed.access_token.0, &invitation) {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer));
        proof::refuse(&answer, &secrets, "the answer to a wrong request").unwrap();
    }
    // The database breaks under a request, and the server dies and comes back.
    server.kill().await;
    server.restart().await;
    assert!(carol.run(&["tail", "#ops"]).await.ok().contains(IN_THE_CHANNEL));

    let seen = arguments.all();
    for program in ["chat\0serve\0", "postgres", "chat\0send\0", "chat\0register\0"] {
        assert!(seen.iter().any(|line| line.contains(program)), "{program:?} was not seen in {} lines", seen.len());
    }
    for line in seen {
        proof::refuse(line.as_bytes(), &secrets, "the arguments of a process").unwrap();
    }
    for run in runs {
        proof::refuse(run.all().as_bytes(), &secrets, "the output of an error").unwrap();
    }
    secrets.push(QUERY.to_owned());
    let mut searched = Searched::default();
    proof::search_database(&server.data_dir(), &secrets, &mut searched).unwrap();
    for place in [server.data_dir(), server.log_file()] {
        proof::search_files(&place, &secrets, &mut searched).unwrap();
    }
    for home in [&alice, &bob, &carol] {
        for place in ["data", "state", "config"].map(|name| home.path(name)).iter().filter(|place| place.exists()) {
            proof::search_files(place, &secrets, &mut searched).unwrap();
        }
    }
    assert!(searched.dump_bytes > 10_000 && searched.files > 100, "{searched:?}");
}

/// Secrets where none belongs, or in what cannot be read.
fn wrong_requests(token: &str, code: &str) -> Vec<String> {
    let secret = WRONG_PASSWORD;
    let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let post = |path: &str, body: &str| format!("POST /api/v1{path} {head}content-length: {}\r\n\r\n{body}", body.len());
    let mut requests = vec![
        format!("GET /api/v1/account?token={token} {head}\r\n"),
        format!("GET /api/v1/{token} {head}\r\n"),
        format!("GET /api/v1/invites/{code} {head}\r\n"),
        format!("GET /api/v1/account {head}authorization: Bearer {NO_TOKEN}\r\n\r\n"),
        format!("GET /api/v1/account {head}authorization: Basic {token}\r\n\r\n"),
        format!("{secret}\r\n\r\n"),
    ];
    for path in ["/auth/login", "/auth/register", "/auth/recover", "/auth/refresh"] {
        for body in [
            format!("{{\"username\":\"alice\",\"password\":\"{secret}"),
            json!({ "username": "alice", "password": [secret] }).to_string(),
            json!({ "username": "alice", "password": secret, "extra": secret }).to_string(),
            json!({ "username": secret, "password": secret, "new_password": secret, "recovery_code": code }).to_string(),
            json!({ "refresh_token": token }).to_string(),
            json!({ "username": "alice", "password": format!("{secret}\u{0}"), "invite_code": code }).to_string(),
        ] {
            requests.push(post(path, &body));
        }
    }
    requests
}

/// The arguments of all that this process and its children start, while it is watched.
struct Arguments {
    stop: Arc<AtomicBool>,
    watching: std::thread::JoinHandle<BTreeSet<String>>,
}

impl Arguments {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                Self::look(&std::process::id().to_string(), &mut seen);
            }
            seen
        });
        Self { stop, watching }
    }

    /// A process that has ended meanwhile has nothing to show.
    fn look(pid: &str, seen: &mut BTreeSet<String>) {
        let process = std::path::Path::new("/proc").join(pid);
        seen.extend(std::fs::read(process.join("cmdline")).map(|line| String::from_utf8_lossy(&line).into_owned()));
        for task in std::fs::read_dir(process.join("task")).into_iter().flatten().filter_map(Result::ok) {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children.split_whitespace().for_each(|child| Self::look(child, seen));
        }
    }

    fn all(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().unwrap()
    }
}
