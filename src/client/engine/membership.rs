//! Membership logs (`crypto.md` 11): fetched, verified op by op, pinned. Who may read a channel is what these logs say;
//! a row of the server that says otherwise is a hint and nothing more.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::model::{Problem, ProblemKind, SystemLine};
use crate::client::store::{Store, StoreError, Table};
use crate::crypto::Error;
use crate::crypto::content::{Body, MembershipOps};
use crate::crypto::membership::{self, Change, Log, Op};
use crate::protocol::communities::{LogOps, Role};
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, LogId, UserId};
use crate::protocol::limits::LOG_OPS_PAGE_MAX;

use super::contacts::StoredCerts;
use super::db::{Db, damaged, key};
use super::http::{Failure, Question};
use super::io::Method;
use super::{Cx, Engine};

/// Ops of one log that wait for the ones before them, or for their actors' lists.
const PENDING_MAX: usize = 2_000;
/// Channels of a log that show a line about each change.
const LINES_MAX: usize = 20;
/// A server that names a head and does not show the way to it is asked again after a second, two, four and so on.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 600_000;
/// After so many times nothing waits for that log any more.
const FAILURES_MAX: u32 = 5;
/// Ops that members show for places that are taken: each may be the other half of a fork, and costs a look at the whole log.
const JUDGED_MAX: u32 = 10;
const MINUTE_MS: u64 = 60_000;

/// A verified log.
#[derive(Debug)]
pub(super) struct LogState {
    pub log: Log,
    pub status: LogStatus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogStatus {
    Good,
    /// Equivocation: nothing is sent.
    Stopped,
    /// The server's next op does not hold; what is verified stays in force.
    Broken(String),
}

/// What is known of a log beyond its verified part.
#[derive(Debug, Default)]
pub(super) struct LogFeed {
    /// The highest seq that somebody named.
    head: u64,
    /// It was never fetched, or has to be looked at again.
    wanted: bool,
    asked: bool,
    pending: BTreeMap<u64, Pending>,
    /// Questions in a row that brought nothing, and when to ask again, milliseconds.
    failures: u32,
    not_before: u64,
    /// Since when, and how many ops of members were judged.
    judged: (u64, u32),
    /// Lists that were asked for and did not help.
    tried: BTreeSet<(UserId, [u8; 32], u64, bool)>,
}

/// Where an op came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    Server,
    /// The session of a current member.
    Member,
}

impl LogFeed {
    pub(super) fn clock_set_back(&mut self) {
        self.not_before = 0;
    }
}

/// An op that waits for its turn.
#[derive(Debug)]
struct Pending {
    op: Vec<u8>,
    /// What a member showed and does not hold says nothing of the server.
    from: Feed,
}

impl LogState {
    pub(super) fn member_count(&self) -> u32 {
        u32::try_from(self.log.members().count()).unwrap_or(u32::MAX)
    }
}

/// Logs by their id.
pub(super) type ById<T> = BTreeMap<LogId, T>;

pub(super) fn open(store: &dyn Store) -> Result<(ById<LogState>, ById<LogFeed>), StoreError> {
    let db = Db::new(store);
    let (mut logs, mut feeds) = (BTreeMap::new(), BTreeMap::new());
    for (_, record) in db.scan(Table::Logs, &[], usize::MAX)? {
        let (head, record) = record.split_first_chunk::<8>().ok_or_else(|| damaged(Table::Logs, "too short"))?;
        let log = Log::from_record(record).map_err(|error| damaged(Table::Logs, error))?;
        let id = LogId::from_bytes(*log.id());
        let status = if log.is_stopped() { LogStatus::Stopped } else { LogStatus::Good };
        feeds.insert(id, LogFeed { head: u64::from_be_bytes(*head), ..LogFeed::default() });
        logs.insert(id, LogState { log, status });
    }
    Ok((logs, feeds))
}

pub(super) const fn role_of(role: membership::Role) -> Role {
    match role {
        membership::Role::Member => Role::Member,
        membership::Role::Moderator => Role::Moderator,
        membership::Role::Admin => Role::Admin,
        membership::Role::Owner => Role::Owner,
    }
}

pub(super) const fn log_role(role: Role) -> membership::Role {
    match role {
        Role::Member => membership::Role::Member,
        Role::Moderator => membership::Role::Moderator,
        Role::Admin => membership::Role::Admin,
        Role::Owner => membership::Role::Owner,
    }
}

/// The head that a member named last.
fn claim_key(log_id: LogId) -> Vec<u8> {
    key(&[b"head/", log_id.as_bytes()])
}

fn pin_key(log_id: LogId) -> Vec<u8> {
    key(&[b"genesis/", log_id.as_bytes()])
}

impl Engine {
    pub(super) fn role_in_log(&self, log_id: LogId, user_id: UserId) -> Option<Role> {
        self.logs.get(&log_id)?.log.member(user_id.as_bytes()).map(|member| role_of(member.role))
    }

    /// The verified log of a channel.
    pub(super) fn log_of(&self, channel_id: ChannelId) -> Option<&LogState> {
        self.logs.get(&self.places.states.get(&channel_id)?.log?)
    }

    pub(super) fn own_role(&self, channel_id: ChannelId) -> Option<membership::Role> {
        let log = &self.log_of(channel_id)?.log;
        log.role_at(self.me_id().as_bytes(), log.epoch())
    }

    fn feed(&mut self, log_id: LogId) -> &mut LogFeed {
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

    /// Whether it is worth waiting for more of a log.
    pub(super) fn may_advance(&self, log_id: LogId) -> bool {
        self.logs.get(&log_id).is_none_or(|state| state.status == LogStatus::Good)
            && self.feeds.get(&log_id).is_none_or(|feed| feed.failures < FAILURES_MAX)
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
        let fruitless = match answer {
            Ok(page) => {
                self.take_ops(cx, log_id, page)?;
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
    fn hold_op(&mut self, cx: &mut Cx<'_>, log_id: LogId, seq: u64, op: Vec<u8>, from: Feed) -> Result<(), StoreError> {
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

    fn judge_op(&mut self, cx: &mut Cx<'_>, log_id: LogId, op: &[u8], from: Feed) -> Result<(), StoreError> {
        let Some(state) = self.logs.get(&log_id) else { return Ok(()) };
        let Ok(parsed) = Op::parse(op) else { return Ok(()) };
        if state.log.head(parsed.seq) == Some(&parsed.head) {
            return Ok(());
        }
        if from == Feed::Member {
            let (now, judged) = (cx.now.as_unix_ms(), &mut self.feed(log_id).judged);
            if now.abs_diff(judged.0) >= MINUTE_MS {
                *judged = (now, 0);
            }
            judged.1 += 1;
            if judged.1 > JUDGED_MAX {
                return Ok(());
            }
        }
        let ops = self.stored_ops(cx, log_id)?;
        let Some(state) = self.logs.get_mut(&log_id) else { return Ok(()) };
        if let Ok(conflict) = state.log.judge(op, ops, &StoredCerts(&cx.db)) {
            state.log.stop(conflict);
            if state.status != LogStatus::Stopped {
                state.status = LogStatus::Stopped;
                cx.notice(
                    Problem::new(ProblemKind::Crypto, "Two different signed membership changes claim the same place.")
                        .hint("Nothing is sent there until an admin decides which is void: `chat resume`. The evidence is kept."),
                );
            }
            self.places.dirty = true;
            cx.db.put(Table::Evidence, key(&[log_id.as_bytes(), &parsed.seq.to_be_bytes(), &parsed.head]), op);
            self.save_log(cx, log_id);
        }
        Ok(())
    }

    fn stored_ops(&self, cx: &Cx<'_>, log_id: LogId) -> Result<Vec<Vec<u8>>, StoreError> {
        let ops = cx.db.scan(Table::LogOps, log_id.as_bytes(), usize::MAX)?;
        Ok(ops.into_iter().filter_map(|(_, value)| value.get(8..).map(<[u8]>::to_vec)).collect())
    }

    pub(super) fn retry_logs(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let waiting: Vec<LogId> = self.feeds.iter().filter(|(_, feed)| !feed.pending.is_empty()).map(|(id, _)| *id).collect();
        for log_id in waiting {
            self.advance_log(cx, log_id)?;
        }
        Ok(())
    }

    /// Applies what can be applied.
    pub(super) fn advance_log(&mut self, cx: &mut Cx<'_>, log_id: LogId) -> Result<(), StoreError> {
        let mut moved = false;
        loop {
            let next = self.logs.get(&log_id).map_or(0, |state| state.log.epoch() + 1);
            let feed = self.feed(log_id);
            feed.pending.retain(|seq, _| *seq >= next);
            let Some((op, from)) = feed.pending.get(&next).map(|pending| (pending.op.clone(), pending.from)) else {
                break;
            };
            let applied = match self.logs.get_mut(&log_id) {
                Some(state) => state.log.apply(&op, &StoredCerts(&cx.db)).map(|_| ()),
                None => {
                    let pin = cx.db.get(Table::Account, &pin_key(log_id))?.and_then(|pin| pin.as_slice().try_into().ok());
                    Log::start(log_id.as_bytes(), &op, pin.as_ref(), &StoredCerts(&cx.db)).map(|log| {
                        self.logs.insert(log_id, LogState { log, status: LogStatus::Good });
                    })
                }
            };
            match applied {
                Ok(()) => {
                    moved = true;
                    self.feed(log_id).pending.remove(&next);
                    let at = cx.now.as_unix_ms().to_be_bytes();
                    cx.db.put(Table::LogOps, key(&[log_id.as_bytes(), &next.to_be_bytes()]), [&at[..], &op].concat());
                    if let Ok(op) = Op::parse(&op) {
                        self.op_applied(cx, log_id, &op)?;
                    }
                }
                Err(Error::UnverifiedDevice) => {
                    if !self.want_actor(log_id, &op) && !self.drop_members_op(log_id, next, from) {
                        self.log_broken(cx, log_id, next, "the device that signed it is in no list of its user".into());
                    }
                    break;
                }
                Err(error) => {
                    if !self.drop_members_op(log_id, next, from) {
                        self.log_broken(cx, log_id, next, error.to_string());
                    }
                    break;
                }
            }
        }
        if moved {
            let feed = self.feed(log_id);
            (feed.failures, feed.not_before) = (0, 0);
            self.check_claim(cx, log_id)?;
            if let Some(state) = self.logs.get_mut(&log_id) {
                state.status = if state.log.is_stopped() { LogStatus::Stopped } else { LogStatus::Good };
            }
            self.save_log(cx, log_id);
            self.places.dirty = true;
            let channels: Vec<ChannelId> = self.places.channels.keys().copied().collect();
            for channel_id in channels {
                self.pin_log(cx, channel_id)?;
            }
            if self.feeds.get(&log_id).is_none_or(|feed| feed.pending.len() <= 1) {
                self.retry_held(cx)?;
            }
        }
        Ok(())
    }

    /// Asks for the lists that an op refers to; false when they were fetched and do not contain its signer.
    fn want_actor(&mut self, log_id: LogId, op: &[u8]) -> bool {
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
    fn drop_members_op(&mut self, log_id: LogId, seq: u64, from: Feed) -> bool {
        if from == Feed::Member {
            let feed = self.feed(log_id);
            feed.pending.remove(&seq);
            feed.wanted = true;
        }
        from == Feed::Member
    }

    /// Whether the log led to the head that a member named (`crypto.md` 11.6); looked at when it has come so far.
    fn check_claim(&mut self, cx: &mut Cx<'_>, log_id: LogId) -> Result<(), StoreError> {
        let at = claim_key(log_id);
        let Some((from, seq, head)) = cx.db.load::<(UserId, u64, [u8; 32])>(Table::Account, &at)? else { return Ok(()) };
        let Some(state) = self.logs.get(&log_id).filter(|state| state.log.epoch() >= seq) else { return Ok(()) };
        if state.log.head(seq) != Some(&head) {
            cx.notice(
                Problem::new(
                    ProblemKind::Crypto,
                    format!("{} sees another history of members than this client does.", self.name_of(from).raw()),
                )
                .hint("The server may be showing different membership to different people. Ask an admin."),
            );
        }
        cx.db.delete(Table::Account, at);
        Ok(())
    }

    fn log_broken(&mut self, cx: &mut Cx<'_>, log_id: LogId, seq: u64, why: String) {
        // What does not hold is nothing to wait for.
        let epoch = self.logs.get(&log_id).map_or(0, |state| state.log.epoch());
        let feed = self.feed(log_id);
        feed.pending.remove(&seq);
        feed.head = epoch;
        feed.wanted = false;
        let name = self
            .places
            .communities
            .get(&CommunityId(log_id.0))
            .map_or_else(|| "a channel".to_owned(), |community| community.name.clone());
        cx.notice(
            Problem::new(
                ProblemKind::Crypto,
                format!("The server sent a membership change of {name} that does not hold: {why}."),
            )
            .hint("It was not accepted: no keys go to anybody whom it would have added."),
        );
        if let Some(state) = self.logs.get_mut(&log_id)
            && state.status == LogStatus::Good
        {
            state.status = LogStatus::Broken(why);
        }
        self.places.dirty = true;
    }

    fn save_log(&mut self, cx: &mut Cx<'_>, log_id: LogId) {
        if let Some(state) = self.logs.get(&log_id) {
            let head = self.feeds.get(&log_id).map_or(0, |feed| feed.head).max(state.log.epoch());
            cx.db.put(Table::Logs, log_id.as_bytes(), [&head.to_be_bytes()[..], &state.log.to_record()].concat());
        }
    }

    /// When this client applied an op, milliseconds.
    pub(super) fn applied_at(&self, cx: &Cx<'_>, log_id: LogId, seq: u64) -> Result<Option<u64>, StoreError> {
        let value = cx.db.get(Table::LogOps, &key(&[log_id.as_bytes(), &seq.to_be_bytes()]))?;
        Ok(value.and_then(|value| value.first_chunk::<8>().map(|at| u64::from_be_bytes(*at))))
    }

    /// What a valid op changes beside the log itself.
    fn op_applied(&mut self, cx: &mut Cx<'_>, log_id: LogId, op: &Op) -> Result<(), StoreError> {
        let community = Some(CommunityId(log_id.0));
        let by = UserId::from_bytes(op.actor.user_id);
        let name = |user: UserId| self.places.name(community, user);
        let line = match &op.change {
            Change::Create { .. } => Some(SystemLine::Created { by: name(by) }),
            Change::Join { .. } => Some(SystemLine::Joined { who: name(by) }),
            Change::Add { user, .. } => Some(SystemLine::Added { who: name(UserId::from_bytes(*user)), by: name(by) }),
            Change::Leave => Some(SystemLine::Left { who: name(by) }),
            Change::Remove { user, ban } => {
                Some(SystemLine::Removed { who: name(UserId::from_bytes(*user)), by: name(by), banned: *ban })
            }
            Change::SetRole { user, role } => {
                Some(SystemLine::RoleChanged { who: name(UserId::from_bytes(*user)), by: name(by), role: role_of(*role) })
            }
            Change::Channel { channel_id, attach: true } => {
                let channel_id = ChannelId::from_bytes(*channel_id);
                let line = SystemLine::ChannelAttached { by: name(by) };
                self.pin_log(cx, channel_id)?;
                if self.places.channels.contains_key(&channel_id) {
                    self.local_line(cx, channel_id, line)?;
                }
                None
            }
            _ => None,
        };
        if let Some(line) = line {
            for channel_id in self.channels_with_lines(log_id) {
                self.local_line(cx, channel_id, line.clone())?;
            }
        }
        Ok(())
    }

    /// Where a change of members is shown (R1): in the first channel, and where this user has spoken lately.
    fn channels_with_lines(&self, log_id: LogId) -> Vec<ChannelId> {
        let mut channels: Vec<_> = self
            .places
            .channels
            .values()
            .filter(|channel| self.places.states.get(&channel.id).is_some_and(|state| state.log == Some(log_id)))
            .collect();
        channels.sort_by_key(|channel| (channel.position, channel.created_at, channel.id));
        let first = channels.first().map(|channel| channel.id);
        channels
            .into_iter()
            .map(|channel| channel.id)
            .filter(|id| Some(*id) == first || self.own_chains.contains_key(id))
            .take(LINES_MAX)
            .collect()
    }

    /// Fixes which log rules a channel: only what that log itself says counts (`crypto.md` 11.5).
    pub(super) fn pin_log(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId) -> Result<(), StoreError> {
        if self.places.state(channel_id).log.is_some() {
            return Ok(());
        }
        let Some(channel) = self.places.channels.get(&channel_id) else { return Ok(()) };
        if self.places.is_dm(channel_id) {
            return Ok(());
        }
        // The logs of the place where it is shown, or its own; the server's hint says which of them first.
        let places =
            [channel.group_id.map(LogId::from), self.places.community_of(channel).map(LogId::from), Some(channel_id.into())];
        let hint = channel.log_id.filter(|log_id| places.contains(&Some(*log_id)));
        let found = std::iter::once(hint)
            .chain(places)
            .flatten()
            .find(|log_id| self.logs.get(log_id).is_some_and(|state| state.log.channel(channel_id.as_bytes()).is_some()));
        if let Some(log_id) = found {
            self.places.update_state(&mut cx.db, channel_id, |state| state.log = Some(log_id))?;
            self.retry_held_in(cx, channel_id)?;
        }
        Ok(())
    }

    /// The genesis that an invite link names. The user chose the link, so it displaces what somebody else said of a log that
    /// is not known yet.
    pub(super) fn pin_invited(&mut self, cx: &mut Cx<'_>, log_id: LogId, genesis: &[u8; 32]) -> bool {
        match self.logs.get(&log_id) {
            Some(state) => state.log.genesis() == *genesis,
            None => {
                cx.db.put(Table::Account, pin_key(log_id), *genesis);
                true
            }
        }
    }

    /// The genesis that a contact names: it displaces nothing.
    fn pin_told(&mut self, cx: &mut Cx<'_>, log_id: LogId, genesis: &[u8; 32]) -> Result<bool, StoreError> {
        match (self.logs.get(&log_id), cx.db.get(Table::Account, &pin_key(log_id))?) {
            (Some(state), _) => Ok(state.log.genesis() == *genesis),
            (None, Some(pin)) => Ok(pin.as_slice() == genesis),
            (None, None) => {
                cx.db.put(Table::Account, pin_key(log_id), *genesis);
                Ok(true)
            }
        }
    }

    /// A member tells where a log stands (`crypto.md` 11.6).
    pub(super) fn take_membership_ops(&mut self, cx: &mut Cx<'_>, from: UserId, ops: &MembershipOps) -> Result<(), StoreError> {
        let Ok(log_id) = <[u8; 16]>::try_from(ops.log_id.as_slice()).map(LogId::from_bytes) else { return Ok(()) };
        let Ok(genesis) = Op::parse(&ops.genesis) else { return Ok(()) };
        if genesis.log_id != *log_id.as_bytes() || genesis.seq != 0 {
            return Ok(());
        }
        let Some(contact) = self.contacts.get(&from) else { return Ok(()) };
        let is_current = |state: &LogState| {
            state.log.member(from.as_bytes()).is_some_and(|member| member.identity == *contact.identity().as_bytes())
        };
        if self.logs.get(&log_id).is_some_and(|state| !is_current(state)) {
            return Ok(());
        }
        if !self.pin_told(cx, log_id, &genesis.head)? {
            cx.notice(
                Problem::new(
                    ProblemKind::Crypto,
                    format!(
                        "{} knows another beginning of a membership log than the server shows here.",
                        self.name_of(from).raw()
                    ),
                )
                .hint("The server may be showing you different members. Ask an admin."),
            );
            return Ok(());
        }
        if let Ok(head) = <[u8; 32]>::try_from(ops.head.as_slice()) {
            cx.db.save(Table::Account, claim_key(log_id), &(from, ops.head_seq, head))?;
        }
        if self.logs.contains_key(&log_id) {
            for op in &ops.ops {
                if let Ok(parsed) = Op::parse(op)
                    && parsed.log_id == *log_id.as_bytes()
                {
                    self.hold_op(cx, log_id, parsed.seq, op.clone(), Feed::Member)?;
                }
            }
            self.advance_log(cx, log_id)?;
            if !self.knows_log_to(log_id, ops.head_seq) {
                // Looked up, not believed: a number that somebody names must not keep this client from sending.
                self.look_at_log(log_id);
            }
        }
        self.check_claim(cx, log_id)
    }

    /// Tells a user where a log stands: the other view of a fork, or a first pin.
    pub(super) fn tell_membership(
        &mut self,
        cx: &mut Cx<'_>,
        to: UserId,
        log_id: LogId,
        channel_id: Option<ChannelId>,
    ) -> Result<(), StoreError> {
        let Some(state) = self.logs.get(&log_id) else { return Ok(()) };
        let (epoch, head) = (state.log.epoch(), state.log.newest_head());
        let stored = self.stored_ops(cx, log_id)?;
        let Some(genesis) = stored.first().cloned() else { return Ok(()) };
        let recent = stored.into_iter().skip(1).rev().take(20).collect::<Vec<_>>();
        let body = Body::MembershipOps(MembershipOps {
            channel_id: channel_id.map_or_else(|| log_id.as_bytes().to_vec(), |id| id.as_bytes().to_vec()),
            log_id: log_id.as_bytes().to_vec(),
            genesis,
            head_seq: epoch,
            head: head.to_vec(),
            ops: recent.into_iter().rev().collect(),
        });
        self.send_control(cx, to, body)
    }

    /// Signs a change after the newest verified op.
    pub(super) fn sign_change(&self, cx: &Cx<'_>, log_id: LogId, change: &Change) -> Result<Vec<u8>, Problem> {
        let (Some(state), Some(signer)) = (self.logs.get(&log_id), self.signer()) else {
            return Err(
                Problem::new(ProblemKind::Failed, "The membership log is not known here yet.").hint("Try again in a moment.")
            );
        };
        if state.status == LogStatus::Stopped && !matches!(change, Change::Anchor { discarded: Some(_) }) {
            return Err(Problem::new(
                ProblemKind::Crypto,
                "The membership log stopped: two signed changes claim the same place.",
            )
            .hint("An admin decides which of them is void: `chat resume`."));
        }
        state.log.sign(&signer, change, cx.now.as_unix_ms()).map_err(refused)
    }
}

/// Why an op of one's own would not be accepted by anybody.
pub(super) fn refused(error: Error) -> Problem {
    match error {
        Error::NotMember => Problem::new(ProblemKind::Permission, "You are not a member there."),
        Error::Rejected => Problem::new(ProblemKind::Permission, "Your role does not allow that, or it is done already."),
        error => Problem::new(ProblemKind::Crypto, format!("The change cannot be signed: {error}.")),
    }
}
