//! The hub beside a naive model of the truth: logs that grow, hints that get lost, members that come and go.

use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use uuid::Uuid;

use super::super::queue::{Taken, Wakes};
use super::*;

fn id(kind: u8, n: usize) -> Uuid {
    Uuid::from_bytes([kind, n as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn peer(user: usize, device: u32) -> Peer {
    Peer {
        user_id: UserId(id(1, user)),
        session_id: SessionId(id(2, user * 16 + device as usize)),
        device_id: Some(device),
        encoding: Encoding::Json,
        queue: Arc::default(),
    }
}

fn audience(n: usize) -> AudienceId {
    AudienceId(id(3, n))
}

fn stream(n: usize) -> StreamId {
    StreamId(id(4, n))
}

fn drain(queue: &Queue) -> Vec<(usize, u64)> {
    let mut all = Vec::new();
    let mut frames = Vec::new();
    while let Poll::Ready(Taken::Frames) = queue.poll_take(&mut Context::from_waker(Waker::noop()), &mut frames) {
        for frame in frames.drain(..) {
            let text = frame.into_text().unwrap();
            let (stream, seq) = text.as_str().split_once(' ').unwrap();
            all.push((stream.parse().unwrap(), seq.parse().unwrap()));
        }
    }
    all
}

const USERS: usize = 4;
const AUDIENCES: usize = 3;
const STREAMS: usize = 6;

/// What the database would say.
#[derive(Default)]
struct Truth {
    members: [HashSet<UserId>; AUDIENCES],
    shrink_seq: [u64; AUDIENCES],
    heads: [u64; STREAMS],
    /// Who could read each event when it was committed.
    readers: HashMap<(usize, u64), HashSet<UserId>>,
}

impl Truth {
    fn access(&self, user: UserId) -> Access {
        let mine = |a: &usize| self.members[*a].contains(&user);
        Access {
            audiences: (0..AUDIENCES).filter(mine).map(|a| (audience(a), self.shrink_seq[a])).collect(),
            streams: (0..STREAMS)
                .filter(|s| mine(&(s % AUDIENCES)))
                .map(|s| (stream(s), audience(s % AUDIENCES), self.heads[s]))
                .collect(),
        }
    }
}

struct Client {
    conn: ConnId,
    peer: Peer,
    started: [u64; STREAMS],
    got: Vec<(usize, u64)>,
}

#[derive(Default)]
struct World {
    hub: Hub,
    truth: Truth,
    clients: Vec<Client>,
}

#[derive(Clone, Debug)]
enum Op {
    Connect { user: usize, device: u32 },
    Disconnect { client: usize },
    Append { stream: usize, hint: bool },
    Join { user: usize, audience: usize },
    Kick { user: usize, audience: usize, hint: bool },
    Heal,
}

impl World {
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Connect { user, device } => {
                let peer = peer(user, device);
                self.clients.retain(|c| (c.peer.user_id, c.peer.device_id) != (peer.user_id, peer.device_id));
                let conn = self.hub.attach(peer.clone(), 16, Status::Online).unwrap();
                self.resync(peer.user_id);
                // `ready` tells what the connection hears from now on: what the hub has delivered so far.
                let started = std::array::from_fn(|s| self.hub.delivered(stream(s)).map_or(self.truth.heads[s], |(_, seq)| seq));
                self.clients.push(Client { conn, peer, started, got: Vec::new() });
            }
            Op::Disconnect { client } if !self.clients.is_empty() => {
                let client = self.clients.swap_remove(client % self.clients.len());
                self.hub.detach(client.conn);
            }
            Op::Disconnect { .. } => {}
            Op::Append { stream, hint } => {
                self.truth.heads[stream] += 1;
                let seq = self.truth.heads[stream];
                self.truth.readers.insert((stream, seq), self.truth.members[stream % AUDIENCES].clone());
                if hint {
                    self.hint(stream, seq);
                }
            }
            Op::Join { user, audience } => {
                let user = UserId(id(1, user));
                self.truth.members[audience].insert(user);
                if self.hub.access_changed(user) {
                    self.resync(user);
                }
                for client in self.clients.iter_mut().filter(|client| client.peer.user_id == user) {
                    for s in (audience..STREAMS).step_by(AUDIENCES) {
                        client.started[s] = self.hub.delivered(stream(s)).unwrap().1;
                    }
                }
            }
            Op::Kick { user, audience, hint } => {
                let user = UserId(id(1, user));
                if self.truth.members[audience].remove(&user) {
                    self.truth.shrink_seq[audience] += 1;
                    if hint && self.hub.access_changed(user) {
                        self.resync(user);
                    }
                }
            }
            Op::Heal => (0..STREAMS).for_each(|s| self.hint(s, self.truth.heads[s])),
        }
        for client in &mut self.clients {
            for (s, seq) in drain(&client.peer.queue) {
                // Who joined later may read what is older; who was removed hears nothing newer.
                let user = &client.peer.user_id;
                let allowed = self.truth.readers[&(s, seq)].contains(user) || self.truth.members[s % AUDIENCES].contains(user);
                assert!(allowed, "event {seq} of stream {s} leaked");
                client.got.push((s, seq));
            }
        }
        self.hub.check_invariants();
    }

    fn resync(&mut self, user: UserId) {
        let Some(version) = self.hub.version(user) else { return };
        self.hub.subscribe(user, &self.truth.access(user), version).unwrap();
    }

    /// What the fan-out does with a hint.
    fn hint(&mut self, s: usize, seq: u64) {
        if seq == 0 {
            return;
        }
        let a = s % AUDIENCES;
        let mut next = seq;
        loop {
            let at = Position { stream: stream(s), audience: audience(a), seq: next, shrink_seq: self.truth.shrink_seq[a] };
            match self.hub.publish(at, &mut Wakes::default(), |_| Some(Message::Text(format!("{s} {next}").into()))) {
                Published::Stale => self.hub.retain(audience(a), self.truth.shrink_seq[a], &self.truth.members[a]),
                Published::Gap => next = self.hub.delivered(stream(s)).unwrap().1 + 1,
                Published::Pushed | Published::Old if next < seq => next += 1,
                Published::Pushed | Published::Old => return,
            }
        }
    }

    fn check(&self) {
        for client in &self.clients {
            for s in 0..STREAMS {
                let got: Vec<u64> = client.got.iter().filter(|(t, _)| *t == s).map(|(_, seq)| *seq).collect();
                let mut sorted = got.clone();
                sorted.dedup();
                assert!(got.is_sorted() && sorted == got, "each event once and in order: {got:?}");
                if self.truth.members[s % AUDIENCES].contains(&client.peer.user_id) {
                    let newer: Vec<u64> = got.into_iter().filter(|seq| *seq > client.started[s]).collect();
                    let all: Vec<u64> = (client.started[s] + 1..=self.truth.heads[s]).collect();
                    assert_eq!(newer, all, "a member hears everything after the start");
                }
            }
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..USERS, 1..3u32).prop_map(|(user, device)| Op::Connect { user, device }),
        1 => (0..8usize).prop_map(|client| Op::Disconnect { client }),
        6 => (0..STREAMS, any::<bool>()).prop_map(|(stream, hint)| Op::Append { stream, hint }),
        2 => (0..USERS, 0..AUDIENCES).prop_map(|(user, audience)| Op::Join { user, audience }),
        1 => (0..USERS, 0..AUDIENCES, any::<bool>()).prop_map(|(user, audience, hint)| Op::Kick { user, audience, hint }),
        1 => Just(Op::Heal),
    ]
}

proptest! {
    #[test]
    fn members_hear_everything_once_and_nobody_else_hears_anything(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::default();
        for op in &ops {
            world.apply(op);
        }
        world.apply(&Op::Heal);
        world.check();
    }
}

fn two_members() -> (Hub, Peer, Peer) {
    let mut hub = Hub::default();
    let (ann, bob) = (peer(0, 1), peer(1, 1));
    for peer in [&ann, &bob] {
        hub.attach(peer.clone(), 16, Status::Online).unwrap();
        let access = Access { audiences: vec![(audience(0), 4)], streams: vec![(stream(0), audience(0), 7)] };
        hub.subscribe(peer.user_id, &access, 0).unwrap();
    }
    (hub, ann, bob)
}

fn at(seq: u64, shrink_seq: u64) -> Position {
    Position { stream: stream(0), audience: audience(0), seq, shrink_seq }
}

#[test]
fn an_event_after_a_removal_waits_until_the_audience_is_read_again() {
    let (mut hub, ann, bob) = two_members();
    let frame = |_: &Peer| Some(Message::Text("0 8".into()));
    assert_eq!(hub.publish(at(8, 5), &mut Wakes::default(), frame), Published::Stale);
    assert!(ann.queue.is_empty() && bob.queue.is_empty());
    hub.retain(audience(0), 5, &HashSet::from([ann.user_id]));
    assert_eq!(hub.publish(at(8, 5), &mut Wakes::default(), frame), Published::Pushed);
    assert_eq!((ann.queue.len(), bob.queue.len()), (1, 0));
    hub.check_invariants();
}

#[test]
fn a_reading_older_than_a_removal_does_not_subscribe() {
    let (mut hub, _, bob) = two_members();
    hub.retain(audience(0), 5, &HashSet::from([peer(0, 1).user_id]));
    let old = Access { audiences: vec![(audience(0), 4)], streams: vec![] };
    assert_eq!(hub.subscribe(bob.user_id, &old, 0), Err(Changed), "its version is old");
    assert_eq!(hub.subscribe(bob.user_id, &old, 1), Err(Changed), "so is its log");
}

#[test]
fn a_new_connection_of_a_device_replaces_the_old_one() {
    let (mut hub, ann, _) = two_members();
    hub.attach(peer(0, 1), 16, Status::Online).unwrap();
    assert_eq!(hub.len(), 2);
    let taken = ann.queue.poll_take(&mut Context::from_waker(Waker::noop()), &mut Vec::new());
    assert_eq!(taken, Poll::Ready(Taken::End(End::Replaced)));
    hub.check_invariants();
}

#[test]
fn a_user_has_a_bounded_number_of_connections() {
    let mut hub = Hub::default();
    let without_device = || Peer { device_id: None, ..peer(0, 1) };
    for _ in 0..16 {
        hub.attach(without_device(), 16, Status::Online).unwrap();
    }
    assert_eq!(hub.attach(without_device(), 16, Status::Online), Err(TooMany));
    assert_eq!(hub.len(), 16);
}

#[test]
fn heads_name_the_streams_that_moved_since_the_last_ones() {
    let (mut hub, ann, _) = two_members();
    let (none, clock) = hub.moved_since(ann.user_id, 0);
    assert!(none.is_empty());
    hub.publish(at(8, 4), &mut Wakes::default(), |_| Some(Message::Text("0 8".into())));
    let (moved, clock) = hub.moved_since(ann.user_id, clock);
    assert_eq!(moved, BTreeMap::from([(stream(0), 8)]));
    assert!(hub.moved_since(ann.user_id, clock).0.is_empty());
}

#[test]
fn a_whisper_reaches_everybody_but_its_author() {
    let (hub, ann, bob) = two_members();
    hub.whisper(audience(0), ann.user_id, |_| Some(Message::Text("typing".into())));
    assert_eq!((ann.queue.len(), bob.queue.len()), (0, 1));
}
