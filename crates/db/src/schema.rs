//! The version of the global schema, and how a replica gets from one version to the next.
//!
//! The version is replicated state: the leader proposes a migration when all members can serve the new version, and
//! each replica runs the same statements with the same `now`. Programs of several versions serve with the same schema
//! (decision 011): a migration adds, what it makes superfluous goes with a later release, and a program reads and
//! writes columns by their names, those of `OLDEST` unless it has asked [`has`].

use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::Connection;

use crate::tx::{Tx, failed};
use crate::value;

/// The statements that lead from version `n` to `n + 1`, by `n`.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    #[cfg(feature = "next")]
    include_str!("migrations/next.sql"),
];

/// The newest version that this program knows.
pub const LATEST: i64 = MIGRATIONS.len() as i64;

/// The oldest version that this program can still serve with.
pub const OLDEST: i64 = 1;

/// The version that the database has; 0 if it is empty.
pub fn version(connection: &Connection) -> Result<i64> {
    let has_table = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema')";
    if !connection.query_row(has_table, [], |r| r.get(0)).map_err(failed)? {
        return Ok(0);
    }
    connection.query_row("SELECT IFNULL(MAX(version), 0) FROM schema", [], |r| r.get(0)).map_err(failed)
}

/// True if the database has this version, or a newer one: for what does without the new columns until they are there.
pub fn has(tx: &Tx<'_>, wanted: i64) -> Result<bool> {
    Ok(of(tx)? >= wanted)
}

/// The version that the database of a transaction has.
pub fn of(tx: &Tx<'_>) -> Result<i64> {
    version(tx.0)
}

/// Brings the database from the version `from` to the version `to`.
///
/// Runs within the transaction that the caller has open. `now` is what the table `schema` records; it must be
/// the same on all replicas. Refuses if the database does not have the version `from`.
pub fn migrate(connection: &Connection, from: i64, to: i64, now: Timestamp) -> Result<()> {
    let have = version(connection)?;
    if have != from {
        return Err(Error::internal(format!("The database has schema version {have}, not {from}")));
    }
    if from > to || to > LATEST {
        return Err(Error::internal(format!(
            "Can't bring the database from schema version {from} to {to}: this server knows versions up to {LATEST}"
        )));
    }
    for (step, statements) in (1..).zip(MIGRATIONS).filter(|(step, _)| (from + 1..=to).contains(step)) {
        connection.execute_batch(statements).map_err(failed)?;
        connection
            .execute("INSERT INTO schema (version, updated_at) VALUES (?1, ?2)", (step, value::Time(now)))
            .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::tx::tests::database;

    /// Tables of ours that Incus does not have.
    const OURS: [&str; 4] = ["plan_steps", "plans", "raft_ids", "tokens"];

    fn tables(c: &Connection) -> Vec<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'";
        let mut s = c.prepare(sql).unwrap();
        s.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// Name and place in the primary key of each column.
    fn columns(c: &Connection, table: &str) -> Vec<(String, i64)> {
        let mut s = c.prepare("SELECT name, pk FROM pragma_table_info(?1)").unwrap();
        s.query_map([table], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    /// The tables of a section of the contract, `None` if the contract is not at hand.
    pub(crate) fn contract(section: &str) -> Option<BTreeMap<String, Vec<String>>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/contract/db-tables.md");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("SKIPPED: the contract {} is not here, names of tables are not compared", path.display());
            return None;
        };
        let section = text.split("\n## ").find(|s| s.starts_with(section)).unwrap();
        let entry = |line: &str| {
            let (name, columns) = line.strip_prefix("- `")?.split_once("`: ")?;
            Some((name.to_owned(), columns.split(", ").map(str::to_owned).collect()))
        };
        Some(section.lines().filter_map(entry).collect())
    }

    #[test]
    fn every_table_has_a_primary_key_that_sessions_can_use() {
        let c = database();
        for table in tables(&c) {
            let without_null: i64 = c
                .query_row(
                    "SELECT COUNT(*) FROM pragma_table_info(?1) WHERE pk > 0 AND \"notnull\" = 1",
                    [&table],
                    |r| r.get(0),
                )
                .unwrap();
            let keys = columns(&c, &table).iter().filter(|c| c.1 > 0).count();
            assert!(keys > 0, "{table} has no primary key: its changes would not be replicated");
            assert_eq!(keys as i64, without_null, "the primary key of {table} may be null");
        }
        let triggers: i64 =
            c.query_row("SELECT COUNT(*) FROM sqlite_schema WHERE type = 'trigger'", [], |r| r.get(0)).unwrap();
        assert_eq!(triggers, 0, "replicas do not run triggers");
        for forbidden in ["datetime(", "strftime(", "CURRENT_TIMESTAMP", "random("] {
            assert!(MIGRATIONS.iter().all(|m| !m.contains(forbidden)), "{forbidden} differs between replicas");
        }
    }

    #[test]
    fn names_are_those_that_operators_know() {
        let Some(want) = contract("Global") else { return };
        let c = database();
        let have: BTreeMap<String, Vec<String>> = tables(&c)
            .into_iter()
            .filter(|t| !OURS.contains(&t.as_str()))
            .map(|t| (t.clone(), columns(&c, &t).into_iter().map(|c| c.0).collect()))
            .collect();
        assert_eq!(have, want);
    }

    #[test]
    fn foreign_keys_point_at_unique_columns_and_are_indexed() {
        let c = database();
        assert!(!c.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap());
        for table in tables(&c) {
            let mut s =
                c.prepare("SELECT \"table\", \"from\", \"to\", on_delete FROM pragma_foreign_key_list(?1)").unwrap();
            let keys: Vec<(String, String, String, String)> = s
                .query_map([&table], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            for (parent, from, to, on_delete) in &keys {
                assert!(columns(&c, parent).contains(&(to.clone(), 1)), "{table}.{from} points at no key of {parent}");
                assert!(["CASCADE", "SET NULL"].contains(&on_delete.as_str()), "{table}.{from}: {on_delete}");
            }
            let indexed: BTreeSet<String> = c
                .prepare("SELECT ii.name FROM pragma_index_list(?1) il, pragma_index_info(il.name) ii WHERE ii.seqno = 0 AND ii.name IS NOT NULL")
                .unwrap()
                .query_map([&table], |r| r.get(0))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            for (_, from, ..) in keys.iter().filter(|k| k.0 != "nodes_failure_domains") {
                assert!(indexed.contains(from), "{table}.{from} has no index: deleting its parent scans the table");
            }
        }
    }

    #[test]
    fn a_wrong_step_is_refused() {
        let c = database();
        assert_eq!(version(&c).unwrap(), LATEST);
        for (from, to, want) in [
            (0, LATEST, format!("The database has schema version {LATEST}, not 0")),
            (
                LATEST,
                LATEST + 1,
                format!(
                    "Can't bring the database from schema version {LATEST} to {}: this server knows versions up to {LATEST}",
                    LATEST + 1
                ),
            ),
        ] {
            assert_eq!(migrate(&c, from, to, Timestamp::UNIX_EPOCH).unwrap_err().message, want);
        }
        assert_eq!(version(&Connection::open_in_memory().unwrap()).unwrap(), 0);
    }

    /// The replicas see what the writer did as the changeset of a session, and nothing else.
    #[test]
    fn what_the_rows_write_arrives_whole_on_a_replica() {
        use rusqlite::session::{ConflictAction, ConflictType, Session};

        use crate::instances::{self, tests::new};
        use crate::{
            certificates, groups, keys::Devices, members, pools, profiles, projects, tokens, volumes, warnings,
        };
        type Step = fn(&Tx<'_>) -> Result<()>;

        let (writer, replica) = (database(), database());
        replica.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        let steps: [(&str, Step); 6] = [
            ("a member joins", |tx| {
                let new = members::NewMember {
                    name: "node2".into(),
                    address: "10.0.0.2:8443".into(),
                    schema: 1,
                    api_extensions: 1,
                    architecture: value::Architecture::X86_64,
                    state: members::State::Created,
                };
                let id = members::create(tx, &new)?;
                members::allocate_raft_id(tx, id)?;
                members::set_failure_domain(tx, id, "rack2")?;
                members::set_roles(tx, id, &[members::Role::EventHub])?;
                groups::create(tx, "g1", "", &[("user.a".into(), "1".into())].into())?;
                members::set_groups(tx, id, &["g1".into()])
            }),
            ("things are made", |tx| {
                projects::create(tx, "p1", "", &[("features.profiles".into(), "true".into())].into())?;
                let pool = pools::announce(tx, "data", "dir", 2, &[("source".into(), "/srv".into())].into())?;
                volumes::create(tx, &volumes::tests::new(pool, "c1", volumes::VolumeType::Container, Some(2)))?;
                instances::create(tx, &new("default", "c1"))?;
                instances::create(tx, &instances::NewInstance { member_id: 2, ..new("p1", "c1") })?;
                warnings::raise(
                    tx,
                    warnings::Subject::member(warnings::Kind::OfflineMember, 2),
                    "x",
                    "u",
                    Timestamp::UNIX_EPOCH,
                )
            }),
            ("they change", |tx| {
                instances::patch_config(tx, 1, [("volatile.uuid", None), ("volatile.x", Some("2"))])?;
                instances::rename(tx, 1, "tmp")?;
                instances::set_project(tx, 1, "p1", &["default".into()])?;
                instances::rename(tx, 2, "c2")?;
                instances::rename(tx, 1, "c1")?;
                profiles::update(
                    tx,
                    1,
                    "changed",
                    &Default::default(),
                    &[("root".into(), [("type".into(), "disk".into())].into())].into(),
                )?;
                profiles::update(tx, 1, "changed", &Default::default(), &Devices::new())
            }),
            ("trust changes", |tx| {
                let new = certificates::NewCertificate {
                    fingerprint: "ab".into(),
                    kind: certificates::CertificateType::Client,
                    name: "laptop".into(),
                    certificate: "PEM".into(),
                    restricted: true,
                    description: String::new(),
                    projects: vec!["p1".into()],
                };
                certificates::create(tx, &new)?;
                tokens::list(tx, tokens::Kind::Join).map(drop)
            }),
            ("a member goes, with all that is on it", |tx| members::delete(tx, 2, Timestamp::UNIX_EPOCH)),
            ("a project goes", |tx| projects::delete(tx, 2)),
        ];
        for (what, step) in steps {
            writer.execute_batch("BEGIN IMMEDIATE").unwrap();
            let mut session = Session::new(&writer).unwrap();
            session.attach(None::<&str>).unwrap();
            step(&Tx(&writer)).unwrap();
            let mut changes = Vec::new();
            session.changeset_strm(&mut changes).unwrap();
            drop(session);
            writer.execute_batch("COMMIT").unwrap();
            replica
                .apply_strm(&mut changes.as_slice(), None::<fn(&str) -> bool>, move |kind: ConflictType, _| {
                    eprintln!("{what}: {kind:?}");
                    ConflictAction::SQLITE_CHANGESET_ABORT
                })
                .unwrap();
            let text = |c: &Connection| crate::sql::dump(&Tx(c), false).unwrap();
            assert_eq!(text(&replica), text(&writer), "{what}");
        }
        let left: i64 = writer.query_row("SELECT COUNT(*) FROM instances", [], |r| r.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
