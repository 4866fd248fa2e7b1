//! Prekeys: stored once, given out at most once. What was given out stays as an id without its key, so that no id comes
//! back.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bytea, Integer, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;

use crate::protocol::codec::Blob;
use crate::protocol::ids::DeviceAddr;
use crate::protocol::keys::{Bundle, KemPrekey, OneTimePrekey, PrekeyCounts, SignedPrekey, UploadPrekeys};

use super::schema::{kem_prekeys, one_time_prekeys, signed_prekeys};
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
    let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(PrekeyCounts {
        one_time: count(row.one_time),
        kem: count(row.kem),
        signed_created_ms: row.signed_created_ms.unsigned_abs(),
        last_kem_created_ms: row.last_kem_created_ms.unsigned_abs(),
    })
}

/// A bundle for one handshake: the one-time keys in it are gone with the commit, the smallest ids first, and no two
/// transactions get the same. `None` for a device that is not there.
///
/// # Errors
/// Of the database.
pub async fn take_bundle(conn: &mut Conn, device: DeviceAddr) -> QueryResult<Option<Bundle>> {
    let Some((certificate, _)) = super::devices::certificate(conn, device).await? else { return Ok(None) };
    let (user, id) = (device.user_id.0, device.device_id.cast_signed());
    let signed = signed_prekeys::table
        .filter(signed_prekeys::user_id.eq(user))
        .filter(signed_prekeys::device_id.eq(id))
        .order(signed_prekeys::id.desc())
        .select((signed_prekeys::id, signed_prekeys::public_key, signed_prekeys::created_ms, signed_prekeys::signature))
        .first::<(i64, Vec<u8>, i64, Vec<u8>)>(conn)
        .await
        .optional()?;
    let kem_prekey = match take_kem_once(conn, device).await? {
        Some(key) => Some(key),
        None => last_kem(conn, device).await?,
    };
    let (Some((spk_id, public_key, created_ms, signature)), Some(kem_prekey)) = (signed, kem_prekey) else { return Ok(None) };
    let signed_prekey = SignedPrekey {
        id: prekey_id(spk_id),
        public_key: Blob(public_key),
        created_ms: created_ms.unsigned_abs(),
        signature: Blob(signature),
    };
    let one_time_prekey = take_one_time(conn, device).await?;
    Ok(Some(Bundle { device_id: device.device_id, certificate: Blob(certificate), signed_prekey, kem_prekey, one_time_prekey }))
}

async fn take_one_time(conn: &mut Conn, device: DeviceAddr) -> QueryResult<Option<OneTimePrekey>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
        #[diesel(sql_type = Bytea)]
        public_key: Vec<u8>,
    }
    let row: Option<Row> = diesel::sql_query(
        "WITH picked AS (SELECT user_id, device_id, id, public_key FROM one_time_prekeys
                         WHERE user_id = $1 AND device_id = $2 AND public_key IS NOT NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
              taken AS (UPDATE one_time_prekeys k SET public_key = NULL FROM picked p
                        WHERE k.user_id = p.user_id AND k.device_id = p.device_id AND k.id = p.id)
         SELECT id, public_key FROM picked",
    )
    .bind::<SqlUuid, _>(device.user_id.0)
    .bind::<Integer, _>(device.device_id.cast_signed())
    .get_result(conn)
    .await
    .optional()?;
    Ok(row.map(|row| OneTimePrekey { id: prekey_id(row.id), public_key: Blob(row.public_key) }))
}

#[derive(QueryableByName)]
struct KemRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Bytea)]
    public_key: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    created_ms: i64,
    #[diesel(sql_type = Bytea)]
    signature: Vec<u8>,
}

impl KemRow {
    fn into_prekey(self, kind: i16) -> KemPrekey {
        KemPrekey {
            kind: if kind == KEM_ONCE { 1 } else { 2 },
            id: prekey_id(self.id),
            public_key: Blob(self.public_key),
            created_ms: self.created_ms.unsigned_abs(),
            signature: Blob(self.signature),
        }
    }
}

async fn take_kem_once(conn: &mut Conn, device: DeviceAddr) -> QueryResult<Option<KemPrekey>> {
    let row: Option<KemRow> = diesel::sql_query(
        "WITH picked AS (SELECT user_id, device_id, kind, id, public_key, created_ms, signature FROM kem_prekeys
                         WHERE user_id = $1 AND device_id = $2 AND kind = 1 AND public_key IS NOT NULL
                         ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
              taken AS (UPDATE kem_prekeys k SET public_key = NULL FROM picked p
                        WHERE k.user_id = p.user_id AND k.device_id = p.device_id AND k.kind = p.kind AND k.id = p.id)
         SELECT id, public_key, created_ms, signature FROM picked",
    )
    .bind::<SqlUuid, _>(device.user_id.0)
    .bind::<Integer, _>(device.device_id.cast_signed())
    .get_result(conn)
    .await
    .optional()?;
    Ok(row.map(|row| row.into_prekey(KEM_ONCE)))
}

async fn last_kem(conn: &mut Conn, device: DeviceAddr) -> QueryResult<Option<KemPrekey>> {
    let row: Option<KemRow> = diesel::sql_query(
        "SELECT id, public_key, created_ms, signature FROM kem_prekeys
         WHERE user_id = $1 AND device_id = $2 AND kind = 2 AND public_key IS NOT NULL ORDER BY id DESC LIMIT 1",
    )
    .bind::<SqlUuid, _>(device.user_id.0)
    .bind::<Integer, _>(device.device_id.cast_signed())
    .get_result(conn)
    .await
    .optional()?;
    Ok(row.map(|row| row.into_prekey(KEM_LAST)))
}

/// Stored from a `u32`.
fn prekey_id(id: i64) -> u32 {
    u32::try_from(id).unwrap_or_default()
}
