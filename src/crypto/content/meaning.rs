//! What contents mean to each other (TC/1 section 9.3), as pure functions: which edit and which reaction counts, who may edit and
//! delete, when a message erases itself. All members must agree, so nothing here depends on arrival order. Start at [`MessageRef`].

use crate::crypto::membership::Role;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A message that was never displayed still erases itself this long after arrival.
const UNREAD_FOR_MS: u64 = 30 * DAY_MS;
/// The difference between the sender's clock and the server's above which the server's time is shown, with a mark.
const CLOCK_TOLERANCE_MS: u64 = 5 * 60 * 1000;

/// How messages refer to messages: never by id alone, since ids are chosen by their authors (rule R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageRef {
    /// User id.
    pub author: [u8; 16],
    pub msg_id: [u8; 16],
}

impl MessageRef {
    /// `author ‖ msg_id`; `None` unless 32 bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (author, msg_id) = bytes.split_at_checked(16)?;
        Some(Self { author: id16(author)?, msg_id: id16(msg_id)? })
    }

    /// The 32 bytes of a `target`, `reply_to` or `thread_root` field.
    pub fn to_vec(self) -> Vec<u8> {
        [self.author, self.msg_id].concat()
    }
}

/// Of several edits of one message, the one with the greatest rank replaces its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EditRank {
    pub rev: u32,
    /// Of the content that carried the edit.
    pub msg_id: [u8; 16],
}

/// Of several reactions with one (target, user, emoji), the one with the greatest rank is the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReactionRank {
    pub sent_ms: u64,
    /// Of the content that carried the reaction.
    pub msg_id: [u8; 16],
}

/// Only authors edit.
pub fn may_edit(sender: [u8; 16], target: &MessageRef) -> bool {
    target.author == sender
}

/// Authors delete; in a channel moderators too. `role` is the sender's role at the frame's epoch, `None` in a DM.
pub fn may_delete(sender: [u8; 16], target: &MessageRef, role: Option<Role>) -> bool {
    target.author == sender || role.is_some_and(|role| role >= Role::Moderator)
}

/// When a message with a timer must be erased, in milliseconds since the Unix epoch; `None` without a timer. For the author's devices the
/// clock starts at `sent_ms`; elsewhere when it was first displayed on any device of the user, at the latest 30 days after it arrived.
pub fn erase_at(expires_s: u32, sent_ms: u64, is_author: bool, arrived_ms: u64, displayed_ms: Option<u64>) -> Option<u64> {
    if expires_s == 0 {
        return None;
    }
    let latest = arrived_ms.saturating_add(UNREAD_FOR_MS);
    let start = if is_author { sent_ms } else { displayed_ms.map_or(latest, |displayed| displayed.min(latest)) };
    Some(start.saturating_add(u64::from(expires_s) * 1000))
}

/// Whether the sender's time is so far from the server's that the server's is shown, with a mark.
pub fn is_time_doubtful(sent_ms: u64, server_ms: u64) -> bool {
    sent_ms.abs_diff(server_ms) > CLOCK_TOLERANCE_MS
}

pub(super) fn id16(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}
