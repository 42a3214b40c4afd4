//! Images of instances and of their snapshots. The member that has the instance makes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api::image::{ImageMetadata, ImagesPost};
use api::key::Read as _;
use api::{Error, Result};
use drivers::image::{Compression, Content, Pack};
use hyper::Response;
use jiff::Timestamp;
use serde_json::Value;

use super::add::{Wishes, add};
use super::incoming::{Received, Writer};
use crate::edge::{Body, Cx, forward, reply};
use crate::instances::{self, Loaded, expanded};
use crate::operations::{Operation, Resources};
use crate::{blocking, services};

/// Bytes between two reports of progress.
const STEP: u64 = 4 << 20;
const RUNS: &str = "Cannot export a running instance as an image: stop it first, or publish a snapshot";

/// Of what an image is made.
struct Original {
    loaded: Loaded,
    snapshot: Option<String>,
    pool: String,
}

impl Original {
    async fn find(cx: &Cx, new: &ImagesPost) -> Result<Original> {
        let source = &new.source;
        let (name, snapshot) = match (source.kind.as_str(), source.name.split_once('/')) {
            _ if source.name.is_empty() => return Err(Error::bad_request("The name of what to publish is missing")),
            ("snapshot", Some((name, snapshot))) => (name.to_owned(), Some(snapshot.to_owned())),
            ("snapshot", None) => return Err(Error::bad_request(format!("\"{}\" is not a snapshot", source.name))),
            (_, Some(_)) => return Err(Error::bad_request(format!("\"{}\" is not an instance", source.name))),
            (_, None) => (source.name.clone(), None),
        };
        let project = cx.project().to_owned();
        cx.daemon
            .view(move |tx| {
                let loaded = expanded(tx, db::instances::get(tx, &project, &name)?)?;
                if let Some(snapshot) = &snapshot {
                    db::snapshots::get(tx, loaded.row.id, snapshot)?;
                }
                let pool = db::volumes::of_instance(tx, loaded.row.id)?.pool;
                Ok(Original { loaded, snapshot: snapshot.clone(), pool })
            })
            .await
    }

    /// The directory with `metadata.yaml` and `rootfs` in it.
    async fn path(&self, cx: &Cx) -> Result<PathBuf> {
        let driver = services::pools::open(&cx.daemon, &self.pool).await?;
        let volume = self.loaded.volume();
        let path = match &self.snapshot {
            None => driver.path(&volume),
            Some(snapshot) => driver.snapshot_path(&volume, snapshot),
        };
        if path.exists() { Ok(path) } else { Err(Error::not_found("The volume to publish is not there")) }
    }

    fn must_be_stopped(&self, cx: &Cx) -> Result<()> {
        let runs = self.snapshot.is_none() && cx.daemon.instances.runs(self.loaded.row.id);
        if runs { Err(Error::bad_request(RUNS)) } else { Ok(()) }
    }
}

/// How the files are made.
#[derive(Clone, Copy)]
struct How {
    compression: Compression,
    split: bool,
}

impl How {
    async fn of(cx: &Cx, new: &ImagesPost) -> Result<How> {
        let project = cx.project().to_owned();
        let key = &api::keys::server::IMAGES_COMPRESSION;
        // Not from what is kept in memory: it may have been set on another member a moment ago.
        let configured = cx.daemon.view(move |tx| {
            let own = db::projects::get(tx, &project)?.config.remove(key.name);
            own.map_or_else(|| Ok(db::config::get(tx)?.read(key)), Ok)
        });
        let algorithm = match new.compression_algorithm.as_str() {
            "" => configured.await?,
            asked => asked.to_owned(),
        };
        let split = match new.format.as_str() {
            "" | "unified" => false,
            "split" => true,
            other => return Err(Error::bad_request(format!("Invalid image format \"{other}\": unified or split"))),
        };
        Ok(How { compression: Compression::parse(&algorithm)?, split })
    }
}

/// `POST /1.0/images` with an instance or a snapshot as its source.
pub async fn publish(cx: Cx, new: ImagesPost) -> Result<Response<Body>> {
    let original = Original::find(&cx, &new).await?;
    if !cx.forwarded()
        && let Some(address) = cx.daemon.member_address(&original.loaded.row.member).await?
    {
        let path = format!("/1.0/images?project={}", api::endpoint::encode(cx.project()));
        let body = serde_json::to_value(&new).map_err(|e| Error::internal(e.to_string()))?;
        return forward::send_json(&cx, &address, "POST", &path, &body).await;
    }
    original.must_be_stopped(&cx)?;
    let how = How::of(&cx, &new).await?;
    let wishes = Wishes::of(&new)?;
    wishes.must_be_free(&cx).await?;
    let mut operation = cx.daemon.operation("Downloading image", cx.project(), Resources::new());
    operation.may_cancel = true;
    let daemon = cx.daemon.clone();
    let operation = daemon.run(operation, |operation| async move {
        let received = make(&cx, &original, how, &wishes, &operation).await?;
        // What the image says of itself is what it was given.
        let wishes = Wishes { properties: Default::default(), ..wishes };
        add(&cx, received, wishes, &operation).await
    });
    reply::operation(&operation.view())
}

/// Packs the files. The instance can't be started meanwhile.
async fn make(cx: &Cx, original: &Original, how: How, wishes: &Wishes, operation: &Arc<Operation>) -> Result<Received> {
    let _busy = match original.snapshot {
        None => Some(instances::lock(&cx.daemon, original.loaded.row.id).await),
        Some(_) => None,
    };
    original.must_be_stopped(cx)?;
    let path = original.path(cx).await?;
    let metadata = metadata(&path, &original.loaded, wishes);
    let cancel = Arc::new(AtomicBool::new(false));
    let (flag, told) = (cancel.clone(), operation.clone());
    let (images, volume) = (cx.daemon.paths.images(), path.clone());
    let mut work = Box::pin(blocking::run(move || {
        let progress = progress(told);
        let mut writer = Writer::new(&images);
        let contents = if how.split { &[Content::Metadata, Content::Rootfs][..] } else { &[Content::All] };
        for &content in contents {
            writer.file()?;
            // What lies on the disk bears the ids that the instance itself sees.
            let options = Pack {
                content,
                metadata: Some(&metadata),
                compression: how.compression,
                id: &|id| id,
                progress: &progress,
                cancel: &flag,
            };
            drivers::image::pack(&volume, &mut writer, &options)?;
        }
        writer.end()
    }));
    let cancelled = operation.cancelled();
    let made = tokio::select! {
        made = &mut work => made?,
        () = cancelled.cancelled() => {
            cancel.store(true, Ordering::Relaxed);
            work.await?
        }
    };
    // A snapshot that was deleted meanwhile was packed in part.
    if !path.exists() {
        return Err(Error::conflict("The snapshot was deleted while it was being published"));
    }
    if cancelled.is_cancelled() { Err(Error::bad_request("Cancelled")) } else { Ok(made) }
}

/// What the image says about itself: what the instance's image did, brought up to date.
fn metadata(volume: &std::path::Path, l: &Loaded, wishes: &Wishes) -> ImageMetadata {
    // An instance that was made from nothing has none.
    let mut metadata = drivers::image::read_metadata(volume).unwrap_or_default();
    metadata.architecture = l.row.architecture.as_str().to_owned();
    metadata.creation_date = Timestamp::now().as_second();
    metadata.expiry_date = wishes.expires.map_or(0, |t| t.as_second());
    if !wishes.properties.is_empty() {
        metadata.properties = wishes.properties.clone();
    }
    metadata
}

/// Tells now and then how much was packed.
fn progress(operation: Arc<Operation>) -> impl Fn(u64) {
    let told = AtomicU64::new(0);
    move |bytes| {
        if bytes / STEP > told.swap(bytes / STEP, Ordering::Relaxed) {
            let text = format!("Image pack: {}MB", bytes >> 20);
            operation.report([("create_image_from_container_pack_progress".to_owned(), Value::from(text))]);
        }
    }
}
