//! A database that has stopped by itself is opened again. What stopped it was a fault of the program, or a member that
//! told what can't be; the replica has lost nothing by it. The daemon, its instances and its clients go on meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Result;
use db::engine::runtime::beat;

use crate::start;
use crate::state::Daemon;

/// Pause between looks.
const ROUND: Duration = Duration::from_millis(500);
/// Pause before the database is opened again; twice as long the next time, in case it is stopped again and again.
const FIRST: Duration = Duration::from_millis(500);
/// It never gets longer.
const LONGEST: Duration = Duration::from_secs(60);
/// After so long without trouble the pause is a short one again.
const CALM: Duration = Duration::from_secs(600);

/// Looks after the database for as long as the daemon runs.
pub async fn watch(daemon: Arc<Daemon>) {
    let (mut pause, mut last) = (FIRST, Instant::now());
    loop {
        beat(ROUND).await;
        if !daemon.db().status().ended {
            continue;
        }
        pause = if last.elapsed() > CALM { FIRST } else { pause };
        tokio::time::sleep(pause).await;
        (pause, last) = ((pause * 2).min(LONGEST), Instant::now());
        match again(&daemon).await {
            Ok(()) => tracing::warn!("the database of this member was opened again"),
            Err(e) => tracing::error!("the database of this member can't be opened again yet: {e}"),
        }
    }
}

async fn again(daemon: &Arc<Daemon>) -> Result<()> {
    let _ = daemon.db().shutdown().await;
    start::take(daemon, daemon.raft_id()).await
}
