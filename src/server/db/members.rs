//! Members and bans of a membership domain as people: the rows with their profiles.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::communities::{Ban, Member, Role};
use crate::protocol::ids::{LogId, UserId};

use super::schema::{bans, members, users};
use super::users::UserRow;
use super::{Conn, QueryResult};

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = members, check_for_backend(diesel::pg::Pg))]
struct MemberRow {
    role: i16,
    nickname: Option<String>,
    joined_at: DateTime<Utc>,
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = bans, check_for_backend(diesel::pg::Pg))]
struct BanRow {
    reason: Option<String>,
    banned_by: Option<Uuid>,
    created_at: DateTime<Utc>,
}

/// Members in the order of their ids, after `cursor`.
///
/// # Errors
/// Of the database.
pub async fn list(conn: &mut Conn, log: LogId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Member>> {
    let rows: Vec<(MemberRow, UserRow)> = members::table
        .inner_join(users::table.on(users::id.eq(members::user_id)))
        .filter(members::log_id.eq(log.0).and(members::user_id.gt(cursor.unwrap_or(Uuid::nil()))))
        .order(members::user_id)
        .limit(limit)
        .select((MemberRow::as_select(), UserRow::as_select()))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(member).collect())
}

/// # Errors
/// Of the database.
pub async fn find(conn: &mut Conn, log: LogId, user: UserId) -> QueryResult<Option<Member>> {
    let row: Option<(MemberRow, UserRow)> = members::table
        .inner_join(users::table.on(users::id.eq(members::user_id)))
        .filter(members::log_id.eq(log.0).and(members::user_id.eq(user.0)))
        .select((MemberRow::as_select(), UserRow::as_select()))
        .first(conn)
        .await
        .optional()?;
    Ok(row.map(member))
}

/// A user as a member of each log that they belong to.
///
/// # Errors
/// Of the database.
pub async fn of_user(conn: &mut Conn, user: &UserRow) -> QueryResult<Vec<(LogId, Member)>> {
    let rows: Vec<(Uuid, MemberRow)> = members::table
        .filter(members::user_id.eq(user.id))
        .order(members::log_id)
        .select((members::log_id, MemberRow::as_select()))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|(log, row)| (LogId(log), member((row, user.clone())))).collect())
}

/// # Errors
/// Of the database.
pub async fn set_nickname(conn: &mut Conn, log: LogId, user: UserId, nickname: Option<&str>) -> QueryResult<()> {
    diesel::update(members::table.find((log.0, user.0))).set(members::nickname.eq(nickname)).execute(conn).await.map(|_| ())
}

/// Bans in the order of the ids of who is banned, after `cursor`.
///
/// # Errors
/// Of the database.
pub async fn list_bans(conn: &mut Conn, log: LogId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Ban>> {
    let rows: Vec<(BanRow, UserRow)> = bans::table
        .inner_join(users::table.on(users::id.eq(bans::user_id)))
        .filter(bans::log_id.eq(log.0).and(bans::user_id.gt(cursor.unwrap_or(Uuid::nil()))))
        .order(bans::user_id)
        .limit(limit)
        .select((BanRow::as_select(), UserRow::as_select()))
        .load(conn)
        .await?;
    let ban = |(row, user): (BanRow, UserRow)| Ban {
        user: user.public(),
        reason: row.reason,
        banned_by: row.banned_by.map(UserId),
        created_at: row.created_at.into(),
    };
    Ok(rows.into_iter().map(ban).collect())
}

fn member((row, user): (MemberRow, UserRow)) -> Member {
    Member {
        user: user.public(),
        role: u8::try_from(row.role).ok().and_then(Role::from_u8).unwrap_or_default(),
        role_ids: Vec::new(),
        nickname: row.nickname,
        joined_at: row.joined_at.into(),
    }
}
