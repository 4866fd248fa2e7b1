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
pub mod limits;
pub mod membership;
pub mod openapi;
pub mod password;
pub mod permission;
pub mod postgres;
pub mod realtime;
pub mod router;
pub mod secret;
pub mod text;
pub mod token;
pub mod username;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::config::Config;

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
    let secret = secret::ServerSecret::load_or_create(&config.server.secret_file())?;
    db::migrate(database_url).await.context("cannot prepare the database")?;
    let database = db::Database::connect(database_url, config.server.database.pool_size).await?;
    let app = Arc::new(app::App::new(config.server, database, &secret)?);
    let realtime = realtime::Realtime::start(&app.database, Box::new(realtime::bus::local::Local));
    app.set_realtime(Arc::clone(&realtime));
    let router = router::router(Arc::clone(&app));

    let address = listener.local_addr()?;
    tracing::info!(%address, "listening");
    let (drained, drain) = oneshot::channel();
    let draining = Arc::clone(&app);
    let signal = async move {
        shutdown.await;
        tracing::info!("draining");
        draining.drain();
        let _ = drained.send(());
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    // Answers and events are small: none waits for another one to fill a packet.
    let listener = listener.tap_io(|stream| {
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "no TCP_NODELAY");
        }
    });
    let serving = axum::serve(listener, service).with_graceful_shutdown(signal).into_future();
    let serving = async {
        serving.await.context("the listener failed")?;
        // WebSockets have left the listener's care when they were upgraded.
        realtime.finish().await;
        anyhow::Ok(())
    };
    let deadline = async {
        let _ = drain.await;
        tokio::time::sleep(Duration::from_secs(app.config.drain_timeout_s)).await;
    };
    tokio::select! {
        done = serving => done?,
        () = deadline => tracing::warn!("connections were still open at the end of the drain"),
    }
    Ok(())
}
