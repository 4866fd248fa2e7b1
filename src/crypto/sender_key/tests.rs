use proptest::prelude::*;
use serde_json::Value;

use super::super::content::{Body, Content, Text};
use super::super::error::Error;
use super::super::frame::Frame;
use super::super::identity::Addr;
use super::super::membership::testing::{Certs, LOG, NOW, Person, act, started};
use super::super::membership::{Change, Invite, Log, LogKind, Op, Role, Signer};
use super::super::ratchet::chain;

use super::super::signature::{SigningKey, VerifyKey};
use super::super::testing::{ReplayRng, TestRng, array, bytes};
use super::*;

const ARRIVAL: Arrival = Arrival { now: NOW, device_left: false, late_ok: false };

fn open(chain: &PeerChain, log: &Log, nonce: &[u8; 12], frame: &[u8], arrival: Arrival) -> Result<(PeerChain, Plain), Error> {
    chain.open(log, nonce, &Frame::parse_channel(frame)?, arrival)
}

fn name<T>(result: &Result<T, Error>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => format!("{error:?}"),
    }
}

/// The random value of this name in a vector.
fn drawn<const N: usize>(file: &Value, name: &str) -> [u8; N] {
    let random = file["random"].as_array().unwrap();
    array(&random.iter().find(|value| value["name"] == name).unwrap_or_else(|| panic!("{name}"))["hex"])
}

fn check_vector(text: &str) {
    let file: Value = serde_json::from_str(text).unwrap();
    let (inputs, outputs) = (&file["inputs"], &file["outputs"]);
    let (log_id, channel_id): ([u8; 16], [u8; 16]) = (array(&inputs["log_id"]), array(&inputs["channel_id"]));
    let now = inputs["now"].as_u64().unwrap();
    let mut certs = Certs::default();
    for user in outputs["users"].as_array().unwrap() {
        user["lists"].as_array().unwrap().iter().for_each(|list| certs.insert_list(&bytes(&list["raw"])));
        user["devices"].as_array().unwrap().iter().for_each(|device| certs.insert_cert(&bytes(&device["cert"])));
    }

    // Every operation: its bytes, its result, the head and the members after it.
    let ops = outputs["ops"].as_array().unwrap();
    let mut log: Option<Log> = None;
    let mut views: Vec<Log> = Vec::new();
    for (i, case) in ops.iter().enumerate() {
        let raw = bytes(&case["op"]);
        let op = Op::parse(&raw).unwrap();
        let seed: [u8; 32] = drawn(&file, &format!("{}.1.dsk_seed", case["by"].as_str().unwrap()));
        let key = SigningKey::from_seed(&seed);
        let signer = Signer { addr: op.actor, key: &key, cert_hash: op.cert_hash, list_seq: op.list_seq };
        assert_eq!(hex::encode(Op::sign(op.place(), &signer, &op.change, op.time)), hex::encode(&raw), "operation {i}");
        assert_eq!(op.seq, case["seq"].as_u64().unwrap());
        let result = match &mut log {
            None => Log::start(&log_id, &raw, None, &certs).map(|started| log = Some(started)),
            Some(log) => log.apply(&raw, &certs).map(|_| ()),
        };
        assert_eq!(name(&result), case["result"].as_str().unwrap(), "operation {i}");
        let log = log.as_ref().unwrap();
        assert_eq!(hex::encode(log.newest_head()), case["head"].as_str().unwrap(), "operation {i}");
        let members: Vec<Value> =
            log.members().map(|(user, member)| serde_json::json!([hex::encode(user), member.role as u8])).collect();
        assert_eq!(Value::from(members), case["members"], "operation {i}");
        if result.is_ok() {
            views.push(log.clone());
        }
    }
    let heads = outputs["heads"].as_array().unwrap();
    assert_eq!(heads.len(), views.len());
    let after = views.last().unwrap();
    for (epoch, head) in heads.iter().enumerate() {
        assert_eq!(hex::encode(after.head(epoch as u64).unwrap()), head.as_str().unwrap());
    }

    let text = outputs["invite_text"].as_str().unwrap();
    let invite = Invite::from_text(text).unwrap();
    assert_eq!((invite.log_id, invite.genesis), (log_id, after.genesis()));
    assert_eq!(invite.key.expose_seed(), &drawn::<32>(&file, "invite_seed"));
    assert_eq!(hex::encode(invite.key.public().as_bytes()), outputs["invite_pub"].as_str().unwrap());
    assert_eq!(invite.to_text().as_str(), text);

    // The sender.
    let mut rng = ReplayRng::of_vector(&file);
    while rng.next_name() != Some("bob.chain_id") {
        rng.take(&rng.next_name().unwrap().to_owned());
    }
    let bob = Addr::new(drawn(&file, "bob.user_id"), 1);
    let messages = outputs["messages"].as_array().unwrap();
    let first_epoch = messages[0]["epoch"].as_u64().unwrap() as usize;
    let mut own = OwnChain::create(&views[first_epoch], channel_id, bob, |_| false, &mut rng, now).unwrap();
    assert_eq!(u64::from(own.chain_id()), outputs["chain_id"].as_u64().unwrap());
    let first_skdm = own.skdm(&views[first_epoch]);
    assert_eq!(hex::encode(&*first_skdm), outputs["skdm_first"].as_str().unwrap());
    assert_eq!(hex::encode(views[first_epoch].newest_head()), outputs["head_at_first_skdm"].as_str().unwrap());
    assert_eq!(hex::encode(Skdm::parse(&first_skdm).unwrap().sign_pub.as_bytes()), outputs["sign_pub"].as_str().unwrap());
    let mut key = Skdm::parse(&first_skdm).unwrap().key;
    for message in messages {
        let epoch = message["epoch"].as_u64().unwrap();
        let view = &views[epoch as usize];
        let (message_key, next) = chain::step(&key);
        assert_eq!(hex::encode(message_key.expose()), message["mk"].as_str().unwrap());
        key = next;
        rng.take("bob.msg_id");
        let sealed = own.seal(view, &bytes(&message["content"]), &mut rng, now).unwrap();
        assert_eq!(hex::encode(sealed.wire_nonce), message["wn"].as_str().unwrap());
        assert_eq!(hex::encode(&sealed.frame), message["frame"].as_str().unwrap());
        assert_eq!(hex::encode(view.newest_head()), message["head"].as_str().unwrap());
    }
    let last_epoch = messages.last().unwrap()["epoch"].as_u64().unwrap() as usize;
    assert_eq!(hex::encode(&*own.skdm(&views[last_epoch])), outputs["skdm_after_messages"].as_str().unwrap());
    assert_eq!(outputs["after_removal"]["must_rotate"], own.rotation(after, false, false, now) == Some(Rotation::MemberLeft));
    assert_eq!(own.seal(after, b"", &mut ReplayRng::of(&[&[0; 12]]), now), Err(Error::NotMember));

    // The receiver, before the removal.
    let view = views.iter().rfind(|view| view.shrunk_at().is_none()).unwrap();
    let identity = VerifyKey::import(&view.member(&bob.user_id).unwrap().identity).unwrap();
    let mut peer = PeerChain::accept(&first_skdm, bob, &identity, view, None, now).unwrap().unwrap();
    for (i, delivery) in outputs["deliveries"].as_array().unwrap().iter().enumerate() {
        let message = &messages[delivery["msg"].as_u64().unwrap() as usize];
        let result = open(&peer, view, &array(&message["wn"]), &bytes(&message["frame"]), ARRIVAL);
        assert_eq!(name(&result), delivery["result"].as_str().unwrap(), "delivery {i}");
        if let Ok((next, plain)) = result {
            assert_eq!(hex::encode(&*plain.bytes), message["content"].as_str().unwrap());
            assert!(!plain.late);
            peer = next;
        }
        assert_eq!(u64::from(peer.next()), delivery["next"].as_u64().unwrap(), "delivery {i}");
        assert_eq!(Value::from(peer.missing().collect::<Vec<u32>>()), delivery["skipped"], "delivery {i}");
    }
    let before = peer.clone();
    for case in outputs["negative"]["cases"].as_array().unwrap() {
        let result = open(&peer, view, &array(&case["wn"]), &bytes(&case["frame"]), ARRIVAL);
        assert_eq!(name(&result), case["error"].as_str().unwrap(), "{}", case["what"]);
        assert!(peer == before, "{}", case["what"]);
    }
    for case in outputs["after_removal"]["cases"].as_array().unwrap() {
        let arrival = Arrival { late_ok: case["late_ok"].as_bool().unwrap(), ..ARRIVAL };
        let result = open(&peer, after, &array(&case["wn"]), &bytes(&case["frame"]), arrival);
        assert_eq!(name(&result), case["result"].as_str().unwrap());
        assert!(result.is_err() || result.is_ok_and(|(_, plain)| plain.late));
    }
}

#[test]
fn vector_01_passes() {
    check_vector(include_str!("../testdata/channel-01.json"));
}

#[test]
fn vector_02_with_reordered_messages_passes() {
    check_vector(include_str!("../testdata/channel-02-reorder.json"));
}

#[test]
fn vector_03_of_an_attached_channel_passes() {
    check_vector(include_str!("../testdata/channel-03-group.json"));
}

#[test]
fn vector_04_with_gaps_passes() {
    check_vector(include_str!("../testdata/channel-04-gap.json"));
}
