//! Any loss, repetition, reordering and corruption: the exact plaintext once, or a typed error with the state unchanged.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::crypto::session::Session;

/// One move of the network or of a user.
#[derive(Clone, Debug)]
enum Move {
    Send {
        alice: bool,
    },
    NewSession {
        alice: bool,
    },
    /// The `index`-th of all frames ever sent, whether it arrived before or not.
    Deliver {
        index: prop::sample::Index,
    },
    Corrupt {
        index: prop::sample::Index,
        bit: prop::sample::Index,
    },
    CorruptNonce {
        index: prop::sample::Index,
        bit: usize,
    },
    /// To the one who sent it.
    Reflect {
        index: prop::sample::Index,
    },
    /// Through the store.
    Restart {
        alice: bool,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let index = any::<prop::sample::Index>;
    let one = prop_oneof![
        6 => any::<bool>().prop_map(|alice| Move::Send { alice }),
        1 => any::<bool>().prop_map(|alice| Move::NewSession { alice }),
        8 => index().prop_map(|index| Move::Deliver { index }),
        2 => (index(), index()).prop_map(|(index, bit)| Move::Corrupt { index, bit }),
        1 => (index(), 0..96_usize).prop_map(|(index, bit)| Move::CorruptNonce { index, bit }),
        1 => index().prop_map(|index| Move::Reflect { index }),
        1 => any::<bool>().prop_map(|alice| Move::Restart { alice }),
    ];
    prop::collection::vec(one, 1..120)
}

struct InFlight {
    from_alice: bool,
    text: String,
    sealed: Sealed,
    /// The number of the sender's chain within its session.
    chain: usize,
}

/// The network with everything that was ever sent.
struct Network {
    pair: Pair,
    sent: Vec<InFlight>,
    opened: BTreeSet<usize>,
    /// Per session and sender, its ratchet keys in order.
    chains: BTreeMap<([u8; 16], bool), Vec<[u8; 32]>>,
    /// Per session and sender, the newest chain of which the receiver opened a frame.
    newest: BTreeMap<([u8; 16], bool), usize>,
}

impl Network {
    fn new() -> Self {
        Self { pair: Pair::new(), sent: vec![], opened: BTreeSet::new(), chains: BTreeMap::new(), newest: BTreeMap::new() }
    }

    fn side(&mut self, alice: bool) -> &mut Side {
        if alice { &mut self.pair.alice } else { &mut self.pair.bob }
    }

    fn new_session(&mut self, alice: bool) {
        let Pair { alice: a, bob: b, rng } = &mut self.pair;
        let (from, to) = if alice { (a, b) } else { (b, a) };
        // More than nine sessions lose the oldest: right, but not what this property is about.
        if from.sessions.max_generation().max(to.sessions.max_generation()) < 4 {
            from.initiate(&mut to.published, rng, NOW);
        }
    }

    fn send(&mut self, alice: bool) {
        if self.side(alice).sessions.active(NOW).is_none() {
            self.new_session(alice);
        }
        if self.side(alice).sessions.active(NOW).is_none() {
            return;
        }
        let text = format!("message {}", self.sent.len());
        let Pair { alice: a, bob: b, rng } = &mut self.pair;
        let sealed = if alice { a } else { b }.send(&text, rng, NOW);
        let chains = self.chains.entry((sealed.session_id, alice)).or_default();
        if chains.last() != Some(&sealed.ratchet_key.0) {
            chains.push(sealed.ratchet_key.0);
        }
        let chain = chains.len();
        self.sent.push(InFlight { from_alice: alice, text, sealed, chain });
    }

    fn deliver(&mut self, index: usize) {
        let InFlight { from_alice, ref text, ref sealed, chain } = self.sent[index];
        let (text, sealed, key) = (text.clone(), sealed.clone(), (sealed.session_id, from_alice));
        let before = self.side(!from_alice).state();
        match self.side(!from_alice).receive(&sealed, NOW) {
            Ok(plain) => {
                assert_eq!(text_of(&plain), text);
                assert!(self.opened.insert(index), "opened twice");
                let newest = self.newest.entry(key).or_default();
                *newest = chain.max(*newest);
            }
            Err(error) => {
                assert_eq!(self.side(!from_alice).state(), before);
                let distance = self.newest.get(&key).map_or(0, |newest| newest.saturating_sub(chain));
                let expected = match (self.opened.contains(&index), error) {
                    (true, Error::Replay) => true,
                    // A chain older than the four retired ones is forgotten, opened or not.
                    (_, Error::Undecryptable) => distance > 4,
                    _ => false,
                };
                assert!(expected, "{error:?} for frame {index}, {distance} chains back");
            }
        }
    }

    fn refuse(&mut self, to_alice: bool, sealed: &Sealed) {
        let before = self.side(to_alice).state();
        assert!(self.side(to_alice).receive(sealed, NOW).is_err());
        assert_eq!(self.side(to_alice).state(), before);
    }

    fn restart(&mut self, alice: bool) {
        let side = self.side(alice);
        let sessions = &side.sessions;
        let again = sessions.sessions().iter().map(|session| Session::from_record(&session.to_record()).unwrap()).collect();
        side.sessions = SessionSet::from_parts(sessions.peer(), sessions.max_generation(), again);
        side.keys = PrekeySecrets::from_record(&side.keys.to_record()).unwrap();
        side.device = LocalDevice::from_record(&side.device.to_record()).unwrap();
        side.peer = Contact::from_record(&side.peer.to_record()).unwrap();
    }

    fn play(&mut self, step: &Move) {
        match step {
            Move::Send { alice } => self.send(*alice),
            Move::NewSession { alice } => self.new_session(*alice),
            Move::Restart { alice } => self.restart(*alice),
            _ if self.sent.is_empty() => {}
            Move::Deliver { index } => self.deliver(index.index(self.sent.len())),
            Move::Corrupt { index, bit } => {
                let frame = &self.sent[index.index(self.sent.len())];
                let corrupt = flip(&frame.sealed, bit.index(frame.sealed.frame.len() * 8));
                self.refuse(!frame.from_alice, &corrupt);
            }
            Move::CorruptNonce { index, bit } => {
                let frame = &self.sent[index.index(self.sent.len())];
                let mut corrupt = frame.sealed.clone();
                corrupt.wire_nonce[bit / 8] ^= 1 << (bit % 8);
                self.refuse(!frame.from_alice, &corrupt);
            }
            Move::Reflect { index } => {
                let frame = &self.sent[index.index(self.sent.len())];
                let (to_alice, sealed) = (frame.from_alice, frame.sealed.clone());
                self.refuse(to_alice, &sealed);
            }
        }
    }

    /// Everything arrives in order, both sides say something: they must be on one session then.
    fn settle(&mut self) {
        for index in 0..self.sent.len() {
            self.deliver(index);
        }
        for alice in [true, false, true, false] {
            self.send(alice);
            self.deliver(self.sent.len() - 1);
        }
        let active = |side: &Side| side.sessions.active(NOW).map(|session| *session.id());
        assert_eq!(active(&self.pair.alice), active(&self.pair.bob));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_network_gives_each_plaintext_once_or_a_typed_error_and_both_sides_converge(moves in moves()) {
        let mut network = Network::new();
        for step in &moves {
            network.play(step);
        }
        network.settle();
    }

    #[test]
    fn broken_records_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..600), known in any::<bool>()) {
        let bytes = if known { [&[1, 0, 1], &bytes[..]].concat() } else { bytes };
        prop_assert!(Session::from_record(&bytes).is_err());
        prop_assert!(LocalDevice::from_record(&bytes).is_err());
        prop_assert!(Contact::from_record(&bytes).is_err());
        let _ = PrekeySecrets::from_record(&bytes);
    }
}

#[test]
fn every_bit_of_a_frame_is_authentic() {
    let mut pair = Pair::talking();
    let sealed = pair.alice.send("hello", &mut pair.rng, NOW);
    let state = pair.bob.state();
    for bit in 0..sealed.frame.len() * 8 {
        assert!(pair.bob.receive(&flip(&sealed, bit), NOW).is_err(), "bit {bit}");
    }
    assert_eq!(pair.bob.state(), state);
    pair.bob.receive(&sealed, NOW).unwrap();
}
