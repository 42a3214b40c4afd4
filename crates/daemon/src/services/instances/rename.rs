//! Renaming an instance; moving it is a plan.
//!
//! The row changes first and notes the old name; then the files follow, and the note goes. Whoever finds the note at
//! the start of the daemon lets the files follow.

use std::sync::Arc;

use api::instance::InstancePost;
use api::{Error, Result};
use serde_json::Value;

use super::find_here;
use crate::edge::Cx;
use crate::instances::{self, Loaded};
use crate::operations::Operation;
use crate::state::Daemon;
use crate::{blocking, events, volumes};

/// Notes the name that the files of an instance still have.
const NOTE: &str = "volatile.renamed_from";

/// `POST /1.0/instances/{name}`.
pub async fn post(cx: Cx, new: InstancePost) -> Result<Arc<Operation>> {
    let l = find_here(&cx).await?;
    if new.migration {
        return crate::services::instances::moving::post(cx, l, new).await;
    }
    api::name::instance(&new.name)?;
    if cx.daemon.instances.runs(l.row.id) {
        return Err(Error::bad_request("Renaming of running instance not allowed"));
    }
    let operation = super::operation(&cx.daemon, "Renaming instance", &l);
    let daemon = cx.daemon.clone();
    Ok(daemon.clone().run(operation, move |_| async move {
        let _busy = instances::lock(&daemon, l.row.id).await;
        let l = instances::here(&daemon, l.row.id).await?;
        if daemon.instances.runs(l.row.id) {
            return Err(Error::bad_request("Renaming of running instance not allowed"));
        }
        rename(&daemon, &l, &new.name).await?;
        let url = instances::url(&l.row.project, &new.name);
        let event = events::lifecycle("instance-renamed", url, Some(cx.caller.requestor()));
        let event = events::with_context(event, [("old_name", Value::from(l.row.name.as_str()))]);
        daemon.tell_in(&event, &l.row.project);
        Ok(())
    }))
}

/// Renames an instance that does not run. The caller holds its lock.
async fn rename(daemon: &Arc<Daemon>, l: &Loaded, name: &str) -> Result<()> {
    let (id, old, new) = (l.row.id, l.row.name.clone(), name.to_owned());
    daemon
        .db()
        .write(move |tx| {
            let volume = db::volumes::of_instance(tx, id)?;
            db::instances::rename(tx, id, &new)?;
            db::volumes::rename(tx, volume.id, &new)?;
            db::instances::patch_config(
                tx,
                id,
                [(NOTE, Some(old.as_str())), ("volatile.apply_template", Some("rename"))],
            )
        })
        .await?;
    let renamed = instances::by_id(daemon, id).await?;
    files_follow(daemon, &renamed).await
}

/// Lets the files of an instance have its name, if they have an older one.
pub async fn files_follow(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    let Some(old) = l.row.config.get(NOTE).cloned() else { return Ok(()) };
    let (pool, driver) = instances::pool(daemon, l).await?;
    // Somebody may just be making one of the new name, which will be refused.
    let _lock = volumes::lock(daemon, &pool, &l.volume()).await?;
    let before = Loaded { row: db::instances::Instance { name: old, ..l.row.clone() }, ..l.clone() };
    let (from, to, containers, id) = (before.volume(), l.volume(), daemon.containers.clone(), before.id());
    blocking::run(move || {
        containers.forget(&id)?;
        if driver.exists(&from) && !driver.exists(&to) { driver.rename_volume(&from, &to) } else { Ok(()) }
    })
    .await?;
    let id = l.row.id;
    daemon.db().write(move |tx| db::instances::patch_config(tx, id, [(NOTE, None)])).await
}
