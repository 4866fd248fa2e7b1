//! What a stolen state gives away: nothing older (forward secrecy), nothing newer after a round trip (post-compromise
//! security), and nothing at all when it is printed.

use super::*;
use crate::crypto::ratchet::MAX_SKIP;
use crate::crypto::session::Session;

fn open(state: &Session, sealed: &Sealed, now: Time) -> Result<String, Error> {
    let frame = Frame::parse_dm(&sealed.frame).unwrap();
    state.decrypt(&sealed.wire_nonce, &frame, now).map(|(_, plain)| text_of(&plain))
}

#[test]
fn a_stolen_state_cannot_open_older_messages() {
    let mut pair = Pair::talking();
    let mut older: Vec<Sealed> = (0..3).map(|_| pair.alice_says("in this chain", NOW).unwrap()).collect();
    pair.bob_says("turn", NOW).unwrap();
    older.extend((0..3).map(|_| pair.alice_says("in the next chain", NOW).unwrap()));
    let stolen = pair.bob.sessions.sessions()[0].clone();
    for sealed in &older {
        assert_eq!(open(&stolen, sealed, NOW).unwrap_err(), Error::Replay);
    }
    // The thief is not held back by counters. The keys themselves are gone.
    let rewound = stolen.rewound();
    for sealed in &older {
        assert_eq!(open(&rewound, sealed, NOW).unwrap_err(), Error::Undecryptable);
    }
    let next = pair.alice.send("next", &mut pair.rng, NOW);
    assert_eq!(open(&stolen, &next, NOW).unwrap(), "next", "the state is a working one");
}

#[test]
fn a_stolen_state_cannot_open_newer_messages_after_a_round_trip() {
    let mut pair = Pair::talking();
    let stolen = pair.alice.sessions.sessions()[0].clone();
    let readable = pair.bob_says("the thief reads this", NOW).unwrap();
    assert_eq!(open(&stolen, &readable, NOW).unwrap(), "the thief reads this");
    let frame = Frame::parse_dm(&readable.frame).unwrap();
    let (following, _) = stolen.decrypt(&readable.wire_nonce, &frame, NOW).unwrap();
    pair.alice_says("with a fresh ratchet key", NOW).unwrap();
    for _ in 0..2 {
        let healed = pair.bob_says("not this", NOW).unwrap();
        for state in [&stolen, &following] {
            assert_eq!(open(state, &healed, NOW).unwrap_err(), Error::Undecryptable);
        }
    }
}

#[test]
fn a_state_that_was_rolled_back_never_seals_twice_alike() {
    let pair = Pair::talking();
    let (mut one, mut two) = (TestRng::new(1), TestRng::new(2));
    let (_, first) = pair.alice.sessions.encrypt(&content("first"), &mut one, NOW).unwrap();
    let (_, second) = pair.alice.sessions.encrypt(&content("first"), &mut two, NOW).unwrap();
    assert_eq!(first.n, second.n);
    assert_ne!(first.frame[60..], second.frame[60..], "the wire nonce is in the key derivation");
}

#[test]
fn skipped_keys_expire_and_are_bounded() {
    let mut pair = Pair::talking();
    let late = pair.alice.send("late", &mut pair.rng, NOW);
    pair.alice_says("now", NOW).unwrap();
    let fourteen_days = NOW + 14 * DAY;
    let still = pair.bob.sessions.sessions()[0].clone();
    assert_eq!(open(&still, &late, fourteen_days).unwrap(), "late");
    assert_eq!(open(&still, &late, fourteen_days + 1).unwrap_err(), Error::Replay, "its chain is past it");

    for _ in 0..MAX_SKIP {
        pair.alice.send("dropped", &mut pair.rng, NOW);
    }
    let mut too_far = pair.alice.sessions.clone();
    pair.alice_says("exactly the gap that is allowed", NOW).unwrap();
    let skipped = pair.bob.sessions.sessions()[0].skipped_len();
    assert_eq!(skipped, MAX_SKIP as usize + 1);
    for _ in 0..2 {
        too_far = too_far.encrypt(&content("x"), &mut pair.rng, NOW).unwrap().0;
    }
    for _ in 0..MAX_SKIP {
        too_far = too_far.encrypt(&content("x"), &mut pair.rng, NOW).unwrap().0;
    }
    let (_, sealed) = too_far.encrypt(&content("x"), &mut pair.rng, NOW).unwrap();
    let state = pair.bob.state();
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::TooFarAhead);
    assert_eq!(pair.bob.state(), state);
}

#[test]
fn skipped_keys_of_an_idle_session_expire_too() {
    let mut pair = Pair::talking();
    let late = pair.alice.send("late", &mut pair.rng, NOW);
    pair.alice_says("now", NOW).unwrap();
    let fourteen_days = NOW + 14 * DAY;
    assert!(!pair.bob.sessions.prune_due(fourteen_days) && pair.bob.sessions.prune_due(fourteen_days + 1));
    let kept = pair.bob.sessions.prune(fourteen_days);
    assert_eq!(kept.sessions()[0].skipped_len(), 1);
    let pruned = pair.bob.sessions.prune(fourteen_days + 1);
    assert_eq!(pruned.sessions()[0].skipped_len(), 0);
    assert!(!pruned.prune_due(fourteen_days + 1));
    assert_eq!(open(&pruned.sessions()[0], &late, NOW).unwrap_err(), Error::Replay, "whoever steals the state then");
}

#[test]
fn nothing_that_holds_secrets_prints_them() {
    let mut pair = Pair::talking();
    pair.alice.send("skipped", &mut pair.rng, NOW);
    let sealed = pair.alice.send("secret words", &mut pair.rng, NOW);
    let frame = Frame::parse_dm(&sealed.frame).unwrap();
    let bob = &pair.bob;
    let opened = bob.sessions.open(&bob.device, &bob.keys, &bob.peer, &sealed.wire_nonce, &frame, NOW).unwrap();
    let printed = format!("{opened:?} {opened:#?} {bob:?} {bob:#?} {:?}", opened.sessions.sessions());
    assert!(!printed.contains("secret words"));
    let state = opened.sessions.sessions()[0].as_json();
    let mut secrets: Vec<String> = ["rk", "cks", "ckr"].iter().map(|key| state[key].as_str().unwrap().to_owned()).collect();
    secrets.push(state["skipped"][0][2].as_str().unwrap().to_owned());
    secrets.push(hex::encode(bob.device.signing_key().expose_seed()));
    secrets.push(hex::encode(bob.device.dh_key().expose_secret()));
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let bytes = hex::decode(secret).unwrap();
        assert!(!printed.contains(secret.as_str()) && !printed.contains(&format!("{:?}", &bytes[..8])), "{printed}");
    }
    let shown = format!("{:?}", opened.sessions.sessions()[0]);
    let ratchet_keys: Vec<_> = ["dhs_pub", "dhr"].iter().map(|key| state[key].as_str().unwrap()).collect();
    assert_eq!(
        shown,
        format!(
            "Session {{ id: \"{}\", generation: 1, role: Responder, me: Addr({}/1), peer: Addr({}/1), \
             ratchet: Ratchet {{ own: DhPublic({}), peer: Some(DhPublic({})), sending: false, receiving: true, \
             ns: 1, nr: 2, pn: 0, skipped: 1, .. }}, unacked: false, receive_only: false, created: {NOW}, \
             last_received: Some({NOW}), carried: 3, .. }}",
            hex::encode(sealed.session_id),
            "0b".repeat(16),
            "0a".repeat(16),
            ratchet_keys[0],
            ratchet_keys[1],
        )
    );
}

#[test]
fn messages_that_were_passed_over_are_missing_until_they_come() {
    let mut pair = Pair::talking();
    let late: Vec<_> = ["one", "two"].iter().map(|text| pair.alice.send(text, &mut pair.rng, NOW)).collect();
    assert_eq!(pair.bob.sessions.missing(0, NOW), 0);
    pair.alice_says("three", NOW).unwrap();
    let missing =
        |pair: &Pair| [(0, NOW), (NOW, NOW + 1), (0, NOW - 1)].map(|(after, until)| pair.bob.sessions.missing(after, until));
    assert_eq!(missing(&pair), [2, 0, 0], "by when they were passed over");
    pair.bob.receive(&late[1], NOW + 5).unwrap();
    assert_eq!(missing(&pair), [1, 0, 0]);
    pair.bob.receive(&late[0], NOW + 5).unwrap();
    assert_eq!(missing(&pair), [0, 0, 0]);
}
