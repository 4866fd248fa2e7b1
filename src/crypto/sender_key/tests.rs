//! Sender chains: the public vectors with their operations and deliveries, rotation, acceptance, stolen states; then random deliveries.
//! Start at `check_vector`.

mod records;

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
        let name = rng.next_name().unwrap().to_owned();
        rng.take(&name);
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
        assert_eq!((sealed.chain_id, sealed.iteration + 1), (own.chain_id(), own.iteration()));
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

fn text(n: usize) -> Content {
    let body = Body::Text(Text { body: format!("message {n}"), ..Default::default() });
    Content::new([n as u8; 16], NOW, LOG, body)
}

fn seal(chain: &mut OwnChain, log: &Log, n: usize) -> Sealed {
    chain.seal(log, &text(n).to_bytes().unwrap(), &mut TestRng::new(1000 + n as u64), NOW).unwrap()
}

/// A private channel of alice (owner, sends) with bob, carol and dave.
struct Channel {
    people: [Person; 4],
    certs: Certs,
    log: Log,
}

impl Channel {
    fn new() -> Self {
        let people = [1, 2, 3, 4].map(Person::new);
        let certs = Certs::of(&people);
        let (log, _) = started(&people[0], LogKind::Channel, &certs);
        let mut channel = Self { people, certs, log };
        (1..4).for_each(|person| channel.add(person, Role::Member));
        channel
    }

    fn act(&mut self, actor: usize, change: &Change) {
        act(&mut self.log, &self.people[actor], change, &self.certs);
    }

    fn add(&mut self, person: usize, role: Role) {
        let change = Change::Add { user: self.people[person].id(), identity: self.people[person].identity(), role };
        self.act(0, &change);
    }

    fn remove(&mut self, person: usize) {
        self.act(0, &Change::Remove { user: self.people[person].id(), ban: false });
    }

    fn chain(&self, person: usize) -> OwnChain {
        let addr = self.people[person].device.addr();
        OwnChain::create(&self.log, LOG, addr, |_| false, &mut TestRng::new(person as u64 + 50), NOW).unwrap()
    }

    /// What a receiver makes of a key from `person`.
    fn accept(&self, skdm: &[u8], person: usize, known: Option<&PeerChain>) -> Result<Option<PeerChain>, Error> {
        let device = &self.people[person].device;
        PeerChain::accept(skdm, device.addr(), device.identity(), &self.log, known, NOW)
    }

    fn peer(&self, chain: &OwnChain, person: usize) -> PeerChain {
        self.accept(&chain.skdm(&self.log), person, None).unwrap().unwrap()
    }

    fn open(&self, chain: &PeerChain, sealed: &Sealed) -> Result<(PeerChain, Plain), Error> {
        open(chain, &self.log, &sealed.wire_nonce, &sealed.frame, ARRIVAL)
    }
}

#[test]
fn removal_forces_a_new_chain_and_adding_does_not() {
    let mut channel = Channel::new();
    let chain = channel.chain(0);
    let rotation = |channel: &Channel, device_left, bad, now| chain.rotation(&channel.log, device_left, bad, now);
    channel.act(1, &Change::Anchor { discarded: None });
    assert_eq!(rotation(&channel, false, false, NOW), None);
    assert_eq!(rotation(&channel, true, false, NOW), Some(Rotation::DeviceLeft));
    assert_eq!(rotation(&channel, false, true, NOW), Some(Rotation::BadSignature));
    assert_eq!(rotation(&channel, false, false, NOW + MAX_AGE_MS - 1), None);
    assert_eq!(rotation(&channel, false, false, NOW + MAX_AGE_MS), Some(Rotation::Old));
    channel.act(3, &Change::Leave);
    assert_eq!(rotation(&channel, false, false, NOW), Some(Rotation::MemberLeft));
    channel.add(3, Role::Member);
    assert_eq!(rotation(&channel, false, false, NOW), Some(Rotation::MemberLeft), "also if re-added since");
    assert_eq!(channel.chain(0).rotation(&channel.log, false, false, NOW), None);
}

#[test]
fn a_chain_carries_500_messages() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let content = text(0).to_bytes().unwrap();
    for _ in 0..MAX_MESSAGES {
        chain.seal(&channel.log, &content, &mut TestRng::new(1), NOW).unwrap();
    }
    assert_eq!(chain.rotation(&channel.log, false, false, NOW), Some(Rotation::Full));
    let before = chain.to_record();
    assert_eq!(chain.seal(&channel.log, &content, &mut TestRng::new(1), NOW), Err(Error::Limit));
    assert_eq!(chain.to_record(), before);
}

#[test]
fn nothing_is_sent_while_the_log_is_stopped_and_a_new_chain_after() {
    let mut channel = Channel::new();
    let mut chain = channel.chain(0);
    let fork = channel.log.sign(&channel.people[0].signer(), &Change::Open(true), NOW).unwrap();
    channel.act(0, &Change::Anchor { discarded: None });
    let head = Op::parse(&fork).unwrap().head;
    channel.log.stop(super::super::membership::Conflict { seq: 4, head, op: fork });
    let content = text(0).to_bytes().unwrap();
    assert_eq!(chain.seal(&channel.log, &content, &mut TestRng::new(1), NOW), Err(Error::Equivocation));
    let addr = channel.people[0].device.addr();
    let created = OwnChain::create(&channel.log, LOG, addr, |_| false, &mut TestRng::new(1), NOW);
    assert_eq!(created.err(), Some(Error::Equivocation));
    channel.act(0, &Change::Anchor { discarded: Some(head) });
    assert_eq!(chain.rotation(&channel.log, false, false, NOW), Some(Rotation::LogResumed));
    assert_eq!(chain.seal(&channel.log, &content, &mut TestRng::new(1), NOW), Err(Error::Limit));
}

#[test]
fn chain_ids_are_drawn_until_one_is_new_and_not_zero() {
    let channel = Channel::new();
    let addr = channel.people[0].device.addr();
    let mut rng = ReplayRng::of(&[&[0; 4], &[0, 0, 0, 7], &[0, 0, 0, 8], &[1; 32], &[2; 32]]);
    let chain = OwnChain::create(&channel.log, LOG, addr, |id| id == 7, &mut rng, NOW).unwrap();
    assert_eq!(chain.chain_id(), 8);
    let other_channel = OwnChain::create(&channel.log, [9; 16], addr, |_| false, &mut rng, NOW);
    assert_eq!(other_channel.err(), Some(Error::Rejected));
    let stranger = Addr::new([9; 16], 1);
    assert_eq!(OwnChain::create(&channel.log, LOG, stranger, |_| false, &mut rng, NOW).err(), Some(Error::NotMember));
}

#[test]
fn a_key_is_accepted_only_from_a_member_who_sees_the_same_log() {
    let mut channel = Channel::new();
    let chain = channel.chain(0);
    let skdm = chain.skdm(&channel.log).to_vec();
    let change = |at: usize, bytes: &[u8]| {
        let mut changed = skdm.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        channel.accept(&changed, 0, None).map(|_| ())
    };
    assert_eq!(channel.accept(&skdm[1..], 0, None).err(), Some(Error::Malformed));
    assert_eq!(change(16, &[0; 4]), Err(Error::Malformed), "chain 0");
    assert_eq!(change(20, &ITERATION_END.to_be_bytes()), Err(Error::Malformed));
    assert_eq!(change(20, &(ITERATION_END - 1).to_be_bytes()), Ok(()));
    let mut weak = [0; 32];
    weak[0] = 1;
    assert_eq!(change(56, &weak), Err(Error::BadSignature));
    assert_eq!(change(88, &99_u64.to_be_bytes()), Err(Error::FutureEpoch));
    assert_eq!(change(96, &[7; 32]), Err(Error::Equivocation));
    assert_eq!(change(0, &[9; 16]), Err(Error::Rejected), "a channel of another log");

    let accept = |addr: Addr, identity: &VerifyKey| PeerChain::accept(&skdm, addr, identity, &channel.log, None, NOW).map(|_| ());
    let alice = &channel.people[0].device;
    assert_eq!(accept(Addr::new([9; 16], 1), alice.identity()), Err(Error::NotMember));
    assert_eq!(accept(alice.addr(), channel.people[1].device.identity()), Err(Error::NotMember), "another UIK than the log's");

    let bobs = channel.chain(1).skdm(&channel.log);
    channel.remove(1);
    assert_eq!(channel.accept(&bobs, 1, None).err(), Some(Error::NotMember));
}

#[test]
fn a_stored_chain_is_never_replaced() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let peer = channel.peer(&chain, 0);
    seal(&mut chain, &channel.log, 0);
    assert_eq!(channel.accept(&chain.skdm(&channel.log), 0, Some(&peer)), Ok(None));
    let mut other_key = chain.skdm(&channel.log).to_vec();
    other_key[56..88].copy_from_slice(channel.people[3].device.identity().as_bytes());
    assert_eq!(channel.accept(&other_key, 0, Some(&peer)), Err(Error::Equivocation));
}

#[test]
fn newcomers_read_from_now_on() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let old = seal(&mut chain, &channel.log, 0);
    let newcomer = channel.peer(&chain, 0);
    let new = seal(&mut chain, &channel.log, 1);
    assert_eq!(channel.open(&newcomer, &old).err(), Some(Error::UnknownChain));
    assert_eq!(channel.open(&newcomer, &new).unwrap().1.accepted.content, text(1));
}

/// What a thief makes of a key: a chain that claims it for `iteration`.
fn claim(channel: &Channel, skdm: &[u8], iteration: u32) -> PeerChain {
    let mut skdm = skdm.to_vec();
    skdm[20..24].copy_from_slice(&iteration.to_be_bytes());
    channel.accept(&skdm, 0, None).unwrap().unwrap()
}

#[test]
fn a_stolen_chain_opens_nothing_older() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let mut receiver = channel.peer(&chain, 0);
    let old: Vec<Sealed> = (0..5).map(|n| seal(&mut chain, &channel.log, n)).collect();
    for sealed in &old {
        receiver = channel.open(&receiver, sealed).unwrap().0;
    }
    // Both the sender's and the receiver's state, as a thief reads them from the store.
    let from_sender = OwnChain::from_record(&chain.to_record()).unwrap().skdm(&channel.log);
    let from_receiver = PeerChain::from_record(&receiver.to_record()).unwrap();
    for (n, sealed) in old.iter().enumerate() {
        assert_eq!(channel.open(&from_receiver, sealed).err(), Some(Error::Replay));
        for iteration in 0..5 {
            let thief = claim(&channel, &from_sender, iteration);
            let expected = if n < iteration as usize { Error::UnknownChain } else { Error::Undecryptable };
            assert_eq!(channel.open(&thief, sealed).err(), Some(expected), "message {n} with the key as if of {iteration}");
        }
    }
}

#[test]
fn a_removed_members_stolen_state_opens_nothing_after_rotation() {
    let mut channel = Channel::new();
    let old = channel.chain(0);
    let removed = channel.peer(&old, 0);
    let skdm = old.skdm(&channel.log).to_vec();
    channel.remove(3);
    let mut new =
        OwnChain::create(&channel.log, LOG, channel.people[0].device.addr(), |_| false, &mut TestRng::new(4), NOW).unwrap();
    let new_skdm = new.skdm(&channel.log);
    let sealed = seal(&mut new, &channel.log, 0);
    assert!(channel.open(&channel.accept(&new_skdm, 0, None).unwrap().unwrap(), &sealed).is_ok());
    assert_eq!(channel.open(&removed, &sealed).err(), Some(Error::UnknownChain));
    // Even with the new chain's public parts, the old key is of no use.
    let mut mixed = new_skdm.to_vec();
    mixed[24..56].copy_from_slice(&skdm[24..56]);
    let thief = channel.accept(&mixed, 0, None).unwrap().unwrap();
    assert_eq!(channel.open(&thief, &sealed).err(), Some(Error::Undecryptable));
}

#[test]
fn a_removed_member_cannot_speak_but_late_frames_are_marked() {
    let mut channel = Channel::new();
    let mut bobs = channel.chain(1);
    let peer = channel.peer(&bobs, 1);
    let sealed = seal(&mut bobs, &channel.log, 0);
    let open_as = |channel: &Channel, arrival| open(&peer, &channel.log, &sealed.wire_nonce, &sealed.frame, arrival);
    assert!(!open_as(&channel, ARRIVAL).unwrap().1.late);
    let device_left = Arrival { device_left: true, ..ARRIVAL };
    assert_eq!(open_as(&channel, device_left).err(), Some(Error::NotMember));
    assert!(open_as(&channel, Arrival { late_ok: true, ..device_left }).unwrap().1.late);

    channel.remove(1);
    channel.add(1, Role::Member);
    assert_eq!(open_as(&channel, ARRIVAL).err(), Some(Error::NotMember), "also if re-added since");
    assert!(open_as(&channel, Arrival { late_ok: true, ..ARRIVAL }).unwrap().1.late);

    assert!(is_late_allowed(4, 5, NOW, NOW + LATE_MS - 1));
    assert!(!is_late_allowed(5, 5, NOW, NOW) && !is_late_allowed(4, 5, NOW, NOW + LATE_MS));
}

#[test]
fn a_frame_from_before_the_chains_epoch_is_refused() {
    let mut channel = Channel::new();
    let mut chain = channel.chain(0);
    let early = channel.log.clone();
    channel.act(1, &Change::Anchor { discarded: None });
    let peer = channel.peer(&chain, 0);
    let sealed = seal(&mut chain, &early, 0);
    assert_eq!(channel.open(&peer, &sealed).err(), Some(Error::NotMember));
}

#[test]
fn key_carrying_content_from_a_channel_is_malformed() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let peer = channel.peer(&chain, 0);
    let mut seal = |content: Content| {
        let sealed = chain.seal(&channel.log, &content.to_bytes().unwrap(), &mut TestRng::new(1), NOW).unwrap();
        channel.open(&peer, &sealed).err()
    };
    assert_eq!(seal(Content::new([1; 16], NOW, LOG, Body::Skdm(vec![0; 128]))), Some(Error::Malformed));
    assert_eq!(seal(Content { conv: vec![9; 16], ..text(1) }), Some(Error::Malformed));
}

#[test]
fn skipped_keys_live_14_days_and_chains_are_bounded() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let peer = channel.peer(&chain, 0);
    let sealed: Vec<Sealed> = (0..3).map(|n| seal(&mut chain, &channel.log, n)).collect();
    let (peer, _) = channel.open(&peer, &sealed[2]).unwrap();
    let open_at = |now| open(&peer, &channel.log, &sealed[0].wire_nonce, &sealed[0].frame, Arrival { now, ..ARRIVAL });
    assert!(open_at(NOW + KEEP_MS - 1).is_ok());
    assert_eq!(open_at(NOW + KEEP_MS).err(), Some(Error::Replay));
    let mut idle = peer.clone();
    assert!(!idle.expire(NOW + KEEP_MS - 1) && idle.expire(NOW + KEEP_MS) && !idle.expire(NOW + KEEP_MS));
    assert_eq!(idle.missing().count(), 0);

    assert!(!peer.is_overdue(NOW + OVERDUE_AGE_MS) && peer.is_overdue(NOW + OVERDUE_AGE_MS + 1));
    assert!(claim(&channel, &chain.skdm(&channel.log), OVERDUE_MESSAGES + 1).is_overdue(NOW));
}

#[test]
fn a_frame_with_an_iteration_of_1000_is_too_far_ahead() {
    let channel = Channel::new();
    let chain = channel.chain(0);
    let skdm = chain.skdm(&channel.log);
    let peer = channel.accept(&skdm, 0, None).unwrap().unwrap();
    // A sender that breaks the limit and signs it.
    for (iteration, expected) in [(ITERATION_END - 1, Error::Undecryptable), (ITERATION_END, Error::TooFarAhead)] {
        let sealed = seal_at(&chain, &channel.log, iteration);
        assert_eq!(channel.open(&peer, &sealed).err(), Some(expected), "{iteration}");
    }
}

/// A frame that names another iteration than the one whose key seals it, rightly signed.
fn seal_at(chain: &OwnChain, log: &Log, iteration: u32) -> Sealed {
    let record = chain.to_record();
    let mut sealed = seal(&mut OwnChain::from_record(&record).unwrap(), log, 0);
    let key = SigningKey::from_seed(record[109..141].try_into().unwrap());
    sealed.frame[44..48].copy_from_slice(&iteration.to_be_bytes());
    let frame = Frame::parse_channel(&sealed.frame).unwrap();
    let head = log.head(frame.epoch).unwrap();
    let hash = super::chain::signed_hash_of(&frame, head, &sealed.wire_nonce);
    let signature = key.sign(super::super::labels::SENDER_KEY_SIGNATURE, &[&hash]);
    let start = sealed.frame.len() - 64;
    sealed.frame[start..].copy_from_slice(&signature);
    sealed
}

#[test]
fn old_chains_go_when_newer_ones_came() {
    let channel = Channel::new();
    let received = |chain_id: u32, at: u64| {
        let mut skdm = channel.chain(0).skdm(&channel.log).to_vec();
        skdm[16..20].copy_from_slice(&chain_id.to_be_bytes());
        let device = &channel.people[0].device;
        PeerChain::accept(&skdm, device.addr(), device.identity(), &channel.log, None, at).unwrap().unwrap()
    };
    let two = [received(1, NOW), received(2, NOW + 1)];
    assert!(superseded(&two, NOW + KEEP_MS).is_empty());
    assert_eq!(superseded(&two, NOW + 1 + KEEP_MS), [1]);
    let six: Vec<PeerChain> = (1..=6).map(|n| received(n, NOW + u64::from(n))).collect();
    assert_eq!(superseded(&six, NOW + 6), [1]);
    assert!(superseded(&[], NOW).is_empty());
}

#[test]
fn records_restore_the_same_state_and_debug_shows_no_key() {
    let channel = Channel::new();
    let mut chain = channel.chain(0);
    let skdm = chain.skdm(&channel.log);
    let peer = channel.peer(&chain, 0);
    seal(&mut chain, &channel.log, 0);
    let (peer, _) = channel.open(&peer, &seal(&mut chain, &channel.log, 1)).unwrap();
    assert!(PeerChain::from_record(&peer.to_record()).unwrap() == peer);
    assert_eq!(OwnChain::from_record(&chain.to_record()).unwrap().to_record(), chain.to_record());
    assert_eq!(PeerChain::from_record(&[2]), Err(Error::Unsupported));
    assert_eq!(OwnChain::from_record(&[1, 2]).err(), Some(Error::Malformed));

    let debug = format!("{chain:?} {peer:?} {:?}", Skdm::parse(&skdm).unwrap());
    let secrets = [&skdm[24..56], &chain.skdm(&channel.log)[24..56], &chain.to_record()[109..141]];
    for secret in secrets {
        assert!(!debug.contains(&format!("{secret:?}")) && !debug.contains(&hex::encode(secret)), "{debug}");
    }
    assert!(!debug.contains("key") && !debug.contains("Secret"), "{debug}");
}

/// One delivery: which message, and whether a bit of it is damaged.
fn any_deliveries() -> impl Strategy<Value = Vec<(usize, Option<(u16, u8)>)>> {
    let flip = prop_oneof![3 => Just(None), 1 => any::<(u16, u8)>().prop_map(Some)];
    proptest::collection::vec((0..12_usize, flip), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_message_opens_exactly_once_or_fails_typed_and_changes_nothing(deliveries in any_deliveries(), restart: u64) {
        let channel = Channel::new();
        let mut chain = channel.chain(0);
        let mut peer = channel.peer(&chain, 0);
        let sealed: Vec<Sealed> = (0..12).map(|n| seal(&mut chain, &channel.log, n)).collect();
        let mut opened = [false; 12];
        for (step, (n, flip)) in deliveries.into_iter().enumerate() {
            let mut frame = sealed[n].frame.clone();
            if let Some((at, bit)) = flip {
                let at = usize::from(at) % frame.len();
                frame[at] ^= 1 << (bit % 8);
            }
            let before = peer.clone();
            match open(&peer, &channel.log, &sealed[n].wire_nonce, &frame, ARRIVAL) {
                Ok((next, plain)) => {
                    prop_assert!(flip.is_none() && !opened[n]);
                    prop_assert_eq!(plain.accepted.content, text(n));
                    prop_assert_eq!(plain.accepted.author, channel.people[0].id());
                    opened[n] = true;
                    peer = next;
                }
                Err(error) => {
                    prop_assert!(flip.is_some() || (opened[n] && error == Error::Replay), "{:?}", error);
                    prop_assert!(peer == before);
                }
            }
            if restart >> (step % 64) & 1 == 1 {
                peer = PeerChain::from_record(&peer.to_record()).unwrap();
            }
        }
        // Nothing that went wrong on the way keeps a message from opening later.
        for (n, sealed) in sealed.iter().enumerate() {
            match channel.open(&peer, sealed) {
                Ok((next, plain)) => {
                    prop_assert!(!opened[n]);
                    prop_assert_eq!(plain.accepted.content, text(n));
                    peer = next;
                }
                Err(error) => prop_assert!(opened[n] && error == Error::Replay, "{:?}", error),
            }
        }
        prop_assert_eq!(peer.missing().count(), 0);
    }

    #[test]
    fn reading_junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Skdm::parse(&bytes);
        let _ = PeerChain::from_record(&bytes);
        let _ = OwnChain::from_record(&bytes);
    }
}
