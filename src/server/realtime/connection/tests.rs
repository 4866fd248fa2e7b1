//! The loop over memory, with a clock that the tests move.

use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::*;

/// A socket in memory.
struct Near {
    incoming: mpsc::UnboundedReceiver<Result<Message, axum::Error>>,
    outgoing: PollSender<Message>,
}

/// Its other end.
struct Far {
    to: mpsc::UnboundedSender<Result<Message, axum::Error>>,
    from: mpsc::Receiver<Message>,
}

/// A socket that holds `room` frames that the other end has not read.
fn socket(room: usize) -> (Near, Far) {
    let (to, incoming) = mpsc::unbounded_channel();
    let (outgoing, from) = mpsc::channel(room);
    (Near { incoming, outgoing: PollSender::new(outgoing) }, Far { to, from })
}

impl Far {
    fn says(&self, message: Message) {
        self.to.send(Ok(message)).unwrap();
    }

    /// Everything that was written, once the near end is gone.
    async fn heard(mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.from.recv().await {
            all.push(message);
        }
        all
    }
}

impl Stream for Near {
    type Item = Result<Message, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(context)
    }
}

impl Sink<Message> for Near {
    type Error = axum::Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        self.outgoing.poll_ready_unpin(context).map_err(axum::Error::new)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), axum::Error> {
        self.outgoing.start_send_unpin(message).map_err(axum::Error::new)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        self.outgoing.poll_flush_unpin(context).map_err(axum::Error::new)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        self.outgoing.poll_close_unpin(context).map_err(axum::Error::new)
    }
}

/// Answers a ping, and takes half a second for everything else.
#[derive(Default)]
struct Slow;

impl Handler for Slow {
    fn handle(&mut self, frame: ClientFrame) -> Option<Work> {
        Some(Box::pin(async move {
            if !matches!(frame, ClientFrame::Ping { .. }) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            vec![Message::Text(reference(&frame).into())]
        }))
    }

    async fn inbox(&mut self) -> Vec<Message> {
        vec![Message::Text("inbox".into())]
    }

    fn heads(&mut self) -> Option<Message> {
        Some(Message::Text("heads".into()))
    }
}

const RATE: FrameRate = FrameRate { per_s: 20, burst: 40 };

fn text(text: &str) -> Message {
    Message::Text(text.into())
}

fn ping(t: u64) -> Message {
    Message::Text(format!(r#"{{"type":"ping","t":{t}}}"#).into())
}

#[tokio::test(start_paused = true)]
async fn who_does_not_authenticate_in_five_seconds_is_let_go() {
    let (mut near, _far) = socket(16);
    let started = Instant::now();
    let outcome = first_frame(&mut near, Encoding::Json).await.unwrap_err();
    assert!(matches!(outcome, Outcome::Close(close::UNAUTHENTICATED, _)), "{outcome:?}");
    assert_eq!(started.elapsed(), FIRST_FRAME);
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_before_authenticate() {
    for (first, code) in [
        (ping(1), close::UNAUTHENTICATED),
        (text(r#"{"type":"hologram"}"#), close::UNAUTHENTICATED),
        (text("{"), close::BAD_FRAME),
        (Message::Binary(vec![1].into()), close::BAD_FRAME),
    ] {
        let (mut near, far) = socket(16);
        far.says(first);
        let outcome = first_frame(&mut near, Encoding::Json).await.unwrap_err();
        assert!(matches!(outcome, Outcome::Close(found, _) if found == code), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dead_after_two_unanswered_pings() {
    let (mut near, mut far) = socket(1024);
    let started = Instant::now();
    let outcome = serve(&mut near, &Queue::default(), Encoding::Json, RATE, &mut Slow).await;
    assert_eq!(outcome, Outcome::Gone);
    assert_eq!(started.elapsed(), PING_EVERY * 3);
    let mut pings = 0;
    while let Ok(message) = far.from.try_recv() {
        pings += u32::from(matches!(message, Message::Ping(_)));
    }
    assert_eq!(pings, MISSES_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_frame_waits_for_the_database_is_not_taken_for_dead() {
    /// Longer than a silent client has.
    struct Stuck;
    impl Handler for Stuck {
        fn handle(&mut self, frame: ClientFrame) -> Option<Work> {
            Some(Box::pin(async move {
                tokio::time::sleep(PING_EVERY * 10).await;
                vec![Message::Text(reference(&frame).into())]
            }))
        }

        async fn inbox(&mut self) -> Vec<Message> {
            Vec::new()
        }

        fn heads(&mut self) -> Option<Message> {
            None
        }
    }
    let (mut near, mut far) = socket(1024);
    far.says(ping(1));
    let waiting = async {
        while far.from.recv().await.is_some_and(|message| message != text("ping")) {}
        drop(far);
    };
    let queue = Queue::default();
    let mut handler = Stuck;
    let started = Instant::now();
    tokio::join!(serve(&mut near, &queue, Encoding::Json, RATE, &mut handler), waiting);
    assert_eq!(started.elapsed(), PING_EVERY * 10, "it had its answer");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_is_told_heads() {
    let (mut near, mut far) = socket(16);
    let answering = async {
        let mut heads = 0;
        while heads < 10 {
            match far.from.recv().await {
                Some(Message::Ping(bytes)) => far.says(Message::Pong(bytes)),
                Some(message) => heads += u32::from(message == text("heads")),
                None => panic!("it ended"),
            }
        }
        drop(far);
    };
    let queue = Queue::default();
    let mut handler = Slow;
    let (outcome, ()) = tokio::join!(serve(&mut near, &queue, Encoding::Json, RATE, &mut handler), answering);
    assert_eq!(outcome, Outcome::Gone, "it ends when the client goes");
}

#[tokio::test(start_paused = true)]
async fn frames_take_effect_in_their_order() {
    let (mut near, far) = socket(64);
    for frame in [text(r#"{"type":"ack_inbox","up_to":1}"#), ping(1), text(r#"{"type":"ack_inbox","up_to":2}"#), ping(2)] {
        far.says(frame);
    }
    far.says(Message::Close(None));
    serve(&mut near, &Queue::default(), Encoding::Json, RATE, &mut Slow).await;
    drop(near);
    let answers = far.heard().await;
    assert_eq!(answers, [text("ack_inbox"), text("ping"), text("ack_inbox"), text("ping")]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_closed_when_the_queue_is_full() {
    let (mut near, _far) = socket(1);
    let queue = Queue::default();
    let filling = async {
        // The loop takes some and is stuck with them; the rest waits here.
        for n in 0..1000 {
            queue.push(text(&n.to_string()), Class::Durable);
            tokio::task::yield_now().await;
        }
    };
    let mut handler = Slow;
    let (outcome, ()) = tokio::join!(serve(&mut near, &queue, Encoding::Json, RATE, &mut handler), filling);
    assert!(matches!(outcome, Outcome::Close(close::TOO_SLOW, _)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_for_ten_seconds_is_closed() {
    let (mut near, _far) = socket(1);
    let queue = Queue::default();
    for n in 0..3 {
        queue.push(text(&n.to_string()), Class::Durable);
    }
    let started = Instant::now();
    let outcome = serve(&mut near, &queue, Encoding::Json, RATE, &mut Slow).await;
    assert!(matches!(outcome, Outcome::Close(close::TOO_SLOW, _)), "{outcome:?}");
    assert_eq!(started.elapsed(), WRITE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_answered_and_then_ended() {
    let (mut near, far) = socket(1024);
    for n in 0..1000 {
        far.says(ping(n));
    }
    let outcome = serve(&mut near, &Queue::default(), Encoding::Json, RATE, &mut Slow).await;
    assert!(matches!(outcome, Outcome::Close(close::FLOODING, _)), "{outcome:?}");
    drop(near);
    let answers = far.heard().await;
    let limited =
        answers.iter().filter(|m| m.to_text().is_ok_and(|t| t.contains("rate_limited") && t.contains("retry_after_ms")));
    let answered = answers.iter().filter(|message| **message == text("ping")).count();
    assert_eq!(answered, RATE.burst as usize);
    assert!(limited.count() > 0);
}

#[tokio::test(start_paused = true)]
async fn pings_of_the_websocket_count_as_frames() {
    let (mut near, far) = socket(1024);
    for _ in 0..1000 {
        far.says(Message::Ping(bytes::Bytes::new()));
    }
    let outcome = serve(&mut near, &Queue::default(), Encoding::Json, RATE, &mut Slow).await;
    assert!(matches!(outcome, Outcome::Close(close::FLOODING, _)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_frame_leaves_the_connection_open_and_garbage_ends_it() {
    let (mut near, mut far) = socket(64);
    let queue = Queue::default();
    let talking = async {
        // Each frame waits for the answer to the one before: what closes a connection may overtake what is queued.
        far.says(text(r#"{"type":"ping","x":1}"#));
        let refused = far.from.recv().await.unwrap();
        far.says(ping(1));
        let pong = far.from.recv().await.unwrap();
        far.says(text("{"));
        (refused, pong)
    };
    let mut handler = Slow;
    let (outcome, (refused, pong)) = tokio::join!(serve(&mut near, &queue, Encoding::Json, RATE, &mut handler), talking);
    assert!(matches!(outcome, Outcome::Close(close::BAD_FRAME, _)), "{outcome:?}");
    finish(&mut near, outcome).await;
    drop(near);
    assert!(refused.to_text().is_ok_and(|text| text.contains("unknown_field")), "{refused:?}");
    assert_eq!(pong, text("ping"));
    let answers = far.heard().await;
    assert!(matches!(answers.last(), Some(Message::Close(Some(frame))) if frame.code == close::BAD_FRAME));
}

#[tokio::test(start_paused = true)]
async fn the_inbox_goes_before_the_frames_that_were_pushed_after_it() {
    let (mut near, far) = socket(64);
    let queue = Queue::default();
    queue.inbox_moved();
    queue.push(text("event"), Class::Durable);
    far.says(ping(1));
    let reading = async {
        let mut far = far;
        let mut read = Vec::new();
        while read.len() < 3 {
            read.extend(far.from.recv().await);
        }
        read
    };
    let mut handler = Slow;
    let (_, read) = tokio::join!(serve(&mut near, &queue, Encoding::Json, RATE, &mut handler), reading);
    let place = |name: &str| read.iter().position(|message| *message == text(name)).unwrap();
    assert!(place("inbox") < place("event"));
}

#[test]
fn an_oversized_frame_is_told_apart_from_a_lost_connection() {
    let too_big = tungstenite::error::CapacityError::MessageTooLong { size: 2, max_size: 1 };
    let outcome = fault(&axum::Error::new(tungstenite::Error::Capacity(too_big)));
    assert!(matches!(outcome, Outcome::Close(close::TOO_BIG, _)), "{outcome:?}");
    assert_eq!(fault(&axum::Error::new(tungstenite::Error::ConnectionClosed)), Outcome::Gone);
}
