//! The real binary, as scripts call it: exit codes, output, what it says to wrong input, two processes on one profile.

mod account;
mod config;
mod output;
pub mod people;
mod profiles;
mod scripts;
mod serve;
