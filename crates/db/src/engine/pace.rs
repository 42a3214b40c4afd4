//! How often a member without a vote is told of changes.
//!
//! Nobody waits for what such a member has written, and there may be many of them: told of each entry, and once more that it
//! counts, they would cost the leader more than those who vote. They are told of what there is at that time, some times a
//! second; at once if they need it, since they read or write themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Time between two requests with entries to the same member.
const PAUSE: Duration = Duration::from_millis(50);

/// The pace of each member that this one has talked to.
#[derive(Clone, Default)]
pub(super) struct Paces(Arc<Mutex<HashMap<u64, Arc<Pace>>>>);

impl Paces {
    /// That of member `id`.
    pub fn of(&self, id: u64) -> Arc<Pace> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(id).or_default())
    }

    /// All of them need the entry `index`.
    pub fn all_need(&self, index: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|pace| pace.needs(index));
    }
}

/// How far one member has been told, and whether it waits.
#[derive(Default)]
pub(super) struct Pace {
    counts: AtomicU64,
    told: AtomicU64,
    needed: Notify,
}

impl Pace {
    /// The member is being told that entries up to `index` count; it may lack some of them.
    pub fn telling(&self, index: u64) {
        self.counts.fetch_max(index, Ordering::SeqCst);
    }

    /// The member has the entries up to `index`, and knows that they count.
    pub fn told(&self, index: u64) {
        self.told.fetch_max(index, Ordering::SeqCst);
    }

    /// The member waits for the entry `index`: it is told at once, if it does not know.
    pub fn needs(&self, index: u64) {
        if self.told.load(Ordering::SeqCst) < index {
            self.needed.notify_one();
        }
    }

    /// Waits until it is told again. One that has fallen behind is told without a pause.
    pub async fn turn(&self) {
        if self.told.load(Ordering::SeqCst) >= self.counts.load(Ordering::SeqCst) {
            let _ = tokio::time::timeout(PAUSE, self.needed.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_need_it_waits_and_who_does_is_told_at_once() {
        let pace = Paces::default().of(2);
        for _ in 0..2 {
            let began = Instant::now();
            pace.telling(5);
            pace.turn().await;
            assert_eq!(began.elapsed(), Duration::ZERO, "it lacks some");
            pace.told(4);
        }
        pace.told(5);
        for (index, at_once) in [(5, false), (6, true), (4, false), (u64::MAX, true)] {
            let (waiting, began) = (pace.clone(), Instant::now());
            let turn = tokio::spawn(async move { waiting.turn().await });
            tokio::task::yield_now().await;
            pace.needs(index);
            turn.await.unwrap();
            assert_eq!(began.elapsed() < PAUSE, at_once, "{index}");
        }
    }
}
