//! Writing: sending, editing, pasting, drafts, slash commands.

use super::*;

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
fn a_long_paste_says_how_much_of_it_there_is() {
    let mut driven = deploys(80, 24);
    driven.msg(Msg::Paste((1..=200).map(|n| format!("line {n}\n")).collect()));
    let text = driven.text();
    assert!(text.contains("line 200") && text.contains("200 lines in one message; Ctrl-C clears them"), "{text}");
    driven.keys("ctrl-c");
    assert!(!driven.text().contains("lines in one message"), "{}", driven.text());
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
fn a_command_after_a_colon_is_not_sent_as_text_and_a_smiley_is() {
    let mut driven = deploys(100, 30);
    driven.keys("':topic new topic' enter");
    let topic = Command::SetTopic { channel_id: channel_id(DEPLOYS), topic: "new topic".to_owned() };
    assert_eq!(driven.asked().map(|(_, command)| command), Some(topic));
    driven.keys("':invite' enter");
    assert!(driven.text().contains("invite to Acme"), "{}", driven.text());
    driven.keys("esc ':)' enter ':wq' enter ': topic' enter");
    assert_eq!(sent(&driven), [":)", ":wq", ": topic"]);
}

#[test]
fn escape_leads_to_the_messages_and_never_back_to_where_letters_are_text() {
    let mut driven = deploys(100, 30);
    driven.keys("esc esc esc ':invite' enter");
    assert!(sent(&driven).is_empty() && composer(&driven).is_empty());
    assert!(driven.text().contains("invite to Acme"), "{}", driven.text());
    driven.keys("esc i 'again' enter");
    assert_eq!(sent(&driven), ["again"]);
}

#[test]
fn escape_closes_an_error_and_leads_to_the_messages_with_one_key() {
    let mut driven = deploys(100, 30);
    driven.keys("'/nonsense' enter");
    assert!(driven.text().contains("there is no command /nonsense"));
    driven.keys("esc");
    let text = driven.text();
    assert!(!text.contains("there is no command") && text.contains("HISTORY"), "{text}");
    driven.keys("k k");
    assert_eq!(composer(&driven), "/nonsense", "the letters that follow are commands");
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
fn a_command_that_was_done_is_no_draft() {
    let mut driven = deploys(100, 30);
    driven.keys("'/mute'");
    driven.wait(1000);
    driven.keys("enter");
    driven.wait(1000);
    let drafts: Vec<_> = driven
        .commands()
        .into_iter()
        .filter_map(|command| match command {
            Command::SaveDraft { text, .. } => Some(text.raw().to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(drafts, ["/mute", ""]);
}

#[test]
fn a_draft_that_comes_late_stands_before_what_was_typed() {
    let mut store = Store::team();
    store.draft = "old ".to_owned();
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g 'deploys' enter 'new'");
    assert_eq!(composer(&driven), "old new");
}
