//! The thread that owns the engine and the store. It takes inputs from a bounded queue, many at once when many wait, saves
//! what their steps changed in one transaction, and only then hands out what there is to do. It knows no socket.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use getrandom::SysRng;
use rand_core::UnwrapErr;
use tokio::sync::{mpsc, oneshot};

use super::engine::{Engine, Input, Output};
use super::event::ClientEvent;
use super::model::{Problem, ProblemKind, TimelineItem};
use super::session::{Keep, SessionRecord};
use super::store::{Changes, Store, StoreError, Table};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::ChannelId;

/// Inputs that wait. A full queue holds back the socket, and so the server.
pub const QUEUE: usize = 1024;
/// Inputs that share a transaction: enough to make a sync cheap, few enough to keep a key press fast.
const BATCH: usize = 64;
/// When nothing came for so long, what was deleted is wiped off the disk.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// In [`Table::Driver`].
const SESSION_KEY: &[u8] = b"session";

/// Something for the thread.
#[derive(Debug)]
pub enum Task {
    Input(Input),
    /// Save the login; true when it is on disk.
    Keep(Box<SessionRecord>, oneshot::Sender<bool>),
    /// Do what came before, then end.
    Stop,
}

/// Saves through the thread.
#[derive(Clone, Debug)]
pub struct CoreKeep(pub mpsc::Sender<Task>);

impl Keep for CoreKeep {
    async fn keep(&self, record: &SessionRecord) -> bool {
        let (done, kept) = oneshot::channel();
        self.0.send(Task::Keep(Box::new(record.clone()), done)).await.is_ok() && kept.await.unwrap_or(false)
    }
}

/// The login that a store holds.
///
/// # Errors
/// When the store cannot be read.
pub fn load_session(store: &dyn Store) -> Result<Option<SessionRecord>, StoreError> {
    let Some(bytes) = store.get(Table::Driver, SESSION_KEY)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StoreError::Damaged { table: Table::Driver.name(), what: error.to_string() })
}

/// Saves a login before there is a client.
///
/// # Errors
/// When the store cannot be written.
pub fn save_session(store: &mut dyn Store, record: &SessionRecord) -> Result<(), StoreError> {
    let mut changes = Changes::default();
    changes.put(Table::Driver, SESSION_KEY, serde_json::to_vec(record).map_err(|error| StoreError::Io(error.to_string()))?);
    store.save(changes)
}

/// Starts the thread. It ends after [`Task::Stop`], when the queue's senders are gone, or when the store fails; then the
/// receiver of outputs ends.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(
    store: Box<dyn Store + Send>,
    tasks: mpsc::Receiver<Task>,
) -> Result<(mpsc::Receiver<Output>, thread::JoinHandle<()>), Problem> {
    let (outputs, performed) = mpsc::channel(QUEUE);
    let thread = thread::Builder::new()
        .name("chat-core".to_owned())
        .spawn(move || {
            let mut store = store;
            if let Err(error) = run(store.as_mut(), tasks, &outputs) {
                tracing::error!(%error, "the local store failed, the client stops");
                let _ = outputs.blocking_send(Output::Tell(ClientEvent::Notice(failed(&error))));
            }
        })
        .map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot start a thread: {error}")))?;
    Ok((performed, thread))
}

fn run(store: &mut dyn Store, mut tasks: mpsc::Receiver<Task>, outputs: &mpsc::Sender<Output>) -> Result<(), StoreError> {
    let idle = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| StoreError::Io(format!("cannot wait: {error}")))?;
    let mut engine = Engine::open(store)?;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = if store.is_untidy() {
            let wait = async { tokio::time::timeout(TIDY_AFTER, tasks.recv_many(&mut batch, BATCH)).await };
            let Ok(received) = idle.block_on(wait) else {
                store.tidy()?;
                continue;
            };
            received
        } else {
            tasks.blocking_recv_many(&mut batch, BATCH)
        };
        if received == 0 {
            return Ok(());
        }
        let mut after = Vec::new();
        let mut kept = Vec::new();
        let mut stop = false;
        // Whatever fails below leaves the batch uncommitted: nothing of it was saved, and nothing of it is performed.
        store.begin()?;
        for task in batch.drain(..) {
            match task {
                Task::Input(input) => {
                    let step = engine.handle(input, store, now(), &mut UnwrapErr(SysRng))?;
                    store.save(step.changes)?;
                    after.extend(step.after);
                }
                Task::Keep(record, done) => {
                    save_session(store, &record)?;
                    kept.push(done);
                }
                Task::Stop => stop = true,
            }
        }
        store.commit()?;
        for done in kept {
            // Who asked may have given up.
            let _ = done.send(true);
        }
        for output in coalesce(after) {
            if outputs.blocking_send(output).is_err() {
                return Ok(());
            }
        }
        if stop {
            return Ok(());
        }
    }
}

/// Fewer events for the same news: a user interface draws once for a hundred messages of one channel.
fn coalesce(after: Vec<Output>) -> Vec<Output> {
    let mut out: Vec<Option<Output>> = Vec::with_capacity(after.len());
    let mut tree = None;
    let mut timelines: BTreeMap<ChannelId, usize> = BTreeMap::new();
    for output in after {
        match output {
            Output::Tell(ClientEvent::Tree(new)) => {
                // The newest tree says it all; it stands where it was last changed.
                if let Some(slot) = tree.replace(out.len()).and_then(|at: usize| out.get_mut(at)) {
                    *slot = None;
                }
                out.push(Some(Output::Tell(ClientEvent::Tree(new))));
            }
            Output::Tell(ClientEvent::Timeline { channel_id, items }) => {
                let earlier = timelines.get(&channel_id).and_then(|&at| out.get_mut(at));
                if let Some(Some(Output::Tell(ClientEvent::Timeline { items: all, .. }))) = earlier {
                    for item in items {
                        match all.iter_mut().find(|old| TimelineItem::same_line(old, &item)) {
                            Some(old) => *old = item,
                            None => all.push(item),
                        }
                    }
                } else {
                    timelines.insert(channel_id, out.len());
                    out.push(Some(Output::Tell(ClientEvent::Timeline { channel_id, items })));
                }
            }
            Output::Tell(
                event @ (ClientEvent::TimelineRemoved { .. } | ClientEvent::Done { .. } | ClientEvent::Opened { .. }),
            ) => {
                // What comes later must not move before these.
                timelines.clear();
                tree = None;
                out.push(Some(Output::Tell(event)));
            }
            other => out.push(Some(other)),
        }
    }
    out.into_iter().flatten().collect()
}

/// Now, by this machine's clock.
pub fn now() -> Timestamp {
    chrono::Utc::now().into()
}

/// What to tell when the store failed.
pub fn failed(error: &StoreError) -> Problem {
    Problem::new(ProblemKind::Failed, error.to_string())
        .hint("The client stopped so that nothing is lost. Check the disk, then start it again.")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::command::RequestId;
    use super::super::event::Answer;
    use super::super::model::Tree;
    use super::*;

    fn tree(waiting: usize) -> Output {
        Output::Tell(ClientEvent::Tree(Arc::new(Tree { waiting, ..Tree::default() })))
    }

    fn timeline(channel: u8) -> Output {
        Output::Tell(ClientEvent::Timeline { channel_id: ChannelId::from_bytes([channel; 16]), items: Vec::new() })
    }

    fn done() -> Output {
        Output::Tell(ClientEvent::Done { request: RequestId(1), result: Ok(Answer::Ok) })
    }

    #[test]
    fn news_of_one_batch_is_told_once() {
        let out = coalesce(vec![tree(1), timeline(1), timeline(2), tree(2), timeline(1), tree(3)]);
        let told: Vec<String> = out
            .iter()
            .map(|output| match output {
                Output::Tell(ClientEvent::Tree(tree)) => format!("tree {}", tree.waiting),
                Output::Tell(ClientEvent::Timeline { channel_id, .. }) => format!("timeline {}", channel_id.as_bytes()[0]),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ["timeline 1", "timeline 2", "tree 3"]);
    }

    #[test]
    fn nothing_moves_before_the_answer_that_it_followed() {
        let out = coalesce(vec![timeline(1), tree(1), done(), timeline(1), tree(2)]);
        assert_eq!(out.len(), 5);
    }
}
