//! What an authenticated content does to a timeline (`crypto.md` 9.3): new lines, edits, deletions, reactions, receipts,
//! read markers, unread counts and expiry. Who may say it was decided before; here nothing is decrypted.

use serde::{Deserialize, Serialize};

use crate::client::command::Place;
use crate::client::event::ClientEvent;
use crate::client::model::{Delivery, Mark, MessageRef, Reason, SystemLine};
use crate::client::store::{From, Lines, Position, StoreError, Table};
use crate::crypto::content::{self, Body, Content, Text};
use crate::crypto::membership;
use crate::protocol::channels::NotifyLevel;
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::{ChannelId, DeviceId, MessageId, UserId};
use crate::protocol::messages::{Row, RowKind};

use super::db::{key, reference_key, reference_of};
use super::lines::{self, Line, LineBody, LineValue, NOBODY, StoredReaction, StoredThread, thread_key};
use super::{Cx, Engine, time};

/// Whose content it is, and by which way it came.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub channel_id: ChannelId,
    pub author: UserId,
    pub device: DeviceId,
    /// None for what came through the inbox.
    pub row: Option<RowFacts>,
    /// The server's time.
    pub at: Timestamp,
    /// The author's role at the frame's epoch, in channels.
    pub role: Option<membership::Role>,
    pub marks: Vec<Mark>,
}

/// What the server claims of a row beside its ciphertext: hints, compared with the content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RowFacts {
    pub id: MessageId,
    pub seq: u64,
    pub kind: RowKind,
    pub thread_id: Option<MessageId>,
    pub reply_to_id: Option<MessageId>,
    pub target_id: Option<MessageId>,
}

impl RowFacts {
    pub(super) fn of(row: &Row) -> Self {
        Self {
            id: row.id,
            seq: row.seq,
            kind: row.kind,
            thread_id: row.thread_id,
            reply_to_id: row.reply_to_id,
            target_id: row.target_id,
        }
    }
}

/// An effect that waits for its target.
#[derive(Serialize, Deserialize)]
enum Early {
    Edit { rev: u32, text: String, mentions: Vec<UserId> },
    Delete { by_moderator: bool },
    Reaction { emoji: String, sent_ms: u64, on: bool },
}

/// Effects that are kept for one target that did not come.
const EARLY_MAX: usize = 200;
/// Unread messages are counted up to this.
const UNREAD_MAX: usize = 1_000;
/// Messages that one pass erases.
const EXPIRY_BATCH: usize = 200;

pub(super) fn reference(bytes: &[u8]) -> Option<MessageRef> {
    content::MessageRef::parse(bytes)
        .map(|r| MessageRef { author: UserId::from_bytes(r.author), id: MessageId::from_bytes(r.msg_id) })
}

pub(super) fn reference_bytes(reference: MessageRef) -> Vec<u8> {
    reference_key(reference).to_vec()
}

fn users(bytes: &[Vec<u8>]) -> Vec<UserId> {
    bytes.iter().filter_map(|id| id.as_slice().try_into().ok().map(UserId::from_bytes)).collect()
}

impl Engine {
    /// Lets a content take effect, once.
    pub(super) fn apply_content(&mut self, cx: &mut Cx<'_>, origin: Origin, content: &Content) -> Result<(), StoreError> {
        let id = MessageId::from_bytes(content.id());
        let own = MessageRef { author: origin.author, id };
        if !self.first_time(cx, origin.channel_id, own)? {
            return self.settle_repeat(cx, &origin, own);
        }
        match &content.body {
            Some(Body::Text(text)) => self.apply_text(cx, origin, content, text, own),
            Some(Body::Edit(edit)) => {
                let (Some(target), Some(text)) = (reference(&edit.target), edit.text.as_ref()) else { return Ok(()) };
                if target.author != origin.author {
                    return Ok(());
                }
                let effect = Early::Edit { rev: edit.rev, text: text.body.clone(), mentions: users(&text.mentions) };
                self.apply_effect(cx, origin.channel_id, target, own, effect)
            }
            Some(Body::Delete(delete)) => {
                let Some(target) = reference(&delete.target) else { return Ok(()) };
                let aim = content::MessageRef { author: *target.author.as_bytes(), msg_id: *target.id.as_bytes() };
                if !content::may_delete(*origin.author.as_bytes(), &aim, origin.role) {
                    return Ok(());
                }
                let effect = Early::Delete { by_moderator: target.author != origin.author };
                self.apply_effect(cx, origin.channel_id, target, own, effect)
            }
            Some(Body::Reaction(reaction)) => {
                let Some(target) = reference(&reaction.target) else { return Ok(()) };
                let effect = Early::Reaction { emoji: reaction.emoji.clone(), sent_ms: content.sent_ms, on: !reaction.remove };
                self.apply_effect(cx, origin.channel_id, target, own, effect)
            }
            Some(Body::Timer(timer)) => self.apply_timer(cx, &origin, own, timer.seconds),
            Some(Body::Receipt(receipt)) => self.apply_receipt(cx, &origin, receipt),
            // A profile in a content is not shown yet; the server's name is.
            Some(Body::Profile(_)) => Ok(()),
            _ => {
                let bytes = content.to_bytes().map(|bytes| bytes.to_vec()).unwrap_or_default();
                self.apply_unknown(cx, origin, content, own, bytes)
            }
        }
    }

    /// Whether this content was not accepted before (`crypto.md` 9.2).
    fn first_time(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, own: MessageRef) -> Result<bool, StoreError> {
        let seen = key(&[channel_id.as_bytes(), &reference_key(own)]);
        if cx.db.has(Table::Seen, &seen)? {
            return Ok(false);
        }
        let at = cx.now.as_unix_ms().to_be_bytes();
        cx.db.put(Table::Seen, seen.clone(), at);
        cx.db.put(Table::SeenAt, key(&[&at, &seen]), []);
        Ok(true)
    }

    pub(super) fn was_seen(&self, cx: &Cx<'_>, channel_id: ChannelId, own: MessageRef) -> Result<bool, StoreError> {
        cx.db.has(Table::Seen, &key(&[channel_id.as_bytes(), &reference_key(own)]))
    }

    /// A message that came through the inbox first has its place in the log now.
    fn settle_repeat(&mut self, cx: &mut Cx<'_>, origin: &Origin, own: MessageRef) -> Result<(), StoreError> {
        let Some(row) = &origin.row else { return Ok(()) };
        if let Some(mut line) = Line::load(&cx.db, origin.channel_id, own)?
            && line.position != Position::row(row.seq)
            && (line.position.sub != 0 || line.position.is_pending())
        {
            line.position = Position::row(row.seq);
            line.value.at = origin.at;
            self.put_line(cx, line)?;
        }
        Ok(())
    }

    fn apply_text(
        &mut self,
        cx: &mut Cx<'_>,
        origin: Origin,
        content: &Content,
        text: &Text,
        own: MessageRef,
    ) -> Result<(), StoreError> {
        let thread_root = reference(&text.thread_root);
        let reply_to = reference(&text.reply_to);
        let mut value = LineValue::new(origin.at, LineBody::Text(text.body.clone()));
        value.reply_to = reply_to;
        value.mentions = users(&text.mentions);
        if let Some(row) = &origin.row
            && (row.kind != RowKind::Message
                || row.thread_id != thread_root.map(|root| root.id)
                || row.reply_to_id != reply_to.map(|target| target.id))
        {
            value.mark(Mark::Forged);
        }
        self.apply_line(cx, origin, content, own, thread_root, value)
    }

    fn apply_unknown(
        &mut self,
        cx: &mut Cx<'_>,
        origin: Origin,
        content: &Content,
        own: MessageRef,
        bytes: Vec<u8>,
    ) -> Result<(), StoreError> {
        let value = LineValue::new(origin.at, LineBody::NewerClient(bytes));
        self.apply_line(cx, origin, content, own, None, value)
    }

    /// A new line of somebody, or of an own other device.
    fn apply_line(
        &mut self,
        cx: &mut Cx<'_>,
        origin: Origin,
        content: &Content,
        own: MessageRef,
        thread_root: Option<MessageRef>,
        mut value: LineValue,
    ) -> Result<(), StoreError> {
        let channel_id = origin.channel_id;
        let mine = own.author == self.me_id();
        value.sent_ms = content.sent_ms;
        value.device = origin.device;
        value.expires_s = content.expires_s;
        value.arrived_ms = cx.now.as_unix_ms();
        value.delivery = if mine { Delivery::Sent } else { Delivery::Received };
        for mark in &origin.marks {
            value.mark(*mark);
        }
        if content::is_time_doubtful(content.sent_ms, origin.at.as_unix_ms()) {
            value.mark(Mark::Clock);
        }
        let mut position = None;
        if let Some(row) = &origin.row {
            position = Some(Position::row(row.seq));
            if row.id != own.id {
                value.mark(Mark::Forged);
                self.remove_line(cx, channel_id, MessageRef { author: own.author, id: row.id })?;
            }
        }
        let old = Line::load(&cx.db, channel_id, own)?;
        if let Some(old) = &old {
            value.revision = old.value.revision + 1;
            position = position.or(Some(old.position));
        }
        let position = match position {
            Some(position) => position,
            None => Position::local(self.places.state(channel_id).newest, cx.db.next_number("line")?),
        };
        let new = old.is_none_or(|old| old.value.body.is_placeholder());
        let line = Line { channel_id, key: own, position, thread_root, value };
        if new {
            self.count_reply(cx, &line, mine)?;
            self.count_unread(cx, &line, mine)?;
        }
        self.schedule_expiry(cx, &line, None)?;
        self.put_line(cx, line)?;
        self.apply_early(cx, channel_id, own)
    }

    fn count_reply(&mut self, cx: &mut Cx<'_>, line: &Line, mine: bool) -> Result<(), StoreError> {
        let Some(root) = line.thread_root else { return Ok(()) };
        let at = thread_key(line.channel_id, root);
        let mut thread = cx.db.load::<StoredThread>(Table::Threads, &at)?.unwrap_or_default();
        thread.replies = thread.replies.saturating_add(1);
        thread.last_at = thread.last_at.max(line.value.at);
        thread.mine |= mine || root.author == self.me_id();
        cx.db.save(Table::Threads, at, &thread)?;
        self.touch(cx, line.channel_id, root);
        Ok(())
    }

    fn uncount_reply(&mut self, cx: &mut Cx<'_>, line: &Line) -> Result<(), StoreError> {
        let Some(root) = line.thread_root else { return Ok(()) };
        let at = thread_key(line.channel_id, root);
        let mut thread = cx.db.load::<StoredThread>(Table::Threads, &at)?.unwrap_or_default();
        thread.replies = thread.replies.saturating_sub(1);
        cx.db.save(Table::Threads, at, &thread)?;
        self.touch(cx, line.channel_id, root);
        Ok(())
    }

    /// Whether a line is unread news to this user, and whether it names them.
    fn is_news(&self, cx: &Cx<'_>, line: &Line) -> Result<(bool, bool), StoreError> {
        let me = self.me_id();
        let said =
            !matches!(line.value.body, LineBody::System(_)) && !line.value.is_erased() && !line.value.body.is_placeholder();
        if line.key.author == me || !said || line.position.is_pending() {
            return Ok((false, false));
        }
        let mention = line.value.mentions.contains(&me);
        let followed = match line.thread_root {
            None => true,
            Some(root) => {
                mention
                    || cx
                        .db
                        .load::<StoredThread>(Table::Threads, &thread_key(line.channel_id, root))?
                        .is_some_and(|thread| thread.mine)
            }
        };
        Ok((followed, mention))
    }

    fn count_unread(&mut self, cx: &mut Cx<'_>, line: &Line, mine: bool) -> Result<(), StoreError> {
        let (news, mention) = self.is_news(cx, line)?;
        let at = line.value.at;
        let state = self.places.state(line.channel_id);
        let unread = news && line.position.seq > state.read_seq;
        self.places.update_state(&mut cx.db, line.channel_id, |state| {
            state.last_at = state.last_at.max(Some(at));
            if unread {
                state.unread += 1;
                state.mentions += u64::from(mention);
            }
        })?;
        let wanted = match state.settings.notify {
            NotifyLevel::All => !state.settings.muted,
            NotifyLevel::Mentions => mention,
            NotifyLevel::None => false,
        };
        if unread && !mine && wanted && (mention || !self.is_catching_up()) {
            let text = match &line.value.body {
                LineBody::Text(text) | LineBody::Clear(text) => text.as_str().into(),
                _ => "".into(),
            };
            cx.tell(ClientEvent::Attention {
                place: Place { channel_id: line.channel_id, thread: line.thread_root },
                from: self.places.name_in(line.channel_id, line.key.author),
                text,
                mention,
            });
        }
        Ok(())
    }

    /// An edit, deletion or reaction, now or when its target comes.
    fn apply_effect(
        &mut self,
        cx: &mut Cx<'_>,
        channel_id: ChannelId,
        target: MessageRef,
        by: MessageRef,
        effect: Early,
    ) -> Result<(), StoreError> {
        match Line::load(&cx.db, channel_id, target)? {
            Some(line) if !line.value.body.is_placeholder() => self.change_line(cx, line, by, effect),
            _ => {
                let prefix = key(&[channel_id.as_bytes(), &reference_key(target)]);
                if cx.db.scan(Table::Early, &prefix, EARLY_MAX)?.len() < EARLY_MAX {
                    cx.db.save(Table::Early, key(&[&prefix, &reference_key(by)]), &effect)?;
                }
                Ok(())
            }
        }
    }

    fn apply_early(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, target: MessageRef) -> Result<(), StoreError> {
        let prefix = key(&[channel_id.as_bytes(), &reference_key(target)]);
        for (at, effect) in cx.db.load_all::<Early>(Table::Early, &prefix, EARLY_MAX)? {
            let by = at.get(prefix.len()..).and_then(reference_of);
            cx.db.delete(Table::Early, at);
            if let (Some(by), Some(line)) = (by, Line::load(&cx.db, channel_id, target)?) {
                self.change_line(cx, line, by, effect)?;
            }
        }
        Ok(())
    }

    fn change_line(&mut self, cx: &mut Cx<'_>, mut line: Line, by: MessageRef, effect: Early) -> Result<(), StoreError> {
        if line.value.is_erased() && !matches!((&effect, &line.value.body), (Early::Delete { .. }, LineBody::Deleted { .. })) {
            return Ok(());
        }
        match effect {
            Early::Edit { rev, text, mentions } => {
                if !matches!(line.value.body, LineBody::Text(_)) || line.value.edit.is_some_and(|old| old >= (rev, by.id)) {
                    return Ok(());
                }
                if let Some((_, old)) = line.value.edit.replace((rev, by.id)) {
                    self.forget_sent(cx, line.key.author, old);
                }
                line.value.body = LineBody::Text(text);
                line.value.mentions = mentions;
            }
            Early::Delete { by_moderator } => {
                let unread = line.position.seq > self.places.state(line.channel_id).read_seq;
                let (news, mention) = self.is_news(cx, &line)?;
                if news && unread {
                    self.places.update_state(&mut cx.db, line.channel_id, |state| {
                        state.unread = state.unread.saturating_sub(1);
                        state.mentions = state.mentions.saturating_sub(u64::from(mention));
                    })?;
                }
                self.erase_line(cx, &mut line, LineBody::Deleted { by_moderator });
                line.value.marks.retain(|mark| *mark != Mark::HiddenByServer);
            }
            Early::Reaction { emoji, sent_ms, on } => {
                if !line.value.react(StoredReaction { user: by.author, emoji, sent_ms, by: by.id, on }) {
                    return Ok(());
                }
            }
        }
        line.value.revision += 1;
        self.put_line(cx, line)
    }

    /// Erases what was said, also what is kept to be sent again.
    fn erase_line(&self, cx: &mut Cx<'_>, line: &mut Line, body: LineBody) {
        self.forget_sent(cx, line.key.author, line.key.id);
        if let Some((_, edit)) = line.value.edit {
            self.forget_sent(cx, line.key.author, edit);
        }
        line.value.erase(body);
    }

    fn forget_sent(&self, cx: &mut Cx<'_>, author: UserId, id: MessageId) {
        if author == self.me_id() {
            cx.db.delete(Table::SentContents, id.as_bytes());
        }
    }

    fn apply_timer(&mut self, cx: &mut Cx<'_>, origin: &Origin, own: MessageRef, seconds: u32) -> Result<(), StoreError> {
        // While its frame could not be opened, its row had a line.
        let held = Line::load(&cx.db, origin.channel_id, own)?.filter(|line| line.value.body.is_placeholder());
        let seq = origin.row.as_ref().map(|row| row.seq).or(held.as_ref().map(|line| line.position.seq)).unwrap_or(0);
        if held.is_some() {
            self.remove_line(cx, origin.channel_id, own)?;
        }
        let late = seq < self.places.state(origin.channel_id).timer_seq;
        if late || origin.role.is_some_and(|role| role < membership::Role::Admin) {
            return Ok(());
        }
        self.places.update_state(&mut cx.db, origin.channel_id, |state| (state.expires_s, state.timer_seq) = (seconds, seq))?;
        let who = self.places.name_in(origin.channel_id, origin.author);
        let text = if seconds == 0 {
            format!("{} turned disappearing messages off.", who.raw())
        } else {
            format!("{} set new messages to disappear after {}.", who.raw(), time::words(seconds))
        };
        self.local_line(cx, origin.channel_id, SystemLine::Warning(text))
    }

    fn apply_receipt(&mut self, cx: &mut Cx<'_>, origin: &Origin, receipt: &content::Receipt) -> Result<(), StoreError> {
        let me = self.me_id();
        let mirrored = origin.author == me;
        // About a DM it names one of the two users; about a channel, the channel, of which its author has to be a member.
        let named = <[u8; 16]>::try_from(receipt.conv.as_slice()).ok().map(ChannelId::from_bytes);
        let is_members =
            |channel: &ChannelId| self.log_of(*channel).is_some_and(|log| log.log.member(origin.author.as_bytes()).is_some());
        let channel_id = named.filter(is_members).unwrap_or(origin.channel_id);
        for id in receipt.ids.iter().filter_map(|id| <[u8; 16]>::try_from(id.as_slice()).ok()).map(MessageId::from_bytes) {
            if mirrored {
                // Another own device displayed these messages: their clocks run.
                let Some(peer) = self.places.peer(channel_id) else { continue };
                if receipt.kind == content::RECEIPT_READ
                    && let Some(line) = Line::load(&cx.db, channel_id, MessageRef { author: peer, id })?
                {
                    self.schedule_expiry(cx, &line, Some(cx.now))?;
                }
                continue;
            }
            let Some(mut line) = Line::load(&cx.db, channel_id, MessageRef { author: me, id })? else { continue };
            let better = match (&line.value.delivery, receipt.kind) {
                (Delivery::Sent | Delivery::Delivered, content::RECEIPT_READ) => Some(Delivery::Read),
                (Delivery::Sent, content::RECEIPT_DELIVERED) => Some(Delivery::Delivered),
                _ => None,
            };
            if let Some(delivery) = better {
                line.value.delivery = delivery;
                line.value.revision += 1;
                self.put_line(cx, line)?;
            }
        }
        Ok(())
    }

    /// The user has seen a channel on this device: the clocks of what was displayed now begin to run, and its authors learn it.
    pub(super) fn read_here(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, seq: u64) -> Result<bool, StoreError> {
        let before = self.places.state(channel_id).read_seq;
        if !self.read_up_to(cx, channel_id, seq)? {
            return Ok(false);
        }
        let seq = self.places.state(channel_id).read_seq;
        let from = From::After(Position::local(before, i64::MAX as u64));
        for message in cx.db.page(channel_id, Lines::All, from, UNREAD_MAX)? {
            if message.position.seq > seq {
                break;
            }
            let line = Line::from_stored(&message)?;
            if line.key.author != self.me_id() && !lines::is_nobody(line.key.author) {
                self.schedule_expiry(cx, &line, Some(cx.now))?;
                if matches!(line.value.body, LineBody::Text(_)) {
                    self.owe_receipt(cx, channel_id, line.key, content::RECEIPT_READ)?;
                }
            }
        }
        Ok(true)
    }

    /// Moves the read marker: of this user, from this or another own device. It is the server's word, so it moves what is
    /// counted and nothing else: who displayed a message says so in its own receipts.
    pub(super) fn read_up_to(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, seq: u64) -> Result<bool, StoreError> {
        let state = self.places.state(channel_id);
        let seq = seq.min(state.newest.max(self.places.channels.get(&channel_id).map_or(0, |channel| channel.head_seq)));
        if seq <= state.read_seq {
            return Ok(false);
        }
        let (unread, mentions) = self.unread_after(cx, channel_id, seq)?;
        self.places.update_state(&mut cx.db, channel_id, |state| {
            state.read_seq = seq;
            state.unread = unread;
            state.mentions = mentions;
        })?;
        Ok(true)
    }

    /// How many lines behind a row are unread news, and how many of them name this user.
    pub(super) fn unread_after(&self, cx: &Cx<'_>, channel_id: ChannelId, seq: u64) -> Result<(u64, u64), StoreError> {
        let (mut unread, mut mentions) = (0, 0);
        for message in cx.db.page(channel_id, Lines::All, From::After(Position::local(seq, i64::MAX as u64)), UNREAD_MAX)? {
            let (news, mention) = self.is_news(cx, &Line::from_stored(&message)?)?;
            unread += u64::from(news);
            mentions += u64::from(mention && news);
        }
        Ok((unread, mentions))
    }

    /// A line that nobody wrote, after everything that is in the channel now.
    pub(super) fn local_line(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, what: SystemLine) -> Result<(), StoreError> {
        let id = MessageId(cx.uuid_v7());
        let position = Position::local(self.places.state(channel_id).newest, cx.db.next_number("line")?);
        let value = LineValue::new(cx.now, LineBody::System(what));
        self.put_line(cx, Line { channel_id, key: MessageRef { author: NOBODY, id }, position, thread_root: None, value })
    }

    /// A row that cannot be shown for now, or never.
    pub(super) fn put_placeholder(
        &mut self,
        cx: &mut Cx<'_>,
        row: &Row,
        body: LineBody,
        mark: Option<Mark>,
    ) -> Result<(), StoreError> {
        if !matches!(row.kind, RowKind::Message | RowKind::Poll) {
            return Ok(());
        }
        let key = MessageRef { author: row.sender_id.unwrap_or(NOBODY), id: row.id };
        let mut revision = 0;
        if let Some(old) = Line::load(&cx.db, row.channel_id, key)? {
            if !old.value.body.is_placeholder() {
                return Ok(());
            }
            revision = old.value.revision + 1;
        }
        let mut value = LineValue::new(row.created_at, body);
        value.revision = revision;
        value.device = row.sender_device.unwrap_or(0);
        if let Some(mark) = mark {
            value.mark(mark);
        }
        let line = Line { channel_id: row.channel_id, key, position: Position::row(row.seq), thread_root: None, value };
        self.put_line(cx, line)
    }

    /// Changes the reason on a placeholder.
    pub(super) fn set_waiting(
        &mut self,
        cx: &mut Cx<'_>,
        channel_id: ChannelId,
        key: MessageRef,
        reason: Reason,
    ) -> Result<(), StoreError> {
        if let Some(mut line) = Line::load(&cx.db, channel_id, key)?
            && line.value.body.is_placeholder()
            && line.value.body != LineBody::Waiting(reason)
        {
            line.value.body = LineBody::Waiting(reason);
            line.value.revision += 1;
            self.put_line(cx, line)?;
        }
        Ok(())
    }

    /// The server says that a row is deleted or quarantined; no signed content says so, so the words stay and are marked.
    pub(super) fn hidden_by_server(&mut self, cx: &mut Cx<'_>, row: &Row) -> Result<(), StoreError> {
        let key = MessageRef { author: row.sender_id.unwrap_or(NOBODY), id: row.id };
        match Line::load(&cx.db, row.channel_id, key)? {
            Some(mut line) => {
                if !line.value.is_erased() && !line.value.marks.contains(&Mark::HiddenByServer) {
                    line.value.mark(Mark::HiddenByServer);
                    line.value.revision += 1;
                    self.put_line(cx, line)?;
                }
                Ok(())
            }
            None if row.kind == RowKind::Message => {
                let mut value = LineValue::new(row.created_at, LineBody::Deleted { by_moderator: false });
                value.mark(Mark::HiddenByServer);
                let line = Line { channel_id: row.channel_id, key, position: Position::row(row.seq), thread_root: None, value };
                self.put_line(cx, line)?;
                self.apply_early(cx, row.channel_id, key)
            }
            None => Ok(()),
        }
    }

    pub(super) fn put_line(&mut self, cx: &mut Cx<'_>, line: Line) -> Result<(), StoreError> {
        line.store(&mut cx.db)?;
        self.touch(cx, line.channel_id, line.key);
        Ok(())
    }

    pub(super) fn remove_line(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, key: MessageRef) -> Result<(), StoreError> {
        if let Some(line) = Line::load(&cx.db, channel_id, key)? {
            cx.db.changes.delete_message(channel_id, key);
            cx.touched.remove(&(channel_id, key));
            cx.removed.push((channel_id, key));
            if !line.value.body.is_placeholder() {
                self.uncount_reply(cx, &line)?;
            }
        }
        Ok(())
    }

    /// Begins an own message's line and counts it where it belongs.
    pub(super) fn put_own_line(&mut self, cx: &mut Cx<'_>, line: Line) -> Result<(), StoreError> {
        self.count_reply(cx, &line, true)?;
        let at = line.value.at;
        self.places.update_state(&mut cx.db, line.channel_id, |state| state.last_at = state.last_at.max(Some(at)))?;
        self.put_line(cx, line)
    }

    pub(super) fn touch(&self, cx: &mut Cx<'_>, channel_id: ChannelId, key: MessageRef) {
        cx.touched.insert((channel_id, key));
    }

    /// Notes when a line has to be erased.
    pub(super) fn schedule_expiry(
        &mut self,
        cx: &mut Cx<'_>,
        line: &Line,
        displayed: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let value = &line.value;
        let mine = line.key.author == self.me_id();
        let at = content::erase_at(value.expires_s, value.sent_ms, mine, value.arrived_ms, displayed.map(Timestamp::as_unix_ms));
        if let Some(at) = at {
            cx.db.put(Table::Expiry, key(&[&at.to_be_bytes(), line.channel_id.as_bytes(), &reference_key(line.key)]), []);
            self.timers.expiry = Some(self.timers.expiry.map_or(at, |old| old.min(at)));
        }
        Ok(())
    }

    /// Erases what is due and says when the next is.
    pub(super) fn expire(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        self.timers.expiry = None;
        for (at, _) in cx.db.scan(Table::Expiry, &[], EXPIRY_BATCH)? {
            let Some((due, rest)) = at.split_first_chunk::<8>() else { continue };
            let due = u64::from_be_bytes(*due);
            if due > now {
                self.timers.expiry = Some(due);
                break;
            }
            let parts = rest
                .split_first_chunk::<16>()
                .and_then(|(channel, rest)| Some((ChannelId::from_bytes(*channel), reference_of(rest)?)));
            cx.db.delete(Table::Expiry, at.clone());
            self.timers.expiry = Some(now);
            if let Some((channel_id, key)) = parts
                && let Some(mut line) = Line::load(&cx.db, channel_id, key)?
                && !line.value.is_erased()
            {
                self.erase_line(cx, &mut line, LineBody::Expired);
                line.value.revision += 1;
                self.put_line(cx, line)?;
            }
        }
        Ok(())
    }
}
