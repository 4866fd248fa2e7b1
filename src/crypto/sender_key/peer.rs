//! A chain of another device in one channel (TC/1 sections 12.2 and 12.3). Every function works on a copy and returns the next
//! state: an error leaves the stored chain as it was. Start at [`PeerChain::open`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::content::{Accepted, Content, Via, accept};
use super::super::error::Error;
use super::super::frame::{ChannelFrame, WIRE_NONCE_LEN};
use super::super::identity::Addr;
use super::super::membership::{Epoch, Identity, Log};
use super::super::ratchet::chain::{self, ChainKey, MessageKey};
use super::super::signature::VerifyKey;
use super::super::wire::{Reader, Writer};
use super::super::{Time, labels, padding};
use super::chain::{associated_data, message_keys, signed_hash_of};
use super::{ITERATION_END, KEEP_MS, LATE_MS, MAX_CHAINS, OVERDUE_AGE_MS, OVERDUE_MESSAGES, Skdm};

const RECORD: u8 = 1;

/// What this device knows of a peer's chain.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerChain {
    channel_id: [u8; 16],
    /// The device of the session that the key came by.
    sender: Addr,
    /// The sender's UIK in the log.
    identity: Identity,
    chain_id: u32,
    sign_pub: VerifyKey,
    /// The epoch of the key: no message of the chain is from an earlier one.
    epoch: Epoch,
    /// The first iteration that this device was ever given.
    first: u32,
    /// The number of the next message in order.
    next: u32,
    key: Arc<ChainKey>,
    skipped: BTreeMap<u32, Skipped>,
    received: Time,
}

#[derive(Clone, PartialEq, Eq)]
struct Skipped {
    key: Arc<MessageKey>,
    stored: Time,
}

/// What the receiver knows about a frame beyond its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub now: Time,
    /// The sending device is not in its user's newest verified list any more.
    pub device_left: bool,
    /// Frames from before a removal are still taken: see [`is_late_allowed`].
    pub late_ok: bool,
}

/// An opened message.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    pub accepted: Accepted,
    /// The encoded content: kept when its body is one of a newer client.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The epoch at which the sender sent it; rights are those of this epoch.
    pub epoch: Epoch,
    /// "Sent before removal, by the server's order": to be marked.
    pub late: bool,
}

impl PeerChain {
    /// Takes the key that a session's device sent. `from` and `identity` are those of the session; `known` is the stored chain of
    /// (channel, address, chain_id). `None`: that chain is known already, nothing changes.
    ///
    /// # Errors
    /// In this order: `Malformed`, `BadSignature` (weak key) · `FutureEpoch`: fetch operations, hold · `Equivocation` when the sender's view
    /// of the members differs: refuse, warn, ask for `membership_ops` · `Rejected` when the channel is not this log's · `NotMember` at that epoch or
    /// now, or under another UIK · `Equivocation` when the known chain has another signing key.
    pub fn accept(
        skdm: &[u8],
        from: Addr,
        identity: &VerifyKey,
        log: &Log,
        known: Option<&Self>,
        now: Time,
    ) -> Result<Option<Self>, Error> {
        let Skdm { channel_id, chain_id, iteration, key, sign_pub, epoch, head } = Skdm::parse(skdm)?;
        let Some(own_head) = log.head(epoch) else { return Err(Error::FutureEpoch) };
        if *own_head != head {
            return Err(Error::Equivocation);
        }
        if log.channel(&channel_id).is_none() {
            return Err(Error::Rejected);
        }
        let identity = *identity.as_bytes();
        let is_member =
            |member: Option<&super::super::membership::Member>| member.is_some_and(|member| member.identity == identity);
        if !is_member(log.member_at(&from.user_id, epoch)) || !is_member(log.member(&from.user_id)) {
            return Err(Error::NotMember);
        }
        match known.filter(|chain| chain.is_of(&channel_id, from, chain_id)) {
            Some(chain) if chain.sign_pub == sign_pub => Ok(None),
            Some(_) => Err(Error::Equivocation),
            None => Ok(Some(Self {
                channel_id,
                sender: from,
                identity,
                chain_id,
                sign_pub,
                epoch,
                first: iteration,
                next: iteration,
                key: Arc::new(key),
                skipped: BTreeMap::new(),
                received: now,
            })),
        }
    }

    /// Opens a frame. Store the returned chain and the message in one transaction.
    ///
    /// # Errors
    /// In this order: `UnknownChain` · `FutureEpoch` · `BadSignature` · `NotMember` · `UnknownChain` from before this device was given the chain,
    /// `Replay`, `TooFarAhead` · `Undecryptable` · `Malformed` padding or content, or content that no channel may carry.
    pub fn open(
        &self,
        log: &Log,
        wire_nonce: &[u8; WIRE_NONCE_LEN],
        frame: &ChannelFrame<'_>,
        arrival: Arrival,
    ) -> Result<(Self, Plain), Error> {
        if !self.is_of(&frame.channel_id, frame.sender, frame.chain_id) {
            return Err(Error::UnknownChain);
        }
        let Some(head) = log.head(frame.epoch) else { return Err(Error::FutureEpoch) };
        let hash = signed_hash_of(frame, head, wire_nonce);
        self.sign_pub.verify(labels::SENDER_KEY_SIGNATURE, &[&hash], frame.signature)?;

        let user = frame.sender.user_id;
        let is_member = log.member_at(&user, frame.epoch).is_some_and(|member| member.identity == self.identity);
        let late = arrival.device_left || log.left_after(&user, frame.epoch).is_some();
        if frame.epoch < self.epoch || !is_member || (late && !arrival.late_ok) {
            return Err(Error::NotMember);
        }

        let mut next = self.clone();
        next.expire(arrival.now);
        let key = next.take_key(frame.iteration, arrival.now)?;
        let ad = associated_data(head, &self.identity, frame.header, frame.commit);
        let padded = message_keys(&key, wire_nonce).open(frame.commit, &ad, frame.sealed)?;
        let bytes = Zeroizing::new(padding::unpad(&padded).ok_or(Error::Malformed)?.to_vec());
        let via = Via::Channel { from: user, channel_id: self.channel_id };
        let accepted = accept(Content::from_bytes(&bytes)?, via)?;
        Ok((next, Plain { accepted, bytes, epoch: frame.epoch, late }))
    }

    /// Drops the keys of messages that did not come within 14 days; whether there were any.
    pub fn expire(&mut self, now: Time) -> bool {
        let before = self.skipped.len();
        self.skipped.retain(|_, skipped| now.saturating_sub(skipped.stored) < KEEP_MS);
        self.skipped.len() < before
    }

    pub fn channel_id(&self) -> &[u8; 16] {
        &self.channel_id
    }

    pub fn sender(&self) -> Addr {
        self.sender
    }

    pub fn chain_id(&self) -> u32 {
        self.chain_id
    }

    /// The number of the next message in order.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The numbers below [`next`](Self::next) that are still missing, ascending: the gaps to be shown (rule R19).
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        self.skipped.keys().copied()
    }

    /// Whether the sender should have rotated long ago: warn.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.next > OVERDUE_MESSAGES || now.saturating_sub(self.received) > OVERDUE_AGE_MS
    }

    /// The storage form, with its secrets.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let Self { channel_id, sender, identity, chain_id, sign_pub, epoch, first, next, key, skipped, received } = self;
        let mut writer = Writer::with_capacity(170 + 44 * skipped.len());
        writer.u8(RECORD).bytes(channel_id).bytes(&sender.to_bytes()).bytes(identity).u32(*chain_id);
        writer.bytes(sign_pub.as_bytes()).u64(*epoch).u32(*first).u32(*next).bytes(key.expose()).u64(*received);
        writer.count(skipped.len());
        for (iteration, Skipped { key, stored }) in skipped {
            writer.u32(*iteration).bytes(key.expose()).u64(*stored);
        }
        writer.finish()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, `Malformed` for one that is broken.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        if reader.u8()? != RECORD {
            return Err(Error::Unsupported);
        }
        let mut chain = Self {
            channel_id: *reader.array()?,
            sender: Addr::read(&mut reader)?,
            identity: *reader.array()?,
            chain_id: reader.u32()?,
            sign_pub: VerifyKey::import(reader.array()?)?,
            epoch: reader.u64()?,
            first: reader.u32()?,
            next: reader.u32()?,
            key: Arc::new(ChainKey::copy_of(reader.array()?)),
            received: reader.u64()?,
            skipped: BTreeMap::new(),
        };
        for _ in 0..reader.u32()? {
            let (iteration, key) = (reader.u32()?, Arc::new(MessageKey::copy_of(reader.array()?)));
            chain.skipped.insert(iteration, Skipped { key, stored: reader.u64()? });
        }
        reader.end()?;
        Ok(chain)
    }

    fn is_of(&self, channel_id: &[u8; 16], sender: Addr, chain_id: u32) -> bool {
        (self.channel_id, self.sender, self.chain_id) == (*channel_id, sender, chain_id)
    }

    /// The key of one message, which is then gone; the keys that are passed over are stored.
    fn take_key(&mut self, iteration: u32, now: Time) -> Result<Arc<MessageKey>, Error> {
        if let Some(skipped) = self.skipped.remove(&iteration) {
            return Ok(skipped.key);
        }
        if iteration < self.first {
            return Err(Error::UnknownChain);
        }
        if iteration < self.next {
            return Err(Error::Replay);
        }
        if iteration >= ITERATION_END {
            return Err(Error::TooFarAhead);
        }
        while self.next < iteration {
            let key = self.step();
            self.skipped.insert(self.next, Skipped { key, stored: now });
            self.next += 1;
        }
        self.next += 1;
        Ok(self.step())
    }

    fn step(&mut self) -> Arc<MessageKey> {
        let (message, next) = chain::step(&self.key);
        self.key = Arc::new(next);
        Arc::new(message)
    }
}

impl fmt::Debug for PeerChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel_id, sender, identity: _, chain_id, sign_pub: _, epoch, first, next, key: _, skipped, received } = self;
        f.debug_struct("PeerChain")
            .field("channel_id", channel_id)
            .field("sender", sender)
            .field("chain_id", chain_id)
            .field("epoch", epoch)
            .field("first", first)
            .field("next", next)
            .field("skipped", &skipped.keys())
            .field("received", received)
            .finish_non_exhaustive()
    }
}

/// Whether a frame from before a removal is still taken: the server orders it before the change (the row's `log_seq` is below `removed_at`), and it
/// arrived within 24 hours after the receiver applied the change.
pub fn is_late_allowed(log_seq: Epoch, removed_at: Epoch, applied: Time, arrived: Time) -> bool {
    log_seq < removed_at && arrived < applied.saturating_add(LATE_MS)
}

/// Of all chains of one sender device in one channel, those to delete: beyond five, and older ones 14 days after a newer one arrived.
pub fn superseded(chains: &[PeerChain], now: Time) -> Vec<u32> {
    let mut newest_first: Vec<&PeerChain> = chains.iter().collect();
    newest_first.sort_by_key(|chain| std::cmp::Reverse(chain.received));
    let newer = newest_first.iter().map(|chain| Some(chain.received));
    let followed_by = std::iter::once(None).chain(newer);
    let too_old = |followed: Option<Time>| followed.is_some_and(|followed| now.saturating_sub(followed) >= KEEP_MS);
    newest_first
        .iter()
        .zip(followed_by)
        .enumerate()
        .filter(|(place, (_, followed))| *place >= MAX_CHAINS || too_old(*followed))
        .map(|(_, (chain, _))| chain.chain_id)
        .collect()
}
