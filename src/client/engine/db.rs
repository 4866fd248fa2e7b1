//! What a step reads and writes: the store with the step's own changes laid over it, so that a later event of one batch sees
//! what an earlier one changed. Knows records and keys, not what they mean.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::client::model::MessageRef;
use crate::client::store::{Changes, From, Lines, Position, Store, StoreError, StoredMessage, Table, Value};
use crate::protocol::ids::{ChannelId, DeviceAddr, UserId};

/// See the module's documentation.
pub(super) struct Db<'a> {
    store: &'a dyn Store,
    pub(super) changes: Changes,
}

/// How many records one scan takes from the store at a time.
const SCAN_PAGE: usize = 500;

impl<'a> Db<'a> {
    pub(super) fn new(store: &'a dyn Store) -> Self {
        Self { store, changes: Changes::default() }
    }

    pub(super) const fn store(&self) -> &'a dyn Store {
        self.store
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        match self.changes.records.get(&(table, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.store.get(table, key),
        }
    }

    pub(super) fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.put(table, key, value);
    }

    pub(super) fn put_value(&mut self, table: Table, key: impl Into<Vec<u8>>, value: Value) {
        self.changes.records.insert((table, key.into()), Some(value));
    }

    pub(super) fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.delete(table, key);
    }

    pub(super) fn has(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(table, key)?.is_some())
    }

    /// A record that is a plain value of ours.
    pub(super) fn load<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(table, key)?.map(|value| unpack(table, &value)).transpose()
    }

    pub(super) fn save<T: Serialize>(&mut self, table: Table, key: impl Into<Vec<u8>>, value: &T) -> Result<(), StoreError> {
        let value = pack(table, value)?;
        self.put_value(table, key, value);
        Ok(())
    }

    /// Every record under a prefix, ascending, at most `limit`.
    pub(super) fn scan(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        self.scan_after(table, prefix, None, limit)
    }

    /// As [`Db::scan`], of the records behind one.
    pub(super) fn scan_after(
        &self,
        table: Table,
        prefix: &[u8],
        mut after: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        let mut found = Vec::new();
        // What this step wrote replaces what the store has; both are in order, so they are merged by key.
        let first = after.clone().filter(|after| after.as_slice() > prefix).unwrap_or_else(|| prefix.to_vec());
        let mut written = self
            .changes
            .records
            .range((table, first)..)
            .take_while(|((t, key), _)| *t == table && key.starts_with(prefix))
            .map(|((_, key), value)| (key, value))
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .collect::<Vec<_>>()
            .into_iter()
            .peekable();
        loop {
            let page_size = SCAN_PAGE.min(limit.max(1));
            let page = self.store.scan(table, prefix, after.as_deref(), page_size)?;
            let last_page = page.len() < page_size;
            for (key, value) in page {
                after = Some(key.clone());
                while let Some((own, change)) = written.next_if(|(own, _)| own.as_slice() < key.as_slice()) {
                    found.extend(change.clone().map(|value| (own.clone(), value)));
                }
                match written.next_if(|(own, _)| own.as_slice() == key.as_slice()) {
                    Some((own, change)) => found.extend(change.clone().map(|value| (own.clone(), value))),
                    None => found.push((key, value)),
                }
                if found.len() >= limit {
                    found.truncate(limit);
                    return Ok(found);
                }
            }
            if last_page {
                break;
            }
        }
        found.extend(written.filter_map(|(key, change)| change.clone().map(|value| (key.clone(), value))));
        found.truncate(limit);
        Ok(found)
    }

    /// As [`Db::scan`], decoded.
    pub(super) fn load_all<T: DeserializeOwned>(
        &self,
        table: Table,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        self.scan(table, prefix, limit)?.into_iter().map(|(key, value)| Ok((key, unpack(table, &value)?))).collect()
    }

    /// Deletes everything under a prefix.
    pub(super) fn delete_all(&mut self, table: Table, prefix: &[u8]) -> Result<(), StoreError> {
        for (key, _) in self.scan(table, prefix, usize::MAX)? {
            self.delete(table, key);
        }
        Ok(())
    }

    pub(super) fn message(&self, channel_id: ChannelId, key: MessageRef) -> Result<Option<StoredMessage>, StoreError> {
        match self.changes.messages.get(&(channel_id, key)) {
            Some(message) => Ok(message.clone()),
            None => self.store.message(channel_id, key),
        }
    }

    pub(super) fn page(
        &self,
        channel_id: ChannelId,
        lines: Lines,
        from: From,
        limit: usize,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        let first = MessageRef { author: UserId::from_bytes([0; 16]), id: crate::protocol::ids::MessageId::from_bytes([0; 16]) };
        let changed: Vec<(&MessageRef, &Option<StoredMessage>)> = self
            .changes
            .messages
            .range((channel_id, first)..)
            .take_while(|((channel, _), _)| *channel == channel_id)
            .map(|((_, key), message)| (key, message))
            .collect();
        let mut page = self.store.page(channel_id, lines, from, limit.saturating_add(changed.len()))?;
        if changed.is_empty() {
            return Ok(page);
        }
        page.retain(|message| !changed.iter().any(|(key, _)| **key == message.key));
        let inside = |position: Position| match from {
            From::End => true,
            From::Before(at) => position < at,
            From::After(at) => position > at,
        };
        page.extend(
            changed
                .iter()
                .filter_map(|(_, message)| message.as_ref())
                .filter(|message| lines.include(message) && inside(message.position))
                .cloned(),
        );
        page.sort_by_key(|message| (message.position, message.key));
        if page.len() > limit {
            match from {
                From::After(_) => page.truncate(limit),
                From::End | From::Before(_) => drop(page.drain(..page.len() - limit)),
            }
        }
        Ok(page)
    }

    /// The next number of a counter of this profile: from 1, never twice.
    pub(super) fn next_number(&mut self, name: &str) -> Result<u64, StoreError> {
        let key = [b"count/", name.as_bytes()].concat();
        let next = self.load::<u64>(Table::Account, &key)?.unwrap_or(0) + 1;
        self.save(Table::Account, key, &next)?;
        Ok(next)
    }
}

pub(super) fn pack<T: Serialize>(table: Table, value: &T) -> Result<Value, StoreError> {
    rmp_serde::to_vec_named(value)
        .map(Zeroizing::new)
        .map_err(|error| StoreError::Damaged { table: table.name(), what: error.to_string() })
}

pub(super) fn unpack<T: DeserializeOwned>(table: Table, value: &[u8]) -> Result<T, StoreError> {
    rmp_serde::from_slice(value).map_err(|error| StoreError::Damaged { table: table.name(), what: error.to_string() })
}

/// A record whose bytes another module wrote does not parse.
pub(super) fn damaged(table: Table, what: impl ToString) -> StoreError {
    StoreError::Damaged { table: table.name(), what: what.to_string() }
}

/// Keys are the concatenation of fixed-length parts.
pub(super) fn key(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn addr_key(addr: DeviceAddr) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(addr.user_id.as_bytes());
    bytes[16..].copy_from_slice(&addr.device_id.to_be_bytes());
    bytes
}

/// The inverse of [`addr_key`].
pub(super) fn addr_of(bytes: &[u8]) -> Option<DeviceAddr> {
    let (user, device) = bytes.split_first_chunk::<16>()?;
    Some(DeviceAddr { user_id: UserId::from_bytes(*user), device_id: u32::from_be_bytes(device.try_into().ok()?) })
}

pub(super) fn reference_key(reference: MessageRef) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(reference.author.as_bytes());
    bytes[16..].copy_from_slice(reference.id.as_bytes());
    bytes
}

/// The inverse of [`reference_key`], for the end of a longer key.
pub(super) fn reference_of(bytes: &[u8]) -> Option<MessageRef> {
    let (author, id) = bytes.split_at_checked(16)?;
    Some(MessageRef {
        author: UserId::from_bytes(author.try_into().ok()?),
        id: crate::protocol::ids::MessageId::from_bytes(id.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::store::MemoryStore;
    use crate::protocol::ids::MessageId;

    fn message(id: u8, seq: u64) -> StoredMessage {
        StoredMessage {
            channel_id: ChannelId::from_bytes([1; 16]),
            key: MessageRef { author: UserId::from_bytes([2; 16]), id: MessageId::from_bytes([id; 16]) },
            position: Position::row(seq),
            thread_root: None,
            text: None,
            value: Zeroizing::new(vec![id]),
        }
    }

    #[test]
    fn a_step_reads_what_it_wrote() {
        let mut store = MemoryStore::new();
        let mut before = Changes::default();
        for n in [1u8, 3, 5] {
            before.put(Table::Held, vec![9, n], vec![n]);
            before.put_message(message(n, u64::from(n)));
        }
        store.save(before).unwrap();
        let mut db = Db::new(&store);
        db.put(Table::Held, vec![9, 4], vec![40]);
        db.put(Table::Held, vec![9, 5], vec![50]);
        db.put(Table::Held, vec![9, 9], vec![90]);
        db.delete(Table::Held, vec![9, 1]);
        let found: Vec<u8> = db.scan(Table::Held, &[9], 10).unwrap().into_iter().map(|(_, value)| value[0]).collect();
        assert_eq!(found, [3, 40, 50, 90]);
        assert_eq!(db.scan(Table::Held, &[9], 2).unwrap().len(), 2);
        assert_eq!(db.get(Table::Held, &[9, 1]).unwrap(), None);

        db.changes.put_message(message(4, 4));
        db.changes.put_message(message(5, 2));
        db.changes.delete_message(ChannelId::from_bytes([1; 16]), message(3, 3).key);
        let ids = |page: Vec<StoredMessage>| page.into_iter().map(|message| message.value[0]).collect::<Vec<_>>();
        let channel_id = ChannelId::from_bytes([1; 16]);
        assert_eq!(ids(db.page(channel_id, Lines::All, From::End, 10).unwrap()), [1, 5, 4]);
        assert_eq!(ids(db.page(channel_id, Lines::All, From::End, 2).unwrap()), [5, 4]);
        assert_eq!(ids(db.page(channel_id, Lines::All, From::After(Position::row(1)), 1).unwrap()), [5]);
        assert_eq!(ids(db.page(channel_id, Lines::All, From::Before(Position::row(4)), 1).unwrap()), [5]);
    }
}
