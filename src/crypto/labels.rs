//! Every label of TC/1 (section 19), in one table: signatures, hashes, key derivations and associated data of different
//! purpose can never be taken for each other. No other module writes a label by hand.

/// `LBL(s)`: one byte of length, then the ASCII text. The only form in which a label is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(&'static [u8]);

impl Label {
    /// The length byte and the text.
    pub const fn as_bytes(self) -> &'static [u8] {
        self.0
    }
}

/// Puts the length byte before a text, at compile time.
#[allow(clippy::indexing_slicing)] // evaluated by the compiler: an index out of range does not build
const fn prefixed<const N: usize>(text: &str) -> [u8; N] {
    let text = text.as_bytes();
    let mut label = [0; N];
    assert!(text.len() + 1 == N && text.len() < 256);
    label[0] = text.len() as u8;
    let mut i = 0;
    while i < text.len() {
        label[i + 1] = text[i];
        i += 1;
    }
    label
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        $(
            $(#[$doc])*
            pub const $name: Label = {
                const BYTES: [u8; $text.len() + 1] = prefixed($text);
                Label(&BYTES)
            };
        )+

        #[cfg(test)]
        const ALL: &[(Label, &str)] = &[$(($name, $text)),+];
    };
}

labels! {
    /// Certificate, signed by the user identity key (4.2).
    CERT_USER = "tc/1 cert-u";
    /// Certificate, signed by the device: its proof of possession (4.2, 15).
    CERT_DEVICE = "tc/1 cert-d";
    /// Device list (4.3).
    DEVICE_LIST = "tc/1 devlist";
    /// A device takes a session of the server (`protocol.md` 9.27).
    LOGIN = "tc/1 login";
    /// Signed prekey (5).
    SIGNED_PREKEY = "tc/1 spk";
    /// One-time ML-KEM prekey (5).
    KEM_PREKEY_ONCE = "tc/1 kpk-once";
    /// Last-resort ML-KEM prekey (5).
    KEM_PREKEY_LAST = "tc/1 kpk-last";
    /// Transcript hash of the handshake (6).
    TRANSCRIPT = "tc/1 transcript";
    /// Root key of the handshake (6).
    HANDSHAKE = "tc/1 handshake";
    /// Session id (6).
    SESSION_ID = "tc/1 session-id";
    /// Root step of the Double Ratchet (7.1).
    RATCHET_ROOT = "tc/1 dr-root";
    /// Message keys of the Double Ratchet (7.1).
    RATCHET_MESSAGE = "tc/1 dr-msg";
    /// Associated data of a DM frame (7.1).
    DM = "tc/1 dm";
    /// Operation of a membership log (11.1).
    MEMBER = "tc/1 member";
    /// Invite signature inside a join (11.1).
    INVITE = "tc/1 invite";
    /// Checksum of an invite text (11.6).
    INVITE_SUM = "tc/1 inv-sum";
    /// Message keys of a sender chain (12.3).
    SENDER_KEY_MESSAGE = "tc/1 sk-msg";
    /// Signature of a channel message (12.3).
    SENDER_KEY_SIGNATURE = "tc/1 sk-sig";
    /// Associated data of a channel frame (12.3).
    CHANNEL = "tc/1 ch";
    /// Keys of an attachment (13).
    FILE = "tc/1 file";
    /// Salt of the linking keys (15).
    LINK_SALT = "tc/1 link-salt";
    /// Linking keys (15).
    LINK_KEYS = "tc/1 link-keys";
    /// Associated data of a linking message (15).
    LINK_MESSAGE = "tc/1 link-msg";
    /// Checksum of a linking text (15).
    LINK_SUM = "tc/1 link-sum";
    /// Backup keys (16).
    BACKUP_KEYS = "tc/1 backup-keys";
    /// Associated data of a backup record (16).
    BACKUP_RECORD = "tc/1 backup-rec";
    /// Associated data of a backup manifest (16).
    BACKUP_MANIFEST = "tc/1 backup-man";
    /// Checksum of a recovery code (16).
    CODE_SUM = "tc/1 code-sum";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_ascii_and_prefix_free() {
        assert_eq!(ALL.len(), 28);
        for (i, (label, text)) in ALL.iter().enumerate() {
            assert!(text.is_ascii() && text.starts_with("tc/1 ") && text.len() > 5, "{text}");
            let (length, rest) = label.as_bytes().split_first().unwrap();
            assert_eq!((usize::from(*length), rest), (text.len(), text.as_bytes()));
            for (j, (_, other)) in ALL.iter().enumerate() {
                assert!(i == j || !other.starts_with(text), "{text} is a prefix of {other}");
            }
        }
    }
}
