//! What a client was told may still come true, and what a read on the same member did not show after that, never comes true:
//! whoever acts on such a read may rely on it.

use lab::history::{Event, list};

/// Values that were to be appended to lists, and were not there when that was looked at; each with its list.
pub type GivenUp = Vec<(String, u64)>;

/// Judges it by what was ever read from lists.
///
/// # Errors
/// One of them was seen.
pub fn check(given_up: &GivenUp, lists: &[Event<list::Action>]) -> Result<(), String> {
    for event in lists {
        let list::Action::Read(shown) = &event.action else { continue };
        if let Some((key, value)) = given_up.iter().find(|(key, value)| *key == event.key && shown.contains(value)) {
            return Err(format!("{value} was not in the list {key} after it had been given up, and came later"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_value_is_found() {
        let read = |shown| Event {
            process: 1,
            called: 1,
            returned: Some(2),
            key: "a".into(),
            action: list::Action::Read(shown),
        };
        let given_up = vec![("a".to_owned(), 3), ("b".to_owned(), 1)];
        assert_eq!(check(&given_up, &[read(vec![1, 2])]), Ok(()));
        assert!(check(&given_up, &[read(vec![1]), read(vec![1, 3])]).unwrap_err().contains("3 was not in the list a"));
    }
}
