//! The accept loop: HTTP/1.1 with the bounds that `axum::serve` does not offer (time for a request's head, size of it,
//! connections at a time) and an orderly end. It knows no route.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
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
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the first byte of a request to the end of its head, and between two requests.
    pub head_timeout: Duration,
    /// Connections at a time; the next ones wait in the operating system's queue.
    pub connections: usize,
}

/// Bytes of a request's head.
const HEAD_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;

/// Accepts until `shutdown`, then waits until the running requests have ended; the caller decides for how long. A WebSocket leaves this loop with its upgrade: whoever took it
/// over counts and drains it.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, shutdown: impl Future<Output = ()>) {
    let (closing, closed) = watch::channel(());
    let places = Arc::new(Semaphore::new(bounds.connections));
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
        let (router, mut closed) = (router.clone(), closed.clone());
        connections.spawn(async move {
            let _place = place;
            // Small frames go out at once.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request: hyper::Request<Incoming>| answer(router.clone(), peer, request));
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

/// The next connection, through every error that passes: too many open files, a peer that is gone already.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted) => {}
            Err(cause) => {
                tracing::error!(%cause, "cannot accept connections; trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(router: Router, peer: SocketAddr, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    router.oneshot(request).await
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;

    use super::*;

    const BOUNDS: Bounds = Bounds { head_timeout: Duration::from_millis(200), connections: 2 };

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
