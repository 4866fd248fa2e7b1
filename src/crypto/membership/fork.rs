//! Two histories of one log (TC/1 section 11.4). A second operation for a place that is taken stops the log only if it would have
//! been valid there; an admin's anchor with its hash lets the log go on. Start at [`Log::judge`].

use super::super::error::Error;
use super::rules::authenticate;
use super::{CertSource, Change, Epoch, Hash, Identity, Log, Op};

/// More evidence than this is not kept: one conflict stops the log already.
const MAX_CONFLICTS: usize = 8;

/// Evidence of equivocation: a valid operation at a place where another one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub seq: Epoch,
    /// What an anchor must name to discard it.
    pub head: Hash,
    /// The whole operation.
    pub op: Vec<u8>,
}

impl Log {
    /// Whether `op`, which came from the server's feed or from a current member's session, is equivocation. `ops` are the verified
    /// operations of this log from the first on; those before the place of `op` are read. Changes nothing: [`stop`](Self::stop) does.
    ///
    /// # Errors
    /// `Rejected` when it would not have been valid there, or an anchor discarded it: ignore it. `OldSeq` when it is
    /// the operation that stands there, `Gap` when its place is not known yet.
    pub fn judge<B: AsRef<[u8]>>(
        &self,
        op: &[u8],
        ops: impl IntoIterator<Item = B>,
        certs: &impl CertSource,
    ) -> Result<Conflict, Error> {
        let op = Op::parse(op)?;
        match self.head(op.seq) {
            None => return Err(Error::Gap),
            Some(head) if *head == op.head => return Err(Error::OldSeq),
            Some(_) => {}
        }
        if self.discarded.contains(&op.head) {
            return Err(Error::Rejected);
        }
        match op.seq.checked_sub(1) {
            None => Self::start(&self.id, op.as_bytes(), None, certs).map(|_| ()).map_err(|_| Error::Rejected)?,
            Some(before) => {
                // What a replay would find too, without its work: anybody can write an operation that nobody signed.
                if self.head(before) != Some(&op.prev) {
                    return Err(Error::Rejected);
                }
                let identity = self.identity_at(&op, before).ok_or(Error::Rejected)?;
                authenticate(&op, &identity, certs).map_err(|_| Error::Rejected)?;
                let count = usize::try_from(op.seq).map_err(|_| Error::Gap)?;
                let earlier = Self::replay(&self.id, ops.into_iter().take(count))?;
                if Some(&earlier.newest_head()) != self.head(before) {
                    return Err(Error::Gap);
                }
                earlier.check(&op, certs).map_err(|_| Error::Rejected)?;
            }
        }
        Ok(Conflict { seq: op.seq, head: op.head, op: op.as_bytes().to_vec() })
    }

    /// The UIK under which the actor of an operation after `epoch` speaks.
    fn identity_at(&self, op: &Op, epoch: Epoch) -> Option<Identity> {
        match op.change {
            Change::Create { .. } => None,
            Change::Join { identity, .. } => Some(identity),
            _ => self.member_at(&op.actor.user_id, epoch).map(|member| member.identity),
        }
    }

    /// Stops the log: no sending, reading with a warning, until an admin discards the other operation.
    pub fn stop(&mut self, conflict: Conflict) {
        let is_new = !self.discarded.contains(&conflict.head) && !self.conflicts.contains(&conflict);
        if is_new && self.conflicts.len() < MAX_CONFLICTS {
            self.conflicts.push(conflict);
        }
    }

    /// The evidence for which the log is stopped; empty while it runs.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    pub fn is_stopped(&self) -> bool {
        !self.conflicts.is_empty()
    }

    pub(super) fn discard(&mut self, at: Epoch, hash: Hash) {
        let was_stopped = self.is_stopped();
        self.conflicts.retain(|conflict| conflict.head != hash);
        self.discarded.insert(hash);
        if was_stopped && !self.is_stopped() {
            self.resumed_at = Some(at);
        }
    }
}
