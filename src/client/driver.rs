//! The only loop: what the engine's thread ([`super::core`]) wants done is done here, and what happens outside becomes its
//! inputs. Four tasks that never wait for each other in a circle: the performer takes outputs, the line holds the
//! connection, the clock wakes the engine, and each REST call is a task of its own.
//!
//! Start with [`start`], then `perform` and [`super::line`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::{Command, RequestId};
use super::core::{self, CoreKeep, Task, now};
use super::engine::{Answer, Input, Line, Output, Request, Unreachable};
use super::event::ClientEvent;
use super::line;
use super::lock::Lock;
use super::model::{Account, Connection, Problem, ProblemKind, Tree};
use super::session::{NoToken, Session, SessionRecord};
use super::store::Store;
use super::transport::{Call, Transport};
use crate::protocol::codec::Timestamp;
use crate::protocol::error::{ErrorBody, ErrorCode};
use crate::protocol::frame::ClientFrame;

/// Events that wait for a user interface. The first one, which owns the client, holds everything back when it is full; a
/// guest that is so slow is dropped and comes again.
pub const EVENTS: usize = 1024;
/// REST calls at once.
const CALLS: usize = 8;
/// Guests get so long to read what is left for them when the client ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A request id is (audience member ‖ its own number): answers find their way without a table.
const NUMBER_BITS: u32 = 40;

/// What the tasks share.
pub struct Shared {
    pub tasks: mpsc::Sender<Task>,
    pub session: Session<CoreKeep>,
    pub transport: Arc<dyn Transport>,
    /// Towards the server; none without a connection.
    pub outgoing: Mutex<Option<mpsc::Sender<ClientFrame>>>,
    /// Connect now.
    pub poke: Notify,
    pub stop: CancellationToken,
    wake: watch::Sender<Option<Timestamp>>,
    calls: Semaphore,
    /// Waited for at the end.
    pub tracker: TaskTracker,
}

impl Shared {
    pub fn new(record: Option<SessionRecord>, tasks: mpsc::Sender<Task>, transport: Arc<dyn Transport>) -> Self {
        Self {
            session: Session::new(record, CoreKeep(tasks.clone()), transport.clone()),
            tasks,
            transport,
            outgoing: Mutex::new(None),
            poke: Notify::new(),
            stop: CancellationToken::new(),
            wake: watch::Sender::new(None),
            calls: Semaphore::new(CALLS),
            tracker: TaskTracker::new(),
        }
    }

    /// False when the engine's thread is gone.
    pub async fn input(&self, input: Input) -> bool {
        self.tasks.send(Task::Input(input)).await.is_ok()
    }

    pub fn set_outgoing(&self, outgoing: Option<mpsc::Sender<ClientFrame>>) {
        *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = outgoing;
    }
}

/// Another listener beside the owner: a process at the agent's socket.
#[derive(Debug)]
pub struct Guest {
    /// From 1.
    pub number: u32,
    pub events: mpsc::Sender<ClientEvent>,
}

/// A running client.
pub struct Driver {
    pub shared: Arc<Shared>,
    pub guests: mpsc::Sender<Guest>,
    finished: CancellationToken,
}

/// Starts everything. `events` gets every event; `store` holds the profile, and `lock` is let go after it was closed.
///
/// # Errors
/// When the store cannot be read or no thread can be started.
pub fn start(
    store: Box<dyn Store + Send>,
    transport: Arc<dyn Transport>,
    events: mpsc::Sender<ClientEvent>,
    lock: Option<Lock>,
) -> Result<Driver, Problem> {
    let record = core::load_session(store.as_ref()).map_err(|error| core::failed(&error))?;
    let (tasks, queue) = mpsc::channel(core::QUEUE);
    let (outputs, thread) = core::start(store, queue)?;
    let (guests, joining) = mpsc::channel(1);
    let shared = Arc::new(Shared::new(record.clone(), tasks, transport));
    let finished = CancellationToken::new();
    let running = shared.clone();
    shared.tracker.spawn(async move {
        if let Some(record) = record {
            running.input(Input::LoggedIn(record.login())).await;
        }
        let timer = clock(running.clone());
        let line = line::run(running.clone());
        // Both end when the client stops; a line that waits for a login must not keep it.
        running.stop.run_until_cancelled(async { tokio::join!(timer, line) }).await;
        running.set_outgoing(None);
        // Behind everything that happened before the stop.
        let _ = running.tasks.send(Task::Stop).await;
    });
    tokio::spawn({
        let (shared, finished) = (shared.clone(), finished.clone());
        async move {
            perform(&shared, outputs, joining, events).await;
            shared.stop.cancel();
            // Guests hear how it ended, if they listen.
            shared.tracker.close();
            let _ = tokio::time::timeout(LAST_WORDS, shared.tracker.wait()).await;
            // The thread closes the store; that can take a moment.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            drop(lock);
            finished.cancel();
        }
    });
    Ok(Driver { shared, guests, finished })
}

impl Driver {
    /// Stops: what was written is on disk, the line is closed, the store too.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.finished.cancelled().await;
    }

    /// A command of a member of the audience: 0 is the owner.
    pub async fn command(&self, member: u32, number: u64, command: Command) -> bool {
        self.shared.input(Input::Command(request(member, number), command)).await
    }
}

fn request(member: u32, number: u64) -> RequestId {
    RequestId(u64::from(member) << NUMBER_BITS | number & ((1 << NUMBER_BITS) - 1))
}

async fn perform(
    shared: &Arc<Shared>,
    mut outputs: mpsc::Receiver<Output>,
    mut joining: mpsc::Receiver<Guest>,
    owner: mpsc::Sender<ClientEvent>,
) {
    let mut audience = Audience::new(owner);
    loop {
        let output = tokio::select! {
            // A guest is here before what it asked for is answered.
            biased;
            Some(guest) = joining.recv() => {
                audience.join(guest);
                continue;
            }
            output = outputs.recv() => output,
        };
        match output {
            None => break,
            Some(Output::Send(frame)) => send(shared, frame),
            Some(Output::Http(request)) => {
                let shared = shared.clone();
                let stop = shared.stop.clone();
                tokio::spawn(async move { stop.run_until_cancelled(call(&shared, request)).await });
            }
            Some(Output::Tell(event)) => audience.tell(event).await,
            Some(Output::Wake(at)) => {
                shared.wake.send_replace(Some(at));
            }
            // Both save through the engine's thread, which may be waiting for this very task.
            Some(Output::Session(device)) => {
                let shared = shared.clone();
                tokio::spawn(async move { shared.session.bind(device).await });
            }
            Some(Output::ForgetSession) => {
                let shared = shared.clone();
                tokio::spawn(async move { shared.session.forget().await });
            }
            Some(Output::Reconnect) => shared.poke.notify_one(),
        }
    }
    audience.tell(ClientEvent::Closed).await;
}

/// Without a connection the frame is dropped: the engine sends again after the next `ready`. So it is with a connection whose
/// queue is full, which is dropped with it.
fn send(shared: &Shared, frame: ClientFrame) {
    let mut outgoing = shared.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
    if outgoing.as_ref().is_some_and(|outgoing| outgoing.try_send(frame).is_err()) {
        *outgoing = None;
    }
}

/// One REST call, whatever comes of it.
async fn call(shared: &Shared, request: Request) {
    let Ok(_permit) = shared.calls.acquire().await else { return };
    let Request { tag, method, path, body } = request;
    let answer = ask(shared, Call { method, path, body, bearer: None }).await.map_err(|why| Unreachable { why });
    shared.input(Input::Http { tag, answer }).await;
}

/// With a token; with another one when the server wants that.
async fn ask(shared: &Shared, call: Call) -> Result<Answer, String> {
    let token = usable(shared, shared.session.token(now()).await).await?;
    let first = shared.transport.http(Call { bearer: Some(token.clone()), ..call.clone() }).await.map_err(|error| error.why)?;
    if !wants_renewal(&first) {
        return Ok(first);
    }
    // The server refused before it did anything, so asking again is safe.
    let token = usable(shared, shared.session.renewed(&token).await).await?;
    shared.transport.http(Call { bearer: Some(token), ..call }).await.map_err(|error| error.why)
}

async fn usable<T>(shared: &Shared, token: Result<T, NoToken>) -> Result<T, String> {
    match token {
        Ok(token) => Ok(token),
        Err(NoToken::LoggedOut(why)) => {
            shared.input(Input::Line(Line::LoggedOut { why: why.clone() })).await;
            Err(why)
        }
        Err(NoToken::Transport(error)) => Err(error.why),
        Err(NoToken::Later(why)) => Err(why),
        Err(NoToken::Store) => Err("the local store failed".to_owned()),
    }
}

fn wants_renewal(answer: &Answer) -> bool {
    answer.status == 401
        && serde_json::from_slice::<ErrorBody>(&answer.body)
            .is_ok_and(|body| matches!(body.error.code, ErrorCode::TokenExpired | ErrorCode::Unauthenticated))
}

/// Sends a tick when the engine's moment has come. It looks at the clock of the wall at least twice a minute, since the
/// machine may have slept and people set clocks.
async fn clock(shared: Arc<Shared>) {
    let mut wake = shared.wake.subscribe();
    loop {
        let due = *wake.borrow_and_update();
        let Some(due) = due else {
            if wake.changed().await.is_err() {
                return;
            }
            continue;
        };
        let wait = u64::try_from(due.0 - now().0).unwrap_or(0).min(30_000);
        tokio::select! {
            changed = wake.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(wait)) => {
                if now() >= due {
                    // One tick for one wake; the engine asks again.
                    shared.wake.send_if_modified(|at| if *at == Some(due) { *at = None; true } else { false });
                    shared.input(Input::Tick).await;
                }
            }
        }
    }
}

/// Everybody who hears events, and what a newcomer has to know.
struct Audience {
    owner: Option<mpsc::Sender<ClientEvent>>,
    guests: BTreeMap<u32, mpsc::Sender<ClientEvent>>,
    account: Option<Arc<Account>>,
    tree: Arc<Tree>,
    connection: Connection,
    syncing: u64,
}

impl Audience {
    fn new(owner: mpsc::Sender<ClientEvent>) -> Self {
        Self {
            owner: Some(owner),
            guests: BTreeMap::new(),
            account: None,
            tree: Arc::default(),
            connection: Connection::default(),
            syncing: 0,
        }
    }

    fn join(&mut self, guest: Guest) {
        let mut now = vec![ClientEvent::Connection(self.connection.clone()), ClientEvent::Syncing { remaining: self.syncing }];
        if let Some(account) = &self.account {
            now.insert(0, ClientEvent::Opened { account: account.clone(), tree: self.tree.clone() });
        }
        if now.into_iter().all(|event| guest.events.try_send(event).is_ok()) {
            self.guests.insert(guest.number, guest.events);
        }
    }

    async fn tell(&mut self, event: ClientEvent) {
        match &event {
            ClientEvent::Opened { account, tree } => (self.account, self.tree) = (Some(account.clone()), tree.clone()),
            ClientEvent::Tree(tree) => self.tree = tree.clone(),
            ClientEvent::Connection(connection) => self.connection = connection.clone(),
            ClientEvent::Syncing { remaining } => self.syncing = *remaining,
            _ => {}
        }
        if let ClientEvent::Done { request: RequestId(id), result } = event {
            let (member, number) = (u32::try_from(id >> NUMBER_BITS).unwrap_or(0), id & ((1 << NUMBER_BITS) - 1));
            let done = ClientEvent::Done { request: RequestId(number), result };
            if member == 0 {
                self.tell_owner(done).await
            } else {
                self.tell_guest(member, done)
            }
            return;
        }
        let guests: Vec<u32> = self.guests.keys().copied().collect();
        for guest in guests {
            self.tell_guest(guest, event.clone());
        }
        self.tell_owner(event).await;
    }

    async fn tell_owner(&mut self, event: ClientEvent) {
        if let Some(owner) = &self.owner
            && owner.send(event).await.is_err()
        {
            self.owner = None;
        }
    }

    /// A guest that does not listen is dropped; its connection closes and it may come again.
    fn tell_guest(&mut self, number: u32, event: ClientEvent) {
        if self.guests.get(&number).is_some_and(|guest| guest.try_send(event).is_err()) {
            self.guests.remove(&number);
        }
    }
}

/// The answer to a command that did not fit into the queue.
pub fn too_busy() -> Problem {
    Problem::new(ProblemKind::Failed, "the client is too busy").hint("Try again in a moment.")
}

#[cfg(test)]
mod tests;
