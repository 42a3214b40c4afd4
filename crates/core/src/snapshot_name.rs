//! Names of snapshots that nobody has named: made from a pattern as `snap%d` or `{{ creation_date|date:'2006-01-02' }}`.

use api::{Error, Result};
use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// The next name by a pattern, other than those that are taken. `%d` is the next free number; a pattern without it
/// whose name is taken gets one at its end.
pub fn next(pattern: &str, taken: &[String], now: Timestamp) -> Result<String> {
    let rendered = dated(pattern, now)?;
    if let Some((before, after)) = rendered.split_once("%d") {
        return Ok(format!("{before}{}{after}", next_number(taken, before, after)));
    }
    if !taken.contains(&rendered) {
        return Ok(rendered);
    }
    let before = format!("{rendered}-");
    Ok(format!("{before}{}", next_number(taken, &before, "")))
}

fn next_number(taken: &[String], before: &str, after: &str) -> u64 {
    let number = |name: &String| name.strip_prefix(before)?.strip_suffix(after)?.parse::<u64>().ok();
    taken.iter().filter_map(number).max().map_or(0, |n| n + 1)
}

/// Replaces each `{{ creation_date }}`, with or without a `date` filter, by the time.
fn dated(pattern: &str, now: Timestamp) -> Result<String> {
    let bad = || Error::bad_request(format!("Invalid snapshot pattern \"{pattern}\""));
    let (mut out, mut rest) = (String::new(), pattern);
    while let Some((before, tail)) = rest.split_once("{{") {
        let (inner, after) = tail.split_once("}}").ok_or_else(bad)?;
        let (variable, filter) = inner.split_once('|').map_or((inner, None), |(v, f)| (v, Some(f)));
        let layout = match filter.map(str::trim) {
            None => "2006-01-02 15:04:05",
            Some(filter) => {
                let quoted = filter.strip_prefix("date:").map(str::trim).ok_or_else(bad)?;
                let quote = quoted.chars().next().filter(|q| "'\"".contains(*q)).ok_or_else(bad)?;
                quoted.strip_prefix(quote).and_then(|q| q.strip_suffix(quote)).ok_or_else(bad)?
            }
        };
        if variable.trim() != "creation_date" {
            return Err(bad());
        }
        out += before;
        out += &strtime::format(strftime(layout), &now.to_zoned_datetime(TimeZone::UTC)).map_err(|_| bad())?;
        rest = after;
    }
    Ok(out + rest)
}

/// A layout as Go writes it, by the time 2006-01-02 15:04:05, in the letters of `strftime`.
fn strftime(layout: &str) -> String {
    const WORDS: &[(&str, &str)] = &[
        ("%", "%%"),
        ("2006", "%Y"),
        ("January", "%B"),
        ("Jan", "%b"),
        ("Monday", "%A"),
        ("Mon", "%a"),
        ("01", "%m"),
        ("02", "%d"),
        ("03", "%I"),
        ("04", "%M"),
        ("05", "%S"),
        ("06", "%y"),
        ("15", "%H"),
        ("PM", "%p"),
    ];
    let (mut out, mut rest) = (String::new(), layout);
    while let Some(first) = rest.chars().next() {
        let len = match WORDS.iter().find(|(word, _)| rest.starts_with(word)) {
            Some((word, letters)) => {
                out += letters;
                word.len()
            }
            None => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_pattern() {
        let now: Timestamp = "2026-03-04T05:06:07Z".parse().unwrap();
        for (pattern, taken, want) in [
            ("snap%d", &[][..], Ok("snap0")),
            ("snap%d", &["snap0", "snap7", "snapx", "other"], Ok("snap8")),
            ("%d-x", &["3-x", "4"], Ok("4-x")),
            ("daily", &[], Ok("daily")),
            ("daily", &["daily"], Ok("daily-0")),
            ("daily", &["daily", "daily-0"], Ok("daily-1")),
            ("{{ creation_date }}", &[], Ok("2026-03-04 05:06:07")),
            ("a-{{creation_date|date:'2006-01-02_15-04'}}-b", &[], Ok("a-2026-03-04_05-06-b")),
            ("{{ creation_date|date:\"Jan 06\" }}%d", &[], Ok("Mar 260")),
            ("{{ creation_date", &[], Err("Invalid snapshot pattern \"{{ creation_date\"")),
            ("{{ name }}", &[], Err("Invalid snapshot pattern \"{{ name }}\"")),
            ("{{ creation_date|upper }}", &[], Err("Invalid snapshot pattern \"{{ creation_date|upper }}\"")),
        ] {
            let taken: Vec<String> = taken.iter().map(|t| (*t).to_owned()).collect();
            let got = next(pattern, &taken, now);
            assert_eq!(got.as_deref().map_err(|e| e.message.as_str()), want, "{pattern}");
        }
    }
}
