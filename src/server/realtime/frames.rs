//! Between the frames of the protocol and the messages of a WebSocket, in both encodings.
//!
//! A frame for many is serialised once for each encoding ([`Shared`]); its receivers share the bytes.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use axum::extract::ws::{Message, Utf8Bytes};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, IgnoredAny, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::protocol::auth::SecretText;
use crate::protocol::codec::Encoding;
use crate::protocol::devices::SendDevices;
use crate::protocol::frame::{ClientFrame, ErrorFrame, ServerFrame};
use crate::protocol::ids::ChannelId;
use crate::protocol::messages::Send;
use crate::protocol::users::Status;
use crate::server::error::ApiError;

/// The message for a frame. None only for a value that cannot be encoded, which no frame is.
pub fn encode(frame: &ServerFrame, encoding: Encoding) -> Option<Message> {
    let bytes = encoding.encode(frame).inspect_err(|cause| tracing::error!(%cause, "a frame cannot be encoded")).ok()?;
    match encoding {
        Encoding::Json => Utf8Bytes::try_from(bytes::Bytes::from(bytes)).ok().map(Message::Text),
        Encoding::MessagePack => Some(Message::Binary(bytes.into())),
    }
}

/// A frame in the encodings that its receivers speak.
pub struct Shared {
    messages: [Option<Message>; Encoding::ALL.len()],
}

impl Shared {
    /// `spoken`: by `Encoding as usize`.
    pub fn new(frame: &ServerFrame, spoken: [bool; Encoding::ALL.len()]) -> Self {
        let message = |encoding: Encoding| spoken[encoding as usize].then(|| encode(frame, encoding)).flatten();
        Self { messages: Encoding::ALL.map(message) }
    }

    /// A cheap copy; none for an encoding that nobody spoke when it was made.
    pub fn message(&self, encoding: Encoding) -> Option<Message> {
        self.messages[encoding as usize].clone()
    }
}

/// Why a message of a client is no frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Malformed {
    /// Not even a value in the encoding: the connection ends with 1007.
    Garbage,
    /// A value, but no frame: it is answered, and the connection stays.
    Refused(Box<ErrorFrame>),
}

/// # Errors
/// [`Malformed`].
pub fn decode(message: &Message, encoding: Encoding) -> Result<ClientFrame, Malformed> {
    let bytes = match (message, encoding) {
        (Message::Text(text), Encoding::Json) => text.as_bytes(),
        (Message::Binary(bytes), Encoding::MessagePack) => bytes.as_ref(),
        _ => return Err(Malformed::Garbage),
    };
    encoding.decode(bytes).map_err(|error| refuse(bytes, encoding, &error.0))
}

/// Tells what is wrong with a value that is no frame, without repeating its content.
fn refuse(bytes: &[u8], encoding: Encoding, cause: &str) -> Malformed {
    if encoding.decode::<IgnoredAny>(bytes).is_err() {
        return Malformed::Garbage;
    }
    let refused = |reference, error| Malformed::Refused(Box::new(error_frame(reference, error)));
    if encoding.decode::<HashMap<String, IgnoredAny>>(bytes).is_err() {
        return refused(None, ApiError::invalid_request("the frame must be an object"));
    }
    let (kind, id) = outline(bytes, encoding);
    let error = match &kind {
        _ if cause.starts_with("unknown variant") => ApiError::invalid_request("there is no frame of this type"),
        Some(kind) => ApiError::malformed(cause, &place(kind, bytes, encoding).unwrap_or_else(|| "a field".to_owned())),
        None => ApiError::malformed(cause, "type"),
    };
    refused(id.or(kind), error)
}

/// Type and id of an object that may be a frame.
fn outline(bytes: &[u8], encoding: Encoding) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct Outline {
        #[serde(default)]
        r#type: Value,
        #[serde(default)]
        id: Value,
    }
    // What comes back in `ref` is bounded, whatever was sent.
    let text = |value: Value| value.as_str().filter(|text| text.len() <= 64).map(str::to_owned);
    encoding.decode(bytes).map_or((None, None), |outline: Outline| (text(outline.r#type), text(outline.id)))
}

/// The field of a frame that is at fault. A tagged enum forgets it, so the fields are read again as what they belong to.
fn place(kind: &str, bytes: &[u8], encoding: Encoding) -> Option<String> {
    match kind {
        "send" => encoding.fault::<Untagged<Send>>(bytes),
        "send_devices" => encoding.fault::<Untagged<SendDevices>>(bytes),
        _ => encoding.fault::<Small>(bytes),
    }
}

/// The fields of all frames that have no type of their own.
#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code)] // Only whether they can be read counts.
struct Small {
    #[serde(deserialize_with = "present")]
    token: Option<SecretText>,
    #[serde(deserialize_with = "present")]
    up_to: Option<u64>,
    #[serde(deserialize_with = "present")]
    channel_id: Option<ChannelId>,
    #[serde(deserialize_with = "present")]
    seq: Option<u64>,
    #[serde(deserialize_with = "present")]
    status: Option<Status>,
    #[serde(deserialize_with = "present")]
    t: Option<u64>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a `T` from an object that has a `type` beside its fields.
struct Untagged<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Untagged<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Untagged<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(WithoutType(fields))).map(|_| self)
    }
}

struct WithoutType<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutType<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.0.next_key::<String>()? {
            if key != "type" {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            self.0.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

/// The answer to a refused frame.
pub fn error_frame(reference: Option<String>, error: ApiError) -> ErrorFrame {
    let retry_after_ms = error.retry_after_ms();
    ErrorFrame { reference, code: error.code, message: error.message, details: error.details, retry_after_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::protocol::error::ErrorCode;

    fn refused(text: &str) -> ErrorFrame {
        match decode(&Message::Text(text.into()), Encoding::Json) {
            Err(Malformed::Refused(frame)) => *frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refused_frame_is_named_by_its_id_else_by_its_type() {
        let frame = refused(r#"{"type":"send","id":"x1","channel_id":7}"#);
        assert_eq!((frame.reference.as_deref(), frame.code), (Some("x1"), ErrorCode::InvalidRequest));
        let frame = refused(r#"{"type":"typing","channel":"c"}"#);
        assert_eq!((frame.reference.as_deref(), frame.code), (Some("typing"), ErrorCode::UnknownField));
        let frame = refused(r#"{"type":"hologram"}"#);
        assert_eq!((frame.reference.as_deref(), frame.code), (Some("hologram"), ErrorCode::InvalidRequest));
        assert_eq!(refused(&format!(r#"{{"id":"{}"}}"#, "x".repeat(65))).reference, None);
    }

    #[test]
    fn a_refused_frame_names_the_field_as_http_does_in_both_encodings() {
        let id = "0197f000-0000-7000-8000-000000000000";
        let copy = |nonce: &str| format!(r#"{{"user_id":"{id}","device_id":1,"ciphertext":"AA==","nonce":{nonce}}}"#);
        for (frame, message) in [
            (r#"{"type":"ping","t":"hunter2"}"#.to_owned(), "t has a wrong type or value"),
            (r#"{"type":"ping","t":null}"#.to_owned(), "t has a wrong type or value"),
            (r#"{"t":1}"#.to_owned(), "the field \"type\" is missing"),
            (r#"{"type":null,"t":1}"#.to_owned(), "type has a wrong type or value"),
            (r#"{"type":"hologram"}"#.to_owned(), "there is no frame of this type"),
            (r#"{"type":"mark_read","channel_id":"general","seq":1}"#.to_owned(), "channel_id has a wrong type or value"),
            (
                r#"{"seq":-1,"type":"mark_read","channel_id":"0197f000-0000-7000-8000-000000000000"}"#.to_owned(),
                "seq has a wrong type or value",
            ),
            (r#"{"type":"presence","status":true}"#.to_owned(), "status has a wrong type or value"),
            (format!(r#"{{"type":"send","id":"{id}","channel_id":"{id}","kind":true}}"#), "kind has a wrong type or value"),
            (
                format!(r#"{{"id":"{id}","channel_id":"{id}","kind":"message","type":"send","ciphertext":[1]}}"#),
                "ciphertext has a wrong type or value",
            ),
            (format!(r#"{{"type":"send","id":"{id}","channel_id":"{id}","kind":"message","x":1}}"#), "unknown field \"x\""),
            (
                format!(r#"{{"type":"send_devices","id":"{id}","copies":[{},{}]}}"#, copy("\"AA==\""), copy("7")),
                "copies[1].nonce has a wrong type or value",
            ),
            (
                format!(r#"{{"type":"send_devices","id":"{id}","copies":[["{id}",1,"AA==","AA=="]]}}"#),
                "copies[0] has a wrong type or value",
            ),
            (r#"["ping",1]"#.to_owned(), "the frame must be an object"),
            ("7".to_owned(), "the frame must be an object"),
        ] {
            assert_eq!(refused(&frame).message, message, "{frame}");
            let value: Value = serde_json::from_str(&frame).unwrap();
            let packed = Message::Binary(Encoding::MessagePack.encode(&value).unwrap().into());
            let Err(Malformed::Refused(again)) = decode(&packed, Encoding::MessagePack) else { panic!("{frame}") };
            assert_eq!(again.message, message, "{frame}");
        }
    }

    #[test]
    fn what_is_no_value_of_the_encoding_is_garbage() {
        for message in [
            Message::Text("{".into()),
            Message::Text("[1]x".into()),
            Message::Binary(b"{\"type\":\"ping\",\"t\":1}".to_vec().into()),
        ] {
            assert_eq!(decode(&message, Encoding::Json), Err(Malformed::Garbage));
        }
        assert_eq!(decode(&Message::Text("{}".into()), Encoding::MessagePack), Err(Malformed::Garbage));
        assert_eq!(decode(&Message::Binary(vec![0xc1].into()), Encoding::MessagePack), Err(Malformed::Garbage));
    }

    #[test]
    fn a_shared_frame_has_the_encodings_that_are_spoken() {
        let shared = Shared::new(&ServerFrame::Pong { t: 7 }, [true, false]);
        assert_eq!(shared.message(Encoding::Json), Some(Message::Text(r#"{"type":"pong","t":7}"#.into())));
        assert_eq!(shared.message(Encoding::MessagePack), None);
    }
}
