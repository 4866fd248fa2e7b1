//! The connection to the database breaks while a send is committed: nobody is told that it failed.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::support::room::Room;
use crate::support::server::TestServer;

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_and_its_repeat_finds_the_row() {
    let live = TestServer::start().await;
    let proxy = &live.proxy;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    assert_eq!(ann_ws.ask(&room.message(ann)).await["seq"], 1);

    let request = room.message(ann);
    proxy.deaf.store(true, Ordering::SeqCst);
    assert_eq!(ann_ws.ask(&request).await["code"], "outcome_unknown");
    // Without a database nothing is stored, and that is known.
    assert_eq!(ann_ws.ask(&room.message(ann)).await["code"], "unavailable");
    proxy.deaf.store(false, Ordering::SeqCst);
    let answer = loop {
        let answer = ann_ws.ask(&request).await;
        if answer["code"] != "unavailable" {
            break answer;
        }
    };
    assert_eq!((&answer["type"], &answer["seq"], &answer["duplicate"]), (&json!("sent"), &json!(2), &json!(true)));
    // Whoever hears the channel gets the row, although nobody was told of it.
    for seq in 1..=2 {
        assert_eq!(bob_ws.event(room.channel).await["seq"], seq);
    }
}
