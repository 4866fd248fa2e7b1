//! The whole client over a transport in memory: a line that dies in the middle of a send, and the bound of every queue.

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::command::Place;
use super::super::engine::HttpTag;
use super::super::engine::tests::server::Server;
use super::super::event::Answer as Reply;
use super::super::model::Delivery;
use super::super::store::MemoryStore;
use super::super::transport::memory::{self, Asked, Peer, ServerEnd};
use super::super::transport::{Incoming, QUEUE};
use super::super::{Client, Events};
use super::*;
use crate::protocol::auth::Tokens;
use crate::protocol::communities::Visibility;
use crate::protocol::frame::ServerFrame;
use crate::protocol::ids::{ChannelId, DeviceAddr, SessionId, UserId};
use crate::protocol::messages::Send;

const FAR: Timestamp = Timestamp(253_402_300_799_000);
/// Something that has to happen, with real threads.
const SOON: Duration = Duration::from_secs(60);
/// Something that must not happen, on a clock that jumps.
const HOUR: Duration = Duration::from_secs(3600);

/// A login whose session has no device yet.
fn record(user: crate::protocol::users::User) -> SessionRecord {
    let tokens = Tokens {
        access_token: "access".into(),
        access_expires_at: FAR,
        refresh_token: "refresh".into(),
        refresh_expires_at: FAR,
    };
    SessionRecord {
        user,
        server: "https://chat.test".into(),
        server_name: "Test".into(),
        device_name: "laptop".into(),
        session_id: SessionId::from_bytes([2; 16]),
        device_id: None,
        tokens: Some(tokens),
    }
}

fn ana() -> crate::protocol::users::User {
    serde_json::from_value(serde_json::json!({
        "id": UserId::from_bytes([1; 16]), "username": "ana", "created_at": "2026-11-21T09:00:00.000Z"
    }))
    .unwrap()
}

/// The model of the server at the other end of a transport, for one user.
struct Bridge {
    server: Server,
    user_id: UserId,
    peer: Peer,
    line: Option<ServerEnd>,
    /// Sends of rows, as they came.
    sends: Vec<Send>,
    /// What happens to the next sends: the line dies before the server has them, or before it answers.
    dies: Vec<Dies>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    Before,
    AfterCommit,
}

impl Bridge {
    fn addr(&self) -> DeviceAddr {
        let device = self.server.accounts[&self.user_id].devices.keys().next();
        DeviceAddr { user_id: self.user_id, device_id: device.copied().unwrap_or(0) }
    }

    async fn push(&mut self, pushes: Vec<(DeviceAddr, ServerFrame)>) {
        for (_, frame) in pushes {
            if let Some(line) = &self.line {
                let _ = line.to_client.send(Incoming::Frame(frame)).await;
            }
        }
    }

    async fn run(mut self, stop: oneshot::Receiver<()>) -> Self {
        let mut stop = stop;
        loop {
            let line = async {
                match &mut self.line {
                    Some(line) => line.from_client.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = &mut stop => return self,
                frame = line => match frame {
                    None => self.line = None,
                    Some(frame) => self.frame(frame).await,
                },
                asked = self.peer.recv() => match asked {
                    None => return self,
                    Some(Asked::Http(Call { method, path, body, .. }, answer)) => {
                        let (addr, mut pushes) = (self.addr(), Vec::new());
                        let done = self.server.http(addr, &Request { tag: HttpTag(0), method, path, body }, &mut pushes);
                        let _ = answer.send(Ok(done));
                        self.push(pushes).await;
                    }
                    Some(Asked::Connect(_, answer)) => {
                        let mut pushes = self.server.connect(self.addr());
                        let (_, ServerFrame::Ready(ready)) = pushes.remove(0) else { panic!("it begins with ready") };
                        let (connection, line) = memory::accept(ready);
                        self.line = Some(line);
                        let _ = answer.send(Ok(connection));
                        self.push(pushes).await;
                    }
                },
            }
        }
    }

    async fn frame(&mut self, frame: ClientFrame) {
        let is_row = matches!(frame, ClientFrame::Send(_));
        if let ClientFrame::Send(send) = &frame {
            self.sends.push(send.clone());
        }
        let dies = if is_row && !self.dies.is_empty() { Some(self.dies.remove(0)) } else { None };
        if dies == Some(Dies::Before) {
            self.line = None;
            return;
        }
        let pushes = self.server.frame(self.addr(), frame);
        if dies == Some(Dies::AfterCommit) {
            self.line = None;
            return;
        }
        self.push(pushes).await;
    }
}

async fn next(events: &mut Events) -> ClientEvent {
    timeout(SOON, events.recv()).await.expect("something happens").expect("the client runs")
}

async fn ask(client: &Client, events: &mut Events, command: Command) -> Reply {
    timeout(SOON, client.call(events, command, |_| ())).await.expect("it is answered").unwrap()
}

#[tokio::test]
async fn a_message_on_a_line_that_dies_is_sent_again_byte_for_byte_and_is_there_once() {
    let mut server = Server::new(1_795_000_000_000);
    let user = server.add_user("ana");
    let mut store = MemoryStore::new();
    core::save_session(&mut store, &record(user.clone())).unwrap();
    let (transport, peer) = memory::pair();
    let bridge = Bridge {
        server,
        user_id: user.id,
        peer,
        line: None,
        sends: Vec::new(),
        dies: vec![Dies::Before, Dies::AfterCommit, Dies::AfterCommit],
    };
    let (stop, stopped) = oneshot::channel();
    let bridge = tokio::spawn(bridge.run(stopped));
    let (client, mut events) = Client::start(Box::new(store), Arc::new(transport), None).unwrap();
    while !matches!(next(&mut events).await, ClientEvent::Syncing { remaining: 0 }) {}

    let community = Command::CreateCommunity { name: "Acme".into(), description: None };
    let Reply::Community(community_id) = ask(&client, &mut events, community).await else { panic!("a community") };
    let group = Command::CreateGroup { community_id, name: "Backend".into(), visibility: Visibility::Public };
    let Reply::Group(group_id) = ask(&client, &mut events, group).await else { panic!("a group") };
    let channel = Command::CreateChannel { group_id, name: "deploys".into(), topic: None, visibility: Visibility::Public };
    let Reply::Channel(channel_id) = ask(&client, &mut events, channel).await else { panic!("a channel") };

    let place = Place { channel_id, thread: None };
    client.send(Command::SendText { place, text: "once".into(), reply_to: None, mentions: Vec::new(), id: None });
    let mut lost = 0;
    loop {
        match next(&mut events).await {
            ClientEvent::Connection(Connection::Offline { .. }) => {
                lost += 1;
                client.send(Command::Reconnect);
            }
            ClientEvent::Timeline { items, .. } if items.iter().any(|item| item.delivery == Delivery::Sent) => break,
            _ => {}
        }
    }
    client.close().await;
    stop.send(()).unwrap();
    let bridge = bridge.await.unwrap();
    // After a commit the row may come back by its stream before the message has to be sent again.
    assert!((2..=4).contains(&bridge.sends.len()) && lost >= 2, "{} sends, {lost} lines lost", bridge.sends.len());
    assert!(bridge.sends.iter().all(|send| *send == bridge.sends[0]));
    assert_eq!(bridge.server.channels[&channel_id].rows.len(), 1);
}

/// What the tasks share, without an engine: its inputs are read by the test.
fn shared() -> (Arc<Shared>, mpsc::Receiver<Task>, Peer) {
    let (transport, peer) = memory::pair();
    let (tasks, queue) = mpsc::channel(core::QUEUE);
    (Arc::new(Shared::new(Some(record(ana())), tasks, Arc::new(transport))), queue, peer)
}

#[test]
fn a_connection_that_takes_no_more_frames_is_given_up() {
    let (shared, _tasks, _peer) = shared();
    let typing = || ClientFrame::Typing { channel_id: ChannelId::from_bytes([1; 16]) };
    // Without a connection frames are dropped.
    send(&shared, typing());
    let (outgoing, mut socket) = mpsc::channel(QUEUE);
    shared.set_outgoing(Some(outgoing));
    for _ in 0..QUEUE {
        send(&shared, typing());
    }
    assert!(shared.outgoing.lock().unwrap().is_some());
    send(&shared, typing());
    assert!(shared.outgoing.lock().unwrap().is_none());
    let taken = std::iter::from_fn(|| socket.try_recv().ok()).count();
    assert_eq!(taken, QUEUE);
    assert_eq!(socket.try_recv(), Err(mpsc::error::TryRecvError::Disconnected), "the socket is closed");
}

#[tokio::test(start_paused = true)]
async fn eight_calls_are_under_way_at_once_and_the_others_wait() {
    let (shared, mut tasks, mut peer) = shared();
    for tag in 0..20 {
        let (shared, path) = (shared.clone(), format!("/{tag}"));
        tokio::spawn(async move {
            call(&shared, Request { tag: HttpTag(tag), method: super::super::engine::Method::Get, path, body: None }).await;
        });
    }
    let mut answers = Vec::new();
    while let Ok(Some(Asked::Http(_, answer))) = timeout(HOUR, peer.recv()).await {
        answers.push(answer);
    }
    assert_eq!(answers.len(), CALLS);
    // One answer, one more question; a question without an answer is told as such.
    answers.pop().unwrap().send(Ok(Answer { status: 200, body: Vec::new() })).unwrap();
    drop(answers.pop());
    let mut told = Vec::new();
    for _ in 0..2 {
        match tasks.recv().await {
            Some(Task::Input(Input::Http { answer, .. })) => told.push(answer.map(|answer| answer.status)),
            other => panic!("{other:?}"),
        }
    }
    told.sort_by_key(Result::is_err);
    assert_eq!(told, [Ok(200), Err(Unreachable { why: "connection refused".into() })]);
    while let Ok(Some(Asked::Http(_, answer))) = timeout(HOUR, peer.recv()).await {
        answers.push(answer);
    }
    assert_eq!(answers.len(), CALLS, "two more for the two that ended");
}

fn latency(ms: u32) -> ClientEvent {
    ClientEvent::Connection(Connection::Online { latency_ms: Some(ms) })
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_listen_is_dropped_and_the_owner_holds_back_and_hears_all() {
    let (owner, mut heard) = mpsc::channel(4);
    let (deaf, mut unread) = mpsc::channel(4);
    let (quick, mut read) = mpsc::channel(64);
    let mut audience = Audience::new(owner);
    audience.join(Guest { number: 1, events: deaf });
    audience.join(Guest { number: 2, events: quick });
    let mut telling = tokio::spawn(async move {
        for ms in 0..20 {
            audience.tell(latency(ms)).await;
        }
        audience
    });
    assert!(timeout(HOUR, &mut telling).await.is_err(), "everything waits for the owner");
    for ms in 0..20 {
        assert_eq!(heard.recv().await, Some(latency(ms)));
    }
    let audience = telling.await.unwrap();
    assert_eq!(audience.guests.keys().copied().collect::<Vec<_>>(), [2]);
    // What a newcomer has to know, then the news: as much as fits, and then the end.
    let count = |guest: &mut mpsc::Receiver<ClientEvent>| std::iter::from_fn(|| guest.try_recv().ok()).count();
    assert_eq!((count(&mut unread), unread.is_closed()), (4, true));
    assert_eq!(count(&mut read), 22);
}

#[tokio::test]
async fn a_program_that_asks_without_end_is_told_that_the_client_is_busy() {
    let (transport, _peer) = memory::pair();
    let (client, mut events) = Client::start(Box::new(MemoryStore::new()), Arc::new(transport), None).unwrap();
    // Nothing else runs on this thread before the first wait.
    let asked: Vec<RequestId> = (0..400).map(|_| client.send(Command::ListDevices)).collect();
    let mut refused = 0;
    let mut answered = Vec::new();
    while answered.len() < asked.len() {
        if let ClientEvent::Done { request, result } = next(&mut events).await {
            refused += usize::from(result == Err(too_busy()));
            answered.push(request);
        }
    }
    answered.sort();
    assert_eq!(answered, asked, "each is answered once");
    assert_eq!(refused, 400 - super::super::COMMANDS);
}

#[tokio::test]
async fn the_client_ends_while_the_server_answers_nothing() {
    let mut server = Server::new(1_795_000_000_000);
    let user = server.add_user("ana");
    let mut store = MemoryStore::new();
    core::save_session(&mut store, &record(user)).unwrap();
    let (transport, mut peer) = memory::pair();
    let (client, mut events) = Client::start(Box::new(store), Arc::new(transport), None).unwrap();
    let unanswered = timeout(SOON, peer.recv()).await.expect("it asks for its own keys");
    client.close().await;
    while !matches!(next(&mut events).await, ClientEvent::Closed) {}
    drop(unanswered);
}
