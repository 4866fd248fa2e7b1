//! Prekeys and bundles (`docs/PROTOCOL.md` 2 and 9.30, 9.31).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
