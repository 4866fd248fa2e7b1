//! Keys of messages that have not arrived, and the receiving chains they belong to (7.1, 7.3). Bounded by count, by time and
//! by the number of retired chains, so that nobody can fill the memory or keep old keys alive (R12).

use std::sync::Arc;

use super::super::Time;
use super::super::dh::DhPublic;
use super::super::error::Error;
use super::super::wire::{Reader, Writer};
use super::Position;
use super::chain::MessageKey;

/// Retired receiving chains, beside the current one.
const MAX_RETIRED: usize = 4;
/// Stored keys of a session.
const MAX_SKIPPED: usize = 2_000;
/// Life of a stored key: 14 days.
const LIFE: Time = 14 * 24 * 60 * 60 * 1000;

/// Bytes of one key in a record.
const KEY_RECORD: usize = 32 + 4 + 32 + 8;

#[derive(Clone, Default)]
pub(super) struct Skipped {
    /// Old receiving ratchet keys, oldest first.
    retired: Vec<DhPublic>,
    /// Oldest first.
    keys: Vec<SkippedKey>,
}

#[derive(Clone)]
struct SkippedKey {
    ratchet_key: DhPublic,
    n: u32,
    key: Arc<MessageKey>,
    stored_at: Time,
}

impl SkippedKey {
    fn is_at(&self, at: &Position) -> bool {
        self.n == at.n && self.ratchet_key == at.ratchet_key
    }

    fn has_expired(&self, now: Time) -> bool {
        now.saturating_sub(self.stored_at) > LIFE
    }
}

impl Skipped {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many keys were stored after the one time and at the other or before.
    pub(super) fn stored_between(&self, after: Time, until: Time) -> usize {
        self.keys.iter().filter(|key| key.stored_at > after && key.stored_at <= until).count()
    }

    pub(super) fn has(&self, at: &Position) -> bool {
        self.keys.iter().any(|key| key.is_at(at))
    }

    /// Takes a key out: it opens one message, once.
    pub(super) fn take(&mut self, at: &Position) -> Option<Arc<MessageKey>> {
        let index = self.keys.iter().position(|key| key.is_at(at))?;
        Some(self.keys.remove(index).key)
    }

    pub(super) fn keep(&mut self, ratchet_key: DhPublic, n: u32, key: MessageKey, now: Time) {
        self.keys.push(SkippedKey { ratchet_key, n, key: Arc::new(key), stored_at: now });
    }

    pub(super) fn is_retired(&self, ratchet_key: &DhPublic) -> bool {
        self.retired.contains(ratchet_key)
    }

    pub(super) fn retire(&mut self, ratchet_key: DhPublic) {
        self.retired.push(ratchet_key);
    }

    pub(super) fn has_expired(&self, now: Time) -> bool {
        self.keys.iter().any(|key| key.has_expired(now))
    }

    pub(super) fn drop_expired(&mut self, now: Time) {
        self.keys.retain(|key| !key.has_expired(now));
    }

    pub(super) fn exceeds_bounds(&self) -> bool {
        self.retired.len() > MAX_RETIRED || self.keys.len() > MAX_SKIPPED
    }

    /// Drops the oldest chains with their keys, then the oldest keys.
    pub(super) fn enforce_bounds(&mut self) {
        while self.retired.len() > MAX_RETIRED {
            let oldest = self.retired.remove(0);
            self.keys.retain(|key| key.ratchet_key != oldest);
        }
        let surplus = self.keys.len().saturating_sub(MAX_SKIPPED);
        self.keys.drain(..surplus);
    }

    pub(super) fn record_len(&self) -> usize {
        8 + self.retired.len() * 32 + self.keys.len() * KEY_RECORD
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        let Self { retired, keys } = self;
        writer.count(retired.len());
        for key in retired {
            writer.bytes(key.as_bytes());
        }
        writer.count(keys.len());
        for SkippedKey { ratchet_key, n, key, stored_at } in keys {
            writer.bytes(ratchet_key.as_bytes()).u32(*n).bytes(key.expose()).u64(*stored_at);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let retired = (0..reader.u32()?).map(|_| Ok(DhPublic(*reader.array()?))).collect::<Result<_, _>>()?;
        let keys = (0..reader.u32()?)
            .map(|_| {
                let (ratchet_key, n) = (DhPublic(*reader.array()?), reader.u32()?);
                let key = Arc::new(MessageKey::copy_of(reader.array()?));
                Ok(SkippedKey { ratchet_key, n, key, stored_at: reader.u64()? })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { retired, keys })
    }

    #[cfg(test)]
    pub(super) fn as_json(&self) -> (serde_json::Value, serde_json::Value) {
        let skipped =
            |key: &SkippedKey| serde_json::json!([hex::encode(key.ratchet_key.0), key.n, hex::encode(key.key.expose())]);
        let retired: Vec<String> = self.retired.iter().map(|key| hex::encode(key.0)).collect();
        (retired.into(), self.keys.iter().map(skipped).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(chain: u8, n: u32) -> Position {
        Position { ratchet_key: DhPublic([chain; 32]), pn: 0, n }
    }

    fn keep(skipped: &mut Skipped, chain: u8, numbers: std::ops::Range<u32>, now: Time) {
        numbers.for_each(|n| skipped.keep(DhPublic([chain; 32]), n, MessageKey::copy_of(&[chain; 32]), now));
    }

    #[test]
    fn a_key_is_taken_once() {
        let mut skipped = Skipped::default();
        keep(&mut skipped, 1, 3..5, 0);
        assert!(skipped.has(&at(1, 4)) && !skipped.has(&at(2, 4)) && !skipped.has(&at(1, 5)));
        assert!(skipped.take(&at(1, 4)).is_some());
        assert!(skipped.take(&at(1, 4)).is_none());
        assert_eq!(skipped.len(), 1);
    }

    #[test]
    fn keys_live_fourteen_days() {
        let mut skipped = Skipped::default();
        keep(&mut skipped, 1, 0..1, 10);
        keep(&mut skipped, 1, 1..2, 20);
        assert!(!skipped.has_expired(10 + LIFE) && skipped.has_expired(11 + LIFE));
        skipped.drop_expired(11 + LIFE);
        assert!(!skipped.has(&at(1, 0)) && skipped.has(&at(1, 1)));
    }

    #[test]
    fn the_oldest_chains_and_keys_go_first() {
        let mut skipped = Skipped::default();
        for chain in 1..=5 {
            skipped.retire(DhPublic([chain; 32]));
            keep(&mut skipped, chain, 0..1, 0);
        }
        assert!(skipped.exceeds_bounds());
        skipped.enforce_bounds();
        assert!(!skipped.is_retired(&DhPublic([1; 32])) && skipped.is_retired(&DhPublic([2; 32])));
        assert!(!skipped.has(&at(1, 0)) && skipped.has(&at(2, 0)));
        keep(&mut skipped, 9, 0..2_000, 0);
        assert!(skipped.exceeds_bounds());
        skipped.enforce_bounds();
        assert_eq!((skipped.len(), skipped.has(&at(5, 0)), skipped.has(&at(9, 0))), (2_000, false, true));
    }
}
