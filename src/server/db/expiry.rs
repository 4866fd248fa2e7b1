//! What is kept for a time only, and how it goes: in batches, so that no statement holds many rows for long.

use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use super::{Conn, QueryResult};

/// Rows of one statement.
pub const BATCH: usize = 1000;

/// Messages whose time is over keep their place and lose their content (`docs/PROTOCOL.md` 9.7).
///
/// # Errors
/// Of the database.
pub async fn erase_messages(conn: &mut Conn) -> QueryResult<usize> {
    #[derive(QueryableByName)]
    struct Erased {
        #[diesel(sql_type = BigInt)]
        rows: i64,
    }
    let erased: Erased = sql_query(format!(
        "WITH due AS (SELECT channel_id, seq FROM messages WHERE expires_at <= now() AND deleted_at IS NULL ORDER BY expires_at LIMIT {BATCH}),
              by_channel AS (SELECT channel_id, array_agg(seq) AS seqs FROM due GROUP BY channel_id),
              erased AS MATERIALIZED (SELECT erase_rows(channel_id, seqs), cardinality(seqs) AS rows FROM by_channel)
         SELECT coalesce(sum(rows), 0)::bigint AS rows FROM erased",
    ))
    .get_result(conn)
    .await?;
    Ok(usize::try_from(erased.rows).unwrap_or_default())
}

/// Logins that nobody can use any more, thirty days after their end, with their tokens.
///
/// # Errors
/// Of the database.
pub async fn delete_sessions(conn: &mut Conn) -> QueryResult<usize> {
    sql_query(format!(
        "DELETE FROM sessions WHERE id IN (
             SELECT s.id FROM sessions s
             WHERE s.last_used_at < now() - interval '30 days'
               AND (s.revoked_at < now() - interval '30 days'
                    OR NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.session_id = s.id AND t.expires_at > now() - interval '30 days'))
             LIMIT {BATCH})",
    ))
    .execute(conn)
    .await
}

/// Events of user, community and group streams after thirty days; heads stay (9.17).
///
/// # Errors
/// Of the database.
pub async fn delete_events(conn: &mut Conn) -> QueryResult<usize> {
    sql_query(format!(
        "DELETE FROM stream_events e USING (
             SELECT stream_id, seq FROM stream_events WHERE created_at < now() - interval '30 days' ORDER BY created_at LIMIT {BATCH}) old
         WHERE e.stream_id = old.stream_id AND e.seq = old.seq",
    ))
    .execute(conn)
    .await
}

/// Frames that their device did not fetch for thirty days.
///
/// # Errors
/// Of the database.
pub async fn delete_inbox(conn: &mut Conn) -> QueryResult<usize> {
    sql_query(format!(
        "DELETE FROM inbox i USING (
             SELECT user_id, device_id, inbox_seq FROM inbox WHERE created_at < now() - interval '30 days' ORDER BY created_at LIMIT {BATCH}) old
         WHERE i.user_id = old.user_id AND i.device_id = old.device_id AND i.inbox_seq = old.inbox_seq",
    ))
    .execute(conn)
    .await
}

/// Idempotency keys of `send_devices` after seven days (9.13).
///
/// # Errors
/// Of the database.
pub async fn delete_batches(conn: &mut Conn) -> QueryResult<usize> {
    sql_query(format!(
        "DELETE FROM device_batches b USING (
             SELECT user_id, id FROM device_batches WHERE created_at < now() - interval '7 days' ORDER BY created_at LIMIT {BATCH}) old
         WHERE b.user_id = old.user_id AND b.id = old.id",
    ))
    .execute(conn)
    .await
}
