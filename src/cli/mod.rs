//! The command line: one file for each subcommand, and here the grammar, the exit codes and what every subcommand shares.
//!
//! A subcommand is a plain function `run(args, &Globals)`; the kind of the [`Problem`] that it ends with is the exit code.
//! No subcommand prints text from outside except through [`mod@print`], takes a secret from `argv`, or prompts when
//! `--no-input` is given. Start with [`Command`]; [`session`] opens a profile for all of them.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::model::{Problem, ProblemKind, Untrusted};
use crate::config::ServerConfig;
use crate::tui::text::Clean;

pub mod admin;
pub mod ask;
pub mod channels;
pub mod child;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod join;
pub mod load;
pub mod login;
pub mod logout;
pub mod print;
pub mod read;
pub mod recover;
pub mod register;
pub mod resume;
pub mod search;
pub mod send;
pub mod serve;
pub mod session;
pub mod status;
pub mod tail;
pub mod target;
pub mod tui;
pub mod version;

/// Self-hosted, end-to-end encrypted chat for people who live in terminals.
#[derive(Debug, Parser)]
#[command(name = "chat", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 login, 5 permission, 6 rate limited, 7 network, \
                        8 encryption or verification, 9 locked, 78 configuration, 129/130/143 ended by a signal.")]
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
    /// Make an account and a profile for it
    Register(register::RegisterArgs),
    /// Log in: into a new profile, or again into a known one
    Login(login::LoginArgs),
    /// Set a new password with the recovery code
    Recover(recover::RecoverArgs),
    /// End the session on the server; the local history stays
    Logout,
    /// Join a community by an invite link
    Join(join::JoinArgs),
    /// Send a message: an argument, or standard input
    Send(send::SendArgs),
    /// Print the newest messages, and with --follow what comes
    Tail(tail::TailArgs),
    /// Print what is unread in a channel and mark it as read
    Read(read::ReadArgs),
    /// Search the local, encrypted history
    Search(search::SearchArgs),
    /// List channels and direct messages
    Channels,
    /// What the people who run a server do: invitations to make an account
    Admin(admin::AdminArgs),
    /// Show why a channel is stopped, and let it go on
    Resume(resume::ResumeArgs),
    /// Say who is logged in, and whether the line is up
    Status,
    /// Check this machine, the profile and the server
    Doctor(doctor::DoctorArgs),
    /// Measure the server under load
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the version
    Version,
}

/// How a subcommand can end other than well.
#[derive(Debug)]
pub enum Stop {
    Problem(Problem),
    /// Ended by this signal, after everything was put away.
    Signal(u8),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Whoever read our output has gone: end as a program that writes into a closed pipe does, without a word.
const SIGPIPE: u8 = 13;

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::Signal(SIGPIPE);
        }
        Self::Problem(Problem::new(ProblemKind::Failed, format!("cannot write the output: {error}")))
    }
}

/// Runs the binary: parses, dispatches, and turns a [`Problem`] into a message and an exit code.
pub fn main() -> ExitCode {
    quiet_panics();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let globals = cli.globals.clone();
    match dispatch(cli.command, &globals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Signal(number)) => ExitCode::from(128 + number),
        Err(Stop::Problem(problem)) => {
            report(&problem, &globals);
            ExitCode::from(problem.kind.exit_code())
        }
    }
}

fn dispatch(command: Command, globals: &Globals) -> Result<(), Stop> {
    if !matches!(command, Command::Serve(_) | Command::Completions(_) | Command::Version) {
        keep_memory_private();
    }
    match command {
        Command::Serve(args) => Ok(serve::run(args, globals)?),
        Command::Tui(args) => tui::run(args, globals),
        Command::Demo(args) => demo::run(args, globals),
        Command::Register(args) => register::run(args, globals),
        Command::Login(args) => login::run(args, globals),
        Command::Recover(args) => recover::run(args, globals),
        Command::Logout => logout::run(globals),
        Command::Join(args) => join::run(args, globals),
        Command::Send(args) => send::run(args, globals),
        Command::Tail(args) => tail::run(args, globals),
        Command::Read(args) => read::run(args, globals),
        Command::Search(args) => search::run(args, globals),
        Command::Channels => channels::run(globals),
        Command::Admin(args) => admin::run(args, globals),
        Command::Resume(args) => resume::run(args, globals),
        Command::Status => status::run(globals),
        Command::Doctor(args) => doctor::run(&args, globals),
        Command::Load(args) => load::run(args, globals),
        Command::Completions(args) => completions::run(args),
        Command::Version => version::run(globals),
    }
}

/// Runs a subcommand's work; a signal drops it, so that its guards put everything away.
fn block_on<T>(work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot start: {error}")))?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            number = ended_by_signal() => Err(number),
        }
    });
    // Nothing in the background is worth waiting for: what counts is on disk.
    runtime.shutdown_background();
    result
}

async fn ended_by_signal() -> Stop {
    let wait = async |kind: SignalKind, number: u8| match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
            Stop::Signal(number)
        }
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        stop = wait(SignalKind::interrupt(), 2) => stop,
        stop = wait(SignalKind::terminate(), 15) => stop,
        stop = wait(SignalKind::hangup(), 1) => stop,
    }
}

/// Keys and messages are in this memory: no core dumps, and no other process of the user may look.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user may read the memory of this one");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    crate::client::memory::keep_keys_out_of_swap();
}

/// Open files that a server needs: connections, the database's, and beside them listeners, logs, what libraries need.
fn open_files_wanted(config: &ServerConfig) -> u64 {
    u64::from(config.limits.connections) + u64::from(config.database.pool_size) + 128
}

/// Every connection is an open file, and the usual limit is 1,024: as many as the system lets this process have. Answers how many
/// that is; none for no limit.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current
}

/// A panic says where, never what: its payload may hold a message or a key.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
        let _ =
            writeln!(std::io::stderr(), "chat: internal error at {place}. Please report this line; it holds nothing private.");
    }));
}

/// Help and version are answers, everything else is a usage error (2).
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let text = error.to_string();
    // It repeats the arguments, which a script may have from anywhere.
    let harmless = text.lines().all(|line| Clean::ours(line).as_str() == line);
    if error.use_stderr() && arguments.iter().any(|argument| argument == "--json") {
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        report_json(&Problem::new(ProblemKind::Usage, first).hint("See `chat --help`."));
    } else if harmless {
        // A closed pipe is no reason to complain.
        let _ = error.print();
    } else {
        for line in text.lines() {
            let _ = writeln!(std::io::stderr(), "{}", Clean::ours(line));
        }
    }
    ExitCode::from(if error.use_stderr() { ProblemKind::Usage.exit_code() } else { 0 })
}

/// An error for a person, or with `--json` for a program; always on standard error.
pub fn report(problem: &Problem, globals: &Globals) {
    if globals.json {
        report_json(problem);
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let (bold, off) =
        if stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(stderr, "{bold}chat:{off} {}", Clean::from_untrusted(&problem.text));
    if !problem.hint.is_empty() && !globals.quiet {
        let _ = writeln!(stderr, "      {}", Clean::ours(&problem.hint));
    }
}

fn report_json(problem: &Problem) {
    let hint = Clean::ours(&problem.hint);
    let mut line = serde_json::json!({
        "v": print::VERSION,
        "type": "error",
        "code": problem.kind.as_str(),
        "exit": problem.kind.exit_code(),
        "message": Clean::from_untrusted(&problem.text).as_str(),
    });
    if !problem.hint.is_empty() {
        line["hint"] = hint.as_str().into();
    }
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The grammar, for completions and for the test that checks it.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// A name or message in a sentence of ours.
fn clean(text: &Untrusted) -> Clean {
    Clean::from_untrusted(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn no_argument_takes_a_secret() {
        for command in grammar().get_subcommands() {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = ["password", "passphrase", "token", "invite", "code", "key"].iter().any(|word| name.contains(word));
                let takes_text = argument.get_action().takes_values() && !name.ends_with("_file");
                assert!(!(secret && takes_text), "{} --{name}", command.get_name());
            }
        }
    }
}
