//! When the instances of a silent member are started elsewhere, and which of them.

use crate::evacuate::Instance;
use crate::member::State;
use crate::placement::Candidate;
use crate::plan::{Action, Mode, Step};

/// How often it is tried, before a person has to look.
pub const TRIES: usize = 5;
/// Milliseconds between two attempts.
pub const PAUSE_MS: u64 = 30_000;

/// What is known of the lease of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nobody has it.
    Free,
    /// Its member renews it, as far as is known.
    Held,
    /// Its member has not renewed it for so long that it must be gone.
    Lapsed,
    /// Its member has ended what used it.
    Fenced,
}

/// What the leader knows of a member.
#[derive(Clone, Debug)]
pub struct Silent {
    /// Its stored state.
    pub state: State,
    /// Milliseconds since it was last heard of.
    pub silent_ms: u64,
    /// It answers on the network, though not its daemon.
    pub answers: bool,
    /// The leases of those of its instances that can be started elsewhere.
    pub leases: Vec<Lease>,
}

/// True if the member is to be healed: it is silent for longer than `threshold_ms`, and it is known that it does not run
/// its instances any more, be it that the machine does not answer and renews no lease, or that it says so itself.
///
/// A member whose daemon was stopped by a person renews its leases: what runs there is left alone.
pub fn is_due(member: &Silent, threshold_ms: u64) -> bool {
    let says = member.leases.contains(&Lease::Fenced);
    let held = member.leases.contains(&Lease::Held);
    member.state == State::Created
        && member.silent_ms > threshold_ms
        && !member.leases.is_empty()
        && !held
        && (says || !member.answers)
}

/// What follows from the attempts to heal a member that have failed since it was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is tried.
    Now,
    /// The last one was a moment ago.
    Later,
    /// A person has to look.
    GivenUp,
}

/// Whether it is tried again: `since_ms` is how long ago the last attempt ended, if there was one.
pub const fn attempt(failed: usize, since_ms: Option<u64>) -> Attempt {
    match since_ms {
        _ if failed >= TRIES => Attempt::GivenUp,
        Some(ms) if failed > 0 && ms < PAUSE_MS => Attempt::Later,
        _ => Attempt::Now,
    }
}

/// An instance of a member that is not there.
#[derive(Clone, Debug)]
pub struct Stranded {
    /// The instance.
    pub instance: Instance,
    /// The pool that only its member has, if it needs one.
    pub local: Option<String>,
}

impl Stranded {
    /// Why it has to stay, wherever it could go; `None` if it can be started elsewhere. `mode` overrides its own.
    pub fn stays(&self, mode: Option<Mode>) -> Option<String> {
        match mode.unwrap_or(self.instance.mode) {
            Mode::Auto | Mode::Migrate | Mode::LiveMigrate => {}
            Mode::Stop => return Some("its mode is \"stop\"".into()),
            Mode::ForceStop => return Some("its mode is \"force-stop\"".into()),
            Mode::StatefulStop => return Some("its mode is \"stateful-stop\"".into()),
        }
        if let Some(pool) = &self.local {
            return Some(format!("its files lie in the storage pool \"{pool}\", which every member has for itself"));
        }
        self.instance.tied.as_ref().map(|tie| format!("it can't leave its member: {tie}"))
    }
}

/// Plans what becomes of the instances of the member `gone`, which does not answer: those that others can reach are
/// taken over, and the rest is left, with why.
pub fn take_over(instances: &[Stranded], members: &[Candidate], gone: i64, mode: Option<Mode>) -> Vec<Step> {
    let mut members = members.to_vec();
    instances.iter().filter(|s| s.instance.member == gone).map(|s| take_one(s, &mut members, mode)).collect()
}

fn take_one(stranded: &Stranded, members: &mut [Candidate], mode: Option<Mode>) -> Step {
    let i = &stranded.instance;
    let step = |action, to, start, why| Step {
        instance: i.id,
        project: i.project.clone(),
        name: i.name.clone(),
        action,
        from: i.member,
        to,
        start,
        timeout: i.timeout,
        why,
    };
    if let Some(why) = stranded.stays(mode) {
        return step(Action::Leave, i.member, false, why);
    }
    match i.destination(members, &[i.member]).map(|(to, why)| (to.id, why)) {
        Err(e) => step(Action::Leave, i.member, false, e.message),
        Ok((to, why)) => {
            if let Some(taken) = members.iter_mut().find(|m| m.id == to) {
                taken.instances += 1;
            }
            step(Action::TakeOver, to, i.running, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evacuate::tests::{instance, member};
    use crate::member::Status;

    #[test]
    fn a_member_is_healed_when_it_is_known_not_to_run_its_instances() {
        use Lease::*;
        use State::*;
        for (what, state, silent_ms, answers, leases, want) in [
            ("switched off", Created, 20_001, false, &[Lapsed, Free][..], true),
            ("switched off a moment ago", Created, 20_000, false, &[Lapsed], false),
            ("its leases have not lapsed yet", Created, 30_000, false, &[Lapsed, Held], false),
            ("its daemon hangs: its guard has ended all", Created, 30_000, true, &[Fenced, Free], true),
            ("its guard is still at it", Created, 30_000, true, &[Fenced, Held], false),
            ("cut off: it has ended all itself", Created, 30_000, false, &[Fenced], true),
            ("its daemon was stopped by a person", Created, 90_000, true, &[Held], false),
            ("the same, and it answers no pings", Created, 90_000, false, &[Held], false),
            ("its daemon was stopped, nothing runs", Created, 90_000, true, &[Free], false),
            ("switched off, nothing ran", Created, 90_000, false, &[Free], true),
            ("nothing can be started elsewhere", Created, 90_000, false, &[], false),
            ("in maintenance", Evacuated, 90_000, false, &[Lapsed], false),
            ("being healed", Evacuating, 90_000, false, &[Lapsed], false),
            ("joining", Pending, 90_000, false, &[Lapsed], false),
        ] {
            let member = Silent { state, silent_ms, answers, leases: leases.to_vec() };
            assert_eq!(is_due(&member, 20_000), want, "{what}");
        }
    }

    #[test]
    fn it_is_tried_five_times_with_pauses() {
        for (failed, since, want) in [
            (0, None, Attempt::Now),
            (0, Some(1), Attempt::Now),
            (1, Some(PAUSE_MS - 1), Attempt::Later),
            (4, Some(PAUSE_MS), Attempt::Now),
            (5, Some(u64::MAX), Attempt::GivenUp),
        ] {
            assert_eq!(attempt(failed, since), want, "{failed} {since:?}");
        }
    }

    fn stranded(mode: Mode, local: Option<&str>, tied: Option<&str>) -> Stranded {
        Stranded { instance: instance("c", true, mode, tied), local: local.map(str::to_owned) }
    }

    #[test]
    fn what_others_can_reach_is_taken_over_and_the_rest_is_named() {
        let members = [member(1, Status::Offline, 2), member(2, Status::Online, 1), member(3, Status::Online, 0)];
        for (mode, over, local, tied, want) in [
            (Mode::Auto, None, None, None, Ok(3)),
            (Mode::Migrate, None, None, None, Ok(3)),
            (Mode::LiveMigrate, None, None, None, Ok(3)),
            (Mode::Stop, None, None, None, Err("its mode is \"stop\"")),
            (Mode::ForceStop, None, None, None, Err("its mode is \"force-stop\"")),
            (Mode::Stop, Some(Mode::Migrate), None, None, Ok(3)),
            (Mode::Auto, None, Some("local"), None, Err("\"local\"")),
            (Mode::Auto, None, None, Some("device \"gpu\""), Err("device \"gpu\"")),
        ] {
            let step = &take_over(&[stranded(mode, local, tied)], &members, 1, over)[0];
            match want {
                Ok(to) => assert_eq!((step.action, step.to, step.start), (Action::TakeOver, to, true), "{mode:?}"),
                Err(why) => assert!(step.action == Action::Leave && step.why.contains(why), "{mode:?}: {step:?}"),
            }
        }
        let three = [(); 3].map(|()| stranded(Mode::Auto, None, None));
        let to: Vec<i64> = take_over(&three, &members, 1, None).iter().map(|s| s.to).collect();
        assert_eq!(to, [3, 2, 3], "they spread");
        let alone = take_over(&three[..1], &members[..1], 1, None);
        assert!(alone[0].action == Action::Leave && alone[0].why.contains("no other online member"));
    }
}
