//! What is left of the database when a member is emptied and then switched off.

use crate::roles::{self, Change, Member, Step};

/// What the others can do without the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There are no others.
    Alone,
    /// They have no majority: nothing can be changed any more.
    Nothing {
        /// How many members vote then.
        voters: usize,
        /// How many of them are there.
        left: usize,
    },
    /// They have a majority as long as none of them goes.
    NoneToSpare {
        /// How many members vote then.
        voters: usize,
        /// How many of them are there.
        left: usize,
    },
    /// They have a majority although one more may go.
    Enough,
}

/// What is left without the member `leaving`, once the roles have followed its evacuation as far as they can.
pub fn without(members: &[Member], max_voters: usize, leader: u64, leaving: u64) -> Left {
    if members.iter().all(|m| m.id == leaving) {
        return Left::Alone;
    }
    let members = settled(members, max_voters, leader, leaving);
    let voters = members.iter().filter(|m| m.voter).count();
    let left = members.iter().filter(|m| m.voter && m.healthy && m.id != leaving).count();
    let majority = voters / 2 + 1;
    match left {
        _ if left < majority => Left::Nothing { voters, left },
        _ if left == majority => Left::NoneToSpare { voters, left },
        _ => Left::Enough,
    }
}

/// The members as they are when the leader has done all that [`roles`] asks for.
fn settled(members: &[Member], max_voters: usize, mut leader: u64, leaving: u64) -> Vec<Member> {
    let mut members = members.to_vec();
    for m in members.iter_mut().filter(|m| m.id == leaving) {
        m.in_maintenance = true;
    }
    // Each member gets and loses its vote at most once, and leadership moves once.
    for _ in 0..2 * members.len() + 2 {
        match roles::next(&members, max_voters, leader) {
            None => break,
            Some(Step::HandOver(heir)) => leader = heir,
            Some(Step::Voters(Change { add, remove })) => {
                for m in &mut members {
                    m.voter = (m.voter || add.contains(&m.id)) && !remove.contains(&m.id);
                }
            }
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, voter: bool, healthy: bool) -> Member {
        let failure_domain = "default".into();
        Member { id, voter, healthy, in_maintenance: false, client_only: false, failure_domain, matched: 10 }
    }

    #[test]
    fn a_member_may_go_as_long_as_others_can_take_its_place() {
        let m = member;
        let client = |id| Member { client_only: true, ..m(id, false, true) };
        let emptied = |id, healthy| Member { in_maintenance: true, ..m(id, false, healthy) };
        let none_to_spare = |voters, left| Left::NoneToSpare { voters, left };
        for (what, members, leaving, want) in [
            ("alone", vec![m(1, true, true)], 1, Left::Alone),
            ("the voter of two", vec![m(1, true, true), m(2, false, true)], 1, none_to_spare(1, 1)),
            ("the other of two", vec![m(1, true, true), m(2, false, true)], 2, none_to_spare(1, 1)),
            ("the leader of three", (1..=3).map(|id| m(id, true, true)).collect(), 1, none_to_spare(3, 2)),
            ("one of three", (1..=3).map(|id| m(id, true, true)).collect(), 3, none_to_spare(3, 2)),
            ("one of four", (1..=4).map(|id| m(id, id < 4, true)).collect(), 2, Left::Enough),
            ("one of five", (1..=5).map(|id| m(id, id < 4, true)).collect(), 1, Left::Enough),
            (
                "one of three, of which one is silent",
                vec![m(1, true, true), m(2, true, true), m(3, true, false)],
                2,
                none_to_spare(1, 1),
            ),
            (
                "the last one that answers",
                vec![m(1, true, true), m(2, false, false)],
                1,
                Left::Nothing { voters: 1, left: 0 },
            ),
            (
                "the last one that is not emptied",
                vec![m(1, true, true), emptied(2, true), emptied(3, false)],
                1,
                Left::Nothing { voters: 1, left: 0 },
            ),
            (
                "the only one that may vote",
                vec![m(1, true, true), client(2), client(3)],
                1,
                Left::Nothing { voters: 1, left: 0 },
            ),
        ] {
            assert_eq!(without(&members, 3, 1, leaving), want, "{what}");
        }
    }
}
