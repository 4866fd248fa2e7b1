//! A model of the server, as `protocol.md` 3, 4 and 9 describe it: logs, inboxes, streams, device lists, prekeys and signed
//! membership. It checks what a real one checks, and it can be told to lie. Here are its state, its streams and its socket;
//! `routes` has REST, `messages` what is sent, `places` what signed ops rule.

mod messages;
mod places;
mod routes;

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
    /// Copies for devices that are not current, in refused sends.
    pub refused_copies: usize,
    /// Devices that log in again are refused.
    pub refuse_sessions: Option<ErrorCode>,
    /// What such a refusal says beside its code.
    pub refuse_details: Option<serde_json::Value>,
    /// Ops are refused so many times as if others had come first, and kept here.
    pub refuse_ops: u32,
    /// It takes frames from before a removal, which it must not.
    pub forgets_removals: bool,
    pub refused_ops: Vec<Vec<u8>>,
    pub bundle_fetches: u32,
    pub requests: Vec<String>,
    /// Bytes of the largest request that brought prekeys.
    pub largest_keys: usize,
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
            refused_copies: 0,
            refuse_sessions: None,
            refuse_details: None,
            refuse_ops: 0,
            forgets_removals: false,
            refused_ops: Vec::new(),
            bundle_fetches: 0,
            requests: Vec::new(),
            largest_keys: 0,
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
}

fn ok<T: Serialize>(value: T) -> Result<serde_json::Value, Refusal> {
    Ok(serde_json::to_value(value).unwrap())
}
