//! Accounts and logins: how one comes in, what a wrong key gets, and what a stolen one is worth.

use std::collections::BTreeSet;

use chat::protocol::auth::{LoggedIn, RecoveryCode, Registration, RegistrationInvite, Session, Tokens};
use chat::protocol::error::ErrorCode;
use chat::protocol::users::{InstanceRole, Page, User as Profile};
use serde_json::{Value, json};

use crate::support::account::{Device, PASSWORD, User};
use crate::support::binary::Serve;
use crate::support::http::{Anon, Answer, Http as _};
use crate::support::server::TestServer;

fn register(username: &str) -> Value {
    json!({ "username": username, "password": PASSWORD })
}

async fn refresh(server: &TestServer, token: &str) -> Answer {
    server.anon().post("/auth/refresh", &json!({ "refresh_token": token })).await
}

#[tokio::test]
async fn the_first_account_owns_the_instance_also_when_many_come_at_once() {
    let server = TestServer::start_with(|config| config.registration = Registration::Closed).await;
    let anon = server.anon();
    let bodies: Vec<Value> = (0..8).map(|i| register(&format!("person{i}"))).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| anon.post("/auth/register", body))).await;
    let mut owners = 0;
    for answer in answers {
        if answer.status == 201 {
            let answer: LoggedIn = answer.ok(201);
            assert_eq!(answer.user.instance_role, InstanceRole::Owner);
            owners += 1;
        } else {
            answer.refused(ErrorCode::Forbidden);
        }
    }
    assert_eq!(owners, 1);
    anon.post("/auth/register", &register("late")).await.refused(ErrorCode::Forbidden);
}

#[tokio::test]
async fn an_account_can_be_made_used_and_logged_in_to() {
    let server = TestServer::start().await;
    let body = json!({ "username": "alice", "password": PASSWORD, "display_name": "Alice Ärmel", "email": "a@example.org" });
    let answer: LoggedIn = server.anon().post("/auth/register", &body).await.ok(201);
    assert_eq!(answer.user.display_name.as_deref(), Some("Alice Ärmel"));
    assert!(answer.recovery_code.is_some());
    let alice = User::of(server.anon(), answer);
    let me: Profile = alice.get("/account").await.ok(200);
    assert_eq!(me.username, "alice");
    let again = server.anon().login("alice").await;
    assert_eq!(again.id(), alice.id());
    again.post("/auth/logout", &json!({})).await.is(204);
    again.get("/account").await.refused(ErrorCode::Unauthenticated);
    refresh(&server, &again.tokens.refresh_token.0).await.refused(ErrorCode::Unauthenticated);
    assert_eq!(alice.get("/account").await.status, 200, "the other login goes on");
}

#[tokio::test]
async fn a_name_is_unique_by_what_it_looks_like() {
    let server = TestServer::start().await;
    server.user("modern.bill").await;
    for taken in ["modern.bill", "modem.bill", "modern_bill", "m0dern.bill", "modern-bi1l"] {
        server.anon().post("/auth/register", &register(taken)).await.refused(ErrorCode::UsernameTaken);
    }
    server.user("modern.bob").await;
    for bad in ["", "ab", "Alice", "al ice", "al\u{131}ce", "-alice", "everyone", &"a".repeat(33)] {
        let details = server.anon().post("/auth/register", &register(bad)).await.refused(ErrorCode::Validation);
        assert!(details["username"].is_string(), "{bad}");
    }
    let anon = server.anon();
    let racing = register("racer");
    let answers = futures_util::future::join_all((0..6).map(|_| anon.post("/auth/register", &racing))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
}

#[tokio::test]
async fn weak_huge_and_malformed_registrations_are_refused_with_the_field() {
    let server = TestServer::start().await;
    let with = |field: &str, value: Value| {
        let mut body = register("alice");
        body[field] = value;
        body
    };
    for (field, value) in [
        ("password", json!("short")),
        ("password", json!("password123")),
        ("password", json!("alice alice")),
        ("password", json!("x".repeat(1025))),
        ("display_name", json!("x".repeat(65))),
        ("display_name", json!("\u{1b}[31mred")),
        ("display_name", json!("a\u{202e}b")),
        ("email", json!("nowhere")),
    ] {
        let details = server.anon().post("/auth/register", &with(field, value)).await.refused(ErrorCode::Validation);
        assert!(details[field].is_string(), "{field}: {details}");
    }
    server.anon().post("/auth/register", &with("password", json!("x".repeat(1_000_000)))).await.refused(ErrorCode::Validation);
    server.anon().post("/auth/register", &with("password", json!("x".repeat(2_000_000)))).await.refused(ErrorCode::TooLarge);
    server.anon().post("/auth/register", &with("instance_role", json!("owner"))).await.refused(ErrorCode::UnknownField);
    server.anon().post("/auth/register", &json!({ "username": "alice" })).await.refused(ErrorCode::InvalidRequest);
    server
        .anon()
        .post("/auth/login", &json!({ "username": "alice", "password": "x".repeat(1_000_000) }))
        .await
        .refused(ErrorCode::InvalidCredentials);
}

#[tokio::test]
async fn an_invitation_admits_as_many_as_it_says_and_only_admins_make_one() {
    let server = TestServer::start_with(|config| config.registration = Registration::Invite).await;
    let owner = server.user("owner").await;
    let invite: RegistrationInvite = owner.post("/admin/invites", &json!({ "max_uses": 2, "expires_in_s": 3600 })).await.ok(201);
    let code = invite.code.unwrap().0;
    let with_code = |username: &str, code: &str| json!({ "username": username, "password": PASSWORD, "invite_code": code });
    server.anon().post("/auth/register", &register("nocode")).await.refused(ErrorCode::Forbidden);
    server.anon().post("/auth/register", &with_code("wrong", "AAAA-BBBB")).await.refused(ErrorCode::Forbidden);
    let anon = server.anon();
    let bodies: Vec<Value> = (0..6).map(|i| with_code(&format!("guest{i}"), &code.to_lowercase())).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| anon.post("/auth/register", body))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 2);
    let guests: Vec<LoggedIn> = answers.into_iter().filter(|answer| answer.status == 201).map(|answer| answer.ok(201)).collect();
    let guest = User::of(server.anon(), guests.into_iter().next().unwrap());

    let listed: Page<RegistrationInvite> = owner.get("/admin/invites").await.ok(200);
    assert_eq!((listed.items.len(), listed.items[0].used_count, listed.items[0].code.is_some()), (1, 2, false));
    guest.get("/admin/invites").await.refused(ErrorCode::NotFound);
    guest.post("/admin/invites", &json!({})).await.refused(ErrorCode::NotFound);
    guest.delete(&format!("/admin/invites/{}", invite.id)).await.refused(ErrorCode::NotFound);
    owner.post("/admin/invites", &json!({ "max_uses": 0 })).await.refused(ErrorCode::Validation);
    owner.post("/admin/invites", &json!({ "expires_in_s": u64::MAX })).await.refused(ErrorCode::Validation);

    let invite: RegistrationInvite = owner.post("/admin/invites", &json!({})).await.ok(201);
    owner.delete(&format!("/admin/invites/{}", invite.id)).await.is(204);
    owner.delete(&format!("/admin/invites/{}", invite.id)).await.refused(ErrorCode::NotFound);
    server.anon().post("/auth/register", &with_code("late", &invite.code.unwrap().0)).await.refused(ErrorCode::Forbidden);
    server.database.execute("UPDATE registration_invites SET max_uses = NULL, expires_at = now() - interval '1 s'").await;
    server.anon().post("/auth/register", &with_code("expired", &code)).await.refused(ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_get_the_same_answer() {
    let server = TestServer::start().await;
    server.user("alice").await;
    let try_login = async |username: &str, password: &str| {
        server.anon().post("/auth/login", &json!({ "username": username, "password": password })).await
    };
    let wrong = try_login("alice", "wrong password").await;
    let unknown = try_login("nobody", "wrong password").await;
    assert_eq!((wrong.status, wrong.body), (401, unknown.body));
    let strange = try_login("no\u{0}body", "wrong password").await;
    assert!(strange.status < 500, "{}", strange.status);
    let recover = async |username: &str| {
        let body = json!({ "username": username, "recovery_code": "AAAA-BBBB", "new_password": "another fine password" });
        server.anon().post("/auth/recover", &body).await
    };
    let (wrong, unknown) = (recover("alice").await, recover("nobody").await);
    assert_eq!((wrong.status, wrong.body), (401, unknown.body));
}

#[tokio::test]
async fn a_login_of_nobody_costs_the_password_work_of_a_login() {
    // In a process of its own: what it logs is nobody else's.
    let server = Serve::start_with(|command| {
        command.env("CHAT__SERVER__LOG__LEVEL", "debug");
    })
    .await;
    let anon = Anon::at(&format!("http://{}", server.address()));
    let _: LoggedIn = anon.post("/auth/register", &register("alice")).await.ok(201);
    let work = || server.log().matches("password work").count();
    let mut before = work();
    let mut one_more = |whose: &str| {
        assert_eq!(work(), before + 1, "{whose}");
        before += 1;
    };
    let long = "x".repeat(1000);
    for (username, password) in [
        ("alice", PASSWORD),
        ("alice", "wrong password"),
        ("alice", &long),
        ("nobody", "wrong password"),
        ("nobody", &long),
        ("a1ice", PASSWORD),
        ("", ""),
        ("No\u{0}body", "wrong password"),
    ] {
        anon.post("/auth/login", &json!({ "username": username, "password": password })).await;
        one_more(username);
    }
    for username in ["alice", "nobody"] {
        let body = json!({ "username": username, "recovery_code": "AAAA-BBBB", "new_password": "another fine password" });
        anon.post("/auth/recover", &body).await.refused(ErrorCode::InvalidCredentials);
        one_more(username);
    }
}

#[tokio::test]
async fn failed_logins_slow_down_and_do_not_lock_the_owner_out() {
    let server = TestServer::start_with(|config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]).await;
    let from = |address: String, username: &str, password: &str| {
        let request = server.anon().request("POST", "/auth/login").header("x-forwarded-for", address);
        let request = request.json(&json!({ "username": username, "password": password }));
        let anon = server.anon();
        async move { anon.send(request).await }
    };
    let body = register("alice");
    let request = server.anon().request("POST", "/auth/register").header("x-forwarded-for", "10.1.1.1").json(&body);
    let _: LoggedIn = server.anon().send(request).await.ok(201);
    for i in 0..10 {
        from(format!("10.2.0.{i}"), "alice", "wrong password").await.refused(ErrorCode::InvalidCredentials);
    }
    let wait = from("10.3.0.1".to_owned(), "alice", "wrong password").await.refused(ErrorCode::RateLimited);
    assert!(wait["retry_after_ms"].as_u64().unwrap() > 0);
    let _: LoggedIn = from("10.1.1.1".to_owned(), "alice", PASSWORD).await.ok(200);
}

#[tokio::test]
async fn a_refresh_token_rotates_and_its_repeat_gets_the_same_answer() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    let first = alice.tokens.refresh_token.0.clone();
    let answers = futures_util::future::join_all((0..20).map(|_| refresh(&server, &first))).await;
    let tokens: Vec<Tokens> = answers.into_iter().map(|answer| answer.ok(200)).collect();
    assert_eq!(tokens.iter().map(|t| t.refresh_token.0.clone()).collect::<BTreeSet<_>>().len(), 1, "one lineage");
    assert!(tokens.iter().all(|t| *t == tokens[0]), "the same answer");
    let second = tokens[0].refresh_token.0.clone();
    assert_ne!(first, second);
    let alice = alice.with_tokens(tokens[0].clone());
    assert_eq!(alice.get("/account").await.status, 200);
    // After a restart too: nothing of it lives in memory.
    server.restart().await;
    let again: Tokens = refresh(&server, &first).await.ok(200);
    assert_eq!(again.refresh_token.0, second);
    let third: Tokens = refresh(&server, &second).await.ok(200);
    assert_ne!(third.refresh_token.0, second);
}

#[tokio::test]
async fn a_refresh_token_used_again_later_ends_the_login_for_both() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    let other = server.anon().login("alice").await;
    let stolen = alice.tokens.refresh_token.0.clone();
    let tokens: Tokens = refresh(&server, &stolen).await.ok(200);
    server
        .database
        .execute("UPDATE refresh_tokens SET rotated_at = rotated_at - interval '31 s' WHERE rotated_at IS NOT NULL")
        .await;
    refresh(&server, &stolen).await.refused(ErrorCode::Unauthenticated);
    refresh(&server, &tokens.refresh_token.0).await.refused(ErrorCode::Unauthenticated);
    alice.with_tokens(tokens).get("/account").await.refused(ErrorCode::Unauthenticated);
    assert_eq!(other.get("/account").await.status, 200, "another login of the account is another family");
}

#[tokio::test]
async fn expired_foreign_and_mixed_up_tokens_are_refused() {
    let server = TestServer::start_with(|config| config.auth.refresh_token_s = 60).await;
    let alice = server.user("alice").await;
    server.database.execute("UPDATE refresh_tokens SET expires_at = now() - interval '1 s'").await;
    refresh(&server, &alice.tokens.refresh_token.0).await.refused(ErrorCode::Unauthenticated);
    refresh(&server, "").await.refused(ErrorCode::Unauthenticated);
    refresh(&server, &alice.tokens.access_token.0).await.refused(ErrorCode::Unauthenticated);
    let with = |header: String| server.anon().request("GET", "/account").header("authorization", header);
    for header in [
        format!("Bearer {}", alice.tokens.refresh_token.0),
        format!("Basic {}", alice.tokens.access_token.0),
        "Bearer ".to_owned(),
        "Bearer a.b.c".to_owned(),
        alice.tokens.access_token.0.clone(),
    ] {
        server.anon().send(with(header)).await.refused(ErrorCode::Unauthenticated);
    }
    let elsewhere = TestServer::start().await;
    let foreign = elsewhere.user("alice").await;
    server.anon().send(with(format!("Bearer {}", foreign.tokens.access_token.0))).await.refused(ErrorCode::Unauthenticated);
    // A token in the URL is none.
    server.anon().get(&format!("/account?token={}", alice.tokens.access_token.0)).await.refused(ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn a_suspended_account_is_told_so_only_with_the_right_password() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    server.database.execute("UPDATE users SET suspended_at = now()").await;
    alice.get("/account").await.refused(ErrorCode::Suspended);
    refresh(&server, &alice.tokens.refresh_token.0).await.refused(ErrorCode::Suspended);
    let login = |password: &'static str| json!({ "username": "alice", "password": password });
    server.anon().post("/auth/login", &login("wrong password")).await.refused(ErrorCode::InvalidCredentials);
    server.anon().post("/auth/login", &login(PASSWORD)).await.refused(ErrorCode::Suspended);
}

#[tokio::test]
async fn a_new_password_ends_the_other_logins() {
    let server = TestServer::start().await;
    let (alice, other) = (server.user("alice").await, server.anon().login("alice").await);
    let change = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
    alice.put("/account/password", &change("wrong", "another fine password")).await.refused(ErrorCode::InvalidCredentials);
    alice.put("/account/password", &change(PASSWORD, "short")).await.refused(ErrorCode::Validation);
    alice.put("/account/password", &change(PASSWORD, "alice in wonderland")).await.refused(ErrorCode::Validation);
    assert_eq!(other.get("/account").await.status, 200);
    alice.put("/account/password", &change(PASSWORD, "another fine password")).await.is(204);
    assert_eq!(alice.get("/account").await.status, 200);
    other.get("/account").await.refused(ErrorCode::Unauthenticated);
    server.anon().post("/auth/login", &register("alice")).await.refused(ErrorCode::InvalidCredentials);
    server.anon().put("/account/password", &change(PASSWORD, "another fine password")).await.refused(ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn a_recovery_code_works_once_and_ends_all_logins() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    let old = alice.recovery_code.clone().unwrap();
    alice.post("/account/recovery-code", &json!({ "password": "wrong" })).await.refused(ErrorCode::InvalidCredentials);
    let code: RecoveryCode = alice.post("/account/recovery-code", &json!({ "password": PASSWORD })).await.ok(200);
    let recover = |code: &str| json!({ "username": "alice", "recovery_code": code, "new_password": "another fine password" });
    server.anon().post("/auth/recover", &recover(&old)).await.refused(ErrorCode::InvalidCredentials);
    let typed = code.recovery_code.0.to_lowercase().replace('-', " ");
    let answer: LoggedIn = server.anon().post("/auth/recover", &recover(&typed)).await.ok(200);
    let new = answer.recovery_code.clone().unwrap();
    assert_ne!(new, code.recovery_code);
    assert_eq!(User::of(server.anon(), answer).get("/account").await.status, 200);
    alice.get("/account").await.refused(ErrorCode::Unauthenticated);
    server.anon().post("/auth/recover", &recover(&code.recovery_code.0)).await.refused(ErrorCode::InvalidCredentials);
    let body = json!({ "username": "alice", "password": "another fine password" });
    let _: LoggedIn = server.anon().post("/auth/login", &body).await.ok(200);
}

#[tokio::test]
async fn logins_are_listed_and_ended_one_by_one_or_all_others() {
    let server = TestServer::start().await;
    let (alice, second, third) =
        (server.user("alice").await, server.anon().login("alice").await, server.anon().login("alice").await);
    let mallory = server.user("mallory").await;
    let listed: Page<Session> = alice.get("/account/sessions").await.ok(200);
    assert_eq!((listed.items.len(), listed.items.iter().filter(|s| s.current).count()), (3, 1));
    assert!(listed.items.iter().all(|session| session.ip == "127.0.0.1"));
    let seconds: Page<Session> = second.get("/account/sessions").await.ok(200);
    let id = seconds.items.iter().find(|session| session.current).unwrap().id;
    mallory.delete(&format!("/account/sessions/{id}")).await.refused(ErrorCode::NotFound);
    alice.delete(&format!("/account/sessions/{id}")).await.is(204);
    alice.delete(&format!("/account/sessions/{id}")).await.refused(ErrorCode::NotFound);
    alice.delete("/account/sessions/nonsense").await.refused(ErrorCode::NotFound);
    second.get("/account").await.refused(ErrorCode::Unauthenticated);
    assert_eq!(third.get("/account").await.status, 200);
    alice.post("/account/sessions/revoke-others", &json!({})).await.is(204);
    third.get("/account").await.refused(ErrorCode::Unauthenticated);
    assert_eq!(mallory.get("/account").await.status, 200);
}

#[tokio::test]
async fn passwords_codes_and_tokens_are_in_the_database_as_hashes_only() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    let dump = server.database.text_of(&["users", "sessions", "refresh_tokens"]).await;
    let raw = alice.recovery_code.clone().unwrap().replace('-', "");
    for secret in [PASSWORD, &raw, &alice.tokens.refresh_token.0, &alice.tokens.access_token.0] {
        assert!(!dump.contains(secret) && !dump.contains(&hex::encode(secret)), "{secret}");
    }
    assert!(dump.contains("$argon2id$"));
}

#[tokio::test]
async fn a_refresh_token_of_before_the_device_ends_when_the_one_of_the_device_is_used() {
    let server = TestServer::start().await;
    let user = server.user("alice").await;
    let before = user.tokens.refresh_token.0.clone();
    let device = Device::first(user).await;
    let tokens: Tokens = refresh(&server, &device.user.tokens.refresh_token.0).await.ok(200);
    refresh(&server, &before).await.refused(ErrorCode::Unauthenticated);
    // Nobody is logged out by it, and a repeat still gets its answer.
    let again: Tokens = refresh(&server, &device.user.tokens.refresh_token.0).await.ok(200);
    assert_eq!(again, tokens);
    let _: Tokens = refresh(&server, &tokens.refresh_token.0).await.ok(200);
}
