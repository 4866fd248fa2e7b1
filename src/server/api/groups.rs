//! Groups of channels (`docs/PROTOCOL.md` 3, 9.20): a public one is a folder of its community, a private one has a signed
//! membership log and a stream of its own.

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::crypto::verify::Change;
use crate::protocol::communities::{CreateGroup, Group as WireGroup, SignedOp, Transfer, UpdateGroup, Visibility};
use crate::protocol::ids::{CommunityId, GroupId};
use crate::protocol::limits::{COMMUNITY_NAME_MAX, GROUPS_PER_COMMUNITY, TOPIC_MAX};
use crate::protocol::streams::Event;
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::Conn;
use crate::server::db::communities::{self, Community};
use crate::server::db::groups::{self, Group, GroupChanges, NewGroup};
use crate::server::db::logs;
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Paging, Path, Query};
use crate::server::membership::{self, Place, Signed};
use crate::server::permission::Action;
use crate::server::text;

use super::communities::transfer_op;
use super::{limit_reached, made_id};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(transfer))
}

/// The public groups of a community, and the private ones that the caller is in or may join.
#[utoipa::path(get, path = "/communities/{id}/groups", responses((status = 200, body = Page<WireGroup>)),
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<WireGroup>>> {
    let conn = &mut app.db().await?;
    membership::see(conn, Place::Community(id), auth.user_id).await?;
    let found = Group::list(conn, id, auth.user_id, paging.after()?, paging.rows()?).await?;
    paging.page(found.into_iter().map(Group::seen).collect(), |group| group.id.0).map(Json)
}

/// A private group comes with the `create` op of its log.
#[utoipa::path(post, path = "/communities/{id}/groups", params(("id" = String, Path)), request_body = CreateGroup,
    responses((status = 201, body = WireGroup), (status = 200, description = "made before", body = WireGroup)))]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    Path(community_id): Path<CommunityId>,
    Json(new): Json<CreateGroup>,
) -> ApiResult<(StatusCode, Json<WireGroup>)> {
    let id = made_id(new.id.0)?;
    let name = text::line("name", &new.name, COMMUNITY_NAME_MAX)?;
    let description = text::optional_paragraph("description", new.description.as_deref(), TOPIC_MAX)?;
    let signed = match (new.visibility, &new.log_op) {
        (Visibility::Private, op) => Some(
            Signed::read_required(&app, op.as_ref(), &auth)?.expect("a create op", |op| matches!(op, Change::Create { .. }))?,
        ),
        (Visibility::Public, None) => None,
        (Visibility::Public, Some(_)) => return Err(ApiError::validation("log_op", "a public group has no log of its own")),
    };
    let (community, place) = (Place::Community(community_id), Place::Group(new.id, community_id));
    let (status, group, written) = app
        .database
        .transaction(async |conn| {
            let me = membership::hold(conn, community, &auth).await?;
            let from = Community::find(conn, community_id, auth.user_id).await?.ok_or_else(ApiError::not_found)?;
            membership::require(me, Action::CreateGroup { from: from.told().who_can_create_groups })?;
            if communities::is_taken(conn, id).await? {
                let known = known(conn, community_id, &new, signed.as_ref(), &auth).await?;
                return Ok((StatusCode::OK, known, Written::default()));
            }
            let position = groups::count(conn, community_id).await?;
            if position >= GROUPS_PER_COMMUNITY as i64 {
                return Err(limit_reached("groups in a community", GROUPS_PER_COMMUNITY));
            }
            let visibility = if signed.is_some() { "private" } else { "public" };
            let position = i32::try_from(position).map_err(ApiError::internal)?;
            let row = NewGroup { id, community_id: community_id.0, name, description, visibility, position };
            if !row.insert(conn).await? {
                return Err(ApiError::conflict("this id is taken"));
            }
            let mut events = Events::default();
            if let Some(signed) = &signed {
                communities::insert_stream(conn, id).await?;
                membership::create(conn, &mut events, place, signed).await?;
                membership::tell_place(conn, &mut events, place).await?;
                membership::tell_gained(conn, &mut events, place, auth.user_id).await?;
            }
            let group = find_group(conn, new.id, &auth).await?;
            if signed.is_none() {
                events.tell(community_id, Event::Group { group: group.clone().told() });
            }
            Ok((StatusCode::CREATED, group.seen(), events.write(conn).await?))
        })
        .await?;
    written.announce(&app);
    Ok((status, Json(group)))
}

/// The group that this request made before; a conflict when it made another one.
async fn known(
    conn: &mut Conn,
    community: CommunityId,
    new: &CreateGroup,
    signed: Option<&Signed<'_>>,
    auth: &Auth,
) -> ApiResult<WireGroup> {
    let taken = || ApiError::conflict("this id is taken");
    let group = Group::find(conn, new.id, auth.user_id).await?.filter(Group::is_visible).ok_or_else(taken)?.seen();
    let same = match signed {
        Some(signed) => signed.is_stored(conn, new.id.into()).await?,
        None => group.name == new.name && group.description == new.description.clone().filter(|text| !text.is_empty()),
    };
    if same && group.community_id == community && group.visibility == new.visibility { Ok(group) } else { Err(taken()) }
}

#[utoipa::path(get, path = "/groups/{id}", params(("id" = String, Path)), responses((status = 200, body = WireGroup)))]
async fn get(State(app): State<AppState>, auth: Auth, Path(id): Path<GroupId>) -> ApiResult<Json<WireGroup>> {
    let conn = &mut app.db().await?;
    Ok(Json(find_group(conn, id, &auth).await?.seen()))
}

/// Absent leaves a field as it is, an empty text clears it.
#[utoipa::path(patch, path = "/groups/{id}", params(("id" = String, Path)), request_body = UpdateGroup,
    responses((status = 200, body = WireGroup)))]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Json(body): Json<UpdateGroup>,
) -> ApiResult<Json<WireGroup>> {
    let changes = GroupChanges {
        name: body.name.as_deref().map(|name| text::line("name", name, COMMUNITY_NAME_MAX)).transpose()?,
        description: text::changed_paragraph("description", body.description.as_deref(), TOPIC_MAX)?,
        position: body.position,
    };
    let (group, written) = app
        .database
        .transaction(async |conn| {
            let place = ruling_place(&find_group(conn, id, &auth).await?);
            require_in(conn, place, &auth, Action::EditGroup).await?;
            groups::update(conn, id, &changes).await?;
            let group = find_group(conn, id, &auth).await?;
            let mut events = Events::default();
            if let (Some(stream), false) = (place.stream(), changes.is_empty()) {
                events.tell(stream, Event::Group { group: group.clone().told() });
            }
            Ok((group.seen(), events.write(conn).await?))
        })
        .await?;
    written.announce(&app);
    Ok(Json(group))
}

/// Only an empty group can be deleted.
#[utoipa::path(delete, path = "/groups/{id}", params(("id" = String, Path)), responses((status = 204)))]
async fn delete(State(app): State<AppState>, auth: Auth, Path(id): Path<GroupId>) -> ApiResult<StatusCode> {
    let written = app
        .database
        .transaction(async |conn| {
            let place = ruling_place(&find_group(conn, id, &auth).await?);
            membership::hold(conn, place, &auth).await?;
            require_in(conn, place, &auth, Action::EditGroup).await?;
            if groups::count_channels(conn, id).await? > 0 {
                return Err(ApiError::conflict("the group still has channels: delete or detach them first"));
            }
            let mut events = Events::default();
            let gone = Event::GroupRemoved { group_id: id };
            match place {
                Place::Group(..) => {
                    let members = logs::list_member_ids(conn, place.log()).await?;
                    logs::disband(conn, &[place.log().0]).await?;
                    events.tell_all(members.iter().map(|user| (*user).into()).collect(), gone);
                    members.into_iter().for_each(|user| events.access_changed(user));
                }
                _ => events.tell_all(place.stream().into_iter().collect(), gone),
            }
            groups::delete(conn, id).await?;
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(&app);
    Ok(StatusCode::NO_CONTENT)
}

/// Joins a private group whose log is open to the members of its community.
#[utoipa::path(post, path = "/groups/{id}/join", params(("id" = String, Path)), request_body = SignedOp,
    responses((status = 200, body = WireGroup)))]
async fn join(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Json(body): Json<SignedOp>,
) -> ApiResult<Json<WireGroup>> {
    let signed = Signed::read(&app, "log_op", &body.log_op, &auth)?
        .expect("a join op without an invite", |op| matches!(op, Change::Join { invite: None, .. }))?;
    let (group, written) = apply(&app, &auth, id, &signed).await?;
    written.announce(&app);
    group.map(Json).ok_or_else(ApiError::not_found)
}

/// Leaves; the owner cannot before a transfer.
#[utoipa::path(post, path = "/groups/{id}/leave", params(("id" = String, Path)), request_body = SignedOp, responses((status = 204)))]
async fn leave(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Json(body): Json<SignedOp>,
) -> ApiResult<StatusCode> {
    let signed = Signed::read(&app, "log_op", &body.log_op, &auth)?.expect("a leave op", |op| matches!(op, Change::Leave))?;
    let (_, written) = apply(&app, &auth, id, &signed).await?;
    written.announce(&app);
    Ok(StatusCode::NO_CONTENT)
}

/// Makes another member the owner; the caller becomes an admin.
#[utoipa::path(post, path = "/groups/{id}/transfer", params(("id" = String, Path)), request_body = Transfer,
    responses((status = 200, body = WireGroup)))]
async fn transfer(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Json(body): Json<Transfer>,
) -> ApiResult<Json<WireGroup>> {
    let signed = transfer_op(&app, &body, &auth)?;
    let (group, written) = apply(&app, &auth, id, &signed).await?;
    written.announce(&app);
    group.map(Json).ok_or_else(ApiError::not_found)
}

/// One op in the log of a private group, and the group as the caller sees it afterwards.
async fn apply(app: &AppState, auth: &Auth, id: GroupId, signed: &Signed<'_>) -> ApiResult<(Option<WireGroup>, Written)> {
    app.database
        .transaction(async |conn| {
            let mut written = Written::default();
            if !signed.is_stored(conn, id.into()).await? {
                let place = match logs::community_of_member(conn, id.into(), auth.user_id).await? {
                    // Whoever left the community may still leave what was inside of it.
                    Some(community) if matches!(signed.change(), Change::Leave) => Place::Group(id, community),
                    _ => group_place(conn, id, auth).await?,
                };
                let mut events = Events::default();
                membership::apply(conn, &mut events, place, signed, None).await?;
                written = events.write(conn).await?;
            }
            let group = Group::find(conn, id, auth.user_id).await?.filter(|group| group.my_role.is_some());
            Ok((group.map(Group::seen), written))
        })
        .await
}

/// # Errors
/// 404 for whoever may not see it.
pub async fn find_group(conn: &mut Conn, id: GroupId, auth: &Auth) -> ApiResult<Group> {
    Group::find(conn, id, auth.user_id).await?.filter(Group::is_visible).ok_or_else(ApiError::not_found)
}

/// The membership of a private group.
///
/// # Errors
/// 404 for whoever may not see it, 409 for a public group, whose members are those of its community.
pub async fn group_place(conn: &mut Conn, id: GroupId, auth: &Auth) -> ApiResult<Place> {
    match ruling_place(&find_group(conn, id, auth).await?) {
        place @ Place::Group(..) => Ok(place),
        _ => Err(ApiError::conflict("a public group has the members of its community")),
    }
}

/// Whose roles count in a group: its own, or its community's.
pub const fn ruling_place(group: &Group) -> Place {
    let community = CommunityId(group.community_id);
    if group.private { Place::Group(GroupId(group.id), community) } else { Place::Community(community) }
}

async fn require_in(conn: &mut Conn, place: Place, auth: &Auth, action: Action) -> ApiResult<()> {
    membership::require(membership::standing(conn, place, auth).await?, action)
}
