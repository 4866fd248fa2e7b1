//! Identifiers: one type for each kind of thing, all of them UUIDs written in lowercase with hyphens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;
use uuid::Uuid;

use super::codec::objects;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
        #[schema(value_type = String, format = "uuid")]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes, as TC/1 signs and encrypts them.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From the 16 bytes of TC/1.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_canonical(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        // A string in every encoding: MessagePack frames carry ids as text too.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor).map(Self)
            }
        }
    )+};
}

id! {
    /// An account. Also the id of the account's own event stream.
    UserId,
    /// A login.
    SessionId,
    /// A community. Also the id of its event stream and of its membership log.
    CommunityId,
    /// A group of channels. A private group is also a stream and a membership log.
    GroupId,
    /// A channel or a DM. Also the id of its message log.
    ChannelId,
    /// A row of a channel's log; the message id inside the ciphertext.
    MessageId,
    /// An invitation.
    InviteId,
    /// A membership log (`crypto.md` 11): a community's, a private group's or a private channel's id.
    LogId,
    /// Something with a head and ordered events: a channel, a community, a private group or a user.
    StreamId,
    /// An uploaded file.
    FileId,
    /// Idempotency key of a device-to-device batch.
    BatchId,
    /// Changes when the database was restored from a backup.
    EpochId,
}

macro_rules! stream_of {
    ($($name:ident),+) => {$(
        impl From<$name> for StreamId {
            fn from(id: $name) -> Self {
                Self(id.0)
            }
        }
    )+};
}
stream_of!(UserId, CommunityId, GroupId, ChannelId);

macro_rules! log_of {
    ($($name:ident),+) => {$(
        impl From<$name> for LogId {
            fn from(id: $name) -> Self {
                Self(id.0)
            }
        }
    )+};
}
log_of!(CommunityId, GroupId, ChannelId);

/// A device of one user: 1, 2, 3 … within one identity; never 0.
pub type DeviceId = u32;

/// One device of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DeviceAddr {
    pub user_id: UserId,
    pub device_id: DeviceId,
}

objects!(DeviceAddr);

impl DeviceAddr {
    pub const fn new(user_id: UserId, device_id: DeviceId) -> Self {
        Self { user_id, device_id }
    }
}

/// Only the canonical form: lowercase, with hyphens, 36 characters.
fn parse_canonical(text: &str) -> Result<Uuid, uuid::Error> {
    let id = Uuid::try_parse(text)?;
    let mut buffer = Uuid::encode_buffer();
    if id.as_hyphenated().encode_lower(&mut buffer) == text {
        Ok(id)
    } else {
        // Any of the other spellings that the parser would take: refused with its own kind of error.
        Uuid::try_parse("not canonical")
    }
}

struct IdVisitor;

impl de::Visitor<'_> for IdVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID in lowercase with hyphens")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        parse_canonical(text).map_err(|_| de::Error::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lowercase_hyphenated_text_and_nothing_else() {
        let text = "\"01912d68-783e-7a03-8467-5661c1243ad4\"";
        let id: UserId = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), text);
        for bad in [
            "\"01912D68-783E-7A03-8467-5661C1243AD4\"",
            "\"01912d68783e7a0384675661c1243ad4\"",
            "\"{01912d68-783e-7a03-8467-5661c1243ad4}\"",
            "\"\"",
            "7",
        ] {
            assert!(serde_json::from_str::<UserId>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_stay_text_in_messagepack() {
        let id = UserId::from_bytes([7; 16]);
        let packed = rmp_serde::to_vec_named(&id).unwrap();
        assert_eq!(rmp_serde::from_slice::<String>(&packed).unwrap(), id.to_string());
        assert_eq!(rmp_serde::from_slice::<UserId>(&packed).unwrap(), id);
    }
}
