//! What members send each other for the database: requests, and the changes in them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use bytes::Bytes;
use db::{Alone, Change, Db, Options, Rehearsal, SCHEMA, Transport};
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::RUNTIME;

/// How long a request is waited for. Some wait for others, that do not come here.
const PATIENCE: Duration = Duration::from_millis(200);
/// How many requests a database answers before it is given up for a fresh one: what was asked of it stays.
const LIFE: u64 = 500;

/// How long a database that has ended may take to say so, or to open again.
const RECOVERY: Duration = Duration::from_secs(60);

/// A database of one member.
struct Asked {
    db: Db,
    answered: u64,
    dir: TempDir,
}

impl Asked {
    async fn new() -> Result<Asked> {
        let dir = tempfile::tempdir()?;
        let db = open(&dir).await?;
        db.bootstrap().await?;
        db.write(|tx| db::config::set(tx, "user.kept", Some("yes"))).await?;
        Ok(Asked { db, answered: 0, dir })
    }

    async fn shut_down(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.db.shutdown()).await;
    }
}

async fn open(dir: &TempDir) -> Result<Db> {
    Db::open(Options::new(dir.path(), 1, SCHEMA), Arc::new(Alone)).await
}

/// A request, to a member that leads a database of its own.
///
/// What a member says of the log itself is believed: Raft is made for members that fail, not for those that lie. Where the
/// library finds one out, it ends by an assertion. That is a fault unless the database says that it has ended, can still
/// be read, and goes on when it is opened again.
pub fn serve(input: &[u8]) {
    static ASKED: Mutex<Option<Asked>> = Mutex::new(None);
    static NOTING: std::sync::Once = std::sync::Once::new();
    NOTING.call_once(note_assertions);
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    RUNTIME.block_on(async {
        if asked.as_ref().is_none_or(|a| a.answered >= LIFE) {
            if let Some(old) = asked.take() {
                old.shut_down().await;
            }
            *asked = Some(Asked::new().await.expect("a database"));
        }
        let Some(now) = asked.as_mut() else { return };
        now.answered += 1;
        let _ = tokio::time::timeout(PATIENCE, now.db.serve(Bytes::copy_from_slice(input))).await;
        if ENDED.swap(false, Ordering::Relaxed) {
            tokio::time::timeout(RECOVERY, recovers(now)).await.expect("a database that is open again in time");
            asked.take();
            ENDED.store(false, Ordering::Relaxed);
        }
    });
}

/// Panics unless a database that has ended says so and has lost nothing.
async fn recovers(asked: &Asked) {
    while !asked.db.status().ended {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(kept(&asked.db).await.as_deref(), Ok("yes"), "it can still be read");
    assert!(asked.db.write(|tx| db::config::set(tx, "user.more", Some("x"))).await.is_err(), "it can't be written");
    asked.shut_down().await;
    let again = open(&asked.dir).await.expect("a database that opens again");
    assert_eq!(kept(&again).await.as_deref(), Ok("yes"), "nothing is lost");
    assert!(!again.status().ended);
    let _ = again.shutdown().await;
}

async fn kept(db: &Db) -> Result<String> {
    db.peek(|tx| Ok(db::config::get(tx)?.get("user.kept").cloned().unwrap_or_default())).await
}

/// Set when the library has ended by itself.
static ENDED: AtomicBool = AtomicBool::new(false);

fn note_assertions() {
    let fault = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.location().is_some_and(|l| l.file().contains("/openraft-")) {
            ENDED.store(true, Ordering::Relaxed);
            if std::env::var_os("INCUS_FUZZ_TOLD").is_some() {
                eprintln!("{info}");
            }
        } else {
            fault(info);
        }
    }));
}

/// What members really send, noted on the way.
#[derive(Default)]
struct Net {
    members: Mutex<HashMap<u64, Db>>,
    sent: Mutex<Vec<Bytes>>,
}

struct Plug(Arc<Net>);

impl Transport for Plug {
    fn call(&self, to: u64, request: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.0.sent.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            let there = self.0.members.lock().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
            there.ok_or_else(|| Error::unavailable("not there"))?.serve(request).await
        })
    }
}

/// Writes what three members send each other while they form a database, write, and change leaders into the corpus.
pub fn record() -> std::io::Result<()> {
    let net = Arc::new(Net::default());
    RUNTIME.block_on(exchange(&net)).map_err(std::io::Error::other)?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/raft");
    std::fs::create_dir_all(&dir)?;
    let sent = net.sent.lock().unwrap_or_else(PoisonError::into_inner);
    // Two of each kind: what distinguishes the rest is found by changing them.
    let mut known: HashMap<(u8, usize), usize> = HashMap::new();
    for letter in sent.iter().map(|l| anonymous(l)).filter(|l| l.len() < 16 << 10) {
        let seen = known.entry((letter.get(2).copied().unwrap_or(0), letter.len() / 64)).or_default();
        *seen += 1;
        if *seen <= 2 {
            let name = format!("sent-{:02}-{:05}-{seen}", letter.get(2).copied().unwrap_or(0), letter.len());
            std::fs::write(dir.join(name), letter)?;
        }
    }
    Ok(())
}

/// A request as one that comes from who holds no database yet: the other member answers it whichever database it has.
fn anonymous(letter: &[u8]) -> Vec<u8> {
    let end_of_number = |from: usize| from + letter[from..].iter().take_while(|b| **b & 0x80 != 0).count() + 1;
    let from = end_of_number(0);
    [&letter[..from], &[0], &letter[end_of_number(from)..]].concat()
}

async fn exchange(net: &Arc<Net>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut all = Vec::new();
    for id in 1..=3 {
        let options = Options::new(dir.path().join(id.to_string()), id, SCHEMA);
        std::fs::create_dir_all(&options.dir)?;
        let db = Db::open(options, Arc::new(Plug(net.clone()))).await?;
        net.members.lock().unwrap_or_else(PoisonError::into_inner).insert(id, db.clone());
        all.push(db);
    }
    let first = &all[0];
    first.bootstrap().await?;
    for id in 2..=3 {
        first.change(Change::AddLearner(id)).await?;
    }
    first.change(Change::Voters(vec![1, 2, 3])).await?;
    for (number, db) in all.iter().enumerate() {
        db.wait_for(|status| status.leader.is_some()).await?;
        db.write(move |tx| db::config::set(tx, &format!("user.{number}"), Some("a value"))).await?;
        db.read_barrier().await?;
        db.content_hash().await?;
        db.copy().await?;
    }
    first.hand_over(2).await?;
    all[1].wait_for(|status| status.leader == Some(2)).await?;
    all[2].write(|tx| db::config::set(tx, "user.x", Some("y"))).await?;
    all[1].change(Change::Remove(1)).await?;
    for db in all {
        db.shutdown().await?;
    }
    Ok(())
}

/// A changeset, on a replica of its own.
pub fn changeset(input: &[u8]) {
    static REPLICA: LazyLock<Mutex<Rehearsal>> = LazyLock::new(|| Mutex::new(Rehearsal::new().expect("a replica")));
    let _ = REPLICA.lock().unwrap_or_else(PoisonError::into_inner).apply(input);
}

/// Changesets of all sorts.
pub fn changeset_seeds() -> Vec<Vec<u8>> {
    let replica = Rehearsal::new().expect("a replica");
    [
        "INSERT INTO config (key, value) VALUES ('user.a', 'b'), ('user.c', NULL)",
        "UPDATE profiles SET description = 'other'; DELETE FROM profiles",
        "INSERT INTO nodes (name, description, address, schema, api_extensions, heartbeat, arch) VALUES ('a', '', 'b', 1, 2, 0, 1)",
        "INSERT INTO _raft VALUES ('standing', x'00')",
        "UPDATE config SET value = zeroblob(3000); DELETE FROM nodes",
    ]
    .iter()
    .filter_map(|sql| replica.changes(sql).ok())
    .filter(|changes| !changes.is_empty())
    .collect()
}
