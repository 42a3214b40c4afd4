//! `/1.0/instances/{name}/metadata`: what its image says of itself, and the templates of files.

use api::image::ImageMetadata;
use api::{Error, Kind, Result};
use drivers::image::{read_metadata, templates, write_metadata};
use http_body_util::{BodyExt as _, Limited};
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::{files, find_here, tell};
use crate::blocking;
use crate::edge::{Body, Cx, Incoming, Router, reply};
use crate::instances::{self, Loaded};
use crate::services::patched;

pub fn routes(r: &mut Router) {
    r.sync(&api::instance_files::METADATA_GET, get);
    r.sync(&api::instance_files::METADATA_PUT, put);
    r.sync(&api::instance_files::METADATA_PATCH, patch);
    r.raw(&api::instance_files::TEMPLATE_GET, get_template);
    r.raw(&api::instance_files::TEMPLATE_POST, post_template);
    r.sync(&api::instance_files::TEMPLATE_DELETE, delete_template);
}

/// What the instance has now; nothing if its image brought nothing.
async fn now(cx: &Cx, l: &Loaded) -> Result<ImageMetadata> {
    let volume = instances::volume_path(&cx.daemon, l).await?;
    blocking::run(move || match read_metadata(&volume) {
        Err(e) if e.kind == Kind::NotFound => Ok(ImageMetadata::default()),
        read => read,
    })
    .await
}

async fn get(cx: Cx, (): ()) -> Result<ImageMetadata> {
    let l = find_here(&cx).await?;
    let metadata = now(&cx, &l).await?;
    cx.show_etag(&metadata);
    tell(&cx, &l, "instance-metadata-retrieved", []);
    Ok(metadata)
}

async fn put(cx: Cx, metadata: ImageMetadata) -> Result<()> {
    let l = find_here(&cx).await?;
    let _lock = instances::lock(&cx.daemon, l.row.id).await;
    let l = instances::here(&cx.daemon, l.row.id).await?;
    cx.check_etag(&now(&cx, &l).await?)?;
    write(&cx, &l, metadata).await
}

async fn patch(cx: Cx, patch: Value) -> Result<()> {
    let l = find_here(&cx).await?;
    let _lock = instances::lock(&cx.daemon, l.row.id).await;
    let l = instances::here(&cx.daemon, l.row.id).await?;
    let now = now(&cx, &l).await?;
    cx.check_etag(&now)?;
    write(&cx, &l, patched(&now, &patch)?).await
}

async fn write(cx: &Cx, l: &Loaded, metadata: ImageMetadata) -> Result<()> {
    if metadata.architecture.is_empty() {
        return Err(Error::bad_request("The metadata must say for which architecture the image is"));
    }
    if let Some(bad) = metadata.templates.values().map(|t| &t.template).find(|name| templates::check(name).is_err()) {
        return Err(Error::bad_request(format!("\"{bad}\" can't be the name of a template")));
    }
    let volume = instances::volume_path(&cx.daemon, l).await?;
    blocking::run(move || write_metadata(&volume, &metadata)).await?;
    tell(cx, l, "instance-metadata-updated", []);
    Ok(())
}

async fn get_template(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let l = find_here(&cx).await?;
    let volume = instances::volume_path(&cx.daemon, &l).await?;
    let name = cx.param("path").to_owned();
    if name.is_empty() {
        return reply::sync(&blocking::run(move || templates::list(&volume)).await?);
    }
    let wanted = name.clone();
    let content = blocking::run(move || templates::read(&volume, &wanted)).await?;
    tell(&cx, &l, "instance-metadata-template-retrieved", [("path", json!(name))]);
    files::bytes(&name, content)
}

async fn post_template(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let l = find_here(&cx).await?;
    let name = named(&cx)?;
    let body = Limited::new(request.into_body(), templates::MAX).collect().await;
    let too_large =
        |e| Error::bad_request(format!("The template can't be read (at most {} bytes): {e}", templates::MAX));
    let content = body.map_err(too_large)?.to_bytes();
    let volume = instances::volume_path(&cx.daemon, &l).await?;
    let wanted = name.clone();
    blocking::run(move || templates::write(&volume, &wanted, &content)).await?;
    tell(&cx, &l, "instance-metadata-template-created", [("path", json!(name))]);
    reply::sync(&())
}

async fn delete_template(cx: Cx, (): ()) -> Result<()> {
    let l = find_here(&cx).await?;
    let name = named(&cx)?;
    let volume = instances::volume_path(&cx.daemon, &l).await?;
    let wanted = name.clone();
    blocking::run(move || templates::remove(&volume, &wanted)).await?;
    tell(&cx, &l, "instance-metadata-template-deleted", [("path", json!(name))]);
    Ok(())
}

fn named(cx: &Cx) -> Result<String> {
    match cx.param("path") {
        "" => Err(Error::bad_request("Missing path argument")),
        name => Ok(name.to_owned()),
    }
}
