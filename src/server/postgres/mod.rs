//! The embedded PostgreSQL: a cluster of our own under the data directory, run by an installed server of version 15 or
//! newer, reachable through a unix socket that only we may open.
//!
//! It is used when `database.url` is not set. It knows nothing of tables and queries. Start with [`Cluster::start`];
//! [`binaries`] finds the programs, [`owner`] says which user runs them, [`supervisor`] keeps the server alive.

pub mod binaries;
pub mod directory;
pub mod owner;
pub mod supervisor;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use binaries::Binaries;
use directory::Directory;
use owner::Owner;
use supervisor::Supervisor;
pub use supervisor::end_with_us;

/// The superuser and the database of the cluster.
const ROLE: &str = "chat";
/// How long a start may take; crash recovery after a long outage is the slow case.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// What can be chosen about a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds the cluster, its socket, its lock and its log.
    pub data_dir: PathBuf,
    /// Connections that the server admits.
    pub max_connections: u32,
    /// `false` only for tests that throw the cluster away: nothing survives a power cut then.
    pub durable: bool,
}

impl Options {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), max_connections: 60, durable: true }
    }
}

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "no PostgreSQL server (version 15 or newer) was found. Install it (Debian, Ubuntu: apt-get install postgresql; Fedora: \
         dnf install postgresql-server; Arch: pacman -S postgresql; Alpine: apk add postgresql; macOS: brew install postgresql), \
         or name the folder of its programs in CHAT_PG_BINDIR"
    )]
    NoBinaries,
    #[error("CHAT_PG_BINDIR is {}, where no PostgreSQL server (version 15 or newer) is", .0.display())]
    NotThere(PathBuf),
    #[error("the data directory {} is used by another chat serve (process {pid})", .path.display())]
    InUse { path: PathBuf, pid: String },
    #[error(
        "the cluster in {} was made by PostgreSQL {found}, but {installed} is installed. Install version {found}, or move the \
         data with pg_upgrade or with a dump and a restore", .path.display()
    )]
    OtherMajor { path: PathBuf, found: String, installed: u32 },
    #[error(
        "{} cannot be entered by the user {user}, who runs PostgreSQL because root must not. Choose a data directory such as \
         /var/lib/chat, or start chat as an ordinary user", .path.display()
    )]
    NotTraversable { path: PathBuf, user: String },
    #[error("initdb failed: {0}")]
    Initdb(String),
    #[error("PostgreSQL did not start: {0}")]
    Start(String),
    #[error("PostgreSQL runs with {setting} = {value}; chat refuses to acknowledge messages that a power cut would lose")]
    NotDurable { setting: String, value: String },
    #[error("{what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl PostgresError {
    fn no_binaries() -> Self {
        std::env::var_os(binaries::BINDIR).map_or(Self::NoBinaries, |dir| Self::NotThere(dir.into()))
    }

    fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// A running cluster. Dropping it stops the server at once (`SIGQUIT`-like, nothing committed is lost); [`Cluster::stop`] waits.
pub struct Cluster {
    url: String,
    // Order matters: the server stops before the lock on its directory is released.
    supervisor: Supervisor,
    _directory: Directory,
}

impl Cluster {
    /// Make the cluster if there is none, start its server and wait until it answers. Blocks; call it off the async threads.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, the directory is used by another process or belongs to another major version, or
    /// the server does not come up.
    pub fn start(options: &Options) -> Result<Self, PostgresError> {
        // Before anything is made: without a server there is no use for a directory.
        let found = Binaries::find(None).ok_or_else(PostgresError::no_binaries)?;
        let owner = Owner::choose();
        let directory = Directory::prepare(&options.data_dir, &owner)?;
        let existing = directory.cluster_version()?;
        let binaries = existing.as_deref().and_then(|version| Binaries::find(Some(version))).unwrap_or(found);
        match existing {
            Some(found) if found != binaries.major.to_string() => {
                return Err(PostgresError::OtherMajor { path: directory.data.clone(), found, installed: binaries.major });
            }
            Some(_) => directory.clear_stale_postmaster()?,
            None => directory.initdb(&binaries, &owner)?,
        }
        let supervisor = Supervisor::spawn(&binaries, &owner, &directory, options)?;
        let connect = Connect { socket_dir: directory.socket_dir.clone() };
        wait_until_ready(&connect, &supervisor, &directory)?;
        prepare_database(&connect, options.durable)?;
        Ok(Self { url: connect.url(ROLE), supervisor, _directory: directory })
    }

    /// `postgresql://…` through the unix socket, percent-encoded.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `postgresql://…` of another database in the same cluster; tests clone theirs from a template.
    pub fn url_of(&self, database: &str) -> String {
        self.url.replacen(&format!("/{ROLE}?"), &format!("/{database}?"), 1)
    }

    /// The server's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.pid()
    }

    /// Stop the server in order (`SIGINT`: a checkpoint, no waiting for clients), and hard after ten seconds. Blocks.
    pub fn stop(self) {
        self.supervisor.stop();
    }
}

/// What a start would run in this directory; nothing is changed.
///
/// # Errors
/// Why it would not start, as far as that shows without trying.
pub fn survey(data_dir: &Path) -> Result<Binaries, PostgresError> {
    let found = Binaries::find(None).ok_or_else(PostgresError::no_binaries)?;
    directory::check_way(data_dir, &Owner::choose())?;
    let data = data_dir.join("postgres");
    let Some(version) = directory::version_of(&data)? else { return Ok(found) };
    match Binaries::find(Some(&version)) {
        Some(binaries) if binaries.major.to_string() == version => Ok(binaries),
        _ => Err(PostgresError::OtherMajor { path: data, found: version, installed: found.major }),
    }
}

/// The process that serves from this directory.
pub fn holder(data_dir: &Path) -> Option<String> {
    directory::holder(data_dir)
}

struct Connect {
    socket_dir: PathBuf,
}

impl Connect {
    fn url(&self, database: &str) -> String {
        let host: String = self
            .socket_dir
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .map(|&byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect();
        format!("postgresql://{ROLE}@/{database}?host={host}")
    }

    /// One connection for the few statements of the start, on a small runtime of its own.
    fn run<T>(
        &self,
        database: &str,
        work: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime
            .block_on(async {
                let (client, connection) = tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls).await?;
                let connection = tokio::spawn(connection);
                let result = work(&client).await;
                drop(client);
                // The connection ends by itself once its client is gone; its result says nothing new.
                let _ = connection.await;
                result
            })
            .map_err(|e| e.as_db_error().map_or_else(|| e.to_string(), |e| e.message().to_owned()))
    }
}

/// Ask until the server answers; say why when its process ends first.
fn wait_until_ready(connect: &Connect, supervisor: &Supervisor, directory: &Directory) -> Result<(), PostgresError> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let why = match connect.run("postgres", async |client| client.simple_query("SELECT 1").await) {
            Ok(_) => return Ok(()),
            Err(why) => why,
        };
        if supervisor.gave_up() {
            return Err(PostgresError::Start(directory.log_tail().unwrap_or(why)));
        }
        if Instant::now() > deadline {
            return Err(PostgresError::Start(format!("no answer in {} s: {why}", START_DEADLINE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// The database exists, and an acknowledged commit survives a power cut.
fn prepare_database(connect: &Connect, durable: bool) -> Result<(), PostgresError> {
    let setting = connect
        .run("postgres", async |client| {
            let exists = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&ROLE]).await?.is_some();
            if !exists {
                client.batch_execute(&format!("CREATE DATABASE {ROLE}")).await?;
            }
            let row = client
                .query_opt(
                    "SELECT name, setting FROM pg_settings
                     WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting <> 'on' LIMIT 1",
                    &[],
                )
                .await?;
            Ok(row.map(|row| (row.get::<_, String>(0), row.get::<_, String>(1))))
        })
        .map_err(PostgresError::Start)?;
    match setting {
        Some((setting, value)) if durable => Err(PostgresError::NotDurable { setting, value }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> tempfile::TempDir {
        // Not under the home directory of root: the user who runs PostgreSQL must be able to enter.
        let dir = tempfile::Builder::new().prefix("chat-pg").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        dir
    }

    fn count(cluster: &Cluster, statement: &'static str) -> i64 {
        let socket_dir = cluster._directory.socket_dir.clone();
        Connect { socket_dir }.run(ROLE, async move |client| Ok(client.query_one(statement, &[]).await?.get(0))).unwrap()
    }

    #[test]
    fn a_cluster_starts_twice_keeps_its_rows_and_survives_the_death_of_its_server() {
        let dir = temporary();
        let options = Options::new(dir.path().join("data"));
        let cluster = Cluster::start(&options).unwrap();
        assert_eq!(count(&cluster, "SELECT 1::bigint"), 1);
        let connect = Connect { socket_dir: cluster._directory.socket_dir.clone() };
        connect.run(ROLE, async |client| client.batch_execute("CREATE TABLE t AS SELECT 1 AS x").await).unwrap();

        let refused = Cluster::start(&options).err().unwrap();
        assert!(matches!(refused, PostgresError::InUse { ref pid, .. } if *pid == std::process::id().to_string()), "{refused}");

        // The server dies: it comes back by itself, with the row.
        let pid = cluster.pid().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        wait_until_ready(&connect, &cluster.supervisor, &cluster._directory).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while connect.run(ROLE, async |client| client.query_one("SELECT count(*) FROM t", &[]).await).is_err() {
            assert!(Instant::now() < deadline, "the server did not come back");
        }
        assert_eq!(count(&cluster, "SELECT count(*) FROM t"), 1);

        cluster.stop();
        let cluster = Cluster::start(&options).unwrap();
        assert_eq!(count(&cluster, "SELECT count(*) FROM t"), 1);
        cluster.stop();
    }

    #[test]
    fn the_log_repeats_no_values_and_stays_short_while_the_server_runs() {
        let dir = temporary();
        let cluster = Cluster::start(&Options::new(dir.path().join("data"))).unwrap();
        let connect = Connect { socket_dir: cluster._directory.socket_dir.clone() };
        let log = cluster._directory.log.clone();
        connect
            .run(ROLE, async |client| {
                client.batch_execute("CREATE TABLE t (name text PRIMARY KEY, body text CHECK (body <> 'x')); INSERT INTO t VALUES ('a heron', 'y')").await?;
                for wrong in ["INSERT INTO t VALUES ('a heron', 'y')", "INSERT INTO t VALUES ('a stork', 'x')", "SELECT 'a heron' FROM nowhere"] {
                    client.batch_execute(wrong).await.unwrap_err();
                }
                let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await?;
                client.execute(&insert, &[&"a heron", &"y"]).await.unwrap_err();
                client.batch_execute("SET statement_timeout = 10").await?;
                client.batch_execute("SELECT pg_sleep(60), 'a heron'").await.unwrap_err();
                Ok(())
            })
            .unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("duplicate key value") && text.contains("violates check constraint"), "{text}");
        assert!(!text.contains("heron") && !text.contains("stork"), "{text}");

        let mut appended = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        std::io::Write::write_all(&mut appended, &vec![b'\n'; 17 * 1024 * 1024]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::metadata(&log).unwrap().len() > 1024 * 1024 {
            assert!(Instant::now() < deadline, "the log stays long");
            std::thread::sleep(Duration::from_millis(10));
        }
        cluster.stop();
        assert!(std::fs::read_to_string(&log).unwrap().contains("database system is shut down"));
    }

    #[test]
    fn a_path_too_long_for_a_socket_gets_a_short_one() {
        let dir = temporary();
        let long = dir.path().join("d".repeat(60)).join("e".repeat(60));
        let cluster = Cluster::start(&Options::new(long)).unwrap();
        assert_eq!(count(&cluster, "SELECT 2::bigint"), 2);
        let socket_dir = cluster._directory.socket_dir.clone();
        cluster.stop();
        assert!(!socket_dir.exists(), "nothing stays in a shared place");
    }

    #[test]
    fn a_directory_of_another_major_version_is_refused_and_left_alone() {
        let dir = temporary();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("postgres")).unwrap();
        std::fs::write(data.join("postgres/PG_VERSION"), "9\n").unwrap();
        let refused = Cluster::start(&Options::new(&data)).err().unwrap();
        assert!(matches!(refused, PostgresError::OtherMajor { ref found, .. } if found == "9"), "{refused}");
        assert_eq!(std::fs::read_to_string(data.join("postgres/PG_VERSION")).unwrap(), "9\n");
    }
}
