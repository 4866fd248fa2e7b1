//! The WebSocket's upgrade (`docs/PROTOCOL.md` 4.3); what happens after it is in `realtime`.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, Request, State, WebSocketUpgrade};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::codec::Encoding;
use crate::protocol::limits::WS_FRAME_MAX;
use crate::server::app::AppState;
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::Client;
use crate::server::listen;
use crate::server::realtime::session;

/// An idle connection costs little: the buffers are small, and what waits is bounded by its queue.
const BUFFER: usize = 4 * 1024;
const WRITE_BUFFER_MAX: usize = 256 * 1024;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(connect))
}

/// Frames instead of requests. Offers `chat.v1.json` or `chat.v1.msgpack` as subprotocol; the first frame authenticates.
#[utoipa::path(get, path = "/ws", responses((status = 101)), security(()))]
async fn connect(State(app): State<AppState>, request: Request) -> ApiResult<Response> {
    let realtime = Arc::clone(app.realtime()?);
    let (mut parts, _) = request.into_parts();
    let client = Client::of(&parts, &app.config.trusted_proxies);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &app)
        .await
        .map_err(|_| ApiError::invalid_request("this path takes a WebSocket: send an upgrade request"))?;
    let upgrade = upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(WS_FRAME_MAX)
        .max_frame_size(WS_FRAME_MAX)
        .protocols(Encoding::ALL.map(Encoding::subprotocol));
    let chosen = upgrade.selected_protocol().and_then(|name| name.to_str().ok());
    let encoding = Encoding::ALL.into_iter().find(|encoding| chosen == Some(encoding.subprotocol()));
    let encoding =
        encoding.ok_or_else(|| ApiError::invalid_request("offer chat.v1.json or chat.v1.msgpack in Sec-WebSocket-Protocol"))?;
    let held = parts.extensions.get::<listen::Held>().cloned();
    let place = realtime.admit(client.address, app.config.limits.connections_per_address)?;
    let upgrade = upgrade.on_failed_upgrade(|cause: axum::Error| tracing::debug!(%cause, "a WebSocket upgrade failed"));
    Ok(upgrade.on_upgrade(move |socket| async move {
        session::run(socket, encoding, app, realtime).await;
        drop((place, held));
    }))
}
