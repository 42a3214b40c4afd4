//! The machine goes down, and its instances are to go elsewhere first: `core.shutdown_action=evacuate`.

use std::sync::Arc;
use std::time::Duration;

use api::key::Read as _;
use api::keys::server::{SHUTDOWN_ACTION, SHUTDOWN_TIMEOUT};
use db::members::State;

use super::{cancel, evacuate};
use crate::state::Daemon;

/// How long a cancelled evacuation may take to end what it has begun.
const ENDING: Duration = Duration::from_secs(60);

/// Empties this member if the configuration wants that, within `core.shutdown_timeout`; what is left then is stopped
/// as at any shutdown, and starts here again. The member stays evacuated until somebody restores it.
pub async fn evacuate_first(daemon: &Arc<Daemon>) {
    let snapshot = match daemon.newest().await {
        Ok(newest) => newest,
        Err(e) => return tracing::warn!("looking whether this member is to be evacuated: {e}"),
    };
    let own = daemon.member_id();
    let in_service = snapshot.members.iter().any(|m| m.id == own && m.state == State::Created);
    if snapshot.config.read(&SHUTDOWN_ACTION) != "evacuate" || !in_service || snapshot.members.len() < 2 {
        return;
    }
    let minutes = u64::try_from(snapshot.config.read(&SHUTDOWN_TIMEOUT)).unwrap_or(0);
    let operation = match evacuate(daemon, None, None, true).await {
        Ok(operation) => operation,
        Err(e) => return tracing::warn!("evacuating before the machine goes down: {e}"),
    };
    let ended = |view: &api::operation::Operation| view.status_code >= 200;
    let mut view = operation.wait(Some(Duration::from_secs(60 * minutes))).await;
    if !ended(&view) {
        tracing::warn!("the evacuation is cancelled: {minutes} minutes (core.shutdown_timeout) have passed");
        if let Err(e) = cancel(daemon, &view.id).await {
            tracing::warn!("cancelling the evacuation: {e}");
        }
        operation.begin_cancelling();
        view = operation.wait(Some(ENDING)).await;
    }
    if !view.err.is_empty() {
        tracing::warn!("evacuating before the machine goes down: {}", view.err);
    }
}
