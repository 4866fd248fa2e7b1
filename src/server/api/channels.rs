//! Channels as places: creation, settings, members (`docs/PROTOCOL.md` 3).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
