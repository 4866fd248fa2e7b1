//! Servers, databases, identities and terminals for the tests.

pub mod api;
pub mod binary;
pub mod checker;
pub mod database;
pub mod fake;
pub mod live;
pub mod pty;
pub mod server;
pub mod ws;
