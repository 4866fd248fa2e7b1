//! The vectors `dm-*.json` (TC/1 section 23), byte for byte: outputs, every step with the state after it, negative cases.

use serde_json::Value;

use super::super::*;
use crate::crypto::bundle::{Bundle, KemPrekey, OneTimePrekey, SignedPrekey, VerifiedBundle};
use crate::crypto::cert::DeviceCert;
use crate::crypto::contact::Contact;
use crate::crypto::device_list::DeviceList;
use crate::crypto::dh::DhKeyPair;
use crate::crypto::frame::{Frame, KemKind};
use crate::crypto::handshake::{initiate, respond};
use crate::crypto::identity::{LocalDevice, fingerprint};
use crate::crypto::kdf;
use crate::crypto::kem;
use crate::crypto::prekeys::PrekeySecrets;
use crate::crypto::secret::Secret;
use crate::crypto::signature::SigningKey;
use crate::crypto::testing::{ReplayRng, array, bytes};

const VECTORS: [&str; 6] = [
    include_str!("../../testdata/dm-01-opk-once.json"),
    include_str!("../../testdata/dm-02-last.json"),
    include_str!("../../testdata/dm-03-opk-last-lost.json"),
    include_str!("../../testdata/dm-04-pingpong.json"),
    include_str!("../../testdata/dm-05-gaps.json"),
    include_str!("../../testdata/dm-06-old-chains.json"),
];

#[test]
fn the_public_vectors_pass_byte_for_byte() {
    for text in VECTORS {
        let vector: Value = serde_json::from_str(text).unwrap();
        Scenario::set_up(&vector).run();
    }
}

/// A user of a vector: `devices[i]` has device id i + 1.
struct User {
    devices: Vec<LocalDevice>,
    list: DeviceList,
}

impl User {
    /// Draws the user's values and compares what comes of them with `expected`.
    fn draw(name: &str, expected: &Value, now: Time, rng: &mut ReplayRng) -> Self {
        let user_id: UserId = rng.take(&format!("{name}.user_id")).try_into().unwrap();
        let seed = rng.take(&format!("{name}.uik_seed")).try_into().unwrap();
        let mut devices = Vec::new();
        while rng.next_name().is_some_and(|next| next == format!("{name}.{}.dsk_seed", devices.len() + 1)) {
            let id = devices.len() as u32 + 1;
            let created = now - DAY + u64::from(id - 1);
            let addr = Addr::new(user_id, id);
            devices.push(LocalDevice::under(SigningKey::from_seed(&seed), addr, created, rng).unwrap());
        }
        let certs: Vec<&DeviceCert> = devices.iter().map(LocalDevice::certificate).collect();
        let list = DeviceList::sign(&SigningKey::from_seed(&seed), user_id, None, &certs, now - DAY).unwrap();

        assert_eq!(expected["uik"], hex::encode(list.identity().as_bytes()));
        assert_eq!(expected["fingerprint"], fingerprint(list.identity()));
        assert_eq!(expected["lists"][0]["raw"], hex::encode(list.as_bytes()));
        assert_eq!(expected["lists"][0]["hash"], hex::encode(list.hash()));
        for (device, expected) in devices.iter().zip(expected["devices"].as_array().unwrap()) {
            let cert = device.certificate();
            assert_eq!(expected["dsk"], hex::encode(cert.signing_key().as_bytes()));
            assert_eq!(expected["dhk"], hex::encode(cert.dh_key().as_bytes()));
            assert_eq!(expected["created"], cert.created());
            assert_eq!(expected["cert"], hex::encode(cert.as_bytes()));
            assert_eq!(expected["cert_hash"], hex::encode(cert.hash()));
        }
        Self { devices, list }
    }

    fn contact(&self) -> Contact {
        let certs: Vec<_> = self.devices.iter().map(|device| device.certificate().as_bytes()).collect();
        Contact::first(self.list.user_id(), self.list.as_bytes(), &certs).unwrap()
    }
}

struct Scenario<'a> {
    vector: &'a Value,
    rng: ReplayRng,
    now: Time,
    alice: User,
    bob: User,
    bob_keys: PrekeySecrets,
    bundle: VerifiedBundle,
    alice_session: Option<Session>,
    bob_session: Option<Session>,
    sent: Vec<Sealed>,
}

impl<'a> Scenario<'a> {
    fn set_up(vector: &'a Value) -> Self {
        let (inputs, outputs) = (&vector["inputs"], &vector["outputs"]);
        let mut rng = ReplayRng::of_vector(vector);
        let now = inputs["now"].as_u64().unwrap();
        let alice = User::draw("alice", &outputs["alice"], now, &mut rng);
        let bob = User::draw("bob", &outputs["bob"], now, &mut rng);
        rng.take("ids");
        let device = &bob.devices[inputs["bob_device"].as_u64().unwrap() as usize - 1];

        let spk_pair = DhKeyPair::random(&mut rng);
        let kpk_seed: Secret<64> = Secret::random(&mut rng);
        let spk = &inputs["spk"];
        let signed = SignedPrekey::sign(device, id(&spk["id"]), spk_pair.public(), spk["created"].as_u64().unwrap());
        let kpk = &inputs["kpk"];
        let kind = KemKind::try_from(kpk["kind"].as_u64().unwrap() as u8).unwrap();
        let key = kem::public_key(&kpk_seed);
        let kem = KemPrekey::sign(device, kind, id(&kpk["id"]), key, kpk["created"].as_u64().unwrap());
        let opk_id = id(&inputs["opk_id"]);
        let opk_pair = (opk_id != 0).then(|| DhKeyPair::random(&mut rng));
        let one_time = opk_pair.as_ref().map(|pair| OneTimePrekey { id: opk_id, public: pair.public() });

        assert_eq!(outputs["spk"]["pub"], hex::encode(signed.public.0));
        assert_eq!(outputs["spk"]["sig"], hex::encode(signed.signature));
        assert_eq!(outputs["kpk"]["ek"], hex::encode(*kem.public));
        assert_eq!(outputs["kpk"]["ek_hash"], hex::encode(kdf::hash(&[&*kem.public])));
        assert_eq!(outputs["kpk"]["sig"], hex::encode(kem.signature));
        if let Some(one_time) = &one_time {
            assert_eq!(outputs["opk"]["pub"], hex::encode(one_time.public.0));
        }

        let bob_keys = PrekeySecrets::of_vector((signed.id, spk_pair), (kind, kem.id, kpk_seed), opk_pair.map(|p| (opk_id, p)));
        let bundle = Bundle { certificate: device.certificate().as_bytes().to_vec(), signed, kem, one_time };
        let bundle = bundle.verify(&bob.contact(), now).unwrap();
        let (alice_session, bob_session, sent) = (None, None, Vec::new());
        Self { vector, rng, now, alice, bob, bob_keys, bundle, alice_session, bob_session, sent }
    }

    fn alice_device(&self) -> &LocalDevice {
        &self.alice.devices[self.vector["inputs"]["alice_device"].as_u64().unwrap() as usize - 1]
    }

    fn bob_device(&self) -> &LocalDevice {
        &self.bob.devices[self.vector["inputs"]["bob_device"].as_u64().unwrap() as usize - 1]
    }

    fn run(mut self) {
        self.initiate();
        for (i, step) in self.vector["steps"].as_array().unwrap().iter().enumerate() {
            let now = self.now + i as u64;
            match step["op"].as_str().unwrap() {
                "send" => self.send(step, now),
                _ => self.receive(step, now),
            }
            let session = self.session(step["by"].as_str().unwrap()).as_ref().unwrap();
            assert_eq!(session.as_json(), step["after"], "{} step {i}", self.vector["name"]);
            let restored = Session::from_record(&session.to_record()).unwrap();
            assert_eq!(restored.as_json(), step["after"], "restored from its record");
            assert_eq!(*restored.to_record(), *session.to_record());
        }
        assert_eq!(self.rng.next_name(), None, "all randomness is used");
        self.refuse_negative_cases();
    }

    fn initiate(&mut self) {
        let outputs = &self.vector["outputs"];
        let generation = id(&self.vector["inputs"]["gen"]);
        let device = &self.alice.devices[self.vector["inputs"]["alice_device"].as_u64().unwrap() as usize - 1];
        let session = initiate(device, &self.bundle, generation, &mut self.rng, self.now).unwrap();
        assert_eq!(outputs["th"], hex::encode(session.transcript_hash()));
        assert_eq!(outputs["session_id"], hex::encode(session.id()));
        let state = session.as_json();
        assert_eq!((&state["rk"], &state["cks"]), (&outputs["rk1"], &outputs["ck1"]));
        let header = session.handshake.as_deref().unwrap();
        let ek = 4..36;
        assert_eq!(outputs["ek_pub"], hex::encode(&header[ek]));
        assert_eq!(outputs["kem_ct"], hex::encode(&header[HANDSHAKE_LEN - kem::KEM_LEN..]));

        let ct: [u8; kem::KEM_LEN] = array(&outputs["kem_ct"]);
        let seed = self.bob_keys.kem(self.bundle.kem.kind, self.bundle.kem.id).unwrap();
        assert_eq!(outputs["kem_ss"], hex::encode(kem::decapsulate(seed, &ct).expose()));
        let ephemeral = DhPublic(array(&outputs["ek_pub"]));
        let spk = self.bob_keys.signed(self.bundle.signed.id).unwrap();
        let mut agreed = vec![
            spk.agree(device.certificate().dh_key()).unwrap(),
            self.bob_device().dh_key().agree(&ephemeral).unwrap(),
            spk.agree(&ephemeral).unwrap(),
        ];
        if let Some(key) = &self.bundle.one_time {
            agreed.push(self.bob_keys.one_time(key.id).unwrap().agree(&ephemeral).unwrap());
        }
        let agreed: Vec<String> = agreed.iter().map(|shared| hex::encode(shared.expose())).collect();
        assert_eq!(outputs["dh"], serde_json::json!(agreed));

        let dh: Vec<u8> = outputs["dh"].as_array().unwrap().iter().flat_map(bytes).collect();
        let ikm: [&[u8]; 3] = [&[0xFF; 32], &dh, &bytes(&outputs["kem_ss"])];
        let rk0: Secret<32> = kdf::derive(&bytes(&outputs["th"]), &ikm, &[labels::HANDSHAKE.as_bytes()]);
        assert_eq!(outputs["rk0"], hex::encode(rk0.expose()));
        self.alice_session = Some(session);
    }

    fn session(&mut self, by: &str) -> &mut Option<Session> {
        if by == "alice" { &mut self.alice_session } else { &mut self.bob_session }
    }

    fn send(&mut self, step: &Value, now: Time) {
        let by = step["by"].as_str().unwrap();
        let content = bytes(&step["content"]);
        let id = self.rng.take(&format!("{by}.msg_id"));
        assert_eq!(Content::from_bytes(&content).unwrap().msg_id, id);
        let session = self.session(by).take().unwrap();
        let before = session.as_json();
        let (mk, _) = session.ratchet.clone().send(&mut self.rng.clone()).unwrap();
        let (next, sealed) = session.encrypt(&content, &mut self.rng, now).unwrap();
        assert_eq!(session.as_json(), before);
        assert_eq!(step["wn"], hex::encode(sealed.wire_nonce));
        assert_eq!(step["frame"], hex::encode(&sealed.frame));
        assert_eq!(step["frame_type"], sealed.frame[1]);
        assert_eq!(step["padded_len"], padding::padded_size(content.len()).unwrap());
        assert_eq!(step["mk"], hex::encode(mk.expose()));
        let first = &self.vector["outputs"]["first_message_keys"][self.sent.len()];
        assert!(first.is_null() || *first == step["mk"]);
        *self.session(by) = Some(next);
        assert_eq!(step["msg"], self.sent.len());
        self.sent.push(sealed);
    }

    fn receive(&mut self, step: &Value, now: Time) {
        let by = step["by"].as_str().unwrap();
        let number = step["msg"].as_u64().unwrap() as usize;
        let sealed = self.sent[number].clone();
        let frame = Frame::parse_dm(&sealed.frame).unwrap();
        let outcome = match self.session(by).clone() {
            Some(session) => session.decrypt(&sealed.wire_nonce, &frame, now),
            None => {
                let (me, peer) = (self.bob_device(), self.alice.contact());
                let max_generation = id(&self.vector["inputs"]["gen"]) - 1;
                let opened = respond(me, &self.bob_keys, &peer, max_generation, &sealed.wire_nonce, &frame, now);
                opened.map(|(session, plain, consumed)| {
                    self.bob_keys.consume(&consumed);
                    (session, plain)
                })
            }
        };
        match outcome {
            Ok((session, plain)) => {
                assert_eq!(step["result"], "ok");
                let steps = self.vector["steps"].as_array().unwrap();
                let send = steps.iter().find(|send| send["op"] == "send" && send["msg"] == step["msg"]).unwrap();
                assert_eq!(send["content"], hex::encode(&*plain.bytes));
                let sender = if by == "bob" { self.alice_device().addr() } else { self.bob_device().addr() };
                assert_eq!(plain.from, sender);
                *self.session(by) = Some(session);
            }
            Err(error) => assert_eq!(step["result"], format!("{error:?}")),
        }
    }

    fn refuse_negative_cases(&mut self) {
        let negative = &self.vector["negative"];
        let now = negative["now"].as_u64().unwrap();
        let session = self.session(negative["state_of"].as_str().unwrap()).clone().unwrap();
        let (before, record) = (session.as_json(), session.to_record());
        for case in negative["cases"].as_array().unwrap() {
            let (frame, wire_nonce) = (bytes(&case["frame"]), array(&case["wn"]));
            let outcome = Frame::parse_dm(&frame).and_then(|frame| session.decrypt(&wire_nonce, &frame, now));
            let outcome = outcome.map_or_else(|error| format!("{error:?}"), |_| "ok".to_owned());
            assert_eq!(case["error"], outcome, "{}: {}", self.vector["name"], case["what"]);
            assert_eq!((session.as_json(), &*session.to_record()), (before.clone(), &*record), "{}", case["what"]);
        }
    }
}

fn id(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}
