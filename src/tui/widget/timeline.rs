//! The messages of a channel or a thread: a window of a few hundred items around what is in sight, paged from the local store in
//! both directions. No absolute line number exists, so a history of any length costs the same.
//!
//! Start with [`Timeline`] (what is loaded, what is selected, where the window stands), then `lines.rs` (how an item is drawn).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::client::command::Place;
use crate::client::model::{Anchor, Body, Delivery, MessageRef, TimelineItem, TimelinePage};

pub mod lines;

pub use lines::Look;
use lines::{Block, Cache, unreadable};

/// Items kept in memory around the anchor.
pub const WINDOW: usize = 300;
/// Items asked for at a time.
pub const PAGE: usize = 100;
/// Another page is asked for when fewer items than this are left beyond the edge of the screen.
const MARGIN: usize = 40;

#[derive(Debug)]
pub struct Timeline {
    pub place: Place,
    /// Ascending; what waits for the server comes last.
    pub items: VecDeque<Arc<TimelineItem>>,
    pub at_start: bool,
    pub at_end: bool,
    /// Rows that exist on the server before the first one here.
    pub missing_before: u64,
    /// The first page has come.
    pub loaded: bool,
    pub loading: Option<Direction>,
    /// Fetching failed, or brought only what cannot be read: tried again when the user scrolls.
    pub fetch_failed: bool,
    pub scroll: Scroll,
    pub selected: Option<MessageRef>,
    /// Where the line `new` stands: after this sequence number.
    pub read_seq: Option<u64>,
    cache: RefCell<Cache>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Older,
    Newer,
}

/// What the top or bottom of the screen is tied to; a resize keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scroll {
    /// The newest line is the last on the screen, also when more come.
    Bottom,
    /// The first line on the screen is this one of this item.
    Top { key: MessageRef, skip: usize },
}

/// A place in the window: an item and a line of it.
type Position = (usize, usize);

impl Timeline {
    pub fn new(place: Place, read_seq: Option<u64>) -> Self {
        Self {
            place,
            items: VecDeque::new(),
            at_start: false,
            at_end: false,
            missing_before: 0,
            loaded: false,
            loading: None,
            fetch_failed: false,
            scroll: Scroll::Bottom,
            selected: None,
            read_seq,
            cache: RefCell::default(),
        }
    }

    // What is loaded.

    pub fn get(&self, key: MessageRef) -> Option<&Arc<TimelineItem>> {
        self.items.iter().find(|item| item.key == key)
    }

    pub fn selected_item(&self) -> Option<&Arc<TimelineItem>> {
        self.selected.and_then(|key| self.get(key))
    }

    /// The item that a command without a selection means: the newest message.
    pub fn newest_message(&self) -> Option<&Arc<TimelineItem>> {
        self.items.iter().rev().find(|item| selectable(item))
    }

    /// The newest committed position that is loaded.
    pub fn last_seq(&self) -> Option<u64> {
        self.items.iter().rev().find_map(|item| item.seq)
    }

    /// The first message of somebody else after the read position.
    pub fn first_unread(&self) -> Option<usize> {
        let read = self.read_seq?;
        self.items.iter().position(|item| !item.mine && item.seq.is_some_and(|seq| seq > read))
    }

    /// The first page, or the page around something: replaces everything.
    pub fn replace(&mut self, page: TimelinePage, at: Anchor, size: (usize, usize), look: &Look<'_>) {
        self.loaded = true;
        self.loading = None;
        self.fetch_failed = false;
        self.items = page.items.into_iter().filter(|item| belongs(self.place, item)).collect();
        self.at_start = page.at_start;
        self.at_end = page.at_end;
        self.missing_before = page.missing_before;
        self.scroll = Scroll::Bottom;
        self.pause();
        match at {
            Anchor::Around(key) => {
                self.selected = Some(key);
                if let Some(index) = self.index_of(key) {
                    let top = self.back_from((index, 0), size.1 / 3, size.0, look);
                    self.scroll_to(top, size, look);
                }
            }
            Anchor::FirstUnread => {
                if let Some(index) = self.first_unread() {
                    let top = self.back_from((index, 0), 2.min(size.1 / 3), size.0, look);
                    self.scroll_to(top, size, look);
                }
            }
            Anchor::Newest | Anchor::Before(_) | Anchor::After(_) => {}
        }
    }

    /// A page that continues the window.
    pub fn extend(&mut self, page: TimelinePage, direction: Direction, size: (usize, usize), look: &Look<'_>) {
        self.loading = None;
        self.fetch_failed = false;
        let top = self.top(size, look);
        let keep = (self.scroll != Scroll::Bottom).then(|| self.items.get(top.0).map(|item| item.key)).flatten();
        let fresh: Vec<_> =
            page.items.into_iter().filter(|item| belongs(self.place, item) && self.get(item.key).is_none()).collect();
        match direction {
            Direction::Older => {
                self.at_start = page.at_start;
                self.missing_before = page.missing_before;
                for item in fresh.into_iter().rev() {
                    self.items.push_front(item);
                }
                self.pause();
                // Never cut away what is on the screen.
                let last_seen = keep.and_then(|key| self.index_of(key));
                let last_seen = last_seen
                    .map_or(self.items.len(), |index| self.forward_from((index, 0), size.1, size.0, look).0 + 1)
                    .min(self.items.len());
                while self.items.len() > WINDOW.max(last_seen) {
                    self.items.pop_back();
                    self.at_end = false;
                }
            }
            Direction::Newer => {
                self.at_end = page.at_end;
                self.items.extend(fresh);
                while self.items.len() > WINDOW && self.items.front().map(|item| item.key) != keep {
                    self.items.pop_front();
                    self.at_start = false;
                }
            }
        }
    }

    /// What stands before a row that cannot be read is mostly of its kind, and takes no room: without this all of a long history
    /// would be fetched to fill the screen.
    fn pause(&mut self) {
        self.fetch_failed = self.items.front().is_some_and(|item| unreadable(&item.body));
    }

    /// Items that are new or changed. True when something in the window is different now.
    pub fn merge(&mut self, items: &[Arc<TimelineItem>]) -> bool {
        let mut changed = false;
        for item in items.iter().filter(|item| belongs(self.place, item)) {
            if !self.loaded {
                break;
            }
            if let Some(index) = self.index_of(item.key) {
                changed = true;
                if self.items.get(index).is_some_and(|old| old.seq == item.seq) {
                    if let Some(slot) = self.items.get_mut(index) {
                        *slot = item.clone();
                    }
                    continue;
                }
                // Committed: it moves from the waiting ones to its place.
                self.items.remove(index);
            }
            let at = self.place_of(item);
            let inside = (at > 0 || self.at_start) && (at < self.items.len() || self.at_end);
            if inside {
                self.items.insert(at, item.clone());
                changed = true;
            }
        }
        if self.scroll == Scroll::Bottom && self.at_end {
            while self.items.len() > WINDOW {
                self.items.pop_front();
                self.at_start = false;
            }
        }
        changed
    }

    /// Where an item belongs: what is committed in the server's order, what waits at the end, and lines about what happened and what
    /// the server lost, which have no number of their own, by their time.
    fn place_of(&self, item: &TimelineItem) -> usize {
        let waits =
            |other: &TimelineItem| other.seq.is_none() && matches!(other.delivery, Delivery::Waiting | Delivery::Failed(_));
        let after = |other: &&Arc<TimelineItem>| match (item.seq, waits(item)) {
            (Some(seq), _) => waits(other) || other.seq.is_some_and(|other| other > seq),
            (None, false) => waits(other) || other.at > item.at,
            (None, true) => waits(other) && (other.at, other.key.id) > (item.at, item.key.id),
        };
        self.items.iter().enumerate().find(|(_, other)| after(other)).map_or(self.items.len(), |(at, _)| at)
    }

    pub fn remove(&mut self, keys: &[MessageRef]) -> bool {
        let before = self.items.len();
        self.items.retain(|item| !keys.contains(&item.key));
        if self.selected.is_some_and(|key| keys.contains(&key)) {
            self.selected = None;
        }
        if let Scroll::Top { key, .. } = self.scroll
            && keys.contains(&key)
        {
            self.scroll = Scroll::Bottom;
        }
        before != self.items.len()
    }

    /// What has to be loaded for the user to scroll on.
    pub fn wants(&self, size: (usize, usize), look: &Look<'_>) -> Option<Direction> {
        if !self.loaded || self.loading.is_some() || size.0 == 0 || size.1 == 0 {
            return None;
        }
        let first = self.top(size, look);
        let top = first.0;
        if top < MARGIN && !self.fetch_failed && (!self.at_start || self.missing_before > 0) {
            return Some(Direction::Older);
        }
        let last = || self.forward_from(first, size.1, size.0, look).0;
        (!self.at_end && last() + MARGIN > self.items.len()).then_some(Direction::Newer)
    }

    // Moving.

    /// Selects the message `step` messages away; without a selection, the lowest on the screen.
    pub fn select_by(&mut self, step: isize, size: (usize, usize), look: &Look<'_>) {
        let index = match self.selected.and_then(|key| self.index_of(key)) {
            None => self.last_visible(size, look),
            Some(index) => {
                let mut at = index;
                let mut left = step.unsigned_abs();
                let mut best = Some(index);
                while left > 0 {
                    let next = if step < 0 { at.checked_sub(1) } else { Some(at + 1).filter(|next| *next < self.items.len()) };
                    let Some(next) = next else { break };
                    at = next;
                    if self.items.get(at).is_some_and(|item| selectable(item)) {
                        best = Some(at);
                        left -= 1;
                    }
                }
                best
            }
        };
        self.select_index(index, size, look);
    }

    pub fn select_first(&mut self, size: (usize, usize), look: &Look<'_>) {
        let index = self.items.iter().position(|item| selectable(item));
        self.select_index(index, size, look);
        self.scroll_to((0, 0), size, look);
    }

    pub fn select_last(&mut self, size: (usize, usize), look: &Look<'_>) {
        let index = self.items.iter().rposition(|item| selectable(item));
        self.select_index(index, size, look);
        if self.at_end {
            self.scroll = Scroll::Bottom;
        }
    }

    /// Selects the next item for which `wanted` holds, given the item and the one before it.
    pub fn select_where(
        &mut self,
        forward: bool,
        size: (usize, usize),
        look: &Look<'_>,
        wanted: impl Fn(Option<&TimelineItem>, &TimelineItem) -> bool,
    ) {
        let current = self.selected.and_then(|key| self.index_of(key)).or_else(|| self.last_visible(size, look));
        let Some(current) = current else { return };
        let matches = |index: &usize| {
            let before = index.checked_sub(1).and_then(|before| self.items.get(before));
            self.items.get(*index).is_some_and(|item| selectable(item) && wanted(before.map(AsRef::as_ref), item))
        };
        let found = if forward { (current + 1..self.items.len()).find(matches) } else { (0..current).rev().find(matches) };
        if found.is_some() {
            self.select_index(found, size, look);
        }
    }

    pub fn select(&mut self, key: MessageRef, size: (usize, usize), look: &Look<'_>) {
        self.select_index(self.index_of(key), size, look);
    }

    fn select_index(&mut self, index: Option<usize>, size: (usize, usize), look: &Look<'_>) {
        let Some((index, key)) = index.and_then(|index| Some((index, self.items.get(index)?.key))) else { return };
        self.selected = Some(key);
        self.fetch_failed = false;
        let (cells, height) = size;
        let top = self.top(size, look);
        if index <= top.0 && (index, 0) < top {
            self.scroll_to((index, 0), size, look);
            return;
        }
        // Its last line must be in sight, or its first if it is taller than the screen.
        let end = (index + 1, 0);
        let lowest_top = self.back_from(end, height, cells, look);
        if lowest_top > top {
            let to = lowest_top.min((index, 0));
            self.scroll_to(to, size, look);
        }
    }

    /// Scrolls by lines; negative is up.
    pub fn scroll_by(&mut self, lines: isize, size: (usize, usize), look: &Look<'_>) {
        self.fetch_failed = false;
        let top = self.top(size, look);
        let to = if lines < 0 {
            self.back_from(top, lines.unsigned_abs(), size.0, look)
        } else {
            self.forward_from(top, lines.unsigned_abs(), size.0, look)
        };
        self.scroll_to(to, size, look);
        // The selection stays on the screen.
        if let Some(index) = self.selected.and_then(|key| self.index_of(key)) {
            let (first, last) = (self.top(size, look).0, self.last_visible(size, look).unwrap_or(0));
            if index < first || index > last {
                let near = index.clamp(first.min(last), last);
                let seen = |at: &usize| self.items.get(*at).is_some_and(|item| selectable(item));
                let nearest = (near..=last).find(seen).or_else(|| (first..near).rev().find(seen));
                if let Some(item) = nearest.and_then(|at| self.items.get(at)) {
                    self.selected = Some(item.key);
                }
            }
        }
    }

    fn scroll_to(&mut self, top: Position, size: (usize, usize), look: &Look<'_>) {
        let bottom_top = self.back_from((self.items.len(), 0), size.1, size.0, look);
        self.scroll = if top >= bottom_top && self.at_end {
            Scroll::Bottom
        } else {
            let top = top.min(bottom_top);
            self.items.get(top.0).map_or(Scroll::Bottom, |item| Scroll::Top { key: item.key, skip: top.1 })
        };
    }

    fn index_of(&self, key: MessageRef) -> Option<usize> {
        // What is looked for is mostly new.
        self.items.iter().rposition(|item| item.key == key)
    }

    /// The first line on the screen.
    fn top(&self, (cells, height): (usize, usize), look: &Look<'_>) -> Position {
        let bottom_top = self.back_from((self.items.len(), 0), height, cells, look);
        match self.scroll {
            Scroll::Bottom => bottom_top,
            Scroll::Top { key, skip } => match self.index_of(key) {
                Some(index) => (index, skip.min(self.height(index, cells, look).saturating_sub(1))).min(bottom_top),
                None => bottom_top,
            },
        }
    }

    /// The lowest message that is at least partly on the screen.
    fn last_visible(&self, size: (usize, usize), look: &Look<'_>) -> Option<usize> {
        let top = self.top(size, look);
        let end = self.forward_from(top, size.1.saturating_sub(1), size.0, look).0.min(self.items.len().checked_sub(1)?);
        (0..=end).rev().find(|index| self.items.get(*index).is_some_and(|item| selectable(item)))
    }

    fn back_from(&self, (mut index, mut line): Position, mut lines: usize, cells: usize, look: &Look<'_>) -> Position {
        loop {
            if lines <= line {
                return (index, line - lines);
            }
            lines -= line;
            let Some(before) = index.checked_sub(1) else { return (0, 0) };
            index = before;
            line = self.height(index, cells, look);
        }
    }

    fn forward_from(&self, (mut index, mut line): Position, mut lines: usize, cells: usize, look: &Look<'_>) -> Position {
        while index < self.items.len() {
            let left = self.height(index, cells, look).saturating_sub(line);
            if lines < left {
                return (index, line + lines);
            }
            lines -= left;
            index += 1;
            line = 0;
        }
        (self.items.len(), 0)
    }

    fn height(&self, index: usize, cells: usize, look: &Look<'_>) -> usize {
        self.block(index, cells, look).len()
    }

    fn block(&self, index: usize, cells: usize, look: &Look<'_>) -> Block {
        let Some(item) = self.items.get(index) else { return Block::default() };
        let before = index.checked_sub(1).and_then(|before| self.items.get(before)).map(AsRef::as_ref);
        let new = self.first_unread() == Some(index) && index > 0;
        Block::new(item, before, new, self.place.thread.is_some(), cells, look, &mut self.cache.borrow_mut())
    }

    // Drawing.

    /// Draws the window's part into an area. `focused`: the selection is shown.
    pub fn view(&self, frame: &mut Frame<'_>, area: Rect, look: &Look<'_>, focused: bool) {
        let (cells, height) = text_size(area);
        if cells == 0 || height == 0 {
            return;
        }
        let (mut index, skip) = self.top((cells, height), look);
        let mut rows: Vec<(Line<'static>, bool)> = Vec::with_capacity(height);
        let mut skip = skip;
        while rows.len() < height && index < self.items.len() {
            let selected = focused && self.items.get(index).is_some_and(|item| Some(item.key) == self.selected);
            let block = self.block(index, cells, look);
            rows.extend(block.lines(skip, height - rows.len()).map(|line| (line, selected)));
            skip = 0;
            index += 1;
        }
        let start = area.y + u16::try_from(height - rows.len()).unwrap_or(0);
        for (y, (line, selected)) in (start..).zip(rows) {
            let row = Rect { y, height: 1, ..area };
            if selected {
                frame.render_widget(Span::styled(look.theme.glyphs.bar, look.theme.accent()), row);
            }
            frame.render_widget(line, Rect { x: area.x + 1, width: area.width - 1, ..row });
        }
    }
}

/// Cells and rows for text in an area: one column on each side stays free.
pub fn text_size(area: Rect) -> (usize, usize) {
    (usize::from(area.width.saturating_sub(2)), usize::from(area.height))
}

/// A message, not a line about something that happened, nor one that stands for many.
pub fn selectable(item: &TimelineItem) -> bool {
    !matches!(item.body, Body::System(_)) && !unreadable(&item.body)
}

/// Replies are shown in their thread, their root in both.
fn belongs(place: Place, item: &TimelineItem) -> bool {
    item.channel_id == place.channel_id
        && match place.thread {
            None => item.thread_root.is_none(),
            Some(root) => item.key == root || item.thread_root == Some(root),
        }
}

#[cfg(test)]
mod tests;
