//! Sizes and times as people read them.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

/// A size in powers of 1024: `512B`, `1.50KiB`.
pub fn bytes_iec(n: i64) -> String {
    size(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A size in powers of 1000: `512B`, `1.50kB`.
pub fn bytes_decimal(n: i64) -> String {
    size(n, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

fn size(n: i64, step: f64, units: &[&str]) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mut value = n as f64;
    let mut unit = 0;
    while value.abs() >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{n}B") } else { format!("{value:.2}{}", units[unit]) }
}

/// True for a time that is set: neither absent, nor the zero time, nor the epoch.
pub fn is_set(time: &Value) -> bool {
    time.as_str().and_then(|s| s.parse::<Timestamp>().ok()).is_some_and(|t| t.as_second() > 0)
}

/// A time of the API as `2026/11/24 02:09 UTC`, in the zone of the one who asks; empty when not set.
pub fn date(time: &Value) -> String {
    if !is_set(time) {
        return String::new();
    }
    let parsed = time.as_str().and_then(|s| s.parse::<Timestamp>().ok());
    parsed
        .map_or_else(String::new, |t| t.to_zoned_datetime(TimeZone::system()).strftime("%Y/%m/%d %H:%M %Z").to_string())
}

/// `YES` or `NO`.
pub fn level(yes: bool) -> String {
    if yes { "YES".into() } else { "NO".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (n, iec, decimal) in
            [(0, "0B", "0B"), (766, "766B", "766B"), (2140, "2.09KiB", "2.14kB"), (881_004, "860.36KiB", "881.00kB")]
        {
            assert_eq!((bytes_iec(n).as_str(), bytes_decimal(n).as_str()), (iec, decimal));
        }
    }

    #[test]
    fn times_that_are_not_set_show_nothing() {
        for t in [Value::Null, "0001-01-01T00:00:00Z".into(), "1970-01-01T00:00:00Z".into(), "nonsense".into()] {
            assert_eq!(date(&t), "");
        }
    }
}
