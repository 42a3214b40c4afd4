//! Rules of the packet filter, in `nft`'s language.
//!
//! Everything is in tables of our own (`inet incus`, `bridge incus`), with chains per network and per device, so that
//! the rules of others are never touched. Each text can be applied any number of times.

use std::{fmt::Write, net::IpAddr};

use super::{
    bridge::{Bridge, Side},
    mac::Mac,
};

/// Name of our tables.
pub const TABLE: &str = "incus";

/// Chains of a network and the hooks that they hang on.
const CHAINS: [(&str, &str); 4] = [
    ("pstrt", "type nat hook postrouting priority srcnat; policy accept;"),
    ("fwd", "type filter hook forward priority filter; policy accept;"),
    ("in", "type filter hook input priority filter; policy accept;"),
    ("out", "type filter hook output priority filter; policy accept;"),
];

/// Replaces all rules of a network.
pub fn network(bridge: &Bridge) -> String {
    let mut out = clear_network(&bridge.name);
    for (chain, hook) in CHAINS {
        let rules: Vec<String> = bridge.sides().flat_map(|side| rules(chain, &bridge.name, side)).collect();
        if !rules.is_empty() {
            chain_of(&mut out, "inet", &format!("{chain}.{}", bridge.name), hook, &rules);
        }
    }
    out
}

/// Removes all rules of a network, whether there are any or not.
pub fn clear_network(name: &str) -> String {
    CHAINS.iter().fold(String::new(), |mut out, (chain, hook)| {
        gone(&mut out, "inet", &format!("{chain}.{name}"), hook);
        out
    })
}

fn rules(chain: &str, link: &str, side: &Side) -> Vec<String> {
    let (subnet, v4) = (side.address.trunc(), side.address.addr().is_ipv4());
    let ip = if v4 { "ip" } else { "ip6" };
    match chain {
        "pstrt" if side.nat => {
            let how = side.nat_address.map_or("masquerade".to_owned(), |to| format!("snat {ip} to {to}"));
            let from = std::iter::once(subnet).chain(side.routes.iter().copied());
            from.map(|net| format!("{ip} saddr {net} {ip} daddr != {net} {how}")).collect()
        }
        "fwd" if side.firewall => {
            let (version, verdict) = (if v4 { 4 } else { 6 }, if side.routing { "accept" } else { "reject" });
            let one = |at: &str| format!("{ip} version {version} {at} \"{link}\" {verdict}");
            vec![one("oifname"), one("iifname")]
        }
        "in" | "out" if side.firewall => services(chain == "in", link, side, v4),
        _ => Vec::new(),
    }
}

/// Lets in what the bridge's own services need, and their answers out.
fn services(inward: bool, link: &str, side: &Side, v4: bool) -> Vec<String> {
    let (at, port) = if inward { ("iifname", "dport") } else { ("oifname", "sport") };
    let ip = if v4 { "ip version 4 " } else { "ip6 version 6 " };
    let mut rules: Vec<String> =
        ["tcp", "udp"].iter().map(|p| format!("{ip}{at} \"{link}\" {p} {port} 53 accept")).collect();
    if v4 {
        rules.push(format!("{at} \"{link}\" icmp type {{ 3, 11, 12 }} accept"));
        if side.dhcp {
            rules.push(format!("{ip}{at} \"{link}\" udp {port} 67 accept"));
        }
    } else {
        // Neighbours and routers find one another by these; without them there is no IPv6.
        let types = if inward { "1, 2, 3, 4, 133, 135, 136, 143" } else { "1, 2, 3, 4, 128, 134, 135, 136, 143" };
        rules.push(format!("{at} \"{link}\" icmpv6 type {{ {types} }} accept"));
        if side.dhcp {
            rules.push(format!("{ip}{at} \"{link}\" udp {port} 547 accept"));
        }
    }
    rules
}

/// What a device may use as its own address in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Anything: no filter.
    Any,
    /// Only this; none for nothing of this family.
    Only(Option<IpAddr>),
}

/// What a device of an instance may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Names the chains, as `project_instance.eth0`.
    pub label: String,
    /// The host's end of the device.
    pub host_name: String,
    /// The only MAC address it may use.
    pub hwaddr: Mac,
    /// IPv4 addresses it may use.
    pub ipv4: Allowed,
    /// IPv6 addresses it may use.
    pub ipv6: Allowed,
}

const FILTER_CHAINS: [(&str, &str); 2] = [
    ("in", "type filter hook input priority filter; policy accept;"),
    ("fwd", "type filter hook forward priority filter; policy accept;"),
];

/// Replaces the filter of a device.
pub fn device(filter: &Filter) -> String {
    let mut out = clear_device(&filter.label);
    let rules = filter_rules(filter);
    for (chain, hook) in FILTER_CHAINS {
        chain_of(&mut out, "bridge", &format!("{chain}.{}", filter.label), hook, &rules);
    }
    out
}

/// Removes the filter of a device, whether there is one or not.
pub fn clear_device(label: &str) -> String {
    FILTER_CHAINS.iter().fold(String::new(), |mut out, (chain, hook)| {
        gone(&mut out, "bridge", &format!("{chain}.{label}"), hook);
        out
    })
}

fn filter_rules(f: &Filter) -> Vec<String> {
    let from = format!("iifname \"{}\"", f.host_name);
    let mac = f.hwaddr;
    let hex = mac.to_string().replace(':', "");
    let mut rules = vec![
        format!("{from} ether saddr != {mac} drop"),
        format!("{from} ether type arp arp saddr ether != {mac} drop"),
        // A neighbour's announcement names the MAC address again, behind the option's two-byte head.
        format!("{from} ether type ip6 icmpv6 type 136 @nh,528,48 != 0x{hex} drop"),
    ];
    match f.ipv4 {
        Allowed::Any => {}
        Allowed::Only(None) => {
            rules.push(format!("{from} ether type {{ arp, ip }} drop"));
        }
        Allowed::Only(Some(ip)) => rules.extend([
            format!("{from} ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp dport 67 accept"),
            format!("{from} ether type arp arp saddr ip != {{ 0.0.0.0, {ip} }} drop"),
            format!("{from} ether type ip ip saddr != {ip} drop"),
        ]),
    }
    match f.ipv6 {
        Allowed::Any => {}
        Allowed::Only(None) => rules.push(format!("{from} ether type ip6 drop")),
        Allowed::Only(Some(ip)) => {
            let local = link_local(mac);
            rules.extend([
                format!("{from} ether type ip6 icmpv6 type 134 drop"),
                format!("{from} ether type ip6 ip6 saddr :: icmpv6 type 135 accept"),
                format!("{from} ether type ip6 ip6 saddr != {{ {local}, {ip} }} drop"),
            ]);
        }
    }
    rules
}

fn link_local(mac: Mac) -> IpAddr {
    let bits = (0xfe80_u128 << 112) | u128::from(mac.eui64());
    IpAddr::V6(bits.into())
}

/// Declaring a chain first makes deleting it right whether it was there or not.
fn gone(out: &mut String, family: &str, chain: &str, hook: &str) {
    let _ = writeln!(out, "add table {family} {TABLE}");
    let _ = writeln!(out, "add chain {family} {TABLE} {chain} {{ {hook} }}");
    let _ = writeln!(out, "flush chain {family} {TABLE} {chain}");
    let _ = writeln!(out, "delete chain {family} {TABLE} {chain}");
}

fn chain_of(out: &mut String, family: &str, chain: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(out, "add chain {family} {TABLE} {chain} {{ {hook} }}");
    for rule in rules {
        let _ = writeln!(out, "add rule {family} {TABLE} {chain} {rule}");
    }
}
