//! The connection to the database breaks while a send is committed: nobody is told that it failed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio_postgres::config::Host;

use crate::support::api::TestServer;
use crate::support::database::TestDatabase;
use crate::support::live::{Live, Room, generous};

/// Stands between the server and its database, and can lose the answers.
struct Proxy {
    url: String,
    deaf: Arc<AtomicBool>,
}

impl Proxy {
    async fn before(database: &TestDatabase) -> Self {
        let config: tokio_postgres::Config = database.url.parse().unwrap();
        let [Host::Unix(folder)] = config.get_hosts() else { panic!("{:?}", config.get_hosts()) };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let socket: PathBuf = folder.join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, deaf) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (user, name) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let proxy = Self { url: format!("postgresql://{user}@{address}/{name}"), deaf: Arc::clone(&deaf) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, deaf) = (socket.clone(), Arc::clone(&deaf));
                tokio::spawn(async move {
                    let Ok(server) = UnixStream::connect(socket).await else { return };
                    let (mut from_server, mut to_server) = server.into_split();
                    let (mut from_client, mut to_client) = client.into_split();
                    let asking = async { tokio::io::copy(&mut from_client, &mut to_server).await };
                    let answering = async {
                        let mut bytes = vec![0; 65_536];
                        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                            // The question arrived and was done; its answer and the connection are gone.
                            if deaf.load(Ordering::SeqCst) || to_client.write_all(&bytes[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! { _ = asking => {}, () = answering => {} }
                });
            }
        });
        proxy
    }
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_and_its_repeat_finds_the_row() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::before(&database).await;
    let live = Live::of(TestServer::over(&proxy.url, Some(database), generous).await).await;
    let room: Room<2> = live.room().await;
    let [ann, bob] = &room.people;
    let mut ann_ws = live.connect(ann).await;
    let mut bob_ws = live.connect(bob).await;
    assert_eq!(ann_ws.ask(&room.message(ann)).await["seq"], 1);

    let request = room.message(ann);
    proxy.deaf.store(true, Ordering::SeqCst);
    assert_eq!(ann_ws.ask(&request).await["code"], "outcome_unknown");
    // Without a database nothing is stored, and that is known.
    assert_eq!(ann_ws.ask(&room.message(ann)).await["code"], "unavailable");
    proxy.deaf.store(false, Ordering::SeqCst);
    let answer = loop {
        let answer = ann_ws.ask(&request).await;
        if answer["code"] != "unavailable" {
            break answer;
        }
    };
    assert_eq!((&answer["type"], &answer["seq"], &answer["duplicate"]), (&json!("sent"), &json!(2), &json!(true)));
    // Whoever hears the channel gets the row, although nobody was told of it.
    for seq in 1..=2 {
        assert_eq!(bob_ws.event(room.channel).await["seq"], seq);
    }
}
