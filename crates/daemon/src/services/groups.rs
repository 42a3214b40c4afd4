//! `/1.0/cluster/groups`.

use api::cluster::{ClusterGroup, ClusterGroupPost, ClusterGroupPut, ClusterGroupsPost};
use api::{Error, Result};
use db::Tx;
use db::groups::Group;
use serde_json::Value;

use super::Change;
use crate::edge::{Cx, Router};

pub fn routes(r: &mut Router) {
    r.list(&api::cluster::GROUPS, list);
    r.sync(&api::cluster::GROUP_CREATE, create);
    r.sync(&api::cluster::GROUP, get);
    r.sync(&api::cluster::GROUP_PUT, put);
    r.sync(&api::cluster::GROUP_PATCH, patch);
    r.sync(&api::cluster::GROUP_RENAME, rename);
    r.sync(&api::cluster::GROUP_DELETE, delete);
}

fn shown(tx: &Tx<'_>, group: Group) -> Result<ClusterGroup> {
    Ok(ClusterGroup {
        used_by: db::used_by::group(tx, &group.name)?,
        description: group.description,
        members: group.members,
        config: group.config,
        name: group.name,
    })
}

async fn list(cx: Cx, (): ()) -> Result<Vec<ClusterGroup>> {
    cx.daemon.must_be_clustered()?;
    cx.daemon.view(|tx| db::groups::list(tx)?.into_iter().map(|g| shown(tx, g)).collect()).await
}

fn changeable(group: &Group) -> ClusterGroupPut {
    ClusterGroupPut {
        description: group.description.clone(),
        members: group.members.clone(),
        config: group.config.clone(),
    }
}

async fn get(cx: Cx, (): ()) -> Result<ClusterGroup> {
    cx.daemon.must_be_clustered()?;
    let name = cx.arg(0).to_owned();
    let found = cx.daemon.view(move |tx| {
        let group = db::groups::get(tx, &name)?;
        Ok((changeable(&group), shown(tx, group)?))
    });
    let (changeable, group) = found.await?;
    cx.show_etag(&changeable);
    Ok(group)
}

async fn create(cx: Cx, new: ClusterGroupsPost) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    api::name::plain("cluster group", &new.name)?;
    api::keys::group::check(&new.config)?;
    let name = new.name.clone();
    cx.daemon
        .write(move |tx| {
            let id = db::groups::create(tx, &new.name, &new.description, &new.config)?;
            db::groups::set_members(tx, id, &new.members)
        })
        .await?;
    let url = format!("/1.0/cluster/groups/{name}");
    cx.daemon.tell("cluster-group-created", url.clone(), &cx.caller);
    cx.created(url);
    Ok(())
}

async fn put(cx: Cx, new: ClusterGroupPut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

async fn change(cx: &Cx, change: Change<ClusterGroupPut>) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    let (name, request) = (cx.arg(0).to_owned(), cx.clone());
    cx.daemon
        .write(move |tx| {
            let old = db::groups::get(tx, &name)?;
            let new = change.of(&request, &changeable(&old))?;
            api::keys::group::check(&new.config)?;
            db::groups::update(tx, old.id, &new.description, &new.config)?;
            db::groups::set_members(tx, old.id, &new.members)?;
            match db::members::list(tx)?.iter().find(|m| m.groups.is_empty()) {
                Some(_) => Err(Error::bad_request("Cluster members need to belong to at least one group")),
                None => Ok(()),
            }
        })
        .await?;
    cx.daemon.tell("cluster-group-updated", format!("/1.0/cluster/groups/{}", cx.arg(0)), &cx.caller);
    Ok(())
}

async fn rename(cx: Cx, new: ClusterGroupPost) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    api::name::plain("cluster group", &new.name)?;
    let (old, name) = (cx.arg(0).to_owned(), new.name.clone());
    if old == "default" {
        return Err(Error::bad_request("The 'default' cluster group cannot be renamed"));
    }
    cx.daemon.write(move |tx| db::groups::rename(tx, db::groups::id(tx, &old)?, &name)).await?;
    let url = format!("/1.0/cluster/groups/{}", new.name);
    cx.daemon.tell("cluster-group-renamed", url.clone(), &cx.caller);
    cx.created(url);
    Ok(())
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    let name = cx.arg(0).to_owned();
    if name == "default" {
        return Err(Error::bad_request("The 'default' cluster group cannot be deleted"));
    }
    cx.daemon
        .write(move |tx| {
            let group = db::groups::get(tx, &name)?;
            if !group.members.is_empty() {
                return Err(Error::bad_request("Only empty cluster groups can be removed"));
            }
            db::groups::delete(tx, group.id)
        })
        .await?;
    cx.daemon.tell("cluster-group-deleted", format!("/1.0/cluster/groups/{}", cx.arg(0)), &cx.caller);
    Ok(())
}
