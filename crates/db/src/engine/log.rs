//! The Raft log: an SQLite file of its own, where every commit is on disk before it counts.
//!
//! One task writes, on a thread of its own. What arrives while it waits for the disk goes into the next transaction, so that the cost
//! of a sync is shared. Recent entries are kept in memory, since replication reads them again at once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, TryStreamExt as _, stream};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftTypeConfig};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::disk::{Disk, File, passing, write_anew};
use super::types::Types;
use super::{runtime, watch};

/// Bytes of recent entries that are kept in memory.
const CACHED: usize = 1 << 20;
/// Bytes of entries that are read at a time, unless one entry alone is larger.
const READ: usize = 1 << 20;
/// Requests that share one transaction.
const GROUPED: usize = 128;

/// How long to wait on a disk that is full or fails before it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// A write that takes this long is slow: others wait for it, and elect another leader if it takes much longer.
const SLOW: Duration = Duration::from_secs(1);
/// For so long is remembered that a write was slow.
const LATELY: Duration = Duration::from_secs(60);

type Job = Box<dyn Fn(&Connection) -> rusqlite::Result<()> + Send>;

enum Op {
    Append(Vec<(u64, Vec<u8>)>, IOFlushed<Types>),
    Other(Job, oneshot::Sender<io::Result<()>>),
}

/// The log; clones share it.
#[derive(Clone)]
pub struct Log {
    writer: mpsc::UnboundedSender<Op>,
    reader: Arc<Mutex<Connection>>,
    cache: Arc<Mutex<Cache>>,
    stuck: watch::Receiver<Option<String>>,
    slow: SlowWrites,
    /// After what has the file open, so that it goes last.
    open: Arc<()>,
}

/// The writes that were slow lately.
#[derive(Clone, Default)]
pub struct SlowWrites(Arc<Mutex<VecDeque<Instant>>>);

impl SlowWrites {
    /// How many there were in the minute before `now`.
    pub fn lately(&self, now: Instant) -> usize {
        let mut all = lock(&self.0);
        all.retain(|at| now.duration_since(*at) < LATELY);
        all.len()
    }

    /// Notes a write that took so long, and has just ended.
    fn note(&self, took: Duration, now: Instant) {
        if took >= SLOW {
            tracing::warn!("writing to the log of the database took {} ms: is the disk slow?", took.as_millis());
            lock(&self.0).push_back(now);
        }
    }
}

/// The newest entries without a gap, each with its size on disk.
#[derive(Default)]
struct Cache {
    entries: BTreeMap<u64, (usize, EntryOf<Types>)>,
    bytes: usize,
}

impl Cache {
    fn insert(&mut self, entry: EntryOf<Types>, size: usize) {
        self.bytes += size;
        if let Some((old, _)) = self.entries.insert(entry.index(), (size, entry)) {
            self.bytes -= old;
        }
        while self.bytes > CACHED
            && let Some((_, (size, _))) = self.entries.pop_first()
        {
            self.bytes -= size;
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.entries.retain(|index, _| keep(*index));
        self.bytes = self.entries.values().map(|(size, _)| size).sum();
    }
}

pub(super) fn other<E: std::fmt::Display>(e: E) -> io::Error {
    io::Error::other(e.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Opens or creates the log in the file `path`; so many pages of its write-ahead log are taken over into it at a time.
    /// The disk is given if it is simulated.
    pub fn open(path: &Path, pages: u32, disk: Option<Arc<dyn Disk>>) -> io::Result<Log> {
        // What an earlier process could not write for sure, it has not confirmed; this one would.
        write_anew(path, disk.as_ref())?;
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
        writing.pragma_update(None, "wal_autocheckpoint", pages).map_err(other)?;
        let (writer, ops) = mpsc::unbounded_channel();
        let tell = watch::Sender::new(None);
        let (stuck, slow) = (tell.subscribe(), SlowWrites::default());
        let open = Arc::new(());
        let writing = Writing { connection: writing, disk, stuck: tell, slow: slow.clone(), _open: open.clone() };
        runtime::on_its_own("raft-log", writing.run(ops))?;
        Ok(Log { writer, reader, cache: Arc::default(), stuck, slow, open })
    }

    /// What is shared by all who have the file open, and others that are to be waited for as they are.
    pub fn open_here(&self) -> Arc<()> {
        self.open.clone()
    }

    /// The writes that were slow lately.
    pub fn slow_writes(&self) -> SlowWrites {
        self.slow.clone()
    }

    /// Why nothing can be written at the moment, while that is so.
    pub fn watch_stuck(&self) -> watch::Receiver<Option<String>> {
        self.stuck.clone()
    }

    async fn run(&self, job: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static) -> io::Result<()> {
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

    /// As [`Log::read`], for Raft, to which a log that can't be read is the end: waits while the disk fails.
    async fn read_at_last(&self, first: u64, last: u64, limit: usize) -> io::Result<Vec<EntryOf<Types>>> {
        loop {
            match self.read(first, last, limit) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    tracing::error!("reading the log of the database: {e}");
                    tokio::time::sleep(AGAIN).await;
                }
                read => return read,
            }
        }
    }

    /// Entries from `first` on, up to `last`: all that exist of them if `limit` bytes suffice, else only the first
    /// ones, but at least one.
    fn read(&self, first: u64, last: u64, limit: usize) -> io::Result<Vec<EntryOf<Types>>> {
        if first > last {
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        let mut within = |size: usize| {
            let room = bytes == 0 || bytes + size <= limit;
            bytes += size;
            room
        };
        {
            let cache = lock(&self.cache);
            if cache.entries.first_key_value().is_some_and(|(oldest, _)| *oldest <= first) {
                let found = cache.entries.range(first..=last).take_while(|(_, (size, _))| within(*size));
                return Ok(found.map(|(_, (_, entry))| entry.clone()).collect());
            }
        }
        let reader = lock(&self.reader);
        let sql = "SELECT entry FROM log WHERE i BETWEEN ? AND ? ORDER BY i";
        let mut select = reader.prepare_cached(sql).map_err(unread)?;
        let mut rows = select.query([first.cast_signed(), last.cast_signed()]).map_err(unread)?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(unread)? {
            let entry: Vec<u8> = row.get(0).map_err(unread)?;
            if !within(entry.len()) {
                break;
            }
            entries.push(decode(&entry)?);
        }
        Ok(entries)
    }

    /// The last vote, if there was one.
    pub fn vote(&self) -> io::Result<Option<VoteOf<Types>>> {
        self.get("vote")
    }

    /// The last entry, or the last that was purged.
    pub fn state(&self) -> io::Result<LogState<Types>> {
        let purged: Option<LogIdOf<Types>> = self.get("purged")?;
        let last: Option<Vec<u8>> = lock(&self.reader)
            .query_row("SELECT entry FROM log ORDER BY i DESC LIMIT 1", [], |r| r.get(0))
            .optional()
            .map_err(other)?;
        let last = last.map(|e| decode(&e)).transpose()?.map(|e| e.log_id());
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.max(purged) })
    }

    /// The incarnation of the database whose log this is; 0 if that was not noted yet.
    pub fn incarnation(&self) -> io::Result<u64> {
        Ok(self.get("incarnation")?.unwrap_or(0))
    }

    /// Notes it.
    pub async fn note_incarnation(&self, incarnation: u64) -> io::Result<()> {
        if self.incarnation()? == incarnation {
            return Ok(());
        }
        self.put("incarnation", &incarnation).await
    }

    /// The id of the entry at that index, if it is here.
    pub fn id_at(&self, index: u64) -> io::Result<Option<LogIdOf<Types>>> {
        Ok(self.read(index, index, READ)?.first().map(|entry| entry.log_id()))
    }

    /// All entries after the index `after`, a few at a time.
    pub fn entries(&self, after: u64) -> impl Iterator<Item = io::Result<Vec<EntryOf<Types>>>> {
        let mut next = Some(after + 1);
        std::iter::from_fn(move || {
            let found = self.read(next?, i64::MAX.cast_unsigned(), READ);
            next = found.as_ref().ok().and_then(|entries| entries.last()).map(|entry| entry.index() + 1);
            found.map(|entries| (!entries.is_empty()).then_some(entries)).transpose()
        })
    }

    /// Forgets all entries, as if a snapshot that ends with `last` had been installed.
    pub async fn restart_at(&self, last: LogIdOf<Types>) -> io::Result<()> {
        self.cut("DELETE FROM log WHERE i <= ?1 OR i > ?1", last).await
    }

    async fn cut(&self, sql: &'static str, purged: LogIdOf<Types>) -> io::Result<()> {
        let value = postcard::to_stdvec(&purged).map_err(other)?;
        self.run(move |c| {
            c.execute(sql, [purged.index().cast_signed()])?;
            c.execute("INSERT OR REPLACE INTO state VALUES ('purged', ?)", [&value]).map(drop)
        })
        .await
    }
}

/// First and last index of a range; the last is before the first if it is empty.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let first = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i + 1,
        Bound::Unbounded => 0,
    };
    match range.end_bound() {
        Bound::Included(i) => (first, *i),
        Bound::Excluded(0) => (1, 0),
        Bound::Excluded(i) => (first, i - 1),
        Bound::Unbounded => (first, i64::MAX.cast_unsigned()),
    }
}

/// The side that writes.
struct Writing {
    connection: Connection,
    disk: Option<Arc<dyn Disk>>,
    stuck: watch::Sender<Option<String>>,
    slow: SlowWrites,
    _open: Arc<()>,
}

impl Writing {
    async fn run(mut self, mut ops: mpsc::UnboundedReceiver<Op>) {
        while let Some(first) = ops.recv().await {
            let mut group = vec![first];
            group.extend(std::iter::from_fn(|| ops.try_recv().ok()).take(GROUPED));
            let began = Instant::now();
            let written = self.insist(&mut group).await;
            self.slow.note(began.elapsed(), Instant::now());
            for op in group {
                let result = written.as_ref().map(drop).map_err(other);
                match op {
                    Op::Append(_, done) => done.io_completed(result),
                    Op::Other(_, done) => drop(done.send(result)),
                }
            }
        }
    }

    /// Writes, and waits while the disk is full or fails: to Raft a log that fails is the end, but one that is slow is no
    /// harm. Each attempt writes all of it anew, at the same place.
    async fn insist(&mut self, group: &mut [Op]) -> rusqlite::Result<()> {
        loop {
            let written = write(&self.connection, group);
            let Some(why) = written.as_ref().err().and_then(passing) else {
                self.stuck.send_if_modified(|why| why.take().is_some());
                if let Some(disk) = &self.disk {
                    tokio::time::sleep(disk.takes(File::Log)).await;
                }
                return written;
            };
            if self.stuck.send_replace(Some(why.clone())).is_none() {
                tracing::error!("{why}");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn write(connection: &Connection, group: &[Op]) -> rusqlite::Result<()> {
    // It undoes itself if it is dropped before.
    let transaction = rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)?;
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO log VALUES (?, ?)")?;
    for op in group {
        match op {
            Op::Append(entries, _) => {
                for (index, entry) in entries {
                    insert.execute(params![index.cast_signed(), entry])?;
                }
            }
            Op::Other(job, _) => job(connection)?,
        }
    }
    transaction.commit()
}

/// What could not be read; of the kind `Interrupted` if it may be later.
fn unread(e: rusqlite::Error) -> io::Error {
    match passing(&e) {
        Some(why) => io::Error::new(io::ErrorKind::Interrupted, why),
        None => other(e),
    }
}

fn decode(bytes: &[u8]) -> io::Result<EntryOf<Types>> {
    postcard::from_bytes(bytes).map_err(other)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let (first, last) = bounds(&range);
        self.read_at_last(first, last, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let (first, last) = bounds(&(start..end));
        self.read_at_last(first, last, READ).await
    }

    async fn entries_stream<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<EntryOf<Types>, io::Error>> + OptionalSend {
        let (log, (first, last)) = (self.clone(), bounds(&range));
        let parts = stream::try_unfold((log, first), move |(log, next)| async move {
            let found = log.read_at_last(next, last, READ).await;
            found.map(|entries| {
                let after = entries.last()?.index() + 1;
                Some((stream::iter(entries.into_iter().map(Ok)), (log, after)))
            })
        });
        parts.try_flatten()
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        self.vote()
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        self.state()
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
                let bytes = postcard::to_stdvec(&entry).map_err(other)?;
                let (index, size) = (entry.index(), bytes.len());
                encoded.push((index, bytes));
                cache.insert(entry, size);
            }
        }
        self.writer.send(Op::Append(encoded, done)).map_err(other)
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index() + 1);
        lock(&self.cache).retain(|index| index < from);
        self.run(move |c| c.execute("DELETE FROM log WHERE i >= ?", [from.cast_signed()]).map(drop)).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        lock(&self.cache).retain(|index| index > upto.index());
        self.cut("DELETE FROM log WHERE i <= ?1", upto).await
    }
}
