//! `chat tui`: the terminal client.

use clap::Args;

use super::Globals;
use crate::client::model::{Problem, ProblemKind};

#[derive(Debug, Args)]
pub struct TuiArgs {}

/// # Errors
/// When the terminal cannot be used or the profile cannot be opened.
pub fn run(_args: TuiArgs, _globals: &Globals) -> Result<(), Problem> {
    Err(Problem::new(ProblemKind::Failed, "this build has no terminal client"))
}

/// Opens a profile in the terminal.
///
/// # Errors
/// When the terminal cannot be used or the profile cannot be opened.
pub async fn open(
    _directories: &crate::client::profile::Directories,
    _profile: &str,
    _passphrase: Option<crate::protocol::auth::SecretText>,
    _globals: &Globals,
) -> Result<(), Problem> {
    Err(Problem::new(ProblemKind::Failed, "this build has no terminal client"))
}
