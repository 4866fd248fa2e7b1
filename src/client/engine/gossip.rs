//! What messages say about device lists (`crypto.md` 10.4): theirs, and ours as they saw it. So a server that hides a change of
//! devices from somebody is found out by the next message.

use crate::client::store::{StoreError, Table};
use crate::crypto::content::{Body, DevListUpdate};
use crate::crypto::device_list::{ListRef, RefOrder};
use crate::crypto::kdf;
use crate::protocol::devices::UserDevices;
use crate::protocol::ids::UserId;

use super::contacts::{WANTED_MAX, list_key};
use super::warnings::Concern;
use super::{Cx, Engine};

impl Engine {
    /// What a message of somebody says about lists: theirs, and ours as they saw it.
    pub(super) fn hear_gossip(
        &mut self,
        cx: &mut Cx<'_>,
        from: UserId,
        own_list: &[u8],
        seen_list: &[u8],
        sent_ms: u64,
    ) -> Result<(), StoreError> {
        if let (Ok(named), Some(contact)) = (ListRef::try_from(own_list), self.contacts.get(&from)) {
            match contact.list().compare_ref(&named) {
                RefOrder::Newer if self.hear_of_newer(from, &named) => self.mark_list_stale(cx, from, u64::MAX)?,
                RefOrder::Differs => {
                    let name = self.name_of(from);
                    let text = format!(
                        "{} names another device list than the server showed: it may be hiding a device change.",
                        name.raw()
                    );
                    self.warn(cx, Concern::Person(from), b"own", &named, text, "Compare safety numbers and devices with them.")?;
                    self.mark_list_stale(cx, from, u64::MAX)?;
                }
                RefOrder::Same | RefOrder::Older | RefOrder::Newer => {}
            }
        }
        if from != self.me_id()
            && let (Ok(seen), Some(own)) = (ListRef::try_from(seen_list), self.contacts.get(&self.me_id()))
        {
            let late = own.list().issued().saturating_add(3_600_000) < sent_ms;
            let (order, identity) = (own.list().compare_ref(&seen), *own.identity().as_bytes());
            let order =
                if order == RefOrder::Older && !self.is_published(cx, &identity, &seen)? { RefOrder::Differs } else { order };
            match order {
                RefOrder::Older if late => self.tell_lists(cx, from, &seen)?,
                // Another own device published it.
                RefOrder::Newer => {
                    let me = self.me_id();
                    if self.hear_of_newer(me, &seen) {
                        self.mark_list_stale(cx, me, u64::MAX)?;
                    }
                }
                RefOrder::Differs => {
                    let name = self.name_of(from);
                    let text = format!("{} was shown a device list of yours that this device never published.", name.raw());
                    let hint = "The server may be hiding or adding a device. Compare safety numbers with them.";
                    self.warn(cx, Concern::Person(from), b"seen", &seen, text, hint)?;
                }
                RefOrder::Same | RefOrder::Older => {}
            }
        }
        Ok(())
    }

    /// Whether an older list of the own user is the one that is known here; one that was never fetched may be.
    fn is_published(&self, cx: &Cx<'_>, identity: &[u8; 32], seen: &ListRef) -> Result<bool, StoreError> {
        let Some(seq) = seen.first_chunk::<8>().map(|seq| u64::from_be_bytes(*seq)) else { return Ok(false) };
        let kept = cx.db.get(Table::DeviceLists, &list_key(self.me_id().as_bytes(), identity, seq))?;
        Ok(kept.is_none_or(|list| kdf::hash(&[list.as_slice()]).starts_with(seen.get(8..).unwrap_or_default())))
    }

    /// Sends the own lists after the one that a contact saw.
    fn tell_lists(&mut self, cx: &mut Cx<'_>, to: UserId, seen: &ListRef) -> Result<(), StoreError> {
        let Some(own) = self.contacts.get(&self.me_id()) else { return Ok(()) };
        let seen_seq = seen.first_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
        let (newest, identity) = (own.list().seq(), *own.identity().as_bytes());
        let certs = own.certificates().map(|cert| cert.as_bytes().to_vec()).collect();
        let mut lists = Vec::new();
        for seq in seen_seq.saturating_add(1)..=newest.min(seen_seq.saturating_add(20)) {
            if let Some(list) = cx.db.get(Table::DeviceLists, &list_key(self.me_id().as_bytes(), &identity, seq))? {
                lists.push(list.to_vec());
            }
        }
        let body = Body::Devlist(DevListUpdate { lists, certs });
        self.send_control(cx, to, body)
    }

    /// Lists that came in a session: presented like those of the server.
    pub(super) fn take_devlist(
        &mut self,
        cx: &mut Cx<'_>,
        from: UserId,
        lists: &[Vec<u8>],
        certs: &[Vec<u8>],
    ) -> Result<(), StoreError> {
        let Some(contact) = self.contacts.get(&from) else { return Ok(()) };
        let devices = UserDevices {
            identity_key: Some(contact.identity().as_bytes().to_vec().into()),
            head_seq: 0,
            lists: lists.iter().map(|list| list.as_slice().into()).collect(),
            certificates: certs.iter().map(|cert| cert.as_slice().into()).collect(),
        };
        let before = contact.list().seq();
        self.hear_lists(cx, from, &devices)?;
        if self.contacts.get(&from).is_some_and(|contact| contact.list().seq() > before) && !self.lists.stale.contains(&from) {
            let name = self.name_of(from);
            let text = format!("The server did not deliver a device list that {} sent directly.", name.raw());
            self.warn(cx, Concern::Person(from), b"held", &before.to_be_bytes(), text, "It may be hiding a device change.")?;
        }
        Ok(())
    }

    /// A message named a list that the server does not deliver (10.4).
    pub(super) fn report_hidden(&mut self, cx: &mut Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        let known = self.contacts.get(&user_id).map_or(0, |contact| contact.list().seq());
        match self.lists.named.get_mut(&user_id) {
            Some((seq, _)) if *seq <= known => {
                self.lists.named.remove(&user_id);
            }
            Some((seq, told)) if !*told => {
                *told = true;
                let about = seq.to_be_bytes();
                let name = self.name_of(user_id);
                let text = format!(
                    "A message names a newer device list of {} than the server shows: it may be hiding a device change.",
                    name.raw()
                );
                self.warn(cx, Concern::Person(user_id), b"newer", &about, text, "Compare safety numbers and devices with them.")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes that a message named a newer list than is known; false when that was fetched in vain and told before.
    fn hear_of_newer(&mut self, user_id: UserId, named: &ListRef) -> bool {
        let seq = named.first_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
        match self.lists.named.get(&user_id) {
            Some((known, told)) if seq <= *known => !told,
            _ => {
                if self.lists.named.len() < WANTED_MAX {
                    self.lists.named.insert(user_id, (seq, false));
                }
                true
            }
        }
    }
}
