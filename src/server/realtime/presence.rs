//! Who is there, and who is typing: told to people who share a log or a direct message, never stored, dropped when a queue
//! is half full.
//!
//! In audiences of more than [`AUDIENCE_MAX`] connections nobody's presence is told: each coming and going would cost a frame
//! for everybody there.

use std::time::Duration;

use tokio::time::Instant;

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

/// A connection's `typing` is passed on once in this time for each channel, and for so many channels in it: more says nothing
/// more, and each goes to everybody who hears the channel.
const TYPING_EVERY: Duration = Duration::from_secs(2);
const TYPING_CHANNELS: usize = 8;

/// Which `typing` frames of one connection are passed on.
#[derive(Default)]
pub struct TypingRate {
    passed: Vec<(ChannelId, Instant)>,
}

impl TypingRate {
    pub fn takes(&mut self, channel: ChannelId) -> bool {
        let now = Instant::now();
        self.passed.retain(|(_, at)| now - *at < TYPING_EVERY);
        let takes = self.passed.len() < TYPING_CHANNELS && self.passed.iter().all(|(passed, _)| *passed != channel);
        if takes {
            self.passed.push((channel, now));
        }
        takes
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn typing_is_passed_on_once_in_two_seconds_for_each_of_a_few_channels() {
        let mut rate = TypingRate::default();
        let channel = |n: u8| ChannelId::from_bytes([n; 16]);
        assert!(rate.takes(channel(0)) && !rate.takes(channel(0)));
        assert!((1..8).all(|n| rate.takes(channel(n))) && !rate.takes(channel(8)));
        tokio::time::advance(TYPING_EVERY).await;
        assert!(rate.takes(channel(0)) && !rate.takes(channel(0)) && rate.takes(channel(8)));
    }
}
