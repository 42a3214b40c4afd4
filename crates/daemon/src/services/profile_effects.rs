//! What a changed profile does to the instances that run with it.

use std::sync::Arc;

use api::internal::ProfileBefore;
use api::{Error, Result};
use db::Tx;
use db::instances::{Filter, Instance};
use db::profiles::Profile;
use db::projects::{Feature, users_of};
use futures::future::join_all;

use super::instances::while_it_runs;
use crate::edge::Cx;
use crate::instances::{self, Expander};
use crate::state::Daemon;

/// The instances that have a profile.
pub fn users(tx: &Tx<'_>, profile: &Profile) -> Result<Vec<Instance>> {
    let projects = users_of(tx, &profile.project, Feature::Profiles)?;
    let uses = |i: &Instance| projects.contains(&i.project) && i.profiles.contains(&profile.name);
    Ok(db::instances::list(tx, Filter::default())?.into_iter().filter(uses).collect())
}

/// Carries a change over to all running instances with the profile, on all members that are there; those that could
/// not be changed, and why.
pub async fn everywhere(daemon: &Arc<Daemon>, before: &Profile) -> Result<Vec<String>> {
    let profile = before.clone();
    let users = daemon.db().peek(move |tx| users(tx, &profile)).await?;
    let mut members: Vec<i64> = users.iter().map(|i| i.member_id).collect();
    members.sort_unstable();
    members.dedup();
    let before = ProfileBefore {
        project: before.project.clone(),
        name: before.name.clone(),
        config: before.config.clone(),
        devices: before.devices.clone(),
    };
    let asked = members.into_iter().map(|id| on(daemon, id, &before));
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

async fn on(daemon: &Arc<Daemon>, id: i64, before: &ProfileBefore) -> Vec<String> {
    let told = async {
        if id == daemon.member_id() {
            return here(daemon, before).await;
        }
        let snapshot = daemon.snapshot();
        // One that is away finds the profile as it is then.
        match snapshot.members.iter().find(|m| m.id == id && daemon.must_be_online(m, &snapshot).is_ok()) {
            Some(m) => daemon.remote(&m.address)?.call(&api::internal::PROFILE_CHANGED, &[], "", before).await,
            None => Ok(Vec::new()),
        }
    };
    told.await.unwrap_or_else(|e| vec![e.message])
}

/// `POST /internal/profiles/changed`: another member has changed a profile.
pub async fn changed(cx: Cx, before: ProfileBefore) -> Result<Vec<String>> {
    // The change has to have arrived.
    cx.daemon.db().read_barrier().await?;
    here(&cx.daemon, &before).await
}

async fn here(daemon: &Arc<Daemon>, before: &ProfileBefore) -> Result<Vec<String>> {
    let (own, wanted) = (daemon.member_id(), before.clone());
    let running = daemon
        .db()
        .peek(move |tx| {
            let profile = db::profiles::get(tx, &wanted.project, &wanted.name)?;
            let here = users(tx, &profile)?.into_iter().filter(|i| i.member_id == own);
            Ok(here.map(|i| (i.id, i.name)).collect::<Vec<_>>())
        })
        .await?;
    let mut failed = Vec::new();
    for (id, name) in running.into_iter().filter(|(id, _)| daemon.instances.runs(*id)) {
        if let Err(e) = one(daemon, id, before).await {
            failed.push(format!("{name}: {e}"));
        }
    }
    Ok(failed)
}

async fn one(daemon: &Arc<Daemon>, id: i64, before: &ProfileBefore) -> Result<()> {
    let _busy = instances::lock(daemon, id).await;
    let (old, new) = {
        let before = before.clone();
        daemon
            .db()
            .peek(move |tx| {
                let row = db::instances::by_id(tx, id)?;
                let mut expander = Expander::new(tx)?;
                let new = expander.load(row.clone());
                expander.replace(&before.project, &before.name, before.config.clone(), before.devices.clone());
                Ok((expander.load(row), new))
            })
            .await?
    };
    if !daemon.instances.runs(id) {
        return Ok(());
    }
    let notes = while_it_runs(daemon, &old, &new).await.map_err(|e: Error| e.context("updating it"))?;
    if notes.is_empty() {
        return Ok(());
    }
    daemon
        .db()
        .write(move |tx| {
            let notes = notes.iter().map(|(k, v)| (k.as_str(), Some(v.as_str()).filter(|v| !v.is_empty())));
            db::instances::patch_config(tx, id, notes)
        })
        .await
}
