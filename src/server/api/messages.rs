//! Sending and reading rows of a channel's log (`docs/PROTOCOL.md` 4).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
