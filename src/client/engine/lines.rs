//! The stored form of one line of a timeline, and how it becomes what a user interface shows. Knows no network and no keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::client::model::{
    Body, Delivery, Mark, MessageRef, Quote, Reaction, Reason, SystemLine, ThreadInfo, TimelineItem, Trust, Untrusted,
};
use crate::client::store::{Position, StoreError, StoredMessage, Table};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::{ChannelId, DeviceId, MessageId, UserId};

use super::db::{Db, key, pack, reference_key, unpack};

/// A line with what the store's columns say of it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub channel_id: ChannelId,
    pub key: MessageRef,
    pub position: Position,
    pub thread_root: Option<MessageRef>,
    pub value: LineValue,
}

/// Stored in [`StoredMessage::value`]. Fields are only added, with a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LineValue {
    /// The server's time of the row; before it has one, the time of writing.
    pub at: Timestamp,
    /// The author's clock, milliseconds.
    pub sent_ms: u64,
    /// 0: unknown, or nobody's.
    pub device: DeviceId,
    pub body: LineBody,
    #[serde(default)]
    pub reply_to: Option<MessageRef>,
    /// Seconds; 0: it stays.
    #[serde(default)]
    pub expires_s: u32,
    /// When the message arrived here, milliseconds, for its expiry.
    #[serde(default)]
    pub arrived_ms: u64,
    /// Highest (rev, message id of the edit) so far.
    #[serde(default)]
    pub edit: Option<(u32, MessageId)>,
    #[serde(default)]
    pub reactions: Vec<StoredReaction>,
    #[serde(default)]
    pub mentions: Vec<UserId>,
    pub delivery: Delivery,
    #[serde(default)]
    pub marks: Vec<Mark>,
    #[serde(default)]
    pub revision: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum LineBody {
    Text(String),
    Deleted {
        by_moderator: bool,
    },
    Expired,
    /// A row that cannot be opened yet.
    Waiting(Reason),
    BeforeJoin,
    BeforeDevice,
    /// The encoded content, for a newer client.
    NewerClient(Vec<u8>),
    Clear(String),
    System(SystemLine),
}

impl LineBody {
    /// Whether something was said here that can still come: a placeholder gives way to it.
    pub(super) const fn is_placeholder(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::BeforeJoin | Self::BeforeDevice)
    }
}

/// The state of one (user, emoji) on one message: that of the content with the greatest (time, id).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredReaction {
    pub user: UserId,
    pub emoji: String,
    pub sent_ms: u64,
    pub by: MessageId,
    pub on: bool,
}

/// Different emoji on one message (`protocol.md` 7), and states that are kept for them.
pub(super) const REACTIONS_MAX: usize = 20;
const REACTION_STATES_MAX: usize = 2_000;

/// Characters of a quoted text.
const QUOTE_MAX: usize = 160;

impl LineValue {
    pub(super) fn new(at: Timestamp, body: LineBody) -> Self {
        Self {
            at,
            sent_ms: at.as_unix_ms(),
            device: 0,
            body,
            reply_to: None,
            expires_s: 0,
            arrived_ms: at.as_unix_ms(),
            edit: None,
            reactions: Vec::new(),
            mentions: Vec::new(),
            delivery: Delivery::Received,
            marks: Vec::new(),
            revision: 0,
        }
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        if !self.marks.contains(&mark) {
            self.marks.push(mark);
        }
    }

    /// Takes a reaction into account; false when it changes nothing.
    pub(super) fn react(&mut self, reaction: StoredReaction) -> bool {
        if let Some(old) = self.reactions.iter_mut().find(|old| old.user == reaction.user && old.emoji == reaction.emoji) {
            if (old.sent_ms, old.by) >= (reaction.sent_ms, reaction.by) {
                return false;
            }
            *old = reaction;
            return true;
        }
        let known = self.reactions.iter().any(|old| old.emoji == reaction.emoji);
        let emoji: std::collections::BTreeSet<&str> = self.reactions.iter().map(|old| old.emoji.as_str()).collect();
        if self.reactions.len() >= REACTION_STATES_MAX || (!known && emoji.len() >= REACTIONS_MAX) {
            return false;
        }
        self.reactions.push(reaction);
        true
    }

    /// Erases what was said and everything that hangs on it.
    pub(super) fn erase(&mut self, body: LineBody) {
        self.body = body;
        self.reactions.clear();
        self.mentions.clear();
        self.edit = None;
        self.reply_to = None;
    }

    pub(super) const fn is_erased(&self) -> bool {
        matches!(self.body, LineBody::Deleted { .. } | LineBody::Expired)
    }

    /// What the search finds.
    fn searchable(&self) -> Option<Zeroizing<String>> {
        match &self.body {
            LineBody::Text(text) | LineBody::Clear(text) => Some(Zeroizing::new(text.clone())),
            _ => None,
        }
    }
}

impl Line {
    pub(super) fn from_stored(message: &StoredMessage) -> Result<Self, StoreError> {
        Ok(Self {
            channel_id: message.channel_id,
            key: message.key,
            position: message.position,
            thread_root: message.thread_root,
            value: unpack(Table::Channels, &message.value)?,
        })
    }

    pub(super) fn load(db: &Db<'_>, channel_id: ChannelId, key: MessageRef) -> Result<Option<Self>, StoreError> {
        db.message(channel_id, key)?.map(|message| Self::from_stored(&message)).transpose()
    }

    pub(super) fn store(&self, db: &mut Db<'_>) -> Result<(), StoreError> {
        db.changes.put_message(StoredMessage {
            channel_id: self.channel_id,
            key: self.key,
            position: self.position,
            thread_root: self.thread_root,
            text: self.value.searchable(),
            value: pack(Table::Channels, &self.value)?,
        });
        Ok(())
    }
}

/// Replies in one thread.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct StoredThread {
    pub replies: u32,
    pub last_at: Timestamp,
    /// This user wrote in it, or its root.
    pub mine: bool,
}

pub(super) fn thread_key(channel_id: ChannelId, root: MessageRef) -> Vec<u8> {
    key(&[channel_id.as_bytes(), &reference_key(root)])
}

/// Who looks, and how people are called.
pub(super) trait Viewer {
    fn me(&self) -> UserId;
    fn name(&self, channel_id: ChannelId, user_id: UserId) -> Untrusted;
    fn trust(&self, user_id: UserId) -> Trust;
}

/// What a user interface shows of a line.
pub(super) fn item(db: &Db<'_>, viewer: &impl Viewer, line: &Line) -> Result<TimelineItem, StoreError> {
    let value = &line.value;
    let me = viewer.me();
    let nobody = matches!(value.body, LineBody::System(_)) || is_nobody(line.key.author);
    Ok(TimelineItem {
        channel_id: line.channel_id,
        key: line.key,
        seq: (line.position.sub == 0 && !line.position.is_pending()).then_some(line.position.seq),
        revision: value.revision,
        at: value.at,
        author_name: if nobody { Untrusted::default() } else { viewer.name(line.channel_id, line.key.author) },
        author_trust: if nobody { Trust::Unknown } else { viewer.trust(line.key.author) },
        mine: !nobody && line.key.author == me,
        body: match &value.body {
            LineBody::Text(text) => Body::Text(text.as_str().into()),
            LineBody::Deleted { by_moderator } => Body::Deleted { by_moderator: *by_moderator },
            LineBody::Expired => Body::Expired,
            LineBody::Waiting(reason) => Body::Undecryptable(*reason),
            LineBody::BeforeJoin => Body::BeforeJoin,
            LineBody::BeforeDevice => Body::BeforeDevice,
            LineBody::NewerClient(_) => Body::NewerClient,
            LineBody::Clear(text) => Body::Clear(text.as_str().into()),
            LineBody::System(line) => Body::System(line.clone()),
        },
        reply_to: value.reply_to.map(|target| quote(db, viewer, line.channel_id, target)).transpose()?,
        thread_root: line.thread_root,
        thread: db
            .load::<StoredThread>(Table::Threads, &thread_key(line.channel_id, line.key))?
            .filter(|thread| thread.replies > 0)
            .map(|thread| ThreadInfo { replies: thread.replies, last_at: thread.last_at }),
        reactions: reactions(value, me),
        edited: value.edit.is_some(),
        mentions_me: value.mentions.contains(&me),
        delivery: value.delivery.clone(),
        marks: value.marks.clone(),
    })
}

pub(super) fn items(db: &Db<'_>, viewer: &impl Viewer, page: &[StoredMessage]) -> Result<Vec<Arc<TimelineItem>>, StoreError> {
    page.iter().map(|message| item(db, viewer, &Line::from_stored(message)?).map(Arc::new)).collect()
}

/// The author of lines that nobody wrote.
pub(super) const NOBODY: UserId = UserId::from_bytes([0; 16]);

pub(super) fn is_nobody(user_id: UserId) -> bool {
    user_id == NOBODY
}

fn quote(db: &Db<'_>, viewer: &impl Viewer, channel_id: ChannelId, target: MessageRef) -> Result<Quote, StoreError> {
    let text = Line::load(db, channel_id, target)?.and_then(|line| match line.value.body {
        LineBody::Text(text) | LineBody::Clear(text) => Some(text.chars().take(QUOTE_MAX).collect::<String>().into()),
        _ => None,
    });
    Ok(Quote { target, author_name: viewer.name(channel_id, target.author), text })
}

fn reactions(value: &LineValue, me: UserId) -> Vec<Reaction> {
    let mut counts: BTreeMap<&str, (u32, bool)> = BTreeMap::new();
    let mut order = Vec::new();
    for reaction in value.reactions.iter().filter(|reaction| reaction.on) {
        let count = counts.entry(&reaction.emoji).or_insert_with(|| {
            order.push(reaction.emoji.as_str());
            (0, false)
        });
        count.0 += 1;
        count.1 |= reaction.user == me;
    }
    order
        .into_iter()
        .filter_map(|emoji| counts.get(emoji).map(|&(count, mine)| Reaction { emoji: emoji.into(), count, mine }))
        .collect()
}
