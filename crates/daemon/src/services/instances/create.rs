//! Making an instance: from an image, from nothing, or as a copy.
//!
//! The member that is asked chooses the one that takes it and sends the request there. There its volume is made
//! first, and then one transaction makes the instance: whoever sees it sees all of it, and what a crash leaves is a
//! volume that belongs to nobody, which goes at the next start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use api::instance::{InstanceSource, InstancesPost};
use api::key::{Config, Read as _};
use api::{Error, Kind, Result};
use db::instances::NewInstance;
use db::value::{Architecture, InstanceType};
use db::volumes::{ContentType, NewVolume, VolumeType};
use drivers::image::{Files, Unpack};
use drivers::storage::{Driver, Volume};
use hyper::{Request, Response};
use incus_core::placement::Target;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{copy, names, resources};
use crate::edge::reply;
use crate::edge::{Body, Cx, Incoming, forward, request};
use crate::instances::placing::{self, Placed};
use crate::instances::scripted::ToPlace;
use crate::instances::{Loaded, expanded, start};
use crate::operations::Operation;
use crate::plans::point;
use crate::services::images::add::Wishes;
use crate::services::images::remote::{Offer, Wanted};
use crate::services::{images, pools, project_rules};
use crate::state::Daemon;
use crate::{blocking, events};

/// Pause between looks whether an instance was made.
const AGAIN: Duration = Duration::from_secs(1);

/// `POST /1.0/instances`.
pub async fn create(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let mut new: InstancesPost = request::json(request.into_body()).await?;
    if new.kind == "virtual-machine" {
        return Err(Error::new(Kind::NotImplemented, "Virtual machines are not part of this version yet"));
    }
    if !matches!(new.kind.as_str(), "" | "container") {
        return Err(Error::bad_request(format!("Invalid instance type \"{}\"", new.kind)));
    }
    if new.name.is_empty() {
        new.name = names::free(&cx.daemon, cx.project()).await?;
    }
    api::name::instance(&new.name)?;
    if !cx.forwarded() {
        project_rules::check_notes(&cx, &Config::new(), &new.config).await?;
    }
    let origin = Origin::find(&cx, &new.source).await?;
    let daemon = cx.daemon.clone();
    let mut taken = None;
    if daemon.clustered() && !cx.forwarded() {
        let target = target(&cx, &new, &origin).await?;
        let architecture = origin.architecture(&new)?;
        let profiles = match &origin {
            Origin::Image(image) => &image.profiles[..],
            Origin::Copy(original) => &original.loaded.row.profiles,
            Origin::Nothing => &[],
        };
        let wanted = ToPlace::new(&daemon, cx.project(), &new, profiles).await?;
        let (member, placed) = placing::place(&daemon, &wanted, &target, &architecture).await?;
        if let Target::Group(group) = target {
            new.config.insert("volatile.cluster.group".into(), group);
        }
        if member.id != daemon.member_id() {
            let path = format!(
                "/1.0/instances?project={}&target={}",
                api::endpoint::encode(cx.project()),
                api::endpoint::encode(&member.name)
            );
            let body = serde_json::to_value(&new).map_err(|e| Error::internal(e.to_string()))?;
            return forward::send_json(&cx, &member.address, "POST", &path, &body).await;
        }
        taken = Some(placed);
    }
    let operation = create_here(cx, new, origin, taken).await?;
    reply::operation(&operation.view())
}

/// What an instance is made from, looked up.
pub enum Origin {
    /// Nothing.
    Nothing,
    /// An image.
    Image(Box<Base>),
    /// Another instance, or a snapshot of it.
    Copy(Box<copy::Original>),
}

/// An image that an instance is made from.
pub struct Base {
    /// Its fingerprint.
    pub fingerprint: String,
    architecture: Architecture,
    properties: Config,
    profiles: Vec<String>,
    /// Where it is got from if the project doesn't have it.
    offer: Option<Offer>,
}

impl Base {
    /// The files of the image, on this member.
    pub async fn files(&self, cx: &Cx, operation: &Arc<Operation>) -> Result<Files> {
        if let Some(offer) = &self.offer {
            let auto_update = cx.daemon.snapshot().config.read(&api::keys::server::IMAGES_AUTO_UPDATE_CACHED);
            let wishes = Wishes { cached: true, auto_update, ..Wishes::default() };
            offer.obtain(cx, wishes, operation).await?;
        }
        images::ensure_local(&cx.daemon, cx.project(), &self.fingerprint).await
    }
}

impl From<db::images::NewImage> for Base {
    fn from(image: db::images::NewImage) -> Base {
        Base {
            fingerprint: image.fingerprint,
            architecture: image.architecture,
            properties: image.changeable.properties,
            profiles: image.changeable.profiles,
            offer: None,
        }
    }
}

impl From<Offer> for Base {
    fn from(offer: Offer) -> Base {
        Base {
            fingerprint: offer.fingerprint.clone(),
            architecture: offer.architecture,
            properties: offer.properties.clone(),
            profiles: vec!["default".into()],
            offer: Some(offer),
        }
    }
}

impl Origin {
    /// What a request says that it is to be made from.
    pub async fn find(cx: &Cx, source: &InstanceSource) -> Result<Origin> {
        match source.kind.as_str() {
            "none" => Ok(Origin::Nothing),
            "image" => Origin::image(cx, source).await,
            "copy" => Ok(Origin::Copy(Box::new(copy::Original::find(cx, source).await?))),
            "migration" => Err(Error::new(
                Kind::NotImplemented,
                "Instances can't be taken over from other servers by this version: export and import an image",
            )),
            "" => Err(Error::bad_request("Must specify a source")),
            other => Err(Error::bad_request(format!("Unknown source type {other}"))),
        }
    }

    async fn image(cx: &Cx, source: &InstanceSource) -> Result<Origin> {
        if !source.server.is_empty() {
            return Ok(Origin::Image(Box::new(Offer::find(cx, &Wanted::from(source)).await?.into())));
        }
        let name = match (source.alias.as_str(), source.fingerprint.as_str()) {
            ("", "") => {
                return Err(Error::bad_request(
                    "Must specify one of alias, fingerprint or properties for init from image",
                ));
            }
            ("", fingerprint) => fingerprint,
            (alias, _) => alias,
        };
        let image = images::resolve(&cx.daemon, cx.project(), name).await?;
        Ok(Origin::Image(Box::new(image.image.into())))
    }

    fn architecture(&self, new: &InstancesPost) -> Result<String> {
        Ok(match self {
            Origin::Image(image) => image.architecture.as_str().to_owned(),
            Origin::Copy(original) => original.loaded.row.architecture.as_str().to_owned(),
            Origin::Nothing if new.architecture.is_empty() => String::new(),
            Origin::Nothing => Architecture::parse_any(&new.architecture)?.as_str().to_owned(),
        })
    }
}

/// Where the caller wants it, as far as the project allows that.
async fn target(cx: &Cx, new: &InstancesPost, origin: &Origin) -> Result<Target> {
    let target = Target::parse(cx.param("target"));
    if target != Target::Any {
        project_rules::check_target(cx, &target).await?;
        return Ok(target);
    }
    // A copy stays where its original is, unless that member takes none now.
    if let Origin::Copy(original) = origin {
        let candidates = placing::candidates_for(&cx.daemon, cx.project(), &Target::Any).await?;
        let near = Target::Member(original.loaded.row.member.clone());
        if incus_core::placement::choose(&candidates, &near, "", &[]).is_ok() {
            return Ok(near);
        }
    }
    // A refreshed copy is where it is.
    if new.source.refresh {
        let (project, name) = (cx.project().to_owned(), new.name.clone());
        if let Ok(place) = cx.daemon.view(move |tx| db::instances::place(tx, &project, &name)).await {
            return Ok(Target::Member(place.member));
        }
    }
    Ok(Target::Any)
}

/// What the new instance is to be.
fn draft(cx: &Cx, new: &InstancesPost, origin: &Origin) -> Result<NewInstance> {
    let mut config: Config = new.config.clone();
    let uuid = Uuid::new_v4().to_string();
    let mut architecture = Architecture::parse_any(std::env::consts::ARCH)?;
    if !new.architecture.is_empty() {
        architecture = Architecture::parse_any(&new.architecture)?;
    }
    let mut profiles = new.profiles.clone();
    match origin {
        Origin::Image(image) => {
            config.extend(image.properties.iter().map(|(k, v)| (format!("image.{k}"), v.clone())));
            config.insert("volatile.base_image".into(), image.fingerprint.clone());
            architecture = image.architecture;
            profiles = profiles.or_else(|| Some(image.profiles.clone()));
        }
        Origin::Copy(original) => {
            architecture = original.loaded.row.architecture;
            original.complete(&mut config);
            profiles = profiles.or_else(|| Some(original.loaded.row.profiles.clone()));
        }
        Origin::Nothing => {}
    }
    let trigger = if matches!(origin, Origin::Copy(_)) { "copy" } else { "create" };
    for (key, value) in [
        ("volatile.apply_template", trigger),
        ("volatile.last_state.power", "STOPPED"),
        ("volatile.uuid", &uuid),
        ("volatile.uuid.generation", &uuid),
        ("volatile.cloud-init.instance-id", &Uuid::new_v4().to_string()),
    ] {
        config.insert(key.into(), value.into());
    }
    config.retain(|_, value| !value.is_empty());
    Ok(NewInstance {
        project: cx.project().to_owned(),
        name: new.name.clone(),
        member_id: cx.daemon.member_id(),
        kind: InstanceType::Container,
        architecture,
        ephemeral: new.ephemeral,
        stateful: false,
        created: Timestamp::now(),
        expires: None,
        description: new.description.clone(),
        config,
        devices: new.devices.clone(),
        profiles: profiles.unwrap_or_else(|| vec!["default".into()]),
    })
}

/// The instance as it would be, with its profiles.
async fn preview(daemon: &Arc<Daemon>, new: &NewInstance) -> Result<Loaded> {
    let new = new.clone();
    daemon
        .view(move |tx| {
            db::profiles::named(tx, &new.project, &new.profiles)?;
            if db::instances::find(tx, &new.project, &new.name)?.is_some() {
                return Err(Error::conflict(format!("Instance \"{}\" already exists", new.name)));
            }
            let row = new.as_instance(db::members::get(tx, new.member_id)?.name);
            let l = expanded(tx, row)?;
            project_rules::check_with(tx, &new.project, Some(&l))?;
            Ok(l)
        })
        .await
}

async fn create_here(cx: Cx, new: InstancesPost, origin: Origin, taken: Option<Placed>) -> Result<Arc<Operation>> {
    let daemon = cx.daemon.clone();
    daemon.must_take_instances()?;
    if let (Origin::Copy(original), true) = (&origin, new.source.refresh)
        && original.refreshes(&cx, &new.name).await?
    {
        return Err(Error::new(
            Kind::NotImplemented,
            "An existing instance can't be refreshed by this version: delete it and copy again",
        ));
    }
    let draft = draft(&cx, &new, &origin)?;
    let l = preview(&daemon, &draft).await?;
    super::check(&daemon, &l).await?;
    let operation = daemon.operation("Creating instance", cx.project(), resources(cx.project(), &new.name));
    let at_once = new.start;
    Ok(daemon.clone().run(operation, move |operation| async move {
        let _taken = taken;
        let id = make(&cx, &l, draft, &origin, &new.source, &operation).await?;
        let (_, pool) = incus_core::disk::root(&l.devices)?;
        let event = events::lifecycle("instance-created", l.url(), Some(cx.caller.requestor()));
        let about = [
            ("location", Value::from(daemon.name())),
            ("storage-pool", Value::from(pool)),
            ("type", Value::from("container")),
        ];
        daemon.tell_in(&events::with_context(event, about), &l.row.project);
        if at_once {
            let _busy = crate::instances::lock(&daemon, id).await;
            let l = crate::instances::here(&daemon, id).await?;
            start::start(&daemon, &l).await?;
            l.lifecycle(&daemon, "instance-started", Some(cx.caller.requestor()));
        }
        Ok(())
    }))
}

/// Makes the volume and then the instance; if that is refused the volume goes again. The row id.
async fn make(
    cx: &Cx,
    l: &Loaded,
    draft: NewInstance,
    origin: &Origin,
    source: &InstanceSource,
    operation: &Arc<Operation>,
) -> Result<i64> {
    let daemon = &cx.daemon;
    let (_, pool) = incus_core::disk::root(&l.devices)?;
    let pool = pool.to_owned();
    let driver = pools::open(daemon, &pool).await?;
    // Until the row is there nobody else may make one of that name, or take this for one that belongs to nobody.
    let lock = crate::volumes::lock(daemon, &pool, &l.volume()).await?;
    if driver.exists(&l.volume()) {
        return Err(Error::conflict(format!(
            "The storage pool \"{pool}\" has a volume \"{}\" already, of an instance that is being made or removed",
            l.id()
        )));
    }
    let mut snapshots = Vec::new();
    point::pass(daemon, "create:files:before").await;
    match origin {
        Origin::Nothing => filled(&driver, l, create_volume, empty).await?,
        Origin::Image(image) => {
            let files = image.files(cx, operation).await?;
            // First what can be refused, as where there is no majority: then no volume is left.
            images::used(daemon, &image.fingerprint).await?;
            filled(&driver, l, create_volume, from_image(l, files, operation)?).await?;
        }
        Origin::Copy(original) => {
            snapshots = original.copy_volume(daemon, l, &pool, source, operation).await?;
        }
    }
    let (uuid, volume) = (draft.config.get("volatile.uuid").cloned(), l.volume());
    point::pass(daemon, "create:files:after").await;
    let recorded = record(daemon, draft, pool, snapshots).await;
    point::pass(daemon, "create:row:after").await;
    match &recorded {
        Err(e) if e.retryable() => {
            let (daemon, project, name) = (daemon.clone(), l.row.project.clone(), l.row.name.clone());
            tokio::spawn(async move {
                if !was_made(&daemon, &project, &name, uuid).await {
                    discard(driver, volume).await;
                }
                drop(lock);
            });
        }
        Err(_) => discard(driver, volume).await,
        Ok(_) => {}
    }
    recorded
}

/// True if an instance was made although that could not be confirmed: known when there is a majority again.
async fn was_made(daemon: &Arc<Daemon>, project: &str, name: &str, uuid: Option<String>) -> bool {
    loop {
        let (project, name) = (project.to_owned(), name.to_owned());
        match daemon.db().read(move |tx| db::instances::find(tx, &project, &name)).await {
            Ok(found) => return found.is_some_and(|row| row.config.get("volatile.uuid") == uuid.as_ref()),
            Err(e) => tracing::debug!("looking whether an instance was made: {e}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn discard(driver: Arc<dyn Driver>, volume: Volume) {
    if let Err(e) = blocking::run(move || driver.delete_volume(&volume)).await {
        tracing::warn!("removing the volume of an instance that was not made: {e}");
    }
}

/// What makes a volume, or something that is to take its place; it is given what fills the directory.
pub type Make = fn(&dyn Driver, &Volume, &mut Fill) -> Result<()>;
/// Puts into a directory what is to be in it.
pub type Fill = dyn FnMut(&Path) -> Result<()>;

fn create_volume(driver: &dyn Driver, volume: &Volume, fill: &mut Fill) -> Result<()> {
    driver.create_volume(volume, fill)
}

/// Makes the files of an instance in this way, with that in them.
pub async fn filled(
    driver: &Arc<dyn Driver>,
    l: &Loaded,
    make: Make,
    mut fill: impl FnMut(&Path) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (driver, volume) = (driver.clone(), l.volume());
    blocking::run(move || make(&*driver, &volume, &mut fill)).await
}

/// Fills a volume with a root file system that has nothing in it.
pub fn empty(path: &Path) -> Result<()> {
    Ok(std::fs::create_dir(path.join("rootfs"))?)
}

/// Fills a volume with what is in an image.
pub fn from_image(
    l: &Loaded,
    files: Files,
    operation: &Arc<Operation>,
) -> Result<impl FnMut(&Path) -> Result<()> + Send + use<>> {
    let (unprivileged, operation) = (!l.privileged(), operation.clone());
    let limit = incus_core::disk::root_size(&l.devices)?;
    let total: u64 = files.paths().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum();
    let told = std::sync::atomic::AtomicU64::new(0);
    Ok(move |path: &Path| {
        let progress = |read: u64| {
            let percent = (read * 100).checked_div(total).unwrap_or(0).min(100);
            if told.swap(percent, std::sync::atomic::Ordering::Relaxed) != percent {
                let text = format!("Unpack: {percent}%");
                operation.report([("create_instance_from_image_unpack_progress".to_owned(), Value::from(text))]);
            }
        };
        let options = Unpack { unprivileged, limit, progress: &progress, cancel: &AtomicBool::new(false) };
        drivers::image::unpack(&files, path, &options).map(drop)
    })
}

/// One transaction: the instance, its volume, and what was copied with it.
async fn record(
    daemon: &Arc<Daemon>,
    draft: NewInstance,
    pool: String,
    snapshots: Vec<db::snapshots::NewSnapshot>,
) -> Result<i64> {
    daemon
        .db()
        .write(move |tx| {
            crate::plans::must_be_in_service(tx, draft.member_id)?;
            let id = db::instances::create(tx, &draft)?;
            project_rules::check(tx, &draft.project)?;
            let pool_id = db::pools::id(tx, &pool)?;
            let volume = NewVolume {
                pool_id,
                project: draft.project.clone(),
                name: draft.name.clone(),
                kind: VolumeType::Container,
                content: ContentType::Filesystem,
                member_id: pools::holder(tx, pool_id, draft.member_id)?,
                description: String::new(),
                config: Config::new(),
                created: Some(draft.created),
            };
            db::volumes::create(tx, &volume)?;
            for snapshot in &snapshots {
                db::snapshots::create(tx, &db::snapshots::NewSnapshot { instance_id: id, ..snapshot.clone() })?;
            }
            Ok(id)
        })
        .await
}
