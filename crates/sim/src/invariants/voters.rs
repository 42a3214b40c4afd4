//! The voters are never fewer than the rules allow when members are healthy: as many as wanted and as can, and odd.

/// Who votes, and who could.
#[derive(Clone, Copy, Debug)]
pub struct Seats {
    /// Members that vote.
    pub voters: usize,
    /// Those of them that are fit to.
    pub fit_voters: usize,
    /// Members that are fit to vote: in service and there.
    pub fit: usize,
    /// `cluster.max_voters`.
    pub wanted: usize,
}

/// Judges who votes once nothing changes any more. One that is not fit may vote, too, where that makes the number odd.
///
/// # Errors
/// They are not as the rules say.
pub fn check_at_rest(seats: Seats) -> Result<(), String> {
    let Seats { voters, fit_voters, fit, wanted } = seats;
    let most = fit.min(wanted);
    let due = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    match fit_voters >= due && voters <= wanted && !voters.is_multiple_of(2) {
        true => Ok(()),
        false => {
            Err(format!("{due} members that are fit to should vote, as an odd number of at most {wanted}: {seats:?}"))
        }
    }
}

/// Judges how many vote at any time; while they change, those before and after do.
///
/// # Errors
/// None votes, or too many do.
pub fn check_always(voters: usize, wanted: usize) -> Result<(), String> {
    match voters {
        0 => Err("nobody votes".into()),
        n if n > wanted * 2 => Err(format!("{n} members vote, and {wanted} may")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_and_too_many_are_found() {
        for (voters, fit_voters, fit, wanted, good) in [
            (3, 3, 5, 3, true),
            (3, 3, 4, 5, true),
            (1, 1, 2, 3, true),
            (3, 2, 2, 3, true),
            (3, 2, 3, 3, false),
            (2, 2, 5, 3, false),
            (1, 1, 3, 3, false),
            (5, 5, 5, 3, false),
        ] {
            let seats = Seats { voters, fit_voters, fit, wanted };
            assert_eq!(check_at_rest(seats).is_ok(), good, "{seats:?}");
        }
        for (voters, wanted, good) in [(1, 3, true), (2, 3, true), (3, 3, true), (0, 3, false), (7, 3, false)] {
            assert_eq!(check_always(voters, wanted).is_ok(), good, "{voters}, {wanted}");
        }
    }
}
