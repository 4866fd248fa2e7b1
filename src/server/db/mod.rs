//! The database: the pool, transactions, migrations, and one file of queries for each noun. No `diesel` anywhere else.
//!
//! Queries are functions of `&mut Conn` beside their row types and return `QueryResult`; [`Database::transaction`] is
//! how handlers make several of them one.

pub mod append;
pub mod channels;
pub mod communities;
pub mod connect;
pub mod contacts;
pub mod delivery;
pub mod devices;
pub mod expiry;
pub mod groups;
pub mod inbox;
pub mod invites;
pub mod keys;
pub mod logs;
pub mod members;
pub mod messages;
pub mod registration;
pub mod schema;
pub mod sessions;
pub mod sql;
pub mod streams;
pub mod users;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use diesel::QueryDsl as _;
use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::BigInt;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::pooled_connection::bb8::{Pool, PooledConnection, RunError};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _, TransactionManager as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use tokio::time::timeout;

use crate::protocol::ids::EpochId;

use super::error::ApiError;

pub use diesel::QueryResult;

/// What queries take.
pub type Conn = AsyncPgConnection;
/// A connection of the pool; `&mut` of it is a `&mut Conn`.
pub type Connection<'a> = PooledConnection<'a, AsyncPgConnection>;

pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// "chat" and a version, for `pg_advisory_lock`: one server at a time migrates.
const MIGRATION_LOCK: i64 = 0x6368_6174_0001;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// For a connection that owes an answer: as a rule that has come meanwhile, since who does not wait any more is a client that went.
const OWED_TIMEOUT: Duration = Duration::from_millis(100);

/// The pool. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool<AsyncPgConnection>,
    url: Arc<str>,
    epoch: EpochId,
}

impl Database {
    /// # Errors
    /// When the database cannot be reached within ten seconds.
    pub async fn connect(url: &str, pool_size: u32) -> anyhow::Result<Self> {
        let mut manager = ManagerConfig::default();
        manager.custom_setup = Box::new(|url| {
            Box::pin(async move {
                let mut conn = AsyncPgConnection::establish(url).await?;
                conn.set_instrumentation(Unanswered::default());
                Ok(conn)
            })
        });
        manager.recycling_method = RecyclingMethod::CustomFunction(Box::new(|conn: &mut AsyncPgConnection| {
            Box::pin(async move {
                match () {
                    // It has ended since it was given back; nobody needs to be asked.
                    () if PoolableConnection::is_broken(conn) => Err(DieselError::BrokenTransactionManager),
                    () if Unanswered::is(conn) => {
                        let answer = timeout(OWED_TIMEOUT, conn.batch_execute("SELECT 1")).await;
                        answer.unwrap_or(Err(DieselError::BrokenTransactionManager))
                    }
                    () => Ok(()),
                }
            })
        }));
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(with_settings(url), manager);
        let pool = Pool::builder()
            .max_size(pool_size)
            .connection_timeout(ACQUIRE_TIMEOUT)
            .test_on_check_out(true)
            .build(manager)
            .await
            .context("cannot connect to the database")?;
        let epoch = {
            let mut conn = pool.get().await.context("cannot connect to the database")?;
            schema::instance::table.select(schema::instance::epoch).first::<uuid::Uuid>(&mut conn).await?
        };
        Ok(Self { pool, url: with_settings(url).into(), epoch: EpochId(epoch) })
    }

    pub const fn epoch(&self) -> EpochId {
        self.epoch
    }

    /// For connections of one's own, with the settings of the pool's. It may hold a password: it is never logged.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection, within two seconds.
    ///
    /// # Errors
    /// 503 `unavailable`.
    pub async fn get(&self) -> Result<Connection<'_>, ApiError> {
        self.pool.get().await.map_err(|error| {
            match error {
                RunError::TimedOut => tracing::warn!("no database connection within two seconds"),
                RunError::User(cause) => tracing::warn!(%cause, "no database connection"),
            }
            ApiError::unavailable()
        })
    }

    /// Runs the callback in one transaction: all of it is done, or nothing. What the callback refuses is rolled back.
    ///
    /// # Errors
    /// The callback's; 503 when there is no database; `outcome_unknown` when the connection broke during the commit.
    pub async fn transaction<R, F>(&self, callback: F) -> Result<R, ApiError>
    where
        R: Send,
        for<'r> F: Work<&'r mut Conn, Result<R, ApiError>, Fut: Send> + Send,
    {
        let mut conn = self.get().await?;
        transaction(&mut conn, callback).await
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// 503 `unavailable`.
    pub async fn ping(&self) -> Result<(), ApiError> {
        let mut conn = self.get().await?;
        conn.batch_execute("SELECT 1").await.map_err(ApiError::from)
    }
}

/// Whether a connection owes the answer to a question whose asker has given up. Where it never comes (a process that was stopped,
/// a network that swallows it), the next one would only wait in vain as long.
#[derive(Default)]
struct Unanswered(bool);

impl Unanswered {
    fn is(conn: &mut AsyncPgConnection) -> bool {
        conn.instrumentation().downcast_ref::<Self>().is_some_and(|unanswered| unanswered.0)
    }
}

impl Instrumentation for Unanswered {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.0 = true,
            InstrumentationEvent::FinishQuery { .. } => self.0 = false,
            _ => {}
        }
    }
}

/// [`Database::transaction`] on a connection that is there already.
///
/// # Errors
/// As [`Database::transaction`].
pub async fn transaction<R, F>(conn: &mut Conn, callback: F) -> Result<R, ApiError>
where
    R: Send,
    for<'r> F: Work<&'r mut Conn, Result<R, ApiError>, Fut: Send> + Send,
{
    type Manager = <AsyncPgConnection as diesel_async::AsyncConnection>::TransactionManager;
    Manager::begin_transaction(conn).await?;
    match callback(&mut *conn).await {
        Ok(value) => match Manager::commit_transaction(conn).await {
            Ok(()) => Ok(value),
            // An answer of the server means that nothing was stored; silence means nothing.
            Err(error) if is_connection_lost(&error) => {
                tracing::warn!(cause = %error, "the connection broke during a commit");
                Err(ApiError::outcome_unknown())
            }
            Err(error) => Err(error.into()),
        },
        Err(refusal) => {
            // A connection that cannot roll back is broken, and the pool drops it.
            if let Err(cause) = Manager::rollback_transaction(conn).await {
                tracing::warn!(%cause, "a rollback failed");
            }
            Err(refusal)
        }
    }
}

/// An async closure whose future may move between threads: `async |conn| { … }`.
pub trait Work<T, R>: AsyncFnOnce(T) -> R + FnOnce(T) -> <Self as Work<T, R>>::Fut {
    type Fut: Future<Output = R>;
}

impl<F, T, Fut, R> Work<T, R> for F
where
    F: AsyncFnOnce(T) -> R + FnOnce(T) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

fn is_connection_lost(error: &DieselError) -> bool {
    matches!(
        error,
        DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand, _)
            | DieselError::BrokenTransactionManager
    )
}

/// What PostgreSQL says when it stops, starts, is full or takes too long; diesel does not pass the codes (57P01, 57P03,
/// 57014, 53300) on. In another language of the server the answer is 500 instead of 503.
fn is_outage(message: &str) -> bool {
    const BEGINNINGS: [&str; 7] = [
        "deadlock detected",
        "canceling statement due to lock timeout",
        "terminating connection",
        "canceling statement due to statement timeout",
        "the database system is",
        "sorry, too many clients",
        "remaining connection slots",
    ];
    BEGINNINGS.iter().any(|beginning| message.starts_with(beginning))
}

/// Whether a query failed because a row with this key is there already.
pub fn is_unique_violation(error: &DieselError, constraint: &str) -> bool {
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info) => info.constraint_name() == Some(constraint),
        _ => false,
    }
}

impl From<DieselError> for ApiError {
    fn from(error: DieselError) -> Self {
        match &error {
            DieselError::NotFound => Self::not_found(),
            error if is_connection_lost(error) => {
                tracing::warn!(cause = %error, "the database connection was lost");
                Self::unavailable()
            }
            DieselError::DatabaseError(
                DatabaseErrorKind::ReadOnlyTransaction | DatabaseErrorKind::SerializationFailure,
                info,
            ) => {
                tracing::warn!(cause = info.message(), "the database cannot write now");
                Self::unavailable()
            }
            DieselError::DatabaseError(_, info) if is_outage(info.message()) => {
                tracing::warn!(cause = info.message(), "the database cannot answer now");
                Self::unavailable()
            }
            // Only the message of PostgreSQL and the constraint: details and hints repeat values of rows.
            DieselError::DatabaseError(_, info) => {
                Self::internal(format_args!("{} ({})", info.message(), info.constraint_name().unwrap_or("no constraint")))
            }
            error => Self::internal(error),
        }
    }
}

/// The settings that every connection has: commits are on disk, and no query runs away.
fn with_settings(url: &str) -> String {
    let options = "options=-c%20synchronous_commit%3Don%20-c%20jit%3Doff%20-c%20statement_timeout%3D10s%20-c%20idle_in_transaction_session_timeout%3D15s\
                   &application_name=chat&connect_timeout=5&keepalives_idle=15&keepalives_interval=5&keepalives_retries=3\
                   &tcp_user_timeout=20";
    format!("{url}{}{options}", if url.contains('?') { '&' } else { '?' })
}

/// A database as it is.
#[derive(Clone, Debug)]
pub struct Survey {
    pub version: String,
    /// Migrations that the next start applies.
    pub pending: usize,
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// Looks at a database and changes nothing.
///
/// # Errors
/// When it cannot be reached, or is of a newer version of this program.
pub async fn survey(url: &str) -> anyhow::Result<Survey> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        version: String,
        #[diesel(sql_type = BigInt)]
        now_ms: i64,
        #[diesel(sql_type = diesel::sql_types::Bool)]
        migrated: bool,
    }
    #[derive(diesel::QueryableByName)]
    struct Applied {
        #[diesel(sql_type = diesel::sql_types::Text)]
        version: String,
    }
    let mut conn = connect::first(url).await?;
    let row: Row = diesel::sql_query(
        "SELECT current_setting('server_version') AS version, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
                to_regclass('__diesel_schema_migrations') IS NOT NULL AS migrated",
    )
    .get_result(&mut conn)
    .await?;
    let applied: Vec<Applied> = if row.migrated {
        diesel::sql_query("SELECT version FROM __diesel_schema_migrations").load(&mut conn).await?
    } else {
        Vec::new()
    };
    let known = known_migrations().map_err(|cause| anyhow::anyhow!("{cause}"))?;
    if let Some(newer) = applied.iter().find(|applied| !known.contains(&applied.version)) {
        return Err(newer_schema(&newer.version));
    }
    Ok(Survey { version: row.version, pending: known.len() - applied.len(), now_ms: row.now_ms })
}

/// Brings the schema up to date, one server at a time.
///
/// # Errors
/// When the database cannot be reached, is of a newer version of this program, or a migration fails.
pub async fn migrate(url: &str) -> anyhow::Result<()> {
    let mut conn = connect::first(url).await?;
    diesel::sql_query("SELECT pg_advisory_lock($1)").bind::<BigInt, _>(MIGRATION_LOCK).execute(&mut conn).await?;
    // The wrapper blocks on its own, so it needs a thread that may.
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
        let failed = |cause| anyhow::anyhow!("a migration failed: {cause}");
        refuse_newer_schema(&mut conn).map_err(failed)??;
        let done = conn.run_pending_migrations(MIGRATIONS).map_err(failed)?;
        for version in done {
            tracing::info!(%version, "migrated");
        }
        Ok(())
    })
    .await?
}

/// The database was restored from a backup (`protocol.md` 4.3): a new epoch tells every client to read again what may have been
/// lost since.
///
/// # Errors
/// As [`migrate`].
pub async fn begin_epoch(url: &str) -> anyhow::Result<()> {
    migrate(url).await?;
    let mut conn = connect::first(url).await?;
    diesel::sql_query("UPDATE instance SET epoch = gen_random_uuid()").execute(&mut conn).await?;
    tracing::info!("a new epoch: clients read again");
    Ok(())
}

type MigrationResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn refuse_newer_schema(conn: &mut AsyncConnectionWrapper<AsyncPgConnection>) -> MigrationResult<anyhow::Result<()>> {
    let known = known_migrations()?;
    let newer =
        conn.applied_migrations()?.into_iter().map(|applied| applied.to_string()).find(|applied| !known.contains(applied));
    Ok(newer.map_or(Ok(()), |newer| Err(newer_schema(&newer))))
}

fn known_migrations() -> MigrationResult<Vec<String>> {
    use diesel::migration::{Migration, MigrationSource as _};
    let known: Vec<Box<dyn Migration<diesel::pg::Pg>>> = MIGRATIONS.migrations()?;
    Ok(known.iter().map(|migration| migration.name().version().to_string()).collect())
}

fn newer_schema(migration: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the database has migration {migration}, which this version does not know: it belongs to a newer chat. Start that one"
    )
}

/// Undoes everything, newest first: what `chat migrate down` and the migration tests do.
///
/// # Errors
/// When a migration cannot be undone.
pub async fn revert_all(url: &str) -> anyhow::Result<()> {
    let conn = connect::first(url).await?;
    tokio::task::spawn_blocking(move || {
        let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
        conn.revert_all_migrations(MIGRATIONS).map(drop).map_err(|cause| anyhow::anyhow!("cannot undo a migration: {cause}"))
    })
    .await?
}
