//! Drawing the main screen: titles, tree, histories, banner, composers, status line.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::client::model::{ChannelNode, Connection, Trust};
use crate::protocol::channels::ChannelKind;
use crate::protocol::communities::Role;
use crate::tui::app::App;
use crate::tui::command::Action;
use crate::tui::markdown;
use crate::tui::text::{Clean, width, wrap};
use crate::tui::time;
use crate::tui::widget::popup;
use crate::tui::widget::tree::{self, Marked};

use super::chat::{Focus, Pane};
use super::compose::block_words;
use super::layout::{Layout, PaneLayout};

/// Draws everything and gives the place of the cursor.
pub fn view(app: &App, frame: &mut Frame<'_>) -> Option<(u16, u16)> {
    let layout = app.layout();
    let mut cursor = None;
    if !layout.thread_over {
        cursor = cursor.or(pane(app, frame, Pane::Main, &layout.main));
    }
    if let Some(thread) = &layout.thread {
        cursor = pane(app, frame, Pane::Thread, thread).or(cursor);
    }
    if layout.tree_over
        && let Some(area) = layout.tree
    {
        let top = layout.tree_head.map_or(area.y, |head| head.y);
        let whole = Rect { y: top, height: area.bottom() - top, ..area };
        popup::clear(frame, whole);
        for y in whole.y..whole.bottom() {
            put(frame, whole.right(), y, app.theme.glyphs.vertical, app.theme.line());
        }
    }
    if let Some(area) = layout.tree {
        let cursor = app.chat.cursor.filter(|_| app.focus() == Focus::Tree);
        let marked = Marked { community: app.chat.community, channel: app.chat.channel_id(), cursor };
        tree::view(frame, area, &app.tree_rows(), marked, &app.theme);
    }
    if let Some(head) = layout.tree_head {
        let name = app.chat.community.and_then(|id| app.world.community(id)).map_or_else(
            || app.world.account.as_ref().map_or(Clean::ours("chat"), |account| Clean::from_untrusted(&account.server_name)),
            |community| Clean::from_untrusted(&community.name),
        );
        let name = name.truncate(usize::from(head.width.saturating_sub(1)));
        frame.render_widget(Span::styled(format!(" {name}"), app.theme.bold()), head);
    }
    rules(app, frame, &layout);
    if let Some(area) = layout.status {
        status(app, frame, area);
    }
    cursor
}

/// The lines between panes and their crossings.
fn rules(app: &App, frame: &mut Frame<'_>, layout: &Layout) {
    let (theme, glyphs) = (&app.theme, &app.theme.glyphs);
    let screen = frame.area();
    let bottom = layout.foot_rule.or(layout.status.map(|status| status.y)).unwrap_or(screen.height);
    for x in &layout.columns {
        for y in 0..bottom {
            put(frame, *x, y, glyphs.vertical, theme.line());
        }
    }
    for (rule, crossing) in [(layout.head_rule, glyphs.cross), (layout.foot_rule, glyphs.tee_up)] {
        let Some(y) = rule else { continue };
        for x in 0..screen.width {
            let sign = if layout.columns.contains(&x) { crossing } else { glyphs.horizontal };
            put(frame, x, y, sign, theme.line());
        }
    }
    let main = (!layout.thread_over).then_some(&layout.main);
    for pane in main.into_iter().chain(&layout.thread) {
        let Some(y) = pane.rule else { continue };
        let left = if layout.tree_over { layout.tree.map_or(0, |tree| tree.right() + 1) } else { pane.composer.x };
        for x in left..pane.composer.right() {
            put(frame, x, y, glyphs.horizontal, theme.line());
        }
        for x in &layout.columns {
            let both =
                layout.thread.as_ref().is_some_and(|thread| *x + 1 == thread.composer.x && thread.rule == layout.main.rule);
            if both && !layout.thread_over {
                put(frame, *x, y, glyphs.cross, theme.line());
            } else if *x + 1 == pane.composer.x {
                put(frame, *x, y, glyphs.tee_right, theme.line());
            } else if *x == pane.composer.right() {
                put(frame, *x, y, glyphs.tee_left, theme.line());
            }
        }
    }
}

fn put(frame: &mut Frame<'_>, x: u16, y: u16, sign: &str, style: Style) {
    if let Some(cell) = frame.buffer_mut().cell_mut((x, y)) {
        cell.set_symbol(sign).set_style(style);
    }
}

/// A history with its composer; gives the place of the cursor when it has the focus.
fn pane(app: &App, frame: &mut Frame<'_>, which: Pane, layout: &PaneLayout) -> Option<(u16, u16)> {
    let theme = &app.theme;
    if let Some(area) = layout.head {
        let line = match which {
            Pane::Main => main_head(app, usize::from(area.width)),
            Pane::Thread => thread_head(app, usize::from(area.width)),
        };
        frame.render_widget(line, area);
    }
    let conversation = app.chat.conversation(which);
    let focused = app.overlays.is_empty();
    match conversation {
        Some(conversation) if !conversation.timeline.items.is_empty() => {
            let selecting = app.focus() == Focus::History(which);
            conversation.timeline.view(frame, layout.history, &app.look(), selecting);
        }
        _ => hints(app, frame, layout.history, which),
    }
    popup::lines(frame, layout.notes, app.notes(which, usize::from(layout.notes.width)));
    if let Some(area) = layout.typing {
        let words = match which {
            Pane::Main => app.chat.channel_id().and_then(|id| app.world.typing_words(id)),
            Pane::Thread => None,
        };
        let below = conversation.is_some_and(|conversation| !conversation.timeline.at_end && conversation.timeline.loaded);
        let words = words.or_else(|| below.then(|| "newer messages below; G goes to the end".to_owned())).unwrap_or_default();
        let words = Clean::ours(words).truncate(usize::from(area.width.saturating_sub(2)));
        frame.render_widget(Span::styled(format!(" {words}"), theme.dim()), area);
    }
    let cursor = composer(app, frame, which, layout);
    (focused && app.focus() == Focus::Composer(which)).then_some(cursor).flatten()
}

fn main_head(app: &App, cells: usize) -> Line<'static> {
    let theme = &app.theme;
    let Some(channel) = app.chat.channel_id().and_then(|id| app.world.channel(id)) else {
        if let Some(main) = &app.chat.main {
            let title = main.title.truncate(cells.saturating_sub(22));
            return Line::from(vec![
                Span::styled(format!(" {title}"), theme.bold()),
                Span::styled("   not open to you any more", theme.warning()),
            ]);
        }
        let community = app.chat.community.and_then(|id| app.world.community(id));
        let name = community.map(|node| format!(" {}  ", Clean::from_untrusted(&node.name))).unwrap_or_default();
        return Line::from(vec![Span::styled(name, theme.bold()), Span::styled(" no channel", theme.dim())]);
    };
    let right = head_facts(app, channel);
    let room = cells.saturating_sub(2);
    let title = app.world.title(channel).truncate(room);
    let facts = Clean::ours(&right).truncate(room.saturating_sub(title.width() + 2));
    let left = room.saturating_sub(title.width() + facts.width() + 4);
    let topic = channel.topic.as_ref().map(Clean::from_untrusted).unwrap_or_default();
    let topic = if left > 8 { topic.truncate(left) } else { Clean::default() };
    let gap = room.saturating_sub(title.width() + facts.width() + if topic.is_empty() { 0 } else { topic.width() + 3 });
    let topic = if topic.is_empty() { String::new() } else { format!("   {topic}") };
    let alarmed = channel.blocked.is_some();
    Line::from(vec![
        Span::raw(" "),
        Span::styled(title.into_string(), theme.bold()),
        Span::styled(topic, theme.dim()),
        Span::raw(" ".repeat(gap)),
        Span::styled(facts.into_string(), if alarmed { theme.warning() } else { theme.dim() }),
    ])
}

/// `14 members   gone after 1d   e2ee`, `e2ee, verified`
fn head_facts(app: &App, channel: &ChannelNode) -> String {
    let timer = match channel.expires_s {
        0 => String::new(),
        seconds => format!("gone after {}   ", time::span(seconds)),
    };
    let trust = match (&channel.peer, channel.kind) {
        _ if app.world.is_notes(channel) => "notes to yourself   e2ee",
        (Some(peer), ChannelKind::Dm) => match peer.trust {
            Trust::Unknown | Trust::Unverified => "e2ee, not verified (F8)",
            Trust::Verified => "e2ee, verified",
            Trust::Changed { .. } => "! key changed (F8)",
            Trust::Stopped => "! stopped (F8)",
        },
        _ => {
            let members = time::count(u64::from(channel.member_count), "member", "members");
            return format!("{members}   {timer}e2ee");
        }
    };
    format!("{timer}{trust}")
}

fn thread_head(app: &App, cells: usize) -> Line<'static> {
    let theme = &app.theme;
    let root = app.chat.thread.as_ref().and_then(|thread| {
        let key = thread.timeline.place.thread?;
        thread.timeline.get(key).or_else(|| app.chat.main.as_ref()?.timeline.get(key))
    });
    let words = root.map_or(Clean::ours("thread"), |root| {
        let name = Clean::from_untrusted(&root.author_name);
        match &root.body {
            crate::client::model::Body::Text(text) => Clean::ours(format!("thread  {name}: {}", markdown::preview(text, cells))),
            _ => Clean::ours(format!("thread  {name}")),
        }
    });
    let room = cells.saturating_sub(5);
    let words = words.truncate(room);
    let gap = room.saturating_sub(words.width()) + 1;
    Line::from(vec![
        Span::raw(" "),
        Span::styled(words.into_string(), theme.bold()),
        Span::raw(" ".repeat(gap)),
        Span::styled("F3", theme.dim()),
    ])
}

/// What an empty place says: what it is, and what to do.
fn hints(app: &App, frame: &mut Frame<'_>, area: Rect, which: Pane) {
    let lines: Vec<String> = match app.chat.conversation(which) {
        Some(conversation) if !conversation.timeline.loaded => vec!["loading".to_owned()],
        Some(_) if which == Pane::Thread => vec!["nobody answered yet".to_owned(), "write below to start the thread".to_owned()],
        Some(conversation) => {
            let channel = app.world.channel(conversation.timeline.place.channel_id);
            let mut lines = vec![channel.map_or("nothing here yet".to_owned(), |channel| {
                format!("this is the beginning of {}", app.world.title(channel))
            })];
            match channel {
                Some(channel) if app.world.is_notes(channel) => {
                    lines.push("notes to yourself: Enter keeps what you write below, end-to-end encrypted".to_owned());
                    lines.push("only your own devices can read it".to_owned());
                }
                Some(channel) if channel.kind == ChannelKind::Dm => {
                    lines.push("Enter sends what you write below, end-to-end encrypted".to_owned());
                    lines.push("F8 compares safety numbers, so that you know who reads it".to_owned());
                }
                Some(channel) if channel.private => {
                    lines.push("Enter sends what you write below, end-to-end encrypted".to_owned());
                    lines.push(":add-member brings others in; only they read it".to_owned());
                }
                _ => {
                    lines.push("Enter sends what you write below, end-to-end encrypted".to_owned());
                    let community = channel.and_then(|channel| channel.community_id).and_then(|id| app.world.community(id));
                    if community.is_some_and(|node| node.my_role >= Role::Admin) {
                        lines.push(":invite makes a link to bring others in".to_owned());
                    }
                }
            }
            lines
        }
        None if app.world.account.is_none() => vec!["opening".to_owned()],
        None if app.chat.community.is_some_and(|id| app.empty_community(id)) => {
            vec!["this community has no channel yet".to_owned(), ":create-channel makes one, :invite lets others in".to_owned()]
        }
        None if app.world.channels().next().is_none() => vec![
            "you are in no community yet".to_owned(),
            ":join LINK joins one, :create-community starts one".to_owned(),
            ":dm writes to somebody you share a community with, or notes to yourself".to_owned(),
            "F9 lists every command, F1 every key".to_owned(),
        ],
        None => vec!["Ctrl-G goes to a channel or a person".to_owned(), "F7 goes to what is unread, F1 is help".to_owned()],
    };
    let height = u16::try_from(lines.len()).unwrap_or(0);
    let top = area.y + area.height.saturating_sub(height) / 2;
    for (y, line) in (top..area.bottom()).zip(lines) {
        let line = Clean::ours(line).truncate(usize::from(area.width));
        let left = (usize::from(area.width) - line.width()) / 2;
        let row = Rect {
            x: area.x + u16::try_from(left).unwrap_or(0),
            y,
            width: area.width - u16::try_from(left).unwrap_or(0),
            height: 1,
        };
        frame.render_widget(Span::styled(line.into_string(), app.theme.dim()), row);
    }
}

fn composer(app: &App, frame: &mut Frame<'_>, which: Pane, layout: &PaneLayout) -> Option<(u16, u16)> {
    let theme = &app.theme;
    let conversation = app.chat.conversation(which)?;
    let mut area = layout.composer;
    if area.width < 3 || area.height == 0 {
        return None;
    }
    if let Some(label) = app.composer_label(which).filter(|_| area.height > 1) {
        let label = Clean::ours(label).truncate(usize::from(area.width) - 2);
        frame.render_widget(Span::styled(format!(" {label}"), theme.accent()), Rect { height: 1, ..area });
        area.y += 1;
        area.height -= 1;
    }
    let text = Rect { x: area.x + 1, width: area.width - 2, ..area };
    let laid = conversation.composer.input.layout(usize::from(text.width));
    let height = usize::from(text.height);
    let first = laid.cursor.0.saturating_sub(height - 1).min(laid.rows.len().saturating_sub(height));
    if conversation.composer.input.is_empty() {
        let words = placeholder(app, which).truncate(usize::from(text.width));
        frame.render_widget(Span::styled(words.into_string(), theme.dim()), Rect { height: 1, ..text });
    } else {
        let lines = laid.rows.iter().skip(first).map(|row| Line::from(Span::raw(row.as_str())));
        popup::lines(frame, text, lines);
    }
    if app.focus() == Focus::Composer(which) {
        completion(app, frame, which, area.y.min(layout.rule.unwrap_or(area.y)), text);
    }
    let (row, column) = (laid.cursor.0 - first, laid.cursor.1);
    Some((text.x + u16::try_from(column).unwrap_or(0), text.y + u16::try_from(row).unwrap_or(0)))
}

fn placeholder(app: &App, which: Pane) -> Clean {
    if let Some(block) = app.send_block().filter(|block| !block.keeps()) {
        return Clean::ours(block_words(block).0);
    }
    if which == Pane::Thread {
        return Clean::ours("reply in this thread");
    }
    let channel = app.chat.channel_id().and_then(|id| app.world.channel(id));
    channel.map_or(Clean::default(), |channel| Clean::ours(format!("write to {}", app.world.title(channel))))
}

/// The list of matches above the composer.
fn completion(app: &App, frame: &mut Frame<'_>, which: Pane, bottom: u16, text: Rect) {
    let theme = &app.theme;
    let Some(completion) = app.chat.conversation(which).and_then(|conversation| conversation.composer.completion.as_ref()) else {
        return;
    };
    let height = u16::try_from(completion.matches.len()).unwrap_or(0).min(bottom.saturating_sub(1));
    let area = Rect { y: bottom - height, height, ..text };
    popup::clear(frame, area);
    for (at, (y, found)) in (area.y..area.bottom()).zip(&completion.matches).enumerate() {
        let chosen = completion.selected == Some(at);
        let bar = if chosen { theme.glyphs.bar } else { " " };
        let label = found.label.truncate(usize::from(area.width.saturating_sub(2)));
        let style = if chosen { theme.selected() } else { theme.text() };
        let line = Line::from(vec![Span::styled(format!("{bar} "), theme.accent()), Span::styled(label.into_string(), style)]);
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}

impl App {
    /// Banner and notice, wrapped: what blocks this channel, what went wrong.
    pub(super) fn notes(&self, pane: Pane, cells: usize) -> Vec<Line<'static>> {
        let theme = &self.theme;
        let mut lines = Vec::new();
        // The sign stands before the first line, the others are indented as far.
        let mut add = |sign: &str, text: &str, style: Style| {
            let (text, indent) = (Clean::ours(text), " ".repeat(sign.len()));
            let room = cells.saturating_sub(2 + sign.len()).max(1);
            for (at, range) in wrap(text.as_str(), room).into_iter().enumerate() {
                let sign = if at == 0 { sign } else { &indent };
                lines.push(Line::from(Span::styled(format!(" {sign}{}", text.slice(range)), style)));
            }
        };
        if pane == Pane::Main {
            use crate::client::model::SendBlock;
            let alarming =
                |block: &&SendBlock| !matches!(block, SendBlock::ReadOnly | SendBlock::Archived | SendBlock::NotMember);
            if let Some(block) = self.send_block().filter(alarming) {
                let (what, key) = block_words(block);
                add("! ", &what, theme.warning());
                add("  ", &key, theme.text());
            }
            let community = self.chat.channel_id().and_then(|id| self.world.channel(id)?.community_id);
            if let Some(warning) = community.and_then(|id| self.world.community(id)?.warning.as_ref()) {
                add("! ", warning, theme.warning());
            }
        }
        if let Some(notice) = self.notice.as_ref().filter(|_| pane == self.active_pane()) {
            let (sign, indent, style) = if notice.error { ("! ", "  ", theme.error()) } else { ("", "", theme.good()) };
            add(sign, notice.text.as_str(), style);
            if !notice.hint.is_empty() {
                add(indent, notice.hint.as_str(), theme.text());
            }
        }
        lines
    }
}

/// `online 23 ms   COMPOSE   Enter send …   2 unread`
fn status(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let theme = &app.theme;
    let cells = usize::from(area.width);
    let (words, style) = connection_words(app);
    let waiting = app.world.tree.waiting;
    let mut left = vec![(Clean::ours(format!(" {words}")), style)];
    if waiting > 0 {
        left.push((Clean::ours(time::count(waiting as u64, "message waits", "messages wait")), theme.warning()));
    }
    if app.world.syncing > 0 {
        left.push((Clean::ours(format!("catching up, {} to go", time::grouped(app.world.syncing))), theme.dim()));
    }
    let mode = match app.focus() {
        Focus::Composer(_) => "COMPOSE",
        Focus::History(_) => "HISTORY",
        Focus::Tree => "CHANNELS",
    };
    left.push((Clean::ours(mode), theme.bold()));
    let (unread, mentions) = app.world.total_unread();
    let right = match (unread, mentions) {
        (0, _) => String::new(),
        (unread, 0) => format!("{} unread ", time::grouped(unread)),
        (unread, mentions) => format!("@{} {} unread ", time::grouped(mentions), time::grouped(unread)),
    };
    let mut used = 0;
    let mut spans: Vec<Span<'static>> = Vec::new();
    for (text, style) in left {
        let gap = if spans.is_empty() { 0 } else { 3 };
        let text = text.truncate(cells.saturating_sub(used + gap));
        if text.is_empty() {
            break;
        }
        used += gap + text.width();
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(text.into_string(), style));
    }
    let pressed = if app.pressed.is_empty() { String::new() } else { format!("{} …", crate::tui::keymap::show(&app.pressed)) };
    let hints = if pressed.is_empty() { key_hints(app) } else { vec![(pressed, String::new())] };
    let keep = if cells > used + width(&right) + 2 { width(&right) } else { 0 };
    let cost = |(key, what): &(String, String)| 2 + width(key) + usize::from(!what.is_empty()) + width(what);
    // Help is the last hint and the last to go.
    let help = hints.last().map_or(0, cost);
    let count = hints.len();
    for (at, hint) in hints.into_iter().enumerate() {
        let room = cells.saturating_sub(used + keep + 2);
        let reserved = if at + 1 < count { help } else { 0 };
        if cost(&hint) + reserved > room {
            continue;
        }
        used += cost(&hint);
        let (key, what) = hint;
        spans.push(Span::raw("  "));
        spans.push(Span::styled(key, theme.key()));
        if !what.is_empty() {
            spans.push(Span::styled(format!(" {what}"), theme.dim()));
        }
    }
    if keep > 0 {
        spans.push(Span::raw(" ".repeat(cells.saturating_sub(used + keep))));
        spans.push(Span::styled(right, if mentions > 0 { theme.mention() } else { theme.unread() }));
    }
    frame.render_widget(Line::from(spans), area);
}

fn connection_words(app: &App) -> (String, Style) {
    let theme = &app.theme;
    match &app.world.connection {
        Connection::Starting => ("starting".to_owned(), theme.dim()),
        Connection::Connecting { attempt: 0 | 1 } => ("connecting".to_owned(), theme.dim()),
        Connection::Connecting { attempt } => (format!("connecting (try {attempt})"), theme.warning()),
        Connection::Online { latency_ms: None } => ("online".to_owned(), theme.good()),
        Connection::Online { latency_ms: Some(ms) } => (format!("online {ms} ms"), theme.good()),
        Connection::Offline { since, .. } => {
            (format!("offline since {}", time::short(*since, app.now, &app.tz)), theme.warning())
        }
        Connection::LoggedOut { .. } => ("logged out".to_owned(), theme.error()),
    }
}

/// Keys that matter where the focus is, from the keymap.
fn key_hints(app: &App) -> Vec<(String, String)> {
    let contexts = app.contexts();
    let wanted: &[(Action, &str)] = match app.focus() {
        // Over the messages there is no other way to see that a thread can be closed.
        Focus::Composer(Pane::Thread) => &[
            (Action::Send, "send"),
            (Action::Newline, "newline"),
            (Action::ToggleThread, "close thread"),
            (Action::FocusHistory, "history"),
            (Action::Help, "help"),
        ],
        // Ctrl-K cuts what stands right of the cursor, and switches when nothing does.
        Focus::Composer(pane) => &[
            (Action::Send, "send"),
            (Action::Newline, "newline"),
            (
                match app.chat.conversation(pane).is_some_and(|open| open.composer.input.has_text_right()) {
                    true => Action::Switch,
                    false => Action::KillOrSwitch,
                },
                "switch",
            ),
            (Action::NextUnread, "next unread"),
            (Action::FocusHistory, "history"),
            (Action::Help, "help"),
        ],
        Focus::History(_) if app.target().is_some_and(|item| item.mine) => &[
            (Action::Reply, "reply"),
            (Action::OpenThread, "thread"),
            (Action::Edit, "edit"),
            (Action::Delete, "delete"),
            (Action::FocusComposer, "write"),
            (Action::Palette, "commands"),
            (Action::Help, "help"),
        ],
        Focus::History(_) => &[
            (Action::Reply, "reply"),
            (Action::OpenThread, "thread"),
            (Action::React, "react"),
            (Action::Copy, "copy"),
            (Action::FocusComposer, "write"),
            (Action::Palette, "commands"),
            (Action::Help, "help"),
        ],
        Focus::Tree => {
            &[(Action::Accept, "open"), (Action::FocusComposer, "back"), (Action::Search, "search"), (Action::Help, "help")]
        }
    };
    let wanted = if app.chat.main.is_none() {
        &[(Action::Switch, "switch"), (Action::Palette, "commands"), (Action::Help, "help")]
    } else {
        wanted
    };
    let first = match app.world.connection {
        Connection::Offline { .. } => Some((Action::Reconnect, "try now")),
        Connection::LoggedOut { .. } => Some((Action::Reconnect, "log in")),
        _ => None,
    };
    let hints = first.iter().chain(wanted);
    hints.filter_map(|(action, what)| Some((app.keymap.hint(&contexts, *action)?, (*what).to_owned()))).collect()
}
