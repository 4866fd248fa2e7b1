//! Two people in two terminals against one `chat serve`.

use serde_json::Value;

use crate::cli::people::Home;
use crate::support::binary::Serve;
use crate::support::pty::Term;

/// Opens a command by its name and fills in its form.
fn command(term: &mut Term, name: &str, title: &str, keys: &str) {
    term.keys("f9").sees("commands");
    term.keys(&format!("'{name}' enter")).sees(title);
    term.keys(keys);
}

#[tokio::test]
async fn two_people_talk_in_a_channel_a_thread_and_directly_across_a_crash_of_the_server() {
    let mut server = Serve::start().await;
    let (alices, bobs) = (Home::new(), Home::new());
    for (home, name) in [(&alices, "alice"), (&bobs, "bob")] {
        home.run(&["register", &server.address(), "--username", name, "--no-input"]).await.ok();
    }
    let mut alice = Term::tui(&alices, 80, 24);
    alice.sees("you are in no community yet");

    // A place to meet.
    command(&mut alice, "create-community", "create a community", "'acme' enter enter");
    alice.sees("this community has no channel yet");
    command(&mut alice, "create-channel", "create a channel in acme", "'general' enter enter enter");
    alice.sees("write to # general");
    command(&mut alice, "invite", "invite to acme", "enter enter");
    alice.sees("invite link");
    let link = alice.keys("y").waits("the link in the clipboard", |shown| shown.clipboard.starts_with("chat://")).clipboard;
    alice.keys("esc");
    // The last of what she did leaves the screen by itself, and then nothing is drawn while nothing happens.
    let idle = alice.waits("an idle screen", |shown| !shown.has("invite link") && !shown.has("clipboard"));

    let mut bob = Term::tui(&bobs, 132, 34);
    bob.sees("you are in no community yet");
    let still = alice.shown();
    assert_eq!((still.frames, still.bytes), (idle.frames, idle.bytes), "an idle client wrote something\n{still}");
    bob.keys("f9").sees("commands");
    bob.keys("'join' enter").sees("join a community");
    bob.paste(&link).keys("enter");
    bob.sees("write to # general");
    alice.sees("bob joined");

    // In the channel, both ways.
    alice.keys("'the canary is **red**' enter");
    bob.sees("the canary is red");
    bob.keys("'rolling back' enter");
    alice.sees("rolling back");
    bob.waits("delivered", |shown| shown.row("rolling back").is_some_and(|row| row.contains('✓')));

    // In a thread: bob answers alice's message, alice opens it and answers back.
    bob.keys("esc").sees("HISTORY");
    bob.keys("k t").sees("reply in this thread");
    bob.keys("'which hosts?' enter");
    bob.waits("the reply is sent", |shown| shown.row("which hosts?").is_some_and(|row| row.contains('✓')));
    alice.sees("1 reply");
    assert!(!alice.shown().has("which hosts?"), "a thread is read in its pane");
    alice.keys("esc").sees("HISTORY");
    alice.keys("k t");
    alice.sees("which hosts?");
    alice.keys("'both of them' enter");
    bob.sees("both of them");
    bob.keys("f3").sees_no("reply in this thread");
    alice.keys("f3").sees("write to # general");

    // Directly: it counts as unread elsewhere, and one key goes there.
    command(&mut bob, "dm", "write to", "'alice'");
    bob.sees("@ alice");
    bob.keys("enter").sees("write to @ alice");
    bob.keys("'between us' enter");
    alice.waits("an unread message", |shown| shown.has("1 unread") && shown.title == "chat (1)");
    assert!(!alice.shown().has("between us"));
    alice.keys("alt-a");
    alice.sees("between us");
    alice.waits("it counts as read", |shown| !shown.has("unread") && shown.title == "chat");
    alice.keys("'only us' enter");
    bob.sees("only us");

    // The server dies; what is written meanwhile waits, and arrives once.
    server.kill().await;
    alice.sees("offline since");
    bob.sees("offline since");
    alice.keys("'written while it was down' enter");
    alice.waits("it waits", |shown| {
        shown.has("1 message waits") && shown.row("written while").is_some_and(|row| row.contains("waiting"))
    });
    server.restart().await;
    alice.keys("f12");
    bob.keys("f12");
    alice.waits("online", |shown| shown.has("online") && !shown.has("waits"));
    bob.sees("written while it was down");
    alice.waits("it was sent", |shown| shown.row("written while").is_some_and(|row| row.contains('✓')));
    bob.keys("'after the crash' enter");
    let both = alice.sees("after the crash");
    assert_eq!((both.count("written while it was down"), both.count("after the crash")), (1, 1), "{both}");
    let both = bob.sees("after the crash");
    assert_eq!((both.count("written while it was down"), both.count("after the crash")), (1, 1), "{both}");
    // Beside the running client, through it.
    let heard = bobs.run(&["tail", "@alice", "--json"]).await.objects();
    let texts: Vec<&Value> = heard.iter().filter(|object| object["kind"] == "text").map(|object| &object["text"]).collect();
    assert_eq!(texts, ["between us", "only us", "written while it was down", "after the crash"]);

    for mut term in [alice, bob] {
        term.keys("ctrl-q");
        let (code, left) = term.ended();
        assert!(code == 0 && left.is_restored() && left.text.trim().is_empty(), "{code} {left}");
    }
}
