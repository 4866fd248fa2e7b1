//! TC/1 beside vodozemac, from the content's bytes to the frame's bytes and back: a DM beside Olm, a channel message beside
//! Megolm, each with the same plaintext. Both sides draw from the system's randomness and sign where they sign; on neither
//! side is the state written down. Messages come in order on one chain, as most do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use chat::crypto::bundle::{Bundle, KemPrekey, OneTimePrekey, SignedPrekey};
use chat::crypto::contact::Contact;
use chat::crypto::content::{Body, Content, Text};
use chat::crypto::frame::Frame;
use chat::crypto::identity::{LocalDevice, UserId};
use chat::crypto::membership::{ActorObjects, Change, Log, LogKind, Role, Signer};
use chat::crypto::prekeys::PrekeySecrets;
use chat::crypto::sender_key::{Arrival, OwnChain, PeerChain};
use chat::crypto::session::Session;
use chat::crypto::{Time, handshake};
use criterion::{BenchmarkId, Criterion};
use getrandom::SysRng;
use rand_core::UnwrapErr;
use vodozemac::megolm::{GroupSession, InboundGroupSession, MegolmMessage};
use vodozemac::olm::{Account, OlmMessage};

use super::Lab;
use super::report::Target;

const NOW: Time = 1_795_000_000_000;
const CHANNEL: [u8; 16] = [0x10; 16];
/// Messages on one chain: a sender key carries 500.
const CHAIN: u64 = 400;

pub fn benches(criterion: &mut Criterion, lab: &mut Lab) {
    let mut group = criterion.benchmark_group("crypto");
    for size in [100, 1024] {
        let content = content(size);
        let mut dm = Dm::new();
        let mut olm = Olm::new();
        let mut channel = Channel::new();
        let mut megolm = Megolm;
        let mut time = |name: &str, run: &mut dyn FnMut(u64) -> Duration| {
            group.bench_function(BenchmarkId::new(name, size), |bencher| bencher.iter_custom(&mut *run));
        };
        time("dm encrypt", &mut |times| dm.time_encrypt(&content, times));
        time("olm encrypt", &mut |times| olm.time_encrypt(&content, times));
        time("dm decrypt", &mut |times| dm.time_decrypt(&content, times));
        time("olm decrypt", &mut |times| olm.time_decrypt(&content, times));
        time("channel encrypt", &mut |times| channel.time_encrypt(&content, times));
        time("megolm encrypt", &mut |times| megolm.time_encrypt(&content, times));
        time("channel decrypt", &mut |times| channel.time_decrypt(&content, times));
        time("megolm decrypt", &mut |times| megolm.time_decrypt(&content, times));
        // A turn of the conversation costs each side a Diffie-Hellman step: one message there, one back.
        time("dm turn", &mut |times| dm.time_turns(&content, times));
        time("olm turn", &mut |times| olm.time_turns(&content, times));
    }
    group.finish();
    for size in [100, 1024] {
        let mut row = |ours: &str, control: &str, target| {
            let [ours_ns, control_ns] = [ours, control].map(|name| lab.report.median(&format!("crypto/{name}/{size}")));
            lab.report.compare(&format!("{ours}, {size} B"), ours_ns, Some((control, control_ns)), target);
        };
        row("dm encrypt", "olm encrypt", Target::Ratio(1.0 / 3.0));
        row("dm decrypt", "olm decrypt", Target::Ratio(2.0));
        row("dm turn", "olm turn", Target::None);
        row("channel encrypt", "megolm encrypt", Target::Ratio(1.15));
        row("channel decrypt", "megolm decrypt", Target::Ratio(1.15));
    }
}

/// A content of exactly this many bytes, for a DM and a channel alike.
fn content(size: usize) -> Vec<u8> {
    let of = |body: usize| {
        let text = Text { body: "x".repeat(body), ..Text::default() };
        let mut content = Content::new([1; 16], NOW, CHANNEL, Body::Text(text));
        content.own_list = vec![2; 24];
        content.to_bytes().unwrap().to_vec()
    };
    let found = (0..size).map(of).find(|bytes| bytes.len() == size);
    found.expect("a length of text that fits")
}

fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// Two devices with a session that both have used.
struct Dm {
    alice: Session,
    bob: Session,
}

impl Dm {
    fn new() -> Self {
        let (alice, bob) = (Device::new([0xA; 16]), Device::new([0xB; 16]));
        let bundle = Bundle {
            certificate: bob.certificate(),
            signed: bob.signed.clone(),
            kem: bob.kem.clone(),
            one_time: Some(bob.one_time),
        };
        let session = handshake::initiate(&alice.device, &bundle.verify(&bob.contact, NOW).unwrap(), 1, &mut rng(), NOW).unwrap();
        let hello = content(100);
        let (alice_session, first) = session.encrypt(&hello, &mut rng(), NOW).unwrap();
        let frame = Frame::parse_dm(&first.frame).unwrap();
        let (bob_session, _, _) =
            handshake::respond(&bob.device, &bob.keys, &alice.contact, 0, &first.wire_nonce, &frame, NOW).unwrap();
        let mut dm = Self { alice: alice_session, bob: bob_session };
        dm.turn(&hello);
        dm
    }

    fn turn(&mut self, content: &[u8]) {
        let (bob, there) = self.bob.encrypt(content, &mut rng(), NOW).unwrap();
        let (alice, _) = self.alice.decrypt(&there.wire_nonce, &Frame::parse_dm(&there.frame).unwrap(), NOW).unwrap();
        let (alice, back) = alice.encrypt(content, &mut rng(), NOW).unwrap();
        let (bob, _) = bob.decrypt(&back.wire_nonce, &Frame::parse_dm(&back.frame).unwrap(), NOW).unwrap();
        (self.alice, self.bob) = (alice, bob);
    }

    fn time_turns(&mut self, content: &[u8], times: u64) -> Duration {
        timed(|| (0..times).for_each(|_| self.turn(content)))
    }

    fn time_encrypt(&mut self, content: &[u8], times: u64) -> Duration {
        // On a copy: the other side would refuse so long a gap.
        let mut alice = self.alice.clone();
        timed(|| {
            for _ in 0..times {
                let (next, sealed) = alice.encrypt(black_box(content), &mut rng(), NOW).unwrap();
                black_box(sealed);
                alice = next;
            }
        })
    }

    fn time_decrypt(&mut self, content: &[u8], times: u64) -> Duration {
        chunks(times, |times| {
            let mut sealed = Vec::new();
            for _ in 0..times {
                let (next, one) = self.alice.encrypt(content, &mut rng(), NOW).unwrap();
                self.alice = next;
                sealed.push(one);
            }
            timed(|| {
                for one in &sealed {
                    let frame = Frame::parse_dm(black_box(&one.frame)).unwrap();
                    let (next, plain) = self.bob.decrypt(&one.wire_nonce, &frame, NOW).unwrap();
                    black_box(plain);
                    self.bob = next;
                }
            })
        })
    }
}

/// One user's device, with what it published and how others know it.
struct Device {
    device: LocalDevice,
    keys: PrekeySecrets,
    list: Vec<u8>,
    contact: Contact,
    signed: SignedPrekey,
    kem: KemPrekey,
    one_time: OneTimePrekey,
}

impl Device {
    fn new(user_id: UserId) -> Self {
        let (device, list) = LocalDevice::first(user_id, NOW, &mut rng()).unwrap();
        let mut keys = PrekeySecrets::default();
        let (signed, kem) = keys.rotate(&device, NOW, &mut rng()).unwrap();
        let one_time = keys.add_one_time(1, &mut rng()).unwrap().remove(0);
        let contact = Contact::first(user_id, list.as_bytes(), &[device.certificate().as_bytes()]).unwrap();
        Self { device, keys, list: list.as_bytes().to_vec(), contact, signed, kem, one_time }
    }

    fn certificate(&self) -> Vec<u8> {
        self.device.certificate().as_bytes().to_vec()
    }
}

struct Olm {
    alice: vodozemac::olm::Session,
    bob: vodozemac::olm::Session,
}

impl Olm {
    fn new() -> Self {
        let (alice, mut bob) = (Account::new(), Account::new());
        bob.generate_one_time_keys(1);
        let one_time = *bob.one_time_keys().values().next().unwrap();
        let mut alice_session = alice.create_outbound_session(Default::default(), bob.curve25519_key(), one_time).unwrap();
        let OlmMessage::PreKey(first) = alice_session.encrypt(content(100)).unwrap() else { panic!("a first message") };
        let bob_session = bob.create_inbound_session(Default::default(), alice.curve25519_key(), &first).unwrap().session;
        let mut olm = Self { alice: alice_session, bob: bob_session };
        olm.turn(&content(100));
        olm
    }

    fn turn(&mut self, content: &[u8]) {
        let there = olm_bytes(&self.bob.encrypt(content).unwrap());
        self.alice.decrypt(&olm_message(&there)).unwrap();
        let back = olm_bytes(&self.alice.encrypt(content).unwrap());
        self.bob.decrypt(&olm_message(&back)).unwrap();
    }

    fn time_turns(&mut self, content: &[u8], times: u64) -> Duration {
        timed(|| (0..times).for_each(|_| self.turn(content)))
    }

    fn time_encrypt(&mut self, content: &[u8], times: u64) -> Duration {
        timed(|| {
            for _ in 0..times {
                black_box(olm_bytes(&self.alice.encrypt(black_box(content)).unwrap()));
            }
        })
    }

    fn time_decrypt(&mut self, content: &[u8], times: u64) -> Duration {
        // What the timed encryptions skipped is not part of this.
        self.turn(content);
        chunks(times, |times| {
            let sealed: Vec<Vec<u8>> = (0..times).map(|_| olm_bytes(&self.alice.encrypt(content).unwrap())).collect();
            timed(|| {
                for one in &sealed {
                    black_box(self.bob.decrypt(&olm_message(black_box(one))).unwrap());
                }
            })
        })
    }
}

fn olm_bytes(message: &OlmMessage) -> Vec<u8> {
    match message {
        OlmMessage::Normal(message) => message.to_bytes(),
        OlmMessage::PreKey(message) => message.to_bytes(),
    }
}

fn olm_message(bytes: &[u8]) -> OlmMessage {
    OlmMessage::Normal(vodozemac::olm::Message::from_bytes(bytes).unwrap())
}

/// A channel of two members: the log is short, as its length does not matter to a message.
struct Channel {
    alice: Device,
    log: Log,
}

impl Channel {
    fn new() -> Self {
        let (alice, bob) = (Device::new([0xA; 16]), Device::new([0xB; 16]));
        let objects = ActorObjects { cert: Some(alice.certificate()), list: Some(alice.list.clone()) };
        let signer = Signer::new(&alice.device, 1);
        let genesis = Log::create(CHANNEL, LogKind::Channel, &signer, alice.device.identity(), &mut rng(), NOW);
        let mut log = Log::start(&CHANNEL, &genesis, None, &objects).unwrap();
        let identity = *bob.device.identity().as_bytes();
        let add = Change::Add { user: bob.device.addr().user_id, identity, role: Role::Member };
        log.apply(&log.sign(&signer, &add, NOW).unwrap(), &objects).unwrap();
        Self { alice, log }
    }

    fn chain(&self) -> OwnChain {
        OwnChain::create(&self.log, CHANNEL, self.alice.device.addr(), |_| false, &mut rng(), NOW).unwrap()
    }

    fn time_encrypt(&mut self, content: &[u8], times: u64) -> Duration {
        chunks(times, |times| {
            let mut chain = self.chain();
            timed(|| {
                for _ in 0..times {
                    black_box(chain.seal(&self.log, black_box(content), &mut rng(), NOW).unwrap());
                }
            })
        })
    }

    fn time_decrypt(&mut self, content: &[u8], times: u64) -> Duration {
        chunks(times, |times| {
            let mut chain = self.chain();
            let device = &self.alice.device;
            let skdm = chain.skdm(&self.log);
            let mut peer = PeerChain::accept(&skdm, device.addr(), device.identity(), &self.log, None, NOW).unwrap().unwrap();
            let sealed: Vec<_> = (0..times).map(|_| chain.seal(&self.log, content, &mut rng(), NOW).unwrap()).collect();
            let arrival = Arrival { now: NOW, device_left: false, late_ok: false };
            timed(|| {
                for one in &sealed {
                    let frame = Frame::parse_channel(black_box(&one.frame)).unwrap();
                    let (next, plain) = peer.open(&self.log, &one.wire_nonce, &frame, arrival).unwrap();
                    black_box(plain);
                    peer = next;
                }
            })
        })
    }
}

struct Megolm;

impl Megolm {
    fn time_encrypt(&mut self, content: &[u8], times: u64) -> Duration {
        chunks(times, |times| {
            let mut session = GroupSession::new(Default::default());
            timed(|| {
                for _ in 0..times {
                    black_box(session.encrypt(black_box(content)).to_bytes());
                }
            })
        })
    }

    fn time_decrypt(&mut self, content: &[u8], times: u64) -> Duration {
        chunks(times, |times| {
            let mut session = GroupSession::new(Default::default());
            let mut peer = InboundGroupSession::new(&session.session_key(), Default::default());
            let sealed: Vec<Vec<u8>> = (0..times).map(|_| session.encrypt(content).to_bytes()).collect();
            timed(|| {
                for one in &sealed {
                    let message = MegolmMessage::from_bytes(black_box(one)).unwrap();
                    black_box(peer.decrypt(&message).unwrap());
                }
            })
        })
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// The sum over pieces that fit on one chain.
fn chunks(times: u64, run: impl FnMut(u64) -> Duration) -> Duration {
    let (whole, rest) = (times / CHAIN, times % CHAIN);
    (0..whole).map(|_| CHAIN).chain((rest > 0).then_some(rest)).map(run).sum()
}
