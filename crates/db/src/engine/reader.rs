//! Reading the replica: a few connections, and one question to the leader for all who wait.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::runtime::blocking;
use crate::tx::{Tx, failed};

/// Connections: so many reads run at the same time.
const CONNECTIONS: usize = 4;

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
            turns: Arc::new(Semaphore::new(CONNECTIONS)),
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
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|e| broken(&e))?;
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
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
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
}
