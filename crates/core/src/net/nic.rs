//! What a network device of an instance needs, from its configuration and what was noted about it.

use std::{collections::BTreeSet, net::IpAddr};

use api::{
    Error, Kind, Result,
    key::{Config, Value},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::{
    Entropy,
    bridge::Bridge,
    dnsmasq::Host,
    firewall::{Allowed, Filter},
    mac::Mac,
    name,
};

/// Everything that decides about a device.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The pattern of addresses that are made up (`network.hwaddr_pattern`).
    pub hwaddr_pattern: &'a str,
    /// Whether the host's end is named after the address (`instances.nic.host_name`).
    pub named_by_hwaddr: bool,
    /// Project of the instance.
    pub project: &'a str,
    /// The instance.
    pub instance: &'a str,
    /// Name of the device.
    pub device: &'a str,
    /// The device's own configuration, after profiles.
    pub config: &'a Config,
    /// The instance's configuration, for its `volatile.…` keys.
    pub volatile: &'a Config,
    /// The managed network that the device's `network` names.
    pub network: Option<&'a Network<'a>>,
    /// Names inside the instance that its other devices have.
    pub names_taken: &'a BTreeSet<String>,
}

/// A managed network as far as devices care.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// Its name.
    pub name: &'a str,
    /// `bridge`, `macvlan`, `physical`.
    pub kind: &'a str,
    /// Its configuration.
    pub config: &'a Config,
}

/// How a device reaches the host's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A veth pair whose host's end is a port of a bridge.
    Bridged {
        /// The bridge.
        bridge: String,
        /// Whether that bridge is a managed network's.
        managed: bool,
    },
    /// A veth pair that the host routes to.
    P2p,
    /// A further MAC address of a link of the host.
    Macvlan {
        /// That link.
        parent: String,
        /// `bridge`, `vepa`, `passthru` or `private`.
        mode: String,
        /// VLAN of that link.
        vlan: Option<u16>,
        /// Announce the VLAN.
        gvrp: bool,
    },
    /// A link of the host itself.
    Physical {
        /// That link.
        parent: String,
        /// VLAN of that link.
        vlan: Option<u16>,
        /// Announce the VLAN.
        gvrp: bool,
    },
}

/// A device of an instance, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Names it in files and rules: `instance.device`, `project_instance.device`.
    pub label: String,
    /// Name of the device.
    pub device: String,
    /// How it reaches the host's network.
    pub mode: Mode,
    /// The link that stays on the host (`veth…`), or for other modes the one that is handed over.
    pub host_name: String,
    /// The link that is handed to the instance.
    pub link: String,
    /// Its name inside the instance.
    pub name: String,
    /// Its MAC address; none leaves a physical link its own.
    pub hwaddr: Option<Mac>,
    /// In bytes, unless the kernel's choice will do.
    pub mtu: Option<u32>,
    /// Length of the transmit queue in packets.
    pub queue: Option<u32>,
    /// Bit/s towards the instance.
    pub ingress: Option<u64>,
    /// Bit/s from the instance.
    pub egress: Option<u64>,
    /// Whether its link is up on the host.
    pub connected: bool,
    /// Whether it is kept apart from other isolated ports of the bridge.
    pub isolated: bool,
    /// What it may send.
    pub filter: Option<Filter>,
    /// Subnets that the host routes to it.
    pub routes: Vec<IpNet>,
    /// Its fixed addresses and name on a managed network.
    pub host: Option<Host>,
    /// What is to be noted in the instance's configuration before the device is made; empty values are removed.
    pub volatile: Config,
}

const COMMON: &[&str] = &["type", "nictype", "network", "name", "hwaddr", "mtu", "attached", "boot.priority"];
const VETH: &[&str] = &[
    "host_name",
    "connected",
    "queue.tx.length",
    "limits.ingress",
    "limits.egress",
    "limits.max",
    "limits.priority",
    "ipv4.routes",
    "ipv6.routes",
    "io.bus",
];
const BRIDGED: &[&str] = &[
    "parent",
    "ipv4.address",
    "ipv6.address",
    "ipv4.gateway",
    "ipv6.gateway",
    "ipv4.routes.external",
    "ipv6.routes.external",
    "security.mac_filtering",
    "security.ipv4_filtering",
    "security.ipv6_filtering",
    "security.port_isolation",
    "security.acls",
    "security.acls.default.egress.action",
    "security.acls.default.egress.logged",
    "security.acls.default.ingress.action",
    "security.acls.default.ingress.logged",
    "vlan",
    "vlan.tagged",
];
const PARENTED: &[&str] = &["parent", "vlan", "gvrp", "mode", "connected", "io.bus", "vlan.tagged"];
const MISSING: &[&str] =
    &["limits.priority", "security.acls", "vlan.tagged", "ipv4.routes.external", "ipv6.routes.external"];

/// Decides all about a device; `None` if it is not plugged in (`attached=false`).
///
/// # Errors
/// Says which option is unknown, wrong or cannot be honoured here.
pub fn resolve(r: &Request<'_>, entropy: Entropy<'_>) -> Result<Option<Nic>> {
    let o = Options(r.config);
    let nictype = nictype(r)?;
    o.check_known(nictype)?;
    let attached = o.flag("attached", true)?;
    let label = label(r.project, r.instance, r.device);
    let (mode, bridge) = mode(r, nictype)?;
    let handed_over = matches!(mode, Mode::Physical { .. });
    let mut notes = Config::new();
    let hwaddr = hwaddr(r, handed_over, entropy, &mut notes)?;
    let host_name = host_name(r, &mode, hwaddr, entropy, &mut notes)?;
    let guest = guest_name(r, &mut notes)?;
    let link = match mode {
        Mode::Bridged { .. } | Mode::P2p => name::peer(&host_name),
        Mode::Macvlan { .. } | Mode::Physical { .. } => host_name.clone(),
    };
    let (ipv4, ipv6) = (o.address("ipv4.address", 4)?, o.address("ipv6.address", 6)?);
    check_addresses(bridge.as_ref(), [&ipv4, &ipv6])?;
    let max = o.bits("limits.max")?;
    let mut routes = o.subnets("ipv4.routes", 4)?;
    routes.extend(o.subnets("ipv6.routes", 6)?);
    let nic = Nic {
        filter: filter(&o, &label, &host_name, hwaddr, &ipv4, &ipv6)?,
        host: bridge.as_ref().zip(hwaddr).map(|(b, mac)| host(r, b, mac, &ipv4, &ipv6)),
        label,
        device: r.device.to_owned(),
        mode,
        host_name,
        link,
        name: guest,
        hwaddr,
        mtu: o.parse("mtu", mtu)?.or(bridge.and_then(|b| b.mtu)).or(network_mtu(r)),
        queue: o.parse("queue.tx.length", |v| v.parse().map_err(|_| format!("Invalid queue length \"{v}\"")))?,
        ingress: o.bits("limits.ingress")?.or(max),
        egress: o.bits("limits.egress")?.or(max),
        connected: o.flag("connected", true)?,
        isolated: o.flag("security.port_isolation", false)?,
        routes,
        volatile: notes,
    };
    Ok(attached.then_some(nic))
}

/// Checks a device's configuration alone, as when it is added to an instance or profile.
///
/// # Errors
/// As [`resolve`].
pub fn validate(config: &Config, network: Option<&Network<'_>>) -> Result<()> {
    let (empty, none) = (Config::new(), BTreeSet::new());
    let request = Request {
        hwaddr_pattern: "",
        named_by_hwaddr: false,
        project: "default",
        instance: "c1",
        device: "eth0",
        config,
        volatile: &empty,
        network,
        names_taken: &none,
    };
    resolve(&request, &mut || 0).map(drop)
}

/// Names a device in files and rules. What no file or rule could be named is replaced, and told apart by a digest.
pub fn label(project: &str, instance: &str, device: &str) -> String {
    let prefix = if project == "default" { String::new() } else { format!("{project}_") };
    let full = format!("{prefix}{instance}.{device}");
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if full.chars().all(fine) {
        return full;
    }
    let digest = hex::encode(&Sha256::digest(full.as_bytes())[..4]);
    let plain: String = full.chars().map(|c| if fine(c) { c } else { '-' }).collect();
    format!("{plain}-{digest}")
}

/// The keys that only hold while the instance runs, to be emptied when it has stopped.
pub fn running_notes(device: &str) -> [String; 4] {
    ["host_name", "last_state.created", "last_state.hwaddr", "last_state.mtu"].map(|k| note(device, k))
}

fn note(device: &str, key: &str) -> String {
    format!("volatile.{device}.{key}")
}

fn nictype<'a>(r: &Request<'a>) -> Result<&'a str> {
    let set = |key: &str| r.config.get(key).filter(|v| !v.is_empty());
    if let Some(name) = set("network") {
        let network = r.network.filter(|n| n.name == name);
        let network = network.ok_or_else(|| Error::bad_request(format!("Network \"{name}\" not found")))?;
        for key in ["nictype", "parent", "vlan"] {
            if set(key).is_some() {
                let what = format!("Cannot use \"{key}\" property in conjunction with \"network\" property");
                return Err(Error::bad_request(what));
            }
        }
        return match network.kind {
            "bridge" => Ok("bridged"),
            kind @ ("macvlan" | "physical") => Ok(kind),
            kind => Err(Error::new(
                Kind::NotImplemented,
                format!("Networks of type \"{kind}\" are not available on this server"),
            )),
        };
    }
    match set("nictype").map(String::as_str) {
        Some(known @ ("bridged" | "p2p" | "macvlan" | "physical")) => Ok(known),
        Some(other @ ("ipvlan" | "routed" | "sriov" | "ovn")) => {
            let what = format!("Network devices of nictype \"{other}\" are not available on this server");
            Err(Error::new(Kind::NotImplemented, what))
        }
        Some(other) => Err(Error::bad_request(format!("Unsupported nictype \"{other}\""))),
        None => Err(Error::bad_request("A network device needs \"network\" or \"nictype\"")),
    }
}

fn mode(r: &Request<'_>, nictype: &str) -> Result<(Mode, Option<Bridge>)> {
    let o = Options(r.config);
    let managed = r.config.get("network").filter(|v| !v.is_empty()).and(r.network);
    // A managed network of these kinds says what a device would say itself.
    let from = managed.filter(|n| n.kind != "bridge").map_or(r.config, |n| n.config);
    let p = Options(from);
    let parent = || {
        p.get("parent").map(str::to_owned).ok_or_else(|| {
            Error::bad_request(format!("A network device of nictype \"{nictype}\" needs the option \"parent\""))
        })
    };
    let vlan = || {
        p.parse("vlan", |v| v.parse().ok().filter(|n| (1..=4094).contains(n)).ok_or(format!("Invalid VLAN ID \"{v}\"")))
    };
    Ok(match nictype {
        "bridged" if o.get("vlan").is_some() => {
            let what = "Network device option \"vlan\" of a bridged device is not available on this server";
            return Err(Error::new(Kind::NotImplemented, what));
        }
        "bridged" => match managed {
            Some(n) => {
                let bridge = Bridge::parse(n.name, n.config)?;
                (Mode::Bridged { bridge: n.name.to_owned(), managed: true }, Some(bridge))
            }
            None => (Mode::Bridged { bridge: parent()?, managed: false }, None),
        },
        "p2p" => (Mode::P2p, None),
        "macvlan" => {
            let mode = o.get("mode").unwrap_or("bridge");
            if !["bridge", "vepa", "passthru", "private"].contains(&mode) {
                let why = format!("Invalid value \"{mode}\" (not one of [bridge vepa passthru private])");
                return Err(refused("mode", why));
            }
            let gvrp = p.flag("gvrp", false)?;
            (Mode::Macvlan { parent: parent()?, mode: mode.to_owned(), vlan: vlan()?, gvrp }, None)
        }
        _ => (Mode::Physical { parent: parent()?, vlan: vlan()?, gvrp: p.flag("gvrp", false)? }, None),
    })
}

fn host_name(
    r: &Request<'_>,
    mode: &Mode,
    hwaddr: Option<Mac>,
    entropy: Entropy<'_>,
    notes: &mut Config,
) -> Result<String> {
    let key = note(r.device, "host_name");
    let fresh = match mode {
        Mode::Physical { parent, vlan, .. } => return Ok(vlan.map_or(parent.clone(), |id| vlan_name(parent, id))),
        Mode::Macvlan { .. } => name::random("mac", entropy()),
        Mode::Bridged { .. } | Mode::P2p => match hwaddr.filter(|_| r.named_by_hwaddr) {
            Some(mac) => name::of_mac(mac),
            None => name::veth(entropy()),
        },
    };
    let set = Options(r.config).parse("host_name", |v| name::check(v).map(|()| v.to_owned()))?;
    let chosen = set.or_else(|| r.volatile.get(&key).filter(|v| name::check(v).is_ok()).cloned()).unwrap_or(fresh);
    notes.insert(key, chosen.clone());
    Ok(chosen)
}

/// Name of the link that carries a VLAN of `parent`.
pub fn vlan_name(parent: &str, id: u16) -> String {
    let name = format!("{parent}.{id}");
    // The kernel allows 15 characters.
    if name.len() <= 15 { name } else { format!("vl{}.{id}", hex::encode(&Sha256::digest(parent)[..4])) }
}

fn hwaddr(r: &Request<'_>, handed_over: bool, entropy: Entropy<'_>, notes: &mut Config) -> Result<Option<Mac>> {
    if let Some(mac) = Options(r.config).parse("hwaddr", str::parse)? {
        return Ok(Some(mac));
    }
    if handed_over {
        return Ok(None);
    }
    let key = note(r.device, "hwaddr");
    if let Some(mac) = r.volatile.get(&key).and_then(|v| v.parse().ok()) {
        return Ok(Some(mac));
    }
    let mac = Mac::random(r.hwaddr_pattern, entropy());
    notes.insert(key, mac.to_string());
    Ok(Some(mac))
}

fn guest_name(r: &Request<'_>, notes: &mut Config) -> Result<String> {
    let valid = |v: &str| name::check(v).map(|()| v.to_owned());
    if let Some(name) = Options(r.config).parse("name", valid)? {
        return match r.names_taken.contains(&name) {
            true => Err(refused("name", format!("Another device of the instance is called \"{name}\" already"))),
            false => Ok(name),
        };
    }
    let key = note(r.device, "name");
    if let Some(name) = r.volatile.get(&key).filter(|v| !r.names_taken.contains(*v) && name::check(v).is_ok()) {
        return Ok(name.clone());
    }
    let free = (0..).map(|n: u32| format!("eth{n}")).find(|n| !r.names_taken.contains(n)).unwrap_or_default();
    notes.insert(key, free.clone());
    Ok(free)
}

fn network_mtu(r: &Request<'_>) -> Option<u32> {
    r.network.filter(|n| n.kind != "bridge").and_then(|n| n.config.get("mtu")?.parse().ok())
}

fn mtu(v: &str) -> Result<u32, String> {
    v.parse()
        .ok()
        .filter(|n| (68..=65_535).contains(n))
        .ok_or(format!("Invalid MTU \"{v}\", must be between 68 and 65535"))
}

fn check_addresses(bridge: Option<&Bridge>, addresses: [&Option<Fixed>; 2]) -> Result<()> {
    for fixed in addresses.into_iter().flatten() {
        let (Some(ip), Some(bridge)) = (fixed.ip, bridge) else { continue };
        let key = if ip.is_ipv4() { "ipv4.address" } else { "ipv6.address" };
        let side = bridge
            .side_of(ip)
            .ok_or_else(|| refused(key, format!("Network \"{}\" has no \"{key}\" for it to be in", bridge.name)))?;
        if !side.address.contains(&ip) {
            return Err(refused(
                key,
                format!("Device IP address \"{ip}\" not within network \"{}\" subnet", bridge.name),
            ));
        }
        if side.address.addr() == ip {
            return Err(refused(key, format!("IP address \"{ip}\" is that of the network \"{}\" itself", bridge.name)));
        }
        if !side.dhcp || (ip.is_ipv6() && !side.stateful) {
            let need = if ip.is_ipv4() { "ipv4.dhcp" } else { "ipv6.dhcp.stateful" };
            return Err(refused(key, format!("Cannot be used when \"{need}\" is not enabled on the network")));
        }
    }
    Ok(())
}

fn host(r: &Request<'_>, bridge: &Bridge, mac: Mac, ipv4: &Option<Fixed>, ipv6: &Option<Fixed>) -> Host {
    use super::bridge::DnsMode;
    let name = match r.project {
        "default" => r.instance.to_owned(),
        project => format!("{}.{project}", r.instance),
    };
    let ip = |f: &Option<Fixed>| f.as_ref().and_then(|f| f.ip);
    Host { hwaddr: mac, ipv4: ip(ipv4), ipv6: ip(ipv6), name: (bridge.dns.mode == DnsMode::Managed).then_some(name) }
}

fn filter(
    o: &Options<'_>,
    label: &str,
    host_name: &str,
    mac: Option<Mac>,
    ipv4: &Option<Fixed>,
    ipv6: &Option<Fixed>,
) -> Result<Option<Filter>> {
    let allowed = |key: &str, address: &str, fixed: &Option<Fixed>| match (o.flag(key, false)?, fixed) {
        (false, _) => Ok(Allowed::Any),
        (true, Some(fixed)) => Ok(Allowed::Only(fixed.ip)),
        (true, None) => Err(refused(key, format!("it needs \"{address}\", to know which address is allowed"))),
    };
    let ipv4 = allowed("security.ipv4_filtering", "ipv4.address", ipv4)?;
    let ipv6 = allowed("security.ipv6_filtering", "ipv6.address", ipv6)?;
    let wanted = o.flag("security.mac_filtering", false)? || ipv4 != Allowed::Any || ipv6 != Allowed::Any;
    Ok(mac.filter(|_| wanted).map(|hwaddr| Filter {
        label: label.to_owned(),
        host_name: host_name.to_owned(),
        hwaddr,
        ipv4,
        ipv6,
    }))
}

/// A fixed address, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fixed {
    ip: Option<IpAddr>,
}

fn refused(key: &str, why: impl std::fmt::Display) -> Error {
    Error::bad_request(format!("Invalid value for device option \"{key}\": {why}"))
}

struct Options<'a>(&'a Config);

impl<'a> Options<'a> {
    fn check_known(&self, nictype: &str) -> Result<()> {
        let own: [&[&str]; 2] = match nictype {
            "bridged" => [VETH, BRIDGED],
            "p2p" => [VETH, &[]],
            _ => [PARENTED, &[]],
        };
        for (key, value) in self.0 {
            let known = COMMON.contains(&key.as_str()) || own.iter().any(|k| k.contains(&key.as_str()));
            if !known && !key.starts_with("user.") {
                return Err(Error::bad_request(format!("Invalid device option \"{key}\"")));
            }
            if !value.is_empty() && MISSING.iter().any(|m| key.starts_with(m)) {
                let what = format!("Network device option \"{key}\" is not available on this server");
                return Err(Error::new(Kind::NotImplemented, what));
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn parse<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
        self.get(key).map(read).transpose().map_err(|why| refused(key, why))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.parse(key, bool::parse)?.unwrap_or(default))
    }

    fn bits(&self, key: &str) -> Result<Option<u64>> {
        self.parse(key, bits)
    }

    fn address(&self, key: &str, family: u8) -> Result<Option<Fixed>> {
        self.parse(key, |v| match v.parse::<IpAddr>() {
            _ if v == "none" => Ok(Fixed { ip: None }),
            Ok(ip) if ip.is_ipv4() == (family == 4) => Ok(Fixed { ip: Some(ip) }),
            _ => Err(format!("Not an IPv{family} address \"{v}\"")),
        })
    }

    fn subnets(&self, key: &str, family: u8) -> Result<Vec<IpNet>> {
        let one = |v: &str| match v.trim().parse::<IpNet>() {
            Ok(net) if matches!(net, IpNet::V4(_)) == (family == 4) => Ok(net.trunc()),
            _ => Err(format!("Not an IPv{family} subnet \"{v}\"")),
        };
        Ok(self.parse(key, |v| v.split(',').map(one).collect())?.unwrap_or_default())
    }
}

/// Reads a speed, as `10Mbit`; without a unit it is in bit/s.
///
/// # Errors
/// Says what is wrong with it.
pub fn bits(v: &str) -> Result<u64, String> {
    let refused = || format!("Invalid speed \"{v}\", use a number with bit, kbit, Mbit, Gbit or Tbit");
    let at = v.find(|c: char| !c.is_ascii_digit()).unwrap_or(v.len());
    let (number, unit) = v.split_at(at);
    let factor = match unit.trim() {
        "" | "bit" => 1,
        "kbit" => 1_000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        "Tbit" => 1_000_000_000_000,
        "Kibit" => 1 << 10,
        "Mibit" => 1 << 20,
        "Gibit" => 1 << 30,
        "Tibit" => 1 << 40,
        _ => return Err(refused()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0).ok_or_else(refused)
}

#[cfg(test)]
mod tests;
