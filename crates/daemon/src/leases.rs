//! The leases of volumes that instances of this member use in pools that all members reach.
//!
//! A lease belongs to the member: its instances may share a custom volume, and the last that stops gives it back. What
//! runs on a volume whose lease is lost, or could not be renewed in time, is ended at once: another member may use it
//! from then on. Renewing is [`keep`]; everything else only says which leases there are to be.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Error, Kind, Result};
use db::projects::{Feature, holder};
use drivers::storage::lease::{self, Held, Renewed, Seen, State, Watch};
use drivers::storage::shared::Sharing;
use drivers::storage::{self, Volume};
use host::clock::since_boot;
use incus_core::disk::{self, Source};

use crate::instances::{self, Loaded, stop};
use crate::services::pools;
use crate::state::Daemon;
use crate::{blocking, volumes};

/// Stands for the member itself among those who use a volume: no instance has this row id.
pub const MEMBER: i64 = 0;
/// How often it is looked which leases have to be renewed.
const ROUND: Duration = Duration::from_secs(1);

/// A volume, with the name of its pool.
type Key = (String, Volume);

/// The leases that this member has.
#[derive(Default)]
pub struct Leases {
    all: Mutex<HashMap<Key, Lease>>,
}

struct Lease {
    held: Arc<Mutex<Held>>,
    /// [`Held::valid_until`], known without waiting for a renewal that hangs.
    valid_until: Duration,
    renewing: bool,
    /// Row ids of the instances that use the volume.
    users: BTreeSet<i64>,
}

impl Leases {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Lease>> {
        lock(&self.all)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    let _alone = alone(daemon, &key).await;
    if let Some(lease) = daemon.leases.all().get_mut(&key) {
        lease.users.insert(instance);
        return Ok(());
    }
    let held = acquire(daemon, &sharing, volume).await?;
    let lease = Lease {
        valid_until: held.valid_until(),
        held: Arc::new(Mutex::new(held)),
        renewing: false,
        users: [instance].into(),
    };
    daemon.leases.all().insert(key, lease);
    Ok(())
}

async fn acquire(daemon: &Arc<Daemon>, sharing: &Sharing, volume: &Volume) -> Result<Held> {
    let (of, by) = (volume.clone(), sharing.clone());
    let taken = blocking::run(move || by.leases.take(&of, &by.owner, lease::TTL, since_boot)).await;
    let refused = match taken {
        Err(e) if e.kind == Kind::Conflict => e,
        other => return other,
    };
    // A member that was removed never comes back under its id: once its lease has lapsed it is nobody's.
    let mut watch = Watch::default();
    loop {
        let (of, by) = (volume.clone(), sharing.clone());
        let (seen, now) = blocking::run(move || Ok((watch.look(&by.leases, &of, since_boot)?, watch))).await?;
        watch = now;
        let record = match seen {
            Seen::Held(record) | Seen::Lapsed(record) if is_member(daemon, record.owner) => {
                tracing::debug!("{} holds the lease of {}", record.name, volume.name);
                return Err(refused);
            }
            Seen::Held(_) => {
                tokio::time::sleep(ROUND).await;
                continue;
            }
            Seen::Lapsed(record) => Some(record),
            Seen::Free | Seen::Fenced(_) => None,
        };
        let (of, by) = (volume.clone(), sharing.clone());
        return blocking::run(move || match record {
            Some(seen) => by.leases.take_over(&of, &by.owner, lease::TTL, since_boot, &seen),
            None => by.leases.take(&of, &by.owner, lease::TTL, since_boot),
        })
        .await;
    }
}

fn is_member(daemon: &Daemon, raft_id: u64) -> bool {
    daemon.snapshot().members.iter().any(|m| m.raft_id == Some(raft_id))
}

/// An instance has stopped: what only it used is given back.
pub async fn give_back(daemon: &Arc<Daemon>, instance: i64) {
    let used: Vec<Key> =
        daemon.leases.all().iter().filter(|(_, l)| l.users.contains(&instance)).map(|(k, _)| k.clone()).collect();
    for (pool, volume) in used {
        give_back_one(daemon, instance, &pool, &volume).await;
    }
}

/// An instance does not use a volume any more.
pub async fn give_back_one(daemon: &Arc<Daemon>, instance: i64, pool: &str, volume: &Volume) {
    let key = (pool.to_owned(), volume.clone());
    let _alone = alone(daemon, &key).await;
    let unused = {
        let mut all = daemon.leases.all();
        let Some(lease) = all.get_mut(&key) else { return };
        lease.users.remove(&instance);
        if lease.users.is_empty() { all.remove(&key) } else { None }
    };
    if let Some(lease) = unused {
        release(&lease, State::Released).await;
    }
}

async fn release(lease: &Lease, state: State) {
    let held = lease.held.clone();
    if let Err(e) = blocking::run(move || lock(&held).release(state)).await {
        tracing::warn!("giving a lease back: {e}");
    }
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
    for (pool, volume) in used {
        if try_up(daemon, l.row.id, &pool, &volume).await {
            continue;
        }
        // The storage is not there now.
        let (daemon, id) = (daemon.clone(), l.row.id);
        tokio::spawn(async move {
            while daemon.instances.runs(id) && !try_up(&daemon, id, &pool, &volume).await {
                tokio::time::sleep(ROUND).await;
            }
        });
    }
}

/// False if it has to be tried again.
async fn try_up(daemon: &Arc<Daemon>, instance: i64, pool: &str, volume: &Volume) -> bool {
    match take(daemon, instance, pool, volume).await {
        Ok(()) => true,
        Err(e) if e.kind == Kind::Conflict => {
            tracing::error!("ending an instance that runs here on {}: {e}", volume.name);
            stop::end_now(daemon, instance).await;
            true
        }
        Err(e) => {
            tracing::warn!("taking the lease of {} up again: {e}", volume.name);
            false
        }
    }
}

/// Gives back what a daemon that was killed had for instances that do not run any more.
pub async fn give_back_stale(daemon: &Arc<Daemon>) {
    let pools = daemon.db().peek(pools::remote_names).await.unwrap_or_default();
    for pool in pools {
        if let Err(e) = give_back_stale_in(daemon, &pool).await {
            tracing::warn!("looking for leases in the storage pool {pool}: {e}");
        }
    }
}

async fn give_back_stale_in(daemon: &Arc<Daemon>, pool: &str) -> Result<()> {
    let Some(sharing) = volumes::sharing(daemon, pool).await? else { return Ok(()) };
    let by = sharing.clone();
    for volume in blocking::run(move || by.leases.held_by(by.owner.id)).await? {
        let key = (pool.to_owned(), volume.clone());
        let _alone = alone(daemon, &key).await;
        if !daemon.leases.all().contains_key(&key) {
            let by = sharing.clone();
            blocking::run(move || by.leases.take(&volume, &by.owner, lease::TTL, since_boot)?.release(State::Released))
                .await?;
        }
    }
    Ok(())
}

/// Renews the leases from now on, and ends what uses those that are lost.
pub async fn keep(daemon: Arc<Daemon>) {
    loop {
        let now = since_boot();
        let mut late = Vec::new();
        for (key, lease) in daemon.leases.all().iter_mut() {
            let left = lease.valid_until.saturating_sub(now);
            // What is left is for ending what uses it.
            if left < lease::TTL / 4 {
                late.push((key.clone(), lease.held.clone()));
            } else if left < lease::TTL * 3 / 4 && !lease.renewing {
                lease.renewing = true;
                tokio::spawn(renew(daemon.clone(), key.clone(), lease.held.clone()));
            }
        }
        for (key, held) in late {
            tokio::spawn(lose(daemon.clone(), key, held, "its lease could not be renewed in time".into()));
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn renew(daemon: Arc<Daemon>, key: Key, held: Arc<Mutex<Held>>) {
    let of = held.clone();
    let renewed = blocking::run(move || {
        let mut held = lock(&of);
        held.renew(since_boot).map(|renewed| (renewed, held.valid_until()))
    })
    .await;
    let lost = match renewed {
        Ok((renewed, until)) => {
            note_renewal(&daemon, &key, &held, Some(until));
            if let Renewed::Lost(why) = renewed { Some(why) } else { None }
        }
        Err(e) => {
            tracing::warn!("renewing the lease of {}: {e}", key.1.name);
            note_renewal(&daemon, &key, &held, None);
            None
        }
    };
    if let Some(why) = lost {
        lose(daemon, key, held, why).await;
    }
}

/// Notes until when a lease is good now, unless it was given back and taken again since.
fn note_renewal(daemon: &Daemon, key: &Key, held: &Arc<Mutex<Held>>, until: Option<Duration>) {
    if let Some(lease) = daemon.leases.all().get_mut(key).filter(|l| Arc::ptr_eq(&l.held, held)) {
        lease.renewing = false;
        lease.valid_until = until.unwrap_or(lease.valid_until);
    }
}

/// Ends everything that uses a volume whose lease is gone, unless it was given back and taken again since.
async fn lose(daemon: Arc<Daemon>, key: Key, held: Arc<Mutex<Held>>, why: String) {
    let lease = {
        let mut all = daemon.leases.all();
        if !all.get(&key).is_some_and(|l| Arc::ptr_eq(&l.held, &held)) {
            return;
        }
        all.remove(&key)
    };
    let Some(lease) = lease else { return };
    tracing::error!("ending what uses the volume {} in {}: {why}", key.1.name, key.0);
    futures::future::join_all(lease.users.iter().map(|id| stop::end_now(&daemon, *id))).await;
    release(&lease, State::Fenced).await;
}

/// Takes the lease of the root volume of an instance that is to start.
pub async fn take_root(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    let (pool, _) = instances::pool(daemon, l).await?;
    take(daemon, l.row.id, &pool, &l.volume()).await.map_err(|e| match e.kind {
        Kind::Conflict => Error { message: format!("The instance can't be started here: {}", e.message), ..e },
        _ => e,
    })
}
