//! `/1.0/storage-pools`.

use serde::{Deserialize, Serialize};

use crate::cluster::StoragePoolState;
use crate::endpoint::{Allow::*, At, List, Listed, Sync, encode};
use crate::key::Config;

/// A storage pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoragePool {
    /// Its configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Its name.
    pub name: String,
    /// What manages it, as `dir`.
    pub driver: String,
    /// URLs of what is in it.
    pub used_by: Vec<String>,
    /// `Created`, `Pending`, `Errored` or `Unknown`.
    pub status: String,
    /// Names of the members that have it.
    pub locations: Vec<String>,
}

impl Listed for StoragePool {
    fn url(&self) -> String {
        format!("/1.0/storage-pools/{}", encode(&self.name))
    }
}

/// Body of `PUT` of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoragePoolPut {
    pub config: Config,
    pub description: String,
}

/// Body of `POST /1.0/storage-pools`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoragePoolsPost {
    pub config: Config,
    pub description: String,
    pub name: String,
    pub driver: String,
}

crate::endpoints! {
    /// List the pools.
    LIST = GET "/1.0/storage-pools" -> List<StoragePool>, Trusted, At::Any, "storage";
    /// Create a pool on all members; with `?target=`, say how it is to be on that one.
    CREATE = POST "/1.0/storage-pools" (StoragePoolsPost) -> Sync<()>, Admin, At::Any, "storage";
    /// One pool; with `?target=`, with that member's own configuration.
    GET = GET "/1.0/storage-pools/{pool}" -> Sync<StoragePool>, Trusted, At::Any, "storage";
    /// Replace the configuration of a pool.
    PUT = PUT "/1.0/storage-pools/{pool}" (StoragePoolPut) -> Sync<()>, Admin, At::Any, "storage";
    /// Change some of the configuration of a pool.
    PATCH = PATCH "/1.0/storage-pools/{pool}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "storage";
    /// Delete a pool that nothing uses.
    DELETE = DELETE "/1.0/storage-pools/{pool}" -> Sync<()>, Admin, At::Any, "storage";
    /// How full a pool is.
    RESOURCES = GET "/1.0/storage-pools/{pool}/resources" -> Sync<StoragePoolState>, Trusted, At::Target, "resources";
}
