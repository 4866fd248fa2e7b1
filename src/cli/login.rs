//! `chat login [SERVER]`: into a new profile when the account has no device yet, or again into the profile that has its keys.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::print::Printer;
use super::register::{AccountArgs, begin};
use super::session::{self, Session};
use super::{Globals, Stop, ask};
use crate::client::lock;
use crate::client::model::{Problem, ProblemKind};
use crate::client::profile::Profile;
use crate::client::setup::{self, NewLogin, Server};
use crate::client::transport::ServerUrl;
use crate::protocol::auth::SecretText;

#[derive(Debug, Args)]
pub struct LoginArgs {
    #[command(flatten)]
    account: AccountArgs,
    /// First line: the six digits of your authenticator, or a backup code (- is standard input)
    #[arg(long, value_name = "FILE")]
    totp_file: Option<PathBuf>,
}

/// # Errors
/// When the server refuses, or the profile belongs to another account.
pub fn run(args: LoginArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let profile = session::profile(globals)?;
        profile.create()?;
        match profile.account()? {
            Some(known) => {
                if let Some(owner) = lock::owner(&profile)? {
                    return Err(lock::taken(&profile, Some(&owner)).into());
                }
                let settings = session::settings(globals)?;
                if let Some(address) = &args.account.server
                    && ServerUrl::parse(address, settings.allow_http)?.origin() != known.server
                {
                    return Err(Problem::new(
                        ProblemKind::Usage,
                        format!("profile `{}` belongs to {}", profile.name, known.server),
                    )
                    .hint("Choose another profile with --profile.")
                    .into());
                }
                let server = Server::probe(&known.server, settings).await?;
                let login = log_in(&args, globals, &server, &known.username).await?;
                resume(globals, &profile, login).await
            }
            None => {
                setup::free(&profile)?;
                let server = args.account.server(globals).await?;
                let username = args.account.username(globals)?;
                let login = log_in(&args, globals, &server, &username).await?;
                let protection = args.account.protection.choose(globals)?;
                begin(globals, &profile, &server, login, protection, None, "logged_in").await
            }
        }
    })
}

async fn log_in(args: &LoginArgs, globals: &Globals, server: &Server, username: &str) -> Result<NewLogin, Stop> {
    if args.account.username.as_deref().is_some_and(|name| name != username) {
        return Err(Problem::new(ProblemKind::Usage, format!("profile `{}` belongs to {username}", globals.profile))
            .hint("Choose another profile with --profile.")
            .into());
    }
    let password = ask::password(globals, args.account.password_file.as_ref(), false)?;
    let code: Option<SecretText> = match &args.totp_file {
        Some(path) => Some(ask::secret_file(path)?),
        None => None,
    };
    match server.log_in(username, &password, code.as_ref()).await {
        Err(problem) if code.is_none() && problem.text.raw().contains("authenticator") && !globals.no_input => {
            let code = ask::secret(globals, "Code of your authenticator", "Give it with --totp-file.")?;
            Ok(server.log_in(username, &password, Some(&code)).await?)
        }
        result => Ok(result?),
    }
}

async fn resume(globals: &Globals, profile: &Profile, login: NewLogin) -> Result<(), Stop> {
    let key = session::key(globals, profile).await?;
    let (client, events) = setup::resume(profile, key, login).await?;
    let session = Session::begin(client, events, globals).await?;
    let mut out = Printer::new(globals);
    let account = &session.account;
    if out.is_json() {
        out.object(
            "logged_in",
            json!({
                "profile": profile.name,
                "server": account.server,
                "username": account.username.raw(),
                "user_id": account.user_id,
                "device_id": account.device_id,
                "fingerprint": account.fingerprint,
            }),
        )?;
    } else if !globals.quiet {
        out.say(format!("{} is logged in at {} (profile {})", super::clean(&account.username), account.server, profile.name))?;
    }
    out.flush()?;
    session.close().await;
    Ok(())
}
