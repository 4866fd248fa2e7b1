//! A real PostgreSQL for the tests: one cluster for the process, one migrated template, a clone of it for each test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use chat::server::db;
use chat::server::postgres::{Cluster, Options};

const TEMPLATE: &str = "template_chat";

/// A database of its own, migrated and empty; dropped with the value.
pub struct TestDatabase {
    pub url: String,
    /// None: it is somebody else's, and stays.
    name: Option<String>,
}

impl TestDatabase {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let statement = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
        tokio::task::spawn_blocking(move || administer(&statement)).await.unwrap();
        let url = shared().cluster.url_of(&name);
        Self { url, name: Some(name) }
    }

    /// One that is there already.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), name: None }
    }

    /// A statement of the test's own, for what no client can cause, such as time passing.
    pub async fn execute(&self, statement: &str) {
        self.client().await.batch_execute(statement).await.unwrap();
    }

    /// Everything in some tables, as text.
    pub async fn text_of(&self, tables: &[&str]) -> String {
        let mut all = String::new();
        for table in tables {
            all += &self.column(&format!("SELECT t::text FROM {table} t")).await.concat();
        }
        all
    }

    /// The one text column of a query.
    pub async fn column(&self, query: &str) -> Vec<String> {
        let messages = self.client().await.simple_query(query).await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        rows.collect()
    }

    /// A connection of the test's own.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// An outage of this database alone: connections break and new ones are refused, until it is called with `false`.
    pub async fn refuse_connections(&self, refuse: bool) {
        let name = self.name.as_ref().unwrap();
        let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", !refuse);
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        tokio::task::spawn_blocking(move || {
            administer(&allow);
            if refuse {
                administer(&end);
            }
        })
        .await
        .unwrap();
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(name) = &self.name else { return };
        let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        // Off the async threads, and without waiting: the next test does not need it gone.
        std::thread::spawn(move || administer(&statement));
    }
}

struct Shared {
    cluster: Cluster,
    // A template can be cloned by one at a time.
    turn: Mutex<()>,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        // The server is spawned from a thread of the supervisor, so it ends with this process, however that ends; what it
        // leaves on the disk is removed by the next run.
        remove_leftovers();
        let mut options = Options::new(folder(std::process::id()));
        options.durable = false;
        options.max_connections = 300;
        let cluster = Cluster::start(&options).unwrap();
        let shared = Shared { cluster, turn: Mutex::new(()) };
        execute(&shared, &format!("CREATE DATABASE {TEMPLATE}"));
        let url = shared.cluster.url_of(TEMPLATE);
        let migrate = move || tokio::runtime::Runtime::new().unwrap().block_on(db::migrate(&url)).unwrap();
        std::thread::spawn(migrate).join().unwrap();
        shared
    })
}

fn administer(statement: &str) {
    let shared = shared();
    let _turn = shared.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    execute(shared, statement);
}

fn execute(shared: &Shared, statement: &str) {
    let url = shared.cluster.url_of("postgres");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
        drop(client);
        let _ = connection.await;
    });
}

/// A place that the user who runs PostgreSQL can enter, whoever runs the tests.
fn folder(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("chat-test-postgres-{pid}"))
}

fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix("chat-test-postgres-")) else { continue };
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[tokio::test]
async fn each_test_has_a_migrated_database_of_its_own() {
    let (one, two) = (TestDatabase::new().await, TestDatabase::new().await);
    assert_ne!(one.url, two.url);
    let (client, connection) = tokio_postgres::connect(&two.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query_one("SELECT count(*) FROM users", &[]).await.unwrap().get::<_, i64>(0), 0);
}
