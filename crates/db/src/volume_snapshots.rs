//! Snapshots of storage volumes.

use std::collections::HashMap;

use api::Result;
use api::key::Config;
use jiff::Timestamp;
use rusqlite::Params;

use crate::keys::Keys;
use crate::tx::{Tx, Words, found, touched};
use crate::value::{maybe, maybe_time};

const CONFIG: Keys = Keys { table: "storage_volumes_snapshots_config", owner: "storage_volume_snapshot_id" };
const NOT_FOUND: &str = "Storage volume snapshot";

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSnapshot {
    /// Row id.
    pub id: i64,
    /// Row id of the volume.
    pub volume_id: i64,
    /// Name, unique among the snapshots of the volume.
    pub name: String,
    /// Free text.
    pub description: String,
    /// When it was taken.
    pub created: Option<Timestamp>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// The configuration of the volume then.
    pub config: Config,
}

/// The snapshots of one volume, oldest first.
pub fn list(tx: &Tx<'_>, volume: i64) -> Result<Vec<VolumeSnapshot>> {
    select(tx, "SELECT id FROM storage_volumes_snapshots WHERE storage_volume_id = ?1", [volume])
}

/// The snapshots of all volumes of a pool, by the row id of the volume, oldest first.
pub fn list_all(tx: &Tx<'_>, pool: i64) -> Result<HashMap<i64, Vec<VolumeSnapshot>>> {
    let among = "SELECT s.id FROM storage_volumes_snapshots s JOIN storage_volumes v ON v.id = s.storage_volume_id
                 WHERE v.storage_pool_id = ?1";
    let all = select(tx, among, [pool])?;
    Ok(crate::members::gather(all.into_iter().map(|s| (s.volume_id, s)).collect()))
}

/// The snapshot of that name.
pub fn get(tx: &Tx<'_>, volume: i64, name: &str) -> Result<VolumeSnapshot> {
    let among = "SELECT id FROM storage_volumes_snapshots WHERE storage_volume_id = ?1 AND name = ?2";
    found(select(tx, among, (volume, name))?.pop(), NOT_FOUND)
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<VolumeSnapshot>> {
    let mut config = CONFIG.of_all(tx, among, params)?;
    let sql = format!("SELECT * FROM storage_volumes_snapshots WHERE id IN ({among}) ORDER BY creation_date, id");
    tx.all(&sql, params, |r| {
        let id = r.get("id")?;
        Ok(VolumeSnapshot {
            id,
            volume_id: r.get("storage_volume_id")?,
            name: r.get("name")?,
            description: r.get("description")?,
            created: maybe_time(r, "creation_date")?,
            expires: maybe_time(r, "expiry_date")?,
            config: config.remove(&id).unwrap_or_default(),
        })
    })
}

/// Records a snapshot with the configuration that the volume has now; its row id.
pub fn create(
    tx: &Tx<'_>,
    volume: i64,
    name: &str,
    description: &str,
    created: Timestamp,
    expires: Option<Timestamp>,
) -> Result<i64> {
    let config = crate::volumes::by_id(tx, volume)?.config;
    let sql = "INSERT INTO storage_volumes_snapshots (storage_volume_id, name, description, expiry_date, creation_date)
               VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = (volume, name, description, maybe(expires), maybe(Some(created)));
    let id = tx.insert(sql, values).or_taken(|| taken(name))?;
    CONFIG.replace(tx, id, &config)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Snapshot \"{name}\" already exists")
}

/// Changes the description and the expiry of a snapshot.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, expires: Option<Timestamp>) -> Result<()> {
    let sql = "UPDATE storage_volumes_snapshots SET description = ?2, expiry_date = ?3 WHERE id = ?1";
    touched(tx.run(sql, (id, description, maybe(expires)))?, NOT_FOUND)
}

/// Renames a snapshot.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let sql = "UPDATE storage_volumes_snapshots SET name = ?2 WHERE id = ?1";
    touched(tx.run(sql, (id, name)).or_taken(|| taken(name))?, NOT_FOUND)
}

/// Forgets a snapshot.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM storage_volumes_snapshots WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;
    use crate::volumes::{self, VolumeType};

    #[test]
    fn a_snapshot_lives_and_dies() {
        let c = database();
        let tx = Tx(&c);
        let pool = crate::pools::create(&tx, "data", "dir", "", &Config::new()).unwrap();
        let volume = volumes::create(&tx, &volumes::tests::new(pool, "v", VolumeType::Custom, Some(1))).unwrap();
        let id = create(&tx, volume, "snap1", "", Timestamp::from_second(20).unwrap(), None).unwrap();
        create(&tx, volume, "snap0", "", Timestamp::from_second(10).unwrap(), None).unwrap();
        let got = list(&tx, volume).unwrap();
        assert_eq!(
            got.iter().map(|s| (s.name.as_str(), s.config.len())).collect::<Vec<_>>(),
            [("snap0", 1), ("snap1", 1)]
        );
        assert_eq!(list_all(&tx, pool).unwrap()[&volume], got);
        assert_eq!(rename(&tx, id, "snap0").unwrap_err().message, "Snapshot \"snap0\" already exists");
        rename(&tx, id, "last").unwrap();
        update(&tx, id, "x", Some(Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(get(&tx, volume, "last").unwrap().expires, Some(Timestamp::UNIX_EPOCH));
        delete(&tx, id).unwrap();
        assert_eq!(get(&tx, volume, "last").unwrap_err().message, "Storage volume snapshot not found");
    }
}
