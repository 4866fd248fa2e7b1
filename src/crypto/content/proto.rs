//! The wire form of `content.proto` (TC/1 section 9.1): prost types written by hand, field for field. Bytes stay bytes here;
//! lengths and bounds are checked in `validate`. Knows no frame and no session. Start at [`Content`].
//!
//! What people write is secret, so no type here prints its text or its keys: `Debug` shows the kind and sizes only.

use std::fmt;

/// What one frame carries, after decryption.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Content {
    /// 16 bytes, unique for one sending user.
    #[prost(bytes = "vec", tag = "1")]
    pub msg_id: Vec<u8>,
    /// Milliseconds since the Unix epoch, by the sender's clock.
    #[prost(uint64, tag = "2")]
    pub sent_ms: u64,
    /// 16 bytes: in a DM the user addressed, in a channel the channel.
    #[prost(bytes = "vec", tag = "3")]
    pub conv: Vec<u8>,
    /// `list_ref` (24 bytes) of the sender's newest device list; required in DM frames, else empty.
    #[prost(bytes = "vec", tag = "4")]
    pub own_list: Vec<u8>,
    /// `list_ref` (24 bytes) of the newest list of the addressee that the sender has pinned, or empty.
    #[prost(bytes = "vec", tag = "5")]
    pub seen_list: Vec<u8>,
    /// Seconds until the message erases itself; 0 = never.
    #[prost(uint32, tag = "6")]
    pub expires_s: u32,
    /// `None`: a body that only a newer client knows.
    #[prost(oneof = "Body", tags = "16, 17, 18, 19, 21, 23, 24, 25, 32, 33, 34, 35, 36, 37, 38")]
    pub body: Option<Body>,
}

/// The one body of a content.
#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Body {
    #[prost(message, tag = "16")]
    Text(Text),
    #[prost(message, tag = "17")]
    Edit(Edit),
    #[prost(message, tag = "18")]
    Reaction(Reaction),
    #[prost(message, tag = "19")]
    Delete(Delete),
    #[prost(message, tag = "21")]
    Receipt(Receipt),
    #[prost(message, tag = "23")]
    Profile(Profile),
    #[prost(message, tag = "24")]
    Timer(Timer),
    #[prost(message, tag = "25")]
    Poll(Poll),
    /// A sender key, 128 bytes (section 12.2).
    #[prost(bytes, tag = "32")]
    Skdm(Vec<u8>),
    #[prost(message, tag = "33")]
    SyncSent(SyncSent),
    #[prost(message, tag = "34")]
    SessionCtl(SessionCtl),
    #[prost(message, tag = "35")]
    Devlist(DevListUpdate),
    #[prost(message, tag = "36")]
    MembershipOps(MembershipOps),
    #[prost(message, tag = "37")]
    Resent(Resent),
    #[prost(message, tag = "38")]
    OwnState(OwnState),
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Text {
    #[prost(string, tag = "1")]
    pub body: String,
    /// Message reference, or empty.
    #[prost(bytes = "vec", tag = "2")]
    pub reply_to: Vec<u8>,
    /// Message reference, or empty.
    #[prost(bytes = "vec", tag = "3")]
    pub thread_root: Vec<u8>,
    /// User ids, 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub mentions: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    pub files: Vec<FileRef>,
}

/// An encrypted file at the server, with its key (section 13).
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct FileRef {
    /// The server's id of the blob, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub blob_id: Vec<u8>,
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// True size of the plaintext, in bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// SHA-256 of the whole blob.
    #[prost(bytes = "vec", tag = "4")]
    pub blob_hash: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(string, tag = "6")]
    pub mime: String,
    /// 1 file, 2 thumbnail, 3 archive: part of the key derivation of section 13.
    #[prost(uint32, tag = "7")]
    pub role: u32,
    #[prost(message, optional, boxed, tag = "8")]
    pub thumbnail: Option<Box<FileRef>>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Edit {
    /// Message reference.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub text: Option<Text>,
    /// At least 1.
    #[prost(uint32, tag = "3")]
    pub rev: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Reaction {
    /// Message reference.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
    /// 1..64 bytes.
    #[prost(string, tag = "2")]
    pub emoji: String,
    #[prost(bool, tag = "3")]
    pub remove: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Delete {
    /// Message reference.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Receipt {
    /// 1 delivered, 2 read; others are from a newer client and mean nothing here.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Message ids of the addressee's messages in `conv`, 1..100.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub ids: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    pub conv: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Profile {
    #[prost(string, tag = "1")]
    pub display_name: String,
    #[prost(string, tag = "2")]
    pub about: String,
    #[prost(message, optional, tag = "3")]
    pub avatar: Option<FileRef>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Timer {
    /// 0 or 5..31,536,000.
    #[prost(uint32, tag = "1")]
    pub seconds: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Poll {
    #[prost(string, tag = "1")]
    pub question: String,
    /// 2..10.
    #[prost(string, repeated, tag = "2")]
    pub options: Vec<String>,
    #[prost(bool, tag = "3")]
    pub multiple: bool,
    #[prost(bool, tag = "4")]
    pub anonymous: bool,
    #[prost(uint64, tag = "5")]
    pub closes_ms: u64,
}

/// What the user sent from another of the own devices.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct SyncSent {
    /// The user addressed, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub conv: Vec<u8>,
    /// An encoded [`Content`].
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
}

/// Session control (section 10.5). Kind 1 names either a DM frame (`session_id`, `ratchet_pub`, `n`) or a channel frame.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct SessionCtl {
    /// 1 retry, 2 chain wanted, 3 bad channel signature, 4 acknowledge.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub session_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub ratchet_pub: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub n: u32,
    #[prost(bytes = "vec", tag = "5")]
    pub channel_id: Vec<u8>,
    #[prost(uint32, tag = "6")]
    pub chain_id: u32,
    #[prost(uint32, tag = "7")]
    pub iteration: u32,
}

/// Consecutive device lists, oldest first, and the certificates that they name.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct DevListUpdate {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub lists: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub certs: Vec<Vec<u8>>,
}

/// Where a membership log stands (section 11.6).
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct MembershipOps {
    #[prost(bytes = "vec", tag = "1")]
    pub channel_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub log_id: Vec<u8>,
    /// The whole genesis op.
    #[prost(bytes = "vec", tag = "3")]
    pub genesis: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub head_seq: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub head: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub ops: Vec<Vec<u8>>,
}

/// A channel message that its author sends once more in a session.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Resent {
    #[prost(bytes = "vec", tag = "1")]
    pub channel_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub chain_id: u32,
    #[prost(uint32, tag = "3")]
    pub iteration: u32,
    /// An encoded [`Content`].
    #[prost(bytes = "vec", tag = "4")]
    pub content: Vec<u8>,
}

/// What the own devices tell each other about trust.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct OwnState {
    #[prost(message, repeated, tag = "1")]
    pub verified: Vec<Verified>,
    #[prost(uint64, tag = "2")]
    pub backup_epoch: u64,
    #[prost(uint64, tag = "3")]
    pub backup_counter: u64,
    /// `log_id ‖ genesis head`, 48 bytes each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub pins: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Verified {
    #[prost(bytes = "vec", tag = "1")]
    pub user_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub uik: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub when_ms: u64,
    /// 1 digits, 2 code.
    #[prost(uint32, tag = "4")]
    pub how: u32,
    /// 0 unverified, 1 verified.
    #[prost(uint32, tag = "5")]
    pub state: u32,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { msg_id, sent_ms, conv, own_list: _, seen_list: _, expires_s, body } = self;
        let kind = body.as_ref().map_or("unknown", Body::name);
        f.debug_struct("Content")
            .field("msg_id", msg_id)
            .field("sent_ms", sent_ms)
            .field("conv", conv)
            .field("expires_s", expires_s)
            .field("body", &format_args!("{kind}"))
            .finish_non_exhaustive()
    }
}

impl Body {
    /// The field's name in `content.proto`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Edit(_) => "edit",
            Self::Reaction(_) => "reaction",
            Self::Delete(_) => "delete",
            Self::Receipt(_) => "receipt",
            Self::Profile(_) => "profile",
            Self::Timer(_) => "timer",
            Self::Poll(_) => "poll",
            Self::Skdm(_) => "skdm",
            Self::SyncSent(_) => "sync_sent",
            Self::SessionCtl(_) => "session_ctl",
            Self::Devlist(_) => "devlist",
            Self::MembershipOps(_) => "membership_ops",
            Self::Resent(_) => "resent",
            Self::OwnState(_) => "own_state",
        }
    }
}

macro_rules! redacted {
    ($($name:ident),+ $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}
redacted!(
    Text,
    FileRef,
    Edit,
    Reaction,
    Delete,
    Receipt,
    Profile,
    Timer,
    Poll,
    SyncSent,
    SessionCtl,
    DevListUpdate,
    MembershipOps,
    Resent,
    OwnState,
    Verified
);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({}, ..)", self.name())
    }
}
