//! What client and server agree on: the serde types of `docs/PROTOCOL.md`, and nothing else.
//!
//! This room knows no database, no socket and no cryptography. Start with [`ids`] and [`codec`], then [`frame`] (the
//! WebSocket) and one file for each noun of the REST interface.

pub mod auth;
pub mod channels;
pub mod codec;
pub mod communities;
pub mod devices;
pub mod error;
pub mod frame;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod messages;
pub mod streams;
pub mod text;
pub mod users;

/// The version of this contract, answered by `GET /api/v1/auth/config`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Base path of the REST interface.
pub const BASE_PATH: &str = "/api/v1";
