//! The leader's warnings about the cluster: each is raised once when it has been so for a moment, and resolved when it
//! is so no more, whichever member leads by then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Error, Result};
use db::engine::runtime::beat;
use db::members::{Member, State};
use db::warnings::{self, Entity, Kind, Status, Subject, Warning};
use incus_core::concern::{self, Concern, View, concerns};
use jiff::{SignedDuration, Timestamp};

use crate::kept::Kept;
use crate::state::Daemon;

/// How often the leader looks.
const LOOK: Duration = Duration::from_secs(2);
/// At so many looks in a row something has to be wrong before it is warned of: roles settle within the first.
const LASTING: u32 = 3;
/// How often it is looked for warnings that were resolved long ago.
const PRUNE: Duration = Duration::from_secs(3600);
/// For so long warnings that were resolved are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Looks again and again while this member leads.
pub async fn watch(daemon: Arc<Daemon>) {
    let (mut seen, mut pruned) = (HashMap::new(), None::<Instant>);
    let known = Kept::default();
    loop {
        beat(LOOK).await;
        if !daemon.clustered() || !daemon.db().status().leads() {
            seen.clear();
            continue;
        }
        if let Err(e) = look(&daemon, &known, &mut seen).await {
            tracing::debug!("warnings about the cluster: {e}");
        }
        if pruned.is_none_or(|at| at.elapsed() > PRUNE) {
            pruned = Some(Instant::now());
            if let Err(e) = prune(&daemon).await {
                tracing::debug!("forgetting old warnings: {e}");
            }
        }
    }
}

async fn prune(daemon: &Daemon) -> Result<()> {
    let before = Timestamp::now().checked_sub(KEPT).map_err(|e| Error::internal(e.to_string()))?;
    let all = daemon.db().peek(|tx| warnings::list(tx, None)).await?;
    if all.iter().any(|w| w.status == Status::Resolved && w.last_seen < before) {
        daemon.write(move |tx| warnings::prune(tx, before)).await?;
    }
    Ok(())
}

async fn look(
    daemon: &Daemon,
    known: &Kept<(), Vec<Warning>>,
    seen: &mut HashMap<(Kind, Option<i64>), u32>,
) -> Result<()> {
    let now = Timestamp::now();
    let found = concerns(&view(daemon, now)?);
    let about = |c: &Concern| (kind(c.kind), c.member);
    seen.retain(|key, _| found.iter().any(|c| about(c) == *key));
    let lasting = |c: &&Concern| *seen.entry(about(c)).and_modify(|n| *n += 1).or_insert(1) >= LASTING;
    let lasting: Vec<Concern> = found.iter().filter(lasting).cloned().collect();
    let all = daemon.peek_kept(known, (), |tx| warnings::list(tx, None)).await?;
    let open: Vec<&Warning> = all.iter().filter(|w| is_ours(w) && w.status != Status::Resolved).collect();
    let is_open = |c: &Concern| open.iter().any(|w| (w.kind, w.entity.map(|(_, id)| id)) == about(c));
    let over: Vec<String> = open
        .iter()
        .filter(|w| !found.iter().any(|c| about(c) == (w.kind, w.entity.map(|(_, id)| id))))
        .map(|w| w.uuid.clone())
        .collect();
    let new: Vec<(Concern, String)> =
        lasting.into_iter().filter(|c| !is_open(c)).map(|c| (c, uuid::Uuid::new_v4().to_string())).collect();
    if new.is_empty() && over.is_empty() {
        return Ok(());
    }
    for (concern, _) in &new {
        tracing::warn!("{}: {}", kind(concern.kind).as_str(), concern.message);
    }
    daemon
        .write(move |tx| {
            for (concern, uuid) in &new {
                warnings::raise(tx, subject(concern), &concern.message, uuid, now)?;
            }
            for uuid in &over {
                warnings::set_status(tx, uuid, Status::Resolved, now)?;
            }
            Ok(())
        })
        .await
}

/// True for the sorts of warnings that are raised here.
fn is_ours(warning: &Warning) -> bool {
    concern::Kind::ALL.iter().any(|k| kind(*k) == warning.kind)
}

fn kind(kind: concern::Kind) -> Kind {
    match kind {
        concern::Kind::Offline => Kind::OfflineMember,
        concern::Kind::TimeSkew => Kind::ClusterTimeSkew,
        concern::Kind::SlowDisk => Kind::SlowDisk,
        concern::Kind::NoMargin => Kind::NoVoterToSpare,
        concern::Kind::Certificate => Kind::CertificateEnds,
    }
}

/// The same for all leaders.
fn subject(concern: &Concern) -> Subject {
    Subject {
        kind: kind(concern.kind),
        member: concern.member,
        project: None,
        entity: concern.member.map(|id| (Entity::Member, id)),
    }
}

fn view(daemon: &Daemon, now: Timestamp) -> Result<View> {
    let (snapshot, status, health) = (daemon.snapshot(), daemon.db().status(), daemon.health());
    let own_slow_writes = daemon.db().slow_writes();
    let joined = snapshot.members.iter().filter(|m| m.state != State::Pending);
    let members = joined.map(|m: &Member| {
        let id = m.raft_id.unwrap_or(0);
        let said = health.said_by(id).unwrap_or_default();
        let own = id == status.id;
        concern::Member {
            id: m.id,
            name: m.name.clone(),
            voter: status.voters.contains(&id),
            offline: daemon.must_be_online(m, &snapshot).is_err(),
            in_maintenance: m.state != State::Created,
            last_heard: health
                .last_heard(m)
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .strftime("%Y-%m-%d %H:%M:%S %z")
                .to_string(),
            ahead_ms: if own { 0 } else { said.ahead_ms },
            slow_writes: if own { own_slow_writes } else { said.slow_writes },
        }
    });
    let end = daemon.api_identity().ends()?;
    let certificate = Some((end.duration_since(now).as_hours().div_euclid(24), end.strftime("%Y-%m-%d").to_string()));
    Ok(View { members: members.collect(), voters: status.voters.len(), certificate })
}

/// What there is to say of a member now: about it, and about the cluster as a whole.
pub async fn of_member(daemon: &Daemon, name: &str) -> Result<Vec<String>> {
    let all = daemon.view(|tx| warnings::list(tx, None)).await?;
    let concerned = |w: &&Warning| match &w.member {
        Some(member) => member == name,
        None => is_ours(w),
    };
    let open = all.iter().filter(|w| w.status != Status::Resolved).filter(concerned);
    Ok(open.map(|w| format!("{}: {}", w.kind.as_str(), w.message)).collect())
}
