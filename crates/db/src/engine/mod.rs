//! The replicated database: SQLite on every member, kept equal by Raft.
//!
//! [`Db::write`] runs a closure on this member's own replica, captures what it changed and lets a majority of the
//! voters agree on it; [`Db::read`] asks the leader which state is the newest, and reads it from the own replica.
//! No other module of this crate, and no other crate, names the Raft library.

mod changeset;
mod check;
mod copy;
mod damaged;
mod disk;
mod log;
mod machine;
mod network;
pub mod offline;
mod pace;
mod plausible;
mod reader;
mod rehearsal;
pub mod runtime;
mod serve;
mod status;
mod tickets;
mod types;
mod watch;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use api::{Error, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::impls::EmptyNode;
use openraft::{Config, SnapshotPolicy};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::tx::{Tx, failed};
pub use copy::Copy;
use copy::Desk;
pub use disk::{Disk, File as DiskFile};
use machine::Machine;
use network::Post;
use reader::Reader;
pub use rehearsal::Rehearsal;
use status::Heard;
pub use status::Status;
use tickets::Tickets;
pub use types::Change;
use types::{Applied, Command, Raft, Reply, Request};

/// Carries requests to other members.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request to the member with this Raft id, where [`Db::serve`] answers it. It may arrive twice.
    fn call(&self, to: u64, request: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes>>;
}

/// The transport of a server that has no other members.
pub struct Alone;

impl Transport for Alone {
    fn call(&self, to: u64, _: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { Err(Error::unavailable(format!("There is no way to member {to}"))) })
    }
}

/// The versions of the schema that a program knows.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The newest.
    pub latest: i64,
    /// Brings a database from one version to another, within the transaction that is open. Its result must be
    /// the same on all replicas: the time is given.
    pub migrate: fn(&Connection, from: i64, to: i64, now: jiff::Timestamp) -> Result<()>,
}

/// The schema of incus-rs.
pub const SCHEMA: Schema = Schema { latest: crate::schema::LATEST, migrate: crate::schema::migrate };

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of its files: `db.bin` (the replica) and `raft.db` (the log).
    pub dir: PathBuf,
    /// This member's Raft id; ids are never used again.
    pub id: u64,
    /// The schema.
    pub schema: Schema,
    /// How often the leader lets itself be heard. The other times follow from it: followers elect another leader
    /// when they have not heard the old one for five to seven times as long.
    pub heartbeat: Duration,
    /// How long a read or write may wait for a majority before it is refused; a fifth of it when the majority has
    /// been away for some time already.
    pub patience: Duration,
    /// Entries between two cuts of the log. A member that lags further behind gets a whole copy.
    pub keep: u64,
    /// Tables of whose changes every member is to know at once, also one that does not vote and asks for nothing.
    pub at_once: &'static [&'static str],
    /// Other members, of which one is asked for a copy when the own replica is so damaged that it can't be opened.
    pub others: Vec<u64>,
    /// The incarnation of a database that this member has given up, in order to get that of another one under the same
    /// id: it has forgotten what it had acknowledged and promised there. 0 if none.
    pub given_up: u64,
    /// Pages of the write-ahead logs that are taken over into their files at a time.
    pub pages: u32,
    /// The disk, if it is simulated.
    pub disk: Option<Arc<dyn Disk>>,
}

impl Options {
    /// The usual settings.
    pub fn new(dir: impl Into<PathBuf>, id: u64, schema: Schema) -> Options {
        Options {
            dir: dir.into(),
            id,
            schema,
            heartbeat: Duration::from_millis(300),
            patience: Duration::from_secs(10),
            keep: 5000,
            at_once: &[],
            others: Vec::new(),
            given_up: 0,
            pages: disk::PAGES,
            disk: None,
        }
    }

    /// For how long followers that have heard the leader do not vote for another one.
    fn lease(&self) -> Duration {
        self.heartbeat * 7 / 2
    }

    fn raft(&self) -> Result<Config> {
        let heartbeat = u64::try_from(self.heartbeat.as_millis()).unwrap_or(300).max(2);
        let config = Config {
            cluster_name: "incus".into(),
            heartbeat_interval: heartbeat,
            // The upper one is the lease; an election begins one of these after the lease has ended.
            election_timeout_min: heartbeat * 3 / 2,
            election_timeout_max: heartbeat * 7 / 2,
            install_snapshot_timeout: 600_000,
            enable_pre_vote: Some(true),
            enable_elect: false,
            // One that was killed may have told others of entries that it had not applied itself, or not even written:
            // before it leads again it is elected, and commits what is in the log.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.keep),
            max_in_snapshot_log_to_keep: self.keep / 5,
            purge_batch_size: 64.min(self.keep / 5 + 1),
            api_channel_size: Some(1024),
            notification_channel_size: Some(1024),
            ..Config::default()
        };
        config.validate().map_err(|e| Error::internal(e.to_string()))
    }
}

/// The database, as one member has it. Clones share it.
#[derive(Clone)]
pub struct Db {
    options: Arc<Options>,
    raft: Raft,
    machine: Machine,
    post: Post,
    tickets: Tickets,
    desk: Desk,
    reader: Arc<Reader>,
    heard: Arc<Heard>,
    changes: tokio::sync::watch::Sender<Status>,
    repairs: Arc<AtomicU64>,
    quiet_until: Option<Instant>,
    /// Set when the Raft library has ended without being asked to.
    ended: Arc<AtomicBool>,
    /// Why the log can't be written, while it can't.
    stuck: watch::Receiver<Option<String>>,
    slow_writes: log::SlowWrites,
    /// The term in which this member, as the leader, has begun to let another one lead; 0 if none.
    handing_over: Arc<AtomicU64>,
    /// What [`Db::read`] has to settle before.
    doubts: Arc<writer::Doubts>,
    /// Held while the members are changed, which takes several steps.
    changing: Arc<tokio::sync::Mutex<()>>,
    lock: Arc<File>,
    /// There while somebody but the replica has a file open.
    open: std::sync::Weak<()>,
    /// `None` in what works for the database itself: that does not keep it open.
    handle: Option<Handle>,
}

#[derive(Clone)]
struct Handle {
    jobs: mpsc::UnboundedSender<Box<dyn writer::Job>>,
    _alive: Arc<()>,
}

/// How long whoever uses the files when the database is closed may take to end.
const ENDING: Duration = Duration::from_secs(5);
/// How long the leader may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Makes sure that only one program uses the files in `dir`.
fn lock(dir: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(dir.join("lock"))?;
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while let Err(e) = file.try_lock() {
        if matches!(e, std::fs::TryLockError::Error(_)) || std::time::Instant::now() > until {
            return Err(Error::conflict(format!("The database in {} is in use by another program", dir.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

impl Db {
    /// Opens the database in `options.dir`, or an empty one that waits to be [bootstrapped](Db::bootstrap) or
    /// added by others.
    pub async fn open(options: Options, transport: Arc<dyn Transport>) -> Result<Db> {
        std::fs::create_dir_all(&options.dir)?;
        let lock = Arc::new(lock(&options.dir)?);
        let log = log::Log::open(&options.dir.join("raft.db"), options.pages, options.disk.clone())?;
        let machine = damaged::open(&options, &log, &*transport).await?;
        let voted = log.vote()?.is_some();
        let (stuck, slow_writes) = (log.watch_stuck(), log.slow_writes());
        let open = log.open_here();
        let post = Post::new(options.id, machine.clone(), transport);
        let raft = Raft::new(options.id, Arc::new(options.raft()?), post.clone(), log, machine.clone())
            .await
            .map_err(|e| Error::internal(format!("The database can't be opened: {e}")))?;
        post.follow(raft.metrics());
        // What is reported of it may be older: it has only just started.
        let alone = raft
            .with_raft_state(move |state| state.membership_state.effective().membership().voter_ids().eq([options.id]))
            .await
            .map_err(|e| Error::internal(format!("The database can't be opened: {e}")))?;
        let quiet_until = (voted && !alone).then(|| Instant::now() + options.lease());
        let (jobs, waiting) = mpsc::unbounded_channel();
        let mut db = Db {
            reader: Arc::new(Reader::new(machine.path())),
            options: Arc::new(options),
            raft,
            machine,
            post,
            tickets: Tickets::default(),
            desk: Desk::default(),
            heard: Arc::default(),
            changes: tokio::sync::watch::Sender::default(),
            repairs: Arc::default(),
            quiet_until,
            ended: Arc::default(),
            stuck,
            slow_writes,
            handing_over: Arc::default(),
            doubts: Arc::default(),
            changing: Arc::default(),
            lock,
            open: Arc::downgrade(&open),
            handle: None,
        };
        if voted {
            // What an earlier process has proposed may still be under way.
            db.doubts.note();
        }
        db.changes.send_replace(db.status());
        writer::start(db.clone(), waiting, open)?;
        let alive = db.start_looking_after();
        db.start_electing(alone).await?;
        db.handle = Some(Handle { jobs, _alive: alive });
        Ok(db)
    }

    /// The only voter elects itself at once; others wait until they may have promised nothing to nobody.
    async fn start_electing(&self, alone: bool) -> Result<()> {
        match self.quiet_until {
            None => self.raft.runtime_config().elect(true),
            Some(until) => {
                let raft = self.raft.clone();
                let turn = runtime::random_time(self.options.heartbeat * 2);
                tokio::spawn(async move {
                    tokio::time::sleep_until(until + turn).await;
                    raft.runtime_config().elect(true);
                });
            }
        }
        if alone {
            let elected = self.raft.trigger().elect(false).await;
            elected.map_err(|e| Error::internal(e.to_string()))?;
            self.wait_for(Status::leads).await?;
        }
        Ok(())
    }

    /// Makes this member the first and only voter of a new database, with the newest schema.
    pub async fn bootstrap(&self) -> Result<()> {
        let members = std::collections::BTreeMap::from([(self.options.id, EmptyNode {})]);
        self.raft
            .initialize(members)
            .await
            .map_err(|e| Error::conflict(format!("The database exists already: {e}")))?;
        self.wait_for(Status::leads).await?;
        self.migrate(self.options.schema.latest).await
    }

    /// True once it has been bootstrapped or has heard of other members.
    pub async fn is_initialized(&self) -> Result<bool> {
        self.raft.is_initialized().await.map_err(|e| Error::internal(e.to_string()))
    }

    /// Runs a closure on the newest state. It sees everything that was acknowledged, on any member, before this
    /// call was made. What this member tried to write before, and does not see, will not come true any more: also
    /// if nobody knew what became of it, and if it was an earlier process that tried.
    pub async fn read<T: Send + 'static>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        if let Some(noted) = self.doubts.open() {
            self.hand_in(|_| Ok(()), true).await?;
            self.doubts.settle(noted);
        }
        self.read_barrier().await?;
        self.peek(f).await
    }

    /// Runs a closure on this member's replica as it is: at once and without a quorum, maybe slightly old.
    pub async fn peek<T: Send + 'static>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        self.reader.run(f).await
    }

    /// Runs a closure as a transaction: its changes are on a majority of the voters, and in this member's own
    /// replica, when this returns `Ok`; nothing has changed when the closure returns an error.
    ///
    /// The closure runs again when others wrote in between, and must therefore depend on nothing but what it
    /// reads. It must not wait for anything: all other writes wait for it. Without a majority the error is
    /// [`api::Kind::Unavailable`].
    pub async fn write<T: Send + 'static>(
        &self,
        f: impl Fn(&Tx<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        self.hand_in(f, false).await
    }

    /// Has a closure run by the writer; what `settles` makes an entry of it also if it changes nothing.
    async fn hand_in<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Result<T> + Send + Sync + 'static,
        settles: bool,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let job = Box::new(writer::Closure { work, settles, result: None, answer });
        let stopped = || Error::unavailable("The database is shutting down");
        self.handle.as_ref().ok_or_else(stopped)?.jobs.send(job).map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }

    /// Waits until the status is as wanted, for as long as a write may wait.
    pub async fn wait_for(&self, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = Instant::now() + self.options.patience;
        loop {
            let status = self.status();
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(match status.leader {
                    Some(_) => Error::unavailable("The database's members did not settle in time"),
                    None => Error::unavailable("The database has no leader: a majority of its voters can't be reached"),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The index of the last entry that changed data in this replica.
    pub fn data_index(&self) -> u64 {
        self.machine.data_index()
    }

    /// Names the data that is in this replica: what was read from it is still true as long as this is the same. It means
    /// nothing to other members, or to this one after a restart.
    pub fn revision(&self) -> u64 {
        self.machine.revision()
    }

    /// The same for what is in some tables.
    pub fn revision_of(&self, tables: &[&str]) -> u64 {
        self.machine.revision_of(tables)
    }

    /// Returns when this replica's data is newer than that of the entry `index`.
    pub async fn changed_since(&self, index: u64) {
        let mut applied = self.machine.watch_applied();
        while self.machine.data_index() <= index {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// How often within the last minute it took this member's disk too long to write to the log.
    pub fn slow_writes(&self) -> usize {
        self.slow_writes.lately(Instant::now())
    }

    /// The schema version of this replica.
    pub fn schema_version(&self) -> i64 {
        self.machine.version()
    }

    /// The schema version that the database has as far as this member knows: a newer one than
    /// [`Db::schema_version`] where its replica waits for a program that can go on to that.
    pub fn wanted_version(&self) -> i64 {
        let halt = self.machine.watch_halted().borrow().as_ref().and_then(|halt| halt.version);
        halt.unwrap_or(0).max(self.machine.version())
    }

    /// Names this database among all others; 0 while it is empty.
    pub fn incarnation(&self) -> u64 {
        self.machine.incarnation()
    }

    /// Brings the schema to a version, on all members; may be asked of any member that knows that version. Members
    /// that do not know it stop following until they are upgraded.
    pub async fn migrate(&self, to: i64) -> Result<()> {
        if to > self.options.schema.latest {
            return Err(Error::bad_request(format!(
                "This server knows versions of the schema up to {}, not {to}",
                self.options.schema.latest
            )));
        }
        self.read_barrier().await?;
        let from = self.machine.version();
        if from == to {
            return Ok(());
        }
        let now_ms = runtime::now().as_millisecond();
        let command = Command::Migrate { from, to, now_ms, incarnation: runtime::random::<u64>() | 1 };
        match self.propose(0, command, ANSWER).await? {
            serve::Proposed::Applied(Applied::Done, index) => self.wait_applied(index).await,
            _ if self.machine.version() == to => Ok(()),
            _ => Err(Error::conflict("The schema was changed by another member at the same time")),
        }
    }

    /// Changes the members of the database; may be asked of any member.
    pub async fn change(&self, change: Change) -> Result<()> {
        self.at_leader(Request::Change(change), Duration::from_secs(30)).await.map(drop)
    }

    /// Lets another voter lead; may be asked of any member. Returns when it does.
    pub async fn hand_over(&self, to: u64) -> Result<()> {
        match self.at_leader(Request::HandOver(to), ANSWER).await {
            // It went so fast that the answer was not waited for.
            Err(e) if e.retryable() && self.leader() == Some(to) => {}
            other => drop::<Reply>(other?),
        }
        self.wait_for(|s| s.leader == Some(to)).await.map(drop)
    }

    /// A hash over all rows of this replica, and the index of the entry that it stands at. Equal at the same index
    /// on all members.
    pub async fn content_hash(&self) -> Result<(u64, String)> {
        self.peek(move |tx| {
            let hash = machine::content_hash(tx.0).map_err(failed)?;
            Ok((machine::load(tx.0)?.data_index, hash))
        })
        .await
    }

    /// A whole copy of this replica in a file of its own, as of one moment; others can write meanwhile. True with it if
    /// it has everything that was acknowledged before this call: a majority has said so.
    pub async fn copy(&self) -> Result<(Copy, bool)> {
        let confirmed = self.read_barrier().await.is_ok();
        let machine = self.machine.clone();
        let (_, copy) = runtime::blocking(move || machine.copy_out()).await??;
        Ok((copy, confirmed))
    }

    /// Makes the replica durable and forgets the log that it covers; members that lag behind then get a whole copy.
    pub async fn compact(&self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::internal(e.to_string());
        let upto = *self.machine.watch_applied().borrow();
        self.raft.trigger().snapshot().await.map_err(|e| failed(&e))?;
        let mut data = self.raft.data_metrics();
        while data.borrow_watched().snapshot.is_none_or(|id| id.index() < upto) {
            let changed = tokio::time::timeout(self.options.patience, data.changed()).await;
            changed.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        }
        self.raft.trigger().purge_log(upto).await.map_err(|e| failed(&e))
    }

    /// Stops taking part. Other handles of it fail from now on. Who still reads or writes is waited for, within limits:
    /// nobody has the files open then. SQLite removes what lies beside a file that is closed by its name; by then those of
    /// another database may have that name.
    pub async fn shutdown(&self) -> Result<()> {
        self.machine.stop();
        let stopped = self.raft.shutdown().await.map_err(|e| Error::internal(e.to_string()));
        self.reader.close().await;
        if tokio::time::timeout(ENDING, self.closed()).await.is_err() {
            tracing::warn!("the database is left, though its files could not be closed within {} s", ENDING.as_secs());
        }
        let _ = self.lock.unlock();
        stopped
    }

    /// Closes the replica, and waits until nobody has another file open.
    async fn closed(&self) {
        let machine = self.machine.clone();
        if let Ok(Err(e)) = runtime::blocking(move || machine.close()).await {
            tracing::warn!("closing the database: {e}");
        }
        while self.open.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
