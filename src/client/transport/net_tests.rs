//! The real transport against a scripted server on a loopback port.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::protocol::codec::{Blob, Timestamp};
use crate::protocol::devices::DeviceMessage;
use crate::protocol::frame::ErrorFrame;
use crate::protocol::ids::{EpochId, SessionId, UserId};
use crate::protocol::limits::Limits;

const SOON: Duration = Duration::from_secs(10);

async fn serve(router: Router) -> ServerUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ServerUrl::parse(&listener.local_addr().unwrap().to_string(), false).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn net(url: ServerUrl, encoding: Encoding) -> Net {
    Net::new(url, encoding).unwrap()
}

fn get_call(path: &str) -> Call {
    Call { method: Method::Get, path: path.to_owned(), body: None, bearer: Some("secret".into()) }
}

fn ready() -> Ready {
    Ready {
        user_id: UserId::from_bytes([1; 16]),
        session_id: SessionId::from_bytes([2; 16]),
        device_id: Some(1),
        epoch: EpochId::from_bytes([3; 16]),
        server_time: Timestamp(1_000),
        limits: Limits::default(),
        streams: std::collections::BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_call_carries_its_token_and_any_status_is_an_answer() {
    let echo = |headers: HeaderMap, body: String| async move {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        (StatusCode::IM_A_TEAPOT, format!("{} {} {body}", text(header::AUTHORIZATION), text(header::CONTENT_TYPE)))
    };
    let url = serve(Router::new().route("/api/v1/echo", any(echo))).await;
    let call = Call { method: Method::Put, body: Some(b"{}".to_vec()), ..get_call("/echo?a=1") };
    let answer = net(url, Encoding::Json).http(call).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (418, b"Bearer secret application/json {}".as_slice()));
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_token() {
    let away = || async { (StatusCode::FOUND, [(header::LOCATION, "/api/v1/elsewhere")]) };
    let elsewhere = || async { StatusCode::OK };
    let url = serve(Router::new().route("/api/v1/x", get(away)).route("/api/v1/elsewhere", get(elsewhere))).await;
    assert_eq!(net(url, Encoding::Json).http(get_call("/x")).await.unwrap().status, 302);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let endless = || async {
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 1 << 16]));
        Response::new(Body::from_stream(chunks))
    };
    let url = serve(Router::new().route("/api/v1/x", get(endless))).await;
    let error = timeout(SOON, net(url, Encoding::Json).http(get_call("/x"))).await.unwrap().unwrap_err();
    assert_eq!(error, TransportError::new(Failure::NotChat, "the answer is too long"));
}

#[tokio::test]
async fn nobody_there_and_no_tls_there_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gone = net(ServerUrl::parse(&address.to_string(), false).unwrap(), Encoding::Json);
    let error = gone.http(get_call("/x")).await.unwrap_err();
    assert_eq!(error.kind, Failure::Unreachable, "{error}");
    assert!(!error.why.contains("127.0.0.1"), "{error}");
    let error = gone.connect("t".into()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Transport(TransportError { kind: Failure::Unreachable, .. })), "{error}");

    let plain = serve(Router::new()).await.origin().replace("http://", "https://");
    let no_tls = net(ServerUrl::parse(&plain, false).unwrap(), Encoding::Json);
    assert_eq!(no_tls.http(get_call("/x")).await.unwrap_err().kind, Failure::Tls);
    let error = no_tls.connect("t".into()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Transport(TransportError { kind: Failure::Tls, .. })), "{error}");
    assert!(error.to_string().len() < 200);
}

/// A WebSocket server that runs `script` on every connection.
async fn socket<F>(script: impl Fn(Script) -> F + Clone + Send + Sync + 'static) -> ServerUrl
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = move |upgrade: WebSocketUpgrade| {
        let script = script.clone();
        async move {
            let upgrade = upgrade.protocols(Encoding::ALL.map(Encoding::subprotocol));
            let encoding = Encoding::ALL
                .into_iter()
                .find(|encoding| upgrade.selected_protocol().is_some_and(|chosen| chosen == encoding.subprotocol()))
                .unwrap();
            upgrade.on_upgrade(move |socket| script(Script { socket, encoding })).into_response()
        }
    };
    serve(Router::new().route("/api/v1/ws", any(upgrade))).await
}

struct Script {
    socket: WebSocket,
    encoding: Encoding,
}

impl Script {
    async fn send(&mut self, frame: &ServerFrame) {
        let bytes = self.encoding.encode(frame).unwrap();
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(bytes).unwrap()),
            Encoding::MessagePack => Message::binary(bytes),
        };
        self.socket.send(message).await.unwrap();
    }

    /// The next frame that is no ping of the client.
    async fn frame(&mut self) -> Option<ClientFrame> {
        loop {
            let bytes = match self.socket.recv().await?.ok()? {
                Message::Text(text) if self.encoding == Encoding::Json => text.into(),
                Message::Binary(bytes) if self.encoding == Encoding::MessagePack => bytes,
                Message::Close(_) => return None,
                other => panic!("{other:?} in {:?}", self.encoding),
            };
            match self.encoding.decode(&bytes).unwrap() {
                ClientFrame::Ping { t } => self.send(&ServerFrame::Pong { t }).await,
                frame => return Some(frame),
            }
        }
    }

    async fn authenticate(&mut self) {
        assert_eq!(self.frame().await, Some(ClientFrame::Authenticate { token: "token".into() }));
        self.send(&ServerFrame::Ready(ready())).await;
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        self.socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await.unwrap();
    }
}

async fn next(connection: &mut Connection) -> Incoming {
    loop {
        match timeout(SOON, connection.incoming.recv()).await.unwrap().unwrap() {
            Incoming::Latency(_) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn frames_go_both_ways_in_both_encodings() {
    for encoding in Encoding::ALL {
        let url = socket(|mut script| async move {
            script.authenticate().await;
            assert_eq!(script.frame().await, Some(ClientFrame::AckInbox { up_to: 7 }));
            script
                .send(&ServerFrame::DeviceMessage(DeviceMessage {
                    inbox_seq: 8,
                    from_user: UserId::from_bytes([4; 16]),
                    from_device: 2,
                    ciphertext: Blob(vec![0, 159, 255]),
                    nonce: Blob(vec![0; 12]),
                    created_at: Timestamp(5),
                }))
                .await;
            assert_eq!(script.frame().await, None, "dropping the sender closes the socket");
        })
        .await;
        let mut connection = net(url, encoding).connect("token".into()).await.unwrap();
        assert_eq!(connection.ready, ready());
        connection.outgoing.send(ClientFrame::AckInbox { up_to: 7 }).await.unwrap();
        let Incoming::Frame(ServerFrame::DeviceMessage(message)) = next(&mut connection).await else { panic!("a message") };
        assert_eq!((message.inbox_seq, message.ciphertext.as_slice()), (8, [0, 159, 255].as_slice()));
        let Connection { outgoing, mut incoming, .. } = connection;
        drop(outgoing);
        timeout(SOON, async { while incoming.recv().await.is_some() {} }).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_token_is_told_from_a_broken_line() {
    let url = socket(|mut script| async move {
        script.frame().await;
        let code = ErrorCode::TokenExpired;
        let error = ErrorFrame { reference: None, code, message: "expired".into(), details: None, retry_after_ms: None };
        script.send(&ServerFrame::Error(error)).await;
        script.close(4001, "").await;
    })
    .await;
    let error = net(url, Encoding::Json).connect("token".into()).await.unwrap_err();
    assert_eq!(error, ConnectError::Refused { code: ErrorCode::TokenExpired, message: "expired".into() });

    let url = socket(|mut script| async move { script.close(4003, "").await }).await;
    let error = net(url, Encoding::Json).connect("token".into()).await.unwrap_err();
    assert_eq!(error, ConnectError::Closed(Close::Revoked));
}

#[tokio::test]
async fn the_close_code_reaches_the_driver() {
    let url = socket(|mut script| async move {
        script.authenticate().await;
        script.close(4012, "{\"retry_after_ms\":1234}").await;
        while script.frame().await.is_some() {}
    })
    .await;
    let mut connection = net(url, Encoding::Json).connect("token".into()).await.unwrap();
    let Incoming::Closed(close) = next(&mut connection).await else { panic!("closed") };
    assert_eq!(close, Close::GoingAway { retry_after_ms: 1234 });
    assert!(connection.incoming.recv().await.is_none());
}

#[tokio::test]
async fn a_lost_line_is_noticed() {
    let url = socket(|mut script| async move { script.authenticate().await }).await;
    let mut connection = net(url, Encoding::Json).connect("token".into()).await.unwrap();
    assert!(matches!(next(&mut connection).await, Incoming::Closed(Close::Broken(_))));
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_does_not_end_the_line() {
    let url = socket(|mut script| async move {
        script.authenticate().await;
        for garbage in ["{", "[]", "{\"type\":\"sent\",\"id\":7}", "{\"type\":\"hologram\"}"] {
            script.socket.send(Message::text(garbage)).await.unwrap();
        }
        script.send(&ServerFrame::KeysLow { one_time: 1, kem: 2 }).await;
        script.frame().await;
    })
    .await;
    let mut connection = net(url, Encoding::Json).connect("token".into()).await.unwrap();
    assert!(matches!(next(&mut connection).await, Incoming::Frame(ServerFrame::Unknown)));
    assert!(matches!(next(&mut connection).await, Incoming::Frame(ServerFrame::KeysLow { one_time: 1, kem: 2 })));
}

#[tokio::test]
async fn what_comes_instead_of_ready_and_cannot_be_read_is_said_at_once() {
    let long = "x".repeat(5 * 1024 * 1024);
    for garbage in ["{", "{\"type\":\"ready\"}", long.as_str()] {
        let garbage = garbage.to_owned();
        let url = socket(move |mut script| {
            let garbage = garbage.clone();
            async move {
                script.frame().await;
                // The client may have gone before all of it was sent.
                let _ = script.socket.send(Message::text(garbage)).await;
                script.frame().await;
            }
        })
        .await;
        let error = timeout(SOON, net(url, Encoding::Json).connect("token".into())).await.unwrap().unwrap_err();
        assert!(format!("{error:?}").contains("it answers, but what it says cannot be read"), "{error:?}");
    }
}

#[tokio::test]
async fn a_ping_measures_the_round_trip() {
    let url = socket(|mut script| async move {
        script.authenticate().await;
        script.frame().await;
    })
    .await;
    let mut connection = net(url, Encoding::Json).connect("token".into()).await.unwrap();
    let incoming = timeout(SOON, connection.incoming.recv()).await.unwrap().unwrap();
    assert!(matches!(incoming, Incoming::Latency(ms) if ms < 10_000));
}

#[tokio::test]
async fn a_server_without_our_protocol_is_not_a_chat_server() {
    let other = |upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(|_| async {}).into_response() };
    let url = serve(Router::new().route("/api/v1/ws", any(other))).await;
    for url in [url, serve(Router::new()).await] {
        let error = net(url, Encoding::Json).connect("token".into()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Transport(TransportError { kind: Failure::NotChat, .. })), "{error:?}");
    }
}
