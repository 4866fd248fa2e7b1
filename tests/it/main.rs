//! The one integration binary. Each folder is one layer; `support` is what they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod api;
mod cli;
mod faults;
mod realtime;
mod support;
mod sync;
mod tidy;
mod tui;
