//! What a member knows of the database's members, and how it learns of changes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Db;
use super::runtime::{beat, blocking};

/// What a member knows of the database's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member's Raft id.
    pub id: u64,
    /// The term of the current leader.
    pub term: u64,
    /// The leader, if one is known and was heard of lately.
    pub leader: Option<u64>,
    /// True if, as far as this member can tell, a majority of the voters hears the leader: writes go through.
    pub quorum: bool,
    /// Members that vote.
    pub voters: Vec<u64>,
    /// True while those who vote are being changed: majorities of the ones before and of the ones after are needed.
    pub changing: bool,
    /// Members that hold the database and do not vote.
    pub learners: Vec<u64>,
    /// The last entry in this member's log.
    pub last_log: u64,
    /// The last entry applied here.
    pub applied: u64,
    /// The last entry that is no longer in the log because the replica holds it durably.
    pub purged: u64,
    /// On the leader: the last entry that each other member is known to have.
    pub matched: Vec<(u64, u64)>,
    /// True while this replica differs from the others and waits for a fresh copy.
    pub diverged: bool,
    /// How often this replica was replaced by a fresh copy since the start because it differed from the others.
    pub repairs: u64,
    /// Why this member's replica can't go on, in words for a person, while it can't.
    pub halted: Option<String>,
    /// True if it takes no part any more, though nobody has shut it down: a fault of the program, or a member that told
    /// what can't be. What the replica holds can be read; opened again it goes on.
    pub ended: bool,
}

impl Status {
    /// True if this member is the leader.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.id)
    }

    /// True if this member votes.
    pub fn votes(&self) -> bool {
        self.voters.contains(&self.id)
    }
}

/// When the leader was last heard of.
pub(super) struct Heard {
    started: Instant,
    at_ms: AtomicU64,
}

impl Default for Heard {
    fn default() -> Self {
        Heard { started: Instant::now(), at_ms: AtomicU64::new(0) }
    }
}

impl Heard {
    /// It was heard just now.
    pub fn now(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at_ms.store(ms, Ordering::Relaxed);
    }

    /// How long ago it was; since the start if it was never heard.
    pub fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.at_ms.load(Ordering::Relaxed)))
    }
}

/// How often watchers are told at most.
const BREATH: Duration = Duration::from_millis(20);

impl Db {
    /// The members as this one knows them now.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let learners = membership.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id)).collect();
        let matched = metrics.replication.unwrap_or_default();
        let halt = self.machine.watch_halted().borrow().clone();
        let ended = self.ended.load(Ordering::Relaxed);
        let quorum = !ended && self.quorum();
        let stopped = metrics.running_state.err().map(|e| format!("The database of this member has stopped: {e}"));
        let stopped = stopped.or_else(|| ended.then(|| "The database of this member has stopped".to_owned()));
        Status {
            id: self.options.id,
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| quorum),
            quorum,
            voters: voters.into_iter().collect(),
            changing: membership.get_joint_config().len() > 1,
            learners,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: *self.machine.watch_applied().borrow(),
            purged: metrics.purged.map_or(0, |id| id.index()),
            matched: matched.into_iter().map(|(id, m)| (id, m.map_or(0, |id| id.index()))).collect(),
            diverged: halt.as_ref().is_some_and(|h| h.differs),
            repairs: self.repairs.load(Ordering::Relaxed),
            halted: halt.map(|h| h.why).or_else(|| self.stuck.borrow().clone()).or(stopped),
            ended,
        }
    }

    /// The status as it changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.changes.subscribe()
    }

    /// True if there is a leader, and on the leader itself, if a majority answers it.
    pub(super) fn quorum(&self) -> bool {
        let server = self.raft.server_metrics();
        let (leader, alone) = {
            let server = server.borrow_watched();
            let membership = server.membership_config.membership();
            (server.current_leader, membership.voter_ids().eq([self.options.id]))
        };
        match leader {
            None => false,
            Some(leader) if leader != self.options.id => self.heard.age() < self.lost_after(),
            Some(_) => {
                let acked = self.raft.metrics().borrow_watched().last_quorum_acked.map(|at| at.elapsed());
                alone || acked.is_some_and(|age| age < self.lost_after())
            }
        }
    }

    /// After such a silence a majority counts as lost: by then others would have elected another leader.
    fn lost_after(&self) -> Duration {
        self.options.lease() * 3
    }

    /// How long a request may wait: less if the majority has been away for some time already.
    pub(super) fn patience(&self) -> Duration {
        if self.quorum() || self.heard.age() < self.lost_after() {
            self.options.patience
        } else {
            self.options.patience / 5
        }
    }

    /// Reports changes of the status, has this replica repaired if it differs from the others, and lets a leader be heard.
    /// Ends with the last handle of the database.
    pub(super) async fn look_after(self, alive: Weak<()>) {
        let mut applied = self.machine.watch_applied();
        let mut halted = self.machine.watch_halted();
        let mut server = self.raft.server_metrics();
        let (mut repair, mut spoke) = (None::<JoinHandle<()>>, Instant::now());
        while alive.strong_count() > 0 && !self.machine.is_stopping() {
            let told = tokio::select! {
                biased;
                _ = applied.changed() => true,
                _ = halted.changed() => true,
                changed = server.changed() => { if changed.is_err() { self.has_ended().await }; true }
                () = self.turn(spoke) => false,
            };
            let status = self.status();
            // The Raft library looks at its clocks sixteen times a second, to let itself be heard, and to begin an election. It
            // is only left to that where the leader may have to be another one.
            self.raft.runtime_config().tick(!status.leads() && !self.hears_another(&status));
            if status.leads() {
                self.heard.now();
                self.end_half_made_change();
                if spoke.elapsed() >= self.options.heartbeat {
                    spoke = Instant::now();
                    // What keeps the library from it is reported with its status.
                    let _ = self.raft.trigger().heartbeat().await;
                }
            }
            if status.diverged && repair.as_ref().is_none_or(JoinHandle::is_finished) {
                let (db, status) = (self.clone(), status.clone());
                repair = Some(tokio::spawn(async move { db.repair(&status).await }));
            }
            self.changes.send_if_modified(|now| {
                let news = *now != status;
                *now = status;
                news
            });
            if told {
                tokio::time::sleep(BREATH).await;
            }
        }
    }

    /// Returns when a leader that was last heard at `spoke` has to be heard again; on others, when the status is to be looked at
    /// although nothing was reported.
    async fn turn(&self, spoke: Instant) {
        let leads = self.changes.borrow().leads();
        if leads { tokio::time::sleep_until(spoke + self.options.heartbeat).await } else { beat(self.round()).await }
    }

    /// How often others look: so often that what the Raft library has to do once it has not heard the leader any more is not
    /// late.
    fn round(&self) -> Duration {
        self.options.heartbeat * 5 / 3
    }

    /// True if another member leads and has been heard since the look before: no election begins before a lease and more has
    /// passed.
    fn hears_another(&self, status: &Status) -> bool {
        status.leader.is_some_and(|leader| leader != status.id) && self.heard.age() < self.round()
    }

    /// The Raft library has ended: it was shut down, or has panicked.
    async fn has_ended(&self) {
        if !self.machine.is_stopping() && !self.ended.swap(true, Ordering::Relaxed) {
            tracing::error!("the database of this member has stopped by itself");
        }
        tokio::time::sleep(self.round()).await;
    }

    /// Puts a copy of another member's replica in the place of this one: the leader's, or if this member leads,
    /// that of whoever has most.
    async fn repair(&self, status: &Status) {
        let Some(halt) = self.machine.watch_halted().borrow().clone().filter(|halt| halt.differs) else { return };
        let others = status.matched.iter().filter(|(id, _)| *id != status.id);
        let source = halt.source.or_else(|| match status.leader {
            Some(leader) if leader != status.id => Some(leader),
            _ => others.max_by_key(|(_, index)| *index).map(|(id, _)| *id),
        });
        let Some(source) = source else { return };
        let machine = self.machine.clone();
        let repaired = async {
            let copy = self.post.fetch(source).await?;
            blocking(move || machine.copy_in(&copy)).await?.map_err(api::Error::from)
        };
        match repaired.await {
            Ok(true) => {
                self.repairs.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("the database of this member was replaced by a copy of that of member {source}");
            }
            Ok(false) => tracing::debug!("the copy of member {source} is not new enough"),
            Err(e) => tracing::warn!("the database of this member can't be repaired yet: {e}"),
        }
    }

    /// Starts [`Db::look_after`]; what keeps it alive.
    pub(super) fn start_looking_after(&self) -> Arc<()> {
        let alive = Arc::new(());
        tokio::spawn(self.clone().look_after(Arc::downgrade(&alive)));
        alive
    }
}
