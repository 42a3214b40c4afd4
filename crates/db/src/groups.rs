//! Named sets of cluster members.

use api::Result;
use api::key::Config;

use crate::keys::Keys;
use crate::members::gather;
use crate::tx::{Tx, Words, found, touched};

const CONFIG: Keys = Keys { table: "cluster_groups_config", owner: "cluster_group_id" };
const NOT_FOUND: &str = "Cluster_group";

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Row id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Its configuration.
    pub config: Config,
    /// Names of its members, in the order in which they entered.
    pub members: Vec<String>,
}

/// All groups, by name.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Group>> {
    select(tx, "SELECT id FROM cluster_groups WHERE ?1 IS NULL", None)
}

/// The group of that name.
pub fn get(tx: &Tx<'_>, name: &str) -> Result<Group> {
    found(select(tx, "SELECT id FROM cluster_groups WHERE name = ?1", Some(name))?.pop(), NOT_FOUND)
}

/// Row id of the group of that name.
pub fn id(tx: &Tx<'_>, name: &str) -> Result<i64> {
    found(tx.one("SELECT id FROM cluster_groups WHERE name = ?1", [name], |r| r.get(0))?, NOT_FOUND)
}

fn select(tx: &Tx<'_>, among: &str, name: Option<&str>) -> Result<Vec<Group>> {
    let mut config = CONFIG.of_all(tx, among, [name])?;
    let sql = format!(
        "SELECT ng.group_id, n.name FROM nodes_cluster_groups ng JOIN nodes n ON n.id = ng.node_id
         WHERE ng.group_id IN ({among}) ORDER BY ng.id"
    );
    let mut members = gather(tx.all(&sql, [name], |r| Ok((r.get(0)?, r.get(1)?)))?);
    let sql = format!("SELECT id, name, description FROM cluster_groups WHERE id IN ({among}) ORDER BY name");
    tx.all(&sql, [name], |r| {
        let id = r.get(0)?;
        Ok(Group {
            id,
            name: r.get(1)?,
            description: r.get(2)?,
            config: config.remove(&id).unwrap_or_default(),
            members: members.remove(&id).unwrap_or_default(),
        })
    })
}

/// Adds an empty group; its row id.
pub fn create(tx: &Tx<'_>, name: &str, description: &str, config: &Config) -> Result<i64> {
    let id = tx
        .insert("INSERT INTO cluster_groups (name, description) VALUES (?1, ?2)", (name, description))
        .or_taken(|| taken(name))?;
    CONFIG.replace(tx, id, config)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Cluster group \"{name}\" already exists")
}

/// Changes the description and the configuration of a group.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, config: &Config) -> Result<()> {
    touched(tx.run("UPDATE cluster_groups SET description = ?2 WHERE id = ?1", (id, description))?, NOT_FOUND)?;
    CONFIG.replace(tx, id, config)
}

/// Makes the members of a group equal to `members`, by name.
pub fn set_members(tx: &Tx<'_>, id: i64, members: &[String]) -> Result<()> {
    let ids = members.iter().map(|m| crate::members::id(tx, m)).collect::<Result<Vec<i64>>>()?;
    let have: Vec<i64> = tx.all("SELECT node_id FROM nodes_cluster_groups WHERE group_id = ?1", [id], |r| r.get(0))?;
    for gone in have.iter().filter(|m| !ids.contains(m)) {
        tx.run("DELETE FROM nodes_cluster_groups WHERE group_id = ?1 AND node_id = ?2", (id, gone))?;
    }
    for new in ids.iter().filter(|m| !have.contains(m)) {
        let sql = "INSERT INTO nodes_cluster_groups (group_id, node_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        tx.run(sql, (id, new))?;
    }
    Ok(())
}

/// Renames a group.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE cluster_groups SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Removes a group; its members stay.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM cluster_groups WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn a_group_lives_and_dies() {
        let c = database();
        let tx = Tx(&c);
        let config: Config = [("user.a".into(), "1".into())].into();
        let id = create(&tx, "g1", "first", &config).unwrap();
        set_members(&tx, id, &["none".into()]).unwrap();
        set_members(&tx, id, &["none".into()]).unwrap();
        let want = Group { id, name: "g1".into(), description: "first".into(), config, members: vec!["none".into()] };
        assert_eq!(get(&tx, "g1").unwrap(), want);
        assert_eq!(create(&tx, "g1", "", &Config::new()).unwrap_err().message, "Cluster group \"g1\" already exists");
        assert_eq!(rename(&tx, id, "default").unwrap_err().message, "Cluster group \"default\" already exists");
        rename(&tx, id, "g2").unwrap();
        update(&tx, id, "second", &Config::new()).unwrap();
        set_members(&tx, id, &[]).unwrap();
        assert_eq!(
            list(&tx).unwrap().iter().map(|g| (g.name.as_str(), g.members.len())).collect::<Vec<_>>(),
            [("default", 1), ("g2", 0)]
        );
        delete(&tx, id).unwrap();
        assert_eq!(get(&tx, "g2").unwrap_err(), api::Error::not_found("Cluster_group not found"));
    }
}
