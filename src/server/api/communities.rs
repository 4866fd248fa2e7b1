//! Communities: making, finding, changing, joining and leaving them (`docs/PROTOCOL.md` 3, 3.1).

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::crypto::verify::{Change, Role as LogRole};
use crate::protocol::communities::{Community as WireCommunity, CreateCommunity, Role, SignedOp, Transfer, UpdateCommunity};
use crate::protocol::ids::CommunityId;
use crate::protocol::limits::{BIO_MAX, COMMUNITY_NAME_MAX, TOPIC_MAX};
use crate::protocol::streams::{Event, RemovalReason};
use crate::protocol::users::Page;
use crate::server::app::{App, AppState};
use crate::server::db::communities::{self, Community, CommunityChanges, NewCommunity};
use crate::server::db::{Conn, logs};
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Paging, Path, Query};
use crate::server::membership::{self, Place, Signed};
use crate::server::permission::Action;
use crate::server::text;

use super::made_id;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(discover))
        .routes(routes!(get, update, delete))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(transfer))
}

/// The caller's communities.
#[utoipa::path(get, path = "/communities", params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = Page<WireCommunity>)))]
async fn list(State(app): State<AppState>, auth: Auth, Query(paging): Query<Paging>) -> ApiResult<Json<Page<WireCommunity>>> {
    let (after, rows) = (paging.after()?, paging.rows()?);
    let conn = &mut app.db().await?;
    let found = Community::list(conn, auth.user_id, after, rows).await?;
    let items = found.into_iter().map(Community::seen).collect();
    paging.page(items, |community: &WireCommunity| community.id.0).map(Json)
}

/// Communities that want to be found; those that are `open` can be joined at once.
#[utoipa::path(get, path = "/communities/discover", params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = Page<WireCommunity>)))]
async fn discover(State(app): State<AppState>, auth: Auth, Query(paging): Query<Paging>) -> ApiResult<Json<Page<WireCommunity>>> {
    let (after, rows) = (paging.after()?, paging.rows()?);
    let conn = &mut app.db().await?;
    let found = Community::discover(conn, auth.user_id, after, rows).await?;
    let items = found.into_iter().map(Community::seen).collect();
    paging.page(items, |community: &WireCommunity| community.id.0).map(Json)
}

/// A new community with the `create` op of its membership log. Groups and channels are made by requests of their own.
#[utoipa::path(post, path = "/communities", request_body = CreateCommunity,
    responses((status = 201, body = WireCommunity), (status = 200, description = "made before by the same op", body = WireCommunity)))]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    Json(new): Json<CreateCommunity>,
) -> ApiResult<(StatusCode, Json<WireCommunity>)> {
    let id = made_id(new.id.0)?;
    let name = text::line("name", &new.name, COMMUNITY_NAME_MAX)?;
    let description = text::optional_paragraph("description", new.description.as_deref(), TOPIC_MAX)?;
    let signed =
        Signed::read(&app, "log_op", &new.log_op, &auth)?.expect("a create op", |op| matches!(op, Change::Create { .. }))?;
    let place = Place::Community(new.id);
    let (status, community, written) = app
        .database
        .transaction(async |conn| {
            if communities::is_taken(conn, id).await? || !communities::insert_stream(conn, id).await? {
                if !signed.is_stored(conn, new.id.into()).await? {
                    return Err(ApiError::conflict("this id is taken"));
                }
                return Ok((StatusCode::OK, seen(conn, new.id, &auth).await?, Written::default()));
            }
            let row = NewCommunity { id, name, description, discoverable: new.discoverable, owner_id: auth.user_id.0 };
            row.insert(conn).await?;
            let mut events = Events::default();
            membership::create(conn, &mut events, place, &signed).await?;
            membership::tell_place(conn, &mut events, place).await?;
            membership::tell_gained(conn, &mut events, place, auth.user_id).await?;
            let written = events.write(conn).await?;
            Ok((StatusCode::CREATED, seen(conn, new.id, &auth).await?, written))
        })
        .await?;
    written.announce(&app);
    Ok((status, Json(community)))
}

/// One of the caller's communities, or one that is open or discoverable.
#[utoipa::path(get, path = "/communities/{id}", params(("id" = String, Path)), responses((status = 200, body = WireCommunity)))]
async fn get(State(app): State<AppState>, auth: Auth, Path(id): Path<CommunityId>) -> ApiResult<Json<WireCommunity>> {
    let conn = &mut app.db().await?;
    let found = Community::find(conn, id, auth.user_id).await?;
    let found = found.filter(|community| community.my_role.is_some() || community.open || community.discoverable);
    found.map(|community| Json(community.seen())).ok_or_else(ApiError::not_found)
}

/// Absent leaves a field as it is, an empty text clears it. `who_can_create_invites` comes with its op.
#[utoipa::path(patch, path = "/communities/{id}", params(("id" = String, Path)), request_body = UpdateCommunity,
    responses((status = 200, body = WireCommunity)))]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Json(body): Json<UpdateCommunity>,
) -> ApiResult<Json<WireCommunity>> {
    let changes = CommunityChanges {
        name: body.name.as_deref().map(|name| text::line("name", name, COMMUNITY_NAME_MAX)).transpose()?,
        description: text::changed_paragraph("description", body.description.as_deref(), TOPIC_MAX)?,
        accent_color: accent_color(body.accent_color.as_deref())?,
        discoverable: body.discoverable,
        welcome_message: text::changed_paragraph("welcome_message", body.welcome_message.as_deref(), BIO_MAX)?,
        who_can_create_groups: body.who_can_create_groups.map(|role| role as i16),
    };
    let signed = match (&body.log_op, body.who_can_create_invites) {
        (None, None) => None,
        (Some(op), Some(role)) => Some(Signed::read(&app, "log_op", op, &auth)?.expect(
            "the policy op with this who_can_create_invites",
            |op| matches!(op, Change::InviteRole(to) if role_of(*to) == role),
        )?),
        (Some(_), None) => return Err(ApiError::validation("log_op", "goes with who_can_create_invites, which is absent")),
        (None, Some(_)) => return Err(ApiError::validation("who_can_create_invites", "changes only together with its log_op")),
    };
    let place = Place::Community(id);
    let (community, written) = app
        .database
        .transaction(async |conn| {
            let mut events = Events::default();
            if let Some(signed) = &signed {
                membership::apply(conn, &mut events, place, signed, None).await?;
            }
            let me = membership::standing(conn, place, &auth).await?;
            membership::require(me, Action::EditCommunity)?;
            if !changes.is_empty() {
                communities::update(conn, id, &changes).await?;
                membership::tell_place(conn, &mut events, place).await?;
            }
            let written = events.write(conn).await?;
            Ok((seen(conn, id, &auth).await?, written))
        })
        .await?;
    written.announce(&app);
    Ok(Json(community))
}

/// The end of a community with all its groups and channels. Its signed logs are kept.
#[utoipa::path(delete, path = "/communities/{id}", params(("id" = String, Path)), responses((status = 204)))]
async fn delete(State(app): State<AppState>, auth: Auth, Path(id): Path<CommunityId>) -> ApiResult<StatusCode> {
    let place = Place::Community(id);
    let written = app
        .database
        .transaction(async |conn| {
            membership::see(conn, place, auth.user_id).await?;
            let logs = communities::lock_logs(conn, id).await?;
            let me = membership::standing(conn, place, &auth).await?;
            membership::require(me, Action::DeleteCommunity)?;
            let members = logs::list_member_ids(conn, place.log()).await?;
            communities::delete(conn, id).await?;
            logs::disband(conn, &logs).await?;
            let mut events = Events::default();
            let streams = members.iter().map(|user| (*user).into()).collect();
            events.tell_all(streams, Event::CommunityRemoved { community_id: id, reason: RemovalReason::Deleted, op: None });
            for user in members {
                events.access_changed(user);
            }
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(&app);
    Ok(StatusCode::NO_CONTENT)
}

/// Joins an open community.
#[utoipa::path(post, path = "/communities/{id}/join", params(("id" = String, Path)), request_body = SignedOp,
    responses((status = 200, body = WireCommunity)))]
async fn join(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Json(body): Json<SignedOp>,
) -> ApiResult<Json<WireCommunity>> {
    let signed = Signed::read(&app, "log_op", &body.log_op, &auth)?
        .expect("a join op without an invite", |op| matches!(op, Change::Join { invite: None, .. }))?;
    let (community, written) = app
        .database
        .transaction(async |conn| {
            let found = Community::find(conn, id, auth.user_id).await?;
            if !found.is_some_and(|community| community.open || community.my_role.is_some()) {
                return Err(ApiError::not_found());
            }
            enter(conn, id, &auth, &signed).await
        })
        .await?;
    written.announce(&app);
    Ok(Json(community))
}

/// Applies a join op and answers with the community.
///
/// # Errors
/// As [`membership::apply`].
pub async fn enter(conn: &mut Conn, id: CommunityId, auth: &Auth, signed: &Signed<'_>) -> ApiResult<(WireCommunity, Written)> {
    let mut events = Events::default();
    membership::apply(conn, &mut events, Place::Community(id), signed, None).await?;
    let written = events.write(conn).await?;
    Ok((seen(conn, id, auth).await?, written))
}

/// Leaves; the owner cannot before a transfer.
#[utoipa::path(post, path = "/communities/{id}/leave", params(("id" = String, Path)), request_body = SignedOp, responses((status = 204)))]
async fn leave(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Json(body): Json<SignedOp>,
) -> ApiResult<StatusCode> {
    let signed = Signed::read(&app, "log_op", &body.log_op, &auth)?.expect("a leave op", |op| matches!(op, Change::Leave))?;
    let written = app
        .database
        .transaction(async |conn| {
            let mut events = Events::default();
            membership::apply(conn, &mut events, Place::Community(id), &signed, None).await?;
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(&app);
    Ok(StatusCode::NO_CONTENT)
}

/// Makes another member the owner; the caller becomes an admin.
#[utoipa::path(post, path = "/communities/{id}/transfer", params(("id" = String, Path)), request_body = Transfer,
    responses((status = 200, body = WireCommunity)))]
async fn transfer(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Json(body): Json<Transfer>,
) -> ApiResult<Json<WireCommunity>> {
    let signed = transfer_op(&app, &body, &auth)?;
    let (community, written) = app
        .database
        .transaction(async |conn| {
            let mut events = Events::default();
            membership::apply(conn, &mut events, Place::Community(id), &signed, None).await?;
            let written = events.write(conn).await?;
            Ok((seen(conn, id, &auth).await?, written))
        })
        .await?;
    written.announce(&app);
    Ok(Json(community))
}

/// The op of a transfer.
///
/// # Errors
/// 400 `validation` when it is another one.
pub fn transfer_op<'a>(app: &App, body: &'a Transfer, auth: &Auth) -> ApiResult<Signed<'a>> {
    Signed::read(app, "log_op", &body.log_op, auth)?.expect(
        "the role op that makes new_owner_id the owner",
        |op| matches!(op, Change::SetRole { user, role: LogRole::Owner } if user == body.new_owner_id.as_bytes()),
    )
}

/// The community as a member sees it.
async fn seen(conn: &mut Conn, id: CommunityId, auth: &Auth) -> ApiResult<WireCommunity> {
    let found = Community::find(conn, id, auth.user_id).await?.filter(|community| community.my_role.is_some());
    found.map(Community::seen).ok_or_else(ApiError::not_found)
}

fn accent_color(text: Option<&str>) -> ApiResult<Option<Option<&str>>> {
    match text {
        None => Ok(None),
        Some("") => Ok(Some(None)),
        Some(color) if color.len() == 7 && color.starts_with('#') && color[1..].bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(Some(Some(color)))
        }
        Some(_) => Err(ApiError::validation("accent_color", "must be #rrggbb")),
    }
}

fn role_of(role: LogRole) -> Role {
    Role::from_u8(role as u8).unwrap_or_default()
}
