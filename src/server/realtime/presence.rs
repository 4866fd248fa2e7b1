//! Who is there, and who is typing: told to people who share a log or a direct message, never stored, dropped when a queue
//! is half full.
//!
//! In audiences of more than [`AUDIENCE_MAX`] connections nobody's presence is told: each coming and going would cost a frame
//! for everybody there.

use crate::protocol::codec::Encoding;
use crate::protocol::frame::ServerFrame;
use crate::protocol::ids::{ChannelId, UserId};
use crate::protocol::users::Status;

use super::frames::{self, Shared};
use super::hub::Hub;
use super::queue::{Class, Queue};

/// Connections of an audience in which presence is told.
const AUDIENCE_MAX: usize = 256;
/// People whose presence a new connection is told.
const FIRST_MAX: usize = 100;

/// What others see: who is invisible looks like somebody who is not there.
pub const fn shown(status: Status) -> Status {
    match status {
        Status::Invisible => Status::Offline,
        status => status,
    }
}

/// Tells a user's neighbours what they see now.
pub fn tell(hub: &Hub, user: UserId, status: Status) {
    let frame = Shared::new(&ServerFrame::Presence { user_id: user, status: shown(status) }, [true; Encoding::ALL.len()]);
    for peer in hub.neighbours(user, AUDIENCE_MAX).values() {
        if let Some(message) = frame.message(peer.encoding) {
            peer.queue.push(message, Class::Ephemeral);
        }
    }
}

/// Tells a new connection who is there.
pub fn introduce(hub: &Hub, user: UserId, queue: &Queue, encoding: Encoding) {
    let neighbours = hub.neighbours(user, AUDIENCE_MAX);
    let mut told = std::collections::HashSet::new();
    for peer in neighbours.values() {
        let status = hub.status(peer.user_id).map_or(Status::Offline, shown);
        if told.len() < FIRST_MAX
            && status != Status::Offline
            && told.insert(peer.user_id)
            && let Some(message) = frames::encode(&ServerFrame::Presence { user_id: peer.user_id, status }, encoding)
        {
            queue.push(message, Class::Ephemeral);
        }
    }
}

/// Passes on that somebody is typing in a channel that they hear.
pub fn typing(hub: &Hub, user: UserId, channel_id: ChannelId) {
    let Some(audience) = hub.audience_of(user, channel_id.into()) else { return };
    let frame = Shared::new(&ServerFrame::Typing { channel_id, user_id: user }, hub.encodings(audience));
    hub.whisper(audience, user, |peer| frame.message(peer.encoding));
}
