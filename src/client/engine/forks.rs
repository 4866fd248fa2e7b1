//! A stopped membership log (`crypto.md` 11.4): what contradicts what, in words, and the choice that lets it go on. Whether two
//! ops contradict each other is decided in `membership`; nothing here signs.

use crate::client::model::{Fork, Problem, ProblemKind, SignedChange};
use crate::client::store::{StoreError, Table};
use crate::crypto::membership::{Change, Op, Role};
use crate::protocol::codec::Timestamp;
use crate::protocol::communities;
use crate::protocol::ids::{ChannelId, CommunityId, LogId, UserId};

use super::db::key;
use super::{Cx, Engine};

impl Engine {
    /// Why the log of a channel is stopped: empty while it runs.
    pub(super) fn forks(&self, cx: &Cx<'_>, channel_id: ChannelId) -> Result<Result<Vec<Fork>, Problem>, StoreError> {
        let disputed = self.places.channels.get(&channel_id).is_some_and(|channel| self.is_disputed(channel));
        let Some(state) = self.log_of(channel_id) else {
            return Ok(Err(if disputed { disputed_beginning() } else { unknown() }));
        };
        if disputed && !state.log.is_stopped() {
            return Ok(Err(lost_end()));
        }
        let mut forks = Vec::new();
        for conflict in state.log.conflicts() {
            let at = key(&[state.log.id(), &conflict.seq.to_be_bytes()]);
            // Behind the time at which it was applied.
            let kept = cx.db.get(Table::LogOps, &at)?.and_then(|op| Op::parse(op.get(8..)?).ok());
            if let (Some(kept), Ok(other)) = (kept, Op::parse(&conflict.op)) {
                let (kept, other) = (self.signed_change(&kept), self.signed_change(&other));
                forks.push(Fork { seq: conflict.seq, discard: hex::encode(conflict.head), kept, other });
            }
        }
        Ok(Ok(forks))
    }

    /// The log of a channel and the hash of the op that this user wants to be void.
    pub(super) fn to_discard(&self, channel_id: ChannelId, discard: &str) -> Result<(LogId, [u8; 32]), Problem> {
        let Some(state) = self.log_of(channel_id) else { return Err(unknown()) };
        let log_id = LogId::from_bytes(*state.log.id());
        if !state.log.is_stopped() {
            return Err(Problem::new(ProblemKind::NotFound, "This channel is not stopped.").hint("There is nothing to decide."));
        }
        if self.role_in_log(log_id, self.me_id()).is_none_or(|role| role < communities::Role::Admin) {
            return Err(Problem::new(ProblemKind::Permission, "Only an admin can let a stopped channel go on.")
                .hint("Ask an admin, by another way than this channel."));
        }
        let wanted = discard.trim().to_ascii_lowercase();
        match state.log.conflicts().iter().find(|conflict| hex::encode(conflict.head) == wanted) {
            Some(conflict) => Ok((log_id, conflict.head)),
            None => Err(Problem::new(ProblemKind::NotFound, "No change with this hash contradicts another one here.")
                .hint("Look again at what stopped the channel, and give the hash as it is shown.")),
        }
    }

    fn signed_change(&self, op: &Op) -> SignedChange {
        let community = Some(CommunityId::from_bytes(op.log_id));
        let name = |user: &[u8; 16]| self.places.name(community, UserId::from_bytes(*user)).raw().to_owned();
        let what = match &op.change {
            Change::Create { .. } => "created this".to_owned(),
            Change::Add { user, role, .. } => format!("added {} as {}", name(user), role_word(*role)),
            Change::Remove { user, ban: false } => format!("removed {}", name(user)),
            Change::Remove { user, ban: true } => format!("banned {}", name(user)),
            Change::Leave => "left".to_owned(),
            Change::SetRole { user, role } => format!("made {} {}", name(user), role_word(*role)),
            Change::Open(true) => "let everybody join without an invite".to_owned(),
            Change::Open(false) => "let nobody join without an invite".to_owned(),
            Change::AddInvite { .. } => "made an invite".to_owned(),
            Change::DeleteInvite { .. } => "withdrew an invite".to_owned(),
            Change::Unban { user } => format!("lifted the ban of {}", name(user)),
            Change::InviteRole(role) => format!("let every {} make invites", role_word(*role)),
            Change::Anchor { discarded: None } => "confirmed the list of their devices".to_owned(),
            Change::Anchor { discarded: Some(_) } => "declared another change void".to_owned(),
            Change::Join { .. } => "joined".to_owned(),
            Change::Channel { attach: true, .. } => "made a channel".to_owned(),
            Change::Channel { attach: false, .. } => "closed a channel".to_owned(),
        };
        SignedChange {
            by: name(&op.actor.user_id).into(),
            device_id: op.actor.device_id,
            what: what.into(),
            signed_at: Timestamp(i64::try_from(op.time).unwrap_or(i64::MAX)),
        }
    }
}

const fn role_word(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Moderator => "moderator",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

fn disputed_beginning() -> Problem {
    Problem::new(
        ProblemKind::Crypto,
        "This channel's list of members begins in two different ways: as you were told, and as the server shows it.",
    )
    .hint("Ask who added you, by another way than this server. If it stays so, make a new channel: nobody can decide it here.")
}

fn lost_end() -> Problem {
    Problem::new(
        ProblemKind::Crypto,
        "The server does not have the last changes of this channel's list of members any more: it was restored from an older \
         backup, or hides them.",
    )
    .hint("They are not undone on its word. Ask whoever runs the server for a newer backup, or go on in a new place.")
}

fn unknown() -> Problem {
    Problem::new(ProblemKind::NotFound, "The members of this channel are not known yet.")
        .hint("Direct messages have none; else try again when it is synchronised.")
}
