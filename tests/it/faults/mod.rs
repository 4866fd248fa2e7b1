//! Crashes, cuts and full queues.
