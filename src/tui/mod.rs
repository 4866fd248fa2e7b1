//! `chat tui`: the terminal client, a keyboard-driven view of [`crate::client`]. It knows nothing of the server's rooms, of keys and of
//! frames: it sends `Command`s and draws what `ClientEvent`s say.
//!
//! Start with [`app`]: `update` turns what happened into a new state and effects, `view` draws the state, `runtime` is the only
//! loop. [`command`] is the registry that keys, palette and help refer to; [`text`] is the door that everything from outside
//! goes through before it is drawn.

pub mod app;
pub mod command;
pub mod effect;
pub mod host;
pub mod keymap;
pub mod markdown;
pub mod msg;
pub mod runtime;
pub mod screen;
pub mod start;
pub mod terminal;
pub mod text;
pub mod theme;
pub mod time;
pub mod widget;
pub mod world;

#[cfg(test)]
mod tests;
