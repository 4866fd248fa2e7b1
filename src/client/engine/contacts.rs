//! Whom this client knows by which keys (`crypto.md` 4.3, 14): device lists fetched, verified and pinned, changes of
//! identity, equivocation, and what the user decides about them. What the server says beside it is a hint.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::model::{DeviceInfo, Problem, ProblemKind, SafetyNumber, SystemLine, Trust};
use crate::client::store::{Store, StoreError, Table};
use crate::crypto::Error;
use crate::crypto::cert::DeviceCert;
use crate::crypto::contact::{self, Contact, How, Presented, Sending};
use crate::crypto::content::{Body, OwnState, Verified};
use crate::crypto::device_list::{DeviceList, ListRef};
use crate::crypto::identity::fingerprint;
use crate::crypto::kdf;
use crate::crypto::membership::{CertSource, Hash, Identity};
use crate::crypto::safety_number::{SafetyNumber as Compared, Scan};
use crate::crypto::signature::VerifyKey;
use crate::protocol::codec::Timestamp;
use crate::protocol::devices::{FetchManyDevices, UserDevices};
use crate::protocol::ids::{ChannelId, DeviceAddr, DeviceId, UserId};
use crate::protocol::keys::ByUser;

use super::db::{Db, addr_key, damaged, key};
use super::http::{self, Failure, Question};
use super::io::Method;
use super::sessions::PeerDevice;
use super::warnings::Concern;
use super::{Cx, Engine};

/// Users of one request.
const USERS_AT_ONCE: usize = 100;
/// People whose lists are wanted at once.
pub(super) const WANTED_MAX: usize = 5_000;

/// Which device lists have to be fetched.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Marked by a `device_list` event; persisted.
    pub stale: BTreeSet<UserId>,
    wanted: BTreeSet<UserId>,
    pub asked: BTreeSet<UserId>,
    /// Users without a device, as far as the server says.
    pub deviceless: BTreeSet<UserId>,
    /// Of them, whose first list does not hold.
    pub refused: BTreeSet<UserId>,
    /// Old identities whose lists a membership log needs.
    old: BTreeSet<(UserId, [u8; 32])>,
    old_asked: bool,
    /// Users of whom another identity was named: all their lists are wanted, not the newer ones.
    anew: BTreeSet<UserId>,
    /// The newest list of somebody that a message named and the server has not shown, and whether that was told.
    pub named: BTreeMap<UserId, (u64, bool)>,
}

pub(super) fn open(store: &dyn Store) -> Result<(BTreeMap<UserId, Contact>, Lists), StoreError> {
    let db = Db::new(store);
    let mut contacts = BTreeMap::new();
    for (_, record) in db.scan(Table::Contacts, &[], usize::MAX)? {
        let contact = Contact::from_record(&record).map_err(|error| damaged(Table::Contacts, error))?;
        contacts.insert(UserId::from_bytes(contact.user_id()), contact);
    }
    let mut lists = Lists::default();
    for (user, _) in db.scan(Table::StaleLists, &[], usize::MAX)? {
        if let Ok(user) = <[u8; 16]>::try_from(user.as_slice()) {
            lists.stale.insert(UserId::from_bytes(user));
        }
    }
    Ok((contacts, lists))
}

/// The signed objects that membership logs refer to, out of the store.
pub(super) struct StoredCerts<'a, 'b>(pub &'a Db<'b>);

impl CertSource for StoredCerts<'_, '_> {
    fn cert(&self, cert_hash: &Hash) -> Option<Vec<u8>> {
        self.0.get(Table::Certificates, cert_hash).ok().flatten().map(|cert| cert.to_vec())
    }

    fn list(&self, user: &[u8; 16], identity: &Identity, seq: u64) -> Option<Vec<u8>> {
        self.0.get(Table::DeviceLists, &list_key(user, identity, seq)).ok().flatten().map(|list| list.to_vec())
    }
}

pub(super) fn list_key(user: &[u8; 16], identity: &[u8; 32], seq: u64) -> Vec<u8> {
    key(&[user, identity, &seq.to_be_bytes()])
}

impl Engine {
    /// Whether the newest lists of all these users are known. What is missing is asked for.
    pub(super) fn has_lists(&mut self, users: impl IntoIterator<Item = UserId>) -> bool {
        let mut complete = true;
        for user_id in users {
            let known = self.contacts.contains_key(&user_id) || self.lists.deviceless.contains(&user_id);
            if !known || self.lists.stale.contains(&user_id) {
                complete = false;
                self.want_list(user_id);
            }
        }
        complete
    }

    pub(super) fn want_list(&mut self, user_id: UserId) {
        if self.lists.wanted.len() < WANTED_MAX {
            self.lists.wanted.insert(user_id);
        }
    }

    pub(super) fn is_old_list_asked(&self, user_id: UserId, identity: [u8; 32]) -> bool {
        self.lists.old.contains(&(user_id, identity))
    }

    pub(super) fn want_old_lists(&mut self, user_id: UserId, identity: [u8; 32]) {
        if self.lists.old.len() < WANTED_MAX {
            self.lists.old.insert((user_id, identity));
        }
    }

    /// The server says that somebody's list changed: nothing is encrypted for them before it was fetched.
    pub(super) fn mark_list_stale(&mut self, cx: &mut Cx<'_>, user_id: UserId, list_seq: u64) -> Result<(), StoreError> {
        self.lists.deviceless.remove(&user_id);
        let known = self.contacts.get(&user_id);
        if known.is_some_and(|contact| contact.list().seq() >= list_seq && contact.new_identity().is_none() && list_seq > 1) {
            return Ok(());
        }
        if self.lists.stale.len() < WANTED_MAX && self.lists.stale.insert(user_id) {
            cx.db.put(Table::StaleLists, user_id.as_bytes(), []);
        }
        if known.is_some() {
            self.want_list(user_id);
        }
        Ok(())
    }

    /// After a new snapshot nothing is known of what happened to lists meanwhile.
    pub(super) fn mark_all_lists_stale(&mut self, cx: &mut Cx<'_>) {
        for user_id in self.contacts.keys() {
            if self.lists.stale.insert(*user_id) {
                cx.db.put(Table::StaleLists, user_id.as_bytes(), []);
            }
        }
    }

    pub(super) fn pump_lists(&mut self, cx: &mut Cx<'_>) {
        if !self.is_online() || self.timers.paused(cx.now) {
            return;
        }
        let users: Vec<UserId> =
            self.lists.wanted.iter().filter(|user| !self.lists.asked.contains(user)).take(USERS_AT_ONCE).copied().collect();
        if !users.is_empty() {
            let seq = |user: &UserId| {
                let known = self.contacts.get(user).filter(|_| !self.lists.anew.contains(user));
                known.map_or(0, |contact| contact.list().seq())
            };
            let after = users.iter().map(|user| (*user, seq(user))).collect();
            for user in &users {
                self.lists.wanted.remove(user);
                self.lists.asked.insert(*user);
            }
            let body = http::json(&FetchManyDevices { after });
            self.ask(cx, Question::Lists(users), Method::Post, "/users/devices", body);
        }
        // One at a time; it stays in the set until it was answered.
        if !self.lists.old_asked
            && let Some((user_id, identity)) = self.lists.old.first().copied()
        {
            self.lists.old_asked = true;
            let print = hex::encode(kdf::hash(&[&identity]));
            let path = format!("/users/{user_id}/devices?after=0&uik={print}");
            self.ask(cx, Question::ListsOf { user_id, identity }, Method::Get, path, None);
        }
    }

    pub(super) fn on_lists(
        &mut self,
        cx: &mut Cx<'_>,
        users: &[UserId],
        answer: Result<ByUser<UserDevices>, Failure>,
    ) -> Result<(), StoreError> {
        for user in users {
            self.lists.asked.remove(user);
        }
        match answer {
            Ok(mut answer) => {
                for user in users {
                    match answer.items.remove(user) {
                        Some(devices) => self.apply_lists(cx, *user, &devices)?,
                        // Nobody of that name: nothing can be encrypted for them, and nothing waits for it.
                        None => self.settle_list(cx, *user, true)?,
                    }
                }
            }
            Err(failure) => {
                for user in users {
                    self.want_list(*user);
                }
                self.timers.back_off(cx.now, failure.retry_after_ms());
            }
        }
        Ok(())
    }

    pub(super) fn on_lists_of(
        &mut self,
        cx: &mut Cx<'_>,
        user_id: UserId,
        identity: [u8; 32],
        answer: Result<UserDevices, Failure>,
    ) -> Result<(), StoreError> {
        self.lists.old_asked = false;
        match answer {
            Err(failure) if !failure.is_final() => {
                self.timers.back_off(cx.now, failure.retry_after_ms());
                return Ok(());
            }
            Ok(devices) => self.keep_lists(cx, user_id, &devices)?,
            Err(_) => {}
        }
        self.lists.old.remove(&(user_id, identity));
        self.retry_logs(cx)
    }

    fn settle_list(&mut self, cx: &mut Cx<'_>, user_id: UserId, deviceless: bool) -> Result<(), StoreError> {
        if deviceless && !self.contacts.contains_key(&user_id) && self.lists.deviceless.len() < WANTED_MAX {
            self.lists.deviceless.insert(user_id);
        }
        if self.lists.stale.remove(&user_id) {
            cx.db.delete(Table::StaleLists, user_id.as_bytes());
        }
        self.report_hidden(cx, user_id)?;
        self.retry_logs(cx)?;
        self.retry_held_of(cx, user_id)
    }

    /// Keeps signed objects for the membership logs: only what is signed and about this user, and of two lists with one seq the
    /// first, unless the other one is pinned.
    fn keep_lists(&mut self, cx: &mut Cx<'_>, user_id: UserId, devices: &UserDevices) -> Result<(), StoreError> {
        for list in &devices.lists {
            if let Ok(list) = DeviceList::verify(&list.0)
                && list.user_id() == *user_id.as_bytes()
            {
                let at = list_key(user_id.as_bytes(), list.identity().as_bytes(), list.seq());
                if !cx.db.has(Table::DeviceLists, &at)? {
                    cx.db.put(Table::DeviceLists, at, list.as_bytes());
                }
            }
        }
        for cert in devices.certificates.iter().filter(|cert| cert.len() == DeviceCert::LEN) {
            cx.db.put(Table::Certificates, kdf::hash(&[&cert.0]), cert.0.clone());
        }
        Ok(())
    }

    /// Presents what the server serves for a user, oldest first.
    pub(super) fn apply_lists(&mut self, cx: &mut Cx<'_>, user_id: UserId, devices: &UserDevices) -> Result<(), StoreError> {
        self.keep_lists(cx, user_id, devices)?;
        let certs: Vec<&[u8]> = devices.certificates.iter().map(|cert| cert.0.as_slice()).collect();
        let Some(newest) = devices.lists.last() else {
            let pinned = self.contacts.get(&user_id).map(|contact| contact.identity().as_bytes().as_slice());
            let other =
                devices.identity_key.as_ref().is_some_and(|named| pinned.is_some_and(|pinned| pinned != named.as_slice()));
            if other && self.lists.anew.insert(user_id) {
                self.want_list(user_id);
                return Ok(());
            }
            return self.settle_list(cx, user_id, devices.identity_key.is_none());
        };
        self.lists.anew.remove(&user_id);
        if !self.contacts.contains_key(&user_id) {
            match Contact::first(*user_id.as_bytes(), &newest.0, &certs) {
                Ok(contact) => {
                    self.lists.refused.remove(&user_id);
                    self.pin_first(cx, contact)?;
                }
                Err(error) => {
                    self.warn_of_lists(cx, user_id, error)?;
                    if self.lists.refused.len() < WANTED_MAX {
                        self.lists.refused.insert(user_id);
                    }
                    return self.settle_list(cx, user_id, true);
                }
            }
        } else {
            self.present_all(cx, user_id, devices)?;
            let pinned = self.contacts.get(&user_id).map_or(0, |contact| contact.list().seq());
            let progress = devices.lists.len() >= 200 && pinned < devices.head_seq;
            if progress && self.contacts.get(&user_id).is_some_and(|contact| contact.sending() == Sending::Allowed) {
                self.want_list(user_id);
                return Ok(());
            }
        }
        self.settle_list(cx, user_id, false)
    }

    /// Presents lists of a known user, oldest first. It settles nothing: what the server announced is still to be fetched.
    pub(super) fn present_all(&mut self, cx: &mut Cx<'_>, user_id: UserId, devices: &UserDevices) -> Result<(), StoreError> {
        let certs: Vec<&[u8]> = devices.certificates.iter().map(|cert| cert.0.as_slice()).collect();
        for list in &devices.lists {
            if !self.present(cx, user_id, &list.0, &certs)? {
                break;
            }
        }
        Ok(())
    }

    /// Presents lists that came another way than by the question for them.
    pub(super) fn hear_lists(&mut self, cx: &mut Cx<'_>, user_id: UserId, devices: &UserDevices) -> Result<(), StoreError> {
        self.keep_lists(cx, user_id, devices)?;
        self.present_all(cx, user_id, devices)?;
        self.retry_logs(cx)?;
        self.retry_held_of(cx, user_id)
    }

    /// One list for a known user; false when the following ones are of no use.
    fn present(&mut self, cx: &mut Cx<'_>, user_id: UserId, list: &[u8], certs: &[&[u8]]) -> Result<bool, StoreError> {
        let Some(contact) = self.contacts.get(&user_id) else { return Ok(false) };
        // The certificates of a list are in the store when an earlier answer brought them.
        let mut all: Vec<Vec<u8>> = certs.iter().map(|cert| cert.to_vec()).collect();
        if let Ok(claims) = DeviceList::parse(list) {
            for entry in claims.claims().entries() {
                if let Some(cert) = cx.db.get(Table::Certificates, &entry.cert_hash)? {
                    all.push(cert.to_vec());
                }
            }
        }
        match contact.present(list, &all) {
            Ok(Presented::Unchanged) | Err(Error::OldSeq) => Ok(true),
            Ok(Presented::Pinned { contact, added, removed }) => {
                self.keep_pinned(cx, &contact);
                self.put_contact(cx, contact);
                self.devices_changed(cx, user_id, &added, &removed)?;
                Ok(true)
            }
            Ok(Presented::Stopped(contact)) => {
                self.put_contact(cx, contact);
                let name = self.name_of(user_id);
                let text = format!(
                    "There are two different signed device lists of {} with one number. The cause may be the server or a stolen key.",
                    name.raw()
                );
                let hint = "Nothing is sent to them. Compare safety numbers, then use /trust.";
                self.warn(cx, Concern::Person(user_id), b"stopped", &kdf::hash(&[list]), text, hint)?;
                Ok(false)
            }
            Ok(Presented::IdentityChanged(changed)) => {
                self.identity_changed(cx, user_id, changed)?;
                Ok(false)
            }
            Err(Error::Equivocation) => Ok(false),
            Err(error) => {
                self.warn_of_lists(cx, user_id, error)?;
                Ok(false)
            }
        }
    }

    fn warn_of_lists(&mut self, cx: &mut Cx<'_>, user_id: UserId, error: Error) -> Result<(), StoreError> {
        let name = self.name_of(user_id);
        let text = if error == Error::Gap {
            format!("The server holds back device lists of {}: it may be hiding a device change.", name.raw())
        } else {
            format!("The server sent a device list of {} that does not hold: {error}.", name.raw())
        };
        let hint = "It was not accepted; what was known before stays in force.";
        self.warn(cx, Concern::Person(user_id), b"lists", error.to_string().as_bytes(), text, hint)
    }

    /// Another identity key is claimed: the old pin stays (`crypto.md` 14.3).
    pub(super) fn identity_changed(&mut self, cx: &mut Cx<'_>, user_id: UserId, changed: Contact) -> Result<(), StoreError> {
        let known = self.contacts.get(&user_id).and_then(|contact| contact.new_identity().copied());
        let news = known.as_ref() != changed.new_identity();
        self.put_contact(cx, changed);
        if news {
            let who = self.name_of(user_id);
            self.line_about(cx, user_id, SystemLine::IdentityChanged { who })?;
            if user_id == self.me_id() {
                cx.notice(
                    Problem::new(ProblemKind::Crypto, "Your account shows another identity key than the one of this device.")
                        .hint("If you did not reset your identity, the server or somebody with your password did."),
                );
            }
        }
        Ok(())
    }

    fn pin_first(&mut self, cx: &mut Cx<'_>, contact: Contact) -> Result<(), StoreError> {
        let user_id = UserId::from_bytes(contact.user_id());
        let print = fingerprint(contact.identity());
        self.keep_pinned(cx, &contact);
        self.put_contact(cx, contact);
        self.lists.deviceless.remove(&user_id);
        if user_id != self.me_id()
            && let Some(channel_id) = self.places.dm_with(user_id)
        {
            let who = self.name_of(user_id);
            self.local_line(cx, channel_id, SystemLine::FirstContact { who, fingerprint: print })?;
        }
        Ok(())
    }

    /// The pinned list and its certificates stay findable for membership logs.
    pub(super) fn keep_pinned(&mut self, cx: &mut Cx<'_>, contact: &Contact) {
        let list = contact.list();
        cx.db.put(Table::DeviceLists, list_key(&contact.user_id(), list.identity().as_bytes(), list.seq()), list.as_bytes());
        for cert in contact.certificates() {
            cx.db.put(Table::Certificates, *cert.hash(), *cert.as_bytes());
        }
    }

    pub(super) fn put_contact(&mut self, cx: &mut Cx<'_>, contact: Contact) {
        let user_id = UserId::from_bytes(contact.user_id());
        cx.db.put_value(Table::Contacts, user_id.as_bytes(), contact.to_record());
        self.contacts.insert(user_id, contact);
        self.places.dirty = true;
    }

    fn devices_changed(
        &mut self,
        cx: &mut Cx<'_>,
        user_id: UserId,
        added: &[DeviceId],
        removed: &[DeviceId],
    ) -> Result<(), StoreError> {
        let who = self.name_of(user_id);
        for &device_id in added {
            self.line_about(cx, user_id, SystemLine::NewDevice { who: who.clone(), device_id })?;
        }
        for &device_id in removed {
            self.line_about(cx, user_id, SystemLine::DeviceRemoved { who: who.clone(), device_id })?;
            self.forget_device(cx, DeviceAddr { user_id, device_id })?;
        }
        if user_id == self.me_id() && !added.is_empty() {
            cx.notice(
                Problem::new(ProblemKind::Crypto, "A device was added to your account.")
                    .hint("Remove it with :devices if it is not yours."),
            );
        }
        self.reach_again(cx, user_id)?;
        if !removed.is_empty() {
            self.rotate_chains_of(cx, user_id)?;
        }
        Ok(())
    }

    // --- What is known ---

    pub(super) fn trust_of(&self, user_id: UserId) -> Trust {
        let Some(contact) = self.contacts.get(&user_id) else { return Trust::Unknown };
        let verified = matches!(contact.trust(), contact::Trust::Verified { .. });
        match contact.sending() {
            Sending::Blocked(Error::Equivocation) => Trust::Stopped,
            Sending::Blocked(_) | Sending::AskFirst => Trust::Changed { was_verified: verified },
            Sending::Allowed if verified || user_id == self.me_id() => Trust::Verified,
            Sending::Allowed => Trust::Unverified,
        }
    }

    /// The current devices of somebody to whom messages may go; none while that is in doubt.
    pub(super) fn devices_of(&self, user_id: UserId) -> Vec<DeviceAddr> {
        match self.contacts.get(&user_id) {
            Some(contact) if contact.sending() == Sending::Allowed => {
                contact.certificates().map(|cert| DeviceAddr { user_id, device_id: cert.addr().device_id }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The own devices but this one.
    pub(super) fn own_others(&self) -> Vec<DeviceAddr> {
        let this = self.me.as_ref().map_or(0, |me| me.device_id);
        self.devices_of(self.me_id()).into_iter().filter(|addr| addr.device_id != this).collect()
    }

    pub(super) fn list_ref(&self, user_id: UserId) -> Option<ListRef> {
        self.contacts.get(&user_id).map(|contact| contact.list().list_ref())
    }

    // --- The user decides (14) ---

    pub(super) fn safety_of(&self, cx: &Cx<'_>, user_id: UserId) -> Result<Option<SafetyNumber>, StoreError> {
        let (Some(contact), Some(me)) = (self.contacts.get(&user_id), self.contacts.get(&self.me_id())) else { return Ok(None) };
        // Whoever decides about a new key compares that one: the old numbers would be equal only if nothing had changed.
        let theirs = contact.new_identity().unwrap_or(contact.identity());
        let compared = Compared::new(me.user_id(), me.identity(), contact.user_id(), theirs);
        Ok(Some(SafetyNumber {
            user_id,
            name: self.name_of(user_id),
            digits: compared.digits(),
            code: compared.code(),
            fingerprint: fingerprint(contact.identity()),
            new_fingerprint: contact.new_identity().map(fingerprint),
            trust: self.trust_of(user_id),
            devices: self.device_infos(cx, user_id)?,
        }))
    }

    pub(super) fn device_infos(&self, cx: &Cx<'_>, user_id: UserId) -> Result<Vec<DeviceInfo>, StoreError> {
        let this = self.me.as_ref().map(|me| (me.user_id, me.device_id));
        let Some(contact) = self.contacts.get(&user_id) else { return Ok(Vec::new()) };
        contact
            .certificates()
            .map(|cert| {
                let device_id = cert.addr().device_id;
                let addr = DeviceAddr { user_id, device_id };
                let known = cx.db.load::<PeerDevice>(Table::PeerDevices, &addr_key(addr))?.unwrap_or_default();
                Ok(DeviceInfo {
                    device_id,
                    added_at: Timestamp(i64::try_from(cert.created()).unwrap_or(i64::MAX)),
                    dormant: known.dormant || known.absent,
                    current: this == Some((user_id, device_id)),
                    no_one_time_prekey: known.no_one_time_prekey,
                })
            })
            .collect()
    }

    /// The user compared safety numbers, or takes it back. The code, when there is one, must be that of these two keys.
    pub(super) fn set_verified(
        &mut self,
        cx: &mut Cx<'_>,
        user_id: UserId,
        verified: bool,
        code: Option<&str>,
    ) -> Result<Result<(), Problem>, StoreError> {
        let (Some(contact), Some(me)) = (self.contacts.get(&user_id), self.contacts.get(&self.me_id())) else {
            return Ok(Err(Problem::new(ProblemKind::NotFound, "No key of this person is known yet.")
                .hint("Write to them, or ask them to log in once.")));
        };
        if let Some(code) = code {
            match Compared::new(me.user_id(), me.identity(), contact.user_id(), contact.identity()).check(code) {
                Ok(Scan::Match) => {}
                Ok(Scan::OtherUsers) => {
                    return Ok(Err(Problem::new(ProblemKind::Crypto, "The code is of other people.")
                        .hint("Make sure that it was shown by the right person for your account.")));
                }
                Ok(Scan::Mismatch) => {
                    return Ok(Err(Problem::new(ProblemKind::Crypto, "The code is not that of your and their keys.")
                        .hint("Make sure it was shown by the right person. If it was, somebody stands between you.")));
                }
                Err(_) => {
                    return Ok(Err(Problem::new(ProblemKind::Usage, "This is not a safety code.")
                        .hint("Copy the whole code, or compare the sixty digits instead.")));
                }
            }
        }
        let (how, number) = if code.is_some() { (How::Code, 2) } else { (How::Digits, 1) };
        let when = cx.now.as_unix_ms();
        let trust = if verified { contact::Trust::Verified { when, how } } else { contact::Trust::Unverified };
        let record = Verified {
            user_id: user_id.as_bytes().to_vec(),
            uik: contact.identity().as_bytes().to_vec(),
            when_ms: when,
            how: number,
            state: u32::from(verified),
        };
        let news = verified && !matches!(contact.trust(), contact::Trust::Verified { .. });
        let contact = contact.with_trust(trust);
        self.put_contact(cx, contact);
        if news {
            let who = self.name_of(user_id);
            self.line_about(cx, user_id, SystemLine::Verified { who })?;
        }
        let state = OwnState { verified: vec![record], backup_epoch: 0, backup_counter: 0, pins: Vec::new() };
        let me = self.me_id();
        self.send_control(cx, me, Body::OwnState(state))?;
        Ok(Ok(()))
    }

    /// What another own device decided about verified contacts: for the UIK that it names only.
    pub(super) fn take_own_state(&mut self, cx: &mut Cx<'_>, state: &OwnState) {
        for verified in &state.verified {
            let Ok(user_id) = <[u8; 16]>::try_from(verified.user_id.as_slice()).map(UserId::from_bytes) else { continue };
            let Some(contact) = self.contacts.get(&user_id) else { continue };
            if contact.identity().as_bytes().as_slice() != verified.uik {
                continue;
            }
            let trust = match (verified.state, How::try_from(verified.how)) {
                (1, Ok(how)) => contact::Trust::Verified { when: verified.when_ms, how },
                _ => contact::Trust::Unverified,
            };
            let contact = contact.with_trust(trust);
            self.put_contact(cx, contact);
        }
    }

    /// `/trust`: accepts the newest lists, which an errand has just fetched.
    pub(super) fn accept_lists(
        &mut self,
        cx: &mut Cx<'_>,
        user_id: UserId,
        devices: &UserDevices,
        send_waiting: bool,
    ) -> Result<Result<(), Problem>, StoreError> {
        self.keep_lists(cx, user_id, devices)?;
        let Some(contact) = self.contacts.get(&user_id).cloned() else {
            return Ok(Err(Problem::new(ProblemKind::NotFound, "No key of this person is known yet.")));
        };
        let certs: Vec<&[u8]> = devices.certificates.iter().map(|cert| cert.0.as_slice()).collect();
        let Some(newest) = devices.lists.last() else {
            return Ok(Err(Problem::new(ProblemKind::NotFound, "The server shows no device of this person.")));
        };
        let identity = DeviceList::parse(&newest.0).ok().map(|list| *list.claims().identity());
        let same = identity.as_ref() == Some(contact.identity());
        let accepted = if same {
            // The claim of another identity is off the table; the lists have to follow the pinned one as ever.
            let contact = contact.with_new_identity(*contact.identity());
            if contact.stop().is_some() {
                contact.resume(&newest.0, &certs)
            } else {
                self.put_contact(cx, contact);
                self.present_all(cx, user_id, devices)?;
                Ok(Presented::Unchanged)
            }
        } else if user_id == self.me_id() {
            return Ok(Err(Problem::new(ProblemKind::Crypto, "The server shows another identity for your own account.")
                .hint("This device cannot take it over. If you did not reset your identity, tell your contacts.")));
        } else if identity.as_ref() == contact.new_identity() {
            let accepted = contact.accept_identity(&newest.0, &certs);
            accepted.map(|contact| Presented::Pinned { contact, added: Vec::new(), removed: Vec::new() })
        } else {
            // Not the key whose fingerprint the user saw.
            if let Some(changed) = identity.map(|identity: VerifyKey| contact.with_new_identity(identity)) {
                self.put_contact(cx, changed);
            }
            return Ok(Err(Problem::new(ProblemKind::Crypto, "The server shows yet another identity key now.")
                .hint("Look at both fingerprints again before you accept.")));
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                return Ok(Err(Problem::new(ProblemKind::Crypto, format!("The newest device list does not hold: {error}."))));
            }
        };
        if let Presented::Pinned { contact, added, removed } = accepted {
            self.keep_pinned(cx, &contact);
            self.put_contact(cx, contact);
            if same {
                self.devices_changed(cx, user_id, &added, &removed)?;
            } else {
                // Every device of the old identity is gone, and what is said from now on is not for them.
                self.forget_user_sessions(cx, user_id)?;
                self.rotate_chains_of(cx, user_id)?;
            }
        }
        if let Some(channel_id) = self.places.dm_with(user_id) {
            if send_waiting || same {
                self.unseal_waiting(cx, channel_id)?;
            } else {
                self.fail_waiting(
                    cx,
                    channel_id,
                    "It was written for the old identity. Send it again if you want them to read it.",
                )?;
            }
        }
        self.settle_list(cx, user_id, false)?;
        Ok(Ok(()))
    }

    pub(super) fn dm_channel(&self, user_id: UserId) -> Option<ChannelId> {
        self.places.dm_with(user_id)
    }
}
