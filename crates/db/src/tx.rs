//! A transaction, and the few ways in which the row modules talk to SQLite.

use api::{Error, Kind, Result};
use rusqlite::{Connection, Params, Row};

/// A transaction on a replica of the global database.
///
/// Other crates pass it from [`crate`]'s `Db` to the row functions and cannot do anything else with it:
/// SQL stays inside this crate.
#[derive(Clone, Copy, Debug)]
pub struct Tx<'a>(pub(crate) &'a Connection);

impl Tx<'_> {
    /// The connection, for tests of the engine.
    #[doc(hidden)]
    pub fn connection(&self) -> &Connection {
        self.0
    }

    /// All rows that `sql` gives.
    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.0.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params, read).map_err(failed)?;
        rows.collect::<rusqlite::Result<Vec<T>>>().map_err(failed)
    }

    /// The first row that `sql` gives, if it gives any.
    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.0.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query(params).map_err(failed)?;
        rows.next().map_err(failed)?.map(read).transpose().map_err(failed)
    }

    /// Runs a statement that gives no rows; how many rows it touched.
    pub(crate) fn run(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.0.prepare_cached(sql).and_then(|mut s| s.execute(params)).map_err(failed)
    }

    /// Runs an `INSERT`; the id of the new row.
    pub(crate) fn insert(&self, sql: &str, params: impl Params) -> Result<i64> {
        self.0.prepare_cached(sql).and_then(|mut s| s.insert(params)).map_err(failed)
    }
}

/// What a failure of SQLite means for the caller: a broken `UNIQUE` or `PRIMARY KEY` is a conflict.
pub(crate) fn failed(e: rusqlite::Error) -> Error {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    let kind = match &e {
        rusqlite::Error::SqliteFailure(f, _)
            if [SQLITE_CONSTRAINT_UNIQUE, SQLITE_CONSTRAINT_PRIMARYKEY].contains(&f.extended_code) =>
        {
            Kind::Conflict
        }
        _ => Kind::Internal,
    };
    Error::new(kind, format!("Database: {e}"))
}

/// Words for the two refusals that a statement can bring.
pub(crate) trait Words<T> {
    /// If a row of that name is there already, says so in these words.
    fn or_taken(self, words: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Words<T> for Result<T> {
    fn or_taken(self, words: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| if e.kind == Kind::Conflict { Error::conflict(words()) } else { e })
    }
}

/// The row, or "`what` not found".
pub(crate) fn found<T>(row: Option<T>, what: &str) -> Result<T> {
    row.ok_or_else(|| Error::not_found(format!("{what} not found")))
}

/// Refuses with "`what` not found" if a statement touched no row.
pub(crate) fn touched(rows: usize, what: &str) -> Result<()> {
    found((rows > 0).then_some(()), what)
}

#[cfg(test)]
pub(crate) mod tests {
    //! A database for tests.
    #![allow(clippy::unwrap_used)]
    use rusqlite::Connection;

    /// An empty database with the newest schema, in memory, with foreign keys enforced as in the writer.
    pub(crate) fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        crate::schema::migrate(&connection, 0, crate::schema::LATEST, jiff::Timestamp::UNIX_EPOCH).unwrap();
        connection
    }
}
