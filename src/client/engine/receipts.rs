//! Delivered and read receipts (`crypto.md` 9.3), and the daily upkeep of what is kept for a time only. Receipts are said in
//! conversations of two; the user can turn them off.

use std::collections::BTreeMap;

use crate::client::model::MessageRef;
use crate::client::store::{StoreError, Table};
use crate::crypto::content::{self, Body, Content, MAX_RECEIPT_IDS, Receipt};
use crate::protocol::ids::ChannelId;

use super::db::{addr_of, key, reference_key, reference_of};
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

    pub(super) fn flush_receipts(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        if !self.is_live() || self.timers.receipts.is_none_or(|at| at > now) {
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

    /// Forgets what is kept for a time only; once a day.
    pub(super) fn keep_up(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        self.timers.upkeep = Some(now + DAY_MS);
        self.timers.sweep = Some(now + SWEEP_AFTER_MS);
        for (at, _) in cx.db.scan(Table::SeenAt, &[], UPKEEP_MAX)? {
            let Some((time, seen)) = at.split_first_chunk::<8>() else { continue };
            if u64::from_be_bytes(*time).saturating_add(SEEN_MS) > now {
                break;
            }
            cx.db.delete(Table::Seen, seen);
            cx.db.delete(Table::SeenAt, at);
        }
        let mut old = std::collections::BTreeSet::new();
        for (at, sent) in cx.db.load_all::<SentContent>(Table::SentContents, &[], UPKEEP_MAX)? {
            if sent.at_ms.saturating_add(WEEK_MS) <= now {
                old.insert(at.clone());
                cx.db.delete(Table::SentContents, at);
            }
        }
        for (at, sent) in cx.db.load_all::<SentKey>(Table::SentKeys, b"d", UPKEEP_MAX)? {
            if sent.at_ms.saturating_add(WEEK_MS) <= now {
                cx.db.delete(Table::SentKeys, at);
            }
        }
        for (at, value) in cx.db.scan(Table::SentKeys, b"c", UPKEEP_MAX)? {
            let id = rmp_serde::from_slice::<crate::protocol::ids::MessageId>(&value);
            if id.is_ok_and(|id| old.contains(id.as_bytes().as_slice())) {
                cx.db.delete_all(Table::SentKeys, &at)?;
            }
        }
        Ok(())
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
