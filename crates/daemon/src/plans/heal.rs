//! Healing: the leader starts elsewhere what a member ran that is gone. [`incus_core::heal`] decides when.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::error::Context as _;
use api::key::Read as _;
use api::{Error, Result};
use db::Tx;
use db::engine::runtime::beat;
use db::members::{Member, State};
use db::plans::{Kind, Plan, State as PlanState};
use db::warnings::{Kind as WarningKind, Subject};
use drivers::storage::lease::Seen;
use incus_core::heal::{Attempt, Lease, Silent, TRIES, attempt, is_due};
use incus_core::version::Standing;
use jiff::Timestamp;

use super::gone::{self, Placed};
use super::taking;
use crate::blocking;
use crate::services::pools;
use crate::state::{Daemon, Snapshot};

/// How often the leader looks.
const ROUND: Duration = Duration::from_secs(1);
/// The leases of a member are watched once it is silent for so long: it takes time to see that one has lapsed.
const SUSPECT_MS: u64 = 3_000;
/// How often a machine is asked for a sign of life, and how long it may take.
const PINGS: u16 = 3;
const PING: Duration = Duration::from_secs(1);
/// How long the program of a person may take that bars a member.
const HOOK: Duration = Duration::from_secs(120);
/// So much of what it says is told.
const SAID: usize = 2000;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for members to heal, for as long as the daemon runs.
pub async fn watch(daemon: Arc<Daemon>) {
    loop {
        beat(ROUND).await;
        let threshold = cluster::health::healing_threshold(&daemon.snapshot().config);
        if let Some(threshold) = threshold
            && daemon.db().status().leads()
        {
            let threshold_ms = u64::try_from(threshold.as_millis()).unwrap_or(u64::MAX);
            for member in daemon.snapshot().members.iter().filter(|m| m.state == State::Created) {
                if let Err(e) = look_after(&daemon, member, threshold_ms).await {
                    tracing::warn!("healing \"{}\": {e}", member.name);
                }
            }
        }
    }
}

async fn look_after(daemon: &Arc<Daemon>, member: &Member, threshold_ms: u64) -> Result<()> {
    let snapshot = daemon.snapshot();
    let silent_ms = daemon.health().seen(member, &snapshot.config, Standing::Newest, Timestamp::now()).silent_ms;
    if silent_ms < SUSPECT_MS {
        return Ok(());
    }
    let (id, reader) = (member.id, daemon.clone());
    let volumes = daemon.db().peek(move |tx| gone::reachable(&reader, tx, id)).await?;
    let leases = leases(daemon, volumes).await?;
    let mut silent = Silent { state: member.state, silent_ms, answers: true, leases };
    if !is_due(&silent, threshold_ms) {
        // It takes a while to find out that nobody answers.
        silent.answers = false;
        if !is_due(&silent, threshold_ms) || answers(member).await {
            return Ok(());
        }
    }
    let heard = daemon.health().last_heard(member).unwrap_or(Timestamp::UNIX_EPOCH);
    let failed: Vec<Plan> = daemon.db().peek(move |tx| failed_since(tx, id, heard)).await?;
    let ended = failed.first().and_then(|p| p.ended).map(|at| Timestamp::now().duration_since(at).as_millis());
    match attempt(failed.len(), ended.map(|ms| u64::try_from(ms).unwrap_or(0))) {
        Attempt::Now => {}
        Attempt::Later => return Ok(()),
        Attempt::GivenUp => return give_up(daemon, member, &failed).await,
    }
    tracing::warn!(
        "\"{}\" has been silent for {} s: its instances are started elsewhere",
        member.name,
        silent_ms / 1000
    );
    gone::heal(daemon, member.id).await.map(drop)
}

/// True if nothing has been heard of a member for as long as healing waits, its machine does not answer and it is barred from
/// what it may still reach: a lease of it that has lapsed is nobody's.
pub async fn is_gone(daemon: &Arc<Daemon>, raft_id: u64) -> Result<bool> {
    let snapshot = daemon.snapshot();
    let Some((member, silent)) = silent(daemon, &snapshot, raft_id) else { return Ok(true) };
    if !silent || answers(member).await {
        return Ok(false);
    }
    bar(daemon, member.id).await.map(|()| true)
}

/// True if nothing has been heard of a member for as long as healing waits, or it is no member any more.
pub fn is_silent(daemon: &Daemon, raft_id: u64) -> bool {
    silent(daemon, &daemon.snapshot(), raft_id).is_none_or(|(_, silent)| silent)
}

/// The member, unless it is none any more, and whether nothing has been heard of it for as long as healing waits.
fn silent<'a>(daemon: &Daemon, snapshot: &'a Snapshot, raft_id: u64) -> Option<(&'a Member, bool)> {
    let member = snapshot.members.iter().find(|m| m.raft_id == Some(raft_id))?;
    let seen = daemon.health().seen(member, &snapshot.config, Standing::Newest, Timestamp::now());
    let threshold = cluster::health::healing_threshold(&snapshot.config);
    Some((member, threshold.is_some_and(|threshold| u128::from(seen.silent_ms) >= threshold.as_millis())))
}

/// What is known of the leases of these volumes.
async fn leases(daemon: &Arc<Daemon>, volumes: impl IntoIterator<Item = Placed>) -> Result<Vec<Lease>> {
    let mut all = Vec::new();
    for (pool, volume) in volumes {
        all.push(match taking::look(daemon, &pool, volume).await? {
            None | Some(Seen::Free) => Lease::Free,
            Some(Seen::Held(_)) => Lease::Held,
            Some(Seen::Lapsed(_)) => Lease::Lapsed,
            Some(Seen::Fenced(_)) => Lease::Fenced,
        });
    }
    Ok(all)
}

/// True if the machine of a member answers on the network, also when that can't be found out.
async fn answers(member: &Member) -> bool {
    let (address, name) = (member.address.clone(), member.name.clone());
    let asked = blocking::run(move || {
        use std::net::ToSocketAddrs as _;
        let at = address.to_socket_addrs()?.next();
        let at = at.ok_or_else(|| Error::bad_request(format!("The address {address} has no machine")))?;
        Ok(host::icmp::answers(at.ip(), PINGS, PING)?)
    });
    asked.await.unwrap_or_else(|e| {
        tracing::warn!("asking \"{name}\" for a sign of life: {e}");
        true
    })
}

/// The attempts to heal a member that have failed since it was last heard of, newest first.
fn failed_since(tx: &Tx<'_>, member: i64, heard: Timestamp) -> Result<Vec<Plan>> {
    let plans = db::plans::of_member(tx, member)?.into_iter();
    Ok(plans.take_while(|p| p.kind == Kind::Heal && p.state == PlanState::Failed && p.created > heard).collect())
}

async fn give_up(daemon: &Arc<Daemon>, member: &Member, failed: &[Plan]) -> Result<()> {
    let about = Subject::member(WarningKind::PlanFailed, member.id);
    let last = failed.first().map_or("", |p| p.error.as_str());
    let text = format!("\"{}\" could not be healed in {TRIES} attempts, which is given up: {last}", member.name);
    let known = text.clone();
    let told = move |tx: &Tx<'_>| Ok(db::warnings::list(tx, None)?.iter().any(|w| w.message == known));
    if daemon.db().peek(told).await? {
        return Ok(());
    }
    tracing::error!("{text}");
    daemon.write(move |tx| db::warnings::raise(tx, about, &text, &new_uuid(), Timestamp::now()).map(drop)).await
}

fn new_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Writes down what came of emptying or restoring a member, for people who look at the warnings.
pub fn warn(tx: &Tx<'_>, plan: (Kind, i64), name: &str, taken: usize, failed: &str) -> Result<()> {
    let (kind, member) = plan;
    let now = Timestamp::now();
    let (healed, not_done) =
        (Subject::member(WarningKind::MemberHealed, member), Subject::member(WarningKind::PlanFailed, member));
    match kind {
        Kind::Restore => {
            db::warnings::resolve(tx, healed, now)?;
            db::warnings::resolve(tx, not_done, now)
        }
        Kind::Heal => {
            if taken > 0 {
                let text = format!(
                    "\"{name}\" did not answer: {taken} of its instances were started elsewhere (when it is back: incus \
                     cluster restore {name})"
                );
                db::warnings::raise(tx, healed, &text, &new_uuid(), now)?;
            }
            match failed {
                "" => db::warnings::resolve(tx, not_done, now),
                why => {
                    db::warnings::raise(tx, not_done, &format!("Healing \"{name}\": {why}"), &new_uuid(), now).map(drop)
                }
            }
        }
        Kind::Evacuate | Kind::Move => Ok(()),
    }
}

/// Bars a member from what it may still reach, before anything is taken from it: by the storage where that can, and by
/// the program of `cluster.healing_hook`.
pub async fn bar(daemon: &Arc<Daemon>, member: i64) -> Result<()> {
    let snapshot = daemon.snapshot();
    let Some(row) = snapshot.members.iter().find(|m| m.id == member) else { return Ok(()) };
    let hook = snapshot.config.read(&api::keys::server::HEALING_HOOK);
    if !hook.is_empty() {
        call(&hook, &row.name, &row.address).await.map_err(|e| e.context("cluster.healing_hook"))?;
    }
    for pool in daemon.db().peek(pools::remote_names).await? {
        let (driver, name) = (pools::open(daemon, &pool).await?, row.name.clone());
        let barred = blocking::run(move || driver.fence(&name)).await;
        barred.context(format!("Barring \"{}\" from the storage pool \"{pool}\"", row.name))?;
    }
    Ok(())
}

/// Runs a program of a person, which must succeed.
async fn call(program: &str, name: &str, address: &str) -> Result<()> {
    let mut command = tokio::process::Command::new(program);
    command.args([name, address]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ran = command.spawn().context(format!("Running {program}"))?.wait_with_output();
    let late = || Error::internal(format!("{program} {name} {address} did not end within {} s", HOOK.as_secs()));
    let done = tokio::time::timeout(HOOK, ran).await.map_err(|_| late())?.context(format!("Running {program}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(SAID)..]).trim().to_owned();
    Err(Error::internal(format!("{program} {name} {address} failed ({}): {said}", done.status)))
}
