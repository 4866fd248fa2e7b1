//! Whole conversations: the public vectors, random interleavings, and what a stolen state gives away.

mod choice;
mod handshake;
mod properties;
mod records;
mod secrecy;
mod vectors;

use crate::crypto::Time;
use crate::crypto::bundle::{Bundle, DAY, KemPrekey, OneTimePrekey, SignedPrekey, VerifiedBundle};
use crate::crypto::contact::Contact;
use crate::crypto::content::{Body, Content, Text};
use crate::crypto::error::Error;
use crate::crypto::frame::Frame;
use crate::crypto::identity::{Addr, LocalDevice};
use crate::crypto::prekeys::PrekeySecrets;
use crate::crypto::session::{Plain, Sealed};
use crate::crypto::session_set::SessionSet;
use crate::crypto::testing::TestRng;

const NOW: Time = 1_000 * DAY;

/// One device with what it published and its sessions with the other one.
#[derive(Debug)]
struct Side {
    device: LocalDevice,
    keys: PrekeySecrets,
    published: Published,
    peer: Contact,
    sessions: SessionSet,
}

/// What the server has of a device.
#[derive(Clone, Debug)]
struct Published {
    list: Vec<u8>,
    certificate: Vec<u8>,
    signed: SignedPrekey,
    last: KemPrekey,
    one_time: Vec<OneTimePrekey>,
    kem_once: Vec<KemPrekey>,
}

/// Alice, Bob, and the randomness of both.
#[derive(Debug)]
struct Pair {
    alice: Side,
    bob: Side,
    rng: TestRng,
}

impl Published {
    fn new(user: u8, rng: &mut TestRng) -> (LocalDevice, PrekeySecrets, Self) {
        let (device, list) = LocalDevice::first([user; 16], NOW, rng).unwrap();
        let mut keys = PrekeySecrets::default();
        let (signed, last) = keys.rotate(&device, NOW, rng).unwrap();
        let one_time = keys.add_one_time(2, rng).unwrap();
        let kem_once = keys.add_kem(&device, 2, NOW, rng).unwrap();
        let certificate = device.certificate().as_bytes().to_vec();
        let list = list.as_bytes().to_vec();
        let published = Self { list, certificate, signed, last, one_time, kem_once };
        (device, keys, published)
    }

    fn contact(&self, user: u8) -> Contact {
        Contact::first([user; 16], &self.list, std::slice::from_ref(&self.certificate)).unwrap()
    }

    /// Hands out a bundle as the server does: one-time prekeys while there are some.
    fn take(&mut self) -> Bundle {
        let kem = if self.kem_once.is_empty() { self.last.clone() } else { self.kem_once.remove(0) };
        let one_time = if self.one_time.is_empty() { None } else { Some(self.one_time.remove(0)) };
        Bundle { certificate: self.certificate.clone(), signed: self.signed.clone(), kem, one_time }
    }
}

impl Side {
    fn initiate(&mut self, peer: &mut Published, rng: &mut TestRng, now: Time) {
        let bundle: VerifiedBundle = peer.take().verify(&self.peer, now).unwrap();
        self.sessions = self.sessions.initiate(&self.device, &bundle, rng, now).unwrap();
    }

    fn send(&mut self, text: &str, rng: &mut TestRng, now: Time) -> Sealed {
        let (sessions, sealed) = self.sessions.encrypt(&content(text), rng, now).unwrap();
        self.sessions = sessions;
        sealed
    }

    fn receive(&mut self, sealed: &Sealed, now: Time) -> Result<Plain, Error> {
        let frame = Frame::parse_dm(&sealed.frame)?;
        let opened = self.sessions.open(&self.device, &self.keys, &self.peer, &sealed.wire_nonce, &frame, now)?;
        self.sessions = opened.sessions;
        if let Some(consumed) = &opened.consumed {
            self.keys.consume(consumed);
        }
        Ok(opened.plain)
    }

    /// Everything that could change.
    fn state(&self) -> Vec<Vec<u8>> {
        let mut records: Vec<_> = self.sessions.sessions().iter().map(|session| session.to_record().to_vec()).collect();
        records.push(self.keys.to_record().to_vec());
        records.push(self.sessions.max_generation().to_be_bytes().to_vec());
        records
    }
}

impl Pair {
    fn new() -> Self {
        Self::with_seed(1)
    }

    fn with_seed(seed: u64) -> Self {
        let mut rng = TestRng::new(seed);
        let (alice, alice_keys, alice_published) = Published::new(0xA, &mut rng);
        let (bob, bob_keys, bob_published) = Published::new(0xB, &mut rng);
        let (of_alice, of_bob) = (alice_published.contact(0xA), bob_published.contact(0xB));
        let alice = Side {
            sessions: SessionSet::new(bob.addr()),
            device: alice,
            keys: alice_keys,
            published: alice_published,
            peer: of_bob,
        };
        let bob = Side {
            sessions: SessionSet::new(alice.device.addr()),
            device: bob,
            keys: bob_keys,
            published: bob_published,
            peer: of_alice,
        };
        Self { alice, bob, rng }
    }

    /// Alice has started a session and Bob has answered.
    fn talking() -> Self {
        let mut pair = Self::new();
        pair.alice.initiate(&mut pair.bob.published, &mut pair.rng, NOW);
        pair.alice_says("hello", NOW).unwrap();
        pair.bob_says("hello too", NOW).unwrap();
        pair
    }

    fn alice_says(&mut self, text: &str, now: Time) -> Result<Sealed, Error> {
        let sealed = self.alice.send(text, &mut self.rng, now);
        assert_eq!(text_of(&self.bob.receive(&sealed, now)?), text);
        Ok(sealed)
    }

    fn bob_says(&mut self, text: &str, now: Time) -> Result<Sealed, Error> {
        let sealed = self.bob.send(text, &mut self.rng, now);
        assert_eq!(text_of(&self.alice.receive(&sealed, now)?), text);
        Ok(sealed)
    }
}

fn content(text: &str) -> Vec<u8> {
    let text = Text { body: text.to_owned(), ..Text::default() };
    Content::new([1; 16], NOW, [2; 16], Body::Text(text)).to_bytes().unwrap().to_vec()
}

fn text_of(plain: &Plain) -> String {
    assert_eq!(Content::from_bytes(&plain.bytes).as_ref(), Ok(&plain.content));
    match &plain.content.body {
        Some(Body::Text(text)) => text.body.clone(),
        other => panic!("{other:?}"),
    }
}

/// The frame with one bit changed.
fn flip(sealed: &Sealed, bit: usize) -> Sealed {
    let mut flipped = sealed.clone();
    flipped.frame[bit / 8] ^= 1 << (bit % 8);
    flipped
}

/// Where a field stands in a frame of type 2.
fn offset_of(field: &str) -> usize {
    let fields = [
        ("gen", 4),
        ("ek", 8),
        ("cert", 40),
        ("uik", 265),
        ("spk_id", 297),
        ("has_opk", 301),
        ("opk_id", 302),
        ("kpk_kind", 306),
        ("kpk_id", 307),
        ("kem_ct", 311),
        ("session_id", 1879),
    ];
    fields.iter().find(|(name, _)| *name == field).unwrap().1
}

/// An address that is not in the conversation.
fn stranger() -> Addr {
    Addr::new([0xC; 16], 1)
}
