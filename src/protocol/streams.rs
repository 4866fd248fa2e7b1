//! Events of the streams that are not channels: users, communities and private groups (`docs/PROTOCOL.md` 8).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use super::channels::{Channel, ChannelSettings};
use super::codec::Blob;
use super::communities::{Community, Group, Member};
use super::ids::{ChannelId, CommunityId, GroupId, LogId, StreamId, UserId};
use super::messages::Row;
use super::users::Contact;

/// Why somebody is not a member any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovalReason {
    Kicked,
    Banned,
    Left,
    Deleted,
    #[serde(other)]
    Other,
}

/// An event of a user's, a community's or a private group's stream. Events hold whole objects: applying one twice is harmless.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    // The user stream.
    ChannelAdded {
        channel: Channel,
    },
    CommunityAdded {
        community: Community,
    },
    CommunityRemoved {
        community_id: CommunityId,
        reason: RemovalReason,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<Blob>,
    },
    ReadMarker {
        channel_id: ChannelId,
        seq: u64,
    },
    DeviceList {
        user_id: UserId,
        list_seq: u64,
    },
    Settings {
        channel_id: ChannelId,
        settings: ChannelSettings,
    },
    Contact {
        contact: Contact,
    },
    ContactRemoved {
        user_id: UserId,
    },
    // Community and private group streams.
    LogOp {
        log_id: LogId,
        log_seq: u64,
        op: Blob,
    },
    Community {
        community: Community,
    },
    Member {
        member: Member,
    },
    MemberRemoved {
        user_id: UserId,
        reason: RemovalReason,
    },
    Group {
        group: Group,
    },
    GroupRemoved {
        group_id: GroupId,
    },
    Channel {
        channel: Channel,
    },
    // Both.
    ChannelRemoved {
        channel_id: ChannelId,
    },
    /// A kind of a newer server: its seq counts, its content is ignored.
    #[serde(other)]
    Unknown,
}

/// A row of a channel's log or an event of another stream: `kind: "channel"` exists in both, so the stream decides.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    Row(Box<Row>),
    Event(Box<Event>),
}

impl Serialize for StreamItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Row(row) => row.serialize(serializer),
            Self::Event(event) => event.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StreamItem {
    /// Rows have a `seq` of their own beside `channel_id` and `id`; events have not.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Row(Box<Row>),
            Event(Box<Event>),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::Row(row)) => Ok(Self::Row(row)),
            Ok(Either::Event(event)) => Ok(Self::Event(event)),
            Err(_) => Err(de::Error::custom("neither a row nor an event")),
        }
    }
}

/// One event of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamEvent {
    pub stream: StreamId,
    pub seq: u64,
    #[schema(value_type = Object)]
    pub event: StreamItem,
}
