//! From nothing to a conversation, and back into a profile, with the keyboard alone.

use serde_json::json;

use crate::cli::people::{Home, PASSPHRASE};
use crate::support::account::PASSWORD;
use crate::support::http::Http as _;
use crate::support::pty::Term;
use crate::support::server::TestServer;

/// Moves to a field of a form; the bar stands before it.
fn go_to(term: &mut Term, field: &str) {
    let bar = format!("▌{field}");
    for _ in 0..8 {
        if term.shown().has(&bar) {
            return;
        }
        let at = term.shown().frames;
        term.keys("tab").waits("the next field", |shown| shown.frames > at);
    }
    panic!("no field {field}\n{}", term.shown());
}

fn fill(term: &mut Term, field: &str, text: &str) {
    go_to(term, field);
    term.keys(&format!("ctrl-u '{text}'"));
}

/// The last step before the client opens: the passphrase, twice.
fn protect(term: &mut Term, passphrase: &str) {
    term.sees("protect this machine");
    fill(term, "passphrase", passphrase);
    fill(term, "again", passphrase);
    term.keys("enter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_run_is_done_by_keyboard_and_every_mistake_is_told() {
    let server = TestServer::start().await;
    server.user("ana").await;
    let home = Home::new();
    let mut term = Term::tui_by_keyboard(&home, &[], 80, 24);

    term.sees("which server");
    term.keys("'127.0.0.1:1' enter");
    let refused = term.sees("cannot reach");
    assert!(refused.has("! ") && refused.has("127.0.0.1:1"), "{refused}");
    term.keys("ctrl-u 'http://chat.example.org' enter").sees("would show your password to the network");
    term.keys(&format!("ctrl-u '{}' enter", server.address)).sees("account on");

    // Mistakes that are told before the server is asked.
    fill(&mut term, "username", "ana");
    fill(&mut term, "password", "short");
    fill(&mut term, "again", "short");
    term.keys("enter").sees("a password has at least 8 characters");
    fill(&mut term, "password", PASSWORD);
    fill(&mut term, "again", "something else");
    term.keys("enter").sees("the two passwords differ");
    fill(&mut term, "again", PASSWORD);
    term.keys("enter");
    term.sees("protect this machine");
    fill(&mut term, "passphrase", "short");
    fill(&mut term, "again", "short");
    term.keys("enter").sees("a passphrase has at least 8 characters");
    protect(&mut term, PASSPHRASE);

    // The name is taken: back to where it is typed, with nothing made, and with everything else kept.
    term.sees("is taken");
    assert!(!home.profile().store().exists());
    fill(&mut term, "username", "ana.2");
    go_to(&mut term, "again");
    term.keys("enter");

    let shown = term.sees("write this down");
    let code = shown.text.lines().map(str::trim).find(|line| line.len() > 20 && line.contains('-') && !line.contains(' '));
    let code = code.unwrap_or_else(|| panic!("no code\n{shown}")).to_owned();
    term.keys("'0000' enter").sees("these are not its last characters");
    term.keys(&format!("ctrl-u '{}' enter", &code[code.len() - 4..])).sees("you are in no community yet");
    assert!(term.sees("online").has(":create-community"));
    term.keys("ctrl-q");
    let (exit, left) = term.ended();
    assert!(exit == 0 && left.is_restored() && !left.has("ana.2"), "{exit} {left}");

    // At the next start the passphrase opens it.
    let mut term = Term::tui_by_keyboard(&home, &[], 80, 24);
    term.sees("Its passphrase opens it");
    term.keys("'not the passphrase' enter").sees("wrong passphrase");
    term.keys(&format!("'{PASSPHRASE}' enter")).sees("you are in no community yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_the_right_one_logs_in() {
    let server = TestServer::start().await;
    // An account without a device.
    server.user("ana").await;
    let home = Home::new();
    let mut term = Term::tui_by_keyboard(&home, &["--server", &server.address.to_string()], 80, 24);
    term.sees("which server");
    term.keys("enter").sees("account on");
    go_to(&mut term, "I want to");
    term.keys("right").sees("log in to an account");
    for (password, says) in [("not the password", "wrong username or password"), (PASSWORD, "you are in no community yet")] {
        fill(&mut term, "username", "ana");
        fill(&mut term, "password", password);
        // There is nothing to repeat.
        assert!(!term.shown().has("again"));
        term.keys("enter");
        if password != PASSWORD {
            // Asked for once, whatever the server says of the password.
            protect(&mut term, PASSPHRASE);
        }
        term.sees(says);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_ended_elsewhere_is_taken_up_again_in_place() {
    let server = TestServer::start().await;
    let home = Home::register(&server, "ana").await;
    let mut term = Term::tui(&home, 80, 24);
    term.sees("online");
    let elsewhere = server.anon().login("ana").await;
    elsewhere.post("/account/sessions/revoke-others", &json!({})).await.is(204);

    let shown = term.sees("this session ended");
    assert!(shown.has("logged out") && shown.has("F12"), "{shown}");
    term.keys("f12").sees("log in again");
    term.keys("'not the password' enter").sees("wrong username or password");
    term.keys(&format!("'{PASSWORD}' enter"))
        .waits("online again", |shown| shown.has("online") && !shown.has("log in again") && !shown.has("logged out"));
    term.keys("ctrl-q");
    assert_eq!(term.ended().0, 0);

    // And so at the start: whoever logged out finds the way back in.
    home.run(&["logout"]).await.ok();
    let mut term = Term::tui(&home, 80, 24);
    let shown = term.sees("log in again");
    assert!(shown.has("of ana at http://127.0.0.1"), "{shown}");
    term.keys(&format!("'{PASSWORD}' enter"))
        .waits("online again", |shown| shown.has("online") && !shown.has("log in again") && !shown.has("logged out"));
}
