//! One item as lines: day line, `new` line, sender, quote, text, reactions, thread, marks, delivery.
//!
//! Only the text is costly (markdown and wrapping), so only the text is cached; the rest is built when it is drawn.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::client::model::{Body, Delivery, Mark, MessageRef, Reason, SystemLine, TimelineItem, Trust};
use crate::tui::markdown;
use crate::tui::text::{Clean, width, wrap};
use crate::tui::theme::Theme;
use crate::tui::time;

/// Messages of one sender within this time stand under one name.
const GROUP_MS: i64 = 5 * 60 * 1000;
/// More than the windows of both panes hold.
const CACHE_MAX: usize = 1024;

/// What drawing needs to know beside the items.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub theme: &'a Theme,
    pub tz: &'a TimeZone,
    /// The reader's own username.
    pub me: &'a str,
}

/// Wrapped texts by message, revision and width. Emptied when full: filling it again costs less than a millisecond.
#[derive(Debug, Default)]
pub struct Cache(HashMap<(MessageRef, u32, usize), Arc<[Line<'static>]>>);

impl Cache {
    fn get(&mut self, item: &TimelineItem, cells: usize, look: &Look<'_>) -> Arc<[Line<'static>]> {
        let key = (item.key, item.revision, cells);
        if let Some(lines) = self.0.get(&key) {
            return lines.clone();
        }
        if self.0.len() >= CACHE_MAX {
            self.0.clear();
        }
        let lines: Arc<[Line<'static>]> = body(&item.body, cells, look).into();
        self.0.insert(key, lines.clone());
        lines
    }
}

/// The lines of one item.
#[derive(Debug, Default)]
pub struct Block {
    before: Vec<Line<'static>>,
    body: Option<Arc<[Line<'static>]>>,
    /// Stands on the right of the last line of the text.
    tag: Option<Span<'static>>,
    after: Vec<Line<'static>>,
    cells: usize,
}

impl Block {
    pub fn new(
        item: &TimelineItem,
        before: Option<&TimelineItem>,
        new: bool,
        in_thread: bool,
        cells: usize,
        look: &Look<'_>,
        cache: &mut Cache,
    ) -> Self {
        let theme = look.theme;
        let mut block = Self { cells, ..Self::default() };
        // A thousand rows from before one came are one line, without their days and senders.
        if unreadable(&item.body) {
            if before.is_none_or(|before| before.body != item.body) {
                block.body = Some(cache.get(item, cells, look));
            }
            return block;
        }
        let new_day = before.is_none_or(|before| unreadable(&before.body) || !time::same_day(before.at, item.at, look.tz));
        if new_day {
            block.before.push(titled_rule(&time::day(item.at, look.tz), cells, theme, theme.dim()));
        }
        if new {
            block.before.push(titled_rule("new", cells, theme, theme.new_line()));
        }
        if !matches!(item.body, Body::System(_)) {
            let follows = before.is_some_and(|before| {
                before.key.author == item.key.author
                    && !matches!(before.body, Body::System(_))
                    && item.at.as_millis() - before.at.as_millis() < GROUP_MS
            });
            if !follows || new_day || new {
                block.before.push(header(item, cells, look));
            }
        }
        if let Some(quote) = &item.reply_to {
            let text = quote.text.as_ref().map_or(Clean::ours("(not here)"), |text| markdown::preview(text, cells));
            let line = Clean::ours(format!("> {}: {text}", Clean::from_untrusted(&quote.author_name))).truncate(cells);
            block.before.push(Line::from(Span::styled(line.into_string(), theme.dim())));
        }
        block.body = Some(cache.get(item, cells, look));
        block.tag = tag(item, theme).filter(|tag| tag.width() <= cells);
        if let Some(tag) = &block.tag
            && block.last_width() + 1 + tag.width() > cells
        {
            block.after.push(right(vec![], block.tag.take(), cells));
        }
        block.after.extend(reactions(item, in_thread, cells, look));
        for mark in &item.marks {
            block.note(mark_words(*mark), theme.warning());
        }
        if let Body::Clear(_) = item.body {
            block.note("not end-to-end encrypted: the server can read this", theme.warning());
        }
        if let Delivery::Failed(why) = &item.delivery {
            block.note(&format!("not sent: {}; R tries again, D forgets it", Clean::from_untrusted(why)), theme.error());
        }
        block
    }

    pub fn len(&self) -> usize {
        self.before.len() + self.body.as_ref().map_or(0, |body| body.len()) + self.after.len()
    }

    /// Some of the lines.
    pub fn lines(&self, skip: usize, most: usize) -> impl Iterator<Item = Line<'static>> {
        let body = self.body.as_deref().unwrap_or_default();
        let last = body.len().saturating_sub(1);
        let body = body.iter().enumerate().map(move |(at, line)| {
            if at == last && self.tag.is_some() { right(line.spans.clone(), self.tag.clone(), self.cells) } else { line.clone() }
        });
        self.before.iter().cloned().chain(body).chain(self.after.iter().cloned()).skip(skip).take(most)
    }

    fn last_width(&self) -> usize {
        self.body.as_ref().and_then(|body| body.last()).map_or(0, Line::width)
    }

    fn note(&mut self, words: &str, style: Style) {
        let text = Clean::ours(format!("! {words}"));
        for range in wrap(text.as_str(), self.cells) {
            self.after.push(Line::from(Span::styled(text.slice(range).into_string(), style)));
        }
    }
}

/// Nobody with this device will ever read it.
pub const fn unreadable(body: &Body) -> bool {
    matches!(body, Body::BeforeJoin | Body::BeforeDevice)
}

/// `──────── Fri 20 Nov 2026 ────────`
pub fn titled_rule(title: &str, cells: usize, theme: &Theme, style: Style) -> Line<'static> {
    let title = Clean::ours(format!(" {title} ")).truncate(cells);
    let left = cells.saturating_sub(title.width()) / 2;
    let end = cells.saturating_sub(title.width() + left);
    let rule = theme.glyphs.horizontal;
    Line::from(Span::styled(format!("{}{title}{}", rule.repeat(left), rule.repeat(end)), style))
}

fn header(item: &TimelineItem, cells: usize, look: &Look<'_>) -> Line<'static> {
    let theme = look.theme;
    let clock = time::clock(item.at, look.tz);
    let (sign, style) = match item.author_trust {
        // Oneself needs no mark.
        _ if item.mine => ("", theme.dim()),
        Trust::Verified => (" verified", theme.dim()),
        Trust::Changed { .. } => (" key changed", theme.warning()),
        Trust::Stopped => (" stopped", theme.error()),
        Trust::Unknown | Trust::Unverified => ("", theme.dim()),
    };
    let room = cells.saturating_sub(clock.len() + 1);
    let name = Clean::from_untrusted(&item.author_name).truncate(room.max(1));
    let mut spans = Vec::new();
    let sign = if name.width() + sign.len() <= room { sign } else { "" };
    spans.push(Span::styled(name.into_string(), theme.name(item.key.author)));
    spans.push(Span::styled(sign, style));
    right(spans, (room > 2).then(|| Span::styled(clock, theme.dim())), cells)
}

/// A line with something at its right end.
fn right(mut spans: Vec<Span<'static>>, tag: Option<Span<'static>>, cells: usize) -> Line<'static> {
    if let Some(tag) = tag {
        let used: usize = spans.iter().map(|span| width(&span.content)).sum();
        spans.push(Span::raw(" ".repeat(cells.saturating_sub(used + width(&tag.content)))));
        spans.push(tag);
    }
    Line::from(spans)
}

/// Edited, and how far an own message got.
fn tag(item: &TimelineItem, theme: &Theme) -> Option<Span<'static>> {
    let glyphs = &theme.glyphs;
    let delivery = match &item.delivery {
        Delivery::Received => String::new(),
        Delivery::Waiting => format!("{} waiting", glyphs.waiting),
        Delivery::Sent => glyphs.sent.to_owned(),
        Delivery::Delivered => glyphs.delivered.to_owned(),
        Delivery::Read => format!("{} read", glyphs.delivered),
        Delivery::Failed(_) => format!("{} failed", glyphs.failed),
    };
    let edited = if item.edited { "edited " } else { "" };
    let text = format!("{edited}{delivery}");
    let style = if matches!(item.delivery, Delivery::Failed(_)) { theme.error() } else { theme.dim() };
    let text = text.trim_end();
    (!text.is_empty()).then(|| Span::styled(text.to_owned(), style))
}

fn reactions(item: &TimelineItem, in_thread: bool, cells: usize, look: &Look<'_>) -> Vec<Line<'static>> {
    let theme = look.theme;
    let mut spans: Vec<(Clean, Style)> = Vec::new();
    for reaction in &item.reactions {
        let emoji = Clean::from_untrusted(&reaction.emoji).truncate(24);
        let shown = match emojis::get(emoji.as_str()).and_then(|known| known.shortcode()) {
            Some(name) if theme.glyphs.ascii => format!(":{name}:"),
            _ => emoji.into_string(),
        };
        let style = if reaction.mine { theme.accent() } else { theme.dim() };
        spans.push((Clean::ours(format!("{shown} {}", reaction.count)), style));
    }
    if let Some(thread) = item.thread.filter(|thread| thread.replies > 0 && !in_thread) {
        let replies = time::count(u64::from(thread.replies), "reply", "replies");
        spans.push((Clean::ours(format!("{replies}, last {}", time::clock(thread.last_at, look.tz))), theme.accent()));
    }
    let mut lines: Vec<Line<'static>> = Vec::new();
    let mut used = usize::MAX;
    for (text, style) in spans {
        let text = text.truncate(cells);
        let span = Span::styled(text.as_str().to_owned(), style);
        match lines.last_mut() {
            Some(line) if used + 3 + text.width() <= cells => {
                line.push_span(Span::raw("   "));
                line.push_span(span);
                used += 3 + text.width();
            }
            _ => {
                used = text.width();
                lines.push(Line::from(span));
            }
        }
    }
    lines
}

fn body(body: &Body, cells: usize, look: &Look<'_>) -> Vec<Line<'static>> {
    let theme = look.theme;
    let words = match body {
        Body::Text(text) | Body::Clear(text) => return markdown::render(text, cells, theme, look.me),
        Body::Deleted { by_moderator: true } => "(deleted by a moderator)".to_owned(),
        Body::Deleted { by_moderator: false } => "(deleted)".to_owned(),
        Body::Expired => "(expired)".to_owned(),
        Body::Undecryptable(reason) => format!("({})", reason_words(*reason)),
        Body::BeforeJoin => "(written before you joined)".to_owned(),
        Body::BeforeDevice => "(written before this device was added)".to_owned(),
        Body::NewerClient => "(needs a newer version of chat)".to_owned(),
        Body::System(line) => system_words(line),
    };
    // What is said behind a bullet keeps clear of it.
    let bullet = if matches!(body, Body::System(_)) { theme.glyphs.bullet } else { "" };
    let indent = if bullet.is_empty() { 0 } else { width(bullet) + 1 };
    let style = match body {
        Body::System(SystemLine::IdentityChanged { .. } | SystemLine::Warning(_) | SystemLine::Seam) => theme.warning(),
        Body::Undecryptable(Reason::Refused | Reason::IdentityChanged) => theme.warning(),
        _ => theme.dim(),
    };
    let text = Clean::ours(words);
    let line = |(at, range)| {
        let lead = if at == 0 { bullet } else { "" };
        Line::from(Span::styled(format!("{lead:<indent$}{}", text.slice(range)), style))
    };
    wrap(text.as_str(), cells.saturating_sub(indent).max(1)).into_iter().enumerate().map(line).collect()
}

pub const fn reason_words(reason: Reason) -> &'static str {
    match reason {
        Reason::WaitingForKey => "waiting for the sender's key",
        Reason::WaitingForMembers => "waiting for the list of members",
        Reason::UnverifiedDevice => "from a device that its owner has not signed yet",
        Reason::IdentityChanged => "the sender's identity key changed; F8 compares, :trust decides",
        Reason::Requested => "could not be decrypted; asked for it again",
        Reason::Refused => "refused: forged or damaged",
    }
}

pub const fn mark_words(mark: Mark) -> &'static str {
    match mark {
        Mark::Forged => "the server's copy says something else than what was signed",
        Mark::BeforeRemoval => "sent before the sender was removed, by the server's order",
        Mark::HiddenByServer => "the server says this was deleted or edited, but nobody signed that",
        Mark::Clock => "reached the server more than five minutes after it was written, or a clock is wrong",
        Mark::Gap => "messages of this sender are missing before this one",
    }
}

pub fn system_words(line: &SystemLine) -> String {
    let name = Clean::from_untrusted;
    match line {
        SystemLine::Created { by } => format!("{} created this", name(by)),
        SystemLine::Joined { who } => format!("{} joined", name(who)),
        SystemLine::Left { who } => format!("{} left", name(who)),
        SystemLine::Removed { who, by, banned: true } => format!("{} banned {}", name(by), name(who)),
        SystemLine::Removed { who, by, banned: false } => format!("{} removed {}", name(by), name(who)),
        SystemLine::Unbanned { who, by } => format!("{} lifted the ban of {}", name(by), name(who)),
        SystemLine::Added { who, by } => format!("{} added {}", name(by), name(who)),
        SystemLine::RoleChanged { who, by, role } => format!("{} made {} {}", name(by), name(who), a_role(*role)),
        SystemLine::ChannelAttached { by } => format!("{} made this channel", name(by)),
        SystemLine::NewDevice { who, device_id } => format!("{} uses a new device (number {device_id})", name(who)),
        SystemLine::DeviceRemoved { who, device_id } => format!("{} removed a device (number {device_id})", name(who)),
        SystemLine::IdentityChanged { who } => {
            format!("the identity key of {} changed: a new installation, or somebody in between; F8 compares", name(who))
        }
        SystemLine::FirstContact { who, fingerprint } => {
            format!("first contact with {}; fingerprint {}", name(who), fingerprint.get(..16).unwrap_or(fingerprint))
        }
        SystemLine::Verified { who } => format!("you verified {}", name(who)),
        SystemLine::Seam => "the server was restored from a backup here: something may be missing".to_owned(),
        SystemLine::Warning(text) => text.clone(),
    }
}

/// A role with its article: `an admin`.
pub const fn a_role(role: crate::protocol::communities::Role) -> &'static str {
    use crate::protocol::communities::Role;
    match role {
        Role::Member => "a plain member",
        Role::Moderator => "a moderator",
        Role::Admin => "an admin",
        Role::Owner => "the owner",
    }
}

pub const fn role_words(role: crate::protocol::communities::Role) -> &'static str {
    use crate::protocol::communities::Role;
    match role {
        Role::Member => "member",
        Role::Moderator => "moderator",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}
