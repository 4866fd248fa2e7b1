//! The line to the server: connects, hands frames to the engine, and comes back after every loss. The waiting time is random
//! between nothing and a bound that doubles from half a second to a minute, so that a thousand clients do not return
//! together; a minute of good connection resets it, and somebody who asks does not wait at all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use getrandom::SysRng;
use rand_core::{Rng as _, UnwrapErr};
use tokio::time::Instant;

use super::core::now;
use super::driver::Shared;
use super::engine::{Input, Line};
use super::session::NoToken;
use super::transport::{Close, ConnectError, Connection, Incoming};
use crate::protocol::auth::SecretText;
use crate::protocol::codec::Timestamp;
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::ServerFrame;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// A connection that held so long was a good one.
const STABLE: Duration = Duration::from_secs(60);
/// When the server complained about us, or another copy of this device fights for its place.
const PENALTY: Duration = Duration::from_secs(30);

/// What to do after a connection or an attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// With the usual waiting time.
    Backoff(String),
    /// Not before.
    After(Duration, String),
    /// At once: somebody asked, or the tokens changed.
    Now,
    /// Renew the token, then at once.
    Renew(SecretText),
    LoggedOut(String),
}

/// Runs until the client stops.
pub async fn run(shared: Arc<Shared>) {
    let mut changes = shared.session.changes();
    let mut backoff = Backoff::default();
    let mut renewed = false;
    let mut reason = None;
    loop {
        changes.borrow_and_update();
        if !shared.session.has_device().await {
            if let Err(NoToken::LoggedOut(why)) = shared.session.token(now()).await {
                shared.input(Input::Line(Line::LoggedOut { why: reason.take().unwrap_or(why) })).await;
            }
            // A login, or the device of the login that we have.
            if changes.changed().await.is_err() {
                return;
            }
            backoff = Backoff::default();
            continue;
        }
        shared.input(Input::Line(Line::Connecting { attempt: backoff.attempt() })).await;
        let next = match attempt(&shared).await {
            Ok((connection, token)) => {
                let since = Instant::now();
                let next = hold(&shared, connection, token, &mut changes).await;
                shared.set_outgoing(None);
                if since.elapsed() >= STABLE || next == Next::Now {
                    (backoff, renewed) = (Backoff::default(), false);
                }
                next
            }
            Err(next) => next,
        };
        let (wait, why) = match next {
            Next::Now => continue,
            Next::Renew(token) if !renewed => {
                renewed = true;
                match shared.session.renewed(&token).await {
                    Ok(_) | Err(NoToken::LoggedOut(_)) => continue,
                    Err(error) => (backoff.wait(), why_not(error)),
                }
            }
            Next::Renew(_) => (backoff.wait(), "the server does not accept our login".to_owned()),
            Next::Backoff(why) => (backoff.wait(), why),
            Next::After(wait, why) => (wait.max(backoff.wait()), why),
            Next::LoggedOut(why) => {
                shared.session.forget().await;
                reason = Some(why);
                continue;
            }
        };
        let retry_at = Timestamp(now().0 + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2));
        shared.input(Input::Line(Line::Offline { retry_at: Some(retry_at), why })).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.poke.notified() => backoff = Backoff::default(),
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

async fn attempt(shared: &Shared) -> Result<(Connection, SecretText), Next> {
    let token = shared.session.token(now()).await.map_err(|error| match error {
        NoToken::LoggedOut(why) => Next::LoggedOut(why),
        other => Next::Backoff(why_not(other)),
    })?;
    match shared.transport.connect(token.clone()).await {
        Ok(connection) => Ok((connection, token)),
        Err(ConnectError::Transport(error)) => Err(Next::Backoff(error.why)),
        Err(ConnectError::Closed(close)) => Err(after(close, &token)),
        Err(ConnectError::Refused { code, message }) => Err(match code {
            ErrorCode::TokenExpired | ErrorCode::Unauthenticated => Next::Renew(token),
            ErrorCode::Suspended => Next::LoggedOut(message),
            _ => Next::Backoff(message),
        }),
    }
}

/// Until the connection ends, somebody wants another one, or the tokens change.
async fn hold(
    shared: &Shared,
    connection: Connection,
    token: SecretText,
    changes: &mut tokio::sync::watch::Receiver<u64>,
) -> Next {
    let Connection { ready, outgoing, mut incoming } = connection;
    shared.session.set_server_time(ready.server_time, now());
    shared.set_outgoing(Some(outgoing));
    // Who asked for a connection while it was being made has one.
    let _ = shared.poke.notified().now_or_never();
    if !shared.input(Input::Frame(ServerFrame::Ready(ready))).await {
        return Next::Backoff("closed here".to_owned());
    }
    loop {
        let incoming = tokio::select! {
            incoming = incoming.recv() => incoming,
            () = shared.poke.notified() => return Next::Now,
            _ = changes.changed() => return Next::Now,
        };
        let input = match incoming {
            Some(Incoming::Frame(frame)) => Input::Frame(frame),
            Some(Incoming::Latency(ms)) => Input::Line(Line::Latency { ms }),
            Some(Incoming::Closed(close)) => return after(close, &token),
            None => return Next::Backoff("the connection ended".to_owned()),
        };
        if !shared.input(input).await {
            return Next::Backoff("closed here".to_owned());
        }
    }
}

/// `docs/PROTOCOL.md` 4.3.
fn after(close: Close, token: &SecretText) -> Next {
    match close {
        Close::Unauthenticated => Next::Renew(token.clone()),
        Close::Revoked => Next::LoggedOut("the server ended this session".to_owned()),
        Close::TooSlow => Next::Backoff("this client read too slowly".to_owned()),
        Close::Replaced => Next::After(PENALTY, "another connection of this device took its place".to_owned()),
        Close::GoingAway { retry_after_ms } => {
            Next::After(Duration::from_millis(retry_after_ms), "the server is restarting".to_owned())
        }
        Close::Flooding => Next::After(PENALTY, "this client sent too fast".to_owned()),
        Close::BadFrame(why) => Next::After(PENALTY, format!("the server did not understand this client: {why}")),
        Close::Broken(why) => Next::Backoff(why),
    }
}

fn why_not(error: NoToken) -> String {
    match error {
        NoToken::LoggedOut(why) | NoToken::Later(why) => why,
        NoToken::Transport(error) => error.why,
        NoToken::Store => "the local store failed".to_owned(),
    }
}

/// Full jitter.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// From 1.
    const fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// Counts a failure.
    fn wait(&mut self) -> Duration {
        let bound = bound(self.failures);
        self.failures = self.failures.saturating_add(1);
        let share = UnwrapErr(SysRng).next_u32();
        bound.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

fn bound(failures: u32) -> Duration {
    FIRST.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests;
