//! `/1.0/cluster`: the cluster, its members and groups.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, Background, List, Listed, Sync, encode};
use crate::key::Config;
use crate::{Error, Result};

/// `GET /1.0/cluster`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Name of the member that answers; empty without a cluster.
    pub server_name: String,
    /// True if the server is a member of a cluster.
    pub enabled: bool,
    /// What a joining member has to be told about itself.
    pub member_config: Vec<MemberConfigKey>,
}

/// One key that differs from member to member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberConfigKey {
    /// `storage-pool` or `network`.
    pub entity: String,
    /// Name of the pool or network.
    pub name: String,
    /// The key.
    pub key: String,
    /// Its value on the joining member.
    pub value: String,
    /// For people.
    pub description: String,
}

/// Body of `PUT /1.0/cluster`: bootstrap, join, or (`enabled` false) leave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterPut {
    /// Name of this member.
    pub server_name: String,
    /// True to bootstrap or join.
    pub enabled: bool,
    /// Answers to the questions of [`Cluster::member_config`].
    pub member_config: Vec<MemberConfigKey>,
    /// Address of a member to join through; empty to bootstrap.
    pub cluster_address: String,
    /// The cluster's certificate (PEM).
    pub cluster_certificate: String,
    /// This server's own address in the cluster.
    pub server_address: String,
    /// The join token.
    pub cluster_token: String,
}

/// A cluster member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMember {
    /// Its roles, the database's last.
    pub roles: Vec<String>,
    /// Its failure domain.
    pub failure_domain: String,
    /// For people.
    pub description: String,
    /// Configuration of the member.
    pub config: Config,
    /// Groups that it belongs to.
    pub groups: Vec<String>,
    /// Its name.
    pub server_name: String,
    /// As `https://192.0.2.1:8443`.
    pub url: String,
    /// True if it votes in the database.
    pub database: bool,
    /// `Online`, `Offline`, `Blocked`, `Evacuated`, `Evacuating` or `Restoring`.
    pub status: String,
    /// Explains the status.
    pub message: String,
    /// As `x86_64`.
    pub architecture: String,
}

impl Listed for ClusterMember {
    fn url(&self) -> String {
        format!("/1.0/cluster/members/{}", encode(&self.server_name))
    }
}

/// Body of `PUT` and `PATCH` of a member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ClusterMemberPut {
    pub roles: Vec<String>,
    pub failure_domain: String,
    pub description: String,
    pub config: Config,
    pub groups: Vec<String>,
}

/// Body of `POST` of a member: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemberPost {
    /// The new name.
    pub server_name: String,
}

/// Body of `POST /1.0/cluster/members`: asks for a join token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMembersPost {
    /// Name of the member to come.
    pub server_name: String,
}

/// State of a member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemberState {
    /// The machine.
    pub sysinfo: ClusterMemberSysInfo,
    /// Its storage pools, by name.
    pub storage_pools: BTreeMap<String, StoragePoolState>,
    /// Ours: the warnings about it, and about the cluster as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What the machine of a member is busy with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemberSysInfo {
    /// Seconds since it was switched on.
    pub uptime: i64,
    /// Over 1, 5 and 15 minutes.
    pub load_averages: Vec<f64>,
    /// Bytes.
    pub total_ram: u64,
    /// Bytes.
    pub free_ram: u64,
    /// Bytes.
    pub shared_ram: u64,
    /// Bytes.
    pub buffered_ram: u64,
    /// Bytes.
    pub total_swap: u64,
    /// Bytes.
    pub free_swap: u64,
    /// Number of processes.
    pub processes: u64,
}

/// How full a storage pool is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoragePoolState {
    /// Bytes.
    pub space: Usage,
    /// Files and folders.
    pub inodes: Usage,
}

/// Used of total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Usage {
    pub used: u64,
    pub total: u64,
}

/// Body of `POST` of a member's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemberStatePost {
    /// `evacuate` or `restore`.
    pub action: String,
    /// How.
    pub mode: String,
}

/// What an evacuation or a restore would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemberPlan {
    /// What becomes of each instance.
    pub steps: Vec<ClusterMemberPlanStep>,
    /// What a person should know before.
    pub warnings: Vec<String>,
}

/// What would become of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemberPlanStep {
    /// Its project.
    pub project: String,
    /// Its name.
    pub instance: String,
    /// `leave`, `stop`, `force-stop`, `migrate` or `start`.
    pub action: String,
    /// Name of the member that it is on afterwards.
    pub target: String,
    /// Why this and nothing else.
    pub reason: String,
}

/// Body of `PUT /1.0/cluster/certificate`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterCertificatePut {
    /// PEM.
    pub cluster_certificate: String,
    /// PEM.
    pub cluster_certificate_key: String,
}

/// A group of cluster members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterGroup {
    /// For people.
    pub description: String,
    /// Names of its members.
    pub members: Vec<String>,
    /// Its configuration.
    pub config: Config,
    /// Its name.
    pub name: String,
    /// URLs of what names it.
    pub used_by: Vec<String>,
}

impl Listed for ClusterGroup {
    fn url(&self) -> String {
        format!("/1.0/cluster/groups/{}", encode(&self.name))
    }
}

/// Body of `PUT` and `PATCH` of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ClusterGroupPut {
    pub description: String,
    pub members: Vec<String>,
    pub config: Config,
}

/// Body of `POST /1.0/cluster/groups`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ClusterGroupsPost {
    pub description: String,
    pub members: Vec<String>,
    pub config: Config,
    pub name: String,
}

/// Body of `POST` of a group: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ClusterGroupPost {
    pub name: String,
}

/// What a join token carries; on paper it is the base64 of the JSON of this.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Name of the member to come.
    pub server_name: String,
    /// Fingerprint of the cluster's certificate.
    pub fingerprint: String,
    /// Addresses of members to join through.
    pub addresses: Vec<String>,
    /// Proves that the bearer was given the token.
    pub secret: String,
    /// When it stops being valid.
    pub expires_at: Timestamp,
}

impl JoinToken {
    /// As it is printed.
    pub fn encode(&self) -> String {
        BASE64.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what was printed.
    pub fn decode(text: &str) -> Result<JoinToken> {
        let bad = |_| {
            Error::bad_request("Invalid cluster join token: copy the whole line that \"incus cluster add\" printed")
        };
        let json = BASE64.decode(text.trim()).map_err(|_| bad(()))?;
        serde_json::from_slice(&json).map_err(|_| bad(()))
    }
}

crate::endpoints! {
    /// Whether this server is a member of a cluster.
    GET = GET "/1.0/cluster" -> Sync<Cluster>, Trusted, At::Any, "clustering";
    /// Bootstrap a cluster, join one or leave it.
    PUT = PUT "/1.0/cluster" (ClusterPut) -> Background, Admin, At::Any, "clustering";
    /// Replace the certificate that all members answer with.
    CERTIFICATE = PUT "/1.0/cluster/certificate" (ClusterCertificatePut) -> Sync<()>, Admin, At::Any, "clustering_update_cert";
    /// List the members.
    MEMBERS = GET "/1.0/cluster/members" -> List<ClusterMember>, Trusted, At::Any, "clustering";
    /// Get a join token for a new member.
    MEMBER_ADD = POST "/1.0/cluster/members" (ClusterMembersPost) -> Background, Admin, At::Any, "clustering_join_token";
    /// One member.
    MEMBER = GET "/1.0/cluster/members/{name}" -> Sync<ClusterMember>, Trusted, At::Any, "clustering";
    /// Replace the configuration, roles, failure domain and groups of a member.
    MEMBER_PUT = PUT "/1.0/cluster/members/{name}" (ClusterMemberPut) -> Sync<()>, Admin, At::Any, "clustering_edit_roles";
    /// Change some of the configuration, roles, failure domain and groups of a member.
    MEMBER_PATCH = PATCH "/1.0/cluster/members/{name}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "clustering_edit_roles";
    /// Rename a member.
    MEMBER_RENAME = POST "/1.0/cluster/members/{name}" (ClusterMemberPost) -> Sync<()>, Admin, At::Any, "clustering";
    /// Remove a member; with `?force=1` also one that is gone for good.
    MEMBER_REMOVE = DELETE "/1.0/cluster/members/{name}" -> Sync<()>, Admin, At::Any, "clustering";
    /// What a member is busy with.
    MEMBER_STATE = GET "/1.0/cluster/members/{name}/state" -> Sync<ClusterMemberState>, Trusted, At::Member, "cluster_member_state";
    /// Evacuate or restore a member.
    MEMBER_STATE_POST = POST "/1.0/cluster/members/{name}/state" (ClusterMemberStatePost) -> Background, Admin, At::MemberOrAny, "clustering_evacuation";
    /// Tell what evacuating or restoring a member would do; nothing is changed.
    MEMBER_STATE_PLAN = POST "/1.0/cluster/members/{name}/state/plan" (ClusterMemberStatePost) -> Sync<ClusterMemberPlan>, Admin, At::MemberOrAny, "clustering_evacuation";
    /// List the groups.
    GROUPS = GET "/1.0/cluster/groups" -> List<ClusterGroup>, Trusted, At::Any, "clustering_groups";
    /// Create a group.
    GROUP_CREATE = POST "/1.0/cluster/groups" (ClusterGroupsPost) -> Sync<()>, Admin, At::Any, "clustering_groups";
    /// One group.
    GROUP = GET "/1.0/cluster/groups/{name}" -> Sync<ClusterGroup>, Trusted, At::Any, "clustering_groups";
    /// Replace a group.
    GROUP_PUT = PUT "/1.0/cluster/groups/{name}" (ClusterGroupPut) -> Sync<()>, Admin, At::Any, "clustering_groups";
    /// Change some of a group.
    GROUP_PATCH = PATCH "/1.0/cluster/groups/{name}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "clustering_groups";
    /// Rename a group.
    GROUP_RENAME = POST "/1.0/cluster/groups/{name}" (ClusterGroupPost) -> Sync<()>, Admin, At::Any, "clustering_groups";
    /// Delete a group that has no members.
    GROUP_DELETE = DELETE "/1.0/cluster/groups/{name}" -> Sync<()>, Admin, At::Any, "clustering_groups";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_being_printed() {
        let token = JoinToken {
            server_name: "server2".into(),
            fingerprint: "ab".into(),
            addresses: vec!["192.0.2.1:8443".into()],
            secret: "s".into(),
            expires_at: Timestamp::UNIX_EPOCH,
        };
        assert!(JoinToken::decode(&format!("{}\n", token.encode())).is_ok_and(|t| t == token));
        for text in ["", "x", "e30=", "e30"] {
            assert!(
                JoinToken::decode(text).is_err_and(|e| e.message.starts_with("Invalid cluster join token")),
                "{text}"
            );
        }
    }
}
