//! What the events of the streams mean: places and people as the server shows them, and the rows of channels, handed to
//! their concern. In which order they come, `sync` decides.

use crate::client::model::{Mark, MessageRef, Problem, ProblemKind, Reason, Untrusted};
use crate::client::store::{Position, StoreError};
use crate::protocol::codec::Blob;
use crate::protocol::ids::{CommunityId, LogId, StreamId, UserId};
use crate::protocol::messages::{Row, RowKind};
use crate::protocol::streams::{Event, RemovalReason};

use super::lines::{Line, LineBody, LineValue, NOBODY};
use super::snapshot::Load;
use super::timeline::RowFacts;
use super::{Cx, Engine};

impl Engine {
    pub(super) fn apply_user_event(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), StoreError> {
        match event {
            Event::ChannelAdded { channel } => {
                let id = channel.id;
                self.add_channel(cx, channel)?;
                self.follow(cx, id.into(), 0)
            }
            Event::ChannelRemoved { channel_id } => self.lose_stream(cx, channel_id.into()),
            // A private group: everybody else learns of groups by the stream of the community.
            Event::Group { group } => self.add_group(cx, group),
            Event::GroupRemoved { group_id } => self.lose_group(cx, group_id),
            Event::CommunityAdded { community } => {
                let id = community.id;
                self.add_community(cx, community)?;
                self.follow(cx, id.into(), 0)?;
                self.want(Load::Groups(id, None));
                self.want(Load::Channels);
                Ok(())
            }
            Event::CommunityRemoved { community_id, reason, .. } => {
                let name = self.places.communities.get(&community_id).map(|community| community.name.clone()).unwrap_or_default();
                self.lose_community(cx, community_id)?;
                let text = match reason {
                    RemovalReason::Kicked => format!("You were removed from {name}."),
                    RemovalReason::Banned => format!("You were banned from {name}."),
                    RemovalReason::Deleted => format!("{name} was deleted."),
                    RemovalReason::Left | RemovalReason::Other => return Ok(()),
                };
                cx.notice(Problem::new(ProblemKind::Permission, text).hint("Searching still finds what was said there."));
                Ok(())
            }
            Event::ReadMarker { channel_id, seq } => {
                self.read_up_to(cx, channel_id, seq)?;
                Ok(())
            }
            Event::DeviceList { user_id, list_seq } => self.mark_list_stale(cx, user_id, list_seq),
            Event::Settings { channel_id, settings } => {
                self.places.update_state(&mut cx.db, channel_id, |state| state.settings = settings)
            }
            Event::Contact { contact } => self.places.put_user(&mut cx.db, contact.user),
            _ => Ok(()),
        }
    }

    pub(super) fn apply_place_event(&mut self, cx: &mut Cx<'_>, stream: StreamId, event: Event) -> Result<(), StoreError> {
        let community_id = CommunityId(stream.0);
        let is_community = self.places.communities.contains_key(&community_id);
        match event {
            Event::LogOp { log_id, log_seq, op } if log_id.0 == stream.0 => self.offer_op(cx, log_id, log_seq, op.0),
            Event::Community { community } if community.id == community_id => self.add_community(cx, community),
            Event::Member { member } if is_community => self.places.put_member(&mut cx.db, community_id, member),
            Event::MemberRemoved { user_id, .. } if is_community => {
                self.places.remove_member(&mut cx.db, community_id, user_id);
                Ok(())
            }
            Event::Group { group } if group.community_id == community_id => self.add_group(cx, group),
            Event::GroupRemoved { group_id } => {
                self.places.remove_group(&mut cx.db, group_id);
                Ok(())
            }
            Event::Channel { channel } => {
                let (id, new, empty) = (channel.id, !self.places.channels.contains_key(&channel.id), channel.head_seq == 0);
                let here = channel.group_id.is_some_and(|group| {
                    group.0 == stream.0 || self.places.groups.get(&group).is_none_or(|group| group.community_id == community_id)
                });
                if !here {
                    return Ok(());
                }
                self.add_channel(cx, channel)?;
                if new && empty {
                    self.follow(cx, id.into(), 0)
                } else {
                    if new {
                        self.want(Load::Channel(id));
                    }
                    Ok(())
                }
            }
            Event::ChannelRemoved { channel_id } => {
                let inside = self.places.channels.get(&channel_id).and_then(|channel| self.places.community_of(channel))
                    == Some(community_id);
                if inside || !is_community { self.lose_stream(cx, channel_id.into()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// One row of a channel's log, in order.
    pub(super) fn apply_row(&mut self, cx: &mut Cx<'_>, row: Row) -> Result<(), StoreError> {
        let channel_id = row.channel_id;
        self.compare_at_seam(cx, &row)?;
        self.places.update_state(&mut cx.db, channel_id, |state| {
            state.newest = state.newest.max(row.seq);
            state.oldest = Some(state.oldest.map_or(row.seq, |oldest| oldest.min(row.seq)));
        })?;
        self.take_row(cx, row)
    }

    /// A row by whatever way: live, caught up, or out of the history.
    pub(super) fn take_row(&mut self, cx: &mut Cx<'_>, row: Row) -> Result<(), StoreError> {
        match row.kind {
            RowKind::Member => {
                let op = row.body.as_ref().and_then(|body| {
                    let seq = body.get("log_seq")?.as_u64()?;
                    let op = serde_json::from_value::<Blob>(body.get("op")?.clone()).ok()?;
                    Some((seq, op))
                });
                match op {
                    Some((seq, op)) => self.offer_op(cx, LogId(row.channel_id.0), seq, op.0),
                    None => Ok(()),
                }
            }
            RowKind::System | RowKind::Webhook => {
                let text = row
                    .body
                    .as_ref()
                    .and_then(|body| Some(body.get("text").or_else(|| body.get("content"))?.as_str()?.to_owned()));
                let Some(text) = text else { return Ok(()) };
                let value = LineValue::new(row.created_at, LineBody::Clear(text));
                let key = MessageRef { author: NOBODY, id: row.id };
                if Line::load(&cx.db, row.channel_id, key)?.is_none() {
                    let position = Position::row(row.seq);
                    let line = Line { channel_id: row.channel_id, key, position, thread_root: None, value };
                    self.put_line(cx, line)?;
                }
                Ok(())
            }
            RowKind::Channel | RowKind::PollClose | RowKind::Pin | RowKind::Unpin | RowKind::PollVote | RowKind::Unknown => {
                Ok(())
            }
            RowKind::Message | RowKind::Edit | RowKind::Reaction | RowKind::Delete | RowKind::Poll => {
                self.take_sealed_row(cx, row)
            }
        }
    }

    fn take_sealed_row(&mut self, cx: &mut Cx<'_>, row: Row) -> Result<(), StoreError> {
        let (Some(sender), Some(device)) = (row.sender_id, row.sender_device) else {
            return self.put_placeholder(cx, &row, LineBody::Waiting(Reason::Refused), Some(Mark::Forged));
        };
        let me = self.me.as_ref().map(|me| (me.user_id, me.device_id));
        if me == Some((sender, device)) {
            return self.own_row(cx, &row);
        }
        let own = MessageRef { author: sender, id: row.id };
        if self.was_seen(cx, row.channel_id, own)? {
            // Committed before: never decrypted again.
            let facts = RowFacts::of(&row);
            return self.repeat_row(cx, &row, facts, own);
        }
        if row.deleted_at.is_some() || row.quarantined {
            return self.hidden_by_server(cx, &row);
        }
        let (Some(ciphertext), Some(nonce)) = (&row.ciphertext, row.nonce.as_ref().and_then(Blob::to_array::<12>)) else {
            let body =
                if self.places.is_dm(row.channel_id) { LineBody::BeforeDevice } else { LineBody::Waiting(Reason::Refused) };
            return self.put_placeholder(cx, &row, body, None);
        };
        let frame = ciphertext.0.clone();
        if self.places.is_dm(row.channel_id) {
            self.receive_dm_row(cx, row, frame, nonce)
        } else {
            self.receive_channel_row(cx, row, frame, nonce)
        }
    }

    fn repeat_row(&mut self, cx: &mut Cx<'_>, row: &Row, facts: RowFacts, own: MessageRef) -> Result<(), StoreError> {
        if row.deleted_at.is_some() || row.quarantined {
            return self.hidden_by_server(cx, row);
        }
        if let Some(mut line) = Line::load(&cx.db, row.channel_id, own)?
            && line.position != Position::row(facts.seq)
        {
            line.position = Position::row(facts.seq);
            line.value.at = row.created_at;
            self.put_line(cx, line)?;
        }
        Ok(())
    }

    /// Which of two people a user id of the server names; used in texts only.
    pub(super) fn name_of(&self, user_id: UserId) -> Untrusted {
        self.places.name(None, user_id)
    }
}
