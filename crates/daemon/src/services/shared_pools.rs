//! Pools that all members reach, as this member reaches them: their directory may be mounted late, or go.
//!
//! A place that can't be used is in error, or was made and is gone; either way a warning says why until it can be used
//! again, which is tried all the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Result;
use db::engine::runtime::beat;
use db::pools::{Pool, Progress};
use db::warnings::{Entity, Kind, Subject};
use drivers::storage::is_remote;
use jiff::Timestamp;

use super::pools;
use crate::blocking;
use crate::kept::Kept;
use crate::state::Daemon;

/// How often it is tried.
const ROUND: Duration = Duration::from_secs(3);

/// Looks after the places of this member from now on.
pub async fn watch(daemon: Arc<Daemon>) {
    // What was said last of each; a daemon that has just started knows of no warning and resolves old ones once.
    let mut said: HashMap<i64, Option<String>> = HashMap::new();
    let known = Kept::default();
    loop {
        match daemon.peek_kept(&known, (), db::pools::list).await {
            Ok(all) => {
                for pool in all.iter().filter(|p| is_remote(&p.driver) && p.state == Progress::Created) {
                    if let Err(e) = look(&daemon, pool, &mut said).await {
                        tracing::debug!("noting how the storage pool {} is: {e}", pool.name);
                    }
                }
            }
            Err(e) => tracing::debug!("looking at the storage pools: {e}"),
        }
        beat(ROUND).await;
    }
}

async fn look(daemon: &Arc<Daemon>, pool: &Pool, said: &mut HashMap<i64, Option<String>>) -> Result<()> {
    let (id, own) = (pool.id, daemon.member_id());
    let state = pool.state_on(own);
    if !matches!(state, Some(Progress::Created | Progress::Errored)) {
        return Ok(());
    }
    let driver = pools::driver_of(daemon, pool);
    // One that is in order is only looked at.
    let in_order = said.get(&id) == Some(&None);
    let tried = blocking::run(move || if in_order { driver.usage().map(drop) } else { driver.start() });
    let why = tried.await.err().map(|e| e.message);
    if why.is_none() && state == Some(Progress::Errored) {
        daemon.write(move |tx| db::pools::set_member_state(tx, id, own, Progress::Created)).await?;
    }
    if said.get(&id) == Some(&why) {
        return Ok(());
    }
    let about = Subject {
        kind: Kind::StoragePoolUnavailable,
        member: Some(own),
        project: None,
        entity: Some((Entity::Pool, id)),
    };
    let (message, uuid) = (why.clone(), uuid::Uuid::new_v4().to_string());
    daemon
        .write(move |tx| match &message {
            Some(why) => db::warnings::raise(tx, about, why, &uuid, Timestamp::now()),
            None => db::warnings::resolve(tx, about, Timestamp::now()),
        })
        .await?;
    match &why {
        Some(why) => tracing::warn!("storage pool {}: {why}", pool.name),
        None => tracing::info!("storage pool {} can be used", pool.name),
    }
    said.insert(id, why);
    Ok(())
}
