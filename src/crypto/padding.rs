//! Padding (TC/1 sections 8 and 13): every frame and file shows one of few sizes, so that the server learns little from a length.
//! Knows nothing of frames or keys. Start at [`pad`] and [`unpad`]; [`padme`] is for files.

use zeroize::Zeroizing;

/// The largest content that fits in a frame, in bytes.
pub const MAX_CONTENT: usize = MAX_PADDED - 1;
/// The largest padded content, in bytes: 15 × 4096.
pub const MAX_PADDED: usize = 61_440;
/// The smallest padded content, in bytes.
pub const MIN_PADDED: usize = 128;

/// Below this, sizes double; from here on they are multiples of it.
const STEP: usize = 4096;
const MARK: u8 = 0x80;
/// Files are never shown smaller than this, in bytes.
const MIN_FILE: u64 = 1024;

/// `content ‖ 0x80 ‖ zeros` to the smallest padded size. `None` if the content is longer than [`MAX_CONTENT`] (`Limit` for a sender).
pub fn pad(content: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // Reserved at once: a vector that grew would leave a copy of the plaintext behind.
    let mut padded = Zeroizing::new(Vec::with_capacity(padded_size(content.len())?));
    pad_onto(&mut padded, content)?;
    Some(padded)
}

/// Appends the padded content to `out`, which has the room for it. `None` as [`pad`]; nothing is appended then.
pub fn pad_onto(out: &mut Vec<u8>, content: &[u8]) -> Option<()> {
    let end = out.len() + padded_size(content.len())?;
    out.extend_from_slice(content);
    out.push(MARK);
    out.resize(end, 0);
    Some(())
}

/// The content of a padded plaintext. Only for authenticated bytes. `None` (`Malformed`) without the mark, or when the
/// size is not the smallest possible one for this content.
pub fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let mark = padded.iter().rposition(|&byte| byte != 0)?;
    let (content, tail) = padded.split_at_checked(mark)?;
    (tail.first() == Some(&MARK) && padded_size(content.len()) == Some(padded.len())).then_some(content)
}

/// The size, in bytes, that content of `len` bytes is padded to; `None` above [`MAX_CONTENT`].
pub fn padded_size(len: usize) -> Option<usize> {
    let needed = len.checked_add(1)?;
    let size = if needed <= STEP { needed.next_power_of_two().max(MIN_PADDED) } else { needed.checked_next_multiple_of(STEP)? };
    (size <= MAX_PADDED).then_some(size)
}

/// Whether a ciphertext of `len` bytes (tag not counted) can be padded content.
pub fn is_padded_size(len: usize) -> bool {
    len.checked_sub(1).and_then(padded_size) == Some(len)
}

/// The size that a file of `size` bytes is padded to before encryption: PADME over at least 1024 bytes, which costs at most 12 %
/// and leaves O(log log size) bits. Saturates near 2^64, far above any file limit.
pub fn padme(size: u64) -> u64 {
    let size = size.max(MIN_FILE);
    let exponent = size.ilog2();
    let kept = exponent.ilog2() + 1;
    let unit = 1_u64 << exponent.saturating_sub(kept);
    size.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors_pass() {
        for text in [include_str!("testdata/padding-01.json"), include_str!("testdata/padding-02.json")] {
            let file: serde_json::Value = serde_json::from_str(text).unwrap();
            for case in file["cases"].as_array().unwrap() {
                let len = case["len"].as_u64().unwrap() as usize;
                let padded = pad(&vec![0x80; len]).unwrap();
                assert_eq!(padded.len() as u64, case["padded"].as_u64().unwrap(), "content of {len} bytes");
                assert_eq!(unpad(&padded), Some(vec![0x80; len].as_slice()));
                assert!(is_padded_size(padded.len()));
            }
            for case in file["padme"].as_array().unwrap() {
                assert_eq!(padme(case["size"].as_u64().unwrap()), case["padded"].as_u64().unwrap(), "{case}");
            }
        }
    }

    #[test]
    fn content_over_the_limit_is_refused() {
        assert!(pad(&vec![1; MAX_CONTENT]).is_some());
        assert!(pad(&vec![1; MAX_CONTENT + 1]).is_none());
        assert_eq!(padded_size(usize::MAX), None);
    }

    #[test]
    fn padding_that_is_not_minimal_or_has_no_mark_is_refused() {
        let mut too_large = b"content".to_vec();
        too_large.push(MARK);
        too_large.resize(256, 0);
        assert_eq!(unpad(&too_large), None);
        assert_eq!(unpad(&[0; 128]), None);
        assert_eq!(unpad(&[]), None);
        assert_eq!(unpad(&[1; 128]), None);
        assert_eq!(unpad(&[MARK]), None);
    }

    #[test]
    fn exactly_the_listed_sizes_are_padded_sizes() {
        let sizes: Vec<usize> = (0..70_000).filter(|&len| is_padded_size(len)).collect();
        let mut listed = vec![128, 256, 512, 1024, 2048, 4096];
        listed.extend((2..=15).map(|n| n * 4096));
        assert_eq!(sizes, listed);
    }

    proptest! {
        #[test]
        fn unpad_reverses_pad(content in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let padded = pad(&content).unwrap();
            prop_assert_eq!(unpad(&padded), Some(content.as_slice()));
        }

        #[test]
        fn unpad_accepts_only_what_pad_makes(bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(MARK), any::<u8>()], 0..600)) {
            if let Some(content) = unpad(&bytes) {
                let padded = pad(content).unwrap();
                prop_assert_eq!(padded.as_slice(), bytes.as_slice());
            }
        }

        #[test]
        fn padme_never_shrinks_and_adds_at_most_an_eighth(size in 1024_u64..1 << 40) {
            let padded = padme(size);
            prop_assert!(padded >= size && padded - size <= size / 8);
        }
    }
}
