//! Crashes, cuts and full queues.

mod expiry;
mod schema;
