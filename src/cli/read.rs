//! `chat read TARGET`: what is unread there, and then it is read.

use std::time::Duration;

use clap::Args;

use super::print::{Printer, channels};
use super::session::Session;
use super::target::Target;
use super::{Globals, Stop, report};
use crate::client::command::{Command, Place};
use crate::client::event::Answer;
use crate::client::model::{Anchor, Body, Problem, ProblemKind, Reason, TimelineItem};

const CATCH_UP: Duration = Duration::from_secs(10);
/// Unread messages printed at once; the rest stays unread.
const MOST: usize = 1000;

#[derive(Debug, Args)]
pub struct ReadArgs {
    /// #channel, #community/channel, @user, or a channel's id
    target: Target,
    /// Print the newest messages, read or not
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    lines: Option<u32>,
    /// Leave it unread
    #[arg(long)]
    keep_unread: bool,
}

/// # Errors
/// When the channel is not found or the profile does not open.
pub fn run(args: ReadArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let result = read(&mut session, &args, globals).await;
        session.close().await;
        result
    })
}

async fn read(session: &mut Session, args: &ReadArgs, globals: &Globals) -> Result<(), Stop> {
    let online = session.online(CATCH_UP).await;
    if !online && !globals.quiet {
        report(&session.offline("This is what is on this machine."), globals);
    }
    let settled = session.settled().await;
    let channel = args.target.find(&session.tree)?;
    let read_seq = channels(&session.tree).iter().find(|(name, _)| name.id == channel.id).map_or(0, |(_, node)| node.read_seq);
    let limit = args.lines.map_or(MOST, |lines| usize::try_from(lines).unwrap_or(MOST));
    let place = Place { channel_id: channel.id, thread: None };
    let Answer::Page(page) = session.call(Command::LoadTimeline { place, anchor: Anchor::Newest, limit }).await? else {
        return Ok(());
    };
    let mut out = Printer::new(globals);
    let is_new = |item: &TimelineItem| item.seq.is_some_and(|seq| seq > read_seq);
    let shown = page.items.iter().position(|item| !settled && is_new(item) && is_awaited(item)).unwrap_or(page.items.len());
    let (shown, rest) = page.items.split_at(shown);
    for item in shown {
        let unread = is_new(item) && !item.mine;
        if unread || args.lines.is_some() {
            out.message(item, &channel)?;
        }
    }
    out.flush()?;
    let newest = shown.iter().filter_map(|item| item.seq).max().unwrap_or(0);
    if newest > read_seq && !args.keep_unread {
        // Only after it was printed: what nobody saw stays unread.
        session.call(Command::MarkRead { channel_id: channel.id, seq: newest }).await?;
    }
    if !rest.is_empty() && !globals.quiet {
        let problem = Problem::new(ProblemKind::Network, "the rest cannot be opened before the server was asked for more");
        report(&problem.hint("It stays unread. Run this again."), globals);
    }
    Ok(())
}

/// Whether it may become readable by what the client asks the server for: nobody has seen it yet.
fn is_awaited(item: &TimelineItem) -> bool {
    matches!(item.body, Body::Undecryptable(Reason::UnverifiedDevice | Reason::WaitingForMembers))
}
