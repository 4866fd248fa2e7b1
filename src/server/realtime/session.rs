//! One authenticated connection: what its frames mean, and what it is told at the start.
//!
//! Start with [`run`]: authenticate → attach to the hub → `ready` → inbox → live.

use std::sync::Arc;

use axum::extract::ws::Message;
use futures_util::SinkExt as _;
use tokio::time::timeout;

use crate::protocol::auth::SecretText;
use crate::protocol::codec::{Encoding, Timestamp};
use crate::protocol::devices::{SendDevices, SentDevices};
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::{ClientFrame, Ready, SentFrame, ServerFrame, close};
use crate::protocol::ids::{ChannelId, DeviceAddr};
use crate::protocol::messages::Send;
use crate::protocol::users::Status;
use crate::server::app::AppState;
use crate::server::db::{delivery, inbox};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{Auth, authenticate};

use super::connection::{self, FrameRate, Handler, Outcome, Socket, Work};
use super::hub::{ConnId, Peer};
use super::presence::TypingRate;
use super::queue::{Class, End, Queue};
use super::writer::Reply;
use super::{Realtime, frames, presence};

/// Frames of the inbox that are read at once: they are written before more is read.
const INBOX_PAGE: i64 = 32;

/// Clients that found no database come back after so long, each at a moment of its own.
const RETURN_AFTER_MS: std::ops::Range<u64> = 500..3000;

/// Serves a WebSocket from its first frame to its end.
pub async fn run<S: Socket>(mut socket: S, encoding: Encoding, app: AppState, realtime: Arc<Realtime>) {
    let outcome = match connection::first_frame(&mut socket, encoding).await {
        Ok(token) => match opened(&app, &realtime, &token, encoding).await {
            Ok((session, ready)) => attached(&mut socket, session, ready).await,
            Err(error) => {
                let outcome = refusal(&error);
                connection::refuse(&mut socket, encoding, error).await;
                outcome
            }
        },
        Err(outcome) => outcome,
    };
    connection::finish(&mut socket, outcome).await;
}

/// How a connection ends that could not begin.
fn refusal(error: &ApiError) -> Outcome {
    match error.code {
        ErrorCode::Suspended => Outcome::Close(close::REVOKED, error.message.clone()),
        ErrorCode::Unauthenticated | ErrorCode::TokenExpired => Outcome::Close(close::UNAUTHENTICATED, error.message.clone()),
        ErrorCode::RateLimited => Outcome::Close(close::FLOODING, error.message.clone()),
        // The login may be good: nobody could look.
        _ => {
            let spread = RETURN_AFTER_MS.end - RETURN_AFTER_MS.start;
            let jitter = uuid::Uuid::now_v7().as_u64_pair().1 % spread;
            End::GoingAway { retry_after_ms: RETURN_AFTER_MS.start + jitter }.into()
        }
    }
}

/// Everything before `ready` that needs the database.
async fn opened(app: &AppState, realtime: &Arc<Realtime>, token: &SecretText, encoding: Encoding) -> ApiResult<(Session, Ready)> {
    let _turn = realtime.turn().await?;
    let opening = async {
        let auth = authenticate(app, &token.0).await?;
        Session::attach(encoding, Arc::clone(app), Arc::clone(realtime), auth).await
    };
    timeout(app.deadlines.socket, opening).await.unwrap_or_else(|_| Err(ApiError::unavailable()))
}

async fn attached<S: Socket>(socket: &mut S, mut session: Session, ready: Ready) -> Outcome {
    let encoding = session.encoding;
    let Some(ready) = frames::encode(&ServerFrame::Ready(ready), encoding) else { return Outcome::Gone };
    if socket.send(ready).await.is_err() {
        return Outcome::Gone;
    }
    session.introduce();
    let limits = &session.app.config.limits;
    let rate = FrameRate { per_s: limits.frames_per_s, burst: limits.frames_burst };
    let queue = Arc::clone(&session.queue);
    connection::serve(socket, &queue, encoding, rate, &mut session).await
}

struct Session {
    app: AppState,
    realtime: Arc<Realtime>,
    auth: Auth,
    encoding: Encoding,
    queue: Arc<Queue>,
    conn: ConnId,
    /// Of the last `heads`.
    clock: u64,
    typing: TypingRate,
}

impl Session {
    async fn attach(encoding: Encoding, app: AppState, realtime: Arc<Realtime>, auth: Auth) -> ApiResult<(Self, Ready)> {
        let status = delivery::status(&mut *app.db().await?, auth.user_id).await?;
        // Somebody who is connected is not offline, whatever was stored.
        let status = if status == Status::Offline { Status::Online } else { status };
        let queue = Arc::new(Queue::default());
        let peer = Peer {
            user_id: auth.user_id,
            session_id: auth.session_id,
            device_id: auth.device_id,
            encoding,
            queue: Arc::clone(&queue),
        };
        let limit = app.config.limits.connections_per_user as usize;
        let (conn, clock) = {
            let mut hub = realtime.hub();
            let conn = hub
                .attach(peer, limit, status)
                .map_err(|_| ApiError::new(ErrorCode::RateLimited, format!("at most {limit} connections at a time")))?;
            (conn, hub.clock())
        };
        if realtime.is_draining() {
            realtime.end_soon(&queue);
        }
        // From here on dropping the session detaches it.
        let session = Self { app, realtime, auth, encoding, queue, conn, clock, typing: TypingRate::default() };
        // What is newer than these heads is pushed: nothing falls between.
        let streams = session.realtime.subscribe(auth.user_id).await?;
        let ready = Ready {
            user_id: auth.user_id,
            session_id: auth.session_id,
            device_id: auth.device_id,
            epoch: session.app.epoch(),
            server_time: Timestamp::from(chrono::Utc::now()),
            limits: session.app.wire_limits(),
            streams,
        };
        Ok((session, ready))
    }

    /// Presence, both ways, and whatever the inbox holds.
    fn introduce(&self) {
        let hub = self.realtime.hub();
        if let Some(status) = hub.status(self.auth.user_id) {
            presence::tell(&hub, self.auth.user_id, status);
        }
        presence::introduce(&hub, self.auth.user_id, &self.queue, self.encoding);
        drop(hub);
        if self.auth.device_id.is_some() {
            self.queue.inbox_moved();
        }
    }

    fn send(&self, send: Send) {
        let id = send.id;
        let reply = Reply::Socket { queue: Arc::clone(&self.queue), encoding: self.encoding };
        if let Err(error) = self.realtime.send(&self.app, send, &self.auth, reply) {
            self.refuse(Some(id.to_string()), error);
        }
    }

    fn send_devices(&self, batch: SendDevices) -> Work {
        let (app, realtime, auth, encoding) = (Arc::clone(&self.app), Arc::clone(&self.realtime), self.auth, self.encoding);
        Box::pin(async move {
            let id = batch.id;
            let sent = timeout(app.deadlines.socket, realtime.send_devices(&app, batch, &auth)).await;
            let frame = match sent.unwrap_or_else(|_| Err(ApiError::outcome_unknown())) {
                Ok(sent) => ServerFrame::Sent(SentFrame::Devices(sent)),
                Err(error) => ServerFrame::Error(frames::error_frame(Some(id.to_string()), error)),
            };
            frames::encode(&frame, encoding).into_iter().collect()
        })
    }

    /// Work without an answer; only its failure is told.
    fn quiet(&self, kind: &'static str, work: impl Future<Output = ApiResult<()>> + std::marker::Send + 'static) -> Work {
        let (encoding, deadline) = (self.encoding, self.app.deadlines.socket);
        Box::pin(async move {
            let done = timeout(deadline, work).await.unwrap_or_else(|_| Err(ApiError::outcome_unknown()));
            let Err(error) = done else { return Vec::new() };
            frames::encode(&ServerFrame::Error(frames::error_frame(Some(kind.to_owned()), error)), encoding).into_iter().collect()
        })
    }

    fn ack_inbox(&self, up_to: u64) -> Work {
        let (app, device) = (Arc::clone(&self.app), self.auth.device());
        self.quiet("ack_inbox", async move { Ok(inbox::acknowledge(&mut *app.db().await?, device?, up_to).await?) })
    }

    fn mark_read(&self, channel: ChannelId, seq: u64) -> Work {
        let (app, user) = (Arc::clone(&self.app), self.auth.user_id);
        self.quiet("mark_read", async move { super::mark_read(&app, channel, user, seq).await })
    }

    fn refuse(&self, reference: Option<String>, error: ApiError) {
        self.push(&ServerFrame::Error(frames::error_frame(reference, error)), Class::Durable);
    }

    fn push(&self, frame: &ServerFrame, class: Class) {
        if let Some(message) = frames::encode(frame, self.encoding) {
            self.queue.push(message, class);
        }
    }
}

impl Handler for Session {
    fn handle(&mut self, frame: ClientFrame) -> Option<Work> {
        match frame {
            ClientFrame::Send(send) => self.send(send),
            ClientFrame::SendDevices(batch) => return Some(self.send_devices(batch)),
            ClientFrame::AckInbox { up_to } => return Some(self.ack_inbox(up_to)),
            ClientFrame::MarkRead { channel_id, seq } => return Some(self.mark_read(channel_id, seq)),
            ClientFrame::Typing { channel_id } => {
                if self.typing.takes(channel_id) {
                    presence::typing(&self.realtime.hub(), self.auth.user_id, channel_id);
                }
            }
            ClientFrame::Presence { status: Status::Offline } => {
                self.refuse(Some("presence".into()), ApiError::validation("status", "must be online, idle, dnd or invisible"));
            }
            ClientFrame::Presence { status } => match self.app.limits.check_status(self.auth.user_id) {
                Ok(()) => self.realtime.set_status(self.auth.user_id, status),
                Err(error) => self.refuse(Some("presence".into()), error),
            },
            ClientFrame::Ping { t } => self.push(&ServerFrame::Pong { t }, Class::Ephemeral),
            ClientFrame::Authenticate { .. } => {
                self.refuse(Some("authenticate".into()), ApiError::invalid_request("this connection is authenticated"));
            }
        }
        None
    }

    async fn inbox(&mut self) -> Vec<Message> {
        let Ok(device) = self.auth.device() else { return Vec::new() };
        let seen = self.queue.inbox_seen();
        let page = async { Ok::<_, ApiError>(inbox::page(&mut *self.app.db().await?, device, seen, INBOX_PAGE).await?) };
        // A failure is repeated when the node next looks around.
        let Ok(Ok(page)) = timeout(self.app.deadlines.socket, page).await else { return Vec::new() };
        if page.frames.len() < INBOX_PAGE as usize {
            // There is no more: also nothing up to the head, which acknowledged frames have moved.
            self.queue.set_inbox_seen(page.head.max(seen));
        } else if let Some(last) = page.frames.last() {
            self.queue.set_inbox_seen(last.inbox_seq);
            self.queue.inbox_moved();
        }
        page.frames
            .into_iter()
            .filter_map(|message| frames::encode(&ServerFrame::DeviceMessage(message), self.encoding))
            .collect()
    }

    fn heads(&mut self) -> Option<Message> {
        let (streams, clock) = self.realtime.hub().moved_since(self.auth.user_id, self.clock);
        self.clock = clock;
        if streams.is_empty() {
            return None;
        }
        frames::encode(&ServerFrame::Heads { streams }, self.encoding)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut hub = self.realtime.hub();
        let status = hub.status(self.auth.user_id);
        if status.is_some_and(|status| presence::shown(status) != Status::Offline) && hub.is_last(self.conn) {
            presence::tell(&hub, self.auth.user_id, Status::Offline);
        }
        hub.detach(self.conn);
    }
}

impl Realtime {
    /// Delivers a batch to device inboxes, for both transports.
    ///
    /// # Errors
    /// As `docs/PROTOCOL.md` 9.13.
    pub async fn send_devices(&self, app: &AppState, batch: SendDevices, auth: &Auth) -> ApiResult<SentDevices> {
        let from = auth.device()?;
        super::intake::check_batch(&batch)?;
        app.limits.check_device_batch(auth.user_id)?;
        let delivery = inbox::append(&mut *app.db().await?, from, &batch).await?;
        let missing = match delivery {
            inbox::Delivery::Done { missing } => missing,
            inbox::Delivery::Full { devices } => {
                return Err(ApiError::new(ErrorCode::RateLimited, "an inbox is full: leave it out, or wait until it is read")
                    .with_details(serde_json::json!({ "full": devices, "retry_after_ms": 60_000 })));
            }
        };
        let mut told = std::collections::HashSet::new();
        for copy in &batch.copies {
            let device = DeviceAddr::new(copy.user_id, copy.device_id);
            if !missing.contains(&device) && told.insert(device) {
                self.inbox_moved(device);
            }
        }
        Ok(SentDevices { id: batch.id, missing })
    }
}
