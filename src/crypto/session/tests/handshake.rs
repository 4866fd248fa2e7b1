//! The responder's checks in their order (section 6), each with the state unchanged, and what a first message uses up.

use super::*;
use crate::crypto::handshake;
use crate::crypto::prekeys::{KEPT_REPLACED, ROTATION};
use crate::crypto::session::Role;
use crate::crypto::wire::Writer;

/// Alice's first frame to Bob, not delivered.
fn first_frame() -> (Pair, Sealed) {
    let mut pair = Pair::new();
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    let sealed = pair.alice.send("hello", &mut pair.rng, NOW);
    (pair, sealed)
}

#[test]
fn a_first_message_opens_once_and_uses_up_its_one_time_prekeys() {
    let (mut pair, sealed) = first_frame();
    let before = pair.bob.keys.to_record().len();
    assert_eq!(text_of(&pair.bob.receive(&sealed, NOW).unwrap()), "hello");
    assert!(pair.bob.keys.to_record().len() < before + 40, "two secrets went, one hash came");
    let session = pair.bob.sessions.active(NOW).unwrap();
    assert_eq!((session.role(), session.peer(), session.generation()), (Role::Responder, pair.alice.device.addr(), 1));
    assert!(session.had_one_time_prekey() && !session.is_unacked());
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::Replay);
    // The same frame again when the session is gone: the handshake itself is remembered.
    pair.bob.sessions = SessionSet::new(pair.alice.device.addr());
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::Replay);
}

#[test]
fn frames_carry_the_handshake_until_the_peer_answers() {
    let (mut pair, first) = first_frame();
    let second = pair.alice.send("second", &mut pair.rng, NOW);
    assert_eq!((first.frame[1], second.frame[1]), (2, 2));
    // The second arrives first: it opens as well as the first would.
    assert_eq!(text_of(&pair.bob.receive(&second, NOW).unwrap()), "second");
    assert_eq!(text_of(&pair.bob.receive(&first, NOW).unwrap()), "hello");
    pair.bob_says("answer", NOW).unwrap();
    assert_eq!(pair.alice_says("third", NOW).unwrap().frame[1], 1);
}

#[test]
fn the_last_resort_prekey_serves_when_the_one_time_prekeys_are_gone() {
    let mut pair = Pair::new();
    for _ in 0..4 {
        pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
        pair.alice_says("hello", NOW).unwrap();
    }
    assert!(!pair.bob.sessions.active(NOW).unwrap().had_one_time_prekey());
}

#[test]
fn another_identity_key_comes_before_everything_else() {
    let (mut pair, sealed) = first_frame();
    let state = pair.bob.state();
    let forged = flip(&sealed, 8 * offset_of("uik"));
    assert_eq!(pair.bob.receive(&forged, NOW).unwrap_err(), Error::IdentityChanged);
    assert_eq!(pair.bob.state(), state);
}

#[test]
fn a_certificate_must_verify_and_be_listed() {
    let (mut pair, sealed) = first_frame();
    let state = pair.bob.state();
    let in_signature = flip(&sealed, 8 * (offset_of("cert") + 100));
    assert_eq!(pair.bob.receive(&in_signature, NOW).unwrap_err(), Error::BadSignature);

    // A second device of Alice's that Bob's pinned list does not name.
    let identity = crate::crypto::signature::SigningKey::from_seed(pair.alice.device.identity_secret().unwrap().expose_seed());
    pair.alice.device = LocalDevice::under(identity, Addr::new([0xA; 16], 2), NOW, &mut pair.rng).unwrap();
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    let sealed = pair.alice.send("who am I", &mut pair.rng, NOW);
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::Rejected, "the server named device 1");
    pair.bob.sessions = SessionSet::new(pair.alice.device.addr());
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::UnverifiedDevice);
    assert_eq!(pair.bob.keys.to_record().to_vec(), state[0]);
}

#[test]
fn a_generation_may_not_jump_far() {
    let (mut pair, _) = first_frame();
    pair.bob.sessions = SessionSet::from_parts(pair.alice.device.addr(), 5, vec![]);
    let with_generation = |generation: u32, pair: &mut Pair| {
        pair.alice.sessions = SessionSet::from_parts(pair.bob.device.addr(), generation - 1, vec![]);
        pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
        let sealed = pair.alice.send("hello", &mut pair.rng, NOW);
        pair.bob.receive(&sealed, NOW).map(|_| ())
    };
    assert_eq!(with_generation(1_006, &mut pair), Err(Error::Rejected));
    assert_eq!(pair.bob.sessions.max_generation(), 5);
    assert_eq!(with_generation(1_005, &mut pair), Ok(()));
    assert_eq!(pair.bob.sessions.max_generation(), 1_005);
    // Without any session ever, every generation is the first.
    pair.bob.sessions = SessionSet::new(pair.alice.device.addr());
    assert_eq!(with_generation(40_000, &mut pair), Ok(()));
}

#[test]
fn generations_end_with_a_limit() {
    let mut pair = Pair::new();
    pair.alice.sessions = SessionSet::from_parts(pair.bob.device.addr(), (1 << 31) - 1, vec![]);
    let bundle = pair.bob.published.take().verify(&pair.alice.peer, NOW).unwrap();
    let outcome = pair.alice.sessions.initiate(&pair.alice.device, &bundle, &mut pair.rng, NOW);
    assert_eq!(outcome.unwrap_err(), Error::Limit);
    assert_eq!(handshake::initiate(&pair.alice.device, &bundle, 0, &mut pair.rng, NOW).unwrap_err(), Error::Limit);
}

#[test]
fn a_bundle_of_another_device_is_refused() {
    let mut pair = Pair::new();
    let bundle = pair.bob.published.take().verify(&pair.alice.peer, NOW).unwrap();
    let wrong = SessionSet::new(stranger());
    assert_eq!(wrong.initiate(&pair.alice.device, &bundle, &mut pair.rng, NOW).unwrap_err(), Error::Rejected);
}

#[test]
fn prekeys_that_are_gone_are_named() {
    for field in ["spk_id", "opk_id", "kpk_id"] {
        let (mut pair, sealed) = first_frame();
        let state = pair.bob.state();
        let other_id = flip(&sealed, 8 * (offset_of(field) + 3) + 6);
        assert_eq!(pair.bob.receive(&other_id, NOW).unwrap_err(), Error::PrekeyGone, "{field}");
        assert_eq!(pair.bob.state(), state);
    }
    let (mut pair, sealed) = first_frame();
    pair.bob.keys.rotate(&pair.bob.device, NOW + ROTATION, &mut pair.rng).unwrap();
    pair.bob.keys.expire(NOW + ROTATION + KEPT_REPLACED);
    assert_eq!(pair.bob.receive(&sealed, NOW + ROTATION + KEPT_REPLACED).unwrap_err(), Error::PrekeyGone);
}

#[test]
fn whatever_else_of_a_first_frame_changes_it_does_not_open() {
    for (field, expected) in
        [("gen", Error::Malformed), ("ek", Error::Malformed), ("kem_ct", Error::Malformed), ("session_id", Error::Malformed)]
    {
        let (mut pair, sealed) = first_frame();
        let state = pair.bob.state();
        let last_byte = if field == "gen" { 3 } else { 0 };
        let changed = flip(&sealed, 8 * (offset_of(field) + last_byte) + 1);
        assert_eq!(pair.bob.receive(&changed, NOW).unwrap_err(), expected, "{field}");
        assert_eq!(pair.bob.state(), state);
    }
    let (mut pair, sealed) = first_frame();
    let state = pair.bob.state();
    let end = 8 * sealed.frame.len() - 1;
    assert_eq!(pair.bob.receive(&flip(&sealed, end), NOW).unwrap_err(), Error::Undecryptable);
    assert_eq!(pair.bob.state(), state);
    // The prekeys are still there for the real frame.
    assert_eq!(text_of(&pair.bob.receive(&sealed, NOW).unwrap()), "hello");
}

#[test]
fn an_ephemeral_key_of_low_order_is_refused() {
    let (mut pair, mut sealed) = first_frame();
    let state = pair.bob.state();
    sealed.frame[offset_of("ek")..][..32].fill(0);
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::LowOrder);
    assert_eq!(pair.bob.state(), state);
}

#[test]
fn a_bundle_with_keys_of_low_order_leaves_no_session() {
    let mut pair = Pair::new();
    let mut bundle = pair.bob.published.take().verify(&pair.alice.peer, NOW).unwrap();
    bundle.one_time.as_mut().unwrap().public.0.fill(0);
    let outcome = pair.alice.sessions.initiate(&pair.alice.device, &bundle, &mut pair.rng, NOW);
    assert_eq!(outcome.unwrap_err(), Error::LowOrder);
}

#[test]
fn authentic_bytes_that_are_no_content_are_malformed_and_change_nothing() {
    let mut pair = Pair::talking();
    let (sessions, sealed) = pair.alice.sessions.encrypt(&[0xFF; 40], &mut pair.rng, NOW).unwrap();
    pair.alice.sessions = sessions;
    let state = pair.bob.state();
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::Malformed);
    assert_eq!(pair.bob.state(), state);
}

#[test]
fn content_that_does_not_fit_is_a_limit() {
    let pair = Pair::talking();
    let mut rng = TestRng::new(5);
    assert!(pair.alice.sessions.encrypt(&[0; 61_439], &mut rng, NOW).is_ok());
    assert_eq!(pair.alice.sessions.encrypt(&[0; 61_440], &mut rng, NOW).unwrap_err(), Error::Limit);
}

#[test]
fn records_of_other_versions_or_lengths_are_refused() {
    let pair = Pair::talking();
    let record = pair.alice.sessions.sessions()[0].to_record();
    let read = crate::crypto::session::Session::from_record;
    assert!(read(&record).is_ok());
    for len in 0..record.len() {
        assert_eq!(read(&record[..len]).unwrap_err(), Error::Malformed, "{len} bytes");
    }
    assert_eq!(read(&[&record[..], &[0]].concat()).unwrap_err(), Error::Malformed);
    let newer = Writer::default().u8(2).bytes(&record[1..]).finish();
    assert_eq!(read(&newer).unwrap_err(), Error::Unsupported);
}
