//! What a project allows: how much its instances may use together, and what they may not have.

use api::key::{Config, Key, Read as _, find};
use api::keys::instance as keys;
use api::keys::project::{self as own, PROJECT};
use api::profile::Devices;
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
        let names = self.says(&own::RESTRICTED_GROUPS).filter(|names| !names.is_empty())?;
        Some(names.split(',').map(|name| name.trim().to_owned()).collect())
    }
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
