//! Devices, their certificates and the signed device lists (`docs/PROTOCOL.md` 2 and 9.27 to 9.30).

use utoipa_axum::router::OpenApiRouter;

use crate::server::app::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
