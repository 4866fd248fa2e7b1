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

#[tokio::test]
async fn what_one_announces_to_everybody_has_a_rate() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.device("alice").await, server.user("bob").await);
    let rename = |n: usize| json!({ "display_name": format!("Alice {n}") });
    // Her first device was the first of 60 at once; what shows nothing counts nothing.
    let _: Profile = alice.patch("/account", &json!({ "status": "dnd" })).await.ok(200);
    for n in 1..60 {
        let _: Profile = alice.patch("/account", &rename(n)).await.ok(200);
    }
    let answer = alice.patch("/account", &rename(60)).await;
    let seconds: u64 = answer.retry_after.as_deref().unwrap().parse().unwrap();
    let wait = answer.refused(ErrorCode::RateLimited)["retry_after_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&wait) && seconds == wait.div_ceil(1000), "{wait} ms, {seconds} s");
    // Device lists and devices have the same one.
    let list = alice.next_list(&[alice.local.certificate()]);
    let list = json!({ "device_list": chat::protocol::codec::Blob::from(list.as_bytes()), "certificates": [] });
    alice.post("/devices/lists", &list).await.refused(ErrorCode::RateLimited);
    alice.delete_with("/devices/1", &json!({ "device_list": list["device_list"] })).await.refused(ErrorCode::RateLimited);
    let registration = alice.registration(1, 1);
    alice.post("/devices", &registration).await.refused(ErrorCode::RateLimited);
    let _: Profile = alice.patch("/account", &json!({ "status": "idle" })).await.ok(200);
    let _: Profile = bob.patch("/account", &rename(0)).await.ok(200);
}

#[tokio::test]
async fn contacts_blocks_and_logins_come_in_pages_and_are_bounded() {
    let server = TestServer::start().await;
    let alice = server.user("alice").await;
    let sql = server.database.client().await;
    let made = "INSERT INTO users (id, username, username_skeleton, password_hash)
                SELECT gen_random_uuid(), 'user' || n, 'user' || n, '-' FROM generate_series(1, 1000) n";
    sql.batch_execute(made).await.unwrap();
    for table in ["contacts (user_id, contact_id)", "blocks (user_id, blocked_id)"] {
        let filled = format!("INSERT INTO {table} SELECT $1, id FROM users WHERE id <> $1");
        assert_eq!(sql.execute(&filled, &[&alice.id().0]).await.unwrap(), 1000);
    }
    // Logins of long ago, of which each has a token.
    let old = "INSERT INTO sessions (id, user_id, ip, last_used_at)
               SELECT gen_random_uuid(), $1, '192.0.2.1', now() - n * interval '1 day' FROM generate_series(1, 130) n";
    sql.execute(old, &[&alice.id().0]).await.unwrap();
    let tokens = "INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
                  SELECT uuid_send(id), id, now() + interval '1 day' FROM sessions WHERE ip = '192.0.2.1'";
    sql.batch_execute(tokens).await.unwrap();
    for (path, id, count) in
        [("/contacts", "/user/id", 1000), ("/account/blocks", "/id", 1000), ("/account/sessions", "/id", 131usize)]
    {
        let mut seen = std::collections::BTreeSet::new();
        let (mut cursor, mut pages) = (String::new(), 0);
        loop {
            let page: Value = alice.get(&format!("{path}?limit=100{cursor}")).await.ok(200);
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|item| item.pointer(id).unwrap().as_str().unwrap().to_owned()));
            pages += 1;
            let Some(next) = page["next_cursor"].as_str() else { break };
            assert_eq!(items.len(), 100, "{path}");
            cursor = format!("&cursor={next}");
        }
        assert_eq!((seen.len(), pages), (count, count.div_ceil(100)), "{path}");
        let page: Page<Value> = alice.get(path).await.ok(200);
        assert_eq!(page.items.len(), 50, "{path}");
        alice.get(&format!("{path}?limit=0")).await.refused(ErrorCode::Validation);
        alice.get(&format!("{path}?limit=101")).await.refused(ErrorCode::Validation);
        alice.get(&format!("{path}?cursor=nonsense")).await.refused(ErrorCode::Validation);
        alice.get(&format!("{path}?foo=1")).await.refused(ErrorCode::InvalidRequest);
    }
    let bob = server.user("bob").await;
    alice.put(&format!("/contacts/{}", bob.id()), &json!({})).await.refused(ErrorCode::Conflict);
    alice.put(&format!("/users/{}/block", bob.id()), &json!({})).await.refused(ErrorCode::Conflict);
    // One more login ends those that were not used for longest.
    server.anon().login("alice").await;
    assert_eq!(
        server.database.column("SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND ip = '192.0.2.1'").await,
        ["98"]
    );
    assert_eq!(alice.get("/account").await.status, 200);
}
