//! The terminal client as one sees it, 200 x 50 with three panes, on a real store without a server: a channel with 100,000
//! messages, and as the control of the same run one with 100. How long from an unlocked key to the first screen, and how long
//! from a key press to the drawn frame.

use std::collections::HashMap;
use std::io::Sink;
use std::time::{Duration, Instant};

use chat::client::command::RequestId;
use chat::client::event::ClientEvent;
use chat::client::profile::Profile;
use chat::client::unlock::StoreKey;
use chat::client::{Client, Events, Settings};
use chat::protocol::codec::Timestamp;
use chat::tui::app::{App, update, view};
use chat::tui::effect::Effect;
use chat::tui::msg::Msg;
use chat::tui::theme::Theme;
use criterion::{Criterion, SamplingMode};
use ratatui::backend::{Backend, CrosstermBackend, TestBackend};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use tokio::runtime::Handle;

use super::Lab;
use super::history::State;
use super::report::Target;

const SIZE: (u16, u16) = (200, 50);
/// What is pressed, over and over; each brings the screen back to where it was.
const KEYS: [(&str, &[&str]); 3] = [
    ("a letter", &["x", "backspace"]),
    ("one message up or down", &["k", "k", "k", "k", "j", "j", "j", "j"]),
    ("one page up or down", &["ctrl-u", "ctrl-u", "ctrl-u", "ctrl-d", "ctrl-d", "ctrl-d"]),
];
const STATES: [(&str, State); 2] = [("100", State::Small), ("100000", State::Large)];

pub fn first_frame(criterion: &mut Criterion, lab: &mut Lab) {
    let history = lab.history();
    let mut group = criterion.benchmark_group("first frame");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(3));
    for (messages, state) in STATES {
        let profile = history.profile(state);
        group.bench_function(messages, |bencher| {
            let open = || {
                let begun = Instant::now();
                let user = User::open(&profile, history.key(), lab.runtime.handle());
                let took = begun.elapsed();
                user.close();
                took
            };
            bencher.iter_custom(|times| (0..times).map(|_| open()).sum());
        });
    }
    group.finish();
    let [small, large] = STATES.map(|(messages, _)| lab.report.median(&format!("first frame/{messages}")));
    let name = "unlocked to first screen, 100,000 messages";
    lab.report.compare(name, large, Some(("100 messages", small)), Target::Ms(150.0));
}

pub fn view_benches(criterion: &mut Criterion, lab: &mut Lab) {
    let history = lab.history();
    for (messages, state) in STATES {
        let mut user = User::open(&history.profile(state), history.key(), lab.runtime.handle());
        user.open_thread();
        let mut group = criterion.benchmark_group("view");
        for (name, keys) in KEYS {
            user.focus(name == "a letter");
            let mut screen = Terminal::new(TestBackend::new(SIZE.0, SIZE.1)).unwrap();
            group.bench_function(format!("{name}, {messages}"), |bencher| {
                bencher.iter_custom(|times| user.press(keys, times, &mut |app| show(&mut screen, app)));
            });
            let mut screen = crossterm_screen();
            group.bench_function(format!("{name}, crossterm, {messages}"), |bencher| {
                bencher.iter_custom(|times| user.press(keys, times, &mut |app| show(&mut screen, app)));
            });
        }
        group.finish();
        user.close();
    }
    for (name, _) in KEYS {
        for way in ["", ", crossterm"] {
            let [small, large] = STATES.map(|(messages, _)| lab.report.median(&format!("view/{name}{way}, {messages}")));
            let figure = format!("key to frame, 100,000 messages: {name}{way}");
            lab.report.compare(&figure, large, Some(("100 messages", small)), Target::RatioAndMs(1.2, 5.0));
        }
    }
}

fn show<B: Backend>(screen: &mut Terminal<B>, app: &App) {
    assert!(screen.draw(|frame| view(app, frame)).is_ok());
}

fn crossterm_screen() -> Terminal<CrosstermBackend<Sink>> {
    let viewport = Viewport::Fixed(Rect::new(0, 0, SIZE.0, SIZE.1));
    Terminal::with_options(CrosstermBackend::new(std::io::sink()), TerminalOptions { viewport }).unwrap()
}

/// Somebody in front of the screen.
struct User<'a> {
    app: App,
    client: Client,
    events: Events,
    /// The client's number of a request → the app's.
    asked: HashMap<RequestId, RequestId>,
    runtime: &'a Handle,
}

impl<'a> User<'a> {
    /// Opens the profile as the terminal client does, and draws until there are messages on the screen.
    fn open(profile: &Profile, key: StoreKey, runtime: &'a Handle) -> Self {
        let (client, events) = runtime.block_on(Client::open(profile, key, Settings::default())).unwrap();
        let app = App::new(Timestamp(0), jiff::tz::TimeZone::UTC, SIZE, Theme::default());
        let mut user = Self { app, client, events, asked: HashMap::new(), runtime };
        let mut screen = Terminal::new(TestBackend::new(SIZE.0, SIZE.1)).unwrap();
        user.until(|app| {
            show(&mut screen, app);
            let shown: String = screen.backend().buffer().content().iter().map(ratatui::buffer::Cell::symbol).collect();
            shown.contains("rolling back to build")
        });
        user
    }

    /// Takes events until the screen is as wanted.
    fn until(&mut self, mut done: impl FnMut(&App) -> bool) {
        while !done(&self.app) {
            match self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await }) {
                Ok(event) => self.hear(event.unwrap()),
                Err(_) => {
                    let mut screen = Terminal::new(TestBackend::new(SIZE.0, SIZE.1)).unwrap();
                    show(&mut screen, &self.app);
                    panic!("the screen does not become what is wanted:\n{}", screen.backend());
                }
            }
        }
    }

    fn hear(&mut self, event: ClientEvent) {
        let event = match event {
            ClientEvent::Done { request, result } => match self.asked.remove(&request) {
                Some(request) => ClientEvent::Done { request, result },
                None => return,
            },
            other => other,
        };
        self.tell(Msg::Client(event));
    }

    fn tell(&mut self, msg: Msg) {
        for effect in update(&mut self.app, msg) {
            if let Effect::Client(request, command) = effect {
                self.asked.insert(self.client.send(command), request);
            }
        }
    }

    /// The newest thread, beside the messages.
    fn open_thread(&mut self) {
        self.tell(Msg::Key("f3".parse().unwrap()));
        self.until(|app| app.chat.thread.as_ref().is_some_and(|thread| thread.timeline.items.len() > 20));
        assert!(self.app.layout().tree.is_some() && self.app.layout().thread.is_some(), "three panes");
    }

    /// Into the composer of the thread, or to the messages of the channel.
    fn focus(&mut self, composer: bool) {
        use chat::tui::screen::chat::{Focus, Pane};
        self.app.chat.focus = if composer { Focus::Composer(Pane::Main) } else { Focus::History(Pane::Main) };
    }

    /// The time from each key press to its frame; what the client says in between is heard outside of it.
    fn press(&mut self, keys: &[&str], times: u64, draw: &mut dyn FnMut(&App)) -> Duration {
        let mut took = Duration::ZERO;
        for key in (0..times).map(|n| keys[usize::try_from(n).unwrap() % keys.len()]) {
            let msg = Msg::Key(key.parse().unwrap());
            let begun = Instant::now();
            self.tell(msg);
            draw(&self.app);
            took += begun.elapsed();
            while let Ok(event) = self.events.try_recv() {
                self.hear(event);
            }
        }
        took
    }

    fn close(self) {
        self.runtime.block_on(self.client.close());
    }
}
