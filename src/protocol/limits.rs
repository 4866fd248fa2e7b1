//! Every limit of the wire (`docs/PROTOCOL.md` section 7), in one place, and the form in which clients learn them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub const USERNAME_MIN: usize = 3;
pub const USERNAME_MAX: usize = 32;
/// Unicode scalar values.
pub const DISPLAY_NAME_MAX: usize = 64;
pub const PASSWORD_MIN: usize = 8;
pub const PASSWORD_MAX: usize = 1024;
/// Unicode scalar values; also of groups and channels.
pub const COMMUNITY_NAME_MAX: usize = 64;
pub const TOPIC_MAX: usize = 512;
pub const BIO_MAX: usize = 2000;
pub const DEVICE_NAME_MAX: usize = 64;
/// Characters of the name by which a server calls itself.
pub const SERVER_NAME_MAX: usize = 64;
/// Bytes of a TC/1 frame (`crypto.md` 8).
pub const CIPHERTEXT_MAX: usize = 65_536;
pub const NONCE_LEN: usize = 12;
pub const DEVICES_PER_USER: usize = 8;
pub const CONNECTIONS_PER_USER: usize = 16;
pub const GROUPS_PER_COMMUNITY: usize = 200;
pub const CHANNELS_PER_GROUP: usize = 100;
pub const PINS_PER_CHANNEL: usize = 50;
pub const SLOW_MODE_MAX_S: u32 = 21_600;
/// Seconds that a channel may let its messages live: the range of `crypto.md` 20.
pub const MESSAGE_TTL_MIN_S: u32 = 5;
pub const MESSAGE_TTL_MAX_S: u32 = 31_536_000;
/// Copies in one `send_devices`.
pub const DEVICE_COPIES_MAX: usize = 100;
/// Bytes of one WebSocket frame.
pub const WS_FRAME_MAX: usize = 128 * 1024;
/// Bytes of one REST body, files apart.
pub const BODY_MAX: usize = 1024 * 1024;
/// Unacknowledged frames that a device's inbox holds.
pub const INBOX_MAX: usize = 10_000;
pub const FILE_MAX: u64 = 100 * 1024 * 1024;
pub const QUOTA: u64 = 500 * 1024 * 1024;
/// Rows of a list answer.
pub const PAGE_DEFAULT: u32 = 50;
pub const PAGE_MAX: u32 = 100;
/// Ops of one page of a membership log.
pub const LOG_OPS_PAGE_MAX: u32 = 500;
/// Events of one `POST /sync`.
pub const SYNC_PAGE_DEFAULT: u32 = 200;
pub const SYNC_PAGE_MAX: u32 = 1000;
/// One-time prekeys of a device that the server keeps: X25519 and ML-KEM.
pub const ONE_TIME_PREKEYS_MAX: usize = 100;
pub const KEM_PREKEYS_MAX: usize = 50;

/// The limits as `ready` and `GET /auth/config` tell them; lengths of text in characters, of bytes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Limits {
    pub username_min: u32,
    pub username_max: u32,
    pub display_name: u32,
    pub password_min: u32,
    pub password_max: u32,
    pub community_name: u32,
    pub topic: u32,
    pub bio: u32,
    pub ciphertext: u32,
    pub devices: u32,
    pub connections: u32,
    pub groups_per_community: u32,
    pub channels_per_group: u32,
    pub pins_per_channel: u32,
    pub device_copies: u32,
    pub frame: u32,
    pub file: u64,
    pub quota: u64,
    /// Sends of one user in a second, and how many may come at once.
    pub sends_per_s: u32,
    pub sends_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            username_min: USERNAME_MIN as u32,
            username_max: USERNAME_MAX as u32,
            display_name: DISPLAY_NAME_MAX as u32,
            password_min: PASSWORD_MIN as u32,
            password_max: PASSWORD_MAX as u32,
            community_name: COMMUNITY_NAME_MAX as u32,
            topic: TOPIC_MAX as u32,
            bio: BIO_MAX as u32,
            ciphertext: CIPHERTEXT_MAX as u32,
            devices: DEVICES_PER_USER as u32,
            connections: CONNECTIONS_PER_USER as u32,
            groups_per_community: GROUPS_PER_COMMUNITY as u32,
            channels_per_group: CHANNELS_PER_GROUP as u32,
            pins_per_channel: PINS_PER_CHANNEL as u32,
            device_copies: DEVICE_COPIES_MAX as u32,
            frame: WS_FRAME_MAX as u32,
            file: FILE_MAX,
            quota: QUOTA,
            sends_per_s: 10,
            sends_burst: 20,
        }
    }
}
