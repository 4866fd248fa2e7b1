//! The database as the server finds it: new, old, newer, away, or shared with another server that starts at the same time.

use std::collections::BTreeMap;

use chat::config::Config;
use chat::server::{self, db};
use tokio::net::TcpListener;

use crate::support::database::TestDatabase;

#[tokio::test]
async fn every_migration_can_be_undone_and_done_again() {
    let database = TestDatabase::new().await;
    let before = columns(&database).await;
    db::revert_all(&database.url).await.unwrap();
    let empty = columns(&database).await;
    assert!(empty.keys().all(|table| table.starts_with("__diesel")), "{:?}", empty.keys());
    let functions = database.column("SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace").await;
    assert_eq!(functions, Vec::<String>::new());
    db::migrate(&database.url).await.unwrap();
    assert_eq!(columns(&database).await, before);
    // Nothing to do is fine.
    db::migrate(&database.url).await.unwrap();
}

#[tokio::test]
async fn servers_that_start_at_the_same_time_migrate_once() {
    let database = TestDatabase::new().await;
    let before = columns(&database).await;
    db::revert_all(&database.url).await.unwrap();
    let all = futures_util::future::join_all((0..4).map(|_| db::migrate(&database.url))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(columns(&database).await, before);
}

#[tokio::test]
async fn a_newer_schema_and_a_database_that_is_away_are_clear_errors() {
    let database = TestDatabase::new().await;
    database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('999')").await;
    let error = start(&database.url).await;
    assert!(error.contains("migration 999") && error.contains("newer chat"), "{error}");
    let error = start("postgres://chat:secret-of-the-test@127.0.0.1:1/chat").await;
    assert!(error.contains("cannot connect to the database"), "{error}");
    assert!(!error.contains("secret-of-the-test"), "{error}");
}

async fn start(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.data_dir = folder.path().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("{:#}", server::serve(config, url, listener, std::future::pending()).await.unwrap_err())
}

#[tokio::test]
async fn schema_rs_says_what_the_database_has() {
    let database = TestDatabase::new().await;
    let mut found = columns(&database).await;
    found.retain(|table, _| !table.starts_with("__diesel"));
    let mut said: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/db/schema.rs")).unwrap();
    for table in text.split("diesel::table! {").skip(1) {
        let (head, body) = table.split_once(") {").unwrap();
        let name = head.trim().split_once(' ').unwrap().0.to_owned();
        let lines = body.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" -> "));
        said.insert(name, lines.map(|(column, kind)| (column.to_owned(), kind.to_owned())).collect());
    }
    assert_eq!(said.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (table, columns) in found {
        assert_eq!(said[&table], columns, "{table}");
    }
}

/// Tables with their columns, each with its type as diesel writes it.
async fn columns(database: &TestDatabase) -> BTreeMap<String, BTreeMap<String, String>> {
    let rows = database
        .column(
            "SELECT table_name || ' ' || column_name || ' ' || udt_name || ' ' || is_nullable
             FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
        )
        .await;
    let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for row in rows {
        let [table, column, kind, nullable] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let kind = match kind {
            "_uuid" => "Array<Uuid>".to_owned(),
            kind => kind[..1].to_uppercase() + &kind[1..],
        };
        let kind = if nullable == "YES" { format!("Nullable<{kind}>") } else { kind };
        tables.entry(table.to_owned()).or_default().insert(column.to_owned(), kind);
    }
    tables
}

#[tokio::test]
async fn every_reference_has_an_index_that_serves_it() {
    let database = TestDatabase::new().await;
    let without = database
        .column(
            "SELECT c.conrelid::regclass || ' (' || c.conname || ')' FROM pg_constraint c
             WHERE c.contype = 'f' AND NOT EXISTS (
                 SELECT FROM pg_index i WHERE i.indrelid = c.conrelid
                 AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)",
        )
        .await;
    assert_eq!(without, Vec::<String>::new());
}
