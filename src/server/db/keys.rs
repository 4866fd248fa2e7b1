//! Prekeys: stored once, given out at most once. What was given out stays as an id without its key, so that no id comes
//! back.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bytea, Integer, Nullable, SmallInt, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::codec::Blob;
use crate::protocol::ids::{DeviceAddr, UserId};
use crate::protocol::keys::{Bundle, KemPrekey, OneTimePrekey, PrekeyCounts, SignedPrekey, UploadPrekeys};

use super::schema::{kem_prekeys, one_time_prekeys, signed_prekeys};
use super::sql::sql;
use super::{Conn, QueryResult};

/// An ML-KEM prekey for one handshake.
pub const KEM_ONCE: i16 = 1;
/// The one that stands in when the others are used up.
pub const KEM_LAST: i16 = 2;

/// Stores what a device uploads; `false`, with nothing stored by the transaction's caller, when an id was used before.
///
/// # Errors
/// Of the database.
pub async fn insert(conn: &mut Conn, device: DeviceAddr, keys: &UploadPrekeys) -> QueryResult<bool> {
    let (user, id) = (device.user_id.0, device.device_id.cast_signed());
    let mut expected = 0;
    let mut stored = 0;
    if let Some(key) = &keys.signed_prekey {
        expected += 1;
        stored += diesel::insert_into(signed_prekeys::table)
            .values((
                signed_prekeys::user_id.eq(user),
                signed_prekeys::device_id.eq(id),
                signed_prekeys::id.eq(i64::from(key.id)),
                signed_prekeys::public_key.eq(&key.public_key.0),
                signed_prekeys::created_ms.eq(key.created_ms.cast_signed()),
                signed_prekeys::signature.eq(&key.signature.0),
            ))
            .on_conflict_do_nothing()
            .execute(conn)
            .await?;
    }
    let kem: Vec<_> = keys
        .last_kem_prekey
        .iter()
        .chain(&keys.kem_prekeys)
        .map(|key| {
            (
                kem_prekeys::user_id.eq(user),
                kem_prekeys::device_id.eq(id),
                kem_prekeys::kind.eq(i16::from(key.kind)),
                kem_prekeys::id.eq(i64::from(key.id)),
                kem_prekeys::public_key.eq(&key.public_key.0),
                kem_prekeys::created_ms.eq(key.created_ms.cast_signed()),
                kem_prekeys::signature.eq(&key.signature.0),
            )
        })
        .collect();
    if keys.last_kem_prekey.is_some() {
        // The new one takes the place of the old one, whose secret the device keeps for messages on the way.
        let last = kem_prekeys::table.filter(kem_prekeys::user_id.eq(user)).filter(kem_prekeys::device_id.eq(id));
        let none: Option<Vec<u8>> = None;
        diesel::update(last.filter(kem_prekeys::kind.eq(KEM_LAST))).set(kem_prekeys::public_key.eq(none)).execute(conn).await?;
    }
    expected += kem.len();
    stored += diesel::insert_into(kem_prekeys::table).values(&kem).on_conflict_do_nothing().execute(conn).await?;
    let one_time: Vec<_> = keys
        .one_time_prekeys
        .iter()
        .map(|key| {
            (
                one_time_prekeys::user_id.eq(user),
                one_time_prekeys::device_id.eq(id),
                one_time_prekeys::id.eq(i64::from(key.id)),
                one_time_prekeys::public_key.eq(&key.public_key.0),
            )
        })
        .collect();
    expected += one_time.len();
    stored += diesel::insert_into(one_time_prekeys::table).values(&one_time).on_conflict_do_nothing().execute(conn).await?;
    Ok(stored == expected)
}

/// What is left for a device.
///
/// # Errors
/// Of the database.
pub async fn counts(conn: &mut Conn, device: DeviceAddr) -> QueryResult<PrekeyCounts> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        one_time: i64,
        #[diesel(sql_type = BigInt)]
        kem: i64,
        #[diesel(sql_type = BigInt)]
        signed_created_ms: i64,
        #[diesel(sql_type = BigInt)]
        last_kem_created_ms: i64,
    }
    let row: Row = diesel::sql_query(
        "SELECT (SELECT count(*) FROM one_time_prekeys WHERE user_id = $1 AND device_id = $2 AND public_key IS NOT NULL) AS one_time,
                (SELECT count(*) FROM kem_prekeys WHERE user_id = $1 AND device_id = $2 AND kind = 1 AND public_key IS NOT NULL) AS kem,
                coalesce((SELECT created_ms FROM signed_prekeys WHERE user_id = $1 AND device_id = $2 ORDER BY id DESC LIMIT 1), 0)
                    AS signed_created_ms,
                coalesce((SELECT created_ms FROM kem_prekeys WHERE user_id = $1 AND device_id = $2 AND kind = 2 ORDER BY id DESC LIMIT 1), 0)
                    AS last_kem_created_ms",
    )
    .bind::<SqlUuid, _>(device.user_id.0)
    .bind::<Integer, _>(device.device_id.cast_signed())
    .get_result(conn)
    .await?;
    Ok(PrekeyCounts {
        one_time: count(row.one_time),
        kem: count(row.kem),
        signed_created_ms: row.signed_created_ms.unsigned_abs(),
        last_kem_created_ms: row.last_kem_created_ms.unsigned_abs(),
    })
}

/// Those of the devices that have few prekeys left, with how many one-time and ML-KEM ones.
///
/// # Errors
/// Of the database.
pub async fn low(conn: &mut Conn, devices: &[DeviceAddr], one_time: u32, kem: u32) -> QueryResult<Vec<(DeviceAddr, u32, u32)>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        user_id: Uuid,
        #[diesel(sql_type = Integer)]
        device_id: i32,
        #[diesel(sql_type = BigInt)]
        one_time: i64,
        #[diesel(sql_type = BigInt)]
        kem: i64,
    }
    let (users, ids) = columns(devices);
    let rows: Vec<Row> = sql("SELECT w.user_id, w.device_id, o.one_time, k.kem FROM unnest($1::uuid[], $2::integer[]) AS w (user_id, device_id)
          CROSS JOIN LATERAL (SELECT count(*) AS one_time FROM one_time_prekeys o
                               WHERE o.user_id = w.user_id AND o.device_id = w.device_id AND o.public_key IS NOT NULL) o
          CROSS JOIN LATERAL (SELECT count(*) AS kem FROM kem_prekeys k
                               WHERE k.user_id = w.user_id AND k.device_id = w.device_id AND k.kind = 1 AND k.public_key IS NOT NULL) k
          WHERE o.one_time < $3 OR k.kem < $4")
    .bind::<Array<SqlUuid>, _>(users)
    .bind::<Array<Integer>, _>(ids)
    .bind::<BigInt, _>(i64::from(one_time))
    .bind::<BigInt, _>(i64::from(kem))
    .load(conn)
    .await?;
    let device =
        |row: Row| (DeviceAddr::new(UserId(row.user_id), row.device_id.cast_unsigned()), count(row.one_time), count(row.kem));
    Ok(rows.into_iter().map(device).collect())
}

/// A bundle of each of these devices for one handshake, in the order of their addresses: the one-time keys in it are gone with
/// the commit, the smallest ids first, and no two transactions get the same. Devices that are not there, or have no prekeys, are
/// left out. One statement, however many there are.
///
/// # Errors
/// Of the database.
pub async fn take_bundles(conn: &mut Conn, devices: &[DeviceAddr]) -> QueryResult<Vec<(UserId, Bundle)>> {
    let (users, ids) = columns(devices);
    let rows: Vec<BundleRow> = sql(TAKE).bind::<Array<SqlUuid>, _>(users).bind::<Array<Integer>, _>(ids).load(conn).await?;
    Ok(rows.into_iter().map(|row| (UserId(row.user_id), Bundle::from(row))).collect())
}

/// Every device has a last ML-KEM prekey from its registration on: without one it would spend others for nothing.
const TAKE: &str = "
    WITH wanted AS (
        SELECT d.user_id, d.device_id, c.certificate, s.id AS signed_id, s.public_key AS signed_key,
               s.created_ms AS signed_created_ms, s.signature AS signed_signature,
               l.id AS last_id, l.public_key AS last_key, l.created_ms AS last_created_ms, l.signature AS last_signature
          FROM unnest($1::uuid[], $2::integer[]) AS w (user_id, device_id)
          JOIN devices d USING (user_id, device_id)
          JOIN identities i ON i.user_id = d.user_id AND i.current
          JOIN certificates c ON c.user_id = d.user_id AND c.fingerprint = i.fingerprint AND c.cert_hash = d.cert_hash
         CROSS JOIN LATERAL (SELECT * FROM signed_prekeys s WHERE s.user_id = d.user_id AND s.device_id = d.device_id
                              ORDER BY s.id DESC LIMIT 1) s
         CROSS JOIN LATERAL (SELECT * FROM kem_prekeys l
                              WHERE l.user_id = d.user_id AND l.device_id = d.device_id AND l.kind = 2 AND l.public_key IS NOT NULL
                              ORDER BY l.id DESC LIMIT 1) l),
    kem AS (
        SELECT k.* FROM wanted w
         CROSS JOIN LATERAL (SELECT * FROM kem_prekeys k
                              WHERE k.user_id = w.user_id AND k.device_id = w.device_id AND k.kind = 1 AND k.public_key IS NOT NULL
                              ORDER BY k.id LIMIT 1 FOR UPDATE SKIP LOCKED) k),
    kem_taken AS (
        UPDATE kem_prekeys k SET public_key = NULL FROM kem p
         WHERE k.user_id = p.user_id AND k.device_id = p.device_id AND k.kind = p.kind AND k.id = p.id),
    one_time AS (
        SELECT o.* FROM wanted w
         CROSS JOIN LATERAL (SELECT * FROM one_time_prekeys o
                              WHERE o.user_id = w.user_id AND o.device_id = w.device_id AND o.public_key IS NOT NULL
                              ORDER BY o.id LIMIT 1 FOR UPDATE SKIP LOCKED) o),
    one_time_taken AS (
        UPDATE one_time_prekeys o SET public_key = NULL FROM one_time p
         WHERE o.user_id = p.user_id AND o.device_id = p.device_id AND o.id = p.id)
    SELECT w.user_id, w.device_id, w.certificate, w.signed_id, w.signed_key, w.signed_created_ms, w.signed_signature,
           coalesce(k.kind, 2::smallint) AS kem_kind, coalesce(k.id, w.last_id) AS kem_id, coalesce(k.public_key, w.last_key) AS kem_key,
           coalesce(k.created_ms, w.last_created_ms) AS kem_created_ms, coalesce(k.signature, w.last_signature) AS kem_signature,
           o.id AS one_time_id, o.public_key AS one_time_key
      FROM wanted w LEFT JOIN kem k USING (user_id, device_id) LEFT JOIN one_time o USING (user_id, device_id)
     ORDER BY w.user_id, w.device_id";

#[derive(QueryableByName)]
struct BundleRow {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = Integer)]
    device_id: i32,
    #[diesel(sql_type = Bytea)]
    certificate: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    signed_id: i64,
    #[diesel(sql_type = Bytea)]
    signed_key: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    signed_created_ms: i64,
    #[diesel(sql_type = Bytea)]
    signed_signature: Vec<u8>,
    #[diesel(sql_type = SmallInt)]
    kem_kind: i16,
    #[diesel(sql_type = BigInt)]
    kem_id: i64,
    #[diesel(sql_type = Bytea)]
    kem_key: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    kem_created_ms: i64,
    #[diesel(sql_type = Bytea)]
    kem_signature: Vec<u8>,
    #[diesel(sql_type = Nullable<BigInt>)]
    one_time_id: Option<i64>,
    #[diesel(sql_type = Nullable<Bytea>)]
    one_time_key: Option<Vec<u8>>,
}

impl From<BundleRow> for Bundle {
    fn from(row: BundleRow) -> Self {
        let one_time = row.one_time_id.zip(row.one_time_key);
        Self {
            device_id: row.device_id.cast_unsigned(),
            certificate: Blob(row.certificate),
            signed_prekey: SignedPrekey {
                id: prekey_id(row.signed_id),
                public_key: Blob(row.signed_key),
                created_ms: row.signed_created_ms.unsigned_abs(),
                signature: Blob(row.signed_signature),
            },
            kem_prekey: KemPrekey {
                kind: if row.kem_kind == KEM_ONCE { 1 } else { 2 },
                id: prekey_id(row.kem_id),
                public_key: Blob(row.kem_key),
                created_ms: row.kem_created_ms.unsigned_abs(),
                signature: Blob(row.kem_signature),
            },
            one_time_prekey: one_time.map(|(id, key)| OneTimePrekey { id: prekey_id(id), public_key: Blob(key) }),
        }
    }
}

fn columns(devices: &[DeviceAddr]) -> (Vec<Uuid>, Vec<i32>) {
    devices.iter().map(|device| (device.user_id.0, device.device_id.cast_signed())).unzip()
}

fn count(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Stored from a `u32`.
fn prekey_id(id: i64) -> u32 {
    u32::try_from(id).unwrap_or_default()
}
