//! Identities, certificates, signed device lists (kept and served for ever) and the devices that registered prekeys.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::codec::Blob;
use crate::protocol::devices::{Device, UserDevices};
use crate::protocol::ids::{DeviceAddr, DeviceId, UserId};

use super::schema::{certificates, device_lists, devices, identities, users};
use super::{Conn, QueryResult};

/// Lists of one answer.
const LISTS_PAGE: i64 = 200;

/// An identity of a user: the key that signs their certificates and lists.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = identities, check_for_backend(diesel::pg::Pg))]
pub struct Identity {
    /// SHA-256 of the key.
    pub fingerprint: Vec<u8>,
    pub identity_key: Vec<u8>,
    pub head_seq: i64,
}

/// Nobody else changes the devices of this user until the transaction ends. `false` when there is no such account.
///
/// # Errors
/// Of the database.
pub async fn lock_user(conn: &mut Conn, user: UserId) -> QueryResult<bool> {
    let row = users::table.find(user.0).filter(users::deleted_at.is_null()).select(users::id).for_no_key_update();
    Ok(row.first::<Uuid>(conn).await.optional()?.is_some())
}

/// # Errors
/// Of the database.
pub async fn current_identity(conn: &mut Conn, user: UserId) -> QueryResult<Option<Identity>> {
    let current = identities::table.filter(identities::user_id.eq(user.0)).filter(identities::current);
    current.select(Identity::as_select()).first(conn).await.optional()
}

/// # Errors
/// Of the database.
pub async fn find_identity(conn: &mut Conn, user: UserId, fingerprint: &[u8]) -> QueryResult<Option<Identity>> {
    identities::table.find((user.0, fingerprint)).select(Identity::as_select()).first(conn).await.optional()
}

/// A first identity, or one that takes the place of the current one. Its fingerprint must be new.
///
/// # Errors
/// Of the database.
pub async fn insert_identity(conn: &mut Conn, user: UserId, fingerprint: &[u8], key: &[u8]) -> QueryResult<()> {
    diesel::update(identities::table.filter(identities::user_id.eq(user.0)).filter(identities::current))
        .set(identities::current.eq(false))
        .execute(conn)
        .await?;
    diesel::insert_into(identities::table)
        .values((identities::user_id.eq(user.0), identities::fingerprint.eq(fingerprint), identities::identity_key.eq(key)))
        .execute(conn)
        .await
        .map(drop)
}

/// The list of a seq.
///
/// # Errors
/// Of the database.
pub async fn find_list(conn: &mut Conn, user: UserId, fingerprint: &[u8], seq: i64) -> QueryResult<Option<Vec<u8>>> {
    device_lists::table.find((user.0, fingerprint, seq)).select(device_lists::list).first(conn).await.optional()
}

/// The newest list becomes this one.
///
/// # Errors
/// Of the database; a unique violation when the seq is taken.
pub async fn insert_list(
    conn: &mut Conn,
    user: UserId,
    fingerprint: &[u8],
    seq: i64,
    list: &[u8],
    hash: &[u8],
) -> QueryResult<()> {
    diesel::insert_into(device_lists::table)
        .values((
            device_lists::user_id.eq(user.0),
            device_lists::fingerprint.eq(fingerprint),
            device_lists::seq.eq(seq),
            device_lists::list.eq(list),
            device_lists::list_hash.eq(hash),
        ))
        .execute(conn)
        .await?;
    diesel::update(identities::table.find((user.0, fingerprint))).set(identities::head_seq.eq(seq)).execute(conn).await.map(drop)
}

/// All certificates of an identity, in the order of their device ids.
///
/// # Errors
/// Of the database.
pub async fn certificates(conn: &mut Conn, user: UserId, fingerprint: &[u8]) -> QueryResult<Vec<Vec<u8>>> {
    let all = certificates::table.filter(certificates::user_id.eq(user.0)).filter(certificates::fingerprint.eq(fingerprint));
    all.order(certificates::device_id).select(certificates::certificate).load(conn).await
}

/// Stores a certificate; one that is there stays.
///
/// # Errors
/// Of the database.
pub async fn insert_certificate(
    conn: &mut Conn,
    device: DeviceAddr,
    fingerprint: &[u8],
    hash: &[u8],
    certificate: &[u8],
) -> QueryResult<()> {
    diesel::insert_into(certificates::table)
        .values((
            certificates::user_id.eq(device.user_id.0),
            certificates::fingerprint.eq(fingerprint),
            certificates::cert_hash.eq(hash),
            certificates::device_id.eq(device.device_id.cast_signed()),
            certificates::certificate.eq(certificate),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await
        .map(drop)
}

/// The hash of a registered device's certificate.
///
/// # Errors
/// Of the database.
pub async fn cert_hash(conn: &mut Conn, device: DeviceAddr) -> QueryResult<Option<Vec<u8>>> {
    devices::table.find(key(device)).select(devices::cert_hash).first(conn).await.optional()
}

/// Whether the current identity ever had a device with this id.
///
/// # Errors
/// Of the database.
pub async fn is_certified(conn: &mut Conn, device: DeviceAddr) -> QueryResult<bool> {
    let current = identities::table
        .filter(identities::user_id.eq(device.user_id.0))
        .filter(identities::current)
        .select(identities::fingerprint);
    let certificate = certificates::table
        .filter(certificates::user_id.eq(device.user_id.0))
        .filter(certificates::device_id.eq(device.device_id.cast_signed()))
        .filter(certificates::fingerprint.eq_any(current))
        .select(certificates::device_id);
    diesel::select(diesel::dsl::exists(certificate)).get_result(conn).await
}

/// The certificate of a registered device with the identity key under which it verifies.
///
/// # Errors
/// Of the database.
pub async fn certificate(conn: &mut Conn, device: DeviceAddr) -> QueryResult<Option<(Vec<u8>, Vec<u8>)>> {
    devices::table
        .inner_join(
            certificates::table
                .on(certificates::user_id.eq(devices::user_id).and(certificates::cert_hash.eq(devices::cert_hash))),
        )
        .inner_join(
            identities::table
                .on(identities::user_id.eq(devices::user_id).and(identities::fingerprint.eq(certificates::fingerprint))),
        )
        .filter(devices::user_id.eq(device.user_id.0))
        .filter(devices::device_id.eq(device.device_id.cast_signed()))
        .filter(identities::current)
        .select((certificates::certificate, identities::identity_key))
        .first(conn)
        .await
        .optional()
}

/// # Errors
/// Of the database.
pub async fn insert(conn: &mut Conn, device: DeviceAddr, name: &str, cert_hash: &[u8]) -> QueryResult<()> {
    diesel::insert_into(devices::table)
        .values((
            devices::user_id.eq(device.user_id.0),
            devices::device_id.eq(device.device_id.cast_signed()),
            devices::name.eq(name),
            devices::cert_hash.eq(cert_hash),
            devices::last_seen_at.eq(diesel::dsl::now),
        ))
        .execute(conn)
        .await
        .map(drop)
}

/// A device has a new certificate.
///
/// # Errors
/// Of the database.
pub async fn set_cert_hash(conn: &mut Conn, device: DeviceAddr, cert_hash: &[u8]) -> QueryResult<()> {
    diesel::update(devices::table.find(key(device))).set(devices::cert_hash.eq(cert_hash)).execute(conn).await.map(drop)
}

/// With its prekeys and its inbox.
///
/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, device: DeviceAddr) -> QueryResult<()> {
    diesel::delete(devices::table.find(key(device))).execute(conn).await.map(drop)
}

/// The ids of a user's current devices, ascending.
///
/// # Errors
/// Of the database.
pub async fn ids(conn: &mut Conn, user: UserId) -> QueryResult<Vec<DeviceId>> {
    let ids: Vec<i32> = devices::table
        .filter(devices::user_id.eq(user.0))
        .order(devices::device_id)
        .select(devices::device_id)
        .load(conn)
        .await?;
    Ok(ids.into_iter().map(i32::unsigned_abs).collect())
}

/// # Errors
/// Of the database.
pub async fn list(conn: &mut Conn, user: UserId, current: Option<DeviceId>) -> QueryResult<Vec<Device>> {
    type Row = (i32, String, DateTime<Utc>, Option<DateTime<Utc>>);
    let rows: Vec<Row> = devices::table
        .filter(devices::user_id.eq(user.0))
        .order(devices::device_id)
        .select((devices::device_id, devices::name, devices::created_at, devices::last_seen_at))
        .load(conn)
        .await?;
    let device = |(id, name, created_at, last_seen_at): Row| Device {
        device_id: id.unsigned_abs(),
        name,
        created_at: created_at.into(),
        last_seen_at: last_seen_at.map(Into::into),
        current: current == Some(id.unsigned_abs()),
    };
    Ok(rows.into_iter().map(device).collect())
}

/// The signed lists after a seq, at most 200, with their identity. The caller adds the certificates that they name.
///
/// # Errors
/// Of the database.
pub async fn lists_after(conn: &mut Conn, user: UserId, identity: &Identity, after: i64) -> QueryResult<UserDevices> {
    let lists: Vec<Vec<u8>> = device_lists::table
        .filter(device_lists::user_id.eq(user.0))
        .filter(device_lists::fingerprint.eq(&identity.fingerprint))
        .filter(device_lists::seq.gt(after))
        .order(device_lists::seq)
        .limit(LISTS_PAGE)
        .select(device_lists::list)
        .load(conn)
        .await?;
    Ok(UserDevices {
        identity_key: Some(Blob(identity.identity_key.clone())),
        head_seq: identity.head_seq.unsigned_abs(),
        lists: lists.into_iter().map(Blob).collect(),
        certificates: Vec::new(),
    })
}

/// The certificates with these hashes, in the order of their device ids.
///
/// # Errors
/// Of the database.
pub async fn certificates_named(conn: &mut Conn, user: UserId, fingerprint: &[u8], hashes: &[Vec<u8>]) -> QueryResult<Vec<Blob>> {
    let named: Vec<Vec<u8>> = certificates::table
        .filter(certificates::user_id.eq(user.0))
        .filter(certificates::fingerprint.eq(fingerprint))
        .filter(certificates::cert_hash.eq_any(hashes))
        .order(certificates::device_id)
        .select(certificates::certificate)
        .load(conn)
        .await?;
    Ok(named.into_iter().map(Blob).collect())
}

/// Those of the users who have an account or had one.
///
/// # Errors
/// Of the database.
pub async fn known_users(conn: &mut Conn, ids: &[UserId]) -> QueryResult<Vec<UserId>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let known: Vec<Uuid> = users::table.filter(users::id.eq_any(ids)).select(users::id).load(conn).await?;
    Ok(known.into_iter().map(UserId).collect())
}

const fn key(device: DeviceAddr) -> (Uuid, i32) {
    (device.user_id.0, device.device_id.cast_signed())
}
