//! Places and who is in them: adding, removing and leaving in the right place, timers, receipts.

use super::*;
use crate::client::command::InviteText;

fn at(store: Store, channel: &str) -> Driven {
    let mut driven = Driven::open(store, 100, 30);
    driven.keys(&format!("ctrl-g '{channel}' enter"));
    driven.effects.clear();
    driven
}

fn last(driven: &Driven) -> Option<Command> {
    driven.asked().map(|(_, command)| command)
}

fn person(n: u8, name: &str) -> Person {
    Person { user_id: user(n), username: name.into(), display_name: None, trust: Trust::Unverified }
}

#[test]
fn members_are_added_to_the_private_place_that_is_open() {
    for (channel, domain, place) in [
        ("war room", Domain::from(channel_id(WAR_ROOM)), "~ war room"),
        ("pixels", Domain::from(GroupId::from_bytes([2; 16])), "the private group design"),
    ] {
        let mut driven = at(Store::private(Role::Admin), channel);
        driven.keys("'/add-member dora' enter");
        assert!(driven.text().contains(&format!("add to {place}")), "{}", driven.text());
        assert_eq!(last(&driven), Some(Command::FindPeople { query: "dora".to_owned() }));
        // Who is in it already is not offered.
        driven.answer(Ok(Answer::People(vec![person(BO, "bo"), person(DORA, "dora")])));
        assert!(!driven.text().contains("▌ @ bo") && driven.text().contains("▌ @ dora"), "{}", driven.text());
        driven.keys("enter");
        assert_eq!(last(&driven), Some(Command::AddMember { domain, user_id: user(DORA) }));
        driven.answer(Ok(Answer::Ok));
        assert!(driven.text().contains(&format!("dora was added to {place}")), "{}", driven.text());
    }
}

#[test]
fn only_who_is_in_the_community_is_offered_to_a_private_place_in_it() {
    let mut driven = at(Store::private(Role::Admin), "war room");
    driven.keys("'/add-member ' enter");
    let people = vec![person(ANA, "ana"), person(CAROL, "carol"), person(DORA, "dora"), person(9, "eve")];
    driven.answer(Ok(Answer::People(people)));
    let text = driven.text();
    assert!(text.contains("@ dora") && !text.contains("@ ana") && !text.contains("@ eve"), "{text}");
    assert!(!text.contains("@ carol\n") && !text.contains("▌ @ carol"), "nobody signed that she is a member\n{text}");
}

#[test]
fn adding_from_a_public_channel_asks_where_to_and_says_when_there_is_no_such_place() {
    let mut driven = at(Store::private(Role::Admin), "deploys");
    driven.keys("'/add-member dora' enter");
    let text = driven.text();
    assert!(text.contains("~ war room") && text.contains("the private group design"), "{text}");
    driven.keys("enter");
    assert_eq!(last(&driven), Some(Command::FindPeople { query: "dora".to_owned() }));
    driven.answer(Ok(Answer::People(vec![person(DORA, "dora")])));
    driven.keys("enter");
    assert_eq!(last(&driven), Some(Command::AddMember { domain: channel_id(WAR_ROOM).into(), user_id: user(DORA) }));

    let mut driven = at(Store::team(), "deploys");
    driven.keys("'/add-member dora' enter");
    assert!(driven.text().contains("open to everybody in its community") && driven.text().contains(":invite"));
    assert!(driven.commands().is_empty());
}

#[test]
fn whoever_may_not_decide_about_a_private_place_is_told_before_choosing() {
    for command in ["add-member", "role", "kick", "ban"] {
        let mut driven = at(Store::private(Role::Member), "war room");
        driven.keys(&format!("'/{command} bo' enter"));
        assert!(driven.text().contains("of ~ war room can do that"), "{}", driven.text());
        assert!(driven.commands().is_empty() && driven.app.overlays.is_empty());
    }
    for command in ["add-member", "role"] {
        let mut driven = at(Store::private(Role::Moderator), "war room");
        driven.keys(&format!("'/{command} bo' enter"));
        assert!(driven.text().contains("only admins and the owner of ~ war room"), "{}", driven.text());
    }
}

#[test]
fn removing_acts_where_the_open_channel_stands_and_says_where() {
    for (channel, domain, place) in [
        ("deploys", Domain::from(community_id(1)), "Acme"),
        ("war room", Domain::from(channel_id(WAR_ROOM)), "~ war room"),
        ("pixels", Domain::from(GroupId::from_bytes([2; 16])), "the private group design"),
    ] {
        let mut driven = at(Store::private(Role::Owner), channel);
        driven.keys("'/kick bo' enter enter");
        let text = driven.text();
        assert!(text.contains(&format!("Remove bo from {place}?")), "{text}");
        driven.keys("y");
        assert_eq!(last(&driven), Some(Command::Kick { domain, user_id: user(BO), ban: false, reason: None }));
    }
}

#[test]
fn only_those_below_the_own_role_can_be_chosen() {
    let mut driven = at(Store::private(Role::Moderator), "war room");
    driven.keys("'/kick ' enter");
    let text = driven.text();
    assert!(text.contains("▌ bo") && !text.contains("│   ana"), "an admin stands above\n{text}");
    // Who is not in the signed list cannot be removed from it.
    let mut driven = at(Store::private(Role::Owner), "deploys");
    driven.keys("'/kick ' enter");
    let text = driven.text();
    assert!(text.contains("▌ ana") && text.contains("│   dora") && !text.contains("│   carol"), "{text}");
}

#[test]
fn whoever_was_added_while_the_channel_was_open_can_be_chosen() {
    let mut driven = at(Store::private(Role::Owner), "war room");
    let alone = driven.app.world.members(channel_id(WAR_ROOM))[..1].to_vec();
    driven.app.world.set_members(channel_id(WAR_ROOM), alone);
    driven.keys("'/role bo' enter");
    assert!(driven.text().contains("▌ bo"), "{}", driven.text());
}

#[test]
fn a_private_group_knows_no_bans_and_a_direct_conversation_no_removal() {
    let mut driven = at(Store::private(Role::Owner), "pixels");
    driven.keys("'/ban bo' enter");
    assert!(driven.text().contains("the private group design knows no bans"), "{}", driven.text());
    let mut driven = at(Store::private(Role::Owner), "@bo");
    for command in ["kick", "ban", "role"] {
        driven.keys(&format!("ctrl-u '/{command} bo' enter"));
        assert!(driven.text().contains("a direct conversation has two members"), "{}", driven.text());
    }
    assert!(driven.commands().iter().all(|command| !matches!(command, Command::Kick { .. } | Command::SetRole { .. })));
}

#[test]
fn an_admin_lets_somebody_back_in_who_was_kept_out() {
    let mut driven = at(Store::private(Role::Admin), "deploys");
    driven.keys("'/ban bo' enter enter");
    assert!(driven.text().contains("Remove bo from Acme and keep them out, until :unban?"), "{}", driven.text());
    driven.keys("n '/unban' enter");
    let acme = Domain::from(community_id(1));
    assert_eq!(last(&driven), Some(Command::ListBanned { domain: acme }));
    driven.answer(Ok(Answer::People(vec![person(9, "eve"), person(8, "mallory")])));
    assert!(driven.text().contains("let back into Acme"), "{}", driven.text());
    driven.keys("'mal' enter");
    assert_eq!(last(&driven), Some(Command::Unban { domain: acme, user_id: user(8) }));
    driven.answer(Ok(Answer::Ok));
    assert!(driven.text().contains("mallory may come back to Acme; :invite makes a link for them"), "{}", driven.text());

    driven.keys("'/unban' enter");
    driven.answer(Ok(Answer::People(Vec::new())));
    assert!(driven.text().contains("nobody is kept out of Acme"), "{}", driven.text());
    let mut driven = at(Store::private(Role::Moderator), "deploys");
    driven.keys("'/unban mallory' enter");
    assert!(driven.text().contains("only admins and the owner of Acme can do that"), "{}", driven.text());
    let mut driven = at(Store::private(Role::Owner), "pixels");
    driven.keys("'/unban mallory' enter");
    assert!(driven.text().contains("the private group design knows no bans") && driven.commands().is_empty());
}

#[test]
fn whoever_is_added_to_a_private_place_or_removed_from_it_is_told() {
    let mut store = Store::private(Role::Member);
    let with = store.tree.clone();
    Arc::make_mut(&mut Arc::make_mut(&mut store.tree).communities[0]).groups[0]
        .channels
        .retain(|node| node.name.raw() != "war room");
    let without = store.tree.clone();
    let mut driven = at(store, "deploys");
    driven.client(ClientEvent::Tree(with.clone()));
    assert!(driven.text().contains("you were added to ~ war room; Ctrl-G goes there"), "{}", driven.text());
    driven.wait(6000);
    driven.client(ClientEvent::Tree(with.clone()));
    assert!(!driven.text().contains("you were added"), "once");
    driven.client(ClientEvent::Tree(without.clone()));
    assert!(driven.text().contains("~ war room is not open to you any more"), "{}", driven.text());

    // What one made oneself is no news.
    let mut driven = at(Store { tree: without, ..Store::private(Role::Owner) }, "deploys");
    driven.client(ClientEvent::Tree(Store::private(Role::Owner).tree));
    assert!(!driven.text().contains("you were added"), "{}", driven.text());
}

#[test]
fn what_one_left_does_not_stay_on_the_screen() {
    let mut store = Store::private(Role::Member);
    Arc::make_mut(&mut Arc::make_mut(&mut store.tree).communities[0]).groups[0]
        .channels
        .retain(|node| node.name.raw() != "war room");
    let without = store.tree;
    for tree_first in [true, false] {
        let mut driven = at(Store::private(Role::Member), "war room");
        driven.keys("'/leave' enter enter y");
        let (request, _) = driven.asked().unwrap();
        if tree_first {
            driven.client(ClientEvent::Tree(without.clone()));
        }
        driven.client(ClientEvent::Done { request, result: Ok(Answer::Ok) });
        driven.client(ClientEvent::Tree(without.clone()));
        let text = driven.text();
        assert!(text.contains("you left ~ war room") && !text.contains("any more"), "{tree_first} {text}");
        assert!(driven.app.chat.channel_id().is_some_and(|id| id != channel_id(WAR_ROOM)), "{tree_first} {text}");
    }
}

#[test]
fn what_was_refused_in_a_channel_is_not_said_in_the_next() {
    let mut driven = at(Store::team(), "deploys");
    driven.keys("'/nonsense' enter");
    assert!(driven.text().contains("there is no command /nonsense"));
    driven.keys("alt-down");
    assert!(!driven.text().contains("there is no command"), "{}", driven.text());
    // What has nothing to do with the channel stays until it is closed.
    driven.client(ClientEvent::Notice(Problem::new(ProblemKind::Crypto, "two signed lists contradict each other")));
    driven.keys("alt-up");
    assert!(driven.text().contains("two signed lists contradict each other"), "{}", driven.text());
}

#[test]
fn roles_are_given_in_the_open_place_and_ownership_only_after_a_question() {
    let mut driven = at(Store::private(Role::Owner), "war room");
    driven.keys("'/role bo' enter enter");
    assert!(driven.text().contains("role of bo in ~ war room"), "{}", driven.text());
    driven.keys("'mod' enter");
    let room = Domain::from(channel_id(WAR_ROOM));
    assert_eq!(last(&driven), Some(Command::SetRole { domain: room, user_id: user(BO), role: Role::Moderator }));
    driven.effects.clear();
    driven.keys("'/role bo' enter enter 'owner' enter");
    assert!(driven.commands().is_empty() && driven.text().contains("Hand ~ war room over to bo?"), "{}", driven.text());
    driven.keys("y");
    assert_eq!(last(&driven), Some(Command::SetRole { domain: room, user_id: user(BO), role: Role::Owner }));
    // An admin makes no admins.
    let mut driven = at(Store::private(Role::Admin), "war room");
    driven.keys("'/role bo' enter enter");
    let text = driven.text();
    assert!(text.contains("moderator") && !text.contains("  admin") && !text.contains("owner"), "{text}");
}

#[test]
fn what_can_be_done_with_somebody_names_the_place_and_the_community_around_it() {
    let mut driven = at(Store::private(Role::Owner), "war room");
    driven.keys("f5 'bo' enter");
    let text = driven.text();
    for row in ["remove from ~ war room", "remove from Acme and keep out", "change the role in ~ war room"] {
        assert!(text.contains(row), "{row}\n{text}");
    }
    driven.keys("'remove from acme' enter");
    assert!(driven.text().contains("Remove bo from Acme?"), "{}", driven.text());
}

#[test]
fn leaving_a_private_place_is_not_leaving_the_community() {
    let mut driven = at(Store::private(Role::Member), "war room");
    driven.keys("'/leave' enter");
    let text = driven.text();
    assert!(text.contains("~ war room") && text.contains("Acme  with everything in it"), "{text}");
    driven.keys("enter");
    assert!(driven.text().contains("Leave ~ war room?"), "{}", driven.text());
    driven.keys("y");
    assert_eq!(last(&driven), Some(Command::Leave { domain: channel_id(WAR_ROOM).into() }));

    // An owner is told what to do first.
    let mut driven = at(Store::private(Role::Owner), "deploys");
    driven.keys("'/leave' enter");
    assert!(driven.text().contains("you own Acme") && driven.text().contains(":role NAME"), "{}", driven.text());
    assert!(driven.app.overlays.is_empty());
}

// A stopped channel.

fn fork() -> Fork {
    let change = |by: &str, what: &str| SignedChange { by: by.into(), device_id: 1, what: what.into(), signed_at: NOW };
    Fork { seq: 7, discard: "ab12".to_owned(), kept: change("ana", "removed bo"), other: change("ana", "added eve") }
}

#[test]
fn why_nobody_of_a_person_can_be_written_to_is_said() {
    for (dormant, refused, words) in [
        (true, false, "has been there for 30 days"),
        (false, false, "can be written to now"),
        (false, true, "what the server gives as the keys of bo does not hold"),
    ] {
        let mut store = Store::team();
        store.edit(DM_BO, |channel| {
            channel.blocked = Some(SendBlock::Away { user_id: user(BO), name: "bo".into(), dormant, refused });
        });
        let mut driven = at(store, "@bo");
        assert!(driven.text().contains(words), "{words}: {}", driven.text());
    }
}

#[test]
fn an_admin_lets_a_stopped_channel_go_on_after_a_question() {
    let mut store = Store::private(Role::Admin);
    store.edit(WAR_ROOM, |channel| channel.blocked = Some(SendBlock::LogStopped));
    let mut driven = at(store, "war room");
    assert!(driven.text().contains(":resume shows why"), "{}", driven.text());
    driven.keys("'/resume' enter");
    let room = channel_id(WAR_ROOM);
    assert_eq!(last(&driven), Some(Command::ShowForks { channel_id: room }));
    driven.answer(Ok(Answer::Forks(vec![fork()])));
    let text = driven.text();
    assert!(text.contains("ana removed bo") && text.contains("ana added eve"), "{text}");
    driven.effects.clear();
    driven.keys("a n");
    assert!(driven.commands().is_empty());
    driven.keys("a y");
    assert_eq!(last(&driven), Some(Command::Resume { channel_id: room, discard: "ab12".to_owned() }));
    driven.answer(Ok(Answer::Ok));
    assert_eq!(last(&driven), Some(Command::ShowForks { channel_id: room }));
    driven.answer(Ok(Answer::Forks(Vec::new())));
    assert!(driven.app.overlays.is_empty() && driven.text().contains("the channel goes on"), "{}", driven.text());
}

#[test]
fn whoever_is_no_admin_sees_why_a_channel_is_stopped_and_decides_nothing() {
    let mut driven = at(Store::private(Role::Moderator), "war room");
    driven.keys("'/resume' enter");
    driven.answer(Ok(Answer::Forks(vec![fork()])));
    driven.keys("a y");
    assert!(driven.text().contains("An admin of this place decides"), "{}", driven.text());
    assert!(driven.commands().iter().all(|command| !matches!(command, Command::Resume { .. })));
}

// Timers.

fn timer(n: u8, seconds: u32) -> Option<Command> {
    Some(Command::SetTimer { channel_id: channel_id(n), seconds })
}

#[test]
fn a_timer_is_typed_as_people_write_time_and_the_header_shows_it() {
    let mut driven = at(Store::private(Role::Admin), "war room");
    driven.keys("'/timer 1d' enter");
    assert_eq!(last(&driven), timer(WAR_ROOM, 86_400));
    driven.answer(Ok(Answer::Queued { id: MessageId::from_bytes([1; 16]) }));
    assert!(driven.text().contains("new messages here disappear 1d after they were read"), "{}", driven.text());
    driven.keys("f9 'timer off' enter");
    assert_eq!(last(&driven), timer(WAR_ROOM, 0));

    let mut store = Store::private(Role::Admin);
    store.edit(WAR_ROOM, |channel| channel.expires_s = 5400);
    store.edit(DM_BO, |channel| channel.expires_s = 86_400);
    let mut driven = at(store, "war room");
    assert!(driven.text().contains("4 members   gone after 1h 30m   e2ee"), "{}", driven.text());
    driven.keys("ctrl-g '@bo' enter");
    assert!(driven.text().contains("gone after 1d   e2ee, not verified (F8)"), "{}", driven.text());
}

#[test]
fn a_wrong_time_is_refused_with_examples_and_keeps_what_was_set() {
    let mut driven = at(Store::private(Role::Admin), "war room");
    for wrong in ["soon", "1", "3 months", "2s", "9999d"] {
        driven.keys(&format!("'/timer {wrong}' enter"));
        assert!(driven.text().contains("30m, 8h, 1d"), "{wrong}\n{}", driven.text());
    }
    assert!(driven.commands().is_empty());
    // The form says it in place.
    driven.keys("'/timer' enter ctrl-u 'soon' enter");
    assert!(driven.text().contains("not a length of time"), "{}", driven.text());
    driven.keys("ctrl-u '4w' enter");
    assert_eq!(last(&driven), timer(WAR_ROOM, 2_419_200));
    assert!(driven.app.overlays.is_empty());
}

#[test]
fn in_a_channel_admins_set_the_timer_and_in_a_conversation_of_two_both_do() {
    let mut driven = at(Store::private(Role::Moderator), "war room");
    driven.keys("'/timer 1d' enter");
    assert!(driven.text().contains("only admins and the owner decide"), "{}", driven.text());
    assert!(driven.commands().is_empty());
    driven.keys("ctrl-g '@bo' enter '/timer 1d' enter");
    assert_eq!(last(&driven), timer(DM_BO, 86_400));
}

// Receipts.

#[test]
fn receipts_are_turned_on_and_off_and_the_list_shows_how_it_is() {
    let mut driven = deploys(100, 30);
    driven.keys("'/receipts off' enter");
    assert_eq!(last(&driven), Some(Command::SetReceipts { on: false }));
    driven.answer(Ok(Answer::Ok));
    assert!(driven.text().contains("receipts are off"), "{}", driven.text());
    driven.keys("'/receipts maybe' enter");
    assert!(driven.text().contains("receipts are on or off"), "{}", driven.text());
    let account = Arc::new(Account { receipts: false, ..account() });
    driven.client(ClientEvent::Opened { account, tree: Store::team().tree });
    driven.keys("'/receipts' enter");
    assert!(driven.text().contains("off: nobody sees either  as it is now"), "{}", driven.text());
    driven.keys("enter");
    assert_eq!(last(&driven), Some(Command::SetReceipts { on: true }));
}

#[test]
fn a_conversation_that_cannot_be_begun_says_with_whom_and_what_it_needs() {
    let mut driven = at(Store::team(), "deploys");
    driven.keys("'/dm eve' enter");
    driven.answer(Ok(Answer::People(vec![person(9, "eve")])));
    driven.keys("enter");
    driven.answer(Err(Problem::new(ProblemKind::NotFound, "not found")));
    let text = driven.text();
    assert!(text.contains("no direct conversation with eve can be begun") && text.contains("both of you are in"), "{text}");
}

// Keys.

#[test]
fn a_verified_key_that_changes_is_told_wherever_one_is_and_marked_in_the_switcher() {
    let mut store = Store::team();
    store.edit(DM_BO, |channel| {
        channel.blocked = Some(SendBlock::IdentityChanged { user_id: user(BO), name: "bo".into(), was_verified: true });
        if let Some(peer) = &mut channel.peer {
            peer.trust = Trust::Changed { was_verified: true };
        }
    });
    let mut driven = at(Store::team(), "deploys");
    driven.client(ClientEvent::Tree(store.tree.clone()));
    let text = driven.text();
    assert!(text.contains("the identity key of @ bo changed, which you had verified") && text.contains("F8 compares"), "{text}");
    driven.keys("esc i");
    driven.client(ClientEvent::Tree(store.tree));
    assert!(!driven.text().contains("which you had verified"), "it is told once");
    driven.keys("ctrl-g '@bo'");
    assert!(driven.text().contains("@ bo  ! key changed"), "{}", driven.text());
}

#[test]
fn a_decision_about_a_key_shows_in_the_messages_at_once() {
    let mut driven = at(Store::team(), "@bo");
    driven.keys("f8");
    driven.answer(Ok(Answer::Safety(SafetyNumber {
        user_id: user(BO),
        name: "bo".into(),
        digits: "1".repeat(60),
        code: String::new(),
        fingerprint: "00".repeat(32),
        new_fingerprint: None,
        trust: Trust::Unverified,
        devices: Vec::new(),
    })));
    let mut item = message(DM_BO, 1, BO, "bo", "hello");
    item.author_trust = Trust::Verified;
    driven.world.items = vec![Arc::new(item)];
    assert!(!driven.text().contains("hello"));
    driven.keys("v y");
    driven.answer(Ok(Answer::Ok));
    driven.keys("esc");
    assert!(driven.text().contains("hello"), "{}", driven.text());
}

// Notes to oneself.

#[test]
fn notes_to_oneself_are_offered_by_name_and_by_what_they_are() {
    for query in ["me", "@ME", "notes", "myself"] {
        let mut driven = at(Store::team(), "deploys");
        driven.keys(&format!("'/dm {query}' enter"));
        driven.answer(Ok(Answer::People(Vec::new())));
        assert!(driven.text().contains("▌ @ me (you)  notes to yourself"), "{query}: {}", driven.text());
        driven.keys("enter");
        assert_eq!(last(&driven), Some(Command::OpenDm { user_id: user(ME) }));
    }
    // Nobody who looks for others, or for members to add, is offered themselves first.
    let mut driven = at(Store::team(), "deploys");
    driven.keys("'/dm ' enter");
    driven.answer(Ok(Answer::People(vec![person(BO, "bo")])));
    let text = driven.text();
    assert!(text.contains("▌ @ bo") && text.contains("│   @ me (you)"), "{text}");
    let mut driven = at(Store::private(Role::Admin), "war room");
    driven.keys("'/add-member me' enter");
    driven.answer(Ok(Answer::People(Vec::new())));
    assert!(!driven.text().contains("notes to yourself"), "{}", driven.text());
}

#[test]
fn the_switcher_offers_notes_to_oneself_before_and_after_they_are_begun() {
    let mut driven = at(Store::team(), "deploys");
    driven.keys("ctrl-g 'notes'");
    assert!(driven.text().contains("▌ @ me (you)  notes to yourself"), "{}", driven.text());
    driven.keys("enter");
    assert_eq!(last(&driven), Some(Command::OpenDm { user_id: user(ME) }));

    let mut driven = at(Store::with_notes(), "deploys");
    driven.keys("ctrl-g 'notes'");
    assert_eq!(driven.text().matches("notes to yourself").count(), 1, "{}", driven.text());
    driven.keys("enter");
    let text = driven.text();
    assert!(text.contains("@ me (you)") && text.contains("write to @ me (you)"), "{text}");
    assert!(text.contains("only your own devices can read it") && !text.contains("not verified"), "{text}");
    driven.keys("f8");
    assert!(driven.text().contains("with yourself there is nothing to compare"), "{}", driven.text());
}

// Getting there.

#[test]
fn a_link_behind_join_is_asked_for_at_once_and_shown_whole() {
    let mut driven = at(Store::team(), "deploys");
    let link = format!("chat://chat.example.org/i/abc#TCI1-{}Z", "ABCDEFGH".repeat(12));
    driven.keys(&format!("f9 'join {link}' enter"));
    assert_eq!(last(&driven), Some(Command::Join { link: InviteText(link.clone()) }));
    driven.answer(Err(Problem::new(ProblemKind::NotFound, "there is no such invite")));
    let text = driven.text();
    assert!(text.contains("no such invite") && text.contains("chat://chat.example.org/i/") && text.contains("GHZ"), "{text}");
}

#[test]
fn a_joined_community_opens_its_first_channel_and_a_new_one_none_of_another() {
    let mut driven = at(Store::team(), "deploys");
    driven.keys("'half' f9 'join chat://x' enter");
    driven.answer(Ok(Answer::Community(community_id(7))));
    assert!(driven.app.chat.main.is_none(), "what is open belongs to another community");
    // Its channels come.
    let mut store = Store::team();
    let mut node = CommunityNode { id: community_id(7), name: "Pyland".into(), ..(*store.tree.communities[1]).clone() };
    Arc::make_mut(&mut store.tree).communities.push(Arc::new(node.clone()));
    driven.client(ClientEvent::Tree(store.tree.clone()));
    assert!(driven.app.chat.main.is_none() && driven.text().contains("this community has no channel yet"), "{}", driven.text());
    let mut group = store.tree.communities[0].groups[1].clone();
    group.channels =
        vec![Arc::new(ChannelNode { id: channel_id(77), community_id: Some(node.id), ..(*group.channels[0]).clone() })];
    node.groups = vec![group];
    Arc::make_mut(&mut store.tree).communities[3] = Arc::new(node);
    driven.client(ClientEvent::Tree(store.tree));
    assert_eq!(driven.app.chat.channel_id(), Some(channel_id(77)));
    // What was typed is kept where it was typed.
    let kept = |command: &Command| matches!(command, Command::SaveDraft { text, .. } if text.raw() == "half");
    assert!(driven.commands().iter().any(kept));
}

#[test]
fn the_switcher_finds_the_open_channel_too_behind_all_others() {
    let mut driven = deploys(100, 30);
    driven.keys("ctrl-g");
    assert!(!driven.text().contains("▌ # deploys  "), "it is not the first");
    driven.keys("'deploys'");
    assert!(driven.text().contains("# deploys  Acme, open now"), "{}", driven.text());
    driven.keys("enter");
    assert_eq!(driven.app.chat.channel_id(), Some(channel_id(DEPLOYS)));
    assert!(driven.app.overlays.is_empty());
}
