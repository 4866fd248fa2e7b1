//! Channels as places, and the caller's own settings in them (`docs/PROTOCOL.md` 3). What is said in them is in
//! [`super::messages`].

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::crypto::verify::Change;
use crate::protocol::channels::{
    Channel as WireChannel, ChannelKind, ChannelSettings, CreateChannel, DeleteChannel, UpdateChannel,
};
use crate::protocol::communities::Visibility;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId};
use crate::protocol::limits::{
    CHANNELS_PER_GROUP, COMMUNITY_NAME_MAX, MESSAGE_TTL_MAX_S, MESSAGE_TTL_MIN_S, SLOW_MODE_MAX_S, TOPIC_MAX,
};
use crate::protocol::messages::RowKind;
use crate::protocol::streams::Event;
use crate::protocol::users::Page;
use crate::server::app::AppState;
use crate::server::db::Conn;
use crate::server::db::channels::{self, Channel, ChannelChanges, NewChannel, Reader};
use crate::server::db::communities;
use crate::server::db::groups;
use crate::server::db::logs;
use crate::server::error::{ApiError, ApiResult};
use crate::server::events::{Events, Written};
use crate::server::extract::{Auth, Json, Path};
use crate::server::membership::{self, Place, Signed};
use crate::server::permission::Action;
use crate::server::text;

use super::groups::{find_group, ruling_place};
use super::{limit_reached, made_id};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(list))
        .routes(routes!(get, update, delete))
        .routes(routes!(settings, set_settings))
}

/// Everything that the caller can read, DMs included.
#[utoipa::path(get, path = "/channels", responses((status = 200, body = Page<WireChannel>)))]
async fn list(State(app): State<AppState>, auth: Auth) -> ApiResult<Json<Page<WireChannel>>> {
    let conn = &mut app.db().await?;
    let found = Channel::list(conn, reader(&auth)).await?;
    Ok(Json(Page::all(channels::with_peers(conn, found).await?)))
}

/// A channel attached to its community or private group by an op, or a private one with the `create` op of its own log.
#[utoipa::path(post, path = "/groups/{id}/channels", params(("id" = String, Path)), request_body = CreateChannel,
    responses((status = 201, body = WireChannel), (status = 200, description = "made before by the same op", body = WireChannel)))]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    Path(group_id): Path<GroupId>,
    Json(new): Json<CreateChannel>,
) -> ApiResult<(StatusCode, Json<WireChannel>)> {
    let id = made_id(new.id.0)?;
    let name = text::line("name", &new.name, COMMUNITY_NAME_MAX)?;
    let topic = text::optional_line("topic", new.topic.as_deref(), TOPIC_MAX)?;
    if new.kind == ChannelKind::Dm {
        return Err(ApiError::validation("kind", "direct messages are made by POST /dms"));
    }
    let private = new.visibility == Visibility::Private;
    let signed = Signed::read(&app, "log_op", &new.log_op, &auth)?;
    let signed = if private {
        signed.expect("the create op of the channel's own log", |op| matches!(op, Change::Create { .. }))?
    } else {
        signed.expect(
            "the op that attaches this channel",
            |op| matches!(op, Change::Channel { channel_id, attach: true } if channel_id == new.id.as_bytes()),
        )?
    };
    let (status, channel, written) = app
        .database
        .transaction(async |conn| {
            let parent = ruling_place(&find_group(conn, group_id, &auth).await?);
            let place = if private { Place::Channel(new.id, parent.community()) } else { parent };
            let me = membership::hold(conn, parent, &auth).await?;
            // It may have been deleted before the lock was ours.
            find_group(conn, group_id, &auth).await?;
            if communities::is_taken(conn, id).await? {
                let known = Channel::find(conn, new.id, reader(&auth)).await?.filter(|known| known.group_id == Some(group_id.0));
                return match known {
                    Some(known) if signed.is_stored(conn, place.log()).await? => {
                        Ok((StatusCode::OK, known.seen(None), Written::default()))
                    }
                    _ => Err(ApiError::conflict("this id is taken")),
                };
            }
            let position = groups::count_channels(conn, group_id).await?;
            if position >= CHANNELS_PER_GROUP as i64 {
                return Err(limit_reached("channels in a group", CHANNELS_PER_GROUP));
            }
            let mut events = Events::default();
            if private {
                membership::require(me, Action::EditPrivateChannels)?;
                membership::create(conn, &mut events, place, &signed).await?;
            } else {
                membership::apply(conn, &mut events, place, &signed, None).await?;
            }
            let row = NewChannel {
                id,
                kind: channels::kind_column(new.kind),
                community_id: Some(parent.community().0),
                group_id: Some(group_id.0),
                log_id: Some(place.log().0),
                name: Some(name),
                topic,
                position: i32::try_from(position).map_err(ApiError::internal)?,
                dm_low: None,
                dm_high: None,
            };
            if !row.insert(conn).await? {
                return Err(ApiError::conflict("this id is taken"));
            }
            if private {
                membership::tell_gained(conn, &mut events, place, auth.user_id).await?;
            } else {
                tell_channel(conn, &mut events, place, new.id, &auth).await?;
                events.look_at(new.id);
            }
            let written = events.write(conn).await?;
            let channel = find_channel(conn, new.id, &auth).await?;
            Ok((StatusCode::CREATED, channel.seen(None), written))
        })
        .await?;
    written.announce(&app);
    Ok((status, Json(channel)))
}

#[utoipa::path(get, path = "/channels/{id}", params(("id" = String, Path)), responses((status = 200, body = WireChannel)))]
async fn get(State(app): State<AppState>, auth: Auth, Path(id): Path<ChannelId>) -> ApiResult<Json<WireChannel>> {
    let conn = &mut app.db().await?;
    let channel = find_channel(conn, id, &auth).await?;
    seen(conn, channel).await.map(Json)
}

/// Absent leaves a field as it is, an empty text clears it.
#[utoipa::path(patch, path = "/channels/{id}", params(("id" = String, Path)), request_body = UpdateChannel,
    responses((status = 200, body = WireChannel)))]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ChannelId>,
    Json(body): Json<UpdateChannel>,
) -> ApiResult<Json<WireChannel>> {
    let changes = changes(&body)?;
    let (channel, written) = app
        .database
        .transaction(async |conn| {
            let place = ruled(&find_channel(conn, id, &auth).await?)?;
            membership::require(membership::standing(conn, place, &auth).await?, Action::EditChannel)?;
            let mut events = Events::default();
            if !changes.is_empty() {
                channels::update(conn, id, &changes).await?;
                tell_channel(conn, &mut events, place, id, &auth).await?;
            }
            let written = events.write(conn).await?;
            Ok((find_channel(conn, id, &auth).await?.seen(None), written))
        })
        .await?;
    written.announce(&app);
    Ok(Json(channel))
}

fn changes(body: &UpdateChannel) -> ApiResult<ChannelChanges<'_>> {
    let slow_mode_s = match body.slow_mode_s {
        Some(seconds) if seconds > SLOW_MODE_MAX_S => {
            return Err(ApiError::validation("slow_mode_s", format!("must be at most {SLOW_MODE_MAX_S}")));
        }
        seconds => seconds.and_then(|seconds| i32::try_from(seconds).ok()),
    };
    let message_ttl_s = match body.message_ttl_s {
        None => None,
        Some(0) => Some(None),
        Some(seconds @ MESSAGE_TTL_MIN_S..=MESSAGE_TTL_MAX_S) => Some(i32::try_from(seconds).ok()),
        Some(_) => {
            let message = format!("must be 0 or between {MESSAGE_TTL_MIN_S} and {MESSAGE_TTL_MAX_S}");
            return Err(ApiError::validation("message_ttl_s", message));
        }
    };
    Ok(ChannelChanges {
        name: body.name.as_deref().map(|name| text::line("name", name, COMMUNITY_NAME_MAX)).transpose()?,
        topic: text::changed_line("topic", body.topic.as_deref(), TOPIC_MAX)?,
        read_only: body.read_only,
        slow_mode_s,
        archived: body.archived,
        message_ttl_s,
        position: body.position,
    })
}

/// With the op that detaches it; a channel with a log of its own goes without one.
#[utoipa::path(delete, path = "/channels/{id}", params(("id" = String, Path)), request_body = DeleteChannel, responses((status = 204)))]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ChannelId>,
    body: Option<Json<DeleteChannel>>,
) -> ApiResult<StatusCode> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let signed = body.log_op.as_ref().map(|op| Signed::read(&app, "log_op", op, &auth)).transpose()?;
    let written = app
        .database
        .transaction(async |conn| {
            if let (Some(signed), Some(log)) = (&signed, channels::find_deleted_log(conn, id).await?)
                && signed.is_stored(conn, log).await?
            {
                return Ok(Written::default());
            }
            let place = ruled(&find_channel(conn, id, &auth).await?)?;
            let me = membership::hold(conn, place, &auth).await?;
            let mut events = Events::default();
            match (place, &signed) {
                (Place::Channel(..), Some(_)) => {
                    return Err(ApiError::validation("log_op", "a channel with a log of its own is deleted without an op"));
                }
                (Place::Channel(..), None) => {
                    membership::require(me, Action::EditPrivateChannels)?;
                    let members = logs::list_member_ids(conn, place.log()).await?;
                    logs::disband(conn, &[place.log().0]).await?;
                    events
                        .tell_all(members.iter().map(|user| (*user).into()).collect(), Event::ChannelRemoved { channel_id: id });
                    members.into_iter().for_each(|user| events.access_changed(user));
                }
                (_, None) => return Err(ApiError::validation("log_op", "is required: the op that detaches this channel")),
                (_, Some(signed)) => {
                    if !matches!(signed.change(), Change::Channel { channel_id, attach: false } if channel_id == id.as_bytes()) {
                        return Err(ApiError::validation("log_op", "must be the op that detaches this channel"));
                    }
                    membership::apply(conn, &mut events, place, signed, None).await?;
                    events.tell_all(place.stream().into_iter().collect(), Event::ChannelRemoved { channel_id: id });
                }
            }
            channels::delete(conn, id).await?;
            events.look_at(id);
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(&app);
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/channels/{id}/settings", params(("id" = String, Path)), responses((status = 200, body = ChannelSettings)))]
async fn settings(State(app): State<AppState>, auth: Auth, Path(id): Path<ChannelId>) -> ApiResult<Json<ChannelSettings>> {
    let conn = &mut app.db().await?;
    find_channel(conn, id, &auth).await?;
    Ok(Json(channels::settings(conn, id, auth.user_id).await?))
}

#[utoipa::path(put, path = "/channels/{id}/settings", params(("id" = String, Path)), request_body = ChannelSettings,
    responses((status = 200, body = ChannelSettings)))]
async fn set_settings(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ChannelId>,
    Json(settings): Json<ChannelSettings>,
) -> ApiResult<Json<ChannelSettings>> {
    let written = app
        .database
        .transaction(async |conn| {
            find_channel(conn, id, &auth).await?;
            channels::set_settings(conn, id, auth.user_id, settings).await?;
            let mut events = Events::default();
            events.tell(auth.user_id, Event::Settings { channel_id: id, settings });
            Ok(events.write(conn).await?)
        })
        .await?;
    written.announce(&app);
    Ok(Json(settings))
}

/// # Errors
/// 404 for whoever may not read it.
pub async fn find_channel(conn: &mut Conn, id: ChannelId, auth: &Auth) -> ApiResult<Channel> {
    Channel::find(conn, id, reader(auth)).await?.ok_or_else(ApiError::not_found)
}

/// The domain whose members read the channel; none for a DM.
pub fn place_of(channel: &Channel) -> Option<Place> {
    let (log, community) = (channel.log_id?, CommunityId(channel.community_id?));
    Some(if log == community.0 {
        Place::Community(community)
    } else if log == channel.id {
        Place::Channel(ChannelId(log), community)
    } else {
        Place::Group(GroupId(log), community)
    })
}

pub const fn reader(auth: &Auth) -> Reader {
    Reader { user_id: auth.user_id, device_id: auth.device_id }
}

/// The channel with its peer, if it is a DM.
pub async fn seen(conn: &mut Conn, channel: Channel) -> ApiResult<WireChannel> {
    channels::with_peers(conn, vec![channel]).await?.pop().ok_or_else(ApiError::not_found)
}

fn ruled(channel: &Channel) -> ApiResult<Place> {
    place_of(channel).ok_or_else(|| ApiError::forbidden("a direct message has nothing to change; see its settings"))
}

/// The channel as it is now, to all who read it.
async fn tell_channel(conn: &mut Conn, events: &mut Events, place: Place, id: ChannelId, auth: &Auth) -> ApiResult<()> {
    let channel = find_channel(conn, id, auth).await?.told();
    match place.stream() {
        Some(stream) => events.tell(stream, Event::Channel { channel }),
        None => events.row(id, RowKind::Channel, serde_json::to_value(channel).map_err(ApiError::internal)?),
    }
    Ok(())
}
