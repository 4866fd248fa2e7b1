//! Invitations to make an account on this instance. Codes are kept as hashes.

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, sql};
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::auth::RegistrationInvite;
use crate::protocol::ids::{InviteId, UserId};

use super::schema::registration_invites;
use super::{Conn, QueryResult};

#[derive(Queryable, Selectable)]
#[diesel(table_name = registration_invites, check_for_backend(diesel::pg::Pg))]
struct Row {
    id: Uuid,
    max_uses: Option<i32>,
    used_count: i32,
    expires_at: Option<DateTime<Utc>>,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
}

impl From<Row> for RegistrationInvite {
    fn from(row: Row) -> Self {
        Self {
            id: InviteId(row.id),
            code: None,
            max_uses: row.max_uses.map(i32::unsigned_abs),
            used_count: row.used_count.unsigned_abs(),
            expires_at: row.expires_at.map(Into::into),
            created_by: row.created_by.map(UserId),
            created_at: row.created_at.into(),
        }
    }
}

/// # Errors
/// Of the database.
pub async fn insert(
    conn: &mut Conn,
    code_hash: &[u8],
    max_uses: Option<i32>,
    expires_at: Option<DateTime<Utc>>,
    created_by: UserId,
) -> QueryResult<RegistrationInvite> {
    diesel::insert_into(registration_invites::table)
        .values((
            registration_invites::id.eq(Uuid::now_v7()),
            registration_invites::code_hash.eq(code_hash),
            registration_invites::max_uses.eq(max_uses),
            registration_invites::expires_at.eq(expires_at),
            registration_invites::created_by.eq(created_by.0),
        ))
        .returning(Row::as_returning())
        .get_result(conn)
        .await
        .map(Into::into)
}

/// Uses it once; `false` when it is unknown, used up or expired. Two that come at once cannot both take the last use.
///
/// # Errors
/// Of the database.
pub async fn redeem(conn: &mut Conn, code_hash: &[u8]) -> QueryResult<bool> {
    let changed = diesel::update(
        registration_invites::table.filter(registration_invites::code_hash.eq(code_hash)).filter(sql::<Bool>(USABLE)),
    )
    .set(registration_invites::used_count.eq(registration_invites::used_count + 1))
    .execute(conn)
    .await?;
    Ok(changed == 1)
}

/// Whether [`redeem`] would work now.
///
/// # Errors
/// Of the database.
pub async fn is_usable(conn: &mut Conn, code_hash: &[u8]) -> QueryResult<bool> {
    let usable = registration_invites::table.filter(registration_invites::code_hash.eq(code_hash)).filter(sql::<Bool>(USABLE));
    diesel::select(exists(usable.select(registration_invites::id))).get_result(conn).await
}

/// Not used up and not expired.
const USABLE: &str = "(max_uses IS NULL OR used_count < max_uses) AND (expires_at IS NULL OR expires_at > now())";

/// Newest first, after `cursor`.
///
/// # Errors
/// Of the database.
pub async fn list(conn: &mut Conn, before: Option<InviteId>, limit: i64) -> QueryResult<Vec<RegistrationInvite>> {
    let mut query = registration_invites::table.into_boxed();
    if let Some(before) = before {
        query = query.filter(registration_invites::id.lt(before.0));
    }
    let rows: Vec<Row> = query.order(registration_invites::id.desc()).limit(limit).select(Row::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Whether there was one.
///
/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, id: InviteId) -> QueryResult<bool> {
    Ok(diesel::delete(registration_invites::table.find(id.0)).execute(conn).await? > 0)
}
