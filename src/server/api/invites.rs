//! Invitations to communities (`docs/PROTOCOL.md` 3.1 and 9.24).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
