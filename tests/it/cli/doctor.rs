//! `chat doctor --server`: what would keep a server from working is named before it starts, and nothing is changed by looking.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::people::{Home, Run, run};
use crate::support::binary::{Serve, free_port, open_folder};
use crate::support::database::TestDatabase;

fn config(listen: &str, data_dir: &Path, more: &str) -> String {
    format!("[server]\nlisten = \"{listen}\"\ndata_dir = \"{}\"\n{more}\n", data_dir.display())
}

async fn look(home: &Home, config: &str) -> Run {
    home.write("config.toml", config);
    home.run(&["doctor", "--server"]).await
}

/// The line of a check.
#[track_caller]
fn said(run: &Run, line: &str) {
    assert!(run.out.lines().any(|found| found.starts_with(line)), "no {line:?} in {run:?}");
}

#[tokio::test]
async fn a_server_that_can_start_gets_no_complaint_and_nothing_is_made() {
    let (home, folder) = (Home::new(), open_folder());
    let (data, listen) = (folder.path().join("data"), format!("127.0.0.1:{}", free_port()));
    let run = look(&home, &config(&listen, &data, "")).await;
    for line in ["configuration: readable", "data directory: ", "PostgreSQL: version ", "secret: ", "port: "] {
        said(&run, &format!("ok      {line}"));
    }
    // How full the disk is, is the machine's affair: only that it was looked at belongs here.
    assert!(run.out.contains(" disk space: "), "{run:?}");
    assert!(run.out.contains("will be made at the first start") && run.out.contains(&format!("{listen} is free")), "{run:?}");
    run.ok();
    assert!(!data.exists());
    let objects = home.run(&["doctor", "--server", "--json"]).await.objects();
    assert!(objects.iter().all(|check| check["type"] == "check" && check["result"] != "bad"), "{objects:?}");
}

#[tokio::test]
async fn what_keeps_a_server_from_working_is_named() {
    let (home, folder) = (Home::new(), open_folder());
    let data = folder.path().join("data");
    let free = format!("127.0.0.1:{}", free_port());

    let bad = look(&home, "[server]\nlisten = 5\n").await.refused(1, &["1 of 2 checks failed"]);
    said(&bad, "bad     configuration: ");

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let bad = look(&home, &config(&taken, &data, "")).await.refused(1, &["1 of "]);
    said(&bad, &format!("bad     port: another program uses {taken}"));
    let bad = look(&home, &config("192.0.2.1:8008", &data, "")).await.refused(1, &[]);
    said(&bad, "bad     port: cannot listen on 192.0.2.1:8008");
    let warned = look(&home, &config(&format!("0.0.0.0:{}", free_port()), &data, "")).await;
    said(&warned, "warning encryption: ");
    warned.ok();

    std::fs::write(folder.path().join("file"), "").unwrap();
    let bad = look(&home, &config(&free, &folder.path().join("file"), "")).await.refused(1, &[]);
    said(&bad, "bad     data directory: ");

    std::fs::create_dir_all(data.join("postgres")).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(data.join("secret"), "x").unwrap();
    std::fs::set_permissions(data.join("secret"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(data.join("postgres/PG_VERSION"), "9\n").unwrap();
    let bad = look(&home, &config(&free, &data, "")).await.refused(1, &["2 of "]);
    said(&bad, "bad     secret: ");
    said(&bad, "bad     PostgreSQL: the cluster in ");
    said(&bad, "warning data directory: ");
    let mut command = home.command(&["doctor", "--server"]);
    command.env("CHAT_PG_BINDIR", folder.path());
    said(&run(command, "").await, "bad     PostgreSQL: CHAT_PG_BINDIR is ");

    // As many files as connections must be allowed.
    let template = home.command(&[]);
    let mut command = std::process::Command::new("sh");
    command.env_clear().envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["-c", "ulimit -n 200; exec \"$0\" doctor --server", crate::support::binary::BINARY]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    said(&run(command, "").await, "warning open files: at most 200");
}

#[tokio::test]
async fn a_database_of_ones_own_is_looked_at_without_being_changed() {
    let (home, folder) = (Home::new(), open_folder());
    let data = folder.path().join("data");
    let with = |url: &str| config(&format!("127.0.0.1:{}", free_port()), &data, &format!("[server.database]\nurl = \"{url}\""));
    let url = format!("postgres://chat:hunter2@127.0.0.1:{}/rows", free_port());
    let bad = look(&home, &with(&url)).await.refused(1, &["1 of "]);
    said(&bad, "bad     database: cannot connect to the database rows on 127.0.0.1:");
    assert!(!bad.all().contains("hunter2"), "{bad:?}");

    let database = TestDatabase::new().await;
    let good = look(&home, &with(&database.url)).await;
    said(&good, "ok      database: PostgreSQL ");
    said(&good, "ok      clock: within ");
    assert!(good.ok().contains("its schema is up to date"));
    database
        .execute("DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)")
        .await;
    assert!(look(&home, &with(&database.url)).await.ok().contains("1 migrations will be applied"));
    database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101')").await;
    said(&look(&home, &with(&database.url)).await.refused(1, &[]), "bad     database: the database has migration 99990101");
    database.execute("DROP TABLE __diesel_schema_migrations").await;
    look(&home, &with(&database.url)).await.ok();
    assert!(database.column("SELECT to_regclass('__diesel_schema_migrations')::text").await.concat().is_empty(), "left alone");
}

#[tokio::test]
async fn a_server_that_runs_is_recognised() {
    let server = Serve::start().await;
    let home = Home::new();
    let run = look(&home, &config(&server.address(), &server.data_dir(), "")).await;
    said(
        &run,
        &format!("ok      port: chat {} answers on {} (process {})", env!("CARGO_PKG_VERSION"), server.address(), server.pid()),
    );
    run.ok();
    assert_eq!(server.status("/ready").await, Some(200));
}
