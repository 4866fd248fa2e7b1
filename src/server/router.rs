//! Every feature in reading order, and the layers around all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::Instrument as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::protocol::limits::BODY_MAX;
use crate::protocol::{BASE_PATH, error::ErrorCode};

use super::api;
use super::app::AppState;
use super::error::ApiError;
use super::extract::Client;
use super::openapi;

/// The whole REST interface with its description.
fn features() -> (Router<AppState>, OpenApi) {
    let v1 = OpenApiRouter::default()
        // who you are
        .merge(api::auth::routes())
        .merge(api::account::routes())
        .merge(api::devices::routes())
        .merge(api::keys::routes())
        .merge(api::users::routes())
        .merge(api::admin::routes())
        // where you talk
        .merge(api::communities::routes())
        .merge(api::members::routes())
        .merge(api::groups::routes())
        .merge(api::channels::routes())
        .merge(api::dms::routes())
        .merge(api::invites::routes())
        .merge(api::logs::routes())
        // what you say
        .merge(api::messages::routes())
        .merge(api::sync::routes())
        .merge(api::ws::routes());
    // who keeps it running
    let (router, document) = OpenApiRouter::default().merge(api::health::routes()).nest(BASE_PATH, v1).split_for_parts();
    (router, openapi::complete(document))
}

/// The router that the server serves and the tests call.
pub fn router(app: AppState) -> Router {
    let (features, openapi) = features();
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(Arc::new(Refusals::default()), access_log))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            ApiError::internal("a handler panicked").into_response()
        }))
        .layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(Arc::clone(&app), address_limit));
    features
        .merge(api::health::openapi(openapi))
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || method_not_allowed())
        .layer(from_fn_with_state(Arc::clone(&app), deadline))
        .layer(layers)
        .with_state(app)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn method_not_allowed() -> Response {
    let mut response = ApiError::new(ErrorCode::InvalidRequest, "this path does not take this method").into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// A database that does not answer must not keep callers waiting: whether a change was made is then not known.
async fn deadline(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let reads = request.method().is_safe();
    match tokio::time::timeout(app.deadlines.request, next.run(request)).await {
        Ok(response) => response,
        Err(_) if reads => ApiError::unavailable().into_response(),
        Err(_) => ApiError::outcome_unknown().into_response(),
    }
}

async fn address_limit(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let client = Client::of(&parts, &app.config.trusted_proxies);
    match app.limits.check_address(client.address) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.into_response(),
    }
}

/// One line for each request: the matched path, never the real one with its ids and codes, and no query. The request's id is
/// ours (one from outside could carry anything into the log), on every line that the request causes, and in its answer. Of those
/// over a rate there is a line a second, or a flood would fill the disk with what it was refused.
async fn access_log(State(refusals): State<Arc<Refusals>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = uuid::Uuid::now_v7();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request.id = %id);
    let mut response = next.run(request).instrument(span).await;
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
        if let Some(refused) = refusals.count(started) {
            tracing::info!(request.id = %id, http.method = %method, http.route = %route, http.status = status, refused, "requests over a rate");
        }
    } else if status >= 500 {
        tracing::warn!(request.id = %id, http.method = %method, http.route = %route, http.status = status, ms, "request");
    } else {
        tracing::info!(request.id = %id, http.method = %method, http.route = %route, http.status = status, ms, "request");
    }
    response
}

/// Requests that were over a rate and are not told of yet.
#[derive(Default)]
struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    /// Counts one; how many there were, once a second.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, untold) = &mut *state;
        *untold += 1;
        if told.is_some_and(|told| now.saturating_duration_since(told) < Duration::from_secs(1)) {
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refused_requests_is_one_line_a_second_that_counts_them() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let after = |ms| refusals.count(start + Duration::from_millis(ms));
        assert_eq!(after(0), Some(1));
        assert!((1..1000).all(|ms| after(ms).is_none()));
        assert_eq!(after(1000), Some(1000));
        assert_eq!(after(5000), Some(1));
    }
}
