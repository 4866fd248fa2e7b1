//! Puts the pieces together: terminal, signals, clock, loop. `chat tui` and `chat demo` call [`start`].

use std::io;

use crossterm::event::EventStream;
use jiff::tz::TimeZone;
use tokio::sync::mpsc;

use super::app::App;
use super::host::ClientHost;
use super::runtime::{self, Signal};
use super::screen::setup::SetupScreen;
use super::terminal::{Screen, watch_for_hang_up};
use super::theme::Theme;
use crate::client::model::{Problem, ProblemKind};
use crate::protocol::codec::Timestamp;

/// Runs the terminal client until the user leaves, then puts the client away. Gives the number of the signal that ended it, if one
/// did.
///
/// # Errors
/// When there is no usable terminal.
pub async fn start(mut host: ClientHost, setup: Option<SetupScreen>) -> Result<Option<u8>, Problem> {
    let failed = |error: io::Error| Problem::new(ProblemKind::Failed, format!("the terminal cannot be used: {error}"));
    let var = |name: &str| std::env::var(name).ok();
    let mut screen = Screen::open()?;
    let size = screen.size().map_err(failed)?;
    let mut app = App::new(now(), TimeZone::system(), size, Theme::from_env(var));
    app.setup = setup;

    let (say, mut signals) = mpsc::channel(16);
    runtime::listen(say.clone()).map_err(failed)?;
    let watch = watch_for_hang_up(move || {
        let _ = say.try_send(Signal::End(129));
    })
    .map_err(failed)?;

    let remote = var("SSH_CONNECTION").is_some();
    let frame = if remote { runtime::FRAME_REMOTE } else { runtime::FRAME };
    let ended = runtime::run(&mut app, &mut screen, &mut host, EventStream::new(), &mut signals, now, frame).await;
    // The user's shell comes back at once; the store is closed behind it.
    drop(screen);
    host.close().await;
    drop(watch);
    // A terminal that is gone cannot be told why.
    Ok(ended.unwrap_or(Some(129)).map(|code| code.saturating_sub(128)))
}

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}
