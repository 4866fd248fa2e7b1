//! Devices, their certificates and the signed device lists (`docs/PROTOCOL.md` 2 and 9.27 to 9.30).
//!
//! A session becomes a device here, and only by a signature: a password alone never drains a device's inbox.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::crypto::verify::{self, DeviceCert, DeviceList, VerifyKey};
use crate::protocol::codec::Blob;
use crate::protocol::devices::{
    Device, DeviceSession, FetchManyDevices, ListHead, PublishList, RegisterDevice, RemoveDevice, TakeDevice, UserDevices,
};
use crate::protocol::ids::{DeviceAddr, DeviceId, UserId};
use crate::protocol::keys::{ByUser, UploadPrekeys};
use crate::protocol::limits::DEVICE_NAME_MAX;
use crate::protocol::users::Page;
use crate::server::api::auth::issue_tokens;
use crate::server::api::{account, keys};
use crate::server::app::AppState;
use crate::server::db::devices::Identity;
use crate::server::db::{self, Conn, devices, sessions};
use crate::server::device_lists::{self, Published};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, Client, Json, Path, Query};
use crate::server::text;

/// Users of one `POST /users/devices`.
const USERS_MAX: usize = 100;
/// Lists of one user in one answer (9.29), and of all users in it; clients ask on until they have the head.
const LISTS_MAX: i64 = 200;
const LISTS_OF_ALL: i64 = 1000;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(register, list))
        .routes(routes!(publish))
        .routes(routes!(remove))
        .routes(routes!(take))
        .routes(routes!(of_user))
        .routes(routes!(of_many))
}

/// The session becomes a new device: the first of an identity, a linked one, or the first after an identity reset.
#[utoipa::path(post, path = "/devices", request_body = RegisterDevice, responses((status = 201, body = DeviceSession)))]
async fn register(
    State(app): State<AppState>,
    auth: Auth,
    client: Client,
    Json(request): Json<RegisterDevice>,
) -> ApiResult<(StatusCode, Json<DeviceSession>)> {
    app.limits.check_announcement(auth.user_id)?;
    let name = text::line("name", &request.name, DEVICE_NAME_MAX)?;
    if request.device_id == 0 || request.device_id > i32::MAX as u32 {
        return Err(ApiError::validation("device_id", "must be between 1 and 2147483647"));
    }
    let mut confirmed = None;
    if request.reset {
        let password = request.password.as_ref();
        let password = password.ok_or_else(|| ApiError::validation("password", "an identity reset needs the password"))?;
        confirmed = Some(account::confirm(&app, &auth, &client, password).await?);
    }
    let identity_key = request.identity_key.as_ref().map(|key| {
        let key = key.to_array::<32>().ok_or_else(|| ApiError::validation("identity_key", "must have 32 bytes"))?;
        VerifyKey::import(&key).map_err(|e| device_lists::refused("identity_key", e))
    });
    let identity_key = identity_key.transpose()?;
    let list = request.device_list.as_ref().map(|list| device_lists::parse(auth.user_id, list)).transpose()?;
    let upload = UploadPrekeys {
        signed_prekey: Some(request.signed_prekey.clone()),
        last_kem_prekey: Some(request.last_kem_prekey.clone()),
        one_time_prekeys: request.one_time_prekeys.clone(),
        kem_prekeys: request.kem_prekeys.clone(),
    };
    let device = DeviceAddr::new(auth.user_id, request.device_id);
    let (tokens, published) = app
        .database
        .transaction(async |conn: &mut Conn| {
            if !devices::lock_user(conn, auth.user_id).await? {
                return Err(ApiError::unauthenticated());
            }
            if let Some(confirmed) = &confirmed {
                confirmed.hold(conn).await?;
            }
            // The same request may have been under way when this one was authenticated.
            let session = sessions::find_live(conn, auth.session_id).await?.ok_or_else(ApiError::unauthenticated)?;
            let auth = Auth { device_id: session.device_id, ..auth };
            let current = devices::current_identity(conn, auth.user_id).await?;
            let key = match (&identity_key, &current) {
                (Some(key), _) => *key,
                (None, Some(current)) => stored_key(current)?,
                (None, None) => return Err(ApiError::validation("identity_key", "the first device brings it")),
            };
            let cert = device_lists::parse_certificate(auth.user_id, &request.certificate, &key)?;
            if cert.addr().device_id != request.device_id {
                return Err(ApiError::validation("certificate", "is the certificate of another device"));
            }
            keys::check(&cert, &upload)?;
            if is_repeat(conn, &auth, device, &cert, current.as_ref()).await? {
                let tokens = issue_tokens(&app, conn, auth.user_id, auth.session_id, Some(device.device_id)).await?;
                return Ok((tokens, Published::default()));
            }
            let published = admit(conn, &auth, &request, current, identity_key.as_ref(), list.as_ref(), &cert).await?;
            devices::insert(conn, device, name, cert.hash()).await?;
            if !db::keys::insert(conn, device, &upload).await? {
                return Err(ApiError::validation("one_time_prekeys", "an id is there twice"));
            }
            sessions::bind_device(conn, auth.session_id, device.device_id).await?;
            let tokens = issue_tokens(&app, conn, auth.user_id, auth.session_id, Some(device.device_id)).await?;
            Ok((tokens, published))
        })
        .await?;
    tracing::info!(user.id = %auth.user_id, device.id = device.device_id, "device registered");
    tell(&app, &published);
    Ok((StatusCode::CREATED, Json(DeviceSession { device_id: device.device_id, tokens })))
}

/// The same request again, after its answer was lost.
async fn is_repeat(
    conn: &mut Conn,
    auth: &Auth,
    device: DeviceAddr,
    cert: &DeviceCert,
    current: Option<&Identity>,
) -> ApiResult<bool> {
    if current.is_some_and(|current| current.identity_key != cert.identity().as_bytes()) {
        return Ok(false);
    }
    match devices::cert_hash(conn, device).await? {
        Some(hash) if auth.device_id == Some(device.device_id) && hash == cert.hash() => Ok(true),
        Some(_) => {
            Err(ApiError::conflict("this device is registered: a session takes it over by POST /devices/{device_id}/session"))
        }
        None => Ok(false),
    }
}

/// Whether the device may enter, and its list.
async fn admit(
    conn: &mut Conn,
    auth: &Auth,
    request: &RegisterDevice,
    current: Option<Identity>,
    identity_key: Option<&VerifyKey>,
    list: Option<&DeviceList>,
    cert: &DeviceCert,
) -> ApiResult<Published> {
    if auth.device_id.is_some() && !request.reset {
        return Err(ApiError::conflict("this session is another device already: log in again for a new one"));
    }
    match (current, identity_key) {
        (Some(_), Some(_)) if !request.reset => Err(ApiError::conflict(
            "this account has an identity: link the device, or reset the identity with reset and password",
        )),
        // The first device, also after a reset.
        (current, Some(key)) => {
            let fingerprint = device_lists::fingerprint(key);
            if devices::find_identity(conn, auth.user_id, &fingerprint).await?.is_some() {
                return Err(ApiError::conflict("an identity key is used once: make a new one"));
            }
            let list = list.ok_or_else(|| ApiError::validation("device_list", "the first device brings it"))?;
            if list.seq() != 1 || list.entries().len() != 1 {
                return Err(ApiError::validation("device_list", "the first list has seq 1 and names this device only"));
            }
            let mut revoked = Vec::new();
            if current.is_some() {
                for id in devices::ids(conn, auth.user_id).await? {
                    revoked.extend(device_lists::remove(conn, DeviceAddr::new(auth.user_id, id), Some(auth.session_id)).await?);
                }
            }
            devices::insert_identity(conn, auth.user_id, &fingerprint, key.as_bytes()).await?;
            let identity = Identity { fingerprint: fingerprint.to_vec(), identity_key: key.as_bytes().to_vec(), head_seq: 0 };
            let mut published = device_lists::publish(conn, auth.user_id, &identity, list, std::slice::from_ref(cert)).await?;
            published.revoked.extend(revoked);
            Ok(published)
        }
        (Some(current), None) => match list {
            Some(list) => {
                if !list.names(cert) {
                    return Err(ApiError::validation("device_list", "does not name this device's certificate"));
                }
                let known = devices::certificates(conn, auth.user_id, &current.fingerprint).await?;
                let new: &[DeviceCert] =
                    if known.iter().any(|known| known == cert.as_bytes()) { &[] } else { std::slice::from_ref(cert) };
                device_lists::publish(conn, auth.user_id, &current, list, new).await
            }
            None => {
                let newest = devices::find_list(conn, auth.user_id, &current.fingerprint, current.head_seq).await?;
                let newest = newest.as_deref().map(DeviceList::parse).transpose().map_err(ApiError::internal)?;
                if newest.is_some_and(|list| list.claims().names(cert)) {
                    Ok(Published::default())
                } else {
                    Err(ApiError::validation(
                        "device_list",
                        "the newest list does not name this certificate: link the device first",
                    ))
                }
            }
        },
        (None, None) => Err(ApiError::validation("identity_key", "the first device brings it")),
    }
}

/// The caller's devices.
#[utoipa::path(get, path = "/devices", responses((status = 200, body = Page<Device>)))]
async fn list(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<Page<Device>>> {
    Ok(Json(Page::all(devices::list(&mut *app.db().await?, auth.user_id, auth.device_id).await?)))
}

/// The next signed list: links or removes devices. First wins.
#[utoipa::path(post, path = "/devices/lists", request_body = PublishList, responses((status = 201, body = ListHead)))]
async fn publish(
    State(app): State<AppState>,
    auth: Auth,
    Json(request): Json<PublishList>,
) -> ApiResult<(StatusCode, Json<ListHead>)> {
    app.limits.check_announcement(auth.user_id)?;
    let list = device_lists::parse(auth.user_id, &request.device_list)?;
    if request.certificates.len() > list.entries().len() {
        return Err(ApiError::validation("certificates", "more than the list has devices"));
    }
    let published =
        app.database.transaction(async |conn: &mut Conn| next_list(conn, &auth, &list, &request.certificates).await).await?;
    tell(&app, &published);
    Ok((StatusCode::CREATED, Json(ListHead { head_seq: published.head_seq })))
}

/// Removes a device: its prekeys and its inbox go, its logins end.
#[utoipa::path(delete, path = "/devices/{device_id}", request_body = RemoveDevice, responses((status = 204)))]
async fn remove(
    State(app): State<AppState>,
    auth: Auth,
    Path(device_id): Path<DeviceId>,
    Json(request): Json<RemoveDevice>,
) -> ApiResult<StatusCode> {
    app.limits.check_announcement(auth.user_id)?;
    let list = device_lists::parse(auth.user_id, &request.device_list)?;
    if list.entry(device_id).is_some() {
        return Err(ApiError::validation("device_list", format!("still names device {device_id}")));
    }
    let published = app
        .database
        .transaction(async |conn: &mut Conn| {
            if !devices::is_certified(conn, DeviceAddr::new(auth.user_id, device_id)).await? {
                return Err(ApiError::not_found());
            }
            next_list(conn, &auth, &list, &[]).await
        })
        .await?;
    tell(&app, &published);
    Ok(StatusCode::NO_CONTENT)
}

async fn next_list(conn: &mut Conn, auth: &Auth, list: &DeviceList, certificates: &[Blob]) -> ApiResult<Published> {
    if !devices::lock_user(conn, auth.user_id).await? {
        return Err(ApiError::unauthenticated());
    }
    let Some(identity) = devices::current_identity(conn, auth.user_id).await? else {
        return Err(ApiError::conflict("there is no device yet: register one").with_details(ListHead { head_seq: 0 }));
    };
    let key = stored_key(&identity)?;
    let parse = |certificate| device_lists::parse_certificate(auth.user_id, certificate, &key);
    let certificates: Vec<DeviceCert> = certificates.iter().map(parse).collect::<ApiResult<_>>()?;
    device_lists::publish(conn, auth.user_id, &identity, list, &certificates).await
}

/// The session becomes a device that exists, by that device's signature over the session.
#[utoipa::path(post, path = "/devices/{device_id}/session", request_body = TakeDevice, responses((status = 200, body = DeviceSession)))]
async fn take(
    State(app): State<AppState>,
    auth: Auth,
    Path(device_id): Path<DeviceId>,
    Json(request): Json<TakeDevice>,
) -> ApiResult<Json<DeviceSession>> {
    let signature = request.signature.to_array::<64>().ok_or_else(|| ApiError::validation("signature", "must have 64 bytes"))?;
    if auth.device_id.is_some_and(|own| own != device_id) {
        return Err(ApiError::conflict("this session is another device already: log in again"));
    }
    let device = DeviceAddr::new(auth.user_id, device_id);
    let tokens = app
        .database
        .transaction(async |conn: &mut Conn| {
            // A removal of the device that is under way ends first, with the logins that it revokes.
            if !devices::lock_user(conn, auth.user_id).await? || sessions::find_live(conn, auth.session_id).await?.is_none() {
                return Err(ApiError::unauthenticated());
            }
            let (certificate, key) = devices::certificate(conn, device).await?.ok_or_else(ApiError::not_found)?;
            let cert = DeviceCert::verify(&certificate, &import(&key)?).map_err(ApiError::internal)?;
            verify::check_login(&cert, auth.session_id.as_bytes(), &signature)
                .map_err(|e| device_lists::refused("signature", e))?;
            sessions::bind_device(conn, auth.session_id, device_id).await?;
            issue_tokens(&app, conn, auth.user_id, auth.session_id, Some(device_id)).await
        })
        .await?;
    Ok(Json(DeviceSession { device_id, tokens }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct After {
    after: u64,
    /// Lowercase hex of SHA-256 of an identity key.
    uik: Option<String>,
}

/// Signed lists and certificates of anybody whose id the caller knows, for ever.
#[utoipa::path(get, path = "/users/{id}/devices", params(("after" = Option<u64>, Query), ("uik" = Option<String>, Query)),
    responses((status = 200, body = UserDevices)))]
async fn of_user(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<UserId>,
    Query(query): Query<After>,
) -> ApiResult<Json<UserDevices>> {
    app.limits.check_device_lists(auth.user_id, 1)?;
    let mut conn = app.db().await?;
    if devices::known_users(&mut conn, &[id]).await?.is_empty() {
        return Err(ApiError::not_found());
    }
    let identity = match &query.uik {
        Some(uik) => {
            let fingerprint = hex::decode(uik).map_err(|_| ApiError::validation("uik", "must be lowercase hex"))?;
            Some(devices::find_identity(&mut conn, id, &fingerprint).await?.ok_or_else(ApiError::not_found)?)
        }
        None => devices::current_identity(&mut conn, id).await?,
    };
    lists_of(&mut conn, vec![(id, identity, query.after)]).await?.remove(&id).map(Json).ok_or_else(ApiError::not_found)
}

/// The same for many users; those without an account are left out.
#[utoipa::path(post, path = "/users/devices", request_body = FetchManyDevices, responses((status = 200, body = ByUser<UserDevices>)))]
async fn of_many(
    State(app): State<AppState>,
    auth: Auth,
    Json(request): Json<FetchManyDevices>,
) -> ApiResult<Json<ByUser<UserDevices>>> {
    if request.after.len() > USERS_MAX {
        return Err(ApiError::validation("after", format!("at most {USERS_MAX} users")));
    }
    app.limits.check_device_lists(auth.user_id, request.after.len())?;
    let mut conn = app.db().await?;
    let users: Vec<UserId> = request.after.keys().copied().collect();
    let known = devices::known_users(&mut conn, &users).await?;
    let mut identities: BTreeMap<UserId, Identity> = devices::current_identities(&mut conn, &known).await?.into_iter().collect();
    let wanted =
        known.into_iter().map(|user| (user, identities.remove(&user), request.after.get(&user).copied().unwrap_or_default()));
    Ok(Json(ByUser { items: lists_of(&mut conn, wanted.collect()).await? }))
}

/// The lists of identities after a seq, with the certificates that they name; a user without an identity has none.
async fn lists_of(conn: &mut Conn, wanted: Vec<(UserId, Option<Identity>, u64)>) -> ApiResult<BTreeMap<UserId, UserDevices>> {
    let wanted_of = wanted
        .iter()
        .filter_map(|(user, identity, after)| Some((*user, identity.as_ref()?, i64::try_from(*after).unwrap_or(i64::MAX))));
    let of: Vec<(UserId, &Identity, i64)> = wanted_of.collect();
    let fingerprints: BTreeMap<UserId, &[u8]> =
        of.iter().map(|(user, identity, _)| (*user, identity.fingerprint.as_slice())).collect();
    let mut answers: BTreeMap<UserId, UserDevices> = wanted
        .iter()
        .map(|(user, identity, _)| {
            (
                *user,
                UserDevices {
                    identity_key: identity.as_ref().map(|identity| Blob(identity.identity_key.clone())),
                    head_seq: identity.as_ref().map_or(0, |identity| identity.head_seq.unsigned_abs()),
                    lists: Vec::new(),
                    certificates: Vec::new(),
                },
            )
        })
        .collect();
    let mut named = BTreeSet::new();
    for (user, list) in devices::lists_after(conn, &of, LISTS_MAX.min(LISTS_OF_ALL / (of.len() as i64).max(1))).await? {
        let parsed = DeviceList::parse(&list).map_err(ApiError::internal)?;
        if let Some(fingerprint) = fingerprints.get(&user) {
            named.extend(parsed.claims().entries().iter().map(|entry| (user, *fingerprint, entry.cert_hash)));
        }
        answers.entry(user).and_modify(|answer| answer.lists.push(Blob(list)));
    }
    let named: Vec<_> = named.into_iter().collect();
    for (user, certificate) in devices::certificates_named(conn, &named).await? {
        answers.entry(user).and_modify(|answer| answer.certificates.push(Blob(certificate)));
    }
    Ok(answers)
}

fn stored_key(identity: &Identity) -> ApiResult<VerifyKey> {
    import(&identity.identity_key)
}

fn import(key: &[u8]) -> ApiResult<VerifyKey> {
    let key = <&[u8; 32]>::try_from(key).map_err(ApiError::internal)?;
    VerifyKey::import(key).map_err(ApiError::internal)
}

fn tell(app: &AppState, published: &Published) {
    app.notify(published.moved.iter().copied());
    app.sessions_revoked(&published.revoked);
}
