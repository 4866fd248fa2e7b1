//! Something on a port that is no server of ours: it says what a test wants said, to everybody.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::Value;

pub struct Fake {
    pub address: String,
}

impl Fake {
    /// The same bytes, whatever was asked.
    pub fn answers(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::answering(move |_| bytes.clone())
    }

    /// Bytes that depend on the head of the request.
    pub fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap_or_default();
                let _ = stream.write_all(&answer(&String::from_utf8_lossy(&head[..read])));
            }
        });
        Self { address }
    }

    /// An answer of HTTP, after which the connection ends.
    pub fn json(status: u16, body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        (head + &body).into_bytes()
    }
}
