//! Keys of a storage volume.

use super::{clock, expiry};
use crate::key::{Config, check_all};
use crate::{Error, Result};

fn id(n: i64) -> Result<(), String> {
    if (0..=i64::from(u32::MAX)).contains(&n) { Ok(()) } else { Err(format!("Invalid id \"{n}\"")) }
}

/// The mode that the digits of a number stand for.
pub fn mode(digits: i64) -> Result<u32, String> {
    match u32::from_str_radix(&digits.to_string(), 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("Invalid mode \"{digits}\": it is an octal number up to 7777")),
    }
}

fn size(value: &str) -> Result<(), String> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &value[digits.len()..];
    let known = ["", "B", "kB", "MB", "GB", "TB", "PB", "EB", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if digits.parse::<u64>().is_ok() && known.contains(&unit) {
        Ok(())
    } else {
        Err(format!("Invalid size \"{value}\""))
    }
}

crate::keys! { VOLUME {
    /// Group of the volume's root when it is made.
    INITIAL_GID: i64 = "initial.gid", "0", Global, |n| id(*n);
    /// Mode of the volume's root when it is made, in octal.
    INITIAL_MODE: i64 = "initial.mode", "711", Global, |n| mode(*n).map(drop);
    /// Owner of the volume's root when it is made.
    INITIAL_UID: i64 = "initial.uid", "0", Global, |n| id(*n);
    /// Whether owners are mapped for each instance that it is attached to, so that several can share it.
    SHIFTED: bool = "security.shifted", "false", Global;
    /// Whether owners are left as they are.
    UNMAPPED: bool = "security.unmapped", "false", Global;
    /// How large it may become. Pools of the driver `dir` do not enforce it.
    SIZE: String = "size", "", Global, |v| size(v);
    /// After which time its snapshots are deleted.
    SNAPSHOTS_EXPIRY: String = "snapshots.expiry", "", Global, |v| expiry(v);
    /// The same for snapshots that somebody took, rather than a schedule.
    SNAPSHOTS_EXPIRY_MANUAL: String = "snapshots.expiry.manual", "", Global, |v| expiry(v);
    /// How snapshots are named: `%d` is a number, `{{ creation_date }}` the time.
    SNAPSHOTS_PATTERN: String = "snapshots.pattern", "snap%d", Global;
    /// When snapshots are taken by themselves: `<minute> <hour> <day of month> <month> <day of week>`, or `@hourly`, `@daily`,
    /// `@midnight`, `@weekly`, `@monthly`, `@annually`, `@yearly`, `@never`, or several of these (`@daily, @monthly`).
    SNAPSHOTS_SCHEDULE: String = "snapshots.schedule", "", Global, |v| clock(v);
    /// Anything.
    USER: String = "user.*", "", Global;
}}

/// Checks the configuration of a volume in the words that clients know.
pub fn check(volume: &str, config: &Config) -> Result<()> {
    let about = |key: &str| format!("for volume \"{volume}\" option \"{key}\"");
    check_all(
        VOLUME,
        config.iter().filter(|(key, _)| !key.starts_with("volatile.")),
        |key| format!("Invalid option {}", about(key)),
        |key, why| format!("Invalid value {}: {why}", about(key)),
    )?;
    let on = |key: &str| config.get(key).is_some_and(|v| crate::key::Value::parse(v).unwrap_or(false));
    if on("security.shifted") && on("security.unmapped") {
        return Err(Error::bad_request("security.shifted and security.unmapped are mutually exclusive"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_in_known_words() {
        for (key, value, want) in [
            ("size", "10GiB", Ok(())),
            ("size", "10 apples", Err("Invalid value for volume \"v\" option \"size\": Invalid size \"10 apples\"")),
            ("size", "", Ok(())),
            ("initial.mode", "0755", Ok(())),
            (
                "initial.mode",
                "99",
                Err(
                    "Invalid value for volume \"v\" option \"initial.mode\": Invalid mode \"99\": it is an octal number up to 7777",
                ),
            ),
            ("initial.uid", "-1", Err("Invalid value for volume \"v\" option \"initial.uid\": Invalid id \"-1\"")),
            (
                "snapshots.expiry",
                "3x",
                Err("Invalid value for volume \"v\" option \"snapshots.expiry\": Invalid expiry expression"),
            ),
            ("snapshots.schedule", "@hourly, @monthly", Ok(())),
            (
                "snapshots.schedule",
                "@startup",
                Err(
                    "Invalid value for volume \"v\" option \"snapshots.schedule\": Only instances start: @startup is not for volumes",
                ),
            ),
            ("zfs.blocksize", "1", Err("Invalid option for volume \"v\" option \"zfs.blocksize\"")),
            ("user.a", "b", Ok(())),
        ] {
            let got = check("v", &[(key.to_owned(), value.to_owned())].into());
            assert_eq!(
                got.as_ref().map(drop).map_err(|e| e.message.as_str()),
                want.as_ref().map(drop).map_err(|e| *e),
                "{key}={value}"
            );
        }
        let both: Config =
            [("security.shifted", "true"), ("security.unmapped", "1")].map(|(k, v)| (k.into(), v.into())).into();
        assert!(check("v", &both).is_err());
    }
}
