//! `/1.0/projects`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::certificate::AccessEntry;
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

/// What a project uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectState {
    /// By what it is: `containers`, `cpu`, `disk`, `instances`, `memory`, `networks`, `processes`, `virtual-machines`.
    pub resources: BTreeMap<String, ProjectStateResource>,
}

/// How much of something a project uses: a number, or bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ProjectStateResource {
    /// The most that it may use; -1 if that is not limited.
    pub limit: i64,
    /// What is laid aside for it: what its instances and volumes are limited to.
    pub usage: i64,
}

crate::endpoints! {
    /// List the projects.
    LIST = GET "/1.0/projects" -> List<Project>, Trusted, At::Any, "projects";
    /// Create a project.
    CREATE = POST "/1.0/projects" (ProjectsPost) -> Sync<()>, Admin, At::Any, "projects";
    /// One project.
    GET = GET "/1.0/projects/{name}" -> Sync<Project>, Trusted, At::Any, "projects";
    /// Who may use a project.
    ACCESS = GET "/1.0/projects/{name}/access" -> Sync<Vec<AccessEntry>>, Trusted, At::Any, "project_access";
    /// What a project may use, and uses.
    STATE = GET "/1.0/projects/{name}/state" -> Sync<ProjectState>, Trusted, At::Any, "project_usage";
    /// Replace a project's configuration.
    PUT = PUT "/1.0/projects/{name}" (ProjectPut) -> Sync<()>, Admin, At::Any, "projects";
    /// Change some of a project's configuration.
    PATCH = PATCH "/1.0/projects/{name}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "projects";
    /// Rename a project.
    RENAME = POST "/1.0/projects/{name}" (ProjectPost) -> Background, Admin, At::Any, "projects";
    /// Delete a project.
    DELETE = DELETE "/1.0/projects/{name}" -> Sync<()>, Admin, At::Any, "projects";
}
