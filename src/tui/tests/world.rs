//! A world to look at: the team of the design's screens, and everything that text from outside can do.

use super::*;

/// Fri 20 Nov 2026 14:10:30 UTC
pub(in crate::tui) const NOW: Timestamp = Timestamp(1_795_183_830_000);
const MINUTE: i64 = 60_000;

pub(in crate::tui) fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}
pub(in crate::tui) fn channel_id(n: u8) -> ChannelId {
    ChannelId::from_bytes([n; 16])
}
pub(in crate::tui) fn community_id(n: u8) -> CommunityId {
    CommunityId::from_bytes([n; 16])
}
fn group_id(n: u8) -> GroupId {
    GroupId::from_bytes([n; 16])
}

pub(in crate::tui) const ME: u8 = 1;
pub(in crate::tui) const ANA: u8 = 2;
pub(in crate::tui) const BO: u8 = 3;
pub(in crate::tui) const CAROL: u8 = 4;
pub(in crate::tui) const DORA: u8 = 5;
pub(in crate::tui) const DEPLOYS: u8 = 11;
pub(in crate::tui) const WAR_ROOM: u8 = 13;
pub(in crate::tui) const PIXELS: u8 = 14;
pub(in crate::tui) const DM_BO: u8 = 21;

pub(in crate::tui) fn account() -> Account {
    Account {
        user_id: user(ME),
        device_id: 1,
        username: "me".into(),
        server: "https://chat.example.org".to_owned(),
        server_name: "Example".into(),
        fingerprint: "00".repeat(32),
        receipts: true,
    }
}

pub(in crate::tui) fn message(channel: u8, n: u64, author: u8, name: &str, text: &str) -> TimelineItem {
    let mut id = [0; 16];
    id[0] = channel;
    id[8..].copy_from_slice(&n.to_be_bytes());
    TimelineItem {
        channel_id: channel_id(channel),
        key: MessageRef { author: user(author), id: MessageId::from_bytes(id) },
        seq: Some(n),
        revision: 0,
        at: Timestamp(NOW.0 - 60 * MINUTE + i64::try_from(n).unwrap() * MINUTE),
        author_name: name.into(),
        author_trust: Trust::Unverified,
        mine: author == ME,
        body: Body::Text(text.into()),
        reply_to: None,
        thread_root: None,
        thread: None,
        reactions: Vec::new(),
        edited: false,
        mentions_me: false,
        delivery: if author == ME { Delivery::Delivered } else { Delivery::Received },
        marks: Vec::new(),
    }
}

fn channel(n: u8, name: &str, group: u8, unread: u64, mentions: u64) -> ChannelNode {
    ChannelNode {
        id: channel_id(n),
        kind: ChannelKind::Text,
        community_id: Some(community_id(1)),
        group_id: Some(group_id(group)),
        name: name.into(),
        topic: None,
        peer: None,
        domain: Some(community_id(1).into()),
        my_role: Some(Role::Owner),
        private: false,
        read_only: false,
        archived: false,
        muted: false,
        notify: NotifyLevel::All,
        unread,
        mentions,
        read_seq: 0,
        newest_seq: 0,
        has_draft: false,
        last_at: Some(Timestamp(NOW.0 - i64::from(n) * MINUTE)),
        member_count: 14,
        expires_s: 0,
        blocked: None,
    }
}

pub(in crate::tui) fn dm(n: u8, peer: u8, name: &str, unread: u64) -> ChannelNode {
    ChannelNode {
        kind: ChannelKind::Dm,
        community_id: None,
        group_id: None,
        domain: None,
        my_role: None,
        member_count: 2,
        peer: Some(Peer {
            user_id: user(peer),
            username: name.into(),
            display_name: None,
            trust: Trust::Unverified,
            status: Status::Online,
        }),
        ..channel(n, name, 0, unread, 0)
    }
}

/// What the fake client answers from.
#[derive(Clone)]
pub(in crate::tui) struct Store {
    pub tree: Arc<Tree>,
    pub items: Vec<Arc<TimelineItem>>,
    pub members: Vec<MemberInfo>,
    pub draft: String,
}

impl Store {
    pub(in crate::tui) fn empty() -> Self {
        Self { tree: Arc::default(), items: Vec::new(), members: Vec::new(), draft: String::new() }
    }

    /// The team of the design's first screen.
    pub(in crate::tui) fn team() -> Self {
        let mut deploys = channel(DEPLOYS, "deploys", 1, 3, 0);
        deploys.topic = Some("canary, rollbacks, who has the pager".into());
        deploys.read_seq = 53;
        deploys.newest_seq = 59;
        deploys.last_at = Some(NOW);
        let acme = CommunityNode {
            id: community_id(1),
            name: "Acme".into(),
            description: None,
            my_role: Role::Owner,
            member_count: 14,
            open: false,
            unread: 4,
            mentions: 1,
            groups: vec![
                GroupNode {
                    id: group_id(1),
                    name: "backend".into(),
                    visibility: Visibility::Public,
                    my_role: Role::Owner,
                    channels: vec![
                        Arc::new(channel(10, "general", 1, 0, 0)),
                        Arc::new(deploys),
                        Arc::new(channel(12, "incident", 1, 1, 1)),
                        Arc::new(ChannelNode { private: true, ..channel(WAR_ROOM, "war room", 1, 2, 0) }),
                    ],
                },
                GroupNode {
                    id: group_id(2),
                    name: "design".into(),
                    visibility: Visibility::Public,
                    my_role: Role::Owner,
                    channels: vec![Arc::new(channel(PIXELS, "pixels", 2, 0, 0))],
                },
            ],
            warning: None,
        };
        let other = |n, name: &str, unread| CommunityNode {
            id: community_id(n),
            name: name.into(),
            unread,
            mentions: 0,
            my_role: Role::Member,
            groups: Vec::new(),
            ..acme.clone()
        };
        let tree = Tree {
            communities: vec![Arc::new(acme.clone()), Arc::new(other(2, "Rustaceans", 0)), Arc::new(other(3, "Home", 2))],
            dms: vec![Arc::new(dm(DM_BO, BO, "bo", 2)), Arc::new(dm(22, CAROL, "carol", 0))],
            waiting: 0,
        };
        let root = message(
            DEPLOYS,
            52,
            ANA,
            "ana",
            "canary is red on two hosts, log:\n```\njournalctl -u api -S -10m | grep panic\n```",
        );
        let in_thread =
            |n, author, name, text| TimelineItem { thread_root: Some(root.key), ..message(DEPLOYS, n, author, name, text) };
        let items = vec![
            TimelineItem {
                reactions: vec![
                    Reaction { emoji: "👍".into(), count: 2, mine: true },
                    Reaction { emoji: "🚀".into(), count: 1, mine: false },
                ],
                thread: Some(ThreadInfo { replies: 3, last_at: Timestamp(NOW.0 - MINUTE) }),
                ..root.clone()
            },
            TimelineItem {
                reply_to: Some(Quote {
                    target: root.key,
                    author_name: "ana".into(),
                    text: Some("canary is red on two hosts, log".into()),
                }),
                ..message(DEPLOYS, 53, ME, "me", "rolling back")
            },
            in_thread(54, BO, "bo", "rolling back to 41"),
            in_thread(55, ANA, "ana", "ok, watching"),
            in_thread(58, BO, "bo", "green again"),
            TimelineItem { mentions_me: true, ..message(DEPLOYS, 59, CAROL, "carol", "@me who has the pager?") },
            TimelineItem { seq: None, delivery: Delivery::Waiting, ..message(DEPLOYS, 60, ME, "me", "me until six") },
        ];
        let member = |n, name: &str, role, trust, status| MemberInfo {
            user_id: user(n),
            name: name.into(),
            username: name.into(),
            role,
            status,
            trust,
            unsigned: false,
        };
        let members = vec![
            member(ME, "me", Role::Owner, Trust::Verified, Status::Online),
            member(ANA, "ana", Role::Admin, Trust::Verified, Status::Online),
            member(BO, "bo", Role::Member, Trust::Unverified, Status::Idle),
            MemberInfo { unsigned: true, ..member(CAROL, "carol", Role::Member, Trust::Unverified, Status::Offline) },
        ];
        Self { tree: Arc::new(tree), items: items.into_iter().map(Arc::new).collect(), members, draft: String::new() }
    }

    /// The team where `war room` is a private channel, and `design` a private group, in which this user has a role.
    pub(in crate::tui) fn private(role: Role) -> Self {
        let mut store = Self::team();
        store.edit(WAR_ROOM, |channel| {
            (channel.domain, channel.my_role, channel.member_count) = (Some(channel.id.into()), Some(role), 4);
        });
        store.edit(PIXELS, |channel| {
            (channel.domain, channel.my_role, channel.private) = (Some(group_id(2).into()), Some(role), true);
        });
        store.edit(DEPLOYS, |channel| channel.my_role = Some(role));
        let tree = Arc::make_mut(&mut store.tree);
        let acme = Arc::make_mut(&mut tree.communities[0]);
        acme.my_role = role;
        (acme.groups[1].visibility, acme.groups[1].my_role) = (Visibility::Private, role);
        store.members[0].role = role;
        let dora = MemberInfo { user_id: user(DORA), name: "dora".into(), username: "dora".into(), ..store.members[2].clone() };
        store.members.push(dora);
        store
    }

    /// The team, and a conversation of this user with themselves.
    pub(in crate::tui) fn with_notes() -> Self {
        let mut store = Self::team();
        Arc::make_mut(&mut store.tree).dms.push(Arc::new(dm(23, ME, "me", 0)));
        store
    }

    /// A long history in one channel.
    pub(in crate::tui) fn long(count: u64) -> Self {
        let mut store = Self::team();
        store.items = (1..=count)
            .map(|n| {
                let (author, name) = [(ANA, "ana"), (BO, "bo"), (ME, "me")][usize::try_from(n / 3 % 3).unwrap()];
                Arc::new(message(DEPLOYS, n, author, name, &format!("message number {n}")))
            })
            .collect();
        store.edit(DEPLOYS, |channel| {
            channel.unread = 0;
            channel.read_seq = count;
            channel.newest_seq = count;
        });
        store
    }

    /// Changes a channel of the tree.
    pub(in crate::tui) fn edit(&mut self, n: u8, change: impl Fn(&mut ChannelNode)) {
        let tree = Arc::make_mut(&mut self.tree);
        let in_communities =
            tree.communities.iter_mut().flat_map(|node| &mut Arc::make_mut(node).groups).flat_map(|group| &mut group.channels);
        for channel in tree.dms.iter_mut().chain(in_communities).filter(|channel| channel.id == channel_id(n)) {
            change(Arc::make_mut(channel));
        }
    }

    /// What the local store would answer; none for what goes to the server.
    pub(in crate::tui) fn answer(&self, command: &Command) -> Option<Result<Answer, Problem>> {
        let answer = match command {
            Command::LoadTimeline { place, anchor, limit } => {
                let items: Vec<_> = self
                    .items
                    .iter()
                    .filter(|item| {
                        item.channel_id == place.channel_id
                            && place
                                .thread
                                .map_or(item.thread_root.is_none(), |root| item.thread_root == Some(root) || item.key == root)
                    })
                    .cloned()
                    .collect();
                let index = |key: &MessageRef| items.iter().position(|item| item.key == *key).unwrap_or(0);
                let unread = || items.iter().position(|item| item.seq.is_some_and(|seq| seq > 53)).unwrap_or(items.len());
                let (from, to) = match anchor {
                    Anchor::Newest => (items.len().saturating_sub(*limit), items.len()),
                    Anchor::Before(key) => (index(key).saturating_sub(*limit), index(key)),
                    Anchor::After(key) => (index(key) + 1, index(key) + 1 + limit),
                    Anchor::Around(key) => (index(key).saturating_sub(limit / 2), index(key) + limit / 2),
                    Anchor::FirstUnread => (unread().saturating_sub(limit / 2), unread() + limit / 2),
                };
                let to = to.min(items.len());
                Answer::Page(TimelinePage {
                    channel_id: place.channel_id,
                    thread: place.thread,
                    items: items[from.min(to)..to].to_vec(),
                    at_start: from == 0,
                    at_end: to == items.len(),
                    missing_before: 0,
                })
            }
            Command::LoadDraft { .. } => Answer::Draft { text: Untrusted::new(self.draft.clone()), reply_to: None },
            // In private places are the first three.
            Command::ListMembers { channel_id } => {
                let mut nodes = self.tree.communities.iter().flat_map(|node| &node.groups).flat_map(|group| &group.channels);
                let domain = nodes.find(|node| node.id == *channel_id).and_then(|node| node.domain);
                let count = if matches!(domain, Some(Domain::Group(_) | Domain::Channel(_))) { 3 } else { self.members.len() };
                Answer::Members(self.members[..count.min(self.members.len())].to_vec())
            }
            _ => return None,
        };
        Some(Ok(answer))
    }
}
