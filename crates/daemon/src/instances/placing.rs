//! Which member a new instance goes to: [`incus_core::placement`] decides, this gathers what it needs to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::{Error, Result};
use db::members::Member;
use incus_core::evacuate::Wish;
use incus_core::placement::{Candidate, Scheduler, Target, eligible};
use incus_core::project::Rules;
use scriptlet::Failure;

use super::Loaded;
use super::scripted::{self, ToPlace};
use crate::state::{Daemon, Snapshot};
use crate::versions::Compared;

/// Instances that this member has placed and that are not in the database yet, by member.
#[derive(Default)]
pub struct Placing(Mutex<HashMap<i64, usize>>);

/// Counts as an instance of its member until it is dropped.
pub struct Placed {
    daemon: Arc<Daemon>,
    member: i64,
}

impl Drop for Placed {
    fn drop(&mut self) {
        let mut counts = self.daemon.placing.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.member) {
            *count = count.saturating_sub(1);
        }
    }
}

/// The architectures that a member can run.
pub fn architectures(member: &Member) -> Vec<String> {
    let own = member.architecture.as_str().to_owned();
    match own.as_str() {
        "x86_64" => vec![own, "i686".into()],
        "aarch64" => vec![own, "armv8l".into(), "armv7l".into()],
        _ => vec![own],
    }
}

/// All members as candidates, with the instances that they hold or are about to.
pub async fn candidates(daemon: &Arc<Daemon>) -> Result<Vec<Candidate>> {
    // What is kept in memory may lack what another member was told a moment ago.
    let (counts, snapshot) = daemon.view(|tx| Ok((db::instances::counts(tx)?, Snapshot::load(tx)?))).await?;
    let (health, now) = (daemon.health(), jiff::Timestamp::now());
    let compared = Compared::new(daemon, &snapshot);
    let placing = daemon.placing.0.lock().unwrap_or_else(PoisonError::into_inner);
    let candidate = |m: &Member| Candidate {
        id: m.id,
        name: m.name.clone(),
        status: health.seen(m, &snapshot.config, compared.standing(daemon, m), now).status(),
        scheduler: Scheduler::parse(m.config.get("scheduler.instance").map_or("", String::as_str)),
        groups: m.groups.iter().cloned().collect(),
        architectures: architectures(m),
        instances: counts.get(&m.id).copied().unwrap_or(0) + placing.get(&m.id).copied().unwrap_or(0),
    };
    let joined = snapshot.members.iter().filter(|m| m.state != db::members::State::Pending);
    Ok(joined.map(candidate).collect())
}

/// Those of them that the project may use.
pub async fn candidates_for(daemon: &Arc<Daemon>, project: &str, target: &Target) -> Result<Vec<Candidate>> {
    let asked = project.to_owned();
    let project = daemon.view(move |tx| db::projects::get(tx, &asked)).await?;
    let candidates = candidates(daemon).await?;
    Rules::new(&project.name, &project.config).among(candidates, target)
}

/// One of these: that which the placement scriptlet names, otherwise the first. Its row id.
///
/// # Errors
/// If the scriptlet refuses the instance, or does not work.
pub async fn among(daemon: &Arc<Daemon>, eligible: &[&Candidate], wanted: &ToPlace) -> Result<i64> {
    let named = scripted::ask(daemon, eligible, wanted).await.map_err(|failure| match failure {
        Failure::Refused(why) => Error::bad_request(format!("The placement scriptlet refuses the instance: {why}")),
        Failure::Broken(why) => {
            Error::internal(format!("The placement scriptlet (instances.placement.scriptlet) failed: {why}"))
        }
    })?;
    let chosen = match &named {
        Some(name) => eligible.iter().find(|c| c.name == *name),
        None => eligible.first(),
    };
    chosen.map(|c| c.id).ok_or_else(|| Error::internal("Nobody can take the instance"))
}

/// What the placement scriptlet says of an instance that an evacuation takes away.
pub async fn wish(daemon: &Arc<Daemon>, l: &Loaded, eligible: &[&Candidate], wanted: &ToPlace) -> Wish {
    match scripted::ask(daemon, eligible, wanted).await {
        Ok(None) => Wish::None,
        Ok(Some(name)) => Wish::Member(name),
        Err(Failure::Refused(why)) => Wish::Refused(why),
        Err(Failure::Broken(why)) => {
            tracing::warn!("placing {} without the placement scriptlet, which failed: {why}", l.id());
            Wish::Broken(why)
        }
    }
}

/// Instances that are being placed on a member and not in the database yet, by its row id.
pub fn pending(daemon: &Daemon) -> HashMap<i64, usize> {
    daemon.placing.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Chooses the member for a new instance; it counts as taken while the result is kept.
pub async fn place(
    daemon: &Arc<Daemon>,
    wanted: &ToPlace,
    target: &Target,
    architecture: &str,
) -> Result<(Member, Placed)> {
    let candidates = candidates_for(daemon, &wanted.project, target).await?;
    let chosen = among(daemon, &eligible(&candidates, target, architecture, &[])?, wanted).await?;
    let mut counts = daemon.placing.0.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(chosen).or_default() += 1;
    drop(counts);
    let placed = Placed { daemon: daemon.clone(), member: chosen };
    let snapshot = daemon.snapshot();
    let member = snapshot.members.iter().find(|m| m.id == chosen).cloned();
    member
        .map(|m| (m, placed))
        .ok_or_else(|| Error::unavailable("The cluster member was removed a moment ago: try again"))
}
