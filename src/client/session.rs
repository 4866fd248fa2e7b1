//! The login of a profile: its tokens, when to renew them, and the one renewal at a time. A renewed token is saved before it
//! is used, because the server has forgotten the old one. This module knows the two calls that renew, nothing of a line.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::engine::{Answer, Login, Method};
use super::transport::{Call, Transport, TransportError};
use crate::protocol::auth::{AccessClaims, Refresh, SecretText, Tokens};
use crate::protocol::codec::Timestamp;
use crate::protocol::devices::DeviceSession;
use crate::protocol::error::{ErrorBody, ErrorCode};
use crate::protocol::ids::{DeviceId, SessionId};
use crate::protocol::users::User;

/// A token that ends sooner is renewed before it is used.
const SPARE_MS: i64 = 30_000;

/// What a profile keeps of its login, in the encrypted store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub user: User,
    pub server: String,
    pub server_name: String,
    pub device_name: String,
    pub session_id: SessionId,
    /// None until the server knows this device.
    pub device_id: Option<DeviceId>,
    /// None after a logout.
    pub tokens: Option<Tokens>,
}

impl SessionRecord {
    /// The record of a fresh login.
    ///
    /// # Errors
    /// When the access token is not one of this protocol; the text says what is wrong with it.
    pub fn new(user: User, server: String, server_name: String, device_name: String, tokens: Tokens) -> Result<Self, String> {
        let claims = claims(&tokens.access_token)?;
        Ok(Self { user, server, server_name, device_name, session_id: claims.sid, device_id: claims.did, tokens: Some(tokens) })
    }

    pub fn login(&self) -> Login {
        Login {
            user: self.user.clone(),
            server: self.server.clone(),
            server_name: self.server_name.clone(),
            session_id: self.session_id,
            device_id: self.device_id,
            device_name: self.device_name.clone(),
        }
    }
}

/// What the access token says; unverified, since it is the server's own word about us.
fn claims(token: &SecretText) -> Result<AccessClaims, String> {
    let payload = token.0.split('.').nth(1).ok_or("the access token has no claims")?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| "the claims of the access token are not base64")?;
    serde_json::from_slice(&bytes).map_err(|error| format!("the claims of the access token: {error}"))
}

/// Where a changed record is saved before it counts.
pub trait Keep: Send + Sync + 'static {
    /// Returns after the record is on disk; false when that failed.
    fn keep(&self, record: &SessionRecord) -> impl Future<Output = bool> + Send;
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// Nobody is logged in, or the server has ended the session: why.
    LoggedOut(String),
    Transport(TransportError),
    /// The server cannot say now.
    Later(String),
    /// The local store failed.
    Store,
}

/// See the module's documentation.
pub struct Session<K> {
    /// Held over a renewal: whoever else needs a token waits for it.
    record: Mutex<Option<SessionRecord>>,
    keep: K,
    transport: Arc<dyn Transport>,
    /// The server's clock minus ours, milliseconds.
    offset_ms: AtomicI64,
    /// Counts logins, so that the line notices a new one.
    changed: watch::Sender<u64>,
}

impl<K: Keep> Session<K> {
    pub fn new(record: Option<SessionRecord>, keep: K, transport: Arc<dyn Transport>) -> Self {
        Self { record: Mutex::new(record), keep, transport, offset_ms: AtomicI64::new(0), changed: watch::Sender::new(0) }
    }

    /// Changes with every login, device and logout.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn set_server_time(&self, server: Timestamp, here: Timestamp) {
        self.offset_ms.store(server.0 - here.0, Ordering::Relaxed);
    }

    /// Whether the server knows this device, so that a line can be opened.
    pub async fn has_device(&self) -> bool {
        self.record.lock().await.as_ref().is_some_and(|record| record.device_id.is_some() && record.tokens.is_some())
    }

    /// A token that is valid for a while.
    ///
    /// # Errors
    /// When there is none and none can be had now.
    pub async fn token(&self, now: Timestamp) -> Result<SecretText, NoToken> {
        let mut record = self.record.lock().await;
        let tokens = tokens_of(&record)?;
        let server_now = now.0 + self.offset_ms.load(Ordering::Relaxed);
        if tokens.access_expires_at.0 - server_now > SPARE_MS {
            return Ok(tokens.access_token.clone());
        }
        self.renew_locked(&mut record).await
    }

    /// Another token than the one that the server just refused.
    ///
    /// # Errors
    /// When none can be had now.
    pub async fn renewed(&self, refused: &SecretText) -> Result<SecretText, NoToken> {
        let mut record = self.record.lock().await;
        let tokens = tokens_of(&record)?;
        if tokens.access_token != *refused {
            return Ok(tokens.access_token.clone());
        }
        self.renew_locked(&mut record).await
    }

    /// Another login took its place.
    pub async fn replace(&self, new: SessionRecord) -> bool {
        let mut record = self.record.lock().await;
        let kept = self.keep.keep(&new).await;
        *record = Some(new);
        self.changed.send_modify(|n| *n += 1);
        kept
    }

    /// The session is bound to a device now.
    pub async fn bind(&self, device: DeviceSession) -> bool {
        let mut record = self.record.lock().await;
        let Some(record) = record.as_mut() else { return false };
        record.device_id = Some(device.device_id);
        if let Ok(claims) = claims(&device.tokens.access_token) {
            record.session_id = claims.sid;
        }
        record.tokens = Some(device.tokens);
        let kept = self.keep.keep(record).await;
        self.changed.send_modify(|n| *n += 1);
        kept
    }

    /// Erases the tokens.
    pub async fn forget(&self) -> bool {
        let mut record = self.record.lock().await;
        let Some(record) = record.as_mut() else { return true };
        record.tokens = None;
        let kept = self.keep.keep(record).await;
        self.changed.send_modify(|n| *n += 1);
        kept
    }

    async fn renew_locked(&self, record: &mut Option<SessionRecord>) -> Result<SecretText, NoToken> {
        let tokens = tokens_of(record)?;
        let body = serde_json::to_vec(&Refresh { refresh_token: tokens.refresh_token.clone() })
            .map_err(|error| NoToken::Later(error.to_string()))?;
        let call = Call { method: Method::Post, path: "/auth/refresh".to_owned(), body: Some(body), bearer: None };
        let answer = self.transport.http(call).await.map_err(NoToken::Transport)?;
        match read_tokens(&answer) {
            Ok(new) => {
                let token = new.access_token.clone();
                let Some(record) = record.as_mut() else { return Err(NoToken::LoggedOut("nobody is logged in".into())) };
                record.tokens = Some(new);
                // A crash before this line is harmless: the server repeats its answer for half a minute.
                if self.keep.keep(record).await { Ok(token) } else { Err(NoToken::Store) }
            }
            Err(Refusal::Final(why)) => {
                if let Some(record) = record.as_mut() {
                    record.tokens = None;
                    self.keep.keep(record).await;
                }
                Err(NoToken::LoggedOut(why))
            }
            Err(Refusal::Later(why)) => Err(NoToken::Later(why)),
        }
    }
}

fn tokens_of(record: &Option<SessionRecord>) -> Result<&Tokens, NoToken> {
    record.as_ref().and_then(|record| record.tokens.as_ref()).ok_or_else(|| NoToken::LoggedOut("nobody is logged in".to_owned()))
}

enum Refusal {
    Final(String),
    Later(String),
}

fn read_tokens(answer: &Answer) -> Result<Tokens, Refusal> {
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body).map_err(|_| Refusal::Later("the server's answer makes no sense".to_owned()));
    }
    match serde_json::from_slice::<ErrorBody>(&answer.body) {
        Ok(body) => match body.error.code {
            ErrorCode::Unauthenticated | ErrorCode::InvalidCredentials | ErrorCode::TokenExpired | ErrorCode::Suspended => {
                Err(Refusal::Final(body.error.message))
            }
            _ => Err(Refusal::Later(body.error.message)),
        },
        Err(_) => Err(Refusal::Later(format!("the server answered with status {}", answer.status))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use super::super::transport::memory::{self, Asked};
    use super::*;
    use crate::protocol::ids::UserId;

    #[derive(Clone, Default)]
    struct Kept(Arc<StdMutex<Vec<SessionRecord>>>);

    impl Keep for Kept {
        async fn keep(&self, record: &SessionRecord) -> bool {
            self.0.lock().unwrap().push(record.clone());
            true
        }
    }

    const NOW: Timestamp = Timestamp(1_000_000);

    fn access(n: u64) -> SecretText {
        let claims = AccessClaims {
            sub: UserId::from_bytes([1; 16]),
            sid: SessionId::from_bytes([2; 16]),
            did: Some(3),
            iss: String::new(),
            aud: String::new(),
            iat: n,
            exp: 0,
        };
        SecretText(format!("h.{}.s", URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap())))
    }

    fn tokens(n: u64, expires_ms: i64) -> Tokens {
        Tokens {
            access_token: access(n),
            access_expires_at: Timestamp(expires_ms),
            refresh_token: SecretText(format!("refresh-{n}")),
            refresh_expires_at: Timestamp(4_102_444_800_000),
        }
    }

    fn record(tokens: Tokens) -> SessionRecord {
        let user = serde_json::from_value(serde_json::json!({
            "id": UserId::from_bytes([1; 16]), "username": "ana", "created_at": "2026-11-21T09:00:00.000Z"
        }))
        .unwrap();
        SessionRecord::new(user, "https://x".into(), "X".into(), "laptop".into(), tokens).unwrap()
    }

    fn session(tokens: Tokens) -> (Arc<Session<Kept>>, Kept, memory::Peer) {
        let (transport, peer) = memory::pair();
        let kept = Kept::default();
        (Arc::new(Session::new(Some(record(tokens)), kept.clone(), Arc::new(transport))), kept, peer)
    }

    async fn answer(peer: &mut memory::Peer, status: u16, body: serde_json::Value) -> Call {
        let Some(Asked::Http(call, reply)) = peer.recv().await else { panic!("a call") };
        reply.send(Ok(Answer { status, body: serde_json::to_vec(&body).unwrap() })).unwrap();
        call
    }

    #[test]
    fn a_token_tells_its_session_and_device() {
        let record = record(tokens(1, 0));
        assert_eq!((record.session_id, record.device_id), (SessionId::from_bytes([2; 16]), Some(3)));
        for bad in ["", "a", "a.b", "a.!!.c", "a.e30.c"] {
            assert!(claims(&bad.into()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn many_callers_cause_one_renewal_and_it_is_saved_before_use() {
        let (session, kept, mut peer) = session(tokens(1, NOW.0 + 10_000));
        let callers: Vec<_> = (0..5)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move { session.token(NOW).await })
            })
            .collect();
        let new = tokens(2, NOW.0 + 900_000);
        let call = answer(&mut peer, 200, serde_json::to_value(&new).unwrap()).await;
        assert_eq!((call.path.as_str(), call.bearer), ("/auth/refresh", None));
        assert_eq!(call.body.unwrap(), br#"{"refresh_token":"refresh-1"}"#);
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap(), new.access_token);
        }
        assert!(peer.try_recv().is_err(), "one renewal");
        assert_eq!(kept.0.lock().unwrap().len(), 1);
        assert_eq!(kept.0.lock().unwrap()[0].tokens.as_ref(), Some(&new));
    }

    #[tokio::test]
    async fn a_refused_token_is_renewed_once_and_not_again_by_latecomers() {
        let (session, _, mut peer) = session(tokens(1, NOW.0 + 900_000));
        let old = session.token(NOW).await.unwrap();
        let renewing = tokio::spawn({
            let (session, old) = (session.clone(), old.clone());
            async move { session.renewed(&old).await }
        });
        answer(&mut peer, 200, serde_json::to_value(tokens(2, NOW.0 + 900_000)).unwrap()).await;
        assert_eq!(renewing.await.unwrap().unwrap(), access(2));
        assert_eq!(session.renewed(&old).await.unwrap(), access(2));
        assert!(peer.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_revoked_session_is_logged_out_and_a_broken_server_is_not() {
        let (session, kept, mut peer) = session(tokens(1, NOW.0));
        let ask = || {
            tokio::spawn({
                let session = session.clone();
                async move { session.token(NOW).await }
            })
        };
        let asking = ask();
        answer(&mut peer, 503, serde_json::json!({"error": {"code": "unavailable", "message": "busy"}})).await;
        assert_eq!(asking.await.unwrap(), Err(NoToken::Later("busy".into())));
        assert!(session.has_device().await);
        let asking = ask();
        answer(&mut peer, 401, serde_json::json!({"error": {"code": "unauthenticated", "message": "revoked"}})).await;
        assert_eq!(asking.await.unwrap(), Err(NoToken::LoggedOut("revoked".into())));
        assert!(!session.has_device().await);
        assert_eq!(kept.0.lock().unwrap().last().unwrap().tokens, None);
        assert!(matches!(session.token(NOW).await, Err(NoToken::LoggedOut(_))));
    }

    #[tokio::test]
    async fn the_servers_clock_decides_when_a_token_ends() {
        let (session, _, mut peer) = session(tokens(1, NOW.0 + 900_000));
        session.set_server_time(Timestamp(NOW.0 + 890_000), NOW);
        let asking = tokio::spawn({
            let session = session.clone();
            async move { session.token(NOW).await }
        });
        answer(&mut peer, 200, serde_json::to_value(tokens(2, NOW.0 + 1_800_000)).unwrap()).await;
        assert_eq!(asking.await.unwrap().unwrap(), access(2));
    }
}
