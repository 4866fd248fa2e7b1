//! The Double Ratchet (TC/1 section 7), without handshakes, identities, frames or ciphers: positions go in, message keys
//! come out. Callers work on a clone and keep it only when the frame opened; cloning shares the secrets and copies none.

pub mod chain;
pub mod message_key;
mod root;
mod skipped;

use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;

use self::chain::{ChainKey, MessageKey, RootKey};
use self::skipped::Skipped;
use super::Time;
use super::dh::{DhKeyPair, DhPublic};
use super::error::Error;
use super::frame::COUNTER_END;
use super::secret::Secret;
use super::wire::{Reader, Writer};

/// Messages that one frame may skip in each of the old and the new chain: bounds the work before anything is authentic.
pub const MAX_SKIP: u32 = 1_000;

/// Where a message stands: the sender's ratchet key, the length of its previous chain, and the number in this chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub ratchet_key: DhPublic,
    pub pn: u32,
    pub n: u32,
}

/// The state of section 7.1 that changes with messages.
#[derive(Clone)]
pub struct Ratchet {
    /// RK.
    root: Arc<RootKey>,
    /// DHs.
    own: Arc<DhKeyPair>,
    /// DHr.
    peer: Option<DhPublic>,
    /// CKs.
    sending: Option<Arc<ChainKey>>,
    /// CKr.
    receiving: Option<Arc<ChainKey>>,
    ns: u32,
    nr: u32,
    pn: u32,
    skipped: Arc<Skipped>,
}

impl Ratchet {
    /// The initiator after its handshake: it has taken the first step towards the responder's signed prekey.
    ///
    /// # Errors
    /// `LowOrder` (R7).
    pub(super) fn initiator(root: &RootKey, own: DhKeyPair, signed_prekey: DhPublic) -> Result<Self, Error> {
        let (root, sending) = root::step(root, &own.agree(&signed_prekey)?);
        Ok(Self { peer: Some(signed_prekey), sending: Some(Arc::new(sending)), ..Self::start(root, Arc::new(own)) })
    }

    /// The responder after its handshake: it cannot send before it received.
    pub(super) fn responder(root: RootKey, signed_prekey: Arc<DhKeyPair>) -> Self {
        Self::start(root, signed_prekey)
    }

    fn start(root: RootKey, own: Arc<DhKeyPair>) -> Self {
        let (peer, sending, receiving, skipped) = (None, None, None, Arc::default());
        Self { root: Arc::new(root), own, peer, sending, receiving, ns: 0, nr: 0, pn: 0, skipped }
    }

    /// The next message key to send with (7.2). Draws a ratchet secret only if a step is pending.
    ///
    /// # Errors
    /// `Limit` at the end of a chain; `Rejected` for a responder that has received nothing; `LowOrder`.
    pub(super) fn send<R: CryptoRng + ?Sized>(&mut self, rng: &mut R) -> Result<(MessageKey, Position), Error> {
        let chain = match &self.sending {
            Some(chain) => Arc::clone(chain),
            None => {
                let own = DhKeyPair::random(rng);
                let (root, chain) = root::step(&self.root, &own.agree(&self.peer.ok_or(Error::Rejected)?)?);
                (self.root, self.own, self.pn, self.ns) = (Arc::new(root), Arc::new(own), self.ns, 0);
                Arc::new(chain)
            }
        };
        let n = self.ns;
        self.ns = n.checked_add(1).filter(|next| *next < COUNTER_END).ok_or(Error::Limit)?;
        let (key, next) = chain::step(&chain);
        self.sending = Some(Arc::new(next));
        Ok((key, Position { ratchet_key: self.own.public(), pn: self.pn, n }))
    }

    /// The message key for a received position (7.3, steps 1 to 5 and the bounds of step 7).
    ///
    /// # Errors
    /// `Replay`, `Undecryptable`, `TooFarAhead` or `LowOrder`. The state is then half-way: drop the clone.
    pub(super) fn receive(&mut self, at: &Position, now: Time) -> Result<Arc<MessageKey>, Error> {
        self.expire(now);
        if self.skipped.has(at) {
            return Arc::make_mut(&mut self.skipped).take(at).ok_or(Error::Undecryptable);
        }
        if self.skipped.is_retired(&at.ratchet_key) {
            return Err(Error::Replay);
        }
        if self.peer == Some(at.ratchet_key) {
            if self.receiving.is_none() {
                return Err(Error::Undecryptable);
            }
            let gap = at.n.checked_sub(self.nr).ok_or(Error::Replay)?;
            if gap > MAX_SKIP {
                return Err(Error::TooFarAhead);
            }
        } else {
            self.turn(at, now)?;
        }
        self.skip_to(at.n, now)?;
        let (key, next) = chain::step(self.receiving.as_ref().ok_or(Error::Undecryptable)?);
        (self.receiving, self.nr) = (Some(Arc::new(next)), at.n.saturating_add(1));
        if self.skipped.exceeds_bounds() {
            Arc::make_mut(&mut self.skipped).enforce_bounds();
        }
        Ok(Arc::new(key))
    }

    /// The peer turned to a new ratchet key (7.3, step 4): finish the old receiving chain, start the new one.
    fn turn(&mut self, at: &Position, now: Time) -> Result<(), Error> {
        if at.n > MAX_SKIP {
            return Err(Error::TooFarAhead);
        }
        if self.receiving.is_some() {
            let gap = at.pn.checked_sub(self.nr).ok_or(Error::Undecryptable)?;
            if gap > MAX_SKIP {
                return Err(Error::TooFarAhead);
            }
            self.skip_to(at.pn, now)?;
            if let Some(old) = self.peer {
                Arc::make_mut(&mut self.skipped).retire(old);
            }
        }
        let (root, receiving) = root::step(&self.root, &self.own.agree(&at.ratchet_key)?);
        self.root = Arc::new(root);
        self.receiving = Some(Arc::new(receiving));
        (self.peer, self.nr, self.sending) = (Some(at.ratchet_key), 0, None);
        Ok(())
    }

    /// Keeps the keys of the messages before `n` of the receiving chain.
    fn skip_to(&mut self, n: u32, now: Time) -> Result<(), Error> {
        if self.nr >= n {
            return Ok(());
        }
        let ratchet_key = self.peer.ok_or(Error::Undecryptable)?;
        let mut chain = Arc::clone(self.receiving.as_ref().ok_or(Error::Undecryptable)?);
        let skipped = Arc::make_mut(&mut self.skipped);
        for number in self.nr..n {
            let (key, next) = chain::step(&chain);
            skipped.keep(ratchet_key, number, key, now);
            chain = Arc::new(next);
        }
        (self.receiving, self.nr) = (Some(chain), n);
        Ok(())
    }

    /// Whether a stored key has outlived its use.
    pub(super) fn has_expired(&self, now: Time) -> bool {
        self.skipped.has_expired(now)
    }

    /// Drops stored keys that have outlived their use (7.3, step 1), also where no frame comes any more.
    pub(super) fn expire(&mut self, now: Time) {
        if self.skipped.has_expired(now) {
            Arc::make_mut(&mut self.skipped).drop_expired(now);
        }
    }

    /// Stored keys of messages that have not arrived.
    pub(super) fn skipped_len(&self) -> usize {
        self.skipped.len()
    }

    pub(super) fn skipped_between(&self, after: Time, until: Time) -> usize {
        self.skipped.stored_between(after, until)
    }

    pub(super) fn record_len(&self) -> usize {
        300 + self.skipped.record_len()
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        let Self { root, own, peer, sending, receiving, ns, nr, pn, skipped } = self;
        writer.bytes(root.expose()).bytes(own.expose_secret()).bytes(own.public().as_bytes());
        writer.option(peer.as_ref(), |writer, key| {
            writer.bytes(key.as_bytes());
        });
        for chain in [sending, receiving] {
            writer.option(chain.as_ref(), |writer, key| {
                writer.bytes(key.expose());
            });
        }
        writer.u32(*ns).u32(*nr).u32(*pn);
        skipped.write(writer);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let root = Arc::new(RootKey::copy_of(reader.array()?));
        let own = DhKeyPair::from_parts(Secret::copy_of(reader.array()?), DhPublic(*reader.array()?));
        let peer = reader.option(|reader| Ok(DhPublic(*reader.array()?)))?;
        let chain = |reader: &mut Reader<'_>| reader.array().map(|key| Arc::new(ChainKey::copy_of(key)));
        let (sending, receiving) = (reader.option(chain)?, reader.option(chain)?);
        let (ns, nr, pn) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let skipped = Arc::new(Skipped::read(reader)?);
        Ok(Self { root, own: Arc::new(own), peer, sending, receiving, ns, nr, pn, skipped })
    }
}

impl fmt::Debug for Ratchet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root: _, own, peer, sending, receiving, ns, nr, pn, skipped } = self;
        f.debug_struct("Ratchet")
            .field("own", &own.public())
            .field("peer", peer)
            .field("sending", &sending.is_some())
            .field("receiving", &receiving.is_some())
            .field("ns", ns)
            .field("nr", nr)
            .field("pn", pn)
            .field("skipped", &skipped.len())
            .finish_non_exhaustive()
    }
}

/// What the test vectors show of a state.
#[cfg(test)]
impl Ratchet {
    pub(crate) fn rewound(&self) -> Self {
        Self { ns: 0, nr: 0, skipped: Arc::default(), ..self.clone() }
    }

    pub(crate) fn as_json(&self, unacked: bool) -> serde_json::Value {
        let chain = |chain: &Option<Arc<ChainKey>>| chain.as_ref().map_or(String::new(), |key| hex::encode(key.expose()));
        let (retired, skipped) = self.skipped.as_json();
        serde_json::json!({
            "rk": hex::encode(self.root.expose()),
            "dhs_pub": hex::encode(self.own.public().0),
            "dhr": self.peer.map_or(String::new(), |key| hex::encode(key.0)),
            "cks": chain(&self.sending),
            "ckr": chain(&self.receiving),
            "ns": self.ns,
            "nr": self.nr,
            "pn": self.pn,
            "unacked": unacked,
            "retired": retired,
            "skipped": skipped,
        })
    }
}
