//! The load that everything is about: people in rooms who write while everybody in the room listens. Plain parameters in
//! ([`Talk`]), plain figures out ([`Talked`]).
//!
//! Paced senders are an open loop: a row is due at its moment whatever happened to those before it, and its latency counts from
//! that moment. Senders with a window keep so many rows unanswered: that finds the greatest throughput.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::model::Problem;
use crate::client::transport::Net;
use crate::protocol::ids::MessageId;

use super::check::{Cursor, Log};
use super::failed;
use super::measure::{Latencies, Usage, Who};
use super::people::{People, Room};
use super::wire::{Clock, Heard, Seat, Target};

/// Sockets that are opened at a time.
const OPENING: usize = 16;
/// After the end, for answers and deliveries that are under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a sender decides when to send.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Rows of each sender in a second.
    Rate(f64),
    /// Rows of each sender that wait for their acknowledgement.
    Window(usize),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Talk {
    pub rooms: Vec<Room>,
    /// Of each room, the first ones of its members.
    pub senders: usize,
    pub pace: Pace,
    pub warmup: Duration,
    pub measured: Duration,
}

/// Processes whose CPU time is counted.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    pub server: u32,
    pub postgres: Option<u32>,
}

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub server: f64,
    pub postgres: f64,
    /// By the generator.
    pub own: f64,
}

impl Spent {
    fn now(processes: Processes) -> Result<Self, Problem> {
        let postgres = processes.postgres.map(|pid| Usage::of(Who::Tree(pid))).transpose()?;
        Ok(Self {
            server: Usage::of(Who::One(processes.server))?.cpu_s,
            postgres: postgres.map_or(0.0, |usage| usage.cpu_s),
            own: Usage::of(Who::One(std::process::id()))?.cpu_s,
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self { server: self.server - earlier.server, postgres: self.postgres - earlier.postgres, own: self.own - earlier.own }
    }
}

/// What happened in the measured time.
#[derive(Clone, Debug, Default)]
pub struct Talked {
    pub seconds: f64,
    /// Acknowledged in that time.
    pub acked: u64,
    /// Rows heard in that time, each reader's own.
    pub delivered: u64,
    /// Of rows that were due in that time.
    pub ack: Latencies,
    pub delivery: Latencies,
    /// For each of these rows, its last delivery.
    pub last_delivery: Latencies,
    pub spent: Spent,
    /// What the checker found.
    pub faults: u64,
    pub wrong: Vec<String>,
}

impl Talked {
    pub fn rows_per_s(&self) -> f64 {
        self.acked as f64 / self.seconds
    }

    /// Microseconds of the server's CPU for each delivery.
    pub fn server_us(&self) -> f64 {
        self.spent.server * 1e6 / (self.delivered as f64).max(1.0)
    }

    pub fn postgres_us(&self) -> f64 {
        self.spent.postgres * 1e6 / (self.delivered as f64).max(1.0)
    }

    /// Cores that the generator took.
    pub fn own_cores(&self) -> f64 {
        self.spent.own / self.seconds
    }
}

/// What the participants share.
struct Hall {
    clock: Clock,
    from: Instant,
    until: Instant,
    pace: Pace,
    figures: Mutex<Figures>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Figures {
    acked: u64,
    delivered: u64,
    ack: Latencies,
    delivery: Latencies,
    last: HashMap<MessageId, Duration>,
    /// Over the whole time: rows acknowledged and heard.
    acked_ever: u64,
    heard_ever: u64,
    senders_done: usize,
}

impl Hall {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_measured(&self, at: Instant) -> bool {
        at >= self.from && at < self.until
    }

    fn acked(&self, id: MessageId, now: Instant) {
        let mut figures = self.figures();
        figures.acked_ever += 1;
        figures.acked += u64::from(self.is_measured(now));
        if let Some(intended) = self.clock.intended(id).filter(|at| self.is_measured(*at)) {
            figures.ack.add(now.saturating_duration_since(intended));
        }
    }

    fn heard(&self, id: MessageId, now: Instant) {
        let Some(intended) = self.clock.intended(id) else { return };
        let mut figures = self.figures();
        figures.heard_ever += 1;
        figures.delivered += u64::from(self.is_measured(now));
        if self.is_measured(intended) {
            let latency = now.saturating_duration_since(intended);
            figures.delivery.add(latency);
            // Only few rows have so many readers that the last one is worth knowing.
            if let Pace::Rate(_) = self.pace {
                let last = figures.last.entry(id).or_default();
                *last = latency.max(*last);
            }
        }
    }
}

/// Runs the load.
///
/// # Errors
/// When somebody cannot connect or a socket breaks. What the checker finds is no error here: see [`Talked::faults`].
pub async fn talk(target: Target<'_>, processes: Processes, people: &People, talk: &Talk) -> Result<Talked, Problem> {
    let mut seats: Vec<(usize, usize, Seat)> = Vec::new();
    for (number, room) in talk.rooms.iter().enumerate() {
        let members = people.members(room).iter().enumerate();
        let opened: Vec<(usize, usize, Seat)> = stream::iter(members.map(|(member, account)| async move {
            Seat::connect(target, account, room).await.map(|seat| (number, member, seat))
        }))
        .buffered(OPENING)
        .try_collect()
        .await?;
        seats.extend(opened);
    }
    // What connecting has set off (presence, caches) is over.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let clock = Clock::start();
    let from = clock.zero() + talk.warmup;
    let hall = Arc::new(Hall {
        clock,
        from,
        until: from + talk.measured,
        pace: talk.pace,
        figures: Mutex::default(),
        stop: CancellationToken::new(),
    });
    let logs: Vec<Arc<Log>> = talk.rooms.iter().map(|_| Arc::default()).collect();
    let checked = seats.iter().all(|(.., seat)| !seat.is_control());
    let mut tasks = JoinSet::new();
    for (place, (room, member, seat)) in seats.into_iter().enumerate() {
        let participant = Participant {
            hall: Arc::clone(&hall),
            log: Arc::clone(&logs[room]),
            room: talk.rooms[room].clone(),
            sender: (member < talk.senders).then_some(place as u16),
            seat,
            open: HashSet::new(),
            cursor: Cursor::default(),
        };
        tasks.spawn(async move { participant.run().await.map(|cursor| (room, cursor)) });
    }
    tokio::time::sleep_until(from.into()).await;
    let before = Spent::now(processes)?;
    tokio::time::sleep_until(hall.until.into()).await;
    let spent = Spent::now(processes)?.since(before);
    settle(&hall, talk).await;
    hall.stop.cancel();
    let mut cursors: Vec<Vec<Cursor>> = vec![Vec::new(); talk.rooms.len()];
    while let Some(done) = tasks.join_next().await {
        let (room, cursor) = done.map_err(|error| failed(error.to_string()))??;
        cursors[room].push(cursor);
    }
    let figures = std::mem::take(&mut *hall.figures());
    let mut talked = Talked {
        seconds: talk.measured.as_secs_f64(),
        acked: figures.acked,
        delivered: figures.delivered,
        ack: figures.ack,
        delivery: figures.delivery,
        spent,
        ..Talked::default()
    };
    figures.last.into_values().for_each(|last| talked.last_delivery.add(last));
    for (log, readers) in logs.iter().zip(&cursors).filter(|_| checked) {
        let (faults, wrong) = log.faults(readers);
        talked.faults += faults;
        talked.wrong.extend(wrong);
    }
    Ok(talked)
}

/// Waits until everything that was acknowledged has been heard by everybody.
async fn settle(hall: &Hall, talk: &Talk) {
    let deadline = Instant::now() + PATIENCE;
    let (senders, readers) = (talk.senders * talk.rooms.len(), talk.rooms[0].members as u64);
    while Instant::now() < deadline {
        {
            let figures = hall.figures();
            if figures.senders_done >= senders && figures.heard_ever >= figures.acked_ever * readers {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Participant {
    hall: Arc<Hall>,
    log: Arc<Log>,
    room: Room,
    /// Its number, if it sends.
    sender: Option<u16>,
    seat: Seat,
    /// Rows without an acknowledgement.
    open: HashSet<MessageId>,
    cursor: Cursor,
}

impl Participant {
    async fn run(mut self) -> Result<Cursor, Problem> {
        if let Some(number) = self.sender {
            self.write(number).await?;
            self.hall.figures().senders_done += 1;
        }
        let stop = self.hall.stop.clone();
        loop {
            tokio::select! {
                biased;
                heard = self.seat.hear() => self.note(heard?),
                () = stop.cancelled() => return Ok(self.cursor),
            }
        }
    }

    /// Sends until the end, hearing what comes, and waits for the last answers.
    async fn write(&mut self, number: u16) -> Result<(), Problem> {
        let hall = Arc::clone(&self.hall);
        let mut due = match hall.pace {
            // Senders of one rate do not all send at the same moment.
            Pace::Rate(per_s) => hall.clock.zero() + Duration::from_secs_f64(f64::from(number % 64) / 64.0 / per_s),
            Pace::Window(_) => hall.clock.zero(),
        };
        while due < hall.until {
            match hall.pace {
                Pace::Rate(per_s) => {
                    tokio::select! {
                        heard = self.seat.hear() => self.note(heard?),
                        () = tokio::time::sleep_until(due.into()) => {
                            self.send(hall.clock.id(due, number)).await?;
                            due += Duration::from_secs_f64(1.0 / per_s);
                        }
                    }
                }
                Pace::Window(window) => {
                    if self.open.len() < window {
                        self.send(hall.clock.id(Instant::now(), number)).await?;
                    } else {
                        let heard = self.seat.hear().await?;
                        self.note(heard);
                    }
                    due = Instant::now();
                }
            }
        }
        let rest = async {
            while !self.open.is_empty() {
                let heard = self.seat.hear().await?;
                self.note(heard);
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, rest).await {
            Ok(done) => done,
            Err(_) => {
                self.log.wrong(format!("{} rows were never answered", self.open.len()));
                Ok(())
            }
        }
    }

    async fn send(&mut self, id: MessageId) -> Result<(), Problem> {
        if !self.open.insert(id) {
            // Two rows of one sender in one microsecond.
            return Ok(());
        }
        self.seat.send(&self.room, id).await
    }

    fn note(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Row { id, seq } => {
                self.hall.heard(id, now);
                if self.seat.is_control() {
                    // Its own row that came back is all that a sender learns there.
                    if self.open.remove(&id) {
                        self.hall.acked(id, now);
                    }
                } else {
                    self.log.read(&mut self.cursor, seq, id);
                }
            }
            Heard::Acked { id, seq } => {
                if self.open.remove(&id) {
                    self.hall.acked(id, now);
                    self.log.acked(id, seq);
                } else {
                    self.log.wrong(format!("{id} was acknowledged, and nobody waited for it"));
                }
            }
            Heard::Refused { id, why } => {
                if let Some(id) = id {
                    self.open.remove(&id);
                }
                self.log.wrong(why);
            }
            Heard::Nothing => {}
        }
    }
}

/// Rows that [`fill`] sends without an answer.
const FILLING: usize = 100;

/// Writes rows into a room as its first member until its head is at least `head`; answers the head.
///
/// # Errors
/// When a row is refused.
pub async fn fill(net: &Net, people: &People, room: &Room, head: u64) -> Result<u64, Problem> {
    let account = people.members(room).first().ok_or_else(|| failed("a room without members"))?;
    let opened = net.open(account.token.clone()).await.map_err(|error| failed(error.to_string()))?;
    let mut now = opened.1.streams.get(&room.channel_id.into()).copied().unwrap_or_default();
    drop(opened);
    let mut seat = Seat::connect(Target::Server(net), account, room).await?;
    let clock = Clock::start();
    let (mut sent, mut open) = (now, 0);
    while now < head {
        if sent < head && open < FILLING {
            // Made-up moments: the ids only have to differ.
            seat.send(room, clock.id(clock.zero() + Duration::from_micros(sent), 0)).await?;
            (sent, open) = (sent + 1, open + 1);
            continue;
        }
        match seat.hear().await? {
            Heard::Acked { seq, .. } => (now, open) = (now.max(seq), open - 1),
            Heard::Refused { why, .. } => return Err(failed(format!("a row was refused: {why}"))),
            Heard::Row { .. } | Heard::Nothing => {}
        }
    }
    Ok(now)
}
