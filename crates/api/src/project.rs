//! `/1.0/projects`.

use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, Background, List, Listed, Sync, encode};
use crate::key::Config;

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    /// Its configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Its name.
    pub name: String,
    /// URLs of what is in it.
    pub used_by: Vec<String>,
}

impl Listed for Project {
    fn url(&self) -> String {
        format!("/1.0/projects/{}", encode(&self.name))
    }
}

/// Body of `PUT` of a project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProjectPut {
    pub config: Config,
    pub description: String,
}

/// Body of `POST /1.0/projects`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProjectsPost {
    pub config: Config,
    pub description: String,
    pub name: String,
}

/// Body of `POST` of a project: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProjectPost {
    pub name: String,
}

crate::endpoints! {
    /// List the projects.
    LIST = GET "/1.0/projects" -> List<Project>, Trusted, At::Any, "projects";
    /// Create a project.
    CREATE = POST "/1.0/projects" (ProjectsPost) -> Sync<()>, Admin, At::Any, "projects";
    /// One project.
    GET = GET "/1.0/projects/{name}" -> Sync<Project>, Trusted, At::Any, "projects";
    /// Replace a project's configuration.
    PUT = PUT "/1.0/projects/{name}" (ProjectPut) -> Sync<()>, Admin, At::Any, "projects";
    /// Change some of a project's configuration.
    PATCH = PATCH "/1.0/projects/{name}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "projects";
    /// Rename a project.
    RENAME = POST "/1.0/projects/{name}" (ProjectPost) -> Background, Admin, At::Any, "projects";
    /// Delete a project.
    DELETE = DELETE "/1.0/projects/{name}" -> Sync<()>, Admin, At::Any, "projects";
}
