//! Removes what has outlived its use: the content of expired messages, dead logins, events and inbox frames older than the
//! contract keeps them.

use tokio::time::timeout;

use crate::server::app::App;
use crate::server::db::expiry;
use crate::server::error::{ApiError, ApiResult};

/// One round: batch after batch until nothing is due, or the server drains.
///
/// # Errors
/// 503 when the database does not answer.
pub async fn run(app: &App) -> ApiResult<()> {
    let mut due = true;
    while due && !app.is_draining() {
        due = timeout(app.deadlines.batch, batch(app)).await.unwrap_or_else(|_| Err(ApiError::unavailable()))?;
    }
    Ok(())
}

/// Whether there may be more.
async fn batch(app: &App) -> ApiResult<bool> {
    // Given back between batches, so that requests do not wait for the jobs.
    let mut conn = app.db().await?;
    let messages = expiry::erase_messages(&mut conn).await?;
    let sessions = expiry::delete_sessions(&mut conn).await?;
    let events = expiry::delete_events(&mut conn).await?;
    let frames = expiry::delete_inbox(&mut conn).await?;
    let batches = expiry::delete_batches(&mut conn).await?;
    let removed = [messages, sessions, events, frames, batches];
    if removed.iter().any(|rows| *rows > 0) {
        tracing::info!(messages, sessions, events, frames, batches, "removed what has expired");
    }
    Ok(removed.iter().any(|rows| *rows >= expiry::BATCH))
}
