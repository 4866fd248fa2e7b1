//! A terminal for the real binary: a pseudo-terminal, and behind it a screen that understands what is written to it. Type with
//! [`Term::keys`], wait with [`Term::until`]; a wait in vain prints the screen. Nothing here sleeps for a time to pass.

use std::fmt;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

use super::binary::{BINARY, DEADLINE};
use crate::cli::people::Home;

/// What a program does beside drawing.
#[derive(Default)]
struct Outside {
    clipboard: String,
    title: String,
    /// Inside a synchronized update: what is on the screen is half a frame.
    drawing: bool,
    frames: usize,
}

impl vt100::Callbacks for Outside {
    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _kind: &[u8], data: &[u8]) {
        self.clipboard = String::from_utf8(STANDARD.decode(data).unwrap()).unwrap();
    }

    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.title = String::from_utf8_lossy(title).into_owned();
    }

    fn unhandled_csi(&mut self, _: &mut vt100::Screen, i1: Option<u8>, _: Option<u8>, params: &[&[u16]], c: char) {
        if i1 == Some(b'?') && params.first().is_some_and(|param| param.first() == Some(&2026)) {
            self.drawing = c == 'h';
            self.frames += usize::from(c == 'h');
        }
    }
}

struct State {
    parser: vt100::Parser<Outside>,
    /// Everything that was written, counted.
    bytes: usize,
    /// Nobody holds the other end any more.
    closed: bool,
    /// The reader is to let go of the terminal at the next byte.
    let_go: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is on the screen at a moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown {
    /// The rows, without the spaces at their ends.
    pub text: String,
    /// Row and column.
    pub cursor: (u16, u16),
    pub cursor_hidden: bool,
    pub alternate: bool,
    pub bracketed_paste: bool,
    pub title: String,
    /// What was last put into the clipboard.
    pub clipboard: String,
    pub frames: usize,
    pub bytes: usize,
}

impl Shown {
    /// Whether this text is there, also when it is wrapped.
    pub fn has(&self, text: &str) -> bool {
        self.text.contains(text) || self.text.split_whitespace().collect::<Vec<_>>().join(" ").contains(text)
    }

    pub fn count(&self, text: &str) -> usize {
        self.text.matches(text).count()
    }

    pub fn row(&self, text: &str) -> Option<&str> {
        self.text.lines().find(|row| row.contains(text))
    }

    /// As a program finds a terminal, and as it has to leave it.
    pub fn is_restored(&self) -> bool {
        !self.alternate && !self.cursor_hidden && !self.bracketed_paste
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (row, column) = self.cursor;
        writeln!(f, "cursor at {row},{column}, alternate screen {}, {} frames", self.alternate, self.frames)?;
        self.text.lines().try_for_each(|line| writeln!(f, "|{line}"))
    }
}

/// A program in a terminal. Dropping it kills the program.
pub struct Term {
    master: Option<Box<dyn MasterPty + Send>>,
    writer: Option<Box<dyn Write + Send>>,
    child: Box<dyn Child + Send + Sync>,
    shared: Arc<Shared>,
}

impl Term {
    /// `chat tui` with the profile of a home.
    pub fn tui(home: &Home, columns: u16, rows: u16) -> Self {
        Self::run(home, &[BINARY, "tui"], columns, rows)
    }

    /// The same at its first start or with a passphrase: nothing but the keyboard answers its questions.
    pub fn tui_by_keyboard(home: &Home, arguments: &[&str], columns: u16, rows: u16) -> Self {
        Self::by_keyboard(home, &[&[BINARY, "tui"], arguments].concat(), columns, rows)
    }

    /// Any program in the environment of a home, without the files that hold the answers.
    pub fn by_keyboard(home: &Home, arguments: &[&str], columns: u16, rows: u16) -> Self {
        let mut command = command(home, arguments);
        command.env_remove("CHAT_PASSPHRASE_FILE");
        command.env_remove("CHAT_PASSWORD_FILE");
        Self::spawn(command, columns, rows)
    }

    /// Any program, in the environment of a home.
    pub fn run(home: &Home, arguments: &[&str], columns: u16, rows: u16) -> Self {
        Self::spawn(command(home, arguments), columns, rows)
    }

    pub fn spawn(command: CommandBuilder, columns: u16, rows: u16) -> Self {
        let pair = native_pty_system().openpty(size(columns, rows)).unwrap();
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let (rows, columns) = nonzero(columns, rows);
        let state = State {
            parser: vt100::Parser::new_with_callbacks(rows, columns, 0, Outside::default()),
            bytes: 0,
            closed: false,
            let_go: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let reader = pair.master.try_clone_reader().unwrap();
        std::thread::spawn({
            let shared = shared.clone();
            move || read(reader, &shared)
        });
        let writer = pair.master.take_writer().unwrap();
        Self { master: Some(pair.master), writer: Some(writer), child, shared }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    // What one does at a terminal.

    /// Keys with spaces between them, text in quotes: `ctrl-g 'deploys' enter`. Escape comes last, since what follows it at once
    /// is an Alt key: wait for what it does.
    pub fn keys(&mut self, keys: &str) -> &mut Self {
        let mut bytes = Vec::new();
        let mut rest = keys.trim();
        while !rest.is_empty() {
            assert!(!bytes.ends_with(b"\x1b"), "a key after esc in {keys:?}");
            if let Some(text) = rest.strip_prefix('\'') {
                let (text, tail) = text.split_once('\'').expect("an open quote");
                bytes.extend(text.as_bytes());
                rest = tail.trim_start();
            } else {
                let (key, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                bytes.extend(key_bytes(key));
                rest = tail.trim_start();
            }
        }
        self.write(&bytes)
    }

    /// As terminals give a paste to a program that asked to know.
    pub fn paste(&mut self, text: &str) -> &mut Self {
        self.write(format!("\x1b[200~{text}\x1b[201~").as_bytes())
    }

    pub fn write(&mut self, bytes: &[u8]) -> &mut Self {
        let writer = self.writer.as_mut().expect("the terminal is gone");
        writer.write_all(bytes).and_then(|()| writer.flush()).unwrap();
        self
    }

    pub fn resize(&mut self, columns: u16, rows: u16) {
        // The screen first: what the program writes after the signal is meant for the new size.
        let (screen_rows, screen_columns) = nonzero(columns, rows);
        self.lock().parser.set_size(screen_rows, screen_columns);
        self.master.as_ref().expect("the terminal is gone").resize(size(columns, rows)).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.process_id().unwrap().cast_signed()).unwrap()
    }

    /// The terminal itself goes away, as when a connection breaks or somebody kills the window.
    pub fn hang_up(&mut self) {
        self.lock().let_go = true;
        // The reader lets go when it reads: the echo of a resize, or of being continued, is something to read.
        self.resize(81, 25);
        self.writer = None;
        self.master = None;
        self.until("the reader has let go", |_| false, |state| state.closed);
    }

    // What one sees.

    pub fn shown(&self) -> Shown {
        shown(&self.lock())
    }

    /// Waits until a whole frame satisfies the condition.
    #[track_caller]
    pub fn waits(&self, what: &str, wanted: impl Fn(&Shown) -> bool) -> Shown {
        self.until(what, wanted, |_| false)
    }

    /// Waits until this text is on the screen.
    #[track_caller]
    pub fn sees(&self, text: &str) -> Shown {
        self.waits(text, |shown| shown.has(text))
    }

    /// Waits until this text is gone.
    #[track_caller]
    pub fn sees_no(&self, text: &str) -> Shown {
        self.waits(&format!("no {text}"), |shown| !shown.has(text))
    }

    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(&Shown) -> bool, enough: impl Fn(&State) -> bool) -> Shown {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        loop {
            let now = shown(&state);
            if enough(&state) || (!state.parser.callbacks().drawing && wanted(&now)) {
                return now;
            }
            assert!(!state.closed, "the program ended before: {what}\n{now}");
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain: {what}\n{now}");
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for the end; the exit code, and everything that was written until then.
    #[track_caller]
    pub fn ended(&mut self) -> (u32, Shown) {
        let shown = self.until("the end of the program", |_| false, |state| state.closed);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.exit_code(), shown);
            }
            assert!(Instant::now() < deadline, "it closed the terminal and does not end\n{shown}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut reader: Box<dyn Read + Send>, shared: &Shared) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = reader.read(&mut buffer).unwrap_or(0);
        // A test that failed while it looked needs no second message.
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.parser.process(&buffer[..count]);
        state.bytes += count;
        if count == 0 || state.let_go {
            drop(reader);
            state.closed = true;
            shared.changed.notify_all();
            return;
        }
        shared.changed.notify_all();
    }
}

fn shown(state: &State) -> Shown {
    let (screen, outside) = (state.parser.screen(), state.parser.callbacks());
    Shown {
        text: screen.contents(),
        cursor: screen.cursor_position(),
        cursor_hidden: screen.hide_cursor(),
        alternate: screen.alternate_screen(),
        bracketed_paste: screen.bracketed_paste(),
        title: outside.title.clone(),
        clipboard: outside.clipboard.clone(),
        frames: outside.frames,
        bytes: state.bytes,
    }
}

fn command(home: &Home, arguments: &[&str]) -> CommandBuilder {
    let mut command = CommandBuilder::new(arguments[0]);
    command.env_clear();
    for (name, value) in home.environment() {
        command.env(name, value);
    }
    command.env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(&arguments[1..]);
    command.cwd(home.dir.path());
    command
}

fn size(columns: u16, rows: u16) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

fn nonzero(columns: u16, rows: u16) -> (NonZeroU16, NonZeroU16) {
    let least = |cells| NonZeroU16::new(cells).unwrap_or(NonZeroU16::MIN);
    (least(rows), least(columns))
}

/// What a terminal sends for a key.
fn key_bytes(key: &str) -> Vec<u8> {
    let named = match key {
        "enter" => "\r",
        "esc" => "\x1b",
        "tab" => "\t",
        "backtab" => "\x1b[Z",
        "space" => " ",
        "backspace" => "\x7f",
        "delete" => "\x1b[3~",
        "up" => "\x1b[A",
        "down" => "\x1b[B",
        "right" => "\x1b[C",
        "left" => "\x1b[D",
        "home" => "\x1b[H",
        "end" => "\x1b[F",
        "pageup" => "\x1b[5~",
        "pagedown" => "\x1b[6~",
        "f1" => "\x1bOP",
        "f2" => "\x1bOQ",
        "f3" => "\x1bOR",
        "f4" => "\x1bOS",
        "f5" => "\x1b[15~",
        "f6" => "\x1b[17~",
        "f7" => "\x1b[18~",
        "f8" => "\x1b[19~",
        "f9" => "\x1b[20~",
        "f12" => "\x1b[24~",
        _ => "",
    };
    if !named.is_empty() {
        return named.into();
    }
    if let Some(rest) = key.strip_prefix("alt-") {
        return [b"\x1b".to_vec(), key_bytes(rest)].concat();
    }
    let control = key.strip_prefix("ctrl-").map(|rest| rest.as_bytes()[0] & 0x1f);
    match (control, key.len()) {
        (Some(byte), _) => vec![byte],
        (None, 1) => key.as_bytes().to_vec(),
        _ => panic!("no such key: {key}"),
    }
}
