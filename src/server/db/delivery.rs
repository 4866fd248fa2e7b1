//! What the realtime part reads: who hears which stream, how far the streams are, what comes after a cursor, and which
//! sessions still live. Queries over many streams at once; their number does not grow with the number of streams.

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use std::collections::HashSet;
use uuid::Uuid;

use crate::protocol::ids::{ChannelId, DeviceAddr, DeviceId, SessionId, StreamId, UserId};
use crate::protocol::streams::{Event, StreamEvent, StreamItem};
use crate::protocol::users::Status;

use super::messages::{Counted, Rows, within_budget};
use super::sql::sql;
use super::{Conn, QueryResult};

/// Who hears a stream: a membership log's id, a direct message's channel id, or a user's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceId(pub Uuid);

/// What a user may hear, as one reading found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// With a number that grows with every removal from the audience (0 where nobody can be removed).
    pub audiences: Vec<(AudienceId, u64)>,
    /// With audience and head.
    pub streams: Vec<(StreamId, AudienceId, u64)>,
}

/// Everything that a user may hear now.
///
/// # Errors
/// Of the database.
pub async fn access(conn: &mut Conn, user: UserId) -> QueryResult<Access> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = SqlUuid)]
        audience_id: Uuid,
        #[diesel(sql_type = BigInt)]
        shrink_seq: i64,
        #[diesel(sql_type = Nullable<SqlUuid>)]
        stream_id: Option<Uuid>,
        #[diesel(sql_type = BigInt)]
        head_seq: i64,
    }
    let found: Vec<Found> = sql(
        "WITH mine AS (SELECT l.log_id, g.shrink_seq FROM log_listeners l JOIN log_shrinks g USING (log_id) WHERE l.user_id = $1)
         SELECT log_id AS audience_id, shrink_seq, NULL::uuid AS stream_id, 0::bigint AS head_seq FROM mine
         UNION ALL
         SELECT c.log_id, 0, c.id, h.head_seq
           FROM mine JOIN channels c USING (log_id) JOIN channel_heads h ON h.channel_id = c.id WHERE c.deleted_at IS NULL
         UNION ALL
         SELECT s.id, 0, s.id, s.head_seq FROM mine JOIN streams s ON s.id = mine.log_id
         UNION ALL
         SELECT c.id, 0, c.id, h.head_seq FROM channels c JOIN channel_heads h ON h.channel_id = c.id
          WHERE c.dm_low = $1 AND c.deleted_at IS NULL
         UNION ALL
         SELECT c.id, 0, c.id, h.head_seq FROM channels c JOIN channel_heads h ON h.channel_id = c.id
          WHERE c.dm_high = $1 AND c.dm_low <> $1 AND c.deleted_at IS NULL
         UNION ALL
         SELECT s.id, 0, s.id, s.head_seq FROM streams s WHERE s.id = $1",
    )
    .bind::<SqlUuid, _>(user.0)
    .load(conn)
    .await?;
    let mut access = Access::default();
    let mut seen = HashSet::new();
    // The rows of logs come first, and only they have a number of removals.
    for row in found {
        let audience = AudienceId(row.audience_id);
        if seen.insert(audience) {
            access.audiences.push((audience, row.shrink_seq.unsigned_abs()));
        }
        if let Some(stream) = row.stream_id {
            access.streams.push((StreamId(stream), audience, row.head_seq.unsigned_abs()));
        }
    }
    Ok(access)
}

/// Where a stream is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    pub stream: StreamId,
    pub audience: AudienceId,
    pub kind: StreamKind,
    pub head_seq: u64,
    pub shrink_seq: u64,
}

/// Where a stream's events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    Channel,
    Dm,
    /// Of a user, a community or a private group.
    Events,
}

#[derive(QueryableByName)]
struct LocatedRecord {
    #[diesel(sql_type = SqlUuid)]
    stream_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    audience_id: Uuid,
    #[diesel(sql_type = Integer)]
    kind: i32,
    #[diesel(sql_type = BigInt)]
    head_seq: i64,
    #[diesel(sql_type = BigInt)]
    shrink_seq: i64,
}

impl From<LocatedRecord> for Located {
    fn from(row: LocatedRecord) -> Self {
        Self {
            stream: StreamId(row.stream_id),
            audience: AudienceId(row.audience_id),
            kind: match row.kind {
                0 => StreamKind::Channel,
                1 => StreamKind::Dm,
                _ => StreamKind::Events,
            },
            head_seq: row.head_seq.unsigned_abs(),
            shrink_seq: row.shrink_seq.unsigned_abs(),
        }
    }
}

/// Where these streams are; those that do not exist are left out.
///
/// # Errors
/// Of the database.
pub async fn locate(conn: &mut Conn, streams: &[StreamId]) -> QueryResult<Vec<Located>> {
    let found: Vec<LocatedRecord> =
        sql("SELECT c.id AS stream_id, coalesce(c.log_id, c.id) AS audience_id, (c.kind = 'dm')::integer AS kind, h.head_seq,
                coalesce(g.shrink_seq, 0) AS shrink_seq
           FROM channels c JOIN channel_heads h ON h.channel_id = c.id LEFT JOIN log_shrinks g ON g.log_id = c.log_id
          WHERE c.id = ANY ($1) AND c.deleted_at IS NULL
         UNION ALL
         SELECT s.id, s.id, 2, s.head_seq, coalesce(g.shrink_seq, 0)
           FROM streams s LEFT JOIN log_shrinks g ON g.log_id = s.id WHERE s.id = ANY ($1)")
        .bind::<Array<SqlUuid>, _>(streams.iter().map(|stream| stream.0).collect::<Vec<_>>())
        .load(conn)
        .await?;
    Ok(found.into_iter().map(Located::from).collect())
}

/// Where all streams of these audiences are: what a node asks every second, so that a lost hint costs a second.
///
/// # Errors
/// Of the database.
pub async fn locate_heard(conn: &mut Conn, audiences: &[AudienceId]) -> QueryResult<Vec<Located>> {
    let found: Vec<LocatedRecord> = sql("SELECT c.id AS stream_id, c.log_id AS audience_id, 0 AS kind, h.head_seq, g.shrink_seq
           FROM channels c JOIN channel_heads h ON h.channel_id = c.id JOIN log_shrinks g ON g.log_id = c.log_id
          WHERE c.log_id = ANY ($1) AND c.deleted_at IS NULL
         UNION ALL
         SELECT c.id, c.id, 1, h.head_seq, 0 FROM channels c JOIN channel_heads h ON h.channel_id = c.id
          WHERE c.id = ANY ($1) AND c.log_id IS NULL AND c.deleted_at IS NULL
         UNION ALL
         SELECT s.id, s.id, 2, s.head_seq, coalesce(g.shrink_seq, 0)
           FROM streams s LEFT JOIN log_shrinks g ON g.log_id = s.id WHERE s.id = ANY ($1)")
    .bind::<Array<SqlUuid>, _>(audiences.iter().map(|audience| audience.0).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(found.into_iter().map(Located::from).collect())
}

/// Who of these users still hears a membership log's streams, and the removals that this takes into account.
///
/// # Errors
/// Of the database.
pub async fn listeners(conn: &mut Conn, log: AudienceId, users: &HashSet<UserId>) -> QueryResult<(HashSet<UserId>, u64)> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = BigInt)]
        shrink_seq: i64,
        #[diesel(sql_type = Array<SqlUuid>)]
        users: Vec<Uuid>,
    }
    // One statement, one snapshot: the number and the people belong together.
    let found: Vec<Found> = sql(
        "SELECT g.shrink_seq, ARRAY(SELECT l.user_id FROM log_listeners l WHERE l.log_id = $1 AND l.user_id = ANY ($2)) AS users
           FROM log_shrinks g WHERE g.log_id = $1",
    )
    .bind::<SqlUuid, _>(log.0)
    .bind::<Array<SqlUuid>, _>(users.iter().map(|user| user.0).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(found
        .into_iter()
        .next()
        .map_or_else(Default::default, |found| (found.users.into_iter().map(UserId).collect(), found.shrink_seq.unsigned_abs())))
}

/// Rows of channels after their cursors, as one device sees them; ascending in each channel, at most `limit` and
/// [`ANSWER_MAX`](super::messages::ANSWER_MAX) in all.
///
/// # Errors
/// Of the database.
pub async fn rows_after(
    conn: &mut Conn,
    cursors: &[(StreamId, u64)],
    limit: i64,
    reader: Option<DeviceAddr>,
) -> QueryResult<Rows> {
    if cursors.is_empty() {
        return Ok(Rows { rows: Vec::new(), cut: false });
    }
    let (ids, after) = columns(cursors);
    let rows: Vec<Counted> = sql(within_budget(
        "SELECT m.*, k.ciphertext AS copy_ciphertext, k.nonce AS copy_nonce, (s.ord, m.seq) AS ord
               FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS s (id, after, ord)
              CROSS JOIN LATERAL (SELECT * FROM messages WHERE channel_id = s.id AND seq > s.after ORDER BY seq LIMIT $3) m
               LEFT JOIN message_copies k
                 ON k.channel_id = m.channel_id AND k.seq = m.seq AND k.user_id = $4 AND k.device_id = $5
              ORDER BY s.ord, m.seq LIMIT $3",
    ))
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<BigInt>, _>(after)
    .bind::<BigInt, _>(limit + 1)
    .bind::<Nullable<SqlUuid>, _>(reader.map(|reader| reader.user_id.0))
    .bind::<Nullable<Integer>, _>(reader.map(|reader| reader.device_id.cast_signed()))
    .load(conn)
    .await?;
    Ok(Rows::of(rows, limit))
}

/// Events of streams that are not channels, after their cursors; ascending in each stream, at most `limit` in all.
///
/// # Errors
/// Of the database.
pub async fn events_after(conn: &mut Conn, cursors: &[(StreamId, u64)], limit: i64) -> QueryResult<Vec<StreamEvent>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        stream_id: Uuid,
        #[diesel(sql_type = BigInt)]
        seq: i64,
        #[diesel(sql_type = Jsonb)]
        event: serde_json::Value,
    }
    if cursors.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, after) = columns(cursors);
    let events: Vec<Record> =
        sql("SELECT e.stream_id, e.seq, e.event FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS s (id, after, ord)
          CROSS JOIN LATERAL (SELECT * FROM stream_events WHERE stream_id = s.id AND seq > s.after ORDER BY seq LIMIT $3) e
          ORDER BY s.ord, e.seq LIMIT $3")
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(after)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?;
    let event = |record: Record| StreamEvent {
        stream: StreamId(record.stream_id),
        seq: record.seq.unsigned_abs(),
        // What this version does not know keeps its place.
        event: StreamItem::Event(Box::new(serde_json::from_value(record.event).unwrap_or(Event::Unknown))),
    };
    Ok(events.into_iter().map(event).collect())
}

fn columns(cursors: &[(StreamId, u64)]) -> (Vec<Uuid>, Vec<i64>) {
    cursors.iter().map(|(stream, after)| (stream.0, i64::try_from(*after).unwrap_or(i64::MAX))).unzip()
}

/// Streams whose events right after the cursor are not kept any more.
///
/// # Errors
/// Of the database.
pub async fn outlived(conn: &mut Conn, cursors: &[(StreamId, u64)]) -> QueryResult<Vec<StreamId>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    if cursors.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, after) = columns(cursors);
    let found: Vec<Record> = sql(
        "SELECT h.id FROM unnest($1::uuid[], $2::bigint[]) AS s (id, after) JOIN streams h ON h.id = s.id
          WHERE s.after < h.head_seq AND NOT EXISTS (SELECT 1 FROM stream_events e WHERE e.stream_id = s.id AND e.seq = s.after + 1)",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<BigInt>, _>(after)
    .load(conn)
    .await?;
    Ok(found.into_iter().map(|record| StreamId(record.id)).collect())
}

/// One device's copy of a direct message.
#[derive(QueryableByName)]
pub struct CopyRecord {
    #[diesel(sql_type = BigInt)]
    pub seq: i64,
    #[diesel(sql_type = SqlUuid)]
    pub user_id: Uuid,
    #[diesel(sql_type = Integer)]
    pub device_id: i32,
    #[diesel(sql_type = diesel::sql_types::Bytea)]
    pub ciphertext: Vec<u8>,
    #[diesel(sql_type = diesel::sql_types::Bytea)]
    pub nonce: Vec<u8>,
}

impl CopyRecord {
    /// Whose it is.
    pub fn device(&self) -> DeviceAddr {
        DeviceAddr::new(UserId(self.user_id), DeviceId::from(self.device_id.cast_unsigned()))
    }
}

/// All devices' copies of a direct message channel's rows from one seq to another.
///
/// # Errors
/// Of the database.
pub async fn copies(conn: &mut Conn, channel: ChannelId, from: u64, to: u64) -> QueryResult<Vec<CopyRecord>> {
    sql("SELECT seq, user_id, device_id, ciphertext, nonce FROM message_copies WHERE channel_id = $1 AND seq BETWEEN $2 AND $3")
        .bind::<SqlUuid, _>(channel.0)
        .bind::<BigInt, _>(from.cast_signed())
        .bind::<BigInt, _>(to.cast_signed())
        .load(conn)
        .await
}

/// Which of these sessions may keep their WebSocket.
///
/// # Errors
/// Of the database.
pub async fn live_sessions(conn: &mut Conn, sessions: &[SessionId]) -> QueryResult<HashSet<SessionId>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let live: Vec<Record> = sql("SELECT s.id FROM sessions s JOIN users u ON u.id = s.user_id
          WHERE s.id = ANY ($1) AND s.revoked_at IS NULL AND u.suspended_at IS NULL AND u.deleted_at IS NULL")
    .bind::<Array<SqlUuid>, _>(sessions.iter().map(|session| session.0).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(live.into_iter().map(|record| SessionId(record.id)).collect())
}

/// What a user wants to show of their presence.
///
/// # Errors
/// Of the database.
pub async fn status(conn: &mut Conn, user: UserId) -> QueryResult<Status> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = Text)]
        status: String,
    }
    let record: Record = sql("SELECT status FROM users WHERE id = $1").bind::<SqlUuid, _>(user.0).get_result(conn).await?;
    Ok(serde_json::from_value(serde_json::Value::String(record.status)).unwrap_or_default())
}

/// Whether something is in a user's sight: what [`access`] would list.
///
/// # Errors
/// Of the database.
pub async fn reads_channel(conn: &mut Conn, user: UserId, channel: ChannelId) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = Bool)]
        reads: bool,
    }
    let record: Record = sql("SELECT EXISTS (SELECT 1 FROM channel_readers WHERE channel_id = $1 AND user_id = $2) AS reads")
        .bind::<SqlUuid, _>(channel.0)
        .bind::<SqlUuid, _>(user.0)
        .get_result(conn)
        .await?;
    Ok(record.reads)
}
