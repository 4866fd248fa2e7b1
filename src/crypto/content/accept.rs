//! Which content may come by which way (TC/1 section 9.2), as far as it can be judged without a store. Content that carries keys or
//! device control is taken only from a Double Ratchet session (rule R3). The caller still owes: each (author, conversation, msg_id)
//! once, and the rights of section 9.3. Start at [`accept`].

use super::proto::{Body, Content};
use super::{Error, meaning};

/// The authenticated way by which a content arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A session with a device in a verified list.
    Session {
        /// The user of the session's other device.
        from: [u8; 16],
        /// The own user.
        me: [u8; 16],
        /// Whether the other device is under the own UIK; the same user id is not enough.
        own_identity: bool,
    },
    /// A sender key chain.
    Channel {
        /// The sender of the chain.
        from: [u8; 16],
        /// From the header of the frame.
        channel_id: [u8; 16],
    },
}

/// Whose timeline a content belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Conversation {
    /// The direct messages with this user; the own user id for notes to oneself.
    Dm([u8; 16]),
    Channel([u8; 16]),
}

/// What the content was wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapper {
    /// Sent by the own user from another device.
    SyncSent,
    /// Sent once more by its author, after a request.
    Resent {
        /// The wrapper's own message id.
        msg_id: [u8; 16],
        chain_id: u32,
        iteration: u32,
    },
}

/// A content that may take effect. For `sync_sent` and `resent` it is the inner one: its ids are the ones that count once.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// User id.
    pub author: [u8; 16],
    pub conversation: Conversation,
    pub content: Content,
    pub wrapper: Option<Wrapper>,
}

/// Applies section 9.2. Everything that breaks it is `Malformed`.
pub fn accept(content: Content, via: Via) -> Result<Accepted, Error> {
    match via {
        Via::Channel { from, channel_id } => from_channel(content, from, channel_id),
        Via::Session { from, me, own_identity } => from_session(content, from, me, own_identity && from == me),
    }
}

fn from_channel(content: Content, from: [u8; 16], channel_id: [u8; 16]) -> Result<Accepted, Error> {
    if content.conv != channel_id || content.body.as_ref().is_some_and(|body| !is_for_channels(body)) {
        return Err(Error::Malformed);
    }
    Ok(Accepted { author: from, conversation: Conversation::Channel(channel_id), content, wrapper: None })
}

fn from_session(content: Content, from: [u8; 16], me: [u8; 16], is_own_device: bool) -> Result<Accepted, Error> {
    if content.conv != me || content.own_list.is_empty() {
        return Err(Error::Malformed);
    }
    match &content.body {
        Some(Body::SyncSent(sent)) if is_own_device => {
            let inner = Content::from_bytes(&sent.content)?;
            let peer = meaning::id16(&sent.conv).ok_or(Error::Malformed)?;
            if inner.conv != sent.conv || inner.msg_id != content.msg_id || !inner.body.as_ref().is_some_and(is_mirrored) {
                return Err(Error::Malformed);
            }
            Ok(Accepted { author: me, conversation: Conversation::Dm(peer), content: inner, wrapper: Some(Wrapper::SyncSent) })
        }
        Some(Body::OwnState(_)) if is_own_device => Ok(direct(content, from)),
        Some(Body::SyncSent(_) | Body::OwnState(_)) => Err(Error::Malformed),
        Some(Body::Resent(resent)) => {
            let inner = Content::from_bytes(&resent.content)?;
            let channel_id = meaning::id16(&resent.channel_id).ok_or(Error::Malformed)?;
            if inner.conv != channel_id || !inner.body.as_ref().is_some_and(is_for_channels) {
                return Err(Error::Malformed);
            }
            let wrapper = Wrapper::Resent { msg_id: content.id(), chain_id: resent.chain_id, iteration: resent.iteration };
            Ok(Accepted { author: from, conversation: Conversation::Channel(channel_id), content: inner, wrapper: Some(wrapper) })
        }
        _ => Ok(direct(content, from)),
    }
}

/// The conversation of a DM is the pair of users, so seen from here it is named by the other one.
fn direct(content: Content, from: [u8; 16]) -> Accepted {
    Accepted { author: from, conversation: Conversation::Dm(from), content, wrapper: None }
}

/// Fields 16..19 and 23..25: what may be said in a channel.
fn is_for_channels(body: &Body) -> bool {
    matches!(
        body,
        Body::Text(_) | Body::Edit(_) | Body::Reaction(_) | Body::Delete(_) | Body::Profile(_) | Body::Timer(_) | Body::Poll(_)
    )
}

/// Fields 16..25: what the own devices learn of what one of them sent.
fn is_mirrored(body: &Body) -> bool {
    is_for_channels(body) || matches!(body, Body::Receipt(_))
}
