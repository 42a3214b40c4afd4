//! Managed networks.

use api::key::Config;
use api::{Error, Result};
use rusqlite::Params;

pub use crate::placed::Placement;
use crate::placed::{Placed, placed_row};
use crate::projects;
use crate::tx::{Tx, Words, found};
pub use crate::value::Progress;
use crate::value::codes;

const TABLES: Placed = Placed {
    table: "networks",
    nodes: "networks_nodes",
    config: "networks_config",
    owner: "network_id",
    what: "Network",
};

codes! {
    /// What a managed network is.
    NetworkType, "network type" {
        /// A bridge of the server's own.
        Bridge = 0, "bridge";
        /// Settings for macvlan interfaces on a parent.
        Macvlan = 1, "macvlan";
        /// Settings for virtual functions of a parent.
        Sriov = 2, "sriov";
        /// A virtual network over all members.
        Ovn = 3, "ovn";
        /// A parent for other networks.
        Physical = 4, "physical";
    }
}

/// A managed network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Row id.
    pub id: i64,
    /// The project that it lies in.
    pub project: String,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: NetworkType,
    /// Free text.
    pub description: String,
    /// How far it is altogether.
    pub state: Progress,
    /// The configuration that is the same on all members.
    pub config: Config,
    /// Where it is defined, in that order.
    pub members: Vec<Placement>,
}

placed_row!(Network);

/// The networks that lie in a project, or all; by project and name.
pub fn list(tx: &Tx<'_>, project: Option<&str>) -> Result<Vec<Network>> {
    let among = "SELECT id FROM networks
                 WHERE ?1 IS NULL OR project_id = (SELECT id FROM projects WHERE name = ?1)";
    select(tx, among, [project])
}

/// The network of that name which lies in that project.
pub fn get(tx: &Tx<'_>, project: &str, name: &str) -> Result<Network> {
    found(find(tx, project, name)?, TABLES.what)
}

/// The network of that name which lies in that project, if there is one.
pub fn find(tx: &Tx<'_>, project: &str, name: &str) -> Result<Option<Network>> {
    let among = "SELECT n.id FROM networks n JOIN projects p ON p.id = n.project_id WHERE p.name = ?1 AND n.name = ?2";
    Ok(select(tx, among, (project, name))?.pop())
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<Network>> {
    let (mut config, mut members) = TABLES.of_all(tx, among, params)?;
    let sql = format!(
        "SELECT n.*, p.name AS project FROM networks n JOIN projects p ON p.id = n.project_id WHERE n.id IN ({among})
         ORDER BY p.name, n.name"
    );
    tx.all(&sql, params, |r| {
        let id = r.get("id")?;
        Ok(Network {
            id,
            project: r.get("project")?,
            name: r.get("name")?,
            kind: r.get("type")?,
            description: r.get("description")?,
            state: r.get("state")?,
            config: config.remove(&id).unwrap_or_default(),
            members: members.remove(&id).unwrap_or_default(),
        })
    })
}

/// Adds a network that is pending and defined on no member yet; its row id.
pub fn create(
    tx: &Tx<'_>,
    project: &str,
    name: &str,
    kind: NetworkType,
    description: &str,
    config: &Config,
) -> Result<i64> {
    let sql = "INSERT INTO networks (project_id, name, description, state, type) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = (projects::id(tx, project)?, name, description, Progress::Pending, kind);
    let id = tx.insert(sql, values).or_taken(|| taken(name))?;
    TABLES.set_config(tx, id, None, config)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Network \"{name}\" already exists")
}

/// Announces a network on a member (`--target`), and altogether if it is the first; its row id.
///
/// Refuses if the network is created already, or was announced with another type.
pub fn announce(
    tx: &Tx<'_>,
    project: &str,
    name: &str,
    kind: NetworkType,
    member: i64,
    config: &Config,
) -> Result<i64> {
    let id = match find(tx, project, name)? {
        None => create(tx, project, name, kind, "", &Config::new())?,
        Some(network) if network.state != Progress::Pending => return Err(Error::conflict(taken(name))),
        Some(network) if network.kind != kind => {
            return Err(Error::bad_request(format!(
                "Network \"{name}\" is announced with the type \"{}\": it must be the same on all members",
                network.kind
            )));
        }
        Some(network) => network.id,
    };
    TABLES.define_on(tx, id, member, Progress::Pending, config)?;
    Ok(id)
}

/// Renames a network.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    TABLES.touched(tx.run("UPDATE networks SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?)
}

/// Defines it on a member, with the member's own part of the configuration.
pub fn define_on(tx: &Tx<'_>, id: i64, member: i64, state: Progress, config: &Config) -> Result<()> {
    TABLES.define_on(tx, id, member, state, config)
}

/// Takes it off a member, with the member's own configuration.
pub fn remove_from(tx: &Tx<'_>, id: i64, member: i64) -> Result<()> {
    TABLES.remove_from(tx, id, member)
}

/// Sets how far it is on a member.
pub fn set_member_state(tx: &Tx<'_>, id: i64, member: i64, state: Progress) -> Result<()> {
    TABLES.set_member_state(tx, id, member, state)
}

/// Sets how far it is altogether.
pub fn set_state(tx: &Tx<'_>, id: i64, state: Progress) -> Result<()> {
    TABLES.set_state(tx, id, state)
}

/// Changes the description and the configuration that is the same everywhere.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, config: &Config) -> Result<()> {
    TABLES.update(tx, id, description, config)
}

/// Makes a member's own part of the configuration equal to `config`.
pub fn set_member_config(tx: &Tx<'_>, id: i64, member: i64, config: &Config) -> Result<()> {
    TABLES.set_config(tx, id, Some(member), config)
}

/// Forgets it; `used_by` says whether anything still needs it.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    TABLES.delete(tx, id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn a_network_is_announced_created_renamed_and_deleted() {
        let c = database();
        let tx = Tx(&c);
        let own: Config = [("bridge.external_interfaces".into(), "eth1".into())].into();
        let id = announce(&tx, "default", "br0", NetworkType::Bridge, 1, &own).unwrap();
        let all: Config = [("ipv4.address".into(), "10.0.0.1/24".into())].into();
        update(&tx, id, "a bridge", &all).unwrap();
        let got = get(&tx, "default", "br0").unwrap();
        assert_eq!((&got.config, got.config_on(1).len(), got.state_on(1)), (&all, 2, Some(Progress::Pending)));
        let other = create(&tx, "default", "br1", NetworkType::Bridge, "", &Config::new()).unwrap();
        set_state(&tx, other, Progress::Created).unwrap();
        for (got, want) in [
            (create(&tx, "default", "br1", NetworkType::Ovn, "", &all).map(drop), "Network \"br1\" already exists"),
            (announce(&tx, "default", "br1", NetworkType::Bridge, 1, &own).map(drop), "Network \"br1\" already exists"),
            (
                announce(&tx, "default", "br0", NetworkType::Ovn, 1, &own).map(drop),
                "Network \"br0\" is announced with the type \"bridge\": it must be the same on all members",
            ),
            (rename(&tx, other, "br0"), "Network \"br0\" already exists"),
            (set_member_state(&tx, other, 1, Progress::Created), "Network not found"),
        ] {
            assert_eq!(got.unwrap_err().message, want);
        }
        rename(&tx, other, "br2").unwrap();
        delete(&tx, id).unwrap();
        assert_eq!(list(&tx, Some("default")).unwrap().iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["br2"]);
        assert_eq!(get(&tx, "default", "br0").unwrap_err().message, "Network not found");
    }
}
