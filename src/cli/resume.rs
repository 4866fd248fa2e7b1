//! `chat resume`: a channel that stopped because two signed changes of its members contradict each other. Without a choice it shows
//! both; an admin's choice lets the channel go on.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::print::{Printer, Style};
use super::session::Session;
use super::target::Target;
use super::{Globals, Stop, report};
use crate::client::command::Command;
use crate::client::event::Answer;
use crate::client::model::{Fork, SignedChange};
use crate::tui::text::Clean;

const LINE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// #channel, #community/channel, or an id
    target: Target,
    /// The change that is to be void for good: its hash, as this command shows it without a choice. For admins
    #[arg(long, value_name = "HASH")]
    discard: Option<String>,
}

/// # Errors
/// `NotFound` for an unknown channel or hash, `Permission` for whoever is no admin, `Network` when the server cannot be reached.
pub fn run(args: ResumeArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let result = resume(&mut session, &args, globals).await;
        session.close().await;
        result
    })
}

async fn resume(session: &mut Session, args: &ResumeArgs, globals: &Globals) -> Result<(), Stop> {
    if !session.online(LINE).await {
        if args.discard.is_some() {
            return Err(session.offline("Nothing happened; try again later.").into());
        }
        if !globals.quiet {
            report(&session.offline("This is what is known on this machine."), globals);
        }
    }
    let channel = args.target.find(&session.tree)?;
    let mut out = Printer::new(globals);
    if let Some(discard) = &args.discard {
        session.call(Command::Resume { channel_id: channel.id, discard: discard.clone() }).await?;
    }
    let forks = match session.call(Command::ShowForks { channel_id: channel.id }).await? {
        Answer::Forks(forks) => forks,
        _ => Vec::new(),
    };
    for fork in &forks {
        if out.is_json() {
            out.object("fork", fork_object(channel.id.to_string(), fork))?;
        } else {
            show(&mut out, fork)?;
        }
    }
    if out.is_json() {
        out.object("resume", json!({ "channel_id": channel.id, "channel": channel.full(), "stopped": !forks.is_empty() }))?;
    } else if !globals.quiet {
        out.say(match (forks.is_empty(), args.discard.is_some()) {
            (true, false) => "The channel is not stopped: there is nothing to decide.",
            (true, true) => "The channel goes on. New keys are made before the next message.",
            (false, _) => {
                "The channel is stopped: nothing is sent there. Somebody signed two changes for one place: a stolen key, a broken \
                 client, or a server that shows different things to different people. Ask them, by another way than this \
                 channel. Then an admin declares the wrong change void: chat resume TARGET --discard HASH. If the change that \
                 is in force here is the wrong one, make a new channel."
            }
        })?;
    }
    Ok(out.flush()?)
}

fn show(out: &mut Printer, fork: &Fork) -> std::io::Result<()> {
    out.say(format!("Change number {} exists twice.", fork.seq))?;
    for (title, change) in [("  in force here  ", &fork.kept), ("  contradicts it ", &fork.other)] {
        let at = jiff::Timestamp::from_millisecond(change.signed_at.as_millis()).unwrap_or_default();
        let at = at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string();
        let (by, what) = (Clean::from_untrusted(&change.by), Clean::from_untrusted(&change.what));
        let device = change.device_id;
        out.line(&[
            (Style::Dim, &Clean::ours(title)),
            (Style::Bold, &Clean::ours(format!("{by} {what}"))),
            (Style::Dim, &Clean::ours(format!("  signed by device {device}, {at} by its clock"))),
        ])?;
    }
    out.line(&[(Style::Dim, &Clean::ours("  its hash       ")), (Style::Plain, &Clean::ours(&fork.discard))])
}

fn fork_object(channel_id: String, fork: &Fork) -> Value {
    let change = |change: &SignedChange| {
        json!({
            "by": change.by.raw(),
            "device_id": change.device_id,
            "what": change.what.raw(),
            "signed_at": change.signed_at,
        })
    };
    let (kept, other) = (change(&fork.kept), change(&fork.other));
    json!({ "channel_id": channel_id, "seq": fork.seq, "discard": fork.discard, "kept": kept, "other": other })
}
