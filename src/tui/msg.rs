//! Everything that can happen to the terminal client, as one closed enum.

use crate::client::event::ClientEvent;
use crate::client::model::Problem;

use super::effect::SetupAnswer;
use super::keymap::Key;

#[derive(Debug)]
pub enum Msg {
    Key(Key),
    /// One insert, whatever is in it.
    Paste(String),
    /// Columns and rows.
    Resize(u16, u16),
    /// The terminal got or lost the focus.
    Focus(bool),
    /// A moment came that the app asked for ([`super::app::App::wake_at`]).
    Tick,
    Client(ClientEvent),
    Setup(Result<SetupAnswer, Problem>),
    /// Back from the background: draw everything anew.
    Resumed,
    /// A signal, or the terminal is gone: save and end.
    Quit,
}
