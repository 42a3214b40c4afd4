//! What clients see of networks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::network::{Network, NetworkLease, NetworkPut, NetworkState};
use api::{Error, Kind, Result};
use db::Tx;
use db::networks::NetworkType;
use db::projects::{DEFAULT, Feature};
use db::value::Progress;
use drivers::network::host_networks;
use futures::future::join_all;
use incus_core::net::bridge::Bridge;
use incus_core::net::nic::vlan_name;

use super::named;
use crate::blocking;
use crate::edge::Cx;
use crate::services::placed;
use crate::state::Daemon;

/// How long another member may take to tell of its leases.
const OTHERS: Duration = Duration::from_secs(2);

/// A managed network; with the own configuration of `member`.
pub fn shown(tx: &Tx<'_>, network: db::networks::Network, member: Option<i64>) -> Result<Network> {
    let place = member.and_then(|id| network.state_on(id));
    let unavailable = network.state == Progress::Created && place == Some(Progress::Errored);
    Ok(Network {
        config: member.map_or_else(|| network.config.clone(), |id| network.config_on(id)),
        used_by: db::used_by::network(tx, &network.project, &network.name)?,
        kind: network.kind.as_str().into(),
        managed: true,
        status: if unavailable { "Unavailable" } else { placed::status(network.state) }.into(),
        locations: Some(network.locations()),
        description: network.description,
        name: network.name,
        project: network.project,
    })
}

/// A link that this member has anyway.
fn link(tx: &Tx<'_>, name: &str, kind: &str) -> Result<Network> {
    Ok(Network {
        name: name.into(),
        kind: kind.into(),
        used_by: db::used_by::network(tx, DEFAULT, name)?,
        project: DEFAULT.into(),
        ..Network::default()
    })
}

pub async fn list(cx: Cx, (): ()) -> Result<Vec<Network>> {
    let (project, all) = (cx.project().to_owned(), cx.flag("all-projects"));
    let member = placed::whose(&cx).await?;
    let links = blocking::run(host_networks).await?;
    cx.daemon
        .view(move |tx| {
            let holder = db::projects::holder(tx, &project, Feature::Networks)?;
            let managed = db::networks::list(tx, None)?;
            let links = links.iter().filter(|l| (all || holder == DEFAULT) && managed.iter().all(|n| n.name != l.name));
            let links = links.map(|l| link(tx, &l.name, l.kind)).collect::<Result<Vec<_>>>()?;
            let managed = managed.into_iter().filter(|n| all || n.project == holder);
            let mut found = managed.map(|n| shown(tx, n, member)).collect::<Result<Vec<_>>>()?;
            found.extend(links);
            Ok(found)
        })
        .await
}

/// The managed network that the request is about.
async fn find(cx: &Cx) -> Result<Network> {
    let (project, name, member) = (cx.project().to_owned(), cx.arg(0).to_owned(), placed::whose(cx).await?);
    cx.daemon.view(move |tx| shown(tx, named(tx, &project, &name)?, member)).await
}

/// What of a network can be changed.
pub fn changeable(network: &Network) -> NetworkPut {
    NetworkPut { config: network.config.clone(), description: network.description.clone() }
}

pub async fn get(cx: Cx, (): ()) -> Result<Network> {
    let network = match find(&cx).await {
        Err(e) if e.kind == Kind::NotFound => unmanaged(&cx).await?.ok_or(e)?,
        found => found?,
    };
    cx.show_etag(&changeable(&network));
    Ok(network)
}

/// The link of this member that the request is about, if there is one.
async fn unmanaged(cx: &Cx) -> Result<Option<Network>> {
    let name = cx.arg(0).to_owned();
    let Some(found) = blocking::run(host_networks).await?.into_iter().find(|l| l.name == name) else { return Ok(None) };
    let project = cx.project().to_owned();
    cx.daemon
        .view(move |tx| {
            let there = db::projects::holder(tx, &project, Feature::Networks)? == DEFAULT;
            there.then(|| link(tx, &found.name, found.kind)).transpose()
        })
        .await
}

pub async fn state(cx: Cx, (): ()) -> Result<NetworkState> {
    let (project, name, own) = (cx.project().to_owned(), cx.arg(0).to_owned(), cx.daemon.member_id());
    let link = cx
        .daemon
        .view(move |tx| match named(tx, &project, &name) {
            Ok(network) => Ok(link_of(&network, own)),
            Err(e) if e.kind == Kind::NotFound => Ok(name.clone()),
            Err(e) => Err(e),
        })
        .await?;
    blocking::run(move || drivers::network::state::network(&link)).await
}

/// The link that stands for a network on a member.
fn link_of(network: &db::networks::Network, member: i64) -> String {
    let config = network.config_on(member);
    let value = |key: &str| config.get(key).map_or("", String::as_str);
    match (network.kind, value("vlan").parse()) {
        (NetworkType::Bridge | NetworkType::Ovn, _) => network.name.clone(),
        (_, Ok(vlan)) => vlan_name(value("parent"), vlan),
        _ => value("parent").to_owned(),
    }
}

pub async fn leases(cx: Cx, (): ()) -> Result<Vec<NetworkLease>> {
    let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
    let wanted = name.clone();
    let (network, only) = cx
        .daemon
        .view(move |tx| {
            let network = named(tx, &project, &wanted)?;
            let only = if network.project == project { None } else { Some(cards(tx, &project)?) };
            Ok((network, only))
        })
        .await?;
    if network.kind != NetworkType::Bridge {
        return Err(Error::bad_request(format!("Networks of type \"{}\" give no leases", network.kind)));
    }
    let mut all = own_leases(&cx.daemon, &name).await?;
    if cx.caller.protocol == "cluster" {
        return Ok(all);
    }
    if cx.daemon.clustered() {
        all.extend(of_others(&cx, &name).await);
    }
    if let Some(only) = only {
        all.retain(|l| only.contains(&l.hwaddr));
        return Ok(all);
    }
    let bridge = Bridge::parse(&network.name, &network.config_on(cx.daemon.member_id()))?;
    let gateways = bridge.sides().map(|side| NetworkLease {
        hostname: format!("{}.gw", network.name),
        address: side.address.addr().to_string(),
        kind: "gateway".into(),
        ..NetworkLease::default()
    });
    Ok(gateways.chain(all).collect())
}

/// The MAC addresses of a project's instances.
fn cards(tx: &Tx<'_>, project: &str) -> Result<BTreeSet<String>> {
    let which = db::instances::Filter { project: Some(project), ..db::instances::Filter::default() };
    let mut all = BTreeSet::new();
    for instance in db::instances::list(tx, which)? {
        let own = instance.config.iter().filter(|(k, _)| k.starts_with("volatile.") && k.ends_with(".hwaddr"));
        all.extend(own.map(|(_, mac)| mac.to_lowercase()));
        all.extend(instance.devices.values().filter_map(|d| d.get("hwaddr")).map(|mac| mac.to_lowercase()));
    }
    Ok(all)
}

/// The addresses that this member gave, and those that it keeps for instances.
async fn own_leases(daemon: &Arc<Daemon>, name: &str) -> Result<Vec<NetworkLease>> {
    let (networks, name) = (daemon.networks.clone(), name.to_owned());
    let location = daemon.name();
    let (given, kept) = blocking::run(move || Ok((networks.leases(&name)?, networks.hosts(&name)?))).await?;
    let lease = |hostname: String, hwaddr: String, address: String, kind: &str| NetworkLease {
        hostname,
        hwaddr,
        address,
        kind: kind.into(),
        location: location.clone(),
    };
    let mut all = Vec::new();
    for (_, host) in kept {
        for address in [host.ipv4, host.ipv6].into_iter().flatten() {
            let hostname = host.name.clone().unwrap_or_default();
            all.push(lease(hostname, host.hwaddr.to_string(), address.to_string(), "static"));
        }
    }
    for given in given {
        let address = given.address.to_string();
        if !all.iter().any(|l| l.address == address) {
            all.push(lease(given.hostname, given.hwaddr, address, "dynamic"));
        }
    }
    Ok(all)
}

/// What the other members gave; one that does not answer at once is left out.
async fn of_others(cx: &Cx, name: &str) -> Vec<NetworkLease> {
    let daemon = &cx.daemon;
    let snapshot = daemon.snapshot();
    let path = api::endpoint::fill(api::network::LEASES.info.path, &[name]);
    let path = api::endpoint::in_project(path, cx.project());
    let others = snapshot.members.iter().filter(|m| m.raft_id != Some(daemon.raft_id()));
    let asked = others.filter(|m| daemon.must_be_online(m, &snapshot).is_ok()).map(|member| async {
        let remote = daemon.remote(&member.address).ok()?;
        let answer = tokio::time::timeout(OTHERS, remote.json("GET", &path, None)).await.ok()?.ok()?;
        serde_json::from_value::<Vec<NetworkLease>>(answer.metadata).ok()
    });
    join_all(asked).await.into_iter().flatten().flatten().collect()
}
