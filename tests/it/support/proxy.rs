//! Stands between a server and its database: it writes down what is asked, and can lose the answers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio_postgres::config::Host;

use super::database::TestDatabase;

pub struct Proxy {
    pub url: String,
    /// Questions arrive and are done; their answers, and the connections, are gone.
    pub deaf: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    /// The first ones of all connections, which get no answer any more.
    frozen: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub async fn before(database: &TestDatabase) -> Self {
        let config: tokio_postgres::Config = database.url.parse().unwrap();
        let [Host::Unix(folder)] = config.get_hosts() else { panic!("{:?}", config.get_hosts()) };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let socket: PathBuf = folder.join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (user, name) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let proxy = Self {
            url: format!("postgresql://{user}@{address}/{name}"),
            deaf: Arc::default(),
            connections: Arc::default(),
            frozen: Arc::default(),
            asked: Arc::default(),
        };
        let (deaf, asked) = (Arc::clone(&proxy.deaf), Arc::clone(&proxy.asked));
        let (connections, frozen) = (Arc::clone(&proxy.connections), Arc::clone(&proxy.frozen));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, deaf, asked) = (socket.clone(), Arc::clone(&deaf), Arc::clone(&asked));
                let (number, frozen) = (connections.fetch_add(1, Ordering::SeqCst), Arc::clone(&frozen));
                tokio::spawn(async move {
                    let Ok(server) = UnixStream::connect(socket).await else { return };
                    let (mut from_server, mut to_server) = server.into_split();
                    let (mut from_client, mut to_client) = client.into_split();
                    let asking = async {
                        let (mut bytes, mut questions) = (vec![0; 65_536], Questions::default());
                        while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
                            asked.lock().unwrap().extend(questions.read(&bytes[..read]));
                            if to_server.write_all(&bytes[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    let answering = async {
                        let mut bytes = vec![0; 65_536];
                        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                            if number < frozen.load(Ordering::SeqCst) {
                                std::future::pending::<()>().await;
                            }
                            if deaf.load(Ordering::SeqCst) || to_client.write_all(&bytes[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! { () = asking => {}, () = answering => {} }
                });
            }
        });
        proxy
    }

    /// As if the processes behind all connections of now were stopped: they stay open, and no answer comes through them any
    /// more. New ones are as ever.
    pub fn freeze(&self) {
        self.frozen.store(self.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// How many statements with one of these words were executed so far.
    pub fn asked(&self, words: &[&str]) -> usize {
        self.asked.lock().unwrap().iter().filter(|sql| words.iter().any(|word| sql.contains(word))).count()
    }
}

/// The statements in one connection's half of the protocol.
#[derive(Default)]
struct Questions {
    waiting: Vec<u8>,
    started: bool,
    /// By the names under which they were prepared.
    prepared: HashMap<Vec<u8>, String>,
}

impl Questions {
    fn read(&mut self, bytes: &[u8]) -> Vec<String> {
        self.waiting.extend(bytes);
        let mut asked = Vec::new();
        loop {
            // The first message has no type.
            let head = usize::from(self.started);
            let Some(length) = self.waiting.get(head..head + 4) else { return asked };
            let end = head + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.waiting.len() < end {
                return asked;
            }
            let message: Vec<u8> = self.waiting.drain(..end).collect();
            if std::mem::replace(&mut self.started, true) {
                let mut texts = message[5..].split(|byte| *byte == 0).map(<[u8]>::to_vec);
                let mut text = || texts.next().unwrap_or_default();
                match message[0] {
                    b'Q' => asked.push(String::from_utf8_lossy(&text()).into_owned()),
                    b'P' => {
                        let (name, sql) = (text(), String::from_utf8_lossy(&text()).into_owned());
                        self.prepared.insert(name, sql);
                    }
                    b'B' => {
                        let _portal = text();
                        asked.extend(self.prepared.get(&text()).cloned());
                    }
                    _ => {}
                }
            }
        }
    }
}
