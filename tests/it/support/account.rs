//! Accounts that came in through the door: [`User`] has a login, [`Device`] has prekeys and can sign.

use std::sync::atomic::{AtomicU64, Ordering};

use chat::crypto::identity::LocalDevice;
use chat::crypto::prekeys::PrekeySecrets;
use chat::protocol::auth::{LoggedIn, Tokens};
use chat::protocol::codec::Blob;
use chat::protocol::devices::{DeviceSession, RegisterDevice};
use chat::protocol::ids::{DeviceId, UserId};
use chat::protocol::keys::{KemPrekey, OneTimePrekey, SignedPrekey};
use chat::protocol::users::User as Profile;
use serde_json::json;

use super::http::{Anon, Http};
use super::server::TestServer;

/// The password of every test account that does not say otherwise.
pub const PASSWORD: &str = "correct horse battery";

/// A login.
#[derive(Clone)]
pub struct User {
    pub anon: Anon,
    pub profile: Profile,
    pub tokens: Tokens,
    pub recovery_code: Option<String>,
}

/// A login that is a device and can sign.
pub struct Device {
    pub user: User,
    pub local: LocalDevice,
    pub keys: PrekeySecrets,
    pub list: chat::crypto::device_list::DeviceList,
}

impl TestServer {
    /// A new account with a login and no device.
    pub async fn user(&self, username: &str) -> User {
        let body = json!({ "username": username, "password": PASSWORD });
        User::of(self.anon(), self.anon().post("/auth/register", &body).await.ok(201))
    }

    /// A new account with its first device.
    pub async fn device(&self, username: &str) -> Device {
        Device::first(self.user(username).await).await
    }
}

impl Http for User {
    fn anon(&self) -> &Anon {
        &self.anon
    }
    fn token(&self) -> Option<&str> {
        Some(&self.tokens.access_token.0)
    }
}

impl Http for Device {
    fn anon(&self) -> &Anon {
        &self.user.anon
    }
    fn token(&self) -> Option<&str> {
        self.user.token()
    }
}

impl Anon {
    /// A new login of an account.
    pub async fn login(&self, username: &str) -> User {
        let answer: LoggedIn = self.post("/auth/login", &json!({ "username": username, "password": PASSWORD })).await.ok(200);
        User::of(self.clone(), answer)
    }
}

impl User {
    pub fn of(anon: Anon, answer: LoggedIn) -> Self {
        Self { anon, profile: answer.user, tokens: answer.tokens, recovery_code: answer.recovery_code.map(|code| code.0) }
    }

    pub fn id(&self) -> UserId {
        self.profile.id
    }

    /// The same login with other tokens.
    pub fn with_tokens(&self, tokens: Tokens) -> Self {
        Self { tokens, ..self.clone() }
    }
}

impl Device {
    /// Registers the account's first device.
    pub async fn first(user: User) -> Self {
        Self::of_age(user, 0).await
    }

    /// The same, with prekeys that were signed so many milliseconds ago.
    pub async fn of_age(user: User, age: u64) -> Self {
        let (local, list) = LocalDevice::first(*user.id().as_bytes(), now_ms(), &mut rng()).unwrap();
        let mut device = Self { user, local, keys: PrekeySecrets::default(), list };
        let mut request = device.registration(3, 2);
        if age > 0 {
            let (signed, last) = device.keys.rotate(&device.local, now_ms() - age, &mut rng()).unwrap();
            (request.signed_prekey, request.last_kem_prekey) = (signed_prekey(&signed), kem_prekey(&last));
        }
        request.identity_key = Some(Blob::from(*device.local.identity().as_bytes()));
        request.device_list = Some(Blob::from(device.list.as_bytes()));
        device.register(&request).await;
        device
    }

    /// Registers with a request of its own and takes the new tokens.
    pub async fn register(&mut self, request: &RegisterDevice) {
        let answer: DeviceSession = self.post("/devices", request).await.ok(201);
        assert_eq!(answer.device_id, self.device_id());
        self.user.tokens = answer.tokens;
    }

    /// A further device of the same person on a login of its own, already in the signed list.
    pub async fn linked(&mut self) -> Self {
        let session = self.user.anon.login(&self.user.profile.username).await;
        let id = self.list.entries().iter().map(|entry| entry.device_id).max().unwrap() + 1;
        let local = self.sibling(id);
        let list = self.next_list(&[self.local.certificate(), local.certificate()]);
        let mut device = Self { user: session, local, keys: PrekeySecrets::default(), list: list.clone() };
        let mut request = device.registration(3, 2);
        request.device_list = Some(Blob::from(list.as_bytes()));
        device.register(&request).await;
        self.list = list;
        device
    }

    /// Keys of another device under this identity.
    pub fn sibling(&self, device_id: DeviceId) -> LocalDevice {
        let secret = self.local.identity_secret().unwrap();
        let identity = chat::crypto::signature::SigningKey::from_seed(secret.expose_seed());
        let addr = chat::crypto::identity::Addr::new(*self.user.id().as_bytes(), device_id);
        LocalDevice::under(identity, addr, now_ms(), &mut rng()).unwrap()
    }

    /// The next signed list, not published.
    pub fn next_list(&self, devices: &[&chat::crypto::cert::DeviceCert]) -> chat::crypto::device_list::DeviceList {
        let secret = self.local.identity_secret().unwrap();
        let list =
            chat::crypto::device_list::DeviceList::sign(secret, *self.id().as_bytes(), Some(&self.list), devices, now_ms());
        list.unwrap()
    }

    /// A registration of this device with fresh prekeys, without identity key and list.
    pub fn registration(&mut self, one_time: u32, kem: u32) -> RegisterDevice {
        let (signed, last) = self.keys.rotate(&self.local, now_ms(), &mut rng()).unwrap();
        RegisterDevice {
            device_id: self.device_id(),
            name: format!("device {}", self.device_id()),
            identity_key: None,
            certificate: Blob::from(*self.local.certificate().as_bytes()),
            device_list: None,
            signed_prekey: signed_prekey(&signed),
            last_kem_prekey: kem_prekey(&last),
            one_time_prekeys: self.one_time_prekeys(one_time),
            kem_prekeys: self.kem_prekeys(kem),
            reset: false,
            password: None,
        }
    }

    pub fn one_time_prekeys(&mut self, count: u32) -> Vec<OneTimePrekey> {
        let keys = self.keys.add_one_time(count, &mut rng()).unwrap();
        keys.iter().map(|key| OneTimePrekey { id: key.id, public_key: Blob::from(key.public.0) }).collect()
    }

    pub fn kem_prekeys(&mut self, count: u32) -> Vec<KemPrekey> {
        let keys = self.keys.add_kem(&self.local, count, now_ms(), &mut rng()).unwrap();
        keys.iter().map(kem_prekey).collect()
    }

    pub fn id(&self) -> UserId {
        self.user.id()
    }

    pub fn device_id(&self) -> DeviceId {
        self.local.addr().device_id
    }
}

pub fn signed_prekey(key: &chat::crypto::bundle::SignedPrekey) -> SignedPrekey {
    SignedPrekey {
        id: key.id,
        public_key: Blob::from(key.public.0),
        created_ms: key.created,
        signature: Blob::from(key.signature),
    }
}

pub fn kem_prekey(key: &chat::crypto::bundle::KemPrekey) -> KemPrekey {
    KemPrekey {
        kind: key.kind as u8,
        id: key.id,
        public_key: Blob::from(key.public.as_slice()),
        created_ms: key.created,
        signature: Blob::from(key.signature),
    }
}

/// Randomness of the operating system: keys of two tests never meet.
pub fn rng() -> rand_core::UnwrapErr<getrandom::SysRng> {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// A clock that never says the same twice, near the real one.
pub fn now_ms() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    LAST.fetch_max(now, Ordering::Relaxed);
    LAST.fetch_add(1, Ordering::Relaxed)
}
