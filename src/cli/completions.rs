//! `chat completions SHELL`: a script for bash, zsh, fish, elvish or PowerShell.

use std::io::Write as _;

use clap::Args;
use clap_complete::Shell;

use super::Stop;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

/// # Errors
/// When standard output cannot be written.
pub fn run(args: CompletionsArgs) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::grammar(), "chat", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
