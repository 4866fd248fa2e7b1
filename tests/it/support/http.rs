//! Requests and their answers: [`Http`] has the verbs, for whoever has a path and perhaps a token.

use std::time::Duration;

use chat::protocol::error::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One for each server: connections are kept and belong to the runtime of the test.
pub fn client() -> reqwest::Client {
    // Plain HTTP, but the client wants to know that TLS would be possible.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap()
}

/// Nobody in particular.
#[derive(Clone)]
pub struct Anon {
    base: String,
    http: reqwest::Client,
}

impl Anon {
    /// Of any server.
    pub fn at(url: &str) -> Self {
        Self { base: format!("{url}/api/v1"), http: client() }
    }
}

/// What the server said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    /// Null without a body.
    pub body: Value,
}

impl Answer {
    /// The body of an answer with this status; 204 has none.
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(status != 204 || self.body.is_null(), "{}", self.body);
        self.body
    }

    /// The same as a type of the protocol.
    #[track_caller]
    pub fn ok<T: DeserializeOwned>(self, status: u16) -> T {
        let body = self.is(status);
        serde_json::from_value(body.clone()).unwrap_or_else(|e| panic!("{e}: {body}"))
    }

    /// Refused with this code, with the status that belongs to it and all that an error has; answers the details.
    #[track_caller]
    pub fn refused(self, code: ErrorCode) -> Value {
        let body: ErrorBody = serde_json::from_value(self.body.clone()).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!((self.status, body.error.code), (code.status(), code), "{}", self.body);
        assert!(!body.error.message.is_empty() && self.body.as_object().is_some_and(|all| all.len() == 1), "{}", self.body);
        body.error.details.unwrap_or(Value::Null)
    }
}

pub trait Http {
    fn anon(&self) -> &Anon;
    fn token(&self) -> Option<&str>;

    /// After every request, with whether it may have changed something.
    async fn answered(&self, _answer: &Answer, _changes: bool) {}

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.anon().http.request(method, format!("{}{path}", self.anon().base));
        match self.token() {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let changes = !request.method().is_safe();
        let response = self.anon().http.execute(request).await.unwrap();
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        let answer = Answer { status, retry_after, body };
        self.answered(&answer, changes).await;
        answer
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path);
        self.send(if let Some(body) = body { request.json(body) } else { request }).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    async fn post(&self, path: &str, body: impl Serialize) -> Answer {
        self.send(self.request("POST", path).json(&body)).await
    }

    async fn put(&self, path: &str, body: impl Serialize) -> Answer {
        self.send(self.request("PUT", path).json(&body)).await
    }

    async fn patch(&self, path: &str, body: impl Serialize) -> Answer {
        self.send(self.request("PATCH", path).json(&body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    async fn delete_with(&self, path: &str, body: impl Serialize) -> Answer {
        self.send(self.request("DELETE", path).json(&body)).await
    }
}

impl Http for Anon {
    fn anon(&self) -> &Anon {
        self
    }
    fn token(&self) -> Option<&str> {
        None
    }
}
