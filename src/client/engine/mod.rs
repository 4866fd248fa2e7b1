//! The client as a machine: inputs are pushed in, what has to be saved and done comes out.
//!
//! It never awaits and does no I/O; it knows no clock and no global randomness: time and randomness are arguments. It reads
//! through [`Store`] and writes only by returning [`Changes`], which the driver saves before it performs the rest.
//! Start with [`io`], then [`Engine::handle`].

pub mod io;

use rand_core::CryptoRng;

use super::store::{Changes, Store, StoreError};
use crate::protocol::codec::Timestamp;

pub use io::{Answer, HttpTag, Input, Line, Login, Method, Output, Request, Step, Unreachable};

/// The state of one profile that is not worth storing: what is under way.
#[derive(Debug, Default)]
pub struct Engine {}

impl Engine {
    /// Takes up a profile: an empty store begins one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(_store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self::default())
    }

    /// One step. `now` never matters for safety, only for deadlines and what is shown.
    ///
    /// # Errors
    /// When the store cannot be read: the step did not happen, and the engine must be opened again.
    pub fn handle(
        &mut self,
        input: Input,
        store: &dyn Store,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step, StoreError> {
        let _ = (input, store, now, rng);
        Ok(Step { changes: Changes::default(), after: Vec::new() })
    }
}
