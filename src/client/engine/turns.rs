//! Whose turn it is in the outbox: the first row of each channel, and device batches. Thousands may wait, so every question
//! is answered without walking them. Knows no store, no frame and no clock; start with [`Turns::next`].

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::protocol::ids::ChannelId;

/// What has to be known of an entry without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The channel that it is a row of: rows of one channel go one after the other.
    pub lane: Option<ChannelId>,
    /// The channel that waits for this device batch.
    pub gate: Option<ChannelId>,
    pub id: Uuid,
    /// Refused for good.
    pub failed: bool,
    pub under_way: bool,
    /// Milliseconds; 0: now. While it is under way: when its answer is overdue.
    pub not_before: u64,
}

/// The heads of all entries, by their order of writing, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Turns {
    heads: BTreeMap<u64, Head>,
    /// Two channels may hold rows of one id, if their writer chose so.
    ids: BTreeSet<(Uuid, u64)>,
    /// Rows that were not refused.
    lanes: BTreeMap<ChannelId, BTreeSet<u64>>,
    /// Batches that each channel waits for.
    gates: BTreeMap<ChannelId, usize>,
    ready: BTreeSet<u64>,
    /// Under way or held back: until when, and which.
    resting: BTreeSet<(u64, u64)>,
    under_way: usize,
    waiting: usize,
}

impl Turns {
    /// The first entry from this order on that may go now.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        self.ready.range(from..).next().copied()
    }

    /// When the next entry that is under way or held back has to be looked at, milliseconds.
    pub(super) fn due(&self) -> Option<u64> {
        self.resting.first().map(|(at, _)| *at)
    }

    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Rows that wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Rows of channels, in the order of writing: what waits, and what was refused.
    pub(super) fn rows(&self) -> impl Iterator<Item = u64> {
        self.heads.iter().filter(|(_, head)| head.lane.is_some()).map(|(order, _)| *order)
    }

    /// Rows of one channel that were not refused.
    pub(super) fn rows_of(&self, channel_id: ChannelId) -> Vec<u64> {
        self.lanes.get(&channel_id).into_iter().flatten().copied().collect()
    }

    pub(super) fn head(&self, order: u64) -> Option<&Head> {
        self.heads.get(&order)
    }

    pub(super) fn find(&self, id: Uuid) -> Option<u64> {
        self.ids.range((id, 0)..).next().filter(|(of, _)| *of == id).map(|(_, order)| *order)
    }

    /// A channel whose keys are still on their way.
    pub(super) fn is_gated(&self, channel_id: ChannelId) -> bool {
        self.gates.contains_key(&channel_id)
    }

    /// An entry is new, or another one than it was.
    pub(super) fn put(&mut self, order: u64, head: Head) {
        self.remove(order);
        self.ids.insert((head.id, order));
        if !head.failed {
            if let Some(gate) = head.gate {
                *self.gates.entry(gate).or_default() += 1;
            }
            if let Some(lane) = head.lane {
                let lane = self.lanes.entry(lane).or_default();
                if let Some(first) = lane.first().filter(|first| **first > order) {
                    self.ready.remove(first);
                }
                lane.insert(order);
                self.waiting += 1;
            }
            self.under_way += usize::from(head.under_way);
            if head.rests() {
                self.resting.insert((head.not_before, order));
            }
        }
        self.heads.insert(order, head);
        self.call(order);
    }

    pub(super) fn remove(&mut self, order: u64) {
        let Some(head) = self.heads.remove(&order) else { return };
        self.ids.remove(&(head.id, order));
        if head.failed {
            return;
        }
        if let Some(gate) = head.gate
            && let Some(count) = self.gates.get_mut(&gate)
        {
            *count -= 1;
            if *count == 0 {
                self.gates.remove(&gate);
            }
        }
        self.under_way -= usize::from(head.under_way);
        self.resting.remove(&(head.not_before, order));
        self.ready.remove(&order);
        if let Some(channel_id) = head.lane
            && let Some(lane) = self.lanes.get_mut(&channel_id)
        {
            lane.remove(&order);
            self.waiting -= 1;
            match lane.first().copied() {
                Some(first) => self.call(first),
                None => drop(self.lanes.remove(&channel_id)),
            }
        }
    }

    /// Sent; its answer is overdue then.
    pub(super) fn sent(&mut self, order: u64, overdue: u64) {
        self.change(order, |head| (head.under_way, head.not_before) = (true, overdue));
    }

    /// It may go again from then on; 0: now.
    pub(super) fn hold_back(&mut self, order: u64, until: u64) {
        self.change(order, |head| (head.under_way, head.not_before) = (false, until));
    }

    /// What was held back in a channel may go now.
    pub(super) fn let_go(&mut self, channel_id: ChannelId) {
        for order in self.rows_of(channel_id) {
            if self.heads.get(&order).is_some_and(|head| !head.under_way && head.not_before > 0) {
                self.hold_back(order, 0);
            }
        }
    }

    /// Refused for good.
    pub(super) fn fail(&mut self, order: u64) {
        self.change(order, |head| (head.failed, head.under_way, head.not_before) = (true, false, 0));
    }

    /// What is overdue, or was held back until now, may go.
    pub(super) fn wake(&mut self, now: u64) {
        while let Some((_, order)) = self.resting.first().copied().filter(|(at, _)| *at <= now) {
            self.hold_back(order, 0);
        }
    }

    /// Nothing is under way any more.
    pub(super) fn line_lost(&mut self) {
        let under_way = |order: &u64| self.heads.get(order).is_some_and(|head| head.under_way);
        let orders: Vec<u64> = self.resting.iter().map(|(_, order)| *order).filter(under_way).collect();
        for order in orders {
            self.hold_back(order, 0);
        }
    }

    /// The clock was set back: nothing waits for a time that it had.
    pub(super) fn clock_set_back(&mut self) {
        self.wake(u64::MAX);
    }

    fn change(&mut self, order: u64, change: impl FnOnce(&mut Head)) {
        if let Some(mut head) = self.heads.get(&order).cloned() {
            change(&mut head);
            self.put(order, head);
        }
    }

    /// An entry may go when it does not rest and nothing is before it in its channel.
    fn call(&mut self, order: u64) {
        let Some(head) = self.heads.get(&order) else { return };
        let first = head.lane.and_then(|lane| self.lanes.get(&lane)?.first().copied());
        if !head.failed && !head.rests() && first.is_none_or(|first| first == order) {
            self.ready.insert(order);
        }
    }
}

impl Head {
    const fn rests(&self) -> bool {
        self.under_way || self.not_before > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(number: u8) -> ChannelId {
        ChannelId::from_bytes([number; 16])
    }

    fn row(lane: u8, id: u64) -> Head {
        Head {
            lane: Some(channel(lane)),
            gate: None,
            id: Uuid::from_u128(id.into()),
            failed: false,
            under_way: false,
            not_before: 0,
        }
    }

    fn batch(gate: Option<u8>, id: u64) -> Head {
        Head { lane: None, gate: gate.map(channel), ..row(0, id) }
    }

    fn ready(turns: &Turns) -> Vec<u64> {
        turns.ready.iter().copied().collect()
    }

    #[test]
    fn of_five_thousand_messages_in_a_channel_one_is_looked_at() {
        let mut turns = Turns::default();
        for order in 1..=5_000 {
            turns.put(order, row(1, order));
        }
        turns.put(5_001, row(2, 5_001));
        turns.put(5_002, batch(Some(1), 5_002));
        assert_eq!(ready(&turns), [1, 5_001, 5_002]);
        turns.sent(1, 60_000);
        assert_eq!(ready(&turns), [5_001, 5_002], "the next of a channel waits for the answer to the first");
        assert_eq!((turns.due(), turns.under_way(), turns.waiting()), (Some(60_000), 1, 5_001));
        turns.remove(1);
        assert_eq!(ready(&turns), [2, 5_001, 5_002]);
        turns.fail(2);
        assert_eq!(ready(&turns), [3, 5_001, 5_002]);
        turns.put(2, row(1, 2));
        assert_eq!(ready(&turns), [2, 5_001, 5_002], "what is tried again has its old place");
        turns.hold_back(2, 70_000);
        assert_eq!((ready(&turns), turns.due()), (vec![5_001, 5_002], Some(70_000)), "what is held back holds back its channel");
        turns.wake(70_000);
        assert_eq!(ready(&turns), [2, 5_001, 5_002]);
    }

    /// What the answers have to be, found by walking everything.
    fn check(turns: &Turns) {
        let heads = &turns.heads;
        let mut lanes = BTreeSet::new();
        let turn = |(order, head): (&u64, &Head)| {
            let first = !head.failed && head.lane.is_none_or(|lane| lanes.insert(lane));
            (first && !head.rests()).then_some(*order)
        };
        let expected: Vec<u64> = heads.iter().filter_map(turn).collect();
        assert_eq!(ready(turns), expected);
        let alive = || heads.values().filter(|head| !head.failed);
        assert_eq!(turns.under_way(), alive().filter(|head| head.under_way).count());
        assert_eq!(turns.waiting(), alive().filter(|head| head.lane.is_some()).count());
        assert_eq!(turns.due(), alive().filter(|head| head.rests()).map(|head| head.not_before).min());
        for number in 0..3 {
            let of_lane = |head: &&Head| head.lane == Some(channel(number));
            assert_eq!(turns.rows_of(channel(number)).len(), alive().filter(of_lane).count());
            assert_eq!(turns.is_gated(channel(number)), alive().any(|head| head.gate == Some(channel(number))));
        }
        for id in 0..30 {
            let id = Uuid::from_u128(id);
            assert_eq!(turns.find(id), heads.iter().find(|(_, head)| head.id == id).map(|(order, _)| *order));
        }
    }

    proptest! {
        #[test]
        fn the_turns_are_what_walking_everything_would_find(
            acts in proptest::collection::vec((0..9_u8, 0..30_u64, 0..3_u8, 0..50_u64), 1..120),
        ) {
            let mut turns = Turns::default();
            for (act, order, number, time) in acts {
                match act {
                    0 | 1 => turns.put(order, row(number, order % 20)),
                    2 => turns.put(order, batch((number > 0).then_some(number), order)),
                    3 => turns.remove(order),
                    // Only what waits is sent, held back or refused.
                    4 if turns.ready.contains(&order) => turns.sent(order, time),
                    5 if turns.ready.contains(&order) => turns.hold_back(order, time),
                    6 if turns.heads.get(&order).is_some_and(|head| head.lane.is_some()) => turns.fail(order),
                    7 => turns.wake(time),
                    8 if time == 0 => turns.clock_set_back(),
                    8 if time < 10 => turns.line_lost(),
                    _ => {}
                }
                check(&turns);
            }
        }
    }
}
