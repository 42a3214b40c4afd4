//! Moving an instance to another member, pool or project: what is asked for becomes a stored plan.

use std::sync::Arc;

use api::endpoint::Allow;
use api::instance::InstancePost;
use api::profile::Devices;
use api::{Error, Kind, Result};
use db::instances::Instance;
use incus_core::disk;
use incus_core::expand::is_volatile;
use incus_core::placement::{Target, eligible};
use incus_core::plan::{Action, Step};

use super::{check, resources};
use crate::edge::Cx;
use crate::edge::auth;
use crate::instances::scripted::{self, Reason, ToPlace};
use crate::instances::{Loaded, expanded, placing};
use crate::operations::Operation;
use crate::plans::{self, Body, Part, Settings, Spot, Wanted};
use crate::services::{pools, project_rules};
use crate::state::Daemon;

/// What the server notes about where an instance belongs.
const NOTED: [&str; 2] = [plans::ORIGIN, "volatile.cluster.group"];

/// `POST /1.0/instances/{name}` with `migration`.
pub async fn post(cx: Cx, l: Loaded, new: InstancePost) -> Result<Arc<Operation>> {
    let target = Target::parse(cx.param("target"));
    if new.target.is_some() || (target == Target::Any && new.pool.is_empty() && new.project.is_empty()) {
        return Err(Error::new(
            Kind::NotImplemented,
            "Instances can't be sent to other servers by this version: export and import an image, \
             or name a member of the cluster to move to",
        ));
    }
    let to = destination(&cx, &l, &target).await?;
    let wanted = wanted(&cx, &l, new).await?;
    check(&cx.daemon, &wanted).await?;
    project_rules::check_notes(&cx, &l.row.config, &wanted.row.config).await?;
    let (_, pool) = disk::root(&wanted.devices)?;
    let own = cx.daemon.member_id();
    let (before, after) = spots(&l, &wanted, pool, &target, own != to);
    let requestor = cx.caller.requestor();
    let about = Wanted {
        kind: db::plans::Kind::Move,
        resources: resources(&l.row.project, &l.row.name),
        project: l.row.project.clone(),
        warnings: Vec::new(),
    };
    plans::begin(&cx.daemon.clone(), about, move |tx| {
        plans::must_be_free(tx, l.row.id)?;
        let row = db::instances::by_id(tx, l.row.id)?;
        if row.member_id != own {
            return Err(Error::unavailable(format!("The instance is on the member \"{}\" now: try again", row.member)));
        }
        let source = Spot { pool: db::volumes::of_instance(tx, row.id)?.pool, ..before.clone() };
        let goes = to != own || !source.same_place(&after);
        if !goes {
            return Err(Error::bad_request("Target must be different than instance's current location"));
        }
        pools::must_be_ready_on(tx, &after.pool, to)?;
        project_rules::check_with(tx, &after.project, Some(&wanted))?;
        let taken = db::instances::find(tx, &after.project, &after.name)?;
        if taken.is_some_and(|other| other.id != row.id) {
            return Err(Error::conflict(format!("Instance \"{}\" already exists", after.name)));
        }
        let runs = row.config.get("volatile.last_state.power").is_some_and(|power| power == "RUNNING");
        let step = Step {
            instance: row.id,
            project: row.project,
            name: row.name,
            action: Action::Migrate,
            from: own,
            to,
            start: runs,
            timeout: plans::timeout(&l),
            why: "it was asked for".into(),
        };
        let part = Part { step, source, target: after.clone() };
        Ok(Body { parts: vec![part], requestor: Some(requestor.clone()) })
    })
    .await
}

/// Row id of the member that it goes to: this one if none is named.
async fn destination(cx: &Cx, l: &Loaded, target: &Target) -> Result<i64> {
    let daemon = &cx.daemon;
    if *target == Target::Any {
        return Ok(daemon.member_id());
    }
    daemon.must_be_clustered()?;
    project_rules::check_target(cx, target).await?;
    let not: &[i64] = if matches!(target, Target::Group(_)) { &[daemon.member_id()] } else { &[] };
    let candidates = placing::candidates_for(daemon, cx.project(), target).await?;
    let eligible = eligible(&candidates, target, l.row.architecture.as_str(), not)?;
    match target {
        // Whoever moves it to a member has decided.
        Target::Member(_) | Target::Any => eligible.first().map(|c| c.id).ok_or_else(|| Error::internal("No member")),
        Target::Group(_) => {
            let scriptlet = daemon.view(scripted::in_force).await?;
            placing::among(daemon, &eligible, &ToPlace::of(l, Reason::Relocation, scriptlet)).await
        }
    }
}

/// The instance as it is to be.
async fn wanted(cx: &Cx, l: &Loaded, new: InstancePost) -> Result<Loaded> {
    let mut row = l.row.clone();
    if !new.name.is_empty() {
        api::name::instance(&new.name)?;
        row.name.clone_from(&new.name);
    }
    if !new.project.is_empty() {
        auth::check(&cx.caller.trust, Allow::Project, &new.project)?;
        row.project.clone_from(&new.project);
    }
    if let Some(config) = &new.config {
        row.config.retain(|key, _| is_volatile(key));
        row.config.extend(config.iter().filter(|(key, _)| !is_volatile(key)).map(|(k, v)| (k.clone(), v.clone())));
        row.config.retain(|_, value| !value.is_empty());
    }
    row.devices = new.devices.clone().unwrap_or(row.devices);
    row.profiles = new.profiles.clone().unwrap_or(row.profiles);
    let expanded = expand(&cx.daemon, row).await?;
    let pool = match (new.pool.is_empty(), new.devices.as_ref().map(disk::root)) {
        (false, _) => new.pool.clone(),
        (true, Some(Ok((_, pool)))) => pool.to_owned(),
        (true, _) => disk::root(&l.devices)?.1.to_owned(),
    };
    let devices = in_pool(&expanded, &pool)?;
    expand(&cx.daemon, Instance { devices, ..expanded.row }).await
}

async fn expand(daemon: &Daemon, row: Instance) -> Result<Loaded> {
    daemon
        .view(move |tx| {
            db::profiles::named(tx, &row.project, &row.profiles)?;
            expanded(tx, row.clone())
        })
        .await
}

/// The own devices with which the root disk lies in that pool.
fn in_pool(l: &Loaded, pool: &str) -> Result<Devices> {
    let mut devices = l.row.devices.clone();
    match disk::root(&l.devices) {
        Ok((_, is)) if is == pool => {}
        Ok((name, _)) => {
            let mut root = l.devices.get(name).cloned().unwrap_or_default();
            root.insert("pool".into(), pool.to_owned());
            devices.insert(name.to_owned(), root);
        }
        Err(_) => {
            let root = [("type", "disk"), ("path", "/"), ("pool", pool)];
            devices.insert("root".into(), root.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        }
    }
    Ok(devices)
}

/// What the instance is before and after.
fn spots(l: &Loaded, wanted: &Loaded, pool: &str, target: &Target, elsewhere: bool) -> (Spot, Spot) {
    let settings = |l: &Loaded| Settings {
        config: l.row.config.iter().filter(|(key, _)| !is_volatile(key)).map(|(k, v)| (k.clone(), v.clone())).collect(),
        devices: l.row.devices.clone(),
        profiles: l.row.profiles.clone(),
    };
    let (old, new) = (settings(l), settings(wanted));
    let changes = old != new;
    let was = |key: &str| l.row.config.get(key).cloned();
    let notes: Vec<_> = NOTED.iter().map(|key| ((*key).to_owned(), was(key))).collect();
    // Whoever moves it by hand says where it belongs.
    let mut noted = notes.clone();
    if elsewhere {
        noted[0].1 = None;
    }
    if let Target::Group(group) = target {
        noted[1].1 = Some(group.clone());
    }
    let spot = |l: &Loaded, settings, notes, pool: &str| Spot {
        pool: pool.to_owned(),
        project: l.row.project.clone(),
        name: l.row.name.clone(),
        settings,
        notes,
    };
    (spot(l, changes.then_some(old), notes, pool), spot(wanted, changes.then_some(new), noted, pool))
}
