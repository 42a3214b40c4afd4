//! What an interrupted daemon left of volumes is put in order when it starts: renames are ended, and files that no row
//! speaks of are removed.
//!
//! In pools that all members reach, whichever member starts does it, under the lock of the volume: whoever makes one
//! holds that until its row is there, and is left alone.
//!
//! Files of instances are only removed if no instance of that name is on this member, and no plan that has not ended
//! names one: a move brings the files before it switches the rows.

use std::sync::Arc;
use std::time::Duration;

use api::Result;
use db::Tx;
use db::volumes::{Filter, Volume as Row, VolumeType};
use drivers::storage::{Kind, Volume};
use serde_json::Value;

use super::files;
use crate::services::pools;
use crate::state::Daemon;
use crate::{blocking, leases, volumes};

/// How long is waited before asking again for the newest state of the database.
const AGAIN: Duration = Duration::from_secs(1);

/// Puts the volumes of this member in order before it serves. Without a majority nobody can say which files belong to
/// nobody: then it happens as soon as there is one, with what lay there at the start.
pub async fn start(daemon: &Arc<Daemon>) -> Result<()> {
    let left = lying_about(daemon).await?;
    let db = daemon.db();
    if db.status().leader.is_some() && db.read_barrier().await.is_ok() {
        all(daemon, left).await;
        return Ok(());
    }
    let daemon = daemon.clone();
    tokio::spawn(async move {
        while daemon.db().read_barrier().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        all(&daemon, left).await;
    });
    Ok(())
}

/// All volumes whose files are on this member, with the name of their pool.
async fn lying_about(daemon: &Arc<Daemon>) -> Result<Vec<(String, Volume)>> {
    let mut all = Vec::new();
    for pool in daemon.db().peek(db::pools::list).await? {
        // A pool that is not ready here has nothing here.
        let Ok(driver) = pools::open(daemon, &pool.name).await else { continue };
        match blocking::run(move || driver.volumes()).await {
            Ok(volumes) => all.extend(volumes.into_iter().map(|v| (pool.name.clone(), v))),
            Err(e) => tracing::warn!("looking for the volumes of the storage pool {}: {e}", pool.name),
        }
    }
    Ok(all)
}

async fn all(daemon: &Arc<Daemon>, left: Vec<(String, Volume)>) {
    if let Err(e) = end_unfinished(daemon).await {
        tracing::warn!("ending what was begun with storage volumes: {e}");
    }
    if let Err(e) = decide_prepared(daemon).await {
        tracing::warn!("looking for what was to take the place of storage volumes: {e}");
    }
    for (pool, volume) in left {
        if let Err(e) = sweep(daemon, &pool, &volume).await {
            tracing::warn!("looking whether the volume {} in {pool} belongs to anybody: {e}", volume.name);
        }
    }
}

/// What was to take the place of volumes does so, or goes.
async fn decide_prepared(daemon: &Arc<Daemon>) -> Result<()> {
    for pool in daemon.db().peek(db::pools::list).await? {
        let Ok(driver) = pools::open(daemon, &pool.name).await else { continue };
        for volume in blocking::run(move || driver.prepared()).await? {
            // Another member may be at it.
            let Some(_lock) = volumes::lock_now(daemon, &pool.name, &volume).await? else { continue };
            files::decide(daemon, &pool.name, &volume).await?;
        }
    }
    Ok(())
}

async fn end_unfinished(daemon: &Arc<Daemon>) -> Result<()> {
    let own = daemon.member_id();
    let which = move |tx: &Tx<'_>| db::volumes::list(tx, Filter { member: Some(own), ..Filter::default() });
    let rows = daemon.db().read(which).await?;
    for row in rows.iter().filter(|r| files::Unfinished::of(r).is_some()) {
        // Of a volume that all members reach another one may be ending it: what is to be done is read under its lock.
        let ended = async {
            let _lock = volumes::lock(daemon, &row.pool, &files::of(row)?).await?;
            let id = row.id;
            let now = daemon.db().read(move |tx| db::volumes::by_id(tx, id)).await?;
            files::complete(daemon, &now).await
        };
        if let Err(e) = ended.await {
            tracing::warn!("ending what was begun with the storage volume {}: {e}", row.name);
        }
    }
    Ok(())
}

/// What is to be kept of a volume whose files lie here.
enum Keep {
    /// All of it.
    All,
    /// The volume, and its snapshots of these names.
    Snapshots(Vec<String>),
    /// Nothing.
    Nothing,
}

async fn sweep(daemon: &Arc<Daemon>, pool: &str, volume: &Volume) -> Result<()> {
    let Some(_lock) = volumes::lock_now(daemon, pool, volume).await? else { return Ok(()) };
    let (asked, of, own) = (pool.to_owned(), volume.clone(), daemon.member_id());
    let keep = daemon.db().read(move |tx| keep(tx, &asked, &of, own)).await?;
    let driver = pools::open(daemon, pool).await?;
    // What is younger than the backup is for a person to look at.
    let restored = daemon.paths.restored().exists();
    let remove = matches!(keep, Keep::Nothing) && !restored;
    if remove {
        leases::take(daemon, leases::MEMBER, pool, volume).await?;
    }
    let of = volume.clone();
    let swept = blocking::run(move || match keep {
        Keep::All => Ok(()),
        Keep::Snapshots(_) if restored => Ok(()),
        Keep::Snapshots(names) => {
            let there = driver.snapshots(&of)?;
            there.iter().filter(|s| !names.contains(s)).try_for_each(|s| driver.delete_snapshot(&of, s))
        }
        Keep::Nothing if restored => {
            tracing::warn!("the volume {} is not in the backup that this member was restored from: it stays", of.name);
            Ok(())
        }
        Keep::Nothing => {
            tracing::warn!("the volume {} belongs to nobody: it is removed", of.name);
            driver.delete_volume(&of)
        }
    })
    .await;
    leases::give_back_one(daemon, leases::MEMBER, pool, volume).await;
    swept
}

fn keep(tx: &Tx<'_>, pool: &str, volume: &Volume, own: i64) -> Result<Keep> {
    let rows = volumes::rows(tx, pool, own)?;
    // One that is being renamed lies under either name.
    let other = |row: &Row| match files::Unfinished::of(row) {
        Some(files::Unfinished::Rename(to)) => Some(Volume::new(volume.kind, &row.project, &to)),
        _ => None,
    };
    if let Some(row) = rows.iter().find(|r| volumes::files(r).as_ref() == Some(volume)) {
        let custom = row.kind == VolumeType::Custom && files::Unfinished::of(row).is_none();
        let names = db::volume_snapshots::list(tx, row.id)?.into_iter().map(|s| s.name).collect();
        return Ok(if custom { Keep::Snapshots(names) } else { Keep::All });
    }
    if rows.iter().any(|r| other(r).as_ref() == Some(volume)) {
        return Ok(Keep::All);
    }
    if volume.kind == Kind::Custom {
        return Ok(Keep::Nothing);
    }
    // What all members reach is of an instance wherever that is.
    let member = pools::holder(tx, db::pools::id(tx, pool)?, own)?;
    let here = db::instances::Filter { member, ..db::instances::Filter::default() };
    let lives = db::instances::names(tx, here)?
        .iter()
        .any(|(project, name)| Volume::new(Kind::Container, project, name) == *volume);
    // Names of instances hold no underscore; those of projects are before it.
    let name = volume.name.rsplit('_').next().unwrap_or_default();
    let planned = db::plans::unfinished(tx)?.iter().any(|p| names(&p.body, name));
    Ok(if lives || planned { Keep::All } else { Keep::Nothing })
}

/// True if the text stands somewhere in a plan.
fn names(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(all) => all.iter().any(|v| names(v, name)),
        Value::Object(fields) => fields.values().any(|v| names(v, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_searched_to_their_depths() {
        let plan = serde_json::json!({ "steps": [{ "project": "default", "name": "c1", "from": 1 }] });
        assert!(names(&plan, "c1") && !names(&plan, "c") && !names(&plan, "1"));
    }
}
