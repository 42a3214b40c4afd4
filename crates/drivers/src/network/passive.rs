//! Networks that are only a name for a link of the host: `macvlan` and `physical`.

use api::{
    Error, Kind, Result,
    key::{Config, Value},
};
use host::net::{Change, Net};
use incus_core::net::{Entropy, name, nic::vlan_name};
use ipnet::IpNet;

use super::{Definition, Driver, Networks};

/// A kind of such networks.
pub(super) struct Passive {
    options: &'static [&'static str],
    /// Options that Incus has and this server cannot honour yet.
    missing: &'static [&'static str],
}

pub(super) static MACVLAN: Passive = Passive { options: &["gvrp", "mtu", "parent", "vlan"], missing: &[] };
pub(super) static PHYSICAL: Passive = Passive {
    options: &["gvrp", "mtu", "parent", "vlan"],
    missing: &["bgp.", "vlan.tagged", "dns.", "ipv4.", "ipv6.", "ovn."],
};

impl Driver for Passive {
    fn validate(&self, network: &str, config: &Config) -> Result<()> {
        name::check(network).map_err(|e| Error::bad_request(format!("Invalid network name \"{network}\": {e}")))?;
        for (key, value) in config {
            self.check(network, key, value)?;
        }
        match config.get("parent").filter(|p| !p.is_empty()) {
            Some(_) => Ok(()),
            None => Err(Error::bad_request(format!("Network \"{network}\" needs the option \"parent\""))),
        }
    }

    fn fill(&self, _: &mut Config, _: &[IpNet], _: Entropy<'_>) -> Result<()> {
        Ok(())
    }

    fn create(&self, _: &Networks, new: &Definition) -> Result<()> {
        let parent = parent(new);
        Net::open()?
            .index(parent)
            .map(drop)
            .map_err(|_| Error::bad_request(format!("Parent interface \"{parent}\" not found on this server")))
    }

    fn start(&self, cx: &Networks, def: &Definition) -> Result<()> {
        self.create(cx, def)?;
        let net = Net::open()?;
        let link = carrier(&net, def)?;
        let mtu = def.config.get("mtu").and_then(|v| v.parse().ok());
        Ok(net.change(&link, Change { up: Some(true), mtu, ..Change::default() })?)
    }

    fn update(&self, cx: &Networks, old: &Definition, new: &Definition) -> Result<()> {
        let same = |key: &str| old.config.get(key) == new.config.get(key);
        if !same("parent") || !same("vlan") {
            self.stop(cx, old)?;
        }
        self.start(cx, new)
    }

    fn stop(&self, _: &Networks, def: &Definition) -> Result<()> {
        if let Some(id) = vlan(&def.config) {
            crate::device::nic::remove_vlan(&Net::open()?, &vlan_name(parent(def), id))?;
        }
        Ok(())
    }
}

impl Passive {
    fn check(&self, network: &str, key: &str, value: &str) -> Result<()> {
        if !self.options.contains(&key) && !key.starts_with("user.") && !key.starts_with("volatile.") {
            return Err(if self.missing.iter().any(|m| key.starts_with(m)) {
                let what = format!("Network option \"{key}\" is not available on this server");
                Error::new(Kind::NotImplemented, what)
            } else {
                Error::bad_request(format!("Invalid option for network \"{network}\" option \"{key}\""))
            });
        }
        let number = |min: u32, max: u32| match value.parse::<u32>() {
            Ok(n) if (min..=max).contains(&n) => Ok(()),
            _ => Err(format!("\"{value}\" is not between {min} and {max}")),
        };
        let done = match key {
            _ if value.is_empty() => Ok(()),
            "gvrp" => bool::parse(value).map(drop),
            "mtu" => number(68, 65_535),
            "vlan" => number(1, 4094),
            "parent" => name::check(value),
            _ => Ok(()),
        };
        done.map_err(|why| {
            Error::bad_request(format!("Invalid value for network \"{network}\" option \"{key}\": {why}"))
        })
    }
}

fn parent(def: &Definition) -> &str {
    def.config.get("parent").map_or("", String::as_str)
}

fn vlan(config: &Config) -> Option<u16> {
    config.get("vlan").and_then(|v| v.parse().ok())
}

/// The link that carries the network's packets; a VLAN is made when it is not there.
fn carrier(net: &Net, def: &Definition) -> Result<String> {
    let Some(id) = vlan(&def.config) else { return Ok(parent(def).to_owned()) };
    let gvrp = def.config.get("gvrp").is_some_and(|v| bool::parse(v).unwrap_or_default());
    crate::device::nic::make_vlan(net, parent(def), id, gvrp).map(|(link, _)| link)
}
