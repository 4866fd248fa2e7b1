//! The store on disk with 100,000 messages in ten channels: opening it with a key that is at hand and reading the newest page, a
//! page in the middle, searches, and inserting.

use std::path::Path;

use chat::client::model::MessageRef;
use chat::client::store::{Changes, From, Lines, Position, SqliteStore, Store as _, StoredMessage, Table, TextQuery};
use chat::client::unlock::StoreKey;
use chat::protocol::ids::{ChannelId, MessageId, UserId};
use criterion::{BatchSize, Criterion};

use super::Lab;
use super::report::Target;

const MESSAGES: u64 = 100_000;
const CHANNELS: u64 = 10;
/// Messages of one transaction while catching up.
const BATCH: u64 = 1000;
const FIGURES: [&str; 7] = [
    "open, 100,000 messages",
    "page before the middle",
    "search, one hit",
    "search, many hits",
    "search, three characters",
    "search, two characters",
    "insert 1,000 messages",
];
const WORDS: [&str; 12] =
    ["canary", "rollback", "deploy", "pager", "is", "red", "the", "latency", "on", "host", "明日の会議", "Brücke"];

fn key() -> StoreKey {
    StoreKey::from_slice(&[7; 32]).unwrap()
}

fn message(n: u64) -> StoredMessage {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let word = |at: u64| WORDS[usize::try_from((n / 7 + at * at) % 12).unwrap()];
    let text = format!("{} {} {} number{n} {}", word(1), word(2), word(3), word(5));
    StoredMessage {
        channel_id: channel(n % CHANNELS),
        key: MessageRef { author: UserId::from_bytes([1; 16]), id: MessageId::from_bytes(id) },
        position: Position::row(n / CHANNELS + 1),
        thread_root: None,
        value: zeroize::Zeroizing::new(vec![0x5a; 200]),
        text: Some(zeroize::Zeroizing::new(text)),
    }
}

fn channel(n: u64) -> ChannelId {
    ChannelId::from_bytes([u8::try_from(n).unwrap() + 1; 16])
}

fn batch(from: u64) -> Changes {
    let mut changes = Changes::default();
    (from..from + BATCH).for_each(|n| changes.put_message(message(n)));
    changes
}

fn fill(path: &Path) {
    let mut store = SqliteStore::create(path, key()).unwrap();
    let mut account = Changes::default();
    account.put(Table::Account, *b"me", vec![1; 500]);
    store.save(account).unwrap();
    (0..MESSAGES / BATCH).for_each(|n| store.save(batch(n * BATCH)).unwrap());
}

pub fn benches(criterion: &mut Criterion, lab: &mut Lab) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let start = std::time::Instant::now();
    fill(&path);
    let rate = MESSAGES as f64 / start.elapsed().as_secs_f64();
    let size = path.metadata().unwrap().len() >> 20;
    let mut criterion = criterion.benchmark_group("store");
    criterion.sample_size(10);

    criterion.bench_function("open, 100,000 messages", |bench| {
        bench.iter(|| {
            let store = SqliteStore::open(&path, key()).unwrap();
            store.scan(Table::Account, &[], None, 100).unwrap();
            assert_eq!(store.page(channel(3), Lines::Main, From::End, 50).unwrap().len(), 50);
        });
    });
    let store = SqliteStore::open(&path, key()).unwrap();
    criterion.bench_function("page before the middle", |bench| {
        let from = From::Before(Position::row(MESSAGES / CHANNELS / 2));
        bench.iter(|| assert_eq!(store.page(channel(3), Lines::Main, from, 100).unwrap().len(), 100));
    });
    for (name, term, hits) in [
        ("one hit", "number54321", 1),
        ("many hits", "canary", 50),
        ("three characters", "明日の", 50),
        ("two characters", "明日", 50),
    ] {
        let query = TextQuery { terms: vec![term.to_owned()], limit: 50, ..TextQuery::default() };
        criterion.bench_function(format!("search, {name}"), |bench| {
            bench.iter(|| assert_eq!(store.search(&query).unwrap().len(), hits));
        });
    }
    drop(store);
    criterion.bench_function("insert 1,000 messages", |bench| {
        let setup = || {
            let folder = tempfile::tempdir().unwrap();
            let store = SqliteStore::create(&folder.path().join("store.db"), key()).unwrap();
            (folder, store, batch(0))
        };
        bench.iter_batched(
            setup,
            |(folder, mut store, changes)| {
                store.save(changes).unwrap();
                (folder, store)
            },
            BatchSize::PerIteration,
        );
    });
    criterion.finish();
    let report = &mut lab.report;
    report.tell("store: inserting 100,000 messages, 1,000 at a time", &format!("{rate:.0}/s, {size} MiB in the end"));
    for name in FIGURES {
        let median = report.median(&format!("store/{name}"));
        report.compare(&format!("store: {name}"), median, None, Target::None);
    }
}
