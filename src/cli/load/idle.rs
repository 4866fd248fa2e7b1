//! What a connection costs that does nothing: authenticated, subscribed to its streams, silent.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::client::model::Problem;

use super::measure::{Usage, Who};
use super::people::{People, Room};
use super::wire::{Seat, Target};

const OPENING: usize = 16;
/// Until buffers of the opening are given back.
const SETTLE: Duration = Duration::from_secs(5);

/// What idle connections cost.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Resident memory of the server's process for each connection, KiB.
    pub kib: f64,
    /// Connections opened and made ready in a second.
    pub opened_per_s: f64,
}

/// Connects every member of these rooms and waits.
///
/// # Errors
/// When somebody cannot connect.
pub async fn idle(target: Target<'_>, server: u32, people: &People, rooms: &[Room]) -> Result<Idle, Problem> {
    let before = Usage::of(Who::One(server))?;
    let begun = Instant::now();
    let members = rooms.iter().flat_map(|room| people.members(room).iter().map(move |account| (room, account)));
    let seats: Vec<Seat> =
        stream::iter(members.map(|(room, account)| Seat::connect(target, account, room))).buffered(OPENING).try_collect().await?;
    let opened_per_s = seats.len() as f64 / begun.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let after = Usage::of(Who::One(server))?;
    let kib = after.resident.saturating_sub(before.resident) as f64 / 1024.0 / seats.len() as f64;
    Ok(Idle { kib, opened_per_s })
}
