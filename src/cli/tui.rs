//! `chat tui`: the terminal client. Opens the profile without a question where it can; otherwise the screens of the first run or
//! of unlocking do.

use clap::Args;

use super::session::{config, profile};
use super::{Globals, Stop};
use crate::client::model::{Problem, ProblemKind};
use crate::client::profile::{Directories, Profile};
use crate::client::{Client, Settings, unlock};
use crate::protocol::auth::SecretText;
use crate::tui::host::ClientHost;
use crate::tui::screen::setup::SetupScreen;
use crate::tui::start::start;
use crate::tui::terminal;

#[derive(Debug, Args)]
pub struct TuiArgs {
    /// Address that a new profile offers, instead of the one in the configuration
    #[arg(long, env = "CHAT_SERVER", value_name = "URL")]
    server: Option<String>,
}

/// # Errors
/// When the terminal cannot be used or the profile cannot be opened.
pub fn run(args: TuiArgs, globals: &Globals) -> Result<(), Stop> {
    terminal::check()?;
    let config = config(globals)?;
    let profile = profile(globals)?;
    let settings = Settings::from(&config.client);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot start: {error}")))?;
    let ended = runtime.block_on(async {
        let server = args.server.unwrap_or(config.client.server);
        let (host, setup) = prepare(profile, settings, &server).await?;
        start(host, setup).await
    });
    runtime.shutdown_background();
    match ended? {
        Some(signal) => Err(Stop::Signal(signal)),
        None => Ok(()),
    }
}

/// The client of a profile that opens by itself, or the screen that makes or opens one.
async fn prepare(profile: Profile, settings: Settings, server: &str) -> Result<(ClientHost, Option<SetupScreen>), Problem> {
    if profile.account()?.is_none() {
        crate::client::setup::free(&profile)?;
        let screen = SetupScreen::first_run(&profile.name, server, unlock::keyring_works());
        return Ok((ClientHost::closed(profile, settings), Some(screen)));
    }
    if let Some((client, events)) = Client::attach(&profile).await? {
        return Ok((ClientHost::open(profile, settings, client, events), None));
    }
    if let Some(key) = unlock::remembered(&profile)? {
        let (client, events) = Client::open(&profile, key, settings).await?;
        return Ok((ClientHost::open(profile, settings, client, events), None));
    }
    if let Some(passphrase) = unlock::provided_passphrase()? {
        return Ok((with_passphrase(profile, passphrase, settings).await?, None));
    }
    let screen = SetupScreen::unlock(&profile.name);
    Ok((ClientHost::closed(profile, settings), Some(screen)))
}

/// Opens a profile in the terminal, with its passphrase if the caller knows it. Ends when the user leaves.
///
/// # Errors
/// When the terminal cannot be used or the profile cannot be opened.
pub async fn open(
    directories: &Directories,
    profile: &str,
    passphrase: Option<SecretText>,
    globals: &Globals,
) -> Result<(), Problem> {
    terminal::check()?;
    let config = config(globals)?;
    let settings = Settings::from(&config.client);
    let profile = Profile::new(directories, profile)?;
    let (host, setup) = match passphrase {
        Some(passphrase) => (with_passphrase(profile, passphrase, settings).await?, None),
        None => prepare(profile, settings, &config.client.server).await?,
    };
    start(host, setup).await.map(|_| ())
}

async fn with_passphrase(profile: Profile, passphrase: SecretText, settings: Settings) -> Result<ClientHost, Problem> {
    let place = profile.clone();
    let key = tokio::task::spawn_blocking(move || unlock::unlock(&place, &passphrase, false))
        .await
        .map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))??;
    let (client, events) = Client::open(&profile, key, settings).await?;
    Ok(ClientHost::open(profile, settings, client, events))
}
