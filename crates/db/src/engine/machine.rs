//! The state machine: the replica of the global database, in SQLite.
//!
//! Entries are applied in order and run no business code. Where the replica stands is stored in the same
//! transaction (table `_raft`), so the file need not be synced at each commit: after a crash the log is replayed
//! from where the file stands.
//!
//! A write counts only if its base is the last entry with data. That one check decides, the same on every replica,
//! which of two writes that were made on the same state comes true, however often and late they arrive.
//!
//! Changes are applied whatever the version of the schema, since that needs no knowledge of it; only a migration to a
//! version that this program does not know has to wait for a newer program.
//!
//! Nothing of this program may open the replica's file but SQLite: closing another descriptor of it would drop the
//! locks by which other processes (`sqlite3` in the hands of a person) know that it is in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::TryStreamExt as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend};
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::session::{ChangesetItem, ConflictAction, ConflictType};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::copy::{self, Copy};
use super::disk::{Disk, File, sql, write_anew};
use super::log::other;
use super::runtime::blocking;
use super::types::{Applied, Command, Types};
use super::{Schema, watch};

/// For how many entries it is remembered which transaction was written on top of which entry.
const FATES: u64 = 16_384;
/// Bytes of changes that share one transaction of the replica.
const BATCH: usize = 4 << 20;
/// Pause between attempts of a replica that can't go on.
const PAUSE: Duration = Duration::from_secs(1);

/// The replica; clones share it.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

/// When what was changed last: numbers of which no two replicas that this program opens ever have the same, and that grow.
struct Revisions {
    /// All of it, when it was opened, migrated, or replaced by a copy.
    all: u64,
    /// Tables that were written to since then.
    tables: HashMap<String, u64>,
}

impl Revisions {
    fn of_all() -> Revisions {
        Revisions { all: Self::next(), tables: HashMap::new() }
    }

    fn next() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn note(&mut self, touched: Touched) {
        match touched {
            Touched::All => *self = Revisions::of_all(),
            Touched::Tables(tables) => {
                let now = Self::next();
                self.tables.extend(tables.into_iter().map(|table| (table, now)));
            }
        }
    }

    fn last(&self) -> u64 {
        self.tables.values().copied().fold(self.all, u64::max)
    }

    fn last_of(&self, tables: &[&str]) -> u64 {
        tables.iter().filter_map(|table| self.tables.get(*table)).copied().fold(self.all, u64::max)
    }
}

/// What entries of the log change.
enum Touched {
    All,
    Tables(BTreeSet<String>),
}

impl Touched {
    fn add(&mut self, names: Vec<&str>) {
        if let Touched::Tables(tables) = self {
            tables.extend(names.into_iter().map(str::to_owned));
        }
    }
}

struct Shared {
    path: PathBuf,
    schema: Schema,
    state: Mutex<State>,
    /// Held by whoever has a write transaction open on the file, so that nobody waits by polling. Taken before
    /// `state` by who needs both.
    gate: Mutex<()>,
    /// Read by who makes a copy, which opens the file once more.
    copying: RwLock<()>,
    data_index: AtomicU64,
    revisions: Mutex<Revisions>,
    version: AtomicI64,
    incarnation: AtomicU64,
    applied: watch::Sender<u64>,
    halted: watch::Sender<Option<Halt>>,
    /// A halted replica may try again now.
    go_on: Notify,
    stopping: watch::Sender<bool>,
    /// Pages of the write-ahead log that are taken over at a time.
    pages: u32,
    /// Given if it is simulated.
    disk: Option<Arc<dyn Disk>>,
}

struct State {
    db: Connection,
    standing: Standing,
    /// Pages in its write-ahead log.
    pages: Arc<AtomicU32>,
    /// Not all that is shown of the write-ahead log may come to the disk by itself.
    doubtful: bool,
}

/// Where a replica stands; stored with it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The last entry applied.
    pub last: Option<LogIdOf<Types>>,
    pub membership: StoredMembershipOf<Types>,
    /// The last entry that changed data.
    pub data_index: u64,
    /// The schema version; 0 before the first migration.
    pub version: i64,
    /// Names the database among all others; 0 before the first migration.
    pub incarnation: u64,
}

/// Why a replica can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    /// It is not what the others have: it needs a fresh copy of theirs.
    pub differs: bool,
    pub why: String,
    /// Whose copy it needs, if that is known.
    pub source: Option<u64>,
    /// The schema version that it can't go on to.
    pub version: Option<i64>,
}

impl Halt {
    fn because(why: String) -> Halt {
        Halt { differs: false, why, source: None, version: None }
    }
}

impl From<io::Error> for Halt {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::InvalidData {
            let why = format!("The database of this member is damaged and waits for a fresh copy: {e}");
            return Halt { differs: true, ..Halt::because(why) };
        }
        Halt::because(format!("The database of this member can't be written: {e}"))
    }
}

/// What an attempt to write would come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trial {
    Fits,
    /// It would change nothing, for this reason.
    Nothing(Applied),
    /// It was made on the same state, but that was not the same.
    Differs,
    /// No replica could apply it.
    Impossible(String),
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was applied.
    Applied,
    /// Nothing was written on its base yet; it may still come.
    Open,
    /// Another write took its place: it will never be applied.
    Lost,
    /// It is too long ago.
    Forgotten,
}

/// Settings of every connection that writes to the replica's file. Only the replica itself takes the write-ahead log
/// over into the file ([`Machine::take_over`]): SQLite would do it whether the log can be trusted or not.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -1024;
         PRAGMA wal_autocheckpoint = 0;",
    )?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

pub(super) fn load(db: &Connection) -> io::Result<Standing> {
    let value: Option<Vec<u8>> =
        db.query_row("SELECT v FROM _raft WHERE k = 'standing'", [], |r| r.get(0)).optional().map_err(sql)?;
    value.map_or_else(|| Ok(Standing::default()), |v| postcard::from_bytes(&v).map_err(other))
}

pub(super) fn store(db: &Connection, standing: &Standing) -> io::Result<()> {
    let value = postcard::to_stdvec(standing).map_err(other)?;
    let mut insert = db.prepare_cached("INSERT OR REPLACE INTO _raft VALUES ('standing', ?)").map_err(sql)?;
    insert.execute([value]).map(drop).map_err(sql)
}

/// Makes sure that the file survives a power cut as it is now.
pub(super) fn make_durable(db: &Connection) -> io::Result<()> {
    let commit = "PRAGMA synchronous = FULL; BEGIN IMMEDIATE;
                  INSERT OR REPLACE INTO _raft VALUES ('synced', randomblob(8)); COMMIT;";
    let done = db.execute_batch(commit);
    if !db.is_autocommit() {
        let _ = db.execute_batch("ROLLBACK");
    }
    db.execute_batch("PRAGMA synchronous = NORMAL").and(done).map_err(sql)
}

impl Machine {
    /// Opens or creates the replica in the file `path`; so many pages of its write-ahead log are taken over into it at a
    /// time. The disk is given if it is simulated.
    pub fn open(path: &Path, schema: Schema, pages: u32, disk: Option<Arc<dyn Disk>>) -> io::Result<Machine> {
        copy::sweep(path.parent().unwrap_or(Path::new(".")))?;
        write_anew(path, disk.as_ref())?;
        let mut db = connect(path).map_err(sql)?;
        let in_log = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&in_log);
        let noted = move |_: &mut Wal, pages: i32| {
            count.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        db.wal_hook(Some(noted)).map_err(sql)?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS _raft (k TEXT PRIMARY KEY NOT NULL, v BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS _raft_fates (base INTEGER PRIMARY KEY NOT NULL, txid BLOB NOT NULL);
             PRAGMA foreign_keys = OFF;",
        )
        .map_err(sql)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(sql)?;
        let standing = load(&db)?;
        let shared = Shared {
            path: path.to_owned(),
            schema,
            gate: Mutex::default(),
            copying: RwLock::default(),
            data_index: AtomicU64::new(standing.data_index),
            revisions: Mutex::new(Revisions::of_all()),
            version: AtomicI64::new(standing.version),
            incarnation: AtomicU64::new(standing.incarnation),
            applied: watch::Sender::new(standing.last.map_or(0, |id| id.index())),
            halted: watch::Sender::new(None),
            go_on: Notify::new(),
            stopping: watch::Sender::new(false),
            pages,
            disk,
            state: Mutex::new(State { db, standing, pages: in_log, doubtful: false }),
        };
        Ok(Machine { shared: Arc::new(shared) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The folder of the file.
    pub fn dir(&self) -> &Path {
        self.shared.path.parent().unwrap_or(Path::new("."))
    }

    /// Keeps the replica as it is while the caller has a write transaction on the file open.
    pub fn gate(&self) -> MutexGuard<'_, ()> {
        self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of the last entry that changed data.
    pub fn data_index(&self) -> u64 {
        self.shared.data_index.load(Ordering::SeqCst)
    }

    /// Names what is in the replica: no other replica that this program opens ever has the same.
    pub fn revision(&self) -> u64 {
        self.revisions().last()
    }

    /// The same for some of its tables.
    pub fn revision_of(&self, tables: &[&str]) -> u64 {
        self.revisions().last_of(tables)
    }

    fn revisions(&self) -> MutexGuard<'_, Revisions> {
        self.shared.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The schema version of the replica; 0 before the first migration.
    pub fn version(&self) -> i64 {
        self.shared.version.load(Ordering::SeqCst)
    }

    /// Names the database; 0 before the first migration.
    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation.load(Ordering::SeqCst)
    }

    /// The index of the last entry applied, as it grows.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Why the replica can't go on, while it can't.
    pub fn watch_halted(&self) -> watch::Receiver<Option<Halt>> {
        self.shared.halted.subscribe()
    }

    /// Where the replica stands.
    pub fn standing(&self) -> Standing {
        self.state().standing.clone()
    }

    /// Makes sure that the replica survives a power cut as it is now. The caller holds the gate.
    fn sync(&self, state: &mut State) -> io::Result<()> {
        self.with_sound_log(state, |state| make_durable(&state.db))
    }

    /// Takes the write-ahead log over into the file, as far as nobody reads there, if it is long. The caller holds the
    /// gate.
    fn take_over(&self, state: &mut State) {
        if state.pages.load(Ordering::Relaxed) < self.shared.pages {
            return;
        }
        let taken_over = self.with_sound_log(state, |state| {
            state.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(sql)
        });
        if let Err(e) = taken_over {
            tracing::warn!("the changes of the database can't be taken over into its file yet: {e}");
        }
    }

    /// Does what relies on the write-ahead log, which is written anew before if an error has put it in doubt.
    fn with_sound_log<T>(&self, state: &mut State, f: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        if state.doubtful {
            write_anew(&self.shared.path, self.shared.disk.as_ref())?;
            state.doubtful = false;
        }
        let done = f(state);
        state.doubtful = done.is_err();
        done
    }

    /// Ends all waiting: the database is being closed.
    pub fn stop(&self) {
        self.shared.stopping.send_replace(true);
    }

    /// Closes the file, once nothing is to be applied any more and the copies that are being made are.
    pub fn close(&self) -> io::Result<()> {
        let _no_copy = self.shared.copying.write().unwrap_or_else(PoisonError::into_inner);
        let nothing = Connection::open_in_memory().map_err(other)?;
        let was = std::mem::replace(&mut self.state().db, nothing);
        was.close().map_err(|(_, e)| other(e))
    }

    /// Tells when it is being closed.
    pub fn watch_stopping(&self) -> watch::Receiver<bool> {
        self.shared.stopping.subscribe()
    }

    /// True once it is being closed.
    pub fn is_stopping(&self) -> bool {
        *self.shared.stopping.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the replica can't go on.
    pub fn halt(&self, halt: Halt) {
        let news = self.shared.halted.send_if_modified(|now| {
            let news = now.as_ref() != Some(&halt);
            *now = Some(halt.clone());
            news
        });
        if news {
            tracing::error!("{}", halt.why);
        }
    }

    fn publish(&self, standing: &Standing, touched: Touched) {
        self.revisions().note(touched);
        self.shared.data_index.store(standing.data_index, Ordering::SeqCst);
        self.shared.version.store(standing.version, Ordering::SeqCst);
        self.shared.incarnation.store(standing.incarnation, Ordering::SeqCst);
        self.shared.applied.send_replace(standing.last.map_or(0, |id| id.index()));
    }

    /// Applies entries in one transaction. If one of them can't be applied, none is.
    pub fn apply_all(&self, entries: &[EntryOf<Types>]) -> Result<Vec<Applied>, Halt> {
        let _gate = self.gate();
        let mut state = self.state();
        state.db.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut standing = state.standing.clone();
        let mut touched = Touched::Tables(BTreeSet::new());
        let applied = entries
            .iter()
            .map(|entry| self.apply_one(&state.db, &mut standing, &mut touched, entry))
            .collect::<Result<Vec<_>, Halt>>()
            .and_then(|answers| {
                store(&state.db, &standing)?;
                state.db.execute_batch("COMMIT").map_err(sql)?;
                Ok(answers)
            });
        if !state.db.is_autocommit() {
            let _ = state.db.execute_batch("ROLLBACK");
        }
        if applied.is_ok() {
            self.publish(&standing, touched);
            state.standing = standing;
            self.take_over(&mut state);
        } else {
            state.doubtful = true;
        }
        applied
    }

    fn apply_one(
        &self,
        db: &Connection,
        at: &mut Standing,
        touched: &mut Touched,
        entry: &EntryOf<Types>,
    ) -> Result<Applied, Halt> {
        if at.last.is_some_and(|last| entry.log_id.index() <= last.index()) {
            return already_applied(db, entry);
        }
        let index = entry.log_id.index();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(m) => {
                at.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), m.clone());
            }
            EntryPayload::Normal(Command::Migrate { from, to, now_ms, incarnation }) if *from == at.version => {
                self.migrate(db, *from, *to, *now_ms)?;
                remember(db, index, at.data_index, &[0; 16])?;
                *touched = Touched::All;
                (at.version, at.data_index) = (*to, index);
                if at.incarnation == 0 {
                    at.incarnation = *incarnation;
                }
            }
            EntryPayload::Normal(Command::Write { schema, base, txid, changeset })
                if *schema == at.version && *base == at.data_index =>
            {
                touched.add(apply_changeset(db, changeset).map_err(Misfit::into_halt)?);
                remember(db, index, *base, txid)?;
                at.data_index = index;
            }
            EntryPayload::Normal(command) => {
                at.last = Some(entry.log_id);
                return Ok(command.not_applied(at.version));
            }
        }
        at.last = Some(entry.log_id);
        Ok(Applied::Done)
    }

    fn migrate(&self, db: &Connection, from: i64, to: i64, now_ms: i64) -> Result<(), Halt> {
        let latest = self.shared.schema.latest;
        if to > latest {
            let why = format!(
                "The database has schema version {to}, and this server knows versions up to {latest}: upgrade it"
            );
            return Err(Halt { version: Some(to), ..Halt::because(why) });
        }
        let now = jiff::Timestamp::from_millisecond(now_ms).map_err(other)?;
        (self.shared.schema.migrate)(db, from, to, now).map_err(|e| Halt::because(e.message))
    }

    /// Tries out what a write would do here, and undoes it. What passes on the leader can be applied everywhere.
    pub fn try_out(&self, command: &Command) -> io::Result<Trial> {
        let _gate = self.gate();
        let state = self.state();
        let at = &state.standing;
        let fits = match command {
            Command::Migrate { from, .. } => *from == at.version,
            Command::Write { schema, base, .. } => *schema == at.version && *base == at.data_index,
        };
        if !fits {
            return Ok(Trial::Nothing(command.not_applied(at.version)));
        }
        state.db.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let tried = match command {
            Command::Write { changeset, .. } => apply_changeset(&state.db, changeset).map(drop),
            Command::Migrate { from, to, now_ms, .. } => {
                self.migrate(&state.db, *from, *to, *now_ms).map_err(|halt| Misfit::Impossible(halt.why))
            }
        };
        state.db.execute_batch("ROLLBACK").map_err(sql)?;
        match tried {
            Ok(()) => Ok(Trial::Fits),
            Err(Misfit::Differs(_)) => Ok(Trial::Differs),
            Err(Misfit::Impossible(why)) => Ok(Trial::Impossible(why)),
            Err(Misfit::Failed(e)) => Err(e),
        }
    }

    /// What became of the write `txid` that was made on `base`.
    pub fn fate(&self, base: u64, txid: &[u8; 16]) -> io::Result<Fate> {
        let state = self.state();
        if state.standing.data_index <= base {
            return Ok(Fate::Open);
        }
        Ok(match written_on(&state.db, base)? {
            Some(found) if found == *txid => Fate::Applied,
            Some(_) => Fate::Lost,
            None => Fate::Forgotten,
        })
    }

    /// A copy of the replica as it is now, and where it stands. Others can write meanwhile.
    pub fn copy_out(&self) -> io::Result<(Standing, Copy)> {
        let _copying = self.shared.copying.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            return Err(other("the database is being closed"));
        }
        let (copy, path) = Copy::place(self.dir());
        let source = connect(self.path()).map_err(sql)?;
        source.execute("VACUUM INTO ?", [path.to_string_lossy()]).map_err(sql)?;
        let standing = load(&Connection::open(&path).map_err(sql)?)?;
        Ok((standing, copy))
    }

    /// Puts a copy in the place of the replica; false if the copy is older and the replica stays.
    pub fn copy_in(&self, copy: &Copy) -> io::Result<bool> {
        let source = Connection::open(copy.path()?).map_err(sql)?;
        let theirs = load(&source)?;
        let _gate = self.gate();
        let mut state = self.state();
        let ours = &state.standing;
        if ours.incarnation != 0 && theirs.incarnation != ours.incarnation {
            return Err(other("the copy is one of another database"));
        }
        if theirs.last.map(|id| id.index()) < ours.last.map(|id| id.index()) {
            return Ok(false);
        }
        rusqlite::backup::Backup::new(&source, &mut state.db)
            .and_then(|backup| backup.run_to_completion(1000, Duration::ZERO, None))
            .map_err(sql)
            .inspect_err(|_| state.doubtful = true)?;
        state.standing = theirs;
        self.publish(&state.standing, Touched::All);
        // The log is cut where the copy ends.
        self.sync(&mut state)?;
        self.shared.halted.send_replace(None);
        self.shared.go_on.notify_waiters();
        Ok(true)
    }

    /// Applies entries, and waits as long as they can't be applied: the rest of Raft may go on.
    async fn insist(&self, entries: Vec<EntryOf<Types>>) -> io::Result<Vec<Applied>> {
        let entries = Arc::new(entries);
        loop {
            let go_on = self.shared.go_on.notified();
            if let Some(disk) = &self.shared.disk {
                tokio::time::sleep(disk.takes(File::Replica)).await;
            }
            let (machine, these) = (self.clone(), Arc::clone(&entries));
            match blocking(move || machine.apply_all(&these)).await? {
                Ok(answers) => {
                    self.shared.halted.send_if_modified(|halt| halt.take_if(|halt| !halt.differs).is_some());
                    return Ok(answers);
                }
                Err(halt) => self.halt(halt),
            }
            tokio::select! {
                biased;
                () = go_on => {}
                paused = self.pause() => paused?,
            }
        }
    }

    /// Waits a moment before another attempt; an error if the database is being closed.
    async fn pause(&self) -> io::Result<()> {
        let mut stopping = self.shared.stopping.subscribe();
        match tokio::time::timeout(PAUSE, stopping.wait_for(|stop| *stop)).await {
            Err(_) => Ok(()),
            Ok(_) => Err(other("the database is being closed")),
        }
    }
}

impl Command {
    /// Why it changes nothing on a replica with this schema version.
    fn not_applied(&self, version: i64) -> Applied {
        match self {
            Command::Write { schema, .. } if *schema == version => Applied::Stale,
            _ => Applied::OtherSchema,
        }
    }
}

/// Why changes can't be applied.
#[derive(Debug)]
pub(super) enum Misfit {
    /// The rows are not those that were changed.
    Differs(String),
    /// A constraint would be broken on the way, whatever the order.
    Impossible(String),
    Failed(io::Error),
}

impl Misfit {
    /// The leader has tried out what is in the log: what does not fit here has found another replica than there.
    fn into_halt(self) -> Halt {
        match self {
            Misfit::Differs(why) | Misfit::Impossible(why) => Halt {
                differs: true,
                why: format!("The database of this member differs from the others and waits for a fresh copy: {why}"),
                source: None,
                version: None,
            },
            Misfit::Failed(e) => e.into(),
        }
    }
}

pub(super) fn apply_changeset<'a>(db: &Connection, changeset: &'a [u8]) -> Result<Vec<&'a str>, Misfit> {
    let tables = super::changeset::tables(changeset)
        .map_err(|why| Misfit::Impossible(format!("What was written is no changeset that can be applied: {why}")))?;
    let found = Arc::new(Mutex::new(None));
    let note = Arc::clone(&found);
    let conflict = move |kind: ConflictType, item: &ChangesetItem| {
        let table = item.op().map(|op| op.table_name().to_owned()).unwrap_or_default();
        *note.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, table));
        ConflictAction::SQLITE_CHANGESET_ABORT
    };
    let Err(e) = db.apply_strm(&mut &changeset[..], None::<fn(&str) -> bool>, conflict) else { return Ok(tables) };
    match found.lock().unwrap_or_else(PoisonError::into_inner).take() {
        None => Err(Misfit::Failed(sql(e))),
        Some((ConflictType::SQLITE_CHANGESET_CONSTRAINT, table)) => Err(Misfit::Impossible(format!(
            "Rows of the table \"{table}\" can't be changed one after the other without breaking a constraint"
        ))),
        Some((_, table)) => Err(Misfit::Differs(format!("rows of the table \"{table}\" are not as expected"))),
    }
}

fn remember(db: &Connection, index: u64, base: u64, txid: &[u8; 16]) -> io::Result<()> {
    let mut insert = db.prepare_cached("INSERT OR REPLACE INTO _raft_fates VALUES (?, ?)").map_err(sql)?;
    insert.execute(params![base.cast_signed(), txid]).map_err(sql)?;
    let mut forget = db.prepare_cached("DELETE FROM _raft_fates WHERE base < ?").map_err(sql)?;
    forget.execute([index.saturating_sub(FATES).cast_signed()]).map(drop).map_err(sql)
}

fn written_on(db: &Connection, base: u64) -> io::Result<Option<[u8; 16]>> {
    let mut select = db.prepare_cached("SELECT txid FROM _raft_fates WHERE base = ?").map_err(sql)?;
    select.query_row([base.cast_signed()], |r| r.get(0)).optional().map_err(sql)
}

/// What is said of an entry that a copy brought along.
fn already_applied(db: &Connection, entry: &EntryOf<Types>) -> Result<Applied, Halt> {
    match &entry.payload {
        EntryPayload::Normal(Command::Write { base, txid, .. }) if written_on(db, *base)? != Some(*txid) => {
            Ok(Applied::Stale)
        }
        _ => Ok(Applied::Done),
    }
}

/// A hash over all rows of all tables but the engine's own; equal on equal replicas.
pub(super) fn content_hash(db: &Connection) -> rusqlite::Result<String> {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    let tables: BTreeMap<String, String> = db
        .prepare(
            "SELECT name, sql FROM sqlite_schema
             WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name NOT LIKE '!_raft%' ESCAPE '!'",
        )?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (table, sql) in tables {
        hash.update(sql);
        let columns = db.prepare(&format!("SELECT * FROM \"{table}\""))?.column_count();
        let all: Vec<String> = (1..=columns).map(|n| n.to_string()).collect();
        let mut select = db.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY {}", all.join(", ")))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                hash.update(format!("{:?}|", row.get_ref(column)?));
            }
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// How Raft names the state of a replica.
pub(super) fn meta(standing: Standing) -> SnapshotMetaOf<Types> {
    SnapshotMetaOf::<Types> { last_log_id: standing.last, last_membership: standing.membership }
}

/// The replica's own file is the snapshot. It is made durable, so that the log may be cut; a copy is made only for
/// a member that needs one, when it is sent.
impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Copy;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Copy>, io::Error> {
        loop {
            let machine = self.clone();
            let durable = move || {
                let _gate = machine.gate();
                let mut state = machine.state();
                machine.sync(&mut state).map(|()| meta(state.standing.clone()))
            };
            match blocking(durable).await? {
                Ok(meta) => return Ok(SnapshotOf::<Types, Copy> { meta, snapshot: Copy::default() }),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => self.halt(e.into()),
                Err(e) => tracing::warn!("the log of the database can't be cut yet: {e}"),
            }
            self.pause().await?;
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Copy;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        let standing = self.standing();
        Ok((standing.last, standing.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: futures::Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let (mut batch, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < BATCH
                && let Some((entry, responder)) = entries.try_next().await?
            {
                if let EntryPayload::Normal(Command::Write { changeset, .. }) = &entry.payload {
                    bytes += changeset.len();
                }
                batch.push(entry);
                responders.push(responder);
            }
            if batch.is_empty() {
                return Ok(());
            }
            for (answer, responder) in self.insist(batch).await?.into_iter().zip(responders) {
                if let Some(responder) = responder {
                    responder.send(answer);
                }
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, copy: Copy) -> Result<(), io::Error> {
        let copy = Arc::new(copy);
        loop {
            let (machine, copy) = (self.clone(), Arc::clone(&copy));
            match blocking(move || machine.copy_in(&copy)).await? {
                // An older one: the replica has been repaired with a newer one in between.
                Ok(_) => return Ok(()),
                Err(e) => self.halt(e.into()),
            }
            self.pause().await?;
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Copy>>, io::Error> {
        match self.standing().last {
            Some(_) => self.build_snapshot().await.map(Some),
            None => Ok(None),
        }
    }
}
