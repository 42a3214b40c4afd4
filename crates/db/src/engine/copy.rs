//! Whole copies of a replica: made, sent and received in parts, put in the place of a replica.
//!
//! A copy is a file beside the replica's own and is removed with the value that names it; it is never held in
//! memory as a whole.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{Error, Result};

use super::runtime::random;

/// Bytes of a copy that travel in one request.
pub(super) const PART: u64 = 1 << 20;
/// Parts that a copy may have: one terabyte.
const PARTS: u32 = 1 << 20;
/// What the names of such files begin with.
const PREFIX: &str = "db.copy-";
/// What the name of a replica ends with that could not be read.
const DAMAGED: &str = ".damaged";

/// A whole replica in a file of its own. Without a file it only tells that the replica itself is safe on the disk.
#[derive(Debug, Default)]
pub struct Copy {
    path: Option<PathBuf>,
}

impl Copy {
    /// A place for a copy in the folder `dir`; the file is not there yet.
    pub fn place(dir: &Path) -> (Copy, PathBuf) {
        let path = dir.join(format!("{PREFIX}{:016x}", random::<u64>()));
        (Copy { path: Some(path.clone()) }, path)
    }

    /// The file.
    pub fn path(&self) -> io::Result<&Path> {
        self.path.as_deref().ok_or_else(|| io::Error::other("there is no copy"))
    }

    /// How many parts it has.
    pub fn parts(&self) -> io::Result<u32> {
        let parts = std::fs::metadata(self.path()?)?.len().div_ceil(PART);
        u32::try_from(parts).ok().filter(|parts| *parts <= PARTS).ok_or_else(|| io::Error::other("it is too large"))
    }

    /// One of its parts, counted from 0.
    pub fn part(&self, number: u32) -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(self.path()?)?;
        file.seek(SeekFrom::Start(u64::from(number) * PART))?;
        let mut bytes = Vec::new();
        file.take(PART).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Puts it where there is no replica, or one that nobody can read and nobody has open: that is kept beside it.
    pub fn put_in_place(self, replica: &Path) -> io::Result<()> {
        let copy = self.path()?;
        std::fs::File::open(copy)?.sync_all()?;
        let beside = |end: &str| {
            let mut path = replica.as_os_str().to_owned();
            path.push(end);
            PathBuf::from(path)
        };
        for end in ["", "-wal", "-shm"] {
            match std::fs::rename(beside(end), beside(&format!("{end}{DAMAGED}"))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(copy, replica)?;
        std::fs::File::open(replica.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes what a crash may have left.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A copy of which parts arrive.
pub(super) struct Incoming {
    copy: Copy,
    file: std::fs::File,
    next: u32,
}

impl Incoming {
    pub fn new(dir: &Path) -> io::Result<Incoming> {
        let (copy, path) = Copy::place(dir);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Incoming { copy, file, next: 0 })
    }

    /// Adds the next part. A part may arrive twice.
    pub fn add(&mut self, number: u32, bytes: &[u8]) -> io::Result<()> {
        if number.checked_add(1) == Some(self.next) {
            return Ok(());
        }
        if number != self.next || number >= PARTS {
            return Err(io::Error::other(format!("part {number} of a copy came instead of part {}", self.next)));
        }
        self.file.write_all(bytes)?;
        self.next += 1;
        Ok(())
    }

    /// The copy, if it has all its parts.
    pub fn finish(self, parts: u32) -> io::Result<Copy> {
        if self.next == parts { Ok(self.copy) } else { Err(io::Error::other("parts of a copy are missing")) }
    }
}

/// The copy that arrives from the leader and the one that others fetch here: one of each at a time, a newer one
/// takes the place of the older. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Desk {
    incoming: Arc<Mutex<Option<(u64, Incoming)>>>,
    outgoing: Arc<Mutex<Option<(u64, Copy)>>>,
}

impl Desk {
    /// Takes in a part of the copy `id`.
    pub fn add(&self, dir: &Path, id: u64, number: u32, bytes: &[u8]) -> Result<()> {
        let mut incoming = lock(&self.incoming);
        if number == 0 && incoming.as_ref().is_none_or(|(other, _)| *other != id) {
            *incoming = Some((id, Incoming::new(dir)?));
        }
        match &mut *incoming {
            Some((this, copy)) if *this == id => Ok(copy.add(number, bytes)?),
            _ => Err(Error::bad_request("Another copy of the database is being received")),
        }
    }

    /// The copy `id` when all its parts are here.
    pub fn take(&self, id: u64, parts: u32) -> Result<Copy> {
        match lock(&self.incoming).take_if(|(this, _)| *this == id) {
            Some((_, copy)) => Ok(copy.finish(parts)?),
            None => Err(Error::bad_request("Another copy of the database is being received")),
        }
    }

    /// Lays a copy out to be fetched: its id and the number of its parts.
    pub fn lay_out(&self, copy: Copy) -> Result<(u64, u32)> {
        let (id, parts) = (random(), copy.parts()?);
        *lock(&self.outgoing) = Some((id, copy));
        Ok((id, parts))
    }

    /// A part of the copy that is laid out. With the last one it is removed.
    pub fn fetch(&self, id: u64, number: u32) -> Result<Vec<u8>> {
        let mut outgoing = lock(&self.outgoing);
        let Some((_, copy)) = outgoing.as_ref().filter(|(this, _)| *this == id) else {
            return Err(Error::unavailable("That copy of the database is not here any more"));
        };
        let (bytes, parts) = (copy.part(number)?, copy.parts()?);
        if number + 1 == parts {
            *outgoing = None;
        }
        Ok(bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_arrives_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let bytes: Vec<u8> = (0..PART * 2 + 10).map(|i| (i % 251) as u8).collect();
        let (copy, path) = Copy::place(dir.path());
        std::fs::write(&path, &bytes).unwrap();
        let (from, to) = (Desk::default(), Desk::default());
        let (id, parts) = from.lay_out(copy).unwrap();
        assert_eq!(parts, 3);

        let fetched: Vec<Vec<u8>> = (0..parts).map(|n| from.fetch(id, n).unwrap()).collect();
        assert_eq!(files(), 0, "what was fetched is removed");
        assert!(from.fetch(id, 0).unwrap_err().message.contains("not here any more"));

        to.add(dir.path(), 7, 0, &fetched[0]).unwrap();
        assert!(to.add(dir.path(), 7, 2, &fetched[2]).unwrap_err().message.contains("instead of part 1"));
        to.add(dir.path(), 7, 1, &fetched[1]).unwrap();
        to.add(dir.path(), 7, 1, &fetched[1]).unwrap();
        assert!(to.add(dir.path(), 8, 1, &fetched[1]).is_err(), "of another copy");
        assert!(to.take(7, 3).unwrap_err().message.contains("missing"));
        for (n, part) in (0..).zip(&fetched) {
            to.add(dir.path(), 9, n, part).unwrap();
        }
        let whole = to.take(9, 3).unwrap();
        assert_eq!(std::fs::read(whole.path().unwrap()).unwrap(), bytes);
        drop(whole);
        assert_eq!(files(), 0);
    }
}
