//! Who speaks (TC/1 section 4.1): addresses, the user identity key (UIK), and a device with its signing key (DSK) and DH
//! key (DHK). The three are independent keys. Start at [`LocalDevice`].

use std::fmt;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::Time;
use super::cert::{self, CertBody, DeviceCert};
use super::device_list::DeviceList;
use super::dh::DhKeyPair;
use super::error::Error;
use super::kdf;
use super::labels;
use super::secret::Secret;
use super::signature::{SIGNATURE_LEN, SigningKey, VerifyKey};
use super::wire::{Reader, Writer};

/// A UUID's 16 bytes.
pub type UserId = [u8; 16];
/// 1, 2, 3 … within one identity; never 0.
pub type DeviceId = u32;

/// The version of [`LocalDevice`]'s storage form.
const RECORD: u8 = 1;

/// `addr`: one device of one user, 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    pub user_id: UserId,
    pub device_id: DeviceId,
}

impl Addr {
    /// Bytes of an address.
    pub const LEN: usize = 20;

    pub const fn new(user_id: UserId, device_id: DeviceId) -> Self {
        Self { user_id, device_id }
    }

    /// user_id ‖ device_id.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (user, device) = bytes.split_at_mut(16);
        user.copy_from_slice(&self.user_id);
        device.copy_from_slice(&self.device_id.to_be_bytes());
        bytes
    }

    /// # Errors
    /// `Malformed` for device 0.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let addr = Self { user_id: *reader.array()?, device_id: reader.u32()? };
        if addr.device_id == 0 { Err(Error::Malformed) } else { Ok(addr) }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addr({}/{})", hex::encode(self.user_id), self.device_id)
    }
}

/// The fingerprint of an identity: 64 lowercase hex digits of `H(UIK)`.
pub fn fingerprint(identity: &VerifyKey) -> String {
    hex::encode(kdf::hash(&[identity.as_bytes()]))
}

/// This device with its secrets.
pub struct LocalDevice {
    identity: VerifyKey,
    identity_secret: Option<SigningKey>,
    signing: SigningKey,
    dh: DhKeyPair,
    certificate: DeviceCert,
}

impl LocalDevice {
    /// The first device of a new identity with its list of seq 1. Draws UIK seed, DSK seed, DHK secret.
    ///
    /// # Errors
    /// None in practice: its own signatures verify.
    pub fn first<R: CryptoRng + ?Sized>(user_id: UserId, now: Time, rng: &mut R) -> Result<(Self, DeviceList), Error> {
        let identity = SigningKey::random(rng);
        let device = Self::under(identity, Addr::new(user_id, 1), now, rng)?;
        let secret = device.identity_secret.as_ref().ok_or(Error::Rejected)?;
        let list = DeviceList::sign(secret, user_id, None, &[&device.certificate], now)?;
        Ok((device, list))
    }

    /// A further primary device of a known identity, as after recovery. Its id is 1 + the largest ever used; the caller
    /// publishes a list that names it. Draws DSK seed, DHK secret.
    ///
    /// # Errors
    /// `Malformed` for device 0.
    pub fn under<R: CryptoRng + ?Sized>(identity: SigningKey, addr: Addr, now: Time, rng: &mut R) -> Result<Self, Error> {
        let (signing, dh) = (SigningKey::random(rng), DhKeyPair::random(rng));
        let body = CertBody { addr, signing_key: signing.public(), dh_key: dh.public(), created: now, caps: cert::CAPS_SUITE_1 };
        let proof = body.prove(&signing, &identity.public());
        let certificate = DeviceCert::issue(&identity, &body, &proof)?;
        Ok(Self { identity: identity.public(), identity_secret: Some(identity), signing, dh, certificate })
    }

    pub const fn addr(&self) -> Addr {
        self.certificate.addr()
    }

    /// UIK, public.
    pub const fn identity(&self) -> &VerifyKey {
        &self.identity
    }

    /// UIK, secret: held by a *primary* device only.
    pub const fn identity_secret(&self) -> Option<&SigningKey> {
        self.identity_secret.as_ref()
    }

    pub const fn is_primary(&self) -> bool {
        self.identity_secret.is_some()
    }

    /// DSK. Signs prekeys, logins and ops of membership logs.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// DHK.
    pub const fn dh_key(&self) -> &DhKeyPair {
        &self.dh
    }

    pub const fn certificate(&self) -> &DeviceCert {
        &self.certificate
    }

    /// `SIGN(DSK, "tc/1 login", session_id ‖ addr)`: this device takes over a session of the server (`protocol.md` 9.27).
    pub fn sign_login(&self, session_id: &[u8; 16]) -> [u8; SIGNATURE_LEN] {
        self.signing.sign(labels::LOGIN, &[session_id, &self.addr().to_bytes()])
    }

    /// The storage form, with all secrets.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::with_capacity(1 + 32 + 33 + 32 + 32 + DeviceCert::LEN);
        writer.u8(RECORD).bytes(self.identity.as_bytes());
        writer.option(self.identity_secret.as_ref(), |writer, secret| {
            writer.bytes(secret.expose_seed());
        });
        writer.bytes(self.signing.expose_seed()).bytes(self.dh.expose_secret());
        writer.bytes(self.certificate.as_bytes()).finish()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, `Malformed` for one that is broken.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        if reader.u8()? != RECORD {
            return Err(Error::Unsupported);
        }
        let identity = VerifyKey::import(reader.array()?)?;
        let identity_secret = reader.option(Reader::array)?.map(SigningKey::from_seed);
        let signing = SigningKey::from_seed(reader.array()?);
        let dh = DhKeyPair::from_secret(Secret::copy_of(reader.array()?));
        let certificate = DeviceCert::restore(reader.array::<{ DeviceCert::LEN }>()?, &identity)?;
        reader.end()?;
        if *certificate.signing_key() != signing.public() || *certificate.dh_key() != dh.public() {
            return Err(Error::Malformed);
        }
        Ok(Self { identity, identity_secret, signing, dh, certificate })
    }
}

impl fmt::Debug for LocalDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity: _, identity_secret, signing: _, dh: _, certificate } = self;
        f.debug_struct("LocalDevice")
            .field("primary", &identity_secret.is_some())
            .field("certificate", certificate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::TestRng;

    #[test]
    fn a_device_is_restored_from_its_record() {
        let (device, _) = LocalDevice::first([1; 16], 5, &mut TestRng::new(1)).unwrap();
        let record = device.to_record();
        let again = LocalDevice::from_record(&record).unwrap();
        assert_eq!(*again.to_record(), *record);
        assert_eq!(again.certificate(), device.certificate());
        assert_eq!(LocalDevice::from_record(&record[1..]).unwrap_err(), Error::Unsupported);
        assert_eq!(LocalDevice::from_record(&record[..record.len() - 1]).unwrap_err(), Error::Malformed);
    }

    #[test]
    fn debug_shows_no_secret() {
        let (device, _) = LocalDevice::first([1; 16], 5, &mut TestRng::new(1)).unwrap();
        let text = format!("{device:?}");
        let secrets = [device.identity_secret().unwrap().expose_seed(), device.signing.expose_seed(), device.dh.expose_secret()];
        for secret in secrets {
            assert!(!text.contains(&hex::encode(secret)), "{text}");
        }
    }

    #[test]
    fn an_address_is_twenty_bytes_and_has_a_device() {
        let addr = Addr::new([9; 16], 0x0102_0304);
        let bytes = addr.to_bytes();
        assert_eq!(bytes[16..], [1, 2, 3, 4]);
        assert_eq!(Addr::read(&mut Reader::new(&bytes)), Ok(addr));
        assert_eq!(Addr::read(&mut Reader::new(&[0; 20])), Err(Error::Malformed));
    }
}
