//! Prekeys and bundles (`docs/PROTOCOL.md` 2 and 9.30, 9.31).

use std::collections::BTreeMap;

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::crypto::verify::{self, DeviceCert, DhPublic, KemKind, VerifyKey};
use crate::protocol::codec::Blob;
use crate::protocol::ids::{DeviceAddr, DeviceId, UserId};
use crate::protocol::keys::{
    ByUser, FetchBundles, FetchManyBundles, KemPrekey, PrekeyCounts, SignedPrekey, UploadPrekeys, UserBundles,
};
use crate::protocol::limits::{KEM_PREKEYS_MAX, ONE_TIME_PREKEYS_MAX};
use crate::server::app::{App, AppState};
use crate::server::db::{Conn, devices, keys, users};
use crate::server::device_lists;
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Json, Path};

/// Users of one `POST /users/bundles`.
const USERS_MAX: usize = 100;
/// Devices named for one user; no list has more.
const DEVICE_IDS_MAX: usize = 64;
/// Below these a device is told to make more (`crypto.md` 20).
const ONE_TIME_LOW: u32 = 30;
const KEM_LOW: u32 = 15;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(upload)).routes(routes!(count)).routes(routes!(bundles)).routes(routes!(many_bundles))
}

/// Refills the caller's prekeys. Ids are never used again; what would be more than 100 and 50 is refused.
#[utoipa::path(post, path = "/keys/prekeys", request_body = UploadPrekeys, responses((status = 200, body = PrekeyCounts)))]
async fn upload(State(app): State<AppState>, auth: Auth, Json(request): Json<UploadPrekeys>) -> ApiResult<Json<PrekeyCounts>> {
    let device = auth.device()?;
    let counts = app
        .database
        .transaction(async |conn: &mut Conn| {
            devices::lock_user(conn, auth.user_id).await?;
            let (certificate, key) = devices::certificate(conn, device).await?.ok_or_else(ApiError::unauthenticated)?;
            let key = <&[u8; 32]>::try_from(key.as_slice()).map_err(ApiError::internal)?;
            let key = VerifyKey::import(key).map_err(ApiError::internal)?;
            check(&DeviceCert::verify(&certificate, &key).map_err(ApiError::internal)?, &request)?;
            if !keys::insert(conn, device, &request).await? {
                return Err(ApiError::validation("id", "a prekey of this type had this id before: ids are never used again"));
            }
            let counts = keys::counts(conn, device).await?;
            if counts.one_time as usize > ONE_TIME_PREKEYS_MAX || counts.kem as usize > KEM_PREKEYS_MAX {
                let most =
                    format!("the server keeps at most {ONE_TIME_PREKEYS_MAX} one-time and {KEM_PREKEYS_MAX} ML-KEM prekeys");
                return Err(ApiError::validation("one_time_prekeys", most));
            }
            Ok(counts)
        })
        .await?;
    Ok(Json(counts))
}

/// What the server still holds for the caller's device.
#[utoipa::path(get, path = "/keys/prekeys/count", responses((status = 200, body = PrekeyCounts)))]
async fn count(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<PrekeyCounts>> {
    let device = auth.device()?;
    Ok(Json(keys::counts(&mut *app.db().await?, device).await?))
}

/// One bundle for each device of somebody whom the caller may write to. One-time keys are used up by it.
#[utoipa::path(post, path = "/users/{id}/bundles", request_body = FetchBundles, responses((status = 200, body = UserBundles)))]
async fn bundles(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<UserId>,
    Json(request): Json<FetchBundles>,
) -> ApiResult<Json<UserBundles>> {
    let wanted = BTreeMap::from([(id, request.device_ids.unwrap_or_default())]);
    let mut items = take(&app, &auth, &wanted).await?;
    items.remove(&id).map(Json).ok_or_else(ApiError::not_found)
}

/// The same for many users; those whom the caller may not write to, or has asked too often for, are left out. An empty list asks for all devices.
#[utoipa::path(post, path = "/users/bundles", request_body = FetchManyBundles, responses((status = 200, body = ByUser<UserBundles>)))]
async fn many_bundles(
    State(app): State<AppState>,
    auth: Auth,
    Json(request): Json<FetchManyBundles>,
) -> ApiResult<Json<ByUser<UserBundles>>> {
    if request.devices.len() > USERS_MAX {
        return Err(ApiError::validation("devices", format!("at most {USERS_MAX} users")));
    }
    Ok(Json(ByUser { items: take(&app, &auth, &request.devices).await? }))
}

async fn take(app: &App, auth: &Auth, wanted: &BTreeMap<UserId, Vec<DeviceId>>) -> ApiResult<BTreeMap<UserId, UserBundles>> {
    let me = auth.device()?;
    if wanted.values().any(|ids| ids.len() > DEVICE_IDS_MAX) {
        return Err(ApiError::validation("device_ids", format!("at most {DEVICE_IDS_MAX} devices of a user")));
    }
    let asked: Vec<UserId> = wanted.keys().copied().collect();
    let reachable = users::reachable(&mut *app.db().await?, auth.user_id, &asked).await?;
    let is_wanted = |device: DeviceAddr| match wanted.get(&device.user_id).map(Vec::as_slice) {
        None | Some([]) => device != me,
        Some(ids) => ids.contains(&device.device_id),
    };
    let (items, low, exhausted) = app
        .database
        .transaction(async |conn: &mut Conn| {
            let (mut items, mut exhausted) = (BTreeMap::new(), None);
            // Only what is handed out counts, and one exhausted target does not spend the others'.
            for (user, device_list) in devices::newest_lists(conn, &reachable).await? {
                match app.limits.check_bundles(auth.user_id, user) {
                    Ok(()) => drop(items.insert(user, UserBundles { device_list: Blob(device_list), bundles: Vec::new() })),
                    Err(refused) => exhausted = Some(refused),
                }
            }
            let users: Vec<UserId> = items.keys().copied().collect();
            let mut asked = devices::of_users(conn, &users).await?;
            asked.retain(|device| is_wanted(*device));
            for (user, bundle) in keys::take_bundles(conn, &asked).await? {
                items.entry(user).and_modify(|of_user| of_user.bundles.push(bundle));
            }
            Ok((items, keys::low(conn, &asked, ONE_TIME_LOW, KEM_LOW).await?, exhausted))
        })
        .await?;
    if let (true, Some(refused)) = (items.is_empty(), exhausted) {
        return Err(refused);
    }
    for (device, one_time, kem) in low {
        app.keys_low(device, one_time, kem);
    }
    Ok(items)
}

/// Ids, lengths, kinds and signatures of an upload.
///
/// # Errors
/// 400 `validation`, 422 `bad_signature`.
pub fn check(cert: &DeviceCert, upload: &UploadPrekeys) -> ApiResult<()> {
    if upload.one_time_prekeys.len() > ONE_TIME_PREKEYS_MAX {
        return Err(ApiError::validation("one_time_prekeys", format!("at most {ONE_TIME_PREKEYS_MAX}")));
    }
    if upload.kem_prekeys.len() > KEM_PREKEYS_MAX {
        return Err(ApiError::validation("kem_prekeys", format!("at most {KEM_PREKEYS_MAX}")));
    }
    if let Some(key) = &upload.signed_prekey {
        check_signed(cert, key)?;
    }
    if let Some(key) = &upload.last_kem_prekey {
        check_kem(cert, "last_kem_prekey", key, KemKind::Last)?;
    }
    for key in &upload.kem_prekeys {
        check_kem(cert, "kem_prekeys", key, KemKind::Once)?;
    }
    for key in &upload.one_time_prekeys {
        check_id("one_time_prekeys", key.id)?;
        check_point("one_time_prekeys", DhPublic(array("one_time_prekeys", &key.public_key)?))?;
    }
    Ok(())
}

fn check_signed(cert: &DeviceCert, key: &SignedPrekey) -> ApiResult<()> {
    let field = "signed_prekey";
    check_id(field, key.id)?;
    check_created(field, key.created_ms)?;
    let (public, signature) = (DhPublic(array(field, &key.public_key)?), array(field, &key.signature)?);
    check_point(field, public)?;
    let key = verify::SignedPrekey { id: key.id, public, created: key.created_ms, signature };
    key.verify(cert.addr(), cert.signing_key()).map_err(|e| device_lists::refused(field, e))
}

fn check_kem(cert: &DeviceCert, field: &str, key: &KemPrekey, kind: KemKind) -> ApiResult<()> {
    check_id(field, key.id)?;
    check_created(field, key.created_ms)?;
    if key.kind != kind as u8 {
        return Err(ApiError::validation(field, format!("must be of kind {}", kind as u8)));
    }
    let (public, signature) = (Box::new(array(field, &key.public_key)?), array(field, &key.signature)?);
    let key = verify::KemPrekey { kind, id: key.id, public, created: key.created_ms, signature };
    key.verify(cert.addr(), cert.signing_key()).map_err(|e| device_lists::refused(field, e))
}

/// Whoever got a point of low order could not begin a session with it.
fn check_point(field: &str, public: DhPublic) -> ApiResult<()> {
    if public.is_contributory() { Ok(()) } else { Err(device_lists::refused(field, verify::Error::LowOrder)) }
}

fn check_id(field: &str, id: u32) -> ApiResult<()> {
    if id == 0 { Err(ApiError::validation(field, "ids begin with 1")) } else { Ok(()) }
}

/// The column is signed.
fn check_created(field: &str, created_ms: u64) -> ApiResult<()> {
    if i64::try_from(created_ms).is_err() { Err(ApiError::validation(field, "was made too far in the future")) } else { Ok(()) }
}

fn array<const N: usize>(field: &str, bytes: &Blob) -> ApiResult<[u8; N]> {
    bytes.to_array().ok_or_else(|| ApiError::validation(field, format!("a key or signature does not have {N} bytes")))
}
