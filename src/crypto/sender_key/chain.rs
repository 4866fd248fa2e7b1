//! What sending and receiving have in common (TC/1 section 12.3): the keys of one message, what is authenticated, what is signed.

use super::super::frame::ChannelFrame;
use super::super::membership::{Hash, Identity};
use super::super::ratchet::chain::MessageKey;
use super::super::ratchet::message_key::MessageKeys;
use super::super::{kdf, labels};

/// `MSG("tc/1 sk-msg", mk, wn)`.
pub(super) fn message_keys(key: &MessageKey, wire_nonce: &[u8; 12]) -> MessageKeys {
    MessageKeys::derive(labels::SENDER_KEY_MESSAGE, key, wire_nonce)
}

/// The associated data: the head at the frame's epoch binds a message to one view of the members (rule R19).
pub(super) fn associated_data(head: &Hash, sender: &Identity, header: &[u8], commit: &[u8; 32]) -> Vec<u8> {
    [labels::CHANNEL.as_bytes(), head, sender, header, commit].concat()
}

/// What the chain's key signs: a hash, so that a signature costs the same for every size.
pub(super) fn signed_hash(head: &Hash, header: &[u8], wire_nonce: &[u8; 12], commit: &[u8; 32], sealed: &[u8]) -> Hash {
    kdf::hash(&[head, header, wire_nonce, commit, sealed])
}

/// As [`signed_hash`], of a received frame.
pub(super) fn signed_hash_of(frame: &ChannelFrame<'_>, head: &Hash, wire_nonce: &[u8; 12]) -> Hash {
    signed_hash(head, frame.header, wire_nonce, frame.commit, frame.sealed)
}
