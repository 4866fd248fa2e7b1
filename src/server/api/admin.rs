//! What the people who run the instance do: today, invitations to register. To everybody else these paths do not exist.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{TimeDelta, Utc};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::auth::{CreateRegistrationInvite, RegistrationInvite};
use crate::protocol::ids::InviteId;
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::registration;
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Json, Paging, Path, Query};
use crate::server::token::Code;

/// One year.
const EXPIRES_MAX_S: u64 = 366 * 24 * 3600;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(create_invite, list_invites)).routes(routes!(delete_invite))
}

/// An invitation to register; its code is in this answer only.
#[utoipa::path(post, path = "/admin/invites", request_body = CreateRegistrationInvite, responses((status = 201, body = RegistrationInvite)))]
async fn create_invite(
    State(app): State<AppState>,
    auth: Auth,
    Json(request): Json<CreateRegistrationInvite>,
) -> ApiResult<(StatusCode, Json<RegistrationInvite>)> {
    auth.instance_admin()?;
    let max_uses = match request.max_uses {
        None => None,
        Some(uses @ 1..=1_000_000) => Some(uses.cast_signed()),
        Some(_) => return Err(ApiError::validation("max_uses", "must be between 1 and 1000000")),
    };
    let expires_at = match request.expires_in_s {
        None => None,
        Some(seconds @ 1..=EXPIRES_MAX_S) => Some(Utc::now() + TimeDelta::seconds(seconds.cast_signed())),
        Some(_) => return Err(ApiError::validation("expires_in_s", format!("must be between 1 and {EXPIRES_MAX_S}"))),
    };
    let code = Code::random()?;
    let invite = registration::insert(&mut *app.db().await?, &code.hash(), max_uses, expires_at, auth.user_id).await?;
    Ok((StatusCode::CREATED, Json(RegistrationInvite { code: Some(code.text()), ..invite })))
}

/// Newest first, without their codes.
#[utoipa::path(get, path = "/admin/invites", params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)), responses((status = 200, body = Page<RegistrationInvite>)))]
async fn list_invites(
    State(app): State<AppState>,
    auth: Auth,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<RegistrationInvite>>> {
    auth.instance_admin()?;
    let limit = paging.limit()?;
    let before = match &paging.cursor {
        Some(cursor) => Some(cursor.parse::<InviteId>().map_err(|_| ApiError::validation("cursor", "is not one of ours"))?),
        None => None,
    };
    let items = registration::list(&mut *app.db().await?, before, limit).await?;
    let full = i64::try_from(items.len()).is_ok_and(|len| len == limit);
    let next_cursor = items.last().filter(|_| full).map(|invite| invite.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

#[utoipa::path(delete, path = "/admin/invites/{id}", responses((status = 204)))]
async fn delete_invite(State(app): State<AppState>, auth: Auth, Path(id): Path<InviteId>) -> ApiResult<StatusCode> {
    auth.instance_admin()?;
    if registration::delete(&mut *app.db().await?, id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::not_found()) }
}
