//! The way to the server: REST calls and one WebSocket. [`Net`] is the real one, [`memory`] joins a client with a scripted
//! peer in the same process. This room knows frames and bytes, nothing of keys, stores or what a frame means.
//!
//! Start with [`Transport`]; [`http`] and [`ws`] are its two halves, [`tls`] what they trust.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::future::BoxFuture;
use reqwest::Url;
use tokio::sync::mpsc;

use super::engine::{Answer, Method};
use super::model::{Problem, ProblemKind};
use crate::protocol::auth::SecretText;
use crate::protocol::codec::Encoding;
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::{ClientFrame, Ready, ServerFrame, close};

pub mod http;
pub mod memory;
pub mod tls;
pub mod ws;

/// Frames that wait in either direction of one connection. Full towards us, the socket is not read and the server closes
/// with 4008; full towards the server, the driver drops the connection. Either way the cursors resume it.
pub const QUEUE: usize = 256;

/// One REST call.
#[derive(Clone)]
pub struct Call {
    pub method: Method,
    /// Below `/api/v1`, with its query.
    pub path: String,
    /// JSON.
    pub body: Option<Vec<u8>>,
    pub bearer: Option<SecretText>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, body, bearer } = self;
        f.debug_struct("Call")
            .field("method", method)
            .field("path", path)
            .field("body", &body.as_ref().map(Vec::len))
            .field("bearer", &bearer.is_some())
            .finish()
    }
}

/// What carries calls and frames.
pub trait Transport: Send + Sync + 'static {
    /// One call; any status is an answer. Never repeats anything by itself.
    fn http(&self, call: Call) -> BoxFuture<'_, Result<Answer, TransportError>>;

    /// Opens a WebSocket, authenticates it and waits for `ready`.
    fn connect(&self, token: SecretText) -> BoxFuture<'_, Result<Connection, ConnectError>>;
}

/// An open, authenticated WebSocket. Dropping `outgoing` closes it.
#[derive(Debug)]
pub struct Connection {
    pub ready: Ready,
    pub outgoing: mpsc::Sender<ClientFrame>,
    /// Ends with [`Incoming::Closed`].
    pub incoming: mpsc::Receiver<Incoming>,
}

#[derive(Debug)]
pub enum Incoming {
    Frame(ServerFrame),
    /// Round trip of a ping, milliseconds.
    Latency(u32),
    /// The last one.
    Closed(Close),
}

/// How a connection ended, and so what to do next (`docs/PROTOCOL.md` 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// 4001: renew the token and try once more.
    Unauthenticated,
    /// 4003: the session is gone; do not retry.
    Revoked,
    /// 4008: resume.
    TooSlow,
    /// 4009: another connection of this device took its place.
    Replaced,
    /// 4012: resume after so many milliseconds.
    GoingAway { retry_after_ms: u64 },
    /// 4029: we sent too fast.
    Flooding,
    /// 1007, 1009: the server did not understand us.
    BadFrame(String),
    /// Anything else: the line broke, or nobody answered.
    Broken(String),
}

impl Close {
    /// From a close frame.
    pub fn from_code(code: u16, reason: &str) -> Self {
        match code {
            close::UNAUTHENTICATED => Self::Unauthenticated,
            close::REVOKED => Self::Revoked,
            close::TOO_SLOW => Self::TooSlow,
            close::REPLACED => Self::Replaced,
            close::GOING_AWAY => Self::GoingAway { retry_after_ms: first_number(reason).unwrap_or(1000).min(60_000) },
            close::FLOODING => Self::Flooding,
            close::BAD_FRAME | close::TOO_BIG => Self::BadFrame(reason.to_owned()),
            _ if reason.is_empty() => Self::Broken(format!("the server closed the connection ({code})")),
            _ => Self::Broken(format!("the server closed the connection ({code}: {reason})")),
        }
    }
}

/// The reason of 4012 is text around one number of milliseconds.
fn first_number(text: &str) -> Option<u64> {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server answered and refused.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
    /// It closed before `ready`.
    #[error("the server closed the connection")]
    Closed(Close),
}

/// No answer came; whether a request was performed is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TransportError {
    pub kind: Failure,
    /// For people, without the address: "connection refused".
    pub why: String,
}

impl TransportError {
    pub fn new(kind: Failure, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    /// What to tell a person who tries to reach that server.
    pub fn problem(&self, server: &str) -> Problem {
        let Self { kind, why } = self;
        match kind {
            Failure::Unreachable => Problem::new(ProblemKind::Network, format!("cannot reach {server}: {why}"))
                .hint("Check the address and your network; the server may be down."),
            Failure::Tls => Problem::new(ProblemKind::Network, format!("no secure connection to {server}: {why}")).hint(
                "The certificate is not trusted, has expired, or is of another name. A private authority: set SSL_CERT_FILE \
                 to its certificate. A server on this machine: use http://localhost.",
            ),
            Failure::Timeout => Problem::new(ProblemKind::Network, format!("{server} does not answer: {why}"))
                .hint("Try again later; nothing was lost."),
            Failure::NotChat => Problem::new(ProblemKind::Network, format!("{server} is not a chat server: {why}"))
                .hint("Check the address and the port."),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Unreachable,
    Tls,
    Timeout,
    /// Something else answers there.
    NotChat,
}

/// An address of a server: scheme, host and port, nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

impl ServerUrl {
    /// From what a person typed: `chat.example.org`, `https://chat.example.org:8443`, `localhost:8080`. Without a scheme it is
    /// https, for a loopback address http.
    ///
    /// # Errors
    /// When it is no address, or plain http to another machine and `plain` does not allow that.
    pub fn parse(text: &str, plain: bool) -> Result<Self, Problem> {
        let text = text.trim();
        let wrong = |what: &str| {
            Problem::new(ProblemKind::Usage, format!("`{text}` is no server address: {what}"))
                .hint("Write it like chat.example.org or https://chat.example.org:8443.")
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        let parsed = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
        let mut url = parsed.map_err(|error| wrong(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Without repeating it: it may be in front of others, or in a log.
            return Err(Problem::new(ProblemKind::Usage, "the server address has no place for a user or password")
                .hint("Write it like chat.example.org or https://chat.example.org:8443."));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("it needs a host"));
        }
        let loopback = is_loopback(&url);
        if !text.contains("://") && loopback {
            url.set_scheme("http").map_err(|()| wrong("bad scheme"))?;
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback || plain => {}
            "http" => {
                return Err(Problem::new(
                    ProblemKind::Usage,
                    format!("plain http to {text} would show your password to the network"),
                )
                .hint("Use https. For a network that you trust: `client.allow_http = true` in the configuration."));
            }
            _ => return Err(wrong("only https and http")),
        }
        // An invite link names its server too.
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare && !url.path().starts_with("/i/") {
            return Err(wrong("a server has a host and a port of its own, without a path"));
        }
        url.set_path("/");
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// The address below `/api/v1`; `path` begins with a slash.
    pub fn api(&self, path: &str) -> Result<Url, TransportError> {
        let text = format!("{}{}{path}", self.origin(), crate::protocol::BASE_PATH);
        Url::parse(&text).map_err(|error| TransportError::new(Failure::Unreachable, format!("bad address: {error}")))
    }

    /// `https://chat.example.org`, without a slash at the end.
    pub fn origin(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.origin())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.origin())
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// reqwest and tokio-tungstenite.
#[derive(Clone)]
pub struct Net {
    server: ServerUrl,
    http: http::Http,
    tls: std::sync::Arc<rustls::ClientConfig>,
    encoding: Encoding,
}

impl Net {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(server: ServerUrl, encoding: Encoding) -> Result<Self, Problem> {
        let tls = tls::config()?;
        let http = http::Http::new(server.clone(), (*tls).clone())?;
        Ok(Self { server, http, tls, encoding })
    }

    pub const fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// A WebSocket as [`Transport::connect`] opens it, for whoever moves the frames themselves.
    ///
    /// # Errors
    /// As [`Transport::connect`].
    pub async fn open(&self, token: SecretText) -> Result<(ws::Socket, Ready), ConnectError> {
        ws::open(&self.server, self.tls.clone(), self.encoding, token).await
    }
}

impl Transport for Net {
    fn http(&self, call: Call) -> BoxFuture<'_, Result<Answer, TransportError>> {
        Box::pin(self.http.call(call))
    }

    fn connect(&self, token: SecretText) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        Box::pin(ws::connect(&self.server, self.tls.clone(), self.encoding, token))
    }
}

#[cfg(test)]
mod net_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_scheme_that_protects_it() {
        for (text, origin) in [
            ("chat.example.org", "https://chat.example.org"),
            (" https://chat.example.org:8443/ ", "https://chat.example.org:8443"),
            ("https://chat.example.org/i/CODE?x#y", "https://chat.example.org"),
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("https://localhost", "https://localhost"),
        ] {
            assert_eq!(ServerUrl::parse(text, false).unwrap().origin(), origin, "{text}");
        }
        for path in ["/chat", "/?x", "/#y"] {
            let problem = ServerUrl::parse(&format!("https://example.org{path}"), false).unwrap_err();
            assert!(problem.text.raw().contains("without a path"), "{path}: {problem:?}");
        }
        for bad in ["", "http://chat.example.org", "ftp://x", "https://", "https://u:p@x", "a b", "http://127.0.0.1.evil.org"] {
            assert_eq!(ServerUrl::parse(bad, false).unwrap_err().kind, ProblemKind::Usage, "{bad}");
        }
        assert_eq!(ServerUrl::parse("http://intranet", true).unwrap().origin(), "http://intranet");
    }

    #[test]
    fn close_codes_mean_what_the_protocol_says() {
        assert_eq!(Close::from_code(4001, ""), Close::Unauthenticated);
        assert_eq!(Close::from_code(4003, "x"), Close::Revoked);
        assert_eq!(Close::from_code(4008, ""), Close::TooSlow);
        assert_eq!(Close::from_code(4009, ""), Close::Replaced);
        for reason in ["1500", "retry_after_ms=1500", "{\"retry_after_ms\":1500}"] {
            assert_eq!(Close::from_code(4012, reason), Close::GoingAway { retry_after_ms: 1500 }, "{reason}");
        }
        assert_eq!(Close::from_code(4012, ""), Close::GoingAway { retry_after_ms: 1000 });
        assert_eq!(Close::from_code(4012, "99999999999999999999"), Close::GoingAway { retry_after_ms: 1000 });
        assert_eq!(Close::from_code(4029, ""), Close::Flooding);
        assert_eq!(Close::from_code(1009, "big"), Close::BadFrame("big".into()));
        assert!(matches!(Close::from_code(1011, "x"), Close::Broken(_)));
    }
}
