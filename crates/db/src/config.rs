//! The configuration of the server that is the same on all members.

use api::Result;
use api::key::Config;

use crate::tx::Tx;

/// Keys that begin so are the cluster's own business, and no configuration.
pub(crate) const INTERNAL: &str = "internal.";

/// All keys that are set.
pub fn get(tx: &Tx<'_>) -> Result<Config> {
    Ok(tx
        .all("SELECT key, value FROM config WHERE key NOT LIKE ?1 || '%'", [INTERNAL], |r| Ok((r.get(0)?, r.get(1)?)))?
        .into_iter()
        .collect())
}

/// One value, be it internal.
pub(crate) fn value(tx: &Tx<'_>, key: &str) -> Result<Option<String>> {
    tx.one("SELECT value FROM config WHERE key = ?1", [key], |r| r.get(0))
}

/// Sets one key; `None` and the empty value remove it.
pub fn set(tx: &Tx<'_>, key: &str, value: Option<&str>) -> Result<()> {
    match value.filter(|v| !v.is_empty()) {
        None => tx.run("DELETE FROM config WHERE key = ?1", [key])?,
        Some(value) => {
            let sql = "INSERT INTO config (key, value) VALUES (?1, ?2)
                       ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value";
            tx.run(sql, (key, value))?
        }
    };
    Ok(())
}

/// Makes the configuration equal to `want`. Empty values count as absent.
pub fn replace(tx: &Tx<'_>, want: &Config) -> Result<()> {
    for key in get(tx)?.keys().filter(|k| !want.contains_key(*k)) {
        set(tx, key, None)?;
    }
    patch(tx, want)
}

/// Sets the keys of `changes` and leaves the others. Empty values remove their keys.
pub fn patch(tx: &Tx<'_>, changes: &Config) -> Result<()> {
    changes.iter().try_for_each(|(key, value)| set(tx, key, Some(value)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn keys_are_set_replaced_and_removed() {
        let c = database();
        let tx = Tx(&c);
        let set = |pairs: &[(&str, &str)]| -> Config {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        patch(&tx, &set(&[("cluster.max_voters", "5"), ("user.a", "1")])).unwrap();
        patch(&tx, &set(&[("user.a", "2"), ("user.b", "")])).unwrap();
        assert_eq!(get(&tx).unwrap(), set(&[("cluster.max_voters", "5"), ("user.a", "2")]));
        super::set(&tx, "internal.x", Some("secret")).unwrap();
        replace(&tx, &set(&[("user.c", "3")])).unwrap();
        assert_eq!(get(&tx).unwrap(), set(&[("user.c", "3")]));
        assert_eq!(value(&tx, "internal.x").unwrap().as_deref(), Some("secret"), "it is not shown and not replaced");
    }
}
