//! What a member does all the time: the leader asks who is there, keeps the roles right and writes down what it
//! sees; the others listen.

use std::sync::Arc;
use std::time::Duration;

use api::key::Config;
use api::{Error, Result};
use bytes::Bytes;
use db::members::{Member, Role};
use db::{Change, Db};
use futures::future::join_all;
use incus_core::member::{Seen, State};
use incus_core::roles;
use jiff::Timestamp;

use crate::link::{Channel, Links};
use crate::liveness::{Answer, Heartbeat, Liveness};

/// How often the leader asks the members.
const ROUND: Duration = Duration::from_secs(1);

/// Seconds after which a silent member counts as offline, unless `cluster.offline_threshold` says otherwise.
const OFFLINE_AFTER: u64 = 20;

/// The health of a cluster as this member knows it.
pub struct Health {
    links: Arc<Links>,
    liveness: Liveness,
    id: u64,
    started: std::time::Instant,
}

/// `cluster.offline_threshold` in milliseconds.
pub fn threshold_ms(config: &Config) -> u64 {
    config.get("cluster.offline_threshold").and_then(|v| v.parse().ok()).unwrap_or(OFFLINE_AFTER) * 1000
}

/// `cluster.max_voters`.
fn max_voters(config: &Config) -> usize {
    config.get("cluster.max_voters").and_then(|v| v.parse().ok()).unwrap_or(3)
}

/// `cluster.max_standby`.
pub fn max_standby(config: &Config) -> usize {
    config.get("cluster.max_standby").and_then(|v| v.parse().ok()).unwrap_or(2)
}

impl Health {
    /// The health as seen by the member with this Raft id.
    pub fn new(id: u64, links: Arc<Links>) -> Health {
        Health { links, liveness: Liveness::default(), id, started: std::time::Instant::now() }
    }

    /// How a member looks from here. A member that was never heard of is judged by the time in the database.
    pub fn seen(&self, member: &Member, config: &Config, newest: (i64, i64), now: Timestamp) -> Seen {
        let stored = || {
            let at = member.heartbeat.unwrap_or(Timestamp::UNIX_EPOCH);
            u64::try_from(now.duration_since(at).as_millis()).unwrap_or(0)
        };
        let silent_ms = match member.raft_id {
            Some(id) if id == self.id => 0,
            // Who has only just started can't have heard of anybody: that is nobody else's silence.
            Some(id) => self.liveness.age_ms(id).unwrap_or_else(|| stored().min(self.up_ms())),
            None => stored(),
        };
        let outdated = (member.schema, member.api_extensions) < newest;
        Seen { state: member.state, silent_ms, threshold_ms: threshold_ms(config), outdated }
    }

    /// Milliseconds since this member began to listen.
    fn up_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Forgets a member that was removed.
    pub fn forget(&self, id: u64) {
        self.liveness.forget(id);
        self.links.forget(id);
    }

    /// Answers a heartbeat of the leader.
    pub fn hear(&self, body: &[u8]) -> Result<Bytes> {
        let beat: Heartbeat =
            serde_json::from_slice(body).map_err(|e| Error::bad_request(format!("Unreadable heartbeat: {e}")))?;
        self.liveness.learn(&beat.ages);
        self.liveness.heard(beat.leader);
        let answer = Answer { clock_ms: Timestamp::now().as_millisecond() };
        serde_json::to_vec(&answer).map(Bytes::from).map_err(|e| Error::internal(e.to_string()))
    }

    /// Runs until the database shuts down.
    pub async fn run(self: Arc<Self>, db: Db) {
        let mut rounds: u64 = 0;
        loop {
            tokio::time::sleep(ROUND).await;
            if !db.status().leads() {
                continue;
            }
            rounds += 1;
            if let Err(e) = self.round(&db, rounds).await {
                tracing::debug!("health: {e}");
            }
        }
    }

    async fn round(&self, db: &Db, rounds: u64) -> Result<()> {
        let (members, config) = db.peek(|tx| Ok((db::members::list(tx)?, db::config::get(tx)?))).await?;
        self.ask_all(&members).await;
        self.settle_roles(db, &members, &config).await?;
        // The table is for people and for the next leader; the members themselves know better. It is written
        // as often as Incus writes it.
        let every = (threshold_ms(&config) / 2000).max(1);
        if members.len() > 1 && rounds.is_multiple_of(every) {
            let heard: Vec<(i64, Timestamp)> =
                members.iter().filter_map(|m| Some((m.id, self.last_heard(m)?))).collect();
            db.write(move |tx| db::members::set_heartbeats(tx, &heard)).await?;
        }
        Ok(())
    }

    /// When a member was last heard of.
    pub fn last_heard(&self, member: &Member) -> Option<Timestamp> {
        let age = match member.raft_id? {
            id if id == self.id => 0,
            id => match self.liveness.age_ms(id) {
                Some(age) => age,
                None => return member.heartbeat,
            },
        };
        let age = jiff::SignedDuration::from_millis(i64::try_from(age).ok()?);
        Timestamp::now().checked_sub(age).ok()
    }

    async fn ask_all(&self, members: &[Member]) {
        self.liveness.heard(self.id);
        let beat =
            Heartbeat { leader: self.id, ages: self.liveness.ages(), clock_ms: Timestamp::now().as_millisecond() };
        let Ok(body) = serde_json::to_vec(&beat).map(Bytes::from) else { return };
        let others = members.iter().filter_map(|m| m.raft_id).filter(|id| *id != self.id);
        join_all(others.map(|id| self.ask(id, body.clone()))).await;
    }

    async fn ask(&self, id: u64, body: Bytes) {
        if self.links.call(id, Channel::Heartbeat, body, ROUND).await.is_ok() {
            self.liveness.heard(id);
        }
    }

    async fn settle_roles(&self, db: &Db, members: &[Member], config: &Config) -> Result<()> {
        let status = db.status();
        let now = Timestamp::now();
        let candidates: Vec<roles::Member> = members
            .iter()
            .filter_map(|m| {
                let id = m.raft_id?;
                let seen = self.seen(m, config, (0, 0), now);
                let matched = status.matched.iter().find(|(other, _)| *other == id).map_or(0, |(_, index)| *index);
                let known = status.voters.contains(&id) || status.learners.contains(&id);
                Some(roles::Member {
                    id,
                    voter: status.voters.contains(&id),
                    healthy: known && !seen.offline() && m.state != State::Pending,
                    in_maintenance: matches!(m.state, State::Evacuated | State::Evacuating),
                    client_only: m.roles.contains(&Role::DatabaseClient),
                    failure_domain: m.failure_domain.clone(),
                    matched,
                })
            })
            .collect();
        let Some(change) = roles::next(&candidates, max_voters(config), self.id) else { return Ok(()) };
        let mut voters: Vec<u64> = status.voters.into_iter().filter(|id| !change.remove.contains(id)).collect();
        voters.extend(&change.add);
        tracing::info!("database voters are to be {voters:?}");
        db.change(Change::Voters(voters)).await
    }
}
