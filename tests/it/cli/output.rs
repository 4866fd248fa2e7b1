//! What reaches standard output and standard error, and with which exit code.

use serde_json::json;

use super::people::Home;

#[tokio::test]
async fn help_and_version_are_answers() {
    let home = Home::new();
    for arguments in [&["--help"][..], &["help"], &["send", "--help"], &["--version"], &["version"]] {
        let run = home.run(arguments).await;
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{arguments:?}");
        assert!(!run.out.is_empty());
    }
    let version = home.run(&["version", "--json"]).await.objects();
    assert_eq!(version, [json!({ "v": 1, "type": "version", "version": env!("CARGO_PKG_VERSION"), "protocol": 1 })]);
}

#[tokio::test]
async fn a_wrong_call_is_exit_2_with_a_hint_on_standard_error() {
    let home = Home::new();
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["send"],
        &["send", "nowhere", "text"],
        &["send", "#ops", "text", "--timeout", "0"],
        &["tail", "--since", "yesterday"],
        &["read", "#ops", "-n", "many"],
        &["status", "--profile", "../other"],
    ] {
        let run = home.run(arguments).await;
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments:?}: {}", run.err);
        assert!(run.err.len() > 10, "{arguments:?}");
    }
    let run = home.run(&["send", "nowhere", "text", "--json"]).await;
    assert_eq!(run.code, 2);
    assert_eq!((&run.error()["type"], &run.error()["code"], &run.error()["exit"]), (&json!("error"), &json!("usage"), &json!(2)));
}

#[tokio::test]
async fn without_an_account_every_command_says_how_to_get_one() {
    let home = Home::new();
    for arguments in
        [&["send", "#ops", "text"][..], &["tail"], &["read", "#ops"], &["channels"], &["status"], &["logout"], &["search", "x"]]
    {
        let run = home.run(arguments).await;
        assert_eq!((run.code, run.out.as_str()), (4, ""), "{arguments:?}: {}", run.err);
        assert!(run.err.contains("chat register"), "{arguments:?}: {}", run.err);
        let quiet = home.run(&[arguments, &["--quiet"]].concat()).await;
        assert_eq!(quiet.err.lines().count(), 1, "the hint is not said: {}", quiet.err);
    }
    let run = home.run(&["channels", "--json"]).await;
    assert_eq!((&run.error()["v"], &run.error()["code"], &run.error()["exit"]), (&json!(1), &json!("auth"), &json!(4)));
}

#[tokio::test]
async fn doctor_says_where_nothing_can_be_written() {
    let home = Home::new();
    home.write("file", "");
    let mut command = home.command(&["doctor"]);
    command.env("CHAT_DATA_DIR", home.path("file").join("below"));
    let run = super::people::run(command, "").await.refused(1, &["checks failed"]);
    assert!(run.out.contains("bad     directory: ") && run.out.contains("is no directory"), "{run:?}");
}

#[tokio::test]
async fn completions_exist_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]).await.ok();
        assert!(script.contains("tail") && script.contains("no-input"), "{shell}");
    }
}

#[tokio::test]
async fn a_wrong_configuration_names_its_line() {
    let home = Home::new();
    let file = home.path("wrong.toml");
    std::fs::write(&file, "[client]\nservr = \"x\"\n").unwrap();
    let run = home.run(&["register", "--config", file.to_str().unwrap()]).await;
    assert_eq!(run.code, 78, "{}", run.err);
    assert!(run.err.contains("wrong.toml:2:") && run.err.contains("servr"), "{}", run.err);
}

#[tokio::test]
async fn doctor_looks_without_changing_anything() {
    let home = Home::new();
    let run = home.run(&["doctor", "--json"]).await;
    let checks: Vec<String> = run.objects().iter().map(|check| check["check"].as_str().unwrap().to_owned()).collect();
    assert!(checks.iter().any(|check| check == "profile"), "{checks:?}");
    assert!(!home.path("data").exists());
}
