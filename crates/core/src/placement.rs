//! Which member a new or moving instance goes to.

use std::collections::BTreeSet;

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
    let runs = |c: &Candidate| architecture.is_empty() || c.architectures.iter().any(|a| a == architecture);
    if let Target::Member(name) = target {
        let found = candidates
            .iter()
            .find(|c| &c.name == name)
            .ok_or_else(|| Error::not_found(format!("Cluster member \"{name}\" not found")))?;
        return match found.status {
            Status::Online if runs(found) => Ok(found),
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
    candidates
        .iter()
        .filter(|c| c.status == Status::Online && runs(c) && asked_for(c) && !not.contains(&c.id))
        .min_by(|a, b| (a.instances, &a.name).cmp(&(b.instances, &b.name)))
        .ok_or_else(|| {
            let why = match target {
                Target::Group(group) => format!("no online member of the group \"{group}\" can take it"),
                Target::Any | Target::Member(_) => "no other online member can take it".into(),
            };
            Error::bad_request(format!("Couldn't find a cluster member for the instance: {why}"))
        })
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
}
