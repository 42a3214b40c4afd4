//! Copies of volumes, from any pool and member of the cluster.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::volume::{StorageVolumeSource, StorageVolumesPost};
use api::{Error, Result};
use db::volume_snapshots::VolumeSnapshot;
use db::volumes::{Volume as Row, VolumeType};
use db::{Tx, volume_snapshots};
use drivers::storage::{Driver, Part, Volume};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{create, files, home, must_see, resources, tell};
use crate::blocking;
use crate::edge::Cx;
use crate::operations::Operation;
use crate::services::pools;
use crate::state::Daemon;
use crate::volumes::{self, Source};

/// How often the progress of an operation is told.
const TELL: Duration = Duration::from_millis(500);

/// Where a volume comes from.
#[derive(Clone)]
pub struct From {
    /// The volume.
    pub row: Row,
    /// What of it.
    pub part: Part,
    /// Its snapshots that come along.
    pub snapshots: Vec<VolumeSnapshot>,
}

/// A place of a volume on this member.
#[derive(Clone)]
pub struct To {
    /// Name of the pool.
    pub pool: String,
    /// Row id of the pool.
    pub pool_id: i64,
    /// The pool.
    pub driver: Arc<dyn Driver>,
    /// The project.
    pub project: String,
    /// Name.
    pub name: String,
}

impl To {
    /// The place in a pool; the project is the one in which custom volumes lie when `project` asks for them.
    pub async fn find(daemon: &Arc<Daemon>, pool: &str, project: &str, name: &str) -> Result<To> {
        let (asked, project) = (pool.to_owned(), project.to_owned());
        let found = move |tx: &Tx<'_>| Ok((db::pools::id(tx, &asked)?, home(tx, &project, VolumeType::Custom)?));
        let (pool_id, project) = daemon.view(found).await?;
        let driver = pools::open(daemon, pool).await?;
        Ok(To { pool: pool.to_owned(), pool_id, driver, project, name: name.to_owned() })
    }

    /// The files there.
    pub fn volume(&self) -> Volume {
        Volume::new(drivers::storage::Kind::Custom, &self.project, &self.name)
    }
}

/// Finds a source: `?` is the same pool and project as where the request goes, and the only member that has it.
async fn find(cx: &Cx, source: &StorageVolumeSource) -> Result<From> {
    let or = |given: &str, other: &str| if given.is_empty() { other.to_owned() } else { given.to_owned() };
    let (pool, project) = (or(&source.pool, cx.arg(0)), or(&source.project, cx.project()));
    must_see(cx, &project)?;
    let (name, snapshot) = source.name.split_once('/').map_or((&*source.name, None), |(n, s)| (n, Some(s)));
    let (name, snapshot, location) = (name.to_owned(), snapshot.map(str::to_owned), source.location.clone());
    let (alone, clustered) = (source.volume_only, cx.daemon.clustered());
    cx.daemon
        .view(move |tx| {
            let member = if clustered { super::target(tx, &location)? } else { None };
            let (pool, project) = (db::pools::id(tx, &pool)?, home(tx, &project, VolumeType::Custom)?);
            let row = db::volumes::get(tx, pool, &project, VolumeType::Custom, &name, member)?;
            let snapshots = volume_snapshots::list(tx, row.id)?;
            Ok(match &snapshot {
                Some(name) => {
                    volume_snapshots::get(tx, row.id, name)?;
                    From { row, part: Part::Snapshot(name.clone()), snapshots: Vec::new() }
                }
                None if alone => From { row, part: Part::Alone, snapshots: Vec::new() },
                None => From { row, part: Part::Whole, snapshots },
            })
        })
        .await
}

/// Begins to copy a volume.
pub async fn start(cx: Cx, new: StorageVolumesPost) -> Result<Arc<Operation>> {
    let from = find(&cx, &new.source).await?;
    let to = To::find(&cx.daemon, cx.arg(0), cx.project(), &new.name).await?;
    let (pool_id, project, name, own) = (to.pool_id, to.project.clone(), to.name.clone(), cx.daemon.member_id());
    let there =
        cx.daemon.view(move |tx| match db::volumes::get(tx, pool_id, &project, VolumeType::Custom, &name, Some(own)) {
            Err(e) if files::missing(&e) => Ok(false),
            other => other.map(|_| true),
        });
    if there.await? {
        let taken = format!("Storage volume \"{}\" already exists", to.name);
        return Err(if new.source.refresh {
            Error::bad_request(format!("{taken}: copies in pools of directories can't be refreshed, delete it first"))
        } else {
            Error::conflict(taken)
        });
    }
    let operation = cx.daemon.operation("Copying storage volume", cx.project(), resources(&from.row, None));
    let daemon = cx.daemon.clone();
    Ok(daemon.run(operation, |operation| async move { carry_out(&cx, from, to, &new, &operation).await }))
}

async fn carry_out(cx: &Cx, from: From, to: To, new: &StorageVolumesPost, operation: &Arc<Operation>) -> Result<()> {
    let daemon = &cx.daemon;
    let volume = to.volume();
    let _locks = bring(daemon, &from, &to, operation).await?;
    let config = if new.config.is_empty() { &from.row.config } else { &new.config };
    let description = if new.description.is_empty() { &from.row.description } else { &new.description };
    let recorded = record(cx, &from, &to, description, config).await;
    match recorded {
        Ok(row) => {
            let context = [("source", json!(super::url(&from.row, None)))];
            tell(cx, "storage-volume-created", &row, None, context);
            Ok(())
        }
        Err(e) => {
            files::give_up(daemon, &to.pool, &to.driver, &volume).await;
            Err(e)
        }
    }
}

/// Makes the rows of a copy whose files are in place.
async fn record(cx: &Cx, from: &From, to: &To, description: &str, config: &api::key::Config) -> Result<Row> {
    let snapshots = arrived(from, to).await?;
    let wanted = create::row(cx, to.pool_id, &to.project, &to.name, description, config);
    cx.daemon
        .write(move |tx| {
            let id = create::record(tx, &wanted)?;
            for s in &snapshots {
                let created = s.created.unwrap_or_else(jiff::Timestamp::now);
                volume_snapshots::create(tx, id, &s.name, &s.description, created, s.expires)?;
            }
            db::volumes::by_id(tx, id)
        })
        .await
}

/// The snapshots that came along. One that was taken after the rows were read is left out, one that was deleted since
/// is not there.
async fn arrived(from: &From, to: &To) -> Result<Vec<VolumeSnapshot>> {
    let (mut wanted, driver, volume) = (from.snapshots.clone(), to.driver.clone(), to.volume());
    blocking::run(move || {
        let there = driver.snapshots(&volume)?;
        for name in there.iter().filter(|name| wanted.iter().all(|w| w.name != **name)) {
            driver.delete_snapshot(&volume, name)?;
        }
        wanted.retain(|w| there.contains(&w.name));
        Ok(wanted)
    })
    .await
}

/// Brings the files of a volume to a place on this member, which must be free. Holds what it has to until the rows are
/// written.
pub async fn bring(
    daemon: &Arc<Daemon>,
    from: &From,
    to: &To,
    operation: &Arc<Operation>,
) -> Result<Vec<volumes::Lock>> {
    let (source, volume) = (files::of(&from.row)?, to.volume());
    let elsewhere = match from.row.member_id {
        Some(id) if id != daemon.member_id() => Some(id),
        _ => None,
    };
    let mut places = vec![(to.pool.clone(), volume.clone())];
    if elsewhere.is_none() {
        places.push((from.row.pool.clone(), source.clone()));
    }
    // Always in the same order, so that two who want the same two don't wait for each other.
    places.sort();
    places.dedup();
    let mut locks = Vec::new();
    for (pool, volume) in &places {
        locks.push(volumes::lock(daemon, pool, volume).await?);
    }
    files::clear(daemon, &to.pool, &to.driver, &volume).await?;
    let report = progress(operation, &to.name);
    match elsewhere {
        Some(member) => {
            let address = address(daemon, member)?;
            let (part, stop) = (from.part.clone(), CancellationToken::new());
            let source = Source { address: &address, pool: &from.row.pool, volume: &source, part, stop };
            volumes::fetch_locked(daemon, &source, &to.pool, &volume, report).await?;
        }
        None => {
            let (here, there) = (pools::open(daemon, &from.row.pool).await?, to.driver.clone());
            let part = from.part.clone();
            blocking::run(move || {
                let mut sum = 0;
                drivers::storage::copy((&*here, &source), &part, (&*there, &volume), &mut |bytes| {
                    sum += bytes;
                    report(sum);
                })
            })
            .await?;
        }
    }
    Ok(locks)
}

/// The address of another member that has to be there.
pub fn address(daemon: &Daemon, member: i64) -> Result<String> {
    let snapshot = daemon.snapshot();
    let member = snapshot.members.iter().find(|m| m.id == member);
    let member = member.ok_or_else(|| Error::not_found("Cluster member not found"))?;
    daemon.must_be_online(member, &snapshot)?;
    Ok(member.address.clone())
}

/// Tells in an operation how many bytes have been copied, now and then.
fn progress(operation: &Arc<Operation>, name: &str) -> impl Fn(u64) + Send + Sync + 'static {
    let (operation, name, last) = (operation.clone(), name.to_owned(), Mutex::new(Instant::now()));
    move |bytes| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= TELL {
            *last = Instant::now();
            let text = format!("{name}: {}.{:02}MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000);
            operation.report([("fs_progress".to_owned(), Value::String(text))]);
        }
    }
}
