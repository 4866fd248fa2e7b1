//! Identities, certificates, signed device lists (kept and served for ever) and the devices that registered prekeys.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bytea, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::devices::Device;
use crate::protocol::ids::{DeviceAddr, DeviceId, UserId};

use super::schema::{certificates, device_lists, devices, identities, users};
use super::sql::sql;
use super::{Conn, QueryResult};

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

/// A signed list of somebody's devices.
#[derive(QueryableByName)]
struct ListRow {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = Bytea)]
    list: Vec<u8>,
}

/// The newest list of each of these users; those without a device are left out.
///
/// # Errors
/// Of the database.
pub async fn newest_lists(conn: &mut Conn, users: &[UserId]) -> QueryResult<Vec<(UserId, Vec<u8>)>> {
    let found: Vec<ListRow> = sql("SELECT i.user_id, l.list FROM identities i
           JOIN device_lists l ON l.user_id = i.user_id AND l.fingerprint = i.fingerprint AND l.seq = i.head_seq
          WHERE i.user_id = ANY ($1) AND i.current")
    .bind::<Array<SqlUuid>, _>(raw(users))
    .load(conn)
    .await?;
    Ok(found.into_iter().map(|record| (UserId(record.user_id), record.list)).collect())
}

/// All devices of these users.
///
/// # Errors
/// Of the database.
pub async fn of_users(conn: &mut Conn, users: &[UserId]) -> QueryResult<Vec<DeviceAddr>> {
    let found = devices::table.filter(devices::user_id.eq_any(raw(users))).select((devices::user_id, devices::device_id));
    let found: Vec<(Uuid, i32)> = found.load(conn).await?;
    Ok(found.into_iter().map(|(user, device)| DeviceAddr::new(UserId(user), device.cast_unsigned())).collect())
}

/// The current identity of each of these users; those without a device are left out.
///
/// # Errors
/// Of the database.
pub async fn current_identities(conn: &mut Conn, users: &[UserId]) -> QueryResult<Vec<(UserId, Identity)>> {
    let current = identities::table.filter(identities::user_id.eq_any(raw(users))).filter(identities::current);
    let found: Vec<(Uuid, Identity)> = current.select((identities::user_id, Identity::as_select())).load(conn).await?;
    Ok(found.into_iter().map(|(user, identity)| (UserId(user), identity)).collect())
}

/// The signed lists of each identity after a seq, oldest first, at most `limit` of each.
///
/// # Errors
/// Of the database.
pub async fn lists_after(conn: &mut Conn, of: &[(UserId, &Identity, i64)], limit: i64) -> QueryResult<Vec<(UserId, Vec<u8>)>> {
    let found: Vec<ListRow> = sql("SELECT w.user_id, l.list FROM unnest($1::uuid[], $2::bytea[], $3::bigint[]) AS w (user_id, fingerprint, after)
          CROSS JOIN LATERAL (SELECT seq, list FROM device_lists d
                               WHERE d.user_id = w.user_id AND d.fingerprint = w.fingerprint AND d.seq > w.after ORDER BY d.seq LIMIT $4) l
          ORDER BY w.user_id, l.seq")
    .bind::<Array<SqlUuid>, _>(of.iter().map(|(user, ..)| user.0).collect::<Vec<_>>())
    .bind::<Array<Bytea>, _>(of.iter().map(|(_, identity, _)| identity.fingerprint.as_slice()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(of.iter().map(|(.., after)| *after).collect::<Vec<_>>())
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?;
    Ok(found.into_iter().map(|record| (UserId(record.user_id), record.list)).collect())
}

/// The certificates of identities (by their fingerprints) with these hashes, in the order of their device ids.
///
/// # Errors
/// Of the database.
pub async fn certificates_named(conn: &mut Conn, named: &[(UserId, &[u8], [u8; 32])]) -> QueryResult<Vec<(UserId, Vec<u8>)>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        user_id: Uuid,
        #[diesel(sql_type = Bytea)]
        certificate: Vec<u8>,
    }
    let found: Vec<Record> = sql("SELECT c.user_id, c.certificate
           FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS n (user_id, fingerprint, cert_hash)
           JOIN certificates c USING (user_id, fingerprint, cert_hash) ORDER BY c.user_id, c.device_id")
    .bind::<Array<SqlUuid>, _>(named.iter().map(|(user, ..)| user.0).collect::<Vec<_>>())
    .bind::<Array<Bytea>, _>(named.iter().map(|(_, fingerprint, _)| *fingerprint).collect::<Vec<_>>())
    .bind::<Array<Bytea>, _>(named.iter().map(|(.., hash)| hash.as_slice()).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(found.into_iter().map(|record| (UserId(record.user_id), record.certificate)).collect())
}

/// Those of the users who have an account or had one.
///
/// # Errors
/// Of the database.
pub async fn known_users(conn: &mut Conn, ids: &[UserId]) -> QueryResult<Vec<UserId>> {
    let known: Vec<Uuid> = users::table.filter(users::id.eq_any(raw(ids))).select(users::id).load(conn).await?;
    Ok(known.into_iter().map(UserId).collect())
}

fn raw(users: &[UserId]) -> Vec<Uuid> {
    users.iter().map(|user| user.0).collect()
}

const fn key(device: DeviceAddr) -> (Uuid, i32) {
    (device.user_id.0, device.device_id.cast_signed())
}
