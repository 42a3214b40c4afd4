//! The guard itself (`incusd forkguard`): a small process that outlives the daemon, renews the leases of what runs here,
//! and ends what may not run on.
//!
//! It has to go on when anything else stands still. The thread that judges and ends touches no file but those of the
//! kernel; each lease is renewed by a thread of its own, which may hang with its storage.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use api::Result;
use api::error::Context as _;
use drivers::storage::lease::{Held, Renewed, State as LeaseState};
use host::cgroup::Hierarchies;
use host::channel::Channel;
use host::clock::since_boot;
use host::confine::{self, Capabilities};
use host::watchdog::Watchdog;
use incus_core::guard::{Lease, Quorum, Why, must_end, out_of_hand};

use super::wire::{Ask, Report, Told, User};

/// How often it is judged whether all may run on.
const TICK: Duration = Duration::from_millis(200);
/// A guard that has had nothing to look after for so long ends.
const IDLE: Duration = Duration::from_secs(5);
/// How long the daemon is kept waiting while a lease is given back.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// After so many seconds without a word from the guard the watchdog resets the machine. What can't be ended is seen
/// [`out_of_hand`] seven tenths of a lease's time after its last renewal; others take it after fifteen.
const WATCHDOG: i32 = 5;
/// What it does is to end processes of others, to write where its leases lie, and to keep its memory in place.
const KEPT: Capabilities = confine::FILES.union(Capabilities::KILL).union(Capabilities::IPC_LOCK);
/// The path of the watchdog, for tests and for machines with several; empty for none.
const WATCHDOG_PATH: &str = "INCUS_WATCHDOG";

/// What is to become of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Renew,
    GiveBack(LeaseState),
}

/// A lease that is held.
struct Entry {
    lease: Lease,
    incarnation: u64,
    users: Vec<User>,
    wish: Wish,
    /// Why its users are ended, once they are.
    ended: Option<String>,
    /// They are gone.
    gone: bool,
    /// Its renewing thread has ended, having done what was wished.
    done: bool,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    quorum: Quorum,
}

/// What may wait, and is done beside.
enum Chore {
    Say(String),
    Note(PathBuf, String),
}

struct Guard {
    state: Mutex<State>,
    changed: Condvar,
    chores: SyncSender<Chore>,
}

/// Guards until nothing is held any more. To be called before the process has a second thread.
pub fn main(socket: &Path) -> Result<()> {
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).context(format!("Listening on {}", socket.display()))?;
    // Who may tell the guard what to do may do anything here.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let refused = host::urgent::claim();
    confine::keep(KEPT).context("Giving up what a guard doesn't need")?;
    let guard = Guard::new();
    for refused in refused {
        guard.say(format!("going on without {refused}"));
    }
    guard.say("guarding".to_owned());
    let serving = guard.clone();
    thread::spawn(move || serving.serve(&listener));
    guard.judge_all_the_time();
    let _ = std::fs::remove_file(socket);
    Ok(())
}

impl Guard {
    fn new() -> Arc<Guard> {
        let (chores, todo) = sync_channel(256);
        // What it writes to may hang.
        thread::spawn(move || {
            for chore in todo {
                match chore {
                    Chore::Say(what) => eprintln!("guard[{}]: {what}", std::process::id()),
                    Chore::Note(file, why) => drop(std::fs::write(file, why)),
                }
            }
        });
        Arc::new(Guard { state: Mutex::default(), changed: Condvar::new(), chores })
    }

    fn say(&self, what: String) {
        let _ = self.chores.try_send(Chore::Say(what));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            let guard = self.clone();
            thread::spawn(move || {
                let mut channel = Channel::from(stream);
                while let Ok((ask, _)) = channel.receive::<Ask>() {
                    guard.obey(ask);
                    if channel.send(&guard.report(), &[]).is_err() {
                        break;
                    }
                }
            });
        }
    }

    fn obey(self: &Arc<Self>, ask: Ask) {
        match ask {
            Ask::Look => {}
            Ask::Quorum { confirmed, fence_after } => self.state().quorum = Quorum { confirmed, fence_after },
            Ask::Hold { name, lease, users } => self.hold(name, *lease, users),
            Ask::Use { name, users } => {
                if let Some(entry) = self.state().entries.get_mut(&name) {
                    entry.users = users;
                }
            }
            Ask::GiveBack { name } => self.give_back(&name),
        }
    }

    fn report(&self) -> Report {
        let state = self.state();
        let told = |(name, entry): (&String, &Entry)| Told {
            name: name.clone(),
            incarnation: entry.incarnation,
            users: entry.users.iter().map(|u| u.name.clone()).collect(),
            ended: entry.ended.clone().unwrap_or_default(),
        };
        Report { leases: state.entries.iter().map(told).collect() }
    }

    fn hold(self: &Arc<Self>, name: String, held: Held, users: Vec<User>) {
        let incarnation = held.record().incarnation;
        let mut state = self.state();
        if state.entries.get(&name).is_some_and(|e| e.incarnation == incarnation) {
            // Asked twice.
            return;
        }
        let lease = Lease { valid_until: held.valid_until(), ttl: held.record().ttl(), lost: false };
        let entry = Entry { lease, incarnation, users, wish: Wish::Renew, ended: None, gone: false, done: false };
        state.entries.insert(name.clone(), entry);
        drop(state);
        self.changed.notify_all();
        let guard = self.clone();
        thread::spawn(move || guard.renew(&name, held));
    }

    /// Gives a lease back and forgets it; while the storage hangs that is done later.
    fn give_back(&self, name: &str) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(name) else { return };
        if entry.wish == Wish::Renew {
            entry.wish = Wish::GiveBack(LeaseState::Released);
        }
        entry.users.clear();
        let incarnation = entry.incarnation;
        self.changed.notify_all();
        let end = Instant::now() + GIVING_BACK;
        let waits = |state: &State| state.entries.get(name).is_some_and(|e| e.incarnation == incarnation && !e.done);
        while waits(&state) && Instant::now() < end {
            let waited = self.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !waits(&state) {
            state.entries.remove(name);
        }
    }

    /// Renews a lease until it is to be given back, or another has its name.
    fn renew(&self, name: &str, mut held: Held) {
        let (incarnation, ttl) = (held.record().incarnation, held.record().ttl());
        let mut pause = ttl / 5;
        while let Some(wish) = self.wish(name, incarnation, pause) {
            pause = match wish {
                Wish::Renew => match held.renew(since_boot) {
                    Ok(Renewed::Kept) => {
                        self.change(name, incarnation, |e| e.lease.valid_until = held.valid_until());
                        ttl / 5
                    }
                    Ok(Renewed::Lost(why)) => {
                        self.say(format!("{name}: {why}"));
                        self.change(name, incarnation, |e| e.lease.lost = true);
                        ttl / 5
                    }
                    Err(e) => {
                        self.say(format!("renewing the lease of {name}: {e}"));
                        ttl / 20
                    }
                },
                Wish::GiveBack(as_what) => match held.release(as_what) {
                    Ok(()) => {
                        self.change(name, incarnation, |e| e.done = true);
                        return;
                    }
                    Err(e) => {
                        self.say(format!("giving the lease of {name} back: {e}"));
                        ttl / 20
                    }
                },
            };
        }
    }

    /// What is to become of a lease, after a pause unless that changes; none when there is another of its name.
    fn wish(&self, name: &str, incarnation: u64, pause: Duration) -> Option<Wish> {
        let end = Instant::now() + pause;
        let mut state = self.state();
        let before = state.entries.get(name).filter(|e| e.incarnation == incarnation)?.wish;
        loop {
            let entry = state.entries.get(name).filter(|e| e.incarnation == incarnation)?;
            let left = end.saturating_duration_since(Instant::now());
            // What is lost can't be renewed.
            let waits = entry.wish == Wish::Renew && entry.lease.lost;
            if entry.wish != before || (left.is_zero() && !waits) {
                return Some(entry.wish);
            }
            let waited = self.changed.wait_timeout(state, left.max(TICK));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn change(&self, name: &str, incarnation: u64, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(name).filter(|e| e.incarnation == incarnation) {
            change(entry);
        }
        self.changed.notify_all();
    }

    /// Judges until nothing has been held for a while.
    fn judge_all_the_time(&self) {
        let hierarchies = Hierarchies::read().unwrap_or_default();
        let mut watchdog = Dog::new();
        let mut busy = Instant::now();
        while busy.elapsed() < IDLE {
            let seen = self.judge(&hierarchies);
            if seen.knows {
                busy = Instant::now();
            }
            watchdog.tick(self, &seen);
            thread::sleep(TICK);
        }
    }

    /// Ends what may not run on, again and again until it is gone and after that, too: it may just be being started.
    fn judge(&self, hierarchies: &Hierarchies) -> Seen {
        let now = since_boot();
        let condemned: Vec<(String, u64, Vec<User>)> = {
            let mut state = self.state();
            self.condemn(&mut state, now);
            let ended = state.entries.iter().filter(|(_, e)| e.ended.is_some());
            ended.map(|(name, e)| (name.clone(), e.incarnation, e.users.clone())).collect()
        };
        for (name, incarnation, users) in condemned {
            let mut all_gone = true;
            for user in &users {
                all_gone &= hierarchies.kill(&user.cgroup);
            }
            if all_gone {
                self.change(&name, incarnation, |e| {
                    if !e.gone && e.wish == Wish::Renew {
                        e.wish = Wish::GiveBack(LeaseState::Fenced);
                    }
                    e.gone = true;
                });
            }
        }
        let state = self.state();
        let stuck = |e: &Entry| e.ended.is_some() && !e.gone && out_of_hand(now, &e.lease);
        Seen {
            knows: !state.entries.is_empty(),
            holds: state.entries.values().any(|e| !e.done),
            heals: state.quorum.fence_after.is_some(),
            stuck: state.entries.values().any(stuck),
        }
    }

    /// Finds out whose time is over.
    fn condemn(&self, state: &mut State, now: Duration) {
        let quorum = state.quorum;
        let mut over: BTreeSet<String> = BTreeSet::new();
        let mut condemn = |entry: &mut Entry, name: &str, why: &str| {
            for user in &entry.users {
                let _ = self.chores.try_send(Chore::Note(user.note.clone(), why.to_owned()));
                over.insert(user.name.clone());
            }
            if !entry.users.is_empty() {
                self.say(format!("ending what uses {name}: {why}"));
            }
            entry.ended = Some(why.to_owned());
        };
        for (name, entry) in state.entries.iter_mut().filter(|(_, e)| e.ended.is_none() && e.wish == Wish::Renew) {
            if let Some(why) = must_end(now, &entry.lease, &quorum) {
                condemn(entry, name, &why.to_string());
            }
        }
        // What else they used is used by nobody then.
        for entry in state.entries.values_mut().filter(|e| e.ended.is_none() && !e.users.is_empty()) {
            if entry.users.iter().all(|u| over.contains(&u.name)) {
                entry.ended = Some(Why::Lost.to_string());
            }
        }
    }
}

/// What was seen in a round.
struct Seen {
    /// There are leases that the daemon has not done with.
    knows: bool,
    /// Leases are held.
    holds: bool,
    /// The cluster heals.
    heals: bool,
    /// Something can't be ended, and others may start it soon.
    stuck: bool,
}

/// The watchdog, while there is something to watch over.
struct Dog {
    /// Where it is; none if there is none.
    path: Option<PathBuf>,
    held: Option<Watchdog>,
    /// It was tried to open it.
    tried: bool,
}

impl Dog {
    fn new() -> Dog {
        let named = std::env::var_os(WATCHDOG_PATH);
        let path = named.map_or_else(|| PathBuf::from("/dev/watchdog"), PathBuf::from);
        Dog::at(Some(path).filter(|path| !path.as_os_str().is_empty() && path.exists()))
    }

    fn at(path: Option<PathBuf>) -> Dog {
        Dog { path, held: None, tried: false }
    }

    fn tick(&mut self, guard: &Guard, seen: &Seen) {
        match (seen.holds && seen.heals, self.held.take()) {
            (true, None) if !self.tried => {
                self.tried = true;
                self.held = self.open(guard);
            }
            (true, Some(dog)) if seen.stuck => {
                guard.say("what uses a lost lease can't be ended: leaving the machine to its watchdog".to_owned());
                // It is not opened again, and counts.
                drop(dog);
            }
            (true, Some(mut dog)) => {
                if let Err(e) = dog.pet() {
                    guard.say(format!("{}: {e}", dog.path().display()));
                }
                self.held = Some(dog);
            }
            (true, None) => {}
            (false, Some(dog)) => {
                let path = dog.path().to_owned();
                if let Err(e) = dog.close() {
                    guard.say(format!("{} counts on: {e}", path.display()));
                }
                self.tried = false;
            }
            (false, None) => self.tried = false,
        }
    }

    fn open(&self, guard: &Guard) -> Option<Watchdog> {
        let path = self.path.as_ref()?;
        match Watchdog::open(path, WATCHDOG) {
            Ok(dog) => {
                guard.say(format!("{} resets this machine should its guard hang", path.display()));
                Some(dog)
            }
            Err(e) => {
                guard.say(format!("going on without {}: {e}", path.display()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use drivers::storage::lease::{Leases, Owner, Record};
    use drivers::storage::{Kind, Volume};

    use super::*;

    /// A pool with the lease of one volume, and a guard that holds it for one user.
    struct World {
        dir: tempfile::TempDir,
        leases: Leases,
        volume: Volume,
        guard: Arc<Guard>,
    }

    impl World {
        fn new(ttl: Duration) -> World {
            let dir = tempfile::tempdir().unwrap();
            let leases = Leases::new(dir.path());
            leases.create().unwrap();
            let volume = Volume::new(Kind::Container, "default", "c1");
            let owner = Owner { id: 1, name: "server1".into() };
            let held = leases.take(&volume, &owner, ttl, since_boot).unwrap();
            let guard = Guard::new();
            let user = User { name: "c1".into(), cgroup: "no-such-group".into(), note: dir.path().join("fenced") };
            guard.obey(Ask::Hold { name: "pool/c1".into(), lease: Box::new(held), users: vec![user] });
            World { dir, leases, volume, guard }
        }

        fn record(&self) -> Record {
            self.leases.read(&self.volume).unwrap().unwrap()
        }

        /// Judges until that has come.
        fn until(&self, what: &str, mut come: impl FnMut(&World) -> bool) {
            let end = Instant::now() + Duration::from_secs(60);
            while !come(self) {
                assert!(Instant::now() < end, "{what}");
                self.guard.judge(&Hierarchies::default());
                thread::sleep(Duration::from_millis(10));
            }
        }

        fn ended(&self) -> String {
            self.guard.report().leases.first().map(|told| told.ended.clone()).unwrap_or_default()
        }
    }

    #[test]
    fn a_lease_is_renewed_until_it_is_given_back() {
        let world = World::new(Duration::from_secs(5));
        world.until("it is renewed", |w| w.record().beat > 1);
        assert_eq!(
            (world.ended(), world.guard.report().leases[0].users.clone()),
            (String::new(), vec!["c1".to_owned()])
        );
        world.guard.obey(Ask::GiveBack { name: "pool/c1".into() });
        assert_eq!(world.record().state, LeaseState::Released);
        assert_eq!(world.guard.report(), Report::default());
        assert!(!world.guard.judge(&Hierarchies::default()).knows);
        assert!(!world.dir.path().join("fenced").exists());
    }

    #[test]
    fn without_a_majority_what_runs_is_ended_and_the_lease_says_so() {
        let world = World::new(Duration::from_secs(10));
        let quorum = |fence_after| Ask::Quorum { confirmed: since_boot(), fence_after };
        world.guard.obey(quorum(None));
        assert!(!world.guard.judge(&Hierarchies::default()).heals);
        world.guard.obey(quorum(Some(Duration::from_secs(3600))));
        assert!(world.guard.judge(&Hierarchies::default()).heals);
        assert_eq!(world.ended(), "");
        world.guard.obey(quorum(Some(Duration::from_millis(300))));
        world.until("it is fenced", |w| w.record().state == LeaseState::Fenced);
        assert!(world.ended().contains("no majority of the cluster"), "{}", world.ended());
        world.until("it is noted", |w| w.dir.path().join("fenced").exists());
        // What is started late is ended, too: it is still known.
        assert!(world.guard.judge(&Hierarchies::default()).knows);
        // Later a majority is there, and the instance starts with another lease.
        world.guard.obey(quorum(None));
        let owner = Owner { id: 1, name: "server1".into() };
        let held = world.leases.take(&world.volume, &owner, Duration::from_secs(10), since_boot).unwrap();
        world.guard.obey(Ask::Hold { name: "pool/c1".into(), lease: Box::new(held), users: Vec::new() });
        world.until("it is renewed", |w| w.record().beat > 0);
        assert_eq!(world.ended(), "");
    }

    #[test]
    fn what_cannot_be_renewed_is_ended_in_time() {
        let world = World::new(Duration::from_secs(2));
        world.until("it is renewed", |w| w.record().beat > 0);
        let (there, away) = (world.dir.path().join("leases"), world.dir.path().join("away"));
        fs::rename(&there, &away).unwrap();
        world.until("it is ended", |w| !w.ended().is_empty());
        assert_eq!(world.ended(), Why::NotRenewed.to_string());
        fs::rename(&away, &there).unwrap();
        world.until("it is fenced", |w| w.record().state == LeaseState::Fenced);
    }

    #[test]
    fn what_another_member_has_taken_is_ended_at_once() {
        let world = World::new(Duration::from_secs(5));
        let owner = Owner { id: 2, name: "server2".into() };
        // What was seen of it may be an older one.
        world.until("it is taken", |w| {
            let seen = w.record();
            w.leases.take_over(&w.volume, &owner, Duration::from_secs(5), since_boot, &seen).is_ok()
        });
        world.until("it is ended", |w| w.ended() == Why::Lost.to_string());
        assert_eq!((world.record().owner, world.record().state), (2, LeaseState::Held), "the other one's stays");
    }

    #[test]
    fn the_watchdog_is_held_only_while_there_is_something_to_end() {
        // A file is no watchdog, but takes the same writes.
        let file = tempfile::NamedTempFile::new().unwrap();
        let written = || fs::read(file.path()).unwrap();
        let (guard, mut dog) = (Guard::new(), Dog::at(Some(file.path().to_owned())));
        let seen = |holds, heals, stuck| Seen { knows: holds, holds, heals, stuck };
        for (what, now, want) in [
            ("nothing is held", seen(false, true, false), &b""[..]),
            ("nobody heals", seen(true, false, false), b""),
            ("opened", seen(true, true, false), b""),
            ("petted", seen(true, true, false), b"\0"),
            ("healing is switched off", seen(true, false, false), b"\0V"),
            ("opened again, from the start", seen(true, true, false), b"\0V"),
            ("petted", seen(true, true, false), b"\0V"),
            ("something can't be ended", seen(true, true, true), b"\0V"),
            ("it may be too late", seen(true, true, false), b"\0V"),
        ] {
            dog.tick(&guard, &now);
            assert_eq!(written(), want, "{what}");
        }
        // One that somebody else holds, or that is not there, is done without.
        let mut none = Dog::at(Some("/nowhere/watchdog".into()));
        none.tick(&guard, &seen(true, true, false));
        assert!(none.held.is_none());
    }
}
