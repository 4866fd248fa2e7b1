//! Direct messages: one channel for each pair of people, without a membership log (`docs/PROTOCOL.md` 3, 9.32).

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::channels::{Channel as WireChannel, ChannelKind, OpenDm};
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::ChannelId;
use crate::protocol::streams::Event;
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::channels::{self, Channel, NewChannel, Reader};
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Paging, Query};

use super::channels::{find_channel, reader, seen};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(list, open))
}

#[utoipa::path(get, path = "/dms", params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = Page<WireChannel>)))]
async fn list(State(app): State<AppState>, auth: Auth, Query(paging): Query<Paging>) -> ApiResult<Json<Page<WireChannel>>> {
    let conn = &mut app.db().await?;
    let found = Channel::list_dms(conn, reader(&auth), paging.after()?, paging.rows()?).await?;
    let items = channels::with_peers(conn, found).await?;
    paging.page(items, |channel| channel.id.0).map(Json)
}

/// The DM with somebody who shares a community with the caller or has the caller as a contact; with oneself for notes.
#[utoipa::path(post, path = "/dms", request_body = OpenDm,
    responses((status = 201, body = WireChannel), (status = 200, description = "it exists", body = WireChannel)))]
async fn open(State(app): State<AppState>, auth: Auth, Json(body): Json<OpenDm>) -> ApiResult<(StatusCode, Json<WireChannel>)> {
    let (me, peer) = (auth.user_id, body.user_id);
    let (low, high) = (me.min(peer), me.max(peer));
    let (status, channel, written) = app
        .database
        .transaction(async |conn| {
            let mut status = StatusCode::OK;
            let mut written = Written::default();
            let mut found = channels::find_dm(conn, low, high).await?;
            if found.is_none() {
                let acquaintance = channels::acquaintance(conn, me, peer).await?;
                if !acquaintance.known {
                    return Err(ApiError::not_found());
                }
                if acquaintance.blocked {
                    return Err(ApiError::new(ErrorCode::Blocked, "one of you has blocked the other"));
                }
                let id = ChannelId(uuid::Uuid::now_v7());
                let row = NewChannel {
                    id: id.0,
                    kind: channels::kind_column(ChannelKind::Dm),
                    community_id: None,
                    group_id: None,
                    log_id: None,
                    name: None,
                    topic: None,
                    position: 0,
                    dm_low: Some(low.0),
                    dm_high: Some(high.0),
                };
                if row.insert(conn).await? {
                    let mut events = Events::default();
                    for user in if low == high { vec![low] } else { vec![low, high] } {
                        let theirs = Channel::find(conn, id, Reader { user_id: user, device_id: None }).await?;
                        let theirs = theirs.ok_or_else(ApiError::not_found)?;
                        events.tell(user, Event::ChannelAdded { channel: seen(conn, theirs).await? });
                        events.access_changed(user);
                    }
                    written = events.write(conn).await?;
                    (status, found) = (StatusCode::CREATED, Some(id));
                } else {
                    // The other one was faster.
                    found = channels::find_dm(conn, low, high).await?;
                }
            }
            let id = found.ok_or_else(ApiError::not_found)?;
            let channel = find_channel(conn, id, &auth).await?;
            Ok((status, seen(conn, channel).await?, written))
        })
        .await?;
    written.announce(&app);
    Ok((status, Json(channel)))
}
