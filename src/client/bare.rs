//! Accounts without a profile or a store: a login, one device and its keys in memory. For load generators and whatever else
//! needs many real people at once and reads nothing of what they write. Nobody's messages belong here: what is lost with the
//! process cannot be decrypted again.
//!
//! Start with [`Person::register`], then [`Hall::found`] for a place in which people meet.

use std::sync::Arc;

use getrandom::SysRng;
use rand_core::UnwrapErr;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use uuid::Uuid;

use super::core::now;
use super::engine::Method;
use super::model::{Problem, ProblemKind};
use super::transport::{Call, Transport};
use crate::crypto::frame::ChannelFrame;
use crate::crypto::identity::{Addr, LocalDevice};
use crate::crypto::membership::{ActorObjects, Change, Log, LogKind, Signer};
use crate::crypto::prekeys::PrekeySecrets;
use crate::protocol::auth::{LoggedIn, Register, SecretText};
use crate::protocol::channels::{ChannelKind, CreateChannel};
use crate::protocol::codec::Blob;
use crate::protocol::communities::{CreateCommunity, CreateGroup, PostLogOp, SignedOp, Visibility};
use crate::protocol::devices::{DeviceSession, RegisterDevice};
use crate::protocol::error::ErrorBody;
use crate::protocol::ids::{ChannelId, CommunityId, DeviceId, GroupId, UserId};
use crate::protocol::keys::{KemPrekey, SignedPrekey};

/// A user with one device, logged in.
pub struct Person {
    pub user_id: UserId,
    pub device_id: DeviceId,
    /// Good for as long as the server's access tokens are; it is not renewed.
    pub token: SecretText,
    device: LocalDevice,
    list: Vec<u8>,
}

/// A community that everybody may join, with one channel; what its members have signed so far.
pub struct Hall {
    pub community_id: CommunityId,
    pub channel_id: ChannelId,
    log: Log,
}

impl Person {
    /// Makes the account and its first device.
    ///
    /// # Errors
    /// What the server refused, or that it did not answer.
    pub async fn register(server: &Arc<dyn Transport>, username: &str, password: &SecretText) -> Result<Self, Problem> {
        let request = Register {
            username: username.to_owned(),
            password: password.clone(),
            display_name: None,
            email: None,
            invite_code: None,
        };
        let login: LoggedIn = post(server, None, "/auth/register", &request).await?;
        let user_id = login.user.id;
        let (now, mut rng) = (now().as_unix_ms(), UnwrapErr(SysRng));
        let (device, list) = LocalDevice::first(*user_id.as_bytes(), now, &mut rng).map_err(unmade)?;
        let (signed, last) = PrekeySecrets::default().rotate(&device, now, &mut rng).map_err(unmade)?;
        let request = RegisterDevice {
            device_id: device.addr().device_id,
            name: "bare".to_owned(),
            identity_key: Some(Blob::from(*device.identity().as_bytes())),
            certificate: Blob::from(*device.certificate().as_bytes()),
            device_list: Some(Blob::from(list.as_bytes())),
            signed_prekey: SignedPrekey {
                id: signed.id,
                public_key: Blob::from(signed.public.0),
                created_ms: signed.created,
                signature: Blob::from(signed.signature),
            },
            last_kem_prekey: KemPrekey {
                kind: last.kind as u8,
                id: last.id,
                public_key: Blob::from(last.public.as_slice()),
                created_ms: last.created,
                signature: Blob::from(last.signature),
            },
            one_time_prekeys: Vec::new(),
            kem_prekeys: Vec::new(),
            reset: false,
            password: None,
        };
        let session: DeviceSession = post(server, Some(&login.tokens.access_token), "/devices", &request).await?;
        Ok(Self {
            user_id,
            device_id: session.device_id,
            token: session.tokens.access_token,
            device,
            list: list.as_bytes().to_vec(),
        })
    }

    fn signer(&self) -> Signer<'_> {
        Signer::new(&self.device, 1)
    }

    /// What proves this person's ops.
    fn objects(&self) -> ActorObjects {
        ActorObjects { cert: Some(self.device.certificate().as_bytes().to_vec()), list: Some(self.list.clone()) }
    }
}

impl Hall {
    /// Makes the community with its channel and opens it.
    ///
    /// # Errors
    /// What the server refused, or that it did not answer.
    pub async fn found(server: &Arc<dyn Transport>, owner: &Person, name: &str) -> Result<Self, Problem> {
        let (community_id, channel_id) = (CommunityId(Uuid::now_v7()), ChannelId(Uuid::now_v7()));
        let token = Some(&owner.token);
        let id = *community_id.as_bytes();
        let identity = owner.device.identity();
        let create = Log::create(id, LogKind::Group, &owner.signer(), identity, &mut UnwrapErr(SysRng), now().as_unix_ms());
        let log = Log::start(&id, &create, None, &owner.objects()).map_err(unmade)?;
        let request = CreateCommunity {
            id: community_id,
            name: name.to_owned(),
            description: None,
            discoverable: false,
            log_op: Blob(create),
        };
        let _: IgnoredAny = post(server, token, "/communities", &request).await?;
        let mut hall = Self { community_id, channel_id, log };

        let op = hall.sign(owner, &Change::Open(true))?;
        let _: IgnoredAny =
            post(server, token, &format!("/communities/{community_id}/log-ops"), &PostLogOp { op: op.clone() }).await?;
        hall.apply(owner, &op)?;

        let group_id = GroupId(Uuid::now_v7());
        let request = CreateGroup {
            id: group_id,
            name: "General".to_owned(),
            description: None,
            visibility: Visibility::Public,
            log_op: None,
        };
        let _: IgnoredAny = post(server, token, &format!("/communities/{community_id}/groups"), &request).await?;

        let op = hall.sign(owner, &Change::Channel { channel_id: *channel_id.as_bytes(), attach: true })?;
        let request = CreateChannel {
            id: channel_id,
            name: "talk".to_owned(),
            kind: ChannelKind::Text,
            topic: None,
            visibility: Visibility::Public,
            log_op: op.clone(),
        };
        let _: IgnoredAny = post(server, token, &format!("/groups/{group_id}/channels"), &request).await?;
        hall.apply(owner, &op)?;
        Ok(hall)
    }

    /// Lets somebody join. One after the other: each op names the one before it.
    ///
    /// # Errors
    /// What the server refused, or that it did not answer.
    pub async fn join(&mut self, server: &Arc<dyn Transport>, person: &Person) -> Result<(), Problem> {
        let identity = person.device.identity();
        let op = self.log.sign_join(&person.signer(), identity, None, now().as_unix_ms()).map_err(unmade)?;
        let op = Blob(op);
        let path = format!("/communities/{}/join", self.community_id);
        let _: IgnoredAny = post(server, Some(&person.token), &path, &SignedOp { log_op: op.clone() }).await?;
        self.apply(person, &op)
    }

    /// The newest epoch: what frames for the channel name.
    pub fn epoch(&self) -> u64 {
        self.log.epoch()
    }

    fn sign(&self, owner: &Person, change: &Change) -> Result<Blob, Problem> {
        self.log.sign(&owner.signer(), change, now().as_unix_ms()).map(Blob).map_err(unmade)
    }

    fn apply(&mut self, actor: &Person, op: &Blob) -> Result<(), Problem> {
        self.log.apply(op.as_slice(), &actor.objects()).map(drop).map_err(unmade)
    }
}

/// A channel frame (`docs/CRYPTO.md` 8) with a true header and noise behind it, as big as that of a message of up to 256 bytes:
/// the server checks header and size, and cannot look deeper. Nobody can decrypt it.
pub fn noise(channel: ChannelId, user: UserId, device: DeviceId, epoch: u64, number: u32) -> Blob {
    const COMMITMENT: usize = 32;
    const CONTENT: usize = 256;
    const TAG: usize = 16;
    const SIGNATURE: usize = 64;
    let header = ChannelFrame::header_bytes(channel.as_bytes(), Addr::new(*user.as_bytes(), device), 1, number, epoch);
    let mut frame = header.to_vec();
    // Noise that does not compress: the database must not have it easier than with ciphertext.
    let mut state = u64::from(number) << 32 | 0x9e37_79b9;
    while frame.len() < header.len() + COMMITMENT + CONTENT + TAG + SIGNATURE {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        frame.extend((state ^ state >> 29).to_be_bytes());
    }
    Blob(frame)
}

async fn post<T: DeserializeOwned>(
    server: &Arc<dyn Transport>,
    bearer: Option<&SecretText>,
    path: &str,
    body: &impl Serialize,
) -> Result<T, Problem> {
    let body = serde_json::to_vec(body).map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))?;
    let call = Call { method: Method::Post, path: path.to_owned(), body: Some(body), bearer: bearer.cloned() };
    let answer = server.http(call).await.map_err(|error| Problem::new(ProblemKind::Network, format!("{path}: {error}")))?;
    if (200..300).contains(&answer.status) {
        return serde_json::from_slice(&answer.body)
            .map_err(|error| Problem::new(ProblemKind::Network, format!("{path}: the answer cannot be read: {error}")));
    }
    let why = serde_json::from_slice::<ErrorBody>(&answer.body).map_or_else(|_| String::new(), |body| body.error.message);
    Err(Problem::new(ProblemKind::Failed, format!("{path} was refused with HTTP {}: {why}", answer.status)))
}

fn unmade(error: crate::crypto::Error) -> Problem {
    Problem::new(ProblemKind::Failed, format!("the keys of a person cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::frame::Frame;

    #[test]
    fn noise_has_the_form_of_a_message() {
        let (channel, user) = (ChannelId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let frame = noise(channel, user, 3, 4, 5);
        assert_eq!(frame.len(), 424);
        let Ok(Frame::Channel(parsed)) = Frame::parse(frame.as_slice()) else { panic!("no channel frame") };
        assert_eq!((parsed.channel_id, parsed.sender.user_id, parsed.sender.device_id), ([1; 16], [2; 16], 3));
        assert_eq!((parsed.epoch, parsed.iteration), (4, 5));
        assert_ne!(frame, noise(channel, user, 3, 4, 6));
    }
}
