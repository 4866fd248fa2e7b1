//! Other people: profiles, search, contacts and blocks.

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
