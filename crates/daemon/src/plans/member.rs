//! What the runner of a plan asks of the members that an instance leaves and goes to; each thing can be asked again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::internal::{InstanceFacts, InstanceTask, Task};
use api::operation::StatusCode;
use api::{Error, Kind, Result};
use db::engine::runtime::beat;
use db::plans::State;
use drivers::storage::{self, Volume};
use tokio_util::sync::CancellationToken;

use super::{ROUND, gate, lock, point};
use crate::blocking;
use crate::edge::Cx;
use crate::instances::{self, start, stop};
use crate::services::pools;
use crate::state::Daemon;
use crate::volumes;

/// How long is waited before a member that does not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// A member that is there but does not manage is given up after this time.
const LONGEST: Duration = Duration::from_secs(60);

/// True if a member is offline for sure, or is gone.
pub fn offline(daemon: &Daemon, member: i64) -> bool {
    if member == daemon.member_id() {
        return false;
    }
    let snapshot = daemon.snapshot();
    let row = snapshot.members.iter().find(|m| m.id == member);
    // One that is back is back at once, not only when its silence is looked at the next time.
    row.is_none_or(|row| daemon.plans.lost(member) && daemon.must_be_online(row, &snapshot).is_err())
}

/// The name of a member.
pub fn name(daemon: &Daemon, member: i64) -> String {
    let snapshot = daemon.snapshot();
    snapshot.members.iter().find(|m| m.id == member).map_or_else(|| format!("#{member}"), |m| m.name.clone())
}

/// Asks a member to do something. While it does not answer it is asked again, until it counts as offline.
///
/// # Errors
/// Of the kind [`Kind::Unavailable`] if the member is not there; any other is the member's own.
pub async fn ask(daemon: &Arc<Daemon>, member: i64, task: &InstanceTask) -> Result<InstanceFacts> {
    let began = Instant::now();
    loop {
        let e = match once(daemon, member, task).await {
            Err(e) if e.kind == Kind::Unavailable => e,
            other => return other,
        };
        if offline(daemon, member) || began.elapsed() > LONGEST {
            return Err(e.context(format!("Cluster member \"{}\" is offline", name(daemon, member))));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Asks a member once.
pub async fn once(daemon: &Arc<Daemon>, member: i64, task: &InstanceTask) -> Result<InstanceFacts> {
    if member == daemon.member_id() {
        return perform(daemon.clone(), task.clone()).await;
    }
    let snapshot = daemon.snapshot();
    let row = snapshot.members.iter().find(|m| m.id == member);
    let row = row.ok_or_else(|| Error::unavailable("The cluster member was removed"))?;
    let remote = daemon.remote(&row.address)?;
    let answer = remote.call(&api::internal::INSTANCE_TASK, &[], "", task);
    let gone = async {
        // One that has lost its network does not even hang up.
        while !offline(daemon, member) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        answer = answer => answer,
        () = gone => Err(Error::unavailable("It does not answer")),
    }
}

/// `POST /internal/instances/task`.
pub async fn serve(cx: Cx, task: InstanceTask) -> Result<InstanceFacts> {
    // It goes on although whoever asked may be gone: half of a thing is worth nothing.
    let done = tokio::spawn(perform(cx.daemon.clone(), task));
    done.await.map_err(|e| Error::internal(format!("It crashed: {e}")))?
}

async fn perform(daemon: Arc<Daemon>, task: InstanceTask) -> Result<InstanceFacts> {
    let volume = Volume { kind: storage::Kind::Container, name: task.volume.clone() };
    let width = gate::width(&daemon.snapshot().config);
    if !matches!(task.what, Task::Look) {
        point::pass(&daemon, &format!("member:{}:before", task.what.word())).await;
    }
    match &task.what {
        Task::Look => {}
        Task::Stop { timeout, force } => halt(&daemon, task.instance, *timeout, *force).await?,
        Task::Fetch { address, pool, volume: from } => {
            let from = Volume { kind: storage::Kind::Container, name: from.clone() };
            let source = (!address.is_empty()).then_some(address.as_str());
            let _inside = daemon.plans.gate.enter(width).await;
            let stop = daemon.plans.fetching(task.instance);
            remember(&daemon, &task, &volume);
            must_go_on(&daemon, &task.plan).await?;
            fetch(&daemon, task.instance, source, (pool, &from), (&task.pool, &volume), stop).await?;
        }
        Task::Start => {
            let _inside = daemon.plans.gate.enter(width).await;
            begin(&daemon, task.instance, &task.plan).await?;
        }
        Task::Remove => remove(&daemon, task.instance, &task.pool, &volume).await?,
    }
    if !matches!(task.what, Task::Look) {
        point::pass(&daemon, &format!("member:{}:after", task.what.word())).await;
    }
    let exists = pools::open(&daemon, &task.pool).await?.exists(&volume);
    Ok(InstanceFacts {
        runs: daemon.instances.runs(task.instance),
        exists,
        bytes: daemon.plans.received(task.instance),
    })
}

/// Stops an instance that is to run again, here or elsewhere: cleanly within its time, otherwise by force.
async fn halt(daemon: &Arc<Daemon>, id: i64, timeout: u64, force: bool) -> Result<()> {
    let _busy = instances::lock(daemon, id).await;
    if !daemon.instances.runs(id) {
        return Ok(());
    }
    let l = instances::by_id(daemon, id).await?;
    let ending = stop::Ending { keep_power: true, restart: false, clean: !force };
    if !force {
        if daemon.instances.status(id) == StatusCode::Frozen {
            stop::freeze(daemon, &l, false).await?;
        }
        let clean = stop::How::Clean(Some(Duration::from_secs(timeout)));
        match stop::stop(daemon, &l, clean, ending).await {
            Err(e) if daemon.instances.runs(id) => tracing::info!("stopping {} by force: {e}", l.id()),
            other => return other,
        }
    }
    let ending = stop::Ending { clean: false, ..ending };
    stop::stop(daemon, &l, stop::How::Force, ending).await
}

/// Starts an instance that the plan has brought here, or given back.
async fn begin(daemon: &Arc<Daemon>, id: i64, plan: &str) -> Result<()> {
    let _busy = instances::lock(daemon, id).await;
    if daemon.instances.runs(id) {
        return Ok(());
    }
    let l = instances::by_id(daemon, id).await?;
    start::start_for(daemon, &l, Some(plan)).await?;
    l.lifecycle(daemon, "instance-started", None);
    Ok(())
}

/// Refuses if the plan is to be cancelled: what was asked for before comes too late.
async fn must_go_on(daemon: &Arc<Daemon>, plan: &str) -> Result<()> {
    let plan = plan.to_owned();
    match daemon.db().read(move |tx| db::plans::get(tx, &plan)).await?.state {
        State::Running => Ok(()),
        State::Undoing | State::Done | State::Failed | State::Cancelled => {
            Err(Error::conflict("The plan was cancelled"))
        }
    }
}

/// Gets the files of an instance; those that are here already came as a whole.
async fn fetch(
    daemon: &Arc<Daemon>,
    id: i64,
    address: Option<&str>,
    (from_pool, from): (&str, &Volume),
    (pool, volume): (&str, &Volume),
    stop: CancellationToken,
) -> Result<()> {
    let _lock = volumes::lock(daemon, pool, volume).await?;
    let to = pools::open(daemon, pool).await?;
    if to.exists(volume) {
        return Ok(());
    }
    let counter = daemon.plans.count(id);
    let counted = counter.clone();
    let progress = move |bytes: u64| counted.store(bytes, Ordering::Relaxed);
    let done = match address {
        Some(address) => {
            let source = volumes::Source { address, pool: from_pool, volume: from, part: storage::Part::Whole, stop };
            volumes::fetch_locked(daemon, &source, pool, volume, progress).await
        }
        None => {
            let source = pools::open(daemon, from_pool).await?;
            let (from, volume) = (from.clone(), volume.clone());
            blocking::run(move || {
                let part = storage::Part::Whole;
                storage::copy((&*source, &from), &part, (&*to, &volume), &mut |n| progress(n))
            })
            .await
        }
    };
    drop(counter);
    daemon.plans.forget_count(id);
    done
}

/// What was fetched, for which plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    plan: String,
    instance: i64,
}

/// Notes that the files come here because of a plan. The newest plan counts.
fn remember(daemon: &Daemon, task: &InstanceTask, volume: &Volume) {
    let fetched = Fetched { plan: task.plan.clone(), instance: task.instance };
    lock(&daemon.plans.fetched).insert((task.pool.clone(), volume.clone()), fetched);
}

/// Removes what came here for plans that have ended, if it does not belong here then: whoever carried the plan out could
/// not reach this member any more, and has done without it.
pub async fn tidy(daemon: &Arc<Daemon>) {
    loop {
        let all = lock(&daemon.plans.fetched).clone();
        for ((pool, volume), fetched) in all {
            if let Err(e) = tidy_one(daemon, &pool, &volume, &fetched).await {
                tracing::debug!("looking whether {} belongs here: {e}", volume.name);
            }
        }
        beat(ROUND).await;
    }
}

async fn tidy_one(daemon: &Arc<Daemon>, pool: &str, volume: &Volume, fetched: &Fetched) -> Result<()> {
    let plan = fetched.plan.clone();
    match daemon.db().read(move |tx| db::plans::get(tx, &plan)).await {
        Ok(plan) if !plan.state.ended() => return Ok(()),
        Err(e) if e.kind != Kind::NotFound => return Err(e),
        _ => {}
    }
    let Some(_lock) = volumes::lock_now(daemon, pool, volume).await? else { return Ok(()) };
    let key = (pool.to_owned(), volume.clone());
    // Another plan may have brought it since: that notes it before it waits for the lock.
    if lock(&daemon.plans.fetched).get(&key) != Some(fetched) {
        return Ok(());
    }
    match remove_locked(daemon, fetched.instance, pool, volume).await {
        Err(e) if e.kind != Kind::Conflict => return Err(e),
        _ => {}
    }
    lock(&daemon.plans.fetched).remove(&key);
    Ok(())
}

/// Removes files that no row gives to this member or to all, and what is left of the container beside them.
async fn remove(daemon: &Arc<Daemon>, id: i64, pool: &str, volume: &Volume) -> Result<()> {
    daemon.plans.stop_fetching(id);
    let _lock = volumes::lock(daemon, pool, volume).await?;
    remove_locked(daemon, id, pool, volume).await
}

async fn remove_locked(daemon: &Arc<Daemon>, id: i64, pool: &str, volume: &Volume) -> Result<()> {
    let owned = volumes::owned(daemon, pool, volume).await?;
    let driver = pools::open(daemon, pool).await?;
    // What all members reach stays where it is while its instance goes from one to the other.
    let stays = owned && driver.sharing().is_some();
    if owned && !stays {
        return Err(Error::conflict(format!(
            "The storage pool \"{pool}\" has a volume \"{}\" that belongs to another instance",
            volume.name
        )));
    }
    let (containers, volume) = (daemon.containers.clone(), volume.clone());
    let runs = daemon.instances.runs(id);
    blocking::run(move || {
        if !stays {
            driver.delete_volume(&volume)?;
        }
        // In another pool of the same member it may run under this name.
        if !runs && let Err(e) = containers.forget(&volume.name) {
            tracing::warn!("forgetting {}: {e}", volume.name);
        }
        Ok(())
    })
    .await
}

/// How many bytes of an instance have come in.
pub type Counter = Arc<AtomicU64>;
