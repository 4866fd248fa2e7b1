//! The way into an account, and everything that can be wrong on it: each is told apart, changes nothing, and has its exit code.

use std::os::unix::fs::PermissionsExt as _;

use chat::protocol::auth::{Registration, RegistrationInvite};
use serde_json::json;

use super::people::{Home, PASSPHRASE, Run, run};
use crate::support::account::PASSWORD;
use crate::support::binary::free_port;
use crate::support::fake::Fake;
use crate::support::http::Http as _;
use crate::support::server::TestServer;

async fn register(home: &Home, server: &str, username: &str) -> Run {
    home.run(&["register", server, "--username", username]).await
}

async fn log_in(home: &Home, server: &str, username: &str) -> Run {
    home.run(&["login", server, "--username", username]).await
}

#[tokio::test]
async fn names_and_passwords_that_cannot_be_are_refused_and_leave_no_profile() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    server.user("alice").await;
    let home = Home::new();
    register(&home, &address, "alice").await.refused(2, &["this username, or one that looks like it, is taken"]);
    register(&home, &address, "a1ice").await.refused(2, &["looks like it, is taken", "Choose another one"]);
    for name in ["Alice", "al", "ali ce", "\u{430}lice", "alice\u{202e}"] {
        register(&home, &address, name).await.refused(2, &["that is no username", "lower-case letters"]);
    }
    register(&home, &address, "everyone").await.refused(2, &["this name has a meaning of its own"]);
    for (password, says) in [
        ("short", "a password has at least 8 characters"),
        ("aaaaaaaaaaaa", "easy to guess"),
        ("bob-the-builder", "easy to guess"),
        (&"x".repeat(1 << 20), "a password has at most 1024 bytes"),
    ] {
        home.write("password", password);
        register(&home, &address, "bob").await.refused(2, &[says]);
    }
    home.run(&["register", &address, "--username", "bob", "--password-file", "nowhere"])
        .await
        .refused(2, &["cannot read nowhere"]);
    home.write("password", PASSWORD);
    home.write("passphrase", "short");
    register(&home, &address, "bob").await.refused(2, &["a passphrase has 8 to 1024 characters"]);
    home.run(&["status"]).await.refused(4, &["chat register", "chat login"]);
    assert!(!home.profile().store().exists() && !home.profile().key().exists());
    // After all that it works.
    home.write("passphrase", PASSPHRASE);
    register(&home, &address, "bob").await.ok();
    home.run(&["status"]).await.ok();
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_look_the_same() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    server.user("alice").await;
    let home = Home::new();
    home.write("password", "some other password");
    let wrong = log_in(&home, &address, "alice").await.refused(4, &["wrong username or password"]);
    let unknown = log_in(&home, &address, "nobody").await.refused(4, &["wrong username or password"]);
    assert_eq!(wrong.err, unknown.err);
    home.write("password", &"x".repeat(1 << 20));
    log_in(&home, &address, "alice").await.refused(4, &["wrong username or password"]);
    assert!(!home.profile().store().exists());
}

#[tokio::test]
async fn registration_wants_what_the_server_wants() {
    let server = TestServer::start_with(|config| config.registration = Registration::Invite).await;
    let address = server.address.to_string();
    let owner = server.user("owner").await;
    let invite: RegistrationInvite = owner.post("/admin/invites", &json!({ "max_uses": 1 })).await.ok(201);
    let home = Home::new();
    register(&home, &address, "bob").await.refused(5, &["an invitation is needed", "--invite-file"]);
    let invited = ["register", &address, "--username", "bob", "--invite-file", "code"];
    home.write("code", "AAAA-BBBB-CCCC");
    home.run(&invited).await.refused(5, &["this code is missing, unknown, expired or used up"]);
    let code = invite.code.unwrap().0;
    home.write("code", &code);
    server.database.execute("UPDATE registration_invites SET expires_at = now() - interval '1 s'").await;
    home.run(&invited).await.refused(5, &["expired"]);
    server.database.execute("UPDATE registration_invites SET expires_at = NULL").await;
    home.run(&invited).await.ok();
    let late = Home::new();
    late.write("code", &code);
    let invited = ["register", &address, "--username", "carol", "--invite-file", "code"];
    let refused = late.run(&invited).await.refused(5, &["used up"]);
    assert!(!refused.all().contains(&code), "{refused:?}");

    // The first account is the owner's, and needs no invitation.
    let server = TestServer::start_with(|config| config.registration = Registration::Invite).await;
    register(&Home::new(), &server.address.to_string(), "owner").await.ok();
    let server = TestServer::start_with(|config| config.registration = Registration::Closed).await;
    let address = server.address.to_string();
    register(&Home::new(), &address, "owner").await.ok();
    register(&late, &address, "carol").await.refused(5, &["registration is closed on this server"]);
}

#[tokio::test]
async fn a_wrong_passphrase_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "alice").await;
    let profile = home.profile();
    let before = (std::fs::read(profile.store()).unwrap(), std::fs::read(profile.key()).unwrap());
    home.write("passphrase", "not the right words");
    for arguments in
        [&["channels"][..], &["send", "@alice", "x"], &["tail", "#ops"], &["read", "#ops"], &["search", "x"], &["logout"]]
    {
        home.run(arguments).await.refused(9, &["wrong passphrase for profile `default`", "Nothing was changed"]);
    }
    let refused = log_in(&home, &server.address.to_string(), "alice").await;
    refused.refused(9, &["wrong passphrase"]);
    assert!(before == (std::fs::read(profile.store()).unwrap(), std::fs::read(profile.key()).unwrap()), "a file changed");
    // No key at all, and nobody to ask.
    let mut command = home.command(&["channels"]);
    command.env_remove("CHAT_PASSPHRASE_FILE");
    let refused = run(command, "").await;
    refused.refused(9, &["profile `default` is locked", "CHAT_PASSPHRASE_FILE"]);
    let mut command = home.command(&["channels"]);
    command.env("CHAT_PASSPHRASE_FILE", "nowhere");
    let refused = run(command, "").await;
    refused.refused(9, &["CHAT_PASSPHRASE_FILE: cannot read nowhere"]);
    home.write("passphrase", PASSPHRASE);
    home.run(&["channels"]).await.ok();
}

#[tokio::test]
async fn a_profile_belongs_to_one_account() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    let home = Home::register(&server, "alice").await;
    server.user("bob").await;
    register(&home, &address, "carol").await.refused(2, &["profile `default` belongs to alice", "--profile"]);
    log_in(&home, &address, "bob").await.refused(2, &["profile `default` belongs to alice"]);
    home.run(&["--profile", "../etc", "status"]).await.refused(2, &["profile"]);
    // Its keys are elsewhere.
    log_in(&Home::new(), &address, "alice").await.refused(4, &["has a device already"]);
    log_in(&home, &address, "alice").await.ok();
    home.run(&["logout"]).await.ok();
    assert!(home.run(&["status"]).await.ok().contains("nobody is logged in"));
    assert_eq!(home.run(&["status", "--json"]).await.objects()[0]["logged_in"], false);
    home.run(&["send", "@bob", "x"]).await.refused(4, &["chat login"]);
    log_in(&home, &address, "alice").await.ok();
    assert_eq!(home.run(&["status", "--json"]).await.objects()[0]["logged_in"], true);
    home.run(&["channels"]).await.ok();
}

#[tokio::test]
async fn what_is_no_chat_server_is_told_apart() {
    let home = Home::new();
    let port = free_port();
    let nobody = format!("127.0.0.1:{port}");
    register(&home, &nobody, "alice").await.refused(7, &[&nobody, "cannot reach"]);
    register(&home, "name.invalid", "alice").await.refused(7, &["name.invalid"]);
    register(&home, "http://192.0.2.1:8008", "alice").await.refused(2, &["plain http", "client.allow_http"]);
    register(&home, "http://chat.example.org", "alice").await.refused(2, &["plain http"]);
    for address in ["", "http://", "ftp://127.0.0.1", "a b"] {
        register(&home, address, "alice").await.refused(2, &["is no server address", "https://chat.example.org:8443"]);
    }
    let refused =
        register(&home, "https://alice:hunter2@127.0.0.1", "alice").await.refused(2, &["no place for a user or password"]);
    assert!(!refused.all().contains("hunter2"), "{refused:?}");
    // A web server, something that speaks no HTTP, TLS that is none.
    let web = Fake::answers("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    register(&home, &web.address, "alice").await.refused(7, &["is not a chat server"]);
    let web = Fake::answers("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    register(&home, &web.address, "alice").await.refused(7, &["is not a chat server: HTTP 404"]);
    let ssh = Fake::answers("SSH-2.0-OpenSSH_9.2\r\n");
    register(&home, &ssh.address, "alice").await.refused(7, &[&ssh.address]);
    let silent = Fake::answers("");
    register(&home, &silent.address, "alice").await.refused(7, &[&silent.address]);
    let plain = Fake::answers("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    register(&home, &format!("https://{}", plain.address), "alice").await.refused(7, &[&plain.address]);
    let future = Fake::answers(Fake::json(
        200,
        &json!({
            "registration": "open", "name": "x", "protocol": 99, "limits": {}, "version": "9", "server_time": "2026-11-21T00:00:00.000Z"
        }),
    ));
    register(&home, &future.address, "alice").await.refused(1, &["speaks protocol 99", "Update chat"]);
    assert!(!home.profile().store().exists());
}

#[tokio::test]
async fn a_server_that_went_away_leaves_the_profile_usable() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    let home = Home::register(&server, "alice").await;
    server.stop().await;
    home.run(&["send", "--timeout", "1", "@alice", "x"]).await.refused(7, &["cannot be reached", "Nothing was sent or kept"]);
    home.run(&["channels"]).await.ok();
    home.run(&["status"]).await.ok();
    home.run(&["doctor"]).await.refused(1, &["1 of "]);
    log_in(&home, &address, "alice").await.refused(7, &["cannot reach"]);
    home.run(&["logout"]).await.refused(7, &["lives on", "30 days"]);
    assert!(home.run(&["status"]).await.ok().contains("nobody is logged in"));
    server.restart().await;
    home.run(&["doctor"]).await.ok();
}

#[tokio::test]
async fn status_and_doctor_say_what_is_broken() {
    let home = Home::new();
    home.run(&["status"]).await.refused(4, &["no account", "chat register"]);
    let report = home.run(&["doctor"]).await.ok();
    assert!(report.contains("warning profile: "), "{report}");

    home.write("config.toml", "[client]\nservr = \"x\"\n");
    let broken = home.run(&["doctor"]).await.refused(1, &["1 of "]);
    assert!(broken.out.contains("bad     configuration: ") && broken.out.contains("config.toml:2:1"), "{broken:?}");
    home.write("config.toml", "");

    let server = TestServer::start().await;
    let home = Home::register(&server, "alice").await;
    let profile = home.profile();
    assert!(home.run(&["status"]).await.ok().contains("alice at http://"));
    std::fs::set_permissions(profile.key(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let report = home.run(&["doctor"]).await.ok();
    assert!(report.contains("can be read by others") && report.contains("chmod go="), "{report}");

    // A damaged key, store and account file: named, exit codes, no panic, nothing overwritten.
    let (key, store, account) = (profile.key(), profile.store(), profile.data.join("account.json"));
    for (path, exit, says) in
        [(&key, 9, "key.json is damaged"), (&store, 1, "store.db does not open"), (&account, 1, "account.json")]
    {
        let before = std::fs::read(path).unwrap();
        let damaged = [b"damaged".as_slice(), &vec![7; before.len().saturating_sub(7)]].concat();
        std::fs::write(path, &damaged).unwrap();
        home.run(&["channels"]).await.refused(exit, &[says]);
        let broken = home.run(&["doctor"]).await;
        assert!(!broken.err.contains("internal error"), "{broken:?}");
        assert!(path == &store || (broken.code == 1 && broken.out.contains("bad ")), "{broken:?}");
        assert_eq!(std::fs::read(path).unwrap(), damaged, "left as it was");
        std::fs::write(path, before).unwrap();
    }
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    home.run(&["channels"]).await.refused(9, &["key.json is missing"]);
    let broken = home.run(&["doctor"]).await.refused(1, &[]);
    assert!(broken.out.contains("key.json: No such file"), "{broken:?}");
    std::fs::write(&key, kept).unwrap();
    home.run(&["channels"]).await.ok();
}

#[tokio::test]
async fn who_runs_the_server_makes_lists_and_revokes_invitations_to_it() {
    let server = TestServer::start_with(|config| config.registration = Registration::Invite).await;
    let address = server.address.to_string();
    let owner = Home::new();
    register(&owner, &address, "owner").await.ok();
    let made = owner.run(&["admin", "invites", "create", "--json"]).await.objects().remove(0);
    assert_eq!((&made["type"], &made["max_uses"], &made["used_count"]), (&json!("registration_invite"), &json!(1), &json!(0)));
    assert!(made["expires_at"].is_string(), "a code does not hold for ever unless somebody says so");

    let code = owner.run(&["admin", "invites", "create", "--uses", "2", "--expires", "never"]).await.ok();
    assert_eq!(code.lines().count(), 1, "{code}");
    let guest = Home::new();
    guest.write("code", &code);
    guest.run(&["register", &address, "--username", "guest", "--invite-file", "code"]).await.ok();
    guest.run(&["admin", "invites", "create"]).await.refused(5, &["Only the people who run this server"]);
    guest.run(&["admin", "invites", "list"]).await.refused(5, &["Only the people who run this server"]);

    let listed = owner.run(&["admin", "invites", "list", "--json"]).await.objects();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|invite| invite.get("code").is_none()), "{listed:?}");
    assert_eq!((&listed[0]["used_count"], &listed[0]["max_uses"], &listed[1]["id"]), (&json!(1), &json!(2), &made["id"]));
    let id = listed[0]["id"].as_str().unwrap();
    let shown = owner.run(&["admin", "invites", "list"]).await.ok();
    assert!(shown.contains(&format!("{id}  used 1 of 2  without end")), "{shown}");
    owner.run(&["admin", "invites", "revoke", id]).await.ok();
    owner.run(&["admin", "invites", "revoke", id]).await.refused(3, &["There is no such invitation"]);
    let late = Home::new();
    late.write("code", &code);
    late.run(&["register", &address, "--username", "late", "--invite-file", "code"]).await.refused(5, &[]);
    owner.run(&["admin", "invites", "create", "--expires", "soon"]).await.refused(2, &["never"]);
}

#[tokio::test]
async fn the_recovery_code_sets_a_new_password_and_the_profile_goes_on() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    let home = Home::new();
    let made = home.run(&["register", &address, "--username", "alice", "--json"]).await.objects().remove(0);
    let code = made["recovery_code"].as_str().unwrap().to_owned();
    home.write("code", &format!("{}\n", code.to_lowercase()));
    let recover = ["recover", "--recovery-code-file", "code", "--password-file", "new"];

    home.write("new", "short");
    home.run(&recover).await.refused(2, &["a password has at least 8 characters"]);
    home.write("new", "four unrelated wet words\n");
    home.write("wrong", "AAAA-BBBB");
    home.run(&["recover", "--recovery-code-file", "wrong", "--password-file", "new"])
        .await
        .refused(4, &["wrong username or recovery code", "Nothing was changed"]);
    home.run(&["recover", "--recovery-code-file", "-", "--password-file", "-"]).await.refused(2, &["one first line"]);
    home.run(&["recover", "--username", "bob", "--recovery-code-file", "code"]).await.refused(2, &["belongs to alice"]);
    home.run(&["recover"]).await.refused(2, &["recovery code", "--recovery-code-file"]);

    let done = home.run(&[&recover[..], &["--json"]].concat()).await.objects().remove(0);
    assert_eq!((&done["type"], &done["username"]), (&json!("recovered"), &json!("alice")));
    let newer = done["recovery_code"].as_str().unwrap();
    assert_ne!(newer, code);
    home.run(&["send", "@alice", "the profile is logged in"]).await.ok();
    // The old password and the old code are worth nothing, the new password is.
    let other = Home::new();
    log_in(&other, &address, "alice").await.refused(4, &["wrong username or password", "chat recover"]);
    home.run(&recover).await.refused(4, &["wrong username or recovery code"]);
    home.write("password", "four unrelated wet words");
    log_in(&home, &address, "alice").await.ok();

    // Without the profile only the password changes, and no login stays behind.
    other.write("code", newer);
    other.write("new", "another four unrelated words");
    let shown = other
        .run(&["recover", &address, "--username", "alice", "--recovery-code-file", "code", "--password-file", "new"])
        .await
        .ok();
    assert!(shown.contains("New recovery code") && shown.contains("chat login"), "{shown}");
    assert!(!other.profile().store().exists());
    let open = server.database.column("SELECT id::text FROM sessions WHERE revoked_at IS NULL").await;
    assert_eq!(open, Vec::<String>::new(), "every login has ended");
}
