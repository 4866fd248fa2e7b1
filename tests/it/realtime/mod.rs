//! Delivery over real WebSockets: sending, reading, resuming, and what ends a connection.

mod connections;
mod direct;
mod resume;
mod rights;
mod sending;
