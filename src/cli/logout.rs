//! `chat logout`: ends the session on the server and makes the kernel forget the key; the history on this machine stays.

use std::time::Duration;

use serde_json::json;

use super::print::Printer;
use super::session::{self, Session};
use super::{Globals, Stop};
use crate::client::command::Command;
use crate::client::model::ProblemKind;
use crate::client::{setup, unlock};

const LINE: Duration = Duration::from_secs(10);

/// # Errors
/// `Network` when the server did not hear of it; here nobody is logged in any more all the same.
pub fn run(globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        // The server should hear of it; if it does not, that is said.
        session.online(LINE).await;
        let result = session.call(Command::LogOut).await;
        session.close().await;
        let profile = session::profile(globals)?;
        let unheard = match result {
            // Here it is done.
            Err(problem) if problem.kind == ProblemKind::Network => Some(problem),
            other => other.map(|_| None)?,
        };
        unlock::forget(&profile)?;
        setup::note_logout(&profile)?;
        if let Some(problem) = unheard {
            return Err(problem.into());
        }
        let mut out = Printer::new(globals);
        if out.is_json() {
            out.object("logged_out", json!({ "profile": globals.profile }))?;
        } else if !globals.quiet {
            out.say("logged out; the history on this machine stays, locked. `chat login` goes on with it.")?;
        }
        Ok(out.flush()?)
    })
}
