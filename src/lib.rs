//! One crate, four rooms and two front doors. The arrows are the only ones that exist; `tests/it/tidy.rs` checks them:
//!
//! ```text
//! protocol, crypto  ←  client  ←  tui, cli            server  →  protocol, and of crypto only crypto::verify
//! ```
//!
//! `docs/ARCHITECTURE.md` is the map; read the rooms in the order below.

pub mod protocol;

pub mod crypto;

pub mod client;

pub mod server;

pub mod tui;

pub mod cli;
pub mod config;
