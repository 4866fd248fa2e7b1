//! `KDF_RK`: the step of the root chain (7.1). Each Diffie-Hellman result between fresh ratchet keys heals the session.

use zeroize::Zeroizing;

use super::super::kdf::Prf;
use super::super::labels;
use super::super::secret::Secret;
use super::chain::{ChainKey, RootKey};

/// `KDF(salt = rk, ikm = dh, LBL("tc/1 dr-root"), 64)` -> rk' 32 ‖ ck 32.
pub(super) fn step(root: &RootKey, shared: &Secret<32>) -> (RootKey, ChainKey) {
    let mut prk = Zeroizing::new([0; 32]);
    let mut both = Zeroizing::new([0; 64]);
    Prf::new(root.expose()).write(&[shared.expose()], &mut prk);
    Prf::new(&*prk).expand(&[labels::RATCHET_ROOT.as_bytes()], &mut both);
    let (next, chain) = both.split_at(32);
    let half = |half: &[u8]| Secret::fill(|key| key.copy_from_slice(half));
    (half(next).into(), half(chain).into())
}
