//! The disk under the database as a simulation makes it: slow, full, and told what may not be lost any more.
//!
//! The files are real, and SQLite is. What a simulated disk adds is how long writing takes, that there is no room, and
//! which part of a file would survive a power cut.

use std::fmt;
use std::time::Duration;

/// A file of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The log of Raft, `raft.db`.
    Log,
    /// The replica, `db.bin`.
    Replica,
}

/// A disk that is simulated. Nothing of what is written to the files leaves their `-wal` beside them, so that this one
/// only grows: what a power cut takes away is its end.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Asked before something is written: true if there is no room.
    fn full(&self, file: File) -> bool;
    /// How long it takes to write and to be sure of it. What is being written is in the file already.
    fn takes(&self, file: File) -> Duration;
    /// All that is in the file now survives a power cut.
    fn synced(&self, file: File);
}

/// What SQLite says when there is no room.
pub(super) fn no_room() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
}
