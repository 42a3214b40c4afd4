//! Emptying a member that does not answer: what others can reach is started elsewhere, the rest is named.
//!
//! A person asks for it (`incus cluster evacuate` of a member that is offline), or the leader by itself ([`super::heal`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use api::cluster::ClusterMemberPlan;
use api::event::Requestor;
use api::{Error, Result};
use db::Tx;
use db::instances::Filter;
use db::members::Event;
use db::plans::Kind;
use db::projects::{Feature, holder};
use drivers::storage::{self, Volume};
use incus_core::disk::{self, Source};
use incus_core::heal::{self, Stranded};
use incus_core::placement::Candidate;
use incus_core::plan::{Action, Mode};

use super::evacuate::{ORIGIN, known, loaded, origin, part, shown};
use super::{Body, Part, Wanted, begin_about};
use crate::instances::{Loaded, placing};
use crate::operations::{Operation, Resources};
use crate::services::pools;
use crate::state::Daemon;

/// A volume in a pool.
pub type Placed = (String, Volume);

/// Empties the member of that name, which does not answer, because a person asks for it.
pub async fn evacuate(
    daemon: &Arc<Daemon>,
    name: &str,
    mode: Option<Mode>,
    requestor: Option<Requestor>,
) -> Result<Arc<Operation>> {
    let asked = name.to_owned();
    let member = daemon.view(move |tx| db::members::id(tx, &asked)).await?;
    empty(daemon, Kind::Evacuate, member, mode, requestor).await
}

/// Empties a member as far as it can be healed.
pub async fn heal(daemon: &Arc<Daemon>, member: i64) -> Result<Arc<Operation>> {
    empty(daemon, Kind::Heal, member, None, None).await
}

/// What an evacuation of the member of that name, which does not answer, would do; nothing is changed.
pub async fn evacuation(daemon: &Arc<Daemon>, name: &str, mode: Option<Mode>) -> Result<ClusterMemberPlan> {
    let asked = name.to_owned();
    let member = daemon.view(move |tx| db::members::id(tx, &asked)).await?;
    let emptying = Emptying { kind: Kind::Evacuate, member, mode, members: placing::candidates(daemon).await? };
    let decider = daemon.clone();
    let decide = move |tx: &Tx<'_>| {
        db::members::get(tx, member)?.state.after(Event::Evacuate)?;
        emptying.decide(&decider, tx)
    };
    Ok(shown(daemon, &daemon.view(decide).await?, Vec::new()))
}

async fn empty(
    daemon: &Arc<Daemon>,
    kind: Kind,
    member: i64,
    mode: Option<Mode>,
    requestor: Option<Requestor>,
) -> Result<Arc<Operation>> {
    let emptying = Emptying { kind, member, mode, members: placing::candidates(daemon).await? };
    let decider = daemon.clone();
    let wanted = Wanted { kind, resources: Resources::new(), project: String::new(), warnings: Vec::new() };
    begin_about(daemon, wanted, Some(member), move |tx| {
        db::members::advance(tx, member, Event::Evacuate)?;
        Ok(Body { parts: emptying.decide(&decider, tx)?, requestor: requestor.clone() })
    })
    .await
}

/// What emptying a member that does not answer is decided by, beside what the transaction reads.
#[derive(Clone)]
struct Emptying {
    kind: Kind,
    member: i64,
    mode: Option<Mode>,
    members: Vec<Candidate>,
}

impl Emptying {
    /// Decides what becomes of each instance; changes nothing.
    fn decide(&self, daemon: &Daemon, tx: &Tx<'_>) -> Result<Vec<Part>> {
        let name = db::members::get(tx, self.member)?.name;
        let (there, remote) = (of_member(tx, self.member)?, pools::remote_names(tx)?);
        let stranded = there.iter().map(|l| stranded(daemon, tx, l, &remote)).collect::<Result<Vec<_>>>()?;
        let able = able(tx, &self.members, &there, &remote)?;
        let steps = heal::take_over(&stranded, &able, self.member, self.mode);
        if self.kind == Kind::Heal && !steps.iter().any(|s| s.action == Action::TakeOver) {
            return Err(Error::bad_request(format!("No instance of \"{name}\" can be started elsewhere")));
        }
        let parts = there.iter().zip(steps).map(|(l, step)| {
            let before = l.row.config.get(ORIGIN).cloned();
            let after = origin(tx, before.as_deref(), &name)?;
            part(tx, l, step, before, Some(after))
        });
        parts.collect()
    }
}

/// Those of the members that reach the pools in which instances lie.
fn able(tx: &Tx<'_>, members: &[Candidate], instances: &[Loaded], remote: &[String]) -> Result<Vec<Candidate>> {
    let mut used = BTreeSet::new();
    for l in instances {
        used.extend(volumes(tx, l)?.into_iter().map(|(pool, _)| pool).filter(|pool| remote.contains(pool)));
    }
    let reaches = |m: &&Candidate| used.iter().all(|pool| pools::must_be_ready_on(tx, pool, m.id).is_ok());
    Ok(members.iter().filter(reaches).cloned().collect())
}

fn of_member(tx: &Tx<'_>, member: i64) -> Result<Vec<Loaded>> {
    loaded(tx, |tx| db::instances::list(tx, Filter { member: Some(member), ..Filter::default() }))
}

/// The volumes of the instances of a member that others can start: those that they may use only with a lease.
pub fn reachable(daemon: &Daemon, tx: &Tx<'_>, member: i64) -> Result<BTreeSet<Placed>> {
    let mut all = BTreeSet::new();
    let remote = pools::remote_names(tx)?;
    for l in of_member(tx, member)? {
        if stranded(daemon, tx, &l, &remote)?.stays(None).is_none() {
            all.extend(volumes(tx, &l)?);
        }
    }
    Ok(all)
}

fn stranded(daemon: &Daemon, tx: &Tx<'_>, l: &Loaded, remote: &[String]) -> Result<Stranded> {
    let local = volumes(tx, l)?.into_iter().map(|(pool, _)| pool).find(|pool| !remote.contains(pool));
    Ok(Stranded { instance: known(tx, daemon, l, remote)?, local })
}

/// The volumes that an instance uses: its own, and those among its devices.
pub fn volumes(tx: &Tx<'_>, l: &Loaded) -> Result<BTreeSet<Placed>> {
    let mut all: BTreeSet<Placed> = [(db::volumes::of_instance(tx, l.row.id)?.pool, l.volume())].into();
    let project = holder(tx, &l.row.project, Feature::Volumes)?;
    for disk in disk::disks(&l.devices)? {
        if let Source::Volume { pool, name } = disk.source {
            all.insert((pool, Volume::new(storage::Kind::Custom, &project, &name)));
        }
    }
    Ok(all)
}
