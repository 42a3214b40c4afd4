//! Storage pools.

use api::key::Config;
use api::{Error, Result};

pub use crate::placed::Placement;
use crate::placed::{Placed, placed_row};
use crate::tx::{Tx, Words, found};
pub use crate::value::Progress;

const TABLES: Placed = Placed {
    table: "storage_pools",
    nodes: "storage_pools_nodes",
    config: "storage_pools_config",
    owner: "storage_pool_id",
    what: "Storage pool",
};

/// A storage pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Row id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// What manages it, as `dir`.
    pub driver: String,
    /// Free text.
    pub description: String,
    /// How far it is altogether.
    pub state: Progress,
    /// The configuration that is the same on all members.
    pub config: Config,
    /// Where it is defined, in that order.
    pub members: Vec<Placement>,
}

placed_row!(Pool);

/// All pools, by name.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Pool>> {
    select(tx, "SELECT id FROM storage_pools WHERE ?1 IS NULL", None)
}

/// The pool of that name.
pub fn get(tx: &Tx<'_>, name: &str) -> Result<Pool> {
    found(select(tx, "SELECT id FROM storage_pools WHERE name = ?1", Some(name))?.pop(), TABLES.what)
}

/// Row id of the pool of that name.
pub fn id(tx: &Tx<'_>, name: &str) -> Result<i64> {
    found(tx.one("SELECT id FROM storage_pools WHERE name = ?1", [name], |r| r.get(0))?, TABLES.what)
}

fn select(tx: &Tx<'_>, among: &str, name: Option<&str>) -> Result<Vec<Pool>> {
    let (mut config, mut members) = TABLES.of_all(tx, among, [name])?;
    tx.all(&format!("SELECT * FROM storage_pools WHERE id IN ({among}) ORDER BY name"), [name], |r| {
        let id = r.get("id")?;
        Ok(Pool {
            id,
            name: r.get("name")?,
            driver: r.get("driver")?,
            description: r.get("description")?,
            state: r.get("state")?,
            config: config.remove(&id).unwrap_or_default(),
            members: members.remove(&id).unwrap_or_default(),
        })
    })
}

/// Adds a pool that is pending and defined on no member yet; its row id.
pub fn create(tx: &Tx<'_>, name: &str, driver: &str, description: &str, config: &Config) -> Result<i64> {
    let sql = "INSERT INTO storage_pools (name, driver, description, state) VALUES (?1, ?2, ?3, ?4)";
    let id = tx.insert(sql, (name, driver, description, Progress::Pending)).or_taken(|| taken(name))?;
    TABLES.set_config(tx, id, None, config)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Storage pool \"{name}\" already exists")
}

/// Announces a pool on a member (`--target`), and altogether if it is the first; its row id.
///
/// Refuses if the pool is created already, or was announced with another driver.
pub fn announce(tx: &Tx<'_>, name: &str, driver: &str, member: i64, config: &Config) -> Result<i64> {
    let id = match select(tx, "SELECT id FROM storage_pools WHERE name = ?1", Some(name))?.pop() {
        None => create(tx, name, driver, "", &Config::new())?,
        Some(pool) if pool.state != Progress::Pending => return Err(Error::conflict(taken(name))),
        Some(pool) if pool.driver != driver => {
            return Err(Error::bad_request(format!(
                "Storage pool \"{name}\" is announced with the driver \"{}\": it must be the same on all members",
                pool.driver
            )));
        }
        Some(pool) => pool.id,
    };
    TABLES.define_on(tx, id, member, Progress::Pending, config)?;
    Ok(id)
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

    fn set(key: &str, value: &str) -> Config {
        [(key.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn a_pool_is_announced_created_and_deleted() {
        let c = database();
        let tx = Tx(&c);
        let id = announce(&tx, "data", "dir", 1, &set("source", "/srv")).unwrap();
        for (got, want) in [
            (
                announce(&tx, "data", "btrfs", 1, &Config::new()),
                "Storage pool \"data\" is announced with the driver \"dir\": it must be the same on all members",
            ),
            (announce(&tx, "data", "dir", 1, &Config::new()), "Storage pool is already defined on that cluster member"),
            (get(&tx, "nope").map(|p| p.id), "Storage pool not found"),
        ] {
            assert_eq!(got.unwrap_err().message, want);
        }
        update(&tx, id, "all data", &set("rsync.bwlimit", "1")).unwrap();
        set_member_state(&tx, id, 1, Progress::Created).unwrap();
        set_state(&tx, id, Progress::Created).unwrap();
        let got = get(&tx, "data").unwrap();
        assert_eq!(got.config, set("rsync.bwlimit", "1"));
        assert_eq!(got.config_on(1).len(), 2);
        assert_eq!(
            (got.locations(), got.state_on(1), got.state_on(2)),
            (vec!["none".into()], Some(Progress::Created), None)
        );
        assert_eq!(
            announce(&tx, "data", "dir", 1, &Config::new()).unwrap_err().message,
            "Storage pool \"data\" already exists"
        );
        set_member_config(&tx, id, 1, &set("source", "/mnt")).unwrap();
        assert_eq!(get(&tx, "data").unwrap().config_on(1)["source"], "/mnt");
        remove_from(&tx, id, 1).unwrap();
        assert!(list(&tx).unwrap()[0].members.is_empty());
        delete(&tx, id).unwrap();
        assert!(list(&tx).unwrap().is_empty());
    }
}
