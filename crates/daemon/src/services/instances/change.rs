//! Changing the configuration and the devices of an instance, also while it runs.

use std::sync::Arc;

use api::instance::InstancePut;
use api::key::Config;
use api::{Error, Result};
use db::instances::Changes;
use db::value::Architecture;
use incus_core::disk;
use serde_json::Value;

use super::{changeable, check, find_here, snapshots};
use crate::blocking;
use crate::edge::Cx;
use crate::instances::start::Limits;
use crate::instances::{self, Loaded, devices, expanded};
use crate::operations::Operation;
use crate::services::{Change, project_rules};
use crate::state::Daemon;

/// `PUT /1.0/instances/{name}`.
pub async fn put(cx: Cx, new: InstancePut) -> Result<Arc<Operation>> {
    let l = find_here(&cx).await?;
    cx.check_etag(&changeable(&l))?;
    if !new.restore.is_empty() {
        return snapshots::restore(&cx, &l, &new).await;
    }
    let daemon = cx.daemon.clone();
    let operation = super::operation(&daemon, "Updating instance", &l);
    Ok(daemon.clone().run(operation, move |_| async move { update(&cx, l.row.id, Change::Put(new)).await }))
}

/// `PATCH /1.0/instances/{name}`.
pub async fn patch(cx: Cx, new: Value) -> Result<()> {
    let l = find_here(&cx).await?;
    update(&cx, l.row.id, Change::Patch(new)).await
}

async fn update(cx: &Cx, id: i64, change: Change<InstancePut>) -> Result<()> {
    let daemon = &cx.daemon;
    let _busy = instances::lock(daemon, id).await;
    let old = instances::here(daemon, id).await?;
    let mut new = change.of(cx, &changeable(&old))?;
    if matches!(change, Change::Patch(_)) {
        // Whole devices are replaced, and an empty one is removed.
        new.devices.retain(|_, config| !config.is_empty());
    }
    project_rules::check_notes(cx, &old.row.config, &new.config).await?;
    apply(daemon, &old, new).await?;
    old.lifecycle(daemon, "instance-updated", Some(cx.caller.requestor()));
    Ok(())
}

/// Makes an instance what `new` says. The caller holds its lock.
pub async fn apply(daemon: &Arc<Daemon>, old: &Loaded, new: InstancePut) -> Result<()> {
    let mut row = old.row.clone();
    if !new.architecture.is_empty() {
        row.architecture = Architecture::parse_any(&new.architecture)?;
    }
    (row.config, row.devices) = (new.config, new.devices);
    (row.ephemeral, row.description) = (new.ephemeral, new.description);
    row.profiles = new.profiles.unwrap_or(row.profiles);
    row.config.retain(|_, value| !value.is_empty());
    let wanted = row.clone();
    let mut l = daemon
        .view(move |tx| {
            db::profiles::named(tx, &wanted.project, &wanted.profiles)?;
            let l = expanded(tx, wanted.clone())?;
            project_rules::check_with(tx, &wanted.project, Some(&l))?;
            Ok(l)
        })
        .await?;
    check(daemon, &l).await?;
    let pool = |l: &Loaded| disk::root(&l.devices).map(|(_, pool)| pool.to_owned());
    if pool(old)? != pool(&l)? {
        return Err(Error::bad_request("Cannot update root disk device pool name: move the instance to another pool"));
    }
    if daemon.instances.runs(row.id) {
        let notes = while_it_runs(daemon, old, &l).await?;
        l.row.config.extend(notes);
        l.row.config.retain(|_, value| !value.is_empty());
    }
    let row = l.row;
    let changes = Changes {
        architecture: row.architecture,
        ephemeral: row.ephemeral,
        expires: row.expires,
        description: row.description,
        config: row.config,
        devices: row.devices,
        profiles: row.profiles,
    };
    let project = row.project;
    let db = daemon.db();
    let written = db.write(move |tx| {
        db::instances::update(tx, row.id, &changes)?;
        project_rules::check(tx, &project)
    });
    written.await
}

/// Carries over to a running instance what can be; what is to be noted about its devices.
pub async fn while_it_runs(daemon: &Arc<Daemon>, old: &Loaded, new: &Loaded) -> Result<Config> {
    let mut notes = Config::new();
    let mut done = Vec::new();
    for name in old.devices.keys().chain(new.devices.keys().filter(|n| !old.devices.contains_key(*n))) {
        let (before, after) = (old.devices.get(name), new.devices.get(name));
        if before == after {
            continue;
        }
        match exchange(daemon, old, new, name).await {
            Ok(noted) => {
                notes.extend(noted);
                done.push(name);
            }
            Err(e) => {
                for name in done.into_iter().rev() {
                    if let Err(e) = exchange(daemon, new, old, name).await {
                        tracing::warn!("{}: putting back the device \"{name}\": {e}", old.id());
                    }
                }
                return Err(e.context(format!("Failed to change device \"{name}\"")));
            }
        }
    }
    set_limits(daemon, old, new).await?;
    Ok(notes)
}

/// Takes a device out of a running instance as it was, and puts it in as it is to be.
async fn exchange(daemon: &Arc<Daemon>, old: &Loaded, new: &Loaded, name: &str) -> Result<Config> {
    let of = |l: &Loaded| l.devices.get(name).cloned();
    let kind = |config: &Option<Config>| config.as_ref().and_then(|c| c.get("type").cloned()).unwrap_or_default();
    let (before, after) = (of(old), of(new));
    if let ("nic", "nic", Some(b), Some(a)) = (kind(&before).as_str(), kind(&after).as_str(), &before, &after)
        && same_link(b, a)
    {
        devices::update_nic(daemon, old, new, name).await?;
        return Ok(Config::new());
    }
    match (kind(&before).as_str(), &before) {
        ("nic", _) => devices::remove_nic(daemon, old, name).await?,
        ("disk", Some(config)) if config.get("path").is_some_and(|p| p != "/") => {
            devices::remove_disk(daemon, old, &disk::one(name, config)?).await?;
        }
        _ => {}
    }
    match (kind(&after).as_str(), &after) {
        ("nic", _) => devices::add_nic(daemon, new, name).await,
        ("disk", Some(config)) if config.get("path").is_some_and(|p| p != "/") => {
            devices::add_disk(daemon, new, &disk::one(name, config)?).await?;
            Ok(Config::new())
        }
        _ => Ok(Config::new()),
    }
}

/// True if a network device can be changed without taking it out.
fn same_link(a: &Config, b: &Config) -> bool {
    const OTHER_LINK: &[&str] =
        &["nictype", "network", "parent", "name", "hwaddr", "host_name", "mtu", "vlan", "mode", "attached"];
    OTHER_LINK.iter().all(|key| a.get(*key) == b.get(*key))
}

async fn set_limits(daemon: &Arc<Daemon>, old: &Loaded, new: &Loaded) -> Result<()> {
    let differs = |key: &str| old.config.get(key) != new.config.get(key);
    if !["limits.memory", "limits.cpu", "limits.processes"].iter().any(|key| differs(key)) {
        return Ok(());
    }
    let limits = Limits::of(new)?.values(daemon.containers.cgroups());
    let (containers, id) = (daemon.containers.clone(), new.id());
    blocking::run(move || {
        let limits: Vec<(&str, String)> = limits.iter().map(|(k, v)| (*k, v.clone())).collect();
        containers.set_limits(&id, &limits)
    })
    .await
}
