//! TC/1, the end-to-end protocol of `docs/CRYPTO.md`, section by section. Pure: bytes, keys, time and randomness come in;
//! bytes, the next state and a typed error go out. No clock, no global randomness, no socket, no file, no await.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)]

pub mod aead;
pub mod content;
pub mod dh;
pub mod error;
pub mod identity;
pub mod kdf;
pub mod labels;
pub mod membership;
pub mod padding;
pub mod ratchet;
pub mod secret;
pub mod signature;
pub mod vault;
pub mod wire;

pub use error::Error;

/// Milliseconds since the Unix epoch, UTC.
pub type Time = u64;
