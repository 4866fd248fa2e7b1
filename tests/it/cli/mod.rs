//! The real binary, as scripts call it: exit codes, output, what it says to wrong input, two processes on one profile.

mod account;
mod config;
mod demo;
mod doctor;
mod hostile;
mod output;
pub mod people;
mod profiles;
mod prompts;
mod scripts;
mod secrets;
mod serve;
