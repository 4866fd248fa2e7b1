//! The device of this profile: made at the first login, bound to a session, and its prekeys kept in stock at the server
//! (`crypto.md` 4, 5; `protocol.md` 2, 9.27).

use serde::{Deserialize, Serialize};

use crate::client::event::ClientEvent;
use crate::client::model::{Account, Connection, Problem, ProblemKind};
use crate::client::store::{StoreError, Table};
use crate::crypto::bundle::{KemPrekey, OneTimePrekey, SignedPrekey};
use crate::crypto::contact::Contact;
use crate::crypto::frame::KemKind;
use crate::crypto::identity::{LocalDevice, fingerprint};
use crate::crypto::membership::Signer;
use crate::crypto::prekeys::{self, PrekeySecrets};
use crate::protocol::codec::Timestamp;
use crate::protocol::devices::{DeviceSession, RegisterDevice, TakeDevice, UserDevices};
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{DeviceId, UserId};
use crate::protocol::keys as wire;
use crate::protocol::keys::{PrekeyCounts, UploadPrekeys};
use crate::protocol::users::User;

use super::db::{Db, damaged};
use super::http::{self, Failure, Question};
use super::io::{Login, Method, Output};
use super::{Cx, Engine};

/// Who this profile is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Me {
    pub user_id: UserId,
    pub device_id: DeviceId,
    pub user: User,
    /// `https://chat.example.org`
    pub server: String,
    pub server_name: String,
    /// The server has the device; before that it must not be used.
    pub registered: bool,
}

/// The secrets of this device.
pub(super) struct Keys {
    pub device: LocalDevice,
    pub prekeys: PrekeySecrets,
}

/// In [`Table::Account`]: prekeys of which it is not known whether the server has them, as they were sent.
const UPLOAD: &[u8] = b"prekey-upload";

/// What is sent until the server answers: the same keys every time.
#[derive(Serialize, Deserialize)]
struct Upload {
    body: Vec<u8>,
    /// How many more one-time prekeys of either kind are to follow.
    rest: (u32, u32),
}

/// A day: how often the stock of prekeys is looked at anyway, milliseconds.
const DAY_MS: u64 = 86_400_000;

pub(super) fn open(db: &Db<'_>) -> Result<(Option<Me>, Option<Keys>), StoreError> {
    let me = db.load::<Me>(Table::Account, b"me")?;
    let device = db
        .get(Table::Account, b"device")?
        .map(|record| LocalDevice::from_record(&record).map_err(|error| damaged(Table::Account, error)))
        .transpose()?;
    let prekeys = db
        .get(Table::Account, b"prekeys")?
        .map(|record| PrekeySecrets::from_record(&record).map_err(|error| damaged(Table::Account, error)))
        .transpose()?
        .unwrap_or_default();
    Ok((me, device.map(|device| Keys { device, prekeys })))
}

/// Whether it may be otherwise the next time: there was no answer, or the server is in trouble.
fn passes(failure: &Failure) -> bool {
    !failure.is_final() && !matches!(failure.code(), Some(ErrorCode::Unauthenticated | ErrorCode::TokenExpired))
}

/// One-time prekeys of one request: so few that it passes a slow link, 2 KB a second, within the time that servers wait for it.
const ONE_TIME_AT_ONCE: u32 = 20;
const KEM_AT_ONCE: u32 = 4;

impl Engine {
    pub(super) fn me_id(&self) -> UserId {
        self.me.as_ref().map_or(super::lines::NOBODY, |me| me.user_id)
    }

    /// The login of the driver: makes the device, or takes it up again.
    pub(super) fn on_login(&mut self, cx: &mut Cx<'_>, login: Login) -> Result<(), StoreError> {
        self.login = Some(login.clone());
        self.timers.login = None;
        let Some(me) = &mut self.me else {
            if login.device_id.is_some() {
                cx.notice(
                    Problem::new(ProblemKind::Auth, "This session belongs to a device whose keys are not in this profile.")
                        .hint("Log in again with the password."),
                );
                return Ok(());
            }
            return self.go_on_with_login(cx);
        };
        if me.user_id != login.user.id {
            cx.notice(
                Problem::new(
                    ProblemKind::Usage,
                    format!("This profile belongs to {}, not to {}.", me.user.username, login.user.username),
                )
                .hint("Use another profile: chat --profile NAME."),
            );
            return Ok(());
        }
        me.user = login.user;
        me.server = login.server;
        me.server_name = login.server_name;
        let me = me.clone();
        cx.db.save(Table::Account, *b"me", &me)?;
        if me.registered && login.device_id == Some(me.device_id) {
            self.tell_opened(cx);
            return Ok(());
        }
        if me.registered {
            self.take_device(cx);
            self.tell_opened(cx);
            return Ok(());
        }
        self.register(cx)
    }

    /// The server did not answer on the way to a device that it knows: the same is asked again after a while.
    fn try_login_later(&mut self, cx: &mut Cx<'_>, failure: &Failure) {
        let at = self.timers.back_off(cx.now, failure.retry_after_ms());
        self.timers.login = Some(at);
        let since = match &self.connection {
            Connection::Offline { since, .. } => *since,
            _ => cx.now,
        };
        let retry_at = i64::try_from(at).ok().map(Timestamp);
        self.set_connection(cx, Connection::Offline { since, retry_at, why: failure.problem().text });
    }

    pub(super) fn go_on_with_login(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.timers.login = None;
        match (&self.login, self.me.as_ref().map(|me| me.registered)) {
            (Some(_), Some(true)) => self.take_device(cx),
            (Some(_), Some(false)) => self.register(cx)?,
            (Some(login), None) => {
                let path = format!("/users/{}/devices?after=0", login.user.id);
                self.ask(cx, Question::OwnIdentity, Method::Get, path, None);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// The first event of a profile, and again after a login.
    pub(super) fn tell_opened(&mut self, cx: &mut Cx<'_>) {
        if let (Some(me), Some(keys)) = (&self.me, &self.keys)
            && me.registered
        {
            let account = Account {
                user_id: me.user_id,
                device_id: me.device_id,
                username: me.user.username.as_str().into(),
                server: me.server.clone(),
                server_name: me.server_name.as_str().into(),
                fingerprint: fingerprint(keys.device.identity()),
                receipts: !self.receipts_off,
            };
            cx.tell(ClientEvent::Opened { account: account.into(), tree: self.tree().into() });
            cx.tell(ClientEvent::Connection(self.connection.clone()));
        }
    }

    pub(super) fn on_own_identity(&mut self, cx: &mut Cx<'_>, answer: Result<UserDevices, Failure>) -> Result<(), StoreError> {
        let Some(login) = self.login.clone() else { return Ok(()) };
        match answer {
            Err(failure) if !passes(&failure) => {
                cx.notice(failure.problem());
                Ok(())
            }
            Err(failure) => {
                self.try_login_later(cx, &failure);
                Ok(())
            }
            Ok(devices) if devices.identity_key.is_some() && self.me.is_none() => {
                cx.notice(
                    Problem::new(ProblemKind::Auth, "This account has a device already, and its keys are not in this profile.")
                        .hint("Use the profile of that device. Linking a second device comes with a later release."),
                );
                Ok(())
            }
            Ok(_) => {
                if self.me.is_none() {
                    self.make_device(cx, login)?;
                }
                self.register(cx)
            }
        }
    }

    /// A new identity with its first device. It is saved before the server hears of it.
    fn make_device(&mut self, cx: &mut Cx<'_>, login: Login) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let failed = |error| damaged(Table::Account, error);
        let (device, list) = LocalDevice::first(*login.user.id.as_bytes(), now, &mut cx.rng).map_err(failed)?;
        let mut prekeys = PrekeySecrets::default();
        let (signed, last) = prekeys.rotate(&device, now, &mut cx.rng).map_err(failed)?;
        // The stock is filled when the device is there.
        let one_time = prekeys.add_one_time(ONE_TIME_AT_ONCE, &mut cx.rng).map_err(failed)?;
        let kem = prekeys.add_kem(&device, KEM_AT_ONCE, now, &mut cx.rng).map_err(failed)?;
        let request = RegisterDevice {
            device_id: device.addr().device_id,
            name: login.device_name.clone(),
            identity_key: Some(device.identity().as_bytes().to_vec().into()),
            certificate: device.certificate().as_bytes().to_vec().into(),
            device_list: Some(list.as_bytes().into()),
            signed_prekey: wire_signed(&signed),
            last_kem_prekey: wire_kem(&last),
            one_time_prekeys: one_time.iter().map(wire_one_time).collect(),
            kem_prekeys: kem.iter().map(wire_kem).collect(),
            reset: false,
            password: None,
        };
        let me = Me {
            user_id: login.user.id,
            device_id: device.addr().device_id,
            user: login.user,
            server: login.server,
            server_name: login.server_name,
            registered: false,
        };
        let own = Contact::first(device.addr().user_id, list.as_bytes(), &[device.certificate().as_bytes()]).map_err(failed)?;
        cx.db.save(Table::Account, *b"me", &me)?;
        cx.db.put_value(Table::Account, *b"device", device.to_record());
        cx.db.put_value(Table::Account, *b"prekeys", prekeys.to_record());
        cx.db.save(Table::Account, *b"registration", &http::json(&request).unwrap_or_default())?;
        self.me = Some(me);
        self.keys = Some(Keys { device, prekeys });
        self.keep_pinned(cx, &own);
        self.put_contact(cx, own);
        Ok(())
    }

    /// Sends the saved registration, with the same bytes every time.
    fn register(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        if let Some(body) = cx.db.load::<Vec<u8>>(Table::Account, b"registration")? {
            self.ask(cx, Question::Register, Method::Post, "/devices", Some(body));
        }
        Ok(())
    }

    pub(super) fn on_registered(&mut self, cx: &mut Cx<'_>, answer: Result<DeviceSession, Failure>) -> Result<(), StoreError> {
        match answer {
            Ok(session) => self.begin_session(cx, session),
            // The answer to an earlier try was lost: the server has the device.
            Err(failure) if failure.code() == Some(ErrorCode::Conflict) => {
                self.take_device(cx);
                Ok(())
            }
            Err(failure) if !passes(&failure) => {
                cx.notice(failure.problem().hint("The new keys are saved. Start again to go on."));
                Ok(())
            }
            Err(failure) => {
                self.try_login_later(cx, &failure);
                Ok(())
            }
        }
    }

    /// Proves to the server that this session is on this device.
    fn take_device(&mut self, cx: &mut Cx<'_>) {
        if let (Some(login), Some(me), Some(keys)) = (&self.login, &self.me, &self.keys) {
            let signature = keys.device.sign_login(login.session_id.as_bytes());
            let path = format!("/devices/{}/session", me.device_id);
            let body = http::json(&TakeDevice { signature: signature.into() });
            self.ask(cx, Question::TakeDevice, Method::Post, path, body);
        }
    }

    pub(super) fn on_device_taken(&mut self, cx: &mut Cx<'_>, answer: Result<DeviceSession, Failure>) -> Result<(), StoreError> {
        match answer {
            Ok(session) => {
                // The last login ended: perhaps because this profile came out of a backup, whose token was old.
                self.begin_anew(cx)?;
                self.begin_session(cx, session)
            }
            // The signature is of no device of this account, or of another one that has its number now.
            Err(failure) if matches!(failure.code(), Some(ErrorCode::BadSignature | ErrorCode::NotFound)) => {
                cx.notice(
                    Problem::new(
                        ProblemKind::Auth,
                        "The account does not know this device any more: it was removed, or the identity was replaced on another machine.",
                    )
                    .hint(
                        "Your history stays here. Write from the machine that has the account's keys now; if you replaced nothing, \
                         somebody else has your password: change it, and tell your contacts.",
                    ),
                );
                Ok(())
            }
            Err(failure) if !passes(&failure) => {
                cx.notice(failure.problem().hint("Your local history is here. Log in again."));
                Ok(())
            }
            Err(failure) => {
                self.try_login_later(cx, &failure);
                Ok(())
            }
        }
    }

    fn begin_session(&mut self, cx: &mut Cx<'_>, session: DeviceSession) -> Result<(), StoreError> {
        let Some(me) = &mut self.me else { return Ok(()) };
        if session.device_id != me.device_id {
            cx.notice(Problem::new(ProblemKind::Auth, "The server bound this session to another device.").hint("Log in again."));
            return Ok(());
        }
        let first = !me.registered;
        me.registered = true;
        let me = me.clone();
        cx.db.save(Table::Account, *b"me", &me)?;
        cx.db.delete(Table::Account, *b"registration");
        self.places.put_user(&mut cx.db, me.user)?;
        cx.out.push(Output::Session(session));
        if first {
            self.tell_opened(cx);
        }
        Ok(())
    }

    /// What this device signs operations with.
    pub(super) fn signer(&self) -> Option<Signer<'_>> {
        let keys = self.keys.as_ref()?;
        let own = self.contacts.get(&self.me_id())?;
        Some(Signer {
            addr: keys.device.addr(),
            key: keys.device.signing_key(),
            cert_hash: *keys.device.certificate().hash(),
            list_seq: own.list().seq(),
        })
    }

    pub(super) fn save_prekeys(&mut self, cx: &mut Cx<'_>) {
        if let Some(keys) = &self.keys {
            cx.db.put_value(Table::Account, *b"prekeys", keys.prekeys.to_record());
        }
    }

    // --- The stock at the server ---

    /// Only after the inbox is drained: a first message in it may use what would be deleted.
    pub(super) fn pump_prekeys(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let due = self.timers.prekeys.is_some_and(|at| at <= cx.now.as_unix_ms());
        if due && self.is_live() && !self.prekeys_asked && !self.timers.paused(cx.now) {
            self.prekeys_asked = true;
            match cx.db.load::<Upload>(Table::Account, UPLOAD)? {
                Some(Upload { body, rest }) => {
                    self.ask(cx, Question::PrekeyUpload(rest.0, rest.1), Method::Post, "/keys/prekeys", Some(body));
                }
                None => self.ask(cx, Question::PrekeyCounts, Method::Get, "/keys/prekeys/count", None),
            }
        }
        Ok(())
    }

    pub(super) fn on_prekey_counts(&mut self, cx: &mut Cx<'_>, answer: Result<PrekeyCounts, Failure>) -> Result<(), StoreError> {
        self.prekeys_asked = false;
        let now = cx.now.as_unix_ms();
        let counts = match answer {
            Ok(counts) => counts,
            Err(failure) => {
                self.timers.back_off(cx.now, failure.retry_after_ms());
                return Ok(());
            }
        };
        self.timers.prekeys = Some(now + DAY_MS);
        let Some(keys) = &mut self.keys else { return Ok(()) };
        keys.prekeys.server_holds(counts.one_time, counts.kem, now);
        keys.prekeys.expire(now);
        let mut upload = UploadPrekeys::default();
        // A bound of the protocol stops a refill, never the rest.
        if keys.prekeys.rotation_due(now)
            && let Ok((signed, last)) = keys.prekeys.rotate(&keys.device, now, &mut cx.rng)
        {
            upload.signed_prekey = Some(wire_signed(&signed));
            upload.last_kem_prekey = Some(wire_kem(&last));
        }
        let (one_time, kem) = (prekeys::ONE_TIME.missing(counts.one_time), prekeys::KEM_ONCE.missing(counts.kem));
        self.upload_prekeys(cx, upload, one_time, kem)
    }

    /// Makes and uploads the next of so many missing one-time prekeys.
    fn upload_prekeys(&mut self, cx: &mut Cx<'_>, mut upload: UploadPrekeys, one_time: u32, kem: u32) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        let Some(keys) = &mut self.keys else { return Ok(()) };
        let these = (one_time.min(ONE_TIME_AT_ONCE), kem.min(KEM_AT_ONCE));
        if let Ok(made) = keys.prekeys.add_one_time(these.0, &mut cx.rng) {
            upload.one_time_prekeys = made.iter().map(wire_one_time).collect();
        }
        if let Ok(made) = keys.prekeys.add_kem(&keys.device, these.1, now, &mut cx.rng) {
            upload.kem_prekeys = made.iter().map(wire_kem).collect();
        }
        self.save_prekeys(cx);
        if upload != UploadPrekeys::default()
            && let Some(body) = http::json(&upload)
        {
            self.prekeys_asked = true;
            let upload = Upload { body, rest: (one_time - these.0, kem - these.1) };
            cx.db.save(Table::Account, UPLOAD, &upload)?;
            let question = Question::PrekeyUpload(upload.rest.0, upload.rest.1);
            self.ask(cx, question, Method::Post, "/keys/prekeys", Some(upload.body));
        }
        Ok(())
    }

    pub(super) fn on_prekey_upload(
        &mut self,
        cx: &mut Cx<'_>,
        one_time: u32,
        kem: u32,
        answer: Result<PrekeyCounts, Failure>,
    ) -> Result<(), StoreError> {
        self.prekeys_asked = false;
        match answer {
            Ok(_) => {
                cx.db.delete(Table::Account, UPLOAD);
                self.upload_prekeys(cx, UploadPrekeys::default(), one_time, kem)
            }
            Err(failure) => {
                // Refused for good is what it has already: its answer was lost. The next count shows what it lacks.
                if failure.is_final() {
                    cx.db.delete(Table::Account, UPLOAD);
                }
                self.timers.prekeys = Some(cx.now.as_unix_ms() + 60_000);
                self.timers.back_off(cx.now, failure.retry_after_ms());
                Ok(())
            }
        }
    }
}

pub(super) fn wire_signed(key: &SignedPrekey) -> wire::SignedPrekey {
    wire::SignedPrekey {
        id: key.id,
        public_key: key.public.as_bytes().to_vec().into(),
        created_ms: key.created,
        signature: key.signature.into(),
    }
}

pub(super) fn wire_kem(key: &KemPrekey) -> wire::KemPrekey {
    wire::KemPrekey {
        kind: key.kind as u8,
        id: key.id,
        public_key: key.public.to_vec().into(),
        created_ms: key.created,
        signature: key.signature.into(),
    }
}

fn wire_one_time(key: &OneTimePrekey) -> wire::OneTimePrekey {
    wire::OneTimePrekey { id: key.id, public_key: key.public.as_bytes().to_vec().into() }
}

/// The bundle of one device out of its HTTP form; none when a length is wrong.
pub(super) fn parse_bundle(bundle: &wire::Bundle) -> Option<crate::crypto::bundle::Bundle> {
    use crate::crypto::dh::DhPublic;
    let signed = &bundle.signed_prekey;
    let kem = &bundle.kem_prekey;
    Some(crate::crypto::bundle::Bundle {
        certificate: bundle.certificate.0.clone(),
        signed: SignedPrekey {
            id: signed.id,
            public: DhPublic(signed.public_key.to_array()?),
            created: signed.created_ms,
            signature: signed.signature.to_array()?,
        },
        kem: KemPrekey {
            kind: KemKind::try_from(kem.kind).ok()?,
            id: kem.id,
            public: kem.public_key.0.clone().into_boxed_slice().try_into().ok()?,
            created: kem.created_ms,
            signature: kem.signature.to_array()?,
        },
        one_time: match &bundle.one_time_prekey {
            Some(key) => Some(OneTimePrekey { id: key.id, public: DhPublic(key.public_key.to_array()?) }),
            None => None,
        },
    })
}
