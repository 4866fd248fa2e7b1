//! The caller's own account: profile, password, recovery code, preferences and logins (`docs/PROTOCOL.md` 2).

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::auth::{ChangePassword, Confirm, RecoveryCode, SecretText, Session};
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{DeviceAddr, SessionId, StreamId, UserId};
use crate::protocol::limits::{BIO_MAX, DISPLAY_NAME_MAX};
use crate::protocol::streams::Event;
use crate::protocol::users::{InstanceRole, Page, Status, UpdateProfile, User};
use crate::server::app::{App, AppState};
use crate::server::db::{Conn, devices, members, sessions, users};
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::Events;
use crate::server::extract::{Auth, Client, Json, Paging, Path, Query};
use crate::server::token::Code;
use crate::server::{password, text};

/// Bytes of the opaque preferences.
const PREFERENCES_MAX: usize = 16 * 1024;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(get, update, delete))
        .routes(routes!(change_password))
        .routes(routes!(new_recovery_code))
        .routes(routes!(preferences, put_preferences))
        .routes(routes!(list_sessions))
        .routes(routes!(revoke_session))
        .routes(routes!(revoke_others))
}

#[utoipa::path(get, path = "/account", responses((status = 200, body = User)))]
async fn get(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<User>> {
    let user = users::find(&mut *app.db().await?, auth.user_id).await?.ok_or_else(ApiError::unauthenticated)?;
    Ok(Json(user.own()))
}

/// Absent or null leaves a field as it is, an empty text clears it.
#[utoipa::path(patch, path = "/account", request_body = UpdateProfile, responses((status = 200, body = User)))]
async fn update(State(app): State<AppState>, auth: Auth, Json(change): Json<UpdateProfile>) -> ApiResult<Json<User>> {
    text::changed_line("display_name", change.display_name.as_deref(), DISPLAY_NAME_MAX)?;
    text::changed_paragraph("bio", change.bio.as_deref(), BIO_MAX)?;
    text::changed_line("pronouns", change.pronouns.as_deref(), DISPLAY_NAME_MAX)?;
    text::changed_line("custom_status", change.custom_status.as_deref(), DISPLAY_NAME_MAX)?;
    if change.status == Some(Status::Offline) {
        return Err(ApiError::validation("status", "must be online, idle, dnd or invisible"));
    }
    if change.status.is_some() {
        app.limits.check_status(auth.user_id)?;
    }
    let shown = UpdateProfile { status: None, ..change.clone() } != UpdateProfile::default();
    if shown {
        app.limits.check_announcement(auth.user_id)?;
    }
    let (user, written) = app
        .database
        .transaction(async |conn: &mut Conn| {
            let user = users::update_profile(conn, auth.user_id, &change).await?;
            let mut events = Events::default();
            if shown {
                for (log, member) in members::of_user(conn, &user).await? {
                    events.tell(StreamId(log.0), Event::Member { member });
                }
            }
            Ok((user, events.write(conn).await?))
        })
        .await?;
    written.announce(&app);
    if let Some(status) = change.status {
        app.status_changed(auth.user_id, status);
    }
    Ok(Json(user.own()))
}

/// Deletes the account. Whoever is still a member somewhere signs the leaves first: the server cannot (9.26).
#[utoipa::path(delete, path = "/account", request_body = Confirm, responses((status = 204)))]
async fn delete(State(app): State<AppState>, auth: Auth, client: Client, Json(request): Json<Confirm>) -> ApiResult<StatusCode> {
    let confirmed = confirm(&app, &auth, &client, &request.password).await?;
    if auth.role == InstanceRole::Owner {
        return Err(ApiError::conflict("the owner of the instance cannot delete their account"));
    }
    let revoked = app
        .database
        .transaction(async |conn: &mut Conn| {
            if !devices::lock_user(conn, auth.user_id).await? {
                return Err(ApiError::unauthenticated());
            }
            confirmed.hold(conn).await?;
            let communities = users::memberships(conn, auth.user_id).await?;
            if !communities.is_empty() {
                let error = ApiError::conflict("leave your communities, or hand them over, first");
                return Err(error.with_details(json!({ "communities": communities })));
            }
            for id in devices::ids(conn, auth.user_id).await? {
                devices::delete(conn, DeviceAddr::new(auth.user_id, id)).await?;
            }
            users::delete(conn, auth.user_id).await?;
            Ok(sessions::revoke_others(conn, auth.user_id, None).await?)
        })
        .await?;
    app.sessions_revoked(&revoked);
    tracing::info!(user.id = %auth.user_id, "account deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all other logins.
#[utoipa::path(put, path = "/account/password", request_body = ChangePassword, responses((status = 204)))]
async fn change_password(
    State(app): State<AppState>,
    auth: Auth,
    client: Client,
    Json(request): Json<ChangePassword>,
) -> ApiResult<StatusCode> {
    let confirmed = confirm(&app, &auth, &client, &request.current_password).await?;
    let username = users::find(&mut *app.db().await?, auth.user_id).await?.ok_or_else(ApiError::unauthenticated)?.username;
    password::check("new_password", &request.new_password, &username)?;
    let phc = app.passwords.hash(&request.new_password).await?;
    let revoked = app
        .database
        .transaction(async |conn: &mut Conn| {
            devices::lock_user(conn, auth.user_id).await?;
            confirmed.hold(conn).await?;
            users::set_password(conn, auth.user_id, &phc).await?;
            Ok(sessions::revoke_others(conn, auth.user_id, Some(auth.session_id)).await?)
        })
        .await?;
    app.sessions_revoked(&revoked);
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces the recovery code; the new one is shown once.
#[utoipa::path(post, path = "/account/recovery-code", request_body = Confirm, responses((status = 200, body = RecoveryCode)))]
async fn new_recovery_code(
    State(app): State<AppState>,
    auth: Auth,
    client: Client,
    Json(request): Json<Confirm>,
) -> ApiResult<Json<RecoveryCode>> {
    let confirmed = confirm(&app, &auth, &client, &request.password).await?;
    let code = Code::random()?;
    app.database
        .transaction(async |conn: &mut Conn| {
            devices::lock_user(conn, auth.user_id).await?;
            confirmed.hold(conn).await?;
            Ok(users::set_recovery(conn, auth.user_id, &code.hash()).await?)
        })
        .await?;
    Ok(Json(RecoveryCode { recovery_code: code.text() }))
}

/// The password was given again; it may have been changed since.
#[must_use]
pub struct Confirmed {
    user_id: UserId,
    password_hash: String,
}

impl Confirmed {
    /// Inside the transaction of the change: the password is still that one, and stays until the end.
    ///
    /// # Errors
    /// 401 `invalid_credentials`.
    pub async fn hold(&self, conn: &mut Conn) -> ApiResult<()> {
        users::find_with_password(conn, self.user_id, &self.password_hash).await?.map(drop).ok_or_else(wrong_password)
    }
}

fn wrong_password() -> ApiError {
    ApiError::new(ErrorCode::InvalidCredentials, "wrong password")
}

/// The password again, for what a stolen session must not do.
///
/// # Errors
/// 401 `invalid_credentials`, 429.
pub async fn confirm(app: &App, auth: &Auth, client: &Client, password: &SecretText) -> ApiResult<Confirmed> {
    app.limits.check_auth(client.address)?;
    // Counted apart from logins: a thief with a session must not slow the owner's login down.
    let attempt = app.attempts.begin(&format!("confirm {}", auth.user_id), client.address, false)?;
    let verifying = async {
        let phc = users::password_hash(&mut *app.db().await?, auth.user_id).await?;
        Ok((app.passwords.verify(password, Some(&phc)).await?, phc))
    };
    let (attempt, (right, phc)) = attempt.verdict(verifying).await?;
    if !right {
        return Err(wrong_password());
    }
    attempt.succeeded();
    Ok(Confirmed { user_id: auth.user_id, password_hash: phc })
}

#[utoipa::path(get, path = "/account/preferences", responses((status = 200, body = Object)))]
async fn preferences(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<Value>> {
    Ok(Json(users::preferences(&mut *app.db().await?, auth.user_id).await?))
}

/// Any JSON value of at most 16 KiB; the server does not look into it.
#[utoipa::path(put, path = "/account/preferences", request_body = Object, responses((status = 204)))]
async fn put_preferences(State(app): State<AppState>, auth: Auth, Json(value): Json<Value>) -> ApiResult<StatusCode> {
    let text = value.to_string();
    if text.len() > PREFERENCES_MAX {
        return Err(ApiError::too_large(PREFERENCES_MAX));
    }
    if has_nul(&value) {
        return Err(ApiError::invalid_request("a text must not contain U+0000"));
    }
    users::set_preferences(&mut *app.db().await?, auth.user_id, &value).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// PostgreSQL's jsonb has no NUL in text.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[utoipa::path(get, path = "/account/sessions", responses((status = 200, body = Page<Session>)),
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_sessions(State(app): State<AppState>, auth: Auth, Query(paging): Query<Paging>) -> ApiResult<Json<Page<Session>>> {
    let conn = &mut app.db().await?;
    let found = sessions::list(conn, auth.user_id, auth.session_id, paging.after()?, paging.rows()?).await?;
    paging.page(found, |session| session.id.0).map(Json)
}

#[utoipa::path(delete, path = "/account/sessions/{id}", responses((status = 204)))]
async fn revoke_session(State(app): State<AppState>, auth: Auth, Path(id): Path<SessionId>) -> ApiResult<StatusCode> {
    if !sessions::revoke(&mut *app.db().await?, auth.user_id, id).await? {
        return Err(ApiError::not_found());
    }
    app.sessions_revoked(&[id]);
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/account/sessions/revoke-others", responses((status = 204)))]
async fn revoke_others(State(app): State<AppState>, auth: Auth) -> ApiResult<StatusCode> {
    let revoked = sessions::revoke_others(&mut *app.db().await?, auth.user_id, Some(auth.session_id)).await?;
    app.sessions_revoked(&revoked);
    Ok(StatusCode::NO_CONTENT)
}
