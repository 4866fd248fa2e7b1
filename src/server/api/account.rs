//! The caller's own account: profile, password, preferences, sessions, registration invites.

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
