//! `chat status`: who is logged in here, and how the line is. Asks nothing: for prompts and status bars it is quick, and says
//! more when a client runs.

use std::time::Duration;

use serde_json::json;

use super::print::Printer;
use super::session::{self, Session};
use super::{Globals, Stop};
use crate::client::model::Connection;
use crate::tui::text::Clean;

/// A client that has just started gets a moment to reach the server.
const MOMENT: Duration = Duration::from_millis(200);

/// # Errors
/// `Auth` when the profile has no account.
pub fn run(globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let profile = session::profile(globals)?;
        let account = profile.require_account()?;
        let mut out = Printer::new(globals);
        let Some(mut session) = Session::attach(&profile, globals).await? else {
            if out.is_json() {
                out.object(
                    "status",
                    json!({ "profile": profile.name, "server": account.server, "username": account.username, "user_id": account.user_id, "running": false, "logged_in": !account.logged_out }),
                )?;
            } else {
                out.say(format!("{} at {} (profile {})", account.username, account.server, profile.name))?;
                out.say(if account.logged_out {
                    "nobody is logged in; `chat login` goes on with it"
                } else {
                    "no client is running"
                })?;
            }
            return Ok(out.flush()?);
        };
        session.online(MOMENT).await;
        let (word, words) = connection(&session.connection);
        let unread: u64 = session.tree.communities.iter().map(|community| community.unread).sum::<u64>()
            + session.tree.dms.iter().map(|dm| dm.unread).sum::<u64>();
        if out.is_json() {
            out.object(
                "status",
                json!({
                    "profile": profile.name,
                    "server": account.server,
                    "username": account.username,
                    "user_id": account.user_id,
                    "device_id": session.account.device_id,
                    "fingerprint": session.account.fingerprint,
                    "running": true,
                    "logged_in": !matches!(session.connection, Connection::LoggedOut { .. }),
                    "pid": session.client.owner_pid(),
                    "connection": word,
                    "unread": unread,
                    "waiting": session.tree.waiting,
                }),
            )?;
        } else {
            out.say(format!(
                "{} at {} (profile {}, device {})",
                account.username, account.server, profile.name, session.account.device_id
            ))?;
            out.say(format!("{words}; {unread} unread, {} waiting to be sent", session.tree.waiting))?;
        }
        out.flush()?;
        session.close().await;
        Ok(())
    })
}

fn connection(connection: &Connection) -> (&'static str, String) {
    match connection {
        Connection::Starting | Connection::Connecting { .. } => ("connecting", "connecting".to_owned()),
        Connection::Online { latency_ms: Some(ms) } => ("online", format!("online, {ms} ms")),
        Connection::Online { latency_ms: None } => ("online", "online".to_owned()),
        Connection::Offline { why, .. } => ("offline", format!("offline: {}", Clean::from_untrusted(why))),
        Connection::LoggedOut { why } => ("logged_out", format!("logged out: {}", Clean::from_untrusted(why))),
    }
}
