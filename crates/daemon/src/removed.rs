//! A member that was removed by force while nobody could reach it finds out when it is back: the others do not know its
//! certificate any more. It stops its instances, serves nothing, and says why.

use std::sync::Arc;
use std::time::Duration;

use api::{Error, Result};
use db::engine::runtime::beat;
use futures::future::join_all;

use crate::instances;
use crate::state::Daemon;

/// What everybody is told who asks for anything.
const WHY: &str = "This server was removed from its cluster and serves nothing. \"incusd cluster wipe\" removes all that \
                   is left of the cluster from it; then it can be used on its own, or join again";

/// How often the others are asked while no leader is heard of.
const ROUND: Duration = Duration::from_secs(2);
/// So many times in a row they have to say it.
const SURE: u32 = 3;
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a removed server still answers.
const ANSWERED: [&str; 4] = ["/internal/ready", "/internal/link", "/internal/shutdown", "/internal/cluster/reset"];

/// Refuses a request if this server was removed.
pub fn refuse(daemon: &Daemon, path: &str) -> Result<()> {
    if daemon.removed() && !ANSWERED.contains(&path) { Err(Error::unavailable(WHY)) } else { Ok(()) }
}

/// Asks several times; for a start without a leader, before anything is done that only members do.
pub async fn look_at_start(daemon: &Arc<Daemon>) {
    for _ in 0..SURE {
        if !says_so(daemon).await {
            return;
        }
    }
    found_out(daemon);
}

/// Looks whether this server was removed, whenever it hears no leader.
pub async fn watch(daemon: Arc<Daemon>) {
    let mut said = 0;
    loop {
        beat(ROUND).await;
        let hears = daemon.db().status().leader.is_some();
        if !daemon.clustered() {
            daemon.set_removed(false);
        } else if daemon.removed() {
            // What a leader has said before may still arrive when the network is mended: others must not contradict it.
            if hears && !says_so(&daemon).await {
                daemon.set_removed(false);
            }
        } else if !hears && says_so(&daemon).await {
            said += 1;
            if said >= SURE {
                found_out(&daemon);
            }
            continue;
        }
        said = 0;
    }
}

fn found_out(daemon: &Arc<Daemon>) {
    tracing::error!("{WHY}");
    daemon.set_removed(true);
    let daemon = daemon.clone();
    // They belong to nobody any more, and may have been made again elsewhere.
    tokio::spawn(async move { instances::boot::shut_down(&daemon).await });
}

/// True if another member answers, with the certificate of the cluster, that it does not know this server.
async fn says_so(daemon: &Arc<Daemon>) -> bool {
    let own = daemon.raft_id();
    let snapshot = daemon.snapshot();
    let others = snapshot.members.iter().filter(|m| m.raft_id.is_some_and(|id| id != own));
    let asked = others.map(|m| async {
        let remote = daemon.remote(&m.address).ok()?;
        let answer = tokio::time::timeout(PATIENCE, remote.json("GET", "/1.0", None)).await.ok()?.ok()?;
        answer.metadata["auth"].as_str().map(str::to_owned)
    });
    join_all(asked).await.into_iter().flatten().any(|auth| auth == "untrusted")
}
