//! Streams that are not channels (users, communities, private groups): numbered events under the stream's row lock.

use diesel::sql_types::{Array, BigInt, Jsonb, Nullable, Uuid as SqlUuid};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryableByName};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use crate::protocol::ids::StreamId;
use crate::protocol::streams::Event;

use super::schema::streams;
use super::{Conn, QueryResult};

/// Makes the stream of a new user, community or private group; one that exists stays as it is.
///
/// # Errors
/// Of the database.
pub async fn create(conn: &mut Conn, stream: StreamId) -> QueryResult<()> {
    diesel::insert_into(streams::table).values(streams::id.eq(stream.0)).on_conflict_do_nothing().execute(conn).await?;
    Ok(())
}

/// Adds an event and answers its seq. Call it inside the transaction of the change, and `app.notify` after the commit.
///
/// # Errors
/// `NotFound` for a stream that does not exist.
pub async fn append(conn: &mut Conn, stream: StreamId, event: &Event) -> QueryResult<(StreamId, u64)> {
    append_to(conn, &[stream], event).await?.pop().ok_or(diesel::result::Error::NotFound)
}

/// Locks streams in the order that everybody keeps: a transaction that appends to several of them, in whatever order, begins
/// with this.
///
/// # Errors
/// Of the database.
pub async fn lock(conn: &mut Conn, streams: &[StreamId]) -> QueryResult<()> {
    let ids: Vec<Uuid> = streams.iter().map(|stream| stream.0).collect();
    let locked = streams::table.filter(streams::id.eq_any(ids)).order(streams::id).select(streams::id).for_update();
    locked.load::<Uuid>(conn).await?;
    Ok(())
}

/// Adds the same event to several streams. Their rows are locked in the order of their ids, so that two calls cannot
/// deadlock; a transaction that appends more than once does so in that order too, or through one call of this function.
/// Streams that do not exist are left out.
///
/// # Errors
/// Of the database.
pub async fn append_to(conn: &mut Conn, streams: &[StreamId], event: &Event) -> QueryResult<Vec<(StreamId, u64)>> {
    #[derive(QueryableByName)]
    struct Moved {
        #[diesel(sql_type = SqlUuid)]
        stream_id: Uuid,
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    let event = serde_json::to_value(event).map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
    let ids: Vec<Uuid> = streams.iter().map(|stream| stream.0).collect();
    let moved: Vec<Moved> = diesel::sql_query(
        "WITH locked AS (SELECT id FROM streams WHERE id = ANY($1) ORDER BY id FOR UPDATE),
              moved AS (UPDATE streams s SET head_seq = s.head_seq + 1 FROM locked WHERE s.id = locked.id RETURNING s.id, s.head_seq)
         INSERT INTO stream_events (stream_id, seq, event) SELECT id, head_seq, $2 FROM moved RETURNING stream_id, seq",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Nullable<Jsonb>, _>(Some(event))
    .load(conn)
    .await?;
    Ok(moved.into_iter().map(|row| (StreamId(row.stream_id), row.seq.unsigned_abs())).collect())
}
