//! The replicated database: SQLite on every member, kept equal by Raft.
//!
//! [`Db::write`] runs a closure on this member's own replica, captures what it changed and lets a majority of the
//! voters agree on it; [`Db::read`] asks the leader which state is the newest, and reads it from the own replica.
//! No other module of this crate, and no other crate, names the Raft library.

mod log;
mod machine;
mod network;
mod reader;
mod tickets;
mod types;
mod writer;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use api::{Error, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::impls::EmptyNode;
use openraft::type_config::alias::SnapshotOf;
use openraft::{ChangeMembers, Config, ReadPolicy, SnapshotPolicy};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::tx::Tx;
use machine::Machine;
use network::{Parts, Post, seal};
use reader::Reader;
use tickets::Tickets;
pub use types::Change;
use types::{Applied, Command, Letter, Raft, Reply, Request, Ticket, Types};

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
    /// How often the leader lets itself be heard.
    pub heartbeat: Duration,
    /// How long a write may wait for a majority before it is refused.
    pub patience: Duration,
}

impl Options {
    /// The usual settings.
    pub fn new(dir: impl Into<PathBuf>, id: u64, schema: Schema) -> Options {
        Options {
            dir: dir.into(),
            id,
            schema,
            heartbeat: Duration::from_millis(150),
            patience: Duration::from_secs(10),
        }
    }
}

/// What a member knows of the database's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member's Raft id.
    pub id: u64,
    /// The term of the current leader.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that hold the database and do not vote.
    pub learners: Vec<u64>,
    /// The last entry applied here.
    pub applied: u64,
    /// On the leader: the last entry that each other member is known to have.
    pub matched: Vec<(u64, u64)>,
    /// True if this replica differs from the others and has stopped.
    pub diverged: bool,
}

impl Status {
    /// True if this member is the leader.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.id)
    }

    /// True if this member votes.
    pub fn votes(&self) -> bool {
        self.voters.contains(&self.id)
    }
}

/// The database, as one member has it. Clones share it.
#[derive(Clone)]
pub struct Db {
    options: Arc<Options>,
    raft: Raft,
    machine: Machine,
    post: Post,
    tickets: Arc<Tickets>,
    parts: Arc<Parts>,
    reader: Arc<Reader>,
    jobs: Option<mpsc::Sender<Box<dyn writer::Job>>>,
}

/// How long the leader may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

impl Db {
    /// Opens the database in `options.dir`, or an empty one that waits to be [bootstrapped](Db::bootstrap) or
    /// added by others.
    pub async fn open(options: Options, transport: Arc<dyn Transport>) -> Result<Db> {
        std::fs::create_dir_all(&options.dir)?;
        let heartbeat = u64::try_from(options.heartbeat.as_millis()).unwrap_or(150);
        let config = Config {
            cluster_name: "incus".into(),
            heartbeat_interval: heartbeat,
            election_timeout_min: heartbeat * 6,
            election_timeout_max: heartbeat * 10,
            install_snapshot_timeout: 60_000,
            enable_pre_vote: Some(true),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(5000),
            max_in_snapshot_log_to_keep: 1000,
            ..Config::default()
        };
        let config = config.validate().map_err(|e| Error::internal(e.to_string()))?;
        let machine = Machine::open(&options.dir.join("db.bin"), options.schema)?;
        let log = log::Log::open(&options.dir.join("raft.db"))?;
        let post = Post { id: options.id, machine: machine.clone(), transport };
        let raft = Raft::new(options.id, Arc::new(config), post.clone(), log, machine.clone())
            .await
            .map_err(|e| Error::internal(format!("The database can't be opened: {e}")))?;
        let (jobs, waiting) = mpsc::channel();
        let reader = Arc::new(Reader::new(machine.path()));
        let mut db = Db {
            options: Arc::new(options),
            raft,
            machine,
            post,
            tickets: Arc::default(),
            parts: Arc::default(),
            reader,
            jobs: None,
        };
        writer::start(db.clone(), waiting)?;
        db.jobs = Some(jobs);
        Ok(db)
    }

    /// Makes this member the first and only voter of a new database, with the newest schema.
    pub async fn bootstrap(&self) -> Result<()> {
        let members = std::collections::BTreeMap::from([(self.options.id, EmptyNode {})]);
        self.raft
            .initialize(members)
            .await
            .map_err(|e| Error::conflict(format!("The database exists already: {e}")))?;
        self.wait_for(|s| s.leads()).await?;
        self.migrate(self.options.schema.latest).await
    }

    /// True once it has been bootstrapped or has heard of other members.
    pub async fn is_initialized(&self) -> Result<bool> {
        self.raft.is_initialized().await.map_err(|e| Error::internal(e.to_string()))
    }

    /// Runs a closure on the newest state. It sees everything that was acknowledged, on any member, before this
    /// call was made.
    pub async fn read<T: Send + 'static>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        self.read_barrier().await?;
        self.peek(f).await
    }

    /// Runs a closure on this member's replica as it is: at once and without a quorum, maybe slightly old.
    pub async fn peek<T: Send + 'static>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || reader.run(f)).await.map_err(|e| Error::internal(e.to_string()))?
    }

    /// Runs a closure as a transaction: its changes are on a majority of the voters, and in this member's own
    /// replica, when this returns `Ok`; nothing has changed when the closure returns an error.
    ///
    /// The closure runs again when others wrote in between, and must therefore depend on nothing but what it
    /// reads. Without a majority the error is [`api::Kind::Unavailable`].
    pub async fn write<T: Send + 'static>(
        &self,
        f: impl Fn(&Tx<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let job = Box::new(writer::Closure { work: f, result: None, answer });
        let stopped = || Error::unavailable("The database is shutting down");
        self.jobs.as_ref().ok_or_else(stopped)?.send(job).map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }

    /// The members as this one knows them now.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let learners = membership.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id)).collect();
        let matched = metrics.replication.unwrap_or_default();
        Status {
            id: self.options.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            voters: voters.into_iter().collect(),
            learners,
            applied: *self.machine.watch_applied().borrow(),
            matched: matched.into_iter().map(|(id, m)| (id, m.map_or(0, |id| id.index()))).collect(),
            diverged: self.machine.diverged(),
        }
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
                return Err(Error::unavailable(
                    "The database has no leader: a majority of its voters can't be reached",
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The schema version of this replica.
    pub fn schema_version(&self) -> i64 {
        self.machine.version()
    }

    /// Names this database among all others; 0 while it is empty.
    pub fn incarnation(&self) -> u64 {
        self.machine.incarnation()
    }

    /// Brings the schema to a version, on all members. Leader only.
    pub async fn migrate(&self, to: i64) -> Result<()> {
        let from = self.machine.version();
        if from == to {
            return Ok(());
        }
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let command = Command::Migrate { from, to, now_ms, incarnation: rand::random::<u64>() | 1 };
        match self.append(command).await? {
            (Applied::Done, index) => self.wait_applied(index).await,
            _ => Err(Error::conflict("The schema was changed by another member at the same time")),
        }
    }

    /// Changes the members of the database; may be asked of any member.
    pub async fn change(&self, change: Change) -> Result<()> {
        self.at_leader(Request::Change(change), Duration::from_secs(30)).await.map(drop)
    }

    /// Lets another voter lead; may be asked of any member. Returns when it does.
    pub async fn hand_over(&self, to: u64) -> Result<()> {
        self.at_leader(Request::HandOver(to), ANSWER).await?;
        self.wait_for(|s| s.leader == Some(to)).await.map(drop)
    }

    /// A hash over all rows of this replica, and the index of the entry that it stands at.
    pub async fn content_hash(&self) -> Result<(u64, String)> {
        let db = self.clone();
        self.peek(move |tx| {
            let index = db.machine.data_index();
            Ok((index, machine::content_hash(tx.0).map_err(crate::tx::failed)?))
        })
        .await
    }

    /// Copies the log into the replica's file and forgets what the copy covers; others then get a whole copy.
    pub async fn compact(&self) -> Result<()> {
        self.raft.trigger().snapshot().await.map_err(|e| Error::internal(e.to_string()))
    }

    /// Stops taking part. Other handles of it fail from now on.
    pub async fn shutdown(&self) -> Result<()> {
        self.raft.shutdown().await.map_err(|e| Error::internal(e.to_string()))
    }

    /// Answers a request that another member sent through its [`Transport`].
    pub async fn serve(&self, letter: Bytes) -> Result<Bytes> {
        let letter: Letter =
            postcard::from_bytes(&letter).map_err(|e| Error::bad_request(format!("Unreadable request: {e}")))?;
        let own = self.machine.incarnation();
        if own != 0 && letter.incarnation != 0 && own != letter.incarnation {
            return Err(Error::forbidden("That member belongs to another database"));
        }
        seal(&self.answer(letter.request).await?)
    }

    async fn answer(&self, request: Request) -> Result<Reply> {
        let fatal = |e: &dyn std::fmt::Display| Error::unavailable(e.to_string());
        Ok(match request {
            Request::Append(r) => Reply::Append(self.raft.append_entries(r).await.map_err(|e| fatal(&e))?),
            Request::Vote(r) => Reply::Vote(self.raft.vote(r).await.map_err(|e| fatal(&e))?),
            Request::PreVote(r) => Reply::Vote(self.raft.pre_vote(r).await.map_err(|e| fatal(&e))?),
            Request::SnapshotPart { id, number, bytes } => {
                self.parts.add(id, number, bytes);
                Reply::Done
            }
            Request::Snapshot { id, parts, vote, meta } => {
                let snapshot = SnapshotOf::<Types, Vec<u8>> { meta, snapshot: self.parts.take(id, parts)? };
                Reply::Snapshot(self.raft.install_full_snapshot(vote, snapshot).await.map_err(|e| fatal(&e))?)
            }
            Request::Transfer(r) => Reply::Transfer(self.raft.handle_transfer_leader(r).await.map_err(|e| fatal(&e))?),
            Request::Ticket => {
                self.must_lead()?;
                let number = self.tickets.take().await;
                self.must_lead().inspect_err(|_| self.tickets.give_back(number))?;
                Reply::Ticket(Ticket { number, base: self.machine.data_index() })
            }
            Request::Propose { ticket, command } => {
                let proposed = self.append(command).await;
                self.tickets.give_back(ticket);
                let (applied, index) = proposed?;
                Reply::Proposed { applied, index }
            }
            Request::GiveBack(number) => {
                self.tickets.give_back(number);
                Reply::Done
            }
            Request::ReadIndex => Reply::ReadIndex(self.confirm_lead().await?),
            Request::Change(change) => {
                self.change_here(change).await?;
                Reply::Done
            }
            Request::HandOver(to) => {
                self.raft.trigger().transfer_leader(to).await.map_err(|e| fatal(&e))?;
                Reply::Done
            }
        })
    }

    fn must_lead(&self) -> Result<()> {
        match self.raft.is_leader() {
            true => Ok(()),
            false => Err(Error::unavailable("This member does not lead the database")),
        }
    }

    /// On the leader: makes sure that it still leads; the index that a reader must have seen.
    async fn confirm_lead(&self) -> Result<u64> {
        let not_leader = |e: &dyn std::fmt::Display| Error::unavailable(e.to_string());
        let linearizer = match self.raft.get_read_linearizer(ReadPolicy::LeaseRead).await {
            Ok(l) => l,
            Err(_) => self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|e| not_leader(&e))?,
        };
        let state = linearizer.await_ready(&self.raft).await.map_err(|e| not_leader(&e))?;
        Ok(state.read_log_id().index())
    }

    /// Returns when this replica holds everything that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<()> {
        self.reader
            .barrier(|| async {
                let index = match self.at_leader(Request::ReadIndex, ANSWER).await? {
                    Reply::ReadIndex(index) => index,
                    _ => return Err(Error::internal("Unexpected answer of the leader")),
                };
                self.wait_applied(index).await
            })
            .await
    }

    async fn append(&self, command: Command) -> Result<(Applied, u64)> {
        let written = self.raft.client_write(command).await;
        let written = written.map_err(|e| Error::unavailable(format!("The leader could not write: {e}")))?;
        Ok((written.data, written.log_id.index()))
    }

    async fn change_here(&self, change: Change) -> Result<()> {
        let (change, retain) = match change {
            Change::AddLearner(id) => {
                let added = self.raft.add_learner(id, EmptyNode {}, false).await;
                return added.map(drop).map_err(|e| Error::unavailable(format!("Adding a database member: {e}")));
            }
            Change::Voters(ids) => (ChangeMembers::ReplaceAllVoters(ids.into_iter().collect()), true),
            Change::Remove(id) if self.status().voters.contains(&id) => {
                (ChangeMembers::RemoveVoters([id].into()), false)
            }
            Change::Remove(id) => (ChangeMembers::RemoveNodes([id].into()), false),
        };
        let changed = self.raft.change_membership(change, retain).await;
        changed.map(drop).map_err(|e| Error::unavailable(format!("Changing the database members: {e}")))
    }

    /// Sends a request to the leader, or answers it here; waits a moment for a leader if none is known.
    async fn at_leader(&self, request: Request, timeout: Duration) -> Result<Reply> {
        let status = self.wait_for_leader().await?;
        match status.leader {
            Some(leader) if leader == self.options.id => self.answer(request).await,
            Some(leader) => self.post.ask(leader, request, timeout).await,
            None => Err(Error::unavailable("The database has no leader")),
        }
    }

    async fn wait_for_leader(&self) -> Result<Status> {
        let status = self.status();
        if status.leader.is_some() { Ok(status) } else { self.wait_for(|s| s.leader.is_some()).await }
    }

    async fn ticket(&self) -> Result<Ticket> {
        match self.at_leader(Request::Ticket, ANSWER).await? {
            Reply::Ticket(ticket) => Ok(ticket),
            _ => Err(Error::internal("Unexpected answer of the leader")),
        }
    }

    async fn give_ticket_back(&self, number: u64) {
        let _ = self.at_leader(Request::GiveBack(number), ANSWER).await;
    }

    async fn propose(&self, ticket: u64, command: Command) -> Result<(Applied, u64)> {
        match self.at_leader(Request::Propose { ticket, command }, ANSWER).await? {
            Reply::Proposed { applied, index } => Ok((applied, index)),
            _ => Err(Error::internal("Unexpected answer of the leader")),
        }
    }

    /// Waits until this replica has applied the entry `index`.
    pub async fn wait_applied(&self, index: u64) -> Result<()> {
        let mut applied = self.machine.watch_applied();
        let reached = tokio::time::timeout(self.options.patience, applied.wait_for(|now| *now >= index)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::unavailable("This member lags behind the others and can't catch up")),
        }
    }

    /// Waits until this replica has the data of the entry `base`, or newer.
    async fn wait_data(&self, base: u64) -> Result<()> {
        self.wait_applied(base).await
    }
}
