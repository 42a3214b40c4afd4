//! Projects, and which project the things of a project really lie in.

use api::Result;
use api::key::Config;

use crate::keys::Keys;
use crate::tx::{Tx, Words, found, touched};

/// The project that is always there.
pub const DEFAULT: &str = "default";

const CONFIG: Keys = Keys { table: "projects_config", owner: "project_id" };
const NOT_FOUND: &str = "Project";

/// What a project may have of its own. Without the feature it shares what the project `default` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Images and their aliases.
    Images,
    /// Networks.
    Networks,
    /// Network zones.
    Zones,
    /// Profiles.
    Profiles,
    /// Storage buckets.
    Buckets,
    /// Custom volumes.
    Volumes,
}

impl Feature {
    /// The configuration key.
    pub const fn key(self) -> &'static str {
        match self {
            Feature::Images => "features.images",
            Feature::Networks => "features.networks",
            Feature::Zones => "features.networks.zones",
            Feature::Profiles => "features.profiles",
            Feature::Buckets => "features.storage.buckets",
            Feature::Volumes => "features.storage.volumes",
        }
    }
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Row id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Its configuration.
    pub config: Config,
}

impl Project {
    /// True if it has things of that sort of its own.
    pub fn has(&self, feature: Feature) -> bool {
        self.name == DEFAULT || self.config.get(feature.key()).is_some_and(|v| on(v))
    }
}

fn on(value: &str) -> bool {
    api::key::Value::parse(value).unwrap_or(false)
}

/// All projects, by name.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Project>> {
    select(tx, "SELECT id FROM projects WHERE ?1 IS NULL", None)
}

/// The project of that name.
pub fn get(tx: &Tx<'_>, name: &str) -> Result<Project> {
    found(select(tx, "SELECT id FROM projects WHERE name = ?1", Some(name))?.pop(), NOT_FOUND)
}

/// Row id of the project of that name.
pub fn id(tx: &Tx<'_>, name: &str) -> Result<i64> {
    found(tx.one("SELECT id FROM projects WHERE name = ?1", [name], |r| r.get(0))?, NOT_FOUND)
}

/// The project in which the things of that sort lie when `name` is asked for them: itself or `default`.
pub fn holder(tx: &Tx<'_>, name: &str, feature: Feature) -> Result<String> {
    let own = name == DEFAULT || CONFIG.value(tx, id(tx, name)?, feature.key())?.is_some_and(|v| on(&v));
    Ok(if own { name } else { DEFAULT }.to_owned())
}

/// Names of the projects that look for things of that sort in the project `name`.
pub fn users_of(tx: &Tx<'_>, name: &str, feature: Feature) -> Result<Vec<String>> {
    let all = list(tx)?;
    let uses = |p: &Project| if p.has(feature) { p.name == name } else { name == DEFAULT };
    Ok(all.into_iter().filter(uses).map(|p| p.name).collect())
}

fn select(tx: &Tx<'_>, among: &str, name: Option<&str>) -> Result<Vec<Project>> {
    let mut config = CONFIG.of_all(tx, among, [name])?;
    let sql = format!("SELECT id, name, description FROM projects WHERE id IN ({among}) ORDER BY name");
    tx.all(&sql, [name], |r| {
        let id = r.get(0)?;
        Ok(Project { id, name: r.get(1)?, description: r.get(2)?, config: config.remove(&id).unwrap_or_default() })
    })
}

/// Adds a project, with a profile `default` of its own if it has profiles; its row id.
pub fn create(tx: &Tx<'_>, name: &str, description: &str, config: &Config) -> Result<i64> {
    let id = tx
        .insert("INSERT INTO projects (name, description) VALUES (?1, ?2)", (name, description))
        .or_taken(|| taken(name))?;
    CONFIG.replace(tx, id, config)?;
    if config.get(Feature::Profiles.key()).is_some_and(|v| on(v)) {
        let description = format!("Default Incus profile for project {name}");
        crate::profiles::create(tx, name, DEFAULT, &description, &Config::new(), &Default::default())?;
    }
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Project \"{name}\" already exists")
}

/// Changes the description and the configuration of a project.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, config: &Config) -> Result<()> {
    touched(tx.run("UPDATE projects SET description = ?2 WHERE id = ?1", (id, description))?, NOT_FOUND)?;
    CONFIG.replace(tx, id, config)
}

/// Renames a project.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE projects SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Removes a project and everything in it; `used_by` says whether that is much.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM projects WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn a_fresh_server_has_the_default_project() {
        let c = database();
        let p = get(&Tx(&c), DEFAULT).unwrap();
        assert_eq!(p.description, "Default Incus project");
        assert_eq!(p.config.len(), 6);
        assert!(p.config.iter().all(|(k, v)| k.starts_with("features.") && v == "true"));
    }

    #[test]
    fn things_lie_in_the_project_that_has_the_feature() {
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, "p1", "", &[("features.profiles".into(), "true".into())].into()).unwrap();
        for (project, feature, want) in
            [(DEFAULT, Feature::Networks, DEFAULT), ("p1", Feature::Profiles, "p1"), ("p1", Feature::Images, DEFAULT)]
        {
            assert_eq!(holder(&tx, project, feature).unwrap(), want, "{project} {feature:?}");
        }
        assert_eq!(users_of(&tx, DEFAULT, Feature::Images).unwrap(), [DEFAULT, "p1"]);
        assert_eq!(users_of(&tx, DEFAULT, Feature::Profiles).unwrap(), [DEFAULT]);
        assert_eq!(crate::profiles::list(&tx, Some("p1")).unwrap().len(), 1);
        assert_eq!(create(&tx, "p1", "", &Config::new()).unwrap_err().message, "Project \"p1\" already exists");
        rename(&tx, id, "p2").unwrap();
        update(&tx, id, "x", &Config::new()).unwrap();
        assert_eq!(holder(&tx, "p2", Feature::Profiles).unwrap(), DEFAULT);
        delete(&tx, id).unwrap();
        assert_eq!(holder(&tx, "p2", Feature::Images).unwrap_err().message, "Project not found");
    }
}
