//! What goes wrong without anybody lying: long absences, long answers, lost answers, full inboxes, clocks that are set, old
//! copies of a store.

use super::*;
use crate::client::store::Table;

fn write(world: &mut World, who: Who, channel_id: ChannelId, text: String) {
    let place = Place { channel_id, thread: None };
    world.command(who, Command::SendText { place, text: text.into(), reply_to: None, mentions: Vec::new(), id: None });
    world.run();
}

/// More lines than [`World::texts`] shows.
fn all_texts(world: &mut World, who: Who, channel_id: ChannelId) -> Vec<String> {
    let place = Place { channel_id, thread: None };
    match world.ask(who, Command::LoadTimeline { place, anchor: Anchor::Newest, limit: 5_000 }) {
        Ok(Answer::Page(page)) => page.items.iter().filter_map(|item| text_of(item)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_behind_a_change_of_members_wait_for_it_however_many_they_are() {
    let mut world = World::of(&["ana", "bo", "carol"]);
    let (community_id, _, channel) = world.community(0);
    let link = world.invite(0, community_id);
    world.join(1, &link).unwrap();
    world.say(0, channel, "hello bo");
    world.settle();
    world.disconnect(1);
    // Somebody whose device bo has never heard of, and more than may be held.
    world.join(2, &link).unwrap();
    let said: Vec<String> = (0..450).map(|n| format!("{n}")).collect();
    for text in &said {
        write(&mut world, 2, channel, text.clone());
    }
    world.settle();
    world.restart(1);
    world.settle();
    assert_eq!(all_texts(&mut world, 1, channel)[1..], said);
}

#[test]
fn a_page_that_is_too_long_for_the_line_is_asked_for_in_parts() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.disconnect(1);
    let long = "x".repeat(20_000);
    for n in 0..40 {
        write(&mut world, 0, channel, format!("{n} {long}"));
    }
    world.settle();
    world.longest = 300_000;
    world.restart(1);
    world.advance(120_000);
    assert_eq!(world.texts(1, channel).len(), 40);
}

#[test]
fn keys_whose_answer_is_lost_are_sent_again_on_the_same_line() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.server.lose_answers = 1;
    world.say(0, channel, "first");
    world.settle();
    assert!(world.texts(1, channel).is_empty(), "the message waits for its keys to be confirmed");
    world.advance(61_000);
    assert_eq!(world.agreed(channel, &[0, 1]), ["first"]);
}

#[test]
fn a_full_inbox_holds_up_nobody_else() {
    let (mut world, _, channel) = World::shared(&["ana", "bo", "carol"]);
    let bo = world.clients[1].addr.unwrap();
    world.disconnect(1);
    world.server.full.insert(bo);
    world.say(0, channel, "one");
    world.settle();
    assert_eq!(world.texts(2, channel), ["one"]);
    world.server.full.clear();
    world.connect(1);
    world.advance(60_000);
    assert_eq!(world.agreed(channel, &[0, 1, 2]), ["one"], "who reads their inbox again asks for what it did not take");
}

#[test]
fn one_user_whose_bundles_are_used_up_holds_up_nobody_else() {
    let mut world = World::of(&["ana", "bo", "carol", "dave"]);
    let (community_id, _, channel) = world.community(0);
    let link = world.invite(0, community_id);
    for who in 1..4 {
        world.join(who, &link).unwrap();
    }
    let bo = world.id(1);
    world.server.bundles_limited.insert(bo);
    world.say(0, channel, "to those who can be reached");
    world.settle();
    for who in [2, 3] {
        assert_eq!(world.texts(who, channel), ["to those who can be reached"]);
    }
    world.server.bundles_limited.clear();
    world.advance(11 * 60_000);
    world.say(0, channel, "to all");
    world.settle();
    assert_eq!(world.texts(1, channel).last().unwrap(), "to all");
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.say(0, dm, "before");
    world.settle();
    world.server.refuse_sends = Some((crate::protocol::error::ErrorCode::Unavailable, 3));
    world.say(0, dm, "after");
    world.run();
    world.server.now -= 30 * 86_400_000;
    for who in 0..2 {
        world.clients[who].wake = None;
        world.input(who, Input::Line(Line::Latency { ms: 1 }));
    }
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["before", "after"]);
}

#[test]
fn an_old_copy_of_a_store_goes_on_without_losing_what_is_written() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    for (who, place) in [(0, dm), (1, dm), (0, channel), (1, channel)] {
        world.say(who, place, "before the backup");
        world.settle();
    }
    let copy = world.clients[0].store.snapshot();
    for n in 0..4 {
        for place in [dm, channel] {
            world.say(n % 2, place, &format!("lost {n}"));
            world.settle();
        }
    }
    world.restore(0, copy);
    for place in [dm, channel] {
        world.say(0, place, "after the restore");
        world.settle();
        world.say(1, place, "welcome back");
        world.advance(60_000);
        let heard = world.texts(1, place);
        assert_eq!(heard[heard.len() - 2..], ["after the restore", "welcome back"]);
        let here = world.texts(0, place);
        assert_eq!(here.last().unwrap(), "welcome back");
        assert!(here.contains(&"lost 1".to_owned()) && here.contains(&"lost 3".to_owned()), "{here:?}");
        assert_eq!(here.len(), heard.len());
    }
}

#[test]
fn a_login_after_a_restore_makes_new_sessions_even_when_no_message_tells() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.say(0, dm, "one");
    world.say(1, dm, "two");
    world.settle();
    let copy = world.clients[0].store.snapshot();
    // Only a receipt goes out: no row of ana's tells the copy that it is old.
    let theirs = world.say(1, dm, "three");
    world.settle();
    let seq = world.item(0, dm, theirs).seq.unwrap();
    world.ask(0, Command::MarkRead { channel_id: dm, seq }).unwrap();
    world.settle();
    world.disconnect(0);
    world.clients[0].addr = None;
    world.clients[0].store = copy;
    world.clients[0].engine = Engine::open(&world.clients[0].store).unwrap();
    let addr = DeviceAddr { user_id: world.id(0), device_id: 1 };
    world.clients[0].addr = Some(addr);
    let mut login = Login {
        user: world.clients[0].user.clone(),
        server: "https://chat.test".into(),
        server_name: "Test".into(),
        session_id: SessionId(uuid::Uuid::from_u128(99)),
        device_id: None,
        device_name: "laptop".into(),
    };
    login.user.display_name = Some("Ana".into());
    world.input(0, Input::LoggedIn(login));
    world.settle();
    world.connect(0);
    world.settle();
    world.say(0, dm, "four");
    world.advance(60_000);
    assert_eq!(world.texts(1, dm), ["one", "two", "three", "four"]);
}

#[test]
fn the_stream_of_a_private_group_may_outlive_its_past() {
    let (mut world, community_id, _) = World::shared(&["ana", "bo"]);
    let command = Command::CreateGroup { community_id, name: "staff".into(), visibility: Visibility::Private };
    let Ok(Answer::Group(group)) = world.ask(0, command) else { panic!("a group") };
    let user_id = world.id(1);
    world.ask(0, Command::AddMember { domain: group.into(), user_id }).unwrap();
    world.settle();
    world.disconnect(1);
    let channel = world.channel(0, group, Visibility::Public);
    world.say(0, channel, "hello");
    world.settle();
    world.server.outlived.insert(group.into());
    world.connect(1);
    world.settle();
    world.say(0, channel, "and again");
    world.settle();
    assert_eq!(world.texts(1, channel).last().unwrap(), "and again");
}

#[test]
fn what_waits_for_a_target_that_never_came_is_forgotten() {
    let mut world = World::of(&["ana", "bo"]);
    let phone = world.second_device(0);
    let dm = world.dm(0, 1);
    let hello = world.say(0, dm, "hello");
    world.settle();
    let early = |world: &World| world.clients[phone].store.scan(Table::Early, &[], None, 100).unwrap().len();
    let mut changes = crate::client::store::Changes::default();
    changes.delete_message(dm, hello);
    world.clients[phone].store.save(changes).unwrap();
    world.ask(1, Command::React { channel_id: dm, target: hello, emoji: "+1".into(), remove: false }).unwrap();
    world.settle();
    assert_eq!(early(&world), 1);
    world.advance(92 * 86_400_000);
    assert_eq!(early(&world), 0);
}

fn cut_off(world: &mut World, who: Who, part: &'static str) {
    world.cut = Some(Box::new(move |of, request| of == who && request.path.contains(part)));
}

#[test]
fn a_client_that_ends_before_the_groups_came_shows_the_channel_at_the_next_start() {
    let mut world = World::of(&["ana", "bo"]);
    let (community_id, _, channel) = world.community(0);
    let link = world.invite(0, community_id);
    cut_off(&mut world, 1, "/groups");
    assert_eq!(world.join(1, &link), Ok(Answer::Community(community_id)));
    assert!(world.clients[1].engine.places.members.contains_key(&community_id), "the members came");
    assert!(world.clients[1].engine.places.groups.is_empty());
    world.cut = None;
    world.restart(1);
    world.settle();
    assert_eq!(world.node(1, channel).id, channel);
    let asked = world.server.requests.len();
    world.restart(1);
    world.settle();
    assert!(
        world.server.requests[asked..].iter().all(|request| !request.contains("/groups")),
        "what came is not asked for again"
    );
}

#[test]
fn a_list_of_members_of_which_one_page_came_is_asked_for_again() {
    let mut world = World::of(&["ana", "bo"]);
    let (community_id, _, _) = world.community(0);
    let link = world.invite(0, community_id);
    world.tamper = Some(Box::new(|who, request, answer| {
        if who == 1 && request.path.ends_with("/members?limit=100") {
            let mine = answer["items"][0].clone();
            (answer["items"], answer["next_cursor"]) = (serde_json::json!([mine]), "more".into());
        }
    }));
    cut_off(&mut world, 1, "/members?limit=100&cursor=more");
    world.join(1, &link).unwrap();
    assert_eq!(world.clients[1].engine.places.members[&community_id].len(), 1);
    (world.cut, world.tamper) = (None, None);
    world.restart(1);
    world.settle();
    assert_eq!(world.clients[1].engine.places.members[&community_id].len(), 2);
}

#[test]
fn keys_that_did_not_reach_the_server_are_sent_again_and_no_others() {
    let mut world = World::new();
    let user = world.server.add_user("ana");
    let ana = world.add_client(user, crate::client::store::MemoryStore::new());
    let sent: std::rc::Rc<std::cell::RefCell<Vec<Vec<u8>>>> = std::rc::Rc::default();
    let seen = sent.clone();
    world.cut = Some(Box::new(move |_, request| {
        let upload = request.path == "/keys/prekeys";
        if upload {
            seen.borrow_mut().push(request.body.clone().unwrap());
        }
        upload
    }));
    world.log_in(ana);
    world.advance(10 * 60_000);
    world.restart(ana);
    world.advance(10 * 60_000);
    let sent = sent.take();
    assert!(sent.len() > 2 && sent.iter().all(|body| *body == sent[0]), "{} requests", sent.len());
    world.cut = None;
    world.advance(10 * 60_000);
    let addr = world.clients[ana].addr.unwrap();
    let ids = |world: &World| -> Vec<u32> {
        world.server.accounts[&addr.user_id].devices[&addr.device_id].one_time.iter().map(|key| key.id).collect()
    };
    assert_eq!(ids(&world), (1..=100).collect::<Vec<_>>(), "no key was made in vain");
    // The answer was lost: the same keys are refused, and the stock is filled up.
    world.tamper = Some(Box::new(|_, request, answer| {
        if request.path == "/keys/prekeys" {
            *answer = serde_json::json!("lost");
        }
    }));
    device_low(&mut world, ana);
    world.tamper = None;
    world.advance(10 * 60_000);
    let ids = ids(&world);
    assert_eq!((ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len()), (100, 100));
}

/// The server says that keys are running out.
fn device_low(world: &mut World, who: Who) {
    let addr = world.clients[who].addr.unwrap();
    let device = world.server.accounts.get_mut(&addr.user_id).unwrap().devices.get_mut(&addr.device_id).unwrap();
    device.one_time.truncate(5);
    world.input(who, Input::Frame(ServerFrame::KeysLow { one_time: 5, kem: 50 }));
    world.run();
}

#[test]
fn a_device_that_could_not_be_made_known_to_the_server_is_made_known_later() {
    let mut world = World::new();
    let user = world.server.add_user("ana");
    let ana = world.add_client(user, crate::client::store::MemoryStore::new());
    // First nothing comes through, then all but the registration.
    for all in [true, false] {
        world.cut = Some(Box::new(move |_, request| all || request.path == "/devices"));
        if all {
            world.log_in(ana);
        }
        world.advance(60_000);
        assert_eq!(world.clients[ana].addr, None);
        let last = world.clients[ana].events.iter().rev().find_map(|event| match event {
            ClientEvent::Connection(connection) => Some(connection.clone()),
            _ => None,
        });
        assert!(matches!(last, Some(Connection::Offline { retry_at: Some(_), .. })), "{last:?}");
        assert_eq!(world.notices(ana), Vec::<String>::new(), "it is no end");
    }
    world.cut = None;
    world.advance(60_000);
    assert!(world.clients[ana].addr.is_some());
    assert!(world.clients[ana].events.iter().any(|event| matches!(event, ClientEvent::Opened { .. })));
}

#[test]
fn a_device_that_the_account_does_not_know_any_more_is_told_so() {
    for code in [crate::protocol::error::ErrorCode::BadSignature, crate::protocol::error::ErrorCode::NotFound] {
        let mut world = World::of(&["ana"]);
        world.server.refuse_sessions = Some(code);
        world.disconnect(0);
        world.clients[0].addr = None;
        world.log_in(0);
        let told = world.notices(0);
        assert!(told.len() == 1 && told[0].contains("does not know this device any more"), "{told:?}");
    }
}

#[test]
fn a_client_is_settled_when_what_its_messages_wait_for_has_come() {
    let mut world = World::of(&["ana", "bo"]);
    world.disconnect(1);
    let settle = world.command(1, Command::Settle);
    assert!(matches!(world.reply(1, settle), Some(Err(_))), "without a line it is never");
    let dm = world.dm(0, 1);
    world.say(0, dm, "hello stranger");
    world.settle();
    cut_off(&mut world, 1, "/users/devices");
    world.connect(1);
    world.run();
    let settle = world.command(1, Command::Settle);
    world.settle();
    assert_eq!(world.texts(1, dm), ["<UnverifiedDevice>"]);
    assert_eq!(world.reply(1, settle), None);
    world.cut = None;
    world.advance(60_000);
    assert_eq!(world.reply(1, settle), Some(Ok(Answer::Ok)));
    assert_eq!(world.texts(1, dm), ["hello stranger"]);
}

#[test]
fn receipts_and_keys_are_with_the_server_when_the_client_is_settled() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    let key = world.say(0, dm, "hello");
    world.settle();
    let seq = world.item(1, dm, key).seq.unwrap();
    world.ask(1, Command::MarkRead { channel_id: dm, seq }).unwrap();
    let settle = world.command(1, Command::Settle);
    world.run();
    assert_eq!(world.reply(1, settle), Some(Ok(Answer::Ok)));
    assert_eq!(world.item(0, dm, key).delivery, Delivery::Read, "no time was let pass");
    // The stock of keys is looked at first, and filled.
    let addr = world.clients[1].addr.unwrap();
    world.server.accounts.get_mut(&addr.user_id).unwrap().devices.get_mut(&addr.device_id).unwrap().one_time.clear();
    world.restart(1);
    world.run();
    let settle = world.command(1, Command::Settle);
    world.run();
    assert_eq!(world.reply(1, settle), Some(Ok(Answer::Ok)));
    let device = &world.server.accounts[&addr.user_id].devices[&addr.device_id];
    assert_eq!(device.one_time.len(), crate::crypto::prekeys::ONE_TIME.full as usize);
}
