//! When each member was last heard of, and what its program can serve.
//!
//! The leader asks every member and knows best. With each heartbeat it passes on what it knows, so that every
//! member can tell the status of all others without asking anybody.
//!
//! Members of several versions hear each other: a field that is added has a default, and none changes its meaning.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use incus_core::version::Program;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// This member's clock, in milliseconds since the epoch. `INCUS_TEST_CLOCK_AHEAD` in its environment is added to it,
/// for tests of clocks that differ.
pub fn clock_ms() -> i64 {
    static AHEAD: LazyLock<i64> =
        LazyLock::new(|| std::env::var("INCUS_TEST_CLOCK_AHEAD").ok().and_then(|ms| ms.parse().ok()).unwrap_or(0));
    db::engine::runtime::now().as_millisecond() + *AHEAD
}

/// What the leader sends to every member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Raft id of the leader.
    pub leader: u64,
    /// Milliseconds since each member was last heard of, by Raft id.
    pub ages: Vec<(u64, u64)>,
    /// The leader's clock, in milliseconds since the epoch.
    pub clock_ms: i64,
    /// What the program of each member can serve, by Raft id.
    #[serde(default)]
    pub programs: Vec<(u64, Program)>,
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The member's clock, in milliseconds since the epoch.
    pub clock_ms: i64,
    /// Which database it holds; 0 if none yet.
    #[serde(default)]
    pub incarnation: u64,
    /// What its program can serve.
    #[serde(default)]
    pub program: Option<Program>,
    /// True while it is being shut down.
    #[serde(default)]
    pub leaving: bool,
    /// How often, lately, its log took too long to write.
    #[serde(default)]
    pub slow_writes: usize,
}

/// When each member was last heard of, and its program, by Raft id.
#[derive(Default)]
pub struct Liveness {
    seen: Mutex<HashMap<u64, Instant>>,
    programs: Mutex<HashMap<u64, Program>>,
}

impl Liveness {
    /// Notes that a member was heard of now.
    pub fn heard(&self, id: u64) {
        self.seen().insert(id, Instant::now());
    }

    /// Takes over what a leader knows, where that is newer.
    pub fn learn(&self, ages: &[(u64, u64)]) {
        let now = Instant::now();
        let mut seen = self.seen();
        for &(id, age) in ages {
            let Some(at) = now.checked_sub(Duration::from_millis(age)) else { continue };
            seen.entry(id).and_modify(|old| *old = at.max(*old)).or_insert(at);
        }
    }

    /// Notes what the programs of members can serve.
    pub fn learn_programs(&self, programs: &[(u64, Program)]) {
        self.known_programs().extend(programs.iter().copied());
    }

    /// What the program of a member can serve, if it was heard of.
    pub fn program(&self, id: u64) -> Option<Program> {
        self.known_programs().get(&id).copied()
    }

    /// What is known of the programs of all members.
    pub fn programs(&self) -> Vec<(u64, Program)> {
        self.known_programs().iter().map(|(id, program)| (*id, *program)).collect()
    }

    /// Milliseconds since a member was last heard of; `None` if it never was.
    pub fn age_ms(&self, id: u64) -> Option<u64> {
        self.seen().get(&id).map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The ages of all members that were ever heard of.
    pub fn ages(&self) -> Vec<(u64, u64)> {
        let ids: Vec<u64> = self.seen().keys().copied().collect();
        ids.into_iter().filter_map(|id| Some((id, self.age_ms(id)?))).collect()
    }

    /// Forgets a member that was removed.
    pub fn forget(&self, id: u64) {
        self.seen().remove(&id);
        self.known_programs().remove(&id);
    }

    fn known_programs(&self) -> MutexGuard<'_, HashMap<u64, Program>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_replace_what_is_older_and_nothing_else() {
        let liveness = Liveness::default();
        assert_eq!(liveness.age_ms(1), None);
        liveness.heard(1);
        liveness.learn(&[(1, 60_000), (2, 60_000)]);
        assert!(liveness.age_ms(1).is_some_and(|ms| ms < 1_000));
        assert!(liveness.age_ms(2).is_some_and(|ms| (60_000..61_000).contains(&ms)));
        liveness.learn(&[(2, 10)]);
        assert!(liveness.age_ms(2).is_some_and(|ms| ms < 1_000));
        liveness.forget(2);
        assert_eq!(liveness.ages().len(), 1);
    }
}
