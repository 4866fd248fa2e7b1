//! Crashes, cuts and full queues.

mod commit;
mod expiry;
mod schema;
mod torture;
