//! REST: the routes, and behind them accounts, devices and prekeys.

use super::*;

impl Server {
    pub fn http(&mut self, from: DeviceAddr, request: &Request, out: &mut Pushes) -> Answer {
        self.requests.push(format!("{:?} {}", request.method, request.path));
        if request.method == Method::Post && matches!(request.path.as_str(), "/devices" | "/keys/prekeys") {
            self.largest_keys = self.largest_keys.max(request.body.as_ref().map_or(0, Vec::len));
        }
        match self.route(from, request, out) {
            Ok(value) => Answer { status: 200, body: serde_json::to_vec(&value).unwrap() },
            Err(Refusal { code, details }) => {
                let body =
                    json!({ "error": { "code": code, "message": format!("refused: {}", code.as_str()), "details": details } });
                Answer { status: code.status(), body: serde_json::to_vec(&body).unwrap() }
            }
        }
    }

    pub(super) fn route(&mut self, from: DeviceAddr, request: &Request, out: &mut Pushes) -> Result<serde_json::Value, Refusal> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let me = from.user_id;
        match (request.method, parts.as_slice()) {
            (Method::Post, ["devices"]) => self.register(me, body(request)),
            (Method::Post, ["devices", id, "session"]) => match self.refuse_sessions {
                Some(code) => refuse(code),
                None => ok(self.session(id.parse().unwrap())),
            },
            (Method::Post, ["devices", "messages"]) => self.send_devices(from, body(request), out).and_then(ok),
            (Method::Delete, ["devices", id]) => {
                let body: RemoveDevice = body(request);
                let id: DeviceId = id.parse().unwrap();
                self.publish(me, body.device_list.0, Vec::new(), out)?;
                self.accounts.get_mut(&me).unwrap().devices.remove(&id);
                self.online.remove(&DeviceAddr { user_id: me, device_id: id });
                ok(())
            }
            (Method::Get, ["users", "search"]) => {
                let q = query["q"];
                ok(Page::all(
                    self.accounts.values().filter_map(|account| account.user.clone()).filter(|user| user.username == q).collect(),
                ))
            }
            (Method::Get, ["users", id, "devices"]) => {
                let uik = query.get("uik").map(|uik| (*uik).to_owned());
                self.devices(parse(id), query["after"].parse().unwrap(), uik.as_deref()).and_then(ok)
            }
            (Method::Post, ["users", "devices"]) => {
                let body: FetchManyDevices = body(request);
                let mut items = BTreeMap::new();
                for (user, after) in body.after {
                    if self.accounts.contains_key(&user) {
                        items.insert(user, self.devices(user, after, None)?);
                    }
                }
                ok(ByUser { items })
            }
            (Method::Post, ["users", "bundles"]) => {
                let body: FetchManyBundles = body(request);
                self.bundle_fetches += 1;
                if body.devices.keys().any(|user| self.bundles_limited.contains(user)) {
                    let details = json!({ "retry_after_ms": 3_000_000 });
                    return Err(Refusal { code: ErrorCode::RateLimited, details: Some(details) });
                }
                let mut items = BTreeMap::new();
                for (user, devices) in body.devices {
                    items.insert(user, self.bundles(user, &devices));
                }
                ok(ByUser { items })
            }
            (Method::Get, ["keys", "prekeys", "count"]) => ok(self.counts(from)),
            (Method::Post, ["keys", "prekeys"]) => {
                let upload: UploadPrekeys = body(request);
                let device = self.accounts.get_mut(&me).unwrap().devices.get_mut(&from.device_id).unwrap();
                let known = |id| device.one_time.iter().any(|key| key.id == id);
                if upload.one_time_prekeys.iter().any(|key| known(key.id)) {
                    return refuse(ErrorCode::Validation);
                }
                device.signed = upload.signed_prekey.or(device.signed.take());
                device.last = upload.last_kem_prekey.or(device.last.take());
                device.one_time.extend(upload.one_time_prekeys);
                device.kem.extend(upload.kem_prekeys);
                ok(self.counts(from))
            }
            (Method::Post, ["sync"]) => self.sync(from, body(request)),
            (Method::Get, ["communities"]) => {
                let mine: Vec<CommunityId> = self
                    .communities
                    .keys()
                    .filter(|id| self.logs[&LogId::from(**id)].log.member(me.as_bytes()).is_some())
                    .copied()
                    .collect();
                ok(Page::all(mine.into_iter().map(|id| self.community_for(id, me)).collect()))
            }
            (Method::Post, ["communities"]) => self.create_community(me, body(request), out),
            (Method::Get, ["communities", id, "groups"]) => {
                let id: CommunityId = parse(id);
                let seen =
                    |group: &&Group| group.visibility == Visibility::Public || self.log_members(group.id.into()).contains(&me);
                ok(Page::all(self.groups.values().filter(|group| group.community_id == id).filter(seen).cloned().collect()))
            }
            (Method::Get, ["communities", id, "members"]) => {
                let id: CommunityId = parse(id);
                ok(Page::all(self.log_members(id.into()).into_iter().map(|user| self.member(id, user)).collect()))
            }
            (Method::Post, ["communities", id, "groups"]) => {
                let create: CreateGroup = body(request);
                let group = Group {
                    id: create.id,
                    community_id: parse(id),
                    name: create.name,
                    description: None,
                    visibility: create.visibility,
                    position: 0,
                    my_role: None,
                    created_at: self.at(),
                };
                let told = if create.log_op.is_some() { StreamId(me.0) } else { StreamId(group.community_id.0) };
                if let Some(op) = create.log_op {
                    self.apply_op(create.id.into(), op.0, out)?;
                }
                self.groups.insert(group.id, group.clone());
                self.emit(told, Event::Group { group: group.clone() }, out);
                ok(group)
            }
            (Method::Post, ["groups", id, "channels"]) => self.create_channel(me, parse(id), body(request), out),
            (Method::Get, ["channels"]) => {
                let mine: Vec<ChannelId> =
                    self.channels.iter().filter(|(_, log)| self.readers(log).contains(&me)).map(|(id, _)| *id).collect();
                ok(Page::all(mine.into_iter().map(|id| self.channel_for(id, me)).collect()))
            }
            (Method::Get, ["channels", id]) => match self.channels.get(&parse(id)) {
                Some(log) if self.readers(log).contains(&me) => ok(self.channel_for(parse(id), me)),
                _ => refuse(ErrorCode::NotFound),
            },
            (Method::Get, ["channels", id, "messages"]) => {
                let (before, limit): (u64, usize) = (query["before"].parse().unwrap(), query["limit"].parse().unwrap());
                let log = &self.channels[&parse::<ChannelId>(id)];
                let mut items: Vec<Row> = log
                    .rows
                    .iter()
                    .filter(|stored| stored.row.seq < before)
                    .rev()
                    .take(limit)
                    .map(|stored| self.row_for(stored, from))
                    .collect();
                items.reverse();
                let ids: BTreeSet<MessageId> = items.iter().map(|row| row.id).collect();
                let last = items.last().map_or(0, |row| row.seq);
                let related = log
                    .rows
                    .iter()
                    .filter(|stored| stored.row.seq > last && stored.row.target_id.is_some_and(|target| ids.contains(&target)))
                    .map(|stored| self.row_for(stored, from))
                    .collect();
                let has_more = items.first().is_some_and(|row| row.seq > 1);
                ok(History { items, related, has_more, head_seq: log.rows.len() as u64 })
            }
            (Method::Post, ["channels", _, "messages"]) => self.send(from, body(request), out).and_then(ok),
            (Method::Get, ["communities" | "groups" | "channels", id, "log-ops"]) => {
                let log_id: LogId = parse(id);
                if self.logs.get(&log_id).is_none_or(|logged| logged.log.member(me.as_bytes()).is_none()) {
                    return refuse(ErrorCode::NotFound);
                }
                ok(self.ops(log_id, query["after"].parse().unwrap()))
            }
            (Method::Post, ["communities" | "groups" | "channels", id, "log-ops"]) => {
                let post: PostLogOp = body(request);
                let seq = self.apply_op(parse(id), post.op.0, out)?;
                ok(LogSeq { seq })
            }
            (Method::Post, ["communities", id, "invites"]) => {
                let signed: SignedOp = body(request);
                let community: CommunityId = parse(id);
                let Ok(Change::AddInvite { key, .. }) = Op::parse(&signed.log_op.0).map(|op| op.change) else {
                    return refuse(ErrorCode::Validation);
                };
                self.apply_op(community.into(), signed.log_op.0, out)?;
                let invite = Invite {
                    id: InviteId(self.id()),
                    code: format!("code{}", self.invites.len()),
                    public_key: key.into(),
                    max_uses: None,
                    used_count: 0,
                    expires_at: None,
                    created_by: me,
                    created_at: self.at(),
                };
                self.invites.insert(invite.code.clone(), (community, invite.public_key.clone()));
                ok(invite)
            }
            (Method::Get, ["invites", code]) => {
                let Some((id, _)) = self.invites.get(*code) else { return refuse(ErrorCode::NotFound) };
                let community = self.community_for(*id, me);
                ok(InvitePreview {
                    community: CommunityPreview {
                        id: *id,
                        name: community.name,
                        description: None,
                        icon_url: None,
                        member_count: 0,
                    },
                    log_head_seq: community.log_head_seq,
                    expires_at: None,
                })
            }
            (Method::Get, ["invites", code, "log-ops"]) => {
                let log_id = self.invites[*code].0.into();
                ok(self.ops(log_id, query["after"].parse().unwrap()))
            }
            (Method::Post, ["invites", code, "accept"]) => {
                let community = self.invites[*code].0;
                let signed: SignedOp = body(request);
                self.apply_op(community.into(), signed.log_op.0, out)?;
                ok(self.community_for(community, me))
            }
            (Method::Post, ["communities" | "groups", id, "leave"]) => {
                let signed: SignedOp = body(request);
                self.apply_op(parse(id), signed.log_op.0, out)?;
                ok(())
            }
            (Method::Delete, ["communities" | "groups" | "channels", id, "members", _])
            | (Method::Put, ["communities" | "channels", id, "bans", _]) => {
                let remove: RemoveMember = body(request);
                self.apply_op(parse(id), remove.log_op.unwrap().0, out)?;
                ok(())
            }
            (Method::Delete, ["communities" | "channels", id, "bans", _]) => {
                let signed: SignedOp = body(request);
                self.apply_op(parse(id), signed.log_op.0, out)?;
                ok(())
            }
            (Method::Post, ["groups", id, "transfer"]) => {
                let transfer: Transfer = body(request);
                self.apply_op(parse(id), transfer.log_op.0, out)?;
                ok(self.groups[&parse::<GroupId>(id)].clone())
            }
            (Method::Patch, ["communities" | "groups" | "channels", id, "members", user]) => {
                let update: UpdateMember = body(request);
                self.apply_op(parse(id), update.log_op.unwrap().0, out)?;
                ok(self.member(parse(id), parse(user)))
            }
            (Method::Post, ["dms"]) => {
                let open: OpenDm = body(request);
                ok(self.open_dm(me, open.user_id, out))
            }
            (Method::Patch, ["channels", id]) => {
                let update: crate::protocol::channels::UpdateChannel = body(request);
                self.channels.get_mut(&parse::<ChannelId>(id)).unwrap().channel.topic = update.topic;
                ok(self.channel_for(parse(id), me))
            }
            (Method::Put, ["channels", _, "settings"]) | (Method::Post, ["auth", "logout"]) => ok(()),
            _ => panic!("the model has no route {:?} {}", request.method, request.path),
        }
    }

    pub(super) fn register(&mut self, me: UserId, request: RegisterDevice) -> Result<serde_json::Value, Refusal> {
        let account = self.accounts.get_mut(&me).unwrap();
        if account.devices.contains_key(&request.device_id) {
            return refuse(ErrorCode::Conflict);
        }
        if let Some(identity) = request.identity_key {
            if account.identity.is_some() {
                return refuse(ErrorCode::Conflict);
            }
            account.identity = Some(identity.0);
        }
        if let Some(list) = request.device_list {
            account.lists.push(list.0);
        }
        account.certs.insert(kdf::hash(&[&request.certificate.0]), request.certificate.0.clone());
        let device = Device {
            certificate: request.certificate.0,
            signed: Some(request.signed_prekey),
            last: Some(request.last_kem_prekey),
            one_time: request.one_time_prekeys,
            kem: request.kem_prekeys,
            ..Device::default()
        };
        account.devices.insert(request.device_id, device);
        ok(self.session(request.device_id))
    }

    pub(super) fn session(&self, device_id: DeviceId) -> DeviceSession {
        // For whoever looks at a real clock they are good for ever.
        let far = Timestamp(253_402_300_799_000);
        let tokens = crate::protocol::auth::Tokens {
            access_token: "access".into(),
            access_expires_at: far,
            refresh_token: "refresh".into(),
            refresh_expires_at: far,
        };
        DeviceSession { device_id, tokens }
    }

    /// A new list, as `POST /devices/lists` takes it.
    pub fn publish(&mut self, user: UserId, list: Vec<u8>, certs: Vec<Vec<u8>>, out: &mut Pushes) -> Result<(), Refusal> {
        let parsed = DeviceList::verify(&list).map_err(|_| Refusal { code: ErrorCode::BadSignature, details: None })?;
        let account = self.accounts.get_mut(&user).unwrap();
        for cert in certs {
            assert_eq!(cert.len(), DeviceCert::LEN);
            account.certs.insert(kdf::hash(&[&cert]), cert);
        }
        account.lists.push(list);
        for other in self.accounts.keys().copied().collect::<Vec<_>>() {
            self.emit(other.into(), Event::DeviceList { user_id: user, list_seq: parsed.seq() }, out);
        }
        Ok(())
    }

    pub(super) fn devices(&self, user: UserId, after: u64, uik: Option<&str>) -> Result<UserDevices, Refusal> {
        let Some(account) = self.accounts.get(&user) else { return refuse(ErrorCode::NotFound) };
        let wanted = |list: &DeviceList| match uik {
            Some(print) => crate::crypto::identity::fingerprint(list.identity()) == print,
            None => account.identity.as_deref() == Some(list.identity().as_bytes().as_slice()),
        };
        let lists: Vec<Blob> = account
            .lists
            .iter()
            .filter(|list| DeviceList::parse(list).is_ok_and(|list| wanted(list.claims()) && list.claims().seq() > after))
            .map(|list| list.as_slice().into())
            .collect();
        Ok(UserDevices {
            identity_key: account.identity.clone().map(Blob),
            head_seq: self.newest_seq(user),
            lists,
            certificates: account.certs.values().map(|cert| cert.as_slice().into()).collect(),
        })
    }

    pub(super) fn bundles(&mut self, user: UserId, devices: &[DeviceId]) -> UserBundles {
        let account = self.accounts.get_mut(&user).unwrap();
        let list = account.lists.last().cloned().unwrap_or_default();
        let mut bundles = Vec::new();
        for (id, device) in &mut account.devices {
            if (devices.is_empty() || devices.contains(id))
                && let Some(signed) = device.signed.clone()
            {
                let kem = if device.kem.is_empty() { device.last.clone().unwrap() } else { device.kem.remove(0) };
                let one_time = (!device.one_time.is_empty()).then(|| device.one_time.remove(0));
                bundles.push(Bundle {
                    device_id: *id,
                    certificate: device.certificate.as_slice().into(),
                    signed_prekey: signed,
                    kem_prekey: kem,
                    one_time_prekey: one_time,
                });
            }
        }
        UserBundles { device_list: list.into(), bundles }
    }

    pub(super) fn counts(&self, from: DeviceAddr) -> PrekeyCounts {
        let device = &self.accounts[&from.user_id].devices[&from.device_id];
        PrekeyCounts {
            one_time: device.one_time.len() as u32,
            kem: device.kem.len() as u32,
            signed_created_ms: device.signed.as_ref().map_or(0, |key| key.created_ms),
            last_kem_created_ms: device.last.as_ref().map_or(0, |key| key.created_ms),
        }
    }
}

fn body<T: DeserializeOwned>(request: &Request) -> T {
    serde_json::from_slice(request.body.as_deref().unwrap_or(b"null")).unwrap_or_else(|error| panic!("{}: {error}", request.path))
}

fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap()
}
