//! Signed membership logs (`docs/PROTOCOL.md` 3.1 and 9.20 to 9.23).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
