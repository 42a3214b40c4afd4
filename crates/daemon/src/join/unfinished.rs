//! Joins that were interrupted. Up to its last transaction a join is undone when the server starts again, and the
//! cluster is told; from then on it may have come true, and is brought to its end.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use api::error::Context as _;
use api::key::Config;
use api::{Error, Kind, Result};
use client::Remote;
use client::tls::client_config;
use db::members::{Event, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Joiner, in_json, leave_again};
use crate::certs;
use crate::paths::Paths;
use crate::plans::point;
use crate::services::pools;
use crate::state::Daemon;

/// How long is waited before something is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a member may take that is told of an undone join.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is noted while a join goes on.
#[derive(Clone, Serialize, Deserialize)]
pub struct Note {
    /// The Raft id that this server had.
    pub old: u64,
    /// What the cluster knows it by.
    pub joiner: Joiner,
    /// Where the cluster can be told of what becomes of it.
    pub doors: Vec<String>,
    /// The fingerprint of the cluster's certificate.
    pub pin: String,
    /// The cluster's storage pools, as they would be made here: driver, name, configuration.
    pub pools: Vec<(String, String, Config)>,
    /// True from the last transaction on.
    pub last: bool,
}

impl Note {
    /// What is noted, if anything is.
    fn read(paths: &Paths) -> Option<Note> {
        fs::read(paths.joining()).ok().and_then(|text| serde_json::from_slice(&text).ok())
    }

    /// Notes it, as a whole or not at all.
    pub fn write(&self, paths: &Paths) -> Result<()> {
        let (to, new) = (paths.joining(), paths.joining().with_extension("new"));
        let text = serde_json::to_vec(self).map_err(|e| Error::internal(e.to_string()))?;
        fs::write(&new, text).and_then(|()| fs::rename(&new, &to)).context("Noting the join")
    }
}

/// Puts the own database back in its place if a join was interrupted that can't have come true.
pub fn at_start(paths: &Paths) -> Result<()> {
    if !paths.joining().exists() || Note::read(paths).is_some_and(|note| note.last) {
        return Ok(());
    }
    undo(paths)
}

/// Puts the own database back in its place; that the cluster is to be told remains noted.
pub fn undo(paths: &Paths) -> Result<()> {
    if paths.global_before().exists() {
        let _ = fs::remove_dir_all(paths.global());
        fs::rename(paths.global_before(), paths.global()).context("Putting the own database back")?;
    }
    certs::forget_cluster(paths);
    let local = db::local::Local::open(&paths.local_db(), Timestamp::now())?;
    local.forget_cluster()?;
    local.set_raft_id(Note::read(paths).map_or(1, |note| note.old))?;
    fs::rename(paths.joining(), paths.joining_undone()).context("Forgetting the join")
}

/// Removes what a join has made here that was undone by this start.
pub async fn clear(daemon: &Arc<Daemon>) {
    let Some(note) = undone(&daemon.paths) else { return };
    for (driver, name, config) in note.pools {
        if let Err(e) = pools::remove_place(daemon, &driver, name, config).await {
            tracing::debug!("removing a storage pool of the cluster: {e}");
        }
    }
}

/// What was noted of a join that was undone and of which the cluster does not know that yet.
fn undone(paths: &Paths) -> Option<Note> {
    fs::read(paths.joining_undone()).ok().and_then(|text| serde_json::from_slice(&text).ok())
}

/// Ends what a join has left that was interrupted before this start.
pub async fn end(daemon: Arc<Daemon>) {
    if daemon.paths.joining().exists()
        && let Err(e) = become_member(&daemon).await
    {
        tracing::warn!("the join that was interrupted did not come true: {e}");
        let Some(note) = Note::read(&daemon.paths) else { return };
        leave_again(&daemon, &note).await;
    }
    tell(&daemon).await;
}

/// The last transaction of a join, and what follows from it. Without a majority it is not known whether it has come true:
/// then it is made again until that is known.
pub async fn become_member(daemon: &Arc<Daemon>) -> Result<()> {
    let raft_id = daemon.raft_id();
    loop {
        let joined = daemon.write(move |tx| {
            let row = db::members::by_raft_id(tx, raft_id)?;
            if row.state != State::Pending {
                return Ok(());
            }
            // The others have not heard of it yet; until they do, this is what they go by.
            db::members::set_heartbeats(tx, &[(row.id, Timestamp::now())])?;
            db::members::advance(tx, row.id, Event::Joined).map(drop)
        });
        match joined.await {
            Ok(()) => break,
            Err(e) if e.retryable() || e.kind == Kind::Internal => {
                tracing::info!("whether this server has joined is not known yet: {e}");
                tokio::time::sleep(AGAIN).await;
            }
            Err(e) => return Err(e),
        }
    }
    point::pass(daemon, "join:joined").await;
    fs::remove_file(daemon.paths.joining()).context("Forgetting the join")?;
    let _ = fs::remove_dir_all(daemon.paths.global_before());
    Ok(())
}

/// Tells the cluster that a join was undone, until somebody there has heard it.
pub async fn tell(daemon: &Daemon) {
    let Some(note) = undone(&daemon.paths) else { return };
    let file = daemon.paths.joining_undone();
    while file.exists() {
        if told(daemon, &note).await {
            let _ = fs::remove_file(&file);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells the cluster that a join is undone: it forgets the server, and the token is good again. False if nobody there has
/// heard it.
pub async fn told(daemon: &Daemon, note: &Note) -> bool {
    for door in &note.doors {
        match tokio::time::timeout(PATIENCE, abort(daemon, door, note)).await {
            Ok(Ok(())) => return true,
            // It knows nothing of it, or not any more.
            Ok(Err(e)) if !e.retryable() => {
                tracing::warn!("{door} was told that the join is undone: {e}");
                return true;
            }
            Ok(Err(e)) => tracing::debug!("telling {door} that the join is undone: {e}"),
            Err(_) => tracing::debug!("telling {door} that the join is undone: no answer"),
        }
    }
    false
}

async fn abort(daemon: &Daemon, door: &str, note: &Note) -> Result<()> {
    let remote = Remote::tls(door, client_config(&note.pin, Some(&daemon.own_identity()))?);
    remote.json("POST", "/internal/cluster/abort", Some(&in_json(&note.joiner)?)).await.map(drop)
}
