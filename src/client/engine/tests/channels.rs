//! Channels: sender keys, joining, kicking with rotation, private places, ops that race.

use super::*;
use crate::client::store::{Changes, From, Lines, StoreError, StoredMessage, Table, TextQuery, Value};
use crate::protocol::communities::Role;

#[test]
fn three_members_read_each_other_and_the_server_nothing() {
    let (mut world, _, channel) = World::shared(&["ana", "bo", "carol"]);
    for (who, text) in [(0, "canary is red"), (1, "rolling back"), (2, "who has the pager?")] {
        world.say(who, channel, text);
        world.settle();
    }
    assert_eq!(world.agreed(channel, &[0, 1, 2]), ["canary is red", "rolling back", "who has the pager?"]);
    world.server_never_saw("canary");
    assert_eq!(world.node(2, channel).member_count, 3);
    assert_eq!(world.node(2, channel).unread, 2);
    for who in 0..3 {
        assert!(world.notices(who).is_empty(), "{:?}", world.notices(who));
    }
}

#[test]
fn a_removed_member_cannot_read_what_follows_and_the_others_rotate() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    world.say(0, channel, "carol reads this");
    world.say(1, channel, "and this");
    world.settle();
    let chain = |world: &World| world.clients[0].engine.own_chains[&channel].chain.chain_id();
    let before = chain(&world);
    let carol = world.id(2);
    assert_eq!(
        world.ask(0, Command::Kick { domain: community_id.into(), user_id: carol, ban: false, reason: None }),
        Ok(Answer::Ok)
    );
    world.settle();
    world.say(0, channel, "without carol");
    world.say(1, channel, "really");
    world.settle();
    assert_ne!(chain(&world), before, "the sender key was rotated");
    let texts = world.agreed(channel, &[0, 1]);
    assert!(texts.contains(&"without carol".to_owned()) && texts.contains(&"really".to_owned()));
    assert!(world.notices(2).iter().any(|text| text.contains("removed")));
    assert!(world.tree(2).communities.is_empty());
    // Carol's device was sent no key of the new chains, even with the help of the server.
    let given = world.clients[0].store.scan(Table::ChainGiven, channel.as_bytes(), None, 100).unwrap();
    let new_chain = chain(&world).to_be_bytes();
    assert!(given.iter().all(|(at, _)| at[16..20] != new_chain || at[20..36] != *carol.as_bytes()));
    let last = world.server.channels[&channel].rows.last().unwrap().clone();
    let addr = world.clients[2].addr.unwrap();
    let mut row = world.server.row_for(&last, addr);
    row.seq = 1;
    let seen = world.clients[2].lines.get(&channel).cloned().unwrap_or_default();
    assert!(seen.values().all(|item| text_of(item).as_deref() != Some("really")));
}

/// The key under which the newest row of a channel was sealed.
fn chain_of_newest(world: &World, channel: ChannelId) -> u32 {
    let row = &world.server.channels[&channel].rows.last().unwrap().row;
    match crate::crypto::frame::Frame::parse(&row.ciphertext.as_ref().unwrap().0) {
        Ok(crate::crypto::frame::Frame::Channel(frame)) => frame.chain_id,
        _ => panic!("a row of a channel"),
    }
}

/// A community whose server would take frames from before a removal, and pass them to whom was removed. Bo is an admin.
fn world_with_a_server_that_forgets_removals() -> (World, CommunityId, ChannelId) {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    let bo = world.id(1);
    world.ask(0, Command::SetRole { domain: community_id.into(), user_id: bo, role: Role::Admin }).unwrap();
    world.say(0, channel, "for all three");
    world.settle();
    world.server.forgets_removals = true;
    (world, community_id, channel)
}

#[test]
fn what_waits_when_a_removal_is_learned_is_sealed_anew() {
    let (mut world, community_id, channel) = world_with_a_server_that_forgets_removals();
    let before = chain_of_newest(&world, channel);
    world.server.refuse_sends = Some((crate::protocol::error::ErrorCode::Unavailable, 1));
    world.server.refuse_details = Some(serde_json::json!({ "retry_after_ms": 60_000 }));
    world.say(0, channel, "not for carol");
    world.settle();
    assert_eq!(world.tree(0).waiting, 1);
    let carol = world.id(2);
    world.ask(1, Command::Kick { domain: community_id.into(), user_id: carol, ban: false, reason: None }).unwrap();
    world.settle();
    world.advance(60_000);
    assert_eq!(world.agreed(channel, &[0, 1]), ["for all three", "not for carol"]);
    assert_ne!(chain_of_newest(&world, channel), before, "a frame that carol can read left after her removal was known");
}

#[test]
fn what_was_on_a_line_that_died_waits_for_what_changed_meanwhile() {
    let (mut world, community_id, channel) = world_with_a_server_that_forgets_removals();
    let before = chain_of_newest(&world, channel);
    // The line is dead, and ana does not know it yet.
    world.server.online.remove(&world.clients[0].addr.unwrap());
    world.clients[0].online = false;
    world.say(0, channel, "not for carol");
    let carol = world.id(2);
    world.ask(1, Command::Kick { domain: community_id.into(), user_id: carol, ban: false, reason: None }).unwrap();
    world.settle();
    world.disconnect(0);
    world.connect(0);
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1]), ["for all three", "not for carol"]);
    assert_ne!(chain_of_newest(&world, channel), before, "it left before ana had looked who is still there");
}

#[test]
fn what_the_server_took_before_the_line_died_is_there_once_and_as_it_was() {
    let (mut world, community_id, channel) = world_with_a_server_that_forgets_removals();
    let before = chain_of_newest(&world, channel);
    world.server.lose_answers = 1;
    world.server.online.remove(&world.clients[0].addr.unwrap());
    world.say(0, channel, "while carol was there");
    let carol = world.id(2);
    world.ask(1, Command::Kick { domain: community_id.into(), user_id: carol, ban: false, reason: None }).unwrap();
    world.disconnect(0);
    world.connect(0);
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1]), ["for all three", "while carol was there"]);
    assert_eq!(chain_of_newest(&world, channel), before);
    assert_eq!(world.tree(0).waiting, 0);
}

#[test]
fn who_joins_later_reads_from_then_on() {
    let mut world = World::of(&["ana", "bo", "carol"]);
    let (community_id, _, channel) = world.community(0);
    let link = world.invite(0, community_id);
    world.join(1, &link).unwrap();
    world.say(0, channel, "before carol");
    world.settle();
    world.join(2, &link).unwrap();
    world.say(0, channel, "after carol");
    world.say(1, channel, "hello carol");
    world.settle();
    assert_eq!(world.texts(1, channel).len(), 3);
    let texts = world.texts(2, channel);
    assert_eq!(texts.len(), 2, "{texts:?}");
    world.ask(2, Command::FetchOlder { place: Place { channel_id: channel, thread: None }, limit: 50 }).unwrap();
    assert_eq!(world.texts(2, channel)[0], "<before join>");
    assert!(
        world
            .page(0, channel)
            .items
            .iter()
            .any(|item| matches!(&item.body, Body::System(SystemLine::Joined { who }) if who.raw() == "carol"))
    );
}

#[test]
fn a_member_who_was_away_reads_everything_after_coming_back() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    world.disconnect(2);
    for n in 0..5 {
        world.say(n % 2, channel, &format!("while away {n}"));
        world.settle();
    }
    let bo = world.id(1);
    world.ask(0, Command::Kick { domain: community_id.into(), user_id: bo, ban: true, reason: None }).unwrap();
    world.settle();
    world.say(0, channel, "after bo");
    world.settle();
    world.restart(2);
    world.settle();
    let texts = world.texts(2, channel);
    assert_eq!(texts, ["while away 0", "while away 1", "while away 2", "while away 3", "while away 4", "after bo"]);
    let marked = world.page(2, channel).items.iter().filter(|item| item.marks.contains(&Mark::BeforeRemoval)).count();
    assert_eq!(marked, 0, "the server's order has them before the removal, and nothing is late when it is applied in order");
    // A banned member does not come back.
    let link = world.invite(0, community_id);
    assert!(world.join(1, &link).is_err());
}

#[test]
fn a_lifted_ban_lets_its_victim_back_in_by_an_invite() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    let (domain, bo) = (community_id.into(), world.id(1));
    let banned = |world: &mut World| match world.ask(0, Command::ListBanned { domain }) {
        Ok(Answer::People(people)) => people.into_iter().map(|person| person.username.raw().to_owned()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert!(world.ask(0, Command::Unban { domain, user_id: bo }).is_err(), "nobody is banned yet");
    world.ask(0, Command::Kick { domain, user_id: bo, ban: true, reason: None }).unwrap();
    world.settle();
    assert_eq!(banned(&mut world), ["bo"]);
    let link = world.invite(0, community_id);
    assert!(world.join(1, &link).is_err());
    assert!(world.ask(2, Command::Unban { domain, user_id: bo }).is_err(), "a member lifts no ban");
    world.ask(0, Command::Unban { domain, user_id: bo }).unwrap();
    world.settle();
    assert!(banned(&mut world).is_empty());
    world.join(1, &link).unwrap();
    world.settle();
    world.say(0, channel, "welcome back");
    world.settle();
    assert_eq!(world.texts(1, channel).last().unwrap(), "welcome back");
    let told = |item: &std::sync::Arc<TimelineItem>| matches!(&item.body, Body::System(SystemLine::Unbanned { who, by }) if who.raw() == "bo" && by.raw() == "ana");
    assert!(world.page(2, channel).items.iter().any(told), "everybody is told");
}

#[test]
fn a_second_device_reads_and_writes_in_channels() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.say(1, channel, "before the phone");
    world.settle();
    let phone = world.second_device(0);
    world.say(1, channel, "to the phone too");
    world.settle();
    world.say(phone, channel, "from the phone");
    world.settle();
    world.say(0, channel, "from the laptop");
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1]), ["before the phone", "to the phone too", "from the phone", "from the laptop"]);
    assert_eq!(world.texts(phone, channel).last().unwrap(), "from the laptop");
    assert!(world.texts(phone, channel).contains(&"to the phone too".to_owned()), "{:?}", world.texts(phone, channel));
}

#[test]
fn private_channels_and_private_groups_have_members_of_their_own() {
    let (mut world, community_id, public) = World::shared(&["ana", "bo"]);
    let command = Command::CreateGroup { community_id, name: "staff".into(), visibility: Visibility::Private };
    let Ok(Answer::Group(group)) = world.ask(0, command) else { panic!() };
    let in_group = world.channel(0, group, Visibility::Public);
    let private = world.channel(0, group, Visibility::Private);
    for channel in [in_group, private] {
        world.say(0, channel, "only me");
        world.settle();
        assert_eq!(world.texts(0, channel), ["only me"]);
        assert!(world.node(0, channel).private);
        assert_eq!(world.node(0, channel).member_count, 1);
    }
    assert!(!world.node(0, public).private);
    assert!(world.tree(1).communities[0].groups.iter().all(|group| group.channels.iter().all(|node| node.id == public)));
}

#[test]
fn changes_that_race_are_signed_again() {
    let (mut world, community_id, _) = World::shared(&["ana", "bo", "carol"]);
    let (bo, carol) = (world.id(1), world.id(2));
    world.ask(0, Command::SetRole { domain: community_id.into(), user_id: bo, role: Role::Admin }).unwrap();
    world.settle();
    // Both sign for the same place; the second one learns of the first by the refusal only.
    world.filter = Some(Box::new(|_, frame| !matches!(frame, ServerFrame::Event(_))));
    let first = world.command(0, Command::SetRole { domain: community_id.into(), user_id: carol, role: Role::Moderator });
    let second = world.command(1, Command::CreateInvite { community_id, max_uses: Some(1), expires_in_s: None });
    world.settle();
    assert_eq!(world.reply(0, first), Some(Ok(Answer::Ok)));
    assert!(matches!(world.reply(1, second), Some(Ok(Answer::Invite(_)))), "{:?}", world.reply(1, second));
    world.filter = None;
    for who in 0..3 {
        world.disconnect(who);
        world.connect(who);
    }
    world.settle();
    let heads: Vec<_> = (0..3).map(|who| world.clients[who].engine.logs[&LogId::from(community_id)].log.newest_head()).collect();
    assert!(heads.iter().all(|head| *head == heads[0]));
}

#[test]
fn moderators_delete_and_members_do_not() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    let rude = world.say(2, channel, "rude words");
    world.settle();
    assert!(world.ask(1, Command::Delete { channel_id: channel, target: rude }).is_err());
    let bo = world.id(1);
    world.ask(0, Command::SetRole { domain: community_id.into(), user_id: bo, role: Role::Moderator }).unwrap();
    world.settle();
    world.ask(1, Command::Delete { channel_id: channel, target: rude }).unwrap();
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1, 2]), ["<deleted by a moderator>"]);
}

#[test]
fn threads_replies_and_mentions_in_a_channel() {
    let (mut world, _, channel) = World::shared(&["ana", "bo", "carol"]);
    let root = world.say(0, channel, "who has the pager?");
    world.settle();
    world.say_in(1, Place { channel_id: channel, thread: Some(root) }, "me", None);
    world.settle();
    let carol = world.id(2);
    let place = Place { channel_id: channel, thread: None };
    world
        .ask(0, Command::SendText { place, text: "@carol please".into(), reply_to: Some(root), mentions: vec![carol], id: None })
        .unwrap();
    world.settle();
    assert_eq!(world.node(2, channel).mentions, 1);
    assert_eq!(world.node(1, channel).mentions, 0);
    assert_eq!(world.node(2, channel).unread, 2, "a thread of others does not count");
    assert_eq!(world.node(0, channel).unread, 1, "a reply in the own thread does");
    assert!(world.clients[2].events.iter().any(|event| matches!(event, ClientEvent::Attention { mention: true, .. })));
    assert_eq!(world.item(2, channel, root).thread.unwrap().replies, 1);
}

#[test]
fn a_lost_sender_key_is_asked_for() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.say(0, channel, "one");
    world.settle();
    let mut changes = Changes::default();
    for (at, _) in world.clients[1].store.scan(Table::PeerChains, &[], None, 100).unwrap() {
        changes.delete(Table::PeerChains, at);
    }
    world.clients[1].store.save(changes).unwrap();
    world.restart(1);
    world.say(0, channel, "two");
    world.advance(60_000);
    assert_eq!(world.agreed(channel, &[0, 1]), ["one", "two"]);
    world.say(0, channel, "three");
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1]), ["one", "two", "three"]);
}

/// A store that counts what is read of one table.
struct Counting<'a> {
    store: &'a MemoryStore,
    table: Table,
    reads: std::cell::Cell<u32>,
}

impl Store for Counting<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.reads.set(self.reads.get() + u32::from(table == self.table));
        self.store.get(table, key)
    }
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        self.reads.set(self.reads.get() + u32::from(table == self.table));
        self.store.scan(table, prefix, after, limit)
    }
    fn message(&self, channel_id: ChannelId, key: MessageRef) -> Result<Option<StoredMessage>, StoreError> {
        self.store.message(channel_id, key)
    }
    fn page(&self, channel_id: ChannelId, lines: Lines, from: From, limit: usize) -> Result<Vec<StoredMessage>, StoreError> {
        self.store.page(channel_id, lines, from, limit)
    }
    fn search(&self, query: &TextQuery) -> Result<Vec<StoredMessage>, StoreError> {
        self.store.search(query)
    }
    fn save(&mut self, _: Changes) -> Result<(), StoreError> {
        unreachable!("the engine never writes")
    }
}

#[test]
fn a_sender_key_is_read_from_the_store_for_its_first_message_only() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.say(0, channel, "the key comes with this");
    world.settle();
    world.restart(1);
    world.settle();
    for (text, expected) in [("one", 1), ("two", 0), ("three", 0)] {
        world.say(0, channel, text);
        while world.clients[1].queue.is_empty() {
            let input = world.clients[0].queue.pop_front().unwrap();
            world.input(0, input);
        }
        let input = world.clients[1].queue.pop_front().unwrap();
        world.server.now += 1;
        let client = &mut world.clients[1];
        let store = Counting { store: &client.store, table: Table::PeerChains, reads: 0.into() };
        let step = client.engine.handle(input, &store, Timestamp(world.server.now), &mut world.rng).unwrap();
        assert_eq!(store.reads.get(), expected, "{text}");
        client.store.save(step.changes).unwrap();
        for output in step.after {
            world.perform(1, output);
        }
        world.settle();
    }
    assert_eq!(world.agreed(channel, &[0, 1]), ["the key comes with this", "one", "two", "three"]);
}

#[test]
fn chains_rotate_after_five_hundred_messages() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    for n in 0..503 {
        let place = Place { channel_id: channel, thread: None };
        world
            .command(0, Command::SendText { place, text: format!("{n}").into(), reply_to: None, mentions: Vec::new(), id: None });
        world.run();
    }
    world.settle();
    let place = Place { channel_id: channel, thread: None };
    let Ok(Answer::Page(page)) = world.ask(1, Command::LoadTimeline { place, anchor: Anchor::Newest, limit: 1000 }) else {
        panic!()
    };
    let texts: Vec<String> = page.items.iter().filter_map(|item| text_of(item)).collect();
    assert_eq!(texts, (0..503).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(world.clients[0].engine.own_chains[&channel].chain.iteration(), 3);
}

#[test]
fn an_invite_that_does_not_fit_is_refused_with_the_reason() {
    let mut world = World::of(&["ana", "bo"]);
    let (community_id, _, _) = world.community(0);
    let link = world.invite(0, community_id);
    for bad in [
        "https://chat.test/i/code0".to_owned(),
        "chat://chat.test/i/".to_owned(),
        link.replace("chat.test", "elsewhere.test"),
        link[..link.len() - 3].to_owned(),
        link.replace("TCI1-", "TCI1-AAAA"),
    ] {
        let refused = world.join(1, &bad).unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Usage, "{bad}");
        assert!(!refused.hint.is_empty());
    }
    let without_secret = link.split('#').next().unwrap().to_owned();
    assert!(world.join(1, &without_secret).is_err(), "a closed community needs the secret half");
    assert!(world.join(1, &link).is_ok());
    assert!(world.join(1, &link).is_ok(), "joining twice is harmless");
}

#[test]
fn who_leaves_is_out_and_the_others_go_on() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    world.say(1, channel, "bye");
    world.settle();
    assert!(world.ask(0, Command::Leave { domain: community_id.into() }).is_err(), "an owner does not leave");
    assert_eq!(world.ask(1, Command::Leave { domain: community_id.into() }), Ok(Answer::Ok));
    world.settle();
    assert!(world.tree(1).communities.is_empty());
    world.say(0, channel, "alone");
    world.settle();
    assert_eq!(world.texts(0, channel), ["bye", "alone"]);
}

/// A private group of the first client's with a channel in it, and a private channel in the public group.
fn private_places(world: &mut World, community_id: CommunityId, group_id: GroupId) -> [(Domain, ChannelId); 2] {
    let command = Command::CreateGroup { community_id, name: "staff".into(), visibility: Visibility::Private };
    let Ok(Answer::Group(staff)) = world.ask(0, command) else { panic!("a group") };
    let in_group = world.channel(0, staff, Visibility::Public);
    let private = world.channel(0, group_id, Visibility::Private);
    [(staff.into(), in_group), (private.into(), private)]
}

fn private_world(names: &[&str]) -> (World, [(Domain, ChannelId); 2]) {
    let (mut world, community_id, public) = World::shared(names);
    let group_id = world.node(0, public).group_id.unwrap();
    let places = private_places(&mut world, community_id, group_id);
    (world, places)
}

#[test]
fn who_is_added_to_a_private_place_reads_and_writes_from_then_on() {
    let (mut world, places) = private_world(&["ana", "bo", "carol"]);
    let (bo, carol) = (world.id(1), world.id(2));
    for (domain, channel) in places {
        assert_eq!(world.node(0, channel).domain, Some(domain));
        world.say(0, channel, "before bo");
        assert_eq!(world.ask(0, Command::AddMember { domain, user_id: bo }), Ok(Answer::Ok));
        world.settle();
        world.say(0, channel, "welcome");
        world.settle();
        world.say(1, channel, "thanks");
        world.settle();
        assert_eq!(world.texts(0, channel), ["before bo", "welcome", "thanks"]);
        let read = world.texts(1, channel);
        assert_eq!(&read[read.len() - 2..], ["welcome", "thanks"], "{read:?}");
        assert!(!read.contains(&"before bo".to_owned()));
        let node = world.node(1, channel);
        assert_eq!((node.domain, node.my_role, node.member_count), (Some(domain), Some(Role::Member), 2));
        // Only who may: a member adds nobody, and nobody is added twice or from outside.
        assert_eq!(world.ask(1, Command::AddMember { domain, user_id: carol }).unwrap_err().kind, ProblemKind::Permission);
        assert_eq!(world.ask(0, Command::AddMember { domain, user_id: bo }).unwrap_err().kind, ProblemKind::Usage);
        let stranger = UserId::from_bytes([9; 16]);
        assert_eq!(world.ask(0, Command::AddMember { domain, user_id: stranger }).unwrap_err().kind, ProblemKind::NotFound);
        assert!(world.tree(2).communities[0].groups.iter().all(|group| group.channels.iter().all(|node| node.id != channel)));
    }
    assert!((0..3).all(|who| world.notices(who).is_empty()), "{:?}", (0..3).map(|who| world.notices(who)).collect::<Vec<_>>());
}

#[test]
fn who_is_removed_from_a_private_place_cannot_read_what_follows() {
    let (mut world, places) = private_world(&["ana", "bo", "carol"]);
    for (domain, channel) in places {
        for who in [1, 2] {
            let user_id = world.id(who);
            world.ask(0, Command::AddMember { domain, user_id }).unwrap();
            world.settle();
        }
        for (who, text) in [(0, "one"), (1, "two"), (2, "three")] {
            world.say(who, channel, text);
            world.settle();
        }
        assert_eq!(world.agreed(channel, &[0, 1, 2])[..3], ["one", "two", "three"]);
        let carol = world.id(2);
        let chains: Vec<u32> = (0..2).map(|who| world.clients[who].engine.own_chains[&channel].chain.chain_id()).collect();
        assert_eq!(world.ask(0, Command::Kick { domain, user_id: carol, ban: false, reason: None }), Ok(Answer::Ok));
        world.settle();
        for (who, text) in [(0, "without carol"), (1, "really")] {
            world.say(who, channel, text);
            world.settle();
            assert_ne!(world.clients[who].engine.own_chains[&channel].chain.chain_id(), chains[who], "rotated");
        }
        assert_eq!(world.agreed(channel, &[0, 1]), ["one", "two", "three", "without carol", "really"]);
        assert!(!world.clients[2].engine.places.channels.contains_key(&channel), "it is gone from their tree");
        for who in [0, 1] {
            let chain = world.clients[who].engine.own_chains[&channel].chain.chain_id().to_be_bytes();
            let given = world.clients[who].store.scan(Table::ChainGiven, channel.as_bytes(), None, 100).unwrap();
            assert!(given.iter().all(|(at, _)| at[16..20] != chain || at[20..36] != *carol.as_bytes()));
        }
    }
}

#[test]
fn a_private_place_can_be_left_and_joined_again_by_being_added() {
    let (mut world, places) = private_world(&["ana", "bo"]);
    let bo = world.id(1);
    for (domain, channel) in places {
        world.ask(0, Command::AddMember { domain, user_id: bo }).unwrap();
        world.settle();
        world.say(1, channel, "bye");
        world.settle();
        assert!(world.ask(0, Command::Leave { domain }).is_err(), "an owner does not leave");
        assert_eq!(world.ask(1, Command::Leave { domain }), Ok(Answer::Ok));
        world.settle();
        assert!(!world.clients[1].engine.places.channels.contains_key(&channel));
        world.say(0, channel, "alone");
        world.settle();
        world.ask(0, Command::AddMember { domain, user_id: bo }).unwrap();
        world.settle();
        world.say(0, channel, "back");
        world.say(1, channel, "hello again");
        world.settle();
        assert_eq!(world.texts(0, channel), ["bye", "alone", "back", "hello again"]);
        let read = world.texts(1, channel);
        assert!(
            read.ends_with(&["back".to_owned(), "hello again".to_owned()]) && !read.contains(&"alone".to_owned()),
            "{read:?}"
        );
    }
}

#[test]
fn who_is_removed_from_the_community_is_removed_from_what_is_private_in_it() {
    let (mut world, places) = private_world(&["ana", "bo"]);
    let bo = world.id(1);
    for (domain, _) in places {
        world.ask(0, Command::AddMember { domain, user_id: bo }).unwrap();
        world.settle();
    }
    let community_id = world.tree(0).communities[0].id;
    world.ask(0, Command::Kick { domain: community_id.into(), user_id: bo, ban: false, reason: None }).unwrap();
    world.settle();
    for (domain, channel) in places {
        assert!(world.clients[0].engine.logs[&domain.log_id()].log.member(bo.as_bytes()).is_none());
        world.say(0, channel, "without bo");
        world.settle();
        assert_eq!(world.node(0, channel).member_count, 1);
    }
}

#[test]
fn a_member_of_a_private_place_who_was_away_misses_nothing() {
    let (mut world, places) = private_world(&["ana", "bo", "carol"]);
    let (bo, carol) = (world.id(1), world.id(2));
    for (domain, _) in places {
        world.ask(0, Command::AddMember { domain, user_id: bo }).unwrap();
        world.settle();
    }
    world.disconnect(1);
    for (domain, channel) in places {
        world.say(0, channel, "one");
        world.settle();
        world.ask(0, Command::AddMember { domain, user_id: carol }).unwrap();
        world.settle();
        world.say(2, channel, "two");
        world.settle();
        world.ask(0, Command::Kick { domain, user_id: carol, ban: false, reason: None }).unwrap();
        world.settle();
        world.say(0, channel, "three");
        world.settle();
    }
    world.restart(1);
    world.settle();
    for (_, channel) in places {
        assert_eq!(world.agreed(channel, &[0, 1]), ["one", "two", "three"]);
    }
}

#[test]
fn who_was_given_a_chain_is_forgotten_when_nobody_may_ask_any_more() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    world.say(0, channel, "one");
    world.settle();
    let old = world.clients[0].engine.own_chains[&channel].chain.chain_id().to_be_bytes();
    let user_id = world.id(2);
    world.ask(0, Command::Kick { domain: community_id.into(), user_id, ban: false, reason: None }).unwrap();
    world.settle();
    world.say(0, channel, "two");
    world.settle();
    let given = |world: &World, chain: [u8; 4]| {
        let prefix = [channel.as_bytes().as_slice(), &chain].concat();
        let rows = world.clients[0].store.scan(Table::ChainGiven, &prefix, None, 100).unwrap();
        (rows.len(), rows.iter().filter(|(at, _)| at.len() > 20).count())
    };
    let new = world.clients[0].engine.own_chains[&channel].chain.chain_id().to_be_bytes();
    assert_eq!((given(&world, old), given(&world, new)), ((3, 2), (1, 1)));
    world.advance(9 * 86_400_000);
    assert_eq!(given(&world, old), (1, 0), "the number stays taken");
    assert_eq!(given(&world, new).1, 1, "a chain in use keeps its readers");
}

#[test]
fn in_a_channel_admins_decide_how_long_messages_stay() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    let timer = |seconds| Command::SetTimer { channel_id: channel, seconds };
    assert_eq!(world.ask(1, timer(60)).unwrap_err().kind, ProblemKind::Permission);
    assert_eq!(world.ask(0, timer(2)).unwrap_err().kind, ProblemKind::Usage);
    world.ask(0, timer(60)).unwrap();
    world.settle();
    for who in [0, 1] {
        assert_eq!(world.node(who, channel).expires_s, 60);
    }
    let said = world.say(1, channel, "soon gone");
    world.settle();
    let seq = world.item(0, channel, said).seq.unwrap();
    world.ask(0, Command::MarkRead { channel_id: channel, seq }).unwrap();
    world.advance(61_000);
    assert_eq!(world.agreed(channel, &[0, 1]), ["<expired>"]);
    world.ask(0, timer(0)).unwrap();
    world.settle();
    assert_eq!(world.node(1, channel).expires_s, 0);
}
