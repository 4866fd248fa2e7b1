//! The text of an invite (TC/1 section 11.6): `TCI1-` and 136 characters of base32. It holds the secret that lets its reader join and
//! the head that pins the right log, and never reaches the server. Start at [`Invite::from_text`].

use std::fmt;

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use super::super::error::Error;
use super::super::signature::SigningKey;
use super::super::wire::{Reader, Writer};
use super::super::{kdf, labels};
use super::{Hash, LogId};

const PREFIX: &str = "TCI1-";
const VERSION: u8 = 1;
const BODY_LEN: usize = 81;
const SUM_LEN: usize = 4;

/// What an invite link carries after its `#`.
pub struct Invite {
    pub log_id: LogId,
    /// Head of the log's first operation.
    pub genesis: Hash,
    /// The secret of the invite key.
    pub key: SigningKey,
}

impl Invite {
    /// The text, upper case. Whoever reads it can join.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut writer = Writer::with_capacity(BODY_LEN + SUM_LEN);
        let body = writer.u8(VERSION).bytes(&self.log_id).bytes(&self.genesis).bytes(self.key.expose_seed()).finish();
        let sum = checksum(&body);
        let whole = writer.bytes(&body).bytes(&sum).finish();
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + BASE32_NOPAD.encode_len(whole.len())));
        text.push_str(PREFIX);
        BASE32_NOPAD.encode_append(&whole, &mut text);
        text
    }

    /// Reads a text; white space and case do not matter.
    ///
    /// # Errors
    /// `Malformed` for anything that is not an invite or was mistyped; `Unsupported` for one of a later version.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let letters = text.chars().filter(|letter| !letter.is_whitespace()).map(|letter| letter.to_ascii_uppercase());
        let text: Zeroizing<String> = Zeroizing::new(letters.take(2 * (BODY_LEN + SUM_LEN)).collect());
        let encoded = text.strip_prefix(PREFIX).ok_or(Error::Malformed)?;
        let whole = Zeroizing::new(BASE32_NOPAD.decode(encoded.as_bytes()).map_err(|_| Error::Malformed)?);
        let (body, sum) = whole.split_last_chunk::<SUM_LEN>().ok_or(Error::Malformed)?;
        let mut reader = Reader::new(body);
        let version = reader.u8()?;
        // Before the version: a mistyped character must not look like a newer client.
        if checksum(body) != *sum {
            return Err(Error::Malformed);
        }
        if version != VERSION {
            return Err(Error::Unsupported);
        }
        let invite = Self { log_id: *reader.array()?, genesis: *reader.array()?, key: SigningKey::from_seed(reader.array()?) };
        reader.end()?;
        Ok(invite)
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_id, genesis, key: _ } = self;
        f.debug_struct("Invite").field("log_id", log_id).field("genesis", genesis).finish_non_exhaustive()
    }
}

fn checksum(body: &[u8]) -> [u8; SUM_LEN] {
    let [a, b, c, d, ..] = kdf::labelled_hash(labels::INVITE_SUM, &[body]);
    [a, b, c, d]
}
