//! A reconnect storm: everybody was away, missed the same rows, and comes back at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::engine::Method;
use crate::client::model::Problem;
use crate::client::transport::ws::Socket;
use crate::client::transport::{Call, Net, Transport as _};
use crate::protocol::ids::StreamId;
use crate::protocol::messages::{SyncAnswer, SyncRequest};

use super::failed;
use super::measure::Latencies;
use super::people::{Account, People, Room};

/// What a client waits after a refusal, and how often it comes back before this counts as a fault.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 30;

/// How everybody came back.
#[derive(Debug, Default)]
pub struct Storm {
    /// From the first attempt until a client was live and had what it missed.
    pub back: Latencies,
    /// Times that the server said that it was busy.
    pub refusals: u32,
}

/// All members of these rooms connect at the same moment and fetch what follows their room's cursor, which must be `missed` rows.
/// Whoever is refused comes back, as a client does.
///
/// # Errors
/// When somebody cannot connect, or gets something else than what was missed.
pub async fn storm(net: &Arc<Net>, people: &People, rooms: &[(Room, u64)], missed: u64) -> Result<Storm, Problem> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for (room, cursor) in rooms {
        for account in people.members(room) {
            let (net, account, stream, cursor) = (Arc::clone(net), account.clone(), room.channel_id.into(), *cursor);
            clients.spawn(async move {
                let (socket, refusals) = come_back(&net, &account, stream, cursor, missed).await?;
                Ok::<_, Problem>((socket, refusals, begun.elapsed()))
            });
        }
    }
    let mut storm = Storm::default();
    // Nobody leaves before everybody is back.
    let mut open = Vec::new();
    while let Some(done) = clients.join_next().await {
        let (socket, refusals, elapsed) = done.map_err(|error| failed(error.to_string()))??;
        open.push(socket);
        storm.back.add(elapsed);
        storm.refusals += refusals;
    }
    Ok(storm)
}

async fn come_back(net: &Net, account: &Account, stream: StreamId, cursor: u64, missed: u64) -> Result<(Socket, u32), Problem> {
    let mut refusals = 0;
    let (socket, ready) = loop {
        match net.open(account.token.clone()).await {
            Ok(opened) => break opened,
            Err(error) if refusals == TRIES => return Err(failed(format!("{} cannot connect: {error}", account.name))),
            Err(_) => again(&mut refusals).await,
        }
    };
    let head = ready.streams.get(&stream).copied().unwrap_or_default();
    let request = SyncRequest { cursors: BTreeMap::from([(stream, cursor)]), limit: None, ack_inbox: None };
    let body = serde_json::to_vec(&request).map_err(|error| failed(error.to_string()))?;
    let call = Call { method: Method::Post, path: "/sync".to_owned(), body: Some(body), bearer: Some(account.token.clone()) };
    let answer = loop {
        let answer = net.http(call.clone()).await.map_err(|error| failed(format!("{} cannot sync: {error}", account.name)))?;
        match answer.status {
            200 => break answer,
            503 if refusals < TRIES => again(&mut refusals).await,
            status => return Err(failed(format!("a sync was answered with HTTP {status}"))),
        }
    };
    let answer: SyncAnswer = serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
    let seqs: Vec<u64> = answer.events.iter().map(|event| event.seq).collect();
    if head != cursor + missed || seqs != (cursor + 1..=head).collect::<Vec<_>>() {
        return Err(failed(format!("{} missed {missed} rows after {cursor} and was told {seqs:?}", account.name)));
    }
    Ok((socket, refusals))
}

async fn again(refusals: &mut u32) {
    *refusals += 1;
    tokio::time::sleep(AGAIN).await;
}
