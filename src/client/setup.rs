//! The way into an account: ask a server what it is, register or log in, and make a profile of the answer. The first-run
//! screen and the command line use the same steps; the engine makes the device itself once it hears of the login.
//!
//! ```text
//! Server::probe → register | log_in | recover → begin (new profile) | resume (known profile) → settle
//! ```
//!
//! Every error is a [`Problem`] that says what was refused and what to do.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

use super::core::{failed, save_session};
use super::engine::{Answer, Method};
use super::event::ClientEvent;
use super::lock::Lock;
use super::model::{Account, Connection, Problem, ProblemKind};
use super::profile::{AccountFile, Profile};
use super::session::SessionRecord;
use super::store::SqliteStore;
use super::transport::{Call, Net, ServerUrl, Transport};
use super::unlock::{self, NewKey, Protection};
use super::{Client, Events, Settings};
use crate::crypto::vault::StoreKey;
use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::auth::{AuthConfig, LoggedIn, Login, Recover, Register, SecretText};
use crate::protocol::devices::Device;
use crate::protocol::error::{ErrorBody, ErrorCode, ErrorInfo};
use crate::protocol::limits::{DEVICE_NAME_MAX, PASSWORD_MAX, PASSWORD_MIN, USERNAME_MAX, USERNAME_MIN};
use crate::protocol::messages::RetryAfter;
use crate::protocol::users::Page;

/// Keys are made, sent and confirmed within this time, or the network is too bad to begin with.
const SETTLING: Duration = Duration::from_secs(60);

/// A chat server that answered.
pub struct Server {
    pub url: ServerUrl,
    pub config: AuthConfig,
    transport: Arc<dyn Transport>,
    settings: Settings,
}

/// A fresh login, not yet on disk.
#[derive(Debug)]
pub struct NewLogin {
    pub record: SessionRecord,
    /// After registering or recovering, to be shown once.
    pub recovery_code: Option<SecretText>,
    server: ServerUrl,
    settings: Settings,
}

/// What a new profile starts with.
pub struct Begun {
    pub client: Client,
    pub events: Events,
    /// Opens the profile after a restart of the machine; to be shown once.
    pub passphrase: Option<SecretText>,
}

impl Server {
    /// Asks the server at that address what it is.
    ///
    /// # Errors
    /// When the address is wrong, nothing or something else answers, or the server is too new.
    pub async fn probe(address: &str, settings: Settings) -> Result<Self, Problem> {
        let url = ServerUrl::parse(address, settings.allow_http)?;
        let transport = Arc::new(Net::new(url.clone(), settings.encoding)?);
        Self::ask_what_it_is(url, transport, settings).await
    }

    async fn ask_what_it_is(url: ServerUrl, transport: Arc<dyn Transport>, settings: Settings) -> Result<Self, Problem> {
        let call = Call { method: Method::Get, path: "/auth/config".to_owned(), body: None, bearer: None };
        let answer = transport.http(call).await.map_err(|error| error.problem(url.origin()))?;
        // It is one, and says to come back later.
        if matches!(answer.status, 429 | 503) {
            return Err(parse::<AuthConfig>(&url, &answer).err().unwrap_or_else(|| busy(&url)));
        }
        let config: AuthConfig =
            if answer.status == 200 { serde_json::from_slice(&answer.body).ok() } else { None }.ok_or_else(|| {
                let what = if answer.status == 200 {
                    "something else answers there".to_owned()
                } else {
                    format!("HTTP {}", answer.status)
                };
                Problem::new(ProblemKind::Network, format!("{url} is not a chat server: {what}"))
                    .hint("Check the address and the port.")
            })?;
        if config.protocol != PROTOCOL_VERSION {
            return Err(Problem::new(
                ProblemKind::Failed,
                format!("{url} speaks protocol {}, this client speaks {PROTOCOL_VERSION}", config.protocol),
            )
            .hint("Update chat, or ask whoever runs the server to update it."));
        }
        Ok(Self { url, config, transport, settings })
    }

    /// Makes an account.
    ///
    /// # Errors
    /// When the name is taken or wrong, the password weak, or registration is closed to this code.
    pub async fn register(
        &self,
        username: &str,
        password: &SecretText,
        display_name: Option<&str>,
        invite_code: Option<&SecretText>,
    ) -> Result<NewLogin, Problem> {
        check_username(username)?;
        check_password(password)?;
        let request = Register {
            username: username.to_owned(),
            password: password.clone(),
            display_name: display_name.map(str::to_owned),
            email: None,
            invite_code: invite_code.cloned(),
        };
        let answer: LoggedIn = self.call(Method::Post, "/auth/register", Some(&request), None).await?;
        self.new_login(answer, username)
    }

    /// Logs in.
    ///
    /// # Errors
    /// When name, password or code are wrong, or the account is suspended.
    pub async fn log_in(
        &self,
        username: &str,
        password: &SecretText,
        totp_code: Option<&SecretText>,
    ) -> Result<NewLogin, Problem> {
        if password.0.len() > PASSWORD_MAX {
            return Err(wrong_password());
        }
        let request = Login { username: username.to_owned(), password: password.clone(), totp_code: totp_code.cloned() };
        let answer: LoggedIn = self.call(Method::Post, "/auth/login", Some(&request), None).await?;
        self.new_login(answer, username)
    }

    /// A new password for an account whose old one is lost. Every login of the account ends, and the answer brings the code that
    /// takes the place of this one.
    ///
    /// # Errors
    /// When name or code are wrong, or the password is weak.
    pub async fn recover(
        &self,
        username: &str,
        recovery_code: &SecretText,
        new_password: &SecretText,
    ) -> Result<NewLogin, Problem> {
        check_password(new_password)?;
        let request =
            Recover { username: username.to_owned(), recovery_code: recovery_code.clone(), new_password: new_password.clone() };
        match self.call::<_, LoggedIn>(Method::Post, "/auth/recover", Some(&request), None).await {
            Ok(answer) => self.new_login(answer, username),
            Err(problem) if problem == wrong_password() => {
                Err(Problem::new(ProblemKind::Auth, "wrong username or recovery code")
                    .hint("The code is the newest that was shown: each use brings another one. Nothing was changed."))
            }
            Err(problem) => Err(problem),
        }
    }

    /// Ends a login that is not needed; a server that does not hear of it ends it by itself.
    pub async fn end(&self, login: NewLogin) {
        let bearer = login.record.tokens.map(|tokens| tokens.access_token);
        let call = Call { method: Method::Post, path: "/auth/logout".to_owned(), body: None, bearer };
        if let Err(error) = self.transport.http(call).await {
            tracing::debug!(%error, "the login is not ended");
        }
    }

    fn new_login(&self, answer: LoggedIn, username: &str) -> Result<NewLogin, Problem> {
        let LoggedIn { user, tokens, recovery_code } = answer;
        // The name stands in the profile and on the screen: no server chooses it.
        if !user.username.eq_ignore_ascii_case(username) {
            return Err(Problem::new(
                ProblemKind::Failed,
                format!("{} answered for another username than `{username}`", self.url),
            )
            .hint("Nothing was set up here. Ask whoever runs the server."));
        }
        let record = SessionRecord::new(user, self.url.origin().to_owned(), self.config.name.clone(), device_name(), tokens)
            .map_err(|what| Problem::new(ProblemKind::Network, format!("{} is not a chat server: {what}", self.url)))?;
        Ok(NewLogin { record, recovery_code, server: self.url.clone(), settings: self.settings })
    }

    /// Whether the account has devices already, whose keys a new profile would not have.
    async fn has_devices(&self, login: &NewLogin) -> Result<bool, Problem> {
        let token = login.record.tokens.as_ref().map(|tokens| tokens.access_token.clone());
        let devices: Page<Device> = self.call::<(), _>(Method::Get, "/devices", None, token).await?;
        Ok(!devices.items.is_empty())
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        bearer: Option<SecretText>,
    ) -> Result<T, Problem> {
        let body =
            body.map(serde_json::to_vec).transpose().map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))?;
        let call = Call { method, path: path.to_owned(), body, bearer };
        let answer = self.transport.http(call).await.map_err(|error| error.problem(self.url.origin()))?;
        parse(&self.url, &answer)
    }

    /// Makes a new profile of the login: key, store, account. The engine makes the device and tells
    /// [`ClientEvent::Opened`], or a notice; [`settle`] waits for it.
    ///
    /// # Errors
    /// When the profile exists, the account has a device elsewhere, or the disk refuses.
    pub async fn begin(&self, profile: &Profile, login: NewLogin, protection: Protection) -> Result<Begun, Problem> {
        free(profile)?;
        if self.has_devices(&login).await? {
            return Err(Problem::new(
                ProblemKind::Auth,
                "this account has a device already, and its keys are not in this profile",
            )
            .hint("Use the profile of that device. Linking a second device comes with a later release."));
        }
        let lock = super::own(profile)?;
        let NewLogin { record, server, settings, .. } = login;
        let account = AccountFile {
            v: 1,
            server: server.origin().to_owned(),
            username: record.user.username.clone(),
            user_id: record.user.id,
            logged_out: false,
        };
        let place = profile.clone();
        let passphrase = spawn_blocking(move || {
            let NewKey { key, recovery } = unlock::create(&place, &protection)?;
            let made = SqliteStore::create(&place.store(), key.copy())
                .map_err(Problem::from)
                .and_then(|mut store| save_session(&mut store, &record).map_err(|error| failed(&error)))
                .and_then(|()| place.save_account(&account));
            match made {
                Ok(()) => Ok((key, recovery)),
                Err(problem) => {
                    // Nothing is lost: both files are a moment old and no server knows their keys.
                    let _ = std::fs::remove_file(place.store());
                    let _ = std::fs::remove_file(place.key());
                    Err(problem)
                }
            }
        })
        .await
        .map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))?;
        let (key, passphrase) = passphrase?;
        let (client, events) = Client::open_locked(profile, lock, key, settings).await?;
        Ok(Begun { client, events, passphrase })
    }
}

/// A profile that holds nothing yet.
///
/// # Errors
/// When it holds an account, or the remains of one.
pub fn free(profile: &Profile) -> Result<(), Problem> {
    if let Some(account) = profile.account()? {
        return Err(Problem::new(
            ProblemKind::Usage,
            format!("profile `{}` belongs to {} at {}", profile.name, account.username, account.server),
        )
        .hint("Choose another one with --profile, or log in to that account again with `chat login`."));
    }
    for path in [profile.store(), profile.key()] {
        if path.exists() {
            return Err(Problem::new(ProblemKind::Failed, format!("{} exists, but the profile has no account", path.display()))
                .hint("Choose another profile, or move that directory away."));
        }
    }
    Ok(())
}

/// A new login of the account that a profile belongs to, for a client that runs with the profile: [`Client::log_in`] takes it.
///
/// # Errors
/// When the server refuses, or knows another account by that name.
pub async fn log_in_again(profile: &Profile, password: &SecretText, settings: Settings) -> Result<SessionRecord, Problem> {
    let account = profile.require_account()?;
    let login = Server::probe(&account.server, settings).await?.log_in(&account.username, password, None).await?;
    same_account(profile, &account, &login)?;
    note_login(profile, account, true)?;
    Ok(login.record)
}

fn same_account(profile: &Profile, account: &AccountFile, login: &NewLogin) -> Result<(), Problem> {
    if account.user_id == login.record.user.id && account.server == login.server.origin() {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::Usage,
        format!("profile `{}` belongs to {} at {}", profile.name, account.username, account.server),
    )
    .hint("Log in as that account, or choose another profile with --profile."))
}

/// Opens a known profile with a new login of its account.
///
/// # Errors
/// When the login is of another account, or the profile does not open.
pub async fn resume(profile: &Profile, key: StoreKey, login: NewLogin) -> Result<(Client, Events), Problem> {
    let account = profile.require_account()?;
    same_account(profile, &account, &login)?;
    let lock: Lock = super::own(profile)?;
    let (path, copy, record) = (profile.store(), key.copy(), login.record);
    spawn_blocking(move || {
        let mut store = SqliteStore::open(&path, copy)?;
        save_session(&mut store, &record).map_err(|error| failed(&error))
    })
    .await
    .map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))??;
    note_login(profile, account, true)?;
    Client::open_locked(profile, lock, key, login.settings).await
}

/// Nobody is logged in with the profile any more: whoever asks while its store is locked hears so.
///
/// # Errors
/// When there is no account, or the disk refuses.
pub fn note_logout(profile: &Profile) -> Result<(), Problem> {
    note_login(profile, profile.require_account()?, false)
}

fn note_login(profile: &Profile, account: AccountFile, logged_in: bool) -> Result<(), Problem> {
    if account.logged_out != logged_in {
        return Ok(());
    }
    profile.save_account(&AccountFile { logged_out: !logged_in, ..account })
}

/// Waits until the engine has a device that the server knows, and gives back what it said on the way.
///
/// # Errors
/// What the engine told instead.
pub async fn settle(events: &mut Events) -> Result<(Arc<Account>, Vec<ClientEvent>), Problem> {
    let mut heard = Vec::new();
    let waiting = async {
        while let Some(event) = events.recv().await {
            match &event {
                ClientEvent::Opened { account, .. } => {
                    let account = account.clone();
                    heard.push(event);
                    return Ok(account);
                }
                ClientEvent::Notice(problem) => return Err(problem.clone()),
                // The client of another process, which was about to end when it greeted.
                ClientEvent::Closed => return Err(super::ended()),
                ClientEvent::Connection(Connection::LoggedOut { why }) => {
                    return Err(Problem::new(ProblemKind::Auth, why.raw()).hint("Log in again with `chat login`."));
                }
                _ => heard.push(event),
            }
        }
        Err(super::ended())
    };
    let account = tokio::time::timeout(SETTLING, waiting).await.unwrap_or_else(|_| {
        Err(Problem::new(ProblemKind::Network, "the server does not answer")
            .hint("What was made is saved. Start again to go on."))
    })?;
    Ok((account, heard))
}

fn parse<T: DeserializeOwned>(server: &ServerUrl, answer: &Answer) -> Result<T, Problem> {
    let not_chat = |what: &str| {
        Problem::new(ProblemKind::Network, format!("{server} is not a chat server: {what}"))
            .hint("Check the address and the port.")
    };
    if (200..300).contains(&answer.status) {
        return serde_json::from_slice(&answer.body).map_err(|_| not_chat("its answer makes no sense"));
    }
    match serde_json::from_slice::<ErrorBody>(&answer.body) {
        Ok(body) => Err(refusal(body.error)),
        Err(_) if matches!(answer.status, 429 | 503) => Err(busy(server)),
        Err(_) => Err(not_chat(&format!("HTTP {}", answer.status))),
    }
}

/// Something in front of the server says so, in words of its own.
fn busy(server: &ServerUrl) -> Problem {
    Problem::new(ProblemKind::RateLimited, format!("{server} takes no more requests now")).hint("Wait a moment and try again.")
}

/// What the server refused, in words for the person who asked.
fn refusal(error: ErrorInfo) -> Problem {
    let message = error.message;
    match error.code {
        ErrorCode::InvalidCredentials => wrong_password(),
        ErrorCode::TotpRequired => Problem::new(ProblemKind::Auth, "this account wants a code from your authenticator")
            .hint("Give the six digits, or one of your backup codes."),
        ErrorCode::UsernameTaken => Problem::new(ProblemKind::Usage, message)
            .hint("Choose another one; if it is yours, `chat login` goes on with it. Names that look alike count as the same, so that nobody can pose as somebody else."),
        ErrorCode::Validation | ErrorCode::InvalidRequest | ErrorCode::UnknownField | ErrorCode::TooLarge => {
            Problem::new(ProblemKind::Usage, message)
        }
        ErrorCode::Suspended => Problem::new(ProblemKind::Permission, message).hint("Ask whoever runs the server."),
        ErrorCode::Forbidden => Problem::new(ProblemKind::Permission, message).hint(
            "Ask whoever runs the server: an invitation helps where accounts are made by invitation (give its code when asked, or with --invite-file).",
        ),
        ErrorCode::RateLimited | ErrorCode::SlowMode => {
            let wait = error.details.and_then(|details| serde_json::from_value::<RetryAfter>(details).ok());
            let hint = wait.map_or_else(
                || "Wait a moment and try again.".to_owned(),
                |wait| format!("Try again in {} s.", wait.retry_after_ms.div_ceil(1000)),
            );
            Problem::new(ProblemKind::RateLimited, message).hint(hint)
        }
        ErrorCode::Unavailable | ErrorCode::OutcomeUnknown | ErrorCode::Internal => {
            Problem::new(ProblemKind::Network, message).hint("Try again in a moment.")
        }
        ErrorCode::NotFound => Problem::new(ProblemKind::NotFound, message),
        _ => Problem::new(ProblemKind::Failed, message),
    }
}

fn wrong_password() -> Problem {
    Problem::new(ProblemKind::Auth, "wrong username or password")
        .hint("Names are lower case. A lost password: `chat recover` with the recovery code.")
}

/// # Errors
/// When no server would take it.
pub fn check_username(username: &str) -> Result<(), Problem> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let first = username.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if first && (USERNAME_MIN..=USERNAME_MAX).contains(&username.len()) && username.chars().all(allowed) {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::Usage, "that is no username").hint(format!(
        "{USERNAME_MIN} to {USERNAME_MAX} characters: lower-case letters, digits, dots, dashes and underscores, beginning with a letter or digit."
    )))
}

/// # Errors
/// When no server would take it.
pub fn check_password(password: &SecretText) -> Result<(), Problem> {
    if password.0.chars().count() < PASSWORD_MIN {
        return Err(Problem::new(ProblemKind::Usage, format!("a password has at least {PASSWORD_MIN} characters"))
            .hint("Four or five unrelated words are easy to remember and hard to guess."));
    }
    if password.0.len() > PASSWORD_MAX {
        return Err(Problem::new(ProblemKind::Usage, format!("a password has at most {PASSWORD_MAX} bytes")));
    }
    Ok(())
}

/// What the server's list of devices calls this machine.
fn device_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let name: String = name.unwrap_or_default().trim().chars().filter(|c| !c.is_control()).take(DEVICE_NAME_MAX).collect();
    if name.is_empty() { "terminal".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::super::transport::memory::{self, Asked};
    use super::*;
    use crate::protocol::auth::Registration;

    async fn against(status: u16, body: serde_json::Value) -> (Server, tokio::task::JoinHandle<()>) {
        let (transport, mut peer) = memory::pair();
        let url = ServerUrl::parse("localhost:1", false).unwrap();
        let config = AuthConfig {
            name: "X".into(),
            version: "1".into(),
            protocol: 1,
            registration: Registration::Open,
            limits: crate::protocol::limits::Limits::default(),
            server_time: crate::protocol::codec::Timestamp(0),
        };
        let serving = tokio::spawn(async move {
            while let Some(Asked::Http(_, reply)) = peer.recv().await {
                let _ = reply.send(Ok(Answer { status, body: serde_json::to_vec(&body).unwrap() }));
            }
        });
        (Server { url, config, transport: Arc::new(transport), settings: Settings::default() }, serving)
    }

    async fn login_error(status: u16, code: &str) -> Problem {
        let body =
            serde_json::json!({"error": {"code": code, "message": "as the server says", "details": {"retry_after_ms": 1500}}});
        let (server, _serving) = against(status, body).await;
        server.log_in("ana", &"long enough".into(), None).await.unwrap_err()
    }

    #[tokio::test]
    async fn every_refusal_has_its_kind_and_says_what_to_do() {
        for (status, code, kind) in [
            (401, "invalid_credentials", ProblemKind::Auth),
            (401, "totp_required", ProblemKind::Auth),
            (409, "username_taken", ProblemKind::Usage),
            (403, "suspended", ProblemKind::Permission),
            (403, "forbidden", ProblemKind::Permission),
            (429, "rate_limited", ProblemKind::RateLimited),
            (503, "unavailable", ProblemKind::Network),
        ] {
            let problem = login_error(status, code).await;
            assert_eq!(problem.kind, kind, "{code}");
            assert!(!problem.hint.is_empty(), "{code}");
        }
        assert_eq!(login_error(429, "rate_limited").await.hint, "Try again in 2 s.");
        assert_eq!(login_error(400, "validation").await.text.raw(), "as the server says");
    }

    #[tokio::test]
    async fn something_else_that_answers_is_not_a_chat_server() {
        for (status, body) in [(200, serde_json::json!({"hello": 1})), (404, serde_json::json!("nothing here"))] {
            let (server, _serving) = against(status, body).await;
            let problem = server.log_in("ana", &"long enough".into(), None).await.unwrap_err();
            assert!(problem.text.raw().contains("is not a chat server"), "{:?}", problem.text.raw());
            let Server { url, transport, settings, .. } = server;
            let probed = Server::ask_what_it_is(url, transport, settings).await;
            assert!(probed.is_err_and(|problem| problem.text.raw().contains("is not a chat server")));
        }
    }

    #[tokio::test]
    async fn a_server_that_is_too_busy_to_say_what_it_is_is_a_chat_server() {
        let body = serde_json::json!({"error": {"code": "rate_limited", "message": "too many requests", "details": {"retry_after_ms": 1500}}});
        for (body, hint) in [(body, "Try again in 2 s."), (serde_json::json!("slow down"), "Wait a moment and try again.")] {
            let (Server { url, transport, settings, .. }, _serving) = against(429, body).await;
            let problem = Server::ask_what_it_is(url, transport, settings).await.err().unwrap();
            assert_eq!((problem.kind, problem.hint.as_str()), (ProblemKind::RateLimited, hint));
        }
    }

    #[tokio::test]
    async fn a_server_that_answers_for_another_name_is_refused() {
        let answer = serde_json::json!({
            "user": {"id": "01912d68-783e-7a03-8467-5661c1243ad4", "username": "ana\u{1b}[31m", "created_at": "2026-11-21T09:00:00.000Z"},
            "access_token": "a", "access_expires_at": "2026-11-21T09:00:00.000Z",
            "refresh_token": "r", "refresh_expires_at": "2026-11-21T09:00:00.000Z",
        });
        let (server, _serving) = against(200, answer).await;
        let password = SecretText::from("long enough");
        for refused in [server.register("ana", &password, None, None).await, server.log_in("ana", &password, None).await] {
            let problem = refused.unwrap_err();
            assert!(problem.text.raw().contains("another username than `ana`"), "{:?}", problem.text.raw());
        }
    }

    #[tokio::test]
    async fn a_client_that_ends_instead_of_opening_is_not_waited_for() {
        // As in a client that is attached: a sender outlives the other process.
        let (sender, mut events) = tokio::sync::mpsc::channel(4);
        sender.send(ClientEvent::Closed).await.unwrap();
        assert_eq!(settle(&mut events).await.unwrap_err(), super::super::ended());
    }

    #[tokio::test]
    async fn a_hopeless_name_or_password_is_refused_here() {
        let (server, _serving) = against(500, serde_json::json!(null)).await;
        let long = "x".repeat(1 << 20);
        for (name, password) in
            [("Ana", "long enough"), ("an", "long enough"), ("ana", "short"), ("ana", &long), (".ana", "long enough")]
        {
            let problem = server.register(name, &password.into(), None, None).await.unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Usage, "{name}");
        }
        let problem = server.log_in("ana", &long.as_str().into(), None).await.unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Auth);
    }
}
