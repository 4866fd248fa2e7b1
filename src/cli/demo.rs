//! `chat demo`: a server and three clients at work.

use clap::Args;

use super::Globals;
use crate::client::model::{Problem, ProblemKind};

#[derive(Debug, Args)]
pub struct DemoArgs {}

/// # Errors
/// When anything that the demonstration claims did not hold.
pub fn run(_args: DemoArgs, _globals: &Globals) -> Result<(), Problem> {
    Err(Problem::new(ProblemKind::Failed, "this build has no demo"))
}
