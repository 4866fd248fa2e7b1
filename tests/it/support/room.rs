//! A channel with people in it, and what they say.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::person::{Person, new_id};
use super::server::TestServer;

/// A channel and the people in it.
pub struct Room<const N: usize> {
    pub people: [Person; N],
    pub community: Uuid,
    pub group: Uuid,
    pub channel: Uuid,
}

impl TestServer {
    /// [`Room::make`] on this server.
    pub async fn room<const N: usize>(self: &Arc<Self>) -> Room<N> {
        Room::make(self).await
    }
}

impl<const N: usize> Room<N> {
    /// People, the first of whom owns a community with a channel that all of them read.
    pub async fn make(server: &Arc<TestServer>) -> Self {
        let people: [Person; N] = server.people().await;
        let community = people[0].community().await;
        for person in &people[1..] {
            people[0].add(community, person, 0).await;
        }
        let group = people[0].group(community).await;
        let channel = people[0].channel(community, group).await;
        Self { people, community, group, channel }
    }

    /// A message in the channel at the epoch of a fresh room.
    pub fn message(&self, sender: &Person) -> Value {
        message(self.channel, sender, N as u64)
    }
}

/// A `message` for a channel, with an id of its own; also the body of the HTTP request.
pub fn message(channel: Uuid, sender: &Person, epoch: u64) -> Value {
    message_of(channel, sender.id, epoch)
}

/// The same of somebody's first device.
pub fn message_of(channel: Uuid, sender: Uuid, epoch: u64) -> Value {
    let frame = channel_frame(channel, sender, 1, epoch);
    json!({
        "id": new_id(), "channel_id": channel, "kind": "message",
        "ciphertext": STANDARD.encode(frame), "nonce": STANDARD.encode([0; 12]),
    })
}

/// A request of another kind, aimed at a row.
pub fn aimed(kind: &str, target: &Value, channel: Uuid, sender: &Person, epoch: u64) -> Value {
    let mut request = message(channel, sender, epoch);
    request["kind"] = kind.into();
    request["target_id"] = target["id"].clone();
    request
}

/// A frame of type 3 with a true header and noise behind it: the server looks no deeper.
pub fn channel_frame(channel: Uuid, user: Uuid, device: u32, epoch: u64) -> Vec<u8> {
    let mut frame = vec![1, 3, 0, 1];
    frame.extend(channel.as_bytes());
    frame.extend(user.as_bytes());
    frame.extend(device.to_be_bytes());
    frame.extend(1u32.to_be_bytes());
    frame.extend(0u32.to_be_bytes());
    frame.extend(epoch.to_be_bytes());
    frame.extend(Uuid::now_v7().as_bytes().repeat(2));
    frame.extend([7; 128 + 16 + 64]);
    frame
}

/// A frame of type 1 with noise in it.
pub fn dm_frame() -> Vec<u8> {
    let mut frame = vec![1, 1, 0, 1];
    frame.extend([5; 16 + 32]);
    frame.extend([0; 8]);
    frame.extend(Uuid::now_v7().as_bytes().repeat(2));
    frame.extend([7; 128 + 16]);
    frame
}

/// A copy of a direct message, or of a `send_devices` batch.
pub fn copy(user: Uuid, device: u32) -> Value {
    json!({ "user_id": user, "device_id": device, "ciphertext": STANDARD.encode(dm_frame()), "nonce": STANDARD.encode([0; 12]) })
}
