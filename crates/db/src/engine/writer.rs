//! Transactions: closures run on this replica, their changes go through the log to all.
//!
//! One task runs them, on a thread of its own. All closures that wait are run in one SQLite transaction (each in a savepoint), whose
//! changes are captured, rolled back, and proposed as one entry; each caller still gets its own result.
//!
//! When nothing is heard of a proposal, its fate is looked up before anything is run again. As long as nothing else
//! was written on its base it may still come true, so the very same proposal is sent once more: whichever arrives
//! first is applied, and the results that the callers get are those of the run that was applied.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{Error, Kind, Result};
use rusqlite::Connection;
use rusqlite::session::Session;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Db;
use super::machine::{Fate, Halt, connect};
use super::runtime::{on_its_own, random};
use super::serve::Proposed;
use super::types::{Applied, Command};
use crate::tx::{Tx, failed};

/// Closures that share an entry.
const GROUPED: usize = 64;
/// Bytes of changes that one entry may have.
const LARGEST: usize = 32 << 20;
/// Pause before trying again when there is no leader to be reached.
const PAUSE: Duration = Duration::from_millis(15);

/// A closure that waits for its turn, with the place for its result.
pub(super) trait Job: Send {
    /// Runs the closure; true if its changes are to be kept.
    fn run(&mut self, tx: &Tx<'_>) -> bool;
    /// True if it wants an entry also if there is nothing to write: no write that was made before it comes true after it.
    fn settles(&self) -> bool;
    /// True if the caller has gone away.
    fn given_up(&self) -> bool;
    /// Tells the caller: its own result, or why the group failed.
    fn finish(self: Box<Self>, group: Result<()>);
}

/// The one kind of [`Job`].
pub(super) struct Closure<T, F> {
    pub work: F,
    pub settles: bool,
    pub result: Option<Result<T>>,
    pub answer: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Tx<'_>) -> Result<T> + Send> Job for Closure<T, F> {
    fn run(&mut self, tx: &Tx<'_>) -> bool {
        let broken = |_| Err(Error::internal("The transaction has panicked and was undone"));
        let result = catch_unwind(AssertUnwindSafe(|| (self.work)(tx))).unwrap_or_else(broken);
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn settles(&self) -> bool {
        self.settles
    }

    fn given_up(&self) -> bool {
        self.answer.is_closed()
    }

    fn finish(self: Box<Self>, group: Result<()>) {
        let Closure { result, answer, .. } = *self;
        let not_run = || Err(Error::internal("The transaction was not run"));
        let _ = answer.send(group.and_then(|()| result.unwrap_or_else(not_run)));
    }
}

/// Writes of this member that were given up without knowing what became of them. They may still come true, until anything
/// else is written.
#[derive(Default)]
pub(super) struct Doubts {
    noted: AtomicU64,
    settled: AtomicU64,
}

impl Doubts {
    /// One more.
    pub fn note(&self) {
        self.noted.fetch_add(1, Ordering::SeqCst);
    }

    /// How many there were so far, if not all are settled.
    pub fn open(&self) -> Option<u64> {
        let noted = self.noted.load(Ordering::SeqCst);
        (self.settled.load(Ordering::SeqCst) < noted).then_some(noted)
    }

    /// So many are settled.
    pub fn settle(&self, noted: u64) {
        self.settled.fetch_max(noted, Ordering::SeqCst);
    }
}

/// Starts the writer. It ends when the sender of the jobs is gone, or the database is closed; `open` is kept until then.
pub(super) fn start(db: Db, jobs: mpsc::UnboundedReceiver<Box<dyn Job>>, open: Arc<()>) -> Result<()> {
    let work = async move {
        run(db, jobs).await;
        drop(open);
    };
    Ok(on_its_own("db-writer", work)?)
}

async fn run(db: Db, mut jobs: mpsc::UnboundedReceiver<Box<dyn Job>>) {
    let mut stopping = db.machine.watch_stopping();
    let opened = connect(db.machine.path()).and_then(|c| c.pragma_update(None, "foreign_keys", true).map(|()| c));
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(e) => return tracing::error!("no transactions are possible: {e}"),
    };
    loop {
        let first = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            job = jobs.recv() => job,
        };
        let Some(first) = first else { return };
        let mut group = vec![first];
        group.extend(std::iter::from_fn(|| jobs.try_recv().ok()).take(GROUPED - 1));
        group.retain(|job| !job.given_up());
        if group.is_empty() {
            continue;
        }
        let mut all = Group::new(&db, &mut connection);
        let outcome = all.commit(&mut group).await;
        let refused = all.sent.is_none() && outcome.as_ref().is_err_and(|e| e.kind == Kind::BadRequest);
        if !refused {
            group.into_iter().for_each(|job| job.finish(outcome.clone()));
            continue;
        }
        // One of them can't be replicated: the others are not to suffer for it.
        for job in group {
            let mut alone = [job];
            let outcome = Group::new(&db, &mut connection).commit(&mut alone).await;
            alone.into_iter().for_each(|job| job.finish(outcome.clone()));
        }
    }
}

struct Group<'a> {
    db: &'a Db,
    connection: &'a mut Connection,
    deadline: Instant,
    /// What was proposed last, if it is not known what became of it.
    sent: Option<Command>,
}

impl<'a> Group<'a> {
    fn new(db: &'a Db, connection: &'a mut Connection) -> Group<'a> {
        Group { db, connection, deadline: Instant::now() + db.patience(), sent: None }
    }

    /// Runs the group until it is in the log and on this replica, or until patience ends. What became of it then is noted to
    /// be in doubt before anybody hears of it.
    async fn commit(&mut self, group: &mut [Box<dyn Job>]) -> Result<()> {
        let done = self.try_until_done(group).await;
        if done.is_err() && self.sent.is_some() {
            self.db.doubts.note();
        }
        done
    }

    async fn try_until_done(&mut self, group: &mut [Box<dyn Job>]) -> Result<()> {
        loop {
            let last = match self.attempt(group).await {
                Ok(true) => return Ok(()),
                Ok(false) => Error::unavailable("Others wrote at the same time again and again"),
                Err(e) if e.retryable() => {
                    tokio::time::sleep(PAUSE).await;
                    e
                }
                Err(e) => return Err(e),
            };
            if Instant::now() >= self.deadline || self.db.machine.is_stopping() {
                let doubt = match self.sent {
                    Some(_) => ", and it may still be done when a majority is back",
                    None => ", and nothing was changed",
                };
                return Err(last.context(format!("The change was not confirmed by a majority of the voters{doubt}")));
            }
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(PAUSE)
    }

    /// One attempt; false if it changed nothing and has to be made again.
    async fn attempt(&mut self, group: &mut [Box<dyn Job>]) -> Result<bool> {
        self.db.wait_until_right().await?;
        let (left, machine) = (self.left(), &self.db.machine);
        let ticket = self.db.ticket(left).await?;
        self.db.wait_applied_for(ticket.base, self.left()).await?;
        if let Some(Command::Write { base, txid, .. }) = &self.sent {
            match machine.fate(*base, txid)? {
                Fate::Applied => return Ok(true),
                Fate::Open => {}
                Fate::Lost => self.sent = None,
                Fate::Forgotten => {
                    return Err(Error::internal("It is not known whether the change was made: too much came after it"));
                }
            }
        }
        if self.sent.is_none() {
            let (base, changeset) = self.run_all(group)?;
            if changeset.is_empty() && !group.iter().any(|job| job.settles()) {
                // Nothing to write, and all that was read is as new as the ticket, which is newer than the call.
                self.db.give_ticket_back(ticket.number).await;
                return Ok(true);
            }
            let (schema, txid) = (machine.version(), random());
            self.sent = Some(Command::Write { schema, base, txid, changeset });
        }
        let Some(command) = self.sent.clone() else { return Ok(false) };
        match self.db.propose(ticket.number, command, self.left()).await {
            Ok(Proposed::Applied(Applied::Done, index)) => {
                // It is done, whatever happens next; but the caller may want to read it here.
                let here = self.db.wait_applied_for(index, self.left()).await;
                here.map(|()| true).map_err(|e| Error::internal(format!("The change was made. {}", e.message)))
            }
            Ok(Proposed::Applied(Applied::Stale | Applied::OtherSchema, _)) => Ok(false),
            Ok(Proposed::Differs) => {
                self.sent = None;
                let why = "The database of this member differs from the leader's and waits for a fresh copy";
                machine.halt(Halt { differs: true, why: why.into(), source: None, version: None });
                Err(Error::unavailable(why))
            }
            Err(e) if !e.retryable() => {
                // Refused before it came into the log.
                self.sent = None;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Runs all closures on the replica as it is, captures what they change, and undoes it here.
    fn run_all(&self, group: &mut [Box<dyn Job>]) -> Result<(u64, Vec<u8>)> {
        let machine = &self.db.machine;
        let _gate = machine.gate();
        let base = machine.data_index();
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let captured = capture(self.connection, group);
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").map_err(failed)?;
        }
        let changeset = captured.map_err(failed)?;
        if changeset.len() > LARGEST {
            return Err(Error::bad_request(format!(
                "The change is too large: {} MB, and the database takes up to {} MB at a time",
                changeset.len() >> 20,
                LARGEST >> 20
            )));
        }
        Ok((base, changeset))
    }
}

/// Runs the closures in the transaction that is open; what those that succeed change.
fn capture(connection: &Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<Vec<u8>> {
    let mut session = Session::new(connection)?;
    session.table_filter(Some(|table: &str| !table.starts_with("_raft")));
    session.attach(None::<&str>)?;
    for job in group {
        connection.execute_batch("SAVEPOINT job")?;
        let keep = job.run(&Tx(connection));
        connection.execute_batch(if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" })?;
    }
    let mut changeset = Vec::new();
    session.changeset_strm(&mut changeset)?;
    Ok(changeset)
}
