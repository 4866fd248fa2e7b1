//! The store contract: what the engine reads from, and the one atomic batch in which it writes.
//!
//! The engine reads through [`Store`] and never writes: everything that a step changes is one [`Changes`], which the
//! driver saves in one transaction before anything of that step leaves the machine (`crypto.md` 17). Most of it is opaque
//! records in named tables, so that a store can seal each value without knowing what it is; only messages have columns,
//! because they are paged and searched. This module knows no file and no SQL; [`memory`] is the reference and
//! `conformance` the suite that every store passes.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::protocol::ids::{ChannelId, UserId};

use super::model::MessageRef;

#[cfg(test)]
pub mod conformance;
pub mod memory;
pub mod sqlite;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// A stored value: it may hold key material, so it is wiped when dropped.
pub type Value = Zeroizing<Vec<u8>>;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// The named tables of opaque records. Keys are bytes in lexicographic order; numbers in them are big-endian.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Table {
            $($(#[$doc])* $name,)+
        }

        impl Table {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name on disk; part of the associated data of a sealed value, so it never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

tables! {
    /// The driver's own: tokens, server address. The engine neither reads nor writes it.
    Driver = "driver",
    /// The account, the secrets of this device, counters and preferences, each under its name.
    Account = "account",
    /// Pinned identities and their trust: user.
    Contacts = "contacts",
    /// Signed device lists: user ‖ UIK ‖ seq.
    DeviceLists = "device_lists",
    /// Device certificates: hash.
    Certificates = "certificates",
    /// Users whose device lists changed and were not fetched yet: user.
    StaleLists = "stale_lists",
    /// Ratchet sessions: device address ‖ session id; and the address of each session id.
    Sessions = "sessions",
    /// What is known of a peer device, with the ids of its sessions: device address.
    PeerDevices = "peer_devices",
    /// Verified membership logs: log.
    Logs = "logs",
    /// Signed ops: log ‖ seq.
    LogOps = "log_ops",
    /// Own sender key chains: channel.
    OwnChains = "own_chains",
    /// Who was given which own chain: channel ‖ chain id ‖ device address.
    ChainGiven = "chain_given",
    /// Sender key chains of others: channel ‖ device address ‖ chain id.
    PeerChains = "peer_chains",
    /// Frames that cannot be judged yet: conversation ‖ order.
    Held = "held",
    /// Sender keys that cannot be judged yet: channel ‖ order.
    HeldKeys = "held_keys",
    /// What was sent under which key, for retries.
    SentKeys = "sent_keys",
    /// Contents that went out: message id.
    SentContents = "sent_contents",
    /// Receipts that are owed: channel ‖ kind ‖ message.
    Receipts = "receipts",
    /// Contents that were accepted: conversation ‖ sender ‖ message id.
    Seen = "seen",
    /// The same, by time, to forget them: milliseconds ‖ key.
    SeenAt = "seen_at",
    /// People as the server shows them: user.
    Users = "users",
    /// Communities as the server shows them.
    Communities = "communities",
    /// Groups: group.
    Groups = "groups",
    /// Members as the server shows them: community ‖ user.
    Members = "members",
    /// Channels: channel.
    Channels = "channels",
    /// The engine's own state of a channel: unread counts, oldest row, pinned log.
    ChannelState = "channel_state",
    /// Last applied seq: stream.
    Cursors = "cursors",
    /// Sends that wait for the server, in order: order.
    Outbox = "outbox",
    /// Drafts: channel, or channel ‖ thread root.
    Drafts = "drafts",
    /// Edits, deletions and reactions that came before their target: channel ‖ target ‖ message id.
    Early = "early",
    /// Replies in a thread: channel ‖ root.
    Threads = "threads",
    /// When messages have to be erased: milliseconds ‖ channel ‖ message.
    Expiry = "expiry",
    /// Warnings and evidence to keep: order.
    Evidence = "evidence",
}

impl Table {
    /// Whether its records are keys that step forward: what a record was before must not stay readable on the disk.
    pub const fn holds_keys(self) -> bool {
        matches!(self, Self::Account | Self::Sessions | Self::OwnChains | Self::PeerChains | Self::HeldKeys)
    }
}

/// Where a message stands in its channel: by `seq`, then by `sub`.
///
/// A committed row has its own seq and `sub` 0. A local line (a warning, a new device) follows the row that was newest
/// when it was made. What waits for the server has [`Position::PENDING_SEQ`] and comes last, in the order of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// At most `i64::MAX`.
    pub seq: u64,
    /// At most `i64::MAX`.
    pub sub: u64,
}

impl Position {
    pub const PENDING_SEQ: u64 = i64::MAX as u64;

    pub const fn row(seq: u64) -> Self {
        Self { seq, sub: 0 }
    }

    pub const fn local(after_seq: u64, order: u64) -> Self {
        Self { seq: after_seq, sub: order }
    }

    pub const fn pending(order: u64) -> Self {
        Self { seq: Self::PENDING_SEQ, sub: order }
    }

    pub const fn is_pending(self) -> bool {
        self.seq == Self::PENDING_SEQ
    }
}

/// One line of a timeline as it is stored. `value` is the engine's; the rest is what queries need.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredMessage {
    pub channel_id: ChannelId,
    /// Unique in its channel.
    pub key: MessageRef,
    pub position: Position,
    /// The root of the thread that the message is a reply in; the root itself has none.
    pub thread_root: Option<MessageRef>,
    /// Searchable text; none for what nobody wrote, and for what was erased.
    pub text: Option<Zeroizing<String>>,
    pub value: Value,
}

impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel_id, key, position, thread_root, text: _, value: _ } = self;
        f.debug_struct("StoredMessage")
            .field("channel_id", channel_id)
            .field("key", key)
            .field("position", position)
            .field("thread_root", thread_root)
            .finish_non_exhaustive()
    }
}

/// Which lines of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// All of them.
    All,
    /// Those that are no reply in a thread.
    Main,
    /// The root of a thread and the replies in it.
    Thread(MessageRef),
}

impl Lines {
    pub fn include(self, message: &StoredMessage) -> bool {
        match self {
            Self::All => true,
            Self::Main => message.thread_root.is_none(),
            Self::Thread(root) => message.key == root || message.thread_root == Some(root),
        }
    }
}

/// Where a page begins. It never contains the position that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The last `limit` lines.
    End,
    /// The last `limit` lines before it.
    Before(Position),
    /// The first `limit` lines after it.
    After(Position),
}

/// A search in the text of messages.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TextQuery {
    /// Each must occur in the text: as a substring, without regard to upper and lower case. Never empty strings; a
    /// term may be shorter than three characters. No terms: every message that has a text.
    pub terms: Vec<String>,
    /// Only in these channels; empty: in all.
    pub channels: Vec<ChannelId>,
    /// Only by these people; empty: by all.
    pub authors: Vec<UserId>,
    pub limit: usize,
}

/// What the engine reads. Every call sees everything that was saved before it.
pub trait Store {
    /// # Errors
    /// When the store cannot be read or a value was tampered with.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError>;

    /// Records whose key starts with `prefix` and is greater than `after`, ascending by key, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>, StoreError>;

    /// # Errors
    /// As [`Store::get`].
    fn message(&self, channel_id: ChannelId, key: MessageRef) -> Result<Option<StoredMessage>, StoreError>;

    /// Lines of one channel, ascending by position, then by key.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn page(&self, channel_id: ChannelId, lines: Lines, from: From, limit: usize) -> Result<Vec<StoredMessage>, StoreError>;

    /// Messages with matching text, newest first: by the time in the message id, which is a UUIDv7.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn search(&self, query: &TextQuery) -> Result<Vec<StoredMessage>, StoreError>;

    /// Writes all of it, or, on an error, nothing; within a batch, nothing of the batch either. When this returned, the changes
    /// survive a crash of the machine.
    ///
    /// # Errors
    /// When the store cannot be written; the caller must stop, since its memory and the store differ now.
    fn save(&mut self, changes: Changes) -> Result<(), StoreError>;

    /// Begins a batch: what is saved until [`Store::commit`] is read at once, but survives a crash only as a whole and only
    /// after the commit. Catching up with a long absence costs one sync for many steps that way.
    ///
    /// # Errors
    /// As [`Store::save`].
    fn begin(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether something that was deleted or replaced may still stand on the disk.
    fn is_untidy(&self) -> bool {
        false
    }

    /// Wipes it off the disk. Worth a sync or two: for a moment in which nothing else is to do.
    ///
    /// # Errors
    /// As [`Store::save`].
    fn tidy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Ends the batch: everything in it survives a crash of the machine now.
    ///
    /// # Errors
    /// As [`Store::save`].
    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Everything that one step writes, as one transaction. The last write to a key wins; `None` deletes.
#[derive(Default)]
pub struct Changes {
    pub records: BTreeMap<(Table, Vec<u8>), Option<Value>>,
    pub messages: BTreeMap<(ChannelId, MessageRef), Option<StoredMessage>>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.messages.is_empty()
    }

    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.records.insert((table, key.into()), Some(Zeroizing::new(value.into())));
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.records.insert((table, key.into()), None);
    }

    pub fn put_message(&mut self, message: StoredMessage) {
        self.messages.insert((message.channel_id, message.key), Some(message));
    }

    pub fn delete_message(&mut self, channel_id: ChannelId, key: MessageRef) {
        self.messages.insert((channel_id, key), None);
    }

    /// These changes followed by `later`: what saving both, one after the other, would do.
    pub fn merge(&mut self, later: Self) {
        self.records.extend(later.records);
        self.messages.extend(later.messages);
    }
}

impl fmt::Debug for Changes {
    /// Counts only: keys name people and values hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, messages } = self;
        f.debug_struct("Changes").field("records", &records.len()).field("messages", &messages.len()).finish()
    }
}

/// The store could not be read or written: nothing can go on safely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk, the file or the database engine.
    #[error("the local store failed: {0}")]
    Io(String),
    /// A value does not open or does not parse.
    #[error("the local store is damaged: a record of {table} cannot be read ({what})")]
    Damaged { table: &'static str, what: String },
}
