//! The durable inbox of each device: frames stay until the device acknowledged them. `append_inbox()` of
//! `migrations/007_inbox` is the one door into it.

use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bytea, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use crate::protocol::codec::Blob;
use crate::protocol::devices::{DeviceMessage, SendDevices};
use crate::protocol::ids::{DeviceAddr, UserId};
use crate::protocol::limits::INBOX_MAX;

use super::sql::sql;
use super::{Conn, QueryResult};

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// In the inboxes, but for these devices.
    Done { missing: Vec<DeviceAddr> },
    /// Nothing was delivered: these inboxes are full.
    Full { devices: Vec<DeviceAddr> },
}

/// Delivers a batch once, whatever the number of attempts: one round trip, one commit.
///
/// # Errors
/// Of the database.
pub async fn append(conn: &mut Conn, from: DeviceAddr, batch: &SendDevices) -> QueryResult<Delivery> {
    #[derive(QueryableByName)]
    struct Answer {
        #[diesel(sql_type = Text)]
        code: String,
        #[diesel(sql_type = Jsonb)]
        devices: serde_json::Value,
    }
    let copies = &batch.copies;
    let answer: Answer = sql("SELECT code, devices FROM append_inbox($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind::<SqlUuid, _>(from.user_id.0)
        .bind::<Integer, _>(from.device_id.cast_signed())
        .bind::<SqlUuid, _>(batch.id.0)
        .bind::<Array<SqlUuid>, _>(copies.iter().map(|copy| copy.user_id.0).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(copies.iter().map(|copy| copy.device_id.cast_signed()).collect::<Vec<_>>())
        .bind::<Array<Bytea>, _>(copies.iter().map(|copy| copy.ciphertext.as_slice()).collect::<Vec<_>>())
        .bind::<Array<Bytea>, _>(copies.iter().map(|copy| copy.nonce.as_slice()).collect::<Vec<_>>())
        .bind::<BigInt, _>(i64::try_from(INBOX_MAX).unwrap_or(i64::MAX))
        .get_result(conn)
        .await?;
    let devices: Vec<DeviceAddr> =
        serde_json::from_value(answer.devices).map_err(|e| diesel::result::Error::DeserializationError(Box::new(e)))?;
    Ok(if answer.code == "ok" { Delivery::Done { missing: devices } } else { Delivery::Full { devices } })
}

/// A piece of an inbox.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The oldest frames after the position that was asked for.
    pub frames: Vec<DeviceMessage>,
    /// The newest number that the inbox ever gave, at the same moment.
    pub head: u64,
}

/// The oldest frames after a position.
///
/// # Errors
/// Of the database.
pub async fn page(conn: &mut Conn, device: DeviceAddr, after: u64, limit: i64) -> QueryResult<Page> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = BigInt)]
        inbox_head: i64,
        #[diesel(sql_type = Nullable<BigInt>)]
        inbox_seq: Option<i64>,
        #[diesel(sql_type = Nullable<SqlUuid>)]
        from_user: Option<Uuid>,
        #[diesel(sql_type = Nullable<Integer>)]
        from_device: Option<i32>,
        #[diesel(sql_type = Nullable<Bytea>)]
        ciphertext: Option<Vec<u8>>,
        #[diesel(sql_type = Nullable<Bytea>)]
        nonce: Option<Vec<u8>>,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        created_at: Option<DateTime<Utc>>,
    }
    // An inbox without frames has one row, with its head alone.
    let records: Vec<Record> = sql("SELECT d.inbox_head, i.* FROM devices d
           LEFT JOIN LATERAL (SELECT inbox_seq, from_user, from_device, ciphertext, nonce, created_at FROM inbox
                               WHERE user_id = $1 AND device_id = $2 AND inbox_seq > $3 ORDER BY inbox_seq LIMIT $4) i ON true
          WHERE d.user_id = $1 AND d.device_id = $2 ORDER BY i.inbox_seq")
    .bind::<SqlUuid, _>(device.user_id.0)
    .bind::<Integer, _>(device.device_id.cast_signed())
    .bind::<BigInt, _>(i64::try_from(after).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?;
    let head = if let [record, ..] = &*records { record.inbox_head.unsigned_abs() } else { 0 };
    let message = |record: Record| {
        Some(DeviceMessage {
            inbox_seq: record.inbox_seq?.unsigned_abs(),
            from_user: UserId(record.from_user?),
            from_device: record.from_device?.cast_unsigned(),
            ciphertext: Blob(record.ciphertext?),
            nonce: Blob(record.nonce?),
            created_at: record.created_at?.into(),
        })
    };
    Ok(Page { frames: records.into_iter().filter_map(message).collect(), head })
}

/// The device has these frames: they are deleted.
///
/// # Errors
/// Of the database.
pub async fn acknowledge(conn: &mut Conn, device: DeviceAddr, up_to: u64) -> QueryResult<()> {
    sql("DELETE FROM inbox WHERE user_id = $1 AND device_id = $2 AND inbox_seq <= $3")
        .bind::<SqlUuid, _>(device.user_id.0)
        .bind::<Integer, _>(device.device_id.cast_signed())
        .bind::<BigInt, _>(i64::try_from(up_to).unwrap_or(i64::MAX))
        .execute(conn)
        .await?;
    Ok(())
}

/// Of these devices, those that have a frame after the position given with them: what a node asks every second.
///
/// # Errors
/// Of the database.
pub async fn moved(conn: &mut Conn, devices: &[(DeviceAddr, u64)]) -> QueryResult<Vec<DeviceAddr>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        user_id: Uuid,
        #[diesel(sql_type = Integer)]
        device_id: i32,
    }
    let records: Vec<Record> =
        sql("SELECT d.user_id, d.device_id FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) AS k (user_id, device_id, seen)
           JOIN devices d USING (user_id, device_id) WHERE d.inbox_head > k.seen")
        .bind::<Array<SqlUuid>, _>(devices.iter().map(|(device, _)| device.user_id.0).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(devices.iter().map(|(device, _)| device.device_id.cast_signed()).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(devices.iter().map(|(_, seen)| seen.cast_signed()).collect::<Vec<_>>())
        .load(conn)
        .await?;
    Ok(records.into_iter().map(|r| DeviceAddr::new(UserId(r.user_id), r.device_id.cast_unsigned())).collect())
}
