//! Deleting an instance: the rows go first, so that what a crash leaves is a volume that belongs to nobody.

use std::sync::Arc;

use api::event::Requestor;
use api::key::Read as _;
use api::{Error, Result};

use crate::edge::Cx;
use crate::instances::{self, Loaded};
use crate::operations::Operation;
use crate::state::Daemon;
use crate::{blocking, volumes};

/// `DELETE /1.0/instances/{name}`.
pub async fn delete_one(cx: Cx, (): ()) -> Result<Arc<Operation>> {
    let l = super::find_here(&cx).await?;
    refuse(&cx.daemon, &l)?;
    let operation = super::operation(&cx.daemon, "Deleting instance", &l);
    let daemon = cx.daemon.clone();
    Ok(daemon.clone().run(operation, move |_| async move {
        let _busy = instances::lock(&daemon, l.row.id).await;
        // It may have been started, or changed, since.
        let l = instances::here(&daemon, l.row.id).await?;
        refuse(&daemon, &l)?;
        delete(&daemon, &l, Some(cx.caller.requestor())).await
    }))
}

fn refuse(daemon: &Daemon, l: &Loaded) -> Result<()> {
    if daemon.instances.runs(l.row.id) {
        return Err(Error::bad_request("Instance is running"));
    }
    if l.config.read(&api::keys::instance::PROTECTION_DELETE) {
        return Err(Error::bad_request("Instance is protected"));
    }
    Ok(())
}

/// Deletes an instance that does not run. The caller holds its lock.
pub async fn delete(daemon: &Arc<Daemon>, l: &Loaded, requestor: Option<Requestor>) -> Result<()> {
    let found = instances::pool(daemon, l).await;
    let id = l.row.id;
    daemon
        .db()
        .write(move |tx| {
            if let Ok(volume) = db::volumes::of_instance(tx, id) {
                db::volumes::delete(tx, volume.id)?;
            }
            db::instances::delete(tx, id)
        })
        .await?;
    l.lifecycle(daemon, "instance-deleted", requestor);
    let (containers, name, volume) = (daemon.containers.clone(), l.id(), l.volume());
    blocking::run(move || {
        if let Err(e) = containers.forget(&name) {
            tracing::warn!("forgetting {name}: {e}");
        }
        Ok(())
    })
    .await?;
    // A pool that is not there has nothing that could be removed now.
    let Ok((pool, driver)) = found else { return Ok(()) };
    let _lock = volumes::lock(daemon, &pool, &volume).await?;
    if volumes::owned(daemon, &pool, &volume).await? {
        // One of that name was made at once.
        return Ok(());
    }
    blocking::run(move || driver.delete_volume(&volume)).await
}
