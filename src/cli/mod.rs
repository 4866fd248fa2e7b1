//! The command line: one file for each subcommand, and here the grammar, the exit codes and what every subcommand shares.
//!
//! A subcommand is a plain function `run(args, &Globals) -> Result<(), Problem>`; the kind of the [`Problem`] is the exit
//! code. No subcommand prints text from outside except through `tui::text`, takes a secret from `argv`, or prompts when
//! `--no-input` is given.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::client::model::{Problem, ProblemKind};

pub mod completions;
pub mod demo;
pub mod serve;
pub mod tui;
pub mod version;

/// Self-hosted, end-to-end encrypted chat for people who live in terminals.
#[derive(Debug, Parser)]
#[command(name = "chat", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 login, 5 permission, 6 rate limited, 7 network, \
                        8 encryption or verification, 9 locked, 129/130/143 ended by a signal.")]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand knows.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Which account on this machine: letters, digits, dot, dash and underscore
    #[arg(long, global = true, env = "CHAT_PROFILE", default_value = "default", value_name = "NAME")]
    pub profile: String,
    /// Configuration file instead of the one in $XDG_CONFIG_HOME/chat
    #[arg(long, global = true, env = "CHAT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Machine-readable output: one JSON object a line, errors too (docs/CLI.md)
    #[arg(long, global = true)]
    pub json: bool,
    /// Print results only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Never ask; fail instead
    #[arg(long, global = true, env = "CHAT_NO_INPUT", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_input: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Open the terminal client
    Tui(tui::TuiArgs),
    /// Show everything at work: a server, three people, encrypted messages
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the version
    Version,
}

/// Runs the binary: parses, dispatches, and turns a [`Problem`] into a message and an exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let globals = cli.globals.clone();
    match dispatch(cli.command, &globals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            report(&problem, &globals);
            ExitCode::from(problem.kind.exit_code())
        }
    }
}

fn dispatch(command: Command, globals: &Globals) -> Result<(), Problem> {
    match command {
        Command::Serve(args) => serve::run(args, globals),
        Command::Tui(args) => tui::run(args, globals),
        Command::Demo(args) => demo::run(args, globals),
        Command::Completions(args) => completions::run(args),
        Command::Version => version::run(globals),
    }
}

/// Help and version are answers, everything else is a usage error (2).
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if error.use_stderr() && arguments.iter().any(|argument| argument == "--json") {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        report_json(&Problem::new(ProblemKind::Usage, first).hint("See `chat --help`."));
    } else {
        // A closed pipe is no reason to complain.
        let _ = error.print();
    }
    ExitCode::from(if error.use_stderr() { ProblemKind::Usage.exit_code() } else { 0 })
}

fn report(problem: &Problem, globals: &Globals) {
    if globals.json {
        report_json(problem);
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let (bold, off) =
        if stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(stderr, "{bold}chat:{off} {}", printable(problem.text.raw()));
    if !problem.hint.is_empty() && !globals.quiet {
        let _ = writeln!(stderr, "      {}", printable(&problem.hint));
    }
}

fn report_json(problem: &Problem) {
    let line = serde_json::json!({
        "v": 1,
        "type": "error",
        "code": problem.kind.as_str(),
        "exit": problem.kind.exit_code(),
        "message": printable(problem.text.raw()),
        "hint": printable(&problem.hint),
    });
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// One line without control characters: an error may repeat what a server said.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The grammar, for completions and for the test that checks it.
pub fn grammar() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }
}
