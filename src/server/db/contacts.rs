//! Contact lists and blocks: each user's own, told to nobody else.

use chrono::{DateTime, Utc};
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::ids::UserId;
use crate::protocol::users::{Contact, User};

use super::schema::{blocks, contacts, users};
use super::users::UserRow;
use super::{Conn, QueryResult};

/// Adds a contact or renames it.
///
/// # Errors
/// Of the database.
pub async fn put(conn: &mut Conn, owner: UserId, contact: &UserRow, display_name: Option<&str>) -> QueryResult<Contact> {
    let created_at: DateTime<Utc> = diesel::insert_into(contacts::table)
        .values((contacts::user_id.eq(owner.0), contacts::contact_id.eq(contact.id), contacts::display_name.eq(display_name)))
        .on_conflict((contacts::user_id, contacts::contact_id))
        .do_update()
        .set(contacts::display_name.eq(display_name))
        .returning(contacts::created_at)
        .get_result(conn)
        .await?;
    Ok(Contact { user: contact.public(), display_name: display_name.map(str::to_owned), created_at: created_at.into() })
}

/// Contacts other than this one.
///
/// # Errors
/// Of the database.
pub async fn count_others(conn: &mut Conn, owner: UserId, contact: UserId) -> QueryResult<i64> {
    let others = contacts::table.filter(contacts::user_id.eq(owner.0)).filter(contacts::contact_id.ne(contact.0));
    others.count().get_result(conn).await
}

/// Whether there was one.
///
/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, owner: UserId, contact: UserId) -> QueryResult<bool> {
    let deleted = diesel::delete(contacts::table.find((owner.0, contact.0))).execute(conn).await?;
    Ok(deleted > 0)
}

/// In the order of the users' ids, after `cursor`.
///
/// # Errors
/// Of the database.
pub async fn list(conn: &mut Conn, owner: UserId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Contact>> {
    let rows: Vec<(UserRow, Option<String>, DateTime<Utc>)> = contacts::table
        .inner_join(users::table.on(users::id.eq(contacts::contact_id)))
        .filter(contacts::user_id.eq(owner.0))
        .filter(contacts::contact_id.gt(cursor.unwrap_or_default()))
        .filter(users::deleted_at.is_null())
        .order(contacts::contact_id)
        .limit(limit)
        .select((UserRow::as_select(), contacts::display_name, contacts::created_at))
        .load(conn)
        .await?;
    let contact = |(user, display_name, at): (UserRow, _, DateTime<Utc>)| Contact {
        user: user.public(),
        display_name,
        created_at: at.into(),
    };
    Ok(rows.into_iter().map(contact).collect())
}

/// # Errors
/// Of the database.
pub async fn block(conn: &mut Conn, owner: UserId, blocked: UserId) -> QueryResult<()> {
    diesel::insert_into(blocks::table)
        .values((blocks::user_id.eq(owner.0), blocks::blocked_id.eq(blocked.0)))
        .on_conflict_do_nothing()
        .execute(conn)
        .await
        .map(drop)
}

/// # Errors
/// Of the database.
pub async fn unblock(conn: &mut Conn, owner: UserId, blocked: UserId) -> QueryResult<()> {
    diesel::delete(blocks::table.find((owner.0, blocked.0))).execute(conn).await.map(drop)
}

/// Users whom this one has blocked, other than `blocked`.
///
/// # Errors
/// Of the database.
pub async fn count_other_blocks(conn: &mut Conn, owner: UserId, blocked: UserId) -> QueryResult<i64> {
    let others = blocks::table.filter(blocks::user_id.eq(owner.0)).filter(blocks::blocked_id.ne(blocked.0));
    others.count().get_result(conn).await
}

/// In the order of the users' ids, after `cursor`.
///
/// # Errors
/// Of the database.
pub async fn list_blocked(conn: &mut Conn, owner: UserId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<User>> {
    let rows: Vec<UserRow> = blocks::table
        .inner_join(users::table.on(users::id.eq(blocks::blocked_id)))
        .filter(blocks::user_id.eq(owner.0))
        .filter(blocks::blocked_id.gt(cursor.unwrap_or_default()))
        .order(blocks::blocked_id)
        .limit(limit)
        .select(UserRow::as_select())
        .load(conn)
        .await?;
    Ok(rows.iter().map(UserRow::public).collect())
}

/// Whether one of the two has blocked the other.
///
/// # Errors
/// Of the database.
pub async fn is_blocked(conn: &mut Conn, a: UserId, b: UserId) -> QueryResult<bool> {
    let either = blocks::table.filter(
        blocks::user_id.eq(a.0).and(blocks::blocked_id.eq(b.0)).or(blocks::user_id.eq(b.0).and(blocks::blocked_id.eq(a.0))),
    );
    diesel::select(exists(either.select(blocks::user_id))).get_result(conn).await
}
