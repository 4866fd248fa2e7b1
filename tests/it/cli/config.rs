//! A wrong configuration is named with its place before anything starts, and its exit code tells a service manager not to
//! try again.

use super::people::{Home, Run, run};

/// `EX_CONFIG`
const WRONG: i32 = 78;

async fn check(home: &Home, text: &str) -> Run {
    home.write("config.toml", text);
    home.run(&["serve", "--check-config"]).await
}

async fn check_variable(home: &Home, name: &str, value: &std::ffi::OsStr) -> Run {
    let mut command = home.command(&["serve", "--check-config"]);
    command.env(name, value);
    run(command, "").await
}

#[tokio::test]
async fn the_example_is_a_configuration() {
    let home = Home::new();
    assert_eq!(check(&home, include_str!("../../../config.example.toml")).await.ok(), "");
    assert!(!home.path("data").exists(), "a check leaves nothing behind");
}

#[tokio::test]
async fn an_unknown_key_is_named_with_file_line_column_and_the_nearest_right_key() {
    let home = Home::new();
    let place = |line, column| format!("{}:{line}:{column}: ", home.path("config.toml").display());
    let refused = check(&home, "[server]\nname = \"x\"\n  regstration = \"open\"\n").await;
    refused.refused(WRONG, &[&place(3, 3), "unknown key `regstration`, did you mean `registration`?"]);
    let refused = check(&home, "[sever]\n").await;
    refused.refused(WRONG, &[&place(1, 2), "unknown key `sever`, did you mean `server`?"]);
    let refused = check(&home, "listen = \"127.0.0.1:1\"\n").await;
    refused.refused(WRONG, &[&place(1, 1), "did you mean `server.listen`?"]);
    let refused = check(&home, "[server.database]\nhost = \"db\"\n").await;
    refused.refused(WRONG, &[&place(2, 1), "unknown key `host`; the keys here are: url, url_file, pool_size"]);
}

#[tokio::test]
async fn a_bad_value_is_named_with_its_place() {
    let home = Home::new();
    let place = |line, column| format!("config.toml:{line}:{column}: ");
    for (text, line, column, says) in [
        ("[server]\ndrain_timeout_s = \"soon\"\n", 2, 19, "invalid type: string \"soon\""),
        ("[server]\ndrain_timeout_s = 0\n", 2, 19, "server.drain_timeout_s: is 0, must be between 1 and 300"),
        ("[server]\nlisten = \"8008\"\n", 2, 10, "server.listen: `8008` is not an address and a port"),
        ("[server]\nregistration = \"opne\"\n", 2, 16, "unknown variant `opne`, expected one of `open`, `invite`, `closed`"),
        ("[server.log]\nlevel = \"inof\"\n", 2, 9, "server.log.level: `inof` is not a log level"),
        ("[server]\ntrusted_proxies = [\"proxy\"]\n", 2, 20, "invalid"),
        ("[server.database]\nurl = \"mysql://a\"\n", 2, 7, "server.database.url: must start with postgres://"),
        ("[server.database]\nurl_file = \"/nonexistent/url\"\n", 2, 12, "cannot read /nonexistent/url"),
        ("[server]\nname = \"x\nlisten = 1\n", 2, 10, "invalid basic string"),
        ("[server]\nname = \"x\"\nname = \"y\"\n", 3, 1, "duplicate key"),
    ] {
        check(&home, text).await.refused(WRONG, &[&place(line, column), says]);
    }
    home.write("config.toml", "");
    std::fs::write(home.path("config.toml"), b"name = \"\xff\"\n").unwrap();
    home.run(&["serve", "--check-config"]).await.refused(WRONG, &["config.toml", "UTF-8"]);
}

#[tokio::test]
async fn errors_of_the_environment_and_of_flags_name_the_variable_and_the_flag() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = Home::new();
    for (name, value, says) in [
        ("CHAT__SERVER__LISTN", "x", "CHAT__SERVER__LISTN: unknown key `listn`, did you mean `listen`?"),
        ("CHAT__SERVER__DATABASE__POOL_SIZE", "many", "CHAT__SERVER__DATABASE__POOL_SIZE: invalid type: string \"many\""),
        ("CHAT__SERVER__DATABASE__POOL_SIZE", "0", "CHAT__SERVER__DATABASE__POOL_SIZE: is 0, must be between 2 and 1000"),
        ("DATABASE_URL", "sqlite://x", "DATABASE_URL: must start with postgres://"),
    ] {
        check_variable(&home, name, value.as_ref()).await.refused(WRONG, &[says]);
    }
    let not_text = std::ffi::OsStr::from_bytes(b"\xff");
    check_variable(&home, "CHAT__SERVER__NAME", not_text).await.refused(WRONG, &["CHAT__SERVER__NAME: is not UTF-8"]);

    let refused = home.run(&["serve", "--check-config", "--listen", "nonsense"]).await;
    refused.refused(WRONG, &["--listen: `nonsense` is not an address and a port, such as 127.0.0.1:8008"]);
    home.run(&["serve", "--registration", "opn"]).await.refused(2, &["--registration", "open, invite, closed"]);
    home.run(&["serve", "--lissten", "x"]).await.refused(2, &["--lissten", "--listen"]);
    home.run(&["--config", "nowhere.toml", "serve"]).await.refused(WRONG, &["cannot read nowhere.toml"]);
    // The client's half of the same file.
    home.write("config.toml", "[client]\nsever = \"x\"\n");
    home.run(&["register"]).await.refused(WRONG, &["config.toml:2:1: unknown key `sever`, did you mean `server`?"]);
}

#[tokio::test]
async fn no_error_repeats_a_password_or_an_escape_sequence() {
    let home = Home::new();
    for text in [
        "[server]\ndatabase = \"postgres://chat:hunter2@db/chat\"\n",
        "[server.database]\nurl = \"mysql://chat:hunter2@db/chat\"\n",
        "[server.database]\npool_size = \"postgres://chat:hunter2@db/chat\"\n",
    ] {
        let refused = check(&home, text).await.refused(WRONG, &["config.toml:2:"]);
        assert!(!refused.all().contains("hunter2"), "{refused:?}");
    }
    let refused = check(&home, "[server]\n\"na\\u001b[31mme\\u202e\" = 1\n").await.refused(WRONG, &["unknown key"]);
    assert!(!refused.err.contains(['\u{1b}', '\u{202e}']), "{refused:?}");
    for hostile in ["\u{1b}[31msend", "se\u{9b}31mnd", "\u{202e}dnes"] {
        for arguments in [&[hostile][..], &["--json", hostile], &["serve", hostile], &["serve", "--registration", hostile]] {
            let refused = home.run(arguments).await.refused(2, &[]);
            assert!(!refused.err.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn errors_are_objects_with_json() {
    let home = Home::new();
    home.write("config.toml", "[server]\nnames = 1\n");
    let refused = home.run(&["--json", "serve", "--check-config"]).await.refused(WRONG, &[]);
    let error: serde_json::Value = serde_json::from_str(&refused.err).unwrap();
    assert_eq!(
        (&error["v"], &error["type"], &error["code"], &error["exit"]),
        (&1.into(), &"error".into(), &"config".into(), &78.into())
    );
    assert!(error["message"].as_str().unwrap().contains("did you mean `name`?"));
}
