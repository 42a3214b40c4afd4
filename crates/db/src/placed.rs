//! What pools and networks have in common: they are defined once, and on each member in its own way.

use std::collections::HashMap;

use api::Result;
use api::key::Config;
use rusqlite::Params;

use crate::members::gather;
use crate::tx::{Tx, Words, touched};
use crate::value::Progress;

/// How something is defined on one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Row id of the member.
    pub member_id: i64,
    /// Name of the member.
    pub member: String,
    /// How far it is there.
    pub state: Progress,
    /// The part of the configuration that is the member's own.
    pub config: Config,
}

/// The tables of one sort of thing.
#[derive(Clone, Copy)]
pub(crate) struct Placed {
    /// The table of the things.
    pub table: &'static str,
    /// The table that says on which members they are.
    pub nodes: &'static str,
    /// The table of their configuration; `node_id` is null where it is the same everywhere.
    pub config: &'static str,
    /// The column of `nodes` and `config` that says to which row they belong.
    pub owner: &'static str,
    /// What a person calls one, as in "Network not found".
    pub what: &'static str,
}

/// By row id: the configuration that is the same everywhere, and the placements.
pub(crate) type Parts = (HashMap<i64, Config>, HashMap<i64, Vec<Placement>>);

impl Placed {
    /// The parts of all rows whose ids the query `among` gives.
    pub fn of_all(self, tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Parts> {
        let Placed { nodes, config, owner, .. } = self;
        let mut global: HashMap<i64, Config> = HashMap::new();
        let mut local: HashMap<(i64, i64), Config> = HashMap::new();
        let sql = format!("SELECT {owner}, node_id, key, value FROM {config} WHERE {owner} IN ({among})");
        for (id, member, key, value) in tx.all(&sql, params, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))? {
            match member {
                None => global.entry(id).or_default(),
                Some(member) => local.entry((id, member)).or_default(),
            }
            .insert(key, value);
        }
        let sql = format!(
            "SELECT p.{owner}, n.id, n.name, p.state FROM {nodes} p JOIN nodes n ON n.id = p.node_id
             WHERE p.{owner} IN ({among}) ORDER BY p.id"
        );
        let placements = tx.all(&sql, params, |r| {
            let (id, member_id) = (r.get(0)?, r.get(1)?);
            let config = local.remove(&(id, member_id)).unwrap_or_default();
            Ok((id, Placement { member_id, member: r.get(2)?, state: r.get(3)?, config }))
        })?;
        Ok((global, gather(placements)))
    }

    /// Makes the configuration equal to `want`: of one member, or that which is the same everywhere.
    pub fn set_config(self, tx: &Tx<'_>, id: i64, member: Option<i64>, want: &Config) -> Result<()> {
        let Placed { config, owner, .. } = self;
        let sql = format!("SELECT key, value FROM {config} WHERE {owner} = ?1 AND node_id IS ?2");
        let have: Config = tx.all(&sql, (id, member), |r| Ok((r.get(0)?, r.get(1)?)))?.into_iter().collect();
        for key in have.keys().filter(|k| want.get(*k).is_none_or(String::is_empty)) {
            let sql = format!("DELETE FROM {config} WHERE {owner} = ?1 AND node_id IS ?2 AND key = ?3");
            tx.run(&sql, (id, member, key))?;
        }
        for (key, value) in want.iter().filter(|(k, v)| !v.is_empty() && have.get(*k) != Some(v)) {
            let sql = format!(
                "INSERT INTO {config} ({owner}, node_id, key, value) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT ({owner}, IFNULL(node_id, -1), key) DO UPDATE SET value = excluded.value"
            );
            tx.run(&sql, (id, member, key, value))?;
        }
        Ok(())
    }

    /// Defines it on a member.
    pub fn define_on(self, tx: &Tx<'_>, id: i64, member: i64, state: Progress, config: &Config) -> Result<()> {
        let Placed { nodes, owner, what, .. } = self;
        let sql = format!("INSERT INTO {nodes} ({owner}, node_id, state) VALUES (?1, ?2, ?3)");
        tx.run(&sql, (id, member, state)).or_taken(|| format!("{what} is already defined on that cluster member"))?;
        self.set_config(tx, id, Some(member), config)
    }

    /// Sets how far it is on a member.
    pub fn set_member_state(self, tx: &Tx<'_>, id: i64, member: i64, state: Progress) -> Result<()> {
        let Placed { nodes, owner, .. } = self;
        let sql = format!("UPDATE {nodes} SET state = ?3 WHERE {owner} = ?1 AND node_id = ?2");
        self.touched(tx.run(&sql, (id, member, state))?)
    }

    /// Takes it off a member, with the member's own configuration.
    pub fn remove_from(self, tx: &Tx<'_>, id: i64, member: i64) -> Result<()> {
        let Placed { nodes, owner, .. } = self;
        self.set_config(tx, id, Some(member), &Config::new())?;
        tx.run(&format!("DELETE FROM {nodes} WHERE {owner} = ?1 AND node_id = ?2"), (id, member)).map(drop)
    }

    /// Sets how far it is altogether.
    pub fn set_state(self, tx: &Tx<'_>, id: i64, state: Progress) -> Result<()> {
        self.touched(tx.run(&format!("UPDATE {} SET state = ?2 WHERE id = ?1", self.table), (id, state))?)
    }

    /// Changes its description and the configuration that is the same everywhere.
    pub fn update(self, tx: &Tx<'_>, id: i64, description: &str, config: &Config) -> Result<()> {
        let sql = format!("UPDATE {} SET description = ?2 WHERE id = ?1", self.table);
        self.touched(tx.run(&sql, (id, description))?)?;
        self.set_config(tx, id, None, config)
    }

    /// Forgets it.
    pub fn delete(self, tx: &Tx<'_>, id: i64) -> Result<()> {
        self.touched(tx.run(&format!("DELETE FROM {} WHERE id = ?1", self.table), [id])?)
    }

    /// Refuses with "not found" if a statement touched no row.
    pub fn touched(self, rows: usize) -> Result<()> {
        touched(rows, self.what)
    }
}

/// Adds to a row type with `config` and `members` what follows from them.
macro_rules! placed_row {
    ($row:ty) => {
        impl $row {
            /// The whole configuration as it holds on a member: what is the same everywhere, and its own.
            pub fn config_on(&self, member: i64) -> api::key::Config {
                let own = self.members.iter().find(|m| m.member_id == member);
                self.config
                    .iter()
                    .chain(own.iter().flat_map(|m| &m.config))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect()
            }

            /// Names of the members that it is defined on.
            pub fn locations(&self) -> Vec<String> {
                self.members.iter().map(|m| m.member.clone()).collect()
            }

            /// How far it is on a member, if it is defined there.
            pub fn state_on(&self, member: i64) -> Option<$crate::value::Progress> {
                self.members.iter().find(|m| m.member_id == member).map(|m| m.state)
            }
        }
    };
}
pub(crate) use placed_row;
