//! Reading the replica: a few connections, and one question to the leader for all who wait.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::ENDING;
use super::runtime::blocking;
use crate::tx::{Tx, failed};

/// Connections: so many reads run at the same time.
const CONNECTIONS: u32 = 4;

/// Reads of one replica.
pub(super) struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
    barrier: AsyncMutex<()>,
    /// Number of the last barrier that was begun, and the result of the last that ended.
    begun: Mutex<u64>,
    ended: Mutex<(u64, Option<Result<()>>)>,
}

impl Reader {
    /// Reads of the replica in the file `path`.
    pub fn new(path: &Path) -> Reader {
        Reader {
            path: path.to_owned(),
            idle: Mutex::default(),
            turns: Arc::new(Semaphore::new(CONNECTIONS as usize)),
            barrier: AsyncMutex::default(),
            begun: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Runs a closure on the replica as it is, on a blocking thread; all it reads is of one moment.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let broken = |e: &dyn std::fmt::Display| Error::internal(format!("Reading the database: {e}"));
        let closed = |_| Error::unavailable("The database is shutting down");
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(closed)?;
        let reader = Arc::clone(self);
        let read = move || {
            let result = reader.run_here(f);
            drop(turn);
            result
        };
        blocking(read).await.map_err(|e| broken(&e))?
    }

    fn run_here<T>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.connect(), Ok).map_err(failed)?;
        connection.execute_batch("BEGIN").map_err(failed)?;
        let result = f(&Tx(&connection));
        connection.execute_batch("COMMIT").map_err(failed)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.turns.is_closed() {
            idle.push(connection);
        }
        result
    }

    /// Waits until the reads that run have ended, though not for ever for one that hangs, and refuses those that come
    /// later: nobody has the replica open here any more.
    pub async fn close(&self) {
        let all = tokio::time::timeout(ENDING, self.turns.acquire_many(CONNECTIONS)).await;
        if all.is_err() {
            tracing::warn!("the database is closed, though somebody has been reading it for {} s", ENDING.as_secs());
        }
        // Before the turns are given back: nobody who waits is to have one.
        self.turns.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = blocking(move || drop(idle)).await;
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -512;")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    /// Asks the leader once for all callers that wait: whoever arrives while a question is under way waits for
    /// the next one, since the answer to the first may be older than its call.
    pub async fn barrier<Fut: Future<Output = Result<()>>>(&self, ask: impl FnOnce() -> Fut) -> Result<()> {
        let needed = *self.begun.lock().unwrap_or_else(PoisonError::into_inner) + 1;
        let _turn = self.barrier.lock().await;
        if let (ended, Some(result)) = &*self.ended.lock().unwrap_or_else(PoisonError::into_inner)
            && *ended >= needed
        {
            return result.clone();
        }
        let number = {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            *begun += 1;
            *begun
        };
        let result = ask().await;
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = (number, Some(result.clone()));
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_share_one_question() {
        let reader = Arc::new(Reader::new(Path::new("unused")));
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = |reader: Arc<Reader>, asked: Arc<AtomicUsize>| async move {
            let question = || async {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(())
            };
            reader.barrier(question).await
        };
        let all: Vec<_> = (0..50).map(|_| tokio::spawn(ask(reader.clone(), asked.clone()))).collect();
        for one in all {
            assert_eq!(one.await.unwrap(), Ok(()));
        }
        assert!(asked.load(Ordering::SeqCst) <= 2, "one for the first, one for all who came while it was under way");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_those_who_read_and_not_for_ever_for_one_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.bin");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n)").unwrap();
        let refused = |e: Error| (e.kind, e.message);
        let shut = (api::Kind::Unavailable, "The database is shutting down".to_owned());
        for hangs in [false, true] {
            let reader = Arc::new(Reader::new(&path));
            let (begun, at) = tokio::sync::oneshot::channel();
            let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
            let reads = reader.clone();
            let reading = tokio::spawn(async move {
                let read = move |_: &Tx<'_>| {
                    let _ = begun.send(());
                    let _ = goes_on.recv();
                    Ok(1)
                };
                reads.run(read).await
            });
            at.await.unwrap();
            let closing = tokio::spawn({
                let reader = reader.clone();
                async move { reader.close().await }
            });
            tokio::task::yield_now().await;
            let late = tokio::spawn({
                let reader = reader.clone();
                async move { reader.run(|_| Ok(2)).await }
            });
            assert!(!closing.is_finished(), "somebody is still reading");
            if hangs {
                tokio::time::advance(ENDING).await;
                closing.await.unwrap();
                drop(go_on);
                assert_eq!(reading.await.unwrap(), Ok(1));
            } else {
                drop(go_on);
                assert_eq!(reading.await.unwrap(), Ok(1));
                closing.await.unwrap();
            }
            assert_eq!(refused(late.await.unwrap().unwrap_err()), shut);
            assert_eq!(refused(reader.run(|_| Ok(3)).await.unwrap_err()), shut);
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let open =
                open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).find(|file| file.starts_with(dir.path()));
            assert_eq!(open, None, "somebody has it open");
        }
    }
}
