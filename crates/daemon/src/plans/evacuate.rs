//! Emptying a member, and bringing it back: what the planner needs is read in the transaction that stores its plan.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::cluster::{ClusterMemberPlan, ClusterMemberPlanStep};
use api::event::Requestor;
use api::key::Read as _;
use api::{Error, Result};
use db::Tx;
use db::instances::Filter;
use db::members::{Event, State};
use db::plans::Kind;
use incus_core::evacuate::{self as planner, Wish};
use incus_core::placement::Candidate;
use incus_core::plan::{Action, Mode, Step};
use incus_core::project::Rules;
use incus_core::quorum::{self, Left};

use super::{Body, Part, Spot, Wanted, begin, member, must_be_free};
use crate::instances::scripted::{self, Planned, Reason, ToPlace};
use crate::instances::{Expander, Loaded, expanded, placing};
use crate::operations::{Operation, Resources};
use crate::services::pools;
use crate::state::Daemon;

/// Notes the name of the member from which an evacuation has taken an instance.
pub const ORIGIN: &str = "volatile.evacuate.origin";

/// How long the placement scriptlet may take for all instances together.
const ASKING: Duration = Duration::from_secs(30);

/// What an evacuation of this member is decided by, beside what the transaction reads.
#[derive(Clone)]
struct Evacuation {
    members: Vec<Candidate>,
    mode: Option<Mode>,
    own: i64,
    /// What the placement scriptlet says, by the row ids of the instances.
    wishes: HashMap<i64, Wish>,
}

impl Evacuation {
    async fn prepare(daemon: &Arc<Daemon>, mode: Option<Mode>) -> Result<Evacuation> {
        let members = placing::candidates(daemon).await?;
        let mode = if members.len() == 1 { Some(alone(mode)?) } else { mode };
        let mut evacuation = Evacuation { members, mode, own: daemon.member_id(), wishes: HashMap::new() };
        evacuation.wish(daemon).await?;
        Ok(evacuation)
    }

    /// Asks the placement scriptlet, which can't be done in a transaction, for each instance that goes.
    async fn wish(&mut self, daemon: &Arc<Daemon>) -> Result<()> {
        let scriptlet = daemon.view(scripted::in_force).await?;
        if scriptlet.is_none() {
            return Ok(());
        }
        let (began, own) = (Instant::now(), self.own);
        let (mut members, mut planned) = (self.members.clone(), Planned::new());
        let here = Filter { member: Some(own), ..Filter::default() };
        for (l, known) in here_known(daemon, here).await? {
            let Ok(eligible) = known.eligible(&members, &[own]) else { continue };
            if !known.goes(self.mode) {
                continue;
            }
            let wanted = ToPlace { planned: planned.clone(), ..ToPlace::of(&l, Reason::Evacuation, scriptlet.clone()) };
            let wish = if began.elapsed() < ASKING {
                placing::wish(daemon, &l, &eligible, &wanted).await
            } else {
                Wish::Broken("it has taken too long for the instances before".into())
            };
            let known = planner::Instance { wish: wish.clone(), ..known };
            if let Ok(to) = known.destination(&members, &[own]).map(|(to, _)| to.id)
                && let Some(taken) = members.iter_mut().find(|m| m.id == to)
            {
                taken.instances += 1;
                *planned.entry(taken.name.clone()).or_default() += 1;
            }
            self.wishes.insert(l.row.id, wish);
        }
        Ok(())
    }

    /// Decides what becomes of each instance; changes nothing.
    fn decide(&self, daemon: &Daemon, tx: &Tx<'_>) -> Result<Vec<Part>> {
        let own = self.own;
        let here = loaded(tx, |tx| db::instances::list(tx, Filter { member: Some(own), ..Filter::default() }))?;
        let remote = pools::remote_names(tx)?;
        let known = here.iter().map(|l| {
            let wish = self.wishes.get(&l.row.id).cloned().unwrap_or_default();
            Ok(planner::Instance { wish, ..known(tx, daemon, l, &remote)? })
        });
        let known = known.collect::<Result<Vec<_>>>()?;
        let steps = planner::evacuate(&known, &self.members, own, self.mode)?;
        let name = db::members::get(tx, own)?.name;
        let parts = here.iter().zip(steps).map(|(l, step)| {
            let before = l.row.config.get(ORIGIN).cloned();
            let after = origin(tx, before.as_deref(), &name)?;
            part(tx, l, step, before, Some(after))
        });
        parts.collect()
    }
}

/// Empties this member. With `even_if_last` also if the others then have no majority.
pub async fn evacuate(
    daemon: &Arc<Daemon>,
    requestor: Option<Requestor>,
    mode: Option<Mode>,
    even_if_last: bool,
) -> Result<Arc<Operation>> {
    let evacuation = Evacuation::prepare(daemon, mode).await?;
    let warnings = match without(daemon) {
        Err(e) if even_if_last => vec![e.message],
        other => other?.into_iter().collect(),
    };
    let wanted = Wanted { warnings, ..about_member(Kind::Evacuate) };
    let decider = daemon.clone();
    begin(daemon, wanted, move |tx| {
        db::members::advance(tx, evacuation.own, Event::Evacuate)?;
        Ok(Body { parts: evacuation.decide(&decider, tx)?, requestor: requestor.clone() })
    })
    .await
}

/// What [`evacuate`] would do.
pub async fn evacuation(daemon: &Arc<Daemon>, mode: Option<Mode>) -> Result<ClusterMemberPlan> {
    let evacuation = Evacuation::prepare(daemon, mode).await?;
    let warnings = without(daemon)?.into_iter().collect();
    let decider = daemon.clone();
    let decide = move |tx: &Tx<'_>| {
        db::members::get(tx, evacuation.own)?.state.after(Event::Evacuate)?;
        evacuation.decide(&decider, tx)
    };
    Ok(shown(daemon, &daemon.view(decide).await?, warnings))
}

/// Whether the database can do without this member: what a person is told of that, or why it can't.
fn without(daemon: &Daemon) -> Result<Option<String>> {
    let (snapshot, status) = (daemon.snapshot(), daemon.db().status());
    let members = daemon.health().voting(&status, &snapshot.members, &snapshot.config);
    let leader = status.leader.unwrap_or_else(|| daemon.raft_id());
    let name = daemon.name();
    match quorum::without(&members, cluster::health::max_voters(&snapshot.config), leader, daemon.raft_id()) {
        Left::Alone | Left::Enough => Ok(None),
        Left::NoneToSpare { voters, left } => Ok(Some(format!(
            "While \"{name}\" is switched off, {left} of the database's {voters} voters are there: if one more goes, \
             nothing can be changed"
        ))),
        Left::Nothing { voters, left } => Err(Error::bad_request(format!(
            "Without \"{name}\" the database has no majority: {left} of its {voters} voters would be left when it is \
             switched off. Bring other members back first, or restore them, or remove those that are gone for good"
        ))),
    }
}

/// The mode in a cluster of one member.
fn alone(mode: Option<Mode>) -> Result<Mode> {
    match mode {
        None | Some(Mode::Auto) => Ok(Mode::Stop),
        Some(mode @ (Mode::Stop | Mode::ForceStop | Mode::StatefulStop)) => Ok(mode),
        Some(mode @ (Mode::Migrate | Mode::LiveMigrate)) => {
            let word = if mode == Mode::Migrate { "migrate" } else { "live-migrate" };
            Err(Error::bad_request(format!("Can't perform \"{word}\" evacuation on a single node cluster")))
        }
    }
}

/// Where an instance comes home to: an instance that is a guest already goes back to its first host.
pub(super) fn origin(tx: &Tx<'_>, before: Option<&str>, own: &str) -> Result<String> {
    if let Some(first) = before
        && let Some(member) = db::members::find(tx, first)?
        && member.state == State::Evacuated
    {
        return Ok(first.to_owned());
    }
    Ok(own.to_owned())
}

/// Decides what comes back to this member; changes nothing.
fn decide_restore(daemon: &Daemon, tx: &Tx<'_>, own: i64, skip: bool) -> Result<Vec<Part>> {
    let name = db::members::get(tx, own)?.name;
    let all = loaded(tx, |tx| db::instances::list(tx, Filter::default()))?;
    let (here, elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(|l| l.row.member_id == own);
    let guests = elsewhere.into_iter().filter(|l| l.row.config.get(ORIGIN) == Some(&name)).collect::<Vec<_>>();
    let remote = pools::remote_names(tx)?;
    let known = |l: &Loaded| known(tx, daemon, l, &remote);
    let (local, away) =
        (here.iter().map(known).collect::<Result<Vec<_>>>()?, guests.iter().map(known).collect::<Result<Vec<_>>>()?);
    let steps = planner::restore(&local, &away, own, skip);
    let parts = here.iter().chain(&guests).zip(steps).map(|(l, step)| {
        let before = l.row.config.get(ORIGIN).cloned();
        part(tx, l, step, before, None)
    });
    parts.collect()
}

/// Brings this member back; with `skip` the instances stay where they are.
pub async fn restore(daemon: &Arc<Daemon>, requestor: Option<Requestor>, skip: bool) -> Result<Arc<Operation>> {
    let (own, decider) = (daemon.member_id(), daemon.clone());
    begin(daemon, about_member(Kind::Restore), move |tx| {
        db::members::advance(tx, own, Event::Restore)?;
        Ok(Body { parts: decide_restore(&decider, tx, own, skip)?, requestor: requestor.clone() })
    })
    .await
}

/// What [`restore`] would do.
pub async fn restoration(daemon: &Arc<Daemon>, skip: bool) -> Result<ClusterMemberPlan> {
    let (own, decider) = (daemon.member_id(), daemon.clone());
    let decide = move |tx: &Tx<'_>| {
        db::members::get(tx, own)?.state.after(Event::Restore)?;
        decide_restore(&decider, tx, own, skip)
    };
    Ok(shown(daemon, &daemon.view(decide).await?, Vec::new()))
}

/// A plan that was only made to be looked at.
pub(super) fn shown(daemon: &Daemon, parts: &[Part], warnings: Vec<String>) -> ClusterMemberPlan {
    let steps = parts.iter().map(|Part { step, .. }| ClusterMemberPlanStep {
        project: step.project.clone(),
        instance: step.name.clone(),
        action: step.action.as_str().to_owned(),
        target: member::name(daemon, step.to),
        reason: step.why.clone(),
    });
    ClusterMemberPlan { steps: steps.collect(), warnings }
}

fn about_member(kind: Kind) -> Wanted {
    Wanted { kind, resources: Resources::new(), project: String::new(), warnings: Vec::new() }
}

/// Instances with what their profiles add.
pub(super) fn loaded(
    tx: &Tx<'_>,
    list: impl Fn(&Tx<'_>) -> Result<Vec<db::instances::Instance>>,
) -> Result<Vec<Loaded>> {
    let expander = Expander::new(tx)?;
    Ok(list(tx)?.into_iter().map(|row| expander.load(row)).collect())
}

/// Instances, with what the planner needs to know of them.
async fn here_known(daemon: &Arc<Daemon>, which: Filter<'static>) -> Result<Vec<(Loaded, planner::Instance)>> {
    let asked = daemon.clone();
    let read = move |tx: &Tx<'_>| {
        let remote = pools::remote_names(tx)?;
        let all = loaded(tx, |tx| db::instances::list(tx, which))?.into_iter();
        all.map(|l| known(tx, &asked, &l, &remote).map(|known| (l, known))).collect()
    };
    daemon.view(read).await
}

/// The member that an instance goes to instead of those in `not`; its row id.
pub async fn elsewhere(daemon: &Arc<Daemon>, id: i64, not: &[i64]) -> Result<i64> {
    let asked = daemon.clone();
    let read = move |tx: &Tx<'_>| {
        let l = expanded(tx, db::instances::by_id(tx, id)?)?;
        known(tx, &asked, &l, &pools::remote_names(tx)?).map(|known| (l, known))
    };
    let (l, known) = daemon.view(read).await?;
    let candidates = placing::candidates(daemon).await?;
    let wanted = ToPlace::of(&l, Reason::Evacuation, daemon.view(scripted::in_force).await?);
    let wish = placing::wish(daemon, &l, &known.eligible(&candidates, not)?, &wanted).await;
    planner::Instance { wish, ..known }.destination(&candidates, not).map(|(to, _)| to.id)
}

/// What the planner needs to know of an instance; `remote` are the pools that all members reach.
pub(super) fn known(tx: &Tx<'_>, daemon: &Daemon, l: &Loaded, remote: &[String]) -> Result<planner::Instance> {
    let project = db::projects::get(tx, &l.row.project)?;
    let ran = l.config.get("volatile.last_state.power").is_some_and(|power| power == "RUNNING");
    Ok(planner::Instance {
        id: l.row.id,
        project: l.row.project.clone(),
        name: l.row.name.clone(),
        member: l.row.member_id,
        architecture: l.row.architecture.as_str().to_owned(),
        running: ran || daemon.instances.runs(l.row.id),
        mode: Mode::parse(&l.config.read(&api::keys::instance::EVACUATE))?.unwrap_or(Mode::Auto),
        timeout: timeout(l),
        group: l.config.get("volatile.cluster.group").cloned(),
        tied: planner::tie(&l.devices, remote),
        within: Rules::new(&project.name, &project.config).groups(),
        wish: Wish::None,
    })
}

/// Seconds that an instance may take to shut down.
pub fn timeout(l: &Loaded) -> u64 {
    u64::try_from(l.config.read(&api::keys::instance::SHUTDOWN_TIMEOUT)).unwrap_or(0)
}

/// A step with where the instance is before and after.
pub(super) fn part(tx: &Tx<'_>, l: &Loaded, step: Step, before: Option<String>, after: Option<String>) -> Result<Part> {
    if step.action != Action::Leave {
        must_be_free(tx, l.row.id).map_err(|e| e.context(format!("Instance \"{}\"", l.row.name)))?;
    }
    let spot = |origin: Option<String>| -> Result<Spot> {
        Ok(Spot {
            pool: db::volumes::of_instance(tx, l.row.id)?.pool,
            project: l.row.project.clone(),
            name: l.row.name.clone(),
            settings: None,
            notes: vec![(ORIGIN.to_owned(), origin)],
        })
    };
    Ok(Part { source: spot(before)?, target: spot(after)?, step })
}
