//! Frames of sessions that come in: opened, judged (`crypto.md` 9.2, 10.6) and handed to their concern. A frame that
//! cannot be opened yet is held, one that can never be is shown as what it is.

use serde::{Deserialize, Serialize};

use crate::client::model::{Mark, MessageRef, Reason};
use crate::client::store::{StoreError, Table};
use crate::crypto::Error;
use crate::crypto::contact::Sending;
use crate::crypto::content::{self, Accepted, Body, Conversation, Via, Wrapper, accept};
use crate::crypto::frame::Frame;
use crate::crypto::session::Plain;
use crate::crypto::session_set::Opened;
use crate::crypto::signature::VerifyKey;
use crate::protocol::codec::Timestamp;
use crate::protocol::devices::DeviceMessage;
use crate::protocol::ids::{ChannelId, DeviceAddr, MessageId, UserId};
use crate::protocol::messages::Row;

use super::db::addr_key;
use super::held::HeldFrame;
use super::lines::LineBody;
use super::timeline::{Origin, RowFacts};
use super::{Cx, Engine};

/// A first message is answered by then at the latest, milliseconds.
const ACKNOWLEDGE_MS: u64 = 60_000;
/// Failures of one claimed sender within a minute after which its frames wait (`crypto.md` 10.6).
const FAILURES_MAX: u32 = 10;
const MINUTE_MS: u64 = 60_000;
/// Claimed senders whose failures are counted.
const SENDERS_MAX: usize = 10_000;

/// A frame for this device, by whatever way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Incoming {
    pub from: DeviceAddr,
    #[serde(with = "serde_bytes_vec")]
    pub frame: Vec<u8>,
    pub nonce: [u8; 12],
    pub at: Timestamp,
    /// The row that it came in, of a DM or of a channel.
    pub row: Option<(ChannelId, RowFacts)>,
    /// Head of the channel's log when the row was committed.
    #[serde(default)]
    pub log_seq: Option<u64>,
}

/// Bytes as bytes, not as a list of numbers.
pub(super) mod serde_bytes_vec {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::protocol::codec::Blob;

    pub(in super::super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Blob::deserialize(deserializer).map(|blob| blob.0)
    }
}
/// What became of a frame.
pub(super) enum Outcome {
    Done,
    Refused(Option<Mark>),
    Unsupported,
    /// Written before this user joined.
    BeforeJoin,
    Hold(HeldFrame),
}

impl Engine {
    pub(super) fn receive_dm_row(
        &mut self,
        cx: &mut Cx<'_>,
        row: Row,
        frame: Vec<u8>,
        nonce: [u8; 12],
    ) -> Result<(), StoreError> {
        let (Some(user_id), Some(device_id)) = (row.sender_id, row.sender_device) else { return Ok(()) };
        if Some(user_id) != self.places.peer(row.channel_id) && user_id != self.me_id() {
            // Somebody else's row in this conversation: the server's invention.
            return self.put_placeholder(cx, &row, LineBody::Waiting(Reason::Refused), Some(Mark::Forged));
        }
        let incoming = Incoming {
            from: DeviceAddr { user_id, device_id },
            frame,
            nonce,
            at: row.created_at,
            row: Some((row.channel_id, RowFacts::of(&row))),
            log_seq: None,
        };
        let outcome = self.open_dm(cx, &incoming)?;
        self.settle(cx, &row, incoming, outcome, user_id.0.into_bytes())
    }

    /// What a row shows after its frame was opened, and whether the frame is kept for later.
    pub(super) fn settle(
        &mut self,
        cx: &mut Cx<'_>,
        row: &Row,
        incoming: Incoming,
        outcome: Outcome,
        waits_for: [u8; 16],
    ) -> Result<(), StoreError> {
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Refused(mark) => self.put_placeholder(cx, row, LineBody::Waiting(Reason::Refused), mark),
            Outcome::Unsupported => self.put_placeholder(cx, row, LineBody::NewerClient(Vec::new()), None),
            Outcome::BeforeJoin => self.put_placeholder(cx, row, LineBody::BeforeJoin, None),
            Outcome::Hold(why) => {
                self.put_placeholder(cx, row, LineBody::Waiting(why.reason()), None)?;
                self.hold(cx, waits_for, incoming, why)
            }
        }
    }

    pub(super) fn receive_inbox(&mut self, cx: &mut Cx<'_>, message: DeviceMessage) -> Result<(), StoreError> {
        let Some(nonce) = message.nonce.to_array::<12>() else { return Ok(()) };
        let from = DeviceAddr { user_id: message.from_user, device_id: message.from_device };
        let incoming = Incoming { from, frame: message.ciphertext.0, nonce, at: message.created_at, row: None, log_seq: None };
        match self.open_dm(cx, &incoming)? {
            Outcome::Hold(why) => self.hold(cx, from.user_id.0.into_bytes(), incoming, why),
            Outcome::Done | Outcome::Refused(_) | Outcome::Unsupported | Outcome::BeforeJoin => Ok(()),
        }
    }

    /// Opens a frame of a session and lets its content take effect; or says what to do with it.
    pub(super) fn open_dm(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) -> Result<Outcome, StoreError> {
        let now = cx.now.as_unix_ms();
        let from = incoming.from;
        let frame = match Frame::parse_dm(&incoming.frame) {
            Ok(frame) => frame,
            Err(Error::Unsupported) => return Ok(Outcome::Unsupported),
            Err(_) => return Ok(Outcome::Refused(None)),
        };
        if self.is_quarantined(from, now) {
            return Ok(Outcome::Hold(HeldFrame::Quarantined));
        }
        // The session knows whom it is with; a row that disagrees is refused.
        if let Some(owner) = cx.db.get(Table::Sessions, &frame.session_id)?
            && owner.as_slice() != addr_key(from)
        {
            return Ok(Outcome::Refused(Some(Mark::Forged)));
        }
        let Some(contact) = self.contacts.get(&from.user_id).cloned() else {
            self.want_list(from.user_id);
            return Ok(Outcome::Hold(HeldFrame::Unverified));
        };
        let set = self.sessions_with(cx, from)?;
        let Some(keys) = &self.keys else { return Ok(Outcome::Refused(None)) };
        let opened = match set.open(&keys.device, &keys.prekeys, &contact, &incoming.nonce, &frame, now) {
            Ok(opened) => opened,
            Err(error) => return self.not_opened(cx, incoming, error),
        };
        let Opened { sessions, session_id, plain, consumed } = opened;
        let own_identity =
            self.contacts.get(&self.me_id()).is_some_and(|own| own.identity().as_bytes() == contact.identity().as_bytes());
        self.save_sessions(cx, from, sessions)?;
        self.is_back(from.user_id);
        let first = consumed.is_some();
        if let (Some(consumed), Some(keys)) = (consumed, &mut self.keys) {
            keys.prekeys.consume(&consumed);
            self.save_prekeys(cx);
        }
        if frame.handshake.is_some() {
            self.sessions.unanswered.entry(from).or_insert(now + ACKNOWLEDGE_MS);
        }
        self.sessions.failures.remove(&from);
        let Plain { bytes, content, from: _ } = plain;
        let (own_list, seen_list, sent_ms) = (content.own_list.clone(), content.seen_list.clone(), content.sent_ms);
        let via = Via::Session { from: *from.user_id.as_bytes(), me: *self.me_id().as_bytes(), own_identity };
        let Ok(accepted) = accept(content, via) else { return Ok(Outcome::Refused(None)) };
        self.hear_gossip(cx, from.user_id, &own_list, &seen_list, sent_ms)?;
        drop(bytes);
        let outcome = self.dispatch(cx, incoming, &session_id, accepted)?;
        if first {
            // Frames of this session may have come before the one that began it.
            self.retry_held_of(cx, from.user_id)?;
        }
        Ok(outcome)
    }

    fn not_opened(&mut self, cx: &mut Cx<'_>, incoming: &Incoming, error: Error) -> Result<Outcome, StoreError> {
        let (from, now) = (incoming.from, cx.now.as_unix_ms());
        if matches!(error, Error::Undecryptable | Error::BadSignature | Error::LowOrder) {
            self.count_failure(from, now);
        }
        Ok(match error {
            Error::UnknownSession | Error::PrekeyGone => Outcome::Hold(HeldFrame::Lost),
            Error::Undecryptable | Error::TooFarAhead => Outcome::Hold(HeldFrame::Stuck),
            Error::UnverifiedDevice => {
                self.mark_list_stale(cx, from.user_id, u64::MAX)?;
                self.want_list(from.user_id);
                Outcome::Hold(HeldFrame::Unverified)
            }
            Error::IdentityChanged => {
                if let Ok(frame) = Frame::parse_dm(&incoming.frame)
                    && let Some(identity) = frame.handshake.and_then(|first| VerifyKey::import(first.identity).ok())
                    && let Some(contact) = self.contacts.get(&from.user_id)
                    && contact.sending() == Sending::Allowed
                {
                    let changed = contact.with_new_identity(identity);
                    self.identity_changed(cx, from.user_id, changed)?;
                }
                Outcome::Hold(HeldFrame::Identity)
            }
            Error::Equivocation => Outcome::Hold(HeldFrame::Identity),
            Error::Replay => Outcome::Done,
            Error::Unsupported => Outcome::Unsupported,
            Error::BadSignature | Error::Rejected | Error::LowOrder => Outcome::Refused(Some(Mark::Forged)),
            _ => Outcome::Refused(None),
        })
    }

    /// Ten failures within a minute: the frames of that sender wait without cryptographic work.
    pub(super) fn is_quarantined(&self, from: DeviceAddr, now: u64) -> bool {
        self.sessions.failures.get(&from).is_some_and(|(since, count)| *count >= FAILURES_MAX && now < since + 2 * MINUTE_MS)
    }

    pub(super) fn count_failure(&mut self, from: DeviceAddr, now: u64) {
        if self.sessions.failures.len() >= SENDERS_MAX {
            self.sessions.failures.retain(|_, (since, _)| now < *since + 2 * MINUTE_MS);
        }
        if self.sessions.failures.len() < SENDERS_MAX || self.sessions.failures.contains_key(&from) {
            let entry = self.sessions.failures.entry(from).or_insert((now, 0));
            if now >= entry.0 + MINUTE_MS {
                *entry = (now, 0);
            }
            entry.1 += 1;
        }
    }

    /// Hands an authenticated content to its concern.
    fn dispatch(
        &mut self,
        cx: &mut Cx<'_>,
        incoming: &Incoming,
        on: &[u8; 16],
        accepted: Accepted,
    ) -> Result<Outcome, StoreError> {
        let Accepted { author, conversation, content, wrapper } = accepted;
        let author = UserId::from_bytes(author);
        match &content.body {
            Some(Body::Skdm(skdm)) => return self.take_skdm(cx, incoming, skdm),
            Some(Body::SessionCtl(ctl)) => {
                self.take_ctl(cx, incoming.from, on, ctl)?;
                return Ok(Outcome::Done);
            }
            Some(Body::Devlist(lists)) => {
                self.take_devlist(cx, author, &lists.lists, &lists.certs)?;
                return Ok(Outcome::Done);
            }
            Some(Body::MembershipOps(ops)) => {
                self.take_membership_ops(cx, author, ops)?;
                return Ok(Outcome::Done);
            }
            Some(Body::OwnState(state)) => {
                self.take_own_state(cx, state);
                return Ok(Outcome::Done);
            }
            _ => {}
        }
        let channel_id = match conversation {
            Conversation::Channel(channel) => ChannelId::from_bytes(channel),
            Conversation::Dm(user) => {
                let user = UserId::from_bytes(user);
                match &incoming.row {
                    // A copy for another conversation than the row's: authenticated content decides, and the row is forged.
                    Some((channel_id, _)) if self.places.peer(*channel_id) != Some(user) => {
                        return Ok(Outcome::Refused(Some(Mark::Forged)));
                    }
                    Some((channel_id, _)) => *channel_id,
                    None => match self.dm_channel(user) {
                        Some(channel_id) => channel_id,
                        None => return Ok(Outcome::Done),
                    },
                }
            }
        };
        let mut role = None;
        let mut row = incoming.row.as_ref().map(|(_, facts)| facts.clone());
        if let Some(Wrapper::Resent { .. }) = wrapper {
            let identity = self.contacts.get(&author).map(|contact| contact.identity().as_bytes());
            let member = self.log_of(channel_id).and_then(|log| log.log.member(author.as_bytes()));
            let Some(member) = member.filter(|member| Some(&member.identity) == identity) else { return Ok(Outcome::Done) };
            role = Some(member.role);
            row = None;
        }
        let key = MessageRef { author, id: MessageId::from_bytes(content.id()) };
        let is_text = matches!(content.body, Some(Body::Text(_)));
        let origin =
            Origin { channel_id, author, device: incoming.from.device_id, row, at: incoming.at, role, marks: Vec::new() };
        self.apply_content(cx, origin, &content)?;
        self.forget_held(cx, channel_id, key)?;
        if is_text && author != self.me_id() && wrapper.is_none() {
            self.owe_receipt(cx, channel_id, key, content::RECEIPT_DELIVERED)?;
        }
        Ok(Outcome::Done)
    }
}
