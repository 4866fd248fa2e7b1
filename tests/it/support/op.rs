//! Ops of membership logs, written byte by byte after `crypto.md` 11.1, so that they can be wrong in every way, and so that the
//! layout is checked from outside.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chat::crypto::identity::LocalDevice;
use chat::crypto::labels;
use chat::crypto::signature::SigningKey;
use uuid::Uuid;

use super::account::rng;
use super::person::Person;

/// The key of an invite: its secret half is what a link carries after the `#`.
pub struct InviteKey(SigningKey);

impl InviteKey {
    pub fn new() -> Self {
        Self(SigningKey::random(&mut rng()))
    }

    pub fn public(&self) -> [u8; 32] {
        *self.0.public().as_bytes()
    }
}

/// An op before it is signed. Every field may be made wrong.
#[derive(Clone)]
pub struct Op<'a> {
    pub signer: &'a LocalDevice,
    pub log: Uuid,
    pub seq: u64,
    pub prev: [u8; 32],
    pub actor: Uuid,
    pub device_id: u32,
    pub cert_hash: [u8; 32],
    pub list_seq: u64,
    pub kind: u8,
    pub target: Uuid,
    pub identity: [u8; 32],
    pub arg: Vec<u8>,
    pub time: u64,
}

impl Op<'_> {
    fn of(mut self, kind: u8, target: Uuid, identity: [u8; 32], arg: &[u8]) -> String {
        (self.kind, self.target, self.identity, self.arg) = (kind, target, identity, arg.to_vec());
        self.signed()
    }

    /// `log_kind`: 1 channel, 2 group.
    pub fn create(self, log_kind: u8) -> String {
        let (actor, identity) = (self.actor, *self.signer.identity().as_bytes());
        self.of(0, actor, identity, &[&[log_kind][..], &[9; 32]].concat())
    }

    pub fn add(self, who: &Person, role: u8) -> String {
        self.of(1, who.id, who.identity(), &[role])
    }

    pub fn remove(self, who: &Person, ban: bool) -> String {
        self.of(2, who.id, [0; 32], &[u8::from(ban)])
    }

    pub fn leave(self) -> String {
        let actor = self.actor;
        self.of(3, actor, [0; 32], &[])
    }

    pub fn role(self, who: &Person, role: u8) -> String {
        self.of(4, who.id, [0; 32], &[role])
    }

    pub fn open(self, open: bool) -> String {
        self.of(5, Uuid::nil(), [0; 32], &[1, u8::from(open)])
    }

    pub fn add_invite(self, key: &InviteKey, max_uses: u32, expires: u64) -> String {
        let arg = [&[2][..], &key.public(), &max_uses.to_be_bytes(), &expires.to_be_bytes()].concat();
        self.of(5, Uuid::nil(), [0; 32], &arg)
    }

    pub fn delete_invite(self, key: &InviteKey) -> String {
        self.of(5, Uuid::nil(), [0; 32], &[&[3][..], &key.public()].concat())
    }

    pub fn unban(self, who: &Person) -> String {
        self.of(5, who.id, [0; 32], &[4])
    }

    pub fn invite_role(self, role: u8) -> String {
        self.of(5, Uuid::nil(), [0; 32], &[5, role])
    }

    pub fn anchor(self) -> String {
        self.of(6, Uuid::nil(), [0; 32], &[])
    }

    pub fn join(self, me: &Person, invite: Option<&InviteKey>) -> String {
        let arg = invite.map(|key| {
            let (seq, identity) = (self.seq.to_be_bytes(), me.identity());
            let message: [&[u8]; 5] = [self.log.as_bytes(), &seq, &self.prev, me.id.as_bytes(), &identity];
            [&key.public()[..], &key.0.sign(labels::INVITE, &message)].concat()
        });
        self.of(7, me.id, me.identity(), &arg.unwrap_or_default())
    }

    pub fn attach(self, channel: Uuid, attach: bool) -> String {
        self.of(8, Uuid::nil(), [0; 32], &[&channel.as_bytes()[..], &[u8::from(attach)]].concat())
    }

    /// The op in base64.
    pub fn signed(&self) -> String {
        let mut op = vec![1];
        op.extend(self.log.as_bytes());
        op.extend(self.seq.to_be_bytes());
        op.extend(self.prev);
        op.extend(self.actor.as_bytes());
        op.extend(self.device_id.to_be_bytes());
        op.extend(self.cert_hash);
        op.extend(self.list_seq.to_be_bytes());
        op.push(self.kind);
        op.extend(self.target.as_bytes());
        op.extend(self.identity);
        op.extend(u16::try_from(self.arg.len()).unwrap().to_be_bytes());
        op.extend(&self.arg);
        op.extend(self.time.to_be_bytes());
        let signature = self.signer.signing_key().sign(labels::MEMBER, &[&op]);
        op.extend(signature);
        STANDARD.encode(op)
    }
}
