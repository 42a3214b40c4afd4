//! Nothing waits for a member that is offline: reads and writes on the others take as long as ever.

use std::time::Duration;

/// How long something may take while a minority is away and nothing else is wrong: a few ways over the network and to the
/// disk, and no more.
pub const SOON: Duration = Duration::from_secs(2);

/// Judges something that a member was asked for while `away` was offline.
///
/// # Errors
/// It took too long, or failed.
pub fn check(member: u64, away: u64, what: &str, took: Duration, refused: Option<String>) -> Result<(), String> {
    match refused {
        Some(why) => Err(format!("{what} on member {member} fails while member {away} is away: {why}")),
        None if took > SOON => {
            Err(format!("{what} on member {member} takes {} ms while member {away} is away", took.as_millis()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_or_fails_is_found() {
        assert_eq!(check(1, 2, "a write", SOON, None), Ok(()));
        assert!(check(1, 2, "a write", SOON * 2, None).unwrap_err().contains("takes 4000 ms"));
        assert!(check(1, 2, "a write", SOON / 2, Some("no majority".into())).unwrap_err().contains("no majority"));
    }
}
