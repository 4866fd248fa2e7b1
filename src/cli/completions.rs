//! `chat completions SHELL`: a script for bash, zsh, fish, elvish or PowerShell.

use std::io::Write as _;

use clap::Args;
use clap_complete::Shell;

use crate::client::model::{Problem, ProblemKind};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

/// # Errors
/// When standard output cannot be written.
pub fn run(args: CompletionsArgs) -> Result<(), Problem> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::grammar(), "chat", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot write: {error}")))
}
