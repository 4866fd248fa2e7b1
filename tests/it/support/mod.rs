//! Servers, databases, identities and terminals for the tests.

pub mod account;
pub mod binary;
pub mod check;
pub mod checker;
pub mod database;
pub mod fake;
pub mod http;
pub mod op;
pub mod person;
pub mod proxy;
pub mod pty;
pub mod room;
pub mod server;
pub mod ws;
