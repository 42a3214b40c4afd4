//! `/1.0/profiles`.

use api::endpoint::in_project;
use api::key::Config;
use api::profile::{Devices, Profile, ProfilePost, ProfilePut, ProfilesPost};
use api::{Error, Result};
use db::Tx;
use db::projects::Feature;
use serde_json::Value;

use crate::edge::{Cx, Router};
use crate::instances::{self, Expander};
use crate::services::{Change, profile_effects, project_rules};

pub fn routes(r: &mut Router) {
    r.list(&api::profile::LIST, list);
    r.sync(&api::profile::CREATE, create);
    r.sync(&api::profile::GET, get);
    r.sync(&api::profile::PUT, put);
    r.sync(&api::profile::PATCH, patch);
    r.sync(&api::profile::RENAME, rename);
    r.sync(&api::profile::DELETE, delete);
}

fn shown(tx: &Tx<'_>, p: db::profiles::Profile) -> Result<Profile> {
    Ok(Profile {
        used_by: db::used_by::profile(tx, p.id)?,
        config: p.config,
        description: p.description,
        devices: p.devices,
        name: p.name,
        project: p.project,
    })
}

async fn list(cx: Cx, (): ()) -> Result<Vec<Profile>> {
    let (project, all) = (cx.project().to_owned(), cx.flag("all-projects"));
    cx.daemon
        .view(move |tx| {
            let holder = if all { None } else { Some(db::projects::holder(tx, &project, Feature::Profiles)?) };
            let profiles = db::profiles::list(tx, holder.as_deref())?;
            profiles.into_iter().map(|p| shown(tx, p)).collect()
        })
        .await
}

fn changeable(p: &db::profiles::Profile) -> ProfilePut {
    ProfilePut { config: p.config.clone(), description: p.description.clone(), devices: p.devices.clone() }
}

async fn get(cx: Cx, (): ()) -> Result<Profile> {
    let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
    let (changeable, profile) = cx
        .daemon
        .view(move |tx| {
            let holder = db::projects::holder(tx, &project, Feature::Profiles)?;
            let profile = db::profiles::get(tx, &holder, &name)?;
            Ok((changeable(&profile), shown(tx, profile)?))
        })
        .await?;
    cx.show_etag(&changeable);
    Ok(profile)
}

async fn create(cx: Cx, new: ProfilesPost) -> Result<()> {
    api::name::plain("profile", &new.name)?;
    check(&new.config, &new.devices)?;
    let (project, name) = (cx.project().to_owned(), new.name.clone());
    cx.daemon
        .write(move |tx| {
            let holder = db::projects::holder(tx, &project, Feature::Profiles)?;
            db::profiles::create(tx, &holder, &new.name, &new.description, &new.config, &new.devices)?;
            project_rules::check(tx, &holder)
        })
        .await?;
    let url = in_project(format!("/1.0/profiles/{name}"), cx.project());
    tell(&cx, "profile-created", url.clone());
    cx.created(url);
    Ok(())
}

async fn put(cx: Cx, new: ProfilePut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

/// Checks what instances with the profile would get from it.
fn check(config: &Config, devices: &Devices) -> Result<()> {
    api::keys::instance::check(config)?;
    instances::devices::validate(devices)
}

async fn change(cx: &Cx, change: Change<ProfilePut>) -> Result<()> {
    let (project, name, request) = (cx.project().to_owned(), cx.arg(0).to_owned(), cx.clone());
    let old = cx
        .daemon
        .write(move |tx| {
            let holder = db::projects::holder(tx, &project, Feature::Profiles)?;
            let old = db::profiles::get(tx, &holder, &name)?;
            let new = change.of(&request, &changeable(&old))?;
            check(&new.config, &new.devices)?;
            db::profiles::update(tx, old.id, &new.description, &new.config, &new.devices)?;
            keeps_roots(tx, &old)?;
            project_rules::check_users_of_profiles(tx, &holder)?;
            Ok(old)
        })
        .await?;
    tell(cx, "profile-updated", in_project(format!("/1.0/profiles/{}", cx.arg(0)), cx.project()));
    let failed = profile_effects::everywhere(&cx.daemon, &old).await?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!(
        "The profile is changed, but not all that run could be updated: {}. The rest takes effect when they start again",
        failed.join("; ")
    )))
}

/// Refuses if an instance would be left without its root disk.
fn keeps_roots(tx: &Tx<'_>, profile: &db::profiles::Profile) -> Result<()> {
    let expander = Expander::new(tx)?;
    for row in profile_effects::users(tx, profile)? {
        let pool = db::volumes::of_instance(tx, row.id)?.pool;
        let name = row.name.clone();
        let l = expander.load(row);
        if incus_core::disk::root(&l.devices).is_ok_and(|(_, has)| has == pool) {
            continue;
        }
        return Err(Error::bad_request(format!(
            "At least one instance relies on this profile's root disk device: {name}"
        )));
    }
    Ok(())
}

async fn rename(cx: Cx, new: ProfilePost) -> Result<()> {
    api::name::plain("profile", &new.name)?;
    let (project, old, name) = (cx.project().to_owned(), cx.arg(0).to_owned(), new.name.clone());
    if old == "default" {
        return Err(Error::bad_request("The \"default\" profile cannot be renamed"));
    }
    cx.daemon
        .write(move |tx| {
            let holder = db::projects::holder(tx, &project, Feature::Profiles)?;
            db::profiles::rename(tx, db::profiles::get(tx, &holder, &old)?.id, &name)
        })
        .await?;
    let url = in_project(format!("/1.0/profiles/{}", new.name), cx.project());
    tell(&cx, "profile-renamed", url.clone());
    cx.created(url);
    Ok(())
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
    if name == "default" {
        return Err(Error::bad_request("The \"default\" profile cannot be deleted"));
    }
    cx.daemon
        .write(move |tx| {
            let holder = db::projects::holder(tx, &project, Feature::Profiles)?;
            let profile = db::profiles::get(tx, &holder, &name)?;
            if !db::used_by::profile(tx, profile.id)?.is_empty() {
                return Err(Error::bad_request("Profile is currently in use"));
            }
            db::profiles::delete(tx, profile.id)
        })
        .await?;
    tell(&cx, "profile-deleted", in_project(format!("/1.0/profiles/{}", cx.arg(0)), cx.project()));
    Ok(())
}

fn tell(cx: &Cx, action: &str, source: String) {
    let event = crate::events::lifecycle(action, source, Some(cx.caller.requestor()));
    cx.daemon.tell_in(&event, cx.project());
}
