//! What a client remembers of one user and what it accepts next (TC/1 sections 4.3, 14.2, 14.3): the pinned identity key,
//! the newest verified device list, every device's signing key, and whether something is wrong. Pure state: presenting a
//! list gives the next [`Contact`] or an error and changes nothing. Start at [`Contact::present`].
//!
//! The store keeps all lists and certificates ever seen, because membership logs refer to old ones; a contact holds those of
//! the pinned list only.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::Time;
use super::cert::DeviceCert;
use super::device_list::DeviceList;
use super::error::Error;
use super::identity::{DeviceId, UserId};
use super::signature::VerifyKey;
use super::wire::{Reader, Writer};

const RECORD: u8 = 1;

/// The pins of one user; the own user is one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    list: DeviceList,
    certificates: BTreeMap<DeviceId, DeviceCert>,
    /// Every device id ever seen under this identity, removed ones too: an id never comes back with another key.
    devices: BTreeMap<DeviceId, KnownDevice>,
    trust: Trust,
    stop: Option<Stop>,
    new_identity: Option<VerifyKey>,
}

/// Whether the users compared their safety numbers (14.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    #[default]
    Unverified,
    Verified {
        when: Time,
        how: How,
    },
}

/// How safety numbers were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Digits = 1,
    Code = 2,
}

/// Two signed lists that exclude each other: the server's doing, or a stolen key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub pinned: Vec<u8>,
    pub other: Vec<u8>,
}

/// What presenting a list came to. Everything but `Unchanged` holds the state to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// The pinned list again.
    Unchanged,
    /// The next list: verified and pinned. Sessions of removed devices are deleted at once.
    Pinned { contact: Contact, added: Vec<DeviceId>, removed: Vec<DeviceId> },
    /// `Equivocation`: nothing is sent until the user decides (`/trust`); both lists are kept.
    Stopped(Contact),
    /// `IdentityChanged`: the old pin stays, the new key is noted (14.3).
    IdentityChanged(Contact),
}

/// May a message go to this contact?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Allowed,
    /// Another identity key was seen for a contact who was never verified: ask once.
    AskFirst,
    /// `Equivocation`, or `IdentityChanged` for a verified contact.
    Blocked(Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownDevice {
    signing_key: VerifyKey,
    suites: u16,
}

impl Contact {
    /// Trust on first use: pins what the server says, unverified. `list` is the newest list at any seq, `certificates` those
    /// that it names (others are ignored).
    ///
    /// # Errors
    /// `Malformed` for a list of another user, `UnverifiedDevice` without a certificate of the list, and as
    /// [`DeviceList::verify`] and [`DeviceCert::verify`].
    pub fn first<C: AsRef<[u8]>>(user_id: UserId, list: &[u8], certificates: &[C]) -> Result<Self, Error> {
        let list = DeviceList::verify(list)?;
        if list.user_id() != user_id {
            return Err(Error::Malformed);
        }
        Self {
            list: list.clone(),
            certificates: BTreeMap::new(),
            devices: BTreeMap::new(),
            trust: Trust::Unverified,
            stop: None,
            new_identity: None,
        }
        .adopt(list, certificates)
    }

    /// Judges a list for this user, in the order of section 4.3. Several lists are presented oldest first.
    ///
    /// # Errors
    /// `Equivocation` (also for every list of a stopped contact), `OldSeq`: ignore; `Gap`: fetch the lists between;
    /// `BadSignature` also for a device id that came back with another key; `Rejected` when a device lost a suite (R22);
    /// `UnverifiedDevice` without a certificate that the list names; `Malformed`, `Unsupported`.
    pub fn present<C: AsRef<[u8]>>(&self, list: &[u8], certificates: &[C]) -> Result<Presented, Error> {
        let unverified = DeviceList::parse(list)?;
        let claims = unverified.claims();
        if claims.user_id() != self.user_id() {
            return Err(Error::Malformed);
        }
        if claims.identity() != self.identity() {
            let identity = *unverified.verify()?.identity();
            return Ok(Presented::IdentityChanged(Self { new_identity: Some(identity), ..self.clone() }));
        }
        if self.stop.is_some() {
            return Err(Error::Equivocation);
        }
        if claims.hash() == self.list.hash() {
            return Ok(Presented::Unchanged);
        }
        let judged = claims.follows(&self.list);
        if let Err(error @ (Error::OldSeq | Error::Gap)) = judged {
            return Err(error);
        }
        // Only what the identity key signed can pin or stop.
        let list = unverified.verify()?;
        if judged.is_err() {
            let stop = Stop { pinned: self.list.as_bytes().to_vec(), other: list.as_bytes().to_vec() };
            return Ok(Presented::Stopped(Self { stop: Some(stop), ..self.clone() }));
        }
        let contact = self.clone().adopt(list, certificates)?;
        let added = missing_in(&contact.list, &self.list);
        let removed = missing_in(&self.list, &contact.list);
        Ok(Presented::Pinned { contact, added, removed })
    }

    /// `/trust` after a stop: the newest list under the same identity becomes the pin. It may be of the other branch, so a device id
    /// may stand for another device than before: such a one counts as removed and as added.
    ///
    /// # Errors
    /// `Rejected` when nothing stopped the contact: lists are [presented](Self::present) then. `IdentityChanged` for another
    /// identity, `OldSeq` for a list from before the pinned one; else as [`first`](Self::first).
    pub fn resume<C: AsRef<[u8]>>(&self, list: &[u8], certificates: &[C]) -> Result<Presented, Error> {
        let list = DeviceList::verify(list)?;
        if list.user_id() != self.user_id() {
            return Err(Error::Malformed);
        }
        if list.identity() != self.identity() {
            return Err(Error::IdentityChanged);
        }
        if self.stop.is_none() {
            return Err(Error::Rejected);
        }
        if list.seq() < self.list.seq() {
            return Err(Error::OldSeq);
        }
        let mut contact = Self { stop: None, ..self.clone() };
        contact.devices.retain(|id, _| list.entry(*id).is_none());
        let contact = contact.adopt(list, certificates)?;
        let (added, removed) = (not_in(&contact, self), not_in(self, &contact));
        Ok(Presented::Pinned { contact, added, removed })
    }

    /// `/trust` after an identity change: pin, device ids and list chain start anew, unverified. The caller deletes the
    /// sessions of the old identity.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn accept_identity<C: AsRef<[u8]>>(&self, list: &[u8], certificates: &[C]) -> Result<Self, Error> {
        Self::first(self.user_id(), list, certificates)
    }

    /// The user compared safety numbers, or took that back. It holds for the pinned identity only.
    #[must_use]
    pub fn with_trust(&self, trust: Trust) -> Self {
        Self { trust, ..self.clone() }
    }

    /// Another identity key was claimed for this user, for example by a held first message (6, step 3).
    #[must_use]
    pub fn with_new_identity(&self, identity: VerifyKey) -> Self {
        Self { new_identity: (identity != *self.identity()).then_some(identity), ..self.clone() }
    }

    /// The certificate of a current device.
    pub fn certificate(&self, device_id: DeviceId) -> Option<&DeviceCert> {
        self.certificates.get(&device_id)
    }

    /// The current devices, ascending by id. Keys for this user go to these and to nobody else (R1).
    pub fn certificates(&self) -> impl Iterator<Item = &DeviceCert> {
        self.certificates.values()
    }

    /// The certificate is the very one that the pinned list names.
    pub fn lists(&self, cert: &DeviceCert) -> bool {
        self.list.names(cert)
    }

    pub const fn sending(&self) -> Sending {
        match (&self.stop, &self.new_identity, self.trust) {
            (Some(_), ..) => Sending::Blocked(Error::Equivocation),
            (None, Some(_), Trust::Verified { .. }) => Sending::Blocked(Error::IdentityChanged),
            (None, Some(_), Trust::Unverified) => Sending::AskFirst,
            (None, None, _) => Sending::Allowed,
        }
    }

    pub const fn user_id(&self) -> UserId {
        self.list.user_id()
    }

    /// The pinned UIK.
    pub const fn identity(&self) -> &VerifyKey {
        self.list.identity()
    }

    /// The pinned list.
    pub const fn list(&self) -> &DeviceList {
        &self.list
    }

    pub const fn trust(&self) -> Trust {
        self.trust
    }

    /// The evidence of a stop.
    pub const fn stop(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// The identity key that somebody claims is the new one.
    pub const fn new_identity(&self) -> Option<&VerifyKey> {
        self.new_identity.as_ref()
    }

    /// The largest device id ever seen; a new device gets the next one.
    pub fn max_device_id(&self) -> DeviceId {
        self.devices.keys().next_back().copied().unwrap_or(0)
    }

    /// The storage form. It holds no secret.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let Self { list, certificates, devices, trust, stop, new_identity } = self;
        let mut writer = Writer::with_capacity(1024 + certificates.len() * DeviceCert::LEN + devices.len() * 38);
        writer.u8(RECORD).long(list.as_bytes()).count(certificates.len());
        for cert in certificates.values() {
            writer.bytes(cert.as_bytes());
        }
        writer.count(devices.len());
        for (id, device) in devices {
            writer.u32(*id).bytes(device.signing_key.as_bytes()).u16(device.suites);
        }
        let verified = match *trust {
            Trust::Unverified => None,
            Trust::Verified { when, how } => Some((when, how)),
        };
        writer.option(verified, |writer, (when, how)| {
            writer.u64(when).u8(how as u8);
        });
        writer.option(stop.as_ref(), |writer, stop| {
            writer.long(&stop.pinned).long(&stop.other);
        });
        writer.option(new_identity.as_ref(), |writer, key| {
            writer.bytes(key.as_bytes());
        });
        writer.finish()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, else as for broken lists and certificates.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        if reader.u8()? != RECORD {
            return Err(Error::Unsupported);
        }
        let list = DeviceList::restore(reader.long()?)?;
        let mut certificates = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let cert = DeviceCert::restore(reader.bytes(DeviceCert::LEN)?, list.identity())?;
            certificates.insert(cert.addr().device_id, cert);
        }
        let mut devices = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let id = reader.u32()?;
            devices.insert(id, KnownDevice { signing_key: VerifyKey::import(reader.array()?)?, suites: reader.u16()? });
        }
        let verified = reader.option(|reader| {
            let when = reader.u64()?;
            let how = How::try_from(u32::from(reader.u8()?))?;
            Ok(Trust::Verified { when, how })
        })?;
        let stop = reader.option(|reader| Ok(Stop { pinned: reader.long()?.to_vec(), other: reader.long()?.to_vec() }))?;
        let new_identity = reader.option(|reader| VerifyKey::import(reader.array()?))?;
        reader.end()?;
        Ok(Self { list, certificates, devices, trust: verified.unwrap_or_default(), stop, new_identity })
    }

    /// Takes a verified list as the pin, with the certificates that it names: given ones, or kept from before.
    fn adopt<C: AsRef<[u8]>>(mut self, list: DeviceList, given: &[C]) -> Result<Self, Error> {
        let mut certificates = BTreeMap::new();
        for entry in list.entries() {
            let kept = self.certificates.get(&entry.device_id).filter(|cert| *cert.hash() == entry.cert_hash);
            let cert = match kept {
                Some(cert) => cert.clone(),
                None => {
                    let bytes = given.iter().find(|cert| super::kdf::hash(&[cert.as_ref()]) == entry.cert_hash);
                    DeviceCert::verify(bytes.ok_or(Error::UnverifiedDevice)?.as_ref(), list.identity())?
                }
            };
            if cert.addr().user_id != list.user_id() || cert.addr().device_id != entry.device_id {
                return Err(Error::BadSignature);
            }
            certificates.insert(entry.device_id, cert);
        }
        for (&id, cert) in &certificates {
            let known = KnownDevice { signing_key: *cert.signing_key(), suites: cert.suites() };
            match self.devices.insert(id, known) {
                Some(before) if before.signing_key != known.signing_key => return Err(Error::BadSignature),
                Some(before) if before.suites & !known.suites != 0 => return Err(Error::Rejected),
                _ => {}
            }
        }
        Ok(Self { list, certificates, ..self })
    }
}

impl TryFrom<u32> for How {
    type Error = Error;

    /// The numbers of `Verified.how` (9.1).
    fn try_from(how: u32) -> Result<Self, Error> {
        match how {
            1 => Ok(Self::Digits),
            2 => Ok(Self::Code),
            _ => Err(Error::Malformed),
        }
    }
}

/// The devices of `contact` that `other` does not know by the same signing key.
fn not_in(contact: &Contact, other: &Contact) -> Vec<DeviceId> {
    let known = |cert: &DeviceCert| {
        other.certificate(cert.addr().device_id).is_some_and(|other| other.signing_key() == cert.signing_key())
    };
    contact.certificates().filter(|cert| !known(cert)).map(|cert| cert.addr().device_id).collect()
}

/// The devices of `list` that `other` does not have.
fn missing_in(list: &DeviceList, other: &DeviceList) -> Vec<DeviceId> {
    list.entries().iter().map(|entry| entry.device_id).filter(|id| other.entry(*id).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cert::CertBody;
    use crate::crypto::identity::{Addr, LocalDevice};
    use crate::crypto::signature::SigningKey;
    use crate::crypto::testing::TestRng;

    const USER: UserId = [7; 16];

    struct Account {
        phone: LocalDevice,
        laptop: LocalDevice,
        first: DeviceList,
    }

    impl Account {
        fn new(seed: u64) -> Self {
            let mut rng = TestRng::new(seed);
            let (phone, first) = LocalDevice::first(USER, 1, &mut rng).unwrap();
            let identity = SigningKey::from_seed(phone.identity_secret().unwrap().expose_seed());
            let laptop = LocalDevice::under(identity, Addr::new(USER, 2), 2, &mut rng).unwrap();
            Self { phone, laptop, first }
        }

        fn sign(&self, previous: &DeviceList, devices: &[&DeviceCert], now: Time) -> DeviceList {
            DeviceList::sign(self.phone.identity_secret().unwrap(), USER, Some(previous), devices, now).unwrap()
        }

        fn both(&self) -> [&DeviceCert; 2] {
            [self.phone.certificate(), self.laptop.certificate()]
        }

        fn pinned(&self) -> Contact {
            Contact::first(USER, self.first.as_bytes(), &[self.phone.certificate().as_bytes()]).unwrap()
        }
    }

    #[test]
    fn the_next_list_is_pinned_and_names_what_came_and_went() {
        let account = Account::new(1);
        let contact = account.pinned();
        let second = account.sign(&account.first, &account.both(), 3);
        let certs = [account.laptop.certificate().as_bytes()];
        let Presented::Pinned { contact, added, removed } = contact.present(second.as_bytes(), &certs).unwrap() else {
            panic!("not pinned")
        };
        assert_eq!((added, removed, contact.list()), (vec![2], vec![], &second));
        let third = account.sign(&second, &[account.laptop.certificate()], 4);
        let Presented::Pinned { contact, added, removed } = contact.present(third.as_bytes(), &[[]; 0]).unwrap() else {
            panic!("not pinned")
        };
        assert_eq!((added, removed, contact.max_device_id()), (vec![], vec![1], 2));
        assert!(contact.certificate(1).is_none() && contact.lists(account.laptop.certificate()));
        assert_eq!(contact.sending(), Sending::Allowed);
        assert_eq!(Contact::from_record(&contact.to_record()), Ok(contact));
    }

    #[test]
    fn known_old_and_distant_lists_change_nothing() {
        let account = Account::new(1);
        let second = account.sign(&account.first, &account.both(), 3);
        let third = account.sign(&second, &account.both(), 4);
        let certs = account.both().map(DeviceCert::as_bytes);
        let contact = Contact::first(USER, second.as_bytes(), &certs).unwrap();
        assert_eq!(contact.present(second.as_bytes(), &certs), Ok(Presented::Unchanged));
        assert_eq!(contact.present(account.first.as_bytes(), &certs), Err(Error::OldSeq));
        assert_eq!(account.pinned().present(third.as_bytes(), &certs), Err(Error::Gap));
        assert_eq!(account.pinned().present(second.as_bytes(), &[[]; 0]), Err(Error::UnverifiedDevice));
    }

    #[test]
    fn two_signed_lists_with_one_seq_stop_the_contact_until_the_user_trusts_one() {
        let account = Account::new(1);
        let second = account.sign(&account.first, &account.both(), 3);
        let fork = account.sign(&account.first, &account.both(), 4);
        let after_fork = account.sign(&fork, &account.both(), 5);
        let certs = account.both().map(DeviceCert::as_bytes);
        let contact = Contact::first(USER, second.as_bytes(), &certs).unwrap();
        for other in [&fork, &after_fork] {
            let Presented::Stopped(stopped) = contact.present(other.as_bytes(), &certs).unwrap() else { panic!("goes on") };
            assert_eq!(stopped.sending(), Sending::Blocked(Error::Equivocation));
            let evidence = Stop { pinned: second.as_bytes().to_vec(), other: other.as_bytes().to_vec() };
            assert_eq!(stopped.stop(), Some(&evidence));
            assert_eq!(stopped.present(second.as_bytes(), &certs), Err(Error::Equivocation));
            assert_eq!(Contact::from_record(&stopped.to_record()).as_ref(), Ok(&stopped));
            let Presented::Pinned { contact: resumed, added, removed } = stopped.resume(after_fork.as_bytes(), &certs).unwrap()
            else {
                panic!("not pinned")
            };
            assert_eq!((resumed.list(), resumed.sending()), (&after_fork, Sending::Allowed));
            assert_eq!((added, removed), (vec![], vec![]));
            assert_eq!(stopped.resume(account.first.as_bytes(), &certs), Err(Error::OldSeq));
            assert_eq!(resumed.resume(after_fork.as_bytes(), &certs), Err(Error::Rejected), "it is not stopped");
        }
        // A list that the identity did not sign proves nothing.
        let mut forged = fork.as_bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(contact.present(&forged, &certs), Err(Error::BadSignature));
    }

    #[test]
    fn the_other_branch_may_have_another_device_under_one_id() {
        let account = Account::new(1);
        let identity = || SigningKey::from_seed(account.phone.identity_secret().unwrap().expose_seed());
        let thief = LocalDevice::under(identity(), Addr::new(USER, 2), 2, &mut TestRng::new(9)).unwrap();
        let stolen = account.sign(&account.first, &[account.phone.certificate(), thief.certificate()], 3);
        let honest = account.sign(&account.first, &account.both(), 4);
        let certs = [account.phone.certificate(), account.laptop.certificate(), thief.certificate()].map(DeviceCert::as_bytes);
        let contact = Contact::first(USER, stolen.as_bytes(), &certs).unwrap();
        let Presented::Stopped(stopped) = contact.present(honest.as_bytes(), &certs).unwrap() else { panic!("goes on") };
        let Presented::Pinned { contact, added, removed } = stopped.resume(honest.as_bytes(), &certs).unwrap() else {
            panic!("not pinned")
        };
        assert_eq!((contact.list(), added, removed), (&honest, vec![2], vec![2]));
        assert!(contact.lists(account.laptop.certificate()) && !contact.lists(thief.certificate()));
    }

    #[test]
    fn another_identity_is_noted_and_blocks_a_verified_contact() {
        let (account, other) = (Account::new(1), Account::new(2));
        let certs = [other.phone.certificate().as_bytes()];
        let present = |contact: &Contact| match contact.present(other.first.as_bytes(), &certs) {
            Ok(Presented::IdentityChanged(contact)) => contact,
            outcome => panic!("{outcome:?}"),
        };
        let unverified = present(&account.pinned());
        assert_eq!((unverified.sending(), unverified.identity()), (Sending::AskFirst, account.phone.identity()));
        let verified = present(&account.pinned().with_trust(Trust::Verified { when: 9, how: How::Digits }));
        assert_eq!(verified.sending(), Sending::Blocked(Error::IdentityChanged));
        assert_eq!(verified.new_identity(), Some(other.phone.identity()));
        assert_eq!(Contact::from_record(&verified.to_record()).as_ref(), Ok(&verified));
        let accepted = verified.accept_identity(other.first.as_bytes(), &certs).unwrap();
        assert_eq!((accepted.sending(), accepted.trust()), (Sending::Allowed, Trust::Unverified));
        assert_eq!(accepted.identity(), other.phone.identity());
    }

    #[test]
    fn a_device_id_never_comes_back_with_another_key_or_with_fewer_suites() {
        let account = Account::new(1);
        let identity = account.phone.identity_secret().unwrap();
        let issue = |device: &LocalDevice, signing: &SigningKey, caps| {
            let addr = device.addr();
            let body = CertBody { addr, signing_key: signing.public(), dh_key: device.dh_key().public(), created: 9, caps };
            DeviceCert::issue(identity, &body, &body.prove(signing, &identity.public())).unwrap()
        };
        let contact = account.pinned();
        let thief = issue(&account.phone, &SigningKey::from_seed(&[9; 32]), 1);
        let list = account.sign(&account.first, &[&thief], 3);
        assert_eq!(contact.present(list.as_bytes(), &[thief.as_bytes()]), Err(Error::BadSignature));

        let newer = issue(&account.phone, account.phone.signing_key(), 3);
        let second = account.sign(&account.first, &[&newer], 3);
        let Presented::Pinned { contact, .. } = contact.present(second.as_bytes(), &[newer.as_bytes()]).unwrap() else {
            panic!("not pinned")
        };
        let third = account.sign(&second, &[account.phone.certificate()], 4);
        let old = [account.phone.certificate().as_bytes()];
        assert_eq!(contact.present(third.as_bytes(), &old), Err(Error::Rejected));
    }
}
