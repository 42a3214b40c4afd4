//! Images that other servers offer: Incus servers, and servers of simple streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::endpoint::encode;
use api::envelope::Envelope;
use api::image::{Image, ImageAliasesEntry, ImagesPost, ImagesPostSource};
use api::instance::InstanceSource;
use api::key::Config;
use api::{Error, Kind, Result};
use client::{Web, web};
use db::images::{Protocol, Source};
use db::projects::{Feature, holder};
use db::value::Architecture;
use futures::stream;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{Response, Uri};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::add::{Wishes, add, done};
use super::incoming::{self, Received};
use super::{moment, store, streams};
use crate::edge::{Body, Cx, reply};
use crate::operations::{Operation, Resources};
use crate::state::Daemon;

/// Which image of which server is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    server: String,
    protocol: String,
    certificate: String,
    secret: String,
    project: String,
    alias: String,
    fingerprint: String,
}

macro_rules! said_by {
    ($($source:ty)*) => {
        $(impl From<&$source> for Wanted {
            fn from(s: &$source) -> Wanted {
                Wanted {
                    server: s.server.clone(),
                    protocol: s.protocol.clone(),
                    certificate: s.certificate.clone(),
                    secret: s.secret.clone(),
                    project: s.project.clone(),
                    alias: s.alias.clone(),
                    fingerprint: s.fingerprint.clone(),
                }
            }
        })*
    };
}
said_by!(ImagesPostSource InstanceSource);

impl Wanted {
    /// The same name of the same server once more.
    pub fn again(source: &Source) -> Wanted {
        Wanted {
            server: source.server.clone(),
            protocol: source.protocol.as_str().to_owned(),
            certificate: source.certificate.clone(),
            alias: source.alias.clone(),
            ..Wanted::default()
        }
    }
}

/// A file that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it is.
    pub url: String,
    /// Its SHA-256, in hexadecimal; empty if it isn't told.
    pub sha256: String,
}

/// An image that a server offers.
#[derive(Clone)]
pub struct Offer {
    /// SHA-256 of its files.
    pub fingerprint: String,
    /// For what architecture it is.
    pub architecture: Architecture,
    /// What is said about it.
    pub properties: Config,
    /// When it expires.
    pub expires: Option<jiff::Timestamp>,
    /// Name of its file.
    pub filename: String,
    /// Its files: one that may hold both parts, or two.
    pub parts: Vec<Part>,
    web: Web,
    source: Option<Source>,
}

/// What a server of simple streams tells of an image.
pub struct Told {
    /// SHA-256 of its files.
    pub fingerprint: String,
    /// For what architecture it is.
    pub architecture: Architecture,
    /// What is said about it.
    pub properties: Config,
    /// Its files.
    pub parts: Vec<Part>,
}

impl Offer {
    /// Asks the server for it.
    pub async fn find(cx: &Cx, wanted: &Wanted) -> Result<Offer> {
        must_be_allowed(cx, &wanted.server).await?;
        if !wanted.server.starts_with("https://") {
            return Err(Error::bad_request(format!(
                "The server of an image must be https://…, not \"{}\"",
                wanted.server
            )));
        }
        if wanted.alias.is_empty() && wanted.fingerprint.is_empty() {
            return Err(Error::bad_request("The alias or the fingerprint of the image is missing"));
        }
        let web = cx.daemon.web(&wanted.certificate).await?;
        let (offer, protocol) = match wanted.protocol.as_str() {
            "" | "incus" | "lxd" => (of_incus(web, wanted).await?, Protocol::Incus),
            "simplestreams" => {
                let name = if wanted.alias.is_empty() { &wanted.fingerprint } else { &wanted.alias };
                let told = streams::find(&web, &wanted.server, name).await?;
                let offer = Offer {
                    fingerprint: told.fingerprint,
                    architecture: told.architecture,
                    properties: told.properties,
                    expires: None,
                    filename: told.parts.first().map(|p| filename(&p.url)).unwrap_or_default(),
                    parts: told.parts,
                    web,
                    source: None,
                };
                (offer, Protocol::Simplestreams)
            }
            "oci" => {
                return Err(Error::new(Kind::NotImplemented, "Application containers (OCI) aren't supported yet"));
            }
            other => return Err(Error::bad_request(format!("Unknown protocol of an image server: \"{other}\""))),
        };
        let source = (!wanted.alias.is_empty() && wanted.alias != offer.fingerprint).then(|| Source {
            server: wanted.server.clone(),
            protocol,
            certificate: wanted.certificate.clone(),
            alias: wanted.alias.clone(),
        });
        Ok(Offer { source, ..offer })
    }

    /// Makes sure that the project has the image.
    pub async fn obtain(&self, cx: &Cx, wishes: Wishes, operation: &Arc<Operation>) -> Result<()> {
        let _alone = crate::locks::hold(cx.daemon.paths.images().join(format!("{}.fetch", self.fingerprint))).await;
        if self.known(cx, &wishes, operation).await? {
            return Ok(());
        }
        let received = unless_cancelled(operation, self.download(cx, operation)).await?;
        let mut properties = self.properties.clone();
        properties.extend(wishes.properties);
        let filename = if wishes.filename.is_empty() { self.filename.clone() } else { wishes.filename };
        let wishes = Wishes {
            fingerprint: self.fingerprint.clone(),
            filename,
            properties,
            expires: wishes.expires.or(self.expires),
            source: self.source.clone(),
            ..wishes
        };
        let (cached, again) = (wishes.cached, wishes.clone());
        match add(cx, received, wishes, operation).await {
            // Another member was faster.
            Err(e) if e.kind == Kind::Conflict && cached && self.known(cx, &again, operation).await? => {
                store::note(&cx.daemon, &self.fingerprint).await
            }
            added => added,
        }
    }

    /// True if the project has the image; then it gets the new names and stays.
    async fn known(&self, cx: &Cx, wishes: &Wishes, operation: &Arc<Operation>) -> Result<bool> {
        let (project, fingerprint) = (cx.project().to_owned(), self.fingerprint.clone());
        let wishes = wishes.clone();
        let known = cx
            .daemon
            .write(move |tx| {
                let project = holder(tx, &project, Feature::Images)?;
                let image = match db::images::get(tx, &project, &fingerprint) {
                    Err(e) if e.kind == Kind::NotFound => return Ok(None),
                    found => found?,
                };
                if image.image.cached && !wishes.cached {
                    db::images::set_cached(tx, image.id, false)?;
                }
                for alias in &wishes.aliases {
                    db::aliases::create(tx, &project, &alias.name, &fingerprint, &alias.description)?;
                }
                Ok(Some(image.image.size))
            })
            .await?;
        if let Some(size) = known {
            done(operation, &self.fingerprint, u64::try_from(size).unwrap_or(0));
        }
        Ok(known.is_some())
    }

    async fn download(&self, cx: &Cx, operation: &Arc<Operation>) -> Result<Received> {
        match self.parts.as_slice() {
            [one] => download(&cx.daemon, &self.web, &one.url, operation).await,
            several => {
                let mut sink = incoming::Sink::new(&cx.daemon);
                let mut came = 0;
                let tell = progress(operation.clone());
                for part in several {
                    let mut body = begin(&cx.daemon, &self.web, &part.url).await?.into_body();
                    sink.file().await?;
                    while let Some(data) = web::more(&mut body).await {
                        let data = data?;
                        came += data.len() as u64;
                        tell(came);
                        sink.data(data).await?;
                    }
                }
                sink.end().await
            }
        }
    }
}

/// `POST /1.0/images` with the image of another server as its source.
pub async fn create(cx: Cx, new: ImagesPost) -> Result<Response<Body>> {
    if !matches!(new.source.mode.as_str(), "" | "pull") {
        return Err(Error::new(
            Kind::NotImplemented,
            format!("The transfer mode \"{}\" isn't supported: use the mode \"pull\" or \"relay\"", new.source.mode),
        ));
    }
    let wishes = Wishes::of(&new)?;
    wishes.must_be_free(&cx).await?;
    let wanted = Wanted::from(&new.source);
    must_be_allowed(&cx, &wanted.server).await?;
    let mut operation = cx.daemon.operation("Downloading image", cx.project(), Resources::new());
    operation.may_cancel = true;
    let daemon = cx.daemon.clone();
    let operation = daemon.run(operation, |operation| async move {
        let offer = unless_cancelled(&operation, Offer::find(&cx, &wanted)).await?;
        offer.obtain(&cx, wishes, &operation).await
    });
    reply::operation(&operation.view())
}

/// Does the work unless the operation is cancelled; what was received until then goes. Not for work that must not be
/// torn down in the middle, as recording what was received.
pub async fn unless_cancelled<T>(operation: &Operation, work: impl Future<Output = Result<T>>) -> Result<T> {
    let cancelled = operation.cancelled();
    tokio::select! {
        done = work => done,
        () = cancelled.cancelled() => Err(Error::bad_request("Cancelled")),
    }
}

/// Gets the file or files behind a URL.
pub async fn download(daemon: &Daemon, web: &Web, url: &str, operation: &Arc<Operation>) -> Result<Received> {
    let answer = begin(daemon, web, url).await?;
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let data = stream::unfold(answer.into_body(), async |mut body| Some((web::more(&mut body).await?, body)));
    incoming::receive(daemon, &kind, Box::pin(data), progress(operation.clone())).await
}

/// Begins to get a file, if it fits.
async fn begin(daemon: &Daemon, web: &Web, url: &str) -> Result<Response<hyper::body::Incoming>> {
    let answer = web.get(url).await?;
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    incoming::must_fit(&daemon.paths.images(), length.unwrap_or(0))?;
    Ok(answer)
}

/// Tells now and then how much has come.
fn progress(operation: Arc<Operation>) -> impl Fn(u64) {
    /// Bytes between two reports.
    const STEP: u64 = 1 << 20;
    let told = AtomicU64::new(0);
    move |bytes| {
        if bytes / STEP > told.swap(bytes / STEP, Ordering::Relaxed) {
            operation.report([("download_progress".to_owned(), Value::from(format!("{}MB", bytes >> 20)))]);
        }
    }
}

/// Refuses servers that the project is not to have images from.
pub async fn must_be_allowed(cx: &Cx, url: &str) -> Result<()> {
    let project = cx.project().to_owned();
    let project = cx.daemon.view(move |tx| db::projects::get(tx, &project)).await?;
    let set = |key: &str| project.config.get(key).map_or("", String::as_str);
    let allowed = set("restricted.images.servers");
    if set("restricted") != "true" || allowed.is_empty() {
        return Ok(());
    }
    let host = url.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_owned)).unwrap_or_default();
    if allowed.split(',').any(|one| one.trim() == host) {
        return Ok(());
    }
    Err(Error::forbidden(format!("The project doesn't allow images from the server \"{host}\"")))
}

fn filename(url: &str) -> String {
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

async fn of_incus(web: Web, wanted: &Wanted) -> Result<Offer> {
    let server = wanted.server.trim_end_matches('/');
    let project = if wanted.project.is_empty() { "default" } else { &wanted.project };
    let project = encode(project);
    let mut name = wanted.fingerprint.clone();
    if name.is_empty() {
        let url = format!("{server}/1.0/images/aliases/{}?project={project}", encode(&wanted.alias));
        name = match get::<ImageAliasesEntry>(&web, &url).await {
            Ok(alias) => alias.target,
            Err(e) if e.kind == Kind::NotFound => wanted.alias.clone(),
            Err(e) => return Err(e),
        };
    }
    let mut query = format!("project={project}");
    if !wanted.secret.is_empty() {
        query += &format!("&secret={}", encode(&wanted.secret));
    }
    let image: Image = get(&web, &format!("{server}/1.0/images/{}?{query}", encode(&name))).await?;
    if image.kind != "container" {
        return Err(Error::bad_request("Images of virtual machines aren't supported by this server"));
    }
    if !store::is_fingerprint(&image.fingerprint) {
        return Err(Error::bad_request("The server of the image names an impossible fingerprint"));
    }
    let url = format!("{server}/1.0/images/{}/export?{query}", image.fingerprint);
    Ok(Offer {
        architecture: Architecture::parse_any(&image.architecture)?,
        properties: image.properties,
        expires: moment(Some(image.expires_at)),
        filename: filename(&image.filename),
        parts: vec![Part { url, sha256: image.fingerprint.clone() }],
        fingerprint: image.fingerprint,
        web,
        source: None,
    })
}

/// Asks another Incus server.
async fn get<T: DeserializeOwned>(web: &Web, url: &str) -> Result<T> {
    let shown = url.split('?').next().unwrap_or_default();
    let bad = |e: serde_json::Error| Error::bad_request(format!("{shown} is no Incus server's answer: {e}"));
    let envelope: Envelope = serde_json::from_slice(&web.bytes(url).await?).map_err(bad)?;
    envelope.as_error().map_or(Ok(()), Err)?;
    serde_json::from_value(envelope.metadata).map_err(bad)
}
