//! Commands that take more than one step: questions to the server, and changes that are signed ops of a membership log, which
//! are signed again when somebody else's op came first (`protocol.md` 3.1, 9.22 to 9.25). An errand lives in memory only:
//! after a restart the user asks again.

use serde::{Deserialize, Serialize};

use crate::client::command::{Command, Place, RequestId};
use crate::client::event::Answer;
use crate::client::model::{InviteLink, Person, Problem, ProblemKind};
use crate::client::store::{StoreError, Table};
use crate::crypto::device_list::DeviceList;
use crate::crypto::membership::{Change, Invite, Log, LogKind, Op};
use crate::crypto::signature::SigningKey;
use crate::protocol::channels::{Channel, ChannelSettings, CreateChannel};
use crate::protocol::codec::Blob;
use crate::protocol::communities::{
    self, Community, CreateCommunity, CreateGroup, Group, InvitePreview, LogOps, RemoveMember, Role, SignedOp, Transfer,
    UpdateMember, Visibility,
};
use crate::protocol::devices::{RemoveDevice, UserDevices};
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{ChannelId, CommunityId, DeviceId, GroupId, LogId, UserId};
use crate::protocol::limits::LOG_OPS_PAGE_MAX;
use crate::protocol::messages::{History, StaleLog};
use crate::protocol::users::{Page, User};

use super::commands::offline;
use super::http::{self, Body, Failure, Question};
use super::io::{Method, Output};
use super::membership::{log_role, refused};
use super::{Cx, Engine};

/// Errands that wait for a log, and how long, milliseconds.
const WAITING_MAX: usize = 100;
const PATIENCE_MS: u64 = 30_000;
/// In [`Table::Account`]: the list that removes a device, until its number is taken.
const LIST_DRAFT: &[u8] = b"list-draft";
/// In [`Table::Account`]: the list from which on this user acts, because an older one has a removed device.
const ANCHOR_FROM: &[u8] = b"anchor-from";
/// An op that always comes second is given up.
const TRIES_MAX: u32 = 8;

/// A signed device list of which it is not known whether the server has it (`crypto.md` 4.3).
#[derive(Serialize, Deserialize)]
struct ListDraft {
    removes: DeviceId,
    seq: u64,
    list: Blob,
}

/// What an answer of the server goes on with.
#[derive(Debug)]
pub(super) enum Errand {
    Older {
        request: RequestId,
        place: Place,
        limit: usize,
        before: u64,
    },
    People {
        request: RequestId,
        found: Vec<Person>,
    },
    Settings {
        request: RequestId,
        channel_id: ChannelId,
        settings: ChannelSettings,
    },
    /// The answer is a channel.
    Channel {
        request: RequestId,
        /// Of a DM: whom it was asked for with.
        with: Option<UserId>,
    },
    Safety {
        request: RequestId,
        user_id: UserId,
    },
    Trust {
        request: RequestId,
        user_id: UserId,
        send_waiting: bool,
    },
    Device {
        request: RequestId,
        list: Vec<u8>,
    },
    LogOut {
        request: RequestId,
    },
    Preview {
        request: RequestId,
        code: String,
        invite: Option<InviteSecret>,
    },
    /// A page of a log that this user is about to join.
    JoinOps(Box<Waiting>),
    /// The answer to an op.
    Op(Box<Waiting>),
}

/// An op to be signed as soon as its log is known up to its head.
#[derive(Debug)]
pub(super) struct Waiting {
    /// None: nobody waits for it.
    request: Option<RequestId>,
    log_id: LogId,
    what: OpErrand,
    /// The op as it was signed last.
    op: Vec<u8>,
    tries: u32,
    deadline: u64,
}

/// The changes that are ops.
#[derive(Debug)]
enum OpErrand {
    CreateCommunity { id: CommunityId, name: String, description: Option<String> },
    CreateGroup { id: GroupId, community_id: CommunityId, name: String },
    CreateChannel { id: ChannelId, group_id: GroupId, name: String, topic: Option<String>, private: bool },
    Invite { community_id: CommunityId, secret: SigningKey, max_uses: Option<u32>, expires_ms: u64 },
    Join { code: String, secret: Option<InviteSecret> },
    Leave { community_id: CommunityId },
    Kick { community_id: CommunityId, user_id: UserId, ban: bool, reason: Option<String> },
    SetRole { community_id: CommunityId, user_id: UserId, role: Role },
    Anchor,
}

/// The secret half of an invite link.
#[derive(Debug)]
pub(super) struct InviteSecret {
    log_id: LogId,
    genesis: [u8; 32],
    key: SigningKey,
}

type Reply = Result<Answer, Problem>;

impl Errand {
    const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Older { request, .. }
            | Self::People { request, .. }
            | Self::Settings { request, .. }
            | Self::Channel { request, .. }
            | Self::Safety { request, .. }
            | Self::Trust { request, .. }
            | Self::Device { request, .. }
            | Self::LogOut { request }
            | Self::Preview { request, .. } => Some(*request),
            Self::JoinOps(waiting) | Self::Op(waiting) => waiting.request,
        }
    }
}

impl Engine {
    pub(super) fn run(&mut self, cx: &mut Cx<'_>, errand: Errand, method: Method, path: String, body: Option<Vec<u8>>) {
        self.ask(cx, Question::Errand(Box::new(errand)), method, path, body);
    }

    fn reply(&self, cx: &mut Cx<'_>, request: Option<RequestId>, reply: Reply) {
        if let Some(request) = request {
            self.done(cx, request, reply);
        }
    }

    pub(super) fn on_errand(&mut self, cx: &mut Cx<'_>, errand: Errand, answer: Result<Body, Failure>) -> Result<(), StoreError> {
        let request = errand.request();
        let failed = |failure: &Failure| Err(failure.problem());
        let reply = match (errand, answer) {
            (Errand::LogOut { .. }, _) => {
                // Without an answer too: the user wants to be out, here and now.
                cx.out.push(Output::ForgetSession);
                Ok(Answer::Ok)
            }
            (Errand::People { mut found, .. }, answer) => {
                if let Ok(page) = answer.and_then(|body| body.parse::<Page<User>>().ok_or(Failure::Garbled)) {
                    for user in page.items {
                        self.places.put_user(&mut cx.db, user.clone())?;
                        if user.id != self.me_id() && !found.iter().any(|person| person.user_id == user.id) {
                            found.push(self.person(&user));
                        }
                    }
                }
                Ok(Answer::People(found))
            }
            (Errand::Op(waiting), answer) => return self.on_op_answer(cx, *waiting, answer),
            (Errand::JoinOps(waiting), Ok(body)) => match body.parse::<LogOps>() {
                Some(page) => return self.on_join_ops(cx, *waiting, page),
                None => failed(&Failure::Garbled),
            },
            (Errand::Device { .. }, Err(failure)) => {
                // Another list has that number, or this one does: which, the server has to show before anything else is signed.
                if failure.code() == Some(ErrorCode::Conflict) {
                    let me = self.me_id();
                    self.mark_list_stale(cx, me, u64::MAX)?;
                    self.want_list(me);
                }
                failed(&failure)
            }
            (_, Err(failure)) => failed(&failure),
            (Errand::Older { place, limit, before, .. }, Ok(body)) => match body.parse::<History>() {
                Some(history) => Ok(self.take_history(cx, place, limit, before, history)?),
                None => failed(&Failure::Garbled),
            },
            (Errand::Settings { channel_id, settings, .. }, Ok(_)) => {
                self.places.update_state(&mut cx.db, channel_id, |state| state.settings = settings)?;
                Ok(Answer::Ok)
            }
            (Errand::Channel { with, .. }, Ok(body)) => match body.parse::<Channel>() {
                Some(channel) if with.is_some() && channel.peer.as_ref().map(|peer| peer.id) != with => {
                    Err(Problem::new(ProblemKind::Crypto, "The server answered with a conversation with somebody else.")
                        .hint("Nothing was opened."))
                }
                Some(channel) => {
                    let id = channel.id;
                    let start = channel.start_seq.unwrap_or(0);
                    self.add_channel(cx, channel)?;
                    self.follow(cx, id.into(), start)?;
                    if let Some(peer) = self.places.peer(id) {
                        self.has_lists([peer]);
                    }
                    Ok(Answer::Channel(id))
                }
                None => failed(&Failure::Garbled),
            },
            (Errand::Safety { user_id, .. }, Ok(body)) => match body.parse::<UserDevices>() {
                Some(devices) => {
                    self.apply_lists(cx, user_id, &devices)?;
                    self.safety_of(cx, user_id)?.map(Answer::Safety).ok_or_else(|| {
                        Problem::new(ProblemKind::NotFound, "This person has no device yet, so there is no key to compare.")
                    })
                }
                None => failed(&Failure::Garbled),
            },
            (Errand::Trust { user_id, send_waiting, .. }, Ok(body)) => match body.parse::<UserDevices>() {
                Some(devices) => self.accept_lists(cx, user_id, &devices, send_waiting)?.map(|()| Answer::Ok),
                None => failed(&Failure::Garbled),
            },
            (Errand::Device { list, .. }, Ok(_)) => {
                let devices = UserDevices {
                    identity_key: Some(Blob::default()),
                    head_seq: 0,
                    lists: vec![list.into()],
                    certificates: Vec::new(),
                };
                let me = self.me_id();
                self.apply_lists(cx, me, &devices)?;
                if let Some(own) = self.contacts.get(&me) {
                    cx.db.save(Table::Account, ANCHOR_FROM, &own.list().seq())?;
                }
                self.anchor_everywhere(cx)?;
                Ok(Answer::Ok)
            }
            (Errand::Preview { code, invite, .. }, Ok(body)) => match body.parse::<InvitePreview>() {
                Some(preview) => match self.begin_join(cx, request, code, invite, &preview) {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => return Ok(()),
                    Err(problem) => Err(problem),
                },
                None => failed(&Failure::Garbled),
            },
        };
        self.reply(cx, request, reply);
        Ok(())
    }

    fn take_history(
        &mut self,
        cx: &mut Cx<'_>,
        place: Place,
        limit: usize,
        before: u64,
        history: History,
    ) -> Result<Answer, StoreError> {
        let channel_id = place.channel_id;
        let mut oldest = before;
        let rows = history.items.into_iter().inspect(|row| oldest = oldest.min(row.seq)).collect::<Vec<_>>();
        for row in rows.into_iter().chain(history.related) {
            if row.channel_id == channel_id {
                self.take_row(cx, row)?;
            }
        }
        let oldest = if history.has_more { oldest } else { 1 };
        self.places.update_state(&mut cx.db, channel_id, |state| {
            state.oldest = Some(state.oldest.map_or(oldest, |old| old.min(oldest)))
        })?;
        Ok(Answer::Page(self.page_before(cx, place, Some(before), limit)?))
    }

    pub(super) fn remove_device(
        &mut self,
        cx: &mut Cx<'_>,
        request: RequestId,
        device_id: DeviceId,
    ) -> Result<Option<Reply>, StoreError> {
        let (Some(keys), Some(own)) = (&self.keys, self.contacts.get(&self.me_id())) else { return Ok(Some(Err(offline()))) };
        if Some(device_id) == self.me.as_ref().map(|me| me.device_id) {
            return Ok(Some(Err(
                Problem::new(ProblemKind::Usage, "This is the device in use.").hint("Remove it from another device, or log out.")
            )));
        }
        let Some(secret) = keys.device.identity_secret() else {
            return Ok(Some(Err(Problem::new(ProblemKind::Permission, "This device may not change the device list.")
                .hint("Use your primary device."))));
        };
        let certs: Vec<_> = own.certificates().filter(|cert| cert.addr().device_id != device_id).collect();
        if certs.len() == own.certificates().count() {
            return Ok(Some(Err(Problem::new(ProblemKind::NotFound, "You have no such device."))));
        }
        // Signed once for each number: a second list with the number of one that may stand at the server would contradict it,
        // and every contact would stop (`crypto.md` 4.3).
        let seq = own.list().seq().saturating_add(1);
        let draft = cx.db.load::<ListDraft>(Table::Account, LIST_DRAFT)?.filter(|draft| draft.seq == seq);
        let list = match draft {
            Some(draft) if draft.removes != device_id => {
                return Ok(Some(Err(Problem::new(
                    ProblemKind::Failed,
                    format!("The server has not confirmed the removal of device {} yet.", draft.removes),
                )
                .hint("Remove that one again first."))));
            }
            Some(draft) => draft.list.0,
            None => match DeviceList::sign(secret, own.user_id(), Some(own.list()), &certs, cx.now.as_unix_ms()) {
                Ok(list) => {
                    let draft = ListDraft { removes: device_id, seq, list: list.as_bytes().into() };
                    cx.db.save(Table::Account, LIST_DRAFT, &draft)?;
                    draft.list.0
                }
                Err(error) => {
                    return Ok(Some(Err(Problem::new(
                        ProblemKind::Crypto,
                        format!("The new device list cannot be signed: {error}."),
                    ))));
                }
            },
        };
        let body = http::json(&RemoveDevice { device_list: list.as_slice().into() });
        self.run(cx, Errand::Device { request, list }, Method::Delete, format!("/devices/{device_id}"), body);
        Ok(None)
    }

    /// After a device was removed: it can sign nothing more in the logs in which this user decides (`crypto.md` 11.3). Looked at
    /// again after each catching up, until every such log has an operation from the newer list.
    pub(super) fn anchor_everywhere(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let me = self.me_id();
        let (Some(from), Some(own)) = (cx.db.load::<u64>(Table::Account, ANCHOR_FROM)?, self.contacts.get(&me)) else {
            return Ok(());
        };
        let identity = *own.identity().as_bytes();
        let waits =
            |log: &LogId| self.waiting.iter().any(|waiting| waiting.log_id == *log && matches!(waiting.what, OpErrand::Anchor));
        let logs: Vec<LogId> = self
            .logs
            .iter()
            .filter(|(log, _)| self.role_in_log(**log, me).is_some_and(|role| role >= Role::Moderator) && !waits(log))
            .filter(|(_, state)| state.log.list_floor(me.as_bytes(), &identity).is_none_or(|floor| floor < from))
            .map(|(log, _)| *log)
            .collect();
        for log_id in logs {
            self.wait_for_log(cx, None, log_id, OpErrand::Anchor);
        }
        Ok(())
    }

    // --- Ops ---

    fn wait_for_log(&mut self, cx: &Cx<'_>, request: Option<RequestId>, log_id: LogId, what: OpErrand) {
        let deadline = cx.now.as_unix_ms() + PATIENCE_MS;
        self.push_waiting(Waiting { request, log_id, what, op: Vec::new(), tries: 0, deadline });
    }

    fn push_waiting(&mut self, waiting: Waiting) {
        let at = waiting.deadline;
        self.timers.errands = Some(self.timers.errands.map_or(at, |old| old.min(at)));
        self.waiting.push(waiting);
    }

    pub(super) fn begin_op(
        &mut self,
        cx: &mut Cx<'_>,
        request: RequestId,
        command: Command,
    ) -> Result<Option<Reply>, StoreError> {
        if !self.is_online() {
            return Ok(Some(Err(offline())));
        }
        if self.waiting.len() >= WAITING_MAX {
            return Ok(Some(Err(Problem::new(ProblemKind::Failed, "Too many changes wait for the server already."))));
        }
        let (log_id, what) = match command {
            Command::CreateCommunity { name, description } => {
                let id = CommunityId(cx.uuid_v7());
                (id.into(), OpErrand::CreateCommunity { id, name, description })
            }
            Command::CreateGroup { community_id, name, visibility } => {
                let id = GroupId(cx.uuid_v7());
                if visibility == Visibility::Public {
                    let body = http::json(&CreateGroup { id, name, description: None, visibility, log_op: None });
                    let what = OpErrand::CreateGroup { id, community_id, name: String::new() };
                    let waiting =
                        Waiting { request: Some(request), log_id: id.into(), what, op: Vec::new(), tries: 0, deadline: 0 };
                    self.run(
                        cx,
                        Errand::Op(Box::new(waiting)),
                        Method::Post,
                        format!("/communities/{community_id}/groups"),
                        body,
                    );
                    return Ok(None);
                }
                (id.into(), OpErrand::CreateGroup { id, community_id, name })
            }
            Command::CreateChannel { group_id, name, topic, visibility } => {
                let id = ChannelId(cx.uuid_v7());
                let Some(group) = self.places.groups.get(&group_id) else { return Ok(Some(Err(missing("group")))) };
                let private = visibility == Visibility::Private;
                let log_id = match (private, group.visibility) {
                    (true, _) => id.into(),
                    (false, Visibility::Private) => group_id.into(),
                    (false, Visibility::Public) => group.community_id.into(),
                };
                (log_id, OpErrand::CreateChannel { id, group_id, name, topic, private })
            }
            Command::CreateInvite { community_id, max_uses, expires_in_s } => {
                let secret = SigningKey::random(&mut cx.rng);
                let expires_ms = expires_in_s.map_or(0, |s| cx.now.as_unix_ms().saturating_add(s.saturating_mul(1000)));
                (community_id.into(), OpErrand::Invite { community_id, secret, max_uses, expires_ms })
            }
            Command::Leave { community_id } => (community_id.into(), OpErrand::Leave { community_id }),
            Command::Kick { community_id, user_id, ban, reason } => {
                (community_id.into(), OpErrand::Kick { community_id, user_id, ban, reason })
            }
            Command::SetRole { community_id, user_id, role } => {
                (community_id.into(), OpErrand::SetRole { community_id, user_id, role })
            }
            Command::Join { link } => return Ok(self.open_invite(cx, request, &link.0)),
            _ => return Ok(Some(Err(Problem::new(ProblemKind::Usage, "This is no change of membership.")))),
        };
        self.wait_for_log(cx, Some(request), log_id, what);
        Ok(None)
    }

    /// Signs and sends what waits, as soon as its log is known up to its head.
    pub(super) fn pump_errands(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let now = cx.now.as_unix_ms();
        self.timers.errands = None;
        for mut waiting in std::mem::take(&mut self.waiting) {
            let ready = match &waiting.what {
                OpErrand::CreateCommunity { .. }
                | OpErrand::CreateGroup { .. }
                | OpErrand::CreateChannel { private: true, .. } => true,
                // Nobody outside is told of new ops: the answer to the invite said how far the log goes.
                OpErrand::Join { .. } => self.is_log_verified(waiting.log_id),
                _ => self.is_log_current(waiting.log_id),
            };
            if ready {
                match self.sign_errand(cx, &mut waiting) {
                    Ok((method, path, body)) => self.run(cx, Errand::Op(Box::new(waiting)), method, path, body),
                    Err(problem) => self.reply(cx, waiting.request, Err(problem)),
                }
            } else if waiting.deadline <= now || !self.is_online() {
                let problem = if self.is_online() {
                    Problem::new(ProblemKind::Failed, "The membership log could not be brought up to date.")
                        .hint("The server may hold something back, or an entry of the log does not hold.")
                } else {
                    offline()
                };
                self.reply(cx, waiting.request, Err(problem));
            } else {
                self.push_waiting(waiting);
            }
        }
        Ok(())
    }

    /// The request with its op, signed after the newest verified one.
    fn sign_errand(&self, cx: &mut Cx<'_>, waiting: &mut Waiting) -> Result<(Method, String, Option<Vec<u8>>), Problem> {
        let log_id = waiting.log_id;
        let now = cx.now.as_unix_ms();
        let create = |cx: &mut Cx<'_>, kind| {
            let (Some(signer), Some(keys)) = (self.signer(), &self.keys) else { return Err(offline()) };
            Ok(Log::create(*log_id.as_bytes(), kind, &signer, keys.device.identity(), &mut cx.rng, now))
        };
        // A creation is repeated with the same bytes: then it is a success without effect.
        let made = std::mem::take(&mut waiting.op);
        // So is what was signed for this very place: two operations of one place look like a fork.
        let same_place = !made.is_empty()
            && Op::parse(&made).is_ok_and(|op| {
                let log = self.logs.get(&log_id).map(|state| &state.log);
                log.is_some_and(|log| op.seq == log.epoch() + 1 && op.prev == log.newest_head())
            });
        let op = match &waiting.what {
            _ if same_place => made,
            OpErrand::CreateCommunity { .. } | OpErrand::CreateGroup { .. } | OpErrand::CreateChannel { private: true, .. }
                if !made.is_empty() =>
            {
                made
            }
            OpErrand::CreateCommunity { .. } | OpErrand::CreateGroup { .. } => create(cx, LogKind::Group)?,
            OpErrand::CreateChannel { private: true, .. } => create(cx, LogKind::Channel)?,
            OpErrand::CreateChannel { id, .. } => {
                self.sign_change(cx, log_id, &Change::Channel { channel_id: *id.as_bytes(), attach: true })?
            }
            OpErrand::Invite { secret, max_uses, expires_ms, .. } => {
                let key = *secret.public().as_bytes();
                self.sign_change(cx, log_id, &Change::AddInvite { key, max_uses: max_uses.unwrap_or(0), expires: *expires_ms })?
            }
            OpErrand::Join { secret, .. } => {
                let (Some(state), Some(signer), Some(keys)) = (self.logs.get(&log_id), self.signer(), &self.keys) else {
                    return Err(offline());
                };
                let key = secret.as_ref().map(|secret| &secret.key);
                state.log.sign_join(&signer, keys.device.identity(), key, now).map_err(|error| match error {
                    crate::crypto::Error::Rejected => Problem::new(
                        ProblemKind::Permission,
                        "This invite cannot be used: it is expired, used up or withdrawn, or you are banned.",
                    )
                    .hint("Ask for a new invite."),
                    error => refused(error),
                })?
            }
            OpErrand::Leave { .. } => self.sign_change(cx, log_id, &Change::Leave)?,
            OpErrand::Kick { user_id, ban, .. } => {
                self.sign_change(cx, log_id, &Change::Remove { user: *user_id.as_bytes(), ban: *ban })?
            }
            OpErrand::SetRole { user_id, role, .. } => {
                self.sign_change(cx, log_id, &Change::SetRole { user: *user_id.as_bytes(), role: log_role(*role) })?
            }
            OpErrand::Anchor => self.sign_change(cx, log_id, &Change::Anchor { discarded: None })?,
        };
        let log_op = Blob(op.clone());
        waiting.op = op;
        Ok(match &waiting.what {
            OpErrand::CreateCommunity { id, name, description } => {
                let body = CreateCommunity {
                    id: *id,
                    name: name.clone(),
                    description: description.clone(),
                    discoverable: false,
                    log_op,
                };
                (Method::Post, "/communities".into(), http::json(&body))
            }
            OpErrand::CreateGroup { id, community_id, name } => {
                let body = CreateGroup {
                    id: *id,
                    name: name.clone(),
                    description: None,
                    visibility: Visibility::Private,
                    log_op: Some(log_op),
                };
                (Method::Post, format!("/communities/{community_id}/groups"), http::json(&body))
            }
            OpErrand::CreateChannel { id, group_id, name, topic, private } => {
                let visibility = if *private { Visibility::Private } else { Visibility::Public };
                let body = CreateChannel {
                    id: *id,
                    name: name.clone(),
                    kind: crate::protocol::channels::ChannelKind::Text,
                    topic: topic.clone(),
                    visibility,
                    log_op,
                };
                (Method::Post, format!("/groups/{group_id}/channels"), http::json(&body))
            }
            OpErrand::Invite { community_id, .. } => {
                (Method::Post, format!("/communities/{community_id}/invites"), http::json(&SignedOp { log_op }))
            }
            OpErrand::Join { code, .. } => {
                (Method::Post, format!("/invites/{}/accept", http::escape(code)), http::json(&SignedOp { log_op }))
            }
            OpErrand::Leave { community_id } => {
                (Method::Post, format!("/communities/{community_id}/leave"), http::json(&SignedOp { log_op }))
            }
            OpErrand::Kick { community_id, user_id, ban, reason } => {
                let body = http::json(&RemoveMember { reason: reason.clone(), log_op: Some(log_op) });
                if *ban {
                    (Method::Put, format!("/communities/{community_id}/bans/{user_id}"), body)
                } else {
                    (Method::Delete, format!("/communities/{community_id}/members/{user_id}"), body)
                }
            }
            OpErrand::SetRole { community_id, user_id, role: Role::Owner } => (
                Method::Post,
                format!("/communities/{community_id}/transfer"),
                http::json(&Transfer { new_owner_id: *user_id, log_op }),
            ),
            OpErrand::SetRole { community_id, user_id, role } => {
                let body = UpdateMember { role: Some(*role), nickname: None, log_op: Some(log_op) };
                (Method::Patch, format!("/communities/{community_id}/members/{user_id}"), http::json(&body))
            }
            OpErrand::Anchor => {
                let path = self.log_path(log_id).ok_or_else(|| missing("log"))?;
                (Method::Post, format!("{path}/log-ops"), http::json(&communities::PostLogOp { op: log_op }))
            }
        })
    }

    fn on_op_answer(&mut self, cx: &mut Cx<'_>, mut waiting: Waiting, answer: Result<Body, Failure>) -> Result<(), StoreError> {
        let body = match answer {
            Ok(body) => body,
            Err(failure) if failure.code() == Some(ErrorCode::StaleLog) && waiting.tries < TRIES_MAX => {
                // Somebody else's op came first: verify it and sign again.
                waiting.tries += 1;
                let head = failure.details::<StaleLog>().map_or(0, |stale| stale.head_seq);
                let log_id = waiting.log_id;
                self.hint_log_head(log_id, head);
                if let OpErrand::Join { code, .. } = &waiting.what {
                    let path = self.join_path(log_id, code);
                    self.run(cx, Errand::JoinOps(Box::new(waiting)), Method::Get, path, None);
                } else {
                    self.look_at_log(log_id);
                    self.push_waiting(waiting);
                }
                return Ok(());
            }
            Err(failure) => {
                self.reply(cx, waiting.request, Err(failure.problem()));
                return Ok(());
            }
        };
        let Waiting { request, log_id, what, op, .. } = waiting;
        let garbled = || Failure::Garbled.problem();
        // The server has the op: it is ours to apply too, without waiting for the stream.
        let own_op = |engine: &mut Self, cx: &mut Cx<'_>| match Op::parse(&op) {
            Ok(parsed) => engine.offer_op(cx, log_id, parsed.seq, op.clone()),
            Err(_) => Ok(()),
        };
        let reply = match what {
            OpErrand::CreateCommunity { id, .. } => match body.parse::<Community>() {
                Some(community) if community.id == id => {
                    let start = community.start_seq.unwrap_or(0);
                    own_op(self, cx)?;
                    self.add_community(cx, community)?;
                    self.follow(cx, id.into(), start)?;
                    Ok(Answer::Community(id))
                }
                _ => Err(garbled()),
            },
            OpErrand::CreateGroup { id, .. } => match body.parse::<Group>() {
                Some(group) if group.id == id => {
                    if !op.is_empty() {
                        own_op(self, cx)?;
                    }
                    self.add_group(cx, group)?;
                    Ok(Answer::Group(id))
                }
                _ => Err(garbled()),
            },
            OpErrand::CreateChannel { id, .. } => match body.parse::<Channel>() {
                Some(channel) if channel.id == id => {
                    let start = channel.start_seq.unwrap_or(0);
                    own_op(self, cx)?;
                    self.add_channel(cx, channel)?;
                    self.follow(cx, id.into(), start)?;
                    Ok(Answer::Channel(id))
                }
                _ => Err(garbled()),
            },
            OpErrand::Invite { community_id, secret, max_uses, expires_ms } => match body.parse::<communities::Invite>() {
                Some(invite) => {
                    own_op(self, cx)?;
                    let genesis = self.logs.get(&log_id).map(|state| state.log.genesis()).unwrap_or_default();
                    let text = Invite { log_id: *log_id.as_bytes(), genesis, key: secret }.to_text();
                    let link = format!("chat://{}/i/{}#{}", self.server_host(), invite.code, *text);
                    let expires_at =
                        (expires_ms > 0).then(|| i64::try_from(expires_ms).ok()).flatten().map(crate::protocol::codec::Timestamp);
                    Ok(Answer::Invite(InviteLink { community_id, link, expires_at, max_uses }))
                }
                None => Err(garbled()),
            },
            OpErrand::Join { .. } => match body.parse::<Community>() {
                Some(community) if community.id.0 == log_id.0 => {
                    let (id, start) = (community.id, community.start_seq.unwrap_or(0));
                    own_op(self, cx)?;
                    self.add_community(cx, community)?;
                    self.follow(cx, id.into(), start)?;
                    self.want(super::sync::Load::Channels);
                    Ok(Answer::Community(id))
                }
                _ => Err(garbled()),
            },
            OpErrand::Leave { community_id } => {
                self.lose_community(cx, community_id)?;
                Ok(Answer::Ok)
            }
            OpErrand::Kick { community_id, user_id, .. } => {
                own_op(self, cx)?;
                self.places.remove_member(&mut cx.db, community_id, user_id);
                Ok(Answer::Ok)
            }
            OpErrand::SetRole { .. } | OpErrand::Anchor => {
                own_op(self, cx)?;
                Ok(Answer::Ok)
            }
        };
        self.reply(cx, request, reply);
        Ok(())
    }

    // --- Joining ---

    /// HOST[:PORT] of the server, as it stands in links.
    fn server_host(&self) -> &str {
        let server = self.me.as_ref().map(|me| me.server.as_str()).unwrap_or_default();
        server.split_once("://").map_or(server, |(_, host)| host).trim_end_matches('/')
    }

    fn open_invite(&mut self, cx: &mut Cx<'_>, request: RequestId, link: &str) -> Option<Reply> {
        let usage =
            |what: &str| Some(Err(Problem::new(ProblemKind::Usage, what).hint("An invite looks like chat://HOST/i/CODE#TCI1-…")));
        let Some((host, rest)) = link.trim().strip_prefix("chat://").and_then(|rest| rest.split_once("/i/")) else {
            return usage("This is not an invite link.");
        };
        let (code, fragment) = rest.split_once('#').map_or((rest, None), |(code, fragment)| (code, Some(fragment)));
        if code.is_empty() || code.len() > 128 {
            return usage("The invite link has no code.");
        }
        if !host.eq_ignore_ascii_case(self.server_host()) {
            return Some(Err(Problem::new(
                ProblemKind::Usage,
                format!("The invite is for the server {host}, this profile is at {}.", self.server_host()),
            )
            .hint("Open it with a profile of that server.")));
        }
        let invite = match fragment.filter(|fragment| !fragment.is_empty()).map(Invite::from_text) {
            None => None,
            Some(Ok(Invite { log_id, genesis, key })) => Some(InviteSecret { log_id: LogId::from_bytes(log_id), genesis, key }),
            Some(Err(_)) => return usage("The part of the invite after # was mistyped or cut off."),
        };
        let path = format!("/invites/{}", http::escape(code));
        self.run(cx, Errand::Preview { request, code: code.to_owned(), invite }, Method::Get, path, None);
        None
    }

    /// The server says which community it is; the secret half of the link says whether that is true.
    fn begin_join(
        &mut self,
        cx: &mut Cx<'_>,
        request: Option<RequestId>,
        code: String,
        secret: Option<InviteSecret>,
        preview: &InvitePreview,
    ) -> Result<Option<Answer>, Problem> {
        let log_id: LogId = preview.community.id.into();
        if let Some(secret) = &secret
            && (secret.log_id != log_id || !self.pin_invited(cx, log_id, &secret.genesis))
        {
            return Err(Problem::new(
                ProblemKind::Crypto,
                "The server answers this invite with another community than the one it was made for.",
            )
            .hint("Ask the person who invited you."));
        }
        if self.role_in_log(log_id, self.me_id()).is_some() && self.places.communities.contains_key(&preview.community.id) {
            return Ok(Some(Answer::Community(preview.community.id)));
        }
        self.hint_log_head(log_id, preview.log_head_seq);
        let path = self.join_path(log_id, &code);
        let deadline = cx.now.as_unix_ms() + PATIENCE_MS;
        let waiting = Waiting { request, log_id, what: OpErrand::Join { code, secret }, op: Vec::new(), tries: 0, deadline };
        self.run(cx, Errand::JoinOps(Box::new(waiting)), Method::Get, path, None);
        Ok(None)
    }

    fn join_path(&self, log_id: LogId, code: &str) -> String {
        let after = self.logs.get(&log_id).map_or(-1, |state| i64::try_from(state.log.epoch()).unwrap_or(i64::MAX));
        format!("/invites/{}/log-ops?after={after}&limit={LOG_OPS_PAGE_MAX}", http::escape(code))
    }

    fn on_join_ops(&mut self, cx: &mut Cx<'_>, waiting: Waiting, page: LogOps) -> Result<(), StoreError> {
        let next = page.next_after.filter(|_| !page.items.is_empty());
        self.take_ops(cx, waiting.log_id, page)?;
        match (next, &waiting.what) {
            (Some(after), OpErrand::Join { code, .. }) => {
                let path = format!("/invites/{}/log-ops?after={after}&limit={LOG_OPS_PAGE_MAX}", http::escape(code));
                self.run(cx, Errand::JoinOps(Box::new(waiting)), Method::Get, path, None);
            }
            _ => self.push_waiting(waiting),
        }
        Ok(())
    }
}

fn missing(what: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("There is no such {what}, or you cannot see it."))
}
