//! What a member does all the time: the leader asks who is there, goes on to newer versions, keeps the roles right and
//! writes down what it sees; the others listen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::key::Config;
use api::{Error, Result};
use bytes::Bytes;
use db::engine::runtime::{beat, now};
use db::members::{Member, Role};
use db::versions::Recorded;
use db::{Change, Db, Status};
use futures::future::join_all;
use incus_core::member::{Seen, State};
use incus_core::roles::{self, Step};
use incus_core::version::{Fit, Program, Standing, next_schema, waited_for};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::link::{Channel, Links};
use crate::liveness::{Answer, Heartbeat, Liveness, clock_ms};

/// How often the leader asks the members.
const ROUND: Duration = Duration::from_secs(1);

/// For so many rounds, of a second or longer, a difference between the members of the cluster and those of its database
/// is taken for a change that is still being made.
const DIFFERENT: u32 = 15;
/// The same for a member that has no database: nothing is being done to it.
const EMPTY: u32 = 2;

/// Seconds after which a silent member counts as offline, unless `cluster.offline_threshold` says otherwise.
const OFFLINE_AFTER: u64 = 20;

/// The health of a cluster as this member knows it.
pub struct Health {
    links: Arc<Links>,
    liveness: Liveness,
    id: u64,
    program: Program,
    started: Instant,
    /// True once this member is being shut down.
    leaving: AtomicBool,
    /// What the members last said of themselves to this one, by Raft id.
    said: Mutex<HashMap<u64, Said>>,
    /// Members whose last answer showed that they hold this database, or none, with its incarnation.
    sharing: Mutex<HashMap<u64, u64>>,
    /// For how many rounds a member of only one of the two was seen, by Raft id.
    different: Mutex<HashMap<u64, u32>>,
}

/// What a round goes by, kept until the database changes.
#[derive(Default)]
struct Rows {
    /// The [revision](Db::revision) of the database that it was read from, or an older one; none before the first round.
    revision: Option<u64>,
    recorded: Vec<Recorded>,
    config: Config,
    members: Vec<Member>,
}

impl Rows {
    async fn renew(rows: &mut Arc<Rows>, db: &Db) -> Result<()> {
        let revision = Some(db.revision());
        if rows.revision != revision {
            let (recorded, config, members) =
                db.peek(|tx| Ok((db::versions::list(tx)?, db::config::get(tx)?, db::members::list(tx)?))).await?;
            *rows = Arc::new(Rows { revision, recorded, config, members });
        }
        Ok(())
    }
}

/// What a member said of itself in its last answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// How far its clock is ahead of this member's, in milliseconds, at least: the way of the answer is not counted.
    pub ahead_ms: i64,
    /// How often, lately, its log took too long to write.
    pub slow_writes: usize,
    /// True if it is being shut down.
    pub leaving: bool,
}

impl Said {
    /// From an answer to what was asked `took` ago.
    fn of(answer: &Answer, now_ms: i64, took: Duration) -> Said {
        let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        // It was written at some time since it was asked for.
        let (least, most) = (answer.clock_ms - now_ms, answer.clock_ms - now_ms.saturating_sub(took_ms));
        let ahead_ms = if least > 0 { least } else { most.min(0) };
        Said { ahead_ms, slow_writes: answer.slow_writes, leaving: answer.leaving }
    }
}

/// `cluster.offline_threshold` in milliseconds.
pub fn threshold_ms(config: &Config) -> u64 {
    config.get("cluster.offline_threshold").and_then(|v| v.parse().ok()).unwrap_or(OFFLINE_AFTER) * 1000
}

/// Seconds of silence after which the instances of a member are started elsewhere: `cluster.healing_threshold`, and no
/// less than what makes it offline. `None`: never.
pub fn healing_threshold(config: &Config) -> Option<Duration> {
    let seconds = config.get("cluster.healing_threshold").and_then(|v| v.parse().ok()).filter(|s| *s > 0)?;
    Some(Duration::from_secs(seconds).max(Duration::from_millis(threshold_ms(config))))
}

/// `cluster.max_voters`.
pub fn max_voters(config: &Config) -> usize {
    config.get("cluster.max_voters").and_then(|v| v.parse().ok()).unwrap_or(3)
}

/// `cluster.max_standby`.
pub fn max_standby(config: &Config) -> usize {
    config.get("cluster.max_standby").and_then(|v| v.parse().ok()).unwrap_or(2)
}

impl Health {
    /// The health as seen by the member with this Raft id, whose program can serve this.
    pub fn new(id: u64, links: Arc<Links>, program: Program) -> Health {
        Health {
            links,
            liveness: Liveness::default(),
            id,
            program,
            started: Instant::now(),
            leaving: AtomicBool::new(false),
            said: Mutex::default(),
            sharing: Mutex::default(),
            different: Mutex::default(),
        }
    }

    /// How a member looks from here.
    pub fn seen(&self, member: &Member, config: &Config, standing: Standing, now: Timestamp) -> Seen {
        let silent_ms = self.silent_ms(member.raft_id, member.heartbeat, now);
        Seen { state: member.state, silent_ms, threshold_ms: threshold_ms(config), standing }
    }

    /// For how long a member has been silent. One that was never heard of is judged by the time in the database.
    fn silent_ms(&self, raft_id: Option<u64>, heartbeat: Option<Timestamp>, now: Timestamp) -> u64 {
        let stored = || {
            let at = heartbeat.unwrap_or(Timestamp::UNIX_EPOCH);
            u64::try_from(now.duration_since(at).as_millis()).unwrap_or(0)
        };
        match raft_id {
            Some(id) if id == self.id => 0,
            // Who has only just started can't have heard of anybody: that is nobody else's silence.
            Some(id) => self.liveness.age_ms(id).unwrap_or_else(|| stored().min(self.up_ms())),
            None => stored(),
        }
    }

    /// What the program of a member can serve: what it has said, or else what is written down of it.
    pub fn program_of(&self, member: &Member) -> Program {
        let (latest, extensions) = (member.schema, member.api_extensions);
        let said =
            member.raft_id.and_then(|id| if id == self.id { Some(self.program) } else { self.liveness.program(id) });
        // That it were too new for the others would be known from itself.
        said.unwrap_or(Program { oldest: 0, latest, extensions })
    }

    /// The programs of all members that were heard of.
    pub fn programs(&self) -> Vec<Program> {
        self.liveness.programs().into_iter().map(|(_, program)| program).collect()
    }

    /// The programs of the members that a change to a newer version waits for.
    pub fn counted(&self, members: &[Member], config: &Config, now: Timestamp) -> Vec<Program> {
        let threshold = threshold_ms(config);
        let counted = members.iter().filter(|m| waited_for(self.silent_ms(m.raft_id, m.heartbeat, now), threshold));
        counted.map(|m| self.program_of(m)).collect()
    }

    /// How long ago a leader has last heard of this member, as far as that was told; `None` if it never was.
    pub fn heard_by_leader(&self) -> Option<Duration> {
        self.liveness.age_ms(self.id).map(Duration::from_millis)
    }

    /// Milliseconds since this member began to listen.
    fn up_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Forgets a member that was removed.
    pub fn forget(&self, id: u64) {
        self.liveness.forget(id);
        self.links.forget(id);
        self.said().remove(&id);
    }

    /// This member is being shut down, and says so to the leader: it gives its vote to somebody else.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// What a member last said of itself to this one, as the leader.
    pub fn said_by(&self, id: u64) -> Option<Said> {
        self.said().get(&id).copied()
    }

    fn said(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_leaving(&self, id: u64) -> bool {
        if id == self.id { self.leaving.load(Ordering::SeqCst) } else { self.said_by(id).is_some_and(|s| s.leaving) }
    }

    /// Answers a heartbeat of the leader as a member that holds this database.
    pub fn hear(&self, body: &[u8], db: &Db) -> Result<Bytes> {
        let beat: Heartbeat =
            serde_json::from_slice(body).map_err(|e| Error::bad_request(format!("Unreadable heartbeat: {e}")))?;
        self.liveness.learn(&beat.ages);
        self.liveness.learn_programs(&beat.programs);
        self.liveness.heard(beat.leader);
        let answer = Answer {
            clock_ms: clock_ms(),
            incarnation: db.incarnation(),
            program: Some(self.program),
            leaving: self.leaving.load(Ordering::SeqCst),
            slow_writes: db.slow_writes(),
        };
        serde_json::to_vec(&answer).map(Bytes::from).map_err(|e| Error::internal(e.to_string()))
    }

    /// Runs until the database shuts down.
    pub async fn run(self: Arc<Self>, db: Db) {
        let (mut rounds, mut rows) = (0, Arc::default());
        loop {
            beat(ROUND).await;
            if !db.status().leads() {
                continue;
            }
            rounds += 1;
            if let Err(e) = self.round(&db, rounds, &mut rows).await {
                tracing::debug!("health: {e}");
            }
        }
    }

    async fn round(&self, db: &Db, rounds: u64, rows: &mut Arc<Rows>) -> Result<()> {
        Rows::renew(rows, db).await?;
        let before = rows.clone();
        let Rows { recorded, config, .. } = &*before;
        let answered = self.ask_all(recorded, db.incarnation()).await;
        record(db, recorded, &answered).await?;
        self.go_on(db, recorded, config, &answered).await?;
        if self.program.fit(db.wanted_version()) != Fit::Serves {
            return self.leave_the_lead(db, &answered).await;
        }
        Rows::renew(rows, db).await?;
        let Rows { members, .. } = &**rows;
        self.settle_roles(db, members, config).await?;
        self.settle_members(db, members).await?;
        // The table is for people and for the next leader; the members themselves know better. It is written
        // as often as Incus writes it.
        let every = (threshold_ms(config) / 2000).max(1);
        if members.len() > 1 && rounds.is_multiple_of(every) {
            let heard: Vec<(i64, Timestamp)> =
                members.iter().filter_map(|m| Some((m.id, self.last_heard(m)?))).collect();
            db.write(move |tx| db::members::set_heartbeats(tx, &heard)).await?;
        }
        Ok(())
    }

    /// Brings the schema to the newest version that all can serve who are waited for. They all have to have said so just
    /// now: one that is silent may come back with another program.
    async fn go_on(&self, db: &Db, recorded: &[Recorded], config: &Config, answered: &Answered) -> Result<()> {
        let (now, threshold) = (now(), threshold_ms(config));
        let counted = recorded.iter().filter(|r| {
            answered.contains_key(&r.raft_id)
                || waited_for(self.silent_ms(Some(r.raft_id), r.heartbeat, now), threshold)
        });
        let programs: Option<Vec<Program>> = counted.map(|r| answered.get(&r.raft_id).copied()).collect();
        let version = db.schema_version();
        let Some(next) = programs.and_then(|all| next_schema(version, &all)) else { return Ok(()) };
        tracing::warn!(
            "all members can serve schema version {next}: the database goes on to it from version {version}"
        );
        let gone_on = db.migrate(next).await;
        gone_on.inspect_err(|e| tracing::error!("the database can't go on to schema version {next}: {e}"))
    }

    /// Who can't serve lets another one lead who can.
    async fn leave_the_lead(&self, db: &Db, answered: &Answered) -> Result<()> {
        let version = db.wanted_version();
        let voters = db.status().voters;
        let can = |id: &&u64| **id != self.id && answered.get(*id).is_some_and(|p| p.fit(version) == Fit::Serves);
        match voters.iter().find(can) {
            Some(heir) => db.hand_over(*heir).await,
            None => Ok(()),
        }
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
        now().checked_sub(age).ok()
    }

    /// Asks all members; the programs of those that have answered, and the own.
    async fn ask_all(&self, recorded: &[Recorded], incarnation: u64) -> Answered {
        self.liveness.heard(self.id);
        self.liveness.learn_programs(&[(self.id, self.program)]);
        let beat = Heartbeat {
            leader: self.id,
            ages: self.liveness.ages(),
            clock_ms: clock_ms(),
            programs: self.liveness.programs(),
        };
        let own = [Some((self.id, self.program))];
        let Ok(body) = serde_json::to_vec(&beat).map(Bytes::from) else { return own.into_iter().flatten().collect() };
        let others = recorded.iter().map(|r| r.raft_id).filter(|id| *id != self.id);
        let answers = join_all(others.map(|id| self.ask(id, body.clone(), incarnation))).await;
        answers.into_iter().chain(own).flatten().collect()
    }

    async fn ask(&self, id: u64, body: Bytes, incarnation: u64) -> Option<(u64, Program)> {
        let asked = Instant::now();
        let answer = self.links.call(id, Channel::Heartbeat, body, ROUND).await.ok()?;
        let answer: Answer = serde_json::from_slice(&answer).ok()?;
        self.said().insert(id, Said::of(&answer, clock_ms(), asked.elapsed()));
        let theirs = answer.incarnation;
        // Who was left behind with another database, after a recovery, takes no part in this cluster.
        let mut sharing = self.sharing.lock().unwrap_or_else(PoisonError::into_inner);
        if theirs != 0 && theirs != incarnation {
            sharing.remove(&id);
            return None;
        }
        self.liveness.heard(id);
        sharing.insert(id, theirs);
        let program = answer.program?;
        self.liveness.learn_programs(&[(id, program)]);
        Some((id, program))
    }

    /// Brings the members of the database in line with those of the cluster, where an interrupted removal or a recovery
    /// has left them different.
    async fn settle_members(&self, db: &Db, members: &[Member]) -> Result<()> {
        let status = db.status();
        let found = {
            let sharing = self.sharing.lock().unwrap_or_else(PoisonError::into_inner);
            differences(&status, members, self.id, &sharing)
        };
        let due: Vec<Change> = {
            let mut different = self.different.lock().unwrap_or_else(PoisonError::into_inner);
            different.retain(|id, _| found.iter().any(|d| d.id == *id));
            let mut rounds = |id: u64| *different.entry(id).and_modify(|n| *n += 1).or_insert(1);
            found.into_iter().filter_map(|d| (rounds(d.id) > d.rounds).then_some(d.change)).collect()
        };
        for change in due {
            tracing::warn!("the members of the database are not those of the cluster: {change:?}");
            db.change(change).await?;
        }
        Ok(())
    }

    /// The members as far as their roles in the database go; also a voter that is no member (any more), as a silent one:
    /// it counts for the majority until it is taken out.
    pub fn voting(&self, status: &Status, members: &[Member], config: &Config) -> Vec<roles::Member> {
        let now = now();
        let mut voting: Vec<roles::Member> = members
            .iter()
            .filter_map(|m| {
                let id = m.raft_id?;
                let seen = self.seen(m, config, Standing::Newest, now);
                let matched = status.matched.iter().find(|(other, _)| *other == id).map_or(0, |(_, index)| *index);
                let known = status.voters.contains(&id) || status.learners.contains(&id);
                Some(roles::Member {
                    id,
                    voter: status.voters.contains(&id),
                    healthy: known && !seen.offline() && m.state != State::Pending && !self.is_leaving(id),
                    in_maintenance: matches!(m.state, State::Evacuated | State::Evacuating),
                    client_only: m.roles.contains(&Role::DatabaseClient),
                    failure_domain: m.failure_domain.clone(),
                    matched,
                })
            })
            .collect();
        let strangers = status.voters.iter().filter(|id| members.iter().all(|m| m.raft_id != Some(**id)));
        let stranger = |id: &u64| roles::Member { id: *id, voter: true, ..roles::Member::default() };
        voting.extend(strangers.map(stranger));
        voting
    }

    async fn settle_roles(&self, db: &Db, members: &[Member], config: &Config) -> Result<()> {
        let status = db.status();
        let candidates = self.voting(&status, members, config);
        let change = match roles::next(&candidates, max_voters(config), self.id) {
            None => return Ok(()),
            Some(Step::HandOver(heir)) => {
                tracing::info!("member {heir} is to lead the database: this one is not to vote");
                return db.hand_over(heir).await;
            }
            Some(Step::Voters(change)) => change,
        };
        let mut voters: Vec<u64> = status.voters.into_iter().filter(|id| !change.remove.contains(id)).collect();
        voters.extend(&change.add);
        tracing::info!("database voters are to be {voters:?}");
        db.change(Change::Voters(voters)).await
    }
}

/// What the members can serve that have just answered, by Raft id.
type Answered = HashMap<u64, Program>;

/// Writes down what members can serve, where that is not what they have written down themselves: who can't serve may
/// not be able to.
async fn record(db: &Db, recorded: &[Recorded], answered: &Answered) -> Result<()> {
    let differs =
        |r: &&Recorded| answered.get(&r.raft_id).is_some_and(|p| (p.latest, p.extensions) != (r.schema, r.extensions));
    let ids: Vec<u64> = recorded.iter().filter(differs).map(|r| r.raft_id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let answered = answered.clone();
    let each = move |tx: &db::Tx<'_>| {
        let mut programs = ids.iter().filter_map(|id| Some((*id, answered.get(id)?)));
        programs.try_for_each(|(id, p)| db::versions::record(tx, id, p.latest, p.extensions))
    };
    db.write(each).await
}

/// A member of only one of the two: the cluster and its database.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// Its Raft id.
    id: u64,
    /// What mends it.
    change: Change,
    /// For how many rounds it may be.
    rounds: u32,
}

/// Members of the database that are none of the cluster, and members of the cluster that hold its database or wait for
/// it and are no members of it. `sharing` are those, by Raft id, with the incarnation of what they hold.
fn differences(status: &Status, members: &[Member], own: u64, sharing: &HashMap<u64, u64>) -> Vec<Difference> {
    let in_database = |id: &u64| status.voters.contains(id) || status.learners.contains(id);
    let all = status.voters.iter().chain(&status.learners).copied();
    let ghosts = all.filter(|id| *id != own && members.iter().all(|m| m.raft_id != Some(*id)));
    let joined = members.iter().filter(|m| m.state != State::Pending).filter_map(|m| m.raft_id);
    let missing = joined.filter(|id| *id != own && !in_database(id));
    ghosts
        .map(|id| Difference { id, change: Change::Remove(id), rounds: DIFFERENT })
        .chain(missing.filter_map(|id| {
            let rounds = if *sharing.get(&id)? == 0 { EMPTY } else { DIFFERENT };
            Some(Difference { id, change: Change::AddLearner(id), rounds })
        }))
        .collect()
}

#[cfg(test)]
mod tests {
    use db::value::Architecture;

    use super::*;

    fn member(raft_id: u64, state: State) -> Member {
        Member {
            id: 1,
            name: String::new(),
            description: String::new(),
            address: String::new(),
            schema: 1,
            api_extensions: 1,
            heartbeat: None,
            state,
            architecture: Architecture::X86_64,
            failure_domain: String::new(),
            roles: Vec::new(),
            groups: Vec::new(),
            config: Config::new(),
            raft_id: Some(raft_id),
        }
    }

    struct Nobody;

    impl crate::link::Dial for Nobody {
        fn dial(&self, to: u64) -> futures::future::BoxFuture<'static, Result<Box<dyn crate::link::Stream>>> {
            Box::pin(async move { Err(Error::unavailable(format!("There is no way to member {to}"))) })
        }
    }

    #[test]
    fn who_has_just_started_takes_nobody_for_offline() {
        let mut health =
            Health::new(1, Arc::new(Links::new(Arc::new(Nobody))), Program { oldest: 1, latest: 1, extensions: 1 });
        let (config, now) = (Config::new(), Timestamp::now());
        // Its heartbeat in the database is as old as can be.
        let silent = |health: &Health| health.seen(&member(2, State::Created), &config, Standing::Newest, now);
        assert!(!silent(&health).offline());
        health.started -= Duration::from_secs(OFFLINE_AFTER + 1);
        assert!(silent(&health).offline(), "it has had the time to hear of it");
        health.liveness.heard(2);
        assert!(!silent(&health).offline());
    }

    #[test]
    fn a_voter_that_is_no_member_costs_nobody_else_the_vote() {
        let program = Program { oldest: 1, latest: 1, extensions: 1 };
        let health = Health::new(1, Arc::new(Links::new(Arc::new(Nobody))), program);
        let status = Status { id: 1, voters: vec![1, 2, 3], ..Status::default() };
        let members = [member(1, State::Created), member(2, State::Created)];
        let voting = health.voting(&status, &members, &Config::new());
        assert_eq!(voting.iter().map(|m| (m.id, m.healthy)).collect::<Vec<_>>(), [(1, true), (2, true), (3, false)]);
        // Without the third, the second would go so that their number is odd: one of the two that are left then.
        assert_eq!(roles::next(&voting, 3, 1), None);
        let status = Status { voters: vec![1, 2], ..status };
        assert!(roles::next(&health.voting(&status, &members, &Config::new()), 3, 1).is_some());
    }

    #[test]
    fn who_was_not_heard_of_yet_is_not_taken_for_too_new() {
        let own = Program { oldest: 1, latest: 2, extensions: 1 };
        let health = Health::new(1, Arc::new(Links::new(Arc::new(Nobody))), own);
        let newer = Member { schema: 3, ..member(2, State::Created) };
        let standing = |health: &Health| health.program_of(&newer).standing(1, &[own]);
        assert_eq!(standing(&health), Standing::Newest);
        health.liveness.learn_programs(&[(2, Program { oldest: 3, latest: 3, extensions: 1 })]);
        assert_eq!(standing(&health), Standing::TooNew);
    }

    #[test]
    fn a_clock_differs_by_what_the_way_of_the_answer_does_not_explain() {
        let ahead = |clock_ms, took| {
            let answer = Answer { clock_ms, incarnation: 0, program: None, leaving: false, slow_writes: 0 };
            Said::of(&answer, 10_000, Duration::from_millis(took)).ahead_ms
        };
        for (clock_ms, took, want) in [
            (10_000, 0, 0),
            (9_500, 500, 0),
            (9_800, 500, 0),
            (10_300, 500, 300),
            (9_300, 500, -200),
            (17_000, 1, 7_000),
            (3_000, 0, -7_000),
        ] {
            assert_eq!(ahead(clock_ms, took), want, "{clock_ms} {took}");
        }
    }

    #[test]
    fn the_database_has_the_members_that_the_cluster_has() {
        let status = Status { id: 1, voters: vec![1, 2, 9], learners: vec![5, 8], ..Status::default() };
        let members = [
            member(1, State::Created),
            member(2, State::Created),
            member(3, State::Created),
            member(4, State::Evacuated),
            member(5, State::Pending),
            member(6, State::Pending),
        ];
        let sharing = HashMap::from([(2, 77), (3, 77), (4, 0), (6, 0)]);
        let difference = |id, change, rounds| Difference { id, change, rounds };
        assert_eq!(
            differences(&status, &members, 1, &sharing),
            [
                difference(9, Change::Remove(9), DIFFERENT),
                difference(8, Change::Remove(8), DIFFERENT),
                difference(3, Change::AddLearner(3), DIFFERENT),
                difference(4, Change::AddLearner(4), EMPTY),
            ]
        );
        assert!(differences(&status, &members, 1, &HashMap::new()).iter().all(|d| d.id > 5));
    }
}
