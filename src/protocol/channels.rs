//! Channels and direct messages as places (`docs/PROTOCOL.md` 3); their content is in [`super::messages`].

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Blob, Timestamp, null_is_default};
use super::communities::Visibility;
use super::ids::{ChannelId, CommunityId, GroupId, LogId, UserId};
use super::users::User;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    #[default]
    Text,
    Voice,
    Announcement,
    Dm,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    pub id: ChannelId,
    pub kind: ChannelKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_id: Option<CommunityId>,
    /// A hint (`docs/PROTOCOL.md` 9.20): it holds only if equal to `id` or attached in that verified log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_id: Option<LogId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub slow_mode_s: u32,
    #[serde(default)]
    pub archived: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_ttl_s: Option<u32>,
    #[serde(default)]
    pub position: i32,
    #[serde(default)]
    pub head_seq: u64,
    /// First cursor for this caller's device; absent in events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_seq: Option<u64>,
    /// Per caller; absent in events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub my_read_seq: Option<u64>,
    /// The other person of a DM; per caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<User>,
    pub created_at: Timestamp,
}

/// `POST /groups/{id}/channels`; `log_op` attaches it, or is the `create` op of a private channel's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateChannel {
    pub id: ChannelId,
    pub name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub kind: ChannelKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub visibility: Visibility,
    pub log_op: Blob,
}

/// `PATCH /channels/{id}`: absent or null leaves a field as it is, an empty text clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateChannel {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_mode_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// Seconds; 0 clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_ttl_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<i32>,
}

/// `DELETE /channels/{id}`: the `detach` op, or nothing for a channel with a log of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteChannel {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_op: Option<Blob>,
}

/// `POST /dms`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenDm {
    pub user_id: UserId,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotifyLevel {
    #[default]
    All,
    Mentions,
    None,
}

/// `GET/PUT /channels/{id}/settings`: the caller's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelSettings {
    pub muted: bool,
    pub pinned: bool,
    pub archived: bool,
    pub notify: NotifyLevel,
}

/// One line of `GET /channels/unread`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unread {
    pub channel_id: ChannelId,
    pub unread: u64,
    pub head_seq: u64,
    pub read_seq: u64,
}

/// `PUT /channels/{id}/read`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkRead {
    pub seq: u64,
}
