//! What the store on disk promises beyond the conformance suite: nothing readable on disk, and no file ever overwritten.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::client::store::conformance::store_tests;

/// A store that keeps its directory.
struct Temporary {
    store: SqliteStore,
    dir: TempDir,
}

const KEY: [u8; 32] = [7; 32];

fn key(bytes: [u8; 32]) -> StoreKey {
    StoreKey::from_slice(&bytes).unwrap()
}

fn make() -> Temporary {
    let dir = tempfile::tempdir().unwrap();
    Temporary { store: SqliteStore::create(&dir.path().join("store.db"), key(KEY)).unwrap(), dir }
}

fn reopen(old: Temporary) -> Temporary {
    let Temporary { store, dir } = old;
    drop(store);
    Temporary { store: SqliteStore::open(&dir.path().join("store.db"), key(KEY)).unwrap(), dir }
}

impl Store for Temporary {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.store.get(table, key)
    }
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        self.store.scan(table, prefix, after, limit)
    }
    fn message(&self, channel_id: ChannelId, key: MessageRef) -> Result<Option<StoredMessage>, StoreError> {
        self.store.message(channel_id, key)
    }
    fn page(&self, channel_id: ChannelId, lines: Lines, from: From, limit: usize) -> Result<Vec<StoredMessage>, StoreError> {
        self.store.page(channel_id, lines, from, limit)
    }
    fn search(&self, query: &TextQuery) -> Result<Vec<StoredMessage>, StoreError> {
        self.store.search(query)
    }
    fn save(&mut self, changes: Changes) -> Result<(), StoreError> {
        self.store.save(changes)
    }
}

mod open {
    use super::*;
    store_tests!(make);
}

mod closed_and_opened_again {
    use super::*;
    store_tests!(make, reopen);
}

fn fill(store: &mut SqliteStore) {
    let mut changes = Changes::default();
    changes.put(Table::Account, *b"canary-key", *b"canary-value");
    changes.put_message(StoredMessage {
        channel_id: ChannelId::from_bytes([1; 16]),
        key: MessageRef { author: UserId::from_bytes([2; 16]), id: MessageId::from_bytes([3; 16]) },
        position: Position::row(1),
        thread_root: None,
        text: Some(Zeroizing::new("canary-text".to_owned())),
        value: Zeroizing::new(b"canary-body".to_vec()),
    });
    store.save(changes).unwrap();
}

fn error(result: Result<SqliteStore, OpenError>) -> OpenError {
    result.err().expect("it must not open")
}

#[test]
fn a_wrong_key_is_an_error_and_changes_nothing() {
    let Temporary { mut store, dir } = make();
    fill(&mut store);
    drop(store);
    let path = dir.path().join("store.db");
    let before = fs::read(&path).unwrap();
    assert_eq!(error(SqliteStore::open(&path, key([8; 32]))), OpenError::WrongKey(path.clone()));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(SqliteStore::open(&path, key(KEY)).is_ok());
}

#[test]
fn a_damaged_file_is_an_error_and_is_never_overwritten() {
    let Temporary { mut store, dir } = make();
    fill(&mut store);
    drop(store);
    let path = dir.path().join("store.db");
    for damage in [b"".as_slice(), b"SQLite format 3\0not one", &[0xff; 8192]] {
        fs::write(&path, damage).unwrap();
        let error = error(SqliteStore::open(&path, key(KEY)));
        assert!(matches!(error, OpenError::Damaged { .. } | OpenError::WrongKey(_)), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), damage);
        assert_eq!(Problem::from(error).kind, ProblemKind::Failed);
    }
}

#[test]
fn a_flipped_bit_in_a_page_is_noticed() {
    let Temporary { mut store, dir } = make();
    let mut changes = Changes::default();
    for n in 0..2000u32 {
        changes.put(Table::Seen, n.to_be_bytes(), [0xab; 64]);
    }
    store.save(changes).unwrap();
    drop(store);
    let path = dir.path().join("store.db");
    let mut bytes = fs::read(&path).unwrap();
    // Somewhere among the pages of that table.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let read = SqliteStore::open(&path, key(KEY)).map(|store| store.scan(Table::Seen, b"", None, 5000));
    assert!(!matches!(read, Ok(Ok(_))), "damage was read as data");
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let Temporary { store, dir } = make();
    store.connection.borrow_mut().batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('999');").unwrap();
    drop(store);
    let path = dir.path().join("store.db");
    assert_eq!(error(SqliteStore::open(&path, key(KEY))), OpenError::Newer(path));
}

#[test]
fn creating_never_replaces_and_opening_never_creates() {
    let Temporary { store, dir } = make();
    let path = dir.path().join("store.db");
    assert_eq!(error(SqliteStore::create(&path, key(KEY))), OpenError::Exists(path.clone()));
    drop(store);
    let missing = dir.path().join("other.db");
    assert_eq!(error(SqliteStore::open(&missing, key(KEY))), OpenError::Missing(missing.clone()));
    assert!(!missing.exists());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_readable_reaches_the_disk() {
    let Temporary { mut store, dir } = make();
    fill(&mut store);
    let on_disk = || -> Vec<u8> {
        fs::read_dir(dir.path()).unwrap().flat_map(|entry| fs::read(entry.unwrap().path()).unwrap_or_default()).collect()
    };
    let has = |bytes: &[u8], needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    let before = on_disk();
    drop(store);
    for bytes in [before, on_disk()] {
        assert!(bytes.len() > 4096);
        for needle in ["canary", "SQLite format", "CREATE TABLE", "account"] {
            assert!(!has(&bytes, needle), "{needle}");
        }
    }
}

#[test]
fn a_value_moved_to_another_key_does_not_open() {
    let Temporary { mut store, dir: _dir } = make();
    let mut changes = Changes::default();
    changes.put(Table::Contacts, *b"ana", *b"verified");
    store.save(changes).unwrap();
    store.connection.borrow_mut().batch_execute("UPDATE records SET key = CAST('bob' AS BLOB);").unwrap();
    assert_eq!(
        store.get(Table::Contacts, b"bob"),
        Err(StoreError::Damaged { table: "contacts", what: "it does not open".to_owned() })
    );
}

#[test]
fn the_words_of_a_deleted_message_leave_the_index() {
    let Temporary { mut store, dir: _dir } = make();
    fill(&mut store);
    let mut changes = Changes::default();
    changes.delete_message(
        ChannelId::from_bytes([1; 16]),
        MessageRef { author: UserId::from_bytes([2; 16]), id: MessageId::from_bytes([3; 16]) },
    );
    store.save(changes).unwrap();
    store
        .connection
        .borrow_mut()
        .batch_execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, 'row');")
        .unwrap();
    diesel::table! { vocabulary (term) { term -> Text, } }
    let terms: Vec<String> = vocabulary::table.select(vocabulary::term).load(&mut *store.connection.borrow_mut()).unwrap();
    assert_eq!(terms, Vec::<String>::new());
}

#[test]
fn a_batch_is_read_at_once_and_survives_only_as_a_whole() {
    let Temporary { mut store, dir } = make();
    let put = |store: &mut SqliteStore, value: &[u8]| {
        let mut changes = Changes::default();
        changes.put(Table::Account, *b"a", value);
        store.save(changes).unwrap();
    };
    put(&mut store, b"before");
    store.begin().unwrap();
    put(&mut store, b"one");
    put(&mut store, b"two");
    assert_eq!(store.get(Table::Account, b"a").unwrap().unwrap().as_slice(), b"two");
    drop(store);
    let path = dir.path().join("store.db");
    let mut store = SqliteStore::open(&path, key(KEY)).unwrap();
    assert_eq!(store.get(Table::Account, b"a").unwrap().unwrap().as_slice(), b"before");
    store.begin().unwrap();
    put(&mut store, b"three");
    store.commit().unwrap();
    drop(store);
    let store = SqliteStore::open(&path, key(KEY)).unwrap();
    assert_eq!(store.get(Table::Account, b"a").unwrap().unwrap().as_slice(), b"three");
}

/// What the database is asked for while `act` runs: how many transactions and savepoints, and statements.
fn counted(store: &mut SqliteStore, act: impl FnOnce(&mut SqliteStore)) -> (usize, usize) {
    use diesel::connection::{Connection as _, InstrumentationEvent};
    let counts = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
    let seen = counts.clone();
    store.connection.get_mut().set_instrumentation(move |event: InstrumentationEvent<'_>| {
        let mut seen = seen.lock().unwrap();
        match event {
            InstrumentationEvent::BeginTransaction { .. } => seen.0 += 1,
            // Beginning a transaction is a statement of its own, counted above.
            InstrumentationEvent::StartQuery { query, .. } if !query.to_string().contains("BEGIN") => seen.1 += 1,
            _ => {}
        }
    });
    act(store);
    store.connection.get_mut().set_instrumentation(None::<fn(InstrumentationEvent<'_>)>);
    *counts.lock().unwrap()
}

#[test]
fn a_batch_is_one_transaction_without_savepoints() {
    let Temporary { mut store, dir: _dir } = make();
    let (begun, _) = counted(&mut store, |store| {
        store.begin().unwrap();
        for n in 0..10_u8 {
            let mut changes = Changes::default();
            changes.put(Table::Users, [n], [n]);
            store.save(changes).unwrap();
        }
        store.commit().unwrap();
    });
    assert_eq!(begun, 1);
}

#[test]
fn a_message_costs_two_statements_and_one_when_its_words_stay() {
    let Temporary { mut store, dir: _dir } = make();
    let message = |seq| StoredMessage {
        channel_id: ChannelId::from_bytes([1; 16]),
        key: MessageRef { author: UserId::from_bytes([2; 16]), id: MessageId::from_bytes([3; 16]) },
        position: Position::row(seq),
        thread_root: None,
        text: Some(Zeroizing::new("Words".to_owned())),
        value: Zeroizing::new(b"body".to_vec()),
    };
    store.begin().unwrap();
    let put = |seq| {
        move |store: &mut SqliteStore| {
            let mut changes = Changes::default();
            changes.put_message(message(seq));
            store.save(changes).unwrap();
        }
    };
    assert_eq!(counted(&mut store, put(1)), (0, 2));
    assert_eq!(counted(&mut store, put(2)), (0, 1));
    store.commit().unwrap();
}

#[test]
fn an_error_in_a_batch_leaves_nothing_of_it() {
    let Temporary { mut store, dir } = make();
    let put = |store: &mut SqliteStore, value: &[u8]| {
        let mut changes = Changes::default();
        changes.put(Table::Users, *b"a", value);
        changes.put(Table::Users, *b"b", value);
        store.save(changes)
    };
    put(&mut store, b"before").unwrap();
    store.begin().unwrap();
    put(&mut store, b"one").unwrap();
    // The second record of the step fails.
    let trigger = "CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.key = CAST('b' AS BLOB)
                   BEGIN SELECT RAISE(ABORT, 'the disk is full'); END;";
    store.connection.borrow_mut().batch_execute(trigger).unwrap();
    assert_eq!(put(&mut store, b"two"), Err(StoreError::Io("the disk is full".to_owned())));
    assert!(store.commit().is_err());
    drop(store);
    let store = SqliteStore::open(&dir.path().join("store.db"), key(KEY)).unwrap();
    for at in [b"a", b"b"] {
        assert_eq!(store.get(Table::Users, at).unwrap().unwrap().as_slice(), b"before");
    }
}

#[test]
fn keys_that_stepped_forward_and_words_that_were_replaced_leave_the_log_of_writes() {
    let Temporary { mut store, dir } = make();
    let log = dir.path().join("store.db-wal");
    let message = |text: Option<&str>| StoredMessage {
        channel_id: ChannelId::from_bytes([1; 16]),
        key: MessageRef { author: UserId::from_bytes([2; 16]), id: MessageId::from_bytes([3; 16]) },
        position: Position::row(1),
        thread_root: None,
        text: text.map(|text| Zeroizing::new(text.to_owned())),
        value: Zeroizing::new(b"body".to_vec()),
    };
    type Step<'a> = &'a dyn Fn(&mut Changes);
    let steps: [(Step<'_>, bool); 6] = [
        (&|changes| changes.put(Table::Sessions, *b"s", *b"first"), true),
        (&|changes| changes.put(Table::Sessions, *b"s", *b"second"), true),
        (&|changes| changes.put(Table::Users, *b"u", *b"a name"), false),
        (&|changes| changes.put_message(message(Some("words"))), false),
        (&|changes| changes.put_message(message(Some("words"))), false),
        (&|changes| changes.put_message(message(None)), true),
    ];
    for (n, (step, untidy)) in steps.into_iter().enumerate() {
        // As right after another checkpoint: this one has to wait for its turn.
        store.checkpointed_at = Instant::now();
        let mut changes = Changes::default();
        step(&mut changes);
        store.save(changes).unwrap();
        assert_eq!(store.is_untidy(), untidy, "step {n}");
        assert!(fs::metadata(&log).unwrap().len() > 0, "step {n}");
        store.tidy().unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len() == 0, untidy, "step {n}");
        assert!(!store.is_untidy());
    }
}
