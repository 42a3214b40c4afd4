//! `/1.0/storage-pools`.
//!
//! A pool is a row, and a place on each member. The row needs a majority and no member in particular: each member
//! makes its own place when it sees the row ([`sync`]), at once or when it is back.

use std::path::PathBuf;
use std::sync::Arc;

use api::cluster::{MemberConfigKey, StoragePoolState};
use api::key::Config;
use api::storage::{StoragePool, StoragePoolPut, StoragePoolsPost};
use api::{Error, Result};
use db::Tx;
use db::members::Member;
use db::pools::{Pool, Progress};
use drivers::storage::dir::Dir;
use drivers::storage::lease::Owner;
use drivers::storage::shared::Shared;
use drivers::storage::{BACKENDS, Driver, is_remote};
use serde_json::Value;

use super::Change;
use super::placed::{status, wait_for_others, whose};
use crate::blocking;
use crate::edge::{Cx, Router};
use crate::state::Daemon;

/// The keys that each member has of its own.
const MEMBERS_OWN: &[&str] = &["source"];
/// The key of the id that a shared directory is recognised by; nobody sets it.
const MARK: &str = "volatile.uuid";

/// True if a key is each member's own in pools of that driver, rather than the same everywhere.
fn is_members_own(driver: &str, key: &str) -> bool {
    MEMBERS_OWN.contains(&key) && !is_remote(driver)
}

pub fn routes(r: &mut Router) {
    r.list(&api::storage::LIST, list);
    r.sync(&api::storage::CREATE, create);
    r.sync(&api::storage::GET, get);
    r.sync(&api::storage::PUT, put);
    r.sync(&api::storage::PATCH, patch);
    r.sync(&api::storage::DELETE, delete);
    r.sync(&api::storage::RESOURCES, resources);
}

/// The configuration of a pool with that of its place on a member.
fn config_on(pool: &Pool, member: Option<i64>) -> Config {
    let own = member.and_then(|id| pool.members.iter().find(|p| p.member_id == id));
    let mut config = pool.config.clone();
    config.extend(own.map(|p| p.config.clone()).unwrap_or_default());
    config
}

fn shown(tx: &Tx<'_>, pool: Pool, member: Option<i64>, clustered: bool) -> Result<StoragePool> {
    Ok(StoragePool {
        config: config_on(&pool, member),
        used_by: db::used_by::pool(tx, pool.id, None)?,
        status: status(pool.state).into(),
        locations: pool.members.iter().map(|p| p.member.clone()).filter(|_| clustered || member.is_some()).collect(),
        description: pool.description,
        name: pool.name,
        driver: pool.driver,
    })
}

async fn list(cx: Cx, (): ()) -> Result<Vec<StoragePool>> {
    let (member, clustered) = (whose(&cx).await?, cx.daemon.clustered());
    cx.daemon.view(move |tx| db::pools::list(tx)?.into_iter().map(|p| shown(tx, p, member, clustered)).collect()).await
}

async fn find(cx: &Cx) -> Result<StoragePool> {
    let (name, member, clustered) = (cx.arg(0).to_owned(), whose(cx).await?, cx.daemon.clustered());
    cx.daemon.view(move |tx| shown(tx, db::pools::get(tx, &name)?, member, clustered)).await
}

fn changeable(pool: &StoragePool) -> StoragePoolPut {
    StoragePoolPut { config: pool.config.clone(), description: pool.description.clone() }
}

async fn get(cx: Cx, (): ()) -> Result<StoragePool> {
    let pool = find(&cx).await?;
    cx.show_etag(&changeable(&pool));
    Ok(pool)
}

fn check(config: &Config, driver: &str) -> Result<()> {
    if BACKENDS.iter().all(|b| b.name != driver) {
        let all: Vec<String> = BACKENDS.iter().map(|b| format!("\"{}\"", b.name)).collect();
        return Err(Error::bad_request(format!(
            "Unknown storage driver \"{driver}\": this server has {}",
            all.join(" and ")
        )));
    }
    let known = |k: &str| {
        MEMBERS_OWN.contains(&k)
            || k.starts_with("user.")
            || k.starts_with("rsync.")
            || (k == MARK && is_remote(driver))
    };
    if let Some(key) = config.keys().find(|k| !known(k)) {
        return Err(Error::bad_request(format!("Invalid option for storage pool: \"{key}\"")));
    }
    match config.get("source") {
        Some(source) if !source.is_empty() && !source.starts_with('/') => {
            Err(Error::bad_request(format!("The source \"{source}\" is not an absolute path")))
        }
        _ => Ok(()),
    }
}

async fn create(cx: Cx, new: StoragePoolsPost) -> Result<()> {
    api::name::plain("storage pool", &new.name)?;
    check(&new.config, &new.driver)?;
    if new.config.contains_key(MARK) {
        return Err(Error::bad_request(format!("\"{MARK}\" is the server's own")));
    }
    let with_target = !cx.param("target").is_empty();
    let (own, mut shared): (Config, Config) = new
        .config
        .clone()
        .into_iter()
        .filter(|(_, v)| !v.is_empty())
        .partition(|(k, _)| is_members_own(&new.driver, k) || with_target && MEMBERS_OWN.contains(&k.as_str()));
    let daemon = &cx.daemon;
    if with_target {
        let (target, name) = (cx.param("target").to_owned(), new.name.clone());
        let id = daemon.view(move |tx| db::members::id(tx, &target)).await?;
        if !shared.is_empty() {
            return Err(Error::bad_request("Config keys that are the same everywhere can't be set with a target"));
        }
        return daemon.write(move |tx| db::pools::announce(tx, &name, &new.driver, id, &own).map(drop)).await;
    }
    if daemon.clustered() && !own.is_empty() {
        return Err(Error::bad_request("Config key \"source\" is specific to each member: set it with a target"));
    }
    let name = new.name.clone();
    if is_remote(&new.driver) {
        shared.insert(MARK.into(), uuid::Uuid::new_v4().to_string());
    }
    let made =
        if is_remote(&new.driver) { Some(make_shared(daemon, &name, &new.driver, &shared).await?) } else { None };
    let recorded = daemon
        .write(move |tx| {
            let announced =
                db::pools::list(tx)?.into_iter().find(|p| p.name == new.name && p.state == Progress::Pending);
            let id = match &announced {
                Some(pool) => {
                    db::pools::update(tx, pool.id, &new.description, &shared)?;
                    pool.id
                }
                None => db::pools::create(tx, &new.name, &new.driver, &new.description, &shared)?,
            };
            let placed = announced.map(|p| p.members).unwrap_or_default();
            for member in db::members::list(tx)?.iter().filter(|m| placed.iter().all(|p| p.member_id != m.id)) {
                db::pools::define_on(tx, id, member.id, Progress::Pending, &own)?;
            }
            db::pools::set_state(tx, id, Progress::Created)
        })
        .await;
    if let Err(e) = recorded {
        return Err(match made {
            Some(driver) => unmake_shared(daemon, &name, driver, e).await,
            None => e,
        });
    }
    if let Err(e) = make_own(daemon, &name).await {
        let gone = name.clone();
        daemon.write(move |tx| db::pools::delete(tx, db::pools::id(tx, &gone)?)).await?;
        return Err(match made {
            Some(driver) => unmake_shared(daemon, &name, driver, e).await,
            None => e,
        });
    }
    let wanted = name.clone();
    wait_for_others(daemon, move |tx| Ok(db::pools::get(tx, &wanted)?.members)).await;
    let url = format!("/1.0/storage-pools/{name}");
    daemon.tell("storage-pool-created", url.clone(), &cx.caller);
    cx.created(url);
    Ok(())
}

/// Makes a pool that all members are to reach: it is there before anybody hears of it, so that others find it.
async fn make_shared(daemon: &Arc<Daemon>, name: &str, backend: &str, config: &Config) -> Result<Arc<dyn Driver>> {
    let (wanted, own) = (name.to_owned(), daemon.member_id());
    let announced = daemon.view(move |tx| Ok(db::pools::list(tx)?.into_iter().find(|p| p.name == wanted))).await?;
    let mut config = config.clone();
    match announced {
        Some(pool) if pool.state == Progress::Pending && pool.driver == backend => {
            config.extend(pool.members.into_iter().filter(|p| p.member_id == own).flat_map(|p| p.config));
        }
        // The transaction would refuse it; nothing is to be made before.
        Some(_) => return Err(Error::conflict(format!("Storage pool \"{name}\" already exists"))),
        None => {}
    }
    if !config.contains_key("source") {
        return Err(Error::bad_request(format!(
            "The driver \"{backend}\" needs \"source\": the directory that all members mount"
        )));
    }
    let driver = driver(daemon, backend, name, &config);
    let making = driver.clone();
    blocking::run(move || making.create()).await?;
    Ok(driver)
}

/// Removes what was made for a pool that was refused, unless it came to be all the same; why it was refused.
async fn unmake_shared(daemon: &Arc<Daemon>, name: &str, driver: Arc<dyn Driver>, e: Error) -> Error {
    let wanted = name.to_owned();
    match daemon.db().read(move |tx| db::pools::get(tx, &wanted)).await {
        Err(gone) if gone.kind == api::Kind::NotFound => match blocking::run(move || driver.delete()).await {
            Ok(()) => e,
            Err(then) => Error { message: format!("{}; then the pool could not be removed: {then}", e.message), ..e },
        },
        _ => e,
    }
}

/// Makes this member's place of a pool, if that has not been done yet.
async fn make_own(daemon: &Arc<Daemon>, name: &str) -> Result<()> {
    let (wanted, own) = (name.to_owned(), daemon.member_id());
    // Whoever creates a pool or joins makes the place, and so does whoever sees the row: one of them at a time.
    let _lock = crate::locks::hold(daemon.paths.root().join("storage-pools").join(name)).await;
    let pool = daemon.db().peek(move |tx| db::pools::get(tx, &wanted)).await?;
    if !pool.members.iter().any(|p| p.member_id == own && p.state == Progress::Pending) {
        return Ok(());
    }
    let (driver, remote) = (driver_of(daemon, &pool), is_remote(&pool.driver));
    blocking::run(move || if remote { driver.start() } else { driver.create() }).await?;
    daemon.db().write(move |tx| db::pools::set_member_state(tx, pool.id, own, Progress::Created)).await
}

/// A pool as this member reaches it.
pub fn driver_of(daemon: &Daemon, pool: &Pool) -> Arc<dyn Driver> {
    driver(daemon, &pool.driver, &pool.name, &pool.config_on(daemon.member_id()))
}

fn driver(daemon: &Daemon, backend: &str, name: &str, config: &Config) -> Arc<dyn Driver> {
    let path = daemon.paths.root().join("storage-pools").join(name);
    let source = config.get("source").filter(|s| !s.is_empty()).map(PathBuf::from);
    if !is_remote(backend) {
        return Arc::new(Dir::new(path, source));
    }
    let owner = Owner { id: daemon.raft_id(), name: daemon.name() };
    let mark = config.get(MARK).cloned().unwrap_or_default();
    Arc::new(Shared::new(path, source.unwrap_or_default(), mark, owner))
}

/// The member that a volume in that pool lies on: the given one, or none if all reach it.
pub fn holder(tx: &Tx<'_>, pool: i64, member: i64) -> Result<Option<i64>> {
    let remote = db::pools::list(tx)?.into_iter().any(|p| p.id == pool && is_remote(&p.driver));
    Ok((!remote).then_some(member))
}

/// Refuses if a member has no place of the pool that could be used, as where a shared directory isn't mounted.
pub fn must_be_ready_on(tx: &Tx<'_>, pool: &str, member: i64) -> Result<()> {
    if db::pools::get(tx, pool)?.state_on(member) == Some(Progress::Created) {
        return Ok(());
    }
    let name = db::members::list(tx)?.into_iter().find(|m| m.id == member).map(|m| m.name).unwrap_or_default();
    Err(Error::bad_request(format!(
        "Storage pool \"{pool}\" is not ready on the cluster member \"{name}\" (\"incus warning list\" may say why)"
    )))
}

/// Names of the pools that all members reach.
pub fn remote_names(tx: &Tx<'_>) -> Result<Vec<String>> {
    Ok(db::pools::list(tx)?.into_iter().filter(|p| is_remote(&p.driver)).map(|p| p.name).collect())
}

/// The pool of that name, as it is on this member.
pub async fn open(daemon: &Arc<Daemon>, name: &str) -> Result<Arc<dyn Driver>> {
    let (wanted, own) = (name.to_owned(), daemon.member_id());
    let pool = daemon.db().peek(move |tx| db::pools::get(tx, &wanted)).await?;
    if !pool.members.iter().any(|p| p.member_id == own && p.state == Progress::Created) {
        return Err(Error::unavailable(format!("Storage pool \"{name}\" is not ready on this member")));
    }
    Ok(driver_of(daemon, &pool))
}

/// The tables that say what this member is to have of the pools.
pub const TABLES: [&str; 4] = ["nodes", "storage_pools", "storage_pools_config", "storage_pools_nodes"];

/// Makes this member's place of all pools that wait for it; called whenever [its tables](TABLES) have changed.
pub async fn sync(daemon: &Arc<Daemon>) -> Result<()> {
    let own = daemon.member_id();
    let pools = daemon.db().peek(db::pools::list).await?;
    for pool in pools.iter().filter(|p| p.state == Progress::Created) {
        if pool.members.iter().any(|p| p.member_id == own && p.state == Progress::Pending)
            && let Err(e) = make_own(daemon, &pool.name).await
        {
            tracing::error!("storage pool {}: {e}", pool.name);
            let id = pool.id;
            daemon.db().write(move |tx| db::pools::set_member_state(tx, id, own, Progress::Errored)).await?;
        }
    }
    Ok(())
}

/// Brings the pools of this member into order when the daemon starts.
pub async fn start(daemon: &Arc<Daemon>) -> Result<()> {
    let own = daemon.member_id();
    for pool in daemon.db().peek(db::pools::list).await? {
        if !pool.members.iter().any(|p| p.member_id == own && p.state == Progress::Created) {
            continue;
        }
        let driver = driver_of(daemon, &pool);
        if let Err(e) = blocking::run(move || driver.start().and_then(|()| driver.recover())).await {
            tracing::error!("storage pool {}: {e}", pool.name);
        }
    }
    Ok(())
}

/// Puts all pools onto a member that joins.
pub async fn define_on_joiner(daemon: &Arc<Daemon>, own: &Member, answers: &[MemberConfigKey]) -> Result<()> {
    let (id, answers) = (own.id, answers.to_vec());
    daemon
        .write(move |tx| {
            for pool in db::pools::list(tx)?.into_iter().filter(|p| p.members.iter().all(|m| m.member_id != id)) {
                let config = answered(&answers, &pool.name);
                check(&config, &pool.driver)?;
                db::pools::define_on(tx, pool.id, id, Progress::Pending, &config)?;
            }
            Ok(())
        })
        .await?;
    for pool in daemon.db().peek(db::pools::list).await? {
        match make_own(daemon, &pool.name).await {
            // It can be mounted later: until then the place is in error (`shared_pools`).
            Err(e) if is_remote(&pool.driver) => {
                tracing::warn!("storage pool {}: {e}", pool.name);
                daemon.write(move |tx| db::pools::set_member_state(tx, pool.id, id, Progress::Errored)).await?;
            }
            made => made.map_err(|e| e.context(format!("Storage pool \"{}\"", pool.name)))?,
        }
    }
    Ok(())
}

/// Whether a pool of the cluster can have its place here, on a server that wants to join.
pub fn fits(daemon: &Daemon, name: &str, driver: &str, own: &Config) -> Result<()> {
    check(own, driver)?;
    let usual = daemon.paths.root().join("storage-pools").join(name);
    let place = own.get("source").map_or(usual, PathBuf::from);
    match std::fs::read_dir(&place).is_ok_and(|mut inside| inside.next().is_some()) {
        true => Err(Error::bad_request(format!("Source path \"{}\" isn't empty", place.display()))),
        false => Ok(()),
    }
}

/// Removes this member's places of all pools: it leaves the cluster.
pub async fn forget_all(daemon: &Arc<Daemon>) -> Result<()> {
    let own = daemon.member_id();
    for pool in daemon.db().peek(db::pools::list).await? {
        if pool.members.iter().any(|p| p.member_id == own) {
            let driver = driver_of(daemon, &pool);
            blocking::run(move || driver.leave()).await?;
        }
    }
    Ok(())
}

async fn put(cx: Cx, new: StoragePoolPut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

async fn change(cx: &Cx, change: Change<StoragePoolPut>) -> Result<()> {
    let (name, member, request) = (cx.arg(0).to_owned(), whose(cx).await?, cx.clone());
    let written = cx.daemon.write(move |tx| {
        let pool = db::pools::get(tx, &name)?;
        let old = StoragePoolPut { config: config_on(&pool, member), description: pool.description.clone() };
        let new = change.of(&request, &old)?;
        check(&new.config, &pool.driver)?;
        if new.config.get("source") != old.config.get("source") {
            return Err(Error::bad_request("The source of a storage pool can't be changed"));
        }
        let mut shared: Config = new.config.into_iter().filter(|(k, _)| !is_members_own(&pool.driver, k)).collect();
        shared.extend(old.config.get(MARK).map(|id| (MARK.to_owned(), id.clone())));
        db::pools::update(tx, pool.id, &new.description, &shared)
    });
    written.await?;
    cx.daemon.tell("storage-pool-updated", format!("/1.0/storage-pools/{}", cx.arg(0)), &cx.caller);
    Ok(())
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let daemon = &cx.daemon;
    let name = cx.arg(0).to_owned();
    let wanted = name.clone();
    let pool = daemon.view(move |tx| db::pools::get(tx, &wanted)).await?;
    let remote = is_remote(&pool.driver);
    if remote {
        // Whoever deletes it has to reach it; one that was never made is only a row.
        let driver = driver_of(daemon, &pool);
        let reached = blocking::run(move || driver.usage()).await;
        if pool.state == Progress::Created {
            reached.map_err(|e| e.context("The storage pool can't be deleted on this member"))?;
        }
    }
    let pool = daemon
        .write(move |tx| {
            let pool = db::pools::get(tx, &name)?;
            let used = db::used_by::pool(tx, pool.id, None)?;
            if let Some(first) = used.first() {
                return Err(Error::bad_request(format!("The storage pool is currently in use by {first}")));
            }
            db::pools::delete(tx, pool.id)?;
            Ok(pool)
        })
        .await?;
    // The row is gone everywhere; the places are emptied where the members are. What is left on a member that is
    // away is empty and belongs to nobody.
    let snapshot = daemon.snapshot();
    for place in &pool.members {
        if place.member_id == daemon.member_id() {
            // A pool that was never made has nothing that could be removed.
            if pool.state == Progress::Created {
                let driver = driver_of(daemon, &pool);
                blocking::run(move || driver.delete()).await?;
            }
        } else if let Some(member) = snapshot.members.iter().find(|m| m.id == place.member_id)
            && daemon.must_be_online(member, &snapshot).is_ok()
        {
            let body = serde_json::json!({ "name": pool.name, "driver": pool.driver, "config": place.config });
            if let Err(e) = daemon.remote(&member.address)?.json("POST", "/internal/pools/remove", Some(&body)).await {
                tracing::warn!("storage pool {} on {}: {e}", pool.name, member.name);
            }
        }
    }
    daemon.tell("storage-pool-deleted", format!("/1.0/storage-pools/{}", pool.name), &cx.caller);
    Ok(())
}

/// What was answered about the place of a pool on a member that joins.
fn answered(answers: &[MemberConfigKey], pool: &str) -> Config {
    let of_pool = |k: &&MemberConfigKey| k.entity == "storage-pool" && k.name == pool && !k.value.is_empty();
    answers.iter().filter(of_pool).map(|k| (k.key.clone(), k.value.clone())).collect()
}

/// Driver, name and configuration of the pools as a member that joins will have them.
pub async fn on_joiner(daemon: &Daemon, answers: &[MemberConfigKey]) -> Result<Vec<(String, String, Config)>> {
    let pools = daemon.db().peek(db::pools::list).await?.into_iter();
    let with_answers = |pool: Pool| {
        let mut config = pool.config;
        config.extend(answered(answers, &pool.name));
        (pool.driver, pool.name, config)
    };
    Ok(pools.map(with_answers).collect())
}

/// Another member has deleted a pool: its place here goes, too.
pub async fn remove_place(daemon: &Arc<Daemon>, backend: &str, name: String, config: Config) -> Result<()> {
    api::name::plain("storage pool", &name)?;
    let wanted = name.clone();
    if daemon.view(move |tx| db::pools::get(tx, &wanted)).await.is_ok() {
        return Err(Error::conflict("The storage pool exists"));
    }
    let driver = driver(daemon, backend, &name, &config);
    blocking::run(move || driver.leave()).await
}

async fn resources(cx: Cx, (): ()) -> Result<StoragePoolState> {
    let driver = open(&cx.daemon, cx.arg(0)).await?;
    blocking::run(move || driver.usage()).await
}

/// How full the pools of this member are, by name.
pub async fn usage(daemon: &Arc<Daemon>) -> Result<std::collections::BTreeMap<String, StoragePoolState>> {
    let mut all = std::collections::BTreeMap::new();
    for pool in daemon.db().peek(db::pools::list).await? {
        if let Ok(driver) = open(daemon, &pool.name).await {
            match blocking::run(move || driver.usage()).await {
                Ok(usage) => drop(all.insert(pool.name, usage)),
                // Shared storage may be away; that is no reason to say nothing of the rest.
                Err(e) if is_remote(&pool.driver) => tracing::debug!("storage pool {}: {e}", pool.name),
                Err(e) => return Err(e),
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use db::Rehearsal;

    use super::*;

    #[test]
    fn the_pools_are_read_from_the_tables_that_are_named() {
        let replica = Rehearsal::new().unwrap();
        replica.read_from(&TABLES, db::pools::list).unwrap();
        for table in TABLES {
            let fewer: Vec<&str> = TABLES.into_iter().filter(|t| *t != table).collect();
            assert!(replica.read_from(&fewer, db::pools::list).is_err(), "{table} is not read");
        }
    }
}
