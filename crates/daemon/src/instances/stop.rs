//! Stopping an instance, and what follows whenever one has stopped.

use std::sync::Arc;
use std::time::Duration;

use api::{Error, Result};
use drivers::instance::End;
use tokio::sync::watch;

use super::{Loaded, Running, by_id, devices, start};
use crate::state::Daemon;
use crate::{blocking, leases};

/// How long to wait for a majority before it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// How an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its init is asked, and may take so long; `None` for ever.
    Clean(Option<Duration>),
    /// All its processes are ended.
    Force,
}

/// What is meant by a stop that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// It counts as running all the same: it is started again when its member is back.
    pub keep_power: bool,
    /// It is started again by whoever stops it: nothing is told and it is kept although it is ephemeral.
    pub restart: bool,
    /// It was asked to shut down, rather than stopped by force.
    pub clean: bool,
}

impl Ending {
    /// For a stop of that kind that is meant to last.
    pub fn plain(how: How) -> Ending {
        Ending { keep_power: false, restart: false, clean: how != How::Force }
    }
}

/// Stops an instance of this member and waits until everything is tidied up. The caller holds its lock.
///
/// # Errors
/// When it does not run, or does not stop in time.
pub async fn stop(daemon: &Arc<Daemon>, l: &Loaded, how: How, ending: Ending) -> Result<()> {
    let mut ended = {
        let mut running = daemon.instances.running();
        let entry = running.get_mut(&l.row.id).ok_or_else(|| Error::bad_request("The instance is already stopped"))?;
        entry.stopping = Some(ending);
        entry.ended.clone()
    };
    let (containers, id) = (daemon.containers.clone(), l.id());
    let stopped = blocking::run(move || match how {
        How::Force => containers.stop(&id).map(|()| true),
        How::Clean(timeout) => containers.shutdown(&id, timeout),
    })
    .await;
    match stopped {
        Ok(true) => {
            let _ = ended.wait_for(|ended| *ended).await;
            Ok(())
        }
        other => {
            if let Some(entry) = daemon.instances.running().get_mut(&l.row.id) {
                entry.stopping = None;
            }
            other?;
            let status = daemon.instances.status(l.row.id).name();
            Err(Error::internal(format!(
                "Failed shutting down instance, status is \"{status}\": it did not stop in time (stop it by force)"
            )))
        }
    }
}

/// Holds all processes of an instance, or lets them go on. The caller holds its lock.
pub async fn freeze(daemon: &Arc<Daemon>, l: &Loaded, frozen: bool) -> Result<()> {
    match daemon.instances.status(l.row.id) {
        api::operation::StatusCode::Stopped => return Err(Error::bad_request("The instance is not running")),
        api::operation::StatusCode::Frozen if frozen => {
            return Err(Error::bad_request("The instance is already frozen"));
        }
        api::operation::StatusCode::Running if !frozen => return Err(Error::bad_request("The instance is not frozen")),
        _ => {}
    }
    let (containers, id) = (daemon.containers.clone(), l.id());
    blocking::run(move || if frozen { containers.freeze(&id) } else { containers.unfreeze(&id) }).await?;
    daemon.instances.set_frozen(l.row.id, frozen);
    Ok(())
}

/// Watches an instance that runs, until it has stopped and everything is tidied up.
pub fn watch(daemon: &Arc<Daemon>, row: i64, id: String) {
    let (done, ended) = watch::channel(false);
    daemon.instances.running().insert(row, Running { name: id.clone(), ended, stopping: None, frozen: false });
    let daemon = daemon.clone();
    tokio::spawn(async move {
        let end = wait(&daemon, &id).await;
        let ending = daemon.instances.running().get(&row).and_then(|r| r.stopping);
        let after = tidy_up(&daemon, row, ending, end).await;
        daemon.instances.running().remove(&row);
        done.send_replace(true);
        match after {
            Ok(After::Nothing) => {}
            Ok(After::Start) => start_again(&daemon, row).await,
            Ok(After::Delete(l)) => {
                let _busy = super::lock(&daemon, row).await;
                if let Err(e) = crate::services::instances::delete::delete(&daemon, &l, None).await {
                    tracing::warn!("deleting the ephemeral instance {id}: {e}");
                }
            }
            Err(e) => tracing::warn!("tidying up after {id}: {e}"),
        }
    });
}

/// Waits on a thread of its own: it may take for ever, and must not keep the daemon from ending.
async fn wait(daemon: &Arc<Daemon>, id: &str) -> End {
    let (told, end) = tokio::sync::oneshot::channel();
    let (containers, watched) = (daemon.containers.clone(), id.to_owned());
    std::thread::spawn(move || {
        let end = containers.wait(&watched).unwrap_or_else(|e| {
            tracing::warn!("watching {watched}: {e}");
            End::Stopped
        });
        let _ = told.send(end);
    });
    end.await.unwrap_or(End::Stopped)
}

/// What is to be done when everything is tidied up.
enum After {
    Nothing,
    Start,
    Delete(Box<Loaded>),
}

async fn tidy_up(daemon: &Arc<Daemon>, row: i64, ending: Option<Ending>, end: End) -> Result<After> {
    // The own replica will do: without a majority the links on the host are removed all the same.
    let l = by_id(daemon, row).await?;
    if let Ok(nics) = devices::resolve_all(daemon, &l).await {
        devices::clean(daemon, &nics).await;
    }
    leases::give_back(daemon, row).await;
    if end == End::Fenced {
        // It is started again, here or elsewhere; what it is by then is written down by others.
        daemon.instances.fenced.notify_one();
    }
    if end == End::Fenced || l.row.member_id != daemon.member_id() {
        return Ok(After::Nothing);
    }
    let again = end == End::Reboot && ending.is_none();
    let keep = again || ending.is_some_and(|e| e.keep_power || e.restart);
    match note_stop(daemon, &l, keep).await {
        // Without a majority an instance can't be started, for it may have been started elsewhere; but it can be
        // stopped, and must be: what hangs or harms has to have an end. It is written down when that is possible.
        Err(e) if e.retryable() && !again => {
            tracing::warn!("{}: that it stopped is written down later: {e}", l.id());
            tokio::spawn(note_stop_later(daemon.clone(), l.clone(), keep));
        }
        noted => noted?,
    }
    if again {
        return Ok(After::Start);
    }
    if ending.is_some_and(|e| e.restart) {
        return Ok(After::Nothing);
    }
    let clean = ending.is_none_or(|e| e.clean);
    l.lifecycle(daemon, if clean { "instance-shutdown" } else { "instance-stopped" }, None);
    let gone = l.row.ephemeral && !ending.is_some_and(|e| e.keep_power);
    Ok(if gone { After::Delete(Box::new(l)) } else { After::Nothing })
}

async fn start_again(daemon: &Arc<Daemon>, row: i64) {
    let _busy = super::lock(daemon, row).await;
    let started = async {
        let l = by_id(daemon, row).await?;
        start::start(daemon, &l).await?;
        l.lifecycle(daemon, "instance-restarted", None);
        Ok::<(), Error>(())
    };
    if let Err(e) = started.await {
        tracing::warn!("starting instance {row} again after it rebooted: {e}");
    }
}

/// Writes down that an instance has stopped as soon as there is a majority, unless it runs again or is gone by then.
/// A daemon that ends before that takes it for one that ran, and starts it.
async fn note_stop_later(daemon: Arc<Daemon>, l: Loaded, keep_power: bool) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let _busy = super::lock(&daemon, l.row.id).await;
        if daemon.instances.runs(l.row.id) {
            return;
        }
        match note_stop(&daemon, &l, keep_power).await {
            Err(e) if e.retryable() => {}
            Err(e) => return tracing::warn!("writing down that {} has stopped: {e}", l.id()),
            Ok(()) => return,
        }
    }
}

/// Writes down that an instance has stopped; with `keep_power` it still counts as one that runs.
pub async fn note_stop(daemon: &Arc<Daemon>, l: &Loaded, keep_power: bool) -> Result<()> {
    let gone: Vec<String> = devices::nics(l).flat_map(|(name, _)| drivers::device::nic::running_notes(name)).collect();
    let (id, own) = (l.row.id, daemon.member_id());
    daemon
        .db()
        .write(move |tx| {
            if db::instances::by_id(tx, id)?.member_id != own {
                // Another member has taken it over, and says by now how it is.
                return Ok(());
            }
            let power = (!keep_power).then_some(("volatile.last_state.power", Some("STOPPED")));
            let gone = gone.iter().map(|key| (key.as_str(), None));
            db::instances::patch_config(tx, id, gone.chain(power))
        })
        .await
}
