//! What a send must satisfy before it may meet the database: pure checks of shape, and the hash that makes it idempotent.
//!
//! It knows no rights: those are judged under the channel's lock. Of a ciphertext it reads the header (`docs/PROTOCOL.md`
//! 9.2 and 9.3), through `crypto::verify`. Start with [`draft`].

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::crypto::verify::Frame;
use crate::protocol::codec::Blob;
use crate::protocol::devices::{Copy, SendDevices};
use crate::protocol::ids::{DeviceAddr, DeviceId, UserId};
use crate::protocol::limits::{CIPHERTEXT_MAX, DEVICE_COPIES_MAX, DEVICES_PER_USER, NONCE_LEN};
use crate::protocol::messages::{RowKind, Send};
use crate::server::api::made_id;
use crate::server::db::append::Draft;
use crate::server::error::{ApiError, ApiResult};

/// Files of one message.
const FILES_MAX: usize = 32;
/// Devices that a direct message names: all of two users, and some that were just removed.
const DM_DEVICES_MAX: usize = 4 * DEVICES_PER_USER;
/// Ten years, in seconds.
const EXPIRES_MAX_S: u32 = 315_360_000;

/// # Errors
/// 400 `validation` with the field, or 413 `too_large`.
pub fn draft(send: Send, sender: UserId, device: Option<DeviceId>) -> ApiResult<Draft> {
    made_id(send.id.0)?;
    if !send.kind.is_sendable() {
        return Err(ApiError::validation("kind", "only the server writes rows of this kind"));
    }
    let aims = !matches!(send.kind, RowKind::Message | RowKind::Poll);
    if aims != send.target_id.is_some() {
        return Err(ApiError::validation(
            "target_id",
            if aims { "is required for this kind" } else { "does not go with this kind" },
        ));
    }
    if send.file_ids.len() > FILES_MAX {
        return Err(ApiError::validation("file_ids", format!("at most {FILES_MAX}")));
    }
    if send.expires_in_s.is_some_and(|seconds| !(1..=EXPIRES_MAX_S).contains(&seconds)) {
        return Err(ApiError::validation("expires_in_s", format!("must be between 1 and {EXPIRES_MAX_S}")));
    }
    let epoch = match (&send.ciphertext, &send.copies) {
        (Some(_), Some(_)) => return Err(ApiError::validation("copies", "either ciphertext or copies")),
        _ if matches!(send.kind, RowKind::Pin | RowKind::Unpin) => {
            if send.ciphertext.is_some() || send.copies.is_some() || send.nonce.is_some() {
                return Err(ApiError::validation("ciphertext", "a pin has no content"));
            }
            None
        }
        (Some(ciphertext), None) => {
            check_nonce("nonce", send.nonce.as_ref())?;
            Some(channel_epoch(&send, ciphertext, sender, device)?)
        }
        (None, Some(copies)) => {
            check_direct(&send, copies)?;
            None
        }
        (None, None) => return Err(ApiError::validation("ciphertext", "is required")),
    };
    if send.copies.is_none() && (!send.skipped.is_empty() || send.device_lists.is_some()) {
        return Err(ApiError::validation("copies", "are required with skipped or device_lists"));
    }
    Ok(Draft { hash: content_hash(&send), send, sender, device, epoch, limited: None })
}

/// # Errors
/// 400 `validation`, or 413 `too_large`.
pub fn check_batch(batch: &SendDevices) -> ApiResult<()> {
    made_id(batch.id.0)?;
    if batch.copies.len() > DEVICE_COPIES_MAX {
        return Err(ApiError::validation("copies", format!("at most {DEVICE_COPIES_MAX}")));
    }
    batch.copies.iter().try_for_each(check_copy)
}

/// The epoch of a channel frame whose header says what the request says.
fn channel_epoch(send: &Send, ciphertext: &Blob, sender: UserId, device: Option<DeviceId>) -> ApiResult<u64> {
    let Frame::Channel(frame) = parse("ciphertext", ciphertext)? else {
        return Err(ApiError::validation("ciphertext", "must be a channel frame (type 3)"));
    };
    if frame.channel_id != *send.channel_id.as_bytes() {
        return Err(ApiError::validation("ciphertext", "the frame is for another channel"));
    }
    // A session without a device is refused by the database, after it has looked for the id.
    let claims = (frame.sender.user_id, frame.sender.device_id);
    if device.is_some_and(|device| claims != (*sender.as_bytes(), device)) {
        return Err(ApiError::validation("ciphertext", "the frame is of another sender"));
    }
    Ok(frame.epoch)
}

fn check_direct(send: &Send, copies: &[Copy]) -> ApiResult<()> {
    if send.nonce.is_some() {
        return Err(ApiError::validation("nonce", "each copy has its own"));
    }
    if copies.len() + send.skipped.len() > DM_DEVICES_MAX {
        return Err(ApiError::validation("copies", format!("at most {DM_DEVICES_MAX} with skipped")));
    }
    if send.device_lists.as_ref().is_some_and(|lists| lists.len() > 2) {
        return Err(ApiError::validation("device_lists", "at most two users"));
    }
    copies.iter().try_for_each(check_copy)?;
    send.skipped.iter().try_for_each(|device| check_device("skipped", device.device_id))?;
    let mut named = HashSet::new();
    let devices = copies.iter().map(|copy| DeviceAddr::new(copy.user_id, copy.device_id)).chain(send.skipped.iter().copied());
    if devices.into_iter().all(|device| named.insert(device)) {
        Ok(())
    } else {
        Err(ApiError::validation("copies", "a device is named twice"))
    }
}

fn check_copy(copy: &Copy) -> ApiResult<()> {
    check_nonce("copies", Some(&copy.nonce))?;
    check_device("copies", copy.device_id)?;
    match parse("copies", &copy.ciphertext)? {
        Frame::Dm(_) => Ok(()),
        Frame::Channel(_) => Err(ApiError::validation("copies", "must be frames of type 1 or 2")),
    }
}

/// The column is signed.
fn check_device(field: &str, device_id: DeviceId) -> ApiResult<()> {
    if (1..=i32::MAX as u32).contains(&device_id) {
        Ok(())
    } else {
        Err(ApiError::validation(field, "a device_id is between 1 and 2147483647"))
    }
}

fn parse<'a>(field: &str, ciphertext: &'a Blob) -> ApiResult<Frame<'a>> {
    if ciphertext.len() > CIPHERTEXT_MAX {
        return Err(ApiError::too_large(CIPHERTEXT_MAX));
    }
    Frame::parse(ciphertext.as_slice()).map_err(|_| ApiError::validation(field, "is no TC/1 frame"))
}

fn check_nonce(field: &str, nonce: Option<&Blob>) -> ApiResult<()> {
    match nonce {
        Some(nonce) if nonce.len() == NONCE_LEN => Ok(()),
        _ => Err(ApiError::validation(field, format!("the nonce must be {NONCE_LEN} bytes"))),
    }
}

/// SHA-256 of the request without `device_lists` and `skipped`, copies in the order of their devices: what must be equal for
/// a repeat. Every part has its length before it, so no two requests run together.
fn content_hash(send: &Send) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| match bytes {
        None => hash.update([0]),
        Some(bytes) => {
            hash.update([1]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    };
    part(Some(send.id.as_bytes()));
    part(Some(send.channel_id.as_bytes()));
    part(Some(send.kind.as_str().as_bytes()));
    for id in [send.thread_id, send.reply_to_id, send.target_id] {
        part(id.as_ref().map(|id| id.as_bytes().as_slice()));
    }
    part(send.ciphertext.as_ref().map(Blob::as_slice));
    part(send.nonce.as_ref().map(Blob::as_slice));
    part(send.expires_in_s.map(u32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice));
    for file in &send.file_ids {
        part(Some(file.as_bytes()));
    }
    part(None);
    let mut copies: Vec<&Copy> = send.copies.iter().flatten().collect();
    copies.sort_by_key(|copy| (copy.user_id, copy.device_id));
    for copy in copies {
        part(Some(copy.user_id.as_bytes()));
        part(Some(&copy.device_id.to_be_bytes()));
        part(Some(copy.ciphertext.as_slice()));
        part(Some(copy.nonce.as_slice()));
    }
    hash.finalize().into()
}
