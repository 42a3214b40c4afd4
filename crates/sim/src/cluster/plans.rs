//! Plans being carried out: what [`incus_core::plan`] says comes next is done, one thing at a time. Whoever carries it out
//! holds nothing in memory, so that anybody can go on with it.

use std::time::Duration;

use drivers::storage::lease::{Seen, State as LeaseState, TTL, lapse};
use incus_core::member::{Event, State};
use incus_core::placement::{Target, choose};
use incus_core::plan::{Action, Do, Kind, Move, Step};

use super::Cluster;
use super::machine::{Power, volume};
use super::rows::Progress;
use crate::breaks::Break;

/// How long a member that does not answer is asked again before a step fails.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    /// One thing of each plan whose runner is there.
    pub fn carry_out_plans(&mut self) {
        for number in 0..self.rows.plans.len() {
            let plan = &self.rows.plans[number];
            if plan.ended.is_some() {
                continue;
            }
            if !self.uses_database(plan.runner) {
                self.adopt(number);
                continue;
            }
            for at in 0..self.rows.plans[number].steps.len() {
                let (step, progress) = self.rows.plans[number].steps[at].clone();
                if !progress.ended() {
                    let next = self.take_step(number, &step, progress);
                    if next.ended() {
                        self.note(format_args!("plan {number}: instance {}: {next:?}", step.instance));
                    }
                    self.rows.plans[number].steps[at].1 = next;
                    self.judge_owners();
                }
            }
            self.end(number);
        }
    }

    /// The leader goes on with the plan of a member that counts as offline.
    fn adopt(&mut self, number: usize) {
        let runner = self.rows.plans[number].runner;
        if let Some(leader) = self.leader
            && self.broken != Some(Break::OrphanedPlans)
            && self.status(runner).is_some_and(|seen| seen.offline())
        {
            self.note(format_args!("plan {number}: member {leader} goes on with it for member {runner}"));
            self.rows.plans[number].runner = leader;
        }
    }

    fn take_step(&mut self, plan: usize, step: &Step, progress: Progress) -> Progress {
        let to = match progress {
            Progress::Begun(to, _) => to,
            _ => step.to,
        };
        let began = match progress {
            Progress::Begun(_, at) => at,
            _ => self.now,
        };
        let begun = Progress::Begun(to, began);
        let late = self.now.saturating_sub(began) > PATIENCE + lapse(TTL) * 2 + self.threshold;
        let runner = self.rows.plans[plan].runner;
        match step.action {
            Action::Leave => Progress::Done,
            Action::Stop | Action::ForceStop => match self.ask_to(runner, step.from, |m, _, _| m.stop(step.instance)) {
                Some(Ok(())) => Progress::Done,
                Some(Err(e)) => Progress::Failed(e),
                None if late => Progress::Failed("its member does not answer".into()),
                None => begun,
            },
            Action::Start => self.start_on(runner, step.instance, step.from, late).unwrap_or(begun),
            Action::TakeOver => self.take_over(runner, step, (to, began), late),
            Action::Migrate => self.migrate(runner, step, (to, began), late),
        }
    }

    /// Asks a member for something, if the runner reaches it.
    fn ask_to<T>(
        &mut self,
        runner: i64,
        of: i64,
        f: impl FnOnce(&mut super::Machine, &drivers::storage::lease::Leases, Duration) -> T,
    ) -> Option<T> {
        let there = self.talk(runner, of);
        let (leases, now) = (self.leases.clone(), self.now);
        self.machines.get_mut(&of).filter(|m| there && m.serves()).map(|m| f(m, &leases, now))
    }

    fn ask_to_start(&mut self, runner: i64, on: i64, instance: i64) -> Option<Result<(), String>> {
        let there = self.talk(runner, on) && self.machines.get(&on).is_some_and(super::Machine::serves);
        there.then(|| self.start_at(on, instance))
    }

    /// A member starts an instance. Another member may have its lease yet: one that is gone loses it when it has lapsed.
    pub(super) fn start_at(&mut self, on: i64, instance: i64) -> Result<(), String> {
        let (leases, now) = (self.leases.clone(), self.now);
        let Some(machine) = self.machines.get_mut(&on) else { return Err("there is no such member".into()) };
        let started = machine.start(&leases, instance, now);
        let (owner, clock, storage) = (machine.owner(), machine.now(now), machine.storage);
        if started.is_ok() || !storage {
            return started;
        }
        let seen = self.watches.entry(on).or_default().look(&leases, &volume(instance), || clock);
        let Ok(Seen::Lapsed(record)) = seen else { return started };
        if !self.is_gone(on, record.owner.cast_signed()) {
            return started;
        }
        let held = leases.take_over(&volume(instance), &owner, TTL, || clock, &record).map_err(|e| e.message)?;
        self.note(format_args!("member {on} takes the lease of instance {instance} from {}", record.owner));
        if let Some(machine) = self.machines.get_mut(&on) {
            machine.runs.insert(instance, held);
        }
        Ok(())
    }

    /// True if a member is gone as far as `seer` can tell, as for healing.
    fn is_gone(&self, seer: i64, member: i64) -> bool {
        let silent = self
            .status(member)
            .is_some_and(|seen| seen.silent_ms >= u64::try_from(self.threshold.as_millis()).unwrap_or(u64::MAX));
        silent && !self.answers(seer, member)
    }

    /// True if the machine of a member answers another one on the network.
    pub(super) fn answers(&self, seer: i64, member: i64) -> bool {
        self.machines.get(&member).is_some_and(|m| m.power == Power::On) && self.talk(seer, member)
    }

    fn start_on(&mut self, runner: i64, instance: i64, on: i64, late: bool) -> Option<Progress> {
        match self.ask_to_start(runner, on, instance) {
            Some(Ok(())) => Some(Progress::Done),
            Some(Err(e)) if late => Some(Progress::Failed(e)),
            None if late => Some(Progress::Failed("its member does not answer".into())),
            _ => None,
        }
    }

    fn take_over(&mut self, runner: i64, step: &Step, (to, began): (i64, Duration), late: bool) -> Progress {
        let row = &self.rows.instances[&step.instance];
        if row.member == to {
            return match step.start {
                true => self.start_on(runner, step.instance, to, late).unwrap_or(Progress::Begun(to, began)),
                false => Progress::Done,
            };
        }
        if row.member != step.from {
            return Progress::Failed("it is somewhere else".into());
        }
        // The member that it is to go to may have gone, too.
        let to = match self.status(to).is_some_and(|seen| !seen.offline()) {
            true => to,
            false => match choose(&self.candidates(), &Target::Any, "", &[step.from, to]) {
                Ok(other) => other.id,
                Err(e) => return Progress::Failed(e.message),
            },
        };
        match self.free_lease(runner, step.instance) {
            Ok(true) => {
                self.note(format_args!("instance {} is handed over from {} to {to}", step.instance, step.from));
                self.hand_over(step.instance, to);
            }
            Ok(false) if late => return Progress::Failed("its lease is still renewed".into()),
            Err(e) if late => return Progress::Failed(e),
            _ => {}
        }
        Progress::Begun(to, began)
    }

    /// Takes the lease away from a member that is gone; false if it is not gone yet.
    fn free_lease(&mut self, runner: i64, instance: i64) -> Result<bool, String> {
        let Some(machine) = self.machines.get(&runner).filter(|m| m.storage) else {
            return Err("the storage can't be reached".into());
        };
        let (clock, owner) = (machine.now(self.now), machine.owner());
        let watch = self.watches.entry(runner).or_default();
        let seen = watch.look(&self.leases, &volume(instance), || clock).map_err(|e| e.message)?;
        let record = match seen {
            Seen::Free | Seen::Fenced(_) => return Ok(true),
            Seen::Held(record) if self.broken == Some(Break::EagerHealing) => record,
            Seen::Held(_) => return Ok(false),
            Seen::Lapsed(record) => record,
        };
        match self.leases.take_over(&volume(instance), &owner, TTL, || clock, &record) {
            Ok(held) => held.release(LeaseState::Released).map(|()| true).map_err(|e| e.message),
            Err(_) => Ok(false),
        }
    }

    fn hand_over(&mut self, instance: i64, to: i64) {
        if let Some(row) = self.rows.instances.get_mut(&instance) {
            row.origin = if row.origin == Some(to) { None } else { row.origin.or(Some(row.member)) };
            row.member = to;
        }
    }

    fn migrate(&mut self, runner: i64, step: &Step, (to, began): (i64, Duration), late: bool) -> Progress {
        let (begun, from) = (Progress::Begun(to, began), step.from);
        let runs = |m: &mut super::Machine| m.runs.contains_key(&step.instance);
        let source = self.ask_to(runner, from, |m, _, _| runs(m));
        let target = self.ask_to(runner, to, |m, _, _| runs(m));
        let committed = self.rows.instances[&step.instance].member == to;
        let failed = |why: &str| if late { Progress::Failed(why.into()) } else { begun.clone() };
        let (source, target) = match (committed, source, target) {
            (_, Some(source), Some(target)) => (source, target),
            (true, None, Some(target)) => (false, target),
            (false, None, _) => return failed("its member does not answer"),
            (false, Some(_), None) => {
                // It stays where it is, and runs there again.
                let back = self.start_on(runner, step.instance, from, late);
                return if late || back.is_some() { Progress::Failed("the target is away".into()) } else { begun };
            }
            (true, _, None) => return failed("it starts when its new member is back"),
        };
        let facts = Move {
            committed,
            runs_on_source: source,
            shared: true,
            copied: true,
            on_source: true,
            start: step.start,
            runs_on_target: target,
        };
        match facts.next() {
            Do::StopOnSource => drop(self.ask_to(runner, from, |m, _, _| m.stop(step.instance))),
            // It is being evacuated: what came to it now would not leave it again.
            Do::Commit if matches!(self.rows.members[&to].state, State::Evacuating | State::Evacuated) => {
                let back =
                    if step.start { self.start_on(runner, step.instance, from, late) } else { Some(begun.clone()) };
                return if late || back.is_some() { Progress::Failed("the target is evacuated".into()) } else { begun };
            }
            Do::Commit => {
                self.note(format_args!("instance {} moves from {from} to {to}", step.instance));
                self.hand_over(step.instance, to);
            }
            Do::StartOnTarget => match self.ask_to_start(runner, to, step.instance) {
                Some(Err(e)) if late => return Progress::Failed(e),
                _ => {}
            },
            Do::Copy | Do::CleanSource => {}
            Do::Done => return Progress::Done,
        }
        begun
    }

    /// Ends a plan all of whose steps have ended, and the maintenance of its member.
    fn end(&mut self, number: usize) {
        let plan = &self.rows.plans[number];
        if !plan.steps.iter().all(|(_, progress)| progress.ended()) {
            return;
        }
        let (kind, about) = (plan.kind, plan.about);
        let gone = |step: &Step| self.rows.instances[&step.instance].member != step.from;
        let failed = plan.steps.iter().any(|(step, progress)| {
            matches!(progress, Progress::Failed(_)) && !(step.action == Action::TakeOver && gone(step))
        });
        let event = match kind {
            Kind::Evacuate | Kind::Heal if failed => Some(Event::EvacuationFailed),
            Kind::Evacuate | Kind::Heal => Some(Event::EvacuationDone),
            Kind::Restore => Some(Event::RestoreDone),
            Kind::Move => None,
        };
        if let (Some(event), Some(member)) = (event, self.rows.members.get_mut(&about)) {
            match member.state.after(event) {
                Ok(state) => member.state = state,
                Err(e) => self.trace.violated(self.now, "every plan ends", format_args!("plan {number}: {e}")),
            }
        }
        self.note(format_args!("plan {number} has ended: {kind:?} of {about}, failed: {failed}"));
        let now = self.now;
        let plan = &mut self.rows.plans[number];
        (plan.ended, plan.failed) = (Some(now), failed);
    }
}
