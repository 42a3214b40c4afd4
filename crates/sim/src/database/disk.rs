//! The disk of a member: how slow it is, whether it is full or fails, and what a power cut leaves of it.
//!
//! Files are real and SQLite writes to them; each thing that it does to one comes by here first ([`vfs`]).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use db::engine::{Disk, DiskFile};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use vfs::{Fault, Real};

use super::pending::Pending;
use crate::breaks::Break;

/// The files of a member that live on.
const FILES: [&str; 4] = ["raft.db", "raft.db-wal", "db.bin", "db.bin-wal"];

/// How a member ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its program is killed, or shut down: what was written stays.
    Killed,
    /// The power goes: what was not synced is lost, or not.
    PowerCut,
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fails {
    /// How likely reading is an error.
    pub reading: f64,
    /// How likely writing is.
    pub writing: f64,
    /// How likely syncing is.
    pub syncing: f64,
}

/// It does not.
pub const SOUND: Fails = Fails { reading: 0.0, writing: 0.0, syncing: 0.0 };

/// What of the files is not safe, by name.
pub type Unsafe = BTreeMap<&'static str, Pending>;

/// The disk of one member, for one life of its program.
pub struct SimDisk {
    dir: PathBuf,
    broken: Option<Break>,
    state: Mutex<State>,
    gone: Notify,
}

struct State {
    rng: StdRng,
    /// Least and most microseconds that a write takes.
    takes: (u64, u64),
    full: bool,
    fails: Fails,
    /// After so many more things that are done to files the power goes.
    goes_after: Option<u32>,
    /// The power has gone: nothing comes to the disk any more.
    is_gone: bool,
    files: Unsafe,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dir.display())
    }
}

/// How fast disks usually are, in microseconds.
const QUICK: (u64, u64) = (100, 3_000);

impl SimDisk {
    /// A disk with what is in the folder.
    pub fn new(dir: &Path, rng: StdRng, files: Unsafe, broken: Option<Break>) -> SimDisk {
        let state = State { rng, takes: QUICK, full: false, fails: SOUND, goes_after: None, is_gone: false, files };
        SimDisk { dir: dir.to_owned(), broken, state: Mutex::new(state), gone: Notify::new() }
    }

    /// From now on a write takes so many microseconds.
    pub fn takes(&self, least: u64, most: u64) {
        self.state().takes = (least, most);
    }

    /// There is no room any more.
    pub fn fill(&self) {
        self.state().full = true;
    }

    /// From now on it fails so often.
    pub fn fail(&self, fails: Fails) {
        self.state().fails = fails;
    }

    /// The power goes in the middle of what is written next, after so many things have been done to files.
    pub fn goes_after(&self, things: u32) {
        self.state().goes_after = Some(things);
    }

    /// All is well with it again, if its power has not gone.
    pub fn mend(&self) {
        let mut state = self.state();
        (state.takes, state.full, state.fails, state.goes_after) = (QUICK, false, SOUND, None);
    }

    /// Returns when the power has gone in the middle of something.
    pub async fn gone(&self) {
        self.gone.notified().await;
    }

    /// Puts what is left of it after that end into the folder `to`; what is not safe there.
    pub fn leave(&self, to: &Path, end: End) -> io::Result<Unsafe> {
        fs::create_dir_all(to)?;
        let mut state = self.state();
        let State { rng, files, .. } = &mut *state;
        for name in FILES {
            let Ok(now) = fs::read(self.dir.join(name)) else { continue };
            let left = match files.get(name) {
                Some(pending) if end == End::PowerCut && self.lies() => pending.never_written(now),
                Some(pending) if end == End::PowerCut => pending.left(now, rng),
                _ => now,
            };
            fs::write(to.join(name), left)?;
        }
        // What is left of the program may end in peace.
        (state.is_gone, state.goes_after) = (false, None);
        Ok(if end == End::Killed { state.files.clone() } else { Unsafe::new() })
    }

    fn lies(&self) -> bool {
        self.broken == Some(Break::LyingDisks)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more thing is being done.
    fn step(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let mut state = self.state();
        if state.goes_after == Some(0) {
            state.is_gone = true;
            self.gone.notify_one();
        }
        state.goes_after = state.goes_after.and_then(|left| left.checked_sub(1));
        if state.is_gone { Err(Fault::Broken) } else { Ok(state) }
    }
}

impl State {
    fn fails(&mut self, likely: f64) -> bool {
        likely > 0.0 && self.rng.random_bool(likely)
    }
}

/// What of a file is not safe, if it is one of those that live on.
fn of<'a>(files: &'a mut Unsafe, name: &str, real: &Real) -> Option<&'a mut Pending> {
    let name = FILES.into_iter().find(|known| *known == name)?;
    Some(files.entry(name).or_insert_with(|| Pending::nothing(real.length())))
}

impl Disk for SimDisk {
    fn takes(&self, _: DiskFile) -> Duration {
        let mut state = self.state();
        let (least, most) = state.takes;
        Duration::from_micros(state.rng.random_range(least..=most))
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        let broken = |_| io::Error::other("disk I/O error");
        let mut state = self.step().map_err(broken)?;
        let Fails { writing, syncing, .. } = state.fails;
        if state.fails(writing) || state.fails(syncing) {
            return Err(broken(Fault::Broken));
        }
        let length = fs::metadata(path)?.len();
        let known = FILES.into_iter().find(|name| path.file_name().is_some_and(|n| n == *name));
        if let Some(name) = known
            && !self.lies()
        {
            state.files.insert(name, Pending::nothing(length));
        }
        Ok(())
    }
}

impl vfs::Disk for SimDisk {
    fn read(&self, _: &str) -> Result<(), Fault> {
        let mut state = self.state();
        let likely = state.fails.reading;
        if state.fails(likely) { Err(Fault::Broken) } else { Ok(()) }
    }

    fn write(&self, name: &str, real: &Real, at: u64, length: usize) -> Result<(), (Fault, usize)> {
        let mut state = self.step().map_err(|fault| (fault, 0))?;
        let likely = state.fails.writing;
        let fault = if state.full && at + length as u64 > real.length() {
            Some(Fault::Full)
        } else {
            state.fails(likely).then_some(Fault::Broken)
        };
        let done = if fault.is_some() { state.rng.random_range(0..length.max(1)) } else { length };
        if let Some(pending) = of(&mut state.files, name, real) {
            pending.write(|from, length| real.read(from, length), at, done);
        }
        fault.map_or(Ok(()), |fault| Err((fault, done)))
    }

    fn truncate(&self, name: &str, real: &Real, to: u64) -> Result<(), Fault> {
        let mut state = self.step()?;
        let likely = state.fails.writing;
        if state.fails(likely) {
            return Err(Fault::Broken);
        }
        let cut = usize::try_from(real.length().saturating_sub(to)).unwrap_or(0);
        if let Some(pending) = of(&mut state.files, name, real) {
            pending.write(|from, length| real.read(from, length), to, cut);
        }
        Ok(())
    }

    fn sync(&self, name: &str, real: &Real) -> Result<(), Fault> {
        let mut state = self.step()?;
        let likely = state.fails.syncing;
        let unsafe_file = self.broken == Some(Break::UnsafeFiles) && !name.ends_with("-wal");
        let (fails, lies) = (state.fails(likely), self.lies() || unsafe_file);
        let State { rng, files, .. } = &mut *state;
        match of(files, name, real) {
            Some(pending) if fails => pending.fail_to_sync(rng),
            Some(pending) if !lies => pending.sync(real.length()),
            _ => {}
        }
        if fails { Err(Fault::Broken) } else { Ok(()) }
    }

    fn removed(&self, name: &str) {
        self.state().files.remove(name);
    }
}
