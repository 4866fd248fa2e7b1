//! The one door into a channel's log for what people send: `append_rows()` of `migrations/006_append`, called with a whole
//! batch in one round trip and one commit.
//!
//! It knows SQL and nothing of sockets. It uses a connection of its own beside the pool, with a prepared statement, because
//! the answer must tell three outcomes apart: stored, refused, and unknown ([`Failure`]). Start with [`Appender::append`].

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use crate::protocol::codec::Timestamp;
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{DeviceId, UserId};
use crate::protocol::messages::Send;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the database's own limits below, so that silence really means that nobody knows.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Lookups by key only, whatever the statistics of a young table say; planned once.
const SETTINGS: &str = "SET synchronous_commit = on; SET statement_timeout = '5s'; SET lock_timeout = '3s'; \
                        SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_hashjoin = off; \
                        SET enable_mergejoin = off; SET enable_seqscan = off";
const CALL: &str = "SELECT ord, code, seq, created_ms, log_id, log_seq, shrink_seq, expires_ms, detail FROM append_rows(\
                    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)";

/// A send that was checked as far as it can be without the database.
#[derive(Clone, Debug)]
pub struct Draft {
    pub send: Send,
    pub sender: UserId,
    pub device: Option<DeviceId>,
    /// SHA-256 of the canonical request (protocol 9.8).
    pub hash: [u8; 32],
    /// Of a channel frame.
    pub epoch: Option<u64>,
    /// The sender is over its rate, and how long to wait: only a row that is there already is answered.
    pub limited: Option<Duration>,
}

/// The answer for one draft.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Stored(Stored),
    /// The same row was stored before, here.
    Duplicate {
        seq: u64,
        created_at: Timestamp,
    },
    /// Nothing was stored; `details` as the protocol has them.
    Refused {
        code: ErrorCode,
        details: Option<serde_json::Value>,
    },
}

/// Where a new row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub seq: u64,
    pub created_at: Timestamp,
    /// None in a direct message.
    pub log_id: Option<Uuid>,
    pub log_seq: Option<u64>,
    /// Grows with every removal of somebody who hears the channel.
    pub shrink_seq: u64,
    pub expires_at: Option<Timestamp>,
}

/// A batch that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The database said no to the whole batch: nothing of it was stored.
    #[error("{0}")]
    Refused(tokio_postgres::Error),
    /// There is no connection: nothing was stored.
    #[error("the database cannot be reached")]
    Unreachable,
    /// The connection broke or stayed silent: it may be stored or not.
    #[error("the connection broke during a commit")]
    Unknown,
}

/// A connection that appends.
pub struct Appender {
    client: Client,
    call: Statement,
    driver: AbortHandle,
}

impl Appender {
    /// # Errors
    /// When the database cannot be reached within five seconds.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let connecting = async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            let driver = tokio::spawn(async move {
                if let Err(cause) = connection.await {
                    tracing::warn!(%cause, "a connection that writes messages ended");
                }
            });
            client.batch_execute(SETTINGS).await?;
            let call = client.prepare(CALL).await?;
            Ok(Self { client, call, driver: driver.abort_handle() })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await?
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Appends a batch; the answers stand in its order, and all of them are on disk. No id may occur twice in it, and no
    /// draft may aim at another one of it.
    ///
    /// # Errors
    /// [`Failure`]: for the whole batch.
    pub async fn append(&self, batch: &[Draft]) -> Result<Vec<Verdict>, Failure> {
        let arguments = Arguments::of(batch);
        let rows = match tokio::time::timeout(CALL_TIMEOUT, self.client.query(&self.call, &arguments.list())).await {
            Ok(Ok(rows)) => rows,
            // The server answered: the statement, and with it the transaction, was undone.
            Ok(Err(error)) if error.as_db_error().is_some() => return Err(Failure::Refused(error)),
            Ok(Err(_)) | Err(_) => return Err(Failure::Unknown),
        };
        let mut verdicts = vec![None; batch.len()];
        for row in rows {
            let place = usize::try_from(row.get::<_, i32>(0)).ok().and_then(|ord| ord.checked_sub(1));
            if let Some(slot) = place.and_then(|place| verdicts.get_mut(place)) {
                *slot = Some(verdict(&row));
            }
        }
        let refused = || Verdict::Refused { code: ErrorCode::Internal, details: None };
        Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(refused)).collect())
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn verdict(row: &tokio_postgres::Row) -> Verdict {
    let number = |column: usize| row.get::<_, Option<i64>>(column).map(i64::unsigned_abs);
    let time = |column: usize| row.get::<_, Option<i64>>(column).map(Timestamp);
    let (seq, created_at) = (number(2).unwrap_or_default(), time(3).unwrap_or_default());
    match row.get::<_, &str>(1) {
        "ok" => Verdict::Stored(Stored {
            seq,
            created_at,
            log_id: row.get(4),
            log_seq: number(5),
            shrink_seq: number(6).unwrap_or_default(),
            expires_at: time(7),
        }),
        "duplicate" => Verdict::Duplicate { seq, created_at },
        code => Verdict::Refused {
            code: ErrorCode::ALL.iter().copied().find(|known| known.as_str() == code).unwrap_or(ErrorCode::Internal),
            details: row.get::<_, Option<&str>>(8).and_then(|text| serde_json::from_str(text).ok()),
        },
    }
}

/// The arguments of `append_rows()`, column by column; they borrow from the drafts.
#[derive(Default)]
struct Arguments<'a> {
    id: Vec<Uuid>,
    channel: Vec<Uuid>,
    kind: Vec<&'static str>,
    user: Vec<Uuid>,
    device: Vec<Option<i32>>,
    thread: Vec<Option<Uuid>>,
    reply: Vec<Option<Uuid>>,
    target: Vec<Option<Uuid>>,
    ciphertext: Vec<Option<&'a [u8]>>,
    nonce: Vec<Option<&'a [u8]>>,
    files: Vec<Option<String>>,
    hash: Vec<&'a [u8]>,
    epoch: Vec<Option<i64>>,
    expires_in: Vec<Option<i32>>,
    limited: Vec<bool>,
    copy_row: Vec<i32>,
    copy_user: Vec<Uuid>,
    copy_device: Vec<i32>,
    copy_ciphertext: Vec<Option<&'a [u8]>>,
    copy_nonce: Vec<Option<&'a [u8]>>,
    list_row: Vec<i32>,
    list_user: Vec<Uuid>,
    list_seq: Vec<i64>,
}

impl<'a> Arguments<'a> {
    fn of(batch: &'a [Draft]) -> Self {
        let mut all = Self::default();
        for (row, draft) in (1..).zip(batch) {
            let send = &draft.send;
            all.id.push(send.id.0);
            all.channel.push(send.channel_id.0);
            all.kind.push(send.kind.as_str());
            all.user.push(draft.sender.0);
            all.device.push(draft.device.map(u32::cast_signed));
            all.thread.push(send.thread_id.map(|id| id.0));
            all.reply.push(send.reply_to_id.map(|id| id.0));
            all.target.push(send.target_id.map(|id| id.0));
            all.ciphertext.push(send.ciphertext.as_ref().map(AsRef::as_ref));
            all.nonce.push(send.nonce.as_ref().map(AsRef::as_ref));
            all.files.push(file_array(draft));
            all.hash.push(&draft.hash);
            all.epoch.push(draft.epoch.map(u64::cast_signed));
            all.expires_in.push(send.expires_in_s.map(u32::cast_signed));
            all.limited.push(draft.limited.is_some());
            for copy in send.copies.iter().flatten() {
                all.copy(row, copy.user_id, copy.device_id, Some((copy.ciphertext.as_ref(), copy.nonce.as_ref())));
            }
            for skipped in &send.skipped {
                all.copy(row, skipped.user_id, skipped.device_id, None);
            }
            for (user, seq) in send.device_lists.iter().flatten() {
                all.list_row.push(row);
                all.list_user.push(user.0);
                all.list_seq.push(seq.cast_signed());
            }
        }
        all
    }

    fn copy(&mut self, row: i32, user: UserId, device: DeviceId, content: Option<(&'a [u8], &'a [u8])>) {
        self.copy_row.push(row);
        self.copy_user.push(user.0);
        self.copy_device.push(device.cast_signed());
        self.copy_ciphertext.push(content.map(|(ciphertext, _)| ciphertext));
        self.copy_nonce.push(content.map(|(_, nonce)| nonce));
    }

    fn list(&self) -> [&(dyn ToSql + Sync); 23] {
        [
            &self.id,
            &self.channel,
            &self.kind,
            &self.user,
            &self.device,
            &self.thread,
            &self.reply,
            &self.target,
            &self.ciphertext,
            &self.nonce,
            &self.files,
            &self.hash,
            &self.epoch,
            &self.expires_in,
            &self.limited,
            &self.copy_row,
            &self.copy_user,
            &self.copy_device,
            &self.copy_ciphertext,
            &self.copy_nonce,
            &self.list_row,
            &self.list_user,
            &self.list_seq,
        ]
    }
}

/// `{…}` of PostgreSQL, since an array of arrays of different lengths does not exist.
fn file_array(draft: &Draft) -> Option<String> {
    let files = &draft.send.file_ids;
    (!files.is_empty()).then(|| format!("{{{}}}", files.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")))
}
