//! `chat send TARGET [TEXT]`: from scripts and from people. Beside a running client it uses that one; alone it connects, sends
//! and leaves. A message is either not sent and not kept, or it has an id and is on disk.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::print::{Printer, Style};
use super::session::Session;
use super::target::{MessageName, Target};
use super::{Globals, Stop, clean};
use crate::client::command::{Command, Place};
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Anchor, Delivery, Problem, ProblemKind, SendBlock, TimelineItem};
use crate::protocol::ids::{ChannelId, MessageId};
use crate::tui::text::Clean;

/// Bytes of a text that fit into one message (`docs/CRYPTO.md`, limits).
const TEXT_MAX: usize = 49_152;
/// With `--queue` a line that is not up soon is not waited for.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct SendArgs {
    /// #channel, #community/channel, @user, or a channel's id
    target: Target,
    /// What to say; without it, or as -, standard input
    #[arg(allow_hyphen_values = true)]
    text: Option<String>,
    /// Write into the thread of this message
    #[arg(long, value_name = "MESSAGE")]
    thread: Option<MessageName>,
    /// Quote this message
    #[arg(long, value_name = "MESSAGE")]
    reply: Option<MessageName>,
    /// Wait for the server however long it takes
    #[arg(long, conflicts_with = "queue")]
    wait: bool,
    /// Keep it for later when the server cannot be reached: exit 0
    #[arg(long)]
    queue: bool,
    /// Seconds to wait for the server
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// # Errors
/// When nothing was sent, or nobody confirmed it.
pub fn run(args: SendArgs, globals: &Globals) -> Result<(), Stop> {
    let text = text(args.text.as_deref())?;
    super::block_on(async {
        let within = match (args.queue, args.wait) {
            (true, _) => QUEUE_WAIT,
            (_, true) => Duration::from_secs(86_400 * 365),
            _ => Duration::from_secs(args.timeout),
        };
        let mut message = Message { text, id: MessageId(uuid::Uuid::now_v7()), asked: false };
        let mut session = Session::open(globals).await?;
        let deadline = Instant::now() + within;
        loop {
            let sent = send(&mut session, &args, &mut message, deadline, globals).await;
            let again = session.ended && matches!(sent, Err(Stop::Problem(_)));
            session.close().await;
            // The client that we shared ended. Whether it had taken the message or not: under its id it is sent once.
            if !again || Instant::now() >= deadline {
                return sent;
            }
            session = Session::open(globals).await?;
        }
    })
}

/// What is sent, once.
struct Message {
    text: String,
    id: MessageId,
    /// A client was asked to send it.
    asked: bool,
}

fn text(argument: Option<&str>) -> Result<String, Stop> {
    let text = match argument {
        Some(text) if text != "-" => text.to_owned(),
        _ => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .take(TEXT_MAX as u64 + 2)
                .read_to_end(&mut bytes)
                .map_err(|error| Problem::new(ProblemKind::Usage, format!("cannot read standard input: {error}")))?;
            String::from_utf8(bytes).map_err(|_| {
                Problem::new(ProblemKind::Usage, "standard input is not UTF-8 text")
                    .hint("Files cannot be sent yet; encode them first.")
            })?
        }
    };
    let text = text.trim_end_matches(['\n', '\r']);
    if text.trim().is_empty() {
        return Err(Problem::new(ProblemKind::Usage, "there is nothing to send")
            .hint("Give the text, or write it to standard input.")
            .into());
    }
    if text.len() > TEXT_MAX {
        return Err(Problem::new(ProblemKind::Usage, format!("the text is longer than {TEXT_MAX} bytes"))
            .hint("Send it in parts. Nothing was sent.")
            .into());
    }
    Ok(text.to_owned())
}

/// Puts the message into the outbox, unless an earlier attempt did, and waits for the server.
async fn send(
    session: &mut Session,
    args: &SendArgs,
    message: &mut Message,
    deadline: Instant,
    globals: &Globals,
) -> Result<(), Stop> {
    let online = session.online(deadline.saturating_duration_since(Instant::now())).await;
    if session.ended {
        return Err(crate::client::ended().into());
    }
    if !online && !args.queue && !message.asked {
        return Err(session.offline("Nothing was sent or kept; --queue keeps it for later, --wait waits.").into());
    }
    let channel = args.target.open(session).await?;
    let place = Place { channel_id: channel.id, thread: resolve(args.thread, session, channel.id).await? };
    let id = message.id;
    if let Some(problem) = blocked(session, channel.id).filter(|_| !message.asked) {
        return Err(problem.into());
    }
    let reply_to = resolve(args.reply, session, channel.id).await?;
    let text = message.text.as_str().into();
    message.asked = true;
    match session.call(Command::SendText { place, text, reply_to, mentions: Vec::new(), id: Some(id) }).await? {
        Answer::Queued { .. } => {}
        other => return Err(Problem::new(ProblemKind::Failed, format!("unexpected answer: {other:?}")).into()),
    }
    let seq = if online { confirmed(session, place, id, deadline, args.wait).await? } else { None };
    if seq.is_none() && !args.queue {
        let unconfirmed = || {
            Problem::new(ProblemKind::Network, format!("message {id} is not confirmed yet"))
                .hint("It is kept and goes out, once, with the next client that connects. Do not send it again.")
        };
        return Err(away(session, channel.id).unwrap_or_else(unconfirmed).into());
    }
    let state = if seq.is_some() { "sent" } else { "queued" };
    let mut out = Printer::new(globals);
    let told = if out.is_json() {
        out.object("sent", json!({ "id": id, "channel_id": channel.id, "channel": channel.full(), "seq": seq, "state": state }))
    } else if globals.quiet {
        Ok(())
    } else {
        out.line(&[(Style::Plain, &Clean::ours(id.to_string()))])
    };
    told.and_then(|()| out.flush()).map_err(|error| match Stop::from(error) {
        // Whoever tries again on every failure would write it twice.
        Stop::Problem(problem) => Problem::new(problem.kind, format!("message {id} is {state}, but {}", problem.text.raw()))
            .hint("Do not send it again.")
            .into(),
        signal @ Stop::Signal(_) => signal,
    })
}

async fn resolve(
    name: Option<MessageName>,
    session: &mut Session,
    channel_id: ChannelId,
) -> Result<Option<crate::client::model::MessageRef>, Stop> {
    match name {
        Some(name) => name.resolve(session, channel_id).await.map(Some),
        None => Ok(None),
    }
}

/// The server's number of the message; none when the time is over, or, unless `patient`, when nobody is there to read it.
async fn confirmed(
    session: &mut Session,
    place: Place,
    id: MessageId,
    deadline: Instant,
    patient: bool,
) -> Result<Option<u64>, Stop> {
    // It may have happened before we listened.
    if let Answer::Page(page) = session.call(Command::LoadTimeline { place, anchor: Anchor::Newest, limit: 50 }).await?
        && let Some(item) = page.items.iter().find(|item| is_own(item, id))
        && let Some(seq) = accepted(item)?
    {
        return Ok(Some(seq));
    }
    loop {
        // What waits because of whom it is for does not go out by itself.
        if let Some(problem) = blocked(session, place.channel_id).filter(|problem| problem.kind == ProblemKind::Crypto) {
            return Err(problem
                .hint("The message is kept and not sent. Decide in `chat tui`: its banner says about what.")
                .into());
        }
        if !patient && away(session, place.channel_id).is_some() {
            return Ok(None);
        }
        let event = match timeout_at(deadline, session.next()).await {
            Err(_) => return Ok(None),
            Ok(None | Some(ClientEvent::Closed)) => return Err(crate::client::ended().into()),
            Ok(Some(event)) => event,
        };
        let ClientEvent::Timeline { channel_id, items } = event else { continue };
        if let Some(item) = items.iter().find(|item| channel_id == place.channel_id && is_own(item, id))
            && let Some(seq) = accepted(item)?
        {
            return Ok(Some(seq));
        }
    }
}

/// The number of a message that the server has; none while it waits.
fn accepted(item: &TimelineItem) -> Result<Option<u64>, Stop> {
    match &item.delivery {
        Delivery::Sent | Delivery::Delivered | Delivery::Read => Ok(Some(item.seq.unwrap_or(0))),
        Delivery::Failed(why) => Err(Problem::new(ProblemKind::Permission, format!("the message was refused: {}", clean(why)))
            .hint("It is kept under its id; `chat tui` can try again or discard it.")
            .into()),
        Delivery::Waiting | Delivery::Received => Ok(None),
    }
}

fn is_own(item: &TimelineItem, id: MessageId) -> bool {
    item.mine && item.key.id == id
}

fn block(session: &Session, channel: ChannelId) -> Option<&SendBlock> {
    let all = super::print::channels(&session.tree);
    all.into_iter().find(|(name, _)| name.id == channel)?.1.blocked.as_ref()
}

/// Why what was written waits without end: nobody is there to read it.
fn away(session: &Session, channel: ChannelId) -> Option<Problem> {
    let SendBlock::Away { name, dormant, refused, .. } = block(session, channel)? else { return None };
    if *refused {
        let what = format!("what the server gives as the keys of {} does not hold", clean(name));
        let hint = "The message is kept, encrypted for nobody; the next one to them looks again. Do not send it again.";
        return Some(Problem::new(ProblemKind::Crypto, what).hint(hint));
    }
    let what = match dormant {
        true => format!("none of {}'s devices has been there for 30 days", clean(name)),
        false => format!("no device of {} can be written to now", clean(name)),
    };
    let hint = "The message is kept; it goes out, once, when one of them comes back. Do not send it again.";
    Some(Problem::new(ProblemKind::Network, what).hint(hint))
}

/// Why nothing can be written there, before anything is.
fn blocked(session: &Session, channel: ChannelId) -> Option<Problem> {
    let problem = match block(session, channel)? {
        SendBlock::IdentityChanged { name, .. } => {
            Problem::new(ProblemKind::Crypto, format!("the identity key of {} changed", clean(name)))
                .hint("Compare safety numbers in `chat tui` (F8) before you write. Nothing was sent.")
        }
        SendBlock::Equivocation { name, .. } => {
            Problem::new(ProblemKind::Crypto, format!("two different device lists of {} claim the same place", clean(name)))
                .hint("The server or that person's device is lying. Nothing was sent.")
        }
        SendBlock::Away { .. } => return None,
        SendBlock::LogStopped => Problem::new(ProblemKind::Crypto, "the membership log of this channel does not verify")
            .hint("The server may be lying about who is a member; `chat resume` says more. Nothing was sent."),
        SendBlock::ReadOnly => Problem::new(ProblemKind::Permission, "this channel is read-only for you"),
        SendBlock::Archived => Problem::new(ProblemKind::Permission, "this channel is archived"),
        SendBlock::NotMember => Problem::new(ProblemKind::Permission, "you are not a member of this channel any more"),
    };
    Some(problem)
}
