//! The only loop of the terminal client: keys, client events, signals and timers become [`Msg`]s, effects are performed, and the screen
//! is drawn when something changed, at most once in a frame's time. An idle client draws nothing and wakes for nothing.
//!
//! What it needs from outside are parameters ([`Display`], [`Host`], the stream of keys), so tests run it without a terminal.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use crossterm::event::{Event, KeyEventKind};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::app::{App, update};
use super::effect::{Effect, Setup, SetupAnswer};
use super::keymap::Key;
use super::msg::Msg;
use crate::client::command::{Command, RequestId};
use crate::client::event::ClientEvent;
use crate::client::model::Problem;
use crate::protocol::codec::Timestamp;

/// At most 60 frames in a second.
pub const FRAME: Duration = Duration::from_millis(16);
/// At most 30 over a network line.
pub const FRAME_REMOTE: Duration = Duration::from_millis(33);

/// What is drawn on.
pub trait Display {
    /// # Errors
    /// When the terminal is gone; so for all of these.
    fn size(&self) -> io::Result<(u16, u16)>;
    fn draw(&mut self, app: &App) -> io::Result<()>;
    /// The next draw draws everything.
    fn redraw(&mut self) -> io::Result<()>;
    /// False when the terminal would not take it.
    fn copy(&mut self, text: &str) -> bool;
    fn bell(&mut self);
    fn title(&mut self, text: &str);
    /// Stops the process; returns after it was continued, with the terminal taken over again.
    fn suspend(&mut self) -> io::Result<()>;
    /// Takes the terminal over again after somebody else stopped and continued the process.
    fn resume(&mut self) -> io::Result<()>;
}

/// The client behind the screen, or what makes one.
pub trait Host {
    /// Sends a command; none while there is no client. The id comes back in [`ClientEvent::Done`].
    fn send(&mut self, command: Command) -> Option<RequestId>;
    /// Begins a step of the setup; its end comes as a [`HostEvent::Setup`].
    fn setup(&mut self, setup: Setup);
    /// Waits for the next event; can be dropped while it waits without losing one.
    fn event(&mut self) -> impl Future<Output = HostEvent>;
}

#[derive(Debug)]
pub enum HostEvent {
    Client(ClientEvent),
    Setup(Result<SetupAnswer, Problem>),
}

/// What the operating system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End, with this exit code.
    End(u8),
    Suspend,
    Continued,
}

/// Runs until the user leaves or a signal ends it; the code of the signal, if one did.
///
/// # Errors
/// When the terminal is gone; what was typed is saved all the same.
pub async fn run(
    app: &mut App,
    display: &mut impl Display,
    host: &mut impl Host,
    input: impl Stream<Item = io::Result<Event>> + Unpin,
    signals: &mut mpsc::Receiver<Signal>,
    clock: impl Fn() -> Timestamp,
    frame: Duration,
) -> io::Result<Option<u8>> {
    let mut runner = Runner { app, display, host, asked: HashMap::new(), ended: false };
    let ended = runner.run(input, signals, clock, frame).await;
    if ended.is_err() {
        runner.save();
    }
    ended
}

enum Woken {
    Signal(Signal),
    Input(Option<io::Result<Event>>),
    Host(HostEvent),
    Time,
}

struct Runner<'a, D, H> {
    app: &'a mut App,
    display: &'a mut D,
    host: &'a mut H,
    /// The client's own number of a request → the app's.
    asked: HashMap<RequestId, RequestId>,
    ended: bool,
}

impl<D: Display, H: Host> Runner<'_, D, H> {
    async fn run(
        &mut self,
        mut input: impl Stream<Item = io::Result<Event>> + Unpin,
        signals: &mut mpsc::Receiver<Signal>,
        clock: impl Fn() -> Timestamp,
        frame: Duration,
    ) -> io::Result<Option<u8>> {
        let mut last_draw: Option<Instant> = None;
        let mut code = None;
        while !self.ended {
            let due = last_draw.map(|at| at + frame);
            if self.app.dirty && due.is_none_or(|due| due <= Instant::now()) {
                self.draw()?;
                last_draw = Some(Instant::now());
            }
            let now = clock();
            let wake = self.app.wake_at().map(|at| {
                let ms = u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0);
                Instant::now() + Duration::from_millis(ms)
            });
            let frame_due = due.filter(|_| self.app.dirty);
            let ticking = wake.is_some_and(|wake| frame_due.is_none_or(|due| wake <= due));
            let until = [wake, frame_due].into_iter().flatten().min();
            let event = tokio::select! {
                biased;
                signal = signals.recv() => Woken::Signal(signal.unwrap_or(Signal::End(0))),
                event = input.next() => Woken::Input(event),
                event = self.host.event() => Woken::Host(event),
                () = async { match until { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => Woken::Time,
            };
            self.app.now = clock();
            match event {
                Woken::Signal(Signal::End(with)) => {
                    code = Some(with).filter(|code| *code != 0);
                    self.tell(Msg::Quit)?;
                }
                Woken::Signal(Signal::Suspend) => {
                    self.suspend()?;
                }
                Woken::Signal(Signal::Continued) => {
                    self.display.resume()?;
                    self.tell(Msg::Resumed)?;
                }
                Woken::Input(Some(Ok(event))) => {
                    if let Some(msg) = message(event) {
                        self.tell(msg)?;
                    }
                }
                // The terminal is closed.
                Woken::Input(Some(Err(_)) | None) => {
                    code = Some(129);
                    self.tell(Msg::Quit)?;
                }
                Woken::Host(HostEvent::Client(event)) => self.client_event(event)?,
                Woken::Host(HostEvent::Setup(result)) => self.tell(Msg::Setup(result))?,
                Woken::Time if ticking => self.tell(Msg::Tick)?,
                Woken::Time => {}
            }
        }
        Ok(code)
    }

    /// What has to be on disk at the end, without a terminal to draw on.
    fn save(&mut self) {
        for effect in update(self.app, Msg::Quit) {
            if let Effect::Client(_, command) = effect {
                self.host.send(command);
            }
        }
    }

    fn tell(&mut self, msg: Msg) -> io::Result<()> {
        let effects = update(self.app, msg);
        for effect in effects {
            self.perform(effect)?;
        }
        Ok(())
    }

    fn client_event(&mut self, event: ClientEvent) -> io::Result<()> {
        let event = match event {
            ClientEvent::Done { request, result } => match self.asked.remove(&request) {
                Some(request) => ClientEvent::Done { request, result },
                None => return Ok(()),
            },
            other => other,
        };
        self.tell(Msg::Client(event))
    }

    fn draw(&mut self) -> io::Result<()> {
        let size = self.display.size()?;
        if size != self.app.size {
            // The event for it comes too; what is drawn must fit now.
            self.tell(Msg::Resize(size.0, size.1))?;
        }
        self.display.draw(self.app)?;
        self.app.dirty = false;
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> io::Result<()> {
        match effect {
            Effect::Client(request, command) => {
                if let Some(sent) = self.host.send(command) {
                    self.asked.insert(sent, request);
                }
            }
            Effect::Setup(setup) => self.host.setup(setup),
            Effect::Copy(text) => {
                if !self.display.copy(&text) {
                    self.app.copy_failed();
                }
            }
            Effect::Bell => self.display.bell(),
            Effect::Title(title) => self.display.title(&title),
            Effect::Redraw => {
                self.display.redraw()?;
                self.app.dirty = true;
            }
            Effect::Suspend => self.suspend()?,
            Effect::Quit => self.ended = true,
        }
        Ok(())
    }

    fn suspend(&mut self) -> io::Result<()> {
        self.display.suspend()?;
        // Boxed recursion is not needed: `Resumed` only asks for a redraw.
        let effects = update(self.app, Msg::Resumed);
        for effect in effects {
            if effect == Effect::Redraw {
                self.display.redraw()?;
            }
        }
        self.app.dirty = true;
        Ok(())
    }
}

/// What a terminal event means; none for what is not listened to.
fn message(event: Event) -> Option<Msg> {
    match event {
        Event::Key(key) => (key.kind != KeyEventKind::Release).then(|| Msg::Key(Key::from(key))),
        Event::Paste(text) => Some(Msg::Paste(text)),
        Event::Resize(columns, rows) => Some(Msg::Resize(columns, rows)),
        Event::FocusGained => Some(Msg::Focus(true)),
        Event::FocusLost => Some(Msg::Focus(false)),
        Event::Mouse(_) => None,
    }
}

/// Listens for what the operating system says: end, stop, go on.
///
/// # Errors
/// When a handler cannot be installed.
pub fn listen(signals: mpsc::Sender<Signal>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = rustix::process::Signal::TSTP.as_raw();
    let go_on = rustix::process::Signal::CONT.as_raw();
    for (kind, meaning) in [
        (SignalKind::terminate(), Signal::End(143)),
        (SignalKind::hangup(), Signal::End(129)),
        (SignalKind::interrupt(), Signal::End(130)),
        (SignalKind::from_raw(stop), Signal::Suspend),
        (SignalKind::from_raw(go_on), Signal::Continued),
    ] {
        let mut listener = signal(kind)?;
        let signals = signals.clone();
        tokio::spawn(async move {
            while listener.recv().await.is_some() {
                if signals.send(meaning).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
