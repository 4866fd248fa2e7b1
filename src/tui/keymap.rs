//! Keys are data: (context, key sequence) → [`Action`]. One table makes dispatch, the help and the hints.
//!
//! Composer keys are readline's; a chat meaning holds only where readline's is a no-op or when the messages have the focus. Every
//! Alt key has a twin without Alt, since some terminals swallow it.

use std::fmt;
use std::str::FromStr;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::command::Action;

/// What has the focus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Context {
    /// Everywhere, also in dialogs.
    Always,
    /// In the main screen, whatever has the focus there.
    Main,
    Composer,
    History,
    Tree,
    /// A list with a line to filter it.
    Picker,
    Form,
    /// A question that is answered by yes or no.
    Question,
    /// A page to read.
    Page,
    /// Wherever text is typed.
    Text,
}

impl Context {
    pub const ALL: [Self; 10] = [
        Self::Composer,
        Self::Text,
        Self::History,
        Self::Tree,
        Self::Picker,
        Self::Form,
        Self::Question,
        Self::Page,
        Self::Main,
        Self::Always,
    ];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Always => "everywhere",
            Self::Main => "main",
            Self::Composer => "writing",
            Self::History => "messages",
            Self::Tree => "channels",
            Self::Picker => "lists",
            Self::Form => "forms",
            Self::Question => "questions",
            Self::Page => "pages",
            Self::Text => "editing",
        }
    }
}

/// One key press: `ctrl-k`, `alt-up`, `G`, `space`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub code: KeyCode,
    pub mods: KeyModifiers,
}

impl From<KeyEvent> for Key {
    fn from(event: KeyEvent) -> Self {
        let mut mods = event.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
        let mut code = event.code;
        match code {
            // The letter says already that shift was held.
            KeyCode::Char(c) => {
                if mods.contains(KeyModifiers::SHIFT) && c.is_lowercase() && !mods.contains(KeyModifiers::CONTROL) {
                    code = KeyCode::Char(c.to_uppercase().next().unwrap_or(c));
                }
                mods -= KeyModifiers::SHIFT;
                // How terminals without modern key reports send these two.
                if mods == KeyModifiers::CONTROL {
                    code = match code {
                        KeyCode::Char('7') => KeyCode::Char('_'),
                        KeyCode::Char('5') => KeyCode::Char(']'),
                        other => other,
                    };
                }
            }
            KeyCode::BackTab => mods -= KeyModifiers::SHIFT,
            _ => {}
        }
        Self { code, mods }
    }
}

impl Key {
    /// The character that this key types, if it types one.
    pub fn text(self) -> Option<char> {
        match self.code {
            KeyCode::Char(c) if (self.mods - KeyModifiers::SHIFT).is_empty() => Some(c),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadKey(pub String);

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let bad = || BadKey(text.to_owned());
        let mut mods = KeyModifiers::NONE;
        let mut rest = text;
        while let Some((name, tail)) = rest.split_once('-').filter(|(_, tail)| !tail.is_empty()) {
            mods |= match name {
                "ctrl" => KeyModifiers::CONTROL,
                "alt" => KeyModifiers::ALT,
                "shift" => KeyModifiers::SHIFT,
                _ => return Err(bad()),
            };
            rest = tail;
        }
        let mut chars = rest.chars();
        let code = match (chars.next(), chars.next()) {
            (Some(c), None) => KeyCode::Char(c),
            _ => match rest {
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                "tab" => KeyCode::Tab,
                "backtab" => KeyCode::BackTab,
                "space" => KeyCode::Char(' '),
                "backspace" => KeyCode::Backspace,
                "delete" => KeyCode::Delete,
                "up" => KeyCode::Up,
                "down" => KeyCode::Down,
                "left" => KeyCode::Left,
                "right" => KeyCode::Right,
                "home" => KeyCode::Home,
                "end" => KeyCode::End,
                "pageup" => KeyCode::PageUp,
                "pagedown" => KeyCode::PageDown,
                _ => match rest.strip_prefix('f').and_then(|number| number.parse().ok()) {
                    Some(number) => KeyCode::F(number),
                    None => return Err(bad()),
                },
            },
        };
        Ok(Self { code, mods })
    }
}

impl fmt::Display for Key {
    /// As help and hints show it: `Ctrl-K`, `Alt-Up`, `G`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, name) in [(KeyModifiers::CONTROL, "Ctrl-"), (KeyModifiers::ALT, "Alt-"), (KeyModifiers::SHIFT, "Shift-")] {
            if self.mods.contains(flag) {
                f.write_str(name)?;
            }
        }
        match self.code {
            KeyCode::Char(' ') => f.write_str("Space"),
            KeyCode::Char(c) if self.mods.is_empty() => write!(f, "{c}"),
            KeyCode::Char(c) => write!(f, "{}", c.to_uppercase()),
            KeyCode::F(number) => write!(f, "F{number}"),
            KeyCode::PageUp => f.write_str("PgUp"),
            KeyCode::PageDown => f.write_str("PgDn"),
            KeyCode::BackTab => f.write_str("Shift-Tab"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A sequence of keys, as shown: `g g`, `Ctrl-K`.
pub fn show(keys: &[Key]) -> String {
    keys.iter().map(Key::to_string).collect::<Vec<_>>().join(" ")
}

/// A sequence written with spaces.
pub fn parse(text: &str) -> Result<Vec<Key>, BadKey> {
    text.split_whitespace().map(str::parse).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub context: Context,
    pub keys: Vec<Key>,
    pub action: Action,
}

/// What pressed keys mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Action(Action),
    /// The beginning of a longer sequence.
    Prefix,
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keymap {
    pub bindings: Vec<Binding>,
}

impl Default for Keymap {
    fn default() -> Self {
        let bindings = DEFAULTS
            .iter()
            .flat_map(|(context, action, sequences)| {
                // The table is checked by a test; a sequence that does not parse would be left out here.
                sequences.split(" | ").filter_map(move |sequence| {
                    parse(sequence).ok().map(|keys| Binding { context: *context, keys, action: *action })
                })
            })
            .collect();
        Self { bindings }
    }
}

impl Keymap {
    /// The meaning of the keys in the first of these contexts that knows them.
    pub fn lookup(&self, contexts: &[Context], keys: &[Key]) -> Lookup {
        for context in contexts {
            let mut found = Lookup::Nothing;
            for binding in self.bindings.iter().filter(|binding| binding.context == *context) {
                if binding.keys == keys {
                    return Lookup::Action(binding.action);
                }
                if binding.keys.starts_with(keys) {
                    found = Lookup::Prefix;
                }
            }
            if found != Lookup::Nothing {
                return found;
            }
        }
        Lookup::Nothing
    }

    /// The first key of an action in these contexts, as hints show it.
    pub fn hint(&self, contexts: &[Context], action: Action) -> Option<String> {
        contexts.iter().find_map(|context| {
            let mut bindings = self.bindings.iter();
            bindings.find(|binding| binding.context == *context && binding.action == action).map(|binding| show(&binding.keys))
        })
    }
}

use Action as A;
use Context as C;

#[rustfmt::skip]
const DEFAULTS: &[(Context, Action, &str)] = &[
    (C::Always, A::Quit, "ctrl-q"),
    (C::Always, A::Suspend, "ctrl-z"),
    (C::Always, A::Redraw, "ctrl-l"),
    (C::Always, A::Cancel, "ctrl-c"),

    (C::Main, A::Switch, "ctrl-g | alt-g"),
    (C::Main, A::Palette, "alt-x | f9"),
    (C::Main, A::Help, "f1"),
    (C::Main, A::ToggleTree, "f2"),
    (C::Main, A::ToggleThread, "f3 | ctrl-]"),
    (C::Main, A::Search, "f4"),
    (C::Main, A::Members, "f5"),
    (C::Main, A::Outbox, "f6"),
    (C::Main, A::NextUnread, "alt-a | f7"),
    (C::Main, A::Safety, "f8"),
    (C::Main, A::Reconnect, "f12"),
    (C::Main, A::PreviousChannel, "alt-up"),
    (C::Main, A::NextChannel, "alt-down"),
    (C::Main, A::MarkRead, "alt-l"),
    (C::Main, A::Community1, "alt-1"),
    (C::Main, A::Community2, "alt-2"),
    (C::Main, A::Community3, "alt-3"),
    (C::Main, A::Community4, "alt-4"),
    (C::Main, A::Community5, "alt-5"),
    (C::Main, A::Community6, "alt-6"),
    (C::Main, A::Community7, "alt-7"),
    (C::Main, A::Community8, "alt-8"),
    (C::Main, A::Community9, "alt-9"),
    (C::Main, A::PageUp, "pageup"),
    (C::Main, A::PageDown, "pagedown"),

    (C::Composer, A::Send, "enter"),
    (C::Composer, A::Newline, "alt-enter | ctrl-j | shift-enter"),
    (C::Composer, A::FocusHistory, "esc"),
    (C::Composer, A::Complete, "tab"),
    (C::Composer, A::KillOrSwitch, "ctrl-k"),

    (C::History, A::Up, "k | up"),
    (C::History, A::Down, "j | down"),
    (C::History, A::PageUp, "ctrl-u | ctrl-b | pageup"),
    (C::History, A::PageDown, "ctrl-d | ctrl-f | pagedown"),
    (C::History, A::Top, "g g | home"),
    (C::History, A::Bottom, "G | end"),
    (C::History, A::PreviousSender, "{"),
    (C::History, A::NextSender, "}"),
    (C::History, A::PreviousDay, "[ d"),
    (C::History, A::NextDay, "] d"),
    (C::History, A::FocusComposer, "i | tab"),
    // Pressed once more to be sure, it must not lead back to where letters are text.
    (C::History, A::Close, "esc"),
    (C::History, A::Reply, "r"),
    (C::History, A::OpenThread, "t | enter"),
    (C::History, A::Edit, "e"),
    (C::History, A::Delete, "d"),
    (C::History, A::React, "a | +"),
    (C::History, A::Copy, "y"),
    (C::History, A::QuoteText, ">"),
    (C::History, A::GoToQuoted, "p"),
    (C::History, A::FirstUnread, "u"),
    (C::History, A::Retry, "R"),
    (C::History, A::Discard, "D"),
    (C::History, A::Details, "o"),
    (C::History, A::Search, "/"),
    (C::History, A::Switch, "ctrl-k"),
    (C::History, A::Palette, ":"),
    (C::History, A::Help, "?"),
    (C::History, A::NextUnread, "g a"),
    (C::History, A::MarkRead, "g r"),
    (C::History, A::PreviousChannel, "g k"),
    (C::History, A::NextChannel, "g j"),
    (C::History, A::Community1, "g 1"),
    (C::History, A::Community2, "g 2"),
    (C::History, A::Community3, "g 3"),
    (C::History, A::Community4, "g 4"),
    (C::History, A::Community5, "g 5"),
    (C::History, A::Community6, "g 6"),
    (C::History, A::Community7, "g 7"),
    (C::History, A::Community8, "g 8"),
    (C::History, A::Community9, "g 9"),

    (C::Tree, A::Up, "k | up"),
    (C::Tree, A::Down, "j | down"),
    (C::Tree, A::PageUp, "ctrl-u | pageup"),
    (C::Tree, A::PageDown, "ctrl-d | pagedown"),
    (C::Tree, A::Top, "g g | home"),
    (C::Tree, A::Bottom, "G | end"),
    (C::Tree, A::Accept, "enter | l | right"),
    (C::Tree, A::FocusComposer, "esc | i | tab"),
    (C::Tree, A::Search, "/"),
    (C::Tree, A::Switch, "ctrl-k"),
    (C::Tree, A::Palette, ":"),
    (C::Tree, A::Help, "?"),

    (C::Picker, A::Accept, "enter"),
    (C::Picker, A::Close, "esc"),
    (C::Picker, A::Up, "up | ctrl-p | backtab"),
    (C::Picker, A::Down, "down | ctrl-n | tab"),
    (C::Picker, A::PageUp, "pageup"),
    (C::Picker, A::PageDown, "pagedown"),

    (C::Form, A::Accept, "enter"),
    (C::Form, A::Close, "esc"),
    (C::Form, A::NextField, "tab | down"),
    (C::Form, A::PreviousField, "backtab | up"),

    (C::Question, A::Yes, "y | enter"),
    (C::Question, A::No, "n | esc | q"),

    (C::Page, A::Close, "esc | q | enter"),
    (C::Page, A::Up, "k | up"),
    (C::Page, A::Down, "j | down"),
    (C::Page, A::PageUp, "ctrl-u | pageup"),
    (C::Page, A::PageDown, "ctrl-d | pagedown | space"),
    (C::Page, A::Copy, "y"),
    (C::Page, A::ShowCode, "c"),
    (C::Page, A::Verify, "v"),
    (C::Page, A::Unverify, "u"),
    (C::Page, A::Yes, "a"),
    (C::Page, A::AcceptAndSend, "A"),

    (C::Text, A::CharLeft, "left | ctrl-b"),
    (C::Text, A::CharRight, "right | ctrl-f"),
    (C::Text, A::WordLeft, "alt-b | ctrl-left | alt-left"),
    (C::Text, A::WordRight, "alt-f | ctrl-right | alt-right"),
    (C::Text, A::LineStart, "ctrl-a | home"),
    (C::Text, A::LineEnd, "ctrl-e | end"),
    (C::Text, A::LineUp, "up | ctrl-p"),
    (C::Text, A::LineDown, "down | ctrl-n"),
    (C::Text, A::DeleteBack, "backspace | ctrl-h"),
    (C::Text, A::DeleteForward, "delete | ctrl-d"),
    (C::Text, A::DeleteWordBack, "ctrl-w | alt-backspace"),
    (C::Text, A::DeleteWordForward, "alt-d"),
    (C::Text, A::KillToStart, "ctrl-u"),
    (C::Text, A::KillToEnd, "ctrl-k"),
    (C::Text, A::Yank, "ctrl-y"),
    (C::Text, A::Transpose, "ctrl-t"),
    (C::Text, A::Undo, "ctrl-_"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::command::COMMANDS;

    #[test]
    fn every_sequence_of_the_table_parses() {
        for (_, action, sequences) in DEFAULTS {
            for sequence in sequences.split(" | ") {
                assert!(parse(sequence).is_ok_and(|keys| !keys.is_empty()), "{action:?}: {sequence}");
            }
        }
    }

    #[test]
    fn no_key_means_two_things_and_none_hides_a_longer_one() {
        let map = Keymap::default();
        for (at, one) in map.bindings.iter().enumerate() {
            for other in map.bindings.iter().skip(at + 1).filter(|other| other.context == one.context) {
                let clash = one.keys.starts_with(&other.keys) || other.keys.starts_with(&one.keys);
                assert!(!clash, "{:?}: {} and {}", one.context, show(&one.keys), show(&other.keys));
            }
        }
    }

    #[test]
    fn every_command_has_a_key_or_a_name() {
        let map = Keymap::default();
        for spec in COMMANDS {
            let bound = map.bindings.iter().any(|binding| binding.action == spec.action);
            assert!(bound || spec.named, "{} can be reached by nobody", spec.name);
        }
    }

    #[test]
    fn every_alt_key_has_a_twin_without_alt() {
        let map = Keymap::default();
        for binding in map.bindings.iter().filter(|binding| binding.keys.iter().any(|key| key.mods.contains(KeyModifiers::ALT))) {
            let twin = map.bindings.iter().any(|other| {
                other.action == binding.action && !other.keys.iter().any(|key| key.mods.contains(KeyModifiers::ALT))
            });
            let named = crate::tui::command::spec(binding.action).is_some_and(|spec| spec.named);
            let editing = binding.context == Context::Text;
            assert!(twin || named || editing, "{}", show(&binding.keys));
        }
    }

    #[test]
    fn keys_read_as_they_are_written() {
        for (text, shown) in [
            ("ctrl-k", "Ctrl-K"),
            ("alt-enter", "Alt-Enter"),
            ("G", "G"),
            ("f1", "F1"),
            ("g g", "g g"),
            ("-", "-"),
            ("ctrl-_", "Ctrl-_"),
        ] {
            assert_eq!(show(&parse(text).unwrap()), shown);
        }
        assert!(parse("hyper-x").is_err());
    }

    #[test]
    fn what_old_terminals_send_is_understood() {
        let key = |code, mods| Key::from(KeyEvent::new(code, mods));
        assert_eq!(key(KeyCode::Char('7'), KeyModifiers::CONTROL), "ctrl-_".parse().unwrap());
        assert_eq!(key(KeyCode::Char('G'), KeyModifiers::SHIFT), "G".parse().unwrap());
        assert_eq!(key(KeyCode::BackTab, KeyModifiers::SHIFT), "backtab".parse().unwrap());
    }

    #[test]
    fn the_nearest_context_wins() {
        let map = Keymap::default();
        let keys = parse("ctrl-k").unwrap();
        assert_eq!(map.lookup(&[Context::Composer, Context::Text, Context::Main], &keys), Lookup::Action(Action::KillOrSwitch));
        assert_eq!(map.lookup(&[Context::History, Context::Main], &keys), Lookup::Action(Action::Switch));
        assert_eq!(map.lookup(&[Context::History], &parse("g").unwrap()), Lookup::Prefix);
        assert_eq!(map.lookup(&[Context::History], &parse("g x").unwrap()), Lookup::Nothing);
    }
}
