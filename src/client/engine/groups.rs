//! Sender keys (`crypto.md` 12): the own chain of each channel and who was given it, the chains of others, sealing and
//! opening channel messages. Whom a key goes to, the verified log and the signed device lists decide, nobody else.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::model::Mark;
use crate::client::store::{Store, StoreError, Table};
use crate::crypto::Error;
use crate::crypto::contact::Sending;
use crate::crypto::content::{self, Body, Content, SessionCtl};
use crate::crypto::frame::Frame;
use crate::crypto::sender_key::{self, Arrival, OwnChain, PeerChain, Rotation, Skdm};
use crate::protocol::ids::{ChannelId, DeviceAddr, LogId, UserId};
use crate::protocol::messages::{Row, Send};

use super::db::{Db, addr_key, addr_of, damaged, key, unpack};
use super::feed::LogFeed;
use super::held::{HeldFrame, channel_key};
use super::membership::LogStatus;
use super::outbox::{RowSend, Sealed};
use super::receive::{Incoming, Outcome};
use super::sessions::{SentContent, SentWhat, of_addr, to_addr};
use super::timeline::{Origin, RowFacts};
use super::warnings::Concern;
use super::{Cx, Engine};

/// Sender keys that wait for ops, of all channels: a contact could send keys for channels that there are none of.
const HELD_KEYS_MAX: u64 = 1_000;
/// In [`Table::Account`]: how many there are.
const HELD_KEYS: &[u8; 9] = b"held-keys";
/// Chains of others that are kept in memory. With all their skipped keys they take some 100 KiB each at most.
const PEER_CHAINS_MAX: usize = 256;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Records that one pass of the daily upkeep looks at.
const PURGE_MAX: usize = 100_000;

/// The chain of this device in a channel.
#[derive(Debug)]
pub(super) struct Own {
    pub chain: OwnChain,
    /// A device of a member left its list since the chain was made.
    pub device_left: bool,
    /// A receiver could not verify it, or it may be an old copy: nothing more is sent on it.
    pub distrusted: bool,
    /// Who was given it, once that was looked up.
    pub given: Option<BTreeSet<DeviceAddr>>,
}

/// Chains of others that were used lately, so that not every row reads and parses its own again. What the store holds is the
/// same: everything goes through here.
#[derive(Debug, Default)]
pub(super) struct PeerChains(BTreeMap<Vec<u8>, PeerChain>);

impl PeerChains {
    fn load(&mut self, db: &Db<'_>, at: &[u8]) -> Result<Option<&PeerChain>, StoreError> {
        if !self.0.contains_key(at) {
            let Some(record) = db.get(Table::PeerChains, at)? else { return Ok(None) };
            let chain = PeerChain::from_record(&record).map_err(|error| damaged(Table::PeerChains, error))?;
            self.keep(at.to_vec(), chain);
        }
        Ok(self.0.get(at))
    }

    fn put(&mut self, db: &mut Db<'_>, at: Vec<u8>, chain: PeerChain) {
        db.put_value(Table::PeerChains, at.clone(), chain.to_record());
        self.keep(at, chain);
    }

    fn delete(&mut self, db: &mut Db<'_>, at: Vec<u8>) {
        self.0.remove(&at);
        db.delete(Table::PeerChains, at);
    }

    fn keep(&mut self, at: Vec<u8>, chain: PeerChain) {
        if self.0.len() >= PEER_CHAINS_MAX && !self.0.contains_key(&at) {
            self.0.clear();
        }
        self.0.insert(at, chain);
    }
}

pub(super) fn open(store: &dyn Store) -> Result<BTreeMap<ChannelId, Own>, StoreError> {
    let db = Db::new(store);
    let mut chains = BTreeMap::new();
    for (channel, record) in db.scan(Table::OwnChains, &[], usize::MAX)? {
        let broken = || damaged(Table::OwnChains, "too short");
        let channel = <[u8; 16]>::try_from(channel.as_slice()).map_err(|_| broken())?;
        let ([left, bad], record) = record.split_first_chunk::<2>().ok_or_else(broken)?;
        let chain = OwnChain::from_record(record).map_err(|error| damaged(Table::OwnChains, error))?;
        chains.insert(ChannelId::from_bytes(channel), Own { chain, device_left: *left != 0, distrusted: *bad != 0, given: None });
    }
    Ok(chains)
}

/// When a chain ended, milliseconds: the key of all who were given it, without one of them.
fn ended_key(channel_id: ChannelId, chain_id: u32) -> Vec<u8> {
    key(&[channel_id.as_bytes(), &chain_id.to_be_bytes()])
}

fn given_key(channel_id: ChannelId, chain_id: u32, addr: DeviceAddr) -> Vec<u8> {
    key(&[channel_id.as_bytes(), &chain_id.to_be_bytes(), &addr_key(addr)])
}

fn chain_key(channel_id: ChannelId, addr: DeviceAddr, chain_id: u32) -> Vec<u8> {
    key(&[channel_id.as_bytes(), &addr_key(addr), &chain_id.to_be_bytes()])
}

impl Engine {
    // --- The own chain ---

    fn save_own_chain(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId) {
        if let Some(own) = self.own_chains.get(&channel_id) {
            let mut record = zeroize::Zeroizing::new(vec![u8::from(own.device_left), u8::from(own.distrusted)]);
            record.extend_from_slice(&own.chain.to_record());
            cx.db.put_value(Table::OwnChains, channel_id.as_bytes(), record);
        }
    }

    pub(super) fn forget_own_chain(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId) -> Result<(), StoreError> {
        if let Some(own) = self.own_chains.remove(&channel_id) {
            cx.db.delete(Table::OwnChains, channel_id.as_bytes());
            cx.db.save(Table::ChainGiven, ended_key(channel_id, own.chain.chain_id()), &cx.now.as_unix_ms())?;
        }
        Ok(())
    }

    /// Forgets who was given the chains that ended a week ago: nobody may ask for their messages any more. That there was a
    /// chain of this number is never forgotten, since no number may come twice in a channel.
    pub(super) fn purge_given(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let mut chains: BTreeMap<Vec<u8>, (Option<u64>, bool)> = BTreeMap::new();
        for (at, value) in cx.db.scan(Table::ChainGiven, &[], PURGE_MAX)? {
            let Some(chain) = at.get(..20) else { continue };
            let known = chains.entry(chain.to_vec()).or_default();
            if at.len() == 20 {
                known.0 = unpack::<u64>(Table::ChainGiven, &value).ok();
            } else {
                known.1 = true;
            }
        }
        for (chain, (ended, given)) in chains {
            let current = chain.split_first_chunk::<16>().is_some_and(|(channel, id)| {
                let own = self.own_chains.get(&ChannelId::from_bytes(*channel));
                own.is_some_and(|own| own.chain.chain_id().to_be_bytes() == *id)
            });
            match ended {
                _ if current => {}
                Some(at) if given && at.saturating_add(7 * DAY_MS) <= now => {
                    for (row, _) in cx.db.scan(Table::ChainGiven, &chain, usize::MAX)? {
                        if row.len() > 20 {
                            cx.db.delete(Table::ChainGiven, row);
                        }
                    }
                }
                Some(_) => {}
                // It ended before ends were noted.
                None => cx.db.save(Table::ChainGiven, chain, &now)?,
            }
        }
        Ok(())
    }

    /// A device of this user's left: the next message in their channels goes on a new chain.
    pub(super) fn rotate_chains_of(&mut self, cx: &mut Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        let channels: Vec<ChannelId> = self
            .own_chains
            .keys()
            .filter(|channel| self.log_of(**channel).is_some_and(|log| log.log.member(user_id.as_bytes()).is_some()))
            .copied()
            .collect();
        for channel_id in channels {
            if let Some(own) = self.own_chains.get_mut(&channel_id) {
                own.device_left = true;
            }
            self.save_own_chain(cx, channel_id);
        }
        Ok(())
    }

    /// No chain is sent on any more: each channel gets a new one with its next message.
    pub(super) fn distrust_chains(&mut self, cx: &mut Cx<'_>) {
        let channels: Vec<ChannelId> = self.own_chains.keys().copied().collect();
        for channel_id in channels {
            if let Some(own) = self.own_chains.get_mut(&channel_id) {
                own.distrusted = true;
            }
            self.save_own_chain(cx, channel_id);
        }
    }

    /// A receiver reports a bad signature: a new chain, once an hour at most.
    pub(super) fn distrust_chain(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, chain_id: u32) -> Result<(), StoreError> {
        let at = key(&[b"distrusted/", channel_id.as_bytes()]);
        let last = cx.db.load::<u64>(Table::Account, &at)?.unwrap_or(0);
        let now = cx.now.as_unix_ms();
        if let Some(own) = self.own_chains.get_mut(&channel_id)
            && own.chain.chain_id() == chain_id
            && last.saturating_add(HOUR_MS) <= now
        {
            own.distrusted = true;
            cx.db.save(Table::Account, at, &now)?;
            self.save_own_chain(cx, channel_id);
        }
        Ok(())
    }

    /// Every device that may read what is written now, but this one. Members whose identity is in doubt get nothing.
    fn readers(&self, log_id: LogId) -> Vec<DeviceAddr> {
        let Some(state) = self.logs.get(&log_id) else { return Vec::new() };
        let this = self.me.as_ref().map_or(0, |me| me.device_id);
        let listed = |addr: crate::crypto::identity::Addr, cert: &[u8; 32]| {
            self.contacts
                .get(&UserId::from_bytes(addr.user_id))
                .and_then(|contact| contact.certificate(addr.device_id))
                .is_some_and(|known| known.hash() == cert)
        };
        state
            .log
            .members()
            .filter(|(user, _)| state.log.is_confirmed(user, listed))
            .filter_map(|(user, member)| {
                let contact = self.contacts.get(&UserId::from_bytes(*user))?;
                (contact.identity().as_bytes() == &member.identity && contact.sending() == Sending::Allowed).then_some(contact)
            })
            .flat_map(|contact| contact.certificates().map(|cert| of_addr(cert.addr())))
            .filter(|addr| !(addr.user_id == self.me_id() && addr.device_id == this))
            .collect()
    }

    /// Seals a row for a channel: first everybody who may read it has the chain, then the message leaves.
    pub(super) fn seal_channel(&mut self, cx: &mut Cx<'_>, row: &RowSend) -> Result<Sealed, StoreError> {
        let channel_id = row.channel_id;
        let Some(log_id) = self.places.state(channel_id).log else {
            if let Some(log_id) = self.places.channels.get(&channel_id).and_then(|channel| channel.log_id) {
                self.want_log(log_id);
            }
            return Ok(Sealed::Waiting);
        };
        if !self.is_log_current(log_id) {
            return Ok(Sealed::Waiting);
        }
        let Some(state) = self.logs.get(&log_id) else { return Ok(Sealed::Waiting) };
        if state.status == LogStatus::Stopped || self.feeds.get(&log_id).is_some_and(LogFeed::is_disputed) {
            return Ok(Sealed::Waiting);
        }
        if state.log.member(self.me_id().as_bytes()).is_none() {
            return Ok(Sealed::Refused("You are not a member here.".into()));
        }
        let members: Vec<UserId> = state.log.members().map(|(user, _)| UserId::from_bytes(*user)).collect();
        if !self.has_lists(members.iter().copied()) {
            return Ok(Sealed::Waiting);
        }
        if let Err(why) = self.renew_chain(cx, channel_id, log_id)? {
            return Ok(Sealed::Refused(why));
        }
        let lacking = self.lacking(cx, channel_id, log_id)?;
        if !lacking.is_empty() {
            let reach = self.reach(cx, &lacking)?;
            if reach.waiting {
                return Ok(Sealed::Waiting);
            }
            if !reach.ready.is_empty() {
                self.give_chain(cx, channel_id, log_id, &reach.ready)?;
                // The message follows when the server has the keys.
                return Ok(Sealed::Waiting);
            }
        }
        let now = cx.now.as_unix_ms();
        let (Some(state), Some(own)) = (self.logs.get(&log_id), self.own_chains.get_mut(&channel_id)) else {
            return Ok(Sealed::Waiting);
        };
        let (chain_id, iteration) = (own.chain.chain_id(), own.chain.iteration());
        let sealed = match own.chain.seal(&state.log, &row.content, &mut cx.rng, now) {
            Ok(sealed) => sealed,
            Err(Error::Limit) => return Ok(Sealed::Refused("It is too long.".into())),
            Err(error) => return Ok(Sealed::Refused(format!("It cannot be encrypted: {error}."))),
        };
        self.save_own_chain(cx, channel_id);
        cx.db.save(Table::SentKeys, channel_key(channel_id, chain_id, iteration), &row.id)?;
        let kept = SentContent { conv: *channel_id.as_bytes(), mirrored: false, content: row.content.clone(), at_ms: now };
        cx.db.save(Table::SentContents, row.id.as_bytes(), &kept)?;
        let frame = Send { ciphertext: Some(sealed.frame.into()), nonce: Some(sealed.wire_nonce.into()), ..row.frame() };
        Ok(Sealed::Now(Box::new(frame)))
    }

    /// Whether a sealed frame is of a chain that is not sent on any more because of who may have its key (12.1). It is sealed
    /// anew then, though it may have left before: what the server took of it came back by the channel's stream before this
    /// client is live, and its id is taken once. After 500 messages or a week a frame stays what it is.
    pub(super) fn is_superseded(&self, send: &Send, now: u64) -> bool {
        let Some(frame) = send.ciphertext.as_ref().and_then(|frame| Frame::parse_channel(&frame.0).ok()) else { return false };
        let (Some(state), Some(own)) = (self.log_of(send.channel_id), self.own_chains.get(&send.channel_id)) else {
            return true;
        };
        let rotation = own.chain.rotation(&state.log, own.device_left, own.distrusted, now);
        own.chain.chain_id() != frame.chain_id || !matches!(rotation, None | Some(Rotation::Full | Rotation::Old))
    }

    /// Makes a new chain when there is none or a trigger of 12.1 is known.
    fn renew_chain(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, log_id: LogId) -> Result<Result<(), String>, StoreError> {
        let now = cx.now.as_unix_ms();
        let Some(state) = self.logs.get(&log_id) else { return Ok(Err("The membership log is not known.".into())) };
        let keep = self
            .own_chains
            .get(&channel_id)
            .is_some_and(|own| own.chain.rotation(&state.log, own.device_left, own.distrusted, now).is_none());
        if keep {
            return Ok(Ok(()));
        }
        let Some(me) = &self.me else { return Ok(Err("This profile has no device.".into())) };
        let sender = to_addr(DeviceAddr { user_id: me.user_id, device_id: me.device_id });
        let used: BTreeSet<u32> = cx
            .db
            .scan(Table::ChainGiven, channel_id.as_bytes(), usize::MAX)?
            .into_iter()
            .filter_map(|(at, _)| Some(u32::from_be_bytes(at.get(16..20)?.try_into().ok()?)))
            .collect();
        match OwnChain::create(&state.log, *channel_id.as_bytes(), sender, |id| used.contains(&id), &mut cx.rng, now) {
            Ok(chain) => {
                self.forget_own_chain(cx, channel_id)?;
                self.own_chains
                    .insert(channel_id, Own { chain, device_left: false, distrusted: false, given: Some(BTreeSet::new()) });
                self.save_own_chain(cx, channel_id);
                Ok(Ok(()))
            }
            Err(Error::NotMember) => Ok(Err("You are not a member here.".into())),
            Err(Error::Rejected) => Ok(Err("This channel is closed.".into())),
            Err(error) => Ok(Err(format!("No key can be made for this channel: {error}."))),
        }
    }

    /// Readers that were not given the chain yet.
    fn lacking(&mut self, cx: &Cx<'_>, channel_id: ChannelId, log_id: LogId) -> Result<Vec<DeviceAddr>, StoreError> {
        let readers = self.readers(log_id);
        let Some(own) = self.own_chains.get_mut(&channel_id) else { return Ok(Vec::new()) };
        let given = match &own.given {
            Some(given) => given,
            None => {
                let prefix = ended_key(channel_id, own.chain.chain_id());
                let known = cx.db.scan(Table::ChainGiven, &prefix, usize::MAX)?;
                own.given.insert(known.iter().filter_map(|(at, _)| addr_of(at.get(20..)?)).collect())
            }
        };
        Ok(readers.into_iter().filter(|addr| !given.contains(addr)).collect())
    }

    /// Sends the chain at its current place; the channel's messages wait for the server to have it.
    fn give_chain(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, log_id: LogId, to: &[DeviceAddr]) -> Result<(), StoreError> {
        let (Some(state), Some(own)) = (self.logs.get(&log_id), self.own_chains.get(&channel_id)) else { return Ok(()) };
        let skdm = own.chain.skdm(&state.log);
        let (chain_id, iteration) = (own.chain.chain_id(), own.chain.iteration());
        let mut copies = Vec::new();
        for &addr in to {
            let content = Content::new(cx.random_id(), cx.now.as_unix_ms(), *addr.user_id.as_bytes(), Body::Skdm(skdm.to_vec()));
            let Some(bytes) = self.addressed(&content, addr.user_id, false) else { continue };
            if let Some(copy) = self.seal_for(cx, addr, &bytes, SentWhat::SenderKey(channel_id))? {
                copies.push(copy);
                let at = given_key(channel_id, chain_id, addr);
                // The earliest place that it was given is the one that counts for retries.
                if !cx.db.has(Table::ChainGiven, &at)? {
                    cx.db.save(Table::ChainGiven, at, &iteration)?;
                }
                if let Some(given) = self.own_chains.get_mut(&channel_id).and_then(|own| own.given.as_mut()) {
                    given.insert(addr);
                }
            }
        }
        self.queue_batch(cx, copies, Some(channel_id))
    }

    /// The chain for one device that asked for it, if it may read what is written now.
    pub(super) fn give_chain_to(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, to: DeviceAddr) -> Result<(), StoreError> {
        let Some(log_id) = self.places.state(channel_id).log else { return Ok(()) };
        let (Some(state), Some(own)) = (self.logs.get(&log_id), self.own_chains.get(&channel_id)) else { return Ok(()) };
        let now = cx.now.as_unix_ms();
        if state.status == LogStatus::Stopped
            || own.chain.rotation(&state.log, own.device_left, own.distrusted, now).is_some()
            || !self.readers(log_id).contains(&to)
        {
            return Ok(());
        }
        self.give_chain(cx, channel_id, log_id, &[to])
    }

    /// From which iteration a device was given a chain.
    pub(super) fn was_given(
        &self,
        cx: &Cx<'_>,
        channel_id: ChannelId,
        chain_id: u32,
        to: DeviceAddr,
    ) -> Result<Option<u32>, StoreError> {
        cx.db.load(Table::ChainGiven, &given_key(channel_id, chain_id, to))
    }

    // --- The chains of others ---

    /// A sender key out of a session.
    pub(super) fn take_skdm(&mut self, cx: &mut Cx<'_>, incoming: &Incoming, skdm: &[u8]) -> Result<Outcome, StoreError> {
        if !self.accept_skdm(cx, incoming.from, skdm)? {
            // The session has moved on: it is the key that waits, not its frame.
            let Ok(parsed) = Skdm::parse(skdm) else { return Ok(Outcome::Done) };
            let channel_id = ChannelId::from_bytes(parsed.channel_id);
            let kept = cx.db.load::<u64>(Table::Account, HELD_KEYS)?.unwrap_or(0);
            if kept < HELD_KEYS_MAX {
                cx.db.save(Table::Account, *HELD_KEYS, &(kept + 1))?;
                let order = cx.db.next_number("held")?;
                let value = [&addr_key(incoming.from)[..], &cx.now.as_unix_ms().to_be_bytes(), skdm].concat();
                cx.db.put(Table::HeldKeys, key(&[channel_id.as_bytes(), &order.to_be_bytes()]), value);
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether the key could be judged.
    fn accept_skdm(&mut self, cx: &mut Cx<'_>, from: DeviceAddr, skdm: &[u8]) -> Result<bool, StoreError> {
        let Ok(parsed) = Skdm::parse(skdm) else { return Ok(true) };
        let channel_id = ChannelId::from_bytes(parsed.channel_id);
        let Some(log_id) = self.places.state(channel_id).log else { return Ok(false) };
        let (Some(state), Some(contact)) = (self.logs.get(&log_id), self.contacts.get(&from.user_id)) else { return Ok(false) };
        let at = chain_key(channel_id, from, parsed.chain_id);
        let known = self.peer_chains.load(&cx.db, &at)?;
        let now = cx.now.as_unix_ms();
        match PeerChain::accept(skdm, to_addr(from), contact.identity(), &state.log, known, now) {
            Ok(Some(chain)) => {
                self.peer_chains.put(&mut cx.db, at, chain);
                self.prune_chains(cx, channel_id, from)?;
                self.retry_held_in(cx, channel_id)?;
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(Error::FutureEpoch) => {
                // Looked up, not believed: a number that somebody names must not keep this client from sending.
                self.look_at_log(log_id);
                Ok(false)
            }
            // An outsider's view is of no interest, and who is a member is not told to them.
            Err(Error::Equivocation)
                if state
                    .log
                    .member(from.user_id.as_bytes())
                    .is_none_or(|member| member.identity != *contact.identity().as_bytes()) =>
            {
                Ok(true)
            }
            Err(Error::Equivocation) => {
                let same_view = state.log.head(parsed.epoch) == Some(&parsed.head);
                let name = self.name_of(from.user_id);
                let kind = key(&[b"key", &addr_key(from)]);
                if same_view {
                    let text = format!("A device of {} sent two different keys of one number for this channel.", name.raw());
                    let hint = "The second was not accepted. The device is broken, or its keys were stolen: ask them.";
                    let about = parsed.chain_id.to_be_bytes();
                    self.warn(cx, Concern::Channel(channel_id), &kind, &about, text, hint)?;
                } else {
                    let text = format!("{} sees other members of a channel than this client does.", name.raw());
                    let hint = "Their key was not accepted. The server may be showing different membership to different people.";
                    self.warn(cx, Concern::Channel(channel_id), &kind, &parsed.head, text, hint)?;
                    self.tell_membership(cx, from.user_id, log_id, Some(channel_id))?;
                }
                Ok(true)
            }
            // Refused for good: not a member, another channel's log, a weak key.
            Err(_) => Ok(true),
        }
    }

    /// Deletes chains of one device that newer ones replaced, and keys of messages that did not come in time.
    pub(super) fn prune_chains(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, from: DeviceAddr) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let mut chains = Vec::new();
        for (_, record) in cx.db.scan(Table::PeerChains, &key(&[channel_id.as_bytes(), &addr_key(from)]), usize::MAX)? {
            chains.push(PeerChain::from_record(&record).map_err(|error| damaged(Table::PeerChains, error))?);
        }
        let old = sender_key::superseded(&chains, now);
        for mut chain in chains {
            let at = chain_key(channel_id, from, chain.chain_id());
            if old.contains(&chain.chain_id()) {
                self.peer_chains.delete(&mut cx.db, at);
            } else if chain.expire(now) {
                self.peer_chains.put(&mut cx.db, at, chain);
            }
        }
        Ok(())
    }

    /// Sender keys that came before the ops that they refer to.
    pub(super) fn retry_keys(&mut self, cx: &mut Cx<'_>, channel_id: Option<ChannelId>) -> Result<(), StoreError> {
        let prefix = channel_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        let held = cx.db.scan(Table::HeldKeys, &prefix, usize::MAX)?;
        let mut kept = match channel_id {
            Some(_) => cx.db.load::<u64>(Table::Account, HELD_KEYS)?.unwrap_or(0),
            None => held.len() as u64,
        };
        let before = held.len();
        for (at, value) in held {
            let parts =
                value.split_first_chunk::<20>().and_then(|(addr, rest)| Some((addr_of(addr)?, rest.split_first_chunk::<8>()?)));
            let Some((from, (since, skdm))) = parts else { continue };
            let old = cx.now.as_unix_ms().saturating_sub(u64::from_be_bytes(*since)) > 7 * DAY_MS;
            if old || self.accept_skdm(cx, from, skdm)? {
                cx.db.delete(Table::HeldKeys, at);
                kept = kept.saturating_sub(1);
            }
        }
        if before == 0 { Ok(()) } else { cx.db.save(Table::Account, *HELD_KEYS, &kept) }
    }

    // --- Rows ---

    pub(super) fn receive_channel_row(
        &mut self,
        cx: &mut Cx<'_>,
        row: Row,
        frame: Vec<u8>,
        nonce: [u8; 12],
    ) -> Result<(), StoreError> {
        let (Some(user_id), Some(device_id)) = (row.sender_id, row.sender_device) else { return Ok(()) };
        if let Some(head) = row.log_seq {
            let log = self.places.state(row.channel_id).log;
            if let Some(log_id) = log {
                self.hint_log_head(log_id, head);
            }
        }
        let incoming = Incoming {
            from: DeviceAddr { user_id, device_id },
            frame,
            nonce,
            at: row.created_at,
            row: Some((row.channel_id, RowFacts::of(&row))),
            log_seq: row.log_seq,
        };
        let outcome = self.open_channel(cx, &incoming)?;
        self.settle(cx, &row, incoming, outcome, *row.channel_id.as_bytes())
    }

    /// Opens a channel frame and lets its content take effect; or says what to do with it.
    pub(super) fn open_channel(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) -> Result<Outcome, StoreError> {
        let now = cx.now.as_unix_ms();
        let (from, Some((channel_id, facts))) = (incoming.from, incoming.row.clone()) else { return Ok(Outcome::Refused(None)) };
        let frame = match Frame::parse_channel(&incoming.frame) {
            Ok(frame) => frame,
            Err(Error::Unsupported) => return Ok(Outcome::Unsupported),
            Err(_) => return Ok(Outcome::Refused(None)),
        };
        if frame.channel_id != *channel_id.as_bytes() || frame.sender != to_addr(from) {
            return Ok(Outcome::Refused(Some(Mark::Forged)));
        }
        if self.is_quarantined(from, now) {
            return Ok(Outcome::Hold(HeldFrame::Quarantined));
        }
        let Some(log_id) = self.places.state(channel_id).log else { return Ok(Outcome::Hold(HeldFrame::FutureEpoch)) };
        let Some(state) = self.logs.get(&log_id) else { return Ok(Outcome::Hold(HeldFrame::FutureEpoch)) };
        if frame.epoch > state.log.epoch() {
            self.look_at_log(log_id);
            return Ok(Outcome::Hold(HeldFrame::FutureEpoch));
        }
        if state.log.member_at(self.me_id().as_bytes(), frame.epoch).is_none() {
            return Ok(Outcome::BeforeJoin);
        }
        let at = chain_key(channel_id, from, frame.chain_id);
        let Some(chain) = self.peer_chains.load(&cx.db, &at)? else { return Ok(Outcome::Hold(HeldFrame::UnknownChain)) };
        let expected = chain.next();
        let left_after = state.log.left_after(from.user_id.as_bytes(), frame.epoch);
        // After an accepted change of identity another device may have the number; the log still knows the old identity.
        let in_log = state.log.member_at(from.user_id.as_bytes(), frame.epoch).map(|member| member.identity);
        let device_left = self.contacts.get(&from.user_id).is_some_and(|contact| {
            contact.certificate(from.device_id).is_none() || in_log.is_some_and(|uik| uik != *contact.identity().as_bytes())
        });
        let late_ok = match left_after {
            Some(left) => self.applied_at(cx, log_id, left)?.is_some_and(|applied| {
                incoming.log_seq.is_some_and(|log_seq| sender_key::is_late_allowed(log_seq, left, applied, now))
            }),
            None => device_left && self.peer_device(cx, from)?.left_at.saturating_add(sender_key::LATE_MS) > now,
        };
        let Some(chain) = self.peer_chains.load(&cx.db, &at)? else { return Ok(Outcome::Hold(HeldFrame::UnknownChain)) };
        let Some(state) = self.logs.get(&log_id) else { return Ok(Outcome::Hold(HeldFrame::FutureEpoch)) };
        let (next, plain) = match chain.open(&state.log, &incoming.nonce, &frame, Arrival { now, device_left, late_ok }) {
            Ok(opened) => opened,
            Err(error) => return self.channel_not_opened(cx, incoming, frame.chain_id, error),
        };
        let role = state.log.role_at(from.user_id.as_bytes(), plain.epoch);
        let overdue = next.is_overdue(now);
        self.peer_chains.put(&mut cx.db, at, next);
        if overdue {
            let warned = key(&[b"overdue/", channel_id.as_bytes(), &addr_key(from)]);
            if cx.db.load::<u32>(Table::Account, &warned)? != Some(frame.chain_id) {
                cx.db.save(Table::Account, warned, &frame.chain_id)?;
                let name = self.name_of(from.user_id);
                let text = format!("{} has used one channel key for very long.", name.raw());
                let (kind, about) = (key(&[b"overdue", &addr_key(from)]), frame.chain_id.to_be_bytes());
                self.warn(cx, Concern::Channel(channel_id), &kind, &about, text, "Their client may be out of date.")?;
            }
        }
        let mut marks = Vec::new();
        if plain.late {
            marks.push(Mark::BeforeRemoval);
        }
        if frame.iteration > expected {
            marks.push(Mark::Gap);
        }
        let origin =
            Origin { channel_id, author: from.user_id, device: from.device_id, row: Some(facts), at: incoming.at, role, marks };
        self.apply_content(cx, origin, &plain.accepted.content)?;
        Ok(Outcome::Done)
    }

    fn channel_not_opened(
        &mut self,
        cx: &mut Cx<'_>,
        incoming: &Incoming,
        chain_id: u32,
        error: Error,
    ) -> Result<Outcome, StoreError> {
        let (from, now) = (incoming.from, cx.now.as_unix_ms());
        if matches!(error, Error::Undecryptable | Error::BadSignature) {
            self.count_failure(from, now);
        }
        Ok(match error {
            Error::UnknownChain => Outcome::Hold(HeldFrame::UnknownChain),
            Error::FutureEpoch => Outcome::Hold(HeldFrame::FutureEpoch),
            Error::Undecryptable | Error::TooFarAhead => Outcome::Hold(HeldFrame::Stuck),
            Error::Replay => Outcome::Done,
            Error::BadSignature => {
                if let Some((channel_id, _)) = &incoming.row {
                    let told = key(&[b"bad-signature/", channel_id.as_bytes(), &addr_key(from)]);
                    if cx.db.load::<u64>(Table::Account, &told)?.unwrap_or(0).saturating_add(HOUR_MS) <= now {
                        cx.db.save(Table::Account, told, &now)?;
                        let ctl = SessionCtl {
                            kind: content::CTL_BAD_SIGNATURE,
                            channel_id: channel_id.as_bytes().to_vec(),
                            chain_id,
                            ..SessionCtl::default()
                        };
                        self.send_control_to(cx, from, Body::SessionCtl(ctl))?;
                    }
                }
                Outcome::Refused(Some(Mark::Forged))
            }
            _ => Outcome::Refused(None),
        })
    }
}
