//! `chat serve` as a process: it starts only when it can serve, says why when it cannot, and comes back from everything that
//! ends it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::Instant;

use super::people::{Home, Run};
use crate::support::binary::{BINARY, DEADLINE, Serve, eventually, free_port, open_folder};
use crate::support::database::TestDatabase;

/// `chat serve` in this folder, on a free port.
fn serve(folder: &Path) -> Command {
    serve_at("127.0.0.1:0", folder, &folder.join("data"))
}

fn serve_at(listen: &str, folder: &Path, data_dir: &Path) -> Command {
    std::fs::write(folder.join("chat.toml"), "").unwrap();
    let mut command = Command::new(BINARY);
    command.args(["serve", "--listen", listen, "--data-dir"]).arg(data_dir);
    command.env("CHAT_CONFIG", folder.join("chat.toml")).env_remove("DATABASE_URL");
    command
}

/// Runs it to its end, which must come.
async fn run(command: &mut Command) -> Run {
    let output = tokio::time::timeout(DEADLINE, command.kill_on_drop(true).output()).await;
    Run::of(output.unwrap_or_else(|_| panic!("{command:?} does not end")).unwrap())
}

const DATABASE_URL: &str = "CHAT__SERVER__DATABASE__URL";

#[tokio::test]
async fn a_server_that_is_killed_comes_back_with_everything_it_acknowledged() {
    let mut server = Serve::start().await;
    let (alice, other) = (Home::new(), Home::new());
    alice.run(&["register", &server.address(), "--username", "alice"]).await.ok();
    let first = server.postgres().unwrap();
    // At once: the old PostgreSQL is still stopping.
    server.kill().await;
    server.restart().await;
    assert_ne!(server.postgres().unwrap(), first);
    other.run(&["login", &server.address(), "--username", "alice"]).await.refused(4, &["has a device already"]);
    other.run(&["register", &server.address(), "--username", "alice"]).await.refused(2, &["taken"]);
    alice.run(&["channels"]).await.ok();
    // Killed before it is ready.
    server.kill().await;
    server.spawn();
    server.kill().await;
    server.restart().await;
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn sigterm_drains_stops_postgresql_and_ends_well_within_fifteen_seconds() {
    let mut server = Serve::start().await;
    let postgres = server.postgres().unwrap();
    let begun = Instant::now();
    assert!(server.terminate().await.success(), "{}", server.log());
    assert!(begun.elapsed().as_secs() < 15);
    assert!(!Path::new(&format!("/proc/{}", postgres.as_raw_nonzero())).exists(), "PostgreSQL still runs");
    assert!(server.status("/health").await.is_none());
    // PostgreSQL was shut down, not cut off: the next start recovers nothing.
    server.restart().await;
    let log = std::fs::read_to_string(server.data_dir().join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down") && !log.contains("was not properly shut down"), "{log}");
}

#[tokio::test]
async fn a_signal_during_the_start_ends_it() {
    let mut server = Serve::prepared(|_| {});
    server.spawn();
    eventually("the lock of the starting server", async || server.data_dir().join("chat.lock").exists().then_some(())).await;
    assert!(server.terminate().await.success(), "{}", server.log());
    server.restart().await;
}

#[tokio::test]
async fn the_death_of_postgresql_is_503_until_it_is_back() {
    let server = Serve::start().await;
    let first = server.postgres().unwrap();
    // Stopped first, so that nothing restarts while we look: the outage is as long as we want it.
    kill_process(first, Signal::STOP).unwrap();
    eventually("503 of /ready", async || {
        // Again each time: it may have been about to fork when the signal came.
        for backend in children_of(first) {
            kill_process(backend, Signal::KILL).unwrap();
        }
        (server.status("/ready").await == Some(503)).then_some(())
    })
    .await;
    assert_eq!(server.status("/health").await, Some(200));
    kill_process(first, Signal::KILL).unwrap();
    eventually("/ready again", async || (server.status("/ready").await == Some(200)).then_some(())).await;
    assert!(server.postgres().is_some_and(|now| now != first));
}

/// The processes whose parent this is; those that ended stay in the list, because a stopped parent does not bury them.
fn children_of(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[tokio::test]
async fn one_data_directory_and_one_port_have_one_server() {
    let server = Serve::start().await;
    let folder = open_folder();
    let refused = run(&mut serve_at("127.0.0.1:0", folder.path(), &server.data_dir())).await;
    refused.refused(1, &["is used by another chat serve", &format!("(process {})", server.pid()), "--data-dir"]);
    let refused = run(&mut serve_at(&server.address(), folder.path(), &folder.path().join("data"))).await;
    refused.refused(1, &[&format!("cannot listen on {}", server.address()), "--listen"]);
    assert!(!folder.path().join("data").exists(), "nothing is made for a server that cannot listen");
    assert_eq!(server.status("/ready").await, Some(200));
}

#[tokio::test]
async fn without_postgresql_the_packages_are_named() {
    let folder = open_folder();
    let refused = run(serve(folder.path()).env("PATH", "").env("CHAT_PG_BINDIR", folder.path())).await;
    refused.refused(1, &["CHAT_PG_BINDIR is ", "no PostgreSQL server (version 15 or newer)", "server.database.url"]);
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn an_empty_path_does_not_hide_an_installed_postgresql() {
    let folder = open_folder();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    // Far enough to know that it was found, without making a cluster.
    std::fs::create_dir(folder.path().join("data/postgres")).unwrap();
    std::fs::write(folder.path().join("data/postgres/PG_VERSION"), "9\n").unwrap();
    let refused = run(serve(folder.path()).env("PATH", "").env_remove("CHAT_PG_BINDIR")).await;
    refused.refused(1, &["was made by PostgreSQL 9", "pg_upgrade"]);
    assert_eq!(std::fs::read_to_string(folder.path().join("data/postgres/PG_VERSION")).unwrap(), "9\n", "left alone");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named_and_nothing_is_made_in_it() {
    let folder = open_folder();
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    let as_root = std::fs::metadata(&closed).unwrap().uid() == 0;
    let refused = run(&mut serve_at("127.0.0.1:0", folder.path(), &closed.join("data"))).await;
    if as_root {
        let says = format!("{} cannot be entered by the user ", closed.display());
        refused.refused(1, &[&says, "who runs PostgreSQL because root must not", "/var/lib/chat"]);
    } else {
        refused.refused(1, &["cannot create", "Permission denied"]);
    }
    assert!(!closed.join("data").exists());
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let folder = open_folder();
    let port = free_port();
    for (url, says) in [
        (format!("postgres://chat:hunter2@127.0.0.1:{port}/rows"), format!("rows on 127.0.0.1:{port}: Connection refused")),
        ("postgres://chat:hunter2@/rows?host=%2Fnonexistent".to_owned(), "rows on /nonexistent:5432: No such file".to_owned()),
        ("postgres://chat:hun?ter2@db:x/rows".to_owned(), "server.database.url is not a PostgreSQL URL".to_owned()),
    ] {
        let refused = run(serve(folder.path()).env(DATABASE_URL, &url)).await.refused(1, &[&says]);
        assert!(!refused.all().contains("hunter2") && !refused.all().contains("ter2@"), "{refused:?}");
    }
    let database = TestDatabase::new().await;
    let gone = database.url.replacen("/test_", "/gone_", 1);
    run(serve(folder.path()).env(DATABASE_URL, gone)).await.refused(1, &["cannot connect", "does not exist"]);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let database = TestDatabase::new().await;
    let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101')").await.unwrap();
    let count = "SELECT count(*) FROM __diesel_schema_migrations";
    let before: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    let folder = open_folder();
    let refused = run(serve(folder.path()).env(DATABASE_URL, &database.url)).await;
    refused.refused(1, &["migration 99990101", "belongs to a newer chat"]);
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), before);
}

#[tokio::test]
async fn too_few_open_files_for_the_connections_are_warned_of_and_enough_are_not() {
    let folder = open_folder();
    std::fs::write(folder.path().join("chat.toml"), "").unwrap();
    let with = async |connections: &str| {
        let mut command = Command::new("sh");
        // Both limits: the server raises the soft one as far as it may.
        command.args(["-c", "ulimit -n 600; exec \"$0\" serve --listen 127.0.0.1:0", BINARY]);
        command.env("CHAT_CONFIG", folder.path().join("chat.toml")).env("CHAT__SERVER__LIMITS__CONNECTIONS", connections);
        // It ends after the warning, because there is no database.
        run(command.env(DATABASE_URL, "postgres://chat@/rows?host=%2Fnonexistent")).await
    };
    let warning = "fewer files may be open than server.limits.connections needs";
    with("500").await.refused(1, &[warning, "\"allowed\":600", "\"wanted\":644", "LimitNOFILE"]);
    assert!(!with("300").await.refused(1, &[]).all().contains(warning));
}

#[tokio::test]
async fn a_restored_database_gets_a_new_epoch_once_and_keeps_it() {
    let database = TestDatabase::new().await;
    let epoch = async || database.column("SELECT epoch::text FROM instance").await;
    let url = database.url.clone();
    let start = async |restored: bool| {
        let url = url.clone();
        let mut server = Serve::start_with(move |command| {
            command.env(DATABASE_URL, &url).args(restored.then_some("--restored"));
        })
        .await;
        assert!(server.terminate().await.success(), "{}", server.log());
    };
    let before = epoch().await;
    start(true).await;
    let after = epoch().await;
    assert_ne!(before, after);
    start(false).await;
    assert_eq!(epoch().await, after);
}
