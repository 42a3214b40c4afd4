//! The engine in one process: members that talk through a network that loses, repeats and cuts.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{Error, Kind, Result};
use bytes::Bytes;
use db::engine::{Disk, DiskFile, offline};
use db::{Alone, Change, Db, Options, Schema, Status, Transport, Tx};
use futures::future::BoxFuture;
use rusqlite::Connection;
use tokio::sync::watch;

// ---- a network ---------------------------------------------------------------------------------------------

#[derive(Default)]
struct Net {
    members: Mutex<HashMap<u64, Db>>,
    cut: Mutex<HashSet<u64>>,
    /// Requests so far, by whom they were for.
    sent: Mutex<HashMap<u64, u32>>,
    /// Loses one request or answer in five, and delivers one request in ten twice.
    bad: AtomicBool,
    /// Keeps requests in which this text stands until it is none; they arrive then.
    held: watch::Sender<Option<&'static str>>,
}

struct Plug(Arc<Net>, u64);

impl Net {
    fn is_cut(&self, a: u64, b: u64) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(&a) || cut.contains(&b)
    }

    fn sent(&self, to: u64) -> u32 {
        self.sent.lock().unwrap().get(&to).copied().unwrap_or(0)
    }

    fn lose(&self) -> bool {
        self.bad.load(Ordering::Relaxed) && rand::random_bool(0.1)
    }

    async fn carry(&self, from: u64, to: u64, request: Bytes) -> Result<Bytes> {
        *self.sent.lock().unwrap().entry(to).or_default() += 1;
        let there = self.members.lock().unwrap().get(&to).cloned();
        let there = there.ok_or_else(|| Error::unavailable("connection refused"))?;
        if self.is_cut(from, to) || self.lose() {
            return std::future::pending().await;
        }
        let held = |text: &Option<&str>| text.is_some_and(|t| request.windows(t.len()).any(|w| w == t.as_bytes()));
        self.held.subscribe().wait_for(|text| !held(text)).await.map_err(|e| Error::unavailable(e.to_string()))?;
        if self.lose() {
            drop(there.serve(request.clone()).await);
        }
        let answer = there.serve(request).await;
        if self.is_cut(from, to) || self.lose() {
            return std::future::pending().await;
        }
        answer
    }
}

impl Transport for Plug {
    fn call(&self, to: u64, request: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes>> {
        let (net, from) = (self.0.clone(), self.1);
        Box::pin(async move {
            // What has been sent arrives even if nobody waits for the answer any more.
            let carried = tokio::spawn(async move { net.carry(from, to, request).await });
            match tokio::time::timeout(timeout.min(Duration::from_millis(700)), carried).await {
                Ok(answer) => answer.map_err(|e| Error::unavailable(e.to_string()))?,
                Err(_) => Err(Error::unavailable("no answer in time")),
            }
        })
    }
}

// ---- a schema ----------------------------------------------------------------------------------------------

fn sql<T>(result: rusqlite::Result<T>) -> Result<T> {
    result.map_err(|e| Error::internal(e.to_string()))
}

fn migrate(connection: &Connection, from: i64, to: i64, _: jiff::Timestamp) -> Result<()> {
    if from < 1 {
        sql(connection.execute_batch(
            "CREATE TABLE counter (id INTEGER PRIMARY KEY NOT NULL, n INTEGER NOT NULL);
             INSERT INTO counter VALUES (1, 0);
             CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE);
             CREATE TABLE child (parent_id INTEGER NOT NULL REFERENCES parent (id) ON DELETE CASCADE,
                                 name TEXT NOT NULL, v BLOB, PRIMARY KEY (parent_id, name));",
        ))?;
    }
    if from < 2 && to >= 2 {
        sql(connection.execute_batch("ALTER TABLE parent ADD COLUMN note TEXT NOT NULL DEFAULT 'none'"))?;
    }
    Ok(())
}

const OLD: Schema = Schema { latest: 1, migrate };
const NEW: Schema = Schema { latest: 2, migrate };

fn run(text: &'static str) -> impl Fn(&Tx<'_>) -> Result<()> + Send + Sync + 'static {
    move |tx| sql(tx.connection().execute_batch(text))
}

fn number(tx: &Tx<'_>, query: &str) -> Result<i64> {
    sql(tx.connection().query_row(query, [], |r| r.get(0)))
}

fn add_one(tx: &Tx<'_>) -> Result<i64> {
    run("UPDATE counter SET n = n + 1")(tx)?;
    number(tx, "SELECT n FROM counter")
}

async fn counted(db: &Db) -> i64 {
    db.read(|tx| number(tx, "SELECT n FROM counter")).await.unwrap()
}

/// Short, for tests in which leaders change.
const HEARTBEAT: Duration = Duration::from_millis(80);
/// Long, for tests in which the first one is to lead, also when there is little time for it.
const CALM: Duration = Duration::from_millis(500);

fn options(dir: &Path, id: u64, schema: Schema) -> Options {
    let mut options = Options::new(dir.join(id.to_string()), id, schema);
    options.heartbeat = HEARTBEAT;
    options.patience = Duration::from_secs(6);
    options.at_once = &["parent"];
    options
}

// ---- members -----------------------------------------------------------------------------------------------

struct Cluster {
    heartbeat: Duration,
    net: Arc<Net>,
    dir: tempfile::TempDir,
    /// The disk of the first member, if it is simulated.
    disk: Option<Arc<SlowDisk>>,
}

/// A disk on which it takes two seconds to apply something, if so wanted.
#[derive(Debug, Default)]
struct SlowDisk(AtomicBool);

impl Disk for SlowDisk {
    fn takes(&self, file: DiskFile) -> Duration {
        let slow = file == DiskFile::Replica && self.0.load(Ordering::SeqCst);
        if slow { Duration::from_secs(2) } else { Duration::ZERO }
    }

    fn rewrite(&self, _: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

impl Cluster {
    fn new(heartbeat: Duration) -> Cluster {
        Cluster { heartbeat, net: Arc::default(), dir: tempfile::tempdir().unwrap(), disk: None }
    }

    async fn start(&self, id: u64, schema: Schema) -> Db {
        let disk = self.disk.clone().filter(|_| id == 1).map(|disk| disk as Arc<dyn Disk>);
        let options = Options { heartbeat: self.heartbeat, disk, ..options(self.dir.path(), id, schema) };
        let db = Db::open(options, Arc::new(Plug(self.net.clone(), id))).await.unwrap();
        self.net.members.lock().unwrap().insert(id, db.clone());
        db
    }

    async fn stop(&self, db: Db) {
        db.shutdown().await.unwrap();
        assert_eq!(opened(&self.dir.path().join(db.status().id.to_string())), [""; 0]);
        self.net.members.lock().unwrap().remove(&db.status().id);
    }

    fn cut(&self, id: u64) {
        self.net.cut.lock().unwrap().insert(id);
    }

    fn mend(&self, id: u64) {
        self.net.cut.lock().unwrap().remove(&id);
    }
}

/// Three voters; the first leads.
async fn three(schema: Schema) -> (Cluster, Vec<Db>) {
    three_in(Cluster::new(HEARTBEAT), schema).await
}

/// Three of which the first one leads, also when there is little time for them.
async fn calm_three(schema: Schema) -> (Cluster, Vec<Db>) {
    three_in(Cluster::new(CALM), schema).await
}

async fn three_in(cluster: Cluster, schema: Schema) -> (Cluster, Vec<Db>) {
    let mut members = Vec::new();
    for id in 1..=3 {
        members.push(cluster.start(id, schema).await);
    }
    members[0].bootstrap().await.unwrap();
    insist(&members[0], Change::AddLearner(2)).await;
    insist(&members[0], Change::AddLearner(3)).await;
    insist(&members[0], Change::Voters(vec![1, 2, 3])).await;
    (cluster, members)
}

async fn insist(db: &Db, change: Change) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(e) = db.change(change.clone()).await {
        assert!(Instant::now() < deadline, "{change:?}: {e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until(what: &str, mut good: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !good().await {
        assert!(Instant::now() < deadline, "it never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn same(members: &[Db]) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let mut seen = Vec::new();
        for db in members {
            seen.push(db.content_hash().await.unwrap());
        }
        if seen.iter().all(|one| *one == seen[0]) {
            return;
        }
        let states: Vec<_> = members.iter().map(Db::status).collect();
        assert!(Instant::now() < deadline, "replicas differ: {seen:?} {states:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The files of databases in a folder that this program has open.
fn opened(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let here = all.filter(|file| file.starts_with(dir) && file.file_name().is_some_and(|name| name != "lock"));
    here.map(|file| file.display().to_string()).collect()
}

// ---- one member --------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_writes_whole_transactions_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path(), 1, OLD), Arc::new(Alone)).await.unwrap();
    assert!(!db.is_initialized().await.unwrap());
    db.bootstrap().await.unwrap();
    assert_eq!(db.bootstrap().await.unwrap_err().kind, Kind::Conflict);

    assert_eq!(db.write(add_one).await, Ok(1));
    let changed_my_mind = |tx: &Tx<'_>| {
        add_one(tx)?;
        Err::<(), _>(Error::conflict("changed my mind"))
    };
    assert_eq!(db.write(changed_my_mind).await.unwrap_err().message, "changed my mind");
    let panicking = |tx: &Tx<'_>| -> Result<()> {
        add_one(tx)?;
        panic!("a bug in a transaction")
    };
    assert!(db.write(panicking).await.unwrap_err().message.contains("panicked"));
    assert_eq!(counted(&db).await, 1);

    // A write that only reads needs no entry.
    let (before, revision) = (db.status().last_log, db.revision());
    assert_eq!(db.write(|tx| number(tx, "SELECT n FROM counter")).await, Ok(1));
    assert_eq!((db.status().last_log, db.revision()), (before, revision));

    // Foreign keys hold, and what they cascade to is part of the transaction, also for who asks which tables were changed.
    let counter = db.revision_of(&["counter"]);
    assert_eq!(counter, revision);
    db.write(run("INSERT INTO parent (name) VALUES ('a'), ('b'); INSERT INTO child VALUES (1, 'c', x'01')"))
        .await
        .unwrap();
    assert_ne!(db.revision(), revision);
    assert!(db.write(run("INSERT INTO child VALUES (9, 'c', NULL)")).await.is_err());
    let child = db.revision_of(&["child"]);
    db.write(run("DELETE FROM parent WHERE id = 1")).await.unwrap();
    assert!(db.revision_of(&["child"]) > child);
    assert_eq!((db.revision_of(&["counter"]), db.revision_of(&["counter", "child"])), (counter, db.revision()));
    assert_eq!(db.read(|tx| number(tx, "SELECT COUNT(*) FROM child")).await, Ok(0));

    // Unique values may be passed on and exchanged within one transaction.
    let pass_on = "INSERT INTO parent (id, name) VALUES (3, 'c'); DELETE FROM parent WHERE name = 'b';
                   INSERT INTO parent (name) VALUES ('b')";
    db.write(run(pass_on)).await.unwrap();
    let exchange = "UPDATE parent SET name = 'x' WHERE name = 'b'; UPDATE parent SET name = 'b' WHERE name = 'c';
                    UPDATE parent SET name = 'c' WHERE name = 'x'";
    let (exchanged, added) = tokio::join!(db.write(run(exchange)), db.write(add_one));
    assert_eq!((exchanged, added), (Ok(()), Ok(2)));
    assert_eq!(db.read(|tx| number(tx, "SELECT id FROM parent WHERE name = 'b'")).await, Ok(3));
    let large = run("INSERT INTO child SELECT id, 'big', zeroblob(40000000) FROM parent LIMIT 1");
    assert!(db.write(large).await.unwrap_err().message.contains("too large"));

    // Readers can't write.
    assert!(db.read(|tx| run("DELETE FROM counter")(tx)).await.is_err());

    let other = Db::open(options(dir.path(), 1, OLD), Arc::new(Alone)).await;
    assert!(other.err().unwrap().message.contains("in use"));
    assert_ne!(opened(dir.path()), [""; 0]);
    db.shutdown().await.unwrap();
    assert_eq!(opened(dir.path()), [""; 0]);
    assert_eq!(db.write(add_one).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(db.read(|tx| number(tx, "SELECT 1")).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(db.peek(|tx| number(tx, "SELECT 1")).await.unwrap_err().kind, Kind::Unavailable);
    drop(db);

    // The only voter need not wait for anybody, however long others would wait for a leader.
    let slow = Options { heartbeat: Duration::from_secs(60), ..options(dir.path(), 1, OLD) };
    let db = Db::open(slow, Arc::new(Alone)).await.unwrap();
    assert_eq!(db.write(add_one).await, Ok(3));
    db.shutdown().await.unwrap();
    drop(db);

    // The replica can be looked at by other programs while it is in use, and is kept by an older server.
    let db = Db::open(options(dir.path(), 1, NEW), Arc::new(Alone)).await.unwrap();
    let other = Connection::open(dir.path().join("1/db.bin")).unwrap();
    let seen: i64 = other.query_row("SELECT n FROM counter", [], |r| r.get(0)).unwrap();
    assert_eq!(seen, 3);
    drop(other);
    db.migrate(2).await.unwrap();
    assert_eq!(db.write(add_one).await, Ok(4));
    assert!(db.migrate(3).await.unwrap_err().message.contains("up to 2, not 3"));
    db.shutdown().await.unwrap();
    drop(db);
    let old = Db::open(options(dir.path(), 1, OLD), Arc::new(Alone)).await.unwrap();
    assert_eq!((old.wanted_version(), old.status().halted), (2, None), "an older server has what a newer one wrote");
    assert_eq!(old.write(add_one).await, Ok(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_the_log_stops_a_member_that_says_so_and_goes_on_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path(), 1, OLD), Arc::new(Alone)).await.unwrap();
    db.bootstrap().await.unwrap();
    assert_eq!(db.write(add_one).await, Ok(1));
    // The member 2, as the leader of the term 127, sends a copy as of the entry 1: no copy is older than what was agreed on.
    db.serve(Bytes::from_static(&[2, 0, 3, 7, 0, 1, b'x'])).await.unwrap();
    let copy = Bytes::from_static(&[2, 0, 4, 7, 1, 127, 1, 2, 1, 1, 127, 1, 0, 0, 0, 0]);
    let _ = tokio::time::timeout(Duration::from_secs(10), db.serve(copy)).await;
    until("it says that it has ended", async || db.status().ended).await;
    let status = db.status();
    assert_eq!((status.leader, status.quorum), (None, false));
    assert!(status.halted.unwrap().contains("has stopped"));
    assert_eq!(db.peek(|tx| number(tx, "SELECT n FROM counter")).await, Ok(1));
    assert_eq!(db.write(add_one).await.unwrap_err().kind, Kind::Unavailable);
    let _ = db.shutdown().await;
    let db = Db::open(options(dir.path(), 1, OLD), Arc::new(Alone)).await.unwrap();
    until("it is written again", async || db.write(add_one).await.is_ok()).await;
    assert!(!db.status().ended);
    db.shutdown().await.unwrap();
    assert!(!db.status().ended, "it was shut down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_waits_until_the_log_is_cut_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut few = options(dir.path(), 1, OLD);
    few.keep = 20;
    let db = Db::open(few.clone(), Arc::new(Alone)).await.unwrap();
    db.bootstrap().await.unwrap();
    for n in 1..=100 {
        assert_eq!(db.write(add_one).await, Ok(n));
    }
    until("the log is cut by itself", async || db.status().purged > 50).await;
    db.shutdown().await.unwrap();
    drop(db);
    let db = Db::open(few, Arc::new(Alone)).await.unwrap();
    assert_eq!(db.write(add_one).await, Ok(101));
    let files: Vec<_> = std::fs::read_dir(dir.path().join("1")).unwrap().flatten().map(|f| f.file_name()).collect();
    assert!(files.iter().all(|f| !f.to_string_lossy().contains("copy")), "{files:?}");
}

// ---- several members ---------------------------------------------------------------------------------------

/// Writes that have to get through, however long that takes on the machine at hand.
const ENOUGH: u64 = 60;

/// Who is told that a write can't be confirmed looks what became of it and acts on that, as by removing the files of a row
/// that is not there. What was sent may still be under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_given_up_does_not_come_true_after_a_read_that_does_not_show_it() {
    let (cluster, members) = calm_three(OLD).await;
    let follower = &members[1];
    let late = |tx: &Tx<'_>| number(tx, "SELECT count(*) FROM parent WHERE name = 'late'");
    cluster.net.held.send_replace(Some("late"));
    let refused = follower.write(run("INSERT INTO parent (name) VALUES ('late')")).await.unwrap_err();
    assert!(refused.retryable() && refused.message.contains("it may still be done"), "{refused}");
    assert_eq!(follower.read(late).await.unwrap(), 0);
    cluster.net.held.send_replace(None);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(follower.read(late).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_done_once_on_a_network_that_loses_and_repeats() {
    let (cluster, members) = three(OLD).await;
    cluster.net.bad.store(true, Ordering::Relaxed);
    let tokens = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let writers = members.iter().cloned().zip(1..).flat_map(|(db, id)| (0..3).map(move |n| (db.clone(), id * 10 + n)));
    let writers: Vec<_> = writers
        .map(|(db, writer)| {
            let (tokens, done) = (tokens.clone(), done.clone());
            tokio::spawn(async move {
                let (mut sure, mut unsure) = (Vec::new(), 0);
                while done.load(Ordering::Relaxed) < ENOUGH {
                    let tokens = tokens.clone();
                    // Each run makes another token: what the caller gets must be what was stored.
                    let write = move |tx: &Tx<'_>| {
                        let token = tokens.fetch_add(1, Ordering::Relaxed);
                        add_one(tx)?;
                        let insert = "INSERT INTO parent (name) VALUES (?)";
                        sql(tx.connection().execute(insert, [format!("{writer}-{token}")]))?;
                        Ok(token)
                    };
                    match db.write(write).await {
                        Ok(token) => {
                            sure.push(format!("{writer}-{token}"));
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) if e.kind == Kind::Unavailable => unsure += 1,
                        Err(e) => panic!("{e}"),
                    }
                }
                (sure, unsure)
            })
        })
        .collect();
    let (mut sure, mut unsure) = (Vec::new(), 0);
    for writer in writers {
        let (s, u) = writer.await.unwrap();
        sure.extend(s);
        unsure += u;
    }
    cluster.net.bad.store(false, Ordering::Relaxed);
    members[1].read_barrier().await.unwrap();
    same(&members).await;
    let names = |tx: &Tx<'_>| {
        let mut select = sql(tx.connection().prepare("SELECT name FROM parent"))?;
        let rows = sql(select.query_map([], |r| r.get::<_, String>(0)))?;
        sql(rows.collect::<rusqlite::Result<HashSet<String>>>())
    };
    let names = members[0].read(names).await.unwrap();
    let lost: Vec<_> = sure.iter().filter(|name| !names.contains(*name)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    assert_eq!(counted(&members[2]).await, names.len() as i64, "transactions are whole");
    println!("{} writes on a bad network, {unsure} of unknown outcome, {} rows", sure.len(), names.len());
    assert!(names.len() - sure.len() <= unsure, "nothing was done twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_says_so_and_steps_back() {
    let (cluster, members) = three(OLD).await;
    members[1].write(add_one).await.unwrap();
    let mut changes = members[0].watch();
    cluster.cut(1);
    let (alone, db) = (Instant::now(), members[0].clone());
    let refused = tokio::spawn(async move { db.write(add_one).await });
    assert_eq!(members[1].write(add_one).await.unwrap(), 2, "the majority goes on");
    println!("the leader was cut off; the next write was accepted after {} ms", alone.elapsed().as_millis());
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
    assert!(refused.message.contains("not confirmed by a majority"), "{refused}");
    assert!(alone.elapsed() < Duration::from_secs(8), "{:?}", alone.elapsed());

    // By now it knows.
    changes.wait_for(|s| !s.quorum).await.unwrap();
    let status = members[0].status();
    assert_eq!((status.leader, status.quorum), (None, false));
    let started = Instant::now();
    assert_eq!(members[0].write(add_one).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(members[0].read(|_| Ok(())).await.unwrap_err().kind, Kind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(4), "it is refused sooner: {:?}", started.elapsed());
    assert_eq!(members[0].peek(|tx| number(tx, "SELECT n FROM counter")).await, Ok(1), "its own replica answers");

    cluster.mend(1);
    until("it has a leader again", async || members[0].status().quorum).await;
    assert_eq!(members[0].write(add_one).await.unwrap(), 3, "what was refused was not done");
    same(&members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_does_not_answer_with_less_than_others_have_applied() {
    let disk = Arc::new(SlowDisk::default());
    let (_cluster, members) = three_in(Cluster { disk: Some(disk.clone()), ..Cluster::new(CALM) }, OLD).await;
    assert_eq!(counted(&members[0]).await, 0);
    disk.0.store(true, Ordering::SeqCst);
    let writer = members[1].clone();
    let written = tokio::spawn(async move { writer.write(add_one).await });
    let n = |tx: &Tx<'_>| number(tx, "SELECT n FROM counter");
    until("another one has applied it", async || members[2].peek(n).await == Ok(1)).await;
    assert_eq!(counted(&members[0]).await, 1);
    assert_eq!(written.await.unwrap(), Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_replaced_by_a_copy() {
    let (cluster, members) = calm_three(OLD).await;
    members[0].write(run("INSERT INTO parent (name) VALUES ('a'), ('b'), ('c')")).await.unwrap();
    same(&members).await;
    let spoil = |id: u64, text: &str| {
        Connection::open(cluster.dir.path().join(format!("{id}/db.bin"))).unwrap().execute_batch(text).unwrap();
    };

    // A follower finds out while it applies what another one wrote.
    spoil(2, "UPDATE parent SET name = 'spoilt' WHERE id = 1");
    members[2].write(run("DELETE FROM parent WHERE id = 1")).await.unwrap();
    until("it has been repaired", async || members[1].status().repairs == 1).await;
    same(&members).await;

    // One that writes is told by the leader, and its write is run again on the right rows.
    spoil(3, "UPDATE counter SET n = 100");
    assert_eq!(members[2].write(add_one).await, Ok(1));
    assert_eq!(members[2].status().repairs, 1);
    same(&members).await;

    // The leader is not right when the others agree with each other.
    spoil(1, "DELETE FROM parent WHERE id = 2");
    members[1].write(run("UPDATE parent SET name = 'B' WHERE id = 2")).await.unwrap();
    assert_eq!(members[0].status().repairs, 1);
    assert_eq!(members[0].read(|tx| number(tx, "SELECT id FROM parent WHERE name = 'B'")).await, Ok(2));
    same(&members).await;

    // What nobody has stumbled over yet is found by comparing; then what was read of it before does not count.
    assert!(members[1].check().await.unwrap().is_empty());
    spoil(3, "UPDATE counter SET n = 100");
    let spoilt = (members[2].data_index(), members[2].revision_of(&["parent"]));
    assert_eq!(members[1].check().await.unwrap(), [3]);
    assert_eq!(counted(&members[2]).await, 1, "read while it is known to be wrong");
    until("it has been repaired", async || members[2].status().repairs == 2).await;
    same(&members).await;
    assert_eq!(members[2].data_index(), spoilt.0);
    assert_ne!(members[2].revision_of(&["parent"]), spoilt.1);
    for db in &members {
        assert_eq!(db.status().halted, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_can_not_be_opened_is_fetched_from_a_member_of_the_same_database() {
    let (cluster, mut members) = calm_three(OLD).await;
    for n in 1..=20 {
        assert_eq!(members[0].write(add_one).await, Ok(n));
    }
    same(&members).await;
    members[1].compact().await.unwrap();
    until("its log is cut", async || members[1].status().purged > 0).await;
    let dir = cluster.dir.path().join("2");
    let open = async |others: &[u64]| {
        let options = Options { heartbeat: CALM, others: others.to_vec(), ..options(cluster.dir.path(), 2, OLD) };
        Db::open(options, Arc::new(Plug(cluster.net.clone(), 2))).await
    };

    // One that is not there, and then one that is no database.
    for damage in [None, Some([7; 5000])] {
        cluster.stop(members.remove(1)).await;
        assert_eq!(members[0].write(run("UPDATE counter SET n = n + 1")).await, Ok(()));
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.join(format!("db.bin{end}")));
        }
        if let Some(damage) = damage {
            std::fs::write(dir.join("db.bin"), damage).unwrap();
        }
        let refused = open(&[]).await.err().unwrap();
        assert!(refused.message.contains("no other members. Restore a backup"), "{refused}");
        let db = open(&[9, 3]).await.unwrap();
        cluster.net.members.lock().unwrap().insert(2, db.clone());
        members.insert(1, db);
        assert_eq!(counted(&members[1]).await, counted(&members[0]).await);
        same(&members).await;
    }
    assert_eq!(std::fs::read(dir.join("db.bin.damaged")).unwrap(), [7; 5000]);
    assert_eq!(members[1].write(add_one).await, Ok(23));

    // Its log tells to which database it belongs.
    cluster.stop(members.remove(1)).await;
    std::fs::write(dir.join("db.bin"), [7; 5000]).unwrap();
    let log = Connection::open(dir.join("raft.db")).unwrap();
    assert_eq!(log.execute("UPDATE state SET v = x'01' WHERE k = 'incarnation'", []), Ok(1));
    drop(log);
    let refused = open(&[1, 3]).await.err().unwrap();
    assert!(refused.message.contains("member 1: It has another database; member 3: It has another"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let (cluster, members) = calm_three(OLD).await;
    // Large enough for a copy of several parts.
    members[0].write(run("INSERT INTO parent (name) VALUES ('a')")).await.unwrap();
    for _ in 0..4 {
        let blob = "INSERT INTO child SELECT 1, hex(randomblob(8)), randomblob(900000)";
        members[0].write(run(blob)).await.unwrap();
    }
    members[0].compact().await.unwrap();
    until("the log is cut", async || members[0].status().purged > 0).await;
    let fourth = cluster.start(4, OLD).await;
    assert_eq!(fourth.status(), Status { id: 4, ..Status::default() });
    insist(&members[1], Change::AddLearner(4)).await;
    until("the copy has arrived", async || fourth.read_barrier().await.is_ok()).await;
    assert_eq!(fourth.incarnation(), members[0].incarnation());
    assert_eq!(fourth.write(add_one).await, Ok(1));
    let status = members[0].status();
    assert_eq!((status.voters, status.learners), (vec![1, 2, 3], vec![4]));
    same(&[members[0].clone(), fourth.clone()]).await;

    let refused = fourth.hand_over(4).await.unwrap_err();
    assert!(refused.message.contains("does not vote"), "{refused}");
    members[0].hand_over(1).await.unwrap();
    assert_eq!(
        members[0].write(run("INSERT INTO parent (name) VALUES ('led')")).await,
        Ok(()),
        "who leads already goes on"
    );
    insist(&fourth, Change::Voters(vec![2, 3, 4])).await;
    fourth.hand_over(4).await.unwrap();
    assert!(fourth.status().leads());
    insist(&fourth, Change::Remove(1)).await;
    until("it is gone", async || !fourth.status().learners.contains(&1)).await;
    assert_eq!(fourth.status().voters, [2, 3, 4]);
    cluster.stop(members[0].clone()).await;
    assert_eq!(members[2].write(add_one).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_vote_is_told_of_many_writes_at_once_and_sees_all_of_them_when_it_asks() {
    let (cluster, members) = calm_three(OLD).await;
    let (leader, spare) = (&members[0], &members[1]);
    insist(leader, Change::Voters(vec![1, 3])).await;
    until("the second one votes no more", async || leader.status().learners == [2]).await;
    let (before, began) = ([2, 3].map(|id| cluster.net.sent(id)), Instant::now());
    for n in 1..=200 {
        assert_eq!(leader.write(add_one).await, Ok(n));
    }
    let heartbeats = began.elapsed().div_duration_f64(CALM);
    let pauses = began.elapsed().div_duration_f64(Duration::from_millis(50));
    let sent = [(2, before[0]), (3, before[1])].map(|(id, before)| cluster.net.sent(id) - before);
    assert!(f64::from(sent[0]) < heartbeats + pauses + 4.0, "{sent:?} requests to a learner and to a voter");
    assert!(sent[1] >= 200, "{sent:?} requests to a learner and to a voter");

    for n in (201..=300).step_by(2) {
        assert_eq!(leader.write(add_one).await, Ok(n));
        assert_eq!(counted(spare).await, n);
        assert_eq!(spare.write(add_one).await, Ok(n + 1));
    }
    // Of some tables it is told at once. It may hear of several writes in one request if it is slow.
    let before = cluster.net.sent(2);
    for _ in 0..100 {
        assert_eq!(leader.write(run("INSERT INTO parent (name) VALUES (hex(randomblob(8)))")).await, Ok(()));
    }
    let sent = cluster.net.sent(2) - before;
    assert!(sent >= 30, "100 writes were told in {sent} requests");
    let seen = spare.peek(|tx| number(tx, "SELECT count(*) FROM parent")).await.unwrap();
    assert!(seen >= 30, "{seen} of 100");

    // With a vote it is waited for at once.
    insist(leader, Change::Voters(vec![1, 2])).await;
    cluster.cut(3);
    assert_eq!(leader.write(add_one).await, Ok(301));
    assert_eq!(counted(spare).await, 301);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_back_at_once_has_copies_for_who_lags_behind() {
    let (cluster, mut members) = three(OLD).await;
    for round in 1..=5 {
        cluster.cut(3);
        members[0].write(run("DELETE FROM parent")).await.unwrap();
        assert_eq!(members[0].write(add_one).await, Ok(round));
        let written = members[0].status().applied;
        members[0].compact().await.unwrap();
        until("the log is cut", async || members[0].status().purged >= written).await;
        // Whoever leads then finds that the third member can't be served from the log.
        let first = members.remove(0);
        cluster.stop(first).await;
        cluster.mend(3);
        members.insert(0, cluster.start(1, OLD).await);
        until("the copy has arrived", async || members[2].status().applied >= written).await;
        same(&members).await;
        assert_eq!(members.iter().find_map(|db| db.status().halted), None);
        until("it leads again", async || members[0].status().leads() || members[0].hand_over(1).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_old_waits_for_its_upgrade() {
    let cluster = Cluster::new(HEARTBEAT);
    let first = cluster.start(1, OLD).await;
    first.bootstrap().await.unwrap();
    cluster.stop(first).await;
    let first = cluster.start(1, NEW).await;
    let old = cluster.start(2, OLD).await;
    insist(&first, Change::AddLearner(2)).await;
    until("the learner has caught up", async || old.read_barrier().await.is_ok()).await;
    first.migrate(2).await.unwrap();
    first.write(run("INSERT INTO parent (name, note) VALUES ('a', 'new')")).await.unwrap();
    until("it says why it does not follow", async || {
        old.status().halted.is_some_and(|why| why.contains("knows versions up to 1: upgrade it"))
    })
    .await;
    assert_eq!(old.peek(|tx| number(tx, "SELECT n FROM counter")).await, Ok(0), "what it has can be looked at");
    assert!(!old.status().diverged);
    assert_eq!((old.schema_version(), old.wanted_version()), (1, 2));
    cluster.stop(old).await;
    let upgraded = cluster.start(2, NEW).await;
    upgraded.write(run("UPDATE parent SET note = 'seen'")).await.unwrap();
    assert_eq!(upgraded.schema_version(), 2);
    same(&[first, upgraded]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_goes_on_when_the_majority_is_lost_for_good() {
    let (cluster, members) = three(OLD).await;
    members[2].write(add_one).await.unwrap();
    same(&members).await;
    let old = members[2].incarnation();
    for db in members {
        cluster.stop(db).await;
    }
    let dir = cluster.dir.path().join("3");
    let told = offline::members(&dir).unwrap();
    assert_eq!((told.voters, told.learners, told.incarnation, told.schema), (vec![1, 2, 3], vec![], old, 1));
    assert!(told.term >= 1 && told.last_log.1 >= told.applied);
    assert_eq!(offline::members(cluster.dir.path()).unwrap_err().kind, Kind::NotFound);

    let new = offline::recover_from_quorum_loss(&dir, 3, OLD).await.unwrap();
    assert_ne!(new, old);
    let told = offline::members(&dir).unwrap();
    assert_eq!((told.voters, told.incarnation), (vec![3], new));
    let third = cluster.start(3, OLD).await;
    assert!(offline::members(&dir).unwrap_err().message.contains("in use"));
    assert_eq!(third.write(add_one).await, Ok(2), "nothing was forgotten");

    // What is left of the old database has no say; a member with an empty one and a new id has.
    let second = cluster.start(2, OLD).await;
    let fourth = cluster.start(4, OLD).await;
    insist(&third, Change::AddLearner(4)).await;
    until("it has joined", async || fourth.read_barrier().await.is_ok()).await;
    assert_eq!(counted(&fourth).await, 2);
    assert_eq!(second.peek(|tx| number(tx, "SELECT n FROM counter")).await, Ok(1));
    assert!(third.status().leads());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_wait_for_the_disk_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path(), 1, NEW), Arc::new(Alone)).await.unwrap();
    db.bootstrap().await.unwrap();
    db.write(add_one).await.unwrap();
    assert_eq!(db.slow_writes(), 0);
    // Another program keeps the log from being written for a moment, as a disk that is busy does.
    let log = Connection::open(dir.path().join("1/raft.db")).unwrap();
    until("a slow write", async || {
        log.execute_batch("BEGIN IMMEDIATE").unwrap();
        let writing = tokio::spawn({
            let db = db.clone();
            async move { db.write(add_one).await }
        });
        tokio::time::sleep(Duration::from_millis(1200)).await;
        log.execute_batch("COMMIT").unwrap();
        writing.await.unwrap().unwrap();
        db.slow_writes() > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_members_wait_for_each_other() {
    let (_cluster, members) = three(NEW).await;
    let voters = |n: usize| if n.is_multiple_of(2) { vec![1] } else { vec![1, 2, 3] };
    let changes = (0..6).map(|n| members[n % 3].change(Change::Voters(voters(n))));
    for changed in futures::future::join_all(changes).await {
        assert_eq!(changed, Ok(()));
    }
}
