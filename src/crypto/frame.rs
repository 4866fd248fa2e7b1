//! Frames (TC/1 section 8): the outer form of every encrypted message, parsed without copying. A frame says who claims to
//! have sent what under which keys; nothing of it is authentic before it was opened.

use super::cert::DeviceCert;
use super::dh::DhPublic;
use super::error::Error;
use super::identity::Addr;
use super::kem::KEM_LEN;
use super::padding;
use super::signature::SIGNATURE_LEN;
use super::wire::{Reader, Writer};

/// The only suite.
pub const SUITE_1: u16 = 1;
/// Bytes of a frame.
pub const MAX_FRAME: usize = 65_536;
/// PN, N, iteration and gen stay below this.
pub const COUNTER_END: u32 = 1 << 31;
/// Bytes of the random wire nonce that travels beside a frame.
pub const WIRE_NONCE_LEN: usize = 12;
/// What stands in a frame of type 2 between its first four bytes and the session id.
pub const HANDSHAKE_LEN: usize = 4 + 32 + DeviceCert::LEN + 32 + 4 + 1 + 4 + 1 + 4 + KEM_LEN;
/// Bytes of commit and tag.
pub const COMMIT_LEN: usize = 32;

const VERSION: u8 = 1;
const TAG_LEN: usize = super::aead::TAG_LEN;
const DM_HEADER: usize = 60;
const FIRST_HEADER: usize = DM_HEADER + HANDSHAKE_LEN;
const CHANNEL_HEADER: usize = 56;

/// A parsed frame; it borrows the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Types 1 and 2.
    Dm(DmFrame<'a>),
    /// Type 3.
    Channel(ChannelFrame<'a>),
}

/// A message of one device to another. With a handshake: type 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmFrame<'a> {
    /// All bytes before `commit`: part of the associated data.
    pub header: &'a [u8],
    pub handshake: Option<Handshake<'a>>,
    pub session_id: [u8; 16],
    pub ratchet_key: DhPublic,
    /// Messages of the sender's previous chain.
    pub pn: u32,
    /// Number of the message in its chain.
    pub n: u32,
    pub commit: &'a [u8; COMMIT_LEN],
    /// ct ‖ tag.
    pub sealed: &'a [u8],
}

/// What the responder needs to make the session (section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    pub generation: u32,
    /// EK.
    pub ephemeral: DhPublic,
    pub certificate: &'a [u8; DeviceCert::LEN],
    /// The sender as its certificate claims.
    pub sender: Addr,
    /// UIK.
    pub identity: &'a [u8; 32],
    pub spk_id: u32,
    pub opk_id: Option<u32>,
    pub kem_kind: KemKind,
    pub kem_id: u32,
    pub kem_ct: &'a [u8; KEM_LEN],
}

/// Which kind of ML-KEM prekey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KemKind {
    Once = 1,
    Last = 2,
}

/// A message to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelFrame<'a> {
    /// All bytes before `commit`: part of the associated data and of what is signed.
    pub header: &'a [u8],
    pub channel_id: [u8; 16],
    pub sender: Addr,
    pub chain_id: u32,
    pub iteration: u32,
    pub epoch: u64,
    pub commit: &'a [u8; COMMIT_LEN],
    /// ct ‖ tag.
    pub sealed: &'a [u8],
    pub signature: &'a [u8; SIGNATURE_LEN],
}

impl<'a> Frame<'a> {
    /// Checks in the order of section 8: the whole length, version, type and suite, the padded size, then the fields.
    ///
    /// # Errors
    /// `Malformed`, or `Unsupported` for what a later client may understand.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if !(4..=MAX_FRAME).contains(&bytes.len()) {
            return Err(Error::Malformed);
        }
        let mut reader = Reader::new(bytes);
        let (version, kind, suite) = (reader.u8()?, reader.u8()?, reader.u16()?);
        if version != VERSION || suite != SUITE_1 {
            return Err(Error::Unsupported);
        }
        let (header_len, tail) = match kind {
            1 => (DM_HEADER, 0),
            2 => (FIRST_HEADER, 0),
            3 => (CHANNEL_HEADER, SIGNATURE_LEN),
            _ => return Err(Error::Unsupported),
        };
        let (header, body) = bytes.split_at_checked(header_len).ok_or(Error::Malformed)?;
        let (commit, body) = body.split_first_chunk().ok_or(Error::Malformed)?;
        let sealed_len = body.len().checked_sub(tail).ok_or(Error::Malformed)?;
        let (sealed, tail) = body.split_at_checked(sealed_len).ok_or(Error::Malformed)?;
        if !sealed.len().checked_sub(TAG_LEN).is_some_and(padding::is_padded_size) {
            return Err(Error::Malformed);
        }
        match kind {
            3 => {
                let signature = tail.try_into().map_err(|_| Error::Malformed)?;
                ChannelFrame::read(reader, header, commit, sealed, signature).map(Frame::Channel)
            }
            kind => {
                let handshake = if kind == 2 { Some(Handshake::read(&mut reader)?) } else { None };
                DmFrame::read(reader, header, handshake, commit, sealed).map(Frame::Dm)
            }
        }
    }

    /// The frame of a DM.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); `Malformed` also for a channel frame.
    pub fn parse_dm(bytes: &'a [u8]) -> Result<DmFrame<'a>, Error> {
        match Self::parse(bytes)? {
            Frame::Dm(frame) => Ok(frame),
            Frame::Channel(_) => Err(Error::Malformed),
        }
    }

    /// The frame of a channel message.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); `Malformed` also for a DM frame.
    pub fn parse_channel(bytes: &'a [u8]) -> Result<ChannelFrame<'a>, Error> {
        match Self::parse(bytes)? {
            Frame::Channel(frame) => Ok(frame),
            Frame::Dm(_) => Err(Error::Malformed),
        }
    }
}

impl<'a> DmFrame<'a> {
    fn read(
        mut reader: Reader<'a>,
        header: &'a [u8],
        handshake: Option<Handshake<'a>>,
        commit: &'a [u8; COMMIT_LEN],
        sealed: &'a [u8],
    ) -> Result<Self, Error> {
        let session_id = *reader.array()?;
        let ratchet_key = DhPublic(*reader.array()?);
        let (pn, n) = (reader.u32()?, reader.u32()?);
        if pn >= COUNTER_END || n >= COUNTER_END || (handshake.is_some() && pn != 0) {
            return Err(Error::Malformed);
        }
        Ok(Self { header, handshake, session_id, ratchet_key, pn, n, commit, sealed })
    }

    /// The handshake part of the header as it stands in the frame.
    pub fn handshake_bytes(&self) -> Option<&'a [u8; HANDSHAKE_LEN]> {
        self.handshake.and_then(|_| self.header.get(4..)?.first_chunk())
    }
}

impl<'a> Handshake<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let generation = reader.u32()?;
        let ephemeral = DhPublic(*reader.array()?);
        let certificate: &[u8; DeviceCert::LEN] = reader.array()?;
        let identity = reader.array()?;
        let (spk_id, has_opk, opk_id) = (reader.u32()?, reader.bool()?, reader.u32()?);
        let (kem_kind, kem_id) = (KemKind::try_from(reader.u8()?)?, reader.u32()?);
        let kem_ct = reader.array()?;
        let mut body = Reader::new(certificate);
        body.u8()?;
        let sender = Addr::read(&mut body)?;
        let counters_fit = (1..COUNTER_END).contains(&generation) && has_opk == (opk_id != 0);
        if !counters_fit || spk_id == 0 || kem_id == 0 {
            return Err(Error::Malformed);
        }
        let opk_id = has_opk.then_some(opk_id);
        Ok(Self { generation, ephemeral, certificate, sender, identity, spk_id, opk_id, kem_kind, kem_id, kem_ct })
    }

    /// The form in which it stands in a frame.
    pub fn to_bytes(&self) -> Box<[u8; HANDSHAKE_LEN]> {
        let Self { generation, ephemeral, certificate, sender: _, identity, spk_id, opk_id, kem_kind, kem_id, kem_ct } = self;
        let mut writer = Writer::with_capacity(HANDSHAKE_LEN);
        writer.u32(*generation).bytes(ephemeral.as_bytes()).bytes(*certificate).bytes(*identity).u32(*spk_id);
        writer.bool(opk_id.is_some()).u32(opk_id.unwrap_or(0)).u8(*kem_kind as u8).u32(*kem_id).bytes(*kem_ct);
        let written = writer.finish();
        let mut bytes = Box::new([0; HANDSHAKE_LEN]);
        bytes.copy_from_slice(&written);
        bytes
    }
}

impl TryFrom<u8> for KemKind {
    type Error = Error;

    fn try_from(kind: u8) -> Result<Self, Error> {
        match kind {
            1 => Ok(Self::Once),
            2 => Ok(Self::Last),
            _ => Err(Error::Malformed),
        }
    }
}

impl<'a> ChannelFrame<'a> {
    fn read(
        mut reader: Reader<'a>,
        header: &'a [u8],
        commit: &'a [u8; COMMIT_LEN],
        sealed: &'a [u8],
        signature: &'a [u8; SIGNATURE_LEN],
    ) -> Result<Self, Error> {
        let channel_id = *reader.array()?;
        let sender = Addr::read(&mut reader)?;
        let (chain_id, iteration, epoch) = (reader.u32()?, reader.u32()?, reader.u64()?);
        if iteration >= COUNTER_END || epoch >= 1 << 63 {
            return Err(Error::Malformed);
        }
        Ok(Self { header, channel_id, sender, chain_id, iteration, epoch, commit, sealed, signature })
    }

    /// A header of type 3, 56 bytes.
    pub fn header_bytes(channel_id: &[u8; 16], sender: Addr, chain_id: u32, iteration: u32, epoch: u64) -> [u8; 56] {
        let mut writer = Writer::with_capacity(CHANNEL_HEADER);
        writer.u8(VERSION).u8(3).u16(SUITE_1).bytes(channel_id).bytes(&sender.to_bytes());
        let written = writer.u32(chain_id).u32(iteration).u64(epoch).finish();
        let mut header = [0; CHANNEL_HEADER];
        header.copy_from_slice(&written);
        header
    }
}

/// Appends a header of type 1, or of type 2 with a handshake, to `out`.
pub(super) fn write_dm_header(
    out: &mut Vec<u8>,
    handshake: Option<&[u8; HANDSHAKE_LEN]>,
    session_id: &[u8; 16],
    ratchet_key: &DhPublic,
    pn: u32,
    n: u32,
) {
    out.extend_from_slice(&[VERSION, if handshake.is_some() { 2 } else { 1 }]);
    out.extend_from_slice(&SUITE_1.to_be_bytes());
    if let Some(handshake) = handshake {
        out.extend_from_slice(handshake);
    }
    out.extend_from_slice(session_id);
    out.extend_from_slice(ratchet_key.as_bytes());
    out.extend_from_slice(&pn.to_be_bytes());
    out.extend_from_slice(&n.to_be_bytes());
}

/// Bytes of a DM frame for a padded content of `padded` bytes.
pub(super) const fn dm_frame_len(handshake: bool, padded: usize) -> usize {
    (if handshake { FIRST_HEADER } else { DM_HEADER }) + COMMIT_LEN + padded + TAG_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of the given type with the smallest content and only zeros, then valid ids.
    fn frame(kind: u8) -> Vec<u8> {
        let mut bytes = vec![1, kind, 0, 1];
        let rest = match kind {
            1 => 56 + 32 + 128 + 16,
            2 => 56 + HANDSHAKE_LEN + 32 + 128 + 16,
            _ => 52 + 32 + 128 + 16 + 64,
        };
        bytes.resize(4 + rest, 0);
        if kind == 2 {
            bytes[7] = 1; // gen
            bytes[4 + 36 + 20] = 1; // device id in the certificate
            bytes[4 + 36 + 225 + 32 + 3] = 1; // spk id
            bytes[4 + 36 + 225 + 32 + 9] = 1; // kem kind
            bytes[4 + 36 + 225 + 32 + 13] = 1; // kem id
        } else if kind == 3 {
            bytes[4 + 16 + 19] = 1; // device id
        }
        bytes
    }

    #[test]
    fn the_three_types_parse() {
        for (kind, header) in [(1, 60), (2, 1935), (3, 56)] {
            match Frame::parse(&frame(kind)).unwrap() {
                Frame::Dm(dm) => assert_eq!((dm.header.len(), dm.handshake.is_some()), (header, kind == 2)),
                Frame::Channel(channel) => assert_eq!((channel.header.len(), kind), (header, 3)),
            }
        }
    }

    #[test]
    fn unknown_versions_types_and_suites_are_kept_for_later_whatever_their_length() {
        for bytes in [[2, 1, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 4, 0, 1], [1, 1, 0, 0], [1, 1, 0, 2], [1, 1, 1, 1]] {
            assert_eq!(Frame::parse(&bytes), Err(Error::Unsupported), "{bytes:?}");
        }
        assert_eq!(Frame::parse(&[1, 1, 0]), Err(Error::Malformed));
        assert_eq!(Frame::parse(&[9; MAX_FRAME + 1]), Err(Error::Malformed));
    }

    #[test]
    fn only_padded_sizes_are_frames() {
        for kind in 1..=3 {
            let mut bytes = frame(kind);
            assert_eq!(Frame::parse(&bytes[..bytes.len() - 1]), Err(Error::Malformed));
            bytes.push(0);
            assert_eq!(Frame::parse(&bytes), Err(Error::Malformed));
            assert_eq!(Frame::parse(&bytes[..40]), Err(Error::Malformed));
            bytes.resize(bytes.len() - 1 + 128, 0);
            assert!(Frame::parse(&bytes).is_ok(), "256 bytes of content");
        }
    }

    #[test]
    fn fields_out_of_range_are_malformed() {
        let change = |kind: u8, at: usize, value: u8| {
            let mut bytes = frame(kind);
            bytes[at] = value;
            Frame::parse(&bytes).err()
        };
        let ids = 4 + 36 + 225 + 32;
        let cases = [
            (1, 52, 0x80, "pn"),
            (1, 56, 0x80, "n"),
            (2, 4, 0x80, "gen too large"),
            (2, 7, 0, "gen 0"),
            (2, 4 + 36 + 20, 0, "device 0"),
            (2, ids + 3, 0, "spk 0"),
            (2, ids + 4, 1, "an opk with id 0"),
            (2, ids + 4, 2, "neither with nor without opk"),
            (2, ids + 8, 1, "no opk with an id"),
            (2, ids + 9, 0, "kem kind 0"),
            (2, ids + 9, 3, "kem kind 3"),
            (2, ids + 13, 0, "kem id 0"),
            (2, 1935 - 5, 1, "pn in a first frame"),
            (3, 4 + 16 + 19, 0, "device 0"),
            (3, 4 + 36 + 4, 0x80, "iteration"),
            (3, 4 + 36 + 8, 0x80, "epoch"),
        ];
        for (kind, at, value, what) in cases {
            assert_eq!(change(kind, at, value), Some(Error::Malformed), "{what}");
        }
    }

    #[test]
    fn a_handshake_is_written_as_it_is_read() {
        let mut bytes = frame(2);
        bytes[4 + 36 + 225 + 32 + 4] = 1;
        bytes[4 + 36 + 225 + 32 + 8] = 5;
        let dm = Frame::parse_dm(&bytes).unwrap();
        assert_eq!(dm.handshake.unwrap().opk_id, Some(5));
        assert_eq!(&*dm.handshake.unwrap().to_bytes(), dm.handshake_bytes().unwrap());
        assert_eq!(Frame::parse_channel(&bytes), Err(Error::Malformed));
        assert_eq!(Frame::parse_dm(&frame(3)), Err(Error::Malformed));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2500),
            kind in 1_u8..4,
            known in any::<bool>(),
        ) {
            if known && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[1, kind, 0, 1]);
            }
            let _ = Frame::parse(&bytes);
        }
    }
}
