//! `/1.0/instances`: containers and virtual machines, their state and their snapshots.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::certificate::AccessEntry;
use crate::endpoint::{Allow::*, At, Background, List, Listed, Sync, encode, in_project};
use crate::key::Config;
use crate::profile::Devices;

/// An instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Architecture, as `x86_64`.
    pub architecture: String,
    /// Its own configuration.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// True if it is deleted when it stops.
    pub ephemeral: bool,
    /// Names of its profiles, in the order in which they apply.
    pub profiles: Vec<String>,
    /// True if its memory is stored while it is stopped.
    pub stateful: bool,
    /// For people.
    pub description: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its configuration with that of its profiles.
    pub expanded_config: Config,
    /// Its devices with those of its profiles.
    pub expanded_devices: Devices,
    /// Its name.
    pub name: String,
    /// Name of its state, as `Running`.
    pub status: String,
    /// Number of its state.
    pub status_code: i64,
    /// When it was last started.
    pub last_used_at: Timestamp,
    /// Name of the member that holds it.
    pub location: String,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its project.
    pub project: String,
    /// What only the whole has: with `?recursion=2`, or `?recursion=1` of one instance.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub more: Option<Box<More>>,
}

/// What an instance shows when all of it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct More {
    /// Backups; there are none.
    pub backups: Option<Vec<serde_json::Value>>,
    /// Its state.
    pub state: Option<InstanceState>,
    /// Its snapshots, oldest first.
    pub snapshots: Option<Vec<InstanceSnapshot>>,
}

impl Listed for Instance {
    fn url(&self) -> String {
        in_project(format!("/1.0/instances/{}", encode(&self.name)), &self.project)
    }
}

/// Body of `PUT` of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstancePut {
    pub architecture: String,
    pub config: Config,
    pub devices: Devices,
    pub ephemeral: bool,
    pub profiles: Option<Vec<String>>,
    /// The name of a snapshot that it is to be put back to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
    pub stateful: bool,
    pub description: String,
}

/// Body of `POST /1.0/instances`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstancesPost {
    pub architecture: String,
    pub config: Config,
    pub devices: Devices,
    pub ephemeral: bool,
    /// `None`: the profile `default`.
    pub profiles: Option<Vec<String>>,
    pub stateful: bool,
    pub description: String,
    /// Empty: the server thinks of one.
    pub name: String,
    pub source: InstanceSource,
    /// As `c2.micro`: limits in the words of public clouds.
    pub instance_type: String,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True if it is started at once.
    pub start: bool,
}

/// What a new instance is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstanceSource {
    /// `image`, `migration`, `copy` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    pub certificate: String,
    pub alias: String,
    pub fingerprint: String,
    /// Properties that the wanted image has.
    pub properties: Option<Config>,
    pub server: String,
    pub secret: String,
    pub protocol: String,
    #[serde(rename = "base-image")]
    pub base_image: String,
    pub mode: String,
    pub operation: String,
    pub secrets: Option<BTreeMap<String, String>>,
    /// The instance, or `instance/snapshot`, that is copied.
    pub source: String,
    pub live: bool,
    pub instance_only: bool,
    pub refresh: bool,
    pub refresh_exclude_older: bool,
    /// The project of `source`.
    pub project: String,
    pub allow_inconsistent: bool,
}

/// Body of `POST` of an instance: it is renamed, or moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstancePost {
    pub name: String,
    /// True if it moves: to the member of `?target=`, another pool or another project.
    pub migration: bool,
    pub live: bool,
    pub instance_only: bool,
    /// Where another server waits for it; not for moves inside of a cluster.
    pub target: Option<serde_json::Value>,
    pub pool: String,
    pub project: String,
    pub allow_inconsistent: bool,
    #[serde(alias = "Config")]
    pub config: Option<Config>,
    #[serde(alias = "Devices")]
    pub devices: Option<Devices>,
    #[serde(alias = "Profiles")]
    pub profiles: Option<Vec<String>>,
}

/// What an instance is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceState {
    /// Name of its state.
    pub status: String,
    /// Number of its state.
    pub status_code: i64,
    /// Usage by disk device.
    pub disk: Option<BTreeMap<String, DiskState>>,
    /// Memory.
    pub memory: MemoryState,
    /// Its network interfaces, by their name inside.
    pub network: Option<BTreeMap<String, NetworkInterface>>,
    /// Process id of its init on the host; 0 while it is stopped.
    pub pid: i64,
    /// How many processes it has.
    pub processes: i64,
    /// Processor time.
    pub cpu: CpuState,
    /// When it was started.
    pub started_at: Timestamp,
    /// What a virtual machine's agent tells.
    pub os_info: Option<serde_json::Value>,
}

/// How full a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// Bytes; -1 if the pool cannot tell.
    pub usage: i64,
    /// Bytes; 0 for no limit.
    pub total: i64,
}

/// Memory of an instance, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MemoryState {
    pub usage: i64,
    pub usage_peak: i64,
    /// Its limit, or what the machine has.
    pub total: i64,
    pub swap_usage: i64,
    pub swap_usage_peak: i64,
}

/// Processor time of an instance, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// Used since its start.
    pub usage: i64,
    /// What it may use in a second.
    pub allocated_time: i64,
}

/// A network interface inside of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NetworkInterface {
    pub addresses: Vec<NetworkAddress>,
    pub counters: NetworkCounters,
    pub hwaddr: String,
    /// Its other end on the host.
    pub host_name: String,
    pub mtu: i64,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast`, `loopback`, `point-to-point` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An address of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NetworkAddress {
    /// `inet` or `inet6`.
    pub family: String,
    pub address: String,
    /// Length of the prefix.
    pub netmask: String,
    /// `global`, `link` or `local`.
    pub scope: String,
}

/// What went through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NetworkCounters {
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub packets_received: u64,
    pub packets_sent: u64,
    pub errors_received: u64,
    pub errors_sent: u64,
    pub packets_dropped_outbound: u64,
    pub packets_dropped_inbound: u64,
}

/// Body of `PUT` of an instance's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStatePut {
    /// `start`, `stop`, `restart`, `freeze` or `unfreeze`.
    pub action: String,
    /// Seconds that a clean stop may take; -1 for ever.
    pub timeout: i64,
    /// By force.
    pub force: bool,
    /// With its memory.
    pub stateful: bool,
}

/// Body of `PUT /1.0/instances`: all instances of the project change their state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstancesPut {
    pub state: Option<InstanceStatePut>,
}

/// A snapshot of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceSnapshot {
    /// When it is removed by itself.
    pub expires_at: Timestamp,
    /// Architecture.
    pub architecture: String,
    /// The configuration that the instance had.
    pub config: Config,
    /// When it was taken.
    pub created_at: Timestamp,
    /// For people.
    pub description: String,
    /// The devices that the instance had.
    pub devices: Devices,
    /// Whether the instance is deleted when it stops.
    pub ephemeral: bool,
    /// With what the profiles add.
    pub expanded_config: Config,
    /// With what the profiles add.
    pub expanded_devices: Devices,
    /// Always never: snapshots are not started.
    pub last_used_at: Timestamp,
    /// Its name, without that of the instance.
    pub name: String,
    /// Names of the instance's profiles.
    pub profiles: Vec<String>,
    /// True if it has the memory.
    pub stateful: bool,
    /// Bytes; -1 if the pool cannot tell.
    pub size: i64,
    /// The instance and its project, for the URL.
    #[serde(skip)]
    pub of: (String, String),
}

impl Listed for InstanceSnapshot {
    fn url(&self) -> String {
        let (project, instance) = &self.of;
        let url = format!("/1.0/instances/{}/snapshots/{}", encode(instance), encode(&self.name));
        in_project(url, project)
    }
}

/// Body of `POST` of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstanceSnapshotsPost {
    /// Empty: by the instance's pattern.
    pub name: String,
    pub stateful: bool,
    pub expires_at: Option<Timestamp>,
}

/// Body of `PUT` of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstanceSnapshotPut {
    pub expires_at: Option<Timestamp>,
}

/// Body of `POST` of a snapshot: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstanceSnapshotPost {
    pub name: String,
    pub migration: bool,
    pub live: bool,
}

/// Body of `POST` of a rebuild.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InstanceRebuildPost {
    pub source: InstanceSource,
}

crate::endpoints! {
    /// List the instances; with `?recursion=2`, with their state and snapshots.
    LIST = GET "/1.0/instances" -> List<Instance>, Project, At::Any, "instances";
    /// Create an instance on the member of `?target=`, or the one that has the fewest.
    CREATE = POST "/1.0/instances" (InstancesPost) -> Background, Project, At::Any, "instances";
    /// Change the state of all instances of a project.
    STATE_ALL = PUT "/1.0/instances" (InstancesPut) -> Background, Project, At::Any, "instance_bulk_state_change";
    /// One instance; with `?recursion=1`, with its state and snapshots.
    GET = GET "/1.0/instances/{name}" -> Sync<Instance>, Project, At::InstanceRecord, "instances";
    /// Replace the configuration of an instance, or put it back to a snapshot.
    PUT = PUT "/1.0/instances/{name}" (InstancePut) -> Background, Project, At::Instance, "instances";
    /// Change some of the configuration of an instance.
    PATCH = PATCH "/1.0/instances/{name}" (serde_json::Value) -> Sync<()>, Project, At::Instance, "instances";
    /// Rename an instance, or move it to the member of `?target=`.
    POST = POST "/1.0/instances/{name}" (InstancePost) -> Background, Project, At::Instance, "instances";
    /// Delete a stopped instance.
    DELETE = DELETE "/1.0/instances/{name}" -> Background, Project, At::Instance, "instances";
    /// Make the root file system of a stopped instance anew.
    REBUILD = POST "/1.0/instances/{name}/rebuild" (InstanceRebuildPost) -> Background, Project, At::Instance, "instances_rebuild";
    /// Who may use an instance.
    ACCESS = GET "/1.0/instances/{name}/access" -> Sync<Vec<AccessEntry>>, Project, At::InstanceRecord, "instance_access";
    /// What an instance is doing.
    STATE = GET "/1.0/instances/{name}/state" -> Sync<InstanceState>, Project, At::Instance, "instances";
    /// Start, stop, restart, freeze or thaw an instance.
    STATE_PUT = PUT "/1.0/instances/{name}/state" (InstanceStatePut) -> Background, Project, At::Instance, "instances";
    /// List the snapshots of an instance.
    SNAPSHOTS = GET "/1.0/instances/{name}/snapshots" -> List<InstanceSnapshot>, Project, At::Instance, "instances";
    /// Take a snapshot.
    SNAPSHOT_CREATE = POST "/1.0/instances/{name}/snapshots" (InstanceSnapshotsPost) -> Background, Project, At::Instance, "instances";
    /// One snapshot.
    SNAPSHOT = GET "/1.0/instances/{name}/snapshots/{snapshot}" -> Sync<InstanceSnapshot>, Project, At::Instance, "instances";
    /// Change when a snapshot expires.
    SNAPSHOT_PUT = PUT "/1.0/instances/{name}/snapshots/{snapshot}" (InstanceSnapshotPut) -> Background, Project, At::Instance, "snapshot_expiry";
    /// Change when a snapshot expires.
    SNAPSHOT_PATCH = PATCH "/1.0/instances/{name}/snapshots/{snapshot}" (InstanceSnapshotPut) -> Background, Project, At::Instance, "snapshot_expiry";
    /// Rename a snapshot.
    SNAPSHOT_POST = POST "/1.0/instances/{name}/snapshots/{snapshot}" (InstanceSnapshotPost) -> Background, Project, At::Instance, "instances";
    /// Delete a snapshot.
    SNAPSHOT_DELETE = DELETE "/1.0/instances/{name}/snapshots/{snapshot}" -> Background, Project, At::Instance, "instances";
}
