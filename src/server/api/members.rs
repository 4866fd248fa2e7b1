//! Members and bans of communities, private groups and private channels: three paths to the same change of a membership log
//! (`docs/PROTOCOL.md` 3, 9.20). A public group, an attached channel and a DM have no members of their own to change.

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::crypto::verify::{Change, Role as LogRole};
use crate::protocol::communities::{Ban, Member, RemoveMember, SignedOp, UpdateMember};
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, UserId};
use crate::protocol::limits::{DISPLAY_NAME_MAX, TOPIC_MAX};
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::{Conn, channels, members};
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Paging, Path, Query};
use crate::server::membership::{self, Place, Signed};
use crate::server::permission::{Action, Standing};
use crate::server::text;

use super::channels::{find_channel, place_of};
use super::groups::group_place;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_of_community))
        .routes(routes!(get_of_community, update_of_community, remove_from_community))
        .routes(routes!(list_bans))
        .routes(routes!(ban_from_community, unban_from_community))
        .routes(routes!(list_of_group))
        .routes(routes!(get_of_group, update_of_group, remove_from_group))
        .routes(routes!(list_of_channel))
        .routes(routes!(update_of_channel, remove_from_channel))
        .routes(routes!(ban_from_channel, unban_from_channel))
}

/// A path of these routes, before it is known whether the caller sees what it names.
#[derive(Clone, Copy, Debug)]
enum Target {
    Community(CommunityId),
    Group(GroupId),
    Channel(ChannelId),
}

impl Target {
    /// # Errors
    /// 404 for whoever may not see it; 409 for what has no membership of its own.
    async fn place(self, conn: &mut Conn, auth: &Auth) -> ApiResult<Place> {
        match self {
            Self::Community(id) => {
                membership::see(conn, Place::Community(id), auth.user_id).await?;
                Ok(Place::Community(id))
            }
            Self::Group(id) => group_place(conn, id, auth).await,
            Self::Channel(id) => {
                let channel = find_channel(conn, id, auth).await?;
                match place_of(&channel) {
                    Some(place @ Place::Channel(..)) => Ok(place),
                    Some(_) => Err(ApiError::conflict("the members of this channel are those of its community or group")),
                    None => Err(ApiError::conflict("a direct message has its two people for ever")),
                }
            }
        }
    }

    /// The only log that an op on this path can belong to.
    const fn log(self) -> Uuid {
        match self {
            Self::Community(id) => id.0,
            Self::Group(id) => id.0,
            Self::Channel(id) => id.0,
        }
    }
}

#[utoipa::path(get, path = "/communities/{id}/members", responses((status = 200, body = Page<Member>)),
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_of_community(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<Member>>> {
    list(&app, &auth, Target::Community(id), &paging).await
}

/// Of a private group; a public one has the members of its community.
#[utoipa::path(get, path = "/groups/{id}/members", responses((status = 200, body = Page<Member>)),
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_of_group(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<Member>>> {
    list(&app, &auth, Target::Group(id), &paging).await
}

/// Everybody who reads a channel: of its log, or the two of a DM.
#[utoipa::path(get, path = "/channels/{id}/members", responses((status = 200, body = Page<Member>)),
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_of_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ChannelId>,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<Member>>> {
    let conn = &mut app.db().await?;
    let channel = find_channel(conn, id, &auth).await?;
    let Some(place) = place_of(&channel) else {
        return Ok(Json(Page::all(channels::list_dm_members(conn, id).await?)));
    };
    let found = members::list(conn, place.log(), paging.after()?, paging.rows()?).await?;
    paging.page(found, |member| member.user.id.0).map(Json)
}

async fn list(app: &AppState, auth: &Auth, target: Target, paging: &Paging) -> ApiResult<Json<Page<Member>>> {
    let conn = &mut app.db().await?;
    let place = target.place(conn, auth).await?;
    let found = members::list(conn, place.log(), paging.after()?, paging.rows()?).await?;
    paging.page(found, |member| member.user.id.0).map(Json)
}

#[utoipa::path(get, path = "/communities/{id}/members/{user_id}", responses((status = 200, body = Member)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn get_of_community(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(CommunityId, UserId)>,
) -> ApiResult<Json<Member>> {
    get(&app, &auth, Target::Community(id), user).await
}

#[utoipa::path(get, path = "/groups/{id}/members/{user_id}", responses((status = 200, body = Member)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn get_of_group(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(GroupId, UserId)>,
) -> ApiResult<Json<Member>> {
    get(&app, &auth, Target::Group(id), user).await
}

async fn get(app: &AppState, auth: &Auth, target: Target, user: UserId) -> ApiResult<Json<Member>> {
    let conn = &mut app.db().await?;
    let place = target.place(conn, auth).await?;
    members::find(conn, place.log(), user).await?.map(Json).ok_or_else(ApiError::not_found)
}

/// Role (with its op) and nickname.
#[utoipa::path(patch, path = "/communities/{id}/members/{user_id}", request_body = UpdateMember,
    responses((status = 200, body = Member)), params(("id" = String, Path), ("user_id" = String, Path)))]
async fn update_of_community(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(CommunityId, UserId)>,
    Json(body): Json<UpdateMember>,
) -> ApiResult<Json<Member>> {
    update(&app, &auth, Target::Community(id), user, &body).await
}

#[utoipa::path(patch, path = "/groups/{id}/members/{user_id}", request_body = UpdateMember,
    responses((status = 200, body = Member)), params(("id" = String, Path), ("user_id" = String, Path)))]
async fn update_of_group(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(GroupId, UserId)>,
    Json(body): Json<UpdateMember>,
) -> ApiResult<Json<Member>> {
    update(&app, &auth, Target::Group(id), user, &body).await
}

/// Here `role: owner` is the transfer: a private channel has no route of its own for it.
#[utoipa::path(patch, path = "/channels/{id}/members/{user_id}", request_body = UpdateMember,
    responses((status = 200, body = Member)), params(("id" = String, Path), ("user_id" = String, Path)))]
async fn update_of_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ChannelId, UserId)>,
    Json(body): Json<UpdateMember>,
) -> ApiResult<Json<Member>> {
    update(&app, &auth, Target::Channel(id), user, &body).await
}

async fn update(app: &AppState, auth: &Auth, target: Target, user: UserId, body: &UpdateMember) -> ApiResult<Json<Member>> {
    if body.role_ids.as_ref().is_some_and(|roles| !roles.is_empty()) {
        return Err(ApiError::validation("role_ids", "there is no custom role with this id"));
    }
    let nickname = text::changed_line("nickname", body.nickname.as_deref(), DISPLAY_NAME_MAX)?;
    let signed = match (body.role, &body.log_op) {
        (None, None) => None,
        (Some(role), Some(op)) => Some(Signed::read(app, "log_op", op, auth)?.expect(
            "the role op for this user and role",
            |op| matches!(op, Change::SetRole { user: whom, role: to } if whom == user.as_bytes() && *to as u8 == role as u8),
        )?),
        (Some(_), None) => return Err(ApiError::validation("role", "changes only together with its log_op")),
        (None, Some(_)) => return Err(ApiError::validation("log_op", "goes with role, which is absent")),
    };
    if let (Some(signed), Target::Community(_) | Target::Group(_)) = (&signed, target)
        && matches!(signed.change(), Change::SetRole { role: LogRole::Owner, .. })
    {
        return Err(ApiError::validation("role", "an owner is made by a transfer"));
    }
    let (member, written) = app
        .database
        .transaction(async |conn| {
            let place = target.place(conn, auth).await?;
            let mut events = Events::default();
            if let Some(signed) = &signed {
                membership::apply(conn, &mut events, place, signed, None).await?;
            }
            if let Some(nickname) = nickname {
                let me = membership::standing(conn, place, auth).await?;
                let Some(them) = members::find(conn, place.log(), user).await? else { return Err(ApiError::not_found()) };
                let target = Standing::new(them.user.instance_role, Some(them.role));
                let action = if user == auth.user_id { Action::OwnNickname } else { Action::Nickname { target } };
                membership::require(me, action)?;
                members::set_nickname(conn, place.log(), user, nickname).await?;
                membership::tell_member(conn, &mut events, place, user).await?;
            }
            let Some(member) = members::find(conn, place.log(), user).await? else { return Err(ApiError::not_found()) };
            Ok((member, events.write(conn).await?))
        })
        .await?;
    written.announce(app);
    Ok(Json(member))
}

/// Kicks.
#[utoipa::path(delete, path = "/communities/{id}/members/{user_id}", request_body = RemoveMember, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn remove_from_community(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(CommunityId, UserId)>,
    Json(body): Json<RemoveMember>,
) -> ApiResult<StatusCode> {
    remove(&app, &auth, Target::Community(id), user, &body, false).await
}

/// Kicks.
#[utoipa::path(delete, path = "/groups/{id}/members/{user_id}", request_body = RemoveMember, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn remove_from_group(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(GroupId, UserId)>,
    Json(body): Json<RemoveMember>,
) -> ApiResult<StatusCode> {
    remove(&app, &auth, Target::Group(id), user, &body, false).await
}

/// Kicks.
#[utoipa::path(delete, path = "/channels/{id}/members/{user_id}", request_body = RemoveMember, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn remove_from_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ChannelId, UserId)>,
    Json(body): Json<RemoveMember>,
) -> ApiResult<StatusCode> {
    remove(&app, &auth, Target::Channel(id), user, &body, false).await
}

#[utoipa::path(put, path = "/communities/{id}/bans/{user_id}", request_body = RemoveMember, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn ban_from_community(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(CommunityId, UserId)>,
    Json(body): Json<RemoveMember>,
) -> ApiResult<StatusCode> {
    remove(&app, &auth, Target::Community(id), user, &body, true).await
}

#[utoipa::path(put, path = "/channels/{id}/bans/{user_id}", request_body = RemoveMember, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn ban_from_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ChannelId, UserId)>,
    Json(body): Json<RemoveMember>,
) -> ApiResult<StatusCode> {
    remove(&app, &auth, Target::Channel(id), user, &body, true).await
}

async fn remove(
    app: &AppState,
    auth: &Auth,
    target: Target,
    user: UserId,
    body: &RemoveMember,
    ban: bool,
) -> ApiResult<StatusCode> {
    let reason = text::optional_line("reason", body.reason.as_deref(), TOPIC_MAX)?;
    let what = if ban { "the remove op that bans this user" } else { "the remove op, without a ban, for this user" };
    let signed = Signed::read_required(app, body.log_op.as_ref(), auth)?
        .expect(what, |op| matches!(op, Change::Remove { user: whom, ban: bans } if whom == user.as_bytes() && *bans == ban))?;
    change(app, auth, target, &signed, reason).await
}

#[utoipa::path(delete, path = "/communities/{id}/bans/{user_id}", request_body = SignedOp, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn unban_from_community(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(CommunityId, UserId)>,
    Json(body): Json<SignedOp>,
) -> ApiResult<StatusCode> {
    unban(&app, &auth, Target::Community(id), user, &body).await
}

#[utoipa::path(delete, path = "/channels/{id}/bans/{user_id}", request_body = SignedOp, responses((status = 204)),
    params(("id" = String, Path), ("user_id" = String, Path)))]
async fn unban_from_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ChannelId, UserId)>,
    Json(body): Json<SignedOp>,
) -> ApiResult<StatusCode> {
    unban(&app, &auth, Target::Channel(id), user, &body).await
}

async fn unban(app: &AppState, auth: &Auth, target: Target, user: UserId, body: &SignedOp) -> ApiResult<StatusCode> {
    let signed = Signed::read(app, "log_op", &body.log_op, auth)?.expect(
        "the op that lifts this user's ban",
        |op| matches!(op, Change::Unban { user: whom } if whom == user.as_bytes()),
    )?;
    change(app, auth, target, &signed, None).await
}

/// One op, and nothing to answer.
async fn change(app: &AppState, auth: &Auth, target: Target, signed: &Signed<'_>, reason: Option<&str>) -> ApiResult<StatusCode> {
    let written = app
        .database
        .transaction(async |conn| {
            if signed.is_stored(conn, target.log().into()).await? {
                return Ok(Written::default());
            }
            let place = target.place(conn, auth).await?;
            let mut events = Events::default();
            membership::apply(conn, &mut events, place, signed, reason).await?;
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(app);
    Ok(StatusCode::NO_CONTENT)
}

/// Who is banned, for moderators.
#[utoipa::path(get, path = "/communities/{id}/bans", responses((status = 200, body = Page<Ban>)),
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list_bans(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<Ban>>> {
    let conn = &mut app.db().await?;
    let role = membership::see(conn, Place::Community(id), auth.user_id).await?;
    membership::require(Standing::new(auth.role, Some(role)), Action::ListBans)?;
    let found = members::list_bans(conn, id.into(), paging.after()?, paging.rows()?).await?;
    paging.page(found, |ban| ban.user.id.0).map(Json)
}
