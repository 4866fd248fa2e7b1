//! Catching up without a WebSocket: `POST /sync` and the device inbox (`docs/PROTOCOL.md` 4.4 and 9.13, 9.14).

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::devices::{SendDevices, SentDevices};
use crate::protocol::ids::{DeviceAddr, StreamId};
use crate::protocol::limits::{SYNC_PAGE_DEFAULT, SYNC_PAGE_MAX};
use crate::protocol::messages::{SyncAnswer, SyncRequest};
use crate::protocol::streams::{StreamEvent, StreamItem};
use crate::server::app::AppState;
use crate::server::db::{delivery, inbox, messages};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Json};

/// Streams that one request names.
const CURSORS_MAX: usize = 10_000;
/// Frames of the inbox in one answer.
const INBOX_PAGE: i64 = 100;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(sync)).routes(routes!(send_devices))
}

/// Missing events of the named streams, heads of all, and the oldest frames of the inbox. Acknowledges first.
#[utoipa::path(post, path = "/sync", request_body = SyncRequest, responses((status = 200, body = SyncAnswer)))]
async fn sync(State(app): State<AppState>, auth: Auth, Json(request): Json<SyncRequest>) -> ApiResult<Json<SyncAnswer>> {
    let limit = match request.limit.unwrap_or(SYNC_PAGE_DEFAULT) {
        limit @ 1..=SYNC_PAGE_MAX => limit as usize,
        _ => return Err(ApiError::validation("limit", format!("must be between 1 and {SYNC_PAGE_MAX}"))),
    };
    if request.cursors.len() > CURSORS_MAX {
        return Err(ApiError::validation("cursors", format!("at most {CURSORS_MAX}")));
    }
    let device = auth.device_id.map(|device| DeviceAddr::new(auth.user_id, device));
    let mut conn = app.db().await?;
    if let Some(up_to) = request.ack_inbox {
        inbox::acknowledge(&mut conn, auth.device()?, up_to).await?;
    }
    let access = delivery::access(&mut conn, auth.user_id).await?;
    let heads: HashMap<StreamId, u64> = access.streams.iter().map(|(stream, _, head)| (*stream, *head)).collect();
    let is_channel: HashMap<StreamId, bool> = {
        let behind: Vec<StreamId> = request
            .cursors
            .iter()
            .filter(|(id, after)| heads.get(id).is_some_and(|head| head > after))
            .map(|(id, _)| *id)
            .collect();
        let located = delivery::locate(&mut conn, &behind).await?;
        located.into_iter().map(|at| (at.stream, at.kind != delivery::StreamKind::Events)).collect()
    };
    let gone = request.cursors.keys().filter(|id| !heads.contains_key(id)).copied().collect();
    let of = |channel: bool| -> Vec<(StreamId, u64)> {
        request.cursors.iter().filter(|(id, _)| is_channel.get(id) == Some(&channel)).map(|(id, after)| (*id, *after)).collect()
    };
    let reset = delivery::outlived(&mut conn, &of(false)).await?;
    let behind: Vec<_> = of(false).into_iter().filter(|(id, _)| !reset.contains(id)).collect();

    let mut events = delivery::events_after(&mut conn, &behind, limit as i64).await?;
    if events.len() < limit {
        let rows = delivery::rows_after(&mut conn, &of(true), (limit - events.len()) as i64, device).await?.rows;
        events.extend(rows.into_iter().map(|row| StreamEvent {
            stream: row.channel_id.into(),
            seq: row.seq,
            event: StreamItem::Row(Box::new(row)),
        }));
    }
    // What came after the heads were read came after the right to read it was checked.
    events.retain(|event| heads.get(&event.stream).is_some_and(|head| event.seq <= *head));
    let given: HashMap<StreamId, u64> = events.iter().map(|event| (event.stream, event.seq)).collect();
    let asked = behind.iter().copied().chain(of(true));
    let mut more = asked.into_iter().any(|(stream, after)| given.get(&stream).unwrap_or(&after) < &heads[&stream]);
    let mut inbox = match device {
        Some(device) => inbox::page(&mut conn, device, 0, INBOX_PAGE + 1).await?.frames,
        None => Vec::new(),
    };
    let mut bytes = 0;
    let fits = inbox.iter().take(INBOX_PAGE as usize).take_while(|message| {
        let first = bytes == 0;
        bytes += message.ciphertext.len() as i64;
        first || bytes <= messages::ANSWER_MAX
    });
    let fits = fits.count();
    more |= fits < inbox.len();
    inbox.truncate(fits);
    Ok(Json(SyncAnswer {
        epoch: app.epoch(),
        streams: heads.into_iter().collect::<BTreeMap<_, _>>(),
        events,
        gone,
        reset,
        more,
        inbox,
    }))
}

/// Device-to-device frames; the same as the frame `send_devices`, but up to 1 MiB.
#[utoipa::path(post, path = "/devices/messages", request_body = SendDevices, responses((status = 200, body = SentDevices)))]
async fn send_devices(State(app): State<AppState>, auth: Auth, Json(batch): Json<SendDevices>) -> ApiResult<Json<SentDevices>> {
    app.realtime()?.send_devices(&app, batch, &auth).await.map(Json)
}
