//! Which instance goes where when a member is emptied, and when it comes back.

use api::profile::Devices;
use api::{Error, Result};

use crate::placement::{self, Candidate, Target};
use crate::plan::{Action, Mode, Step};

/// What the planner needs to know of an instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Row id.
    pub id: i64,
    /// Project.
    pub project: String,
    /// Name.
    pub name: String,
    /// Row id of the member that holds it.
    pub member: i64,
    /// Architecture, as `x86_64`.
    pub architecture: String,
    /// True if it runs (or, on a member that came back, ran when it was stopped).
    pub running: bool,
    /// Its key `cluster.evacuate`.
    pub mode: Mode,
    /// Its key `boot.host_shutdown_timeout`, in seconds.
    pub timeout: u64,
    /// The group that it was placed by (`volatile.cluster.group`), if any.
    pub group: Option<String>,
    /// What ties it to this member (a device or pool), if anything does.
    pub tied: Option<String>,
    /// The groups on whose members its project allows it; `None` for all members.
    pub within: Option<Vec<String>>,
    /// What the placement scriptlet says.
    pub wish: Wish,
}

/// What the placement scriptlet says of an instance that leaves its member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Nothing, or there is none.
    #[default]
    None,
    /// It goes to the member of that name.
    Member(String),
    /// It must not be placed: it is stopped where it is, as one that nobody can take.
    Refused(String),
    /// The scriptlet does not work: the instance goes where it would go without one.
    Broken(String),
}

impl Instance {
    /// True if an evacuation in that mode looks for another member for it.
    pub const fn goes(&self, mode: Option<Mode>) -> bool {
        let mode = match mode {
            Some(mode) => mode,
            None => self.mode,
        };
        match mode {
            Mode::Stop | Mode::ForceStop | Mode::StatefulStop => false,
            Mode::Auto => self.tied.is_none(),
            Mode::Migrate | Mode::LiveMigrate => true,
        }
    }

    /// The members that can take it, those with the fewest instances first.
    pub fn eligible<'a>(&self, members: &'a [Candidate], not: &[i64]) -> Result<Vec<&'a Candidate>> {
        let target = self.group.clone().map_or(Target::Any, Target::Group);
        let mut not = not.to_vec();
        if let Some(within) = &self.within {
            let outside = members.iter().filter(|m| !within.iter().any(|group| m.groups.contains(group)));
            not.extend(outside.map(|m| m.id));
        }
        placement::eligible(members, &target, &self.architecture, &not)
    }

    /// The member that takes it, and why that one.
    pub fn destination<'a>(&self, members: &'a [Candidate], not: &[i64]) -> Result<(&'a Candidate, String)> {
        let all = self.eligible(members, not)?;
        let first = *all.first().ok_or_else(|| Error::internal("nobody can take it"))?;
        let wished = |name: &String| all.iter().find(|m| m.name == *name).copied();
        match &self.wish {
            Wish::Refused(why) => Err(Error::bad_request(format!("the placement scriptlet refuses it: {why}"))),
            Wish::Member(name) if let Some(member) = wished(name) => {
                Ok((member, format!("the placement scriptlet has chosen {name}")))
            }
            Wish::Broken(why) => Ok((
                first,
                format!("{} has the fewest instances, the placement scriptlet doesn't work: {why}", first.name),
            )),
            Wish::None | Wish::Member(_) => Ok((first, format!("{} has the fewest instances", first.name))),
        }
    }
}

/// Plans the evacuation of the member `leaving`. `mode` overrides the instances' own.
///
/// Targets are chosen one after another, each counted as taken, so that the instances spread.
/// An instance that no other member can take is stopped in place.
pub fn evacuate(instances: &[Instance], members: &[Candidate], leaving: i64, mode: Option<Mode>) -> Result<Vec<Step>> {
    let mut members = members.to_vec();
    instances.iter().filter(|i| i.member == leaving).map(|i| evacuate_one(i, &mut members, mode)).collect()
}

fn evacuate_one(i: &Instance, members: &mut [Candidate], mode: Option<Mode>) -> Result<Step> {
    let asked = mode.unwrap_or(i.mode).for_containers().map_err(|e| e.context(format!("Instance \"{}\"", i.name)))?;
    let stop_by = |action: Action, why: &str| match i.running {
        true => step(i, action, i.member, false, why),
        false => step(i, Action::Leave, i.member, false, "it does not run"),
    };
    let stop = |why: &str| stop_by(Action::Stop, why);
    Ok(match (asked, &i.tied) {
        (Mode::Stop, _) => stop("its mode is \"stop\""),
        (Mode::ForceStop, _) => stop_by(Action::ForceStop, "its mode is \"force-stop\""),
        (Mode::Auto, Some(tie)) => stop(&format!("it can't leave this member: {tie}")),
        _ => match i.destination(members, &[i.member]) {
            Ok((to, why)) => {
                let to = to.id;
                if let Some(taken) = members.iter_mut().find(|m| m.id == to) {
                    taken.instances += 1;
                }
                step(i, Action::Migrate, to, i.running, &why)
            }
            Err(e) => stop(&e.message),
        },
    })
}

/// How many instances are looked after at the same time: what `cluster.evacuation.parallel` says, or, if that is 0, one
/// for each processor, at least 2 and at most 8.
pub fn width(set: i64, processors: usize) -> usize {
    match usize::try_from(set) {
        Ok(set @ 1..) => set,
        _ => processors.clamp(2, 8),
    }
}

/// Plans the restore of the member `back`: what was stopped here starts again, and what was taken away
/// (`origin` equal to the member) comes home. `skip` leaves everything where it is.
pub fn restore(local: &[Instance], away: &[Instance], back: i64, skip: bool) -> Vec<Step> {
    if skip {
        return Vec::new();
    }
    let here = local.iter().map(|i| match i.running {
        true => step(i, Action::Start, back, true, "it ran here before"),
        false => step(i, Action::Leave, back, false, "it did not run"),
    });
    let home = away.iter().map(|i| step(i, Action::Migrate, back, i.running, "it comes from here"));
    here.chain(home).collect()
}

/// What ties an instance to its member: the first device that another member doesn't have. Pools of the names in
/// `remote` are reached by all members.
pub fn tie(devices: &Devices, remote: &[String]) -> Option<String> {
    devices.iter().find_map(|(name, config)| {
        let set = |key: &str| config.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let why = match set("type")? {
            "disk" if set("path") == Some("/") && set("source").is_none() => return None,
            "disk" => match set("pool") {
                Some(pool) if remote.iter().any(|r| r == pool) => return None,
                Some(pool) => format!("its volume lies in the pool \"{pool}\" of this member"),
                None => "it shows files of this member".to_owned(),
            },
            "nic" => match set("nictype").unwrap_or_default() {
                kind @ ("physical" | "sriov") => format!("it is a network card of this member ({kind})"),
                _ => return None,
            },
            kind @ ("gpu" | "infiniband" | "pci" | "tpm" | "unix-block" | "unix-char" | "unix-hotplug" | "usb") => {
                format!("it is hardware of this member ({kind})")
            }
            _ => return None,
        };
        Some(format!("device \"{name}\": {why}"))
    })
}

fn step(i: &Instance, action: Action, to: i64, start: bool, why: &str) -> Step {
    Step {
        instance: i.id,
        project: i.project.clone(),
        name: i.name.clone(),
        action,
        from: i.member,
        to,
        start,
        timeout: i.timeout,
        why: why.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::member::Status;
    use crate::placement::Scheduler;

    pub fn member(id: i64, status: Status, instances: usize) -> Candidate {
        Candidate {
            id,
            name: format!("server{id}"),
            status,
            scheduler: Scheduler::All,
            groups: ["default".to_owned()].into(),
            architectures: vec!["x86_64".into()],
            instances,
        }
    }

    pub fn instance(name: &str, running: bool, mode: Mode, tied: Option<&str>) -> Instance {
        Instance {
            id: 1,
            project: "default".into(),
            name: name.into(),
            member: 1,
            architecture: "x86_64".into(),
            running,
            mode,
            timeout: 30,
            group: None,
            tied: tied.map(str::to_owned),
            within: None,
            wish: Wish::None,
        }
    }

    #[test]
    fn the_scriptlet_and_the_project_have_a_say_in_where_it_goes() {
        let mut members =
            [member(1, Status::Evacuating, 1), member(2, Status::Online, 0), member(3, Status::Online, 5)];
        members[2].groups.insert("far".into());
        let here = instance("c", true, Mode::Auto, None);
        let within = |groups: &[&str]| Some(groups.iter().map(|g| (*g).to_owned()).collect());
        for (wish, within, want) in [
            (Wish::None, None, (Action::Migrate, 2, "server2 has the fewest instances")),
            (Wish::Member("server3".into()), None, (Action::Migrate, 3, "the placement scriptlet has chosen server3")),
            // It has gone since.
            (Wish::Member("server9".into()), None, (Action::Migrate, 2, "server2 has the fewest instances")),
            (Wish::Refused("no".into()), None, (Action::Stop, 1, "the placement scriptlet refuses it: no")),
            (
                Wish::Broken("x".into()),
                None,
                (Action::Migrate, 2, "server2 has the fewest instances, the placement scriptlet doesn't work: x"),
            ),
            (Wish::None, within(&["far", "none"]), (Action::Migrate, 3, "server3 has the fewest instances")),
            (
                Wish::Member("server2".into()),
                within(&["far"]),
                (Action::Migrate, 3, "server3 has the fewest instances"),
            ),
            (
                Wish::None,
                within(&["none"]),
                (
                    Action::Stop,
                    1,
                    "Couldn't find a cluster member for the instance: no other online member can take it",
                ),
            ),
        ] {
            let what = format!("{wish:?} {within:?}");
            let asked = Instance { wish, within, ..here.clone() };
            let got = &evacuate(&[asked], &members, 1, None).unwrap()[0];
            assert_eq!((got.action, got.to, got.why.as_str()), want, "{what}");
        }
        let tied = instance("c", true, Mode::Auto, Some("gpu"));
        assert!(here.goes(None) && !tied.goes(None) && tied.goes(Some(Mode::Migrate)) && !here.goes(Some(Mode::Stop)));
    }

    #[test]
    fn each_mode_does_what_it_says() {
        use Action::*;
        let members = [member(1, Status::Evacuating, 1), member(2, Status::Online, 0), member(3, Status::Offline, 0)];
        for (mode, over, running, tied, want) in [
            (Mode::Auto, None, true, None, (Migrate, 2, true)),
            (Mode::Auto, None, false, None, (Migrate, 2, false)),
            (Mode::Auto, None, true, Some("device \"gpu\""), (Stop, 1, false)),
            (Mode::Migrate, None, true, Some("device \"gpu\""), (Migrate, 2, true)),
            (Mode::Stop, None, true, None, (Stop, 1, false)),
            (Mode::Stop, None, false, None, (Leave, 1, false)),
            (Mode::ForceStop, None, true, None, (ForceStop, 1, false)),
            (Mode::Stop, Some(Mode::Migrate), true, None, (Migrate, 2, true)),
            (Mode::Auto, Some(Mode::ForceStop), true, None, (ForceStop, 1, false)),
        ] {
            let got = &evacuate(&[instance("c", running, mode, tied)], &members, 1, over).unwrap()[0];
            assert_eq!((got.action, got.to, got.start), want, "{mode:?} {over:?} running={running}");
        }
        let live = evacuate(&[instance("c", true, Mode::Auto, None)], &members, 1, Some(Mode::LiveMigrate));
        assert_eq!(
            live.unwrap_err().message,
            "Instance \"c\": Containers can't be live-migrated: use the mode \"migrate\" or \"auto\""
        );
    }

    #[test]
    fn instances_spread_and_stop_in_place_when_nobody_can_take_them() {
        let all: Vec<Instance> = (0..4).map(|n| instance(&format!("c{n}"), true, Mode::Auto, None)).collect();
        let spread = [member(1, Status::Evacuating, 4), member(2, Status::Online, 0), member(3, Status::Online, 1)];
        let to: Vec<i64> = evacuate(&all, &spread, 1, None).unwrap().iter().map(|s| s.to).collect();
        assert_eq!(to, [2, 2, 3, 2]);
        let alone = [member(1, Status::Evacuating, 4)];
        assert!(evacuate(&all, &alone, 1, None).unwrap().iter().all(|s| s.action == Action::Stop && s.to == 1));
    }

    #[test]
    fn as_many_at_a_time_as_is_set_or_as_there_are_processors() {
        for (set, processors, want) in [(0, 1, 2), (0, 4, 4), (0, 64, 8), (1, 64, 1), (20, 1, 20), (-1, 1, 2)] {
            assert_eq!(width(set, processors), want, "{set} {processors}");
        }
    }

    #[test]
    fn what_other_members_do_not_have_ties_an_instance() {
        for (text, tied) in [
            ("type=disk path=/ pool=local", false),
            ("type=disk path=/srv source=/srv", true),
            ("type=disk path=/data source=data pool=local", true),
            ("type=disk path=/data source=data pool=nfs", false),
            ("type=nic network=incusbr0", false),
            ("type=nic nictype=bridged parent=br0", false),
            ("type=nic nictype=physical parent=eth1", true),
            ("type=gpu", true),
            ("type=none", false),
        ] {
            let config =
                text.split(' ').filter_map(|kv| kv.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
            let tie = tie(&Devices::from([("dev".to_owned(), config)]), &["nfs".to_owned()]);
            assert_eq!(tie.is_some_and(|t| t.starts_with("device \"dev\": ")), tied, "{text}");
        }
    }

    #[test]
    fn restore_starts_what_ran_and_brings_home_what_went() {
        let (ran, did_not) = (instance("ran", true, Mode::Stop, None), instance("not", false, Mode::Stop, None));
        let away = Instance { member: 2, ..instance("away", true, Mode::Auto, None) };
        let steps = restore(&[ran, did_not], std::slice::from_ref(&away), 1, false);
        let got: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.action, s.from, s.to, s.start)).collect();
        assert_eq!(
            got,
            [
                ("ran", Action::Start, 1, 1, true),
                ("not", Action::Leave, 1, 1, false),
                ("away", Action::Migrate, 2, 1, true),
            ]
        );
        assert!(restore(&[], &[away], 1, true).is_empty());
    }
}
