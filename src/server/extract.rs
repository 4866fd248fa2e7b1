//! What handlers take out of a request, each failure already in the error body of the protocol.

use std::any::TypeId;
use std::net::{IpAddr, SocketAddr};

use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{DeviceAddr, DeviceId, SessionId, UserId};
use crate::protocol::limits::{BODY_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::protocol::users::{InstanceRole, Page};

use super::app::AppState;
use super::db::sessions;
use super::error::{ApiError, ApiResult};

/// Who is asking: the session of the access token, looked up live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth {
    pub user_id: UserId,
    pub session_id: SessionId,
    pub device_id: Option<DeviceId>,
    pub role: InstanceRole,
}

impl Auth {
    /// The device of the session.
    ///
    /// # Errors
    /// 403 `forbidden` for a session without one (protocol 9.27).
    pub fn device(&self) -> ApiResult<DeviceAddr> {
        match self.device_id {
            Some(device_id) => Ok(DeviceAddr::new(self.user_id, device_id)),
            None => Err(ApiError::forbidden("this session has no device: register one or take one over first")),
        }
    }

    /// # Errors
    /// 404: who is no admin does not learn what is there.
    pub fn instance_admin(&self) -> ApiResult<()> {
        match self.role {
            InstanceRole::Owner | InstanceRole::Admin => Ok(()),
            InstanceRole::User => Err(ApiError::not_found()),
        }
    }
}

/// Checks an access token and looks its session up. The WebSocket calls it too.
///
/// # Errors
/// 401 `unauthenticated` or `token_expired`, 403 `suspended`, 503.
pub async fn authenticate(app: &AppState, token: &str) -> ApiResult<Auth> {
    let claims = app.tokens.verify(token)?;
    let mut conn = app.db().await?;
    let Some(session) = sessions::find_live(&mut conn, claims.sid).await? else {
        return Err(ApiError::unauthenticated());
    };
    if session.user_id != claims.sub {
        return Err(ApiError::unauthenticated());
    }
    if session.suspended {
        return Err(ApiError::suspended());
    }
    // Written at most once a minute, so that reading stays cheap.
    if Utc::now() - session.last_used_at > TimeDelta::minutes(1) {
        sessions::touch(&mut conn, &session).await?;
    }
    Ok(Auth { user_id: session.user_id, session_id: claims.sid, device_id: session.device_id, role: session.role })
}

impl FromRequestParts<AppState> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let token = bearer(parts).ok_or_else(ApiError::unauthenticated)?;
        let auth = authenticate(app, token).await?;
        app.limits.check_account(auth.user_id)?;
        Ok(auth)
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A JSON body of the protocol, at most 1 MiB; as an answer, plain JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest<AppState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::new(ErrorCode::UnsupportedMedia, "the body must be application/json"));
        }
        parse(&body(request, app).await?).map(Self)
    }
}

/// For routes whose body may be left out.
impl<T: DeserializeOwned + 'static> OptionalFromRequest<AppState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Option<Self>> {
        let bytes = body(request, app).await?;
        if bytes.is_empty() { Ok(None) } else { parse(&bytes).map(Self).map(Some) }
    }
}

/// The whole body, within the time for it.
async fn body(request: Request, app: &AppState) -> ApiResult<Bytes> {
    // What will be too much is refused before it is sent.
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_MAX as u64) {
        return Err(ApiError::too_large(BODY_MAX));
    }
    match tokio::time::timeout(app.deadlines.body, Bytes::from_request(request, app)).await {
        Ok(bytes) => bytes.map_err(body_rejection),
        Err(_) => Err(ApiError::invalid_request("the body did not arrive in time")),
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn body_rejection(rejection: BytesRejection) -> ApiError {
    match rejection.into_response().status().as_u16() {
        413 => ApiError::too_large(BODY_MAX),
        _ => ApiError::invalid_request("the body broke off"),
    }
}

/// A value of the protocol from a JSON body.
///
/// # Errors
/// 400 `unknown_field` with the field in the details, or `invalid_request` with the path of what is wrong.
pub fn parse<T: DeserializeOwned + 'static>(bytes: &[u8]) -> ApiResult<T> {
    // Serde takes an array for a struct too, by the order of its fields; only what is opaque may be one.
    if bytes.trim_ascii_start().first() == Some(&b'[') && TypeId::of::<T>() != TypeId::of::<serde_json::Value>() {
        return Err(ApiError::invalid_request("the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".").unwrap_or_else(|| "the body".to_owned());
        let inner = error.inner();
        // Of a word where a name was expected serde says that it is no JSON.
        if inner.is_data() || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
            ApiError::malformed(&inner.to_string(), &path)
        } else {
            ApiError::invalid_request(format!("not JSON (line {} column {})", inner.line(), inner.column()))
        }
    })?;
    deserializer.end().map_err(|_| ApiError::invalid_request("there is more after the JSON value"))?;
    Ok(value)
}

/// Path parameters; what is not an id does not exist.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError::not_found()),
        }
    }
}

/// Query parameters.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError::invalid_request("a query parameter is unknown or has a wrong value")),
        }
    }
}

/// `?limit=&cursor=` of list routes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paging {
    limit: Option<u32>,
    pub cursor: Option<String>,
}

impl Paging {
    /// Rows of a page.
    ///
    /// # Errors
    /// 400 `validation` outside 1..100.
    pub fn limit(&self) -> ApiResult<i64> {
        match self.limit.unwrap_or(PAGE_DEFAULT) {
            limit @ 1..=PAGE_MAX => Ok(i64::from(limit)),
            _ => Err(ApiError::validation("limit", format!("must be between 1 and {PAGE_MAX}"))),
        }
    }

    /// One row more than the page holds, so that [`page`](Self::page) knows whether there is another one.
    ///
    /// # Errors
    /// As [`limit`](Self::limit).
    pub fn rows(&self) -> ApiResult<i64> {
        Ok(self.limit()? + 1)
    }

    /// The cursor of lists that are in the order of ids.
    ///
    /// # Errors
    /// 400 `validation` for what no page answered.
    pub fn after(&self) -> ApiResult<Option<Uuid>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        cursor.parse().map(Some).map_err(|_| ApiError::validation("cursor", "must be the next_cursor of a page"))
    }

    /// A page out of [`rows`](Self::rows) rows.
    ///
    /// # Errors
    /// As [`limit`](Self::limit).
    pub fn page<T>(&self, mut items: Vec<T>, id: impl FnOnce(&T) -> Uuid) -> ApiResult<Page<T>> {
        let limit = usize::try_from(self.limit()?).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = if more { items.last().map(id).map(|id| id.to_string()) } else { None };
        Ok(Page { items, next_cursor })
    }
}

/// Where a request comes from: the peer, or what a trusted proxy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    pub user_agent: Option<String>,
}

impl Client {
    pub fn of(parts: &Parts, trusted: &[IpAddr]) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical());
        // Without a socket (the router called directly) everybody is one address.
        let peer = peer.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let user_agent = user_agent.map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect());
        Self { address: client_address(peer, parts, trusted), user_agent }
    }
}

/// The rightmost address that no trusted proxy added for another trusted proxy.
fn client_address(peer: IpAddr, parts: &Parts, trusted: &[IpAddr]) -> IpAddr {
    let mut address = peer;
    let hops = parts.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev() {
        if !trusted.contains(&address) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(next) => address = next.to_canonical(),
            Err(_) => break,
        }
    }
    address
}

impl FromRequestParts<AppState> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        Ok(Self::of(parts, &app.config.trusted_proxies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::protocol::auth::Login;

    #[test]
    fn a_refused_body_names_the_place_and_repeats_no_value() {
        let error = parse::<Login>(br#"{"username":"ann","password":"x","admin":true}"#).unwrap_err();
        assert_eq!((error.code, error.details), (ErrorCode::UnknownField, Some(json!({ "field": "admin" }))));
        let error = parse::<Login>(br#"{"username":["hunter2"],"password":"x"}"#).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        assert!(
            error.message.starts_with("username has a wrong type") && !error.message.contains("hunter2"),
            "{}",
            error.message
        );
        assert_eq!(parse::<Login>(br#"{"username":"ann"}"#).unwrap_err().message, "the field \"password\" is missing");
        let by_order = parse::<Login>(br#" ["ann","x",null]"#).unwrap_err();
        assert_eq!((by_order.code, &*by_order.message), (ErrorCode::InvalidRequest, "the body must be a JSON object"));
        assert!(parse::<serde_json::Value>(b"[1]").is_ok());
        let kind = parse::<crate::protocol::messages::Send>(
            br#"{"id":"0197f000-0000-7000-8000-000000000000","channel_id":"0197f000-0000-7000-8000-000000000000","kind":7}"#,
        );
        assert!(kind.unwrap_err().message.starts_with("kind has a wrong type"));
        let keys = |key: &str| {
            let request = format!(r#"{{"one_time_prekeys":[{{"id":1,"public_key":"AA=="}},{key}]}}"#);
            parse::<crate::protocol::keys::UploadPrekeys>(request.as_bytes()).map_err(|error| error.message)
        };
        assert!(keys(r#"{"id":2,"public_key":"AA=="}"#).is_ok());
        assert_eq!(keys(r#"[2,"AA=="]"#).unwrap_err(), "one_time_prekeys[1] has a wrong type or value");
        let whole = parse::<Login>(b"7").unwrap_err().message;
        assert!(whole.starts_with("the body has a wrong type"), "{whole}");
        assert_eq!(parse::<Login>(b"{").unwrap_err().code, ErrorCode::InvalidRequest);
        assert_eq!(parse::<Login>(br#"{"username":"a","password":"b"} x"#).unwrap_err().code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let address = |peer: &str, forwarded: &str, trusted: &[&str]| {
            let request = Request::builder().header("x-forwarded-for", forwarded).body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            parts.extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
            let trusted: Vec<IpAddr> = trusted.iter().map(|text| text.parse().unwrap()).collect();
            Client::of(&parts, &trusted).address.to_string()
        };
        assert_eq!(address("9.9.9.9", "1.1.1.1", &[]), "9.9.9.9");
        assert_eq!(address("10.0.0.1", "1.1.1.1, 2.2.2.2", &["10.0.0.1"]), "2.2.2.2");
        assert_eq!(address("10.0.0.1", "1.1.1.1, 10.0.0.2", &["10.0.0.1", "10.0.0.2"]), "1.1.1.1");
        assert_eq!(address("10.0.0.1", "garbage", &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(address("::ffff:9.9.9.9", "1.1.1.1", &[]), "9.9.9.9");
    }
}
