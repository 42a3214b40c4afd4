//! Work that blocks, on a thread where it may.

use api::{Error, Result};
use tokio::sync::oneshot;

/// Runs it there; if it panics that is an error.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (answer, result) = oneshot::channel();
    // To tokio all work is of one type: what it makes of each is in the program only once.
    let work: Box<dyn FnOnce() + Send> = Box::new(move || drop(answer.send(work())));
    let crashed = |e: &dyn std::fmt::Display| Error::internal(format!("It crashed: {e}"));
    tokio::task::spawn_blocking(work).await.map_err(|e| crashed(&e))?;
    result.await.map_err(|e| crashed(&e))?
}
