//! Signed membership logs (`crypto.md` 11): the ops as they were signed, the verified state after the newest one, and the
//! rows that mirror it (members, bans). What an op means is decided in [`super::super::membership`]; here it is only kept.
//!
//! Lock order, for everybody: logs, streams, channel heads, each by ascending id, then the rest.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Bytea, Nullable, SmallInt, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::communities::Role;
use crate::protocol::ids::{CommunityId, LogId, UserId};

use super::schema::{bans, log_ops, logs, members};
use super::{Conn, QueryResult};

/// The head of a membership log.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = logs, check_for_backend(diesel::pg::Pg))]
pub struct Log {
    pub id: Uuid,
    /// Log kind of `crypto.md` 11.1: 1 channel, 2 group.
    pub kind: i16,
    pub community_id: Option<Uuid>,
    pub head_seq: i64,
    pub head_hash: Vec<u8>,
    /// seq of the newest remove or leave.
    pub shrink_seq: i64,
    /// The verified state after `head_seq`.
    pub state: Vec<u8>,
    pub open: bool,
    pub who_can_create_invites: i16,
}

/// A log at its genesis op.
#[derive(Debug, Insertable)]
#[diesel(table_name = logs)]
pub struct NewLog<'a> {
    pub id: Uuid,
    pub kind: i16,
    pub community_id: Uuid,
    pub head_seq: i64,
    pub head_hash: &'a [u8],
    pub state: &'a [u8],
}

/// What changes in the head when an op was applied.
#[derive(Debug, AsChangeset)]
#[diesel(table_name = logs)]
pub struct NewHead<'a> {
    pub head_seq: i64,
    pub head_hash: &'a [u8],
    pub shrink_seq: i64,
    pub state: &'a [u8],
    pub open: bool,
    pub who_can_create_invites: i16,
}

impl Log {
    /// For an op: nothing else may change this log, and no send in it may commit, until the transaction ends. Who is in the
    /// community stays as it is too.
    ///
    /// # Errors
    /// Of the database.
    pub async fn lock(conn: &mut Conn, id: LogId, community: CommunityId) -> QueryResult<Option<Self>> {
        if community.0 < id.0 {
            share_row(conn, community.0).await?;
        }
        let log = logs::table.find(id.0).select(Self::as_select()).for_update().first(conn).await.optional()?;
        if community.0 > id.0 {
            share_row(conn, community.0).await?;
        }
        Ok(log)
    }

    /// For a change that needs a right: the roles stay as they are until the transaction ends.
    ///
    /// # Errors
    /// Of the database.
    pub async fn share(conn: &mut Conn, id: LogId, community: CommunityId) -> QueryResult<()> {
        share_row(conn, community.0.min(id.0)).await?;
        share_row(conn, community.0.max(id.0)).await
    }

    /// # Errors
    /// Of the database.
    pub async fn insert(conn: &mut Conn, new: &NewLog<'_>, op: &[u8]) -> QueryResult<()> {
        diesel::insert_into(logs::table).values(new).execute(conn).await?;
        insert_op(conn, LogId(new.id), new.head_seq, op).await
    }

    /// Appends an op and moves the head; the caller holds the lock.
    ///
    /// # Errors
    /// Of the database.
    pub async fn advance(conn: &mut Conn, id: LogId, head: &NewHead<'_>, op: &[u8]) -> QueryResult<()> {
        diesel::update(logs::table.find(id.0)).set(head).execute(conn).await?;
        insert_op(conn, id, head.head_seq, op).await
    }
}

async fn share_row(conn: &mut Conn, id: Uuid) -> QueryResult<()> {
    logs::table.find(id).select(logs::id).for_share().first::<Uuid>(conn).await.optional()?;
    Ok(())
}

async fn insert_op(conn: &mut Conn, id: LogId, seq: i64, op: &[u8]) -> QueryResult<()> {
    let row = (log_ops::log_id.eq(id.0), log_ops::seq.eq(seq), log_ops::op.eq(op));
    diesel::insert_into(log_ops::table).values(row).execute(conn).await.map(|_| ())
}

/// The op at a seq, as it was signed.
///
/// # Errors
/// Of the database.
pub async fn find_op(conn: &mut Conn, id: LogId, seq: i64) -> QueryResult<Option<Vec<u8>>> {
    log_ops::table.find((id.0, seq)).select(log_ops::op).first(conn).await.optional()
}

/// Ops above `after`, oldest first.
///
/// # Errors
/// Of the database.
pub async fn list_ops(conn: &mut Conn, id: LogId, after: i64, limit: i64) -> QueryResult<Vec<Vec<u8>>> {
    log_ops::table
        .filter(log_ops::log_id.eq(id.0).and(log_ops::seq.gt(after)))
        .order(log_ops::seq)
        .limit(limit)
        .select(log_ops::op)
        .load(conn)
        .await
}

/// # Errors
/// Of the database.
pub async fn head_seq(conn: &mut Conn, id: LogId) -> QueryResult<Option<i64>> {
    logs::table.find(id.0).select(logs::head_seq).first(conn).await.optional()
}

/// What an op of a device refers to, under one of its user's identities.
#[derive(Clone, Debug, QueryableByName)]
pub struct KeptObjects {
    #[diesel(sql_type = Bytea)]
    pub identity_key: Vec<u8>,
    #[diesel(sql_type = Nullable<Bytea>)]
    pub certificate: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Bytea>)]
    pub list: Option<Vec<u8>>,
}

/// The certificate and the device list that an op names; under the identity that has the certificate first.
///
/// # Errors
/// Of the database.
pub async fn signer(conn: &mut Conn, user: UserId, cert_hash: &[u8], list_seq: i64) -> QueryResult<Vec<KeptObjects>> {
    diesel::sql_query(
        "SELECT i.identity_key, c.certificate, l.list FROM identities i
           LEFT JOIN certificates c ON c.user_id = i.user_id AND c.fingerprint = i.fingerprint AND c.cert_hash = $2
           LEFT JOIN device_lists l ON l.user_id = i.user_id AND l.fingerprint = i.fingerprint AND l.seq = $3
          WHERE i.user_id = $1 ORDER BY c.certificate IS NULL",
    )
    .bind::<SqlUuid, _>(user.0)
    .bind::<Bytea, _>(cert_hash)
    .bind::<BigInt, _>(list_seq)
    .load(conn)
    .await
}

/// The user's identity key of today; none for somebody without a device, or for a deleted account.
///
/// # Errors
/// Of the database.
pub async fn current_identity(conn: &mut Conn, user: UserId) -> QueryResult<Option<Vec<u8>>> {
    use super::schema::{identities, users};
    // Held until the end: who deletes the account meanwhile waits, and then sees the membership.
    let account = users::table.find(user.0).filter(users::deleted_at.is_null()).select(users::id).for_share();
    if account.first::<Uuid>(conn).await.optional()?.is_none() {
        return Ok(None);
    }
    let current = identities::table.filter(identities::user_id.eq(user.0).and(identities::current));
    current.select(identities::identity_key).first(conn).await.optional()
}

// Members and bans, as the log says.

/// # Errors
/// Of the database.
pub async fn insert_member(conn: &mut Conn, id: LogId, user: UserId, role: Role, seq: i64) -> QueryResult<()> {
    let row = (members::log_id.eq(id.0), members::user_id.eq(user.0), members::role.eq(role as i16), members::joined_seq.eq(seq));
    diesel::insert_into(members::table).values(row).execute(conn).await.map(|_| ())
}

/// # Errors
/// Of the database.
pub async fn set_role(conn: &mut Conn, id: LogId, user: UserId, role: Role) -> QueryResult<()> {
    diesel::update(members::table.find((id.0, user.0))).set(members::role.eq(role as i16)).execute(conn).await.map(|_| ())
}

/// # Errors
/// Of the database.
pub async fn delete_member(conn: &mut Conn, id: LogId, user: UserId) -> QueryResult<()> {
    diesel::delete(members::table.find((id.0, user.0))).execute(conn).await.map(|_| ())
}

/// # Errors
/// Of the database.
pub async fn insert_ban(conn: &mut Conn, id: LogId, user: UserId, by: UserId, reason: Option<&str>) -> QueryResult<()> {
    let row = (bans::log_id.eq(id.0), bans::user_id.eq(user.0), bans::banned_by.eq(by.0), bans::reason.eq(reason));
    diesel::insert_into(bans::table).values(row).execute(conn).await.map(|_| ())
}

/// # Errors
/// Of the database.
pub async fn delete_ban(conn: &mut Conn, id: LogId, user: UserId) -> QueryResult<()> {
    diesel::delete(bans::table.find((id.0, user.0))).execute(conn).await.map(|_| ())
}

/// # Errors
/// Of the database.
pub async fn list_member_ids(conn: &mut Conn, id: LogId) -> QueryResult<Vec<UserId>> {
    let ids = members::table.filter(members::log_id.eq(id.0)).order(members::user_id).select(members::user_id);
    Ok(ids.load(conn).await?.into_iter().map(UserId).collect())
}

/// The community of a log that the user is a member of.
///
/// # Errors
/// Of the database.
pub async fn community_of_member(conn: &mut Conn, id: LogId, user: UserId) -> QueryResult<Option<CommunityId>> {
    let found: Option<Option<Uuid>> = members::table
        .inner_join(logs::table.on(logs::id.eq(members::log_id)))
        .filter(members::log_id.eq(id.0).and(members::user_id.eq(user.0)))
        .select(logs::community_id)
        .first(conn)
        .await
        .optional()?;
    Ok(found.flatten().map(CommunityId))
}

/// The end of a domain: nobody is in it any more. Its ops stay.
///
/// # Errors
/// Of the database.
pub async fn disband(conn: &mut Conn, ids: &[Uuid]) -> QueryResult<()> {
    use super::schema::invites;
    diesel::delete(members::table.filter(members::log_id.eq_any(ids))).execute(conn).await?;
    diesel::delete(bans::table.filter(bans::log_id.eq_any(ids))).execute(conn).await?;
    diesel::delete(invites::table.filter(invites::log_id.eq_any(ids))).execute(conn).await.map(|_| ())
}

/// One person in one membership domain, for the decision of a right.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Membership {
    #[diesel(sql_type = Nullable<SmallInt>)]
    role: Option<i16>,
    #[diesel(sql_type = Bool)]
    pub in_community: bool,
    #[diesel(sql_type = Bool)]
    pub banned: bool,
}

impl Membership {
    /// As the log says.
    pub fn log_role(&self) -> Option<Role> {
        self.role.map(super::communities::role)
    }

    /// What counts: only while also a member of the community.
    pub fn role(&self) -> Option<Role> {
        self.log_role().filter(|_| self.in_community)
    }
}

/// # Errors
/// Of the database.
pub async fn membership(conn: &mut Conn, id: LogId, community: CommunityId, user: UserId) -> QueryResult<Membership> {
    diesel::sql_query(
        "SELECT (SELECT m.role FROM members m WHERE m.log_id = $1 AND m.user_id = $3) AS role,
                EXISTS (SELECT 1 FROM members m WHERE m.log_id = $2 AND m.user_id = $3) AS in_community,
                EXISTS (SELECT 1 FROM bans b WHERE b.log_id = $1 AND b.user_id = $3) AS banned",
    )
    .bind::<SqlUuid, _>(id.0)
    .bind::<SqlUuid, _>(community.0)
    .bind::<SqlUuid, _>(user.0)
    .get_result(conn)
    .await
}
