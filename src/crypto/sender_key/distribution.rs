//! The sender key distribution message (TC/1 section 12.2), 128 bytes in the field `skdm` of a DM. It is a secret: whoever has
//! it reads the chain from its iteration on.

use std::fmt;

use zeroize::Zeroizing;

use super::super::error::Error;
use super::super::membership::{Epoch, Hash};
use super::super::ratchet::chain::ChainKey;
use super::super::signature::VerifyKey;
use super::super::wire::{Reader, Writer};
use super::ITERATION_END;

/// Bytes of the message.
pub const SKDM_LEN: usize = 128;

/// The message, parsed. Who sent it, and whether that is a member, is for [`PeerChain::accept`](super::PeerChain::accept).
pub struct Skdm {
    pub channel_id: [u8; 16],
    pub chain_id: u32,
    /// The number of the first message that `key` opens.
    pub iteration: u32,
    /// The chain key before that message.
    pub key: ChainKey,
    /// Verifies the chain's messages.
    pub sign_pub: VerifyKey,
    /// The sender's newest epoch.
    pub epoch: Epoch,
    /// The sender's head at `epoch`.
    pub head: Hash,
}

impl Skdm {
    /// # Errors
    /// `Malformed` for another length, chain 0, an epoch of 2^63 or an iteration of 1,000 and above; `BadSignature` for a weak key.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let (channel_id, chain_id, iteration) = (*reader.array()?, reader.u32()?, reader.u32()?);
        let (key, sign_pub, epoch, head) = (reader.array()?, reader.array()?, reader.u64()?, *reader.array()?);
        reader.end()?;
        if chain_id == 0 || iteration >= ITERATION_END || epoch >= 1 << 63 {
            return Err(Error::Malformed);
        }
        let sign_pub = VerifyKey::import(sign_pub)?;
        Ok(Self { channel_id, chain_id, iteration, key: ChainKey::copy_of(key), sign_pub, epoch, head })
    }

    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let Self { channel_id, chain_id, iteration, key, sign_pub, epoch, head } = self;
        let mut writer = Writer::with_capacity(SKDM_LEN);
        writer.bytes(channel_id).u32(*chain_id).u32(*iteration).bytes(key.expose()).bytes(sign_pub.as_bytes());
        writer.u64(*epoch).bytes(head).finish()
    }
}

impl fmt::Debug for Skdm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel_id, chain_id, iteration, key: _, sign_pub: _, epoch, head: _ } = self;
        f.debug_struct("Skdm")
            .field("channel_id", channel_id)
            .field("chain_id", chain_id)
            .field("iteration", iteration)
            .field("epoch", epoch)
            .finish_non_exhaustive()
    }
}
