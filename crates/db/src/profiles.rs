//! Profiles: configuration and devices that instances share.

use api::Result;
use api::key::Config;
use rusqlite::{Params, named_params};

use crate::keys::{DeviceTables, Devices, Keys};
use crate::projects::{self, Feature};
use crate::tx::{Tx, Words, found, touched};

const CONFIG: Keys = Keys { table: "profiles_config", owner: "profile_id" };
pub(crate) const DEVICES: DeviceTables = DeviceTables {
    devices: "profiles_devices",
    owner: "profile_id",
    keys: Keys { table: "profiles_devices_config", owner: "profile_device_id" },
};
const NOT_FOUND: &str = "Profile";

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Row id.
    pub id: i64,
    /// The project that it lies in.
    pub project: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Its configuration.
    pub config: Config,
    /// Its devices.
    pub devices: Devices,
}

/// The profiles that lie in a project, or all; by project and name.
///
/// For a project without profiles of its own, ask with [`projects::holder`].
pub fn list(tx: &Tx<'_>, project: Option<&str>) -> Result<Vec<Profile>> {
    let among = "SELECT id FROM profiles
                 WHERE :project IS NULL OR project_id = (SELECT id FROM projects WHERE name = :project)";
    select(tx, among, named_params! {":project": project})
}

/// The profile of that name which lies in that project.
pub fn get(tx: &Tx<'_>, project: &str, name: &str) -> Result<Profile> {
    let among = "SELECT id FROM profiles
                 WHERE name = :name AND project_id = (SELECT id FROM projects WHERE name = :project)";
    found(select(tx, among, named_params! {":name": name, ":project": project})?.pop(), NOT_FOUND)
}

/// The profiles of these names as the project sees them, in the order of the names.
pub fn named(tx: &Tx<'_>, project: &str, names: &[String]) -> Result<Vec<Profile>> {
    let holder = projects::holder(tx, project, Feature::Profiles)?;
    let missing = |name: &str| api::Error::not_found(format!("Profile \"{name}\" not found"));
    names.iter().map(|n| get(tx, &holder, n).map_err(|_| missing(n))).collect()
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<Profile>> {
    let mut config = CONFIG.of_all(tx, among, params)?;
    let mut devices = DEVICES.of_all(tx, among, params)?;
    let sql = format!(
        "SELECT f.id, p.name, f.name, f.description FROM profiles f JOIN projects p ON p.id = f.project_id
         WHERE f.id IN ({among}) ORDER BY p.name, f.name"
    );
    tx.all(&sql, params, |r| {
        let id = r.get(0)?;
        Ok(Profile {
            id,
            project: r.get(1)?,
            name: r.get(2)?,
            description: r.get(3)?,
            config: config.remove(&id).unwrap_or_default(),
            devices: devices.remove(&id).unwrap_or_default(),
        })
    })
}

/// Adds a profile to a project; its row id.
pub fn create(
    tx: &Tx<'_>,
    project: &str,
    name: &str,
    description: &str,
    config: &Config,
    devices: &Devices,
) -> Result<i64> {
    let project = projects::id(tx, project)?;
    let sql = "INSERT INTO profiles (name, description, project_id) VALUES (?1, ?2, ?3)";
    let id = tx.insert(sql, (name, description, project)).or_taken(|| taken(name))?;
    CONFIG.replace(tx, id, config)?;
    DEVICES.replace(tx, id, devices)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Profile \"{name}\" already exists")
}

/// Changes the description, the configuration and the devices of a profile.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, config: &Config, devices: &Devices) -> Result<()> {
    touched(tx.run("UPDATE profiles SET description = ?2 WHERE id = ?1", (id, description))?, NOT_FOUND)?;
    CONFIG.replace(tx, id, config)?;
    DEVICES.replace(tx, id, devices)
}

/// Renames a profile.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE profiles SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Removes a profile; instances and images that had it lose it.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM profiles WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn a_profile_lives_and_dies() {
        let c = database();
        let tx = Tx(&c);
        let fresh = get(&tx, "default", "default").unwrap();
        assert_eq!((fresh.id, fresh.description.as_str()), (1, "Default Incus profile"));
        let config: Config = [("limits.cpu".into(), "2".into())].into();
        let devices: Devices =
            [("root".into(), [("type".into(), "disk".into()), ("path".into(), "/".into())].into())].into();
        let id = create(&tx, "default", "web", "for the web", &config, &devices).unwrap();
        let got = named(&tx, "default", &["web".into(), "default".into()]).unwrap();
        assert_eq!(got.iter().map(|p| p.id).collect::<Vec<_>>(), [id, 1]);
        assert_eq!((&got[0].config, &got[0].devices), (&config, &devices));
        rename(&tx, id, "www").unwrap();
        update(&tx, id, "", &Config::new(), &Devices::new()).unwrap();
        assert_eq!(list(&tx, None).unwrap().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["default", "www"]);
        for (got, want) in [
            (create(&tx, "default", "www", "", &config, &devices).map(drop), "Profile \"www\" already exists"),
            (create(&tx, "nope", "www", "", &config, &devices).map(drop), "Project not found"),
            (named(&tx, "default", &["nope".into()]).map(drop), "Profile \"nope\" not found"),
            (get(&tx, "default", "nope").map(drop), "Profile not found"),
        ] {
            assert_eq!(got.unwrap_err().message, want);
        }
        delete(&tx, id).unwrap();
        assert_eq!(list(&tx, Some("default")).unwrap().len(), 1);
    }
}
