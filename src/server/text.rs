//! Names, topics and other text that people wrote and other people will read: within its limit, and nothing in it that could
//! act on a terminal or turn a line around. Clients clean what they draw all the same; this keeps the stored text honest.

use crate::protocol::text::{is_acting, is_blank};

use super::error::{ApiError, ApiResult};

/// A line that must say something.
///
/// # Errors
/// 400 `validation` that names the field.
pub fn line<'a>(field: &str, text: &'a str, max: usize) -> ApiResult<&'a str> {
    if text.chars().all(is_blank) {
        return Err(ApiError::validation(field, "must not be empty"));
    }
    check(field, text, max, |_| false)?;
    Ok(text)
}

/// A line that may be missing; an empty one is missing too.
///
/// # Errors
/// 400 `validation` that names the field.
pub fn optional_line<'a>(field: &str, text: Option<&'a str>, max: usize) -> ApiResult<Option<&'a str>> {
    Ok(changed_line(field, text, max)?.flatten())
}

/// A line in a PATCH: absent leaves the value as it is (`None`), an empty text clears it (`Some(None)`).
///
/// # Errors
/// 400 `validation` that names the field.
pub fn changed_line<'a>(field: &str, text: Option<&'a str>, max: usize) -> ApiResult<Option<Option<&'a str>>> {
    let Some(text) = text else { return Ok(None) };
    if !text.is_empty() {
        line(field, text, max)?;
    }
    Ok(Some(Some(text).filter(|text| !text.is_empty())))
}

/// As [`changed_line`], with line breaks.
///
/// # Errors
/// 400 `validation` that names the field.
pub fn changed_paragraph<'a>(field: &str, text: Option<&'a str>, max: usize) -> ApiResult<Option<Option<&'a str>>> {
    let Some(text) = text else { return Ok(None) };
    check(field, text, max, |c| c == '\n')?;
    Ok(Some(Some(text).filter(|text| !text.is_empty())))
}

/// As [`optional_line`], with line breaks.
///
/// # Errors
/// 400 `validation` that names the field.
pub fn optional_paragraph<'a>(field: &str, text: Option<&'a str>, max: usize) -> ApiResult<Option<&'a str>> {
    Ok(changed_paragraph(field, text, max)?.flatten())
}

fn check(field: &str, text: &str, max: usize, allowed: impl Fn(char) -> bool) -> ApiResult<()> {
    if text.chars().count() > max {
        return Err(ApiError::validation(field, format!("must be at most {max} characters")));
    }
    match text.chars().find(|c| is_acting(*c) && !allowed(*c)) {
        Some(c) => Err(ApiError::validation(field, format!("must not contain the control character U+{:04X}", u32::from(c)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error::ErrorCode;

    #[test]
    fn a_name_says_something_within_its_limit() {
        assert_eq!(line("name", "Küche 🥘 会議", 10), Ok("Küche 🥘 会議"));
        for bad in ["", "  ", "\u{200B}\u{FEFF}", "Küche 🥘 会議室s"] {
            let error = line("name", bad, 10).unwrap_err();
            assert_eq!((error.code, error.details.unwrap().get("name").is_some()), (ErrorCode::Validation, true), "{bad:?}");
        }
    }

    #[test]
    fn control_characters_and_bidi_overrides_are_refused() {
        for bad in ["a\u{1b}[2J", "a\nb", "a\u{7f}", "a\u{9b}1m", "a\u{202E}b", "a\u{2066}b", "a\u{2028}b", "\0"] {
            assert_eq!(line("name", bad, 64).unwrap_err().code, ErrorCode::Validation, "{bad:?}");
            assert_eq!(changed_line("topic", Some(bad), 64).unwrap_err().code, ErrorCode::Validation, "{bad:?}");
        }
        assert_eq!(changed_paragraph("welcome", Some("a\nb"), 64), Ok(Some(Some("a\nb"))));
        assert!(changed_paragraph("welcome", Some("a\r\nb"), 64).is_err());
        // Joiners and marks that scripts and emoji need.
        assert!(line("name", "👩\u{200D}💻 \u{200F}שלום", 64).is_ok());
    }

    #[test]
    fn an_empty_text_clears_and_an_absent_one_leaves() {
        assert_eq!(changed_line("topic", None, 9), Ok(None));
        assert_eq!(changed_line("topic", Some(""), 9), Ok(Some(None)));
        assert!(changed_line("topic", Some("\u{3164}\u{2800} "), 9).is_err(), "a name that nobody sees");
        assert_eq!(changed_line("topic", Some("x"), 9), Ok(Some(Some("x"))));
        assert_eq!(optional_line("topic", Some(""), 9), Ok(None));
    }
}
