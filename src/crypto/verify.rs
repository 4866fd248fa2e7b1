//! The one door through which the server enters this folder: checks of public signatures and of outer forms. Nothing here
//! takes or makes a secret. The server checks so that mistakes show early and junk does not spread; clients believe only
//! their own checks (TC/1 section 18).
//!
//! A published list: [`DeviceList::verify`], then [`DeviceList::follows`] the newest stored one, then [`check_list_certificates`].
//! A prekey: [`SignedPrekey::verify`], [`KemPrekey::verify`]. A session of a device: [`check_login`]. A ciphertext:
//! [`Frame::parse`], which includes the padded size. An operation of a membership log: [`Op::parse`] to see whether it is the one of this
//! route, path and device, then [`Log::from_record`] of the stored state and [`Log::apply`]; the first one: [`Log::start`].

pub use super::bundle::{KemPrekey, OneTimePrekey, SignedPrekey};
pub use super::cert::{CertBody, DeviceCert};
pub use super::device_list::{DeviceList, ListEntry, UnverifiedList};
pub use super::dh::DhPublic;
pub use super::error::Error;
pub use super::frame::{ChannelFrame, DmFrame, Frame, Handshake, KemKind, MAX_FRAME, WIRE_NONCE_LEN};
pub use super::identity::{Addr, DeviceId, UserId, fingerprint};
pub use super::kem::{KEM_LEN, KemBytes};
pub use super::membership::{
    CertSource, Change, ChannelState, Conflict, InvitePolicy, InviteProof, Log, LogKind, Member, Op, Role,
};
pub use super::padding::is_padded_size;
pub use super::signature::{SIGNATURE_LEN, VerifyKey};

use super::labels;

/// Checks that every device of a verified list has its certificate among `certificates`, all verified, none foreign.
///
/// # Errors
/// `UnverifiedDevice` when one is missing; `BadSignature` or a layout error for a wrong one.
pub fn check_list_certificates<C: AsRef<[u8]>>(list: &DeviceList, certificates: &[C]) -> Result<Vec<DeviceCert>, Error> {
    let certificates: Vec<DeviceCert> =
        certificates.iter().map(|cert| DeviceCert::verify(cert.as_ref(), list.identity())).collect::<Result<_, _>>()?;
    list.entries()
        .iter()
        .map(|entry| {
            let named = |cert: &&DeviceCert| cert.addr().device_id == entry.device_id && list.names(cert);
            certificates.iter().find(named).cloned().ok_or(Error::UnverifiedDevice)
        })
        .collect()
}

/// Checks `SIGN(DSK, "tc/1 login", session_id ‖ addr)`: the device, not only the password, takes over a session
/// (`protocol.md` 9.27).
///
/// # Errors
/// `BadSignature`.
pub fn check_login(device: &DeviceCert, session_id: &[u8; 16], signature: &[u8; SIGNATURE_LEN]) -> Result<(), Error> {
    device.signing_key().verify(labels::LOGIN, &[session_id, &device.addr().to_bytes()], signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::LocalDevice;
    use crate::crypto::testing::TestRng;

    #[test]
    fn a_login_holds_for_one_device_and_one_session() {
        let (me, _) = LocalDevice::first([1; 16], 5, &mut TestRng::new(1)).unwrap();
        let (other, _) = LocalDevice::first([1; 16], 5, &mut TestRng::new(2)).unwrap();
        let signature = me.sign_login(&[9; 16]);
        assert_eq!(check_login(me.certificate(), &[9; 16], &signature), Ok(()));
        assert_eq!(check_login(me.certificate(), &[8; 16], &signature), Err(Error::BadSignature));
        assert_eq!(check_login(other.certificate(), &[9; 16], &signature), Err(Error::BadSignature));
    }

    #[test]
    fn a_list_needs_the_certificates_that_it_names() {
        let (me, list) = LocalDevice::first([1; 16], 5, &mut TestRng::new(1)).unwrap();
        let (other, _) = LocalDevice::first([1; 16], 5, &mut TestRng::new(2)).unwrap();
        let cert = me.certificate().as_bytes();
        assert_eq!(check_list_certificates(&list, &[cert]), Ok(vec![me.certificate().clone()]));
        assert_eq!(check_list_certificates(&list, &[[]; 0]), Err(Error::UnverifiedDevice));
        assert_eq!(check_list_certificates(&list, &[other.certificate().as_bytes()]), Err(Error::BadSignature));
    }
}
