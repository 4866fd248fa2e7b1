//! A box over the screen, with a title and keys below.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;

use crate::tui::text::{Clean, width};
use crate::tui::theme::Theme;

/// Empties an area for what is drawn over it. A wide character that begins left of it would keep one half of itself, so that goes
/// too.
pub fn clear(frame: &mut Frame<'_>, area: Rect) {
    frame.render_widget(Clear, area);
    let Some(left) = area.x.checked_sub(1) else { return };
    for y in area.y..area.bottom() {
        if let Some(cell) = frame.buffer_mut().cell_mut((left, y)).filter(|cell| width(cell.symbol()) > 1) {
            cell.set_symbol(" ");
        }
    }
}

/// Clears and frames a box in the middle, at most this large; gives what is inside. A screen too small for a frame has none.
pub fn open(frame: &mut Frame<'_>, screen: Rect, size: (u16, u16), title: &str, keys: &str, theme: &Theme) -> Rect {
    let columns = size.0.saturating_add(4).min(screen.width);
    let rows = size.1.saturating_add(2).min(screen.height);
    let (x, y) = (screen.x + (screen.width - columns) / 2, screen.y + (screen.height - rows) / 3);
    let area = Rect { x, y, width: columns, height: rows };
    clear(frame, area);
    if area.height < 3 || area.width < 10 {
        return area;
    }
    let glyphs = &theme.glyphs;
    let room = usize::from(area.width) - 4;
    let edge = |corners: (&str, &str), words: &str, style| {
        let words = Clean::ours(words).truncate(room.saturating_sub(1));
        let words = if words.is_empty() { String::new() } else { format!(" {words} ") };
        let rest = (usize::from(area.width) - 3).saturating_sub(width(&words));
        Line::from(vec![
            Span::styled(format!("{}{}", corners.0, glyphs.horizontal), theme.line()),
            Span::styled(words, style),
            Span::styled(format!("{}{}", glyphs.horizontal.repeat(rest), corners.1), theme.line()),
        ])
    };
    let [top_left, top_right, bottom_left, bottom_right] = glyphs.corners;
    frame.render_widget(edge((top_left, top_right), title, theme.bold()), Rect { height: 1, ..area });
    frame.render_widget(edge((bottom_left, bottom_right), keys, theme.dim()), Rect { y: area.bottom() - 1, height: 1, ..area });
    for y in area.y + 1..area.bottom() - 1 {
        for x in [area.x, area.right() - 1] {
            frame.render_widget(Span::styled(glyphs.vertical, theme.line()), Rect { x, y, width: 1, height: 1 });
        }
    }
    Rect { x: area.x + 2, y: area.y + 1, width: area.width - 4, height: area.height - 2 }
}

/// Draws lines from the top of an area, as many as fit.
pub fn lines<'a>(frame: &mut Frame<'_>, area: Rect, lines: impl IntoIterator<Item = Line<'a>>) {
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}
