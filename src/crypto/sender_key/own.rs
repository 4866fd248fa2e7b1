//! The chain that this device sends on in one channel (TC/1 sections 12.1 and 12.3). Start at [`OwnChain::seal`].

use std::fmt;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::super::error::Error;
use super::super::frame::{COMMIT_LEN, ChannelFrame, WIRE_NONCE_LEN};
use super::super::identity::Addr;
use super::super::membership::{ChannelState, Epoch, Identity, Log};
use super::super::ratchet::chain::{self, ChainKey};
use super::super::secret::Secret;
use super::super::signature::{SIGNATURE_LEN, SigningKey};
use super::super::wire::{Reader, Writer};
use super::super::{Time, aead, labels, padding};
use super::chain::{associated_data, message_keys, signed_hash};
use super::{MAX_AGE_MS, MAX_MESSAGES, Skdm};

const RECORD: u8 = 1;

/// A chain of this device: its key, its signing key, and how far it is.
pub struct OwnChain {
    channel_id: [u8; 16],
    sender: Addr,
    /// The UIK that the log knows this user by.
    identity: Identity,
    chain_id: u32,
    /// The number of the next message.
    iteration: u32,
    key: ChainKey,
    signing: SigningKey,
    created: Time,
    /// The epoch at creation: everybody who left after it may have the key.
    epoch0: Epoch,
}

/// A frame to send: `wire_nonce` travels beside it. The position names it in a request to send again (10.5).
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    pub frame: Vec<u8>,
    pub wire_nonce: [u8; WIRE_NONCE_LEN],
    pub chain_id: u32,
    pub iteration: u32,
}

/// Why a chain may not be used for another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Somebody was removed or left.
    MemberLeft,
    /// A device of a member disappeared from its list, or has another signing key.
    DeviceLeft,
    /// A receiver reported a bad signature (`session_ctl{3}`).
    BadSignature,
    /// The log was stopped and runs again.
    LogResumed,
    /// 500 messages.
    Full,
    /// 7 days.
    Old,
}

impl OwnChain {
    /// A new chain. Draws chain_id (4 bytes, again while it is 0 or `is_used` for this channel), chain key and signing seed.
    ///
    /// # Errors
    /// `Equivocation` while the log is stopped, `Rejected` when the channel is not a live one of this log, `NotMember`.
    pub fn create<R: CryptoRng + ?Sized>(
        log: &Log,
        channel_id: [u8; 16],
        sender: Addr,
        is_used: impl Fn(u32) -> bool,
        rng: &mut R,
        now: Time,
    ) -> Result<Self, Error> {
        let identity = may_send(log, &channel_id, sender)?;
        let chain_id = loop {
            let mut bytes = [0; 4];
            rng.fill_bytes(&mut bytes);
            let chain_id = u32::from_be_bytes(bytes);
            if chain_id != 0 && !is_used(chain_id) {
                break chain_id;
            }
        };
        let (key, signing) = (ChainKey::from(Secret::random(rng)), SigningKey::random(rng));
        Ok(Self { channel_id, sender, identity, chain_id, iteration: 0, key, signing, created: now, epoch0: log.epoch() })
    }

    /// Whether the next message needs a new chain. The log, the count and the clock are looked at here; whether a member's device left
    /// its list, or `session_ctl{3}` came, since the chain was made is what the caller knows.
    pub fn rotation(&self, log: &Log, device_left: bool, bad_signature: bool, now: Time) -> Option<Rotation> {
        let after_start = |epoch: Option<Epoch>| epoch.is_some_and(|epoch| epoch > self.epoch0);
        if after_start(log.shrunk_at()) {
            Some(Rotation::MemberLeft)
        } else if device_left {
            Some(Rotation::DeviceLeft)
        } else if bad_signature {
            Some(Rotation::BadSignature)
        } else if after_start(log.resumed_at()) {
            Some(Rotation::LogResumed)
        } else if self.iteration >= MAX_MESSAGES {
            Some(Rotation::Full)
        } else if now.saturating_sub(self.created) >= MAX_AGE_MS {
            Some(Rotation::Old)
        } else {
            None
        }
    }

    /// Seals an encoded content at the log's newest epoch and steps the chain. Draws the wire nonce (12 bytes). Store the chain
    /// before the frame leaves.
    ///
    /// # Errors
    /// `Limit` when the content is too long or the chain must be replaced (see [`rotation`](Self::rotation)); `Equivocation` while the log is
    /// stopped; `Rejected`, `NotMember` as for [`create`](Self::create).
    pub fn seal<R: CryptoRng + ?Sized>(&mut self, log: &Log, content: &[u8], rng: &mut R, now: Time) -> Result<Sealed, Error> {
        if may_send(log, &self.channel_id, self.sender)? != self.identity {
            return Err(Error::NotMember);
        }
        if self.rotation(log, false, false, now).is_some() {
            return Err(Error::Limit);
        }
        let padded = padding::pad(content).ok_or(Error::Limit)?;
        let mut wire_nonce = [0; WIRE_NONCE_LEN];
        rng.fill_bytes(&mut wire_nonce);

        let (epoch, head) = (log.epoch(), log.newest_head());
        let (message_key, next) = chain::step(&self.key);
        let keys = message_keys(&message_key, &wire_nonce);
        let header = ChannelFrame::header_bytes(&self.channel_id, self.sender, self.chain_id, self.iteration, epoch);
        let ad = associated_data(&head, &self.identity, &header, keys.commit());
        let start = header.len() + COMMIT_LEN;
        let mut frame = Vec::with_capacity(start + padded.len() + aead::TAG_LEN + SIGNATURE_LEN);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(keys.commit());
        frame.extend_from_slice(&padded);
        keys.seal_in_place(&ad, &mut frame, start)?;
        let sealed = frame.get(start..).ok_or(Error::Limit)?;
        let hash = signed_hash(&head, &header, &wire_nonce, keys.commit(), sealed);
        frame.extend_from_slice(&self.signing.sign(labels::SENDER_KEY_SIGNATURE, &[&hash]));

        let sealed = Sealed { frame, wire_nonce, chain_id: self.chain_id, iteration: self.iteration };
        self.key = next;
        self.iteration += 1;
        Ok(sealed)
    }

    /// The chain as it is now, for a device that lacks it: it reads from the next message on.
    pub fn skdm(&self, log: &Log) -> Zeroizing<Vec<u8>> {
        Skdm {
            channel_id: self.channel_id,
            chain_id: self.chain_id,
            iteration: self.iteration,
            key: ChainKey::copy_of(self.key.expose()),
            sign_pub: self.signing.public(),
            epoch: log.epoch(),
            head: log.newest_head(),
        }
        .to_bytes()
    }

    pub fn channel_id(&self) -> &[u8; 16] {
        &self.channel_id
    }

    pub fn chain_id(&self) -> u32 {
        self.chain_id
    }

    /// The number of the next message. Store it with every device that is given the chain (10.5).
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// The storage form, with both secrets.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let Self { channel_id, sender, identity, chain_id, iteration, key, signing, created, epoch0 } = self;
        let mut writer = Writer::with_capacity(160);
        writer.u8(RECORD).bytes(channel_id).bytes(&sender.to_bytes()).bytes(identity).u32(*chain_id).u32(*iteration);
        writer.bytes(key.expose()).bytes(signing.expose_seed()).u64(*created).u64(*epoch0).finish()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, `Malformed` for one that is broken.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        if reader.u8()? != RECORD {
            return Err(Error::Unsupported);
        }
        let chain = Self {
            channel_id: *reader.array()?,
            sender: Addr::read(&mut reader)?,
            identity: *reader.array()?,
            chain_id: reader.u32()?,
            iteration: reader.u32()?,
            key: ChainKey::copy_of(reader.array()?),
            signing: SigningKey::from_seed(reader.array()?),
            created: reader.u64()?,
            epoch0: reader.u64()?,
        };
        reader.end()?;
        Ok(chain)
    }
}

impl fmt::Debug for OwnChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel_id, sender, identity: _, chain_id, iteration, key: _, signing: _, created, epoch0 } = self;
        f.debug_struct("OwnChain")
            .field("channel_id", channel_id)
            .field("sender", sender)
            .field("chain_id", chain_id)
            .field("iteration", iteration)
            .field("created", created)
            .field("epoch0", epoch0)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, wire_nonce: _, chain_id, iteration } = self;
        f.debug_struct("Sealed")
            .field("bytes", &frame.len())
            .field("chain_id", chain_id)
            .field("iteration", iteration)
            .finish_non_exhaustive()
    }
}

/// The sender's UIK in the log, if this log lets it send in the channel now.
fn may_send(log: &Log, channel_id: &[u8; 16], sender: Addr) -> Result<Identity, Error> {
    if log.is_stopped() {
        Err(Error::Equivocation)
    } else if log.channel(channel_id) != Some(ChannelState::Live) {
        Err(Error::Rejected)
    } else {
        log.member(&sender.user_id).map(|member| member.identity).ok_or(Error::NotMember)
    }
}
