//! `chat join`: joins a community by an invite link. What follows the `#` in a link is secret, and arguments are visible to
//! others on the machine: so the link comes from a file, from standard input or from a hidden question. As an argument it is
//! for the links of open communities, which have no secret half.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::print::Printer;
use super::session::Session;
use super::{Globals, Stop, ask, report};
use crate::client::command::{Command, InviteText};
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};

const LINE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// chat://HOST/i/CODE, or - for standard input; without it, the link is asked for. What follows a # in it is secret, and
    /// arguments are visible to other users of this machine: use --link-file, standard input or the question for such links
    #[arg(conflicts_with = "link_file")]
    link: Option<String>,
    /// The first line of this file is the link; - for standard input
    #[arg(long, value_name = "FILE")]
    link_file: Option<PathBuf>,
}

const OTHERWISE: &str = "Give the link with --link-file FILE, or - for standard input.";

/// # Errors
/// When the link is wrong, expired or used up, or the server cannot be reached.
pub fn run(args: JoinArgs, globals: &Globals) -> Result<(), Stop> {
    let link = match (args.link.as_deref(), &args.link_file) {
        (Some("-"), _) => ask::secret_file("-".as_ref())?.0,
        (Some(link), _) => {
            if link.contains('#') && !globals.quiet {
                let told =
                    Problem::new(ProblemKind::Usage, "the secret half of this link could be read by others on this machine");
                report(&told.hint(OTHERWISE), globals);
            }
            link.to_owned()
        }
        (None, Some(path)) => ask::secret_file(path)?.0,
        (None, None) => ask::secret(globals, "Invite link", OTHERWISE)?.0,
    };
    let link = InviteText(link);
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
    // Its channels are here when the next command asks for them.
    session.settled().await;
    let mut out = Printer::new(globals);
    if out.is_json() {
        out.object("joined", json!({ "community_id": id }))?;
    } else if !globals.quiet {
        out.say("joined; `chat channels` lists where you can read and write.")?;
    }
    Ok(out.flush()?)
}
