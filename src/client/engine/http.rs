//! Questions to the server and where their answers belong. The driver answers every request once, with whatever came.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::model::{Problem, ProblemKind};
use crate::client::store::StoreError;
use crate::protocol::error::{ErrorBody, ErrorCode};
use crate::protocol::ids::{LogId, UserId};
use crate::protocol::messages::RetryAfter;

use super::commands::Errand;
use super::io::{Answer, HttpTag, Method, Output, Request, Unreachable};
use super::snapshot::Load;
use super::{Cx, Engine};

/// Why a request was made.
#[derive(Debug)]
pub(super) enum Question {
    OwnIdentity,
    Register,
    TakeDevice,
    Sync {
        inbox_only: bool,
    },
    Load(Load),
    /// Device lists: of these users, after their pins.
    Lists(Vec<UserId>),
    /// Device lists of one user under an identity that is not the pinned one.
    ListsOf {
        user_id: UserId,
        identity: [u8; 32],
    },
    Bundles(Vec<UserId>),
    LogOps(LogId),
    PrekeyCounts,
    /// With how many more one-time prekeys of either kind are to follow.
    PrekeyUpload(u32, u32),
    /// An outbox entry that is too big for the WebSocket.
    Outbox(u64),
    /// A step of a command.
    Errand(Box<Errand>),
}

/// The open questions.
#[derive(Debug, Default)]
pub(super) struct Http {
    last: u64,
    open: BTreeMap<HttpTag, Question>,
}

impl Http {
    /// Whether nothing is asked but what a command asks.
    pub(super) fn is_quiet(&self) -> bool {
        self.open.values().all(|question| matches!(question, Question::Errand(_)))
    }
}

/// The body of a success.
#[derive(Debug)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn is_json(&self) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(&self.0).is_ok()
    }

    /// None when it is not of that shape.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.0).ok()
    }
}

/// What came instead of a success.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// No answer: whether it was performed is unknown.
    Unreachable(String),
    Refused {
        status: u16,
        code: ErrorCode,
        message: String,
        details: Option<serde_json::Value>,
    },
    /// A success that says nothing that can be understood.
    Garbled,
}

impl Failure {
    /// Asking the same again is of no use.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Garbled => false,
            Self::Refused { status, code, .. } => {
                *status < 500
                    && !matches!(
                        code,
                        ErrorCode::RateLimited | ErrorCode::SlowMode | ErrorCode::Unauthenticated | ErrorCode::TokenExpired
                    )
            }
        }
    }

    pub(super) fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Refused { details: Some(details), .. } => {
                serde_json::from_value::<RetryAfter>(details.clone()).ok().map(|after| after.retry_after_ms)
            }
            _ => None,
        }
    }

    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(super) fn details<T: DeserializeOwned>(&self) -> Option<T> {
        match self {
            Self::Refused { details: Some(details), .. } => serde_json::from_value(details.clone()).ok(),
            _ => None,
        }
    }

    /// For the user.
    pub(super) fn problem(&self) -> Problem {
        match self {
            Self::Unreachable(why) => Problem::new(ProblemKind::Network, format!("The server cannot be reached: {why}"))
                .hint("Nothing was lost. Try again when the line is up."),
            Self::Garbled => Problem::new(ProblemKind::Failed, "The server's answer cannot be understood.")
                .hint("The server may need an update."),
            Self::Refused { code, message, .. } => {
                let kind = match code {
                    ErrorCode::NotFound => ProblemKind::NotFound,
                    ErrorCode::Unauthenticated
                    | ErrorCode::InvalidCredentials
                    | ErrorCode::TokenExpired
                    | ErrorCode::TotpRequired => ProblemKind::Auth,
                    ErrorCode::Forbidden
                    | ErrorCode::Banned
                    | ErrorCode::Suspended
                    | ErrorCode::TimedOut
                    | ErrorCode::ReadOnly
                    | ErrorCode::Archived
                    | ErrorCode::Blocked => ProblemKind::Permission,
                    ErrorCode::RateLimited | ErrorCode::SlowMode => ProblemKind::RateLimited,
                    ErrorCode::Unavailable | ErrorCode::OutcomeUnknown => ProblemKind::Network,
                    ErrorCode::BadSignature => ProblemKind::Crypto,
                    _ => ProblemKind::Failed,
                };
                Problem::new(kind, message.as_str())
            }
        }
    }
}

/// A JSON body. The protocol's types always encode.
pub(super) fn json<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

/// One part of a query, percent-encoded.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn outcome(answer: Result<Answer, Unreachable>) -> Result<Body, Failure> {
    match answer {
        Err(Unreachable { why }) => Err(Failure::Unreachable(why)),
        Ok(Answer { status: 200..=299, body }) => Ok(Body(body)),
        Ok(Answer { status, body }) => Err(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => {
                Failure::Refused { status, code: error.code, message: error.message, details: error.details }
            }
            Err(_) => Failure::Refused {
                status,
                code: if status >= 500 { ErrorCode::Unavailable } else { ErrorCode::Unknown },
                message: format!("The server refused with HTTP status {status}."),
                details: None,
            },
        }),
    }
}

fn parsed<T: DeserializeOwned>(answer: Result<Body, Failure>) -> Result<T, Failure> {
    answer.and_then(|body| body.parse().ok_or(Failure::Garbled))
}

impl Engine {
    pub(super) fn ask(
        &mut self,
        cx: &mut Cx<'_>,
        question: Question,
        method: Method,
        path: impl Into<String>,
        body: Option<Vec<u8>>,
    ) {
        self.http.last += 1;
        let tag = HttpTag(self.http.last);
        self.http.open.insert(tag, question);
        cx.out.push(Output::Http(Request { tag, method, path: path.into(), body }));
    }

    pub(super) fn on_http(
        &mut self,
        cx: &mut Cx<'_>,
        tag: HttpTag,
        answer: Result<Answer, Unreachable>,
    ) -> Result<(), StoreError> {
        let Some(question) = self.http.open.remove(&tag) else { return Ok(()) };
        let answer = outcome(answer);
        if answer.is_ok() {
            self.timers.line_works();
        }
        match question {
            Question::OwnIdentity => self.on_own_identity(cx, parsed(answer)),
            Question::Register => self.on_registered(cx, parsed(answer)),
            Question::TakeDevice => self.on_device_taken(cx, parsed(answer)),
            Question::Sync { inbox_only } => self.on_sync(cx, inbox_only, parsed(answer)),
            Question::Load(load) => self.on_load(cx, load, answer),
            Question::Lists(users) => self.on_lists(cx, &users, parsed(answer)),
            Question::ListsOf { user_id, identity } => self.on_lists_of(cx, user_id, identity, parsed(answer)),
            Question::Bundles(users) => self.on_bundles(cx, &users, parsed(answer)),
            Question::LogOps(log_id) => self.on_log_ops(cx, log_id, parsed(answer)),
            Question::PrekeyCounts => self.on_prekey_counts(cx, parsed(answer)),
            Question::PrekeyUpload(one_time, kem) => self.on_prekey_upload(cx, one_time, kem, parsed(answer)),
            Question::Outbox(order) => self.on_outbox_answer(cx, order, answer),
            Question::Errand(errand) => self.on_errand(cx, *errand, answer),
        }
    }
}
