//! `chat read TARGET`: what is unread there, and then it is read.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::print::{Printer, channels};
use super::session::Session;
use super::target::Target;
use super::{Globals, Stop, report};
use crate::client::command::Command;
use crate::client::core::now;
use crate::client::event::Answer;
use crate::client::model::{Body, Problem, ProblemKind, Reason, TimelineItem};
use crate::protocol::codec::Timestamp;

const CATCH_UP: Duration = Duration::from_secs(10);
/// Unread messages printed at once; the rest stays unread.
const MOST: usize = 1000;
/// What could not be opened is kept and asked for so long (`crypto.md` 10.5).
const HELD_MS: i64 = 7 * 86_400_000;

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
    let Answer::Page(page) = session.call(Command::LoadNewest { channel_id: channel.id, limit }).await? else {
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
    let newest = read_up_to(shown, read_seq, now());
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

/// The last row that counts as read once these were printed: none behind a row that may still become readable, since what it says
/// would never be printed.
fn read_up_to(shown: &[Arc<TimelineItem>], read_seq: u64, now: Timestamp) -> u64 {
    let is_held = |item: &TimelineItem| {
        let waits = matches!(item.body, Body::Undecryptable(reason) if reason != Reason::Refused);
        waits && item.seq.is_some_and(|seq| seq > read_seq) && now.0.saturating_sub(item.at.0) < HELD_MS
    };
    shown.iter().take_while(|item| !is_held(item)).filter_map(|item| item.seq).max().unwrap_or(0)
}

/// Whether it may become readable by what the client asks the server for: nobody has seen it yet.
fn is_awaited(item: &TimelineItem) -> bool {
    matches!(item.body, Body::Undecryptable(Reason::UnverifiedDevice | Reason::WaitingForMembers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::model::{Delivery, MessageRef, Trust};
    use crate::protocol::ids::{ChannelId, MessageId, UserId};

    fn row(seq: u64, at_ms: i64, body: Body) -> Arc<TimelineItem> {
        Arc::new(TimelineItem {
            channel_id: ChannelId::from_bytes([1; 16]),
            key: MessageRef { author: UserId::from_bytes([2; 16]), id: MessageId::from_bytes([3; 16]) },
            seq: Some(seq),
            revision: 0,
            at: Timestamp(at_ms),
            author_name: "bo".into(),
            author_trust: Trust::Unverified,
            mine: false,
            body,
            reply_to: None,
            thread_root: None,
            thread: None,
            reactions: Vec::new(),
            edited: false,
            mentions_me: false,
            delivery: Delivery::Received,
            marks: Vec::new(),
        })
    }

    #[test]
    fn what_may_still_become_readable_stays_unread() {
        let text = || Body::Text("x".into());
        for reason in [Reason::WaitingForKey, Reason::WaitingForMembers, Reason::UnverifiedDevice, Reason::Requested] {
            let shown = [row(1, 0, text()), row(2, 0, Body::Undecryptable(reason)), row(3, 0, text())];
            assert_eq!(read_up_to(&shown, 0, Timestamp(5)), 1, "{reason:?}");
            assert_eq!(read_up_to(&shown, 2, Timestamp(5)), 3, "it was read already");
            assert_eq!(read_up_to(&shown, 0, Timestamp(HELD_MS)), 3, "it is given up");
        }
        let refused = [row(1, 0, text()), row(2, 0, Body::Undecryptable(Reason::Refused))];
        assert_eq!(read_up_to(&refused, 0, Timestamp(5)), 2, "that one will never say anything");
    }
}
