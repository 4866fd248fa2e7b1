//! The two encodings of the wire, JSON text and MessagePack, and the two value types that differ between them or from
//! serde's own idea: byte strings and times.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// WebSocket subprotocol of text frames with JSON.
pub const SUBPROTOCOL_JSON: &str = "chat.v1.json";
/// WebSocket subprotocol of binary frames with MessagePack.
pub const SUBPROTOCOL_MSGPACK: &str = "chat.v1.msgpack";

/// Levels of a MessagePack value; no frame of the protocol has more than eight. JSON is bounded to 128 by its library.
const DEPTH_MAX: usize = 32;

/// Which of the two encodings a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    MessagePack,
}

impl Encoding {
    /// All encodings, for tables with one entry each.
    pub const ALL: [Self; 2] = [Self::Json, Self::MessagePack];

    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => SUBPROTOCOL_JSON,
            Self::MessagePack => SUBPROTOCOL_MSGPACK,
        }
    }

    /// # Errors
    /// When the value has a map with keys that are not strings; none of the protocol's types has.
    pub fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(|e| CodecError(e.to_string())),
            Self::MessagePack => rmp_serde::to_vec_named(value).map_err(|e| CodecError(e.to_string())),
        }
    }

    /// # Errors
    /// When the bytes are not a value of this type; the text names the field and never repeats a value's content.
    pub fn decode<'de, T: Deserialize<'de>>(self, bytes: &'de [u8]) -> Result<T, CodecError> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|e| CodecError(e.to_string())),
            Self::MessagePack => {
                let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
                // Tagged enums buffer their content recursively: what nests deeply would take the whole stack.
                deserializer.set_max_depth(DEPTH_MAX);
                T::deserialize(&mut deserializer).map_err(|e| CodecError(e.to_string()))
            }
        }
    }

    /// The path to what keeps the bytes from being a value of this type, such as `copies[0].nonce`; none when they are one. It
    /// costs more than decoding, and says nothing of what is inside of a tagged enum.
    pub fn fault<'de, T: Deserialize<'de>>(self, bytes: &'de [u8]) -> Option<String> {
        match self {
            Self::Json => {
                let mut deserializer = serde_json::Deserializer::from_slice(bytes);
                Some(serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?.path().to_string())
            }
            Self::MessagePack => {
                let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
                deserializer.set_max_depth(DEPTH_MAX);
                Some(serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?.path().to_string())
            }
        }
    }
}

/// A value could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub String);

/// Lets types be objects only: what serde derives for a struct takes an array too, by the order of the fields. To be used with
/// `#[serde(remote = "Self")]`, which leaves the derived functions without their traits.
macro_rules! objects {
    ($($name:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;
                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, fields: A) -> Result<$name, A::Error> {
                        $name::deserialize(serde::de::value::MapAccessDeserializer::new(fields))
                    }
                }
                deserializer.deserialize_map(Object)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    )+};
}
pub(super) use objects;

/// For fields of requests that may be absent or null and have a default (protocol 8): `#[serde(default, deserialize_with = …)]`.
///
/// # Errors
/// Of the value, when there is one.
pub fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A byte string: standard base64 with padding in JSON, `bin` in MessagePack.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = "byte")]
pub struct Blob(pub Vec<u8>);

impl Blob {
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, when there are exactly `N`.
    pub fn to_array<const N: usize>(&self) -> Option<[u8; N]> {
        self.0.as_slice().try_into().ok()
    }

    pub const fn len(&self) -> usize {
        self.0.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Blob {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes.to_vec())
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&base64::display::Base64Display::new(&self.0, &STANDARD))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Tagged enums buffer their content and forget which encoding it came from, so the value itself decides.
        deserializer.deserialize_any(BlobVisitor)
    }
}

struct BlobVisitor;

impl de::Visitor<'_> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard base64 with padding")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Blob, E> {
        STANDARD.decode(text).map(Blob).map_err(|_| E::custom("not standard base64 with padding"))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(Blob(bytes.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(Blob(bytes))
    }
}

/// A moment: milliseconds since the Unix epoch, UTC; on the wire RFC 3339 with three decimals and `Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = "date-time")]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// As TC/1 counts: unsigned milliseconds; moments before 1970 become 0.
    pub const fn as_unix_ms(self) -> u64 {
        if self.0 < 0 { 0 } else { self.0 as u64 }
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_millis())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(at: Timestamp) -> Self {
        Self::from_timestamp_millis(at.0).unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&DateTime::<Utc>::from(*self).to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                DateTime::parse_from_rfc3339(text)
                    .map(|at| Timestamp(at.timestamp_millis()))
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_in_a_request_is_as_good_as_absent() {
        use crate::protocol::channels::CreateChannel;
        use crate::protocol::communities::{CreateCommunity, CreateGroup};
        use crate::protocol::devices::PublishList;
        use crate::protocol::frame::ClientFrame;
        use crate::protocol::keys::UploadPrekeys;
        use crate::protocol::messages::SyncRequest;
        use serde_json::{Value, json};

        fn same<T: for<'de> Deserialize<'de> + PartialEq + fmt::Debug>(required: &Value, optional: &[&str]) {
            let absent: T = serde_json::from_value(required.clone()).unwrap();
            for encoding in Encoding::ALL {
                for field in optional {
                    let mut request = required.clone();
                    request[*field] = Value::Null;
                    let decoded = encoding.decode::<T>(&encoding.encode(&request).unwrap());
                    assert_eq!(decoded.as_ref(), Ok(&absent), "{field}");
                }
            }
        }
        let id = "0197f000-0000-7000-8000-000000000000";
        let optional = ["file_ids", "skipped", "copies", "device_lists", "thread_id", "target_id", "ciphertext", "expires_in_s"];
        same::<ClientFrame>(&json!({ "type": "send", "id": id, "channel_id": id, "kind": "message" }), &optional);
        same::<SyncRequest>(&json!({}), &["cursors", "limit", "ack_inbox"]);
        same::<UploadPrekeys>(&json!({}), &["signed_prekey", "last_kem_prekey", "one_time_prekeys", "kem_prekeys"]);
        same::<PublishList>(&json!({ "device_list": "AA==" }), &["certificates"]);
        same::<CreateCommunity>(&json!({ "id": id, "name": "a", "log_op": "" }), &["description", "discoverable"]);
        same::<CreateGroup>(&json!({ "id": id, "name": "a" }), &["description", "visibility", "log_op"]);
        same::<CreateChannel>(&json!({ "id": id, "name": "a", "log_op": "" }), &["kind", "topic", "visibility"]);
    }

    #[test]
    fn nested_frames_are_refused_and_take_little_stack() {
        use crate::protocol::frame::{ClientFrame, ServerFrame};
        let nested = |depth: usize| {
            let mut bytes = b"\x82\xa4type\xacauthenticate\xa5token".to_vec();
            bytes.extend(std::iter::repeat_n(0x91, depth));
            bytes.push(0xc0);
            bytes
        };
        let json = |depth: usize| format!(r#"{{"type":"authenticate","token":{}0{}}}"#, "[".repeat(depth), "]".repeat(depth));
        let decode_all = move || {
            for depth in [1, 100, 1000, 100_000] {
                assert!(Encoding::MessagePack.decode::<ClientFrame>(&nested(depth)).is_err());
                assert!(Encoding::MessagePack.decode::<ServerFrame>(&nested(depth)).is_err() || depth < DEPTH_MAX);
                assert!(Encoding::MessagePack.decode::<serde_json::Value>(&nested(depth)).is_err() || depth < DEPTH_MAX);
                assert!(Encoding::Json.decode::<ClientFrame>(json(depth).as_bytes()).is_err());
            }
        };
        std::thread::Builder::new().stack_size(1024 * 1024).spawn(decode_all).unwrap().join().unwrap();
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let at: Timestamp = serde_json::from_str("\"2026-11-21T09:00:00.000Z\"").unwrap();
        assert_eq!(serde_json::to_string(&at).unwrap(), "\"2026-11-21T09:00:00.000Z\"");
        assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    }

    #[test]
    fn bytes_are_base64_in_json_and_bin_in_messagepack() {
        let blob = Blob(vec![0, 255, 7]);
        assert_eq!(serde_json::to_string(&blob).unwrap(), "\"AP8H\"");
        assert_eq!(Encoding::MessagePack.encode(&blob).unwrap(), [0xc4, 3, 0, 255, 7]);
        for encoding in Encoding::ALL {
            let bytes = encoding.encode(&blob).unwrap();
            assert_eq!(encoding.decode::<Blob>(&bytes).unwrap(), blob);
        }
        assert!(serde_json::from_str::<Blob>("\"AP8\"").is_err(), "padding is required");
    }
}
