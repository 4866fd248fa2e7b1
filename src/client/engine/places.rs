//! Communities, groups, channels and people as the server shows them, kept in memory and written through to the store.
//! All of it is the server's word: who may read a channel is decided by the signed logs, never here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::model::Untrusted;
use crate::client::store::{Store, StoreError, Table};
use crate::protocol::channels::{Channel, ChannelKind, ChannelSettings};
use crate::protocol::codec::Timestamp;
use crate::protocol::communities::{Community, Group, Member};
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, LogId, UserId};
use crate::protocol::users::{Status, User};

use super::db::{Db, key, unpack};

/// What this client itself knows of a channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ChannelState {
    /// Up to where the user has read.
    pub read_seq: u64,
    pub unread: u64,
    pub mentions: u64,
    /// The newest seq that was applied: where local lines are put.
    pub newest: u64,
    /// Rows up to here are compared with what was here before the server's database was restored; 0: none.
    pub seam: u64,
    /// The oldest seq that is here; rows below it were not fetched.
    pub oldest: Option<u64>,
    pub last_at: Option<Timestamp>,
    /// The membership log, pinned at first sight (`crypto.md` 11.5).
    pub log: Option<LogId>,
    /// Whether it is a conversation of two, pinned at first sight; none before.
    pub dm: Option<bool>,
    /// The peer of a DM, pinned at first sight.
    pub peer: Option<UserId>,
    /// Default lifetime of new messages, seconds; 0 = they stay.
    pub expires_s: u32,
    /// The row that said so; an earlier one that comes later changes nothing.
    pub timer_seq: u64,
    pub has_draft: bool,
    pub settings: ChannelSettings,
    /// Not readable any more: kept for its history.
    pub gone: bool,
}

impl ChannelState {
    /// Whether it is a conversation of two; none before it was seen.
    fn is_dm(&self) -> Option<bool> {
        self.dm.or(self.peer.map(|_| true)).or(self.log.map(|_| false))
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub communities: BTreeMap<CommunityId, Community>,
    pub groups: BTreeMap<GroupId, Group>,
    pub channels: BTreeMap<ChannelId, Channel>,
    pub states: BTreeMap<ChannelId, ChannelState>,
    pub users: BTreeMap<UserId, User>,
    pub members: BTreeMap<CommunityId, BTreeMap<UserId, Member>>,
    /// Of known people only; forgotten when the line goes down.
    pub presence: BTreeMap<UserId, Status>,
    /// The tree has to be told again at the end of the step.
    pub dirty: bool,
}

/// People, places and members that are remembered in all; what a server sends beyond is not kept.
const PEOPLE_MAX: usize = 100_000;
const PLACES_MAX: usize = 20_000;

impl Places {
    pub(super) fn open(store: &dyn Store) -> Result<Self, StoreError> {
        let db = Db::new(store);
        let mut places = Self { dirty: true, ..Self::default() };
        for (_, community) in db.load_all::<Community>(Table::Communities, &[], PLACES_MAX)? {
            places.communities.insert(community.id, community);
        }
        for (_, group) in db.load_all::<Group>(Table::Groups, &[], PLACES_MAX)? {
            places.groups.insert(group.id, group);
        }
        for (_, channel) in db.load_all::<Channel>(Table::Channels, &[], PLACES_MAX)? {
            places.channels.insert(channel.id, channel);
        }
        for (channel, state) in db.scan(Table::ChannelState, &[], PLACES_MAX)? {
            if let Ok(id) = <[u8; 16]>::try_from(channel.as_slice()) {
                places.states.insert(ChannelId::from_bytes(id), unpack(Table::ChannelState, &state)?);
            }
        }
        for (_, user) in db.load_all::<User>(Table::Users, &[], PEOPLE_MAX)? {
            places.users.insert(user.id, user);
        }
        for (at, member) in db.load_all::<Member>(Table::Members, &[], PEOPLE_MAX)? {
            if let Some(community) = at.first_chunk::<16>() {
                places.members.entry(CommunityId::from_bytes(*community)).or_default().insert(member.user.id, member);
            }
        }
        Ok(places)
    }

    pub(super) fn put_community(&mut self, db: &mut Db<'_>, mut community: Community) -> Result<(), StoreError> {
        if !self.communities.contains_key(&community.id) && self.communities.len() >= PLACES_MAX {
            return Ok(());
        }
        if let Some(old) = self.communities.get(&community.id) {
            // Per-caller values are absent in events.
            community.my_role = community.my_role.or(old.my_role);
            community.start_seq = community.start_seq.or(old.start_seq);
        }
        if self.communities.get(&community.id) != Some(&community) {
            db.save(Table::Communities, community.id.as_bytes(), &community)?;
            self.communities.insert(community.id, community);
            self.dirty = true;
        }
        Ok(())
    }

    pub(super) fn put_group(&mut self, db: &mut Db<'_>, mut group: Group) -> Result<(), StoreError> {
        if !self.groups.contains_key(&group.id) && self.groups.len() >= PLACES_MAX {
            return Ok(());
        }
        if let Some(old) = self.groups.get(&group.id) {
            group.my_role = group.my_role.or(old.my_role);
        }
        if self.groups.get(&group.id) != Some(&group) {
            db.save(Table::Groups, group.id.as_bytes(), &group)?;
            self.groups.insert(group.id, group);
            self.dirty = true;
        }
        Ok(())
    }

    pub(super) fn put_channel(&mut self, db: &mut Db<'_>, mut channel: Channel) -> Result<(), StoreError> {
        if !self.channels.contains_key(&channel.id) && self.channels.len() >= PLACES_MAX {
            return Ok(());
        }
        if let Some(peer) = &channel.peer {
            self.put_user(db, peer.clone())?;
        }
        if let Some(old) = self.channels.get(&channel.id) {
            channel.start_seq = channel.start_seq.or(old.start_seq);
            channel.my_read_seq = channel.my_read_seq.or(old.my_read_seq);
            channel.peer = channel.peer.or_else(|| old.peer.clone());
        }
        let mut state = self.state(channel.id);
        // What a channel is never changes, nor whom a DM is with: what is written to the members of a place must not go to
        // somebody whom the server names, and no DM stands among the channels of a community.
        let dm = state.is_dm().unwrap_or(channel.kind == ChannelKind::Dm);
        state.dm = Some(dm);
        if dm {
            state.peer = state.peer.or(channel.peer.as_ref().map(|peer| peer.id));
            (channel.kind, channel.group_id, channel.community_id) = (ChannelKind::Dm, None, None);
        } else {
            channel.peer = None;
            if channel.kind == ChannelKind::Dm {
                channel.kind = ChannelKind::Text;
            }
        }
        state.read_seq = state.read_seq.max(channel.my_read_seq.unwrap_or(0));
        state.gone = false;
        self.put_state(db, channel.id, state)?;
        if self.channels.get(&channel.id) != Some(&channel) {
            db.save(Table::Channels, channel.id.as_bytes(), &channel)?;
            self.channels.insert(channel.id, channel);
            self.dirty = true;
        }
        Ok(())
    }

    pub(super) fn put_user(&mut self, db: &mut Db<'_>, user: User) -> Result<(), StoreError> {
        if self.users.get(&user.id) == Some(&user) || (!self.users.contains_key(&user.id) && self.users.len() >= PEOPLE_MAX) {
            return Ok(());
        }
        db.save(Table::Users, user.id.as_bytes(), &user)?;
        self.users.insert(user.id, user);
        self.dirty = true;
        Ok(())
    }

    pub(super) fn put_member(&mut self, db: &mut Db<'_>, community_id: CommunityId, member: Member) -> Result<(), StoreError> {
        self.put_user(db, member.user.clone())?;
        let members = self.members.entry(community_id).or_default();
        if members.len() >= PEOPLE_MAX {
            return Ok(());
        }
        db.save(Table::Members, key(&[community_id.as_bytes(), member.user.id.as_bytes()]), &member)?;
        members.insert(member.user.id, member);
        self.dirty = true;
        Ok(())
    }

    pub(super) fn remove_member(&mut self, db: &mut Db<'_>, community_id: CommunityId, user_id: UserId) {
        if let Some(members) = self.members.get_mut(&community_id) {
            members.remove(&user_id);
        }
        db.delete(Table::Members, key(&[community_id.as_bytes(), user_id.as_bytes()]));
        self.dirty = true;
    }

    pub(super) fn state(&self, channel_id: ChannelId) -> ChannelState {
        self.states.get(&channel_id).cloned().unwrap_or_default()
    }

    pub(super) fn put_state(&mut self, db: &mut Db<'_>, channel_id: ChannelId, state: ChannelState) -> Result<(), StoreError> {
        if self.states.get(&channel_id) != Some(&state) {
            db.save(Table::ChannelState, channel_id.as_bytes(), &state)?;
            self.states.insert(channel_id, state);
            self.dirty = true;
        }
        Ok(())
    }

    /// Changes the state of one channel.
    pub(super) fn update_state(
        &mut self,
        db: &mut Db<'_>,
        channel_id: ChannelId,
        change: impl FnOnce(&mut ChannelState),
    ) -> Result<(), StoreError> {
        let mut state = self.state(channel_id);
        change(&mut state);
        self.put_state(db, channel_id, state)
    }

    /// A channel that this user cannot read any more; what was said stays in the store.
    pub(super) fn remove_channel(&mut self, db: &mut Db<'_>, channel_id: ChannelId) -> Result<(), StoreError> {
        if self.channels.remove(&channel_id).is_some() {
            db.delete(Table::Channels, channel_id.as_bytes());
            self.update_state(db, channel_id, |state| state.gone = true)?;
            self.dirty = true;
        }
        Ok(())
    }

    pub(super) fn remove_group(&mut self, db: &mut Db<'_>, group_id: GroupId) {
        if self.groups.remove(&group_id).is_some() {
            db.delete(Table::Groups, group_id.as_bytes());
            self.dirty = true;
        }
    }

    /// A community that this user left, with everything in it.
    pub(super) fn remove_community(&mut self, db: &mut Db<'_>, community_id: CommunityId) -> Result<Vec<ChannelId>, StoreError> {
        let channels: Vec<ChannelId> = self.channels_of(community_id).map(|channel| channel.id).collect();
        for &channel_id in &channels {
            self.remove_channel(db, channel_id)?;
        }
        let groups: Vec<GroupId> =
            self.groups.values().filter(|group| group.community_id == community_id).map(|group| group.id).collect();
        for group_id in groups {
            self.remove_group(db, group_id);
        }
        self.members.remove(&community_id);
        db.delete_all(Table::Members, community_id.as_bytes())?;
        if self.communities.remove(&community_id).is_some() {
            db.delete(Table::Communities, community_id.as_bytes());
        }
        self.dirty = true;
        Ok(channels)
    }

    pub(super) fn channels_of(&self, community_id: CommunityId) -> impl Iterator<Item = &Channel> {
        self.channels.values().filter(move |channel| self.community_of(channel) == Some(community_id))
    }

    pub(super) fn community_of(&self, channel: &Channel) -> Option<CommunityId> {
        // It is shown where its group is.
        channel.group_id.and_then(|group| self.groups.get(&group)).map(|group| group.community_id).or(channel.community_id)
    }

    /// The peer of a DM.
    pub(super) fn peer(&self, channel_id: ChannelId) -> Option<UserId> {
        self.states.get(&channel_id).and_then(|state| state.peer)
    }

    pub(super) fn is_dm(&self, channel_id: ChannelId) -> bool {
        let kind = || self.channels.get(&channel_id).is_some_and(|channel| channel.kind == ChannelKind::Dm);
        self.states.get(&channel_id).and_then(ChannelState::is_dm).unwrap_or_else(kind)
    }

    pub(super) fn dm_with(&self, user_id: UserId) -> Option<ChannelId> {
        self.states.iter().find(|(_, state)| state.peer == Some(user_id)).map(|(id, _)| *id)
    }

    /// The name to show: nickname where there is one, display name, username, or the id of a stranger.
    pub(super) fn name(&self, community_id: Option<CommunityId>, user_id: UserId) -> Untrusted {
        let nickname = community_id
            .and_then(|community| self.members.get(&community))
            .and_then(|members| members.get(&user_id))
            .and_then(|member| member.nickname.clone());
        let of_user = || self.users.get(&user_id).map(|user| user.display_name.clone().unwrap_or_else(|| user.username.clone()));
        nickname.or_else(of_user).unwrap_or_else(|| user_id.to_string()).into()
    }

    /// The name in a channel.
    pub(super) fn name_in(&self, channel_id: ChannelId, user_id: UserId) -> Untrusted {
        let community = self.channels.get(&channel_id).and_then(|channel| self.community_of(channel));
        self.name(community, user_id)
    }

    pub(super) fn status(&self, user_id: UserId) -> Status {
        self.presence.get(&user_id).copied().or_else(|| self.users.get(&user_id).map(|user| user.status)).unwrap_or_default()
    }
}
