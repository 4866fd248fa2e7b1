//! What people write → styled lines that fit a width: bold, italic, strike, code, fences, quotes, lists, links, mentions.
//!
//! The parser decodes entities (`&#27;` is ESC), so every piece of text is sanitised here, after parsing and last. A line break that
//! was typed is a line break. HTML, images and headings are shown as what they are: text.

use std::borrow::Cow;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::client::model::Untrusted;

use super::text::{Clean, wrap};
use super::theme::Theme;

/// Quotes and lists in each other beyond this are drawn at this depth.
const DEPTH_MAX: usize = 4;

/// The lines of a message, each at most `cells` wide; at least one.
pub fn render(text: &Untrusted, cells: usize, theme: &Theme, me: &str) -> Vec<Line<'static>> {
    let mut renderer = Renderer {
        theme,
        me,
        cells: cells.max(1),
        lines: Vec::new(),
        spans: Vec::new(),
        styles: vec![theme.text()],
        prefixes: Vec::new(),
        lists: Vec::new(),
        link: None,
        in_code: false,
        blank_due: false,
    };
    let source = visible_returns(text.raw());
    for event in Parser::new_ext(&source, Options::ENABLE_STRIKETHROUGH) {
        renderer.event(event);
    }
    renderer.flush();
    if renderer.lines.is_empty() {
        renderer.lines.push(Line::default());
    }
    renderer.lines
}

/// The beginning of a message on one line of at most `cells` cells, as it reads: without its markup. For quotes, titles and lists.
pub fn preview(text: &Untrusted, cells: usize) -> Clean {
    // No cell needs more than 64 bytes, and a quote of a long message must not cost a pass over all of it.
    let raw = text.raw();
    let source = visible_returns(raw.get(..raw.floor_char_boundary(cells.saturating_mul(64).max(256))).unwrap_or(raw));
    let mut line = String::new();
    let mut link = None;
    for event in Parser::new_ext(&source, Options::ENABLE_STRIKETHROUGH) {
        match event {
            Event::Text(text) | Event::Code(text) | Event::Html(text) | Event::InlineHtml(text) => line.push_str(&text),
            Event::Start(Tag::BlockQuote(_)) => line.push_str("> "),
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => link = Some((dest_url, line.len())),
            Event::End(TagEnd::Link | TagEnd::Image) => {
                if let Some((url, from)) =
                    link.take().filter(|(url, from)| !is_address(line.get(*from..).unwrap_or_default(), url))
                {
                    let gap = if line.len() == from { "" } else { " " };
                    line.push_str(&format!("{gap}<{url}>"));
                }
            }
            Event::SoftBreak
            | Event::HardBreak
            | Event::Rule
            | Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::Item | TagEnd::CodeBlock | TagEnd::HtmlBlock) => {
                line.push(' ')
            }
            _ => {}
        }
    }
    Clean::preview(&Untrusted::new(line), cells)
}

/// Whether a link's text is its target: then there is nothing more to say.
fn is_address(text: &str, url: &str) -> bool {
    text.trim_end_matches('/') == url.trim_end_matches('/') || url.strip_prefix("mailto:") == Some(text)
}

/// The parser takes a lone carriage return for a line break, which would hide that somebody sent one.
fn visible_returns(text: &str) -> Cow<'_, str> {
    if !text.contains('\r') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace("\r\n", "\n").replace('\r', "␍"))
}

/// What stands before every line of a block.
struct Prefix {
    first: String,
    rest: String,
    style: Style,
    used: bool,
}

struct Renderer<'a> {
    theme: &'a Theme,
    me: &'a str,
    cells: usize,
    lines: Vec<Line<'static>>,
    /// The logical line so far.
    spans: Vec<(Clean, Style)>,
    styles: Vec<Style>,
    prefixes: Vec<Prefix>,
    /// The next number of each open list; none for bullets.
    lists: Vec<Option<u64>>,
    /// Where the open link goes, and the text it was given.
    link: Option<(String, String)>,
    in_code: bool,
    blank_due: bool,
}

impl Renderer<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(text) => self.push(Clean::ours(text.as_ref()), self.theme.code()),
            Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::SoftBreak | Event::HardBreak => self.end_line(),
            Event::Rule => {
                self.block();
                let rule = self.theme.glyphs.horizontal.repeat(self.room().min(20));
                self.push(Clean::ours(rule), self.theme.dim());
                self.flush();
                self.blank_due = true;
            }
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => self.text(&text),
            Event::TaskListMarker(done) => self.text(if done { "[x] " } else { "[ ] " }),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph => self.block(),
            Tag::Heading { .. } => {
                self.block();
                self.style(self.theme.bold());
            }
            Tag::BlockQuote(_) => {
                self.touching_block();
                let rule = format!("{} ", self.theme.glyphs.rule);
                self.prefix(rule.clone(), rule, self.theme.dim());
                self.style(self.theme.dim());
            }
            Tag::CodeBlock(_) => {
                self.touching_block();
                self.in_code = true;
                let rule = format!("{} ", self.theme.glyphs.rule);
                self.prefix(rule.clone(), rule, self.theme.dim());
            }
            Tag::List(first) => {
                if self.lists.is_empty() {
                    self.block();
                } else {
                    self.flush();
                }
                self.lists.push(first);
            }
            Tag::Item => {
                self.flush();
                self.blank_due = false;
                let bullet = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        let shown = format!("{number}. ");
                        *number = number.saturating_add(1);
                        shown
                    }
                    _ => format!("{} ", self.theme.glyphs.bullet),
                };
                let indent = " ".repeat(bullet.chars().count());
                self.prefix(bullet, indent, self.theme.dim());
            }
            Tag::Emphasis => self.style(Style::new().add_modifier(Modifier::ITALIC)),
            Tag::Strong => self.style(self.theme.bold()),
            Tag::Strikethrough => self.style(Style::new().add_modifier(Modifier::CROSSED_OUT)),
            Tag::Link { dest_url, .. } => {
                self.link = Some((dest_url.into_string(), String::new()));
                self.style(self.theme.link());
            }
            Tag::Image { dest_url, .. } => {
                self.link = Some((dest_url.into_string(), String::new()));
                self.style(self.theme.dim());
                self.text("[image] ");
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph => {
                self.flush();
                self.blank_due = true;
            }
            TagEnd::Heading(_) => {
                self.flush();
                self.styles.pop();
                self.blank_due = true;
            }
            TagEnd::BlockQuote(_) => {
                self.flush();
                self.prefixes.pop();
                self.styles.pop();
                self.blank_due = false;
            }
            TagEnd::CodeBlock => {
                self.flush();
                self.prefixes.pop();
                self.in_code = false;
                self.blank_due = false;
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
                self.blank_due = self.lists.is_empty();
            }
            TagEnd::Item => {
                self.flush();
                self.prefixes.pop();
                self.blank_due = false;
            }
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => {
                self.styles.pop();
            }
            TagEnd::Link | TagEnd::Image => {
                self.styles.pop();
                if let Some((url, text)) = self.link.take() {
                    // The real target is always in sight: a text that looks like an address may lie.
                    if !is_address(&text, &url) {
                        self.push(Clean::ours(format!(" <{url}>")), self.theme.dim());
                    }
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_code {
            let mut lines = text.split('\n').peekable();
            while let Some(line) = lines.next() {
                if lines.peek().is_none() && line.is_empty() {
                    break;
                }
                self.push(Clean::ours(line.strip_suffix('\r').unwrap_or(line)), self.theme.code());
                if lines.peek().is_some() {
                    self.end_line();
                }
            }
            return;
        }
        if let Some((_, shown)) = &mut self.link {
            shown.push_str(text);
        }
        let mut lines = text.split('\n').peekable();
        while let Some(line) = lines.next() {
            self.mentions(line);
            if lines.peek().is_some() {
                self.end_line();
            }
        }
    }

    /// Words that begin with `@` stand out, the reader's own name more.
    fn mentions(&mut self, text: &str) {
        let base = self.styles.last().copied().unwrap_or_default();
        let mut plain = 0;
        let mut after_word = false;
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '@' && !after_word {
                let name = text[at + 1..].chars().take_while(|c| is_name(*c)).map(char::len_utf8).sum::<usize>();
                // A full stop ends a sentence, not a name.
                let end = at + 1 + text[at + 1..at + 1 + name].trim_end_matches(['.', '-']).len();
                if end > at + 1 {
                    self.push(Clean::ours(&text[plain..at]), base);
                    let mine = text[at + 1..end].eq_ignore_ascii_case(self.me);
                    let style = if mine { self.theme.mention() } else { self.theme.accent() };
                    self.push(Clean::ours(&text[at..end]), base.patch(style));
                    plain = end;
                    while chars.clone().next().is_some_and(|(next, _)| next < end) {
                        chars.next();
                    }
                }
            }
            after_word = c.is_alphanumeric();
        }
        self.push(Clean::ours(&text[plain..]), base);
    }

    fn push(&mut self, text: Clean, style: Style) {
        if !text.is_empty() {
            self.spans.push((text, style));
        }
    }

    fn style(&mut self, style: Style) {
        let base = self.styles.last().copied().unwrap_or_default();
        self.styles.push(base.patch(style));
    }

    fn prefix(&mut self, first: String, rest: String, style: Style) {
        self.prefixes.push(Prefix { first, rest, style, used: false });
    }

    /// The beginning of a block: what came before is finished, an empty line between them.
    fn block(&mut self) {
        self.flush();
        if std::mem::take(&mut self.blank_due) && !self.lines.is_empty() {
            let prefix = self.prefix_spans(false);
            self.lines.push(Line::from(prefix));
        }
    }

    /// The beginning of a quote or of code: its rule sets it off, an empty line would be too much.
    fn touching_block(&mut self) {
        self.flush();
        self.blank_due = false;
    }

    /// Ends a logical line that is in progress.
    fn flush(&mut self) {
        if !self.spans.is_empty() {
            self.end_line();
        }
    }

    /// Wraps the logical line, which may be empty.
    fn end_line(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        let text: String = spans.iter().map(|(span, _)| span.as_str()).collect();
        let room = self.room();
        for range in wrap(&text, room) {
            let mut line = self.prefix_spans(true);
            let mut start = 0;
            for (span, style) in &spans {
                let end = start + span.as_str().len();
                let (from, to) = (range.start.max(start), range.end.min(end));
                if from < to {
                    line.push(Span::styled(span.slice(from - start..to - start).into_string(), *style));
                }
                start = end;
            }
            self.lines.push(Line::from(line));
        }
    }

    /// Cells for text beside the prefixes.
    fn room(&self) -> usize {
        let prefixes: usize = self.visible_prefixes().map(|prefix| prefix.rest.chars().count()).sum();
        if prefixes + 8 > self.cells { self.cells } else { self.cells - prefixes }
    }

    fn visible_prefixes(&self) -> impl Iterator<Item = &Prefix> {
        self.prefixes.iter().take(DEPTH_MAX)
    }

    fn prefix_spans(&mut self, use_first: bool) -> Vec<Span<'static>> {
        // Too narrow for ornaments: the text matters more.
        let show = self.room() < self.cells;
        let mut spans = Vec::new();
        for prefix in self.prefixes.iter_mut().take(DEPTH_MAX) {
            if !show {
                break;
            }
            let text = if use_first && !prefix.used { prefix.first.clone() } else { prefix.rest.clone() };
            prefix.used |= use_first;
            spans.push(Span::styled(text, prefix.style));
        }
        spans
    }
}

/// Characters of a username.
pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tui::text::width;

    fn plain(text: &str, cells: usize) -> Vec<String> {
        render(&Untrusted::new(text), cells, &Theme::default(), "ana")
            .iter()
            .map(|line| line.spans.iter().map(|span| span.content.as_ref()).collect())
            .collect()
    }

    fn styles(text: &str) -> Vec<(String, Style)> {
        render(&Untrusted::new(text), 80, &Theme::default(), "ana")
            .into_iter()
            .flat_map(|line| line.spans)
            .map(|span| (span.content.into_owned(), span.style))
            .collect()
    }

    #[test]
    fn emphasis_becomes_attributes() {
        let theme = Theme::default();
        assert_eq!(
            styles("a **b** *c* ~~d~~ `e`"),
            [
                ("a ".to_owned(), Style::new()),
                ("b".to_owned(), theme.bold()),
                (" ".to_owned(), Style::new()),
                ("c".to_owned(), Style::new().add_modifier(Modifier::ITALIC)),
                (" ".to_owned(), Style::new()),
                ("d".to_owned(), Style::new().add_modifier(Modifier::CROSSED_OUT)),
                (" ".to_owned(), Style::new()),
                ("e".to_owned(), theme.code()),
            ]
        );
    }

    #[test]
    fn typed_line_breaks_stay() {
        assert_eq!(plain("one\ntwo\n\nthree", 40), ["one", "two", "", "three"]);
    }

    #[test]
    fn code_keeps_its_spaces_and_is_not_markdown() {
        assert_eq!(plain("look:\n```sh\nif *x*\n\n\tthen\n```\ndone", 40), ["look:", "│ if *x*", "│ ", "│     then", "done"]);
    }

    #[test]
    fn quotes_and_lists_wrap_under_themselves() {
        assert_eq!(plain("> one two three four five", 14), ["│ one two", "│ three four", "│ five"]);
        assert_eq!(plain("- one two three\n- four", 10), ["• one two", "  three", "• four"]);
        assert_eq!(plain("3. a\n4. b\n   - c", 20), ["3. a", "4. b", "   • c"]);
    }

    #[test]
    fn a_link_shows_where_it_goes() {
        assert_eq!(plain("[bank](https://evil.example)", 60), ["bank <https://evil.example>"]);
        assert_eq!(plain("<https://chat.example>", 60), ["https://chat.example"]);
        assert_eq!(plain("[x](https://a\u{202e}b)", 60), ["x <https://a<U+202E>b>"]);
    }

    #[test]
    fn a_preview_reads_as_the_message_does() {
        let preview = |text: &str| preview(&Untrusted::new(text), 60).into_string();
        assert_eq!(preview("who has the **pager** *tonight*, ~~bo~~ `ana`?"), "who has the pager tonight, bo ana?");
        assert_eq!(preview("log:\n```sh\nls -l\n\nrm *x*\n```\ndone"), "log: ls -l rm *x* done");
        assert_eq!(preview("> so\n\n- one\n- two\n\n# end"), "> so one two end");
        assert_eq!(preview("[bank](https://evil.example) <https://a.example>"), "bank <https://evil.example> https://a.example");
        assert_eq!(preview("&#27;[2J \u{202e}x"), "␛[2J <U+202E>x");
        assert_eq!(preview("**not closed"), "**not closed");
        assert_eq!(preview(&"x".repeat(1_000_000)).chars().count(), 60);
    }

    #[test]
    fn an_entity_cannot_become_a_control_character() {
        assert_eq!(plain("&#27;[2J &#x9b;1m", 40), ["␛[2J <U+009B>1m"]);
    }

    #[test]
    fn mentions_stand_out_and_the_own_one_more() {
        let theme = Theme::default();
        assert_eq!(
            styles("@bo.\nana@x @ana"),
            [
                ("@bo".to_owned(), theme.accent()),
                (".".to_owned(), Style::new()),
                ("ana@x ".to_owned(), Style::new()),
                ("@ana".to_owned(), theme.mention()),
            ]
        );
    }

    #[test]
    fn a_carriage_return_starts_no_line() {
        assert_eq!(plain("one\r\ntwo\rana 14:02", 40), ["one", "two␍ana 14:02"]);
    }

    #[test]
    fn html_is_text() {
        assert_eq!(plain("<b>x</b>", 40), ["<b>x</b>"]);
    }

    #[test]
    fn deep_nesting_is_drawn_flat() {
        let lines = plain(&format!("{}deep", "> ".repeat(500)), 20);
        assert!(lines.iter().all(|line| width(line) <= 20));
        assert!(lines.concat().contains("deep"));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked_and_none_holds_a_control(text in "[a-z *_`~>#\\-\\[\\]()@0-9.!&;|<\n\t\u{1b}\u{202e}日👩\u{200d}]{0,80}", cells in 1_usize..60) {
            for line in plain(&text, cells) {
                prop_assert!(width(&line) <= cells, "{line:?} in {cells}");
                let hidden = |c: char| c.is_control() || c == '\u{202e}';
                prop_assert!(!line.chars().any(hidden));
            }
        }
    }
}
