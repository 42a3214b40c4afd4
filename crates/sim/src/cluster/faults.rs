//! What goes wrong with machines, daemons, networks and the storage, and what people ask for meanwhile.

use std::collections::BTreeSet;

use incus_core::evacuate;
use incus_core::member::Event;
use incus_core::plan::{Action, Kind, Mode, Step};
use rand::RngExt as _;

use super::machine::Power;
use super::rows::{Plan, Progress};
use super::{Cluster, instance};

impl Cluster {
    /// One thing goes wrong, or right again, or is asked for.
    pub fn something_happens(&mut self) {
        let ids: Vec<i64> = self.machines.keys().copied().collect();
        let id = match (self.leader, self.chance.random_bool(0.15)) {
            (Some(leader), true) => leader,
            _ => ids[self.chance.random_range(0..ids.len())],
        };
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let what = match self.chance.random_range(0..18) {
            0 | 1 => {
                machine.switch_off();
                "is switched off"
            }
            2 => {
                machine.power = if machine.power == Power::On { Power::Frozen } else { machine.power };
                "is frozen"
            }
            3..6 => {
                match machine.power {
                    Power::Off => machine.switch_on(now),
                    Power::Frozen => machine.power = Power::On,
                    Power::On => machine.daemon = true,
                }
                "goes on"
            }
            6 => {
                machine.daemon = false;
                "has no daemon any more"
            }
            7 => {
                machine.storage = false;
                "has lost the storage"
            }
            8 => {
                machine.storage = true;
                "has the storage again"
            }
            9 => {
                let side: BTreeSet<i64> = ids.iter().copied().filter(|_| self.chance.random_bool(0.5)).collect();
                self.apart = side;
                "sees the network fall apart"
            }
            10 => {
                self.apart = [id].into();
                "is cut off"
            }
            11 => {
                self.deaf.insert(id);
                "hears nothing"
            }
            12 | 13 => {
                self.apart.clear();
                self.deaf.clear();
                "sees all ways mended"
            }
            14 | 15 => {
                self.evacuate(id);
                "is to be evacuated"
            }
            _ => {
                self.restore(id);
                "is to be restored"
            }
        };
        self.note(format_args!("member {id} {what}"));
    }

    /// All is mended; but now and then a member that can be done without is gone for good.
    pub fn all_is_mended(&mut self) {
        self.apart.clear();
        self.deaf.clear();
        for machine in self.machines.values_mut() {
            (machine.storage, machine.daemon) = (true, true);
            match machine.power {
                Power::Off => machine.switch_on(self.now),
                Power::Frozen | Power::On => machine.power = Power::On,
            }
        }
        let voting = self.rows.members.values().filter(|m| m.voter).count();
        let id = self.chance.random_range(1..=self.machines.len() as i64);
        let spare = !self.rows.members[&id].voter || voting >= 3;
        if spare && self.machines.len() > 3 && self.chance.random_bool(0.3) {
            self.gone = Some(id);
            self.machines.entry(id).and_modify(super::Machine::switch_off);
        }
        self.note(format_args!("all is mended, gone is {:?}", self.gone));
    }

    /// Makes a plan that the member itself carries out.
    fn plan(&mut self, kind: Kind, about: i64, event: Event, steps: Vec<Step>) {
        if !self.may_plan(&steps) {
            return;
        }
        let Some(member) = self.rows.members.get_mut(&about) else { return };
        let Ok(state) = member.state.after(event) else { return };
        member.state = state;
        self.make_plan(kind, about, about, steps);
    }

    /// False while another plan is at work on one of the instances.
    pub fn may_plan(&self, steps: &[Step]) -> bool {
        !steps.iter().any(|step| step.action != Action::Leave && self.rows.is_planned(step.instance))
    }

    /// Stores a plan.
    pub fn make_plan(&mut self, kind: Kind, about: i64, runner: i64, steps: Vec<Step>) {
        let steps = steps.into_iter().map(|step| (step, Progress::Waiting)).collect();
        self.rows.plans.push(Plan { kind, about, runner, steps, ended: None, failed: false, made: self.now });
    }

    fn evacuate(&mut self, id: i64) {
        if !self.uses_database(id) {
            return;
        }
        let all: Vec<_> = self.rows.instances.iter().map(|(id, row)| instance(*id, row, Mode::Auto)).collect();
        if let Ok(steps) = evacuate::evacuate(&all, &self.candidates(), id, None) {
            self.plan(Kind::Evacuate, id, Event::Evacuate, steps);
        }
    }

    /// Brings a member back into service.
    pub fn restore(&mut self, id: i64) {
        if !self.uses_database(id) || self.rows.members[&id].state == incus_core::member::State::Created {
            return;
        }
        let all = self.rows.instances.iter();
        let (mut here, mut away) = (Vec::new(), Vec::new());
        for (number, row) in all {
            match row.member == id {
                true => here.push(instance(*number, row, Mode::Auto)),
                false if row.origin == Some(id) => away.push(instance(*number, row, Mode::Auto)),
                false => {}
            }
        }
        let steps = evacuate::restore(&here, &away, id, false);
        self.plan(Kind::Restore, id, Event::Restore, steps);
    }
}
