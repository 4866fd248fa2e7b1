//! Sending and reading rows of a channel's log (`docs/PROTOCOL.md` 4). What a WebSocket sends goes the same way.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::channels::{MarkRead, Unread};
use crate::protocol::ids::{ChannelId, MessageId};
use crate::protocol::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::protocol::messages::{History, Row, RowKind, Send, Sent};
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::Conn;
use crate::server::db::messages::{self, Reader, Scope, Side};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Json, Path, Query};
use crate::server::realtime;

/// Rows aimed at the messages of one page; a page of one message has its first ones.
const RELATED_MAX: i64 = 1000;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(history, send))
        .routes(routes!(find))
        .routes(routes!(thread))
        .routes(routes!(pins))
        .routes(routes!(mark_read))
        .routes(routes!(unread))
}

/// Writes a row: 201, or 200 for one that is there already. Acknowledged only when it is on disk.
#[utoipa::path(post, path = "/channels/{id}/messages", request_body = Send,
    responses((status = 201, body = Sent), (status = 200, body = Sent)))]
async fn send(
    State(app): State<AppState>,
    auth: Auth,
    Path(channel): Path<ChannelId>,
    Json(send): Json<Send>,
) -> ApiResult<(StatusCode, Json<Sent>)> {
    if send.channel_id != channel {
        return Err(ApiError::validation("channel_id", "must be the channel of the path"));
    }
    let sent = app.realtime()?.send_and_wait(&app, send, &auth).await?;
    Ok((if sent.duplicate { StatusCode::OK } else { StatusCode::CREATED }, Json(sent)))
}

/// `?before=SEQ|after=SEQ&limit=`
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Window {
    /// The newest rows older than this one.
    before: Option<u64>,
    /// The oldest rows newer than this one.
    after: Option<u64>,
    /// 1..100, default 50.
    limit: Option<u32>,
}

impl Window {
    /// Without a cursor: the newest page.
    fn side(self) -> ApiResult<Side> {
        match (self.before, self.after) {
            (Some(_), Some(_)) => Err(ApiError::validation("after", "either before or after")),
            (None, Some(seq)) => Ok(Side::After(seq)),
            (before, None) => Ok(Side::Before(before.unwrap_or(u64::MAX))),
        }
    }

    fn limit(self) -> ApiResult<i64> {
        match self.limit.unwrap_or(PAGE_DEFAULT) {
            limit @ 1..=PAGE_MAX => Ok(i64::from(limit)),
            _ => Err(ApiError::validation("limit", format!("must be between 1 and {PAGE_MAX}"))),
        }
    }
}

/// A page of the log in seq order; on a `before` page also the later rows aimed at its messages.
#[utoipa::path(get, path = "/channels/{id}/messages", params(Window), responses((status = 200, body = History)))]
async fn history(
    State(app): State<AppState>,
    auth: Auth,
    Path(channel): Path<ChannelId>,
    Query(window): Query<Window>,
) -> ApiResult<Json<History>> {
    let (side, limit) = (window.side()?, window.limit()?);
    let mut conn = app.db().await?;
    read(&mut conn, &auth, channel, Scope::Log, side, limit).await.map(Json)
}

/// A page of a thread's replies; the root is a row of its own.
#[utoipa::path(get, path = "/channels/{id}/threads/{root_id}", params(Window), responses((status = 200, body = History)))]
async fn thread(
    State(app): State<AppState>,
    auth: Auth,
    Path((channel, root)): Path<(ChannelId, MessageId)>,
    Query(window): Query<Window>,
) -> ApiResult<Json<History>> {
    let (side, limit) = (window.side()?, window.limit()?);
    let mut conn = app.db().await?;
    read(&mut conn, &auth, channel, Scope::Thread(root), side, limit).await.map(Json)
}

async fn read(conn: &mut Conn, auth: &Auth, channel: ChannelId, scope: Scope, side: Side, limit: i64) -> ApiResult<History> {
    let reader = Reader { user_id: auth.user_id, device_id: auth.device_id };
    let head_seq = messages::readable_head(conn, channel, auth.user_id).await?.ok_or_else(ApiError::not_found)?;
    let messages::Rows { rows: mut items, cut: mut has_more } =
        messages::page(conn, channel, scope, side, head_seq, limit, reader).await?;
    let mut related = Vec::new();
    while let (Side::Before(_), Some(last)) = (side, items.last()) {
        let targets: Vec<MessageId> = items.iter().filter(|row| row.kind == RowKind::Message).map(|row| row.id).collect();
        let found = messages::related(conn, channel, &targets, last.seq, head_seq, RELATED_MAX, reader).await?;
        related = found.rows;
        if !found.cut || items.len() == 1 {
            break;
        }
        // Nothing that belongs to a message of the page may be missing: a shorter page has fewer.
        items.drain(..items.len() / 2);
        has_more = true;
    }
    Ok(History { items, related, has_more, head_seq })
}

#[utoipa::path(get, path = "/channels/{id}/messages/{message_id}", responses((status = 200, body = Row)))]
async fn find(
    State(app): State<AppState>,
    auth: Auth,
    Path((channel, id)): Path<(ChannelId, MessageId)>,
) -> ApiResult<Json<Row>> {
    let mut conn = app.db().await?;
    messages::readable_head(&mut conn, channel, auth.user_id).await?.ok_or_else(ApiError::not_found)?;
    let reader = Reader { user_id: auth.user_id, device_id: auth.device_id };
    messages::find(&mut conn, channel, id, reader).await?.map(Json).ok_or_else(ApiError::not_found)
}

/// Pinned messages, the newest pin first.
#[utoipa::path(get, path = "/channels/{id}/pins", responses((status = 200, body = Page<Row>)))]
async fn pins(State(app): State<AppState>, auth: Auth, Path(channel): Path<ChannelId>) -> ApiResult<Json<Page<Row>>> {
    let mut conn = app.db().await?;
    messages::readable_head(&mut conn, channel, auth.user_id).await?.ok_or_else(ApiError::not_found)?;
    let reader = Reader { user_id: auth.user_id, device_id: auth.device_id };
    Ok(Json(Page { items: messages::pins(&mut conn, channel, reader).await?, next_cursor: None }))
}

/// The user's own marker: it never goes back, and own devices see it on the user's stream.
#[utoipa::path(put, path = "/channels/{id}/read", request_body = MarkRead, responses((status = 204)))]
async fn mark_read(
    State(app): State<AppState>,
    auth: Auth,
    Path(channel): Path<ChannelId>,
    Json(marker): Json<MarkRead>,
) -> ApiResult<StatusCode> {
    realtime::mark_read(&app, channel, auth.user_id, marker.seq).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is not read, for every channel; counted among the newest 1,000 rows of each.
#[utoipa::path(get, path = "/channels/unread", responses((status = 200, body = Page<Unread>)))]
async fn unread(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<Page<Unread>>> {
    let items = messages::unread(&mut *app.db().await?, auth.user_id).await?;
    Ok(Json(Page { items, next_cursor: None }))
}
