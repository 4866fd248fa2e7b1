//! The screens: what each shows and what it does with a key. They change [`App`] and ask for effects; they never wait.

pub mod act;
pub mod answer;
pub mod chat;
pub mod compose;
pub mod form;
pub mod layout;
pub mod members;
pub mod overlay;
pub mod page;
pub mod panes;
pub mod pick;
pub mod setup;

use ratatui::Frame;
use ratatui::text::Span;

use super::app::App;

pub fn view(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    if layout::too_small((area.width, area.height)) {
        frame.render_widget(Span::raw("too small"), area);
        return;
    }
    let mut cursor = match &app.setup {
        Some(setup) => setup.view(frame, area, app),
        None => panes::view(app, frame),
    };
    for overlay in &app.overlays {
        cursor = overlay.view(frame, area, app);
    }
    if app.theme.glyphs.ascii {
        // The sign for a cut is ours, so it follows the theme too.
        for cell in &mut frame.buffer_mut().content {
            if cell.symbol() == "…" {
                cell.set_symbol("~");
            }
        }
    }
    if let Some((x, y)) = cursor
        && area.contains((x, y).into())
    {
        frame.set_cursor_position((x, y));
    }
}
