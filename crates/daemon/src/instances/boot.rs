//! What becomes of the instances of a member when its daemon starts, and when the machine goes down.

use std::sync::Arc;
use std::time::Duration;

use api::Result;
use api::key::Read as _;
use api::keys::instance as keys;
use db::warnings::Subject;
use drivers::instance::Status;
use drivers::storage::{Kind, Volume};

use super::{Loaded, devices, of_this_member, start, stop};
use crate::services::instances::files_follow;
use crate::state::Daemon;
use crate::{blocking, leases};

/// Takes up the instances that run, and tidies up after those that have stopped while no daemon was there.
pub async fn take_up(daemon: &Arc<Daemon>) -> Result<()> {
    for l in of_this_member(daemon).await? {
        if let Err(e) = files_follow(daemon, &l).await {
            tracing::warn!("renaming the files of {}: {e}", l.id());
        }
        let (containers, id) = (daemon.containers.clone(), l.id());
        let status = blocking::run(move || containers.status(&id)).await;
        match status {
            Ok(Status::Stopped) => {
                // What its devices left on the host goes; what it was before is still written down.
                if let Ok(nics) = devices::resolve_all(daemon, &l).await
                    && ran(&l)
                {
                    devices::clean(daemon, &nics).await;
                }
            }
            Ok(status) => {
                stop::watch(daemon, l.row.id, l.id());
                leases::take_up(daemon, &l).await;
                daemon.instances.set_frozen(l.row.id, matches!(status, Status::Frozen | Status::Freezing));
            }
            Err(e) => tracing::warn!("instance {}: {e}", l.id()),
        }
    }
    Ok(())
}

/// Ends what runs here although the database says that it is on another member by now: while this member was away it was
/// taken over.
pub async fn end_strays(daemon: &Arc<Daemon>) -> Result<()> {
    let own = daemon.member_id();
    let all = daemon.db().peek(|tx| db::instances::list(tx, db::instances::Filter::default())).await?;
    for row in all.into_iter().filter(|row| row.member_id != own) {
        let (containers, id) = (daemon.containers.clone(), Volume::new(Kind::Container, &row.project, &row.name).name);
        if !containers.logs(&id).exists() {
            continue;
        }
        let ended = blocking::run(move || {
            if containers.status(&id)? == Status::Stopped {
                return Ok(());
            }
            tracing::warn!("{id} runs here and is on the member {} by now: it is ended", row.member);
            containers.stop(&id)
        });
        if let Err(e) = ended.await {
            tracing::error!("ending an instance that was taken over: {e}");
        }
    }
    Ok(())
}

/// True if it ran when it was last heard of.
fn ran(l: &Loaded) -> bool {
    l.config.get("volatile.last_state.power").is_some_and(|p| p == "RUNNING")
}

/// Starts the instances that are to run: those of the highest priority first.
pub async fn autostart(daemon: &Arc<Daemon>) {
    if daemon.must_take_instances().is_err() || daemon.removed() {
        return;
    }
    let mut all = match of_this_member(daemon).await {
        Ok(all) => all,
        Err(e) => return tracing::warn!("starting instances: {e}"),
    };
    all.retain(|l| !daemon.instances.runs(l.row.id) && l.config.read_set(&keys::AUTOSTART).unwrap_or_else(|| ran(l)));
    all.sort_by_key(|l| (-l.config.read_set(&keys::AUTOSTART_PRIORITY).unwrap_or(0), l.row.name.clone()));
    for l in all {
        start_again(daemon, &l).await;
        let delay = u64::try_from(l.config.read(&keys::AUTOSTART_DELAY)).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(delay)).await;
    }
}

/// Starts one of this member's instances, unless a plan has to do with it: then it is the plan's business.
async fn start_again(daemon: &Arc<Daemon>, l: &Loaded) {
    let id = l.row.id;
    if !daemon.db().peek(move |tx| crate::plans::claim(tx, id)).await.is_ok_and(|claim| claim.is_none()) {
        return;
    }
    let _busy = super::lock(daemon, l.row.id).await;
    // It may have gone or been started since.
    let Ok(l) = super::by_id(daemon, l.row.id).await else { return };
    if l.row.member_id != daemon.member_id() || daemon.instances.runs(l.row.id) {
        return;
    }
    match start::start(daemon, &l).await {
        Ok(()) => l.lifecycle(daemon, "instance-started", None),
        Err(e) => tracing::error!("starting instance {}: {e}", l.id()),
    }
}

/// Starts the instances of this member that were ended because it could not know whether others start them; true if
/// one of them still does not run.
pub async fn start_fenced(daemon: &Arc<Daemon>) -> bool {
    if daemon.must_take_instances().is_err() || daemon.removed() {
        return false;
    }
    let fenced = async || {
        let mut all = of_this_member(daemon).await.unwrap_or_default();
        all.retain(|l| ran(l) && !daemon.instances.runs(l.row.id) && daemon.containers.fenced(&l.id()).exists());
        all
    };
    for l in fenced().await {
        start_again(daemon, &l).await;
    }
    !fenced().await.is_empty()
}

/// Looks after all instances of this member because the machine goes down. They go elsewhere if the configuration says
/// so; the others are stopped, those of the highest priority first, those of the same priority at the same time, and
/// started again when the machine is back.
pub async fn shut_down(daemon: &Arc<Daemon>) {
    crate::plans::evacuate_first(daemon).await;
    let mut all = match of_this_member(daemon).await {
        Ok(all) => all,
        Err(e) => return tracing::warn!("stopping instances: {e}"),
    };
    all.retain(|l| daemon.instances.runs(l.row.id));
    all.sort_by_key(|l| -l.config.read(&keys::STOP_PRIORITY));
    for same in all.chunk_by(|a, b| a.config.read(&keys::STOP_PRIORITY) == b.config.read(&keys::STOP_PRIORITY)) {
        futures::future::join_all(same.iter().map(|l| end(daemon, l))).await;
    }
}

/// Stops an instance for the machine's sake: cleanly within its time, otherwise by force.
async fn end(daemon: &Arc<Daemon>, l: &Loaded) {
    let _busy = super::lock(daemon, l.row.id).await;
    let seconds = u64::try_from(l.config.read(&keys::SHUTDOWN_TIMEOUT)).unwrap_or(0);
    let force = l.config.read(&keys::SHUTDOWN_ACTION) == "force-stop";
    let ending = stop::Ending { keep_power: true, restart: false, clean: !force };
    let clean = stop::How::Clean(Some(Duration::from_secs(seconds)));
    let first = if force { stop::How::Force } else { clean };
    let mut done = stop::stop(daemon, l, first, ending).await;
    if done.is_err() && !force && daemon.instances.runs(l.row.id) {
        done = stop::stop(daemon, l, stop::How::Force, ending).await;
    }
    if let Err(e) = done {
        tracing::warn!("stopping instance {}: {e}", l.id());
    }
}

/// Warns where no containers can run, as long as that is so.
async fn tell_what_runs(daemon: Arc<Daemon>) {
    let missing = blocking::run(drivers::instance::operational).await.err().map(|e| e.message);
    if let Some(why) = &missing {
        tracing::error!("{why}");
    }
    let about = Subject::member(db::warnings::Kind::InstanceTypeNotOperational, daemon.member_id());
    let write = || {
        let missing = missing.clone();
        daemon.write(move |tx| match &missing {
            Some(why) => {
                let uuid = uuid::Uuid::new_v4().to_string();
                db::warnings::raise(tx, about, why, &uuid, jiff::Timestamp::now()).map(drop)
            }
            None => db::warnings::resolve(tx, about, jiff::Timestamp::now()),
        })
    };
    while write().await.is_err_and(|e| e.retryable()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// What is to run is started, and from then on what has expired goes, once a minute.
pub async fn bring_up(daemon: Arc<Daemon>) {
    tokio::spawn(tell_what_runs(daemon.clone()));
    autostart(&daemon).await;
    loop {
        if let Err(e) = crate::services::instances::expire_snapshots(&daemon).await {
            tracing::debug!("removing expired snapshots: {e}");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}
