//! An instance never runs on two members at a time.

/// Judges where an instance runs.
///
/// # Errors
/// On more than one member.
pub fn check(instance: i64, runs_on: &[i64]) -> Result<(), String> {
    match runs_on.len() {
        0 | 1 => Ok(()),
        _ => Err(format!("instance {instance} runs on the members {runs_on:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_found() {
        assert_eq!((check(1, &[]), check(1, &[2])), (Ok(()), Ok(())));
        assert!(check(1, &[2, 3]).unwrap_err().contains("[2, 3]"));
    }
}
