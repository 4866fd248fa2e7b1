//! REST calls: one connection pool, a time limit and a size limit on everything, no redirects (a token must not follow one)
//! and no proxies.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use super::{Call, Failure, ServerUrl, TransportError};
use crate::client::engine::{Answer, Method};
use crate::client::model::{Problem, ProblemKind};

const CONNECT: Duration = Duration::from_secs(10);
/// Above the 25 s that the linking mailbox may hold a call.
const TOTAL: Duration = Duration::from_secs(40);
/// Longer answers are cut off. A page of history with its 200 rows of 64 KiB, and 100 frames of the inbox, are shorter.
pub const ANSWER_MAX: usize = 32 * 1024 * 1024;

/// See the module's documentation.
#[derive(Clone)]
pub struct Http {
    server: ServerUrl,
    client: reqwest::Client,
}

impl Http {
    /// # Errors
    /// When the TLS library refuses the configuration.
    pub fn new(server: ServerUrl, tls: rustls::ClientConfig) -> Result<Self, Problem> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("chat/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot set up HTTP: {}", cause(&error))))?;
        Ok(Self { server, client })
    }

    /// # Errors
    /// When no complete answer came.
    pub async fn call(&self, call: Call) -> Result<Answer, TransportError> {
        let method = match call.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = self.client.request(method, self.server.api(&call.path)?);
        if let Some(token) = call.bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.0))
                .map_err(|_| TransportError::new(Failure::NotChat, "the access token is no header value"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(body) = call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|error| classify(&error))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error))? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(TransportError::new(Failure::NotChat, "the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    }
}

fn classify(error: &reqwest::Error) -> TransportError {
    let why = cause(error);
    let kind = if error.is_timeout() {
        Failure::Timeout
    } else if is_tls(error) {
        Failure::Tls
    } else if error.is_connect() || error.is_request() || error.is_body() || error.is_decode() {
        Failure::Unreachable
    } else {
        Failure::NotChat
    };
    TransportError::new(kind, why)
}

/// The innermost cause: "Connection refused (os error 111)", not the whole chain with the address in it.
fn cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// Whether the TLS library is to blame.
pub(super) fn is_tls(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<rustls::Error>())
}

/// The error and what is behind it; what an i/o error wraps shows only through `get_ref`.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}
