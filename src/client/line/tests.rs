//! The line over a transport in memory, with a clock that jumps: how it comes back, and what it never does.

use tokio::sync::mpsc;
use tokio::time::{advance, timeout};

use super::super::core::{QUEUE, Task};
use super::super::engine::Answer;
use super::super::session::SessionRecord;
use super::super::transport::memory::{self, Asked, Peer, ServerEnd};
use super::*;
use crate::protocol::auth::Tokens;
use crate::protocol::frame::Ready;
use crate::protocol::ids::{EpochId, SessionId, UserId};

#[test]
fn waiting_grows_to_a_minute_and_is_spread_over_all_of_it() {
    let bounds: Vec<u64> = (0..9).map(|n| u64::try_from(bound(n).as_millis()).unwrap()).collect();
    assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    assert_eq!(bound(u32::MAX), LONGEST);
    let waits: Vec<Duration> = (0..50).map(|_| Backoff { failures: 30 }.wait()).collect();
    assert!(waits.iter().all(|wait| *wait <= LONGEST));
    assert!(waits.iter().any(|wait| *wait < LONGEST / 2) && waits.iter().any(|wait| *wait > LONGEST / 2));
}

#[test]
fn every_close_code_has_its_consequence() {
    let token = SecretText::from("t");
    assert_eq!(after(Close::Unauthenticated, &token), Next::Renew(token.clone()));
    assert!(matches!(after(Close::Revoked, &token), Next::LoggedOut(_)));
    assert!(matches!(after(Close::TooSlow, &token), Next::Backoff(_)));
    assert!(matches!(after(Close::Replaced, &token), Next::After(PENALTY, _)));
    let going = Close::GoingAway { retry_after_ms: 1500 };
    assert!(matches!(after(going, &token), Next::After(wait, _) if wait == Duration::from_millis(1500)));
}

const FAR: Timestamp = Timestamp(253_402_300_799_000);
const HOUR: Duration = Duration::from_secs(3600);

fn tokens(access: &str) -> Tokens {
    Tokens {
        access_token: access.into(),
        access_expires_at: FAR,
        refresh_token: format!("refresh {access}").as_str().into(),
        refresh_expires_at: FAR,
    }
}

/// A line that runs, what it tells the engine, and the other end of its transport.
struct Bed {
    shared: Arc<Shared>,
    tasks: mpsc::Receiver<Task>,
    peer: Peer,
}

impl Bed {
    fn new() -> Self {
        let user = serde_json::from_value(serde_json::json!({
            "id": UserId::from_bytes([1; 16]), "username": "ana", "created_at": "2026-11-21T09:00:00.000Z"
        }))
        .unwrap();
        let record = SessionRecord {
            user,
            server: "https://x".into(),
            server_name: "X".into(),
            device_name: "laptop".into(),
            session_id: SessionId::from_bytes([2; 16]),
            device_id: Some(3),
            tokens: Some(tokens("first")),
        };
        let (transport, peer) = memory::pair();
        let (sender, tasks) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::new(Some(record), sender, Arc::new(transport)));
        tokio::spawn(run(shared.clone()));
        Self { shared, tasks, peer }
    }

    /// What the engine is told next. Logins are kept as they come.
    async fn told(&mut self) -> Input {
        loop {
            match self.tasks.recv().await.expect("the line runs") {
                Task::Input(input) => return input,
                Task::Keep(_, kept) => kept.send(true).unwrap(),
                Task::Stop => panic!("nobody stops it"),
            }
        }
    }

    async fn attempt(&mut self) -> u32 {
        match self.told().await {
            Input::Line(Line::Connecting { attempt }) => attempt,
            other => panic!("{other:?}"),
        }
    }

    async fn offline(&mut self) -> String {
        match self.told().await {
            Input::Line(Line::Offline { retry_at: Some(at), why }) => {
                assert!(at.0 - now().0 <= 60_000, "a minute is the longest");
                why
            }
            other => panic!("{other:?}"),
        }
    }

    /// The token of the next attempt, which is refused or accepted.
    async fn asked(&mut self) -> (SecretText, tokio::sync::oneshot::Sender<Result<Connection, ConnectError>>) {
        match self.peer.recv().await {
            Some(Asked::Connect(token, answer)) => (token, answer),
            other => panic!("{other:?}"),
        }
    }

    async fn refuse(&mut self) {
        drop(self.asked().await);
    }

    async fn accept(&mut self) -> ServerEnd {
        let ready = Ready {
            user_id: UserId::from_bytes([1; 16]),
            session_id: SessionId::from_bytes([2; 16]),
            device_id: Some(3),
            epoch: EpochId::from_bytes([4; 16]),
            server_time: now(),
            limits: Default::default(),
            streams: Default::default(),
        };
        let (connection, server) = memory::accept(ready);
        self.asked().await.1.send(Ok(connection)).unwrap();
        assert!(matches!(self.told().await, Input::Frame(ServerFrame::Ready(_))));
        server
    }
}

#[tokio::test(start_paused = true)]
async fn it_tries_again_for_ever_and_waits_a_minute_at_most() {
    let mut bed = Bed::new();
    let mut ended = Instant::now();
    for failures in 0..20 {
        assert_eq!(bed.attempt().await, failures + 1);
        if failures > 0 {
            let waited = ended.elapsed();
            assert!(waited <= bound(failures - 1) + Duration::from_millis(1), "{waited:?} after {failures}");
        }
        bed.refuse().await;
        assert_eq!(bed.offline().await, "connection refused");
        ended = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn a_minute_of_good_connection_begins_the_waiting_anew_and_a_moment_does_not() {
    let mut bed = Bed::new();
    for attempt in 1..=5 {
        assert_eq!(bed.attempt().await, attempt);
        bed.refuse().await;
        bed.offline().await;
    }
    assert_eq!(bed.attempt().await, 6);
    let server = bed.accept().await;
    advance(STABLE - Duration::from_secs(1)).await;
    drop(server);
    assert_eq!(bed.offline().await, "the connection ended");
    assert_eq!(bed.attempt().await, 7);
    let server = bed.accept().await;
    advance(STABLE).await;
    drop(server);
    bed.offline().await;
    assert_eq!(bed.attempt().await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_asks_does_not_wait() {
    let mut bed = Bed::new();
    for _ in 0..12 {
        bed.attempt().await;
        bed.refuse().await;
        bed.offline().await;
    }
    let asked = Instant::now();
    bed.shared.poke.notify_one();
    assert_eq!((bed.attempt().await, asked.elapsed()), (1, Duration::ZERO));
    // Also while a connection is up, which is given up for a new one.
    let old = bed.accept().await;
    bed.shared.poke.notify_one();
    assert_eq!((bed.attempt().await, asked.elapsed()), (1, Duration::ZERO));
    assert!(old.to_client.is_closed());
    bed.accept().await;
}

#[tokio::test(start_paused = true)]
async fn a_line_that_ended_takes_no_frames() {
    let mut bed = Bed::new();
    bed.attempt().await;
    let mut server = bed.accept().await;
    let outgoing = bed.shared.outgoing.lock().unwrap().clone().expect("it is up");
    outgoing.send(crate::protocol::frame::ClientFrame::AckInbox { up_to: 1 }).await.unwrap();
    assert!(server.from_client.recv().await.is_some());
    drop(outgoing);
    server.to_client.send(Incoming::Closed(Close::GoingAway { retry_after_ms: 700 })).await.unwrap();
    assert_eq!(bed.offline().await, "the server is restarting");
    let ended = Instant::now();
    assert!(bed.shared.outgoing.lock().unwrap().is_none());
    assert!(server.from_client.recv().await.is_none(), "the socket is closed");
    bed.attempt().await;
    assert!(ended.elapsed() >= Duration::from_millis(700), "not before the server wants it");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_and_then_waited_with() {
    let mut bed = Bed::new();
    bed.attempt().await;
    let server = bed.accept().await;
    server.to_client.send(Incoming::Closed(Close::Unauthenticated)).await.unwrap();
    let Some(Asked::Http(call, answer)) = bed.peer.recv().await else { panic!("a renewal") };
    assert_eq!(call.path, "/auth/refresh");
    answer.send(Ok(Answer { status: 200, body: serde_json::to_vec(&tokens("second")).unwrap() })).unwrap();
    bed.attempt().await;
    let (token, connect) = bed.asked().await;
    assert_eq!(token, "second".into());
    connect.send(Err(ConnectError::Closed(Close::Unauthenticated))).unwrap();
    assert_eq!(bed.offline().await, "the server does not accept our login");
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_is_forgotten_and_not_tried_again() {
    let mut bed = Bed::new();
    bed.attempt().await;
    let server = bed.accept().await;
    server.to_client.send(Incoming::Closed(Close::Revoked)).await.unwrap();
    match bed.told().await {
        Input::Line(Line::LoggedOut { why }) => assert_eq!(why, "the server ended this session"),
        other => panic!("{other:?}"),
    }
    assert!(!bed.shared.session.has_device().await);
    assert!(timeout(HOUR, bed.peer.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_busy_client_holds_the_server_back_and_loses_nothing() {
    const SENT: u32 = 3_000;
    let mut bed = Bed::new();
    bed.attempt().await;
    let server = bed.accept().await;
    let to_client = server.to_client.clone();
    let mut sending = tokio::spawn(async move {
        for ms in 0..SENT {
            to_client.send(Incoming::Latency(ms)).await.unwrap();
        }
    });
    assert!(timeout(HOUR, &mut sending).await.is_err(), "the server waits for as long as the client is busy");
    assert_eq!(bed.tasks.len(), QUEUE);
    for expected in 0..SENT {
        match bed.told().await {
            Input::Line(Line::Latency { ms }) => assert_eq!(ms, expected),
            other => panic!("{other:?}"),
        }
    }
    sending.await.unwrap();
}
