//! `chat register [SERVER]`: makes an account, a device, and a profile for them.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::print::Printer;
use super::session::{self, Session};
use super::{Globals, Stop, ask};
use crate::client::model::{Problem, ProblemKind};
use crate::client::profile::Profile;
use crate::client::setup::{self, NewLogin, Server};
use crate::client::unlock::{self, Protection};
use crate::protocol::auth::{Registration, SecretText};

#[derive(Debug, Args)]
pub struct RegisterArgs {
    #[command(flatten)]
    pub account: AccountArgs,
    /// The name that others see
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// First line: the code of an invitation to this server (- is standard input)
    #[arg(long, value_name = "FILE")]
    invite_file: Option<PathBuf>,
}

/// What registering and logging in share.
#[derive(Debug, Args)]
pub struct AccountArgs {
    /// chat.example.org, https://chat.example.org:8443, or localhost:8008
    #[arg(env = "CHAT_SERVER")]
    pub server: Option<String>,
    #[arg(short, long, value_name = "NAME", env = "CHAT_USERNAME")]
    pub username: Option<String>,
    /// First line: the account's password (- is standard input)
    #[arg(long, value_name = "FILE", env = "CHAT_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    #[command(flatten)]
    pub protection: ProtectionArgs,
}

/// How a new profile keeps its key.
#[derive(Debug, Args)]
pub struct ProtectionArgs {
    /// Let the kernel remember the key until this machine restarts, beside the passphrase
    #[arg(long)]
    remember: bool,
    /// No passphrase of your own: the kernel keeps the key, and a generated one is printed for the time after a restart
    #[arg(long, conflicts_with = "remember")]
    keyring: bool,
}

impl ProtectionArgs {
    /// As the flags say; the passphrase from a script or the person.
    ///
    /// # Errors
    /// When there is none.
    pub fn choose(&self, globals: &Globals) -> Result<Protection, Stop> {
        if self.keyring {
            if !unlock::keyring_works() {
                return Err(Problem::new(ProblemKind::Failed, "the kernel's keyring is not available here")
                    .hint("Containers often forbid it. Use a passphrase; scripts read it from CHAT_PASSPHRASE_FILE.")
                    .into());
            }
            return Ok(Protection::Keyring);
        }
        let passphrase = match unlock::provided_passphrase()? {
            Some(passphrase) => passphrase,
            None => ask::new_secret(
                globals,
                "Passphrase for the keys on this machine",
                "Set CHAT_PASSPHRASE_FILE or CHAT_PASSPHRASE_FD, or use --keyring.",
            )?,
        };
        unlock::check_new_passphrase(&passphrase)?;
        Ok(Protection::Passphrase { passphrase, remember: self.remember })
    }
}

impl AccountArgs {
    /// The server that the arguments, the configuration or the person name.
    ///
    /// # Errors
    /// When nobody names one, or it does not answer.
    pub async fn server(&self, globals: &Globals) -> Result<Server, Stop> {
        server(self.server.as_deref(), globals).await
    }

    /// # Errors
    /// When nobody names one.
    pub fn username(&self, globals: &Globals) -> Result<String, Stop> {
        username(self.username.as_deref(), globals)
    }
}

/// The server that an argument, the configuration or the person names.
///
/// # Errors
/// When nobody names one, or it does not answer.
pub async fn server(argument: Option<&str>, globals: &Globals) -> Result<Server, Stop> {
    let config = session::config(globals)?;
    let address = match argument {
        Some(address) => address.to_owned(),
        None if !config.client.server.is_empty() => config.client.server.clone(),
        None => ask::line(globals, "Server", "Give its address as the argument, or set client.server in the configuration.")?,
    };
    Ok(Server::probe(&address, (&config.client).into()).await?)
}

/// # Errors
/// When nobody names one.
pub fn username(argument: Option<&str>, globals: &Globals) -> Result<String, Stop> {
    match argument {
        Some(name) => Ok(name.to_owned()),
        None => ask::line(globals, "Username", "Give it with --username."),
    }
}

/// # Errors
/// When the server refuses, or the profile exists.
pub fn run(args: RegisterArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let profile = session::profile(globals)?;
        profile.create()?;
        // Before the server has an account for which there is no place here.
        setup::free(&profile)?;
        let server = args.account.server(globals).await?;
        let username = args.account.username(globals)?;
        setup::check_username(&username)?;
        let password = ask::password(globals, args.account.password_file.as_ref(), true)?;
        setup::check_password(&password)?;
        let invite = match &args.invite_file {
            Some(path) => Some(ask::secret_file(path)?),
            // The first account of a server needs none, and only the server knows whether this is it.
            None if server.config.registration == Registration::Invite => ask::secret_if_possible(globals, "Invitation code")?,
            None => None,
        };
        let protection = args.account.protection.choose(globals)?;
        let mut login = server.register(&username, &password, args.display_name.as_deref(), invite.as_ref()).await?;
        let recovery = login.recovery_code.take();
        begin(globals, &profile, &server, login, protection, recovery.as_ref(), "registered").await
    })
}

/// Makes the profile, waits for the device, and says what has to be written down.
///
/// # Errors
/// When the profile cannot be made or the server refuses the device.
pub async fn begin(
    globals: &Globals,
    profile: &Profile,
    server: &Server,
    login: NewLogin,
    protection: Protection,
    recovery: Option<&SecretText>,
    kind: &str,
) -> Result<(), Stop> {
    let username = login.record.user.username.clone();
    let begun = server.begin(profile, login, protection).await;
    let mut out = Printer::new(globals);
    if let (Err(_), Some(code)) = (&begun, recovery) {
        // The account exists now: its only way back must not be lost with the error.
        out.say(format!("The account was made; `chat login` goes on with it. Recovery code, shown once: {}", code.0))?;
        out.flush()?;
    }
    let begun = begun?;
    let session = Session::begin(begun.client, begun.events, globals).await;
    let account = session.as_ref().ok().map(|session| session.account.clone());
    if out.is_json() {
        out.object(
            kind,
            json!({
                "profile": profile.name,
                "server": server.url.origin(),
                "username": username,
                "user_id": account.as_ref().map(|account| account.user_id),
                "device_id": account.as_ref().map(|account| account.device_id),
                "fingerprint": account.as_ref().map(|account| account.fingerprint.clone()),
                "recovery_code": recovery.map(|code| code.0.clone()),
                "passphrase": begun.passphrase.as_ref().map(|passphrase| passphrase.0.clone()),
            }),
        )?;
    } else {
        if !globals.quiet && account.is_some() {
            out.say(format!("{username} is ready at {} (profile {})", server.url, profile.name))?;
        }
        if let Some(code) = recovery {
            out.say(format!("Recovery code, shown once; it resets a lost password: {}", code.0))?;
        }
        if let Some(passphrase) = &begun.passphrase {
            out.say(format!("Passphrase, shown once; it opens the profile after a restart: {}", passphrase.0))?;
        }
    }
    out.flush()?;
    session?.close().await;
    Ok(())
}
