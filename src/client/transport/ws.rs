//! The WebSocket: opening, authenticating, and two tasks that move frames between the socket and bounded queues. A task
//! ends with its socket and says why; nothing here tries again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use super::http::is_tls;
use super::{Close, ConnectError, Connection, Failure, Incoming, QUEUE, ServerUrl, TransportError};
use crate::protocol::auth::SecretText;
use crate::protocol::codec::Encoding;
use crate::protocol::frame::{ClientFrame, Ready, ServerFrame};

/// From the first packet to `ready`.
const OPEN: Duration = Duration::from_secs(15);
/// A frame that cannot be written for so long means a dead line.
const WRITE: Duration = Duration::from_secs(20);
/// Between our pings; the server pings as often.
const PING: Duration = Duration::from_secs(20);
/// Nothing came for so long: the line is dead, whatever TCP thinks.
const SILENCE: Duration = Duration::from_secs(50);
/// `ready` names all streams of the user; every other frame is far below.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// An open WebSocket.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens and authenticates; the tasks run until the socket ends or `outgoing` is dropped.
///
/// # Errors
/// When there is no server, no WebSocket, or the token is refused.
pub async fn connect(
    server: &ServerUrl,
    tls: Arc<rustls::ClientConfig>,
    encoding: Encoding,
    token: SecretText,
) -> Result<Connection, ConnectError> {
    let (socket, ready) = open(server, tls, encoding, token).await?;
    let (sink, stream) = socket.split();
    let (outgoing, to_write) = mpsc::channel(QUEUE);
    let (to_driver, incoming) = mpsc::channel(QUEUE);
    let clock = Instant::now();
    let writer = tokio::spawn(write_loop(sink, to_write, encoding, clock));
    tokio::spawn(async move {
        let close = read_loop(stream, &to_driver, encoding, clock).await;
        writer.abort();
        // The driver may be gone; then nobody needs to know.
        let _ = to_driver.send(Incoming::Closed(close)).await;
    });
    Ok(Connection { ready, outgoing, incoming })
}

/// Sizes of buffers and messages.
pub fn settings() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(1024 * 1024)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}

/// Opens and authenticates, without tasks: for whoever moves the frames themselves.
///
/// # Errors
/// As [`connect`].
pub async fn open(
    server: &ServerUrl,
    tls: Arc<rustls::ClientConfig>,
    encoding: Encoding,
    token: SecretText,
) -> Result<(Socket, Ready), ConnectError> {
    timeout(OPEN, handshake(server, tls, encoding, token))
        .await
        .unwrap_or_else(|_| Err(TransportError::new(Failure::Timeout, "no answer within 15 seconds").into()))
}

async fn handshake(
    server: &ServerUrl,
    tls: Arc<rustls::ClientConfig>,
    encoding: Encoding,
    token: SecretText,
) -> Result<(Socket, Ready), ConnectError> {
    let mut url = server.api("/ws")?;
    let scheme = if server.is_tls() { "wss" } else { "ws" };
    url.set_scheme(scheme).map_err(|()| TransportError::new(Failure::Unreachable, "bad address"))?;
    let mut request = url.as_str().into_client_request().map_err(|error| classify(&error))?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(encoding.subprotocol()));
    let connector = if server.is_tls() { Connector::Rustls(tls) } else { Connector::Plain };
    let (mut socket, response) =
        tokio_tungstenite::connect_async_tls_with_config(request, Some(settings()), true, Some(connector))
            .await
            .map_err(|error| classify(&error))?;
    let chosen = response.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    if chosen != Some(encoding.subprotocol()) {
        return Err(TransportError::new(Failure::NotChat, "it does not speak this protocol").into());
    }
    let first = message(encoding, &ClientFrame::Authenticate { token });
    socket.send(first).await.map_err(|error| classify(&error))?;
    loop {
        match read(&mut socket, encoding).await {
            Read::Frame(ServerFrame::Ready(ready)) => return Ok((socket, ready)),
            Read::Frame(ServerFrame::Error(error)) => {
                return Err(ConnectError::Refused { code: error.code, message: error.message });
            }
            Read::Frame(_) | Read::Nothing => {}
            // Nothing else comes before `ready`, so nothing would come any more.
            Read::Garbled(why) => return Err(TransportError::new(Failure::NotChat, why).into()),
            Read::Closed(close) => return Err(ConnectError::Closed(close)),
        }
    }
}

async fn write_loop(
    mut sink: SplitSink<Socket, Message>,
    mut frames: mpsc::Receiver<ClientFrame>,
    encoding: Encoding,
    clock: Instant,
) {
    let mut pings = tokio::time::interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            _ = pings.tick() => Some(ClientFrame::Ping { t: elapsed_ms(clock) }),
        };
        let done = match frame {
            Some(frame) => timeout(WRITE, sink.send(message(encoding, &frame))).await,
            None => {
                let _ = timeout(WRITE, sink.close()).await;
                return;
            }
        };
        if !matches!(done, Ok(Ok(()))) {
            // The reader notices the broken socket; closing makes it notice now.
            let _ = timeout(Duration::from_secs(1), sink.close()).await;
            return;
        }
    }
}

async fn read_loop(
    mut stream: SplitStream<Socket>,
    driver: &mpsc::Sender<Incoming>,
    encoding: Encoding,
    clock: Instant,
) -> Close {
    loop {
        let incoming = match timeout(SILENCE, read(&mut stream, encoding)).await {
            Err(_) => return Close::Broken("the server fell silent".into()),
            Ok(Read::Closed(close)) => return close,
            Ok(Read::Nothing | Read::Garbled(_)) => continue,
            Ok(Read::Frame(ServerFrame::Pong { t })) => {
                Incoming::Latency(u32::try_from(elapsed_ms(clock).saturating_sub(t)).unwrap_or(u32::MAX))
            }
            Ok(Read::Frame(frame)) => Incoming::Frame(frame),
        };
        if driver.send(incoming).await.is_err() {
            return Close::Broken("closed here".into());
        }
    }
}

enum Read {
    Frame(ServerFrame),
    /// A ping.
    Nothing,
    /// A frame that we cannot read: a bug of the server. Its loss shows as a gap, which is fetched.
    Garbled(String),
    Closed(Close),
}

async fn read(stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin), encoding: Encoding) -> Read {
    let bytes = match stream.next().await {
        None => return Read::Closed(Close::Broken("the connection ended".into())),
        Some(Err(error)) => return Read::Closed(Close::Broken(classify(&error).why)),
        Some(Ok(Message::Close(None))) => return Read::Closed(Close::Broken("the server closed the connection".into())),
        Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
            return Read::Closed(Close::from_code(code.into(), reason.as_str()));
        }
        Some(Ok(Message::Text(text))) if encoding == Encoding::Json => text.into(),
        Some(Ok(Message::Binary(bytes))) if encoding == Encoding::MessagePack => bytes,
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Read::Nothing,
        Some(Ok(_)) => return Read::Closed(Close::Broken("the server sent a frame of the wrong type".into())),
    };
    match encoding.decode::<ServerFrame>(&bytes) {
        Ok(frame) => Read::Frame(frame),
        Err(error) => {
            tracing::warn!(bytes = bytes.len(), error = %error, "a frame of the server cannot be read");
            Read::Garbled(unreadable(&error))
        }
    }
}

/// The message of a frame.
pub fn message(encoding: Encoding, frame: &ClientFrame) -> Message {
    match (encoding, encoding.encode(frame)) {
        (Encoding::Json, Ok(bytes)) => String::from_utf8(bytes).map_or_else(|_| Message::text(""), Message::text),
        (Encoding::MessagePack, Ok(bytes)) => Message::binary(bytes),
        // No type of the protocol has a map with keys that are not strings.
        (_, Err(_)) => Message::text(""),
    }
}

fn elapsed_ms(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn classify(error: &tungstenite::Error) -> TransportError {
    match error {
        tungstenite::Error::Io(io) if is_tls(io) => TransportError::new(Failure::Tls, io.to_string()),
        tungstenite::Error::Io(io) => TransportError::new(Failure::Unreachable, io.to_string()),
        // A handshake that is none, or one without our subprotocol.
        tungstenite::Error::Protocol(protocol) => TransportError::new(Failure::NotChat, protocol.to_string()),
        tungstenite::Error::Tls(tls) => TransportError::new(Failure::Tls, tls.to_string()),
        tungstenite::Error::Http(response) if response.status().is_server_error() => {
            TransportError::new(Failure::Unreachable, format!("HTTP {}", response.status()))
        }
        tungstenite::Error::Http(response) => TransportError::new(Failure::NotChat, format!("HTTP {}", response.status())),
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            TransportError::new(Failure::Unreachable, "the connection ended")
        }
        tungstenite::Error::Utf8(_) | tungstenite::Error::Capacity(_) => TransportError::new(Failure::NotChat, unreadable(error)),
        other => TransportError::new(Failure::Unreachable, other.to_string()),
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> String {
    format!("it answers, but what it says cannot be read: {error}")
}
