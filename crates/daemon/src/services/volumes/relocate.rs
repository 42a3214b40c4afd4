//! Renaming volumes, and moving them to another pool, project or member.

use std::sync::Arc;

use api::volume::StorageVolumePost;
use api::{Error, Kind, Result};
use db::projects::Feature;
use db::volume_snapshots;
use db::volumes::{Volume as Row, VolumeType};
use drivers::storage::{Part, Volume};
use hyper::{Request, Response};
use serde_json::json;

use super::copy::{self, From, To};
use super::files::{self, Unfinished};
use super::{home, must_be_unused, must_see, resources, tell, url};
use crate::edge::request::json as read_json;
use crate::edge::{Body, Cx, Incoming, permit, reply};
use crate::operations::Operation;
use crate::services::pools;
use crate::{blocking, volumes};

pub async fn relocate(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let new: StorageVolumePost = read_json(request.into_body()).await?;
    if new.migration {
        return Err(Error::new(Kind::NotImplemented, "Volumes can't be sent to other servers yet"));
    }
    let row = source(&cx, &new).await?;
    let name = if new.name.is_empty() { row.name.clone() } else { new.name.clone() };
    api::name::plain("storage volume", &name)?;
    let pool = if new.pool.is_empty() { row.pool.clone() } else { new.pool.clone() };
    let project = if new.project.is_empty() { cx.project().to_owned() } else { new.project.clone() };
    must_see(&cx, &project)?;
    permit::check_holder(&cx, Feature::Volumes, &project).await?;
    let to = To::find(&cx.daemon, &pool, &project, &name).await?;
    let here = row.member_id.is_none_or(|id| id == cx.daemon.member_id());
    if here && to.pool_id == row.pool_id && to.project == row.project {
        rename(&cx, &row, &name).await?;
        return reply::sync(&());
    }
    reply::operation(&start(cx, row, to, new.volume_only).await?.view())
}

/// The volume that moves: of the member that the body names, of this one, or of the only one that has it.
async fn source(cx: &Cx, new: &StorageVolumePost) -> Result<Row> {
    let [pool, kind, name, project] = [cx.arg(0), cx.arg(1), cx.arg(2), cx.project()].map(str::to_owned);
    if VolumeType::parse(&kind)? != VolumeType::Custom {
        return Err(Error::bad_request(format!(
            "Storage volumes of type \"{kind}\" belong to instances and images, and move with them"
        )));
    }
    let (location, own, clustered) = (new.source.location.clone(), cx.daemon.member_id(), cx.daemon.clustered());
    cx.daemon
        .view(move |tx| {
            let (pool, project) = (db::pools::id(tx, &pool)?, home(tx, &project, VolumeType::Custom)?);
            let get = |member| db::volumes::get(tx, pool, &project, VolumeType::Custom, &name, member);
            if clustered && !location.is_empty() {
                return get(Some(db::members::id(tx, &location)?));
            }
            match get(Some(own)) {
                Err(e) if files::missing(&e) => get(None),
                other => other,
            }
        })
        .await
}

async fn rename(cx: &Cx, row: &Row, name: &str) -> Result<()> {
    let daemon = &cx.daemon;
    if row.name == name {
        return Err(Error::conflict(format!("Storage volume \"{name}\" already exists")));
    }
    let other = Volume::new(drivers::storage::Kind::Custom, &row.project, name);
    // Both names are held, in the same order by everybody.
    let (_first, _second, row) = if *name < *row.name {
        let first = volumes::lock(daemon, &row.pool, &other).await?;
        let (second, row) = files::hold(daemon, row).await?;
        (first, second, row)
    } else {
        let (first, row) = files::hold(daemon, row).await?;
        (first, volumes::lock(daemon, &row.pool, &other).await?, row)
    };
    let driver = pools::open(daemon, &row.pool).await?;
    files::clear(daemon, &row.pool, &driver, &other).await?;
    let asked = row.clone();
    daemon.view(move |tx| must_be_unused(tx, &asked)).await?;
    files::carry_out(daemon, &row, &Unfinished::Rename(name.to_owned())).await?;
    let renamed = Row { name: name.to_owned(), ..row.clone() };
    tell(cx, "storage-volume-renamed", &renamed, None, [("old_name", json!(row.name))]);
    Ok(())
}

async fn start(cx: Cx, row: Row, to: To, alone: bool) -> Result<Arc<Operation>> {
    let asked = row.clone();
    let (taken, own) = (to.clone(), cx.daemon.member_id());
    let snapshots = cx
        .daemon
        .view(move |tx| {
            must_be_unused(tx, &asked)?;
            let there = db::volumes::get(tx, taken.pool_id, &taken.project, VolumeType::Custom, &taken.name, Some(own));
            match there {
                Ok(_) => return Err(Error::conflict(format!("Storage volume \"{}\" already exists", taken.name))),
                Err(e) if files::missing(&e) => {}
                Err(e) => return Err(e),
            }
            volume_snapshots::list(tx, asked.id)
        })
        .await?;
    let from = if alone {
        From { row, part: Part::Alone, snapshots: Vec::new() }
    } else {
        From { row, part: Part::Whole, snapshots }
    };
    let operation = cx.daemon.operation("Moving storage volume", cx.project(), resources(&from.row, None));
    let daemon = cx.daemon.clone();
    Ok(daemon.run(operation, |operation| async move { carry_out(&cx, from, to, &operation).await }))
}

async fn carry_out(cx: &Cx, from: From, to: To, operation: &Arc<Operation>) -> Result<()> {
    let daemon = &cx.daemon;
    let _locks = copy::bring(daemon, &from, &to, operation).await?;
    let switched = switch(cx, &from, &to).await;
    let row = match switched {
        Ok(row) => row,
        Err(e) => {
            files::give_up(daemon, &to.pool, &to.driver, &to.volume()).await;
            return Err(e);
        }
    };
    let context = [("old_url", json!(url(&from.row, None)))];
    tell(cx, "storage-volume-renamed", &row, None, context);
    // From here on it is moved: what can't be removed now goes when the other member starts again.
    if let Err(e) = remove_source(cx, &from.row).await {
        tracing::warn!("removing what is left of the volume {} in its old place: {e}", from.row.name);
    }
    Ok(())
}

/// Makes the new place the true one, unless the volume has changed since it was copied.
async fn switch(cx: &Cx, from: &From, to: &To) -> Result<Row> {
    let (old, to, own) = (from.row.clone(), to.clone(), cx.daemon.member_id());
    let (whole, copied) = (from.part == Part::Whole, from.snapshots.clone());
    cx.daemon
        .write(move |tx| {
            let now = db::volumes::by_id(tx, old.id)?;
            let same = |a: &Row, b: &Row| {
                (&a.name, a.pool_id, a.member_id, &a.project) == (&b.name, b.pool_id, b.member_id, &b.project)
            };
            let snapshots = volume_snapshots::list(tx, old.id)?;
            let names = |all: &[volume_snapshots::VolumeSnapshot]| -> Vec<(i64, String)> {
                all.iter().map(|s| (s.id, s.name.clone())).collect()
            };
            if !same(&now, &old) || Unfinished::of(&now).is_some() || whole && names(&snapshots) != names(&copied) {
                return Err(Error::conflict("The storage volume was changed while it was moved: try again"));
            }
            must_be_unused(tx, &now)?;
            if !whole {
                snapshots.iter().try_for_each(|s| volume_snapshots::delete(tx, s.id))?;
            }
            // The name is changed first or last, so that neither name is taken twice on the way.
            if now.name != to.name {
                db::volumes::rename(tx, now.id, &to.name)?;
            }
            let holder = pools::holder(tx, to.pool_id, own)?;
            db::volumes::set_place(tx, now.id, to.pool_id, holder, &to.project)?;
            db::volumes::by_id(tx, now.id)
        })
        .await
}

async fn remove_source(cx: &Cx, old: &Row) -> Result<()> {
    let (daemon, volume) = (&cx.daemon, files::of(old)?);
    match old.member_id {
        Some(id) if id != daemon.member_id() => {
            volumes::remove_on(daemon, &copy::address(daemon, id)?, &old.pool, &volume).await
        }
        _ => {
            let driver = pools::open(daemon, &old.pool).await?;
            blocking::run(move || driver.delete_volume(&volume)).await
        }
    }
}
