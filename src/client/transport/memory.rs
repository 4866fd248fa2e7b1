//! A transport without a network: the other end is a [`Peer`] in the same process, scripted by a test or a load generator.

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{Call, ConnectError, Connection, Failure, Incoming, QUEUE, Transport, TransportError};
use crate::client::engine::Answer;
use crate::protocol::auth::SecretText;
use crate::protocol::frame::{ClientFrame, Ready};

/// What a client asked of its peer.
#[derive(Debug)]
pub enum Asked {
    Http(Call, oneshot::Sender<Result<Answer, TransportError>>),
    /// A connection with this token: answer with what [`accept`] makes, or refuse.
    Connect(SecretText, oneshot::Sender<Result<Connection, ConnectError>>),
}

/// The client's end.
#[derive(Clone, Debug)]
pub struct MemoryTransport(mpsc::Sender<Asked>);

/// The other end: everything asked, in order. Dropping it takes the network away.
pub type Peer = mpsc::Receiver<Asked>;

/// Both ends.
pub fn pair() -> (MemoryTransport, Peer) {
    let (asked, peer) = mpsc::channel(QUEUE);
    (MemoryTransport(asked), peer)
}

/// The server's end of one connection.
#[derive(Debug)]
pub struct ServerEnd {
    pub from_client: mpsc::Receiver<ClientFrame>,
    /// End with [`Incoming::Closed`]; dropping it breaks the line.
    pub to_client: mpsc::Sender<Incoming>,
}

/// A connection that begins with `ready`, and its other end.
pub fn accept(ready: Ready) -> (Connection, ServerEnd) {
    let (outgoing, from_client) = mpsc::channel(QUEUE);
    let (to_client, incoming) = mpsc::channel(QUEUE);
    (Connection { ready, outgoing, incoming }, ServerEnd { from_client, to_client })
}

impl MemoryTransport {
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Asked) -> Result<T, TransportError> {
        let gone = || TransportError::new(Failure::Unreachable, "connection refused");
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

impl Transport for MemoryTransport {
    fn http(&self, call: Call) -> BoxFuture<'_, Result<Answer, TransportError>> {
        Box::pin(async move { self.ask(|answer| Asked::Http(call, answer)).await? })
    }

    fn connect(&self, token: SecretText) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        Box::pin(async move { self.ask(|answer| Asked::Connect(token, answer)).await? })
    }
}
