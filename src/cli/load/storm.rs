//! A reconnect storm: everybody was away, missed the same rows, and comes back at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

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

/// All members of these rooms connect at the same moment and fetch what follows their room's cursor, which must be `missed` rows.
/// Answers how long it took from the first attempt until a client was live and had what it missed.
///
/// # Errors
/// When somebody cannot connect, or gets something else than what was missed.
pub async fn storm(net: &Arc<Net>, people: &People, rooms: &[(Room, u64)], missed: u64) -> Result<Latencies, Problem> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for (room, cursor) in rooms {
        for account in people.members(room) {
            let (net, account, stream, cursor) = (Arc::clone(net), account.clone(), room.channel_id.into(), *cursor);
            clients.spawn(async move {
                let socket = come_back(&net, &account, stream, cursor, missed).await?;
                Ok::<_, Problem>((socket, begun.elapsed()))
            });
        }
    }
    let mut back = Latencies::default();
    // Nobody leaves before everybody is back.
    let mut open = Vec::new();
    while let Some(done) = clients.join_next().await {
        let (socket, elapsed) = done.map_err(|error| failed(error.to_string()))??;
        open.push(socket);
        back.add(elapsed);
    }
    Ok(back)
}

async fn come_back(net: &Net, account: &Account, stream: StreamId, cursor: u64, missed: u64) -> Result<Socket, Problem> {
    let (socket, ready) =
        net.open(account.token.clone()).await.map_err(|error| failed(format!("{} cannot connect: {error}", account.name)))?;
    let head = ready.streams.get(&stream).copied().unwrap_or_default();
    let request = SyncRequest { cursors: BTreeMap::from([(stream, cursor)]), limit: None, ack_inbox: None };
    let body = serde_json::to_vec(&request).map_err(|error| failed(error.to_string()))?;
    let call = Call { method: Method::Post, path: "/sync".to_owned(), body: Some(body), bearer: Some(account.token.clone()) };
    let answer = net.http(call).await.map_err(|error| failed(format!("{} cannot sync: {error}", account.name)))?;
    if answer.status != 200 {
        return Err(failed(format!("a sync was answered with HTTP {}", answer.status)));
    }
    let answer: SyncAnswer = serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
    let seqs: Vec<u64> = answer.events.iter().map(|event| event.seq).collect();
    if head != cursor + missed || seqs != (cursor + 1..=head).collect::<Vec<_>>() {
        return Err(failed(format!("{} missed {missed} rows after {cursor} and was told {seqs:?}", account.name)));
    }
    Ok(socket)
}
