//! Invitations: the server's half, a code that finds the log and the public key that a join must be signed under.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::communities::Invite as WireInvite;
use crate::protocol::ids::{InviteId, LogId, UserId};

use super::schema::invites;
use super::{Conn, QueryResult};

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = invites, check_for_backend(diesel::pg::Pg))]
pub struct Invite {
    pub id: Uuid,
    pub log_id: Uuid,
    pub code: String,
    pub public_key: Vec<u8>,
    pub max_uses: Option<i64>,
    pub used_count: i64,
    pub expires_at: Option<DateTime<Utc>>,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
}

impl Invite {
    /// # Errors
    /// Of the database.
    pub async fn insert(&self, conn: &mut Conn) -> QueryResult<()> {
        diesel::insert_into(invites::table).values(self).execute(conn).await.map(|_| ())
    }

    /// # Errors
    /// Of the database.
    pub async fn find(conn: &mut Conn, log: LogId, id: InviteId) -> QueryResult<Option<Self>> {
        let found = invites::table.find(id.0).filter(invites::log_id.eq(log.0));
        found.select(Self::as_select()).first(conn).await.optional()
    }

    /// # Errors
    /// Of the database.
    pub async fn find_by_code(conn: &mut Conn, code: &str) -> QueryResult<Option<Self>> {
        // PostgreSQL has no NUL in text, so no code has one.
        let code = if code.contains('\0') { "" } else { code };
        invites::table.filter(invites::code.eq(code)).select(Self::as_select()).first(conn).await.optional()
    }

    /// # Errors
    /// Of the database.
    pub async fn find_by_key(conn: &mut Conn, log: LogId, key: &[u8]) -> QueryResult<Option<Self>> {
        let found = invites::table.filter(invites::log_id.eq(log.0).and(invites::public_key.eq(key)));
        found.select(Self::as_select()).first(conn).await.optional()
    }

    /// In the order of their ids, which is the order of their making, after `cursor`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list(conn: &mut Conn, log: LogId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Self>> {
        invites::table
            .filter(invites::log_id.eq(log.0).and(invites::id.gt(cursor.unwrap_or(Uuid::nil()))))
            .order(invites::id)
            .limit(limit)
            .select(Self::as_select())
            .load(conn)
            .await
    }

    /// # Errors
    /// Of the database.
    pub async fn count_use(conn: &mut Conn, log: LogId, key: &[u8]) -> QueryResult<()> {
        diesel::update(invites::table.filter(invites::log_id.eq(log.0).and(invites::public_key.eq(key))))
            .set(invites::used_count.eq(invites::used_count + 1))
            .execute(conn)
            .await
            .map(|_| ())
    }

    /// # Errors
    /// Of the database.
    pub async fn delete_by_key(conn: &mut Conn, log: LogId, key: &[u8]) -> QueryResult<()> {
        diesel::delete(invites::table.filter(invites::log_id.eq(log.0).and(invites::public_key.eq(key))))
            .execute(conn)
            .await
            .map(|_| ())
    }
}

impl From<Invite> for WireInvite {
    fn from(row: Invite) -> Self {
        Self {
            id: InviteId(row.id),
            code: row.code,
            public_key: row.public_key.into(),
            max_uses: row.max_uses.and_then(|uses| u32::try_from(uses).ok()),
            used_count: u32::try_from(row.used_count).unwrap_or(u32::MAX),
            expires_at: row.expires_at.map(Into::into),
            created_by: UserId(row.created_by),
            created_at: row.created_at.into(),
        }
    }
}
