//! Reading: what counts as read, scrolling, jumping, what comes while one looks.

use super::*;
use crate::tui::widget::timeline::{Scroll, WINDOW};

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
fn a_channel_that_is_gone_stays_on_the_screen_and_says_why_nothing_can_be_sent() {
    let mut driven = deploys(100, 30);
    let mut store = Store::team();
    Arc::make_mut(&mut Arc::make_mut(&mut store.tree).communities[0]).groups[0].channels.remove(1);
    driven.client(ClientEvent::Tree(store.tree));
    let text = driven.text();
    assert!(text.contains("who has the pager?") && text.contains("# deploys   not open to you any more"), "{text}");
    driven.keys("'too late' enter");
    assert!(sent(&driven).is_empty() && composer(&driven) == "too late");
    assert!(driven.text().contains("you are not a member here any more"), "{}", driven.text());
}

#[test]
fn what_was_written_before_one_joined_is_one_line() {
    let mut store = Store::long(500);
    for item in store.items.iter_mut().take(490) {
        Arc::make_mut(item).body = Body::BeforeJoin;
    }
    let mut driven = Driven::open(store, 100, 30);
    driven.keys("ctrl-g 'deploys' enter");
    let text = driven.text();
    assert_eq!(text.matches("(written before you joined)").count(), 1, "{text}");
    assert!(text.contains("message number 491") && text.contains("message number 500"), "{text}");
    // All of them are walked through, and what can be read stays on the screen.
    driven.keys("esc");
    for _ in 0..20 {
        driven.keys("pageup");
        let text = driven.text();
        assert!(text.contains("message number 491") && text.matches("(written before").count() == 1, "{text}");
    }
    assert!(driven.app.chat.main.as_ref().unwrap().timeline.at_start);
    driven.keys("g g");
    assert!(driven.text().contains("▌message number 491"), "the line itself is no message\n{}", driven.text());
    driven.keys("G");
    assert!(driven.text().contains("▌message number 500"), "{}", driven.text());
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
