//! What links are like now, in the form that clients are told: of the host, and inside instances.

use std::collections::BTreeMap;

use api::instance::{NetworkAddress as StateAddress, NetworkCounters, NetworkInterface};
pub use api::network::{NetworkState, StateBridge, StateCounters, StateVlan};
use api::{Error, Result};
use host::{
    net::{Address, Link, Net},
    netns::Netns,
};

/// A link of the host that may or may not be a managed network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNetwork {
    /// Its name.
    pub name: String,
    /// `bridge`, `bond`, `vlan`, `physical`, `loopback` or `unknown`.
    pub kind: &'static str,
}

/// The links of this host that stand for themselves, in the order of their names: not the ends of instances' devices.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn host_networks() -> Result<Vec<HostNetwork>> {
    let links = Net::open()?.links()?;
    // The host's ends of instances' devices are called so.
    let of_instance = |l: &&Link| ["veth", "tap"].iter().any(|p| l.name.starts_with(p));
    let shown = links.iter().filter(|l| !of_instance(l));
    let mut out: Vec<_> = shown.map(|l| HostNetwork { name: l.name.clone(), kind: kind(l) }).collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn kind(link: &Link) -> &'static str {
    match link.kind.as_str() {
        _ if link.is_loopback() => "loopback",
        "bridge" => "bridge",
        "bond" => "bond",
        "vlan" => "vlan",
        "" => "physical",
        _ if link.on_bus => "physical",
        _ => "unknown",
    }
}

/// State of a link of this host.
///
/// # Errors
/// [`api::Kind::NotFound`] if there is none of that name.
pub fn network(name: &str) -> Result<NetworkState> {
    let links = Net::open()?.links()?;
    let link = links.iter().find(|l| l.name == name);
    let link = link.ok_or_else(|| Error::not_found(format!("Network interface \"{name}\" not found")))?;
    let name_of = |index: u32| links.iter().find(|l| l.index == index).map(|l| l.name.clone()).unwrap_or_default();
    let ports = || links.iter().filter(|l| l.master == link.index).map(|l| l.name.clone()).collect();
    let c = link.counters;
    Ok(NetworkState {
        addresses: addresses(link),
        counters: StateCounters {
            bytes_received: c.bytes_received,
            bytes_sent: c.bytes_sent,
            packets_received: c.packets_received,
            packets_sent: c.packets_sent,
        },
        hwaddr: link.mac(),
        mtu: link.mtu.into(),
        state: up_or_down(link),
        kind: link.type_name().to_owned(),
        bond: None,
        bridge: link.bridge.as_ref().map(|b| StateBridge {
            id: b.id.clone(),
            stp: b.stp,
            forward_delay: b.forward_delay.into(),
            vlan_default: if b.vlan_filtering { b.vlan_default.into() } else { 0 },
            vlan_filtering: b.vlan_filtering,
            upper_devices: ports(),
        }),
        vlan: link.vlan.map(|v| StateVlan { lower_device: name_of(link.parent), vid: v.id.into() }),
        ovn: None,
    })
}

/// The links of a running instance by name, given the id of a process in it.
///
/// # Errors
/// When the process is gone or its network namespace cannot be entered.
pub fn instance(pid: i32) -> Result<BTreeMap<String, NetworkInterface>> {
    let inside = Net::open_in(&Netns::of_pid(pid)?)?.links()?;
    let host = Net::open()?.links()?;
    let other_end = |l: &Link| {
        let pair = |h: &&Link| l.kind == "veth" && h.kind == "veth" && h.index == l.parent && h.parent == l.index;
        host.iter().find(pair).map(|h| h.name.clone()).unwrap_or_default()
    };
    Ok(inside.iter().map(|l| (l.name.clone(), inside_link(l, other_end(l)))).collect())
}

fn inside_link(link: &Link, host_name: String) -> NetworkInterface {
    let c = link.counters;
    NetworkInterface {
        addresses: addresses(link),
        counters: NetworkCounters {
            bytes_received: c.bytes_received,
            bytes_sent: c.bytes_sent,
            packets_received: c.packets_received,
            packets_sent: c.packets_sent,
            errors_received: c.errors_received,
            errors_sent: c.errors_sent,
            packets_dropped_outbound: c.dropped_outbound,
            packets_dropped_inbound: c.dropped_inbound,
        },
        hwaddr: link.mac(),
        host_name,
        mtu: link.mtu.into(),
        state: up_or_down(link),
        kind: link.type_name().to_owned(),
    }
}

fn addresses(link: &Link) -> Vec<StateAddress> {
    let one = |a: &Address| StateAddress {
        family: a.family().to_owned(),
        address: a.net.addr().to_string(),
        netmask: a.net.prefix_len().to_string(),
        scope: a.scope().to_owned(),
    };
    link.addresses.iter().map(one).collect()
}

fn up_or_down(link: &Link) -> String {
    if link.is_up() { "up" } else { "down" }.to_owned()
}
