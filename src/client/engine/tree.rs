//! The rail and the tree, built anew from the places whenever something in them changed.

use std::sync::Arc;

use crate::client::model::{ChannelNode, CommunityNode, Domain, GroupNode, Peer, SendBlock, Tree, Trust, Untrusted};
use crate::protocol::channels::Channel;
use crate::protocol::communities::{Role, Visibility};
use crate::protocol::ids::{CommunityId, LogId};

use super::Engine;
use super::absence::Absence;
use super::membership::LogStatus;

impl Engine {
    pub(super) fn tree(&self) -> Tree {
        let mut communities: Vec<_> = self.places.communities.values().collect();
        communities.sort_by_key(|community| (community.created_at, community.id));
        let mut dms: Vec<Arc<ChannelNode>> = self
            .places
            .channels
            .values()
            .filter(|channel| self.places.is_dm(channel.id))
            .map(|channel| Arc::new(self.channel_node(channel)))
            .collect();
        dms.sort_by_key(|node| std::cmp::Reverse((node.last_at, node.id)));
        Tree {
            communities: communities.into_iter().map(|community| Arc::new(self.community_node(community.id))).collect(),
            dms,
            waiting: self.outbox.waiting(),
        }
    }

    fn community_node(&self, id: CommunityId) -> CommunityNode {
        let (community, me) = (self.places.communities.get(&id), self.me_id());
        let mut groups: Vec<_> = self.places.groups.values().filter(|group| group.community_id == id).collect();
        groups.sort_by_key(|group| (group.position, group.created_at, group.id));
        let groups: Vec<GroupNode> = groups
            .into_iter()
            .map(|group| {
                let mut channels: Vec<&Channel> =
                    self.places.channels.values().filter(|channel| channel.group_id == Some(group.id)).collect();
                channels.sort_by_key(|channel| (channel.position, channel.created_at, channel.id));
                GroupNode {
                    id: group.id,
                    name: group.name.as_str().into(),
                    visibility: group.visibility,
                    my_role: match group.visibility {
                        Visibility::Private => self.role_in_log(group.id.into(), me).or(group.my_role),
                        Visibility::Public => self.role_in_log(id.into(), me),
                    }
                    .unwrap_or(Role::Member),
                    channels: channels.into_iter().map(|channel| Arc::new(self.channel_node(channel))).collect(),
                }
            })
            .collect();
        let channels = || groups.iter().flat_map(|group| &group.channels).filter(|channel| !channel.muted);
        let log = self.logs.get(&id.into());
        CommunityNode {
            id,
            name: community.map(|community| community.name.as_str().into()).unwrap_or_default(),
            description: community.and_then(|community| community.description.as_deref()).map(Untrusted::from),
            // The signed log decides; before it is here, the server's word is shown.
            my_role: self.role_in_log(id.into(), self.me_id()).or_else(|| community.and_then(|c| c.my_role)).unwrap_or(Role::Member),
            member_count: log.map_or_else(|| community.map_or(0, |community| community.member_count), |log| log.member_count()),
            open: community.is_some_and(|community| community.open),
            unread: channels().map(|channel| channel.unread).sum(),
            mentions: channels().map(|channel| channel.mentions).sum(),
            groups,
            warning: match log.map(|log| &log.status) {
                Some(LogStatus::Stopped) => {
                    Some("Two different signed membership changes claim the same place. Nothing is sent here until an admin resolves it.".into())
                }
                Some(LogStatus::Broken(why)) => Some(format!("The server sent a membership change that does not hold: {why}.")),
                Some(LogStatus::Good) | None => None,
            },
        }
    }

    pub(super) fn channel_node(&self, channel: &Channel) -> ChannelNode {
        let state = self.places.state(channel.id);
        let peer_id = state.peer;
        let user = peer_id.and_then(|id| self.places.users.get(&id));
        let log = state.log.and_then(|log| self.logs.get(&log));
        let domain = self.domain_of(channel);
        ChannelNode {
            id: channel.id,
            kind: channel.kind,
            community_id: self.places.community_of(channel),
            group_id: channel.group_id,
            name: match peer_id {
                Some(peer) => self.places.name(None, peer),
                None => channel.name.as_deref().unwrap_or_default().into(),
            },
            topic: channel.topic.as_deref().map(Untrusted::from),
            peer: peer_id.map(|id| Peer {
                user_id: id,
                username: user.map(|user| user.username.as_str().into()).unwrap_or_default(),
                display_name: user.and_then(|user| user.display_name.as_deref()).map(Untrusted::from),
                trust: self.trust_of(id),
                status: self.places.status(id),
            }),
            domain,
            my_role: domain.and_then(|domain| self.role_in_log(domain.log_id(), self.me_id())),
            private: matches!(domain, Some(Domain::Channel(_) | Domain::Group(_))),
            read_only: channel.read_only,
            archived: channel.archived,
            muted: state.settings.muted,
            notify: state.settings.notify,
            unread: state.unread,
            mentions: state.mentions,
            read_seq: state.read_seq,
            newest_seq: state.newest,
            has_draft: state.has_draft,
            last_at: state.last_at,
            member_count: if peer_id.is_some() { 2 } else { log.map_or(0, |log| log.member_count()) },
            expires_s: state.expires_s,
            blocked: self.send_block(channel),
        }
    }

    /// Whose members read a channel, by the log that rules it.
    fn domain_of(&self, channel: &Channel) -> Option<Domain> {
        let log = self.places.states.get(&channel.id)?.log?;
        let own = (log == channel.id.into()).then_some(Domain::Channel(channel.id));
        let of_group = channel.group_id.filter(|group| log == LogId::from(*group)).map(Domain::Group);
        own.or(of_group).or_else(|| self.places.community_of(channel).filter(|id| log == LogId::from(*id)).map(Domain::Community))
    }

    /// Why nothing can be sent into a channel now.
    pub(super) fn send_block(&self, channel: &Channel) -> Option<SendBlock> {
        let state = self.places.states.get(&channel.id)?;
        if let Some(user_id) = state.peer {
            let name = self.places.name(None, user_id);
            return match self.trust_of(user_id) {
                Trust::Changed { was_verified } => Some(SendBlock::IdentityChanged { user_id, name, was_verified }),
                Trust::Stopped => Some(SendBlock::Equivocation { user_id, name }),
                Trust::Unknown | Trust::Unverified | Trust::Verified => {
                    let absence = self.sessions.away.get(&user_id).copied();
                    absence.map(|Absence { dormant, refused }| SendBlock::Away { user_id, name, dormant, refused })
                }
            };
        }
        if channel.archived {
            return Some(SendBlock::Archived);
        }
        if self.is_disputed(channel) {
            return Some(SendBlock::LogStopped);
        }
        let log = self.logs.get(&state.log?)?;
        if log.status == LogStatus::Stopped {
            return Some(SendBlock::LogStopped);
        }
        let Some(role) = self.role_in_log(state.log?, self.me_id()) else { return Some(SendBlock::NotMember) };
        (channel.read_only && role < Role::Moderator).then_some(SendBlock::ReadOnly)
    }
}
