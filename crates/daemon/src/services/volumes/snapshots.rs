//! Snapshots of volumes.

use std::sync::Arc;
use std::time::Duration;

use api::expiry::Expiry;
use api::key::Read as _;
use api::keys::volume::{SNAPSHOTS_EXPIRY, SNAPSHOTS_EXPIRY_MANUAL, SNAPSHOTS_PATTERN, SNAPSHOTS_SCHEDULE};
use api::schedule::Schedule;
use api::volume::{
    StorageVolumeSnapshot, StorageVolumeSnapshotPost, StorageVolumeSnapshotPut, StorageVolumeSnapshotsPost,
};
use api::{Error, Kind, Result};
use db::Tx;
use db::volume_snapshots::{self, VolumeSnapshot};
use db::volumes::{Filter, Volume as Row, VolumeType};
use jiff::{Timestamp, ZonedDateTime};
use serde_json::{Value, json};

use super::files::{self, Unfinished};
use super::{asked, custom_here, moment, path, resources, tell, tell_by, visible};
use crate::edge::{Cx, Router};
use crate::operations::Operation;
use crate::services::schedule::Begun;
use crate::services::{Change, never, pools, project_rules};
use crate::state::Daemon;
use crate::{blocking, volumes};

/// How often expired snapshots are looked for.
const PRUNE: Duration = Duration::from_secs(60);

pub fn routes(r: &mut Router) {
    r.list(&api::volume::SNAPSHOTS, list);
    r.operation(&api::volume::SNAPSHOT_CREATE, create);
    r.sync(&api::volume::SNAPSHOT_GET, get);
    r.sync(&api::volume::SNAPSHOT_PUT, put);
    r.sync(&api::volume::SNAPSHOT_PATCH, patch);
    r.operation(&api::volume::SNAPSHOT_RENAME, rename);
    r.operation(&api::volume::SNAPSHOT_DELETE, delete);
}

fn shown(row: &Row, snapshot: &VolumeSnapshot, name: String) -> StorageVolumeSnapshot {
    StorageVolumeSnapshot {
        description: snapshot.description.clone(),
        expires_at: snapshot.expires.unwrap_or_else(never),
        name,
        config: visible(&snapshot.config),
        content_type: row.content.as_str().into(),
        created_at: snapshot.created.unwrap_or_else(never),
        volume: path(row),
        project: row.project.clone(),
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<StorageVolumeSnapshot>> {
    let find = asked(&cx);
    cx.daemon
        .view(move |tx| {
            let row = find(tx)?;
            let all = volume_snapshots::list(tx, row.id)?;
            // Clients find out by the slash that this is a snapshot.
            Ok(all.iter().map(|s| shown(&row, s, format!("{}/{}", row.name, s.name))).collect())
        })
        .await
}

/// The snapshot of the request, and its volume.
async fn find(cx: &Cx) -> Result<(Row, VolumeSnapshot)> {
    let (find, name) = (asked(cx), cx.arg(3).to_owned());
    cx.daemon
        .view(move |tx| {
            let row = find(tx)?;
            let snapshot = volume_snapshots::get(tx, row.id, &name)?;
            Ok((row, snapshot))
        })
        .await
}

fn changeable(snapshot: &VolumeSnapshot) -> StorageVolumeSnapshotPut {
    StorageVolumeSnapshotPut {
        description: snapshot.description.clone(),
        expires_at: Some(snapshot.expires.unwrap_or_else(never)),
    }
}

async fn get(cx: Cx, (): ()) -> Result<StorageVolumeSnapshot> {
    let (row, snapshot) = find(&cx).await?;
    cx.show_etag(&changeable(&snapshot));
    Ok(shown(&row, &snapshot, snapshot.name.clone()))
}

async fn put(cx: Cx, new: StorageVolumeSnapshotPut) -> Result<()> {
    custom_here(&cx).await?;
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    custom_here(&cx).await?;
    change(&cx, Change::Patch(new)).await
}

async fn change(cx: &Cx, change: Change<StorageVolumeSnapshotPut>) -> Result<()> {
    let ((row, snapshot), request) = (find(cx).await?, cx.clone());
    let (volume, name) = (row.id, snapshot.name.clone());
    let written = cx.daemon.write(move |tx| {
        let old = volume_snapshots::get(tx, volume, &name)?;
        let new = change.of(&request, &changeable(&old))?;
        volume_snapshots::update(tx, old.id, &new.description, new.expires_at.and_then(moment))
    });
    written.await?;
    tell(cx, "storage-volume-snapshot-updated", &row, Some(&snapshot.name), []);
    Ok(())
}

/// When a snapshot that somebody takes now expires.
fn expiry(row: &Row, asked: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>> {
    if let Some(asked) = asked {
        return Ok(moment(asked));
    }
    after(row.config.read_set(&SNAPSHOTS_EXPIRY_MANUAL).or_else(|| row.config.read_set(&SNAPSHOTS_EXPIRY)), now)
}

fn after(rule: Option<String>, now: Timestamp) -> Result<Option<Timestamp>> {
    rule.map(|rule| Expiry::parse(&rule)?.after(now)).transpose()
}

/// The name of a snapshot that may be taken: the one that is asked for, or if that is empty one by the volume's pattern.
async fn new_name(daemon: &Daemon, row: &Row, asked: &str) -> Result<String> {
    let (id, project) = (row.id, row.project.clone());
    let looked = daemon.view(move |tx| {
        project_rules::check_snapshots(tx, &project)?;
        volume_snapshots::list(tx, id)
    });
    let taken: Vec<String> = looked.await?.into_iter().map(|s| s.name).collect();
    let name = match asked {
        "" => incus_core::snapshot_name::next(&row.config.read(&SNAPSHOTS_PATTERN), &taken, Timestamp::now())?,
        asked => asked.to_owned(),
    };
    api::name::plain("snapshot", &name)?;
    if taken.contains(&name) {
        return Err(Error::conflict(format!("Snapshot \"{name}\" already exists")));
    }
    Ok(name)
}

async fn create(cx: Cx, new: StorageVolumeSnapshotsPost) -> Result<Arc<Operation>> {
    let row = custom_here(&cx).await?;
    let (name, now) = (new_name(&cx.daemon, &row, &new.name).await?, Timestamp::now());
    let expires = expiry(&row, new.expires_at, now)?;
    let about = resources(&row, Some(&name));
    let operation = cx.daemon.operation("Creating storage volume snapshot", cx.project(), about);
    let daemon = cx.daemon.clone();
    Ok(daemon.run(operation, |_| async move {
        take(&cx.daemon, &row, &name, &new.description, expires).await?;
        tell(&cx, "storage-volume-snapshot-created", &row, Some(&name), [("type", json!("custom"))]);
        Ok(())
    }))
}

/// Takes a snapshot: its files first, then its row.
async fn take(
    daemon: &Arc<Daemon>,
    row: &Row,
    name: &str,
    description: &str,
    expires: Option<Timestamp>,
) -> Result<()> {
    let (_lock, row) = files::hold(daemon, row).await?;
    let (driver, volume) = (pools::open(daemon, &row.pool).await?, files::of(&row)?);
    if recorded(daemon, row.id, name).await? {
        return Err(Error::conflict(format!("Snapshot \"{name}\" already exists")));
    }
    let (making, of, called) = (driver.clone(), volume.clone(), name.to_owned());
    blocking::run(move || {
        // What lies there without a row was left by somebody who was interrupted.
        making.delete_snapshot(&of, &called)?;
        making.snapshot(&of, &called)
    })
    .await?;
    let (id, called, description, now) = (row.id, name.to_owned(), description.to_owned(), Timestamp::now());
    let written =
        daemon.write(move |tx| volume_snapshots::create(tx, id, &called, &description, now, expires).map(drop)).await;
    if written.is_err() && matches!(recorded(daemon, row.id, name).await, Ok(false)) {
        let name = name.to_owned();
        blocking::run(move || driver.delete_snapshot(&volume, &name)).await?;
    }
    written
}

/// True if a row says that there is a snapshot of that name.
async fn recorded(daemon: &Arc<Daemon>, volume: i64, name: &str) -> Result<bool> {
    let name = name.to_owned();
    match daemon.db().read(move |tx| volume_snapshots::get(tx, volume, &name)).await {
        Err(e) if files::missing(&e) => Ok(false),
        other => other.map(|_| true),
    }
}

async fn rename(cx: Cx, new: StorageVolumeSnapshotPost) -> Result<Arc<Operation>> {
    if new.migration {
        return Err(Error::new(Kind::NotImplemented, "Snapshots can't be sent to other servers yet"));
    }
    api::name::plain("snapshot", &new.name)?;
    let row = custom_here(&cx).await?;
    let (_, snapshot) = find(&cx).await?;
    if recorded(&cx.daemon, row.id, &new.name).await? {
        return Err(Error::conflict(format!("Snapshot \"{}\" already exists", new.name)));
    }
    let about = resources(&row, Some(&snapshot.name));
    let operation = cx.daemon.operation("Renaming storage volume snapshot", cx.project(), about);
    let daemon = cx.daemon.clone();
    Ok(daemon.run(operation, |_| async move {
        let (_lock, row) = files::hold(&cx.daemon, &row).await?;
        if recorded(&cx.daemon, row.id, &new.name).await? {
            return Err(Error::conflict(format!("Snapshot \"{}\" already exists", new.name)));
        }
        let (driver, volume, to) = (pools::open(&cx.daemon, &row.pool).await?, files::of(&row)?, new.name.clone());
        blocking::run(move || driver.delete_snapshot(&volume, &to)).await?;
        let what = Unfinished::RenameSnapshot { from: snapshot.name.clone(), to: new.name.clone() };
        files::carry_out(&cx.daemon, &row, &what).await?;
        let context = [("old_name", json!(snapshot.name))];
        tell(&cx, "storage-volume-snapshot-renamed", &row, Some(&new.name), context);
        Ok(())
    }))
}

async fn delete(cx: Cx, (): ()) -> Result<Arc<Operation>> {
    let row = custom_here(&cx).await?;
    let (_, snapshot) = find(&cx).await?;
    let about = resources(&row, Some(&snapshot.name));
    let operation = cx.daemon.operation("Deleting storage volume snapshot", cx.project(), about);
    let daemon = cx.daemon.clone();
    Ok(daemon.run(operation, |_| async move {
        remove(&cx.daemon, &row, &snapshot).await?;
        tell(&cx, "storage-volume-snapshot-deleted", &row, Some(&snapshot.name), []);
        Ok(())
    }))
}

/// Removes a snapshot: its row first, then its files.
async fn remove(daemon: &Arc<Daemon>, row: &Row, snapshot: &VolumeSnapshot) -> Result<()> {
    let (_lock, row) = files::hold(daemon, row).await?;
    let (driver, volume) = (pools::open(daemon, &row.pool).await?, files::of(&row)?);
    let (id, name) = (snapshot.id, snapshot.name.clone());
    daemon.write(move |tx| volume_snapshots::delete(tx, id)).await?;
    blocking::run(move || driver.delete_snapshot(&volume, &name)).await
}

/// Holds the files of a volume that can be put back to that snapshot.
pub async fn restorable(cx: &Cx, row: &Row, snapshot: &str) -> Result<(volumes::Lock, Row)> {
    let (lock, row) = files::hold(&cx.daemon, row).await?;
    let (asked, name, own) = (row.clone(), snapshot.to_owned(), cx.daemon.member_id());
    cx.daemon
        .view(move |tx| {
            volume_snapshots::get(tx, asked.id, &name)?;
            // What all members reach may be used on any of them.
            must_not_run(tx, &asked, asked.member_id.map(|_| own))
        })
        .await?;
    Ok((lock, row))
}

/// Puts a volume back to a snapshot. The caller holds its files.
pub async fn restore(cx: &Cx, row: &Row, snapshot: &str) -> Result<()> {
    let (driver, volume, name) = (pools::open(&cx.daemon, &row.pool).await?, files::of(row)?, snapshot.to_owned());
    blocking::run(move || driver.restore(&volume, &name)).await?;
    tell(cx, "storage-volume-restored", row, None, [("snapshot", json!(snapshot))]);
    Ok(())
}

/// Refuses if an instance that runs uses the volume: it would keep the files as they were.
fn must_not_run(tx: &Tx<'_>, row: &Row, on: Option<i64>) -> Result<()> {
    let users = super::used_by(tx, row)?;
    let here = db::instances::Filter { member: on, ..db::instances::Filter::default() };
    let running = db::instances::list(tx, here)?.into_iter().find(|i| {
        let url = api::endpoint::in_project(format!("/1.0/instances/{}", i.name), &i.project);
        i.config.get("volatile.last_state.power").is_some_and(|p| p == "RUNNING") && users.contains(&url)
    });
    match running {
        None => Ok(()),
        Some(i) => Err(Error::bad_request(format!(
            "Cannot restore custom volume used by running instances: \"{}\" uses it",
            i.name
        ))),
    }
}

/// The custom volumes that this member looks after.
async fn looked_after<T: Send + 'static>(
    daemon: &Daemon,
    each: impl Fn(&Tx<'_>, Row) -> Result<T> + Send + 'static,
) -> Result<Vec<T>> {
    let own = daemon.member_id();
    // One member looks after those that all reach.
    let all = !daemon.clustered() || daemon.db().status().leads();
    let find = move |tx: &Tx<'_>| {
        let which = Filter { member: Some(own), kind: Some(VolumeType::Custom), ..Filter::default() };
        let rows = db::volumes::list(tx, which)?.into_iter().filter(|r| all || r.member_id.is_some());
        rows.map(|row| each(tx, row)).collect()
    };
    daemon.db().peek(find).await
}

/// Takes the snapshots that this member looks after whose time came after `from`, and not after `to`.
pub async fn on_schedule(
    daemon: &Arc<Daemon>,
    begun: &mut Begun,
    from: &ZonedDateTime,
    to: &ZonedDateTime,
) -> Result<()> {
    for row in looked_after(daemon, |_, row| Ok(row)).await? {
        // Without a schedule that can be read there is none.
        let schedule = Schedule::parse(&row.config.read(&SNAPSHOTS_SCHEDULE)).unwrap_or_default();
        if !schedule.is_due(from, to) || !begun.is_free(row.id) {
            continue;
        }
        let new = daemon.operation("Creating storage volume snapshot", &row.project, resources(&row, None));
        let (work, about) = (daemon.clone(), (row.id, row.name.clone()));
        begun.run(daemon, about, new, async move { by_itself(&work, &row).await }).await;
    }
    Ok(())
}

/// Takes a snapshot that no person has asked for.
async fn by_itself(daemon: &Arc<Daemon>, row: &Row) -> Result<()> {
    let name = new_name(daemon, row, "").await?;
    let expires = after(row.config.read_set(&SNAPSHOTS_EXPIRY), Timestamp::now())?;
    take(daemon, row, &name, "", expires).await?;
    tell_by(daemon, None, "storage-volume-snapshot-created", row, Some(&name), [("type", json!("custom"))]);
    Ok(())
}

/// Deletes the snapshots of this member that have expired, now and then.
pub async fn prune(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(PRUNE).await;
        if let Err(e) = prune_now(&daemon).await {
            tracing::warn!("deleting expired snapshots of volumes: {e}");
        }
    }
}

async fn prune_now(daemon: &Arc<Daemon>) -> Result<()> {
    let now = Timestamp::now();
    let find = move |tx: &Tx<'_>, row: Row| {
        let of_it = volume_snapshots::list(tx, row.id)?;
        let expired = of_it.into_iter().filter(|s| s.expires.is_some_and(|e| e <= now));
        Ok(expired.map(|s| (row.clone(), s)).collect::<Vec<_>>())
    };
    for (row, snapshot) in looked_after(daemon, find).await?.into_iter().flatten() {
        let about = resources(&row, Some(&snapshot.name));
        let operation = daemon.operation("Cleaning up expired storage volume snapshots", &row.project, about);
        let work = daemon.clone();
        daemon.run(operation, |_| async move { remove(&work, &row, &snapshot).await }).wait(None).await;
    }
    Ok(())
}
