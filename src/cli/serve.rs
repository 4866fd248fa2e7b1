//! `chat serve`: the server in the foreground.

use clap::Args;

use super::Globals;
use crate::client::model::{Problem, ProblemKind};

#[derive(Debug, Args)]
pub struct ServeArgs {}

/// # Errors
/// When the server could not start or stopped with an error.
pub fn run(_args: ServeArgs, _globals: &Globals) -> Result<(), Problem> {
    Err(Problem::new(ProblemKind::Failed, "this build has no server"))
}
