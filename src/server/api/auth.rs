//! Registration, login, refresh, logout and recovery (`docs/PROTOCOL.md` 2).
//!
//! Whether an account exists shows in no text, status or time: a name that nobody has costs one password hash too.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::Utc;
use subtle::ConstantTimeEq as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::auth::{AuthConfig, LoggedIn, Login, Recover, Refresh, Register, Registration, Tokens};
use crate::protocol::codec::Timestamp;
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{DeviceId, SessionId, UserId};
use crate::protocol::limits::DISPLAY_NAME_MAX;
use crate::protocol::users::InstanceRole;
use crate::server::app::{App, AppState};
use crate::server::db::sessions::Refreshed;
use crate::server::db::users::NewUser;
use crate::server::db::{Conn, registration, sessions, users};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Client, Json};
use crate::server::token::{Code, RefreshToken};
use crate::server::{password, text, username};

/// Logins of one user; one more ends the one that was not used for longest.
const SESSIONS_MAX: i64 = 100;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(config))
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(recover))
}

/// What a client asks before anything else.
#[utoipa::path(get, path = "/auth/config", responses((status = 200, body = AuthConfig)), security(()))]
async fn config(State(app): State<AppState>) -> Json<AuthConfig> {
    Json(AuthConfig {
        name: app.config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        registration: app.config.registration,
        limits: app.wire_limits(),
        server_time: Timestamp::from(Utc::now()),
    })
}

/// Makes an account and logs it in. The first account owns the instance and needs no invite.
#[utoipa::path(post, path = "/auth/register", request_body = Register, responses((status = 201, body = LoggedIn)), security(()))]
async fn register(
    State(app): State<AppState>,
    client: Client,
    Json(request): Json<Register>,
) -> ApiResult<(StatusCode, Json<LoggedIn>)> {
    app.limits.check_auth(client.address)?;
    username::check(&request.username)?;
    password::check("password", &request.password, &request.username)?;
    let display_name = text::optional_line("display_name", request.display_name.as_deref(), DISPLAY_NAME_MAX)?;
    let email = check_email(request.email.as_deref())?;
    let invite = request.invite_code.as_ref().map(|code| Code::typed(code).hash());
    // Before the expensive part; the transaction asks again.
    {
        let mut conn = app.db().await?;
        if users::any(&mut conn).await? {
            let usable = match &invite {
                Some(hash) => registration::is_usable(&mut conn, hash).await?,
                None => false,
            };
            check_registration(app.config.registration, usable)?;
        }
    }
    let phc = app.passwords.hash(&request.password).await?;
    let recovery = Code::random()?;
    let recovery_hash = recovery.hash();
    let skeleton = username::skeleton(&request.username);
    let new = NewUser {
        id: Uuid::now_v7(),
        username: &request.username,
        username_skeleton: &skeleton,
        display_name,
        email,
        password_hash: &phc,
        recovery_hash: &recovery_hash,
        instance_role: "user",
    };
    let (user, tokens) = app
        .database
        .transaction(async |conn: &mut Conn| {
            let first = users::is_first(conn).await?;
            if !first {
                let redeemed = match &invite {
                    Some(hash) if app.config.registration == Registration::Invite => registration::redeem(conn, hash).await?,
                    _ => false,
                };
                check_registration(app.config.registration, redeemed)?;
            }
            let new = new.with_role(if first { InstanceRole::Owner } else { InstanceRole::User });
            let Some(user) = new.insert(conn).await? else {
                return Err(ApiError::new(ErrorCode::UsernameTaken, "this username, or one that looks like it, is taken"));
            };
            let tokens = start_session(&app, conn, UserId(user.id), &client).await?;
            Ok((user, tokens))
        })
        .await?;
    tracing::info!(user.id = %user.id, role = user.instance_role, "registered");
    Ok((StatusCode::CREATED, Json(LoggedIn { user: user.own(), tokens, recovery_code: Some(recovery.text()) })))
}

fn check_registration(registration: Registration, invited: bool) -> ApiResult<()> {
    match registration {
        Registration::Open => Ok(()),
        Registration::Invite if invited => Ok(()),
        Registration::Invite => Err(ApiError::forbidden(
            "an invitation is needed to register here: this code is missing, unknown, expired or used up",
        )),
        Registration::Closed => Err(ApiError::forbidden("registration is closed on this server")),
    }
}

fn check_email(email: Option<&str>) -> ApiResult<Option<&str>> {
    let Some(email) = text::optional_line("email", email, 254)? else { return Ok(None) };
    match email.split_once('@') {
        Some((name, domain)) if !name.is_empty() && !domain.is_empty() && !email.contains(char::is_whitespace) => Ok(Some(email)),
        _ => Err(ApiError::validation("email", "is not an address")),
    }
}

/// Logs in with a password.
#[utoipa::path(post, path = "/auth/login", request_body = Login, responses((status = 200, body = LoggedIn)), security(()))]
async fn login(State(app): State<AppState>, client: Client, Json(request): Json<Login>) -> ApiResult<Json<LoggedIn>> {
    app.limits.check_auth(client.address)?;
    let account = {
        let mut conn = app.db().await?;
        users::credentials(&mut conn, &request.username, &client.address.to_string()).await?
    };
    let known = account.as_ref().is_some_and(|account| account.known_address);
    let attempt = app.attempts.begin(&request.username, client.address, known)?;
    let phc = account.as_ref().map(|account| account.password_hash.as_str());
    let (attempt, right) = attempt.verdict(app.passwords.verify(&request.password, phc)).await?;
    if !right {
        return Err(ApiError::invalid_credentials());
    }
    attempt.succeeded();
    let account = account.ok_or_else(ApiError::invalid_credentials)?;
    let user_id = UserId(account.id);
    let (user, tokens, ended) = app
        .database
        .transaction(async |conn: &mut Conn| {
            // Verifying took a while: a password that was changed meanwhile opens nothing any more.
            let user = users::find_with_password(conn, user_id, &account.password_hash).await?;
            let user = user.ok_or_else(ApiError::invalid_credentials)?;
            if user.suspended_at.is_some() {
                return Err(ApiError::suspended());
            }
            let tokens = start_session(&app, conn, user_id, &client).await?;
            Ok((user, tokens, sessions::revoke_surplus(conn, user_id, SESSIONS_MAX).await?))
        })
        .await?;
    app.sessions_revoked(&ended);
    Ok(Json(LoggedIn { user: user.own(), tokens, recovery_code: None }))
}

/// Exchanges a refresh token. A repeat within 30 s gets the same answer; a later one ends the login: one of the two that
/// hold the token has stolen it.
#[utoipa::path(post, path = "/auth/refresh", request_body = Refresh, responses((status = 200, body = Tokens)), security(()))]
async fn refresh(State(app): State<AppState>, Json(request): Json<Refresh>) -> ApiResult<Json<Tokens>> {
    let refused = || ApiError::new(ErrorCode::Unauthenticated, "this login has ended: log in again");
    let token = RefreshToken::parse(&request.refresh_token).ok_or_else(refused)?;
    let successor = app.refresh.successor(&token);
    let (old, new) = (token.hash(), successor.hash());
    let refreshed = app
        .database
        .transaction(async |conn: &mut Conn| Ok(sessions::rotate(conn, &old, &new, Utc::now(), app.refresh.lifetime).await?))
        .await?;
    match refreshed {
        Refreshed::Rotated { session, .. } if session.suspended => Err(ApiError::suspended()),
        Refreshed::Rotated { session, rotated_at, expires_at } => {
            let (access_token, access_expires_at) =
                app.tokens.issue_at(rotated_at, session.user_id, session.id, session.device_id)?;
            let refresh_expires_at = expires_at.into();
            Ok(Json(Tokens { access_token, access_expires_at, refresh_token: successor.text(), refresh_expires_at }))
        }
        Refreshed::Reused { session } => {
            tracing::warn!(session.id = %session, "a refresh token was used again: the login ended");
            app.sessions_revoked(&[session]);
            Err(refused())
        }
        Refreshed::Refused => Err(refused()),
    }
}

/// Ends the login.
#[utoipa::path(post, path = "/auth/logout", responses((status = 204)))]
async fn logout(State(app): State<AppState>, auth: Auth) -> ApiResult<StatusCode> {
    sessions::revoke(&mut *app.db().await?, auth.user_id, auth.session_id).await?;
    app.sessions_revoked(&[auth.session_id]);
    Ok(StatusCode::NO_CONTENT)
}

/// A new password for a recovery code. All logins end, and the code is replaced by a new one.
#[utoipa::path(post, path = "/auth/recover", request_body = Recover, responses((status = 200, body = LoggedIn)), security(()))]
async fn recover(State(app): State<AppState>, client: Client, Json(request): Json<Recover>) -> ApiResult<Json<LoggedIn>> {
    app.limits.check_auth(client.address)?;
    password::check("new_password", &request.new_password, &request.username)?;
    let account = {
        let mut conn = app.db().await?;
        users::credentials(&mut conn, &request.username, &client.address.to_string()).await?
    };
    let known = account.as_ref().is_some_and(|account| account.known_address);
    let attempt = app.attempts.begin(&request.username, client.address, known)?;
    // The same work for a wrong code and for a name that nobody has.
    let (attempt, phc) = attempt.verdict(app.passwords.hash(&request.new_password)).await?;
    let refused = || ApiError::new(ErrorCode::InvalidCredentials, "wrong username or recovery code");
    let typed = Code::typed(&request.recovery_code).hash();
    let kept = account.as_ref().and_then(|account| account.recovery_hash.clone()).unwrap_or_else(|| vec![0; 32]);
    let Some(account) = account.filter(|_| bool::from(typed.as_slice().ct_eq(kept.as_slice()))) else { return Err(refused()) };
    attempt.succeeded();
    if account.suspended {
        return Err(ApiError::suspended());
    }
    let (user_id, code) = (UserId(account.id), Code::random()?);
    let new = code.hash();
    let (user, tokens, revoked) = app
        .database
        .transaction(async |conn: &mut Conn| {
            if !users::recover(conn, user_id, &typed, &new, &phc).await? {
                return Err(refused());
            }
            let revoked = sessions::revoke_others(conn, user_id, None).await?;
            let user = users::find(conn, user_id).await?.ok_or_else(refused)?;
            let tokens = start_session(&app, conn, user_id, &client).await?;
            Ok((user, tokens, revoked))
        })
        .await?;
    tracing::info!(user.id = %user_id, sessions = revoked.len(), "recovered; the other logins ended");
    app.sessions_revoked(&revoked);
    Ok(Json(LoggedIn { user: user.own(), tokens, recovery_code: Some(code.text()) }))
}

/// A new session without a device, and its first tokens.
async fn start_session(app: &App, conn: &mut Conn, user: UserId, client: &Client) -> ApiResult<Tokens> {
    let session = sessions::create(conn, user, &client.address.to_string(), client.user_agent.as_deref()).await?;
    issue_tokens(app, conn, user, session, None).await
}

/// Fresh tokens for a session.
///
/// # Errors
/// Of the database.
pub async fn issue_tokens(
    app: &App,
    conn: &mut Conn,
    user: UserId,
    session: SessionId,
    device: Option<DeviceId>,
) -> ApiResult<Tokens> {
    let token = RefreshToken::random()?;
    let expires_at = Utc::now() + app.refresh.lifetime;
    sessions::add_refresh(conn, session, &token.hash(), expires_at).await?;
    let (access_token, access_expires_at) = app.tokens.issue(user, session, device)?;
    Ok(Tokens { access_token, access_expires_at, refresh_token: token.text(), refresh_expires_at: expires_at.into() })
}
