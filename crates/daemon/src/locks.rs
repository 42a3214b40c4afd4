//! Locks by path: whoever changes what lies there does so alone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Locks = Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>;
static LOCKS: LazyLock<Locks> = LazyLock::new(Locks::default);

/// Waits until nobody else holds the lock of that path, and holds it until the guard goes.
pub async fn hold(path: PathBuf) -> OwnedMutexGuard<()> {
    let one = {
        let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let entry = locks.entry(path).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *entry = Arc::downgrade(&fresh);
            fresh
        })
    };
    one.lock_owned().await
}
