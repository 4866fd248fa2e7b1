//! Lengths and bounds of a content (TC/1 sections 9.1 and 20). Only what can be judged from the bytes alone: who may send
//! what, and where, is `accept`. Start at [`validate`].

use super::Error;
use super::proto::{Body, Content, FileRef, MembershipOps, OwnState, Receipt, SessionCtl, Text};

/// The longest text of a message, in bytes.
pub const MAX_TEXT: usize = 49_152;
/// The most users that one text mentions.
pub const MAX_MENTIONS: usize = 100;
/// The most files of one text.
pub const MAX_FILES: usize = 10;
/// The most message ids in one receipt.
pub const MAX_RECEIPT_IDS: usize = 100;
/// The longest reaction, in bytes.
pub const MAX_EMOJI: usize = 64;
/// The longest timer, in seconds: 365 days.
pub const MAX_EXPIRES_S: u32 = 31_536_000;
/// The shortest timer, in seconds; 0 turns it off.
pub const MIN_EXPIRES_S: u32 = 5;
/// The fewest and the most options of a poll.
pub const POLL_OPTIONS: std::ops::RangeInclusive<usize> = 2..=10;

const ID: usize = 16;
const HASH: usize = 32;
const REFERENCE: usize = 32;
const LIST_REF: usize = 24;
const CERT: usize = 225;
const SKDM: usize = 128;
const PIN: usize = 48;

/// Checks every field of `content`. A field of the wrong length is [`Error::Malformed`], a bound of section 20 that is exceeded is `over`:
/// `Malformed` for what was received, `Limit` for what is to be sent.
pub(super) fn validate(content: &Content, over: Error) -> Result<(), Error> {
    let Content { msg_id, sent_ms: _, conv, own_list, seen_list, expires_s, body } = content;
    exactly(msg_id, ID)?;
    exactly(conv, ID)?;
    empty_or(own_list, LIST_REF)?;
    empty_or(seen_list, LIST_REF)?;
    timer(*expires_s, over)?;
    match body {
        None => Ok(()),
        Some(Body::Text(text)) => check_text(text, over),
        Some(Body::Edit(edit)) => {
            exactly(&edit.target, REFERENCE)?;
            layout(edit.rev >= 1)?;
            check_text(edit.text.as_ref().ok_or(Error::Malformed)?, over)
        }
        Some(Body::Reaction(reaction)) => {
            exactly(&reaction.target, REFERENCE)?;
            within((1..=MAX_EMOJI).contains(&reaction.emoji.len()), over)
        }
        Some(Body::Delete(delete)) => exactly(&delete.target, REFERENCE),
        Some(Body::Receipt(receipt)) => check_receipt(receipt, over),
        Some(Body::Profile(profile)) => profile.avatar.as_ref().map_or(Ok(()), check_file),
        Some(Body::Timer(body)) => timer(body.seconds, over),
        Some(Body::Poll(poll)) => within(POLL_OPTIONS.contains(&poll.options.len()), over),
        Some(Body::Skdm(skdm)) => exactly(skdm, SKDM),
        Some(Body::SyncSent(sent)) => exactly(&sent.conv, ID),
        Some(Body::SessionCtl(ctl)) => check_session_ctl(ctl),
        // The lists check themselves when they are applied: each has its own layout and signature.
        Some(Body::Devlist(update)) => update.certs.iter().try_for_each(|cert| exactly(cert, CERT)),
        Some(Body::MembershipOps(ops)) => check_membership_ops(ops),
        Some(Body::Resent(resent)) => exactly(&resent.channel_id, ID),
        Some(Body::OwnState(state)) => check_own_state(state),
    }
}

fn check_text(text: &Text, over: Error) -> Result<(), Error> {
    within(text.body.len() <= MAX_TEXT && text.mentions.len() <= MAX_MENTIONS && text.files.len() <= MAX_FILES, over)?;
    empty_or(&text.reply_to, REFERENCE)?;
    empty_or(&text.thread_root, REFERENCE)?;
    text.mentions.iter().try_for_each(|user| exactly(user, ID))?;
    text.files.iter().try_for_each(check_file)
}

fn check_file(file: &FileRef) -> Result<(), Error> {
    check_blob(file)?;
    match &file.thumbnail {
        None => Ok(()),
        Some(thumbnail) => {
            layout(thumbnail.thumbnail.is_none())?;
            check_blob(thumbnail)
        }
    }
}

fn check_blob(file: &FileRef) -> Result<(), Error> {
    exactly(&file.blob_id, ID)?;
    exactly(&file.key, HASH)?;
    exactly(&file.blob_hash, HASH)
}

fn check_receipt(receipt: &Receipt, over: Error) -> Result<(), Error> {
    within((1..=MAX_RECEIPT_IDS).contains(&receipt.ids.len()), over)?;
    receipt.ids.iter().try_for_each(|id| exactly(id, ID))?;
    exactly(&receipt.conv, ID)
}

/// A kind that this client does not know is not judged beyond its lengths.
fn check_session_ctl(ctl: &SessionCtl) -> Result<(), Error> {
    empty_or(&ctl.session_id, ID)?;
    empty_or(&ctl.ratchet_pub, HASH)?;
    empty_or(&ctl.channel_id, ID)?;
    let session = !ctl.session_id.is_empty();
    let channel = !ctl.channel_id.is_empty();
    match ctl.kind {
        super::CTL_RETRY => layout(session != channel && session != ctl.ratchet_pub.is_empty()),
        super::CTL_CHAIN_WANTED | super::CTL_BAD_SIGNATURE => layout(channel),
        _ => Ok(()),
    }
}

fn check_membership_ops(ops: &MembershipOps) -> Result<(), Error> {
    exactly(&ops.channel_id, ID)?;
    exactly(&ops.log_id, ID)?;
    exactly(&ops.head, HASH)
}

fn check_own_state(state: &OwnState) -> Result<(), Error> {
    for verified in &state.verified {
        exactly(&verified.user_id, ID)?;
        exactly(&verified.uik, HASH)?;
    }
    state.pins.iter().try_for_each(|pin| exactly(pin, PIN))
}

fn timer(seconds: u32, over: Error) -> Result<(), Error> {
    within(seconds == 0 || (MIN_EXPIRES_S..=MAX_EXPIRES_S).contains(&seconds), over)
}

fn exactly(bytes: &[u8], len: usize) -> Result<(), Error> {
    layout(bytes.len() == len)
}

fn empty_or(bytes: &[u8], len: usize) -> Result<(), Error> {
    layout(bytes.is_empty() || bytes.len() == len)
}

fn layout(holds: bool) -> Result<(), Error> {
    within(holds, Error::Malformed)
}

fn within(holds: bool, over: Error) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(over) }
}
