//! `/internal`: what the `admin` commands and other members ask of a daemon. Private but for the first three.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::endpoint::{Allow::*, At, Raw, Sync};
use crate::instance::InstanceState;
use crate::key::Config;
use crate::profile::Devices;

/// Body of `POST /internal/sql`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SqlQuery {
    /// `local` or `global`.
    pub database: String,
    /// Statements separated by semicolons; `.dump`, `.schema` or `.sync`.
    pub query: String,
}

/// Answer to `GET /internal/sql`: the database as text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SqlDump {
    pub text: String,
}

/// Answer to `POST /internal/sql`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SqlBatch {
    /// One per statement.
    #[serde(rename = "Results")]
    pub results: Vec<SqlResult>,
}

/// What one statement gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SqlResult {
    /// `select` or `exec`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// How many rows were changed.
    pub rows_affected: u64,
}

/// What a member has of its own, for a backup of the cluster.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberOwn {
    /// Its own certificate (PEM).
    pub certificate: String,
    /// The key of that (PEM); never shown.
    pub key: String,
    /// Its own configuration.
    pub config: Config,
    /// The authority that it trusts (`server.ca`); empty for none.
    pub authority: String,
    /// What that has revoked (`ca.crl`); empty for nothing.
    pub revoked: String,
}

impl std::fmt::Debug for MemberOwn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemberOwn({:?})", self.config)
    }
}

/// A profile as it was before it was changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProfileBefore {
    pub project: String,
    pub name: String,
    pub config: Config,
    pub devices: Devices,
}

/// An instance that runs on a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRun {
    /// Name of its state.
    pub status: String,
    /// Number of its state.
    pub status_code: i64,
    /// What it uses, if that was asked for.
    pub state: Option<InstanceState>,
}

/// What the runner of a plan asks of a member for an instance that changes its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceTask {
    /// Row id of the instance.
    pub instance: i64,
    /// UUID of the plan.
    pub plan: String,
    /// The pool of this member in which its files lie, or are to lie.
    pub pool: String,
    /// The name of the volume there.
    pub volume: String,
    /// What is to be done.
    pub what: Task,
}

/// One thing to do; doing it again does no harm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Task {
    /// Nothing: only tell.
    Look,
    /// Stop it.
    Stop {
        /// Seconds that it may take before it is stopped by force.
        timeout: u64,
        /// Stop it by force at once.
        force: bool,
    },
    /// Get its files.
    Fetch {
        /// From the member at this address; empty: from this one.
        address: String,
        /// The pool there.
        pool: String,
        /// The volume there.
        volume: String,
    },
    /// Start it.
    Start,
    /// Remove its files.
    Remove,
}

impl Task {
    /// Its name.
    pub const fn word(&self) -> &'static str {
        match self {
            Task::Look => "look",
            Task::Stop { .. } => "stop",
            Task::Fetch { .. } => "fetch",
            Task::Start => "start",
            Task::Remove => "remove",
        }
    }
}

/// What a member has of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFacts {
    /// It runs here.
    pub runs: bool,
    /// Its files are here, all of them.
    pub exists: bool,
    /// Bytes that have come in, while they come in.
    pub bytes: u64,
}

crate::endpoints! {
    /// Answers when the daemon serves.
    READY = GET "/internal/ready" -> Sync<Value>, Member, At::Any, "";
    /// Stops the instances, then the daemon (`?force=true`: while operations run).
    SHUTDOWN = PUT "/internal/shutdown" -> Sync<()>, Member, At::Any, "";
    /// The database `?database=` as SQL text; with `?schema=1` only its schema.
    SQL_DUMP = GET "/internal/sql" -> Sync<SqlDump>, Member, At::Any, "";
    /// Runs SQL.
    SQL = POST "/internal/sql" (SqlQuery) -> Sync<SqlBatch>, Member, At::Any, "";
    /// Upgrades to a link between members: frames of requests and answers.
    LINK = GET "/internal/link" -> Raw, Member, At::Any, "";
    /// A server with a join token asks to become a member.
    ACCEPT = POST "/internal/cluster/accept" (Value) -> Sync<Value>, Anyone, At::Any, "";
    /// A server that wants to join asks what stands in its way; nothing changes.
    PREFLIGHT = POST "/internal/cluster/preflight" (Value) -> Sync<Value>, Anyone, At::Any, "";
    /// A pending member is ready for the database.
    CONNECT = POST "/internal/cluster/connect" (Value) -> Sync<()>, Member, At::Any, "";
    /// A pending member gives up.
    ABORT = POST "/internal/cluster/abort" (Value) -> Sync<()>, Member, At::Any, "";
    /// A member of the database that is no member of the cluster is taken out: by its address or its Raft id.
    RAFT_NODE_REMOVE = DELETE "/internal/cluster/raft-node/{address}" -> Sync<()>, Member, At::Any, "";
    /// The member was removed: it becomes a server of its own again.
    RESET = POST "/internal/cluster/reset" -> Sync<()>, Member, At::Any, "";
    /// A backup of the cluster, as a file with all keys in it.
    BACKUP = GET "/internal/cluster/backup" -> Raw, Member, At::Any, "";
    /// What this member has of its own, for a backup that another one makes.
    OWN = GET "/internal/cluster/own" -> Sync<MemberOwn>, Member, At::Any, "";
    /// A storage pool was deleted: its place on this member goes.
    POOL_REMOVE = POST "/internal/pools/remove" (Value) -> Sync<()>, Member, At::Any, "";
    /// Another member wants the files of a volume and its snapshots removed from this one. `{kind}` is the folder in
    /// the pool.
    VOLUME_FILES_DELETE = DELETE "/internal/volumes/{pool}/{kind}/{volume}" -> Sync<()>, Member, At::Any, "";
    /// The files of a volume as a checked stream, for another member: with its snapshots, without them
    /// (`?snapshots=false`), or those of one snapshot (`?snapshot=`).
    VOLUME_FILES_STREAM = GET "/internal/volumes/{pool}/{kind}/{volume}/stream" -> Raw, Member, At::Any, "";
    /// A profile was changed: the instances that run here follow; those that could not, and why.
    PROFILE_CHANGED = POST "/internal/profiles/changed" (ProfileBefore) -> Sync<Vec<String>>, Member, At::Any, "";
    /// The runner of a plan asks for something to be done for an instance that changes its place.
    INSTANCE_TASK = POST "/internal/instances/task" (InstanceTask) -> Sync<InstanceFacts>, Member, At::Any, "";
    /// The processors and the memory of this member, in the form of Incus's `GET /1.0/resources`.
    RESOURCES = GET "/internal/resources" -> Sync<Value>, Member, At::Any, "";
    /// The instances that run on this member, by row id; with `?full=1`, with what they use.
    INSTANCES = GET "/internal/instances" -> Sync<BTreeMap<i64, InstanceRun>>, Member, At::Any, "";
}
