//! Engines joined by a [`Server`](server::Server) model: a [`World`] of people whose lines drop, whose clients crash between
//! saving and sending, and who must all end with the same conversation.

mod attacks;
mod channels;
mod conversations;
mod faults;
mod liars;
mod random;
pub(in crate::client) mod server;

use std::collections::{BTreeMap, VecDeque};

use crate::client::command::{Command, InviteText, Place, RequestId};
use crate::client::engine::{Engine, Input, Line, Login, Output, Request, Unreachable};
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::*;
use crate::client::store::{MemoryStore, Store};
use crate::crypto::testing::TestRng;
use crate::protocol::codec::Timestamp;
use crate::protocol::communities::Visibility;
use crate::protocol::devices::RegisterDevice;
use crate::protocol::frame::ServerFrame;
use crate::protocol::ids::*;
use crate::protocol::users::User;

use server::Server;

const START: i64 = 1_795_000_000_000;

/// One device of one person.
struct Client {
    user: User,
    store: MemoryStore,
    engine: Engine,
    addr: Option<DeviceAddr>,
    online: bool,
    queue: VecDeque<Input>,
    events: Vec<ClientEvent>,
    wake: Option<Timestamp>,
    /// Everything that the engine ever told about timelines, as a user interface would keep it.
    lines: BTreeMap<ChannelId, BTreeMap<MessageRef, TimelineItem>>,
    requests: u64,
    /// The next step is saved, and what follows from it is lost.
    crash: bool,
}

type Filter = Box<dyn FnMut(Who, &mut ServerFrame) -> bool>;
type Tamper = Box<dyn FnMut(Who, &Request, &mut serde_json::Value)>;
type Cut = Box<dyn FnMut(Who, &Request) -> bool>;

struct World {
    server: Server,
    clients: Vec<Client>,
    rng: TestRng,
    /// Frames from the server pass here first; false drops them.
    filter: Option<Filter>,
    /// Answers over HTTP pass here.
    tamper: Option<Tamper>,
    /// Requests over HTTP that never arrive.
    cut: Option<Cut>,
    /// Longer answers never come through.
    longest: usize,
}

/// An index into [`World::clients`].
type Who = usize;

impl World {
    fn new() -> Self {
        Self {
            server: Server::new(START),
            clients: Vec::new(),
            rng: TestRng::new(1),
            filter: None,
            tamper: None,
            cut: None,
            longest: usize::MAX,
        }
    }

    /// A world with these people, each with one device, online.
    fn of(names: &[&str]) -> Self {
        let mut world = Self::new();
        for name in names {
            let user = world.server.add_user(name);
            let who = world.add_client(user, MemoryStore::new());
            world.log_in(who);
        }
        world.settle();
        world
    }

    fn add_client(&mut self, user: User, store: MemoryStore) -> Who {
        let engine = Engine::open(&store).unwrap();
        self.clients.push(Client {
            user,
            store,
            engine,
            addr: None,
            online: false,
            queue: VecDeque::new(),
            events: Vec::new(),
            wake: None,
            lines: BTreeMap::new(),
            requests: 0,
            crash: false,
        });
        self.clients.len() - 1
    }

    fn log_in(&mut self, who: Who) {
        let client = &self.clients[who];
        let login = Login {
            user: client.user.clone(),
            server: "https://chat.test".into(),
            server_name: "Test".into(),
            session_id: SessionId(uuid::Uuid::from_u128(who as u128)),
            device_id: client.addr.map(|addr| addr.device_id),
            device_name: "laptop".into(),
        };
        self.input(who, Input::LoggedIn(login));
        self.settle();
        if self.clients[who].addr.is_some() {
            self.connect(who);
        }
    }

    fn connect(&mut self, who: Who) {
        let addr = self.clients[who].addr.unwrap();
        self.clients[who].online = true;
        let pushes = self.server.connect(addr);
        self.deliver(pushes);
    }

    fn disconnect(&mut self, who: Who) {
        let addr = self.clients[who].addr.unwrap();
        self.server.online.remove(&addr);
        self.clients[who].online = false;
        // What was on the way is lost with the line; answers over HTTP still come.
        self.clients[who].queue.retain(|input| matches!(input, Input::Http { .. }));
        self.input(who, Input::Line(Line::Offline { retry_at: None, why: "cut".into() }));
    }

    /// Ends the client and opens it again from an older copy of what it had saved.
    fn restore(&mut self, who: Who, copy: MemoryStore) {
        self.clients[who].store = copy;
        self.restart(who);
        self.settle();
    }

    /// Ends the client without warning and opens it again from what it had saved.
    fn restart(&mut self, who: Who) {
        if let Some(addr) = self.clients[who].addr {
            self.server.online.remove(&addr);
        }
        let client = &mut self.clients[who];
        client.online = false;
        client.queue.clear();
        client.wake = None;
        client.engine = Engine::open(&client.store).unwrap();
        self.log_in(who);
    }

    fn deliver(&mut self, pushes: server::Pushes) {
        for (addr, mut frame) in pushes {
            for who in 0..self.clients.len() {
                if self.clients[who].addr == Some(addr) && self.clients[who].online {
                    if let Some(filter) = &mut self.filter
                        && !filter(who, &mut frame)
                    {
                        continue;
                    }
                    self.clients[who].queue.push_back(Input::Frame(frame.clone()));
                }
            }
        }
    }

    /// One step of one client: save, then perform.
    fn input(&mut self, who: Who, input: Input) {
        self.server.now += 1;
        let now = Timestamp(self.server.now);
        let client = &mut self.clients[who];
        let step = client.engine.handle(input, &client.store, now, &mut self.rng).unwrap();
        client.store.save(step.changes).unwrap();
        if std::mem::take(&mut client.crash) {
            self.restart(who);
            return;
        }
        for output in step.after {
            self.perform(who, output);
        }
    }

    /// A step that no input leads to.
    fn step(&mut self, who: Who, act: impl FnOnce(&mut Engine, &mut super::Cx<'_>)) {
        let client = &mut self.clients[who];
        let mut cx = super::Cx {
            db: super::db::Db::new(&client.store),
            now: Timestamp(self.server.now),
            rng: &mut self.rng,
            out: Vec::new(),
            touched: std::collections::BTreeSet::new(),
            removed: Vec::new(),
            ack_inbox: None,
        };
        act(&mut client.engine, &mut cx);
        let (changes, after) = (cx.db.changes, cx.out);
        client.store.save(changes).unwrap();
        for output in after {
            self.perform(who, output);
        }
    }

    fn perform(&mut self, who: Who, output: Output) {
        match output {
            Output::Send(frame) => {
                if self.clients[who].online {
                    let addr = self.clients[who].addr.unwrap();
                    let pushes = self.server.frame(addr, frame);
                    self.deliver(pushes);
                }
            }
            Output::Http(request) => {
                if self.cut.as_mut().is_some_and(|cut| cut(who, &request)) {
                    let answer = Err(crate::client::engine::Unreachable { why: "cut".into() });
                    self.clients[who].queue.push_back(Input::Http { tag: request.tag, answer });
                    return;
                }
                let client = &self.clients[who];
                let addr = client.addr.unwrap_or(DeviceAddr { user_id: client.user.id, device_id: 0 });
                let mut pushes = Vec::new();
                let mut answer = self.server.http(addr, &request, &mut pushes);
                if let Some(tamper) = &mut self.tamper {
                    let mut value = serde_json::from_slice(&answer.body).unwrap();
                    tamper(who, &request, &mut value);
                    answer.body = serde_json::to_vec(&value).unwrap();
                }
                self.deliver(pushes);
                let fits = answer.body.len() <= self.longest;
                let answer = if fits { Ok(answer) } else { Err(Unreachable { why: "the answer is too long".into() }) };
                self.clients[who].queue.push_back(Input::Http { tag: request.tag, answer });
            }
            Output::Tell(event) => {
                let client = &mut self.clients[who];
                match &event {
                    ClientEvent::Timeline { channel_id, items } => {
                        for item in items {
                            client.lines.entry(*channel_id).or_default().insert(item.key, (**item).clone());
                        }
                    }
                    ClientEvent::TimelineRemoved { channel_id, keys } => {
                        for key in keys {
                            client.lines.entry(*channel_id).or_default().remove(key);
                        }
                    }
                    _ => {}
                }
                client.events.push(event);
            }
            Output::Wake(at) => self.clients[who].wake = Some(at),
            Output::Session(session) => {
                let user_id = self.clients[who].user.id;
                self.clients[who].addr = Some(DeviceAddr { user_id, device_id: session.device_id });
            }
            Output::Reconnect | Output::ForgetSession => {}
        }
    }

    /// Handles everything that is on the way.
    fn run(&mut self) {
        for _ in 0..200_000 {
            let Some(who) = (0..self.clients.len()).find(|who| !self.clients[*who].queue.is_empty()) else { return };
            let input = self.clients[who].queue.pop_front().unwrap();
            self.input(who, input);
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass, with everything that falls due.
    fn advance(&mut self, ms: i64) {
        let until = self.server.now + ms;
        self.run();
        for _ in 0..100_000 {
            let next = self.clients.iter().filter_map(|client| client.wake).map(Timestamp::as_millis).min();
            match next.filter(|next| *next <= until) {
                Some(next) => {
                    self.server.now = self.server.now.max(next);
                    let now = Timestamp(self.server.now);
                    for who in 0..self.clients.len() {
                        if self.clients[who].wake.is_some_and(|at| at <= now) {
                            self.clients[who].wake = None;
                            self.input(who, Input::Tick);
                        }
                    }
                    self.run();
                }
                None => {
                    self.server.now = self.server.now.max(until);
                    return;
                }
            }
        }
        panic!("timers fire without end");
    }

    /// Until nothing is on the way and nothing falls due soon.
    fn settle(&mut self) {
        self.advance(10_000);
    }

    fn command(&mut self, who: Who, command: Command) -> RequestId {
        self.clients[who].requests += 1;
        let request = RequestId(self.clients[who].requests);
        self.input(who, Input::Command(request, command));
        request
    }

    fn reply(&self, who: Who, request: RequestId) -> Option<Result<Answer, Problem>> {
        let mut replies = self.clients[who].events.iter().filter_map(|event| match event {
            ClientEvent::Done { request: of, result } if *of == request => Some(result.clone()),
            _ => None,
        });
        let reply = replies.next();
        assert!(replies.next().is_none(), "a command is answered once");
        reply
    }

    /// A command and its answer.
    fn ask(&mut self, who: Who, command: Command) -> Result<Answer, Problem> {
        let request = self.command(who, command);
        if self.reply(who, request).is_none() {
            self.settle();
        }
        self.reply(who, request).expect("every command is answered")
    }

    fn id(&self, who: Who) -> UserId {
        self.clients[who].user.id
    }

    fn dm(&mut self, who: Who, with: Who) -> ChannelId {
        let user_id = self.id(with);
        match self.ask(who, Command::OpenDm { user_id }) {
            Ok(Answer::Channel(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    fn say(&mut self, who: Who, channel_id: ChannelId, text: &str) -> MessageRef {
        self.say_in(who, Place { channel_id, thread: None }, text, None)
    }

    fn say_in(&mut self, who: Who, place: Place, text: &str, reply_to: Option<MessageRef>) -> MessageRef {
        match self.ask(who, Command::SendText { place, text: text.into(), reply_to, mentions: Vec::new(), id: None }) {
            Ok(Answer::Queued { id }) => MessageRef { author: self.id(who), id },
            other => panic!("{other:?}"),
        }
    }

    fn page(&mut self, who: Who, channel_id: ChannelId) -> TimelinePage {
        let place = Place { channel_id, thread: None };
        match self.ask(who, Command::LoadTimeline { place, anchor: Anchor::Newest, limit: 500 }) {
            Ok(Answer::Page(page)) => page,
            other => panic!("{other:?}"),
        }
    }

    /// What is said in a channel, as one client sees it: texts in order, without system lines.
    fn texts(&mut self, who: Who, channel_id: ChannelId) -> Vec<String> {
        self.page(who, channel_id).items.iter().filter_map(|item| text_of(item)).collect()
    }

    fn item(&mut self, who: Who, channel_id: ChannelId, key: MessageRef) -> TimelineItem {
        let place = Place { channel_id, thread: None };
        let page = match self.ask(who, Command::LoadTimeline { place, anchor: Anchor::Around(key), limit: 500 }) {
            Ok(Answer::Page(page)) => page,
            other => panic!("{other:?}"),
        };
        page.items.iter().find(|item| item.key == key).map(|item| (**item).clone()).expect("the line is there")
    }

    fn notices(&self, who: Who) -> Vec<String> {
        self.clients[who]
            .events
            .iter()
            .filter_map(|event| match event {
                ClientEvent::Notice(problem) => Some(problem.text.raw().to_owned()),
                _ => None,
            })
            .collect()
    }

    fn tree(&self, who: Who) -> Tree {
        let tree = self.clients[who].events.iter().rev().find_map(|event| match event {
            ClientEvent::Tree(tree) | ClientEvent::Opened { tree, .. } => Some((**tree).clone()),
            _ => None,
        });
        tree.expect("a tree was told")
    }

    fn node(&self, who: Who, channel_id: ChannelId) -> ChannelNode {
        let tree = self.tree(who);
        let channels = tree.communities.iter().flat_map(|community| &community.groups).flat_map(|group| &group.channels);
        channels
            .chain(&tree.dms)
            .find(|node| node.id == channel_id)
            .map(|node| (**node).clone())
            .expect("the channel is in the tree")
    }

    // --- Communities ---

    /// A community with one public group and one channel in it.
    fn community(&mut self, who: Who) -> (CommunityId, GroupId, ChannelId) {
        let community_id = match self.ask(who, Command::CreateCommunity { name: "Acme".into(), description: None }) {
            Ok(Answer::Community(id)) => id,
            other => panic!("{other:?}"),
        };
        let command = Command::CreateGroup { community_id, name: "Backend".into(), visibility: Visibility::Public };
        let group_id = match self.ask(who, command) {
            Ok(Answer::Group(id)) => id,
            other => panic!("{other:?}"),
        };
        let channel_id = self.channel(who, group_id, Visibility::Public);
        (community_id, group_id, channel_id)
    }

    fn channel(&mut self, who: Who, group_id: GroupId, visibility: Visibility) -> ChannelId {
        match self.ask(who, Command::CreateChannel { group_id, name: "deploys".into(), topic: None, visibility }) {
            Ok(Answer::Channel(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    fn invite(&mut self, who: Who, community_id: CommunityId) -> String {
        match self.ask(who, Command::CreateInvite { community_id, max_uses: None, expires_in_s: None }) {
            Ok(Answer::Invite(invite)) => invite.link,
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, who: Who, link: &str) -> Result<Answer, Problem> {
        let answer = self.ask(who, Command::Join { link: InviteText(link.to_owned()) });
        self.settle();
        answer
    }

    /// A community of several people with one channel.
    fn shared(names: &[&str]) -> (Self, CommunityId, ChannelId) {
        let mut world = Self::of(names);
        let (community_id, _, channel_id) = world.community(0);
        let link = world.invite(0, community_id);
        for who in 1..names.len() {
            assert_eq!(world.join(who, &link), Ok(Answer::Community(community_id)));
        }
        (world, community_id, channel_id)
    }

    /// A second device of somebody, as linking will make it: certified and listed by the first.
    fn second_device(&mut self, who: Who) -> Who {
        use crate::client::store::{Changes, Table};
        use crate::crypto::contact::Contact;
        use crate::crypto::device_list::DeviceList;
        use crate::crypto::identity::{Addr, LocalDevice};
        use crate::crypto::prekeys::PrekeySecrets;
        use crate::crypto::signature::SigningKey;

        let now = self.server.now as u64;
        let primary = &self.clients[who].engine;
        let keys = primary.keys.as_ref().unwrap();
        let own = primary.contacts[&primary.me_id()].clone();
        let seed = *keys.device.identity_secret().unwrap().expose_seed();
        let addr = Addr::new(own.user_id(), own.max_device_id() + 1);
        let device = LocalDevice::under(SigningKey::from_seed(&seed), addr, now, &mut self.rng).unwrap();
        let mut certs: Vec<_> = own.certificates().cloned().collect();
        certs.push(device.certificate().clone());
        let list = DeviceList::sign(
            &SigningKey::from_seed(&seed),
            own.user_id(),
            Some(own.list()),
            &certs.iter().collect::<Vec<_>>(),
            now,
        )
        .unwrap();
        let mut prekeys = PrekeySecrets::default();
        let (signed, last) = prekeys.rotate(&device, now, &mut self.rng).unwrap();
        let request = RegisterDevice {
            device_id: addr.device_id,
            name: "phone".into(),
            identity_key: None,
            certificate: device.certificate().as_bytes().to_vec().into(),
            device_list: None,
            signed_prekey: super::keys::wire_signed(&signed),
            last_kem_prekey: super::keys::wire_kem(&last),
            one_time_prekeys: Vec::new(),
            kem_prekeys: Vec::new(),
            reset: false,
            password: None,
        };
        let user = self.clients[who].user.clone();
        let me = super::keys::Me {
            user_id: user.id,
            device_id: addr.device_id,
            user: user.clone(),
            server: "https://chat.test".into(),
            server_name: "Test".into(),
            registered: false,
        };
        let contact =
            Contact::first(own.user_id(), list.as_bytes(), &certs.iter().map(|cert| cert.as_bytes()).collect::<Vec<_>>())
                .unwrap();
        let mut changes = Changes::default();
        changes.put(Table::Account, *b"me", rmp_serde::to_vec_named(&me).unwrap());
        changes.put(Table::Account, *b"device", device.to_record().to_vec());
        changes.put(Table::Account, *b"prekeys", prekeys.to_record().to_vec());
        changes.put(Table::Account, *b"registration", rmp_serde::to_vec_named(&serde_json::to_vec(&request).unwrap()).unwrap());
        changes.put(Table::Contacts, own.user_id(), contact.to_record().to_vec());
        let mut store = MemoryStore::new();
        store.save(changes).unwrap();
        let mut pushes = Vec::new();
        let cert = device.certificate().as_bytes().to_vec();
        assert!(self.server.publish(user.id, list.as_bytes().to_vec(), vec![cert], &mut pushes).is_ok());
        self.deliver(pushes);
        let new = self.add_client(user, store);
        self.log_in(new);
        self.settle();
        new
    }

    /// Everybody who reads a channel sees the same texts; returned once.
    fn agreed(&mut self, channel_id: ChannelId, whos: &[Who]) -> Vec<String> {
        let first = self.texts(whos[0], channel_id);
        for who in &whos[1..] {
            assert_eq!(self.texts(*who, channel_id), first, "client {who}");
        }
        first
    }

    /// What the server was sent must not contain a text in clear.
    fn server_never_saw(&self, text: &str) {
        for channel in self.server.channels.values() {
            for stored in &channel.rows {
                for blob in stored.row.ciphertext.iter().chain(stored.copies.values().map(|(ciphertext, _)| ciphertext)) {
                    assert!(!blob.0.windows(text.len()).any(|window| window == text.as_bytes()));
                }
            }
        }
    }
}

fn text_of(item: &TimelineItem) -> Option<String> {
    match &item.body {
        Body::Text(text) | Body::Clear(text) => Some(text.raw().to_owned()),
        Body::Deleted { by_moderator } => Some(format!("<deleted{}>", if *by_moderator { " by a moderator" } else { "" })),
        Body::Expired => Some("<expired>".into()),
        Body::Undecryptable(reason) => Some(format!("<{reason:?}>")),
        Body::BeforeJoin => Some("<before join>".into()),
        Body::BeforeDevice => Some("<before device>".into()),
        Body::NewerClient => Some("<newer client>".into()),
        Body::System(_) => None,
    }
}

/// The rows of a frame, to be tampered with.
fn row_of(frame: &mut ServerFrame) -> Option<&mut crate::protocol::messages::Row> {
    match frame {
        ServerFrame::Event(event) => match &mut event.event {
            crate::protocol::streams::StreamItem::Row(row) => Some(row),
            crate::protocol::streams::StreamItem::Event(_) => None,
        },
        _ => None,
    }
}
