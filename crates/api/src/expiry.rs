//! Spans of time as `3H` or `1w 2d`: seconds, minutes, hours, days, weeks, months, years.

use jiff::{Span, Timestamp};

use crate::{Error, Result};

/// A span of calendar time.
#[derive(Clone, Copy, Debug)]
pub struct Expiry(Span);

impl Expiry {
    /// Reads `S` (seconds), `M` (minutes), `H`, `d`, `w`, `m` (months) and `y`, each once at most, separated by spaces.
    pub fn parse(text: &str) -> Result<Expiry> {
        let bad = || Error::bad_request("Invalid expiry expression");
        let mut span = Span::new();
        let mut seen = String::new();
        for word in text.split_whitespace() {
            let unit = word.chars().last().ok_or_else(bad)?;
            let n: i64 = word[..word.len() - unit.len_utf8()].parse().map_err(|_| bad())?;
            if seen.contains(unit) || n < 0 {
                return Err(bad());
            }
            seen.push(unit);
            span = match unit {
                'S' => span.try_seconds(n),
                'M' => span.try_minutes(n),
                'H' => span.try_hours(n),
                'd' => span.try_days(n),
                'w' => span.try_weeks(n),
                'm' => span.try_months(n),
                'y' => span.try_years(n),
                _ => return Err(bad()),
            }
            .map_err(|_| bad())?;
        }
        if seen.is_empty() { Err(bad()) } else { Ok(Expiry(span)) }
    }

    /// The moment that lies so far after `now`.
    pub fn after(self, now: Timestamp) -> Result<Timestamp> {
        let later = now.to_zoned_datetime(jiff::tz::TimeZone::UTC).checked_add(self.0);
        later.map(|z| z.timestamp()).map_err(|_| Error::bad_request("The expiry lies too far ahead"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_added_by_the_calendar() {
        let now: Timestamp = "2026-01-31T00:00:00Z".parse().unwrap();
        for (text, want) in [
            ("3H", "2026-01-31T03:00:00Z"),
            ("5S", "2026-01-31T00:00:05Z"),
            ("1d 30M", "2026-02-01T00:30:00Z"),
            ("1m", "2026-02-28T00:00:00Z"),
            ("2w 1y", "2027-02-14T00:00:00Z"),
        ] {
            let want: Timestamp = want.parse().unwrap();
            assert_eq!(Expiry::parse(text).and_then(|e| e.after(now)), Ok(want), "{text}");
        }
        for text in ["", "3", "H", "3X", "-1d", "1d 2d", "3 H"] {
            assert!(Expiry::parse(text).is_err(), "{text}");
        }
    }
}
