//! `chat tui`: the terminal client, a keyboard-driven view of [`crate::client`]. It knows nothing of the server's rooms, of keys and of
//! frames: it sends `Command`s and draws what `ClientEvent`s say.

pub mod command;
pub mod keymap;
pub mod markdown;
pub mod text;
pub mod theme;
pub mod time;
pub mod widget;
