//! A text editor of one or more lines with readline's keys: the composer, every form field and every filter.
//!
//! The cursor stands between graphemes, so an emoji or a letter with its accents is never cut in half. Nothing here comes from
//! outside except what was pasted; it is shown through [`Clean`] all the same.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;
use zeroize::Zeroize;

use crate::tui::command::Action;
use crate::tui::text::{Clean, width, wrap};

/// Bytes; far above what one message can carry, so that a paste can still be cut down by hand.
pub const MAX_BYTES: usize = 256 * 1024;
const UNDO_MAX: usize = 50;

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Input {
    text: String,
    /// Byte offset on a grapheme border.
    cursor: usize,
    multiline: bool,
    secret: bool,
    killed: String,
    undo: Vec<(String, usize)>,
    /// The last change was a typed character: more of them are one step of undo.
    typing: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What somebody types is a message or a password.
        f.debug_struct("Input").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.secret {
            self.text.zeroize();
            self.killed.zeroize();
        }
    }
}

/// An input laid out for a width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laid {
    pub rows: Vec<Clean>,
    /// Row and column of the cursor.
    pub cursor: (usize, usize),
}

impl Input {
    pub fn line() -> Self {
        Self::default()
    }

    pub fn multiline() -> Self {
        let mut input = Self::default();
        input.multiline = true;
        input
    }

    /// Drawn as stars, wiped from memory, never undone.
    pub fn secret() -> Self {
        let mut input = Self::default();
        input.secret = true;
        input
    }

    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        self.set(text);
        self
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// What stands before the cursor.
    pub fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    pub fn set(&mut self, text: &str) {
        self.remember(false);
        self.text = text.to_owned();
        self.cursor = self.text.len();
    }

    /// Empties it and gives what was in it.
    pub fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        self.cursor = 0;
        self.undo.clear();
        text
    }

    /// Empties it; what was in it can be yanked back.
    pub fn clear(&mut self) {
        if !self.text.is_empty() {
            self.remember(false);
            self.killed = std::mem::take(&mut self.text);
            self.cursor = 0;
        }
    }

    pub fn type_char(&mut self, c: char) {
        let mut buffer = [0; 4];
        self.put(c.encode_utf8(&mut buffer), true);
    }

    /// A paste: one change, whatever is in it. False when it is too long; then nothing changed.
    pub fn paste(&mut self, text: &str) -> bool {
        if self.text.len() + text.len() > MAX_BYTES {
            return false;
        }
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let text = if self.multiline { text } else { text.trim_matches('\n').replace('\n', " ") };
        self.put(&text, false);
        true
    }

    fn put(&mut self, text: &str, typed: bool) {
        if self.text.len() + text.len() > MAX_BYTES {
            return;
        }
        self.remember(typed);
        self.text.insert_str(self.cursor, text);
        // A combining mark may have merged with what stands before it: the end of the insert is still a border or inside
        // the grapheme that ends there.
        self.cursor = self.border_at_or_after(self.cursor + text.len());
    }

    pub fn newline(&mut self) {
        if self.multiline {
            self.put("\n", false);
        }
    }

    /// Replaces a part before the cursor, for completion.
    pub fn replace(&mut self, range: Range<usize>, with: &str) {
        if self.text.get(range.clone()).is_some() {
            self.remember(false);
            self.text.replace_range(range.clone(), with);
            self.cursor = self.border_at_or_after(range.start + with.len());
        }
    }

    /// Whether the cursor has text on its right in its line: Ctrl-K has something to cut.
    pub fn has_text_right(&self) -> bool {
        self.cursor < self.text.len()
    }

    /// Performs an editing action. False when it is none, or when it had nothing to do.
    pub fn act(&mut self, action: Action) -> bool {
        match action {
            Action::CharLeft => self.go(self.left_of(self.cursor)),
            Action::CharRight => self.go(self.right_of(self.cursor)),
            Action::WordLeft => self.go(self.word_left()),
            Action::WordRight => self.go(self.word_right()),
            Action::LineStart => self.go(self.current_line().start),
            Action::LineEnd => self.go(self.current_line().end),
            Action::LineUp => self.vertical(-1),
            Action::LineDown => self.vertical(1),
            Action::DeleteBack => self.cut(self.left_of(self.cursor)..self.cursor, false),
            Action::DeleteForward => self.cut(self.cursor..self.right_of(self.cursor), false),
            Action::DeleteWordBack => self.cut(self.space_left()..self.cursor, true),
            Action::DeleteWordForward => self.cut(self.cursor..self.word_right(), true),
            Action::KillToStart => self.cut(self.current_line().start..self.cursor, true),
            Action::KillToEnd => {
                let end = self.current_line().end;
                // At the end of a line the line break goes.
                let end = if end == self.cursor { self.right_of(end) } else { end };
                self.cut(self.cursor..end, true)
            }
            Action::Yank => {
                let killed = self.killed.clone();
                self.put(&killed, false);
                !killed.is_empty()
            }
            Action::Transpose => self.transpose(),
            Action::Undo => self.undo.pop().is_some_and(|(text, cursor)| {
                self.text = text;
                self.cursor = cursor;
                self.typing = false;
                true
            }),
            _ => false,
        }
    }

    /// Lays the text out for a width. Every row is at most `cells` wide, the cursor is always inside.
    pub fn layout(&self, cells: usize) -> Laid {
        let cells = cells.max(1);
        // One column stays for the cursor behind the last character.
        let wrap_at = cells.saturating_sub(1).max(1);
        let mut rows = Vec::new();
        let mut cursor = (0, 0);
        let mut start = 0;
        for line in self.text.split('\n') {
            let (shown, at) = self.shown(line, self.cursor.checked_sub(start).filter(|at| *at <= line.len()));
            let ranges = wrap(shown.as_str(), wrap_at);
            if let Some(at) = at {
                let row = ranges.iter().rposition(|range| range.start <= at).unwrap_or(0);
                let from = ranges.get(row).map_or(0, |range| range.start);
                let column = width(shown.as_str().get(from..at).unwrap_or_default());
                cursor = (rows.len() + row, column.min(cells - 1));
            }
            rows.extend(ranges.into_iter().map(|range| shown.slice(range)));
            start += line.len() + 1;
        }
        Laid { rows, cursor }
    }

    /// One line as it is drawn, and where in it the cursor stands.
    fn shown(&self, line: &str, cursor: Option<usize>) -> (Clean, Option<usize>) {
        if self.secret {
            let stars = |text: &str| "*".repeat(text.graphemes(true).count());
            return (Clean::ours(stars(line)), cursor.map(|at| stars(&line[..at]).len()));
        }
        let whole = Clean::ours(line);
        let at = cursor.map(|at| Clean::ours(&line[..at]).as_str().len().min(whole.as_str().len()));
        // The two can differ by a cell where marks meet; the border before is close enough for a cursor.
        let at = at.map(|mut at| {
            while !whole.as_str().is_char_boundary(at) {
                at -= 1;
            }
            at
        });
        (whole, at)
    }

    fn remember(&mut self, typed: bool) {
        if self.secret || (typed && self.typing && !self.undo.is_empty()) {
            return;
        }
        self.typing = typed;
        if self.undo.len() == UNDO_MAX {
            self.undo.remove(0);
        }
        self.undo.push((self.text.clone(), self.cursor));
    }

    fn go(&mut self, to: usize) -> bool {
        self.typing = false;
        let moved = self.cursor != to;
        self.cursor = to;
        moved
    }

    fn cut(&mut self, range: Range<usize>, keep: bool) -> bool {
        if range.is_empty() {
            return false;
        }
        self.remember(false);
        let cut: String = self.text.drain(range.clone()).collect();
        if keep && !self.secret {
            self.killed = cut;
        }
        self.cursor = self.border_at_or_after(range.start);
        true
    }

    fn transpose(&mut self) -> bool {
        let line = self.current_line();
        let right_end = if self.cursor == line.end { self.cursor } else { self.right_of(self.cursor) };
        let middle = self.left_of(right_end);
        let left = self.left_of(middle);
        if left < line.start || left == middle || middle == right_end {
            return false;
        }
        self.remember(false);
        let swapped = format!("{}{}", &self.text[middle..right_end], &self.text[left..middle]);
        self.text.replace_range(left..right_end, &swapped);
        self.cursor = self.border_at_or_after(right_end);
        true
    }

    /// Moves to the line above or below, to the same column. False at the first and last line.
    fn vertical(&mut self, step: isize) -> bool {
        let line = self.current_line();
        let column = Clean::ours(&self.text[line.start..self.cursor]).width();
        let other = if step < 0 {
            if line.start == 0 {
                return false;
            }
            self.line_at(line.start - 1)
        } else {
            if line.end == self.text.len() {
                return false;
            }
            self.line_at(line.end + 1)
        };
        let (mut to, mut used) = (other.start, 0);
        for grapheme in self.text[other].graphemes(true) {
            used += Clean::ours(grapheme).width();
            if used > column {
                break;
            }
            to += grapheme.len();
        }
        self.go(to)
    }

    fn current_line(&self) -> Range<usize> {
        self.line_at(self.cursor)
    }

    fn line_at(&self, at: usize) -> Range<usize> {
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline);
        start..end
    }

    fn left_of(&self, at: usize) -> usize {
        self.text[..at].grapheme_indices(true).next_back().map_or(0, |(start, _)| start)
    }

    fn right_of(&self, at: usize) -> usize {
        self.text[at..].graphemes(true).next().map_or(at, |grapheme| at + grapheme.len())
    }

    fn border_at_or_after(&self, at: usize) -> usize {
        if at >= self.text.len() {
            return self.text.len();
        }
        let mut borders = self.text.grapheme_indices(true).map(|(start, _)| start);
        borders.find(|start| *start >= at).unwrap_or(self.text.len())
    }

    fn word_left(&self) -> usize {
        let mut words = self.text[..self.cursor].unicode_word_indices();
        words.next_back().map_or(0, |(start, _)| start)
    }

    fn word_right(&self) -> usize {
        let mut words = self.text[self.cursor..].unicode_word_indices();
        words.next().map_or(self.text.len(), |(start, word)| self.cursor + start + word.len())
    }

    /// Ctrl-W cuts to the white space, as the shell does.
    fn space_left(&self) -> usize {
        let before = self.before_cursor().trim_end();
        before.rfind(char::is_whitespace).map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(text: &str, actions: &[Action]) -> (String, usize) {
        let mut input = Input::multiline().with(text);
        for action in actions {
            input.act(*action);
        }
        (input.text().to_owned(), input.cursor)
    }

    #[test]
    fn keys_edit_as_in_readline() {
        use Action::*;
        assert_eq!(after("one two", &[DeleteWordBack]), ("one ".into(), 4));
        assert_eq!(after("one two", &[WordLeft, KillToEnd]), ("one ".into(), 4));
        assert_eq!(after("one two", &[WordLeft, KillToStart, LineEnd, Yank]), ("twoone ".into(), 7));
        assert_eq!(after("one two", &[LineStart, DeleteWordForward]), (" two".into(), 0));
        assert_eq!(after("ab", &[Transpose]), ("ba".into(), 2));
        assert_eq!(after("one\ntwo", &[LineUp]), ("one\ntwo".into(), 3));
        assert_eq!(after("one\ntwo", &[LineStart, DeleteBack]), ("onetwo".into(), 3));
        assert_eq!(after("one", &[DeleteWordBack, Undo]), ("one".into(), 3));
    }

    #[test]
    fn an_emoji_is_one_character() {
        assert_eq!(after("a👩‍👩‍👧‍👦", &[Action::DeleteBack]), ("a".into(), 1));
        assert_eq!(after("e\u{301}x", &[Action::CharLeft, Action::CharLeft]).1, 0);
    }

    #[test]
    fn a_paste_is_one_change_and_never_sends() {
        let mut input = Input::multiline();
        assert!(input.paste("one\r\ntwo\x1b[201~"));
        assert_eq!(input.text(), "one\ntwo\x1b[201~");
        assert_eq!(input.layout(40).rows.iter().map(Clean::as_str).collect::<Vec<_>>(), ["one", "two␛[201~"]);
        input.act(Action::Undo);
        assert!(input.is_empty());
        assert!(!input.paste(&"x".repeat(MAX_BYTES + 1)));
        let mut line = Input::line();
        line.paste("\nchat://host\n");
        assert_eq!(line.text(), "chat://host");
    }

    #[test]
    fn a_secret_is_never_drawn() {
        let mut input = Input::secret().with("pässword");
        assert_eq!(input.layout(40).rows[0].as_str(), "********");
        assert!(!format!("{input:?}").contains("ssword"));
        assert!(!input.act(Action::Undo));
    }

    #[test]
    fn the_cursor_stands_where_typing_goes() {
        assert_eq!(Input::line().with("abc").layout(10).cursor, (0, 3));
        assert_eq!(Input::line().with("日本").layout(10).cursor, (0, 4));
        assert_eq!(Input::multiline().with("a\n").layout(10).cursor, (1, 0));
        assert_eq!(Input::line().with("one two three").layout(8).cursor, (1, 5));
    }

    proptest! {
        #[test]
        fn any_keys_keep_the_cursor_on_a_border_and_inside(
            steps in proptest::collection::vec((0_usize..24, "\\PC{0,3}|\n|e\u{301}|👩\u{200d}👧|\t"), 0..60),
            cells in 1_usize..20,
        ) {
            use Action::*;
            let actions = [CharLeft, CharRight, WordLeft, WordRight, LineStart, LineEnd, LineUp, LineDown, DeleteBack, DeleteForward,
                DeleteWordBack, DeleteWordForward, KillToStart, KillToEnd, Yank, Transpose, Undo];
            let mut input = Input::multiline();
            for (step, text) in steps {
                match actions.get(step) {
                    Some(action) => { input.act(*action); }
                    None => { input.paste(&text); }
                }
                prop_assert!(input.text.is_char_boundary(input.cursor));
                let laid = input.layout(cells);
                prop_assert!(laid.cursor.0 < laid.rows.len() && laid.cursor.1 < cells, "{:?} in {cells}", laid.cursor);
                prop_assert!(laid.rows.iter().all(|row| row.width() <= cells));
            }
        }
    }
}
