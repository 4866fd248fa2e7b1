//! Changes of membership: a signed op and the rows that it causes, in one transaction or not at all (`docs/PROTOCOL.md` 3.1,
//! 9.20 to 9.26). The server refuses what a client would refuse, as [`verify`] decides it.
//!
//! A handler reads the op ([`Signed::read`]), says which op its route takes ([`Signed::expect`]), and inside its transaction
//! calls [`create`] or [`apply`]. Both write the log, its members and bans, and collect the events; rows that only one route
//! knows (an invite's code, a channel's name) are that route's.

use crate::crypto::verify::{self, CertSource, Change, Log as Verified, LogKind, Op, Role as LogRole};
use crate::protocol::codec::Blob;
use crate::protocol::communities::Role;
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{ChannelId, CommunityId, DeviceAddr, GroupId, LogId, StreamId, UserId};
use crate::protocol::messages::StaleLog;
use crate::protocol::streams::{Event, RemovalReason};
use crate::protocol::users::InstanceRole;

use super::app::App;
use super::db::channels::{self, Channel, Reader};
use super::db::communities::{self, Community};
use super::db::groups::Group;
use super::db::invites::Invite;
use super::db::logs::{self, KeptObjects, Log, NewHead, NewLog};
use super::db::{Conn, members};
use super::error::{ApiError, ApiResult};
use super::events::Events;
use super::extract::Auth;
use super::permission::{Action, Standing, may};

/// A domain with a membership log of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Community(CommunityId),
    /// A private group.
    Group(GroupId, CommunityId),
    /// A private channel.
    Channel(ChannelId, CommunityId),
}

impl Place {
    pub fn log(self) -> LogId {
        match self {
            Self::Community(id) => id.into(),
            Self::Group(id, _) => id.into(),
            Self::Channel(id, _) => id.into(),
        }
    }

    pub const fn community(self) -> CommunityId {
        match self {
            Self::Community(id) | Self::Group(_, id) | Self::Channel(_, id) => id,
        }
    }

    /// Where its events go; a private channel has rows in its own log instead.
    pub fn stream(self) -> Option<StreamId> {
        match self {
            Self::Community(id) => Some(id.into()),
            Self::Group(id, _) => Some(id.into()),
            Self::Channel(..) => None,
        }
    }

    const fn log_kind(self) -> LogKind {
        match self {
            Self::Channel(..) => LogKind::Channel,
            Self::Community(_) | Self::Group(..) => LogKind::Group,
        }
    }
}

/// An op of the right layout, by the device of this session; neither its place nor its signature is checked yet.
pub struct Signed<'a> {
    bytes: &'a [u8],
    op: Op,
    field: &'static str,
    actor: DeviceAddr,
}

/// What became of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// These bytes are the stored op of that seq already: a success without effect (protocol 9.22).
    Repeated,
}

impl<'a> Signed<'a> {
    /// # Errors
    /// 403 for a session without a device; 429 for too many; 400 `validation` for the layout, or another device than this one.
    pub fn read(app: &App, field: &'static str, blob: &'a Blob, auth: &Auth) -> ApiResult<Self> {
        let actor = auth.device()?;
        app.limits.check_log_op(actor.user_id)?;
        let invalid = |message: &str| ApiError::validation(field, message);
        let op = Op::parse(blob.as_slice()).map_err(|_| invalid("is not an op of a membership log"))?;
        if op.actor.user_id != *actor.user_id.as_bytes() || op.actor.device_id != actor.device_id {
            return Err(invalid("is not signed by the device of this session"));
        }
        Ok(Self { bytes: blob.as_slice(), op, field, actor })
    }

    /// As [`read`](Self::read), from a field that may be missing in the request but not on this route.
    ///
    /// # Errors
    /// As [`read`](Self::read), and 400 `validation` when it is missing.
    pub fn read_required(app: &App, blob: Option<&'a Blob>, auth: &Auth) -> ApiResult<Self> {
        match blob {
            Some(blob) => Self::read(app, "log_op", blob, auth),
            None => Err(ApiError::validation("log_op", "is required: this changes a signed membership log")),
        }
    }

    /// Says which op the route takes.
    ///
    /// # Errors
    /// 400 `validation` when it is another one.
    pub fn expect(self, what: &str, is: impl FnOnce(&Change) -> bool) -> ApiResult<Self> {
        if is(&self.op.change) {
            return Ok(self);
        }
        Err(ApiError::validation(self.field, format!("must be {what}")))
    }

    pub const fn seq(&self) -> u64 {
        self.op.seq
    }

    pub const fn change(&self) -> &Change {
        &self.op.change
    }

    /// Whether these bytes are in this log already: then the request was done before, whatever the caller sees by now
    /// (protocol 9.22).
    ///
    /// # Errors
    /// Of the database.
    pub async fn is_stored(&self, conn: &mut Conn, log: LogId) -> ApiResult<bool> {
        match i64::try_from(self.op.seq) {
            Ok(seq) if self.op.log_id == *log.as_bytes() => {
                Ok(logs::find_op(conn, log, seq).await?.is_some_and(|stored| stored == self.bytes))
            }
            _ => Ok(false),
        }
    }

    fn is_for(&self, log: LogId) -> ApiResult<()> {
        if self.op.log_id == *log.as_bytes() { Ok(()) } else { Err(self.invalid("is an op of another log")) }
    }

    fn invalid(&self, message: &str) -> ApiError {
        ApiError::validation(self.field, message)
    }
}

/// What the caller is here, held until the transaction ends.
///
/// # Errors
/// 404 for whoever is not a member.
pub async fn standing(conn: &mut Conn, place: Place, auth: &Auth) -> ApiResult<Standing> {
    Log::share(conn, place.log(), place.community()).await?;
    let role = see(conn, place, auth.user_id).await?;
    Ok(Standing::new(auth.role, Some(role)))
}

/// As [`standing`], and nobody else changes the place until the transaction ends.
///
/// # Errors
/// 404 for whoever is not a member.
pub async fn hold(conn: &mut Conn, place: Place, auth: &Auth) -> ApiResult<Standing> {
    Log::lock(conn, place.log(), place.community()).await?;
    let role = see(conn, place, auth.user_id).await?;
    Ok(Standing::new(auth.role, Some(role)))
}

/// The caller's role, for reading.
///
/// # Errors
/// 404 for whoever is not a member.
pub async fn see(conn: &mut Conn, place: Place, user: UserId) -> ApiResult<Role> {
    logs::membership(conn, place.log(), place.community(), user).await?.role().ok_or_else(ApiError::not_found)
}

/// # Errors
/// 403 `forbidden`.
pub fn require(standing: Standing, action: Action) -> ApiResult<()> {
    if may(standing, action) { Ok(()) } else { Err(ApiError::forbidden("your role does not allow this")) }
}

/// Starts the log of a new place with its `create` op. The rows of the place itself are written already.
///
/// # Errors
/// 400 `validation`, 422 `bad_signature`, or what the database says.
pub async fn create(conn: &mut Conn, events: &mut Events, place: Place, signed: &Signed<'_>) -> ApiResult<()> {
    signed.is_for(place.log())?;
    match signed.op.change {
        Change::Create { kind, identity, .. } if kind == place.log_kind() => {
            check_identity(conn, signed, signed.actor.user_id, &identity).await?;
        }
        _ => return Err(signed.invalid("must be the create op of this kind of log")),
    }
    let source = signer(conn, signed).await?;
    let log = place.log();
    let verified = Verified::start(log.as_bytes(), signed.bytes, None, &source).map_err(|e| refused(signed, e))?;
    let (state, head) = (verified.to_record(), verified.newest_head());
    let new = NewLog {
        id: log.0,
        kind: place.log_kind() as i16,
        community_id: place.community().0,
        head_seq: 0,
        head_hash: &head,
        state: &state,
    };
    Log::insert(conn, &new, signed.bytes).await?;
    logs::insert_member(conn, log, signed.actor.user_id, Role::Owner, 0).await?;
    tell_op(events, place, signed);
    events.access_changed(signed.actor.user_id);
    Ok(())
}

/// Appends an op to the log of a place, with everything that follows from it.
///
/// # Errors
/// 404 for whoever may not see the place; 403 `banned`, 409 `stale_log`, 403 `forbidden`, 409 `conflict`, 400 `validation`,
/// 422 `bad_signature` as protocol 9.23 says.
pub async fn apply(
    conn: &mut Conn,
    events: &mut Events,
    place: Place,
    signed: &Signed<'_>,
    reason: Option<&str>,
) -> ApiResult<Outcome> {
    let id = place.log();
    let Some(log) = Log::lock(conn, id, place.community()).await? else { return Err(ApiError::not_found()) };
    if signed.is_stored(conn, id).await? {
        return Ok(Outcome::Repeated);
    }
    let me = logs::membership(conn, id, place.community(), signed.actor.user_id).await?;
    let joins = matches!(signed.op.change, Change::Join { .. });
    // Whoever left the community may still leave what was inside of it.
    let role = if matches!(signed.op.change, Change::Leave) { me.log_role() } else { me.role() };
    match (joins, me.log_role()) {
        (true, _) if me.banned => return Err(ApiError::new(ErrorCode::Banned, "you are banned here")),
        (true, Some(_)) => return Err(ApiError::conflict("you are a member already")),
        (true, None) => {}
        (false, _) if role.is_none() => return Err(ApiError::not_found()),
        (false, _) => {}
    }
    signed.is_for(id)?;
    let head = log.head_seq.unsigned_abs();
    if signed.op.seq != head + 1 || signed.op.prev[..] != log.head_hash[..] {
        let message = "the log has moved: fetch its newest ops, sign again and retry";
        return Err(ApiError::new(ErrorCode::StaleLog, message).with_details(StaleLog { head_seq: head }));
    }
    check_rights(conn, place, signed, &log, role).await?;

    let source = signer(conn, signed).await?;
    let mut verified = Verified::from_record(&log.state).map_err(ApiError::internal)?;
    verified.apply(signed.bytes, &source).map_err(|e| refused(signed, e))?;
    write_log(conn, &log, &verified, signed).await?;
    tell_op(events, place, signed);
    write_rows(conn, events, place, signed, reason).await?;
    Ok(Outcome::Applied)
}

/// Rights by live roles, and what the server knows beyond the log: who exists, who has which identity, who is in the community.
async fn check_rights(conn: &mut Conn, place: Place, signed: &Signed<'_>, log: &Log, role: Option<Role>) -> ApiResult<()> {
    let id = place.log();
    let invites_from = communities::role(log.who_can_create_invites);
    let action = match signed.op.change {
        Change::Create { .. } => return Err(signed.invalid("must not be a create op: this log exists")),
        Change::Join { identity, .. } => return check_identity(conn, signed, signed.actor.user_id, &identity).await,
        Change::Add { user, identity, role } => {
            let user = UserId::from_bytes(user);
            let them = logs::membership(conn, id, place.community(), user).await?;
            if them.log_role().is_some() {
                return Err(ApiError::conflict("this user is a member already"));
            }
            if them.banned {
                return Err(ApiError::conflict("this user is banned: lift the ban first"));
            }
            if !matches!(place, Place::Community(_)) && !them.in_community {
                return Err(ApiError::conflict("this user is not a member of the community"));
            }
            check_identity(conn, signed, user, &identity).await?;
            Action::AddMember { role: wire_role(role) }
        }
        Change::Remove { user, ban } => {
            let target = logs::membership(conn, id, place.community(), UserId::from_bytes(user)).await?.log_role();
            match target {
                Some(target) if ban => Action::Ban { target },
                Some(target) => Action::Remove { target },
                None if ban => return Err(ApiError::conflict("only a member can be banned")),
                None => return Err(ApiError::not_found()),
            }
        }
        Change::SetRole { user, role } => {
            let target = logs::membership(conn, id, place.community(), UserId::from_bytes(user)).await?.log_role();
            let Some(target) = target else { return Err(ApiError::not_found()) };
            if role == LogRole::Owner { Action::Transfer } else { Action::SetRole { target, to: wire_role(role) } }
        }
        Change::Unban { user } => {
            if !logs::membership(conn, id, place.community(), UserId::from_bytes(user)).await?.banned {
                return Err(ApiError::not_found());
            }
            Action::Unban
        }
        Change::Leave => Action::Leave,
        Change::Open(_) => Action::SetOpen,
        Change::AddInvite { .. } => Action::CreateInvite { from: invites_from },
        Change::DeleteInvite { .. } => Action::DeleteInvite { from: invites_from },
        Change::InviteRole(_) => Action::SetInvitePolicy,
        Change::Anchor { discarded: None } => Action::Anchor,
        Change::Anchor { discarded: Some(_) } => Action::AnchorBranch,
        Change::Channel { attach: true, .. } => Action::AttachChannel,
        Change::Channel { attach: false, .. } => Action::DetachChannel,
    };
    // The log knows no roles of the instance, so neither does this question.
    if may(Standing::new(InstanceRole::User, role), action) { Ok(()) } else { Err(not_allowed(signed)) }
}

/// The identity that the op names must be the one that the user has today: a join or an addition under an old key would make a
/// member that nobody can write to.
async fn check_identity(conn: &mut Conn, signed: &Signed<'_>, user: UserId, identity: &[u8; 32]) -> ApiResult<()> {
    let Some(current) = logs::current_identity(conn, user).await? else { return Err(ApiError::not_found()) };
    if identity[..] == current[..] {
        return Ok(());
    }
    Err(signed.invalid("names an identity key that is not the user's"))
}

async fn write_log(conn: &mut Conn, log: &Log, verified: &Verified, signed: &Signed<'_>) -> ApiResult<()> {
    let seq_of = |epoch: u64| i64::try_from(epoch).map_err(ApiError::internal);
    let (state, head) = (verified.to_record(), verified.newest_head());
    let head = NewHead {
        head_seq: seq_of(verified.epoch())?,
        head_hash: &head,
        shrink_seq: seq_of(verified.shrunk_at().unwrap_or(0))?,
        state: &state,
        open: verified.is_open(),
        who_can_create_invites: verified.invite_role() as i16,
    };
    Log::advance(conn, LogId(log.id), &head, signed.bytes).await?;
    Ok(())
}

/// Members, bans, invites and owner as the op leaves them, and the events that say so.
async fn write_rows(
    conn: &mut Conn,
    events: &mut Events,
    place: Place,
    signed: &Signed<'_>,
    reason: Option<&str>,
) -> ApiResult<()> {
    let id = place.log();
    let actor = signed.actor.user_id;
    match signed.op.change {
        Change::Create { .. } | Change::Anchor { .. } | Change::AddInvite { .. } | Change::Channel { .. } => {}
        Change::Join { invite, .. } => {
            if let Some(proof) = invite {
                Invite::count_use(conn, id, &proof.key).await?;
            }
            enter(conn, events, place, actor, Role::Member, signed).await?;
        }
        Change::Add { user, role, .. } => enter(conn, events, place, UserId::from_bytes(user), wire_role(role), signed).await?,
        Change::Remove { user, ban } => {
            let user = UserId::from_bytes(user);
            logs::delete_member(conn, id, user).await?;
            if ban {
                logs::insert_ban(conn, id, user, actor, reason).await?;
            }
            let why = if ban { RemovalReason::Banned } else { RemovalReason::Kicked };
            exit(conn, events, place, user, why, signed).await?;
        }
        Change::Leave => {
            logs::delete_member(conn, id, actor).await?;
            exit(conn, events, place, actor, RemovalReason::Left, signed).await?;
        }
        Change::SetRole { user, role } => {
            let user = UserId::from_bytes(user);
            logs::set_role(conn, id, user, wire_role(role)).await?;
            tell_member(conn, events, place, user).await?;
            if role == LogRole::Owner {
                logs::set_role(conn, id, actor, Role::Admin).await?;
                tell_member(conn, events, place, actor).await?;
                if let Place::Community(community) = place {
                    communities::set_owner(conn, community, user).await?;
                    tell_place(conn, events, place).await?;
                }
            }
        }
        Change::Open(_) | Change::InviteRole(_) => tell_place(conn, events, place).await?,
        Change::DeleteInvite { key } => Invite::delete_by_key(conn, id, &key).await?,
        Change::Unban { user } => logs::delete_ban(conn, id, UserId::from_bytes(user)).await?,
    }
    Ok(())
}

/// Somebody became a member.
async fn enter(
    conn: &mut Conn,
    events: &mut Events,
    place: Place,
    user: UserId,
    role: Role,
    signed: &Signed<'_>,
) -> ApiResult<()> {
    let seq = i64::try_from(signed.op.seq).map_err(ApiError::internal)?;
    logs::insert_member(conn, place.log(), user, role, seq).await?;
    tell_member(conn, events, place, user).await?;
    tell_gained(conn, events, place, user).await
}

/// On a user's own stream: the place is theirs now. Also for whoever made it, whose other devices learn it so.
///
/// # Errors
/// Of the database.
pub async fn tell_gained(conn: &mut Conn, events: &mut Events, place: Place, user: UserId) -> ApiResult<()> {
    events.access_changed(user);
    let reader = Reader { user_id: user, device_id: None };
    match place {
        Place::Community(id) => {
            if let Some(community) = Community::find(conn, id, user).await? {
                events.tell(user, Event::CommunityAdded { community: community.seen() });
            }
            return Ok(());
        }
        Place::Group(id, _) => {
            if let Some(group) = Group::find(conn, id, user).await? {
                events.tell(user, Event::Group { group: group.seen() });
            }
        }
        Place::Channel(..) => {}
    }
    let gained = Channel::list_of_log(conn, place.log(), reader).await?;
    for channel in channels::with_peers(conn, gained).await? {
        events.tell(user, Event::ChannelAdded { channel });
    }
    Ok(())
}

/// Somebody is not a member any more; the row is gone already.
async fn exit(
    conn: &mut Conn,
    events: &mut Events,
    place: Place,
    user: UserId,
    reason: RemovalReason,
    signed: &Signed<'_>,
) -> ApiResult<()> {
    if let Some(stream) = place.stream() {
        events.tell(stream, Event::MemberRemoved { user_id: user, reason });
    }
    events.access_changed(user);
    match place {
        Place::Community(id) => {
            let op = Some(Blob::from(signed.bytes));
            events.tell(user, Event::CommunityRemoved { community_id: id, reason, op });
        }
        Place::Group(id, _) => {
            for channel_id in channels::list_ids_of_log(conn, place.log()).await? {
                events.tell(user, Event::ChannelRemoved { channel_id });
            }
            events.tell(user, Event::GroupRemoved { group_id: id });
        }
        Place::Channel(id, _) => events.tell(user, Event::ChannelRemoved { channel_id: id }),
    }
    Ok(())
}

/// The op itself, always before the rows that it causes.
fn tell_op(events: &mut Events, place: Place, signed: &Signed<'_>) {
    match place {
        Place::Channel(id, _) => events.member_row(id, signed.op.seq, signed.bytes),
        Place::Community(_) | Place::Group(..) => {
            let event = Event::LogOp { log_id: place.log(), log_seq: signed.op.seq, op: Blob::from(signed.bytes) };
            events.tell(StreamId(place.log().0), event);
        }
    }
}

/// A member as they are now.
///
/// # Errors
/// Of the database.
pub async fn tell_member(conn: &mut Conn, events: &mut Events, place: Place, user: UserId) -> ApiResult<()> {
    if let (Some(stream), Some(member)) = (place.stream(), members::find(conn, place.log(), user).await?) {
        events.tell(stream, Event::Member { member });
    }
    Ok(())
}

/// The community or private group as it is now.
///
/// # Errors
/// Of the database.
pub async fn tell_place(conn: &mut Conn, events: &mut Events, place: Place) -> ApiResult<()> {
    match place {
        Place::Community(id) => {
            if let Some(community) = Community::find(conn, id, UserId(uuid::Uuid::nil())).await? {
                events.tell(id, Event::Community { community: community.told() });
            }
        }
        Place::Group(id, _) => {
            if let Some(group) = Group::find(conn, id, UserId(uuid::Uuid::nil())).await? {
                events.tell(id, Event::Group { group: group.told() });
            }
        }
        Place::Channel(..) => {}
    }
    Ok(())
}

/// The signed objects that an op refers to, as the server keeps them; the verifier checks them all the same.
struct Kept(Vec<KeptObjects>);

impl CertSource for Kept {
    fn cert(&self, _: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.first()?.certificate.clone()
    }

    fn list(&self, _: &[u8; 16], identity: &[u8; 32], _: u64) -> Option<Vec<u8>> {
        self.0.iter().find(|kept| kept.identity_key[..] == identity[..])?.list.clone()
    }
}

async fn signer(conn: &mut Conn, signed: &Signed<'_>) -> ApiResult<Kept> {
    let seq = i64::try_from(signed.op.list_seq).map_err(|_| signed.invalid("names a device list that does not exist"))?;
    Ok(Kept(logs::signer(conn, signed.actor.user_id, &signed.op.cert_hash, seq).await?))
}

const fn wire_role(role: LogRole) -> Role {
    match role {
        LogRole::Member => Role::Member,
        LogRole::Moderator => Role::Moderator,
        LogRole::Admin => Role::Admin,
        LogRole::Owner => Role::Owner,
    }
}

fn not_allowed(signed: &Signed<'_>) -> ApiError {
    ApiError::forbidden(match signed.op.change {
        Change::Leave => "the owner cannot leave: transfer the ownership first",
        _ => "your role does not allow this",
    })
}

/// The verifier's word as protocol 9.23 says it.
fn refused(signed: &Signed<'_>, error: verify::Error) -> ApiError {
    match error {
        verify::Error::BadSignature => ApiError::bad_signature("the signature of the op, or of what it refers to, is not valid"),
        verify::Error::Malformed | verify::Error::Unsupported => signed.invalid("is not an op of a membership log"),
        verify::Error::UnverifiedDevice => signed.invalid("names a certificate or device list that this server does not have"),
        verify::Error::Limit => ApiError::conflict("a limit of the log is reached: 1,000 members, 64 invites"),
        _ if matches!(signed.op.change, Change::Join { .. }) => {
            ApiError::forbidden("this join is not allowed: the invite is unknown, used up or expired, or the log is not open")
        }
        _ => not_allowed(signed),
    }
}
