//! The member's own database, `database/local.db`: what it must know before it can reach the others.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::internal::SqlResult;
use api::key::Config;
use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::certificates::CertificateType;
use crate::tx::{Tx, failed};
use crate::value::{Time, codes};
use crate::{config, sql};

/// The statements that lead from version `n` to `n + 1`, by `n`.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE schema (id INTEGER PRIMARY KEY NOT NULL, version INTEGER NOT NULL UNIQUE, updated_at TEXT NOT NULL);
    CREATE TABLE config (id INTEGER PRIMARY KEY NOT NULL, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL);
    CREATE TABLE patches (id INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, applied_at TEXT NOT NULL);
    CREATE TABLE certificates (
        id INTEGER PRIMARY KEY NOT NULL,
        fingerprint TEXT NOT NULL UNIQUE,
        type INTEGER NOT NULL,
        name TEXT NOT NULL,
        certificate TEXT NOT NULL
    );
    CREATE TABLE raft_nodes (
        id INTEGER PRIMARY KEY NOT NULL,
        address TEXT NOT NULL UNIQUE,
        role INTEGER NOT NULL,
        name TEXT NOT NULL DEFAULT ''
    );
    -- What this member is in the database: its Raft id, and the incarnation of the cluster that it belongs to.
    CREATE TABLE identity (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);
"];

/// Under this key of `identity` stands the incarnation of a database that was given up.
const GIVEN_UP: &str = "given_up";
/// Under this key of `identity` stand the changed addresses.
const MOVED: &str = "moved";

codes! {
    /// What a member does in the database.
    RaftRole, "database role" {
        /// It votes.
        Voter = 0, "voter";
        /// It is ready to vote.
        StandBy = 1, "stand-by";
        /// It follows.
        Spare = 2, "spare";
    }
}

/// A member as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftNode {
    /// Raft id.
    pub id: u64,
    /// Name of the member.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// What it does.
    pub role: RaftRole,
}

/// A member whose address was changed while the database could not be asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its Raft id.
    pub id: u64,
    /// The address that the database knows.
    pub old: String,
    /// The address that it has now.
    pub new: String,
}

impl Moved {
    /// True if the change is still to be made where the database has this address.
    pub fn applies_to(&self, address: &str) -> bool {
        address == self.old || address == self.parked()
    }

    /// What stands in the place of its address while it changes addresses with another member.
    pub(crate) fn parked(&self) -> String {
        format!("moving-{}", self.id)
    }
}

/// The certificate of a member that is trusted before the global database can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedServer {
    /// SHA-256 of the DER, in hexadecimal.
    pub fingerprint: String,
    /// Name of the member.
    pub name: String,
    /// PEM.
    pub certificate: String,
}

/// A handle of the local database. Clones share one connection; every call is short and blocks.
#[derive(Clone, Debug)]
pub struct Local {
    connection: Arc<Mutex<Connection>>,
    /// All keys of the configuration, unless it may have changed since they were read.
    config: Arc<Mutex<Option<Config>>>,
}

impl Local {
    /// Opens the database in the file, making it if it is not there. `now` is what new schema versions record.
    ///
    /// Refuses a database that a newer program has written.
    pub fn open(file: &Path, now: Timestamp) -> Result<Local> {
        let at = |e: Error| e.context(format!("Failed to open the local database \"{}\"", file.display()));
        let connection = Connection::open(file).map_err(|e| at(failed(e)))?;
        // Losing an acknowledged write here can make a member vote twice, so it waits for the disk.
        connection
            .execute_batch("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000")
            .map_err(|e| at(failed(e)))?;
        Local::prepare(connection, now).map_err(at)
    }

    /// A database in memory that is gone with the last handle: for trying things out.
    pub fn in_memory() -> Result<Local> {
        Local::prepare(Connection::open_in_memory().map_err(failed)?, Timestamp::UNIX_EPOCH)
    }

    fn prepare(connection: Connection, now: Timestamp) -> Result<Local> {
        let local = Local { connection: Arc::new(Mutex::new(connection)), config: Arc::default() };
        local.write(|tx| {
            let have = crate::schema::version(tx.0)?;
            // It may be newer than this program: migrations only add, so that the program can be taken back.
            for (version, statements) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > have) {
                tx.0.execute_batch(statements).map_err(failed)?;
                tx.run("INSERT INTO schema (version, updated_at) VALUES (?1, ?2)", (version, Time(now)))?;
            }
            Ok(())
        })?;
        Ok(local)
    }

    fn read<T>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        f(&Tx(&connection))
    }

    fn write<T>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction().map_err(failed)?;
        let value = f(&Tx(&transaction))?;
        let committed = transaction.commit().map_err(failed);
        *self.known_config() = None;
        committed.map(|()| value)
    }

    fn known_config(&self) -> MutexGuard<'_, Option<Config>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All keys of the member's own configuration.
    pub fn config(&self) -> Result<Config> {
        if let Some(known) = &*self.known_config() {
            return Ok(known.clone());
        }
        self.read(|tx| {
            let read = config::get(tx)?;
            // Nobody writes meanwhile.
            *self.known_config() = Some(read.clone());
            Ok(read)
        })
    }

    /// One value of the member's own configuration.
    pub fn config_value(&self, key: &str) -> Result<Option<String>> {
        Ok(self.config()?.remove(key))
    }

    /// Makes the member's own configuration equal to `want`. Empty values count as absent.
    pub fn replace_config(&self, want: &Config) -> Result<()> {
        self.write(|tx| config::replace(tx, want))
    }

    /// Sets the keys of `changes` and leaves the others. Empty values remove their keys.
    pub fn patch_config(&self, changes: &Config) -> Result<()> {
        self.write(|tx| config::patch(tx, changes))
    }

    /// The members that vote or follow, as last heard; by Raft id.
    pub fn raft_nodes(&self) -> Result<Vec<RaftNode>> {
        self.read(|tx| {
            tx.all("SELECT id, name, address, role FROM raft_nodes ORDER BY id", [], |r| {
                let id: i64 = r.get(0)?;
                Ok(RaftNode { id: id.cast_unsigned(), name: r.get(1)?, address: r.get(2)?, role: r.get(3)? })
            })
        })
    }

    /// Records the members that vote or follow. Nothing is written if nothing changed.
    pub fn replace_raft_nodes(&self, nodes: &[RaftNode]) -> Result<()> {
        let mut sorted = nodes.to_vec();
        sorted.sort_by_key(|n| n.id);
        if self.raft_nodes()? == sorted {
            return Ok(());
        }
        self.write(|tx| write_nodes(tx, &sorted))
    }

    /// Changed addresses that the replicated database does not have yet.
    pub fn moved(&self) -> Result<Vec<Moved>> {
        let unreadable = |e| Error::internal(format!("The local database has unreadable changes of addresses: {e}"));
        let text = self.identity(MOVED)?;
        text.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text).map_err(unreadable))
    }

    /// Changes members' addresses, and with them the member's own configuration, at once: `moved` is all that the
    /// replicated database does not have yet.
    pub fn move_members(&self, nodes: &[RaftNode], moved: &[Moved], changes: &Config) -> Result<()> {
        let text = serde_json::to_string(moved).map_err(|e| Error::internal(e.to_string()))?;
        self.write(|tx| {
            write_nodes(tx, nodes)?;
            write_identity(tx, MOVED, &text)?;
            config::patch(tx, changes)
        })
    }

    /// The replicated database has all changed addresses now.
    pub fn forget_moved(&self) -> Result<()> {
        self.write(|tx| tx.run("DELETE FROM identity WHERE key = ?1", [MOVED]).map(drop))
    }

    /// The certificates of members that are trusted, by fingerprint.
    pub fn trusted_servers(&self) -> Result<Vec<TrustedServer>> {
        self.read(|tx| {
            let sql = "SELECT fingerprint, name, certificate FROM certificates WHERE type = ?1 ORDER BY fingerprint";
            tx.all(sql, [CertificateType::Server], |r| {
                Ok(TrustedServer { fingerprint: r.get(0)?, name: r.get(1)?, certificate: r.get(2)? })
            })
        })
    }

    /// Records the certificates of members that are trusted. Nothing is written if nothing changed.
    pub fn replace_trusted_servers(&self, servers: &[TrustedServer]) -> Result<()> {
        let mut sorted = servers.to_vec();
        sorted.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
        if self.trusted_servers()? == sorted {
            return Ok(());
        }
        self.write(|tx| {
            tx.run("DELETE FROM certificates WHERE type = ?1", [CertificateType::Server])?;
            sorted.iter().try_for_each(|s| {
                let sql = "INSERT INTO certificates (fingerprint, type, name, certificate) VALUES (?1, ?2, ?3, ?4)";
                tx.run(sql, (&s.fingerprint, CertificateType::Server, &s.name, &s.certificate)).map(drop)
            })
        })
    }

    /// The member's Raft id, if it was given one.
    pub fn raft_id(&self) -> Result<Option<u64>> {
        let bad = |id: &str| Error::internal(format!("The local database has a Raft id that is no number: \"{id}\""));
        self.identity("raft_id")?.map(|id| id.parse().map_err(|_| bad(&id))).transpose()
    }

    /// Records the member's Raft id.
    pub fn set_raft_id(&self, id: u64) -> Result<()> {
        self.set_identity("raft_id", &id.to_string())
    }

    /// The incarnation of the cluster that the member belongs to, if it was given one.
    pub fn incarnation(&self) -> Result<Option<String>> {
        self.identity("incarnation")
    }

    /// Records the incarnation of the cluster that the member belongs to.
    pub fn set_incarnation(&self, incarnation: &str) -> Result<()> {
        self.set_identity("incarnation", incarnation)
    }

    /// The incarnation of the database that the member has given up for that of a recovered member; 0 if none.
    pub fn given_up(&self) -> Result<u64> {
        Ok(self.identity(GIVEN_UP)?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// Records the incarnation of the database that the member gives up.
    pub fn set_given_up(&self, incarnation: u64) -> Result<()> {
        self.set_identity(GIVEN_UP, &incarnation.to_string())
    }

    /// Forgets everything that ties the member to a cluster: before it joins one, and after it has left.
    pub fn forget_cluster(&self) -> Result<()> {
        self.write(|tx| {
            ["DELETE FROM raft_nodes", "DELETE FROM certificates", "DELETE FROM identity"]
                .iter()
                .try_for_each(|sql| tx.run(sql, []).map(drop))
        })
    }

    fn identity(&self, key: &str) -> Result<Option<String>> {
        self.read(|tx| tx.one("SELECT value FROM identity WHERE key = ?1", [key], |r| r.get(0)))
    }

    fn set_identity(&self, key: &str, value: &str) -> Result<()> {
        self.write(|tx| write_identity(tx, key, value))
    }

    /// Names of the patches that were applied, in that order.
    pub fn patches(&self) -> Result<Vec<String>> {
        self.read(|tx| tx.all("SELECT name FROM patches ORDER BY id", [], |r| r.get(0)))
    }

    /// Records that a patch was applied.
    pub fn add_patch(&self, name: &str, now: Timestamp) -> Result<()> {
        let sql = "INSERT INTO patches (name, applied_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.write(|tx| tx.run(sql, (name, Time(now))).map(drop))
    }

    /// Runs the statements of `text` in one transaction; what each of them gave.
    pub fn sql(&self, text: &str) -> Result<Vec<SqlResult>> {
        self.write(|tx| sql::run(tx, text))
    }

    /// The whole database as SQL text; with `only_schema`, without its rows.
    pub fn dump(&self, only_schema: bool) -> Result<String> {
        self.read(|tx| sql::dump(tx, only_schema))
    }
}

fn write_identity(tx: &Tx<'_>, key: &str, value: &str) -> Result<()> {
    let sql = "INSERT INTO identity (key, value) VALUES (?1, ?2)
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    tx.run(sql, (key, value)).map(drop)
}

fn write_nodes(tx: &Tx<'_>, nodes: &[RaftNode]) -> Result<()> {
    tx.run("DELETE FROM raft_nodes", [])?;
    nodes.iter().try_for_each(|n| {
        let sql = "INSERT INTO raft_nodes (id, name, address, role) VALUES (?1, ?2, ?3, ?4)";
        tx.run(sql, (n.id.cast_signed(), &n.name, &n.address, n.role)).map(drop)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(id: u64, role: RaftRole) -> RaftNode {
        RaftNode { id, name: format!("node{id}"), address: format!("10.0.0.{id}:8443"), role }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let dir = std::env::temp_dir().join(format!("incus-local-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("local.db");
        let open = || Local::open(&file, Timestamp::UNIX_EPOCH);
        let servers = [TrustedServer { fingerprint: "ab".into(), name: "node1".into(), certificate: "PEM".into() }];
        {
            let local = open().unwrap();
            local.patch_config(&[("core.https_address".into(), ":8443".into())].into()).unwrap();
            local.replace_raft_nodes(&[node(2, RaftRole::Spare), node(1, RaftRole::Voter)]).unwrap();
            local.replace_trusted_servers(&servers).unwrap();
            assert_eq!(local.raft_id().unwrap(), None);
            local.set_raft_id(7).unwrap();
            local.set_incarnation("first").unwrap();
            local.add_patch("p1", Timestamp::UNIX_EPOCH).unwrap();
        }
        let local = open().unwrap();
        assert_eq!(local.config_value("core.https_address").unwrap().as_deref(), Some(":8443"));
        assert_eq!(local.raft_nodes().unwrap(), [node(1, RaftRole::Voter), node(2, RaftRole::Spare)]);
        assert_eq!(local.trusted_servers().unwrap(), servers);
        assert_eq!((local.raft_id().unwrap(), local.incarnation().unwrap().as_deref()), (Some(7), Some("first")));
        assert_eq!(local.patches().unwrap(), ["p1"]);
        let answer = local.sql("SELECT address FROM raft_nodes WHERE role = 0").unwrap();
        assert_eq!(answer[0].rows, [[serde_json::json!("10.0.0.1:8443")]]);

        let moved = [Moved { id: 2, old: "10.0.0.2:8443".into(), new: "10.1.0.2:8443".into() }];
        let there = RaftNode { address: "10.1.0.2:8443".into(), ..node(2, RaftRole::Spare) };
        let key = || "cluster.https_address".to_owned();
        local.move_members(std::slice::from_ref(&there), &moved, &[(key(), "10.1.0.2:8443".into())].into()).unwrap();
        assert_eq!((local.moved().unwrap(), local.raft_nodes().unwrap()), (moved.to_vec(), vec![there]));
        assert_eq!(local.config_value(&key()).unwrap().as_deref(), Some("10.1.0.2:8443"));
        local.forget_moved().unwrap();
        assert!(local.moved().unwrap().is_empty());

        local.forget_cluster().unwrap();
        assert!(local.raft_nodes().unwrap().is_empty() && local.raft_id().unwrap().is_none());
        local.replace_config(&Config::new()).unwrap();
        assert!(local.config().unwrap().is_empty());

        local
            .connection
            .lock()
            .unwrap()
            .execute("INSERT INTO schema (version, updated_at) VALUES (99, '')", [])
            .unwrap();
        local.set_raft_id(9).unwrap();
        drop(local);
        assert_eq!(open().unwrap().raft_id().unwrap(), Some(9), "what a newer program wrote is read by an older one");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let local = Local::in_memory().unwrap();
        let nodes = [node(1, RaftRole::Voter)];
        local.replace_raft_nodes(&nodes).unwrap();
        let changes = || local.connection.lock().unwrap().total_changes();
        let before = changes();
        local.replace_raft_nodes(&nodes).unwrap();
        local.replace_trusted_servers(&[]).unwrap();
        assert_eq!(changes(), before);
        let e = local.sql("INSERT INTO config (key, value) VALUES ('a', 'b'); SELECT * FROM nope").unwrap_err();
        assert_eq!(e.message, "no such table: nope");
        assert!(local.config().unwrap().is_empty(), "a batch is done wholly or not at all");
    }

    #[test]
    fn names_are_those_that_operators_know() {
        let Some(want) = crate::schema::tests::contract("Local") else { return };
        let local = Local::in_memory().unwrap();
        for (table, columns) in want {
            let sql = format!("PRAGMA table_info({table})");
            let have: Vec<serde_json::Value> = local.sql(&sql).unwrap()[0].rows.iter().map(|r| r[1].clone()).collect();
            assert_eq!(have, columns, "{table}");
        }
    }
}
