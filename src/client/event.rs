//! What the client tells a user interface: the whole vocabulary, plain data.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::auth::RegistrationInvite;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, MessageId, UserId};
use crate::protocol::users::Status;

use super::command::{Place, RequestId};
use super::model::{
    Account, Connection, DeviceInfo, Fork, InviteLink, MemberInfo, MessageRef, Person, Problem, SafetyNumber, SearchHit,
    TimelineItem, TimelinePage, Tree, Unsent, Untrusted,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientEvent {
    /// First event after opening a profile.
    Opened {
        account: Arc<Account>,
        tree: Arc<Tree>,
    },
    Connection(Connection),
    /// The rail and the tree changed.
    Tree(Arc<Tree>),
    /// Items that are new or changed, in the server's order; many messages at once are one event.
    Timeline {
        channel_id: ChannelId,
        items: Vec<Arc<TimelineItem>>,
    },
    /// Items that are gone without a trace (discarded, or replaced by their committed form under another key).
    TimelineRemoved {
        channel_id: ChannelId,
        keys: Vec<MessageRef>,
    },
    /// Somebody types; shown for six seconds.
    Typing {
        channel_id: ChannelId,
        user_id: UserId,
        name: Untrusted,
    },
    Presence {
        user_id: UserId,
        status: Status,
    },
    /// A message that deserves the user's attention arrived while nobody was looking at it.
    Attention {
        place: Place,
        from: Untrusted,
        text: Untrusted,
        mention: bool,
    },
    /// Something the user must know that is not the answer to a command.
    Notice(Problem),
    /// Catching up: rows still to come; 0 when done: once after every connection, behind all that was caught up with.
    Syncing {
        remaining: u64,
    },
    /// The answer to a command.
    Done {
        request: RequestId,
        result: Result<Answer, Problem>,
    },
    /// The client ended; nothing follows.
    Closed,
}

/// What a command brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, with nothing to tell.
    Ok,
    Page(TimelinePage),
    Hits(Vec<SearchHit>),
    Unsent(Vec<Unsent>),
    Members(Vec<MemberInfo>),
    Forks(Vec<Fork>),
    People(Vec<Person>),
    Draft {
        text: Untrusted,
        reply_to: Option<MessageRef>,
    },
    Queued {
        id: MessageId,
    },
    Community(CommunityId),
    Group(GroupId),
    Channel(ChannelId),
    Invite(InviteLink),
    RegistrationInvites(Vec<RegistrationInvite>),
    Safety(SafetyNumber),
    Devices(Vec<DeviceInfo>),
}
