//! What clients did to a store and what it answered, and whether a store without faults could have answered so.
//!
//! A checker takes a whole history and looks for an order of its operations that each one could have seen, in which
//! what had ended before something else began also comes before it (linearizability). Nothing of the store is known
//! here: only what was asked of it, when, and what came back.

pub mod list;
pub mod register;

use std::fmt;

/// An operation that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<A> {
    /// Who asked for it; for people, nothing is concluded from it.
    pub process: u64,
    /// When it was asked for. Times are of one clock, in any unit.
    pub called: u64,
    /// When the answer came, not before `called`. `None` if none came: it may take effect at any time after it was
    /// asked for, or never. What is known to have had no effect does not belong into a history.
    pub returned: Option<u64>,
    /// What it was done to; keys have nothing to do with each other.
    pub key: String,
    /// What was done, and what was answered.
    pub action: A,
}

impl<A> Event<A> {
    /// True if it had ended before the other one began.
    fn precedes(&self, other: &Event<A>) -> bool {
        self.returned.is_some_and(|end| end < other.called)
    }

    /// Where in time it lies, with who asked for it.
    fn when(&self) -> String {
        match self.returned {
            Some(end) => format!("[process {}, {}-{end}]", self.process, self.called),
            None => format!("[process {}, {}-, outcome unknown]", self.process, self.called),
        }
    }
}

/// Operations that no store without faults could have answered so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The key that they were done to.
    pub key: String,
    /// What is wrong, with the operations, in words.
    pub text: String,
    /// Where in the history these operations stand.
    pub events: Vec<usize>,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key \"{}\": {}", self.key, self.text)
    }
}

impl std::error::Error for Contradiction {}

/// The operations of each key, with their places in the history, in the order in which they were asked for.
fn by_key<A>(history: &[Event<A>]) -> Vec<Vec<(usize, &Event<A>)>> {
    let mut keys = std::collections::BTreeMap::<&str, Vec<(usize, &Event<A>)>>::new();
    for (place, event) in history.iter().enumerate() {
        keys.entry(&event.key).or_default().push((place, event));
    }
    let mut all: Vec<_> = keys.into_values().collect();
    for events in &mut all {
        events.sort_by_key(|(_, event)| event.called);
    }
    all
}
