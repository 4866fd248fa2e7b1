//! Between the frames of the protocol and the messages of a WebSocket, in both encodings.
//!
//! A frame for many is serialised once for each encoding ([`Shared`]); its receivers share the bytes.

use axum::extract::ws::{Message, Utf8Bytes};
use serde_json::Value;

use crate::protocol::codec::Encoding;
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::{ClientFrame, ErrorFrame, ServerFrame};
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
    let Some((kind, id)) = outline(bytes, encoding) else { return Malformed::Garbage };
    let unknown_field = cause.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let error = match (unknown_field, cause.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())) {
        (Some(field), _) => ApiError::new(ErrorCode::UnknownField, format!("unknown field {field:?}"))
            .with_details(serde_json::json!({ "field": field })),
        (_, Some(field)) => ApiError::invalid_request(format!("the field {field:?} is missing")),
        _ if cause.starts_with("unknown variant") => ApiError::invalid_request("there is no frame or kind of this name"),
        _ => ApiError::invalid_request("a field has a wrong type or value"),
    };
    Malformed::Refused(Box::new(error_frame(id.or(kind), error)))
}

/// Type and id of a value that may be a frame; none for what is no map in the encoding.
fn outline(bytes: &[u8], encoding: Encoding) -> Option<(Option<String>, Option<String>)> {
    #[derive(serde::Deserialize)]
    struct Outline {
        #[serde(default)]
        r#type: Value,
        #[serde(default)]
        id: Value,
    }
    let outline: Outline = encoding.decode(bytes).ok()?;
    // What comes back in `ref` is bounded, whatever was sent.
    let text = |value: Value| value.as_str().filter(|text| text.len() <= 64).map(str::to_owned);
    Some((text(outline.r#type), text(outline.id)))
}

/// The answer to a refused frame.
pub fn error_frame(reference: Option<String>, error: ApiError) -> ErrorFrame {
    let retry_after_ms = error.retry_after_ms();
    ErrorFrame { reference, code: error.code, message: error.message, details: error.details, retry_after_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

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
