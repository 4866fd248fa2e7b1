//! TC/1, the end-to-end protocol of `docs/CRYPTO.md`, section by section. Pure: bytes, keys, time and randomness come in;
//! bytes, the next state and a typed error go out. No clock, no global randomness, no socket, no file, no await.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)]
pub mod padding;
