//! Group commit: sends of all connections become batches, each one call of the database and one commit.
//!
//! A lane takes what has gathered while its last call was under way. When that is little beside those whom it answers just now, it
//! gives them a moment to speak again together; a lone sender never waits. A channel belongs to one lane, so its rows keep the order in which
//! they arrived. An answer leaves only after the commit. Full queues refuse at
//! once (503 `unavailable`); a connection that broke during a commit is told as 503 `outcome_unknown`, never as a failure.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::protocol::codec::Encoding;
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::{SentFrame, ServerFrame};
use crate::protocol::ids::MessageId;
use crate::protocol::messages::{Row, RowKind, Sent};
use crate::server::db::append::{Appender, Draft, Failure, Stored, Verdict};
use crate::server::db::delivery::AudienceId;
use crate::server::error::{ApiError, ApiResult};

use super::fanout::Fanout;
use super::frames;
use super::queue::{Class, Queue, Wakes};

/// Connections that write. Two overlap one's commit with the other's work; where there are few cores, a second one only makes the
/// batches smaller.
fn lanes() -> usize {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 4) { 2 } else { 1 }
}
/// Sends that wait for a lane, and their bytes: one may have a mebibyte, and a database that hangs lets all of them wait.
const WAITING_MAX: usize = 2048;
const WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Sends of one batch, and the bytes after which it is full.
const BATCH_MAX: usize = 128;
const BATCH_BYTES: usize = 1024 * 1024;
/// For those who were answered together to speak again: a call for each of them would cost the database several times as much.
const GATHER: Duration = Duration::from_millis(1);
/// Between two attempts to reach the database.
const RECONNECT: Duration = Duration::from_millis(200);

/// Where the answer to a send goes.
pub enum Reply {
    /// As a frame into a connection's queue.
    Socket { queue: Arc<Queue>, encoding: Encoding },
    /// To a request that waits.
    Request(oneshot::Sender<ApiResult<Sent>>),
}

struct Job {
    draft: Draft,
    reply: Reply,
}

/// Takes sends; cheap to clone. The lanes end when all of these are gone and what waited is done.
#[derive(Clone)]
pub struct Writer {
    lanes: Arc<[Inlet]>,
}

/// The way into a lane.
struct Inlet {
    jobs: mpsc::Sender<Job>,
    /// Bytes of the sends in it.
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    /// Starts the lanes.
    pub fn start(url: &str, fanout: &Arc<Fanout>, tasks: &TaskTracker) -> Self {
        let lane = |_| {
            let (sender, jobs) = mpsc::channel(WAITING_MAX);
            let waiting = Arc::new(AtomicUsize::new(0));
            let lane = Lane { url: url.to_owned(), appender: None, failed: None };
            tasks.spawn(lane.run(Outlet { jobs, waiting: Arc::clone(&waiting), held: None }, Arc::clone(fanout)));
            Inlet { jobs: sender, waiting }
        };
        Self { lanes: (0..lanes()).map(lane).collect() }
    }

    /// Queues a send; the answer comes through `reply`.
    pub fn send(&self, draft: Draft, reply: Reply) {
        let lane = draft.send.channel_id.0.as_u128() % self.lanes.len() as u128;
        let (lane, bytes) = (&self.lanes[lane as usize], size(&draft));
        let job = Job { draft, reply };
        let fits = lane.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= WAITING_BYTES;
        let refused = if fits { lane.jobs.try_send(job).err().map(mpsc::error::TrySendError::into_inner) } else { Some(job) };
        if let Some(job) = refused {
            lane.waiting.fetch_sub(bytes, Ordering::Relaxed);
            let busy = ApiError::retry(ErrorCode::Unavailable, "the server is busy: send it again", Duration::from_secs(1));
            job.reply.answer(job.draft.send.id, Err(busy), &mut Wakes::default());
        }
    }
}

/// The way out of it.
struct Outlet {
    jobs: mpsc::Receiver<Job>,
    waiting: Arc<AtomicUsize>,
    /// What could not join the batch before it: it begins the next one.
    held: Option<Job>,
}

impl Outlet {
    fn len(&self) -> usize {
        self.jobs.len() + usize::from(self.held.is_some())
    }

    /// Until there is a send; false at the end.
    async fn wait(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.jobs.recv().await;
            self.count();
        }
        self.held.is_some()
    }

    /// What waits, as far as it goes together; for [`GATHER`] also what is still to come, until there are `expected`.
    async fn gather(&mut self, expected: usize) -> Batch {
        let mut batch = Batch::default();
        let deadline = Instant::now() + GATHER;
        loop {
            if self.held.is_none() {
                self.held = self.jobs.try_recv().ok();
                if self.held.is_none() && batch.drafts.len() < expected {
                    self.held = timeout_at(deadline, self.jobs.recv()).await.ok().flatten();
                }
                self.count();
            }
            match self.held.take_if(|job| batch.takes(&job.draft)) {
                Some(job) => batch.add(job),
                None => return batch,
            }
        }
    }

    /// A send has left the channel for `held`.
    fn count(&self) {
        if let Some(job) = &self.held {
            self.waiting.fetch_sub(size(&job.draft), Ordering::Relaxed);
        }
    }
}

struct Lane {
    url: String,
    appender: Option<Appender>,
    /// When the database could not be reached.
    failed: Option<Instant>,
}

/// Sends with their outcome, still to be told.
type Done = Vec<(Job, ApiResult<Verdict>)>;

impl Lane {
    async fn run(mut self, mut outlet: Outlet, fanout: Arc<Fanout>) {
        let mut done: Done = Vec::new();
        loop {
            if done.is_empty() && !outlet.wait().await {
                return;
            }
            let answered = done.len();
            let batch = if answered > 1 && outlet.len() * 2 < answered {
                tell_all(&fanout, std::mem::take(&mut done));
                outlet.gather(answered).await
            } else {
                outlet.gather(0).await
            };
            // The last batch is told while the database works on this one.
            let telling = std::mem::take(&mut done);
            (done, ()) = futures_util::future::join(self.append(batch), async { tell_all(&fanout, telling) }).await;
        }
    }

    async fn append(&mut self, batch: Batch) -> Done {
        let Batch { drafts, replies, .. } = batch;
        if drafts.is_empty() {
            return Vec::new();
        }
        let outcomes = match self.call(&drafts).await {
            Ok(verdicts) => verdicts.into_iter().map(Ok).collect(),
            Err(Failure::Refused(error)) if drafts.len() > 1 && one_row_spoils(&error) => self.append_singly(&drafts).await,
            Err(failure) => vec![Err(refusal(&failure)); drafts.len()],
        };
        drafts.into_iter().zip(replies).map(|(draft, reply)| Job { draft, reply }).zip(outcomes).collect()
    }

    /// One of a batch spoilt it for all: each gets its own call.
    async fn append_singly(&mut self, drafts: &[Draft]) -> Vec<ApiResult<Verdict>> {
        let mut outcomes = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let draft = std::slice::from_ref(draft);
            let outcome = match self.call(draft).await {
                // The same id was stored through another lane meanwhile: now it is known.
                Err(Failure::Refused(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => self.call(draft).await,
                outcome => outcome,
            };
            outcomes.push(
                outcome
                    .map_err(|failure| refusal(&failure))
                    .and_then(|verdicts| verdicts.into_iter().next().ok_or_else(|| ApiError::internal("no answer to a send"))),
            );
        }
        outcomes
    }

    async fn call(&mut self, drafts: &[Draft]) -> Result<Vec<Verdict>, Failure> {
        if self.appender.as_ref().is_none_or(Appender::is_closed) {
            if self.failed.is_some_and(|at| at.elapsed() < RECONNECT) {
                return Err(Failure::Unreachable);
            }
            self.appender = match Appender::connect(&self.url).await {
                Ok(appender) => Some(appender),
                Err(cause) => {
                    tracing::warn!(%cause, "cannot reach the database to write messages");
                    self.failed = Some(Instant::now());
                    return Err(Failure::Unreachable);
                }
            };
        }
        let Some(appender) = &self.appender else { return Err(Failure::Unreachable) };
        let outcome = appender.append(drafts).await;
        if let Err(Failure::Unknown) = outcome {
            self.appender = None;
        }
        outcome
    }
}

/// Whether a single row can be the cause: a value or a key. Locks, time limits and a full disk meet all of them, and one after
/// the other they would only wait longer.
fn one_row_spoils(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22") || code.code().starts_with("23"))
}

/// What the clients hear when a call has no verdicts.
fn refusal(failure: &Failure) -> ApiError {
    match failure {
        Failure::Unknown => ApiError::outcome_unknown(),
        Failure::Unreachable => ApiError::unavailable(),
        Failure::Refused(error) => match error.code() {
            Some(
                &SqlState::LOCK_NOT_AVAILABLE
                | &SqlState::QUERY_CANCELED
                | &SqlState::T_R_DEADLOCK_DETECTED
                | &SqlState::READ_ONLY_SQL_TRANSACTION
                | &SqlState::DISK_FULL
                | &SqlState::ADMIN_SHUTDOWN
                | &SqlState::CRASH_SHUTDOWN
                | &SqlState::UNIQUE_VIOLATION,
            ) => ApiError::unavailable(),
            code => ApiError::internal(format_args!("a batch of sends was refused: {code:?}")),
        },
    }
}

/// Sends that go together: no id twice, and nothing that depends on another row of the same batch.
#[derive(Default)]
struct Batch {
    drafts: Vec<Draft>,
    replies: Vec<Reply>,
    bytes: usize,
    ids: HashSet<Uuid>,
    targets: HashSet<Uuid>,
    deleted: HashSet<Uuid>,
}

impl Batch {
    fn takes(&self, draft: &Draft) -> bool {
        let target = draft.send.target_id.map(|id| id.0);
        let aims_at = |set: &HashSet<Uuid>| target.is_some_and(|target| set.contains(&target));
        self.drafts.is_empty()
            || (self.drafts.len() < BATCH_MAX
                && self.bytes + size(draft) <= BATCH_BYTES
                && !self.ids.contains(&draft.send.id.0)
                && !aims_at(&self.ids)
                && !aims_at(&self.deleted)
                && !(draft.send.kind == RowKind::Delete && aims_at(&self.targets)))
    }

    fn add(&mut self, job: Job) {
        let Job { draft, reply } = job;
        self.bytes += size(&draft);
        self.ids.insert(draft.send.id.0);
        if let Some(target) = draft.send.target_id {
            self.targets.insert(target.0);
            if draft.send.kind == RowKind::Delete {
                self.deleted.insert(target.0);
            }
        }
        self.drafts.push(draft);
        self.replies.push(reply);
    }
}

fn size(draft: &Draft) -> usize {
    let copies: usize = draft.send.copies.iter().flatten().map(|copy| copy.ciphertext.len()).sum();
    draft.send.ciphertext.as_ref().map_or(0, crate::protocol::codec::Blob::len) + copies
}

/// Tells the outcomes of a batch; whatever it brings for one connection leaves in one write. Who has sent is woken first: their
/// next sends then gather while the others are served.
fn tell_all(fanout: &Fanout, done: Done) {
    let (mut senders, mut listeners) = (Wakes::default(), Wakes::default());
    for (job, outcome) in done {
        tell(fanout, job, outcome, &mut senders, &mut listeners);
    }
    drop(senders);
    drop(listeners);
}

/// Answers the sender, then everybody who hears the channel.
fn tell(fanout: &Fanout, job: Job, outcome: ApiResult<Verdict>, senders: &mut Wakes, listeners: &mut Wakes) {
    let Job { draft, reply } = job;
    let (id, channel_id) = (draft.send.id, draft.send.channel_id);
    let sent = |seq, created_at, duplicate| Ok(Sent { id, channel_id, seq, created_at, duplicate });
    match outcome {
        Ok(Verdict::Stored(stored)) => {
            reply.answer(id, sent(stored.seq, stored.created_at, false), senders);
            publish(fanout, draft, &stored, listeners);
        }
        Ok(Verdict::Duplicate { seq, created_at }) => reply.answer(id, sent(seq, created_at, true), senders),
        Ok(Verdict::Refused { code, details }) => reply.answer(id, Err(refused(code, details, draft.limited)), senders),
        Err(error) => reply.answer(id, Err(error), senders),
    }
}

fn publish(fanout: &Fanout, draft: Draft, stored: &Stored, wakes: &mut Wakes) {
    let Draft { send, sender, device, .. } = draft;
    let row = Row {
        id: send.id,
        channel_id: send.channel_id,
        seq: stored.seq,
        log_seq: stored.log_seq,
        kind: send.kind,
        sender_id: Some(sender),
        sender_device: device,
        thread_id: send.thread_id,
        reply_to_id: send.reply_to_id,
        target_id: send.target_id,
        ciphertext: send.ciphertext,
        nonce: send.nonce,
        body: None,
        file_ids: send.file_ids,
        created_at: stored.created_at,
        expires_at: stored.expires_at,
        deleted_at: None,
        quarantined: false,
    };
    match stored.log_id {
        Some(log) => fanout.row(row, AudienceId(log), stored.shrink_seq, wakes),
        None => fanout.dm_row(row, send.copies.unwrap_or_default(), wakes),
    }
}

/// The sentence that goes with a code of the database function.
fn refused(code: ErrorCode, details: Option<serde_json::Value>, wait: Option<Duration>) -> ApiError {
    let message = match code {
        ErrorCode::NotFound => return ApiError::not_found(),
        ErrorCode::Banned => "you are banned here",
        ErrorCode::IdReused => "this id was used for something else",
        ErrorCode::Forbidden => "this session may not write this here",
        ErrorCode::Suspended => return ApiError::suspended(),
        ErrorCode::TimedOut => "you are timed out here",
        ErrorCode::Archived => "this channel is archived",
        ErrorCode::ReadOnly => "only moderators write here",
        ErrorCode::Blocked => "one of you has blocked the other",
        ErrorCode::StaleLog => "the membership has changed: fetch the log, rotate and send again",
        ErrorCode::StaleDevices => "the devices have changed: add and remove copies and send again",
        ErrorCode::SlowMode => "this channel is in slow mode",
        ErrorCode::RateLimited => return ApiError::rate_limited(wait.unwrap_or(Duration::from_secs(1))),
        ErrorCode::Conflict => "this channel has its 50 pins",
        ErrorCode::Validation => "ciphertext: the form or the epoch does not fit this channel",
        _ => return ApiError::internal(format_args!("a send was answered with {code:?}")),
    };
    ApiError { code, message: message.to_owned(), details }
}

impl Reply {
    fn answer(self, id: MessageId, outcome: ApiResult<Sent>, wakes: &mut Wakes) {
        match self {
            Self::Socket { queue, encoding } => {
                let frame = match outcome {
                    Ok(sent) => ServerFrame::Sent(SentFrame::Row(sent)),
                    Err(error) => ServerFrame::Error(frames::error_frame(Some(id.to_string()), error)),
                };
                if let Some(message) = frames::encode(&frame, encoding) {
                    queue.push_in(message, Class::Durable, wakes);
                }
            }
            // A request that was given up does not need its answer: the row is stored, a repeat finds it.
            Self::Request(sender) => drop(sender.send(outcome)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::{ChannelId, UserId};
    use crate::protocol::messages::Send;

    fn draft(id: u8, kind: RowKind, target: Option<u8>) -> Draft {
        let send = Send {
            id: MessageId::from_bytes([id; 16]),
            channel_id: ChannelId::from_bytes([9; 16]),
            kind,
            thread_id: None,
            reply_to_id: None,
            target_id: target.map(|target| MessageId::from_bytes([target; 16])),
            ciphertext: Some(vec![0; 424].into()),
            nonce: None,
            file_ids: vec![],
            expires_in_s: None,
            copies: None,
            device_lists: None,
            skipped: vec![],
        };
        Draft { send, sender: UserId::from_bytes([1; 16]), device: Some(1), hash: [0; 32], epoch: Some(1), limited: None }
    }

    fn batch(drafts: &[Draft]) -> Batch {
        let mut batch = Batch::default();
        for draft in drafts {
            assert!(batch.takes(draft));
            let (sender, _) = oneshot::channel();
            batch.add(Job { draft: draft.clone(), reply: Reply::Request(sender) });
        }
        batch
    }

    #[test]
    fn a_batch_holds_nothing_that_depends_on_another_row_of_it() {
        let full =
            batch(&[draft(1, RowKind::Message, None), draft(2, RowKind::Reaction, Some(8)), draft(3, RowKind::Delete, Some(7))]);
        assert!(full.takes(&draft(4, RowKind::Message, None)));
        assert!(full.takes(&draft(4, RowKind::Reaction, Some(8))), "many may react to the same message");
        assert!(!full.takes(&draft(1, RowKind::Message, None)), "the same id");
        assert!(!full.takes(&draft(4, RowKind::Edit, Some(1))), "the target is not stored yet");
        assert!(!full.takes(&draft(4, RowKind::Delete, Some(8))), "what aims at the target is not stored yet");
        assert!(!full.takes(&draft(4, RowKind::Reaction, Some(7))), "the target is going");
    }

    #[test]
    fn what_waits_for_a_lane_is_bounded_in_bytes() {
        let (jobs, mut lane) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer { lanes: [Inlet { jobs, waiting: Arc::clone(&waiting) }].into() };
        let mut big = draft(1, RowKind::Message, None);
        big.send.ciphertext = Some(vec![0; WAITING_BYTES / 4].into());
        let send = |draft: &Draft| {
            let (reply, mut answer) = oneshot::channel();
            writer.send(draft.clone(), Reply::Request(reply));
            answer.try_recv().ok().map(|answer| answer.unwrap_err().code)
        };
        for _ in 0..4 {
            assert_eq!(send(&big), None, "it waits");
        }
        assert_eq!(send(&draft(2, RowKind::Message, None)), Some(ErrorCode::Unavailable));
        assert_eq!(waiting.load(Ordering::Relaxed), WAITING_BYTES);
        assert_eq!(std::iter::from_fn(|| lane.try_recv().ok()).count(), 4);
    }

    #[test]
    fn a_batch_is_bounded_in_rows_and_bytes() {
        let mut full = Batch::default();
        let mut count = 0u8;
        while full.takes(&draft(count, RowKind::Message, None)) {
            let (sender, _) = oneshot::channel();
            full.add(Job { draft: draft(count, RowKind::Message, None), reply: Reply::Request(sender) });
            count += 1;
        }
        assert_eq!(usize::from(count), BATCH_MAX);
        let mut big = draft(1, RowKind::Message, None);
        big.send.ciphertext = Some(vec![0; BATCH_BYTES].into());
        assert!(Batch::default().takes(&big) && !batch(&[draft(2, RowKind::Message, None)]).takes(&big));
    }
}
