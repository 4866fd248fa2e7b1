//! What a terminal does to a program, and how the program leaves it.

use std::time::{Duration, Instant};

use chat::tui::terminal::Screen;
use portable_pty::CommandBuilder;
use rustix::process::Signal;

use crate::cli::people::{Home, Two};
use crate::support::binary::BINARY;
use crate::support::pty::{Shown, Term};
use crate::support::server::TestServer;

/// The panes are drawn to the last row and column.
fn fills(shown: &Shown, columns: usize, rows: usize) -> bool {
    let lines: Vec<&str> = shown.text.lines().collect();
    let rule = lines.get(1).is_some_and(|rule| rule.chars().count() == columns && rule.starts_with('─'));
    let status = lines.get(rows - 1).is_some_and(|status| status.contains("COMPOSE"));
    lines.len() == rows && rule && status && shown.has("write to # ops")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sizes_down_to_one_cell_ends_in_a_whole_screen() {
    let two = Two::new().await;
    let mut term = Term::tui(&two.alice, 80, 24);
    term.waits("80x24", |shown| fills(shown, 80, 24));
    for (columns, rows) in [(1, 1), (200, 50), (1, 50), (200, 1), (19, 4), (20, 5), (3, 3), (132, 34), (0, 0), (80, 2), (2, 80)] {
        for more in 0..8 {
            term.resize(columns + more, rows + more);
        }
        term.resize(columns, rows);
    }
    term.resize(1, 1);
    term.waits("one cell", |shown| shown.text.trim() == "t");
    term.resize(200, 50);
    term.waits("200x50", |shown| fills(shown, 200, 50));
    term.resize(80, 24);
    term.waits("80x24 again", |shown| fills(shown, 80, 24));
    term.keys("'seen'").sees("seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paste_is_one_insert_that_is_neither_sent_nor_obeyed_nor_drawn_raw() {
    let two = Two::new().await;
    let mut term = Term::tui(&two.alice, 80, 24);
    let title = term.waits("the channel", |shown| shown.has("online") && shown.has("write to # ops")).title;
    let many: String = (1..=300).map(|n| format!("line {n} \x1b[31mred\x1b]0;owned\x07\r\n")).collect();
    term.paste(&format!("/leave\r{many}last"));
    let shown = term.waits("the end of the paste", |shown| shown.has("line 300") && shown.has("last"));
    assert!(shown.has("line 300 ␛[31mred␛]0;owned␇") && shown.title == title, "{shown}");
    assert!(!shown.has("✓") && !shown.has("waits") && !shown.has("Leave acme?"), "{shown}");
    term.keys("ctrl-c").sees("write to # ops");
    // What was cleared comes back, and a short one is sent whole.
    term.keys("ctrl-y").sees("line 300");
    term.keys("ctrl-c").sees("write to # ops");
    term.paste("first\r\n\r\n\x1b[2Jthird\x07").sees("third␇");
    term.keys("enter");
    let sent = term.waits("the message", |shown| shown.has("write to # ops") && shown.has("✓"));
    assert!(sent.has(" first") && sent.has("␛[2Jthird␇"), "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_and_a_hang_up_end_it_with_the_terminal_restored_and_the_draft_saved() {
    let two = Two::new().await;
    let mut draft = String::new();
    for (typed, signal, code) in [("half", Some(Signal::TERM), 143), (" of", Some(Signal::HUP), 129), (" it", None, 129)] {
        let mut term = Term::tui(&two.alice, 80, 24);
        term.sees(if draft.is_empty() { "write to # ops" } else { &draft });
        draft += typed;
        // Ended at once, before the draft is saved by itself.
        term.keys(&format!("'{typed}'")).sees(&draft);
        match signal {
            Some(signal) => term.signal(signal),
            None => term.hang_up(),
        }
        let (ended, left) = term.ended();
        assert_eq!(ended, code, "{left}");
        // Nobody can restore a terminal that is gone.
        assert!(signal.is_none() || left.is_restored(), "{left}");
    }
    let mut term = Term::tui(&two.alice, 80, 24);
    term.sees("half of it");
    // Ctrl-C takes one thing at a time, and leaves when there is nothing left to take.
    term.keys("ctrl-c").sees("write to # ops");
    term.keys("ctrl-c").sees("Ctrl-C again leaves chat");
    term.keys("ctrl-c");
    let (code, left) = term.ended();
    assert!(code == 0 && left.is_restored(), "{code} {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_dies_without_a_signal_ends_it_at_once() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "ana").await;
    // In a session of its own it does not belong to the terminal, so nobody tells it that the terminal is gone.
    let script = format!("trap '' HUP; setsid -w {BINARY} tui; echo $? > code");
    let mut term = Term::run(&home, &["sh", "-c", &script], 80, 24);
    term.sees("you are in no community yet");
    let since = Instant::now();
    term.hang_up();
    term.ended();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(std::fs::read_to_string(home.path("code")).unwrap().trim(), "129");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_client_gives_the_shell_its_terminal_and_draws_again_when_it_comes_back() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "ana").await;
    let mut term = Term::run(&home, &["env", "PS1=ready> ", "bash", "--norc", "--noprofile", "-i"], 80, 24);
    term.sees("ready> ");
    term.keys(&format!("'{BINARY} tui' enter"));
    let on = |shown: &Shown| shown.alternate && shown.has("you are in no community yet") && shown.has("online");
    term.waits("the client", on);
    term.keys("ctrl-z");
    // The shell's own editor asks for bracketed pastes at its prompt.
    let shell = |shown: &Shown| !shown.alternate && !shown.cursor_hidden && shown.text.trim_end().ends_with("ready>");
    term.waits("the shell", |shown| shell(shown) && shown.has("Stopped"));
    term.keys("'echo shell-$((6*7))' enter").sees("shell-42");
    // A stopped program hears of no size.
    term.resize(120, 30);
    term.keys("'fg' enter");
    term.waits("the client again", |shown| on(shown) && shown.text.lines().count() == 30);
    // Stopped from outside, as by `kill -TSTP`.
    let children = format!("/proc/{0}/task/{0}/children", term.pid().as_raw_nonzero());
    let client = std::fs::read_to_string(children).unwrap();
    let client = rustix::process::Pid::from_raw(client.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(client, Signal::TSTP).unwrap();
    term.waits("the shell again", |shown| shell(shown) && shown.count("Stopped") == 2);
    term.keys("'fg' enter");
    term.waits("the client once more", on);
    term.keys("ctrl-q");
    term.waits("the shell at the end", shell);
    term.keys("'echo code-$?' enter").sees("code-0");
}

/// The test is its own child: there it takes the terminal over as the client does, and panics beside it.
#[test]
fn a_panic_in_any_thread_restores_the_terminal_and_says_why() {
    const CHILD: &str = "CHAT_TEST_PANICS";
    const WORDS: &str = "the words of the panic";
    if std::env::var_os(CHILD).is_some() {
        let _screen = Screen::open().unwrap();
        let _ = std::thread::spawn(|| panic!("{WORDS}")).join();
        unreachable!("a panic ends the process");
    }
    let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
    let name = "tui::terminal::a_panic_in_any_thread_restores_the_terminal_and_says_why";
    command.args(["--exact", name, "--nocapture"]);
    command.env(CHILD, "1");
    command.env("TERM", "xterm-256color");
    let mut term = Term::spawn(command, 80, 24);
    let (code, left) = term.ended();
    assert!(code == 101 && left.is_restored(), "{code} {left}");
    assert!(left.has(WORDS) && !left.has("test result"), "{left}");
}
