//! Who speaks (TC/1 section 4.1): addresses, the user identity key (UIK), and a device with its signing key (DSK) and DH
//! key (DHK). The three are independent keys. Start at [`LocalDevice`].

use std::fmt;

use super::error::Error;
use super::kdf;
use super::signature::VerifyKey;
use super::wire::Reader;

/// A UUID's 16 bytes.
pub type UserId = [u8; 16];
/// 1, 2, 3 … within one identity; never 0.
pub type DeviceId = u32;

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
