//! Rows of a channel's log, sending and paging (`docs/PROTOCOL.md` 4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Blob, Timestamp, null_is_default};
use super::devices::{Copy, DeviceMessage};
use super::ids::{ChannelId, DeviceAddr, DeviceId, EpochId, FileId, MessageId, StreamId, UserId};
use super::streams::StreamEvent;

/// What a row of a channel's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    Message,
    Edit,
    Reaction,
    Delete,
    Pin,
    Unpin,
    Poll,
    PollVote,
    PollClose,
    Member,
    Channel,
    Webhook,
    System,
    /// A kind of a newer server; shown as such, never guessed.
    #[serde(other)]
    Unknown,
}

impl RowKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Edit => "edit",
            Self::Reaction => "reaction",
            Self::Delete => "delete",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Poll => "poll",
            Self::PollVote => "poll_vote",
            Self::PollClose => "poll_close",
            Self::Member => "member",
            Self::Channel => "channel",
            Self::Webhook => "webhook",
            Self::System => "system",
            Self::Unknown => "unknown",
        }
    }

    /// Kinds that a client may send, as opposed to those that the server writes.
    pub const fn is_sendable(self) -> bool {
        matches!(
            self,
            Self::Message | Self::Edit | Self::Reaction | Self::Delete | Self::Pin | Self::Unpin | Self::Poll | Self::PollVote
        )
    }
}

/// One row of a channel's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Row {
    pub id: MessageId,
    pub channel_id: ChannelId,
    /// Gapless in its channel, from 1.
    pub seq: u64,
    /// Head of the channel's membership log when the row was committed; absent in DMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_seq: Option<u64>,
    pub kind: RowKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_device: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext: Option<Blob>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Blob>,
    /// In clear, only for rows that the server or a webhook wrote, and `pin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub body: Option<serde_json::Value>,
    #[serde(default)]
    pub file_ids: Vec<FileId>,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
}

/// The frame `send` and the body of `POST /channels/{id}/messages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Send {
    pub id: MessageId,
    pub channel_id: ChannelId,
    pub kind: RowKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext: Option<Blob>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Blob>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub file_ids: Vec<FileId>,
    /// The server's erase time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u32>,
    /// DMs: one for each current device of the peer and each other own device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<Vec<Copy>>,
    /// DMs: the seq of the device list that was used, by user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::HashMap<String, u64>>)]
    pub device_lists: Option<BTreeMap<UserId, u64>>,
    /// DMs: devices that the client may not write to.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<DeviceAddr>,
}

/// The durable acknowledgement: the row is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sent {
    pub id: MessageId,
    pub channel_id: ChannelId,
    pub seq: u64,
    pub created_at: Timestamp,
    pub duplicate: bool,
}

/// `details` of 409 `stale_devices`: nothing was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StaleDevices {
    pub missing: Vec<DeviceAddr>,
    pub extra: Vec<DeviceAddr>,
    /// Newest list seq by user.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub device_lists: BTreeMap<UserId, u64>,
}

/// `details` of 409 `stale_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StaleLog {
    pub head_seq: u64,
}

/// `details` of 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetryAfter {
    pub retry_after_ms: u64,
}

/// `GET /channels/{id}/messages`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Ascending by `seq`.
    pub items: Vec<Row>,
    /// Later rows aimed at `message` rows of this page (only with `before`), ascending.
    #[serde(default)]
    pub related: Vec<Row>,
    pub has_more: bool,
    pub head_seq: u64,
}

/// `POST /sync`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Last applied seq by stream; only these streams answer with events.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub cursors: BTreeMap<StreamId, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Acknowledged first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_inbox: Option<u64>,
}

/// The answer of `POST /sync`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SyncAnswer {
    pub epoch: EpochId,
    /// Heads of all the caller's streams.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub streams: BTreeMap<StreamId, u64>,
    /// Ascending in each stream.
    pub events: Vec<StreamEvent>,
    /// Named in the request but not readable any more.
    #[serde(default)]
    pub gone: Vec<StreamId>,
    /// The cursor is older than what is kept: take a new snapshot.
    #[serde(default)]
    pub reset: Vec<StreamId>,
    pub more: bool,
    /// The oldest unacknowledged frames of the caller's device, at most 100.
    #[serde(default)]
    pub inbox: Vec<DeviceMessage>,
}
