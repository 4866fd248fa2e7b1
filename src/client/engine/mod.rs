//! The client as a machine: inputs are pushed in, what has to be saved and done comes out.
//!
//! It never awaits and does no I/O; it knows no clock and no global randomness: time and randomness are arguments. It reads
//! through [`Store`] and writes only by returning [`Changes`](super::store::Changes), which the driver saves before it
//! performs the rest. Start with [`io`], then [`Engine::handle`]; each concern has its file:
//!
//! `keys` this device · `sync`, `snapshot`, `events` and `seam` streams in step · `outbox`, `turns` and `unsent` what waits · `contacts` and `gossip` whom we know
//! by which keys ·
//! `sessions`, `absence`, `receive`, `held` and `gaps` frames of devices · `membership`, `feed`, `views` and `forks` who belongs where · `warnings` what is wrong · `groups` channel keys · `timeline` and `lines` what was
//! said · `places` and `tree` what the server shows · `settle` when nothing is left to do · `commands`, `errands`, `ops` and `instance` what the user
//! asks for.
//!
//! Nothing here acts at once: every step ends in [`Engine::pump`], which looks at what is wanted and possible and asks for
//! what is missing. So a crash, a lost line or a refusal anywhere loses nothing but time.

mod absence;
mod commands;
mod contacts;
mod db;
mod errands;
mod events;
mod feed;
mod forks;
mod gaps;
mod gossip;
mod groups;
mod held;
mod http;
mod instance;
pub mod io;
mod keys;
mod lines;
mod membership;
mod ops;
mod outbox;
mod places;
mod receipts;
mod receive;
mod seam;
mod search;
mod sessions;
mod settle;
mod snapshot;
mod sync;
#[cfg(test)]
pub(in crate::client) mod tests;
mod time;
mod timeline;
mod tree;
mod turns;
mod unsent;
mod views;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;

use super::command::RequestId;
use super::event::ClientEvent;
use super::model::{Connection, MessageRef, Problem, Trust, Untrusted};
use super::store::{Store, StoreError, Table};
use crate::crypto::contact::Contact;
use crate::protocol::codec::Timestamp;
use crate::protocol::frame::ClientFrame;
use crate::protocol::ids::{ChannelId, DeviceId, LogId, UserId};

pub use io::{Answer, HttpTag, Input, Line, Login, Method, Output, Request, Step, Unreachable};

use db::Db;
use ops::Waiting;
use time::Timers;

/// The state of one profile: what the store holds of it in memory, and what is under way.
#[derive(Default)]
pub struct Engine {
    me: Option<keys::Me>,
    keys: Option<keys::Keys>,
    login: Option<Login>,
    connection: Connection,
    places: places::Places,
    contacts: BTreeMap<UserId, Contact>,
    lists: contacts::Lists,
    logs: BTreeMap<LogId, membership::LogState>,
    feeds: BTreeMap<LogId, feed::LogFeed>,
    own_chains: BTreeMap<ChannelId, groups::Own>,
    peer_chains: groups::PeerChains,
    sessions: sessions::Sessions,
    held: held::HeldIndex,
    bundles_asked: BTreeSet<UserId>,
    bundles_wanted: BTreeMap<UserId, Vec<DeviceId>>,
    prekeys_asked: bool,
    outbox: turns::Turns,
    sync: sync::Sync,
    http: http::Http,
    waiting: Vec<Waiting>,
    /// Who is told when nothing of the client's own is under way.
    settling: Vec<RequestId>,
    timers: Timers,
    /// The last moment that the driver was asked to come back at.
    woken: Option<u64>,
    /// The time of the last step, milliseconds.
    clock: u64,
    retrying: bool,
    retrying_keys: bool,
    /// How far the sweep of old keys got: table, last key.
    swept: Option<(Table, Vec<u8>)>,
    /// See [`Engine::begin_anew`].
    began_anew: bool,
    /// When all sessions were looked through for messages that did not come, milliseconds.
    gaps_looked_ms: u64,
    /// Notices of the last minute, so that nobody who lies without end is heard without end.
    noticed: BTreeMap<String, u64>,
    /// Whether receipts go out; the user may turn them off.
    receipts_off: bool,
    /// Tables that the upkeep under way still looks through, and how far it got.
    upkeep: BTreeMap<Table, Option<Vec<u8>>>,
}

/// The same notice is told once in this time, milliseconds; so many different ones are remembered.
const NOTICE_MS: u64 = 60_000;
const NOTICES_MAX: usize = 200;
/// A clock that goes back by less is none that was set, milliseconds.
const CLOCK_STEP_MS: u64 = 2_000;

/// One step: what it reads, writes and leads to.
struct Cx<'a> {
    db: Db<'a>,
    now: Timestamp,
    rng: &'a mut dyn CryptoRng,
    out: Vec<Output>,
    /// Lines that are new or changed.
    touched: BTreeSet<(ChannelId, MessageRef)>,
    removed: Vec<(ChannelId, MessageRef)>,
    ack_inbox: Option<u64>,
}

impl Cx<'_> {
    fn tell(&mut self, event: ClientEvent) {
        self.out.push(Output::Tell(event));
    }

    fn send(&mut self, frame: ClientFrame) {
        self.out.push(Output::Send(frame));
    }

    fn notice(&mut self, problem: Problem) {
        self.tell(ClientEvent::Notice(problem));
    }

    fn random_id(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A UUIDv7 of this moment.
    fn uuid_v7(&mut self) -> uuid::Uuid {
        let random = self.random_id();
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&random[..10]);
        uuid::Builder::from_unix_timestamp_millis(self.now.as_unix_ms(), &bytes).into_uuid()
    }
}

impl Engine {
    /// Takes up a profile: an empty store begins one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: &dyn Store) -> Result<Self, StoreError> {
        let db = Db::new(store);
        let (me, keys) = keys::open(&db)?;
        let (contacts, lists) = contacts::open(store)?;
        let (logs, feeds) = membership::open(store)?;
        Ok(Self {
            me,
            keys,
            places: places::Places::open(store)?,
            contacts,
            lists,
            logs,
            feeds,
            own_chains: groups::open(store)?,
            sessions: sessions::Sessions::open(&db)?,
            held: held::HeldIndex::open(&db)?,
            outbox: outbox::open(&db)?,
            sync: sync::Sync::open(&db)?,
            timers: Timers::at_start(),
            receipts_off: db.has(Table::Account, receipts::RECEIPTS_OFF)?,
            ..Self::default()
        })
    }

    /// One step. `now` never matters for safety, only for deadlines and what is shown.
    ///
    /// # Errors
    /// When the store cannot be read: the step did not happen, and the engine must be opened again.
    pub fn handle(
        &mut self,
        input: Input,
        store: &dyn Store,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step, StoreError> {
        let mut cx =
            Cx { db: Db::new(store), now, rng, out: Vec::new(), touched: BTreeSet::new(), removed: Vec::new(), ack_inbox: None };
        self.look_at_clock(now);
        match input {
            Input::LoggedIn(login) => self.on_login(&mut cx, login)?,
            Input::Command(request, command) => self.on_command(&mut cx, request, command)?,
            Input::Line(line) => self.on_line(&mut cx, line),
            Input::Frame(frame) => self.on_frame(&mut cx, frame)?,
            Input::Http { tag, answer } => self.on_http(&mut cx, tag, answer)?,
            Input::Tick => {}
        }
        self.pump(&mut cx)?;
        self.finish(&mut cx)?;
        Ok(Step { changes: cx.db.changes, after: cx.out })
    }

    /// People set clocks, and machines wake up with wrong ones.
    fn look_at_clock(&mut self, now: Timestamp) {
        let now = now.as_unix_ms();
        let last = std::mem::replace(&mut self.clock, now);
        if now.saturating_add(CLOCK_STEP_MS) < last {
            self.timers.clock_set_back();
            self.outbox.clock_set_back();
            self.ops_clock_set_back(last - now);
            self.feeds.values_mut().for_each(feed::LogFeed::clock_set_back);
            self.woken = None;
        }
    }

    /// Does what is due and asks for what is missing.
    fn pump(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        if self.timers.login.is_some_and(|at| at <= cx.now.as_unix_ms()) {
            self.go_on_with_login(cx)?;
        }
        if self.me.is_none() {
            return Ok(());
        }
        let now = cx.now.as_unix_ms();
        if self.timers.expiry.is_some_and(|at| at <= now) {
            self.expire(cx)?;
        }
        if self.timers.upkeep.is_some_and(|at| at <= now) {
            self.keep_up(cx)?;
        }
        if self.timers.sweep.is_some_and(|at| at <= now) {
            self.sweep(cx)?;
        }
        self.pump_sync(cx)?;
        self.acknowledge_due(cx)?;
        self.flush_receipts(cx)?;
        self.ask_for_held(cx)?;
        self.flush_controls(cx)?;
        self.pump_outbox(cx)?;
        self.pump_errands(cx)?;
        self.pump_logs(cx);
        self.pump_lists(cx);
        self.pump_bundles(cx);
        self.pump_prekeys(cx)
    }

    /// Drops notices that were told a moment ago.
    fn hush(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now.as_unix_ms();
        cx.out.retain(|output| {
            let Output::Tell(ClientEvent::Notice(problem)) = output else { return true };
            if self.noticed.len() >= NOTICES_MAX {
                self.noticed.retain(|_, at| now.abs_diff(*at) < NOTICE_MS);
            }
            let told = self.noticed.get(problem.text.raw()).is_some_and(|at| now.abs_diff(*at) < NOTICE_MS);
            if !told && self.noticed.len() < NOTICES_MAX {
                self.noticed.insert(problem.text.raw().to_owned(), now);
            }
            !told
        });
    }

    /// Tells what changed and when to come back.
    fn finish(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        self.send_ack(cx);
        let touched = std::mem::take(&mut cx.touched);
        let mut channels: BTreeMap<ChannelId, Vec<lines::Line>> = BTreeMap::new();
        for (channel_id, key) in touched {
            if let Some(line) = lines::Line::load(&cx.db, channel_id, key)? {
                channels.entry(channel_id).or_default().push(line);
            }
        }
        let mut removed: BTreeMap<ChannelId, Vec<MessageRef>> = BTreeMap::new();
        for (channel_id, key) in std::mem::take(&mut cx.removed) {
            removed.entry(channel_id).or_default().push(key);
        }
        for (channel_id, keys) in removed {
            cx.tell(ClientEvent::TimelineRemoved { channel_id, keys });
        }
        for (channel_id, mut lines) in channels {
            lines.sort_by_key(|line| (line.position, line.key));
            let items = lines.iter().map(|line| lines::item(&cx.db, self, line).map(Arc::new)).collect::<Result<_, _>>()?;
            cx.tell(ClientEvent::Timeline { channel_id, items });
        }
        self.hush(cx);
        if std::mem::take(&mut self.places.dirty) && self.me.as_ref().is_some_and(|me| me.registered) {
            cx.tell(ClientEvent::Tree(Arc::new(self.tree())));
        }
        if std::mem::take(&mut self.sync.just_caught_up) {
            cx.tell(ClientEvent::Syncing { remaining: 0 });
        }
        self.tell_settled(cx);
        let next = self.timers.next(cx.now.as_unix_ms(), self.sessions.next_answer());
        if next.is_some() && next != self.woken {
            self.woken = next;
            if let Some(at) = next.and_then(|at| i64::try_from(at).ok()) {
                cx.out.push(Output::Wake(Timestamp(at)));
            }
        }
        Ok(())
    }
}

impl lines::Viewer for Engine {
    fn me(&self) -> UserId {
        self.me_id()
    }

    fn name(&self, channel_id: ChannelId, user_id: UserId) -> Untrusted {
        self.places.name_in(channel_id, user_id)
    }

    fn trust(&self, user_id: UserId) -> Trust {
        self.trust_of(user_id)
    }
}

impl fmt::Debug for Engine {
    /// It holds keys: nothing of it is printed but how far it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("phase", &self.sync.phase).field("outbox", &self.outbox.len()).finish_non_exhaustive()
    }
}
