//! Conversations of two: first contact, several devices, the outbox, lost sessions, changed identities.

use super::*;
use crate::client::store::{Changes, Table};
use crate::protocol::error::ErrorCode;

#[test]
fn two_people_talk_both_ways_and_the_server_reads_nothing() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    let hello = world.say(0, dm, "the canary is red");
    world.settle();
    assert_eq!(world.texts(1, dm), ["the canary is red"]);
    let answer = world.say(1, dm, "rolling back now");
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["the canary is red", "rolling back now"]);
    world.server_never_saw("canary");
    assert_eq!(world.item(0, dm, hello).delivery, Delivery::Delivered, "a receipt came back");
    assert_eq!(world.item(0, dm, answer).delivery, Delivery::Received);
    assert_eq!(world.node(1, dm).unread, 1);
    let seq = world.item(1, dm, hello).seq.unwrap();
    assert_eq!(world.ask(1, Command::MarkRead { channel_id: dm, seq }), Ok(Answer::Ok));
    world.settle();
    assert_eq!(world.node(1, dm).unread, 0);
    assert_eq!(world.item(0, dm, hello).delivery, Delivery::Read);
    assert!(world.notices(0).is_empty() && world.notices(1).is_empty(), "{:?} {:?}", world.notices(0), world.notices(1));
}

#[test]
fn first_messages_that_cross_are_both_read_and_the_sessions_agree() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    for who in [0, 1] {
        world.disconnect(who);
    }
    world.say(0, dm, "from ana");
    world.say(1, dm, "from bo");
    for who in [0, 1] {
        world.connect(who);
    }
    world.settle();
    let texts = world.agreed(dm, &[0, 1]);
    assert_eq!(texts.len(), 2, "{texts:?}");
    for n in 0..6 {
        world.say(n % 2, dm, &format!("next {n}"));
        world.settle();
    }
    assert_eq!(world.agreed(dm, &[0, 1]).len(), 8);
}

#[test]
fn two_devices_of_one_user_have_the_same_conversation() {
    let mut world = World::of(&["ana", "bo"]);
    let phone = world.second_device(0);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "from the laptop");
    world.settle();
    world.say(phone, dm, "from the phone");
    world.settle();
    world.say(1, dm, "hello both");
    world.settle();
    let texts = world.agreed(dm, &[0, 1, phone]);
    assert_eq!(texts, ["from the laptop", "from the phone", "hello both"]);
    assert!(world.page(phone, dm).items.iter().filter(|item| item.mine).count() == 2);
    // Reading on one device is known on the other.
    world.ask(phone, Command::MarkRead { channel_id: dm, seq: 3 }).unwrap();
    world.settle();
    assert_eq!(world.node(0, dm).unread, 0);
}

#[test]
fn a_device_that_comes_later_gets_what_follows() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(1, dm, "before the phone");
    world.settle();
    let phone = world.second_device(0);
    world.say(1, dm, "after the phone");
    world.settle();
    assert_eq!(world.texts(0, dm), ["before the phone", "after the phone"]);
    let page = world.ask(phone, Command::FetchOlder { place: Place { channel_id: dm, thread: None }, limit: 50 }).unwrap();
    assert!(matches!(page, Answer::Page(_)));
    assert_eq!(world.texts(phone, dm), ["<before device>", "after the phone"]);
    assert!(world.page(1, dm).items.iter().any(|item| matches!(item.body, Body::System(SystemLine::NewDevice { .. }))));
}

#[test]
fn what_was_written_offline_arrives_once_and_in_order() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "online");
    world.settle();
    world.disconnect(0);
    for n in 0..5 {
        world.say(0, dm, &format!("offline {n}"));
    }
    assert_eq!(world.tree(0).waiting, 5);
    assert!(world.page(0, dm).items.iter().skip(2).all(|item| item.delivery == Delivery::Waiting));
    world.restart(0);
    world.settle();
    assert_eq!(world.tree(0).waiting, 0);
    let texts = world.agreed(dm, &[0, 1]);
    assert_eq!(texts, ["online", "offline 0", "offline 1", "offline 2", "offline 3", "offline 4"]);
}

#[test]
fn an_answer_that_was_lost_after_the_commit_doubles_nothing() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.server.lose_answers = 3;
    world.say(0, dm, "first");
    world.say(0, dm, "second");
    world.settle();
    world.disconnect(0);
    world.connect(0);
    world.settle();
    world.say(0, dm, "third");
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["first", "second", "third"]);
    assert_eq!(world.tree(0).waiting, 0);
}

#[test]
fn a_crash_between_saving_and_sending_resends_the_same_bytes() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    for n in 0..4 {
        world.clients[0].crash = true;
        let place = Place { channel_id: dm, thread: None };
        let text = format!("crash {n}").into();
        world.command(0, Command::SendText { place, text, reply_to: None, mentions: Vec::new(), id: None });
        world.settle();
    }
    assert_eq!(world.agreed(dm, &[0, 1]), ["crash 0", "crash 1", "crash 2", "crash 3"]);
}

#[test]
fn a_refusal_for_good_keeps_the_text_and_a_retry_sends_it() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.server.refuse_sends = Some((ErrorCode::TimedOut, 1));
    let key = world.say(0, dm, "not now");
    world.settle();
    assert!(matches!(world.item(0, dm, key).delivery, Delivery::Failed(_)));
    assert_eq!(world.texts(0, dm), ["not now"], "the text is kept");
    assert_eq!(world.texts(1, dm), Vec::<String>::new());
    // It does not hold up what comes after it.
    world.say(0, dm, "later");
    world.settle();
    assert_eq!(world.texts(1, dm), ["later"]);
    world.ask(0, Command::Retry { channel_id: dm, id: key.id }).unwrap();
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["later", "not now"]);
    let gone = world.server.refuse_sends.take();
    assert_eq!(gone, Some((ErrorCode::TimedOut, 0)));
}

#[test]
fn a_message_that_failed_can_be_discarded() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.server.refuse_sends = Some((ErrorCode::Forbidden, 1));
    let key = world.say(0, dm, "never mind");
    world.settle();
    assert_eq!(world.ask(0, Command::Discard { channel_id: dm, id: key.id }), Ok(Answer::Ok));
    assert_eq!(world.texts(0, dm), Vec::<String>::new());
    assert!(world.ask(0, Command::Discard { channel_id: dm, id: key.id }).is_err());
    assert_eq!(world.clients[0].lines[&dm].values().filter(|item| text_of(item).is_some()).count(), 0);
}

#[test]
fn passing_troubles_of_the_server_are_waited_out() {
    for code in
        [ErrorCode::RateLimited, ErrorCode::Unavailable, ErrorCode::OutcomeUnknown, ErrorCode::SlowMode, ErrorCode::Internal]
    {
        let mut world = World::of(&["ana", "bo"]);
        let dm = world.dm(0, 1);
        world.settle();
        world.server.refuse_sends = Some((code, 3));
        world.say(0, dm, "one");
        world.say(0, dm, "two");
        world.advance(60_000);
        assert_eq!(world.agreed(dm, &[0, 1]), ["one", "two"], "{code:?}");
    }
}

#[test]
fn everything_that_waits_is_listed_in_the_order_of_writing() {
    let mut world = World::of(&["ana", "bo", "cy"]);
    let (with_bo, with_cy) = (world.dm(0, 1), world.dm(0, 2));
    world.settle();
    let old = world.say(0, with_bo, "teh text");
    world.settle();
    world.disconnect(0);
    let new = world.say(0, with_cy, "for cy");
    world.ask(0, Command::EditText { channel_id: with_bo, target: old, text: "the text".into() }).unwrap();
    world.ask(0, Command::React { channel_id: with_bo, target: old, emoji: "👍".into(), remove: false }).unwrap();
    let unsent = |world: &mut World| match world.ask(0, Command::ListUnsent) {
        Ok(Answer::Unsent(unsent)) => unsent,
        other => panic!("{other:?}"),
    };
    let listed = unsent(&mut world);
    let listed: Vec<_> = listed.iter().map(|one| (one.channel_id, one.what, one.text.raw(), one.message)).collect();
    assert_eq!(
        listed,
        [
            (with_cy, UnsentKind::Message, "for cy", new),
            (with_bo, UnsentKind::Edit, "the text", old),
            (with_bo, UnsentKind::Reaction { remove: false }, "👍", old),
        ]
    );
    world.connect(0);
    world.settle();
    assert_eq!(unsent(&mut world), []);
}

#[test]
fn edits_deletions_and_reactions_reach_everybody() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    let message = world.say(0, dm, "teh text");
    world.settle();
    world.ask(0, Command::EditText { channel_id: dm, target: message, text: "the text".into() }).unwrap();
    world.settle();
    world.ask(1, Command::React { channel_id: dm, target: message, emoji: "👍".into(), remove: false }).unwrap();
    world.settle();
    for who in [0, 1] {
        let item = world.item(who, dm, message);
        assert_eq!(text_of(&item).unwrap(), "the text");
        assert!(item.edited);
        assert_eq!(item.reactions, [Reaction { emoji: "👍".into(), count: 1, mine: who == 1 }]);
    }
    world.ask(1, Command::React { channel_id: dm, target: message, emoji: "👍".into(), remove: true }).unwrap();
    world.settle();
    assert!(world.item(0, dm, message).reactions.is_empty());
    assert!(world.ask(1, Command::EditText { channel_id: dm, target: message, text: "forged".into() }).is_err());
    assert!(
        world.ask(1, Command::Delete { channel_id: dm, target: message }).is_err(),
        "nobody deletes another's message in a DM"
    );
    world.ask(0, Command::Delete { channel_id: dm, target: message }).unwrap();
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["<deleted>"]);
    let hits = world.ask(1, Command::Search { query: "text".into(), place: None, limit: 10 });
    assert_eq!(hits, Ok(Answer::Hits(Vec::new())), "what was deleted is not found");
}

#[test]
fn replies_quote_and_threads_count() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    let root = world.say(0, dm, "who has the pager?");
    world.settle();
    let reply = world.say_in(1, Place { channel_id: dm, thread: None }, "me", Some(root));
    world.say_in(1, Place { channel_id: dm, thread: Some(root) }, "until six", None);
    world.settle();
    world.say_in(0, Place { channel_id: dm, thread: Some(root) }, "thanks", None);
    world.settle();
    for who in [0, 1] {
        assert_eq!(world.texts(who, dm), ["who has the pager?", "me"], "replies in a thread stay in it");
        assert_eq!(world.item(who, dm, root).thread.unwrap().replies, 2);
        let quote = world.item(who, dm, reply).reply_to.unwrap();
        assert_eq!((quote.target, quote.text), (root, Some("who has the pager?".into())));
        let place = Place { channel_id: dm, thread: Some(root) };
        let Ok(Answer::Page(page)) = world.ask(who, Command::LoadTimeline { place, anchor: Anchor::Newest, limit: 10 }) else {
            panic!()
        };
        let texts: Vec<_> = page.items.iter().filter_map(|item| text_of(item)).collect();
        assert_eq!(texts, ["who has the pager?", "until six", "thanks"]);
    }
}

#[test]
fn keys_are_published_in_parts_that_pass_a_slow_link_until_the_stock_is_full() {
    let mut world = World::of(&["ana"]);
    world.settle();
    let device = &world.server.accounts[&world.id(0)].devices[&1];
    assert_eq!((device.one_time.len(), device.kem.len()), (100, 50));
    assert!(world.server.largest_keys < 16 * 1024, "{} bytes in one request", world.server.largest_keys);
}

#[test]
fn prekeys_that_run_out_are_no_obstacle_and_are_refilled() {
    let mut world = World::of(&["ana", "bo"]);
    let bo = world.id(1);
    {
        let device = world.server.accounts.get_mut(&bo).unwrap().devices.get_mut(&1).unwrap();
        device.one_time.clear();
        device.kem.clear();
    }
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "with the last resort");
    world.settle();
    assert_eq!(world.texts(1, dm), ["with the last resort"]);
    let Ok(Answer::Safety(safety)) = world.ask(0, Command::ShowSafety { user_id: bo }) else { panic!() };
    assert!(safety.devices[0].no_one_time_prekey, "it is shown");
    let pushes = vec![(world.clients[1].addr.unwrap(), ServerFrame::KeysLow { one_time: 0, kem: 0 })];
    world.deliver(pushes);
    world.settle();
    let device = &world.server.accounts[&bo].devices[&1];
    assert_eq!((device.one_time.len(), device.kem.len()), (100, 50));
}

/// Ana has written to bo, who was not there for 40 days.
fn nobody_there() -> (World, ChannelId) {
    const DAY: i64 = 24 * 3_600_000;
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.disconnect(1);
    world.advance(40 * DAY);
    world.say(0, dm, "anybody there?");
    world.settle();
    (world, dm)
}

#[test]
fn who_was_not_there_for_a_month_is_looked_for_with_each_message() {
    let (mut world, dm) = nobody_there();
    let away = |world: &World| matches!(world.node(0, dm).blocked, Some(SendBlock::Away { dormant: true, .. }));
    assert!(away(&world), "{:?}", world.node(0, dm).blocked);
    assert_eq!(world.tree(0).waiting, 1, "it is kept");
    let fetched = world.server.bundle_fetches;
    world.say(0, dm, "and now?");
    world.run();
    assert_eq!(world.server.bundle_fetches, fetched + 1, "each message looks again");
    assert!(away(&world));
    world.restart(0);
    world.settle();
    assert!(away(&world), "what waits says why");
    // Bo's client comes back with new keys; nothing tells ana.
    world.connect(1);
    world.run();
    world.say(0, dm, "so?");
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["anybody there?", "and now?", "so?"]);
    assert_eq!(world.node(0, dm).blocked, None);
}

#[test]
fn who_comes_back_gets_at_once_what_waited_for_them() {
    let (mut world, dm) = nobody_there();
    world.connect(1);
    world.settle();
    world.say(1, dm, "I am back");
    world.settle();
    assert_eq!(world.texts(1, dm), ["I am back", "anybody there?"]);
}

#[test]
fn signed_prekeys_rotate_weekly_and_old_first_messages_still_open() {
    let mut world = World::of(&["ana", "bo"]);
    let bo = world.id(1);
    let before = world.server.accounts[&bo].devices[&1].signed.clone().unwrap().id;
    let dm = world.dm(0, 1);
    world.settle();
    // Bo is away while the first message is on its way, and longer than a rotation.
    world.disconnect(1);
    world.say(0, dm, "old prekey");
    world.advance(8 * 86_400_000);
    world.connect(1);
    world.settle();
    assert_eq!(world.texts(1, dm), ["old prekey"]);
    assert!(world.server.accounts[&bo].devices[&1].signed.clone().unwrap().id > before);
}

#[test]
fn a_lost_session_recovers_by_a_request() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "one");
    world.settle();
    world.say(1, dm, "two");
    world.settle();
    // Bo's store loses its sessions, as after a restore of an old disk image.
    let mut changes = Changes::default();
    for (at, _) in world.clients[1].store.scan(Table::Sessions, &[], None, 1000).unwrap() {
        changes.delete(Table::Sessions, at);
    }
    world.clients[1].store.save(changes).unwrap();
    world.restart(1);
    world.say(0, dm, "three");
    world.settle();
    world.advance(30_000);
    assert_eq!(world.agreed(dm, &[0, 1]), ["one", "two", "three"]);
    world.say(0, dm, "four");
    world.say(1, dm, "five");
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]).len(), 5);
}

#[test]
fn messages_disappear_on_both_sides() {
    disappear(|dm, _, seq| Command::MarkRead { channel_id: dm, seq });
}

#[test]
fn messages_that_were_shown_disappear_though_the_channel_is_not_read() {
    disappear(|dm, key, _| Command::Displayed { channel_id: dm, messages: vec![key] });
}

fn disappear(seen: impl Fn(ChannelId, MessageRef, u64) -> Command) {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    // As a timer content of the conversation sets it.
    let client = &mut world.clients[0];
    let mut db = super::super::db::Db::new(&client.store);
    client.engine.places.update_state(&mut db, dm, |state| state.expires_s = 60).unwrap();
    let changes = db.changes;
    client.store.save(changes).unwrap();
    let key = world.say(0, dm, "burn after reading");
    world.settle();
    let seq = world.item(1, dm, key).seq.unwrap();
    world.ask(1, seen(dm, key, seq)).unwrap();
    world.advance(120_000);
    assert_eq!(world.agreed(dm, &[0, 1]), ["<expired>"]);
    let hits = world.ask(1, Command::Search { query: "burn".into(), place: None, limit: 10 });
    assert_eq!(hits, Ok(Answer::Hits(Vec::new())));
}

#[test]
fn drafts_are_kept_per_place_and_go_with_the_message() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    let place = Place { channel_id: dm, thread: None };
    world.ask(0, Command::SaveDraft { place, text: "half a thou".into(), reply_to: None }).unwrap();
    assert!(world.node(0, dm).has_draft);
    world.restart(0);
    let draft = world.ask(0, Command::LoadDraft { place });
    assert_eq!(draft, Ok(Answer::Draft { text: "half a thou".into(), reply_to: None }));
    world.say(0, dm, "half a thought");
    world.settle();
    assert!(!world.node(0, dm).has_draft);
}

#[test]
fn the_history_is_searched_by_words_people_and_places() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "the canary is red");
    world.say(1, dm, "canary rolled back");
    world.settle();
    let find =
        |world: &mut World, query: &str| match world.ask(0, Command::Search { query: query.into(), place: None, limit: 10 }) {
            Ok(Answer::Hits(hits)) => hits.iter().map(|hit| hit.text.raw().to_owned()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
    assert_eq!(find(&mut world, "canary").len(), 2);
    assert_eq!(find(&mut world, "canary from:bo"), ["canary rolled back"]);
    assert_eq!(find(&mut world, "\"canary is\""), ["the canary is red"]);
    assert_eq!(find(&mut world, "canary in:bo").len(), 2);
    assert!(find(&mut world, "canary from:nobody").is_empty());
}

/// Bo makes a new identity on an empty machine.
pub(super) fn reset_identity(world: &mut World, who: Who) -> Who {
    let user = world.clients[who].user.clone();
    let addr = world.clients[who].addr.unwrap();
    world.disconnect(who);
    world.clients[who].queue.clear();
    world.clients[who].addr = None;
    let account = world.server.accounts.get_mut(&user.id).unwrap();
    account.identity = None;
    account.lists.clear();
    account.devices.remove(&addr.device_id);
    let new = world.add_client(user.clone(), MemoryStore::new());
    world.log_in(new);
    let mut pushes = Vec::new();
    for other in world.server.accounts.keys().copied().collect::<Vec<_>>() {
        let event = crate::protocol::streams::Event::DeviceList { user_id: user.id, list_seq: 1 };
        world.server.emit(other.into(), event, &mut pushes);
    }
    world.deliver(pushes);
    world.settle();
    new
}

#[test]
fn a_changed_identity_asks_once_for_an_unverified_contact() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "to the old bo");
    world.settle();
    let new = reset_identity(&mut world, 1);
    world.say(0, dm, "for whom?");
    world.settle();
    assert!(matches!(world.node(0, dm).blocked, Some(SendBlock::IdentityChanged { was_verified: false, .. })));
    assert!(world.page(0, dm).items.iter().any(|item| matches!(item.body, Body::System(SystemLine::IdentityChanged { .. }))));
    assert_eq!(world.tree(0).waiting, 1, "nothing went to the new key");
    let bo = world.id(1);
    let Ok(Answer::Safety(safety)) = world.ask(0, Command::ShowSafety { user_id: bo }) else { panic!() };
    assert!(safety.new_fingerprint.is_some_and(|new| new != safety.fingerprint));
    assert_eq!(world.ask(0, Command::Trust { user_id: bo, send_waiting: true }), Ok(Answer::Ok));
    world.settle();
    assert_eq!(world.texts(new, dm).last().unwrap(), "for whom?");
    assert_eq!(world.node(0, dm).blocked, None);
}

#[test]
fn a_changed_identity_blocks_a_verified_contact_and_waiting_words_go_only_if_wanted() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    let (ana, bo) = (world.id(0), world.id(1));
    world.say(0, dm, "hello");
    world.settle();
    let Ok(Answer::Safety(ours)) = world.ask(0, Command::ShowSafety { user_id: bo }) else { panic!() };
    let Ok(Answer::Safety(theirs)) = world.ask(1, Command::ShowSafety { user_id: ana }) else { panic!() };
    assert_eq!(ours.digits, theirs.digits);
    assert_ne!(ours.code, theirs.code);
    assert!(world.ask(0, Command::Verify { user_id: bo, code: Some(ours.code) }).is_err(), "the own code is not theirs");
    assert_eq!(world.ask(0, Command::Verify { user_id: bo, code: Some(theirs.code) }), Ok(Answer::Ok));
    assert_eq!(world.node(0, dm).peer.unwrap().trust, Trust::Verified);
    assert_eq!(world.ask(0, Command::Verify { user_id: bo, code: None }), Ok(Answer::Ok));
    let page = world.page(0, dm);
    let told = page.items.iter().filter(|item| matches!(item.body, Body::System(SystemLine::Verified { .. })));
    assert_eq!(told.count(), 1, "said once");
    let new = reset_identity(&mut world, 1);
    world.say(0, dm, "meant for the old bo");
    world.settle();
    assert!(matches!(world.node(0, dm).blocked, Some(SendBlock::IdentityChanged { was_verified: true, .. })));
    let Ok(Answer::Safety(now)) = world.ask(0, Command::ShowSafety { user_id: bo }) else { panic!() };
    let Ok(Answer::Safety(theirs)) = world.ask(new, Command::ShowSafety { user_id: ana }) else { panic!() };
    assert!(now.digits == theirs.digits && now.digits != ours.digits, "what is compared is the key that is decided about");
    // What the new identity writes waits too.
    world.say(new, dm, "it is me");
    world.settle();
    assert!(world.texts(0, dm).contains(&"<IdentityChanged>".to_owned()), "{:?}", world.texts(0, dm));
    assert_eq!(world.ask(0, Command::Trust { user_id: bo, send_waiting: false }), Ok(Answer::Ok));
    world.settle();
    assert_eq!(world.node(0, dm).peer.unwrap().trust, Trust::Unverified, "it was not compared yet");
    assert!(world.texts(0, dm).contains(&"it is me".to_owned()), "{:?}", world.texts(0, dm));
    assert!(!world.texts(new, dm).contains(&"meant for the old bo".to_owned()));
    let kept = world.page(0, dm);
    let item = kept.items.iter().find(|item| text_of(item).as_deref() == Some("meant for the old bo")).unwrap();
    assert!(matches!(item.delivery, Delivery::Failed(_)), "the text is kept");
}

#[test]
fn a_restored_server_leaves_a_seam_and_loses_nothing_here() {
    restored(Some(EpochId(uuid::Uuid::from_u128(2))));
}

#[test]
fn a_restored_server_whose_epoch_nobody_changed_is_noticed_by_its_heads() {
    restored(None);
}

fn restored(epoch: Option<EpochId>) {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "in the backup");
    world.settle();
    let backup = world.server.clone();
    world.say(1, dm, "after the backup");
    world.settle();
    let now = world.server.now;
    world.server = backup;
    world.server.now = now;
    world.server.epoch = epoch.unwrap_or(world.server.epoch);
    world.server.online.clear();
    for who in [0, 1] {
        world.disconnect(who);
        world.connect(who);
    }
    world.settle();
    for n in 0..3 {
        world.say(n % 2, dm, &format!("new time {n}"));
        world.settle();
    }
    for who in [0, 1] {
        let texts = world.texts(who, dm);
        for text in ["in the backup", "after the backup", "new time 0", "new time 1", "new time 2"] {
            assert_eq!(texts.iter().filter(|seen| *seen == text).count(), 1, "client {who}: {texts:?}");
        }
        assert!(world.page(who, dm).items.iter().any(|item| item.body == Body::System(SystemLine::Seam)));
    }
}

/// A conversation of which the server lost the last three messages, which ana has read, and got so many others since.
fn restored_and_read(new: usize, away: bool) {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "kept");
    world.settle();
    let backup = world.server.clone();
    for n in 0..3 {
        world.say(1, dm, &format!("lost {n}"));
        world.settle();
    }
    world.ask(0, Command::MarkRead { channel_id: dm, seq: 4 }).unwrap();
    world.settle();
    let now = world.server.now;
    world.server = backup;
    world.server.now = now;
    world.server.epoch = EpochId(uuid::Uuid::from_u128(2));
    world.server.online.clear();
    for who in [0, 1] {
        world.disconnect(who);
    }
    world.connect(1);
    if !away {
        world.connect(0);
    }
    world.settle();
    for n in 0..new {
        world.say(1, dm, &format!("new {n}"));
        world.settle();
    }
    if away {
        world.connect(0);
        world.settle();
    }
    let expected: Vec<String> = std::iter::once("kept".to_owned())
        .chain((0..3).map(|n| format!("lost {n}")))
        .chain((0..new).map(|n| format!("new {n}")))
        .collect();
    assert_eq!(world.agreed(dm, &[0, 1]), expected);
    let node = world.node(0, dm);
    assert_eq!((node.unread, node.read_seq), (new as u64, 1));
    let items = world.page(0, dm).items;
    let seqs: Vec<Option<u64>> = items.iter().filter(|item| text_of(item).is_some()).map(|item| item.seq).collect();
    assert_eq!(seqs[..4], [Some(1), None, None, None], "what the server lost has no number");
    assert!(seqs[4..].iter().zip(2..).all(|(seq, number)| *seq == Some(number)), "{seqs:?}");
    let seam = items.iter().position(|item| item.body == Body::System(SystemLine::Seam)).unwrap();
    let lost = items.iter().rposition(|item| text_of(item).is_some_and(|text| text.starts_with("lost"))).unwrap();
    assert!(lost < seam && items[seam..].iter().filter_map(|item| text_of(item)).count() == new, "the seam is between them");
    world.ask(0, Command::MarkRead { channel_id: dm, seq: new as u64 + 1 }).unwrap();
    assert_eq!(world.node(0, dm).unread, 0);
}

#[test]
fn what_comes_after_a_restore_is_unread_though_its_numbers_were_read() {
    restored_and_read(2, false);
}

#[test]
fn what_came_while_one_was_away_from_a_restored_server_is_unread() {
    restored_and_read(2, true);
    restored_and_read(5, true);
}

#[test]
fn a_removed_device_reads_nothing_more() {
    let mut world = World::of(&["ana", "bo"]);
    let phone = world.second_device(0);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(1, dm, "to both");
    world.settle();
    assert_eq!(world.texts(phone, dm), ["to both"]);
    assert_eq!(world.ask(0, Command::RemoveDevice { device_id: 2 }), Ok(Answer::Ok));
    world.settle();
    world.say(1, dm, "to the laptop only");
    world.settle();
    assert_eq!(world.texts(0, dm), ["to both", "to the laptop only"]);
    let stored = world.server.channels[&dm].rows.last().unwrap().clone();
    assert!(stored.copies.keys().all(|addr| *addr != DeviceAddr { user_id: world.id(0), device_id: 2 }));
}

#[test]
fn what_waits_when_a_device_is_removed_is_not_for_it() {
    let mut world = World::of(&["ana", "bo"]);
    let phone = world.second_device(1);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "to both");
    world.settle();
    // The line is dead, and ana does not know it yet.
    world.server.online.remove(&world.clients[0].addr.unwrap());
    world.clients[0].online = false;
    world.say(0, dm, "to the laptop only");
    assert_eq!(world.ask(1, Command::RemoveDevice { device_id: 2 }), Ok(Answer::Ok));
    world.settle();
    world.disconnect(0);
    world.connect(0);
    world.settle();
    assert_eq!(world.texts(1, dm), ["to both", "to the laptop only"]);
    assert_eq!(world.server.refused_copies, 0, "no frame left for the removed device");
    assert_eq!(world.texts(phone, dm), ["to both"]);
}

#[test]
fn a_device_without_keys_at_the_server_is_named() {
    let mut world = World::of(&["ana", "bo"]);
    world.second_device(1);
    let dm = world.dm(0, 1);
    world.settle();
    let bo = world.id(1);
    world.server.accounts.get_mut(&bo).unwrap().devices.get_mut(&2).unwrap().signed = None;
    for text in ["one", "two"] {
        world.say(0, dm, text);
        world.settle();
    }
    let named = super::liars::warnings(&mut world, 0, dm);
    assert_eq!(named.iter().filter(|text| text.contains("Device 2 of bo gets no copy")).count(), 1, "{named:?}");
    assert_eq!(world.texts(1, dm), ["one", "two"]);
}

#[test]
fn notes_to_oneself_are_kept() {
    let mut world = World::of(&["ana"]);
    let dm = world.dm(0, 0);
    world.settle();
    world.say(0, dm, "buy milk");
    world.settle();
    assert_eq!(world.texts(0, dm), ["buy milk"]);
    assert_eq!(world.tree(0).waiting, 0);
}

#[test]
fn a_long_message_to_many_devices_goes_over_http() {
    let mut world = World::of(&["ana", "bo"]);
    world.second_device(1);
    world.second_device(0);
    let dm = world.dm(0, 1);
    world.settle();
    let long = "long ".repeat(9_000);
    world.say(0, dm, &long);
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1, 2, 3]), [long.as_str()]);
    assert!(world.server.requests.iter().any(|request| request.contains("/messages")));
    let place = Place { channel_id: dm, thread: None };
    let too_long = "x".repeat(60_000).into();
    let refused = world.ask(0, Command::SendText { place, text: too_long, reply_to: None, mentions: Vec::new(), id: None });
    assert_eq!(refused.unwrap_err().kind, ProblemKind::Usage);
}

#[test]
fn a_message_under_an_id_is_sent_once_however_often_it_is_asked_for() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    let id = MessageId(uuid::Uuid::now_v7());
    let place = Place { channel_id: dm, thread: None };
    let send = || Command::SendText { place, text: "once".into(), reply_to: None, mentions: Vec::new(), id: Some(id) };
    assert_eq!(world.ask(0, send()), Ok(Answer::Queued { id }));
    assert_eq!(world.ask(0, send()), Ok(Answer::Queued { id }));
    world.settle();
    world.restart(0);
    assert_eq!(world.ask(0, send()), Ok(Answer::Queued { id }));
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["once"]);
    let command = Command::SendText {
        place,
        text: "x".into(),
        reply_to: None,
        mentions: Vec::new(),
        id: Some(MessageId::from_bytes([7; 16])),
    };
    assert_eq!(world.ask(0, command).unwrap_err().kind, ProblemKind::Usage);
}

#[test]
fn who_turned_receipts_off_tells_nobody_what_was_read() {
    let mut world = World::of(&["ana", "bo"]);
    let phone = world.second_device(1);
    let dm = world.dm(0, 1);
    world.settle();
    assert_eq!(world.ask(1, Command::SetReceipts { on: false }), Ok(Answer::Ok));
    assert_eq!(world.ask(phone, Command::SetReceipts { on: false }), Ok(Answer::Ok));
    let receipts = |world: &World| {
        let opened = world.clients[1].events.iter().rev().find_map(|event| match event {
            ClientEvent::Opened { account, .. } => Some(account.receipts),
            _ => None,
        });
        opened.unwrap()
    };
    assert!(!receipts(&world));
    let said = world.say(0, dm, "did you see this?");
    world.settle();
    let seq = world.item(1, dm, said).seq.unwrap();
    world.ask(1, Command::MarkRead { channel_id: dm, seq }).unwrap();
    world.settle();
    assert_eq!(world.item(0, dm, said).delivery, Delivery::Sent);
    world.restart(1);
    assert!(!receipts(&world), "it is remembered");
    world.ask(1, Command::SetReceipts { on: true }).unwrap();
    let next = world.say(0, dm, "and this?");
    world.settle();
    assert_eq!(world.item(0, dm, next).delivery, Delivery::Delivered);
}

#[test]
fn of_two_timers_the_later_in_the_servers_order_wins_everywhere() {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.say(0, dm, "hi");
    world.settle();
    for who in [0, 1] {
        world.disconnect(who);
    }
    world.ask(0, Command::SetTimer { channel_id: dm, seconds: 60 }).unwrap();
    world.ask(1, Command::SetTimer { channel_id: dm, seconds: 3_600 }).unwrap();
    world.connect(1);
    world.settle();
    world.connect(0);
    world.settle();
    for who in [0, 1] {
        assert_eq!(world.node(who, dm).expires_s, 60);
    }
}
