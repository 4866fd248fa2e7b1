//! Sender keys (TC/1 section 12): each device has its own chain per channel, seals every message once and gives the chain's
//! key to the members' devices by DM. [`OwnChain`] sends, [`PeerChain`] receives; `distribution` is the key's message. Whose
//! chain may speak when is decided by the [`Log`](super::membership::Log) alone, never by the server.

mod chain;
mod distribution;
mod own;
mod peer;
#[cfg(test)]
mod tests;

pub use distribution::{SKDM_LEN, Skdm};
pub use own::{OwnChain, Rotation, Sealed};
pub use peer::{Arrival, PeerChain, Plain, is_late_allowed, superseded};

/// Messages after which an own chain is replaced.
pub const MAX_MESSAGES: u32 = 500;
/// Age after which an own chain is replaced, in milliseconds.
pub const MAX_AGE_MS: u64 = 7 * DAY_MS;
/// No iteration of a peer's chain reaches this. It bounds every gap, and the keys stored for it.
pub const ITERATION_END: u32 = 1000;
/// Life of a skipped key, and of an older chain after a newer one arrived, in milliseconds.
pub const KEEP_MS: u64 = 14 * DAY_MS;
/// Chains kept of one sender device.
pub const MAX_CHAINS: usize = 5;
/// How long after the change frames from before a removal are still taken, in milliseconds.
pub const LATE_MS: u64 = DAY_MS;
/// Messages after which the user is warned that a peer does not rotate.
pub const OVERDUE_MESSAGES: u32 = 600;
/// Age of a peer's chain after which the user is warned, in milliseconds.
pub const OVERDUE_AGE_MS: u64 = 14 * DAY_MS;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
