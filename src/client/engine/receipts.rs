//! Delivered and read receipts (`crypto.md` 9.3), and the daily upkeep of what is kept for a time only. Receipts are said in
//! conversations of two; the user can turn them off.

use std::collections::BTreeMap;

use crate::client::model::MessageRef;
use crate::client::store::{StoreError, Table};
use crate::crypto::content::{self, Body, Content, MAX_RECEIPT_IDS, Receipt};
use crate::protocol::ids::{ChannelId, MessageId};

use super::db::{addr_of, key, reference_key, reference_of, unpack};
use super::sessions::{SentContent, SentKey};
use super::{Cx, Engine};

/// Receipts are gathered this long, milliseconds.
const GATHER_MS: u64 = 1_000;
const FLUSH_MAX: usize = 1_000;
const DAY_MS: u64 = 86_400_000;
const WEEK_MS: u64 = 7 * DAY_MS;
/// How long it is known that a content was accepted.
const SEEN_MS: u64 = 90 * DAY_MS;
const UPKEEP_MAX: usize = 5_000;
/// The sweep of keys begins so long after the daily upkeep, looks at so many records at a time, and pauses so long in between:
/// it must not be felt. Milliseconds.
const SWEEP_AFTER_MS: u64 = 30_000;
const SWEEP_MAX: usize = 64;
const SWEEP_PAUSE_MS: u64 = 100;
/// In [`Table::Account`], when the user turned receipts off.
pub(super) const RECEIPTS_OFF: &[u8; 12] = b"receipts-off";
/// In [`Table::Account`]: when the last upkeep began.
const UPKEPT: &[u8; 6] = b"upkept";
/// What is looked through.
const KEPT: [Table; 4] = [Table::SeenAt, Table::SentContents, Table::SentKeys, Table::Early];
/// Bytes of the key of a message of a chain in [`Table::SentKeys`]; what follows is the device that asked for it.
const CHANNEL_KEY_LEN: usize = 1 + 16 + 4 + 4;

impl Engine {
    /// A receipt to send with the next ones.
    pub(super) fn owe_receipt(
        &mut self,
        cx: &mut Cx<'_>,
        channel_id: ChannelId,
        message: MessageRef,
        kind: u32,
    ) -> Result<(), StoreError> {
        if self.places.peer(channel_id) != Some(message.author) || message.author == self.me_id() {
            return Ok(());
        }
        // A read receipt says also that it was delivered; it is mirrored to own devices even when nobody else gets it.
        if self.receipts_off && kind == content::RECEIPT_DELIVERED {
            return Ok(());
        }
        let at = |kind: u32| key(&[channel_id.as_bytes(), &kind.to_be_bytes(), &reference_key(message)]);
        if kind == content::RECEIPT_READ {
            cx.db.delete(Table::Receipts, at(content::RECEIPT_DELIVERED));
        }
        cx.db.put(Table::Receipts, at(kind), []);
        let due = cx.now.as_unix_ms() + GATHER_MS;
        self.timers.receipts = Some(self.timers.receipts.map_or(due, |old| old.min(due)));
        Ok(())
    }

    pub(super) fn set_receipts(&mut self, cx: &mut Cx<'_>, on: bool) {
        if on {
            cx.db.delete(Table::Account, *RECEIPTS_OFF);
        } else {
            cx.db.put(Table::Account, *RECEIPTS_OFF, []);
        }
        self.receipts_off = !on;
        self.tell_opened(cx);
    }

    pub(super) fn flush_receipts(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        // Who waits for the end of everything does not wait for more of them.
        let gathering = self.settling.is_empty() && self.timers.receipts.is_some_and(|at| at > now);
        if !self.is_live() || self.timers.receipts.is_none() || gathering {
            return Ok(());
        }
        self.timers.receipts = None;
        let mut owed: BTreeMap<(ChannelId, u32), Vec<MessageRef>> = BTreeMap::new();
        for (at, _) in cx.db.scan(Table::Receipts, &[], FLUSH_MAX)? {
            let parts = at.split_first_chunk::<16>().and_then(|(channel, rest)| {
                let (kind, message) = rest.split_first_chunk::<4>()?;
                Some(((ChannelId::from_bytes(*channel), u32::from_be_bytes(*kind)), reference_of(message)?))
            });
            if let Some((place, message)) = parts {
                owed.entry(place).or_default().push(message);
            }
            cx.db.delete(Table::Receipts, at);
        }
        for ((channel_id, kind), messages) in owed {
            let Some(peer) = self.places.peer(channel_id) else { continue };
            for messages in messages.chunks(MAX_RECEIPT_IDS) {
                let ids = messages.iter().map(|message| message.id.as_bytes().to_vec()).collect();
                let body = Body::Receipt(Receipt { kind, ids, conv: peer.as_bytes().to_vec() });
                let content = Content::new(cx.random_id(), now, *peer.as_bytes(), body);
                let mut targets = self.own_others();
                if !self.receipts_off {
                    targets.extend(self.devices_of(peer));
                }
                for to in targets {
                    self.send_content_to(cx, to, content.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Forgets what is kept for a time only; once a day, so much in one step.
    pub(super) fn keep_up(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        if self.upkeep.is_empty() {
            let last = cx.db.load::<u64>(Table::Account, UPKEPT)?.unwrap_or(0);
            // A clock that was set back must not put it off.
            if last <= now && last.saturating_add(DAY_MS) > now {
                self.timers.upkeep = Some(last + DAY_MS);
                return Ok(());
            }
            cx.db.save(Table::Account, *UPKEPT, &now)?;
            self.timers.sweep = Some(now + SWEEP_AFTER_MS);
            self.upkeep = KEPT.iter().map(|table| (*table, None)).collect();
        }
        for (table, after) in std::mem::take(&mut self.upkeep) {
            let page = cx.db.scan_after(table, &[], after, UPKEEP_MAX)?;
            if page.len() >= UPKEEP_MAX {
                self.upkeep.insert(table, page.last().map(|(at, _)| at.clone()));
            }
            for (at, value) in page {
                if self.is_over(cx, table, &at, &value)? {
                    cx.db.delete(table, at);
                }
            }
        }
        let more = !self.upkeep.is_empty();
        self.timers.upkeep = Some(now + if more { 1_000 } else { DAY_MS });
        if more { Ok(()) } else { self.purge_given(cx) }
    }

    /// Whether the time of a record is over.
    fn is_over(&self, cx: &mut Cx<'_>, table: Table, at: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        let now = cx.now.as_unix_ms();
        let week_over = |since: u64| since.saturating_add(WEEK_MS) <= now;
        Ok(match table {
            Table::SeenAt => match at.split_first_chunk::<8>() {
                Some((time, seen)) if u64::from_be_bytes(*time).saturating_add(SEEN_MS) <= now => {
                    cx.db.delete(Table::Seen, seen);
                    true
                }
                _ => false,
            },
            // By the time in the id of what waits for its target; an id from the future is as good as none.
            Table::Early => at.last_chunk::<16>().map(|id| uuid::Uuid::from_bytes(*id)).is_none_or(|id| {
                let made = id.get_timestamp().map_or(0, |time| time.to_unix().0 * 1000);
                made.saturating_add(SEEN_MS) <= now || made > now + DAY_MS
            }),
            Table::SentContents => unpack::<SentContent>(table, value).is_ok_and(|sent| week_over(sent.at_ms)),
            // Of a session: with its own time. Of a chain: kept as long as its message; or the count of answers about it.
            _ if at.first() == Some(&b'd') => unpack::<SentKey>(table, value).is_ok_and(|sent| week_over(sent.at_ms)),
            _ => match unpack::<MessageId>(table, value) {
                Ok(id) => !cx.db.has(Table::SentContents, id.as_bytes())?,
                Err(_) => match at.get(..CHANNEL_KEY_LEN).map(|message| cx.db.has(table, message)) {
                    Some(message) => !message?,
                    None => false,
                },
            },
        })
    }

    /// Drops the keys of messages that never came, old sessions and old chains, where nothing arrives any more that would do it
    /// (7.3, 10.2, 12.2): a few records at a time.
    pub(super) fn sweep(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let (table, after) = self.swept.take().unwrap_or((Table::PeerDevices, Vec::new()));
        let page = cx.db.store().scan(table, &[], Some(&after), SWEEP_MAX)?;
        let mut last_chain = None;
        for (at, _) in &page {
            match table {
                Table::PeerDevices => {
                    if let Some(addr) = addr_of(at) {
                        let sessions = self.sessions_with(cx, addr)?;
                        self.tell_gaps(cx, addr, &sessions)?;
                        if sessions.prune_due(now) {
                            self.save_sessions(cx, addr, sessions)?;
                        }
                    }
                }
                _ => {
                    let Some((channel, rest)) = at.split_first_chunk::<16>() else { continue };
                    let Some(addr) = rest.get(..20).and_then(addr_of) else { continue };
                    let chains = (ChannelId::from_bytes(*channel), addr);
                    if last_chain.replace(chains) != Some(chains) {
                        self.prune_chains(cx, chains.0, chains.1)?;
                    }
                }
            }
        }
        self.swept = match page.into_iter().last() {
            Some((last, _)) => Some((table, last)),
            None if table == Table::PeerDevices => Some((Table::PeerChains, Vec::new())),
            None => None,
        };
        self.timers.sweep = self.swept.as_ref().map(|_| now + SWEEP_PAUSE_MS);
        Ok(())
    }
}
