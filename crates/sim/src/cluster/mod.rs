//! What decides about members, plans and instances, for up to a hundred members: liveness, roles, placement, evacuation,
//! healing, leases and guards. The decisions are those of [`incus_core`], the leases are the real ones on a storage in
//! memory; only the database is a model, and time goes by in half seconds.

mod faults;
mod machine;
mod plans;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drivers::storage::lease::{Leases, Seen as SeenLease, Watch};
use incus_core::evacuate::{Instance, Wish};
use incus_core::heal::{self, Attempt, Lease, Silent, Stranded};
use incus_core::member::{Event, Seen, State};
use incus_core::placement::{Candidate, Scheduler};
use incus_core::plan::{Action, Kind, Mode};
use incus_core::roles::{self, Step as RoleStep};
use incus_core::version::Standing;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::machine::{Machine, Power, volume};
use self::rows::{Member, Rows};
use crate::breaks::Break;
use crate::invariants::{owners, plans as all_plans, voters};
use crate::trace::Trace;
use crate::{Ended, Life};

/// Time goes by in such steps.
const TICK: Duration = Duration::from_millis(500);
/// A leader is missed for so long before there is another one.
const ELECTION: Duration = Duration::from_secs(3);
/// How often a member looks for leases of its own that nothing uses.
const TIDY: Duration = Duration::from_secs(10);
/// Leases are watched of members that are silent for so long.
const SUSPECT_MS: u64 = 3_000;
/// `cluster.offline_threshold`.
const OFFLINE: Duration = Duration::from_secs(20);
/// Everything has to come to rest in that time.
const REST: Duration = Duration::from_secs(300);

/// It is at rest when for so many ticks nothing was to come: longer than it takes to see that a member is offline.
const QUIET: u32 = 60;

/// Lives a life.
pub fn live(life: Life) -> Ended {
    let trace = Trace::new(life.told);
    match crate::database::folder() {
        Ok(dir) => Cluster::new(life, dir.path(), trace).live(),
        Err(e) => Ended { trace: 0, violations: vec![format!("the simulation: {e}")], done: 0 },
    }
}

struct Cluster {
    trace: Trace,
    chance: StdRng,
    broken: Option<Break>,
    now: Duration,
    machines: BTreeMap<i64, Machine>,
    rows: Rows,
    leases: Leases,
    /// Members on one side of a network that has fallen apart.
    apart: BTreeSet<i64>,
    /// Members to which nothing comes.
    deaf: BTreeSet<i64>,
    leader: Option<i64>,
    /// A member that never comes back.
    gone: Option<i64>,
    /// Since when there is none.
    missed: Duration,
    /// When the leader, and those before it, last heard of each member.
    heard: BTreeMap<i64, Duration>,
    /// What each member knows of leases.
    watches: BTreeMap<i64, Watch>,
    /// `cluster.healing_threshold`.
    threshold: Duration,
    max_voters: usize,
    done: usize,
}

/// An instance as planners see it.
fn instance(id: i64, row: &rows::Instance, mode: Mode) -> Instance {
    Instance {
        id,
        project: "default".into(),
        name: format!("c{id}"),
        member: row.member,
        architecture: "x86_64".into(),
        running: row.runs,
        mode,
        timeout: 10,
        group: None,
        tied: None,
        within: None,
        wish: Wish::None,
    }
}

impl Cluster {
    fn new(life: Life, dir: &std::path::Path, trace: Trace) -> Cluster {
        let mut chance = StdRng::seed_from_u64(life.seed);
        let leases = Leases::new(dir);
        if let Err(e) = leases.create() {
            trace.violated(Duration::ZERO, "the simulation", e);
        }
        // Mostly as clusters are, now and then a large one.
        let members: i64 = match chance.random_range(0..20) {
            0 => chance.random_range(30..=100),
            1..4 => chance.random_range(8..30),
            _ => chance.random_range(3..8),
        };
        let instances = chance.random_range(2..=6);
        let threshold = Duration::from_secs(chance.random_range(20..40));
        let max_voters = [3, 3, 5, 7][chance.random_range(0..4)];
        let machine = |chance: &mut StdRng, id| {
            let clock = (chance.random_range(0.98..1.02), Duration::from_secs(chance.random_range(0..1_000_000)));
            Machine::new(id, clock, threshold)
        };
        let machines = (1..=members).map(|id| (id, machine(&mut chance, id))).collect();
        let mut rows = Rows::default();
        for id in 1..=members {
            let domain = format!("rack{}", chance.random_range(0..3));
            rows.members.insert(id, Member { state: State::Created, voter: id == 1, domain });
        }
        for id in 1..=instances {
            let member = chance.random_range(1..=members);
            rows.instances.insert(id, rows::Instance { member, runs: true, origin: None });
        }
        let heard = (1..=members).map(|id| (id, Duration::ZERO)).collect();
        Cluster {
            trace,
            chance,
            broken: life.broken,
            now: Duration::ZERO,
            machines,
            rows,
            leases,
            apart: BTreeSet::new(),
            deaf: BTreeSet::new(),
            leader: Some(1),
            gone: None,
            missed: Duration::ZERO,
            heard,
            watches: BTreeMap::new(),
            threshold,
            max_voters,
            done: 0,
        }
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.trace.note(self.now, what);
    }

    fn judge(&self, invariant: &str, found: Result<(), String>) {
        if let Err(text) = found {
            self.trace.violated(self.now, invariant, text);
        }
    }

    fn live(mut self) -> Ended {
        self.note(format_args!("{} members, {} instances", self.machines.len(), self.rows.instances.len()));
        for _ in 0..40 {
            self.tick();
        }
        let faults = self.chance.random_range(60..300);
        for _ in 0..faults {
            if self.chance.random_bool(0.15) {
                self.something_happens();
            }
            self.tick();
        }
        self.all_is_mended();
        let until = self.now + REST;
        let mut quiet = 0;
        while self.now < until && quiet < QUIET {
            self.tick();
            quiet = if self.unrest().is_none() { quiet + 1 } else { 0 };
            if self.now.as_secs().is_multiple_of(10) {
                self.bring_back();
            }
        }
        self.judge_rest();
        let (trace, violations) = self.trace.ended();
        Ended { trace, violations, done: self.done }
    }

    /// A person restores what is evacuated.
    fn bring_back(&mut self) {
        let ids: Vec<i64> = self.rows.members.keys().copied().collect();
        for id in ids {
            if self.rows.members[&id].state == State::Evacuated {
                self.restore(id);
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let lazy = self.broken == Some(Break::LazyGuards);
        let ids: Vec<i64> = self.machines.keys().copied().collect();
        for id in &ids {
            let now = self.now;
            let Some(machine) = self.machines.get_mut(id).filter(|m| m.power == Power::On) else { continue };
            for (instance, why) in machine.guard(now, lazy) {
                self.note(format_args!("member {id} ends instance {instance}: {why}"));
                self.done += 1;
            }
        }
        self.elect();
        self.judge_owners();
        self.listen();
        self.confirm();
        self.settle_roles();
        self.heal();
        self.carry_out_plans();
        self.start_what_is_to_run();
        self.judge_owners();
    }

    /// True if a message goes both ways between two machines.
    fn talk(&self, a: i64, b: i64) -> bool {
        let together = self.apart.contains(&a) == self.apart.contains(&b);
        a == b || (together && !self.deaf.contains(&a) && !self.deaf.contains(&b))
    }

    fn serves(&self, id: i64) -> bool {
        self.machines.get(&id).is_some_and(Machine::serves)
    }

    /// True if a member, as the leader, reaches a majority of the voters.
    fn has_majority(&self, id: i64) -> bool {
        let voters: Vec<i64> = self.rows.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id).collect();
        let reached = voters.iter().filter(|v| self.serves(**v) && self.talk(id, **v)).count();
        self.serves(id) && reached * 2 > voters.len()
    }

    /// True if a member reads and writes the database.
    fn uses_database(&self, id: i64) -> bool {
        self.leader.is_some_and(|leader| self.serves(id) && self.talk(leader, id) && self.has_majority(leader))
    }

    fn elect(&mut self) {
        if let Some(leader) = self.leader {
            if self.has_majority(leader) {
                self.missed = self.now;
            } else if self.now - self.missed > ELECTION {
                self.leader = None;
            }
        }
        if self.leader.is_none() {
            let voters = self.rows.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id);
            self.leader = voters.filter(|id| self.has_majority(*id)).max_by_key(|id| self.talks_to(*id));
            if let Some(leader) = self.leader {
                self.missed = self.now;
                // It begins to watch leases anew.
                self.watches.remove(&leader);
                self.note(format_args!("member {leader} leads"));
            }
        }
    }

    fn talks_to(&self, id: i64) -> usize {
        self.machines.keys().filter(|other| self.serves(**other) && self.talk(id, **other)).count()
    }

    fn listen(&mut self) {
        let Some(leader) = self.leader else { return };
        let ids: Vec<i64> = self.machines.keys().copied().collect();
        for id in ids {
            if self.serves(leader) && self.serves(id) && self.talk(leader, id) {
                self.heard.insert(id, self.now);
            }
        }
    }

    /// Each member tells its guard whether a majority counts it.
    fn confirm(&mut self) {
        let ids: Vec<i64> = self.machines.keys().copied().collect();
        for id in ids {
            let counted = self.uses_database(id);
            let now = self.now;
            if let Some(machine) = self.machines.get_mut(&id).filter(|_| counted) {
                machine.quorum.confirmed = machine.now(now);
            }
        }
    }

    /// How the leader sees a member.
    fn status(&self, id: i64) -> Option<Seen> {
        let member = self.rows.members.get(&id)?;
        let silent = self.now.saturating_sub(*self.heard.get(&id)?);
        Some(Seen {
            state: member.state,
            silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            threshold_ms: u64::try_from(OFFLINE.as_millis()).unwrap_or(u64::MAX),
            standing: Standing::Newest,
        })
    }

    fn candidates(&self) -> Vec<Candidate> {
        let ids = self.rows.members.keys();
        ids.filter_map(|id| {
            Some(Candidate {
                id: *id,
                name: format!("server{id}"),
                status: self.status(*id)?.status(),
                scheduler: Scheduler::All,
                groups: BTreeSet::from(["default".to_owned()]),
                architectures: vec!["x86_64".into()],
                instances: self.rows.holds(*id),
            })
        })
        .collect()
    }

    fn voting(&self) -> Vec<roles::Member> {
        let member = |(id, m): (&i64, &Member)| {
            Some(roles::Member {
                id: id.unsigned_abs(),
                voter: m.voter,
                healthy: !self.status(*id)?.offline(),
                in_maintenance: matches!(m.state, State::Evacuated | State::Evacuating),
                client_only: false,
                failure_domain: m.domain.clone(),
                matched: 1,
            })
        };
        self.rows.members.iter().filter_map(member).collect()
    }

    fn settle_roles(&mut self) {
        let Some(leader) = self.leader.filter(|leader| self.has_majority(*leader)) else { return };
        match roles::next(&self.voting(), self.max_voters, leader.unsigned_abs()) {
            None => {}
            Some(RoleStep::HandOver(heir)) => {
                let heir = i64::try_from(heir).unwrap_or(0);
                if self.has_majority(heir) {
                    self.note(format_args!("member {heir} leads, for member {leader}"));
                    self.leader = Some(heir);
                }
            }
            Some(RoleStep::Voters(change)) => {
                // Both the voters before and those after have to agree.
                let before: Vec<(i64, bool)> = self.rows.members.iter().map(|(id, m)| (*id, m.voter)).collect();
                for (id, member) in &mut self.rows.members {
                    let id = id.unsigned_abs();
                    member.voter = (member.voter || change.add.contains(&id)) && !change.remove.contains(&id);
                }
                if self.has_majority(leader) {
                    self.note(format_args!("{change:?}"));
                } else {
                    for (id, voter) in before {
                        if let Some(member) = self.rows.members.get_mut(&id) {
                            member.voter = voter;
                        }
                    }
                }
                let voting = self.rows.members.values().filter(|m| m.voter).count();
                self.judge("voters", voters::check_always(voting, self.max_voters));
            }
        }
    }

    /// The leader looks for members to heal.
    fn heal(&mut self) {
        let Some(leader) = self.leader.filter(|leader| self.has_majority(*leader)) else { return };
        let threshold = match self.broken {
            Some(Break::EagerHealing) => SUSPECT_MS,
            _ => u64::try_from(self.threshold.as_millis()).unwrap_or(u64::MAX),
        };
        let ids: Vec<i64> = self.rows.members.keys().copied().collect();
        for id in ids {
            let Some(seen) = self.status(id).filter(|seen| seen.silent_ms >= SUSPECT_MS) else { continue };
            let Some(leases) = self.leases_of(leader, id) else { continue };
            let answers = self.answers(leader, id);
            let silent = Silent { state: seen.state, silent_ms: seen.silent_ms, answers, leases };
            if heal::is_due(&silent, threshold) && self.tried(id) == Attempt::Now {
                self.heal_one(leader, id);
            }
        }
    }

    /// What the leader sees of the leases of a member's instances; none if it can't look.
    fn leases_of(&mut self, leader: i64, member: i64) -> Option<Vec<Lease>> {
        let machine = self.machines.get(&leader).filter(|m| m.storage)?;
        let clock = machine.now(self.now);
        let watch = self.watches.entry(leader).or_default();
        let mut leases = Vec::new();
        for (id, _) in self.rows.instances.iter().filter(|(_, i)| i.member == member) {
            leases.push(match watch.look(&self.leases, &volume(*id), || clock).ok()? {
                _ if self.broken == Some(Break::EagerHealing) => Lease::Lapsed,
                SeenLease::Free => Lease::Free,
                SeenLease::Held(_) => Lease::Held,
                SeenLease::Lapsed(_) => Lease::Lapsed,
                SeenLease::Fenced(_) => Lease::Fenced,
            });
        }
        Some(leases)
    }

    /// Whether it is tried again to heal a member.
    fn tried(&self, id: i64) -> Attempt {
        let heard = self.heard.get(&id).copied().unwrap_or_default();
        let of = |p: &&rows::Plan| p.about == id && p.kind == Kind::Heal && p.failed && p.made > heard;
        let failed: Vec<&rows::Plan> = self.rows.plans.iter().filter(of).collect();
        let since = failed.iter().filter_map(|p| p.ended).max().map(|at| self.now.saturating_sub(at));
        heal::attempt(failed.len(), since.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    fn heal_one(&mut self, leader: i64, id: i64) {
        let stranded =
            |(id, row): (&i64, &rows::Instance)| Stranded { instance: instance(*id, row, Mode::Auto), local: None };
        let all: Vec<Stranded> = self.rows.instances.iter().map(stranded).collect();
        let steps = heal::take_over(&all, &self.candidates(), id, None);
        if !steps.iter().any(|s| s.action == Action::TakeOver) || !self.may_plan(&steps) {
            return;
        }
        let Some(member) = self.rows.members.get_mut(&id) else { return };
        let Ok(state) = member.state.after(Event::Evacuate) else { return };
        member.state = state;
        self.note(format_args!("member {id} is healed"));
        self.make_plan(Kind::Heal, id, leader, steps);
    }

    /// Each member starts what belongs to it and is to run, and stops what does not.
    fn start_what_is_to_run(&mut self) {
        let ids: Vec<i64> = self.machines.keys().copied().collect();
        for id in ids.into_iter().filter(|id| self.uses_database(*id)).collect::<Vec<_>>() {
            let in_service = self.rows.members[&id].state == State::Created;
            let here = self.rows.instances.iter().filter(|(_, i)| i.member == id);
            let due: Vec<i64> =
                here.filter(|(n, i)| i.runs && in_service && !self.rows.is_planned(**n)).map(|(n, _)| *n).collect();
            let (leases, now) = (self.leases.clone(), self.now);
            let Some(machine) = self.machines.get_mut(&id) else { continue };
            if machine.storage && now.as_millis().is_multiple_of(TIDY.as_millis()) {
                machine.tidy_up(&leases, now);
            }
            let stray: Vec<i64> =
                machine.runs.keys().copied().filter(|n| self.rows.instances[n].member != id).collect();
            let (mut notes, planned) = (Vec::new(), &self.rows);
            for n in stray.into_iter().filter(|n| !planned.is_planned(*n)) {
                let _ = machine.stop(n);
                notes.push(format!("member {id} stops instance {n}, which belongs to another"));
            }
            let due: Vec<i64> = due.into_iter().filter(|n| !machine.runs.contains_key(n)).collect();
            for n in due {
                if self.start_at(id, n).is_ok() {
                    notes.push(format!("member {id} starts instance {n}"));
                }
            }
            self.done += notes.len();
            notes.iter().for_each(|text| self.note(text));
        }
    }

    fn runs_on(&self, instance: i64) -> Vec<i64> {
        let runs = |m: &&Machine| m.power == Power::On && m.runs.contains_key(&instance);
        self.machines.values().filter(runs).map(|m| m.id).collect()
    }

    fn judge_owners(&self) {
        for id in self.rows.instances.keys() {
            self.judge("an instance never has two owners", owners::check(*id, &self.runs_on(*id)));
        }
    }

    /// What is still to come, once all is mended.
    fn unrest(&self) -> Option<String> {
        if let Some(number) = self.rows.plans.iter().position(|p| p.ended.is_none()) {
            return Some(format!("plan {number} has not ended"));
        }
        if let Some((id, m)) =
            self.rows.members.iter().find(|(id, m)| m.state != State::Created && self.gone != Some(**id))
        {
            return Some(format!("member {id} is {:?}", m.state));
        }
        let Some(leader) = self.leader.map(i64::unsigned_abs) else { return Some("nobody leads".into()) };
        if let Some(step) = roles::next(&self.voting(), self.max_voters, leader) {
            return Some(format!("the roles are to change: {step:?}"));
        }
        let waits = |(id, i): &(&i64, &rows::Instance)| i.runs && self.runs_on(**id) != [i.member];
        self.rows
            .instances
            .iter()
            .find(waits)
            .map(|(id, i)| format!("instance {id} belongs to member {} and runs on {:?}", i.member, self.runs_on(*id)))
    }

    fn judge_rest(&self) {
        for (number, plan) in self.rows.plans.iter().enumerate() {
            let text = format!("{plan:?}");
            self.judge("every plan ends", all_plans::check_ended(number, plan.ended.is_some(), &text));
        }
        for (id, member) in &self.rows.members {
            let planned = self.rows.plans.iter().any(|p| p.about == *id && p.ended.is_none());
            if !planned {
                self.judge("every plan ends", all_plans::check_member(*id, member.state));
            }
        }
        let fit = |(id, m): &(&i64, &Member)| m.state == State::Created && self.gone != Some(**id);
        let all = || self.rows.members.iter();
        let seats = voters::Seats {
            voters: all().filter(|(_, m)| m.voter).count(),
            fit_voters: all().filter(|of| of.1.voter && fit(of)).count(),
            fit: all().filter(fit).count(),
            wanted: self.max_voters,
        };
        self.judge("voters", voters::check_at_rest(seats));
        self.judge("all comes to rest", self.unrest().map_or(Ok(()), Err));
    }
}
