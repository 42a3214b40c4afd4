//! `/1.0/projects`.

use std::sync::Arc;

use api::certificate::AccessEntry;
use api::key::Config;
use api::project::{Project, ProjectPost, ProjectPut, ProjectState, ProjectsPost};
use api::{Error, Result};
use db::Tx;
use serde_json::Value;

use crate::edge::auth::Trust;
use crate::edge::{Cx, Router};
use crate::operations::{Operation, Resources};
use crate::services::{Change, certificates, project_rules};
use crate::state::Daemon;

pub fn routes(r: &mut Router) {
    r.list(&api::project::LIST, list);
    r.sync(&api::project::CREATE, create);
    r.sync(&api::project::GET, get);
    r.sync(&api::project::ACCESS, access);
    r.sync(&api::project::STATE, state);
    r.sync(&api::project::PUT, put);
    r.sync(&api::project::PATCH, patch);
    r.operation(&api::project::RENAME, rename);
    r.sync(&api::project::DELETE, delete);
}

fn shown(tx: &Tx<'_>, p: db::projects::Project) -> Result<Project> {
    Ok(Project {
        used_by: db::used_by::project(tx, &p.name)?,
        config: p.config,
        description: p.description,
        name: p.name,
    })
}

fn visible(cx: &Cx, name: &str) -> bool {
    match &cx.caller.trust {
        Trust::Restricted(projects) => projects.contains(name),
        _ => true,
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<Project>> {
    let all: Vec<Project> =
        cx.daemon.view(|tx| db::projects::list(tx)?.into_iter().map(|p| shown(tx, p)).collect()).await?;
    Ok(all.into_iter().filter(|p| visible(&cx, &p.name)).collect())
}

async fn find(cx: &Cx) -> Result<Project> {
    let name = cx.arg(0).to_owned();
    if !visible(cx, &name) {
        return Err(Error::not_found("Project not found"));
    }
    by_name(&cx.daemon, name).await
}

/// A project as clients see it.
pub async fn by_name(daemon: &Daemon, name: String) -> Result<Project> {
    daemon.view(move |tx| shown(tx, db::projects::get(tx, &name)?)).await
}

fn changeable(p: &db::projects::Project) -> ProjectPut {
    ProjectPut { config: p.config.clone(), description: p.description.clone() }
}

async fn get(cx: Cx, (): ()) -> Result<Project> {
    let project = find(&cx).await?;
    cx.show_etag(&ProjectPut { config: project.config.clone(), description: project.description.clone() });
    Ok(project)
}

async fn access(cx: Cx, (): ()) -> Result<Vec<AccessEntry>> {
    let name = find(&cx).await?.name;
    certificates::access(&cx, name).await
}

async fn state(cx: Cx, (): ()) -> Result<ProjectState> {
    let name = find(&cx).await?.name;
    cx.daemon.view(move |tx| project_rules::state(tx, &name)).await
}

/// What a new project has of its own unless it says otherwise.
const FEATURES: [(&str, &str); 4] = [
    ("features.images", "true"),
    ("features.profiles", "true"),
    ("features.storage.buckets", "true"),
    ("features.storage.volumes", "true"),
];

async fn create(cx: Cx, mut new: ProjectsPost) -> Result<()> {
    api::name::plain("project", &new.name)?;
    if new.name.contains('_') {
        return Err(Error::bad_request("Project names may not contain underscores"));
    }
    for (key, value) in FEATURES {
        new.config.entry(key.into()).or_insert_with(|| value.into());
    }
    new.config.retain(|_, value| !value.is_empty());
    api::keys::project::check(&new.config)?;
    let name = new.name.clone();
    let made = cx.daemon.write(move |tx| {
        must_be_groups(tx, &new.config)?;
        db::projects::create(tx, &new.name, &new.description, &new.config)
    });
    made.await?;
    let url = format!("/1.0/projects/{name}");
    cx.daemon.tell("project-created", url.clone(), &cx.caller);
    cx.created(url);
    Ok(())
}

async fn put(cx: Cx, new: ProjectPut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

/// Refuses groups that are not there.
fn must_be_groups(tx: &Tx<'_>, config: &Config) -> Result<()> {
    incus_core::project::groups(config).iter().try_for_each(|group| db::groups::get(tx, group).map(drop)).map_err(|e| {
        let key = api::keys::project::RESTRICTED_GROUPS.name;
        Error::bad_request(format!("Invalid project configuration key \"{key}\" value: {}", e.message))
    })
}

async fn change(cx: &Cx, change: Change<ProjectPut>) -> Result<()> {
    let (request, name) = (cx.clone(), find(cx).await?.name);
    let url = format!("/1.0/projects/{name}");
    cx.daemon
        .write(move |tx| {
            let old = db::projects::get(tx, &name)?;
            let mut new = change.of(&request, &changeable(&old))?;
            new.config.retain(|_, value| !value.is_empty());
            check(tx, &old, &new)?;
            must_be_groups(tx, &new.config)?;
            db::projects::update(tx, old.id, &new.description, &new.config)?;
            // What is there already is not left outside of the rules.
            project_rules::check(tx, &name)
        })
        .await?;
    cx.daemon.tell("project-updated", url, &cx.caller);
    Ok(())
}

/// Refuses what a project can't become.
fn check(tx: &Tx<'_>, old: &db::projects::Project, new: &ProjectPut) -> Result<()> {
    api::keys::project::check(&new.config)?;
    let feature = |k: &String| k.starts_with("features.");
    let changed = new
        .config
        .keys()
        .chain(old.config.keys())
        .filter(|k| feature(k))
        .find(|k| new.config.get(*k).map_or("", String::as_str) != old.config.get(*k).map_or("", String::as_str));
    if let Some(key) = changed {
        if old.name == "default" {
            return Err(Error::bad_request("You can't change the features of the default project"));
        }
        // A project with nothing but its own default profile counts as empty.
        let users = db::used_by::project(tx, &old.name)?;
        if users.iter().any(|u| !u.starts_with("/1.0/profiles/default")) {
            return Err(Error::bad_request(format!(
                "Project feature \"{key}\" cannot be changed on non-empty projects"
            )));
        }
    }
    Ok(())
}

async fn rename(cx: Cx, new: ProjectPost) -> Result<Arc<Operation>> {
    api::name::plain("project", &new.name)?;
    let old = find(&cx).await?;
    if old.name == "default" {
        return Err(Error::forbidden("The 'default' project cannot be renamed"));
    }
    if old.used_by.iter().any(|u| !u.starts_with("/1.0/profiles/default")) {
        return Err(Error::bad_request("Only empty projects can be renamed"));
    }
    let daemon = cx.daemon.clone();
    let begin = daemon.operation("Renaming project", "", Resources::new());
    Ok(cx.daemon.run(begin, move |_| async move {
        let (from, to) = (old.name, new.name.clone());
        daemon.write(move |tx| db::projects::rename(tx, db::projects::id(tx, &from)?, &to)).await?;
        daemon.tell("project-renamed", format!("/1.0/projects/{}", new.name), &cx.caller);
        Ok(())
    }))
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let project = find(&cx).await?;
    if project.name == "default" {
        return Err(Error::forbidden("The 'default' project cannot be deleted"));
    }
    if project.used_by.iter().any(|u| !u.starts_with("/1.0/profiles/default")) {
        return Err(Error::bad_request("Only empty projects can be removed"));
    }
    let name = project.name.clone();
    cx.daemon.write(move |tx| db::projects::delete(tx, db::projects::id(tx, &name)?)).await?;
    cx.daemon.tell("project-deleted", format!("/1.0/projects/{}", project.name), &cx.caller);
    Ok(())
}
