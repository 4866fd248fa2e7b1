//! The suite that every store passes: [`store_tests!`] with an expression that makes an empty one.
//!
//! `store_tests!(|| MemoryStore::new())` is the plain form. A store that can be closed passes a second function,
//! `store_tests!(make, reopen)`, which takes the store and gives it back after closing and opening it: every claim is
//! then checked against what came back from the disk.

use zeroize::Zeroizing;

use crate::protocol::ids::{ChannelId, MessageId, UserId};

use super::{Changes, From, Lines, MessageRef, Position, Store, StoredMessage, Table, TextQuery};

macro_rules! store_tests {
    ($make:expr) => {
        $crate::client::store::conformance::store_tests!($make, |store| store);
    };
    ($make:expr, $reopen:expr) => {
        $crate::client::store::conformance::store_tests!(@each $make, $reopen;
            a_record_is_what_was_last_written,
            records_of_one_key_in_two_tables_are_apart,
            empty_keys_and_values_are_kept,
            a_scan_is_ordered_bounded_and_continues,
            a_scan_stays_inside_its_prefix,
            a_message_is_found_by_its_reference,
            a_page_follows_the_order_of_the_log,
            what_waits_comes_last_and_moves_when_it_is_committed,
            threads_and_the_main_timeline_are_apart,
            a_deleted_message_is_gone_from_pages_and_search,
            a_search_finds_every_term_in_any_case,
            a_search_keeps_to_channels_authors_and_its_limit,
            changed_text_is_found_and_the_old_text_is_not,
            text_is_data_and_never_a_query,
            a_large_batch_is_saved_whole,
            merged_changes_do_what_two_saves_do,
        );
    };
    (@each $make:expr, $reopen:expr; $($name:ident,)+) => {$(
        #[test]
        fn $name() {
            $crate::client::store::conformance::$name($make, $reopen);
        }
    )+};
}
pub(crate) use store_tests;

fn channel(n: u8) -> ChannelId {
    ChannelId::from_bytes([n; 16])
}

fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn reference(author: u8, id: u8) -> MessageRef {
    let mut bytes = [0; 16];
    bytes[0] = id;
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    MessageRef { author: user(author), id: MessageId::from_bytes(bytes) }
}

fn message(channel_id: ChannelId, key: MessageRef, position: Position, text: &str) -> StoredMessage {
    StoredMessage {
        channel_id,
        key,
        position,
        thread_root: None,
        text: Some(Zeroizing::new(text.to_owned())),
        value: Zeroizing::new(format!("value of {text}").into_bytes()),
    }
}

fn save<S: Store>(store: &mut S, fill: impl FnOnce(&mut Changes)) {
    let mut changes = Changes::default();
    fill(&mut changes);
    store.save(changes).unwrap();
}

fn keys(page: &[StoredMessage]) -> Vec<MessageRef> {
    page.iter().map(|message| message.key).collect()
}

fn hits<S: Store>(store: &S, terms: &[&str]) -> Vec<MessageRef> {
    let terms = terms.iter().map(|&term| term.to_owned()).collect();
    keys(&store.search(&TextQuery { terms, limit: 100, ..TextQuery::default() }).unwrap())
}

pub fn a_record_is_what_was_last_written<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    assert_eq!(store.get(Table::Account, b"a").unwrap(), None);
    save(&mut store, |c| c.put(Table::Account, *b"a", *b"one"));
    save(&mut store, |c| {
        c.put(Table::Account, *b"a", *b"two");
        c.put(Table::Account, *b"a", *b"three");
        c.put(Table::Account, *b"b", *b"x");
        c.delete(Table::Account, *b"b");
    });
    let mut store = reopen(store);
    assert_eq!(store.get(Table::Account, b"a").unwrap().unwrap().as_slice(), b"three");
    assert_eq!(store.get(Table::Account, b"b").unwrap(), None);
    save(&mut store, |c| c.delete(Table::Account, *b"a"));
    assert_eq!(reopen(store).get(Table::Account, b"a").unwrap(), None);
}

pub fn records_of_one_key_in_two_tables_are_apart<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        for table in Table::ALL {
            c.put(*table, *b"key", table.name());
        }
    });
    let store = reopen(store);
    for table in Table::ALL {
        assert_eq!(store.get(*table, b"key").unwrap().unwrap().as_slice(), table.name().as_bytes());
    }
}

pub fn empty_keys_and_values_are_kept<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        c.put(Table::Seen, Vec::new(), *b"empty key");
        c.put(Table::Seen, *b"empty value", Vec::new());
    });
    let store = reopen(store);
    assert_eq!(store.get(Table::Seen, b"").unwrap().unwrap().as_slice(), b"empty key");
    assert_eq!(store.get(Table::Seen, b"empty value").unwrap().unwrap().as_slice(), b"");
    assert_eq!(store.scan(Table::Seen, b"", None, 10).unwrap().len(), 2);
}

pub fn a_scan_is_ordered_bounded_and_continues<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        for n in (0..=255u8).rev() {
            c.put(Table::Outbox, vec![7, n], vec![n]);
        }
    });
    let store = reopen(store);
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan(Table::Outbox, &[7], after.as_deref(), 100).unwrap();
        assert!(page.len() <= 100);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page.iter().map(|(key, _)| key[1]));
    }
    assert_eq!(seen, (0..=255u8).collect::<Vec<_>>(), "unsigned bytewise order, each once");
    assert!(store.scan(Table::Outbox, &[7], None, 0).unwrap().is_empty());
}

pub fn a_scan_stays_inside_its_prefix<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        for key in [&[1u8][..], &[1, 0xff], &[1, 0xff, 0xff], &[2], &[0xff], &[0xff, 0xff], &[0xff, 0xff, 1]] {
            c.put(Table::Held, key, *b"x");
        }
    });
    let store = reopen(store);
    let scan = |prefix: &[u8], after: Option<&[u8]>| -> Vec<Vec<u8>> {
        store.scan(Table::Held, prefix, after, 10).unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(scan(&[1, 0xff], None), [vec![1, 0xff], vec![1, 0xff, 0xff]]);
    assert_eq!(scan(&[0xff, 0xff], None), [vec![0xff, 0xff], vec![0xff, 0xff, 1]]);
    assert_eq!(scan(&[1], Some(&[1])), [vec![1, 0xff], vec![1, 0xff, 0xff]]);
    assert_eq!(scan(&[2], Some(&[1])), [vec![2]], "an earlier start does not widen the prefix");
    assert!(scan(&[1], Some(&[2])).is_empty());
}

pub fn a_message_is_found_by_its_reference<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    let by_ana = message(channel(1), reference(1, 9), Position::row(1), "ana");
    let by_bo = StoredMessage {
        thread_root: Some(by_ana.key),
        text: None,
        ..message(channel(1), reference(2, 9), Position::row(2), "bo")
    };
    save(&mut store, |c| {
        c.put_message(by_ana.clone());
        c.put_message(by_bo.clone());
    });
    let store = reopen(store);
    assert_eq!(store.message(channel(1), by_ana.key).unwrap(), Some(by_ana.clone()));
    assert_eq!(store.message(channel(1), by_bo.key).unwrap(), Some(by_bo), "never by its id alone");
    assert_eq!(store.message(channel(2), by_ana.key).unwrap(), None);
}

pub fn a_page_follows_the_order_of_the_log<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        for n in (1..=9u8).rev() {
            c.put_message(message(channel(1), reference(1, n), Position::row(u64::from(n)), "text"));
        }
        c.put_message(message(channel(1), reference(0, 50), Position::local(4, 1), "a local line"));
        c.put_message(message(channel(2), reference(1, 60), Position::row(5), "elsewhere"));
    });
    let store = reopen(store);
    let page = |from, limit| keys(&store.page(channel(1), Lines::All, from, limit).unwrap());
    let own = |n| reference(1, n);
    assert_eq!(page(From::End, 3), [own(7), own(8), own(9)]);
    assert_eq!(
        page(From::Before(Position::row(7)), 3),
        [own(5), own(6)].iter().fold(vec![reference(0, 50)], |mut all, key| {
            all.push(*key);
            all
        })
    );
    assert_eq!(page(From::After(Position::row(3)), 3), [own(4), reference(0, 50), own(5)]);
    assert_eq!(page(From::After(Position::local(4, 1)), 2), [own(5), own(6)]);
    assert_eq!(page(From::Before(Position::row(1)), 3), []);
    assert_eq!(page(From::End, 100).len(), 10);
    assert_eq!(page(From::End, 0), []);
}

pub fn what_waits_comes_last_and_moves_when_it_is_committed<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    let first = message(channel(1), reference(1, 1), Position::pending(1), "first");
    save(&mut store, |c| {
        c.put_message(message(channel(1), reference(1, 2), Position::pending(2), "second"));
        c.put_message(first.clone());
        c.put_message(message(channel(1), reference(2, 3), Position::row(7), "theirs"));
    });
    let mut store = reopen(store);
    let all = |store: &S| keys(&store.page(channel(1), Lines::All, From::End, 10).unwrap());
    assert_eq!(all(&store), [reference(2, 3), reference(1, 1), reference(1, 2)]);
    save(&mut store, |c| c.put_message(StoredMessage { position: Position::row(8), ..first }));
    let store = reopen(store);
    assert_eq!(all(&store), [reference(2, 3), reference(1, 1), reference(1, 2)], "once, at its seq");
    assert_eq!(store.message(channel(1), reference(1, 1)).unwrap().unwrap().position, Position::row(8));
}

pub fn threads_and_the_main_timeline_are_apart<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    let root = reference(1, 1);
    let reply = |key, seq| StoredMessage { thread_root: Some(root), ..message(channel(1), key, Position::row(seq), "reply") };
    save(&mut store, |c| {
        c.put_message(message(channel(1), root, Position::row(1), "root"));
        c.put_message(reply(reference(2, 2), 2));
        c.put_message(message(channel(1), reference(2, 3), Position::row(3), "beside"));
        c.put_message(reply(reference(1, 4), 4));
    });
    let store = reopen(store);
    let page = |lines, from, limit| keys(&store.page(channel(1), lines, from, limit).unwrap());
    assert_eq!(page(Lines::Main, From::End, 10), [root, reference(2, 3)]);
    assert_eq!(page(Lines::Thread(root), From::End, 10), [root, reference(2, 2), reference(1, 4)]);
    assert_eq!(page(Lines::Thread(root), From::Before(Position::row(4)), 1), [reference(2, 2)]);
    assert_eq!(page(Lines::Thread(root), From::After(Position::row(1)), 1), [reference(2, 2)]);
    assert_eq!(page(Lines::Thread(reference(2, 3)), From::End, 10), [reference(2, 3)]);
}

pub fn a_deleted_message_is_gone_from_pages_and_search<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| c.put_message(message(channel(1), reference(1, 1), Position::row(1), "secret plan")));
    assert_eq!(hits(&store, &["plan"]), [reference(1, 1)]);
    save(&mut store, |c| c.delete_message(channel(1), reference(1, 1)));
    let store = reopen(store);
    assert_eq!(hits(&store, &["plan"]), []);
    assert!(store.page(channel(1), Lines::All, From::End, 10).unwrap().is_empty());
    assert_eq!(store.message(channel(1), reference(1, 1)).unwrap(), None);
}

pub fn a_search_finds_every_term_in_any_case<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    for (n, text) in
        [(1, "Rolling back the Canary"), (2, "the canary is red"), (3, "Über die Brücke"), (4, "会議は明日です"), (5, "ok")]
    {
        save(&mut store, |c| c.put_message(message(channel(1), reference(1, n), Position::row(u64::from(n)), text)));
    }
    let store = reopen(store);
    assert_eq!(hits(&store, &["canary"]), [reference(1, 2), reference(1, 1)], "newest first");
    assert_eq!(hits(&store, &["CANARY", "back"]), [reference(1, 1)]);
    assert_eq!(hits(&store, &["back the"]), [reference(1, 1)], "a phrase");
    assert_eq!(hits(&store, &["über"]), [reference(1, 3)]);
    assert_eq!(hits(&store, &["明日で"]), [reference(1, 4)]);
    assert_eq!(hits(&store, &["ok"]), [reference(1, 5)], "shorter than three characters");
    assert_eq!(hits(&store, &["明日"]), [reference(1, 4)]);
    assert_eq!(hits(&store, &["canary", "ok"]), []);
    assert_eq!(hits(&store, &[]).len(), 5);
}

pub fn a_search_keeps_to_channels_authors_and_its_limit<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        for n in 1..=20u8 {
            c.put_message(message(channel(n % 2), reference(n % 4, n), Position::row(u64::from(n)), "needle"));
        }
        c.put_message(StoredMessage { text: None, ..message(channel(0), reference(1, 30), Position::row(30), "needle") });
    });
    let store = reopen(store);
    let find = |channels: &[u8], authors: &[u8], limit| {
        let query = TextQuery {
            terms: vec!["needle".to_owned()],
            channels: channels.iter().map(|&n| channel(n)).collect(),
            authors: authors.iter().map(|&n| user(n)).collect(),
            limit,
        };
        keys(&store.search(&query).unwrap())
    };
    assert_eq!(find(&[], &[], 100).len(), 20);
    assert_eq!(find(&[1], &[], 100).len(), 10);
    assert_eq!(find(&[0, 1], &[1, 2], 100).len(), 10);
    assert_eq!(find(&[1], &[2], 100), []);
    assert_eq!(find(&[], &[], 2), [reference(0, 20), reference(3, 19)]);
}

pub fn changed_text_is_found_and_the_old_text_is_not<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| c.put_message(message(channel(1), reference(1, 1), Position::pending(1), "first words")));
    save(&mut store, |c| c.put_message(message(channel(1), reference(1, 1), Position::row(1), "other words")));
    let mut store = reopen(store);
    assert_eq!(hits(&store, &["first"]), []);
    assert_eq!(hits(&store, &["other"]), [reference(1, 1)]);
    assert_eq!(hits(&store, &["words"]), [reference(1, 1)], "found once");
    save(&mut store, |c| {
        c.put_message(StoredMessage { text: None, ..message(channel(1), reference(1, 1), Position::row(1), "") });
    });
    assert_eq!(hits(&reopen(store), &["words"]), []);
}

pub fn text_is_data_and_never_a_query<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    let texts = [
        "a \"quoted\" word",
        "100% sure_thing",
        "x'); DROP TABLE messages; --",
        "NEAR(a b) OR c*",
        "tab\tand\nnewline",
        "NUL \u{0} inside",
    ];
    save(&mut store, |c| {
        for (n, text) in (1..).zip(texts) {
            c.put_message(message(channel(1), reference(1, n), Position::row(u64::from(n)), text));
        }
    });
    let store = reopen(store);
    for (n, term) in
        [(1, "\"quoted\""), (2, "0% s"), (2, "e_t"), (2, "%"), (3, "'); DROP"), (4, "OR c*"), (4, "c*"), (5, "\tand\n")]
    {
        assert_eq!(hits(&store, &[term]), [reference(1, n)], "{term}");
    }
    assert_eq!(hits(&store, &["_"]), [reference(1, 2)]);
    assert_eq!(hits(&store, &["d_t"]), []);
    assert!(store.message(channel(1), reference(1, 6)).unwrap().unwrap().text.unwrap().contains('\u{0}'));
}

pub fn a_large_batch_is_saved_whole<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    save(&mut store, |c| {
        for n in 0..3000u32 {
            c.put(Table::Seen, n.to_be_bytes(), vec![0xab; 100]);
        }
        c.put(Table::Account, *b"big", vec![0xcd; 1 << 20]);
    });
    let store = reopen(store);
    assert_eq!(store.scan(Table::Seen, b"", None, 5000).unwrap().len(), 3000);
    assert_eq!(store.get(Table::Account, b"big").unwrap().unwrap().len(), 1 << 20);
}

pub fn merged_changes_do_what_two_saves_do<S: Store>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    let mut store = make();
    let mut changes = Changes::default();
    assert!(changes.is_empty());
    changes.put(Table::Drafts, *b"a", *b"1");
    changes.put_message(message(channel(1), reference(1, 1), Position::row(1), "one"));
    let mut later = Changes::default();
    later.put(Table::Drafts, *b"a", *b"2");
    later.delete_message(channel(1), reference(1, 1));
    later.put_message(message(channel(1), reference(1, 2), Position::row(2), "two"));
    changes.merge(later);
    store.save(changes).unwrap();
    let store = reopen(store);
    assert_eq!(store.get(Table::Drafts, b"a").unwrap().unwrap().as_slice(), b"2");
    assert_eq!(keys(&store.page(channel(1), Lines::All, From::End, 10).unwrap()), [reference(1, 2)]);
}
