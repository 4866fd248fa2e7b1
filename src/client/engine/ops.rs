//! Changes that are signed ops of a membership log (`protocol.md` 3.1, 9.22 to 9.25): signed after the newest verified op,
//! and signed again when somebody else's came first. Like every errand they live in memory only: after a restart the user
//! asks again.

use crate::client::command::{Command, RequestId};
use crate::client::event::Answer;
use crate::client::model::{Domain, InviteLink, Problem, ProblemKind};
use crate::client::store::{StoreError, Table};
use crate::crypto::contact::Sending;
use crate::crypto::membership::{Change, Invite, Log, LogKind, Op};
use crate::crypto::signature::SigningKey;
use crate::protocol::channels::{Channel, CreateChannel};
use crate::protocol::codec::Blob;
use crate::protocol::communities::{
    self, Community, CreateCommunity, CreateGroup, Group, InvitePreview, LogOps, RemoveMember, Role, SignedOp, Transfer,
    UpdateMember, Visibility,
};
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, LogId, UserId};
use crate::protocol::limits::LOG_OPS_PAGE_MAX;
use crate::protocol::messages::StaleLog;

use super::commands::offline;
use super::errands::Errand;
use super::http::{self, Body, Failure};
use super::io::Method;
use super::membership::{log_role, refused};
use super::{Cx, Engine};

/// Errands that wait for a log, and how long, milliseconds.
const WAITING_MAX: usize = 100;
const PATIENCE_MS: u64 = 30_000;
/// In [`Table::Account`]: the list from which on this user acts, because an older one has a removed device.
pub(super) const ANCHOR_FROM: &[u8] = b"anchor-from";
/// An op that always comes second is given up.
const TRIES_MAX: u32 = 8;

/// An op to be signed as soon as its log is known up to its head.
#[derive(Debug)]
pub(super) struct Waiting {
    /// None: nobody waits for it.
    pub request: Option<RequestId>,
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
    CreateCommunity {
        id: CommunityId,
        name: String,
        description: Option<String>,
    },
    CreateGroup {
        id: GroupId,
        community_id: CommunityId,
        name: String,
    },
    CreateChannel {
        id: ChannelId,
        group_id: GroupId,
        name: String,
        topic: Option<String>,
        private: bool,
    },
    Invite {
        community_id: CommunityId,
        secret: SigningKey,
        max_uses: Option<u32>,
        expires_ms: u64,
    },
    Join {
        code: String,
        secret: Option<InviteSecret>,
    },
    Leave {
        domain: Domain,
    },
    Add {
        domain: Domain,
        user_id: UserId,
    },
    Kick {
        domain: Domain,
        user_id: UserId,
        ban: bool,
        reason: Option<String>,
    },
    Unban {
        domain: Domain,
        user_id: UserId,
    },
    SetRole {
        domain: Domain,
        user_id: UserId,
        role: Role,
    },
    /// The list of own devices is fixed, or an op of another branch is void (`crypto.md` 11.3, 11.4).
    Anchor {
        discarded: Option<[u8; 32]>,
    },
}

/// The secret half of an invite link.
#[derive(Debug)]
pub(super) struct InviteSecret {
    log_id: LogId,
    genesis: [u8; 32],
    key: SigningKey,
}

type Reply = Result<Answer, Problem>;

impl Engine {
    /// After a device was removed: it can sign nothing more in the logs in which this user decides (`crypto.md` 11.3). Looked at
    /// again after each catching up, until every such log has an operation from the newer list.
    pub(super) fn anchor_everywhere(&mut self, cx: &mut Cx<'_>) -> Result<(), StoreError> {
        let me = self.me_id();
        let (Some(from), Some(own)) = (cx.db.load::<u64>(Table::Account, ANCHOR_FROM)?, self.contacts.get(&me)) else {
            return Ok(());
        };
        let identity = *own.identity().as_bytes();
        let waits = |log: &LogId| {
            self.waiting.iter().any(|waiting| waiting.log_id == *log && matches!(waiting.what, OpErrand::Anchor { .. }))
        };
        let logs: Vec<LogId> = self
            .logs
            .iter()
            .filter(|(log, _)| self.role_in_log(**log, me).is_some_and(|role| role >= Role::Moderator) && !waits(log))
            .filter(|(_, state)| state.log.list_floor(me.as_bytes(), &identity).is_none_or(|floor| floor < from))
            .map(|(log, _)| *log)
            .collect();
        for log_id in logs {
            self.wait_for_log(cx, None, log_id, OpErrand::Anchor { discarded: None });
        }
        Ok(())
    }

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
            Command::Leave { domain } => {
                if let Domain::Community(community_id) = domain {
                    for inner in self.private_domains(community_id) {
                        let role = self.role_in_log(inner.log_id(), self.me_id());
                        if role.is_some_and(|role| role < Role::Owner) {
                            self.wait_for_log(cx, None, inner.log_id(), OpErrand::Leave { domain: inner });
                        }
                    }
                }
                (domain.log_id(), OpErrand::Leave { domain })
            }
            Command::AddMember { domain: Domain::Community(_), .. } => {
                return Ok(Some(Err(Problem::new(ProblemKind::Usage, "People join a community by themselves.")
                    .hint("Make an invite and give it to them."))));
            }
            Command::AddMember { domain, user_id } => {
                if let Err(problem) = self.may_be_added(domain, user_id) {
                    return Ok(Some(Err(problem)));
                }
                (domain.log_id(), OpErrand::Add { domain, user_id })
            }
            Command::Kick { domain: Domain::Group(_), ban: true, .. } => {
                return Ok(Some(Err(Problem::new(ProblemKind::Usage, "A private group knows no bans.")
                    .hint("Remove them; only its admins can bring them back."))));
            }
            Command::Kick { domain, user_id, ban, reason } => (domain.log_id(), OpErrand::Kick { domain, user_id, ban, reason }),
            Command::Unban { domain, user_id } => (domain.log_id(), OpErrand::Unban { domain, user_id }),
            Command::SetRole { domain, user_id, role } => (domain.log_id(), OpErrand::SetRole { domain, user_id, role }),
            Command::Resume { channel_id, discard } => match self.to_discard(channel_id, &discard) {
                Ok((log_id, hash)) => (log_id, OpErrand::Anchor { discarded: Some(hash) }),
                Err(problem) => return Ok(Some(Err(problem))),
            },
            Command::Join { link } => return Ok(self.open_invite(cx, request, &link.0)),
            _ => return Ok(Some(Err(Problem::new(ProblemKind::Usage, "This is no change of membership.")))),
        };
        self.wait_for_log(cx, Some(request), log_id, what);
        Ok(None)
    }

    pub(super) fn ops_clock_set_back(&mut self, by: u64) {
        for waiting in &mut self.waiting {
            waiting.deadline = waiting.deadline.saturating_sub(by);
        }
        self.timers.errands = self.timers.errands.map(|at| at.saturating_sub(by));
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
                // The op names the identity key, and the keys go to the devices of the newest list.
                OpErrand::Add { user_id, .. } => self.has_lists([*user_id]) && self.is_log_current(waiting.log_id),
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
                    crate::crypto::Error::Rejected if secret.is_none() => Problem::new(
                        ProblemKind::Permission,
                        "This link has no secret half (what follows the #), and without it nobody can join here.",
                    )
                    .hint("Ask for the whole link; if you are banned, an admin can lift that."),
                    crate::crypto::Error::Rejected => Problem::new(
                        ProblemKind::Permission,
                        "This invite cannot be used: it is expired, used up or withdrawn, or you are banned.",
                    )
                    .hint("Ask for a new invite; if you are banned, an admin can lift that."),
                    error => refused(error),
                })?
            }
            OpErrand::Leave { .. } => self.sign_change(cx, log_id, &Change::Leave)?,
            OpErrand::Add { user_id, .. } => {
                let Some(contact) = self.contacts.get(user_id) else {
                    return Err(Problem::new(ProblemKind::NotFound, "They have no device yet, so there is no key to add.")
                        .hint("Ask them to log in once."));
                };
                if contact.sending() != Sending::Allowed {
                    return Err(Problem::new(ProblemKind::Crypto, "Their identity key is in doubt.")
                        .hint("Compare safety numbers and accept the new key first."));
                }
                let identity = *contact.identity().as_bytes();
                let role = crate::crypto::membership::Role::Member;
                self.sign_change(cx, log_id, &Change::Add { user: *user_id.as_bytes(), identity, role })?
            }
            OpErrand::Kick { user_id, ban, .. } => {
                self.sign_change(cx, log_id, &Change::Remove { user: *user_id.as_bytes(), ban: *ban })?
            }
            OpErrand::Unban { user_id, .. } => self.sign_change(cx, log_id, &Change::Unban { user: *user_id.as_bytes() })?,
            OpErrand::SetRole { user_id, role, .. } => {
                self.sign_change(cx, log_id, &Change::SetRole { user: *user_id.as_bytes(), role: log_role(*role) })?
            }
            OpErrand::Anchor { discarded } => self.sign_change(cx, log_id, &Change::Anchor { discarded: *discarded })?,
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
            OpErrand::Leave { domain: domain @ Domain::Channel(_) } | OpErrand::Add { domain, .. } => {
                (Method::Post, format!("{}/log-ops", path_of(*domain)), http::json(&communities::PostLogOp { op: log_op }))
            }
            OpErrand::Leave { domain } => (Method::Post, format!("{}/leave", path_of(*domain)), http::json(&SignedOp { log_op })),
            OpErrand::Kick { domain, user_id, ban, reason } => {
                let body = http::json(&RemoveMember { reason: reason.clone(), log_op: Some(log_op) });
                if *ban {
                    (Method::Put, format!("{}/bans/{user_id}", path_of(*domain)), body)
                } else {
                    (Method::Delete, format!("{}/members/{user_id}", path_of(*domain)), body)
                }
            }
            OpErrand::Unban { domain, user_id } => {
                (Method::Delete, format!("{}/bans/{user_id}", path_of(*domain)), http::json(&SignedOp { log_op }))
            }
            OpErrand::SetRole { domain: domain @ (Domain::Community(_) | Domain::Group(_)), user_id, role: Role::Owner } => {
                let body = Transfer { new_owner_id: *user_id, log_op };
                (Method::Post, format!("{}/transfer", path_of(*domain)), http::json(&body))
            }
            OpErrand::SetRole { domain, user_id, role } => {
                let body = UpdateMember { role: Some(*role), log_op: Some(log_op), ..UpdateMember::default() };
                (Method::Patch, format!("{}/members/{user_id}", path_of(*domain)), http::json(&body))
            }
            OpErrand::Anchor { .. } => {
                let path = self.log_path(log_id).ok_or_else(|| missing("log"))?;
                (Method::Post, format!("{path}/log-ops"), http::json(&communities::PostLogOp { op: log_op }))
            }
        })
    }

    pub(super) fn on_op_answer(
        &mut self,
        cx: &mut Cx<'_>,
        mut waiting: Waiting,
        answer: Result<Body, Failure>,
    ) -> Result<(), StoreError> {
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
                    self.want(super::snapshot::Load::Channels);
                    Ok(Answer::Community(id))
                }
                _ => Err(garbled()),
            },
            OpErrand::Leave { domain } => {
                match domain {
                    Domain::Community(id) => self.lose_community(cx, id)?,
                    Domain::Group(id) => self.lose_group(cx, id)?,
                    Domain::Channel(id) => self.lose_stream(cx, id.into())?,
                }
                Ok(Answer::Ok)
            }
            OpErrand::Add { domain, user_id } => {
                own_op(self, cx)?;
                let channel_id = match domain {
                    Domain::Channel(id) => Some(id),
                    Domain::Community(_) | Domain::Group(_) => None,
                };
                // They learn from the one who added them where the log stands, not from the server alone.
                self.tell_membership(cx, user_id, log_id, channel_id)?;
                Ok(Answer::Ok)
            }
            OpErrand::Kick { domain, user_id, .. } => {
                own_op(self, cx)?;
                if let Domain::Community(id) = domain {
                    self.places.remove_member(&mut cx.db, id, user_id);
                    for inner in self.private_domains(id) {
                        if self.may_remove(inner.log_id(), user_id) {
                            let what = OpErrand::Kick { domain: inner, user_id, ban: false, reason: None };
                            self.wait_for_log(cx, None, inner.log_id(), what);
                        }
                    }
                }
                Ok(Answer::Ok)
            }
            OpErrand::SetRole { .. } | OpErrand::Unban { .. } | OpErrand::Anchor { .. } => {
                own_op(self, cx)?;
                Ok(Answer::Ok)
            }
        };
        self.reply(cx, request, reply);
        Ok(())
    }

    /// What has a log of its own inside of a community.
    fn private_domains(&self, community_id: CommunityId) -> Vec<Domain> {
        let groups = self.places.groups.values();
        let groups = groups.filter(|group| group.community_id == community_id && group.visibility == Visibility::Private);
        let channels = self.places.channels_of(community_id).map(|channel| channel.id);
        let private = channels.filter(|id| self.places.state(*id).log == Some(LogId::from(*id)));
        groups.map(|group| Domain::Group(group.id)).chain(private.map(Domain::Channel)).collect()
    }

    fn may_remove(&self, log_id: LogId, user_id: UserId) -> bool {
        let (mine, theirs) = (self.role_in_log(log_id, self.me_id()), self.role_in_log(log_id, user_id));
        mine.zip(theirs).is_some_and(|(mine, theirs)| mine >= Role::Moderator && mine > theirs)
    }

    /// Whether somebody is in the community that a private place is inside of, and not in the place yet.
    fn may_be_added(&self, domain: Domain, user_id: UserId) -> Result<(), Problem> {
        let community = match domain {
            Domain::Community(id) => Some(id),
            Domain::Group(id) => self.places.groups.get(&id).map(|group| group.community_id),
            Domain::Channel(id) => self.places.channels.get(&id).and_then(|channel| self.places.community_of(channel)),
        };
        let Some(community) = community else { return Err(missing("place")) };
        let name = self.places.name(Some(community), user_id);
        if self.role_in_log(domain.log_id(), user_id).is_some() {
            return Err(Problem::new(ProblemKind::Usage, format!("{} is a member already.", name.raw())));
        }
        if self.role_in_log(community.into(), user_id).is_none() {
            return Err(Problem::new(ProblemKind::NotFound, format!("{} is not a member of the community.", name.raw()))
                .hint("Invite them to the community first."));
        }
        Ok(())
    }

    // --- Joining ---

    /// `HOST[:PORT]` of the server, as it stands in links.
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
    pub(super) fn begin_join(
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

    pub(super) fn on_join_ops(&mut self, cx: &mut Cx<'_>, waiting: Waiting, page: LogOps) -> Result<(), StoreError> {
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

fn path_of(domain: Domain) -> String {
    match domain {
        Domain::Community(id) => format!("/communities/{id}"),
        Domain::Group(id) => format!("/groups/{id}"),
        Domain::Channel(id) => format!("/channels/{id}"),
    }
}

fn missing(what: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("There is no such {what}, or you cannot see it."))
}
