//! The one error of the interface. Queries return `QueryResult`, handlers [`ApiError`], everything else `anyhow`.
//!
//! A client sees a stable code and a sentence; the cause of an internal error is logged once, here, and never sent.

use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::protocol::error::{ErrorBody, ErrorCode, ErrorInfo};

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    pub details: Option<Value>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    #[must_use]
    pub fn with_details(mut self, details: impl serde::Serialize) -> Self {
        self.details = serde_json::to_value(details).ok();
        self
    }

    /// The body is not what the route takes.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// What serde says of a value that is not of the protocol, at a place of the request (`copies[0].nonce`). Of serde's text only
    /// names of fields are repeated: it holds values too.
    pub fn malformed(cause: &str, place: &str) -> Self {
        let named = |beginning| cause.strip_prefix(beginning).and_then(|rest: &str| rest.split('`').next());
        if let Some(field) = named("unknown field `") {
            let unknown = Self::new(ErrorCode::UnknownField, format!("unknown field {field:?}"));
            return unknown.with_details(json!({ "field": field }));
        }
        Self::invalid_request(match named("missing field `") {
            Some(field) => format!("the field {field:?} is missing"),
            None => format!("{place} has a wrong type or value"),
        })
    }

    /// A value is out of its bounds; `details` names the field.
    pub fn validation(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let details = json!({ field: message });
        Self::new(ErrorCode::Validation, format!("{field}: {message}")).with_details(details)
    }

    pub fn unauthenticated() -> Self {
        Self::new(ErrorCode::Unauthenticated, "log in first")
    }

    /// One text for every way in which a login can be wrong.
    pub fn invalid_credentials() -> Self {
        Self::new(ErrorCode::InvalidCredentials, "wrong username or password")
    }

    pub fn token_expired() -> Self {
        Self::new(ErrorCode::TokenExpired, "the access token has expired: refresh it")
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    pub fn suspended() -> Self {
        Self::new(ErrorCode::Suspended, "this account is suspended")
    }

    /// The same body whether the thing does not exist or the caller may not see it.
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "not found")
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    pub fn bad_signature(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadSignature, message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(ErrorCode::TooLarge, format!("at most {limit} bytes")).with_details(json!({ "limit": limit }))
    }

    pub fn rate_limited(after: Duration) -> Self {
        Self::retry(ErrorCode::RateLimited, "too many requests", after)
    }

    /// The same request may succeed later.
    pub fn unavailable() -> Self {
        Self::new(ErrorCode::Unavailable, "the server cannot answer right now: try again")
    }

    /// The connection to the database broke during the commit.
    pub fn outcome_unknown() -> Self {
        Self::new(ErrorCode::OutcomeUnknown, "it is not known whether this was done: send the same bytes again")
    }

    /// 429 with its wait, rounded up to a millisecond.
    pub fn retry(code: ErrorCode, message: &str, after: Duration) -> Self {
        let ms = u64::try_from(after.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        Self::new(code, message).with_details(json!({ "retry_after_ms": ms }))
    }

    /// A fault of the server: logged here with its cause, told without it.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(cause = %cause, "internal error");
        Self::new(ErrorCode::Internal, "the server has a fault; it was logged")
    }

    pub fn retry_after_ms(&self) -> Option<u64> {
        self.details.as_ref()?.get("retry_after_ms")?.as_u64()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let seconds =
            self.retry_after_ms().map(|ms| ms.div_ceil(1000)).or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(1));
        let body = ErrorBody { error: ErrorInfo { code: self.code, message: self.message, details: self.details } };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
