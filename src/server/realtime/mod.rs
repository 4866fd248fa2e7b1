//! Delivery: from a send to every WebSocket that may hear it.

pub mod hub;
pub mod queue;
