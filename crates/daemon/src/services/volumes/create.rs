//! New volumes.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use api::error::Context as _;
use api::key::{Config, Read as _};
use api::keys::volume::{INITIAL_GID, INITIAL_MODE, INITIAL_UID, mode};
use api::volume::StorageVolumesPost;
use api::{Error, Kind, Result};
use db::Tx;
use db::volumes::{ContentType, NewVolume, VolumeType};
use drivers::storage::Volume;
use hyper::{Request, Response};
use jiff::Timestamp;
use serde_json::json;

use super::{copy, files, home, tell, url};
use crate::edge::request::json as read_json;
use crate::edge::{Body, Cx, Incoming, reply};
use crate::services::pools;
use crate::{blocking, volumes};

pub async fn create(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let mut new: StorageVolumesPost = read_json(request.into_body()).await?;
    if !cx.arg(1).is_empty() {
        cx.arg(1).clone_into(&mut new.kind);
    }
    check(&new)?;
    match new.source.kind.as_str() {
        "" => {
            fresh(&cx, new).await?;
            reply::sync(&())
        }
        "copy" => reply::operation(&copy::start(cx, new).await?.view()),
        other => Err(Error::new(
            Kind::NotImplemented,
            format!("Volumes can't be made from a source of type \"{other}\" here: only copied within the cluster"),
        )),
    }
}

fn check(new: &StorageVolumesPost) -> Result<()> {
    if VolumeType::parse(&new.kind)? != VolumeType::Custom {
        return Err(Error::bad_request(format!(
            "Currently not allowed to create storage volumes of type \"{}\"",
            new.kind
        )));
    }
    match new.content_type.as_str() {
        "" | "filesystem" => {}
        "block" | "iso" => {
            return Err(Error::bad_request(format!(
                "Storage pools of this server hold no volumes with content type \"{}\": only \"filesystem\"",
                new.content_type
            )));
        }
        other => return Err(ContentType::parse(other).map_or_else(|e| e, |_| Error::bad_request("Invalid"))),
    }
    api::name::plain("storage volume", &new.name)?;
    api::keys::volume::check(&new.name, &new.config)
}

/// Records a volume of this member; in a pool that all members reach it is everybody's.
pub fn record(tx: &Tx<'_>, new: &NewVolume) -> Result<i64> {
    let member_id = new.member_id.map(|own| pools::holder(tx, new.pool_id, own)).transpose()?.flatten();
    db::volumes::create(tx, &NewVolume { member_id, ..new.clone() })
}

/// What a row of a volume on this member is made of.
pub fn row(cx: &Cx, pool_id: i64, project: &str, name: &str, description: &str, config: &Config) -> NewVolume {
    NewVolume {
        pool_id,
        project: project.to_owned(),
        name: name.to_owned(),
        kind: VolumeType::Custom,
        content: ContentType::Filesystem,
        member_id: Some(cx.daemon.member_id()),
        description: description.to_owned(),
        config: config
            .iter()
            .filter(|(k, _)| !k.starts_with("volatile."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        created: Some(Timestamp::now()),
    }
}

async fn fresh(cx: &Cx, new: StorageVolumesPost) -> Result<()> {
    let daemon = &cx.daemon;
    let (pool, project) = (cx.arg(0).to_owned(), cx.project().to_owned());
    let (pool_id, project) =
        daemon.view(move |tx| Ok((db::pools::id(tx, &pool)?, home(tx, &project, VolumeType::Custom)?))).await?;
    let driver = pools::open(daemon, cx.arg(0)).await?;
    let volume = Volume::new(drivers::storage::Kind::Custom, &project, &new.name);
    let _lock = volumes::lock(daemon, cx.arg(0), &volume).await?;
    files::clear(daemon, cx.arg(0), &driver, &volume).await?;
    let (making, place, config) = (driver.clone(), volume.clone(), new.config.clone());
    blocking::run(move || making.create_volume(&place, &mut |path| prepare(path, &config))).await?;
    let wanted = row(cx, pool_id, &project, &new.name, &new.description, &new.config);
    let recorded = daemon
        .write(move |tx| {
            let id = record(tx, &wanted)?;
            db::volumes::by_id(tx, id)
        })
        .await;
    match recorded {
        Ok(row) => {
            tell(cx, "storage-volume-created", &row, None, [("type", json!("custom"))]);
            cx.created(url(&row, None));
            Ok(())
        }
        Err(e) => {
            files::give_up(daemon, cx.arg(0), &driver, &volume).await;
            Err(e)
        }
    }
}

/// Gives the root of a new volume its owner and mode.
fn prepare(path: &Path, config: &Config) -> Result<()> {
    let id = |n: i64| u32::try_from(n).map_err(|_| Error::bad_request(format!("Invalid id \"{n}\"")));
    let (uid, gid) = (id(config.read(&INITIAL_UID))?, id(config.read(&INITIAL_GID))?);
    let mode = mode(config.read(&INITIAL_MODE)).map_err(Error::bad_request)?;
    let what = "Preparing the volume";
    chown(path, Some(uid), Some(gid)).context(what)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).context(what)
}
