//! Is what arrives under load what was sent: every acknowledged row at its place, no gap, nothing twice, nothing invented, the
//! same log for every reader? Looked at while the load runs; plain data, no clock and no socket.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::protocol::ids::MessageId;

/// One room's log as its readers see it. Shared by all of them.
#[derive(Debug, Default)]
pub struct Log(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// By seq, from the first one of this load.
    rows: HashMap<u64, MessageId>,
    acked: Vec<(MessageId, u64)>,
    wrong: Vec<String>,
    faults: u64,
}

/// How far one reader is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// None before the first row.
    next: Option<u64>,
    pub rows: u64,
}

/// Faults that are kept word for word; the others are counted.
const KEPT: usize = 5;

impl Log {
    /// A reader applied a row.
    pub fn read(&self, cursor: &mut Cursor, seq: u64, id: MessageId) {
        let mut seen = self.lock();
        if let Some(expected) = cursor.next
            && expected != seq
        {
            seen.fault(|| format!("seq {seq} came where {expected} was expected"));
        }
        cursor.next = Some(seq + 1);
        cursor.rows += 1;
        let first = *seen.rows.entry(seq).or_insert(id);
        if first != id {
            seen.fault(|| format!("two readers have different rows at seq {seq}: {first} and {id}"));
        }
    }

    /// A sender was told that its row is committed there.
    pub fn acked(&self, id: MessageId, seq: u64) {
        self.lock().acked.push((id, seq));
    }

    /// Something else that must not be.
    pub fn wrong(&self, what: String) {
        self.lock().fault(|| what);
    }

    /// At the end, when every reader had time to read everything: what was wrong, as text, and how much.
    pub fn faults(&self, readers: &[Cursor]) -> (u64, Vec<String>) {
        let mut seen = self.lock();
        let acked = std::mem::take(&mut seen.acked);
        for (id, seq) in &acked {
            let found = seen.rows.get(seq).copied();
            if found != Some(*id) {
                seen.fault(|| format!("{id} was acknowledged at seq {seq}, where the readers have {found:?}"));
            }
        }
        let newest = readers.iter().filter_map(|reader| reader.next).max();
        for behind in readers.iter().filter(|reader| reader.next != newest) {
            seen.fault(|| format!("a reader ended at {:?} instead of {newest:?}", behind.next));
        }
        (seen.faults, seen.wrong.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn fault(&mut self, what: impl FnOnce() -> String) {
        self.faults += 1;
        if self.wrong.len() < KEPT {
            self.wrong.push(what());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> MessageId {
        MessageId::from_bytes([n; 16])
    }

    fn run(reads: [&[(u64, u8)]; 2], acks: &[(u8, u64)]) -> u64 {
        let log = Log::default();
        let cursors = reads.map(|rows| {
            let mut cursor = Cursor::default();
            rows.iter().for_each(|(seq, n)| log.read(&mut cursor, *seq, id(*n)));
            cursor
        });
        acks.iter().for_each(|(n, seq)| log.acked(id(*n), *seq));
        log.faults(&cursors).0
    }

    #[test]
    fn a_right_log_is_not_accused() {
        assert_eq!(run([&[(7, 1), (8, 2)], &[(7, 1), (8, 2)]], &[(1, 7), (2, 8)]), 0);
    }

    #[test]
    fn gaps_repeats_differences_and_losses_are_found() {
        assert_eq!(run([&[(7, 1), (9, 3)], &[(7, 1), (8, 2), (9, 3)]], &[]), 1, "a gap");
        assert_eq!(run([&[(7, 1), (7, 1), (8, 2)], &[(7, 1), (8, 2)]], &[]), 1, "a repeat");
        assert_eq!(run([&[(7, 1)], &[(7, 2)]], &[]), 1, "different rows");
        assert_eq!(run([&[(7, 1)], &[(7, 1), (8, 2)]], &[]), 1, "a reader that misses the end");
        assert_eq!(run([&[(7, 1)], &[(7, 1)]], &[(2, 8)]), 1, "an acknowledged row that nobody has");
    }
}
