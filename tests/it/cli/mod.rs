//! The real binary: what it says to wrong input, and what it survives.

mod config;
mod serve;
