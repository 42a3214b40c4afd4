//! Lists: each key has a list that values are appended to, each value once, and that is read as a whole.
//!
//! A read shows the order of what was appended before it, so nothing has to be searched: the longest read gives the
//! order, all others have to begin like it, and no operation may have ended before one began that comes before it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Contradiction, Event, by_key};

/// What was done to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This was appended. No other operation appends the same value to the same key.
    Append(u64),
    /// It was read; what was seen. Without an answer it says nothing.
    Read(Vec<u64>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Append(value) => write!(f, "append {value}"),
            Action::Read(seen) if seen.len() > 6 => {
                write!(f, "read of {} values up to {:?}", seen.len(), &seen[seen.len() - 3..])
            }
            Action::Read(seen) => write!(f, "read {seen:?}"),
        }
    }
}

/// Checks that the history is one of lists that were empty at first: no appended value is lost or there twice, all
/// reads are beginnings of one order, and that order is the one of time.
///
/// # Errors
/// Two operations that contradict each other, or one that contradicts itself.
pub fn check(history: &[Event<Action>]) -> Result<(), Contradiction> {
    by_key(history).iter().try_for_each(|events| check_one(events))
}

type Placed<'a> = (usize, &'a Event<Action>);

fn check_one(events: &[Placed<'_>]) -> Result<(), Contradiction> {
    let appends = appends(events)?;
    let mut reads: Vec<(Placed<'_>, &[u64])> = events.iter().filter_map(|one| Some((*one, seen(one.1)?))).collect();
    for (read, list) in &reads {
        no_value_twice(*read, list, &appends)?;
    }
    // Those that have seen the same are in the order of their calls, as the events are.
    reads.sort_by_key(|(_, list)| list.len());
    for pair in reads.windows(2) {
        if !pair[1].1.starts_with(pair[0].1) {
            return Err(contradiction(pair[0].0, "and", pair[1].0, "saw different orders"));
        }
    }
    in_the_order_of_time(&reads, &appends)
}

fn seen(event: &Event<Action>) -> Option<&[u64]> {
    match &event.action {
        Action::Read(list) if event.returned.is_some() => Some(list),
        _ => None,
    }
}

fn appends<'a>(events: &[Placed<'a>]) -> Result<HashMap<u64, Placed<'a>>, Contradiction> {
    let mut appends = HashMap::new();
    for (place, event) in events {
        if let Action::Append(value) = event.action
            && let Some(other) = appends.insert(value, (*place, *event))
        {
            return Err(contradiction(other, "and", (*place, event), "append the same: the history can't be checked"));
        }
    }
    Ok(appends)
}

fn no_value_twice(read: Placed<'_>, list: &[u64], appends: &HashMap<u64, Placed<'_>>) -> Result<(), Contradiction> {
    let mut before = HashSet::new();
    for value in list {
        match appends.get(value) {
            None => return Err(alone(read, &format!("saw {value}, which nobody has appended"))),
            Some(append) if !before.insert(value) => {
                return Err(contradiction(read, "saw twice the value of", *append, ""));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The one order that explains all reads is: each append before the first read that saw it, those that nobody saw at the
/// end. None may have ended before one was asked for that stands before it.
fn in_the_order_of_time(
    reads: &[(Placed<'_>, &[u64])],
    appends: &HashMap<u64, Placed<'_>>,
) -> Result<(), Contradiction> {
    let mut order = Vec::new();
    let mut placed = 0;
    for (read, list) in reads {
        order.extend(list[placed..].iter().filter_map(|value| appends.get(value)));
        placed = list.len();
        order.push(*read);
    }
    let all = reads.last().map_or(&[][..], |(_, list)| *list);
    let shown: HashSet<&u64> = all.iter().collect();
    let mut unseen: Vec<&Placed<'_>> = appends
        .iter()
        .filter(|(value, (_, e))| !shown.contains(value) && e.returned.is_some())
        .map(|(_, e)| e)
        .collect();
    unseen.sort_by_key(|(_, event)| event.called);
    order.extend(unseen);

    let mut latest: Option<Placed<'_>> = None;
    for next in order {
        if let Some(before) = latest.filter(|(_, before)| next.1.precedes(before)) {
            return Err(disorder(before, next));
        }
        if latest.is_none_or(|(_, before)| before.called < next.1.called) {
            latest = Some(next);
        }
    }
    Ok(())
}

/// `late` has ended before `early` was asked for, which has to come before it.
fn disorder(early: Placed<'_>, late: Placed<'_>) -> Contradiction {
    match (&early.1.action, &late.1.action) {
        (Action::Read(_), Action::Append(_)) => contradiction(early, "did not see the earlier", late, ""),
        (Action::Read(_), Action::Read(_)) => contradiction(early, "saw less than the earlier", late, ""),
        (Action::Append(_), Action::Read(_)) => contradiction(late, "saw the value of the later", early, ""),
        (Action::Append(_), Action::Append(_)) => contradiction(early, "comes before the earlier", late, ""),
    }
}

fn alone((place, event): Placed<'_>, what: &str) -> Contradiction {
    let text = format!("{} {} {what}", event.action, event.when());
    Contradiction { key: event.key.clone(), text, events: vec![place] }
}

fn contradiction(a: Placed<'_>, verb: &str, b: Placed<'_>, what: &str) -> Contradiction {
    let text = format!("{} {} {verb} {} {} {what}", a.1.action, a.1.when(), b.1.action, b.1.when());
    Contradiction { key: a.1.key.clone(), text: text.trim_end().to_owned(), events: vec![a.0, b.0] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Action::{Append, Read};
    use super::*;

    fn event(process: u64, called: u64, returned: impl Into<Option<u64>>, action: Action) -> Event<Action> {
        Event { process, called, returned: returned.into(), key: "x".into(), action }
    }

    #[test]
    fn histories_that_a_list_can_have() {
        for (what, history) in [
            ("nothing", vec![]),
            (
                "one after the other",
                vec![
                    event(1, 1, 2, Append(1)),
                    event(2, 3, 4, Read(vec![1])),
                    event(1, 5, 6, Append(2)),
                    event(2, 7, 8, Read(vec![1, 2])),
                ],
            ),
            (
                "at the same time, in any order",
                vec![
                    event(1, 1, 9, Append(1)),
                    event(2, 1, 9, Append(2)),
                    event(3, 2, 3, Read(vec![])),
                    event(3, 4, 5, Read(vec![2])),
                    event(3, 10, 11, Read(vec![2, 1])),
                ],
            ),
            (
                "unknown ones are there late or never",
                vec![
                    event(1, 1, None, Append(1)),
                    event(2, 1, None, Append(2)),
                    event(3, 4, 5, Append(3)),
                    event(3, 6, 7, Read(vec![3])),
                    event(3, 8, 9, Read(vec![3, 1])),
                    event(3, 10, None, Read(vec![77])),
                ],
            ),
            ("appended after the last read", vec![event(1, 1, 2, Read(vec![])), event(1, 3, 4, Append(1))]),
        ] {
            assert_eq!(check(&history), Ok(()), "{what}");
        }
    }

    #[test]
    fn histories_that_no_list_can_have_are_told_with_their_operations() {
        for (history, told) in [
            (
                vec![event(1, 1, 2, Append(1)), event(2, 3, 4, Read(vec![]))],
                "read [] [process 2, 3-4] did not see the earlier append 1 [process 1, 1-2]",
            ),
            (
                vec![event(1, 1, 2, Append(1)), event(2, 3, 4, Read(vec![1, 1]))],
                "read [1, 1] [process 2, 3-4] saw twice the value of append 1 [process 1, 1-2]",
            ),
            (vec![event(2, 3, 4, Read(vec![5]))], "read [5] [process 2, 3-4] saw 5, which nobody has appended"),
            (
                vec![event(1, 1, None, Append(1)), event(1, 1, 2, Append(1))],
                "append 1 [process 1, 1-, outcome unknown] and append 1 [process 1, 1-2] append the same: the history \
                 can't be checked",
            ),
            (
                vec![
                    event(1, 1, 9, Append(1)),
                    event(2, 1, 9, Append(2)),
                    event(3, 2, 3, Read(vec![2])),
                    event(3, 4, 5, Read(vec![1, 2])),
                ],
                "read [2] [process 3, 2-3] and read [1, 2] [process 3, 4-5] saw different orders",
            ),
            (
                vec![event(1, 1, 9, Append(1)), event(2, 2, 3, Read(vec![1])), event(3, 4, 5, Read(vec![]))],
                "read [] [process 3, 4-5] saw less than the earlier read [1] [process 2, 2-3]",
            ),
            (
                vec![event(2, 2, 3, Read(vec![1])), event(1, 4, None, Append(1))],
                "read [1] [process 2, 2-3] saw the value of the later append 1 [process 1, 4-, outcome unknown]",
            ),
            (
                vec![event(1, 1, 2, Append(1)), event(1, 3, 4, Append(2)), event(2, 1, 9, Read(vec![2, 1]))],
                "append 2 [process 1, 3-4] comes before the earlier append 1 [process 1, 1-2]",
            ),
            (
                vec![event(1, 1, 2, Append(1)), event(1, 3, 9, Append(2)), event(2, 1, 9, Read(vec![2]))],
                "append 2 [process 1, 3-9] comes before the earlier append 1 [process 1, 1-2]",
            ),
        ] {
            let found = check(&history).expect_err(told);
            assert_eq!(found.text, told);
        }
    }

    /// A history of what really happened one after the other, each operation at some moment of its time.
    fn real(steps: &[(bool, u64, u64, bool)]) -> Vec<Event<Action>> {
        let (mut list, mut history) = (Vec::new(), Vec::new());
        for (n, (append, before, after, unknown)) in (1..).zip(steps) {
            let action = if *append { Append(n) } else { Read(list.clone()) };
            if *append {
                list.push(n);
            }
            let at = n * 10;
            history.push(event(n, at.saturating_sub(*before), (!unknown).then_some(at + after), action));
        }
        history
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_really_happened_passes_and_what_is_missing_is_found(
            steps in prop::collection::vec((any::<bool>(), 0..60_u64, 0..60_u64, prop::bool::weighted(0.05)), 0..200),
            lost in any::<prop::sample::Index>(),
        ) {
            let mut history = real(&steps);
            prop_assert_eq!(check(&history), Ok(()));
            let mut all: Vec<u64> = (1..).zip(&steps).filter(|(_, step)| step.0).map(|(n, _)| n).collect();
            let end = 10 * history.len() as u64 + 100;
            history.push(event(1, end, end + 1, Read(all.clone())));
            prop_assert_eq!(check(&history), Ok(()));
            if !all.is_empty() {
                // One that was acknowledged is not there any more; one that was not may never have been.
                let gone = all.remove(lost.index(all.len()));
                history.push(event(1, end + 2, end + 3, Read(all)));
                prop_assert!(check(&history).is_err(), "{} is lost", gone);
            }
        }
    }
}
