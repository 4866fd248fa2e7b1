//! The handshake (TC/1 section 6): X3DH over X25519 together with ML-KEM-1024, bound to both devices and every key by one
//! transcript hash. Makes sessions; [`session`](super::session) runs them.

use std::sync::Arc;

use rand_core::CryptoRng;

use super::Time;
use super::bundle::VerifiedBundle;
use super::cert::DeviceCert;
use super::contact::Contact;
use super::dh::{DhKeyPair, DhPublic};
use super::error::Error;
use super::frame::{COUNTER_END, DmFrame, Handshake, KemKind, SUITE_1};
use super::identity::LocalDevice;
use super::kdf;
use super::kem::{self, KEM_LEN};
use super::labels;
use super::prekeys::{Consumed, PrekeySecrets};
use super::ratchet::Ratchet;
use super::ratchet::chain::RootKey;
use super::secret::Secret;
use super::session::{Binding, Plain, Role, Session};

/// How far a generation may jump over the largest known one.
pub const MAX_GENERATION_JUMP: u32 = 1_000;

/// A new session with the device of a verified bundle. Draws EK secret, KEM m, ratchet secret. Nothing was sent yet: the
/// first [`Session::encrypt`] makes the first frame.
///
/// # Errors
/// `LowOrder` (R7); `Limit` for a generation out of range.
pub fn initiate<R: CryptoRng + ?Sized>(
    me: &LocalDevice,
    peer: &VerifiedBundle,
    generation: u32,
    rng: &mut R,
    now: Time,
) -> Result<Session, Error> {
    if !(1..COUNTER_END).contains(&generation) {
        return Err(Error::Limit);
    }
    let VerifiedBundle { certificate, signed, kem, one_time } = peer;
    let ephemeral = DhKeyPair::random(rng);
    let (kem_ct, shared) = kem::encapsulate(&kem.public, rng)?;
    let transcript = Transcript {
        generation,
        initiator: me.certificate(),
        responder: certificate,
        ephemeral: ephemeral.public(),
        spk_id: signed.id,
        signed: signed.public,
        one_time: one_time.as_ref().map(|key| (key.id, key.public)),
        kem_kind: kem.kind,
        kem_id: kem.id,
        kem_key: &kem.public,
        kem_ct: &kem_ct,
    };
    let agreed = [me.dh_key().agree(&signed.public)?, ephemeral.agree(certificate.dh_key())?, ephemeral.agree(&signed.public)?];
    let with_one_time = one_time.as_ref().map(|key| ephemeral.agree(&key.public)).transpose()?;
    let transcript_hash = transcript.hash();
    let root = root_key(&transcript_hash, &agreed, with_one_time.as_ref(), &shared);
    let ratchet = Ratchet::initiator(&root, DhKeyPair::random(rng), signed.public)?;
    let handshake = Handshake {
        generation,
        ephemeral: ephemeral.public(),
        certificate: me.certificate().as_bytes(),
        sender: me.addr(),
        identity: me.identity().as_bytes(),
        spk_id: signed.id,
        opk_id: one_time.as_ref().map(|key| key.id),
        kem_kind: kem.kind,
        kem_id: kem.id,
        kem_ct: &kem_ct,
    };
    let binding = transcript.binding(transcript_hash, Role::Initiator);
    Ok(Session::new(binding, ratchet, Some(Arc::from(handshake.to_bytes())), now))
}

/// The session of a first message and the message itself (section 6, steps 3 to 9). The session id is not known yet; that was
/// step 2. `max_generation` is the largest generation ever known with this device, 0 for none.
///
/// # Errors
/// In order: `IdentityChanged`; `BadSignature`, `UnverifiedDevice`; `Replay`; `Rejected` for the generation; `PrekeyGone`;
/// `LowOrder`, `Malformed`; then as [`Session::decrypt`]. `Malformed` also without a handshake.
pub fn respond(
    me: &LocalDevice,
    keys: &PrekeySecrets,
    peer: &Contact,
    max_generation: u32,
    wire_nonce: &[u8; 12],
    frame: &DmFrame<'_>,
    now: Time,
) -> Result<(Session, Plain, Consumed), Error> {
    let first = frame.handshake.ok_or(Error::Malformed)?;
    if first.identity != peer.identity().as_bytes() {
        return Err(Error::IdentityChanged);
    }
    let certificate = DeviceCert::verify(first.certificate, peer.identity())?;
    if !peer.lists(&certificate) {
        return Err(Error::UnverifiedDevice);
    }
    let ephemeral_hash = kdf::hash(&[first.ephemeral.as_bytes()]);
    keys.check_new(&ephemeral_hash, certificate.addr())?;
    if max_generation > 0 && first.generation > max_generation.saturating_add(MAX_GENERATION_JUMP) {
        return Err(Error::Rejected);
    }
    let signed = keys.signed(first.spk_id).ok_or(Error::PrekeyGone)?;
    let one_time = first.opk_id.map(|id| Ok((id, keys.one_time(id).ok_or(Error::PrekeyGone)?))).transpose()?;
    let kem_seed = keys.kem(first.kem_kind, first.kem_id).ok_or(Error::PrekeyGone)?;
    let transcript = Transcript {
        generation: first.generation,
        initiator: &certificate,
        responder: me.certificate(),
        ephemeral: first.ephemeral,
        spk_id: first.spk_id,
        signed: signed.public(),
        one_time: one_time.map(|(id, pair)| (id, pair.public())),
        kem_kind: first.kem_kind,
        kem_id: first.kem_id,
        kem_key: &kem::public_key(kem_seed),
        kem_ct: first.kem_ct,
    };
    let agreed = [signed.agree(certificate.dh_key())?, me.dh_key().agree(&first.ephemeral)?, signed.agree(&first.ephemeral)?];
    let with_one_time = one_time.map(|(_, pair)| pair.agree(&first.ephemeral)).transpose()?;
    let transcript_hash = transcript.hash();
    let binding = transcript.binding(transcript_hash, Role::Responder);
    if binding.session_id != frame.session_id {
        return Err(Error::Malformed);
    }
    let shared = kem::decapsulate(kem_seed, first.kem_ct);
    let root = root_key(&transcript_hash, &agreed, with_one_time.as_ref(), &shared);
    let session = Session::new(binding, Ratchet::responder(root, Arc::clone(signed)), None, now);
    let (session, plain) = session.decrypt(wire_nonce, frame, now)?;
    let consumed = Consumed {
        ephemeral_hash,
        sender: certificate.addr(),
        spk_id: first.spk_id,
        opk_id: first.opk_id,
        kem_kind: first.kem_kind,
        kem_id: first.kem_id,
    };
    Ok((session, plain, consumed))
}

/// Everything that both sides must agree on (R6, R9, R22).
struct Transcript<'a> {
    generation: u32,
    initiator: &'a DeviceCert,
    responder: &'a DeviceCert,
    ephemeral: DhPublic,
    spk_id: u32,
    signed: DhPublic,
    one_time: Option<(u32, DhPublic)>,
    kem_kind: KemKind,
    kem_id: u32,
    kem_key: &'a [u8; KEM_LEN],
    kem_ct: &'a [u8; KEM_LEN],
}

impl Transcript<'_> {
    /// TH.
    fn hash(&self) -> [u8; 32] {
        let (addr_a, addr_b) = (self.initiator.addr().to_bytes(), self.responder.addr().to_bytes());
        let one_time = self.one_time.map(|(id, key)| (id.to_be_bytes(), key));
        let (opk_id, opk): (&[u8], &[u8]) = match &one_time {
            Some((id, key)) => (id, key.as_bytes()),
            None => (&[], &[]),
        };
        kdf::labelled_hash(
            labels::TRANSCRIPT,
            &[
                &SUITE_1.to_be_bytes(),
                &self.generation.to_be_bytes(),
                &addr_a,
                self.initiator.identity().as_bytes(),
                self.initiator.signing_key().as_bytes(),
                self.initiator.dh_key().as_bytes(),
                &addr_b,
                self.responder.identity().as_bytes(),
                self.responder.signing_key().as_bytes(),
                self.responder.dh_key().as_bytes(),
                self.ephemeral.as_bytes(),
                &self.spk_id.to_be_bytes(),
                self.signed.as_bytes(),
                &[u8::from(one_time.is_some())],
                opk_id,
                opk,
                &[self.kem_kind as u8],
                &self.kem_id.to_be_bytes(),
                &kdf::hash(&[self.kem_key]),
                &kdf::hash(&[self.kem_ct]),
            ],
        )
    }

    fn binding(&self, transcript_hash: [u8; 32], role: Role) -> Binding {
        let (me, peer) = match role {
            Role::Initiator => (self.initiator, self.responder),
            Role::Responder => (self.responder, self.initiator),
        };
        Binding {
            transcript_hash,
            session_id: session_id(&transcript_hash),
            generation: self.generation,
            role,
            me: me.addr(),
            peer: peer.addr(),
            peer_identity: *peer.identity().as_bytes(),
            one_time_prekey: self.one_time.is_some(),
        }
    }
}

/// `H(LBL("tc/1 session-id") ‖ TH)[..16]`.
fn session_id(transcript_hash: &[u8; 32]) -> [u8; 16] {
    let hash = kdf::labelled_hash(labels::SESSION_ID, &[transcript_hash]);
    let mut id = [0; 16];
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    id
}

/// RK0.
fn root_key(
    transcript_hash: &[u8; 32],
    agreed: &[Secret<32>; 3],
    with_one_time: Option<&Secret<32>>,
    kem_shared: &Secret<32>,
) -> RootKey {
    let [dh1, dh2, dh3] = agreed.each_ref().map(Secret::expose);
    let dh4: &[u8] = with_one_time.map_or(&[], |dh4| dh4.expose());
    let ikm: [&[u8]; 6] = [&[0xFF; 32], dh1, dh2, dh3, dh4, kem_shared.expose()];
    kdf::derive(transcript_hash, &ikm, &[labels::HANDSHAKE.as_bytes()]).into()
}
