//! The leases of volumes that instances of this member use in pools that all members reach.
//!
//! A lease belongs to the member: its instances may share a custom volume, and the last that stops gives it back. The
//! guard renews them, and outlives the daemon; what it holds and what runs here is brought into line all the time
//! ([`come_into_line`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{Error, Kind, Result};
use db::engine::runtime::beat;
use db::projects::{Feature, holder};
use drivers::instance::Status;
use drivers::storage::lease::{Held, Seen, State, TTL, Watch, lapse};
use drivers::storage::shared::Sharing;
use drivers::storage::{self, Volume};
use host::clock::since_boot;
use incus_core::disk::{self, Source};

use crate::guard::{Report, User};
use crate::instances::{self, Loaded, of_this_member};
use crate::plans::heal;
use crate::services::pools;
use crate::state::Daemon;
use crate::{blocking, volumes};

/// Stands for the member itself among those who use a volume: no instance has this row id.
pub const MEMBER: i64 = 0;
/// How often it is looked whether the guard holds what it is to hold.
const ROUND: Duration = Duration::from_secs(1);
/// For so long a lease may be without a guard before what uses it is ended: there may be no more time than that.
const UNGUARDED: Duration = Duration::from_secs(TTL.as_secs() / 3);

/// A volume, with the name of its pool.
type Key = (String, Volume);

/// Who uses the volumes whose leases this member has.
#[derive(Default)]
pub struct Leases {
    all: Mutex<HashMap<Key, Lease>>,
}

#[derive(Default)]
struct Lease {
    /// What the instances are called on this machine, by row id; the member itself has no name.
    users: BTreeMap<i64, Option<String>>,
    /// Since when no guard is known to hold it.
    unguarded: Option<Duration>,
}

impl Leases {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Lease>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance uses a volume from now on.
    fn add(&self, key: &Key, instance: i64, name: Option<String>) {
        self.all().entry(key.clone()).or_default().users.insert(instance, name);
    }

    /// An instance does not use a volume any more; false if it did not.
    fn remove(&self, key: &Key, instance: i64) -> bool {
        let mut all = self.all();
        let Some(lease) = all.get_mut(key) else { return false };
        let used = lease.users.remove(&instance).is_some();
        if lease.users.is_empty() {
            all.remove(key);
        }
        used
    }

    fn used_by(&self, instance: i64) -> Vec<Key> {
        self.all().iter().filter(|(_, l)| l.users.contains_key(&instance)).map(|(key, _)| key.clone()).collect()
    }

    fn known(&self, key: &Key) -> bool {
        self.all().contains_key(key)
    }
}

/// What the guard calls the lease of a volume.
fn name(key: &Key) -> String {
    format!("{}/{}/{}", key.0, key.1.kind.folder(), key.1.name)
}

/// The volume whose lease the guard calls that.
fn key(name: &str) -> Option<Key> {
    let mut parts = name.splitn(3, '/');
    let (pool, folder, volume) = (parts.next()?, parts.next()?, parts.next()?);
    Some((pool.to_owned(), Volume { kind: storage::Kind::of_folder(folder)?, name: volume.to_owned() }))
}

/// Those whom the guard ends if the lease is lost.
fn users(daemon: &Daemon, key: &Key) -> Vec<User> {
    let all = daemon.leases.all();
    let names = all.get(key).into_iter().flat_map(|l| l.users.values().flatten());
    let user = |id: &String| User {
        name: id.clone(),
        cgroup: daemon.containers.cgroup(id),
        note: daemon.containers.fenced(id),
    };
    names.map(user).collect()
}

/// Whoever takes or gives back the lease of a volume does so alone.
async fn alone(daemon: &Daemon, key: &Key) -> tokio::sync::OwnedMutexGuard<()> {
    let folder = daemon.paths.root().join("leases").join(&key.0).join(key.1.kind.folder());
    crate::locks::hold(folder.join(&key.1.name)).await
}

/// Takes the lease of a volume for an instance that is to use it; nothing happens in pools of this member alone.
///
/// # Errors
/// [`Kind::Conflict`] if another member uses the volume.
pub async fn take(daemon: &Arc<Daemon>, instance: i64, pool: &str, volume: &Volume) -> Result<()> {
    let Some(sharing) = volumes::sharing(daemon, pool).await? else { return Ok(()) };
    let key = (pool.to_owned(), volume.clone());
    let called = match instance {
        MEMBER => None,
        id => {
            let row = daemon.db().peek(move |tx| db::instances::by_id(tx, id)).await?;
            Some(Volume::new(storage::Kind::Container, &row.project, &row.name).name)
        }
    };
    let _alone = alone(daemon, &key).await;
    daemon.leases.add(&key, instance, called);
    let held = hold(daemon, &sharing, &key).await;
    if held.is_err() {
        daemon.leases.remove(&key, instance);
    }
    held
}

/// Has the guard hold the lease of a volume for all that use it here; it is taken if the guard does not have it.
async fn hold(daemon: &Arc<Daemon>, sharing: &Sharing, key: &Key) -> Result<()> {
    let (guard, called) = (daemon.guard.clone(), name(key));
    let report = blocking::run(move || guard.look()).await?.unwrap_or_default();
    let (guard, called_again, users) = (daemon.guard.clone(), called.clone(), users(daemon, key));
    if report.leases.iter().any(|told| told.name == called && told.ended.is_empty()) {
        return blocking::run(move || guard.tell_users(&called_again, users)).await;
    }
    let held = acquire(daemon, sharing, &key.1).await?;
    blocking::run(move || {
        let lease = held.clone();
        let guarded = guard.hold(&called_again, lease, users);
        guarded.inspect_err(|_| drop(held.release(State::Released)))
    })
    .await
}

async fn acquire(daemon: &Arc<Daemon>, sharing: &Sharing, volume: &Volume) -> Result<Held> {
    let (of, by) = (volume.clone(), sharing.clone());
    let taken = blocking::run(move || by.leases.take(&of, &by.owner, TTL, since_boot)).await;
    let refused = match taken {
        Err(e) if e.kind == Kind::Conflict => e,
        other => return other,
    };
    // It may have been left by a member that was removed, which never comes back under its id, or by one that is gone: once
    // it has lapsed it is nobody's.
    let mut watch = Watch::default();
    let until = Instant::now() + lapse(TTL) * 2;
    loop {
        let (of, by) = (volume.clone(), sharing.clone());
        let (seen, now) = blocking::run(move || Ok((watch.look(&by.leases, &of, since_boot)?, watch))).await?;
        watch = now;
        let left = match seen {
            Seen::Held(record) if heal::is_silent(daemon, record.owner) && Instant::now() < until => {
                tokio::time::sleep(ROUND).await;
                continue;
            }
            Seen::Lapsed(record) if heal::is_gone(daemon, record.owner).await? => Some(record),
            Seen::Held(record) | Seen::Lapsed(record) => {
                tracing::debug!("{} holds the lease of {}", record.name, volume.name);
                return Err(refused);
            }
            Seen::Free | Seen::Fenced(_) => None,
        };
        let (of, by) = (volume.clone(), sharing.clone());
        return blocking::run(move || match left {
            Some(seen) => by.leases.take_over(&of, &by.owner, TTL, since_boot, &seen),
            None => by.leases.take(&of, &by.owner, TTL, since_boot),
        })
        .await;
    }
}

/// An instance has stopped: what only it used is given back.
pub async fn give_back(daemon: &Arc<Daemon>, instance: i64) {
    for (pool, volume) in daemon.leases.used_by(instance) {
        give_back_one(daemon, instance, &pool, &volume).await;
    }
}

/// An instance does not use a volume any more.
pub async fn give_back_one(daemon: &Arc<Daemon>, instance: i64, pool: &str, volume: &Volume) {
    let key = (pool.to_owned(), volume.clone());
    let _alone = alone(daemon, &key).await;
    if !daemon.leases.remove(&key, instance) {
        return;
    }
    let left = users(daemon, &key);
    let (guard, called) = (daemon.guard.clone(), name(&key));
    let given = if daemon.leases.known(&key) {
        blocking::run(move || guard.tell_users(&called, left)).await
    } else {
        match blocking::run(move || guard.give_back(&called)).await {
            Ok(false) => release(daemon, &key).await,
            other => other.map(drop),
        }
    };
    if let Err(e) = given {
        tracing::warn!("giving a lease back: {e}");
    }
}

/// Gives a lease of this member back that no guard holds.
async fn release(daemon: &Arc<Daemon>, key: &Key) -> Result<()> {
    let Some(Sharing { owner, leases, .. }) = volumes::sharing(daemon, &key.0).await? else { return Ok(()) };
    let volume = key.1.clone();
    blocking::run(move || {
        let own = leases.read(&volume)?.is_some_and(|r| r.owner == owner.id && r.state == State::Held);
        if own { leases.take(&volume, &owner, TTL, since_boot)?.release(State::Released) } else { Ok(()) }
    })
    .await
}

/// The volumes of an instance in pools that all members reach.
async fn used(daemon: &Arc<Daemon>, l: &Loaded) -> Result<Vec<Key>> {
    let (id, of, project) = (l.row.id, l.volume(), l.row.project.clone());
    let disks = disk::disks(&l.devices)?;
    let all = move |tx: &db::Tx<'_>| {
        let project = holder(tx, &project, Feature::Volumes)?;
        let custom = disks.iter().filter_map(|d| match &d.source {
            Source::Volume { pool, name } => Some((pool.clone(), Volume::new(storage::Kind::Custom, &project, name))),
            Source::Host(_) => None,
        });
        let root = db::volumes::of_instance(tx, id)?.pool;
        let remote = pools::remote_names(tx)?;
        Ok([(root, of.clone())].into_iter().chain(custom).filter(|(pool, _)| remote.contains(pool)).collect())
    };
    daemon.db().peek(all).await
}

/// Takes the leases up again of an instance that runs while the daemon starts. What another member uses by now must
/// not be used here any more: then the instance is ended.
pub async fn take_up(daemon: &Arc<Daemon>, l: &Loaded) {
    let used = match used(daemon, l).await {
        Ok(used) => used,
        Err(e) => return tracing::warn!("the leases of {}: {e}", l.id()),
    };
    for key in used {
        // The guard may have it; if not, and the storage is away, it is tried again.
        daemon.leases.add(&key, l.row.id, Some(l.id()));
        if let Err(e) = guard_again(daemon, &key).await {
            tracing::warn!("taking the lease of {} up again: {e}", key.1.name);
        }
    }
}

/// Has a guard hold a lease again. If another member has it by now, or it can't be had in time, what uses it is ended.
async fn guard_again(daemon: &Arc<Daemon>, key: &Key) -> Result<()> {
    let _alone = alone(daemon, key).await;
    let since = match daemon.leases.all().get_mut(key) {
        Some(lease) => *lease.unguarded.get_or_insert_with(since_boot),
        None => return Ok(()),
    };
    let held = match volumes::sharing(daemon, &key.0).await {
        Ok(Some(sharing)) => tokio::time::timeout(UNGUARDED, hold(daemon, &sharing, key)).await,
        Ok(None) => return Ok(()),
        Err(e) => Ok(Err(e)),
    };
    let held = held.unwrap_or_else(|_| Err(Error::unavailable("the storage does not answer")));
    match &held {
        Ok(()) => {
            if let Some(lease) = daemon.leases.all().get_mut(key) {
                lease.unguarded = None;
            }
        }
        Err(e) if e.kind == Kind::Conflict || since_boot() >= since + UNGUARDED => {
            tracing::error!("ending what uses {}: {e}", name(key));
            for user in users(daemon, key) {
                let _ = std::fs::write(&user.note, &e.message);
                end(daemon, user.name).await?;
            }
        }
        Err(_) => {}
    }
    held
}

/// Gives back what a daemon that was killed had for instances that do not run any more, as far as no guard holds it.
pub async fn give_back_stale(daemon: &Arc<Daemon>) {
    let guarded = report(daemon).await.unwrap_or_default();
    let pools = daemon.db().peek(pools::remote_names).await.unwrap_or_default();
    for pool in pools {
        if let Err(e) = give_back_stale_in(daemon, &pool, &guarded).await {
            tracing::warn!("looking for leases in the storage pool {pool}: {e}");
        }
    }
}

async fn give_back_stale_in(daemon: &Arc<Daemon>, pool: &str, guarded: &Report) -> Result<()> {
    let Some(sharing) = volumes::sharing(daemon, pool).await? else { return Ok(()) };
    for volume in blocking::run(move || sharing.leases.held_by(sharing.owner.id)).await? {
        let key = (pool.to_owned(), volume);
        let _alone = alone(daemon, &key).await;
        if !daemon.leases.known(&key) && guarded.leases.iter().all(|told| told.name != name(&key)) {
            release(daemon, &key).await?;
        }
    }
    Ok(())
}

async fn report(daemon: &Arc<Daemon>) -> Result<Report> {
    if !daemon.guard.is_there() {
        return Ok(Report::default());
    }
    let guard = daemon.guard.clone();
    Ok(blocking::run(move || guard.look()).await?.unwrap_or_default())
}

/// Brings the guard into line for as long as the daemon runs. Storage that hangs stops this, and nothing else.
pub async fn keep(daemon: Arc<Daemon>) {
    loop {
        if let Err(e) = come_into_line(&daemon, daemon.guard.counted_lately()).await {
            tracing::warn!("the leases of what runs here: {e}");
        }
        beat(ROUND).await;
    }
}

/// Brings what the guard holds into line with what runs here. With a majority (`sure`) it is also known what belongs to
/// another member: that is ended.
async fn come_into_line(daemon: &Arc<Daemon>, sure: bool) -> Result<()> {
    let report = report(daemon).await?;
    if sure {
        end_strays(daemon, &report).await?;
    }
    let held: BTreeSet<&str> = report.leases.iter().map(|told| told.name.as_str()).collect();
    let wanted: Vec<Key> = daemon.leases.all().keys().cloned().collect();
    for key in wanted.iter().filter(|key| !held.contains(name(key).as_str())) {
        if let Err(e) = guard_again(daemon, key).await {
            tracing::warn!("having the lease of {} renewed: {e}", name(key));
        }
    }
    for told in &report.leases {
        let Some(key) = key(&told.name) else { continue };
        let _alone = alone(daemon, &key).await;
        if daemon.leases.known(&key) || any_runs(daemon, &told.users).await? {
            continue;
        }
        let (guard, called) = (daemon.guard.clone(), told.name.clone());
        blocking::run(move || guard.give_back(&called)).await?;
    }
    Ok(())
}

async fn any_runs(daemon: &Arc<Daemon>, ids: &[String]) -> Result<bool> {
    let (containers, ids) = (daemon.containers.clone(), ids.to_vec());
    blocking::run(move || {
        let mut runs = false;
        for id in ids {
            runs |= containers.status(&id)? != Status::Stopped;
        }
        Ok(runs)
    })
    .await
}

/// Ends what runs here although another member has it.
async fn end_strays(daemon: &Arc<Daemon>, report: &Report) -> Result<()> {
    if report.leases.iter().all(|told| told.users.is_empty()) {
        return Ok(());
    }
    let own: BTreeSet<String> = of_this_member(daemon).await?.iter().map(Loaded::id).collect();
    let users = report.leases.iter().flat_map(|told| told.users.iter());
    let strays: Vec<String> = users.filter(|name| !own.contains(*name)).cloned().collect();
    for id in strays {
        if any_runs(daemon, std::slice::from_ref(&id)).await? {
            tracing::warn!("{id} belongs to another member now: it is ended here");
            end(daemon, id).await?;
        }
    }
    Ok(())
}

async fn end(daemon: &Arc<Daemon>, id: String) -> Result<()> {
    let containers = daemon.containers.clone();
    blocking::run(move || containers.stop(&id)).await
}

/// Takes the lease of the root volume of an instance that is to start.
pub async fn take_root(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    let (pool, _) = instances::pool(daemon, l).await?;
    take(daemon, l.row.id, &pool, &l.volume()).await.map_err(|e| match e.kind {
        Kind::Conflict => Error { message: format!("The instance can't be started here: {}", e.message), ..e },
        _ => e,
    })
}
