//! The accept loop: HTTP/1.1 with the bounds that `axum::serve` does not offer (time for a request's head, size of it,
//! connections at a time) and an orderly end. It knows no route.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::places::{Place, Places};

/// Bounds of one listener.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// From the first byte of a request to the end of its head, and between two requests.
    pub head_timeout: Duration,
    /// Connections at a time; the next ones wait in the operating system's queue.
    pub connections: usize,
    /// Connections at a time of one address; the next ones are closed at once.
    pub connections_per_address: u32,
    /// Proxies, which bring everybody's connections.
    pub exempt: Vec<IpAddr>,
}

/// A connection's place among all and among those of its address: an extension of each of its requests, so that a WebSocket
/// keeps it when it leaves this loop.
#[derive(Clone)]
pub struct Held {
    _place: Arc<(OwnedSemaphorePermit, Option<Place>)>,
}

/// Bytes of a request's head.
const HEAD_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// How long sent bytes may stay unacknowledged, or the other side's window closed.
#[cfg(target_os = "linux")]
const UNREAD_TIMEOUT_MS: u32 = 30_000;

/// Accepts until `shutdown`, then waits until the running requests have ended; the caller decides for how long. A WebSocket leaves this loop with its upgrade: whoever took it
/// over counts and drains it.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, shutdown: impl Future<Output = ()>) {
    let (closing, closed) = watch::channel(());
    let (places, of_address) = (Arc::new(Semaphore::new(bounds.connections)), Places::default());
    let connections = TaskTracker::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (accept(&listener).await, place)
        };
        let ((stream, peer), place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let address = peer.ip().to_canonical();
        let mut own = None;
        if !bounds.exempt.contains(&address) {
            own = of_address.take(address, bounds.connections_per_address);
            if own.is_none() {
                tracing::debug!("an address has all its connections: one more is closed");
                continue;
            }
        }
        let held = Held { _place: Arc::new((place, own)) };
        let (router, mut closed) = (router.clone(), closed.clone());
        connections.spawn(async move {
            let service =
                service_fn(move |request: hyper::Request<Incoming>| answer(router.clone(), peer, held.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.head_timeout)
                .max_buf_size(HEAD_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                _ = closed.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(cause) = ended {
                tracing::debug!(%cause, "a connection broke off");
            }
        });
    }
    // No new connections from here on; those that are idle end now, the others after their request.
    drop(listener);
    drop(closing);
    connections.close();
    connections.wait().await;
}

/// Who does not take what was sent, dead or alive, must not hold an answer in memory: the system ends the connection.
#[cfg(target_os = "linux")]
fn end_if_not_read(stream: &TcpStream) {
    // Where it cannot be set, the keepalive of the proxy or of the WebSocket remains.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_TIMEOUT_MS);
}

#[cfg(not(target_os = "linux"))]
fn end_if_not_read(_: &TcpStream) {}

/// The next connection, through every error that passes: too many open files, a peer that is gone already.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small frames go out at once.
                let _ = stream.set_nodelay(true);
                end_if_not_read(&stream);
                return (stream, peer);
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted) => {}
            Err(cause) => {
                tracing::error!(%cause, "cannot accept connections; trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(router: Router, peer: SocketAddr, held: Held, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(held);
    router.oneshot(request).await
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;

    use super::*;

    const BOUNDS: Bounds =
        Bounds { head_timeout: Duration::from_millis(200), connections: 2, connections_per_address: 2, exempt: Vec::new() };

    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start(router: Router, bounds: Bounds) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, bounds, async {
            let _ = stopped.await;
        }));
        Running { address, stop, task }
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    fn hello() -> Router {
        Router::new().route("/", get(async || "hello"))
    }

    #[tokio::test]
    async fn a_head_that_comes_too_slowly_or_is_too_big_ends_its_connection_and_no_other() {
        let running = start(hello(), BOUNDS).await;
        let slow = exchange(running.address, b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ").await;
        assert!(!slow.contains("200 OK"), "{slow}");
        let big = format!("GET / HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n", "a".repeat(100_000));
        let big = exchange(running.address, big.as_bytes()).await;
        assert!(!big.contains("200 OK"), "{big}");
        let good = exchange(running.address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(good.contains("200 OK") && good.ends_with("hello"), "{good}");
        running.stop.send(()).unwrap();
        running.task.await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_does_not_read_is_ended_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = accept(&listener).await;
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(), UNREAD_TIMEOUT_MS);
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn more_connections_than_places_wait_for_one() {
        let running = start(hello(), BOUNDS).await;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        // Two that say nothing hold both places until their time is over.
        let _silent = (TcpStream::connect(running.address).await.unwrap(), TcpStream::connect(running.address).await.unwrap());
        assert!(exchange(running.address, request).await.ends_with("hello"));
        running.stop.send(()).unwrap();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn one_address_does_not_take_the_places_of_others() {
        let running = start(hello(), Bounds { head_timeout: Duration::from_secs(60), connections: 3, ..BOUNDS }).await;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let silent = (TcpStream::connect(running.address).await.unwrap(), TcpStream::connect(running.address).await.unwrap());
        assert_eq!(exchange(running.address, request).await, "", "the third of an address is closed at once");
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = socket.connect(running.address).await.unwrap();
        other.write_all(request).await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        drop(silent);
        running.stop.send(()).unwrap();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn what_leaves_with_an_upgrade_keeps_its_place() {
        let (keep, kept) = std::sync::mpsc::channel();
        let keeping = get(move |request: Request| {
            keep.send(request.extensions().get::<Held>().cloned()).unwrap();
            std::future::ready("hello")
        });
        let running = start(Router::new().route("/", keeping), BOUNDS).await;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(exchange(running.address, request).await.ends_with("hello"));
        assert!(exchange(running.address, request).await.ends_with("hello"));
        let held = (kept.recv().unwrap().unwrap(), kept.recv().unwrap().unwrap());
        let mut waiting = TcpStream::connect(running.address).await.unwrap();
        waiting.write_all(request).await.unwrap();
        let mut answer = String::new();
        {
            let reading = waiting.read_to_string(&mut answer);
            let mut reading = pin!(reading);
            assert!(futures_util::poll!(&mut reading).is_pending());
            drop(held);
            reading.await.unwrap();
        }
        assert!(answer.ends_with("hello"), "{answer}");
        running.stop.send(()).unwrap();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_running_request_ends_before_the_server_does() {
        let (entered, inside) = oneshot::channel();
        let (go, gone) = oneshot::channel::<()>();
        let gates = Arc::new(std::sync::Mutex::new(Some((entered, gone))));
        let slow = async move || {
            let gates = gates.lock().unwrap().take();
            if let Some((entered, gone)) = gates {
                entered.send(()).unwrap();
                gone.await.unwrap();
            }
            "done"
        };
        let running = start(Router::new().route("/", get(slow)), BOUNDS).await;
        let address = running.address;
        let request = tokio::spawn(async move { exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await });
        inside.await.unwrap();
        running.stop.send(()).unwrap();
        go.send(()).unwrap();
        assert!(request.await.unwrap().ends_with("done"));
        running.task.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
