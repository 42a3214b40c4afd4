//! When all is mended, everything comes to rest: all members know the same leader, all have applied the same, none is
//! halted, and the voters are not being changed.

use db::Status;

/// Why the members are not at rest; `None` if they are.
pub fn unrest(members: &[Status]) -> Option<String> {
    let first = members.first()?;
    for status in members {
        let id = status.id;
        if let Some(why) = &status.halted {
            return Some(format!("member {id} is halted: {why}"));
        }
        if status.diverged {
            return Some(format!("member {id} differs"));
        }
        let Some(leader) = status.leader else { return Some(format!("member {id} knows no leader")) };
        if (leader, status.term) != (first.leader.unwrap_or(0), first.term) {
            return Some(format!("members {} and {id} know different leaders", first.id));
        }
        if status.applied != first.last_log || status.last_log != first.last_log {
            return Some(format!(
                "member {id} has applied {} of {} entries, member {} has {}",
                status.applied, status.last_log, first.id, first.last_log
            ));
        }
        if (&status.voters, &status.learners) != (&first.voters, &first.learners) {
            return Some(format!("members {} and {id} know different voters", first.id));
        }
        if status.changing {
            return Some(format!("a change of the voters is under way on member {id}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrest_is_found() {
        let good = |id| Status {
            id,
            term: 3,
            leader: Some(1),
            last_log: 9,
            applied: 9,
            voters: vec![1, 2],
            ..Status::default()
        };
        assert_eq!(unrest(&[good(1), good(2)]), None);
        for (bad, told) in [
            (Status { leader: None, ..good(2) }, "knows no leader"),
            (Status { leader: Some(2), ..good(2) }, "different leaders"),
            (Status { applied: 8, ..good(2) }, "has applied 8 of 9"),
            (Status { halted: Some("full".into()), ..good(2) }, "halted: full"),
            (Status { diverged: true, ..good(2) }, "differs"),
            (Status { voters: vec![1], ..good(2) }, "different voters"),
            (Status { changing: true, ..good(2) }, "under way on member 2"),
        ] {
            let found = unrest(&[good(1), bad]).expect(told);
            assert!(found.contains(told), "{found}");
        }
    }
}
