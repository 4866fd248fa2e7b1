//! Devices, their certificates and the signed device lists (`crypto.md` 4), and device-to-device messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::{SecretText, Tokens};
use super::codec::{Blob, Timestamp, null_is_default, objects};
use super::ids::{BatchId, DeviceAddr, DeviceId, UserId};
use super::keys::{KemPrekey, OneTimePrekey, SignedPrekey};

/// `POST /devices`: the session becomes this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterDevice {
    pub device_id: DeviceId,
    pub name: String,
    /// 32 bytes; the first device of an identity only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<Blob>,
    /// 225 bytes.
    pub certificate: Blob,
    /// Absent when the newest list names the certificate already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_list: Option<Blob>,
    pub signed_prekey: SignedPrekey,
    pub last_kem_prekey: KemPrekey,
    #[serde(default, deserialize_with = "null_is_default")]
    pub one_time_prekeys: Vec<OneTimePrekey>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub kem_prekeys: Vec<KemPrekey>,
    /// An identity reset (`crypto.md` 14.3); needs `password`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretText>,
}

/// The answer of `POST /devices` and `POST /devices/{device_id}/session`: use these tokens from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceSession {
    pub device_id: DeviceId,
    #[serde(flatten)]
    pub tokens: Tokens,
}

/// `POST /devices/{device_id}/session`: SIGN(DSK, "tc/1 login", session_id ‖ addr).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeDevice {
    pub signature: Blob,
}

/// One of the caller's devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    pub device_id: DeviceId,
    pub name: String,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    pub current: bool,
}

/// `DELETE /devices/{device_id}`: the new signed list without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveDevice {
    pub device_list: Blob,
}

/// `POST /devices/lists`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishList {
    pub device_list: Blob,
    #[serde(default, deserialize_with = "null_is_default")]
    pub certificates: Vec<Blob>,
}

/// `POST /devices/lists` → 201; also `details` of the 409 `conflict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListHead {
    pub head_seq: u64,
}

/// `GET /users/{id}/devices?after=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserDevices {
    /// 32 bytes; null without a device.
    #[serde(default)]
    pub identity_key: Option<Blob>,
    pub head_seq: u64,
    /// Signed lists, oldest first.
    pub lists: Vec<Blob>,
    /// Every certificate that a returned list names.
    pub certificates: Vec<Blob>,
}

/// `POST /users/devices`: at most 100 users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchManyDevices {
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub after: BTreeMap<UserId, u64>,
}

/// One ciphertext for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Copy {
    pub user_id: UserId,
    pub device_id: DeviceId,
    /// A TC/1 frame of type 1 or 2.
    pub ciphertext: Blob,
    /// 12 bytes.
    pub nonce: Blob,
}

objects!(Copy);

/// `POST /devices/messages` and the frame `send_devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendDevices {
    pub id: BatchId,
    pub copies: Vec<Copy>,
}

/// Answer to `send_devices`: all but `missing` are in their inboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SentDevices {
    pub id: BatchId,
    #[serde(default)]
    pub missing: Vec<DeviceAddr>,
}

/// A frame in a device's durable inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceMessage {
    /// Gapless per device, from 1.
    pub inbox_seq: u64,
    pub from_user: UserId,
    pub from_device: DeviceId,
    pub ciphertext: Blob,
    pub nonce: Blob,
    pub created_at: Timestamp,
}
