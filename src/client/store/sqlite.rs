//! The store on disk: SQLite inside SQLCipher, one file, one owner. Every value and every message body is sealed a second
//! time by itself (`crypto.md` 17); only the search index holds words, inside the encrypted file. This module knows no
//! protocol; what a record means is the engine's.
//!
//! Start with [`SqliteStore::create`] and [`SqliteStore::open`]: a file is never overwritten, whatever is wrong with it.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::dsl::sql;
use diesel::migration::MigrationSource;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use getrandom::SysRng;
use rand_core::UnwrapErr;
use zeroize::Zeroizing;

use super::{Changes, From, Lines, Position, Store, StoreError, StoredMessage, Table, TextQuery, Value};
use crate::client::model::{MessageRef, Problem, ProblemKind};
use crate::crypto::vault::StoreKey;
use crate::protocol::ids::{ChannelId, MessageId, UserId};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("src/client/store/migrations");
/// Part of the associated data of every sealed value; grows when the meaning of a stored value changes.
const SCHEMA: u32 = 1;
/// Bound on waiting for checkpoints after deletions: they are worth a few syncs a second at most.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

diesel::table! {
    records (kind, key) {
        kind -> Text,
        key -> Binary,
        value -> Binary,
    }
}

diesel::table! {
    messages (row) {
        row -> BigInt,
        channel -> Binary,
        author -> Binary,
        id -> Binary,
        seq -> BigInt,
        sub -> BigInt,
        root -> Nullable<Binary>,
        body -> Binary,
    }
}

diesel::table! {
    words (rowid) {
        rowid -> BigInt,
        text -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(messages, words);

/// See the module's documentation.
pub struct SqliteStore {
    /// Reads need it mutable; the trait reads through `&self`. A store has one thread.
    connection: RefCell<SqliteConnection>,
    key: StoreKey,
    rng: UnwrapErr<SysRng>,
    /// Deleted secrets may still stand in the write-ahead log.
    uncheckpointed: bool,
    checkpointed_at: Instant,
    in_batch: bool,
}

/// Why a store did not open. The file is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    #[error("{} does not open with this key: it is damaged, or belongs to another profile", .0.display())]
    WrongKey(PathBuf),
    #[error("{} is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} was written by a newer version of chat", .0.display())]
    Newer(PathBuf),
    #[error("cannot open {}: {what}", .path.display())]
    Io { path: PathBuf, what: String },
}

impl std::convert::From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let text = error.to_string();
        match error {
            OpenError::WrongKey(_) | OpenError::Damaged { .. } => Self::new(ProblemKind::Failed, text).hint(
                "Nothing was changed. Restore the profile's directory from a copy, or set up a new profile with --profile.",
            ),
            OpenError::Newer(_) => Self::new(ProblemKind::Failed, text).hint("Update chat. Nothing was changed."),
            OpenError::Missing(_) => Self::new(ProblemKind::NotFound, text)
                .hint("Restore the profile's directory from a copy, or set up a new profile."),
            OpenError::Exists(_) => Self::new(ProblemKind::Failed, text).hint("Choose another profile with --profile."),
            OpenError::Io { .. } => Self::new(ProblemKind::Failed, text).hint("Check permissions and free space."),
        }
    }
}

impl SqliteStore {
    /// Begins a new store; its directory exists.
    ///
    /// # Errors
    /// When there is a file already, or it cannot be written.
    pub fn create(path: &Path, key: StoreKey) -> Result<Self, OpenError> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => Self::establish(path, key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(OpenError::Exists(path.to_owned())),
            Err(error) => Err(OpenError::Io { path: path.to_owned(), what: error.to_string() }),
        }
    }

    /// Opens the store of an earlier run.
    ///
    /// # Errors
    /// When it is missing, damaged, of another key or of a newer version; it is never changed then.
    pub fn open(path: &Path, key: StoreKey) -> Result<Self, OpenError> {
        match fs::metadata(path) {
            // SQLite takes an empty file for a new database: that would lose the account without a word.
            Ok(metadata) if metadata.len() == 0 => {
                Err(OpenError::Damaged { path: path.to_owned(), what: "it is empty".to_owned() })
            }
            Ok(_) => Self::establish(path, key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Missing(path.to_owned())),
            Err(error) => Err(OpenError::Io { path: path.to_owned(), what: error.to_string() }),
        }
    }

    fn establish(path: &Path, key: StoreKey) -> Result<Self, OpenError> {
        let failed = |what: String| OpenError::Io { path: path.to_owned(), what };
        let refused = |error: diesel::result::Error| {
            let what = error.to_string();
            if what.contains("not a database") {
                OpenError::WrongKey(path.to_owned())
            } else if what.contains("malformed") {
                OpenError::Damaged { path: path.to_owned(), what }
            } else {
                OpenError::Io { path: path.to_owned(), what }
            }
        };
        let name = path.to_str().ok_or_else(|| failed("the path is not UTF-8".to_owned()))?;
        let mut connection = SqliteConnection::establish(name).map_err(|error| failed(error.to_string()))?;
        // A wrong key must print nothing over a screen, and the key must come before any statement that reads.
        connection.batch_execute("PRAGMA cipher_log_level = NONE;").map_err(refused)?;
        let pragma = Zeroizing::new(format!("PRAGMA key = \"x'{}'\";", key.database_key_hex().as_str()));
        connection.batch_execute(&pragma).map_err(refused)?;
        connection
            .batch_execute(
                // One owner: no shared memory file. Temporary tables would lie outside the encrypted file.
                // The process that had the profile before may be ending still.
                "PRAGMA busy_timeout = 10000;
                 SELECT count(*) FROM sqlite_master;
                 PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA secure_delete = ON;
                 PRAGMA temp_store = MEMORY;",
            )
            .map_err(refused)?;
        migrate(&mut connection, path)?;
        Ok(Self {
            connection: RefCell::new(connection),
            key,
            rng: UnwrapErr(SysRng),
            uncheckpointed: false,
            checkpointed_at: Instant::now(),
            in_batch: false,
        })
    }

    /// Empties the write-ahead log, so that what was deleted is gone from the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.connection.get_mut().batch_execute("PRAGMA wal_checkpoint(TRUNCATE);").map_err(|error| store_error(&error))?;
        self.uncheckpointed = false;
        self.checkpointed_at = Instant::now();
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> Result<(), StoreError> {
        if self.uncheckpointed && self.checkpointed_at.elapsed() >= CHECKPOINT_EVERY { self.checkpoint() } else { Ok(()) }
    }

    fn open_message(&self, row: MessageRow) -> Result<StoredMessage, StoreError> {
        let (channel, author, id, seq, sub, root, body) = row;
        let plain = self
            .key
            .open("messages", &message_key(&channel, &author, &id), SCHEMA, &body)
            .map_err(|_| damaged("messages", "it does not open"))?;
        let (text, value) = split_body(&plain).ok_or_else(|| damaged("messages", "its length is wrong"))?;
        Ok(StoredMessage {
            channel_id: ChannelId::from_bytes(id16(&channel)?),
            key: MessageRef { author: UserId::from_bytes(id16(&author)?), id: MessageId::from_bytes(id16(&id)?) },
            position: Position { seq: from_sql(seq)?, sub: from_sql(sub)? },
            thread_root: root.as_deref().map(root_ref).transpose()?,
            text,
            value,
        })
    }
}

type MessageRow = (Vec<u8>, Vec<u8>, Vec<u8>, i64, i64, Option<Vec<u8>>, Vec<u8>);

const MESSAGE_COLUMNS: (
    messages::channel,
    messages::author,
    messages::id,
    messages::seq,
    messages::sub,
    messages::root,
    messages::body,
) = (messages::channel, messages::author, messages::id, messages::seq, messages::sub, messages::root, messages::body);

impl Store for SqliteStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let sealed: Option<Vec<u8>> = records::table
            .find((table.name(), key))
            .select(records::value)
            .first(&mut *self.connection.borrow_mut())
            .optional()
            .map_err(|error| store_error(&error))?;
        sealed.map(|sealed| open_record(&self.key, table, key, &sealed)).transpose()
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        let mut query = records::table
            .filter(records::kind.eq(table.name()))
            .filter(records::key.ge(prefix))
            .order(records::key)
            .limit(to_limit(limit))
            .select((records::key, records::value))
            .into_boxed();
        if let Some(end) = end_of_prefix(prefix) {
            query = query.filter(records::key.lt(end));
        }
        if let Some(after) = after {
            query = query.filter(records::key.gt(after));
        }
        let rows: Vec<(Vec<u8>, Vec<u8>)> =
            query.load(&mut *self.connection.borrow_mut()).map_err(|error| store_error(&error))?;
        rows.into_iter()
            .map(|(key, sealed)| {
                let value = open_record(&self.key, table, &key, &sealed)?;
                Ok((key, value))
            })
            .collect()
    }

    fn message(&self, channel_id: ChannelId, key: MessageRef) -> Result<Option<StoredMessage>, StoreError> {
        let row: Option<MessageRow> = messages::table
            .filter(messages::channel.eq(channel_id.as_bytes().as_slice()))
            .filter(messages::author.eq(key.author.as_bytes().as_slice()))
            .filter(messages::id.eq(key.id.as_bytes().as_slice()))
            .select(MESSAGE_COLUMNS)
            .first(&mut *self.connection.borrow_mut())
            .optional()
            .map_err(|error| store_error(&error))?;
        row.map(|row| self.open_message(row)).transpose()
    }

    fn page(&self, channel_id: ChannelId, lines: Lines, from: From, limit: usize) -> Result<Vec<StoredMessage>, StoreError> {
        let mut query = messages::table
            .filter(messages::channel.eq(channel_id.as_bytes().to_vec()))
            .limit(to_limit(limit))
            .select(MESSAGE_COLUMNS)
            .into_boxed::<Sqlite>();
        query = match lines {
            Lines::All => query,
            Lines::Main => query.filter(messages::root.is_null()),
            Lines::Thread(root) => query.filter(
                messages::root
                    .eq(Some(root_bytes(root)))
                    .assume_not_null()
                    .or(messages::author.eq(root.author.as_bytes().to_vec()).and(messages::id.eq(root.id.as_bytes().to_vec()))),
            ),
        };
        // The first half of each bound is what the index can use.
        query = match from {
            From::End => query,
            From::Before(Position { seq, sub }) => {
                let (seq, sub) = (to_sql(seq), to_sql(sub));
                query.filter(messages::seq.le(seq)).filter(messages::seq.lt(seq).or(messages::sub.lt(sub)))
            }
            From::After(Position { seq, sub }) => {
                let (seq, sub) = (to_sql(seq), to_sql(sub));
                query.filter(messages::seq.ge(seq)).filter(messages::seq.gt(seq).or(messages::sub.gt(sub)))
            }
        };
        let backwards = !matches!(from, From::After(_));
        query = if backwards {
            query.order((messages::seq.desc(), messages::sub.desc(), messages::author.desc(), messages::id.desc()))
        } else {
            query.order((messages::seq.asc(), messages::sub.asc(), messages::author.asc(), messages::id.asc()))
        };
        let mut rows: Vec<MessageRow> = query.load(&mut *self.connection.borrow_mut()).map_err(|error| store_error(&error))?;
        if backwards {
            rows.reverse();
        }
        rows.into_iter().map(|row| self.open_message(row)).collect()
    }

    fn search(&self, query: &TextQuery) -> Result<Vec<StoredMessage>, StoreError> {
        let mut hits = words::table.select(words::rowid).into_boxed::<Sqlite>();
        // The index knows three characters and more, and its query language ends at a NUL.
        let (indexed, short): (Vec<String>, Vec<String>) = query
            .terms
            .iter()
            .map(|term| term.to_lowercase())
            .partition(|term| term.chars().count() >= 3 && !term.contains('\0'));
        if !indexed.is_empty() {
            let phrases: Vec<String> = indexed.iter().map(|term| format!("\"{}\"", term.replace('"', "\"\""))).collect();
            hits = hits.filter(sql::<Bool>("words MATCH ").bind::<Text, _>(phrases.join(" AND ")));
        }
        for term in short {
            hits = hits.filter(sql::<Bool>("instr(text, ").bind::<Text, _>(term).sql(") > 0"));
        }
        let mut query_messages = messages::table
            .filter(messages::row.eq_any(hits))
            .order((messages::id.desc(), messages::author.desc()))
            .limit(to_limit(query.limit))
            .select(MESSAGE_COLUMNS)
            .into_boxed::<Sqlite>();
        if !query.channels.is_empty() {
            query_messages =
                query_messages.filter(messages::channel.eq_any(query.channels.iter().map(|channel| channel.as_bytes().to_vec())));
        }
        if !query.authors.is_empty() {
            query_messages =
                query_messages.filter(messages::author.eq_any(query.authors.iter().map(|author| author.as_bytes().to_vec())));
        }
        let rows: Vec<MessageRow> =
            query_messages.load(&mut *self.connection.borrow_mut()).map_err(|error| store_error(&error))?;
        rows.into_iter().map(|row| self.open_message(row)).collect()
    }

    fn save(&mut self, changes: Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let Self { connection, key: store_key, rng, .. } = self;
        let connection = connection.get_mut();
        if self.in_batch {
            // No savepoint for each step: the index of words would be flushed at every one. So an error ends the whole batch.
            match write(connection, store_key, rng, changes) {
                Ok(erased) => self.uncheckpointed |= erased,
                Err(error) => {
                    self.in_batch = false;
                    // When that fails too, closing rolls back.
                    let _ = AnsiTransactionManager::rollback_transaction(connection);
                    return Err(error.into());
                }
            }
            return Ok(());
        }
        self.uncheckpointed |= connection.transaction(|connection| write(connection, store_key, rng, changes))?;
        self.checkpoint_if_due()
    }

    fn is_untidy(&self) -> bool {
        self.uncheckpointed
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        if self.uncheckpointed { self.checkpoint() } else { Ok(()) }
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        AnsiTransactionManager::begin_transaction(self.connection.get_mut()).map_err(|error| store_error(&error))?;
        self.in_batch = true;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.in_batch = false;
        AnsiTransactionManager::commit_transaction(self.connection.get_mut()).map_err(|error| store_error(&error))?;
        self.checkpoint_if_due()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Closing checkpoints too; a failure leaves the log for the next start.
        let _ = self.checkpoint();
    }
}

fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let failed = |what: String| OpenError::Io { path: path.to_owned(), what };
    let known: Vec<_> = MigrationSource::<Sqlite>::migrations(&MIGRATIONS)
        .map_err(|error| failed(error.to_string()))?
        .iter()
        .map(|migration| migration.name().version().as_owned())
        .collect();
    let applied = connection.applied_migrations().map_err(|error| failed(error.to_string()))?;
    if applied.iter().any(|version| !known.contains(version)) {
        return Err(OpenError::Newer(path.to_owned()));
    }
    connection.run_pending_migrations(MIGRATIONS).map_err(|error| failed(error.to_string()))?;
    Ok(())
}

/// Whether something was erased or replaced that must not stay readable.
fn write(
    connection: &mut SqliteConnection,
    store_key: &StoreKey,
    rng: &mut UnwrapErr<SysRng>,
    changes: Changes,
) -> Result<bool, SaveError> {
    let mut erased = false;
    for ((table, key), value) in changes.records {
        match value {
            Some(value) => {
                erased |= table.holds_keys();
                let sealed = store_key.seal(table.name(), &key, SCHEMA, &value, rng).map_err(|_| SaveError::Sealing)?;
                diesel::replace_into(records::table)
                    .values((
                        records::kind.eq(table.name()),
                        records::key.eq(key.as_slice()),
                        records::value.eq(sealed.as_slice()),
                    ))
                    .execute(connection)?;
            }
            None => {
                let at = records::table.find((table.name(), key.as_slice()));
                erased |= diesel::delete(at).execute(connection)? > 0;
            }
        }
    }
    for ((channel_id, key), message) in changes.messages {
        match message {
            Some(message) => erased |= put_message(connection, store_key, rng, &message)?,
            None => erased |= delete_message(connection, channel_id, key)?,
        }
    }
    Ok(erased)
}

/// Whether words that stood there before were erased.
fn put_message(
    connection: &mut SqliteConnection,
    store_key: &StoreKey,
    rng: &mut UnwrapErr<SysRng>,
    message: &StoredMessage,
) -> Result<bool, SaveError> {
    let (channel, author, id) = (message.channel_id.as_bytes(), message.key.author.as_bytes(), message.key.id.as_bytes());
    let body = join_body(message);
    let sealed =
        store_key.seal("messages", &message_key(channel, author, id), SCHEMA, &body, rng).map_err(|_| SaveError::Sealing)?;
    let changing = (
        messages::seq.eq(to_sql(message.position.seq)),
        messages::sub.eq(to_sql(message.position.sub)),
        messages::root.eq(message.thread_root.map(root_bytes)),
        messages::body.eq(sealed.as_slice()),
    );
    // With the words that stand there: one question less for each message.
    let words_of_row = words::table.filter(words::rowid.eq(messages::row)).select(words::text).single_value();
    let (row, indexed): (i64, Option<String>) = diesel::insert_into(messages::table)
        .values((
            messages::channel.eq(channel.as_slice()),
            messages::author.eq(author.as_slice()),
            messages::id.eq(id.as_slice()),
            changing.clone(),
        ))
        .on_conflict((messages::channel, messages::author, messages::id))
        .do_update()
        .set(changing)
        .returning((messages::row, words_of_row))
        .get_result(connection)?;
    let text = message.text.as_ref().map(|text| Zeroizing::new(text.to_lowercase()));
    // Most changes of a message are its delivery state and reactions: its words stay.
    if indexed.as_ref() == text.as_deref() {
        return Ok(false);
    }
    let erased = indexed.is_some();
    if erased {
        diesel::delete(words::table.find(row)).execute(connection)?;
    }
    if let Some(text) = text {
        diesel::insert_into(words::table).values((words::rowid.eq(row), words::text.eq(text.as_str()))).execute(connection)?;
    }
    Ok(erased)
}

fn delete_message(connection: &mut SqliteConnection, channel_id: ChannelId, key: MessageRef) -> Result<bool, SaveError> {
    let row: Option<i64> = diesel::delete(
        messages::table
            .filter(messages::channel.eq(channel_id.as_bytes().as_slice()))
            .filter(messages::author.eq(key.author.as_bytes().as_slice()))
            .filter(messages::id.eq(key.id.as_bytes().as_slice())),
    )
    .returning(messages::row)
    .get_result(connection)
    .optional()?;
    if let Some(row) = row {
        diesel::delete(words::table.find(row)).execute(connection)?;
    }
    Ok(row.is_some())
}

fn open_record(store_key: &StoreKey, table: Table, key: &[u8], sealed: &[u8]) -> Result<Value, StoreError> {
    store_key.open(table.name(), key, SCHEMA, sealed).map_err(|_| damaged(table.name(), "it does not open"))
}

fn message_key(channel: &[u8], author: &[u8], id: &[u8]) -> Vec<u8> {
    [channel, author, id].concat()
}

fn root_bytes(root: MessageRef) -> Vec<u8> {
    [root.author.as_bytes().as_slice(), root.id.as_bytes()].concat()
}

fn root_ref(bytes: &[u8]) -> Result<MessageRef, StoreError> {
    let (author, id) = bytes.split_at_checked(16).ok_or_else(|| damaged("messages", "its thread is wrong"))?;
    Ok(MessageRef { author: UserId::from_bytes(id16(author)?), id: MessageId::from_bytes(id16(id)?) })
}

/// 0 ‖ value, or 1 ‖ length of the text u32 ‖ text ‖ value.
fn join_body(message: &StoredMessage) -> Zeroizing<Vec<u8>> {
    let text = message.text.as_ref().map_or("", |text| text.as_str());
    let mut body = Zeroizing::new(Vec::with_capacity(5 + text.len() + message.value.len()));
    body.push(u8::from(message.text.is_some()));
    if message.text.is_some() {
        body.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    body.extend_from_slice(&message.value);
    body
}

fn split_body(body: &[u8]) -> Option<(Option<Zeroizing<String>>, Value)> {
    let (&has_text, rest) = body.split_first()?;
    if has_text == 0 {
        return Some((None, Zeroizing::new(rest.to_vec())));
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (text, value) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let text = std::str::from_utf8(text).ok()?.to_owned();
    Some((Some(Zeroizing::new(text)), Zeroizing::new(value.to_vec())))
}

/// The least key that is greater than everything with that prefix; none when there is no such key.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Positions are at most `i64::MAX` by contract.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| damaged("messages", "its position is wrong"))
}

fn id16(bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    bytes.try_into().map_err(|_| damaged("messages", "an id is wrong"))
}

fn damaged(table: &'static str, what: &str) -> StoreError {
    StoreError::Damaged { table, what: what.to_owned() }
}

fn store_error(error: &diesel::result::Error) -> StoreError {
    StoreError::Io(error.to_string())
}

/// Inside a transaction diesel wants its own error to fit.
enum SaveError {
    Sealing,
    Database(diesel::result::Error),
}

impl std::convert::From<diesel::result::Error> for SaveError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

impl std::convert::From<SaveError> for StoreError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Sealing => Self::Io("a value is too long to be sealed".to_owned()),
            SaveError::Database(error) => store_error(&error),
        }
    }
}

#[cfg(test)]
mod tests;
