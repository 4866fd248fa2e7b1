//! `chat serve`: the server. It stores and forwards what it cannot read.

pub mod permission;
pub mod postgres;
