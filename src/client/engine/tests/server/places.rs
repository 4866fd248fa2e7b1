//! Communities, channels and their membership logs. [`Server::apply_op`] is the one door for ops.

use super::*;

impl Server {
    pub fn channel_for(&self, id: ChannelId, user: UserId) -> Channel {
        let log = &self.channels[&id];
        let mut channel = log.channel.clone();
        channel.start_seq = Some(log.starts.get(&user).copied().unwrap_or(0));
        channel.my_read_seq = Some(log.read.get(&user).copied().unwrap_or(0));
        channel.peer = log.pair.map(|[a, b]| self.user(if a == user { b } else { a }));
        channel
    }

    pub(super) fn community_for(&self, id: CommunityId, user: UserId) -> Community {
        let mut community = self.communities[&id].clone();
        let logged = &self.logs[&id.into()];
        community.my_role = logged.log.member(user.as_bytes()).and_then(|member| Role::from_u8(member.role as u8));
        community.log_head_seq = logged.log.epoch();
        community.member_count = logged.log.members().count() as u32;
        community.start_seq = Some(self.streams.get(&id.into()).map_or(0, |events| events.len() as u64));
        community
    }

    pub(super) fn member(&self, community: CommunityId, user: UserId) -> Member {
        let role = self.logs[&community.into()].log.member(user.as_bytes()).map_or(0, |member| member.role as u8);
        Member {
            user: self.user(user),
            role: Role::from_u8(role).unwrap(),
            role_ids: Vec::new(),
            nickname: None,
            joined_at: self.at(),
        }
    }

    pub(super) fn ops(&self, log_id: LogId, after: i64) -> LogOps {
        let logged = &self.logs[&log_id];
        let from = (after + 1) as usize;
        // Short pages, so that paging is tried.
        let items: Vec<Blob> = logged.ops.iter().skip(from).take(3).map(|op| op.as_slice().into()).collect();
        let next = from + items.len();
        LogOps { items, head_seq: logged.log.epoch(), next_after: (next < logged.ops.len()).then_some(next as i64 - 1) }
    }

    /// The one door for ops: verified as a client would, then told.
    pub(super) fn apply_op(&mut self, log_id: LogId, op: Vec<u8>, out: &mut Pushes) -> Result<u64, Refusal> {
        let parsed = Op::parse(&op).map_err(|_| Refusal { code: ErrorCode::Validation, details: None })?;
        if self.refuse_ops > 0 {
            self.refuse_ops -= 1;
            self.refused_ops.push(op);
            let head_seq = self.logs.get(&log_id).map_or(0, |logged| logged.log.epoch());
            return Err(Refusal { code: ErrorCode::StaleLog, details: Some(json!({ "head_seq": head_seq })) });
        }
        if let Some(logged) = self.logs.get(&log_id) {
            if logged.ops.get(parsed.seq as usize) == Some(&op) {
                return Ok(parsed.seq);
            }
            if parsed.seq != logged.log.epoch() + 1 {
                return Err(Refusal { code: ErrorCode::StaleLog, details: Some(json!({ "head_seq": logged.log.epoch() })) });
            }
        }
        let before = self.log_members(log_id);
        let log = match self.logs.get(&log_id) {
            None => Log::start(log_id.as_bytes(), &op, None, &Objects(self)),
            Some(logged) => {
                let mut log = logged.log.clone();
                log.apply(&op, &Objects(self)).map(|_| log)
            }
        };
        let log = log.map_err(|_| Refusal { code: ErrorCode::Forbidden, details: None })?;
        let seq = log.epoch();
        let logged = self.logs.entry(log_id).or_insert_with(|| Logged { ops: Vec::new(), log: log.clone() });
        logged.ops.push(op.clone());
        logged.log = log;
        let after = self.log_members(log_id);
        let is_channel = self.logs[&log_id].log.kind() == crate::crypto::membership::LogKind::Channel;
        if !is_channel {
            self.emit(StreamId(log_id.0), Event::LogOp { log_id, log_seq: seq, op: op.clone().into() }, out);
        }
        for user in after.iter().filter(|user| !before.contains(user)) {
            for channel in self.channels.values_mut().filter(|channel| channel.channel.log_id == Some(log_id)) {
                let start = channel.rows.len() as u64;
                channel.starts.insert(*user, start);
            }
            if self.communities.contains_key(&CommunityId(log_id.0)) && seq > 0 {
                let member = self.member(CommunityId(log_id.0), *user);
                self.emit(StreamId(log_id.0), Event::Member { member }, out);
                let community = self.community_for(CommunityId(log_id.0), *user);
                self.emit((*user).into(), Event::CommunityAdded { community }, out);
                continue;
            }
            if let Some(group) = self.groups.get(&GroupId(log_id.0)).cloned() {
                self.emit((*user).into(), Event::Group { group }, out);
            }
            for channel_id in self.channels_of_log(log_id) {
                let channel = self.channel_for(channel_id, *user);
                self.emit((*user).into(), Event::ChannelAdded { channel }, out);
            }
        }
        for user in before.iter().filter(|user| !after.contains(user)) {
            if !is_channel {
                self.emit(StreamId(log_id.0), Event::MemberRemoved { user_id: *user, reason: RemovalReason::Kicked }, out);
            }
            if self.communities.contains_key(&CommunityId(log_id.0)) {
                let event = Event::CommunityRemoved {
                    community_id: CommunityId(log_id.0),
                    reason: RemovalReason::Kicked,
                    op: Some(op.clone().into()),
                };
                self.emit((*user).into(), event, out);
                continue;
            }
            for channel_id in self.channels_of_log(log_id) {
                self.emit((*user).into(), Event::ChannelRemoved { channel_id }, out);
            }
            if self.groups.contains_key(&GroupId(log_id.0)) {
                self.emit((*user).into(), Event::GroupRemoved { group_id: GroupId(log_id.0) }, out);
            }
        }
        if is_channel && self.channels.contains_key(&ChannelId(log_id.0)) {
            self.push_member_row(ChannelId(log_id.0), seq, op, out);
        }
        Ok(seq)
    }

    pub(super) fn channels_of_log(&self, log_id: LogId) -> Vec<ChannelId> {
        self.channels.iter().filter(|(_, log)| log.channel.log_id == Some(log_id)).map(|(id, _)| *id).collect()
    }

    /// An op of a private channel's log is a row of the channel.
    pub(super) fn push_member_row(&mut self, channel_id: ChannelId, log_seq: u64, op: Vec<u8>, out: &mut Pushes) {
        let row = Row {
            id: MessageId(self.id()),
            channel_id,
            seq: self.channels[&channel_id].rows.len() as u64 + 1,
            log_seq: Some(log_seq),
            kind: RowKind::Member,
            sender_id: None,
            sender_device: None,
            thread_id: None,
            reply_to_id: None,
            target_id: None,
            ciphertext: None,
            nonce: None,
            body: Some(json!({ "log_seq": log_seq, "op": Blob::from(op) })),
            file_ids: Vec::new(),
            created_at: self.at(),
            expires_at: None,
            deleted_at: None,
            quarantined: false,
        };
        self.push_row(channel_id, StoredRow { row, hash: Vec::new(), copies: BTreeMap::new() }, out);
    }

    pub(super) fn create_community(
        &mut self,
        me: UserId,
        create: CreateCommunity,
        out: &mut Pushes,
    ) -> Result<serde_json::Value, Refusal> {
        self.apply_op(create.id.into(), create.log_op.0, out)?;
        let community = Community {
            id: create.id,
            name: create.name,
            description: create.description,
            accent_color: None,
            icon_url: None,
            banner_url: None,
            discoverable: false,
            open: false,
            welcome_message: None,
            who_can_create_groups: Role::Admin,
            who_can_create_invites: Role::Admin,
            owner_id: me,
            my_role: None,
            member_count: 1,
            log_head_seq: 0,
            start_seq: None,
            created_at: self.at(),
        };
        self.communities.insert(create.id, community);
        let community = self.community_for(create.id, me);
        self.emit(me.into(), Event::CommunityAdded { community: community.clone() }, out);
        ok(community)
    }

    pub(super) fn create_channel(
        &mut self,
        me: UserId,
        group_id: GroupId,
        create: CreateChannel,
        out: &mut Pushes,
    ) -> Result<serde_json::Value, Refusal> {
        let group = self.groups[&group_id].clone();
        let log_id: LogId = match (create.visibility, group.visibility) {
            (Visibility::Private, _) => create.id.into(),
            (Visibility::Public, Visibility::Private) => group_id.into(),
            (Visibility::Public, Visibility::Public) => group.community_id.into(),
        };
        let op = create.log_op.0.clone();
        self.apply_op(log_id, create.log_op.0, out)?;
        let mut stored = empty(create.id, ChannelKind::Text, None, self.at());
        stored.channel = Channel {
            group_id: Some(group_id),
            community_id: Some(group.community_id),
            log_id: Some(log_id),
            name: Some(create.name),
            topic: create.topic,
            ..stored.channel
        };
        let channel = stored.channel.clone();
        self.channels.insert(create.id, stored);
        if create.visibility == Visibility::Public {
            self.emit(StreamId(log_id.0), Event::Channel { channel }, out);
        } else {
            let channel = self.channel_for(create.id, me);
            self.emit(me.into(), Event::ChannelAdded { channel }, out);
            self.push_member_row(create.id, 0, op, out);
        }
        ok(self.channel_for(create.id, me))
    }

    pub fn open_dm(&mut self, me: UserId, peer: UserId, out: &mut Pushes) -> Channel {
        let mut pair = [me, peer];
        pair.sort();
        if let Some(id) = self.channels.iter().find(|(_, log)| log.pair == Some(pair)).map(|(id, _)| *id) {
            return self.channel_for(id, me);
        }
        let id = ChannelId(self.id());
        let log = empty(id, ChannelKind::Dm, Some(pair), self.at());
        self.channels.insert(id, log);
        for user in BTreeSet::from(pair) {
            let channel = self.channel_for(id, user);
            self.emit(user.into(), Event::ChannelAdded { channel }, out);
        }
        self.channel_for(id, me)
    }
}

/// A channel with nothing in it and nobody named.
fn empty(id: ChannelId, kind: ChannelKind, pair: Option<[UserId; 2]>, created_at: Timestamp) -> ChannelLog {
    let channel = Channel {
        id,
        kind,
        group_id: None,
        community_id: None,
        log_id: None,
        name: None,
        topic: None,
        read_only: false,
        slow_mode_s: 0,
        archived: false,
        message_ttl_s: None,
        position: 0,
        head_seq: 0,
        start_seq: None,
        my_read_seq: None,
        peer: None,
        created_at,
    };
    ChannelLog { channel, pair, rows: Vec::new(), starts: BTreeMap::new(), read: BTreeMap::new() }
}
