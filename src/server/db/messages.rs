//! Rows of a channel's log: reading them, and the rows that the server writes itself. `append_rows()` of
//! `migrations/006_append` is the one door into the log; what people send comes through [`super::append`].

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use serde_json::Value;
use uuid::Uuid;

use crate::protocol::ids::{ChannelId, MessageId, StreamId};
use crate::protocol::messages::RowKind;

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
    let placed: Vec<Placed> = diesel::sql_query("SELECT channel_id, seq FROM append_server_rows($1, $2, $3, $4, $5)")
        .bind::<Array<SqlUuid>, _>(rows.iter().map(|row| row.id.0).collect::<Vec<_>>())
        .bind::<Array<SqlUuid>, _>(rows.iter().map(|row| row.channel_id.0).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
        .bind::<Array<Nullable<SqlUuid>>, _>(rows.iter().map(|row| row.target_id.map(|id| id.0)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.body.to_string()).collect::<Vec<_>>())
        .load(conn)
        .await?;
    Ok(placed.into_iter().map(|row| (StreamId(row.channel_id), row.seq.unsigned_abs())).collect())
}
