//! Stored plans being carried out: whatever changes where instances are.
//!
//! A plan is stored in the transaction that decides it, and one member runs it. Before every step the runner asks the
//! database and the members how things stand, so whoever takes a plan over goes on from there: the same member after a
//! crash, or the leader if the runner stays away. While a plan has not done with an instance, nobody else starts it.

mod body;
mod evacuate;
mod gate;
pub mod gone;
pub mod heal;
mod leaving;
mod member;
mod moving;
pub mod point;
mod runner;
mod taking;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::Result;
use db::Tx;
use db::engine::runtime::beat;
use db::plans::{Kind, NewPlan, Plan};
use drivers::storage::Volume;
use drivers::storage::lease::Watch;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::edge::Router;
use crate::kept::Kept;
use crate::operations::{self, New, Operation, Resources};
use crate::state::Daemon;

pub use body::{Body, Part, Settings, Spot, claim, must_be_free, must_be_in_service};
pub use evacuate::{ORIGIN, evacuate, evacuation, restoration, restore, timeout};
pub use leaving::evacuate_first;

/// How often it is looked whether a plan has no runner.
const ROUND: Duration = Duration::from_millis(500);

/// How long a member must have counted as offline before something is done about it.
const SURE: Duration = Duration::from_secs(3);

/// The plans that this member runs.
pub struct Plans {
    started: Instant,
    active: Mutex<HashSet<String>>,
    received: Mutex<HashMap<i64, member::Counter>>,
    silent: Mutex<HashMap<i64, Instant>>,
    /// When each unfinished plan was first seen here, by UUID.
    seen: Mutex<HashMap<String, Instant>>,
    fetching: Mutex<HashMap<i64, CancellationToken>>,
    fetched: Mutex<HashMap<(String, Volume), member::Fetched>>,
    gate: gate::Gate,
    /// What is known of the leases of members that don't answer, by pool: one whose storage hangs stops no other.
    watches: Mutex<HashMap<String, Arc<Mutex<Watch>>>>,
}

impl Default for Plans {
    fn default() -> Plans {
        Plans {
            started: Instant::now(),
            active: Mutex::default(),
            received: Mutex::default(),
            silent: Mutex::default(),
            seen: Mutex::default(),
            fetching: Mutex::default(),
            fetched: Mutex::default(),
            gate: gate::Gate::default(),
            watches: Mutex::default(),
        }
    }
}

impl Plans {
    /// Bytes of an instance that have come in so far.
    fn received(&self, instance: i64) -> u64 {
        lock(&self.received).get(&instance).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    fn count(&self, instance: i64) -> member::Counter {
        lock(&self.received).entry(instance).or_default().clone()
    }

    fn forget_count(&self, instance: i64) {
        lock(&self.received).remove(&instance);
    }

    /// What ends the fetching of an instance's files that now begins.
    fn fetching(&self, instance: i64) -> CancellationToken {
        let stop = CancellationToken::new();
        lock(&self.fetching).insert(instance, stop.clone());
        stop
    }

    /// Ends the fetching of an instance's files.
    fn stop_fetching(&self, instance: i64) {
        if let Some(stop) = lock(&self.fetching).remove(&instance) {
            stop.cancel();
        }
    }

    /// Takes note that this member runs a plan; false if it does already.
    fn take(&self, uuid: &str) -> bool {
        lock(&self.active).insert(uuid.to_owned())
    }

    fn leave(&self, uuid: &str) {
        lock(&self.active).remove(uuid);
    }

    /// True if a member has been offline for so long that it is no mistake.
    fn lost(&self, member: i64) -> bool {
        lock(&self.silent).get(&member).is_some_and(|since| since.elapsed() >= SURE)
    }

    /// Notes which plans there are; those that have ended are forgotten.
    fn see(&self, unfinished: &[Plan]) {
        let mut seen = lock(&self.seen);
        seen.retain(|uuid, _| unfinished.iter().any(|p| p.uuid == *uuid));
        for plan in unfinished {
            seen.entry(plan.uuid.clone()).or_insert_with(Instant::now);
        }
    }

    /// True if a plan was there before its runner fell silent. Who has stored a plan since then is back, even if the next
    /// heartbeat has not told so yet; it is believed to be gone again only after the time `patience`.
    fn is_older_than_silence(&self, plan: &str, runner: i64, patience: Duration) -> bool {
        let (seen, silent) = (lock(&self.seen).get(plan).copied(), lock(&self.silent).get(&runner).copied());
        match (seen, silent) {
            (Some(seen), Some(silent)) => silent > seen || seen.elapsed() > patience,
            _ => true,
        }
    }

    /// What is known of the leases of a pool.
    fn watch_of(&self, pool: &str) -> Arc<Mutex<Watch>> {
        lock(&self.watches).entry(pool.to_owned()).or_default().clone()
    }

    fn runs(&self, uuid: &str) -> bool {
        lock(&self.active).contains(uuid)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn routes(r: &mut Router) {
    r.sync(&api::internal::INSTANCE_TASK, member::serve);
}

/// A plan that is about to be stored.
pub struct Wanted {
    /// What it is for.
    pub kind: Kind,
    /// What clients are told that it is about.
    pub resources: Resources,
    /// The project of the operation; empty if none.
    pub project: String,
    /// What a person should know although it goes on.
    pub warnings: Vec<String>,
}

/// Decides a plan in one transaction, stores it there and begins to carry it out.
pub async fn begin(
    daemon: &Arc<Daemon>,
    wanted: Wanted,
    decide: impl Fn(&Tx<'_>) -> Result<Body> + Send + Sync + 'static,
) -> Result<Arc<Operation>> {
    let about = (wanted.kind != Kind::Move).then_some(daemon.member_id());
    begin_about(daemon, wanted, about, decide).await
}

/// The same for a plan that this member carries out and that is about that member.
async fn begin_about(
    daemon: &Arc<Daemon>,
    wanted: Wanted,
    about: Option<i64>,
    decide: impl Fn(&Tx<'_>) -> Result<Body> + Send + Sync + 'static,
) -> Result<Arc<Operation>> {
    let uuid = operations::new_id(daemon.raft_id());
    let (own, id, kind) = (daemon.member_id(), uuid.clone(), wanted.kind);
    daemon.plans.take(&uuid);
    let stored = daemon
        .write(move |tx| {
            let body = decide(tx)?;
            db::plans::create(
                tx,
                &NewPlan {
                    uuid: id.clone(),
                    kind,
                    member: about,
                    runner: own,
                    created: Timestamp::now(),
                    steps: body.parts.len(),
                    body: body.to_value()?,
                },
            )
        })
        .await;
    if let Err(e) = stored {
        // Should it have been stored all the same it is found by the next round.
        daemon.plans.leave(&uuid);
        return Err(e);
    }
    let mut new = operation_of(daemon, kind, &uuid, &wanted.project, wanted.resources);
    if !wanted.warnings.is_empty() {
        new.metadata.insert("warnings".into(), wanted.warnings.into());
    }
    Ok(carry_out(daemon, new, uuid))
}

fn operation_of(daemon: &Daemon, kind: Kind, uuid: &str, project: &str, resources: Resources) -> New {
    let new = daemon.operation(description(kind), project, resources);
    New { id: uuid.to_owned(), may_cancel: true, ..new }
}

/// Notes that the plan with that UUID is to be cancelled, so that a crash does not forget it; nothing if this member
/// runs none of that UUID.
pub async fn cancel(daemon: &Arc<Daemon>, uuid: &str) -> Result<()> {
    if daemon.plans.runs(uuid) {
        let id = uuid.to_owned();
        daemon.db().write(move |tx| db::plans::cancel(tx, &id)).await?;
    }
    Ok(())
}

const fn description(kind: Kind) -> &'static str {
    match kind {
        Kind::Evacuate => "Evacuating cluster member",
        Kind::Restore => "Restoring cluster member",
        Kind::Move => "Migrating instance",
        Kind::Heal => "Healing cluster",
    }
}

fn carry_out(daemon: &Arc<Daemon>, new: New, uuid: String) -> Arc<Operation> {
    let (daemon, work) = (daemon.clone(), daemon.clone());
    daemon.run(new, move |operation| async move {
        let done = runner::run(&work, &uuid, &operation).await;
        work.plans.leave(&uuid);
        done
    })
}

/// Takes up the plans of this member, and as the leader those whose runner is gone, from now on.
pub async fn watch(daemon: Arc<Daemon>) {
    // Beside it: no plan waits for files that somebody holds.
    let beside = daemon.clone();
    tokio::spawn(async move { member::tidy(&beside).await });
    let known = Kept::default();
    loop {
        note_silence(&daemon);
        if let Err(e) = round(&daemon, &known).await {
            tracing::debug!("looking for plans without a runner: {e}");
        }
        beat(ROUND).await;
    }
}

/// Notes since when members are offline.
///
/// What is stored about them may be old: a daemon that was just started listens for a while before it believes it,
/// and without a leader nobody asks them.
fn note_silence(daemon: &Daemon) {
    let snapshot = daemon.snapshot();
    let threshold = Duration::from_millis(cluster::health::threshold_ms(&snapshot.config));
    let knows = daemon.plans.started.elapsed() > threshold && daemon.db().status().leader.is_some();
    let mut silent = lock(&daemon.plans.silent);
    silent.retain(|id, _| snapshot.members.iter().any(|m| m.id == *id));
    for member in &snapshot.members {
        if knows && daemon.must_be_online(member, &snapshot).is_err() {
            silent.entry(member.id).or_insert_with(Instant::now);
        } else {
            silent.remove(&member.id);
        }
    }
}

async fn round(daemon: &Arc<Daemon>, known: &Kept<(), Vec<Plan>>) -> Result<()> {
    let unfinished = daemon.peek_kept(known, (), db::plans::unfinished).await?;
    daemon.plans.see(&unfinished);
    let patience = SURE + Duration::from_millis(cluster::health::threshold_ms(&daemon.snapshot().config));
    for plan in unfinished.iter() {
        if daemon.plans.runs(&plan.uuid) {
            continue;
        }
        let own = daemon.member_id();
        if plan.runner != Some(own) {
            let orphan = plan.runner.is_none_or(|runner| {
                member::offline(daemon, runner) && daemon.plans.is_older_than_silence(&plan.uuid, runner, patience)
            });
            if !orphan || !daemon.db().status().leads() {
                continue;
            }
            let (id, from) = (plan.id, plan.runner);
            daemon.db().write(move |tx| db::plans::adopt(tx, id, from, own)).await?;
            tracing::warn!("taking over a plan ({:?}) from a member that is offline", plan.kind);
        }
        resume(daemon, plan.clone());
    }
    Ok(())
}

fn resume(daemon: &Arc<Daemon>, plan: Plan) {
    if daemon.plans.take(&plan.uuid) {
        let resources = Body::of(&plan).map(|body| runner::resources(&body)).unwrap_or_default();
        let new = operation_of(daemon, plan.kind, &plan.uuid, &runner::project(&plan), resources);
        carry_out(daemon, new, plan.uuid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_stored_a_plan_since_it_fell_silent_is_back() {
        let plans = Plans::default();
        let (long_ago, now) = (Instant::now() - Duration::from_secs(60), Instant::now());
        let older = |seen: Instant, silent: Instant, patience| {
            lock(&plans.seen).insert("plan".into(), seen);
            lock(&plans.silent).insert(3, silent);
            plans.is_older_than_silence("plan", 3, Duration::from_secs(patience))
        };
        assert!(older(long_ago, now, 100), "it fell silent while it carried the plan out");
        assert!(!older(now, long_ago, 100), "it was silent, and is back");
        assert!(older(long_ago, long_ago - Duration::from_secs(1), 20), "it was back, and has gone again at once");
    }
}
