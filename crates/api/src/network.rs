//! `/1.0/networks`.

use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, List, Listed, Sync, encode, in_project};
use crate::instance::NetworkAddress;
use crate::key::Config;

/// A network that is managed, or a link that a member has anyway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Its configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Its name.
    pub name: String,
    /// `bridge`, `macvlan` or `physical`; of a link also `loopback`, `bond`, `vlan` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
    /// URLs of what is connected to it.
    pub used_by: Vec<String>,
    /// False for a link that nobody asked this server for.
    pub managed: bool,
    /// `Created`, `Pending`, `Errored` or `Unavailable`; empty for a link.
    pub status: String,
    /// Names of the members that have it; nothing for a link.
    pub locations: Option<Vec<String>>,
    /// The project that it lies in.
    pub project: String,
}

impl Listed for Network {
    fn url(&self) -> String {
        in_project(format!("/1.0/networks/{}", encode(&self.name)), &self.project)
    }
}

/// Body of `PUT` of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NetworkPut {
    pub config: Config,
    pub description: String,
}

/// Body of `POST` of a network: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NetworkPost {
    pub name: String,
}

/// Body of `POST /1.0/networks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NetworksPost {
    pub config: Config,
    pub description: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// An address that somebody has on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkLease {
    /// What the client is called.
    pub hostname: String,
    /// Its MAC address.
    pub hwaddr: String,
    /// The address.
    pub address: String,
    /// `dynamic`, `static` or `gateway`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The member that gave it.
    pub location: String,
}

/// State of a network (`GET /1.0/networks/{name}/state`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct NetworkState {
    pub addresses: Vec<NetworkAddress>,
    pub counters: StateCounters,
    pub hwaddr: String,
    pub mtu: i64,
    pub state: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Never set: there is nothing to be told about bonds yet.
    pub bond: Option<serde_json::Value>,
    pub bridge: Option<StateBridge>,
    pub vlan: Option<StateVlan>,
    /// Never set: there are no such networks.
    pub ovn: Option<serde_json::Value>,
}

/// Traffic of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StateCounters {
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub packets_received: u64,
    pub packets_sent: u64,
}

/// What is particular to a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StateBridge {
    pub id: String,
    pub stp: bool,
    pub forward_delay: u64,
    pub vlan_default: u64,
    pub vlan_filtering: bool,
    /// The ports.
    pub upper_devices: Vec<String>,
}

/// What is particular to a VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StateVlan {
    pub lower_device: String,
    pub vid: u64,
}

crate::endpoints! {
    /// List the networks, and the links that this member has beside them.
    LIST = GET "/1.0/networks" -> List<Network>, Project, At::Any, "network";
    /// Create a network on all members; with `?target=`, say how it is to be on that one.
    CREATE = POST "/1.0/networks" (NetworksPost) -> Sync<()>, Admin, At::Any, "network";
    /// One network; with `?target=`, with that member's own configuration.
    GET = GET "/1.0/networks/{name}" -> Sync<Network>, Project, At::Any, "network";
    /// Replace the configuration of a network; with `?target=`, that member's own part of it.
    PUT = PUT "/1.0/networks/{name}" (NetworkPut) -> Sync<()>, Admin, At::Any, "network";
    /// Change some of the configuration of a network.
    PATCH = PATCH "/1.0/networks/{name}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "network";
    /// Rename a network that nothing uses.
    RENAME = POST "/1.0/networks/{name}" (NetworkPost) -> Sync<()>, Admin, At::Any, "network";
    /// Delete a network that nothing uses.
    DELETE = DELETE "/1.0/networks/{name}" -> Sync<()>, Admin, At::Any, "network";
    /// What the network's link is like on a member.
    STATE = GET "/1.0/networks/{name}/state" -> Sync<NetworkState>, Project, At::Target, "network_state";
    /// The addresses that are in use on a network, on all members.
    LEASES = GET "/1.0/networks/{name}/leases" -> Sync<Vec<NetworkLease>>, Project, At::Any, "network_leases";
}
