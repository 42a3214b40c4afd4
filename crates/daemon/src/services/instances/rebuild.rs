//! `POST /1.0/instances/{name}/rebuild`: a stopped instance gets the root file system of an image.
//!
//! The new one is made beside the old one, which stays until the new one is whole and a transaction has said that it takes
//! the place of the old one. What a crash leaves is decided by that: before the transaction the new one goes at the next
//! start, after it the old one ([`files::decide`]).

use std::sync::Arc;
use std::time::Duration;

use api::instance::InstanceRebuildPost;
use api::{Error, Result};
use drivers::storage::{Driver, Volume};

use super::create::{Fill, Origin, empty, filled, from_image};
use crate::edge::Cx;
use crate::instances::{self, Loaded};
use crate::operations::Operation;
use crate::plans::point;
use crate::services::images;
use crate::services::volumes::files;
use crate::state::Daemon;
use crate::volumes;

/// Pause between looks whether the transaction was made.
const AGAIN: Duration = Duration::from_secs(1);

/// Rebuilds an instance.
pub async fn rebuild(cx: Cx, new: InstanceRebuildPost) -> Result<Arc<Operation>> {
    let l = super::find_here(&cx).await?;
    refuse(&cx.daemon, &l).await?;
    let origin = match Origin::find(&cx, &new.source).await? {
        Origin::Copy(_) => return Err(Error::bad_request("An instance is rebuilt from an image, or from nothing")),
        other => other,
    };
    let operation = super::operation(&cx.daemon, "Rebuilding instance", &l);
    let daemon = cx.daemon.clone();
    Ok(daemon.clone().run(operation, move |operation| async move {
        let busy = instances::lock(&daemon, l.row.id).await;
        // It may have been started, or changed, since.
        let l = instances::here(&daemon, l.row.id).await?;
        refuse(&daemon, &l).await?;
        let (pool, driver) = instances::pool(&daemon, &l).await?;
        let held = volumes::lock(&daemon, &pool, &l.volume()).await?;
        prepare(&cx, &driver, &l, &origin, &operation).await?;
        point::pass(&daemon, "rebuild:prepared").await;
        let noted = note(&daemon, &l, &origin).await;
        point::pass(&daemon, "rebuild:noted").await;
        let ended = files::decide(&daemon, &pool, &l.volume()).await;
        if ended.as_ref().is_err_and(Error::retryable) {
            // Until it is known nobody else may do anything with the instance.
            let (daemon, volume) = (daemon.clone(), l.volume());
            tokio::spawn(async move {
                while files::decide(&daemon, &pool, &volume).await.is_err_and(|e| e.retryable()) {
                    tokio::time::sleep(AGAIN).await;
                }
                drop((busy, held));
            });
        }
        noted.and(ended)?;
        l.lifecycle(&daemon, "instance-rebuilt", Some(cx.caller.requestor()));
        Ok(())
    }))
}

/// Refuses an instance that can't be rebuilt now.
async fn refuse(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    if daemon.instances.runs(l.row.id) {
        return Err(Error::bad_request("Instance must be stopped to be rebuilt"));
    }
    let id = l.row.id;
    if !daemon.view(move |tx| db::snapshots::list(tx, id)).await?.is_empty() {
        return Err(Error::bad_request("Cannot rebuild an instance with snapshots: delete them first"));
    }
    Ok(())
}

/// Makes the new root file system beside the old one.
async fn prepare(
    cx: &Cx,
    driver: &Arc<dyn Driver>,
    l: &Loaded,
    origin: &Origin,
    operation: &Arc<Operation>,
) -> Result<()> {
    let beside = |driver: &dyn Driver, volume: &Volume, fill: &mut Fill| driver.prepare(volume, fill);
    let made = match origin {
        Origin::Image(image) => {
            let files = image.files(cx, operation).await?;
            images::used(&cx.daemon, &image.fingerprint).await?;
            filled(driver, l, beside, from_image(l, files, operation)?).await
        }
        _ => filled(driver, l, beside, empty).await,
    };
    let stays = "The instance keeps its root file system (the storage pool needs room for the new one beside it)";
    made.map_err(|e| e.context(stays))
}

/// One transaction: what was prepared takes the place of the root file system.
async fn note(daemon: &Arc<Daemon>, l: &Loaded, origin: &Origin) -> Result<()> {
    let base = match origin {
        Origin::Image(image) => Some(image.fingerprint.clone()),
        _ => None,
    };
    let id = l.row.id;
    daemon
        .db()
        .write(move |tx| {
            let notes = [("volatile.base_image", base.as_deref()), ("volatile.apply_template", Some("create"))];
            db::instances::patch_config(tx, id, notes)?;
            files::note_replacing(tx, &db::volumes::of_instance(tx, id)?)
        })
        .await
}

/// Ends a rebuild of an instance that was interrupted, before anything else is done with its files.
pub async fn end(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    let id = l.row.id;
    let row = daemon.db().peek(move |tx| db::volumes::of_instance(tx, id)).await?;
    if files::Unfinished::of(&row).is_none() {
        return Ok(());
    }
    let _held = volumes::lock(daemon, &row.pool, &l.volume()).await?;
    files::decide(daemon, &row.pool, &l.volume()).await
}
