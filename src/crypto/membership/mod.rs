//! The membership log (TC/1 section 11): who is in a community, group or channel, as a chain of signed operations that no server
//! can forge. Knows no network, no store and no clock: validity depends on the operations and the actors' certificates alone, so
//! all members agree. Start at [`Log::apply`]; `op` is the layout of an operation, `rules` says which are valid.

mod fork;
mod invite;
mod op;
mod record;
mod rules;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::Time;
use super::error::Error;
use super::identity::{Addr, UserId};

pub use fork::Conflict;
pub use invite::Invite;
pub use op::{Change, InviteProof, Op, Signer};
pub use rules::{ActorObjects, CertSource};

/// The id of a community, a private group or a private channel.
pub type LogId = [u8; 16];
/// The sequence number of an operation; the state after it.
pub type Epoch = u64;
/// SHA-256.
pub type Hash = [u8; 32];
/// An Ed25519 public key as it stands in an operation: a UIK or the key of an invite.
pub type Identity = [u8; 32];

/// The most members of a log.
pub const MAX_MEMBERS: usize = 1000;
/// The most invite keys at a time.
pub const MAX_INVITES: usize = 64;

/// What a member may do. The order is that of power; exactly one member of a log is its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Member = 0,
    Moderator = 1,
    Admin = 2,
    Owner = 3,
}

impl Role {
    /// # Errors
    /// `Malformed` above 3.
    pub fn from_byte(byte: u8) -> Result<Self, Error> {
        match byte {
            0 => Ok(Self::Member),
            1 => Ok(Self::Moderator),
            2 => Ok(Self::Admin),
            3 => Ok(Self::Owner),
            _ => Err(Error::Malformed),
        }
    }
}

/// What a log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKind {
    /// One private channel; the log's id is the channel's.
    Channel = 1,
    /// A community or a private group; channels are attached to it.
    Group = 2,
}

impl LogKind {
    /// # Errors
    /// `Malformed` for anything but 1 and 2.
    pub fn from_byte(byte: u8) -> Result<Self, Error> {
        match byte {
            1 => Ok(Self::Channel),
            2 => Ok(Self::Group),
            _ => Err(Error::Malformed),
        }
    }
}

/// A member at some epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The UIK that this log knows the user by. Another one needs remove and add.
    pub identity: Identity,
    pub role: Role,
    /// The epoch at which this membership began.
    pub since: Epoch,
    /// The device that signed that operation: the member's own for a join.
    pub added_by: Addr,
    /// The certificate of that device.
    pub added_with: Hash,
}

/// An invite key in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvitePolicy {
    /// 0 = no limit.
    pub max_uses: u32,
    /// 0 = never.
    pub expires: Time,
}

/// How a channel hangs on a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// Its members are those of the log.
    Live,
    /// Detached: it can be read, and nobody sends.
    ReadOnly,
}

/// The verified state after the operations `0..=epoch`, with as much history as frames and sender keys of older epochs need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    id: LogId,
    kind: LogKind,
    /// `head(n)` at index n; never empty.
    heads: Vec<Hash>,
    /// Everybody who was ever a member: the changes in ascending order.
    people: BTreeMap<UserId, Vec<Standing>>,
    banned: BTreeSet<UserId>,
    open: bool,
    invite_role: Role,
    invites: BTreeMap<Identity, InvitePolicy>,
    /// Joins by each invite key, deleted ones too: max_uses counts joins in the log.
    invite_uses: BTreeMap<Identity, u32>,
    channels: BTreeMap<[u8; 16], ChannelState>,
    /// The highest list_seq of each actor. Per UIK, because another identity starts its lists anew.
    list_floors: BTreeMap<(UserId, Identity), u64>,
    /// The newest operation of each device and the certificate it was signed with.
    signers: BTreeMap<Addr, (Epoch, Hash)>,
    shrunk_at: Option<Epoch>,
    resumed_at: Option<Epoch>,
    conflicts: Vec<Conflict>,
    discarded: BTreeSet<Hash>,
}

/// From `at` on, until the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    at: Epoch,
    member: Option<Member>,
}

impl Log {
    pub fn id(&self) -> &LogId {
        &self.id
    }

    pub fn kind(&self) -> LogKind {
        self.kind
    }

    /// The sequence number of the newest operation.
    pub fn epoch(&self) -> Epoch {
        self.heads.len().saturating_sub(1) as Epoch
    }

    /// The head after operation `epoch`; `None` above the known log.
    pub fn head(&self, epoch: Epoch) -> Option<&Hash> {
        self.heads.get(usize::try_from(epoch).ok()?)
    }

    /// The head after the newest operation.
    pub fn newest_head(&self) -> Hash {
        self.heads.last().copied().unwrap_or_default()
    }

    /// The head of the first operation: what an invite pins.
    pub fn genesis(&self) -> Hash {
        self.heads.first().copied().unwrap_or_default()
    }

    /// The member now.
    pub fn member(&self, user: &UserId) -> Option<&Member> {
        self.people.get(user)?.last()?.member.as_ref()
    }

    /// All members now, ascending by user id.
    pub fn members(&self) -> impl Iterator<Item = (&UserId, &Member)> {
        self.people.iter().filter_map(|(user, standings)| Some((user, standings.last()?.member.as_ref()?)))
    }

    /// The member as of `epoch`; `None` also above the known log.
    pub fn member_at(&self, user: &UserId, epoch: Epoch) -> Option<&Member> {
        if epoch > self.epoch() {
            return None;
        }
        let standings = self.people.get(user)?;
        let later = standings.partition_point(|standing| standing.at <= epoch);
        standings.get(later.checked_sub(1)?)?.member.as_ref()
    }

    pub fn role_at(&self, user: &UserId, epoch: Epoch) -> Option<Role> {
        self.member_at(user, epoch).map(|member| member.role)
    }

    /// The first operation after `epoch` by which the user ceased to be a member, even if the user came back since.
    pub fn left_after(&self, user: &UserId, epoch: Epoch) -> Option<Epoch> {
        let standings = self.people.get(user)?;
        standings.iter().find(|standing| standing.at > epoch && standing.member.is_none()).map(|standing| standing.at)
    }

    /// The highest list_seq with which this user acted: from an older device list nothing is accepted any more (11.3).
    pub fn list_floor(&self, user: &UserId, identity: &Identity) -> Option<u64> {
        self.list_floors.get(&(*user, *identity)).copied()
    }

    /// The newest operation that made a member leave. A chain from before it is not sent on (12.1).
    pub fn shrunk_at(&self) -> Option<Epoch> {
        self.shrunk_at
    }

    /// The newest operation that ended a stop (11.4).
    pub fn resumed_at(&self) -> Option<Epoch> {
        self.resumed_at
    }

    pub fn is_banned(&self, user: &UserId) -> bool {
        self.banned.contains(user)
    }

    /// All banned users, ascending.
    pub fn banned(&self) -> impl Iterator<Item = &UserId> {
        self.banned.iter()
    }

    /// Whether anybody may join without an invite.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The least role that may add and delete invites.
    pub fn invite_role(&self) -> Role {
        self.invite_role
    }

    /// The invite keys in force.
    pub fn invites(&self) -> impl Iterator<Item = (&Identity, &InvitePolicy)> {
        self.invites.iter()
    }

    /// How many joined by an invite key.
    pub fn invite_uses(&self, key: &Identity) -> u32 {
        self.invite_uses.get(key).copied().unwrap_or_default()
    }

    /// The state of a channel whose members this log rules; `None` for any other channel, whatever the server says.
    pub fn channel(&self, channel_id: &[u8; 16]) -> Option<ChannelState> {
        match self.kind {
            LogKind::Channel => (*channel_id == self.id).then_some(ChannelState::Live),
            LogKind::Group => self.channels.get(channel_id).copied(),
        }
    }

    /// The channels that were ever attached to a group log.
    pub fn channels(&self) -> impl Iterator<Item = (&[u8; 16], ChannelState)> {
        self.channels.iter().map(|(id, state)| (id, *state))
    }

    /// Whether chains may be sent to this member (11.3). A device that its user has meanwhile removed may still have signed; whom it
    /// brought in gets no chain before an admin's device that is `listed` signed a later operation.
    /// `listed` says whether a device with this certificate stands in its user's newest verified list.
    pub fn is_confirmed(&self, user: &UserId, listed: impl Fn(Addr, &Hash) -> bool) -> bool {
        self.member(user).is_some_and(|member| {
            listed(member.added_by, &member.added_with)
                || self.signers.iter().any(|(addr, (epoch, cert))| {
                    *epoch > member.since
                        && self.member(&addr.user_id).is_some_and(|signer| signer.role >= Role::Admin)
                        && listed(*addr, cert)
                })
        })
    }
}
