//! The storage form of a log: a snapshot, so that neither a client at its start nor the server at each operation replays
//! the whole history. It holds no secret. The store keeps it authentic: nothing is verified again on the way in.

use super::super::error::Error;
use super::super::identity::Addr;
use super::super::wire::{Reader, Writer};
use super::{BTreeMap, BTreeSet, ChannelState, Conflict, Epoch, Hash, InvitePolicy, Log, LogKind, Member, Role, Standing};

const RECORD: u8 = 1;

impl Log {
    /// The whole state. Grows by 32 bytes with every operation, and with members.
    pub fn to_record(&self) -> Vec<u8> {
        let Self {
            id,
            kind,
            heads,
            people,
            banned,
            open,
            invite_role,
            invites,
            invite_uses,
            channels,
            list_floors,
            signers,
            shrunk_at,
            resumed_at,
            conflicts,
            discarded,
        } = self;
        let mut writer = Writer::with_capacity(1024 + 32 * heads.len() + 200 * people.len());
        writer.u8(RECORD).bytes(id).u8(*kind as u8).count(heads.len());
        for head in heads {
            writer.bytes(head);
        }
        writer.count(people.len());
        for (user, standings) in people {
            writer.bytes(user).count(standings.len());
            for standing in standings {
                write_standing(&mut writer, standing);
            }
        }
        writer.count(banned.len());
        for user in banned {
            writer.bytes(user);
        }
        writer.bool(*open).u8(*invite_role as u8).count(invites.len());
        for (key, InvitePolicy { max_uses, expires }) in invites {
            writer.bytes(key).u32(*max_uses).u64(*expires);
        }
        writer.count(invite_uses.len());
        for (key, uses) in invite_uses {
            writer.bytes(key).u32(*uses);
        }
        writer.count(channels.len());
        for (channel, state) in channels {
            writer.bytes(channel).bool(*state == ChannelState::Live);
        }
        writer.count(list_floors.len());
        for ((user, identity), seq) in list_floors {
            writer.bytes(user).bytes(identity).u64(*seq);
        }
        writer.count(signers.len());
        for (addr, (epoch, cert)) in signers {
            writer.bytes(&addr.to_bytes()).u64(*epoch).bytes(cert);
        }
        write_epoch(&mut writer, *shrunk_at);
        write_epoch(&mut writer, *resumed_at);
        writer.count(conflicts.len());
        for Conflict { seq, head, op } in conflicts {
            writer.u64(*seq).bytes(head).long(op);
        }
        writer.count(discarded.len());
        for hash in discarded {
            writer.bytes(hash);
        }
        writer.finish().to_vec()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, `Malformed` for one that is broken.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        if reader.u8()? != RECORD {
            return Err(Error::Unsupported);
        }
        let log = Self {
            id: *reader.array()?,
            kind: LogKind::from_byte(reader.u8()?)?,
            heads: list(&mut reader, |reader| reader.array().copied())?,
            people: map(&mut reader, |reader| Ok((*reader.array()?, list(reader, read_standing)?)))?,
            banned: set(&mut reader, |reader| reader.array().copied())?,
            open: reader.bool()?,
            invite_role: Role::from_byte(reader.u8()?)?,
            invites: map(&mut reader, |reader| {
                Ok((*reader.array()?, InvitePolicy { max_uses: reader.u32()?, expires: reader.u64()? }))
            })?,
            invite_uses: map(&mut reader, |reader| Ok((*reader.array()?, reader.u32()?)))?,
            channels: map(&mut reader, |reader| {
                let channel = *reader.array()?;
                Ok((channel, if reader.bool()? { ChannelState::Live } else { ChannelState::ReadOnly }))
            })?,
            list_floors: map(&mut reader, |reader| Ok(((*reader.array()?, *reader.array()?), reader.u64()?)))?,
            signers: map(&mut reader, |reader| Ok((Addr::read(reader)?, (reader.u64()?, *reader.array()?))))?,
            shrunk_at: reader.option(Reader::u64)?,
            resumed_at: reader.option(Reader::u64)?,
            conflicts: list(&mut reader, |reader| {
                Ok(Conflict { seq: reader.u64()?, head: *reader.array()?, op: reader.long()?.to_vec() })
            })?,
            discarded: set(&mut reader, |reader| reader.array().copied())?,
        };
        reader.end()?;
        if log.heads.is_empty() { Err(Error::Malformed) } else { Ok(log) }
    }
}

fn write_standing(writer: &mut Writer, Standing { at, member }: &Standing) {
    writer.u64(*at).option(member.as_ref(), |writer, member| {
        let Member { identity, role, since, added_by, added_with } = member;
        writer.bytes(identity).u8(*role as u8).u64(*since).bytes(&added_by.to_bytes()).bytes(added_with);
    });
}

fn read_standing(reader: &mut Reader<'_>) -> Result<Standing, Error> {
    let at = reader.u64()?;
    let member = reader.option(|reader| {
        Ok(Member {
            identity: *reader.array()?,
            role: Role::from_byte(reader.u8()?)?,
            since: reader.u64()?,
            added_by: Addr::read(reader)?,
            added_with: *reader.array::<{ size_of::<Hash>() }>()?,
        })
    })?;
    Ok(Standing { at, member })
}

fn write_epoch(writer: &mut Writer, epoch: Option<Epoch>) {
    writer.option(epoch, |writer, epoch| {
        writer.u64(epoch);
    });
}

/// The items after their count. Nothing is reserved for the count: a broken record must not ask for memory.
fn list<T>(reader: &mut Reader<'_>, mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let mut items = Vec::new();
    for _ in 0..reader.u32()? {
        items.push(read(reader)?);
    }
    Ok(items)
}

fn map<K: Ord, V>(
    reader: &mut Reader<'_>,
    read: impl FnMut(&mut Reader<'_>) -> Result<(K, V), Error>,
) -> Result<BTreeMap<K, V>, Error> {
    Ok(list(reader, read)?.into_iter().collect())
}

fn set<T: Ord>(reader: &mut Reader<'_>, read: impl FnMut(&mut Reader<'_>) -> Result<T, Error>) -> Result<BTreeSet<T>, Error> {
    Ok(list(reader, read)?.into_iter().collect())
}
