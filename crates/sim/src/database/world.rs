//! The members of a simulated cluster: started, ended in all ways, and started again with what is left of their files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Result;
use cluster::Links;
use cluster::health::Health;
use db::{Db, Options, SCHEMA};
use incus_core::version::Program;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::disk::{End, SimDisk, Unsafe};
use super::net::{Dialler, Net, Reached};
use crate::breaks::Break;
use crate::trace::Trace;

/// What a program can serve.
pub const PROGRAM: Program = Program { oldest: 1, latest: SCHEMA.latest, extensions: 1 };

/// All there is in a life.
pub struct World {
    /// What happens in it.
    pub trace: Trace,
    /// The network.
    pub net: Arc<Net>,
    /// A fault of ours that is planted.
    pub broken: Option<Break>,
    began: Instant,
    dir: PathBuf,
    chance: Mutex<StdRng>,
    machines: Mutex<BTreeMap<u64, Machine>>,
    /// Entries between two cuts of the log.
    keep: u64,
    /// Pages of a write-ahead log that are taken over into its file at a time.
    pages: u32,
}

struct Machine {
    life: u64,
    disk: Arc<SimDisk>,
    /// What the next life finds that is not safe.
    files: Unsafe,
    _mounted: vfs::Mounted,
}

impl World {
    /// A world without members, whose files lie in the folder.
    pub fn new(seed: u64, dir: &Path, trace: Trace, broken: Option<Break>) -> Arc<World> {
        let mut chance = StdRng::seed_from_u64(seed);
        let net = Net::new(StdRng::from_rng(&mut chance));
        let keep = chance.random_range(20..200);
        // As SQLite names it.
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let pages = chance.random_range(5..200);
        let (chance, machines) = (Mutex::new(chance), Mutex::default());
        Arc::new(World { trace, net, broken, began: Instant::now(), dir, chance, machines, keep, pages })
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Tells what happens.
    pub fn note(&self, what: impl std::fmt::Display) {
        self.trace.note(self.now(), what);
    }

    /// An invariant does not hold.
    pub fn judge(&self, invariant: &str, found: Result<(), String>) {
        if let Err(text) = found {
            self.trace.violated(self.now(), invariant, text);
        }
    }

    /// A source of chance of its own, that follows from the seed.
    pub fn chance(&self) -> StdRng {
        StdRng::from_rng(&mut *self.chance.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<u64, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members that there are, whether they run or not.
    pub fn ids(&self) -> Vec<u64> {
        self.machines().keys().copied().collect()
    }

    /// Those that do not run.
    pub fn off(&self) -> Vec<u64> {
        self.ids().into_iter().filter(|id| self.net.reach(*id).is_none()).collect()
    }

    /// The disk of a member.
    pub fn disk(&self, id: u64) -> Option<Arc<SimDisk>> {
        self.machines().get(&id).map(|machine| machine.disk.clone())
    }

    fn folder(&self, id: u64, life: u64) -> PathBuf {
        self.dir.join(format!("{id}.{life}"))
    }

    /// Where the files of a new member are put before it is started.
    pub fn first_folder(&self, id: u64) -> PathBuf {
        self.folder(id, 1)
    }

    /// Starts a member with what is left of its files.
    pub async fn start(self: &Arc<Self>, id: u64) -> Result<Db> {
        let before = self.machines().remove(&id);
        let (life, files) = before.map_or((1, Unsafe::new()), |machine| (machine.life + 1, machine.files));
        let dir = self.folder(id, life);
        let disk = Arc::new(SimDisk::new(&dir, self.chance(), files, self.broken));
        let mounted = vfs::mount(&dir, disk.clone()).map_err(api::Error::internal)?;
        let dialler = Dialler { net: Arc::downgrade(&self.net), from: id, life };
        let links = Arc::new(Links::new(Arc::new(dialler)));
        let health = Arc::new(Health::new(id, links.clone(), PROGRAM));
        let options = Options {
            patience: Duration::from_secs(6),
            keep: self.keep,
            pages: self.pages,
            disk: Some(disk.clone()),
            ..Options::new(dir, id, SCHEMA)
        };
        let machine = Machine { life, disk: disk.clone(), files: Unsafe::new(), _mounted: mounted };
        self.machines().insert(id, machine);
        let db = Db::open(options, links).await?;
        if self.broken != Some(Break::IdleLeader) {
            tokio::spawn(health.clone().run(db.clone()));
        }
        self.net.plug_in(id, Reached { life, db: db.clone(), health });
        self.note(format_args!("member {id} has started"));
        tokio::spawn(self.clone().end_without_power(id, disk));
        Ok(db)
    }

    /// Ends a member when its power goes in the middle of something.
    async fn end_without_power(self: Arc<Self>, id: u64, disk: Arc<SimDisk>) {
        disk.gone().await;
        if self.disk(id).is_some_and(|now| Arc::ptr_eq(&now, &disk)) {
            self.end(id, End::PowerCut);
        }
    }

    /// Ends a member; its next life has what is left of the files.
    pub fn end(&self, id: u64, end: End) {
        let Some(gone) = self.net.pull_out(id) else { return };
        self.note(format_args!("member {id}: {end:?}"));
        // What is left of it goes on for a while without any effect on the others.
        let db = gone.db;
        self.leave(id, end);
        tokio::spawn(async move { db.shutdown().await });
    }

    /// Shuts a member down as a person does it.
    pub async fn shut_down(&self, id: u64) {
        let Some(there) = self.net.reach(id) else { return };
        self.note(format_args!("member {id} is being shut down"));
        there.health.leave();
        tokio::time::sleep(Duration::from_secs(3)).await;
        if self.net.reach(id).is_some_and(|now| now.life == there.life) {
            let _ = there.db.shutdown().await;
            self.net.pull_out(id);
            self.leave(id, End::Killed);
            self.note(format_args!("member {id} is shut down"));
        }
    }

    fn leave(&self, id: u64, end: End) {
        let mut machines = self.machines();
        let Some(machine) = machines.get_mut(&id) else { return };
        match machine.disk.leave(&self.folder(id, machine.life + 1), end) {
            Ok(files) => machine.files = files,
            Err(e) => self.trace.violated(self.now(), "the simulation", format_args!("files of member {id}: {e}")),
        }
    }

    /// Returns when that many seconds of the simulation have gone by.
    pub async fn wait(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
}
