//! Catching up with 10,000 rows of a channel (four senders) after an absence, on the store on disk and in memory, with the
//! server's answers off the tape: what the client alone can do. And one message from the command to the socket.

use std::time::{Duration, Instant};

use chat::client::command::{Command, Place};
use chat::client::model::Untrusted;
use chat::client::store::{SqliteStore, Store};
use chat::client::{Client, Events};
use chat::protocol::frame::ClientFrame;
use criterion::{Criterion, SamplingMode};
use tokio::sync::mpsc;

use super::Lab;
use super::history::{History, ROWS, State, caught_up};
use super::report::Target;

pub fn benches(criterion: &mut Criterion, lab: &mut Lab) {
    let history = lab.history();
    let runtime = lab.runtime.handle().clone();
    let mut group = criterion.benchmark_group("engine");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(5));
    let sync = |store: &dyn Fn() -> Box<dyn Store + Send>, times: u64| {
        (0..times).map(|_| runtime.block_on(catch_up(&history, store()))).sum()
    };
    group.bench_function("sync on disk", |bencher| {
        bencher.iter_custom(|times| sync(&|| Box::new(history.fresh_store()), times));
    });
    group.bench_function("sync in memory", |bencher| {
        bencher.iter_custom(|times| sync(&|| Box::new(history.fresh_memory()), times));
    });

    let mut sender = runtime.block_on(Sender::open(&history));
    group.bench_function("send", |bencher| {
        bencher.iter_custom(|times| runtime.block_on(sender.send(times)));
    });
    runtime.block_on(sender.client.close());
    group.finish();

    let report = &mut lab.report;
    let [disk, memory, send] = ["engine/sync on disk", "engine/sync in memory", "engine/send"].map(|id| report.median(id));
    report.compare("catch up with 10,000 rows, store on disk", disk, Some(("in memory", memory)), Target::None);
    let rate = |ns: f64| format!("{:.0} rows/s", ROWS as f64 / ns * 1e9);
    report.tell("the same as a rate", &format!("{}, in memory {}", rate(disk), rate(memory)));
    report.tell("the same from the real server, once", &rate(history.live.as_nanos() as f64));
    report.compare("one message, from the command to the socket (sealed, on disk)", send, None, Target::None);
}

async fn catch_up(history: &History, store: Box<dyn Store + Send>) -> Duration {
    let (replay, _frames) = history.replay(State::Away);
    let begun = Instant::now();
    let (client, mut events) = Client::start(store, std::sync::Arc::new(replay), None).unwrap();
    caught_up(&mut events).await;
    let took = begun.elapsed();
    client.close().await;
    took
}

/// A client that is in step with the server of the tape, which takes what it is sent.
struct Sender {
    client: Client,
    events: Events,
    frames: mpsc::UnboundedReceiver<ClientFrame>,
    place: Place,
}

impl Sender {
    async fn open(history: &History) -> Self {
        let store = SqliteStore::open(&history.profile(State::Here).store(), history.key()).unwrap();
        let (replay, frames) = history.replay(State::Here);
        let (client, mut events) = Client::start(Box::new(store), std::sync::Arc::new(replay), None).unwrap();
        caught_up(&mut events).await;
        Self { client, events, frames, place: Place { channel_id: history.channel_id, thread: None } }
    }

    async fn send(&mut self, times: u64) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            let text = Untrusted::new("canary is red on two hosts, rolling back to build 41");
            let command = Command::SendText { place: self.place, text, reply_to: None, mentions: Vec::new(), id: None };
            let begun = Instant::now();
            self.client.send(command);
            loop {
                tokio::select! {
                    frame = self.frames.recv() => if let ClientFrame::Send(_) = frame.unwrap() { break },
                    _ = self.events.recv() => {}
                }
            }
            took += begun.elapsed();
            // Until it is acknowledged, so that the next one does not wait for this one.
            while self.events.recv().await.is_some_and(|event| !is_sent(&event)) {}
        }
        took
    }
}

fn is_sent(event: &chat::client::event::ClientEvent) -> bool {
    use chat::client::event::ClientEvent;
    use chat::client::model::Delivery;
    let ClientEvent::Timeline { items, .. } = event else { return false };
    items.iter().any(|item| item.mine && item.delivery == Delivery::Sent)
}
