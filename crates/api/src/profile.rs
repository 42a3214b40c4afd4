//! `/1.0/profiles`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, List, Listed, Sync, encode};
use crate::key::Config;

/// Devices by name; each is a set of keys with a `type` among them.
pub type Devices = BTreeMap<String, Config>;

/// A profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Instance configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Instance devices.
    pub devices: Devices,
    /// Its name.
    pub name: String,
    /// URLs of the instances that use it.
    pub used_by: Vec<String>,
    /// Its project.
    pub project: String,
}

impl Listed for Profile {
    fn url(&self) -> String {
        let url = format!("/1.0/profiles/{}", encode(&self.name));
        crate::endpoint::in_project(url, &self.project)
    }
}

/// Body of `PUT` of a profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProfilePut {
    pub config: Config,
    pub description: String,
    pub devices: Devices,
}

/// Body of `POST /1.0/profiles`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProfilesPost {
    pub config: Config,
    pub description: String,
    pub devices: Devices,
    pub name: String,
}

/// Body of `POST` of a profile: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProfilePost {
    pub name: String,
}

crate::endpoints! {
    /// List the profiles.
    LIST = GET "/1.0/profiles" -> List<Profile>, Project, At::Any, "";
    /// Create a profile.
    CREATE = POST "/1.0/profiles" (ProfilesPost) -> Sync<()>, Project, At::Any, "";
    /// One profile.
    GET = GET "/1.0/profiles/{name}" -> Sync<Profile>, Project, At::Any, "";
    /// Replace a profile.
    PUT = PUT "/1.0/profiles/{name}" (ProfilePut) -> Sync<()>, Project, At::Any, "";
    /// Change some of a profile.
    PATCH = PATCH "/1.0/profiles/{name}" (serde_json::Value) -> Sync<()>, Project, At::Any, "patch";
    /// Rename a profile.
    RENAME = POST "/1.0/profiles/{name}" (ProfilePost) -> Sync<()>, Project, At::Any, "";
    /// Delete a profile.
    DELETE = DELETE "/1.0/profiles/{name}" -> Sync<()>, Project, At::Any, "";
}
