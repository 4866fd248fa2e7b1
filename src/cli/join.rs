//! `chat join LINK`: joins a community by an invite link. The link's secret half is read from standard input or a prompt as
//! well, because arguments are visible to others on the machine.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::print::Printer;
use super::session::Session;
use super::{Globals, Stop, ask};
use crate::client::command::{Command, InviteText};
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};

const LINE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// chat://HOST/i/CODE#TCI1-… ; without it, it is asked for
    link: Option<String>,
}

/// # Errors
/// When the link is wrong, expired or used up, or the server cannot be reached.
pub fn run(args: JoinArgs, globals: &Globals) -> Result<(), Stop> {
    let link = match args.link {
        Some(link) => InviteText(link),
        None => InviteText(ask::secret(globals, "Invite link: ", "Give it as an argument.")?.0),
    };
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let joined = join(&mut session, link, globals).await;
        session.close().await;
        joined
    })
}

async fn join(session: &mut Session, link: InviteText, globals: &Globals) -> Result<(), Stop> {
    if !session.online(LINE).await {
        return Err(session.offline("Nothing happened; try again later.").into());
    }
    let id = match session.call(Command::Join { link }).await? {
        Answer::Community(id) => id,
        other => return Err(Problem::new(ProblemKind::Failed, format!("unexpected answer: {other:?}")).into()),
    };
    let mut out = Printer::new(globals);
    if out.is_json() {
        out.object("joined", json!({ "community_id": id }))?;
    } else if !globals.quiet {
        out.say("joined; `chat channels` lists where you can read and write.")?;
    }
    Ok(out.flush()?)
}
