//! Ops on their way to a membership log: who named how many, what is asked for, and what waits for its turn. Nothing is
//! verified here; `membership` takes what has its turn.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::store::StoreError;
use crate::crypto::membership::{Change, Op};
use crate::protocol::communities::LogOps;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, LogId, UserId};
use crate::protocol::limits::LOG_OPS_PAGE_MAX;

use super::http::{Failure, Question};
use super::io::Method;
use super::membership::LogStatus;
use super::{Cx, Engine};

/// Ops of one log that wait for the ones before them, or for their actors' lists.
const PENDING_MAX: usize = 2_000;
/// A server that names a head and does not show the way to it is asked again after a second, two, four and so on.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 600_000;
/// After so many times nothing waits for that log any more.
const FAILURES_MAX: u32 = 5;
/// Ops that members show for places that are taken: each may be the other half of a fork, and costs a look at the whole log.
const JUDGED_MAX: u32 = 10;
const MINUTE_MS: u64 = 60_000;

/// What is known of a log beyond its verified part.
#[derive(Debug, Default)]
pub(super) struct LogFeed {
    /// The highest seq that somebody named.
    head: u64,
    /// It was never fetched, or has to be looked at again.
    wanted: bool,
    asked: bool,
    /// Up to where the log was verified when it was asked for.
    asked_after: Option<u64>,
    pending: BTreeMap<u64, Pending>,
    /// Questions in a row that brought nothing, and when to ask again, milliseconds.
    failures: u32,
    not_before: u64,
    /// Since when, and how many ops of members were judged.
    judged: (u64, u32),
    /// The server shows another beginning than the one that was told, or an earlier end than was verified: nothing waits for this
    /// log, and nothing is sent.
    disputed: bool,
    /// Lists that were asked for and did not help.
    tried: BTreeSet<(UserId, [u8; 32], u64, bool)>,
}

/// Where an op came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    Server,
    /// The session of a current member.
    Member,
}

/// An op that waits for its turn.
#[derive(Debug)]
struct Pending {
    op: Vec<u8>,
    /// What a member showed and does not hold says nothing of the server.
    from: Feed,
}

impl LogFeed {
    /// Of a log that the store holds, with the highest seq that was named before.
    pub(super) fn known_to(head: u64) -> Self {
        Self { head, ..Self::default() }
    }

    /// It was in dispute when the client ended; the server may show it otherwise by now.
    pub(super) const fn stay_disputed(&mut self) {
        (self.disputed, self.wanted) = (true, true);
    }

    pub(super) const fn is_disputed(&self) -> bool {
        self.disputed
    }

    /// Whether that is news.
    pub(super) const fn dispute(&mut self, disputed: bool) -> bool {
        std::mem::replace(&mut self.disputed, disputed) != disputed
    }

    pub(super) const fn head(&self) -> u64 {
        self.head
    }

    /// The op whose turn it is after the verified ones; those before it are dropped.
    pub(super) fn turn(&mut self, next: u64) -> Option<(Vec<u8>, Feed)> {
        self.pending.retain(|seq, _| *seq >= next);
        self.pending.get(&next).map(|pending| (pending.op.clone(), pending.from))
    }

    pub(super) fn applied(&mut self, seq: u64) {
        self.pending.remove(&seq);
        (self.failures, self.not_before) = (0, 0);
    }

    /// Whether at most one op waits still.
    pub(super) fn is_at_end(&self) -> bool {
        self.pending.len() <= 1
    }

    /// An op does not hold: it is nothing to wait for.
    pub(super) fn give_up(&mut self, seq: u64, epoch: u64) {
        self.pending.remove(&seq);
        (self.head, self.wanted) = (epoch, false);
    }

    /// Whether one more op of a member for a place that is taken may cost a look at the whole log.
    pub(super) fn may_judge(&mut self, now: u64) -> bool {
        if now.abs_diff(self.judged.0) >= MINUTE_MS {
            self.judged = (now, 0);
        }
        self.judged.1 += 1;
        self.judged.1 <= JUDGED_MAX
    }

    pub(super) fn clock_set_back(&mut self) {
        self.not_before = 0;
    }
}

impl Engine {
    pub(super) fn feed(&mut self, log_id: LogId) -> &mut LogFeed {
        self.feeds.entry(log_id).or_default()
    }

    /// Somebody names a head: when it is above what is verified, ops are missing.
    pub(super) fn hint_log_head(&mut self, log_id: LogId, head: u64) {
        let feed = self.feed(log_id);
        if head < 1 << 63 {
            feed.head = feed.head.max(head);
        }
    }

    /// The log has to be known.
    pub(super) fn want_log(&mut self, log_id: LogId) {
        if !self.logs.contains_key(&log_id) && self.feeds.len() < 50_000 {
            self.feed(log_id).wanted = true;
        }
    }

    /// The server knows of ops that this client has not seen.
    pub(super) fn log_is_behind(&mut self, channel_id: ChannelId, head: u64) {
        if let Some(log_id) = self.places.state(channel_id).log {
            self.hint_log_head(log_id, head);
            self.feed(log_id).wanted = true;
        }
    }

    pub(super) fn look_at_log(&mut self, log_id: LogId) {
        self.feed(log_id).wanted = true;
    }

    /// Whether everything that was heard of this log is verified.
    pub(super) fn is_log_current(&self, log_id: LogId) -> bool {
        match (self.logs.get(&log_id), self.feeds.get(&log_id)) {
            (Some(state), Some(feed)) => feed.head <= state.log.epoch() && !feed.wanted && !feed.asked,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Whether everything that was heard of this log is verified, fetched again or not.
    pub(super) fn is_log_verified(&self, log_id: LogId) -> bool {
        let head = self.feeds.get(&log_id).map_or(0, |feed| feed.head);
        self.logs.get(&log_id).is_some_and(|state| head <= state.log.epoch())
    }

    /// Whether the log is verified up to there.
    pub(super) fn knows_log_to(&self, log_id: LogId, seq: u64) -> bool {
        self.logs.get(&log_id).is_some_and(|state| state.log.epoch() >= seq)
    }

    /// All logs have to be looked at again.
    pub(super) fn look_at_logs(&mut self) {
        for log_id in self.logs.keys() {
            self.feeds.entry(*log_id).or_default().wanted = true;
        }
    }

    /// Whether it is worth waiting for more of a log.
    pub(super) fn may_advance(&self, log_id: LogId) -> bool {
        self.logs.get(&log_id).is_none_or(|state| state.status == LogStatus::Good)
            && self.feeds.get(&log_id).is_none_or(|feed| feed.failures < FAILURES_MAX && !feed.disputed)
    }

    pub(super) fn pump_logs(&mut self, cx: &mut Cx<'_>) {
        self.timers.logs = None;
        if !self.is_online() || self.timers.paused(cx.now) {
            return;
        }
        let (live, time) = (self.is_live(), cx.now.as_unix_ms());
        let awaited: BTreeSet<LogId> = self.feeds.keys().filter(|log_id| self.is_log_awaited(**log_id)).copied().collect();
        let mut asks = Vec::new();
        for (log_id, feed) in &mut self.feeds {
            let epoch = self.logs.get(log_id).map(|state| state.log.epoch());
            let broken = self.logs.get(log_id).is_some_and(|state| matches!(state.status, LogStatus::Broken(_)));
            let next = epoch.map_or(0, |epoch| epoch + 1);
            let behind = epoch.is_some_and(|epoch| feed.head > epoch) && !broken;
            // While catching up the streams bring ops in order with the rows; only a log that never began, or that rows wait
            // for, is fetched then.
            let now = live || epoch.is_none() || awaited.contains(log_id);
            let wanted = feed.wanted || behind || awaited.contains(log_id);
            if !now || feed.asked || feed.pending.contains_key(&next) || !wanted {
                continue;
            }
            if feed.not_before > time {
                self.timers.logs = Some(self.timers.logs.map_or(feed.not_before, |at| at.min(feed.not_before)));
                continue;
            }
            feed.asked = true;
            feed.asked_after = epoch;
            feed.wanted = false;
            asks.push((*log_id, epoch));
        }
        for (log_id, epoch) in asks {
            match self.log_path(log_id) {
                Some(path) => {
                    let after = epoch.map_or(-1, |epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
                    let path = format!("{path}/log-ops?after={after}&limit={LOG_OPS_PAGE_MAX}");
                    self.ask(cx, Question::LogOps(log_id), Method::Get, path, None);
                }
                None => self.feed(log_id).asked = false,
            }
        }
    }

    pub(super) fn log_path(&self, log_id: LogId) -> Option<String> {
        if self.places.communities.contains_key(&CommunityId(log_id.0)) {
            Some(format!("/communities/{log_id}"))
        } else if self.places.groups.contains_key(&GroupId(log_id.0)) {
            Some(format!("/groups/{log_id}"))
        } else if self.places.channels.contains_key(&ChannelId(log_id.0)) {
            Some(format!("/channels/{log_id}"))
        } else {
            None
        }
    }

    pub(super) fn on_log_ops(
        &mut self,
        cx: &mut Cx<'_>,
        log_id: LogId,
        answer: Result<LogOps, Failure>,
    ) -> Result<(), StoreError> {
        let epoch = |engine: &Self| engine.logs.get(&log_id).map(|state| state.log.epoch());
        let (before, feed) = (epoch(self), self.feed(log_id));
        feed.asked = false;
        let verified = feed.asked_after.take();
        let fruitless = match answer {
            Ok(page) => {
                let shown = page.head_seq;
                self.take_ops(cx, log_id, page)?;
                if let Some(verified) = verified {
                    self.compare_ends(cx, log_id, verified, shown)?;
                }
                let (after, awaited) = (epoch(self), self.is_log_awaited(log_id));
                let (next, feed) = (after.map_or(0, |epoch| epoch + 1), self.feed(log_id));
                after == before && (feed.head >= next || awaited) && !feed.pending.contains_key(&next)
            }
            Err(failure) if failure.is_final() => true,
            Err(failure) => {
                feed.wanted = true;
                self.timers.back_off(cx.now, failure.retry_after_ms());
                false
            }
        };
        if fruitless {
            let feed = self.feed(log_id);
            let wait = RETRY_MIN_MS.saturating_mul(1 << feed.failures.min(16)).min(RETRY_MAX_MS);
            feed.failures = feed.failures.saturating_add(1);
            feed.not_before = cx.now.as_unix_ms().saturating_add(wait);
        }
        Ok(())
    }

    /// A page of a log, from the server.
    pub(super) fn take_ops(&mut self, cx: &mut Cx<'_>, log_id: LogId, page: LogOps) -> Result<(), StoreError> {
        let LogOps { items, head_seq, next_after } = page;
        self.hint_log_head(log_id, head_seq);
        let more = next_after.is_some() && !items.is_empty();
        self.feed(log_id).wanted |= more;
        for op in items {
            if let Ok(parsed) = Op::parse(&op.0) {
                self.hold_op(cx, log_id, parsed.seq, op.0, Feed::Server)?;
            }
        }
        self.advance_log(cx, log_id)?;
        let epoch = self.logs.get(&log_id).map(|state| state.log.epoch());
        let next = epoch.map_or(0, |epoch| epoch + 1);
        let feed = self.feed(log_id);
        if !more && !feed.pending.contains_key(&next) {
            // That is all there is. A head that was named beyond it is nothing to wait for.
            feed.head = feed.head.min(head_seq.max(epoch.unwrap_or(0)));
        }
        Ok(())
    }

    /// One op out of a stream.
    pub(super) fn offer_op(&mut self, cx: &mut Cx<'_>, log_id: LogId, seq: u64, op: Vec<u8>) -> Result<(), StoreError> {
        if !Op::parse(&op).is_ok_and(|op| op.seq == seq && op.log_id == *log_id.as_bytes()) {
            return Ok(());
        }
        self.hint_log_head(log_id, seq);
        self.hold_op(cx, log_id, seq, op, Feed::Server)?;
        self.advance_log(cx, log_id)
    }

    /// Keeps an op for its turn; one for a place that is taken may be the other half of a fork. What a member sent gives way to
    /// what the server sends: made-up ops must not hide the real ones.
    pub(super) fn hold_op(
        &mut self,
        cx: &mut Cx<'_>,
        log_id: LogId,
        seq: u64,
        op: Vec<u8>,
        from: Feed,
    ) -> Result<(), StoreError> {
        if let Some(state) = self.logs.get(&log_id)
            && seq <= state.log.epoch()
        {
            return self.judge_op(cx, log_id, &op, from);
        }
        let feed = self.feed(log_id);
        let free = match (feed.pending.get(&seq), from) {
            (Some(_), Feed::Server) => true,
            (Some(_), Feed::Member) => false,
            (None, _) => feed.pending.len() < PENDING_MAX,
        };
        if free {
            feed.pending.insert(seq, Pending { op, from });
        }
        Ok(())
    }

    pub(super) fn retry_logs(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let waiting: Vec<LogId> = self.feeds.iter().filter(|(_, feed)| !feed.pending.is_empty()).map(|(id, _)| *id).collect();
        for log_id in waiting {
            self.advance_log(cx, log_id)?;
        }
        Ok(())
    }

    /// Asks for the lists that an op refers to; false when they were fetched and do not contain its signer.
    pub(super) fn want_actor(&mut self, log_id: LogId, op: &[u8]) -> bool {
        let Ok(op) = Op::parse(op) else { return false };
        let user_id = UserId::from_bytes(op.actor.user_id);
        let identity = match op.change {
            Change::Create { identity, .. } | Change::Join { identity, .. } => identity,
            _ => match self.logs.get(&log_id).and_then(|state| state.log.member(&op.actor.user_id)) {
                Some(member) => member.identity,
                None => return false,
            },
        };
        // First the newest lists of whom the server names now, which are wanted anyway; then all lists of this very identity.
        let known = self.contacts.contains_key(&user_id) && !self.lists.stale.contains(&user_id);
        if !known && self.feed(log_id).tried.insert((user_id, identity, op.list_seq, false)) {
            self.want_list(user_id);
            return true;
        }
        if self.lists.asked.contains(&user_id) {
            return true;
        }
        if self.feed(log_id).tried.insert((user_id, identity, op.list_seq, true)) {
            self.want_old_lists(user_id, identity);
            return true;
        }
        self.is_old_list_asked(user_id, identity)
    }

    /// What a member showed and does not hold is asked of the server instead; false for the server's own op.
    pub(super) fn drop_members_op(&mut self, log_id: LogId, seq: u64, from: Feed) -> bool {
        if from == Feed::Member {
            let feed = self.feed(log_id);
            feed.pending.remove(&seq);
            feed.wanted = true;
        }
        from == Feed::Member
    }
}
