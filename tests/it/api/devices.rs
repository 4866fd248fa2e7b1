//! Devices and their signed lists: who may become one, what the server refuses, and who hears of it.

use chat::crypto::identity::LocalDevice;
use chat::crypto::prekeys::PrekeySecrets;
use chat::protocol::codec::Blob;
use chat::protocol::devices::{Device as Listed, DeviceSession, ListHead, UserDevices};
use chat::protocol::error::ErrorCode;
use chat::protocol::keys::ByUser;
use chat::protocol::users::Page;
use serde_json::{Value, json};

use crate::support::server::{Device, Http as _, PASSWORD, TestServer, User, now_ms, rng};

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
