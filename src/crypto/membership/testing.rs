//! For tests: people with one device each, and their public objects.

use std::collections::BTreeMap;

use super::super::device_list::DeviceList;
use super::super::identity::{LocalDevice, UserId};
use super::super::testing::TestRng;
use super::{CertSource, Change, Hash, Identity, Log, LogId, LogKind, Signer};

pub(crate) const LOG: LogId = [0x10; 16];
pub(crate) const NOW: u64 = 1_790_000_000_000;

/// A user with a first device.
pub(crate) struct Person {
    pub(crate) device: LocalDevice,
    pub(crate) list: DeviceList,
}

impl Person {
    pub(crate) fn new(number: u8) -> Self {
        let (device, list) = LocalDevice::first([number; 16], NOW, &mut TestRng::new(number.into())).unwrap();
        Self { device, list }
    }

    pub(crate) fn id(&self) -> UserId {
        self.device.addr().user_id
    }

    pub(crate) fn identity(&self) -> Identity {
        *self.device.identity().as_bytes()
    }

    pub(crate) fn signer(&self) -> Signer<'_> {
        Signer::new(&self.device, self.list.seq())
    }
}

/// What the server serves of everybody.
#[derive(Clone, Default)]
pub(crate) struct Certs {
    certs: BTreeMap<Hash, Vec<u8>>,
    lists: BTreeMap<(UserId, Identity, u64), Vec<u8>>,
}

impl Certs {
    pub(crate) fn of<'a>(people: impl IntoIterator<Item = &'a Person>) -> Self {
        let mut certs = Self::default();
        for person in people {
            certs.insert_cert(person.device.certificate().as_bytes());
            certs.insert_list(person.list.as_bytes());
        }
        certs
    }

    pub(crate) fn insert_cert(&mut self, cert: &[u8]) {
        self.certs.insert(super::super::kdf::hash(&[cert]), cert.to_vec());
    }

    pub(crate) fn insert_list(&mut self, list: &[u8]) {
        let parsed = DeviceList::verify(list).unwrap();
        self.lists.insert((parsed.user_id(), *parsed.identity().as_bytes(), parsed.seq()), list.to_vec());
    }
}

impl CertSource for Certs {
    fn cert(&self, cert_hash: &Hash) -> Option<Vec<u8>> {
        self.certs.get(cert_hash).cloned()
    }

    fn list(&self, user: &UserId, identity: &Identity, seq: u64) -> Option<Vec<u8>> {
        self.lists.get(&(*user, *identity, seq)).cloned()
    }
}

/// A log that `owner` made, with its first operation.
pub(crate) fn started(owner: &Person, kind: LogKind, certs: &Certs) -> (Log, Vec<u8>) {
    let genesis = Log::create(LOG, kind, &owner.signer(), owner.device.identity(), &mut TestRng::new(99), NOW);
    (Log::start(&LOG, &genesis, None, certs).unwrap(), genesis)
}

/// Signs and applies, and gives back the operation.
pub(crate) fn act(log: &mut Log, actor: &Person, change: &Change, certs: &Certs) -> Vec<u8> {
    let op = log.sign(&actor.signer(), change, NOW).unwrap();
    log.apply(&op, certs).unwrap();
    op
}
