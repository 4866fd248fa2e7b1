//! The WebSocket's upgrade (`docs/PROTOCOL.md` 4.3); what happens after it is in `realtime`.

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
