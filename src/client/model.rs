//! What the user interface sees: plain data, already decrypted and verified, never a key and never a frame.
//!
//! Text that somebody else wrote is [`Untrusted`]: it has no `Display`, and only `tui::text` turns it into something that
//! may reach a terminal.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::channels::{ChannelKind, NotifyLevel};
use crate::protocol::codec::Timestamp;
use crate::protocol::communities::{Role, Visibility};
use crate::protocol::ids::{ChannelId, CommunityId, DeviceId, GroupId, LogId, MessageId, UserId};
use crate::protocol::users::Status;

/// Text from outside: a message, a name, a topic, an error of the server. Nothing may print it as it is.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Untrusted(String);

impl Untrusted {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The raw text, for the sanitizer, for comparing, for quoting into an editor, and for encrypting; never for printing.
    pub fn raw(&self) -> &str {
        &self.0
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Message text must not reach a log through a derived Debug.
        write!(f, "Untrusted({} bytes)", self.0.len())
    }
}

impl From<&str> for Untrusted {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Untrusted {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Who uses this profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub user_id: UserId,
    pub device_id: DeviceId,
    pub username: Untrusted,
    /// `https://chat.example.org`
    pub server: String,
    pub server_name: Untrusted,
    /// Lowercase hex of H(UIK).
    pub fingerprint: String,
    /// Whether others learn what was delivered to this user and what they have read.
    pub receipts: bool,
}

/// What has a membership log of its own (`crypto.md` 11.1): members are added there, removed, and given roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Domain {
    /// Also of its public groups and of the public channels in them.
    Community(CommunityId),
    /// A private group, also of the channels in it that have no log of their own.
    Group(GroupId),
    /// A private channel.
    Channel(ChannelId),
}

impl Domain {
    pub fn log_id(self) -> LogId {
        match self {
            Self::Community(id) => id.into(),
            Self::Group(id) => id.into(),
            Self::Channel(id) => id.into(),
        }
    }
}

impl From<CommunityId> for Domain {
    fn from(id: CommunityId) -> Self {
        Self::Community(id)
    }
}

impl From<GroupId> for Domain {
    fn from(id: GroupId) -> Self {
        Self::Group(id)
    }
}

impl From<ChannelId> for Domain {
    fn from(id: ChannelId) -> Self {
        Self::Channel(id)
    }
}

/// The state of the line to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connection {
    /// Nothing was tried yet.
    #[default]
    Starting,
    Connecting {
        /// From 1.
        attempt: u32,
    },
    Online {
        /// Round trip of the last ping, milliseconds.
        latency_ms: Option<u32>,
    },
    Offline {
        since: Timestamp,
        /// When the next attempt comes.
        retry_at: Option<Timestamp>,
        why: Untrusted,
    },
    /// The session ended: the user has to log in again. Nothing local is lost.
    LoggedOut { why: Untrusted },
}

/// Everything that the rail and the tree show. Replaced as a whole when something in it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    pub communities: Vec<Arc<CommunityNode>>,
    /// Newest activity first.
    pub dms: Vec<Arc<ChannelNode>>,
    /// Sends that wait for the server.
    pub waiting: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommunityNode {
    pub id: CommunityId,
    pub name: Untrusted,
    pub description: Option<Untrusted>,
    pub my_role: Role,
    pub member_count: u32,
    pub open: bool,
    pub unread: u64,
    pub mentions: u64,
    pub groups: Vec<GroupNode>,
    /// The signed membership log and the server disagree, or the log stopped; what to say about it.
    pub warning: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNode {
    pub id: GroupId,
    pub name: Untrusted,
    pub visibility: Visibility,
    /// Of a private group, in its own log; of a public one, in the community's.
    pub my_role: Role,
    pub channels: Vec<Arc<ChannelNode>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelNode {
    pub id: ChannelId,
    pub kind: ChannelKind,
    pub community_id: Option<CommunityId>,
    pub group_id: Option<GroupId>,
    /// A DM is named after its peer.
    pub name: Untrusted,
    pub topic: Option<Untrusted>,
    pub peer: Option<Peer>,
    /// Whose members read here; none in a DM, and before the membership log is known.
    pub domain: Option<Domain>,
    /// This user's role in that domain.
    pub my_role: Option<Role>,
    pub private: bool,
    pub read_only: bool,
    pub archived: bool,
    pub muted: bool,
    pub notify: NotifyLevel,
    pub unread: u64,
    pub mentions: u64,
    /// Up to where this user has read.
    pub read_seq: u64,
    /// The newest position that is here, of whatever kind.
    pub newest_seq: u64,
    pub has_draft: bool,
    pub last_at: Option<Timestamp>,
    pub member_count: u32,
    /// New messages disappear after so many seconds; 0: they stay.
    pub expires_s: u32,
    /// Why nothing can be sent here now, if so: a changed identity, a stopped log, a read-only channel.
    pub blocked: Option<SendBlock>,
}

/// The other person of a DM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub user_id: UserId,
    pub username: Untrusted,
    pub display_name: Option<Untrusted>,
    pub trust: Trust,
    pub status: Status,
}

/// What is known of somebody's identity key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trust {
    /// No key was seen yet.
    #[default]
    Unknown,
    /// Pinned on first use, never compared.
    Unverified,
    /// Safety numbers were compared.
    Verified,
    /// Another key than the pinned one was presented and not yet accepted.
    Changed {
        /// The old key was verified: sending is blocked until the user decides.
        was_verified: bool,
    },
    /// Two different signed lists with one number (equivocation).
    Stopped,
}

/// Why a conversation cannot be written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendBlock {
    /// Somebody's identity changed.
    IdentityChanged {
        user_id: UserId,
        name: Untrusted,
        was_verified: bool,
    },
    /// Two signed device lists with one number.
    Equivocation {
        user_id: UserId,
        name: Untrusted,
    },
    /// None of their devices can be written to now: what is written is kept, and goes out when one comes back.
    Away {
        user_id: UserId,
        name: Untrusted,
        /// None of them was there for 30 days; else there are no keys of them now.
        dormant: bool,
        /// What the server gives as their keys, or as the list of their devices, does not hold.
        refused: bool,
    },
    /// The membership log stopped.
    LogStopped,
    ReadOnly,
    Archived,
    NotMember,
}

impl SendBlock {
    /// Whether what is written there now is kept for later instead of refused.
    pub const fn keeps(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

/// A message reference (`crypto.md` 9.1): never by id alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageRef {
    pub author: UserId,
    pub id: MessageId,
}

/// One line of a timeline: a message, or something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineItem {
    pub channel_id: ChannelId,
    /// Unique in a channel.
    pub key: MessageRef,
    /// Position in the channel's log; none while it waits for the server, and of what the server lost with a restored database.
    pub seq: Option<u64>,
    /// Grows when the item changes, so that a cache of wrapped lines can tell.
    pub revision: u32,
    pub at: Timestamp,
    /// The name to show: nickname, display name or username.
    pub author_name: Untrusted,
    pub author_trust: Trust,
    pub mine: bool,
    pub body: Body,
    pub reply_to: Option<Quote>,
    /// The root of the thread that this message belongs to.
    pub thread_root: Option<MessageRef>,
    pub thread: Option<ThreadInfo>,
    pub reactions: Vec<Reaction>,
    pub edited: bool,
    pub mentions_me: bool,
    pub delivery: Delivery,
    pub marks: Vec<Mark>,
}

impl TimelineItem {
    /// Two states of one line.
    pub fn same_line(&self, other: &Self) -> bool {
        self.channel_id == other.channel_id && self.key == other.key
    }
}

/// What an item says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Text(Untrusted),
    /// Erased; by a moderator, or by its author.
    Deleted {
        by_moderator: bool,
    },
    Expired,
    /// Held, or kept for a retry: what it waits for, in words.
    Undecryptable(Reason),
    /// Written before this user joined.
    BeforeJoin,
    /// Written before this device was added.
    BeforeDevice,
    /// A message kind of a newer client.
    NewerClient,
    /// Not end-to-end encrypted: written by the server or by a webhook.
    Clear(Untrusted),
    /// Something happened.
    System(SystemLine),
}

/// Why a message cannot be shown yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The sender's key for this channel has not arrived.
    WaitingForKey,
    /// Membership changes that it refers to have not arrived.
    WaitingForMembers,
    /// The sending device is not in a verified list yet.
    UnverifiedDevice,
    /// The sender's identity changed and is not accepted.
    IdentityChanged,
    /// It was asked for again.
    Requested,
    /// Forged or damaged.
    Refused,
}

/// Lines of the timeline that nobody wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemLine {
    Created {
        by: Untrusted,
    },
    Joined {
        who: Untrusted,
    },
    Left {
        who: Untrusted,
    },
    Removed {
        who: Untrusted,
        by: Untrusted,
        banned: bool,
    },
    Unbanned {
        who: Untrusted,
        by: Untrusted,
    },
    Added {
        who: Untrusted,
        by: Untrusted,
    },
    RoleChanged {
        who: Untrusted,
        by: Untrusted,
        role: Role,
    },
    ChannelAttached {
        by: Untrusted,
    },
    NewDevice {
        who: Untrusted,
        device_id: DeviceId,
    },
    DeviceRemoved {
        who: Untrusted,
        device_id: DeviceId,
    },
    IdentityChanged {
        who: Untrusted,
    },
    FirstContact {
        who: Untrusted,
        fingerprint: String,
    },
    Verified {
        who: Untrusted,
    },
    /// The server was restored from a backup here.
    Seam,
    /// A warning about the server or a device, in words of ours.
    Warning(String),
}

/// Two signed changes of members that claim the same place of a log, which stopped for it (`crypto.md` 11.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The place in the log, from 0.
    pub seq: u64,
    /// The hash of [`Fork::other`], for [`super::command::Command::Resume`]: lowercase hex.
    pub discard: String,
    /// What is in force here.
    pub kept: SignedChange,
    pub other: SignedChange,
}

/// A signed change of members, in words: "carol" "removed bo".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedChange {
    pub by: Untrusted,
    pub device_id: DeviceId,
    pub what: Untrusted,
    /// By the signer's clock.
    pub signed_at: Timestamp,
}

/// A quoted message above a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub target: MessageRef,
    pub author_name: Untrusted,
    /// The beginning of the text; none when it is not known here or was deleted.
    pub text: Option<Untrusted>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadInfo {
    pub replies: u32,
    pub last_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    pub emoji: Untrusted,
    pub count: u32,
    pub mine: bool,
}

/// How far an own message got. Messages of others are [`Delivery::Received`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    Received,
    /// In the outbox.
    Waiting,
    /// Committed by the server.
    Sent,
    /// A device of the addressee has it.
    Delivered,
    Read,
    /// Refused for good: why, and the text is kept for another try.
    Failed(Untrusted),
}

/// Warnings on one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mark {
    /// The server's row and the authenticated content disagree.
    Forged,
    /// Sent before the sender was removed, by the server's order.
    BeforeRemoval,
    /// The server says deleted or edited, no signed content says so.
    HiddenByServer,
    /// The sender's clock and the server's differ by more than five minutes.
    Clock,
    /// Frames of this sender are missing before this one.
    Gap,
}

/// A stretch of a timeline out of the local store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelinePage {
    pub channel_id: ChannelId,
    pub thread: Option<MessageRef>,
    /// Ascending in the server's order; what waits comes last.
    pub items: Vec<Arc<TimelineItem>>,
    /// Nothing older exists here.
    pub at_start: bool,
    /// Nothing newer exists here.
    pub at_end: bool,
    /// Rows between the store's oldest and the server's history that were not fetched yet.
    pub missing_before: u64,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anchor {
    Newest,
    /// Items before this one.
    Before(MessageRef),
    /// Items after this one.
    After(MessageRef),
    /// Half a page on either side.
    Around(MessageRef),
    /// Around the first unread message.
    FirstUnread,
}

/// Somebody in a community or channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    pub user_id: UserId,
    pub name: Untrusted,
    pub username: Untrusted,
    pub role: Role,
    pub status: Status,
    pub trust: Trust,
    /// The server shows this member, the signed log does not: no keys go there.
    pub unsigned: bool,
}

/// Somebody found by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub user_id: UserId,
    pub username: Untrusted,
    pub display_name: Option<Untrusted>,
    pub trust: Trust,
}

/// What two people compare (`crypto.md` 14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetyNumber {
    pub user_id: UserId,
    pub name: Untrusted,
    /// 60 digits; while a change waits for a decision, of the new key.
    pub digits: String,
    /// The code as text (base32), also drawn as QR.
    pub code: String,
    pub fingerprint: String,
    /// Of the new key, while a change waits for a decision.
    pub new_fingerprint: Option<String>,
    pub trust: Trust,
    pub devices: Vec<DeviceInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    pub device_id: DeviceId,
    pub added_at: Timestamp,
    /// Its prekeys are too old: it is skipped until it comes back.
    pub dormant: bool,
    pub current: bool,
    /// A session with it began without a one-time prekey.
    pub no_one_time_prekey: bool,
}

/// Something of this user's that waits for the server, or that it refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    pub channel_id: ChannelId,
    /// Its own id, to try it again or to forget it.
    pub id: MessageId,
    pub what: UnsentKind,
    /// The message that it is, or that it changes.
    pub message: MessageRef,
    pub thread_root: Option<MessageRef>,
    /// What was written: the text, or the emoji; of a deletion the text that goes.
    pub text: Untrusted,
    pub at: Timestamp,
    pub delivery: Delivery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnsentKind {
    Message,
    Edit,
    Reaction {
        remove: bool,
    },
    Delete,
    /// A setting of the conversation.
    Other,
}

/// One result of a search in the local history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchHit {
    pub channel_id: ChannelId,
    pub channel_name: Untrusted,
    pub message: MessageRef,
    pub thread_root: Option<MessageRef>,
    pub author_name: Untrusted,
    pub at: Timestamp,
    pub text: Untrusted,
}

/// An invite link, made here; the fragment never reaches the server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteLink {
    pub community_id: CommunityId,
    /// `chat://HOST/i/CODE#TCI1-…`
    pub link: String,
    pub expires_at: Option<Timestamp>,
    pub max_uses: Option<u32>,
}

impl fmt::Debug for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InviteLink").field("community_id", &self.community_id).finish_non_exhaustive()
    }
}

/// Something went wrong: what, and what to do. The front ends add nothing but colour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub kind: ProblemKind,
    /// One sentence: what was refused or failed.
    pub text: Untrusted,
    /// What was kept and what to do next; empty when there is nothing to add.
    pub hint: String,
}

impl Problem {
    pub fn new(kind: ProblemKind, text: impl Into<String>) -> Self {
        Self { kind, text: Untrusted::new(text), hint: String::new() }
    }

    #[must_use]
    pub fn kind(mut self, kind: ProblemKind) -> Self {
        self.kind = kind;
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Kinds of failure; the exit codes of the command line follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemKind {
    /// Exit 1.
    Failed,
    /// Exit 2.
    Usage,
    /// Exit 3.
    NotFound,
    /// Exit 4.
    Auth,
    /// Exit 5.
    Permission,
    /// Exit 6.
    RateLimited,
    /// Exit 7.
    Network,
    /// Exit 8.
    Crypto,
    /// Exit 9.
    Locked,
    /// Exit 78, `EX_CONFIG`: service managers do not start again what cannot start.
    Config,
}

impl ProblemKind {
    /// The process exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Auth => 4,
            Self::Permission => 5,
            Self::RateLimited => 6,
            Self::Network => 7,
            Self::Crypto => 8,
            Self::Locked => 9,
            Self::Config => 78,
        }
    }

    /// The word for it in `--json` errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::RateLimited => "rate_limited",
            Self::Network => "network",
            Self::Crypto => "crypto",
            Self::Locked => "locked",
            Self::Config => "config",
        }
    }
}
