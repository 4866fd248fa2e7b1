//! Crashes, cuts and full queues.

mod schema;
