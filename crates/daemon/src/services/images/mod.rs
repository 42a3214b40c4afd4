//! `/1.0/images`: what is known of images, and changing it. Their files are in [`store`].

pub mod add;
mod aliases;
mod direct;
pub mod expire;
pub mod export;
mod incoming;
pub(crate) mod multipart;
mod publish;
pub mod refresh;
pub mod remote;
pub mod store;
pub(crate) mod streams;
mod upload;

use std::sync::Arc;

use api::endpoint::{Allow, in_project};
use api::image::{Image, ImageAlias, ImagePut, ImageSource};
use api::{Error, Kind, Result};
use db::Tx;
use db::images::Changes;
use db::projects::{Feature, holder};
use jiff::Timestamp;
use serde_json::Value;

use super::{Change, never};
use crate::edge::auth::may;
use crate::edge::{Cx, Router};
use crate::events;
use crate::operations::{Operation, Resources};
use crate::state::Daemon;

#[allow(unused_imports, reason = "for those who make instances")]
pub use store::ensure_local;

pub fn routes(r: &mut Router) {
    r.list(&api::image::LIST, list);
    r.raw(&api::image::CREATE, upload::create);
    r.sync(&api::image::GET, get);
    r.sync(&api::image::PUT, put);
    r.sync(&api::image::PATCH, patch);
    r.operation(&api::image::DELETE, delete);
    r.operation(&api::image::REFRESH, refresh::refresh);
    r.raw(&api::image::EXPORT, export::export);
    r.operation(&api::image::SECRET, export::secret);
    r.raw(&api::image::INTERNAL_GET, store::serve);
    r.sync(&api::image::INTERNAL_FETCH, store::fetch);
    r.sync(&api::image::INTERNAL_DELETE, store::remove);
    aliases::routes(r);
}

/// The image that is meant by an alias, a fingerprint or the beginning of one, in a project.
pub async fn resolve(daemon: &Arc<Daemon>, project: &str, name: &str) -> Result<db::images::Image> {
    let (project, name) = (project.to_owned(), name.to_owned());
    daemon
        .view(move |tx| {
            let project = holder(tx, &project, Feature::Images)?;
            match db::aliases::get(tx, &project, &name) {
                Ok(alias) => db::images::get(tx, &project, &alias.target),
                Err(e) if e.kind == Kind::NotFound => db::images::get(tx, &project, &name),
                Err(e) => Err(e),
            }
        })
        .await
}

/// Records that an instance was made from an image, in whichever project it lies.
pub async fn used(daemon: &Arc<Daemon>, fingerprint: &str) -> Result<()> {
    let (fingerprint, now) = (fingerprint.to_owned(), Timestamp::now());
    let used = move |tx: &Tx<'_>| {
        db::images::same(tx, &fingerprint)?.iter().try_for_each(|i| db::images::set_last_used(tx, i.id, now))
    };
    daemon.write(used).await
}

fn shown(i: db::images::Image) -> Image {
    let new = i.image;
    Image {
        auto_update: new.changeable.auto_update,
        properties: new.changeable.properties,
        public: new.changeable.public,
        expires_at: new.changeable.expires.unwrap_or_else(never),
        profiles: new.changeable.profiles,
        aliases: i.aliases.into_iter().map(|a| ImageAlias { name: a.name, description: a.description }).collect(),
        architecture: new.architecture.as_str().into(),
        cached: new.cached,
        filename: new.filename,
        fingerprint: new.fingerprint,
        size: new.size,
        update_source: new.source.map(|s| ImageSource {
            alias: s.alias,
            certificate: s.certificate,
            protocol: s.protocol.as_str().into(),
            server: s.server,
            image_type: new.kind.as_str().into(),
        }),
        kind: new.kind.as_str().into(),
        created_at: new.created.unwrap_or_else(never),
        last_used_at: i.last_used.unwrap_or_else(never),
        uploaded_at: new.uploaded,
        project: new.project,
        locations: i.locations,
    }
}

/// True if the caller may see everything in the project that they ask about.
fn trusted(cx: &Cx) -> bool {
    may(&cx.caller.trust, Allow::Project, cx.project())
}

/// What was found, or `nothing`: to those who may not use it, a project that does not exist is one with nothing public.
fn found<T>(cx: &Cx, found: Result<T>, nothing: Result<T>) -> Result<T> {
    match found {
        Err(e) if !e.retryable() && !trusted(cx) => nothing,
        found => found,
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<Image>> {
    let (project, all) = (cx.project().to_owned(), cx.flag("all-projects"));
    let images = cx.daemon.view(move |tx| {
        let project = if all { None } else { Some(holder(tx, &project, Feature::Images)?) };
        db::images::list(tx, project.as_deref())
    });
    let images = found(&cx, images.await, Ok(Vec::new()))?;
    let all = trusted(&cx);
    Ok(images.into_iter().map(shown).filter(|i| all || i.public).collect())
}

/// The image of the request, if the caller may see it.
async fn find(cx: &Cx) -> Result<db::images::Image> {
    let (project, prefix) = (cx.project().to_owned(), cx.arg(0).to_owned());
    let image = cx.daemon.view(move |tx| db::images::get(tx, &holder(tx, &project, Feature::Images)?, &prefix));
    let none = || Err(Error::not_found("Image not found"));
    let image = found(cx, image.await, none())?;
    let may = trusted(cx) || image.image.changeable.public || export::knows_secret(cx, &image.image.fingerprint);
    if may { Ok(image) } else { none() }
}

fn changeable(i: &db::images::Image) -> ImagePut {
    let c = i.image.changeable.clone();
    ImagePut {
        auto_update: c.auto_update,
        properties: c.properties,
        public: c.public,
        expires_at: Some(c.expires.unwrap_or_else(never)),
        profiles: Some(c.profiles),
    }
}

async fn get(cx: Cx, (): ()) -> Result<Image> {
    let image = find(&cx).await?;
    cx.show_etag(&changeable(&image));
    Ok(shown(image))
}

async fn put(cx: Cx, new: ImagePut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, mut new: Value) -> Result<()> {
    if let Some(fields) = new.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    change(&cx, Change::Patch(new)).await
}

async fn change(cx: &Cx, change: Change<ImagePut>) -> Result<()> {
    let (found, request) = (find(cx).await?.image, cx.clone());
    let fingerprint = found.fingerprint.clone();
    let written = cx.daemon.write(move |tx| {
        let old = db::images::get(tx, &found.project, &found.fingerprint)?;
        let new = change.of(&request, &changeable(&old))?;
        let changes = Changes {
            public: new.public,
            auto_update: new.auto_update,
            expires: moment(new.expires_at),
            properties: new.properties,
            profiles: new.profiles.unwrap_or(old.image.changeable.profiles),
        };
        db::images::update(tx, old.id, &changes)
    });
    written.await?;
    tell(cx, "image-updated", &fingerprint, []);
    Ok(())
}

/// A moment that clients send, where the year 1 means never.
fn moment(sent: Option<Timestamp>) -> Option<Timestamp> {
    sent.filter(|t| *t != never())
}

async fn delete(cx: Cx, (): ()) -> Result<Arc<Operation>> {
    let image = find(&cx).await?;
    let fingerprint = image.image.fingerprint.clone();
    let operation = cx.daemon.operation("Deleting image", cx.project(), resources(&fingerprint, cx.project()));
    let daemon = cx.daemon.clone();
    Ok(daemon.run(operation, |_| async move {
        let print = fingerprint.clone();
        let holders = cx
            .daemon
            .write(move |tx| {
                let holders = db::images::holders(tx, &print)?;
                db::images::delete(tx, image.id)?;
                Ok(holders)
            })
            .await?;
        tell(&cx, "image-deleted", &fingerprint, []);
        store::remove_everywhere(&cx.daemon, &fingerprint, holders).await;
        Ok(())
    }))
}

/// An operation is about this image.
fn resources(fingerprint: &str, project: &str) -> Resources {
    [("images".to_owned(), Some(vec![in_project(format!("/1.0/images/{fingerprint}"), project)]))].into()
}

fn tell<const N: usize>(cx: &Cx, action: &str, fingerprint: &str, context: [(&'static str, Value); N]) {
    let source = in_project(format!("/1.0/images/{fingerprint}"), cx.project());
    let event = events::lifecycle(action, source, Some(cx.caller.requestor()));
    cx.daemon.tell_in(&events::with_context(event, context), cx.project());
}
