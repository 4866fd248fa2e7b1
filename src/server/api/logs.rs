//! The signed membership logs themselves (`docs/PROTOCOL.md` 3.1, 9.21, 9.22): pages of ops for whoever verifies them, and
//! the ops that have no route of their own.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::crypto::verify::Change;
use crate::protocol::codec::Blob;
use crate::protocol::communities::{LogOps, LogSeq, PostLogOp};
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, LogId};
use crate::protocol::limits::LOG_OPS_PAGE_MAX;
use crate::server::app::AppState;
use crate::server::db::communities::Community;
use crate::server::db::{Conn, logs};
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Path, Query};
use crate::server::membership::{self, Place, Signed};

use super::channels::{find_channel, place_of};
use super::groups::{find_group, ruling_place};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_of_community, post_to_community))
        .routes(routes!(list_of_group, post_to_group))
        .routes(routes!(list_of_channel, post_to_channel))
}

/// `?after=SEQ&limit=`: ops above `after`; absent or −1 is from the genesis.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct After {
    after: Option<i64>,
    limit: Option<u32>,
}

/// Of an open community to everybody who is logged in, else to its members.
#[utoipa::path(get, path = "/communities/{id}/log-ops", responses((status = 200, body = LogOps)),
    params(("id" = String, Path), ("after" = Option<i64>, Query), ("limit" = Option<u32>, Query)))]
async fn list_of_community(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Query(after): Query<After>,
) -> ApiResult<Json<LogOps>> {
    let conn = &mut app.db().await?;
    let community = Community::find(conn, id, auth.user_id).await?;
    if !community.is_some_and(|community| community.open || community.my_role.is_some()) {
        return Err(ApiError::not_found());
    }
    page_of(conn, id.into(), &after).await.map(Json)
}

/// Of a private group; of an open one also to those who could join.
#[utoipa::path(get, path = "/groups/{id}/log-ops", responses((status = 200, body = LogOps)),
    params(("id" = String, Path), ("after" = Option<i64>, Query), ("limit" = Option<u32>, Query)))]
async fn list_of_group(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Query(after): Query<After>,
) -> ApiResult<Json<LogOps>> {
    let conn = &mut app.db().await?;
    let place = LogOf::Group(id).place(conn, &auth).await?;
    page_of(conn, place.log(), &after).await.map(Json)
}

/// Of a channel with a log of its own.
#[utoipa::path(get, path = "/channels/{id}/log-ops", responses((status = 200, body = LogOps)),
    params(("id" = String, Path), ("after" = Option<i64>, Query), ("limit" = Option<u32>, Query)))]
async fn list_of_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ChannelId>,
    Query(after): Query<After>,
) -> ApiResult<Json<LogOps>> {
    let conn = &mut app.db().await?;
    let place = LogOf::Channel(id).place(conn, &auth).await?;
    page_of(conn, place.log(), &after).await.map(Json)
}

/// `add`, `anchor`, and the policies 1 (open) and 5 (who may invite).
#[utoipa::path(post, path = "/communities/{id}/log-ops", request_body = PostLogOp, params(("id" = String, Path)),
    responses((status = 201, body = LogSeq), (status = 200, description = "posted before", body = LogSeq)))]
async fn post_to_community(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Json(body): Json<PostLogOp>,
) -> ApiResult<(StatusCode, Json<LogSeq>)> {
    let signed = Signed::read(&app, "op", &body.op, &auth)?.expect(WITHOUT_A_ROUTE, has_no_route)?;
    post(&app, &auth, LogOf::Community(id), &signed).await
}

#[utoipa::path(post, path = "/groups/{id}/log-ops", request_body = PostLogOp, params(("id" = String, Path)),
    responses((status = 201, body = LogSeq), (status = 200, description = "posted before", body = LogSeq)))]
async fn post_to_group(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<GroupId>,
    Json(body): Json<PostLogOp>,
) -> ApiResult<(StatusCode, Json<LogSeq>)> {
    let signed = Signed::read(&app, "op", &body.op, &auth)?.expect(WITHOUT_A_ROUTE, has_no_route)?;
    post(&app, &auth, LogOf::Group(id), &signed).await
}

/// Also `leave`, for which a private channel has no route.
#[utoipa::path(post, path = "/channels/{id}/log-ops", request_body = PostLogOp, params(("id" = String, Path)),
    responses((status = 201, body = LogSeq), (status = 200, description = "posted before", body = LogSeq)))]
async fn post_to_channel(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ChannelId>,
    Json(body): Json<PostLogOp>,
) -> ApiResult<(StatusCode, Json<LogSeq>)> {
    let signed = Signed::read(&app, "op", &body.op, &auth)?
        .expect("an add, leave, anchor, open or invite policy op", |op| has_no_route(op) || matches!(op, Change::Leave))?;
    post(&app, &auth, LogOf::Channel(id), &signed).await
}

const WITHOUT_A_ROUTE: &str = "an add, anchor, open or invite policy op; the others have routes of their own";

const fn has_no_route(op: &Change) -> bool {
    matches!(op, Change::Add { .. } | Change::Anchor { .. } | Change::Open(_) | Change::InviteRole(_))
}

async fn post(app: &AppState, auth: &Auth, log: LogOf, signed: &Signed<'_>) -> ApiResult<(StatusCode, Json<LogSeq>)> {
    let (status, written) = app
        .database
        .transaction(async |conn| {
            if signed.is_stored(conn, log.id()).await? {
                return Ok((StatusCode::OK, Written::default()));
            }
            let place = match logs::community_of_member(conn, log.id(), auth.user_id).await? {
                Some(community) if matches!(signed.change(), Change::Leave) => log.in_community(community),
                _ => log.place(conn, auth).await?,
            };
            let mut events = Events::default();
            membership::apply(conn, &mut events, place, signed, None).await?;
            Ok((StatusCode::CREATED, events.write(conn).await?))
        })
        .await?;
    written.announce(app);
    Ok((status, Json(LogSeq { seq: signed.seq() })))
}

/// A path of these routes, before it is known whether the caller sees what it names.
#[derive(Clone, Copy, Debug)]
enum LogOf {
    Community(CommunityId),
    Group(GroupId),
    Channel(ChannelId),
}

impl LogOf {
    fn id(self) -> LogId {
        match self {
            Self::Community(id) => id.into(),
            Self::Group(id) => id.into(),
            Self::Channel(id) => id.into(),
        }
    }

    const fn in_community(self, community: CommunityId) -> Place {
        match self {
            Self::Community(id) => Place::Community(id),
            Self::Group(id) => Place::Group(id, community),
            Self::Channel(id) => Place::Channel(id, community),
        }
    }

    /// # Errors
    /// 404 for whoever may not see it, and for a group or channel without a log of its own (protocol 9.21).
    async fn place(self, conn: &mut Conn, auth: &Auth) -> ApiResult<Place> {
        match self {
            Self::Community(id) => Ok(Place::Community(id)),
            Self::Group(id) => match ruling_place(&find_group(conn, id, auth).await?) {
                place @ Place::Group(..) => Ok(place),
                _ => Err(ApiError::not_found()),
            },
            Self::Channel(id) => match place_of(&find_channel(conn, id, auth).await?) {
                Some(place @ Place::Channel(..)) => Ok(place),
                _ => Err(ApiError::not_found()),
            },
        }
    }
}

/// A page of a log that the caller may see.
///
/// # Errors
/// 400 `validation` for the parameters.
pub async fn page_of(conn: &mut Conn, log: LogId, page: &After) -> ApiResult<LogOps> {
    let limit = match page.limit.unwrap_or(LOG_OPS_PAGE_MAX) {
        limit @ 1..=LOG_OPS_PAGE_MAX => i64::from(limit),
        _ => return Err(ApiError::validation("limit", format!("must be between 1 and {LOG_OPS_PAGE_MAX}"))),
    };
    let after = match page.after.unwrap_or(-1) {
        after if after >= -1 => after,
        _ => return Err(ApiError::validation("after", "must be a seq, or -1 for all")),
    };
    let head = logs::head_seq(conn, log).await?.ok_or_else(ApiError::not_found)?;
    let ops = logs::list_ops(conn, log, after, limit).await?;
    // Ops are gapless, so the last one's seq follows from their number.
    let last = after.saturating_add(i64::try_from(ops.len()).map_err(ApiError::internal)?);
    let next_after = (!ops.is_empty() && last < head).then_some(last);
    Ok(LogOps { items: ops.into_iter().map(Blob).collect(), head_seq: head.unsigned_abs(), next_after })
}
