//! Members whose addresses were changed while the daemons were down (`incusd cluster edit`): the new addresses are used
//! at once, and written into the replicated database by whichever member first finds a majority.

use std::sync::Arc;
use std::time::Duration;

use api::Kind;
use db::local::Moved;
use db::members::Member;

use crate::state::Daemon;

/// Pause between looks for a majority.
const PAUSE: Duration = Duration::from_millis(200);

/// Puts the new addresses in the place of those that the database still has.
pub fn apply(moved: &[Moved], members: &mut [Member]) {
    for member in members {
        let new = moved.iter().find(|m| Some(m.id) == member.raft_id && m.applies_to(&member.address));
        if let Some(new) = new {
            member.address.clone_from(&new.new);
        }
    }
}

/// Writes the new addresses into the replicated database as soon as there is a majority.
pub async fn write_down(daemon: Arc<Daemon>) {
    let moved = daemon.moved();
    if moved.is_empty() {
        return;
    }
    loop {
        if daemon.db().status().leader.is_some() {
            let these = moved.clone();
            match daemon.db().write(move |tx| db::members::move_addresses(tx, &these)).await {
                Ok(true) => break,
                Ok(false) => continue,
                Err(e) if e.kind == Kind::Conflict => {
                    tracing::error!("an address that was changed belongs to another member: {e}");
                    break;
                }
                Err(e) => tracing::debug!("writing the members' new addresses: {e}"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    let forgotten = daemon.forget_moved();
    tracing::info!("the members' new addresses are in the database: {forgotten:?}");
    if let Err(e) = daemon.refresh().await {
        tracing::warn!("refreshing what is known of the cluster: {e}");
    }
}
