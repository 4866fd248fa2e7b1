//! The first connection of a server: it says exactly why there is none, where the pool only says that there is none.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use diesel_async::AsyncPgConnection;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use crate::server::postgres::binaries::OLDEST_MAJOR;

/// How long a database may take to answer, or to finish its own start.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two questions whether it has started.
const PAUSE: Duration = Duration::from_millis(50);

/// Connects to the configured database, which must be of a version that the migrations are written for.
///
/// # Errors
/// What is wrong, with host, port and database and without the password.
pub async fn first(url: &str) -> anyhow::Result<AsyncPgConnection> {
    let config: Config = url.parse().map_err(|_| {
        // The reason would repeat parts of it.
        anyhow!(
            "server.database.url is not a PostgreSQL URL: postgres://USER:PASSWORD@HOST:PORT/DATABASE, special characters in \
             it percent-encoded"
        )
    })?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let connected = timeout_at(deadline, config.connect(NoTls)).await;
        let failed = || format!("cannot connect to the database {}", name(&config));
        match connected {
            Err(_) => bail!("{}: no answer within {} s", failed(), DEADLINE.as_secs()),
            Ok(Ok((client, connection))) => {
                // "15.18 (Debian 15.18-0+deb12u1)"
                let version = connection.parameter("server_version").unwrap_or_default();
                let major = version.split(['.', ' ']).next().and_then(|number| number.parse::<u32>().ok());
                if let Some(major) = major.filter(|major| *major < OLDEST_MAJOR) {
                    bail!("the database {} is PostgreSQL {major}, chat needs {OLDEST_MAJOR} or newer", name(&config));
                }
                return AsyncPgConnection::try_from_client_and_connection(client, connection).await.with_context(failed);
            }
            Ok(Err(error)) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && Instant::now() + PAUSE < deadline => {
                sleep(PAUSE).await;
            }
            Ok(Err(error)) => return Err(anyhow!(reason(&error)).context(failed())),
        }
    }
}

/// What the server said, else what the operating system said.
fn reason(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => said.message().to_owned(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    }
}

/// `chat on db.example.org:5432`
fn name(config: &Config) -> String {
    let database = config.get_dbname().or(config.get_user()).unwrap_or("(unnamed)");
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(folder)) => folder.display().to_string(),
        None => "localhost".to_owned(),
    };
    format!("{database} on {host}:{}", config.get_ports().first().copied().unwrap_or(5432))
}
