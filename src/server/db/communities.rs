//! Communities: what the server knows of them beside their membership log, as one caller sees them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::communities::{Community as WireCommunity, CommunityPreview, Role};
use crate::protocol::ids::{CommunityId, UserId};

use super::schema::{channels, communities, groups, streams};
use super::{Conn, QueryResult};

/// A community with the heads of its log and stream, and the caller's role in it.
#[derive(Clone, Debug, QueryableByName)]
pub struct Community {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub description: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub accent_color: Option<String>,
    #[diesel(sql_type = Bool)]
    pub discoverable: bool,
    #[diesel(sql_type = Nullable<Text>)]
    pub welcome_message: Option<String>,
    #[diesel(sql_type = SmallInt)]
    pub who_can_create_groups: i16,
    #[diesel(sql_type = SqlUuid)]
    pub owner_id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    pub open: bool,
    #[diesel(sql_type = SmallInt)]
    pub who_can_create_invites: i16,
    #[diesel(sql_type = BigInt)]
    pub log_head_seq: i64,
    #[diesel(sql_type = BigInt)]
    pub stream_head: i64,
    #[diesel(sql_type = BigInt)]
    pub member_count: i64,
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub my_role: Option<i16>,
    #[diesel(sql_type = Bool)]
    pub banned: bool,
}

/// $1 is the caller.
const SEEN: &str = "
    SELECT c.id, c.name, c.description, c.accent_color, c.discoverable, c.welcome_message, c.who_can_create_groups, c.owner_id,
           c.created_at, l.open, l.who_can_create_invites, l.head_seq AS log_head_seq, s.head_seq AS stream_head,
           (SELECT count(*) FROM members n WHERE n.log_id = c.id) AS member_count, me.role AS my_role,
           EXISTS (SELECT 1 FROM bans b WHERE b.log_id = c.id AND b.user_id = $1) AS banned
      FROM communities c
      JOIN logs l ON l.id = c.id
      JOIN streams s ON s.id = c.id
      LEFT JOIN members me ON me.log_id = c.id AND me.user_id = $1
     WHERE c.deleted_at IS NULL";

#[derive(Debug, Insertable)]
#[diesel(table_name = communities)]
pub struct NewCommunity<'a> {
    pub id: Uuid,
    pub name: &'a str,
    pub description: Option<&'a str>,
    pub discoverable: bool,
    pub owner_id: Uuid,
}

/// `None` leaves a column as it is.
#[derive(Debug, Default, AsChangeset)]
#[diesel(table_name = communities)]
pub struct CommunityChanges<'a> {
    pub name: Option<&'a str>,
    pub description: Option<Option<&'a str>>,
    pub accent_color: Option<Option<&'a str>>,
    pub discoverable: Option<bool>,
    pub welcome_message: Option<Option<&'a str>>,
    pub who_can_create_groups: Option<i16>,
}

impl CommunityChanges<'_> {
    pub const fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.description.is_none()
            && self.accent_color.is_none()
            && self.discoverable.is_none()
            && self.welcome_message.is_none()
            && self.who_can_create_groups.is_none()
    }
}

impl Community {
    /// Whatever the caller is to it; none when it does not exist or was deleted.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find(conn: &mut Conn, id: CommunityId, caller: UserId) -> QueryResult<Option<Self>> {
        let query = diesel::sql_query(format!("{SEEN} AND c.id = $2"));
        query.bind::<SqlUuid, _>(caller.0).bind::<SqlUuid, _>(id.0).get_result(conn).await.optional()
    }

    /// The caller's own, in the order of their ids, after `cursor`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list(conn: &mut Conn, caller: UserId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Self>> {
        diesel::sql_query(format!("{SEEN} AND me.role IS NOT NULL AND c.id > $2 ORDER BY c.id LIMIT $3"))
            .bind::<SqlUuid, _>(caller.0)
            .bind::<SqlUuid, _>(cursor.unwrap_or(Uuid::nil()))
            .bind::<BigInt, _>(limit)
            .load(conn)
            .await
    }

    /// Those that want to be found, but for the ones that banned the caller; by id, after `cursor`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn discover(conn: &mut Conn, caller: UserId, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Self>> {
        diesel::sql_query(format!(
            "{SEEN} AND c.discoverable AND NOT EXISTS (SELECT 1 FROM bans b WHERE b.log_id = c.id AND b.user_id = $1)
             AND c.id > $2 ORDER BY c.id LIMIT $3"
        ))
        .bind::<SqlUuid, _>(caller.0)
        .bind::<SqlUuid, _>(cursor.unwrap_or(Uuid::nil()))
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await
    }

    pub fn role(&self) -> Option<Role> {
        self.my_role.map(role)
    }

    /// As the caller sees it.
    pub fn seen(self) -> WireCommunity {
        let (my_role, start_seq) = (self.role(), self.my_role.map(|_| self.stream_head.unsigned_abs()));
        WireCommunity { my_role, start_seq, ..self.told() }
    }

    /// As an event tells it to everybody: without what is the caller's.
    pub fn told(self) -> WireCommunity {
        WireCommunity {
            id: CommunityId(self.id),
            name: self.name,
            description: self.description,
            accent_color: self.accent_color,
            icon_url: None,
            banner_url: None,
            discoverable: self.discoverable,
            open: self.open,
            welcome_message: self.welcome_message,
            who_can_create_groups: role(self.who_can_create_groups),
            who_can_create_invites: role(self.who_can_create_invites),
            owner_id: UserId(self.owner_id),
            my_role: None,
            member_count: u32::try_from(self.member_count).unwrap_or(u32::MAX),
            log_head_seq: self.log_head_seq.unsigned_abs(),
            start_seq: None,
            created_at: self.created_at.into(),
        }
    }

    /// What the holder of an invite sees.
    pub fn preview(&self) -> CommunityPreview {
        CommunityPreview {
            id: CommunityId(self.id),
            name: self.name.clone(),
            description: self.description.clone(),
            icon_url: None,
            member_count: u32::try_from(self.member_count).unwrap_or(u32::MAX),
        }
    }
}

impl NewCommunity<'_> {
    /// # Errors
    /// Of the database.
    pub async fn insert(&self, conn: &mut Conn) -> QueryResult<()> {
        diesel::insert_into(communities::table).values(self).execute(conn).await.map(|_| ())
    }
}

/// # Errors
/// Of the database.
pub async fn update(conn: &mut Conn, id: CommunityId, changes: &CommunityChanges<'_>) -> QueryResult<()> {
    if changes.is_empty() {
        return Ok(());
    }
    diesel::update(communities::table.find(id.0)).set(changes).execute(conn).await.map(|_| ())
}

/// # Errors
/// Of the database.
pub async fn set_owner(conn: &mut Conn, id: CommunityId, owner: UserId) -> QueryResult<()> {
    diesel::update(communities::table.find(id.0)).set(communities::owner_id.eq(owner.0)).execute(conn).await.map(|_| ())
}

/// Marks the community, its groups and its channels as deleted. Their logs stay, for ever; see [`super::logs::disband`].
///
/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, id: CommunityId) -> QueryResult<()> {
    let now = diesel::dsl::now;
    diesel::update(channels::table.filter(channels::community_id.eq(id.0).and(channels::deleted_at.is_null())))
        .set(channels::deleted_at.eq(now))
        .execute(conn)
        .await?;
    diesel::update(groups::table.filter(groups::community_id.eq(id.0).and(groups::deleted_at.is_null())))
        .set(groups::deleted_at.eq(now))
        .execute(conn)
        .await?;
    diesel::update(communities::table.find(id.0)).set(communities::deleted_at.eq(now)).execute(conn).await.map(|_| ())
}

/// All membership logs of a community, its own among them, locked for an end; ascending.
///
/// # Errors
/// Of the database.
pub async fn lock_logs(conn: &mut Conn, id: CommunityId) -> QueryResult<Vec<Uuid>> {
    use super::schema::logs;
    logs::table.filter(logs::community_id.eq(id.0)).order(logs::id).select(logs::id).for_update().load(conn).await
}

/// Takes an id for a stream. `false`: it is taken.
///
/// # Errors
/// Of the database.
pub async fn insert_stream(conn: &mut Conn, id: Uuid) -> QueryResult<bool> {
    let row = streams::id.eq(id);
    let inserted = diesel::insert_into(streams::table).values(row).on_conflict_do_nothing().execute(conn).await?;
    Ok(inserted == 1)
}

#[derive(QueryableByName)]
struct Taken {
    #[diesel(sql_type = Bool)]
    taken: bool,
}

/// Whether anything at all has this id: ids of communities, groups, channels and users are streams and logs of one space.
///
/// # Errors
/// Of the database.
pub async fn is_taken(conn: &mut Conn, id: Uuid) -> QueryResult<bool> {
    let found: Taken = diesel::sql_query(
        "SELECT EXISTS (SELECT 1 FROM users WHERE id = $1) OR EXISTS (SELECT 1 FROM communities WHERE id = $1)
             OR EXISTS (SELECT 1 FROM groups WHERE id = $1) OR EXISTS (SELECT 1 FROM channels WHERE id = $1)
             OR EXISTS (SELECT 1 FROM logs WHERE id = $1) OR EXISTS (SELECT 1 FROM streams WHERE id = $1) AS taken",
    )
    .bind::<SqlUuid, _>(id)
    .get_result(conn)
    .await?;
    Ok(found.taken)
}

/// From a column that a CHECK or a verified log bounds.
pub fn role(number: i16) -> Role {
    u8::try_from(number).ok().and_then(Role::from_u8).unwrap_or_default()
}
