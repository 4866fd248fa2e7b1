//! Direct message channels (`docs/PROTOCOL.md` 3 and 9.32).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
