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
pub mod messages;
pub mod sync;
pub mod users;
pub mod ws;
