//! What the guard has to know of the cluster: when a majority last counted this member among those that are there. And
//! what follows here when it is back.

use std::sync::Arc;
use std::time::Duration;

use api::Result;
use db::engine::runtime::beat;
use futures::FutureExt as _;
use host::clock::since_boot;

use super::Report;
use crate::state::Daemon;
use crate::{blocking, instances};

/// How often it is found out.
const ROUND: Duration = Duration::from_secs(1);
/// After that time it is tried again to start what did not start.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a majority may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Finds it out and tells the guard, for as long as the daemon runs.
pub async fn watch(daemon: Arc<Daemon>) {
    // A guard that hangs keeps waiting who tells it, and the one that takes its place has to know what is so by then.
    tokio::spawn(tell_again_and_again(daemon.clone()));
    // Whoever has just started has not been heard of yet, and has the time to be.
    let mut confirmed = since_boot();
    loop {
        let now = ask(&daemon).await;
        if let Some(now) = now {
            confirmed = confirmed.max(now);
            daemon.guard.note_counted(now);
        }
        daemon.guard.note_quorum(confirmed, cluster::health::healing_threshold(&daemon.snapshot().config));
        if now.is_some() && daemon.instances.fenced.notified().now_or_never().is_some() {
            tokio::spawn(start_fenced(daemon.clone()));
        }
        beat(ROUND).await;
    }
}

async fn tell_again_and_again(daemon: Arc<Daemon>) {
    loop {
        if let Err(e) = tell(&daemon).await {
            tracing::warn!("telling the guard: {e}");
        }
        beat(ROUND).await;
    }
}

/// Leaves the guard to go on without this daemon, which is being stopped by a person.
pub async fn leave_alone(daemon: &Arc<Daemon>) {
    daemon.guard.note_left();
    if let Err(e) = tell(daemon).await {
        tracing::warn!("telling the guard that this daemon is being stopped: {e}");
    }
}

async fn tell(daemon: &Arc<Daemon>) -> Result<Option<Report>> {
    if !daemon.guard.is_there() {
        return Ok(None);
    }
    let guard = daemon.guard.clone();
    blocking::run(move || guard.tell_quorum()).await
}

/// The moment at which a majority counted this member; none if it does not answer now.
///
/// Both has to be: that the leader has a majority, which the barrier proves, and that it hears this member, which takes
/// the other direction.
async fn ask(daemon: &Arc<Daemon>) -> Option<Duration> {
    let asked = since_boot();
    tokio::time::timeout(PATIENCE, daemon.db().read_barrier()).await.ok()?.ok()?;
    if daemon.snapshot().members.len() < 2 {
        return Some(asked);
    }
    Some(asked.min(since_boot().saturating_sub(daemon.health().heard_by_leader()?)))
}

/// Starts what was ended for want of a majority or a lease, now that there is one.
async fn start_fenced(daemon: Arc<Daemon>) {
    tracing::warn!("a majority is there: starting what was ended without");
    if instances::boot::start_fenced(&daemon).await {
        tokio::time::sleep(AGAIN).await;
        daemon.instances.fenced.notify_one();
    }
}
