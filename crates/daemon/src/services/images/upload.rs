//! `POST /1.0/images`: an image comes in.

use std::sync::Arc;

use api::image::{ImageAlias, ImagesPost};
use api::key::Config;
use api::{Error, Kind, Result};
use bytes::Bytes;
use db::images::{Changes, NewImage};
use db::projects::{Feature, holder};
use db::value::{Architecture, InstanceType};
use drivers::image::Metadata;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use hyper::{Request, Response};
use jiff::Timestamp;
use serde_json::Value;

use super::multipart::Multipart;
use super::store::{self, Received, Sink};
use super::{aliases, tell};
use crate::edge::request::json;
use crate::edge::{Body, Cx, reply};
use crate::operations::{Operation, Resources};

pub async fn create(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let kind = header(&cx, "content-type").to_owned();
    if kind.starts_with("application/json") {
        return from_elsewhere(json(request.into_body()).await?);
    }
    let wishes = Wishes::of(&cx)?;
    let data = Box::pin(data(request.into_body()));
    let received = if kind.starts_with("multipart/form-data") {
        receive_parts(&cx, Multipart::new(&kind, data)?).await?
    } else {
        receive_whole(&cx, data).await?
    };
    if !wishes.fingerprint.is_empty() && wishes.fingerprint != received.fingerprint {
        return Err(Error::bad_request(format!(
            "The image came in damaged: its fingerprint is {}, not {}",
            received.fingerprint, wishes.fingerprint
        )));
    }
    let operation = cx.daemon.operation("Downloading image", cx.project(), Resources::new());
    let daemon = cx.daemon.clone();
    let operation = daemon.run(operation, |operation| async move { add(&cx, received, wishes, &operation).await });
    reply::operation(&operation.view())
}

/// Where images can come from without being sent here.
fn from_elsewhere(new: ImagesPost) -> Result<Response<Body>> {
    let source = new.source.kind;
    Err(match source.as_str() {
        "instance" | "snapshot" => {
            Error::new(Kind::NotImplemented, "This server can't publish instances as images yet")
        }
        "url" => Error::new(
            Kind::NotImplemented,
            "This server doesn't fetch images from URLs: download the file and import it",
        ),
        "image" => Error::new(
            Kind::NotImplemented,
            "This server doesn't fetch images from other servers: use the mode \"relay\", or import a file",
        ),
        other => Error::bad_request(format!("Invalid images type: \"{other}\" is no source of an image")),
    })
}

fn header<'a>(cx: &'a Cx, name: &str) -> &'a str {
    cx.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What the one who sends an image wants it to be.
struct Wishes {
    fingerprint: String,
    filename: String,
    public: bool,
    properties: Config,
    profiles: Option<Vec<String>>,
    aliases: Vec<ImageAlias>,
}

impl Wishes {
    fn of(cx: &Cx) -> Result<Wishes> {
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
        })
    }
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
        Err(e) => Some(Err(Error::bad_request(format!("The image did not come in whole: {e}")))),
    })
}

async fn receive_whole(cx: &Cx, mut data: impl Stream<Item = Result<Bytes>> + Unpin) -> Result<Received> {
    let mut sink = Sink::new(&cx.daemon);
    sink.file().await?;
    while let Some(bytes) = data.next().await {
        sink.data(bytes?).await?;
    }
    sink.end().await
}

async fn receive_parts(cx: &Cx, mut parts: Multipart<impl Stream<Item = Result<Bytes>> + Unpin>) -> Result<Received> {
    let mut sink = Sink::new(&cx.daemon);
    // The fingerprint is that of both, in this order.
    for want in ["metadata", "rootfs"] {
        match parts.next().await?.map(|part| part.name) {
            Some(name) if name == want => {}
            Some(name) if name == "rootfs.img" => {
                return Err(Error::bad_request("Images of virtual machines aren't supported by this server"));
            }
            Some(name) => {
                return Err(Error::bad_request(format!("The part \"{want}\" was expected, not \"{name}\"")));
            }
            None => return Err(Error::bad_request(format!("The part \"{want}\" is missing"))),
        }
        sink.file().await?;
        while let Some(bytes) = parts.chunk().await? {
            sink.data(bytes).await?;
        }
    }
    sink.end().await
}

/// Looks into what came in, and records it.
async fn add(cx: &Cx, received: Received, wishes: Wishes, operation: &Arc<Operation>) -> Result<()> {
    let files = received.files();
    let looked = tokio::task::spawn_blocking(move || drivers::image::inspect(&files)).await;
    let metadata = looked.map_err(|e| Error::internal(format!("Looking into the image crashed: {e}")))??;
    let (fingerprint, size) = (received.fingerprint.clone(), received.size);
    let aliases = wishes.aliases.clone();
    let image = new_image(cx, &received, metadata, wishes)?;
    record(cx, received, image, aliases).await?;
    operation.report([
        ("fingerprint".to_owned(), Value::from(fingerprint.as_str())),
        ("size".to_owned(), Value::from(size.to_string())),
    ]);
    tell(cx, "image-created", &fingerprint, [("type", Value::from(InstanceType::Container.as_str()))]);
    store::replicate(&cx.daemon, cx.project(), &fingerprint);
    Ok(())
}

fn new_image(cx: &Cx, received: &Received, metadata: Metadata, wishes: Wishes) -> Result<NewImage> {
    let moment = |seconds: i64| Timestamp::from_second(seconds).ok().filter(|_| seconds > 0);
    let mut properties = metadata.properties;
    properties.extend(wishes.properties);
    Ok(NewImage {
        fingerprint: received.fingerprint.clone(),
        project: cx.project().to_owned(),
        filename: wishes.filename,
        size: i64::try_from(received.size).unwrap_or(i64::MAX),
        architecture: Architecture::parse_any(&metadata.architecture)?,
        kind: InstanceType::Container,
        created: moment(metadata.creation_date),
        uploaded: Timestamp::now(),
        cached: false,
        source: None,
        changeable: Changes {
            public: wishes.public,
            auto_update: false,
            expires: moment(metadata.expiry_date),
            properties,
            profiles: wishes.profiles.unwrap_or_else(|| vec!["default".into()]),
        },
    })
}

/// Puts the files into place and then records the image; if that is refused, the files go again.
async fn record(cx: &Cx, received: Received, image: NewImage, aliases: Vec<ImageAlias>) -> Result<()> {
    let (daemon, fingerprint) = (&cx.daemon, image.fingerprint.clone());
    let _lock = store::lock(daemon, &fingerprint).await;
    received.place(daemon)?;
    let member = daemon.member_id();
    let recorded = daemon
        .write(move |tx| {
            let project = holder(tx, &image.project, Feature::Images)?;
            let image = NewImage { project: project.clone(), ..image.clone() };
            let id = db::images::create(tx, &image)?;
            db::images::add_location(tx, id, member)?;
            for alias in &aliases {
                db::aliases::create(tx, &project, &alias.name, &image.fingerprint, &alias.description)?;
            }
            Ok(())
        })
        .await;
    if recorded.is_err()
        && let Err(e) = store::remove_locked(daemon, &fingerprint).await
    {
        tracing::warn!("removing the files of the image {fingerprint}, which was refused: {e}");
    }
    recorded
}
