//! Who votes in the database, and who stands by.
//!
//! The leader asks [`next`] again and again; each answer is one small change, so that a crash between two of
//! them leaves a valid set of voters.

use std::collections::BTreeMap;

/// The database role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes and counts for the quorum.
    Voter,
    /// Holds the database and is the first to be made a voter.
    StandBy,
    /// Holds the database so that it can answer reads.
    Spare,
}

/// What the assignment of roles needs to know of a member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its Raft id.
    pub id: u64,
    /// The role it has.
    pub role: Role,
    /// True if it is heard of, and not blocked, joining or in the middle of leaving.
    pub healthy: bool,
    /// True if it is evacuated; it keeps its vote only while nobody else can take it.
    pub in_maintenance: bool,
    /// True if the role `database-client` keeps it from voting.
    pub client_only: bool,
    /// The failure domain it stands in.
    pub failure_domain: String,
    /// The last log entry that it is known to have.
    pub matched: u64,
}

/// The wanted numbers.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// `cluster.max_voters`.
    pub voters: usize,
    /// `cluster.max_standby`.
    pub standbys: usize,
}

/// One change of roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give these members a vote and take it from those, in one step of the log.
    Voters {
        /// Members that get a vote.
        add: Vec<u64>,
        /// Members that lose theirs.
        remove: Vec<u64>,
    },
    /// Mark the member as stand-by.
    StandBy(u64),
    /// Mark the member as spare.
    Spare(u64),
}

/// The next change, or `None` when all is as it should be.
///
/// `leader` is never taken out of the voters: it hands leadership over first.
pub fn next(members: &[Member], wanted: Wanted, leader: u64) -> Option<Change> {
    voters(members, wanted, leader).or_else(|| standbys(members, wanted))
}

fn able(m: &Member) -> bool {
    m.healthy && !m.client_only
}

fn voters(members: &[Member], wanted: Wanted, leader: u64) -> Option<Change> {
    let have: Vec<&Member> = members.iter().filter(|m| m.role == Role::Voter).collect();
    let keep: Vec<&Member> =
        have.iter().copied().filter(|m| m.id == leader || (able(m) && !m.in_maintenance)).collect();
    let mut spare_seats: Vec<&Member> =
        members.iter().filter(|m| m.role != Role::Voter && able(m) && !m.in_maintenance).collect();

    // As many as wanted and possible, and odd: an even voter adds a way to lose the quorum and none to keep it.
    let possible = keep.len() + spare_seats.len();
    let goal = odd(wanted.voters.min(possible));

    if keep.len() < goal {
        let mut chosen = keep.clone();
        let mut add = Vec::new();
        while chosen.len() < goal {
            let best = best_seat(&spare_seats, &chosen)?;
            let seat = spare_seats.remove(best);
            add.push(seat.id);
            chosen.push(seat);
        }
        let remove = have.iter().filter(|m| !chosen.iter().any(|c| c.id == m.id)).map(|m| m.id).collect();
        return Some(Change::Voters { add, remove });
    }
    let mut remove: Vec<u64> = have.iter().filter(|m| !keep.iter().any(|k| k.id == m.id)).map(|m| m.id).collect();
    let mut stay = keep;
    let limit = if stay.len() >= wanted.voters {
        wanted.voters
    } else if remove.is_empty() {
        odd(stay.len())
    } else {
        // Nobody can take the seats of the silent. A silent voter stays only where it makes the number odd.
        let spared = if stay.len().is_multiple_of(2) || stay.len() < 3 { 1 } else { 0 };
        remove.drain(..spared.min(remove.len()));
        stay.len()
    };
    while stay.len() > limit {
        let domains = count_domains(&stay);
        let out = stay
            .iter()
            .enumerate()
            .filter(|(_, m)| m.id != leader)
            .max_by_key(|(_, m)| (domains.get(m.failure_domain.as_str()).copied(), m.id))
            .map(|(i, _)| i)?;
        remove.push(stay.remove(out).id);
    }
    (!remove.is_empty()).then_some(Change::Voters { add: Vec::new(), remove })
}

/// The largest odd number up to `n`.
const fn odd(n: usize) -> usize {
    if n.is_multiple_of(2) { n.saturating_sub(1) } else { n }
}

/// The best member for a free seat: a failure domain with the fewest voters, then a stand-by before a spare,
/// then the one with the most of the log, then the lowest id.
fn best_seat(seats: &[&Member], voters: &[&Member]) -> Option<usize> {
    let domains = count_domains(voters);
    seats
        .iter()
        .enumerate()
        .min_by_key(|(_, m)| {
            let crowded = domains.get(m.failure_domain.as_str()).copied().unwrap_or(0);
            (crowded, m.role, u64::MAX - m.matched, m.id)
        })
        .map(|(i, _)| i)
}

fn count_domains<'a>(members: &[&'a Member]) -> BTreeMap<&'a str, usize> {
    members.iter().fold(BTreeMap::new(), |mut n, m| {
        *n.entry(m.failure_domain.as_str()).or_default() += 1;
        n
    })
}

fn standbys(members: &[Member], wanted: Wanted) -> Option<Change> {
    let have: Vec<&Member> = members.iter().filter(|m| m.role == Role::StandBy).collect();
    if let Some(gone) = have.iter().find(|m| !able(m) || m.in_maintenance) {
        return Some(Change::Spare(gone.id));
    }
    if have.len() > wanted.standbys {
        return have.last().map(|m| Change::Spare(m.id));
    }
    if have.len() < wanted.standbys {
        let seats: Vec<&Member> =
            members.iter().filter(|m| m.role == Role::Spare && able(m) && !m.in_maintenance).collect();
        return best_seat(&seats, &have).map(|i| Change::StandBy(seats[i].id));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, role: Role, healthy: bool, domain: &str) -> Member {
        Member {
            id,
            role,
            healthy,
            in_maintenance: false,
            client_only: false,
            failure_domain: domain.into(),
            matched: 10,
        }
    }

    const WANTED: Wanted = Wanted { voters: 3, standbys: 2 };

    /// Follows the advice until there is none, as the leader does.
    fn settle(mut members: Vec<Member>, wanted: Wanted) -> (Vec<u64>, Vec<u64>) {
        for _ in 0..20 {
            let Some(change) = next(&members, wanted, 1) else { break };
            let mut set = |id: u64, role| {
                if let Some(m) = members.iter_mut().find(|m| m.id == id) {
                    m.role = role;
                }
            };
            match change {
                Change::Voters { add, remove } => {
                    assert!(!remove.contains(&1), "the leader keeps its vote");
                    add.into_iter().for_each(|id| set(id, Role::Voter));
                    remove.into_iter().for_each(|id| set(id, Role::Spare));
                }
                Change::StandBy(id) => set(id, Role::StandBy),
                Change::Spare(id) => set(id, Role::Spare),
            }
        }
        assert_eq!(next(&members, wanted, 1), None, "it comes to rest");
        let with = |role| members.iter().filter(|m| m.role == role).map(|m| m.id).collect();
        (with(Role::Voter), with(Role::StandBy))
    }

    #[test]
    fn roles_settle_where_they_should() {
        use Role::*;
        let m = member;
        for (what, members, wanted, voters, standbys) in [
            ("alone", vec![m(1, Voter, true, "a")], WANTED, vec![1], vec![]),
            (
                "a second member adds no vote",
                vec![m(1, Voter, true, "a"), m(2, Spare, true, "a")],
                WANTED,
                vec![1],
                vec![2],
            ),
            (
                "three",
                vec![m(1, Voter, true, "a"), m(2, StandBy, true, "a"), m(3, Spare, true, "a")],
                WANTED,
                vec![1, 2, 3],
                vec![],
            ),
            (
                "a silent voter is replaced, by the empty failure domain first",
                vec![
                    m(1, Voter, true, "a"),
                    m(2, Voter, false, "b"),
                    m(3, Voter, true, "c"),
                    m(4, StandBy, true, "a"),
                    m(5, StandBy, true, "b"),
                ],
                WANTED,
                vec![1, 3, 5],
                vec![4],
            ),
            (
                "a silent voter stays while nobody can take its seat",
                vec![m(1, Voter, true, "a"), m(2, Voter, false, "a"), m(3, Voter, true, "a")],
                WANTED,
                vec![1, 2, 3],
                vec![],
            ),
            (
                "two silent voters of five are let go when nobody can take their seats",
                (1..=5).map(|id| m(id, Voter, id < 4, "a")).collect(),
                Wanted { voters: 5, standbys: 2 },
                vec![1, 2, 3],
                vec![],
            ),
            (
                "two of three left over after a removal",
                vec![m(1, Voter, true, "a"), m(2, Voter, true, "a")],
                WANTED,
                vec![1],
                vec![2],
            ),
            (
                "more seats",
                (1..=6).map(|id| m(id, if id <= 3 { Voter } else { Spare }, true, "a")).collect(),
                Wanted { voters: 5, standbys: 2 },
                vec![1, 2, 3, 4, 5],
                vec![6],
            ),
            (
                "fewer seats",
                (1..=5).map(|id| m(id, Voter, true, if id < 4 { "a" } else { "b" })).collect(),
                Wanted { voters: 3, standbys: 0 },
                vec![1, 2, 4],
                vec![],
            ),
        ] {
            assert_eq!(settle(members, wanted), (voters, standbys), "{what}");
        }
    }

    #[test]
    fn a_database_client_and_a_member_in_maintenance_do_not_get_a_seat() {
        let mut members: Vec<Member> = (1..=5).map(|id| member(id, Role::Spare, true, "a")).collect();
        members[0].role = Role::Voter;
        members[1].client_only = true;
        members[2].in_maintenance = true;
        assert_eq!(settle(members, WANTED), (vec![1, 4, 5], vec![]));
    }
}
