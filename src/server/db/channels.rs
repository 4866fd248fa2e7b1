//! Channels and direct messages as places, as one caller sees them, and the caller's own settings in them.
//!
//! Who may read a channel is the view `channel_readers`, and nothing else.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::protocol::channels::{Channel as WireChannel, ChannelKind, ChannelSettings};
use crate::protocol::communities::{Member, Role};
use crate::protocol::ids::{ChannelId, CommunityId, DeviceId, GroupId, LogId, UserId};
use crate::protocol::users::User as WireUser;

use super::schema::{channel_heads, channel_states, channels, users};
use super::users::UserRow;
use super::{Conn, QueryResult};

/// A channel with its head and what the caller is in it.
#[derive(Clone, Debug, QueryableByName)]
pub struct Channel {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub community_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub group_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub log_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    pub name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub topic: Option<String>,
    #[diesel(sql_type = Bool)]
    pub read_only: bool,
    #[diesel(sql_type = Integer)]
    pub slow_mode_s: i32,
    #[diesel(sql_type = Bool)]
    pub archived: bool,
    #[diesel(sql_type = Nullable<Integer>)]
    pub message_ttl_s: Option<i32>,
    #[diesel(sql_type = Integer)]
    pub position: i32,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    #[diesel(sql_type = BigInt)]
    pub head_seq: i64,
    #[diesel(sql_type = BigInt)]
    pub read_seq: i64,
    #[diesel(sql_type = BigInt)]
    pub start_seq: i64,
    #[diesel(sql_type = SmallInt)]
    pub my_role: i16,
    /// The other one of a DM; oneself in notes to oneself.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub peer_id: Option<Uuid>,
}

/// $1 is the caller, $2 its device (null for a session without one).
const SEEN: &str = "
    SELECT c.id, c.kind, c.community_id, c.group_id, c.log_id, c.name, c.topic, c.read_only, c.slow_mode_s, c.archived,
           c.message_ttl_s, c.position, c.created_at, h.head_seq, coalesce(s.read_seq, 0) AS read_seq,
           channel_start_seq(c.id, h.head_seq, r.joined_seq, d.created_at) AS start_seq, r.role AS my_role,
           CASE WHEN c.dm_low = $1 THEN c.dm_high ELSE c.dm_low END AS peer_id
      FROM channel_readers r
      JOIN channels c ON c.id = r.channel_id
      JOIN channel_heads h ON h.channel_id = c.id
      LEFT JOIN channel_states s ON s.channel_id = c.id AND s.user_id = $1
      LEFT JOIN devices d ON d.user_id = $1 AND d.device_id = $2
     WHERE r.user_id = $1";

/// Who is looking: the user, and the device when the session has one.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    pub user_id: UserId,
    pub device_id: Option<DeviceId>,
}

impl Reader {
    fn device(self) -> Option<i32> {
        self.device_id.and_then(|id| i32::try_from(id).ok())
    }
}

#[derive(Debug, Insertable)]
#[diesel(table_name = channels)]
pub struct NewChannel<'a> {
    pub id: Uuid,
    pub kind: &'static str,
    pub community_id: Option<Uuid>,
    pub group_id: Option<Uuid>,
    pub log_id: Option<Uuid>,
    pub name: Option<&'a str>,
    pub topic: Option<&'a str>,
    pub position: i32,
    pub dm_low: Option<Uuid>,
    pub dm_high: Option<Uuid>,
}

/// `None` leaves a column as it is.
#[derive(Debug, Default, AsChangeset)]
#[diesel(table_name = channels)]
pub struct ChannelChanges<'a> {
    pub name: Option<&'a str>,
    pub topic: Option<Option<&'a str>>,
    pub read_only: Option<bool>,
    pub slow_mode_s: Option<i32>,
    pub archived: Option<bool>,
    pub message_ttl_s: Option<Option<i32>>,
    pub position: Option<i32>,
}

impl ChannelChanges<'_> {
    pub const fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.topic.is_none()
            && self.read_only.is_none()
            && self.slow_mode_s.is_none()
            && self.archived.is_none()
            && self.message_ttl_s.is_none()
            && self.position.is_none()
    }
}

impl Channel {
    /// None for whoever may not read it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find(conn: &mut Conn, id: ChannelId, reader: Reader) -> QueryResult<Option<Self>> {
        diesel::sql_query(format!("{SEEN} AND c.id = $3"))
            .bind::<SqlUuid, _>(reader.user_id.0)
            .bind::<Nullable<Integer>, _>(reader.device())
            .bind::<SqlUuid, _>(id.0)
            .get_result(conn)
            .await
            .optional()
    }

    /// All that the caller can read, DMs included.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list(conn: &mut Conn, reader: Reader) -> QueryResult<Vec<Self>> {
        diesel::sql_query(format!("{SEEN} ORDER BY c.community_id NULLS LAST, c.group_id, c.position, c.id"))
            .bind::<SqlUuid, _>(reader.user_id.0)
            .bind::<Nullable<Integer>, _>(reader.device())
            .load(conn)
            .await
    }

    /// The caller's DMs, in the order of their ids, after `cursor`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_dms(conn: &mut Conn, reader: Reader, cursor: Option<Uuid>, limit: i64) -> QueryResult<Vec<Self>> {
        diesel::sql_query(format!("{SEEN} AND c.kind = 'dm' AND c.id > $3 ORDER BY c.id LIMIT $4"))
            .bind::<SqlUuid, _>(reader.user_id.0)
            .bind::<Nullable<Integer>, _>(reader.device())
            .bind::<SqlUuid, _>(cursor.unwrap_or(Uuid::nil()))
            .bind::<BigInt, _>(limit)
            .load(conn)
            .await
    }

    /// Those of a private group that the caller can read.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_of_log(conn: &mut Conn, log: LogId, reader: Reader) -> QueryResult<Vec<Self>> {
        diesel::sql_query(format!("{SEEN} AND c.log_id = $3 ORDER BY c.id"))
            .bind::<SqlUuid, _>(reader.user_id.0)
            .bind::<Nullable<Integer>, _>(reader.device())
            .bind::<SqlUuid, _>(log.0)
            .load(conn)
            .await
    }

    pub fn is_dm(&self) -> bool {
        self.kind == "dm"
    }

    /// A channel with a membership log of its own.
    pub fn is_private(&self) -> bool {
        self.log_id == Some(self.id)
    }

    /// As the caller sees it; `peer` is the profile of `peer_id`.
    pub fn seen(self, peer: Option<WireUser>) -> WireChannel {
        let (start_seq, my_read_seq) = (Some(self.start_seq.unsigned_abs()), Some(self.read_seq.unsigned_abs()));
        WireChannel { start_seq, my_read_seq, peer, ..self.told() }
    }

    /// As an event tells it to everybody.
    pub fn told(self) -> WireChannel {
        WireChannel {
            id: ChannelId(self.id),
            kind: kind(&self.kind),
            group_id: self.group_id.map(GroupId),
            community_id: self.community_id.map(CommunityId),
            log_id: self.log_id.map(LogId),
            name: self.name,
            topic: self.topic,
            read_only: self.read_only,
            slow_mode_s: self.slow_mode_s.unsigned_abs(),
            archived: self.archived,
            message_ttl_s: self.message_ttl_s.map(i32::unsigned_abs),
            position: self.position,
            head_seq: self.head_seq.unsigned_abs(),
            start_seq: None,
            my_read_seq: None,
            peer: None,
            created_at: self.created_at.into(),
        }
    }
}

/// The channels with the profiles of their peers: one more query, however many there are.
///
/// # Errors
/// Of the database.
pub async fn with_peers(conn: &mut Conn, found: Vec<Channel>) -> QueryResult<Vec<WireChannel>> {
    let ids: Vec<Uuid> = found.iter().filter_map(|channel| channel.peer_id).collect();
    let mut peers = std::collections::BTreeMap::new();
    if !ids.is_empty() {
        let rows: Vec<UserRow> = users::table.filter(users::id.eq_any(&ids)).select(UserRow::as_select()).load(conn).await?;
        peers.extend(rows.into_iter().map(|user| (user.id, user.public())));
    }
    Ok(found
        .into_iter()
        .map(|channel| {
            let peer = channel.peer_id.and_then(|id| peers.get(&id).cloned());
            channel.seen(peer)
        })
        .collect())
}

impl NewChannel<'_> {
    /// `false`: the id, or the pair of a DM, is taken.
    ///
    /// # Errors
    /// Of the database.
    pub async fn insert(&self, conn: &mut Conn) -> QueryResult<bool> {
        if diesel::insert_into(channels::table).values(self).on_conflict_do_nothing().execute(conn).await? == 0 {
            return Ok(false);
        }
        diesel::insert_into(channel_heads::table).values(channel_heads::channel_id.eq(self.id)).execute(conn).await?;
        Ok(true)
    }
}

/// # Errors
/// Of the database.
pub async fn update(conn: &mut Conn, id: ChannelId, changes: &ChannelChanges<'_>) -> QueryResult<()> {
    if changes.is_empty() {
        return Ok(());
    }
    diesel::update(channels::table.find(id.0)).set(changes).execute(conn).await?;
    Ok(())
}

/// # Errors
/// Of the database.
pub async fn delete(conn: &mut Conn, id: ChannelId) -> QueryResult<()> {
    diesel::update(channels::table.find(id.0)).set(channels::deleted_at.eq(diesel::dsl::now)).execute(conn).await?;
    Ok(())
}

/// Channels of a log that live.
///
/// # Errors
/// Of the database.
pub async fn list_ids_of_log(conn: &mut Conn, log: LogId) -> QueryResult<Vec<ChannelId>> {
    let found = channels::table.filter(channels::log_id.eq(log.0).and(channels::deleted_at.is_null())).order(channels::id);
    Ok(found.select(channels::id).load(conn).await?.into_iter().map(ChannelId).collect())
}

/// The log that a channel belonged to while it lived, for the repeat of its deletion.
///
/// # Errors
/// Of the database.
pub async fn find_deleted_log(conn: &mut Conn, id: ChannelId) -> QueryResult<Option<LogId>> {
    let log: Option<Option<Uuid>> = channels::table
        .find(id.0)
        .filter(channels::deleted_at.is_not_null())
        .select(channels::log_id)
        .first(conn)
        .await
        .optional()?;
    Ok(log.flatten().map(LogId))
}

/// The DM of two people, the smaller id first.
///
/// # Errors
/// Of the database.
pub async fn find_dm(conn: &mut Conn, low: UserId, high: UserId) -> QueryResult<Option<ChannelId>> {
    let found = channels::table.filter(channels::dm_low.eq(low.0).and(channels::dm_high.eq(high.0))).select(channels::id);
    Ok(found.first(conn).await.optional()?.map(ChannelId))
}

/// The two people of a DM, or the one of notes to oneself.
///
/// # Errors
/// Of the database.
pub async fn list_dm_members(conn: &mut Conn, id: ChannelId) -> QueryResult<Vec<Member>> {
    let people: Vec<(UserRow, DateTime<Utc>)> = users::table
        .inner_join(channels::table.on(channels::dm_low.eq(users::id.nullable()).or(channels::dm_high.eq(users::id.nullable()))))
        .filter(channels::id.eq(id.0))
        .order(users::id)
        .select((UserRow::as_select(), channels::created_at))
        .load(conn)
        .await?;
    let member = |(user, since): (UserRow, DateTime<Utc>)| Member {
        user: user.public(),
        role: Role::Member,
        role_ids: Vec::new(),
        nickname: None,
        joined_at: since.into(),
    };
    Ok(people.into_iter().map(member).collect())
}

/// What decides on a new DM.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Acquaintance {
    /// They share a log, or the peer has the caller as a contact; and the peer exists.
    #[diesel(sql_type = Bool)]
    pub known: bool,
    /// One of them blocked the other.
    #[diesel(sql_type = Bool)]
    pub blocked: bool,
}

/// # Errors
/// Of the database.
pub async fn acquaintance(conn: &mut Conn, caller: UserId, peer: UserId) -> QueryResult<Acquaintance> {
    diesel::sql_query(
        "SELECT EXISTS (SELECT 1 FROM users u WHERE u.id = $2 AND u.deleted_at IS NULL)
                AND ($1 = $2
                     OR EXISTS (SELECT 1 FROM members a JOIN members b ON b.log_id = a.log_id
                                 WHERE a.user_id = $1 AND b.user_id = $2)
                     OR EXISTS (SELECT 1 FROM contacts t WHERE t.user_id = $2 AND t.contact_id = $1)) AS known,
                EXISTS (SELECT 1 FROM blocks b WHERE (b.user_id, b.blocked_id) IN (($1, $2), ($2, $1))) AS blocked",
    )
    .bind::<SqlUuid, _>(caller.0)
    .bind::<SqlUuid, _>(peer.0)
    .get_result(conn)
    .await
}

/// The caller's own settings; the defaults when none were made.
///
/// # Errors
/// Of the database.
pub async fn settings(conn: &mut Conn, id: ChannelId, user: UserId) -> QueryResult<ChannelSettings> {
    let found: Option<Option<serde_json::Value>> =
        channel_states::table.find((id.0, user.0)).select(channel_states::settings).first(conn).await.optional()?;
    Ok(found.flatten().and_then(|json| serde_json::from_value(json).ok()).unwrap_or_default())
}

/// # Errors
/// Of the database.
pub async fn set_settings(conn: &mut Conn, id: ChannelId, user: UserId, settings: ChannelSettings) -> QueryResult<()> {
    let json = serde_json::to_value(settings).map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
    diesel::insert_into(channel_states::table)
        .values((channel_states::channel_id.eq(id.0), channel_states::user_id.eq(user.0), channel_states::settings.eq(&json)))
        .on_conflict((channel_states::channel_id, channel_states::user_id))
        .do_update()
        .set(channel_states::settings.eq(&json))
        .execute(conn)
        .await?;
    Ok(())
}

/// To the column.
pub const fn kind_column(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Text => "text",
        ChannelKind::Voice => "voice",
        ChannelKind::Announcement => "announcement",
        ChannelKind::Dm => "dm",
    }
}

fn kind(column: &str) -> ChannelKind {
    match column {
        "voice" => ChannelKind::Voice,
        "announcement" => ChannelKind::Announcement,
        "dm" => ChannelKind::Dm,
        _ => ChannelKind::Text,
    }
}
