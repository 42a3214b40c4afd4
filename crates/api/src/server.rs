//! `/` and `/1.0`: the server itself.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::endpoint::{Allow::*, At, Raw, Sync};
use crate::key::Config;

/// `GET /1.0`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Server configuration: global keys and those of the member.
    pub config: Config,
    /// The extensions of the API that this server has; `None` for callers it does not trust.
    pub api_extensions: Option<Vec<String>>,
    /// `stable`.
    pub api_status: String,
    /// `1.0`.
    pub api_version: String,
    /// `trusted` or `untrusted`.
    pub auth: String,
    /// True if the server only serves images.
    pub public: bool,
    /// Ways to become trusted: `tls`.
    pub auth_methods: Vec<String>,
    /// Name of the caller: a user name or a certificate's fingerprint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_user_name: String,
    /// How the caller was recognised: `unix` or `tls`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_user_method: String,
    /// The machine below; absent for callers it does not trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

/// The machine that a server runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Addresses at which the API can be reached.
    pub addresses: Vec<String>,
    /// Architectures that instances can have, best first.
    pub architectures: Vec<String>,
    /// The certificate that the API answers with (PEM).
    pub certificate: String,
    /// Its SHA-256 fingerprint, in hex.
    pub certificate_fingerprint: String,
    /// Instance drivers, as `lxc`.
    pub driver: String,
    /// Their versions.
    pub driver_version: String,
    /// `nftables` or `none`.
    pub firewall: String,
    /// `Linux`.
    pub kernel: String,
    /// As `x86_64`.
    pub kernel_architecture: String,
    /// What the kernel can do.
    pub kernel_features: Config,
    /// As `6.1.0`.
    pub kernel_version: String,
    /// What liblxc can do.
    pub lxc_features: Config,
    /// Name of the operating system.
    pub os_name: String,
    /// Its version.
    pub os_version: String,
    /// The project that was asked about.
    pub project: String,
    /// `incus`.
    pub server: String,
    /// True on a member of a cluster.
    pub server_clustered: bool,
    /// How events travel in the cluster: `full-mesh`, `hub-server` or `hub-client`.
    pub server_event_mode: String,
    /// The member's name.
    pub server_name: String,
    /// Process id of the daemon.
    pub server_pid: i64,
    /// The version of the API's implementation that this is compatible with.
    pub server_version: String,
    /// Storage drivers in use, separated by ` | `.
    pub storage: String,
    /// Their versions.
    pub storage_version: String,
    /// Storage drivers that could be used.
    pub storage_supported_drivers: Vec<StorageDriver>,
}

/// A storage driver that could be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageDriver {
    /// As `dir`.
    #[serde(rename = "Name")]
    pub name: String,
    /// Its version.
    #[serde(rename = "Version")]
    pub version: String,
    /// True if all members see the same volumes.
    #[serde(rename = "Remote")]
    pub remote: bool,
}

/// Body of `PUT` and `PATCH /1.0`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerPut {
    /// Server configuration. With `PATCH` only what changes; an empty value unsets a key.
    pub config: Map<String, Value>,
}

crate::endpoints! {
    /// The versions of the API.
    ROOT = GET "/" -> Sync<Vec<String>>, Anyone, At::Any, "";
    /// The server: its configuration, extensions and environment.
    GET = GET "/1.0" -> Sync<Server>, Anyone, At::Target, "";
    /// Replace the server's configuration.
    PUT = PUT "/1.0" (ServerPut) -> Sync<()>, Admin, At::Target, "";
    /// Change some of the server's configuration.
    PATCH = PATCH "/1.0" (ServerPut) -> Sync<()>, Admin, At::Target, "patch";
    /// Watch events over a websocket.
    EVENTS = GET "/1.0/events" -> Raw, Trusted, At::Any, "";
    /// What instances use and how the member is, as Prometheus reads it. For clients that are trusted, also with a
    /// certificate for metrics only, unless `core.metrics_authentication` is off.
    METRICS = GET "/1.0/metrics" -> Raw, Metrics, At::Target, "internal_metrics";
    /// What an ACME authority is answered that wants to know whose a domain is.
    ACME_CHALLENGE = GET "/.well-known/acme-challenge/{token}" -> Raw, Anyone, At::Any, "acme";
}
