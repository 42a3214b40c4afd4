//! What the configuration of a managed bridge means.

use std::net::IpAddr;

use api::{
    Error, Kind, Result,
    key::{Config, Value},
};
use ipnet::IpNet;

use super::{Entropy, mac::Mac, name, pick};

/// The MTU of a bridge that says nothing about it.
pub const DEFAULT_MTU: u32 = 1500;

/// A bridge as its configuration wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Name of the network and of its link.
    pub name: String,
    /// In bytes, if it was set.
    pub mtu: Option<u32>,
    /// MAC address, if it was set.
    pub hwaddr: Option<Mac>,
    /// Links of the host that become its ports.
    pub external: Vec<External>,
    /// Whether multicast goes only to the ports that want it.
    pub multicast_snooping: bool,
    /// IPv4, unless it has none.
    pub ipv4: Option<Side>,
    /// IPv6, unless it has none.
    pub ipv6: Option<Side>,
    /// Names.
    pub dns: Dns,
    /// Lines for the end of the configuration of `dnsmasq`.
    pub raw_dnsmasq: String,
}

/// A link of the host that becomes a port of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Its name.
    pub link: String,
    /// Made as this VLAN of that link when it is not there.
    pub vlan: Option<(String, u16)>,
}

/// What a bridge does in one of the two families of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its own address and subnet.
    pub address: IpNet,
    /// Whether what leaves the subnet takes an address of the host.
    pub nat: bool,
    /// That address; any of the host if not given.
    pub nat_address: Option<IpAddr>,
    /// Whether addresses (or for IPv6 further configuration) are given out.
    pub dhcp: bool,
    /// Whether IPv6 addresses are given out.
    pub stateful: bool,
    /// How long an address is given for, as `1h`.
    pub expiry: String,
    /// What may be given out, first and last.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Router that clients are told; none for the bridge itself, `Some(None)` for no router.
    pub gateway: Option<Option<IpAddr>>,
    /// Further routes for clients, in `dnsmasq`'s words.
    pub dhcp_routes: String,
    /// Whether rules of the packet filter are made.
    pub firewall: bool,
    /// Whether packets go in and out of the bridge.
    pub routing: bool,
    /// Further subnets that are behind the bridge.
    pub routes: Vec<IpNet>,
}

/// How names are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// What follows the names of instances.
    pub domain: String,
    /// Where names come from.
    pub mode: DnsMode,
    /// Servers that clients are told instead of the bridge.
    pub servers: Vec<IpAddr>,
    /// Domains that clients search.
    pub search: Vec<String>,
}

/// Where names in the network's domain come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsMode {
    /// There are none.
    None,
    /// The instances' names.
    Managed,
    /// What clients call themselves.
    Dynamic,
}

impl Bridge {
    /// Reads and checks a whole configuration.
    ///
    /// # Errors
    /// Says which option is unknown or wrong; an option that this server cannot honour is refused, not ignored.
    pub fn parse(name: &str, config: &Config) -> Result<Self> {
        name::check(name).map_err(|why| Error::bad_request(format!("Invalid network name \"{name}\": {why}")))?;
        let o = Options { name, config };
        config.keys().try_for_each(|key| o.known(key))?;
        if o.get("bridge.driver").is_some_and(|d| d != "native") {
            return Err(o.refused("bridge.driver", "this server has only native bridges"));
        }
        Ok(Self {
            name: name.to_owned(),
            mtu: o.parse("bridge.mtu", |v| match v.parse() {
                Ok(n @ 68..=65_535) => Ok(n),
                _ => Err(format!("Invalid MTU \"{v}\", must be between 68 and 65535")),
            })?,
            hwaddr: o.parse("bridge.hwaddr", str::parse)?,
            external: o.list("bridge.external_interfaces", external)?,
            multicast_snooping: o.flag("bridge.multicast_snooping", true)?,
            ipv4: o.side(4)?,
            ipv6: o.side(6)?,
            dns: Dns {
                domain: o.get("dns.domain").unwrap_or("incus").to_owned(),
                mode: o.parse("dns.mode", dns_mode)?.unwrap_or(DnsMode::Managed),
                servers: o.list("dns.nameservers", ip)?,
                search: o.list("dns.search", |s| Ok(s.to_owned()))?,
            },
            raw_dnsmasq: o.get("raw.dnsmasq").unwrap_or_default().to_owned(),
        })
    }

    /// Both families, as far as it has them.
    pub fn sides(&self) -> impl Iterator<Item = &Side> {
        self.ipv4.iter().chain(&self.ipv6)
    }

    /// The side of the family of `ip`.
    pub const fn side_of(&self, ip: IpAddr) -> Option<&Side> {
        match ip {
            IpAddr::V4(_) => self.ipv4.as_ref(),
            IpAddr::V6(_) => self.ipv6.as_ref(),
        }
    }

    /// Whether none of its subnets is also another network's.
    ///
    /// # Errors
    /// Says with which network it would share addresses.
    pub fn check_overlap<'a>(&self, others: impl IntoIterator<Item = (&'a str, IpNet)>) -> Result<()> {
        for (other, taken) in others {
            if let Some(side) = self.sides().find(|s| other != self.name && pick::overlap(&s.address, &taken)) {
                return Err(Error::bad_request(format!(
                    "Network address \"{}\" of \"{}\" overlaps with \"{taken}\" of \"{other}\"",
                    side.address, self.name
                )));
            }
        }
        Ok(())
    }
}

/// Completes the configuration of a new bridge: what is not set becomes `auto`, and `auto` an unused subnet with NAT.
///
/// # Errors
/// When no subnet is free.
pub fn fill(config: &mut Config, taken: &[IpNet], entropy: Entropy<'_>) -> Result<()> {
    for (key, nat) in [("ipv4.address", "ipv4.nat"), ("ipv6.address", "ipv6.nat")] {
        let now = config.get(key).map_or("", String::as_str);
        if now.is_empty() || now == "auto" {
            let net = if key.starts_with("ipv4") { pick::ipv4(taken, entropy)? } else { pick::ipv6(taken, entropy)? };
            config.insert(key.to_owned(), net.to_string());
            config.entry(nat.to_owned()).or_insert_with(|| "true".to_owned());
        }
    }
    Ok(())
}

/// Options that hold on every member by themselves.
pub const MEMBER_SPECIFIC: &[&str] = &["bridge.external_interfaces", "bgp.ipv4.nexthop", "bgp.ipv6.nexthop", "parent"];

const KNOWN: &[&str] = &[
    "bridge.driver",
    "bridge.external_interfaces",
    "bridge.hwaddr",
    "bridge.mtu",
    "bridge.multicast_snooping",
    "dns.domain",
    "dns.mode",
    "dns.nameservers",
    "dns.search",
    "raw.dnsmasq",
    "ipv4.address",
    "ipv4.dhcp",
    "ipv4.dhcp.expiry",
    "ipv4.dhcp.gateway",
    "ipv4.dhcp.ranges",
    "ipv4.dhcp.routes",
    "ipv4.firewall",
    "ipv4.nat",
    "ipv4.nat.address",
    "ipv4.nat.order",
    "ipv4.ovn.ranges",
    "ipv4.routes",
    "ipv4.routing",
    "ipv6.address",
    "ipv6.dhcp",
    "ipv6.dhcp.expiry",
    "ipv6.dhcp.ranges",
    "ipv6.dhcp.stateful",
    "ipv6.firewall",
    "ipv6.nat",
    "ipv6.nat.address",
    "ipv6.nat.order",
    "ipv6.ovn.ranges",
    "ipv6.routes",
    "ipv6.routing",
];

/// Options that Incus has and this server cannot honour yet.
const MISSING: &[&str] = &["bgp.", "dns.zone.", "security.acls", "tunnel."];

struct Options<'a> {
    name: &'a str,
    config: &'a Config,
}

impl Options<'_> {
    fn known(&self, key: &str) -> Result<()> {
        if KNOWN.contains(&key) || key.starts_with("user.") || key.starts_with("volatile.") {
            return Ok(());
        }
        if MISSING.iter().any(|m| key.starts_with(m)) {
            let what = format!("Network option \"{key}\" is not available on this server");
            return Err(Error::new(Kind::NotImplemented, what));
        }
        Err(Error::bad_request(format!("Invalid option for network \"{}\" option \"{key}\"", self.name)))
    }

    fn refused(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::bad_request(format!("Invalid value for network \"{}\" option \"{key}\": {why}", self.name))
    }

    /// The value, unless it is not set or empty.
    fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn parse<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
        self.get(key).map(read).transpose().map_err(|why| self.refused(key, why))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.parse(key, bool::parse)?.unwrap_or(default))
    }

    fn list<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>> {
        let all = |v: &str| v.split(',').map(str::trim).filter(|s| !s.is_empty()).map(&read).collect();
        Ok(self.parse(key, all)?.unwrap_or_default())
    }

    fn side(&self, family: u8) -> Result<Option<Side>> {
        let key = |rest: &str| format!("ipv{family}.{rest}");
        let own = |net: IpNet| matches!(net, IpNet::V4(_)) == (family == 4);
        let (at, ranges_at, dhcp_at) = (key("address"), key("dhcp.ranges"), key("dhcp"));
        let address = match self.get(&at) {
            None | Some("none") => None,
            Some("auto") => {
                return Err(self.refused(&at, "\"auto\" is only resolved when the network is created or changed"));
            }
            Some(_) => self.parse(&at, |v| host_address(v, family))?,
        };
        let nat = self.flag(&key("nat"), false)?;
        let nat_address = self.parse(&key("nat.address"), |v| family_ip(v, family))?;
        self.parse(&key("nat.order"), |v| match v {
            "before" | "after" => Ok(()),
            _ => Err(format!("Invalid value \"{v}\" (not one of [before after])")),
        })?;
        let dhcp = self.flag(&dhcp_at, true)?;
        let stateful = family == 6 && self.flag(&key("dhcp.stateful"), false)?;
        let expiry = self.parse(&key("dhcp.expiry"), expiry)?.unwrap_or_else(|| "1h".to_owned());
        let mut ranges = self.list(&ranges_at, |v| range(v, family))?;
        self.list(&key("ovn.ranges"), |v| range(v, family))?;
        let gateway = self.parse(&key("dhcp.gateway"), |v| match v {
            "none" => Ok(None),
            _ => family_ip(v, family).map(Some),
        })?;
        let routes = self.list(&key("routes"), |v| match v.parse::<IpNet>() {
            Ok(net) if own(net) => Ok(net.trunc()),
            _ => Err(format!("Not an IPv{family} subnet \"{v}\"")),
        })?;
        let (firewall, routing) = (self.flag(&key("firewall"), true)?, self.flag(&key("routing"), true)?);
        let dhcp_routes = self.get(&key("dhcp.routes")).unwrap_or_default().to_owned();
        if dhcp_routes.contains(['\n', '\r']) {
            return Err(self.refused(&key("dhcp.routes"), "it must be one line"));
        }
        let Some(address) = address else { return Ok(None) };
        if let Some((a, b)) = ranges.iter().find(|(a, b)| !address.contains(a) || !address.contains(b)) {
            return Err(self.refused(&ranges_at, format!("{a}-{b} is not within the subnet {}", address.trunc())));
        }
        let gives_addresses = dhcp && (family == 4 || stateful);
        let widest = if family == 4 { 30 } else { 126 };
        if gives_addresses && address.prefix_len() > widest {
            return Err(self.refused(
                &at,
                format!("the subnet is too small for DHCP, use at most a /{widest} or set {dhcp_at} to false"),
            ));
        }
        if gives_addresses && ranges.is_empty() {
            let last = if family == 4 { -2 } else { -1 };
            ranges = vec![(pick::nth(address, 2), pick::nth(address, last))];
        }
        Ok(Some(Side {
            address,
            nat,
            nat_address,
            dhcp,
            stateful,
            expiry,
            ranges,
            gateway,
            dhcp_routes,
            firewall,
            routing,
            routes,
        }))
    }
}

fn host_address(v: &str, family: u8) -> Result<IpNet, String> {
    let refused = |why: &str| format!("Invalid IPv{family} address \"{v}\": {why}");
    let (_, prefix) =
        v.split_once('/').ok_or_else(|| refused("it needs the length of the prefix, as in 10.0.0.1/24"))?;
    let net: IpNet = v.parse().map_err(|_| refused("it is not an address with the length of its prefix"))?;
    if matches!(net, IpNet::V4(_)) != (family == 4) {
        return Err(refused("it is of the other family"));
    }
    let full = prefix == "32" && family == 4 || prefix == "128";
    let host_part = net.addr() != net.network() && (family == 6 || net.addr() != net.broadcast());
    if !full && net.prefix_len() < 31 && !host_part {
        return Err(refused("it is the address of the subnet, not of a host in it"));
    }
    let ip = net.addr();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || net.prefix_len() == 0 {
        return Err(refused("a bridge cannot have it"));
    }
    Ok(net)
}

fn ip(v: &str) -> Result<IpAddr, String> {
    v.parse().map_err(|_| format!("Not an IP address \"{v}\""))
}

fn family_ip(v: &str, family: u8) -> Result<IpAddr, String> {
    ip(v).ok().filter(|i| i.is_ipv4() == (family == 4)).ok_or_else(|| format!("Not an IPv{family} address \"{v}\""))
}

fn range(v: &str, family: u8) -> Result<(IpAddr, IpAddr), String> {
    let (a, b) = v.split_once('-').ok_or_else(|| format!("Invalid IP range \"{v}\", it must be FIRST-LAST"))?;
    let (a, b) = (family_ip(a.trim(), family)?, family_ip(b.trim(), family)?);
    if a <= b { Ok((a, b)) } else { Err(format!("Start IP {a} must not be above end IP {b}")) }
}

fn expiry(v: &str) -> Result<String, String> {
    let digits = v.trim_end_matches(['s', 'm', 'h', 'd', 'w']);
    let number = !digits.is_empty() && digits.len() + 1 >= v.len() && digits.bytes().all(|b| b.is_ascii_digit());
    if number || v == "infinite" {
        return Ok(v.to_owned());
    }
    Err(format!("Invalid expiry \"{v}\", use a number with s, m, h, d or w, or \"infinite\""))
}

fn dns_mode(v: &str) -> Result<DnsMode, String> {
    match v {
        "none" => Ok(DnsMode::None),
        "managed" => Ok(DnsMode::Managed),
        "dynamic" => Ok(DnsMode::Dynamic),
        _ => Err(format!("Invalid value \"{v}\" (not one of [dynamic managed none])")),
    }
}

fn external(v: &str) -> Result<External, String> {
    let mut parts = v.split('/');
    let (link, parent, vlan) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    name::check(link)?;
    let vlan = match (parent, vlan) {
        (None, None) => None,
        (Some(parent), Some(id)) => {
            name::check(parent)?;
            let id = id.parse().ok().filter(|n| (1..=4094).contains(n));
            Some((parent.to_owned(), id.ok_or_else(|| format!("Invalid VLAN ID in \"{v}\""))?))
        }
        _ => return Err(format!("Invalid interface \"{v}\", use NAME or NAME/PARENT/VLAN")),
    };
    Ok(External { link: link.to_owned(), vlan })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> Config {
        text.split_whitespace()
            .map(|kv| kv.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn good_configurations_are_understood() {
        let b = Bridge::parse("incusbr0", &config("ipv4.address=10.1.2.1/24 ipv4.nat=true ipv6.address=none")).unwrap();
        let v4 = b.ipv4.unwrap();
        assert_eq!(v4.ranges, [("10.1.2.2".parse().unwrap(), "10.1.2.254".parse().unwrap())]);
        assert!(v4.nat && v4.dhcp && v4.firewall && v4.routing && b.ipv6.is_none());
        assert_eq!((b.dns.domain.as_str(), b.dns.mode), ("incus", DnsMode::Managed));
        let b = Bridge::parse(
            "br0",
            &config(
                "bridge.external_interfaces=eth1,v9/eth0/9 ipv6.address=fd42::1/64 ipv6.dhcp.stateful=true user.x=y",
            ),
        )
        .unwrap();
        assert_eq!(b.external[1].vlan, Some(("eth0".into(), 9)));
        assert_eq!(b.ipv6.unwrap().ranges[0].1.to_string(), "fd42::ffff:ffff:ffff:ffff");
    }

    #[test]
    fn bad_ones_are_refused_in_words() {
        for (name, text, want) in [
            ("b", "", "too short (minimum 2 characters)"),
            ("a-name-too-long-for-it", "", "too long (maximum 15 characters)"),
            ("br/0", "", "invalid characters"),
            ("br0", "colour=red", "Invalid option for network \"br0\" option \"colour\""),
            ("br0", "ipv4.address=10.1.2.1", "needs the length of the prefix"),
            ("br0", "ipv4.address=10.1.2.1/33", "not an address"),
            ("br0", "ipv4.address=10.1.2.0/24", "address of the subnet"),
            ("br0", "ipv4.address=10.1.2.255/24", "address of the subnet"),
            ("br0", "ipv4.address=fd42::1/64", "other family"),
            ("br0", "ipv4.address=127.0.0.1/8", "cannot have it"),
            ("br0", "ipv4.address=10.1.2.1/32", "too small for DHCP"),
            ("br0", "ipv4.address=10.1.2.1/24 ipv4.dhcp.ranges=10.1.3.1-10.1.3.5", "not within the subnet"),
            ("br0", "ipv4.dhcp.ranges=10.1.3.9-10.1.3.5", "must not be above"),
            ("br0", "ipv4.dhcp.expiry=soon", "Invalid expiry"),
            ("br0", "ipv4.dhcp=maybe", "Invalid value for a boolean"),
            ("br0", "ipv4.routes=10.0.0.0", "Not an IPv4 subnet"),
            ("br0", "dns.mode=x", "not one of [dynamic managed none]"),
            ("br0", "bridge.mtu=9", "between 68 and 65535"),
            ("br0", "bridge.driver=openvswitch", "only native bridges"),
            ("br0", "bridge.hwaddr=11:22:33:44:55:66", "6 bytes"),
            ("br0", "bridge.external_interfaces=eth0/1", "NAME/PARENT/VLAN"),
            ("br0", "security.acls=a", "not available on this server"),
        ] {
            let e = Bridge::parse(name, &config(text)).unwrap_err();
            assert!(e.message.contains(want), "{text}: {e}");
        }
    }

    #[test]
    fn a_new_bridge_gets_free_subnets_once() {
        let mut c = config("ipv6.address=none");
        fill(&mut c, &[], &mut || 0x0203).unwrap();
        assert_eq!(c, config("ipv4.address=10.3.2.1/24 ipv4.nat=true ipv6.address=none"));
        let before = c.clone();
        fill(&mut c, &[], &mut || panic!("nothing is to be drawn")).unwrap();
        assert_eq!(c, before);
        let b = Bridge::parse("br1", &c).unwrap();
        let clash = b.check_overlap([("br1", "10.3.2.1/24".parse().unwrap()), ("br0", "10.3.0.1/16".parse().unwrap())]);
        assert!(clash.unwrap_err().message.contains("overlaps with \"10.3.0.1/16\" of \"br0\""));
    }
}
