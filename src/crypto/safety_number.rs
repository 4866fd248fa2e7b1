//! Safety numbers (TC/1 section 14.1): sixty digits, or a code, by which two users see that the server gave neither of them a false
//! identity key. They depend on the user ids and UIKs only, never on devices. Start at [`SafetyNumber::new`].

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::error::Error;
use super::identity::UserId;
use super::signature::VerifyKey;
use super::wire::Reader;

/// Hashes of one half: each try at a look-alike number costs as many.
const HASHES: u32 = 5200;
const VERSION: [u8; 2] = [0, 0];
/// Before the UIK: its type.
const KEY_TYPE: u8 = 1;
const MAGIC: &[u8; 5] = b"TCSN1";
/// Bytes of a code's payload.
const CODE_LEN: usize = 101;
/// Groups of five digits in a half.
const GROUPS: usize = 6;
/// Bytes of a half that stand in a code.
const SHOWN: usize = 32;

/// What two users compare. Neither half is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetyNumber {
    own: Half,
    peer: Half,
}

/// One user's part.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Half {
    user_id: UserId,
    hash: [u8; 64],
}

/// What a scanned code came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Both see the same keys: the contact is verified.
    Match,
    /// The code is of these two users, with another key for one of them: somebody is in between, or one identity changed.
    Mismatch,
    /// The code is of other users: not the right contact, or not the right account.
    OtherUsers,
}

impl SafetyNumber {
    /// Takes some milliseconds: 2 × 5,200 hashes.
    pub fn new(own_id: UserId, own: &VerifyKey, peer_id: UserId, peer: &VerifyKey) -> Self {
        Self { own: Half::new(own_id, own), peer: Half::new(peer_id, peer) }
    }

    /// The sixty digits, the same for both users. Shown in twelve groups of five.
    pub fn digits(&self) -> String {
        let (own, peer) = (digits_of(&self.own.hash), digits_of(&self.peer.hash));
        if own <= peer { own + &peer } else { peer + &own }
    }

    /// The code of this side, as base32 for a QR picture or for pasting.
    pub fn code(&self) -> String {
        BASE32_NOPAD.encode(&self.payload())
    }

    /// Compares the other side's code crosswise: its own half must be my peer's, its peer's half mine. White space and case do not matter.
    ///
    /// # Errors
    /// `Malformed` for what is no code; `Unsupported` for one of a later version.
    pub fn check(&self, scanned: &str) -> Result<Scan, Error> {
        let letters = scanned.chars().filter(|letter| !letter.is_whitespace()).map(|letter| letter.to_ascii_uppercase());
        let text: String = letters.take(2 * CODE_LEN).collect();
        let payload = BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| Error::Malformed)?;
        let mut reader = Reader::new(&payload);
        let magic: &[u8; 5] = reader.array()?;
        if magic != MAGIC {
            return Err(if magic.starts_with(b"TCSN") { Error::Unsupported } else { Error::Malformed });
        }
        let (their_own, their_peer): (&[u8; SHOWN], &[u8; SHOWN]) = (reader.array()?, reader.array()?);
        let ids: (&UserId, &UserId) = (reader.array()?, reader.array()?);
        reader.end()?;
        if ids != (&self.peer.user_id, &self.own.user_id) {
            return Ok(Scan::OtherUsers);
        }
        let equal = their_own.ct_eq(&self.peer.shown()) & their_peer.ct_eq(&self.own.shown());
        Ok(if bool::from(equal) { Scan::Match } else { Scan::Mismatch })
    }

    fn payload(&self) -> Vec<u8> {
        [&MAGIC[..], &self.own.shown(), &self.peer.shown(), &self.own.user_id, &self.peer.user_id].concat()
    }
}

impl Half {
    fn new(user_id: UserId, identity: &VerifyKey) -> Self {
        Self { user_id, hash: half(&[&[KEY_TYPE][..], identity.as_bytes()].concat(), &user_id) }
    }

    /// The half of the hash that stands in a code.
    fn shown(&self) -> [u8; SHOWN] {
        let (mut shown, (start, _)) = ([0; SHOWN], self.hash.split_at(SHOWN));
        shown.copy_from_slice(start);
        shown
    }
}

/// `d = SHA512(0x0000 ‖ K ‖ id ‖ K)`, then 5,199 times `d = SHA512(d ‖ K)`.
fn half(key: &[u8], id: &[u8]) -> [u8; 64] {
    let mut hash = Sha512::new().chain_update(VERSION).chain_update(key).chain_update(id).chain_update(key).finalize();
    for _ in 1..HASHES {
        hash = Sha512::new().chain_update(hash).chain_update(key).finalize();
    }
    hash.into()
}

/// Thirty digits: the first 30 bytes as six numbers of 5 bytes, each modulo 100,000.
fn digits_of(half: &[u8; 64]) -> String {
    let number = |group: &[u8]| group.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)) % 100_000;
    half.chunks_exact(5).take(GROUPS).map(|group| format!("{:05}", number(group))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::signature::SigningKey;
    use super::super::testing::{array, bytes};
    use super::*;

    fn check_vector(text: &str) {
        let file: Value = serde_json::from_str(text).unwrap();
        let user = |name: &str| {
            let user = &file["inputs"][name];
            (array(&user["user_id"]), VerifyKey::import(&array(&user["uik"])).unwrap())
        };
        let ((a_id, a), (b_id, b)) = (user("a"), user("b"));
        let outputs = &file["outputs"];
        let (ours, theirs) = (SafetyNumber::new(a_id, &a, b_id, &b), SafetyNumber::new(b_id, &b, a_id, &a));
        assert_eq!(hex::encode(ours.own.hash), outputs["a_half"].as_str().unwrap());
        assert_eq!(hex::encode(ours.peer.hash), outputs["b_half"].as_str().unwrap());
        assert_eq!(ours.digits(), outputs["number"].as_str().unwrap());
        assert_eq!(ours.digits(), theirs.digits());
        assert_eq!(ours.payload(), bytes(&outputs["a_payload"]));
        assert_eq!(theirs.payload(), bytes(&outputs["b_payload"]));
        assert_eq!(ours.code(), outputs["a_text"].as_str().unwrap());
        assert_eq!((ours.check(&theirs.code()), theirs.check(&ours.code())), (Ok(Scan::Match), Ok(Scan::Match)));
    }

    #[test]
    fn vectors_pass() {
        check_vector(include_str!("testdata/safety-01.json"));
        check_vector(include_str!("testdata/safety-02.json"));
    }

    #[test]
    fn the_known_answer_is_met() {
        let key = |text: &str| hex::decode(text).unwrap();
        let one = half(&key("0506863bc66d02b40d27b8d49ca7c09e9239236f9d7d25d6fcca5ce13c7064d868"), b"+14152222222");
        let two = half(&key("05f781b6fb32fed9ba1cf2de978d4d5da28dc34046ae814402b5c0dbd96fda907b"), b"+14153333333");
        assert_eq!(digits_of(&one) + &digits_of(&two), "300354477692869396892869876765458257569162576843440918079131");
    }

    #[test]
    fn a_false_key_or_another_contact_does_not_match() {
        let [alice, bob, mallory] = [1, 2, 3].map(|seed| SigningKey::from_seed(&[seed; 32]).public());
        let (a, b, c) = ([0xA; 16], [0xB; 16], [0xC; 16]);
        let honest = SafetyNumber::new(a, &alice, b, &bob);
        let deceived = SafetyNumber::new(b, &bob, a, &mallory);
        assert_eq!((honest.check(&deceived.code()), deceived.check(&honest.code())), (Ok(Scan::Mismatch), Ok(Scan::Mismatch)));
        assert_ne!(honest.digits(), deceived.digits());
        assert_eq!(honest.check(&SafetyNumber::new(c, &mallory, a, &alice).code()), Ok(Scan::OtherUsers));
        assert_eq!(honest.check(&honest.code()), Ok(Scan::OtherUsers), "one's own code proves nothing");
    }

    #[test]
    fn codes_are_read_leniently_and_junk_is_refused() {
        let [alice, bob] = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]).public());
        let (ours, theirs) =
            (SafetyNumber::new([1; 16], &alice, [2; 16], &bob), SafetyNumber::new([2; 16], &bob, [1; 16], &alice));
        let code = theirs.code().to_lowercase();
        let (start, end) = code.split_at(40);
        assert_eq!(ours.check(&format!(" {start}\n{end} ")), Ok(Scan::Match));
        for junk in ["", "TCSN1", "ÄÖÜ", &code[..100], &format!("{code}aa")] {
            assert_eq!(ours.check(junk), Err(Error::Malformed), "{junk}");
        }
        let mut later = theirs.payload();
        later[4] = b'2';
        assert_eq!(ours.check(&BASE32_NOPAD.encode(&later)), Err(Error::Unsupported));
    }
}
