//! What a changeset would do to a replica, tried on one that is not used for anything else.

use api::error::Context as _;
use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::session::Session;

use super::SCHEMA;
use super::machine::{apply_changeset, content_hash};
use crate::tx::Tx;

/// A replica in memory, as a new database is.
pub struct Rehearsal(Connection);

fn failed(e: rusqlite::Error) -> Error {
    Error::internal(e.to_string())
}

impl Rehearsal {
    /// A fresh one.
    pub fn new() -> Result<Rehearsal> {
        let db = Connection::open_in_memory().map_err(failed)?;
        db.execute_batch("CREATE TABLE _raft (k TEXT PRIMARY KEY NOT NULL, v BLOB NOT NULL) WITHOUT ROWID")
            .map_err(failed)?;
        (SCHEMA.migrate)(&db, 0, SCHEMA.latest, Timestamp::UNIX_EPOCH)?;
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(failed)?;
        db.execute_batch("PRAGMA foreign_keys = OFF").map_err(failed)?;
        Ok(Rehearsal(db))
    }

    /// What these statements change, as a changeset. They are rolled back.
    pub fn changes(&self, sql: &str) -> Result<Vec<u8>> {
        self.0.execute_batch("BEGIN").map_err(failed)?;
        let made = (|| {
            let mut session = Session::new(&self.0)?;
            session.attach(None::<&str>)?;
            self.0.execute_batch(sql)?;
            let mut changes = Vec::new();
            session.changeset_strm(&mut changes)?;
            Ok(changes)
        })();
        self.0.execute_batch("ROLLBACK").map_err(failed)?;
        made.map_err(failed)
    }

    /// Applies a changeset as a replica does, and rolls it back.
    ///
    /// # Errors
    /// When a replica would refuse it, and when the replica is not what it was before.
    pub fn apply(&self, changeset: &[u8]) -> Result<()> {
        let before = content_hash(&self.0).map_err(failed)?;
        self.0.execute_batch("BEGIN").map_err(failed)?;
        let applied = apply_changeset(&self.0, changeset);
        self.0.execute_batch("ROLLBACK").map_err(failed).context("After the changeset")?;
        assert_eq!(content_hash(&self.0).ok().as_ref(), Some(&before), "a changeset outlives its transaction");
        applied.map(drop).map_err(|e| Error::bad_request(format!("{e:?}")))
    }

    /// Reads it while it has these tables and no others: what is read from others fails.
    pub fn read_from<T>(&self, tables: &[&str], f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let all = Tx(&self.0).all("SELECT name FROM sqlite_schema WHERE type = 'table'", [], |r| r.get(0))?;
        let others =
            all.iter().filter(|name: &&String| !tables.contains(&name.as_str()) && !name.starts_with("sqlite_"));
        let drops: String = others.map(|name| format!("DROP TABLE \"{name}\";")).collect();
        self.0.execute_batch("BEGIN").and_then(|()| self.0.execute_batch(&drops)).map_err(failed)?;
        let read = f(&Tx(&self.0));
        self.0.execute_batch("ROLLBACK").map_err(failed)?;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_replicas_own_is_not_written() {
        let replica = Rehearsal::new().unwrap();
        let good = replica.changes("INSERT INTO config (key, value) VALUES ('user.a', 'b')").unwrap();
        assert_eq!(replica.apply(&good), Ok(()));
        let own = replica.changes("INSERT INTO _raft VALUES ('standing', x'00')").unwrap();
        assert!(!own.is_empty());
        assert!(replica.apply(&own).unwrap_err().message.contains("no part of what is replicated"));
        for (broken, why) in [
            (&b"Tnonsense"[..], "ends in the middle"),
            (b"T\0", "0 columns"),
            (&good[..good.len() - 1], "ends in the middle"),
            (&good[..5], "ends in the middle"),
            (b"P\x01\x01t\0", "where a table or a row begins"),
            (b"T\x01\x01\xff\0", "no text"),
            (b"T\x01\x00t\0", "no key"),
            (b"T\x01\x01t\0\x12\0\x03\x01\xff", "a text is none"),
            (b"T\x01\x01t\0\x12\0\x00", "of the type 0"),
        ] {
            let got = replica.apply(broken).unwrap_err();
            assert!(got.message.contains(why), "{why}: {got}");
        }
    }
}
