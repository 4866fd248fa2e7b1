//! `chat tui` in a pseudo-terminal: what a person sees and does, with the real binary and a real server.

mod first_run;
mod terminal;
mod two;
