//! The disk under the database: what its errors mean, what is done about them, and what a simulation makes of it.
//!
//! A system that could not write something reports that once, when it is asked to sync the file. It takes it for written
//! from then on: the next sync succeeds, and yet it may not be on the disk. So after an error nothing that was not safe
//! before is trusted until it was written anew. SQLite does that by itself with a transaction that failed, when it is
//! run again, and with what it had not taken over from a write-ahead log. But it builds on earlier parts of that
//! log, also on what another process has left of it, and those are written anew here.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

/// Pages of a write-ahead log that are taken over into its file at a time.
pub const PAGES: u32 = 1000;
/// Bytes that are written anew at a time.
const PART: usize = 1 << 20;

/// A file of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The log of Raft, `raft.db`.
    Log,
    /// The replica, `db.bin`.
    Replica,
}

/// A disk that is simulated. What SQLite does to the files passes by it unseen from here.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// How long it takes to write.
    fn takes(&self, file: File) -> Duration;

    /// The whole of this file is about to be written anew, as it is, and synced.
    ///
    /// # Errors
    /// It can't be.
    fn rewrite(&self, path: &Path) -> io::Result<()>;
}

/// The write-ahead log of a file.
fn wal(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Writes the write-ahead log of this file anew, as it is shown. Nobody may write to the file meanwhile. Locks are not on
/// it: that it is opened here does not drop any.
pub(super) fn write_anew(file: &Path, disk: Option<&Arc<dyn Disk>>) -> io::Result<()> {
    let path = wal(file);
    let wal = match fs::File::options().read(true).write(true).open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    disk.map_or(Ok(()), |disk| disk.rewrite(&path))?;
    let (mut part, mut at) = (vec![0; PART], 0);
    loop {
        match wal.read_at(&mut part, at)? {
            0 => return wal.sync_all(),
            read => {
                wal.write_all_at(&part[..read], at)?;
                at += read as u64;
            }
        }
    }
}

/// What SQLite could not do; of the kind `InvalidData` if the file is damaged.
pub(super) fn sql(e: rusqlite::Error) -> io::Error {
    let damaged = matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
    io::Error::new(if damaged { io::ErrorKind::InvalidData } else { io::ErrorKind::Other }, e.to_string())
}

/// Why it may succeed when it is tried again, if it may: there was no room, or the disk failed. SQLite says of a write
/// that there is no room, but not of making a file longer for its shared memory.
pub(super) fn passing(e: &rusqlite::Error) -> Option<String> {
    let code = e.sqlite_error()?;
    let full = code.code == ErrorCode::DiskFull || code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    match code.code {
        _ if full => Some(format!("No space left for the database of this member, free some: {e}")),
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => {
            Some(format!("The disk under the database of this member fails: {e}"))
        }
        _ => None,
    }
}
