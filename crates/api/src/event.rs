//! What `/1.0/events` sends.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The type of an event that reports on an operation.
pub const OPERATION: &str = "operation";
/// The type of an event that reports a change of something's life.
pub const LIFECYCLE: &str = "lifecycle";
/// The type of an event that carries a line of the log.
pub const LOGGING: &str = "logging";

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Name of the member that it comes from; `none` on a server without a cluster.
    #[serde(default)]
    pub location: String,
    /// What it says: an operation, a [`Lifecycle`] or a [`Logging`].
    pub metadata: Value,
    /// The project that it belongs to; empty if none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// When.
    pub timestamp: Timestamp,
    /// One of the constants of this module.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A change in the life of something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifecycle {
    /// What happened, as `instance-created`.
    pub action: String,
    /// URL of what it happened to.
    pub source: String,
    /// More about it.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    /// Who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requestor: Option<Requestor>,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its project.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
}

/// Who asked for something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requestor {
    /// User name or certificate fingerprint.
    pub username: String,
    /// `unix`, `tls` or `cluster`.
    pub protocol: String,
    /// Where from; `@` for a unix socket.
    pub address: String,
}

/// A line of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// What was logged.
    pub message: String,
    /// `debug`, `info`, `warning` or `error`.
    pub level: String,
    /// Fields beside the message.
    pub context: Map<String, Value>,
}
