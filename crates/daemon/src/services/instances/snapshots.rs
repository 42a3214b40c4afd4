//! Snapshots of instances: the files first, then the row, so that every snapshot that is listed is whole.

use std::sync::Arc;

use api::event::Requestor;
use api::expiry::Expiry;
use api::instance::{InstancePut, InstanceSnapshot, InstanceSnapshotPost, InstanceSnapshotPut, InstanceSnapshotsPost};
use api::key::Read as _;
use api::keys::instance::{
    SNAPSHOTS_EXPIRY, SNAPSHOTS_EXPIRY_MANUAL, SNAPSHOTS_PATTERN, SNAPSHOTS_SCHEDULE, SNAPSHOTS_SCHEDULE_STOPPED,
};
use api::schedule::Schedule;
use api::{Error, Result};
use db::Tx;
use db::snapshots::{NewSnapshot, Snapshot};
use incus_core::snapshot_name;
use jiff::{Timestamp, ZonedDateTime};

use super::super::never;
use super::{change, find, find_here};
use crate::blocking;
use crate::edge::{Cx, Router};
use crate::events;
use crate::instances::{self, Expander, Loaded, expanded, start, stop};
use crate::operations::{New, Operation};
use crate::services::schedule::Begun;
use crate::services::{Change, project_rules};
use crate::state::Daemon;

pub fn routes(r: &mut Router) {
    r.list(&api::instance::SNAPSHOTS, list);
    r.operation(&api::instance::SNAPSHOT_CREATE, create);
    r.sync(&api::instance::SNAPSHOT, get);
    r.operation(&api::instance::SNAPSHOT_PUT, put);
    r.operation(&api::instance::SNAPSHOT_PATCH, put);
    r.operation(&api::instance::SNAPSHOT_POST, rename);
    r.operation(&api::instance::SNAPSHOT_DELETE, delete);
}

/// A snapshot as clients see it. What profiles add is that of today.
pub fn shown(l: &Loaded, s: Snapshot) -> InstanceSnapshot {
    let mut expanded = (l.config.clone(), l.devices.clone());
    // What the instance itself has is that of then.
    expanded.0.retain(|key, _| !l.row.config.contains_key(key));
    expanded.1.retain(|name, _| !l.row.devices.contains_key(name));
    expanded.0.extend(s.config.clone());
    expanded.1.extend(s.devices.clone());
    InstanceSnapshot {
        expires_at: s.expires.unwrap_or_else(never),
        architecture: l.row.architecture.as_str().into(),
        config: s.config,
        created_at: s.created,
        description: s.description,
        devices: s.devices,
        ephemeral: l.row.ephemeral,
        expanded_config: expanded.0,
        expanded_devices: expanded.1,
        last_used_at: never(),
        name: s.name,
        profiles: l.row.profiles.clone(),
        stateful: s.stateful,
        size: -1,
        of: (l.row.project.clone(), l.row.name.clone()),
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<InstanceSnapshot>> {
    let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
    cx.daemon
        .view(move |tx| {
            let l = expanded(tx, db::instances::get(tx, &project, &name)?)?;
            Ok(db::snapshots::list(tx, l.row.id)?.into_iter().map(|s| shown(&l, s)).collect())
        })
        .await
}

async fn one(cx: &Cx, l: &Loaded) -> Result<Snapshot> {
    let (id, name) = (l.row.id, cx.arg(1).to_owned());
    cx.daemon.view(move |tx| db::snapshots::get(tx, id, &name)).await
}

fn changeable(s: &Snapshot) -> InstanceSnapshotPut {
    InstanceSnapshotPut { expires_at: Some(s.expires.unwrap_or_else(never)) }
}

async fn get(cx: Cx, (): ()) -> Result<InstanceSnapshot> {
    let l = find(&cx).await?;
    let snapshot = one(&cx, &l).await?;
    cx.show_etag(&changeable(&snapshot));
    Ok(shown(&l, snapshot))
}

fn operation(daemon: &Daemon, description: &'static str, l: &Loaded, snapshot: &str) -> New {
    let mut new = super::operation(daemon, description, l);
    let url =
        format!("/1.0/instances/{}/snapshots/{}", api::endpoint::encode(&l.row.name), api::endpoint::encode(snapshot));
    new.resources.insert("instances_snapshots".into(), Some(vec![api::endpoint::in_project(url, &l.row.project)]));
    new
}

/// Tells what was done with a snapshot, and by whom.
fn tell(daemon: &Daemon, by: Option<Requestor>, l: &Loaded, action: &str, snapshot: &str) {
    let url =
        format!("/1.0/instances/{}/snapshots/{}", api::endpoint::encode(&l.row.name), api::endpoint::encode(snapshot));
    let url = api::endpoint::in_project(url, &l.row.project);
    daemon.tell_in(&events::lifecycle(action, url, by), &l.row.project);
}

/// The name of a snapshot that may be taken: the one that is asked for, or if that is empty one by the instance's pattern.
async fn new_name(daemon: &Daemon, l: &Loaded, asked: &str) -> Result<String> {
    let (id, project) = (l.row.id, l.row.project.clone());
    let looked = daemon.view(move |tx| {
        project_rules::check_snapshots(tx, &project)?;
        db::snapshots::list(tx, id)
    });
    let taken: Vec<String> = looked.await?.into_iter().map(|s| s.name).collect();
    let name = match asked {
        "" => snapshot_name::next(&l.config.read(&SNAPSHOTS_PATTERN), &taken, Timestamp::now())?,
        asked => asked.to_owned(),
    };
    check_name(&name)?;
    if taken.contains(&name) {
        return Err(Error::conflict(format!("Snapshot \"{name}\" already exists")));
    }
    Ok(name)
}

fn check_name(name: &str) -> Result<()> {
    if name.contains('/') || name.chars().any(char::is_whitespace) || matches!(name, "." | "..") || name.len() > 63 {
        return Err(Error::bad_request(format!("Invalid snapshot name \"{name}\"")));
    }
    Ok(())
}

async fn create(cx: Cx, new: InstanceSnapshotsPost) -> Result<Arc<Operation>> {
    let l = find_here(&cx).await?;
    if new.stateful {
        return Err(Error::bad_request("Containers can't be snapshotted with their memory: leave out --stateful"));
    }
    let id = l.row.id;
    let name = new_name(&cx.daemon, &l, &new.name).await?;
    let expires = match new.expires_at {
        Some(at) if at == never() => None,
        Some(at) => Some(at),
        None => expiry(&l, l.config.read_set(&SNAPSHOTS_EXPIRY_MANUAL))?,
    };
    let daemon = cx.daemon.clone();
    let begun = operation(&daemon, "Snapshotting instance", &l, &name);
    Ok(daemon.clone().run(begun, move |_| async move {
        let _busy = instances::lock(&daemon, id).await;
        let l = instances::here(&daemon, id).await?;
        take(&daemon, &l, &name, expires).await?;
        tell(&daemon, Some(cx.caller.requestor()), &l, "instance-snapshot-created", &name);
        Ok(())
    }))
}

/// When a snapshot that is taken now expires: as `rule` says, or if it does not, as for all of the instance.
fn expiry(l: &Loaded, rule: Option<String>) -> Result<Option<Timestamp>> {
    let rule = rule.or_else(|| l.config.read_set(&SNAPSHOTS_EXPIRY));
    rule.map(|rule| Expiry::parse(&rule)?.after(Timestamp::now())).transpose()
}

/// Takes a snapshot. The caller holds the lock of the instance.
async fn take(daemon: &Arc<Daemon>, l: &Loaded, name: &str, expires: Option<Timestamp>) -> Result<()> {
    let (_, driver) = instances::pool(daemon, l).await?;
    let (volume, snapshot, removed) = (l.volume(), name.to_owned(), driver.clone());
    blocking::run(move || {
        // One that has no row was never finished.
        driver.delete_snapshot(&volume, &snapshot)?;
        driver.snapshot(&volume, &snapshot)
    })
    .await?;
    let new = NewSnapshot {
        instance_id: l.row.id,
        name: name.to_owned(),
        created: Timestamp::now(),
        expires,
        stateful: false,
        description: String::new(),
        config: l.row.config.clone(),
        devices: l.row.devices.clone(),
    };
    let recorded = daemon.db().write(move |tx| db::snapshots::create(tx, &new)).await;
    if recorded.is_err() {
        let (volume, snapshot) = (l.volume(), name.to_owned());
        let _ = blocking::run(move || removed.delete_snapshot(&volume, &snapshot)).await;
    }
    recorded.map(drop)
}

async fn put(cx: Cx, new: InstanceSnapshotPut) -> Result<Arc<Operation>> {
    let l = find_here(&cx).await?;
    let snapshot = one(&cx, &l).await?;
    cx.check_etag(&changeable(&snapshot))?;
    let daemon = cx.daemon.clone();
    let begun = operation(&daemon, "Updating snapshot", &l, &snapshot.name);
    Ok(daemon.clone().run(begun, move |_| async move {
        let (request, of, name, change) = (cx.clone(), l.row.id, snapshot.name.clone(), Change::Put(new));
        let written = daemon.write(move |tx| {
            let old = db::snapshots::get(tx, of, &name)?;
            let new = change.of(&request, &changeable(&old))?;
            let expires = new.expires_at.filter(|at| *at != never());
            db::snapshots::update(tx, old.id, &old.description, expires)
        });
        written.await?;
        tell(&daemon, Some(cx.caller.requestor()), &l, "instance-snapshot-updated", &snapshot.name);
        Ok(())
    }))
}

async fn rename(cx: Cx, new: InstanceSnapshotPost) -> Result<Arc<Operation>> {
    let l = find_here(&cx).await?;
    let snapshot = one(&cx, &l).await?;
    if new.migration {
        return Err(Error::new(api::Kind::NotImplemented, "Snapshots can't be sent to other servers by this version"));
    }
    check_name(&new.name)?;
    if new.name.is_empty() {
        return Err(Error::bad_request("The new name of the snapshot is missing"));
    }
    let daemon = cx.daemon.clone();
    let begun = operation(&daemon, "Renaming snapshot", &l, &snapshot.name);
    Ok(daemon.clone().run(begun, move |_| async move {
        let _busy = instances::lock(&daemon, l.row.id).await;
        let l = instances::here(&daemon, l.row.id).await?;
        let (_, driver) = instances::pool(&daemon, &l).await?;
        let back = driver.clone();
        let (volume, old, name) = (l.volume(), snapshot.name.clone(), new.name.clone());
        blocking::run(move || driver.rename_snapshot(&volume, &old, &name)).await?;
        let (id, name) = (snapshot.id, new.name.clone());
        let renamed = daemon.db().write(move |tx| db::snapshots::rename(tx, id, &name)).await;
        if renamed.is_err() {
            let (volume, old, name) = (l.volume(), snapshot.name.clone(), new.name.clone());
            blocking::run(move || back.rename_snapshot(&volume, &name, &old)).await?;
        }
        renamed?;
        tell(&daemon, Some(cx.caller.requestor()), &l, "instance-snapshot-renamed", &new.name);
        Ok(())
    }))
}

async fn delete(cx: Cx, (): ()) -> Result<Arc<Operation>> {
    let l = find_here(&cx).await?;
    let snapshot = one(&cx, &l).await?;
    let daemon = cx.daemon.clone();
    let begun = operation(&daemon, "Deleting snapshot", &l, &snapshot.name);
    Ok(daemon.clone().run(begun, move |_| async move {
        let _busy = instances::lock(&daemon, l.row.id).await;
        let l = instances::here(&daemon, l.row.id).await?;
        let id = snapshot.id;
        daemon.db().write(move |tx| db::snapshots::delete(tx, id)).await?;
        let (_, driver) = instances::pool(&daemon, &l).await?;
        let (volume, name) = (l.volume(), snapshot.name.clone());
        blocking::run(move || driver.delete_snapshot(&volume, &name)).await?;
        tell(&daemon, Some(cx.caller.requestor()), &l, "instance-snapshot-deleted", &snapshot.name);
        Ok(())
    }))
}

/// Puts an instance back to a snapshot: its files, its configuration and its devices. One that runs is stopped for
/// it and started again.
pub async fn restore(cx: &Cx, l: &Loaded, new: &InstancePut) -> Result<Arc<Operation>> {
    let name = new.restore.rsplit('/').next().unwrap_or_default().to_owned();
    let (id, wanted) = (l.row.id, name.clone());
    let snapshot = cx.daemon.view(move |tx| db::snapshots::get(tx, id, &wanted)).await?;
    let (cx, daemon) = (cx.clone(), cx.daemon.clone());
    let begun = operation(&daemon, "Restoring snapshot", l, &name);
    Ok(daemon.clone().run(begun, move |_| async move {
        let _busy = instances::lock(&daemon, id).await;
        let l = instances::here(&daemon, id).await?;
        cx.check_etag(&super::changeable(&l))?;
        let ran = daemon.instances.runs(id);
        if ran {
            let ending = stop::Ending { keep_power: false, restart: true, clean: false };
            stop::stop(&daemon, &l, stop::How::Force, ending).await?;
        }
        let restored = put_back(&daemon, id, &snapshot).await;
        if ran {
            let l = instances::by_id(&daemon, id).await?;
            start::start(&daemon, &l).await?;
        }
        restored?;
        l.lifecycle(&daemon, "instance-restored", Some(cx.caller.requestor()));
        Ok(())
    }))
}

async fn put_back(daemon: &Arc<Daemon>, id: i64, snapshot: &Snapshot) -> Result<()> {
    let l = instances::by_id(daemon, id).await?;
    let mut wanted = super::changeable(&l);
    // What the server notes about the instance is that of today.
    wanted.config.retain(|key, _| incus_core::expand::is_volatile(key));
    let then = snapshot.config.iter().filter(|(key, _)| !incus_core::expand::is_volatile(key));
    wanted.config.extend(then.map(|(k, v)| (k.clone(), v.clone())));
    wanted.devices = snapshot.devices.clone();
    change::apply(daemon, &l, wanted).await?;
    let (_, driver) = instances::pool(daemon, &l).await?;
    let (volume, name) = (l.volume(), snapshot.name.clone());
    blocking::run(move || driver.restore(&volume, &name)).await
}

/// Takes the snapshots of this member's instances whose time came after `from`, and not after `to`.
pub async fn on_schedule(
    daemon: &Arc<Daemon>,
    begun: &mut Begun,
    from: &ZonedDateTime,
    to: &ZonedDateTime,
) -> Result<()> {
    let here = db::instances::Filter { member: Some(daemon.member_id()), ..db::instances::Filter::default() };
    let load = move |tx: &Tx<'_>| {
        let expander = Expander::new(tx)?;
        Ok(db::instances::list(tx, here)?.into_iter().map(|row| expander.load(row)).collect::<Vec<_>>())
    };
    let mut all = daemon.db().peek(load).await?;
    all.retain(|l| schedule(l).is_due(from, to) && begun.is_free(l.row.id));
    for l in all {
        let stopped = l.config.read(&SNAPSHOTS_SCHEDULE_STOPPED);
        if !stopped && !daemon.instances.runs(l.row.id) {
            continue;
        }
        let (work, id) = (daemon.clone(), l.row.id);
        let taken = async move {
            let _busy = instances::lock(&work, id).await;
            by_itself(&work, &instances::here(&work, id).await?).await
        };
        begun.run(daemon, (id, l.id()), super::operation(daemon, "Snapshotting instance", &l), taken).await;
    }
    Ok(())
}

/// Takes the snapshot that the instance wants before it starts. Whether it can be taken or not, it starts. The caller holds the
/// lock of the instance.
pub async fn at_startup(daemon: &Arc<Daemon>, l: &Loaded) {
    if schedule(l).at_startup()
        && let Err(e) = by_itself(daemon, l).await
    {
        tracing::warn!("taking a snapshot of {} before it starts: {e}", l.id());
    }
}

/// Without a schedule that can be read there is none.
fn schedule(l: &Loaded) -> Schedule {
    Schedule::parse(&l.config.read(&SNAPSHOTS_SCHEDULE)).unwrap_or_default()
}

/// Takes a snapshot that no person has asked for. The caller holds the lock of the instance.
async fn by_itself(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    let name = new_name(daemon, l, "").await?;
    take(daemon, l, &name, expiry(l, None)?).await?;
    tell(daemon, None, l, "instance-snapshot-created", &name);
    Ok(())
}

/// Removes the snapshots of this member's instances whose time has come.
pub async fn expire(daemon: &Arc<Daemon>) -> Result<()> {
    let (own, now) = (daemon.member_id(), Timestamp::now());
    let here = db::instances::Filter { member: Some(own), ..db::instances::Filter::default() };
    let all = daemon.db().peek(move |tx| db::snapshots::list_all(tx, here)).await?;
    let expired = all.into_values().flatten().filter(|s| s.expires.is_some_and(|at| at <= now));
    for snapshot in expired {
        let _busy = instances::lock(daemon, snapshot.instance_id).await;
        // Those of an instance that moves have their turn when it has arrived.
        let Ok(l) = instances::here(daemon, snapshot.instance_id).await else { continue };
        daemon.db().write(move |tx| db::snapshots::delete(tx, snapshot.id)).await?;
        let (_, driver) = instances::pool(daemon, &l).await?;
        let volume = l.volume();
        blocking::run(move || driver.delete_snapshot(&volume, &snapshot.name)).await?;
    }
    Ok(())
}
