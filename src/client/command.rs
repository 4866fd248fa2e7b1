//! What a user interface asks of the client: the whole vocabulary, plain data. Every command is answered by exactly one
//! [`super::event::ClientEvent::Done`] with its [`RequestId`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protocol::channels::ChannelSettings;
use crate::protocol::communities::{Role, Visibility};
use crate::protocol::ids::{ChannelId, CommunityId, DeviceId, GroupId, InviteId, MessageId, UserId};
use crate::protocol::users::Status;

use super::model::{Anchor, Domain, MessageRef, Untrusted};

/// Chosen by the caller; the answer repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Where a draft or a message goes: a channel, or a thread in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub channel_id: ChannelId,
    pub thread: Option<MessageRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    // Reading the local store.
    /// → `Answer::Page`
    LoadTimeline {
        place: Place,
        anchor: Anchor,
        limit: usize,
    },
    /// The newest messages of a channel and of all its threads, in their order. → `Answer::Page`
    LoadNewest {
        channel_id: ChannelId,
        limit: usize,
    },
    /// Fetch older history from the server, then `Answer::Page` with what was before the anchor.
    FetchOlder {
        place: Place,
        limit: usize,
    },
    /// → `Answer::Hits`; query syntax: words, "phrases", `from:name in:channel`.
    Search {
        query: String,
        place: Option<Place>,
        limit: usize,
    },
    /// → `Answer::Unsent`: what waits or was refused, in the order of writing.
    ListUnsent,
    /// → `Answer::Members`
    ListMembers {
        channel_id: ChannelId,
    },
    /// Who is banned there, by the signed log. → `Answer::People`
    ListBanned {
        domain: Domain,
    },
    /// → `Answer::People`; contacts and fellow members first, then the server by exact username.
    FindPeople {
        query: String,
    },
    /// → `Answer::Draft`
    LoadDraft {
        place: Place,
    },
    SaveDraft {
        place: Place,
        text: Untrusted,
        reply_to: Option<MessageRef>,
    },

    // Writing.
    /// → `Answer::Queued` at once (it is in the outbox, on disk); delivery shows in the timeline. Removes the draft.
    SendText {
        place: Place,
        text: Untrusted,
        reply_to: Option<MessageRef>,
        mentions: Vec<UserId>,
        /// A UUIDv7 of the caller's, under which the message is sent once however often it is asked for: for who cannot know
        /// whether an answer was lost. None: a new one.
        id: Option<MessageId>,
    },
    EditText {
        channel_id: ChannelId,
        target: MessageRef,
        text: Untrusted,
    },
    Delete {
        channel_id: ChannelId,
        target: MessageRef,
    },
    React {
        channel_id: ChannelId,
        target: MessageRef,
        emoji: String,
        remove: bool,
    },
    /// Try a failed message again, with the same id.
    Retry {
        channel_id: ChannelId,
        id: MessageId,
    },
    /// Forget a message that was not sent.
    Discard {
        channel_id: ChannelId,
        id: MessageId,
    },
    MarkRead {
        channel_id: ChannelId,
        seq: u64,
    },
    /// These messages were shown to the user, who may not have read all of the channel: the clocks of what disappears run.
    Displayed {
        channel_id: ChannelId,
        messages: Vec<MessageRef>,
    },
    /// New messages of everybody there disappear after so many seconds: 0, or 5 to 31,536,000. In channels for admins.
    SetTimer {
        channel_id: ChannelId,
        seconds: u32,
    },
    Typing {
        channel_id: ChannelId,
    },
    SetStatus(Status),
    SetChannelSettings {
        channel_id: ChannelId,
        settings: ChannelSettings,
    },

    // Places.
    /// → `Answer::Community`
    CreateCommunity {
        name: String,
        description: Option<String>,
    },
    /// → `Answer::Group`
    CreateGroup {
        community_id: CommunityId,
        name: String,
        visibility: Visibility,
    },
    /// → `Answer::Channel`
    CreateChannel {
        group_id: GroupId,
        name: String,
        topic: Option<String>,
        visibility: Visibility,
    },
    /// → `Answer::Invite`
    CreateInvite {
        community_id: CommunityId,
        max_uses: Option<u32>,
        expires_in_s: Option<u64>,
    },
    /// A link `chat://…`. → `Answer::Community`
    Join {
        link: InviteText,
    },
    /// Leaving a community leaves what is private inside of it too.
    Leave {
        domain: Domain,
    },
    /// A member of the community becomes one of a private group or channel in it.
    AddMember {
        domain: Domain,
        user_id: UserId,
    },
    /// From a community also out of the private groups and channels inside of it that this user may decide about. A private
    /// group knows no bans.
    Kick {
        domain: Domain,
        user_id: UserId,
        ban: bool,
        reason: Option<String>,
    },
    /// Lifts a ban: they may come back, by an invite or added by an admin.
    Unban {
        domain: Domain,
        user_id: UserId,
    },
    SetRole {
        domain: Domain,
        user_id: UserId,
        role: Role,
    },
    /// → `Answer::Channel`
    OpenDm {
        user_id: UserId,
    },
    /// Why a channel is stopped: signed changes of its members that contradict each other. → `Answer::Forks`, empty while it
    /// runs.
    ShowForks {
        channel_id: ChannelId,
    },
    /// An admin declares one of two such changes void for good; with the last of them the channel goes on. `discard` is
    /// [`Fork::discard`](super::model::Fork::discard) of what the user was shown.
    Resume {
        channel_id: ChannelId,
        discard: String,
    },
    SetTopic {
        channel_id: ChannelId,
        topic: String,
    },

    // Trust.
    /// → `Answer::Safety`
    ShowSafety {
        user_id: UserId,
    },
    /// After comparing: digits on a screen, or a scanned or pasted code.
    Verify {
        user_id: UserId,
        code: Option<String>,
    },
    Unverify {
        user_id: UserId,
    },
    /// Accept a changed identity; the user saw both fingerprints. `send_waiting`: also send what was written for the old one.
    Trust {
        user_id: UserId,
        send_waiting: bool,
    },
    /// → `Answer::Devices` of the own account.
    ListDevices,
    RemoveDevice {
        device_id: DeviceId,
    },
    /// Whether others learn what was delivered to this user and what they have read. `Opened` tells it again.
    SetReceipts {
        on: bool,
    },

    // The instance, for the people who run it.
    /// A code with which accounts are made where that takes one. → `Answer::RegistrationInvites`: this one, with its code.
    CreateRegistrationInvite {
        /// None: as often as wanted.
        max_uses: Option<u32>,
        expires_in_s: Option<u64>,
    },
    /// → `Answer::RegistrationInvites`, newest first, without their codes.
    ListRegistrationInvites,
    RevokeRegistrationInvite {
        id: InviteId,
    },

    // The line.
    /// Try now instead of at the end of the backoff.
    Reconnect,
    /// Answered when nothing is under way that the client does by itself: what the server has is here, what messages wait for
    /// was fetched, keys are in stock, receipts and what could be sent are with the server. That may be never: who asks bounds
    /// the wait. Refused without a line.
    Settle,
    /// End the session on the server and erase the local tokens; the store stays.
    LogOut,
}

/// An invite link or code as typed: it holds a secret, so it does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteText(pub String);

impl fmt::Debug for InviteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteText(…)")
    }
}
