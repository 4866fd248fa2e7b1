//! Content (TC/1 section 9): what a frame says once it is open. [`Content::from_bytes`] and [`Content::to_bytes`] are the only ways
//! in and out, so a value of this type from outside has right lengths and bounds; [`accept()`] decides whether the channel or
//! session it came by may carry it. Knows no keys, no store and no clock.

mod accept;
mod meaning;
mod proto;
#[cfg(test)]
mod tests;
mod validate;

use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use zeroize::Zeroizing;

pub use accept::{Accepted, Conversation, Via, Wrapper, accept};
pub use meaning::{EditRank, MessageRef, ReactionRank, erase_at, is_time_doubtful, may_delete, may_edit};
pub use proto::{
    Body, Content, Delete, DevListUpdate, Edit, FileRef, MembershipOps, OwnState, Poll, Profile, Reaction, Receipt, Resent,
    SessionCtl, SyncSent, Text, Timer, Verified,
};
pub use validate::{MAX_EMOJI, MAX_EXPIRES_S, MAX_FILES, MAX_MENTIONS, MAX_RECEIPT_IDS, MAX_TEXT, MIN_EXPIRES_S, POLL_OPTIONS};

use super::error::Error;
use super::padding;

/// The longest content, in bytes, that still fits into a `sync_sent` to the own devices.
pub const MAX_MIRRORED: usize = 60_000;

/// [`Receipt::kind`]: a device has the messages.
pub const RECEIPT_DELIVERED: u32 = 1;
/// [`Receipt::kind`]: the user saw the messages.
pub const RECEIPT_READ: u32 = 2;
/// [`SessionCtl::kind`]: please send this frame's content again (section 10.5).
pub const CTL_RETRY: u32 = 1;
/// [`SessionCtl::kind`]: please send this chain's sender key.
pub const CTL_CHAIN_WANTED: u32 = 2;
/// [`SessionCtl::kind`]: a frame of this chain has a bad signature; its owner rotates.
pub const CTL_BAD_SIGNATURE: u32 = 3;
/// [`SessionCtl::kind`]: nothing to say but that the session works (section 10.1).
pub const CTL_ACKNOWLEDGE: u32 = 4;

/// Field numbers of the bodies that this client knows.
const BODIES: [u32; 15] = [16, 17, 18, 19, 21, 23, 24, 25, 32, 33, 34, 35, 36, 37, 38];

impl Content {
    /// A content without list references and timer. `conv` is the user addressed (DM) or the channel.
    pub fn new(msg_id: [u8; 16], sent_ms: u64, conv: [u8; 16], body: Body) -> Self {
        Self {
            msg_id: msg_id.to_vec(),
            sent_ms,
            conv: conv.to_vec(),
            own_list: Vec::new(),
            seen_list: Vec::new(),
            expires_s: 0,
            body: Some(body),
        }
    }

    /// Decodes and validates. `Malformed` if any message inside is not protobuf, has more than one body, or a field of a wrong
    /// length or out of bounds. A body that this client does not know is no error: `body` is `None`, and the caller keeps the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > padding::MAX_CONTENT || count_bodies(bytes)? > 1 {
            return Err(Error::Malformed);
        }
        let content = Self::decode(bytes).map_err(|_| Error::Malformed)?;
        validate::validate(&content, Error::Malformed)?;
        Ok(content)
    }

    /// Validates and encodes. `Limit` if a bound of section 20 is exceeded, `Malformed` for a field of a wrong length.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.to_bytes_within(padding::MAX_CONTENT)
    }

    /// As [`Content::to_bytes`], for content that is mirrored to own devices and therefore must fit in a `sync_sent`.
    pub fn to_mirrored_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.to_bytes_within(MAX_MIRRORED)
    }

    /// The message id; zeros if the content was made by hand with a wrong length.
    pub fn id(&self) -> [u8; 16] {
        meaning::id16(&self.msg_id).unwrap_or_default()
    }

    /// The conversation field; zeros if the content was made by hand with a wrong length.
    pub fn conv_id(&self) -> [u8; 16] {
        meaning::id16(&self.conv).unwrap_or_default()
    }

    fn to_bytes_within(&self, limit: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        validate::validate(self, Error::Limit)?;
        let len = self.encoded_len();
        if len > limit {
            return Err(Error::Limit);
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        self.encode(&mut *bytes).map_err(|_| Error::Limit)?;
        Ok(bytes)
    }
}

/// Protobuf decoders take the last of several bodies. Two readers could then see different messages, so more than one is refused.
fn count_bodies(mut bytes: &[u8]) -> Result<usize, Error> {
    let mut bodies = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(|_| Error::Malformed)?;
        bodies += usize::from(BODIES.contains(&tag));
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(|_| Error::Malformed)?;
    }
    Ok(bodies)
}
