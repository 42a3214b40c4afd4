//! Work that blocks, on a thread where it may.

use api::{Error, Result};

/// Runs it there; if it panics that is an error.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("It crashed: {e}")))?
}
