//! The Raft log: an SQLite file of its own, where every commit is on disk before it counts.
//!
//! One thread writes. What arrives while it waits for the disk goes into the next transaction, so that the cost
//! of a sync is shared. Recent entries are kept in memory, since replication reads them again at once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftTypeConfig};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::types::Types;

/// Entries kept in memory.
const CACHED: usize = 512;
/// Requests that share one transaction.
const GROUPED: usize = 128;

type Job = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

enum Op {
    Append(Vec<(u64, Vec<u8>)>, IOFlushed<Types>),
    Other(Job, oneshot::Sender<io::Result<()>>),
}

/// The log; clones share it.
#[derive(Clone)]
pub struct Log {
    writer: mpsc::Sender<Op>,
    reader: Arc<Mutex<Connection>>,
    cache: Arc<Mutex<BTreeMap<u64, EntryOf<Types>>>>,
}

pub(super) fn other<E: std::fmt::Display>(e: E) -> io::Error {
    io::Error::other(e.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Opens or creates the log in the file `path`.
    pub fn open(path: &Path) -> io::Result<Log> {
        let connect = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -512;
                 CREATE TABLE IF NOT EXISTS log (i INTEGER PRIMARY KEY, entry BLOB NOT NULL);
                 CREATE TABLE IF NOT EXISTS state (k TEXT PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;",
            )?;
            Ok(connection)
        };
        let writing = connect().map_err(other)?;
        let reader = Arc::new(Mutex::new(connect().map_err(other)?));
        let (writer, ops) = mpsc::channel();
        std::thread::Builder::new().name("raft-log".into()).spawn(move || write_loop(&writing, &ops))?;
        Ok(Log { writer, reader, cache: Arc::default() })
    }

    async fn run(&self, job: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.writer.send(Op::Other(Box::new(job), done)).map_err(other)?;
        answer.await.map_err(other)?
    }

    async fn put<T: Serialize>(&self, key: &'static str, value: &T) -> io::Result<()> {
        let value = postcard::to_stdvec(value).map_err(other)?;
        self.run(move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO state VALUES (?, ?)")?.execute(params![key, value]).map(drop)
        })
        .await
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> io::Result<Option<T>> {
        let value: Option<Vec<u8>> = lock(&self.reader)
            .query_row("SELECT v FROM state WHERE k = ?", [key], |r| r.get(0))
            .optional()
            .map_err(other)?;
        value.map(|v| postcard::from_bytes(&v).map_err(other)).transpose()
    }

    /// The entries from `first` to `last` if all that exist of them are in memory.
    fn cached(&self, first: u64, last: u64) -> Option<Vec<EntryOf<Types>>> {
        let cache = lock(&self.cache);
        let oldest = *cache.first_key_value()?.0;
        (oldest <= first).then(|| cache.range(first..=last).map(|(_, e)| e.clone()).collect())
    }
}

fn write_loop(connection: &Connection, ops: &mpsc::Receiver<Op>) {
    while let Ok(first) = ops.recv() {
        let mut group = vec![first];
        group.extend(std::iter::from_fn(|| ops.try_recv().ok()).take(GROUPED));
        write_group(connection, group);
    }
}

fn write_group(connection: &Connection, group: Vec<Op>) {
    let (mut appended, mut others) = (Vec::new(), Vec::new());
    let written = (|| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO log VALUES (?, ?)")?;
        for op in group {
            match op {
                Op::Append(entries, done) => {
                    appended.push(done);
                    for (index, entry) in entries {
                        insert.execute(params![index.cast_signed(), entry])?;
                    }
                }
                Op::Other(job, done) => {
                    others.push(done);
                    job(connection)?;
                }
            }
        }
        connection.execute_batch("COMMIT")
    })();
    if written.is_err() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    let result = || written.as_ref().map(drop).map_err(other);
    appended.into_iter().for_each(|done| done.io_completed(result()));
    others.into_iter().for_each(|done| drop(done.send(result())));
}

fn decode(bytes: &[u8]) -> io::Result<EntryOf<Types>> {
    postcard::from_bytes(bytes).map_err(other)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let first = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i + 1,
            Bound::Unbounded => 0,
        };
        let last = match range.end_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(0) => return Ok(Vec::new()),
            Bound::Excluded(i) => i - 1,
            Bound::Unbounded => i64::MAX.cast_unsigned(),
        };
        if first > last {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.cached(first, last) {
            return Ok(entries);
        }
        let reader = lock(&self.reader);
        let mut select =
            reader.prepare_cached("SELECT entry FROM log WHERE i BETWEEN ? AND ? ORDER BY i").map_err(other)?;
        let rows =
            select.query_map([first.cast_signed(), last.cast_signed()], |r| r.get::<_, Vec<u8>>(0)).map_err(other)?;
        rows.map(|row| decode(&row.map_err(other)?)).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        self.get("vote")
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged: Option<LogIdOf<Types>> = self.get("purged")?;
        let last: Option<Vec<u8>> = lock(&self.reader)
            .query_row("SELECT entry FROM log ORDER BY i DESC LIMIT 1", [], |r| r.get(0))
            .optional()
            .map_err(other)?;
        let last = last.map(|e| decode(&e)).transpose()?.map(|e| e.log_id());
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.put("vote", vote).await
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <Types as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut cache = lock(&self.cache);
            for entry in entries {
                encoded.push((entry.index(), postcard::to_stdvec(&entry).map_err(other)?));
                cache.insert(entry.index(), entry);
            }
            while cache.len() > CACHED {
                cache.pop_first();
            }
        }
        self.writer.send(Op::Append(encoded, done)).map_err(other)
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index() + 1);
        lock(&self.cache).split_off(&from);
        self.run(move |c| c.execute("DELETE FROM log WHERE i >= ?", [from.cast_signed()]).map(drop)).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        let index = upto.index();
        {
            let mut cache = lock(&self.cache);
            let kept = cache.split_off(&(index + 1));
            *cache = kept;
        }
        self.put("purged", &upto).await?;
        self.run(move |c| c.execute("DELETE FROM log WHERE i <= ?", [index.cast_signed()]).map(drop)).await
    }
}
