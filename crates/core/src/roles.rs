//! Who votes in the database, and who stands by.
//!
//! The leader asks [`next`] again and again; each answer is one step, so that a crash between two of them leaves a
//! valid set of voters. Every other member is a learner: it holds the database too, so that it can answer reads. The
//! first of them are shown as stand-by.

use std::collections::BTreeMap;

/// What the assignment of roles needs to know of a member.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Its Raft id.
    pub id: u64,
    /// True if it votes and counts for the quorum.
    pub voter: bool,
    /// True if it is heard of, and not blocked, joining, in the middle of leaving or being shut down.
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

/// What the leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It changes the voters.
    Voters(Change),
    /// It lets that voter lead: itself it should not vote.
    HandOver(u64),
}

fn able(m: &Member) -> bool {
    m.healthy && !m.client_only
}

/// True if it may vote for as long as it likes.
fn fit(m: &Member) -> bool {
    able(m) && !m.in_maintenance
}

/// The next step towards `max_voters` (`cluster.max_voters`), or `None` when all is as it should be.
///
/// `leader` is never taken out of the voters: it hands leadership over first.
pub fn next(members: &[Member], max_voters: usize, leader: u64) -> Option<Step> {
    if members.iter().any(|m| m.id == leader && !fit(m)) {
        let heirs = members.iter().filter(|m| m.voter && m.id != leader && fit(m));
        if let Some(heir) = heirs.max_by_key(|m| (m.matched, std::cmp::Reverse(m.id))) {
            return Some(Step::HandOver(heir.id));
        }
        if let Some(heir) = only_heir(members, leader) {
            return Some(Step::Voters(heir));
        }
    }
    change(members, max_voters, leader).map(Step::Voters)
}

/// The only voter, who should not vote, gives somebody else a vote too, in order to hand over: for that moment, and
/// because there is no other way, their number is even.
fn only_heir(members: &[Member], leader: u64) -> Option<Change> {
    if members.iter().any(|m| m.voter && m.id != leader) {
        return None;
    }
    let seats: Vec<&Member> = members.iter().filter(|m| !m.voter && fit(m)).collect();
    let heir = seats[best_seat(&seats, &[])?].id;
    Some(Change { add: vec![heir], remove: Vec::new() })
}

fn change(members: &[Member], max_voters: usize, leader: u64) -> Option<Change> {
    let have: Vec<&Member> = members.iter().filter(|m| m.voter).collect();
    let (keep, mut out): (Vec<&Member>, Vec<&Member>) = have.iter().partition(|m| m.id == leader || fit(m));
    let mut spare_seats: Vec<&Member> = members.iter().filter(|m| !m.voter && fit(m)).collect();

    // As many as wanted and possible, and odd: an even voter adds a way to lose the quorum and none to keep it.
    let possible = keep.len() + spare_seats.len();
    let resting = makes_odd(members, possible, max_voters, leader);
    let goal = if resting.is_some() { possible + 1 } else { odd(max_voters.min(possible)) };
    let mut chosen = keep.clone();
    while chosen.len() < goal {
        match best_seat(&spare_seats, &chosen) {
            Some(seat) => chosen.push(spare_seats.remove(seat)),
            None => chosen.push(resting?),
        }
    }
    let add: Vec<u64> = chosen.iter().filter(|m| !m.voter).map(|m| m.id).collect();
    if !add.is_empty() {
        let remove = have.iter().map(|m| m.id).filter(|id| chosen.iter().all(|m| m.id != *id)).collect();
        return Some(Change { add, remove });
    }
    let mut stay = keep;
    if stay.len().is_multiple_of(2) && stay.len() < max_voters {
        // Nobody can take the seats of those that go. One that goes stays where it makes the number odd, one in
        // maintenance rather than a silent one; a `database-client` does not.
        let spared = (0..out.len()).filter(|i| !out[*i].client_only).min_by_key(|i| (!out[*i].healthy, out[*i].id));
        stay.extend(spared.map(|i| out.remove(i)));
    }
    let limit = odd(max_voters.min(stay.len()));
    while stay.len() > limit {
        out.push(stay.remove(most_crowded(&stay, leader)?));
    }
    if out.is_empty() {
        return spread(&stay, &spare_seats, leader);
    }
    Some(Change { add: Vec::new(), remove: out.iter().map(|m| m.id).collect() })
}

/// One in maintenance that makes the number of those odd that can vote for long: it votes until another one can. Otherwise
/// a single voter would stay the only one although two more are there.
fn makes_odd(members: &[Member], possible: usize, max_voters: usize, leader: u64) -> Option<&Member> {
    if !possible.is_multiple_of(2) || possible >= max_voters {
        return None;
    }
    let resting = members.iter().filter(|m| able(m) && m.in_maintenance && m.id != leader);
    resting.min_by_key(|m| (!m.voter, m.id))
}

/// One vote goes from a failure domain to another that has at least two fewer.
fn spread(voters: &[&Member], seats: &[&Member], leader: u64) -> Option<Change> {
    let (from, to) = (voters[most_crowded(voters, leader)?], seats[best_seat(seats, voters)?]);
    let domains = count_domains(voters);
    let crowd = |m: &Member| domains.get(m.failure_domain.as_str()).copied().unwrap_or(0);
    (crowd(from) >= crowd(to) + 2).then(|| Change { add: vec![to.id], remove: vec![from.id] })
}

/// The voter that is missed least: in the failure domain with the most voters, then the one with the highest id.
fn most_crowded(voters: &[&Member], leader: u64) -> Option<usize> {
    let domains = count_domains(voters);
    let others = voters.iter().enumerate().filter(|(_, m)| m.id != leader);
    others.max_by_key(|(_, m)| (domains.get(m.failure_domain.as_str()).copied(), m.id)).map(|(i, _)| i)
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

    /// No step leaves an even number of voters, unless the only voter hands over, nor fewer of them alive than are
    /// needed for a quorum.
    fn check_step(members: &[Member], change: &Change, leader: u64) {
        let voters: Vec<&Member> = members.iter().filter(|m| m.voter).collect();
        let hands_over =
            voters.len() == 2 && change.remove.is_empty() && voters.iter().any(|m| m.id == leader && !fit(m));
        assert!(voters.len() % 2 == 1 || hands_over, "even: {members:?} after {change:?}");
        let alive = voters.iter().filter(|m| m.healthy || m.id == leader).count();
        assert!(alive * 2 > voters.len(), "no quorum: {members:?} after {change:?}");
    }

    /// Follows the advice until there is none, as the leader does; the voters and the stand-bys then.
    fn settle(members: Vec<Member>, max_voters: usize) -> (Vec<u64>, Vec<u64>) {
        settle_under(1, members, max_voters)
    }

    fn settle_under(mut leader: u64, mut members: Vec<Member>, max_voters: usize) -> (Vec<u64>, Vec<u64>) {
        for _ in 0..20 {
            match next(&members, max_voters, leader) {
                None => break,
                Some(Step::HandOver(to)) => {
                    let heir = members.iter().find(|m| m.id == to).unwrap();
                    assert!(heir.voter && fit(heir) && !members.iter().any(|m| m.id == leader && fit(m)));
                    leader = to;
                }
                Some(Step::Voters(change)) => {
                    assert!(!change.remove.contains(&leader), "the leader keeps its vote");
                    for m in &mut members {
                        m.voter = (m.voter || change.add.contains(&m.id)) && !change.remove.contains(&m.id);
                    }
                    check_step(&members, &change, leader);
                }
            }
        }
        assert_eq!(next(&members, max_voters, leader), None, "it comes to rest: {members:?}");
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
                "a failure domain without a vote gets one",
                (1..=4).map(|id| m(id, id < 4, true, if id < 4 { "a" } else { "b" })).collect(),
                3,
                vec![1, 2, 4],
                vec![3],
            ),
            (
                "two failure domains share three votes",
                (1..=5).map(|id| m(id, id < 4, true, if id < 4 { "a" } else { "b" })).collect(),
                3,
                vec![1, 2, 4],
                vec![3, 5],
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
    fn a_leader_that_is_emptied_hands_over_and_gives_its_vote_away() {
        let resting = |m: Member| Member { in_maintenance: true, ..m };
        let m = |id, voter| member(id, voter, true, "a");
        let voters =
            |add: &[u64], remove: &[u64]| Some(Step::Voters(Change { add: add.into(), remove: remove.into() }));
        // Of two members the other one has to vote before it can lead.
        let mut two = vec![resting(m(1, true)), m(2, false)];
        assert_eq!(next(&two, 3, 1), voters(&[2], &[]));
        two[1].voter = true;
        assert_eq!(next(&two, 3, 1), Some(Step::HandOver(2)));
        assert_eq!(next(&two, 3, 2), voters(&[], &[1]));
        // Of three it keeps its vote: the two others alone would be an even number.
        let three = vec![resting(m(1, true)), Member { matched: 9, ..m(2, true) }, m(3, true)];
        assert_eq!((next(&three, 3, 1), next(&three, 3, 3)), (Some(Step::HandOver(3)), None));
        // With a fourth one it doesn't.
        let four = vec![resting(m(1, true)), m(2, true), m(3, true), m(4, false)];
        assert_eq!(next(&four, 3, 2), voters(&[4], &[1]));
        assert_eq!(next(&[resting(m(1, true))], 3, 1), None);
    }

    #[test]
    fn a_database_client_and_a_member_in_maintenance_do_not_get_a_seat() {
        let mut members: Vec<Member> = (1..=5).map(|id| member(id, id == 1, true, "a")).collect();
        members[1].client_only = true;
        members[2].in_maintenance = true;
        assert_eq!(settle(members, 3), (vec![1, 4, 5], vec![3]));
    }

    #[test]
    fn a_leader_that_should_not_vote_hands_over() {
        let three = |why: fn(&mut Member)| {
            let mut members: Vec<Member> = (1..=4).map(|id| member(id, id < 4, true, "a")).collect();
            why(&mut members[0]);
            members[2].matched = 11;
            members
        };
        let unfit: [fn(&mut Member); 3] =
            [|m| m.in_maintenance = true, |m| m.client_only = true, |m| m.healthy = false];
        for why in unfit {
            let members = three(why);
            assert_eq!(next(&members, 3, 1), Some(Step::HandOver(3)), "to who has most");
            assert_eq!(settle(members, 3).0, [2, 3, 4]);
        }
        // The only vote goes from one to the other, in three steps.
        let mut two = vec![member(1, true, true, "a"), member(2, false, true, "a")];
        two[0].in_maintenance = true;
        assert_eq!(settle(two.clone(), 3).0, [2]);
        two[1].in_maintenance = true;
        assert_eq!(settle(two, 3).0, [1], "there is nobody better");
    }

    #[test]
    fn who_makes_the_number_odd_keeps_its_vote_unless_it_is_a_database_client() {
        let three = || -> Vec<Member> { (1..=3).map(|id| member(id, true, true, "a")).collect() };
        let mut members = three();
        members[1].in_maintenance = true;
        assert_eq!(settle(members.clone(), 3).0, [1, 2, 3]);
        members[2].in_maintenance = true;
        assert_eq!(settle(members, 3).0, [1], "both may be switched off");
        let mut members = three();
        members[1].client_only = true;
        assert_eq!(settle(members, 3), (vec![1], vec![3]));
        // One was silent while another one was in maintenance, and is back: the only voter is not left alone.
        let mut members = three();
        members[1].in_maintenance = true;
        members.iter_mut().filter(|m| m.id != 1).for_each(|m| m.voter = false);
        assert_eq!(settle(members, 3).0, [1, 2, 3]);
    }

    /// All clusters of up to five members, each in one of six conditions, that have a quorum.
    #[test]
    fn no_step_endangers_the_quorum_whatever_the_members_are_like() {
        let condition = |id: u64, n: usize| Member {
            id,
            voter: n.is_multiple_of(2),
            healthy: n / 2 != 1,
            in_maintenance: n / 2 == 2,
            client_only: n / 2 == 3,
            failure_domain: if id.is_multiple_of(2) { "a" } else { "b" }.into(),
            matched: id,
        };
        for size in 1..=5 {
            for n in 0..8_usize.pow(size) {
                let members: Vec<Member> =
                    (0..size).map(|i| condition(u64::from(i) + 1, n / 8_usize.pow(i) % 8)).collect();
                let voters: Vec<&Member> = members.iter().filter(|m| m.voter).collect();
                let alive = voters.iter().filter(|m| m.healthy).count();
                let Some(leader) = voters.iter().find(|m| m.healthy).map(|m| m.id) else { continue };
                // Even numbers there are only while one hands over.
                if alive * 2 <= voters.len() || voters.len().is_multiple_of(2) {
                    continue;
                }
                for max_voters in [3, 5] {
                    let (voters, _) = settle_under(leader, members.clone(), max_voters);
                    assert!(voters.len() <= max_voters && voters.len() % 2 == 1, "{members:?}: {voters:?}");
                }
            }
        }
    }
}
