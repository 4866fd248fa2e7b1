//! Registration, login, refresh, logout and recovery (`docs/PROTOCOL.md` 2).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
