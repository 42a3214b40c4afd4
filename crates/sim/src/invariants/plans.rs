//! Every plan ends, and no member stays in maintenance that has no plan.

use incus_core::member::State;

/// Judges a plan once all has been mended for long enough.
///
/// # Errors
/// It has not ended.
pub fn check_ended(plan: usize, ended: bool, why: &str) -> Result<(), String> {
    if ended { Ok(()) } else { Err(format!("plan {plan} does not end: {why}")) }
}

/// Judges the state of a member that no plan is about.
///
/// # Errors
/// It is one that only a plan can end.
pub fn check_member(member: i64, state: State) -> Result<(), String> {
    match state {
        State::Evacuating | State::Restoring => {
            Err(format!("member {member} stays {state:?}, and no plan is about it"))
        }
        State::Created | State::Pending | State::Evacuated => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_and_members_that_are_stuck_are_found() {
        assert!(check_ended(1, true, "").is_ok() && check_ended(1, false, "it waits").is_err());
        for state in State::ALL {
            let good = !matches!(state, State::Evacuating | State::Restoring);
            assert_eq!(check_member(1, state).is_ok(), good, "{state:?}");
        }
    }
}
