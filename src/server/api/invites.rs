//! Invitations (`docs/PROTOCOL.md` 3.1, 9.24): the server's half of a link. The secret half, by which a join is signed, never
//! reaches it.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::crypto::verify::Change;
use crate::protocol::communities::{Community as WireCommunity, Invite as WireInvite, InvitePreview, LogOps, SignedOp};
use crate::protocol::ids::{CommunityId, InviteId};
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::Conn;
use crate::server::db::communities::Community;
use crate::server::db::invites::Invite;
use crate::server::db::logs::Log;
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Paging, Path, Query};
use crate::server::membership::{self, Outcome, Place, Signed};
use crate::server::permission::{Action, Standing};

use super::communities::enter;
use super::logs::{After, page_of};

/// The last moment that RFC 3339 can write: the end of the year 9999.
const EXPIRES_MAX_MS: i64 = 253_402_300_799_999;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(delete))
        .routes(routes!(preview))
        .routes(routes!(log_ops))
        .routes(routes!(accept))
}

/// The invites of a community, for whoever may make them.
#[utoipa::path(get, path = "/communities/{id}/invites", responses((status = 200, body = Page<WireInvite>)),
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)))]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Query(paging): Query<Paging>,
) -> ApiResult<Json<Page<WireInvite>>> {
    let conn = &mut app.db().await?;
    let role = membership::see(conn, Place::Community(id), auth.user_id).await?;
    let Some(community) = Community::find(conn, id, auth.user_id).await? else { return Err(ApiError::not_found()) };
    let from = community.told().who_can_create_invites;
    membership::require(Standing::new(auth.role, Some(role)), Action::ListInvites { from })?;
    let found = Invite::list(conn, id.into(), paging.after()?, paging.rows()?).await?;
    paging.page(found.into_iter().map(WireInvite::from).collect(), |invite| invite.id.0).map(Json)
}

/// A code for the invite key that the op brings; uses and expiry are the op's.
#[utoipa::path(post, path = "/communities/{id}/invites", request_body = SignedOp, params(("id" = String, Path)),
    responses((status = 201, body = WireInvite), (status = 200, description = "made before by the same op", body = WireInvite)))]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommunityId>,
    Json(body): Json<SignedOp>,
) -> ApiResult<(StatusCode, Json<WireInvite>)> {
    let signed = Signed::read(&app, "log_op", &body.log_op, &auth)?
        .expect("the policy op that adds an invite key", |op| matches!(op, Change::AddInvite { .. }))?;
    let Change::AddInvite { key, max_uses, expires } = *signed.change() else { return Err(ApiError::not_found()) };
    let expires_at = match expires {
        0 => None,
        ms => Some(
            i64::try_from(ms)
                .ok()
                .filter(|ms| *ms <= EXPIRES_MAX_MS)
                .and_then(DateTime::from_timestamp_millis)
                .ok_or_else(|| ApiError::validation("log_op", "names an expiry that is too far away"))?,
        ),
    };
    let code = new_code()?;
    let (status, invite, written) = app
        .database
        .transaction(async |conn| {
            let mut events = Events::default();
            let outcome = membership::apply(conn, &mut events, Place::Community(id), &signed, None).await?;
            if outcome == Outcome::Repeated {
                let known = Invite::find_by_key(conn, id.into(), &key).await?.ok_or_else(ApiError::not_found)?;
                return Ok((StatusCode::OK, known, Written::default()));
            }
            let invite = Invite {
                id: Uuid::now_v7(),
                log_id: id.0,
                code: code.clone(),
                public_key: key.to_vec(),
                max_uses: (max_uses > 0).then_some(i64::from(max_uses)),
                used_count: 0,
                expires_at,
                created_by: auth.user_id.0,
                created_at: Utc::now(),
            };
            invite.insert(conn).await?;
            Ok((StatusCode::CREATED, invite, events.write(conn).await?))
        })
        .await?;
    written.announce(&app);
    Ok((status, Json(invite.into())))
}

#[utoipa::path(delete, path = "/communities/{id}/invites/{invite_id}", request_body = SignedOp, responses((status = 204)),
    params(("id" = String, Path), ("invite_id" = String, Path)))]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, invite_id)): Path<(CommunityId, InviteId)>,
    Json(body): Json<SignedOp>,
) -> ApiResult<StatusCode> {
    let signed = Signed::read(&app, "log_op", &body.log_op, &auth)?
        .expect("the policy op that deletes this invite key", |op| matches!(op, Change::DeleteInvite { .. }))?;
    let Change::DeleteInvite { key } = *signed.change() else { return Err(ApiError::not_found()) };
    let written = app
        .database
        .transaction(async |conn| {
            if signed.is_stored(conn, id.into()).await? {
                return Ok(Written::default());
            }
            membership::see(conn, Place::Community(id), auth.user_id).await?;
            let Some(invite) = Invite::find(conn, id.into(), invite_id).await? else { return Err(ApiError::not_found()) };
            if invite.public_key[..] != key[..] {
                return Err(ApiError::validation("log_op", "deletes another invite key"));
            }
            let mut events = Events::default();
            membership::apply(conn, &mut events, Place::Community(id), &signed, None).await?;
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(&app);
    Ok(StatusCode::NO_CONTENT)
}

/// What a link leads to. Needs a login, not a membership.
#[utoipa::path(get, path = "/invites/{code}", params(("code" = String, Path)), responses((status = 200, body = InvitePreview)))]
async fn preview(State(app): State<AppState>, auth: Auth, Path(code): Path<String>) -> ApiResult<Json<InvitePreview>> {
    let conn = &mut app.db().await?;
    let (invite, community) = find_usable(conn, &code, &auth).await?;
    Ok(Json(InvitePreview {
        community: community.preview(),
        log_head_seq: community.log_head_seq.unsigned_abs(),
        expires_at: invite.expires_at.map(Into::into),
    }))
}

/// The community's log, for the joiner to verify and to sign the next op.
#[utoipa::path(get, path = "/invites/{code}/log-ops", responses((status = 200, body = LogOps)),
    params(("code" = String, Path), ("after" = Option<i64>, Query), ("limit" = Option<u32>, Query)))]
async fn log_ops(
    State(app): State<AppState>,
    auth: Auth,
    Path(code): Path<String>,
    Query(after): Query<After>,
) -> ApiResult<Json<LogOps>> {
    let conn = &mut app.db().await?;
    let (invite, _) = find_usable(conn, &code, &auth).await?;
    page_of(conn, invite.log_id.into(), &after).await.map(Json)
}

/// Joins with the key of this invite.
#[utoipa::path(post, path = "/invites/{code}/accept", params(("code" = String, Path)), request_body = SignedOp,
    responses((status = 200, body = WireCommunity)))]
async fn accept(
    State(app): State<AppState>,
    auth: Auth,
    Path(code): Path<String>,
    Json(body): Json<SignedOp>,
) -> ApiResult<Json<WireCommunity>> {
    let signed =
        Signed::read(&app, "log_op", &body.log_op, &auth)?.expect("a join op", |op| matches!(op, Change::Join { .. }))?;
    let (community, written) = app
        .database
        .transaction(async |conn| {
            let Some(invite) = Invite::find_by_code(conn, &code).await? else { return Err(ApiError::not_found()) };
            let id = CommunityId(invite.log_id);
            // Under the lock, so that the count of uses is the one that this join meets.
            Log::lock(conn, id.into(), id).await?;
            if !signed.is_stored(conn, id.into()).await? {
                // Accepting without the secret half of the link works for open communities only.
                if let Change::Join { invite: Some(proof), .. } = signed.change()
                    && proof.key[..] != invite.public_key[..]
                {
                    return Err(ApiError::validation("log_op", "is signed with the key of another invite"));
                }
                find_usable(conn, &code, &auth).await?;
            }
            enter(conn, id, &auth, &signed).await
        })
        .await?;
    written.announce(&app);
    Ok(Json(community))
}

/// The invite behind a code and its community. Whoever holds a code may know why it does not work any more.
async fn find_usable(conn: &mut Conn, code: &str, auth: &Auth) -> ApiResult<(Invite, Community)> {
    let Some(invite) = Invite::find_by_code(conn, code).await? else { return Err(ApiError::not_found()) };
    let community = Community::find(conn, CommunityId(invite.log_id), auth.user_id).await?;
    let Some(community) = community else { return Err(ApiError::not_found()) };
    if community.my_role.is_some() {
        return Ok((invite, community));
    }
    if invite.expires_at.is_some_and(|at| at <= Utc::now()) {
        return Err(ApiError::forbidden("this invite has expired").with_details(json!({ "reason": "expired" })));
    }
    if invite.max_uses.is_some_and(|max| invite.used_count >= max) {
        return Err(ApiError::forbidden("this invite is used up").with_details(json!({ "reason": "exhausted" })));
    }
    Ok((invite, community))
}

/// 80 random bits, in letters and digits that nobody confuses.
fn new_code() -> ApiResult<String> {
    let mut bytes = [0; 10];
    getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}
