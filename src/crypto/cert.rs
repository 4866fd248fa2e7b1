//! Device certificates (TC/1 section 4.2): the user identity key vouches for a device, and the device proves that it holds
//! its signing key. A [`DeviceCert`] exists only with both signatures verified. It says nothing of whether the device is
//! still listed: that is [`device_list`](super::device_list)'s part.

use std::fmt;

use super::Time;
use super::dh::DhPublic;
use super::error::Error;
use super::identity::Addr;
use super::kdf;
use super::labels;
use super::signature::{SIGNATURE_LEN, SigningKey, VerifyKey};
use super::wire::{Reader, Writer};

/// The bit of suite 0x0001 in `caps`.
pub const CAPS_SUITE_1: u32 = 1;
const VERSION: u8 = 1;

/// A certificate that verified under `identity`.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceCert {
    bytes: Box<[u8; Self::LEN]>,
    identity: VerifyKey,
    body: CertBody,
    hash: [u8; 32],
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertBody {
    pub addr: Addr,
    pub signing_key: VerifyKey,
    pub dh_key: DhPublic,
    pub created: Time,
    /// Bits 0..15: supported suites (bit i is suite i + 1, bit 0 always set). The others are 0 when issued, ignored when read.
    pub caps: u32,
}

impl DeviceCert {
    /// Bytes of a certificate.
    pub const LEN: usize = CertBody::LEN + 2 * SIGNATURE_LEN;

    /// Parses and checks both signatures.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` for the layout, `BadSignature` for a signature or a weak key.
    pub fn verify(bytes: &[u8], identity: &VerifyKey) -> Result<Self, Error> {
        let (cert, by_user, by_device) = Self::parse(bytes, identity)?;
        let (body, _) = cert.bytes.split_at(CertBody::LEN);
        identity.verify(labels::CERT_USER, &[body], by_user)?;
        cert.body.verify_possession(identity, by_device)?;
        Ok(cert)
    }

    /// A certificate for a device that proved possession of its keys by [`CertBody::prove`].
    ///
    /// # Errors
    /// `BadSignature` when the proof is wrong; `Malformed` for device 0 or without suite 1.
    pub fn issue(identity: &SigningKey, body: &CertBody, proof: &[u8; SIGNATURE_LEN]) -> Result<Self, Error> {
        let bytes = body.to_bytes();
        let by_user = identity.sign(labels::CERT_USER, &[&bytes]);
        Self::verify(&[&bytes[..], &by_user, proof].concat(), &identity.public())
    }

    /// From a storage record, which the store authenticates.
    pub(super) fn restore(bytes: &[u8], identity: &VerifyKey) -> Result<Self, Error> {
        Self::parse(bytes, identity).map(|(cert, ..)| cert)
    }

    /// All 225 bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }

    /// `cert_hash`: H of all bytes.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The identity under which this certificate verified.
    pub const fn identity(&self) -> &VerifyKey {
        &self.identity
    }

    pub const fn addr(&self) -> Addr {
        self.body.addr
    }

    pub const fn signing_key(&self) -> &VerifyKey {
        &self.body.signing_key
    }

    pub const fn dh_key(&self) -> &DhPublic {
        &self.body.dh_key
    }

    pub const fn created(&self) -> Time {
        self.body.created
    }

    /// The suite bits of `caps`.
    pub const fn suites(&self) -> u16 {
        self.body.caps as u16
    }

    #[allow(clippy::type_complexity)] // the certificate with its two signatures, for `verify` alone
    fn parse<'a>(
        bytes: &'a [u8],
        identity: &VerifyKey,
    ) -> Result<(Self, &'a [u8; SIGNATURE_LEN], &'a [u8; SIGNATURE_LEN]), Error> {
        let whole: &[u8; Self::LEN] = bytes.try_into().map_err(|_| Error::Malformed)?;
        let mut reader = Reader::new(bytes);
        let body = CertBody::parse(reader.array()?)?;
        let (by_user, by_device) = (reader.array()?, reader.array()?);
        let cert = Self { bytes: Box::new(*whole), identity: *identity, body, hash: kdf::hash(&[whole]) };
        Ok((cert, by_user, by_device))
    }
}

impl fmt::Debug for DeviceCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes: _, identity, body, hash: _ } = self;
        f.debug_struct("DeviceCert").field("identity", identity).field("body", body).finish_non_exhaustive()
    }
}

impl CertBody {
    /// Bytes of a body.
    pub const LEN: usize = 97;

    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut writer = Writer::with_capacity(Self::LEN);
        writer.u8(VERSION).bytes(&self.addr.to_bytes()).bytes(self.signing_key.as_bytes()).bytes(self.dh_key.as_bytes());
        let bytes = writer.u64(self.created).u32(self.caps).finish();
        let mut body = [0; Self::LEN];
        body.copy_from_slice(&bytes);
        body
    }

    /// # Errors
    /// `Unsupported` for another version, `Malformed` for device 0 or without suite 1, `BadSignature` for a weak signing key.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Error::Unsupported);
        }
        let addr = Addr::read(&mut reader)?;
        let signing_key = VerifyKey::import(reader.array()?)?;
        let dh_key = DhPublic(*reader.array()?);
        let (created, caps) = (reader.u64()?, reader.u32()?);
        if caps & CAPS_SUITE_1 == 0 {
            return Err(Error::Malformed);
        }
        Ok(Self { addr, signing_key, dh_key, created, caps })
    }

    /// `SIGN(DSK, "tc/1 cert-d", body ‖ UIK)`: the device's proof that it holds its signing key.
    pub fn prove(&self, device: &SigningKey, identity: &VerifyKey) -> [u8; SIGNATURE_LEN] {
        device.sign(labels::CERT_DEVICE, &[&self.to_bytes(), identity.as_bytes()])
    }

    /// Checks what [`prove`](Self::prove) made.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify_possession(&self, identity: &VerifyKey, proof: &[u8; SIGNATURE_LEN]) -> Result<(), Error> {
        self.signing_key.verify(labels::CERT_DEVICE, &[&self.to_bytes(), identity.as_bytes()], proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (SigningKey, DeviceCert) {
        let (identity, device) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let body = CertBody {
            addr: Addr::new([3; 16], 7),
            signing_key: device.public(),
            dh_key: DhPublic([4; 32]),
            created: 5,
            caps: CAPS_SUITE_1,
        };
        let cert = DeviceCert::issue(&identity, &body, &body.prove(&device, &identity.public())).unwrap();
        (identity, cert)
    }

    #[test]
    fn a_certificate_verifies_under_its_identity_only() {
        let (identity, cert) = certificate();
        assert_eq!(DeviceCert::verify(cert.as_bytes(), &identity.public()), Ok(cert.clone()));
        let other = SigningKey::from_seed(&[9; 32]).public();
        assert_eq!(DeviceCert::verify(cert.as_bytes(), &other), Err(Error::BadSignature));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (identity, cert) = certificate();
        for i in 0..DeviceCert::LEN {
            let mut bytes = *cert.as_bytes();
            bytes[i] ^= 1;
            let error = DeviceCert::verify(&bytes, &identity.public()).unwrap_err();
            let expected = match i {
                0 => Error::Unsupported,
                // The lowest bit of caps: suite 1.
                96 => Error::Malformed,
                _ => Error::BadSignature,
            };
            assert_eq!(error, expected, "byte {i}");
        }
        assert_eq!(DeviceCert::verify(&cert.as_bytes()[1..], &identity.public()), Err(Error::Malformed));
    }

    #[test]
    fn a_device_cannot_be_certified_without_its_own_signature() {
        let (identity, cert) = certificate();
        let thief = SigningKey::from_seed(&[8; 32]);
        let proof = cert.body.prove(&thief, &identity.public());
        assert_eq!(DeviceCert::issue(&identity, &cert.body, &proof), Err(Error::BadSignature));
    }
}
