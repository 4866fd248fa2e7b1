//! The store in memory: the reference for the contract, and what tests and throw-away clients use. It keeps nothing.

use std::collections::BTreeMap;

use crate::protocol::ids::ChannelId;

use super::{Changes, From, Lines, MessageRef, Position, Store, StoreError, StoredMessage, Table, TextQuery, Value};

/// See the module's documentation.
#[derive(Default)]
pub struct MemoryStore {
    records: BTreeMap<Table, BTreeMap<Vec<u8>, Value>>,
    messages: BTreeMap<ChannelId, BTreeMap<MessageRef, StoredMessage>>,
    /// The order of a timeline.
    order: BTreeMap<ChannelId, BTreeMap<(Position, MessageRef), ()>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// What a restart would find.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self { records: self.records.clone(), messages: self.messages.clone(), order: self.order.clone() }
    }

    fn remove_message(&mut self, channel_id: ChannelId, key: MessageRef) {
        if let Some(old) = self.messages.entry(channel_id).or_default().remove(&key) {
            self.order.entry(channel_id).or_default().remove(&(old.position, key));
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        Ok(self.records.get(&table).and_then(|records| records.get(key)).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        let Some(records) = self.records.get(&table) else { return Ok(Vec::new()) };
        let start = after.map_or(prefix, |after| after.max(prefix)).to_vec();
        Ok(records
            .range(start..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn message(&self, channel_id: ChannelId, key: MessageRef) -> Result<Option<StoredMessage>, StoreError> {
        Ok(self.messages.get(&channel_id).and_then(|messages| messages.get(&key)).cloned())
    }

    fn page(&self, channel_id: ChannelId, lines: Lines, from: From, limit: usize) -> Result<Vec<StoredMessage>, StoreError> {
        let (Some(messages), Some(order)) = (self.messages.get(&channel_id), self.order.get(&channel_id)) else {
            return Ok(Vec::new());
        };
        let wanted = order.keys().filter_map(|(_, key)| messages.get(key)).filter(|message| lines.include(message));
        let mut page: Vec<StoredMessage> = match from {
            From::End => wanted.rev().take(limit).cloned().collect(),
            From::Before(at) => wanted.rev().filter(|message| message.position < at).take(limit).cloned().collect(),
            From::After(at) => wanted.filter(|message| message.position > at).take(limit).cloned().collect(),
        };
        if !matches!(from, From::After(_)) {
            page.reverse();
        }
        Ok(page)
    }

    fn search(&self, query: &TextQuery) -> Result<Vec<StoredMessage>, StoreError> {
        let terms: Vec<String> = query.terms.iter().map(|term| term.to_lowercase()).collect();
        let mut hits: Vec<&StoredMessage> = self
            .messages
            .iter()
            .filter(|(channel_id, _)| query.channels.is_empty() || query.channels.contains(channel_id))
            .flat_map(|(_, messages)| messages.values())
            .filter(|message| query.authors.is_empty() || query.authors.contains(&message.key.author))
            .filter(|message| {
                message.text.as_ref().is_some_and(|text| {
                    let text = text.to_lowercase();
                    terms.iter().all(|term| text.contains(term))
                })
            })
            .collect();
        hits.sort_by_key(|message| std::cmp::Reverse((message.key.id, message.key.author)));
        Ok(hits.into_iter().take(query.limit).cloned().collect())
    }

    fn save(&mut self, changes: Changes) -> Result<(), StoreError> {
        for ((table, key), value) in changes.records {
            let records = self.records.entry(table).or_default();
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        for ((channel_id, key), message) in changes.messages {
            self.remove_message(channel_id, key);
            if let Some(message) = message {
                self.order.entry(channel_id).or_default().insert((message.position, key), ());
                self.messages.entry(channel_id).or_default().insert(key, message);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryStore;

    crate::client::store::conformance::store_tests!(MemoryStore::new);
}
