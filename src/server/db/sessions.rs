//! Logins and their refresh tokens. Only SHA-256 of a token is kept.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::auth::Session;
use crate::protocol::ids::{DeviceId, SessionId, UserId};
use crate::protocol::users::InstanceRole;

use super::schema::{devices, refresh_tokens, sessions, users};
use super::sql::sql;
use super::{Conn, QueryResult};

/// A repeat of an exchanged token gets the same successor for so long.
const GRACE: TimeDelta = TimeDelta::seconds(30);

/// A session that is not revoked, with what its user may do now.
#[derive(Clone, Copy, Debug)]
pub struct LiveSession {
    pub id: SessionId,
    pub user_id: UserId,
    pub device_id: Option<DeviceId>,
    pub last_used_at: DateTime<Utc>,
    pub suspended: bool,
    pub role: InstanceRole,
}

/// # Errors
/// Of the database.
pub async fn find_live(conn: &mut Conn, id: SessionId) -> QueryResult<Option<LiveSession>> {
    let row = sessions::table
        .inner_join(users::table.on(users::id.eq(sessions::user_id)))
        .filter(sessions::id.eq(id.0))
        .filter(sessions::revoked_at.is_null())
        .filter(users::deleted_at.is_null())
        .select((
            sessions::user_id,
            sessions::device_id,
            sessions::last_used_at,
            users::suspended_at.is_not_null(),
            users::instance_role,
        ))
        .first::<(Uuid, Option<i32>, DateTime<Utc>, bool, String)>(conn)
        .await
        .optional()?;
    Ok(row.map(|(user, device, last_used_at, suspended, role)| LiveSession {
        id,
        user_id: UserId(user),
        device_id: device.map(i32::unsigned_abs),
        last_used_at,
        suspended,
        role: super::users::instance_role(&role),
    }))
}

/// Notes that a session, and its device, are in use. The device first: that is the order in which a removal takes both.
///
/// # Errors
/// Of the database.
pub async fn touch(conn: &mut Conn, session: &LiveSession) -> QueryResult<()> {
    if let Some(device) = session.device_id {
        let device = devices::table.find((session.user_id.0, device.cast_signed()));
        diesel::update(device).set(devices::last_seen_at.eq(diesel::dsl::now)).execute(conn).await?;
    }
    let session = diesel::update(sessions::table.find(session.id.0)).set(sessions::last_used_at.eq(diesel::dsl::now));
    session.execute(conn).await.map(drop)
}

/// A new login, without a device yet.
///
/// # Errors
/// Of the database.
pub async fn create(conn: &mut Conn, user: UserId, address: &str, user_agent: Option<&str>) -> QueryResult<SessionId> {
    let id = Uuid::now_v7();
    diesel::insert_into(sessions::table)
        .values((
            sessions::id.eq(id),
            sessions::user_id.eq(user.0),
            sessions::ip.eq(address),
            sessions::user_agent.eq(user_agent),
        ))
        .execute(conn)
        .await?;
    Ok(SessionId(id))
}

/// The session is this device's from now on.
///
/// # Errors
/// Of the database.
pub async fn bind_device(conn: &mut Conn, id: SessionId, device: DeviceId) -> QueryResult<()> {
    diesel::update(sessions::table.find(id.0)).set(sessions::device_id.eq(device.cast_signed())).execute(conn).await.map(drop)
}

/// Adds a refresh token to a session.
///
/// # Errors
/// Of the database.
pub async fn add_refresh(conn: &mut Conn, session: SessionId, hash: &[u8], expires_at: DateTime<Utc>) -> QueryResult<()> {
    diesel::insert_into(refresh_tokens::table)
        .values((
            refresh_tokens::token_hash.eq(hash),
            refresh_tokens::session_id.eq(session.0),
            refresh_tokens::expires_at.eq(expires_at),
        ))
        .execute(conn)
        .await
        .map(drop)
}

/// What became of a refresh token that was handed in.
#[derive(Clone, Copy, Debug)]
pub enum Refreshed {
    /// The successor counts, since `rotated_at` and until `expires_at`.
    Rotated { session: LiveSession, rotated_at: DateTime<Utc>, expires_at: DateTime<Utc> },
    /// Somebody used it before and too long ago: one of the two is a thief, so the login ended now.
    Reused { session: SessionId },
    /// Unknown, expired or of a login that has ended.
    Refused,
}

/// Exchanges a token for its successor; both are hashes. In a transaction of its own, which is committed in every case.
///
/// # Errors
/// Of the database.
pub async fn rotate(
    conn: &mut Conn,
    old: &[u8],
    successor: &[u8],
    now: DateTime<Utc>,
    lifetime: TimeDelta,
) -> QueryResult<Refreshed> {
    let found = refresh_tokens::table
        .find(old)
        .select((refresh_tokens::session_id, refresh_tokens::created_at, refresh_tokens::expires_at, refresh_tokens::rotated_at))
        .for_update()
        .first::<(Uuid, DateTime<Utc>, DateTime<Utc>, Option<DateTime<Utc>>)>(conn)
        .await
        .optional()?;
    let Some((session_id, created_at, expires_at, rotated_at)) = found else { return Ok(Refreshed::Refused) };
    let Some(session) = find_live(conn, SessionId(session_id)).await? else { return Ok(Refreshed::Refused) };
    match rotated_at {
        None if expires_at <= now => Ok(Refreshed::Refused),
        None => {
            let expires_at = now + lifetime;
            // A session that became a device has tokens of before: nobody needs them, and whoever uses them is not noticed.
            let before = refresh_tokens::table
                .filter(refresh_tokens::session_id.eq(session_id))
                .filter(refresh_tokens::rotated_at.is_null())
                .filter(refresh_tokens::created_at.lt(created_at));
            diesel::delete(before).execute(conn).await?;
            add_refresh(conn, session.id, successor, expires_at).await?;
            diesel::update(refresh_tokens::table.find(old)).set(refresh_tokens::rotated_at.eq(now)).execute(conn).await?;
            let stale = refresh_tokens::table
                .filter(refresh_tokens::session_id.eq(session_id))
                .filter(refresh_tokens::expires_at.le(now));
            diesel::delete(stale).execute(conn).await?;
            touch(conn, &session).await?;
            Ok(Refreshed::Rotated { session, rotated_at: now, expires_at })
        }
        Some(rotated_at) if now - rotated_at <= GRACE => {
            let expires_at = refresh_tokens::table.find(successor).select(refresh_tokens::expires_at).first(conn).await?;
            Ok(Refreshed::Rotated { session, rotated_at, expires_at })
        }
        Some(_) => {
            revoke(conn, session.user_id, session.id).await?;
            Ok(Refreshed::Reused { session: session.id })
        }
    }
}

/// Ends one login of a user; `false` when there is no such live one.
///
/// # Errors
/// Of the database.
pub async fn revoke(conn: &mut Conn, user: UserId, id: SessionId) -> QueryResult<bool> {
    let live =
        sessions::table.filter(sessions::id.eq(id.0)).filter(sessions::user_id.eq(user.0)).filter(sessions::revoked_at.is_null());
    Ok(diesel::update(live).set(sessions::revoked_at.eq(diesel::dsl::now)).execute(conn).await? > 0)
}

/// Ends all logins of a user but one; answers which ended.
///
/// # Errors
/// Of the database.
pub async fn revoke_others(conn: &mut Conn, user: UserId, keep: Option<SessionId>) -> QueryResult<Vec<SessionId>> {
    let keep = keep.map_or_else(Uuid::nil, |id| id.0);
    let live =
        sessions::table.filter(sessions::user_id.eq(user.0)).filter(sessions::id.ne(keep)).filter(sessions::revoked_at.is_null());
    let ids: Vec<Uuid> =
        diesel::update(live).set(sessions::revoked_at.eq(diesel::dsl::now)).returning(sessions::id).get_results(conn).await?;
    Ok(ids.into_iter().map(SessionId).collect())
}

/// Ends the logins of one device, but for `keep`; answers which ended.
///
/// # Errors
/// Of the database.
pub async fn revoke_device(
    conn: &mut Conn,
    user: UserId,
    device: DeviceId,
    keep: Option<SessionId>,
) -> QueryResult<Vec<SessionId>> {
    let live = sessions::table
        .filter(sessions::user_id.eq(user.0))
        .filter(sessions::id.ne(keep.map_or_else(Uuid::nil, |id| id.0)))
        .filter(sessions::device_id.eq(device.cast_signed()))
        .filter(sessions::revoked_at.is_null());
    let ids: Vec<Uuid> =
        diesel::update(live).set(sessions::revoked_at.eq(diesel::dsl::now)).returning(sessions::id).get_results(conn).await?;
    Ok(ids.into_iter().map(SessionId).collect())
}

/// Ends the oldest of a user's logins, by their last use, so that at most `keep` stay; answers which ended.
///
/// # Errors
/// Of the database.
pub async fn revoke_surplus(conn: &mut Conn, user: UserId, keep: i64) -> QueryResult<Vec<SessionId>> {
    #[derive(QueryableByName)]
    struct Record {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let ended: Vec<Record> = sql("UPDATE sessions SET revoked_at = now() WHERE revoked_at IS NULL AND id IN
         (SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL ORDER BY last_used_at DESC, id DESC OFFSET $2) RETURNING id")
    .bind::<SqlUuid, _>(user.0)
    .bind::<BigInt, _>(keep)
    .load(conn)
    .await?;
    Ok(ended.into_iter().map(|record| SessionId(record.id)).collect())
}

/// The logins that can still be used, newest login first, older than `cursor`.
///
/// # Errors
/// Of the database.
pub async fn list(
    conn: &mut Conn,
    user: UserId,
    current: SessionId,
    cursor: Option<Uuid>,
    limit: i64,
) -> QueryResult<Vec<Session>> {
    type Row = (Uuid, Option<i32>, Option<String>, String, Option<String>, DateTime<Utc>, DateTime<Utc>);
    let usable = refresh_tokens::table
        .filter(refresh_tokens::session_id.eq(sessions::id))
        .filter(refresh_tokens::expires_at.gt(diesel::dsl::now));
    let rows: Vec<Row> = sessions::table
        .left_join(
            devices::table.on(devices::user_id.eq(sessions::user_id).and(sessions::device_id.eq(devices::device_id.nullable()))),
        )
        .filter(sessions::user_id.eq(user.0))
        .filter(sessions::revoked_at.is_null())
        .filter(diesel::dsl::exists(usable))
        .filter(sessions::id.lt(cursor.unwrap_or(Uuid::max())))
        .order(sessions::id.desc())
        .limit(limit)
        .select((
            sessions::id,
            sessions::device_id,
            devices::name.nullable(),
            sessions::ip,
            sessions::user_agent,
            sessions::created_at,
            sessions::last_used_at,
        ))
        .load(conn)
        .await?;
    let session = |(id, device, device_name, ip, user_agent, created_at, last_used_at): Row| Session {
        id: SessionId(id),
        device_id: device.map(i32::unsigned_abs),
        device_name,
        ip,
        user_agent,
        created_at: created_at.into(),
        last_used_at: last_used_at.into(),
        current: SessionId(id) == current,
    };
    Ok(rows.into_iter().map(session).collect())
}
