//! Logins and their refresh tokens.

use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods as _, JoinOnDsl as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use crate::protocol::ids::{DeviceId, SessionId, UserId};
use crate::protocol::users::InstanceRole;

use super::schema::{devices, sessions, users};
use super::{Conn, QueryResult};

/// A session that is not revoked, with what its user may do now.
#[derive(Clone, Copy, Debug)]
pub struct LiveSession {
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
        user_id: UserId(user),
        device_id: device.map(i32::unsigned_abs),
        last_used_at,
        suspended,
        role: super::users::instance_role(&role),
    }))
}

/// Notes that a session, and its device, are in use.
///
/// # Errors
/// Of the database.
pub async fn touch(conn: &mut Conn, id: SessionId) -> QueryResult<()> {
    let session = diesel::update(sessions::table.find(id.0))
        .set(sessions::last_used_at.eq(diesel::dsl::now))
        .returning((sessions::user_id, sessions::device_id))
        .get_result::<(Uuid, Option<i32>)>(conn)
        .await
        .optional()?;
    if let Some((user, Some(device))) = session {
        diesel::update(devices::table.find((user, device))).set(devices::last_seen_at.eq(diesel::dsl::now)).execute(conn).await?;
    }
    Ok(())
}
