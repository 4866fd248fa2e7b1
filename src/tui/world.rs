//! What the client last said about the world: account, line, tree, who types, who is in a channel. Plain data with questions to
//! ask of it; nothing here decides anything.

use std::collections::HashMap;
use std::sync::Arc;

use crate::client::model::{Account, ChannelNode, CommunityNode, Connection, Domain, GroupNode, MemberInfo, Tree, Untrusted};
use crate::protocol::channels::ChannelKind;
use crate::protocol::codec::Timestamp;
use crate::protocol::communities::Role;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, UserId};
use crate::protocol::users::Status;

use super::text::Clean;

/// How long somebody is shown as typing.
pub const TYPING_MS: i64 = 6000;
const TYPING_MAX: usize = 64;
const MEMBERS_MAX: usize = 64;
const PRESENCE_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct World {
    pub account: Option<Arc<Account>>,
    pub connection: Connection,
    pub tree: Arc<Tree>,
    /// Rows still to come while catching up.
    pub syncing: u64,
    typing: Vec<Typing>,
    members: HashMap<ChannelId, Arc<[MemberInfo]>>,
    presence: HashMap<UserId, Status>,
}

#[derive(Debug)]
struct Typing {
    channel_id: ChannelId,
    user_id: UserId,
    name: Untrusted,
    until: Timestamp,
}

impl World {
    pub fn username(&self) -> &str {
        self.account.as_ref().map_or("", |account| account.username.raw())
    }

    pub fn me(&self) -> Option<UserId> {
        self.account.as_ref().map(|account| account.user_id)
    }

    /// Every channel and DM: DMs first, then community by community.
    pub fn channels(&self) -> impl Iterator<Item = &Arc<ChannelNode>> {
        let in_communities =
            self.tree.communities.iter().flat_map(|community| &community.groups).flat_map(|group| &group.channels);
        self.tree.dms.iter().chain(in_communities)
    }

    pub fn channel(&self, id: ChannelId) -> Option<&Arc<ChannelNode>> {
        self.channels().find(|channel| channel.id == id)
    }

    pub fn community(&self, id: CommunityId) -> Option<&Arc<CommunityNode>> {
        self.tree.communities.iter().find(|community| community.id == id)
    }

    pub fn group(&self, id: GroupId) -> Option<&GroupNode> {
        self.tree.communities.iter().flat_map(|community| &community.groups).find(|group| group.id == id)
    }

    /// This user's role among those who read a place; none when they are not among them.
    pub fn role_in(&self, domain: Domain) -> Option<Role> {
        match domain {
            Domain::Community(id) => self.community(id).map(|community| community.my_role),
            Domain::Group(id) => self.group(id).map(|group| group.my_role),
            Domain::Channel(id) => self.channel(id)?.my_role,
        }
    }

    /// The direct conversation of this user with themselves.
    pub fn is_notes(&self, channel: &ChannelNode) -> bool {
        channel.peer.as_ref().is_some_and(|peer| Some(peer.user_id) == self.me())
    }

    /// `# deploys`, `@ bo`, `@ me (you)`: a channel's name with its kind.
    pub fn title(&self, channel: &ChannelNode) -> Clean {
        let you = if self.is_notes(channel) { " (you)" } else { "" };
        Clean::ours(format!("{} {}{you}", channel_sign(channel), Clean::from_untrusted(&channel.name)))
    }

    pub fn total_unread(&self) -> (u64, u64) {
        self.channels()
            .filter(|channel| !channel.muted)
            .fold((0, 0), |(unread, mentions), channel| (unread + channel.unread, mentions + channel.mentions))
    }

    /// The channel that most deserves to be read next: mentions, then DMs, then the rest in the order of the tree.
    pub fn next_unread(&self, current: Option<ChannelId>) -> Option<ChannelId> {
        let unread = self
            .channels()
            .filter(|channel| Some(channel.id) != current && (channel.mentions > 0 || (channel.unread > 0 && !channel.muted)));
        unread.min_by_key(|channel| (channel.mentions == 0, channel.kind != ChannelKind::Dm)).map(|channel| channel.id)
    }

    pub fn members(&self, channel: ChannelId) -> &[MemberInfo] {
        self.members.get(&channel).map_or(&[], |members| members)
    }

    pub fn set_members(&mut self, channel: ChannelId, members: Vec<MemberInfo>) {
        if self.members.len() >= MEMBERS_MAX {
            self.members.clear();
        }
        self.members.insert(channel, members.into());
    }

    pub fn status(&self, user: UserId) -> Option<Status> {
        self.presence.get(&user).copied()
    }

    pub fn set_status(&mut self, user: UserId, status: Status) {
        if self.presence.len() >= PRESENCE_MAX {
            self.presence.clear();
        }
        self.presence.insert(user, status);
    }

    pub fn typed(&mut self, channel_id: ChannelId, user_id: UserId, name: Untrusted, now: Timestamp) {
        self.typing.retain(|typing| (typing.channel_id, typing.user_id) != (channel_id, user_id));
        if self.typing.len() < TYPING_MAX {
            self.typing.push(Typing { channel_id, user_id, name, until: Timestamp(now.0.saturating_add(TYPING_MS)) });
        }
    }

    /// Somebody wrote: they do not type any more.
    pub fn wrote(&mut self, channel_id: ChannelId, user_id: UserId) {
        self.typing.retain(|typing| (typing.channel_id, typing.user_id) != (channel_id, user_id));
    }

    /// Forgets who stopped. True when somebody did.
    pub fn expire_typing(&mut self, now: Timestamp) -> bool {
        let before = self.typing.len();
        self.typing.retain(|typing| typing.until > now);
        before != self.typing.len()
    }

    pub fn typing_ends(&self) -> Option<Timestamp> {
        self.typing.iter().map(|typing| typing.until).min()
    }

    /// `ana and bo are typing`
    pub fn typing_words(&self, channel: ChannelId) -> Option<String> {
        let mut names: Vec<Clean> = self
            .typing
            .iter()
            .filter(|typing| typing.channel_id == channel)
            .map(|typing| Clean::from_untrusted(&typing.name))
            .collect();
        names.sort();
        match names.as_slice() {
            [] => None,
            [one] => Some(format!("{one} is typing")),
            [one, two] => Some(format!("{one} and {two} are typing")),
            [one, two, rest @ ..] => Some(format!("{one}, {two} and {} more are typing", rest.len())),
        }
    }
}

/// One cell: what kind of channel it is.
pub const fn channel_sign(channel: &ChannelNode) -> &'static str {
    match channel.kind {
        ChannelKind::Dm => "@",
        ChannelKind::Voice => "+",
        ChannelKind::Announcement => "!",
        ChannelKind::Text if channel.private => "~",
        ChannelKind::Text => "#",
    }
}
