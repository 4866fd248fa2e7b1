//! Servers, databases, identities and terminals for the tests.

pub mod database;
