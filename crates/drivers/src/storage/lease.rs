//! Leases: which member may use a volume that all members can reach.
//!
//! A lease is a small file beside the data: `leases/<folder>_<volume>.<incarnation>` below the pool, with one JSON
//! [`Record`] in it. The highest incarnation is the lease; who has a lower one has lost it. Whoever takes a lease makes
//! the next incarnation by giving a complete file that name with `link(2)`, which fails if the name is there: an exact
//! compare-and-swap on local file systems, NFS, CephFS and GlusterFS alike. Its owner renews it by putting a higher
//! `beat` in its place.
//!
//! No clocks are compared across machines. A watcher knows by its own clock how long it has seen the same beat
//! ([`Watch`]): after [`lapse`] the owner is gone, for an owner must have stopped writing `ttl` after the beginning of
//! its last renewal that worked ([`Held::valid_until`]).
//!
//! Clients of NFS remember what is in a directory. What they know is renewed by their own changes to it: everything
//! here that decides first makes its temporary file and then looks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::error::Context as _;
use api::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::Volume;

/// How long a lease is good for after its last renewal began, unless something else is said.
pub const TTL: Duration = Duration::from_secs(10);

/// After so long without a new beat a lease with that `ttl` has lapsed: half of it is for ending what the owner runs,
/// and for clocks that do not run at the same pace.
pub fn lapse(ttl: Duration) -> Duration {
    ttl + ttl / 2
}

/// The largest file that can hold a lease, in bytes.
const MAX: u64 = 64 << 10;

/// A member that takes leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its Raft id, which is never used again.
    pub id: u64,
    /// Its name, for people.
    pub name: String,
}

/// What a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its owner uses the volume, or may.
    Held,
    /// Its owner has given it back.
    Released,
    /// What its owner ran on the volume was ended because the lease could not be renewed.
    Fenced,
}

/// What stands in the file of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Raft id of the member that took it.
    pub owner: u64,
    /// Name of that member then.
    pub name: String,
    /// The how-manieth lease of the volume it is.
    pub incarnation: u64,
    /// Goes up with each renewal.
    pub beat: u64,
    /// How long it is good for after a renewal began, in milliseconds.
    pub ttl_ms: u64,
    /// What it is.
    pub state: State,
}

impl Record {
    /// How long it is good for after a renewal began.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// The leases of a pool.
#[derive(Clone, Debug)]
pub struct Leases {
    dir: PathBuf,
}

impl Leases {
    /// Those of the volumes of the pool in that directory.
    pub fn new(pool: &Path) -> Leases {
        Leases { dir: pool.join("leases") }
    }

    /// Those that members take for the moment in which they change the files of a volume.
    pub fn locks(pool: &Path) -> Leases {
        Leases { dir: pool.join("locks") }
    }

    /// Makes the place for them, when the pool is made.
    pub fn create(&self) -> Result<()> {
        use fs::DirBuilder;
        use std::os::unix::fs::DirBuilderExt as _;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.context(format!("Making {}", self.dir.display()))
    }

    /// The lease of a volume, as it is now; `None` if nobody has ever had it.
    ///
    /// # Errors
    /// When the storage can't be read, or the file holds no lease.
    pub fn read(&self, volume: &Volume) -> Result<Option<Record>> {
        // Whoever takes a newer one removes the older ones: what is gone when it is read was not the newest.
        for _ in 0..10 {
            let Some(highest) = self.incarnations(volume)?.pop() else { return Ok(None) };
            if let Some(record) = self.record(&self.path(volume, highest))? {
                return Ok(Some(record));
            }
        }
        Err(Error::unavailable(format!("The lease of the volume \"{}\" changes all the time: try again", volume.name)))
    }

    /// Takes the lease of a volume that is free: that nobody has, or that `owner` had before it was restarted.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if another member holds it, by name.
    pub fn take(&self, volume: &Volume, owner: &Owner, ttl: Duration, clock: impl Fn() -> Duration) -> Result<Held> {
        self.take_if(volume, owner, ttl, clock, |now| match now {
            Some(r) if r.state == State::Held && r.owner != owner.id => Err(Error::conflict(format!(
                "The volume \"{}\" is in use by the cluster member \"{}\": it holds its lease",
                volume.name, r.name
            ))),
            _ => Ok(()),
        })
    }

    /// Takes the lease of a volume whose owner is gone: only if it still is exactly what was seen.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it was renewed or taken since.
    pub fn take_over(
        &self,
        volume: &Volume,
        owner: &Owner,
        ttl: Duration,
        clock: impl Fn() -> Duration,
        seen: &Record,
    ) -> Result<Held> {
        self.take_if(volume, owner, ttl, clock, |now| match now {
            Some(now) if now == seen => Ok(()),
            _ => Err(Error::conflict(format!(
                "The lease of the volume \"{}\" has not lapsed: it was renewed or taken meanwhile",
                volume.name
            ))),
        })
    }

    fn take_if(
        &self,
        volume: &Volume,
        owner: &Owner,
        ttl: Duration,
        clock: impl Fn() -> Duration,
        may: impl FnOnce(Option<&Record>) -> Result<()>,
    ) -> Result<Held> {
        let mut temporary = self.temporary(owner)?;
        let now = self.read(volume)?;
        may(now.as_ref())?;
        let incarnation = now.map_or(0, |r| r.incarnation).checked_add(1);
        let record = Record {
            owner: owner.id,
            name: owner.name.clone(),
            incarnation: incarnation.ok_or_else(|| self.none(&self.path(volume, u64::MAX), &"it is the last"))?,
            beat: 0,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            state: State::Held,
        };
        temporary.write(&record)?;
        let began = clock();
        let path = self.path(volume, record.incarnation);
        let lost = || {
            let by = self.read(volume).ok().flatten().map(|r| r.name).unwrap_or_default();
            Error::conflict(format!("The lease of the volume \"{}\" was just taken by \"{by}\"", volume.name))
        };
        if !temporary.link(&path)? {
            return Err(lost());
        }
        let all = self.incarnations(volume)?;
        if all.last().is_some_and(|highest| *highest > record.incarnation) {
            let _ = fs::remove_file(&path);
            return Err(lost());
        }
        for old in all.iter().filter(|n| **n < record.incarnation) {
            let _ = fs::remove_file(self.path(volume, *old));
        }
        self.sync()?;
        Ok(Held { dir: self.dir.clone(), volume: volume.clone(), valid_until: began + ttl, record })
    }

    /// The volumes whose leases a member holds.
    pub fn held_by(&self, owner: u64) -> Result<Vec<Volume>> {
        let volume = |name: String| {
            let (folder, rest) = name.split_once('_')?;
            let (name, _) = rest.rsplit_once('.')?;
            Some(Volume { kind: super::Kind::of_folder(folder)?, name: name.to_owned() })
        };
        let all: std::collections::BTreeSet<Volume> = self.names()?.into_iter().filter_map(volume).collect();
        let mut held = Vec::new();
        for volume in all {
            if self.read(&volume)?.is_some_and(|r| r.owner == owner && r.state == State::Held) {
                held.push(volume);
            }
        }
        Ok(held)
    }

    /// Forgets the lease of a volume that was deleted or renamed. The caller holds it, or nobody does.
    pub fn remove(&self, volume: &Volume) -> Result<()> {
        // The lowest first: none of them must look like the newest.
        for incarnation in self.incarnations(volume)? {
            match fs::remove_file(self.path(volume, incarnation)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.failed("Removing", &e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what interrupted processes of a member have left.
    pub fn tidy_up(&self, owner: u64) -> Result<()> {
        let prefix = format!(".{owner}.");
        for name in self.names()? {
            let process = name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
            let lives = |p: &str| p == std::process::id().to_string() || Path::new("/proc").join(p).exists();
            if process.is_some_and(|p| !lives(p)) {
                let _ = fs::remove_file(self.dir.join(name));
            }
        }
        Ok(())
    }

    fn path(&self, volume: &Volume, incarnation: u64) -> PathBuf {
        self.dir.join(format!("{}{incarnation}", prefix(volume)))
    }

    fn names(&self) -> Result<Vec<String>> {
        let read = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
        };
        read().map_err(|e| self.failed("Looking at", &e))
    }

    /// The incarnations of which files are there, the lowest first.
    fn incarnations(&self, volume: &Volume) -> Result<Vec<u64>> {
        let prefix = prefix(volume);
        // Names of volumes may hold dots: only digits can follow the last one.
        let number = |name: &String| name.strip_prefix(&prefix)?.parse().ok();
        let mut all: Vec<u64> = self.names()?.iter().filter_map(number).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// What is in the file; `None` if it is not there.
    fn record(&self, path: &Path) -> Result<Option<Record>> {
        let read = || {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX).read_to_end(&mut bytes).map(|_| bytes)
        };
        let bytes = match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // NFS: it was replaced between opening and reading.
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
            other => other.map_err(|e| self.failed("Reading", &e))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| self.none(path, &e))
    }

    fn none(&self, path: &Path, why: &dyn std::fmt::Display) -> Error {
        Error::internal(format!(
            "The file {} holds no lease ({why}): remove it once no member uses that volume any more",
            path.display()
        ))
    }

    fn temporary(&self, owner: &Owner) -> Result<Temporary<'_>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!(".{}.{}.{number}", owner.id, std::process::id()));
        // One of that name is of an earlier process, and may be a second name of a lease.
        let _ = fs::remove_file(&path);
        let file = File::options().write(true).create_new(true).open(&path);
        Ok(Temporary { file: file.map_err(|e| self.failed("Writing", &e))?, path, of: self })
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| self.failed("Writing", &e))
    }

    /// Storage that is not there may be there again; a full disk is told as what it is.
    fn failed(&self, doing: &str, e: &io::Error) -> Error {
        let (what, why) = (format!("{doing} the leases in {}", self.dir.display()), e.to_string());
        match e.kind() {
            io::ErrorKind::NotFound => {
                Error::unavailable(format!("{what}: the directory is not there (is the shared storage mounted?)"))
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::new(Kind::Internal, format!("{what}: No space left on the shared storage"))
            }
            io::ErrorKind::Unsupported => {
                Error::bad_request(format!("{what}: {why}: this file system has no hard links, which leases need"))
            }
            _ => Error::unavailable(format!("{what}: {why}")),
        }
    }
}

fn prefix(volume: &Volume) -> String {
    format!("{}_{}.", volume.kind.folder(), volume.name)
}

/// A file that is written whole before it gets its name; it goes unless it does.
struct Temporary<'a> {
    file: File,
    path: PathBuf,
    of: &'a Leases,
}

impl Temporary<'_> {
    fn write(&mut self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|e| Error::internal(e.to_string()))?;
        self.file.write_all(&bytes).and_then(|()| self.file.sync_all()).map_err(|e| self.of.failed("Writing", &e))
    }

    /// Gives it a name that must be free; false if it is not.
    fn link(&self, to: &Path) -> Result<bool> {
        match fs::hard_link(&self.path, to) {
            Ok(()) => Ok(true),
            // An answer that was lost on its way makes the second attempt of an NFS client fail: the file knows.
            Err(e) => match self.file.metadata().map(|m| m.nlink()) {
                Ok(2..) => Ok(true),
                _ if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                _ if e.raw_os_error() == Some(libc::EPERM) => {
                    Err(self.of.failed("Writing", &io::Error::from(io::ErrorKind::Unsupported)))
                }
                _ => Err(self.of.failed("Writing", &e)),
            },
        }
    }

    /// Puts it in the place of the file of that name.
    fn replace(&self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|e| self.of.failed("Writing", &e))
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A lease that this member has. It can be handed to another process of this machine as JSON; only one may renew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    dir: PathBuf,
    volume: Volume,
    record: Record,
    valid_until: Duration,
}

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease is good for another while.
    Kept,
    /// It is gone, for this reason: whatever uses the volume has to be ended at once, and it can't be renewed again.
    Lost(String),
}

impl Held {
    /// The volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// What it says.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The moment, by [`host::clock::since_boot`], at which what uses the volume must have ended unless the lease was
    /// renewed until then.
    pub fn valid_until(&self) -> Duration {
        self.valid_until
    }

    /// Renews it.
    ///
    /// # Errors
    /// When the storage can't be reached now: it can be tried again until [`Held::valid_until`].
    pub fn renew(&mut self, clock: impl Fn() -> Duration) -> Result<Renewed> {
        let began = clock();
        if began >= self.valid_until {
            return Ok(self.too_late());
        }
        let next = Record { beat: self.record.beat + 1, ..self.record.clone() };
        if let Some(why) = self.write(&next)? {
            return Ok(Renewed::Lost(why));
        }
        // An answer that came so late is of no use: others may think by now that this member is gone.
        if clock() >= self.valid_until {
            return Ok(self.too_late());
        }
        self.valid_until = began + self.record.ttl();
        self.record = next;
        Ok(Renewed::Kept)
    }

    fn too_late(&self) -> Renewed {
        Renewed::Lost(format!("the lease of the volume \"{}\" could not be renewed in time", self.volume.name))
    }

    /// Gives it back, as [`State::Released`] or [`State::Fenced`]; nothing happens if it was lost before.
    pub fn release(&self, state: State) -> Result<()> {
        self.write(&Record { beat: self.record.beat + 1, state, ..self.record.clone() }).map(drop)
    }

    /// Gives it back as if it had never been; nothing happens if it was lost before.
    pub fn forget(&self) -> Result<()> {
        let leases = Leases { dir: self.dir.clone() };
        if self.lost(&leases, &self.record)?.is_none() {
            // Whoever takes the next one in this moment removes this file, too.
            let path = leases.path(&self.volume, self.record.incarnation);
            fs::remove_file(path).or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(leases.failed("Removing", &e)),
            })?;
        }
        Ok(())
    }

    /// Puts a record in the place of the own one; why not, if the lease is not the own one any more.
    fn write(&self, next: &Record) -> Result<Option<String>> {
        let leases = Leases { dir: self.dir.clone() };
        let owner = Owner { id: self.record.owner, name: self.record.name.clone() };
        let mut temporary = leases.temporary(&owner)?;
        temporary.write(next)?;
        if let Some(why) = self.lost(&leases, &self.record)? {
            return Ok(Some(why));
        }
        let path = leases.path(&self.volume, self.record.incarnation);
        temporary.replace(&path)?;
        // Who has taken a newer one in this moment may have removed the file before it was put there.
        let lost = self.lost(&leases, next)?;
        if lost.is_some() {
            let _ = fs::remove_file(&path);
        }
        Ok(lost)
    }

    /// Why it is not the own lease any more; `last` is what was written last.
    fn lost(&self, leases: &Leases, last: &Record) -> Result<Option<String>> {
        let newer = leases.record(&leases.path(&self.volume, self.record.incarnation + 1))?;
        if let Some(newer) = newer {
            return Ok(Some(format!("the cluster member \"{}\" has taken the lease over", newer.name)));
        }
        let own = leases.record(&leases.path(&self.volume, self.record.incarnation))?;
        // An older beat of its own is what a server has after a crash.
        if own.is_some_and(|r| r.owner == last.owner && r.state == last.state) {
            return Ok(None);
        }
        // The storage itself may be gone: then nobody knows.
        leases.names()?;
        Ok(Some("the lease is not there any more".to_owned()))
    }
}

/// What a watcher knows of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody has it, or it was given back.
    Free,
    /// Its owner uses the volume, as far as is known.
    Held(Record),
    /// Its owner has not renewed it for so long that it must be gone.
    Lapsed(Record),
    /// Its owner could not renew it and has ended what used the volume.
    Fenced(Record),
}

/// Remembers since when leases look as they do.
#[derive(Debug, Default)]
pub struct Watch {
    since: HashMap<(PathBuf, Volume), (Record, Duration)>,
}

impl Watch {
    /// Looks at the lease of a volume. Only who looks more than once can see that one has lapsed.
    pub fn look(&mut self, leases: &Leases, volume: &Volume, clock: impl Fn() -> Duration) -> Result<Seen> {
        let key = (leases.dir.clone(), volume.clone());
        // Reading may take long. It counts at neither end.
        let before = clock();
        let record = leases.read(volume)?;
        let after = clock();
        let Some(record) = record.filter(|r| r.state != State::Released) else {
            self.since.remove(&key);
            return Ok(Seen::Free);
        };
        if record.state == State::Fenced {
            self.since.remove(&key);
            return Ok(Seen::Fenced(record));
        }
        match self.since.get(&key) {
            Some((same, since)) if *same == record => {
                let lapsed = before.saturating_sub(*since) >= lapse(record.ttl());
                Ok(if lapsed { Seen::Lapsed(record) } else { Seen::Held(record) })
            }
            _ => {
                self.since.insert(key, (record.clone(), after));
                Ok(Seen::Held(record))
            }
        }
    }

    /// Forgets what is known of a volume.
    pub fn forget(&mut self, leases: &Leases, volume: &Volume) {
        self.since.remove(&(leases.dir.clone(), volume.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Barrier;

    use super::*;
    use crate::storage::Kind as VolumeKind;

    const ZERO: Duration = Duration::ZERO;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn pool() -> (tempfile::TempDir, Leases) {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path());
        leases.create().unwrap();
        (dir, leases)
    }

    fn member(id: u64) -> Owner {
        Owner { id, name: format!("server{id}") }
    }

    fn volume(name: &str) -> Volume {
        Volume::new(VolumeKind::Container, "default", name)
    }

    fn files(leases: &Leases) -> Vec<String> {
        let mut names = leases.names().unwrap();
        names.sort();
        names
    }

    #[test]
    fn a_lease_goes_from_one_owner_to_the_next() {
        let (_dir, leases) = pool();
        let v = volume("c.1");
        assert_eq!(leases.read(&v).unwrap(), None);
        let mut held = leases.take(&v, &member(1), TTL, || ZERO).unwrap();
        assert_eq!(held.renew(|| secs(3)).unwrap(), Renewed::Kept);
        assert_eq!(held.valid_until(), secs(13));
        let refused = leases.take(&v, &member(2), TTL, || ZERO).unwrap_err();
        assert_eq!(refused.kind, Kind::Conflict);
        assert!(refused.message.contains("\"server1\""), "{refused}");
        // One whose name begins alike is another one.
        assert_eq!(leases.read(&volume("c")).unwrap(), None);

        assert_eq!(leases.held_by(1).unwrap(), std::slice::from_ref(&v));
        held.release(State::Released).unwrap();
        assert!(leases.held_by(1).unwrap().is_empty());
        let second = leases.take(&v, &member(2), TTL, || ZERO).unwrap();
        assert_eq!((second.record().incarnation, second.record().owner), (2, 2));
        assert_eq!(files(&leases), ["containers_c.1.2"], "nothing else is left");
        // Whoever lost it changes nothing more.
        held.release(State::Fenced).unwrap();
        assert_eq!(leases.read(&v).unwrap().unwrap(), *second.record());

        second.release(State::Fenced).unwrap();
        let third = leases.take(&v, &member(3), TTL, || ZERO).unwrap();
        let again = leases.take(&v, &member(3), TTL, || ZERO).unwrap();
        assert_eq!((third.record().incarnation, again.record().incarnation), (3, 4), "its own after a restart");
        let there: Held = serde_json::from_str(&serde_json::to_string(&again).unwrap()).unwrap();
        assert_eq!(there, again);
        leases.remove(&v).unwrap();
        leases.remove(&v).unwrap();
        assert!(files(&leases).is_empty());
        assert!(matches!({ again }.renew(|| secs(1)).unwrap(), Renewed::Lost(why) if why.contains("not there")));
        assert!(files(&leases).is_empty());
    }

    #[test]
    fn of_many_takers_one_has_it() {
        for _ in 0..20 {
            let (_dir, leases) = pool();
            let (v, start) = (volume("c1"), Barrier::new(8));
            let taken: Vec<Held> = std::thread::scope(|s| {
                let take = |id| {
                    start.wait();
                    leases.take(&v, &member(id), TTL, || ZERO)
                };
                let all: Vec<_> = (1..=8).map(|id| s.spawn(move || take(id))).collect();
                all.into_iter()
                    .map(|t| t.join().unwrap())
                    .filter_map(|done| match done {
                        Err(e) if e.kind == Kind::Conflict => None,
                        other => Some(other.unwrap()),
                    })
                    .collect()
            });
            assert_eq!(taken.len(), 1);
            assert_eq!(leases.read(&v).unwrap().unwrap(), *taken[0].record());
            assert_eq!(files(&leases).len(), 1);
        }
    }

    #[test]
    fn a_take_over_and_a_renewal_do_not_both_work() {
        for round in 0..50 {
            let (_dir, leases) = pool();
            let (v, start) = (volume("c1"), Barrier::new(2));
            let mut held = leases.take(&v, &member(1), TTL, || ZERO).unwrap();
            let seen = leases.read(&v).unwrap().unwrap();
            let (renewed, taken) = std::thread::scope(|s| {
                let renewing = s.spawn(|| {
                    start.wait();
                    let renewed = held.renew(|| secs(1)).unwrap();
                    // What is renewed after it was taken over shows at the next renewal at the latest.
                    (renewed, held.renew(|| secs(2)).unwrap())
                });
                start.wait();
                let taken = leases.take_over(&v, &member(2), TTL, || ZERO, &seen);
                (renewing.join().unwrap(), taken)
            });
            let now = leases.read(&v).unwrap().unwrap();
            match taken {
                Ok(taken) => {
                    assert_eq!(now, *taken.record(), "round {round}");
                    assert!(
                        matches!(renewed.1, Renewed::Lost(_))
                            || matches!(held.renew(|| secs(3)).unwrap(), Renewed::Lost(_))
                    );
                }
                Err(e) => {
                    assert_eq!((e.kind, now.owner, renewed.1), (Kind::Conflict, 1, Renewed::Kept), "round {round}")
                }
            }
            assert_eq!(files(&leases).len(), 1, "round {round}");
        }
    }

    #[test]
    fn only_what_was_seen_is_taken_over() {
        let (_dir, leases) = pool();
        let v = volume("c1");
        let mut held = leases.take(&v, &member(1), TTL, || ZERO).unwrap();
        let seen = leases.read(&v).unwrap().unwrap();
        held.renew(|| secs(1)).unwrap();
        let refused = leases.take_over(&v, &member(2), TTL, || ZERO, &seen).unwrap_err();
        assert!(refused.message.contains("has not lapsed"), "{refused}");
        let seen = leases.read(&v).unwrap().unwrap();
        let taken = leases.take_over(&v, &member(2), TTL, || ZERO, &seen).unwrap();
        let Renewed::Lost(why) = held.renew(|| secs(2)).unwrap() else { panic!("it was taken over") };
        assert!(why.contains("\"server2\""), "{why}");
        assert_eq!(leases.read(&v).unwrap().unwrap(), *taken.record());
    }

    #[test]
    fn a_renewal_that_comes_too_late_is_none() {
        let (_dir, leases) = pool();
        let v = volume("c1");
        let mut held = leases.take(&v, &member(1), TTL, || ZERO).unwrap();
        let late = |r: Renewed| matches!(r, Renewed::Lost(why) if why.contains("in time"));
        // The storage took eleven seconds to answer.
        let times = Cell::new(0);
        let slow = || secs(if times.replace(times.get() + 1) == 0 { 1 } else { 12 });
        assert!(late(held.renew(slow).unwrap()));
        assert!(late(held.renew(|| secs(10)).unwrap()));
    }

    #[test]
    fn a_lease_lapses_by_the_watchers_own_time() {
        let (_dir, leases) = pool();
        let (v, mut watch) = (volume("c1"), Watch::default());
        assert_eq!(watch.look(&leases, &v, || secs(1_000_000)).unwrap(), Seen::Free);
        let mut held = leases.take(&v, &member(1), TTL, || secs(5)).unwrap();
        let mut look = |at: u64| watch.look(&leases, &v, || secs(at)).unwrap();
        let first = leases.read(&v).unwrap().unwrap();
        // However old it may be: the watcher has just seen it for the first time.
        assert_eq!(look(2_000_000), Seen::Held(first.clone()));
        assert_eq!(look(2_000_014), Seen::Held(first.clone()));
        held.renew(|| secs(6)).unwrap();
        let second = held.record().clone();
        assert_eq!(look(2_000_015), Seen::Held(second.clone()));
        assert_eq!(look(2_000_029), Seen::Held(second.clone()));
        assert_eq!(look(2_000_030), Seen::Lapsed(second.clone()));
        held.release(State::Fenced).unwrap();
        assert!(matches!(look(2_000_031), Seen::Fenced(r) if r.beat == 2));
        let taken = leases.take(&v, &member(2), TTL, || ZERO).unwrap();
        assert_eq!(look(2_000_060), Seen::Held(taken.record().clone()));
        taken.release(State::Released).unwrap();
        assert_eq!(look(2_000_061), Seen::Free);
        // Reading that takes long counts at neither end.
        let taken = leases.take(&v, &member(2), TTL, || ZERO).unwrap();
        let slow = Cell::new(100);
        let clock = || secs(slow.replace(slow.get() + 20));
        assert_eq!(watch.look(&leases, &v, clock).unwrap(), Seen::Held(taken.record().clone()));
        assert_eq!(watch.look(&leases, &v, || secs(134)).unwrap(), Seen::Held(taken.record().clone()));
        assert_eq!(watch.look(&leases, &v, || secs(135)).unwrap(), Seen::Lapsed(taken.record().clone()));
    }

    #[test]
    fn what_is_broken_is_told_and_nothing_is_taken() {
        let (dir, leases) = pool();
        let v = volume("c1");
        let mut held = leases.take(&v, &member(1), TTL, || ZERO).unwrap();
        for garbage in ["", "{\"owner\":1", "\0\0\0"] {
            fs::write(leases.path(&v, 2), garbage).unwrap();
            for e in [
                leases.read(&v).unwrap_err(),
                leases.take(&v, &member(2), TTL, || ZERO).unwrap_err(),
                Watch::default().look(&leases, &v, || ZERO).unwrap_err(),
                held.renew(|| ZERO).unwrap_err(),
            ] {
                assert!(e.message.contains("containers_c1.2 holds no lease"), "{e}");
            }
        }
        fs::remove_file(leases.path(&v, 2)).unwrap();
        assert_eq!(files(&leases), ["containers_c1.1"]);
        // Unmounted: nobody has lost anything yet, and nobody may take anything.
        let away = dir.path().join("away");
        fs::rename(&leases.dir, &away).unwrap();
        for e in [leases.take(&v, &member(1), TTL, || ZERO).unwrap_err(), held.renew(|| secs(1)).unwrap_err()] {
            assert!(e.retryable() && e.message.contains("is the shared storage mounted?"), "{e}");
        }
        fs::rename(&away, &leases.dir).unwrap();
        assert_eq!(held.renew(|| secs(2)).unwrap(), Renewed::Kept);
    }

    #[test]
    fn a_full_disk_is_told_and_the_lease_stays() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: only root can make a small disk");
        }
        struct Disk(tempfile::TempDir);
        impl Drop for Disk {
            fn drop(&mut self) {
                let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
            }
        }
        let disk = Disk(tempfile::tempdir().unwrap());
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", disk.0.path(), "tmpfs", flags, Some(c"size=64k,mode=700")).unwrap();
        let leases = Leases::new(disk.0.path());
        leases.create().unwrap();
        let (v, w) = (volume("c1"), volume("c2"));
        let mut held = leases.take(&v, &member(1), TTL, || ZERO).unwrap();
        let _ = fs::write(disk.0.path().join("fat"), vec![1; 1 << 20]);
        for e in [leases.take(&w, &member(1), TTL, || ZERO).unwrap_err(), held.renew(|| secs(1)).unwrap_err()] {
            assert!(e.message.contains("No space left on the shared storage"), "{e}");
        }
        assert_eq!(files(&leases), ["containers_c1.1"]);
        fs::remove_file(disk.0.path().join("fat")).unwrap();
        assert_eq!(held.renew(|| secs(2)).unwrap(), Renewed::Kept);
    }

    #[test]
    fn what_killed_processes_left_goes() {
        let (_dir, leases) = pool();
        let gone = u32::MAX;
        for name in [format!(".1.{gone}.0"), format!(".2.{gone}.0"), format!(".1.{}.7", std::process::id())] {
            fs::write(leases.dir.join(name), "half").unwrap();
        }
        leases.tidy_up(1).unwrap();
        assert_eq!(files(&leases), [format!(".1.{}.7", std::process::id()), format!(".2.{gone}.0")]);
    }
}
