//! Which member a new or moving instance goes to.

use std::collections::BTreeSet;

use api::key::Config;
use api::profile::Devices;
use api::{Error, Result};

use crate::member::Status;

/// How a member takes part in automatic placement: its `scheduler.instance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduler {
    /// Takes any instance.
    #[default]
    All,
    /// Takes only instances that target one of its groups.
    Group,
    /// Takes only instances that target it by name.
    Manual,
}

impl Scheduler {
    /// Reads the key; anything unknown counts as the default.
    pub fn parse(s: &str) -> Scheduler {
        match s {
            "group" => Scheduler::Group,
            "manual" => Scheduler::Manual,
            _ => Scheduler::All,
        }
    }
}

/// What placement needs to know of a member.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its row id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its status as clients see it.
    pub status: Status,
    /// Its `scheduler.instance`.
    pub scheduler: Scheduler,
    /// The groups it belongs to.
    pub groups: BTreeSet<String>,
    /// Architectures that it can run.
    pub architectures: Vec<String>,
    /// How many instances it holds.
    pub instances: usize,
}

/// Where the caller wants it: the value of `?target=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere in particular.
    Any,
    /// On the member of that name.
    Member(String),
    /// On a member of that group: `@name`.
    Group(String),
}

impl Target {
    /// Reads `?target=`: empty, `name` or `@group`.
    pub fn parse(s: &str) -> Target {
        match s.strip_prefix('@') {
            _ if s.is_empty() => Target::Any,
            Some(group) => Target::Group(group.to_owned()),
            None => Target::Member(s.to_owned()),
        }
    }
}

/// Chooses the member for an instance of the given architecture (empty: any); members in `not` are left out.
///
/// Among those that may take it the one with the fewest instances wins; of equals, the first by name.
pub fn choose<'a>(
    candidates: &'a [Candidate],
    target: &Target,
    architecture: &str,
    not: &[i64],
) -> Result<&'a Candidate> {
    eligible(candidates, target, architecture, not)?.into_iter().next().ok_or_else(|| nobody(target))
}

/// The members that may take the instance: at least one, those with the fewest instances first.
pub fn eligible<'a>(
    candidates: &'a [Candidate],
    target: &Target,
    architecture: &str,
    not: &[i64],
) -> Result<Vec<&'a Candidate>> {
    let runs = |c: &Candidate| architecture.is_empty() || c.architectures.iter().any(|a| a == architecture);
    if let Target::Member(name) = target {
        let found = candidates
            .iter()
            .find(|c| &c.name == name)
            .ok_or_else(|| Error::not_found(format!("Cluster member \"{name}\" not found")))?;
        return match found.status {
            Status::Online if runs(found) => Ok(vec![found]),
            Status::Online => Err(Error::bad_request(format!(
                "Cluster member \"{name}\" doesn't support architecture \"{architecture}\""
            ))),
            Status::Offline => Err(Error::unavailable(format!("Cluster member \"{name}\" is offline"))),
            Status::Blocked => Err(Error::unavailable(format!(
                "Cluster member \"{name}\" serves nothing until all members have been updated to the same version"
            ))),
            Status::Evacuated | Status::Evacuating | Status::Restoring => {
                Err(Error::bad_request("The cluster member is evacuated"))
            }
        };
    }
    let asked_for = |c: &Candidate| match (target, c.scheduler) {
        (_, Scheduler::Manual) | (Target::Any | Target::Member(_), Scheduler::Group) => false,
        (Target::Any | Target::Member(_), Scheduler::All) => true,
        (Target::Group(group), Scheduler::All | Scheduler::Group) => c.groups.contains(group),
    };
    let may = |c: &&Candidate| c.status == Status::Online && runs(c) && asked_for(c) && !not.contains(&c.id);
    let mut all: Vec<&Candidate> = candidates.iter().filter(may).collect();
    all.sort_by(|a, b| (a.instances, &a.name).cmp(&(b.instances, &b.name)));
    if all.is_empty() { Err(nobody(target)) } else { Ok(all) }
}

fn nobody(target: &Target) -> Error {
    let why = match target {
        Target::Group(group) => format!("no online member of the group \"{group}\" can take it"),
        Target::Any | Target::Member(_) => "no other online member can take it".into(),
    };
    Error::bad_request(format!("Couldn't find a cluster member for the instance: {why}"))
}

/// What an instance asks of a member, as far as its configuration says so; 0 where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Processors.
    pub processors: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub root_disk: u64,
}

/// What an instance with this configuration and these devices, those of its profiles among them, asks of a member.
pub fn needs(config: &Config, devices: &Devices) -> Needs {
    let said = |key: &str| config.get(key).map(String::as_str).filter(|v| !v.is_empty());
    let processors = said("limits.cpu").map_or(0, |text| match text.parse() {
        Ok(count) => count,
        Err(_) => crate::limits::list(text).map_or(0, |list| list.len() as u64),
    });
    let root = crate::disk::root(devices).ok().and_then(|(name, _)| devices.get(name)?.get("size"));
    Needs {
        processors,
        memory: said("limits.memory").and_then(|text| crate::limits::memory(text, 0).ok()).unwrap_or(0),
        root_disk: root.and_then(|text| api::size::bytes(text).ok()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: i64, status: Status, scheduler: Scheduler, group: &str, instances: usize) -> Candidate {
        Candidate {
            id,
            name: format!("server{id}"),
            status,
            scheduler,
            groups: [group.to_owned()].into(),
            architectures: vec!["x86_64".into(), "i686".into()],
            instances,
        }
    }

    #[test]
    fn the_emptiest_willing_member_is_chosen() {
        use Scheduler::*;
        let all = [
            member(1, Status::Online, All, "default", 2),
            member(2, Status::Online, All, "default", 1),
            member(3, Status::Online, Manual, "default", 0),
            member(4, Status::Online, Group, "fast", 0),
            member(5, Status::Offline, All, "default", 0),
            member(6, Status::Evacuated, All, "default", 0),
        ];
        for (target, arch, not, want) in [
            ("", "", &[][..], Ok("server2")),
            ("", "i686", &[2], Ok("server1")),
            ("@fast", "x86_64", &[], Ok("server4")),
            ("server3", "x86_64", &[], Ok("server3")),
            ("server9", "", &[], Err("Cluster member \"server9\" not found")),
            ("server5", "", &[], Err("Cluster member \"server5\" is offline")),
            ("server6", "", &[], Err("The cluster member is evacuated")),
            ("server1", "riscv64", &[], Err("Cluster member \"server1\" doesn't support architecture \"riscv64\"")),
            (
                "",
                "",
                &[1, 2],
                Err("Couldn't find a cluster member for the instance: no other online member can take it"),
            ),
            (
                "@fast",
                "",
                &[4],
                Err("Couldn't find a cluster member for the instance: \
                     no online member of the group \"fast\" can take it"),
            ),
        ] {
            let got = choose(&all, &Target::parse(target), arch, not).map(|c| c.name.as_str());
            assert_eq!(got.map_err(|e| e.message), want.map_err(str::to_owned), "{target:?} {arch:?} {not:?}");
        }
    }

    #[test]
    fn all_that_may_take_it_are_told_the_emptiest_first() {
        let m = |id, instances| member(id, Status::Online, Scheduler::All, "default", instances);
        let all = [m(1, 2), m(2, 0), m(3, 2), m(4, 1)];
        let ids = |target: &str, not: &[i64]| {
            let all = eligible(&all, &Target::parse(target), "", not);
            all.map(|all| all.iter().map(|c| c.id).collect::<Vec<_>>()).unwrap_or_default()
        };
        assert_eq!(ids("", &[]), [2, 4, 1, 3]);
        assert_eq!(ids("", &[2]), [4, 1, 3]);
        assert_eq!(ids("server3", &[]), [3]);
        assert!(ids("@other", &[]).is_empty());
    }

    #[test]
    fn needs_are_what_the_configuration_limits() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let root = |size| {
            Devices::from([("root".to_owned(), map(&[("type", "disk"), ("path", "/"), ("pool", "p"), ("size", size)]))])
        };
        for (config, devices, want) in [
            (map(&[]), Devices::new(), (0, 0, 0)),
            (map(&[("limits.cpu", "2"), ("limits.memory", "1GiB")]), root("1MiB"), (2, 1 << 30, 1 << 20)),
            (map(&[("limits.cpu", "0-3,8"), ("limits.memory", "50%")]), root(""), (5, 0, 0)),
        ] {
            let got = needs(&config, &devices);
            assert_eq!((got.processors, got.memory, got.root_disk), want, "{config:?}");
        }
    }
}
