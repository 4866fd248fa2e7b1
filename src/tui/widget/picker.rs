//! A list to choose from, with a line to filter it: the switcher, the palette, members, search results, emoji, the help.

use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::tui::command::Action;
use crate::tui::text::{Clean, width};
use crate::tui::theme::Theme;

use super::input::Input;

/// One choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<T> {
    pub label: Clean,
    /// Dim, behind the label.
    pub detail: Clean,
    /// At the right end: a key, a count.
    pub tag: Clean,
    /// Stands out: unread.
    pub strong: bool,
    pub choice: T,
}

impl<T> Row<T> {
    pub fn new(label: Clean, detail: Clean, choice: T) -> Self {
        Self { label, detail, tag: Clean::default(), strong: false, choice }
    }

    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
        self.tag = Clean::ours(tag);
        self
    }

    #[must_use]
    pub fn strong(mut self, strong: bool) -> Self {
        self.strong = strong;
        self
    }
}

#[derive(Debug)]
pub struct Picker<T> {
    pub title: String,
    pub input: Input,
    rows: Vec<Row<T>>,
    /// Indices into `rows`, best first.
    shown: Vec<usize>,
    pub selected: usize,
    /// The rows are answers to what is typed: they are not filtered again.
    pub answers: bool,
    /// Said when nothing is listed.
    pub empty: String,
}

impl<T> Picker<T> {
    pub fn new(title: impl Into<String>, rows: Vec<Row<T>>) -> Self {
        let mut picker = Self {
            title: title.into(),
            input: Input::line(),
            rows: Vec::new(),
            shown: Vec::new(),
            selected: 0,
            answers: false,
            empty: "nothing matches".to_owned(),
        };
        picker.set_rows(rows);
        picker
    }

    #[must_use]
    pub fn answers(mut self, empty: &str) -> Self {
        self.answers = true;
        empty.clone_into(&mut self.empty);
        self
    }

    #[must_use]
    pub fn empty(mut self, words: &str) -> Self {
        words.clone_into(&mut self.empty);
        self
    }

    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.input.set(query);
        self.filter();
        self
    }

    pub fn set_rows(&mut self, rows: Vec<Row<T>>) {
        self.rows = rows;
        self.filter();
    }

    pub fn choice(&self) -> Option<&T> {
        self.shown.get(self.selected).and_then(|index| self.rows.get(*index)).map(|row| &row.choice)
    }

    pub fn len(&self) -> usize {
        self.shown.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Orders the rows by how well they match what is typed; without anything typed they keep their order.
    pub fn filter(&mut self) {
        let query = self.input.text().trim().to_owned();
        self.filter_by(&query);
    }

    /// The same by other words than what is typed.
    pub fn filter_by(&mut self, query: &str) {
        self.selected = 0;
        if query.is_empty() || self.answers {
            self.shown = (0..self.rows.len()).collect();
            return;
        }
        let pattern = Pattern::parse(query, CaseMatching::Smart, Normalization::Smart);
        let mut matcher = Matcher::new(Config::DEFAULT);
        let mut buffer = Vec::new();
        let mut scored: Vec<(u32, usize)> = self
            .rows
            .iter()
            .enumerate()
            .filter_map(|(index, row)| {
                let text = format!("{} {}", row.label, row.detail);
                // The name counts more than what is said about it.
                let name = pattern.score(Utf32Str::new(row.label.as_str(), &mut buffer), &mut matcher).map(|score| score * 2);
                let all = pattern.score(Utf32Str::new(&text, &mut buffer), &mut matcher);
                name.max(all).map(|score| (score, index))
            })
            .collect();
        scored.sort_by_key(|(score, index)| (std::cmp::Reverse(*score), *index));
        self.shown = scored.into_iter().map(|(_, index)| index).collect();
    }

    /// Moves the selection. False when the action is none of a list.
    pub fn act(&mut self, action: Action, page: usize) -> bool {
        let last = self.shown.len().saturating_sub(1);
        self.selected = match action {
            // Around the ends, so that the last is one key away.
            Action::Up => self.selected.checked_sub(1).unwrap_or(last),
            Action::Down => {
                if self.selected >= last {
                    0
                } else {
                    self.selected + 1
                }
            }
            Action::PageUp => self.selected.saturating_sub(page.max(1)),
            Action::PageDown => (self.selected + page.max(1)).min(last),
            _ => return false,
        };
        true
    }

    /// Draws it and gives the place of the cursor.
    pub fn view(&self, frame: &mut Frame<'_>, area: Rect, theme: &Theme) -> Option<(u16, u16)> {
        if area.width < 4 || area.height == 0 {
            return None;
        }
        let laid = self.input.layout(usize::from(area.width) - 2);
        let row = laid.rows.get(laid.cursor.0).cloned().unwrap_or_default();
        let prompt = Line::from(vec![Span::styled("> ", theme.accent()), Span::raw(row.into_string())]);
        frame.render_widget(prompt, Rect { height: 1, ..area });
        let cursor = (area.x + 2 + u16::try_from(laid.cursor.1).unwrap_or(0), area.y);
        let list = Rect { y: area.y + 1, height: area.height - 1, ..area };
        if self.shown.is_empty() {
            let words = Clean::ours(&self.empty).truncate(usize::from(area.width));
            frame.render_widget(Span::styled(words.into_string(), theme.dim()), Rect { height: list.height.min(1), ..list });
            return Some(cursor);
        }
        let height = usize::from(list.height).max(1);
        // The selection stays in the middle of a long list.
        let first = self.selected.saturating_sub(height / 2).min(self.shown.len().saturating_sub(height));
        for (y, (at, index)) in (list.y..list.bottom()).zip(self.shown.iter().enumerate().skip(first)) {
            if let Some(row) = self.rows.get(*index) {
                frame
                    .render_widget(line(row, at == self.selected, usize::from(list.width), theme), Rect { y, height: 1, ..list });
            }
        }
        Some(cursor)
    }
}

fn line<T>(row: &Row<T>, selected: bool, cells: usize, theme: &Theme) -> Line<'static> {
    let bar = if selected { theme.glyphs.bar } else { " " };
    let tag = row.tag.truncate(cells / 2);
    let room = cells.saturating_sub(2 + tag.width() + usize::from(!tag.is_empty()));
    let label = row.label.truncate(room);
    let left = room.saturating_sub(label.width());
    let detail = if left > 4 { row.detail.truncate(left - 2) } else { Clean::default() };
    let used = 2 + label.width() + if detail.is_empty() { 0 } else { 2 + detail.width() };
    let style = if selected {
        theme.selected()
    } else if row.strong {
        theme.unread()
    } else {
        theme.text()
    };
    let mut spans = vec![Span::styled(format!("{bar} "), theme.accent()), Span::styled(label.into_string(), style)];
    if !detail.is_empty() {
        spans.push(Span::styled(format!("  {detail}"), theme.dim()));
    }
    spans.push(Span::raw(" ".repeat(cells.saturating_sub(used + width(tag.as_str())))));
    spans.push(Span::styled(tag.into_string(), if row.strong { theme.unread() } else { theme.dim() }));
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picker() -> Picker<usize> {
        let names = ["general", "deploys", "incident", "design"];
        let rows = names.iter().enumerate().map(|(at, name)| Row::new(Clean::ours(name), Clean::ours("Acme"), at)).collect();
        Picker::new("switch", rows)
    }

    #[test]
    fn typing_brings_the_best_match_to_the_top() {
        let mut picker = picker().query("dep");
        assert_eq!(picker.choice(), Some(&1));
        picker.input.set("inc");
        picker.filter();
        assert_eq!(picker.choice(), Some(&2));
        picker.input.set("xyz");
        picker.filter();
        assert_eq!(picker.choice(), None);
        assert!(picker.act(Action::Down, 5), "an empty list can be moved in");
    }

    #[test]
    fn moving_goes_around_the_ends() {
        let mut picker = picker();
        picker.act(Action::Up, 5);
        assert_eq!(picker.choice(), Some(&3));
        picker.act(Action::Down, 5);
        assert_eq!(picker.choice(), Some(&0));
        picker.act(Action::PageDown, 2);
        assert_eq!(picker.choice(), Some(&2));
    }
}
