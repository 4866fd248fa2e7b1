//! `/health`, `/ready`, `/version` and the description of the interface: what operators and programs ask first.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::protocol::{BASE_PATH, PROTOCOL_VERSION};
use crate::server::app::AppState;
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::Json;

/// Whoever asks whether the server is ready gives up soon himself.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(health)).routes(routes!(ready)).routes(routes!(version))
}

/// `GET /api/v1/openapi.json`; it is not part of what it describes.
pub fn openapi(document: OpenApi) -> axum::Router<AppState> {
    // The text is a small part of what its tree takes.
    let text = serde_json::to_vec(&document).inspect_err(|cause| tracing::error!(%cause, "the interface cannot be described"));
    let text = bytes::Bytes::from(text.unwrap_or_default());
    let answer = move || std::future::ready(([(CONTENT_TYPE, "application/json")], text.clone()));
    axum::Router::new().route(&format!("{BASE_PATH}/openapi.json"), get(answer))
}

/// The process runs.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Health)), security(()))]
async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// The server takes requests: the database answers and no drain has begun.
#[utoipa::path(get, path = "/ready", responses((status = 200, body = Health)), security(()))]
async fn ready(State(app): State<AppState>) -> ApiResult<Json<Health>> {
    if app.is_draining() {
        return Err(ApiError::unavailable());
    }
    match tokio::time::timeout(PING_TIMEOUT, app.database.ping()).await {
        Ok(answered) => answered?,
        Err(_) => return Err(ApiError::unavailable()),
    }
    Ok(Json(Health { status: "ready" }))
}

/// With a body and status 200, which is what load balancers and their like look for.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// `GET /version`
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Version {
    name: &'static str,
    version: &'static str,
    protocol: u32,
}

#[utoipa::path(get, path = "/version", responses((status = 200, body = Version)), security(()))]
async fn version() -> Json<Version> {
    Json(Version { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION"), protocol: PROTOCOL_VERSION })
}
