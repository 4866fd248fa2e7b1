//! Signed device lists (TC/1 section 4.3): the devices of a user, in a hash chain under the user identity key. This module
//! checks one list and the step from one list to the next; what a client remembers and accepts is [`contact`](super::contact).

use std::fmt;

use super::Time;
use super::cert::DeviceCert;
use super::error::Error;
use super::identity::{DeviceId, UserId};
use super::kdf;
use super::labels;
use super::signature::{SIGNATURE_LEN, SigningKey, VerifyKey};
use super::wire::{Reader, Writer};

/// Devices in one list.
pub const MAX_DEVICES: usize = 8;
/// seq u64 ‖ the first 16 bytes of the list's hash: how messages name a list.
pub type ListRef = [u8; 24];

const VERSION: u8 = 1;
const SEQ_END: u64 = 1 << 63;

/// A list whose signature was verified under its own `identity`. Whether that identity is the right one is for the caller.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceList {
    bytes: Vec<u8>,
    hash: [u8; 32],
    user_id: UserId,
    identity: VerifyKey,
    seq: u64,
    prev: [u8; 32],
    issued: Time,
    entries: Vec<ListEntry>,
}

/// One device of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ListEntry {
    pub device_id: DeviceId,
    pub cert_hash: [u8; 32],
}

/// A list of the right layout whose signature nobody checked yet.
pub struct UnverifiedList(DeviceList);

/// How a list that a message names relates to a known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefOrder {
    Same,
    Newer,
    Older,
    /// The same seq with another hash.
    Differs,
}

impl DeviceList {
    /// Parses and checks the signature.
    ///
    /// # Errors
    /// `Unsupported` or `Malformed` for the layout, `BadSignature` for the signature or a weak identity key.
    pub fn verify(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse(bytes)?.verify()
    }

    /// Parses only: for the few rules that come before the signature.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), but for the signature.
    pub fn parse(bytes: &[u8]) -> Result<UnverifiedList, Error> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Error::Unsupported);
        }
        let user_id = *reader.array()?;
        let identity = reader.array()?;
        let (seq, prev, issued) = (reader.u64()?, *reader.array()?, reader.u64()?);
        let count = usize::from(reader.u8()?);
        if !(1..=MAX_DEVICES).contains(&count) || !(1..SEQ_END).contains(&seq) || (prev == [0; 32]) != (seq == 1) {
            return Err(Error::Malformed);
        }
        let mut entries = Vec::with_capacity(count);
        let mut last = 0;
        for _ in 0..count {
            let entry = ListEntry { device_id: reader.u32()?, cert_hash: *reader.array()? };
            if entry.device_id <= last {
                return Err(Error::Malformed);
            }
            last = entry.device_id;
            entries.push(entry);
        }
        reader.array::<SIGNATURE_LEN>()?;
        reader.end()?;
        let identity = VerifyKey::import(identity)?;
        let hash = kdf::hash(&[bytes]);
        Ok(UnverifiedList(Self { bytes: bytes.to_vec(), hash, user_id, identity, seq, prev, issued, entries }))
    }

    /// The list after `previous` (`None`: the first one), signed. The devices may come in any order.
    ///
    /// # Errors
    /// `Limit` for no or more than eight devices; `Malformed` for a device twice or a device 0; `Rejected` when a
    /// certificate or `previous` belongs to another user or identity.
    pub fn sign(
        identity: &SigningKey,
        user_id: UserId,
        previous: Option<&Self>,
        devices: &[&DeviceCert],
        now: Time,
    ) -> Result<Self, Error> {
        let public = identity.public();
        let foreign = |cert: &&DeviceCert| *cert.identity() != public || cert.addr().user_id != user_id;
        if devices.iter().any(foreign) || previous.is_some_and(|list| list.identity != public || list.user_id != user_id) {
            return Err(Error::Rejected);
        }
        if !(1..=MAX_DEVICES).contains(&devices.len()) {
            return Err(Error::Limit);
        }
        let mut devices = devices.to_vec();
        devices.sort_by_key(|cert| cert.addr().device_id);
        let mut writer = Writer::with_capacity(98 + 36 * devices.len() + SIGNATURE_LEN);
        writer.u8(VERSION).bytes(&user_id).bytes(public.as_bytes());
        writer.u64(previous.map_or(1, |list| list.seq.saturating_add(1)));
        writer.bytes(&previous.map_or([0; 32], |list| list.hash)).u64(now).u8(devices.len() as u8);
        for cert in devices {
            writer.u32(cert.addr().device_id).bytes(cert.hash());
        }
        let body = writer.finish();
        let signature = identity.sign(labels::DEVICE_LIST, &[&body]);
        Self::verify(&[&body[..], &signature].concat())
    }

    /// Whether this list is the next one after `previous`, in the order of section 4.3.
    ///
    /// # Errors
    /// `Malformed` for another user, `IdentityChanged`, `OldSeq` (also for `previous` itself), `Gap`, or `Equivocation` for
    /// another list at the same seq or another `prev`.
    pub fn follows(&self, previous: &Self) -> Result<(), Error> {
        if self.user_id != previous.user_id {
            Err(Error::Malformed)
        } else if self.identity != previous.identity {
            Err(Error::IdentityChanged)
        } else if self.seq < previous.seq || self.hash == previous.hash {
            Err(Error::OldSeq)
        } else if self.seq > previous.seq.saturating_add(1) {
            Err(Error::Gap)
        } else if self.seq == previous.seq || self.prev != previous.hash {
            Err(Error::Equivocation)
        } else {
            Ok(())
        }
    }

    /// Whether the list names exactly this certificate.
    pub fn names(&self, cert: &DeviceCert) -> bool {
        *cert.identity() == self.identity
            && cert.addr().user_id == self.user_id
            && self.entry(cert.addr().device_id).is_some_and(|entry| entry.cert_hash == *cert.hash())
    }

    pub fn entry(&self, device_id: DeviceId) -> Option<&ListEntry> {
        self.entries.iter().find(|entry| entry.device_id == device_id)
    }

    /// Ascending by device id, 1 to 8.
    pub fn entries(&self) -> &[ListEntry] {
        &self.entries
    }

    /// The whole list with its signature.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `list_hash`: H of the list with its signature.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// How messages name this list.
    pub fn list_ref(&self) -> ListRef {
        let mut list_ref = [0; 24];
        let (seq, hash) = list_ref.split_at_mut(8);
        seq.copy_from_slice(&self.seq.to_be_bytes());
        hash.iter_mut().zip(&self.hash).for_each(|(to, from)| *to = *from);
        list_ref
    }

    /// How the list that `list_ref` names relates to this one (10.4).
    pub fn compare_ref(&self, list_ref: &ListRef) -> RefOrder {
        let (seq, _) = list_ref.split_first_chunk().unwrap_or((&[0; 8], &[]));
        match u64::from_be_bytes(*seq).cmp(&self.seq) {
            std::cmp::Ordering::Greater => RefOrder::Newer,
            std::cmp::Ordering::Less => RefOrder::Older,
            std::cmp::Ordering::Equal if *list_ref == self.list_ref() => RefOrder::Same,
            std::cmp::Ordering::Equal => RefOrder::Differs,
        }
    }

    pub const fn user_id(&self) -> UserId {
        self.user_id
    }

    pub const fn identity(&self) -> &VerifyKey {
        &self.identity
    }

    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The hash of the list before; zeros for the first.
    pub const fn prev(&self) -> &[u8; 32] {
        &self.prev
    }

    pub const fn issued(&self) -> Time {
        self.issued
    }

    /// From a storage record, which the store authenticates.
    pub(super) fn restore(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse(bytes).map(|list| list.0)
    }
}

impl fmt::Debug for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes: _, hash, user_id, identity, seq, prev: _, issued, entries } = self;
        let devices: Vec<DeviceId> = entries.iter().map(|entry| entry.device_id).collect();
        f.debug_struct("DeviceList")
            .field("user_id", &hex::encode(user_id))
            .field("identity", identity)
            .field("seq", seq)
            .field("hash", &hex::encode(hash))
            .field("issued", issued)
            .field("devices", &devices)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListEntry({}: {})", self.device_id, hex::encode(self.cert_hash))
    }
}

impl UnverifiedList {
    /// What the list claims to be.
    pub const fn claims(&self) -> &DeviceList {
        &self.0
    }

    /// # Errors
    /// `BadSignature`.
    pub fn verify(self) -> Result<DeviceList, Error> {
        let Self(list) = self;
        let (body, signature) = list.bytes.split_last_chunk().ok_or(Error::Malformed)?;
        list.identity.verify(labels::DEVICE_LIST, &[body], signature)?;
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::LocalDevice;
    use crate::crypto::testing::TestRng;

    fn list() -> (LocalDevice, DeviceList) {
        LocalDevice::first([7; 16], 1_000, &mut TestRng::new(1)).unwrap()
    }

    #[test]
    fn a_list_is_read_back_and_every_changed_byte_is_refused() {
        let (_, list) = list();
        assert_eq!(DeviceList::verify(list.as_bytes()), Ok(list.clone()));
        for i in 0..list.as_bytes().len() {
            let mut bytes = list.as_bytes().to_vec();
            bytes[i] ^= 1;
            let error = DeviceList::verify(&bytes).unwrap_err();
            assert!(matches!(error, Error::BadSignature | Error::Malformed | Error::Unsupported), "byte {i}: {error:?}");
        }
        assert_eq!(DeviceList::verify(&list.as_bytes()[1..]).unwrap_err(), Error::Unsupported);
        assert_eq!(DeviceList::verify(&[list.as_bytes(), &[0]].concat()), Err(Error::Malformed));
        assert_eq!(DeviceList::verify(&[]), Err(Error::Malformed));
    }

    #[test]
    fn the_next_list_follows_and_nothing_else_does() {
        let (me, first) = list();
        let identity = me.identity_secret().unwrap();
        let certs = [me.certificate()];
        let second = DeviceList::sign(identity, [7; 16], Some(&first), &certs, 2_000).unwrap();
        let third = DeviceList::sign(identity, [7; 16], Some(&second), &certs, 3_000).unwrap();
        let fork = DeviceList::sign(identity, [7; 16], Some(&first), &certs, 2_001).unwrap();
        assert_eq!((second.seq(), second.prev()), (2, first.hash()));
        assert_eq!(second.follows(&first), Ok(()));
        assert_eq!(third.follows(&first), Err(Error::Gap));
        assert_eq!(first.follows(&second), Err(Error::OldSeq));
        assert_eq!(first.follows(&first), Err(Error::OldSeq));
        assert_eq!(fork.follows(&second), Err(Error::Equivocation));
        assert_eq!(third.follows(&fork), Err(Error::Equivocation));
        let (_, other) = LocalDevice::first([7; 16], 1_000, &mut TestRng::new(2)).unwrap();
        assert_eq!(other.follows(&first), Err(Error::IdentityChanged));
        assert_eq!(second.compare_ref(&second.list_ref()), RefOrder::Same);
        assert_eq!(second.compare_ref(&fork.list_ref()), RefOrder::Differs);
        assert_eq!(second.compare_ref(&third.list_ref()), RefOrder::Newer);
        assert_eq!(second.compare_ref(&first.list_ref()), RefOrder::Older);
    }

    #[test]
    fn a_list_needs_one_to_eight_devices_of_its_own_user() {
        let (me, _) = list();
        let identity = me.identity_secret().unwrap();
        assert_eq!(DeviceList::sign(identity, [7; 16], None, &[], 0), Err(Error::Limit));
        assert_eq!(DeviceList::sign(identity, [7; 16], None, &[me.certificate(); 9], 0), Err(Error::Limit));
        assert_eq!(DeviceList::sign(identity, [7; 16], None, &[me.certificate(); 2], 0), Err(Error::Malformed));
        assert_eq!(DeviceList::sign(identity, [8; 16], None, &[me.certificate()], 0), Err(Error::Rejected));
    }
}
