//! Registers: each key has one value, which is read, written, and exchanged if it is what was expected.
//!
//! The search is that of Wing and Gong as Lowe has it: time goes from one answer to the next, and kept is every state
//! that the register can be in then: its value, and which of the operations under way have had their effect. Left out
//! is what can't lead further than another state: one that was found before, one that has only used up more of the
//! operations without an answer, and one in which something is still to come that could have been done on the way, as it
//! only looks at the value. So the work depends on how many operations are under way at a time, not on how many there are.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Contradiction, Event, by_key};

/// What was done to a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was read; what was seen, `None` if nothing was there. Without an answer it says nothing.
    Read(Option<u64>),
    /// This was written.
    Write(u64),
    /// `to` was written if `from` was there.
    CompareAndSet {
        /// What had to be there; `None`: nothing.
        from: Option<u64>,
        /// What was written then.
        to: u64,
        /// True if that was so; without an answer it says nothing.
        done: bool,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Read(seen) => write!(f, "read {}", name(*seen)),
            Action::Write(value) => write!(f, "write {value}"),
            Action::CompareAndSet { from, to, done: true } => write!(f, "exchange {} for {to}", name(*from)),
            Action::CompareAndSet { from, to, done: false } => write!(f, "refuse to exchange {} for {to}", name(*from)),
        }
    }
}

fn name(value: Option<u64>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |v| v.to_string())
}

/// Checks that the history is one of registers that were empty at first.
///
/// # Errors
/// The first answer, in time, that can't be explained.
pub fn check(history: &[Event<Action>]) -> Result<(), Contradiction> {
    by_key(history).into_iter().try_for_each(|events| Search::new(events).run())
}

/// Operations under way, as bits: the place in [`Search::slots`].
type Set = u128;

/// What the register may be at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    value: Option<u64>,
    /// Those that have had their effect, of those under way.
    done: Set,
}

struct Search<'a> {
    events: Vec<(usize, &'a Event<Action>)>,
    /// Operations under way: where they stand in `events`.
    slots: Vec<Option<usize>>,
    /// Those of the slots whose operation will never be answered.
    unknown: Set,
    /// Who has written a value last, in one of the orders that were found: to tell people.
    writers: HashMap<Option<u64>, usize>,
}

impl<'a> Search<'a> {
    fn new(mut events: Vec<(usize, &'a Event<Action>)>) -> Search<'a> {
        let wanted = expectations(&events);
        events.retain(|(_, e)| e.returned.is_some() || matters(&e.action, &wanted));
        Search { events, slots: Vec::new(), unknown: 0, writers: HashMap::new() }
    }

    fn run(mut self) -> Result<(), Contradiction> {
        let mut states = HashSet::from([State { value: None, done: 0 }]);
        // What is asked for and answered at the same time may be under way together.
        let mut answers: Vec<usize> = (0..self.events.len()).filter(|e| self.event(*e).returned.is_some()).collect();
        answers.sort_by_key(|e| self.event(*e).returned);
        let mut called = 0;
        for answered in answers {
            let now = self.event(answered).returned.unwrap_or(u64::MAX);
            while called < self.events.len() && self.event(called).called <= now {
                self.begin(called)?;
                called += 1;
            }
            let before = states.clone();
            states = self.answer(answered, states);
            if states.is_empty() {
                return Err(self.contradiction(answered, &before));
            }
        }
        Ok(())
    }

    fn event(&self, at: usize) -> &'a Event<Action> {
        self.events[at].1
    }

    fn begin(&mut self, at: usize) -> Result<(), Contradiction> {
        let event = self.event(at);
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if slot >= Set::BITS as usize {
            let text = format!("more than {} operations are under way at {}", Set::BITS, event.when());
            return Err(Contradiction { key: event.key.clone(), text, events: vec![self.events[at].0] });
        }
        self.slots[slot] = Some(at);
        if event.returned.is_none() {
            self.unknown |= 1 << slot;
        }
        Ok(())
    }

    /// The states in which the operation has had its effect, and can be forgotten.
    fn answer(&mut self, answered: usize, from: HashSet<State>) -> HashSet<State> {
        let Some(slot) = self.slots.iter().position(|s| *s == Some(answered)) else { return HashSet::new() };
        let bit: Set = 1 << slot;
        let mut seen: HashSet<State> = from.into_iter().map(|state| self.look(state)).collect();
        let mut todo: Vec<State> = seen.iter().copied().collect();
        let mut found = HashSet::new();
        while let Some(state) = todo.pop() {
            if state.done & bit != 0 {
                found.insert(State { done: state.done & !bit, ..state });
                continue;
            }
            for next in self.steps(state) {
                if seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        self.slots[slot] = None;
        self.without_waste(found)
    }

    /// The state once all have looked at the value that can.
    fn look(&self, mut state: State) -> State {
        for (slot, at) in self.slots.iter().enumerate() {
            let Some(event) = at.map(|at| self.event(at)) else { continue };
            let looks = matches!(event.action, Action::Read(_) | Action::CompareAndSet { done: false, .. });
            if looks && event.returned.is_some() && effect(state.value, &event.action, true).is_some() {
                state.done |= 1 << slot;
            }
        }
        state
    }

    /// The states that one more operation leads to.
    fn steps(&mut self, state: State) -> Vec<State> {
        let mut next = Vec::new();
        for (slot, at) in self.slots.iter().enumerate() {
            let Some(at) = *at else { continue };
            let (bit, event) = (1 << slot, self.events[at].1);
            if state.done & bit != 0 {
                continue;
            }
            if let Some(value) = effect(state.value, &event.action, event.returned.is_some()) {
                if value != state.value || matches!(event.action, Action::Write(_)) {
                    self.writers.insert(value, at);
                }
                next.push(self.look(State { value, done: state.done | bit }));
            }
        }
        next
    }

    /// Leaves out states that differ from another one only in that more of what was never answered is used up.
    fn without_waste(&self, found: HashSet<State>) -> HashSet<State> {
        if self.unknown == 0 {
            return found;
        }
        let mut groups = HashMap::<State, Vec<Set>>::new();
        for state in found {
            let group = State { done: state.done & !self.unknown, ..state };
            groups.entry(group).or_default().push(state.done & self.unknown);
        }
        let mut kept = HashSet::new();
        for (group, mut sets) in groups {
            sets.sort_by_key(|set| set.count_ones());
            let mut least: Vec<Set> = Vec::new();
            for set in sets {
                if !least.iter().any(|smaller| smaller & set == *smaller) {
                    least.push(set);
                    kept.insert(State { done: group.done | set, ..group });
                }
            }
        }
        kept
    }

    /// Says what the register could have been instead, and by whom.
    fn contradiction(&self, answered: usize, before: &HashSet<State>) -> Contradiction {
        let (place, event) = self.events[answered];
        let mut values: Vec<Option<u64>> = before.iter().map(|state| state.value).collect();
        values.sort_unstable();
        values.dedup();
        let mut events = vec![place];
        let could: Vec<String> = values
            .iter()
            .map(|value| match self.writers.get(value) {
                Some(at) => {
                    let (place, writer) = self.events[*at];
                    events.push(place);
                    format!("{} (by {} {})", name(*value), writer.action, writer.when())
                }
                None => name(*value),
            })
            .collect();
        let mut text = format!("{} {} is impossible: it held {}", event.action, event.when(), could.join(" or "));
        let open = |slot: &usize| before.iter().any(|state| state.done & (1 << slot) == 0);
        let others =
            (0..self.slots.len()).filter(open).filter_map(|slot| self.slots[slot]).filter(|at| *at != answered);
        let under_way: Vec<String> = others
            .map(|at| {
                let (place, other) = self.events[at];
                events.push(place);
                format!("{} {}", other.action, other.when())
            })
            .collect();
        if !under_way.is_empty() {
            text += &format!("; under way: {}", under_way.join(", "));
        }
        if let Action::Read(Some(seen)) | Action::CompareAndSet { from: Some(seen), done: true, .. } = event.action {
            let writes = self.events.iter().filter(|(_, e)| writes(&e.action) == Some(seen));
            let writers: Vec<String> = writes
                .map(|(place, e)| {
                    events.push(*place);
                    format!("{} {}", e.action, e.when())
                })
                .collect();
            text += &match writers.is_empty() {
                true => format!("; nobody wrote {seen}"),
                false => format!("; {seen} is of {}", writers.join(", ")),
            };
        }
        events.sort_unstable();
        events.dedup();
        Contradiction { key: event.key.clone(), text, events }
    }
}

fn writes(action: &Action) -> Option<u64> {
    match action {
        Action::Write(value) | Action::CompareAndSet { to: value, .. } => Some(*value),
        Action::Read(_) => None,
    }
}

/// The value after an operation on a register with this value; `None` if it could not have been answered so.
fn effect(value: Option<u64>, action: &Action, answered: bool) -> Option<Option<u64>> {
    match action {
        Action::Read(seen) => (*seen == value).then_some(value),
        Action::Write(new) => Some(Some(*new)),
        Action::CompareAndSet { from, done: false, .. } if answered => (*from != value).then_some(value),
        Action::CompareAndSet { from, to, .. } => (*from == value).then_some(Some(*to)),
    }
}

/// Values that some operation has needed; `None` if one has needed that a value was not there.
fn expectations(events: &[(usize, &Event<Action>)]) -> Option<HashSet<u64>> {
    let mut wanted = HashSet::new();
    for (_, event) in events {
        match event.action {
            Action::Read(seen) if event.returned.is_some() => wanted.extend(seen),
            Action::CompareAndSet { done: false, .. } if event.returned.is_some() => return None,
            Action::CompareAndSet { from, .. } => wanted.extend(from),
            _ => {}
        }
    }
    Some(wanted)
}

/// True if it can matter whether an operation without an answer has taken effect: if nobody has needed its value, it
/// may as well never have.
fn matters(action: &Action, wanted: &Option<HashSet<u64>>) -> bool {
    writes(action).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted.contains(&value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Action::{CompareAndSet, Read, Write};
    use super::*;

    fn event(process: u64, called: u64, returned: impl Into<Option<u64>>, action: Action) -> Event<Action> {
        Event { process, called, returned: returned.into(), key: "x".into(), action }
    }

    fn exchange(from: impl Into<Option<u64>>, to: u64, done: bool) -> Action {
        CompareAndSet { from: from.into(), to, done }
    }

    #[test]
    fn histories_that_a_register_can_have() {
        for (what, history) in [
            ("nothing", vec![]),
            ("one after the other", vec![event(1, 1, 2, Write(1)), event(2, 3, 4, Read(Some(1)))]),
            ("empty at first", vec![event(1, 1, 2, Read(None)), event(1, 3, 4, Write(1))]),
            (
                "old or new while it is written",
                vec![
                    event(1, 1, 2, Write(1)),
                    event(1, 3, 9, Write(2)),
                    event(2, 4, 5, Read(Some(1))),
                    event(3, 6, 7, Read(Some(2))),
                ],
            ),
            (
                "writes at the same time, in the order of the reads",
                vec![
                    event(1, 1, 9, Write(1)),
                    event(2, 1, 9, Write(2)),
                    event(3, 2, 3, Read(Some(2))),
                    event(3, 4, 5, Read(Some(1))),
                ],
            ),
            ("answered at the moment of the next call", vec![event(1, 1, 3, Write(1)), event(2, 3, 4, Read(None))]),
            (
                "an unknown one takes effect late",
                vec![
                    event(1, 1, None, Write(1)),
                    event(2, 2, 3, Write(2)),
                    event(2, 4, 5, Read(Some(2))),
                    event(2, 6, 7, Read(Some(1))),
                ],
            ),
            ("an unknown one never takes effect", vec![event(1, 1, None, Write(1)), event(2, 2, 3, Read(None))]),
            ("a read without an answer says nothing", vec![event(1, 1, None, Read(Some(77)))]),
            (
                "exchanges",
                vec![
                    event(1, 1, 2, exchange(None, 1, true)),
                    event(2, 1, 3, exchange(None, 2, false)),
                    event(1, 4, 9, exchange(1, 3, true)),
                    event(2, 4, 9, exchange(3, 4, true)),
                    event(1, 10, None, exchange(4, 5, false)),
                    event(2, 11, 12, Read(Some(5))),
                ],
            ),
        ] {
            assert_eq!(check(&history), Ok(()), "{what}");
        }
    }

    #[test]
    fn histories_that_no_register_can_have_are_told_with_their_operations() {
        for (history, told, places) in [
            (
                vec![event(1, 1, 2, Write(1)), event(1, 3, 4, Write(2)), event(2, 5, 6, Read(Some(1)))],
                "read 1 [process 2, 5-6] is impossible: it held 2 (by write 2 [process 1, 3-4]); \
                 1 is of write 1 [process 1, 1-2]",
                vec![0, 1, 2],
            ),
            (
                vec![event(1, 1, 2, Write(1)), event(2, 5, 6, Read(None))],
                "read nothing [process 2, 5-6] is impossible: it held 1 (by write 1 [process 1, 1-2])",
                vec![0, 1],
            ),
            (
                vec![event(1, 1, 2, Read(Some(7)))],
                "read 7 [process 1, 1-2] is impossible: it held nothing; nobody wrote 7",
                vec![0],
            ),
            // Two reads, one after the other, see the new value and then the old one.
            (
                vec![
                    event(1, 1, 2, Write(1)),
                    event(1, 3, 99, Write(2)),
                    event(2, 4, 5, Read(Some(2))),
                    event(3, 6, 7, Read(Some(1))),
                ],
                "read 1 [process 3, 6-7] is impossible: it held 2 (by write 2 [process 1, 3-99]); \
                 1 is of write 1 [process 1, 1-2]",
                vec![0, 1, 3],
            ),
            // Both exchange the same value.
            (
                vec![event(1, 1, 5, exchange(None, 1, true)), event(2, 1, 6, exchange(None, 2, true))],
                "exchange nothing for 2 [process 2, 1-6] is impossible: it held 1 (by exchange nothing for 1 [process \
                 1, 1-5])",
                vec![0, 1],
            ),
            // What was never answered takes effect once only.
            (
                vec![
                    event(1, 1, None, Write(1)),
                    event(2, 2, 3, Read(Some(1))),
                    event(2, 4, 5, Write(2)),
                    event(2, 6, 7, Read(Some(1))),
                ],
                "read 1 [process 2, 6-7] is impossible: it held 2 (by write 2 [process 2, 4-5]); 1 is of write 1 [process 1, \
                 1-, outcome unknown]",
                vec![0, 2, 3],
            ),
            // ... and not before it was asked for.
            (
                vec![event(2, 2, 3, Read(Some(1))), event(1, 5, None, Write(1))],
                "read 1 [process 2, 2-3] is impossible: it held nothing; 1 is of write 1 [process 1, 5-, outcome \
                 unknown]",
                vec![0, 1],
            ),
        ] {
            let found = check(&history).expect_err(told);
            assert_eq!((found.text.as_str(), found.events), (told, places));
        }
        let keys = [event(1, 1, 2, Write(1)), Event { key: "y".into(), ..event(2, 3, 4, Read(Some(1))) }];
        let told = check(&keys).expect_err("of another key").to_string();
        assert_eq!(told, "key \"y\": read 1 [process 2, 3-4] is impossible: it held nothing; nobody wrote 1");
    }

    /// A history of what really happened one after the other, each operation at some moment of its time.
    fn real(steps: &[(u8, u64, u64, bool)]) -> Vec<Event<Action>> {
        let mut value = None;
        let mut history = Vec::new();
        for (n, (kind, before, after, unknown)) in (1..).zip(steps) {
            let at = n * 10;
            let action = match kind % 4 {
                0 => Write(n),
                1 => exchange(value, n, true),
                2 => exchange(Some(u64::MAX), n, false),
                _ => Read(value),
            };
            value = effect(value, &action, true).unwrap_or(value);
            history.push(event(n, at.saturating_sub(*before), (!unknown).then_some(at + after), action));
        }
        history
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u64, u64, bool)>> {
        let unknown = prop::bool::weighted(0.02);
        prop::collection::vec((any::<u8>(), 0..60_u64, 0..60_u64, unknown), 0..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn what_really_happened_passes(steps in steps()) {
            prop_assert_eq!(check(&real(&steps)), Ok(()));
        }

        #[test]
        fn a_stale_read_and_a_lost_write_are_found(steps in steps()) {
            let mut history = real(&steps);
            let end = 10 * history.len() as u64 + 100;
            history.push(event(1, end, end + 1, Write(end)));
            history.push(event(1, end + 2, end + 3, Write(end + 1)));
            for (seen, possible) in [(Some(end + 1), true), (Some(end), false), (None, false)] {
                let mut read = history.clone();
                read.push(event(2, end + 4, end + 5, Read(seen)));
                prop_assert_eq!(check(&read).is_ok(), possible, "{:?}", seen);
            }
        }

        /// The search and plain trying of all orders say the same.
        #[test]
        fn all_orders_that_there_are_say_the_same(
            operations in prop::collection::vec((0..10_u64, 0..6_u64, any::<bool>(), 0..3_u8, 0..3_u64, 0..3_u64, any::<bool>()), 0..6)
        ) {
            let history: Vec<_> = operations.into_iter().map(|(called, took, answered, kind, a, b, done)| {
                let seen = (a > 0).then_some(a);
                let action = match kind { 0 => Read(seen), 1 => Write(b + 1), _ => exchange(seen, b + 1, done) };
                event(0, called, answered.then_some(called + took), action)
            }).collect();
            let all: Vec<&Event<Action>> = history.iter().collect();
            prop_assert_eq!(check(&history).is_ok(), possible(None, &all), "{:?}", history);
        }
    }

    /// Whether some order explains what is left.
    fn possible(value: Option<u64>, left: &[&Event<Action>]) -> bool {
        left.iter().all(|e| e.returned.is_none())
            || (0..left.len()).any(|n| {
                let (next, rest) = (left[n], [&left[..n], &left[n + 1..]].concat());
                let first = !rest.iter().any(|other| other.precedes(next));
                let silent_read = next.returned.is_none() && matches!(next.action, Read(_));
                first
                    && !silent_read
                    && effect(value, &next.action, next.returned.is_some()).is_some_and(|v| possible(v, &rest))
            })
    }

    #[test]
    fn long_histories_with_many_clients_and_unknown_outcomes_end_soon() {
        let steps: Vec<_> =
            (0..2000_u64).map(|n| ((n * 7 % 11) as u8, n * 13 % 50, n * 17 % 50, n % 97 == 0)).collect();
        assert_eq!(check(&real(&steps)), Ok(()));
        let mut bad = real(&steps);
        bad.push(event(1, 30_000, 30_001, Read(Some(1))));
        assert!(check(&bad).is_err());
    }
}
