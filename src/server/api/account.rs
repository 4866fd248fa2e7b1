//! The caller's own account: profile, password, recovery code, preferences and logins (`docs/PROTOCOL.md` 2).

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::auth::{ChangePassword, Confirm, RecoveryCode, SecretText, Session};
use crate::protocol::ids::{DeviceAddr, SessionId};
use crate::protocol::limits::{BIO_MAX, DISPLAY_NAME_MAX};
use crate::protocol::users::{InstanceRole, Page, UpdateProfile, User};
use crate::server::app::{App, AppState};
use crate::server::db::{Conn, devices, sessions, users};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Client, Json, Path};
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
    let user = users::update_profile(&mut *app.db().await?, auth.user_id, &change).await?;
    Ok(Json(user.own()))
}

/// Deletes the account. Whoever is still a member somewhere signs the leaves first: the server cannot (9.26).
#[utoipa::path(delete, path = "/account", request_body = Confirm, responses((status = 204)))]
async fn delete(State(app): State<AppState>, auth: Auth, client: Client, Json(request): Json<Confirm>) -> ApiResult<StatusCode> {
    confirm(&app, &auth, &client, &request.password).await?;
    if auth.role == InstanceRole::Owner {
        return Err(ApiError::conflict("the owner of the instance cannot delete their account"));
    }
    let revoked = app
        .database
        .transaction(async |conn: &mut Conn| {
            if !devices::lock_user(conn, auth.user_id).await? {
                return Err(ApiError::unauthenticated());
            }
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
    confirm(&app, &auth, &client, &request.current_password).await?;
    let username = users::find(&mut *app.db().await?, auth.user_id).await?.ok_or_else(ApiError::unauthenticated)?.username;
    password::check("new_password", &request.new_password, &username)?;
    let phc = app.passwords.hash(&request.new_password).await?;
    let revoked = app
        .database
        .transaction(async |conn: &mut Conn| {
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
    confirm(&app, &auth, &client, &request.password).await?;
    let code = Code::random()?;
    users::set_recovery(&mut *app.db().await?, auth.user_id, &code.hash()).await?;
    Ok(Json(RecoveryCode { recovery_code: code.text() }))
}

/// The password again, for what a stolen session must not do.
///
/// # Errors
/// 401 `invalid_credentials`, 429.
pub async fn confirm(app: &App, auth: &Auth, client: &Client, password: &SecretText) -> ApiResult<()> {
    // Counted apart from logins: a thief with a session must not slow the owner's login down.
    let attempt = app.attempts.begin(&format!("confirm {}", auth.user_id), client.address, false)?;
    let phc = users::password_hash(&mut *app.db().await?, auth.user_id).await?;
    if !app.passwords.verify(password, Some(&phc)).await? {
        return Err(ApiError::new(crate::protocol::error::ErrorCode::InvalidCredentials, "wrong password"));
    }
    attempt.succeeded();
    Ok(())
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
    // PostgreSQL's jsonb has no NUL in text.
    if text.contains("\\u0000") {
        return Err(ApiError::invalid_request("a text must not contain U+0000"));
    }
    users::set_preferences(&mut *app.db().await?, auth.user_id, &value).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/account/sessions", responses((status = 200, body = Page<Session>)))]
async fn list_sessions(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<Page<Session>>> {
    Ok(Json(Page::all(sessions::list(&mut *app.db().await?, auth.user_id, auth.session_id).await?)))
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
