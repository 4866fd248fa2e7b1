//! Sessions with the devices of others and the own ones (`crypto.md` 10): bundles, sealing for every device of a fan-out,
//! opening what comes in, and dispatching it to its concern. Which session is used, `crypto::session_set` decides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::client::store::{StoreError, Table};
use crate::crypto::Error;
use crate::crypto::contact::Sending;
use crate::crypto::content::{self, Body, Content, SyncSent};
use crate::crypto::identity::Addr;
use crate::crypto::session::Session;
use crate::crypto::session_set::SessionSet;
use crate::protocol::devices::Copy;
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{ChannelId, DeviceAddr, DeviceId, MessageId, UserId};
use crate::protocol::keys::{ByUser, FetchManyBundles, UserBundles};
use crate::protocol::messages::{Send, StaleDevices};

use super::absence::Absence;
use super::db::{Db, addr_key, addr_of, damaged, key};
use super::http::{self, Failure, Question};
use super::io::Method;
use super::outbox::{RowSend, Sealed};
use super::warnings::Concern;
use super::{Cx, Engine};

/// A device that was dormant, refused or without prekeys is tried again with a send after this time, milliseconds; at once when
/// no other device of that person can be reached.
const TRY_AGAIN_MS: u64 = 10 * 60_000;
/// Device contents that wait for a session.
const CONTROLS_MAX: usize = 500;
const USERS_AT_ONCE: usize = 100;
/// A server that wants to be left alone for longer means one user's bundles, milliseconds.
const LIMIT_OF_ALL_MS: u64 = 30_000;
const SENDERS_MAX: usize = 10_000;

/// What is known of a peer device beside its sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PeerDevice {
    pub max_generation: u32,
    /// Its prekeys are too old, or its bundle does not hold: skipped.
    pub dormant: bool,
    /// Dormant because its prekeys are too old: it was not there for 30 days.
    pub stale: bool,
    /// Dormant because what the server gave as its keys does not hold.
    pub refused: bool,
    /// The server has no prekeys of it: it is no current device.
    pub absent: bool,
    /// When its bundle was last looked at, milliseconds.
    pub looked_at: u64,
    pub no_one_time_prekey: bool,
    /// When a session was last made because a frame could not be opened.
    pub recovered_at: u64,
    /// When it left its user's list; 0: it did not.
    pub left_at: u64,
    /// Frames that were passed over until then and did not come were told of, milliseconds.
    pub gaps_told_ms: u64,
    /// Nothing is sent on sessions up to this generation: see [`Engine::begin_anew`].
    pub stale_generation: u32,
}

/// What went out under which key: the question in a retry request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SentKey {
    /// The device that may ask: it was an original recipient.
    pub to: DeviceAddr,
    /// The content in [`Table::SentContents`]; or the channel of a sender key.
    pub what: SentWhat,
    pub at_ms: u64,
    pub answers: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum SentWhat {
    Content(MessageId),
    SenderKey(ChannelId),
}

/// A content that went out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SentContent {
    /// The user or channel that it is for.
    pub conv: [u8; 16],
    /// Own devices get it as `sync_sent`.
    pub mirrored: bool,
    #[serde(with = "super::receive::serde_bytes_vec")]
    pub content: Vec<u8>,
    pub at_ms: u64,
}

/// What waits for sessions; not worth storing.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    wanted: BTreeMap<UserId, BTreeSet<DeviceId>>,
    /// Devices for which a new session is made even though there is one.
    pub renew: BTreeSet<DeviceAddr>,
    controls: Vec<(DeviceAddr, Content)>,
    /// Devices whose first message was not answered yet, and when that is due.
    pub unanswered: BTreeMap<DeviceAddr, u64>,
    /// Failures by claimed sender: window start, count.
    pub failures: BTreeMap<DeviceAddr, (u64, u32)>,
    sets: BTreeMap<DeviceAddr, SessionSet>,
    /// Devices with [`PeerDevice::stale_generation`].
    stale: BTreeMap<DeviceAddr, u32>,
    /// People to whom something is to be sent and of whom no device can be reached.
    pub away: BTreeMap<UserId, Absence>,
    /// Users whose bundles are asked for alone: the server refused them together for the sake of one.
    alone: usize,
}

/// In [`Table::Account`], once there are stale sessions.
const ANEW: &[u8; 4] = b"anew";

impl Sessions {
    pub(super) fn open(db: &Db<'_>) -> Result<Self, StoreError> {
        let mut sessions = Self::default();
        if db.has(Table::Account, ANEW)? {
            for (at, peer) in db.load_all::<PeerDevice>(Table::PeerDevices, &[], usize::MAX)? {
                if let Some(addr) = addr_of(&at).filter(|_| peer.stale_generation > 0) {
                    sessions.stale.insert(addr, peer.stale_generation);
                }
            }
        }
        Ok(sessions)
    }

    pub(super) fn next_answer(&self) -> Option<u64> {
        self.unanswered.values().min().copied()
    }
}

/// Sets that stay in memory.
const SETS_MAX: usize = 256;

pub(super) fn to_addr(addr: DeviceAddr) -> Addr {
    Addr::new(*addr.user_id.as_bytes(), addr.device_id)
}

pub(super) fn of_addr(addr: Addr) -> DeviceAddr {
    DeviceAddr { user_id: UserId::from_bytes(addr.user_id), device_id: addr.device_id }
}

/// Which devices of a fan-out can be written to now.
pub(super) struct Reach {
    pub ready: Vec<DeviceAddr>,
    /// Dormant or refused: named as skipped.
    pub skipped: Vec<DeviceAddr>,
    /// Bundles were asked for: not yet.
    pub waiting: bool,
}

impl Engine {
    // --- State ---

    pub(super) fn peer_device(&self, cx: &Cx<'_>, addr: DeviceAddr) -> Result<PeerDevice, StoreError> {
        Ok(cx.db.load(Table::PeerDevices, &addr_key(addr))?.unwrap_or_default())
    }

    pub(super) fn update_peer(
        &mut self,
        cx: &mut Cx<'_>,
        addr: DeviceAddr,
        change: impl FnOnce(&mut PeerDevice),
    ) -> Result<(), StoreError> {
        let old = self.peer_device(cx, addr)?;
        let mut peer = old.clone();
        change(&mut peer);
        if peer == old { Ok(()) } else { cx.db.save(Table::PeerDevices, addr_key(addr), &peer) }
    }

    pub(super) fn sessions_with(&mut self, cx: &Cx<'_>, addr: DeviceAddr) -> Result<SessionSet, StoreError> {
        if let Some(set) = self.sessions.sets.get(&addr) {
            return Ok(set.clone());
        }
        let mut sessions = Vec::new();
        for (_, record) in cx.db.scan(Table::Sessions, &addr_key(addr), usize::MAX)? {
            sessions.push(Session::from_record(&record).map_err(|error| damaged(Table::Sessions, error))?);
        }
        let set = SessionSet::from_parts(to_addr(addr), self.peer_device(cx, addr)?.max_generation, sessions);
        if self.sessions.sets.len() >= SETS_MAX {
            self.sessions.sets.clear();
        }
        self.sessions.sets.insert(addr, set.clone());
        Ok(set)
    }

    pub(super) fn save_sessions(&mut self, cx: &mut Cx<'_>, addr: DeviceAddr, set: SessionSet) -> Result<(), StoreError> {
        let set = set.prune(cx.now.as_unix_ms());
        let old = self.sessions_with(cx, addr)?;
        for session in old.sessions().iter().filter(|session| set.get(session.id()).is_none()) {
            cx.db.delete(Table::Sessions, *session.id());
            cx.db.delete(Table::Sessions, key(&[&addr_key(addr), session.id()]));
        }
        for session in set.sessions() {
            let (known, record) = (old.get(session.id()), session.to_record());
            // Of several sessions one has moved.
            if known.is_none_or(|known| known.to_record() != record) {
                cx.db.put_value(Table::Sessions, key(&[&addr_key(addr), session.id()]), record);
            }
            if known.is_none() {
                cx.db.put(Table::Sessions, *session.id(), addr_key(addr));
            }
        }
        let max_generation = set.max_generation();
        self.update_peer(cx, addr, |peer| peer.max_generation = peer.max_generation.max(max_generation))?;
        self.sessions.sets.insert(addr, set);
        Ok(())
    }

    /// A device that left its user's list: its sessions go at once.
    pub(super) fn forget_device(&mut self, cx: &mut Cx<'_>, addr: DeviceAddr) -> Result<(), StoreError> {
        for (at, _) in cx.db.scan(Table::Sessions, &addr_key(addr), usize::MAX)? {
            if let Some(id) = at.get(20..) {
                cx.db.delete(Table::Sessions, id);
            }
            cx.db.delete(Table::Sessions, at);
        }
        self.sessions.sets.remove(&addr);
        self.sessions.controls.retain(|(to, _)| *to != addr);
        self.sessions.unanswered.remove(&addr);
        let now = cx.now.as_unix_ms();
        self.update_peer(cx, addr, |peer| peer.left_at = now)
    }

    /// The state of this device may be an old copy: what it would send next, under a number of a session or chain, may have been
    /// sent already, and would be dropped as a repetition. So nothing is sent on any of them any more: new ones are made with the
    /// next messages. Once in the life of a process.
    pub(super) fn begin_anew(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.began_anew, true) {
            return Ok(());
        }
        cx.db.put(Table::Account, *ANEW, []);
        for (at, _) in cx.db.scan(Table::PeerDevices, &[], usize::MAX)? {
            let Some(addr) = addr_of(&at) else { continue };
            let generation = self.sessions_with(cx, addr)?.max_generation();
            self.update_peer(cx, addr, |peer| peer.stale_generation = generation)?;
            self.sessions.stale.insert(addr, generation);
        }
        self.distrust_chains(cx);
        Ok(())
    }

    /// Whether a session may be sent on.
    pub(super) fn is_fresh(&self, addr: DeviceAddr, session: &Session) -> bool {
        self.sessions.stale.get(&addr).is_none_or(|stale| session.generation() > *stale)
    }

    /// A new list: what was in the way of reaching its devices may be gone.
    pub(super) fn reach_again(&mut self, cx: &mut Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        for addr in self.devices_of(user_id) {
            self.update_peer(cx, addr, |peer| (peer.dormant, peer.refused, peer.absent) = (false, false, false))?;
        }
        Ok(())
    }

    /// After an accepted change of identity everything with the old one goes.
    pub(super) fn forget_user_sessions(&mut self, cx: &mut Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        for (at, _) in cx.db.scan(Table::PeerDevices, user_id.as_bytes(), usize::MAX)? {
            if let Some(id) = at.get(16..).and_then(|id| <[u8; 4]>::try_from(id).ok()) {
                self.forget_device(cx, DeviceAddr { user_id, device_id: u32::from_be_bytes(id) })?;
            }
            cx.db.delete(Table::PeerDevices, at);
        }
        self.sessions.wanted.remove(&user_id);
        // Devices of the new identity have the old numbers: they were recipients of nothing.
        for (at, sent) in cx.db.load_all::<SentKey>(Table::SentKeys, b"d", usize::MAX)? {
            if sent.to.user_id == user_id {
                cx.db.delete(Table::SentKeys, at);
            }
        }
        self.own_chains.values_mut().for_each(|own| own.given = None);
        for (at, _) in cx.db.scan(Table::ChainGiven, &[], usize::MAX)? {
            if at.get(20..36) == Some(user_id.as_bytes().as_slice()) {
                cx.db.delete(Table::ChainGiven, at);
            }
        }
        // A key that waits came under the old identity: it is none of the new one's.
        for (at, value) in cx.db.scan(Table::HeldKeys, &[], usize::MAX)? {
            if value.starts_with(user_id.as_bytes()) {
                cx.db.delete(Table::HeldKeys, at);
            }
        }
        Ok(())
    }

    // --- Reaching devices ---

    /// Which of these devices have a session. Missing sessions are made: their bundles are asked for.
    pub(super) fn reach(&mut self, cx: &mut Cx<'_>, devices: &[DeviceAddr]) -> Result<Reach, StoreError> {
        let now = cx.now.as_unix_ms();
        let mut reach = Reach { ready: Vec::new(), skipped: Vec::new(), waiting: false };
        for &addr in devices {
            let set = self.sessions_with(cx, addr)?;
            if set.active(now).is_some_and(|session| self.is_fresh(addr, session)) {
                if set.renewal_due(now) && self.sessions.renew.insert(addr) {
                    self.want_bundle(addr);
                }
                reach.ready.push(addr);
                continue;
            }
            let peer = self.peer_device(cx, addr)?;
            let lately = peer.looked_at.saturating_add(TRY_AGAIN_MS) > now;
            if lately && peer.dormant {
                reach.skipped.push(addr);
            } else if !(lately && peer.absent) {
                self.want_bundle(addr);
                reach.waiting = true;
            }
        }
        Ok(reach)
    }

    fn want_bundle(&mut self, addr: DeviceAddr) {
        if self.sessions.wanted.len() < SENDERS_MAX {
            self.sessions.wanted.entry(addr.user_id).or_default().insert(addr.device_id);
        }
    }

    pub(super) fn pump_bundles(&mut self, cx: &mut Cx<'_>) {
        if !self.is_live() || self.timers.bundles_paused(cx.now) {
            return;
        }
        let at_once = if self.sessions.alone > 0 { 1 } else { USERS_AT_ONCE };
        let users: Vec<UserId> =
            self.sessions.wanted.keys().filter(|user| !self.bundles_asked.contains(user)).take(at_once).copied().collect();
        if users.is_empty() {
            return;
        }
        self.sessions.alone = self.sessions.alone.saturating_sub(1);
        let mut devices = BTreeMap::new();
        for user in &users {
            let wanted = self.sessions.wanted.remove(user).unwrap_or_default();
            devices.insert(*user, wanted.into_iter().collect::<Vec<_>>());
            self.bundles_asked.insert(*user);
        }
        self.bundles_wanted.extend(devices.clone());
        self.ask(cx, Question::Bundles(users), Method::Post, "/users/bundles", http::json(&FetchManyBundles { devices }));
    }

    pub(super) fn on_bundles(
        &mut self,
        cx: &mut Cx<'_>,
        users: &[UserId],
        answer: Result<ByUser<UserBundles>, Failure>,
    ) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let mut answer = match answer {
            Ok(answer) => answer.items,
            Err(failure) => {
                // So many bundles of one user an hour: the others must not wait for it.
                let of_one = failure.code() == Some(ErrorCode::RateLimited)
                    && failure.retry_after_ms().is_some_and(|after| after > LIMIT_OF_ALL_MS);
                for user in users {
                    self.bundles_asked.remove(user);
                    let devices = self.bundles_wanted.remove(user).unwrap_or_default();
                    if of_one && users.len() == 1 {
                        for device_id in devices {
                            let addr = DeviceAddr { user_id: *user, device_id };
                            self.update_peer(cx, addr, |peer| (peer.dormant, peer.looked_at) = (true, now))?;
                            self.sessions.renew.remove(&addr);
                        }
                    } else {
                        self.sessions.wanted.entry(*user).or_default().extend(devices);
                    }
                }
                if !of_one {
                    self.timers.pause_bundles(cx.now, failure.retry_after_ms());
                } else if users.len() > 1 {
                    self.sessions.alone = users.len();
                }
                return Ok(());
            }
        };
        for &user_id in users {
            self.bundles_asked.remove(&user_id);
            let wanted = self.bundles_wanted.remove(&user_id).unwrap_or_default();
            let bundles = answer.remove(&user_id);
            let mut given: BTreeSet<DeviceId> = BTreeSet::new();
            if let Some(bundles) = bundles {
                let certs: Vec<&[u8]> = bundles.bundles.iter().map(|bundle| bundle.certificate.0.as_slice()).collect();
                self.hear_list(cx, user_id, &bundles.device_list.0, &certs)?;
                for bundle in &bundles.bundles {
                    if wanted.contains(&bundle.device_id) && given.insert(bundle.device_id) {
                        self.take_bundle(cx, DeviceAddr { user_id, device_id: bundle.device_id }, bundle)?;
                    }
                }
            }
            for device_id in wanted.into_iter().filter(|id| !given.contains(id)) {
                let addr = DeviceAddr { user_id, device_id };
                self.update_peer(cx, addr, |peer| {
                    (peer.absent, peer.stale, peer.refused, peer.looked_at) = (true, false, false, now);
                })?;
                self.sessions.renew.remove(&addr);
                if self.devices_of(user_id).contains(&addr) {
                    let list = self.contacts.get(&user_id).map_or(0, |contact| contact.list().seq());
                    self.show_skipped(cx, addr, b"absent", list, "the server has no keys of it")?;
                }
            }
        }
        self.flush_controls(cx)
    }

    fn take_bundle(
        &mut self,
        cx: &mut Cx<'_>,
        addr: DeviceAddr,
        bundle: &crate::protocol::keys::Bundle,
    ) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let Some(contact) = self.contacts.get(&addr.user_id).filter(|contact| contact.sending() == Sending::Allowed).cloned()
        else {
            return self.update_peer(cx, addr, |peer| (peer.dormant, peer.looked_at) = (true, now));
        };
        let verified = super::keys::parse_bundle(bundle)
            .ok_or(Error::Malformed)
            .and_then(|bundle| bundle.verify(&contact, now).map_err(|refused| refused.error));
        let set = self.sessions_with(cx, addr)?;
        let made = verified.and_then(|verified| {
            let keys = self.keys.as_ref().ok_or(Error::Rejected)?;
            Ok((set.initiate(&keys.device, &verified, &mut cx.rng, now)?, verified.has_one_time_prekey()))
        });
        match made {
            Ok((set, one_time)) => {
                self.save_sessions(cx, addr, set)?;
                self.sessions.renew.remove(&addr);
                self.update_peer(cx, addr, |peer| {
                    (peer.dormant, peer.stale, peer.refused, peer.absent) = (false, false, false, false);
                    (peer.looked_at, peer.no_one_time_prekey) = (now, !one_time);
                })
            }
            Err(error) => {
                if error == Error::UnverifiedDevice {
                    // Its certificate is not the one in the list that is known: a newer list may name it.
                    self.mark_list_stale(cx, addr.user_id, u64::MAX)?;
                    self.want_list(addr.user_id);
                }
                if !matches!(error, Error::StaleBundle | Error::UnverifiedDevice) {
                    let name = self.name_of(addr.user_id);
                    let text = format!("The server's keys for device {} of {} do not hold: {error}.", addr.device_id, name.raw());
                    let (kind, why) = (key(&[b"bundle", &addr.device_id.to_be_bytes()]), error.to_string());
                    let hint = "Nothing is encrypted for that device.";
                    self.warn(cx, Concern::Person(addr.user_id), &kind, why.as_bytes(), text, hint)?;
                }
                let stale = error == Error::StaleBundle;
                if stale {
                    self.show_skipped(cx, addr, b"dormant", bundle.signed_prekey.created_ms, "it was not there for 30 days")?;
                }
                self.update_peer(cx, addr, |peer| {
                    (peer.dormant, peer.stale, peer.refused, peer.looked_at) = (true, stale, !stale, now);
                })
            }
        }
    }

    // --- Sealing ---

    /// One content for one device, on its active session. The state is saved with what is sent.
    pub(super) fn seal_for(
        &mut self,
        cx: &mut Cx<'_>,
        to: DeviceAddr,
        content: &[u8],
        what: SentWhat,
    ) -> Result<Option<Copy>, StoreError> {
        let now = cx.now.as_unix_ms();
        let set = self.sessions_with(cx, to)?;
        if !set.active(now).is_some_and(|session| self.is_fresh(to, session)) {
            return Ok(None);
        }
        let Ok((set, sealed)) = set.encrypt(content, &mut cx.rng, now) else { return Ok(None) };
        self.save_sessions(cx, to, set)?;
        self.sessions.unanswered.remove(&to);
        let sent = SentKey { to, what, at_ms: now, answers: 0 };
        cx.db.save(Table::SentKeys, dm_key(&sealed.session_id, sealed.ratchet_key.as_bytes(), sealed.n), &sent)?;
        Ok(Some(Copy {
            user_id: to.user_id,
            device_id: to.device_id,
            ciphertext: sealed.frame.into(),
            nonce: sealed.wire_nonce.into(),
        }))
    }

    /// A content as a device of `to` gets it: with the list references; for an own device inside `sync_sent`, if it is mirrored.
    pub(super) fn addressed(&self, base: &Content, to: UserId, mirrored: bool) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let me = self.me_id();
        let mut content = base.clone();
        let peer = UserId::from_bytes(base.conv_id());
        content.own_list = self.list_ref(me)?.to_vec();
        content.seen_list = self.list_ref(peer).map(|list| list.to_vec()).unwrap_or_default();
        if to != me || peer == me || !mirrored {
            content.conv = to.as_bytes().to_vec();
            return content.to_bytes().ok();
        }
        let inner = content.to_mirrored_bytes().ok()?;
        let body = Body::SyncSent(SyncSent { conv: peer.as_bytes().to_vec(), content: inner.to_vec() });
        let mut outer = Content::new(base.id(), base.sent_ms, *me.as_bytes(), body);
        outer.own_list = self.list_ref(me)?.to_vec();
        outer.seen_list.clone_from(&outer.own_list);
        outer.to_bytes().ok()
    }

    fn keep_sent(&mut self, cx: &mut Cx<'_>, base: &Content, mirrored: bool) -> Result<(), StoreError> {
        // Sent once more: it is as old as it was.
        if cx.db.has(Table::SentContents, &base.id())? {
            return Ok(());
        }
        let Ok(content) = base.to_bytes() else { return Ok(()) };
        let kept = SentContent { conv: base.conv_id(), mirrored, content: content.to_vec(), at_ms: cx.now.as_unix_ms() };
        cx.db.save(Table::SentContents, base.id(), &kept)
    }

    /// Encrypts a DM row for every current device of the peer and the own other ones.
    pub(super) fn seal_dm(&mut self, cx: &mut Cx<'_>, row: &RowSend, old: Option<&Send>) -> Result<Sealed, StoreError> {
        let (Some(peer), me) = (self.places.peer(row.channel_id), self.me_id()) else {
            return Ok(Sealed::Refused("It is not known whom this conversation is with.".into()));
        };
        if !self.has_lists([peer, me]) {
            return Ok(Sealed::Waiting);
        }
        match self.contacts.get(&peer).map(crate::crypto::contact::Contact::sending) {
            Some(Sending::Allowed) => {}
            // The user decides about a changed identity; what is written waits.
            Some(_) => return Ok(Sealed::Waiting),
            // A list of theirs that does not hold says nothing about their devices.
            None if self.lists.refused.contains(&peer) => {
                self.note_away(cx, peer)?;
                return Ok(Sealed::Later(TRY_AGAIN_MS));
            }
            None => return Ok(Sealed::Refused("They have no device that could read it yet.".into())),
        }
        let mut targets = self.own_others();
        if peer != me {
            targets.extend(self.devices_of(peer));
        }
        let reach = self.reach(cx, &targets)?;
        if reach.waiting {
            return Ok(Sealed::Waiting);
        }
        if peer != me && !reach.ready.iter().any(|addr| addr.user_id == peer) {
            // A message that none of their devices could read is not sent: it waits until one comes back.
            self.note_away(cx, peer)?;
            return Ok(Sealed::Later(TRY_AGAIN_MS));
        }
        self.is_back(peer);
        let Ok(base) = Content::from_bytes(&row.content) else { return Ok(Sealed::Refused("It cannot be encoded.".into())) };
        let mut copies = Vec::new();
        for to in reach.ready {
            let kept = old.and_then(|old| {
                old.copies.as_ref()?.iter().find(|copy| copy.user_id == to.user_id && copy.device_id == to.device_id)
            });
            if let Some(copy) = kept {
                copies.push(copy.clone());
                continue;
            }
            let Some(content) = self.addressed(&base, to.user_id, true) else {
                return Ok(Sealed::Refused("It is too long.".into()));
            };
            match self.seal_for(cx, to, &content, SentWhat::Content(row.id))? {
                Some(copy) => copies.push(copy),
                None => return Ok(Sealed::Refused("It cannot be encrypted: it is too long, or the session is used up.".into())),
            }
        }
        self.keep_sent(cx, &base, true)?;
        let mut send = row.frame();
        let listed = |addr: &DeviceAddr| targets.contains(addr);
        let ghosts =
            old.map(|old| old.skipped.iter().filter(|addr| !listed(addr)).copied().collect::<Vec<_>>()).unwrap_or_default();
        send.skipped = reach.skipped.into_iter().chain(ghosts).collect();
        send.copies = Some(copies);
        let lists = [peer, me].into_iter().filter_map(|user| Some((user, self.contacts.get(&user)?.list().seq())));
        send.device_lists = Some(lists.collect());
        Ok(Sealed::Now(Box::new(send)))
    }

    /// Whether a sealed fan-out is for a device that has left its user's list, or for somebody to whom nothing goes now.
    pub(super) fn is_for_the_gone(&self, send: &Send) -> bool {
        send.copies.iter().flatten().any(|copy| {
            let contact = self.contacts.get(&copy.user_id);
            contact.is_none_or(|contact| contact.certificate(copy.device_id).is_none() || contact.sending() != Sending::Allowed)
        })
    }

    /// Makes a refused fan-out fit: what the server misses is added, what is too much goes, and a device that no signed list
    /// names gets nothing.
    pub(super) fn patch_for(&mut self, cx: &mut Cx<'_>, mut send: Send, stale: &StaleDevices) -> Result<Box<Send>, StoreError> {
        if let Some(copies) = &mut send.copies {
            copies.retain(|copy| !stale.extra.contains(&DeviceAddr { user_id: copy.user_id, device_id: copy.device_id }));
        }
        send.skipped.retain(|addr| !stale.extra.contains(addr));
        for (user, seq) in &stale.device_lists {
            if self.contacts.get(user).is_none_or(|contact| contact.list().seq() < *seq) {
                self.mark_list_stale(cx, *user, *seq)?;
                self.want_list(*user);
            }
        }
        for addr in &stale.missing {
            let Some(contact) = self.contacts.get(&addr.user_id) else { continue };
            if contact.certificate(addr.device_id).is_some() {
                self.update_peer(cx, *addr, |peer| peer.absent = false)?;
            } else if !self.lists.stale.contains(&addr.user_id) && !send.skipped.contains(addr) {
                // R1: the server wants a copy for a device that nobody signed.
                send.skipped.push(*addr);
                let name = self.name_of(addr.user_id);
                let text = format!(
                    "The server asked for a copy for device {} of {}, which is in no signed list.",
                    addr.device_id,
                    name.raw()
                );
                let hint = "Nothing was encrypted for it. The server may be trying to add a device of its own.";
                self.warn(cx, Concern::Person(addr.user_id), b"ghost", &addr.device_id.to_be_bytes(), text, hint)?;
            }
        }
        Ok(Box::new(send))
    }

    /// Device control or keys to all devices of a user (the own user: to the other ones). Devices without a session get it when
    /// there is one.
    pub(super) fn send_control(&mut self, cx: &mut Cx<'_>, to: UserId, body: Body) -> Result<(), StoreError> {
        let devices = if to == self.me_id() { self.own_others() } else { self.devices_of(to) };
        let content = Content::new(cx.random_id(), cx.now.as_unix_ms(), *to.as_bytes(), body);
        for device in devices {
            self.sessions.controls.push((device, content.clone()));
        }
        self.flush_controls(cx)
    }

    /// The same to one device.
    pub(super) fn send_control_to(&mut self, cx: &mut Cx<'_>, to: DeviceAddr, body: Body) -> Result<(), StoreError> {
        let content = Content::new(cx.random_id(), cx.now.as_unix_ms(), *to.user_id.as_bytes(), body);
        self.sessions.controls.push((to, content));
        self.flush_controls(cx)
    }

    /// A content once more, with its own id.
    pub(super) fn send_content_to(&mut self, cx: &mut Cx<'_>, to: DeviceAddr, content: Content) -> Result<(), StoreError> {
        self.sessions.controls.push((to, content));
        self.flush_controls(cx)
    }

    pub(super) fn flush_controls(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let mut copies = Vec::new();
        let mut waiting = Vec::new();
        for (to, content) in std::mem::take(&mut self.sessions.controls) {
            // To somebody whose keys are in doubt nothing goes, answers to requests neither.
            if !self.devices_of(to.user_id).contains(&to) {
                continue;
            }
            let reach = self.reach(cx, &[to])?;
            if reach.waiting
                || self.sessions.renew.contains(&to)
                    && matches!(&content.body, Some(Body::SessionCtl(ctl)) if ctl.kind == content::CTL_RETRY && ctl.channel_id.is_empty())
            {
                waiting.push((to, content));
                continue;
            }
            if reach.ready.is_empty() {
                continue;
            }
            let mirrored = matches!(
                content.body,
                Some(
                    Body::Text(_)
                        | Body::Edit(_)
                        | Body::Reaction(_)
                        | Body::Delete(_)
                        | Body::Receipt(_)
                        | Body::Timer(_)
                        | Body::Profile(_)
                        | Body::Poll(_)
                )
            );
            if let Some(bytes) = self.addressed(&content, to.user_id, mirrored)
                && let Some(copy) = self.seal_for(cx, to, &bytes, SentWhat::Content(MessageId::from_bytes(content.id())))?
            {
                copies.push(copy);
                if !matches!(content.body, Some(Body::SessionCtl(_))) {
                    self.keep_sent(cx, &content, mirrored)?;
                }
            }
        }
        waiting.truncate(CONTROLS_MAX);
        self.sessions.controls = waiting;
        self.queue_batch(cx, copies, None)
    }

    /// Answers first messages that nothing else answered.
    pub(super) fn acknowledge_due(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        if !self.is_live() {
            return Ok(());
        }
        let due: Vec<DeviceAddr> = self.sessions.unanswered.iter().filter(|(_, at)| **at <= now).map(|(addr, _)| *addr).collect();
        for addr in due {
            self.sessions.unanswered.remove(&addr);
            let ctl = content::SessionCtl { kind: content::CTL_ACKNOWLEDGE, ..content::SessionCtl::default() };
            self.send_control_to(cx, addr, Body::SessionCtl(ctl))?;
        }
        Ok(())
    }

    pub(super) fn hear_list(&mut self, cx: &mut Cx<'_>, user_id: UserId, list: &[u8], certs: &[&[u8]]) -> Result<(), StoreError> {
        let devices = crate::protocol::devices::UserDevices {
            identity_key: Some(crate::protocol::codec::Blob::default()),
            head_seq: 0,
            lists: vec![list.into()],
            certificates: certs.iter().map(|cert| (*cert).into()).collect(),
        };
        match self.contacts.get(&user_id) {
            // Only the lists route has all certificates of a first list.
            None => {
                self.want_list(user_id);
                Ok(())
            }
            Some(contact) if contact.list().as_bytes() == list => Ok(()),
            Some(contact) => {
                let next = crate::crypto::device_list::DeviceList::parse(list)
                    .is_ok_and(|named| named.claims().seq() > contact.list().seq());
                if next {
                    self.mark_list_stale(cx, user_id, u64::MAX)?;
                    self.want_list(user_id);
                    Ok(())
                } else {
                    self.hear_lists(cx, user_id, &devices)
                }
            }
        }
    }

    /// Makes a new session for a device whose frame could not be opened; once an hour.
    pub(super) fn recover_session(&mut self, cx: &mut Cx<'_>, addr: DeviceAddr) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let peer = self.peer_device(cx, addr)?;
        if peer.recovered_at.saturating_add(3_600_000) <= now {
            self.update_peer(cx, addr, |peer| peer.recovered_at = now)?;
            self.sessions.renew.insert(addr);
            self.want_bundle(addr);
        }
        Ok(())
    }

    /// The peer lost a session: nothing more is sent on the ones up to it.
    pub(super) fn mark_lost(
        &mut self,
        cx: &mut Cx<'_>,
        addr: DeviceAddr,
        lost: &[u8; 16],
        on: &[u8; 16],
    ) -> Result<(), StoreError> {
        let set = self.sessions_with(cx, addr)?.lost(lost, on);
        self.save_sessions(cx, addr, set)
    }
}

/// The key of [`Table::SentKeys`] for a frame of a session.
pub(super) fn dm_key(session_id: &[u8; 16], ratchet_key: &[u8; 32], n: u32) -> Vec<u8> {
    key(&[b"d", session_id, ratchet_key, &n.to_be_bytes()])
}
