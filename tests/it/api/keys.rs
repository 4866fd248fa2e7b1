//! Prekeys and bundles: given out once, to those who may write to their owner.

use std::collections::BTreeSet;

use chat::protocol::codec::Blob;
use chat::protocol::devices::UserDevices;
use chat::protocol::error::ErrorCode;
use chat::protocol::ids::UserId;
use chat::protocol::keys::{ByUser, PrekeyCounts, UploadPrekeys, UserBundles};
use serde_json::{Value, json};

use crate::support::account::{Device, kem_prekey, now_ms, rng, signed_prekey};
use crate::support::http::Http as _;
use crate::support::server::TestServer;

/// Makes `who` a contact of `of`, so that `who` may ask for bundles.
async fn befriend(of: &Device, who: &Device) {
    let _: Value = of.put(&format!("/contacts/{}", who.id()), &json!({})).await.ok(200);
}

fn path(id: UserId) -> String {
    format!("/users/{id}/bundles")
}

#[tokio::test]
async fn a_bundle_has_one_of_each_key_and_falls_back_to_the_last_one() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.device("alice").await, server.device("bob").await);
    befriend(&alice, &bob).await;
    // Three one-time and two ML-KEM keys were registered.
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer: UserBundles = bob.post(&path(alice.id()), &json!({})).await.ok(200);
        assert_eq!(answer.device_list, Blob::from(alice.list.as_bytes()));
        let [bundle] = answer.bundles.as_slice() else { panic!("one device") };
        assert_eq!(bundle.certificate, Blob::from(*alice.local.certificate().as_bytes()));
        seen.push((bundle.one_time_prekey.as_ref().map(|key| key.id), bundle.kem_prekey.kind, bundle.kem_prekey.id));
    }
    assert_eq!(seen, [(Some(1), 1, 1), (Some(2), 1, 2), (Some(3), 2, 1), (None, 2, 1)]);
    let counts: PrekeyCounts = alice.get("/keys/prekeys/count").await.ok(200);
    assert_eq!((counts.one_time, counts.kem), (0, 0));
    assert!(counts.signed_created_ms > 0 && counts.last_kem_created_ms > 0);

    let upload = UploadPrekeys {
        one_time_prekeys: alice.one_time_prekeys(2),
        kem_prekeys: alice.kem_prekeys(1),
        ..UploadPrekeys::default()
    };
    let counts: PrekeyCounts = alice.post("/keys/prekeys", &upload).await.ok(200);
    assert_eq!((counts.one_time, counts.kem), (2, 1));
    // Ids are never used again, also not with the same key.
    alice.post("/keys/prekeys", &upload).await.refused(ErrorCode::Validation);
    let counts: PrekeyCounts = alice.get("/keys/prekeys/count").await.ok(200);
    assert_eq!((counts.one_time, counts.kem), (2, 1), "a refused upload stores nothing");
}

#[tokio::test]
async fn a_one_time_key_is_never_given_out_twice_under_concurrency() {
    let server = TestServer::start().await;
    let mut alice = server.device("alice").await;
    let upload = UploadPrekeys { one_time_prekeys: alice.one_time_prekeys(37), ..UploadPrekeys::default() };
    let counts: PrekeyCounts = alice.post("/keys/prekeys", &upload).await.ok(200);
    assert_eq!(counts.one_time, 40);
    let mut people = Vec::new();
    for i in 0..6 {
        let person = server.device(&format!("person{i}")).await;
        befriend(&alice, &person).await;
        people.push(person);
    }
    let (bundles, empty) = (path(alice.id()), json!({}));
    let requests = people.iter().flat_map(|person| (0..8).map(|_| person.post(&bundles, &empty)));
    let answers = futures_util::future::join_all(requests).await;
    let mut ids = Vec::new();
    let mut kem = Vec::new();
    for answer in answers {
        let answer: UserBundles = answer.ok(200);
        ids.extend(answer.bundles[0].one_time_prekey.as_ref().map(|key| key.id));
        kem.extend((answer.bundles[0].kem_prekey.kind == 1).then_some(answer.bundles[0].kem_prekey.id));
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    assert_eq!((ids.len(), kem.len()), (40, 2));
}

#[tokio::test]
async fn bundles_are_for_those_who_may_write_and_ten_an_hour() {
    let server = TestServer::start().await;
    let (alice, bob, carol) = (server.device("alice").await, server.device("bob").await, server.device("carol").await);
    befriend(&alice, &bob).await;
    let stranger = carol.post(&path(alice.id()), &json!({})).await;
    let nobody = carol.post(&path(uuid::Uuid::now_v7().into()), &json!({})).await;
    assert_eq!((stranger.status, &stranger.body), (404, &nobody.body), "a stranger does not learn who exists");
    server.anon().post(&path(alice.id()), &json!({})).await.refused(ErrorCode::Unauthenticated);
    server.anon().login("bob").await.post(&path(alice.id()), &json!({})).await.refused(ErrorCode::Forbidden);
    // To have somebody as a contact opens nothing.
    befriend(&carol, &alice).await;
    carol.post(&path(alice.id()), &json!({})).await.refused(ErrorCode::NotFound);
    for _ in 0..10 {
        let _: UserBundles = bob.post(&path(alice.id()), &json!({})).await.ok(200);
    }
    let wait = bob.post(&path(alice.id()), &json!({})).await.refused(ErrorCode::RateLimited);
    assert!(wait["retry_after_ms"].as_u64().unwrap() > 60_000);
}

#[tokio::test]
async fn the_own_devices_but_this_one_and_named_devices_can_be_asked_for() {
    let server = TestServer::start().await;
    let mut alice = server.device("alice").await;
    let own: UserBundles = alice.post(&path(alice.id()), &json!({})).await.ok(200);
    assert!(own.bundles.is_empty());
    let phone = alice.linked().await;
    let own: UserBundles = alice.post(&path(alice.id()), &json!({})).await.ok(200);
    assert_eq!(own.bundles.iter().map(|b| b.device_id).collect::<Vec<_>>(), [2]);
    let named: UserBundles = phone.post(&path(alice.id()), &json!({ "device_ids": [1, 7] })).await.ok(200);
    assert_eq!(named.bundles.iter().map(|b| b.device_id).collect::<Vec<_>>(), [1]);
    let bob = server.device("bob").await;
    befriend(&alice, &bob).await;
    let body = json!({ "devices": { alice.id().to_string(): [], uuid::Uuid::now_v7().to_string(): [] } });
    let many: ByUser<UserBundles> = bob.post("/users/bundles", &body).await.ok(200);
    assert_eq!(many.items.len(), 1);
    assert_eq!(many.items[&alice.id()].bundles.len(), 2);
    let too_many: serde_json::Map<String, Value> = (0..101).map(|_| (uuid::Uuid::now_v7().to_string(), json!([]))).collect();
    bob.post("/users/bundles", &json!({ "devices": too_many })).await.refused(ErrorCode::Validation);
    bob.post(&path(alice.id()), &json!({ "device_ids": (1..100).collect::<Vec<u32>>() })).await.refused(ErrorCode::Validation);
}

#[tokio::test]
async fn uploads_are_checked_and_bounded() {
    let server = TestServer::start().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device("bob").await;
    let (signed, last) = alice.keys.rotate(&alice.local, now_ms(), &mut rng()).unwrap();
    let good = UploadPrekeys {
        signed_prekey: Some(signed_prekey(&signed)),
        last_kem_prekey: Some(kem_prekey(&last)),
        ..UploadPrekeys::default()
    };
    bob.post("/keys/prekeys", &good).await.refused(ErrorCode::BadSignature);
    let _: PrekeyCounts = alice.post("/keys/prekeys", &good).await.ok(200);
    befriend(&alice, &bob).await;
    let bundle: UserBundles = bob.post(&path(alice.id()), &json!({})).await.ok(200);
    assert_eq!(bundle.bundles[0].signed_prekey.id, 2, "the newest signed prekey is given out");

    // The keys of the last resort and for one use are not interchangeable.
    let mut swapped = UploadPrekeys { kem_prekeys: alice.kem_prekeys(1), ..UploadPrekeys::default() };
    swapped.kem_prekeys[0].kind = 2;
    alice.post("/keys/prekeys", &swapped).await.refused(ErrorCode::Validation);
    let mut broken = UploadPrekeys { kem_prekeys: alice.kem_prekeys(1), ..UploadPrekeys::default() };
    broken.kem_prekeys[0].public_key.0[0..3].copy_from_slice(&[0xff, 0xff, 0xff]);
    alice.post("/keys/prekeys", &broken).await.refused(ErrorCode::BadSignature);
    for weak in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let mut upload = UploadPrekeys { one_time_prekeys: alice.one_time_prekeys(1), ..UploadPrekeys::default() };
        upload.one_time_prekeys[0].public_key = Blob::from(weak);
        alice.post("/keys/prekeys", &upload).await.refused(ErrorCode::BadSignature);
    }
    let surplus = UploadPrekeys { one_time_prekeys: bob.one_time_prekeys(98), ..UploadPrekeys::default() };
    bob.post("/keys/prekeys", &surplus).await.refused(ErrorCode::Validation);
    let flood = UploadPrekeys { one_time_prekeys: bob.one_time_prekeys(101), ..UploadPrekeys::default() };
    bob.post("/keys/prekeys", &flood).await.refused(ErrorCode::Validation);
    let counts: PrekeyCounts = bob.get("/keys/prekeys/count").await.ok(200);
    assert_eq!(counts.one_time, 3);
}

#[tokio::test]
async fn who_was_asked_too_often_does_not_spend_the_turns_of_others() {
    let server = TestServer::start().await;
    let (alice, bob, carol) = (server.device("alice").await, server.device("bob").await, server.device("carol").await);
    befriend(&alice, &carol).await;
    befriend(&bob, &carol).await;
    for _ in 0..10 {
        let _: UserBundles = carol.post(&path(alice.id()), &json!({})).await.ok(200);
    }
    carol.post(&path(alice.id()), &json!({})).await.refused(ErrorCode::RateLimited);
    let both = json!({ "devices": { alice.id().to_string(): [], bob.id().to_string(): [] } });
    for _ in 0..10 {
        let answer: ByUser<UserBundles> = carol.post("/users/bundles", &both).await.ok(200);
        assert_eq!(answer.items.keys().collect::<Vec<_>>(), [&bob.id()]);
    }
    carol.post("/users/bundles", &both).await.refused(ErrorCode::RateLimited);
}

#[tokio::test]
async fn bundles_and_lists_of_many_cost_no_more_questions_than_those_of_few() {
    let server = TestServer::start().await;
    let asker = server.device("asker").await;
    let mut people = Vec::new();
    for i in 0..5 {
        let mut person = server.device(&format!("person{i}")).await;
        befriend(&person, &asker).await;
        let phone = person.linked().await;
        people.push((person, phone));
    }
    let words = ["prekeys", "device_lists", "identities", "certificates", "devices", "contacts"];
    let mut costs = Vec::new();
    for count in [1, 5] {
        let ids = || people[..count].iter().map(|(person, _)| person.id().to_string());
        let before = server.proxy.asked(&words);
        let wanted: Value = ids().map(|id| (id, json!([]))).collect::<serde_json::Map<_, _>>().into();
        let bundles: ByUser<UserBundles> = asker.post("/users/bundles", &json!({ "devices": wanted })).await.ok(200);
        let between = server.proxy.asked(&words);
        let wanted: Value = ids().map(|id| (id, json!(0))).collect::<serde_json::Map<_, _>>().into();
        let lists: ByUser<UserDevices> = asker.post("/users/devices", &json!({ "after": wanted })).await.ok(200);
        costs.push((between - before, server.proxy.asked(&words) - between));
        for (person, phone) in &people[..count] {
            let bundles = &bundles.items[&person.id()];
            let [first, second] = bundles.bundles.as_slice() else { panic!("two devices: {bundles:?}") };
            assert_eq!((first.device_id, second.device_id), (1, 2));
            assert_eq!(first.certificate, Blob::from(*person.local.certificate().as_bytes()));
            assert_eq!(second.certificate, Blob::from(*phone.local.certificate().as_bytes()));
            assert_eq!(bundles.device_list, Blob::from(person.list.as_bytes()));
            let lists = &lists.items[&person.id()];
            assert_eq!((lists.lists.len(), lists.certificates.len(), lists.head_seq), (2, 2, 2));
            assert_eq!(lists.lists[1], Blob::from(person.list.as_bytes()));
        }
    }
    assert_eq!(costs[0], costs[1], "(bundles, lists) of one and of five people");
    assert!(costs[0].0 <= 6 && costs[0].1 <= 5, "{costs:?}");
}
