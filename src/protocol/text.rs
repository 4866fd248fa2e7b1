//! What the characters of a name do: no name that people read may act on a terminal, turn a line around, or show nothing.

/// C0, DEL and C1; line and paragraph separators; bidirectional embeddings, overrides and isolates.
pub fn is_acting(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Nothing to see: white space, and characters of no width.
pub fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '\u{AD}' | '\u{34F}' | '\u{115F}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{FFA0}' | '\u{200B}'..='\u{200F}' | '\u{2060}'..='\u{2064}' | '\u{FEFF}')
}
