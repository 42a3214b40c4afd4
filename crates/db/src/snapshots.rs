//! Snapshots of instances: what the instance was like when it was taken.

use std::collections::HashMap;

use api::Result;
use api::key::Config;
use jiff::Timestamp;
use rusqlite::{Params, named_params};

use crate::instances::Filter;
use crate::keys::{DeviceTables, Devices, Keys};
use crate::tx::{Tx, Words, found, touched};
use crate::value::{Time, maybe, maybe_time, time};

const CONFIG: Keys = Keys { table: "instances_snapshots_config", owner: "instance_snapshot_id" };
const DEVICES: DeviceTables = DeviceTables {
    devices: "instances_snapshots_devices",
    owner: "instance_snapshot_id",
    keys: Keys { table: "instances_snapshots_devices_config", owner: "instance_snapshot_device_id" },
};
const NOT_FOUND: &str = "Instance snapshot";

/// A snapshot of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Row id.
    pub id: i64,
    /// Row id of the instance.
    pub instance_id: i64,
    /// Name, unique among the snapshots of the instance.
    pub name: String,
    /// When it was taken.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// True if the memory of the instance is in it.
    pub stateful: bool,
    /// Free text.
    pub description: String,
    /// The instance's own configuration then.
    pub config: Config,
    /// The instance's own devices then.
    pub devices: Devices,
}

/// A snapshot to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Row id of the instance.
    pub instance_id: i64,
    /// Name.
    pub name: String,
    /// When it was taken.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// True if the memory of the instance is in it.
    pub stateful: bool,
    /// Free text.
    pub description: String,
    /// The instance's own configuration now.
    pub config: Config,
    /// The instance's own devices now.
    pub devices: Devices,
}

/// The snapshots of one instance, oldest first.
pub fn list(tx: &Tx<'_>, instance: i64) -> Result<Vec<Snapshot>> {
    select(tx, "SELECT id FROM instances_snapshots WHERE instance_id = ?1", [instance])
}

/// The snapshots of all instances that match, by the row id of the instance, oldest first.
pub fn list_all(tx: &Tx<'_>, which: Filter<'_>) -> Result<HashMap<i64, Vec<Snapshot>>> {
    let among = "SELECT s.id FROM instances_snapshots s JOIN instances i ON i.id = s.instance_id
        WHERE (:project IS NULL OR i.project_id = (SELECT id FROM projects WHERE name = :project))
        AND (:member IS NULL OR i.node_id = :member) AND (:kind IS NULL OR i.type = :kind)";
    let params = named_params! {":project": which.project, ":member": which.member, ":kind": which.kind};
    let all = select(tx, among, params)?;
    Ok(crate::members::gather(all.into_iter().map(|s| (s.instance_id, s)).collect()))
}

/// The snapshot of that name.
pub fn get(tx: &Tx<'_>, instance: i64, name: &str) -> Result<Snapshot> {
    let among = "SELECT id FROM instances_snapshots WHERE instance_id = ?1 AND name = ?2";
    found(select(tx, among, (instance, name))?.pop(), NOT_FOUND)
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<Snapshot>> {
    let mut config = CONFIG.of_all(tx, among, params)?;
    let mut devices = DEVICES.of_all(tx, among, params)?;
    let sql = format!("SELECT * FROM instances_snapshots WHERE id IN ({among}) ORDER BY creation_date, id");
    tx.all(&sql, params, |r| {
        let id = r.get("id")?;
        Ok(Snapshot {
            id,
            instance_id: r.get("instance_id")?,
            name: r.get("name")?,
            created: time(r, "creation_date")?,
            expires: maybe_time(r, "expiry_date")?,
            stateful: r.get("stateful")?,
            description: r.get("description")?,
            config: config.remove(&id).unwrap_or_default(),
            devices: devices.remove(&id).unwrap_or_default(),
        })
    })
}

/// Records a snapshot; its row id.
pub fn create(tx: &Tx<'_>, new: &NewSnapshot) -> Result<i64> {
    let sql = "INSERT INTO instances_snapshots (instance_id, name, creation_date, stateful, description, expiry_date)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let values = (new.instance_id, &new.name, Time(new.created), new.stateful, &new.description, maybe(new.expires));
    let id = tx.insert(sql, values).or_taken(|| taken(&new.name))?;
    CONFIG.replace(tx, id, &new.config)?;
    DEVICES.replace(tx, id, &new.devices)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Snapshot \"{name}\" already exists")
}

/// Changes the description and the expiry of a snapshot.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, expires: Option<Timestamp>) -> Result<()> {
    let sql = "UPDATE instances_snapshots SET description = ?2, expiry_date = ?3 WHERE id = ?1";
    touched(tx.run(sql, (id, description, maybe(expires)))?, NOT_FOUND)
}

/// Renames a snapshot.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE instances_snapshots SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Forgets a snapshot.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM instances_snapshots WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::instances;
    use crate::tx::tests::database;

    #[test]
    fn a_snapshot_lives_and_dies() {
        let c = database();
        let tx = Tx(&c);
        let instance = instances::create(&tx, &instances::tests::new("default", "c1")).unwrap();
        let new = |name: &str, at: i64| NewSnapshot {
            instance_id: instance,
            name: name.into(),
            created: Timestamp::from_second(at).unwrap(),
            expires: None,
            stateful: false,
            description: String::new(),
            config: [("limits.cpu".into(), "1".into())].into(),
            devices: [("root".into(), [("type".into(), "disk".into())].into())].into(),
        };
        let second = create(&tx, &new("snap1", 20)).unwrap();
        create(&tx, &new("snap0", 10)).unwrap();
        let got = list(&tx, instance).unwrap();
        assert_eq!(got.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["snap0", "snap1"]);
        assert_eq!((got[1].config.len(), got[1].devices.len()), (1, 1));
        assert_eq!(list_all(&tx, Filter::default()).unwrap()[&instance], got);
        assert_eq!(create(&tx, &new("snap0", 30)).unwrap_err().message, "Snapshot \"snap0\" already exists");
        assert_eq!(rename(&tx, second, "snap0").unwrap_err().message, "Snapshot \"snap0\" already exists");
        rename(&tx, second, "last").unwrap();
        update(&tx, second, "the last", Some(Timestamp::UNIX_EPOCH)).unwrap();
        let got = get(&tx, instance, "last").unwrap();
        assert_eq!((got.description.as_str(), got.expires), ("the last", Some(Timestamp::UNIX_EPOCH)));
        delete(&tx, second).unwrap();
        assert_eq!(get(&tx, instance, "last").unwrap_err().message, "Instance snapshot not found");
        instances::delete(&tx, instance).unwrap();
        assert!(list(&tx, instance).unwrap().is_empty());
    }
}
