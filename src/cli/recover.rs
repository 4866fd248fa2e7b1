//! `chat recover`: a new password for an account whose old one is lost, by the recovery code that registering showed. In the
//! profile that has the account's keys it also logs in again; elsewhere it changes the password and nothing else.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::print::Printer;
use super::session::{self, Session};
use super::{Globals, Stop, ask, register};
use crate::client::lock;
use crate::client::model::{Problem, ProblemKind};
use crate::client::profile::{AccountFile, Profile};
use crate::client::setup::{self, Server};
use crate::client::transport::ServerUrl;
use crate::protocol::auth::SecretText;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// chat.example.org, https://chat.example.org:8443, or localhost:8008; without it the profile's
    #[arg(env = "CHAT_SERVER")]
    server: Option<String>,
    #[arg(short, long, value_name = "NAME", env = "CHAT_USERNAME")]
    username: Option<String>,
    /// First line: the recovery code (- is standard input)
    #[arg(long, value_name = "FILE")]
    recovery_code_file: Option<PathBuf>,
    /// First line: the new password (- is standard input)
    #[arg(long, value_name = "FILE", env = "CHAT_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
}

/// # Errors
/// `Auth` for a wrong name or code, `Usage` for a weak password, `Network` when the server cannot be reached: nothing was changed.
pub fn run(args: RecoverArgs, globals: &Globals) -> Result<(), Stop> {
    let from_input = |file: &Option<PathBuf>| file.as_deref() == Some(Path::new("-"));
    if from_input(&args.recovery_code_file) && from_input(&args.password_file) {
        return Err(Problem::new(ProblemKind::Usage, "standard input has one first line")
            .hint("Give the code or the password in a file.")
            .into());
    }
    super::block_on(async {
        let profile = session::profile(globals)?;
        match profile.account()? {
            Some(account) => recover_here(&args, globals, &profile, &account).await,
            None => recover_elsewhere(&args, globals).await,
        }
    })
}

/// The profile has the keys: it goes on with the new login.
async fn recover_here(args: &RecoverArgs, globals: &Globals, profile: &Profile, account: &AccountFile) -> Result<(), Stop> {
    let settings = session::settings(globals)?;
    let other_server = match &args.server {
        Some(address) => ServerUrl::parse(address, settings.allow_http)?.origin() != account.server,
        None => false,
    };
    if other_server || args.username.as_ref().is_some_and(|name| *name != account.username) {
        let whose = format!("profile `{}` belongs to {} at {}", profile.name, account.username, account.server);
        return Err(Problem::new(ProblemKind::Usage, whose).hint("Choose another profile with --profile.").into());
    }
    if let Some(owner) = lock::owner(profile)? {
        return Err(lock::taken(profile, Some(&owner)).into());
    }
    // Before the password changes: a profile that does not open is no place to log in again.
    let key = session::key(globals, profile).await?;
    let server = Server::probe(&account.server, settings).await?;
    let (code, password) = secrets(args, globals)?;
    let mut login = server.recover(&account.username, &code, &password).await?;
    tell(globals, &server, &account.username, login.recovery_code.take(), None)?;
    let (client, events) = setup::resume(profile, key, login).await?;
    Session::begin(client, events, globals).await?.close().await;
    Ok(())
}

async fn recover_elsewhere(args: &RecoverArgs, globals: &Globals) -> Result<(), Stop> {
    let server = register::server(args.server.as_deref(), globals).await?;
    let username = register::username(args.username.as_deref(), globals)?;
    let (code, password) = secrets(args, globals)?;
    let mut login = server.recover(&username, &code, &password).await?;
    let next = "Log in with `chat login` in the profile that has the account's keys.";
    tell(globals, &server, &username, login.recovery_code.take(), Some(next))?;
    server.end(login).await;
    Ok(())
}

fn secrets(args: &RecoverArgs, globals: &Globals) -> Result<(SecretText, SecretText), Stop> {
    let code = match &args.recovery_code_file {
        Some(path) => ask::secret_file(path)?,
        None => ask::secret(globals, "Recovery code", "Give the code with --recovery-code-file FILE, or - for standard input.")?,
    };
    let password = match &args.password_file {
        Some(path) => ask::secret_file(path)?,
        None => ask::new_secret(
            globals,
            "New password",
            "Give the new password with --password-file FILE, or - for standard input; or set CHAT_PASSWORD_FILE.",
        )?,
    };
    setup::check_password(&password)?;
    Ok((code, password))
}

/// The new code is on the screen before anything else can fail.
fn tell(globals: &Globals, server: &Server, username: &str, code: Option<SecretText>, next: Option<&str>) -> Result<(), Stop> {
    let mut out = Printer::new(globals);
    let code = code.map(|code| code.0);
    if out.is_json() {
        let origin = server.url.origin();
        out.object("recovered", json!({ "server": origin, "username": username, "recovery_code": code }))?;
    } else {
        if !globals.quiet {
            out.say(format!("{username} has a new password at {}; every other login has ended.", server.url))?;
        }
        if let Some(code) = code {
            out.say(format!("New recovery code, shown once; the old one is void: {code}"))?;
        }
        if let Some(next) = next.filter(|_| !globals.quiet) {
            out.say(next)?;
        }
    }
    Ok(out.flush()?)
}
