//! The terminal itself: raw mode and the alternate screen, how they are entered and always left again, frames as one write, and
//! the watchdog for a terminal that dies.
//!
//! Everything is restored on every way out: return, error, panic in any thread, signal, suspend. crossterm's reader spins for ever
//! when its terminal vanishes and nothing signals it (crossterm #793), hence the watchdog.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossterm::clipboard::CopyToClipboard;
use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange};
use crossterm::style::Print;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, SetTitle};
use crossterm::{queue, terminal};
use ratatui::Terminal;
use ratatui::backend::{Backend, ClearType, CrosstermBackend, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use rustix::event::{PollFd, PollFlags, poll};

use super::app::{App, view};
use crate::client::model::{Problem, ProblemKind};

/// After the terminal died: time to write drafts and close the store, also on a busy machine. Mostly it takes a tenth of that.
const HANG_UP: Duration = Duration::from_secs(2);
/// What terminals take into the clipboard at once.
const COPY_MAX: usize = 74_000;

/// Raw mode and the alternate screen are on. Once it is off, nothing more is drawn, whatever thread wants to.
static OURS: AtomicBool = AtomicBool::new(false);

/// The terminal, ours until dropped.
pub struct Screen {
    terminal: Terminal<Frames>,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When there is no terminal, or one that cannot move its cursor.
    pub fn open() -> Result<Self, Problem> {
        check()?;
        restore_on_panic();
        let failed = |error: io::Error| Problem::new(ProblemKind::Failed, format!("the terminal cannot be used: {error}"));
        enter().map_err(failed)?;
        let terminal = Terminal::new(Frames::new()).map_err(|error| {
            leave();
            failed(error)
        })?;
        Ok(Self { terminal })
    }

    /// Columns and rows.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        terminal::size()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

impl super::runtime::Display for Screen {
    fn size(&self) -> io::Result<(u16, u16)> {
        terminal::size()
    }

    fn draw(&mut self, app: &App) -> io::Result<()> {
        self.terminal.draw(|frame| view(app, frame))?;
        Ok(())
    }

    fn redraw(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    fn copy(&mut self, text: &str) -> bool {
        text.len() <= COPY_MAX && self.say(|out| queue!(out, CopyToClipboard::to_clipboard_from(text)))
    }

    fn bell(&mut self) {
        self.say(|out| queue!(out, Print('\x07')));
    }

    fn title(&mut self, text: &str) {
        self.say(|out| queue!(out, SetTitle(text)));
    }

    /// Gives the terminal back and stops, as the shell expects; returns when the user came back.
    fn suspend(&mut self) -> io::Result<()> {
        leave();
        // The whole job stops, as with any program that ^Z reaches.
        rustix::process::kill_current_process_group(rustix::process::Signal::STOP)?;
        self.resume()
    }

    fn resume(&mut self) -> io::Result<()> {
        // Whoever had the terminal meanwhile may have left it in any mode.
        OURS.store(false, Ordering::SeqCst);
        let _ = terminal::disable_raw_mode();
        enter()?;
        self.terminal.clear()
    }
}

impl Screen {
    fn say(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> bool {
        let mut bytes = Vec::new();
        write(&mut bytes).and_then(|()| write_out(&bytes)).is_ok()
    }
}

/// Whether there is a terminal that can show a screen.
///
/// # Errors
/// When there is none, or one that cannot move its cursor: what to use instead.
pub fn check() -> Result<(), Problem> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Problem::new(ProblemKind::Usage, "chat tui needs a terminal on standard input and output")
            .hint("In scripts use `chat send` and `chat tail`."));
    }
    if std::env::var("TERM").is_ok_and(|term| term == "dumb") {
        return Err(Problem::new(ProblemKind::Usage, "this terminal (TERM=dumb) cannot show a screen")
            .hint("Use `chat tail --follow` and `chat send`, or set TERM."));
    }
    Ok(())
}

fn enter() -> io::Result<()> {
    terminal::enable_raw_mode()?;
    OURS.store(true, Ordering::SeqCst);
    let mut bytes = Vec::new();
    // The title is put on the terminal's stack, to be taken back at the end.
    queue!(bytes, Print("\x1b[22;2t"), EnterAlternateScreen, EnableBracketedPaste, EnableFocusChange, Hide)?;
    write_out(&bytes)
}

/// Gives the terminal back as it was. Can be called from any thread, any number of times.
pub fn leave() {
    if !OURS.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut bytes = Vec::new();
    let _ = queue!(
        bytes,
        Print("\x1b[?2026l\x1b[0m"),
        DisableFocusChange,
        DisableBracketedPaste,
        LeaveAlternateScreen,
        Show,
        Print("\x1b[23;2t")
    );
    // A terminal that is gone cannot be restored.
    let mut out = io::stdout().lock();
    let _ = out.write_all(&bytes).and_then(|()| out.flush());
    let _ = terminal::disable_raw_mode();
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    if !OURS.load(Ordering::SeqCst) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// A panic in any thread: first the terminal, then the words, then the end. Half a client is worse than none; what was sent or
/// typed a second ago is on disk.
#[allow(clippy::exit)]
fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = OURS.load(Ordering::SeqCst);
            leave();
            previous(info);
            if ours {
                std::process::exit(101);
            }
        }));
    });
}

/// Watches for the terminal's death, which crossterm does not notice: calls `on_hang_up` once, and ends the process a moment later
/// whatever else happens, unless the watch was dropped: then everything is put away.
///
/// # Errors
/// When no thread can be started.
#[allow(clippy::exit)]
pub fn watch_for_hang_up(on_hang_up: impl FnOnce() + Send + 'static) -> io::Result<HangUpWatch> {
    let watch = Arc::new(());
    let watched = Arc::downgrade(&watch);
    std::thread::Builder::new().name("hang-up".to_owned()).spawn(move || {
        let stdin = io::stdin();
        loop {
            // No events asked for: only the end of the terminal wakes this.
            let mut fds = [PollFd::new(&stdin, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => break,
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => break,
            }
        }
        OURS.store(false, Ordering::SeqCst);
        on_hang_up();
        std::thread::sleep(HANG_UP);
        if watched.strong_count() > 0 {
            std::process::exit(129);
        }
    })?;
    Ok(HangUpWatch(watch))
}

/// As long as it lives, the process does not outlive its terminal.
#[must_use]
pub struct HangUpWatch(#[allow(dead_code)] Arc<()>);

/// A crossterm backend that gathers a frame and writes it at once, inside a synchronized update where the terminal knows that.
///
/// After a cell whose width terminals disagree about the cursor is placed anew, so that a wrong guess moves nothing else.
struct Frames {
    inner: CrosstermBackend<Gather>,
    gathered: Arc<Mutex<Vec<u8>>>,
    cursor: Position,
}

#[derive(Clone)]
struct Gather(Arc<Mutex<Vec<u8>>>);

impl io::Write for Gather {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Frames {
    fn new() -> Self {
        let gathered = Arc::new(Mutex::new(Vec::with_capacity(64 * 1024)));
        Self { inner: CrosstermBackend::new(Gather(gathered.clone())), gathered, cursor: Position::ORIGIN }
    }
}

/// Terminals agree about plain characters; about sequences and newer emoji they do not.
fn uncertain(cell: &Cell) -> bool {
    let mut chars = cell.symbol().chars();
    let first = chars.next().unwrap_or(' ');
    chars.next().is_some() || first >= '\u{1f000}' || matches!(first, '\u{2300}'..='\u{23ff}' | '\u{2600}'..='\u{27bf}')
}

impl Backend for Frames {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut run: Vec<(u16, u16, &Cell)> = Vec::new();
        for cell in content {
            let cut = uncertain(cell.2);
            run.push(cell);
            if cut {
                self.inner.draw(run.drain(..))?;
            }
        }
        self.inner.draw(run.into_iter())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.inner.hide_cursor()
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.inner.show_cursor()
    }

    /// What was set last: asking the terminal would wait for an answer that the reader of keys takes.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(self.cursor)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.cursor = position.into();
        self.inner.set_cursor_position(self.cursor)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.inner.clear()
    }

    fn clear_region(&mut self, clear_type: ClearType) -> io::Result<()> {
        self.inner.clear_region(clear_type)
    }

    fn size(&self) -> io::Result<Size> {
        self.inner.size()
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        self.inner.window_size()
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered.is_empty() {
            return Ok(());
        }
        let mut frame = Vec::with_capacity(gathered.len() + 16);
        frame.extend_from_slice(b"\x1b[?2026h");
        frame.append(&mut gathered);
        frame.extend_from_slice(b"\x1b[?2026l");
        drop(gathered);
        write_out(&frame)
    }
}
