//! Groups of channels: public ones are folders of their community, private ones have a membership log of their own.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::communities::{Group as WireGroup, Visibility};
use crate::protocol::ids::{CommunityId, GroupId, UserId};

use super::communities::role;
use super::schema::{channels, groups};
use super::{Conn, QueryResult};

/// A group with what the caller is in it.
#[derive(Clone, Debug, QueryableByName)]
pub struct Group {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub community_id: Uuid,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub description: Option<String>,
    #[diesel(sql_type = Bool)]
    pub private: bool,
    #[diesel(sql_type = Integer)]
    pub position: i32,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    /// Of the private group's own log.
    #[diesel(sql_type = Bool)]
    pub open: bool,
    /// In the log that the group's channels are attached to.
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub my_role: Option<i16>,
    /// In the community; nobody else sees anything of the group.
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub community_role: Option<i16>,
}

/// $1 is the caller. A deleted community has no members, so its groups are seen by nobody.
const SEEN: &str = "
    SELECT g.id, g.community_id, g.name, g.description, g.visibility = 'private' AS private, g.position, g.created_at,
           coalesce(l.open, false) AS open, cm.role AS community_role,
           CASE WHEN g.visibility = 'public' THEN cm.role WHEN cm.role IS NOT NULL THEN own.role END AS my_role
      FROM groups g
      LEFT JOIN logs l ON l.id = g.id
      LEFT JOIN members cm ON cm.log_id = g.community_id AND cm.user_id = $1
      LEFT JOIN members own ON own.log_id = g.id AND own.user_id = $1
     WHERE g.deleted_at IS NULL";

#[derive(Debug, Insertable)]
#[diesel(table_name = groups)]
pub struct NewGroup<'a> {
    pub id: Uuid,
    pub community_id: Uuid,
    pub name: &'a str,
    pub description: Option<&'a str>,
    pub visibility: &'static str,
    pub position: i32,
}

/// `None` leaves a column as it is.
#[derive(Debug, Default, AsChangeset)]
#[diesel(table_name = groups)]
pub struct GroupChanges<'a> {
    pub name: Option<&'a str>,
    pub description: Option<Option<&'a str>>,
    pub position: Option<i32>,
}

impl GroupChanges<'_> {
    pub const fn is_empty(&self) -> bool {
        self.name.is_none() && self.description.is_none() && self.position.is_none()
    }
}

impl Group {
    /// Whatever the caller is to it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find(conn: &mut Conn, id: GroupId, caller: UserId) -> QueryResult<Option<Self>> {
        let query = diesel::sql_query(format!("{SEEN} AND g.id = $2"));
        query.bind::<SqlUuid, _>(caller.0).bind::<SqlUuid, _>(id.0).get_result(conn).await.optional()
    }

    /// Those of a community that the caller may see, in the order of their ids, after `cursor`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list(
        conn: &mut Conn,
        community: CommunityId,
        caller: UserId,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> QueryResult<Vec<Self>> {
        diesel::sql_query(format!(
            "{SEEN} AND g.community_id = $2 AND g.id > $3 AND cm.role IS NOT NULL
             AND (g.visibility = 'public' OR own.role IS NOT NULL OR l.open) ORDER BY g.id LIMIT $4"
        ))
        .bind::<SqlUuid, _>(caller.0)
        .bind::<SqlUuid, _>(community.0)
        .bind::<SqlUuid, _>(cursor.unwrap_or(Uuid::nil()))
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await
    }

    /// Public to the community, or the caller's own, or open to join.
    pub const fn is_visible(&self) -> bool {
        self.community_role.is_some() && (!self.private || self.my_role.is_some() || self.open)
    }

    /// As the caller sees it.
    pub fn seen(self) -> WireGroup {
        let my_role = self.my_role.map(role);
        WireGroup { my_role, ..self.told() }
    }

    /// As an event tells it to everybody.
    pub fn told(self) -> WireGroup {
        WireGroup {
            id: GroupId(self.id),
            community_id: CommunityId(self.community_id),
            name: self.name,
            description: self.description,
            visibility: if self.private { Visibility::Private } else { Visibility::Public },
            position: self.position,
            my_role: None,
            created_at: self.created_at.into(),
        }
    }
}

impl NewGroup<'_> {
    /// `false`: the id is taken.
    ///
    /// # Errors
    /// Of the database.
    pub async fn insert(&self, conn: &mut Conn) -> QueryResult<bool> {
        Ok(diesel::insert_into(groups::table).values(self).on_conflict_do_nothing().execute(conn).await? == 1)
    }
}

/// # Errors
/// Of the database.
pub async fn update(conn: &mut Conn, id: GroupId, changes: &GroupChanges<'_>) -> QueryResult<()> {
    if changes.is_empty() {
        return Ok(());
    }
    diesel::update(groups::table.find(id.0)).set(changes).execute(conn).await?;
    Ok(())
}

/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, id: GroupId) -> QueryResult<()> {
    diesel::update(groups::table.find(id.0)).set(groups::deleted_at.eq(diesel::dsl::now)).execute(conn).await?;
    Ok(())
}

/// Groups of a community that live.
///
/// # Errors
/// Of the database.
pub async fn count(conn: &mut Conn, community: CommunityId) -> QueryResult<i64> {
    groups::table.filter(groups::community_id.eq(community.0).and(groups::deleted_at.is_null())).count().get_result(conn).await
}

/// Channels of a group that live.
///
/// # Errors
/// Of the database.
pub async fn count_channels(conn: &mut Conn, group: GroupId) -> QueryResult<i64> {
    channels::table.filter(channels::group_id.eq(group.0).and(channels::deleted_at.is_null())).count().get_result(conn).await
}
