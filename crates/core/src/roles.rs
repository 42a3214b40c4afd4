//! Who votes in the database, and who stands by.
//!
//! The leader asks [`next`] again and again; each answer is one change of the set of voters, so that a crash
//! between two of them leaves a valid set. Every other member is a learner: it holds the database too, so that
//! it can answer reads. The first of them are shown as stand-by.

use std::collections::BTreeMap;

/// What the assignment of roles needs to know of a member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its Raft id.
    pub id: u64,
    /// True if it votes and counts for the quorum.
    pub voter: bool,
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

/// One change of the set of voters, done in one step of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Members that get a vote.
    pub add: Vec<u64>,
    /// Members that lose theirs.
    pub remove: Vec<u64>,
}

/// The learners that are shown as stand-by: the first `max` by id, leaving out those that may not vote.
pub fn standbys(members: &[Member], max: usize) -> Vec<u64> {
    let mut learners: Vec<u64> = members.iter().filter(|m| !m.voter && !m.client_only).map(|m| m.id).collect();
    learners.sort_unstable();
    learners.truncate(max);
    learners
}

fn able(m: &Member) -> bool {
    m.healthy && !m.client_only
}

/// The next change towards `max_voters` (`cluster.max_voters`), or `None` when all is as it should be.
///
/// `leader` is never taken out of the voters: it hands leadership over first.
pub fn next(members: &[Member], max_voters: usize, leader: u64) -> Option<Change> {
    let have: Vec<&Member> = members.iter().filter(|m| m.voter).collect();
    let keep: Vec<&Member> =
        have.iter().copied().filter(|m| m.id == leader || (able(m) && !m.in_maintenance)).collect();
    let mut spare_seats: Vec<&Member> = members.iter().filter(|m| !m.voter && able(m) && !m.in_maintenance).collect();

    // As many as wanted and possible, and odd: an even voter adds a way to lose the quorum and none to keep it.
    let possible = keep.len() + spare_seats.len();
    let goal = odd(max_voters.min(possible));

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
        return Some(Change { add, remove });
    }
    let mut remove: Vec<u64> = have.iter().filter(|m| !keep.iter().any(|k| k.id == m.id)).map(|m| m.id).collect();
    let mut stay = keep;
    let limit = if stay.len() >= max_voters {
        max_voters
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
    (!remove.is_empty()).then_some(Change { add: Vec::new(), remove })
}

/// The largest odd number up to `n`.
const fn odd(n: usize) -> usize {
    if n.is_multiple_of(2) { n.saturating_sub(1) } else { n }
}

/// The best member for a free seat: a failure domain with the fewest voters, then the one with the most of the log, then the lowest id.
fn best_seat(seats: &[&Member], voters: &[&Member]) -> Option<usize> {
    let domains = count_domains(voters);
    seats
        .iter()
        .enumerate()
        .min_by_key(|(_, m)| {
            let crowded = domains.get(m.failure_domain.as_str()).copied().unwrap_or(0);
            (crowded, u64::MAX - m.matched, m.id)
        })
        .map(|(i, _)| i)
}

fn count_domains<'a>(members: &[&'a Member]) -> BTreeMap<&'a str, usize> {
    members.iter().fold(BTreeMap::new(), |mut n, m| {
        *n.entry(m.failure_domain.as_str()).or_default() += 1;
        n
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, voter: bool, healthy: bool, domain: &str) -> Member {
        Member {
            id,
            voter,
            healthy,
            in_maintenance: false,
            client_only: false,
            failure_domain: domain.into(),
            matched: 10,
        }
    }

    /// Follows the advice until there is none, as the leader does; the voters and the stand-bys then.
    fn settle(mut members: Vec<Member>, max_voters: usize) -> (Vec<u64>, Vec<u64>) {
        for _ in 0..20 {
            let Some(change) = next(&members, max_voters, 1) else { break };
            assert!(!change.remove.contains(&1), "the leader keeps its vote");
            for m in &mut members {
                m.voter = (m.voter || change.add.contains(&m.id)) && !change.remove.contains(&m.id);
            }
        }
        assert_eq!(next(&members, max_voters, 1), None, "it comes to rest");
        (members.iter().filter(|m| m.voter).map(|m| m.id).collect(), standbys(&members, 2))
    }

    #[test]
    fn roles_settle_where_they_should() {
        let m = member;
        for (what, members, max_voters, voters, standbys) in [
            ("alone", vec![m(1, true, true, "a")], 3, vec![1], vec![]),
            ("a second member adds no vote", vec![m(1, true, true, "a"), m(2, false, true, "a")], 3, vec![1], vec![2]),
            (
                "three",
                vec![m(1, true, true, "a"), m(2, false, true, "a"), m(3, false, true, "a")],
                3,
                vec![1, 2, 3],
                vec![],
            ),
            (
                "a silent voter is replaced, by the empty failure domain first",
                vec![
                    m(1, true, true, "a"),
                    m(2, true, false, "b"),
                    m(3, true, true, "c"),
                    m(4, false, true, "a"),
                    m(5, false, true, "b"),
                ],
                3,
                vec![1, 3, 5],
                vec![2, 4],
            ),
            (
                "a silent voter stays while nobody can take its seat",
                vec![m(1, true, true, "a"), m(2, true, false, "a"), m(3, true, true, "a")],
                3,
                vec![1, 2, 3],
                vec![],
            ),
            (
                "two silent voters of five are let go when nobody can take their seats",
                (1..=5).map(|id| m(id, true, id < 4, "a")).collect(),
                5,
                vec![1, 2, 3],
                vec![4, 5],
            ),
            (
                "two of three left over after a removal",
                vec![m(1, true, true, "a"), m(2, true, true, "a")],
                3,
                vec![1],
                vec![2],
            ),
            ("more seats", (1..=6).map(|id| m(id, id <= 3, true, "a")).collect(), 5, vec![1, 2, 3, 4, 5], vec![6]),
            (
                "fewer seats",
                (1..=5).map(|id| m(id, true, true, if id < 4 { "a" } else { "b" })).collect(),
                3,
                vec![1, 2, 4],
                vec![3, 5],
            ),
        ] {
            assert_eq!(settle(members, max_voters), (voters, standbys), "{what}");
        }
    }

    #[test]
    fn a_database_client_and_a_member_in_maintenance_do_not_get_a_seat() {
        let mut members: Vec<Member> = (1..=5).map(|id| member(id, id == 1, true, "a")).collect();
        members[1].client_only = true;
        members[2].in_maintenance = true;
        assert_eq!(settle(members, 3), (vec![1, 4, 5], vec![3]));
    }
}
