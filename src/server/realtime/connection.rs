//! The loop of one WebSocket: what waits in its queue goes out, frames come in, and a silent or flooding client is let go.
//!
//! It knows frames, times and close codes, and neither rights nor the database: what a frame means is its [`Handler`]'s.
//! Generic over the socket, so that the tests run it over memory with a clock of their own. Start with [`serve`].

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite;

use crate::protocol::auth::SecretText;
use crate::protocol::codec::Encoding;
use crate::protocol::frame::{ClientFrame, ErrorFrame, ServerFrame, close};
use crate::server::error::ApiError;

use super::frames::{self, Malformed, decode, error_frame};
use super::queue::{Class, End, Queue, Taken};

/// The first frame must come within this time.
pub const FIRST_FRAME: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(20);
/// Pings without a sign of life after which a client is dead.
const MISSES_MAX: u32 = 2;
const HEADS_EVERY: Duration = Duration::from_secs(15);
/// A socket that takes nothing for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last words.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames over the rate that are answered; the next one ends the connection.
const STRIKES_MAX: u32 = 100;

/// What a WebSocket is here.
pub trait Socket: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin + Send {}
impl<S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin + Send> Socket for S {}

/// Work that waits for the database; its messages are written when it is done.
pub type Work = Pin<Box<dyn Future<Output = Vec<Message>> + Send>>;

/// What frames mean.
pub trait Handler: Send {
    /// Handles a frame. While work is under way no further frame is read, so frames take effect in their order.
    fn handle(&mut self, frame: ClientFrame) -> Option<Work>;
    /// Frames of the inbox that were not written yet.
    fn inbox(&mut self) -> impl Future<Output = Vec<Message>> + Send;
    /// Streams that moved since the last call, if any.
    fn heads(&mut self) -> Option<Message>;
}

/// Frames that a client may send.
#[derive(Clone, Copy, Debug)]
pub struct FrameRate {
    pub per_s: u32,
    pub burst: u32,
}

/// How a connection ends: with a close frame, or because there is nobody any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Close(u16, String),
    Gone,
}

impl Outcome {
    fn close(code: u16, reason: &str) -> Self {
        Self::Close(code, reason.to_owned())
    }
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        let (code, reason) = end.close();
        Self::Close(code, reason)
    }
}

/// Waits for the `authenticate` frame and answers its token.
///
/// # Errors
/// How to end the connection: nothing else may come first, nor late.
pub async fn first_frame<S: Socket>(socket: &mut S, encoding: Encoding) -> Result<SecretText, Outcome> {
    let deadline = Instant::now() + FIRST_FRAME;
    loop {
        let Ok(received) = timeout_at(deadline, socket.next()).await else {
            return Err(Outcome::close(close::UNAUTHENTICATED, "no authenticate within five seconds"));
        };
        match received {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(Outcome::Gone),
            Some(Ok(message)) => {
                let refused = match decode(&message, encoding) {
                    Ok(ClientFrame::Authenticate { token }) => return Ok(token),
                    Ok(_) => ApiError::unauthenticated(),
                    Err(Malformed::Garbage) => return Err(garbage()),
                    Err(Malformed::Refused(frame)) => ApiError::new(frame.code, frame.message),
                };
                refuse(socket, encoding, refused).await;
                return Err(Outcome::close(close::UNAUTHENTICATED, "authenticate first"));
            }
            Some(Err(error)) => return Err(fault(&error)),
        }
    }
}

/// An error before `ready`: it belongs to no request.
pub async fn refuse<S: Socket>(socket: &mut S, encoding: Encoding, error: ApiError) {
    if let Some(message) = frames::encode(&ServerFrame::Error(error_frame(None, error)), encoding) {
        // Whoever does not take it is closed next anyway.
        let _ = timeout(CLOSE_TIMEOUT, socket.send(message)).await;
    }
}

/// Serves an authenticated connection until it ends.
pub async fn serve<S: Socket, H: Handler>(
    socket: &mut S,
    queue: &Queue,
    encoding: Encoding,
    rate: FrameRate,
    handler: &mut H,
) -> Outcome {
    let mut out: Vec<Message> = Vec::new();
    let mut work: Option<Work> = None;
    let mut bucket = Bucket::new(rate);
    let mut pulse = Pulse::new();
    let timer = sleep_until(pulse.next());
    tokio::pin!(timer);
    loop {
        // Without an order: neither a busy stream nor a busy client keeps the other side waiting.
        tokio::select! {
            taken = poll_fn(|context| queue.poll_take(context, &mut out)) => match taken {
                Taken::End(end) => return end.into(),
                Taken::Frames => {}
                Taken::Inbox => out = tokio::select! {
                    messages = handler.inbox() => messages,
                    end = poll_fn(|context| queue.poll_end(context)) => return end.into(),
                },
            },
            messages = async { match &mut work { Some(work) => work.await, None => std::future::pending().await } } => {
                work = None;
                out = messages;
            }
            received = socket.next(), if work.is_none() => {
                pulse.alive();
                match received {
                    // The library has answered a ping already; what remains is to count it.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                        if bucket.take().is_err() {
                            return Outcome::close(close::FLOODING, "too many frames");
                        }
                    }
                    Some(Ok(Message::Close(_))) | None => return Outcome::Gone,
                    Some(Err(error)) => return fault(&error),
                    Some(Ok(message)) => match (bucket.take(), decode(&message, encoding)) {
                        (_, Err(Malformed::Garbage)) => return garbage(),
                        (Err(Flood), _) => return Outcome::close(close::FLOODING, "too many frames"),
                        (Ok(Some(wait)), Ok(frame)) => {
                            let reference = Some(reference(&frame));
                            push(queue, encoding, error_frame(reference, ApiError::rate_limited(wait)));
                        }
                        (Ok(_), Err(Malformed::Refused(frame))) => push(queue, encoding, *frame),
                        (Ok(None), Ok(frame)) => work = handler.handle(frame),
                    },
                }
            }
            () = &mut timer => {
                if work.is_some() {
                    // It is not being read, so what it says is not heard.
                    pulse.alive();
                }
                match pulse.beat() {
                    Beat::Dead => return Outcome::Gone,
                    Beat::Ping => out.push(Message::Ping(bytes::Bytes::new())),
                    Beat::Heads => out.extend(handler.heads()),
                }
                timer.as_mut().reset(pulse.next());
            }
        }
        if !out.is_empty() {
            let written = tokio::select! {
                written = timeout(WRITE_TIMEOUT, write(socket, &mut out)) => written,
                end = poll_fn(|context| queue.poll_end(context)) => return end.into(),
            };
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Outcome::Gone,
                Err(_) => return End::TooSlow.into(),
            }
        }
    }
}

/// Says the last words, and waits a moment for the other side to hear them.
pub async fn finish<S: Socket>(socket: &mut S, outcome: Outcome) {
    let Outcome::Close(code, reason) = outcome else { return };
    let farewell = async {
        let frame = CloseFrame { code, reason: reason.into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // Unread bytes at the end would make the system drop what the client has not read yet.
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = timeout(CLOSE_TIMEOUT, farewell).await;
}

/// Several frames, one flush: they share a system call.
async fn write<S: Socket>(socket: &mut S, out: &mut Vec<Message>) -> Result<(), axum::Error> {
    for message in out.drain(..) {
        socket.feed(message).await?;
    }
    socket.flush().await
}

fn push(queue: &Queue, encoding: Encoding, error: ErrorFrame) {
    if let Some(message) = frames::encode(&ServerFrame::Error(error), encoding) {
        queue.push(message, Class::Durable);
    }
}

fn garbage() -> Outcome {
    Outcome::close(close::BAD_FRAME, "not a frame of the chosen subprotocol")
}

/// What a broken socket means: an oversized or malformed frame is told, everything else is a lost connection.
fn fault(error: &axum::Error) -> Outcome {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tungstenite::Error>());
    match cause {
        Some(tungstenite::Error::Capacity(_)) => Outcome::close(close::TOO_BIG, "the frame is too big"),
        Some(tungstenite::Error::Utf8(_) | tungstenite::Error::Protocol(_)) => garbage(),
        _ => Outcome::Gone,
    }
}

/// How an answer names a frame: its id, else its type.
pub fn reference(frame: &ClientFrame) -> String {
    match frame {
        ClientFrame::Send(send) => send.id.to_string(),
        ClientFrame::SendDevices(batch) => batch.id.to_string(),
        ClientFrame::Authenticate { .. } => "authenticate".into(),
        ClientFrame::AckInbox { .. } => "ack_inbox".into(),
        ClientFrame::MarkRead { .. } => "mark_read".into(),
        ClientFrame::Typing { .. } => "typing".into(),
        ClientFrame::Presence { .. } => "presence".into(),
        ClientFrame::Ping { .. } => "ping".into(),
    }
}

/// The rate of one connection's frames.
struct Bucket {
    rate: FrameRate,
    tokens: f64,
    filled: Instant,
    strikes: u32,
}

/// Over the rate for too long.
struct Flood;

impl Bucket {
    fn new(rate: FrameRate) -> Self {
        Self { rate, tokens: f64::from(rate.burst), filled: Instant::now(), strikes: 0 }
    }

    /// Takes one; how long to wait when there is none.
    fn take(&mut self) -> Result<Option<Duration>, Flood> {
        let now = Instant::now();
        let per_s = f64::from(self.rate.per_s.max(1));
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * per_s).min(f64::from(self.rate.burst));
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            if self.tokens >= f64::from(self.rate.burst) / 2.0 {
                self.strikes = 0;
            }
            return Ok(None);
        }
        self.strikes += 1;
        if self.strikes > STRIKES_MAX {
            return Err(Flood);
        }
        Ok(Some(Duration::from_secs_f64((1.0 - self.tokens) / per_s)))
    }
}

/// When to ping, when to tell heads, and when to give up.
struct Pulse {
    ping: Instant,
    heads: Instant,
    heard: bool,
    misses: u32,
}

enum Beat {
    Ping,
    Heads,
    Dead,
}

impl Pulse {
    fn new() -> Self {
        let now = Instant::now();
        Self { ping: now + PING_EVERY, heads: now + HEADS_EVERY, heard: true, misses: 0 }
    }

    fn next(&self) -> Instant {
        self.ping.min(self.heads)
    }

    const fn alive(&mut self) {
        self.heard = true;
    }

    fn beat(&mut self) -> Beat {
        let now = Instant::now();
        if now < self.ping {
            self.heads = now + HEADS_EVERY;
            return Beat::Heads;
        }
        self.misses = if std::mem::take(&mut self.heard) { 0 } else { self.misses + 1 };
        if self.misses >= MISSES_MAX {
            return Beat::Dead;
        }
        self.ping = now + PING_EVERY;
        Beat::Ping
    }
}

#[cfg(test)]
mod tests;
