//! A WebSocket client that looks at frames as JSON, whatever the encoding.

use std::net::SocketAddr;
use std::time::Duration;

use chat::protocol::codec::Encoding;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Longer than anything that is waited for takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Ws {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub ready: Value,
    encoding: Encoding,
}

/// What ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

impl Ws {
    /// Connects and authenticates.
    pub async fn connect(address: SocketAddr, token: &str) -> Self {
        Self::connect_in(address, token, Encoding::Json).await
    }

    pub async fn connect_in(address: SocketAddr, token: &str, encoding: Encoding) -> Self {
        let mut ws = Self::open(address, encoding).await.unwrap();
        ws.send(json!({ "type": "authenticate", "token": token })).await;
        ws.ready = ws.next().await.unwrap();
        assert_eq!(ws.ready["type"], "ready", "{}", ws.ready);
        ws
    }

    /// Only the upgrade.
    pub async fn open(address: SocketAddr, encoding: Encoding) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{address}/api/v1/ws").into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", encoding.subprotocol().parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Self { socket, ready: Value::Null, encoding })
    }

    pub async fn send(&mut self, frame: Value) {
        let message = match self.encoding {
            Encoding::Json => Message::text(frame.to_string()),
            Encoding::MessagePack => {
                // Through the protocol's own type, so that bytes become bytes.
                let frame: chat::protocol::frame::ClientFrame = serde_json::from_value(frame).unwrap();
                Message::binary(Encoding::MessagePack.encode(&frame).unwrap())
            }
        };
        self.socket.send(message).await.unwrap();
    }

    /// A request of [`super::room`] as a frame.
    pub async fn say(&mut self, mut request: Value) {
        request["type"] = "send".into();
        self.send(request).await;
    }

    /// Says it and waits for the answer.
    pub async fn ask(&mut self, request: &Value) -> Value {
        self.say(request.clone()).await;
        let id = request["id"].clone();
        self.until(|frame| (frame["type"] == "sent" && frame["id"] == id) || (frame["type"] == "error" && frame["ref"] == id))
            .await
    }

    /// The next frame, or how the connection ended.
    pub async fn next(&mut self) -> Result<Value, Closed> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("no frame came");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Binary(bytes))) => {
                    let frame: chat::protocol::frame::ServerFrame = Encoding::MessagePack.decode(&bytes).unwrap();
                    return Ok(serde_json::to_value(frame).unwrap());
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Closed { code: frame.code.into(), reason: frame.reason.to_string() });
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(Closed { code: 1006, reason: String::new() }),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Skips frames until one fits.
    pub async fn until(&mut self, mut fits: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let frame = self.next().await.expect("the connection ended");
            if fits(&frame) {
                return frame;
            }
        }
    }

    /// The next event of a stream.
    pub async fn event(&mut self, stream: impl ToString) -> Value {
        let stream = stream.to_string();
        self.until(|frame| frame["type"] == "event" && frame["stream"] == stream).await
    }

    /// The answer to a ping: everything that was pushed before has been read. Answers the frames before it.
    pub async fn settle(&mut self) -> Vec<Value> {
        self.send(json!({ "type": "ping", "t": 99 })).await;
        let mut before = Vec::new();
        loop {
            let frame = self.next().await.expect("the connection ended");
            if frame["type"] == "pong" {
                return before;
            }
            before.push(frame);
        }
    }

    /// Reads until the end.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }
}
