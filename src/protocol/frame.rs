//! The frames of the WebSocket (`docs/PROTOCOL.md` 4.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::auth::SecretText;
use super::codec::{Timestamp, objects};
use super::devices::{DeviceMessage, SendDevices, SentDevices};
use super::error::ErrorCode;
use super::ids::{ChannelId, DeviceId, EpochId, MessageId, SessionId, StreamId, UserId};
use super::limits::Limits;
use super::messages::{Send, Sent};
use super::streams::StreamEvent;
use super::users::Status;

/// From a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClientFrame {
    /// The first frame, within five seconds.
    Authenticate {
        token: SecretText,
    },
    Send(Send),
    SendDevices(SendDevices),
    AckInbox {
        up_to: u64,
    },
    MarkRead {
        channel_id: ChannelId,
        seq: u64,
    },
    Typing {
        channel_id: ChannelId,
    },
    Presence {
        status: Status,
    },
    Ping {
        t: u64,
    },
}

objects!(ClientFrame);

/// From the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    Ready(Ready),
    /// The answer to `send` and to `send_devices`.
    Sent(SentFrame),
    Event(StreamEvent),
    DeviceMessage(DeviceMessage),
    /// Streams that moved since the last one.
    Heads {
        streams: BTreeMap<StreamId, u64>,
    },
    Typing {
        channel_id: ChannelId,
        user_id: UserId,
    },
    Presence {
        user_id: UserId,
        status: Status,
    },
    Pong {
        t: u64,
    },
    KeysLow {
        one_time: u32,
        kem: u32,
    },
    Error(ErrorFrame),
    /// A frame of a newer server.
    #[serde(other)]
    Unknown,
}

/// The answer to `authenticate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    pub user_id: UserId,
    pub session_id: SessionId,
    #[serde(default)]
    pub device_id: Option<DeviceId>,
    pub epoch: EpochId,
    pub server_time: Timestamp,
    #[serde(default)]
    pub limits: Limits,
    /// Heads of all streams of the connection.
    pub streams: BTreeMap<StreamId, u64>,
}

/// `sent` answers two frames; only a row of a channel has a `seq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SentFrame {
    Row(Sent),
    Devices(SentDevices),
}

/// A refused frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// The id of the request, else its type; null before `ready`.
    #[serde(rename = "ref", default)]
    pub reference: Option<String>,
    pub code: ErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorFrame {
    /// Whether this frame refuses the request with that id.
    pub fn is_about(&self, id: MessageId) -> bool {
        self.reference.as_deref().is_some_and(|reference| reference == id.to_string())
    }
}

/// Codes with which the server closes a WebSocket.
pub mod close {
    /// No valid `authenticate` in time.
    pub const UNAUTHENTICATED: u16 = 4001;
    /// Session revoked or account suspended: do not retry.
    pub const REVOKED: u16 = 4003;
    /// The client reads too slowly: resume from the cursors.
    pub const TOO_SLOW: u16 = 4008;
    /// Another connection of the same device took its place.
    pub const REPLACED: u16 = 4009;
    /// The server stops: resume after `retry_after_ms` in the reason.
    pub const GOING_AWAY: u16 = 4012;
    /// Too many frames.
    pub const FLOODING: u16 = 4029;
    /// A frame that is not of the protocol.
    pub const BAD_FRAME: u16 = 1007;
    /// A frame that is too big.
    pub const TOO_BIG: u16 = 1009;
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Blob, Encoding};
    use super::super::messages::RowKind;
    use super::*;

    #[test]
    fn frames_have_the_same_meaning_in_both_encodings() {
        let frame = ClientFrame::Send(Send {
            id: MessageId::from_bytes([1; 16]),
            channel_id: ChannelId::from_bytes([2; 16]),
            kind: RowKind::Message,
            thread_id: None,
            reply_to_id: None,
            target_id: None,
            ciphertext: Some(Blob(vec![1, 2, 3])),
            nonce: Some(Blob(vec![0; 12])),
            file_ids: vec![],
            expires_in_s: None,
            copies: None,
            device_lists: None,
            skipped: vec![],
        });
        for encoding in Encoding::ALL {
            let bytes = encoding.encode(&frame).unwrap();
            assert_eq!(encoding.decode::<ClientFrame>(&bytes).unwrap(), frame, "{encoding:?}");
        }
    }

    #[test]
    fn an_unknown_field_in_a_client_frame_is_refused() {
        let text = r#"{"type":"ping","t":1,"x":2}"#;
        assert!(Encoding::Json.decode::<ClientFrame>(text.as_bytes()).is_err());
        let text = r#"{"type":"send_devices","id":"01912d68-783e-7a03-8467-5661c1243ad4","copies":[],"x":2}"#;
        assert!(Encoding::Json.decode::<ClientFrame>(text.as_bytes()).is_err());
    }

    #[test]
    fn a_frame_of_a_newer_server_is_unknown_and_not_an_error() {
        let frame: ServerFrame = serde_json::from_str(r#"{"type":"hologram","data":[1]}"#).unwrap();
        assert_eq!(frame, ServerFrame::Unknown);
    }
}
