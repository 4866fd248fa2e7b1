//! `KDF_RK`: the step of the root chain (7.1). Each Diffie-Hellman result between fresh ratchet keys heals the session.

use zeroize::Zeroizing;

use super::super::kdf;
use super::super::labels;
use super::super::secret::Secret;
use super::chain::ChainKey;

/// RK.
pub(super) type RootKey = Secret<32>;

/// `KDF(salt = rk, ikm = dh, LBL("tc/1 dr-root"), 64)` -> rk' 32 ‖ ck 32.
pub(super) fn step(root: &RootKey, shared: &Secret<32>) -> (RootKey, ChainKey) {
    let mut prk = Zeroizing::new([0; 32]);
    let mut both = Zeroizing::new([0; 64]);
    kdf::Prf::new(root.expose()).write(&[shared.expose()], &mut prk);
    kdf::Prf::new(&*prk).expand(&[labels::RATCHET_ROOT.as_bytes()], &mut both);
    let (next, chain) = both.split_at(32);
    (Secret::fill(|key| key.copy_from_slice(next)), Secret::fill(|key| key.copy_from_slice(chain)))
}
