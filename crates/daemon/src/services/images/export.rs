//! Giving out the files of images, to those who may have them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::error::Context as _;
use api::{Error, Result};
use drivers::image::{Files, Format};
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::{Request, Response};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::ReaderStream;

use super::{find, resources, store, tell};
use crate::edge::{Body, Cx, Incoming};
use crate::operations::Operation;

/// What is read from a file at once, in bytes.
const PIECE: usize = 256 << 10;
/// How long a secret is good for once it was used: as long as a client needs to ask again.
const AFTER_USE: Duration = Duration::from_secs(5);
const SECRET: &str = "Image download token";

type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;

fn body(from: impl AsyncRead + Send + Sync + Unpin + 'static) -> Body {
    let stream = ReaderStream::with_capacity(from, PIECE).map_ok(Frame::data);
    StreamBody::new(stream).boxed()
}

async fn open(path: &Path) -> Result<(tokio::fs::File, u64)> {
    let file = tokio::fs::File::open(path).await.context(format!("Opening {}", path.display()))?;
    let size = file.metadata().await.context(format!("Opening {}", path.display()))?.len();
    Ok((file, size))
}

/// The rest of an open file as a body.
pub fn file_stream(file: std::fs::File) -> Body {
    body(tokio::fs::File::from_std(file))
}

/// A file as a body, and its size.
pub async fn file_body(path: &Path) -> Result<(Body, u64)> {
    let (file, size) = open(path).await?;
    Ok((body(file), size))
}

pub async fn export(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let image = find(&cx).await?;
    let fingerprint = image.image.fingerprint;
    let files = store::ensure_local(&cx.daemon, cx.project(), &fingerprint).await?;
    let answer = match &files.rootfs {
        None => whole(&files, &fingerprint).await?,
        Some(rootfs) => split(&files, rootfs, &fingerprint).await?,
    };
    tell(&cx, "image-retrieved", &fingerprint, []);
    Ok(answer)
}

async fn whole(files: &Files, fingerprint: &str) -> Result<Response<Body>> {
    let name = format!("{fingerprint}{}", Format::detect(&files.image)?.extension());
    let (body, size) = file_body(&files.image).await?;
    Response::builder()
        .header("content-type", "application/octet-stream")
        .header("content-length", size)
        .header("content-disposition", format!("inline;filename={name}"))
        .body(body)
        .map_err(|e| Error::internal(e.to_string()))
}

async fn split(files: &Files, rootfs: &Path, fingerprint: &str) -> Result<Response<Body>> {
    let boundary = format!("{:032x}{:028x}", rand::random::<u128>(), rand::random::<u64>());
    let mut all: Reader = Box::new(tokio::io::empty());
    let mut length = 0;
    let parts = [("metadata", "meta-", &*files.image), ("rootfs", "", rootfs)];
    for (i, (field, prefix, path)) in parts.into_iter().enumerate() {
        let name = format!("{prefix}{fingerprint}{}", Format::detect(path)?.extension());
        let head = format!(
            "{}--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            if i == 0 { "" } else { "\r\n" }
        );
        let (file, size) = open(path).await?;
        length += head.len() as u64 + size;
        all = Box::new(all.chain(std::io::Cursor::new(head)).chain(file));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    length += end.len() as u64;
    Response::builder()
        .header("content-type", format!("multipart/form-data; boundary={boundary}"))
        .header("content-length", length)
        .body(body(all.chain(std::io::Cursor::new(end))))
        .map_err(|e| Error::internal(e.to_string()))
}

pub async fn secret(cx: Cx, (): ()) -> Result<Arc<Operation>> {
    let fingerprint = find(&cx).await?.image.fingerprint;
    let secret = hex::encode(rand::random::<[u8; 32]>());
    let mut new = cx.daemon.operation(SECRET, cx.project(), resources(&fingerprint, cx.project()));
    new.metadata.insert(crate::operations::SECRET.into(), secret.into());
    tell(&cx, "image-secret-created", &fingerprint, []);
    Ok(cx.daemon.operations.token(new))
}

/// True if the request holds a secret that was given out for the image on this member.
pub fn knows_secret(cx: &Cx, fingerprint: &str) -> bool {
    let given = cx.param("secret");
    if given.is_empty() {
        return false;
    }
    let project = cx.project();
    let about = resources(fingerprint, project);
    let fits = |o: &Arc<Operation>| {
        let view = o.view();
        let secret = view.metadata.as_ref().and_then(|m| m.get(crate::operations::SECRET)).and_then(Value::as_str);
        view.description == SECRET && view.resources.as_ref() == Some(&about) && secret == Some(given)
    };
    let Some(token) = cx.daemon.operations.list().into_iter().find(fits) else { return false };
    let daemon = cx.daemon.clone();
    tokio::spawn(async move {
        tokio::time::sleep(AFTER_USE).await;
        daemon.operations.end_token(&token.id());
    });
    true
}
