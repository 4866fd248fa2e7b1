//! `chat serve`: the server. It stores and forwards what it cannot read: of `crypto` it knows only `crypto::verify`.
//!
//! Start with [`router`] (every feature, in reading order), then one file of [`api`] with the file of the same noun in
//! [`db`]. [`app::App`] holds what lives as long as the process.

pub mod api;
pub mod app;
pub mod attempts;
pub mod db;
pub mod device_lists;
pub mod error;
pub mod events;
pub mod extract;
pub mod jobs;
pub mod limits;
pub mod listen;
pub mod membership;
pub mod memory;
pub mod openapi;
pub mod password;
pub mod permission;
pub mod places;
pub mod postgres;
pub mod realtime;
pub mod router;
pub mod secret;
pub mod text;
pub mod token;
pub mod username;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::config::Config;

/// For the head of a request; slower clients hold a place that others need.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Serves until `shutdown` is ready, then drains: not ready → no new connections → commits finish → end, at most
/// `drain_timeout_s` later. Tests bind port 0 and know the address. `database_url` is the configured one, or of the cluster
/// that the caller runs.
///
/// # Errors
/// When the database cannot be reached or has a newer schema, or the secret cannot be read.
pub async fn serve(
    config: Config,
    database_url: &str,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    memory::return_large_blocks();
    let app = prepare(config, database_url, app::Deadlines::default()).await?;
    run(Arc::new(app), listener, shutdown).await
}

/// Everything of a server but its listener: the schema, the secret, the pool, and the live half.
///
/// # Errors
/// As [`serve`].
pub async fn prepare(config: Config, database_url: &str, deadlines: app::Deadlines) -> anyhow::Result<app::App> {
    let secret = secret::ServerSecret::load_or_create(&config.server.secret_file())?;
    db::migrate(database_url).await.context("cannot prepare the database")?;
    let database = db::Database::connect(database_url, config.server.database.pool_size).await?;
    let app = app::App::new(config.server, database, &secret, deadlines)?;
    app.set_realtime(realtime::Realtime::start(&app.database, Box::new(realtime::bus::local::Local), deadlines.look));
    Ok(app)
}

/// Serves what [`prepare`] made, as [`serve`] says.
///
/// # Errors
/// When the listener has no address.
pub async fn run(
    app: Arc<app::App>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let realtime = Arc::clone(app.realtime().map_err(|_| anyhow::anyhow!("the live half was not started"))?);
    let router = router::router(Arc::clone(&app));
    let jobs = tokio::spawn(jobs::run(Arc::clone(&app)));
    memory::return_free_pages();

    tracing::info!(address = %listener.local_addr()?, "listening");
    let limits = &app.config.limits;
    let bounds = listen::Bounds {
        head_timeout: HEAD_TIMEOUT,
        connections: limits.connections as usize,
        // Beside its WebSockets an address has requests under way.
        connections_per_address: limits.connections_per_address.saturating_mul(4),
        exempt: app.config.trusted_proxies.clone(),
    };
    let (began, begin) = oneshot::channel();
    let draining = async {
        shutdown.await;
        tracing::info!("draining");
        app.drain();
        let _ = began.send(());
    };
    let serving = async {
        listen::serve(listener, router, bounds, draining).await;
        // WebSockets have left the listener's care when they were upgraded.
        realtime.finish().await;
    };
    let deadline = async {
        let _ = begin.await;
        tokio::time::sleep(Duration::from_secs(app.config.drain_timeout_s)).await;
    };
    tokio::select! {
        () = serving => {}
        () = deadline => tracing::warn!("connections were still open at the end of the drain"),
    }
    jobs.abort();
    Ok(())
}
