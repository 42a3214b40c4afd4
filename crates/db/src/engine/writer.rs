//! Transactions: closures run on this replica, their changes go through the log to all.
//!
//! One thread runs them. All closures that wait are run in one SQLite transaction (each in a savepoint), whose
//! changes are captured, rolled back, and proposed as one entry; each caller still gets its own result.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use api::{Error, Result};
use rusqlite::Connection;
use rusqlite::session::Session;
use tokio::sync::oneshot;

use super::Db;
use super::machine::{connect, is_applied};
use super::types::{Applied, Command};
use crate::tx::{Tx, failed};

/// Closures that share an entry.
const GROUPED: usize = 64;
/// Pause before trying again when there is no leader to be reached.
const PAUSE: Duration = Duration::from_millis(15);

/// A closure that waits for its turn, with the place for its result.
pub(super) trait Job: Send {
    /// Runs the closure; true if its changes are to be kept.
    fn run(&mut self, tx: &Tx<'_>) -> bool;
    /// Tells the caller: its own result, or why the group failed.
    fn finish(self: Box<Self>, group: Result<()>);
}

/// The one kind of [`Job`].
pub(super) struct Closure<T, F> {
    pub work: F,
    pub result: Option<Result<T>>,
    pub answer: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Tx<'_>) -> Result<T> + Send> Job for Closure<T, F> {
    fn run(&mut self, tx: &Tx<'_>) -> bool {
        let result = (self.work)(tx);
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn finish(self: Box<Self>, group: Result<()>) {
        let Closure { result, answer, .. } = *self;
        let not_run = || Err(Error::internal("The transaction was not run"));
        let _ = answer.send(group.and_then(|()| result.unwrap_or_else(not_run)));
    }
}

/// Runs until the last handle of the database is gone.
pub(super) fn run(db: &Db, jobs: &mpsc::Receiver<Box<dyn Job>>, runtime: &tokio::runtime::Handle) {
    let connection =
        match connect(db.machine.path()).and_then(|c| c.pragma_update(None, "foreign_keys", true).map(|()| c)) {
            Ok(connection) => connection,
            Err(e) => return tracing::error!("no transactions are possible: {e}"),
        };
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(std::iter::from_fn(|| jobs.try_recv().ok()).take(GROUPED - 1));
        let outcome =
            Group { db, connection: &connection, runtime, txid: rand::random(), unsure: false }.commit(&mut group);
        for job in group {
            job.finish(outcome.clone());
        }
    }
}

struct Group<'a> {
    db: &'a Db,
    connection: &'a Connection,
    runtime: &'a tokio::runtime::Handle,
    /// The same in all attempts: whichever is applied, it is found by it.
    txid: [u8; 16],
    /// True once an attempt has been sent of which nothing was heard.
    unsure: bool,
}

impl Group<'_> {
    /// Runs the group until it is in the log, or until patience ends.
    fn commit(&mut self, group: &mut [Box<dyn Job>]) -> Result<()> {
        let deadline = Instant::now() + self.db.options.patience;
        let mut last = Error::unavailable("The database has no leader");
        loop {
            match self.attempt(group) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) if e.retryable() => {
                    last = e;
                    std::thread::sleep(PAUSE);
                }
                Err(e) => return Err(e),
            }
            if Instant::now() > deadline {
                let doubt = if self.unsure { ", and it is not known whether it was done" } else { "" };
                return Err(last.context(format!("The change was not confirmed by a majority of the voters{doubt}")));
            }
        }
    }

    /// One attempt; false if the state it was made on was outdated.
    fn attempt(&mut self, group: &mut [Box<dyn Job>]) -> Result<bool> {
        let ticket = self.runtime.block_on(self.db.ticket())?;
        self.runtime.block_on(self.db.wait_data(ticket.base))?;
        if self.unsure && is_applied(self.connection, &self.txid).map_err(failed)? {
            return Ok(true);
        }
        let (base, changeset) = self.run_all(group)?;
        if changeset.is_empty() {
            // Nothing to write. What was read counts only if it still is the newest state.
            let newest = self.runtime.block_on(async {
                self.db.give_ticket_back(ticket.number).await;
                self.db.read_barrier().await
            });
            return newest.map(|()| self.db.machine.data_index() == base);
        }
        let command = Command::Write { schema: self.db.machine.version(), base, txid: self.txid, changeset };
        self.unsure = true;
        let (applied, index) = self.runtime.block_on(self.db.propose(ticket.number, command))?;
        self.runtime.block_on(self.db.wait_applied(index))?;
        match applied {
            Applied::Done => Ok(true),
            Applied::Stale | Applied::OtherSchema => Ok(false),
        }
    }

    /// Runs all closures on the replica as it is, captures what they change, and undoes it here.
    fn run_all(&self, group: &mut [Box<dyn Job>]) -> Result<(u64, Vec<u8>)> {
        let machine = &self.db.machine;
        let _gate = machine.gate();
        let base = machine.data_index();
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let captured = (|| {
            let mut session = Session::new(self.connection)?;
            session.table_filter(Some(|table: &str| !table.starts_with("_raft")));
            session.attach(None::<&str>)?;
            for job in group {
                self.connection.execute_batch("SAVEPOINT job")?;
                let keep = job.run(&Tx(self.connection));
                self.connection.execute_batch(if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" })?;
            }
            let mut changeset = Vec::new();
            session.changeset_strm(&mut changeset)?;
            Ok(changeset)
        })();
        self.connection.execute_batch("ROLLBACK").map_err(failed)?;
        captured.map(|changeset| (base, changeset)).map_err(failed)
    }
}

/// Starts the thread of the writer.
pub(super) fn start(db: Db, jobs: mpsc::Receiver<Box<dyn Job>>) -> Result<()> {
    let runtime = tokio::runtime::Handle::current();
    // The thread holds the parts of the database but not the sending end, so that it ends with the last handle.
    let db = Arc::new(db);
    std::thread::Builder::new().name("db-writer".into()).spawn(move || run(&db, &jobs, &runtime))?;
    Ok(())
}
