//! The seam in a channel after the server's database was restored from a backup (`protocol.md` 4.3): what may have been lost is read
//! again, what the server has lost stays here without a number, and what comes in its place is unread. Start with
//! [`Engine::cross_seam`].

use crate::client::model::{MessageRef, SystemLine};
use crate::client::store::{From, Lines, Position, StoreError, Table};
use crate::protocol::ids::{ChannelId, StreamId};
use crate::protocol::messages::{Row, RowKind};

use super::lines::Line;
use super::{Cx, Engine};

/// Rows of each channel that are read again.
const SEAM_ROWS: u64 = 500;
/// What was accepted is remembered longer (`crypto.md` 9.2), milliseconds.
const REMEMBERED_MS: u64 = 80 * 86_400_000;
const LINES_AT_ONCE: usize = 500;

impl Engine {
    /// The database of the server was restored: read again what may have been lost, and mark the place.
    pub(super) fn cross_seam(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.sync.inbox_seq = 0;
        cx.db.save(Table::Account, *b"inbox", &0u64)?;
        self.sync.snapshot = false;
        cx.db.delete(Table::Account, *b"snapshot");
        self.look_at_logs();
        let streams: Vec<(StreamId, u64)> = self.sync.cursors.iter().map(|(stream, seq)| (*stream, *seq)).collect();
        for (stream, seq) in streams {
            let channel_id = ChannelId(stream.0);
            if self.places.channels.contains_key(&channel_id) {
                let head = self.sync.heads.get(&stream).copied().unwrap_or(0);
                let start = self.places.channels.get(&channel_id).and_then(|channel| channel.start_seq).unwrap_or(0);
                self.set_cursor(cx, stream, seq.min(head).saturating_sub(SEAM_ROWS).max(start.min(seq)))?;
                self.cut(cx, channel_id, head)?;
                self.places.update_state(&mut cx.db, channel_id, |state| state.seam = state.newest)?;
                self.local_line(cx, channel_id, SystemLine::Seam)?;
            } else {
                self.sync.cursors.remove(&stream);
                cx.db.delete(Table::Cursors, stream.as_bytes());
            }
        }
        Ok(())
    }

    /// A row that is read again: from the first on that is not the one that was here, all is new.
    pub(super) fn compare_at_seam(&mut self, cx: &mut Cx<'_>, row: &Row) -> Result<(), StoreError> {
        let again = self.places.states.get(&row.channel_id).is_some_and(|state| row.seq <= state.seam);
        let Some(author) = row.sender_id.filter(|_| again && matches!(row.kind, RowKind::Message | RowKind::Poll)) else {
            return Ok(());
        };
        let key = MessageRef { author, id: row.id };
        let known = match Line::load(&cx.db, row.channel_id, key)? {
            Some(line) => line.position == Position::row(row.seq),
            None => {
                let old = row.created_at.as_unix_ms().saturating_add(REMEMBERED_MS) < cx.now.as_unix_ms();
                old || self.was_seen(cx, row.channel_id, key)?
            }
        };
        if !known {
            self.cut(cx, row.channel_id, row.seq.saturating_sub(1))?;
            self.places.update_state(&mut cx.db, row.channel_id, |state| state.seam = 0)?;
        }
        Ok(())
    }

    /// What is here behind a row is not what the server has there: it keeps its order and loses its numbers, and what comes under
    /// these numbers was not read.
    fn cut(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, after: u64) -> Result<(), StoreError> {
        let from = From::After(Position::local(after, i64::MAX as u64));
        loop {
            let page = cx.db.page(channel_id, Lines::All, from, LINES_AT_ONCE)?;
            let lost = page.iter().take_while(|message| !message.position.is_pending()).collect::<Vec<_>>();
            if lost.is_empty() {
                break;
            }
            for message in lost {
                let mut line = Line::from_stored(message)?;
                line.position = Position::local(after, cx.db.next_number("line")?);
                line.value.revision += 1;
                self.put_line(cx, line)?;
            }
        }
        let read_seq = self.places.state(channel_id).read_seq.min(after);
        let (unread, mentions) = self.unread_after(cx, channel_id, read_seq)?;
        self.places.update_state(&mut cx.db, channel_id, |state| {
            (state.read_seq, state.unread, state.mentions) = (read_seq, unread, mentions);
            (state.newest, state.timer_seq) = (state.newest.min(after), state.timer_seq.min(after));
            state.oldest = state.oldest.filter(|oldest| *oldest <= after);
        })
    }
}
