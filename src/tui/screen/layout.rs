//! Where everything stands: a pure function of the size and of what is open. Drawing and scrolling share it.

use ratatui::layout::Rect;

use crate::tui::app::App;

use super::chat::{Focus, Pane};

/// Below this nothing useful can be drawn.
const MIN: (u16, u16) = (20, 5);
/// The thread stands beside the messages from here on; below, it lies over them.
pub const THREAD_FROM: u16 = 100;
/// The same for the list of channels.
pub const TREE_FROM: u16 = 81;

pub const fn too_small(size: (u16, u16)) -> bool {
    size.0 < MIN.0 || size.1 < MIN.1
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Title line over the tree.
    pub tree_head: Option<Rect>,
    pub tree: Option<Rect>,
    /// The tree lies over the messages.
    pub tree_over: bool,
    pub main: PaneLayout,
    pub thread: Option<PaneLayout>,
    pub thread_over: bool,
    /// The line below the titles, and the one above the status.
    pub head_rule: Option<u16>,
    pub foot_rule: Option<u16>,
    /// Columns of the lines between panes.
    pub columns: Vec<u16>,
    pub status: Option<Rect>,
}

/// A history with its composer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PaneLayout {
    pub head: Option<Rect>,
    pub history: Rect,
    /// Banner and notice.
    pub notes: Rect,
    pub typing: Option<Rect>,
    pub rule: Option<u16>,
    pub composer: Rect,
}

impl PaneLayout {
    /// All of it, with the rule.
    pub fn area(&self) -> Rect {
        let top = self.head.map_or(self.history.y, |head| head.y);
        Rect { y: top, height: self.composer.bottom().saturating_sub(top), ..self.history }
    }
}

impl App {
    pub fn too_small(&self) -> bool {
        too_small(self.size)
    }

    pub fn layout(&self) -> Layout {
        let (width, height) = self.size;
        if self.too_small() {
            return Layout::default();
        }
        let mut layout = Layout::default();
        let roomy = height >= 12;
        let status_rows = u16::from(height >= 6);
        let foot = status_rows + u16::from(roomy);
        if status_rows > 0 {
            layout.status = Some(Rect { x: 0, y: height - 1, width, height: 1 });
        }
        if roomy {
            layout.head_rule = Some(1);
            layout.foot_rule = Some(height - 2);
        }
        let body = Rect { x: 0, y: 0, width, height: height - foot };

        let (mut left, mut right) = (0, width);
        let tree_width = (width / 8).clamp(15, 28);
        if width >= TREE_FROM {
            if self.chat.show_tree {
                left = tree_width + 1;
                layout.columns.push(tree_width);
                layout.tree = Some(Rect { width: tree_width, ..body });
            }
        } else if self.chat.tree_over {
            let over = (width * 2 / 3).clamp(MIN.0 - 4, 30);
            layout.tree = Some(Rect { width: over, ..body });
            layout.tree_over = true;
        }
        let thread_open = self.chat.thread.is_some() && self.chat.show_thread;
        let mut thread = None;
        if thread_open && width >= THREAD_FROM {
            let thread_width = (width * 27 / 100).clamp(30, 56);
            right = width - thread_width;
            layout.columns.push(right - 1);
            thread = Some(Rect { x: right, width: thread_width, ..body });
            right -= 1;
        }
        let main = Rect { x: left, width: right - left, ..body };
        if thread_open && thread.is_none() {
            thread = Some(main);
            layout.thread_over = true;
        }
        if let Some(tree) = &mut layout.tree
            && roomy
        {
            layout.tree_head = Some(Rect { height: 1, ..*tree });
            tree.y += 2;
            tree.height -= 2;
        }
        layout.main = self.pane_layout(Pane::Main, main, roomy);
        layout.thread = thread.map(|area| self.pane_layout(Pane::Thread, area, roomy));
        layout
    }

    fn pane_layout(&self, pane: Pane, area: Rect, roomy: bool) -> PaneLayout {
        let mut top = area.y;
        let mut bottom = area.bottom();
        let rows = |wanted: u16, keep: u16, bottom: &mut u16| {
            let height = wanted.min((*bottom).saturating_sub(top + keep));
            *bottom -= height;
            Rect { y: *bottom, height, ..area }
        };
        let third = (area.height / 3).max(1);
        let wanted = u16::try_from(self.composer_rows(pane, usize::from(area.width))).unwrap_or(third);
        let composer = rows(wanted.clamp(1, third.min(10)), 1, &mut bottom);
        let rule = (area.height >= 7).then(|| rows(1, 1, &mut bottom).y);
        let typing = (area.height >= 9).then(|| rows(1, 1, &mut bottom));
        let notes_wanted = u16::try_from(self.notes(pane, usize::from(area.width)).len()).unwrap_or(third);
        let notes = rows(notes_wanted.min(third), 1, &mut bottom);
        let head = roomy.then(|| {
            let head = Rect { y: top, height: 1, ..area };
            top += 2;
            head
        });
        let history = Rect { y: top, height: bottom.saturating_sub(top), ..area };
        PaneLayout { head, history, notes, typing, rule, composer }
    }

    /// The pane that has the focus, or the main one.
    pub fn active_pane(&self) -> Pane {
        match self.chat.focus {
            Focus::Composer(pane) | Focus::History(pane) => pane,
            Focus::Tree => Pane::Main,
        }
    }

    /// Cells and rows for messages in a pane.
    pub fn text_size(&self, pane: Pane) -> (usize, usize) {
        let layout = self.layout();
        let area = match pane {
            Pane::Main => layout.main.history,
            Pane::Thread => layout.thread.map_or(Rect::default(), |thread| thread.history),
        };
        crate::tui::widget::timeline::text_size(area)
    }
}
