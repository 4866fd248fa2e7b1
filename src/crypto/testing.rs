//! For the tests of this folder: replaying the randomness of a test vector in drawing order (TC/1 sections 3.4 and 23), and
//! small readers of the vector files.

use std::collections::VecDeque;
use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};
use serde_json::Value;

/// Gives out prepared values, one for each draw, and panics when a draw asks for another length.
#[derive(Clone)]
pub(crate) struct ReplayRng(VecDeque<(String, Vec<u8>)>);

impl ReplayRng {
    pub(crate) fn of(values: &[&[u8]]) -> Self {
        Self(values.iter().map(|value| (String::new(), value.to_vec())).collect())
    }

    /// The list `random` of a vector file.
    pub(crate) fn of_vector(vector: &Value) -> Self {
        let values = vector["random"].as_array().unwrap();
        Self(values.iter().map(|value| (value["name"].as_str().unwrap().to_owned(), bytes(&value["hex"]))).collect())
    }

    /// The next value, which must have this name: for what the vector draws outside of the functions under test.
    pub(crate) fn take(&mut self, name: &str) -> Vec<u8> {
        let (found, value) = self.0.pop_front().unwrap();
        assert_eq!(found, name, "the order of drawing differs");
        value
    }

    /// The name of the next value.
    pub(crate) fn next_name(&self) -> Option<&str> {
        self.0.front().map(|(name, _)| name.as_str())
    }
}

impl TryRng for ReplayRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let (name, value) = self.0.pop_front().expect("more is drawn than the vector has");
        assert_eq!(value.len(), out.len(), "drawing {name}");
        out.copy_from_slice(&value);
        Ok(())
    }
}

impl TryCryptoRng for ReplayRng {}

/// Endless and the same on every run: a hash chain.
#[derive(Debug)]
pub(crate) struct TestRng([u8; 32]);

impl TestRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(super::kdf::hash(&[&seed.to_be_bytes()]))
    }
}

impl TryRng for TestRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(32) {
            self.0 = super::kdf::hash(&[b"next", &self.0]);
            chunk.copy_from_slice(&super::kdf::hash(&[b"out", &self.0])[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for TestRng {}

/// The bytes of a hex string.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The bytes of a hex string of known length.
pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}
