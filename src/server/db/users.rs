//! Accounts: who they are, how they log in, who knows whom.

use chrono::{DateTime, Utc};
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::ids::{StreamId, UserId};
use crate::protocol::users::{InstanceRole, Status, UpdateProfile, User};

use super::schema::{blocks, contacts, instance, members, users};
use super::{Conn, QueryResult};

/// What an account shows.
#[derive(Clone, Debug, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = users, check_for_backend(diesel::pg::Pg))]
pub struct UserRow {
    pub id: Uuid,
    pub username: String,
    pub display_name: Option<String>,
    pub bio: Option<String>,
    pub pronouns: Option<String>,
    pub custom_status: Option<String>,
    pub status: String,
    pub instance_role: String,
    pub suspended_at: Option<DateTime<Utc>>,
    pub deleted_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

impl UserRow {
    /// As the account itself sees it.
    pub fn own(&self) -> User {
        User {
            id: UserId(self.id),
            username: self.username.clone(),
            display_name: self.display_name.clone(),
            avatar_url: None,
            bio: self.bio.clone(),
            pronouns: self.pronouns.clone(),
            custom_status: self.custom_status.clone(),
            status: status(&self.status),
            instance_role: instance_role(&self.instance_role),
            created_at: self.created_at.into(),
        }
    }

    /// As everybody else sees it: who is invisible looks offline.
    pub fn public(&self) -> User {
        let own = self.own();
        let status = if own.status == Status::Invisible { Status::Offline } else { own.status };
        User { status, ..own }
    }
}

/// From the column.
pub fn instance_role(text: &str) -> InstanceRole {
    match text {
        "owner" => InstanceRole::Owner,
        "admin" => InstanceRole::Admin,
        _ => InstanceRole::User,
    }
}

const fn instance_role_text(role: InstanceRole) -> &'static str {
    match role {
        InstanceRole::Owner => "owner",
        InstanceRole::Admin => "admin",
        InstanceRole::User => "user",
    }
}

fn status(text: &str) -> Status {
    match text {
        "online" => Status::Online,
        "idle" => Status::Idle,
        "dnd" => Status::Dnd,
        "invisible" => Status::Invisible,
        _ => Status::Offline,
    }
}

const fn status_text(status: Status) -> &'static str {
    match status {
        Status::Online => "online",
        Status::Idle => "idle",
        Status::Dnd => "dnd",
        Status::Invisible => "invisible",
        Status::Offline => "offline",
    }
}

/// A new account.
#[derive(Debug, Insertable)]
#[diesel(table_name = users)]
pub struct NewUser<'a> {
    pub id: Uuid,
    pub username: &'a str,
    pub username_skeleton: &'a str,
    pub display_name: Option<&'a str>,
    pub email: Option<&'a str>,
    pub password_hash: &'a str,
    pub recovery_hash: &'a [u8],
    pub instance_role: &'static str,
}

impl<'a> NewUser<'a> {
    #[must_use]
    pub const fn with_role(self, role: InstanceRole) -> NewUser<'a> {
        NewUser { instance_role: instance_role_text(role), ..self }
    }

    /// With the account's own stream. `None` when a name that looks the same is taken.
    ///
    /// # Errors
    /// Of the database.
    pub async fn insert(&self, conn: &mut Conn) -> QueryResult<Option<UserRow>> {
        super::streams::create(conn, StreamId(self.id)).await?;
        diesel::insert_into(users::table)
            .values(self)
            .on_conflict_do_nothing()
            .returning(UserRow::as_returning())
            .get_result(conn)
            .await
            .optional()
    }
}

/// Whether the next account is the first one. Then nobody else gets past this point until the transaction ends, so that
/// exactly one becomes the owner.
///
/// # Errors
/// Of the database.
pub async fn is_first(conn: &mut Conn) -> QueryResult<bool> {
    if any(conn).await? {
        return Ok(false);
    }
    instance::table.select(instance::id).for_update().first::<bool>(conn).await?;
    Ok(!any(conn).await?)
}

/// # Errors
/// Of the database.
pub async fn any(conn: &mut Conn) -> QueryResult<bool> {
    diesel::select(exists(users::table.select(users::id))).get_result(conn).await
}

/// # Errors
/// Of the database.
pub async fn find(conn: &mut Conn, id: UserId) -> QueryResult<Option<UserRow>> {
    users::table.find(id.0).filter(users::deleted_at.is_null()).select(UserRow::as_select()).first(conn).await.optional()
}

/// The ones that exist, deleted ones too: their messages stay.
///
/// # Errors
/// Of the database.
pub async fn list(conn: &mut Conn, ids: &[UserId]) -> QueryResult<Vec<UserRow>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    users::table.filter(users::id.eq_any(ids)).select(UserRow::as_select()).load(conn).await
}

/// What a login needs.
#[derive(Debug, QueryableByName)]
pub struct Credentials {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub password_hash: String,
    #[diesel(sql_type = Nullable<diesel::sql_types::Bytea>)]
    pub recovery_hash: Option<Vec<u8>>,
    #[diesel(sql_type = Bool)]
    pub suspended: bool,
    /// The account was used from this address before.
    #[diesel(sql_type = Bool)]
    pub known_address: bool,
}

/// By username; one query, found or not.
///
/// # Errors
/// Of the database.
pub async fn credentials(conn: &mut Conn, username: &str, address: &str) -> QueryResult<Option<Credentials>> {
    // PostgreSQL has no NUL in text, so nobody is called that.
    let username = if username.contains('\0') { "" } else { username };
    diesel::sql_query(
        "SELECT u.id, u.password_hash, u.recovery_hash, u.suspended_at IS NOT NULL AS suspended,
                EXISTS (SELECT FROM sessions s WHERE s.user_id = u.id AND s.ip = $2) AS known_address
         FROM users u WHERE u.username = $1 AND u.deleted_at IS NULL",
    )
    .bind::<Text, _>(username)
    .bind::<Text, _>(address)
    .get_result(conn)
    .await
    .optional()
}

/// The PHC string of an account.
///
/// # Errors
/// Of the database.
pub async fn password_hash(conn: &mut Conn, id: UserId) -> QueryResult<String> {
    users::table.find(id.0).select(users::password_hash).first(conn).await
}

/// The account, if it still has the password that was verified. Until the transaction ends nobody changes the password: what
/// was verified before stays true, and a change sees what this transaction did.
///
/// # Errors
/// Of the database.
pub async fn find_with_password(conn: &mut Conn, id: UserId, verified: &str) -> QueryResult<Option<UserRow>> {
    let account = users::table.find(id.0).filter(users::deleted_at.is_null()).filter(users::password_hash.eq(verified));
    account.select(UserRow::as_select()).for_share().first(conn).await.optional()
}

/// # Errors
/// Of the database.
pub async fn set_password(conn: &mut Conn, id: UserId, phc: &str) -> QueryResult<()> {
    diesel::update(users::table.find(id.0)).set(users::password_hash.eq(phc)).execute(conn).await.map(drop)
}

/// # Errors
/// Of the database.
pub async fn set_recovery(conn: &mut Conn, id: UserId, hash: &[u8]) -> QueryResult<()> {
    diesel::update(users::table.find(id.0)).set(users::recovery_hash.eq(hash)).execute(conn).await.map(drop)
}

/// Replaces the recovery code and the password, if the code is still this one: a code works once.
///
/// # Errors
/// Of the database.
pub async fn recover(conn: &mut Conn, id: UserId, old: &[u8], new: &[u8], phc: &str) -> QueryResult<bool> {
    let changed = diesel::update(users::table.find(id.0).filter(users::recovery_hash.eq(old)))
        .set((users::recovery_hash.eq(new), users::password_hash.eq(phc)))
        .execute(conn)
        .await?;
    Ok(changed == 1)
}

/// Absent fields stay, empty texts are cleared.
///
/// # Errors
/// Of the database.
pub async fn update_profile(conn: &mut Conn, id: UserId, change: &UpdateProfile) -> QueryResult<UserRow> {
    #[derive(AsChangeset)]
    #[diesel(table_name = users)]
    struct Change<'a> {
        display_name: Option<Option<&'a str>>,
        bio: Option<Option<&'a str>>,
        pronouns: Option<Option<&'a str>>,
        custom_status: Option<Option<&'a str>>,
        status: Option<&'static str>,
    }
    fn text(value: &Option<String>) -> Option<Option<&str>> {
        value.as_deref().map(|text| Some(text).filter(|text| !text.is_empty()))
    }
    let changes = Change {
        display_name: text(&change.display_name),
        bio: text(&change.bio),
        pronouns: text(&change.pronouns),
        custom_status: text(&change.custom_status),
        status: change.status.map(status_text),
    };
    if *change != UpdateProfile::default() {
        diesel::update(users::table.find(id.0)).set(&changes).execute(conn).await?;
    }
    users::table.find(id.0).select(UserRow::as_select()).first(conn).await
}

/// The logs that a user is a member of.
///
/// # Errors
/// Of the database.
pub async fn memberships(conn: &mut Conn, id: UserId) -> QueryResult<Vec<Uuid>> {
    members::table.filter(members::user_id.eq(id.0)).order(members::log_id).select(members::log_id).load(conn).await
}

/// What the account said about itself goes; its name stays taken, so that nobody becomes who it was, and its certificates
/// and lists stay, so that what it signed can be verified.
///
/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, id: UserId) -> QueryResult<()> {
    let none: Option<&str> = None;
    diesel::update(users::table.find(id.0))
        .set((
            users::deleted_at.eq(diesel::dsl::now),
            users::display_name.eq(none),
            users::email.eq(none),
            users::bio.eq(none),
            users::pronouns.eq(none),
            users::custom_status.eq(none),
            users::password_hash.eq(""),
            users::recovery_hash.eq(None::<Vec<u8>>),
            users::preferences.eq(serde_json::json!({})),
        ))
        .execute(conn)
        .await?;
    diesel::delete(contacts::table.filter(contacts::user_id.eq(id.0).or(contacts::contact_id.eq(id.0)))).execute(conn).await?;
    diesel::delete(blocks::table.filter(blocks::user_id.eq(id.0).or(blocks::blocked_id.eq(id.0)))).execute(conn).await.map(drop)
}

/// # Errors
/// Of the database.
pub async fn preferences(conn: &mut Conn, id: UserId) -> QueryResult<serde_json::Value> {
    users::table.find(id.0).select(users::preferences).first(conn).await
}

/// # Errors
/// Of the database.
pub async fn set_preferences(conn: &mut Conn, id: UserId, value: &serde_json::Value) -> QueryResult<()> {
    diesel::update(users::table.find(id.0)).set(users::preferences.eq(value)).execute(conn).await.map(drop)
}

/// Everybody whom `$1` shares a log or a DM with, without `$1`: who hears of their devices and may ask for their keys.
const ACQUAINTANCES: &str =
    "SELECT b.user_id AS id FROM members a JOIN members b ON b.log_id = a.log_id WHERE a.user_id = $1 AND b.user_id <> $1
     UNION SELECT dm_high FROM channels WHERE dm_low = $1 AND dm_high <> $1
     UNION SELECT dm_low FROM channels WHERE dm_high = $1 AND dm_low <> $1";

/// # Errors
/// Of the database.
pub async fn acquaintances(conn: &mut Conn, id: UserId) -> QueryResult<Vec<UserId>> {
    #[derive(QueryableByName)]
    struct Id {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let rows: Vec<Id> = diesel::sql_query(ACQUAINTANCES).bind::<SqlUuid, _>(id.0).load(conn).await?;
    Ok(rows.into_iter().map(|row| UserId(row.id)).collect())
}

/// Those of `others` whom a user may write to by device: the user, a shared log or DM, or who has the user as a contact.
///
/// # Errors
/// Of the database.
pub async fn reachable(conn: &mut Conn, id: UserId, others: &[UserId]) -> QueryResult<Vec<UserId>> {
    #[derive(QueryableByName)]
    struct Id {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let others: Vec<Uuid> = others.iter().map(|id| id.0).collect();
    let query = format!(
        "SELECT id FROM (SELECT $1 AS id UNION {ACQUAINTANCES} UNION SELECT user_id FROM contacts WHERE contact_id = $1) near
         WHERE id = ANY($2) AND EXISTS (SELECT FROM users u WHERE u.id = near.id)"
    );
    let rows: Vec<Id> = diesel::sql_query(query).bind::<SqlUuid, _>(id.0).bind::<Array<SqlUuid>, _>(others).load(conn).await?;
    Ok(rows.into_iter().map(|row| UserId(row.id)).collect())
}

/// People who share a community with the caller and whose name starts with the text, and whoever has exactly this username.
/// Ordered by username, after `cursor`.
///
/// # Errors
/// Of the database.
pub async fn search(conn: &mut Conn, id: UserId, text: &str, cursor: &str, limit: i64) -> QueryResult<Vec<UserRow>> {
    // Backslash, % and _ are letters of the search, not of LIKE.
    let pattern: String =
        text.to_lowercase().chars().flat_map(|c| matches!(c, '\\' | '%' | '_').then_some('\\').into_iter().chain([c])).collect();
    diesel::sql_query(format!(
        "SELECT u.* FROM users u WHERE u.deleted_at IS NULL AND u.username > $4
         AND (u.username = $2 OR (u.id IN ({ACQUAINTANCES}) AND (u.username LIKE $3 OR lower(u.display_name) LIKE $3)))
         ORDER BY u.username LIMIT $5"
    ))
    .bind::<SqlUuid, _>(id.0)
    .bind::<Text, _>(text)
    .bind::<Text, _>(format!("{pattern}%"))
    .bind::<Text, _>(cursor)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await
}
