//! What the server does by itself, a bit at a time: one idempotent job a file. Any number of nodes may run them at once.

pub mod expire;

use std::time::Duration;

use super::app::AppState;

/// Runs the jobs until the server drains. An outage of the database ends a round, never the loop.
pub async fn run(app: AppState) {
    let mut every = tokio::time::interval(Duration::from_secs(60));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if app.is_draining() {
            return;
        }
        if let Err(error) = expire::run(&app).await {
            tracing::warn!(code = error.code.as_str(), "what has expired could not be removed; trying again in a minute");
        }
    }
}
