//! What waits in the outbox, as a user interface lists it. Knows how to read what was written, not how it is sent.

use crate::client::model::{Delivery, MessageRef, Unsent, UnsentKind};
use crate::client::store::StoreError;
use crate::crypto::content::{Body, Content};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::ChannelId;

use super::lines::{Line, LineBody};
use super::outbox::{Entry, What};
use super::timeline::reference;
use super::{Cx, Engine};

/// More than anybody looks through.
const UNSENT_MAX: usize = 500;

impl Engine {
    /// What waits for the server or was refused, in the order of writing; the first [`UNSENT_MAX`].
    pub(super) fn unsent(&self, cx: &Cx<'_>) -> Result<Vec<Unsent>, StoreError> {
        let mut unsent = Vec::new();
        for order in self.outbox.rows().take(UNSENT_MAX) {
            let Some(Entry { what: What::Row(row), .. }) = self.entry(cx, order)? else { continue };
            let Ok(content) = Content::from_bytes(&row.content) else { continue };
            let own = MessageRef { author: self.me_id(), id: row.id };
            let (what, message, text) = match &content.body {
                Some(Body::Text(text)) => (UnsentKind::Message, Some(own), text.body.clone()),
                Some(Body::Edit(edit)) => {
                    let text = edit.text.as_ref().map(|text| text.body.clone()).unwrap_or_default();
                    (UnsentKind::Edit, reference(&edit.target), text)
                }
                Some(Body::Reaction(reaction)) => {
                    let what = UnsentKind::Reaction { remove: reaction.remove };
                    (what, reference(&reaction.target), reaction.emoji.clone())
                }
                Some(Body::Delete(delete)) => {
                    let target = reference(&delete.target);
                    (UnsentKind::Delete, target, self.text_of(cx, row.channel_id, target)?)
                }
                _ => (UnsentKind::Other, Some(own), String::new()),
            };
            let message = message.unwrap_or(own);
            let line = Line::load(&cx.db, row.channel_id, message)?;
            let delivery = match &line {
                Some(line) if what == UnsentKind::Message => line.value.delivery.clone(),
                _ => Delivery::Waiting,
            };
            unsent.push(Unsent {
                channel_id: row.channel_id,
                id: row.id,
                what,
                message,
                thread_root: line.and_then(|line| line.thread_root),
                text: text.into(),
                at: Timestamp(i64::try_from(content.sent_ms).unwrap_or(i64::MAX)),
                delivery,
            });
        }
        Ok(unsent)
    }

    fn text_of(&self, cx: &Cx<'_>, channel_id: ChannelId, message: Option<MessageRef>) -> Result<String, StoreError> {
        let Some(message) = message else { return Ok(String::new()) };
        Ok(match Line::load(&cx.db, channel_id, message)?.map(|line| line.value.body) {
            Some(LineBody::Text(text) | LineBody::Clear(text)) => text,
            _ => String::new(),
        })
    }
}
