//! Catching up without a WebSocket: `POST /sync` and the device inbox (`docs/PROTOCOL.md` 4.4 and 9.14).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
