//! Three members in processes and namespaces of their own: writers on all of them, kills, cut cables.
//!
//! Each member is this same program, started again on a machine of the lab. It is told what to do through its
//! standard input. While load runs, each writer keeps a counter and a row per count, both in one transaction, and
//! notes in a file what was acknowledged; readers on all members check that no acknowledged count is ever missed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{Error, Result};
use bytes::Bytes;
use db::{Change, Db, Options, Schema, Transport};
use futures::future::BoxFuture;
use lab::Lab;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Anything = lab::Result<()>;

const WRITERS: u64 = 3;

// ---- a member ----------------------------------------------------------------------------------------------

struct Tcp;

async fn exchange(to: u64, request: Bytes) -> std::io::Result<Bytes> {
    let mut stream = TcpStream::connect((format!("10.77.0.{to}"), 7000)).await?;
    stream.set_nodelay(true)?;
    stream.write_u32(request.len() as u32).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    match answer.split_first() {
        Some((0, body)) => Ok(Bytes::copy_from_slice(body)),
        Some((_, text)) => Err(std::io::Error::other(String::from_utf8_lossy(text))),
        None => Err(std::io::Error::other("no answer")),
    }
}

impl Transport for Tcp {
    fn call(&self, to: u64, request: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            match tokio::time::timeout(timeout, exchange(to, request)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(e)) => Err(Error::unavailable(e.to_string())),
                Err(_) => Err(Error::unavailable("timeout")),
            }
        })
    }
}

async fn listen(db: Db) -> std::io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:7000").await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let db = db.clone();
        tokio::spawn(async move {
            let len = stream.read_u32().await?;
            let mut request = vec![0; len as usize];
            stream.read_exact(&mut request).await?;
            let (tag, body) = match db.serve(request.into()).await {
                Ok(body) => (0, body),
                Err(e) => (1, e.message.into()),
            };
            stream.write_u8(tag).await?;
            stream.write_all(&body).await
        });
    }
}

const SCHEMA: Schema = Schema {
    latest: 1,
    migrate: |connection, _, _, _| {
        let sql = "CREATE TABLE counter (writer TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL);
                   CREATE TABLE row (writer TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (writer, n)) WITHOUT ROWID;";
        connection.execute_batch(sql).map_err(|e| Error::internal(e.to_string()))
    },
};

fn sql<T>(result: rusqlite::Result<T>) -> Result<T> {
    result.map_err(|e| Error::internal(e.to_string()))
}

async fn count(db: &Db, writer: String) -> Result<i64> {
    db.write(move |tx| {
        let connection = tx.connection();
        let old = "SELECT COALESCE((SELECT n FROM counter WHERE writer = ?1), 0)";
        let n = 1 + sql(connection.query_row(old, [&writer], |r| r.get::<_, i64>(0)))?;
        sql(connection.execute("INSERT OR REPLACE INTO counter VALUES (?1, ?2)", (&writer, n)))?;
        sql(connection.execute("INSERT INTO row VALUES (?1, ?2)", (&writer, n)))?;
        // One in fifty changes its mind: nothing of it may remain.
        if n % 50 == 0 && rand::random_bool(0.5) { Err(Error::conflict("changed my mind")) } else { Ok(n) }
    })
    .await
}

struct Load {
    acked: PathBuf,
    stop: AtomicBool,
    done: AtomicU64,
    unsure: AtomicU64,
    reads: AtomicU64,
    violations: AtomicU64,
}

impl Load {
    async fn write(&self, db: &Db, writer: String) {
        while !self.stop.load(Ordering::SeqCst) {
            match count(db, writer.clone()).await {
                Ok(n) => {
                    std::fs::write(self.acked.join(format!(".{writer}")), n.to_string()).unwrap();
                    std::fs::rename(self.acked.join(format!(".{writer}")), self.acked.join(&writer)).unwrap();
                    self.done.fetch_add(1, Ordering::SeqCst);
                }
                Err(e) if e.kind == api::Kind::Conflict => {}
                Err(_) => drop(self.unsure.fetch_add(1, Ordering::SeqCst)),
            }
        }
    }

    fn floor(&self) -> BTreeMap<String, i64> {
        let files = std::fs::read_dir(&self.acked).unwrap().flatten();
        let named = files.filter_map(|f| f.file_name().into_string().ok()).filter(|n| !n.starts_with('.'));
        named
            .filter_map(|n| Some((n.clone(), std::fs::read_to_string(self.acked.join(n)).ok()?.parse().ok()?)))
            .collect()
    }

    async fn check(&self, db: &Db) {
        while !self.stop.load(Ordering::SeqCst) {
            let floor = self.floor();
            if let Ok(seen) = db.read(|tx| counters(tx.connection())).await {
                let behind = floor.iter().filter(|(w, n)| seen.get(*w).copied().unwrap_or(0) < **n).count();
                self.violations.fetch_add(behind as u64, Ordering::SeqCst);
                self.reads.fetch_add(1, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn counters(connection: &rusqlite::Connection) -> Result<BTreeMap<String, i64>> {
    let mut select = sql(connection.prepare("SELECT writer, n FROM counter"))?;
    let rows = sql(select.query_map([], |r| Ok((r.get(0)?, r.get(1)?))))?;
    sql(rows.collect())
}

/// Whole counters: the counter of each writer equals the number of its rows and the last of them.
fn torn(connection: &rusqlite::Connection) -> Result<i64> {
    let torn = "SELECT COUNT(*) FROM counter c
                WHERE n != (SELECT COUNT(*) FROM row r WHERE r.writer = c.writer)
                   OR n != (SELECT MAX(n) FROM row r WHERE r.writer = c.writer)";
    sql(connection.query_row(torn, [], |r| r.get(0)))
}

/// Not a test: the life of a member, when this program was started as one.
#[test]
fn member() {
    let Ok(id) = std::env::var("MEMBER_ID") else { return };
    let dir = PathBuf::from(std::env::var("MEMBER_DIR").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(live(id.parse().unwrap(), &dir)).unwrap();
    std::process::exit(0);
}

async fn live(id: u64, dir: &Path) -> Anything {
    let mut options = Options::new(dir.join(format!("db{id}")), id, SCHEMA);
    options.patience = Duration::from_secs(5);
    let db = Db::open(options, Arc::new(Tcp)).await?;
    tokio::spawn(listen(db.clone()));
    let mut load: Option<Arc<Load>> = None;
    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(std::io::Result::ok).try_for_each(|l| lines.send(l)));
    println!("#ready");
    while let Some(command) = commands.recv().await {
        let words: Vec<&str> = command.split_whitespace().collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        let answer = match words[0] {
            "bootstrap" => db.bootstrap().await.map(|()| String::new()),
            "add" => db.change(Change::AddLearner(number(1))).await.map(|()| String::new()),
            "remove" => db.change(Change::Remove(number(1))).await.map(|()| String::new()),
            "voters" => {
                let ids = (1..words.len()).map(number).collect();
                db.change(Change::Voters(ids)).await.map(|()| String::new())
            }
            "lead" => db.hand_over(number(1)).await.map(|()| String::new()),
            "leader" => {
                let known = db.wait_for(|status| status.leader.is_some()).await;
                Ok(known.ok().and_then(|status| status.leader).unwrap_or(0).to_string())
            }
            "compact" => db.compact().await.map(|()| String::new()),
            "count" => count(&db, format!("hand-{id}")).await.map(|n| n.to_string()),
            "peek" => db.peek(|tx| counters(tx.connection())).await.map(|c| c.len().to_string()),
            "barrier" => db.read_barrier().await.map(|()| String::new()),
            "torn" => db.read(|tx| torn(tx.connection())).await.map(|n| n.to_string()),
            "counters" => db.read(|tx| counters(tx.connection())).await.map(|c| format!("{c:?}")),
            "hash" => db.content_hash().await.map(|(index, hash)| format!("{index} {hash}")),
            "load" => {
                let fresh = Arc::new(Load {
                    acked: dir.join("acked"),
                    stop: AtomicBool::new(false),
                    done: 0.into(),
                    unsure: 0.into(),
                    reads: 0.into(),
                    violations: 0.into(),
                });
                for n in 0..WRITERS {
                    let (l, d, life) = (fresh.clone(), db.clone(), std::process::id());
                    tokio::spawn(async move { l.write(&d, format!("w{id}-{n}-{life}")).await });
                }
                let (l, d) = (fresh.clone(), db.clone());
                tokio::spawn(async move { l.check(&d).await });
                load = Some(fresh);
                Ok(String::new())
            }
            "stop" => match load.take() {
                Some(l) => {
                    l.stop.store(true, Ordering::SeqCst);
                    let get = |n: &AtomicU64| n.load(Ordering::SeqCst);
                    Ok(format!("{} {} {} {}", get(&l.done), get(&l.unsure), get(&l.reads), get(&l.violations)))
                }
                None => Ok("0 0 0 0".into()),
            },
            other => Err(Error::bad_request(other)),
        };
        match answer {
            Ok(text) => println!("#ok {text}"),
            Err(e) => println!("#err {}", e.message.replace('\n', " ")),
        }
    }
    Ok(())
}

// ---- the test ----------------------------------------------------------------------------------------------

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(lab: &Lab, id: usize) -> lab::Result<Process> {
        let mut command = lab.machines[id - 1].command(std::env::current_exe()?);
        command.args(["member", "--exact", "--nocapture", "--test-threads=1"]);
        command.env("MEMBER_ID", id.to_string()).env("MEMBER_DIR", &lab.dir);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        let mut process = Process { child, input, output: BufReader::new(output) };
        process.answer()?;
        Ok(process)
    }

    fn answer(&mut self) -> lab::Result<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            if let Some(at) = line.find('#') {
                return Ok(line[at..].trim().to_owned());
            }
            line.clear();
        }
        Err("the member is gone".into())
    }

    fn ask(&mut self, command: &str) -> lab::Result<String> {
        writeln!(self.input, "{command}")?;
        let answer = self.answer()?;
        match answer.strip_prefix("#ok") {
            Some(text) => Ok(text.trim().to_owned()),
            None => Err(format!("{command}: {answer}").into()),
        }
    }

    /// Like `ask`, again until it works.
    fn insist(&mut self, command: &str) -> lab::Result<String> {
        let mut last = String::new();
        for _ in 0..40 {
            match self.ask(command) {
                Ok(text) => return Ok(text),
                Err(e) => last = e.to_string(),
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        Err(last.into())
    }

    fn kill(mut self, lab: &Lab, id: usize) -> Anything {
        // nsenter waits for the member: the member itself is its child.
        let pid = lab::run::only_child(self.child.id())?;
        lab::must("kill", &["-9", &pid.to_string()])?;
        self.child.wait()?;
        let _ = (lab, id);
        Ok(())
    }
}

fn form(lab: &Lab) -> lab::Result<Vec<Option<Process>>> {
    std::fs::create_dir_all(lab.dir.join("acked"))?;
    let count = lab.machines.len();
    let mut members = (1..=count).map(|id| Process::start(lab, id).map(Some)).collect::<lab::Result<Vec<_>>>()?;
    let first = members[0].as_mut().unwrap();
    first.ask("bootstrap")?;
    for id in 2..=count {
        first.insist(&format!("add {id}"))?;
    }
    let all: Vec<String> = (1..=count.min(3)).map(|id| id.to_string()).collect();
    first.insist(&format!("voters {}", all.join(" ")))?;
    Ok(members)
}

/// All replicas stand at the same entry with the same content.
fn same_everywhere(members: &mut [Option<Process>]) -> Anything {
    let mut hashes = Vec::new();
    for _ in 0..40 {
        hashes.clear();
        for member in members.iter_mut().flatten() {
            member.insist("barrier")?;
        }
        for member in members.iter_mut().flatten() {
            hashes.push(member.ask("hash")?);
        }
        if hashes.iter().all(|h| h == &hashes[0]) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("replicas differ: {hashes:?}").into())
}

#[test]
fn nothing_acknowledged_is_lost_whoever_is_killed_or_cut_off() -> Anything {
    if lab::skip(&[]) {
        return Ok(());
    }
    let lab = Lab::temporary("db", 3)?;
    let mut members = form(&lab)?;
    for member in members.iter_mut().flatten() {
        member.ask("load")?;
    }
    let (mut done, mut unsure, mut reads) = (0u64, 0u64, 0u64);
    let mut add = |text: &str| -> Anything {
        let n: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        (done, unsure, reads) = (done + n[0], unsure + n[1], reads + n[2]);
        if n[3] == 0 { Ok(()) } else { Err(format!("{} reads went back behind an acknowledged write", n[3]).into()) }
    };
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(1500));
        let victim: usize = match round {
            // The leader at first, then whoever comes.
            0 | 1 => members[0].as_mut().unwrap().ask("leader")?.parse().map(|l: usize| l.max(1))?,
            _ => rand::random_range(1..=3),
        };
        if round % 2 == 0 {
            members[victim - 1].take().unwrap().kill(&lab, victim)?;
            std::thread::sleep(Duration::from_millis(1500));
            let mut process = Process::start(&lab, victim)?;
            process.ask("load")?;
            members[victim - 1] = Some(process);
        } else {
            lab.cut(victim)?;
            std::thread::sleep(Duration::from_secs(3));
            lab.mend(victim)?;
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    for member in members.iter_mut().flatten() {
        add(&member.ask("stop")?)?;
    }
    std::thread::sleep(Duration::from_secs(6));
    same_everywhere(&mut members)?;
    let one = members[1].as_mut().unwrap();
    assert_eq!(one.insist("torn")?, "0", "transactions are whole");
    let counters = one.insist("counters")?;
    let have: BTreeMap<String, i64> = counters
        .trim_matches(['{', '}'])
        .split(", ")
        .filter_map(|pair| pair.split_once(": ").map(|(w, n)| (w.trim_matches('"').to_owned(), n.parse().unwrap_or(0))))
        .collect();
    for file in std::fs::read_dir(lab.dir.join("acked"))?.flatten() {
        let writer = file.file_name().to_string_lossy().into_owned();
        if writer.starts_with('.') {
            // It was being written when its member was killed.
            continue;
        }
        let acked: i64 = std::fs::read_to_string(file.path())?.parse()?;
        let found = have.get(&writer).copied().unwrap_or(0);
        assert!(found >= acked, "{writer}: {acked} acknowledged, {found} found");
    }
    let total: i64 = have.values().sum();
    println!(
        "{total} writes counted, {done} of them by members never killed, {unsure} of unknown outcome, {reads} reads checked"
    );
    assert!(done > 200, "the load was real: {done}");
    Ok(())
}

#[test]
fn leaders_change_learners_catch_up_and_no_majority_is_said_so() -> Anything {
    if lab::skip(&[]) {
        return Ok(());
    }
    let lab = Lab::temporary("dbroles", 4)?;
    std::fs::create_dir_all(lab.dir.join("acked"))?;
    let mut members = form(&lab)?;
    let ask =
        |members: &mut Vec<Option<Process>>, id: usize, what: &str| members[id - 1].as_mut().unwrap().insist(what);

    // A learner writes and reads like anybody.
    assert_eq!(ask(&mut members, 4, "count")?, "1");
    assert_eq!(ask(&mut members, 1, "peek")?, "1");

    let started = Instant::now();
    ask(&mut members, 4, "lead 2")?;
    assert_eq!(ask(&mut members, 2, "leader")?, "2");
    ask(&mut members, 1, "count")?;
    println!("handed over, and the next write was accepted, after {} ms", started.elapsed().as_millis());

    // A member that was away while the log was cut gets a whole copy.
    members[3].take().unwrap().kill(&lab, 4)?;
    for _ in 0..5 {
        ask(&mut members, 2, "count")?;
    }
    ask(&mut members, 2, "compact")?;
    members[3] = Some(Process::start(&lab, 4)?);
    same_everywhere(&mut members)?;

    let started = Instant::now();
    members[1].take().unwrap().kill(&lab, 2)?;
    ask(&mut members, 1, "count")?;
    println!("the leader was killed; the next write was accepted after {} ms", started.elapsed().as_millis());

    // Two of three voters gone: reads of the replica answer, writes say why they can't.
    let leader: usize = ask(&mut members, 4, "leader")?.parse()?;
    members[leader - 1].take().unwrap().kill(&lab, leader)?;
    let left = if leader == 1 { 3 } else { 1 };
    let one = members[left - 1].as_mut().unwrap();
    assert!(one.ask("peek")?.parse::<u32>()? > 1);
    let started = Instant::now();
    let refused = one.ask("count").unwrap_err().to_string();
    assert!(refused.contains("not confirmed by a majority"), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(12), "it is refused in time");

    members[1] = Some(Process::start(&lab, 2)?);
    ask(&mut members, left, "count").map_err(|e| format!("a majority is back: {e}"))?;
    Ok(())
}
