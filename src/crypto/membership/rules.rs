//! Which operations are valid, and what they do (TC/1 section 11.2 and the table of 11.1). The checks run in the order of the
//! specification, and nothing is changed before the last one passed. Start at [`Log::apply`].

use rand_core::CryptoRng;

use super::super::Time;
use super::super::cert::DeviceCert;
use super::super::device_list::DeviceList;
use super::super::error::Error;
use super::super::identity::UserId;
use super::super::signature::{SigningKey, VerifyKey};
use super::op::Place;
use super::{
    BTreeMap, BTreeSet, Change, ChannelState, Epoch, Hash, Identity, InvitePolicy, InviteProof, Log, LogId, LogKind, MAX_INVITES,
    MAX_MEMBERS, Member, Op, Role, Signer, Standing,
};

/// Where the actors' public objects come from. They are bytes: the log verifies them itself, each time, so the source need
/// not be trusted.
pub trait CertSource {
    /// The certificate with this hash, 225 bytes.
    fn cert(&self, cert_hash: &Hash) -> Option<Vec<u8>>;
    /// The device list of `user` under the UIK `identity` with this seq.
    fn list(&self, user: &UserId, identity: &Identity, seq: u64) -> Option<Vec<u8>>;
}

/// The two objects that one operation needs, fetched beforehand: for a source that cannot be asked in between.
#[derive(Clone, Debug, Default)]
pub struct ActorObjects {
    /// The certificate that the operation's `cert_hash` names.
    pub cert: Option<Vec<u8>>,
    /// The list of seq `list_seq`, of the actor under [`Log::identity_of`].
    pub list: Option<Vec<u8>>,
}

impl CertSource for ActorObjects {
    fn cert(&self, _: &Hash) -> Option<Vec<u8>> {
        self.cert.clone()
    }

    fn list(&self, _: &UserId, _: &Identity, _: u64) -> Option<Vec<u8>> {
        self.list.clone()
    }
}

impl Log {
    /// Signs the first operation of a new log; the signer becomes its owner. Draws the salt (32 bytes).
    pub fn create<R: CryptoRng + ?Sized>(
        id: LogId,
        kind: LogKind,
        signer: &Signer<'_>,
        identity: &VerifyKey,
        rng: &mut R,
        time: Time,
    ) -> Vec<u8> {
        let mut salt = [0; 32];
        rng.fill_bytes(&mut salt);
        let place = Place { log_id: id, seq: 0, prev: [0; 32] };
        Op::sign(place, signer, &Change::Create { identity: *identity.as_bytes(), kind, salt }, time)
    }

    /// Starts the log `id` with its first operation. `pin` is its head as an invite or a member gave it; without one the
    /// genesis is trusted on first use.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); `Rejected` when it is another genesis than the pinned one.
    pub fn start(id: &LogId, genesis: &[u8], pin: Option<&Hash>, certs: &impl CertSource) -> Result<Self, Error> {
        let op = Op::parse(genesis)?;
        let log = Self::from_genesis(id, &op, pin)?;
        if let Change::Create { identity, .. } = &op.change {
            authenticate(&op, identity, certs)?;
        }
        Ok(log)
    }

    /// Applies the next operation. Nothing changes unless it is valid.
    ///
    /// # Errors
    /// In this order: `Malformed` layout · `Rejected` of another log · `OldSeq` the operation that stands there, `Rejected` another one at a
    /// known place ([`judge`](Self::judge) decides whether that is equivocation) · `Gap` · `Rejected` another `prev` · `NotMember` ·
    /// `UnverifiedDevice` the certificate or list is not at hand: fetch the actor's lists · `BadSignature` ·
    /// `Rejected` the list is not that UIK's or lacks the certificate, its seq fell back, or the actor has no right.
    pub fn apply(&mut self, op: &[u8], certs: &impl CertSource) -> Result<Epoch, Error> {
        let op = Op::parse(op)?;
        self.check(&op, certs)?;
        self.perform(&op);
        Ok(op.seq)
    }

    /// Rebuilds a log from operations that were verified before, such as those of the own store: places and rights are checked,
    /// certificates and signatures are not.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn replay<B: AsRef<[u8]>>(id: &LogId, ops: impl IntoIterator<Item = B>) -> Result<Self, Error> {
        let mut ops = ops.into_iter();
        let genesis = Op::parse(ops.next().ok_or(Error::Gap)?.as_ref())?;
        let mut log = Self::from_genesis(id, &genesis, None)?;
        for op in ops {
            log.replay_one(&Op::parse(op.as_ref())?)?;
        }
        Ok(log)
    }

    /// One operation of [`replay`](Self::replay).
    pub(super) fn replay_one(&mut self, op: &Op) -> Result<(), Error> {
        self.check_place(op)?;
        self.check_rights(op)?;
        self.perform(op);
        Ok(())
    }

    /// Signs the next operation. Joins have their own function: [`sign_join`](Self::sign_join).
    ///
    /// # Errors
    /// `NotMember`, `Rejected`: as everybody else would refuse it.
    pub fn sign(&self, signer: &Signer<'_>, change: &Change, time: Time) -> Result<Vec<u8>, Error> {
        let bytes = Op::sign(self.next_place(), signer, change, time);
        self.check_own(&bytes)?;
        Ok(bytes)
    }

    /// Signs the own join: with the secret of an invite, or with none to an open log.
    ///
    /// # Errors
    /// `Rejected`: a member already, banned, a closed log, or an invite that is unknown, used up or expired.
    pub fn sign_join(
        &self,
        signer: &Signer<'_>,
        identity: &VerifyKey,
        invite: Option<&SigningKey>,
        time: Time,
    ) -> Result<Vec<u8>, Error> {
        let (place, identity) = (self.next_place(), *identity.as_bytes());
        let invite = invite.map(|secret| InviteProof::sign(secret, place, signer.addr.user_id, &identity));
        let bytes = Op::sign(place, signer, &Change::Join { identity, invite }, time);
        self.check_own(&bytes)?;
        Ok(bytes)
    }

    /// The UIK under which the actor speaks: the one of the log, or for somebody outside the one that the operation brings.
    ///
    /// # Errors
    /// `NotMember`.
    pub fn identity_of(&self, op: &Op) -> Result<Identity, Error> {
        match op.change {
            Change::Create { identity, .. } | Change::Join { identity, .. } => Ok(identity),
            _ => self.member(&op.actor.user_id).map(|member| member.identity).ok_or(Error::NotMember),
        }
    }

    pub(super) fn from_genesis(id: &LogId, op: &Op, pin: Option<&Hash>) -> Result<Self, Error> {
        let Change::Create { identity, kind, .. } = op.change else { return Err(Error::Rejected) };
        if op.log_id != *id || op.seq != 0 || op.prev != [0; 32] || pin.is_some_and(|pin| *pin != op.head) {
            return Err(Error::Rejected);
        }
        let mut log = Self {
            id: *id,
            kind,
            heads: Vec::new(),
            people: BTreeMap::new(),
            banned: BTreeSet::new(),
            open: false,
            invite_role: Role::Admin,
            invites: BTreeMap::new(),
            invite_uses: BTreeMap::new(),
            channels: BTreeMap::new(),
            list_floors: BTreeMap::new(),
            signers: BTreeMap::new(),
            shrunk_at: None,
            resumed_at: None,
            conflicts: Vec::new(),
            discarded: BTreeSet::new(),
        };
        log.record(op, &identity);
        log.enter(op, op.actor.user_id, identity, Role::Owner);
        Ok(log)
    }

    pub(super) fn check(&self, op: &Op, certs: &impl CertSource) -> Result<(), Error> {
        self.check_place(op)?;
        authenticate(op, &self.identity_of(op)?, certs)?;
        self.check_rights(op)?;
        match op.change {
            Change::Join { identity, invite: Some(proof) } => proof.verify(op.place(), op.actor.user_id, &identity),
            _ => Ok(()),
        }
    }

    fn check_own(&self, bytes: &[u8]) -> Result<(), Error> {
        let op = Op::parse(bytes)?;
        self.check_place(&op)?;
        self.check_rights(&op)
    }

    fn next_place(&self) -> Place {
        Place { log_id: self.id, seq: self.epoch() + 1, prev: self.newest_head() }
    }

    fn check_place(&self, op: &Op) -> Result<(), Error> {
        if op.log_id != self.id {
            return Err(Error::Rejected);
        }
        match self.head(op.seq) {
            Some(head) if *head == op.head => return Err(Error::OldSeq),
            Some(_) => return Err(Error::Rejected),
            None => {}
        }
        if op.seq != self.epoch() + 1 {
            Err(Error::Gap)
        } else if op.prev != self.newest_head() {
            Err(Error::Rejected)
        } else {
            Ok(())
        }
    }

    fn check_rights(&self, op: &Op) -> Result<(), Error> {
        let actor = op.actor.user_id;
        let identity = self.identity_of(op)?;
        if self.list_floors.get(&(actor, identity)).is_some_and(|floor| op.list_seq < *floor) {
            return Err(Error::Rejected);
        }
        let role = self.member(&actor).map(|member| member.role);
        let at_least = |needed| role >= Some(needed);
        let outranks = |user| self.member(user).is_some_and(|target| role > Some(target.role));
        let allowed = match &op.change {
            Change::Create { .. } => false,
            Change::Add { user, role: new, .. } => at_least(Role::Admin) && Some(*new) < role && self.may_enter(user),
            Change::Remove { user, .. } => at_least(Role::Moderator) && outranks(user),
            Change::Leave => role != Some(Role::Owner),
            Change::SetRole { user, role: new } => {
                at_least(Role::Admin) && outranks(user) && (Some(*new) < role || (*new == Role::Owner && at_least(Role::Owner)))
            }
            Change::Open(_) | Change::InviteRole(_) => at_least(Role::Admin),
            Change::AddInvite { key, .. } => {
                at_least(self.invite_role) && self.invites.len() < MAX_INVITES && !self.invites.contains_key(key)
            }
            Change::DeleteInvite { key } => at_least(self.invite_role) && self.invites.contains_key(key),
            Change::Unban { user } => at_least(Role::Admin) && self.is_banned(user),
            Change::Anchor { discarded } => discarded.is_none() || at_least(Role::Admin),
            Change::Join { invite, .. } => self.may_enter(&actor) && self.admits(invite.as_ref(), op.time),
            Change::Channel { channel_id, attach } => {
                let attached = self.channels.get(channel_id) == Some(&ChannelState::Live);
                self.kind == LogKind::Group && at_least(Role::Admin) && attached != *attach
            }
        };
        if allowed { Ok(()) } else { Err(Error::Rejected) }
    }

    fn may_enter(&self, user: &UserId) -> bool {
        self.member(user).is_none() && !self.is_banned(user) && self.members().count() < MAX_MEMBERS
    }

    fn admits(&self, invite: Option<&InviteProof>, time: Time) -> bool {
        match invite {
            None => self.open,
            Some(proof) => self.invites.get(&proof.key).is_some_and(|invite| {
                (invite.expires == 0 || time < invite.expires)
                    && (invite.max_uses == 0 || self.invite_uses(&proof.key) < invite.max_uses)
            }),
        }
    }

    /// The effect of an operation that passed every check.
    fn perform(&mut self, op: &Op) {
        let actor = op.actor.user_id;
        if let Ok(identity) = self.identity_of(op) {
            self.record(op, &identity);
        }
        match op.change {
            Change::Create { .. } => {}
            Change::Add { user, identity, role } => self.enter(op, user, identity, role),
            Change::Remove { user, ban } => {
                self.leave(op.seq, user);
                if ban {
                    self.banned.insert(user);
                }
            }
            Change::Leave => self.leave(op.seq, actor),
            Change::SetRole { user, role } => {
                self.set_role(op.seq, user, role);
                if role == Role::Owner {
                    self.set_role(op.seq, actor, Role::Admin);
                }
            }
            Change::Open(open) => self.open = open,
            Change::AddInvite { key, max_uses, expires } => {
                self.invites.insert(key, InvitePolicy { max_uses, expires });
            }
            Change::DeleteInvite { key } => {
                self.invites.remove(&key);
            }
            Change::Unban { user } => {
                self.banned.remove(&user);
            }
            Change::InviteRole(role) => self.invite_role = role,
            Change::Anchor { discarded: None } => {}
            Change::Anchor { discarded: Some(hash) } => self.discard(op.seq, hash),
            Change::Join { identity, invite } => {
                if let Some(proof) = invite {
                    let uses = self.invite_uses.entry(proof.key).or_default();
                    *uses = uses.saturating_add(1);
                }
                self.enter(op, actor, identity, Role::Member);
            }
            Change::Channel { channel_id, attach } => {
                self.channels.insert(channel_id, if attach { ChannelState::Live } else { ChannelState::ReadOnly });
            }
        }
    }

    fn record(&mut self, op: &Op, identity: &Identity) {
        self.heads.push(op.head);
        self.list_floors.insert((op.actor.user_id, *identity), op.list_seq);
        self.signers.insert(op.actor, (op.seq, op.cert_hash));
    }

    fn enter(&mut self, op: &Op, user: UserId, identity: Identity, role: Role) {
        let member = Member { identity, role, since: op.seq, added_by: op.actor, added_with: op.cert_hash };
        self.people.entry(user).or_default().push(Standing { at: op.seq, member: Some(member) });
    }

    fn leave(&mut self, at: Epoch, user: UserId) {
        self.people.entry(user).or_default().push(Standing { at, member: None });
        self.shrunk_at = Some(at);
    }

    fn set_role(&mut self, at: Epoch, user: UserId, role: Role) {
        if let Some(member) = self.member(&user).copied() {
            self.people.entry(user).or_default().push(Standing { at, member: Some(Member { role, ..member }) });
        }
    }
}

/// Certificate, list and signature of the actor, and the keys that the operation brings in.
pub(super) fn authenticate(op: &Op, identity: &Identity, certs: &impl CertSource) -> Result<(), Error> {
    let uik = VerifyKey::import(identity)?;
    let cert = DeviceCert::verify(&certs.cert(&op.cert_hash).ok_or(Error::UnverifiedDevice)?, &uik)?;
    if *cert.hash() != op.cert_hash {
        return Err(Error::UnverifiedDevice);
    }
    if cert.addr() != op.actor {
        return Err(Error::NotMember);
    }
    let list = certs.list(&op.actor.user_id, identity, op.list_seq).ok_or(Error::UnverifiedDevice)?;
    let list = DeviceList::verify(&list).map_err(|_| Error::Rejected)?;
    if list.seq() != op.list_seq || !list.names(&cert) {
        return Err(Error::Rejected);
    }
    op.verify(cert.signing_key())?;
    match &op.change {
        Change::Add { identity: key, .. } | Change::AddInvite { key, .. } => VerifyKey::import(key).map(|_| ()),
        _ => Ok(()),
    }
}
