//! Which session is used (section 10.2).

use super::*;
use crate::crypto::session::UNACKED_USE;
use crate::crypto::session_set::{IDLE, MAX_SESSIONS};

fn active(side: &Side, now: Time) -> Option<[u8; 16]> {
    side.sessions.active(now).map(|session| *session.id())
}

#[test]
fn sessions_that_cross_converge_to_the_larger_id() {
    for seed in 0..6 {
        let mut pair = Pair::with_seed(seed);
        pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
        pair.bob.initiate(&mut pair.alice.published, &mut pair.rng, NOW);
        let from_alice = pair.alice.send("from alice", &mut pair.rng, NOW);
        let from_bob = pair.bob.send("from bob", &mut pair.rng, NOW);
        assert_ne!(active(&pair.alice, NOW), active(&pair.bob, NOW), "each uses its own until the other's is in");
        assert_eq!(text_of(&pair.bob.receive(&from_alice, NOW).unwrap()), "from alice");
        assert_eq!(text_of(&pair.alice.receive(&from_bob, NOW).unwrap()), "from bob");
        let larger = from_alice.session_id.max(from_bob.session_id);
        assert_eq!(active(&pair.alice, NOW), Some(larger));
        assert_eq!(active(&pair.bob, NOW), Some(larger));
        pair.alice_says("on the same", NOW).unwrap();
        pair.bob_says("and back", NOW).unwrap();
    }
}

#[test]
fn a_new_handshake_has_the_next_generation_and_wins() {
    let mut pair = Pair::talking();
    let old = active(&pair.alice, NOW).unwrap();
    pair.bob.initiate(&mut pair.alice.published, &mut pair.rng, NOW);
    assert_eq!(pair.bob.sessions.active(NOW).unwrap().generation(), 2);
    let late = pair.alice.send("on the old one", &mut pair.rng, NOW);
    pair.bob_says("on the new one", NOW).unwrap();
    assert_eq!(active(&pair.alice, NOW), active(&pair.bob, NOW));
    assert_ne!(active(&pair.alice, NOW), Some(old));
    assert_eq!(text_of(&pair.bob.receive(&late, NOW).unwrap()), "on the old one");
}

#[test]
fn a_peer_that_lost_its_state_is_not_written_to_on_it() {
    let mut pair = Pair::talking();
    let lost = active(&pair.alice, NOW).unwrap();
    // Bob lost everything and starts anew, with the generation that he can know.
    pair.bob.sessions = SessionSet::new(pair.alice.device.addr());
    pair.bob.initiate(&mut pair.alice.published, &mut pair.rng, NOW);
    let retry = pair.bob.send("please again", &mut pair.rng, NOW);
    pair.alice.receive(&retry, NOW).unwrap();
    pair.alice.sessions = pair.alice.sessions.lost(&lost, &retry.session_id);
    assert_eq!(active(&pair.alice, NOW), Some(retry.session_id));
    assert!(pair.alice.sessions.get(&lost).unwrap().is_receive_only());
    pair.alice_says("here", NOW).unwrap();
    // About the session that the request came by, or an unknown one, it says nothing.
    let same = pair.alice.sessions.lost(&retry.session_id, &retry.session_id);
    assert_eq!(same.active(NOW).map(|session| *session.id()), Some(retry.session_id));
    let unknown = pair.alice.sessions.lost(&[9; 16], &retry.session_id);
    assert_eq!(unknown.active(NOW).map(|session| *session.id()), Some(retry.session_id));
}

#[test]
fn a_frame_that_opens_makes_a_session_live_again() {
    let mut pair = Pair::talking();
    let session = pair.alice.sessions.sessions()[0].clone().into_receive_only();
    pair.alice.sessions = SessionSet::from_parts(pair.bob.device.addr(), 1, vec![session.clone()]);
    assert!(active(&pair.alice, NOW).is_none());
    assert_eq!(session.encrypt(&content("no"), &mut pair.rng, NOW).unwrap_err(), Error::Limit);
    assert_eq!(pair.alice.sessions.encrypt(&content("no"), &mut pair.rng, NOW).unwrap_err(), Error::UnknownSession);
    pair.bob_says("I am here", NOW).unwrap();
    assert!(active(&pair.alice, NOW).is_some());
}

#[test]
fn an_unanswered_session_is_given_up_after_thirty_days() {
    let mut pair = Pair::new();
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    assert!(active(&pair.alice, NOW + UNACKED_USE).is_some());
    assert!(active(&pair.alice, NOW + UNACKED_USE + 1).is_none());
}

#[test]
fn idle_sessions_go_but_the_active_one_and_the_generation_stay() {
    let mut pair = Pair::talking();
    let old = active(&pair.alice, NOW).unwrap();
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    let new = active(&pair.alice, NOW).unwrap();
    pair.alice_says("new", NOW).unwrap();
    pair.bob_says("new too", NOW).unwrap();
    assert!(pair.alice.sessions.prune(NOW + IDLE - 1).get(&old).is_some());
    let pruned = pair.alice.sessions.prune(NOW + IDLE);
    assert!(pruned.get(&old).is_none() && pruned.get(&new).is_some());
    assert_eq!(pruned.max_generation(), 2);
}

#[test]
fn above_nine_the_smallest_sessions_go_first() {
    let mut pair = Pair::new();
    for _ in 0..MAX_SESSIONS + 3 {
        pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
        pair.alice_says("hello", NOW).unwrap();
    }
    for side in [&pair.alice, &pair.bob] {
        let mut generations: Vec<u32> = side.sessions.sessions().iter().map(|session| session.generation()).collect();
        generations.sort_unstable();
        assert_eq!(generations, (4..=12).collect::<Vec<u32>>());
        assert_eq!(side.sessions.max_generation(), 12);
    }
    // Receive-only sessions go before smaller live ones.
    let sessions = pair
        .alice
        .sessions
        .sessions()
        .iter()
        .cloned()
        .map(|session| if session.generation() == 8 { session.into_receive_only() } else { session });
    pair.alice.sessions = SessionSet::from_parts(pair.bob.device.addr(), 12, sessions.collect());
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    let generations: Vec<u32> = pair.alice.sessions.sessions().iter().map(|session| session.generation()).collect();
    assert!(!generations.contains(&8) && generations.contains(&4) && generations.contains(&13));
}

#[test]
fn the_initiator_renews_first_by_age_or_by_count() {
    let mut pair = Pair::talking();
    assert!(!pair.alice.sessions.renewal_due(NOW + 7 * DAY - 1) && pair.alice.sessions.renewal_due(NOW + 7 * DAY));
    assert!(!pair.bob.sessions.renewal_due(NOW + 14 * DAY - 1) && pair.bob.sessions.renewal_due(NOW + 14 * DAY));
    for _ in 0..1_998 {
        pair.alice.send("more", &mut pair.rng, NOW);
    }
    assert!(pair.alice.sessions.renewal_due(NOW), "2,000 frames carried");
    let mut pair = Pair::new();
    pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
    assert!(!pair.alice.sessions.renewal_due(NOW + 20 * DAY), "not before the peer answered");
}

#[test]
fn a_frame_of_no_known_session_is_unknown() {
    let mut pair = Pair::talking();
    let sealed = pair.alice.send("hello", &mut pair.rng, NOW);
    pair.bob.sessions = SessionSet::new(pair.alice.device.addr());
    assert_eq!(pair.bob.receive(&sealed, NOW).unwrap_err(), Error::UnknownSession);
}
