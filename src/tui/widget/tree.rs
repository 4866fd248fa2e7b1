//! The left column: communities, direct messages, and the groups and channels of the chosen community.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::client::model::ChannelNode;
use crate::protocol::ids::{ChannelId, CommunityId};
use crate::protocol::users::Status;
use crate::tui::text::Clean;
use crate::tui::theme::Theme;
use crate::tui::world::World;

/// Direct messages that are listed without being unread; the switcher finds the others.
const DMS_SHOWN: usize = 8;

/// A row that can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Community(CommunityId),
    Channel(ChannelId),
}

#[derive(Clone, Debug)]
pub struct Row {
    pub target: Option<Target>,
    label: Clean,
    unread: u64,
    mentions: u64,
    dim: bool,
    warning: bool,
}

/// The rows for a community, in their order.
pub fn rows(world: &World, community: Option<CommunityId>, current: Option<ChannelId>) -> Vec<Row> {
    let tree = &world.tree;
    let mut rows = Vec::new();
    for (at, node) in tree.communities.iter().enumerate() {
        let number = if at < 9 { (at + 1).to_string() } else { " ".to_owned() };
        rows.push(Row {
            target: Some(Target::Community(node.id)),
            label: Clean::ours(format!("{number} {}", Clean::from_untrusted(&node.name))),
            unread: node.unread,
            mentions: node.mentions,
            dim: false,
            warning: node.warning.is_some(),
        });
    }
    let chosen = community.and_then(|id| tree.communities.iter().find(|node| node.id == id));
    let mut hidden = 0;
    for (at, dm) in tree.dms.iter().enumerate() {
        if at == 0 {
            heading(&mut rows, &Clean::ours("DIRECT"));
        }
        if at >= DMS_SHOWN && dm.unread == 0 && Some(dm.id) != current {
            hidden += 1;
            continue;
        }
        rows.push(channel(dm, world));
    }
    if hidden > 0 {
        rows.push(Row { label: Clean::ours(format!("  {hidden} more")), dim: true, ..blank() });
    }
    for group in chosen.iter().flat_map(|node| &node.groups) {
        heading(&mut rows, &Clean::ours(group.name.raw().to_uppercase()));
        rows.extend(
            group.channels.iter().filter(|node| !node.archived || Some(node.id) == current).map(|node| channel(node, world)),
        );
    }
    rows
}

fn blank() -> Row {
    Row { target: None, label: Clean::default(), unread: 0, mentions: 0, dim: false, warning: false }
}

fn heading(rows: &mut Vec<Row>, label: &Clean) {
    if !rows.is_empty() {
        rows.push(blank());
    }
    rows.push(Row { label: label.clone(), dim: true, ..blank() });
}

fn channel(node: &ChannelNode, world: &World) -> Row {
    let away = node.peer.as_ref().is_some_and(|peer| matches!(peer.status, Status::Offline));
    let draft = if node.has_draft { " (draft)" } else { "" };
    Row {
        target: Some(Target::Channel(node.id)),
        label: Clean::ours(format!("{}{draft}", world.title(node))),
        unread: node.unread,
        mentions: node.mentions,
        dim: (node.muted || away) && node.mentions == 0 && node.unread == 0,
        warning: node.blocked.as_ref().is_some_and(|block| {
            use crate::client::model::SendBlock;
            matches!(block, SendBlock::IdentityChanged { .. } | SendBlock::Equivocation { .. } | SendBlock::LogStopped)
        }),
    }
}

/// What is marked in the tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marked {
    pub community: Option<CommunityId>,
    pub channel: Option<ChannelId>,
    /// The row under the cursor, when the tree has the focus.
    pub cursor: Option<Target>,
}

pub fn view(frame: &mut Frame<'_>, area: Rect, rows: &[Row], marked: Marked, theme: &Theme) {
    let height = usize::from(area.height);
    let in_view = marked.cursor.or(marked.channel.map(Target::Channel));
    let at = rows.iter().position(|row| row.target.is_some() && row.target == in_view).unwrap_or(0);
    let first = at.saturating_sub(height / 2).min(rows.len().saturating_sub(height));
    let cells = usize::from(area.width.saturating_sub(1));
    for (y, row) in (area.y..area.bottom()).zip(rows.iter().skip(first)) {
        let current = match row.target {
            Some(Target::Channel(id)) => marked.channel == Some(id),
            Some(Target::Community(id)) => marked.community == Some(id),
            None => false,
        };
        let cursor = row.target.is_some() && row.target == marked.cursor;
        let mark = if cursor || (current && marked.cursor.is_none() && matches!(row.target, Some(Target::Channel(_)))) {
            theme.glyphs.bar
        } else {
            " "
        };
        let (count, count_style) = match (row.warning, row.mentions, row.unread) {
            (true, _, _) => ("!".to_owned(), theme.warning()),
            (false, 0, 0) => (String::new(), theme.text()),
            (false, 0, unread) => (short(unread), theme.unread()),
            (false, mentions, _) => (format!("@{}", short(mentions)), theme.mention()),
        };
        let style = if cursor {
            theme.selected()
        } else if current {
            theme.accent()
        } else if row.dim {
            theme.dim()
        } else if row.unread > 0 {
            theme.unread()
        } else {
            theme.text()
        };
        let room = cells.saturating_sub(1 + if count.is_empty() { 0 } else { count.len() + 1 });
        let label = row.label.truncate(room);
        let gap = cells.saturating_sub(1 + label.width() + count.len());
        let line = Line::from(vec![
            Span::styled(mark, if mark == " " { theme.text() } else { theme.accent() }),
            Span::styled(label.into_string(), style),
            Span::raw(" ".repeat(gap)),
            Span::styled(count, count_style),
        ]);
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}

fn short(number: u64) -> String {
    if number > 999 { "1k+".to_owned() } else { number.to_string() }
}
