//! What members tell each other of a membership log (`crypto.md` 11.6): where it begins, how far it goes, and which ops they saw.
//! It is compared with what the server shows; it never takes the place of a verified op.

use crate::client::store::{StoreError, Table};
use crate::crypto::content::{Body, MembershipOps};
use crate::crypto::membership::Op;
use crate::protocol::channels::Channel;
use crate::protocol::ids::{ChannelId, LogId, UserId};

use super::db::key;
use super::feed::{Feed, LogFeed};
use super::membership::LogState;
use super::warnings::Concern;
use super::{Cx, Engine};

/// The head that a member named last.
fn claim_key(log_id: LogId) -> Vec<u8> {
    key(&[b"head/", log_id.as_bytes()])
}

/// Who told the beginning that is pinned.
fn told_key(log_id: LogId) -> Vec<u8> {
    key(&[b"told/", log_id.as_bytes()])
}

/// In [`Table::Account`], before the id of a log of which the server shows another beginning than the pinned one, or an earlier end
/// than the verified one.
pub(super) const DISPUTED: &[u8] = b"disputed/";

pub(super) fn pin_key(log_id: LogId) -> Vec<u8> {
    key(&[b"genesis/", log_id.as_bytes()])
}

impl Engine {
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
        if !self.pin_told(cx, from, log_id, &genesis.head)? {
            // From a current member it may be the other half of a fork (11.4).
            self.judge_op(cx, log_id, &ops.genesis, Feed::Member)?;
            let text =
                format!("{} knows another beginning of this list of members than this client does.", self.name_of(from).raw());
            let hint = "The server may be showing you different members. Ask an admin, by another way.";
            return self.warn(cx, Concern::Log(log_id), b"beginning", &genesis.head, text, hint);
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

    /// Whether the log led to the head that a member named (`crypto.md` 11.6); looked at when it has come so far.
    pub(super) fn check_claim(&mut self, cx: &mut Cx<'_>, log_id: LogId) -> Result<(), StoreError> {
        let at = claim_key(log_id);
        let Some((from, seq, head)) = cx.db.load::<(UserId, u64, [u8; 32])>(Table::Account, &at)? else { return Ok(()) };
        let Some(state) = self.logs.get(&log_id).filter(|state| state.log.epoch() >= seq) else { return Ok(()) };
        if state.log.head(seq) != Some(&head) {
            let text = format!("{} sees another history of members than this client does.", self.name_of(from).raw());
            let hint = "The server may be showing different membership to different people. Ask an admin, by another way.";
            self.warn(cx, Concern::Log(log_id), b"history", &head, text, hint)?;
        }
        cx.db.delete(Table::Account, at);
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
    fn pin_told(&mut self, cx: &mut Cx<'_>, from: UserId, log_id: LogId, genesis: &[u8; 32]) -> Result<bool, StoreError> {
        match (self.logs.get(&log_id), cx.db.get(Table::Account, &pin_key(log_id))?) {
            (Some(state), _) => Ok(state.log.genesis() == *genesis),
            (None, Some(pin)) => Ok(pin.as_slice() == genesis),
            (None, None) => {
                cx.db.put(Table::Account, pin_key(log_id), *genesis);
                cx.db.put(Table::Account, told_key(log_id), *from.as_bytes());
                Ok(true)
            }
        }
    }

    /// Whether the server's first op is another one than somebody told (11.6): then nobody can say who is a member, nothing is
    /// sent there, and the evidence is kept. The log begins when the server shows the one that was told.
    pub(super) fn dispute_beginning(&mut self, cx: &mut Cx<'_>, log_id: LogId, op: &[u8]) -> Result<bool, StoreError> {
        let pin = cx.db.get(Table::Account, &pin_key(log_id))?;
        let Some(shown) = Op::parse(op).ok().filter(|op| op.seq == 0 && !self.logs.contains_key(&log_id)) else {
            return Ok(false);
        };
        if pin.is_none_or(|pin| pin.as_slice() == shown.head) {
            return Ok(false);
        }
        cx.db.put(Table::Evidence, key(&[log_id.as_bytes(), &0_u64.to_be_bytes(), &shown.head]), op);
        let feed = self.feed(log_id);
        feed.give_up(0, 0);
        if feed.dispute(true) {
            self.places.dirty = true;
            cx.db.put(Table::Account, key(&[DISPUTED, log_id.as_bytes()]), []);
        }
        let told = cx.db.get(Table::Account, &told_key(log_id))?;
        let from = told.and_then(|user| Some(UserId::from_bytes(user.as_slice().try_into().ok()?)));
        let who = from.map_or_else(|| "The invite".to_owned(), |user| self.name_of(user).raw().to_owned());
        let text = format!("{who} names another beginning of this list of members than the server shows.");
        let hint = "Nobody can tell who would read what you write here, so nothing is sent. Ask who added you, by another way; \
                    make a new channel if it stays so.";
        self.warn(cx, Concern::Log(log_id), b"disputed", &shown.head, text, hint)?;
        Ok(true)
    }

    /// Whether the server still shows all that it showed before. A database that was restored has lost the last changes, or they
    /// are hidden: what is written here has their epoch, and the server refuses it. They are not undone on the server's word, since a
    /// removal may be among them.
    pub(super) fn compare_ends(&mut self, cx: &mut Cx<'_>, log_id: LogId, verified: u64, shown: u64) -> Result<(), StoreError> {
        if shown >= verified {
            self.settle_log(cx, log_id);
            return Ok(());
        }
        if self.feed(log_id).dispute(true) {
            self.places.dirty = true;
            cx.db.put(Table::Account, key(&[DISPUTED, log_id.as_bytes()]), []);
        }
        let lost = verified - shown;
        let changes = if lost == 1 { "the last change".to_owned() } else { format!("the last {lost} changes") };
        let text = format!("The server does not have {changes} of this list of members any more.");
        let hint = "It was restored from an older backup, or hides them; nothing is sent until it shows them. Ask whoever runs the \
                    server for a newer backup, or go on in a new place.";
        self.warn(cx, Concern::Log(log_id), b"shorter", &shown.to_be_bytes(), text, hint)
    }

    /// The server shows the log as it is known.
    pub(super) fn settle_log(&mut self, cx: &mut Cx<'_>, log_id: LogId) {
        if self.feed(log_id).dispute(false) {
            cx.db.delete(Table::Account, key(&[DISPUTED, log_id.as_bytes()]));
            self.places.dirty = true;
        }
    }

    /// Whether the server shows the log that rules a channel otherwise than it is known.
    pub(super) fn is_disputed(&self, channel: &Channel) -> bool {
        let log = self.places.states.get(&channel.id).and_then(|state| state.log).or(channel.log_id);
        log.is_some_and(|log_id| self.feeds.get(&log_id).is_some_and(LogFeed::is_disputed))
    }
}
