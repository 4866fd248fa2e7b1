//! TC/1, the end-to-end protocol of `docs/CRYPTO.md`, section by section. Pure: bytes, keys, time and randomness come in;
//! bytes, the next state and a typed error go out. No clock, no global randomness, no socket, no file, no await.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)]

pub mod aead;
pub mod bundle;
pub mod cert;
pub mod contact;
pub mod content;
pub mod device_list;
pub mod dh;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod identity;
pub mod kdf;
pub mod kem;
pub mod labels;
pub mod membership;
pub mod padding;
pub mod prekeys;
pub mod ratchet;
pub mod safety_number;
pub mod secret;
pub mod sender_key;
pub mod session;
pub mod session_set;
pub mod signature;
pub mod vault;
pub mod verify;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;

pub use error::Error;

/// Milliseconds since the Unix epoch, UTC.
pub type Time = u64;
