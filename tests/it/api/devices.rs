//! Devices and their signed lists: who may become one, what the server refuses, and who hears of it.

use chat::crypto::identity::LocalDevice;
use chat::crypto::prekeys::PrekeySecrets;
use chat::protocol::codec::Blob;
use chat::protocol::devices::{Device as Listed, DeviceSession, ListHead, UserDevices};
use chat::protocol::error::ErrorCode;
use chat::protocol::keys::ByUser;
use chat::protocol::users::Page;
use serde_json::{Value, json};

use crate::support::account::{Device, PASSWORD, User, now_ms, rng};
use crate::support::http::Http as _;
use crate::support::server::TestServer;

/// A device with keys of its own that nobody knows yet.
fn unregistered(user: User) -> Device {
    let (local, list) = LocalDevice::first(*user.id().as_bytes(), now_ms(), &mut rng()).unwrap();
    Device { user, local, keys: PrekeySecrets::default(), list }
}

fn first_request(device: &mut Device) -> Value {
    let mut request = device.registration(3, 2);
    request.identity_key = Some(Blob::from(*device.local.identity().as_bytes()));
    request.device_list = Some(Blob::from(device.list.as_bytes()));
    serde_json::to_value(request).unwrap()
}

fn lists(bytes: &[u8]) -> Value {
    json!({ "device_list": Blob::from(bytes) })
}

#[tokio::test]
async fn the_first_device_binds_its_session_and_anybody_can_verify_it() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let devices: Page<Listed> = alice.get("/devices").await.ok(200);
    assert_eq!(devices.items.len(), 1);
    assert!(devices.items[0].current && devices.items[0].name == "device 1");

    let bob = server.user("bob").await;
    let seen: UserDevices = bob.get(&format!("/users/{}/devices?after=0", alice.id())).await.ok(200);
    assert_eq!(seen.identity_key, Some(Blob::from(*alice.local.identity().as_bytes())));
    assert_eq!((seen.head_seq, seen.lists), (1, vec![Blob::from(alice.list.as_bytes())]));
    assert_eq!(seen.certificates, [Blob::from(*alice.local.certificate().as_bytes())]);
    let none: UserDevices = alice.get(&format!("/users/{}/devices", bob.id())).await.ok(200);
    assert_eq!((none.identity_key, none.head_seq), (None, 0));
    server.anon().get(&format!("/users/{}/devices", alice.id())).await.refused(ErrorCode::Unauthenticated);
    bob.get(&format!("/users/{}/devices", uuid::Uuid::now_v7())).await.refused(ErrorCode::NotFound);
    bob.get("/users/me/devices").await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_can_be_sent_again() {
    let server = TestServer::start().await;
    let mut device = unregistered(server.user("alice").await);
    let request = first_request(&mut device);
    let first: DeviceSession = device.post("/devices", &request).await.ok(201);
    let again: DeviceSession = device.post("/devices", &request).await.ok(201);
    assert_eq!(first.device_id, again.device_id);
    let devices: Page<Listed> = device.user.with_tokens(again.tokens).get("/devices").await.ok(200);
    assert_eq!(devices.items.len(), 1);
    // Another login with only the password does not become the device.
    let thief = server.anon().login("alice").await;
    thief.post("/devices", &request).await.refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn what_is_not_signed_rightly_is_no_device() {
    let server = TestServer::start().await;
    let mut device = unregistered(server.user("alice").await);
    let good = first_request(&mut device);
    let stranger = unregistered(server.user("mallory").await);
    let with = |field: &str, value: Value| {
        let mut request = good.clone();
        request[field] = value;
        request
    };
    let flip = |value: &Value, at: usize| {
        let mut blob: Blob = serde_json::from_value(value.clone()).unwrap();
        blob.0[at] ^= 1;
        json!(blob)
    };
    let nested = |field: &str, key: &str, value: Value| {
        let mut request = good.clone();
        request[field][key] = value;
        request
    };
    let foreign = Blob::from(*stranger.local.certificate().as_bytes());
    let foreign_list = Blob::from(stranger.list.as_bytes());
    for (what, request, code) in [
        ("a certificate with a changed byte", with("certificate", flip(&good["certificate"], 200)), ErrorCode::BadSignature),
        ("somebody else's certificate", with("certificate", json!(foreign)), ErrorCode::BadSignature),
        ("a short certificate", with("certificate", json!(Blob(vec![1; 224]))), ErrorCode::Validation),
        ("a list with a changed byte", with("device_list", flip(&good["device_list"], 90)), ErrorCode::BadSignature),
        ("somebody else's list", with("device_list", json!(foreign_list)), ErrorCode::Validation),
        ("no list", with("device_list", Value::Null), ErrorCode::Validation),
        ("no identity", with("identity_key", Value::Null), ErrorCode::Validation),
        ("a weak identity", with("identity_key", json!(Blob(vec![0; 32]))), ErrorCode::BadSignature),
        ("a short identity", with("identity_key", json!(Blob(vec![9; 31]))), ErrorCode::Validation),
        ("another device id", with("device_id", json!(2)), ErrorCode::Validation),
        ("device 0", with("device_id", json!(0)), ErrorCode::Validation),
        ("no name", with("name", json!("")), ErrorCode::Validation),
        ("a name that turns the line around", with("name", json!("a\u{202e}b")), ErrorCode::Validation),
        ("a changed prekey", nested("signed_prekey", "created_ms", json!(1)), ErrorCode::BadSignature),
        ("prekey 0", nested("signed_prekey", "id", json!(0)), ErrorCode::Validation),
        ("a one-time key as the last one", nested("last_kem_prekey", "kind", json!(1)), ErrorCode::Validation),
        ("a changed ML-KEM key", nested("last_kem_prekey", "id", json!(7)), ErrorCode::BadSignature),
        ("an unknown field", with("admin", json!(true)), ErrorCode::UnknownField),
        ("a reset without the password", with("reset", json!(true)), ErrorCode::Validation),
    ] {
        let answer = device.post("/devices", &request).await;
        assert_eq!(answer.status, code.status(), "{what}: {}", answer.body);
        answer.refused(code);
    }
    server.anon().post("/devices", &good).await.refused(ErrorCode::Unauthenticated);
    stranger.post("/devices", &good).await.refused(ErrorCode::Validation);
    // Nothing of all that was kept.
    let devices: Page<Listed> = device.get("/devices").await.ok(200);
    assert!(devices.items.is_empty());
    let _: DeviceSession = device.post("/devices", &good).await.ok(201);
}

#[tokio::test]
async fn a_second_device_enters_by_the_signed_list_and_a_removed_one_is_out_at_once() {
    let server = TestServer::start().await;
    let mut alice = server.device("alice").await;
    let phone = alice.linked().await;
    let devices: Page<Listed> = phone.get("/devices").await.ok(200);
    assert_eq!(devices.items.iter().map(|d| (d.device_id, d.current)).collect::<Vec<_>>(), [(1, false), (2, true)]);

    // The first device removes the second: the list must not name it, be the next one, and be signed.
    let still = alice.next_list(&[alice.local.certificate(), phone.local.certificate()]);
    alice.delete_with("/devices/2", &lists(still.as_bytes())).await.refused(ErrorCode::Validation);
    let without = alice.next_list(&[alice.local.certificate()]);
    alice.delete_with("/devices/9", &lists(without.as_bytes())).await.refused(ErrorCode::NotFound);
    server.device("mallory").await.delete_with("/devices/2", &lists(without.as_bytes())).await.refused(ErrorCode::Validation);
    alice.delete_with("/devices/2", &lists(without.as_bytes())).await.is(204);
    alice.delete_with("/devices/2", &lists(without.as_bytes())).await.is(204);

    phone.get("/account").await.refused(ErrorCode::Unauthenticated);
    phone
        .user
        .anon
        .post("/auth/refresh", &json!({ "refresh_token": phone.user.tokens.refresh_token }))
        .await
        .refused(ErrorCode::Unauthenticated);
    let devices: Page<Listed> = alice.get("/devices").await.ok(200);
    assert_eq!(devices.items.len(), 1);
    // It cannot come back under its old id with other keys, nor with its old list.
    let session = server.anon().login("alice").await;
    let old = alice.next_list(&[alice.local.certificate(), phone.local.certificate()]);
    session.post("/devices/lists", &lists(old.as_bytes())).await.refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn one_list_wins_each_place_and_the_same_bytes_again_succeed() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let second = alice.sibling(2);
    let other = alice.sibling(2);
    let ours = alice.next_list(&[alice.local.certificate(), second.certificate()]);
    let theirs = alice.next_list(&[alice.local.certificate(), other.certificate()]);
    let body = |list: &chat::crypto::device_list::DeviceList, certificates: Vec<Blob>| json!({ "device_list": Blob::from(list.as_bytes()), "certificates": certificates });
    let cert = |device: &LocalDevice| Blob::from(*device.certificate().as_bytes());

    alice.post("/devices/lists", &body(&ours, vec![])).await.refused(ErrorCode::Validation);
    let head: ListHead = alice.post("/devices/lists", &body(&ours, vec![cert(&second)])).await.ok(201);
    assert_eq!(head.head_seq, 2);
    let again: ListHead = alice.post("/devices/lists", &body(&ours, vec![cert(&second)])).await.ok(201);
    assert_eq!(again.head_seq, 2);
    let details = alice.post("/devices/lists", &body(&theirs, vec![cert(&other)])).await.refused(ErrorCode::Conflict);
    assert_eq!(details, json!({ "head_seq": 2 }));

    // The next list with device 2 as another device: the id is taken for ever.
    let secret = alice.local.identity_secret().unwrap();
    let user = *alice.id().as_bytes();
    let swapped = chat::crypto::device_list::DeviceList::sign(
        secret,
        user,
        Some(&ours),
        &[alice.local.certificate(), other.certificate()],
        now_ms(),
    )
    .unwrap();
    alice.post("/devices/lists", &body(&swapped, vec![cert(&other)])).await.refused(ErrorCode::BadSignature);
    // A gap.
    let ahead = chat::crypto::device_list::DeviceList::sign(secret, user, Some(&swapped), &[alice.local.certificate()], now_ms())
        .unwrap();
    alice.post("/devices/lists", &body(&ahead, vec![])).await.refused(ErrorCode::Conflict);
    // A session without a device may bring what the identity signed, and a stranger may not.
    let session = server.anon().login("alice").await;
    let next =
        chat::crypto::device_list::DeviceList::sign(secret, user, Some(&ours), &[alice.local.certificate()], now_ms()).unwrap();
    server.device("mallory").await.post("/devices/lists", &body(&next, vec![])).await.refused(ErrorCode::Validation);
    let head: ListHead = session.post("/devices/lists", &body(&next, vec![])).await.ok(201);
    assert_eq!(head.head_seq, 3);
    server.user("nobody").await.post("/devices/lists", &body(&next, vec![])).await.refused(ErrorCode::Validation);
}

#[tokio::test]
async fn a_linked_device_registers_without_a_list_when_the_newest_names_it() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let local = alice.sibling(2);
    let list = alice.next_list(&[alice.local.certificate(), local.certificate()]);
    let session = server.anon().login("alice").await;
    let mut phone = Device { user: session, local, keys: PrekeySecrets::default(), list: list.clone() };
    let request = phone.registration(1, 1);
    phone.post("/devices", &request).await.refused(ErrorCode::Validation);
    let certificates = vec![Blob::from(*phone.local.certificate().as_bytes())];
    let _: ListHead = alice
        .post("/devices/lists", &json!({ "device_list": Blob::from(list.as_bytes()), "certificates": certificates }))
        .await
        .ok(201);
    phone.register(&request).await;
    // A session is one device.
    let mut third = Device { user: phone.user.clone(), local: alice.sibling(3), keys: PrekeySecrets::default(), list };
    let request = third.registration(1, 1);
    third.post("/devices", &request).await.refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn a_password_alone_does_not_take_a_device_over_but_its_signature_does() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let login = server.anon().login("alice").await;
    let session: Page<chat::protocol::auth::Session> = login.get("/account/sessions").await.ok(200);
    let current = session.items.iter().find(|session| session.current).unwrap().id;
    let sign = |device: &LocalDevice| json!({ "signature": Blob::from(device.sign_login(current.as_bytes())) });

    login.get("/keys/prekeys/count").await.refused(ErrorCode::Forbidden);
    login.post("/devices/1/session", &sign(&alice.sibling(1))).await.refused(ErrorCode::BadSignature);
    login.post("/devices/1/session", &json!({ "signature": Blob(vec![0; 64]) })).await.refused(ErrorCode::BadSignature);
    login.post("/devices/1/session", &json!({ "signature": Blob(vec![0; 63]) })).await.refused(ErrorCode::Validation);
    login.post("/devices/2/session", &sign(&alice.local)).await.refused(ErrorCode::NotFound);
    login.post("/devices/x/session", &sign(&alice.local)).await.refused(ErrorCode::NotFound);
    // A signature over another session is worth nothing here.
    let other = json!({ "signature": Blob::from(alice.local.sign_login(&[7; 16])) });
    login.post("/devices/1/session", &other).await.refused(ErrorCode::BadSignature);
    server.device("mallory").await.post("/devices/1/session", &sign(&alice.local)).await.refused(ErrorCode::BadSignature);

    let bound: DeviceSession = login.post("/devices/1/session", &sign(&alice.local)).await.ok(200);
    let login = login.with_tokens(bound.tokens);
    assert_eq!(login.get("/keys/prekeys/count").await.status, 200);
}

#[tokio::test]
async fn an_identity_reset_needs_the_password_and_ends_the_old_devices() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let old = hex::encode(chat::server::device_lists::fingerprint(alice.local.identity()));
    let session = server.anon().login("alice").await;
    let mut fresh = unregistered(session);
    let mut request = first_request(&mut fresh);
    fresh.post("/devices", &request).await.refused(ErrorCode::Conflict);
    request["reset"] = json!(true);
    request["password"] = json!("not the password");
    fresh.post("/devices", &request).await.refused(ErrorCode::InvalidCredentials);
    request["password"] = json!(PASSWORD);
    let answer: DeviceSession = fresh.post("/devices", &request).await.ok(201);
    fresh.user.tokens = answer.tokens;
    alice.get("/account").await.refused(ErrorCode::Unauthenticated);

    // The new identity is the current one; the old one is served for ever.
    let path = format!("/users/{}/devices", fresh.id());
    let now: UserDevices = fresh.get(&path).await.ok(200);
    assert_eq!(now.identity_key, Some(Blob::from(*fresh.local.identity().as_bytes())));
    let before: UserDevices = fresh.get(&format!("{path}?uik={old}")).await.ok(200);
    assert_eq!((before.identity_key, before.lists.len()), (Some(Blob::from(*alice.local.identity().as_bytes())), 1));
    fresh.get(&format!("{path}?uik={}", "00".repeat(32))).await.refused(ErrorCode::NotFound);
    fresh.get(&format!("{path}?uik=xyz")).await.refused(ErrorCode::Validation);
    // Nobody goes back to it.
    let login = server.anon().login("alice").await;
    let mut back = Device { user: login, local: alice.local, keys: PrekeySecrets::default(), list: alice.list };
    let mut request = first_request(&mut back);
    request["reset"] = json!(true);
    request["password"] = json!(PASSWORD);
    back.post("/devices", &request).await.refused(ErrorCode::Conflict);
}

#[tokio::test]
async fn lists_of_many_people_come_in_one_answer() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.device("alice").await, server.device("bob").await);
    let _phone = alice.linked().await;
    let stranger = uuid::Uuid::now_v7().to_string();
    let body = json!({ "after": { alice.id().to_string(): 1, bob.id().to_string(): 0, stranger: 0 } });
    let answer: ByUser<UserDevices> = bob.post("/users/devices", &body).await.ok(200);
    assert_eq!(answer.items.len(), 2);
    assert_eq!((answer.items[&alice.id()].lists.len(), answer.items[&alice.id()].head_seq), (1, 2));
    assert_eq!(answer.items[&alice.id()].certificates.len(), 2);
    let many: serde_json::Map<String, Value> = (0..101).map(|_| (uuid::Uuid::now_v7().to_string(), json!(0))).collect();
    bob.post("/users/devices", &json!({ "after": many })).await.refused(ErrorCode::Validation);
    // 600 users a minute.
    let hundred: serde_json::Map<String, Value> = (0..100).map(|_| (uuid::Uuid::now_v7().to_string(), json!(0))).collect();
    for _ in 0..5 {
        let _: Value = bob.post("/users/devices", &json!({ "after": hundred })).await.ok(200);
    }
    bob.post("/users/devices", &json!({ "after": hundred })).await.refused(ErrorCode::RateLimited);
}

#[tokio::test]
async fn whoever_shares_a_dm_hears_of_a_new_device() {
    let server = TestServer::start().await;
    let (mut alice, bob, carol) = (server.device("alice").await, server.device("bob").await, server.device("carol").await);
    let _: Value = bob.put(&format!("/contacts/{}", alice.id()), &json!({})).await.ok(200);
    let _: Value = alice.post("/dms", &json!({ "user_id": bob.id() })).await.ok(201);
    let _phone = alice.linked().await;
    let heard = |events: Vec<Value>| {
        events.iter().any(|e| e["kind"] == "device_list" && e["user_id"] == json!(alice.id()) && e["list_seq"] == 2)
    };
    assert!(heard(server.events(bob.id().0).await));
    assert!(heard(server.events(alice.id().0).await));
    assert!(!heard(server.events(carol.id().0).await));
}
