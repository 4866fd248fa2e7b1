//! The one type in which secrets rest: never on the stack, so that moves leave no copies there, wiped on drop, compared in
//! constant time, and without `Clone`, `Serialize` or a telling `Debug`. States that share a secret share an `Arc` of it.
//!
//! Where [`reserve`] was called they lie side by side in one place with nothing else in it, which the caller can lock.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes.
pub struct Secret<const N: usize>(Place<N>);

enum Place<const N: usize> {
    /// At least `N` bytes of what was reserved; empty only while it is given back.
    Reserved(&'static mut [u8]),
    Heap(Box<[u8; N]>),
}

/// Bytes of one reserved place: enough for every secret that is more than a step of a computation.
const SLOT: usize = 64;

/// Places that are free.
static FREE: Mutex<Vec<&'static mut [u8]>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<&'static mut [u8]>> {
    // Nothing under this lock can panic half way.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets `bytes` aside for secrets, for the rest of the process, and answers where: a caller that may lock memory locks all of it
/// at once, and nothing has to be unlocked. More secrets than fit lie wherever the allocator puts them.
pub fn reserve(bytes: usize) -> std::ops::Range<*const u8> {
    let reserved = vec![0; bytes].leak();
    let place = reserved.as_ptr_range();
    free().extend(reserved.chunks_exact_mut(SLOT));
    place
}

impl<const N: usize> Place<N> {
    fn take() -> Self {
        let slot = if N <= SLOT { free().pop() } else { None };
        slot.map_or_else(|| Self::Heap(Box::new([0; N])), Self::Reserved)
    }
}

impl<const N: usize> Secret<N> {
    /// The secret that `write` leaves in place; it starts as zeros.
    pub fn fill(write: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Place::take());
        match &mut secret.0 {
            Place::Reserved(slot) => {
                if let Some(bytes) = slot.first_chunk_mut() {
                    write(bytes);
                }
            }
            Place::Heap(bytes) => write(bytes),
        }
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
        match &self.0 {
            Place::Reserved(slot) => match slot.first_chunk() {
                Some(bytes) => bytes,
                // Never: a slot is as long as `N` at least until it is dropped.
                None => &[0; N],
            },
            Place::Heap(bytes) => bytes,
        }
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        match &mut self.0 {
            Place::Reserved(slot) => {
                slot.zeroize();
                free().push(std::mem::take(slot));
            }
            Place::Heap(bytes) => bytes.zeroize(),
        }
    }
}

impl<const N: usize> ZeroizeOnDrop for Secret<N> {}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
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
    fn reserved_places_are_used_wiped_and_used_again() {
        let place = reserve(64 * SLOT);
        let inside = |secret: &[u8]| place.contains(&secret.as_ptr());
        // Other tests take and give back at the same time.
        let taken: Vec<Secret<32>> = (0..64).map(|n| Secret::copy_of(&[n; 32])).collect();
        assert!(taken.iter().any(|secret| inside(secret.expose())));
        assert!(taken.iter().zip(0..).all(|(secret, n)| *secret.expose() == [n; 32]), "each has a place of its own");
        let long = Secret::copy_of(&[7; SLOT + 1]);
        assert!(!inside(long.expose()) && *long.expose() == [7; SLOT + 1]);
        drop(taken);
        assert!(free().iter().all(|slot| slot.len() == SLOT && slot.iter().all(|byte| *byte == 0)));
        assert!(free().iter().any(|slot| inside(slot)));
    }

    #[test]
    fn secrets_compare_by_value() {
        assert_eq!(Secret::copy_of(b"abc"), Secret::copy_of(b"abc"));
        assert_ne!(Secret::copy_of(b"abc"), Secret::copy_of(b"abd"));
        assert_eq!(Secret::<3>::from_slice(b"abcd"), None);
    }
}
