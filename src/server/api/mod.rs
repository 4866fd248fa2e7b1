//! One file for each noun: `routes()`, handlers, and what they check. Request and answer types are in `protocol`,
//! queries in the file of the same noun in `db`. No `diesel` here.

pub mod account;
pub mod admin;
pub mod auth;
pub mod channels;
pub mod communities;
pub mod devices;
pub mod dms;
pub mod groups;
pub mod health;
pub mod invites;
pub mod keys;
pub mod logs;
pub mod members;
pub mod messages;
pub mod sync;
pub mod users;
pub mod ws;

use uuid::Uuid;

use super::error::{ApiError, ApiResult};

/// An id that the client made (`docs/PROTOCOL.md` 1).
///
/// # Errors
/// 400 `validation` unless it is a UUIDv7.
pub fn made_id(id: Uuid) -> ApiResult<Uuid> {
    if id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122 {
        Ok(id)
    } else {
        Err(ApiError::validation("id", "must be a UUIDv7"))
    }
}

/// 409 `conflict` with the limit.
pub fn limit_reached(what: &str, limit: usize) -> ApiError {
    ApiError::conflict(format!("at most {limit} {what}")).with_details(serde_json::json!({ "limit": limit }))
}
