//! `/1.0/instances`: what is known of instances, and changing it. What they do while they run is in
//! [`crate::instances`].

mod change;
mod console;
mod copy;
mod create;
pub mod delete;
mod exec;
mod files;
mod list;
mod logs;
mod metadata;
mod moving;
mod names;
mod process;
mod rebuild;
mod record;
mod rename;
mod sftp;
mod snapshots;
mod state;

use std::sync::Arc;

use api::certificate::AccessEntry;
use api::instance::InstancePut;
use api::{Error, Result};
use serde_json::Value;

use crate::edge::{Cx, Router};
use crate::events::{lifecycle, with_context};
use crate::instances::{self, Loaded};
use crate::operations::{New, Resources};
use crate::services::certificates;
use crate::state::Daemon;

pub use change::while_it_runs;
pub use console::Consoles;
pub use list::{Seen, Which, own_runs, recorded, states};
pub use rebuild::end as end_rebuild;
pub use rename::files_follow;
pub use snapshots::{at_startup as snapshot_at_startup, expire as expire_snapshots, on_schedule};

pub fn routes(r: &mut Router) {
    r.list(&api::instance::LIST, list::list);
    r.raw(&api::instance::CREATE, create::create);
    r.operation(&api::instance::STATE_ALL, state::put_all);
    r.sync(&api::instance::GET, list::get);
    r.sync(&api::instance::ACCESS, access);
    r.operation(&api::instance::PUT, change::put);
    r.sync(&api::instance::PATCH, change::patch);
    r.operation(&api::instance::POST, rename::post);
    r.operation(&api::instance::DELETE, delete::delete_one);
    r.operation(&api::instance::REBUILD, rebuild::rebuild);
    r.sync(&api::instance::STATE, list::state);
    r.operation(&api::instance::STATE_PUT, state::put);
    snapshots::routes(r);
    exec::routes(r);
    console::routes(r);
    files::routes(r);
    sftp::routes(r);
    logs::routes(r);
    metadata::routes(r);
}

/// The instance of the request.
pub async fn find(cx: &Cx) -> Result<Loaded> {
    instances::load(&cx.daemon, cx.project(), cx.arg(0)).await
}

async fn access(cx: Cx, (): ()) -> Result<Vec<AccessEntry>> {
    let project = find(&cx).await?.row.project;
    certificates::access(&cx, project).await
}

/// The instance of the request, which must be on this member: it may have moved since the request was sent on.
pub async fn find_here(cx: &Cx) -> Result<Loaded> {
    let l = find(cx).await?;
    if l.row.member_id == cx.daemon.member_id() { Ok(l) } else { Err(has_moved(&l)) }
}

fn has_moved(l: &Loaded) -> Error {
    Error::unavailable(format!("The instance is on the member \"{}\" now: try again", l.row.member))
}

/// Tells what was done with an instance, and more about it.
fn tell<const N: usize>(cx: &Cx, l: &Loaded, action: &str, context: [(&'static str, Value); N]) {
    let event = lifecycle(action, l.url(), Some(cx.caller.requestor()));
    cx.daemon.tell_in(&with_context(event, context), &l.row.project);
}

/// A new operation about an instance.
pub fn operation(daemon: &Daemon, description: &'static str, l: &Loaded) -> New {
    daemon.operation(description, &l.row.project, resources(&l.row.project, &l.row.name))
}

/// An operation is about the instance of that name.
pub fn resources(project: &str, name: &str) -> Resources {
    [("instances".to_owned(), Some(vec![instances::url(project, name)]))].into()
}

/// What can be changed of an instance.
pub fn changeable(l: &Loaded) -> InstancePut {
    InstancePut {
        architecture: l.row.architecture.as_str().into(),
        config: l.row.config.clone(),
        devices: l.row.devices.clone(),
        ephemeral: l.row.ephemeral,
        profiles: Some(l.row.profiles.clone()),
        restore: String::new(),
        stateful: l.row.stateful,
        description: l.row.description.clone(),
    }
}

/// Checks what an instance would be: keys, devices, and that there is a root disk in a pool that exists.
pub async fn check(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    api::keys::instance::check(&l.row.config)?;
    instances::devices::validate(&l.row.devices)?;
    let context = "Failed detecting root disk device";
    let (_, pool) = incus_core::disk::root(&l.devices).map_err(|e| e.context(context))?;
    let wanted = pool.to_owned();
    daemon.db().peek(move |tx| db::pools::get(tx, &wanted).map(drop)).await.map_err(|e| e.context(context))?;
    instances::devices::validate_networks(daemon, l).await
}
