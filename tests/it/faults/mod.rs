//! Crashes, cuts and full queues.

mod expiry;
mod commit;
mod schema;
mod torture;
