//! What operators and programs ask first, and the frame around every route.

use chat::protocol::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::http::Http as _;
use crate::support::server::TestServer;

async fn get(server: &TestServer, path: &str) -> (u16, Value) {
    let response = reqwest::get(server.url(path)).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn the_server_says_that_it_lives_is_ready_and_which_version_it_is() {
    let server = TestServer::start().await;
    let anon = server.anon();
    let config: Value = anon.get("/auth/config").await.ok(200);
    assert_eq!((&config["protocol"], &config["registration"]), (&json!(1), &json!("open")));
    assert_eq!(config["limits"]["username_max"], 32);
    assert!(config["server_time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(get(&server, "/health").await.0, 200);
    assert_eq!(get(&server, "/ready").await.0, 200);
    let (status, version) = get(&server, "/version").await;
    assert_eq!((status, &version["protocol"]), (200, &json!(1)));
}

#[tokio::test]
async fn every_route_is_described_with_its_errors_login_and_ids() {
    let server = TestServer::start().await;
    let (status, document) = get(&server, "/api/v1/openapi.json").await;
    assert_eq!(status, 200);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/v1/devices") && paths.contains_key("/health"));
    let mut ids = std::collections::HashSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["responses"]["default"].is_object(), "{what}");
            let named: Vec<&str> =
                operation["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
            let in_path = operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{what}: what is in the path");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}: its operationId is taken");
            for id in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                assert!(named.contains(&id), "{what}: {id}");
            }
            // Whatever is described exists: without a login it answers 401 or, where none is needed, something else than 404.
            let request = server.anon().request(&method.to_uppercase(), path.strip_prefix("/api/v1").unwrap_or("/auth/config"));
            if operation["security"][0].get("bearer").is_some() {
                server.anon().send(request).await.refused(ErrorCode::Unauthenticated);
            }
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_description_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let server = TestServer::start().await;
    let (_, document) = get(&server, "/api/v1/openapi.json").await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn unknown_paths_methods_bodies_and_media_types_get_the_error_body() {
    let server = TestServer::start().await;
    let anon = server.anon();
    anon.get("/nowhere").await.refused(ErrorCode::NotFound);
    anon.get("/users/../../etc").await.refused(ErrorCode::NotFound);
    assert_eq!(anon.get("/auth/login").await.status, 405);
    let send = |body: &'static str, media: &'static str| {
        anon.send(anon.request("POST", "/auth/login").header("content-type", media).body(body))
    };
    send("{}", "text/plain").await.refused(ErrorCode::UnsupportedMedia);
    send("{", "application/json").await.refused(ErrorCode::InvalidRequest);
    send("{}", "application/json; charset=utf-8").await.refused(ErrorCode::InvalidRequest);
    send("[[[[", "application/json").await.refused(ErrorCode::InvalidRequest);
    let details = send(r#"{"username":"a","password":"b","x":1}"#, "application/json").await.refused(ErrorCode::UnknownField);
    assert_eq!(details, json!({ "field": "x" }));
    send(r#"{"username":"a","username":"b","password":"c"}"#, "application/json").await.refused(ErrorCode::InvalidRequest);
    let deep = "[".repeat(100_000);
    anon.send(anon.request("POST", "/auth/login").header("content-type", "application/json").body(deep))
        .await
        .refused(ErrorCode::InvalidRequest);
    let big = format!(r#"{{"username":"ann","password":"{}"}}"#, "x".repeat(1024 * 1024));
    anon.send(anon.request("POST", "/auth/login").header("content-type", "application/json").body(big))
        .await
        .refused(ErrorCode::TooLarge);
}

#[tokio::test]
async fn a_flood_from_one_address_is_told_when_to_come_back() {
    let server = TestServer::start_with(|config| {
        config.limits.requests_per_s = 1;
        config.limits.requests_burst = 5;
        config.trusted_proxies = vec![];
    })
    .await;
    let anon = server.anon();
    for _ in 0..5 {
        assert_eq!(anon.get("/auth/config").await.status, 200);
    }
    // A forged header does not make another address of it.
    let answer = anon.send(anon.request("GET", "/auth/config").header("x-forwarded-for", "9.9.9.9")).await;
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    let details = answer.refused(ErrorCode::RateLimited);
    assert!((1..=1000).contains(&details["retry_after_ms"].as_u64().unwrap()));
}

#[tokio::test]
async fn a_proxy_that_is_trusted_speaks_for_its_clients() {
    let server = TestServer::start_with(|config| {
        config.limits.requests_per_s = 1;
        config.limits.requests_burst = 1;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let anon = server.anon();
    let from = |address: &'static str| anon.send(anon.request("GET", "/auth/config").header("x-forwarded-for", address));
    assert_eq!(from("9.9.9.1").await.status, 200);
    assert_eq!(from("9.9.9.2").await.status, 200);
    from("9.9.9.1").await.refused(ErrorCode::RateLimited);
}

#[tokio::test]
async fn a_database_that_went_away_is_503_and_comes_back_without_a_restart() {
    let server = TestServer::start().await;
    let user = server.user("alice").await;
    server.database.refuse_connections(true).await;
    user.get("/account").await.refused(ErrorCode::Unavailable);
    assert_eq!(get(&server, "/ready").await.0, 503);
    assert_eq!(get(&server, "/health").await.0, 200);
    server.database.refuse_connections(false).await;
    let mut answer = user.get("/account").await;
    // A pooled connection may notice only now that it is dead.
    for _ in 0..20 {
        if answer.status == 200 {
            break;
        }
        answer = user.get("/account").await;
    }
    assert_eq!(answer.status, 200);
}
