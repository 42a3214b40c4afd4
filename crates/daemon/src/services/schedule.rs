//! What happens by itself at its time: snapshots of instances and volumes with a schedule. Each member takes those of what it
//! has; what its machine slept through is done once when it wakes, what came while no daemon ran is not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Error, Result};
use jiff::ZonedDateTime;

use super::{instances, volumes};
use crate::operations::{New, Operation};
use crate::state::Daemon;

/// So long the others wait for one that is under way.
const TURN: Duration = Duration::from_secs(30);

/// What was begun last, by the row id of what it is for.
#[derive(Default)]
pub struct Begun(HashMap<i64, Arc<Operation>>);

impl Begun {
    /// True if nothing is under way for that one.
    pub fn is_free(&self, id: i64) -> bool {
        self.0.get(&id).is_none_or(|operation| operation.has_ended())
    }

    /// Does it, for what people know as `name`, and tells if it fails. Returns when it has ended, or taken so long that the
    /// next ones go on beside it.
    pub async fn run(
        &mut self,
        daemon: &Arc<Daemon>,
        (id, name): (i64, String),
        new: New,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let told = move |e: &Error| tracing::warn!("taking the snapshot of {name} that is due: {e}");
        let operation = daemon.run(new, move |_| async move { work.await.inspect_err(told) });
        operation.wait(Some(TURN)).await;
        self.0.retain(|_, operation| !operation.has_ended());
        self.0.insert(id, operation);
    }
}

/// Does it for as long as the daemon runs.
pub async fn watch(daemon: Arc<Daemon>) {
    let (mut looked, mut of_instances, mut of_volumes) = (ZonedDateTime::now(), Begun::default(), Begun::default());
    loop {
        // No moment of a schedule lies between two minutes.
        let clock = ZonedDateTime::now();
        let gone = Duration::new(u64::from(clock.second().unsigned_abs()), clock.subsec_nanosecond().unsigned_abs());
        tokio::time::sleep(Duration::from_secs(60).saturating_sub(gone)).await;
        let now = ZonedDateTime::now();
        if let Err(e) = instances::on_schedule(&daemon, &mut of_instances, &looked, &now).await {
            tracing::warn!("looking for instances whose snapshot is due: {e}");
        }
        if let Err(e) = volumes::snapshots::on_schedule(&daemon, &mut of_volumes, &looked, &now).await {
            tracing::warn!("looking for volumes whose snapshot is due: {e}");
        }
        looked = now;
    }
}
