//! The one door for text from outside: [`Untrusted`] → [`Clean`]. Every message, name, topic, emoji and server error goes
//! through here before it is drawn, printed, put into a window title or written to the clipboard.
//!
//! A [`Clean`] is one line. It holds no control character, no bidi control, no invisible character that is not part of
//! a visible one, and no cell with more than a few combining marks; its width is what ratatui will draw. What is dangerous
//! is shown, not dropped: `ESC` as `␛`, U+202E as `<U+202E>`. This module knows no screen; `chat tail` prints through it too.
//!
//! Start with [`Clean`], then [`wrap`].

use std::fmt;
use std::ops::Range;

use ratatui::buffer::CellWidth;
use textwrap::WordSeparator;
use unicode_segmentation::UnicodeSegmentation;

use crate::client::model::Untrusted;

/// Marks on one base character; more are dropped. Vietnamese and Hebrew need three, no script needs more than six.
const MARKS_PER_CELL: usize = 6;
/// Characters of one grapheme: the longest emoji in use (a family with skin tones) has 11.
const CHARS_PER_CELL: usize = 16;
const TAB: usize = 4;

/// One line of text that may reach a terminal.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Clean(String);

impl Clean {
    /// A name, a topic, a label: one line. Line breaks are shown as symbols, so a name cannot fake a second line.
    pub fn from_untrusted(text: &Untrusted) -> Self {
        Self(sanitize(text.raw()))
    }

    /// A message: one `Clean` for each line (LF and CRLF end one); at least one.
    pub fn lines(text: &Untrusted) -> Vec<Self> {
        text.raw().split('\n').map(|line| Self(sanitize(line.strip_suffix('\r').unwrap_or(line)))).collect()
    }

    /// The beginning of a message on one line of at most `width` cells: white space collapsed, the cut marked with `…`.
    pub fn preview(text: &Untrusted, width: usize) -> Self {
        // A quote of a long message must not cost a pass over all of it: no cell needs more than 64 bytes.
        let raw = text.raw();
        let head = raw.get(..raw.floor_char_boundary(width.saturating_mul(64).max(256))).unwrap_or(raw);
        let mut line = String::new();
        for word in head.split_whitespace() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        Self(sanitize(&line)).truncate(width)
    }

    /// Our own words. They go through the same filter, so a slip of ours is harmless too.
    pub fn ours(text: impl AsRef<str>) -> Self {
        Self(sanitize(text.as_ref()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cells.
    pub fn width(&self) -> usize {
        width(&self.0)
    }

    /// At most `cells` wide; a cut is marked with `…`.
    #[must_use]
    pub fn truncate(&self, cells: usize) -> Self {
        if self.width() <= cells {
            return self.clone();
        }
        if cells == 0 {
            return Self::default();
        }
        let end = fit(&self.0, cells - 1);
        Self(format!("{}…", self.0[..end].trim_end()))
    }

    /// A part of this line by bytes, on grapheme borders as [`wrap`] gives them.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self(self.0.get(range).unwrap_or_default().to_owned())
    }
}

impl fmt::Display for Clean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Clean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Clean for a terminal is not fit for a log: this is still somebody's message.
        write!(f, "Clean({} bytes)", self.0.len())
    }
}

/// The whole of a message for printing: sanitised, its lines kept.
pub fn printable(text: &Untrusted) -> String {
    let lines: Vec<String> = Clean::lines(text).into_iter().map(Clean::into_string).collect();
    lines.join("\n")
}

/// Cells that ratatui and the terminal give to a text: the sum over its graphemes.
pub fn width(text: &str) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    text.graphemes(true).map(|grapheme| usize::from(grapheme.cell_width())).sum()
}

/// Byte ranges of the lines of a text that are at most `cells` wide: breaks between words where the script allows it, inside
/// a word that is too long. White space at a break is in no line. At least one range, possibly empty.
///
/// A grapheme wider than `cells` (a CJK character in one column) is in no line.
pub fn wrap(text: &str, cells: usize) -> Vec<Range<usize>> {
    let cells = cells.max(1);
    if width(text) <= cells {
        return vec![0..text.len()];
    }
    let mut lines = Vec::new();
    // The line so far: its range without the white space after its last word, and the width with it.
    let (mut line, mut used) = (0..0, 0);
    let mut at = 0;
    for word in WordSeparator::UnicodeBreakProperties.find_words(text) {
        let (start, end) = (at, at + word.word.len());
        at = end + word.whitespace.len();
        let word_width = width(word.word);
        if used > 0 && used + word_width > cells {
            lines.push(line);
            (line, used) = (start..start, 0);
        }
        if used + word_width <= cells {
            line.end = end;
            used += word_width + width(word.whitespace);
            continue;
        }
        // Longer than a line.
        for (offset, grapheme) in word.word.grapheme_indices(true) {
            let (from, to) = (start + offset, start + offset + grapheme.len());
            let grapheme_width = usize::from(grapheme.cell_width());
            if used + grapheme_width > cells {
                if !line.is_empty() {
                    lines.push(line);
                }
                (line, used) = (from..from, 0);
            }
            if grapheme_width > cells {
                line = to..to;
                continue;
            }
            line.end = to;
            used += grapheme_width;
        }
        used += width(word.whitespace);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// How many bytes of a text fit into so many cells.
fn fit(text: &str, cells: usize) -> usize {
    let mut used = 0;
    for (at, grapheme) in text.grapheme_indices(true) {
        used += usize::from(grapheme.cell_width());
        if used > cells {
            return at;
        }
    }
    text.len()
}

/// What becomes of a character.
enum Fate {
    Keep,
    /// Invisible, and without it nothing looks different.
    Drop,
    /// A control character with a picture of its own.
    Picture(char),
    /// Shown as `<U+XXXX>`.
    Code,
    /// Only inside a visible sequence: joiners, variation selectors, tags.
    Joined,
}

fn fate(c: char) -> Fate {
    match c {
        ' '..='~' => Fate::Keep,
        '\0'..='\x1f' => Fate::Picture(char::from_u32(0x2400 + c as u32).unwrap_or('␀')),
        '\x7f' => Fate::Picture('␡'),
        // C1 controls, line and paragraph separators, bidi controls, interlinear annotation, noncharacters.
        '\u{80}'..='\u{9f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{206f}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{fdd0}'..='\u{fdef}' => Fate::Code,
        _ if (c as u32) & 0xfffe == 0xfffe => Fate::Code,
        // Zero-width and filler characters, byte order mark, soft hyphen, directional marks, invisible operators.
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2060}'..='\u{2065}'
        | '\u{3164}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{e0000}'..='\u{e001f}'
        | '\u{e0080}'..='\u{e00ff}'
        | '\u{e01f0}'..='\u{e0fff}' => Fate::Drop,
        '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0020}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}' => Fate::Joined,
        _ => Fate::Keep,
    }
}

/// Makes one line harmless. What comes out is a fixed point: sanitising it again changes nothing.
fn sanitize(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let kept = without_controls(text);
    let mut out = String::with_capacity(kept.len());
    let mut column = 0;
    for grapheme in kept.graphemes(true) {
        if grapheme == "\t" {
            let spaces = TAB - column % TAB;
            out.extend(std::iter::repeat_n(' ', spaces));
            column += spaces;
            continue;
        }
        let before = out.len();
        push_grapheme(grapheme, &mut out);
        column += width(&out[before..]);
    }
    out
}

/// First pass: characters that are never kept, whatever stands beside them. Tabs stay.
fn without_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match fate(c) {
            Fate::Keep | Fate::Joined => out.push(c),
            Fate::Drop => {}
            Fate::Picture(_) if c == '\t' => out.push(c),
            Fate::Picture(picture) => out.push(picture),
            Fate::Code => out.push_str(&code(c)),
        }
    }
    out
}

/// Second pass, with the whole cell in view: bounds the marks, keeps joiners only between two visible characters, and
/// shows the codes of marks that have nothing to stand on: they would be drawn onto whatever comes before them.
fn push_grapheme(grapheme: &str, out: &mut String) {
    if grapheme.is_ascii() {
        out.push_str(grapheme);
        return;
    }
    let chars: Vec<char> = grapheme.chars().collect();
    let flag = chars.first() == Some(&'🏴');
    let visible = |c: &char| !matches!(fate(*c), Fate::Joined) && !is_mark(*c);
    let start = out.len();
    let (mut kept, mut marks) = (0, 0);
    for (at, &c) in chars.iter().enumerate() {
        let keep = match c {
            '\u{200c}' | '\u{200d}' => kept > 0 && chars.get(at + 1).is_some_and(visible) && kept + 1 < CHARS_PER_CELL,
            '\u{e0020}'..='\u{e007f}' => flag,
            _ if !visible(&c) => {
                marks += 1;
                marks <= MARKS_PER_CELL && (kept > 0 || is_mark(c))
            }
            _ => {
                marks = 0;
                true
            }
        };
        if keep && kept < CHARS_PER_CELL {
            out.push(c);
            kept += 1;
        }
    }
    if width(&out[start..]) == 0 {
        let invisible = out.split_off(start);
        out.extend(invisible.chars().map(code));
    }
}

fn code(c: char) -> String {
    format!("<U+{:04X}>", c as u32)
}

/// Takes no cell of its own.
fn is_mark(c: char) -> bool {
    unicode_width::UnicodeWidthChar::width(c) == Some(0)
}

#[cfg(test)]
mod tests;
