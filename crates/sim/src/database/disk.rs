//! The disk of a member: how slow it is, whether it is full, and what a power cut leaves of it.
//!
//! Files are real and SQLite writes to them. Whatever is written comes to the end of a `-wal` file; what of it was
//! synced stays, what comes after it is cut off at any byte when the power goes. So a torn write is a real one, and
//! what SQLite makes of it is real, too.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use db::engine::{Disk, DiskFile};
use rand::RngExt as _;
use rand::rngs::StdRng;

/// The files of a database that live on: each with the name of the file that it is written to first.
const FILES: [(&str, DiskFile); 2] = [("raft.db", DiskFile::Log), ("db.bin", DiskFile::Replica)];

/// How a member ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its program is killed, or shut down: what was written stays.
    Killed,
    /// The power goes: what was not synced is lost, or not.
    PowerCut,
    /// The power goes, and the disk had lied: half of what was synced is lost, too.
    Lied,
}

/// The disk of one member, for one life of its program.
pub struct SimDisk {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    /// Least and most microseconds that a write takes.
    takes: (u64, u64),
    full: bool,
    synced: [u64; 2],
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dir.display())
    }
}

fn wal(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-wal"))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// How fast disks usually are, in microseconds.
pub const QUICK: (u64, u64) = (100, 3_000);

impl SimDisk {
    /// A disk with what is in the folder.
    pub fn new(dir: &Path, rng: StdRng) -> SimDisk {
        let synced = FILES.map(|(name, _)| length(&wal(dir, name)));
        SimDisk { dir: dir.to_owned(), state: Mutex::new(State { rng, takes: QUICK, full: false, synced }) }
    }

    /// From now on a write takes so many microseconds.
    pub fn takes(&self, least: u64, most: u64) {
        self.state().takes = (least, most);
    }

    /// There is no room any more, or there is again.
    pub fn fill(&self, full: bool) {
        self.state().full = full;
    }

    /// Puts what is left of it after that end into the folder `to`.
    pub fn leave(&self, to: &Path, end: End) -> io::Result<()> {
        fs::create_dir_all(to)?;
        let mut state = self.state();
        for (at, (name, _)) in FILES.into_iter().enumerate() {
            fs::copy(self.dir.join(name), to.join(name))?;
            let Ok(mut bytes) = fs::read(wal(&self.dir, name)) else { continue };
            let (safe, all) = (state.synced[at], bytes.len() as u64);
            let left = match end {
                End::Killed => all,
                End::Lied => safe / 2,
                End::PowerCut => match state.rng.random_range(0..3) {
                    0 => safe.min(all),
                    1 => all,
                    _ => state.rng.random_range(safe.min(all)..=all),
                },
            };
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            fs::write(wal(to, name), bytes)?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn full(&self, _: DiskFile) -> bool {
        self.state().full
    }

    fn takes(&self, _: DiskFile) -> Duration {
        let mut state = self.state();
        let (least, most) = state.takes;
        Duration::from_micros(state.rng.random_range(least..=most))
    }

    fn synced(&self, file: DiskFile) {
        for (at, (name, of)) in FILES.into_iter().enumerate() {
            if of == file {
                self.state().synced[at] = length(&wal(&self.dir, name));
            }
        }
    }
}
