//! Whatever is asked, shown or pressed: nothing panics, and no text from outside reaches the terminal as it is.

use proptest::prelude::*;

use super::*;
use crate::tui::screen::chat::Pane;
use crate::tui::widget::timeline::WINDOW;

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
