//! State that an earlier release wrote must open in this one: `testdata/records-1.json` holds the records of version 1 and
//! frames for them, `records-2.json` those that have a version 2. A new version of a record adds a file; no file is ever
//! regenerated.

use serde_json::{Value, json};

use super::*;
use crate::crypto::session::Session;
use crate::crypto::testing::{array, bytes};

const RECORDS: &str = include_str!("../../testdata/records-1.json");
const RECORDS_2: &str = include_str!("../../testdata/records-2.json");

/// What this release writes, in the form of the file.
fn written() -> Value {
    let mut pair = Pair::talking();
    let late = pair.alice.send("late", &mut pair.rng, NOW);
    pair.alice_says("now", NOW).unwrap();
    pair.bob_says("turn", NOW).unwrap();
    pair.alice_says("in the next chain", NOW).unwrap();
    let session = pair.bob.sessions.sessions()[0].to_record();
    let next = pair.alice.send("next", &mut pair.rng, NOW);
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    let unacked = pair.alice.sessions.active(NOW).unwrap().to_record();
    let first = pair.alice.send("first", &mut pair.rng, NOW);
    let sealed = |sealed: &Sealed| json!({ "frame": hex::encode(&sealed.frame), "wn": hex::encode(sealed.wire_nonce) });
    json!({
        "device": hex::encode(&*pair.bob.device.to_record()),
        "contact": hex::encode(&*pair.bob.peer.to_record()),
        "prekeys": hex::encode(&*pair.bob.keys.to_record()),
        "session": hex::encode(&*session),
        "unacked": hex::encode(&*unacked),
        "late": sealed(&late),
        "next": sealed(&next),
        "first": sealed(&first),
    })
}

#[test]
fn records_of_version_1_open_and_work() {
    let file: Value = serde_json::from_str(RECORDS).unwrap();
    let mut pair = Pair::new();
    pair.bob.device = LocalDevice::from_record(&bytes(&file["device"])).unwrap();
    pair.bob.peer = Contact::from_record(&bytes(&file["contact"])).unwrap();
    pair.bob.keys = PrekeySecrets::from_record(&bytes(&file["prekeys"])).unwrap();
    let session = Session::from_record(&bytes(&file["session"])).unwrap();
    pair.bob.sessions = SessionSet::from_parts(session.peer(), 1, vec![session]);
    for text in ["late", "next", "first"] {
        let frame = bytes(&file[text]["frame"]);
        let (session_id, ratchet_key) = ([0; 16], crate::crypto::dh::DhPublic([0; 32]));
        let sealed = Sealed { frame, wire_nonce: array(&file[text]["wn"]), session_id, ratchet_key, n: 0 };
        assert_eq!(text_of(&pair.bob.receive(&sealed, NOW).unwrap()), text);
    }
    let unacked = Session::from_record(&bytes(&file["unacked"])).unwrap();
    assert!(unacked.is_unacked() && pair.bob.sessions.get(unacked.id()).is_some());
}

#[test]
fn these_versions_are_what_this_release_writes() {
    let mut files: Value = serde_json::from_str(RECORDS).unwrap();
    let newer: Value = serde_json::from_str(RECORDS_2).unwrap();
    newer.as_object().unwrap().iter().for_each(|(name, record)| files[name] = record.clone());
    assert_eq!(written(), files);
}
