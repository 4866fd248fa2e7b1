//! Questions, at a real terminal: asked when somebody is there, never with `--no-input`, and what is secret is not shown.

use super::people::{Home, PASSPHRASE};
use crate::support::account::PASSWORD;
use crate::support::binary::BINARY;
use crate::support::pty::Term;
use crate::support::server::TestServer;

fn at_a_terminal(home: &Home, arguments: &[&str]) -> Term {
    Term::by_keyboard(home, &[&[BINARY], arguments].concat(), 200, 24)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_asks_nothing_also_at_a_terminal() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "alice").await;
    let (other, url) = (Home::new(), server.url(""));
    for (home, arguments, code, hint) in [
        (&other, &["register", "--no-input"][..], 2, "Give its address as the argument"),
        (&other, &["register", &url, "--no-input"], 2, "--username"),
        (&other, &["register", &url, "--username", "bob", "--no-input"], 2, "--password-file"),
        (
            &other,
            &["register", &url, "--username", "bob", "--password-file", "password", "--no-input"],
            2,
            "CHAT_PASSPHRASE_FILE",
        ),
        (&other, &["login", &url, "--username", "alice", "--no-input"], 2, "--password-file"),
        (&home, &["channels", "--no-input"], 9, "CHAT_PASSPHRASE_FILE"),
        (&home, &["send", "#ops", "x", "--no-input"], 9, "CHAT_PASSPHRASE_FILE"),
        (&home, &["join", "--no-input"], 2, "Give "),
    ] {
        let (ended, shown) = tokio::task::block_in_place(|| at_a_terminal(home, arguments).ended());
        assert_eq!(ended, code, "{arguments:?}: {shown}");
        assert!(shown.has(hint), "{arguments:?}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_and_what_is_secret_is_not_shown() {
    let server = TestServer::start().await;
    let home = Home::new();
    tokio::task::block_in_place(|| {
        let mut term = at_a_terminal(&home, &["register", &server.url("")]);
        for (question, answer) in [
            ("Username: ", "alice"),
            ("Password: ", PASSWORD),
            ("Password, again: ", PASSWORD),
            ("Passphrase for the keys on this machine: ", PASSPHRASE),
            ("Passphrase for the keys on this machine, again: ", PASSPHRASE),
        ] {
            term.sees(question.trim_end());
            term.write(format!("{answer}\r").as_bytes());
        }
        let (code, shown) = term.ended();
        assert_eq!(code, 0, "{shown}");
        assert!(shown.has("alice is ready") && !shown.has(PASSPHRASE) && !shown.has(PASSWORD), "{shown}");

        let mut term = at_a_terminal(&home, &["channels"]);
        term.sees("Passphrase of profile default:");
        let (code, shown) = term.write(b"not this one\r").ended();
        assert_eq!(code, 9, "{shown}");
        assert!(shown.has("wrong passphrase") && !shown.has("not this one"), "{shown}");

        // ^C ends it, and the terminal shows again what is typed.
        let script = "\"$0\" channels; echo ended with $?; stty -a";
        let mut term = Term::by_keyboard(&home, &["sh", "-c", script, BINARY], 200, 24);
        term.sees("Passphrase of profile default:");
        let (_, shown) = term.write(b"half a\x03").ended();
        assert!(shown.has("ended with 130") && !shown.has("half a"), "{shown}");
        assert!(shown.has(" echo ") && shown.has(" icanon ") && shown.has("isig "), "{shown}");
    });
}
