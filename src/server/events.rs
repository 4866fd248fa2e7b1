//! What a transaction has to tell: events of streams and rows that the server writes into channels. They are collected while
//! the change is made and written at its end, so that the locks are taken in the order that everybody keeps (streams, then
//! channels) whatever the order in which the change found out what it causes.

use serde_json::Value;

use crate::protocol::codec::Blob;
use crate::protocol::ids::{ChannelId, MessageId, StreamId, UserId};
use crate::protocol::messages::RowKind;
use crate::protocol::streams::Event;

use super::app::App;
use super::db::{Conn, QueryResult, messages, streams};

/// Events and rows in the order in which their readers shall see them.
#[derive(Debug, Default)]
pub struct Events {
    told: Vec<(Vec<StreamId>, Event)>,
    rows: Vec<messages::ServerRow>,
    looked_at: Vec<StreamId>,
    access: Vec<UserId>,
}

/// What was written: for the WebSockets, after the commit.
#[derive(Debug, Default)]
#[must_use]
pub struct Written {
    moved: Vec<(StreamId, u64)>,
    access: Vec<UserId>,
}

impl Events {
    pub fn tell(&mut self, stream: impl Into<StreamId>, event: Event) {
        self.told.push((vec![stream.into()], event));
    }

    /// The same event to many.
    pub fn tell_all(&mut self, streams: Vec<StreamId>, event: Event) {
        self.told.push((streams, event));
    }

    /// A row of the server's in a channel's log.
    pub fn row(&mut self, channel: ChannelId, kind: RowKind, body: Value) {
        self.rows.push(messages::ServerRow {
            id: MessageId(uuid::Uuid::now_v7()),
            channel_id: channel,
            kind,
            target_id: None,
            body,
        });
    }

    /// An op of a private channel's log (protocol 9.21).
    pub fn member_row(&mut self, channel: ChannelId, log_seq: u64, op: &[u8]) {
        self.row(channel, RowKind::Member, serde_json::json!({ "log_seq": log_seq, "op": Blob::from(op) }));
    }

    /// A stream begins or ends for those who hear its log anyway.
    pub fn look_at(&mut self, stream: impl Into<StreamId>) {
        self.looked_at.push(stream.into());
    }

    /// This user can read other streams than before.
    pub fn access_changed(&mut self, user: UserId) {
        self.access.push(user);
    }

    /// Writes everything, inside the transaction of the change; its last step.
    ///
    /// # Errors
    /// Of the database.
    pub async fn write(self, conn: &mut Conn) -> QueryResult<Written> {
        let mut moved: Vec<(StreamId, u64)> = self.looked_at.into_iter().map(|stream| (stream, 0)).collect();
        let all: Vec<StreamId> = self.told.iter().flat_map(|(streams, _)| streams.iter().copied()).collect();
        if !all.is_empty() {
            streams::lock(conn, &all).await?;
        }
        for (streams, event) in &self.told {
            moved.extend(streams::append_to(conn, streams, event).await?);
        }
        if !self.rows.is_empty() {
            moved.extend(messages::append_server_rows(conn, &self.rows).await?);
        }
        Ok(Written { moved, access: self.access })
    }
}

impl Written {
    /// Tells the WebSockets. After the commit, never before.
    pub fn announce(self, app: &App) {
        // What can be read is settled before the new heads make connections look.
        app.access_changed(self.access);
        app.notify(self.moved);
    }
}
