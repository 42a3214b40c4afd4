//! What a project allows: how much its instances may use together, and what they may not have.

use api::key::{Config, Key, Read as _, find};
use api::keys::instance as keys;
use api::keys::project::{self as own, PROJECT};
use api::profile::Devices;
use api::project::{ProjectState, ProjectStateResource};
use api::{Error, Result};

use crate::disk::is_root;
use crate::expand::is_volatile;
use crate::placement::{Candidate, Target};

/// A project with its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    name: &'a str,
    config: &'a Config,
}

/// An instance of it, with what its profiles add.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is a virtual machine.
    pub machine: bool,
    /// Its configuration.
    pub config: &'a Config,
}

/// Limits on what all instances together have in a key of the same name.
const SUMS: [&str; 3] = ["limits.cpu", "limits.memory", "limits.processes"];

/// Keys by which a container comes close to the machine. All that begins so is meant.
const LOW_LEVEL: [&str; 5] =
    ["raw.", "limits.kernel.", "linux.kernel_modules", "security.idmap.base", "security.idmap.size"];

/// What the server notes, and clients may bring along all the same when they make a copy.
const HARMLESS: [&str; 1] = ["volatile.base_image"];

impl<'a> Rules<'a> {
    /// The rules of the project of that name.
    pub fn new(name: &'a str, config: &'a Config) -> Rules<'a> {
        Rules { name, config }
    }

    /// True if there is anything to look at.
    pub fn any(&self) -> bool {
        self.restricted() || self.config.iter().any(|(key, value)| key.starts_with("limits.") && !value.is_empty())
    }

    fn restricted(&self) -> bool {
        self.config.read(&own::RESTRICTED)
    }

    /// What a restriction is set to, where restrictions hold.
    fn says(&self, key: &Key<String>) -> Option<String> {
        self.restricted().then(|| self.config.read(key))
    }

    /// Checks that these are not too many instances, and that they don't use too much together.
    pub fn limits(&self, all: &[Use<'_>]) -> Result<()> {
        self.counts(all)?;
        SUMS.into_iter().try_for_each(|key| self.sum(key, all))
    }

    fn counts(&self, all: &[Use<'_>]) -> Result<()> {
        let machines = all.iter().filter(|u| u.machine).count();
        for (limit, has, kind) in [
            (&own::LIMIT_INSTANCES, all.len(), ""),
            (&own::LIMIT_CONTAINERS, all.len() - machines, " of type \"container\""),
            (&own::LIMIT_MACHINES, machines, " of type \"virtual-machine\""),
        ] {
            let Some(most) = self.config.read_set(limit) else { continue };
            if i64::try_from(has).unwrap_or(i64::MAX) > most {
                return Err(Error::forbidden(format!(
                    "Reached maximum number of instances{kind} in project \"{}\": {} is {most}",
                    self.name, limit.name
                )));
            }
        }
        Ok(())
    }

    fn sum(&self, key: &str, all: &[Use<'_>]) -> Result<()> {
        let Some(most) = self.config.get(key).filter(|v| !v.is_empty()) else { return Ok(()) };
        let refused = |why: String| Error::forbidden(why);
        let limit = amount(key, most).map_err(refused)?;
        let mut sum = 0u64;
        for one in all {
            let about = format!("Instance \"{}\" in project \"{}\"", one.name, self.name);
            let Some(value) = one.config.get(key).filter(|v| !v.is_empty()) else {
                return Err(refused(format!(
                    "{about} has no '{key}' config, either directly or via a profile, and the project limits it"
                )));
            };
            sum = sum.saturating_add(amount(key, value).map_err(|why| refused(format!("{about}: {why}")))?);
        }
        if sum <= limit {
            return Ok(());
        }
        Err(refused(format!("Reached maximum aggregate value \"{most}\" for \"{key}\" in project \"{}\"", self.name)))
    }

    /// What the project may use, and what these instances use together, beside `disk` bytes and so many networks.
    pub fn state(&self, all: &[Use<'_>], disk: u64, networks: usize) -> ProjectState {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let machines = all.iter().filter(|u| u.machine).count();
        let counts = [
            ("containers", all.len() - machines, self.config.read_set(&own::LIMIT_CONTAINERS)),
            ("instances", all.len(), self.config.read_set(&own::LIMIT_INSTANCES)),
            ("networks", networks, None),
            ("virtual-machines", machines, self.config.read_set(&own::LIMIT_MACHINES)),
        ];
        let counts = counts.map(|(of, usage, limit)| (of, limit, usage as u64));
        let sums = SUMS.map(|key| {
            // Where sums are not limited there may be instances for which no number stands.
            let of = |config: &Config| config.get(key).and_then(|value| amount(key, value).ok());
            let usage = all.iter().filter_map(|u| of(u.config)).fold(0, u64::saturating_add);
            (key.trim_start_matches("limits."), of(self.config).map(number), usage)
        });
        let all = counts.into_iter().chain(sums).chain([("disk", None, disk)]);
        let shown =
            |limit: Option<i64>, usage| ProjectStateResource { limit: limit.unwrap_or(-1), usage: number(usage) };
        ProjectState { resources: all.map(|(of, limit, usage)| (of.to_owned(), shown(limit, usage))).collect() }
    }

    /// Checks what an instance (with its profiles) or a profile has; `what` says which, as `instance "c1"`.
    pub fn restrictions(&self, what: &str, config: &Config, devices: &Devices) -> Result<()> {
        if !self.restricted() {
            return Ok(());
        }
        for (key, value) in config {
            if let Some(why) = self.forbidden(key, config) {
                return Err(Error::forbidden(format!(
                    "Invalid value \"{value}\" for config \"{key}\" on {what} of project \"{}\": {why}",
                    self.name
                )));
            }
        }
        for (name, device) in devices {
            if let Some(why) = self.forbidden_device(device) {
                return Err(Error::forbidden(format!(
                    "Invalid device \"{name}\" on {what} of project \"{}\": {why}",
                    self.name
                )));
            }
        }
        Ok(())
    }

    fn forbidden(&self, key: &str, config: &Config) -> Option<&'static str> {
        let blocked = |restriction| self.says(restriction).is_some_and(|says| says == "block");
        let on = |key: &Key<bool>| config.read(key);
        match key {
            _ if key == keys::PRIVILEGED.name && on(&keys::PRIVILEGED) => {
                let allowed = self.says(&own::RESTRICTED_PRIVILEGE).is_some_and(|says| says == "allow");
                (!allowed).then_some("Privileged containers are forbidden")
            }
            _ if key == keys::NESTING.name && on(&keys::NESTING) => {
                blocked(&own::RESTRICTED_NESTING).then_some("Container nesting is forbidden")
            }
            _ if LOW_LEVEL.iter().any(|low| key.starts_with(low)) => {
                blocked(&own::RESTRICTED_LOWLEVEL).then_some("Low-level options are forbidden")
            }
            _ => None,
        }
    }

    fn forbidden_device(&self, device: &Config) -> Option<String> {
        let text = |key: &str| device.get(key).map_or("", String::as_str);
        let kind = text("type");
        let (restriction, managed) = match kind {
            "disk" if is_root(device) => return None,
            "disk" => (self.says(&own::RESTRICTED_DISK), !text("pool").is_empty()),
            "nic" => (self.says(&own::RESTRICTED_NIC), !text("network").is_empty()),
            // All others are allowed or not; what nobody knows is refused for another reason.
            _ => {
                let key = find(PROJECT, &format!("restricted.devices.{kind}"))?;
                let says = self.config.get(key.name()).filter(|v| !v.is_empty()).map_or(key.default(), String::as_str);
                (Some(says.to_owned()), true)
            }
        };
        match (restriction.as_deref(), managed) {
            (Some("block"), _) => Some(format!("Devices of type \"{kind}\" are forbidden")),
            (Some("managed"), false) if kind == "disk" => {
                Some("Disks that are not of a storage pool are forbidden".into())
            }
            (Some("managed"), false) => Some("Only managed networks can be used".into()),
            _ => None,
        }
    }

    /// Checks what a client sets of the notes that are the server's, which are low-level options.
    pub fn notes(&self, before: &Config, after: &Config) -> Result<()> {
        if self.says(&own::RESTRICTED_LOWLEVEL).is_none_or(|says| says == "allow") {
            return Ok(());
        }
        let changed = |key: &&String| before.get(*key) != after.get(*key);
        let note = |key: &&String| is_volatile(key) && !HARMLESS.contains(&key.as_str());
        match after.keys().chain(before.keys()).filter(note).find(changed) {
            None => Ok(()),
            Some(key) => Err(Error::forbidden(format!(
                "Use of low-level config \"{key}\" in project \"{}\" is forbidden",
                self.name
            ))),
        }
    }

    /// Checks whether instances may be sent to a member or a group that is named.
    pub fn target(&self, target: &Target) -> Result<()> {
        if *target == Target::Any || !self.restricted() {
            return Ok(());
        }
        if self.says(&own::RESTRICTED_TARGET).is_some_and(|says| says != "allow") {
            return Err(Error::forbidden("This project doesn't allow cluster member targeting"));
        }
        match (target, self.groups()) {
            (Target::Group(group), Some(groups)) if !groups.contains(group) => {
                Err(Error::forbidden("This project isn't allowed to use this cluster group"))
            }
            _ => Ok(()),
        }
    }

    /// Those of the members that its instances may be on.
    pub fn among(&self, members: Vec<Candidate>, target: &Target) -> Result<Vec<Candidate>> {
        let Some(groups) = self.groups() else { return Ok(members) };
        let (may, not): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|m| groups.iter().any(|group| m.groups.contains(group)));
        match target {
            Target::Member(name) if not.iter().any(|m| m.name == *name) => Err(Error::forbidden(format!(
                "This project isn't allowed to use the cluster member \"{name}\", which is in none of its cluster groups"
            ))),
            _ => Ok(may),
        }
    }

    /// The groups whose members its instances may be on; `None` if they may be on any.
    pub fn groups(&self) -> Option<Vec<String>> {
        self.restricted().then(|| groups(self.config)).filter(|groups| !groups.is_empty())
    }
}

/// The cluster groups that the configuration of a project names.
pub fn groups(config: &Config) -> Vec<String> {
    let names = config.read(&own::RESTRICTED_GROUPS);
    names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// What a value of a key in [`SUMS`] counts for.
fn amount(key: &str, value: &str) -> Result<u64, String> {
    match key {
        "limits.memory" if value.ends_with('%') => {
            Err(format!("'{key}' can't be a percentage, because its project limits the sum"))
        }
        "limits.memory" => api::size::bytes(value),
        "limits.cpu" if value.contains(['-', ',']) => {
            Err(format!("CPUs can't be pinned, because its project limits the sum of '{key}'"))
        }
        _ => value.parse().map_err(|_| format!("Invalid value for '{key}': \"{value}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn said(result: Result<()>) -> String {
        result.err().map(|e| e.message).unwrap_or_default()
    }

    #[test]
    fn limits_are_on_numbers_and_on_sums() {
        for (project, instances, want) in [
            (&[][..], &[&[][..], &[]][..], ""),
            (&[("limits.instances", "2")], &[&[], &[]], ""),
            (&[("limits.instances", "1")], &[&[], &[]], "Reached maximum number of instances in project \"p\""),
            (&[("limits.containers", "0")], &[&[]], "Reached maximum number of instances of type \"container\""),
            (&[("limits.virtual-machines", "0")], &[&[]], ""),
            (&[("limits.memory", "2GiB")], &[&[("limits.memory", "1GiB")], &[("limits.memory", "1GiB")]], ""),
            (
                &[("limits.memory", "1GiB")],
                &[&[("limits.memory", "1GiB")], &[("limits.memory", "1MiB")]],
                "Reached maximum aggregate value \"1GiB\" for \"limits.memory\" in project \"p\"",
            ),
            (&[("limits.memory", "1GiB")], &[&[]], "Instance \"c\" in project \"p\" has no 'limits.memory' config"),
            (&[("limits.memory", "1GiB")], &[&[("limits.memory", "5%")]], "can't be a percentage"),
            (&[("limits.cpu", "3")], &[&[("limits.cpu", "0-1")]], "CPUs can't be pinned"),
            (&[("limits.cpu", "3")], &[&[("limits.cpu", "2")], &[("limits.cpu", "2")]], "aggregate value \"3\""),
            (&[("limits.processes", "9")], &[&[("limits.processes", "10")]], "for \"limits.processes\""),
        ] {
            let project = config(project);
            let instances: Vec<Config> = instances.iter().map(|c| config(c)).collect();
            let all: Vec<Use<'_>> = instances.iter().map(|config| Use { name: "c", machine: false, config }).collect();
            let got = said(Rules::new("p", &project).limits(&all));
            assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{project:?}: {got}");
        }
    }

    #[test]
    fn a_project_knows_what_it_uses() {
        let project = config(&[("limits.instances", "5"), ("limits.memory", "1GiB")]);
        let has = [
            config(&[("limits.memory", "512MiB"), ("limits.cpu", "2")]),
            config(&[("limits.memory", "10%"), ("limits.cpu", "0-3"), ("limits.processes", "7")]),
        ];
        let uses: Vec<Use<'_>> =
            has.iter().zip([false, true]).map(|(config, machine)| Use { name: "c", machine, config }).collect();
        let state = Rules::new("p", &project).state(&uses, 1000, 3);
        let got: Vec<_> = state.resources.iter().map(|(of, r)| (of.as_str(), r.limit, r.usage)).collect();
        let want = [
            ("containers", -1, 1),
            ("cpu", -1, 2),
            ("disk", -1, 1000),
            ("instances", 5, 2),
            ("memory", 1 << 30, 512 << 20),
            ("networks", -1, 3),
            ("processes", -1, 7),
            ("virtual-machines", -1, 1),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn restrictions_hold_where_they_are_switched_on() {
        for (rule, has, want) in [
            (("", ""), ("security.privileged", "true"), "Privileged containers are forbidden"),
            (("", ""), ("security.privileged", "false"), ""),
            (("restricted.containers.privilege", "allow"), ("security.privileged", "true"), ""),
            (("restricted.containers.privilege", "isolated"), ("security.privileged", "true"), "Privileged"),
            (("", ""), ("security.nesting", "1"), "Container nesting is forbidden"),
            (("restricted.containers.nesting", "allow"), ("security.nesting", "1"), ""),
            (("", ""), ("raw.lxc", "x"), "Low-level options are forbidden"),
            (("restricted.containers.lowlevel", "allow"), ("raw.lxc", "x"), ""),
            (("", ""), ("limits.memory", "1"), ""),
        ] {
            let mut project = config(&[rule]);
            let has = config(&[has]);
            assert_eq!(said(Rules::new("p", &project).restrictions("instance \"c\"", &has, &Devices::new())), "");
            project.insert("restricted".into(), "true".into());
            let got = said(Rules::new("p", &project).restrictions("instance \"c\"", &has, &Devices::new()));
            assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{rule:?} {has:?}: {got}");
        }
    }

    #[test]
    fn devices_are_blocked_managed_or_free() {
        let (root, volume, path) = (
            &[("type", "disk"), ("path", "/"), ("pool", "p")][..],
            &[("type", "disk"), ("path", "/x"), ("pool", "p"), ("source", "v")],
            &[("type", "disk"), ("path", "/x"), ("source", "/etc")],
        );
        let (managed, p2p) = (&[("type", "nic"), ("network", "n")][..], &[("type", "nic"), ("nictype", "p2p")]);
        for (rule, device, good) in [
            (("", ""), root, true),
            (("", ""), volume, true),
            (("", ""), path, false),
            (("restricted.devices.disk", "allow"), path, true),
            (("restricted.devices.disk", "block"), volume, false),
            (("restricted.devices.disk", "block"), root, true),
            (("", ""), managed, true),
            (("", ""), p2p, false),
            (("restricted.devices.nic", "allow"), p2p, true),
            (("restricted.devices.nic", "block"), managed, false),
            (("", ""), &[("type", "usb")], false),
            (("restricted.devices.usb", "allow"), &[("type", "usb")], true),
            (("", ""), &[("type", "none")], true),
        ] {
            let project = config(&[rule, ("restricted", "true")]);
            let devices = Devices::from([("d".to_owned(), config(device))]);
            let got = Rules::new("p", &project).restrictions("profile \"x\"", &Config::new(), &devices);
            assert_eq!(got.is_ok(), good, "{rule:?} {device:?}: {got:?}");
        }
    }

    #[test]
    fn targets_and_notes_are_low_level() {
        let group = |name: &str| Target::Group(name.to_owned());
        let member = Target::Member("m".into());
        for (rules, target, good) in [
            (&[][..], &member, true),
            (&[("restricted", "true")], &member, false),
            (&[("restricted", "true")], &Target::Any, true),
            (&[("restricted", "true"), ("restricted.cluster.target", "allow")], &member, true),
            (
                &[("restricted", "on"), ("restricted.cluster.target", "allow"), ("restricted.cluster.groups", "a, b")],
                &group("b"),
                true,
            ),
            (
                &[("restricted", "on"), ("restricted.cluster.target", "allow"), ("restricted.cluster.groups", "a, b")],
                &group("c"),
                false,
            ),
        ] {
            let project = config(rules);
            assert_eq!(Rules::new("p", &project).target(target).is_ok(), good, "{rules:?} {target:?}");
        }
        let project = config(&[("restricted", "true")]);
        let rules = Rules::new("p", &project);
        let old = config(&[("volatile.uuid", "1"), ("a", "1")]);
        assert!(rules.notes(&old, &config(&[("volatile.uuid", "1"), ("a", "2")])).is_ok());
        assert!(rules.notes(&old, &config(&[("volatile.uuid", "2")])).is_err());
        assert!(rules.notes(&old, &Config::new()).is_err());
        assert!(rules.notes(&Config::new(), &config(&[("volatile.base_image", "x")])).is_ok());
    }
}
