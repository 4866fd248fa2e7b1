//! A session: the Double Ratchet between two devices, bound to the handshake that made it (TC/1 sections 7 and 8).
//! [`Session::encrypt`] and [`Session::decrypt`] give the *next* session; the caller stores it before the frame leaves, or
//! together with the plaintext. A clone costs a few reference counts. Which of several sessions is used is
//! [`session_set`](super::session_set)'s part.

use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::Time;
use super::bundle::DAY;
use super::content::Content;
use super::dh::DhPublic;
use super::error::Error;
use super::frame::{self, DmFrame, HANDSHAKE_LEN, SUITE_1, WIRE_NONCE_LEN};
use super::identity::{Addr, UserId};
use super::labels;
use super::padding;
use super::ratchet::message_key::MessageKeys;
use super::ratchet::{Position, Ratchet};
use super::wire::{Reader, Writer};

/// 16 bytes, the same on both sides.
pub type SessionId = [u8; 16];

/// How long an initiator goes on with a session that nobody answered.
pub const UNACKED_USE: Time = 30 * DAY;

const RECORD: u8 = 1;
/// LBL("tc/1 dm") ‖ TH ‖ addr_from ‖ addr_to.
const AD_PREFIX: usize = 8 + 32 + 2 * Addr::LEN;

/// One side of a session.
#[derive(Clone)]
pub struct Session {
    binding: Arc<Binding>,
    ratchet: Ratchet,
    /// The initiator's handshake, which goes with every frame until one of the peer opened: `unacked` is that it is there.
    handshake: Option<Arc<[u8; HANDSHAKE_LEN]>>,
    receive_only: bool,
    created: Time,
    last_received: Option<Time>,
    /// Frames sent plus frames opened.
    carried: u64,
}

/// What the handshake fixed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    /// TH. Covers all keys of both devices; part of every associated data.
    pub(super) transcript_hash: [u8; 32],
    pub(super) session_id: SessionId,
    pub(super) generation: u32,
    pub(super) role: Role,
    pub(super) me: Addr,
    pub(super) peer: Addr,
    /// The peer's UIK.
    pub(super) peer_identity: [u8; 32],
    /// Whether the handshake had a one-time X25519 prekey (R10).
    pub(super) one_time_prekey: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Initiator,
    Responder,
}

/// A frame to send: `wire_nonce` travels beside it. The position names it in a request to send again (10.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub frame: Vec<u8>,
    pub wire_nonce: [u8; WIRE_NONCE_LEN],
    pub session_id: SessionId,
    pub ratchet_key: DhPublic,
    pub n: u32,
}

/// What a frame held. Section 9.2 still decides whether the content may come this way.
pub struct Plain {
    /// The encoded content, as it was sent.
    pub bytes: Zeroizing<Vec<u8>>,
    pub content: Content,
    /// The device at the other end of the session: authenticated.
    pub from: Addr,
}

impl Session {
    pub(super) fn new(binding: Binding, ratchet: Ratchet, handshake: Option<Arc<[u8; HANDSHAKE_LEN]>>, created: Time) -> Self {
        let binding = Arc::new(binding);
        Self { binding, ratchet, handshake, receive_only: false, created, last_received: None, carried: 0 }
    }

    /// Seals an encoded content (7.2). Store the session that comes back, then send the frame. Draws a ratchet secret only if
    /// a step is pending, then the wire nonce.
    ///
    /// # Errors
    /// `Limit` for a content above 61,439 bytes, at the end of a chain, and for a session that is not live.
    pub fn encrypt<R: CryptoRng + ?Sized>(&self, content: &[u8], rng: &mut R, now: Time) -> Result<(Self, Sealed), Error> {
        let padded = padding::padded_size(content.len()).filter(|_| self.is_live(now)).ok_or(Error::Limit)?;
        let mut ratchet = self.ratchet.clone();
        let (message_key, at) = ratchet.send(rng)?;
        let mut wire_nonce = [0; WIRE_NONCE_LEN];
        rng.fill_bytes(&mut wire_nonce);
        let keys = MessageKeys::derive(labels::RATCHET_MESSAGE, &message_key, &wire_nonce);

        let Position { ratchet_key, pn, n } = at;
        let session_id = self.binding.session_id;
        let mut frame = Vec::with_capacity(frame::dm_frame_len(self.handshake.is_some(), padded));
        frame::write_dm_header(&mut frame, self.handshake.as_deref(), &session_id, &ratchet_key, pn, n);
        frame.extend_from_slice(keys.commit());
        let start = frame.len();
        let ad = self.binding.associated_data(self.binding.me, self.binding.peer, &[&frame]);
        padding::pad_onto(&mut frame, content).ok_or(Error::Limit)?;
        keys.seal_in_place(&ad, &mut frame, start)?;

        let next = Self {
            binding: Arc::clone(&self.binding),
            ratchet,
            handshake: self.handshake.clone(),
            carried: self.carried.saturating_add(1),
            ..*self
        };
        Ok((next, Sealed { frame, wire_nonce, session_id, ratchet_key, n }))
    }

    /// Opens a frame of this session (7.3). Store the session that comes back together with the plaintext.
    ///
    /// # Errors
    /// `UnknownSession` for a frame of another session; `Replay`, `TooFarAhead`, `LowOrder`, `Undecryptable`; `Malformed` for
    /// authentic bytes that are no content.
    pub fn decrypt(&self, wire_nonce: &[u8; WIRE_NONCE_LEN], frame: &DmFrame<'_>, now: Time) -> Result<(Self, Plain), Error> {
        if frame.session_id != self.binding.session_id {
            return Err(Error::UnknownSession);
        }
        let mut ratchet = self.ratchet.clone();
        let at = Position { ratchet_key: frame.ratchet_key, pn: frame.pn, n: frame.n };
        let message_key = ratchet.receive(&at, now)?;
        let keys = MessageKeys::derive(labels::RATCHET_MESSAGE, &message_key, wire_nonce);
        let ad = self.binding.associated_data(self.binding.peer, self.binding.me, &[frame.header, frame.commit]);
        let mut bytes = keys.open(frame.commit, &ad, frame.sealed)?;
        let len = padding::unpad(&bytes).ok_or(Error::Malformed)?.len();
        bytes.truncate(len);
        let content = Content::from_bytes(&bytes)?;

        let next = Self {
            binding: Arc::clone(&self.binding),
            ratchet,
            handshake: None,
            receive_only: false,
            last_received: Some(now),
            carried: self.carried.saturating_add(1),
            ..*self
        };
        Ok((next, Plain { bytes, content, from: self.binding.peer }))
    }

    pub fn id(&self) -> &SessionId {
        &self.binding.session_id
    }

    pub fn generation(&self) -> u32 {
        self.binding.generation
    }

    pub fn role(&self) -> Role {
        self.binding.role
    }

    /// The device at the other end.
    pub fn peer(&self) -> Addr {
        self.binding.peer
    }

    pub fn peer_user(&self) -> UserId {
        self.binding.peer.user_id
    }

    /// The peer's UIK at the handshake.
    pub fn peer_identity(&self) -> &[u8; 32] {
        &self.binding.peer_identity
    }

    /// Whether the handshake had a one-time X25519 prekey: shown in session info (R10).
    pub fn had_one_time_prekey(&self) -> bool {
        self.binding.one_time_prekey
    }

    /// No frame of the peer has opened yet; frames carry the handshake.
    pub const fn is_unacked(&self) -> bool {
        self.handshake.is_some()
    }

    pub const fn is_receive_only(&self) -> bool {
        self.receive_only
    }

    pub const fn created(&self) -> Time {
        self.created
    }

    /// When a frame opened last; the time of creation before the first.
    pub fn last_active(&self) -> Time {
        self.last_received.unwrap_or(self.created)
    }

    /// Frames sent plus frames opened.
    pub const fn carried(&self) -> u64 {
        self.carried
    }

    /// Keys kept for messages that have not arrived.
    pub fn skipped_len(&self) -> usize {
        self.ratchet.skipped_len()
    }

    /// Messages that are missing still, though later ones came: those passed over after the one time, and at the other or
    /// before (rule R19).
    pub fn missing(&self, after: Time, until: Time) -> usize {
        self.ratchet.skipped_between(after, until)
    }

    /// Whether keys of messages that did not come have outlived their use.
    pub fn has_expired(&self, now: Time) -> bool {
        self.ratchet.has_expired(now)
    }

    /// Without such keys. An idle session opens nothing, so it drops nothing by itself.
    #[must_use]
    pub fn expire(mut self, now: Time) -> Self {
        self.ratchet.expire(now);
        self
    }

    /// May be sent on (10.2).
    pub const fn is_live(&self, now: Time) -> bool {
        let given_up = self.is_unacked() && now.saturating_sub(self.created) > UNACKED_USE;
        !self.receive_only && !given_up
    }

    /// The peer lost its state (10.2), or its identity changed (14.3): read, but do not send.
    #[must_use]
    pub fn into_receive_only(self) -> Self {
        Self { receive_only: true, ..self }
    }

    /// The storage form, with all secrets.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let Self { binding, ratchet, handshake, receive_only, created, last_received, carried } = self;
        let Binding { transcript_hash, session_id, generation, role, me, peer, peer_identity, one_time_prekey } = &**binding;
        let mut writer = Writer::with_capacity(256 + HANDSHAKE_LEN + ratchet.record_len());
        writer.u8(RECORD).u16(SUITE_1).bytes(transcript_hash).bytes(session_id).u32(*generation);
        writer.bool(*role == Role::Initiator).bytes(&me.to_bytes()).bytes(&peer.to_bytes());
        writer.bytes(peer_identity).bool(*one_time_prekey);
        ratchet.write(&mut writer);
        writer.option(handshake.as_ref(), |writer, bytes| {
            writer.bytes(&**bytes);
        });
        writer.bool(*receive_only).u64(*created).option(*last_received, |writer, time| {
            writer.u64(time);
        });
        writer.u64(*carried).finish()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, `Malformed` for one that is broken.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        if (reader.u8()?, reader.u16()?) != (RECORD, SUITE_1) {
            return Err(Error::Unsupported);
        }
        let binding = Binding {
            transcript_hash: *reader.array()?,
            session_id: *reader.array()?,
            generation: reader.u32()?,
            role: if reader.bool()? { Role::Initiator } else { Role::Responder },
            me: Addr::read(&mut reader)?,
            peer: Addr::read(&mut reader)?,
            peer_identity: *reader.array()?,
            one_time_prekey: reader.bool()?,
        };
        let ratchet = Ratchet::read(&mut reader)?;
        let handshake = reader.option(|reader| reader.array().map(|bytes| Arc::new(*bytes)))?;
        let (receive_only, created) = (reader.bool()?, reader.u64()?);
        let (last_received, carried) = (reader.option(Reader::u64)?, reader.u64()?);
        reader.end()?;
        Ok(Self { binding: Arc::new(binding), ratchet, handshake, receive_only, created, last_received, carried })
    }
}

impl Binding {
    /// `LBL("tc/1 dm") ‖ TH ‖ addr_from ‖ addr_to ‖ header ‖ commit`. The addresses are those of the handshake (R5).
    fn associated_data(&self, from: Addr, to: Addr, header_and_commit: &[&[u8]]) -> Vec<u8> {
        let len = AD_PREFIX + header_and_commit.iter().map(|part| part.len()).sum::<usize>();
        let mut ad = Vec::with_capacity(len);
        ad.extend_from_slice(labels::DM.as_bytes());
        ad.extend_from_slice(&self.transcript_hash);
        ad.extend_from_slice(&from.to_bytes());
        ad.extend_from_slice(&to.to_bytes());
        header_and_commit.iter().for_each(|part| ad.extend_from_slice(part));
        ad
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { binding, ratchet, handshake, receive_only, created, last_received, carried } = self;
        f.debug_struct("Session")
            .field("id", &hex::encode(binding.session_id))
            .field("generation", &binding.generation)
            .field("role", &binding.role)
            .field("me", &binding.me)
            .field("peer", &binding.peer)
            .field("ratchet", ratchet)
            .field("unacked", &handshake.is_some())
            .field("receive_only", receive_only)
            .field("created", created)
            .field("last_received", last_received)
            .field("carried", carried)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, content: _, from } = self;
        f.debug_struct("Plain").field("len", &bytes.len()).field("from", from).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
impl Session {
    /// What the test vectors show of a state.
    pub(crate) fn as_json(&self) -> serde_json::Value {
        self.ratchet.as_json(self.is_unacked())
    }

    /// The state as a thief would use it: counters back at zero, nothing marked as used.
    pub(crate) fn rewound(&self) -> Self {
        Self { ratchet: self.ratchet.rewound(), ..self.clone() }
    }

    /// TH.
    pub(crate) fn transcript_hash(&self) -> &[u8; 32] {
        &self.binding.transcript_hash
    }
}
