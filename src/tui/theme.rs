//! How things look: the sixteen colours of the user's own palette, attributes alone under `NO_COLOR`, and the signs that are drawn
//! around text. Colour never says anything alone: there is always a word or a sign too.

use ratatui::style::{Color, Modifier, Style};

use crate::protocol::ids::UserId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theme {
    colour: bool,
    pub glyphs: Glyphs,
}

/// The signs of the chrome, each one cell wide except where noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glyphs {
    pub ascii: bool,
    pub vertical: &'static str,
    pub horizontal: &'static str,
    pub cross: &'static str,
    pub tee_down: &'static str,
    pub tee_up: &'static str,
    pub tee_right: &'static str,
    pub tee_left: &'static str,
    pub corners: [&'static str; 4],
    /// Beside the selected row.
    pub bar: &'static str,
    /// Before quoted and code lines.
    pub rule: &'static str,
    pub bullet: &'static str,
    /// Delivery states, up to two cells.
    pub waiting: &'static str,
    pub sent: &'static str,
    pub delivered: &'static str,
    pub failed: &'static str,
}

impl Glyphs {
    pub const UNICODE: Self = Self {
        ascii: false,
        vertical: "│",
        horizontal: "─",
        cross: "┼",
        tee_down: "┬",
        tee_up: "┴",
        tee_right: "├",
        tee_left: "┤",
        corners: ["┌", "┐", "└", "┘"],
        bar: "▌",
        rule: "│",
        bullet: "•",
        waiting: "⏳",
        sent: "✓",
        delivered: "✓✓",
        failed: "!",
    };
    pub const ASCII: Self = Self {
        ascii: true,
        vertical: "|",
        horizontal: "-",
        cross: "+",
        tee_down: "+",
        tee_up: "+",
        tee_right: "+",
        tee_left: "+",
        corners: ["+", "+", "+", "+"],
        bar: ">",
        rule: "|",
        bullet: "*",
        waiting: "..",
        sent: "+",
        delivered: "++",
        failed: "!",
    };
}

impl Default for Theme {
    fn default() -> Self {
        Self { colour: true, glyphs: Glyphs::UNICODE }
    }
}

impl Theme {
    pub const fn new(colour: bool, ascii: bool) -> Self {
        Self { colour, glyphs: if ascii { Glyphs::ASCII } else { Glyphs::UNICODE } }
    }

    /// What the environment asks for: `NO_COLOR`, and ASCII signs where the locale is not UTF-8 or the terminal is the Linux console.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Self {
        let no_colour = var("NO_COLOR").is_some_and(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| var(name).filter(|value| !value.is_empty()));
        let utf8 = locale.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        let console = var("TERM").is_some_and(|term| term == "linux");
        Self::new(!no_colour, !utf8 || console)
    }

    fn fg(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub fn text(&self) -> Style {
        Style::new()
    }
    pub fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
    pub fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
    pub fn line(&self) -> Style {
        self.dim()
    }
    pub fn accent(&self) -> Style {
        self.fg(Color::Cyan)
    }
    pub fn selected(&self) -> Style {
        if self.colour { self.accent().add_modifier(Modifier::BOLD) } else { Style::new().add_modifier(Modifier::REVERSED) }
    }
    pub fn unread(&self) -> Style {
        self.bold()
    }
    pub fn mention(&self) -> Style {
        self.fg(Color::Yellow).add_modifier(Modifier::BOLD)
    }
    pub fn new_line(&self) -> Style {
        self.fg(Color::Red)
    }
    pub fn error(&self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }
    pub fn warning(&self) -> Style {
        self.fg(Color::Yellow).add_modifier(Modifier::BOLD)
    }
    pub fn good(&self) -> Style {
        self.fg(Color::Green)
    }
    pub fn code(&self) -> Style {
        self.fg(Color::Green)
    }
    pub fn link(&self) -> Style {
        self.fg(Color::Blue).add_modifier(Modifier::UNDERLINED)
    }
    /// A key in a hint.
    pub fn key(&self) -> Style {
        self.bold()
    }
    /// Always dark on light, also on a light theme: a camera must read it.
    pub fn qr(&self) -> Style {
        Style::new().fg(Color::Black).bg(Color::White)
    }

    /// The colour of somebody's name: the same in every session.
    pub fn name(&self, user: UserId) -> Style {
        const COLOURS: [Color; 6] =
            [Color::Cyan, Color::Green, Color::Magenta, Color::Blue, Color::LightMagenta, Color::LightBlue];
        let sum = user.as_bytes().iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        self.fg(COLOURS.get(sum % COLOURS.len()).copied().unwrap_or(Color::Reset)).add_modifier(Modifier::BOLD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_colours_and_signs() {
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            Theme::from_env(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(env(&[("LANG", "C.UTF-8")]), Theme::new(true, false));
        assert_eq!(env(&[("LANG", "de_DE.utf8"), ("NO_COLOR", "1")]), Theme::new(false, false));
        assert_eq!(env(&[("LANG", "C")]), Theme::new(true, true));
        assert_eq!(env(&[("LANG", "C.UTF-8"), ("TERM", "linux")]), Theme::new(true, true));
        assert_eq!(env(&[("LC_ALL", "C"), ("LANG", "C.UTF-8"), ("NO_COLOR", "")]), Theme::new(true, true));
    }

    #[test]
    fn no_colour_means_no_colour_at_all() {
        let theme = Theme::new(false, false);
        for style in [
            theme.accent(),
            theme.selected(),
            theme.mention(),
            theme.error(),
            theme.link(),
            theme.name(UserId::from_bytes([1; 16])),
        ] {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
