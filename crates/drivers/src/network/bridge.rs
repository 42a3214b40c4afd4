//! The managed bridge.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path};

use api::{Error, Result, error::Context, key::Config};
use host::{
    net::{Change, Kind, Link, Net, sysctl},
    nft,
};
use incus_core::net::{
    Entropy,
    bridge::{self, Bridge, DEFAULT_MTU, External, Side},
    dnsmasq::{Files, config as dnsmasq_config},
    firewall,
    mac::Mac,
};
use ipnet::IpNet;

use super::{Definition, Driver, Networks, dnsmasq, lock};

/// The driver.
pub(super) struct Bridged;

impl Driver for Bridged {
    fn validate(&self, name: &str, config: &Config) -> Result<()> {
        Bridge::parse(name, config).map(drop)
    }

    fn fill(&self, config: &mut Config, taken: &[IpNet], entropy: Entropy<'_>) -> Result<()> {
        bridge::fill(config, taken, entropy)
    }

    fn create(&self, _: &Networks, new: &Definition) -> Result<()> {
        match Net::open()?.link(&new.name)? {
            Some(_) => Err(Error::bad_request(format!("Network interface \"{}\" already exists", new.name))),
            None => Ok(()),
        }
    }

    fn start(&self, cx: &Networks, def: &Definition) -> Result<()> {
        let bridge = Bridge::parse(&def.name, &def.config)?;
        let net = Net::open()?;
        check_subnets(&net, &bridge)?;
        make_link(&net, cx, &bridge)?;
        set_sysctls(&bridge)?;
        set_addresses(&net, &bridge)?;
        net.change(&bridge.name, Change { up: Some(true), ..Change::default() })?;
        bridge.external.iter().try_for_each(|e| add_external(&net, &bridge.name, e))?;
        for route in bridge.sides().flat_map(|s| &s.routes) {
            net.add_route(*route, &bridge.name, None)?;
        }
        set_rules(&bridge)?;
        serve_names(cx, &bridge)
    }

    fn update(&self, cx: &Networks, old: &Definition, new: &Definition) -> Result<()> {
        // What was stored may have become unreadable to this version; then there is nothing to compare with.
        if let Ok(was) = Bridge::parse(&old.name, &old.config) {
            let now = Bridge::parse(&new.name, &new.config)?;
            let net = Net::open()?;
            let kept: Vec<_> = now.sides().flat_map(|s| &s.routes).collect();
            for route in was.sides().flat_map(|s| &s.routes).filter(|r| !kept.contains(r)) {
                net.remove_route(*route, &was.name)?;
            }
            for port in was.external.iter().filter(|e| !now.external.contains(e)) {
                remove_external(&net, &was.name, port)?;
            }
        }
        self.start(cx, new)
    }

    fn stop(&self, cx: &Networks, def: &Definition) -> Result<()> {
        let net = Net::open()?;
        stop_names(cx, &def.name)?;
        clear_rules(&def.name)?;
        if let Ok(bridge) = Bridge::parse(&def.name, &def.config) {
            bridge.external.iter().try_for_each(|e| remove_external(&net, &bridge.name, e))?;
        }
        if net.link(&def.name)?.is_some_and(|l| l.bridge.is_some()) {
            net.delete(&def.name)?;
        }
        Ok(())
    }
}

/// Refuses a subnet that another link of this host is in, before two links answer for it.
fn check_subnets(net: &Net, bridge: &Bridge) -> Result<()> {
    let links = net.links()?;
    let others = links.iter().filter(|l| l.name != bridge.name);
    let taken = others
        .flat_map(|l| l.addresses.iter().filter(|a| a.scope() == "global").map(|a| (l.name.as_str(), a.net.trunc())));
    bridge.check_overlap(taken)
}

fn make_link(net: &Net, cx: &Networks, bridge: &Bridge) -> Result<()> {
    let name = bridge.name.as_str();
    let mac = bridge.hwaddr.unwrap_or_else(|| Mac::derived(&[&cx.seed, name]));
    let mtu = bridge.mtu.unwrap_or(DEFAULT_MTU);
    match net.link(name)? {
        Some(link) if link.bridge.is_none() => {
            return Err(Error::bad_request(format!("Network interface \"{name}\" already exists and is no bridge")));
        }
        Some(link) => {
            // A bridge that was never given an MTU takes that of its ports, so it is always set.
            let hwaddr = Some(mac.0).filter(|m| link.hwaddr != m);
            net.change(name, Change { hwaddr, mtu: Some(mtu), ..Change::default() })?;
        }
        None => net.create(name, Kind::Bridge, Change { hwaddr: Some(mac.0), mtu: Some(mtu), ..Change::default() })?,
    }
    Ok(net.set_multicast_snooping(name, bridge.multicast_snooping)?)
}

/// The host does not listen to routers on its own bridge, and forwards where the bridge routes.
fn set_sysctls(bridge: &Bridge) -> Result<()> {
    let own = |key: &str| format!("net/ipv6/conf/{}/{key}", bridge.name);
    let off = if bridge.ipv6.is_some() { "0" } else { "1" };
    let there = sysctl::set_if_there(&own("disable_ipv6"), off)?;
    if bridge.ipv6.is_some() && !there {
        return Err(Error::bad_request("IPv6 is not available on this server, set \"ipv6.address\" to \"none\""));
    }
    for key in ["autoconf", "accept_ra", "accept_dad"] {
        sysctl::set_if_there(&own(key), "0")?;
    }
    if bridge.ipv4.as_ref().is_some_and(|s| s.routing) {
        sysctl::set("net/ipv4/ip_forward", "1")?;
    }
    if bridge.ipv6.as_ref().is_some_and(|s| s.routing) {
        forward_ipv6()?;
    }
    Ok(())
}

/// A host that forwards no longer listens to routers, unless told to do so all the same: its links that did must
/// go on, or it would lose its own way out.
fn forward_ipv6() -> Result<()> {
    let all = "net/ipv6/conf/all/forwarding";
    if sysctl::get(all)? == "1" {
        return Ok(());
    }
    for link in Net::open()?.links()? {
        let key = format!("net/ipv6/conf/{}/accept_ra", link.name);
        if sysctl::get(&key).is_ok_and(|v| v == "1") {
            sysctl::set_if_there(&key, "2")?;
        }
    }
    Ok(sysctl::set(all, "1")?)
}

fn set_addresses(net: &Net, bridge: &Bridge) -> Result<()> {
    let wanted: Vec<IpNet> = bridge.sides().map(|s| s.address).collect();
    let link = net.link(&bridge.name)?.ok_or_else(|| Error::internal("the bridge vanished while it was made"))?;
    for address in link.addresses.iter().filter(|a| a.scope() != "link" && !wanted.contains(&a.net)) {
        net.remove_address(&bridge.name, address.net)?;
    }
    for address in wanted.iter().filter(|w| !link.addresses.iter().any(|a| a.net == **w)) {
        net.add_address(&bridge.name, *address)?;
    }
    Ok(())
}

fn add_external(net: &Net, bridge: &str, external: &External) -> Result<()> {
    let name = external.link.as_str();
    let refused = |why: &str| Err(Error::bad_request(format!("Cannot bridge interface \"{name}\": {why}")));
    let link = match (net.link(name)?, &external.vlan) {
        (Some(link), _) => link,
        (None, None) => return refused("there is no such interface"),
        (None, Some((parent, id))) => {
            net.create(name, Kind::Vlan { parent, id: *id, gvrp: false }, Change::default())?;
            net.link(name)?.unwrap_or_default()
        }
    };
    let master = net.index(bridge)?;
    match link.master {
        m if m == master => {}
        0 if is_configured(&link) => return refused("only unconfigured network interfaces can be bridged"),
        0 => {}
        _ => return refused("it belongs to another bridge or bond already"),
    }
    Ok(net.change(name, Change { master: Some(master), up: Some(true), ..Change::default() })?)
}

fn is_configured(link: &Link) -> bool {
    link.addresses.iter().any(|a| a.scope() == "global")
}

fn remove_external(net: &Net, bridge: &str, external: &External) -> Result<()> {
    let Some(link) = net.link(&external.link)? else { return Ok(()) };
    let ours = net.link(bridge)?.is_some_and(|b| b.index == link.master);
    if ours && external.vlan.is_some() {
        net.delete(&external.link)?;
    } else if ours {
        net.change(&external.link, Change { master: Some(0), ..Change::default() })?;
    }
    Ok(())
}

fn set_rules(bridge: &Bridge) -> Result<()> {
    let needed = |s: &Side| s.nat || s.firewall;
    if bridge.sides().any(needed) {
        return Ok(nft::apply(&firewall::network(bridge))?);
    }
    clear_rules(&bridge.name)
}

fn clear_rules(name: &str) -> Result<()> {
    let chains = match nft::chains("inet", firewall::TABLE) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()), // without nft there are no rules either
        chains => chains?,
    };
    let own = |chain: &String| chain.split_once('.').is_some_and(|(_, of)| of == name);
    let mut text = String::new();
    if chains.iter().any(own) {
        text += &firewall::clear_network(name);
    }
    if !chains.is_empty() && chains.iter().all(own) {
        text += &format!("delete table inet {}\n", firewall::TABLE);
    }
    if text.is_empty() { Ok(()) } else { Ok(nft::apply(&text)?) }
}

fn serve_names(cx: &Networks, bridge: &Bridge) -> Result<()> {
    if bridge.sides().next().is_none() {
        return stop_names(cx, &bridge.name);
    }
    fs::create_dir_all(&cx.logs)?;
    let job = job(cx, &bridge.name)?;
    let log = cx.logs.join(format!("dnsmasq.{}.log", bridge.name));
    let user = unprivileged_user(&job.dir);
    let text = dnsmasq_config(
        bridge,
        Files {
            pid: text(&job.pid_file)?,
            leases: text(&job.dir.join("dnsmasq.leases"))?,
            hosts: text(&cx.hosts_dir(&bridge.name))?,
            log: text(&log)?,
            user,
        },
    );
    let mut watched = lock(&cx.dnsmasq);
    if let Some(server) = watched.get(&bridge.name)
        && server.serves(&text)
    {
        server.reload();
        return Ok(());
    }
    // Letting go of the former watcher before its process is replaced keeps it from being started again.
    drop(watched.remove(&bridge.name));
    let server = dnsmasq::Watched::start(job, text).context("Failed to start the DNS and DHCP server")?;
    watched.insert(bridge.name.clone(), server);
    Ok(())
}

fn stop_names(cx: &Networks, name: &str) -> Result<()> {
    drop(lock(&cx.dnsmasq).remove(name));
    Ok(dnsmasq::stop(&job(cx, name)?)?)
}

fn job(cx: &Networks, name: &str) -> Result<dnsmasq::Job> {
    let dir = std::path::absolute(cx.dir_of(name))?;
    Ok(dnsmasq::Job { network: name.to_owned(), pid_file: dir.join("dnsmasq.pid"), dir })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::internal(format!("the path \"{}\" is not UTF-8", path.display())))
}

/// Whom the server runs as once its sockets are open. It reads the fixed addresses again later, so whoever it is must
/// come by the folders; else it stays root.
fn unprivileged_user(dir: &Path) -> &'static str {
    let passable = |d: &Path| fs::metadata(d).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    if !dir.ancestors().all(passable) {
        return "root";
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let there = |name: &&str| users.lines().any(|l| l.split(':').next() == Some(name));
    ["incus", "nobody"].into_iter().find(there).unwrap_or("root")
}
