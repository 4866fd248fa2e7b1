//! One operation of a membership log (TC/1 section 11.1): its layout, and the signing of new ones. Whether an operation is valid in
//! its place is for `rules`. Start at [`Op::parse`].

use super::super::error::Error;
use super::super::identity::{Addr, LocalDevice, UserId};
use super::super::signature::{SIGNATURE_LEN, SigningKey, VerifyKey};
use super::super::wire::{Reader, Writer};
use super::super::{Time, kdf, labels};
use super::{Epoch, Hash, Identity, LogId, LogKind, Role};

const VERSION: u8 = 1;
const NOBODY: UserId = [0; 16];
const NO_IDENTITY: Identity = [0; 32];
const MAX_ARG: usize = 256;
/// Bytes of an operation without its argument.
const FIXED_LEN: usize = 240;

/// A parsed operation: right in its layout, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub log_id: LogId,
    pub seq: Epoch,
    /// `head(seq − 1)`; zeros for the first operation.
    pub prev: Hash,
    /// The device that signed.
    pub actor: Addr,
    /// Names the actor's certificate.
    pub cert_hash: Hash,
    /// The actor's device list that contains the certificate.
    pub list_seq: u64,
    pub change: Change,
    /// By the actor's clock.
    pub time: Time,
    /// SHA-256 of the whole operation.
    pub head: Hash,
    /// Everything before the signature, then the signature.
    bytes: Vec<u8>,
}

/// What an operation does (the table of 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Create {
        identity: Identity,
        kind: LogKind,
        salt: [u8; 32],
    },
    Add {
        user: UserId,
        identity: Identity,
        role: Role,
    },
    Remove {
        user: UserId,
        ban: bool,
    },
    Leave,
    SetRole {
        user: UserId,
        role: Role,
    },
    /// Policy 1: whether anybody may join without an invite.
    Open(bool),
    /// Policy 2.
    AddInvite {
        key: Identity,
        /// 0 = no limit.
        max_uses: u32,
        /// 0 = never.
        expires: Time,
    },
    /// Policy 3.
    DeleteInvite {
        key: Identity,
    },
    /// Policy 4.
    Unban {
        user: UserId,
    },
    /// Policy 5: the least role that may add and delete invites.
    InviteRole(Role),
    /// Fixes the actor's `list_seq` (11.3), or discards an operation of another branch (11.4).
    Anchor {
        discarded: Option<Hash>,
    },
    Join {
        identity: Identity,
        invite: Option<InviteProof>,
    },
    /// Attaches a channel to a group, or detaches it (11.5).
    Channel {
        channel_id: [u8; 16],
        attach: bool,
    },
}

/// Shows that a joiner holds an invite key, for one user at one place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteProof {
    pub key: Identity,
    pub signature: [u8; SIGNATURE_LEN],
}

/// The device that signs an operation.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    pub addr: Addr,
    /// DSK.
    pub key: &'a SigningKey,
    pub cert_hash: Hash,
    /// A device list of the user that contains the certificate: the newest.
    pub list_seq: u64,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::crypto) struct Place {
    pub(in crate::crypto) log_id: LogId,
    pub(in crate::crypto) seq: Epoch,
    pub(in crate::crypto) prev: Hash,
}

impl<'a> Signer<'a> {
    /// This device, as its user's list of seq `list_seq` names it.
    pub fn new(device: &'a LocalDevice, list_seq: u64) -> Self {
        Self { addr: device.addr(), key: device.signing_key(), cert_hash: *device.certificate().hash(), list_seq }
    }
}

impl Op {
    /// Reads an operation without judging it: no signature is checked, no right.
    ///
    /// # Errors
    /// `Malformed` unless layout, length of the argument and presence of target and UIK are exactly those of the kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Error::Malformed);
        }
        let (log_id, seq, prev) = (*reader.array()?, reader.u64()?, *reader.array()?);
        let actor = Addr::read(&mut reader)?;
        let (cert_hash, list_seq, kind) = (*reader.array()?, reader.u64()?, reader.u8()?);
        let (target, identity) = (*reader.array()?, *reader.array()?);
        let change = Change::parse(kind, target, identity, reader.lv()?, actor.user_id)?;
        let time = reader.u64()?;
        reader.array::<SIGNATURE_LEN>()?;
        reader.end()?;
        if seq >= 1 << 63 {
            return Err(Error::Malformed);
        }
        let head = kdf::hash(&[bytes]);
        Ok(Self { log_id, seq, prev, actor, cert_hash, list_seq, change, time, head, bytes: bytes.to_vec() })
    }

    /// The operation as it travels.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks the actor's signature.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify(&self, device: &VerifyKey) -> Result<(), Error> {
        let (signed, signature) = self.bytes.split_last_chunk().ok_or(Error::Malformed)?;
        device.verify(labels::MEMBER, &[signed], signature)
    }

    pub(in crate::crypto) fn place(&self) -> Place {
        Place { log_id: self.log_id, seq: self.seq, prev: self.prev }
    }

    /// Writes and signs.
    pub(in crate::crypto) fn sign(place: Place, signer: &Signer<'_>, change: &Change, time: Time) -> Vec<u8> {
        let (kind, target, identity, arg) = change.fields(signer.addr.user_id);
        let mut writer = Writer::with_capacity(FIXED_LEN + arg.len());
        writer.u8(VERSION).bytes(&place.log_id).u64(place.seq).bytes(&place.prev).bytes(&signer.addr.to_bytes());
        writer.bytes(&signer.cert_hash).u64(signer.list_seq).u8(kind).bytes(&target).bytes(&identity);
        writer.u16(arg.len() as u16).bytes(&arg).u64(time);
        let mut op = writer.finish().to_vec();
        let signature = signer.key.sign(labels::MEMBER, &[&op]);
        op.extend_from_slice(&signature);
        op
    }
}

impl Change {
    fn parse(kind: u8, target: UserId, identity: Identity, arg: &[u8], actor: UserId) -> Result<Self, Error> {
        if arg.len() > MAX_ARG {
            return Err(Error::Malformed);
        }
        let mut arg = Reader::new(arg);
        let change = match kind {
            0 => Self::Create { identity, kind: LogKind::from_byte(arg.u8()?)?, salt: *arg.array()? },
            1 => Self::Add { user: target, identity, role: Role::from_byte(arg.u8()?)? },
            2 => Self::Remove { user: target, ban: arg.bool()? },
            3 => Self::Leave,
            4 => Self::SetRole { user: target, role: Role::from_byte(arg.u8()?)? },
            5 => match arg.u8()? {
                1 => Self::Open(arg.bool()?),
                2 => Self::AddInvite { key: *arg.array()?, max_uses: arg.u32()?, expires: arg.u64()? },
                3 => Self::DeleteInvite { key: *arg.array()? },
                4 => Self::Unban { user: target },
                5 => match Role::from_byte(arg.u8()?)? {
                    Role::Owner => return Err(Error::Malformed),
                    role => Self::InviteRole(role),
                },
                _ => return Err(Error::Malformed),
            },
            6 => Self::Anchor { discarded: if arg.rest().is_empty() { None } else { Some(*arg.array()?) } },
            7 if arg.rest().is_empty() => Self::Join { identity, invite: None },
            7 => Self::Join { identity, invite: Some(InviteProof { key: *arg.array()?, signature: *arg.array()? }) },
            8 => Self::Channel { channel_id: *arg.array()?, attach: arg.bool()? },
            _ => return Err(Error::Malformed),
        };
        arg.end()?;
        let (_, wanted_target, wanted_identity, _) = change.fields(actor);
        let names_somebody = match change {
            Self::Add { .. } | Self::Remove { .. } | Self::SetRole { .. } | Self::Unban { .. } => target != NOBODY,
            _ => true,
        };
        let has_identity = match change {
            Self::Create { .. } | Self::Add { .. } | Self::Join { .. } => identity != NO_IDENTITY,
            _ => true,
        };
        if (target, identity) == (wanted_target, wanted_identity) && names_somebody && has_identity {
            Ok(change)
        } else {
            Err(Error::Malformed)
        }
    }

    /// kind, target, UIK and argument, for an operation of `actor`.
    fn fields(&self, actor: UserId) -> (u8, UserId, Identity, Vec<u8>) {
        match *self {
            Self::Create { identity, kind, salt } => (0, actor, identity, [&[kind as u8][..], &salt].concat()),
            Self::Add { user, identity, role } => (1, user, identity, vec![role as u8]),
            Self::Remove { user, ban } => (2, user, NO_IDENTITY, vec![u8::from(ban)]),
            Self::Leave => (3, actor, NO_IDENTITY, Vec::new()),
            Self::SetRole { user, role } => (4, user, NO_IDENTITY, vec![role as u8]),
            Self::Open(open) => (5, NOBODY, NO_IDENTITY, vec![1, u8::from(open)]),
            Self::AddInvite { key, max_uses, expires } => {
                (5, NOBODY, NO_IDENTITY, [&[2][..], &key, &max_uses.to_be_bytes(), &expires.to_be_bytes()].concat())
            }
            Self::DeleteInvite { key } => (5, NOBODY, NO_IDENTITY, [&[3][..], &key].concat()),
            Self::Unban { user } => (5, user, NO_IDENTITY, vec![4]),
            Self::InviteRole(role) => (5, NOBODY, NO_IDENTITY, vec![5, role as u8]),
            Self::Anchor { discarded } => (6, NOBODY, NO_IDENTITY, discarded.map(|hash| hash.to_vec()).unwrap_or_default()),
            Self::Join { identity, invite } => {
                let arg = invite.map(|InviteProof { key, signature }| [&key[..], &signature].concat());
                (7, actor, identity, arg.unwrap_or_default())
            }
            Self::Channel { channel_id, attach } => (8, NOBODY, NO_IDENTITY, [&channel_id[..], &[u8::from(attach)]].concat()),
        }
    }
}

impl InviteProof {
    /// Signs with the invite's secret for one user at one place, so that the proof is of no use to anybody else.
    pub(super) fn sign(secret: &SigningKey, place: Place, user: UserId, identity: &Identity) -> Self {
        let signature = secret.sign(labels::INVITE, &[&place.log_id, &place.seq.to_be_bytes(), &place.prev, &user, identity]);
        Self { key: *secret.public().as_bytes(), signature }
    }

    pub(super) fn verify(&self, place: Place, user: UserId, identity: &Identity) -> Result<(), Error> {
        let message: [&[u8]; 5] = [&place.log_id, &place.seq.to_be_bytes(), &place.prev, &user, identity];
        VerifyKey::import(&self.key)?.verify(labels::INVITE, &message, &self.signature)
    }
}
