//! What happens by itself at its time: snapshots of instances and volumes with a schedule. Each member takes those of what it
//! has; what its machine slept through is done once when it wakes, what came while no daemon ran is not.

use std::sync::Arc;
use std::time::Duration;

use jiff::ZonedDateTime;

use super::{instances, volumes};
use crate::state::Daemon;

/// Does it for as long as the daemon runs.
pub async fn watch(daemon: Arc<Daemon>) {
    let mut looked = ZonedDateTime::now();
    loop {
        // No moment of a schedule lies between two minutes.
        let clock = ZonedDateTime::now();
        let gone = Duration::new(u64::from(clock.second().unsigned_abs()), clock.subsec_nanosecond().unsigned_abs());
        tokio::time::sleep(Duration::from_secs(60).saturating_sub(gone)).await;
        let now = ZonedDateTime::now();
        if let Err(e) = instances::on_schedule(&daemon, &looked, &now).await {
            tracing::warn!("looking for instances whose snapshot is due: {e}");
        }
        if let Err(e) = volumes::snapshots::on_schedule(&daemon, &looked, &now).await {
            tracing::warn!("looking for volumes whose snapshot is due: {e}");
        }
        looked = now;
    }
}
