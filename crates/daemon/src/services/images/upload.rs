//! `POST /1.0/images`: an image comes in, or is to be got from somewhere.

use api::image::{ImageAlias, ImagesPost};
use api::{Error, Result};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyStream;
use hyper::{Request, Response};

use super::add::{Wishes, add};
use super::incoming::Received;
use super::{aliases, direct, incoming, publish, remote};
use crate::edge::request::{discard, json};
use crate::edge::{Body, Cx, Incoming, reply};
use crate::operations::Resources;

pub async fn create(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let kind = header(&cx, "content-type").to_owned();
    if kind.starts_with("application/json") {
        return from_elsewhere(cx, json(request.into_body()).await?).await;
    }
    let mut data = Box::pin(data(request.into_body()));
    let (wishes, received) = match receive(&cx, &kind, &mut data).await {
        Ok(received) => received,
        Err(e) => {
            discard(data).await;
            return Err(e);
        }
    };
    let operation = cx.daemon.operation("Downloading image", cx.project(), Resources::new());
    let daemon = cx.daemon.clone();
    let operation = daemon.run(operation, |operation| async move { add(&cx, received, wishes, &operation).await });
    reply::operation(&operation.view())
}

async fn receive(
    cx: &Cx,
    kind: &str,
    data: &mut (impl Stream<Item = Result<Bytes>> + Unpin),
) -> Result<(Wishes, Received)> {
    let wishes = sent(cx)?;
    let received = incoming::receive(&cx.daemon, kind, data, |_| ()).await?;
    wishes.must_be(&received)?;
    Ok((wishes, received))
}

/// Images come from instances, web servers and other servers like this one, too.
async fn from_elsewhere(cx: Cx, new: ImagesPost) -> Result<Response<Body>> {
    match new.source.kind.as_str() {
        "instance" | "snapshot" => publish::publish(cx, new).await,
        "url" => direct::create(cx, new).await,
        "image" => remote::create(cx, new).await,
        other => Err(Error::bad_request(format!("Invalid images type: \"{other}\" is no source of an image"))),
    }
}

fn header<'a>(cx: &'a Cx, name: &str) -> &'a str {
    cx.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What the headers of an upload say.
fn sent(cx: &Cx) -> Result<Wishes> {
    let pairs = |name: &str| pairs(header(cx, name));
    let named = |name: &str, key: &str| -> Vec<String> {
        pairs(name).into_iter().filter(|(k, _)| k == key).map(|(_, v)| v).collect()
    };
    let aliases = named("x-incus-aliases", "alias");
    aliases.iter().try_for_each(|name| aliases::check_name(name))?;
    let profiles = header(cx, "x-incus-profiles");
    let filename = header(cx, "x-incus-filename");
    Ok(Wishes {
        fingerprint: header(cx, "x-incus-fingerprint").to_owned(),
        filename: filename.rsplit('/').next().unwrap_or_default().to_owned(),
        public: matches!(header(cx, "x-incus-public"), "1" | "true" | "yes" | "on"),
        properties: pairs("x-incus-properties").into_iter().collect(),
        profiles: (!profiles.is_empty()).then(|| named("x-incus-profiles", "profile")),
        aliases: aliases.into_iter().map(|name| ImageAlias { name, description: String::new() }).collect(),
        ..Wishes::default()
    })
}

/// Reads `a=b&a=c`.
fn pairs(query: &str) -> Vec<(String, String)> {
    let plain = |s: &str| api::endpoint::decode(&s.replace('+', " "));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (plain(k), plain(v))).collect()
}

fn data(body: Incoming) -> impl Stream<Item = Result<Bytes>> {
    BodyStream::new(body).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(e) => Some(Err(e.context("The image did not come in whole"))),
    })
}
