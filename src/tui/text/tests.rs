//! What no text from outside can do.

use proptest::prelude::*;

use super::*;

fn clean(text: &str) -> String {
    Clean::from_untrusted(&Untrusted::new(text)).into_string()
}

#[test]
fn terminal_escapes_become_visible_symbols() {
    assert_eq!(clean("\x1b]0;evil\x07"), "␛]0;evil␇");
    assert_eq!(clean("\x1b[2J\x1b[H"), "␛[2J␛[H");
    assert_eq!(clean("a\u{9b}31m\u{9d}b"), "a<U+009B>31m<U+009D>b");
    assert_eq!(clean("\x1bP1000p\x1b]52;c;?\x07"), "␛P1000p␛]52;c;?␇");
    assert_eq!(clean("one\rtwo\x08\x0b\x0c\u{85}\u{2028}\u{2029}\x7f\0"), "one␍two␈␋␌<U+0085><U+2028><U+2029>␡␀");
}

#[test]
fn a_name_cannot_fake_a_second_line() {
    assert_eq!(clean("ana\nroot"), "ana␊root");
}

#[test]
fn a_message_keeps_its_lines() {
    let lines = Clean::lines(&Untrusted::new("one\r\ntwo\n\nfour"));
    assert_eq!(lines.iter().map(Clean::as_str).collect::<Vec<_>>(), ["one", "two", "", "four"]);
    assert_eq!(printable(&Untrusted::new("a\x1b[1m\nb")), "a␛[1m\nb");
}

#[test]
fn bidi_controls_are_shown_by_their_code() {
    assert_eq!(clean("photo\u{202e}gpj.exe"), "photo<U+202E>gpj.exe");
    assert_eq!(clean("\u{2066}x\u{2069}"), "<U+2066>x<U+2069>");
}

#[test]
fn invisible_characters_are_dropped() {
    assert_eq!(clean("ad\u{200b}min\u{feff}\u{2060}\u{ad}\u{3164}\u{200e}"), "admin");
    assert_eq!(clean("adm\u{200d}in\u{200d}"), "admin");
}

#[test]
fn emoji_sequences_and_joined_scripts_stay_whole() {
    for text in [
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "❤️",
        "🏳️‍🌈",
        "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
        "🇩🇪",
        "क्‍ष",
        "مرحبا",
        "日本語",
        "한국어",
    ] {
        assert_eq!(clean(text), text);
    }
}

#[test]
fn ten_thousand_marks_become_a_few() {
    let zalgo = format!("a{}b", "\u{301}".repeat(10_000));
    assert_eq!(clean(&zalgo), format!("a{}b", "\u{301}".repeat(MARKS_PER_CELL)));
    let chain = format!("👩{}", "\u{200d}👩".repeat(1000));
    assert!(clean(&chain).chars().count() <= CHARS_PER_CELL);
    assert_eq!(clean("\u{301}x"), "<U+0301>x");
}

#[test]
fn tabs_go_to_the_next_stop() {
    assert_eq!(clean("\ta\tb"), "    a   b");
}

#[test]
fn a_cut_is_marked_and_never_too_wide() {
    let text = Clean::ours("日本語 text");
    assert_eq!(text.truncate(6).as_str(), "日本…");
    assert_eq!(text.truncate(5).as_str(), "日本…");
    assert_eq!(text.truncate(0).as_str(), "");
    assert_eq!(text.truncate(99), text);
}

#[test]
fn a_preview_is_one_line() {
    assert_eq!(Clean::preview(&Untrusted::new("one\n\n  two\tthree"), 40).as_str(), "one two three");
    assert_eq!(Clean::preview(&Untrusted::new("x".repeat(1_000_000)), 10).as_str(), "xxxxxxxxx…");
}

#[test]
fn lines_break_between_words_and_inside_long_ones() {
    let lines = |text: &'static str, cells| wrap(text, cells).into_iter().map(|range| &text[range]).collect::<Vec<_>>();
    assert_eq!(lines("the quick brown fox", 10), ["the quick", "brown fox"]);
    assert_eq!(lines("abcdefghij", 4), ["abcd", "efgh", "ij"]);
    assert_eq!(lines("ab abcdefghij", 4), ["ab", "abcd", "efgh", "ij"]);
    assert_eq!(lines("日本語テキスト", 6), ["日本語", "テキス", "ト"]);
    assert_eq!(lines("", 4), [""]);
    assert_eq!(lines("日a本", 1), ["a"]);
    assert_eq!(lines("  lead", 20), ["  lead"]);
}

#[test]
fn text_is_not_in_a_debug_output() {
    assert_eq!(format!("{:?}", Clean::ours("secret")), "Clean(6 bytes)");
}

/// Text with far more trouble in it than random characters have.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\u{301}".to_owned()),
        Just("\u{200d}".to_owned()),
        Just("\u{fe0f}".to_owned()),
        Just("👩".to_owned()),
        Just("🏴".to_owned()),
        Just("\u{e0067}".to_owned()),
        Just("\u{202e}".to_owned()),
        Just("\x1b[".to_owned()),
        Just("\t".to_owned()),
        Just(" ".to_owned()),
        Just("日".to_owned()),
        Just("ᄀ".to_owned()),
        Just("ﾞ".to_owned()),
        Just("क्".to_owned()),
        Just("🇩".to_owned()),
        "[a-z]{1,8}",
        "\\PC{0,4}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_control_character_survives(text in hostile()) {
        let out = clean(&text);
        prop_assert!(out.chars().all(|c| !c.is_control()));
        let hidden = |c| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{feff}');
        prop_assert!(!out.chars().any(hidden));
        for grapheme in out.graphemes(true) {
            prop_assert!(grapheme.cell_width() > 0, "{grapheme:?} would be invisible in {out:?}");
        }
    }

    #[test]
    fn cleaning_twice_changes_nothing(text in hostile()) {
        let once = clean(&text);
        prop_assert_eq!(clean(&once), once);
    }

    #[test]
    fn wrapping_never_exceeds_the_width_and_loses_only_white_space(text in hostile(), cells in 1_usize..40) {
        let line = clean(&text);
        let ranges = wrap(&line, cells);
        let mut last = 0;
        for range in &ranges {
            prop_assert!(range.start >= last && range.end >= range.start);
            last = range.end;
            prop_assert!(width(&line[range.clone()]) <= cells, "{:?} in {cells}", &line[range.clone()]);
        }
        if line.graphemes(true).all(|g| usize::from(g.cell_width()) <= cells) {
            let joined: String = ranges.into_iter().flat_map(|range| line[range].chars()).filter(|c| !c.is_whitespace()).collect();
            let whole: String = line.chars().filter(|c| !c.is_whitespace()).collect();
            prop_assert_eq!(joined, whole);
        }
    }

    #[test]
    fn cutting_never_exceeds_the_width(text in hostile(), cells in 0_usize..40) {
        prop_assert!(Clean::ours(&text).truncate(cells).width() <= cells);
    }
}
