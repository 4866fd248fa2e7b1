//! `chat search WORDS`: in the history on this machine; the server cannot search what it cannot read.

use clap::Args;
use serde_json::json;

use super::print::{Printer, Style, channels};
use super::session::Session;
use super::target::Target;
use super::{Globals, Stop};
use crate::client::command::{Command, Place};
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};
use crate::tui::text::Clean;

/// Cells of a hit's text.
const PREVIEW: usize = 200;

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Words, "phrases", from:name
    #[arg(required = true)]
    words: Vec<String>,
    /// Only there
    #[arg(long = "in", value_name = "TARGET")]
    place: Option<Target>,
    /// At most so many hits, newest first
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// # Errors
/// `NotFound` when nothing fits.
pub fn run(args: SearchArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let result = search(&mut session, &args, globals).await;
        session.close().await;
        result
    })
}

async fn search(session: &mut Session, args: &SearchArgs, globals: &Globals) -> Result<(), Stop> {
    let place = match &args.place {
        Some(target) => Some(Place { channel_id: target.find(&session.tree)?.id, thread: None }),
        None => None,
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let hits = match session.call(Command::Search { query: args.words.join(" "), place, limit }).await? {
        Answer::Hits(hits) => hits,
        _ => Vec::new(),
    };
    if hits.is_empty() {
        return Err(Problem::new(ProblemKind::NotFound, "nothing found")
            .hint("Only what this device has received can be searched.")
            .into());
    }
    let mut out = Printer::new(globals);
    let names = channels(&session.tree);
    for hit in &hits {
        let name = names.iter().find(|(name, _)| name.id == hit.channel_id).map(|(name, _)| name);
        if out.is_json() {
            out.object(
                "hit",
                json!({
                    "channel_id": hit.channel_id,
                    "channel": name.map_or_else(|| hit.channel_name.raw().to_owned(), |name| name.full().to_owned()),
                    "id": hit.message.id,
                    "author_id": hit.message.author,
                    "author": hit.author_name.raw(),
                    "at": hit.at,
                    "thread_id": hit.thread_root.map(|root| root.id),
                    "text": hit.text.raw(),
                }),
            )?;
            continue;
        }
        let at = jiff::Timestamp::from_millisecond(hit.at.as_millis()).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
        let place = name.map_or_else(|| Clean::from_untrusted(&hit.channel_name), |name| name.short.clone());
        out.line(&[
            (Style::Dim, &Clean::ours(format!("{}  {place}  ", at.strftime("%Y-%m-%d %H:%M")))),
            (Style::Bold, &Clean::ours(format!("{}: ", Clean::from_untrusted(&hit.author_name)))),
            (Style::Plain, &Clean::preview(&hit.text, PREVIEW)),
        ])?;
    }
    Ok(out.flush()?)
}
