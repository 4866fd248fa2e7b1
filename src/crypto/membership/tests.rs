//! Membership logs: who may do what, what is refused, forks and invites; then random operations, on which all members must agree.
//! Start at `each_operation_is_for_those_who_may`.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::cert::{CAPS_SUITE_1, CertBody, DeviceCert};
use super::super::device_list::DeviceList;
use super::super::identity::LocalDevice;
use super::super::signature::SigningKey;
use super::super::testing::TestRng;
use super::op::Place;
use super::testing::{Certs, LOG, NOW, Person, act, started};
use super::*;

const CHANNEL: [u8; 16] = [0xC4; 16];

/// The people of these tests: index 0 makes the log.
static PEOPLE: LazyLock<Vec<Person>> = LazyLock::new(|| (1..=6).map(Person::new).collect());

fn certs() -> Certs {
    Certs::of(PEOPLE.iter())
}

fn add(person: &Person, role: Role) -> Change {
    Change::Add { user: person.id(), identity: person.identity(), role }
}

/// A group log with an owner (0), an admin (1), a moderator (2) and a member (3); 4 and 5 are outside.
fn group() -> (Log, Vec<Vec<u8>>) {
    let certs = certs();
    let (mut log, genesis) = started(&PEOPLE[0], LogKind::Group, &certs);
    let mut ops = vec![genesis];
    for (person, role) in [(1, Role::Admin), (2, Role::Moderator), (3, Role::Member)] {
        ops.push(act(&mut log, &PEOPLE[0], &add(&PEOPLE[person], role), &certs));
    }
    (log, ops)
}

fn next_place(log: &Log) -> Place {
    Place { log_id: *log.id(), seq: log.epoch() + 1, prev: log.newest_head() }
}

/// Signed without asking the log whether it is allowed.
fn forced(log: &Log, actor: &Person, change: &Change) -> Vec<u8> {
    Op::sign(next_place(log), &actor.signer(), change, NOW)
}

/// Applies what is signed by force, and checks that a refusal leaves the log as it was.
fn attempt(log: &mut Log, actor: usize, change: &Change) -> Result<Epoch, Error> {
    apply(log, &forced(log, &PEOPLE[actor], change))
}

fn apply(log: &mut Log, op: &[u8]) -> Result<Epoch, Error> {
    let before = log.clone();
    let result = log.apply(op, &certs());
    assert!(result.is_ok() || *log == before, "a refused operation changed the log");
    result
}

fn join(person: usize) -> Change {
    Change::Join { identity: PEOPLE[person].identity(), invite: None }
}

#[test]
fn each_operation_is_for_those_who_may() {
    let user = |person: usize| PEOPLE[person].id();
    // Who of owner, admin, moderator, member and outsider may.
    let table: Vec<(Change, [bool; 5])> = vec![
        (add(&PEOPLE[5], Role::Member), [true, true, false, false, false]),
        (add(&PEOPLE[5], Role::Admin), [true, false, false, false, false]),
        (add(&PEOPLE[5], Role::Owner), [false; 5]),
        (add(&PEOPLE[3], Role::Member), [false; 5]),
        (Change::Remove { user: user(3), ban: false }, [true, true, true, false, false]),
        (Change::Remove { user: user(2), ban: true }, [true, true, false, false, false]),
        (Change::Remove { user: user(1), ban: false }, [true, false, false, false, false]),
        (Change::Remove { user: user(0), ban: false }, [false; 5]),
        (Change::Remove { user: user(5), ban: true }, [false; 5]),
        (Change::Leave, [false, true, true, true, false]),
        (Change::SetRole { user: user(3), role: Role::Moderator }, [true, true, false, false, false]),
        (Change::SetRole { user: user(3), role: Role::Admin }, [true, false, false, false, false]),
        (Change::SetRole { user: user(3), role: Role::Owner }, [true, false, false, false, false]),
        (Change::SetRole { user: user(1), role: Role::Member }, [true, false, false, false, false]),
        (Change::SetRole { user: user(0), role: Role::Member }, [false; 5]),
        (Change::SetRole { user: user(5), role: Role::Member }, [false; 5]),
        (Change::Open(true), [true, true, false, false, false]),
        (Change::AddInvite { key: PEOPLE[0].identity(), max_uses: 1, expires: 0 }, [true, true, false, false, false]),
        (Change::DeleteInvite { key: PEOPLE[0].identity() }, [false; 5]),
        (Change::Unban { user: user(5) }, [false; 5]),
        (Change::InviteRole(Role::Member), [true, true, false, false, false]),
        (Change::Anchor { discarded: None }, [true, true, true, true, false]),
        (Change::Anchor { discarded: Some([1; 32]) }, [true, true, false, false, false]),
        (Change::Channel { channel_id: CHANNEL, attach: true }, [true, true, false, false, false]),
        (Change::Channel { channel_id: CHANNEL, attach: false }, [false; 5]),
    ];
    for (change, allowed) in table {
        for (actor, allowed) in allowed.into_iter().enumerate() {
            let (mut log, _) = group();
            let expected = match (allowed, actor) {
                (true, _) => Ok(4),
                (false, 4) => Err(Error::NotMember),
                (false, _) => Err(Error::Rejected),
            };
            assert_eq!(attempt(&mut log, actor, &change), expected, "{change:?} by {actor}");
        }
    }
    for actor in 0..5 {
        let (mut log, _) = group();
        assert_eq!(attempt(&mut log, actor, &join(actor)), Err(Error::Rejected), "a closed log, joined by {actor}");
    }
}

#[test]
fn the_owner_hands_over_and_becomes_an_admin() {
    let (mut log, _) = group();
    attempt(&mut log, 0, &Change::SetRole { user: PEOPLE[3].id(), role: Role::Owner }).unwrap();
    let role = |person: usize| log.member(&PEOPLE[person].id()).map(|member| member.role);
    assert_eq!((role(0), role(3)), (Some(Role::Admin), Some(Role::Owner)));
    attempt(&mut log, 0, &Change::Leave).unwrap();
    assert_eq!(attempt(&mut log, 3, &Change::Leave), Err(Error::Rejected));
}

#[test]
fn a_banned_user_stays_out_until_unbanned() {
    let (mut log, _) = group();
    attempt(&mut log, 1, &Change::Open(true)).unwrap();
    attempt(&mut log, 2, &Change::Remove { user: PEOPLE[3].id(), ban: true }).unwrap();
    assert_eq!(attempt(&mut log, 3, &join(3)), Err(Error::Rejected));
    assert_eq!(attempt(&mut log, 1, &add(&PEOPLE[3], Role::Member)), Err(Error::Rejected));
    attempt(&mut log, 1, &Change::Unban { user: PEOPLE[3].id() }).unwrap();
    attempt(&mut log, 3, &join(3)).unwrap();
    assert_eq!(log.member(&PEOPLE[3].id()).unwrap().since, log.epoch());
}

#[test]
fn history_answers_for_every_epoch() {
    let (mut log, _) = group();
    let user = PEOPLE[3].id();
    attempt(&mut log, 1, &Change::SetRole { user, role: Role::Moderator }).unwrap();
    attempt(&mut log, 3, &Change::Leave).unwrap();
    attempt(&mut log, 1, &add(&PEOPLE[3], Role::Member)).unwrap();
    let roles: Vec<Option<Role>> = (0..=7).map(|epoch| log.role_at(&user, epoch)).collect();
    let expected = [None, None, None, Some(Role::Member), Some(Role::Moderator), None, Some(Role::Member), None];
    assert_eq!(roles, expected, "epoch 7 is not known yet");
    assert_eq!((log.left_after(&user, 3), log.left_after(&user, 4), log.left_after(&user, 5)), (Some(5), Some(5), None));
    assert_eq!(log.member_at(&user, 4).unwrap().since, 3);
    assert_eq!(log.member(&user).unwrap().since, 6);
    assert_eq!(log.shrunk_at(), Some(5));
}

#[test]
fn operations_out_of_place_are_refused() {
    let (mut log, ops) = group();
    let op = forced(&log, &PEOPLE[0], &Change::Open(true));
    let place = next_place(&log);
    let at = |place| Op::sign(place, &PEOPLE[0].signer(), &Change::Open(true), NOW);
    assert_eq!(apply(&mut log, &at(Place { log_id: [9; 16], ..place })), Err(Error::Rejected));
    assert_eq!(apply(&mut log, &at(Place { seq: place.seq + 1, ..place })), Err(Error::Gap));
    assert_eq!(apply(&mut log, &at(Place { prev: [9; 32], ..place })), Err(Error::Rejected));
    assert_eq!(apply(&mut log, &ops[3]), Err(Error::OldSeq));
    assert_eq!(apply(&mut log, &at(Place { seq: 3, ..place })), Err(Error::Rejected));
    let genesis = Change::Create { identity: PEOPLE[0].identity(), kind: LogKind::Group, salt: [0; 32] };
    assert_eq!(attempt(&mut log, 0, &genesis), Err(Error::Rejected));
    assert_eq!(apply(&mut log, &op), Ok(4));
    assert_eq!(apply(&mut log, &op), Err(Error::OldSeq));
}

#[test]
fn an_operation_that_is_not_the_actors_is_refused() {
    let (log, _) = group();
    let change = Change::Open(true);
    let refuse = |op: &[u8], certs: &Certs| {
        let mut copy = log.clone();
        let error = copy.apply(op, certs).unwrap_err();
        assert_eq!(copy, log);
        error
    };
    let op = forced(&log, &PEOPLE[0], &change);
    assert_eq!(refuse(&op, &Certs::default()), Error::UnverifiedDevice);
    assert_eq!(refuse(&op, &Certs::of([&PEOPLE[1]])), Error::UnverifiedDevice);

    let signed = |signer: &Signer<'_>| Op::sign(next_place(&log), signer, &change, NOW);
    let mine = PEOPLE[0].signer();
    let thief = Signer { key: PEOPLE[4].device.signing_key(), ..mine };
    assert_eq!(refuse(&signed(&thief), &certs()), Error::BadSignature);
    let own_cert = Signer { cert_hash: PEOPLE[4].signer().cert_hash, ..thief };
    assert_eq!(refuse(&signed(&own_cert), &certs()), Error::BadSignature, "a certificate of another identity");
    let other_device = Signer { addr: Addr::new(PEOPLE[0].id(), 2), ..mine };
    assert_eq!(refuse(&signed(&other_device), &certs()), Error::NotMember, "a certificate of another device");
    let no_list = Signer { list_seq: 2, ..mine };
    assert_eq!(refuse(&signed(&no_list), &certs()), Error::UnverifiedDevice);

    let fetched = |person: &Person| ActorObjects {
        cert: Some(person.device.certificate().as_bytes().to_vec()),
        list: Some(person.list.as_bytes().to_vec()),
    };
    assert_eq!(log.identity_of(&Op::parse(&op).unwrap()), Ok(PEOPLE[0].identity()));
    assert_eq!(log.clone().apply(&op, &fetched(&PEOPLE[0])), Ok(4));
    assert_eq!(log.clone().apply(&op, &fetched(&PEOPLE[4])), Err(Error::BadSignature));

    let mut flipped = op;
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(refuse(&flipped, &certs()), Error::BadSignature);
}

#[test]
fn weak_keys_are_not_taken_into_the_log() {
    let (mut log, _) = group();
    // A point of order 1.
    let mut weak = [0; 32];
    weak[0] = 1;
    let change = Change::Add { user: [9; 16], identity: weak, role: Role::Member };
    assert_eq!(attempt(&mut log, 0, &change), Err(Error::BadSignature));
    assert_eq!(attempt(&mut log, 0, &Change::AddInvite { key: weak, max_uses: 0, expires: 0 }), Err(Error::BadSignature));
}

/// A second device of person 1, the list (seq 2) that names both devices, and the list (seq 3) that names the second alone.
fn second_device() -> (Person, DeviceList) {
    let first = &PEOPLE[1].device;
    let identity = first.identity_secret().unwrap();
    let addr = Addr::new(PEOPLE[1].id(), 2);
    let device = LocalDevice::under(SigningKey::from_seed(identity.expose_seed()), addr, NOW, &mut TestRng::new(77)).unwrap();
    let sign = |previous: &DeviceList, devices: &[&DeviceCert]| {
        DeviceList::sign(identity, addr.user_id, Some(previous), devices, NOW).unwrap()
    };
    let both = sign(&PEOPLE[1].list, &[first.certificate(), device.certificate()]);
    let list = sign(&both, &[device.certificate()]);
    (Person { device, list }, both)
}

#[test]
fn after_an_anchor_a_removed_device_can_sign_nothing() {
    let (second, both) = second_device();
    let mut certs = Certs::of(PEOPLE.iter().chain([&second]));
    certs.insert_list(both.as_bytes());
    let (mut log, _) = group();
    let removed = PEOPLE[1].signer();

    // The list without the removed device does not cover it.
    let claims_new_list = Signer { list_seq: second.list.seq(), ..removed };
    let op = Op::sign(next_place(&log), &claims_new_list, &Change::Open(true), NOW);
    assert_eq!(log.clone().apply(&op, &certs), Err(Error::Rejected));
    // Until the anchor an old list still does: nobody can tell that it is old.
    let op = Op::sign(next_place(&log), &removed, &Change::Open(true), NOW);
    assert_eq!(log.clone().apply(&op, &certs), Ok(4));

    act(&mut log, &second, &Change::Anchor { discarded: None }, &certs);
    for list_seq in [1, 2] {
        let late = Signer { list_seq, ..removed };
        let op = Op::sign(next_place(&log), &late, &Change::Open(true), NOW);
        assert_eq!(log.clone().apply(&op, &certs), Err(Error::Rejected));
    }
}

#[test]
fn whom_a_removed_device_brought_in_waits_for_an_admin() {
    let (mut log, _) = group();
    attempt(&mut log, 1, &add(&PEOPLE[4], Role::Member)).unwrap();
    let newcomer = PEOPLE[4].id();
    let all_but_1 = |addr: Addr, _: &Hash| addr != PEOPLE[1].device.addr();
    assert!(log.is_confirmed(&newcomer, |_, _| true));
    assert!(!log.is_confirmed(&newcomer, all_but_1));
    attempt(&mut log, 3, &Change::Anchor { discarded: None }).unwrap();
    assert!(!log.is_confirmed(&newcomer, all_but_1), "a member is no admin");
    attempt(&mut log, 0, &Change::Anchor { discarded: None }).unwrap();
    assert!(log.is_confirmed(&newcomer, all_but_1));
    assert!(!log.is_confirmed(&[9; 16], |_, _| true), "nobody");
}

fn invite_log(max_uses: u32, expires: Time) -> (Log, SigningKey) {
    let (mut log, _) = group();
    let secret = SigningKey::from_seed(&[0x77; 32]);
    attempt(&mut log, 0, &Change::AddInvite { key: *secret.public().as_bytes(), max_uses, expires }).unwrap();
    (log, secret)
}

fn join_by(log: &Log, person: usize, secret: &SigningKey, time: Time) -> Result<Vec<u8>, Error> {
    let person = &PEOPLE[person];
    log.sign_join(&person.signer(), person.device.identity(), Some(secret), time)
}

#[test]
fn an_invite_ends_by_uses_by_time_and_by_deletion() {
    let (mut log, secret) = invite_log(1, 0);
    let key = *secret.public().as_bytes();
    let op = join_by(&log, 4, &secret, NOW).unwrap();
    apply(&mut log, &op).unwrap();
    assert_eq!(log.member(&PEOPLE[4].id()).unwrap().role, Role::Member);
    assert_eq!(join_by(&log, 5, &secret, NOW), Err(Error::Rejected), "used up");
    attempt(&mut log, 0, &Change::DeleteInvite { key }).unwrap();
    attempt(&mut log, 0, &Change::AddInvite { key, max_uses: 1, expires: 0 }).unwrap();
    assert_eq!(join_by(&log, 5, &secret, NOW), Err(Error::Rejected), "uses count in the whole log");
    assert_eq!(attempt(&mut log, 0, &Change::AddInvite { key, max_uses: 0, expires: 0 }), Err(Error::Rejected), "known already");

    let (log, secret) = invite_log(0, NOW);
    assert!(join_by(&log, 4, &secret, NOW - 1).is_ok());
    assert_eq!(join_by(&log, 4, &secret, NOW), Err(Error::Rejected));

    let (mut log, secret) = invite_log(0, 0);
    attempt(&mut log, 0, &Change::DeleteInvite { key: *secret.public().as_bytes() }).unwrap();
    assert_eq!(join_by(&log, 4, &secret, NOW), Err(Error::Rejected));
}

#[test]
fn an_invite_proof_is_of_no_use_to_others_or_elsewhere() {
    let (mut log, secret) = invite_log(0, 0);
    let Change::Join { invite: Some(proof), .. } = Op::parse(&join_by(&log, 4, &secret, NOW).unwrap()).unwrap().change else {
        panic!("a join with an invite")
    };
    let copied = |person: usize| Change::Join { identity: PEOPLE[person].identity(), invite: Some(proof) };
    assert_eq!(attempt(&mut log, 5, &copied(5)), Err(Error::BadSignature));
    attempt(&mut log, 0, &Change::Anchor { discarded: None }).unwrap();
    assert_eq!(attempt(&mut log, 4, &copied(4)), Err(Error::BadSignature));
    let stranger = SigningKey::from_seed(&[5; 32]);
    assert_eq!(join_by(&log, 4, &stranger, NOW), Err(Error::Rejected));
}

#[test]
fn at_most_64_invites_are_in_force() {
    let (mut log, _) = group();
    for seed in 0..MAX_INVITES as u8 {
        let key = *SigningKey::from_seed(&[seed; 32]).public().as_bytes();
        attempt(&mut log, 0, &Change::AddInvite { key, max_uses: 0, expires: 0 }).unwrap();
    }
    let change = Change::AddInvite { key: PEOPLE[0].identity(), max_uses: 0, expires: 0 };
    assert_eq!(attempt(&mut log, 0, &change), Err(Error::Rejected));
}

#[test]
fn at_most_1000_members_are_let_in() {
    let (mut log, mut ops) = group();
    // Rebuilt without signatures: one thousand people with keys would take minutes.
    for n in 4..MAX_MEMBERS as u32 {
        let mut user = [0xEE; 16];
        user[..4].copy_from_slice(&n.to_be_bytes());
        ops.push(forced(&log, &PEOPLE[0], &Change::Add { user, identity: PEOPLE[4].identity(), role: Role::Member }));
        log = log_after(&log, ops.last().unwrap());
    }
    assert_eq!(log.members().count(), MAX_MEMBERS);
    assert_eq!(attempt(&mut log, 0, &add(&PEOPLE[4], Role::Member)), Err(Error::Rejected));
    assert_eq!(Log::replay(&LOG, &ops).unwrap(), log);
}

/// As [`Log::replay`] would do for one more operation.
fn log_after(log: &Log, op: &[u8]) -> Log {
    let mut next = log.clone();
    let op = Op::parse(op).unwrap();
    next.replay_one(&op).unwrap();
    next
}

#[test]
fn a_channel_is_attached_once_and_read_only_after_detaching() {
    let (mut log, _) = group();
    let channel = |attach| Change::Channel { channel_id: CHANNEL, attach };
    assert_eq!(log.channel(&CHANNEL), None);
    attempt(&mut log, 1, &channel(true)).unwrap();
    assert_eq!(log.channel(&CHANNEL), Some(ChannelState::Live));
    assert_eq!(attempt(&mut log, 1, &channel(true)), Err(Error::Rejected));
    attempt(&mut log, 1, &channel(false)).unwrap();
    assert_eq!(log.channel(&CHANNEL), Some(ChannelState::ReadOnly));
    assert_eq!(log.channel(&LOG), None, "a group is no channel");

    let (mut own, _) = started(&PEOPLE[0], LogKind::Channel, &certs());
    assert_eq!(own.channel(&LOG), Some(ChannelState::Live));
    assert_eq!(attempt(&mut own, 0, &channel(true)), Err(Error::Rejected), "only groups have channels");
}

#[test]
fn a_log_starts_with_the_pinned_operation_only() {
    let (log, ops) = group();
    let start = |id: &LogId, op: &[u8], pin: Option<&Hash>| Log::start(id, op, pin, &certs()).map(|log| log.epoch());
    assert_eq!(start(&LOG, &ops[0], Some(&log.genesis())), Ok(0));
    assert_eq!(start(&LOG, &ops[0], Some(&[1; 32])), Err(Error::Rejected));
    assert_eq!(start(&[1; 16], &ops[0], None), Err(Error::Rejected));
    assert_eq!(start(&LOG, &ops[1], None), Err(Error::Rejected));
    let mut forged = ops[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(start(&LOG, &forged, None), Err(Error::BadSignature));
}

#[test]
fn equivocation_stops_the_log_until_an_admin_discards_the_other_operation() {
    let (mut log, mut ops) = group();
    let fork = forced(&log, &PEOPLE[1], &Change::Open(true));
    let fork_head = Op::parse(&fork).unwrap().head;
    ops.push(act(&mut log, &PEOPLE[0], &Change::Anchor { discarded: None }, &certs()));
    ops.push(act(&mut log, &PEOPLE[3], &Change::Anchor { discarded: None }, &certs()));

    assert_eq!(apply(&mut log, &fork), Err(Error::Rejected));
    let conflict = log.judge(&fork, &ops, &certs()).unwrap();
    assert_eq!((conflict.seq, conflict.head), (4, fork_head));
    log.stop(conflict.clone());
    log.stop(conflict);
    assert_eq!(log.conflicts().len(), 1);

    let discard = Change::Anchor { discarded: Some(fork_head) };
    assert_eq!(attempt(&mut log, 3, &discard), Err(Error::Rejected), "a member cannot");
    act(&mut log, &PEOPLE[1], &discard, &certs());
    assert!(!log.is_stopped());
    assert_eq!(log.resumed_at(), Some(log.epoch()));
    assert_eq!(log.judge(&fork, &ops, &certs()), Err(Error::Rejected), "ignored for good");
}

#[test]
fn what_would_not_have_been_valid_is_no_equivocation() {
    let (mut log, mut ops) = group();
    let by_member = forced(&log, &PEOPLE[3], &Change::Open(true));
    let mut forged = forced(&log, &PEOPLE[0], &Change::Open(true));
    *forged.last_mut().unwrap() ^= 1;
    ops.push(act(&mut log, &PEOPLE[0], &Change::Anchor { discarded: None }, &certs()));
    let judge = |op: &[u8]| log.judge(op, &ops, &certs());
    assert_eq!(judge(&by_member), Err(Error::Rejected));
    assert_eq!(judge(&forged), Err(Error::Rejected));
    assert_eq!(judge(&ops[4]), Err(Error::OldSeq));
    assert_eq!(judge(&forced(&log, &PEOPLE[0], &Change::Open(true))), Err(Error::Gap));
    assert!(!log.is_stopped());
    let other = Log::create(LOG, LogKind::Group, &PEOPLE[0].signer(), PEOPLE[0].device.identity(), &mut TestRng::new(5), NOW);
    assert_eq!(judge(&other).map(|conflict| conflict.seq), Ok(0), "two beginnings");
}

#[test]
fn every_layout_is_exact() {
    let (log, _) = group();
    let good = forced(&log, &PEOPLE[0], &Change::Remove { user: PEOPLE[3].id(), ban: true });
    assert!(Op::parse(&good).is_ok());
    let (kind, target, identity, arg_len, arg) = (117, 118, 134, 166, 168);
    let change = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Op::parse(&bytes)
    };
    for (at, value) in [(0, 2), (17, 0x80), (kind, 9), (identity, 1), (arg_len, 1), (arg_len + 1, 2), (arg, 2)] {
        assert_eq!(change(at, value), Err(Error::Malformed), "byte {at}");
    }
    let mut nobody = good.clone();
    nobody[target..target + 16].fill(0);
    assert_eq!(Op::parse(&nobody), Err(Error::Malformed));
    for len in 0..good.len() {
        assert_eq!(Op::parse(&good[..len]), Err(Error::Malformed));
    }
    assert_eq!(Op::parse(&[good, vec![0]].concat()), Err(Error::Malformed));
    let foreign_leave = {
        let mut bytes = forced(&log, &PEOPLE[3], &Change::Leave);
        bytes[target] ^= 1;
        bytes
    };
    assert_eq!(Op::parse(&foreign_leave), Err(Error::Malformed), "one can leave only oneself");
}

#[test]
fn a_mistyped_invite_is_refused() {
    let invite = Invite { log_id: LOG, genesis: [7; 32], key: SigningKey::from_seed(&[8; 32]) };
    let text = invite.to_text();
    assert_eq!(text.len(), 5 + 136);
    let read = |text: &str| Invite::from_text(text).map(|invite| (invite.log_id, invite.genesis, *invite.key.expose_seed()));
    assert_eq!(read(&format!(" {}\n", text.to_lowercase())), Ok((LOG, [7; 32], [8; 32])));
    for at in 0..text.len() {
        let mut wrong = text.to_string();
        let letter = if &text[at..=at] == "A" { "B" } else { "A" };
        wrong.replace_range(at..=at, letter);
        assert_eq!(read(&wrong), Err(Error::Malformed), "letter {at}");
    }
    for junk in ["", "TCI1-", "TCI1-AAAA", "chat://host/i/code", &text[..140], &format!("{}AA", text.as_str())] {
        assert_eq!(read(junk), Err(Error::Malformed), "{junk}");
    }
    let debug = format!("{invite:?}");
    assert!(!debug.contains("key") && !debug.contains("8, 8"), "{debug}");
}

#[test]
fn a_certificate_without_the_device_signature_is_no_certificate() {
    let (log, _) = group();
    let device = &PEOPLE[0].device;
    let stranger = SigningKey::from_seed(&[3; 32]);
    // The user key vouches for a key of somebody else, without that one's proof.
    let body = CertBody {
        addr: device.addr(),
        signing_key: stranger.public(),
        dh_key: *device.certificate().dh_key(),
        created: NOW,
        caps: CAPS_SUITE_1,
    };
    let by_user = device.identity_secret().unwrap().sign(super::super::labels::CERT_USER, &[&body.to_bytes()]);
    let cert = [&body.to_bytes()[..], &by_user, &[0; 64]].concat();
    let mut certs = certs();
    certs.insert_cert(&cert);
    let signer = Signer { cert_hash: super::super::kdf::hash(&[&cert]), key: &stranger, ..PEOPLE[0].signer() };
    let op = Op::sign(next_place(&log), &signer, &Change::Open(true), NOW);
    assert_eq!(log.clone().apply(&op, &certs), Err(Error::BadSignature));
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Moderator), Just(Role::Admin), Just(Role::Owner)]
}

fn any_change() -> impl Strategy<Value = Change> {
    let person = || 0..PEOPLE.len();
    let key = || (0..3_u8).prop_map(|seed| *SigningKey::from_seed(&[seed; 32]).public().as_bytes());
    prop_oneof![
        4 => (person(), any_role()).prop_map(|(person, role)| add(&PEOPLE[person], role)),
        2 => (person(), any::<bool>()).prop_map(|(person, ban)| Change::Remove { user: PEOPLE[person].id(), ban }),
        1 => Just(Change::Leave),
        3 => (person(), any_role()).prop_map(|(person, role)| Change::SetRole { user: PEOPLE[person].id(), role }),
        2 => any::<bool>().prop_map(Change::Open),
        1 => (key(), 0..3_u32).prop_map(|(key, max_uses)| Change::AddInvite { key, max_uses, expires: 0 }),
        1 => key().prop_map(|key| Change::DeleteInvite { key }),
        1 => person().prop_map(|person| Change::Unban { user: PEOPLE[person].id() }),
        1 => (0..3_u8).prop_map(|role| Change::InviteRole(Role::from_byte(role).unwrap())),
        1 => any::<Option<[u8; 32]>>().prop_map(|discarded| Change::Anchor { discarded }),
        2 => any::<bool>().prop_map(|attach| Change::Channel { channel_id: CHANNEL, attach }),
    ]
}

/// An actor, what it tries (`None`: a join, with the invite of this seed or none), and a bit to flip.
type Try = (usize, Option<Change>, Option<u8>, Option<(u16, u8)>);

fn any_try() -> impl Strategy<Value = Try> {
    let change = prop_oneof![4 => any_change().prop_map(Some), 1 => Just(None)];
    let flip = prop_oneof![3 => Just(None), 1 => any::<(u16, u8)>().prop_map(Some)];
    (0..PEOPLE.len(), change, proptest::option::of(0..3_u8), flip)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_members_agree_and_invalid_operations_change_nothing(tries in proptest::collection::vec(any_try(), 1..40)) {
        let certs = certs();
        let (mut one, genesis) = started(&PEOPLE[0], LogKind::Group, &certs);
        let mut two = Log::start(&LOG, &genesis, Some(&one.genesis()), &certs).unwrap();
        let mut ops = vec![genesis];
        for (actor, change, invite, flip) in tries {
            let actor = &PEOPLE[actor];
            let mut op = match change {
                Some(change) => forced(&one, actor, &change),
                None => {
                    let proof = invite.map(|seed| {
                        InviteProof::sign(&SigningKey::from_seed(&[seed; 32]), next_place(&one), actor.id(), &actor.identity())
                    });
                    forced(&one, actor, &Change::Join { identity: actor.identity(), invite: proof })
                }
            };
            if let Some((at, bit)) = flip {
                let at = usize::from(at) % op.len();
                op[at] ^= 1 << (bit % 8);
            }
            let before = one.clone();
            let result = one.apply(&op, &certs);
            prop_assert_eq!(two.apply(&op, &certs), result);
            match result {
                Ok(epoch) => {
                    prop_assert!(flip.is_none(), "every bit is signed");
                    prop_assert_eq!(epoch, one.epoch());
                    ops.push(op);
                }
                Err(_) => prop_assert_eq!(&one, &before),
            }
            prop_assert_eq!(&one, &two);
            two = Log::from_record(&two.to_record()).unwrap();
            let owners = one.members().filter(|(_, member)| member.role == Role::Owner).count();
            prop_assert_eq!(owners, 1);
            prop_assert!(one.members().all(|(user, _)| !one.is_banned(user)));
        }
        prop_assert_eq!(Log::replay(&LOG, &ops), Ok(one));
    }

    #[test]
    fn reading_junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Op::parse(&bytes);
        let _ = Log::from_record(&bytes);
        let _ = Invite::from_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_record_never_panics(at: u16, value: u8, cut: u16) {
        let mut record = group().0.to_record();
        let len = record.len();
        record[usize::from(at) % len] = value;
        record.truncate(len - usize::from(cut) % len);
        let _ = Log::from_record(&record);
    }
}
