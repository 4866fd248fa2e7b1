//! Frames that cannot be judged or opened yet (`crypto.md` 10.5, 10.6): held within bounds, tried again when something that
//! they wait for came, asked for again when their keys are lost; and the answers to such requests of others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::client::model::{MessageRef, Reason};
use crate::client::store::{StoreError, Table};
use crate::crypto::content::{self, Body, Content, Resent, SessionCtl};
use crate::crypto::frame::Frame;
use crate::protocol::ids::{ChannelId, DeviceAddr, MessageId, UserId};

use super::db::{Db, key};
use super::lines::{Line, LineBody};
use super::receive::{Incoming, Outcome};
use super::sessions::{SentContent, SentKey, SentWhat};
use super::warnings::Concern;
use super::{Cx, Engine};

/// Frames of one conversation.
const HELD_MAX: usize = 200;
const WEEK_MS: u64 = 7 * 86_400_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Answers to requests for one frame.
const ANSWERS_MAX: u32 = 3;
/// A sender key usually comes by itself: the request waits this long, milliseconds.
const CHAIN_PATIENCE_MS: u64 = 2_000;

/// Why a frame waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum HeldFrame {
    /// The device is not in a verified list that is known here.
    Unverified,
    Identity,
    /// No session yet, or none any more: asked for again.
    Lost,
    /// The state of its session or chain does not fit: only its author can help.
    Stuck,
    UnknownChain,
    FutureEpoch,
    Quarantined,
}

impl HeldFrame {
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Unverified => Reason::UnverifiedDevice,
            Self::Identity => Reason::IdentityChanged,
            Self::Lost | Self::Stuck | Self::Quarantined => Reason::Requested,
            Self::UnknownChain => Reason::WaitingForKey,
            Self::FutureEpoch => Reason::WaitingForMembers,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub incoming: Incoming,
    pub why: HeldFrame,
    pub since_ms: u64,
    /// When it was last asked for; 0: never.
    pub asked_ms: u64,
    #[serde(default)]
    pub warned: bool,
}

/// Which frames are held, without reading them: the conversations, and the orders of their frames.
#[derive(Debug, Default)]
pub(super) struct HeldIndex(BTreeMap<[u8; 16], BTreeSet<u64>>);

impl HeldIndex {
    pub(super) fn open(db: &Db<'_>) -> Result<Self, StoreError> {
        let mut index = Self::default();
        for (at, _) in db.scan(Table::Held, &[], usize::MAX)? {
            let parts = at
                .split_first_chunk::<16>()
                .and_then(|(conversation, order)| Some((*conversation, u64::from_be_bytes(order.try_into().ok()?))));
            if let Some((conversation, order)) = parts {
                index.0.entry(conversation).or_default().insert(order);
            }
        }
        Ok(index)
    }

    pub(super) fn has(&self, conversation: &[u8]) -> bool {
        conversation.try_into().is_ok_and(|conversation: [u8; 16]| self.0.contains_key(&conversation))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Engine {
    /// Keeps a frame. Above the bound the oldest of the conversation goes.
    pub(super) fn hold(
        &mut self,
        cx: &mut Cx<'_>,
        conversation: [u8; 16],
        incoming: Incoming,
        why: HeldFrame,
    ) -> Result<(), StoreError> {
        let order = cx.db.next_number("held")?;
        let kept = self.held.0.entry(conversation).or_default();
        kept.insert(order);
        if kept.len() > HELD_MAX
            && let Some(oldest) = kept.pop_first()
        {
            cx.db.delete(Table::Held, key(&[&conversation, &oldest.to_be_bytes()]));
        }
        let held = Held { incoming, why, since_ms: cx.now.as_unix_ms(), asked_ms: 0, warned: false };
        cx.db.save(Table::Held, key(&[&conversation, &order.to_be_bytes()]), &held)?;
        self.timers.held_soon(cx.now.as_unix_ms() + CHAIN_PATIENCE_MS);
        Ok(())
    }

    fn drop_held(&mut self, cx: &mut Cx<'_>, at: Vec<u8>) {
        if let Some((conversation, order)) = at.split_first_chunk::<16>()
            && let Some(kept) = self.held.0.get_mut(conversation)
        {
            if let Ok(order) = order.try_into() {
                kept.remove(&u64::from_be_bytes(order));
            }
            if kept.is_empty() {
                self.held.0.remove(conversation);
            }
        }
        cx.db.delete(Table::Held, at);
    }

    pub(super) fn retry_held(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.retry_keys(cx, None)?;
        self.retry_under(cx, &[])
    }

    pub(super) fn retry_held_of(&mut self, cx: &mut Cx<'_>, user_id: UserId) -> Result<(), StoreError> {
        self.retry_under(cx, user_id.as_bytes())
    }

    pub(super) fn retry_held_in(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId) -> Result<(), StoreError> {
        if !self.retrying_keys {
            self.retrying_keys = true;
            self.retry_keys(cx, Some(channel_id))?;
            self.retrying_keys = false;
        }
        self.retry_under(cx, channel_id.as_bytes())
    }

    /// Tries held frames again. A frame that opens may let others open; each is tried once a pass.
    fn retry_under(&mut self, cx: &mut Cx<'_>, prefix: &[u8]) -> Result<(), StoreError> {
        if self.retrying || self.held.is_empty() || !(prefix.is_empty() || self.held.has(prefix)) {
            return Ok(());
        }
        self.retrying = true;
        let now = cx.now.as_unix_ms();
        for (at, held) in cx.db.load_all::<Held>(Table::Held, prefix, 10_000)? {
            if !cx.db.has(Table::Held, &at)? {
                continue;
            }
            if now.saturating_sub(held.since_ms) > WEEK_MS {
                self.drop_held(cx, at);
                continue;
            }
            // What waits for an answer of its author cannot open before that came.
            if held.why == HeldFrame::Stuck {
                continue;
            }
            let outcome = match Frame::parse(&held.incoming.frame) {
                Ok(Frame::Channel(_)) => self.open_channel(cx, &held.incoming)?,
                _ => self.open_dm(cx, &held.incoming)?,
            };
            match outcome {
                Outcome::Done => self.drop_held(cx, at),
                Outcome::Unsupported | Outcome::Refused(_) => {
                    self.drop_held(cx, at);
                    self.show_waiting(cx, &held.incoming, Reason::Refused)?;
                }
                Outcome::BeforeJoin => {
                    self.drop_held(cx, at);
                    self.show_before_join(cx, &held.incoming)?;
                }
                Outcome::Hold(why) => {
                    if why != held.why {
                        self.show_waiting(cx, &held.incoming, why.reason())?;
                        cx.db.save(Table::Held, at, &Held { why, ..held })?;
                        self.timers.held_soon(now);
                    }
                }
            }
        }
        self.retrying = false;
        Ok(())
    }

    fn show_waiting(&mut self, cx: &mut Cx<'_>, incoming: &Incoming, reason: Reason) -> Result<(), StoreError> {
        match &incoming.row {
            Some((channel_id, facts)) => {
                let key = MessageRef { author: incoming.from.user_id, id: facts.id };
                self.set_waiting(cx, *channel_id, key, reason)
            }
            None => Ok(()),
        }
    }

    fn show_before_join(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) -> Result<(), StoreError> {
        if let Some((channel_id, facts)) = &incoming.row
            && let Some(mut line) = Line::load(&cx.db, *channel_id, MessageRef { author: incoming.from.user_id, id: facts.id })?
            && line.value.body.is_placeholder()
        {
            line.value.body = LineBody::BeforeJoin;
            line.value.revision += 1;
            self.put_line(cx, line)?;
        }
        Ok(())
    }

    /// The content came another way: its frame need not wait any more.
    pub(super) fn forget_held(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, message: MessageRef) -> Result<(), StoreError> {
        for conversation in [*channel_id.as_bytes(), *message.author.as_bytes()] {
            if !self.held.has(&conversation) {
                continue;
            }
            for (at, held) in cx.db.load_all::<Held>(Table::Held, &conversation, HELD_MAX + 1)? {
                let same =
                    held.incoming.row.as_ref().is_some_and(|(channel, facts)| *channel == channel_id && facts.id == message.id);
                if same && matches!(held.why, HeldFrame::Lost | HeldFrame::Stuck | HeldFrame::UnknownChain) {
                    self.drop_held(cx, at);
                }
            }
        }
        Ok(())
    }

    /// Asks for what is due: frames whose keys are lost, chains that did not come.
    pub(super) fn ask_for_held(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        if !self.is_live() || self.timers.held.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.timers.held = None;
        if self.held.is_empty() {
            return Ok(());
        }
        let mut quarantine = false;
        for (at, mut held) in cx.db.load_all::<Held>(Table::Held, &[], 10_000)? {
            quarantine |= held.why == HeldFrame::Quarantined;
            if held.why == HeldFrame::FutureEpoch && !held.warned {
                let due = held.since_ms + DAY_MS;
                if due > now {
                    self.timers.held_soon(due);
                } else {
                    self.warn_of_missing_ops(cx, &held)?;
                    held.warned = true;
                    cx.db.save(Table::Held, at, &held)?;
                }
                continue;
            }
            let patience = if held.why == HeldFrame::UnknownChain { CHAIN_PATIENCE_MS } else { 0 };
            let due = if held.asked_ms == 0 { held.since_ms + patience } else { held.asked_ms + HOUR_MS };
            let wanted = matches!(held.why, HeldFrame::Lost | HeldFrame::Stuck | HeldFrame::UnknownChain);
            if !wanted {
                continue;
            }
            if due > now {
                self.timers.held_soon(due);
                continue;
            }
            held.asked_ms = now;
            self.timers.held_soon(now + HOUR_MS);
            let from = held.incoming.from;
            let listed = self.contacts.get(&from.user_id).is_some_and(|contact| contact.certificate(from.device_id).is_some());
            match Frame::parse(&held.incoming.frame) {
                Ok(Frame::Dm(frame)) if listed => {
                    self.recover_session(cx, from)?;
                    let ctl = SessionCtl {
                        kind: content::CTL_RETRY,
                        session_id: frame.session_id.to_vec(),
                        ratchet_pub: frame.ratchet_key.as_bytes().to_vec(),
                        n: frame.n,
                        ..SessionCtl::default()
                    };
                    self.send_control_to(cx, from, Body::SessionCtl(ctl))?;
                }
                Ok(Frame::Channel(frame)) if listed => {
                    // The chain comes with the first answer; each frame that came before it has to be sent again.
                    let ctl = SessionCtl {
                        kind: content::CTL_RETRY,
                        channel_id: frame.channel_id.to_vec(),
                        chain_id: frame.chain_id,
                        iteration: frame.iteration,
                        ..SessionCtl::default()
                    };
                    self.send_control_to(cx, from, Body::SessionCtl(ctl))?;
                }
                _ => {}
            }
            cx.db.save(Table::Held, at, &held)?;
        }
        if quarantine {
            self.timers.held_soon(now + 30_000);
            self.retry_held(cx)?;
        }
        Ok(())
    }

    /// A message refers to a membership log further than the server shows it, for a day now (12.3).
    fn warn_of_missing_ops(&mut self, cx: &mut Cx<'_>, held: &Held) -> Result<(), StoreError> {
        let from = held.incoming.from.user_id;
        let channel = held.incoming.row.as_ref().map(|(channel_id, _)| Concern::Channel(*channel_id));
        let text = format!("{} wrote under membership changes that the server does not show.", self.name_of(from).raw());
        let hint = "The server may be hiding membership changes. Ask them who was added or removed.";
        let day = held.since_ms / DAY_MS;
        self.warn(cx, channel.unwrap_or(Concern::Person(from)), &key(&[b"ops", from.as_bytes()]), &day.to_be_bytes(), text, hint)
    }

    // --- Requests of others ---

    pub(super) fn take_ctl(
        &mut self,
        cx: &mut Cx<'_>,
        from: DeviceAddr,
        on: &[u8; 16],
        ctl: &SessionCtl,
    ) -> Result<(), StoreError> {
        let channel = <[u8; 16]>::try_from(ctl.channel_id.as_slice()).ok().map(ChannelId::from_bytes);
        match (ctl.kind, channel) {
            (content::CTL_RETRY, None) => {
                let (Ok(session), Ok(ratchet)) =
                    (<[u8; 16]>::try_from(ctl.session_id.as_slice()), <[u8; 32]>::try_from(ctl.ratchet_pub.as_slice()))
                else {
                    return Ok(());
                };
                self.mark_lost(cx, from, &session, on)?;
                self.answer_retry(cx, from, super::sessions::dm_key(&session, &ratchet, ctl.n))
            }
            (content::CTL_RETRY, Some(channel_id)) => self.answer_channel_retry(cx, from, channel_id, ctl),
            (content::CTL_CHAIN_WANTED, Some(channel_id)) => self.give_chain_to(cx, channel_id, from),
            (content::CTL_BAD_SIGNATURE, Some(channel_id)) => self.distrust_chain(cx, channel_id, ctl.chain_id),
            _ => Ok(()),
        }
    }

    fn may_answer(&self, cx: &Cx<'_>, sent: &SentKey, from: DeviceAddr) -> bool {
        sent.to == from && sent.answers < ANSWERS_MAX && cx.now.as_unix_ms().saturating_sub(sent.at_ms) <= WEEK_MS
    }

    fn answer_retry(&mut self, cx: &mut Cx<'_>, from: DeviceAddr, at: Vec<u8>) -> Result<(), StoreError> {
        let Some(mut sent) = cx.db.load::<SentKey>(Table::SentKeys, &at)? else { return Ok(()) };
        if !self.may_answer(cx, &sent, from) {
            return Ok(());
        }
        sent.answers += 1;
        cx.db.save(Table::SentKeys, at, &sent)?;
        match sent.what {
            SentWhat::SenderKey(channel_id) => self.give_chain_to(cx, channel_id, from),
            SentWhat::Content(id) => match self.sent_content(cx, id)? {
                // The same content with the same id: who has it already drops it.
                Some((kept, content)) if cx.now.as_unix_ms().saturating_sub(kept.at_ms) <= WEEK_MS => {
                    self.send_content_to(cx, from, content)
                }
                _ => Ok(()),
            },
        }
    }

    fn sent_content(&self, cx: &Cx<'_>, id: MessageId) -> Result<Option<(SentContent, Content)>, StoreError> {
        let sent = cx.db.load::<SentContent>(Table::SentContents, id.as_bytes())?;
        Ok(sent.and_then(|sent| Content::from_bytes(&sent.content).ok().map(|content| (sent, content))))
    }

    fn answer_channel_retry(
        &mut self,
        cx: &mut Cx<'_>,
        from: DeviceAddr,
        channel_id: ChannelId,
        ctl: &SessionCtl,
    ) -> Result<(), StoreError> {
        let at = channel_key(channel_id, ctl.chain_id, ctl.iteration);
        // A chain that the device lacks is given anew, at its current place, when the device is entitled now.
        self.give_chain_to(cx, channel_id, from)?;
        let Some(id) = cx.db.load::<MessageId>(Table::SentKeys, &at)? else { return Ok(()) };
        let Some((sent, content)) = self.sent_content(cx, id)? else { return Ok(()) };
        let given = self.was_given(cx, channel_id, ctl.chain_id, from)?;
        let log = key(&[&at, &super::db::addr_key(from)]);
        let answers = cx.db.load::<u32>(Table::SentKeys, &log)?.unwrap_or(0);
        let in_time = cx.now.as_unix_ms().saturating_sub(sent.at_ms) <= WEEK_MS;
        if given.is_none_or(|given| given > ctl.iteration) || answers >= ANSWERS_MAX || !in_time {
            return Ok(());
        }
        cx.db.save(Table::SentKeys, log, &(answers + 1))?;
        let Ok(bytes) = content.to_bytes() else { return Ok(()) };
        let resent = Resent {
            channel_id: channel_id.as_bytes().to_vec(),
            chain_id: ctl.chain_id,
            iteration: ctl.iteration,
            content: bytes.to_vec(),
        };
        self.send_control_to(cx, from, Body::Resent(resent))
    }
}

/// The key of [`Table::SentKeys`] for a frame of an own chain.
pub(super) fn channel_key(channel_id: ChannelId, chain_id: u32, iteration: u32) -> Vec<u8> {
    key(&[b"c", channel_id.as_bytes(), &chain_id.to_be_bytes(), &iteration.to_be_bytes()])
}
