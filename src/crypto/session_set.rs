//! The sessions with one device and the choice among them (TC/1 section 10.2). Both sides compute the same choice from what
//! they know; nothing about it is stored or negotiated. The rules converge as they stand: do not add tie-breaks.

use rand_core::CryptoRng;

use super::Time;
use super::bundle::{DAY, VerifiedBundle};
use super::contact::Contact;
use super::error::Error;
use super::frame::{COUNTER_END, DmFrame, WIRE_NONCE_LEN};
use super::handshake;
use super::identity::{Addr, LocalDevice};
use super::prekeys::{Consumed, PrekeySecrets};
use super::session::{Plain, Role, Sealed, Session, SessionId};

/// Sessions with one device.
pub const MAX_SESSIONS: usize = 9;
/// A session that is not the active one goes after this time without a received frame.
pub const IDLE: Time = 30 * DAY;

/// When the initiator of the active session starts a new handshake; the other side waits twice as long.
const RENEWAL_AGE: Time = 7 * DAY;
const RENEWAL_CARRIED: u64 = 2_000;

/// All sessions with one device.
#[derive(Clone, Debug)]
pub struct SessionSet {
    peer: Addr,
    /// The largest generation ever known; it stays when sessions go.
    max_generation: u32,
    sessions: Vec<Session>,
}

/// An opened frame with the state to store in the same transaction.
#[derive(Debug)]
pub struct Opened {
    pub sessions: SessionSet,
    pub session_id: SessionId,
    pub plain: Plain,
    /// Of a first message: for [`PrekeySecrets::consume`].
    pub consumed: Option<Consumed>,
}

impl SessionSet {
    /// No session yet.
    pub const fn new(peer: Addr) -> Self {
        Self { peer, max_generation: 0, sessions: Vec::new() }
    }

    /// From the store: the largest generation, and each session's record.
    pub fn from_parts(peer: Addr, max_generation: u32, sessions: Vec<Session>) -> Self {
        let known = sessions.iter().map(Session::generation).max().unwrap_or(0);
        Self { peer, max_generation: max_generation.max(known), sessions }
    }

    /// The session to send on: the live one with the largest (generation, id).
    pub fn active(&self, now: Time) -> Option<&Session> {
        self.sessions.iter().filter(|session| session.is_live(now)).max_by_key(|session| rank(session))
    }

    /// Makes a new session with the peer's device; it becomes the active one.
    ///
    /// # Errors
    /// `Rejected` for a bundle of another device; `Limit` when generations are used up; `LowOrder`.
    pub fn initiate<R: CryptoRng + ?Sized>(
        &self,
        me: &LocalDevice,
        bundle: &VerifiedBundle,
        rng: &mut R,
        now: Time,
    ) -> Result<Self, Error> {
        if bundle.certificate().addr() != self.peer {
            return Err(Error::Rejected);
        }
        let generation = self.max_generation.checked_add(1).filter(|next| *next < COUNTER_END).ok_or(Error::Limit)?;
        let session = handshake::initiate(me, bundle, generation, rng, now)?;
        Ok(self.with(session, now))
    }

    /// Seals an encoded content on the active session.
    ///
    /// # Errors
    /// `UnknownSession` without a live session: initiate first. Else as [`Session::encrypt`].
    pub fn encrypt<R: CryptoRng + ?Sized>(&self, content: &[u8], rng: &mut R, now: Time) -> Result<(Self, Sealed), Error> {
        let (session, sealed) = self.active(now).ok_or(Error::UnknownSession)?.encrypt(content, rng, now)?;
        Ok((self.with(session, now), sealed))
    }

    /// Opens a frame from this device: on the session that it names, or on a new one if it is a first message. `peer` is the
    /// contact with the current verified list.
    ///
    /// # Errors
    /// `UnknownSession`; `Rejected` when the certificate in the frame names another device than the server did; else as
    /// [`Session::decrypt`] and [`handshake::respond`].
    pub fn open(
        &self,
        me: &LocalDevice,
        keys: &PrekeySecrets,
        peer: &Contact,
        wire_nonce: &[u8; WIRE_NONCE_LEN],
        frame: &DmFrame<'_>,
        now: Time,
    ) -> Result<Opened, Error> {
        let (session, plain, consumed) = match (self.get(&frame.session_id), &frame.handshake) {
            (Some(session), _) => {
                let (session, plain) = session.decrypt(wire_nonce, frame, now)?;
                (session, plain, None)
            }
            (None, None) => return Err(Error::UnknownSession),
            (None, Some(first)) if first.sender != self.peer => return Err(Error::Rejected),
            (None, Some(_)) => {
                let (session, plain, consumed) = handshake::respond(me, keys, peer, self.max_generation, wire_nonce, frame, now)?;
                (session, plain, Some(consumed))
            }
        };
        let session_id = *session.id();
        Ok(Opened { sessions: self.with(session, now), session_id, plain, consumed })
    }

    /// The peer asked on session `on` to send again what it could not open on session `lost`: it has lost that state, so no
    /// session up to that generation is sent on any more, except the one that the request came by.
    #[must_use]
    pub fn lost(&self, lost: &SessionId, on: &SessionId) -> Self {
        let Some(generation) = self.get(lost).map(Session::generation).filter(|_| lost != on) else { return self.clone() };
        let sessions = self.sessions.iter().cloned().map(|session| {
            let keep = session.id() == on || session.generation() > generation;
            if keep { session } else { session.into_receive_only() }
        });
        Self { sessions: sessions.collect(), ..self.clone() }
    }

    /// Deletes sessions that are not active and have been idle for 30 days, and skipped keys after 14 days.
    #[must_use]
    pub fn prune(&self, now: Time) -> Self {
        let active = self.active(now).map(|session| *session.id());
        let stay = self.sessions.iter().filter(|session| !is_idle(session, active, now)).cloned();
        Self { sessions: stay.map(|session| session.expire(now)).collect(), ..self.clone() }
    }

    /// Whether [`prune`](Self::prune) has something to do.
    pub fn prune_due(&self, now: Time) -> bool {
        let active = self.active(now).map(|session| *session.id());
        self.sessions.iter().any(|session| is_idle(session, active, now) || session.has_expired(now))
    }

    /// Whether this side starts a new handshake now, to heal against an adversary with a quantum computer.
    pub fn renewal_due(&self, now: Time) -> bool {
        self.active(now).is_some_and(|session| {
            let patience = match session.role() {
                Role::Initiator => 1,
                Role::Responder => 2,
            };
            let age = now.saturating_sub(session.created());
            !session.is_unacked() && (age >= patience * RENEWAL_AGE || session.carried() >= patience * RENEWAL_CARRIED)
        })
    }

    /// Messages of all sessions that are missing still: see [`Session::missing`].
    pub fn missing(&self, after: Time, until: Time) -> usize {
        self.sessions.iter().map(|session| session.missing(after, until)).sum()
    }

    pub fn get(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id() == id)
    }

    /// At most nine.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    pub const fn peer(&self) -> Addr {
        self.peer
    }

    /// The largest generation ever known, 0 before the first: to be stored for good.
    pub const fn max_generation(&self) -> u32 {
        self.max_generation
    }

    /// With a session added or replaced. Above nine the receive-only ones go first, then the smallest; never the active one.
    fn with(&self, session: Session, now: Time) -> Self {
        let max_generation = self.max_generation.max(session.generation());
        let mut sessions = self.sessions.clone();
        match sessions.iter_mut().find(|known| known.id() == session.id()) {
            Some(known) => *known = session,
            None => sessions.push(session),
        }
        let mut set = Self { peer: self.peer, max_generation, sessions };
        while set.sessions.len() > MAX_SESSIONS {
            let active = set.active(now).map(|session| *session.id());
            let passive = set.sessions.iter().filter(|session| Some(*session.id()) != active);
            let Some(victim) = passive.min_by_key(|session| (!session.is_receive_only(), rank(session))) else { break };
            let victim = *victim.id();
            set.sessions.retain(|session| *session.id() != victim);
        }
        set
    }
}

fn is_idle(session: &Session, active: Option<SessionId>, now: Time) -> bool {
    Some(*session.id()) != active && now.saturating_sub(session.last_active()) >= IDLE
}

/// The order among sessions, the same on both sides.
fn rank(session: &Session) -> (u32, SessionId) {
    (session.generation(), *session.id())
}
