//! Sets of keys and values that belong to a row: `*_config` tables, and devices with theirs.
//!
//! Writing a set changes only the rows that differ, so that the changeset which travels to the other members
//! is as small as the change.

use std::collections::{BTreeMap, HashMap};

use api::Result;
use api::key::Config;

use crate::tx::Tx;
use crate::value::codes;

/// Devices by name, each with its configuration including its `type`.
pub type Devices = BTreeMap<String, Config>;

/// A table of keys and values, and the column that says to which row they belong.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    pub table: &'static str,
    pub owner: &'static str,
}

impl Keys {
    /// The set of one row.
    pub fn of(self, tx: &Tx<'_>, id: i64) -> Result<Config> {
        let Keys { table, owner } = self;
        let sql = format!("SELECT key, value FROM {table} WHERE {owner} = ?1");
        Ok(tx.all(&sql, [id], |r| Ok((r.get(0)?, r.get(1)?)))?.into_iter().collect())
    }

    /// The sets of all rows whose ids the query `among` gives.
    pub fn of_all(self, tx: &Tx<'_>, among: &str, params: impl rusqlite::Params) -> Result<HashMap<i64, Config>> {
        let Keys { table, owner } = self;
        let sql = format!("SELECT {owner}, key, value FROM {table} WHERE {owner} IN ({among})");
        let mut all: HashMap<i64, Config> = HashMap::new();
        for (id, key, value) in tx.all(&sql, params, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))? {
            all.entry(id).or_default().insert(key, value);
        }
        Ok(all)
    }

    /// One value.
    pub fn value(self, tx: &Tx<'_>, id: i64, key: &str) -> Result<Option<String>> {
        let Keys { table, owner } = self;
        tx.one(&format!("SELECT value FROM {table} WHERE {owner} = ?1 AND key = ?2"), (id, key), |r| r.get(0))
    }

    /// Makes the set of one row equal to `want`. Empty values count as absent.
    pub fn replace(self, tx: &Tx<'_>, id: i64, want: &Config) -> Result<()> {
        let have = self.of(tx, id)?;
        for key in have.keys().filter(|k| want.get(*k).is_none_or(String::is_empty)) {
            self.set(tx, id, key, None)?;
        }
        for (key, value) in want.iter().filter(|(k, v)| !v.is_empty() && have.get(*k) != Some(v)) {
            self.set(tx, id, key, Some(value))?;
        }
        Ok(())
    }

    /// Sets one key; `None` and the empty value remove it.
    pub fn set(self, tx: &Tx<'_>, id: i64, key: &str, value: Option<&str>) -> Result<()> {
        let Keys { table, owner } = self;
        match value.filter(|v| !v.is_empty()) {
            None => tx.run(&format!("DELETE FROM {table} WHERE {owner} = ?1 AND key = ?2"), (id, key))?,
            Some(value) => {
                let sql = format!(
                    "INSERT INTO {table} ({owner}, key, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT ({owner}, key) DO UPDATE SET value = excluded.value"
                );
                tx.run(&sql, (id, key, value))?
            }
        };
        Ok(())
    }
}

codes! {
    /// What a device is.
    DeviceType, "device type" {
        /// Hides a device of the same name from a profile.
        None = 0, "none";
        /// A network interface.
        Nic = 1, "nic";
        /// A disk or directory.
        Disk = 2, "disk";
        /// A character device.
        UnixChar = 3, "unix-char";
        /// A block device.
        UnixBlock = 4, "unix-block";
        /// A USB device.
        Usb = 5, "usb";
        /// A graphics card.
        Gpu = 6, "gpu";
        /// An InfiniBand interface.
        Infiniband = 7, "infiniband";
        /// A forwarder of connections.
        Proxy = 8, "proxy";
        /// A device that comes and goes.
        UnixHotplug = 9, "unix-hotplug";
        /// A trusted platform module.
        Tpm = 10, "tpm";
        /// A PCI device.
        Pci = 11, "pci";
    }
}

/// A table of devices and the one of their keys.
#[derive(Clone, Copy)]
pub(crate) struct DeviceTables {
    pub devices: &'static str,
    /// The column of `devices` that says to which row they belong.
    pub owner: &'static str,
    pub keys: Keys,
}

impl DeviceTables {
    /// The devices of one row.
    pub fn of(self, tx: &Tx<'_>, id: i64) -> Result<Devices> {
        Ok(self.of_all(tx, "SELECT ?1", [id])?.remove(&id).unwrap_or_default())
    }

    /// The devices of all rows whose ids the query `among` gives.
    pub fn of_all(self, tx: &Tx<'_>, among: &str, params: impl rusqlite::Params) -> Result<HashMap<i64, Devices>> {
        let DeviceTables { devices, owner, keys: Keys { table, owner: device } } = self;
        let sql = format!(
            "SELECT d.{owner}, d.name, d.type, k.key, k.value FROM {devices} d
             LEFT JOIN {table} k ON k.{device} = d.id WHERE d.{owner} IN ({among})"
        );
        let mut all: HashMap<i64, Devices> = HashMap::new();
        let read = |r: &rusqlite::Row<'_>| {
            let pair: Option<(String, String)> = r.get::<_, Option<String>>(3)?.zip(r.get(4)?);
            Ok((r.get(0)?, r.get(1)?, r.get::<_, DeviceType>(2)?, pair))
        };
        for (id, name, kind, pair) in tx.all(&sql, params, read)? {
            let device = all.entry(id).or_default().entry(name).or_default();
            device.entry("type".into()).or_insert_with(|| kind.as_str().into());
            device.extend(pair);
        }
        Ok(all)
    }

    /// Makes the devices of one row equal to `want`. A device without a known `type` is refused.
    pub fn replace(self, tx: &Tx<'_>, id: i64, want: &Devices) -> Result<()> {
        let DeviceTables { devices, owner, keys } = self;
        let have = self.of(tx, id)?;
        for name in have.keys().filter(|n| !want.contains_key(*n)) {
            tx.run(&format!("DELETE FROM {devices} WHERE {owner} = ?1 AND name = ?2"), (id, name))?;
        }
        for (name, device) in want.iter().filter(|(n, d)| have.get(*n) != Some(d)) {
            let kind = device_type(name, device)?;
            let sql = format!(
                "INSERT INTO {devices} ({owner}, name, type) VALUES (?1, ?2, ?3)
                 ON CONFLICT ({owner}, name) DO UPDATE SET type = excluded.type"
            );
            tx.run(&sql, (id, name, kind))?;
            let sql = format!("SELECT id FROM {devices} WHERE {owner} = ?1 AND name = ?2");
            let row = crate::tx::found(tx.one(&sql, (id, name), |r| r.get(0))?, "Device")?;
            let mut rest = device.clone();
            rest.remove("type");
            keys.replace(tx, row, &rest)?;
        }
        Ok(())
    }
}

fn device_type(name: &str, device: &Config) -> Result<DeviceType> {
    let Some(kind) = device.get("type").filter(|t| !t.is_empty()) else {
        return Err(api::Error::bad_request(format!("Missing device type in config of device \"{name}\"")));
    };
    DeviceType::parse(kind).map_err(|e| e.context(format!("Device \"{name}\"")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    fn set(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn replacing_changes_only_what_differs() {
        let c = database();
        let (tx, keys) = (Tx(&c), Keys { table: "profiles_config", owner: "profile_id" });
        for (want, changes) in [
            (set(&[("a", "1"), ("b", "2")]), 2),
            (set(&[("a", "1"), ("b", "2")]), 0),
            (set(&[("a", "1"), ("b", "3"), ("empty", "")]), 1),
            (set(&[("c", "1"), ("b", "")]), 3),
        ] {
            let before = c.total_changes();
            keys.replace(&tx, 1, &want).unwrap();
            assert_eq!(c.total_changes() - before, changes, "{want:?}");
            let stored: Config = want.into_iter().filter(|(_, v)| !v.is_empty()).collect();
            assert_eq!(keys.of(&tx, 1).unwrap(), stored);
        }
    }

    #[test]
    fn devices_keep_their_type_in_a_column_of_its_own() {
        let c = database();
        let tx = Tx(&c);
        let tables = crate::profiles::DEVICES;
        let root = set(&[("type", "disk"), ("path", "/"), ("pool", "data")]);
        let want: Devices = [("root".into(), root.clone()), ("eth0".into(), set(&[("type", "none")]))].into();
        tables.replace(&tx, 1, &want).unwrap();
        assert_eq!(tables.of(&tx, 1).unwrap(), want);
        let code: i64 = c.query_row("SELECT type FROM profiles_devices WHERE name = 'root'", [], |r| r.get(0)).unwrap();
        assert_eq!(code, 2);
        let keys: i64 = c.query_row("SELECT COUNT(*) FROM profiles_devices_config", [], |r| r.get(0)).unwrap();
        assert_eq!(keys, 2);
        tables.replace(&tx, 1, &[("root".into(), root)].into()).unwrap();
        assert_eq!(tables.of(&tx, 1).unwrap().len(), 1);
        for (device, refused) in [
            (set(&[("type", "warp")]), "Device \"x\": Invalid device type \"warp\""),
            (set(&[("path", "/")]), "Missing device type in config of device \"x\""),
        ] {
            let e = tables.replace(&tx, 1, &[("x".into(), device)].into()).unwrap_err();
            assert_eq!(e.message, refused);
        }
    }
}
