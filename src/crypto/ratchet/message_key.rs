//! `MSG`: what one message is sealed with (7.1, 12.3). The random wire nonce is part of the derivation, so a state that was
//! restored from a snapshot never seals twice under one (key, nonce); the commitment binds a frame to one key (R14, R15).

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::aead;
use super::super::error::Error;
use super::super::kdf::Prf;
use super::super::labels::Label;
use super::super::secret::Secret;
use super::chain::MessageKey;

/// key 32 ‖ nonce 12 ‖ commit 32.
pub struct MessageKeys {
    key: Secret<32>,
    nonce: [u8; 12],
    commit: [u8; 32],
}

impl MessageKeys {
    /// `MSG(label, mk, wn) = EXPAND(mk, LBL(label) ‖ wn, 76)`.
    pub fn derive(label: Label, message_key: &MessageKey, wire_nonce: &[u8; 12]) -> Self {
        let mut all = Zeroizing::new([0; 76]);
        Prf::new(message_key.expose()).expand(&[label.as_bytes(), wire_nonce], &mut all);
        let (mut nonce, mut commit) = ([0; 12], [0; 32]);
        let (key, rest) = all.split_at(32);
        let (start, end) = rest.split_at(12);
        nonce.copy_from_slice(start);
        commit.copy_from_slice(end);
        Self { key: Secret::fill(|bytes| bytes.copy_from_slice(key)), nonce, commit }
    }

    /// The key commitment, which stands in the frame before the ciphertext.
    pub const fn commit(&self) -> &[u8; 32] {
        &self.commit
    }

    /// Seals `frame[start..]` in place and appends the tag.
    ///
    /// # Errors
    /// As [`aead::seal_in_place`]; not for the sizes of a frame.
    pub fn seal_in_place(&self, ad: &[u8], frame: &mut Vec<u8>, start: usize) -> Result<(), Error> {
        aead::seal_in_place(self.key.expose(), &self.nonce, ad, frame, start)
    }

    /// Compares the commitment in constant time, then opens ciphertext ‖ tag. The result is still padded.
    ///
    /// # Errors
    /// `Undecryptable`, for both.
    pub fn open(&self, commit: &[u8; 32], ad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        if bool::from(self.commit.ct_eq(commit)) {
            aead::open(self.key.expose(), &self.nonce, ad, sealed)
        } else {
            Err(Error::Undecryptable)
        }
    }
}

impl fmt::Debug for MessageKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: _, nonce: _, commit: _ } = self;
        f.debug_struct("MessageKeys").finish_non_exhaustive()
    }
}
