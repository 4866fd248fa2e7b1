//! What keys and events do.

use proptest::prelude::*;

use super::*;
use crate::client::command::Place;
use crate::tui::screen::chat::Pane;
use crate::tui::widget::timeline::{Scroll, WINDOW};

fn deploys(columns: u16, rows: u16) -> Driven {
    let mut driven = Driven::open(Store::team(), columns, rows);
    driven.keys("ctrl-g 'deploys' enter");
    driven.effects.clear();
    driven
}

fn place() -> Place {
    Place { channel_id: channel_id(DEPLOYS), thread: None }
}

fn composer(driven: &Driven) -> String {
    driven.app.chat.conversation(driven.app.active_pane()).map(|c| c.composer.input.text().to_owned()).unwrap_or_default()
}

fn sent(driven: &Driven) -> Vec<String> {
    let texts = driven.commands().into_iter().filter_map(|command| match command {
        Command::SendText { text, .. } => Some(text.raw().to_owned()),
        _ => None,
    });
    texts.collect()
}

// Writing.

#[test]
fn enter_sends_and_empties_the_composer() {
    let mut driven = deploys(100, 30);
    driven.keys("'hello' enter");
    let command = Command::SendText { place: place(), text: "hello".into(), reply_to: None, mentions: Vec::new(), id: None };
    assert!(driven.commands().contains(&command));
    assert_eq!(composer(&driven), "");
    driven.keys("enter '   ' enter");
    assert_eq!(sent(&driven).len(), 1, "nothing is sent for nothing");
}

#[test]
fn a_message_names_the_members_that_it_mentions() {
    let mut driven = deploys(100, 30);
    driven.keys("'ask @bo, not x@ana or @nobody' enter");
    let mentions = driven.commands().into_iter().find_map(|command| match command {
        Command::SendText { mentions, .. } => Some(mentions),
        _ => None,
    });
    assert_eq!(mentions, Some(vec![user(BO)]));
}

#[test]
fn a_paste_is_inserted_and_never_sent_or_obeyed() {
    let mut driven = deploys(100, 30);
    driven.msg(Msg::Paste("/leave\nrm -rf /\n".to_owned()));
    assert_eq!(composer(&driven), "/leave\nrm -rf /\n");
    assert!(sent(&driven).is_empty() && driven.app.overlays.is_empty());
}

#[test]
fn a_refused_message_comes_back() {
    let mut driven = deploys(100, 30);
    driven.keys("'precious' enter");
    driven.keys("'next'");
    let (request, _) = driven
        .effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Client(request, command @ Command::SendText { .. }) => Some((*request, command.clone())),
            _ => None,
        })
        .unwrap();
    let problem = Problem::new(ProblemKind::Usage, "this message is too long").hint("Shorten it.");
    driven.client(ClientEvent::Done { request, result: Err(problem) });
    assert_eq!(composer(&driven), "precious\nnext");
    assert!(driven.text().contains("this message is too long"));
}

#[test]
fn a_blocked_conversation_sends_nothing_and_keeps_the_text() {
    let mut store = Store::team();
    store.edit(DM_BO, |channel| {
        channel.blocked = Some(SendBlock::IdentityChanged { user_id: user(BO), name: "bo".into(), was_verified: true });
    });
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g '@bo' enter 'secret' enter");
    assert!(sent(&driven).is_empty());
    assert_eq!(composer(&driven), "secret");
    // `/trust` shows the keys; accepting asks once more.
    driven.keys("ctrl-u '/trust' enter");
    assert_eq!(driven.asked().map(|(_, command)| command), Some(Command::ShowSafety { user_id: user(BO) }));
}

#[test]
fn a_new_key_is_accepted_only_after_a_question() {
    let mut driven = Driven::open(Store::team(), 100, 30);
    driven.keys("ctrl-g '@bo' enter f8");
    driven.answer(Ok(Answer::Safety(SafetyNumber {
        user_id: user(BO),
        name: "bo".into(),
        digits: "1".repeat(60),
        code: "X".to_owned(),
        fingerprint: "00".to_owned(),
        new_fingerprint: Some("11".to_owned()),
        trust: Trust::Changed { was_verified: true },
        devices: Vec::new(),
    })));
    driven.effects.clear();
    driven.keys("A n a v");
    assert!(driven.commands().is_empty(), "no answer, no decision");
    driven.keys("y");
    assert_eq!(driven.commands(), [Command::Trust { user_id: user(BO), send_waiting: false }]);
}

#[test]
fn a_command_takes_its_argument_from_the_palette() {
    let mut driven = deploys(100, 30);
    driven.keys("f9 'topic now and then'");
    assert!(driven.text().contains("▌ topic <text>"), "{}", driven.text());
    driven.keys("enter");
    let topic = Command::SetTopic { channel_id: channel_id(DEPLOYS), topic: "now and then".to_owned() };
    assert_eq!(driven.asked().map(|(_, command)| command), Some(topic));
    driven.keys("f9 'mark all' enter");
    assert!(driven.text().contains("Mark every channel as read?"), "words that are no command still find one");
}

#[test]
fn a_named_emoji_is_complete_with_its_last_colon() {
    let mut driven = deploys(100, 30);
    driven.keys("'ship it :rocket: std::io::x: :nonsense:'");
    assert_eq!(composer(&driven), "ship it 🚀 std::io::x: :nonsense:");
}

#[test]
fn f3_opens_the_newest_thread() {
    let mut driven = deploys(100, 30);
    driven.keys("f3");
    let root = driven.world.items[0].key;
    assert_eq!(driven.app.chat.thread.as_ref().map(|thread| thread.timeline.place.thread), Some(Some(root)));
}

#[test]
fn slash_commands_are_the_registry_and_two_slashes_are_text() {
    let mut driven = deploys(100, 30);
    driven.keys("'/nonsense here' enter");
    assert!(sent(&driven).is_empty() && composer(&driven) == "/nonsense here", "an unknown command is neither sent nor lost");
    driven.keys("ctrl-u '/topic new topic' enter");
    assert_eq!(
        driven.asked().map(|(_, command)| command),
        Some(Command::SetTopic { channel_id: channel_id(DEPLOYS), topic: "new topic".to_owned() })
    );
    driven.keys("'//etc/hosts' enter");
    assert_eq!(sent(&driven), ["/etc/hosts"]);
}

#[test]
fn up_in_an_empty_composer_edits_the_last_own_message_and_ctrl_c_brings_the_draft_back() {
    let mut driven = deploys(100, 30);
    driven.keys("up");
    assert_eq!(composer(&driven), "rolling back", "what waits cannot be edited, what was sent can");
    driven.keys("' to 41' enter");
    let edited = driven.commands().into_iter().any(|command| {
        matches!(command, Command::EditText { text, target, .. } if text.raw() == "rolling back to 41" && target.author == user(ME))
    });
    assert!(edited);
    driven.keys("up ctrl-c");
    assert_eq!(composer(&driven), "");
}

#[test]
fn a_reply_names_what_it_answers() {
    let mut driven = deploys(100, 30);
    driven.keys("esc { r 'no' enter");
    let reply = driven.commands().into_iter().find_map(|command| match command {
        Command::SendText { reply_to, .. } => reply_to,
        _ => None,
    });
    assert_eq!(reply.map(|reply| reply.author), Some(user(CAROL)));
}

#[test]
fn typing_is_told_rarely() {
    let mut driven = deploys(100, 30);
    driven.keys("'hello'");
    driven.wait(2000);
    driven.keys("' you'");
    driven.wait(3000);
    driven.keys("' there'");
    let told = driven.commands().into_iter().filter(|command| matches!(command, Command::Typing { .. })).count();
    assert_eq!(told, 2);
}

#[test]
fn a_draft_is_saved_within_a_second_on_leaving_and_on_quitting() {
    let saved = |driven: &Driven| {
        let drafts = driven.commands().into_iter().filter_map(|command| match command {
            Command::SaveDraft { text, .. } => Some(text.raw().to_owned()),
            _ => None,
        });
        drafts.collect::<Vec<_>>()
    };
    let mut driven = deploys(100, 30);
    driven.keys("'half'");
    assert!(saved(&driven).is_empty());
    driven.wait(1000);
    assert_eq!(saved(&driven), ["half"]);
    driven.keys("' a thought' ctrl-g 'pixels' enter");
    assert_eq!(saved(&driven), ["half", "half a thought"]);
    driven.keys("'x' ctrl-q");
    assert_eq!(saved(&driven).last().map(String::as_str), Some("x"));
    assert_eq!(driven.effects.last(), Some(&Effect::Quit));
}

#[test]
fn a_draft_that_comes_late_stands_before_what_was_typed() {
    let mut store = Store::team();
    store.draft = "old ".to_owned();
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g 'deploys' enter 'new'");
    assert_eq!(composer(&driven), "old new");
}

// Reading.

#[test]
fn reading_counts_after_a_second_at_the_end_in_a_focused_terminal() {
    let read = |driven: &Driven| driven.commands().iter().any(|command| matches!(command, Command::MarkRead { .. }));
    let mut driven = deploys(100, 30);
    driven.wait(900);
    assert!(!read(&driven));
    driven.wait(200);
    assert!(read(&driven));

    let mut away = deploys(100, 30);
    away.msg(Msg::Focus(false));
    away.wait(5000);
    assert!(!read(&away), "nobody looks");
    away.msg(Msg::Focus(true));
    away.wait(1100);
    assert!(read(&away));
}

#[test]
fn the_next_unread_is_a_mention_then_a_direct_message_then_the_rest() {
    let mut driven = Driven::open(Store::team(), 100, 30);
    assert_eq!(driven.app.chat.channel_id(), Some(channel_id(12)), "the mention");
    driven.keys("alt-a");
    assert_eq!(driven.app.chat.channel_id(), Some(channel_id(DM_BO)));
    driven.keys("f7");
    assert_eq!(driven.app.chat.channel_id(), Some(channel_id(12)), "the mention again: nothing was read yet");
}

#[test]
fn everything_is_marked_read_up_to_what_is_here() {
    let mut store = Store::team();
    // Forty rows came, two of which were news.
    store.edit(12, |channel| (channel.read_seq, channel.unread, channel.newest_seq) = (10, 2, 50));
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g 'pixels' enter");
    driven.effects.clear();
    driven.keys("f9 'mark-all' enter y");
    let marked: Vec<_> = driven.commands().into_iter().filter(|command| matches!(command, Command::MarkRead { .. })).collect();
    let mark = |n, seq| Command::MarkRead { channel_id: channel_id(n), seq };
    assert!(marked.contains(&mark(12, 50)) && marked.contains(&mark(DEPLOYS, 59)), "{marked:?}");
    assert!(marked.iter().all(|command| *command != mark(14, 0)), "nothing was unread there");
}

#[test]
fn a_message_that_was_committed_moves_and_is_not_doubled() {
    let mut driven = deploys(100, 30);
    let count = |driven: &Driven| driven.app.chat.main.as_ref().unwrap().timeline.items.len();
    let before = count(&driven);
    let waiting = message(DEPLOYS, 61, ME, "me", "now");
    let waiting = TimelineItem { seq: None, delivery: Delivery::Waiting, ..waiting };
    let other = message(DEPLOYS, 62, BO, "bo", "before yours");
    driven.client(ClientEvent::Timeline { channel_id: channel_id(DEPLOYS), items: vec![Arc::new(waiting.clone())] });
    driven.client(ClientEvent::Timeline { channel_id: channel_id(DEPLOYS), items: vec![Arc::new(other)] });
    let committed = TimelineItem { seq: Some(63), revision: 1, delivery: Delivery::Sent, ..waiting };
    driven.client(ClientEvent::Timeline { channel_id: channel_id(DEPLOYS), items: vec![Arc::new(committed)] });
    assert_eq!(count(&driven), before + 2);
    let text = driven.text();
    assert!(text.find("before yours").unwrap() < text.find("now").unwrap(), "{text}");
}

#[test]
fn a_line_about_what_happened_stands_at_its_time() {
    let mut driven = deploys(100, 30);
    let joined = TimelineItem {
        seq: None,
        body: Body::System(SystemLine::Joined { who: "dora".into() }),
        at: Timestamp(message(DEPLOYS, 53, ME, "me", "").at.0 + 1),
        ..message(DEPLOYS, 70, CAROL, "carol", "")
    };
    driven.client(ClientEvent::Timeline { channel_id: channel_id(DEPLOYS), items: vec![Arc::new(joined)] });
    let text = driven.text();
    assert!(text.find("rolling back").unwrap() < text.find("dora joined").unwrap());
    assert!(text.find("dora joined").unwrap() < text.find("who has the pager?").unwrap());
}

#[test]
fn scrolling_walks_a_long_history_in_a_window() {
    let mut driven = Driven::open(Store::long(2000), 100, 30);
    driven.keys("ctrl-g 'deploys' enter");
    assert!(driven.text().contains("message number 2000"));
    driven.keys("esc");
    for _ in 0..250 {
        driven.keys("pageup");
        let items = driven.app.chat.main.as_ref().unwrap().timeline.items.len();
        assert!(items <= WINDOW + 100, "{items} in memory");
    }
    assert!(driven.text().contains("message number 1\n") || driven.text().contains("message number 1 "), "{}", driven.text());
    driven.keys("G");
    assert!(driven.text().contains("message number 2000"));
    assert_eq!(driven.app.chat.main.as_ref().unwrap().timeline.scroll, Scroll::Bottom);
}

#[test]
fn paging_down_after_paging_up_comes_back_to_the_newest() {
    let mut driven = Driven::open(Store::long(1000), 100, 30);
    driven.keys("ctrl-g 'deploys' enter esc");
    for _ in 0..60 {
        driven.keys("pageup");
    }
    assert!(!driven.app.chat.main.as_ref().unwrap().timeline.at_end, "the window left the end behind");
    for _ in 0..80 {
        driven.keys("pagedown");
    }
    assert!(driven.text().contains("message number 1000"));
}

#[test]
fn a_resize_keeps_the_message_at_the_top() {
    let mut driven = Driven::open(Store::long(300), 100, 30);
    driven.keys("ctrl-g 'deploys' enter esc pageup pageup pageup");
    let Scroll::Top { key, .. } = driven.app.chat.main.as_ref().unwrap().timeline.scroll else { panic!("not scrolled") };
    for (columns, rows) in [(60, 15), (1, 1), (200, 50), (0, 0), (100, 30)] {
        driven.msg(Msg::Resize(columns, rows));
        let now = driven.app.chat.main.as_ref().unwrap().timeline.scroll;
        assert!(matches!(now, Scroll::Top { key: now, .. } if now == key), "{columns}x{rows}: {now:?}");
    }
}

#[test]
fn new_messages_do_not_move_what_is_being_read() {
    let mut driven = Driven::open(Store::long(300), 100, 30);
    driven.keys("ctrl-g 'deploys' enter esc pageup pageup pageup");
    let before = driven.text();
    let item = Arc::new(message(DEPLOYS, 301, BO, "bo", "look here"));
    driven.client(ClientEvent::Timeline { channel_id: channel_id(DEPLOYS), items: vec![item] });
    let after = driven.text();
    let history = |text: &str| text.lines().skip(2).take(20).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(history(&before), history(&after));
}

#[test]
fn a_jump_opens_the_history_around_a_search_hit() {
    let mut driven = Driven::open(Store::long(2000), 100, 30);
    driven.keys("f4 'number'");
    driven.wait(200);
    assert!(matches!(driven.asked(), Some((_, Command::Search { query, .. })) if query == "number"));
    let hit = SearchHit {
        channel_id: channel_id(DEPLOYS),
        channel_name: "deploys".into(),
        message: driven.world.items[699].key,
        thread_root: None,
        author_name: "ana".into(),
        at: NOW,
        text: "message number 700".into(),
    };
    driven.answer(Ok(Answer::Hits(vec![hit])));
    driven.keys("enter");
    assert!(driven.text().contains("▌message number 700"), "{}", driven.text());
}

#[test]
fn an_answer_to_an_older_query_is_not_shown() {
    let mut driven = Driven::open(Store::team(), 100, 30);
    driven.keys("f4 'one'");
    driven.wait(200);
    driven.keys("' two'");
    driven.answer(Ok(Answer::Hits(Vec::new())));
    assert!(!driven.text().contains("nothing found"));
}

// Acting.

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

fn unsent(channel: u8, what: UnsentKind, text: &str) -> Unsent {
    let item = message(channel, 70, ME, "me", text);
    Unsent {
        channel_id: item.channel_id,
        id: item.key.id,
        what,
        message: item.key,
        thread_root: None,
        text: text.into(),
        at: NOW,
        delivery: Delivery::Waiting,
    }
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

#[test]
fn every_named_command_can_be_performed_anywhere_without_harm() {
    for store in [Store::team(), Store::empty()] {
        for spec in crate::tui::command::COMMANDS {
            for start in
                ["", "ctrl-g 'deploys' enter", "ctrl-g 'deploys' enter esc", "f2", "f3", "f1", "f9 'create-channel' enter"]
            {
                let mut driven = Driven::open(store.clone(), 80, 24);
                driven.keys(start);
                driven.app.act(spec.action, "");
                driven.text();
            }
        }
    }
}

#[test]
fn no_text_field_lets_a_control_character_through() {
    let evil = "x\x1b]0;e\x07\u{9b}1m\u{202e}\r\n\u{200b}\x08y";
    let text = || Untrusted::new(evil);
    let mut store = Store::team();
    store.edit(DEPLOYS, |channel| {
        channel.name = text();
        channel.topic = Some(text());
    });
    store.edit(DM_BO, |channel| {
        channel.name = text();
        channel.blocked = Some(SendBlock::IdentityChanged { user_id: user(BO), name: text(), was_verified: true });
    });
    let tree = Arc::make_mut(&mut store.tree);
    for community in &mut tree.communities {
        let community = Arc::make_mut(community);
        community.name = text();
        community.warning = Some(evil.to_owned());
        for group in &mut community.groups {
            group.name = text();
        }
    }
    for member in &mut store.members {
        member.name = text();
        member.username = text();
    }
    for item in &mut store.items {
        let item = Arc::make_mut(item);
        item.author_name = text();
        item.body = if item.mine { Body::System(SystemLine::Warning(evil.to_owned())) } else { Body::Text(text()) };
        item.reactions = vec![Reaction { emoji: text(), count: 1, mine: false }];
        item.reply_to = Some(Quote { target: item.key, author_name: text(), text: Some(text()) });
        item.delivery = Delivery::Failed(text());
    }
    store.draft = evil.to_owned();
    let checks = [
        "",
        "f2",
        "ctrl-g",
        "f5",
        "f5 enter",
        "f6",
        "esc enter",
        "esc o",
        "f8",
        "f4 'x'",
        "f9 'topic' enter",
        "f9 'dm' enter 'x'",
        "up",
    ];
    for keys in checks {
        let mut driven = Driven::open(store.clone(), 120, 40);
        driven.app.open_channel(channel_id(DEPLOYS), None);
        driven.client(ClientEvent::Typing { channel_id: channel_id(DEPLOYS), user_id: user(BO), name: text() });
        driven.keys(keys);
        driven.wait(300);
        match driven.asked().map(|(_, command)| command) {
            Some(Command::Search { .. }) => driven.answer(Ok(Answer::Hits(vec![SearchHit {
                channel_id: channel_id(DEPLOYS),
                channel_name: text(),
                message: store.items[0].key,
                thread_root: None,
                author_name: text(),
                at: NOW,
                text: text(),
            }]))),
            Some(Command::ListUnsent) => driven.answer(Ok(Answer::Unsent(vec![Unsent {
                delivery: Delivery::Failed(text()),
                text: text(),
                ..unsent(DEPLOYS, UnsentKind::Message, "")
            }]))),
            Some(Command::FindPeople { .. }) => driven.answer(Ok(Answer::People(vec![Person {
                user_id: user(9),
                username: text(),
                display_name: Some(text()),
                trust: Trust::Verified,
            }]))),
            _ => {}
        }
        driven.client(ClientEvent::Notice(Problem::new(ProblemKind::Failed, evil).hint(evil)));
        let screen = driven.text();
        let bad = |c: char| {
            (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}')
        };
        assert!(!screen.chars().any(bad), "after {keys:?}:\n{screen}");
        assert!(screen.contains('␛'), "after {keys:?} nothing of it is shown");
    }
}

// Anything at all.

#[derive(Clone, Debug)]
enum Step {
    Key(usize),
    Text(String),
    Paste(String),
    Resize(u16, u16),
    Wait(i64),
    Event(u8, u64),
    Answer(bool),
    Focus(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..400).prop_map(Step::Key),
        2 => "[a-z@:/# ]{0,6}|\\PC{0,3}".prop_map(Step::Text),
        1 => "[a-z\n\u{1b}\u{301}👩\u{200d}]{0,12}".prop_map(Step::Paste),
        2 => (0_u16..140, 0_u16..50).prop_map(|(columns, rows)| Step::Resize(columns, rows)),
        1 => (0_i64..8000).prop_map(Step::Wait),
        3 => (any::<u8>(), 0_u64..400).prop_map(|(kind, n)| Step::Event(kind, n)),
        1 => any::<bool>().prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::Focus),
    ]
}

fn event(kind: u8, n: u64) -> ClientEvent {
    let channel_id = channel_id(DEPLOYS);
    let item = message(DEPLOYS, n, [ME, ANA, BO][usize::try_from(n % 3).unwrap()], "name", "some *text* of `it`");
    match kind % 8 {
        0 => ClientEvent::Timeline { channel_id, items: vec![Arc::new(TimelineItem { revision: u32::from(kind), ..item })] },
        1 => ClientEvent::Timeline { channel_id, items: vec![Arc::new(TimelineItem { seq: None, ..item })] },
        2 => ClientEvent::TimelineRemoved { channel_id, keys: vec![item.key] },
        3 => ClientEvent::Typing { channel_id, user_id: user(BO), name: "bo".into() },
        4 => ClientEvent::Tree(Arc::new(Tree::default())),
        5 => ClientEvent::Tree(Store::team().tree),
        6 => ClientEvent::Connection(Connection::Offline { since: NOW, retry_at: Some(NOW), why: "x".into() }),
        _ => ClientEvent::Notice(Problem::new(ProblemKind::Failed, "something").hint("else")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_happens_makes_it_panic(steps in proptest::collection::vec(step(), 1..80), long in any::<bool>()) {
        let store = if long { Store::long(400) } else { Store::team() };
        let mut driven = Driven::open(store, 100, 30);
        let bindings = driven.app.keymap.bindings.clone();
        for step in steps {
            match step {
                Step::Key(at) => {
                    let binding = &bindings[at % bindings.len()];
                    for key in &binding.keys {
                        driven.msg(Msg::Key(*key));
                    }
                }
                Step::Text(text) => for c in text.chars() {
                    driven.msg(Msg::Key(Key { code: KeyCode::Char(c), mods: crossterm::event::KeyModifiers::NONE }));
                },
                Step::Paste(text) => driven.msg(Msg::Paste(text)),
                Step::Resize(columns, rows) => driven.msg(Msg::Resize(columns, rows)),
                Step::Wait(ms) => driven.wait(ms),
                Step::Event(kind, n) => driven.client(event(kind, n)),
                Step::Answer(ok) => if driven.asked().is_some() {
                    driven.answer(if ok { Ok(Answer::Ok) } else { Err(Problem::new(ProblemKind::Failed, "no")) });
                },
                Step::Focus(focused) => driven.msg(Msg::Focus(focused)),
            }
            if driven.app.size.0 > 0 && driven.app.size.1 > 0 {
                driven.text();
            }
            for pane in [Pane::Main, Pane::Thread] {
                if let Some(conversation) = driven.app.chat.conversation(pane) {
                    prop_assert!(conversation.timeline.items.len() <= WINDOW + 160);
                }
            }
        }
    }
}
