//! What pools and networks have in common: they are defined for all members, and each member makes its own place.

use std::sync::Arc;
use std::time::Duration;

use api::Result;
use db::Tx;
use db::members::Member;
use db::placed::Placement;
use db::value::Progress;

use crate::edge::Cx;
use crate::state::Daemon;

/// How long a new one is waited for on the other members that are there.
const OTHERS: Duration = Duration::from_secs(10);
/// A member that was not heard of for so long is not waited for, though it may not count as offline yet.
const SILENT: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);

/// How far it is, as clients are told.
pub fn status(state: Progress) -> &'static str {
    match state {
        Progress::Created => "Created",
        Progress::Pending => "Pending",
        Progress::Errored => "Errored",
    }
}

/// The member whose own configuration is asked for: the target, or the only one there is.
pub async fn whose(cx: &Cx) -> Result<Option<i64>> {
    match cx.param("target") {
        "" if cx.daemon.clustered() => Ok(None),
        "" => Ok(Some(cx.daemon.member_id())),
        name => {
            let name = name.to_owned();
            cx.daemon.view(move |tx| db::members::id(tx, &name)).await.map(Some)
        }
    }
}

/// Waits until the members that are there have made their places, so that it can be used everywhere.
pub async fn wait_for_others<F>(daemon: &Arc<Daemon>, places: F)
where
    F: Fn(&Tx<'_>) -> Result<Vec<Placement>> + Clone + Send + Sync + 'static,
{
    let started = std::time::Instant::now();
    while started.elapsed() < OTHERS {
        let Ok(places) = daemon.db().peek(places.clone()).await else { return };
        let snapshot = daemon.snapshot();
        let heard = |m: &Member| {
            let last = daemon.health().last_heard(m);
            last.is_some_and(|at| jiff::Timestamp::now().duration_since(at) < SILENT)
        };
        let there = |id: i64| snapshot.members.iter().any(|m| m.id == id && heard(m));
        if !places.iter().any(|p| p.state == Progress::Pending && there(p.member_id)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
