//! Usernames: their alphabet, and the skeleton (in the sense of UTS 39) under which two that look alike are one.

use crate::protocol::limits::{USERNAME_MAX, USERNAME_MIN};

use super::error::{ApiError, ApiResult};

/// Words that a client writes for something else than a person.
const RESERVED: &[&str] = &["all", "channel", "everyone", "here", "server", "system"];

/// `[a-z0-9][a-z0-9._-]*`, 3 to 32 characters.
///
/// # Errors
/// 400 `validation`.
pub fn check(username: &str) -> ApiResult<()> {
    let refuse = |message: String| Err(ApiError::validation("username", message));
    if !(USERNAME_MIN..=USERNAME_MAX).contains(&username.chars().count()) {
        return refuse(format!("must have {USERNAME_MIN} to {USERNAME_MAX} characters"));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !username.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-')) || !username.starts_with(plain) {
        return refuse("only a-z, 0-9, '.', '_' and '-', and a letter or digit first".to_owned());
    }
    if RESERVED.contains(&username) {
        return refuse("this name has a meaning of its own: choose another".to_owned());
    }
    Ok(())
}

/// Equal for names that a reader could take for one another: `0` and `o`; `1`, `l` and `i`; `rn` and `m`; `vv` and `w`;
/// all separators.
pub fn skeleton(username: &str) -> String {
    let mut skeleton = String::with_capacity(username.len());
    for c in username.chars() {
        let c = match c {
            '0' => 'o',
            '1' | 'i' => 'l',
            '.' | '_' => '-',
            c => c,
        };
        match (skeleton.chars().next_back(), c) {
            (Some('r'), 'n') => replace_last(&mut skeleton, 'm'),
            (Some('v'), 'v') => replace_last(&mut skeleton, 'w'),
            // Separators in a row look like one.
            (Some('-'), '-') => {}
            (_, c) => skeleton.push(c),
        }
    }
    skeleton
}

fn replace_last(text: &mut String, c: char) {
    text.pop();
    text.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        for (a, b) in [
            ("bob", "b0b"),
            ("alice", "a1ice"),
            ("alice", "allce"),
            ("modern", "modem"),
            ("vvalter", "walter"),
            ("ann.lee", "ann_lee"),
            ("ann-lee", "ann--lee"),
            ("0range", "orange"),
        ] {
            assert_eq!(skeleton(a), skeleton(b), "{a} {b}");
        }
        for (a, b) in [("bob", "rob"), ("ann", "anna"), ("annlee", "ann.lee"), ("nora", "mora")] {
            assert_ne!(skeleton(a), skeleton(b), "{a} {b}");
        }
    }

    #[test]
    fn only_the_plain_alphabet_is_a_username() {
        for good in ["bob", "b0b", "0xff", "ann.lee_2-x", &"a".repeat(32)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", ".bob", "-bob", "Bob", "bob ", "bób", "b\u{43e}b", "bob\u{202e}", "everyone", &"a".repeat(33)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
