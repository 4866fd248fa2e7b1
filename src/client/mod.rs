//! The headless client: the half of `chat tui` that has no terminal, and the engine of `chat send`, bots and the load
//! generator. It knows nothing of a screen.
//!
//! Start with [`command`], [`event`] and [`model`]: the whole boundary to a user interface.

pub mod command;
pub mod engine;
pub mod event;
pub mod lock;
pub mod model;
pub mod profile;
pub mod store;
pub mod transport;
pub mod unlock;
