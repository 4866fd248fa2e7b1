//! Rows of a channel's log: reading them, and the rows that the server writes itself. `append_rows()` of
//! `migrations/006_append` is the one door into the log; what people send comes through [`super::append`].

use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bytea, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use serde_json::Value;
use uuid::Uuid;

use crate::protocol::channels::Unread;
use crate::protocol::codec::{Blob, Timestamp};
use crate::protocol::ids::{ChannelId, DeviceId, FileId, MessageId, StreamId, UserId};
use crate::protocol::messages::{Row, RowKind};

use super::sql::sql;
use super::{Conn, QueryResult};

/// A row that the server writes: `member`, `channel`, `system`, `webhook`, `poll_close`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRow {
    /// A known id is not written again.
    pub id: MessageId,
    pub channel_id: ChannelId,
    pub kind: RowKind,
    pub target_id: Option<MessageId>,
    pub body: Value,
}

/// Writes rows of the server's and answers the place of each. Call it as the last step of the transaction that makes the
/// change which they tell of (it locks the channels' heads), and `app.notify` after the commit.
///
/// # Errors
/// Of the database.
pub async fn append_server_rows(conn: &mut Conn, rows: &[ServerRow]) -> QueryResult<Vec<(StreamId, u64)>> {
    #[derive(QueryableByName)]
    struct Placed {
        #[diesel(sql_type = SqlUuid)]
        channel_id: Uuid,
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    let placed: Vec<Placed> = sql("SELECT channel_id, seq FROM append_server_rows($1, $2, $3, $4, $5)")
        .bind::<Array<SqlUuid>, _>(rows.iter().map(|row| row.id.0).collect::<Vec<_>>())
        .bind::<Array<SqlUuid>, _>(rows.iter().map(|row| row.channel_id.0).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
        .bind::<Array<Nullable<SqlUuid>>, _>(rows.iter().map(|row| row.target_id.map(|id| id.0)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.body.to_string()).collect::<Vec<_>>())
        .load(conn)
        .await?;
    Ok(placed.into_iter().map(|row| (StreamId(row.channel_id), row.seq.unsigned_abs())).collect())
}

/// A row of `messages` with one device's copy beside it.
#[derive(QueryableByName)]
pub struct RowRecord {
    #[diesel(sql_type = SqlUuid)]
    channel_id: Uuid,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Nullable<BigInt>)]
    log_seq: Option<i64>,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    sender_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Integer>)]
    sender_device: Option<i32>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    thread_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reply_to_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    target_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Bytea>)]
    ciphertext: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Bytea>)]
    nonce: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    body: Option<Value>,
    #[diesel(sql_type = Array<SqlUuid>)]
    file_ids: Vec<Uuid>,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    deleted_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Bytea>)]
    copy_ciphertext: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Bytea>)]
    copy_nonce: Option<Vec<u8>>,
}

impl From<RowRecord> for Row {
    fn from(mut row: RowRecord) -> Self {
        // Its time is over, whether or not its turn to be erased has come.
        if row.expires_at.is_some_and(|at| at <= Utc::now()) {
            (row.deleted_at, row.expires_at) = (row.expires_at, None);
            (row.ciphertext, row.nonce, row.copy_ciphertext, row.copy_nonce) = (None, None, None, None);
            (row.body, row.thread_id, row.reply_to_id) = (None, None, None);
            row.file_ids.clear();
        }
        Self {
            id: MessageId(row.id),
            channel_id: ChannelId(row.channel_id),
            seq: row.seq.unsigned_abs(),
            log_seq: row.log_seq.map(i64::unsigned_abs),
            kind: serde_json::from_value(Value::String(row.kind)).unwrap_or(RowKind::Unknown),
            sender_id: row.sender_id.map(UserId),
            sender_device: row.sender_device.map(i32::cast_unsigned),
            thread_id: row.thread_id.map(MessageId),
            reply_to_id: row.reply_to_id.map(MessageId),
            target_id: row.target_id.map(MessageId),
            ciphertext: row.ciphertext.or(row.copy_ciphertext).map(Blob),
            nonce: row.nonce.or(row.copy_nonce).map(Blob),
            body: row.body,
            file_ids: row.file_ids.into_iter().map(FileId).collect(),
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Timestamp::from),
            deleted_at: row.deleted_at.map(Timestamp::from),
            quarantined: false,
        }
    }
}

/// The head of a channel that the user may read; none when there is no such channel for them.
///
/// # Errors
/// Of the database.
pub async fn readable_head(conn: &mut Conn, channel: ChannelId, user: UserId) -> QueryResult<Option<u64>> {
    #[derive(QueryableByName)]
    struct Head {
        #[diesel(sql_type = BigInt)]
        head_seq: i64,
    }
    let heads: Vec<Head> = sql(
        "SELECT h.head_seq FROM channel_readers r JOIN channel_heads h USING (channel_id) WHERE r.channel_id = $1 AND r.user_id = $2",
    )
    .bind::<SqlUuid, _>(channel.0)
    .bind::<SqlUuid, _>(user.0)
    .load(conn)
    .await?;
    Ok(heads.into_iter().next().map(|head| head.head_seq.unsigned_abs()))
}

/// Which rows of a log a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The newest ones with a smaller seq.
    Before(u64),
    /// The oldest ones with a greater seq.
    After(u64),
}

/// What a page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole log.
    Log,
    /// The replies of a thread.
    Thread(MessageId),
}

/// Bytes of ciphertext after which an answer ends, with at least one row: whoever asks for more and reads nothing holds no more
/// of the server's memory.
pub const ANSWER_MAX: i64 = 2 * 1024 * 1024;

/// Rows of an answer, and whether it ends before what was asked for.
pub struct Rows {
    pub rows: Vec<Row>,
    pub cut: bool,
}

/// A row with how many there were before the budget of the answer was spent.
#[derive(QueryableByName)]
pub struct Counted {
    #[diesel(embed)]
    record: RowRecord,
    #[diesel(sql_type = BigInt)]
    found: i64,
}

impl Rows {
    /// `limit` of the rows that were found, of which one more than `limit` was asked for.
    pub fn of(records: Vec<Counted>, limit: i64) -> Self {
        let found = records.as_slice().first().map_or(0, |counted| counted.found);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rows: Vec<Row> = records.into_iter().take(limit).map(|counted| counted.record.into()).collect();
        Self { cut: i64::try_from(rows.len()).is_ok_and(|given| given < found), rows }
    }
}

/// `rows` (a query of rows with their `order` as column `ord`) up to [`ANSWER_MAX`], with the number of all as `found`.
pub fn within_budget(rows: &str) -> String {
    format!(
        "SELECT * FROM (
             SELECT r.*, count(*) OVER () AS found,
                    sum(coalesce(octet_length(ciphertext), 0) + coalesce(octet_length(copy_ciphertext), 0))
                        OVER (ORDER BY ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
               FROM ({rows}) r) r
          WHERE coalesce(before, 0) < {ANSWER_MAX} ORDER BY ord"
    )
}

/// Rows of a channel in seq order up to its `head`, as one device sees them, at most `limit` and [`ANSWER_MAX`].
///
/// # Errors
/// Of the database.
pub async fn page(
    conn: &mut Conn,
    channel: ChannelId,
    scope: Scope,
    side: Side,
    head: u64,
    limit: i64,
    reader: Reader,
) -> QueryResult<Rows> {
    let (compared, order, ord, cursor) = match side {
        Side::Before(seq) => ("<", "DESC", "-m.seq", seq.min(head.saturating_add(1))),
        Side::After(seq) => (">", "ASC", "m.seq", seq),
    };
    let (filter, thread) = match scope {
        Scope::Log => ("$6::uuid IS NULL", None),
        Scope::Thread(root) => ("m.thread_id = $6", Some(root.0)),
    };
    let rows: Vec<Counted> = sql(within_budget(&format!(
        "SELECT m.*, k.ciphertext AS copy_ciphertext, k.nonce AS copy_nonce, {ord} AS ord FROM messages m {COPY}
          WHERE m.channel_id = $1 AND m.seq {compared} $4 AND m.seq <= $7 AND {filter} ORDER BY m.seq {order} LIMIT $5"
    )))
    .bind::<SqlUuid, _>(channel.0)
    .bind::<SqlUuid, _>(reader.user_id.0)
    .bind::<Nullable<Integer>, _>(reader.device_id.map(u32::cast_signed))
    .bind::<BigInt, _>(i64::try_from(cursor).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(limit + 1)
    .bind::<Nullable<SqlUuid>, _>(thread)
    .bind::<BigInt, _>(i64::try_from(head).unwrap_or(i64::MAX))
    .load(conn)
    .await?;
    let mut page = Rows::of(rows, limit);
    if let Side::Before(_) = side {
        page.rows.reverse();
    }
    Ok(page)
}

/// Who reads: the user and, for direct messages, the device whose copies are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    pub user_id: UserId,
    pub device_id: Option<DeviceId>,
}

/// The reader's copy: $2 is the user, $3 the device.
const COPY: &str =
    "LEFT JOIN message_copies k ON k.channel_id = m.channel_id AND k.seq = m.seq AND k.user_id = $2 AND k.device_id = $3";

/// Rows with a seq above `above`, up to `head`, that are aimed at one of the targets, ascending.
///
/// # Errors
/// Of the database.
pub async fn related(
    conn: &mut Conn,
    channel: ChannelId,
    targets: &[MessageId],
    above: u64,
    head: u64,
    limit: i64,
    reader: Reader,
) -> QueryResult<Rows> {
    if targets.is_empty() {
        return Ok(Rows { rows: Vec::new(), cut: false });
    }
    let rows: Vec<Counted> = sql(within_budget(&format!(
        "SELECT m.*, k.ciphertext AS copy_ciphertext, k.nonce AS copy_nonce, m.seq AS ord FROM messages m {COPY}
          WHERE m.channel_id = $1 AND m.target_id = ANY ($4) AND m.seq > $5 AND m.seq <= $7 ORDER BY m.seq LIMIT $6"
    )))
    .bind::<SqlUuid, _>(channel.0)
    .bind::<SqlUuid, _>(reader.user_id.0)
    .bind::<Nullable<Integer>, _>(reader.device_id.map(u32::cast_signed))
    .bind::<Array<SqlUuid>, _>(targets.iter().map(|id| id.0).collect::<Vec<_>>())
    .bind::<BigInt, _>(i64::try_from(above).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(limit + 1)
    .bind::<BigInt, _>(i64::try_from(head).unwrap_or(i64::MAX))
    .load(conn)
    .await?;
    Ok(Rows::of(rows, limit))
}

/// One row of a channel.
///
/// # Errors
/// Of the database.
pub async fn find(conn: &mut Conn, channel: ChannelId, id: MessageId, reader: Reader) -> QueryResult<Option<Row>> {
    let rows: Vec<RowRecord> = sql(format!(
        "SELECT m.*, k.ciphertext AS copy_ciphertext, k.nonce AS copy_nonce FROM messages m {COPY}
          WHERE m.channel_id = $1 AND m.id = $4"
    ))
    .bind::<SqlUuid, _>(channel.0)
    .bind::<SqlUuid, _>(reader.user_id.0)
    .bind::<Nullable<Integer>, _>(reader.device_id.map(u32::cast_signed))
    .bind::<SqlUuid, _>(id.0)
    .load(conn)
    .await?;
    Ok(rows.into_iter().next().map(Row::from))
}

/// The pinned messages of a channel, the newest pin first.
///
/// # Errors
/// Of the database.
pub async fn pins(conn: &mut Conn, channel: ChannelId, reader: Reader) -> QueryResult<Vec<Row>> {
    let rows: Vec<RowRecord> = sql(format!(
        "SELECT m.*, k.ciphertext AS copy_ciphertext, k.nonce AS copy_nonce
           FROM (SELECT DISTINCT ON (target_id) target_id, kind, seq FROM messages
                  WHERE channel_id = $1 AND kind IN ('pin', 'unpin') AND deleted_at IS NULL ORDER BY target_id, seq DESC) p
           JOIN messages m ON m.channel_id = $1 AND m.id = p.target_id {COPY}
          WHERE p.kind = 'pin' ORDER BY p.seq DESC"
    ))
    .bind::<SqlUuid, _>(channel.0)
    .bind::<SqlUuid, _>(reader.user_id.0)
    .bind::<Nullable<Integer>, _>(reader.device_id.map(u32::cast_signed))
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(Row::from).collect())
}

/// Rows of a channel that are looked at for what somebody has not read.
const UNREAD_ROWS: i64 = 1000;

/// What somebody has not read, for every channel that they read. Counted is what people and webhooks wrote, among the newest
/// [`UNREAD_ROWS`]: whatever else is there, a channel costs no more than that.
///
/// # Errors
/// Of the database.
pub async fn unread(conn: &mut Conn, user: UserId) -> QueryResult<Vec<Unread>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        channel_id: Uuid,
        #[diesel(sql_type = BigInt)]
        head_seq: i64,
        #[diesel(sql_type = BigInt)]
        read_seq: i64,
        #[diesel(sql_type = BigInt)]
        unread: i64,
    }
    let records: Vec<Record> = sql("SELECT r.channel_id, h.head_seq, r.read_seq, n.unread
           FROM (SELECT r.channel_id, r.joined_seq, coalesce(s.read_seq, 0) AS read_seq FROM channel_readers r
                   LEFT JOIN channel_states s ON s.channel_id = r.channel_id AND s.user_id = r.user_id WHERE r.user_id = $1) r
           JOIN channel_heads h USING (channel_id)
          CROSS JOIN LATERAL (
                SELECT count(*) AS unread FROM messages m
                 WHERE m.channel_id = r.channel_id AND m.kind IN ('message', 'poll', 'webhook') AND m.deleted_at IS NULL
                   AND m.sender_id IS DISTINCT FROM $1
                   AND m.seq > greatest(h.head_seq - $2, CASE WHEN r.read_seq > 0 THEN r.read_seq
                                    ELSE channel_start_seq(r.channel_id, h.head_seq, r.joined_seq, NULL) END)) n")
    .bind::<SqlUuid, _>(user.0)
    .bind::<BigInt, _>(UNREAD_ROWS)
    .load(conn)
    .await?;
    let unread = |record: Record| Unread {
        channel_id: ChannelId(record.channel_id),
        unread: record.unread.unsigned_abs(),
        head_seq: record.head_seq.unsigned_abs(),
        read_seq: record.read_seq.unsigned_abs(),
    };
    Ok(records.into_iter().map(unread).collect())
}

/// Moves the user's read marker forward, not beyond the head. Answers the new marker, or none when nothing moved.
///
/// # Errors
/// Of the database.
pub async fn mark_read(conn: &mut Conn, channel: ChannelId, user: UserId, seq: u64) -> QueryResult<Option<u64>> {
    #[derive(QueryableByName)]
    struct Marker {
        #[diesel(sql_type = BigInt)]
        read_seq: i64,
    }
    let moved: Vec<Marker> = sql("INSERT INTO channel_states AS s (channel_id, user_id, read_seq)
         SELECT channel_id, $2, least($3, head_seq) FROM channel_heads WHERE channel_id = $1 AND least($3, head_seq) > 0
         ON CONFLICT (channel_id, user_id) DO UPDATE SET read_seq = EXCLUDED.read_seq WHERE s.read_seq < EXCLUDED.read_seq
         RETURNING read_seq")
    .bind::<SqlUuid, _>(channel.0)
    .bind::<SqlUuid, _>(user.0)
    .bind::<BigInt, _>(i64::try_from(seq).unwrap_or(i64::MAX))
    .load(conn)
    .await?;
    Ok(moved.into_iter().next().map(|marker| marker.read_seq.unsigned_abs()))
}
