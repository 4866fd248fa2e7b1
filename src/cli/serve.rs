//! `chat serve`: the server in the foreground, with a database of its own when none is configured.

use std::io::{self, IsTerminal as _, Write};

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::print::harmless_line;
use super::{Globals, session};
use crate::client::model::{Problem, ProblemKind};
use crate::config::{Config, LogConfig, LogFormat};
use crate::server;
use crate::server::postgres::{Cluster, Options, PostgresError};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one [server.listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where the server keeps its files [server.data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Who may make an account [server.registration]
    #[arg(long, value_parser = ["open", "invite", "closed"])]
    registration: Option<String>,
    /// The database was restored from a backup: clients read again what may have been lost, and mark the place
    #[arg(long)]
    restored: bool,
    /// Check the configuration and leave: exit 0, or 78 with what is wrong
    #[arg(long)]
    check_config: bool,
}

impl ServeArgs {
    /// The flags as configuration keys: the last and strongest layer.
    fn flags(&self) -> Vec<(String, String)> {
        [
            ("server.listen", self.listen.clone()),
            ("server.data_dir", self.data_dir.clone()),
            ("server.registration", self.registration.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }
}

/// # Errors
/// When the configuration is wrong, or the server could not start or stopped with an error.
pub fn run(args: ServeArgs, globals: &Globals) -> Result<(), Problem> {
    let config = session::config_with(globals, args.flags())?;
    if args.check_config {
        return Ok(());
    }
    start_log(&config.server.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot start: {e}")))?;
    let result = runtime.block_on(serve(config, args.restored));
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, restored: bool) -> Result<(), Problem> {
    let wanted = super::open_files_wanted(&config.server);
    if let Some(allowed) = super::raise_open_files().filter(|allowed| *allowed < wanted) {
        tracing::warn!(allowed, wanted, "fewer files may be open than server.limits.connections needs: raise LimitNOFILE");
    }
    let shutdown = shutdown_signal()?;
    // The port first: it is the quickest to fail.
    let listener = listen(&config.server.listen).await?;
    let url = config.server.database.url.clone();
    let (url, cluster) = if url.is_empty() {
        // Recovery after a crash can take long: whoever stops us meanwhile does not wait for it. PostgreSQL ends with us.
        let cluster = tokio::select! {
            cluster = start_cluster(&config) => cluster?,
            () = shutdown.cancelled() => return Ok(()),
        };
        (cluster.url().to_owned(), Some(cluster))
    } else {
        (url, None)
    };
    let result = async {
        if restored {
            server::db::begin_epoch(&url).await?;
        }
        server::serve(config, &url, listener, shutdown.cancelled_owned()).await
    }
    .await;
    if let Some(cluster) = cluster {
        // The cluster outlives the last commit.
        let _ = tokio::task::spawn_blocking(move || cluster.stop()).await;
    }
    result.map_err(|e| {
        Problem::new(ProblemKind::Failed, format!("{e:#}"))
            .hint("`chat doctor --server` looks for what can be wrong before a start.")
    })
}

async fn listen(address: &str) -> Result<TcpListener, Problem> {
    TcpListener::bind(address).await.map_err(|e| {
        let problem = Problem::new(ProblemKind::Failed, format!("cannot listen on {address}: {e}"));
        match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                problem.hint("Another program uses this port: stop it, or choose another with --listen or server.listen.")
            }
            std::io::ErrorKind::PermissionDenied => problem.hint("Ports below 1024 need a privilege: choose a higher one."),
            _ => problem.hint("server.listen is an address and a port, such as 127.0.0.1:8008."),
        }
    })
}

async fn start_cluster(config: &Config) -> Result<Cluster, Problem> {
    let mut options = Options::new(config.server.data_dir());
    // The pool, the writer, the migrations, and a few for an administrator with psql.
    options.max_connections = config.server.database.pool_size + 10;
    let started = tokio::task::spawn_blocking(move || Cluster::start(&options)).await;
    match started {
        Ok(Ok(cluster)) => Ok(cluster),
        Ok(Err(error)) => {
            let hint = match error {
                PostgresError::InUse { .. } => "Stop that one, or choose another with --data-dir or server.data_dir.",
                PostgresError::Start(_) => "Its log is postgres.log in the data directory.",
                _ => "With server.database.url chat uses a PostgreSQL server of yours and starts none.",
            };
            Err(Problem::new(ProblemKind::Failed, error.to_string()).hint(hint))
        }
        Err(error) => Err(Problem::new(ProblemKind::Failed, format!("the start of PostgreSQL broke off: {error}"))),
    }
}

/// SIGTERM or SIGINT begins the drain; a second one ends the process at once.
fn shutdown_signal() -> Result<CancellationToken, Problem> {
    let install = |kind| signal(kind).map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot handle signals: {e}")));
    let mut terminate = install(SignalKind::terminate())?;
    let mut interrupt = install(SignalKind::interrupt())?;
    let begun = CancellationToken::new();
    let shutdown = begun.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            }
        };
        next().await;
        begun.cancel();
        let code = next().await;
        tracing::warn!("second signal: ending at once");
        std::process::exit(code);
    });
    Ok(shutdown)
}

/// Where log lines go. Whatever a field holds (the text of an error, say), one event is one line that does nothing to a terminal.
struct LogLines {
    colours: bool,
}

impl Write for LogLines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = harmless_line(&String::from_utf8_lossy(event), self.colours);
        io::stderr().lock().write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log lines carry ids and never content.
fn start_log(config: &LogConfig) -> Result<(), Problem> {
    let filter: Targets = config
        .level
        .replace(char::is_whitespace, "")
        .parse()
        .map_err(|e| Problem::new(ProblemKind::Config, format!("server.log.level: {e}")))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let colours = !json && terminal && std::env::var_os("NO_COLOR").is_none();
    // Which lines there are is the filter's to say.
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(move || LogLines { colours });
    if json {
        builder.json().flatten_event(true).finish().with(filter).init();
    } else {
        builder.with_ansi(colours).finish().with(filter).init();
    }
    Ok(())
}
