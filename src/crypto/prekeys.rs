//! The secrets behind the published prekeys (TC/1 section 5): made, rotated, used and deleted here. Also remembers which
//! handshakes were accepted, because a replayed first message must be known as long as it could be answered (R11).
//! Cloning shares the secrets; it does not copy them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::Time;
use super::bundle::{DAY, KemPrekey, OneTimePrekey, SignedPrekey};
use super::dh::DhKeyPair;
use super::error::Error;
use super::frame::KemKind;
use super::identity::{Addr, LocalDevice};
use super::kem;
use super::secret::Secret;
use super::wire::{Reader, Writer};

/// A new signed prekey and last-resort ML-KEM prekey are made when the newest are this old.
pub const ROTATION: Time = 7 * DAY;
/// How long their secrets stay after a replacement.
pub const KEPT_REPLACED: Time = 30 * DAY;
/// How long the secret of a one-time prekey stays after the server first reported it gone.
pub const KEPT_GONE: Time = 37 * DAY;
/// One-time prekeys published, and the count below which they are refilled.
pub const ONE_TIME: Stock = Stock { full: 100, refill_below: 30 };
/// One-time ML-KEM prekeys published, and the count below which they are refilled.
pub const KEM_ONCE: Stock = Stock { full: 50, refill_below: 15 };
/// Accepted handshakes remembered; they expire with the prekeys that they used.
const MAX_ACCEPTED: usize = 20_000;
/// Of them, from one device: nobody uses up the room of all others. An honest device makes one in an hour at most (10.5).
const MAX_ACCEPTED_OF_ONE: usize = 1_000;
/// Secrets of one kind. Above it those go first that the server gave out longest ago: who fetches bundles without end must
/// not keep this device from publishing new ones (R10).
const MAX_SECRETS: usize = 1_000;

/// Version 2 knows who sent an accepted handshake.
const RECORD: u8 = 2;

/// How many prekeys of one kind the server should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    pub full: u32,
    pub refill_below: u32,
}

impl Stock {
    /// How many to make when the server holds `held`.
    pub const fn missing(self, held: u32) -> u32 {
        if held < self.refill_below { self.full - held } else { 0 }
    }
}

/// All prekey secrets of this device.
#[derive(Clone, Default)]
pub struct PrekeySecrets {
    signed: BTreeMap<u32, Kept<DhKeyPair>>,
    one_time: BTreeMap<u32, Kept<DhKeyPair>>,
    kem_once: BTreeMap<u32, Kept<Secret<64>>>,
    kem_last: BTreeMap<u32, Kept<Secret<64>>>,
    /// H(EK) of accepted handshakes.
    accepted: BTreeMap<[u8; 32], Used>,
    last_ids: LastIds,
}

/// A secret with the moment from which its deletion is counted: replaced, or reported gone.
struct Kept<T> {
    secret: Arc<T>,
    created: Time,
    since: Option<Time>,
}

/// The largest id ever given out per type; ids are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LastIds {
    signed: u32,
    one_time: u32,
    kem_once: u32,
    kem_last: u32,
}

/// The lasting prekeys of an accepted handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    /// Who sent it; unknown in records of version 1.
    by: Option<Addr>,
    signed: u32,
    /// The last-resort ML-KEM prekey, if it was one.
    kem_last: Option<u32>,
}

/// What an accepted first message used up: to be taken out in the transaction that stores the session and the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    pub(super) ephemeral_hash: [u8; 32],
    pub(super) sender: Addr,
    pub(super) spk_id: u32,
    pub(super) opk_id: Option<u32>,
    pub(super) kem_kind: KemKind,
    pub(super) kem_id: u32,
}

impl PrekeySecrets {
    /// A new signed prekey and last-resort ML-KEM prekey; the ones before count as replaced now. Draws SPK secret, KPK seed.
    ///
    /// # Errors
    /// `Limit` when the ids are used up.
    pub fn rotate<R: CryptoRng + ?Sized>(
        &mut self,
        me: &LocalDevice,
        now: Time,
        rng: &mut R,
    ) -> Result<(SignedPrekey, KemPrekey), Error> {
        let (signed_id, kem_id) = (next_id(self.last_ids.signed)?, next_id(self.last_ids.kem_last)?);
        (self.last_ids.signed, self.last_ids.kem_last) = (signed_id, kem_id);
        let (pair, seed) = (DhKeyPair::random(rng), Secret::random(rng));
        self.signed.values_mut().for_each(|kept| kept.leave(now));
        self.kem_last.values_mut().for_each(|kept| kept.leave(now));
        let signed = SignedPrekey::sign(me, signed_id, pair.public(), now);
        let kem = KemPrekey::sign(me, KemKind::Last, kem_id, kem::public_key(&seed), now);
        self.signed.insert(signed_id, Kept::new(pair, now));
        self.kem_last.insert(kem_id, Kept::new(seed, now));
        Ok((signed, kem))
    }

    /// Whether [`rotate`](Self::rotate) is due. A device back from a long absence drains its message queue first.
    pub fn rotation_due(&self, now: Time) -> bool {
        self.signed.values().all(|kept| kept.since.is_some() || now.saturating_sub(kept.created) >= ROTATION)
    }

    /// `count` new one-time prekeys. Draws one OPK secret each.
    ///
    /// # Errors
    /// `Limit` when that many have no room beside those that the server still holds.
    pub fn add_one_time<R: CryptoRng + ?Sized>(&mut self, count: u32, rng: &mut R) -> Result<Vec<OneTimePrekey>, Error> {
        make_room(&mut self.one_time, count)?;
        (0..count)
            .map(|_| {
                let id = next_id(self.last_ids.one_time)?;
                self.last_ids.one_time = id;
                let pair = DhKeyPair::random(rng);
                let public = pair.public();
                self.one_time.insert(id, Kept::new(pair, 0));
                Ok(OneTimePrekey { id, public })
            })
            .collect()
    }

    /// `count` new one-time ML-KEM prekeys. Draws one KPK seed each.
    ///
    /// # Errors
    /// As [`add_one_time`](Self::add_one_time).
    pub fn add_kem<R: CryptoRng + ?Sized>(
        &mut self,
        me: &LocalDevice,
        count: u32,
        now: Time,
        rng: &mut R,
    ) -> Result<Vec<KemPrekey>, Error> {
        make_room(&mut self.kem_once, count)?;
        (0..count)
            .map(|_| {
                let id = next_id(self.last_ids.kem_once)?;
                self.last_ids.kem_once = id;
                let seed = Secret::random(rng);
                let prekey = KemPrekey::sign(me, KemKind::Once, id, kem::public_key(&seed), now);
                self.kem_once.insert(id, Kept::new(seed, now));
                Ok(prekey)
            })
            .collect()
    }

    /// The server still holds so many one-time prekeys. It hands out the smallest id first, so all but the newest are gone;
    /// their secrets stay for first messages on the way.
    pub fn server_holds(&mut self, one_time: u32, kem_once: u32, now: Time) {
        leave_all_but_newest(&mut self.one_time, one_time, now);
        leave_all_but_newest(&mut self.kem_once, kem_once, now);
    }

    /// Deletes what has outlived its use (section 5).
    pub fn expire(&mut self, now: Time) {
        self.signed.retain(|_, kept| !kept.expired(KEPT_REPLACED, now));
        self.kem_last.retain(|_, kept| !kept.expired(KEPT_REPLACED, now));
        self.one_time.retain(|_, kept| !kept.expired(KEPT_GONE, now));
        self.kem_once.retain(|_, kept| !kept.expired(KEPT_GONE, now));
        let Self { signed, kem_last, accepted, .. } = self;
        accepted
            .retain(|_, used| signed.contains_key(&used.signed) || used.kem_last.is_some_and(|id| kem_last.contains_key(&id)));
    }

    /// Takes out what an accepted first message used, and remembers the message.
    pub fn consume(&mut self, consumed: &Consumed) {
        if let Some(id) = consumed.opk_id {
            self.one_time.remove(&id);
        }
        let kem_last = match consumed.kem_kind {
            KemKind::Once => {
                self.kem_once.remove(&consumed.kem_id);
                None
            }
            KemKind::Last => Some(consumed.kem_id),
        };
        let used = Used { by: Some(consumed.sender), signed: consumed.spk_id, kem_last };
        self.accepted.insert(consumed.ephemeral_hash, used);
    }

    pub(super) fn signed(&self, id: u32) -> Option<&Arc<DhKeyPair>> {
        self.signed.get(&id).map(|kept| &kept.secret)
    }

    pub(super) fn one_time(&self, id: u32) -> Option<&DhKeyPair> {
        self.one_time.get(&id).map(|kept| &*kept.secret)
    }

    pub(super) fn kem(&self, kind: KemKind, id: u32) -> Option<&Secret<64>> {
        let kept = match kind {
            KemKind::Once => self.kem_once.get(&id),
            KemKind::Last => self.kem_last.get(&id),
        };
        kept.map(|kept| &*kept.secret)
    }

    /// Whether a handshake with this H(EK) was accepted, or no more can be remembered of this sender or at all.
    pub(super) fn check_new(&self, ephemeral_hash: &[u8; 32], sender: Addr) -> Result<(), Error> {
        let of_sender = || self.accepted.values().filter(|used| used.by == Some(sender)).count();
        if self.accepted.contains_key(ephemeral_hash) {
            Err(Error::Replay)
        } else if self.accepted.len() >= MAX_ACCEPTED || of_sender() >= MAX_ACCEPTED_OF_ONE {
            Err(Error::Limit)
        } else {
            Ok(())
        }
    }

    /// The storage form, with all secrets.
    pub fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let Self { signed, one_time, kem_once, kem_last, accepted, last_ids } = self;
        let pairs = (signed.len() + one_time.len()) * (4 + 32 + 8 + 9);
        let seeds = (kem_once.len() + kem_last.len()) * (4 + 64 + 8 + 9);
        let mut writer = Writer::with_capacity(64 + pairs + seeds + accepted.len() * (32 + 21 + 4 + 5));
        writer.u8(RECORD).u32(last_ids.signed).u32(last_ids.one_time).u32(last_ids.kem_once).u32(last_ids.kem_last);
        for map in [signed, one_time] {
            write_all(&mut writer, map, |pair| pair.expose_secret());
        }
        for map in [kem_once, kem_last] {
            write_all(&mut writer, map, |seed| seed.expose());
        }
        writer.count(accepted.len());
        for (hash, used) in accepted {
            writer.bytes(hash).option(used.by, |writer, addr| {
                writer.bytes(&addr.to_bytes());
            });
            writer.u32(used.signed).option(used.kem_last, |writer, id| {
                writer.u32(id);
            });
        }
        writer.finish()
    }

    /// # Errors
    /// `Unsupported` for a record of a newer release, `Malformed` for one that is broken.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(record);
        let version = reader.u8()?;
        if !(1..=RECORD).contains(&version) {
            return Err(Error::Unsupported);
        }
        let last_ids =
            LastIds { signed: reader.u32()?, one_time: reader.u32()?, kem_once: reader.u32()?, kem_last: reader.u32()? };
        let pair = |bytes: &[u8; 32]| DhKeyPair::from_secret(Secret::copy_of(bytes));
        let (signed, one_time) = (read_all(&mut reader, pair)?, read_all(&mut reader, pair)?);
        let (kem_once, kem_last) = (read_all(&mut reader, Secret::copy_of)?, read_all(&mut reader, Secret::copy_of)?);
        let mut accepted = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let hash = *reader.array()?;
            let by = if version == 1 { None } else { reader.option(Addr::read)? };
            accepted.insert(hash, Used { by, signed: reader.u32()?, kem_last: reader.option(Reader::u32)? });
        }
        reader.end()?;
        Ok(Self { signed, one_time, kem_once, kem_last, accepted, last_ids })
    }
}

impl fmt::Debug for PrekeySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signed, one_time, kem_once, kem_last, accepted, last_ids } = self;
        f.debug_struct("PrekeySecrets")
            .field("signed", &signed.keys())
            .field("one_time", &one_time.len())
            .field("kem_once", &kem_once.len())
            .field("kem_last", &kem_last.keys())
            .field("accepted", &accepted.len())
            .field("last_ids", last_ids)
            .finish()
    }
}

impl<T> Kept<T> {
    fn new(secret: T, created: Time) -> Self {
        Self { secret: Arc::new(secret), created, since: None }
    }

    fn leave(&mut self, now: Time) {
        self.since.get_or_insert(now);
    }

    fn expired(&self, kept: Time, now: Time) -> bool {
        self.since.is_some_and(|since| now.saturating_sub(since) >= kept)
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { secret: Arc::clone(&self.secret), created: self.created, since: self.since }
    }
}

fn next_id(last: u32) -> Result<u32, Error> {
    last.checked_add(1).ok_or(Error::Limit)
}

/// Room for `more`: above the bound, what the server gave out goes, the oldest first.
fn make_room<T>(map: &mut BTreeMap<u32, Kept<T>>, more: u32) -> Result<(), Error> {
    let total = map.len().saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
    let surplus = total.saturating_sub(MAX_SECRETS);
    let gone: Vec<u32> = map.iter().filter(|(_, kept)| kept.since.is_some()).map(|(id, _)| *id).take(surplus).collect();
    if gone.len() < surplus {
        return Err(Error::Limit);
    }
    gone.iter().for_each(|id| drop(map.remove(id)));
    Ok(())
}

fn leave_all_but_newest<T>(map: &mut BTreeMap<u32, Kept<T>>, newest: u32, now: Time) {
    let newest = usize::try_from(newest).unwrap_or(usize::MAX);
    map.values_mut().rev().skip(newest).for_each(|kept| kept.leave(now));
}

fn write_all<T, const N: usize>(writer: &mut Writer, map: &BTreeMap<u32, Kept<T>>, expose: fn(&T) -> &[u8; N]) {
    writer.count(map.len());
    for (id, kept) in map {
        writer.u32(*id).bytes(expose(&kept.secret)).u64(kept.created).option(kept.since, |writer, since| {
            writer.u64(since);
        });
    }
}

fn read_all<T, const N: usize>(reader: &mut Reader<'_>, secret: impl Fn(&[u8; N]) -> T) -> Result<BTreeMap<u32, Kept<T>>, Error> {
    (0..reader.u32()?)
        .map(|_| {
            let (id, secret) = (reader.u32()?, Arc::new(secret(reader.array()?)));
            Ok((id, Kept { secret, created: reader.u64()?, since: reader.option(Reader::u64)? }))
        })
        .collect()
}

#[cfg(test)]
impl PrekeySecrets {
    /// Prekeys with the ids of a test vector.
    pub(crate) fn of_vector(
        signed: (u32, DhKeyPair),
        (kind, kem_id, seed): (KemKind, u32, Secret<64>),
        one_time: Option<(u32, DhKeyPair)>,
    ) -> Self {
        let mut keys = Self::default();
        keys.signed.insert(signed.0, Kept::new(signed.1, 0));
        let kem = if kind == KemKind::Once { &mut keys.kem_once } else { &mut keys.kem_last };
        kem.insert(kem_id, Kept::new(seed, 0));
        keys.one_time.extend(one_time.map(|(id, pair)| (id, Kept::new(pair, 0))));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::TestRng;

    const SENDER: Addr = Addr::new([2; 16], 1);

    fn device() -> (LocalDevice, TestRng) {
        let mut rng = TestRng::new(4);
        (LocalDevice::first([1; 16], 0, &mut rng).unwrap().0, rng)
    }

    #[test]
    fn replaced_prekeys_live_thirty_days_and_accepted_handshakes_as_long() {
        let (me, mut rng) = device();
        let mut keys = PrekeySecrets::default();
        assert!(keys.rotation_due(0));
        let (signed, kem) = keys.rotate(&me, 0, &mut rng).unwrap();
        assert!(!keys.rotation_due(ROTATION - 1) && keys.rotation_due(ROTATION));
        let consumed = Consumed {
            ephemeral_hash: [5; 32],
            sender: SENDER,
            spk_id: signed.id,
            opk_id: None,
            kem_kind: KemKind::Last,
            kem_id: kem.id,
        };
        keys.consume(&consumed);
        let (newer, _) = keys.rotate(&me, ROTATION, &mut rng).unwrap();
        assert_eq!(newer.id, signed.id + 1);
        keys.expire(ROTATION + KEPT_REPLACED - 1);
        assert!(keys.signed(signed.id).is_some() && keys.kem(KemKind::Last, kem.id).is_some());
        assert_eq!(keys.check_new(&[5; 32], SENDER), Err(Error::Replay));
        keys.expire(ROTATION + KEPT_REPLACED);
        assert!(keys.signed(signed.id).is_none() && keys.kem(KemKind::Last, kem.id).is_none());
        assert!(keys.signed(newer.id).is_some());
        assert_eq!(keys.check_new(&[5; 32], SENDER), Ok(()));
    }

    #[test]
    fn one_time_secrets_go_on_use_or_long_after_the_server_gave_them_out() {
        let (me, mut rng) = device();
        let mut keys = PrekeySecrets::default();
        let ids: Vec<u32> = keys.add_one_time(3, &mut rng).unwrap().iter().map(|key| key.id).collect();
        let kem = keys.add_kem(&me, 1, 0, &mut rng).unwrap().remove(0);
        assert_eq!(ids, [1, 2, 3]);
        keys.server_holds(1, 1, DAY);
        keys.server_holds(1, 1, 2 * DAY);
        keys.expire(DAY + KEPT_GONE - 1);
        assert!(ids.iter().all(|id| keys.one_time(*id).is_some()));
        keys.expire(DAY + KEPT_GONE);
        assert!(keys.one_time(1).is_none() && keys.one_time(2).is_none() && keys.one_time(3).is_some());
        let consumed = Consumed {
            ephemeral_hash: [5; 32],
            sender: SENDER,
            spk_id: 1,
            opk_id: Some(3),
            kem_kind: KemKind::Once,
            kem_id: kem.id,
        };
        keys.consume(&consumed);
        assert!(keys.one_time(3).is_none() && keys.kem(KemKind::Once, kem.id).is_none());
        assert_eq!(keys.add_one_time(1, &mut rng).unwrap()[0].id, 4, "ids are not reused");
        assert_eq!(keys.add_one_time(2_000, &mut rng), Err(Error::Limit));
    }

    #[test]
    fn stocks_are_refilled_to_the_full() {
        assert_eq!((ONE_TIME.missing(0), ONE_TIME.missing(29), ONE_TIME.missing(30)), (100, 71, 0));
        assert_eq!((KEM_ONCE.missing(14), KEM_ONCE.missing(15)), (36, 0));
    }

    #[test]
    fn who_empties_the_stock_cannot_keep_it_empty() {
        let (me, mut rng) = device();
        let mut keys = PrekeySecrets::default();
        for round in 0..12 {
            keys.add_one_time(100, &mut rng).unwrap();
            keys.server_holds(0, 0, round);
        }
        assert_eq!(keys.one_time.len(), MAX_SECRETS);
        assert!(keys.one_time(200).is_none() && keys.one_time(201).is_some() && keys.one_time(1_200).is_some());
        let mut keys = PrekeySecrets::default();
        for _ in 0..10 {
            keys.add_kem(&me, 1, 0, &mut rng).unwrap();
        }
        assert_eq!(keys.add_kem(&me, 991, 0, &mut rng), Err(Error::Limit), "what the server holds stays");
        assert_eq!(keys.kem_once.len(), 10);
    }

    #[test]
    fn handshakes_of_one_device_leave_room_for_those_of_others() {
        let mut keys = PrekeySecrets::default();
        for n in 0..MAX_ACCEPTED_OF_ONE as u32 {
            let mut ephemeral_hash = [0; 32];
            ephemeral_hash[..4].copy_from_slice(&n.to_be_bytes());
            assert_eq!(keys.check_new(&ephemeral_hash, SENDER), Ok(()));
            let (opk_id, kem_kind, kem_id) = (None, KemKind::Last, 1);
            keys.consume(&Consumed { ephemeral_hash, sender: SENDER, spk_id: 1, opk_id, kem_kind, kem_id });
        }
        assert_eq!(keys.check_new(&[9; 32], SENDER), Err(Error::Limit));
        assert_eq!(keys.check_new(&[0; 32], SENDER), Err(Error::Replay));
        assert_eq!(keys.check_new(&[9; 32], Addr::new([2; 16], 2)), Ok(()));
    }

    #[test]
    fn secrets_are_restored_from_their_record_and_not_printed() {
        let (me, mut rng) = device();
        let mut keys = PrekeySecrets::default();
        keys.rotate(&me, 7, &mut rng).unwrap();
        keys.add_one_time(2, &mut rng).unwrap();
        keys.add_kem(&me, 1, 7, &mut rng).unwrap();
        keys.server_holds(1, 0, 9);
        let consumed =
            Consumed { ephemeral_hash: [5; 32], sender: SENDER, spk_id: 1, opk_id: None, kem_kind: KemKind::Last, kem_id: 1 };
        keys.consume(&consumed);
        let record = keys.to_record();
        let again = PrekeySecrets::from_record(&record).unwrap();
        assert_eq!(*again.to_record(), *record);
        let text = format!("{keys:?}");
        assert!(!text.contains(&hex::encode(keys.one_time(1).unwrap().expose_secret())), "{text}");
        assert!(PrekeySecrets::from_record(&record[..record.len() - 1]).is_err());
        assert_eq!(PrekeySecrets::from_record(&[9]).unwrap_err(), Error::Unsupported);
    }
}
