//! Prekeys and bundles (`crypto.md` 5) in their HTTP form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Blob, null_is_default, objects};
use super::ids::{DeviceId, UserId};

/// An X25519 prekey signed by its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct SignedPrekey {
    pub id: u32,
    /// 32 bytes.
    pub public_key: Blob,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// 64 bytes.
    pub signature: Blob,
}

objects!(SignedPrekey);

/// An ML-KEM-1024 prekey signed by its device; `kind` 1 is used once, 2 is the last resort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct KemPrekey {
    pub kind: u8,
    pub id: u32,
    /// 1568 bytes.
    pub public_key: Blob,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// 64 bytes.
    pub signature: Blob,
}

objects!(KemPrekey);

/// A one-time X25519 prekey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct OneTimePrekey {
    pub id: u32,
    /// 32 bytes.
    pub public_key: Blob,
}

objects!(OneTimePrekey);

/// `POST /keys/prekeys`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UploadPrekeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_prekey: Option<SignedPrekey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_kem_prekey: Option<KemPrekey>,
    #[serde(deserialize_with = "null_is_default")]
    pub one_time_prekeys: Vec<OneTimePrekey>,
    #[serde(deserialize_with = "null_is_default")]
    pub kem_prekeys: Vec<KemPrekey>,
}

/// `GET /keys/prekeys/count`: what the server still holds for the calling device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrekeyCounts {
    pub one_time: u32,
    pub kem: u32,
    pub signed_created_ms: u64,
    pub last_kem_created_ms: u64,
}

/// `POST /users/{id}/bundles`; absent = all current devices but the caller's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchBundles {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_ids: Option<Vec<DeviceId>>,
}

/// What one device publishes for a first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bundle {
    pub device_id: DeviceId,
    /// 225 bytes.
    pub certificate: Blob,
    pub signed_prekey: SignedPrekey,
    pub kem_prekey: KemPrekey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_prekey: Option<OneTimePrekey>,
}

/// The bundles of one user with their newest device list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserBundles {
    pub device_list: Blob,
    pub bundles: Vec<Bundle>,
}

/// `POST /users/bundles`: at most 100 users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchManyBundles {
    /// An empty list asks for all current devices.
    #[schema(value_type = std::collections::HashMap<String, Vec<u32>>)]
    pub devices: BTreeMap<UserId, Vec<DeviceId>>,
}

/// Answers keyed by user, each as the single route answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByUser<T> {
    #[schema(value_type = std::collections::HashMap<String, T>)]
    pub items: BTreeMap<UserId, T>,
}
