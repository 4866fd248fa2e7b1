//! The Double Ratchet of TC/1 section 7, without handshakes, identities or sessions.

pub mod chain;
pub mod message_key;
