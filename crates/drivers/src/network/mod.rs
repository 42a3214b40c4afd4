//! Networks that the daemon manages on this member, and what else the host has.
//!
//! [`Networks`] is one per daemon. Everything it does can be done again: a daemon that was killed in the middle calls
//! [`Networks::start`] and what is missing is completed. Calls block; they concern the network namespace of the
//! calling thread.

mod bridge;
mod dnsmasq;
mod passive;
pub mod state;

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use api::{Error, Kind, Result, error::Context, key::Config};
use host::net::Net;
use incus_core::net::{
    Entropy,
    dnsmasq::{Host, Lease},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use state::host_networks;

/// A managed network as this member is to have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name; for a bridge also that of the link.
    pub name: String,
    /// `bridge`, `macvlan` or `physical`.
    pub kind: String,
    /// Its configuration with that of this member merged into it.
    pub config: Config,
}

/// What differs between the kinds of networks.
trait Driver: Sync {
    /// Checks a configuration, without looking at the host.
    fn validate(&self, name: &str, config: &Config) -> Result<()>;
    /// Completes the configuration of a new network; `taken` are the subnets that are in use.
    fn fill(&self, config: &mut Config, taken: &[IpNet], entropy: Entropy<'_>) -> Result<()>;
    /// Checks that the host has room for the new network.
    fn create(&self, cx: &Networks, new: &Definition) -> Result<()>;
    /// Brings everything into the state that the definition wants, from whatever is there.
    fn start(&self, cx: &Networks, def: &Definition) -> Result<()>;
    /// What an older definition wanted and the new one does not is taken away; then as `start`.
    fn update(&self, cx: &Networks, old: &Definition, new: &Definition) -> Result<()>;
    /// Takes everything away, whatever is left of it.
    fn stop(&self, cx: &Networks, def: &Definition) -> Result<()>;
}

fn driver(kind: &str) -> Result<&'static dyn Driver> {
    match kind {
        "bridge" => Ok(&bridge::Bridged),
        "macvlan" => Ok(&passive::MACVLAN),
        "physical" => Ok(&passive::PHYSICAL),
        "ovn" | "sriov" => {
            let what = format!("Networks of type \"{kind}\" are not available on this server");
            Err(Error::new(Kind::NotImplemented, what))
        }
        _ => Err(Error::bad_request(format!("Unknown network type \"{kind}\""))),
    }
}

/// Checks the name and configuration of a network, without looking at the host.
///
/// # Errors
/// Says which option is unknown or wrong.
pub fn validate(kind: &str, name: &str, config: &Config) -> Result<()> {
    driver(kind)?.validate(name, config)
}

/// Completes the configuration of a new network: subnets that are to be chosen are chosen, such that they are free on
/// this member and not in `taken` (the subnets of the other networks).
///
/// # Errors
/// When no subnet is free.
pub fn fill(kind: &str, config: &mut Config, taken: &[IpNet]) -> Result<()> {
    let net = Net::open()?;
    let mut taken = taken.to_vec();
    taken.extend(net.routes()?.iter().map(|r| r.to));
    taken.extend(net.links()?.iter().flat_map(|l| &l.addresses).map(|a| a.net));
    driver(kind)?.fill(config, &taken, &mut rand::random)
}

/// The networks of this member.
#[derive(Debug)]
pub struct Networks {
    /// `networks/`: a folder for each.
    dir: PathBuf,
    /// Where logs go.
    logs: PathBuf,
    /// Makes the MAC addresses of this member's bridges its own, and the same ever after.
    seed: String,
    /// The name servers that are watched, by network.
    dnsmasq: Mutex<BTreeMap<String, dnsmasq::Watched>>,
    /// One change at a time.
    busy: Mutex<()>,
}

impl Networks {
    /// Nothing is started yet. `seed` is something that only this member has and keeps, as the fingerprint of
    /// its certificate.
    ///
    /// When this is dropped, the networks stay as they are: a daemon that restarts does not disturb them.
    pub fn new(incus_dir: &Path, seed: &str) -> Self {
        Self {
            dir: incus_dir.join("networks"),
            logs: incus_dir.join("logs"),
            seed: seed.to_owned(),
            dnsmasq: Mutex::default(),
            busy: Mutex::default(),
        }
    }

    /// Whether a network could be made on this member.
    ///
    /// # Errors
    /// The same as of [`Networks::create`].
    pub fn fits(&self, new: &Definition) -> Result<()> {
        let driver = driver(&new.kind)?;
        driver.validate(&new.name, &new.config)?;
        let _busy = lock(&self.busy);
        if self.dir_of(&new.name).exists() { Ok(()) } else { driver.create(self, new) }
    }

    /// Makes a new network on this member, without starting it.
    ///
    /// # Errors
    /// When its configuration is wrong, or the host has a link of that name that is not ours.
    pub fn create(&self, new: &Definition) -> Result<()> {
        let driver = driver(&new.kind)?;
        driver.validate(&new.name, &new.config)?;
        let _busy = lock(&self.busy);
        if !self.dir_of(&new.name).exists() {
            driver.create(self, new)?;
        }
        // From here on what is called so is ours.
        self.make_dir(&new.name)
    }

    /// Brings a network up, or completes what is missing of it; when the daemon starts and at any other time.
    ///
    /// # Errors
    /// When a link, a rule or the name server cannot be made; what could be made stays.
    pub fn start(&self, def: &Definition) -> Result<()> {
        let driver = driver(&def.kind)?;
        driver.validate(&def.name, &def.config)?;
        let _busy = lock(&self.busy);
        self.make_dir(&def.name)?;
        driver.start(self, def).context(format!("Failed to start network \"{}\"", def.name))
    }

    /// Changes a running network.
    ///
    /// # Errors
    /// When the new configuration is wrong, or cannot be brought about; the old one is brought back then.
    pub fn update(&self, old: &Definition, new: &Definition) -> Result<()> {
        let driver = driver(&new.kind)?;
        driver.validate(&new.name, &new.config)?;
        let _busy = lock(&self.busy);
        self.make_dir(&new.name)?;
        driver.update(self, old, new).inspect_err(|_| {
            if let Err(e) = driver.update(self, new, old) {
                tracing::warn!(network = old.name, "the former configuration could not be brought back: {e}");
            }
        })
    }

    /// Takes a network down: its link, its rules and its name server.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn stop(&self, def: &Definition) -> Result<()> {
        let driver = driver(&def.kind)?;
        let _busy = lock(&self.busy);
        driver.stop(self, def).context(format!("Failed to stop network \"{}\"", def.name))
    }

    /// Takes a network down and forgets its leases; fine if it is gone already.
    ///
    /// # Errors
    /// As [`Networks::stop`].
    pub fn delete(&self, def: &Definition) -> Result<()> {
        self.stop(def)?;
        remove_if_there(fs::remove_dir_all(self.dir_of(&def.name)))
    }

    /// Takes a network down and lets its leases go with the new name; the caller starts it again under that.
    ///
    /// # Errors
    /// When the name is wrong or the host has such a link.
    pub fn rename(&self, old: &Definition, new_name: &str) -> Result<()> {
        let new = Definition { name: new_name.to_owned(), ..old.clone() };
        let driver = driver(&old.kind)?;
        driver.validate(&new.name, &new.config)?;
        self.stop(old)?;
        let _busy = lock(&self.busy);
        driver.create(self, &new)?;
        remove_if_there(fs::rename(self.dir_of(&old.name), self.dir_of(new_name)))
    }

    /// Whether the name server of a network runs.
    pub fn serves_names(&self, network: &str) -> bool {
        lock(&self.dnsmasq).get(network).is_some_and(dnsmasq::Watched::is_running)
    }

    /// Gives a device of an instance its fixed addresses and name on a managed network.
    /// `label` is that of the device ([`incus_core::net::nic::label`]).
    ///
    /// # Errors
    /// When another device has one of the addresses already.
    pub fn set_host(&self, network: &str, label: &str, host: &Host) -> Result<()> {
        let _busy = lock(&self.busy);
        for (other, has) in self.hosts(network)? {
            let same = |a: Option<IpAddr>, b: Option<IpAddr>| a.filter(|a| Some(*a) == b);
            if let Some(ip) = same(host.ipv4, has.ipv4).or(same(host.ipv6, has.ipv6)).filter(|_| other != label) {
                let what = format!("IP address \"{ip}\" of network \"{network}\" is in use by \"{other}\"");
                return Err(Error::new(Kind::Conflict, what));
            }
        }
        self.make_dir(network)?;
        let (file, line) = (self.hosts_dir(network).join(label), host.line() + "\n");
        if fs::read_to_string(&file).is_ok_and(|now| now == line) {
            return Ok(());
        }
        let written = fs::write(&file, line);
        written
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o644)))
            .context(format!("Failed to write \"{}\"", file.display()))?;
        self.reload_names(network);
        Ok(())
    }

    /// Takes the fixed addresses and name from a device; fine if it has none.
    ///
    /// # Errors
    /// When the file that holds them cannot be removed.
    pub fn remove_host(&self, network: &str, label: &str) -> Result<()> {
        let _busy = lock(&self.busy);
        remove_if_there(fs::remove_file(self.hosts_dir(network).join(label)))?;
        self.reload_names(network);
        Ok(())
    }

    /// The fixed addresses and names of a network, by the label of their device.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn hosts(&self, network: &str) -> Result<Vec<(String, Host)>> {
        let entries = match fs::read_dir(self.hosts_dir(network)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut hosts = Vec::new();
        for entry in entries {
            let entry = entry?;
            // One that is removed meanwhile is not there.
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            hosts.extend(Host::parse(&text).map(|h| (entry.file_name().to_string_lossy().into_owned(), h)));
        }
        hosts.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(hosts)
    }

    /// The addresses that this member's name server gave to clients of a network.
    ///
    /// # Errors
    /// When they cannot be read; a network that gave none has none.
    pub fn leases(&self, network: &str) -> Result<Vec<Lease>> {
        match fs::read_to_string(self.dir_of(network).join("dnsmasq.leases")) {
            Ok(text) => Ok(incus_core::net::dnsmasq::leases(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    fn reload_names(&self, network: &str) {
        if let Some(server) = lock(&self.dnsmasq).get(network) {
            server.reload();
        }
    }

    fn make_dir(&self, network: &str) -> Result<()> {
        // The name server, which is not root, comes by the outer ones and reads the last.
        for (dir, mode) in [(self.dir.clone(), 0o711), (self.dir_of(network), 0o711), (self.hosts_dir(network), 0o755)]
        {
            let made = fs::create_dir_all(&dir).and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(mode)));
            made.context(format!("Failed to create \"{}\"", dir.display()))?;
        }
        Ok(())
    }

    fn dir_of(&self, network: &str) -> PathBuf {
        self.dir.join(network)
    }

    fn hosts_dir(&self, network: &str) -> PathBuf {
        self.dir_of(network).join("dnsmasq.hosts")
    }
}

/// What a panic left behind is still the best that is known: everything is brought in order from what is there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove_if_there(done: io::Result<()>) -> Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(test)]
pub(crate) mod tests;
