//! Everything that a subcommand prints. Text from outside reaches the terminal as [`Clean`] only; in JSON it is exact, with
//! every character that a terminal could act on written as `\uXXXX`. `docs/CLI.md` describes the objects.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use serde_json::{Value, json};

use super::Globals;
use crate::client::model::{Body, ChannelNode, Delivery, Mark, Reason, SystemLine, TimelineItem, Tree, Trust, Untrusted};
use crate::protocol::channels::ChannelKind;
use crate::protocol::ids::ChannelId;
use crate::tui::text::Clean;
use crate::tui::widget::timeline::lines::{mark_words, reason_words, system_words};

/// Field `v` of every object; grows when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// Standard output.
pub struct Printer {
    json: bool,
    colour: bool,
    out: BufWriter<StdoutLock<'static>>,
    zone: TimeZone,
}

/// How a part of a line looks on a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
}

impl Printer {
    pub fn new(globals: &Globals) -> Self {
        let stdout = io::stdout();
        let colour = stdout.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { json: globals.json, colour, out: BufWriter::new(stdout.lock()), zone: TimeZone::system() }
    }

    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// An object of the documented kinds; `v` and `type` come first.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn object(&mut self, kind: &str, fields: Value) -> io::Result<()> {
        let mut object = serde_json::Map::new();
        object.insert("v".to_owned(), VERSION.into());
        object.insert("type".to_owned(), kind.into());
        if let Value::Object(fields) = fields {
            object.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        }
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.out, Harmless);
        Value::Object(object).serialize(&mut serializer).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// One line for a person.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn line(&mut self, parts: &[(Style, &Clean)]) -> io::Result<()> {
        for (style, text) in parts {
            let (on, off) = match style {
                Style::Bold if self.colour => ("\x1b[1m", "\x1b[0m"),
                Style::Dim if self.colour => ("\x1b[2m", "\x1b[0m"),
                _ => ("", ""),
            };
            write!(self.out, "{on}{text}{off}")?;
        }
        self.out.write_all(b"\n")
    }

    /// One line of our own words.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn say(&mut self, words: impl AsRef<str>) -> io::Result<()> {
        self.line(&[(Style::Plain, &Clean::ours(words))])
    }

    /// A message, as one object or as lines.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn message(&mut self, item: &TimelineItem, channel: &ChannelName) -> io::Result<()> {
        if self.json {
            return self.object("message", message_object(item, channel));
        }
        let at = jiff::Timestamp::from_millisecond(item.at.as_millis()).unwrap_or_default().to_zoned(self.zone.clone());
        let time = Clean::ours(format!("{}  ", at.strftime("%Y-%m-%d %H:%M")));
        let place = Clean::ours(format!("{}  ", channel.short));
        let mut lines = body_lines(&item.body).into_iter();
        let author = match item.body {
            Body::System(_) => Clean::ours("* "),
            _ => {
                let in_thread = if item.thread_root.is_some() { "↳ " } else { "" };
                let name = Clean::from_untrusted(&item.author_name);
                Clean::ours(format!("{in_thread}{name}{}: ", trust_sign(item.author_trust)))
            }
        };
        let first = lines.next().unwrap_or_default();
        let note = Clean::ours(note(item));
        self.line(&[
            (Style::Dim, &time),
            (Style::Dim, &place),
            (Style::Bold, &author),
            (Style::Plain, &first),
            (Style::Dim, &note),
        ])?;
        for line in lines {
            self.line(&[(Style::Plain, &Clean::ours("    ")), (Style::Plain, &line)])?;
        }
        Ok(())
    }

    /// Everything so far, now.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How a channel is called in output: what `send` takes as its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelName {
    pub id: ChannelId,
    /// `#deploys` or `@bo`, cleaned.
    pub short: Clean,
    /// `#acme/deploys` or `@bo`, as it is: for JSON only.
    full: String,
}

impl ChannelName {
    pub fn new(channel: &ChannelNode, community: Option<&Untrusted>) -> Self {
        let sign = if channel.kind == ChannelKind::Dm { '@' } else { '#' };
        let name = channel.peer.as_ref().map_or(&channel.name, |peer| &peer.username);
        let short = Clean::ours(format!("{sign}{}", Clean::from_untrusted(name)));
        let full = community.map_or_else(|| format!("{sign}{}", name.raw()), |of| format!("{sign}{}/{}", of.raw(), name.raw()));
        Self { id: channel.id, short, full }
    }

    pub fn full(&self) -> &str {
        &self.full
    }
}

/// Every channel that the tree shows, communities first.
pub fn channels(tree: &Tree) -> Vec<(ChannelName, &ChannelNode)> {
    let of_communities = tree.communities.iter().flat_map(|community| {
        let channels = community.groups.iter().flat_map(|group| group.channels.iter());
        channels.map(|channel| (ChannelName::new(channel, Some(&community.name)), channel.as_ref()))
    });
    of_communities.chain(tree.dms.iter().map(|dm| (ChannelName::new(dm, None), dm.as_ref()))).collect()
}

fn body_lines(body: &Body) -> Vec<Clean> {
    let words = match body {
        Body::Text(text) | Body::Clear(text) => return Clean::lines(text),
        Body::Deleted { by_moderator: true } => "(deleted by a moderator)".to_owned(),
        Body::Deleted { by_moderator: false } => "(deleted)".to_owned(),
        Body::Expired => "(expired)".to_owned(),
        Body::Undecryptable(reason) => format!("({})", reason_words(*reason)),
        Body::BeforeJoin => "(written before you joined)".to_owned(),
        Body::BeforeDevice => "(written before this device was added)".to_owned(),
        Body::NewerClient => "(needs a newer version of chat)".to_owned(),
        Body::System(line) => system_words(line),
    };
    vec![Clean::ours(words)]
}

const fn trust_sign(trust: Trust) -> &'static str {
    match trust {
        Trust::Changed { .. } | Trust::Stopped => " (!)",
        Trust::Verified | Trust::Unverified | Trust::Unknown => "",
    }
}

/// What stands behind a message: that it was edited, that it is not sent, and every warning.
fn note(item: &TimelineItem) -> String {
    let mut notes = Vec::new();
    if item.edited {
        notes.push("edited".to_owned());
    }
    match &item.delivery {
        Delivery::Waiting => notes.push("waiting for the server".to_owned()),
        Delivery::Failed(why) => notes.push(format!("not sent: {}", Clean::from_untrusted(why))),
        _ => {}
    }
    if matches!(item.body, Body::Clear(_)) {
        notes.push("not end-to-end encrypted".to_owned());
    }
    notes.extend(item.marks.iter().map(|mark| mark_words(*mark).to_owned()));
    if notes.is_empty() { String::new() } else { format!("  [{}]", notes.join("; ")) }
}

fn message_object(item: &TimelineItem, channel: &ChannelName) -> Value {
    let text = match &item.body {
        Body::Text(text) | Body::Clear(text) => Some(text.raw()),
        _ => None,
    };
    let reactions: Vec<Value> = item
        .reactions
        .iter()
        .map(|reaction| json!({ "emoji": reaction.emoji.raw(), "count": reaction.count, "mine": reaction.mine }))
        .collect();
    json!({
        "channel_id": item.channel_id,
        "channel": channel.full(),
        "id": item.key.id,
        "author_id": item.key.author,
        "author": item.author_name.raw(),
        "seq": item.seq,
        "at": item.at,
        "kind": body_word(&item.body),
        "text": text,
        "event": match &item.body { Body::System(line) => Some(system_words(line)), _ => None },
        "reason": match &item.body { Body::Undecryptable(reason) => Some(reason_word(*reason)), _ => None },
        "thread_id": item.thread_root.map(|root| root.id),
        "reply_to_id": item.reply_to.as_ref().map(|quote| quote.target.id),
        "mine": item.mine,
        "mentions_me": item.mentions_me,
        "edited": item.edited,
        "trust": trust_word(item.author_trust),
        "delivery": delivery_word(&item.delivery),
        "error": match &item.delivery { Delivery::Failed(why) => Some(why.raw()), _ => None },
        "marks": item.marks.iter().map(|mark| mark_word(*mark)).collect::<Vec<_>>(),
        "reactions": reactions,
    })
}

const fn body_word(body: &Body) -> &'static str {
    match body {
        Body::Text(_) => "text",
        Body::Deleted { .. } => "deleted",
        Body::Expired => "expired",
        Body::Undecryptable(_) => "undecryptable",
        Body::BeforeJoin => "before_join",
        Body::BeforeDevice => "before_device",
        Body::NewerClient => "newer_client",
        Body::Clear(_) => "clear",
        Body::System(SystemLine::Warning(_)) => "warning",
        Body::System(_) => "system",
    }
}

const fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::WaitingForKey => "waiting_for_key",
        Reason::WaitingForMembers => "waiting_for_members",
        Reason::UnverifiedDevice => "unverified_device",
        Reason::IdentityChanged => "identity_changed",
        Reason::Requested => "requested",
        Reason::Refused => "refused",
    }
}

/// In `trust`.
pub const fn trust_word(trust: Trust) -> &'static str {
    match trust {
        Trust::Unknown => "unknown",
        Trust::Unverified => "unverified",
        Trust::Verified => "verified",
        Trust::Changed { .. } => "changed",
        Trust::Stopped => "stopped",
    }
}

const fn mark_word(mark: Mark) -> &'static str {
    match mark {
        Mark::Forged => "forged",
        Mark::BeforeRemoval => "before_removal",
        Mark::HiddenByServer => "hidden_by_server",
        Mark::Clock => "clock",
        Mark::Gap => "gap",
    }
}

const fn delivery_word(delivery: &Delivery) -> &'static str {
    match delivery {
        Delivery::Received => "received",
        Delivery::Waiting => "waiting",
        Delivery::Sent => "sent",
        Delivery::Delivered => "delivered",
        Delivery::Read => "read",
        Delivery::Failed(_) => "failed",
    }
}

/// JSON whose text does nothing to a terminal: C1 controls, DEL, bidi and invisible characters are escaped as serde_json does
/// with C0.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(acts_on_terminals) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            if let Some(character) = characters.next() {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = characters.as_str();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// A line of a log that does nothing to a terminal: whatever could is escaped as in JSON, so that a line of JSON stays one.
/// `colours` says that the line has escape sequences of our own; what was in a value is escaped by the formatter already.
pub fn harmless_line(line: &str, colours: bool) -> String {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    let mut out = String::with_capacity(line.len());
    for character in text.chars() {
        if (character.is_control() && !(colours && character == '\u{1b}')) || acts_on_terminals(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out += &format!("\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    out + end
}

const fn acts_on_terminals(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> String {
        let mut out = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, Harmless);
        json!({ "text": text }).serialize(&mut serializer).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_log_line_is_one_line_and_does_nothing_to_a_terminal() {
        let event = "{\"cause\":\"a\\nb \u{9b}2J \u{202e}x\u{7f} ü\"}\n";
        let line = harmless_line(event, false);
        assert_eq!(line, "{\"cause\":\"a\\nb \\u009b2J \\u202ex\\u007f ü\"}\n");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), serde_json::from_str::<Value>(event).unwrap());
        assert_eq!(harmless_line("ERROR a\r\nINFO \u{1b}[2Jb\n", false), "ERROR a\\u000d\\u000aINFO \\u001b[2Jb\n");
        assert_eq!(harmless_line("\u{1b}[32m INFO\u{1b}[0m a\n", true), "\u{1b}[32m INFO\u{1b}[0m a\n");
    }

    #[test]
    fn json_is_exact_and_does_nothing_to_a_terminal() {
        let text = "a\u{1b}[31m\u{9b}31m\u{202e}b\u{7f}\u{200b}\u{e0041}\n\"ü 😀\"";
        let line = rendered(text);
        assert!(line.chars().all(|c| !c.is_control() && !acts_on_terminals(c)), "{line}");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["text"], text);
        assert!(line.contains("ü 😀"), "what is harmless stays readable");
    }
}
