//! `chat demo` without a terminal: it holds what it claims, and whatever ends it, nothing of it goes on.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::binary::{BINARY, eventually, open_folder};

fn demo(folder: &TempDir) -> Child {
    let mut command = Command::new(BINARY);
    command.arg("demo").env("TMPDIR", folder.path()).env("HOME", folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// Waits until its server is up.
async fn served(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with("server ") {
            // Read on, so that the demonstration can.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return;
        }
    }
    panic!("it ended before there was a server");
}

/// Programs that were started with something in this folder.
fn programs_in(folder: &Path) -> usize {
    let folder = folder.as_os_str().as_encoded_bytes();
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes.filter(|line| line.windows(folder.len()).any(|part| part == folder)).count()
}

#[tokio::test]
async fn the_conversation_is_played_to_its_end_and_everything_held() {
    let folder = open_folder();
    let mut child = demo(&folder);
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reading = async { tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err), child.wait()) };
    let (_, _, status) = tokio::time::timeout(Duration::from_secs(240), reading).await.expect("the demonstration does not end");
    assert!(status.unwrap().success(), "{out}\n{err}");
    for line in ["Bob       decrypted from Alice: ", "it arrived exactly once at both", "none of the 13 texts", "everything held"]
    {
        assert!(out.contains(line), "no {line:?} in\n{out}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder is tidy");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_signal_ends_the_demonstration_with_its_server_and_its_folder() {
    for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129)] {
        let folder = open_folder();
        let mut child = demo(&folder);
        served(&mut child).await;
        kill_process(Pid::from_raw(child.id().unwrap().cast_signed()).unwrap(), signal).unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(code));
        eventually("the end of the server", async || (programs_in(folder.path()) == 0).then_some(())).await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder is tidy");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_demonstration_that_is_killed_leaves_no_server_behind() {
    let folder = open_folder();
    let mut child = demo(&folder);
    served(&mut child).await;
    child.kill().await.unwrap();
    eventually("the end of the server", async || (programs_in(folder.path()) == 0).then_some(())).await;
}
