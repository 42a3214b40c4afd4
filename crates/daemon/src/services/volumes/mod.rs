//! `/1.0/storage-pools/{pool}/volumes`: what is known of volumes, and changing it.
//!
//! A volume is a row, and files on one member. What is made is made as files first and becomes true with its row;
//! what goes, goes as a row first. Files that no row speaks of are removed when their member starts ([`recover`]),
//! or when something is made in their place. A rename has to change both: the row notes first what it is to become
//! ([`files::Unfinished`]), so that whoever finds it between the two completes it; so it is with what was prepared to take
//! the place of a volume. A volume that moves to another place lies there as a whole before one transaction switches the
//! row, and is removed from the old place after it.

mod copy;
mod create;
pub mod files;
pub mod recover;
mod relocate;
pub mod snapshots;

use std::sync::Arc;

use api::endpoint::{Allow, fill, in_project};
use api::event::Requestor;
use api::key::Config;
use api::volume::{StorageVolume, StorageVolumePut, StorageVolumeState, StorageVolumeStateUsage};
use api::{Error, Kind, Result};
use db::Tx;
use db::projects::{DEFAULT, Feature, holder};
use db::volumes::{Filter, Volume as Row, VolumeType};
use jiff::Timestamp;
use serde_json::Value;

use super::{Change, never, pools};
use crate::edge::auth::{check, may};
use crate::edge::{Cx, Router};
use crate::operations::Resources;
use crate::state::Daemon;
use crate::{blocking, events, leases};

pub fn routes(r: &mut Router) {
    r.list(&api::volume::LIST, list);
    r.list(&api::volume::LIST_TYPE, list);
    r.raw(&api::volume::CREATE, create::create);
    r.raw(&api::volume::CREATE_TYPE, create::create);
    r.sync(&api::volume::GET, get);
    r.sync(&api::volume::PUT, put);
    r.sync(&api::volume::PATCH, patch);
    r.raw(&api::volume::MOVE, relocate::relocate);
    r.sync(&api::volume::DELETE, delete);
    r.sync(&api::volume::STATE, state);
    snapshots::routes(r);
}

/// The project in which volumes of that type lie when `project` asks for them.
fn home(tx: &Tx<'_>, project: &str, kind: VolumeType) -> Result<String> {
    match kind {
        VolumeType::Custom => holder(tx, project, Feature::Volumes),
        VolumeType::Image => Ok(DEFAULT.to_owned()),
        VolumeType::Container | VolumeType::VirtualMachine => Ok(project.to_owned()),
    }
}

/// Whether the caller may see the volumes of images, which are the default project's whoever has the image.
fn sees_images(cx: &Cx) -> bool {
    may(&cx.caller.trust, Allow::Project, DEFAULT)
}

/// The member that `?target=` names.
fn target(tx: &Tx<'_>, name: &str) -> Result<Option<i64>> {
    if name.is_empty() { Ok(None) } else { db::members::id(tx, name).map(Some) }
}

/// The volume of a request whose path begins with pool, type and name.
fn asked(cx: &Cx) -> impl Fn(&Tx<'_>) -> Result<Row> + Clone + Send + Sync + use<> {
    let [pool, kind, name, project, on] =
        [cx.arg(0), cx.arg(1), cx.arg(2), cx.project(), cx.param("target")].map(str::to_owned);
    let (clustered, images) = (cx.daemon.clustered(), sees_images(cx));
    move |tx| {
        let pool = db::pools::id(tx, &pool)?;
        let kind = VolumeType::parse(&kind)?;
        if kind == VolumeType::Image && !images {
            return Err(Error::not_found("Storage volume not found"));
        }
        let member = if clustered { target(tx, &on)? } else { None };
        db::volumes::get(tx, pool, &home(tx, &project, kind)?, kind, &name, member)
    }
}

/// The custom volume of a request, which lies on this member; what was begun with it and not ended is ended.
async fn custom_here(cx: &Cx) -> Result<Row> {
    let row = cx.daemon.view(asked(cx)).await?;
    if row.kind != VolumeType::Custom {
        return Err(Error::bad_request(format!(
            "Storage volumes of type \"{}\" belong to instances and images, and are changed with them",
            row.kind
        )));
    }
    if row.member_id.is_some_and(|id| id != cx.daemon.member_id()) {
        return Err(Error::unavailable("The storage volume has just moved to another member: try again"));
    }
    Ok(row)
}

/// URLs of what uses a volume.
fn used_by(tx: &Tx<'_>, row: &Row) -> Result<Vec<String>> {
    Ok(match row.kind {
        VolumeType::Custom => db::used_by::volume(tx, &row.pool, &row.project, &row.name, row.member_id)?,
        VolumeType::Image => vec![format!("/1.0/images/{}", row.name)],
        VolumeType::Container | VolumeType::VirtualMachine => {
            vec![in_project(fill("/1.0/instances/{name}", &[&row.name]), &row.project)]
        }
    })
}

/// Refuses if something uses the volume.
fn must_be_unused(tx: &Tx<'_>, row: &Row) -> Result<()> {
    match used_by(tx, row)?.first() {
        None => Ok(()),
        Some(first) => Err(Error::bad_request(format!("The storage volume is still in use by {first}"))),
    }
}

/// A configuration without what is only ours to know.
fn visible(config: &Config) -> Config {
    config.iter().filter(|(key, _)| *key != files::UNFINISHED).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn shown(tx: &Tx<'_>, row: &Row) -> Result<StorageVolume> {
    Ok(StorageVolume {
        config: visible(&row.config),
        description: row.description.clone(),
        name: row.name.clone(),
        kind: row.kind.as_str().into(),
        used_by: used_by(tx, row)?,
        location: row.member.clone().unwrap_or_default(),
        content_type: row.content.as_str().into(),
        project: row.project.clone(),
        created_at: row.created.unwrap_or_else(never),
        pool: row.pool.clone(),
    })
}

/// A snapshot as it stands in a list of volumes.
fn shown_snapshot(volume: &StorageVolume, snapshot: db::volume_snapshots::VolumeSnapshot) -> StorageVolume {
    StorageVolume {
        config: visible(&snapshot.config),
        description: snapshot.description,
        name: format!("{}/{}", volume.name, snapshot.name),
        created_at: snapshot.created.unwrap_or_else(never),
        ..volume.clone()
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<StorageVolume>> {
    let (all, clustered) = (cx.flag("all-projects"), cx.daemon.clustered());
    let [pool, kind, project, on] = [cx.arg(0), cx.arg(1), cx.project(), cx.param("target")].map(str::to_owned);
    let found = cx.daemon.view(move |tx| {
        let pool = db::pools::id(tx, &pool)?;
        let wanted = if kind.is_empty() { None } else { Some(VolumeType::parse(&kind)?) };
        let member = if clustered { target(tx, &on)? } else { None };
        let mut snapshots = db::volume_snapshots::list_all(tx, pool)?;
        let mut found = Vec::new();
        for kind in VolumeType::ALL.iter().copied().filter(|k| wanted.is_none_or(|w| w == *k)) {
            let home = if all { None } else { Some(home(tx, &project, kind)?) };
            let which = Filter { pool: Some(pool), project: home.as_deref(), kind: Some(kind), name: None, member };
            for row in db::volumes::list(tx, which)? {
                let volume = shown(tx, &row)?;
                let of_it = snapshots.remove(&row.id).unwrap_or_default();
                let of_it: Vec<_> = of_it.into_iter().map(|s| shown_snapshot(&volume, s)).collect();
                found.push(volume);
                found.extend(of_it);
            }
        }
        Ok(found)
    });
    let mut found: Vec<StorageVolume> = found.await?;
    found.retain(|v| v.kind != VolumeType::Image.as_str() || sees_images(&cx));
    Ok(found)
}

fn changeable(row: &Row) -> StorageVolumePut {
    StorageVolumePut { config: visible(&row.config), description: row.description.clone(), restore: String::new() }
}

async fn get(cx: Cx, (): ()) -> Result<StorageVolume> {
    let find = asked(&cx);
    let (row, volume) = cx
        .daemon
        .view(move |tx| {
            let row = find(tx)?;
            let volume = shown(tx, &row)?;
            Ok((row, volume))
        })
        .await?;
    cx.show_etag(&changeable(&row));
    Ok(volume)
}

async fn put(cx: Cx, new: StorageVolumePut) -> Result<()> {
    let row = custom_here(&cx).await?;
    if new.restore.is_empty() {
        return change(&cx, &row, Change::Put(new)).await;
    }
    let snapshot = new.restore.clone();
    let (_lock, row) = snapshots::restorable(&cx, &row, &snapshot).await?;
    let old = changeable(&row);
    cx.check_etag(&old)?;
    // Who only restores sends no configuration.
    let changes = !new.config.is_empty();
    if changes {
        change(&cx, &row, Change::Put(new)).await?;
    }
    let restored = snapshots::restore(&cx, &row, &snapshot).await;
    if restored.is_err() && changes {
        cx.daemon.write(move |tx| store(tx, &db::volumes::by_id(tx, row.id)?, old.clone())).await?;
    }
    restored
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    let row = custom_here(&cx).await?;
    change(&cx, &row, Change::Patch(new)).await
}

async fn change(cx: &Cx, row: &Row, change: Change<StorageVolumePut>) -> Result<()> {
    let (id, request) = (row.id, cx.clone());
    cx.daemon
        .write(move |tx| {
            let old = db::volumes::by_id(tx, id)?;
            let new = change.of(&request, &changeable(&old))?;
            api::keys::volume::check(&old.name, &new.config)?;
            store(tx, &old, new)
        })
        .await?;
    tell(cx, "storage-volume-updated", row, None, []);
    Ok(())
}

/// Writes a volume as it is to be; what is only ours to know stays.
fn store(tx: &Tx<'_>, old: &Row, new: StorageVolumePut) -> Result<()> {
    let mut config = new.config;
    config.remove(files::UNFINISHED);
    config.extend(old.config.get_key_value(files::UNFINISHED).map(|(k, v)| (k.clone(), v.clone())));
    db::volumes::update(tx, old.id, &new.description, &config)
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let row = custom_here(&cx).await?;
    let (_lock, row) = files::hold(&cx.daemon, &row).await?;
    let (volume, of) = (files::of(&row)?, row.clone());
    cx.daemon.view(move |tx| must_be_unused(tx, &of)).await?;
    // No other member may use it in this moment, as one that was taken for dead.
    leases::take(&cx.daemon, leases::MEMBER, &row.pool, &volume).await?;
    let deleted = delete_unused(&cx, &row).await;
    leases::give_back_one(&cx.daemon, leases::MEMBER, &row.pool, &volume).await;
    deleted
}

async fn delete_unused(cx: &Cx, row: &Row) -> Result<()> {
    let gone = row.clone();
    cx.daemon
        .write(move |tx| {
            must_be_unused(tx, &gone)?;
            db::volumes::delete(tx, gone.id)
        })
        .await?;
    tell(cx, "storage-volume-deleted", row, None, []);
    let (driver, volume) = (pools::open(&cx.daemon, &row.pool).await?, files::of(row)?);
    blocking::run(move || driver.delete_volume(&volume)).await
}

async fn state(cx: Cx, (): ()) -> Result<StorageVolumeState> {
    let row = cx.daemon.view(asked(&cx)).await?;
    let (driver, volume) = (pools::open(&cx.daemon, &row.pool).await?, files::of(&row)?);
    let used = blocking::run(move || drivers::storage::tree::usage(&driver.path(&volume))).await?;
    Ok(StorageVolumeState { usage: StorageVolumeStateUsage { used, total: 0 } })
}

/// The address of the member that has the volume a request is about, or `None` if that is this one or nobody. Refuses
/// if several have one of that name.
pub async fn address(daemon: &Arc<Daemon>, cx: &Cx) -> Result<Option<String>> {
    match daemon.view(asked(cx)).await {
        Ok(Row { member: Some(member), .. }) => daemon.member_address(&member).await,
        Err(e) if e.kind == Kind::BadRequest && e.message.starts_with("More than one") => Err(e),
        _ => Ok(None),
    }
}

/// Refuses if the caller may not see a project.
fn must_see(cx: &Cx, project: &str) -> Result<()> {
    check(&cx.caller.trust, Allow::Project, project)
}

/// A moment that clients send, where the year 1 means never.
fn moment(sent: Timestamp) -> Option<Timestamp> {
    (sent != never()).then_some(sent)
}

/// URL of a volume, without the query.
fn path(row: &Row) -> String {
    fill(api::volume::GET.info.path, &[&row.pool, row.kind.as_str(), &row.name])
}

/// URL of a volume or a snapshot of it.
fn url(row: &Row, snapshot: Option<&str>) -> String {
    let snapshot = snapshot.map(|s| fill("/snapshots/{snapshot}", &[s])).unwrap_or_default();
    in_project(path(row) + &snapshot, &row.project)
}

/// An operation is about this volume, or a snapshot of it.
fn resources(row: &Row, snapshot: Option<&str>) -> Resources {
    let kind = if snapshot.is_some() { "storage_volume_snapshots" } else { "storage_volumes" };
    [(kind.to_owned(), Some(vec![url(row, snapshot)]))].into()
}

fn tell<const N: usize>(cx: &Cx, action: &str, row: &Row, snapshot: Option<&str>, context: [(&'static str, Value); N]) {
    tell_by(&cx.daemon, Some(cx.caller.requestor()), action, row, snapshot, context);
}

/// Tells what was done by a person, or if that is none by the daemon itself.
fn tell_by<const N: usize>(
    daemon: &Daemon,
    by: Option<Requestor>,
    action: &str,
    row: &Row,
    snapshot: Option<&str>,
    context: [(&'static str, Value); N],
) {
    let event = events::lifecycle(action, url(row, snapshot), by);
    daemon.tell_in(&events::with_context(event, context), &row.project);
}
