//! Acting on messages, forms, the outbox, the line, the program.

use super::*;

#[test]
fn deleting_asks_first() {
    let mut driven = deploys(100, 30);
    driven.keys("esc { { d n");
    assert!(driven.commands().is_empty());
    driven.keys("d y");
    assert!(matches!(driven.asked(), Some((_, Command::Delete { .. }))));
}

#[test]
fn reacting_again_takes_it_back() {
    let mut driven = deploys(100, 30);
    driven.keys("esc g g a '+1' enter");
    let removed = |driven: &Driven| match driven.asked() {
        Some((_, Command::React { remove, emoji, .. })) => Some((remove, emoji)),
        _ => None,
    };
    assert_eq!(removed(&driven), Some((true, "👍".to_owned())));
    driven.keys("a 'rocket' enter");
    assert_eq!(removed(&driven), Some((false, "🚀".to_owned())));
}

#[test]
fn what_is_copied_holds_no_escape() {
    let mut store = Store::team();
    store.items = vec![Arc::new(message(DEPLOYS, 60, BO, "bo", "ls\x1b[2J\nrm\u{202e}"))];
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g 'deploys' enter esc y");
    assert!(driven.effects.contains(&Effect::Copy("ls␛[2J\nrm<U+202E>".to_owned())), "{:?}", driven.effects);
}

#[test]
fn what_has_no_text_says_why_it_cannot_be_copied_quoted_answered_or_edited() {
    let bodies = [
        (Body::Deleted { by_moderator: false }, "it was deleted"),
        (Body::Expired, "it has disappeared, as its timer said"),
        (Body::Undecryptable(Reason::WaitingForKey), "it is not decrypted here"),
        (Body::NewerClient, "it needs a newer version of chat"),
    ];
    for (body, why) in bodies {
        let mut store = Store::team();
        store.items = vec![Arc::new(TimelineItem { body, ..message(DEPLOYS, 60, ME, "me", "") })];
        let mut driven = Driven::open(store, 100, 30);
        driven.keys("ctrl-g 'deploys' enter esc");
        for (key, what) in [("y", "copied"), (">", "quoted"), ("r", "answered"), ("e", "edited")] {
            driven.keys(key);
            let text = driven.text();
            assert!(text.contains(why) && text.contains(what), "{key}: {text}");
            driven.keys("esc");
        }
        assert!(!driven.effects.iter().any(|effect| matches!(effect, Effect::Copy(_))));
    }
}

#[test]
fn without_a_message_every_command_about_one_says_so() {
    for key in ["r", "t", "e", "d", "a", "y", ">", "p", "R", "D", "o"] {
        let mut driven = Driven::open(Store::team(), 100, 30);
        driven.keys(&format!("ctrl-g 'pixels' enter esc {key}"));
        assert!(driven.text().contains("there is no message here"), "{key}: {}", driven.text());
    }
}

#[test]
fn a_quote_reads_as_the_message_does() {
    let mut store = Store::team();
    let quote =
        Quote { target: store.items[0].key, author_name: "ana".into(), text: Some("who has the **pager** `now`?".into()) };
    Arc::make_mut(&mut store.items[1]).reply_to = Some(quote);
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g 'deploys' enter");
    assert!(driven.text().contains("> ana: who has the pager now?"), "{}", driven.text());
}

#[test]
fn a_failed_form_keeps_what_was_typed() {
    let mut driven = deploys(100, 30);
    driven.keys("f9 'create-community' enter 'Acme' tab enter");
    driven.answer(Err(Problem::new(ProblemKind::Network, "the server cannot be reached").hint("Try again.")));
    let text = driven.text();
    assert!(text.contains("Acme") && text.contains("the server cannot be reached"), "{text}");
    driven.keys("enter");
    driven.answer(Ok(Answer::Community(community_id(1))));
    assert!(driven.app.overlays.is_empty());
}

#[test]
fn what_a_role_does_not_allow_says_whom_to_ask() {
    let refused = || Problem::new(ProblemKind::Permission, "your role does not allow this");
    let mut driven = deploys(100, 30);
    driven.keys("'/create-channel mine' enter enter enter enter enter");
    driven.answer(Err(refused()));
    assert!(driven.text().contains("Ask an admin or the owner of this place; F5 shows who they are."), "{}", driven.text());
    driven.keys("esc '/topic mine' enter");
    driven.answer(Err(refused()));
    assert!(driven.text().contains("Ask an admin or the owner of this place; F5 shows who they are."), "{}", driven.text());
}

#[test]
fn the_hints_of_an_own_message_name_editing_and_deleting_and_those_of_a_thread_closing_it() {
    let mut driven = deploys(120, 30);
    driven.keys("esc");
    assert!(driven.text().contains("e edit  d delete"), "{}", driven.text());
    driven.keys("g g");
    assert!(!driven.text().contains("d delete"), "{}", driven.text());
    driven.keys("enter");
    assert!(driven.text().contains("F3 close thread"), "{}", driven.text());
}

#[test]
fn a_form_takes_no_keys_while_its_answer_is_awaited() {
    let mut driven = deploys(100, 30);
    driven.keys("f9 'create-community' enter 'Acme' tab enter 'more' tab ctrl-u enter");
    assert_eq!(driven.commands().iter().filter(|command| matches!(command, Command::CreateCommunity { .. })).count(), 1);
    driven.answer(Err(Problem::new(ProblemKind::Network, "the server cannot be reached")));
    let text = driven.text();
    assert!(text.contains("Acme") && !text.contains("more"), "{text}");
}

#[test]
fn the_first_channel_brings_its_group() {
    let mut store = Store::team();
    let tree = Arc::make_mut(&mut store.tree);
    tree.communities.truncate(1);
    Arc::make_mut(&mut tree.communities[0]).groups.clear();
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("f9 'create-channel' enter 'general' enter enter enter");
    assert!(matches!(driven.asked(), Some((_, Command::CreateGroup { name, .. })) if name == "general"));
    driven.answer(Ok(Answer::Group(crate::protocol::ids::GroupId::from_bytes([9; 16]))));
    assert!(matches!(driven.asked(), Some((_, Command::CreateChannel { name, .. })) if name == "general"));
}

#[test]
fn a_channel_stands_in_the_group_that_was_just_made() {
    let mut driven = deploys(100, 30);
    driven.keys("'/create-group ops' enter enter enter");
    assert!(matches!(driven.asked(), Some((_, Command::CreateGroup { .. }))));
    let design = driven.world.tree.communities[0].groups[1].id;
    driven.answer(Ok(Answer::Group(design)));
    driven.keys("f9 'create-channel' enter 'rota' enter enter");
    let text = driven.text();
    assert!(text.contains("< design >") && text.contains("< everybody who reads the group >"), "{text}");
    driven.keys("enter enter");
    assert!(matches!(driven.asked(), Some((_, Command::CreateChannel { group_id, .. })) if group_id == design));
}

#[test]
fn being_offline_is_said_and_unsaid() {
    let mut driven = deploys(100, 30);
    let offline = Connection::Offline { since: NOW, retry_at: None, why: "no route".into() };
    driven.client(ClientEvent::Connection(offline));
    assert!(driven.text().contains("offline since 14:10"));
    driven.keys("'still works' enter");
    assert_eq!(sent(&driven), ["still works"], "what is written goes into the outbox");
    driven.client(ClientEvent::Connection(Connection::Online { latency_ms: None }));
    assert!(!driven.text().contains("offline"));
}

#[test]
fn the_outbox_lists_what_waits_in_every_channel_and_goes_there() {
    let mut driven = deploys(100, 30);
    driven.keys("f6");
    assert!(matches!(driven.asked(), Some((_, Command::ListUnsent))));
    let refused = Unsent { delivery: Delivery::Failed("no".into()), ..unsent(DM_BO, UnsentKind::Message, "to *bo*") };
    driven.answer(Ok(Answer::Unsent(vec![unsent(14, UnsentKind::Edit, "pixels"), refused.clone()])));
    let text = driven.text();
    assert!(text.contains("edit: pixels  waits") && text.contains("# pixels 14:10"), "{text}");
    assert!(text.contains("to bo  failed: no") && text.contains("@ bo 14:10"), "{text}");
    driven.keys("down enter down enter");
    assert_eq!(
        driven.asked().map(|(_, command)| command),
        Some(Command::Retry { channel_id: refused.channel_id, id: refused.id })
    );
    driven.keys("f6");
    driven.answer(Ok(Answer::Unsent(vec![refused])));
    driven.keys("enter enter");
    assert_eq!(driven.app.chat.channel_id(), Some(channel_id(DM_BO)));
}

#[test]
fn an_ended_session_offers_the_way_back_in_and_takes_no_keys_from_who_types() {
    let out = || ClientEvent::Connection(Connection::LoggedOut { why: "the server ended this session".into() });
    let mut driven = deploys(100, 30);
    driven.keys("'half a'");
    driven.client(out());
    assert!(driven.text().contains("this session ended: the server ended this session"));
    driven.keys("' word'");
    assert_eq!(composer(&driven), "half a word");
    driven.keys("f12 'secret words' enter");
    let asked = driven.effects.iter().filter(|effect| matches!(effect, Effect::Setup(crate::tui::effect::Setup::LogIn { .. })));
    assert_eq!(asked.count(), 1);
    driven.msg(Msg::Setup(Err(Problem::new(ProblemKind::Auth, "wrong username or password"))));
    assert!(driven.text().contains("wrong username or password"));
    driven.keys("'other words' enter");
    let again = crate::tui::effect::Setup::LogIn { password: crate::protocol::auth::SecretText::from("other words") };
    assert_eq!(driven.effects.last(), Some(&Effect::Setup(again)), "what was refused is gone");
    driven.msg(Msg::Setup(Ok(crate::tui::effect::SetupAnswer::LoggedIn)));
    driven.client(ClientEvent::Connection(Connection::Online { latency_ms: None }));
    assert!(driven.app.overlays.is_empty() && !driven.text().contains("session ended"));
    assert_eq!(composer(&driven), "half a word");

    // At the start it is asked for at once.
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.app.world.connection = Connection::Starting;
    driven.client(out());
    assert!(driven.text().contains("log in again") && driven.text().contains("of me at https://chat.example.org"));
    driven.keys("esc");
    assert!(driven.app.overlays.is_empty(), "one can read without");
}

#[test]
fn ctrl_c_twice_leaves_and_once_does_not() {
    let mut driven = deploys(100, 30);
    driven.keys("'text' ctrl-c ctrl-c");
    assert!(!driven.app.ended);
    driven.wait(2000);
    driven.keys("ctrl-c");
    assert!(!driven.app.ended, "too late for the second");
    driven.keys("ctrl-c");
    assert!(driven.app.ended);
}

#[test]
fn the_bell_rings_for_attention_only() {
    let mut driven = deploys(100, 30);
    driven.effects.clear();
    driven.client(ClientEvent::Attention { place: place(), from: "bo".into(), text: "\x07".into(), mention: true });
    assert_eq!(driven.effects, [Effect::Bell]);
    assert!(!driven.app.dirty || driven.draws == 0);
}

#[test]
fn the_title_counts_what_is_unread_and_holds_nothing_from_outside() {
    let driven = Driven::open(Store::team(), 100, 30);
    let titles: Vec<_> = driven.effects.iter().filter(|effect| matches!(effect, Effect::Title(_))).collect();
    assert_eq!(titles, [&Effect::Title("chat (8) @1".to_owned())]);
}
