//! `KDF_CK`: the step of a symmetric chain. The same step drives the chains of a DM (7.1) and of a sender key (12.3).

use super::super::kdf::Prf;
use super::super::secret::Secret;

/// Derives one message and is never used for anything else.
pub type MessageKey = Secret<32>;
/// Derives the next message key and the next chain key.
pub type ChainKey = Secret<32>;

/// `mk = HMAC(ck, 0x01)` and `ck' = HMAC(ck, 0x02)`.
pub fn step(chain: &ChainKey) -> (MessageKey, ChainKey) {
    let prf = Prf::new(chain.expose());
    (Secret::fill(|mk| prf.write(&[&[1]], mk)), Secret::fill(|ck| prf.write(&[&[2]], ck)))
}
