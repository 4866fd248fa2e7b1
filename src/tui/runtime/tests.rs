//! The loop against a terminal and a client that are played.

use std::cell::RefCell;
use std::rc::Rc;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use futures_util::stream;

use super::*;
use crate::tui::tests::{Driven, Store};

/// Counts what reaches a terminal.
#[derive(Default)]
struct Counter {
    draws: usize,
    copies: Vec<String>,
    suspended: usize,
    bells: usize,
    /// After so many draws it is gone.
    lives: Option<usize>,
}

impl Display for Counter {
    fn size(&self) -> io::Result<(u16, u16)> {
        Ok((80, 24))
    }
    fn draw(&mut self, _app: &App) -> io::Result<()> {
        if self.lives == Some(self.draws) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.draws += 1;
        Ok(())
    }
    fn redraw(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn copy(&mut self, text: &str) -> bool {
        self.copies.push(text.to_owned());
        true
    }
    fn bell(&mut self) {
        self.bells += 1;
    }
    fn title(&mut self, _text: &str) {}
    fn suspend(&mut self) -> io::Result<()> {
        self.suspended += 1;
        Ok(())
    }
    fn resume(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client that answers nothing; after its events it ends the run.
struct Silent {
    events: std::vec::IntoIter<HostEvent>,
    end: mpsc::Sender<Signal>,
    sent: Rc<RefCell<Vec<Command>>>,
}

impl Host for Silent {
    fn send(&mut self, command: Command) -> Option<RequestId> {
        self.sent.borrow_mut().push(command);
        Some(RequestId(1000 + self.sent.borrow().len() as u64))
    }
    fn setup(&mut self, _setup: Setup) {}
    async fn event(&mut self) -> HostEvent {
        if let Some(event) = self.events.next() {
            return event;
        }
        let _ = self.end.try_send(Signal::End(143));
        std::future::pending().await
    }
}

fn key(code: KeyCode, mods: KeyModifiers) -> io::Result<Event> {
    Ok(Event::Key(KeyEvent::new(code, mods)))
}

/// Runs over these keys, then these events, then ends. `frame` is the least time between two draws.
async fn run_over(keys: Vec<io::Result<Event>>, events: Vec<HostEvent>, frame: Duration) -> (Counter, Vec<Command>, Option<u8>) {
    let (display, sent, code) = run_on(Counter::default(), keys, events, frame).await;
    (display, sent, code.unwrap())
}

async fn run_on(
    mut display: Counter,
    keys: Vec<io::Result<Event>>,
    events: Vec<HostEvent>,
    frame: Duration,
) -> (Counter, Vec<Command>, io::Result<Option<u8>>) {
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.wait(10_000);
    let mut app = driven.app;
    let now = app.now;
    let (end, mut signals) = mpsc::channel(1);
    let sent = Rc::new(RefCell::new(Vec::new()));
    let mut host = Silent { events: events.into_iter(), end, sent: sent.clone() };
    let input = stream::iter(keys).chain(stream::pending());
    let code = run(&mut app, &mut display, &mut host, Box::pin(input), &mut signals, || now, frame).await;
    let sent = sent.borrow().clone();
    (display, sent, code)
}

const NO_CAP: Duration = Duration::ZERO;
const ONE_FRAME: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_idle_client_draws_once_and_asks_for_no_timer() {
    let (display, _, code) = run_over(Vec::new(), Vec::new(), NO_CAP).await;
    assert_eq!(display.draws, 1);
    assert_eq!(code, Some(143), "ended by a signal");
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.wait(10_000);
    assert_eq!(driven.app.wake_at(), None, "an idle client wakes for something");
}

#[tokio::test]
async fn a_round_trip_that_took_longer_draws_nothing() {
    use crate::client::model::Connection;
    let pings =
        (20..40).map(|ms| HostEvent::Client(ClientEvent::Connection(Connection::Online { latency_ms: Some(ms) }))).collect();
    let (display, _, _) = run_over(Vec::new(), pings, NO_CAP).await;
    assert_eq!(display.draws, 1);
}

#[tokio::test]
async fn a_burst_is_one_frame() {
    let keys = || "hello world".chars().map(|c| key(KeyCode::Char(c), KeyModifiers::NONE)).collect();
    assert_eq!(run_over(keys(), Vec::new(), ONE_FRAME).await.0.draws, 1);
    assert!(run_over(keys(), Vec::new(), NO_CAP).await.0.draws > 1);
}

#[tokio::test]
async fn ending_saves_the_draft_first() {
    let keys = "half a thou".chars().map(|c| key(KeyCode::Char(c), KeyModifiers::NONE)).collect();
    let (_, sent, _) = run_over(keys, Vec::new(), NO_CAP).await;
    let saved = sent.iter().any(|command| matches!(command, Command::SaveDraft { text, .. } if text.raw() == "half a thou"));
    assert!(saved, "{sent:?}");
}

#[tokio::test]
async fn a_terminal_that_vanishes_while_it_is_drawn_on_saves_the_draft_too() {
    let keys = "half a thou".chars().map(|c| key(KeyCode::Char(c), KeyModifiers::NONE)).collect();
    let dying = Counter { lives: Some(5), ..Counter::default() };
    let (_, sent, ended) = run_on(dying, keys, Vec::new(), NO_CAP).await;
    assert!(ended.is_err());
    let saved =
        sent.iter().any(|command| matches!(command, Command::SaveDraft { text, .. } if "half a thou".starts_with(text.raw())));
    assert!(saved, "{sent:?}");
}

#[tokio::test]
async fn a_closed_terminal_ends_the_client_with_the_code_of_a_hang_up() {
    let (_, _, code) = run_over(vec![Err(io::ErrorKind::BrokenPipe.into())], Vec::new(), NO_CAP).await;
    assert_eq!(code, Some(129));
}

#[tokio::test]
async fn ctrl_z_gives_the_terminal_back() {
    let (display, _, _) = run_over(vec![key(KeyCode::Char('z'), KeyModifiers::CONTROL)], Vec::new(), NO_CAP).await;
    assert_eq!(display.suspended, 1);
}
