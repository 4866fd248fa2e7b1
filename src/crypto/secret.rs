//! The one type in which secrets rest: boxed, so that moves leave no copies on the stack, wiped on drop, compared in
//! constant time, and without `Clone`, `Serialize` or a telling `Debug`. States that share a secret share an `Arc` of it.

use std::fmt;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// The secret that `write` leaves in place; it starts as zeros.
    pub fn fill(write: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Box::new([0; N]));
        write(&mut secret.0);
        secret
    }

    /// `N` bytes drawn from `rng`.
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::fill(|bytes| rng.fill_bytes(bytes))
    }

    /// A copy of `bytes`; wiping the source is the caller's part.
    pub fn copy_of(bytes: &[u8; N]) -> Self {
        Self::fill(|secret| secret.copy_from_slice(bytes))
    }

    /// A copy of `bytes`, when there are exactly `N`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        <&[u8; N]>::try_from(bytes).ok().map(Self::copy_of)
    }

    /// The bytes, for the cipher or the store. The name makes every use visible in review.
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> ZeroizeOnDrop for Secret<N> {}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_ref()).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({N} bytes)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_only() {
        assert_eq!(format!("{:?}", Secret::copy_of(&[0xAB; 32])), "Secret(32 bytes)");
    }

    #[test]
    fn secrets_compare_by_value() {
        assert_eq!(Secret::copy_of(b"abc"), Secret::copy_of(b"abc"));
        assert_ne!(Secret::copy_of(b"abc"), Secret::copy_of(b"abd"));
        assert_eq!(Secret::<3>::from_slice(b"abcd"), None);
    }
}
