//! Other people: profiles, search, contacts and blocks (`docs/PROTOCOL.md` 2).

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::ids::UserId;
use crate::protocol::limits::{DISPLAY_NAME_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::protocol::streams::Event;
use crate::protocol::users::{Contact, Page, PutContact, User};
use crate::server::app::AppState;
use crate::server::db::users::UserRow;
use crate::server::db::{Conn, contacts, devices, streams, users};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Json, Paging, Path, Query};
use crate::server::text;

/// Contacts of one user, and users whom one has blocked.
const CONTACTS_MAX: i64 = 1000;
const BLOCKS_MAX: i64 = 1000;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(search))
        .routes(routes!(get))
        .routes(routes!(block, unblock))
        .routes(routes!(list_blocks))
        .routes(routes!(list_contacts))
        .routes(routes!(put_contact, delete_contact))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    q: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// People who share a community or a DM with the caller, by the start of a name; anybody else by the exact username.
#[utoipa::path(get, path = "/users/search", params(("q" = String, Query), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)), responses((status = 200, body = Page<User>)))]
async fn search(State(app): State<AppState>, auth: Auth, Query(query): Query<Search>) -> ApiResult<Json<Page<User>>> {
    let limit = match query.limit.unwrap_or(PAGE_DEFAULT) {
        limit @ 1..=PAGE_MAX => limit,
        _ => return Err(ApiError::validation("limit", format!("must be between 1 and {PAGE_MAX}"))),
    };
    let text = query.q.trim();
    if text.is_empty() || text.chars().count() > DISPLAY_NAME_MAX || text.contains('\0') {
        return Err(ApiError::validation("q", format!("must have 1 to {DISPLAY_NAME_MAX} characters")));
    }
    let cursor = query.cursor.unwrap_or_default().replace('\0', "");
    let rows = users::search(&mut *app.db().await?, auth.user_id, text, &cursor, i64::from(limit)).await?;
    let next_cursor = rows.last().filter(|_| rows.len() == limit as usize).map(|row| row.username.clone());
    Ok(Json(Page { items: rows.iter().map(UserRow::public).collect(), next_cursor }))
}

/// Anybody whose id the caller knows.
#[utoipa::path(get, path = "/users/{id}", responses((status = 200, body = User)))]
async fn get(State(app): State<AppState>, auth: Auth, Path(id): Path<UserId>) -> ApiResult<Json<User>> {
    let user = users::find(&mut *app.db().await?, id).await?.ok_or_else(ApiError::not_found)?;
    Ok(Json(if id == auth.user_id { user.own() } else { user.public() }))
}

/// Stops DMs in both directions, and nothing else.
#[utoipa::path(put, path = "/users/{id}/block", responses((status = 204)))]
async fn block(State(app): State<AppState>, auth: Auth, Path(id): Path<UserId>) -> ApiResult<StatusCode> {
    if id == auth.user_id {
        return Err(ApiError::validation("id", "you cannot block yourself"));
    }
    app.database
        .transaction(async |conn: &mut Conn| {
            users::find(conn, id).await?.ok_or_else(ApiError::not_found)?;
            // One after the other: the bound holds also for requests that come together.
            devices::lock_user(conn, auth.user_id).await?;
            if contacts::count_other_blocks(conn, auth.user_id, id).await? >= BLOCKS_MAX {
                return Err(ApiError::conflict(format!("at most {BLOCKS_MAX} blocked users")));
            }
            Ok(contacts::block(conn, auth.user_id, id).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(delete, path = "/users/{id}/block", responses((status = 204)))]
async fn unblock(State(app): State<AppState>, auth: Auth, Path(id): Path<UserId>) -> ApiResult<StatusCode> {
    contacts::unblock(&mut *app.db().await?, auth.user_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/account/blocks", responses((status = 200, body = Page<User>)),
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_blocks(State(app): State<AppState>, auth: Auth, Query(paging): Query<Paging>) -> ApiResult<Json<Page<User>>> {
    let found = contacts::list_blocked(&mut *app.db().await?, auth.user_id, paging.after()?, paging.rows()?).await?;
    paging.page(found, |user| user.id.0).map(Json)
}

#[utoipa::path(get, path = "/contacts", responses((status = 200, body = Page<Contact>)),
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_contacts(State(app): State<AppState>, auth: Auth, Query(paging): Query<Paging>) -> ApiResult<Json<Page<Contact>>> {
    let found = contacts::list(&mut *app.db().await?, auth.user_id, paging.after()?, paging.rows()?).await?;
    paging.page(found, |contact| contact.user.id.0).map(Json)
}

/// Adds somebody to the caller's contacts, or renames them there. A contact may open a DM with the caller.
#[utoipa::path(put, path = "/contacts/{id}", request_body = PutContact, responses((status = 200, body = Contact)))]
async fn put_contact(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<UserId>,
    Json(request): Json<PutContact>,
) -> ApiResult<Json<Contact>> {
    let display_name = text::optional_line("display_name", request.display_name.as_deref(), DISPLAY_NAME_MAX)?;
    let (contact, moved) = app
        .database
        .transaction(async |conn: &mut Conn| {
            let user = users::find(conn, id).await?.ok_or_else(ApiError::not_found)?;
            devices::lock_user(conn, auth.user_id).await?;
            if contacts::count_others(conn, auth.user_id, id).await? >= CONTACTS_MAX {
                return Err(ApiError::conflict(format!("at most {CONTACTS_MAX} contacts")));
            }
            let contact = contacts::put(conn, auth.user_id, &user, display_name).await?;
            let moved = streams::append(conn, auth.user_id.into(), &Event::Contact { contact: contact.clone() }).await?;
            Ok((contact, moved))
        })
        .await?;
    app.notify([moved]);
    Ok(Json(contact))
}

#[utoipa::path(delete, path = "/contacts/{id}", responses((status = 204)))]
async fn delete_contact(State(app): State<AppState>, auth: Auth, Path(id): Path<UserId>) -> ApiResult<StatusCode> {
    let moved = app
        .database
        .transaction(async |conn: &mut Conn| {
            if !contacts::delete(conn, auth.user_id, id).await? {
                return Err(ApiError::not_found());
            }
            Ok(streams::append(conn, auth.user_id.into(), &Event::ContactRemoved { user_id: id }).await?)
        })
        .await?;
    app.notify([moved]);
    Ok(StatusCode::NO_CONTENT)
}
