//! Lives that the tests run always: those that have found a fault of ours, and as many others as there is time for.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use sim::breaks::Break;
use sim::{Ended, Kind, Life, many};

/// Lives of each kind.
const SEEDS: [(Kind, u64); 2] = [(Kind::Database, 1_000), (Kind::Cluster, 9_000)];
/// A planted fault has to be found within so many.
const ENOUGH: u64 = 60;

fn life(kind: Kind, seed: u64) -> Life {
    Life { kind, seed, broken: None, told: false }
}

/// What did not hold in any of these lives.
fn violations(lives: impl Iterator<Item = Life> + Send) -> Vec<String> {
    let found = Mutex::new(Vec::new());
    many::live(lives, |life: Life, ended: &Ended| {
        if !ended.violations.is_empty() {
            let text = format!("{}\n    again: {}", ended.violations.join("\n    "), life.command());
            found.lock().unwrap().push(text);
        }
        true
    });
    found.into_inner().unwrap()
}

#[test]
fn seeds_that_have_found_a_fault_find_none_any_more() {
    let seeds = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let lives = seeds.map(|line| {
        let (kind, seed) = line.split_once(' ').expect("kind and seed");
        let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind).expect("a kind of simulation");
        life(kind, seed.parse().expect("a seed"))
    });
    let found = violations(lives);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn invariants_hold_in_many_lives() {
    for (kind, seeds) in SEEDS {
        let found = violations((1..=seeds).map(|seed| life(kind, seed)));
        assert!(found.is_empty(), "{} of {seeds}:\n{}", found.len(), found.join("\n"));
    }
}

#[test]
fn the_same_seed_is_the_same_life() {
    for kind in Kind::ALL {
        for seed in [3, 4] {
            let [first, second] = [(); 2].map(|()| life(kind, seed).live());
            assert_eq!((first.trace, first.done), (second.trace, second.done), "{kind:?} {seed}");
            assert!(first.done > 0);
        }
        assert_ne!(life(kind, 3).live().trace, life(kind, 4).live().trace);
    }
}

#[test]
fn planted_faults_are_found() {
    for (kind, broken, invariant) in [
        (Kind::Database, Break::StaleReads, "acknowledged writes survive"),
        (Kind::Database, Break::LyingDisks, "acknowledged writes survive"),
        (Kind::Database, Break::UnsafeFiles, "a member starts again"),
        (Kind::Database, Break::IdleLeader, "all comes to rest"),
        (Kind::Cluster, Break::EagerHealing, "an instance never has two owners"),
        (Kind::Cluster, Break::LazyGuards, "an instance never has two owners"),
        (Kind::Cluster, Break::OrphanedPlans, "every plan ends"),
    ] {
        let finds = |seed| {
            let ended = Life { broken: Some(broken), ..life(kind, seed) }.live();
            ended.violations.iter().any(|v| v.starts_with(invariant))
        };
        assert!((1..=ENOUGH).any(finds), "{broken:?} is not found");
    }
}
