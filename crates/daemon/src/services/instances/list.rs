//! Instances as clients see them.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::instance::{CpuState, DiskState, Instance, InstanceSnapshot, InstanceState, MemoryState, More};
use api::internal::InstanceRun;
use api::operation::StatusCode;
use api::{Error, Result};
use db::Tx;
use futures::future::join_all;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::super::never;
use super::snapshots;
use crate::blocking;
use crate::edge::Cx;
use crate::instances::{Expander, Loaded};
use crate::state::Daemon;

/// How long another member may take to tell of its instances.
const OTHERS: Duration = Duration::from_secs(2);

/// What runs, by row id; members that did not tell are named.
struct Runs {
    runs: HashMap<i64, InstanceRun>,
    silent: Vec<i64>,
}

impl Runs {
    /// Asks the members with these row ids what runs there.
    async fn ask(daemon: &Arc<Daemon>, members: Vec<i64>, full: bool) -> Runs {
        let snapshot = daemon.snapshot();
        let asked = members.into_iter().map(|id| {
            let member = snapshot.members.iter().find(|m| m.id == id).cloned();
            let snapshot = snapshot.clone();
            async move {
                if id == daemon.member_id() {
                    return (id, Some(own_runs(daemon, full).await));
                }
                let told = async {
                    let member = member?;
                    daemon.must_be_online(&member, &snapshot).ok()?;
                    let query = if full { "full=1" } else { "" };
                    let remote = daemon.remote(&member.address).ok()?;
                    let told = remote.call(&api::internal::INSTANCES, &[], query, &());
                    tokio::time::timeout(OTHERS, told).await.ok()?.ok()
                };
                (id, told.await)
            }
        });
        let mut all = Runs { runs: HashMap::new(), silent: Vec::new() };
        for (id, told) in join_all(asked).await {
            match told {
                Some(runs) => all.runs.extend(runs),
                None => all.silent.push(id),
            }
        }
        all
    }

    /// The status of an instance.
    fn status(&self, seen: &Seen) -> (&str, i64) {
        let of = |status: StatusCode| (status.name(), status.code());
        match self.runs.get(&seen.id) {
            Some(run) => (&run.status, run.status_code),
            None if self.silent.contains(&seen.member_id) => of(StatusCode::Error),
            None => of(StatusCode::Stopped),
        }
    }
}

/// What runs on this member, by row id.
pub async fn own_runs(daemon: &Arc<Daemon>, full: bool) -> BTreeMap<i64, InstanceRun> {
    let mut all = BTreeMap::new();
    for (id, name) in daemon.instances.all_running() {
        let status = daemon.instances.status(id);
        let state = if full { usage(daemon, name, status).await.ok() } else { None };
        all.insert(id, InstanceRun { status: status.name().into(), status_code: status.code(), state });
    }
    all
}

/// `GET /internal/instances`: what runs on this member.
pub async fn states(cx: Cx, (): ()) -> Result<BTreeMap<i64, InstanceRun>> {
    Ok(own_runs(&cx.daemon, cx.flag("full")).await)
}

fn stopped(status: StatusCode) -> InstanceState {
    InstanceState {
        status: status.name().into(),
        status_code: status.code(),
        disk: Some([("root".to_owned(), DiskState { usage: -1, total: 0 })].into()),
        memory: MemoryState::default(),
        network: None,
        pid: 0,
        processes: 0,
        cpu: CpuState::default(),
        started_at: never(),
        os_info: None,
    }
}

/// What an instance that runs on this member uses.
async fn usage(daemon: &Arc<Daemon>, name: String, status: StatusCode) -> Result<InstanceState> {
    let containers = daemon.containers.clone();
    blocking::run(move || {
        let usage = containers.usage(&name)?;
        let number = |n: Option<u64>| n.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
        let network = i32::try_from(usage.pid).ok().map(drivers::network::state::instance).transpose()?;
        Ok(InstanceState {
            memory: MemoryState {
                usage: number(usage.memory),
                usage_peak: number(usage.memory_peak),
                total: number(usage.memory_limit),
                swap_usage: number(usage.swap),
                swap_usage_peak: number(usage.swap_peak),
            },
            network,
            pid: usage.pid.into(),
            processes: number(Some(usage.processes)),
            cpu: CpuState { usage: number(usage.cpu), allocated_time: 0 },
            started_at: usage.started.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_else(never),
            ..stopped(status)
        })
    })
    .await
}

/// An instance as clients see it, by what is written down of it.
pub fn recorded(l: Loaded) -> Instance {
    let running = l.config.get("volatile.last_state.power").is_some_and(|power| power == "RUNNING");
    let status = if running { StatusCode::Running } else { StatusCode::Stopped };
    let location = l.row.member.clone();
    shown(l, (status.name().into(), status.code()), location)
}

fn shown(l: Loaded, (status, status_code): (String, i64), location: String) -> Instance {
    Instance {
        architecture: l.row.architecture.as_str().into(),
        config: l.row.config,
        devices: l.row.devices,
        ephemeral: l.row.ephemeral,
        profiles: l.row.profiles,
        stateful: l.row.stateful,
        description: l.row.description,
        created_at: l.row.created,
        expanded_config: l.config,
        expanded_devices: l.devices,
        name: l.row.name,
        status,
        status_code,
        last_used_at: l.row.last_used.unwrap_or(Timestamp::UNIX_EPOCH),
        location,
        kind: l.row.kind.as_str().into(),
        project: l.row.project,
        more: None,
    }
}

/// Which instances were asked for.
#[derive(PartialEq, Eq, Hash)]
pub struct Which {
    /// Those of this project; all if none is named.
    project: Option<String>,
    /// With their snapshots.
    full: bool,
}

/// An instance as clients see it, but for what changes while it runs.
pub struct Seen {
    id: i64,
    member_id: i64,
    /// With the status that is written down.
    shown: Shown,
    snapshots: Vec<InstanceSnapshot>,
}

/// An instance that many are shown: its JSON is made once.
#[derive(Clone)]
pub struct Shown(Arc<(Instance, Box<RawValue>)>);

impl Shown {
    fn new(instance: Instance) -> Result<Shown> {
        let json = to_raw_value(&instance).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Shown(Arc::new((instance, json))))
    }
}

impl Borrow<Instance> for Shown {
    fn borrow(&self) -> &Instance {
        &self.0.0
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.1.serialize(serializer)
    }
}

fn read(tx: &Tx<'_>, project: Option<&str>, full: bool) -> Result<Vec<Seen>> {
    let which = db::instances::Filter { project, ..db::instances::Filter::default() };
    if let Some(project) = project {
        db::projects::id(tx, project)?;
    }
    let expander = Expander::new(tx)?;
    let rows = db::instances::list(tx, which)?;
    let mut taken = if full { db::snapshots::list_all(tx, which)? } else { HashMap::new() };
    let seen = |row| {
        let l = expander.load(row);
        let (id, member_id) = (l.row.id, l.row.member_id);
        let snapshots = taken.remove(&id).unwrap_or_default().into_iter().map(|s| snapshots::shown(&l, s)).collect();
        Ok(Seen { id, member_id, shown: Shown::new(recorded(l))?, snapshots })
    };
    rows.into_iter().map(seen).collect()
}

pub async fn list(cx: Cx, (): ()) -> Result<Vec<Shown>> {
    let depth: u8 = cx.param("recursion").parse().unwrap_or(0);
    let project = (!cx.flag("all-projects")).then(|| cx.project().to_owned());
    let full = depth > 1;
    let which = Which { project: project.clone(), full };
    let lists = &cx.daemon.instance_lists;
    let all = cx.daemon.view_kept(lists, which, move |tx| read(tx, project.as_deref(), full)).await?;
    if depth == 0 {
        // Names alone need nobody else.
        return Ok(all.iter().map(|seen| seen.shown.clone()).collect());
    }
    let mut members: Vec<i64> = all.iter().map(|seen| seen.member_id).collect();
    members.sort_unstable();
    members.dedup();
    let runs = Runs::ask(&cx.daemon, members, full).await;
    let one = |seen: &Seen| {
        let (status, status_code) = runs.status(seen);
        let recorded: &Instance = seen.shown.borrow();
        if !full && recorded.status_code == status_code {
            return Ok(seen.shown.clone());
        }
        let more = full.then(|| {
            let state = runs.runs.get(&seen.id).and_then(|r| r.state.clone());
            let state = state.unwrap_or_else(|| InstanceState {
                status: status.to_owned(),
                status_code,
                ..stopped(StatusCode::Stopped)
            });
            Box::new(More { backups: None, state: Some(state), snapshots: some(seen.snapshots.clone()) })
        });
        Shown::new(Instance { status: status.to_owned(), status_code, more, ..recorded.clone() })
    };
    all.iter().map(one).collect()
}

fn some<T>(all: Vec<T>) -> Option<Vec<T>> {
    if all.is_empty() { None } else { Some(all) }
}

pub async fn get(cx: Cx, (): ()) -> Result<Instance> {
    let (l, status) = seen(&cx).await?;
    cx.show_etag(&super::changeable(&l));
    let more = if matches!(cx.param("recursion"), "" | "0") {
        None
    } else {
        let id = l.row.id;
        let taken = cx.daemon.view(move |tx| db::snapshots::list(tx, id)).await?;
        let state = match status {
            StatusCode::Error => stopped(status),
            _ => state_here(&cx, &l).await?,
        };
        let shown = taken.into_iter().map(|s| snapshots::shown(&l, s)).collect();
        Some(Box::new(More { backups: None, state: Some(state), snapshots: some(shown) }))
    };
    let location = l.row.member.clone();
    Ok(Instance { more, ..shown(l, (status.name().into(), status.code()), location) })
}

/// The instance of the request and its status: an error if the member that holds it is away.
async fn seen(cx: &Cx) -> Result<(Loaded, StatusCode)> {
    let l = super::find(cx).await?;
    if l.row.member_id == cx.daemon.member_id() {
        let status = cx.daemon.instances.status(l.row.id);
        return Ok((l, status));
    }
    match cx.daemon.instance_address(&l.row.project, &l.row.name).await {
        Err(e) if e.retryable() => Ok((l, StatusCode::Error)),
        _ => Err(super::has_moved(&l)),
    }
}

async fn state_here(cx: &Cx, l: &Loaded) -> Result<InstanceState> {
    match cx.daemon.instances.status(l.row.id) {
        StatusCode::Stopped => Ok(stopped(StatusCode::Stopped)),
        status => match usage(&cx.daemon, l.id(), status).await {
            // It may have ended a moment ago.
            Err(_) if has_ended(&cx.daemon, l.id()).await => Ok(stopped(StatusCode::Stopped)),
            other => other,
        },
    }
}

async fn has_ended(daemon: &Arc<Daemon>, name: String) -> bool {
    let containers = daemon.containers.clone();
    blocking::run(move || containers.init_pid(&name)).await.is_ok_and(|pid| pid.is_none())
}

pub async fn state(cx: Cx, (): ()) -> Result<InstanceState> {
    let l = super::find_here(&cx).await?;
    state_here(&cx, &l).await
}
