//! Starting an instance.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use api::key::{Config, Read as _};
use api::{Error, Result};
use db::Tx;
use drivers::image::template::{self, TemplateContext};
use incus_core::idmap::Idmap;
use incus_core::limits;
use incus_core::lxc_conf::{Cgroups, Init, Spec};
use jiff::Timestamp;

use super::{Loaded, devices, stop};
use crate::state::Daemon;
use crate::{blocking, leases, plans};

/// The ids that containers have on this machine.
static IDMAP: LazyLock<Idmap> = LazyLock::new(|| {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    Idmap::of_host(&read("/etc/subuid"), &read("/etc/subgid"))
});

/// Starts an instance of this member. The caller holds its lock.
///
/// # Errors
/// When it runs already, or anything that it needs is missing; nothing of it is left then.
pub async fn start(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    start_for(daemon, l, None).await
}

/// Starts an instance of this member, in the name of the plan with that UUID if there is one.
pub async fn start_for(daemon: &Arc<Daemon>, l: &Loaded, plan: Option<&str>) -> Result<()> {
    if daemon.instances.runs(l.row.id) {
        return Err(Error::bad_request("The instance is already running"));
    }
    daemon.must_take_instances()?;
    crate::services::instances::end_rebuild(daemon, l).await?;
    let volume = super::volume_path(daemon, l).await?;
    leases::take_root(daemon, l).await?;
    if plan.is_none() {
        crate::services::instances::snapshot_at_startup(daemon, l).await;
    }
    let started = start_with(daemon, l, volume, plan).await;
    if started.is_err() {
        leases::give_back(daemon, l.row.id).await;
    }
    started
}

async fn start_with(daemon: &Arc<Daemon>, l: &Loaded, volume: PathBuf, plan: Option<&str>) -> Result<()> {
    let nics = devices::resolve_all(daemon, l).await?;
    let plugs = devices::prepare(daemon, &nics).await?;
    let notes = nics.iter().map(|n| &n.volatile).chain(plugs.iter().map(|p| &p.volatile));
    let notes: Config = notes.flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let noted = note_start(daemon, l, notes, plan).await;
    let refused = noted.is_err();
    let started = async {
        let l = noted?;
        let spec = spec(daemon, &l, &volume, devices::links(&plugs)).await?;
        let (containers, id) = (daemon.containers.clone(), l.id());
        blocking::run(move || {
            apply_templates(&l, &volume)?;
            containers.start(&id, &spec).map(drop)
        })
        .await
    };
    if let Err(e) = started.await {
        devices::clean(daemon, &nics).await;
        // A plan starts it again elsewhere; and if it was refused nothing was noted.
        if !refused && let Err(e) = stop::note_stop(daemon, l, plan.is_some()).await {
            tracing::warn!("noting that {} did not start: {e}", l.id());
        }
        return Err(e);
    }
    stop::watch(daemon, l.row.id, l.id());
    Ok(())
}

/// Refuses unless the instance is on this member, and no plan but the one with that UUID has to do with it: this is
/// asked in the transaction, so that nothing runs twice.
fn must_start_here(tx: &Tx<'_>, id: i64, own: i64, plan: Option<&str>) -> Result<()> {
    let row = db::instances::by_id(tx, id)?;
    if row.member_id != own {
        return Err(Error::conflict(format!("The instance is on the member \"{}\" now", row.member)));
    }
    if plan.is_none() {
        plans::must_be_free(tx, id)?;
        plans::must_be_in_service(tx, own)?;
    }
    Ok(())
}

/// Writes down that the instance is to run from now on, and what its devices are; the instance as it is then.
async fn note_start(daemon: &Arc<Daemon>, l: &Loaded, devices: Config, plan: Option<&str>) -> Result<Loaded> {
    let idmap = if l.privileged() { "[]".to_owned() } else { IDMAP.to_json() };
    let mut notes = devices;
    for (key, value) in [
        ("volatile.idmap.base", "0"),
        ("volatile.idmap.current", &idmap),
        ("volatile.idmap.next", &idmap),
        ("volatile.last_state.idmap", "[]"),
        ("volatile.last_state.power", "RUNNING"),
        ("volatile.last_state.ready", "false"),
        ("volatile.apply_template", ""),
    ] {
        notes.insert(key.into(), value.into());
    }
    let (id, now, written) = (l.row.id, Timestamp::now(), notes.clone());
    let (own, plan) = (daemon.member_id(), plan.map(str::to_owned));
    daemon
        .db()
        .write(move |tx| {
            must_start_here(tx, id, own, plan.as_deref())?;
            let notes = written.iter().map(|(k, v)| (k.as_str(), Some(v.as_str()).filter(|v| !v.is_empty())));
            db::instances::patch_config(tx, id, notes)?;
            db::instances::set_last_used(tx, id, now)
        })
        .await?;
    let mut l = l.clone();
    // Its templates are told what it was before.
    notes.remove("volatile.apply_template");
    l.config.extend(notes);
    Ok(l)
}

/// Makes the files that come from templates: those of a new instance first, then those of every start.
fn apply_templates(l: &Loaded, volume: &Path) -> Result<()> {
    let about = TemplateContext {
        name: l.row.name.clone(),
        architecture: l.row.architecture.as_str().into(),
        privileged: l.privileged(),
        ephemeral: l.row.ephemeral,
        config: l.config.clone(),
        devices: l.devices.clone(),
        id_base: 0,
    };
    let first = l.config.get("volatile.apply_template").map(String::as_str);
    for trigger in first.into_iter().chain(["start"]) {
        template::apply(volume, trigger, &about)?;
    }
    Ok(())
}

/// Everything that liblxc is told.
async fn spec(daemon: &Arc<Daemon>, l: &Loaded, volume: &Path, links: Vec<incus_core::lxc_conf::Link>) -> Result<Spec> {
    let rootfs = volume.join("rootfs");
    let target = std::fs::read_link(rootfs.join("sbin/init"))
        .or_else(|_| std::fs::read_link(rootfs.join("usr/sbin/init")))
        .map(|t| t.to_string_lossy().into_owned())
        .unwrap_or_default();
    let environment = l.config.iter().filter_map(|(k, v)| Some((k.strip_prefix("environment.")?.into(), v.clone())));
    let mut mounts = drivers::instance::lxcfs_mounts();
    mounts.extend(devices::mounts(daemon, l).await?);
    let limits = Limits::of(l)?;
    Ok(Spec {
        host_name: l.row.name.clone(),
        rootfs: rootfs.display().to_string(),
        idmap: (!l.privileged()).then(|| IDMAP.clone()),
        init: Init::of(&target),
        architecture: l.row.architecture.as_str().into(),
        environment: environment.collect(),
        mounts,
        links,
        cgroups: daemon.containers.cgroups(),
        // The driver says where.
        cgroup: String::new(),
        memory: limits.memory,
        cpus: limits.cpus,
        processes: limits.processes,
        nesting: l.config.read(&api::keys::instance::NESTING),
        console_log: String::new(),
        raw: l.config.read(&api::keys::instance::RAW_LXC).0,
    })
}

/// The limits of an instance on this machine.
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Processors, as `0-3`.
    pub cpus: Option<String>,
    /// Processes.
    pub processes: Option<u64>,
}

impl Limits {
    /// The cgroup values that they amount to. What has no limit may have everything.
    pub fn values(&self, cgroups: Cgroups) -> Vec<(&'static str, String)> {
        let v1 = cgroups == Cgroups::V1;
        let memory = self.memory.map(|m| m.to_string());
        let all = || std::fs::read_to_string("/sys/devices/system/cpu/online").map(|t| t.trim().to_owned());
        let processors = self.cpus.clone().or_else(|| all().ok());
        [
            (if v1 { "memory.limit_in_bytes" } else { "memory.max" }, memory.or(Some(unlimited(v1).into()))),
            ("cpuset.cpus", processors),
            ("pids.max", Some(self.processes.map_or_else(|| "max".into(), |n| n.to_string()))),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }

    /// What the configuration amounts to here.
    pub fn of(l: &Loaded) -> Result<Limits> {
        let set = |key: &str| l.config.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let info = rustix::system::sysinfo();
        let total = info.totalram * u64::from(info.mem_unit.max(1));
        let memory = set("limits.memory").map(|v| limits::memory(v, total)).transpose();
        let spread = usize::try_from(l.row.id).unwrap_or(0);
        Ok(Limits {
            memory: memory.map_err(|why| Error::bad_request(format!("limits.memory: {why}")))?,
            cpus: set("limits.cpu").map(|v| limits::cpus(v, &online()?, spread)).transpose()?,
            processes: set("limits.processes").and_then(|v| v.parse().ok()),
        })
    }
}

/// The processors that are there.
fn online() -> Result<Vec<usize>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    limits::list(&text).map_err(Error::internal)
}

/// How cgroups write that there is no limit of memory.
const fn unlimited(v1: bool) -> &'static str {
    if v1 { "-1" } else { "max" }
}
