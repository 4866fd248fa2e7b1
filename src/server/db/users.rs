//! Accounts, contacts, blocks and registration invites.

use crate::protocol::users::InstanceRole;

/// From the column.
pub fn instance_role(text: &str) -> InstanceRole {
    match text {
        "owner" => InstanceRole::Owner,
        "admin" => InstanceRole::Admin,
        _ => InstanceRole::User,
    }
}
