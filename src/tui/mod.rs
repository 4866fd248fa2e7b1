//! `chat tui`: the terminal client, a keyboard-driven view of [`crate::client`].
