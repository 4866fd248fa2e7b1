//! State that an earlier release wrote must open in this one: `testdata/channel-records-1.json` holds a log and chains in the records
//! of version 1, and frames for them. A new version of a record adds a file; no file is ever regenerated.

use serde_json::{Value, json};

use super::*;

const RECORDS: &str = include_str!("../../testdata/channel-records-1.json");
const ATTACHED: [u8; 16] = [0xC4; 16];

/// A group log in which every field is used, its operations, and one that was judged equivocation.
fn busy_log(people: &[Person; 4], certs: &Certs) -> (Log, Vec<Vec<u8>>, Vec<u8>) {
    let (mut log, genesis) = started(&people[0], LogKind::Group, certs);
    let mut ops = vec![genesis];
    let invite = SigningKey::from_seed(&[0x77; 32]);
    let add = |person: usize, role| Change::Add { user: people[person].id(), identity: people[person].identity(), role };
    let discarded = Change::Anchor { discarded: Some([0xD1; 32]) };
    let changes = [
        (0, add(1, Role::Admin)),
        (1, add(2, Role::Member)),
        (0, Change::SetRole { user: people[2].id(), role: Role::Moderator }),
        (1, Change::Channel { channel_id: ATTACHED, attach: true }),
        (0, Change::Channel { channel_id: [0xC5; 16], attach: true }),
        (0, Change::Channel { channel_id: [0xC5; 16], attach: false }),
        (1, Change::AddInvite { key: *invite.public().as_bytes(), max_uses: 3, expires: NOW + 1 }),
        (0, Change::InviteRole(Role::Moderator)),
        (0, Change::Open(true)),
        (0, discarded),
    ];
    for (actor, change) in changes {
        ops.push(act(&mut log, &people[actor], &change, certs));
    }
    let op = log.sign_join(&people[3].signer(), people[3].device.identity(), Some(&invite), NOW).unwrap();
    log.apply(&op, certs).unwrap();
    ops.push(op);
    ops.push(act(&mut log, &people[2], &Change::Remove { user: people[3].id(), ban: true }, certs));
    let fork = log.sign(&people[1].signer(), &Change::Leave, NOW).unwrap();
    ops.push(act(&mut log, &people[0], &Change::Anchor { discarded: None }, certs));
    (log, ops, fork)
}

fn say(chain: &mut OwnChain, log: &Log, text: &str) -> Sealed {
    let body = Body::Text(Text { body: text.into(), ..Default::default() });
    let content = Content::new([9; 16], NOW, ATTACHED, body).to_bytes().unwrap();
    chain.seal(log, &content, &mut TestRng::new(text.len() as u64), NOW).unwrap()
}

/// What this release writes, in the form of the file.
fn written() -> Value {
    let people = [1, 2, 3, 4].map(Person::new);
    let certs = Certs::of(&people);
    let (mut log, ops, fork) = busy_log(&people, &certs);
    let alice = &people[0].device;
    let mut own = OwnChain::create(&log, ATTACHED, alice.addr(), |_| false, &mut TestRng::new(1), NOW).unwrap();
    let peer = PeerChain::accept(&own.skdm(&log), alice.addr(), alice.identity(), &log, None, NOW).unwrap().unwrap();
    let late = say(&mut own, &log, "late");
    let now = say(&mut own, &log, "now");
    let (peer, _) = open(&peer, &log, &now.wire_nonce, &now.frame, ARRIVAL).unwrap();
    let own_record = own.to_record();
    let next = say(&mut own, &log, "next");
    let conflict = log.judge(&fork, &ops, &certs).unwrap();
    log.stop(conflict);
    let sealed = |sealed: &Sealed| json!({ "frame": hex::encode(&sealed.frame), "wn": hex::encode(sealed.wire_nonce) });
    json!({
        "log": hex::encode(log.to_record()),
        "ops": ops.iter().map(hex::encode).collect::<Vec<String>>(),
        "fork": hex::encode(fork),
        "own": hex::encode(&*own_record),
        "peer": hex::encode(&*peer.to_record()),
        "late": sealed(&late),
        "next": sealed(&next),
    })
}

#[test]
fn records_of_version_1_open_and_work() {
    let file: Value = serde_json::from_str(RECORDS).unwrap();
    let mut log = Log::from_record(&bytes(&file["log"])).unwrap();
    let ops: Vec<Vec<u8>> = file["ops"].as_array().unwrap().iter().map(bytes).collect();
    let people = [1, 2, 3, 4].map(Person::new);
    let certs = Certs::of(&people);

    // The snapshot says what the operations say.
    let mut replayed = Log::replay(&LOG, &ops).unwrap();
    assert!(log.is_stopped() && log != replayed);
    replayed.stop(replayed.judge(&bytes(&file["fork"]), &ops, &certs).unwrap());
    assert_eq!(log, replayed);

    let mut peer = PeerChain::from_record(&bytes(&file["peer"])).unwrap();
    for text in ["late", "next"] {
        let (next, plain) = open(&peer, &log, &array(&file[text]["wn"]), &bytes(&file[text]["frame"]), ARRIVAL).unwrap();
        assert_eq!(plain.accepted.content.body, Some(Body::Text(Text { body: text.into(), ..Default::default() })));
        peer = next;
    }
    let head = log.conflicts()[0].head;
    act(&mut log, &people[0], &Change::Anchor { discarded: Some(head) }, &certs);
    let own = OwnChain::from_record(&bytes(&file["own"])).unwrap();
    assert_eq!((own.iteration(), own.rotation(&log, false, false, NOW)), (2, Some(Rotation::LogResumed)));
}

#[test]
fn version_1_is_what_this_release_writes() {
    assert_eq!(written(), serde_json::from_str::<Value>(RECORDS).unwrap());
}
