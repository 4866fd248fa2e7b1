//! Everything that a user interface asks for. Each command is answered by exactly one `Done`: here at once, or at the end of
//! its errand.

use crate::client::command::{Command, Place, RequestId};
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Delivery, MemberInfo, MessageRef, Problem, ProblemKind, SendBlock, Untrusted};
use crate::client::store::{Position, StoreError, Table};
use crate::crypto::content::{self, Body, Content, Text};
use crate::crypto::membership::Role as LogRole;
use crate::protocol::channels::{OpenDm, UpdateChannel};
use crate::protocol::frame::ClientFrame;
use crate::protocol::ids::{ChannelId, MessageId, UserId};
use crate::protocol::messages::RowKind;

use serde::{Deserialize, Serialize};

use super::db::{key, reference_key};
use super::http;
use super::io::{Method, Output};
use super::lines::{Line, LineBody, LineValue, REACTIONS_MAX};
use super::outbox::{OUTBOX_MAX, RowSend, row_kind};
use super::timeline::{Origin, reference_bytes};
use super::{Cx, Engine};

pub(super) use super::errands::Errand;

/// A draft as it is kept.
#[derive(Serialize, Deserialize)]
struct Draft {
    text: String,
    reply_to: Option<MessageRef>,
}

fn draft_key(place: Place) -> Vec<u8> {
    match place.thread {
        None => place.channel_id.as_bytes().to_vec(),
        Some(root) => key(&[place.channel_id.as_bytes(), &reference_key(root)]),
    }
}

type Reply = Result<Answer, Problem>;

impl Engine {
    pub(super) fn done(&self, cx: &mut Cx<'_>, request: RequestId, result: Reply) {
        cx.tell(ClientEvent::Done { request, result });
    }

    pub(super) fn on_command(&mut self, cx: &mut Cx<'_>, request: RequestId, command: Command) -> Result<(), StoreError> {
        if self.me.as_ref().is_none_or(|me| !me.registered) && !matches!(command, Command::Reconnect | Command::LogOut) {
            let problem = Problem::new(ProblemKind::Auth, "This profile has no account yet.").hint("Log in or register first.");
            self.done(cx, request, Err(problem));
            return Ok(());
        }
        if let Some(reply) = self.perform(cx, request, command)? {
            self.done(cx, request, reply);
        }
        Ok(())
    }

    /// None: an errand will answer.
    fn perform(&mut self, cx: &mut Cx<'_>, request: RequestId, command: Command) -> Result<Option<Reply>, StoreError> {
        Ok(Some(match command {
            Command::LoadTimeline { place, anchor, limit } => Ok(Answer::Page(self.load_page(cx, place, anchor, limit)?)),
            Command::LoadNewest { channel_id, limit } => Ok(Answer::Page(self.load_newest(cx, channel_id, limit)?)),
            Command::FetchOlder { place, limit } => return self.fetch_older(cx, request, place, limit),
            Command::Search { query, place, limit } => Ok(Answer::Hits(self.find_text(cx, &query, place, limit)?)),
            Command::ListUnsent => Ok(Answer::Unsent(self.unsent(cx)?)),
            Command::ListMembers { channel_id } => self.list_members(channel_id).map(Answer::Members),
            Command::ListBanned { domain } => Ok(Answer::People(self.banned_people(domain))),
            Command::ShowForks { channel_id } => self.forks(cx, channel_id)?.map(Answer::Forks),
            Command::FindPeople { query } => {
                let found = self.known_people(&query);
                if query.trim().is_empty() || !self.is_online() {
                    Ok(Answer::People(found))
                } else {
                    let path = format!("/users/search?q={}", http::escape(query.trim_start_matches('@')));
                    self.run(cx, Errand::People { request, found }, Method::Get, path, None);
                    return Ok(None);
                }
            }
            Command::LoadDraft { place } => {
                let draft = cx
                    .db
                    .load::<Draft>(Table::Drafts, &draft_key(place))?
                    .unwrap_or(Draft { text: String::new(), reply_to: None });
                Ok(Answer::Draft { text: draft.text.into(), reply_to: draft.reply_to })
            }
            Command::SaveDraft { place, text, reply_to } => {
                self.save_draft(cx, place, &text, reply_to)?;
                Ok(Answer::Ok)
            }
            Command::SendText { place, text, reply_to, mentions, id } => {
                self.send_text(cx, place, text.raw(), reply_to, &mentions, id)?
            }
            Command::EditText { channel_id, target, text } => self.edit_text(cx, channel_id, target, text.raw())?,
            Command::Delete { channel_id, target } => self.delete(cx, channel_id, target)?,
            Command::React { channel_id, target, emoji, remove } => self.react(cx, channel_id, target, &emoji, remove)?,
            Command::Retry { channel_id, id } => {
                if self.retry_row(cx, channel_id, id)? {
                    Ok(Answer::Queued { id })
                } else {
                    Err(not_waiting())
                }
            }
            Command::Discard { channel_id, id } => {
                if self.discard_row(cx, channel_id, id)? {
                    Ok(Answer::Ok)
                } else {
                    Err(not_waiting())
                }
            }
            Command::MarkRead { channel_id, seq } => {
                if self.read_here(cx, channel_id, seq)? && self.is_online() {
                    let seq = self.places.state(channel_id).read_seq;
                    cx.send(ClientFrame::MarkRead { channel_id, seq });
                }
                Ok(Answer::Ok)
            }
            Command::Displayed { channel_id, messages } => {
                for message in messages {
                    if let Some(line) = Line::load(&cx.db, channel_id, message)?
                        && line.key.author != self.me_id()
                    {
                        self.schedule_expiry(cx, &line, Some(cx.now))?;
                    }
                }
                Ok(Answer::Ok)
            }
            Command::Typing { channel_id } => {
                if self.is_live() {
                    cx.send(ClientFrame::Typing { channel_id });
                }
                Ok(Answer::Ok)
            }
            Command::SetStatus(status) => {
                if !self.is_online() {
                    return Ok(Some(Err(offline())));
                }
                cx.send(ClientFrame::Presence { status });
                Ok(Answer::Ok)
            }
            Command::SetTimer { channel_id, seconds } => self.set_timer(cx, channel_id, seconds)?,
            Command::SetReceipts { on } => {
                self.set_receipts(cx, on);
                Ok(Answer::Ok)
            }
            Command::SetChannelSettings { channel_id, settings } => {
                let body = http::json(&settings);
                let errand = Errand::Settings { request, channel_id, settings };
                self.run(cx, errand, Method::Put, format!("/channels/{channel_id}/settings"), body);
                return Ok(None);
            }
            Command::SetTopic { channel_id, topic } => {
                let body = http::json(&UpdateChannel { topic: Some(topic), ..UpdateChannel::default() });
                self.run(cx, Errand::Channel { request, with: None }, Method::Patch, format!("/channels/{channel_id}"), body);
                return Ok(None);
            }
            Command::OpenDm { user_id } => match self.dm_channel(user_id).filter(|id| self.places.channels.contains_key(id)) {
                Some(channel_id) => Ok(Answer::Channel(channel_id)),
                None => {
                    let body = http::json(&OpenDm { user_id });
                    self.run(cx, Errand::Channel { request, with: Some(user_id) }, Method::Post, "/dms".into(), body);
                    return Ok(None);
                }
            },
            Command::ShowSafety { user_id } => match self.safety_of(cx, user_id)? {
                Some(safety) => Ok(Answer::Safety(safety)),
                None => {
                    let path = format!("/users/{user_id}/devices?after=0");
                    self.run(cx, Errand::Safety { request, user_id }, Method::Get, path, None);
                    return Ok(None);
                }
            },
            Command::Verify { user_id, code } => self.set_verified(cx, user_id, true, code.as_deref())?.map(|()| Answer::Ok),
            Command::Unverify { user_id } => self.set_verified(cx, user_id, false, None)?.map(|()| Answer::Ok),
            Command::Trust { user_id, send_waiting } => {
                let path = format!("/users/{user_id}/devices?after=0");
                self.run(cx, Errand::Trust { request, user_id, send_waiting }, Method::Get, path, None);
                return Ok(None);
            }
            Command::ListDevices => Ok(Answer::Devices(self.device_infos(cx, self.me_id())?)),
            Command::RemoveDevice { device_id } => return self.remove_device(cx, request, device_id),
            Command::Reconnect => {
                if self.timers.login.is_some() {
                    self.go_on_with_login(cx)?;
                }
                cx.out.push(Output::Reconnect);
                Ok(Answer::Ok)
            }
            Command::Settle => return Ok(self.begin_settling(request)),
            Command::CreateRegistrationInvite { .. }
            | Command::ListRegistrationInvites
            | Command::RevokeRegistrationInvite { .. } => {
                self.ask_instance(cx, request, &command);
                return Ok(None);
            }
            Command::LogOut => {
                self.run(cx, Errand::LogOut { request }, Method::Post, "/auth/logout".into(), None);
                return Ok(None);
            }
            Command::CreateCommunity { .. }
            | Command::CreateGroup { .. }
            | Command::CreateChannel { .. }
            | Command::CreateInvite { .. }
            | Command::Join { .. }
            | Command::Leave { .. }
            | Command::AddMember { .. }
            | Command::Kick { .. }
            | Command::Unban { .. }
            | Command::SetRole { .. }
            | Command::Resume { .. } => return self.begin_op(cx, request, command),
        }))
    }

    fn fetch_older(
        &mut self,
        cx: &mut Cx<'_>,
        request: RequestId,
        place: Place,
        limit: usize,
    ) -> Result<Option<Reply>, StoreError> {
        let oldest = self.places.state(place.channel_id).oldest;
        if oldest.is_some_and(|oldest| oldest <= 1) {
            return Ok(Some(Ok(Answer::Page(self.page_before(cx, place, oldest, limit)?))));
        }
        let before =
            oldest.unwrap_or_else(|| self.places.channels.get(&place.channel_id).map_or(1, |channel| channel.head_seq + 1));
        let path = format!("/channels/{}/messages?before={before}&limit={}", place.channel_id, limit.clamp(1, 100));
        self.run(cx, Errand::Older { request, place, limit, before }, Method::Get, path, None);
        Ok(None)
    }

    fn list_members(&self, channel_id: ChannelId) -> Result<Vec<MemberInfo>, Problem> {
        let info = |user_id: UserId, role, unsigned| {
            let user = self.places.users.get(&user_id);
            MemberInfo {
                user_id,
                name: self.places.name_in(channel_id, user_id),
                username: user.map(|user| user.username.as_str().into()).unwrap_or_default(),
                role,
                status: self.places.status(user_id),
                trust: self.trust_of(user_id),
                unsigned,
            }
        };
        if let Some(peer) = self.places.peer(channel_id) {
            let mut people = vec![self.me_id()];
            people.extend((peer != self.me_id()).then_some(peer));
            return Ok(people.into_iter().map(|user| info(user, crate::protocol::communities::Role::Member, false)).collect());
        }
        let Some(log) = self.log_of(channel_id) else {
            return Err(Problem::new(ProblemKind::NotFound, "The members of this channel are not known yet.")
                .hint("Try again when it is synchronised."));
        };
        let mut members: Vec<MemberInfo> = log
            .log
            .members()
            .map(|(user, member)| info(UserId::from_bytes(*user), super::membership::role_of(member.role), false))
            .collect();
        // Whom the server shows and no signed log names.
        let community = self.places.channels.get(&channel_id).and_then(|channel| self.places.community_of(channel));
        let is_communitys = community.is_some_and(|community| community.0.as_bytes() == log.log.id());
        if let Some(shown) = community.filter(|_| is_communitys).and_then(|community| self.places.members.get(&community)) {
            members.extend(
                shown
                    .values()
                    .filter(|member| log.log.member(member.user.id.as_bytes()).is_none())
                    .map(|member| info(member.user.id, member.role, true)),
            );
        }
        members.sort_by_key(|member| (std::cmp::Reverse(member.role), member.name.raw().to_lowercase(), member.user_id));
        Ok(members)
    }

    fn save_draft(
        &mut self,
        cx: &mut Cx<'_>,
        place: Place,
        text: &Untrusted,
        reply_to: Option<MessageRef>,
    ) -> Result<(), StoreError> {
        let at = draft_key(place);
        if text.is_empty() && reply_to.is_none() {
            cx.db.delete(Table::Drafts, at);
        } else {
            cx.db.save(Table::Drafts, at, &Draft { text: text.raw().to_owned(), reply_to })?;
        }
        let any = !cx.db.scan(Table::Drafts, place.channel_id.as_bytes(), 1)?.is_empty();
        self.places.update_state(&mut cx.db, place.channel_id, |state| state.has_draft = any)
    }

    // --- Writing ---

    /// Why nothing can be queued for a channel; a changed identity is no reason, it waits.
    fn may_write(&self, channel_id: ChannelId) -> Result<(), Problem> {
        let Some(channel) = self.places.channels.get(&channel_id) else {
            return Err(Problem::new(ProblemKind::NotFound, "There is no such channel, or you cannot read it any more."));
        };
        if self.outbox.len() >= OUTBOX_MAX {
            return Err(Problem::new(ProblemKind::Failed, "Too many messages wait for the server already.")
                .hint("Discard some, or wait until the line is up."));
        }
        match self.send_block(channel) {
            Some(SendBlock::Archived) => {
                Err(Problem::new(ProblemKind::Permission, "This channel is archived: it can be read only."))
            }
            Some(SendBlock::ReadOnly) => Err(Problem::new(ProblemKind::Permission, "Only moderators write in this channel.")),
            Some(SendBlock::NotMember) => Err(Problem::new(ProblemKind::Permission, "You are not a member here.")),
            Some(
                SendBlock::IdentityChanged { .. }
                | SendBlock::Equivocation { .. }
                | SendBlock::Away { .. }
                | SendBlock::LogStopped,
            )
            | None => Ok(()),
        }
    }

    fn conv(&self, channel_id: ChannelId) -> [u8; 16] {
        self.places.peer(channel_id).map_or(*channel_id.as_bytes(), |peer| *peer.as_bytes())
    }

    fn content(&self, cx: &mut Cx<'_>, channel_id: ChannelId, body: Body) -> (MessageId, Content) {
        let id = MessageId(cx.uuid_v7());
        (id, Content::new(*id.as_bytes(), cx.now.as_unix_ms(), self.conv(channel_id), body))
    }

    fn send_text(
        &mut self,
        cx: &mut Cx<'_>,
        place: Place,
        text: &str,
        reply_to: Option<MessageRef>,
        mentions: &[UserId],
        id: Option<MessageId>,
    ) -> Result<Reply, StoreError> {
        let channel_id = place.channel_id;
        if let Some(id) = id {
            if id.0.get_version_num() != 7 {
                return Ok(Err(Problem::new(ProblemKind::Usage, "The id of a message is a UUIDv7.")));
            }
            if Line::load(&cx.db, channel_id, MessageRef { author: self.me_id(), id })?.is_some() {
                return Ok(Ok(Answer::Queued { id }));
            }
        }
        if let Err(problem) = self.may_write(channel_id) {
            return Ok(Err(problem));
        }
        if text.trim().is_empty() {
            return Ok(Err(Problem::new(ProblemKind::Usage, "There is nothing to send.")));
        }
        let body = Text {
            body: text.to_owned(),
            reply_to: reply_to.map(reference_bytes).unwrap_or_default(),
            thread_root: place.thread.map(reference_bytes).unwrap_or_default(),
            mentions: mentions.iter().map(|user| user.as_bytes().to_vec()).collect(),
            files: Vec::new(),
        };
        let id = id.unwrap_or_else(|| MessageId(cx.uuid_v7()));
        let mut content = Content::new(*id.as_bytes(), cx.now.as_unix_ms(), self.conv(channel_id), Body::Text(body));
        content.expires_s = self.places.state(channel_id).expires_s;
        let Ok(bytes) = content.to_mirrored_bytes() else {
            return Ok(Err(Problem::new(
                ProblemKind::Usage,
                format!("The message is too long: {} bytes, at most {}.", text.len(), content::MAX_TEXT),
            )
            .hint("Send it in parts.")));
        };
        let row = RowSend {
            channel_id,
            id,
            kind: RowKind::Message,
            content: bytes.to_vec(),
            thread_id: place.thread.map(|root| root.id),
            reply_to_id: reply_to.map(|target| target.id),
            target_id: None,
            expires_s: content.expires_s,
        };
        let order = self.queue_row(cx, row)?;
        let mut value = LineValue::new(cx.now, LineBody::Text(text.to_owned()));
        value.device = self.me.as_ref().map_or(0, |me| me.device_id);
        value.reply_to = reply_to;
        value.mentions = mentions.to_vec();
        value.expires_s = content.expires_s;
        value.delivery = Delivery::Waiting;
        let key = MessageRef { author: self.me_id(), id };
        let line = Line { channel_id, key, position: Position::pending(order), thread_root: place.thread, value };
        self.schedule_expiry(cx, &line, None)?;
        self.put_own_line(cx, line)?;
        self.save_draft(cx, place, &Untrusted::default(), None)?;
        Ok(Ok(Answer::Queued { id }))
    }

    /// How long new messages stay, for everybody in the channel; it counts when the server has it, in its order.
    fn set_timer(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, seconds: u32) -> Result<Reply, StoreError> {
        if let Err(problem) = self.may_write(channel_id) {
            return Ok(Err(problem));
        }
        if self.places.peer(channel_id).is_none() && self.own_role(channel_id).is_none_or(|role| role < LogRole::Admin) {
            return Ok(Err(Problem::new(ProblemKind::Permission, "In a channel only admins decide how long messages stay.")));
        }
        let (id, content) = self.content(cx, channel_id, Body::Timer(content::Timer { seconds }));
        let Ok(bytes) = content.to_mirrored_bytes() else {
            return Ok(Err(Problem::new(ProblemKind::Usage, "Messages disappear after 5 seconds to a year, or not at all.")));
        };
        let row = RowSend {
            channel_id,
            id,
            kind: RowKind::Message,
            content: bytes.to_vec(),
            thread_id: None,
            reply_to_id: None,
            target_id: None,
            expires_s: 0,
        };
        self.queue_row(cx, row)?;
        Ok(Ok(Answer::Queued { id }))
    }

    /// Queues a content that is aimed at a message.
    fn queue_aimed(
        &mut self,
        cx: &mut Cx<'_>,
        channel_id: ChannelId,
        target: MessageRef,
        id: MessageId,
        content: &Content,
    ) -> Result<Reply, StoreError> {
        let Ok(bytes) = content.to_mirrored_bytes() else {
            return Ok(Err(Problem::new(ProblemKind::Usage, "It is too long.")));
        };
        let row = RowSend {
            channel_id,
            id,
            kind: row_kind(content),
            content: bytes.to_vec(),
            thread_id: None,
            reply_to_id: None,
            target_id: Some(target.id),
            expires_s: 0,
        };
        self.queue_row(cx, row)?;
        Ok(Ok(Answer::Queued { id }))
    }

    /// Shows the effect of an own content at once; a deletion takes effect when the server has it.
    fn apply_own(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, content: &Content) -> Result<(), StoreError> {
        let origin = Origin {
            channel_id,
            author: self.me_id(),
            device: self.me.as_ref().map_or(0, |me| me.device_id),
            row: None,
            at: cx.now,
            role: self.own_role(channel_id),
            marks: Vec::new(),
        };
        self.apply_content(cx, origin, content)
    }

    fn edit_text(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, target: MessageRef, text: &str) -> Result<Reply, StoreError> {
        if let Err(problem) = self.may_write(channel_id) {
            return Ok(Err(problem));
        }
        let line = Line::load(&cx.db, channel_id, target)?;
        let Some(line) = line.filter(|line| matches!(line.value.body, LineBody::Text(_))) else {
            return Ok(Err(Problem::new(ProblemKind::NotFound, "There is no such message to edit.")));
        };
        if target.author != self.me_id() {
            return Ok(Err(Problem::new(ProblemKind::Permission, "Only the author of a message edits it.")));
        }
        if line.position.is_pending() {
            return Ok(Err(Problem::new(ProblemKind::Failed, "The message was not sent yet.")
                .hint("Discard it and write it again, or wait until it is sent.")));
        }
        if text.trim().is_empty() {
            return Ok(Err(Problem::new(ProblemKind::Usage, "The new text is empty.").hint("Delete the message instead.")));
        }
        let edited = Text {
            body: text.to_owned(),
            reply_to: line.value.reply_to.map(reference_bytes).unwrap_or_default(),
            thread_root: line.thread_root.map(reference_bytes).unwrap_or_default(),
            mentions: line.value.mentions.iter().map(|user| user.as_bytes().to_vec()).collect(),
            files: Vec::new(),
        };
        let rev = line.value.edit.map_or(1, |(rev, _)| rev.saturating_add(1));
        let body = Body::Edit(content::Edit { target: reference_bytes(target), text: Some(edited), rev });
        let (id, content) = self.content(cx, channel_id, body);
        let reply = self.queue_aimed(cx, channel_id, target, id, &content)?;
        if reply.is_ok() {
            self.apply_own(cx, channel_id, &content)?;
        }
        Ok(reply)
    }

    fn delete(&mut self, cx: &mut Cx<'_>, channel_id: ChannelId, target: MessageRef) -> Result<Reply, StoreError> {
        let Some(line) = Line::load(&cx.db, channel_id, target)? else {
            return Ok(Err(Problem::new(ProblemKind::NotFound, "There is no such message.")));
        };
        if line.position.is_pending() {
            return Ok(if self.discard_row(cx, channel_id, target.id)? { Ok(Answer::Ok) } else { Err(not_waiting()) });
        }
        if let Err(problem) = self.may_write(channel_id) {
            return Ok(Err(problem));
        }
        let aim = content::MessageRef { author: *target.author.as_bytes(), msg_id: *target.id.as_bytes() };
        if !content::may_delete(*self.me_id().as_bytes(), &aim, self.own_role(channel_id)) {
            return Ok(Err(Problem::new(
                ProblemKind::Permission,
                "Only its author, or a moderator of the channel, deletes a message.",
            )));
        }
        let (id, content) = self.content(cx, channel_id, Body::Delete(content::Delete { target: reference_bytes(target) }));
        self.queue_aimed(cx, channel_id, target, id, &content)
    }

    fn react(
        &mut self,
        cx: &mut Cx<'_>,
        channel_id: ChannelId,
        target: MessageRef,
        emoji: &str,
        remove: bool,
    ) -> Result<Reply, StoreError> {
        if let Err(problem) = self.may_write(channel_id) {
            return Ok(Err(problem));
        }
        let Some(line) =
            Line::load(&cx.db, channel_id, target)?.filter(|line| !line.value.is_erased() && !line.position.is_pending())
        else {
            return Ok(Err(Problem::new(ProblemKind::NotFound, "There is no such message to react to.")));
        };
        let shown: std::collections::BTreeSet<&str> =
            line.value.reactions.iter().map(|reaction| reaction.emoji.as_str()).collect();
        if !remove && !shown.contains(emoji) && shown.len() >= REACTIONS_MAX {
            return Ok(Err(Problem::new(
                ProblemKind::Failed,
                format!("The message has {REACTIONS_MAX} different reactions already."),
            )));
        }
        let body = Body::Reaction(content::Reaction { target: reference_bytes(target), emoji: emoji.to_owned(), remove });
        let (id, content) = self.content(cx, channel_id, body);
        if content.to_bytes().is_err() {
            return Ok(Err(Problem::new(ProblemKind::Usage, format!("A reaction has 1 to {} bytes.", content::MAX_EMOJI))));
        }
        let reply = self.queue_aimed(cx, channel_id, target, id, &content)?;
        if reply.is_ok() {
            self.apply_own(cx, channel_id, &content)?;
        }
        Ok(reply)
    }
}

fn not_waiting() -> Problem {
    Problem::new(ProblemKind::NotFound, "No such message waits here.").hint("It may have been sent meanwhile.")
}

pub(super) fn offline() -> Problem {
    Problem::new(ProblemKind::Network, "The server is not connected.").hint("Try again when the line is up.")
}
