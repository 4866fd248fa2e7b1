//! One participant's socket: to the server by the client's own transport, or to a control (`examples/control.rs`), which passes
//! frames on as they are. Both sides of a comparison decode the same frames with the same code.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use uuid::{Builder, Uuid};

use crate::client::bare::noise;
use crate::client::model::Problem;
use crate::client::transport::{Net, ws};
use crate::protocol::codec::{Encoding, Timestamp};
use crate::protocol::frame::{ClientFrame, SentFrame, ServerFrame};
use crate::protocol::ids::MessageId;
use crate::protocol::messages::{Row, RowKind, Send};
use crate::protocol::streams::{StreamEvent, StreamItem};

use super::failed;
use super::people::{Account, Room};

/// What a load is put on.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Server(&'a Net),
    /// Its address.
    Control(&'a str),
}

/// A connected participant.
pub struct Seat {
    socket: ws::Socket,
    control: bool,
    pub account: Account,
    number: u32,
}

/// What a participant hears.
pub enum Heard {
    Row {
        id: MessageId,
        seq: u64,
    },
    Acked {
        id: MessageId,
        seq: u64,
    },
    Refused {
        id: Option<MessageId>,
        why: String,
    },
    /// Presence, heads, pings and so on.
    Nothing,
}

/// The clock of a load: ids carry the moment at which their row was meant to be sent, so that whoever reads the row knows its
/// latency without asking.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
    /// Distinguishes the loads of one database.
    run: u16,
}

/// Bits of an id for its sender.
const SENDER_BITS: u32 = 16;

impl Clock {
    pub fn start() -> Self {
        let run = Uuid::now_v7().as_u128() as u16;
        Self { zero: Instant::now(), run }
    }

    pub fn zero(&self) -> Instant {
        self.zero
    }

    /// The id of what a sender sends at a moment; no sender has two in the same microsecond.
    pub fn id(&self, intended: Instant, sender: u16) -> MessageId {
        let us = intended.saturating_duration_since(self.zero).as_micros() as u64;
        let tail = us << SENDER_BITS | u64::from(sender);
        let mut random = [0; 10];
        random[..2].copy_from_slice(&self.run.to_be_bytes());
        random[2..].copy_from_slice(&tail.to_be_bytes());
        let ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        MessageId(Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }

    /// When a row of this load was meant to be sent; none for one of another load.
    pub fn intended(&self, id: MessageId) -> Option<Instant> {
        let bits = id.0.as_u128();
        // 48 bits of time, 4 of version, 12 random, 2 of variant, 62 random.
        let ours = (bits >> 64) as u16 & 0x0fff == self.run & 0x0fff;
        let tail = bits as u64 & (u64::MAX >> 2);
        ours.then(|| self.zero + Duration::from_micros(tail >> SENDER_BITS))
    }
}

impl Seat {
    pub async fn connect(target: Target<'_>, account: &Account, room: &Room) -> Result<Self, Problem> {
        let (socket, control) = match target {
            Target::Server(net) => {
                let opened = net.open(account.token.clone()).await;
                (opened.map_err(|error| failed(format!("{} cannot connect: {error}", account.name)))?.0, false)
            }
            Target::Control(address) => {
                let url = format!("ws://{address}/ws?room={}", room.channel_id);
                let mut request = url.into_client_request().map_err(|error| failed(error.to_string()))?;
                request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(Encoding::Json.subprotocol()));
                let opened = tokio_tungstenite::connect_async_with_config(request, Some(ws::settings()), true).await;
                (opened.map_err(|error| failed(format!("cannot connect to the control: {error}")))?.0, true)
            }
        };
        Ok(Self { socket, control, account: account.clone(), number: 0 })
    }

    /// Sends a row with this id; it is on its way when this returns.
    pub async fn send(&mut self, room: &Room, id: MessageId) -> Result<(), Problem> {
        self.number += 1;
        let Account { user_id, device_id, .. } = self.account;
        let send = Send {
            id,
            channel_id: room.channel_id,
            kind: RowKind::Message,
            thread_id: None,
            reply_to_id: None,
            target_id: None,
            ciphertext: Some(noise(room.channel_id, user_id, device_id, room.epoch, self.number)),
            nonce: Some([0; 12].into()),
            file_ids: Vec::new(),
            expires_in_s: None,
            copies: None,
            device_lists: None,
            skipped: Vec::new(),
        };
        let message = if self.control { echo(room, send, self) } else { ws::message(Encoding::Json, &ClientFrame::Send(send)) };
        self.socket.send(message).await.map_err(|error| failed(format!("a socket broke: {error}")))
    }

    /// The next thing that this participant hears.
    pub async fn hear(&mut self) -> Result<Heard, Problem> {
        let message = match self.socket.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(failed(format!("a socket broke: {error}"))),
            None => return Err(failed("the server closed a socket")),
        };
        let text = match &message {
            Message::Text(text) => text,
            Message::Close(frame) => return Err(failed(format!("the server closed a socket: {frame:?}"))),
            _ => return Ok(Heard::Nothing),
        };
        if let Some((id, seq)) = message_row(text) {
            return Ok(Heard::Row { id, seq });
        }
        let frame = Encoding::Json.decode(text.as_bytes()).map_err(|error| failed(format!("a frame cannot be read: {error}")))?;
        Ok(match frame {
            ServerFrame::Sent(SentFrame::Row(sent)) => Heard::Acked { id: sent.id, seq: sent.seq },
            ServerFrame::Error(error) => {
                let id = error.reference.as_deref().and_then(|text| text.parse().ok());
                Heard::Refused { id, why: format!("{}: {}", error.code.as_str(), error.message) }
            }
            _ => Heard::Nothing,
        })
    }

    pub fn is_control(&self) -> bool {
        self.control
    }
}

/// Id and seq of a frame that brings a message, read without the rest: the generator must leave the machine to what it measures.
fn message_row(text: &str) -> Option<(MessageId, u64)> {
    #[derive(Deserialize)]
    struct Frame<'a> {
        r#type: &'a str,
        seq: Option<u64>,
        #[serde(borrow)]
        event: Option<Event<'a>>,
    }
    #[derive(Deserialize)]
    struct Event<'a> {
        id: Option<MessageId>,
        kind: Option<&'a str>,
    }
    let frame: Frame<'_> = serde_json::from_str(text).ok()?;
    let event = frame.event.filter(|event| frame.r#type == "event" && event.kind == Some("message"))?;
    event.id.zip(frame.seq)
}

/// The event that the server would make of a send, made here: a control passes it on, so its readers decode what ours do.
fn echo(room: &Room, send: Send, seat: &Seat) -> Message {
    let row = Row {
        id: send.id,
        channel_id: send.channel_id,
        seq: 1,
        log_seq: Some(room.epoch),
        kind: send.kind,
        sender_id: Some(seat.account.user_id),
        sender_device: Some(seat.account.device_id),
        thread_id: None,
        reply_to_id: None,
        target_id: None,
        ciphertext: send.ciphertext,
        nonce: send.nonce,
        body: None,
        file_ids: Vec::new(),
        created_at: Timestamp(1_795_000_000_000),
        expires_at: None,
        deleted_at: None,
        quarantined: false,
    };
    let event = StreamEvent { stream: room.channel_id.into(), seq: 1, event: StreamItem::Row(Box::new(row)) };
    let text = Encoding::Json.encode(&ServerFrame::Event(event)).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Message::text(text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_in_what_a_client_would_decode() {
        let (id, channel_id) = (MessageId::from_bytes([7; 16]), crate::protocol::ids::ChannelId::from_bytes([9; 16]));
        let row = Row {
            id,
            channel_id,
            seq: 5,
            log_seq: Some(3),
            kind: RowKind::Message,
            sender_id: None,
            sender_device: None,
            thread_id: None,
            reply_to_id: None,
            target_id: None,
            ciphertext: Some(vec![1; 424].into()),
            nonce: Some([0; 12].into()),
            body: None,
            file_ids: Vec::new(),
            created_at: Timestamp(0),
            expires_at: None,
            deleted_at: None,
            quarantined: false,
        };
        let text = |row: Row| {
            let event = StreamEvent { stream: channel_id.into(), seq: 5, event: StreamItem::Row(Box::new(row)) };
            String::from_utf8(Encoding::Json.encode(&ServerFrame::Event(event)).unwrap()).unwrap()
        };
        assert_eq!(message_row(&text(row.clone())), Some((id, 5)));
        assert_eq!(message_row(&text(Row { kind: RowKind::Reaction, ..row })), None);
        assert_eq!(message_row(r#"{"type":"pong","t":1}"#), None);
    }

    #[test]
    fn an_id_tells_when_it_was_meant_to_be_sent() {
        let clock = Clock { zero: Instant::now(), run: 0x1abc };
        let intended = clock.zero() + Duration::from_micros(1_234_567);
        let id = clock.id(intended, 65_535);
        assert_eq!(id.0.get_version_num(), 7);
        assert_eq!(clock.intended(id), Some(intended));
        assert_ne!(id, clock.id(intended, 65_534));
        assert_eq!(Clock { run: 0x1abd, ..clock }.intended(id), None, "of another load");
    }
}
