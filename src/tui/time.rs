//! Moments as people read them, in their own time zone.

use jiff::tz::TimeZone;

use crate::protocol::codec::Timestamp;

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
