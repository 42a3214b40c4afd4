//! When something happens by itself, as `snapshots.schedule` says it: five fields as of cron, or aliases.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};
use jiff::tz::AmbiguousOffset;
use jiff::{SignedDuration, ZonedDateTime};

use crate::{Error, Result};

/// What is said in place of fields, and the fields.
const ALIASES: &[(&str, &str)] = &[
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@annually", "0 0 1 1 *"),
    ("@yearly", "0 0 1 1 *"),
];

/// The moments at which something is to happen.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    times: Vec<Cron>,
    startup: bool,
}

impl Schedule {
    /// Reads `<minute> <hour> <day of month> <month> <day of week>`, or a list of aliases, separated by comma and space:
    /// `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@annually`, `@yearly`, `@startup`, and `@never`, which is
    /// the same as nothing.
    pub fn parse(text: &str) -> Result<Schedule> {
        let mut schedule = Schedule::default();
        if !text.starts_with('@') {
            schedule.times.extend(fields(text)?);
            return Ok(schedule);
        }
        for alias in text.split(", ") {
            match ALIASES.iter().find(|(name, _)| *name == alias) {
                Some((_, of_it)) => schedule.times.extend(fields(of_it)?),
                None if alias == "@startup" => schedule.startup = true,
                None if alias == "@never" => {}
                None => return Err(Error::bad_request(format!("Unknown schedule \"{alias}\""))),
            }
        }
        Ok(schedule)
    }

    /// True if it happens whenever its subject starts.
    pub fn at_startup(&self) -> bool {
        self.startup
    }

    /// True if one of its moments is later than `from`, and not later than `to`, by the calendar and the clock of their
    /// time zone. A time of the day that is left out when clocks go forward comes right after; one that is there twice
    /// when they go back comes once.
    pub fn is_due(&self, from: &ZonedDateTime, to: &ZonedDateTime) -> bool {
        let next = |time: &Cron| time.find_next_occurrence(&Moment(from.clone()), false);
        self.times.iter().any(|time| next(time).is_ok_and(|next| next.0 <= *to))
    }
}

fn fields(text: &str) -> Result<Option<Cron>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.split_whitespace().count() != 5 {
        return Err(Error::bad_request(
            "Schedule must be of the form: <minute> <hour> <day-of-month> <month> <day-of-week>",
        ));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let parsed = parser.parse(text).map_err(|e| Error::bad_request(format!("Error parsing schedule: {e}")));
    parsed.map(Some)
}

/// A moment as the cron library wants it.
#[derive(Clone)]
struct Moment(ZonedDateTime);

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let number = |n: i8| u32::from(n.unsigned_abs());
        let (date, time) = (self.0.date(), self.0.time());
        let date = CivilDate::from_parts_unchecked(date.year().into(), number(date.month()), number(date.day()));
        let (hour, minute, second) = (number(time.hour()), number(time.minute()), number(time.second()));
        CivilDateTime::new(date, CivilTime::from_parts_unchecked(hour, minute, second))
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(u32::from(self.0.weekday().to_sunday_zero_offset().unsigned_abs()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> std::result::Result<Resolution<Moment>, CronError> {
        let wrong = |_| CronError::InvalidDate;
        let small = |n: u32| i8::try_from(n).map_err(|_| CronError::InvalidDate);
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let date = jiff::civil::Date::new(year, small(civil.month())?, small(civil.day())?).map_err(wrong)?;
        let time = jiff::civil::Time::new(small(civil.hour())?, small(civil.minute())?, small(civil.second())?, 0);
        let local = self.0.time_zone().to_ambiguous_zoned_datetime(date.to_datetime(time.map_err(wrong)?));
        let moment = |found: std::result::Result<ZonedDateTime, jiff::Error>| found.map(Moment).map_err(wrong);
        Ok(match local.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(moment(local.unambiguous())?),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
            AmbiguousOffset::Fold { .. } => {
                Resolution::Ambiguous(moment(local.clone().earlier())?, moment(local.later())?)
            }
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Moment> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Moment)
    }

    fn cmp_instant(&self, other: &Moment) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_schedule_is_refused() {
        let form = "Schedule must be of the form: <minute> <hour> <day-of-month> <month> <day-of-week>";
        for (text, want) in [
            ("", Ok(false)),
            ("@never", Ok(false)),
            ("@startup", Ok(true)),
            ("@hourly, @startup", Ok(true)),
            ("*/5 0-3 1,15 jan-mar mon", Ok(false)),
            ("@hourly,@daily", Err("Unknown schedule \"@hourly,@daily\"")),
            ("@reboot", Err("Unknown schedule \"@reboot\"")),
            ("hourly", Err(form)),
            ("* * * *", Err(form)),
            ("0 * * * * *", Err(form)),
        ] {
            let got = Schedule::parse(text).map(|s| s.at_startup()).map_err(|e| e.message);
            assert_eq!(got.as_ref().map_err(|e| e.as_str()), want.as_ref().map_err(|e| *e), "{text}");
        }
        for text in ["60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "x * * * *", "5-1 * * * *"] {
            let e = Schedule::parse(text).expect_err(text);
            assert!(e.message.starts_with("Error parsing schedule: "), "{text}: {e}");
        }
    }

    #[test]
    fn moments_are_those_of_the_clock_on_the_wall() {
        for (text, from, to, want) in [
            ("* * * * *", "2026-03-04T05:06:30Z[UTC]", "2026-03-04T05:07:00Z[UTC]", true),
            ("* * * * *", "2026-03-04T05:07:00Z[UTC]", "2026-03-04T05:07:59Z[UTC]", false),
            ("@hourly", "2026-03-04T05:59:00Z[UTC]", "2026-03-04T06:00:00Z[UTC]", true),
            ("@hourly", "2026-03-04T05:01:00Z[UTC]", "2026-03-04T05:59:59Z[UTC]", false),
            // A machine that slept.
            ("@daily", "2026-03-04T23:00:00Z[UTC]", "2026-03-06T12:00:00Z[UTC]", true),
            ("@weekly, @monthly", "2026-02-28T23:59:00Z[UTC]", "2026-03-01T00:00:00Z[UTC]", true),
            ("30 2 * * sun", "2026-03-02T02:29:00Z[UTC]", "2026-03-02T02:30:00Z[UTC]", false),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z[UTC]", "2027-01-01T00:00:00Z[UTC]", false),
            // By the time of the place, not that of the world.
            ("0 8 * * *", "2026-07-01T05:59:00Z[Europe/Berlin]", "2026-07-01T06:00:00Z[Europe/Berlin]", true),
            // 02:30 is left out; it comes when the clock has been put forward.
            ("30 2 * * *", "2026-03-29T00:59:00Z[Europe/Berlin]", "2026-03-29T01:00:00Z[Europe/Berlin]", true),
            // 02:30 is there twice.
            ("30 2 * * *", "2026-10-25T00:29:00Z[Europe/Berlin]", "2026-10-25T00:30:00Z[Europe/Berlin]", true),
            ("30 2 * * *", "2026-10-25T01:29:00Z[Europe/Berlin]", "2026-10-25T01:30:00Z[Europe/Berlin]", false),
            ("", "2026-01-01T00:00:00Z[UTC]", "2027-01-01T00:00:00Z[UTC]", false),
            ("@startup", "2026-01-01T00:00:00Z[UTC]", "2027-01-01T00:00:00Z[UTC]", false),
        ] {
            let (begin, end): (ZonedDateTime, ZonedDateTime) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(Schedule::parse(text).unwrap().is_due(&begin, &end), want, "{text} from {from} to {to}");
        }
    }
}
