//! Membership logs (`crypto.md` 11): verified op by op, pinned, stopped when two ops contradict each other. Who may read a
//! channel is what these logs say; a row of the server that says otherwise is a hint and nothing more. How ops come here is
//! in `feed`.

use std::collections::BTreeMap;

use crate::client::model::{Problem, ProblemKind, SystemLine};
use crate::client::store::{Store, StoreError, Table};
use crate::crypto::Error;
use crate::crypto::membership::{self, Change, Log, Op};
use crate::protocol::channels::Channel;
use crate::protocol::communities::Role;
use crate::protocol::ids::{ChannelId, CommunityId, LogId, UserId};

use super::contacts::StoredCerts;
use super::db::{Db, damaged, key};
use super::feed::{Feed, LogFeed};
use super::views::{DISPUTED, pin_key};
use super::warnings::Concern;
use super::{Cx, Engine};

/// Channels of a log that show a line about each change.
const LINES_MAX: usize = 20;

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
        feeds.insert(id, LogFeed::known_to(u64::from_be_bytes(*head)));
        logs.insert(id, LogState { log, status });
    }
    for (at, _) in db.scan(Table::Account, DISPUTED, usize::MAX)? {
        if let Some(Ok(id)) = at.get(DISPUTED.len()..).map(<[u8; 16]>::try_from) {
            feeds.entry(LogId::from_bytes(id)).or_default().stay_disputed();
        }
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

    pub(super) fn judge_op(&mut self, cx: &mut Cx<'_>, log_id: LogId, op: &[u8], from: Feed) -> Result<(), StoreError> {
        let Some(state) = self.logs.get(&log_id) else { return Ok(()) };
        let Ok(parsed) = Op::parse(op) else { return Ok(()) };
        if state.log.head(parsed.seq) == Some(&parsed.head) {
            return Ok(());
        }
        if from == Feed::Member && !self.feed(log_id).may_judge(cx.now.as_unix_ms()) {
            return Ok(());
        }
        let ops = self.stored_ops(cx, log_id)?;
        let Some(state) = self.logs.get_mut(&log_id) else { return Ok(()) };
        if let Ok(conflict) = state.log.judge(op, ops, &StoredCerts(&cx.db)) {
            state.log.stop(conflict);
            if state.status != LogStatus::Stopped {
                state.status = LogStatus::Stopped;
                let text = "Two different signed membership changes claim the same place.".to_owned();
                let hint = "Nothing is sent there until an admin decides which is void: `chat resume`. The evidence is kept.";
                self.warn(cx, Concern::Log(log_id), b"stopped", &parsed.head, text, hint)?;
            }
            self.places.dirty = true;
            cx.db.put(Table::Evidence, key(&[log_id.as_bytes(), &parsed.seq.to_be_bytes(), &parsed.head]), op);
            self.save_log(cx, log_id);
        }
        Ok(())
    }

    pub(super) fn stored_ops(&self, cx: &Cx<'_>, log_id: LogId) -> Result<Vec<Vec<u8>>, StoreError> {
        let ops = cx.db.scan(Table::LogOps, log_id.as_bytes(), usize::MAX)?;
        Ok(ops.into_iter().filter_map(|(_, value)| value.get(8..).map(<[u8]>::to_vec)).collect())
    }

    /// Applies what can be applied.
    pub(super) fn advance_log(&mut self, cx: &mut Cx<'_>, log_id: LogId) -> Result<(), StoreError> {
        let mut moved = false;
        loop {
            let next = self.logs.get(&log_id).map_or(0, |state| state.log.epoch() + 1);
            let Some((op, from)) = self.feed(log_id).turn(next) else { break };
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
                    self.feed(log_id).applied(next);
                    if next == 0 {
                        self.settle_log(cx, log_id);
                    }
                    let at = cx.now.as_unix_ms().to_be_bytes();
                    cx.db.put(Table::LogOps, key(&[log_id.as_bytes(), &next.to_be_bytes()]), [&at[..], &op].concat());
                    if let Ok(op) = Op::parse(&op) {
                        self.op_applied(cx, log_id, &op)?;
                    }
                }
                Err(Error::UnverifiedDevice) => {
                    if !self.want_actor(log_id, &op) && !self.drop_members_op(log_id, next, from) {
                        self.log_broken(cx, log_id, next, "the device that signed it is in no list of its user".into())?;
                    }
                    break;
                }
                Err(error) => {
                    if !self.drop_members_op(log_id, next, from) && !self.dispute_beginning(cx, log_id, &op)? {
                        self.log_broken(cx, log_id, next, error.to_string())?;
                    }
                    break;
                }
            }
        }
        if moved {
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
            if self.feeds.get(&log_id).is_none_or(LogFeed::is_at_end) {
                self.retry_held(cx)?;
            }
        }
        Ok(())
    }

    fn log_broken(&mut self, cx: &mut Cx<'_>, log_id: LogId, seq: u64, why: String) -> Result<(), StoreError> {
        let epoch = self.logs.get(&log_id).map_or(0, |state| state.log.epoch());
        self.feed(log_id).give_up(seq, epoch);
        let name = self
            .places
            .communities
            .get(&CommunityId(log_id.0))
            .map_or_else(|| "a channel".to_owned(), |community| community.name.clone());
        let text = format!("The server sent a membership change of {name} that does not hold: {why}.");
        let hint = "It was not accepted: no keys go to anybody whom it would have added.";
        self.warn(cx, Concern::Log(log_id), b"broken", &seq.to_be_bytes(), text, hint)?;
        if let Some(state) = self.logs.get_mut(&log_id)
            && state.status == LogStatus::Good
        {
            state.status = LogStatus::Broken(why);
        }
        self.places.dirty = true;
        Ok(())
    }

    fn save_log(&mut self, cx: &mut Cx<'_>, log_id: LogId) {
        if let Some(state) = self.logs.get(&log_id) {
            let head = self.feeds.get(&log_id).map_or(0, LogFeed::head).max(state.log.epoch());
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
            Change::Unban { user } => Some(SystemLine::Unbanned { who: name(UserId::from_bytes(*user)), by: name(by) }),
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
        self.places_of_lines(|channel| self.places.states.get(&channel.id).is_some_and(|state| state.log == Some(log_id)))
    }

    /// Of these channels the first, and those where this user has spoken lately.
    pub(super) fn places_of_lines(&self, of: impl Fn(&Channel) -> bool) -> Vec<ChannelId> {
        let mut channels: Vec<_> = self.places.channels.values().filter(|channel| of(channel)).collect();
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
