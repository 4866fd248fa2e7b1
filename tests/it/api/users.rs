//! The own profile, other people, contacts and blocks.

use chat::protocol::error::ErrorCode;
use chat::protocol::users::{Contact, Page, Status, User as Profile};
use serde_json::{Value, json};

use crate::support::account::PASSWORD;
use crate::support::http::Http as _;
use crate::support::server::TestServer;

#[tokio::test]
async fn a_profile_changes_field_by_field() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let changes = json!({ "display_name": "Alice", "bio": "line one\nline two", "status": "invisible" });
    let me: Profile = alice.patch("/account", &changes).await.ok(200);
    assert_eq!((me.display_name.as_deref(), me.status), (Some("Alice"), Status::Invisible));
    let me: Profile = alice.patch("/account", &json!({ "display_name": "", "bio": null })).await.ok(200);
    assert_eq!((me.display_name, me.bio.as_deref()), (None, Some("line one\nline two")));
    let seen: Profile = bob.get(&format!("/users/{}", alice.id())).await.ok(200);
    assert_eq!(seen.status, Status::Offline, "who is invisible looks offline");
    let unchanged: Profile = alice.patch("/account", &json!({})).await.ok(200);
    assert_eq!(unchanged.status, Status::Invisible);
    for (field, value) in [
        ("display_name", "x".repeat(65)),
        ("bio", "x".repeat(2001)),
        ("custom_status", "\u{7}".to_owned()),
        ("pronouns", "a\nb".to_owned()),
    ] {
        let details = alice.patch("/account", &json!({ field: value })).await.refused(ErrorCode::Validation);
        assert!(details[field].is_string());
    }
    for status in ["offline", "frobnicate"] {
        alice.patch("/account", &json!({ "status": status })).await.refused(ErrorCode::Validation);
    }
    alice.patch("/account", &json!({ "instance_role": "owner" })).await.refused(ErrorCode::UnknownField);
    server.anon().patch("/account", &json!({})).await.refused(ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn preferences_are_kept_as_they_are_and_bounded() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    let empty: Value = alice.get("/account/preferences").await.ok(200);
    assert_eq!(empty, json!({}));
    let preferences = json!({ "theme": "dark", "escaped": "\\u0000", "nested": [1, 2, { "x": null }] });
    alice.put("/account/preferences", &preferences).await.is(204);
    let kept: Value = alice.get("/account/preferences").await.ok(200);
    assert_eq!(kept, preferences);
    alice.put("/account/preferences", &json!({ "x": "y".repeat(17_000) })).await.refused(ErrorCode::TooLarge);
    alice.put("/account/preferences", &json!({ "x": [{ "\u{0}": 1 }] })).await.refused(ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn people_are_found_by_prefix_where_one_is_together_and_by_exact_name_elsewhere() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bobby_tables").await);
    let find = async |text: &str| -> Vec<String> {
        let page: Page<Profile> = alice.get(&format!("/users/search?q={}", text.replace('%', "%25"))).await.ok(200);
        page.items.into_iter().map(|user| user.username).collect()
    };
    assert!(find("bob").await.is_empty());
    assert_eq!(find("bobby_tables").await, ["bobby_tables"]);
    let _: Value = bob.put(&format!("/contacts/{}", alice.id()), &json!({})).await.ok(200);
    let _: Value = alice.post("/dms", &json!({ "user_id": bob.id() })).await.ok(201);
    assert_eq!(find("bob").await, ["bobby_tables"]);
    assert!(find("%").await.is_empty() && find("_").await.is_empty() && find("b%s").await.is_empty(), "wildcards are letters");
    alice.get("/users/search?q=").await.refused(ErrorCode::Validation);
    alice.get("/users/search").await.refused(ErrorCode::InvalidRequest);
    alice.get("/users/search?q=x&limit=1000000000").await.refused(ErrorCode::Validation);
    server.anon().get("/users/search?q=bob").await.refused(ErrorCode::Unauthenticated);
    alice.get(&format!("/users/{}", uuid::Uuid::now_v7())).await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn contacts_are_the_own_list_and_reach_the_own_devices() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let path = format!("/contacts/{}", bob.id());
    let contact: Contact = alice.put(&path, &json!({ "display_name": "Bobby" })).await.ok(200);
    assert_eq!((contact.user.id, contact.display_name.as_deref()), (bob.id(), Some("Bobby")));
    let _: Contact = alice.put(&path, &json!({})).await.ok(200);
    let listed: Page<Contact> = alice.get("/contacts").await.ok(200);
    assert_eq!((listed.items.len(), listed.items[0].display_name.as_deref()), (1, None));
    let theirs: Page<Contact> = bob.get("/contacts").await.ok(200);
    assert!(theirs.items.is_empty());
    alice.delete(&path).await.is(204);
    alice.delete(&path).await.refused(ErrorCode::NotFound);
    alice.put(&format!("/contacts/{}", uuid::Uuid::now_v7()), &json!({})).await.refused(ErrorCode::NotFound);
    let kinds: Vec<String> = server.events(alice.id().0).await.iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["contact", "contact", "contact_removed"]);
    assert!(server.events(bob.id().0).await.is_empty(), "who is whose contact is told to nobody");
}

#[tokio::test]
async fn a_block_stops_dms_in_both_directions_until_it_is_lifted() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    for (a, b) in [(&alice, &bob), (&bob, &alice)] {
        let _: Contact = a.put(&format!("/contacts/{}", b.id()), &json!({})).await.ok(200);
    }
    let path = format!("/users/{}/block", bob.id());
    alice.put(&path, &json!({})).await.is(204);
    alice.put(&path, &json!({})).await.is(204);
    let blocked: Page<Profile> = alice.get("/account/blocks").await.ok(200);
    assert_eq!(blocked.items.len(), 1);
    for (a, b) in [(&alice, &bob), (&bob, &alice)] {
        assert!(a.post("/dms", &json!({ "user_id": b.id() })).await.status >= 400);
    }
    alice.delete(&path).await.is(204);
    let _: Value = bob.post("/dms", &json!({ "user_id": alice.id() })).await.ok(201);
    alice.put(&format!("/users/{}/block", alice.id()), &json!({})).await.refused(ErrorCode::Validation);
    alice.put(&format!("/users/{}/block", uuid::Uuid::now_v7()), &json!({})).await.refused(ErrorCode::NotFound);
}

#[tokio::test]
async fn a_deleted_account_is_gone_its_name_stays_taken_and_its_signatures_can_be_verified() {
    let server = TestServer::start().await;
    let (owner, bob) = (server.user("owner").await, server.device("bob").await);
    let password = |text: &str| json!({ "password": text });
    bob.delete_with("/account", &password("wrong")).await.refused(ErrorCode::InvalidCredentials);
    owner.delete_with("/account", &password(PASSWORD)).await.refused(ErrorCode::Conflict);
    bob.delete_with("/account", &password(PASSWORD)).await.is(204);
    bob.get("/account").await.refused(ErrorCode::Unauthenticated);
    let login = json!({ "username": "bob", "password": PASSWORD });
    server.anon().post("/auth/login", &login).await.refused(ErrorCode::InvalidCredentials);
    server.anon().post("/auth/register", &login).await.refused(ErrorCode::UsernameTaken);
    owner.get(&format!("/users/{}", bob.id())).await.refused(ErrorCode::NotFound);
    let lists: Value = owner.get(&format!("/users/{}/devices", bob.id())).await.ok(200);
    assert_eq!(lists["certificates"].as_array().unwrap().len(), 1);
}
