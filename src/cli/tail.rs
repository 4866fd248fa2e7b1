//! `chat tail`: the newest messages of some or all channels in the order of their time, and with `--follow` what comes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::print::{ChannelName, Printer, channels};
use super::session::Session;
use super::target::Target;
use super::{Globals, Stop, report};
use crate::client::command::Command;
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Body, Connection, Delivery, MessageRef, Reaction, TimelineItem};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::ChannelId;

/// Lines that are remembered as printed, so that a change of one is told from a new one.
const REMEMBERED: usize = 10_000;
/// Without `--follow` the server gets so long to bring what is new.
const CATCH_UP: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct TailArgs {
    /// #channel, #community/channel, @user or an id; all channels without one
    targets: Vec<Target>,
    /// How many messages to begin with
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
    /// Only messages since then: 90s, 15m, 2h, 3d, or a time such as 2026-11-21T09:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
    /// Go on with what comes, until interrupted
    #[arg(short, long)]
    follow: bool,
}

/// # Errors
/// When a channel is not found or the profile does not open.
pub fn run(args: TailArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let result = tail(&mut session, &args, globals).await;
        session.close().await;
        result
    })
}

async fn tail(session: &mut Session, args: &TailArgs, globals: &Globals) -> Result<(), Stop> {
    if !session.online(CATCH_UP).await && !globals.quiet {
        report(&session.offline("This is what is on this machine."), globals);
    }
    session.settled().await;
    let mut chosen = Vec::new();
    for target in &args.targets {
        chosen.push(target.find(&session.tree)?);
    }
    let places: Vec<ChannelName> =
        if chosen.is_empty() { channels(&session.tree).into_iter().map(|(name, _)| name).collect() } else { chosen.clone() };
    let mut first = Vec::new();
    for channel in &places {
        for item in newest(session, channel.id, args).await? {
            first.push((item, channel.clone()));
        }
    }
    first.sort_by_key(|(item, _)| (item.at, item.seq));
    let surplus = first.len().saturating_sub(usize::try_from(args.lines).unwrap_or(usize::MAX));
    let mut tape = Tape { out: Printer::new(globals), printed: Printed::default(), unseen: BTreeMap::new() };
    for (item, channel) in first.drain(surplus..) {
        tape.print(&item, &channel)?;
    }
    for command in tape.shown()? {
        session.call(command).await?;
    }
    if !args.follow {
        return Ok(());
    }
    let mut up = matches!(session.connection, Connection::Online { .. });
    while let Some(event) = session.next().await {
        match event {
            ClientEvent::Timeline { channel_id, items } => {
                if !chosen.is_empty() && !chosen.iter().any(|channel| channel.id == channel_id) {
                    continue;
                }
                let Some((channel, _)) = channels(&session.tree).into_iter().find(|(name, _)| name.id == channel_id) else {
                    continue;
                };
                for item in items.iter().filter(|item| args.since.is_none_or(|since| item.at >= since)) {
                    tape.print(item, &channel)?;
                }
                for command in tape.shown()? {
                    session.client.send(command);
                }
            }
            ClientEvent::Closed => break,
            ClientEvent::Connection(Connection::Online { .. }) => up = true,
            ClientEvent::Connection(Connection::Offline { .. } | Connection::LoggedOut { .. }) if up => {
                up = false;
                if !globals.quiet {
                    report(&session.offline("Trying again; nothing will be missed."), globals);
                }
            }
            _ => {}
        }
    }
    Err(crate::client::ended().into())
}

async fn newest(session: &mut Session, channel_id: ChannelId, args: &TailArgs) -> Result<Vec<Arc<TimelineItem>>, Stop> {
    let limit = usize::try_from(args.lines).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(Vec::new());
    }
    match session.call(Command::LoadNewest { channel_id, limit }).await? {
        Answer::Page(page) => Ok(page.items.into_iter().filter(|item| args.since.is_none_or(|since| item.at >= since)).collect()),
        _ => Ok(Vec::new()),
    }
}

/// What was printed, so that nothing is printed twice and a change is.
struct Tape {
    out: Printer,
    printed: Printed,
    /// Printed, and the client not yet told.
    unseen: BTreeMap<ChannelId, Vec<MessageRef>>,
}

impl Tape {
    fn print(&mut self, item: &TimelineItem, channel: &ChannelName) -> std::io::Result<()> {
        // An own message is news when the server has it.
        if item.delivery == Delivery::Waiting || !self.printed.is_news(item, self.out.is_json()) {
            return Ok(());
        }
        self.unseen.entry(item.channel_id).or_default().push(item.key);
        self.out.message(item, channel)
    }

    /// Gives everything to the reader: what disappears a while after it was seen begins to, once the client is told.
    fn shown(&mut self) -> std::io::Result<Vec<Command>> {
        self.out.flush()?;
        let told = std::mem::take(&mut self.unseen).into_iter();
        Ok(told.map(|(channel_id, messages)| Command::Displayed { channel_id, messages }).collect())
    }
}

#[derive(Default)]
struct Printed {
    looks: HashMap<(ChannelId, MessageRef), (Body, Vec<Reaction>)>,
    order: VecDeque<(ChannelId, MessageRef)>,
}

impl Printed {
    /// Reactions are news to programs only: a person is shown none.
    fn is_news(&mut self, item: &TimelineItem, to_program: bool) -> bool {
        let line = (item.channel_id, item.key);
        match self.looks.insert(line, (item.body.clone(), item.reactions.clone())) {
            Some((body, reactions)) => body != item.body || (to_program && reactions != item.reactions),
            None => {
                self.order.push_back(line);
                if self.order.len() > REMEMBERED
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.looks.remove(&oldest);
                }
                true
            }
        }
    }
}

/// `15m` ago, or a moment.
fn since(text: &str) -> Result<Timestamp, String> {
    let how = || "write 90s, 15m, 2h, 3d, or a time such as 2026-11-21T09:00:00Z".to_owned();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(at.as_millisecond()));
    }
    let ago = span(text).and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000)).ok_or_else(how)?;
    Ok(Timestamp(crate::client::core::now().0.saturating_sub(ago)))
}

/// `15m` in seconds.
pub(super) fn span(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    number.checked_mul(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_spans_and_moments() {
        assert_eq!(since("2026-11-21T09:00:00Z").unwrap(), Timestamp(1_795_251_600_000));
        let now = crate::client::core::now().0;
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200), ("1w", 604_800)] {
            let off = now - seconds * 1000 - since(text).unwrap().0;
            assert!(off.abs() < 60_000, "{text}: {off}");
        }
        for bad in ["", "h", "-1h", "1y", "soon", "99999999999999999d", "1é"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
