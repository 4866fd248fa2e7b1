//! The local store's key (section 17): how it rests under a passphrase, and how it seals one stored value at a time. It
//! knows no file and no database; the `Store` on disk is `client/store/sqlite.rs`.
//!
//! Start with [`StoreKey`].

use argon2::{Algorithm, Argon2, Params, Version};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::aead;
use super::error::Error;
use super::kdf;
use super::secret::Secret;

/// Argon2id: 64 MiB, three passes, one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;

const NONCE: usize = 24;
/// Info of the key that the database file as a whole is encrypted with. Local to a machine, so no label of the protocol.
const DATABASE: &[u8] = b"chat local database";
const WRAP_AD: &[u8] = b"chat local store key";

/// 32 random bytes that open everything of one profile.
#[derive(Debug, PartialEq, Eq)]
pub struct StoreKey(Secret<32>);

/// A store key under a passphrase: public as far as the passphrase is strong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    pub salt: [u8; 16],
    /// Nonce 24 ‖ XSEAL.
    pub sealed: Vec<u8>,
}

impl StoreKey {
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(Secret::random(rng))
    }

    /// From where it was kept, if there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// The bytes, for a keyring of the operating system.
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// A second owner of the same key.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Secret::copy_of(self.0.expose()))
    }

    /// The key of the database file, 64 hexadecimal digits.
    pub fn database_key_hex(&self) -> Zeroizing<String> {
        let key: Secret<32> = kdf::expand(self.0.expose(), &[DATABASE]);
        Zeroizing::new(hex::encode(key.expose()))
    }

    /// Under a passphrase; takes about a third of a second and 64 MiB.
    ///
    /// # Errors
    /// `Limit` when Argon2 cannot get its memory or the passphrase is longer than 4 GiB.
    pub fn wrap<R: CryptoRng + ?Sized>(&self, passphrase: &[u8], rng: &mut R) -> Result<WrappedKey, Error> {
        let mut salt = [0; 16];
        rng.fill_bytes(&mut salt);
        let wrapping = stretch(passphrase, &salt)?;
        let mut nonce = [0; NONCE];
        rng.fill_bytes(&mut nonce);
        let sealed = aead::xseal(wrapping.expose(), &nonce, WRAP_AD, self.0.expose())?;
        Ok(WrappedKey { salt, sealed: [nonce.as_slice(), &sealed].concat() })
    }

    /// # Errors
    /// `Undecryptable` for another passphrase, `Malformed` for bytes of another form, `Limit` as for [`StoreKey::wrap`].
    pub fn unwrap(wrapped: &WrappedKey, passphrase: &[u8]) -> Result<Self, Error> {
        let (nonce, sealed) = wrapped.sealed.split_first_chunk::<NONCE>().ok_or(Error::Malformed)?;
        let wrapping = stretch(passphrase, &wrapped.salt)?;
        let key = aead::xopen(wrapping.expose(), nonce, WRAP_AD, sealed)?;
        Self::from_slice(&key).ok_or(Error::Malformed)
    }

    /// One stored value: nonce 24 ‖ XSEAL with AD = LV(table) ‖ LV(primary key) ‖ schema version.
    ///
    /// # Errors
    /// `Limit` for a primary key over 65,535 bytes or a value over 256 GiB.
    pub fn seal<R: CryptoRng + ?Sized>(
        &self,
        table: &str,
        primary_key: &[u8],
        schema: u32,
        value: &[u8],
        rng: &mut R,
    ) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE];
        rng.fill_bytes(&mut nonce);
        let sealed = aead::xseal(self.0.expose(), &nonce, &place(table, primary_key, schema)?, value)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// # Errors
    /// `Undecryptable` for a value of another key or place, or one that was changed; `Malformed` for one that is too short.
    pub fn open(&self, table: &str, primary_key: &[u8], schema: u32, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or(Error::Malformed)?;
        aead::xopen(self.0.expose(), nonce, &place(table, primary_key, schema)?, sealed)
    }
}

fn place(table: &str, primary_key: &[u8], schema: u32) -> Result<Vec<u8>, Error> {
    let mut ad = Vec::with_capacity(8 + table.len() + primary_key.len());
    for part in [table.as_bytes(), primary_key] {
        let len = u16::try_from(part.len()).map_err(|_| Error::Limit)?;
        ad.extend_from_slice(&len.to_be_bytes());
        ad.extend_from_slice(part);
    }
    ad.extend_from_slice(&schema.to_be_bytes());
    Ok(ad)
}

fn stretch(passphrase: &[u8], salt: &[u8; 16]) -> Result<Secret<32>, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).map_err(|_| Error::Limit)?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut result = Ok(());
    let key = Secret::fill(|out| result = argon.hash_password_into(passphrase, salt, out));
    result.map(|()| key).map_err(|_| Error::Limit)
}

#[cfg(test)]
mod tests {
    use getrandom::SysRng;
    use rand_core::UnwrapErr;

    use super::*;

    fn key() -> StoreKey {
        StoreKey::random(&mut UnwrapErr(SysRng))
    }

    #[test]
    fn only_the_passphrase_opens_a_wrapped_key() {
        let key = key();
        let wrapped = key.wrap(b"correct horse", &mut UnwrapErr(SysRng)).unwrap();
        assert_eq!(StoreKey::unwrap(&wrapped, b"correct horse").unwrap(), key);
        assert_eq!(StoreKey::unwrap(&wrapped, b"Correct horse"), Err(Error::Undecryptable));
        let mut short = wrapped.clone();
        short.sealed.truncate(20);
        assert_eq!(StoreKey::unwrap(&short, b"correct horse"), Err(Error::Malformed));
    }

    #[test]
    fn a_sealed_value_opens_in_its_place_only() {
        let key = key();
        let sealed = key.seal("sessions", b"7", 1, b"state", &mut UnwrapErr(SysRng)).unwrap();
        assert_eq!(key.open("sessions", b"7", 1, &sealed).unwrap().as_slice(), b"state");
        for (table, primary_key, schema) in [("session", b"s7".as_slice(), 1), ("sessions", b"8", 1), ("sessions", b"7", 2)] {
            assert_eq!(key.open(table, primary_key, schema, &sealed), Err(Error::Undecryptable));
        }
        assert_eq!(self::key().open("sessions", b"7", 1, &sealed), Err(Error::Undecryptable));
        assert_eq!(key.open("sessions", b"7", 1, &sealed[..20]), Err(Error::Malformed));
        assert_eq!(key.seal("t", &[0; 65_536], 1, b"", &mut UnwrapErr(SysRng)), Err(Error::Limit));
    }

    #[test]
    fn equal_values_are_sealed_differently() {
        let key = key();
        let seal = || key.seal("t", b"k", 1, b"v", &mut UnwrapErr(SysRng)).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn the_database_has_a_key_of_its_own() {
        let key = key();
        assert_ne!(key.database_key_hex().as_str(), hex::encode(key.expose()));
        assert_eq!(key.database_key_hex(), key.copy().database_key_hex());
        assert_eq!(format!("{key:?}"), "StoreKey(Secret(32 bytes))");
    }
}
