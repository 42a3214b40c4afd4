//! `/1.0/images/aliases`: names of images.

use api::endpoint::{encode, in_project};
use api::image::{ImageAliasesEntry, ImageAliasesEntryPost, ImageAliasesEntryPut, ImageAliasesPost};
use api::{Error, Result};
use db::projects::{Feature, holder};
use serde_json::Value;

use super::{found, trusted};
use crate::edge::{Cx, Router};
use crate::events;
use crate::services::Change;

pub fn routes(r: &mut Router) {
    r.list(&api::image::ALIASES, list);
    r.sync(&api::image::ALIAS_CREATE, create);
    r.sync(&api::image::ALIAS_GET, get);
    r.sync(&api::image::ALIAS_PUT, put);
    r.sync(&api::image::ALIAS_PATCH, patch);
    r.sync(&api::image::ALIAS_RENAME, rename);
    r.sync(&api::image::ALIAS_DELETE, delete);
}

fn shown(a: db::aliases::Alias) -> ImageAliasesEntry {
    ImageAliasesEntry {
        description: a.description,
        target: a.target,
        name: a.name,
        kind: a.kind.as_str().into(),
        project: a.project,
    }
}

fn changeable(a: &db::aliases::Alias) -> ImageAliasesEntryPut {
    ImageAliasesEntryPut { description: a.description.clone(), target: a.target.clone() }
}

/// Refuses what could not be told from other things on a command line or in a URL.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::bad_request("Alias name cannot be empty"));
    }
    if name.contains(':') || name.starts_with('-') || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::bad_request(format!(
            "Invalid alias name \"{name}\": it must not hold colons or white space, nor begin with a dash"
        )));
    }
    Ok(())
}

async fn list(cx: Cx, (): ()) -> Result<Vec<ImageAliasesEntry>> {
    let project = cx.project().to_owned();
    let all = cx.daemon.view(move |tx| db::aliases::list(tx, &holder(tx, &project, Feature::Images)?)).await;
    let all = found(&cx, all, Ok(Vec::new()))?;
    let trusted = trusted(&cx);
    Ok(all.into_iter().filter(|a| trusted || a.public).map(shown).collect())
}

async fn find(cx: &Cx) -> Result<db::aliases::Alias> {
    let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
    let alias = cx.daemon.view(move |tx| db::aliases::get(tx, &holder(tx, &project, Feature::Images)?, &name)).await;
    let none = || Err(Error::not_found("Image alias not found"));
    let alias = found(cx, alias, none())?;
    if trusted(cx) || alias.public { Ok(alias) } else { none() }
}

async fn get(cx: Cx, (): ()) -> Result<ImageAliasesEntry> {
    let alias = find(&cx).await?;
    cx.show_etag(&changeable(&alias));
    Ok(shown(alias))
}

async fn create(cx: Cx, new: ImageAliasesPost) -> Result<()> {
    check_name(&new.name)?;
    if new.target.is_empty() {
        return Err(Error::bad_request("Alias name and target are required"));
    }
    let (project, name) = (cx.project().to_owned(), new.name.clone());
    cx.daemon
        .write(move |tx| {
            let project = holder(tx, &project, Feature::Images)?;
            db::aliases::create(tx, &project, &new.name, &new.target, &new.description).map(drop)
        })
        .await?;
    cx.created(tell(&cx, "image-alias-created", &name));
    Ok(())
}

async fn put(cx: Cx, new: ImageAliasesEntryPut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

async fn change(cx: &Cx, change: Change<ImageAliasesEntryPut>) -> Result<()> {
    let (found, request) = (find(cx).await?, cx.clone());
    let name = found.name.clone();
    let written = cx.daemon.write(move |tx| {
        let old = db::aliases::get(tx, &found.project, &found.name)?;
        let new = change.of(&request, &changeable(&old))?;
        if new.target.is_empty() {
            return Err(Error::bad_request("The target field is required"));
        }
        db::aliases::update(tx, &old.project, old.id, &new.target, &new.description)
    });
    written.await?;
    tell(cx, "image-alias-updated", &name);
    Ok(())
}

async fn rename(cx: Cx, new: ImageAliasesEntryPost) -> Result<()> {
    check_name(&new.name)?;
    let id = find(&cx).await?.id;
    let name = new.name.clone();
    cx.daemon.write(move |tx| db::aliases::rename(tx, id, &new.name)).await?;
    cx.created(tell(&cx, "image-alias-renamed", &name));
    Ok(())
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let alias = find(&cx).await?;
    cx.daemon.write(move |tx| db::aliases::delete(tx, alias.id)).await?;
    tell(&cx, "image-alias-deleted", cx.arg(0));
    Ok(())
}

/// Tells what happened to an alias; its URL.
fn tell(cx: &Cx, action: &str, name: &str) -> String {
    let url = in_project(format!("/1.0/images/aliases/{}", encode(name)), cx.project());
    let event = events::lifecycle(action, url.clone(), Some(cx.caller.requestor()));
    cx.daemon.tell_in(&event, cx.project());
    url
}
