//! Who is connected and who hears what: a plain data structure without I/O, clock or await.
//!
//! A **stream** (channel, community, private group, user) is heard by an **audience**: the connected members of a membership
//! log, the two people of a direct message, or one user. All channels of a community share one audience, so a connection
//! costs one entry for each log that it belongs to, not one for each channel.
//!
//! The hub remembers how far each stream was delivered. It pushes the next event, ignores old ones, and answers
//! [`Published::Gap`] when something is missing: then the caller reads the database. It never believes a membership that is
//! older than the event: [`Published::Stale`]. Start with [`Hub::publish`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axum::extract::ws::Message;

use crate::protocol::codec::Encoding;
use crate::protocol::ids::{DeviceAddr, DeviceId, SessionId, StreamId, UserId};
use crate::protocol::users::Status;

use super::super::db::delivery::{Access, AudienceId};
use super::queue::{Class, End, Queue, Wakes};

/// One connection of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// A connection as the hub knows it.
#[derive(Clone)]
pub struct Peer {
    pub user_id: UserId,
    pub session_id: SessionId,
    pub device_id: Option<DeviceId>,
    pub encoding: Encoding,
    pub queue: Arc<Queue>,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub stream: StreamId,
    pub audience: AudienceId,
    pub seq: u64,
    /// Newest removal in the audience's log when the event was committed or read.
    pub shrink_seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Pushed to everybody who hears the stream, perhaps nobody.
    Pushed,
    /// It was pushed before.
    Old,
    /// Earlier events are missing: read from the database what follows [`Hub::delivered`].
    Gap,
    /// Somebody was removed since the audience was read: read it again ([`Hub::retain`]) first.
    Stale,
}

/// The user has as many connections as allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// The user's access changed while it was read: read it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed;

#[derive(Default)]
pub struct Hub {
    next: u64,
    /// Counts pushes: what moved since a moment has a higher number.
    clock: u64,
    peers: HashMap<ConnId, Peer>,
    users: HashMap<UserId, User>,
    audiences: HashMap<AudienceId, Audience>,
    streams: HashMap<StreamId, Stream>,
    sessions: HashMap<SessionId, Vec<ConnId>>,
}

struct User {
    conns: Vec<ConnId>,
    audiences: HashSet<AudienceId>,
    /// Changes with every change of access, so that a reading that raced with one is noticed.
    version: u64,
    status: Status,
}

struct Audience {
    listeners: Vec<(ConnId, Peer)>,
    /// The newest removal that this audience takes into account.
    shrink_seq: u64,
    streams: HashSet<StreamId>,
}

struct Stream {
    audience: AudienceId,
    delivered: u64,
    moved_at: u64,
}

impl Hub {
    /// Pushes the event if it is the next one of its stream. `frame` gives the message for one connection.
    ///
    /// A stream that is unknown while somebody hears its audience is new: its first event is 1.
    pub fn publish(&mut self, at: Position, wakes: &mut Wakes, mut frame: impl FnMut(&Peer) -> Option<Message>) -> Published {
        let Some(audience) = self.audiences.get_mut(&at.audience) else { return Published::Pushed };
        if at.shrink_seq > audience.shrink_seq {
            return Published::Stale;
        }
        let stream = self.streams.entry(at.stream).or_insert_with(|| {
            audience.streams.insert(at.stream);
            Stream { audience: at.audience, delivered: 0, moved_at: 0 }
        });
        if at.seq <= stream.delivered {
            return Published::Old;
        }
        if at.seq > stream.delivered + 1 {
            return Published::Gap;
        }
        stream.delivered = at.seq;
        self.clock += 1;
        stream.moved_at = self.clock;
        for (_, peer) in &audience.listeners {
            if let Some(message) = frame(peer) {
                peer.queue.push_in(message, Class::Durable, wakes);
            }
        }
        Published::Pushed
    }

    /// An ephemeral frame for an audience, except for one user's own connections.
    pub fn whisper(&self, audience: AudienceId, from: UserId, mut frame: impl FnMut(&Peer) -> Option<Message>) {
        for (_, peer) in self.audiences.get(&audience).into_iter().flat_map(|audience| &audience.listeners) {
            if peer.user_id != from
                && let Some(message) = frame(peer)
            {
                peer.queue.push(message, Class::Ephemeral);
            }
        }
    }

    /// How far a stream was pushed, and who hears it; none when nobody does.
    pub fn delivered(&self, stream: StreamId) -> Option<(AudienceId, u64)> {
        self.streams.get(&stream).map(|stream| (stream.audience, stream.delivered))
    }

    /// Whether anybody hears an audience.
    pub fn is_heard(&self, audience: AudienceId) -> bool {
        self.audiences.contains_key(&audience)
    }

    /// Whether somebody was removed since the audience was read.
    pub fn is_stale(&self, audience: AudienceId, shrink_seq: u64) -> bool {
        self.audiences.get(&audience).is_some_and(|audience| audience.shrink_seq < shrink_seq)
    }

    /// Gives up on events that are too many to push: clients see the gap in `heads` and page.
    pub fn skip_to(&mut self, stream: StreamId, audience: AudienceId, seq: u64) {
        let Some(heard) = self.audiences.get_mut(&audience) else { return };
        let stream = self.streams.entry(stream).or_insert_with(|| {
            heard.streams.insert(stream);
            Stream { audience, delivered: 0, moved_at: 0 }
        });
        if stream.delivered < seq {
            self.clock += 1;
            stream.delivered = seq;
            stream.moved_at = self.clock;
        }
    }

    /// A stream that is not there any more.
    pub fn forget_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id)
            && let Some(audience) = self.audiences.get_mut(&stream.audience)
        {
            audience.streams.remove(&id);
        }
    }

    /// Adds a connection; it hears at once what its user's other connections hear. A connection of the same device is
    /// replaced (close code 4009).
    ///
    /// # Errors
    /// When the user has `limit` connections.
    pub fn attach(&mut self, peer: Peer, limit: usize, status: Status) -> Result<ConnId, TooMany> {
        let replaced = self.users.get(&peer.user_id).and_then(|user| {
            user.conns.iter().copied().find(|id| peer.device_id.is_some() && self.peers[id].device_id == peer.device_id)
        });
        if let Some(old) = replaced {
            self.peers[&old].queue.end(End::Replaced);
            self.detach(old);
        }
        if self.users.get(&peer.user_id).is_some_and(|user| user.conns.len() >= limit) {
            return Err(TooMany);
        }
        self.next += 1;
        let id = ConnId(self.next);
        let user = self.users.entry(peer.user_id).or_insert_with(|| User {
            conns: Vec::new(),
            audiences: HashSet::new(),
            version: 0,
            status,
        });
        user.conns.push(id);
        for audience in &user.audiences {
            if let Some(audience) = self.audiences.get_mut(audience) {
                audience.listeners.push((id, peer.clone()));
            }
        }
        self.sessions.entry(peer.session_id).or_default().push(id);
        self.peers.insert(id, peer);
        Ok(id)
    }

    /// Removes a connection; one that was replaced is gone already.
    pub fn detach(&mut self, id: ConnId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        if let Some(conns) = self.sessions.get_mut(&peer.session_id) {
            conns.retain(|conn| *conn != id);
            if conns.is_empty() {
                self.sessions.remove(&peer.session_id);
            }
        }
        let Some(user) = self.users.get_mut(&peer.user_id) else { return };
        user.conns.retain(|conn| *conn != id);
        for audience in &user.audiences {
            forget(&mut self.audiences, &mut self.streams, *audience, |conn, _| conn == id);
        }
        if user.conns.is_empty() {
            self.users.remove(&peer.user_id);
        }
    }

    /// Whether a connection is its user's only one.
    pub fn is_last(&self, id: ConnId) -> bool {
        self.peers.get(&id).and_then(|peer| self.users.get(&peer.user_id)).is_some_and(|user| user.conns == [id])
    }

    /// Which reading of the user's access would be the newest one; none without a connection.
    pub fn version(&self, user: UserId) -> Option<u64> {
        self.users.get(&user).map(|user| user.version)
    }

    /// The user's access has changed: readings under way are void. True when somebody must read it again.
    pub fn access_changed(&mut self, user: UserId) -> bool {
        let Some(user) = self.users.get_mut(&user) else { return false };
        user.version += 1;
        true
    }

    /// All connections of a user hear exactly what was read. Answers the head of each stream: what is newer will be pushed.
    ///
    /// # Errors
    /// When the access changed since `version`, or somebody was removed from an audience since it was read.
    pub fn subscribe(&mut self, id: UserId, access: &Access, version: u64) -> Result<BTreeMap<StreamId, u64>, Changed> {
        let mut heads = BTreeMap::new();
        let Some(user) = self.users.get_mut(&id) else { return Ok(heads) };
        let outdated = |(audience, shrink_seq): &(AudienceId, u64)| {
            self.audiences.get(audience).is_some_and(|known| known.shrink_seq > *shrink_seq)
        };
        if user.version != version || access.audiences.iter().any(outdated) {
            return Err(Changed);
        }
        let wanted: HashSet<AudienceId> = access.audiences.iter().map(|(audience, _)| *audience).collect();
        for lost in user.audiences.difference(&wanted) {
            forget(&mut self.audiences, &mut self.streams, *lost, |_, peer| peer.user_id == id);
        }
        for (gained, shrink_seq) in access.audiences.iter().filter(|(audience, _)| !user.audiences.contains(audience)) {
            let audience = self.audiences.entry(*gained).or_insert_with(|| Audience {
                listeners: Vec::new(),
                shrink_seq: *shrink_seq,
                streams: HashSet::new(),
            });
            audience.listeners.extend(user.conns.iter().map(|conn| (*conn, self.peers[conn].clone())));
        }
        user.audiences = wanted;
        for (stream, audience, head) in &access.streams {
            if let Some(heard) = self.audiences.get_mut(audience) {
                let known = self.streams.entry(*stream).or_insert_with(|| {
                    heard.streams.insert(*stream);
                    Stream { audience: *audience, delivered: *head, moved_at: 0 }
                });
                // Others may have heard more since the reading.
                heads.insert(*stream, known.delivered.max(*head));
            }
        }
        Ok(heads)
    }

    /// Connected users of an audience.
    pub fn listeners(&self, audience: AudienceId) -> HashSet<UserId> {
        self.audiences
            .get(&audience)
            .map(|audience| audience.listeners.iter().map(|(_, peer)| peer.user_id).collect())
            .unwrap_or_default()
    }

    /// After a removal: of the audience's listeners only these stay.
    pub fn retain(&mut self, id: AudienceId, shrink_seq: u64, stay: &HashSet<UserId>) {
        let Some(audience) = self.audiences.get_mut(&id) else { return };
        audience.shrink_seq = audience.shrink_seq.max(shrink_seq);
        let gone: HashSet<UserId> =
            audience.listeners.iter().map(|(_, peer)| peer.user_id).filter(|user| !stay.contains(user)).collect();
        for user in &gone {
            if let Some(user) = self.users.get_mut(user) {
                user.audiences.remove(&id);
                user.version += 1;
            }
        }
        forget(&mut self.audiences, &mut self.streams, id, |_, peer| gone.contains(&peer.user_id));
    }

    /// Streams of a user that moved since `clock`, with their heads, and the clock to ask with next time.
    pub fn moved_since(&self, user: UserId, clock: u64) -> (BTreeMap<StreamId, u64>, u64) {
        let audiences = self.users.get(&user).into_iter().flat_map(|user| &user.audiences);
        let streams = audiences.filter_map(|audience| self.audiences.get(audience)).flat_map(|audience| &audience.streams);
        let moved = streams.filter_map(|id| {
            let stream = &self.streams.get(id)?;
            (stream.moved_at > clock).then_some((*id, stream.delivered))
        });
        (moved.collect(), self.clock)
    }

    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Whether a user hears an audience.
    pub fn hears(&self, user: UserId, audience: AudienceId) -> bool {
        self.users.get(&user).is_some_and(|user| user.audiences.contains(&audience))
    }

    /// The audience of a stream that the user hears.
    pub fn audience_of(&self, user: UserId, stream: StreamId) -> Option<AudienceId> {
        let audience = self.streams.get(&stream)?.audience;
        self.hears(user, audience).then_some(audience)
    }

    /// What the user shows of their presence, when connected.
    pub fn status(&self, user: UserId) -> Option<Status> {
        self.users.get(&user).map(|user| user.status)
    }

    /// True when it is a change.
    pub fn set_status(&mut self, user: UserId, status: Status) -> bool {
        self.users.get_mut(&user).is_some_and(|user| std::mem::replace(&mut user.status, status) != status)
    }

    /// Connections of everybody else who shares an audience of at most `limit` connections with the user, each once.
    pub fn neighbours(&self, id: UserId, limit: usize) -> HashMap<ConnId, &Peer> {
        let audiences = self.users.get(&id).into_iter().flat_map(|user| &user.audiences);
        let audiences = audiences.filter_map(|audience| self.audiences.get(audience)).filter(|a| a.listeners.len() <= limit);
        let listeners = audiences.flat_map(|audience| &audience.listeners);
        listeners.filter(|(_, peer)| peer.user_id != id).map(|(conn, peer)| (*conn, peer)).collect()
    }

    /// The connection of a device.
    pub fn device(&self, device: DeviceAddr) -> Option<&Peer> {
        let mut conns = self.users.get(&device.user_id)?.conns.iter().map(|conn| &self.peers[conn]);
        conns.find(|peer| peer.device_id == Some(device.device_id))
    }

    /// Ends the connections of sessions.
    pub fn end_sessions(&self, sessions: &[SessionId], end: End) {
        for conn in sessions.iter().filter_map(|session| self.sessions.get(session)).flatten() {
            self.peers[conn].queue.end(end);
        }
    }

    /// Ends every connection, each with an end of its own.
    pub fn end_all(&self, mut end: impl FnMut() -> End) {
        for peer in self.peers.values() {
            peer.queue.end(end());
        }
    }

    /// Sessions with a connection.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Devices with a connection, and how much of their inbox it has seen.
    pub fn devices(&self) -> Vec<(DeviceAddr, u64)> {
        let device = |peer: &Peer| Some((DeviceAddr::new(peer.user_id, peer.device_id?), peer.queue.inbox_seen()));
        self.peers.values().filter_map(device).collect()
    }

    /// Audiences with a listener.
    pub fn audiences(&self) -> Vec<AudienceId> {
        self.audiences.keys().copied().collect()
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The encodings that a listener of the audience speaks.
    pub fn encodings(&self, audience: AudienceId) -> [bool; Encoding::ALL.len()] {
        let mut spoken = [false; Encoding::ALL.len()];
        for (_, peer) in self.audiences.get(&audience).into_iter().flat_map(|audience| &audience.listeners) {
            spoken[peer.encoding as usize] = true;
            if spoken.iter().all(|spoken| *spoken) {
                break;
            }
        }
        spoken
    }

    /// What must hold after every call.
    ///
    /// # Panics
    /// When it does not.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        for (id, user) in &self.users {
            assert!(!user.conns.is_empty(), "a user without connection is forgotten");
            assert!(user.conns.iter().all(|conn| self.peers[conn].user_id == *id));
            for audience in &user.audiences {
                let listeners = &self.audiences[audience].listeners;
                for conn in &user.conns {
                    assert_eq!(listeners.iter().filter(|(other, _)| other == conn).count(), 1, "heard once");
                }
            }
        }
        assert_eq!(self.users.values().map(|user| user.conns.len()).sum::<usize>(), self.peers.len());
        assert_eq!(self.sessions.values().map(Vec::len).sum::<usize>(), self.peers.len());
        for (id, audience) in &self.audiences {
            assert!(!audience.listeners.is_empty(), "an audience without listener is forgotten");
            for (conn, peer) in &audience.listeners {
                assert_eq!(self.peers[conn].user_id, peer.user_id);
                assert!(self.users[&peer.user_id].audiences.contains(id), "nobody listens without access");
            }
            assert!(audience.streams.iter().all(|stream| self.streams[stream].audience == *id));
        }
        for (id, stream) in &self.streams {
            assert!(self.audiences[&stream.audience].streams.contains(id), "a stream belongs to its audience");
            assert!(stream.moved_at <= self.clock);
        }
    }
}

/// Removes listeners, and the audience with its streams when nobody is left.
fn forget(
    audiences: &mut HashMap<AudienceId, Audience>,
    streams: &mut HashMap<StreamId, Stream>,
    id: AudienceId,
    mut gone: impl FnMut(ConnId, &Peer) -> bool,
) {
    let Some(audience) = audiences.get_mut(&id) else { return };
    audience.listeners.retain(|(conn, peer)| !gone(*conn, peer));
    if audience.listeners.is_empty() {
        for stream in &audience.streams {
            streams.remove(stream);
        }
        audiences.remove(&id);
    }
}

#[cfg(test)]
mod tests;
