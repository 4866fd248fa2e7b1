//! Was anything lost, doubled, invented or put out of order? (`docs/ARCHITECTURE.md`, invariants of delivery.)
//!
//! Pure: what senders did and were told, what the logs hold, what readers ended with. [`History::violations`] is empty
//! exactly when every acknowledged row is in its log where it was said to be, no id is there twice, no seq is missing, nothing
//! is there that nobody sent, each sender's order is kept, times do not go back, and every reader has the log.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

/// A row of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub seq: u64,
    pub id: Uuid,
    /// None: written by the server.
    pub sender: Option<Uuid>,
    pub created_at: String,
}

/// Everything that happened in a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Sends by channel and sender, in the order in which they were first tried.
    invoked: HashMap<(Uuid, Uuid), Vec<Uuid>>,
    /// Acknowledgements: id, channel, seq.
    acked: Vec<(Uuid, Uuid, u64)>,
    logs: BTreeMap<Uuid, Vec<Logged>>,
    /// By reader and channel: seq and id as applied.
    read: BTreeMap<(String, Uuid), Vec<(u64, Uuid)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    Lost { id: Uuid, seq: u64 },
    Doubled { id: Uuid },
    Gap { channel: Uuid, after: u64 },
    Phantom { id: Uuid },
    Reordered { channel: Uuid, sender: Uuid },
    TimeWentBack { channel: Uuid, seq: u64 },
    ReaderDiffers { reader: String, channel: Uuid, at: usize },
}

impl History {
    pub fn invoked(&mut self, channel: Uuid, sender: Uuid, id: Uuid) {
        self.invoked.entry((channel, sender)).or_default().push(id);
    }

    pub fn acked(&mut self, id: Uuid, channel: Uuid, seq: u64) {
        self.acked.push((id, channel, seq));
    }

    pub fn logged(&mut self, channel: Uuid, rows: Vec<Logged>) {
        self.logs.insert(channel, rows);
    }

    pub fn read(&mut self, reader: impl Into<String>, channel: Uuid, rows: Vec<(u64, Uuid)>) {
        self.read.insert((reader.into(), channel), rows);
    }

    /// Acknowledgements so far.
    pub fn acks(&self) -> usize {
        self.acked.len()
    }

    /// What must not be, if anything.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut places: HashMap<Uuid, (Uuid, u64)> = HashMap::new();
        for (channel, rows) in &self.logs {
            let mut orders: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
            for (index, row) in rows.iter().enumerate() {
                if row.seq != index as u64 + 1
                    && !found.iter().any(|v| matches!(v, Violation::Gap { channel: c, .. } if c == channel))
                {
                    found.push(Violation::Gap { channel: *channel, after: index as u64 });
                }
                if places.insert(row.id, (*channel, row.seq)).is_some() {
                    found.push(Violation::Doubled { id: row.id });
                }
                if index > 0 && rows[index - 1].created_at > row.created_at {
                    found.push(Violation::TimeWentBack { channel: *channel, seq: row.seq });
                }
                if let Some(sender) = row.sender {
                    orders.entry(sender).or_default().push(row.id);
                    if !self.invoked.get(&(*channel, sender)).is_some_and(|sent| sent.contains(&row.id)) {
                        found.push(Violation::Phantom { id: row.id });
                    }
                }
            }
            for (sender, order) in orders {
                let sent = self.invoked.get(&(*channel, sender)).map_or(&[][..], Vec::as_slice);
                let expected: Vec<&Uuid> = sent.iter().filter(|id| order.contains(id)).collect();
                if expected != order.iter().collect::<Vec<_>>() {
                    found.push(Violation::Reordered { channel: *channel, sender });
                }
            }
        }
        for (id, channel, seq) in &self.acked {
            if places.get(id) != Some(&(*channel, *seq)) {
                found.push(Violation::Lost { id: *id, seq: *seq });
            }
        }
        for ((reader, channel), read) in &self.read {
            let log: Vec<(u64, Uuid)> = self.logs.get(channel).into_iter().flatten().map(|row| (row.seq, row.id)).collect();
            if *read != log {
                let at = read.iter().zip(&log).take_while(|(read, logged)| read == logged).count();
                found.push(Violation::ReaderDiffers { reader: reader.clone(), channel: *channel, at });
            }
        }
        found
    }
}

fn id(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

/// Two senders, three rows, one reader: nothing wrong.
fn good() -> (History, Uuid, Vec<Logged>) {
    let (channel, ann, bob) = (id(9), id(1), id(2));
    let row = |seq, n, sender, at: &str| Logged { seq, id: id(n), sender: Some(sender), created_at: at.into() };
    let rows = vec![row(1, 11, ann, "1"), row(2, 21, bob, "1"), row(3, 12, ann, "2")];
    let mut history = History::default();
    for (sender, n) in [(ann, 11), (ann, 12), (ann, 13), (bob, 21)] {
        history.invoked(channel, sender, id(n));
    }
    for (n, seq) in [(11, 1), (21, 2)] {
        history.acked(id(n), channel, seq);
    }
    history.read("reader", channel, rows.iter().map(|row| (row.seq, row.id)).collect());
    history.logged(channel, rows.clone());
    (history, channel, rows)
}

#[test]
fn the_checker_accepts_what_is_right_and_finds_every_kind_of_wrong() {
    let (history, channel, rows) = good();
    assert_eq!(history.violations(), []);
    let with_log = |rows: Vec<Logged>| {
        let mut history = history.clone();
        history.read.clear();
        history.logged(channel, rows);
        history.violations()
    };
    let changed = |change: &dyn Fn(&mut Vec<Logged>)| {
        let mut rows = rows.clone();
        change(&mut rows);
        with_log(rows)
    };
    assert_eq!(changed(&|rows| drop(rows.remove(2))), [], "what was not acknowledged may be missing");
    let lost = changed(&|rows| rows.truncate(1));
    assert_eq!(lost, [Violation::Lost { id: id(21), seq: 2 }]);
    assert!(changed(&|rows| rows[2].seq = 4).contains(&Violation::Gap { channel, after: 2 }));
    assert!(changed(&|rows| rows[2].id = id(11)).contains(&Violation::Doubled { id: id(11) }));
    assert!(changed(&|rows| rows[2].id = id(77)).contains(&Violation::Phantom { id: id(77) }));
    assert!(changed(&|rows| rows[2].created_at = "0".into()).contains(&Violation::TimeWentBack { channel, seq: 3 }));
    let swapped = changed(&|rows| {
        rows[0].id = id(12);
        rows[2].id = id(11);
    });
    assert!(swapped.contains(&Violation::Reordered { channel, sender: id(1) }));
    let mut history = history.clone();
    history.read("late", channel, vec![(1, id(11)), (3, id(12))]);
    assert_eq!(history.violations(), [Violation::ReaderDiffers { reader: "late".into(), channel, at: 1 }]);
}
