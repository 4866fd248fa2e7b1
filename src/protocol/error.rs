//! The one error body of the interface and its codes (`docs/PROTOCOL.md` section 1).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($name:ident = $text:literal, $status:literal;)+) => {
        /// A stable code: what a program decides on. Unknown codes of a newer server become [`ErrorCode::Unknown`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum ErrorCode {
            $(#[serde(rename = $text)] $name,)+
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl ErrorCode {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ Self::Unknown => "unknown" }
            }

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ Self::Unknown => 500 }
            }
        }
    };
}

codes! {
    InvalidRequest = "invalid_request", 400;
    UnknownField = "unknown_field", 400;
    Validation = "validation", 400;
    Unauthenticated = "unauthenticated", 401;
    InvalidCredentials = "invalid_credentials", 401;
    TotpRequired = "totp_required", 401;
    TokenExpired = "token_expired", 401;
    Forbidden = "forbidden", 403;
    Suspended = "suspended", 403;
    Banned = "banned", 403;
    TimedOut = "timed_out", 403;
    ReadOnly = "read_only", 403;
    Archived = "archived", 403;
    Blocked = "blocked", 403;
    NotFound = "not_found", 404;
    Conflict = "conflict", 409;
    UsernameTaken = "username_taken", 409;
    IdReused = "id_reused", 409;
    StaleDevices = "stale_devices", 409;
    StaleLog = "stale_log", 409;
    TooLarge = "too_large", 413;
    UnsupportedMedia = "unsupported_media", 415;
    BadSignature = "bad_signature", 422;
    RateLimited = "rate_limited", 429;
    SlowMode = "slow_mode", 429;
    Internal = "internal", 500;
    Unavailable = "unavailable", 503;
    OutcomeUnknown = "outcome_unknown", 503;
    QuotaExceeded = "quota_exceeded", 507;
}

/// Every answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorInfo,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorInfo {
    pub code: ErrorCode,
    /// For people, in English; never a cause inside the server.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_server_is_unknown_and_not_an_error() {
        assert_eq!(serde_json::from_str::<ErrorCode>("\"brand_new\"").unwrap(), ErrorCode::Unknown);
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{}\"", code.as_str()));
        }
    }
}
