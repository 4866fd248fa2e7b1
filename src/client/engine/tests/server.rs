//! A model of the server, as `protocol.md` 3, 4 and 9 describe it: logs, inboxes, streams, device lists, prekeys and signed
//! membership. It checks what a real one checks, and it can be told to lie.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

use crate::client::engine::{Answer, Method, Request};
use crate::crypto::cert::DeviceCert;
use crate::crypto::device_list::DeviceList;
use crate::crypto::frame::Frame;
use crate::crypto::kdf;
use crate::crypto::membership::{CertSource, Change, Log, Op};
use crate::protocol::channels::{Channel, ChannelKind, CreateChannel, OpenDm};
use crate::protocol::codec::{Blob, Timestamp};
use crate::protocol::communities::*;
use crate::protocol::devices::*;
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::*;
use crate::protocol::ids::*;
use crate::protocol::keys::*;
use crate::protocol::messages::*;
use crate::protocol::streams::*;
use crate::protocol::users::*;

/// Frames for connected devices, in order.
pub type Pushes = Vec<(DeviceAddr, ServerFrame)>;

pub struct Refusal {
    pub code: ErrorCode,
    pub details: Option<serde_json::Value>,
}

fn refuse<T>(code: ErrorCode) -> Result<T, Refusal> {
    Err(Refusal { code, details: None })
}

#[derive(Default, Clone)]
pub struct Account {
    pub user: Option<User>,
    pub identity: Option<Vec<u8>>,
    pub lists: Vec<Vec<u8>>,
    pub certs: BTreeMap<[u8; 32], Vec<u8>>,
    pub devices: BTreeMap<DeviceId, Device>,
}

#[derive(Default, Clone)]
pub struct Device {
    pub certificate: Vec<u8>,
    pub signed: Option<SignedPrekey>,
    pub last: Option<KemPrekey>,
    pub one_time: Vec<OneTimePrekey>,
    pub kem: Vec<KemPrekey>,
    pub inbox: Vec<DeviceMessage>,
    pub inbox_seq: u64,
    pub batches: BTreeSet<BatchId>,
}

#[derive(Clone)]
pub struct ChannelLog {
    pub channel: Channel,
    pub pair: Option<[UserId; 2]>,
    pub rows: Vec<StoredRow>,
    /// When each user could read it first.
    pub starts: BTreeMap<UserId, u64>,
    pub read: BTreeMap<UserId, u64>,
}

#[derive(Clone)]
pub struct StoredRow {
    pub row: Row,
    pub hash: Vec<u8>,
    pub copies: BTreeMap<DeviceAddr, (Blob, Blob)>,
}

#[derive(Clone)]
pub struct Logged {
    pub ops: Vec<Vec<u8>>,
    pub log: Log,
}

#[derive(Clone)]
pub struct Server {
    pub now: i64,
    pub epoch: EpochId,
    pub accounts: BTreeMap<UserId, Account>,
    pub channels: BTreeMap<ChannelId, ChannelLog>,
    pub communities: BTreeMap<CommunityId, Community>,
    pub groups: BTreeMap<GroupId, Group>,
    pub logs: BTreeMap<LogId, Logged>,
    pub invites: BTreeMap<String, (CommunityId, Blob)>,
    pub streams: BTreeMap<StreamId, Vec<Event>>,
    pub online: BTreeSet<DeviceAddr>,
    next: u128,
    /// The next answers to sends are lost after the commit.
    pub lose_answers: u32,
    /// Sends of rows are refused with this code so many times.
    pub refuse_sends: Option<(ErrorCode, u32)>,
    /// What such a refusal says beside its code.
    pub refuse_details: Option<serde_json::Value>,
    /// Ops are refused so many times as if others had come first, and kept here.
    pub refuse_ops: u32,
    /// It takes frames from before a removal, which it must not.
    pub forgets_removals: bool,
    pub refused_ops: Vec<Vec<u8>>,
    pub bundle_fetches: u32,
    pub requests: Vec<String>,
    /// Devices whose inbox takes nothing more.
    pub full: BTreeSet<DeviceAddr>,
    /// Users of whom no more bundles are given for an hour.
    pub bundles_limited: BTreeSet<UserId>,
    /// Streams whose past is gone: told once.
    pub outlived: BTreeSet<StreamId>,
}

struct Objects<'a>(&'a Server);

impl CertSource for Objects<'_> {
    fn cert(&self, hash: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.accounts.values().find_map(|account| account.certs.get(hash).cloned())
    }

    fn list(&self, user: &[u8; 16], identity: &[u8; 32], seq: u64) -> Option<Vec<u8>> {
        let account = self.0.accounts.get(&UserId::from_bytes(*user))?;
        account
            .lists
            .iter()
            .find(|list| {
                DeviceList::parse(list)
                    .is_ok_and(|list| list.claims().seq() == seq && list.claims().identity().as_bytes() == identity)
            })
            .cloned()
    }
}

impl Server {
    pub fn new(now: i64) -> Self {
        Self {
            now,
            epoch: EpochId(Uuid::from_u128(1)),
            accounts: BTreeMap::new(),
            channels: BTreeMap::new(),
            communities: BTreeMap::new(),
            groups: BTreeMap::new(),
            logs: BTreeMap::new(),
            invites: BTreeMap::new(),
            streams: BTreeMap::new(),
            online: BTreeSet::new(),
            next: 1 << 100,
            lose_answers: 0,
            refuse_sends: None,
            refuse_details: None,
            refuse_ops: 0,
            forgets_removals: false,
            refused_ops: Vec::new(),
            bundle_fetches: 0,
            requests: Vec::new(),
            full: BTreeSet::new(),
            bundles_limited: BTreeSet::new(),
            outlived: BTreeSet::new(),
        }
    }

    fn id(&mut self) -> Uuid {
        self.next += 1;
        uuid::Builder::from_unix_timestamp_millis(
            self.now as u64,
            &(self.next as u64).to_be_bytes().repeat(2)[..10].try_into().unwrap(),
        )
        .into_uuid()
    }

    pub fn at(&self) -> Timestamp {
        Timestamp(self.now)
    }

    pub fn add_user(&mut self, name: &str) -> User {
        let user = User {
            id: UserId(self.id()),
            username: name.to_owned(),
            display_name: None,
            avatar_url: None,
            bio: None,
            pronouns: None,
            custom_status: None,
            status: Status::Online,
            instance_role: InstanceRole::User,
            created_at: self.at(),
        };
        self.accounts.entry(user.id).or_default().user = Some(user.clone());
        self.streams.entry(user.id.into()).or_default();
        user
    }

    pub fn user(&self, id: UserId) -> User {
        self.accounts[&id].user.clone().unwrap()
    }

    // --- Streams ---

    fn log_members(&self, log_id: LogId) -> Vec<UserId> {
        self.logs
            .get(&log_id)
            .map(|logged| logged.log.members().map(|(user, _)| UserId::from_bytes(*user)).collect())
            .unwrap_or_default()
    }

    pub fn readers(&self, channel: &ChannelLog) -> Vec<UserId> {
        match (channel.pair, channel.channel.log_id) {
            (Some([a, b]), _) => {
                if a == b {
                    vec![a]
                } else {
                    vec![a, b]
                }
            }
            (None, Some(log_id)) => self.log_members(log_id),
            (None, None) => Vec::new(),
        }
    }

    pub fn streams_of(&self, user: UserId) -> BTreeMap<StreamId, u64> {
        let mut streams = BTreeMap::new();
        streams.insert(user.into(), self.streams[&user.into()].len() as u64);
        for (id, logged) in &self.logs {
            if logged.log.member(user.as_bytes()).is_some() && !self.channels.contains_key(&ChannelId(id.0)) {
                streams.insert(StreamId(id.0), self.streams.get(&StreamId(id.0)).map_or(0, |events| events.len() as u64));
            }
        }
        for (id, channel) in &self.channels {
            if self.readers(channel).contains(&user) {
                streams.insert((*id).into(), channel.rows.len() as u64);
            }
        }
        streams
    }

    fn stream_users(&self, stream: StreamId) -> Vec<UserId> {
        if self.accounts.contains_key(&UserId(stream.0)) { vec![UserId(stream.0)] } else { self.log_members(LogId(stream.0)) }
    }

    fn devices_online(&self, users: &[UserId]) -> Vec<DeviceAddr> {
        self.online.iter().filter(|addr| users.contains(&addr.user_id)).copied().collect()
    }

    pub fn emit(&mut self, stream: StreamId, event: Event, out: &mut Pushes) {
        let events = self.streams.entry(stream).or_default();
        events.push(event.clone());
        let seq = events.len() as u64;
        for addr in self.devices_online(&self.stream_users(stream)) {
            out.push((addr, ServerFrame::Event(StreamEvent { stream, seq, event: StreamItem::Event(Box::new(event.clone())) })));
        }
    }

    pub fn row_for(&self, stored: &StoredRow, addr: DeviceAddr) -> Row {
        let mut row = stored.row.clone();
        if let Some((ciphertext, nonce)) = stored.copies.get(&addr) {
            row.ciphertext = Some(ciphertext.clone());
            row.nonce = Some(nonce.clone());
        }
        row
    }

    fn push_row(&mut self, channel_id: ChannelId, stored: StoredRow, out: &mut Pushes) {
        let channel = self.channels.get_mut(&channel_id).unwrap();
        channel.rows.push(stored.clone());
        channel.channel.head_seq = channel.rows.len() as u64;
        let seq = stored.row.seq;
        let readers = self.readers(&self.channels[&channel_id]);
        for addr in self.devices_online(&readers) {
            let row = self.row_for(&stored, addr);
            out.push((
                addr,
                ServerFrame::Event(StreamEvent { stream: channel_id.into(), seq, event: StreamItem::Row(Box::new(row)) }),
            ));
        }
    }

    pub fn current_devices(&self, user: UserId) -> BTreeSet<DeviceAddr> {
        let account = &self.accounts[&user];
        let Some(list) = account.lists.last().and_then(|list| DeviceList::parse(list).ok()) else { return BTreeSet::new() };
        list.claims()
            .entries()
            .iter()
            .filter(|entry| account.devices.get(&entry.device_id).is_some_and(|device| device.signed.is_some()))
            .map(|entry| DeviceAddr { user_id: user, device_id: entry.device_id })
            .collect()
    }

    pub fn channel_for(&self, id: ChannelId, user: UserId) -> Channel {
        let log = &self.channels[&id];
        let mut channel = log.channel.clone();
        channel.start_seq = Some(log.starts.get(&user).copied().unwrap_or(0));
        channel.my_read_seq = Some(log.read.get(&user).copied().unwrap_or(0));
        channel.peer = log.pair.map(|[a, b]| self.user(if a == user { b } else { a }));
        channel
    }

    fn community_for(&self, id: CommunityId, user: UserId) -> Community {
        let mut community = self.communities[&id].clone();
        let logged = &self.logs[&id.into()];
        community.my_role = logged.log.member(user.as_bytes()).and_then(|member| Role::from_u8(member.role as u8));
        community.log_head_seq = logged.log.epoch();
        community.member_count = logged.log.members().count() as u32;
        community.start_seq = Some(self.streams.get(&id.into()).map_or(0, |events| events.len() as u64));
        community
    }

    // --- WebSocket ---

    pub fn connect(&mut self, addr: DeviceAddr) -> Pushes {
        self.online.insert(addr);
        let ready = Ready {
            user_id: addr.user_id,
            session_id: SessionId(Uuid::from_u128(7)),
            device_id: Some(addr.device_id),
            epoch: self.epoch,
            server_time: self.at(),
            limits: Default::default(),
            streams: self.streams_of(addr.user_id),
        };
        let mut out = vec![(addr, ServerFrame::Ready(ready))];
        for message in &self.accounts[&addr.user_id].devices[&addr.device_id].inbox {
            out.push((addr, ServerFrame::DeviceMessage(message.clone())));
        }
        out
    }

    pub fn frame(&mut self, from: DeviceAddr, frame: ClientFrame) -> Pushes {
        let mut out = Vec::new();
        let answer = match frame {
            ClientFrame::Send(send) => {
                let reference = send.id.to_string();
                let result = self.send(from, send, &mut out).map(|sent| ServerFrame::Sent(SentFrame::Row(sent)));
                Some((reference, result))
            }
            ClientFrame::SendDevices(batch) => {
                let reference = batch.id.to_string();
                let result = self.send_devices(from, batch, &mut out).map(|sent| ServerFrame::Sent(SentFrame::Devices(sent)));
                Some((reference, result))
            }
            ClientFrame::AckInbox { up_to } => {
                let device = self.accounts.get_mut(&from.user_id).unwrap().devices.get_mut(&from.device_id).unwrap();
                device.inbox.retain(|message| message.inbox_seq > up_to);
                None
            }
            ClientFrame::MarkRead { channel_id, seq } => {
                self.channels.get_mut(&channel_id).unwrap().read.insert(from.user_id, seq);
                self.emit(from.user_id.into(), Event::ReadMarker { channel_id, seq }, &mut out);
                None
            }
            _ => None,
        };
        if let Some((reference, result)) = answer {
            let frame = result.unwrap_or_else(|refusal| {
                let retry_after_ms = refusal.details.as_ref().and_then(|details| details.get("retry_after_ms")?.as_u64());
                ServerFrame::Error(ErrorFrame {
                    reference: Some(reference),
                    code: refusal.code,
                    message: format!("refused: {}", refusal.code.as_str()),
                    details: refusal.details,
                    retry_after_ms,
                })
            });
            if matches!(frame, ServerFrame::Sent(_)) && self.lose_answers > 0 {
                self.lose_answers -= 1;
            } else {
                out.push((from, frame));
            }
        }
        out
    }

    fn send(&mut self, from: DeviceAddr, send: Send, out: &mut Pushes) -> Result<Sent, Refusal> {
        if let Some((code, times)) = &mut self.refuse_sends
            && *times > 0
        {
            *times -= 1;
            return Err(Refusal { code: *code, details: self.refuse_details.clone() });
        }
        let Some(channel) = self.channels.get(&send.channel_id) else { return refuse(ErrorCode::NotFound) };
        let readers = self.readers(channel);
        if !readers.contains(&from.user_id) {
            return refuse(ErrorCode::NotFound);
        }
        let mut canonical = send.clone();
        canonical.device_lists = None;
        canonical.skipped.clear();
        if let Some(copies) = &mut canonical.copies {
            copies.sort_by_key(|copy| (copy.user_id, copy.device_id));
        }
        let hash = kdf::hash(&[&serde_json::to_vec(&canonical).unwrap()]).to_vec();
        if let Some(old) = channel.rows.iter().find(|stored| stored.row.id == send.id) {
            let same =
                old.row.sender_id == Some(from.user_id) && old.row.sender_device == Some(from.device_id) && old.hash == hash;
            if !same {
                return refuse(ErrorCode::IdReused);
            }
            return Ok(Sent {
                id: send.id,
                channel_id: send.channel_id,
                seq: old.row.seq,
                created_at: old.row.created_at,
                duplicate: true,
            });
        }
        assert_eq!(send.id.0.get_version_num(), 7, "ids of clients are UUIDv7");
        let mut copies = BTreeMap::new();
        let mut log_seq = None;
        match channel.pair {
            Some(pair) => {
                assert!(send.ciphertext.is_none());
                let mut expected: BTreeSet<DeviceAddr> = pair.iter().flat_map(|user| self.current_devices(*user)).collect();
                expected.remove(&from);
                for copy in send.copies.iter().flatten() {
                    assert!(matches!(Frame::parse(&copy.ciphertext.0), Ok(Frame::Dm(_))), "copies are of type 1 or 2");
                    copies.insert(
                        DeviceAddr { user_id: copy.user_id, device_id: copy.device_id },
                        (copy.ciphertext.clone(), copy.nonce.clone()),
                    );
                }
                let named: BTreeSet<DeviceAddr> = copies.keys().chain(&send.skipped).copied().collect();
                let lists: BTreeMap<UserId, u64> =
                    pair.iter().map(|user| (*user, self.accounts[user].lists.len() as u64)).collect();
                let stale = pair.iter().any(|user| {
                    let newest = self.newest_seq(*user);
                    send.device_lists.as_ref().and_then(|lists| lists.get(user)).is_none_or(|seq| *seq != newest)
                });
                if named != expected || stale {
                    let details = StaleDevices {
                        missing: expected.difference(&named).copied().collect(),
                        extra: named.difference(&expected).copied().collect(),
                        device_lists: lists.keys().map(|user| (*user, self.newest_seq(*user))).collect(),
                    };
                    return Err(Refusal { code: ErrorCode::StaleDevices, details: Some(serde_json::to_value(details).unwrap()) });
                }
            }
            None => {
                assert!(send.copies.is_none());
                let logged = &self.logs[&channel.channel.log_id.unwrap()];
                let ciphertext = send.ciphertext.as_ref().expect("a channel row has a ciphertext");
                let Ok(Frame::Channel(frame)) = Frame::parse(&ciphertext.0) else { panic!("channel rows are of type 3") };
                assert_eq!(frame.channel_id, *send.channel_id.as_bytes());
                assert_eq!(frame.sender.user_id, *from.user_id.as_bytes());
                assert!(frame.epoch <= logged.log.epoch());
                if !self.forgets_removals && logged.log.shrunk_at().is_some_and(|shrunk| frame.epoch < shrunk) {
                    return Err(Refusal { code: ErrorCode::StaleLog, details: Some(json!({ "head_seq": logged.log.epoch() })) });
                }
                log_seq = Some(logged.log.epoch());
            }
        }
        let seq = channel.rows.len() as u64 + 1;
        let row = Row {
            id: send.id,
            channel_id: send.channel_id,
            seq,
            log_seq,
            kind: send.kind,
            sender_id: Some(from.user_id),
            sender_device: Some(from.device_id),
            thread_id: send.thread_id,
            reply_to_id: send.reply_to_id,
            target_id: send.target_id,
            ciphertext: send.ciphertext.clone(),
            nonce: send.nonce.clone(),
            body: None,
            file_ids: Vec::new(),
            created_at: self.at(),
            expires_at: None,
            deleted_at: None,
            quarantined: false,
        };
        if send.kind == RowKind::Delete {
            let at = self.at();
            for stored in &mut self.channels.get_mut(&send.channel_id).unwrap().rows {
                if Some(stored.row.id) == send.target_id
                    || (stored.row.target_id.is_some() && stored.row.target_id == send.target_id)
                {
                    stored.row.ciphertext = None;
                    stored.row.nonce = None;
                    stored.row.deleted_at = Some(at);
                    stored.copies.clear();
                }
            }
        }
        self.push_row(send.channel_id, StoredRow { row, hash, copies }, out);
        Ok(Sent { id: send.id, channel_id: send.channel_id, seq, created_at: self.at(), duplicate: false })
    }

    pub fn newest_seq(&self, user: UserId) -> u64 {
        self.accounts[&user].lists.last().and_then(|list| DeviceList::parse(list).ok()).map_or(0, |list| list.claims().seq())
    }

    fn send_devices(&mut self, from: DeviceAddr, batch: SendDevices, out: &mut Pushes) -> Result<SentDevices, Refusal> {
        assert!(batch.copies.len() <= 100);
        let full: Vec<DeviceAddr> = batch
            .copies
            .iter()
            .map(|copy| DeviceAddr { user_id: copy.user_id, device_id: copy.device_id })
            .filter(|addr| self.full.contains(addr))
            .collect();
        if !full.is_empty() {
            let details = json!({ "full": full, "retry_after_ms": 60_000 });
            return Err(Refusal { code: ErrorCode::RateLimited, details: Some(details) });
        }
        let sender = self.accounts.get_mut(&from.user_id).unwrap().devices.get_mut(&from.device_id).unwrap();
        if !sender.batches.insert(batch.id) {
            return Ok(SentDevices { id: batch.id, missing: Vec::new() });
        }
        let mut missing = Vec::new();
        let at = self.at();
        for copy in batch.copies {
            assert!(matches!(Frame::parse(&copy.ciphertext.0), Ok(Frame::Dm(_))));
            let addr = DeviceAddr { user_id: copy.user_id, device_id: copy.device_id };
            let Some(device) = self.accounts.get_mut(&addr.user_id).and_then(|account| account.devices.get_mut(&addr.device_id))
            else {
                missing.push(addr);
                continue;
            };
            device.inbox_seq += 1;
            let message = DeviceMessage {
                inbox_seq: device.inbox_seq,
                from_user: from.user_id,
                from_device: from.device_id,
                ciphertext: copy.ciphertext,
                nonce: copy.nonce,
                created_at: at,
            };
            device.inbox.push(message.clone());
            if self.online.contains(&addr) {
                out.push((addr, ServerFrame::DeviceMessage(message)));
            }
        }
        Ok(SentDevices { id: batch.id, missing })
    }

    // --- HTTP ---

    pub fn http(&mut self, from: DeviceAddr, request: &Request, out: &mut Pushes) -> Answer {
        self.requests.push(format!("{:?} {}", request.method, request.path));
        match self.route(from, request, out) {
            Ok(value) => Answer { status: 200, body: serde_json::to_vec(&value).unwrap() },
            Err(Refusal { code, details }) => {
                let body =
                    json!({ "error": { "code": code, "message": format!("refused: {}", code.as_str()), "details": details } });
                Answer { status: code.status(), body: serde_json::to_vec(&body).unwrap() }
            }
        }
    }

    fn route(&mut self, from: DeviceAddr, request: &Request, out: &mut Pushes) -> Result<serde_json::Value, Refusal> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let me = from.user_id;
        match (request.method, parts.as_slice()) {
            (Method::Post, ["devices"]) => self.register(me, body(request)),
            (Method::Post, ["devices", _, "session"]) => ok(self.session(from.device_id)),
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

    fn register(&mut self, me: UserId, request: RegisterDevice) -> Result<serde_json::Value, Refusal> {
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

    fn session(&self, device_id: DeviceId) -> DeviceSession {
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

    fn devices(&self, user: UserId, after: u64, uik: Option<&str>) -> Result<UserDevices, Refusal> {
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

    fn bundles(&mut self, user: UserId, devices: &[DeviceId]) -> UserBundles {
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

    fn counts(&self, from: DeviceAddr) -> PrekeyCounts {
        let device = &self.accounts[&from.user_id].devices[&from.device_id];
        PrekeyCounts {
            one_time: device.one_time.len() as u32,
            kem: device.kem.len() as u32,
            signed_created_ms: device.signed.as_ref().map_or(0, |key| key.created_ms),
            last_kem_created_ms: device.last.as_ref().map_or(0, |key| key.created_ms),
        }
    }

    fn sync(&mut self, from: DeviceAddr, request: SyncRequest) -> Result<serde_json::Value, Refusal> {
        if let Some(up_to) = request.ack_inbox {
            let device = self.accounts.get_mut(&from.user_id).unwrap().devices.get_mut(&from.device_id).unwrap();
            device.inbox.retain(|message| message.inbox_seq > up_to);
        }
        let streams = self.streams_of(from.user_id);
        let limit = request.limit.unwrap_or(200) as usize;
        let (mut events, mut gone, mut reset) = (Vec::new(), Vec::new(), Vec::new());
        for (stream, after) in &request.cursors {
            if self.outlived.remove(stream) {
                reset.push(*stream);
            } else if !streams.contains_key(stream) {
                gone.push(*stream);
            } else if let Some(log) = self.channels.get(&ChannelId(stream.0)) {
                for stored in log.rows.iter().filter(|stored| stored.row.seq > *after) {
                    let row = self.row_for(stored, from);
                    events.push(StreamEvent { stream: *stream, seq: row.seq, event: StreamItem::Row(Box::new(row)) });
                }
            } else {
                for (at, event) in self.streams.get(stream).into_iter().flatten().enumerate().skip(*after as usize) {
                    events.push(StreamEvent {
                        stream: *stream,
                        seq: at as u64 + 1,
                        event: StreamItem::Event(Box::new(event.clone())),
                    });
                }
            }
        }
        let more = events.len() > limit;
        events.truncate(limit);
        let inbox = self.accounts[&from.user_id].devices[&from.device_id].inbox.iter().take(100).cloned().collect();
        ok(SyncAnswer { epoch: self.epoch, streams, events, gone, reset, more, inbox })
    }

    fn member(&self, community: CommunityId, user: UserId) -> Member {
        let role = self.logs[&community.into()].log.member(user.as_bytes()).map_or(0, |member| member.role as u8);
        Member {
            user: self.user(user),
            role: Role::from_u8(role).unwrap(),
            role_ids: Vec::new(),
            nickname: None,
            joined_at: self.at(),
        }
    }

    fn ops(&self, log_id: LogId, after: i64) -> LogOps {
        let logged = &self.logs[&log_id];
        let from = (after + 1) as usize;
        // Short pages, so that paging is tried.
        let items: Vec<Blob> = logged.ops.iter().skip(from).take(3).map(|op| op.as_slice().into()).collect();
        let next = from + items.len();
        LogOps { items, head_seq: logged.log.epoch(), next_after: (next < logged.ops.len()).then_some(next as i64 - 1) }
    }

    /// The one door for ops: verified as a client would, then told.
    fn apply_op(&mut self, log_id: LogId, op: Vec<u8>, out: &mut Pushes) -> Result<u64, Refusal> {
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

    fn channels_of_log(&self, log_id: LogId) -> Vec<ChannelId> {
        self.channels.iter().filter(|(_, log)| log.channel.log_id == Some(log_id)).map(|(id, _)| *id).collect()
    }

    /// An op of a private channel's log is a row of the channel.
    fn push_member_row(&mut self, channel_id: ChannelId, log_seq: u64, op: Vec<u8>, out: &mut Pushes) {
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

    fn create_community(&mut self, me: UserId, create: CreateCommunity, out: &mut Pushes) -> Result<serde_json::Value, Refusal> {
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

    fn create_channel(
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
        let channel = Channel {
            id: create.id,
            kind: ChannelKind::Text,
            group_id: Some(group_id),
            community_id: Some(group.community_id),
            log_id: Some(log_id),
            name: Some(create.name),
            topic: create.topic,
            read_only: false,
            slow_mode_s: 0,
            archived: false,
            message_ttl_s: None,
            position: 0,
            head_seq: 0,
            start_seq: None,
            my_read_seq: None,
            peer: None,
            created_at: self.at(),
        };
        let stored =
            ChannelLog { channel: channel.clone(), pair: None, rows: Vec::new(), starts: BTreeMap::new(), read: BTreeMap::new() };
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
        let channel = Channel {
            id,
            kind: ChannelKind::Dm,
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
            created_at: self.at(),
        };
        self.channels.insert(
            id,
            ChannelLog { channel, pair: Some(pair), rows: Vec::new(), starts: BTreeMap::new(), read: BTreeMap::new() },
        );
        for user in BTreeSet::from(pair) {
            let channel = self.channel_for(id, user);
            self.emit(user.into(), Event::ChannelAdded { channel }, out);
        }
        self.channel_for(id, me)
    }
}

fn ok<T: Serialize>(value: T) -> Result<serde_json::Value, Refusal> {
    Ok(serde_json::to_value(value).unwrap())
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
