//! What there is: communities, groups, channels and members as the server shows them, loaded when nothing is known of what
//! happened meanwhile (a new device, a stream that outlived its past, a restored server), and taken up or given up when the
//! streams say so.

use crate::client::store::{StoreError, Table};
use crate::protocol::channels::Channel;
use crate::protocol::communities::{Community, Group, Member, Visibility};
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, LogId, StreamId};
use crate::protocol::users::Page;

use super::db::key;
use super::http::{self, Failure};
use super::sync::Phase;
use super::{Cx, Engine};

/// Requests that wait.
const LOADS_MAX: usize = 10_000;

/// Something of the server's view that has to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    Communities(Option<String>),
    Channels,
    /// With the cursor of the page.
    Groups(CommunityId, Option<String>),
    Members(CommunityId, Option<String>),
    Channel(ChannelId),
}

impl Load {
    pub(super) fn path(&self) -> String {
        match self {
            Self::Communities(cursor) => paged("/communities", cursor.as_deref()),
            Self::Channels => "/channels".to_owned(),
            Self::Groups(id, cursor) => paged(&format!("/communities/{id}/groups"), cursor.as_deref()),
            Self::Members(id, cursor) => paged(&format!("/communities/{id}/members"), cursor.as_deref()),
            Self::Channel(id) => format!("/channels/{id}"),
        }
    }
}

/// In [`Table::Account`], of a community: all its groups, or all its members, were loaded, to the last page. From then on its
/// stream tells what changes.
fn loaded(id: CommunityId, what: &Load) -> Vec<u8> {
    let what: &[u8] = if matches!(what, Load::Groups(..)) { b"groups" } else { b"members" };
    key(&[b"loaded/", id.as_bytes(), what])
}

/// What is not part of the past of a community's stream.
const fn aside(id: CommunityId) -> [Load; 2] {
    [Load::Groups(id, None), Load::Members(id, None)]
}

impl Engine {
    /// What a cut or the end of the client kept from being loaded. The server names a stream that is not followed here: a
    /// community or a channel was gained and its answer never came. Members and groups of a community did not come to the end,
    /// or a channel stands in a group that is not here.
    pub(super) fn reload_missing(&mut self, cx: &Cx<'_>) -> Result<(), StoreError> {
        if self.sync.snapshot && self.sync.heads.keys().any(|stream| !self.sync.cursors.contains_key(stream)) {
            self.want(Load::Communities(None));
            self.want(Load::Channels);
        }
        let mut missing = Vec::new();
        for load in self.places.communities.keys().flat_map(|id| aside(*id).map(|load| (*id, load))) {
            if !cx.db.has(Table::Account, &loaded(load.0, &load.1))? {
                missing.push(load.1);
            }
        }
        let lost = |channel: &&Channel| channel.group_id.is_some_and(|group| !self.places.groups.contains_key(&group));
        missing.extend(
            self.places.channels.values().filter(lost).filter_map(|channel| Some(Load::Groups(channel.community_id?, None))),
        );
        for load in missing {
            self.want(load);
        }
        Ok(())
    }

    /// Groups and members of a community, whatever was loaded before.
    fn want_aside(&mut self, cx: &mut Cx<'_>, id: CommunityId) {
        for load in aside(id) {
            cx.db.delete(Table::Account, loaded(id, &load));
            self.want(load);
        }
    }

    pub(super) fn want(&mut self, load: Load) {
        if self.sync.loads.len() < LOADS_MAX && !self.sync.loading.contains(&load) {
            self.sync.loads.insert(load);
        }
    }

    pub(super) fn begin_snapshot(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.sync.phase = Phase::Snapshot;
        self.sync.user_head = self.sync.heads.get(&self.me_id().into()).copied().unwrap_or(0);
        let (stream, head) = (self.me_id().into(), self.sync.user_head);
        self.set_cursor(cx, stream, head)?;
        self.mark_all_lists_stale(cx);
        self.want(Load::Communities(None));
        self.want(Load::Channels);
        Ok(())
    }

    pub(super) fn on_load(&mut self, cx: &mut Cx<'_>, load: Load, answer: Result<http::Body, Failure>) -> Result<(), StoreError> {
        self.sync.loading.remove(&load);
        let answer = answer.and_then(|body| if body.is_json() { Ok(body) } else { Err(Failure::Garbled) });
        let body = match answer {
            Ok(body) => body,
            Err(failure) if failure.is_final() => {
                if let Load::Channel(id) = load {
                    self.lose_stream(cx, id.into())?;
                }
                return Ok(());
            }
            Err(failure) => {
                self.timers.back_off(cx.now, failure.retry_after_ms());
                self.want(load);
                return Ok(());
            }
        };
        match load {
            Load::Communities(_) => {
                if let Some(page) = body.parse::<Page<Community>>() {
                    for community in page.items {
                        self.add_community(cx, community)?;
                    }
                    if let Some(cursor) = page.next_cursor {
                        self.want(Load::Communities(Some(cursor)));
                    }
                }
            }
            Load::Channels => {
                if let Some(page) = body.parse::<Page<Channel>>() {
                    for channel in page.items {
                        self.add_channel(cx, channel)?;
                    }
                }
            }
            Load::Channel(_) => {
                if let Some(channel) = body.parse::<Channel>() {
                    self.add_channel(cx, channel)?;
                }
            }
            Load::Groups(id, _) => {
                if let Some(page) = body.parse::<Page<Group>>() {
                    for group in page.items {
                        self.add_group(cx, group)?;
                    }
                    match page.next_cursor {
                        Some(cursor) => self.want(Load::Groups(id, Some(cursor))),
                        None => cx.db.put(Table::Account, loaded(id, &Load::Groups(id, None)), []),
                    }
                }
            }
            Load::Members(id, _) => {
                if let Some(page) = body.parse::<Page<Member>>() {
                    self.places.members.entry(id).or_default();
                    for member in page.items {
                        self.places.put_member(&mut cx.db, id, member)?;
                    }
                    match page.next_cursor {
                        Some(cursor) => self.want(Load::Members(id, Some(cursor))),
                        None => cx.db.put(Table::Account, loaded(id, &Load::Members(id, None)), []),
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_community(&mut self, cx: &mut Cx<'_>, community: Community) -> Result<(), StoreError> {
        let id = community.id;
        if let Some(start) = community.start_seq {
            self.follow(cx, id.into(), start)?;
        }
        let new = !self.places.communities.contains_key(&id);
        self.hint_log_head(id.into(), community.log_head_seq);
        self.places.put_community(&mut cx.db, community)?;
        // A snapshot is taken when nothing is known of what happened meanwhile, in known communities too.
        if new || self.sync.phase == Phase::Snapshot {
            self.want_aside(cx, id);
        }
        self.want_log(id.into());
        Ok(())
    }

    pub(super) fn add_group(&mut self, cx: &mut Cx<'_>, group: Group) -> Result<(), StoreError> {
        if group.visibility == Visibility::Private {
            self.follow(cx, group.id.into(), 0)?;
            self.want_log(group.id.into());
        }
        self.places.put_group(&mut cx.db, group)
    }

    pub(super) fn add_channel(&mut self, cx: &mut Cx<'_>, channel: Channel) -> Result<(), StoreError> {
        let id = channel.id;
        if let Some(start) = channel.start_seq {
            self.follow(cx, id.into(), start)?;
            self.places.update_state(&mut cx.db, id, |state| state.newest = state.newest.max(start))?;
        }
        if let Some(log) = channel.log_id {
            self.want_log(log);
        }
        self.raise_heads([(id.into(), channel.head_seq)].into());
        self.places.put_channel(&mut cx.db, channel)?;
        self.pin_log(cx, id)
    }

    /// A channel, private group or community that this user cannot read any more.
    pub(super) fn lose_stream(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Result<(), StoreError> {
        if self.places.communities.contains_key(&CommunityId(stream.0)) {
            self.lose_community(cx, CommunityId(stream.0))
        } else if self.places.groups.contains_key(&GroupId(stream.0)) {
            self.lose_group(cx, GroupId(stream.0))
        } else {
            self.lose_channel(cx, ChannelId(stream.0))
        }
    }

    fn lose_channel(&mut self, cx: &mut Cx<'_>, id: ChannelId) -> Result<(), StoreError> {
        self.unfollow(cx, id.into());
        self.places.remove_channel(&mut cx.db, id)?;
        self.forget_own_chain(cx, id)?;
        self.outbox_lost_channel(cx, id)
    }

    pub(super) fn lose_group(&mut self, cx: &mut Cx<'_>, id: GroupId) -> Result<(), StoreError> {
        // A channel with a log of its own is lost by its own event.
        let log: LogId = id.into();
        let channels = self.places.channels.values().filter(|channel| channel.group_id == Some(id));
        let channels: Vec<ChannelId> =
            channels.map(|channel| channel.id).filter(|channel| self.places.state(*channel).log == Some(log)).collect();
        for channel_id in channels {
            self.lose_channel(cx, channel_id)?;
        }
        self.unfollow(cx, id.into());
        self.places.remove_group(&mut cx.db, id);
        Ok(())
    }

    pub(super) fn lose_community(&mut self, cx: &mut Cx<'_>, id: CommunityId) -> Result<(), StoreError> {
        let groups: Vec<GroupId> =
            self.places.groups.values().filter(|group| group.community_id == id).map(|group| group.id).collect();
        for channel_id in self.places.remove_community(&mut cx.db, id)? {
            self.lose_channel(cx, channel_id)?;
        }
        for group_id in groups {
            self.unfollow(cx, group_id.into());
        }
        self.unfollow(cx, id.into());
        for load in aside(id) {
            cx.db.delete(Table::Account, loaded(id, &load));
        }
        Ok(())
    }
}

fn paged(path: &str, cursor: Option<&str>) -> String {
    match cursor {
        Some(cursor) => format!("{path}?limit=100&cursor={}", http::escape(cursor)),
        None => format!("{path}?limit=100"),
    }
}
