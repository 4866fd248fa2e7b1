//! Moments as people read them, in their own time zone, and lengths of time as they write them.

use jiff::tz::TimeZone;
use jiff::{Span, SpanRound, Unit};

use crate::client::model::{Problem, ProblemKind};
use crate::protocol::codec::Timestamp;
use crate::protocol::limits::{MESSAGE_TTL_MAX_S, MESSAGE_TTL_MIN_S};

fn zoned(at: Timestamp, tz: &TimeZone) -> jiff::Zoned {
    jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or_default().to_zoned(tz.clone())
}

/// `14:02`
pub fn clock(at: Timestamp, tz: &TimeZone) -> String {
    zoned(at, tz).strftime("%H:%M").to_string()
}

/// `Fri 20 Nov 2026`
pub fn day(at: Timestamp, tz: &TimeZone) -> String {
    zoned(at, tz).strftime("%a %-d %b %Y").to_string()
}

/// `Fri 20 Nov 2026 14:02`
pub fn full(at: Timestamp, tz: &TimeZone) -> String {
    zoned(at, tz).strftime("%a %-d %b %Y %H:%M:%S").to_string()
}

/// `14:02` today, `20 Nov 14:02` before.
pub fn short(at: Timestamp, now: Timestamp, tz: &TimeZone) -> String {
    if same_day(at, now, tz) { clock(at, tz) } else { zoned(at, tz).strftime("%-d %b %H:%M").to_string() }
}

pub fn same_day(one: Timestamp, other: Timestamp, tz: &TimeZone) -> bool {
    zoned(one, tz).date() == zoned(other, tz).date()
}

/// `1d 2h`
pub fn span(seconds: u32) -> String {
    let span = Span::new().seconds(seconds);
    let whole = span.round(SpanRound::new().largest(Unit::Day).days_are_24_hours());
    format!("{:#}", whole.unwrap_or(span))
}

/// The time of disappearing messages, in seconds: `1d`, `off`.
pub fn timer(seconds: u32) -> String {
    if seconds == 0 { "off".to_owned() } else { span(seconds) }
}

/// The same as it is typed: `30m`, `1d 12h`, `2 weeks`, `off`.
pub fn parse_timer(text: &str) -> Result<u32, Problem> {
    let text = text.trim().to_lowercase();
    if ["off", "never", "none", "0"].contains(&text.as_str()) {
        return Ok(0);
    }
    let usage = |text: &str| {
        Problem::new(ProblemKind::Usage, text).hint("For example :timer 30m, 8h, 1d or 4w; :timer off lets messages stay.")
    };
    let whole = text.parse::<Span>().and_then(|span| span.round(SpanRound::new().largest(Unit::Second).days_are_24_hours()));
    let seconds = whole.map_err(|_| usage("this is not a length of time"))?.get_seconds();
    let seconds = u32::try_from(seconds).ok().filter(|seconds| (MESSAGE_TTL_MIN_S..=MESSAGE_TTL_MAX_S).contains(seconds));
    seconds.ok_or_else(|| usage("messages disappear after 5 seconds to 365 days, or not at all"))
}

/// `1,204`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 reply`, `3 replies`
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_the_time_zone() {
        let late = Timestamp(1_795_217_400_000); // 2026-11-20T23:30:00Z
        let tz = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(day(late, &TimeZone::UTC), "Fri 20 Nov 2026");
        assert_eq!(full(late, &tz), "Sat 21 Nov 2026 01:30:00");
        assert_eq!(clock(late, &tz), "01:30");
        assert!(!same_day(late, Timestamp(late.0 + 3_600_000), &TimeZone::UTC));
        assert_eq!(short(late, late, &tz), "01:30");
        assert_eq!(short(late, Timestamp(late.0 + 86_400_000), &tz), "21 Nov 01:30");
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let cases = [
            ("off", 0),
            ("0", 0),
            (" Never ", 0),
            ("5s", 5),
            ("30m", 1800),
            ("90 min", 5400),
            ("1h", 3600),
            ("1d", 86_400),
            ("1D 12h", 129_600),
            ("2 weeks", 1_209_600),
            ("4w", 2_419_200),
            ("365d", 31_536_000),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_timer(text), Ok(seconds), "{text}");
        }
        for text in ["", "1", "soon", "1 month", "1y", "4s", "0s", "366d", "-1d", "1d ago", "99999999999999999999d", "1.5x"] {
            let problem = parse_timer(text).unwrap_err();
            assert!(problem.hint.contains("30m"), "{text}");
        }
    }

    #[test]
    fn lengths_of_time_are_exact_and_read_back() {
        for (seconds, text) in
            [(5, "5s"), (90, "1m 30s"), (5400, "1h 30m"), (86_400, "1d"), (129_600, "1d 12h"), (1_209_600, "14d")]
        {
            assert_eq!(span(seconds), text);
            assert_eq!(parse_timer(text), Ok(seconds));
        }
        assert_eq!(timer(0), "off");
    }

    #[test]
    fn any_moment_has_a_time() {
        assert_eq!(clock(Timestamp(i64::MAX), &TimeZone::UTC), "00:00");
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!((grouped(7).as_str(), grouped(1204).as_str(), grouped(1_000_000).as_str()), ("7", "1,204", "1,000,000"));
        assert_eq!(count(1, "reply", "replies"), "1 reply");
        assert_eq!(count(3, "reply", "replies"), "3 replies");
    }
}
