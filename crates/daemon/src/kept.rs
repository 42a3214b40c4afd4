//! What was read from the database and is asked for often, kept in memory until the database changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was read from one [revision](db::Db::revision) of the database, by what was asked for.
pub struct Kept<K, T>(Mutex<(u64, HashMap<K, Arc<T>>)>);

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Kept(Mutex::new((0, HashMap::new())))
    }
}

impl<K: Eq + Hash, T> Kept<K, T> {
    fn at(&self, revision: u64) -> MutexGuard<'_, (u64, HashMap<K, Arc<T>>)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != revision {
            *kept = (revision, HashMap::new());
        }
        kept
    }

    /// What was read from that revision, if anything was.
    pub fn get(&self, revision: u64, key: &K) -> Option<Arc<T>> {
        self.at(revision).1.get(key).cloned()
    }

    /// Keeps what was read from that revision.
    pub fn put(&self, revision: u64, key: K, value: Arc<T>) {
        self.at(revision).1.insert(key, value);
    }

    /// Gives back the memory of what was read from other revisions.
    pub fn forget_unless(&self, revision: u64) {
        drop(self.at(revision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_from_another_revision_is_not_shown() {
        let kept = Kept::default();
        assert_eq!(kept.get(7, &"a"), None);
        kept.put(7, "a", Arc::new(1));
        assert_eq!((kept.get(7, &"a").as_deref(), kept.get(7, &"b")), (Some(&1), None));
        assert_eq!(kept.get(8, &"a"), None);
        kept.put(8, "a", Arc::new(2));
        assert_eq!(kept.get(8, &"a").as_deref(), Some(&2));
        let held = kept.get(8, &"a").unwrap();
        kept.forget_unless(9);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
