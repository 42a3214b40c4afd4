//! The state machine: the replica of the global database, in SQLite.
//!
//! Entries are applied in order and run no business code. What has been applied is stored in the same
//! transaction (table `_raft`), so the file need not be synced at each commit: after a crash the log is replayed
//! from where the file stands.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend};
use rusqlite::config::DbConfig;
use rusqlite::session::{ChangesetItem, ConflictAction, ConflictType};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Schema;
use super::log::other;
use super::types::{Applied, Command, Types};

/// How many transaction ids are remembered, so that a writer can look up the fate of its own.
const TXIDS: u64 = 4096;

/// The replica; clones share it.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    schema: Schema,
    state: Mutex<State>,
    /// Held by whoever has a write transaction open on the file, so that nobody waits by polling.
    gate: Mutex<()>,
    data_index: AtomicU64,
    version: AtomicI64,
    incarnation: AtomicU64,
    diverged: AtomicBool,
    applied: watch::Sender<u64>,
}

struct State {
    db: Connection,
    last: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
}

/// Settings of every connection to the replica's file.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -1024;")?;
    Ok(db)
}

fn load<T: DeserializeOwned>(db: &Connection, key: &str) -> io::Result<Option<T>> {
    let value: Option<Vec<u8>> =
        db.query_row("SELECT v FROM _raft WHERE k = ?", [key], |r| r.get(0)).optional().map_err(other)?;
    value.map(|v| postcard::from_bytes(&v).map_err(other)).transpose()
}

fn store<T: Serialize>(db: &Connection, key: &str, value: &T) -> io::Result<()> {
    let value = postcard::to_stdvec(value).map_err(other)?;
    let mut insert = db.prepare_cached("INSERT OR REPLACE INTO _raft VALUES (?, ?)").map_err(other)?;
    insert.execute(params![key, value]).map(drop).map_err(other)
}

impl Machine {
    /// Opens or creates the replica in the file `path`.
    pub fn open(path: &Path, schema: Schema) -> io::Result<Machine> {
        let db = connect(path).map_err(other)?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS _raft (k TEXT PRIMARY KEY NOT NULL, v BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS _raft_txids (i INTEGER PRIMARY KEY NOT NULL, txid BLOB NOT NULL UNIQUE);
             PRAGMA foreign_keys = OFF;",
        )
        .map_err(other)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(other)?;
        let last = load(&db, "last")?;
        let membership = load(&db, "membership")?.unwrap_or_default();
        let applied = last.map_or(0, |id: LogIdOf<Types>| id.index());
        let shared = Shared {
            path: path.to_owned(),
            schema,
            gate: Mutex::default(),
            data_index: AtomicU64::new(load(&db, "data_index")?.unwrap_or(0)),
            version: AtomicI64::new(load(&db, "version")?.unwrap_or(0)),
            incarnation: AtomicU64::new(load(&db, "incarnation")?.unwrap_or(0)),
            diverged: AtomicBool::new(false),
            applied: watch::Sender::new(applied),
            state: Mutex::new(State { db, last, membership }),
        };
        Ok(Machine { shared: Arc::new(shared) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Keeps the replica as it is while the caller has a write transaction on the file open.
    pub fn gate(&self) -> MutexGuard<'_, ()> {
        self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of the last entry that changed data.
    pub fn data_index(&self) -> u64 {
        self.shared.data_index.load(Ordering::SeqCst)
    }

    /// The schema version of the replica; 0 before the first migration.
    pub fn version(&self) -> i64 {
        self.shared.version.load(Ordering::SeqCst)
    }

    /// Names the database; 0 before the first migration.
    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation.load(Ordering::SeqCst)
    }

    /// True if this replica turned out to differ from the others and stopped.
    pub fn diverged(&self) -> bool {
        self.shared.diverged.load(Ordering::SeqCst)
    }

    /// The index of the last entry applied, as it grows.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_all(&self, entries: Vec<EntryOf<Types>>) -> io::Result<Vec<Applied>> {
        if self.diverged() {
            return Err(other("this replica differs from the others and needs a fresh copy"));
        }
        let _gate = self.gate();
        let mut state = self.state();
        state.db.execute_batch("BEGIN IMMEDIATE").map_err(other)?;
        let done = entries.into_iter().map(|entry| self.apply_one(&mut state, entry)).collect::<io::Result<Vec<_>>>();
        let stored = done.and_then(|answers| {
            store(&state.db, "last", &state.last)?;
            store(&state.db, "membership", &state.membership)?;
            store(&state.db, "data_index", &self.data_index())?;
            store(&state.db, "version", &self.version())?;
            store(&state.db, "incarnation", &self.incarnation())?;
            state.db.execute_batch("COMMIT").map_err(other)?;
            Ok(answers)
        });
        if let Err(e) = &stored {
            let _ = state.db.execute_batch("ROLLBACK");
            self.shared.diverged.store(true, Ordering::SeqCst);
            tracing::error!("the replica stopped at an entry that can't be applied: {e}");
        }
        if let Some(last) = &state.last {
            self.shared.applied.send_replace(last.index());
        }
        stored
    }

    fn apply_one(&self, state: &mut State, entry: EntryOf<Types>) -> io::Result<Applied> {
        state.last = Some(entry.log_id);
        let index = entry.log_id.index();
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(m) => state.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), m),
            EntryPayload::Normal(Command::Migrate { from, to, now_ms, incarnation }) => {
                if from != self.version() {
                    return Ok(Applied::OtherSchema);
                }
                let now = jiff::Timestamp::from_millisecond(now_ms).map_err(other)?;
                (self.shared.schema.migrate)(&state.db, from, to, now).map_err(other)?;
                self.shared.version.store(to, Ordering::SeqCst);
                self.shared.data_index.store(index, Ordering::SeqCst);
                if self.incarnation() == 0 {
                    self.shared.incarnation.store(incarnation, Ordering::SeqCst);
                }
            }
            EntryPayload::Normal(Command::Write { schema, base, txid, changeset }) => {
                if schema != self.version() {
                    return Ok(Applied::OtherSchema);
                }
                if base != self.data_index() {
                    return Ok(Applied::Stale);
                }
                apply_changeset(&state.db, &changeset)?;
                remember(&state.db, index, &txid)?;
                self.shared.data_index.store(index, Ordering::SeqCst);
            }
        }
        Ok(Applied::Done)
    }

    fn copy_out(&self) -> io::Result<SnapshotOf<Types, Vec<u8>>> {
        let state = self.state();
        let path = self.shared.path.with_extension("snapshot");
        let _ = std::fs::remove_file(&path);
        // What the snapshot covers is purged from the log: the replica's own file must hold it durably first.
        state.db.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).map_err(other)?;
        std::fs::File::open(&self.shared.path)?.sync_all()?;
        state.db.execute("VACUUM INTO ?", [path.to_string_lossy()]).map_err(other)?;
        let snapshot = std::fs::read(&path)?;
        std::fs::remove_file(&path)?;
        let meta = SnapshotMetaOf::<Types> { last_log_id: state.last, last_membership: state.membership.clone() };
        Ok(SnapshotOf::<Types, Vec<u8>> { meta, snapshot })
    }

    fn copy_in(&self, bytes: &[u8]) -> io::Result<()> {
        let _gate = self.gate();
        let mut state = self.state();
        let path = self.shared.path.with_extension("incoming");
        std::fs::write(&path, bytes)?;
        {
            let source = Connection::open(&path).map_err(other)?;
            let backup = rusqlite::backup::Backup::new(&source, &mut state.db).map_err(other)?;
            backup.run_to_completion(1000, Duration::ZERO, None).map_err(other)?;
        }
        std::fs::remove_file(&path)?;
        state.last = load(&state.db, "last")?.flatten();
        state.membership = load(&state.db, "membership")?.unwrap_or_default();
        let load_u64 = |key| load::<u64>(&state.db, key).map(Option::unwrap_or_default);
        self.shared.data_index.store(load_u64("data_index")?, Ordering::SeqCst);
        self.shared.incarnation.store(load_u64("incarnation")?, Ordering::SeqCst);
        self.shared.version.store(load(&state.db, "version")?.unwrap_or(0), Ordering::SeqCst);
        self.shared.diverged.store(false, Ordering::SeqCst);
        self.shared.applied.send_replace(state.last.map_or(0, |id| id.index()));
        Ok(())
    }
}

/// A conflict means that this replica is not what the writer's was: nothing is applied.
fn apply_changeset(db: &Connection, changeset: &[u8]) -> io::Result<()> {
    let conflict = |kind: ConflictType, _: &ChangesetItem| {
        tracing::error!("{kind:?} conflict: this replica differs from the one a transaction was made on");
        ConflictAction::SQLITE_CHANGESET_ABORT
    };
    db.apply_strm(&mut &changeset[..], None::<fn(&str) -> bool>, conflict).map_err(other)
}

fn remember(db: &Connection, index: u64, txid: &[u8; 16]) -> io::Result<()> {
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO _raft_txids VALUES (?, ?)").map_err(other)?;
    insert.execute(params![index.cast_signed(), txid]).map_err(other)?;
    let mut forget = db.prepare_cached("DELETE FROM _raft_txids WHERE i < ?").map_err(other)?;
    forget.execute([index.saturating_sub(TXIDS).cast_signed()]).map(drop).map_err(other)
}

/// True if the transaction was applied to the replica that `db` is connected to.
pub(super) fn is_applied(db: &Connection, txid: &[u8; 16]) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM _raft_txids WHERE txid = ?")?.exists([txid])
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
        let mut select = db
            .prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1, 2"))
            .or_else(|_| db.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1")))?;
        let columns = select.column_count();
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                hash.update(format!("{:?}|", row.get_ref(column)?));
            }
        }
    }
    Ok(hex::encode(hash.finalize()))
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Vec<u8>>, io::Error> {
        let machine = self.clone();
        tokio::task::spawn_blocking(move || machine.copy_out()).await.map_err(other)?
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        let state = self.state();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: futures::Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut batch, mut responders) = (Vec::new(), Vec::new());
        while let Some((entry, responder)) = entries.try_next().await? {
            batch.push(entry);
            responders.push(responder);
        }
        for (answer, responder) in self.apply_all(batch)?.into_iter().zip(responders) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, data: Vec<u8>) -> Result<(), io::Error> {
        let machine = self.clone();
        tokio::task::spawn_blocking(move || machine.copy_in(&data)).await.map_err(other)?
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Vec<u8>>>, io::Error> {
        if self.state().last.is_none() {
            return Ok(None);
        }
        self.build_snapshot().await.map(Some)
    }
}
