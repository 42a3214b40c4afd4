//! Network devices of instances: making what [`incus_core::net::nic`] decided, and taking it away again.
//!
//! A device is made in three steps, so that a container's start and hot-plug share one path:
//!
//! 1. [`resolve`] decides, and says what is to be noted in the instance's configuration; nothing is done yet.
//! 2. [`prepare`] makes the links in the daemon's network namespace. What is handed over is [`Plug::link`]: liblxc
//!    moves it (`lxc.net.N.type = phys`, `.link`, `.name`, `.flags = up`), or [`plug`] does for a running instance.
//! 3. [`clean`] takes everything away, from whatever is left of it.
//!
//! Making and cleaning can be done again after a crash at any point.

use std::{io::ErrorKind, os::fd::AsFd};

use api::{Error, Result, error::Context};
use host::{
    net::{Change, Kind, Net, Peer, Place, sysctl},
    netns::Netns,
    nft,
};
pub use incus_core::net::nic::{Mode, Network, Nic, Request, running_notes, validate};
use incus_core::net::{Entropy, firewall, nic as decide};

use crate::network::Networks;

/// A link that waits in the daemon's network namespace to be moved into an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// Name of the device.
    pub device: String,
    /// Its name now.
    pub link: String,
    /// Its name inside the instance.
    pub name: String,
    /// Its MAC address, which it has already; empty for a physical link that keeps its own.
    pub hwaddr: String,
    /// Its MTU in bytes, which it has already; none for the kernel's choice.
    pub mtu: Option<u32>,
    /// What is to be noted beside [`Nic::volatile`]: what a physical link was like before.
    pub volatile: api::key::Config,
}

/// Decides all about a device, with randomness of the system; `None` if it is not plugged in.
///
/// # Errors
/// Says which option is unknown, wrong or cannot be honoured here.
pub fn resolve(request: &Request<'_>) -> Result<Option<Nic>> {
    let entropy: Entropy<'_> = &mut rand::random;
    decide::resolve(request, entropy)
}

/// Makes a device's links, rules, limits and fixed addresses. What an earlier attempt left behind is replaced.
///
/// # Errors
/// When the bridge or parent is missing, or the kernel refuses; what was made is removed again.
pub fn prepare(networks: &Networks, nic: &Nic) -> Result<Plug> {
    make(networks, nic).context(format!("Failed to start device \"{}\"", nic.device)).inspect_err(|_| {
        if let Err(e) = clean(networks, nic) {
            tracing::warn!(device = nic.label, "what was made of the device could not be removed: {e}");
        }
    })
}

/// Moves a prepared link into a running instance, given the id of a process in it, and sets it up there.
///
/// # Errors
/// When the instance has a link of that name, or has ended.
pub fn plug(plug: &Plug, pid: i32) -> Result<()> {
    let (net, namespace) = (Net::open()?, Netns::of_pid(pid)?);
    let inside = Net::open_in(&namespace)?;
    if inside.link(&plug.name)?.is_some() {
        let what = format!("The instance has a network interface \"{}\" already", plug.name);
        return Err(Error::new(api::Kind::Conflict, what));
    }
    let place = Some(Place::Netns(namespace.as_fd()));
    net.change(&plug.link, Change { rename: Some(&plug.name), place, ..Change::default() })?;
    Ok(inside.change(&plug.name, Change { up: Some(true), ..Change::default() })?)
}

/// Takes a device out of a running instance: a physical link comes back to the host, others vanish. [`clean`] follows.
///
/// # Errors
/// When the instance cannot be entered; a link that is not there any more is fine.
pub fn unplug(nic: &Nic, pid: i32) -> Result<()> {
    let inside = Net::open_in(&Netns::of_pid(pid)?)?;
    if inside.link(&nic.name)?.is_none() {
        return Ok(());
    }
    let Mode::Physical { .. } = nic.mode else {
        inside.delete(&nic.name)?;
        return Ok(());
    };
    let own = Netns::own()?;
    inside.change(&nic.name, Change { up: Some(false), ..Change::default() })?;
    let place = Some(Place::Netns(own.as_fd()));
    Ok(inside.change(&nic.name, Change { rename: Some(&nic.link), place, ..Change::default() })?)
}

/// Changes what can change while the instance runs: limits, the filter, whether the link is up, routes, fixed addresses.
///
/// # Errors
/// When the kernel refuses, or another device has the address.
pub fn update(networks: &Networks, old: &Nic, new: &Nic) -> Result<()> {
    let net = Net::open()?;
    if let Mode::Physical { .. } | Mode::Macvlan { .. } = new.mode {
        return Ok(());
    }
    remove_routes(&net, old, &|route| !new.routes.contains(route))?;
    if old.filter.is_some() && new.filter.is_none() {
        remove_filter(&old.label)?;
    }
    if (old.ingress, old.egress) != (new.ingress, new.egress) {
        net.set_limits(&new.host_name, new.ingress, new.egress)?;
    }
    net.change(&new.host_name, Change { up: Some(new.connected), ..Change::default() })?;
    finish(networks, &net, new)
}

/// Takes away everything of a device that is on the host; fine if nothing is left.
///
/// # Errors
/// When something cannot be removed; the rest is removed all the same.
pub fn clean(networks: &Networks, nic: &Nic) -> Result<()> {
    let net = Net::open()?;
    let mut done = vec![remove_routes(&net, nic, &|_| true), remove_filter(&nic.label)];
    if let Mode::Bridged { bridge, managed: true } = &nic.mode {
        done.push(networks.remove_host(bridge, &nic.label));
    }
    done.push(match &nic.mode {
        // It is the host's own; only its name was lent.
        Mode::Physical { vlan: None, .. } => Ok(()),
        Mode::Physical { .. } => remove_vlan(&net, &nic.host_name),
        Mode::Macvlan { parent, vlan, .. } => {
            let vlan = vlan.map(|id| decide::vlan_name(parent, id));
            let gone = net.delete(&nic.host_name).map(drop).map_err(Error::from);
            gone.and_then(|()| vlan.map_or(Ok(()), |v| remove_unused_vlan(&net, &v)))
        }
        Mode::Bridged { .. } | Mode::P2p => net.delete(&nic.host_name).map(drop).map_err(Error::from),
    });
    done.into_iter().collect()
}

fn make(networks: &Networks, nic: &Nic) -> Result<Plug> {
    let net = Net::open()?;
    let mut notes = api::key::Config::new();
    let hwaddr = nic.hwaddr.map(|m| m.0);
    match &nic.mode {
        Mode::Bridged { bridge, .. } => {
            let master = bridge_index(&net, bridge)?;
            let mtu = match nic.mtu {
                Some(mtu) => Some(mtu),
                None => net.link(bridge)?.map(|l| l.mtu),
            };
            make_pair(&net, nic, mtu, Some(master))?;
            net.set_port(&nic.host_name, nic.isolated, false)?;
            finish(networks, &net, nic)?;
        }
        Mode::P2p => {
            make_pair(&net, nic, nic.mtu, None)?;
            finish(networks, &net, nic)?;
        }
        Mode::Macvlan { parent, mode, vlan, gvrp } => {
            let (parent, created) = lower(&net, parent, *vlan, *gvrp)?;
            net.delete(&nic.host_name)?;
            let with = Change { hwaddr, mtu: nic.mtu, alias: Some(&nic.label), ..Change::default() };
            net.create(&nic.host_name, Kind::Macvlan { parent: &parent, mode }, with)?;
            notes.insert(format!("volatile.{}.last_state.created", nic.device), created.to_string());
        }
        Mode::Physical { parent, vlan, gvrp } => {
            let (link, created) = lower(&net, parent, *vlan, *gvrp)?;
            let now = net.link(&link)?.unwrap_or_default();
            let note = |key: &str| format!("volatile.{}.last_state.{key}", nic.device);
            notes.insert(note("created"), created.to_string());
            notes.insert(note("hwaddr"), now.mac());
            notes.insert(note("mtu"), now.mtu.to_string());
            net.change(&link, Change { up: Some(false), hwaddr, mtu: nic.mtu, ..Change::default() })?;
        }
    }
    Ok(Plug {
        device: nic.device.clone(),
        link: nic.link.clone(),
        name: nic.name.clone(),
        hwaddr: nic.hwaddr.map(|m| m.to_string()).unwrap_or_default(),
        mtu: nic.mtu,
        volatile: notes,
    })
}

fn bridge_index(net: &Net, bridge: &str) -> Result<u32> {
    match net.link(bridge)? {
        Some(link) if link.bridge.is_some() => Ok(link.index),
        Some(_) => Err(Error::bad_request(format!("Parent device \"{bridge}\" is no bridge"))),
        None => Err(Error::bad_request(format!("Parent device \"{bridge}\" doesn't exist"))),
    }
}

fn make_pair(net: &Net, nic: &Nic, mtu: Option<u32>, master: Option<u32>) -> Result<()> {
    // Left by a start that did not come to its end; the other end goes with it.
    net.delete(&nic.host_name)?;
    let peer = Peer { name: &nic.link, hwaddr: nic.hwaddr.map(|m| m.0), mtu };
    let with = Change { mtu, master, alias: Some(&nic.label), queue: nic.queue, ..Change::default() };
    net.create(&nic.host_name, Kind::Veth(peer), with)?;
    if nic.queue.is_some() {
        net.change(&nic.link, Change { queue: nic.queue, ..Change::default() })?;
    }
    if master.is_some() {
        // A port gets no addresses of its own on the bridge's wire.
        sysctl::set_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", nic.host_name), "1")?;
    }
    if nic.ingress.is_some() || nic.egress.is_some() {
        net.set_limits(&nic.host_name, nic.ingress, nic.egress)?;
    }
    Ok(net.change(&nic.host_name, Change { up: Some(nic.connected), ..Change::default() })?)
}

/// What is the same for a new and a changed device: filter, fixed addresses, routes.
fn finish(networks: &Networks, net: &Net, nic: &Nic) -> Result<()> {
    if let Some(filter) = &nic.filter {
        nft::apply(&firewall::device(filter))?;
    }
    if let (Mode::Bridged { bridge, managed: true }, Some(host)) = (&nic.mode, &nic.host) {
        networks.set_host(bridge, &nic.label, host)?;
    }
    if !nic.connected {
        return Ok(()); // nothing can be routed to a link that is down
    }
    nic.routes.iter().try_for_each(|route| Ok(net.add_route(*route, router(nic), None)?))
}

/// The link of the host over which an instance's subnets are reached.
fn router(nic: &Nic) -> &str {
    match &nic.mode {
        Mode::Bridged { bridge, .. } => bridge,
        Mode::P2p | Mode::Macvlan { .. } | Mode::Physical { .. } => &nic.host_name,
    }
}

fn remove_routes(net: &Net, nic: &Nic, which: &dyn Fn(&ipnet::IpNet) -> bool) -> Result<()> {
    for route in nic.routes.iter().filter(|r| which(r)) {
        match net.remove_route(*route, router(nic)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

fn remove_filter(label: &str) -> Result<()> {
    let chains = match nft::chains("bridge", firewall::TABLE) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()), // without nft there are no rules either
        chains => chains?,
    };
    let own = |chain: &String| chain.split_once('.').is_some_and(|(_, of)| of == label);
    if !chains.iter().any(own) {
        return Ok(());
    }
    let mut text = firewall::clear_device(label);
    if chains.iter().all(own) {
        text += &format!("delete table bridge {}\n", firewall::TABLE);
    }
    Ok(nft::apply(&text)?)
}

/// The link underneath, and whether it was made just now.
fn lower(net: &Net, parent: &str, vlan: Option<u16>, gvrp: bool) -> Result<(String, bool)> {
    if net.link(parent)?.is_none() {
        return Err(Error::bad_request(format!("Parent device \"{parent}\" doesn't exist")));
    }
    match vlan {
        None => Ok((parent.to_owned(), false)),
        Some(id) => make_vlan(net, parent, id, gvrp),
    }
}

/// Words on the VLANs that the daemon made, so that it removes no others.
const MADE: &str = "made by incusd";

/// The link of a VLAN, and whether it was made just now.
pub(crate) fn make_vlan(net: &Net, parent: &str, id: u16, gvrp: bool) -> Result<(String, bool)> {
    let name = decide::vlan_name(parent, id);
    if net.link(&name)?.is_some() {
        return Ok((name, false));
    }
    let with = Change { up: Some(true), alias: Some(MADE), ..Change::default() };
    net.create(&name, Kind::Vlan { parent, id, gvrp }, with)?;
    Ok((name, true))
}

/// Removes a VLAN that the daemon made; fine if it is gone or somebody else's.
pub(crate) fn remove_vlan(net: &Net, name: &str) -> Result<()> {
    if net.link(name)?.is_some_and(|l| l.alias == MADE) {
        net.delete(name)?;
    }
    Ok(())
}

fn remove_unused_vlan(net: &Net, name: &str) -> Result<()> {
    let links = net.links()?;
    let index = links.iter().find(|l| l.name == name).map_or(0, |l| l.index);
    if links.iter().any(|l| l.parent == index && l.kind == "macvlan") { Ok(()) } else { remove_vlan(net, name) }
}

#[cfg(test)]
mod tests;
