//! Emptying a member, and bringing it back: what the planner needs is read in the transaction that stores its plan.

use std::sync::Arc;

use api::key::Read as _;
use api::{Error, Result};
use db::Tx;
use db::instances::Filter;
use db::members::{Event, State};
use db::plans::Kind;
use incus_core::evacuate as planner;
use incus_core::plan::{Action, Mode, Step};

use super::{Body, Part, Spot, Wanted, begin, must_be_free};
use crate::edge::Cx;
use crate::instances::{Expander, Loaded, placing};
use crate::operations::{Operation, Resources};
use crate::services::pools;
use crate::state::Daemon;

/// Notes the name of the member from which an evacuation has taken an instance.
pub const ORIGIN: &str = "volatile.evacuate.origin";

/// Empties this member.
pub async fn evacuate(cx: &Cx, mode: Option<Mode>) -> Result<Arc<Operation>> {
    let (daemon, requestor) = (cx.daemon.clone(), cx.caller.requestor());
    let members = placing::candidates(&daemon).await?;
    let own = daemon.member_id();
    let mode = if members.len() == 1 { Some(alone(mode)?) } else { mode };
    begin(&cx.daemon, about_member(Kind::Evacuate), move |tx| {
        db::members::advance(tx, own, Event::Evacuate)?;
        let here = loaded(tx, |tx| db::instances::list(tx, Filter { member: Some(own), ..Filter::default() }))?;
        let remote = pools::remote_names(tx)?;
        let known = here.iter().map(|l| known(&daemon, l, &remote)).collect::<Result<Vec<_>>>()?;
        let steps = planner::evacuate(&known, &members, own, mode)?;
        let name = db::members::get(tx, own)?.name;
        let parts = here.iter().zip(steps).map(|(l, step)| {
            let before = l.row.config.get(ORIGIN).cloned();
            let after = origin(tx, before.as_deref(), &name)?;
            part(tx, l, step, before, Some(after))
        });
        Ok(Body { parts: parts.collect::<Result<_>>()?, requestor: Some(requestor.clone()) })
    })
    .await
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
fn origin(tx: &Tx<'_>, before: Option<&str>, own: &str) -> Result<String> {
    if let Some(first) = before
        && let Some(member) = db::members::find(tx, first)?
        && member.state == State::Evacuated
    {
        return Ok(first.to_owned());
    }
    Ok(own.to_owned())
}

/// Brings this member back; with `skip` the instances stay where they are.
pub async fn restore(cx: &Cx, skip: bool) -> Result<Arc<Operation>> {
    let (daemon, requestor) = (cx.daemon.clone(), cx.caller.requestor());
    let own = daemon.member_id();
    begin(&cx.daemon, about_member(Kind::Restore), move |tx| {
        db::members::advance(tx, own, Event::Restore)?;
        let name = db::members::get(tx, own)?.name;
        let all = loaded(tx, |tx| db::instances::list(tx, Filter::default()))?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(|l| l.row.member_id == own);
        let guests = elsewhere.into_iter().filter(|l| l.row.config.get(ORIGIN) == Some(&name)).collect::<Vec<_>>();
        let remote = pools::remote_names(tx)?;
        let known = |l: &Loaded| known(&daemon, l, &remote);
        let (local, away) = (
            here.iter().map(known).collect::<Result<Vec<_>>>()?,
            guests.iter().map(known).collect::<Result<Vec<_>>>()?,
        );
        let steps = planner::restore(&local, &away, own, skip);
        let parts = here.iter().chain(&guests).zip(steps).map(|(l, step)| {
            let before = l.row.config.get(ORIGIN).cloned();
            part(tx, l, step, before, None)
        });
        Ok(Body { parts: parts.collect::<Result<_>>()?, requestor: Some(requestor.clone()) })
    })
    .await
}

fn about_member(kind: Kind) -> Wanted {
    Wanted { kind, resources: Resources::new(), project: String::new() }
}

/// Instances with what their profiles add.
fn loaded(tx: &Tx<'_>, list: impl Fn(&Tx<'_>) -> Result<Vec<db::instances::Instance>>) -> Result<Vec<Loaded>> {
    let expander = Expander::new(tx)?;
    Ok(list(tx)?.into_iter().map(|row| expander.load(row)).collect())
}

/// What the planner needs to know of an instance.
fn known(daemon: &Daemon, l: &Loaded, remote: &[String]) -> Result<planner::Instance> {
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
    })
}

/// Seconds that an instance may take to shut down.
pub fn timeout(l: &Loaded) -> u64 {
    u64::try_from(l.config.read(&api::keys::instance::SHUTDOWN_TIMEOUT)).unwrap_or(0)
}

/// A step with where the instance is before and after.
fn part(tx: &Tx<'_>, l: &Loaded, step: Step, before: Option<String>, after: Option<String>) -> Result<Part> {
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
