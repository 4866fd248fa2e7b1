//! Hints to the other nodes of the same database. At most once, duplicated and reordered at will: every node asks the
//! database each second, so a lost hint costs a second and never a message.

pub mod local;

use crate::protocol::ids::{DeviceAddr, SessionId, StreamId, UserId};

/// What other nodes may want to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    StreamMoved { stream: StreamId, head_seq: u64 },
    InboxMoved(DeviceAddr),
    AccessChanged(UserId),
    SessionsRevoked(Vec<SessionId>),
}

/// Calls return at once; a hint that cannot be passed on is dropped.
pub trait Bus: Send + Sync {
    fn announce(&self, hint: Hint);
}
