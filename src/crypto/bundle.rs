//! What a device publishes so that others can write to it while it is away (TC/1 section 5), and the checks before anybody
//! uses it. The secrets behind it are in [`prekeys`](super::prekeys).

use super::Time;
use super::cert::DeviceCert;
use super::contact::{Contact, Sending};
use super::dh::DhPublic;
use super::error::Error;
use super::frame::KemKind;
use super::identity::{Addr, LocalDevice};
use super::kdf;
use super::kem::{self, KemBytes};
use super::labels::{self, Label};
use super::signature::{SIGNATURE_LEN, VerifyKey};

/// A day in milliseconds.
pub const DAY: Time = 24 * 60 * 60 * 1000;
/// Accepted age of a signed prekey and of a last-resort ML-KEM prekey.
pub const MAX_PREKEY_AGE: Time = 30 * DAY;
/// How far in the future a time of creation may be: clocks differ.
pub const MAX_PREKEY_FUTURE: Time = DAY;

/// SPK: an X25519 prekey that its device signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPrekey {
    pub id: u32,
    pub public: DhPublic,
    pub created: Time,
    pub signature: [u8; SIGNATURE_LEN],
}

/// KPK: an ML-KEM-1024 prekey that its device signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KemPrekey {
    pub kind: KemKind,
    pub id: u32,
    pub public: KemBytes,
    pub created: Time,
    pub signature: [u8; SIGNATURE_LEN],
}

/// OPK: an X25519 prekey that is used once. Not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTimePrekey {
    pub id: u32,
    pub public: DhPublic,
}

/// What the server hands out for one device, beside the user's newest device list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub certificate: Vec<u8>,
    pub signed: SignedPrekey,
    pub kem: KemPrekey,
    pub one_time: Option<OneTimePrekey>,
}

/// A bundle that passed every check: a handshake may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBundle {
    pub(super) certificate: DeviceCert,
    pub(super) signed: SignedPrekey,
    pub(super) kem: KemPrekey,
    pub(super) one_time: Option<OneTimePrekey>,
}

/// The checks of section 5 in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    IdentityAndList,
    Certificate,
    Ids,
    SignedPrekeySignature,
    SignedPrekeyAge,
    KemPrekeySignature,
    KemPrekeyAge,
    KemKey,
}

/// Which check refused a bundle, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step:?}: {error}")]
pub struct BundleError {
    pub step: Step,
    #[source]
    pub error: Error,
}

impl Bundle {
    /// Checks everything that can be checked before the Diffie-Hellman results. The newest list that came with the bundle
    /// was presented to the contact before ([`Contact::present`]); a device with `StaleBundle` is dormant.
    ///
    /// # Errors
    /// The failed step with its error.
    pub fn verify(self, contact: &Contact, now: Time) -> Result<VerifiedBundle, BundleError> {
        let at = |step| move |error| BundleError { step, error };
        if let Sending::Blocked(error) = contact.sending() {
            return Err(BundleError { step: Step::IdentityAndList, error });
        }
        let certificate = DeviceCert::verify(&self.certificate, contact.identity()).map_err(at(Step::Certificate))?;
        if !contact.lists(&certificate) {
            return Err(BundleError { step: Step::Certificate, error: Error::UnverifiedDevice });
        }
        let Self { certificate: _, signed, kem, one_time } = self;
        if signed.id == 0 || kem.id == 0 || one_time.as_ref().is_some_and(|key| key.id == 0) {
            return Err(BundleError { step: Step::Ids, error: Error::Malformed });
        }
        let (addr, key) = (certificate.addr(), certificate.signing_key());
        signed.verify(addr, key).map_err(at(Step::SignedPrekeySignature))?;
        check_age(signed.created, Some(MAX_PREKEY_AGE), now).map_err(at(Step::SignedPrekeyAge))?;
        kem.verify_signature(addr, key).map_err(at(Step::KemPrekeySignature))?;
        let max_age = (kem.kind == KemKind::Last).then_some(MAX_PREKEY_AGE);
        check_age(kem.created, max_age, now).map_err(at(Step::KemPrekeyAge))?;
        kem::check_public_key(&kem.public).map_err(at(Step::KemKey))?;
        Ok(VerifiedBundle { certificate, signed, kem, one_time })
    }
}

impl VerifiedBundle {
    pub const fn certificate(&self) -> &DeviceCert {
        &self.certificate
    }

    /// Without a one-time prekey the first message is weaker against replay and later theft: shown in session info (R10).
    pub const fn has_one_time_prekey(&self) -> bool {
        self.one_time.is_some()
    }
}

impl SignedPrekey {
    pub(super) fn sign(me: &LocalDevice, id: u32, public: DhPublic, created: Time) -> Self {
        let signature = me.signing_key().sign(labels::SIGNED_PREKEY, &signed_parts(me.addr(), id, created, &public.0).each());
        Self { id, public, created, signature }
    }

    /// Checks the device's signature.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify(&self, device: Addr, signing_key: &VerifyKey) -> Result<(), Error> {
        let parts = signed_parts(device, self.id, self.created, &self.public.0);
        signing_key.verify(labels::SIGNED_PREKEY, &parts.each(), &self.signature)
    }
}

impl KemPrekey {
    pub(super) fn sign(me: &LocalDevice, kind: KemKind, id: u32, public: KemBytes, created: Time) -> Self {
        let hash = kdf::hash(&[&*public]);
        let signature = me.signing_key().sign(label(kind), &signed_parts(me.addr(), id, created, &hash).each());
        Self { kind, id, public, created, signature }
    }

    /// Checks the device's signature and that the key is one (FIPS 203, 7.2).
    ///
    /// # Errors
    /// `BadSignature`, or `Malformed` for the key.
    pub fn verify(&self, device: Addr, signing_key: &VerifyKey) -> Result<(), Error> {
        self.verify_signature(device, signing_key)?;
        kem::check_public_key(&self.public)
    }

    fn verify_signature(&self, device: Addr, signing_key: &VerifyKey) -> Result<(), Error> {
        let hash = kdf::hash(&[&*self.public]);
        signing_key.verify(label(self.kind), &signed_parts(device, self.id, self.created, &hash).each(), &self.signature)
    }
}

/// What a prekey signature covers: addr ‖ id ‖ created ‖ the key or its hash.
struct SignedParts {
    addr: [u8; Addr::LEN],
    id: [u8; 4],
    created: [u8; 8],
    key: [u8; 32],
}

impl SignedParts {
    fn each(&self) -> [&[u8]; 4] {
        [&self.addr, &self.id, &self.created, &self.key]
    }
}

fn signed_parts(addr: Addr, id: u32, created: Time, key: &[u8; 32]) -> SignedParts {
    SignedParts { addr: addr.to_bytes(), id: id.to_be_bytes(), created: created.to_be_bytes(), key: *key }
}

/// Once and last resort have their own labels: one cannot stand in for the other (R9).
const fn label(kind: KemKind) -> Label {
    match kind {
        KemKind::Once => labels::KEM_PREKEY_ONCE,
        KemKind::Last => labels::KEM_PREKEY_LAST,
    }
}

fn check_age(created: Time, max_age: Option<Time>, now: Time) -> Result<(), Error> {
    let too_new = created > now.saturating_add(MAX_PREKEY_FUTURE);
    let too_old = max_age.is_some_and(|age| created < now.saturating_sub(age));
    if too_new || too_old { Err(Error::StaleBundle) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::prekeys::PrekeySecrets;
    use crate::crypto::signature::SigningKey;
    use crate::crypto::testing::TestRng;

    const USER: [u8; 16] = [7; 16];
    const NOW: Time = 100 * DAY;

    fn published() -> (LocalDevice, Contact, Bundle) {
        let mut rng = TestRng::new(1);
        let (device, list) = LocalDevice::first(USER, NOW - DAY, &mut rng).unwrap();
        let contact = Contact::first(USER, list.as_bytes(), &[device.certificate().as_bytes()]).unwrap();
        let mut keys = PrekeySecrets::default();
        let (signed, _) = keys.rotate(&device, NOW, &mut rng).unwrap();
        let kem = keys.add_kem(&device, 1, NOW, &mut rng).unwrap().remove(0);
        let one_time = keys.add_one_time(1, &mut rng).unwrap().pop();
        let bundle = Bundle { certificate: device.certificate().as_bytes().to_vec(), signed, kem, one_time };
        (device, contact, bundle)
    }

    #[test]
    fn a_good_bundle_passes() {
        let (device, contact, bundle) = published();
        let verified = bundle.verify(&contact, NOW).unwrap();
        assert_eq!(verified.certificate(), device.certificate());
        assert!(verified.has_one_time_prekey());
    }

    #[test]
    fn each_failed_check_names_its_step() {
        let (device, contact, good) = published();
        let other = SigningKey::from_seed(&[9; 32]);
        let unlisted = {
            let identity = SigningKey::from_seed(device.identity_secret().unwrap().expose_seed());
            LocalDevice::under(identity, Addr::new(USER, 2), NOW, &mut TestRng::new(3)).unwrap()
        };
        let bad_key = Box::new([0xFF; kem::KEM_LEN]);
        type Change<'a> = &'a dyn Fn(&mut Bundle);
        let cases: [(Change<'_>, Step, Error); 10] = [
            (&|b| b.certificate[200] ^= 1, Step::Certificate, Error::BadSignature),
            (&|b| b.certificate = unlisted.certificate().as_bytes().to_vec(), Step::Certificate, Error::UnverifiedDevice),
            (&|b| b.one_time.as_mut().unwrap().id = 0, Step::Ids, Error::Malformed),
            (&|b| b.signed.created += 1, Step::SignedPrekeySignature, Error::BadSignature),
            (&|b| b.signed.signature = other.sign(labels::LOGIN, &[]), Step::SignedPrekeySignature, Error::BadSignature),
            (
                &|b| b.signed = SignedPrekey::sign(&device, 9, b.signed.public, NOW - MAX_PREKEY_AGE - 1),
                Step::SignedPrekeyAge,
                Error::StaleBundle,
            ),
            (
                &|b| b.signed = SignedPrekey::sign(&device, 9, b.signed.public, NOW + MAX_PREKEY_FUTURE + 1),
                Step::SignedPrekeyAge,
                Error::StaleBundle,
            ),
            (&|b| b.kem.kind = KemKind::Last, Step::KemPrekeySignature, Error::BadSignature),
            (
                &|b| b.kem = KemPrekey::sign(&device, KemKind::Last, 9, b.kem.public.clone(), 1),
                Step::KemPrekeyAge,
                Error::StaleBundle,
            ),
            (&|b| b.kem = KemPrekey::sign(&device, KemKind::Once, 9, bad_key.clone(), NOW), Step::KemKey, Error::Malformed),
        ];
        for (change, step, error) in cases {
            let mut bundle = good.clone();
            change(&mut bundle);
            assert_eq!(bundle.verify(&contact, NOW), Err(BundleError { step, error }));
        }
        // A one-time ML-KEM prekey may be old: it is used once.
        let old = KemPrekey::sign(&device, KemKind::Once, 9, good.kem.public.clone(), 1);
        assert!(Bundle { kem: old, ..good.clone() }.verify(&contact, NOW).is_ok());
        let blocked =
            contact.with_trust(crate::crypto::contact::Trust::Verified { when: 1, how: crate::crypto::contact::How::Code });
        let blocked = blocked.with_new_identity(other.public());
        assert_eq!(good.verify(&blocked, NOW), Err(BundleError { step: Step::IdentityAndList, error: Error::IdentityChanged }));
    }
}
